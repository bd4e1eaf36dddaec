"""Verify the key of a host against the known_hosts files. Each error names the remedy.

The kind of a key is its algorithm, such as ssh-ed25519.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ..errors import RemoteError
from .addresses import NAME, Address

__all__ = ["check_host_key", "known_keys", "preferred_kinds"]

RSA = ("rsa-sha2-512", "rsa-sha2-256")
AUTHORITY, REVOKED = "@cert-authority", "@revoked"


@dataclass(frozen=True)
class KnownKey:
    """A line of a known_hosts file, with one key of a host."""

    file: Path
    line: int
    marker: str  # "", "@revoked" or "@cert-authority"
    kind: str
    key: bytes

    @property
    def where(self) -> str:
        """The position of the line, as `file:line`."""
        return f"{self.file}:{self.line}"


def known_keys(address: Address, name: str | None = None) -> list[KnownKey]:
    """Return the lines for the host `name` in the known_hosts files of `address`.

    The default name is `address.known_as`, under which ssh stores the host's key.
    """
    return [known for file in address.known_files for known in _lines(file, name or address.known_as)]


def preferred_kinds(address: Address, kinds: Sequence[str]) -> Sequence[str]:
    """Return the kinds of host keys to request from a host, in order of preference.

    `kinds` are the supported kinds. Kinds that HostKeyAlgorithms does not allow are left out. The kinds of the host's keys in
    known_hosts come first.
    """
    allowed = dict(address.allowed).get("HostKeyAlgorithms", kinds)
    lines = known_keys(address) or (known_keys(address, address.bare_name) if address.bare_name else [])
    known = {kind for each in lines if not each.marker for kind in (RSA if each.kind == "ssh-rsa" else (each.kind,))}
    return tuple(sorted((kind for kind in kinds if kind in allowed), key=lambda kind: kind not in known))


def check_host_key(address: Address, key: paramiko.PKey, peer: str = "") -> None:
    """Raise RemoteError, with a remedy, if `key`, the host's key, is not trusted.

    `peer` is the host's IP address, or "" if it is unknown. If CheckHostIP is set, and known_hosts has lines for this IP
    address, the key must match one of these lines, too.
    """
    known = known_keys(address)
    shown = f"{key.get_name().removeprefix('ssh-')} key {key.fingerprint}"
    where = f"{address.host} port {address.port}"
    _check_revoked(address, key, known, f"{address.name}: {where} shows the {shown}")
    if key.get_name() == "ssh-rsa" and key.get_bits() < address.least_rsa:
        raise RemoteError(
            f"{address.name}: the host key of {where} has {key.get_bits()} bits, RequiredRSASize asks for {address.least_rsa}: "
            "make a larger one there"
        )
    plain = [each for each in known if not each.marker]
    trusted = any(each.key == key.asbytes() for each in plain)
    if not plain and address.bare_name:
        bare = known_keys(address, address.bare_name)
        _check_revoked(address, key, bare, f"{address.name}: {where} shows the {shown}")
        trusted = any(each.key == key.asbytes() for each in bare if not each.marker)
    if plain and not trusted:
        raise RemoteError(
            f"{address.name}: the host key of {where} has changed: it shows the {shown}, {plain[0].where} says another. "
            "Somebody may be in between; if the machine was set up again, remove what is known by "
            f"`{_removing(address, plain[0])}`"
        )
    if not trusted:
        raise RemoteError(
            f"{address.name}: the host key of {where} is unknown: it shows the {shown}. Compare that with `ssh-keygen -lf` of "
            f"/etc/ssh/ssh_host_{_kind(key)}_key.pub there, and {_accepting(address, key)}{_unfollowed(address, known)}"
        )
    _check_ip(address, key, peer, where)


def _check_revoked(address: Address, key: paramiko.PKey, known: Sequence[KnownKey], shows: str) -> None:
    for each in known:
        if each.marker == REVOKED and each.key == key.asbytes():
            raise RemoteError(f"{shows}, which {each.where} revokes: do not connect to it")
    for file in address.revoked:
        try:
            content = file.read_bytes()
        except OSError as error:  # as in OpenSSH, no host is trusted if the list is unreadable
            raise RemoteError(
                f"{address.name}: RevokedHostKeys {file} cannot be read ({error.strerror}): correct it, or set it to none"
            ) from error
        if content.startswith(b"SSHKRL\n"):
            raise RemoteError(
                f"{address.name}: RevokedHostKeys {file} is a binary revocation list, which is not read here: "
                "name a file of public keys instead"
            )
        if base64.b64encode(key.asbytes()) in content.split():
            raise RemoteError(f"{shows}, which {file} revokes: do not connect to it")


def _check_ip(address: Address, key: paramiko.PKey, peer: str, where: str) -> None:
    if not address.check_ip or not peer or address.jumps or peer == address.host or ipaddress.ip_address(peer).is_loopback:
        return
    name = peer if address.port == 22 else f"[{peer}]:{address.port}"
    known = [each for each in known_keys(address, name) if not each.marker]
    if known and not any(each.key == key.asbytes() for each in known):
        raise RemoteError(
            f"{address.name}: the host key of {where} is known, but {known[0].where} says another for its address {peer} "
            f"(CheckHostIP): does the name lead to another machine now? If it should, `{_removing(address, known[0], name)}`"
        )


def _kind(key: paramiko.PKey) -> str:
    return key.get_name().removeprefix("ssh-").split("-")[0]


def _removing(address: Address, line: KnownKey, name: str = "") -> str:
    return f"ssh-keygen -R '{name or address.known_as}' -f {shlex.quote(str(line.file))}"


def _accepting(address: Address, key: paramiko.PKey) -> str:
    if address.known_file is None:
        named = next((str(file) for file in address.known_files[:1]), "none")
        return f"name a file that can keep it: UserKnownHostsFile {named} keeps no key"
    if address.jumps or address.alias or address.known_as not in (address.host, f"[{address.host}]:{address.port}"):
        words = ["ssh", *([] if address.asks else ["-o", "StrictHostKeyChecking=ask"])]  # ssh-keyscan supports no jumps
        words += ["-F", str(address.config)] if address.config else []
        port = (NAME.fullmatch(address.name) or {"port": None})["port"]
        words += ["-p", port] if port else []
        return f"accept it by `{shlex.join([*words, address.name.removesuffix(f':{port}')])}`"
    file, folder = shlex.quote(str(address.known_file)), address.known_file.parent
    making = "" if folder.is_dir() else f"mkdir -p -m 700 {shlex.quote(str(folder))} && "
    return f"accept it by `{making}ssh-keyscan -p {address.port} -t {_kind(key)} {address.host} >> {file}`"


def _unfollowed(address: Address, known: Sequence[KnownKey]) -> str:
    reasons = [f"{setting} is not followed, host keys are always checked" for setting in address.looser]
    authority = next((each for each in known if each.marker == AUTHORITY), None)
    if authority is not None:
        reasons.append(f"the certificate authority of {authority.where} is not followed: its host needs a line of its own")
    return "".join(f" ({reason})" for reason in reasons)


def _lines(file: Path, name: str) -> Iterator[KnownKey]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise RemoteError(f"the host keys in {file} cannot be read ({error.strerror}): correct its permissions") from error
    for number, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or line.lstrip().startswith("#") or marker not in ("", REVOKED, AUTHORITY):
            continue
        if _names(fields[0], name):
            try:
                yield KnownKey(file, number, marker, fields[1], base64.b64decode(fields[2], validate=True))
            except (binascii.Error, ValueError):
                continue


def _names(patterns: str, name: str) -> bool:
    if patterns.startswith("|"):
        return _hashed(patterns, name)
    found = False
    for pattern in patterns.split(","):
        letters = pattern.removeprefix("!")
        expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in letters)
        if re.fullmatch(expression, name, re.IGNORECASE):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hashed(pattern: str, name: str) -> bool:
    try:
        _, version, salt, digest = pattern.split("|")
        key, expected = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        return False
    return version == "1" and hmac.compare_digest(hmac.new(key, name.encode(), hashlib.sha1).digest(), expected)
