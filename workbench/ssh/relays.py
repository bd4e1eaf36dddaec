"""Connections carried on: a port that is listened to, another end that is dialled, and the bytes between them, both ways.

::

    client --> listener --accept--> [near | far] --dial--> service        one pair of threads for each connection

A reader that is slow holds its writer back: nothing is kept but one piece. Each way ends by itself: half-closed stays so.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol, Self

import paramiko

from ..errors import RemoteError

__all__ = ["End", "Forward", "Pairs", "answer", "dial", "forward", "listen"]

CHUNK = 32 << 10
DIAL_S = 15.0
BROKEN = (OSError, EOFError, paramiko.SSHException)
RESET = struct.pack("ii", 1, 0)  # linger for no time: who hangs up so has failed, and not ended


class End(Protocol):
    """An end of a connection: a socket, or a channel."""

    def recv(self, size: int, /) -> bytes:
        """Return some bytes, none where the other side has ended."""

    def sendall(self, data: bytes, /) -> None:
        """Send bytes, waiting where they are not taken."""

    def shutdown(self, how: int, /) -> None:
        """End one way, or both."""

    def close(self) -> None:
        """Let go."""


class Forward:
    """A port that leads elsewhere, for as long as it is not closed; a context manager."""

    def __init__(self, port: int, end: Callable[[], None]) -> None:
        self.port, self._end = port, end
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no longer, and end the connections that are under way."""
        if not self.closed:
            self.closed = True
            self._end()


class Pairs:
    """The connections under way, each with a thread for either way."""

    def __init__(self) -> None:
        self._ends: set[End] = set()
        self._lock, self._closed = threading.Lock(), False

    def join(self, near: End, far: End) -> None:
        """Carry both ways until both have ended; returns then."""
        with self._lock:
            if not (closed := self._closed):
                self._ends |= {near, far}
        if not closed:
            back = threading.Thread(target=_carry, args=(far, near), name="relay", daemon=True)
            back.start()
            _carry(near, far)
            back.join()
        with self._lock:
            self._ends -= {near, far}
        _let_go(near, far)

    def close(self) -> None:
        """End them all."""
        with self._lock:
            self._closed = True
            ends = list(self._ends)
        _let_go(*ends)


def _carry(source: End, sink: End) -> None:
    """Carry one way until it ends; where it breaks, the other way ends, too."""
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except BROKEN:
        _let_go(source, sink)


def _let_go(*ends: End) -> None:
    for end in ends:
        for step in (lambda end=end: end.shutdown(socket.SHUT_RDWR), end.close):  # a close alone wakes no reader of a socket
            with contextlib.suppress(*BROKEN):
                step()


def listen(port: int, machine: str) -> socket.socket:
    """Listen on a port of this machine's loopback (0: any free one). Raises RemoteError where it is taken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise RemoteError(f"port {port} of {machine} {reason}: choose another, or 0 for any free one") from error


def dial(address: tuple[str, int]) -> socket.socket:
    """Connect to an address."""
    made = socket.create_connection(address, DIAL_S)
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def answer(pairs: Pairs, address: tuple[str, int], far: End) -> None:
    """Carry a connection that came from afar on to an address; end it where nothing answers there."""
    try:
        near = dial(address)
    except OSError:
        _let_go(far)
        return
    pairs.join(near, far)


def forward(listener: socket.socket, reach: Callable[[], End]) -> Forward:
    """Carry what connects to a listener to what `reach` gives; where it gives nothing, the client's connection is reset."""
    pairs = Pairs()

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
