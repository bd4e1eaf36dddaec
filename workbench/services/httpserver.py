"""Serve HTTP/1.1 on an accepted connection: httptools parses, and an ASGI application handles one request at a time.

One limit covers all received bytes that are not passed to the application as a body: heads, chunk headers, trailers, empty
lines. If a second request arrives before the first response, the connection is closed. Whenever the service waits for the
client, a timer closes the connection of a slow client. uvicorn's own protocol has no such limits, so uvicorn only starts and
stops the application.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
from collections.abc import Coroutine
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.server import ServerState

from .accepted import Accepted
from .share import metered

__all__ = ["HEALTH", "HttpProtocol"]

MOST_HEAD = 32 << 10  # bytes of a request outside its delivered body
MOST_HEADERS = 128  # each takes more memory than its bytes
BODY_SHARE = 128  # bytes of a body for each further byte of chunk headers
READ_AHEAD = 64 << 10  # buffered bytes of a body
HEALTH = ("/v2/health/live", "/v2/health/ready")
STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}

log = logging.getLogger("workbench.access")


class Refused(Exception):  # noqa: N818  (it never leaves this module)
    """Raised by a callback of the parser to refuse a request. The application never sees that request."""


class Exchange:
    """One request and its response, as ASGI messages. `scope` describes the request to the application.

    With `keep_alive`, the connection stays open after the response. With `continues`, the client waits for status 100 before it
    sends the body.
    """

    def __init__(self, protocol: HttpProtocol, scope: dict[str, Any], keep_alive: bool, continues: bool) -> None:
        self.protocol, self.scope, self.keep_alive = protocol, scope, keep_alive
        self.body, self.more_body, self.delivered = bytearray(), True, False
        self.gone = self.started = self.complete = False
        self._continues = continues  # the client waits for a 100 before it sends its body
        self.changed = asyncio.Event()
        self._head = b""
        self._length: int | None = None

    async def run(self, app: Any) -> None:
        share, proven = self.protocol.wire.share, self.protocol.wire.proven
        share.at_work += proven
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # the services handle their own errors, so this is a fault of the code around them
            log.error("unexpected %s", type(error).__name__, exc_info=Exception(type(error).__name__))
        finally:
            share.at_work -= proven
        if not self.complete and not self.gone:
            self.protocol.fail()

    async def receive(self) -> dict[str, Any]:
        wire = self.protocol.wire
        if self._continues and self.more_body and not self.started:
            self._continues = False
            wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self.gone or self.complete or (not self.delivered and (self.body or not self.more_body))):
            wire.resume_reading()
            self.changed.clear()
            await self.changed.wait()
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        self.delivered = not self.more_body
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if self.gone:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
            return
        body: bytes = b"" if self.scope["method"] == "HEAD" else message.get("body", b"")
        more = message.get("more_body", False)
        if self._head:  # kept for one write with the first part of the body
            if self._length is None:
                self.keep_alive = self.keep_alive and not more
                self._head += b"" if more else b"content-length: %d\r\n" % len(body)
            close = b"" if self.keep_alive else b"connection: close\r\n"
            body, self._head = b"".join((self._head, close, b"\r\n", body)), b""
        self.complete = not more
        self.protocol.wire.write(body)
        if self.complete:
            self.protocol.answered(self)

    def _start(self, status: int, headers: Any) -> None:
        self.started = True
        lines = [STATUS[status]]
        for name, value in headers:
            if b"\r" in value or b"\n" in value or b"\0" in value:
                raise ValueError("a header of the answer has a line break")
            if name.lower() == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            self._length = int(value) if name.lower() == b"content-length" else self._length
            lines += name, b": ", value, b"\r\n"
        if status in (204, 304):
            self._length = 0
        if self.more_body or self.protocol.leaving or self.protocol.wire.stale:
            self.keep_alive = False  # the rest of the body is dropped with the connection
        self._head = b"".join(lines)


class HttpProtocol:
    """Parses the requests of the connection `wire`, one at a time, and sends the responses of `app`."""

    def __init__(self, wire: Accepted, app: Any, state: ServerState, app_state: dict[str, Any]) -> None:
        self.wire, self.app, self.state, self._app_state = wire, app, state, app_state
        self.leaving = False  # the service ends or its certificates were renewed, so this request is the last
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._idle = False  # between requests
        self._overhead = self._delivered = 0  # bytes since the last response: outside bodies, and of bodies
        self._hosts = 0
        self._begun = self._continues = False  # the current head is incomplete, and it expects status 100
        self._url, self._headers = b"", []  # type: tuple[bytes, list[tuple[bytes, bytes]]]
        self._refusal: tuple[int, str] | None = None
        transport = wire.transport
        self._place = {
            "server": _pair(transport.get_extra_info("sockname")),
            "client": _pair(transport.get_extra_info("peername")),
            "scheme": "http" if wire.tls is None else "https",
        }

    def data_received(self, data: bytes) -> None:
        if self._idle:
            self._idle = False
            self.wire.arm(self.wire.timeouts.head)
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._exchange is not None:  # an Upgrade is refused, and the following bytes are not parsed as HTTP
                self._exchange.keep_alive = False
        except httptools.HttpParserError:
            self._refuse()
            return
        if self._overhead > MOST_HEAD + self._delivered // BODY_SHARE:
            self.wire.abort()

    def drained(self) -> None:
        if self._exchange is None:
            self._rest()
        elif self._exchange.more_body:
            self.wire.arm(self.wire.timeouts.body)

    def connection_lost(self) -> None:
        if self._exchange is not None:
            self._exchange.gone = True
            self._exchange.changed.set()

    def shutdown(self) -> None:
        self.leaving = True
        if self._exchange is None and not self._begun:
            self.wire.close()

    def on_message_begin(self) -> None:
        if self._exchange is not None:
            self.wire.abort()
            raise Refused
        self._begun, self._continues, self._hosts, self._url, self._headers = True, False, 0, b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if not self._begun:  # a trailer
            return
        if len(self._headers) >= MOST_HEADERS:
            self._refusal = 431, f"a request may have at most {MOST_HEADERS} headers"
            raise Refused
        name, value = name.lower(), value or b""
        if name == b"transfer-encoding" and value.strip().lower() not in (b"chunked", b""):
            self._refusal = 501, "of transfer codings, chunked alone is read"
            raise Refused
        self._hosts += name == b"host"
        if name == b"expect" and value.lower() == b"100-continue":
            self._continues = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._begun = False
        version = self._parser.get_http_version()
        if self._hosts != 1 and (self._hosts or version != "1.0"):  # a proxy in front may use another of several Host headers
            self._refusal = 400, f"a request has one Host header, this one has {self._hosts}"
            raise Refused
        target = httptools.parse_url(self._url)
        path = (target.path or b"").decode("ascii")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": target.path or b"",
            "query_string": target.query or b"",
            "root_path": "",
            "headers": self._headers,
            "state": self._app_state.copy(),
            "peer": self.wire.peer,
            "prove": self.wire.prove,
            **self._place,
        }
        keep_alive = version != "1.0" and self._parser.should_keep_alive()
        self._exchange = exchange = Exchange(self, scope, keep_alive, self._continues)
        self.wire.arm(self.wire.timeouts.body)
        work: Coroutine[Any, Any, None] = exchange.run(self._app_for(scope["path"]))
        if not self.wire.proven:
            work = metered(work, self._spent)
        task = self.wire._loop.create_task(work)
        self.state.tasks.add(task)
        task.add_done_callback(self.state.tasks.discard)

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None or exchange.complete:
            return
        self._overhead -= len(body)
        self._delivered += len(body)
        exchange.body += body
        if len(exchange.body) > READ_AHEAD:
            self.wire.pause_reading()
        exchange.changed.set()

    def on_message_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.more_body = False
            self._exchange.changed.set()
            self.wire.disarm()

    def answered(self, exchange: Exchange) -> None:
        self.state.total_requests += 1
        self._exchange = None
        if not exchange.keep_alive or self.leaving:
            self.wire.close(self.wire.timeouts.head if exchange.more_body else None)
            return
        self._overhead = self._delivered = 0
        self.wire.resume_reading()
        if not self.wire.blocked:
            self._rest()

    def fail(self) -> None:
        """Respond with 500 after a failure of the application. If a response has begun, close the connection instead."""
        exchange = self._exchange
        if exchange is None or exchange.started:
            self.wire.abort()
            return
        self._exchange = None
        self._say(500, "internal error; the service's log names it")

    def _spent(self, seconds: float) -> None:
        if not self.wire.proven:
            self.wire.share.charge(self.wire, seconds)

    def _rest(self) -> None:
        self._idle = True
        limits = self.wire.timeouts
        self.wire.arm(limits.idle if self.wire.proven else limits.stranger_idle)

    def _app_for(self, path: str) -> Any:
        if self.wire.stale:
            return _refusal(
                "certificates were renewed, or the client's has expired, since this connection began: connect again"
            )
        if self.wire.health_only and path not in HEALTH:
            return _refusal("too many connections are open")
        return self.app

    def _refuse(self) -> None:
        if self.wire.closing:
            return
        if self._exchange is not None:  # the client would take the error for that request's response
            self.wire.abort()
            return
        self._say(*(self._refusal or (400, "the request is not HTTP/1.1")))

    def _say(self, status: int, text: str) -> None:
        body = json.dumps({"error": text}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.wire.write(STATUS[status] + head + body)
        self.wire.close()


def _refusal(text: str) -> Any:
    # after a 503, clients retry on another connection
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(b"retry-after", b"1"), (b"connection", b"close")]

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _pair(name: Any) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) > 1 else None
