"""Suppress other libraries' warnings about conditions that the workbench checks itself."""

from __future__ import annotations

import threading
import warnings

__all__ = ["suppress_warnings"]


class _SuppressWarnings:
    """A context that suppresses warnings while any thread is inside it. Python's `catch_warnings` is not thread-safe."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_SHARED = _SuppressWarnings()


def suppress_warnings() -> _SuppressWarnings:
    """Return a context that suppresses all warnings of the process. Several threads may enter it at the same time."""
    return _SHARED
