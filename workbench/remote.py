"""One interface for the local machine and for SSH hosts: run commands, copy files, forward ports.

::

    with host_of("gpu-box") as host:                      # a Host of ~/.ssh/config, user@host:port, or "local"
        host.run(["nvidia-smi"]).out
        (path,) = host.put([Path("weights.safetensors")], "pmc2/store")
        with host.forward(8443) as here:
            ...                                           # 127.0.0.1:here.port leads to the host's port 8443
"""

from __future__ import annotations

import abc
import os
import secrets
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import paramiko

from .errors import RemoteError
from .ssh import relays, uploads
from .ssh.connections import KEEPALIVE_S, SshConnection, connect
from .ssh.identities import Ask, Keyring, ask_terminal
from .ssh.login_shell import command_line
from .ssh.relays import Forward
from .ssh.remote_process import (
    BROKEN,
    ChannelProcess,
    LocalProcess,
    LostError,
    NotRunError,
    RemoteProcess,
    Watchdog,
    last_line,
    leased,
)
from .storage import replacing

__all__ = ["Forward", "Here", "Host", "LostError", "Result", "SshHost", "host_of"]

LOCAL = "local"
MOST_OUTPUT = 64 << 20  # limit of the standard output of `run`, in bytes
EXEC_S, STALL_S = 30.0, 60.0


@dataclass(frozen=True)
class Result:
    """The exit status, the standard output and the standard error of a command."""

    status: int
    out: bytes
    err: bytes


class Host(abc.ABC):
    """A machine: the local one or an SSH host. The first call connects.

    After a lost connection the next call connects again. Paths on the machine are absolute, or relative to the user's home
    folder, with or without `~/`. If a call fails, it raises RemoteError, or its subclass LostError if the network failed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._forwards: list[Forward] = []
        self._works: weakref.WeakSet[RemoteProcess] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def _begin(self, command: Sequence[str]) -> RemoteProcess: ...

    @abc.abstractmethod
    def forward(self, port: int, host: str = "127.0.0.1", listen: int = 0) -> Forward:
        """Forward a port of the local machine to `host`:`port`, an address as seen from the remote host.

        `listen` is the local port, on the loopback interface. 0 chooses a free port.
        """

    @abc.abstractmethod
    def reverse(self, near: tuple[str, int], listen: int = 0) -> Forward:
        """Forward a port of the remote host to `near` (host, port), an address as seen from the local machine.

        `listen` is the port on the remote host's loopback interface. 0 chooses a free port.
        """

    def start(self, command: Sequence[str]) -> RemoteProcess:
        """Start a command in the user's home folder, and return its process.

        The caller writes and closes the standard input of the process, and finally closes the process.
        """
        work = self._begin(command)
        self._works.add(work)
        return work

    def run(self, command: Sequence[str], *, input: bytes = b"", timeout: float = 60.0) -> Result:
        """Run a command in the user's home folder, and return its result. `input` is written to the command's standard input.

        RemoteError is raised, and the command is ended, if it still runs after `timeout` seconds or writes more than 64 MiB. An
        exit status other than 0 raises no error.
        """
        out = bytearray()
        with self.start(leased(command, len(input))) as work, Watchdog(timeout, work.end) as dog:
            work.feed(input)
            for part in iter(work.read, b""):
                out += part
                if len(out) > MOST_OUTPUT:
                    raise RemoteError(f"{self.name}: {command[0]} said more than {MOST_OUTPUT >> 20} MiB and was ended")
            status = self._ended(work, dog, command[0], timeout)
            return Result(status, bytes(out), work.errors())

    def stream(self, command: Sequence[str], *, input: bytes = b"", timeout: float | None = None) -> Iterator[bytes]:
        """Run a command, and yield each line of its output, without the line end. Closing the iterator ends the command.

        `input` is written to the command's standard input. Raises RemoteError if the exit status is not 0. The message quotes
        the last line of standard error. If the command still runs after `timeout` seconds, it is ended and RemoteError is
        raised.
        """
        with self.start(leased(command, len(input))) as work, Watchdog(timeout, work.end) as dog:
            work.feed(input)
            yield from work.lines()
            self._require(command[0], self._ended(work, dog, command[0], timeout), work.errors())

    def put(self, files: Sequence[Path | bytes], folder: str, progress: bool = False) -> list[str]:
        """Upload files to `folder`. Return their absolute remote paths, in order.

        A file is a local path or the content itself. Its name in `folder` is its SHA-256. Files that exist there already are
        not uploaded. `progress` shows a progress bar.
        """
        return uploads.put(self, files, _home(folder), progress)

    def get(self, path: str, target: Path) -> None:
        """Download the remote file `path`, and replace the local file `target` atomically."""
        with (
            replacing(target) as temporary,
            temporary.open("wb") as file,
            self.start(["cat", "--", _home(path)]) as work,
            Watchdog(STALL_S, work.end) as dog,
        ):
            work.finish()
            for part in iter(work.read, b""):
                dog.extend()
                file.write(part)
            self._require("cat", self._ended(work, dog, "cat", STALL_S), work.errors())

    def ask(self, command: Sequence[str], data: bytes, timeout: float) -> bytes:
        """Run a command with `data` as its standard input, and return its standard output.

        Raises RemoteError if the exit status is not 0, or if the command still runs after `timeout` seconds.
        """
        result = self.run(command, input=data, timeout=timeout)
        self._require(command[0], result.status, result.err)
        return result.out

    def _ended(self, work: RemoteProcess, dog: Watchdog, program: str, limit: float | None) -> int:
        status: int | None = None
        try:
            status = work.wait()
        except NotRunError as error:
            raise RemoteError(
                f"{self.name}: the login shell ended without running {program} (it printed {str(error)!r}): "
                "does one of its startup files start another shell, or exit?"
            ) from None
        except LostError:
            if not dog.timed_out:
                raise LostError(
                    f"{self.name}: the connection was lost while {program} was at work; it may have gone on"
                ) from None
        if dog.timed_out:
            raise RemoteError(
                f"{self.name}: {program} did not end within {limit:g} s and was ended: does it hang, or need longer?"
            )
        if work.ended:
            raise RemoteError(f"{self.name}: {program} was ended, as the connection was closed")
        if status is None or status < 0:
            raise RemoteError(f"{self.name}: {program} was killed: does the machine have too little memory?")
        return status

    def _require(self, program: str, status: int, errors: bytes) -> None:
        if status:
            said = last_line(errors) or "it says nothing of why"
            raise RemoteError(f"{self.name}: {program} failed with status {status}: {said}")

    def _kept(self, forward: Forward) -> Forward:
        self._forwards = [each for each in self._forwards if not each.closed] + [forward]
        return forward

    def close(self) -> None:
        """End all commands and forwarded ports, and close the connection."""
        for work in list(self._works):
            work.end()
        for each in self._forwards:
            each.close()
        self._forwards.clear()


class Here(Host):
    """The local machine, with the interface `Host`."""

    def __init__(self) -> None:
        super().__init__(LOCAL)

    def _begin(self, command: Sequence[str]) -> RemoteProcess:
        try:
            return LocalProcess(command, Path.home())
        except OSError as error:
            raise RemoteError(f"{self.name}: {command[0]} cannot be started ({error.strerror})") from error

    def forward(self, port: int, host: str = "127.0.0.1", listen: int = 0) -> Forward:
        return self.reverse((host, port), listen)

    def reverse(self, near: tuple[str, int], listen: int = 0) -> Forward:
        return self._kept(relays.forward(relays.listen(listen, "this machine"), partial(relays.dial, near)))


class SshHost(Host):
    """A machine that is reached over SSH. `name` is a Host of the SSH configuration, or user@host:port.

    OpenSSH resolves the configuration. `config` is a file that replaces ~/.ssh/config. Host keys are always verified, even if
    the configuration disables this. `ask` is a function that shows a prompt and returns the user's answer, the passphrase of an
    encrypted key. After `keepalive` seconds without a packet from the host, the connection is closed.
    """

    def __init__(
        self, name: str, *, config: Path | None = None, ask: Ask = ask_terminal, keepalive: float = KEEPALIVE_S
    ) -> None:
        super().__init__(name)
        self._config, self._keepalive = config, keepalive
        self._keyring = Keyring(ask)
        self._open: SshConnection | None = None
        self._opening = threading.Lock()
        self._reverses: dict[int, partial[None]] = {}

    def _connection(self) -> SshConnection:
        with self._opening:
            if self._open is not None and self._open.alive:
                return self._open
            if self._open is not None and self._open.own:
                self._open.close()
            self._open = connection = connect(self.name, self._config, self._keyring, self._keepalive)
            for port, accept in list(self._reverses.items()):
                try:
                    connection.listen(port, accept)
                except RemoteError:
                    del self._reverses[port]
                    raise
            return connection

    def _channel(self) -> paramiko.Channel:
        """Open a channel for a command. If the connection was lost, retry once. No command has run yet, so a retry is safe."""
        connection = self._connection()
        try:
            return connection.session()
        except LostError:
            return self._connection().session()

    def _begin(self, command: Sequence[str]) -> RemoteProcess:
        channel = self._channel()
        mark = secrets.token_hex(16)
        with Watchdog(EXEC_S, channel.close) as dog:
            try:
                channel.exec_command(command_line(command, mark))
            except BROKEN as error:
                channel.close()
                if not dog.timed_out and not channel.get_transport().is_active():
                    raise LostError(f"{self.name}: the connection was lost while {command[0]} was started") from error
                raise RemoteError(
                    f"{self.name}: its sshd runs no commands for this user: is it meant for files alone?"
                ) from error
        return ChannelProcess(channel, mark.encode())

    def forward(self, port: int, host: str = "127.0.0.1", listen: int = 0) -> Forward:
        listener = relays.listen(listen, "this machine")
        try:
            self._connection()
        except BaseException:
            listener.close()
            raise
        return self._kept(relays.forward(listener, lambda: self._connection().dial(host, port)))

    def reverse(self, near: tuple[str, int], listen: int = 0) -> Forward:
        pairs = relays.RelayedConnections()
        accept = partial(relays.answer, pairs, near)
        port = self._connection().listen(listen, accept)
        self._reverses[port] = accept

        def end() -> None:
            self._reverses.pop(port, None)
            if self._open is not None and self._open.alive:
                self._open.unlisten(port)
            pairs.close()

        return self._kept(Forward(port, end))

    def close(self) -> None:
        super().close()
        with self._opening:
            if self._open is not None and self._open.own:
                self._open.close()
            self._open = None


def host_of(name: str, *, config: Path | None = None) -> Host:
    """Return the local machine for "local", else the SSH host `name`. `config` replaces ~/.ssh/config."""
    return Here() if name == LOCAL else SshHost(name, config=config)


def _home(path: str) -> str:
    if path == "~" or path.startswith("~/"):
        return os.path.normpath(path[2:]) if path[2:] else "."
    if path.startswith("~"):
        raise RemoteError(f"{path!r} is another user's home: give the whole path")
    return path or "."
