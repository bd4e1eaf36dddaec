"""HTTP/1.1 to one service over kept connections: as little as stands between a payload and its answer.

A request leaves in one write, and so in one TLS record; an answer is parsed by httptools, bounded, and must say its length. A
connection that failed, or whose answer was not waited for, is never used again. Through aiohttp's client the two hops of a
picture take 0.8 ms more, of 7 in all: that is why this file is here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

import httptools

__all__ = ["HttpAnswer", "HttpConnections"]

MOST_HEAD, MOST_ANSWER = 64 << 10, 64 << 20
IDLE_S = 60.0  # less than the services keep a connection that says nothing
MOST_IDLE = 64
CONNECT_S = 3.0  # for TCP and TLS


@dataclass(frozen=True)
class HttpAnswer:
    """What a service answered: status, headers (names in lower case), body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class _Kept(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.open = True
        self.gone = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._lost: Exception | None = None
        self._start()

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._head = 0

    async def exchange(self, request: bytes) -> HttpAnswer:
        """Send a request and return its answer; ConnectionError where there is none to come."""
        if self.transport is None or not self.open:
            raise self._lost or ConnectionResetError("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            return await self._answer
        except BaseException:
            self.end()
            raise
        finally:
            self._answer = None

    def end(self) -> None:
        """Let go of the connection."""
        self.open = False
        if self.transport is not None:
            self.transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.end()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
            self._fail(ConnectionError("the answer is not HTTP"))

    def eof_received(self) -> None:
        self._fail(ConnectionResetError("the other end closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the connection was lost"))
        if not self.gone.done():
            self.gone.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._lost = self._lost or error
        self.end()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > MOST_HEAD:
            raise ValueError
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        length = self._headers.get("content-length", "")
        if not length.isdigit() or len(length) > 9 or int(length) > MOST_ANSWER:
            raise ValueError

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        answer = HttpAnswer(self._parser.get_status_code(), self._headers, bytes(self._body))
        if not self._parser.should_keep_alive():
            self.open = False
        self._start()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class HttpConnections:
    """Connections to `host`:`port`; with a TLS context that checks the name `host`. They are opened as they are needed."""

    def __init__(self, host: str, port: int, headers: Mapping[str, str] | None = None) -> None:
        self.host, self.port = host, port
        name = f"[{host}]" if ":" in host else host
        lines = {"Host": f"{name}:{port}", **(headers or {})}
        self._always = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
        self._idle: list[_Kept] = []
        self._made: set[_Kept] = set()  # and not gone yet

    async def request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], context: ssl.SSLContext | None
    ) -> HttpAnswer:
        """Send a request; OSError (or ssl.SSLError, which is one) where there is no answer to it."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{lines}".encode("latin-1")
        kept = self._take() or await self._open(context)
        answer = await kept.exchange(b"".join((head, self._always, b"\r\n", body)))
        kept.idle_since = asyncio.get_running_loop().time()
        if kept.open and len(self._idle) < MOST_IDLE:
            self._idle.append(kept)
        else:
            kept.end()
        return answer

    def forget(self) -> None:
        """Let go of what is idle."""
        while self._idle:
            self._idle.pop().end()

    async def close(self) -> None:
        """Let go of every connection, and wait until it is gone."""
        for kept in self._made:
            kept.end()
        self._idle.clear()
        await asyncio.gather(*(kept.gone for kept in self._made))

    def _take(self) -> _Kept | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            kept = self._idle.pop()
            if kept.open and now - kept.idle_since < IDLE_S:
                return kept
            kept.end()
        return None

    async def _open(self, context: ssl.SSLContext | None) -> _Kept:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            _, kept = await loop.create_connection(
                _Kept, self.host, self.port, ssl=context, server_hostname=self.host if context is not None else None
            )
        self._made.add(kept)
        kept.gone.add_done_callback(lambda _: self._made.discard(kept))
        return kept
