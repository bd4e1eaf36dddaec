"""A link between two machines, for real: a TCP relay on loopback that has a bandwidth and a delay, and counts what passes.

::

    client --> Link --(queue: one byte after another at the link's rate)--(delay)--> service

Both ways have the whole rate each, shared by all connections. It sees TLS from outside: bytes at the socket, record headers
included, TCP's and IP's not.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from queue import Queue
from typing import Literal
from urllib.parse import urlsplit

__all__ = ["LINKS", "Kind", "Link"]

CHUNK = 16 << 10
WAITING = 64  # chunks, before the sender is held back

Way = Literal["out", "back"]


@dataclass(frozen=True)
class Kind:
    """What a link is like: bits a second each way (None: as fast as it goes), delay one way in seconds."""

    name: str
    bits_per_s: float | None
    delay_s: float


# Typical figures, chosen by us: the paper measured one campus network and names none.
LINKS = {
    kind.name: kind
    for kind in (
        Kind("LAN", 1e9, 0.0002),
        Kind("Wi-Fi", 50e6, 0.002),
        Kind("LTE", 10e6, 0.025),
        Kind("1 Mbit/s uplink", 1e6, 0.010),
    )
}
FREE = Kind("loopback", None, 0.0)


class Link:
    """A relay to the service at `url`; its own `url` is where clients connect. `kind` may be changed while it runs.

    with Link(cloud.url, LINKS["LTE"]) as link:
        ...  # speak with link.url
        link.bytes["out"], link.bytes["back"]
    """

    def __init__(self, url: str, kind: Kind = FREE) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{parts.scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.kind = kind
        self.bytes: dict[Way, int] = {"out": 0, "back": 0}
        self._free: dict[Way, float] = {"out": 0.0, "back": 0.0}  # when the last byte taken will have left
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Link:
        threading.Thread(target=self._accept, name="link", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=5.0)
            except OSError:
                near.close()
                continue
            for each in (near, far):
                each.settimeout(None)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._join, args=(near, far), name="link", daemon=True).start()

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        """Carry both ways until both have ended."""
        with self._lock:
            self._open |= {near, far}
        back = threading.Thread(target=self._carry, args=(far, near, "back"), name="link", daemon=True)
        back.start()
        self._carry(near, far, "out")
        back.join()
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()

    def _carry(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        queue: Queue[tuple[float, bytes]] = Queue(WAITING)
        sender = threading.Thread(target=_deliver, args=(queue, sink), name="link", daemon=True)
        sender.start()
        data = b"first"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            queue.put((self._due(len(data), way), data))
        sender.join()

    def _due(self, length: int, way: Way) -> float:
        """Return when bytes that arrive now are there, after those that came before them."""
        kind, now = self.kind, time.perf_counter()
        with self._lock:
            self.bytes[way] += length
            left = max(now, self._free[way]) + (8 * length / kind.bits_per_s if kind.bits_per_s else 0.0)
            self._free[way] = left
        return left + kind.delay_s


def _deliver(queue: Queue[tuple[float, bytes]], sink: socket.socket) -> None:
    broken = False
    while True:
        due, data = queue.get()
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        try:
            if not data:
                sink.shutdown(socket.SHUT_WR)
            elif not broken:
                sink.sendall(data)
        except OSError:
            broken = True  # what is still in the queue goes nowhere, and holds nobody up
        if not data:
            return
