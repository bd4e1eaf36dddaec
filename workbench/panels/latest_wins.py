"""A worker thread that handles only the newest request. A newer request replaces a waiting one, so there is no queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from . import threads

__all__ = ["REST_S", "Closed", "LatestWinsWorker", "Superseded"]

REST_S = 0.3  # seconds without a request before background work may run
Request = TypeVar("Request")


class Closed(Exception):  # noqa: N818 - not an error
    """Raised in a callback or task after the worker was closed."""


class Superseded(Exception):  # noqa: N818 - not an error
    """Raised in a callback or task after a newer request has replaced the request that it handles."""


class LatestWinsWorker(Generic[Request]):
    """A thread that calls `begin` once, then `handle` with each newest request, and `end` after `close`.

    These functions must not raise. The condition `changed` is notified of each request, and when the worker becomes idle, busy
    or closed. A new worker is busy until `begin` returns.
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
        self.run_along(self._run, self._name)

    def run_along(self, target: Callable[[], None], name: str) -> None:
        """Start a further thread, which must end once `self.closed` is set. `join` also waits for this thread."""
        self.threads.append(threads.start(target, name, self.close))

    def join(self, timeout: float) -> bool:
        """Wait for all threads to end. Return whether they did within `timeout` seconds. Call `close` first."""
        return threads.join(self.threads, timeout)

    def close(self) -> None:
        """Request that all threads end after their present step, without waiting."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def request(self, request: Request) -> None:
        """Submit a request. It replaces a waiting one."""
        with self.changed:
            self._wanted, self._requested_at = request, time.monotonic()
            self.changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether the worker neither handles a request nor has one waiting."""
        return self._wanted is None and not self._busy

    def proceed(self) -> None:
        """Raise Superseded if a newer request waits, or Closed after `close`. `handle` calls this between steps."""
        if self.closed:
            raise Closed
        if self._wanted is not None:
            raise Superseded

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until `condition()` holds, tested when `self.changed` is notified. Return False at the timeout or `close`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.closed or condition(), timeout) and not self.closed

    def wait_for_rest(self, seconds: float) -> None:
        """Wait until the worker is idle and the last request is at least `seconds` old. Raises Closed after `close`."""
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
