"""A worker thread that handles only the newest request. A new request replaces a waiting request, so there is no queue."""

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
    """Raised in the worker's threads to end the present work, because the worker was closed."""


class Superseded(Exception):  # noqa: N818 - not an error
    """Raised in the worker's threads to end the present work, because a newer request has arrived."""


class LatestWinsWorker(Generic[Request]):
    """A thread that calls `begin()` once, then `handle(request)` for the newest request, and `end()` after `close`.

    None of the three functions may raise an exception. The condition variable `changed` is notified at each request, when the
    worker becomes idle, and at `close`. A new worker is busy until `begin` returns.
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
        """Run `target` in an additional thread. `join` also waits for this thread.

        `target` must return soon after `self.closed` is set. `name` is the thread's name.
        """
        self.threads.append(threads.start(target, name, self.close))

    def join(self, timeout: float) -> bool:
        """Wait for all threads to end. Return whether all have ended within `timeout` seconds. Call `close` first."""
        return threads.join(self.threads, timeout)

    def close(self) -> None:
        """Request that all threads end soon, and return at once. `join` waits for the threads."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def request(self, request: Request) -> None:
        """Submit a request. If another request is waiting, the new request replaces it."""
        with self.changed:
            self._wanted, self._requested_at = request, time.monotonic()
            self.changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether the worker is idle: no request is waiting, and none is being handled."""
        return self._wanted is None and not self._busy

    def proceed(self) -> None:
        """Raise Closed after `close`, or Superseded if a newer request is waiting. Called between the steps of `handle`."""
        if self.closed:
            raise Closed
        if self._wanted is not None:
            raise Superseded

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until `condition()` is true, and return True. Return False after `timeout` seconds, or after `close`.

        `condition` is called whenever `self.changed` is notified.
        """
        with self.changed:
            return self.changed.wait_for(lambda: self.closed or condition(), timeout) and not self.closed

    def wait_for_rest(self, seconds: float) -> None:
        """Wait until the worker is idle and has received no request for `seconds`. Raises Closed after `close`."""
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
