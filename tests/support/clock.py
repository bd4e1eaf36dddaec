"""Clocks that tests set: an event loop in which nobody waits, and a clock that moves on by one step a reading."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Steps", "VirtualLoop"]

Result = TypeVar("Result")


class _Selector(selectors.SelectSelector):
    """Polls for I/O, and moves the clock on instead of waiting."""

    clock: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.clock.advance(timeout)
        return super().select(None if timeout is None else 0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves on at once while all tasks sleep: the same times on an idle machine and on a busy one."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = _Selector()
        selector.clock = self
        super().__init__(selector)

    def time(self) -> float:
        """Return the loop's own time (s)."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on, as a computation of so many seconds would."""
        self._now += seconds

    def run(self, task: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end."""
        return self.run_until_complete(task)


class Steps:
    """A clock that stands still but for one second a reading, and for what `advance` adds."""

    def __init__(self) -> None:
        self._now, self._lock = 0.0, threading.Lock()

    def perf_counter(self) -> float:
        """Return the time (s), a second later than the reading before."""
        with self._lock:
            self._now += 1
            return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        with self._lock:
            self._now += seconds
