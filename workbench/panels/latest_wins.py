"""A worker thread that always handles the newest request. Superseded requests are dropped, and nothing queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from . import threads

__all__ = ["REST_S", "Closed", "LatestWinsWorker", "Superseded"]

REST_S = 0.3  # without a request, until background work may run
Request = TypeVar("Request")


class Closed(Exception):  # noqa: N818 - not an error
    """Raised in a task of a worker that was closed."""


class Superseded(Exception):  # noqa: N818 - not an error
    """Raised in a task whose request a newer one has replaced."""


class LatestWinsWorker(Generic[Request]):
    """Runs `begin` once, then `handle` on the newest request, in one thread. Runs `end` when it is closed.

    None of the callbacks may raise. The condition `changed` is notified of every change of state. The worker is busy from the
    start until `begin` has returned.
    """

    def __init__(
        self, name: str, begin: Callable[[], None], handle: Callable[[Request], None], end: Callable[[], None]
    ) -> None:
        self.changed = threading.Condition()
        self.closed = False
        self._wanted: Request | None = None
        self._busy, self._requested_at = True, 0.0
        self._begin, self._handle, self._end, self._name = begin, handle, end, name
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the thread."""
        self.run_along(self._run, self._name)

    def run_along(self, target: Callable[[], None], name: str) -> None:
        """Start another thread, which must end when `closed` is set and `changed` notified. `join` waits for it, too."""
        self.threads.append(threads.start(target, name, self.close))

    def join(self, timeout: float) -> bool:
        """Wait for the threads to end after `close`. Return whether they did within `timeout` seconds."""
        return threads.join(self.threads, timeout)

    def close(self) -> None:
        """End the threads after their present step."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def request(self, request: Request) -> None:
        """Set the newest request. It replaces a waiting one."""
        with self.changed:
            self._wanted, self._requested_at = request, time.monotonic()
            self.changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether no request is waiting or being handled."""
        return self._wanted is None and not self._busy

    def proceed(self) -> None:
        """Called between the steps of `handle`. Raises Superseded if a newer request waits, Closed after `close`."""
        if self.closed:
            raise Closed
        if self._wanted is not None:
            raise Superseded

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition. Return False after `timeout` seconds, or if the worker was closed."""
        with self.changed:
            return self.changed.wait_for(lambda: self.closed or condition(), timeout) and not self.closed

    def wait_for_rest(self, seconds: float) -> None:
        """Wait until there was no request for `seconds` and none is being handled. Raises Closed."""
        with self.changed:
            while not self.closed:
                left = self._requested_at + seconds - time.monotonic()
                if left <= 0 and self.idle:
                    return
                self.changed.wait(left if left > 0 else None)
        raise Closed

    def _run(self) -> None:
        self._begin()
        while True:
            with self.changed:
                self._busy = False
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.closed or self._wanted is not None)
                if self.closed or self._wanted is None:
                    break
                request, self._wanted, self._busy = self._wanted, None, True
            self._handle(request)
        self._end()
