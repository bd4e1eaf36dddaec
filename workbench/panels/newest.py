"""A worker that always takes the newest request: what is overtaken is never done, nothing queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from . import threads

__all__ = ["REST_S", "Closed", "Newest"]

REST_S = 0.3  # after which the hand rests
Request = TypeVar("Request")


class Closed(Exception):  # noqa: N818 - no fault
    """Whoever asked is gone."""


class Newest(Generic[Request]):
    """Runs `begin` once, then `handle` on the newest request, in a thread of its own; `end` when it is closed.

    And `rest`, once nothing was asked for a while. None of them may raise. `changed` is notified of all that happens; `busy`
    from the start.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], None],
        handle: Callable[[Request], None],
        rest: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        self.changed = threading.Condition()
        self.closed = False
        self._wanted: Request | None = None
        self._busy, self._asked_at = True, 0.0
        self._begin, self._handle, self._rest, self._end = begin, handle, rest, end
        self._name = name
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin."""
        self.run_along(self._run, self._name)

    def run_along(self, target: Callable[[], None], name: str) -> None:
        """Start a thread that ends once `closed` is set and `changed` notified, and that `join` waits for."""
        self.threads.append(threads.start(target, name, self.close))

    def join(self, timeout: float) -> bool:
        """Wait for the threads to end after `close`; return whether they did within `timeout` seconds."""
        return threads.join(self.threads, timeout)

    def close(self) -> None:
        """End once what is under way is done."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def ask(self, request: Request) -> None:
        """Take a request in the place of any that waits."""
        with self.changed:
            self._wanted, self._asked_at = request, time.monotonic()
            self.changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether all that was asked for is done, or overtaken."""
        return self._wanted is None and not self._busy

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition; False where `timeout` seconds did not suffice, or it was closed."""
        with self.changed:
            return self.changed.wait_for(lambda: self.closed or condition(), timeout) and not self.closed

    def wait_for_rest(self, seconds: float) -> None:
        """Wait until nothing was asked for that long and nothing is under way. Raises Closed."""
        with self.changed:
            while not self.closed:
                left = self._asked_at + seconds - time.monotonic()
                if left <= 0 and self.idle:
                    return
                self.changed.wait(left if left > 0 else None)
        raise Closed

    @property
    def _woken(self) -> bool:
        return self.closed or self._wanted is not None

    def _run(self) -> None:
        self._begin()
        while True:
            with self.changed:
                self._busy = False
                self.changed.notify_all()
                woken = self.changed.wait_for(lambda: self._woken, REST_S)
            if not woken:
                self._rest()
            with self.changed:
                self.changed.wait_for(lambda: self._woken)
                if self.closed or self._wanted is None:
                    break
                request, self._wanted, self._busy = self._wanted, None, True
            self._handle(request)
        self._end()
