"""Limits of a service: it does not wait for slow bodies and heads, holds bounded memory, and finishes requests when it ends."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.services import (
    Answered,
    Both,
    Log,
    Served,
    ask,
    both_of,
    cloud_of,
    connected_to,
    edge_of,
    form_of,
    occupied,
    serving,
)
from tests.support.waiting import until
from workbench.certs import Role
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.services.edge import EdgeService
from workbench.services.intake import Intake
from workbench.services.server import Listener, address
from workbench.weights import Pair

MOST = 20_000
EDGE = {"intake": Intake(MOST, budget=30_000, patience_s=0.5)}


def connected(both: Both, role: Role = "client") -> AbstractContextManager[socket.socket]:
    return connected_to(both.edge.url, both.certs, role)


def head(length: int, path: str = "/recognize", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: edge\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def answered(connection: socket.socket) -> Answered | None:
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    except (ConnectionError, ssl.SSLEOFError):
        return None


def status(connection: socket.socket) -> int:
    answer = answered(connection)
    assert answer is not None, "the connection was cut"
    return answer.status


def still_works(both: Both, file: bytes) -> None:
    until(lambda: both.edge.service.intake.held == 0)
    assert ask(both.edge.url, "/recognize", file, both.certs).status == 200


def test_a_body_that_is_too_long_is_refused(both: Both, files: list[bytes]) -> None:
    answer = ask(both.edge.url, "/recognize", bytes(MOST + 1), both.certs)
    assert (answer.status, answer.json) == (413, {"error": f"a body may have at most {MOST} bytes"})
    assert ask(both.edge.url, "/recognize", bytes(MOST), both.certs).status == 400  # of the largest length, and no picture
    still_works(both, files[0])


def test_a_body_that_does_not_say_its_length_is_bounded_too(both: Both, files: list[bytes]) -> None:
    chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
    with connected(both) as connection:
        connection.sendall(b"POST /recognize HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 6)
        assert status(connection) == 413
    still_works(both, files[0])


def test_a_body_in_pieces_is_read_whole(both: Both, files: list[bytes]) -> None:
    with connected(both) as connection:
        connection.sendall(head(len(files[0])))
        for position in range(0, len(files[0]), 100):
            connection.sendall(files[0][position : position + 100])
        assert status(connection) == 200


def test_a_body_that_is_too_slow_is_refused(both: Both, files: list[bytes]) -> None:
    with connected(both) as connection:
        connection.sendall(head(1000) + bytes(10))
        until(lambda: both.edge.service.intake.held == 10)
        answer = answered(connection)
        assert answer is not None
        assert (answer.status, answer.json) == (408, {"error": "the body took longer than 0.5 s to arrive"})
    still_works(both, files[0])


def test_a_client_that_goes_away_leaves_nothing_behind(both: Both, files: list[bytes], logged: Log) -> None:
    with connected(both) as connection:
        connection.sendall(head(1000) + bytes(10))
        until(lambda: both.edge.service.intake.held == 10)
    until(lambda: both.edge.service.intake.held == 0)
    still_works(both, files[0])
    until(lambda: [line["status"] for line in logged.lines()][-2:] == [400, 200])  # that of an earlier test may come first
    assert "Traceback" not in logged.text


def test_bodies_are_bounded_together(both: Both, files: list[bytes]) -> None:
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(connected(both)) for _ in range(2))
        first.sendall(head(MOST) + bytes(MOST - 1))
        until(lambda: both.edge.service.intake.held == MOST - 1)
        second.sendall(head(MOST) + bytes(MOST - 1))
        refused = answered(second)
        assert refused is not None
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        first.sendall(bytes(1))
        assert status(first) == 400  # it arrived completely, and is no picture
    still_works(both, files[0])


@pytest.mark.parametrize("refused_as", [403, 413])
def test_a_body_that_goes_on_after_its_answer_is_cut_off(
    both: Both, files: list[bytes], monkeypatch: pytest.MonkeyPatch, refused_as: int
) -> None:
    monkeypatch.setattr(both.edge.timeouts, "head", 0.3)
    with connected(both, "edge" if refused_as == 403 else "client") as connection:
        connection.sendall(head(1 << 30) + bytes(MOST + 1))
        assert status(connection) == refused_as
        assert dribbled(connection) < 30
    still_works(both, files[0])


def dribbled(connection: socket.socket, patience: float = 30.0) -> float:
    start = time.monotonic()
    connection.settimeout(0.02)
    while (passed := time.monotonic() - start) < patience:
        try:
            connection.sendall(b"x")
            if not connection.recv(1):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return passed


@pytest.mark.parametrize("said", [b"", b"GET /v2 HTTP/1.1\r\nX-Long: "])
def test_a_head_that_never_ends_is_cut_off(
    both: Both, files: list[bytes], monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(both.edge.timeouts, "head", 0.3)
    with connected(both) as connection:
        connection.sendall(said)
        assert answered(connection) is None
    with connected(both) as connection:
        connection.sendall(said or b"GET /")
        assert dribbled(connection) < 30
    still_works(both, files[0])


def test_a_second_head_on_a_connection_has_no_longer(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both.edge.timeouts, "head", 0.3)
    with connected(both) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: edge\r\n\r\n")
        assert status(connection) == 200
        connection.sendall(b"GET /v2 HTTP/1.1\r\nX-Long: ")
        assert dribbled(connection) < 30


def test_a_connection_that_waits_between_requests_is_kept(
    both: Both, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both.edge.timeouts, "head", 0.1)
    with connected(both) as connection:
        for _ in range(3):
            connection.sendall(head(len(files[0])) + files[0])
            assert status(connection) == 200
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(30)


def test_a_huge_head_is_cut_off(both: Both, files: list[bytes]) -> None:
    with connected(both) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: edge\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n")
        assert status(connection) == 200
    with connected(both) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /v2 HTTP/1.1\r\nX-Long: " + b"x" * (4 << 20))
        assert answered(connection) is None
    still_works(both, files[0])


def test_what_is_no_http_is_refused(both: Both, files: list[bytes]) -> None:
    for said in (b"\x16\x03\x01 hello", b"GET\r\n\r\n", b"POST /recognize HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with connected(both) as connection:
            connection.sendall(said)
            assert status(connection) == 400, said
            assert answered(connection) is None
    still_works(both, files[0])


def test_pipelining_a_second_request_ends_the_connection(both: Both, files: list[bytes]) -> None:
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: edge\r\n\r\n"
    for said in (head(len(files[0])) + files[0] + live, live * 2):
        with connected(both) as connection:
            connection.sendall(said)
            assert answered(connection) is None
    with connected(both) as connection:  # each after the previous response
        for _ in range(3):
            connection.sendall(live)
            assert status(connection) == 200
    still_works(both, files[0])


@pytest.mark.parametrize("holds", ["edge", "cloud"])
def test_what_was_accepted_before_the_end_is_answered(
    networks: Pair, digits: Dataset, certs: Path, files: list[bytes], holds: str
) -> None:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(serving(cloud_of(networks, Png(), digits), certs, "cloud"))
        edge = stack.enter_context(serving(edge_of(networks, Png(), digits, cloud.url, certs), certs, "edge"))
        assert isinstance(edge.service, EdgeService)
        pool = stack.enter_context(ThreadPoolExecutor(4))
        body, form = form_of(files[:3])
        held = edge if holds == "edge" else cloud
        with occupied(held.service._lanes.pool):  # type: ignore[attr-defined]
            requests = 4 if holds == "edge" else 1
            answers = [pool.submit(ask, edge.url, "/recognize", body, certs, headers=form) for _ in range(requests)]
            until(lambda: edge.service.waiting == 3 * requests and (holds == "edge" or cloud.service.waiting > 0))
            held.server.should_exit = True
            until(lambda: closed(held))
            assert not any(answer.done() for answer in answers)
        for answer in answers:
            assert answer.result().status == 200
        held.thread.join(30)
        assert not held.thread.is_alive()
        assert not held.service.ready


def closed(served: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_service_that_waits_for_nobody_ends_at_once(networks: Pair, digits: Dataset, certs: Path) -> None:
    with both_of(networks, Png(), digits, certs) as both, connected(both) as connection:  # that sends nothing more
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: edge\r\n\r\n")
        assert status(connection) == 200
        both.edge.end()
        assert answered(connection) is None


def test_an_address_is_a_host_and_a_port() -> None:
    assert (address("localhost:0"), address("[::1]:8443")) == (("localhost", 0), ("::1", 8443))
    for text in ("", "8443", "127.0.0.1", "127.0.0.1:", ":8443", "127.0.0.1:65536", "127.0.0.1:-1", "host:https"):
        with pytest.raises(UsageError, match=f"^{text!r} is no HOST:PORT, such as 127.0.0.1:8443"):
            address(text)


def test_a_port_that_is_taken_is_named() -> None:
    with Listener.open("127.0.0.1:0").socket as taken:
        taken.listen()
        with pytest.raises(UsageError, match=r"cannot listen on 127.0.0.1:\d+: Address already in use"):
            Listener.open(f"127.0.0.1:{taken.getsockname()[1]}")
