"""Kept connections end together with their certificates, at both ends. Tokens are sent only to their service."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.guests import POLICY, WHERE, Guest, guest_of
from tests.support.servers import accepting
from tests.support.services import SECRET, Both, Served, ask, both_of, cloud_of, connected_to, edge_of, is_cut, on_loop, serving
from tests.support.waiting import until
from workbench.__main__ import main
from workbench.certs import issue
from workbench.client import HttpsClient
from workbench.codecs import Png
from workbench.commands import serve as serve_command
from workbench.data import Dataset
from workbench.errors import AttestationError, ServiceError
from workbench.services import connection as connection_module
from workbench.services.attestation_agent import AttestationAgent
from workbench.services.connection import Connection
from workbench.services.trust import Token, client_context, server_context
from workbench.weights import Pair

METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    issue(tmp_path / "certs")
    return tmp_path / "certs"


def replace_authority(folder: Path) -> None:
    for name in ("ca.pem", "ca.key"):
        for path in folder.rglob(name):
            path.unlink()
    issue(folder)


def asked_on(connection: socket.socket) -> int:
    connection.sendall(METRICS)
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


@pytest.mark.parametrize(("what", "how"), [("edge", "another authority"), ("cloud", "the same authority")])
def test_kept_connections_end_with_their_certificates(networks: Pair, digits: Dataset, own: Path, what: str, how: str) -> None:
    with both_of(networks, Png(), digits, own) as both, contextlib.ExitStack() as stack:
        url, role = (both.edge.url, "client") if what == "edge" else (both.cloud.url, "edge")
        idle, half = (stack.enter_context(connected_to(url, own, role)) for _ in range(2))  # type: ignore[arg-type]
        assert [asked_on(idle), asked_on(half)] == [200, 200]
        half.sendall(METRICS[:10])  # a head that is incomplete when the certificates change
        time.sleep(0.05)
        replace_authority(own) if how == "another authority" else issue(own)
        assert is_cut(idle) < 5.0
        half.sendall(METRICS[10:])
        answer = http.client.HTTPResponse(half)
        answer.begin()
        assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
        assert b"connect again" in answer.read()
        is_cut(half)


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "plain HTTP"])
def test_kept_connections_end_with_their_token(networks: Pair, digits: Dataset, own: Path, tmp_path: Path, tls: bool) -> None:
    file, other = tmp_path / "token", "another-token-of-the-tests"
    file.write_text(SECRET)
    service = edge_of(networks, Png(), digits, "https://127.0.0.1:9", own, token=Token.read(file), plain=not tls)
    folder = own if tls else None

    def status(connection: socket.socket, token: str) -> int:
        connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
        return answer.status

    with (
        serving(service, folder, "edge", demand=False, ready=False, token_file=file) as edge,
        connected_to(edge.url, folder, None) as kept,
        connected_to(edge.url, folder, "client") as certified,
    ):
        assert status(kept, SECRET) == 200
        assert not tls or asked_on(certified) == 200
        file.write_text("short")  # no token: the old one stays
        until(lambda: service.token is not None, 1.0)
        assert status(kept, SECRET) == 200
        file.write_text(other)
        assert is_cut(kept) < 5.0
        for token, wanted in ((SECRET, 401), (other, 200)):
            with connected_to(edge.url, folder, None) as connection:
                assert status(connection, token) == wanted
        assert not tls or asked_on(certified) == 200  # certificates are not concerned


def test_what_is_under_way_is_answered_and_its_connection_closed(
    networks: Pair, digits: Dataset, own: Path, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with both_of(networks, Png(), digits, own) as both:
        service, gate = both.edge.service, threading.Event()
        plain = service._protect  # type: ignore[attr-defined]
        monkeypatch.setattr(service._batcher, "compute", lambda jobs: (gate.wait(30), plain(jobs))[1])  # type: ignore[attr-defined]
        with connected_to(both.edge.url, own) as connection:
            connection.sendall(b"POST /recognize HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(files[0]) + files[0])
            until(lambda: service.waiting == 1)
            issue(own)
            wire = next(iter(both.edge.server.server_state.connections))
            until(lambda: wire.stale)  # type: ignore[attr-defined]
            gate.set()
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_a_connection_ends_when_its_clients_certificate_does(networks: Pair, digits: Dataset, tmp_path: Path) -> None:
    own, yesterday = tmp_path / "certs", datetime.now(UTC) - timedelta(days=1)
    issue(own, days=20, now=yesterday)
    issue(own, roles=("client",), days=1, now=yesterday + timedelta(seconds=3))
    with (
        serving(cloud_of(networks, Png(), digits, roles=("client",)), own, "cloud") as cloud,
        connected_to(cloud.url, own) as connection,
    ):
        assert asked_on(connection) == 200
        time.sleep(3.1)
        assert asked_on(connection) == 503
        is_cut(connection)


def test_a_client_notices_that_its_certificates_were_replaced(
    networks: Pair, digits: Dataset, own: Path, tmp_path: Path, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CERTIFICATE_POLL_S", 0.0)
    clients = shutil.copytree(own, tmp_path / "clients")
    with both_of(networks, Png(), digits, own) as both, HttpsClient(both.edge.url, certs=clients, deadline_s=3.0) as client:
        client.recognise_files(files[:1])
        replace_authority(clients)  # only the client's: it no longer trusts the edge's authority
        with pytest.raises(ServiceError, match="is not to be trusted"):
            client.recognise_files(files[:1])
        shutil.rmtree(clients)
        shutil.copytree(own, clients)
        assert client.recognise_files(files[:1]).scores.shape == (1, 10)


def test_certificates_that_do_not_fit_are_not_taken(
    networks: Pair, digits: Dataset, own: Path, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CERTIFICATE_POLL_S", 0.0)
    with both_of(networks, Png(), digits, own) as both, HttpsClient(both.edge.url, certs=own, deadline_s=5.0) as client:
        client.recognise_files(files[:1])
        (key,) = own.rglob("client.key")
        whole = key.read_bytes()
        key.write_bytes(b"half of a k")
        client.recognise_files(files[:1])
        key.write_bytes(whole)
        client.recognise_files(files[:1])


@pytest.mark.parametrize("why", ["renewed", "expired"])
@on_loop
async def test_a_stale_connection_is_not_used_again(both: Both, why: str) -> None:
    trust = lambda: client_context(both.certs, "client")  # noqa: E731
    async with Connection(both.edge.url, trust) as connection:
        pool = connection._http
        await connection.call("GET", "/v2")
        (first,) = pool._idle
        if why == "expired":
            assert time.time() < first.expires < time.time() + 400 * 86400
            first.expires = time.time() - 1
        else:
            busy = asyncio.create_task(connection.call("GET", "/v2"))
            await asyncio.sleep(0)
            connection.renew()  # while the connection is in use
            await busy
        await connection.call("GET", "/v2")
        (second,) = pool._idle
        assert second is not first
        assert not first.open


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 65536),
        (b"HTTP/1.1 200 ", b"y" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 10_000),
        (b"HTTP/1.1 200 OK\r\n", b"x" * 65536),
        (b"", b"\r\n" * 30_000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 3000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n" * 10_000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", b"1;x\r\nx\r\n" * 10_000),
    ],
)
def test_an_answer_that_never_ends_is_given_up_at_once(certs: Path, first: bytes, rest: bytes) -> None:
    sent, context = [0], server_context(certs, "cloud")

    def serve(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(1 << 16)
            connection.sendall(first)
            while True:
                connection.sendall(rest)
                sent[0] += len(rest)

    async def run(url: str) -> None:
        async with Connection(url, lambda: client_context(certs, "edge"), attempt_s=20.0) as connection:
            with pytest.raises(ServiceError, match="cannot be reached"):
                await connection.call("GET", "/v2")

    start = time.monotonic()
    with accepting(serve) as port:
        asyncio.run(run(f"https://127.0.0.1:{port}"))
    assert time.monotonic() - start < 5.0
    assert sent[0] < 16 << 20  # at most what buffers hold


@pytest.fixture
def attested(networks: Pair, digits: Dataset, certs: Path) -> Iterator[tuple[Served, Guest]]:
    with (
        guest_of() as guest,
        serving(cloud_of(networks, Png(), digits), certs, "cloud") as cloud,
        serving(
            edge_of(networks, Png(), digits, cloud.url, certs, token=Token(SECRET.encode()), agent=AttestationAgent(guest.url)),
            certs,
            "edge",
            demand=False,
        ) as edge,
    ):
        yield edge, guest


def test_a_token_leaves_after_the_evidence_alone(
    attested: tuple[Served, Guest], certs: Path, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    edge, _ = attested
    seen: list[tuple[str, bool]] = []
    plain = type(edge.service).__call__

    async def spied(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append((scope["path"], any(name == b"authorization" for name, _ in scope["headers"])))
        await plain(self, scope, receive, send)

    monkeypatch.setattr(type(edge.service), "__call__", spied)
    strict = dataclasses.replace(POLICY, measurements=("f" * 96,))
    with (
        HttpsClient(edge.url, certs=certs, token=Token(SECRET.encode()), policy=strict) as client,
        pytest.raises(AttestationError),
    ):
        client.recognise_files(files[:1])
    assert seen
    assert set(seen) == {("/attestation", False)}, "a guest that proves nothing never sees the token"
    seen.clear()
    with HttpsClient(edge.url, certs=certs, token=Token(SECRET.encode()), policy=POLICY) as client:
        client.recognise_files(files[:1])
    assert seen[0] == ("/attestation", False)
    assert len(seen) > 1
    assert all(shown for path, shown in seen if path != "/attestation")


def test_evidence_without_a_credential_has_a_share_of_the_queue(attested: tuple[Served, Guest], certs: Path) -> None:
    edge, guest = attested
    assert ask(edge.url, WHERE, certs=certs, role=None).status == 200
    wrong = ask(edge.url, WHERE, certs=certs, role=None, headers={"Authorization": "Bearer wrong"})
    assert wrong.status == 401
    assert ask(edge.url, WHERE, certs=certs, role="edge").status == 403

    async def run() -> None:
        agent = AttestationAgent(guest.url)
        ask_one = lambda who: agent.evidence(b"%064x" % 7, who)  # noqa: E731
        tasks = [asyncio.create_task(ask_one("192.0.2.1")) for _ in range(5)]
        tasks += [asyncio.create_task(ask_one("192.0.2.2")), asyncio.create_task(ask_one(None))]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, ServiceError)]
        assert [error.status for error in refused] == [429]
        assert answers[4] is refused[0]
        assert not agent._strangers

    asyncio.run(run())


def test_a_service_takes_no_token_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKBENCH_TOKEN", SECRET)
    options = argparse.Namespace(token_file=None, what="edge", probes=False, plain_http=False, certs=tmp_path)
    assert serve_command._token(options) is None
    options.token_file = tmp_path / "token"
    options.token_file.write_text("another-token-altogether")
    assert serve_command._token(options) == Token(b"another-token-altogether")


@pytest.mark.parametrize("option", ["--deadline", "--wait-ms", "--least-strength"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_service_takes_finite_numbers(option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "cloud", "--certs", str(tmp_path), option, value]) != 0
    assert "--wait-ms from 0 up, --deadline above 0, all of them finite" in capsys.readouterr().err


def test_a_cloud_answers_its_edge_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text(SECRET)
    assert main(["serve", "cloud", "--certs", str(tmp_path), "--token-file", str(tmp_path / "token")]) != 0
    assert "a cloud of arrangement pmc2 answers its edge's certificate alone: leave out --token-file" in capsys.readouterr().err
