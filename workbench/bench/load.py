"""Requests in a closed or an open loop, and what came of them.

::

    closed   `concurrency` clients, each sends its next request when it has its answer: how much gets through
    open     requests come at a rate, whether or not others are answered: how long one waits who comes then

In the open loop a request's time counts from when it was due, not from when it could be sent: a service that stands still for a
second is charged for all that should have come meanwhile (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import WorkbenchError
from ..metrics import percentile

__all__ = ["PERCENTS", "Load", "closed_loop", "open_loop"]

PERCENTS = (50, 95, 99)

Send = Callable[[int], Awaitable[int]]  # sends request k, returns how many images were answered


@dataclass
class Load:
    """What a load was, in which time, and each answer's milliseconds; errors are counted by their text."""

    kind: str
    images: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0  # that the generator took, where it shares the services' cores
    milliseconds: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)  # how late the generator itself was, in an open loop
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values: percentiles with their 95 % intervals."""
        told: dict[str, Any] = {"loop": self.kind, "requests": len(self.milliseconds), "images": self.images}
        told |= {
            "seconds": round(self.seconds, 3),
            "generator_cpu_s": round(self.cpu_s, 3),
            "images_per_s": round(self.rate, 2),
            "errors": dict(self.errors),
        }
        if self.milliseconds:
            told["ms"] = {f"p{each}": percentile(self.milliseconds, each).as_dict() for each in PERCENTS}
        if self.late_ms:
            told["generator_late_ms"] = {f"p{each}": float(np.percentile(self.late_ms, each)) for each in PERCENTS}
        return told


async def closed_loop(send: Send, concurrency: int, seconds: float) -> Load:
    """Keep `concurrency` requests under way for some seconds; those under way at the end are waited for and count."""
    load = Load(f"closed, {concurrency} at once")
    start, cpu = time.perf_counter(), time.process_time()
    numbers = iter(range(1 << 62))

    async def client() -> None:
        while (began := time.perf_counter()) < start + seconds:
            await _one(load, send, next(numbers), began)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    load.seconds, load.cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return load


async def open_loop(send: Send, rate: float, seconds: float, seed: int = 0) -> Load:
    """Send requests at a rate (a second) for some seconds, at random moments (Poisson); wait for all of them."""
    load = Load(f"open, {rate:.0f} a second")
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    start, cpu = time.perf_counter(), time.process_time()
    under_way: set[asyncio.Task[None]] = set()
    for number, due in enumerate(start + np.cumsum(gaps)):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        load.late_ms.append(1e3 * (time.perf_counter() - due))
        task = asyncio.create_task(_one(load, send, number, due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.wait(under_way)
    load.seconds, load.cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return load


async def _one(load: Load, send: Send, number: int, began: float) -> None:
    try:
        images = await send(number)
    except WorkbenchError as error:
        load.errors[str(error)] += 1
        await asyncio.sleep(0)
    else:
        load.images += images
        load.milliseconds.append(1e3 * (time.perf_counter() - began))
