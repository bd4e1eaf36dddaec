"""Requests joined to micro-batches, computed on lanes, within a bounded queue.

::

    submit -> queue (bounded in images; full: refused) -> a lane is free: join what waits -> lane -> forward -> each its part

A batch starts as soon as a lane is free; what arrives meanwhile forms the next one. Only where further requests are known to be
arriving does a batch wait for them, and not for long. Nothing waits for a neighbour: what takes long to prepare is prepared
before it joins.

Few pictures have all cores, for their answer's sake. Of many, each core computes a batch of its own: none then waits for
another at every layer, and what else the process does holds up one of them, not all.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from ..errors import ServiceError

__all__ = ["BATCH_MULTIPLE", "Batcher", "ComputePool", "Job"]

TASKS = Path("/proc/self/task")  # where Linux lists a process's threads
BATCH_MULTIPLE = 8  # images, of which a larger batch has a multiple where it can
BATCHES = (
    *range(1, BATCH_MULTIPLE + 1),
    *range(2 * BATCH_MULTIPLE, 65, BATCH_MULTIPLE),
)  # images: what joining brings, but for larger ones

Part = TypeVar("Part")


@dataclass(eq=False)
class Job(Generic[Part]):
    """A request in the queue: `size` images, joined with others of the same `kind`; `answer` is where its part is put."""

    work: Any = field(repr=False)
    size: int
    kind: Any
    answer: asyncio.Future[Part]
    deadline: float
    arrived: float = field(default_factory=time.perf_counter)


class ComputePool:
    """Threads that compute, each with as many of torch's as `threads` says.

    Nothing else in a process may compute with more than one: each thread that does has a team of its own, and teams that are
    more than the cores take turns in sleeping, which costs half of the time of a single image.

    Where one lane has a thread for each core, each thread keeps to a core of its own. A scheduler that wakes a team after a
    rest may put two of them on one core, where each waits for the other at every layer: a picture that comes alone then takes
    three times as long. With as many threads as cores nothing is lost by it; several lanes stay with the scheduler, for
    another process's could have chosen the same cores.

    Such a lane can be had in parts, too (`split`): then there are as many narrow ones beside it, of a thread and a core each.
    The whole and its parts never compute at the same time.
    """

    def __init__(self, count: int = 1, threads: int = 1, split: bool = False) -> None:
        torch.set_num_threads(1)
        whole = count == 1 and threads == len(_cores())
        start = _pin_team if whole else torch.set_num_threads
        self.pool = ThreadPoolExecutor(count, "lane", initializer=start, initargs=(threads,))
        self._counts = {self.pool: count}  # of batches at once
        self._narrow: ThreadPoolExecutor | None = None
        if split and whole and threads > 1:
            cores = iter(_cores())
            self._narrow = ThreadPoolExecutor(threads, "part", lambda: _pin_one(next(cores)))
            self._counts[self._narrow] = threads
        self._least = BATCH_MULTIPLE * (threads + 1)  # images that are worth it: for each part, and on their way back
        self._busy, self._used = 0, self.pool

    def parts(self, requests: int, images: int) -> int:
        """Return into how many parts the lane is split while so much is unanswered: 0 where each lacks work."""
        count = self._counts[self._narrow] if self._narrow is not None else 0
        return count if requests >= count and images >= self._least else 0

    def take(self, parts: int) -> ThreadPoolExecutor | None:
        """Return where a batch can be computed now, if anywhere: on one of so many parts (0: on a whole lane); then `free`."""
        pool = self._narrow if self._narrow is not None and parts else self.pool
        if self._busy and (pool is not self._used or self._busy == self._counts[pool]):
            return None
        self._busy, self._used = self._busy + 1, pool
        return pool

    def free(self) -> None:
        """Take note that a batch has been computed."""
        self._busy -= 1

    def warm(self, function: Callable[[int], Any], most: int = BATCHES[-1]) -> None:
        """Run a function of n images for the batches that there will be, to `most`: the first of each takes far longer."""
        count, narrow = self._counts[self.pool], self._narrow
        together = threading.Barrier(count)
        sizes = [n for n in BATCHES if n <= most]
        whole = sizes if narrow is None else [n for n in sizes if n < self._least]

        def every() -> None:
            together.wait()
            for n in whole:
                function(n)

        for done in [self.pool.submit(every) for _ in range(count)]:
            done.result()
        if narrow is not None:  # what one of them has compiled is compiled for all
            list(narrow.map(function, [n for n in sizes if n >= BATCH_MULTIPLE]))

    def close(self) -> None:
        """Finish what runs, and end them."""
        for pool in self._counts:
            pool.shutdown()


def _cores() -> list[int]:
    """Return the cores that this process may use; none where threads cannot be told to keep to one (macOS, Windows)."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def _pin_team(threads: int) -> None:
    """Have torch make its threads for the one that calls, and put these and itself on a core each."""
    others = set(TASKS.iterdir())
    torch.set_num_threads(threads)
    torch.zeros(threads << 15).add_(1)  # torch gives a thread no less than 2^15 numbers
    team = [0, *(int(task.name) for task in set(TASKS.iterdir()) - others)]  # 0: the one that calls
    for thread, core in zip(team, _cores(), strict=False):
        with contextlib.suppress(OSError):  # it has ended, or this is not for a process to choose
            os.sched_setaffinity(thread, {core})


def _pin_one(core: int) -> None:
    """Have the thread that calls compute by itself, on this core."""
    torch.set_num_threads(1)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})


class Batcher(Generic[Part]):
    """Joins jobs and runs them: `compute` on a lane (a thread), then `forward` beside the next batch.

    `compute(jobs)` returns what `forward(jobs, computed)` sends on; `forward` sets each job's answer. `most` images are joined,
    `capacity` may be accepted and unanswered, `wait_s` is how long a batch waits for requests that are arriving.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Job[Part]]], Any],
        forward: Callable[[Sequence[Job[Part]], Any], Awaitable[None]],
        *,
        lanes: ComputePool,
        most: int = 256,
        capacity: int = 1024,
        wait_s: float = 0.002,
    ) -> None:
        self.compute, self.forward = compute, forward
        self.most, self.capacity, self.wait_s = most, capacity, wait_s
        self.accepted = 0  # images, not yet answered
        self._requests = 0  # of those that were submitted
        self.arriving = 0  # requests whose body is on its way
        self._lanes = lanes
        self._waiting: deque[Job[Part]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._pace = 0.0  # seconds an image, smoothed

    async def submit(self, work: Any, size: int, kind: Any, deadline: float) -> Part:
        """Return the answer to a request; ServiceError 429 where the queue is full, 504 where `deadline` (loop time) passes."""
        if self.accepted + size > self.capacity:
            after = max(1, math.ceil(self._pace * self.accepted))
            raise ServiceError(f"the queue is full ({self.accepted} images wait)", status=429, retry_after=after)
        loop = asyncio.get_running_loop()
        job: Job[Part] = Job(work, size, kind, loop.create_future(), deadline)
        self.accepted += size
        self._requests += 1
        try:
            self._waiting.append(job)
            loop.call_soon(self._dispatch)  # after those that arrived in the same breath
            async with asyncio.timeout_at(deadline):
                return await job.answer
        except TimeoutError:
            with contextlib.suppress(ValueError):  # it is in a batch by now
                self._waiting.remove(job)
            raise ServiceError("the deadline passed before the answer was there", status=504) from None
        finally:
            self.accepted -= size
            self._requests -= 1

    def settled(self) -> None:
        """Take note that a request has arrived whole, or never will: what waited for it may start."""
        self.arriving -= 1
        if not self.arriving and self._waiting:
            asyncio.get_running_loop().call_soon(self._dispatch)

    async def close(self) -> None:
        """Wait for what runs."""
        while self._running:
            await asyncio.wait(self._running)

    def _dispatch(self, ripe: bool = False) -> None:
        """Start batches while there is a lane; `ripe` once the first has waited long enough."""
        while self._waiting and (pool := self._lanes.take(self._parts())) is not None:
            if not ripe and self.arriving and self.wait_s and sum(job.size for job in self._waiting) < self._batch_limit():
                self._lanes.free()
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(self.wait_s, self._ripe)
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if batch := self._take():
                task = asyncio.create_task(self._run(batch, pool))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            else:
                self._lanes.free()
            ripe = False

    def _ripe(self) -> None:
        self._timer = None
        self._dispatch(ripe=True)

    def _parts(self) -> int:
        return self._lanes.parts(self._requests, self.accepted)

    def _batch_limit(self) -> int:
        """Return how many images a batch may have: on a part of a lane, no more than are on their way back meanwhile."""
        parts = self._parts()
        return min(self.most, -(-self.accepted // (parts + 1))) if parts else self.most

    def _take(self) -> list[Job[Part]]:
        """Take the oldest job and those of its kind that fit beside it; what nobody waits for any more falls out."""
        batch: list[Job[Part]] = []
        later: list[Job[Part]] = []
        size, most = 0, self._batch_limit()
        while self._waiting and size < most:
            job = self._waiting.popleft()
            if job.answer.done():
                continue
            if batch and (job.kind != batch[0].kind or size + job.size > most):
                later.append(job)
                continue
            batch.append(job)
            size += job.size
        self._waiting.extendleft(reversed(_trim_to_multiple(batch, size) + later))
        return batch

    async def _run(self, batch: list[Job[Part]], pool: ThreadPoolExecutor) -> None:
        start = time.perf_counter()
        try:
            try:
                computed = await asyncio.get_running_loop().run_in_executor(pool, self.compute, batch)
            finally:
                pace = (time.perf_counter() - start) / sum(job.size for job in batch)
                self._pace = pace if not self._pace else 0.8 * self._pace + 0.2 * pace
                self._lanes.free()
                self._dispatch()
            await self.forward(batch, computed)
        except Exception as error:
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)


def _trim_to_multiple(batch: list[Job[Part]], size: int) -> list[Job[Part]]:
    """Take from a batch the last few jobs that are more than a multiple of `BATCH_MULTIPLE` images, and return them.

    Convolutions are compiled for each number of images anew, and what is compiled is kept: for all numbers, half a gigabyte.
    """
    left = size
    for kept in range(len(batch), 0, -1):
        if left <= BATCH_MULTIPLE or left % BATCH_MULTIPLE == 0:
            odd = batch[kept:]
            del batch[kept:]
            return odd
        left -= batch[kept - 1].size
        if size - left >= BATCH_MULTIPLE:
            break
    return []
