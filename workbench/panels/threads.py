"""Background threads that end before Python exits.

A daemon thread that runs torch while the interpreter shuts down would abort the process ("terminate called"). So each thread
has a callback that requests the thread's end. At exit, all callbacks are called, and all threads are joined.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterable

__all__ = ["join", "start"]

EXIT_S = 60.0  # limit for the running step at exit, such as a training epoch
_RUNNING: dict[threading.Thread, Callable[[], None]] = {}


def start(target: Callable[[], object], name: str, end: Callable[[], None] = lambda: None) -> threading.Thread:
    """Start a daemon thread that calls `target`, and return the thread.

    The callback `end` is called at exit to request the thread's end. It must work if it is called more than once.
    """

    def run() -> None:
        try:
            target()
        finally:
            _RUNNING.pop(threading.current_thread(), None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _RUNNING[thread] = end
    thread.start()
    return thread


def join(threads: Iterable[threading.Thread], timeout: float) -> bool:
    """Wait for `threads` to end, except the calling thread. Return whether all have ended within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    others = [thread for thread in threads if thread is not threading.current_thread()]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in others)


@atexit.register
def _end_all() -> None:
    running = dict(_RUNNING)
    for end in running.values():
        end()
    join(running, EXIT_S)
