"""A link has its stated bandwidth and delay, passes every byte in order, and counts them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.servers import accepting
from workbench.bench.link import FREE, LINKS, Kind, Link


@contextlib.contextmanager
def echo() -> Iterator[str]:
    def serve(near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                near.sendall(data)

    with accepting(serve) as port:
        yield f"https://127.0.0.1:{port}"


def connected(link: Link) -> socket.socket:
    near = socket.create_connection(("127.0.0.1", int(link.url.rpartition(":")[2])), timeout=20)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near


def there_and_back(near: socket.socket, data: bytes) -> tuple[bytes, float]:
    start = time.perf_counter()
    sender = threading.Thread(target=near.sendall, args=(data,))
    sender.start()
    back = bytearray()
    while len(back) < len(data):
        back += near.recv(1 << 16)
    sender.join()
    return bytes(back), time.perf_counter() - start


@pytest.mark.timing
@pytest.mark.parametrize("kind", [FREE, *LINKS.values()], ids=lambda kind: kind.name)
def test_a_few_bytes_take_the_delay_there_and_back(kind: Kind) -> None:
    with echo() as url, Link(url, kind) as link, connected(link) as near:
        times = [there_and_back(near, b"payload")[1] for _ in range(5)]
    assert min(times) >= 2 * kind.delay_s
    assert min(times) < 2 * kind.delay_s + 0.05


def test_many_bytes_take_the_bandwidth_and_pass_unchanged() -> None:
    data = os.urandom(50_000)
    with echo() as url, Link(url, Kind("slow", 2e6, 0.0)) as link, connected(link) as near:
        back, seconds = there_and_back(near, data)
        assert back == data
        assert link.bytes == {"out": len(data), "back": len(data)}
    assert seconds >= 8 * len(data) / 2e6


def test_connections_share_the_bandwidth() -> None:
    data = os.urandom(20_000)
    with echo() as url, Link(url, Kind("slow", 2e6, 0.0)) as link, connected(link) as one, connected(link) as other:
        start = time.perf_counter()
        threads = [threading.Thread(target=there_and_back, args=(near, data)) for near in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert time.perf_counter() - start >= 8 * 2 * len(data) / 2e6


def test_a_sender_is_held_back_where_the_link_is_slower_than_it() -> None:
    with echo() as url, Link(url, Kind("slow", 1e6, 0.0)) as link, connected(link) as near:
        near.setblocking(False)
        sent, limit = 0, 64 << 20
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and sent < limit:
            try:
                sent += near.send(b"\0" * (1 << 16))
            except BlockingIOError:
                time.sleep(0.01)
        assert sent < limit / 2, "what waits is bounded"


@pytest.mark.timing
def test_a_kind_may_change_while_connections_last() -> None:
    with echo() as url, Link(url) as link, connected(link) as near:
        assert there_and_back(near, b"x")[1] < 0.2
        link.kind = Kind("far", None, 0.15)
        assert there_and_back(near, b"x")[1] >= 0.3


def test_the_end_of_one_side_reaches_the_other_and_a_cut_both() -> None:
    with echo() as url, Link(url) as link:
        with connected(link) as near:
            near.sendall(b"last words")
            near.shutdown(socket.SHUT_WR)
            heard = b""
            while part := near.recv(100):
                heard += part
            assert heard == b"last words"
        with connected(link) as near:
            there_and_back(near, b"x")
            link.cut()
            assert near.recv(1) == b""


def test_where_nothing_listens_the_connection_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Link(f"https://127.0.0.1:{port}") as link, contextlib.suppress(ConnectionResetError), connected(link) as near:
        assert near.recv(1) == b""
