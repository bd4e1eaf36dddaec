"""Helpers for the modules of the remote agent: errors, output, lock files, atomic files.

The remote agent is a program on the machine of a stage (edge or cloud). The workbench on the user's machine starts the agent
over SSH, and reads the agent's output.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


class AgentError(Exception):
    """Raised for a fault that the user can fix. The message has one line."""


def say(**what: Any) -> None:
    """Print the keyword arguments as one line of JSON. The workbench on the user's machine reads this line."""
    print(json.dumps(what), flush=True)


def lines(command: Sequence[str]) -> list[str]:
    """Run a command, and return the lines of its standard output.

    Return [] if the program is missing, fails, or runs for more than 30 seconds.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def wait_for(condition: Callable[[], bool], patience: float = 10.0) -> bool:
    """Poll `condition` until it returns true, for at most `patience` seconds. Return whether it became true."""
    deadline = time.monotonic() + patience
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds


@contextlib.contextmanager
def locked(path: Path, reason: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock on the file `path` in this context.

    If another process holds the lock, wait for at most `patience` seconds. Then raise AgentError with a message that begins
    with `reason`.
    """
    with path.open("ab") as file:
        if not wait_for(lambda: _lock(file.fileno()), patience):
            raise AgentError(f"{reason}: wait for it, or end it")
        yield


def _lock(handle: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def write(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`. The file is replaced atomically, and only its owner can read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file)
    temporary.replace(path)


def stored(folder: Path, sha: str) -> Path:
    """Return the path of the file with the SHA-256 `sha` in `folder`/store.

    Raises AgentError if the file is missing, or if its content has another SHA-256.
    """
    path = folder / "store" / sha
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except FileNotFoundError:
        raise AgentError(f"{path} is missing: launch again") from None
    if digest.hexdigest() != sha:
        path.unlink(missing_ok=True)
        raise AgentError(f"{path} was tampered with: its SHA-256 is {digest.hexdigest()[:16]}...; it was removed, launch again")
    return path
