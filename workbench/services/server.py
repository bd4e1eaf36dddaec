"""Run a service on its port: limit its connections, rotate its certificate, and finish accepted requests at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from ..errors import UsageError
from .accepted import Accepted, Timeouts, Tls
from .httpserver import HttpProtocol
from .quota import ConnectionQuota
from .service import Service
from .share import LoopShare
from .trust import Token, is_loopback, rotate, rotate_token

__all__ = ["ConnectionQuota", "Listener", "Timeouts", "Tls", "address", "serve", "server_of"]

BACKLOG = 1024
DRAIN_S = 30.0  # for accepted requests, after the signal to stop


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_late())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_late(self) -> None:
        # otherwise connections whose handshake ends during the shutdown could keep the service running
        while True:
            await asyncio.sleep(0.1)
            for connection in list(self.server_state.connections):
                connection.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread handles signals
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Listener:
    """A port that is bound but not served yet. Clients that connect early wait."""

    socket: socket.socket
    host: str
    port: int

    @classmethod
    def open(cls, listen: str) -> Listener:
        """Bind the address `listen`, which is HOST:PORT (port 0: any free port). Raises UsageError if that fails."""
        host, port = address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        taken = socket.socket(family, socket.SOCK_STREAM)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port))
            taken.listen(BACKLOG)  # else another process could bind the port, too
        except OSError as error:
            taken.close()
            raise UsageError(f"cannot listen on {listen}: {error.strerror or error}") from None
        return cls(taken, host, taken.getsockname()[1])


def address(text: str) -> tuple[str, int]:
    """Return the host and the port of the text HOST:PORT. Raises UsageError for any other text."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"{text!r} is no HOST:PORT, such as 127.0.0.1:8443 (port 0: any free one)")
    return host.strip("[]"), int(port)


def serve(service: Service, listener: Listener, tls: Tls | None, token_file: Path | None = None) -> None:
    """Run a service on the port of `listener` until SIGTERM or Ctrl-C, then finish accepted requests.

    Without `tls`, the service uses plain HTTP. Raises UsageError for plain HTTP on an address outside loopback. When
    `token_file` changes, the new token replaces the service's token.
    """
    server_of(service, listener, tls, token_file=token_file).run(sockets=[listener.socket])


def server_of(
    service: Service,
    listener: Listener,
    tls: Tls | None,
    quota: ConnectionQuota | None = None,
    timeouts: Timeouts | None = None,
    share: LoopShare | None = None,
    token_file: Path | None = None,
) -> uvicorn.Server:
    """Return the server that `serve` runs. To stop a server that runs on another thread, set its `should_exit`.

    `quota` limits the number of connections. `timeouts` limits the time of a connection in each state. `share` limits the
    processor time for clients without a credential. None selects the default limits. Raises UsageError as `serve` does.
    """
    if tls is None and not is_loopback(listener.host):
        raise UsageError(f"plain HTTP is served on loopback alone, not on {listener.host}: give --certs")
    scheme = "https" if tls is not None else "http"

    def started() -> None:
        logging.getLogger("workbench.services").info(
            "%s listens on %s://%s:%d", service.name, scheme, listener.host, listener.port
        )

    config = uvicorn.Config(
        service,
        http=_connections(
            service, tls, ConnectionQuota() if quota is None else quota, timeouts or Timeouts(), share or LoopShare()
        ),
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(DRAIN_S),
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # malformed requests of strangers are not logged
    config.load()
    server = _Server(config, started)
    if tls is not None or token_file is not None:
        _rotate_with(service, tls, token_file, server)
    return server


def _connections(service: Service, tls: Tls | None, quota: ConnectionQuota, timeouts: Timeouts, share: LoopShare) -> Any:
    # these protocols handle TLS, so uvicorn is configured without it

    def accepted(server_state: ServerState, app_state: dict[str, Any], **_: Any) -> Accepted:
        def upper(wire: Accepted) -> HttpProtocol:
            return HttpProtocol(wire, service, server_state, app_state)

        return Accepted(tls, quota, share, cast(set[Any], server_state.connections), upper, timeouts, service.roles)

    return accepted


def _rotate_with(service: Service, tls: Tls | None, token_file: Path | None, server: uvicorn.Server) -> None:
    inner = service.app.router.lifespan_context

    def close(which: Callable[[Accepted], bool]) -> None:
        for connection in cast("list[Accepted]", list(server.server_state.connections)):
            if which(connection):
                connection.shutdown()  # after the current response

    def renewed(tls: Tls) -> None:
        tls.renew()  # a context cannot drop a trusted authority, so new connections get a new context
        close(lambda _: True)
        service.renewed()

    def replaced(token: Token) -> None:
        service.token = token
        close(lambda connection: connection.peer.role not in service.roles)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> Any:
        tasks = []
        if tls is not None:
            tasks.append(asyncio.create_task(rotate(tls.folder, tls.role, tls.marks, lambda: renewed(tls))))
        if token_file is not None:
            tasks.append(asyncio.create_task(rotate_token(token_file, service.token, replaced)))
        try:
            async with inner(app) as state:
                yield state
        finally:
            for task in tasks:
                task.cancel()

    service.app.router.lifespan_context = lifespan
