"""Prepare the files of an SSH configuration for their two readers, `ssh -G` and paramiko.

OpenSSH reads the home folder from passwd, but the workbench reads it from $HOME. If these folders differ (in containers and
tests), `ssh -G` must use $HOME, too. So it gets a copy of the files. In the copy, $HOME replaces ~ in the paths that OpenSSH
expands, and each Include names the copies of its files.

paramiko gets a single text, in which the lines of the included files replace each Include.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from ..errors import RemoteError

__all__ = ["copy_of", "inlined", "user_config"]

SYSTEM = Path("/etc/ssh/ssh_config")
MOST_DEPTH = 16  # of nested Includes, as in OpenSSH
LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)")
PATHS = ("userknownhostsfile", "globalknownhostsfile", "identityagent", "revokedhostkeys")


def user_config() -> Path:
    return Path.home() / ".ssh" / "config"


def copy_of(config: Path | None, folder: Path, copies: MutableMapping[str, str]) -> Path:
    """Copy a configuration file, together with its included files, to `folder`. Return the path of the copy.

    If `config` is None, the copy includes ~/.ssh/config and then /etc/ssh/ssh_config. For each copied file, an entry {path of
    the copy: original path} is added to `copies`. Raises RemoteError for an unreadable file, and for a ~/.ssh/config that other
    users could change.
    """
    known = " ".join(f'"{user_config().parent / name}"' for name in ("known_hosts", "known_hosts2"))
    if config is not None:  # errors name the user's file, never the copy
        top = _copied(config.absolute(), user_config().parent, folder, copies, 0)
        lines = [top.read_text(encoding="utf-8", errors="surrogateescape")]
    else:
        top = folder / "config"
        files = [path for path in (user_config(), SYSTEM) if path.is_file()]
        _check_owner(user_config())
        lines = [f'Match all\nInclude "{_copied(path, path.parent, folder, copies, 0)}"' for path in files]
    text = "\n".join([*lines, "Match all", f"UserKnownHostsFile {known}", ""])
    top.write_text(text, encoding="utf-8", errors="surrogateescape")
    return top


def _check_owner(path: Path) -> None:
    if not path.is_file():
        return
    state = path.stat()
    if state.st_uid not in (0, os.getuid()) or state.st_mode & 0o022:
        raise RemoteError(
            f"the SSH configuration {path} cannot be read (Bad owner or permissions): `chmod go-w {shlex.quote(str(path))}`"
        )


def _copied(path: Path, base: Path, folder: Path, copies: MutableMapping[str, str], depth: int) -> Path:
    lines = [_line(line, base, folder, copies, depth) for line in _text(path, depth).splitlines()]
    copy = folder / f"{len(copies)}.conf"
    copies[str(copy)] = str(path)
    copy.write_text("\n".join([*lines, ""]), encoding="utf-8", errors="surrogateescape")
    return copy


def _line(line: str, base: Path, folder: Path, copies: MutableMapping[str, str], depth: int) -> str:
    match = LINE.match(line)
    keyword = match[1].lower() if match else ""
    if match is None or keyword not in ("include", *PATHS):
        return line
    try:
        words = shlex.split(match[2], comments=True)
    except ValueError:
        return line  # OpenSSH reports the error
    if keyword == "include":
        words = [str(_copied(found, base, folder, copies, depth + 1)) for word in words for found in _included(word, base)]
        return f"Include {_quoted(words)}" if words else ""
    return f"{keyword} {_quoted([_homed(word) for word in words])}"


def _quoted(words: list[str]) -> str:
    return " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)


def _homed(word: str) -> str:
    return str(Path.home() / word[2:]) if word.startswith("~/") else word


def _included(pattern: str, base: Path) -> list[Path]:
    found = sorted(glob.glob(str(base / _homed(pattern))))  # noqa: PTH207 - it may be absolute
    return [Path(name) for name in found if not Path(name).is_dir()]


def _text(path: Path, depth: int) -> str:
    if depth > MOST_DEPTH:
        raise RemoteError(f"{path}: Include leads through more than {MOST_DEPTH} files: does it lead back to itself?")
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise RemoteError(f"the SSH configuration {path} cannot be read ({error.strerror}): correct it") from error


def inlined(path: Path, depth: int = 0) -> Iterator[str]:
    """Yield the lines of the configuration file `path` without comments. The lines of included files replace each Include.

    `depth` is the depth of nesting: the number of Includes between the first file and this file. Raises RemoteError for an
    unreadable file, for too deep nesting, and for an Include after a Host or Match line.
    """
    within = False
    for line in _text(path, depth).splitlines():
        match = LINE.match(line)
        keyword, rest = (match[1].lower(), match[2]) if match else ("", "")
        within = within or keyword in ("host", "match")
        if keyword != "include":
            yield _without_comment(line)
            continue
        if within:  # a Host line in the included file would change the host of all lines after the Include
            raise RemoteError(f"{path}: Include below a Host is not followed without OpenSSH: move it to the top")
        for word in shlex.split(rest, comments=True):
            for found in _included(word, user_config().parent):
                yield from inlined(found, depth + 1)
        yield "Host *"


def _without_comment(line: str) -> str:
    # A # inside a word or inside quotes starts no comment.
    match = re.match(r'((?:"[^"]*"|[^\s"]|\s+(?!#))*)', line)
    return match[1].rstrip() if match and not line.lstrip().startswith("#") else ""
