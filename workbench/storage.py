"""The location of the data folder, and atomic writes of files.

An atomic write fills a temporary file, and then renames it. A process that is killed leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import StorageError

_HOST = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32]

__all__ = ["data_root", "expand_user", "replacing", "require_writable", "write_json", "write_text"]


def data_root() -> Path:
    """Return the data folder: `$WORKBENCH_DATA` if set, else `data/` in the checkout, else `./data`."""
    if given := os.environ.get("WORKBENCH_DATA"):
        return expand_user(given).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "data"


def expand_user(path: str | Path) -> Path:
    """Replace `~` or `~user` in a path by that user's home folder. Return the path unchanged if this home folder is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A context that yields a temporary path to write. On success, the written file replaces `path` atomically.

    After an exception `path` is unchanged, and the temporary file is removed. Only its owner can read the temporary file, but
    the final file has the permissions `mode`. Raises StorageError if the folder cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{_HOST}-{os.getpid()}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    # Killed processes of this machine cannot remove their temporary files.
    for left in path.parent.glob(f"{glob.escape(f'.{path.name}.{_HOST}-')}*.tmp"):
        pid = left.name.removeprefix(f".{path.name}.{_HOST}-").partition(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:  # a process of another user cannot be signalled
        return not isinstance(error, ProcessLookupError)
    return True


def require_writable(folder: Path) -> None:
    """Create a folder, and raise StorageError if no file can be written there. Call this before a long run."""
    with replacing(folder / ".probe") as temporary:
        temporary.write_bytes(b"\0" * 4096)
    (folder / ".probe").unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
