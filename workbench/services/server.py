"""An application on its port: its certificate rotated, its connections bounded in time and size, drained at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
import threading
from asyncio import TimerHandle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..certs import Role
from ..errors import UsageError
from .app import Service
from .trust import is_loopback, peer_of, rotate, server_context

__all__ = ["Listener", "Tls", "address", "serve", "server_of"]

HEAD_S = 10.0  # for a request's head to arrive, and for a connection to send its first
MOST_HEAD = 32 << 10  # bytes
MOST_CONNECTIONS = 2048
BACKLOG = 1024
DRAIN_S = 30.0
GOODBYE_S = 2.0  # for the other end to take its leave, where the service ends
KEEP_ALIVE_S = 75


@dataclass(frozen=True)
class Tls:
    """A service's context, and where its certificate comes from."""

    context: ssl.SSLContext
    folder: Path
    role: Role


class _Joined:
    """A transport that sends in one piece what is written in one turn of the loop: an answer's head and its body.

    Each write into TLS lets go of the interpreter, and then waits for it beside the lanes: twice as long for two.
    """

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner, self._loop = inner, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def _flush(self) -> None:
        if self._parts and not self._inner.is_closing():
            self._inner.write(b"".join(self._parts))
        self._parts.clear()


class _Protocol(HttpToolsProtocol):
    """uvicorn's, that knows who is at the other end, and does not wait for a head that never ends."""

    _timer: TimerHandle | None = None
    _head = 0  # bytes of a head that is not whole
    _in_head = True
    _leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Joined(transport, self.loop)))
        self._peer = peer_of(transport.get_extra_info("ssl_object"))
        self._expect()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > MOST_HEAD and self.transport is not None:
            self._give_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["peer"] = self._peer  # type: ignore[typeddict-unknown-key]
        self._in_head, self._head = True, 0
        self._expect()

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        self._forget()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._expect()  # refused before its body was here: the rest has as long as a head, and is not looked at

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing() and not self._leaving:  # TLS would wait half a minute for the other end to agree
            self._leaving = True
            self._forget()
            self._timer = self.loop.call_later(GOODBYE_S, self.transport.abort)

    def _expect(self) -> None:
        self._forget()
        self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._forget()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's, that says when it accepts, and ends without a signal of its own."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._told = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._told()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_late())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_late(self) -> None:
        """Tell connections whose handshake ended after all others were told: one that is kept in use keeps the service."""
        while True:
            await asyncio.sleep(0.1)
            for connection in list(self.server_state.connections):
                connection.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Listener:
    """A port that is taken, and not served yet."""

    socket: socket.socket
    host: str
    port: int

    @classmethod
    def open(cls, listen: str) -> Listener:
        """Take HOST:PORT (0: any free one). Raises UsageError where it cannot be."""
        host, port = address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        taken = socket.socket(family, socket.SOCK_STREAM)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port))
            taken.listen(BACKLOG)  # else another could take it, too; who connects meanwhile waits until it is served
        except OSError as error:
            taken.close()
            raise UsageError(f"cannot listen on {listen}: {error.strerror or error}") from None
        return cls(taken, host, taken.getsockname()[1])


def address(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; UsageError for any other text."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"{text!r} is no HOST:PORT, such as 127.0.0.1:8443 (port 0: any free one)")
    return host.strip("[]"), int(port)


def serve(service: Service, listener: Listener, tls: Tls | None) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted. Without `tls`: on loopback alone (UsageError)."""
    server_of(service, listener, tls).run(sockets=[listener.socket])


def server_of(service: Service, listener: Listener, tls: Tls | None) -> uvicorn.Server:
    """Return the server that `serve` runs: a thread of its own can run it, too, until its `should_exit` is set."""
    if tls is None and not is_loopback(listener.host):
        raise UsageError(f"plain HTTP is served on loopback alone, not on {listener.host}: give --certs")
    scheme = "https" if tls is not None else "http"

    def started() -> None:
        logging.getLogger("workbench.services").info(
            "%s listens on %s://%s:%d", service.name, scheme, listener.host, listener.port
        )

    config = uvicorn.Config(
        _with_rotation(service, tls),
        http=_Protocol,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(DRAIN_S),
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what a stranger sends is not worth a line
    config.load()
    config.ssl = tls.context if tls is not None else None
    return _Server(config, started)


def _with_rotation(service: Service, tls: Tls | None) -> Any:
    """Return the service's application, with its certificate looked after while it runs."""
    if tls is None:
        return service
    inner = service.app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> Any:
        def renewed() -> None:
            # A context forgets no authority that it has trusted: new connections get another.
            now = server_context(tls.folder, tls.role, demand=tls.context.verify_mode == ssl.CERT_REQUIRED)
            tls.context.sni_callback = lambda connection, *_: setattr(connection, "context", now)
            service.renewed()

        task = asyncio.create_task(rotate(tls.folder, tls.role, renewed))
        try:
            async with inner(app) as state:
                yield state
        finally:
            task.cancel()

    service.app.router.lifespan_context = lifespan
    return service
