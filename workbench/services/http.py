"""An HTTP/1.1 client for one service, with a connection pool and little overhead.

A response has a limited size and must state its length. A connection is not used again after a failed or abandoned request.

A connection may be dead without being closed, if the other machine was disconnected or replaced. So if a small request has no
response after one second, a copy of it is sent on a new connection. If the copy gets its response first, the older connections
count as dead. All requests that still wait on them then fail, and the module `connection` retries these requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast
from urllib.parse import urlsplit

import httptools

from ..errors import AttestationError
from .trust import expiry_of

__all__ = ["Admission", "HttpAnswer", "HttpConnections", "get_once", "split_url", "without_secrets"]

MOST_HEAD, MOST_ANSWER = 64 << 10, 64 << 20  # bytes of a response outside its body, and of its body
IDLE_S = 60.0  # shorter than the services' limit for idle connections
MOST_IDLE = 1024  # idle connections to keep: a new handshake costs an edge as much time as a picture
CONNECT_S = 3.0  # for TCP and TLS
DOUBT_S = 1.0  # without a response, before a second copy of the request is sent
MOST_AGAIN = 64 << 10  # bytes: larger requests are not sent twice
ADMIT_S = 10.0  # for the check of a new connection
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class HttpAnswer:
    """The response of a service."""

    status: int
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    body: bytes = field(repr=False)


# An Admission checks a new connection before anything else is sent on it, and raises an error to refuse it. It gets a function
# that requests a path on that connection, and the connection's TLS object.
Ask: TypeAlias = Callable[[str], Awaitable[HttpAnswer]]
Admission: TypeAlias = Callable[[Ask, ssl.SSLObject | None], Awaitable[None]]


class PooledConnection(asyncio.Protocol):
    """A connection of the pool. It carries one request at a time. The body of a response has at most `most` bytes."""

    def __init__(self, most: int = MOST_ANSWER, context: ssl.SSLContext | None = None) -> None:
        self.most = most  # bytes of a response
        self.context = context  # its TLS context
        self.expires = math.inf  # expiry of the peer's certificate, in seconds since the epoch
        self.admitted = True
        self.transport: asyncio.Transport | None = None
        self.idle_since = self.asked_at = 0.0
        self.asked = b""
        self.open = True
        self.gone = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._lost: Exception | None = None
        self._start()

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._head = self._overhead = 0

    async def exchange(self, request: bytes) -> HttpAnswer:
        """Send a request (head and body), and return its response. Raises ConnectionError if no response arrives."""
        if self.transport is None or not self.open:
            raise self._lost or ConnectionResetError("the connection was closed")
        loop = asyncio.get_running_loop()
        self._answer, self.asked, self.asked_at = loop.create_future(), request, loop.time()
        self.transport.write(request)
        try:
            return await self._answer
        except BaseException:
            self.end()
            raise
        finally:
            self._answer, self.asked = None, b""

    @property
    def waits(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def lose(self, error: Exception) -> None:
        self._lost = self._lost or error
        self.end()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def end(self) -> None:
        self.open = False
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.end()  # there is no outstanding request
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
            self.lose(ConnectionError("the answer is not HTTP"))
        if self._overhead > MOST_HEAD:  # the parser keeps an incomplete header
            self.lose(ConnectionError(f"the head of the answer has more than {MOST_HEAD} bytes"))

    def eof_received(self) -> None:
        self.lose(ConnectionResetError("the other end closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        self.lose(error or ConnectionResetError("the connection was lost"))
        if not self.gone.done():
            self.gone.set_result(None)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > MOST_HEAD:
            raise ValueError
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        length = self._headers.get("content-length", "")
        if not length.isdigit() or len(length) > 9 or int(length) > self.most:
            raise ValueError

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        self._body += body

    def on_message_complete(self) -> None:
        answer = HttpAnswer(self._parser.get_status_code(), self._headers, bytes(self._body))
        if not self._parser.should_keep_alive():
            self.open = False
        self._start()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class HttpConnections:
    """A pool of connections to `host`:`port`. A connection is opened when no open connection is free.

    `admit` checks each new connection before the first request. `headers` are added to each request, but not during the check.
    """

    def __init__(self, host: str, port: int, headers: Mapping[str, str] | None = None, admit: Admission | None = None) -> None:
        self.host, self.port, self._admit = host, port, admit
        name = f"[{host}]" if ":" in host else host
        self._host = f"Host: {name}:{port}\r\n".encode("latin-1")
        self._always = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode("latin-1")
        self._context: ssl.SSLContext | None = None  # the latest context: connections with an older one are stale
        self._idle: list[PooledConnection] = []
        self._made: set[PooledConnection] = set()  # connections that are not closed yet
        self._again: asyncio.Task[None] | None = None  # sends stalled requests again

    async def request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], context: ssl.SSLContext | None
    ) -> HttpAnswer:
        """Send a request, and return the response. Raises OSError if no response arrives.

        `headers` are added to the headers of the pool. `context` is the current TLS context (None: no TLS). An error of `admit`
        is passed on.
        """
        loop = asyncio.get_running_loop()
        start, self._context = loop.time(), context
        request = self._written(method, path, body, headers)
        kept = self._take() or await self._open(context)
        doubt = loop.call_later(DOUBT_S, self._probe_stalled, context)
        try:
            answer = await kept.exchange(request)
        except BaseException:
            self.forget(start)  # connections that were idle meanwhile may have the same fault
            raise
        finally:
            doubt.cancel()
        self._keep(kept)
        return answer

    def _written(self, method: str, path: str, body: bytes, headers: Mapping[str, str], credentials: bool = True) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{lines}".encode("latin-1")
        return b"".join((head, self._host, self._always if credentials else b"", b"\r\n", body))

    def forget(self, since: float = math.inf) -> None:
        """Close the idle connections that were last used before `since`, in the event loop's time. By default close all."""
        for kept in [kept for kept in self._idle if kept.idle_since < since]:
            self._idle.remove(kept)
            kept.end()

    async def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait((self._again,))
        for kept in self._made:
            kept.end()
        self._idle.clear()
        await asyncio.gather(*(kept.gone for kept in self._made))

    def _probe_stalled(self, context: ssl.SSLContext | None) -> None:
        if self._again is None:
            self._again = asyncio.create_task(self._find_out(context))

    async def _find_out(self, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            while late := [kept for kept in self._made if self._is_late(kept)]:
                start = loop.time()
                oldest = min(late, key=lambda kept: kept.asked_at)
                # TimeoutError is an OSError. A refusal proves nothing about old connections.
                with contextlib.suppress(OSError, AttestationError):
                    async with asyncio.timeout(DOUBT_S + (ADMIT_S if self._admit is not None else 0.0)):
                        other = await self._open(context)
                        answer = await other.exchange(oldest.asked)
                    if answer.status == 200 and oldest.waits:
                        self._give_up(start)
                    self._keep(other)
                await asyncio.sleep(max(0.0, start + DOUBT_S - loop.time()))
        finally:
            self._again = None

    def _is_late(self, kept: PooledConnection) -> bool:
        now = asyncio.get_running_loop().time()
        return kept.waits and kept.admitted and 0 < len(kept.asked) <= MOST_AGAIN and kept.asked_at < now - DOUBT_S / 2

    def _give_up(self, since: float) -> None:
        self.forget(since)
        for kept in list(self._made):
            if kept.waits and kept.admitted and kept.asked_at < since:
                kept.lose(ConnectionResetError("the connection is dead"))

    def _keep(self, kept: PooledConnection) -> None:
        kept.idle_since = asyncio.get_running_loop().time()
        if kept.open and not self._is_stale(kept) and len(self._idle) < MOST_IDLE:
            self._idle.append(kept)
        else:
            kept.end()

    def _take(self) -> PooledConnection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            kept = self._idle.pop()
            if kept.open and not self._is_stale(kept) and now - kept.idle_since < IDLE_S:
                return kept
            kept.end()
        return None

    def _is_stale(self, kept: PooledConnection) -> bool:
        return kept.context is not self._context or time.time() >= kept.expires

    async def _open(self, context: ssl.SSLContext | None) -> PooledConnection:
        loop, name = asyncio.get_running_loop(), self.host if context is not None else None
        kept = PooledConnection(context=context)
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: kept, self.host, self.port, ssl=context, server_hostname=name)
        except BaseException:
            kept.end()  # else an abandoned new connection would wait for the peer's close_notify, even after its loop has ended
            raise
        if kept.transport is not None and (secure := kept.transport.get_extra_info("ssl_object")) is not None:
            kept.expires = expiry_of(secure)
        self._made.add(kept)
        kept.gone.add_done_callback(lambda _: self._made.discard(kept))
        if self._admit is not None:
            await self._let_in(kept, self._admit)
        return kept

    async def _let_in(self, kept: PooledConnection, admit: Admission) -> None:
        kept.admitted = False
        assert kept.transport is not None
        try:
            async with asyncio.timeout(ADMIT_S):
                await admit(
                    lambda path: kept.exchange(self._written("GET", path, b"", {}, credentials=False)),
                    kept.transport.get_extra_info("ssl_object"),
                )
        except BaseException:
            kept.end()
            raise
        kept.admitted = True


def split_url(url: str) -> tuple[str, str, int] | None:
    """Split http(s)://HOST[:PORT] into the URL without a final slash, its host in ASCII (IDNA) and its port.

    The scheme of the result is in lower case. Return None for any other URL, such as one with a user, a password, a path, a
    query or a fragment.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError:
        return None
    rest = (parts.path.removeprefix("/"), parts.query, parts.fragment)
    if parts.scheme not in PORTS or not host or not host.isprintable() or "@" in parts.netloc or any(rest):
        return None
    return f"{parts.scheme}://{parts.netloc}", host, port or PORTS[parts.scheme]


def without_secrets(url: str) -> str:
    """Return `url` without user, password, query and fragment, for error messages."""
    front, at, host = url.rpartition("@")
    return re.split("[?#]", front[: front.find("//") + 2] + "...@" + host if at else url)[0]


async def get_once(host: str, port: int, path: str, most: int) -> HttpAnswer:
    """Send one GET request over plain HTTP on a new connection, and return the response.

    Raises OSError if no response arrives, or if its body has more than `most` bytes.
    """
    loop = asyncio.get_running_loop()
    _, kept = await loop.create_connection(lambda: PooledConnection(most), host, port)
    name = f"[{host}]" if ":" in host else host
    try:
        return await kept.exchange(f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode("ascii"))
    finally:
        kept.end()
