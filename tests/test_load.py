"""Loads: what a closed and an open loop count, and that a service which stands still is charged for all that should have come."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from workbench.bench.load import Load, closed_loop, open_loop
from workbench.errors import ServiceError


class Counter:
    """Something that answers after a while, and knows how many asked it at once."""

    def __init__(self, seconds: float = 0.002, still: float = 0.0) -> None:
        self.seconds, self.still = seconds, still
        self.numbers: list[int] = []
        self.now = self.most = 0

    async def __call__(self, number: int) -> int:
        self.numbers.append(number)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.still if number == 0 and self.still else self.seconds)
        self.now -= 1
        return 3


@pytest.mark.parametrize("clients", [1, 5])
def test_a_closed_loop_keeps_as_many_requests_under_way_as_it_has_clients(clients: int) -> None:
    send = Counter()
    load = asyncio.run(closed_loop(send, clients, 0.1))
    assert send.most == clients
    assert sorted(send.numbers) == list(range(len(send.numbers))), "each number is sent once"
    assert load.images == 3 * len(send.numbers) == 3 * len(load.milliseconds)
    assert min(load.milliseconds) >= 1.9
    assert load.rate == pytest.approx(load.images / load.seconds)
    assert load.seconds >= 0.1
    assert not load.late_ms


def test_an_open_loop_sends_at_its_rate_whether_or_not_others_are_answered() -> None:
    send = Counter(seconds=0.5)
    load = asyncio.run(open_loop(send, 100, 0.3, seed=1))
    assert len(send.numbers) == 30
    assert send.most > 20
    assert load.images == 90
    assert min(load.milliseconds) >= 499


def test_moments_of_an_open_loop_are_its_seeds() -> None:
    class Clock(Counter):
        async def __call__(self, number: int) -> int:
            self.numbers.append(asyncio.get_running_loop().time())  # type: ignore[arg-type]
            return 1

    sends = [Clock() for _ in range(2)]
    for send in sends:
        asyncio.run(open_loop(send, 40, 1.0, seed=7))  # gaps that a busy machine does not fill
    gaps = [np.diff(send.numbers) for send in sends]
    wanted = np.random.default_rng(7).exponential(1 / 40, 40)[1:]
    for each in gaps:
        assert np.corrcoef(each, wanted)[0, 1] > 0.5


def test_who_comes_while_all_stands_still_is_charged_from_when_it_was_due() -> None:
    """No coordinated omission: a generator that is held up itself counts from the plan, not from when it got round to sending."""

    async def blocked() -> Load:
        async def send(number: int) -> int:
            if number == 0:
                import time

                time.sleep(0.3)  # the whole loop stands, the generator too
            return 1

        return await open_loop(send, 100, 0.2)

    load = asyncio.run(blocked())
    assert sum(each > 100 for each in load.milliseconds) > 5
    assert max(load.late_ms) > 100


def test_refusals_are_counted_by_their_words_and_are_no_images() -> None:
    async def send(number: int) -> int:
        await asyncio.sleep(0.001)
        if number % 2:
            raise ServiceError("the queue is full", status=429)
        return 1

    load = asyncio.run(closed_loop(send, 2, 0.2))  # long enough for a busy machine, too
    told = load.as_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["errors"] == {"the queue is full": load.errors.total()}
    assert load.errors.total() > 3
    assert told["images"] == told["requests"] > 3
    assert told["ms"]["p50"]["low"] <= told["ms"]["p50"]["value"] <= told["ms"]["p50"]["high"]


def test_a_load_that_nobody_answered_has_no_percentiles() -> None:
    async def send(number: int) -> int:
        raise ServiceError("no")

    assert "ms" not in asyncio.run(closed_loop(send, 1, 0.01)).as_dict()
