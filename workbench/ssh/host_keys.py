"""Whom one trusts: the host keys in known_hosts files, and what a user can do about one that is not among them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ..errors import RemoteError
from .addresses import Address

__all__ = ["check_host_key", "known_keys", "preferred_kinds"]

RSA = ("rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True)
class KnownKey:
    """A line of a known_hosts file."""

    file: Path
    line: int
    marker: str  # "", or "@revoked"
    kind: str
    key: bytes

    @property
    def where(self) -> str:
        """The file and the line."""
        return f"{self.file}:{self.line}"


def known_keys(address: Address) -> list[KnownKey]:
    """Return what the known_hosts files say about a machine. Authorities of host certificates are not followed."""
    return [known for file in address.known_files for known in _lines(file, address.known_as)]


def preferred_kinds(address: Address, kinds: Sequence[str]) -> Sequence[str]:
    """Return kinds of keys, those first that are known: a server that has several is to show one of these."""
    known = {kind for each in known_keys(address) for kind in (RSA if each.kind == "ssh-rsa" else (each.kind,))}
    return tuple(sorted(kinds, key=lambda kind: kind not in known))


def check_host_key(address: Address, key: paramiko.PKey) -> None:
    """Raise RemoteError, with what a user can do, unless a machine's key is known."""
    known = known_keys(address)
    same = [each for each in known if each.key == key.asbytes()]
    shown = f"{key.get_name().removeprefix('ssh-')} key {key.fingerprint}"
    where = f"{address.host} port {address.port}"
    if revoked := [each for each in same if each.marker == "@revoked"]:
        raise RemoteError(f"{address.name}: {where} shows the {shown}, which {revoked[0].where} revokes: do not connect to it")
    others = [each for each in known if each.marker != "@revoked"]
    if any(each in others for each in same):
        return
    if others:
        raise RemoteError(
            f"{address.name}: the host key of {where} has changed: it shows the {shown}, {others[0].where} says another. "
            f"Somebody may be in between; if the machine was set up anew, remove what is known by "
            f"`ssh-keygen -R '{address.known_as}' -f {others[0].file}`"
        )
    raise RemoteError(
        f"{address.name}: the host key of {where} is unknown: it shows the {shown}. Compare that with `ssh-keygen -lf` of "
        f"{_key_file(key)} there, and accept it by `{_accepting(address, key)}`"
    )


def _accepting(address: Address, key: paramiko.PKey) -> str:
    """Return the command that accepts a machine's key."""
    if address.jumps or not address.known_as.endswith((address.host, f"[{address.host}]:{address.port}")):
        return address.command  # a scan would not go the same way, or note another name
    kind = key.get_name().removeprefix("ssh-").split("-")[0]
    file = address.known_files[0] if address.known_files else "~/.ssh/known_hosts"
    return f"ssh-keyscan -p {address.port} -t {kind} {address.host} >> {file}"


def _key_file(key: paramiko.PKey) -> str:
    return f"/etc/ssh/ssh_host_{key.get_name().removeprefix('ssh-').split('-')[0]}_key.pub"


def _lines(file: Path, name: str) -> Iterator[KnownKey]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RemoteError(f"the host keys in {file} cannot be read ({error.strerror}): correct its permissions") from error
    for number, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or line.lstrip().startswith("#") or marker not in ("", "@revoked"):
            continue
        if _names(fields[0], name):
            try:
                yield KnownKey(file, number, marker, fields[1], base64.b64decode(fields[2], validate=True))
            except (binascii.Error, ValueError):
                continue


def _names(patterns: str, name: str) -> bool:
    """Return whether the first field of a line is about a name: plain, hashed, with * and ?, or !not."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            found = found or _hashed(pattern, name)
        elif _matches(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hashed(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in pattern.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _matches(pattern: str, name: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, name, re.IGNORECASE) is not None
