"""Requests joined to micro-batches: which ones are joined, which are refused, and that no request waits for another's work."""

from __future__ import annotations

import asyncio
import io
import os
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.services import Answered, Both, ask, form_of, measured, occupied, on_loop
from tests.support.waiting import until
from workbench.errors import ServiceError
from workbench.protocol import LENGTH_HEADER, Tensor, write_request
from workbench.services import cloud as cloud_module
from workbench.services.batching import BATCHES, TASKS, Batcher, ComputePool, Job
from workbench.services.cloud import CloudService
from workbench.services.edge import EdgeService

FAR = 1e9  # loop time
MOST = 16
INFER = "/v2/models/resnet18/infer"
EDGE = {"least_strength": 0.0, "most": MOST, "capacity": MOST}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


class Scene:
    def __init__(self, both: Both, pool: ThreadPoolExecutor) -> None:
        assert isinstance(both.edge.service, EdgeService)
        assert isinstance(both.cloud.service, CloudService)
        self.edge, self.cloud, self.both, self.pool = both.edge.service, both.cloud.service, both, pool
        self.before = measured(both.cloud.url, both.certs, "edge")

    def send(self, file: bytes, wait: bool = True, **headers: str) -> Future[Answered]:
        waiting = self.edge.waiting
        named = {f"X-{name}": value for name, value in headers.items()}
        answer = self.pool.submit(ask, self.both.edge.url, "/recognize", file, self.both.certs, headers=named)
        if wait:
            until(lambda: self.edge.waiting == waiting + 1)
        return answer

    def payloads(self, name: str = "pmc2_requests_total 200") -> int:
        now = measured(self.both.cloud.url, self.both.certs, "edge")
        return int(now.get(name, 0) - self.before.get(name, 0))

    @property
    def lanes(self) -> ThreadPoolExecutor:
        return self.edge._lanes.pool


@pytest.fixture
def scene(both: Both, pool: ThreadPoolExecutor) -> Iterator[Scene]:
    scene = Scene(both, pool)
    yield scene
    until(lambda: scene.edge.waiting == scene.cloud.waiting == 0)


def scores(answer: Answered) -> list[float]:
    assert answer.status == 200
    (result,) = answer.json["results"]
    found: list[float] = result["scores"]
    return found


def photograph(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def test_requests_that_wait_together_cross_in_one_payload(scene: Scene, files: list[bytes]) -> None:
    with occupied(scene.lanes):
        answers = [scene.send(file) for file in files[:6]]
    together = [scores(answer.result()) for answer in answers]
    assert scene.payloads() == 2  # the first had already started
    assert scene.payloads("pmc2_images_total") == 6
    for file, row in zip(files, together, strict=False):
        assert scores(scene.send(file, wait=False).result()) == pytest.approx(row, abs=1e-5)


def test_shares_of_a_payload_sum_to_its_bytes(scene: Scene, files: list[bytes]) -> None:
    def edge(name: str) -> float:
        return measured(scene.both.edge.url, scene.both.certs).get(name, 0.0)

    images, before = edge("pmc2_images_total"), edge("pmc2_payload_bytes_total")
    with occupied(scene.lanes):
        answers = [scene.send(file) for file in files[:7]]
    shares = [answer.result().json["payload_bytes"] for answer in answers]
    until(lambda: edge("pmc2_images_total") == images + 7)
    until(lambda: scene.payloads() == 2)
    sent = scene.payloads("pmc2_payload_bytes_total")
    assert sum(shares) == pytest.approx(sent, abs=0.01)
    assert edge("pmc2_payload_bytes_total") - before == pytest.approx(sent)


def test_strengths_are_not_joined(scene: Scene, files: list[bytes]) -> None:
    with occupied(scene.lanes):
        first = scene.send(files[0])
        answers = [scene.send(files[1], Strength=strength) for strength in ("1", "0.5", "1", "0.5")]
    strong, weak, strong_too, weak_too = [scores(answer.result()) for answer in answers]
    scores(first.result())
    assert scene.payloads() == 3
    assert (strong, weak) == (pytest.approx(strong_too, abs=1e-5), pytest.approx(weak_too, abs=1e-5))
    assert strong != pytest.approx(weak, abs=1e-3)


def test_a_bad_picture_fails_its_own_request_alone(scene: Scene, files: list[bytes]) -> None:
    alone = [scores(scene.send(file, wait=False).result()) for file in files[1:3]]
    payloads = scene.payloads()
    with occupied(scene.lanes):
        scene.send(files[0])
        answers = [scene.send(file) for file in (files[1], b"no picture", files[2], files[3][:200])]
    good, bad, better, cut = [answer.result() for answer in answers]
    assert (bad.status, cut.status) == (400, 400)
    assert [scores(good), scores(better)] == [pytest.approx(row, abs=1e-5) for row in alone]
    assert scene.payloads() == payloads + 2


def test_the_queue_is_bounded(scene: Scene, files: list[bytes]) -> None:
    body, form = form_of(files[:MOST])
    with occupied(scene.lanes):
        accepted = scene.pool.submit(ask, scene.both.edge.url, "/recognize", body, scene.both.certs, headers=form)
        until(lambda: scene.edge.waiting == MOST)
        for file in (files[0], photograph(300, 300)):
            refused = ask(scene.both.edge.url, "/recognize", file, scene.both.certs)
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "the queue is full" in refused.json["error"]
    assert len(accepted.result().json["results"]) == MOST
    assert ask(scene.both.edge.url, "/recognize", files[0], scene.both.certs).status == 200


def test_what_is_too_late_is_answered_so_and_not_computed(scene: Scene, files: list[bytes]) -> None:
    with occupied(scene.lanes):
        first = scene.send(files[0])
        late = [scene.send(file, Timeout="0.5") for file in files[1:4]]
        for answer in late:
            assert answer.result().status == 504
            assert answer.result().json == {"error": "the deadline passed before the answer was there"}
        until(lambda: scene.edge.waiting == 1)
        last = scene.send(files[4])
    scores(first.result())
    scores(last.result())
    assert scene.payloads("pmc2_images_total") == 2


def test_a_cloud_that_is_late_is_a_gateways_timeout(scene: Scene, files: list[bytes]) -> None:
    with occupied(scene.cloud._lanes.pool):
        assert scene.send(files[0], Timeout="0.5").result().status == 504
        body, length = write_request([Tensor.of("payload", [b"x"])], parameters={"timeout": 200_000})
        headers = {LENGTH_HEADER: length}
        answer = ask(scene.both.cloud.url, INFER, body, scene.both.certs, "edge", headers)
        assert (answer.status, answer.json) == (504, {"error": "the deadline passed before the answer was there"})


def test_the_cloud_bounds_what_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_module, "MOST_WAITING", 1)
    body, length = write_request([Tensor.of("payload", [b"x"])])

    def sent() -> Answered:
        return ask(scene.both.cloud.url, INFER, body, scene.both.certs, "edge", {LENGTH_HEADER: length})

    with occupied(scene.cloud._lanes.pool):
        first = scene.pool.submit(sent)
        until(lambda: scene.cloud.waiting == 1)
        refused = sent()
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert first.result().status == 400


@pytest.mark.parametrize("kind", ["long", "wide"])
def test_a_large_picture_holds_no_small_one_up(scene: Scene, files: list[bytes], kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 1500), "teal").save(buffer, "PNG")  # few bytes, but large dimensions in its header
    large = photograph(700, 500) if kind == "long" else buffer.getvalue()
    assert (len(large) > 16 << 10) == (kind == "long")
    with occupied(scene.edge._decoder.pool):
        slow = scene.send(large)
        for file in files[:3]:
            scores(scene.send(file, wait=False).result())
        assert not slow.done()
    scores(slow.result())


def test_a_large_picture_that_is_none_is_refused(scene: Scene) -> None:
    answer = scene.send(b"\xff\xd8" + bytes(100_000), wait=False).result()
    assert answer.status == 400
    assert "cannot be read" in answer.json["error"]


def test_a_large_picture_that_is_too_late_leaves_no_trace(scene: Scene) -> None:
    with occupied(scene.edge._decoder.pool):
        answer = scene.send(photograph(300, 300), Timeout="0.3").result()
        assert answer.status == 504
        until(lambda: scene.edge.waiting == 0)


class Joined:
    def __init__(self, lanes: ComputePool, **options: Any) -> None:
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.batcher: Batcher[Any] = Batcher(self.compute, self.forward, lanes=lanes, **{"wait_s": 0.0} | options)

    def compute(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        self.batches.append([job.work for job in jobs])
        assert self.gate.wait(30)
        if any(job.work == "broken" for job in jobs):
            raise ValueError("broken")
        return [job.work for job in jobs]

    async def forward(self, jobs: Sequence[Job[Any]], computed: list[Any]) -> None:
        await asyncio.sleep(0)
        for job, work in zip(jobs, computed, strict=True):
            if work == "lost":
                raise ServiceError("lost")
            if not job.answer.done():
                job.answer.set_result(work)

    def submit(self, work: Any, size: int = 1, kind: Any = 1.0, deadline: float = FAR) -> asyncio.Task[Any]:
        return asyncio.create_task(self.batcher.submit(work, size, kind, deadline))

    async def started(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.batches) < count:
                await asyncio.sleep(0.001)


@pytest.fixture
def lanes() -> Iterator[ComputePool]:
    lanes = ComputePool()
    yield lanes
    lanes.close()


@on_loop
async def test_what_arrives_in_one_breath_is_joined(lanes: ComputePool) -> None:
    joined = Joined(lanes)
    assert await asyncio.gather(*map(joined.submit, "abc")) == ["a", "b", "c"]
    assert joined.batches == [["a", "b", "c"]]
    assert joined.batcher.accepted == 0


@on_loop
async def test_what_arrives_while_the_lane_is_busy_is_the_next_batch(lanes: ComputePool) -> None:
    joined = Joined(lanes, most=5)
    joined.gate.clear()
    first = joined.submit("a")
    await joined.started(1)
    rest = [joined.submit("b", 2), joined.submit("c", 1, kind=0.5), joined.submit("d", 4), joined.submit("e", 3)]
    await asyncio.sleep(0)
    joined.gate.set()
    assert await asyncio.gather(first, *rest) == ["a", "b", "c", "d", "e"]
    assert joined.batches == [["a"], ["b", "e"], ["c"], ["d"]]  # the oldest job leads, and fitting ones join it


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([1] * 8, [8]),
        ([1] * 13, [8, 5]),
        ([1] * 30, [24, 6]),
        ([1] * 100, [96, 4]),
        ([3] * 9, [24, 3]),
        ([13], [13]),
        ([5, 8], [13]),
        ([9, 2], [11]),
        ([1, 12], [13]),
        ([16, 4, 4, 1], [24, 1]),
    ],
)
@on_loop
async def test_a_large_batch_is_a_multiple_of_eight_if_possible(
    lanes: ComputePool, sizes: list[int], batches: list[int]
) -> None:
    joined = Joined(lanes)
    joined.gate.clear()
    first = joined.submit(0)
    await joined.started(1)
    rest = [joined.submit(size, size) for size in sizes]
    await asyncio.sleep(0)
    joined.gate.set()
    assert await asyncio.gather(first, *rest) == [0, *sizes]
    assert [sum(batch) for batch in joined.batches[1:]] == batches


@on_loop
async def test_a_batch_waits_for_what_is_known_to_be_arriving(lanes: ComputePool) -> None:
    joined = Joined(lanes, wait_s=60.0)
    joined.batcher.arriving = 2
    first = joined.submit("a")
    await asyncio.sleep(0.01)
    assert joined.batches == []
    joined.batcher.settled()
    second = joined.submit("b")
    await asyncio.sleep(0.01)
    assert joined.batches == []
    joined.batcher.settled()
    async with asyncio.timeout(30):
        assert await asyncio.gather(first, second) == ["a", "b"]
    assert joined.batches == [["a", "b"]]


@on_loop
async def test_it_does_not_wait_for_long_nor_when_it_is_full(lanes: ComputePool) -> None:
    joined = Joined(lanes, wait_s=0.02, most=3)
    joined.batcher.arriving = 1  # a request that never arrives
    async with asyncio.timeout(30):
        assert await joined.submit("a") == "a"
    joined.batcher.wait_s = 60.0
    async with asyncio.timeout(30):
        assert await asyncio.gather(joined.submit("b"), joined.submit("c", 2)) == ["b", "c"]


@on_loop
async def test_a_full_queue_refuses_and_says_when_to_come_again(lanes: ComputePool) -> None:
    joined = Joined(lanes, capacity=4)
    joined.gate.clear()
    accepted = [joined.submit("a", 3), joined.submit("b", 1)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceError, match=r"the queue is full \(4 images wait\)") as caught:
        await joined.submit("c")
    assert caught.value.status == 429
    assert (caught.value.retry_after or 0) >= 1
    joined.gate.set()
    assert await asyncio.gather(*accepted) == ["a", "b"]
    assert await joined.submit("c", 4) == "c"


@on_loop
async def test_what_nobody_waits_for_falls_out(lanes: ComputePool) -> None:
    joined = Joined(lanes)
    joined.gate.clear()
    first = joined.submit("a")
    await joined.started(1)
    late = joined.submit("late", deadline=asyncio.get_running_loop().time() + 0.02)
    gone, last = joined.submit("gone"), joined.submit("b")
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(ServiceError) as caught:
        await late
    assert caught.value.status == 504
    assert joined.batcher.accepted == 2
    joined.gate.set()
    assert await asyncio.gather(first, last) == ["a", "b"]
    assert joined.batches == [["a"], ["b"]]


@on_loop
async def test_a_batch_whose_jobs_all_went_away_is_not_computed(lanes: ComputePool) -> None:
    joined = Joined(lanes)
    task = joined.submit("a")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    assert (joined.batches, joined.batcher.accepted) == ([], 0)
    assert await joined.submit("b") == "b"


@pytest.mark.parametrize(("work", "kind"), [("broken", ValueError), ("lost", ServiceError)])
@on_loop
async def test_a_batch_that_fails_fails_its_own_jobs_alone(lanes: ComputePool, work: str, kind: type[Exception]) -> None:
    joined = Joined(lanes)
    other = joined.submit("other", kind=0.5)
    failed = await asyncio.gather(joined.submit(work), joined.submit("beside"), return_exceptions=True)
    assert [type(error) for error in failed] == [kind, kind]
    assert await other == "other"
    assert await joined.submit("later") == "later"
    assert joined.batcher.accepted == 0


def placed(count: int, threads: int) -> list[set[int]]:
    others = set(TASKS.iterdir())
    lanes = ComputePool(count, threads)
    lanes.warm(lambda _: torch.zeros(threads << 15).add_(1))
    found = [os.sched_getaffinity(int(each.name)) for each in set(TASKS.iterdir()) - others]
    lanes.close()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="threads can be pinned on Linux only")
def test_the_threads_of_a_whole_lane_are_pinned_to_a_core_each() -> None:
    cores = os.sched_getaffinity(0)
    found = placed(1, len(cores))
    assert sorted(found, key=min) == [{core} for core in sorted(cores)]
    assert os.sched_getaffinity(0) == cores, "other threads may use all cores"
    for count, threads in ((2, len(cores)), (1, len(cores) + 1)):
        assert all(each == cores for each in placed(count, threads))


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (11, [*range(1, 9)]), (16, [*range(1, 9), 16]), (256, [*BATCHES])])
def test_it_is_warmed_for_no_larger_batches_than_there_will_be(most: int, sizes: list[int]) -> None:
    lanes, warmed = ComputePool(1), list[int]()
    lanes.warm(warmed.append, most)
    lanes.close()
    assert warmed == sizes


def test_lanes_compute_side_by_side() -> None:
    lanes, together = ComputePool(2), threading.Barrier(2, timeout=30)

    class Meeting(Joined):
        def compute(self, jobs: Sequence[Job[Any]]) -> list[Any]:
            together.wait()
            return super().compute(jobs)

    async def main() -> None:
        joined = Meeting(lanes, most=1)
        assert await asyncio.gather(joined.submit("a"), joined.submit("b")) == ["a", "b"]

    asyncio.run(main())
    lanes.close()


@on_loop
async def test_closing_waits_for_what_runs(lanes: ComputePool) -> None:
    joined = Joined(lanes)
    joined.gate.clear()
    answer = joined.submit("a")
    await joined.started(1)
    closing = asyncio.create_task(joined.batcher.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    joined.gate.set()
    await closing
    assert await answer == "a"


class Stuck(Joined):
    def __init__(self, lanes: ComputePool) -> None:
        super().__init__(lanes)
        self.reached, self.released = 0, asyncio.Event()

    async def forward(self, jobs: Sequence[Job[Any]], computed: list[Any]) -> None:
        self.reached += 1
        if "stuck" in computed:
            await asyncio.sleep(60)
        await self.released.wait()
        await super().forward(jobs, computed)


@on_loop
async def test_closing_cancels_batches_that_nobody_awaits(lanes: ComputePool) -> None:
    joined = Stuck(lanes)
    given_up = [joined.submit("stuck"), joined.submit("b")]
    awaited = [joined.submit("c", kind=0.5), joined.submit("d", kind=0.5)]
    async with asyncio.timeout(30):
        while joined.reached < 2:
            await asyncio.sleep(0.001)
    for task in (*given_up, awaited[1]):
        task.cancel()
    closing = asyncio.create_task(joined.batcher.close())
    async with asyncio.timeout(5):
        await asyncio.wait(given_up)
        await asyncio.sleep(0.01)
        assert not closing.done()
        joined.released.set()
        await closing
    assert await awaited[0] == "c"
    assert joined.batcher.accepted == 0


def test_warming_runs_on_every_lane() -> None:
    lanes, threads = ComputePool(3), set[int]()
    lanes.warm(lambda _: threads.add(threading.get_ident()))
    lanes.close()
    assert len(threads) == 3


def test_any_mix_is_answered_each_its_own(lanes: ComputePool) -> None:
    draw = random.Random(0)
    sizes, kinds = [draw.randint(1, 6) for _ in range(300)], [draw.choice([0.5, 1.0]) for _ in range(300)]

    async def main() -> list[list[int]]:
        joined = Joined(lanes, most=8, capacity=10_000)

        async def one(index: int) -> int:
            await asyncio.sleep(draw.random() / 50)
            answer: int = await joined.batcher.submit(index, sizes[index], kinds[index], FAR)
            return answer

        assert await asyncio.gather(*map(one, range(300))) == list(range(300))
        assert joined.batcher.accepted == 0
        return joined.batches

    batches = asyncio.run(main())
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    assert all(sum(sizes[index] for index in batch) <= 8 for batch in batches)
    assert all(len({kinds[index] for index in batch}) == 1 for batch in batches)
    assert len(batches) < 300
