"""TCP relays: accept connections on a port, dial the other endpoint, and copy bytes both ways.

::

    client --> listener --accept--> [near | far] --dial--> service        one pair of threads for each connection

A slow reader holds its writer back: one chunk is buffered. The two directions end independently: half-closed stays so. Another
function can copy instead, such as one with a link's bandwidth and delay (`bench/link.py`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal, Protocol, Self

import paramiko

from ..errors import RemoteError

__all__ = ["Endpoint", "Forward", "RelayedConnections", "Way", "answer", "dial", "forward", "listen"]

CHUNK = 32 << 10
DIAL_S = 15.0
BROKEN = (OSError, EOFError, paramiko.SSHException)
RESET = struct.pack("ii", 1, 0)  # linger for no time: the peer sees a reset, not an end


class Endpoint(Protocol):
    """One endpoint of a connection: a socket, or a channel."""

    def recv(self, size: int, /) -> bytes:
        """Return some bytes, or none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send bytes; blocks while the peer takes none."""

    def shutdown(self, how: int, /) -> None:
        """Shut down one direction, or both."""

    def close(self) -> None:
        """Close it."""


Way = Literal["out", "back"]
Copy = Callable[[Endpoint, Endpoint, Way], None]


class Forward:
    """A forwarded port, until it is closed; a context manager."""

    def __init__(self, port: int, end: Callable[[], None]) -> None:
        self.port, self._end = port, end
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and end the open connections."""
        if not self.closed:
            self.closed = True
            self._end()


def copy(source: Endpoint, sink: Endpoint, way: Way) -> None:
    """Copy one direction until it ends; an error ends the other direction, too."""
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except BROKEN:
        _close_all(source, sink)


class RelayedConnections:
    """The open connections of a relay, each with a thread for either direction."""

    def __init__(self, copy: Copy = copy) -> None:
        self._copy = copy
        self._ends: set[Endpoint] = set()
        self._lock, self._closed = threading.Lock(), False

    def join(self, near: Endpoint, far: Endpoint) -> None:
        """Copy both directions until both have ended."""
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
        """End the connections that are open now."""
        with self._lock:
            ends = list(self._ends)
        _close_all(*ends)

    def close(self) -> None:
        """End all connections, and refuse further ones."""
        with self._lock:
            self._closed = True
        self.cut()


def _close_all(*ends: Endpoint) -> None:
    for end in ends:
        for step in (lambda end=end: end.shutdown(socket.SHUT_RDWR), end.close):  # a close alone wakes no reader of a socket
            with contextlib.suppress(*BROKEN):
                step()


def listen(port: int, machine: str) -> socket.socket:
    """Listen on a port of this machine's loopback (0: any free one). Raises RemoteError if it is taken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise RemoteError(f"port {port} of {machine} {reason}: choose another, or 0 for any free one") from error


def dial(address: tuple[str, int]) -> socket.socket:
    """Connect to an address."""
    connection = socket.create_connection(address, DIAL_S)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer(pairs: RelayedConnections, address: tuple[str, int], far: Endpoint) -> None:
    """Relay a connection from the remote host to an address; close it if nothing answers there."""
    try:
        near = dial(address)
    except OSError:
        _close_all(far)
        return
    pairs.join(near, far)


def forward(listener: socket.socket, reach: Callable[[], Endpoint], connections: RelayedConnections | None = None) -> Forward:
    """Relay a listener's connections to the endpoint that `reach` opens; if it fails, the client sees a reset."""
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
