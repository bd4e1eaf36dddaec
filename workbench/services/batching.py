"""Micro-batching: queued requests are joined into batches, which run on a compute pool.

::

    submit -> queue (429 if too many images are in flight) -> a lane is free: join queued jobs -> compute -> forward -> results

A lane is a thread of the pool. A job is a queued request. A batch starts as soon as a lane is free. Jobs that arrive meanwhile
form the next batch. If a batch is not full and the bodies of further requests are arriving, the batch waits for them, but only
a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
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
from ..processes import allowed_cores

__all__ = ["BATCH_MULTIPLE", "Batcher", "ComputePool", "Job"]

TASKS = Path("/proc/self/task")  # Linux lists a process's threads here
BATCH_MULTIPLE = 8  # images: larger batches are trimmed to a multiple of this
# all usual batch sizes up to 64 images
BATCHES = (*range(1, BATCH_MULTIPLE + 1), *range(2 * BATCH_MULTIPLE, 65, BATCH_MULTIPLE))

Part = TypeVar("Part")


@dataclass(eq=False)
class Job(Generic[Part]):
    """A queued request of `size` images. `work` is the input, and the future `answer` gets the result.

    Only jobs of the same `kind` share a batch. `deadline` is in the event loop's time.
    """

    work: Any = field(repr=False)
    size: int
    kind: Any
    answer: asyncio.Future[Part]
    deadline: float


class ComputePool:
    """A pool of `count` lanes. A lane is a worker thread, which computes one batch at a time with `threads` threads of torch.

    All other threads of the process compute single-threaded, because torch is slow with more threads than cores. If a single
    lane has a thread for each core, these threads are pinned, so that the scheduler does not wake two of them on one core.
    """

    def __init__(self, count: int = 1, threads: int = 1) -> None:
        torch.set_num_threads(1)
        start = _pin_team if count == 1 and threads == len(allowed_cores()) else torch.set_num_threads
        self.pool = ThreadPoolExecutor(count, "lane", initializer=start, initargs=(threads,))
        self._count, self._busy = count, 0

    def take(self) -> bool:
        """Reserve a free lane for one batch, and return True. Return False if no lane is free. `free` releases the lane."""
        if self._busy == self._count:
            return False
        self._busy += 1
        return True

    def free(self) -> None:
        self._busy -= 1

    def warm(self, function: Callable[[int], Any], most: int = BATCHES[-1]) -> None:
        """Call `function(n)` on every lane for the usual batch sizes n up to `most`. The first batch of a size is slow."""
        together = threading.Barrier(self._count)

        def every() -> None:
            together.wait()
            for n in BATCHES:
                if n <= most:
                    function(n)

        for done in [self.pool.submit(every) for _ in range(self._count)]:
            done.result()

    def close(self) -> None:
        self.pool.shutdown()


def _pin_team(threads: int) -> None:
    others = set(TASKS.iterdir())
    torch.set_num_threads(threads)
    torch.zeros(threads << 15).add_(1)  # starts all threads: torch gives each at least 2^15 numbers
    team = [0, *(int(task.name) for task in set(TASKS.iterdir()) - others)]  # 0 is the calling thread
    for thread, core in zip(team, allowed_cores(), strict=False):
        with contextlib.suppress(OSError):  # the thread has ended, or pinning is not permitted
            os.sched_setaffinity(thread, {core})


class Batcher(Generic[Part]):
    """Joins queued jobs into batches, and runs the batches on `lanes`.

    A lane computes a batch: `computed = compute(jobs)`. Then the event loop calls `forward(jobs, computed)`, which sets the
    answer of each job. Meanwhile the lane computes the next batch.

    A batch has at most `most` images, or one larger job. It waits up to `wait_s` seconds for arriving requests. At most
    `capacity` images may be in flight: queued, in a lane, or in `forward`.
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
        self.accepted = 0  # images in flight
        self.arriving = 0  # requests whose body is arriving
        self._lanes = lanes
        self._waiting: deque[Job[Part]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[asyncio.Task[None], list[Job[Part]]] = {}
        self._pace = 0.0  # seconds for each image, smoothed

    async def submit(self, work: Any, size: int, kind: Any, deadline: float) -> Part:
        """Queue a request of `size` images, and return the result. `work` is the input for `compute`.

        Only requests of the same `kind` share a batch. Raises ServiceError 429 if more than `capacity` images would be in
        flight, and 504 if `deadline` (the event loop's time) passes.
        """
        if self.accepted + size > self.capacity:
            after = max(1, math.ceil(self._pace * self.accepted))
            raise ServiceError(f"the queue is full ({self.accepted} images wait)", status=429, retry_after=after)
        loop = asyncio.get_running_loop()
        job: Job[Part] = Job(work, size, kind, loop.create_future(), deadline)
        self.accepted += size
        try:
            self._waiting.append(job)
            loop.call_soon(self._dispatch)  # after all requests that arrive in this iteration of the loop
            async with asyncio.timeout_at(deadline):
                return await job.answer
        except TimeoutError:
            with contextlib.suppress(ValueError):  # the job is already in a batch
                self._waiting.remove(job)
            raise ServiceError("the deadline passed before the answer was there", status=504) from None
        finally:
            self.accepted -= size

    def settled(self) -> None:
        """Report that an arriving request is complete or lost, so that no batch waits for this request any longer."""
        self.arriving -= 1
        if not self.arriving and self._waiting:
            asyncio.get_running_loop().call_soon(self._dispatch)

    async def close(self) -> None:
        """Cancel the batches whose requests have all ended, and wait for the other batches."""
        while self._running:
            for task, batch in self._running.items():
                if all(job.answer.done() for job in batch):
                    task.cancel()  # `forward` may retry until the deadline, which is up to ten minutes away
            await asyncio.wait(self._running)

    def _dispatch(self, ripe: bool = False) -> None:
        while self._waiting and self._lanes.take():
            if not ripe and self.arriving and self.wait_s and sum(job.size for job in self._waiting) < self.most:
                self._lanes.free()
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(self.wait_s, self._ripe)
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if batch := self._take():
                task = asyncio.create_task(self._run(batch))
                self._running[task] = batch
                task.add_done_callback(self._running.pop)
            else:
                self._lanes.free()
            ripe = False

    def _ripe(self) -> None:
        self._timer = None
        self._dispatch(ripe=True)

    def _take(self) -> list[Job[Part]]:
        batch: list[Job[Part]] = []
        later: list[Job[Part]] = []
        size = 0
        while self._waiting and size < self.most:
            job = self._waiting.popleft()
            if job.answer.done():
                continue
            if batch and (job.kind != batch[0].kind or size + job.size > self.most):
                later.append(job)
                continue
            batch.append(job)
            size += job.size
        self._waiting.extendleft(reversed(_trim_to_multiple(batch, size) + later))
        return batch

    async def _run(self, batch: list[Job[Part]]) -> None:
        start = time.perf_counter()
        try:
            try:
                computed = await asyncio.get_running_loop().run_in_executor(self._lanes.pool, self.compute, batch)
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
    # torch caches convolutions for each batch size: with every size cached, an edge took 100 MiB more memory
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
