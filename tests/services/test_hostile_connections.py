"""Connections that only cost resources: before TLS, without a credential, and after a response. Others are still served."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import (
    SECRET,
    Served,
    ask,
    connected_to,
    edge_of,
    interrupt,
    is_cut,
    leaving_no_process,
    measured,
    serving,
)
from tests.support.waiting import until
from workbench.bench.hostile import Probes, attacked
from workbench.certs import Role
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.services import quota as quota_module
from workbench.services.quota import ConnectionQuota, address_key
from workbench.services.trust import Token
from workbench.weights import Pair

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: edge\r\n\r\n"
CHUNKED = b"POST /recognize HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8")


@pytest.fixture
def edge(token_edge: Served) -> Served:
    return token_edge


@pytest.fixture
def hasty(edge: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name, seconds in (("handshake", 0.5), ("head", 0.5), ("answer", 0.5), ("stranger_idle", 0.5), ("idle", 0.5)):
        monkeypatch.setattr(edge.timeouts, name, seconds)
    return edge


def is_alive(edge: Served, certs: Path) -> bool:
    return ask(edge.url, "/v2/health/live", certs=certs, role=None).status == 200


def answered(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


NO_TLS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
    "a part of HTTP": b"GET /",
    "CONNECT": b"CONNECT edge:443 HTTP/1.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a newline": b"\r\n",
    "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "SSL 2": b"\x80\x2e\x01\x03\x01" + bytes(43),
    "random bytes": b"\x00" + random.Random(0).randbytes(200),
    "a record that is none": b"\x16" + random.Random(1).randbytes(200),
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x00\x10" + bytes(16),
    "a greeting that is none": b"\x16\x03\x01\x00\x10\x01\x00\x00\x0c" + bytes(12),
}


@pytest.mark.parametrize("said", NO_TLS.values(), ids=NO_TLS)
def test_what_is_no_tls_is_closed_within_a_second(edge: Served, certs: Path, said: bytes) -> None:
    with connected_to(edge.url) as connection:
        connection.sendall(said)
        assert is_cut(connection) < 1.0
    assert is_alive(edge, certs)


def test_plain_http_gets_an_error_that_names_tls(edge: Served) -> None:
    for name in ("HTTP", "CONNECT"):
        with connected_to(edge.url) as connection:
            connection.sendall(NO_TLS[name])
            answer = answered(connection)
            assert (answer.status, answer.read()) == (400, b'{"error": "this port speaks HTTPS: write https:// in the URL"}')


@pytest.mark.timing
@pytest.mark.parametrize(
    "said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(90)], ids=["0", "1", "100"]
)
@pytest.mark.parametrize("dribbles", [False, True])
def test_the_time_of_a_handshake_is_bounded(hasty: Served, said: bytes, dribbles: bool) -> None:
    with connected_to(hasty.url) as connection:
        connection.sendall(said)
        stop = threading.Event()
        if dribbles:
            threading.Thread(target=dribble, args=(connection, stop, said[-1:] or b"\x16"), daemon=True).start()
        passed = is_cut(connection)
        stop.set()
        assert passed < 1.5
    until(lambda: len(hasty.quota) == 0)


def dribble(connection: socket.socket, stop: threading.Event, byte: bytes) -> None:
    with contextlib.suppress(OSError):
        while not stop.wait(0.05):
            connection.sendall(byte)


def endless(first: bytes, rest: bytes) -> Callable[[socket.socket], None]:
    def attack(connection: socket.socket) -> None:
        connection.sendall(first)
        for _ in range(4000):
            connection.sendall(rest)

    return attack


ENDLESS = {
    "trailers": endless(CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 1000),
    "one trailer": endless(CHUNKED + b"0\r\nx: ", b"y" * 4096),
    "trailers of a request without a reader": endless(
        b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 1000
    ),
    "chunk extensions": endless(CHUNKED, b"1;" + b"x" * 4096 + b"\r\nx\r\n"),
    "one chunk extension": endless(CHUNKED + b"1;", b"x" * 4096),
    "chunks of a byte": endless(CHUNKED, b"1\r\nx\r\n" * 1000),
    "zeros before a chunk's length": endless(CHUNKED, b"0" * 4096),
    "requests": endless(LIVE, LIVE * 100),
    "newlines before a request": endless(b"", b"\r\n" * 1000),
    "newlines after a request": endless(LIVE, b"\r\n" * 1000),
    "a method": endless(b"", b"G" * 4096),
    "a path": endless(b"GET /", b"x" * 4096),
    "a query": endless(b"GET /?", b"x" * 4096),
    "a header's name": endless(b"GET / HTTP/1.1\r\n", b"x" * 4096),
    "a header's value": endless(b"GET / HTTP/1.1\r\nx: ", b"x" * 4096),
    "headers": endless(b"GET / HTTP/1.1\r\n", b"x: y\r\n" * 1000),
    "continued headers": endless(b"GET / HTTP/1.1\r\nx: y\r\n", b" z\r\n" * 1000),
}


@pytest.mark.parametrize(
    ("attack", "role"),
    [
        *((attack, None) for attack in ENDLESS),
        ("trailers", "client"),
        ("headers", "client"),
        ("requests", "client"),
        ("one chunk extension", "client"),
    ],
)
def test_what_never_ends_is_cut_off_at_once(edge: Served, certs: Path, attack: str, role: Role | None) -> None:
    with connected_to(edge.url, certs, role) as connection:
        with contextlib.suppress(OSError):  # a reset or a broken pipe
            ENDLESS[attack](connection)
        is_cut(connection, 1.0)
    until(lambda: len(edge.quota) == 0, 5.0)
    assert is_alive(edge, certs)


def test_overhead_bytes_are_counted_over_the_whole_request(edge: Served, certs: Path) -> None:
    with connected_to(edge.url, certs) as connection, contextlib.suppress(OSError):
        connection.sendall(CHUNKED)
        sent = 0
        for _ in range(10_000):
            connection.sendall(b"1;" + b"x" * 90 + b"\r\nx\r\n")
            sent += 97
        is_cut(connection)
    assert 30_000 < sent < 900_000  # 32 KiB, and the bytes in transit


def test_a_body_in_chunks_of_a_usual_size_is_read(edge: Served, certs: Path, files: list[bytes]) -> None:
    body = b"\xff\xd8" + bytes(4 << 20)
    parts = [body[at : at + 4096] for at in range(0, len(body), 4096)]
    with connected_to(edge.url, certs) as connection:
        connection.sendall(CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n")
        answer = answered(connection)
        assert (answer.status, b"between its segments" in answer.read()) == (400, True)  # read completely, and no picture


def test_a_request_with_too_many_headers_is_refused(edge: Served, certs: Path) -> None:
    answer = ask(edge.url, "/v2", certs=certs, headers={f"X-{number}": "1" for number in range(200)})
    assert (answer.status, answer.json) == (431, {"error": "a request may have at most 128 headers"})


def test_of_transfer_codings_chunked_alone_is_read(edge: Served, certs: Path) -> None:
    for coding in ("gzip, chunked", "gzip", "identity", "x"):
        with connected_to(edge.url, certs) as connection:
            connection.sendall(f"POST /recognize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n".encode())
            assert answered(connection).status in (400, 501), coding
            is_cut(connection)


@pytest.mark.timing
@pytest.mark.parametrize("said", [b"\r\n", b"\n", b"\r\n\r\n", b"G", b""], ids=repr)
def test_what_follows_an_answer_does_not_keep_a_connection(hasty: Served, certs: Path, said: bytes) -> None:
    with connected_to(hasty.url, certs) as connection:
        connection.sendall(LIVE)
        assert b"200 OK" in connection.recv(1 << 16)
        stop = threading.Event()
        if said:
            threading.Thread(target=dribble, args=(connection, stop, said), daemon=True).start()
        passed = is_cut(connection)
        stop.set()
        assert passed < 2.0


@pytest.mark.parametrize("role", [None, "client"])
def test_a_peer_that_reads_nothing_is_cut_off(hasty: Served, certs: Path, role: Role | None) -> None:
    head = b"GET /openapi.json HTTP/1.1\r\nHost: edge\r\n\r\n"
    before = hasty.server.server_state.total_requests
    requests = 0
    with connected_to(hasty.url, certs, role, buffer=4096) as connection, contextlib.suppress(OSError):
        while len(hasty.quota):
            connection.sendall(head)
            requests += 1
            answered = before + requests
            until(lambda n=answered: hasty.server.server_state.total_requests >= n or not len(hasty.quota), 5.0)
            assert requests < 5000
    assert requests > 10
    until(lambda: len(hasty.quota) == 0, 5.0)
    assert is_alive(hasty, certs)


def test_an_unread_body_is_dropped_with_its_connection(edge: Served, certs: Path) -> None:
    with connected_to(edge.url, certs, None) as connection:
        connection.sendall(b"POST /recognize HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
        answer = answered(connection)
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert answer.read()


def test_a_request_names_one_host(edge: Served, certs: Path) -> None:
    statuses = {
        b"HTTP/1.1\r\n": 400,
        b"HTTP/1.1\r\nHost: edge\r\nHost: other\r\n": 400,
        b"HTTP/1.1\r\nhost: edge\r\nHOST: edge\r\n": 400,
        b"HTTP/1.1\r\nHost: edge\r\n": 200,
        b"HTTP/1.0\r\n": 200,
    }
    for lines, status in statuses.items():
        with connected_to(edge.url, certs) as connection:
            connection.sendall(b"GET /v2/health/live " + lines + b"\r\n")
            assert answered(connection).status == status, lines


def test_no_other_protocol_is_spoken(edge: Served, certs: Path) -> None:
    for upgrade in ("websocket", "h2c"):
        answer = ask(edge.url, "/v2/health/live", certs=certs, headers={"Connection": "Upgrade", "Upgrade": upgrade})
        assert (answer.status, answer.headers["connection"]) == (200, "close"), upgrade


@contextlib.contextmanager
def counted(networks: Pair, digits: Dataset, certs: Path, quota: ConnectionQuota) -> Iterator[Served]:
    token = Token(SECRET.encode())
    service = edge_of(networks, Png(), digits, "https://127.0.0.1:9", certs, token=token)
    with serving(service, certs, "edge", demand=False, ready=False, quota=quota) as served:
        yield served


def asked_on(connection: socket.socket, path: str = "/v2/health/live") -> int:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
    answer = answered(connection)
    answer.read()
    return answer.status


@pytest.mark.timing
def test_strangers_displace_only_strangers(
    networks: Pair, digits: Dataset, certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_module, "GRACE_S", 60.0)
    quota = ConnectionQuota(total=20, by_address=20, unproven=4)
    with counted(networks, digits, certs, quota) as edge, contextlib.ExitStack() as stack:
        friend = stack.enter_context(connected_to(edge.url, certs))
        by_token = stack.enter_context(connected_to(edge.url, certs, None))
        by_token.sendall(f"GET /metrics HTTP/1.1\r\nHost: e\r\nAuthorization: Bearer {SECRET}\r\n\r\n".encode())
        assert b"200 OK" in by_token.recv(1 << 16)
        strangers = [stack.enter_context(connected_to(edge.url)) for _ in range(4)]
        until(lambda: len(quota) == 6)
        with connected_to(edge.url) as early:
            assert is_cut(early) < 0.2  # the earlier ones are still within their grace period
        monkeypatch.setattr(quota_module, "GRACE_S", 0.2)
        time.sleep(0.2)
        for _ in range(10):
            assert is_alive(edge, certs)
        assert is_cut(strangers[0]) < 1.0
        assert asked_on(friend) == 200
        assert asked_on(by_token, "/v2") == 200
        assert len(quota) <= 6


def test_health_is_answered_though_all_places_are_taken(networks: Pair, digits: Dataset, certs: Path) -> None:
    quota = ConnectionQuota(total=3, by_address=20, unproven=20, reserve=2)
    with counted(networks, digits, certs, quota) as edge, contextlib.ExitStack() as stack:
        friends = [stack.enter_context(connected_to(edge.url, certs)) for _ in range(3)]
        for friend in friends:
            assert asked_on(friend) == 200
        for _ in range(5):
            assert is_alive(edge, certs)
        refused = ask(edge.url, "/metrics", certs=certs)
        assert (refused.status, refused.json) == (503, {"error": "too many connections are open"})
        assert refused.headers["retry-after"] == "1"
        for friend in friends:
            assert asked_on(friend, "/metrics") == 200


@linux
def test_an_address_cannot_take_the_places_of_another(networks: Pair, digits: Dataset, certs: Path) -> None:
    quota = ConnectionQuota(total=100, by_address=3, unproven=50)
    with counted(networks, digits, certs, quota) as edge, contextlib.ExitStack() as stack:
        many = [stack.enter_context(connected_to(edge.url, certs, source="127.0.0.2")) for _ in range(3)]
        assert [asked_on(each) for each in many] == [200] * 3
        with connected_to(edge.url, source="127.0.0.2") as refused:
            assert is_cut(refused) < 1.0
        for _ in range(3):
            with connected_to(edge.url, certs, source="127.0.0.3") as other:
                assert asked_on(other) == 200


def test_addresses_are_counted_as_what_one_host_can_have() -> None:
    keys: dict[object, str] = {
        ("192.0.2.1", 5): "192.0.2.1",
        ("::ffff:192.0.2.1", 5, 0, 0): "192.0.2.1",
        ("2001:db8::1:2:3:4", 5, 0, 0): "2001:db8::/64",
        ("fe80::1%eth0", 5, 0, 2): "fe80::/64",
        None: "",
        "": "",
    }
    assert {peer: address_key(peer) for peer in keys} == keys


@pytest.mark.timing
def test_four_kinds_of_attack_leave_memory_and_health_alone(edge: Served, certs: Path, files: list[bytes]) -> None:
    """A short version of `workbench bench services --hostile 10000 --seconds 120`."""
    import asyncio

    probes = Probes(edge.url, certs / "ca.pem")

    async def probe() -> None:
        task = asyncio.create_task(probes.run())
        await asyncio.sleep(2.5)
        task.cancel()

    def memory() -> float:
        return measured(edge.url, certs).get("process_resident_memory_bytes", 0.0)

    assert ask(edge.url, "/recognize", files[0], certs).status == 200
    before, errors = memory(), []

    def honest(stop: threading.Event) -> None:
        while not stop.is_set():
            if ask(edge.url, "/recognize", files[0], certs).status != 200:
                errors.append(1)

    stop = threading.Event()
    clients = [threading.Thread(target=honest, args=(stop,)) for _ in range(2)]
    with attacked(edge.url, certs / "ca.pem", 200, (0.5, 1.0)) as attack:
        for client in clients:
            client.start()
        until(lambda: sum(each._handshaken and not each.proven for each in list(edge.server.server_state.connections)) > 20)
        asyncio.run(probe())
        stop.set()
        for client in clients:
            client.join()
    assert attack.counts["established"] > 20
    assert (probes.failed, errors) == (0, [])
    assert memory() - before < 100 << 20


def test_ctrl_c_before_the_attack_leaves_no_attacker(certs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            monkeypatch.setattr(self.stdout, "readline", interrupt)

    monkeypatch.setattr("workbench.bench.hostile.subprocess.Popen", Interrupted)
    with leaving_no_process(), pytest.raises(KeyboardInterrupt), attacked("https://127.0.0.1:1", certs / "ca.pem", 1):
        pass
