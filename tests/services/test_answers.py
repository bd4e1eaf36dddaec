"""Invalid responses: whatever the peer sends, a client raises one error, and closes the connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from workbench.client import new_loop
from workbench.errors import ServiceError
from workbench.protocol import Tensor
from workbench.services.connection import Connection, infer, metadata
from workbench.services.http import HttpConnections, PooledConnection
from workbench.services.trust import client_context, server_context


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} so", *headers, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


OK = http(200, b"{}")


@dataclass
class Heard:
    connections: int = 0
    requests: int = 0


def against(said: bytes, talk: Callable[[int], Awaitable[object]], hang_up: bool = True) -> Heard:
    heard = Heard()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                heard.requests += 1
                writer.write(said)
                await writer.drain()
                if hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            async with asyncio.timeout(30):
                await talk(server.sockets[0].getsockname()[1])

    asyncio.run(main())
    return heard


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (70 << 10) + b"\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["nothing", "ssh", "no length", "chunked", "negative", "too long", "far too long", "cut", "long head"],
)
def test_what_is_no_answer_is_a_lost_connection(said: bytes) -> None:
    async def talk(port: int) -> None:
        connections = HttpConnections("127.0.0.1", port)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await connections.request("GET", "/", b"", {}, None)
        assert not connections._idle
        await connections.close()

    assert against(said, talk).connections == 2  # a failed connection is not reused


def test_a_connection_is_kept_and_used_again() -> None:
    async def talk(port: int) -> None:
        connections = HttpConnections("127.0.0.1", port)
        for _ in range(5):
            assert (await connections.request("GET", "/", b"", {}, None)).body == b"{}"
        await connections.close()

    assert against(OK, talk, hang_up=False) == Heard(1, 5)


def test_requests_side_by_side_have_a_connection_each() -> None:
    async def talk(port: int) -> None:
        connections = HttpConnections("127.0.0.1", port)
        for _ in range(2):
            await asyncio.gather(*(connections.request("GET", "/", b"", {}, None) for _ in range(4)))
        await connections.close()

    assert against(OK, talk, hang_up=False) == Heard(4, 8)


@pytest.mark.parametrize("said", [OK + OK, OK + b"more than was asked for"])
def test_an_answer_that_nobody_asked_for_ends_the_connection(said: bytes) -> None:
    async def talk(port: int) -> None:
        connections = HttpConnections("127.0.0.1", port)
        for _ in range(2):
            with contextlib.suppress(ConnectionError):  # if the rest arrived with the response
                assert (await connections.request("GET", "/", b"", {}, None)).body == b"{}"
        await connections.close()

    assert against(said, talk, hang_up=False).connections == 2


def test_a_request_that_was_given_up_leaves_no_connection_behind() -> None:
    async def talk(port: int) -> None:
        connections = HttpConnections("127.0.0.1", port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connections.request("GET", "/", b"", {}, None), 0.1)
        assert not connections._idle
        await connections.close()
        assert not connections._made

    against(b"HTTP/1.1 200 OK\r\n", talk, hang_up=False)


@pytest.mark.parametrize("new", [asyncio.new_event_loop, new_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_abandoned_new_connection_ends_before_its_loop(
    tls: bool, new: Callable[[], asyncio.AbstractEventLoop], certs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = PooledConnection.connection_made

    def serve(listening: socket.socket) -> None:
        peer = listening.accept()[0]
        peer.settimeout(10)
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # the client may close before the server's handshake ends
            if tls:
                peer = server_context(certs, "cloud", True).wrap_socket(peer, server_side=True)
                peer = socket.socket(fileno=peer.detach())  # from here on close_notify gets no reply
                peer.settimeout(10)
            with peer:
                while peer.recv(4096):
                    pass

    async def main(port: int) -> None:
        connections = HttpConnections("127.0.0.1", port)
        context = client_context(certs, "edge") if tls else None
        task = asyncio.create_task(connections.request("GET", "/", b"", {}, context))

        def given_up(kept: PooledConnection, transport: asyncio.BaseTransport) -> None:
            made(kept, transport)
            task.cancel()

        monkeypatch.setattr(PooledConnection, "connection_made", given_up)
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30):
            await connections.close()
        assert not connections._made

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, listening)
        with asyncio.Runner(loop_factory=new) as runner:
            runner.run(main(listening.getsockname()[1]))
        served.result()  # the server has seen the end


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (http(200, b"<html>"), "does not speak the Open Inference Protocol"),
        (http(403, b'{"error": "not\\n you"}'), ": not you"),
        (http(500, b""), "status 500"),
        (http(301, b"", "Location: https://192.0.2.1/"), "status 301"),
    ],
)
def test_an_unusable_service_is_named_in_one_line(said: bytes, reason: str) -> None:
    async def talk(port: int) -> None:
        async with Connection(f"http://127.0.0.1:{port}", None, plain=True) as connection:
            with pytest.raises(ServiceError) as caught:
                await metadata(connection, deadline=asyncio.get_running_loop().time() + 20)
            assert reason in str(caught.value)
            assert "\n" not in str(caught.value)

    assert against(said, talk).requests == 1  # and the request is not repeated


def test_an_answer_that_is_not_of_the_protocol_is_refused() -> None:
    async def talk(port: int) -> None:
        async with Connection(f"http://127.0.0.1:{port}", None, plain=True) as connection:
            with pytest.raises(ServiceError, match="did not answer in the protocol") as caught:
                await infer(connection, "resnet18", [Tensor.of("image", [b"x"])])
            assert caught.value.status == 502

    against(OK, talk)


@pytest.mark.parametrize("status", [429, 503])
def test_what_has_no_room_is_asked_again_until_the_deadline(status: int) -> None:
    said = http(status, b'{"error": "no room"}', "Retry-After: 0")

    async def talk(port: int) -> None:
        async with Connection(f"http://127.0.0.1:{port}", None, plain=True) as connection:
            with pytest.raises(ServiceError, match="no room") as caught:
                await metadata(connection, deadline=asyncio.get_running_loop().time() + 0.5)
            assert caught.value.status == status
            with pytest.raises(ServiceError, match="no room"):
                await metadata(connection)  # without a deadline: one attempt

    assert 4 <= against(said, talk, hang_up=False).requests <= 25  # the pauses grow
