"""Other libraries' warnings, silenced where what they warn of is judged here."""

from __future__ import annotations

import threading
import warnings

__all__ = ["QUIET"]


class _Quiet:
    """Silences warnings while any thread is inside: Python's own context puts back what another has changed meanwhile."""

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


QUIET = _Quiet()
