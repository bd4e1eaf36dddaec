"""An emulated link: a TCP relay on loopback with a bandwidth and a delay. The relay counts the bytes that pass.

::

    client --> Link --(queue: one byte after another at the link's rate)--(delay)--> service

Each direction has the full rate, shared by all connections. Bytes are counted at the socket: TLS record headers are included,
the headers of TCP and IP are not.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from queue import Queue
from urllib.parse import urlsplit

from ..ssh.relays import Endpoint, RelayedConnections, Way, dial, forward, listen

__all__ = ["LINKS", "Kind", "Link", "Way"]

CHUNK = 16 << 10
WAITING = 64  # limit of queued chunks; the sender waits at this limit


@dataclass(frozen=True)
class Kind:
    """The properties of a link: bits per second in each direction (None: unlimited), and the one-way delay (s)."""

    name: str
    bits_per_s: float | None
    delay_s: float


# Typical figures, chosen by us: the paper measured one campus network and gives no figures.
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
    """A relay to the service at `url`. Clients connect to `self.url`. `self.kind` may be changed while the relay runs.

    with Link(cloud.url, LINKS["LTE"]) as link:
        ...  # speak with link.url
        link.bytes["out"], link.bytes["back"]  # to the service, from the service
    """

    def __init__(self, url: str, kind: Kind = FREE) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 443)
        self._listener = listen(0, "this machine")
        self.url = f"{parts.scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.kind = kind
        self.bytes: dict[Way, int] = {"out": 0, "back": 0}
        self._free: dict[Way, float] = {"out": 0.0, "back": 0.0}  # time at which all accepted bytes are sent
        self._lock = threading.Lock()
        self._connections = RelayedConnections(self._copy)

    def __enter__(self) -> Link:
        self._forward = forward(self._listener, partial(dial, self._target), self._connections)
        return self

    def __exit__(self, *_: object) -> None:
        self._forward.close()

    def cut(self) -> None:
        """Close every connection abruptly."""
        self._connections.cut()

    def _copy(self, source: Endpoint, sink: Endpoint, way: Way) -> None:
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
        kind, now = self.kind, time.perf_counter()
        with self._lock:
            self.bytes[way] += length
            left = max(now, self._free[way]) + (8 * length / kind.bits_per_s if kind.bits_per_s else 0.0)
            self._free[way] = left
        return left + kind.delay_s


def _deliver(queue: Queue[tuple[float, bytes]], sink: Endpoint) -> None:
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
            broken = True  # keep draining the queue, so that its producer does not block
        if not data:
            return
