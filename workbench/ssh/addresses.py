"""Where a machine's name leads: `user@host:port`, or an alias of ~/.ssh/config, hop by hop."""

from __future__ import annotations

import getpass
import glob
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ..errors import RemoteError

__all__ = ["Address", "route"]

CONNECT_S = 15.0
MOST_HOPS = 8
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
NAME = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^@:\[\]\s]+))(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class Address:
    """One hop: where it is, whose keys it may show, and which keys may be shown to it."""

    name: str  # as its user gave it
    host: str
    port: int
    user: str
    known_as: str  # in known_hosts
    known_files: tuple[Path, ...]
    keys: tuple[Path, ...]
    agent: bool
    jumps: tuple[str, ...]
    timeout: float  # in seconds, of a connection being made
    config: Path | None = None  # where it stands, where that is not ~/.ssh/config

    @property
    def command(self) -> str:
        """The command line by which OpenSSH goes the same way."""
        file = f"-F {shlex.quote(str(self.config))} " if self.config else ""
        named = NAME.fullmatch(self.name)
        port = f"-p {named['port']} " if named and named["port"] else ""
        return f"ssh {file}{port}{self.name.removesuffix(':' + named['port']) if named and named['port'] else self.name}"


def route(name: str, config: Path | None) -> list[Address]:
    """Return the hops to a machine, itself the last. Raises RemoteError for a name or a configuration that cannot be read."""
    return _route(name, _read(config), config, (), 0)


def _route(name: str, read: paramiko.SSHConfig, config: Path | None, jumps: Sequence[str], depth: int) -> list[Address]:
    """As OpenSSH does: the last jump leads on, and is reached by those before it or, without any, by its own configuration."""
    if depth > MOST_HOPS:
        raise RemoteError(f"{name}: ProxyJump leads through more than {MOST_HOPS} hops: does it lead back to itself?")
    address = _resolve(name, read, config)
    jumps = jumps or address.jumps
    if not jumps:
        return [address]
    return [*_route(jumps[-1], read, config, jumps[:-1], depth + 1), address]


def _resolve(name: str, read: paramiko.SSHConfig, config: Path | None) -> Address:
    given = NAME.fullmatch(name.removeprefix("ssh://").rstrip("/"))
    if given is None:
        raise RemoteError(f"{name!r} names no machine: give user@host:port, or a Host of ~/.ssh/config")
    asked = given["v6"] or given["host"]
    try:
        found = read.lookup(asked)
        port, timeout = int(given["port"] or found.get("port", "22")), float(found.get("connecttimeout", CONNECT_S))
    except (paramiko.SSHException, ImportError, ValueError, KeyError, OSError) as error:
        raise RemoteError(f"{name}: {_file(config)} cannot be followed for {asked} ({error}): correct it") from error
    if found.get("proxycommand") and not found.get("proxyjump"):
        raise RemoteError(f"{name}: ProxyCommand is not followed: write ProxyJump for {asked} in {_file(config)}")
    if not 0 < port < 65536 or not timeout > 0:
        raise RemoteError(f"{name}: port {port} and ConnectTimeout {timeout:g} cannot be: correct {_file(config)}")
    host = found["hostname"]
    return Address(
        name,
        host,
        port,
        given["user"] or found.get("user") or getpass.getuser(),
        found.get("hostkeyalias") or (host if port == 22 else f"[{host}]:{port}"),
        tuple(_known_files(found)),
        tuple(_keys(found)),
        found.get("identitiesonly", "no") != "yes" and found.get("identityagent", "") != "none",
        () if found.get("proxyjump", "none") == "none" else tuple(re.split(r"\s*,\s*", found["proxyjump"].strip())),
        timeout,
        config,
    )


def _known_files(found: paramiko.SSHConfigDict) -> Iterator[Path]:
    defaults = {
        "userknownhostsfile": "~/.ssh/known_hosts ~/.ssh/known_hosts2",
        "globalknownhostsfile": "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
    }
    for key, default in defaults.items():
        for each in shlex.split(found.get(key, default)):
            if each != "none":
                yield _path(each)


def _keys(found: paramiko.SSHConfigDict) -> Iterator[Path]:
    named = found.get("identityfile")
    if named is not None:  # a list, whatever its type says: it may stand there several times
        yield from (_path(each) for each in list(named) if each != "none")
        return
    for each in DEFAULT_KEYS:
        if (path := Path.home() / ".ssh" / each).is_file():
            yield path


def _path(text: str) -> Path:
    return Path(text.replace("%d", str(Path.home()))).expanduser()


def _file(config: Path | None) -> str:
    return str(config) if config else "~/.ssh/config"


def _read(config: Path | None) -> paramiko.SSHConfig:
    path = config or Path.home() / ".ssh" / "config"
    if config is None and not path.is_file():
        return paramiko.SSHConfig()
    try:
        return paramiko.SSHConfig.from_file(_lines(path, path.parent))
    except (paramiko.SSHException, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RemoteError(f"the SSH configuration {path} cannot be read ({reason}): correct it") from error


def _lines(path: Path, folder: Path, depth: int = 0) -> Iterator[str]:
    """Give the lines of a configuration, and in place of each Include those of what it names."""
    if depth > MOST_HOPS:
        raise RemoteError(f"{path}: Include leads through more than {MOST_HOPS} files: does it lead back to itself?")
    within = False
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        within = within or word.lower() in ("host", "match")
        if word.lower() != "include":
            yield line
            continue
        if within:  # it would hold for one host alone, and the lines after it for another
            raise RemoteError(f"{path}: Include below a Host is not followed: move it to the top")
        for pattern in shlex.split(rest):
            for found in sorted(glob.glob(str(folder / _path(pattern)))):  # noqa: PTH207
                yield from _lines(Path(found), folder, depth + 1)
        yield "Host *"
