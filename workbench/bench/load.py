"""Requests in a closed or an open loop, and the statistics of their latency.

::

    closed   `concurrency` clients; each sends a request after the response to the previous one: measures the throughput
    open     requests arrive at a rate, whether or not earlier requests are complete: measures the latency

In the open loop, a request's latency starts at its due time, even if it is sent later. So if a service stalls for a second, the
delay counts for every request that was due in that second (no coordinated omission).

Latencies in a queue are correlated: one slow second delays hundreds of requests. So a measurement starts with a warm-up that is
not recorded, and lasts long compared with the queue's relaxation time (`relaxation_s`). Intervals come from a bootstrap of
blocks (Kuensch 1989). Intervals for independent samples would be far too narrow.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UsageError, WorkbenchError
from ..metrics import Estimate, percentile

__all__ = ["PERCENTS", "Load", "closed_loop", "open_loop", "percentile_of_blocks", "relaxation_s"]

PERCENTS = (50, 95, 99)
BLOCKS = 20  # number of blocks in a window, each resampled as a whole
RESAMPLES = 400
WARM_UP = 5.0  # length of the warm-up, in relaxation times
FORGET = 50.0  # length of a window after the warm-up, in relaxation times

Send = Callable[[int], Awaitable[int]]  # sends request k, returns its number of images


def relaxation_s(rate: float, capacity: float) -> float:
    """Return the relaxation time of an M/M/1 queue (s): 1 / (sqrt(capacity) - sqrt(rate))^2.

    The relaxation time is the time constant with which the queue forgets its past (Cohen, The Single Server Queue). `rate` and
    `capacity` are in requests a second. If service times vary less than in an M/M/1 queue, the relaxation time is shorter.
    Raises UsageError unless the rate is below the capacity.
    """
    if not 0 < rate < capacity:
        raise UsageError(f"an open loop needs a rate above 0 and below the capacity, got {rate:g} of {capacity:g} a second")
    return 1 / (math.sqrt(capacity) - math.sqrt(rate)) ** 2


def percentile_of_blocks(values: Sequence[float], percent: float) -> Estimate:
    """Return a percentile of correlated values, with the 95 % interval of a moving-block bootstrap.

    `values` are in order of time. A resample joins `BLOCKS` blocks of consecutive values, drawn at random. Blocks must be
    longer than the time over which values are correlated. A measurement over `FORGET` relaxation times of the queue ensures
    this. If a block would have fewer than two values, the interval is that of independent values.
    """
    x = np.asarray(values, dtype=np.float64)
    length = len(x) // BLOCKS
    if length < 2:
        return percentile(values, percent)
    starts = np.random.default_rng(0).integers(0, len(x) - length + 1, (RESAMPLES, BLOCKS))
    order = np.argsort(x, kind="stable")
    ranks = np.empty(len(x), np.int64)  # faster to partition than the values
    ranks[order] = np.arange(len(x))
    every_block = np.lib.stride_tricks.sliding_window_view(ranks, length)
    at = math.ceil(percent / 100 * BLOCKS * length) - 1
    drawn = [x[order[np.partition(every_block[firsts].ravel(), at)[at]]] for firsts in starts]
    value = float(np.percentile(x, percent))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(value, min(value, float(low)), max(value, float(high)), len(x))


@dataclass
class Load:
    """The record of a closed or an open loop.

    `milliseconds` has the latency of each completed request, in order of time. `errors` maps an error's text to its count.
    `warm_up` counts the completed requests of the warm-up. Neither `milliseconds` nor `images` includes these requests.
    """

    kind: str
    images: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0  # CPU time (s) of the load generator, which may share the services' cores
    milliseconds: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)  # delays of the load generator itself (ms), in an open loop
    warm_up: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """The throughput in images a second."""
        return self.images / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values. Percentiles have 95 % intervals from blocks of requests."""
        result: dict[str, Any] = {"loop": self.kind, "requests": len(self.milliseconds), "images": self.images}
        result |= {
            "warm_up": self.warm_up,
            "seconds": round(self.seconds, 3),
            "generator_cpu_s": round(self.cpu_s, 3),
            "images_per_s": round(self.rate, 2),
            "errors": dict(self.errors),
        }
        if self.milliseconds:
            result["ms"] = {f"p{each}": percentile_of_blocks(self.milliseconds, each).as_dict() for each in PERCENTS}
        if self.late_ms:
            result["generator_late_ms"] = {f"p{each}": float(np.percentile(self.late_ms, each)) for each in PERCENTS}
        return result


async def closed_loop(send: Send, concurrency: int, seconds: float) -> Load:
    """Keep `concurrency` requests in flight for `seconds`, then wait for the last responses, which also count.

    `send(k)` sends request k, and returns its number of images.
    """
    load = Load(f"closed, {concurrency} at once")
    start, cpu = time.perf_counter(), time.process_time()
    numbers = iter(range(1 << 62))

    async def client() -> None:
        while (began := time.perf_counter()) < start + seconds:
            await _one(load, send, next(numbers), began)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    load.seconds, load.cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return load


async def open_loop(send: Send, rate: float, seconds: float, seed: int = 0, warm_up_s: float = 0.0) -> Load:
    """Send requests at random times, `rate` per second on average, and wait for all responses.

    The times are a Poisson process, drawn with `seed`. `send(k)` sends request k, and returns its number of images. First comes
    a warm-up of `warm_up_s` seconds, which is not recorded. Then come the measured `seconds`. Latencies are in the order of the
    due times.
    """
    load = Load(f"open, {rate:.0f} a second")
    before, count = round(rate * warm_up_s), max(1, round(rate * seconds))
    gaps = np.random.default_rng(seed).exponential(1 / rate, before + count)
    times: dict[int, float] = {}
    start, cpu = time.perf_counter(), time.process_time()
    under_way: set[asyncio.Task[None]] = set()
    for number, due in enumerate(start + np.cumsum(gaps)):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if number == before:
            began, cpu = time.perf_counter(), time.process_time()
        if number >= before:
            load.late_ms.append(1e3 * (time.perf_counter() - due))
        task = asyncio.create_task(_timed(load if number >= before else Load("warm-up"), times, send, number, due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.wait(under_way)
    load.milliseconds = [times[number] for number in sorted(times) if number >= before]
    load.warm_up = sum(number < before for number in times)
    load.seconds, load.cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return load


async def _timed(load: Load, times: dict[int, float], send: Send, number: int, due: float) -> None:
    if await _one(load, send, number, due):
        times[number] = load.milliseconds[-1]


async def _one(load: Load, send: Send, number: int, began: float) -> bool:
    try:
        images = await send(number)
    except WorkbenchError as error:
        load.errors[str(error)] += 1
        await asyncio.sleep(0)
        return False
    load.images += images
    load.milliseconds.append(1e3 * (time.perf_counter() - began))
    return True
