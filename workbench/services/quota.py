"""Limits on open connections, in total and by address, so that clients without a credential cannot take all connections.

A connection is unproven until its client has shown a valid certificate or token. After that, it is proven.

::

    accepted --> unproven: a bounded number by address; when full, the oldest makes room for the newest
                   |
                   certificate or token accepted
                   v
                 proven: never closed to make room
    no place left --> a small reserve, which only serves health checks
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from typing import Protocol

__all__ = ["ConnectionQuota", "address_key"]

TOTAL, BY_ADDRESS, UNPROVEN, RESERVE = 2048, 1024, 512, 64
GRACE_S = 0.5  # a younger unproven connection is not closed to make room


class CountedConnection(Protocol):
    address: str

    def abort(self) -> None: ...


class ConnectionQuota:
    """Counts open connections, and closes unproven connections to make room for new ones.

    At most `total` connections are open, and up to `reserve` more that may only check the service's health. One address has at
    most `by_address` connections, of which at most `unproven` are unproven.
    """

    def __init__(
        self, total: int = TOTAL, by_address: int = BY_ADDRESS, unproven: int = UNPROVEN, reserve: int = RESERVE
    ) -> None:
        self.total, self.by_address, self.unproven, self.reserve = total, by_address, unproven, reserve
        self._opened: dict[CountedConnection, float] = {}
        self._counts: Counter[str] = Counter()
        self._unproven: dict[CountedConnection, None] = {}  # of all addresses, oldest first
        self._queues: dict[str, dict[CountedConnection, None]] = {}  # the same by address
        self._reserved: dict[CountedConnection, None] = {}

    def __len__(self) -> int:
        return len(self._opened)

    def add(self, connection: CountedConnection) -> bool | None:
        """Count a new connection. Return None if it must be closed, False if it may only check health, else True."""
        address = connection.address
        queue = self._queues.get(address, {})
        crowded = len(queue) >= self.unproven or self._counts[address] >= self.by_address
        if crowded and not self._make_room(queue):
            return None
        full = len(self._opened) - len(self._reserved) >= self.total
        apart = full and not self._make_room(self._unproven)
        if apart and len(self._reserved) >= self.reserve and not self._make_room(self._reserved):
            return None
        self._opened[connection] = time.monotonic()
        self._counts[address] += 1
        if apart:
            self._reserved[connection] = None
        else:
            self._unproven[connection] = None
            self._queues.setdefault(address, {})[connection] = None
        return not apart

    def prove(self, connection: CountedConnection) -> None:
        self._forget_unproven(connection)

    def remove(self, connection: CountedConnection) -> None:
        if self._opened.pop(connection, None) is None:
            return
        self._reserved.pop(connection, None)
        self._forget_unproven(connection)
        self._counts[connection.address] -= 1
        if not self._counts[connection.address]:
            del self._counts[connection.address]

    def _forget_unproven(self, connection: CountedConnection) -> None:
        if connection in self._unproven:
            del self._unproven[connection]
            queue = self._queues[connection.address]
            del queue[connection]
            if not queue:
                del self._queues[connection.address]

    def _make_room(self, queue: dict[CountedConnection, None]) -> bool:
        oldest = next(iter(queue), None)
        if oldest is None or time.monotonic() - self._opened[oldest] < GRACE_S:
            return False
        self.remove(oldest)
        oldest.abort()
        return True


def address_key(peername: object) -> str:
    """Return the key by which a socket's connections are counted: the peer's IPv4 address, or its IPv6 /64 network."""
    host = str(peername[0]) if isinstance(peername, tuple) and peername else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((int(address), 64), strict=False))
