"""Connections over SSH: TCP, host-key verification, public-key authentication, channels, keep-alive.

::

    name -> Address for each hop -> TCP, or a channel of the previous hop -> host key -> public key -> SshConnection

The hops are the jump hosts on the way to a host, and then the host. A channel is a byte stream within a connection. It belongs
to a command or to a forwarded port.

Host keys are always verified, whatever the configuration says. Authentication uses only keys, never passwords. If the host
stops answering keep-alive requests, the connection is closed, and all waiting operations fail.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paramiko
from paramiko.packet import Packetizer

from ..errors import RemoteError
from ..terminal import printable
from .addresses import Address, route
from .host_keys import check_host_key, preferred_kinds
from .identities import Keyring
from .remote_process import BROKEN, LostError, Watchdog

__all__ = ["SshConnection", "connect"]

CHANNEL_S, AUTH_S = 15.0, 30.0
REAPED_S, RETRY_S = 2.0, 0.05  # time for sshd to remove closed sessions, and the pause between two attempts
KEEPALIVE_S = 20.0
ALGORITHMS = {"Ciphers": "ciphers", "MACs": "digests", "KexAlgorithms": "kex", "HostKeyAlgorithms": "key_types"}

Accept = Callable[[paramiko.Channel], None]

log = logging.getLogger("workbench.ssh")
log.addHandler(logging.NullHandler())
log.propagate = False  # paramiko logs a traceback, we report one line


class _TimedPacketizer(Packetizer):
    """paramiko's packet reader. `heard` is the time of the last received packet, in seconds of `time.monotonic`."""

    heard: float = float("inf")

    def read_message(self) -> Any:
        message = super().read_message()
        self.heard = time.monotonic()
        return message


class SshConnection:
    """An authenticated SSH connection to a host.

    If this connection runs through a jump host, `before` is the connection to that jump host. Otherwise `before` is None. After
    `keepalive` seconds without a packet from the host, the connection is closed.
    """

    def __init__(self, address: Address, transport: paramiko.Transport, before: SshConnection | None, keepalive: float) -> None:
        self.address, self.transport, self.before = address, transport, before
        self._accepts: dict[int, Accept] = {}
        self._requests = threading.Lock()  # one global request at a time: paramiko keeps only one reply
        self._closed = threading.Event()
        self._process = os.getpid()
        _CONNECTIONS.add(self)
        threading.Thread(target=self._keep_alive, args=(keepalive,), name="keepalive", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether this process opened the connection, and the connection is not known to be lost."""
        return self.own and self.transport.is_active()

    @property
    def own(self) -> bool:
        """Whether this process opened the connection. False in a forked child."""
        return self._process == os.getpid()

    def close(self) -> None:
        """Close this connection, and the connections to the jump hosts before it."""
        self._closed.set()
        self.transport.close()
        if self.before is not None:
            self.before.close()

    def session(self) -> paramiko.Channel:
        """Return a new channel for one command. Raises RemoteError if the host refuses another channel.

        Raises LostError if the connection is broken. In both cases, the command has not run.
        """
        deadline = time.monotonic() + REAPED_S
        while True:
            try:
                return self._open("session", "refuses another session: raise MaxSessions in its sshd_config")
            except RemoteError as error:
                if not isinstance(error.__cause__, paramiko.ChannelException) or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_S)  # sshd counts a closed session against MaxSessions until the session's process has ended

    def dial(self, host: str, port: int) -> paramiko.Channel:
        """Return a channel to `host`:`port`, as seen from the remote host.

        Raises RemoteError if the remote host cannot connect to that port.
        """
        way = f"does not reach {host} port {port} from there: does it listen, and is AllowTcpForwarding on?"
        return self._open("direct-tcpip", way, (host, port))

    def _open(self, kind: str, refusal: str, to: tuple[str, int] | None = None) -> paramiko.Channel:
        name = self.address.name
        try:
            return self.transport.open_channel(kind, to, ("127.0.0.1", 0) if to else None, timeout=CHANNEL_S)
        except paramiko.ChannelException as error:
            raise RemoteError(f"{name} {refusal} ({printable(error.text)})") from error
        except BROKEN as error:
            if to and self.transport.is_active():  # the connection is fine, the port does not answer
                raise RemoteError(f"{name} {refusal} (no answer within {CHANNEL_S:g} s)") from error
            self.close()
            raise LostError(f"{name}: the connection was lost") from error

    def listen(self, port: int, accept: Accept) -> int:
        """Listen on a loopback port of the remote host (0: any free one), and return the port's number.

        For each connection to that port, a new thread calls `accept` with the channel of the connection. Raises RemoteError if
        the remote host refuses to listen.
        """
        name = self.address.name
        with self._requests, Watchdog(CHANNEL_S, self.transport.close):
            try:
                taken = self.transport.request_port_forward("127.0.0.1", port, self._accepted)
            except BROKEN as error:
                if not self.transport.is_active():
                    raise LostError(f"{name}: the connection was lost") from error
                raise RemoteError(
                    f"{name} does not listen on its port {port}: it is taken there (0 takes any free one), "
                    "or its sshd forbids it (AllowTcpForwarding)"
                ) from error
        self._accepts[taken] = accept
        return taken

    def unlisten(self, port: int) -> None:
        self._accepts.pop(port, None)
        with self._requests, Watchdog(CHANNEL_S, self.transport.close), contextlib.suppress(*BROKEN):
            if self.transport.is_active():
                self.transport.global_request("cancel-tcpip-forward", ("127.0.0.1", port))

    def _accepted(self, channel: paramiko.Channel, origin: tuple[str, int], to: tuple[str, int]) -> None:
        if (accept := self._accepts.get(to[1])) is not None:
            threading.Thread(target=accept, args=(channel,), name="accept", daemon=True).start()
        else:
            threading.Thread(target=channel.close, name="accept", daemon=True).start()

    def _keep_alive(self, deadline: float) -> None:
        packets = self.transport.packetizer
        asked: threading.Thread | None = None
        while not self._closed.wait(deadline / 10) and self.transport.is_active():
            silent = time.monotonic() - packets.heard if isinstance(packets, _TimedPacketizer) else 0.0
            if silent > deadline:
                log.info("%s: silent for %.0f s", self.address.name, silent)
                self.transport.close()
            elif silent > deadline / 3 and (asked is None or not asked.is_alive()):
                asked = threading.Thread(target=self._ping, name="keepalive", daemon=True)
                asked.start()

    def _ping(self) -> None:
        with self._requests, contextlib.suppress(*BROKEN):  # in a separate thread, because it blocks while the network is down
            self.transport.global_request("keepalive@openssh.com")


_CONNECTIONS: weakref.WeakSet[SshConnection] = weakref.WeakSet()


def _forget() -> None:
    """Close the connections that a forked child inherited, without sending a packet."""
    for connection in _CONNECTIONS:
        connection.transport.active = False  # type: ignore[attr-defined]  # paramiko's own methods would send a packet
        if isinstance(connection.transport.sock, socket.socket):
            connection.transport.sock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def connect(name: str, config: Path | None, keyring: Keyring, keepalive: float = KEEPALIVE_S) -> SshConnection:
    """Return a connection to the host `name`, through its jump hosts if it has any.

    `config` is a configuration file that replaces ~/.ssh/config. `keyring` has the user's keys. The connection is closed after
    `keepalive` seconds without a packet from the host. Raises LostError if the network is at fault, and RemoteError for other
    faults.
    """
    connection: SshConnection | None = None
    for hop in (hops := route(name, config)):
        try:
            connection = _connect(hop, connection, keyring, keepalive)
        except RemoteError as error:
            if connection is not None:
                connection.close()
            if hop is hops[-1]:
                raise
            raise type(error)(f"{name}: its ProxyJump fails: {error}") from error
    if connection is None:
        raise RemoteError(f"{name}: there is no way to it")
    return connection


def _connect(address: Address, before: SshConnection | None, keyring: Keyring, keepalive: float) -> SshConnection:
    link = _dial(address) if before is None else before.dial(address.host, address.port)
    transport = paramiko.Transport(link, packetizer_class=_TimedPacketizer)
    try:
        _greet(transport, address)
        _authenticate(transport, address, keyring)
    except BaseException:
        transport.close()
        link.close()
        raise
    return SshConnection(address, transport, before, keepalive)


def _dial(address: Address) -> socket.socket:
    name, where = address.name, f"{address.host} port {address.port}"
    try:
        return _first_of(address)
    except socket.gaierror as error:
        raise LostError(
            f"{name}: the name {address.host} does not resolve ({error.strerror}): check it, or give HostName in ~/.ssh/config"
        ) from error
    except ConnectionRefusedError as error:
        raise LostError(f"{name}: {where} refuses connections: does sshd run there, and on this port?") from error
    except TimeoutError as error:
        raise LostError(
            f"{name}: {where} did not answer within {address.timeout:g} s: check the address, the network and the firewall"
        ) from error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LostError(f"{name}: {where} cannot be reached ({reason}): check the address and the network") from error


def _first_of(address: Address) -> socket.socket:
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(address.family, socket.AF_UNSPEC)
    failure: OSError | None = None
    for kind, _, _, _, where in socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM):
        link = socket.socket(kind, socket.SOCK_STREAM)
        try:
            link.settimeout(address.timeout)
            if address.source is not None:
                link.bind((address.source, 0))
            link.connect(where)
        except OSError as error:
            link.close()
            failure = error
        else:
            return link
    raise failure or OSError("it has no address")


def _restrict(options: paramiko.SecurityOptions, address: Address) -> None:
    options.key_types = preferred_kinds(address, options.key_types)
    for keyword, name in ALGORITHMS.items():
        here = getattr(options, name)
        allowed = dict(address.allowed).get(keyword, here)
        setattr(options, name, tuple(each for each in here if each in allowed))
        if not getattr(options, name):
            raise RemoteError(
                f"{address.name}: {keyword} allows only {', '.join(allowed)}, none of which is supported here: "
                f"add one of {', '.join(here) or 'those of a known host key'}"
            )


def _greet(transport: paramiko.Transport, address: Address) -> None:
    transport.set_log_channel(log.name)
    transport.banner_timeout = transport.handshake_timeout = address.timeout
    transport.auth_timeout, transport.channel_timeout = AUTH_S, CHANNEL_S
    _restrict(transport.get_security_options(), address)
    try:
        transport.start_client(timeout=address.timeout + 1.0)
        key = transport.get_remote_server_key()
    except BROKEN as error:
        reason = (isinstance(error, paramiko.SSHException) and printable(str(error))[:200]) or "it hung up"
        if "no acceptable" in reason:
            raise RemoteError(
                f"{address.name}: {address.host} port {address.port} has no algorithm in common with this side ({reason}): "
                "see HostKeyAlgorithms, KexAlgorithms, Ciphers and MACs of both"
            ) from error
        raise LostError(
            f"{address.name}: what listens on {address.host} port {address.port} did not greet as an SSH server within "
            f"{address.timeout:g} s ({reason}): check the port, and the server's log"
        ) from error
    sock = transport.sock
    peer = sock.getpeername()[0] if isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX else ""
    check_host_key(address, key, peer)


def _authenticate(transport: paramiko.Transport, address: Address, keyring: Keyring) -> None:
    if not address.public_key:
        raise RemoteError(
            f"{address.name}: PubkeyAuthentication or PreferredAuthentications rules out public keys, and nothing else is "
            f"offered: allow publickey for {address.name} in ~/.ssh/config"
        )
    tried: list[str] = []
    problems: list[str] = []
    with contextlib.closing(keyring.offers(address, problems)) as offers:
        for label, key in offers:
            tried.append(label)
            if _offer(transport, address, key, tried, problems):
                return
    raise _refused(address, tried, problems)


def _offer(
    transport: paramiko.Transport, address: Address, key: paramiko.PKey, tried: Sequence[str], problems: Sequence[str]
) -> bool:
    try:
        more = transport.auth_publickey(address.user, key)
    except paramiko.BadAuthenticationType as error:
        methods = printable(", ".join(error.allowed_types))
        raise RemoteError(
            f"{address.name} lets nobody in by a key (but by {methods}): allow PubkeyAuthentication there"
        ) from error
    except paramiko.AuthenticationException:
        if transport.is_active():
            return False
        hung_up = "; it hung up after so many: set IdentityFile and IdentitiesOnly yes"
        raise _refused(address, tried, problems, hung_up) from None
    except BROKEN as error:
        raise LostError(f"{address.name}: the connection was lost while keys were tried") from error
    if more:
        raise RemoteError(
            f"{address.name} asks for more than a key ({printable(', '.join(more))}): allow a key alone for {address.user}"
        )
    return True


def _refused(address: Address, tried: Sequence[str], problems: Sequence[str], more: str = "") -> RemoteError:
    unusable = f" ({'; '.join(dict.fromkeys(problems))})" if problems else ""
    if not tried:
        return RemoteError(
            f"{address.name}: there is no key to show{unusable}: make one by `ssh-keygen`, or name it as IdentityFile in "
            "~/.ssh/config"
        )
    return RemoteError(
        f"{address.name} does not let {address.user} in with {', '.join(tried)}{more}: is the user right (User), and the "
        f"public key in ~{address.user}/.ssh/authorized_keys there?{unusable}"
    )
