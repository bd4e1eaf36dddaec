"""Read the user's private keys, in the order in which OpenSSH offers them to a host.

The agent is the SSH agent: a process that keeps private keys and signs with them.

::

    CertificateFile -> agent's keys that IdentityFile names -> the agent's other keys, unless IdentitiesOnly -> plain files
                    -> encrypted files, whose passphrase the user types once
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import getpass
import io
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from paramiko.agent import AgentKey, AgentSSH
from paramiko.pkey import PublicBlob

from ..errors import RemoteError
from .addresses import Address

__all__ = ["Ask", "Keyring", "ask_terminal"]

TRIES = 3  # attempts to type a passphrase
AGENT_S = 30.0  # limit for an agent's response, because it may ask its user to confirm
CERTIFICATE = "-cert-v01@openssh.com"
MAGIC = b"openssh-key-v1\0"

Ask = Callable[[str], str]  # shows a prompt, returns what was typed
Offer = tuple[str, paramiko.PKey]


class _SealedError(Exception):
    """Raised if a key file is encrypted and the passphrase is missing or wrong."""


def ask_terminal(prompt: str) -> str:
    """Show `prompt` on the terminal, and return the passphrase that the user types. Raises EOFError without a terminal."""
    if not sys.stdin.isatty():
        raise EOFError
    return getpass.getpass(prompt)


@dataclass
class Keyring:
    """A cache of the user's private keys. The repr shows no key.

    `ask` shows a prompt and returns the passphrase that the user types. Decrypted keys are cached, so the user types each
    passphrase once.
    """

    ask: Ask = ask_terminal
    _keys: dict[Path, paramiko.PKey] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def offers(self, address: Address, problems: list[str]) -> Generator[Offer, None, None]:
        """Yield the keys to offer to the host `address`, in order, as tuples (label, key). A label names the key in messages.

        For each unusable key, the reason is added to `problems`. Raises RemoteError if the user gives no valid passphrase for
        an encrypted key.
        """
        with contextlib.closing(_Agent(address.agent, problems)) as agent:
            offered: set[bytes] = set()
            for label, key in self._ordered(address, agent, problems):
                blob = key.public_blob.key_blob if key.public_blob else key.asbytes()
                if blob not in offered and _accepted(address, key, label, problems):
                    offered.add(blob)
                    yield label, key

    def _ordered(self, address: Address, agent: _Agent, problems: list[str]) -> Iterator[Offer]:
        halves = {path: half for path in address.keys if (half := _public_half(path)) is not None}
        sealed: dict[Path, None] = {}
        files: list[Offer] = []
        for path in address.keys:
            try:
                if (key := self._read(path, None, problems)) is not None:
                    files.append((str(path), key))
                    halves.setdefault(path, key.asbytes())
            except _SealedError:
                sealed[path] = None
        named = [(f"the agent's {_label(key)}", key) for key in agent.keys if key.asbytes() in halves.values()]
        others = [(f"the agent's {_label(key)}", key) for key in agent.keys if key.asbytes() not in halves.values()]
        for certificate in address.certificates:
            yield from _certified(certificate, [*named, *others, *files], problems)
        held = {key.asbytes() for key in agent.keys}
        for offers in (named, () if address.identities_only else others, files):
            for label, key in offers:
                if not address.certificates:
                    yield from _default_certificate(label, key, halves)
                if offers is not files or key.asbytes() not in held:
                    yield label, key
        for path in sealed:
            if halves.get(path) not in held:
                key = self._unseal(path, address.name)
                for certificate in address.certificates or (Path(f"{path}-cert.pub"),):
                    yield from _certified(certificate, [(str(path), key)], problems if address.certificates else [])
                yield str(path), key
        read = {key.asbytes() for _, key in files}
        for path, half in halves.items():
            if path not in sealed and half not in read | held and not any(str(path) in problem for problem in problems):
                problems.append(f"the private half of {path} is neither in a file nor in the agent")

    def _read(self, path: Path, passphrase: str | None, problems: list[str]) -> paramiko.PKey | None:
        if path in self._keys:
            return self._keys[path]
        try:
            content = path.read_bytes()
            state = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
            return None
        if b"PRIVATE KEY" not in content:
            if _blob_of(content) is None:
                problems.append(f"{path} cannot be read: it holds no private key")
            return None
        if state.st_uid == os.getuid() and state.st_mode & 0o077:  # as in OpenSSH
            problems.append(f"{path} is open to other users: `chmod 600 {path}`")
            return None
        try:
            key = _parse(content, passphrase)
        except (UnsupportedAlgorithm, ValueError, paramiko.SSHException, NotImplementedError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
            problems.append(f"{path} cannot be read: {reason[:120]}")
            return None
        self._keys[path] = key
        return key

    def _unseal(self, path: Path, name: str) -> paramiko.PKey:
        with self._lock:
            for left in range(TRIES, 0, -1):
                if path in self._keys:
                    return self._keys[path]
                try:
                    passphrase = self.ask(f"Passphrase of {path}, for {name} ({left} tries): ")
                except (EOFError, KeyboardInterrupt):
                    raise RemoteError(
                        f"{name}: the key {path} is encrypted and nobody can be asked for its passphrase: "
                        f"`ssh-add {path}` first, or launch from a terminal"
                    ) from None
                with contextlib.suppress(_SealedError):
                    if passphrase and (key := self._read(path, passphrase, [])) is not None:
                        return key
        raise RemoteError(
            f"{name}: {TRIES} passphrases did not open the key {path}: see which it has by `ssh-keygen -y -f {path}`"
        )


def _parse(content: bytes, passphrase: str | None) -> paramiko.PKey:
    load = serialization.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in content else serialization.load_pem_private_key
    try:
        private = load(content, passphrase.encode() if passphrase else None)
    except TypeError as error:  # encrypted, and no passphrase
        raise _SealedError from error
    except ValueError as error:
        if passphrase:
            raise _SealedError from error
        raise
    plain = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()
    name = _blob_name(_openssh_half(plain.encode()) or b"")
    for kind in (paramiko.Ed25519Key, paramiko.RSAKey, paramiko.ECDSAKey):
        if name in kind.identifiers():
            return kind.from_private_key(io.StringIO(plain))
    raise ValueError(f"keys of the kind {name} are not supported")


def _public_half(path: Path) -> bytes | None:
    for file in (path, Path(f"{path}.pub")):
        with contextlib.suppress(OSError):
            content = file.read_bytes()
            if (blob := _openssh_half(content) or _blob_of(content)) is not None:
                return blob
    return None


def _openssh_half(content: bytes) -> bytes | None:
    # In OpenSSH's format, a private key's file also contains the public key, which is never encrypted.
    if b"OPENSSH PRIVATE KEY" not in content:
        return None
    with contextlib.suppress(binascii.Error, struct.error, ValueError, IndexError):
        data = base64.b64decode(b"".join(line for line in content.splitlines() if b"-----" not in line))
        if data.startswith(MAGIC):
            message = paramiko.Message(data[len(MAGIC) :])
            for _ in range(3):  # cipher, key derivation, its options
                message.get_binary()
            message.get_int()
            return message.get_binary()
    return None


def _blob_of(content: bytes) -> bytes | None:
    for line in content.splitlines():
        fields = line.split()
        if len(fields) > 1 and not line.startswith(b"#"):
            with contextlib.suppress(binascii.Error, ValueError):
                blob = base64.b64decode(fields[1], validate=True)
                return blob if _blob_name(blob).encode() == fields[0] else None
    return None


def _blob_name(blob: bytes) -> str:
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length].decode("ascii", "replace")


def _uncertified(certificate: bytes) -> bytes:
    # In a certificate, the fields of the public key follow the type's name and the nonce.
    name = _blob_name(certificate).removesuffix(CERTIFICATE)
    message = paramiko.Message(certificate)
    message.get_binary(), message.get_binary()
    fields = [name.encode(), *(message.get_binary() for _ in range(1 if name == "ssh-ed25519" else 2))]
    return b"".join(len(part).to_bytes(4, "big") + part for part in fields)


def _label(key: AgentKey) -> str:
    return key.comment or key.get_name()


def _certified(file: Path, offers: list[Offer], problems: list[str]) -> Iterator[Offer]:
    try:
        blob = _blob_of(file.read_bytes())
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror}")
        return
    if blob is None or CERTIFICATE not in _blob_name(blob):
        problems.append(f"{file} holds no certificate")
        return
    certified = _uncertified(blob)
    for label, key in offers:
        if key.asbytes() == certified and key.public_blob is None:
            with_certificate = copy.copy(key)
            with_certificate.public_blob = PublicBlob(type_=_blob_name(blob), blob=blob)
            yield f"{label} with {file}", with_certificate
            return
    problems.append(f"{file} certifies a key that is not here")


def _default_certificate(label: str, key: paramiko.PKey, halves: dict[Path, bytes]) -> Iterator[Offer]:
    for path, half in halves.items():
        if half == key.asbytes() and Path(f"{path}-cert.pub").is_file():
            yield from _certified(Path(f"{path}-cert.pub"), [(label, key)], [])


def _accepted(address: Address, key: paramiko.PKey, label: str, problems: list[str]) -> bool:
    name = key.public_blob.key_type if key.public_blob else key.get_name()
    names = {name}
    if name.startswith("ssh-rsa"):
        names = {f"rsa-sha2-{size}{name.removeprefix('ssh-rsa')}" for size in (256, 512)}
    if address.key_kinds and not names & set(address.key_kinds):
        problems.append(f"{label} is of a kind that PubkeyAcceptedAlgorithms leaves out")
        return False
    if name.startswith("ssh-rsa") and key.get_bits() < address.least_rsa:
        problems.append(f"{label} has {key.get_bits()} bits, RequiredRSASize asks for {address.least_rsa}")
        return False
    return True


class _Agent(AgentSSH):
    """A client of the SSH agent at the socket `path`.

    If the agent does not respond, `keys` is empty, and the reason is added to `problems`.
    """

    def __init__(self, path: str | None, problems: list[str]) -> None:
        super().__init__()
        self._problems = problems
        if path is None:
            return
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(AGENT_S)
        try:
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]  # missing in paramiko's stubs
        except (OSError, paramiko.SSHException, UnicodeError) as error:
            connection.close()
            problems.append(f"the agent at {path} does not answer ({getattr(error, 'strerror', None) or error})")

    @property
    def keys(self) -> list[_AgentKey]:
        return [_AgentKey(self, key.blob, key.comment, self._problems) for key in self.get_keys()]

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


class _AgentKey(AgentKey):
    """A key in the SSH agent. If the agent refuses to sign, the signature is empty, so the host rejects the key."""

    def __init__(self, agent: _Agent, blob: bytes, comment: str, problems: list[str]) -> None:
        super().__init__(agent, blob, comment)
        self._holder, self._problems = agent, problems

    def __copy__(self) -> _AgentKey:  # AgentKey's own __getattr__ would recurse without end
        return _AgentKey(self._holder, self.blob, self.comment, self._problems)

    def sign_ssh_data(self, data: Any, algorithm: str | None = None) -> Any:
        try:
            return super().sign_ssh_data(data, algorithm)
        except (paramiko.SSHException, OSError):
            self._problems.append(f"the agent refuses to sign with {_label(self)}")
            return b""
