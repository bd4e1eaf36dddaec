"""Limit the event loop's time for strangers. A stranger is a connection whose client has shown no credential.

::

    bytes of a stranger --> time left, and no other stranger waits --> processed at once
                     |
                     +--> held, and the connection is not read --> fair queue of addresses --> processed

While a request with a credential is in progress, all strangers together get a small share of the loop's time, so that thousands
of hostile connections do not slow down other clients. Addresses that use little time come first, so that new clients and health
checks connect even during an attack.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol

__all__ = ["LoopShare", "metered"]

BUSY, IDLE = 0.15, 1.0  # strangers' share of the loop's time: while requests with a credential are in progress, and otherwise
BURST_S = 0.25  # most unused time that is saved for later: enough for a few hundred simultaneous clients
SLICE_S = 0.002  # time for strangers in each loop iteration, so that other sockets are served in between
CUT_S = 0.02  # seconds charged to an address for each of its connections that exceeds a limit
FRESH_S = 0.005  # connections that have used less come first within their address: about ten handshakes
HELD = 32 << 20  # limit of held bytes: beyond it, a connection that sends a large piece is aborted
MOST_TAGS = 16384  # addresses whose use is remembered
PIECE = 16 << 10  # bytes: a piece above this size is large; a handshake sends less at once


class Stranger(Protocol):
    address: str
    used: float  # seconds of the loop's time
    closing: bool

    def process(self, data: bytes) -> None: ...
    def hold(self, held: bool) -> None: ...  # pause reading, or resume it
    def abort(self) -> None: ...


class _Waiting:
    def __init__(self) -> None:
        self._fresh: dict[Stranger, bytes] = {}
        self._others: dict[Stranger, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._fresh or self._others)

    def put(self, connection: Stranger, data: bytes) -> None:
        before = self.remove(connection)
        (self._fresh if connection.used < FRESH_S else self._others)[connection] = before + data

    def next(self) -> tuple[Stranger, bytes]:
        return (self._fresh or self._others).popitem()

    def remove(self, connection: Stranger) -> bytes:
        return self._fresh.pop(connection, b"") or self._others.pop(connection, b"")


class LoopShare:
    """Processes the bytes of strangers within a share of the event loop's time. Their addresses take fair turns.

    Source: Goyal, Vin and Cheng, "Start-time Fair Queuing" (1997). Each address has a tag, and the address with the smallest
    tag is served next. A tag grows by the time that the address uses, so an address with few requests does not wait for busy
    addresses. A tag is at least the tag that was served last, so an idle address saves up no time.

    While requests with a credential are in progress, strangers get the share `busy`, else the share `idle`.
    """

    def __init__(self, busy: float = BUSY, idle: float = IDLE) -> None:
        self.busy, self.idle = busy, idle
        self.at_work = 0  # requests in progress of peers with a credential
        self._left, self._then = BURST_S, time.monotonic()
        self._now = 0.0  # the tag that was served last
        self._tags: dict[str, float] = {}  # by address, those above `_now`
        self._waiting: dict[str, _Waiting] = {}
        self._queue: list[tuple[float, int, str]] = []  # a heap with an entry for each waiting address
        self._numbers = itertools.count()
        self._held = 0
        self._slice = 0.0  # seconds used in this iteration of the loop
        self._timer: asyncio.TimerHandle | None = None

    def take(self, connection: Stranger, data: bytes) -> None:
        """Process a stranger's bytes now, or hold them and stop reading the connection until its address has a turn.

        If too many bytes are held, the connection of a large piece of `data` is aborted.
        """
        if not self._waiting and self._slice < SLICE_S and self._time_left() > 0:
            if not self._slice:
                asyncio.get_running_loop().call_soon(self._end_slice)
            self._process(connection, data)
            return
        if len(data) > PIECE and self._held + len(data) > HELD:
            connection.abort()
            return
        self._held += len(data)
        connection.hold(True)
        if connection.address not in self._waiting:
            self._waiting[connection.address] = _Waiting()
            self._enqueue(connection.address)
        self._waiting[connection.address].put(connection, data)
        self._schedule()

    def charge(self, connection: Stranger, seconds: float) -> None:
        """Record that a stranger and its address have used `seconds` of the event loop's time."""
        connection.used += seconds
        self._left -= seconds
        self._delay(connection.address, seconds)

    def penalize(self, address: str) -> None:
        """Serve an address later, because one of its connections exceeded a limit."""
        self._delay(address, CUT_S)

    def forget(self, connection: Stranger) -> None:
        if (waiting := self._waiting.get(connection.address)) is not None:
            self._held -= len(waiting.remove(connection))

    def _delay(self, address: str, seconds: float) -> None:
        self._tags[address] = max(self._now, self._tags.get(address, 0.0)) + seconds
        if len(self._tags) > MOST_TAGS:
            self._tags = {each: tag for each, tag in self._tags.items() if tag > self._now}
            if len(self._tags) > MOST_TAGS // 2:  # else this clean-up would run again soon
                self._tags.clear()

    def _enqueue(self, address: str) -> None:
        tag = max(self._now, self._tags.get(address, 0.0))
        heapq.heappush(self._queue, (tag, next(self._numbers), address))

    def _time_left(self) -> float:
        now = time.monotonic()
        share = self.busy if self.at_work else self.idle
        self._left, self._then = min(BURST_S, self._left + share * (now - self._then)), now
        return self._left

    def _schedule(self) -> None:
        if self._timer is None:
            wait = max(0.0, -self._left) / (self.busy if self.at_work else self.idle)
            self._timer = asyncio.get_running_loop().call_later(wait, self._serve)

    def _end_slice(self) -> None:
        self._slice = 0.0

    def _serve(self) -> None:
        self._timer, self._slice = None, 0.0
        while self._queue and self._slice < SLICE_S and self._time_left() > 0:
            self._now, _, address = heapq.heappop(self._queue)
            if waiting := self._waiting[address]:
                connection, data = waiting.next()
                self._held -= len(data)
                if not connection.closing:
                    connection.hold(False)
                    self._process(connection, data)
            if waiting:
                self._enqueue(address)
            else:
                del self._waiting[address]
        if self._queue:
            self._schedule()

    def _process(self, connection: Stranger, data: bytes) -> None:
        start = time.thread_time()
        connection.process(data)
        passed = time.thread_time() - start
        self._slice += passed
        self.charge(connection, passed)


class metered(Coroutine[Any, Any, None]):  # noqa: N801  (used as a function)
    """A coroutine that runs `inner` and measures the processor time of each step between two waits.

    `spent` is called after each step, with the seconds of that step.
    """

    def __init__(self, inner: Coroutine[Any, Any, None], spent: Callable[[float], None]) -> None:
        self._inner, self._spent = inner, spent

    def send(self, value: Any) -> Any:
        start = time.thread_time()
        try:
            return self._inner.send(value)
        finally:
            self._spent(time.thread_time() - start)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._inner.__await__()
