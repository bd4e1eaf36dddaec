"""An accepted connection below HTTP: TLS over memory buffers, one timer, bounded buffers, an orderly close.

::

    socket <--records--> Accepted <--plain bytes--> HttpProtocol
                           |
                           one timer: handshake, head, body, unread response, idle, close; stopped while the app works

The module runs TLS itself: an event loop's own TLS has no short time limits, and drops the alert that explains a failure. A
peer is the client at the other end. A peer is a stranger until it has shown a credential: a certificate or a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import ssl
import time
from asyncio import TimerHandle
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from ..certs import ROLES, Role
from .quota import ConnectionQuota, address_key
from .share import LoopShare
from .trust import Peer, peer_of, server_context

__all__ = ["Accepted", "Timeouts", "Tls"]

MOST_CONTROL = 64 << 10  # bytes of TLS without plain text: a handshake with certificates, or an incomplete record
CONTROL_SHARE = 32  # bytes of TLS allowed for each byte of plain text: a record with one such byte takes 23
RECORD = 16 << 10  # largest plain text of a TLS record, in bytes
CLOCK_S = 0.002  # a timer may fire this early: event loops count in milliseconds
HANDSHAKE_TYPE = 0x16  # the first byte of every TLS connection
PLAIN_HTTP = re.compile(rb"[A-Z]{3,8} ")
WRONG_SCHEME = json.dumps({"error": "this port speaks HTTPS: write https:// in the URL"}).encode()


@dataclass
class Timeouts:
    """Time limits in seconds, one for each state of a connection. After the limit, the connection is closed."""

    handshake: float = 5.0  # from the TCP connection to the end of the TLS handshake
    head: float = 10.0  # from a request's first byte to the end of its head (first request: from the handshake)
    body: float = 30.0  # for a request's body; longer than the limit of `Intake`, which sends an error response
    answer: float = 20.0  # until the peer has read the response
    idle: float = 75.0  # between requests
    stranger_idle: float = 10.0  # the same for a peer without a credential
    goodbye: float = 2.0  # from this end's close to the peer's
    refused: float = 0.5  # the same after a failed handshake


@dataclass
class Tls:
    """The current TLS context of a service. The service's certificate has the `role`, and its files are in `folder`.

    `renew` makes a new context after these files were replaced.
    """

    context: ssl.SSLContext
    folder: Path
    role: Role
    generation: int = field(default=0, init=False)  # number of renewals: connections from before the last one are stale

    @property
    def marks(self) -> Sequence[tuple[int, int]]:
        """The marks of the files from which `context` was loaded (see `trust.marks`)."""
        return cast("Sequence[tuple[int, int]]", getattr(self.context, "marks", ()))

    def renew(self) -> None:
        self.context = server_context(self.folder, self.role, demand=self.context.verify_mode == ssl.CERT_REQUIRED)
        self.generation += 1


class UpperProtocol(Protocol):
    """The protocol above TLS, which is HTTP. It receives the decrypted bytes and the events of a connection.

    `drained` is called when a slow peer has read its response. `shutdown` closes the connection after the current response.
    """

    def data_received(self, data: bytes, /) -> None: ...
    def drained(self) -> None: ...
    def shutdown(self) -> None: ...
    def connection_lost(self) -> None: ...


class Accepted(asyncio.Protocol):
    """A connection that a service has accepted. The connection decrypts received bytes, and closes after a time limit.

    Without TLS, `tls` is None. `quota` limits the number of connections, and `share` limits the processor time for strangers.
    `open_connections` is the set of the service's open connections. This connection adds and removes itself. After the
    handshake, `upper(connection)` creates the protocol that gets the decrypted bytes. A certificate with a role in `roles` is a
    valid credential.
    """

    def __init__(
        self,
        tls: Tls | None,
        quota: ConnectionQuota,
        share: LoopShare,
        open_connections: set[Any],
        upper: Callable[[Accepted], UpperProtocol],
        timeouts: Timeouts,
        roles: Collection[Role] = ROLES,
    ) -> None:
        self.tls, self.quota, self.share, self.timeouts, self._roles = tls, quota, share, timeouts, roles
        self.address = ""
        self.used = 0.0  # seconds of the event loop's time before a credential was shown
        self.proven = False  # the peer has shown a valid credential
        self.peer = Peer()
        self.health_only = False
        self.blocked = False  # the peer has unread bytes
        self.closing = False
        self._open, self._make_upper = open_connections, upper
        self._upper: UpperProtocol | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: TimerHandle | None = None  # a later limit does not move it, because each request sets several limits
        # in the loop's time: when the timer fires, and when the connection is aborted
        self._fires_at = self._limit = math.inf
        self._reading_paused = self._held = False  # stopped by the upper protocol, and by the loop's share
        self._reads = True
        self._generation = 0
        self._secure: ssl.SSLObject | None = None
        self._handshaken = False
        self._waits_for_reader = False  # the current timer is for an unread response
        self._control = 0  # bytes of TLS beyond the allowance for plain text

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        start = time.thread_time()
        self._take_place(transport)
        self.share.charge(self, time.thread_time() - start)

    def _take_place(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.address = address_key(transport.get_extra_info("peername"))
        place = self.quota.add(self)
        if place is None:
            self.closing = True
            self.transport.abort()
            return
        self.health_only = not place
        self._open.add(self)
        self.transport.set_write_buffer_limits(0)  # so that the loop reports any unread byte
        if self.tls is None:
            self._established()
            self.prove()
            return
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.arm(self.timeouts.handshake)

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return  # this end has closed the connection, the peer not yet
        if self.proven and not self._held:
            self.process(data)
        else:
            self.share.take(self, data)

    def process(self, data: bytes) -> None:
        if self.tls is None:
            self._deliver(data)
            return
        if self._secure is None:
            if data[0] != HANDSHAKE_TYPE:
                self._refuse_plain(data)
                return
            self._secure = self.tls.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._generation = self.tls.generation
        self._incoming.write(data)
        self._control += len(data)
        try:
            if not self._handshaken:
                self._secure.do_handshake()
                self._handshaken = True
                self._established()
            self._decrypt(self._secure)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # the bytes were no TLS, and OpenSSL has written an alert
            self._flush()
            self._end(self.timeouts.refused)
            return
        self._flush()
        if self._control > MOST_CONTROL:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        self._drop_timer()
        self.quota.remove(self)
        self.share.forget(self)
        self._open.discard(self)
        if self._upper is not None:
            self._upper.connection_lost()

    def pause_writing(self) -> None:
        self.blocked = True
        self._read_no_more()
        if self._limit == math.inf:
            self.arm(self.timeouts.answer)
            self._waits_for_reader = True

    def resume_writing(self) -> None:
        self.blocked = False
        if self.closing:
            self.arm(self.timeouts.goodbye)
        elif self._waits_for_reader and self._upper is not None:
            self.disarm()
            self._upper.drained()
        self._read_on()

    @property
    def stale(self) -> bool:
        """Whether the service's certificate was renewed, or the peer's certificate has expired, since the handshake."""
        if self.tls is None:
            return False
        return self._generation != self.tls.generation or time.time() >= self.peer.expires

    def prove(self) -> None:
        """Record that the peer has shown a valid credential. Has no effect on a connection reserved for health checks."""
        if not self.health_only:
            self.proven = True
            self.quota.prove(self)

    def write(self, data: bytes) -> None:
        if self.closing:
            return
        if self._secure is None:
            self.transport.write(data)
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._secure.write(rest) :]  # one record at a time
        except ssl.SSLError:
            self.abort()
            return
        self._flush()

    def pause_reading(self) -> None:
        self._reading_paused = True
        if not self.closing:
            self._read_no_more()

    def resume_reading(self) -> None:
        self._reading_paused = False
        if not self.closing:
            self._read_on()

    def hold(self, held: bool) -> None:
        self._held = held
        if held:
            self._read_no_more()
        elif not self.closing:
            self._read_on()

    def arm(self, seconds: float) -> None:
        """Abort the connection after `seconds`. A later call of `arm` or `disarm` replaces this limit."""
        self._waits_for_reader = False
        self._limit = self._loop.time() + seconds
        if self._limit < self._fires_at:
            self._set_timer()

    def disarm(self) -> None:
        self._waits_for_reader = False
        self._limit = math.inf

    def close(self, patience: float | None = None) -> None:
        """Send all written bytes and TLS close_notify, then wait up to `patience` seconds until the peer closes.

        None selects `timeouts.goodbye`. Bytes that arrive meanwhile are dropped.
        """
        if self.closing:
            return
        if self._secure is not None:
            with contextlib.suppress(ssl.SSLError):
                self._secure.unwrap()  # writes close_notify, and then requires the peer's
            self._flush()
        self._end(self.timeouts.goodbye if patience is None else patience)

    def abort(self) -> None:
        if not (self.proven or self.closing or self._held):  # if it is held, the delay may be this end's fault
            self.share.penalize(self.address)
        self.closing = True
        self._drop_timer()
        self.transport.abort()

    def shutdown(self) -> None:
        if self._upper is None:
            self.abort()
        else:
            self._upper.shutdown()

    def _established(self) -> None:
        self.peer = peer_of(self._secure)
        self._upper = self._make_upper(self)
        if self.peer.role in self._roles:
            self.prove()
        self.arm(self.timeouts.head)

    def _decrypt(self, secure: ssl.SSLObject) -> None:
        while not self.closing and (self._incoming.pending or secure.pending()):
            plain = secure.read(RECORD)
            if not plain:
                self.close()  # the peer sent close_notify
                return
            self._control -= min(self._control, len(plain) * CONTROL_SHARE)
            self._deliver(plain)

    def _deliver(self, data: bytes) -> None:
        assert self._upper is not None
        self._upper.data_received(data)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = self._limit
        self._timer = self._loop.call_at(self._limit, self._timed_out)

    def _drop_timer(self) -> None:
        self.disarm()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        self._timer, self._fires_at = None, math.inf
        if self._limit <= self._loop.time() + CLOCK_S:
            self.abort()
        elif self._limit < math.inf:
            self._set_timer()

    def _read_no_more(self) -> None:
        self._reads = False
        self.transport.pause_reading()

    def _read_on(self) -> None:
        if not (self._reads or self.blocked or self._reading_paused or self._held):
            self._reads = True
            self.transport.resume_reading()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.transport.is_closing():
            self.transport.write(self._outgoing.read())

    def _refuse_plain(self, data: bytes) -> None:
        if PLAIN_HTTP.match(data):
            head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(WRONG_SCHEME)}\r\n"
            self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + WRONG_SCHEME)
        self._end(self.timeouts.refused)

    def _end(self, patience: float) -> None:
        self.closing = True
        self.arm(self.timeouts.answer if self.blocked else patience)
        if self.transport.is_closing():
            return
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write_eof()
            if not self.blocked:
                self._reads = True
                self.transport.resume_reading()
