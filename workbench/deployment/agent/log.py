"""Write, rotate and read the log of a stage (edge or cloud).

A rotation renames `log` to `log.1`, and starts a new file `log`. A larger number means an older file.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

LOG_BYTES, LOGS = 4 << 20, 3


class Log:
    """The log file `path`, which is rotated at `LOG_BYTES` bytes. `LOGS` older files are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append the bytes `line`. No line end is added. Write errors, such as a full disk, are ignored."""
        if self._file.tell() + len(line) > LOG_BYTES:
            self._file.close()
            for number in range(LOGS, 0, -1):
                older = self.path.with_name(f"{self.path.name}.{number}")
                if older.exists():
                    older.replace(self.path.with_name(f"{self.path.name}.{number + 1}")) if number < LOGS else older.unlink()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._file = self.path.open("ab", buffering=0)
        with contextlib.suppress(OSError):  # a full disk must not end a stage
            self._file.write(line)

    def close(self) -> None:
        self._file.close()


def newer(path: Path, handle: int) -> Path | None:
    """Return the path of the log file that was started directly after an open one, or None if the open file is the newest.

    `path` is the newest log file. `handle` is the file descriptor of the open file. If rotations have removed the open file,
    return the oldest log file.
    """
    mine = os.fstat(handle).st_ino
    there: dict[int, Path] = {}
    for _ in range(5):  # during a rotation a file may be listed twice, or not at all
        there = {}
        for each in (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, LOGS + 1))):
            with contextlib.suppress(OSError):
                there[each.stat().st_ino] = each
        if mine in there:
            break
        time.sleep(0.01)
    later = list(there)[: list(there).index(mine)] if mine in there else list(there)
    return there[later[-1]] if later else None


def tail(home: Path, lines: int) -> list[str]:
    """Return the last `lines` lines of a stage's log. `home` is the stage's folder. Only the two newest files are read."""
    found: list[str] = []
    for name in ("log.1", "log"):
        with contextlib.suppress(OSError):
            found += (home / name).read_bytes().decode(errors="replace").splitlines()
    return found[-lines:] if lines else []
