"""The client: the order of its results, the requests that it repeats or not, and its thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.clock import Steps
from tests.support.servers import accepting
from tests.support.services import Both, Log, both_of, cloud_of, edge_of, measured, occupied, serving
from tests.support.waiting import until
from workbench import client as client_module
from workbench.client import AsyncHttpsClient, HttpsClient
from workbench.codecs import Jpeg, Png
from workbench.data import Dataset
from workbench.errors import ServiceError, UsageError
from workbench.pictures import to_float
from workbench.protocol import MAX_BODY, MAX_TIMEOUT_S
from workbench.services.connection import Connection
from workbench.services.edge import EdgeService
from workbench.services.trust import Token
from workbench.system import Client as Phone
from workbench.system import Edge, System
from workbench.weights import Pair

N = 30


@pytest.fixture(scope="module")
def images(digits: Dataset) -> torch.Tensor:
    return to_float(digits.test.images[:N])


@pytest.fixture(scope="module")
def expected(networks: Pair, images: torch.Tensor) -> torch.Tensor:
    return System.in_process(networks.generator, Png(), networks.target).recognise(images).scores


@pytest.fixture
def client(both: Both) -> Iterator[HttpsClient]:
    with HttpsClient(both.edge.url, certs=both.certs) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def lanes(both: Both) -> concurrent.futures.Executor:
    assert isinstance(both.edge.service, EdgeService)
    return both.edge.service._lanes.pool


def same(scores: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def threads() -> int:
    return sum(thread.name == "client" for thread in threading.enumerate())


@pytest.mark.parametrize(("batch", "at_once"), [(7, 3), (N, 1)])
def test_batches_come_back_in_order(both: Both, images: torch.Tensor, expected: torch.Tensor, batch: int, at_once: int) -> None:
    with HttpsClient(both.edge.url, certs=both.certs, batch=batch, at_once=at_once) as client:
        answer = client.recognise(images)
        same(answer.scores, expected)
        files = Phone().capture(images)
        assert answer.s1_bytes == sum(map(len, files))
        same(client.recognise_files(files).scores, expected)


def test_a_batch_ends_before_the_edges_largest_body(both: Both, files: list[bytes], client: HttpsClient) -> None:
    large = [file[:2] + (b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000)) * 298 + file[2:] for file in files[:2]]
    assert all(17 << 20 < len(file) < 18 << 20 for file in large)
    same(client.recognise_files(large).scores, client.recognise_files(files[:2]).scores)
    with HttpsClient(both.edge.url, certs=both.certs, quality=95) as fine:
        answer = fine.recognise(torch.rand(1, 3, 1200, 1200).mul(0.7).expand(13, -1, -1, -1))
    assert answer.scores.shape == (13, 10)
    assert answer.s1_bytes is not None
    assert answer.s1_bytes > MAX_BODY


def test_a_progress_bar_counts_images(both: Both, images: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    with HttpsClient(both.edge.url, certs=both.certs, batch=20) as client:
        client.recognise(images)
        assert capsys.readouterr().err == ""
        client.recognise(images, progress=True)
    shown = capsys.readouterr().err
    assert "recognise: 100%" in shown
    assert f"{N}/{N}" in shown


def test_it_waits_for_its_answers_with_await(both: Both, images: torch.Tensor, expected: torch.Tensor) -> None:
    async def main() -> list[torch.Tensor]:
        async with AsyncHttpsClient(both.edge.url, certs=both.certs) as client:
            answers = await asyncio.gather(*(client.recognise(images[i : i + 10]) for i in range(0, N, 10)))
            return [answer.scores for answer in answers]

    same(torch.cat(asyncio.run(main())), expected)


def test_one_batch_that_fails_ends_the_others(both: Both, files: list[bytes]) -> None:
    with HttpsClient(both.edge.url, certs=both.certs, batch=1, at_once=2) as client:
        with pytest.raises(ServiceError) as caught:
            client.recognise_files([*files[:5], b"no picture", *files[5:10]])
        assert caught.value.status == 400
        assert client.recognise_files(files[:3]).scores.shape == (3, 10)


def test_what_is_refused_for_lack_of_room_is_sent_again(
    networks: Pair,
    digits: Dataset,
    certs: Path,
    images: torch.Tensor,
    expected: torch.Tensor,
    pool: concurrent.futures.Executor,
    logged: Log,
) -> None:
    with contextlib.ExitStack() as stack:
        both = stack.enter_context(both_of(networks, Png(), digits, certs, most=8, capacity=8))
        first, second = (stack.enter_context(HttpsClient(both.edge.url, certs=certs)) for _ in range(2))
        with occupied(lanes(both)):
            answers = [pool.submit(first.recognise, images[:8])]
            until(lambda: both.edge.service.waiting == 8)
            answers.append(pool.submit(second.recognise, images[8:16]))
            until(lambda: [line["status"] for line in logged.lines()].count(429) >= 1)
        same(torch.cat([answer.result().scores for answer in answers]), expected[:16])


def test_a_slow_attempt_is_repeated_and_computed_once(
    both: Both, images: torch.Tensor, expected: torch.Tensor, pool: concurrent.futures.Executor
) -> None:
    before = measured(both.cloud.url, both.certs, "edge")["pmc2_requests_total 200"]
    with HttpsClient(both.edge.url, certs=both.certs, attempt_s=0.3) as client:
        assert client.classes
        held: set[int] = set()
        with occupied(lanes(both)):
            answer = pool.submit(client.recognise, images[:4])
            until(lambda: both.edge.service.intake.held)
            size = both.edge.service.intake.held
            until(lambda: held.add(both.edge.service.intake.held // size) or max(held) >= 3)
        same(answer.result().scores, expected[:4])
    assert measured(both.cloud.url, both.certs, "edge")["pmc2_requests_total 200"] == before + 1


@pytest.mark.parametrize("what", ["edge", "cloud"])
def test_a_service_that_is_restarted_is_waited_for(
    networks: Pair,
    digits: Dataset,
    certs: Path,
    images: torch.Tensor,
    expected: torch.Tensor,
    pool: concurrent.futures.Executor,
    what: str,
) -> None:
    with contextlib.ExitStack() as later, contextlib.ExitStack() as stack:
        cloud = later.enter_context(serving(cloud_of(networks, Png(), digits), certs, "cloud"))
        edge = stack.enter_context(serving(edge_of(networks, Png(), digits, cloud.url, certs), certs, "edge"))
        client = later.enter_context(HttpsClient(edge.url, certs=certs))
        same(client.recognise(images[:4]).scores, expected[:4])
        gone = edge if what == "edge" else cloud
        gone.end()
        answer = pool.submit(client.recognise, images)
        port = int(gone.url.rpartition(":")[2])
        if what == "edge":
            until(answer.running)
            later.enter_context(serving(edge_of(networks, Png(), digits, cloud.url, certs), certs, "edge", port=port))
        else:
            until(lambda: edge.service.waiting == N)
            later.enter_context(serving(cloud_of(networks, Png(), digits), certs, "cloud", port=port))
        same(answer.result().scores, expected)


def test_a_service_that_stays_away_is_named_at_the_deadline(certs: Path, images: torch.Tensor) -> None:
    with (
        HttpsClient("https://127.0.0.1:1", certs=certs, deadline_s=0.3) as client,
        pytest.raises(ServiceError, match=r"https://127.0.0.1:1 cannot be reached \(.*onnect") as caught,
    ):
        client.recognise(images)
    assert caught.value.status == 503


def test_an_attempt_that_the_deadline_cuts_short_hides_no_reason() -> None:
    came = itertools.count()
    kept: list[socket.socket] = []

    def serve(peer: socket.socket) -> None:
        if next(came):
            kept.append(peer)  # and never respond
        else:
            peer.close()

    async def asked(url: str) -> None:
        async with Connection(url, None, plain=True) as connection:
            await connection.call("GET", "/v2", deadline=asyncio.get_running_loop().time() + 0.4)

    with accepting(serve) as port, pytest.raises(ServiceError, match="cannot be reached") as caught:
        asyncio.run(asked(f"http://127.0.0.1:{port}"))
    assert (caught.value.status, len(kept)) == (503, 1)
    kept[0].close()


def test_a_missing_answer_is_not_awaited_past_the_deadline(both: Both, images: torch.Tensor) -> None:
    with HttpsClient(both.edge.url, certs=both.certs, deadline_s=0.5) as client, occupied(lanes(both)):
        start = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            client.recognise(images[:1])
        assert time.monotonic() - start < 15
    assert caught.value.status in (503, 504)
    until(lambda: both.edge.service.waiting == 0)


def test_a_deadline_may_exceed_the_services_maximum(both: Both, images: torch.Tensor) -> None:
    with HttpsClient(both.edge.url, certs=both.certs, deadline_s=1.5 * MAX_TIMEOUT_S) as client:
        assert client.recognise(images[:1]).scores.shape == (1, 10)


def test_what_is_wrong_is_not_sent_again(both: Both, client: HttpsClient, logged: Log) -> None:
    with pytest.raises(ServiceError) as caught:
        client.recognise_files([b"no picture"])
    assert caught.value.status == 400
    with pytest.raises(ServiceError) as caught:
        client.recognise(torch.zeros(1, 3, 32, 32), strength=0.5)
    assert caught.value.status == 400
    until(lambda: len(logged.lines()) >= 2)
    assert [line["status"] for line in logged.lines()] == [400, 400]


def test_an_edge_that_distrusts_its_cloud_is_not_retried(
    networks: Pair, digits: Dataset, both: Both, files: list[bytes], logged: Log
) -> None:
    edge = edge_of(networks, Jpeg(), digits, both.cloud.url, both.certs)
    with serving(edge, both.certs, "edge", ready=False) as served, HttpsClient(served.url, certs=both.certs) as client:
        with pytest.raises(ServiceError) as caught:
            client.recognise_files(files[:1])
        assert caught.value.status == 502
        until(logged.lines)
        assert [line["status"] for line in logged.lines()] == [502]


def test_many_threads_use_one_client_from_the_start(
    both: Both, images: torch.Tensor, expected: torch.Tensor, pool: concurrent.futures.Executor
) -> None:
    with HttpsClient(both.edge.url, certs=both.certs) as client:
        before = threads()
        parts = list(pool.map(lambda i: client.recognise(images[i : i + 5]).scores, range(0, N, 5)))
        assert threads() == before + 1
    same(torch.cat(parts), expected)


def test_a_client_that_was_closed_connects_anew(both: Both, images: torch.Tensor, expected: torch.Tensor) -> None:
    client = HttpsClient(both.edge.url, certs=both.certs)
    client.close()
    for _ in range(3):
        same(client.recognise(images[:2]).scores, expected[:2])
        client.close()
        client.close()
    assert threads() == 0


def test_a_call_that_waits_ends_when_its_client_is_closed(
    both: Both, images: torch.Tensor, expected: torch.Tensor, pool: concurrent.futures.Executor
) -> None:
    client = HttpsClient(both.edge.url, certs=both.certs)
    with occupied(lanes(both)):
        answers = [pool.submit(client.recognise, images[:1]) for _ in range(3)]
        until(lambda: both.edge.service.waiting == 3)
        client.close()
        for answer in answers:
            with pytest.raises(ServiceError, match="was closed before the answer was there"):
                answer.result(30)
    same(client.recognise(images[:1]).scores, expected[:1])
    client.close()


def test_a_client_that_is_forgotten_ends_by_itself(both: Both, images: torch.Tensor) -> None:
    client = HttpsClient(both.edge.url, certs=both.certs)
    client.recognise(images[:1])
    assert threads() == 1
    del client
    gc.collect()
    until(lambda: threads() == 0)


def test_a_client_may_be_collected_by_its_own_thread(both: Both, images: torch.Tensor) -> None:
    client = HttpsClient(both.edge.url, certs=both.certs)
    client.recognise(images[:1])
    loop = client._loop
    assert loop is not None
    client.itself = client  # type: ignore[attr-defined]  # a cycle: only the collector finds it
    gc.disable()
    try:
        del client
        assert threads() == 1
        loop.call_soon_threadsafe(gc.collect)
        until(lambda: threads() == 0)
    finally:
        gc.enable()


def test_a_client_works_where_a_loop_runs_already(both: Both, images: torch.Tensor, expected: torch.Tensor) -> None:
    async def cell() -> torch.Tensor:  # like a cell in Jupyter
        with HttpsClient(both.edge.url, certs=both.certs) as client:
            return client.recognise(images[:3]).scores

    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(cell())))
    thread.start()
    thread.join(60)
    same(found[0], expected[:3])


def test_a_call_that_was_given_up_is_cancelled(both: Both, images: torch.Tensor) -> None:
    async def main() -> None:
        async with AsyncHttpsClient(both.edge.url, certs=both.certs) as client:
            await client.model()
            with occupied(lanes(both)), pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recognise(images[:1]), 0.2)
            same((await client.recognise(images[:1])).scores, (await client.recognise(images[:1])).scores)

    asyncio.run(main())
    until(lambda: both.edge.service.waiting == 0)


URLS = (
    "", "127.0.0.1:8443", "ftp://127.0.0.1", "https://", "https://127.0.0.1:x", "https://127.0.0.1:99999", "https://edge/path",
    "https://edge?a=b", "https://[::1", "https://me:hush-hush@127.0.0.1:8443", "https://127.0.0.1:8443?token=hush-hush",
    "ftp://127.0.0.1:21", "https://edge//", "https://.example:8443", "https://a..b", f"https://{'a' * 64}.example", "https://ed\0ge",
    "https://@edge", "https://:hush-hush@edge:8443", "https://edge#hush-hush", "https://edge/#?hush-hush",
)  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_what_is_no_url_of_a_service_is_refused(certs: Path, url: str) -> None:
    with pytest.raises(UsageError, match="is not the URL of a service: write https://HOST:PORT") as caught:
        HttpsClient(url, certs=certs)
    assert "hush" not in str(caught.value)


def test_a_url_in_another_form_is_the_same_service(both: Both, images: torch.Tensor) -> None:
    with HttpsClient(both.edge.url.replace("https", "HTTPS") + "/", certs=both.certs) as client:
        assert repr(client) == f"HttpsClient({both.edge.url!r})"
        assert client.recognise(images[:1]).scores.shape == (1, 10)
    assert Connection("https://中.example", None)._http.host == "xn--fiq.example"


def test_options_out_of_range_are_refused(certs: Path) -> None:
    for name, value in (("batch", 0), ("at_once", 0), *(("deadline_s", value) for value in (0, -1, math.inf, math.nan))):
        with pytest.raises(UsageError, match=f"must be above 0, got .*{value}"):
            HttpsClient("https://127.0.0.1:8443", certs=certs, **{name: value})


def test_an_authority_to_trust_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give certs=, the folder made by `workbench certs`"):
        HttpsClient("https://127.0.0.1:8443")
    with pytest.raises(UsageError, match="there is no ca.pem in"):
        HttpsClient("https://127.0.0.1:8443", certs=tmp_path)
    with pytest.raises(UsageError, match="there is no ca.pem in"):
        HttpsClient("https://127.0.0.1:8443", certs=tmp_path, token=Token(b"x" * 16))


def test_no_pictures_are_refused(client: HttpsClient) -> None:
    with pytest.raises(UsageError, match="no pictures given"):
        client.recognise_files([])


def test_a_phone_that_protects_sends_no_files(both: Both, networks: Pair, files: list[bytes]) -> None:
    with (
        HttpsClient(both.cloud.url, certs=both.certs, protects=Edge(networks.generator, Png())) as client,
        pytest.raises(UsageError, match="in arrangement PP the phone protects images itself"),
    ):
        client.recognise_files(files[:1])


def test_a_phone_that_protects_needs_a_cloud_that_takes_png(
    networks: Pair, digits: Dataset, certs: Path, images: torch.Tensor
) -> None:
    with serving(cloud_of(networks, Jpeg(), digits, roles=("client",)), certs, "cloud") as cloud:
        client = HttpsClient(cloud.url, certs=certs, protects=Edge(networks.generator, Png()))
        with client, pytest.raises(ServiceError, match="start it with --arrangement pp") as caught:
            client.recognise(images[:1])
    assert caught.value.status == 502


def test_every_second_of_a_call_is_charged_once(both: Both, files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Steps()
    monkeypatch.setattr(client_module, "time", clock)
    with HttpsClient(both.edge.url, certs=both.certs) as client:
        ask = client._inner._connection.call

        async def slow(*arguments: Any, **options: Any) -> Any:
            if arguments[0] == "GET":
                clock.advance(1000)
            return await ask(*arguments, **options)

        client._inner._connection.call = slow  # type: ignore[method-assign]
        first = sum(value or 0.0 for value in client.recognise_files(files[:1]).milliseconds.values())
        start = clock.perf_counter()
        second = sum(value or 0.0 for value in client.recognise_files(files[:1]).milliseconds.values())
        passed = 1e3 * (clock.perf_counter() - start)
    # Of the readings two come before the first mark and after the last, two where a coroutine begins and where it ends.
    assert second == pytest.approx(passed - 4e3)
    assert second <= first < second + 1e5, "two requests of 1000 s came before"
