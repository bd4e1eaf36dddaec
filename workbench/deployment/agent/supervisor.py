"""The supervisor process of a stage (edge or cloud). It starts the stage, writes its log, and records its exit status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType

from .common import write
from .log import Log, tail
from .stage import LAST

LINE = 64 << 10  # bytes: a longer line is split


def supervise(home: Path) -> int:
    """Run a stage until it ends. Write the stage's log, state and exit status into its folder `home`. Return 0.

    The file spec.json in `home` has the stage's command and environment variables.
    """
    lock = (home / "lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spec = json.loads((home / "spec.json").read_text())
    state = {"pid": os.getpid(), "started": time.time(), "spec": spec["spec"]}
    process = subprocess.Popen(
        spec["command"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=spec["environ"],
        cwd=home,
        preexec_fn=_die_with_parent,
    )
    asked: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    write(home / "state.json", {**state, "child": process.pid})
    assert process.stdout is not None
    with contextlib.closing(Log(home / "log")) as log:
        while line := process.stdout.readline(LINE):
            log.write(line)
    code = process.wait()
    ended = {**state, "ended": time.time(), "status": code, "asked": bool(asked), "last": tail(home, LAST)}
    (home / "port").unlink(missing_ok=True)
    write(home / "state.json", ended)
    return 0


def _die_with_parent() -> None:
    # nothing else could stop the stage after the death of its supervisor
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
