"""The event loop's time: strangers get a limited share of it, in turns by address, and new clients are served nevertheless."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.support.services import SECRET, Served, ask, cloud_of, connected_to, form_of, is_cut, serving
from tests.support.waiting import until
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.services import quota as quota_module
from workbench.services import share as share_module
from workbench.services.quota import ConnectionQuota
from workbench.services.share import CUT_S, FRESH_S, PIECE, LoopShare
from workbench.weights import Pair

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: edge\r\n\r\n"

# Strangers that send one request after another, from another process. A cut connection is replaced at once.
FLOOD = """
import asyncio, itertools, ssl, sys
port, connections, source = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

async def stranger():
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(source, 0))
            while True:
                writer.write(b"GET /openapi.json HTTP/1.1\\r\\nHost: edge\\r\\n\\r\\n")
                head = await reader.readuntil(b"\\r\\n\\r\\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        except (OSError, EOFError, ValueError):
            await asyncio.sleep(0.01)

async def main():
    print("started", flush=True)
    await asyncio.gather(*(stranger() for _ in range(connections)))

asyncio.run(main())
"""


@contextlib.contextmanager
def flooded(edge: Served, connections: int = 40, source: str = "127.0.0.1") -> Iterator[None]:
    command = [sys.executable, "-c", FLOOD, str(urlsplit(edge.url).port), str(connections), source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            before = edge.server.server_state.total_requests
            until(lambda: edge.server.server_state.total_requests > before + 20)
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def at_work(edge: Served, certs: Path) -> Iterator[None]:
    with connected_to(edge.url, certs) as connection:
        connection.sendall(b"POST /recognize HTTP/1.1\r\nHost: edge\r\nContent-Length: 10\r\n\r\n")
        until(lambda: edge.service.intake.held == 0 and edge.share.at_work == 1)
        yield


@pytest.fixture
def edge(token_edge: Served) -> Served:
    return token_edge


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="only POSIX has clocks of threads")
@pytest.mark.timing
def test_strangers_leave_the_loop_to_requests_at_work(edge: Served, certs: Path) -> None:
    assert edge.thread.ident is not None
    clock = time.pthread_getcpuclockid(edge.thread.ident)
    with flooded(edge), at_work(edge, certs):
        until(lambda: edge.share._left <= 0)  # what was saved up is spent
        start, cpu = time.monotonic(), time.clock_gettime(clock)
        time.sleep(1.0)
        used = (time.clock_gettime(clock) - cpu) / (time.monotonic() - start)
    assert used < 2.5 * share_module.BUSY  # epoll, accept and the kernel take time that is not metered


@pytest.mark.timing
@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_new_clients_and_probes_get_in_while_strangers_flood(
    edge: Served, certs: Path, files: list[bytes], source: str
) -> None:
    if source != "127.0.0.1" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux has all of 127.0.0.0/8")
    bearer = {"Authorization": f"Bearer {SECRET}"}
    with flooded(edge, 120, source), at_work(edge, certs):
        for role, path, body, headers in [
            (None, "/v2/health/ready", None, {}),
            ("client", "/recognize", files[0], {}),
            (None, "/recognize", files[0], bearer),
        ] * 3:
            start = time.monotonic()
            assert ask(edge.url, path, body, certs, role, headers).status == 200  # type: ignore[arg-type]
            assert time.monotonic() - start < 3.0


def test_the_pieces_of_a_body_that_waited_arrive_in_order(edge: Served, certs: Path) -> None:
    noise = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (400, 400), np.uint8)) for seed in range(4)]
    files = [io.BytesIO() for _ in noise]
    for picture, file in zip(noise, files, strict=True):
        picture.save(file, "PNG")
    body, headers = form_of([file.getvalue() for file in files])
    assert len(body) > 512 << 10  # several reads
    quiet = ask(edge.url, "/recognize", body, certs, headers=headers)
    with flooded(edge), at_work(edge, certs):
        answer = ask(edge.url, "/recognize", body, certs, None, {**headers, "Authorization": f"Bearer {SECRET}"})
    assert (quiet.status, answer.status, answer.json["results"]) == (200, 200, quiet.json["results"])


def test_a_role_that_may_not_ask_here_counts_as_a_stranger(
    networks: Pair, digits: Dataset, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_module, "GRACE_S", 0.0)
    quota = ConnectionQuota(unproven=2)
    with serving(cloud_of(networks, Png(), digits), certs, "cloud", quota=quota) as cloud, contextlib.ExitStack() as stack:
        friend, *others = (
            stack.enter_context(connected_to(cloud.url, certs, role)) for role in ("edge", "client", "client", "client")
        )
        assert is_cut(others[0]) < 1.0
        friend.sendall(LIVE)
        answer = http.client.HTTPResponse(friend)
        answer.begin()
        assert answer.status == 200


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    thread_time = monotonic


@pytest.fixture(autouse=True)
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    if "edge" not in request.fixturenames and "certs" not in request.fixturenames:
        monkeypatch.setattr(share_module, "time", clock)
    return clock


class Peer:
    def __init__(self, share: LoopShare, clock: Clock, address: str, log: list[str], cost: float = 0.003) -> None:
        self.clock = clock
        self.share, self.address, self.log, self.cost = share, address, log, cost
        self.used, self.closing, self.held = 0.0, False, False

    def process(self, data: bytes) -> None:
        self.log.append(data.decode())
        self.clock.now += self.cost

    def hold(self, held: bool) -> None:
        self.held = held

    def abort(self) -> None:
        self.closing = True


def order(clock: Clock, prepare: Callable[[LoopShare, list[str]], None]) -> list[str]:
    log: list[str] = []

    async def run() -> None:
        share = LoopShare(busy=0.5)
        share.at_work = 1
        share.take(Peer(share, clock, "0", [], 0.02), b"")
        prepare(share, log)
        assert log == []
        async with asyncio.timeout(10):
            while share._waiting:
                clock.now += 0.001
                await asyncio.sleep(0.001)
        assert share._held == 0

    asyncio.run(run())
    return log


def test_addresses_take_turns_with_the_newest_connection_first(clock: Clock) -> None:
    def prepare(share: LoopShare, log: list[str]) -> None:
        for number in range(4):
            share.take(Peer(share, clock, "a", log), f"a{number}".encode())
        share.take(Peer(share, clock, "b", log), b"b0")

    assert order(clock, prepare) == ["a3", "b0", "a2", "a1", "a0"]


def test_a_heavy_connection_comes_after_others_of_its_address(clock: Clock) -> None:
    def prepare(share: LoopShare, log: list[str]) -> None:
        share.take(Peer(share, clock, "a", log), b"new")
        old = Peer(share, clock, "a", log)
        old.used = FRESH_S
        share.take(old, b"old")

    assert order(clock, prepare) == ["new", "old"]


def test_an_address_with_cut_connections_comes_after_others(clock: Clock) -> None:
    def prepare(share: LoopShare, log: list[str]) -> None:
        share.penalize("a")
        share.take(Peer(share, clock, "a", log), b"a")
        for number in range(3):
            share.take(Peer(share, clock, "b", log, CUT_S / 4), f"b{number}".encode())

    assert order(clock, prepare) == ["b2", "b1", "b0", "a"]


def test_bytes_of_a_connection_stay_together(clock: Clock) -> None:
    def prepare(share: LoopShare, log: list[str]) -> None:
        one, closed, gone = (Peer(share, clock, "a", log) for _ in range(3))
        for peer, data in [(one, b"1"), (closed, b"x"), (gone, b"y"), (one, b"2")]:
            share.take(peer, data)
            assert peer.held
        closed.closing = True
        share.forget(gone)

    assert order(clock, prepare) == ["12"]


def test_the_memory_of_what_waits_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share_module, "HELD", 3 * PIECE)
    peers: list[Peer] = []

    def prepare(share: LoopShare, log: list[str]) -> None:
        for size in (2 * PIECE, 2 * PIECE, PIECE):
            peers.append(Peer(share, clock, "a", log, 0.0))
            share.take(peers[-1], b"." * size)

    assert sorted(map(len, order(clock, prepare))) == [PIECE, 2 * PIECE]
    assert [peer.closing for peer in peers] == [False, True, False]


def test_the_memory_of_addresses_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share_module, "MOST_TAGS", 100)
    share = LoopShare()
    for number in range(1000):
        share.penalize(f"2001:db8:0:{number:x}::/64")
        assert len(share._tags) <= 100


def test_what_nobody_competes_for_is_not_bounded(clock: Clock) -> None:
    log: list[str] = []

    async def run() -> None:
        share = LoopShare()
        for number in range(100):
            share.take(Peer(share, clock, str(number % 3), log, 0.001), b"x")
        async with asyncio.timeout(10):
            while len(log) < 100:
                await asyncio.sleep(0)

    asyncio.run(run())
    assert clock.now < 0.2  # only the processing took time
