"""Clocks for tests: an event loop without real waiting, and a clock that advances by one second a reading."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Selector(selectors.SelectSelector):
    """A selector that polls for I/O, and advances the clock instead of waiting."""

    clock: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.clock.advance(timeout)
        return super().select(None if timeout is None else 0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock advances at once while all tasks sleep, so that times do not depend on the machine's load."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = _Selector()
        selector.clock = self
        super().__init__(selector)

    def time(self) -> float:
        """Return the loop's virtual time (s)."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the clock, like a computation that takes `seconds`."""
        self._now += seconds

    def run(self, task: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end."""
        return self.run_until_complete(task)


class Steps:
    """A clock that advances by one second a reading, and by `advance`."""

    def __init__(self) -> None:
        self._now, self._lock = 0.0, threading.Lock()

    def perf_counter(self) -> float:
        """Return the time (s), one second later than the reading before."""
        with self._lock:
            self._now += 1
            return self._now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
