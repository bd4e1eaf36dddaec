"""TCP relays: accept connections on a port, dial the other endpoint, and copy bytes both ways.

::

    client --> listener --accept--> [near | far] --dial--> service        one pair of threads for each connection

A relay joins two endpoints. `near` is the endpoint on this machine, and `far` is the endpoint that leads to the remote host.
Bytes go `out` from near to far, and `back` from far to near.

One chunk is buffered, so a slow reader slows down its writer. Each direction ends independently, so half-closed connections
stay half-closed. The function that copies can be replaced, for example to emulate a slow link (`bench/link.py`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal, Protocol, Self

from ..errors import RemoteError
from .remote_process import BROKEN

__all__ = ["Endpoint", "Forward", "RelayedConnections", "Way", "answer", "dial", "forward", "listen"]

CHUNK = 32 << 10
DIAL_S = 15.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: the peer sees a reset, not an end


class Endpoint(Protocol):
    """One end of a connection: a socket or an SSH channel."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None: ...


Way = Literal["out", "back"]
Copy = Callable[[Endpoint, Endpoint, Way], None]


class Forward:
    """A forwarded port. The end of the context closes it. The function `end` stops the forwarding, and is called only once."""

    def __init__(self, port: int, end: Callable[[], None]) -> None:
        self.port, self._end = port, end
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening on the port, and close the connections that run through it."""
        if not self.closed:
            self.closed = True
            self._end()


def copy(source: Endpoint, sink: Endpoint, way: Way) -> None:
    """Copy bytes from `source` to `sink` until `source` ends. Then close `sink` for writing.

    `way` is the direction: "out" is from the near to the far endpoint, "back" is the opposite. It is unused here, but other
    copy functions need it. If an error occurs, both endpoints are closed.
    """
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except BROKEN:
        _close_all(source, sink)


class RelayedConnections:
    """The open connections of a relay. Two threads call `copy` for each connection, one thread for each direction."""

    def __init__(self, copy: Copy = copy) -> None:
        self._copy = copy
        self._ends: set[Endpoint] = set()
        self._lock, self._closed = threading.Lock(), False

    def join(self, near: Endpoint, far: Endpoint) -> None:
        """Copy between `near` and `far` until both directions have ended. Then close `near` and `far`."""
        with self._lock:
            if not (closed := self._closed):
                self._ends |= {near, far}
        if not closed:
            back = threading.Thread(target=self._copy, args=(far, near, "back"), name="relay", daemon=True)
            back.start()
            self._copy(near, far, "out")
            back.join()
        with self._lock:
            self._ends -= {near, far}
        _close_all(near, far)

    def cut(self) -> None:
        """Close all open connections. New connections are still accepted."""
        with self._lock:
            ends = list(self._ends)
        _close_all(*ends)

    def close(self) -> None:
        """Close all open connections. New connections are closed immediately."""
        with self._lock:
            self._closed = True
        self.cut()


def _close_all(*ends: Endpoint) -> None:
    for end in ends:
        for step in (lambda end=end: end.shutdown(socket.SHUT_RDWR), end.close):  # close alone does not wake a socket's reader
            with contextlib.suppress(*BROKEN):
                step()


def listen(port: int, machine: str) -> socket.socket:
    """Return a socket that listens on `port` of the loopback address (0: any free port).

    Raises RemoteError if the port is not available. `machine` is the name of this machine in the error.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise RemoteError(f"port {port} of {machine} {reason}: choose another, or 0 for any free one") from error


def dial(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, DIAL_S)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer(pairs: RelayedConnections, address: tuple[str, int], far: Endpoint) -> None:
    """Relay the connection `far`, which comes from the remote host, to `address` (host, port) as seen from this machine.

    The connection is added to `pairs`, which copies the bytes. Return when the connection has ended. If nothing listens at
    `address`, close `far`.
    """
    try:
        near = dial(address)
    except OSError:
        _close_all(far)
        return
    pairs.join(near, far)


def forward(listener: socket.socket, reach: Callable[[], Endpoint], connections: RelayedConnections | None = None) -> Forward:
    """Accept connections on `listener` in a thread, and relay each connection to an endpoint that `reach()` opens.

    Return the forwarded port at once. If `reach` fails, the accepted connection is reset. Relayed connections are added to
    `connections`, which copies their bytes. The default is a new `RelayedConnections`, which copies without delay.
    """
    pairs = connections or RelayedConnections()

    def serve(near: socket.socket) -> None:
        try:
            far = reach()
        except (RemoteError, *BROKEN):
            with contextlib.suppress(OSError):
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            near.close()
            return
        pairs.join(near, far)

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                return
            threading.Thread(target=serve, args=(near,), name="relay", daemon=True).start()

    thread = threading.Thread(target=accept, name="relay", daemon=True)

    def end() -> None:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        pairs.close()
        thread.join(DIAL_S)

    made = Forward(listener.getsockname()[1], end)
    thread.start()
    return made
