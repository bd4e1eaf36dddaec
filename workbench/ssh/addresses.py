"""Resolve the name of a host to the addresses of all hops on the way to the host.

A name is `user@host:port`, or an alias in ~/.ssh/config. The hops are the jump hosts (ProxyJump), and then the host.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RemoteError
from .configuration import HostConfig, expand, read_config, tokens_of

__all__ = ["NAME", "Address", "route"]

CONNECT_S = 15.0
MOST_HOPS = 8
NAME = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^@:\[\]\s]+))(?::(?P<port>\d{1,5}))?")
LISTS = ("Ciphers", "MACs", "KexAlgorithms", "HostKeyAlgorithms")
# Settings that would accept a host whose key is not in known_hosts. They are ignored, and named in the error.
LOOSER = {
    "StrictHostKeyChecking": ("no", "off", "false", "accept-new"),
    "NoHostAuthenticationForLocalhost": ("yes", "true"),
    "VerifyHostKeyDNS": ("yes", "true"),
}


@dataclass(frozen=True)
class Address:
    """The settings of one hop: its network address, the files with trusted host keys, and the files with the user's keys."""

    name: str  # as the user gave it
    host: str
    port: int
    user: str
    known_as: str  # the hop's name in known_hosts
    known_files: tuple[Path, ...]
    keys: tuple[Path, ...]
    agent: str | None  # the path of the SSH agent's socket
    jumps: tuple[str, ...]
    timeout: float  # seconds to connect
    config: Path | None = None  # a configuration file that replaces ~/.ssh/config
    alias: bool = False  # `known_as` comes from HostKeyAlias
    known_file: Path | None = None  # the user's first known_hosts file to which a key can be added
    asks: bool = True  # ssh would ask the user about an unknown key (StrictHostKeyChecking)
    revoked: tuple[Path, ...] = ()  # RevokedHostKeys
    check_ip: bool = False  # CheckHostIP
    certificates: tuple[Path, ...] = ()  # CertificateFile
    identities_only: bool = False
    key_kinds: tuple[str, ...] = ()  # PubkeyAcceptedAlgorithms; empty: all
    allowed: tuple[tuple[str, tuple[str, ...]], ...] = ()  # Ciphers, MACs, KexAlgorithms, HostKeyAlgorithms
    least_rsa: int = 0  # RequiredRSASize, in bits
    family: str = "any"  # AddressFamily: any, inet or inet6
    source: str | None = None  # BindAddress
    looser: tuple[str, ...] = ()  # ignored settings, which would trust more hosts
    public_key: bool = True  # allowed by PubkeyAuthentication and PreferredAuthentications

    @property
    def bare_name(self) -> str | None:
        """The host's name in lower case, without the port. None if the port is 22 or if HostKeyAlias is set.

        For a port other than 22, a host's name in known_hosts is `[host]:port`. If there is no line with this name, lines with
        the name without the port count, as in OpenSSH.
        """
        return self.host.lower() if self.port != 22 and not self.alias else None


def route(name: str, config: Path | None) -> list[Address]:
    """Return the addresses of all hops on the way to the host `name`, in order. The last address is the host's own.

    `config` is a configuration file that replaces ~/.ssh/config. Raises RemoteError for an invalid name or configuration.
    """
    hops: list[Address] = []
    jumps: Sequence[str] = ()
    while True:
        if len(hops) > MOST_HOPS:
            raise RemoteError(f"{name}: ProxyJump leads through more than {MOST_HOPS} hops: does it lead back to itself?")
        hops.insert(0, _resolve(name, config, last=not hops))
        jumps = jumps or hops[0].jumps
        if not jumps:
            return hops
        *jumps, name = jumps  # the last jump connects to the host; the first is reached by its own ProxyJump


def _resolve(name: str, config: Path | None, last: bool) -> Address:
    given = NAME.fullmatch(name.removeprefix("ssh://").rstrip("/"))
    if given is None or name.startswith("-") or (given["port"] and not 0 < int(given["port"]) < 65536):
        raise RemoteError(f"{name!r} names no machine: give user@host:port, or a Host of ~/.ssh/config")
    asked = given["v6"] or given["host"]
    found = read_config(asked, given["user"], given["port"], config)
    file = str(config) if config else "~/.ssh/config"
    host = found.one("hostname", asked)
    try:
        port, timeout = int(given["port"] or found.one("port")), _seconds(found.one("connecttimeout", "none"))
    except ValueError as error:
        raise RemoteError(f"{name}: {file} cannot be followed for {asked} ({error}): correct it") from error
    if not 0 < port < 65536 or not timeout > 0:
        raise RemoteError(f"{name}: port {port} and ConnectTimeout {timeout:g} cannot be: correct {file}")
    _check_supported(name, asked, found, file, last)
    user = given["user"] or found.one("user") or getpass.getuser()
    alias = found.one("hostkeyalias").lower()
    tokens = tokens_of(asked, host, port, user, alias)
    known = [expand(path, tokens, "UserKnownHostsFile") for path in _paths(found.one("userknownhostsfile"))]
    machine = [expand(path, tokens, "GlobalKnownHostsFile") for path in _paths(found.one("globalknownhostsfile"))]
    jumps = found.one("proxyjump", "none")
    return Address(
        name,
        host,
        port,
        user,
        alias or (host.lower() if port == 22 else f"[{host.lower()}]:{port}"),
        tuple(Path(path) for path in (*known, *machine)),
        tuple(Path(expand(path, tokens, "IdentityFile")) for path in found.all("identityfile") if path.lower() != "none"),
        _agent(found.one("identityagent"), tokens),
        () if jumps.lower() == "none" else tuple(re.split(r"\s*,\s*", expand(jumps, tokens, "ProxyJump").strip())),
        timeout,
        config,
        alias=bool(alias),
        known_file=next((Path(path) for path in known if Path(path).is_file() or not Path(path).exists()), None),
        asks=found.one("stricthostkeychecking", "ask").lower() not in ("yes", "true"),
        revoked=tuple(Path(expand(path, tokens, "RevokedHostKeys")) for path in _paths(found.one("revokedhostkeys"))),
        check_ip=found.flag("checkhostip"),
        certificates=tuple(Path(expand(path, tokens, "CertificateFile")) for path in found.all("certificatefile")),
        identities_only=found.flag("identitiesonly"),
        key_kinds=_algorithms(found, "pubkeyacceptedalgorithms", f"{name}: {file}")
        or _algorithms(found, "pubkeyacceptedkeytypes", f"{name}: {file}"),
        allowed=tuple((key, names) for key in LISTS if (names := _algorithms(found, key.lower(), f"{name}: {file}"))),
        least_rsa=int(found.one("requiredrsasize", "0")),
        family=found.one("addressfamily", "any").lower(),
        source=found.one("bindaddress") or None,
        looser=_looser(found),
        public_key=_public_key(found),
    )


def _check_supported(name: str, asked: str, found: HostConfig, file: str, last: bool) -> None:
    if found.one("proxycommand", "none").lower() != "none" and found.one("proxyjump", "none").lower() == "none":
        raise RemoteError(f"{name}: ProxyCommand is not followed: write ProxyJump for {asked} in {file}")
    if last and found.one("remotecommand", "none").lower() != "none":
        raise RemoteError(f"{name}: RemoteCommand of {asked} leaves no room for a command: set RemoteCommand none in {file}")
    if last and (kind := found.one("sessiontype", "default").lower()) != "default":
        raise RemoteError(f"{name}: SessionType {kind} of {asked} runs no commands: set SessionType default in {file}")


def _seconds(text: str) -> float:
    # OpenSSH's notation: 90, 1m30s, none
    if text.lower() == "none":
        return CONNECT_S
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(r"(\d+[smhdw])+", text.lower()):
        raise ValueError(f"ConnectTimeout {text}")
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhdw])", text.lower())))


def _paths(text: str) -> list[str]:
    # `ssh -G` does not quote spaces in paths, so the longest sequence of words that names an existing file is one path.
    words = shlex.split(text) if '"' in text else text.split()
    paths: list[str] = []
    while words:
        joined = (" ".join(words[:end]) for end in range(len(words), 1, -1))
        path = next((name for name in joined if Path(os.path.expanduser(name)).is_file()), words[0])  # noqa: PTH111
        words = words[len(path.split()) :]
        paths.append(path)
    return [path for path in paths if path.lower() != "none"]


def _algorithms(found: HostConfig, keyword: str, where: str) -> tuple[str, ...]:
    text = found.one(keyword)
    if text.startswith("-"):
        raise RemoteError(f"{where}: {keyword} {text} is not followed without OpenSSH: list the algorithms to allow")
    return () if not text or text[0] in "+^" else tuple(text.split(","))


def _agent(text: str, tokens: dict[str, str]) -> str | None:
    if text.lower() == "none":
        return None
    if text in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK") or None
    if re.fullmatch(r"\$\w+", text):
        return os.environ.get(text[1:]) or None
    return expand(text, tokens, "IdentityAgent")


def _looser(found: HostConfig) -> tuple[str, ...]:
    words = {"false": "no", "true": "yes"}  # as `ssh -G` prints them
    given = {key: found.one(key.lower()).lower() for key in LOOSER}
    settings = [f"{key} {words.get(value, value)}" for key, value in given.items() if value in LOOSER[key]]
    if found.one("knownhostscommand", "none").lower() != "none":
        settings.append("KnownHostsCommand")
    return tuple(settings)


def _public_key(found: HostConfig) -> bool:
    if found.one("pubkeyauthentication", "yes").lower() in ("no", "false"):
        return False
    methods = found.one("preferredauthentications")
    return not methods or "publickey" in methods.split(",")
