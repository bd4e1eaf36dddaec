"""The log of a stage: write and rotate it, read its last lines, and follow it across rotations."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

LOG_BYTES, LOGS = 4 << 20, 3


class Log:
    """A log file that is rotated at `LOG_BYTES` bytes. `LOGS` older files are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append a line, which includes its line end. Write errors, such as a full disk, are ignored."""
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
    """Return the next newer file of the log at `path` after the open file `handle`, or None if the open file is the newest."""
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
    """Return the last `lines` lines of the log in a stage's folder `home`, from the log's two newest files."""
    found: list[str] = []
    for name in ("log.1", "log"):
        with contextlib.suppress(OSError):
            found += (home / name).read_bytes().decode(errors="replace").splitlines()
    return found[-lines:] if lines else []
