"""Read the settings of one host from the SSH configuration, as OpenSSH resolves them.

::

    name -> ssh -G -> {keyword: values}            OpenSSH itself reads Host, Match, Include, quotes and comments
    name -> paramiko's parser -> {keyword: values} only on a machine without an OpenSSH client

A keyword is the name of a setting, such as `hostname`. A value may contain tokens, such as %h for the host's name. `ssh -G`
leaves tokens, environment variables and ~ in some values, and `expand` replaces them.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ..errors import RemoteError
from .config_files import copy_of, inlined, user_config

__all__ = ["HostConfig", "expand", "read_config"]

ASK_S = 30.0  # time limit of `ssh -G`, which may run programs (Match exec) or query DNS (CanonicalizeHostname)
NOISE = re.compile(r"Pseudo-terminal|terminating, \d+ bad|vdollar_percent_expand")
DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")
LISTED = ("identityfile", "localforward", "remoteforward")  # keywords for which paramiko's parser returns a list
DEFAULTS = {
    "port": ["22"],
    "identityfile": [f"~/.ssh/{name}" for name in DEFAULT_KEYS],
    "userknownhostsfile": ["~/.ssh/known_hosts ~/.ssh/known_hosts2"],
    "globalknownhostsfile": ["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"],
}


@dataclass(frozen=True)
class HostConfig:
    """The resolved settings of one host. `values` maps each keyword, in lower case, to the list of the keyword's values."""

    values: Mapping[str, list[str]]

    def all(self, keyword: str) -> list[str]:
        """Return all values of a keyword. If the keyword is not set, return OpenSSH's default values, or []."""
        return self.values.get(keyword) or DEFAULTS.get(keyword, [])

    def one(self, keyword: str, default: str = "") -> str:
        """Return the first value of a keyword (see `all`), or `default` if the keyword has no value."""
        return next(iter(self.all(keyword)), default)

    def flag(self, keyword: str) -> bool:
        """Return whether the first value of a keyword is yes, true or always."""
        return self.one(keyword).lower() in ("yes", "true", "always")


def read_config(host: str, user: str | None, port: str | None, config: Path | None) -> HostConfig:
    """Return the resolved settings of `host`. A given `user` or `port` overrides the configuration.

    `config` is a configuration file that replaces ~/.ssh/config. Raises RemoteError for an invalid configuration.
    """
    program = shutil.which("ssh")
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # OpenSSH refuses to run for a user without an entry in passwd
        program, home = None, ""
    if program is None or not _is_openssh(program):
        return _parsed(host, config)
    given = [*(["-l", user] if user else []), *(["-p", port] if port else []), "--", host]
    if Path(home) == Path.home():
        return _ask([program, "-G", *(["-F", str(config)] if config else []), *given], host, config or user_config(), {})
    with tempfile.TemporaryDirectory(prefix="workbench-ssh-") as folder:
        copies: dict[str, str] = {}
        top = copy_of(config, Path(folder), copies)
        return _ask([program, "-G", "-F", str(top), *given], host, config or user_config(), copies)


@functools.cache
def _is_openssh(program: str) -> bool:
    # Dropbear's client ignores -G and connects.
    try:
        shown = subprocess.run([program, "-V"], stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"OpenSSH" in shown.stderr + shown.stdout


def _ask(command: list[str], host: str, path: Path, copies: Mapping[str, str]) -> HostConfig:
    try:
        shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RemoteError(
            f"{host}: `ssh -G {host}` did not end within {ASK_S:g} s: does a Match exec of {path} hang, or the name server?"
        ) from error
    except OSError as error:
        raise RemoteError(f"{host}: {command[0]} cannot be started ({error.strerror}): check the OpenSSH client") from error
    if shown.returncode:
        raise _refusal(host, path, shown.stderr.decode("utf-8", "replace"), copies)
    values: dict[str, list[str]] = {}
    for line in shown.stdout.decode("utf-8", "surrogateescape").splitlines():
        keyword, _, value = line.partition(" ")
        values.setdefault(keyword.lower(), []).append(value)
    return HostConfig(values)


def _refusal(host: str, path: Path, errors: str, copies: Mapping[str, str]) -> RemoteError:
    for copy, original in copies.items():
        errors = errors.replace(copy, original)
    reason = next((line.strip() for line in errors.splitlines() if line.strip() and not NOISE.search(line)), "no reason given")
    if "hostname contains invalid characters" in reason:
        return RemoteError(f"{host!r} names no machine: give user@host:port, or a Host of ~/.ssh/config")
    if "jumphost loop" in reason:
        return RemoteError(f"{host}: ProxyJump of {path} cannot be followed ({reason}): does it lead back to itself?")
    if re.search(r"Bad configuration option|no argument after keyword|Can't open|Bad owner", reason):
        return RemoteError(f"the SSH configuration {path} cannot be read ({reason}): correct it")
    return RemoteError(f"{host}: {path} cannot be followed for {host} ({reason}): correct it")


def _parsed(host: str, config: Path | None) -> HostConfig:
    path = config or user_config()
    try:
        parser = paramiko.SSHConfig.from_file(inlined(path)) if config or path.is_file() else paramiko.SSHConfig()
        lookup = parser.lookup(host)
    except (paramiko.SSHException, ImportError, ValueError, KeyError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RemoteError(f"the SSH configuration {path} cannot be read for {host} ({reason}): correct it") from error
    values = {key: list(value) if key in LISTED else [value] for key, value in lookup.items()}
    if "hostname" in lookup and not re.fullmatch(r"[\d.]+|.*:.*", lookup["hostname"]):
        values["hostname"] = [lookup["hostname"].lower()]
    return HostConfig(values)


def expand(text: str, tokens: Mapping[str, str], keyword: str = "") -> str:
    """Return the value `text` of a keyword, with ~, ${VAR} and the %-tokens replaced.

    `tokens` maps the letter of each token to the token's value (see `tokens_of`). Raises RemoteError for an unset environment
    variable. The error's message contains `keyword`.
    """

    def variable(match: re.Match[str]) -> str:
        if (value := os.environ.get(match[1])) is None:
            raise RemoteError(f"{tokens['n']}: {keyword} {text}: the environment variable {match[1]} is not set: set it")
        return value

    def token(match: re.Match[str]) -> str:
        return variable(match) if match[1] else tokens.get(match[2], match[0])

    return re.sub(r"\$\{(\w+)\}|%(.)", token, os.path.expanduser(text))  # noqa: PTH111 - it may be no path


def tokens_of(original: str, host: str, port: int, user: str, alias: str) -> dict[str, str]:
    """Return the values of OpenSSH's %-tokens for one connection, as {token's letter: value}.

    `original` is the host's name as the user gave it. `host` is the resolved name, and `alias` is the HostKeyAlias, if any.
    """
    local = socket.gethostname()
    connection = hashlib.sha1(f"{local}{host}{port}{user}".encode()).hexdigest()
    return {
        "%": "%",
        "C": connection,
        "d": str(Path.home()),
        "h": host,
        "i": str(os.getuid()),
        "k": alias or original,
        "L": local.split(".")[0],
        "l": local,
        "n": original,
        "p": str(port),
        "r": user,
        "u": getpass.getuser(),
    }
