"""Work that the processes of one test run share: the first process that needs a folder fills it, and the others wait."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def filled_once(folders: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """Return a folder, filled by `fill` in one of pytest-xdist's processes. If `fill` raises, the next caller tries again."""
    base = folders.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, filled = root / name, root / f"{name}.filled"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not filled.exists():
            folder.mkdir(exist_ok=True)
            fill(folder)
            filled.touch()
    return folder
