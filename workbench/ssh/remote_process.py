"""Run a command, locally or over SSH: its input, its outputs and its exit status.

A command never outlives the process that started it. This needs a remedy, because OpenSSH does not signal a command whose
channel was closed. A command without output would then run for ever. But the command's standard input ends if the channel, the
connection or this process ends. So a shell on the remote host runs the script LEASE. It waits for the end of standard input,
and then terminates the command.

The methods of `remote.Host` start these commands::

    run, stream    a shell with LEASE. Its standard input has the command's input, and then stays open until the command ends
    put, get       the command alone. Its standard input is the file that is sent (put), or empty (get)
"""

from __future__ import annotations

import abc
import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self, cast

import paramiko

from ..errors import RemoteError
from ..terminal import printable
from .login_shell import MarkedOutput

__all__ = ["BROKEN", "ChannelProcess", "LocalProcess", "LostError", "RemoteProcess", "Watchdog", "last_line", "leased"]

CHUNK = 32 << 10  # payload of an SSH packet, in bytes
LIMIT = 64 << 20  # bytes of standard error that are kept, and of the longest line that is not split
BROKEN = (OSError, EOFError, paramiko.SSHException)  # raised by paramiko if a connection breaks
GRACE_S = 3.0  # from SIGTERM to SIGKILL

# $0 is this script, $1 the input's length. Under sshd, the shell leads a process group. Under other servers, setsid makes one.
# The background watcher starts after the input has been read. The shell ignores SIGTERM, so that it ends after the command.
# `kill -NAME -$$` is the form that dash, bash and busybox support.
LEASE = (
    'kill -0 -$$ 2>/dev/null || [ "$WORKBENCH_LEADS" ] || WORKBENCH_LEADS=1 exec setsid sh -c "$0" "$0" "$@"; '
    "n=$1; shift; exec 3<&0; "
    '{ exec 2>/dev/null; [ "$n" = 0 ] || head -c "$n" <&3; exec >&-; '
    '{ cat <&3 >/dev/null; kill -0 $$ && { trap "" TERM; kill -TERM -$$; sleep 3; kill -KILL -$$; }; } & } '
    '| "$@" 3<&- & trap "" TERM; wait $!'
)


class LostError(RemoteError):
    """Raised if a connection cannot be opened or was lost. It is unknown whether a running command has completed."""


class NotRunError(RemoteError):
    """Raised if a login shell exited with status 0 without running the command. The message is the shell's last line."""


def leased(command: Sequence[str], length: int) -> list[str]:
    """Return a command line that runs `command` in a shell, as long as the shell's standard input is open.

    The shell passes the first `length` bytes of its standard input to `command`. When the standard input ends, the shell
    terminates `command`.
    """
    return ["sh", "-c", LEASE, LEASE, str(length), *command]


def last_line(errors: bytes) -> str:
    """Return the last non-empty line of `errors`, a command's standard error, or "" if it is empty.

    The line has at most 300 characters, and no control characters.
    """
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    return printable(lines[-1])[:300] if lines else ""


class Watchdog:
    """A timer that calls `on_timeout` once, unless the context ends before the timer expires.

    The timer expires `seconds` after its creation or after the last call of `extend`. If `seconds` is None, the timer never
    expires.
    """

    def __init__(self, seconds: float | None, on_timeout: Callable[[], object]) -> None:
        self._seconds, self._on_timeout = seconds, on_timeout
        self._due = time.monotonic() + (seconds or 0.0)
        self._ended = threading.Event()
        self.timed_out = False

    def __enter__(self) -> Self:
        if self._seconds is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def extend(self, extra: float = 0.0) -> None:
        """Restart the timer, which now expires after `seconds` + `extra` seconds."""
        self._due = time.monotonic() + (self._seconds or 0.0) + extra

    def _watch(self) -> None:
        while (left := self._due - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        self.timed_out = True
        with contextlib.suppress(Exception):  # the connection may break at the same moment
            self._on_timeout()


class RemoteProcess(abc.ABC):
    """A running command, which is terminated at the end of the context.

    A thread reads standard error, so that the command never blocks because of a full pipe.
    """

    def __init__(self) -> None:
        self.ended = False  # whether `end` or `close` was called
        self._kept = bytearray()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """Write to the standard input. Raises BrokenPipeError if the command no longer reads."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Close the standard input."""

    @abc.abstractmethod
    def read(self) -> bytes:
        """Wait for standard output, and return its next bytes, or b"" at the end of the output."""

    @abc.abstractmethod
    def wait(self) -> int:
        """Wait for the command's end. Return the exit status: 128 + n after signal n, -1 if unknown.

        Raises LostError if the connection was lost, and NotRunError if the login shell did not run the command.
        """

    @abc.abstractmethod
    def end(self) -> None:
        """Terminate the command, so that every waiting `read` returns. Any thread may call this method."""

    @abc.abstractmethod
    def close(self) -> None:
        """Terminate the command if it still runs, and release the resources of the process."""

    def feed(self, data: bytes) -> None:
        """Write `data` to the standard input on a thread, so that the caller can read at the same time."""
        view = memoryview(data)

        def run() -> None:
            with contextlib.suppress(BrokenPipeError):
                for start in range(0, len(view), CHUNK):
                    self.write(bytes(view[start : start + CHUNK]))

        if data:
            self._begin(run)

    def errors(self) -> bytes:
        """Wait up to 1 s for the end of standard error. Return the received bytes, at most the last `LIMIT` bytes."""
        self._threads[0].join(1.0)
        return bytes(self._kept)

    def lines(self) -> Iterator[bytes]:
        """Yield each line of standard output as soon as it arrives, without the line end.

        A line of more than `LIMIT` bytes is split.
        """
        left = b""
        while part := self.read():
            *whole, left = (left + part).split(b"\n")
            yield from whole
            if len(left) > LIMIT:
                yield left
                left = b""
        if left:
            yield left

    def _drain(self, read: Callable[[], bytes]) -> None:
        def run() -> None:
            with contextlib.suppress(ValueError, *BROKEN):
                while part := read():
                    self._kept += part
                    del self._kept[:-LIMIT]

        self._begin(run)

    def _begin(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="remote-process", daemon=True)
        self._threads.append(thread)
        thread.start()


class ChannelProcess(RemoteProcess):
    """A command on a remote host, over an SSH channel.

    The command's output begins after `mark`, because the login shell may print text before the command starts.
    """

    def __init__(self, channel: paramiko.Channel, mark: bytes) -> None:
        super().__init__()
        self._channel, self._mark = channel, mark
        self._output = MarkedOutput(mark)
        self._drain(lambda: channel.recv_stderr(CHUNK))

    def write(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except BROKEN as error:
            raise BrokenPipeError from error

    def finish(self) -> None:
        with contextlib.suppress(*BROKEN):
            self._channel.shutdown_write()

    def read(self) -> bytes:
        try:
            while part := self._channel.recv(CHUNK):
                if output := self._output.feed(part):
                    return output
        except BROKEN:  # recv sends a window update, which fails on a lost connection
            pass
        return self._output.take()

    def errors(self) -> bytes:
        errors = super().errors()
        return errors.partition(self._mark)[2] if self._mark in errors else errors

    def wait(self) -> int:
        status = self._channel.recv_exit_status()
        if status == 0 and not self.ended and not self._output.begun and self._mark not in super().errors():
            raise NotRunError(last_line(self._output.greeting))
        if status == -1 and not self.ended:
            transport = self._channel.get_transport()
            transport.join(1.0)  # its thread ends with the connection
            if not transport.is_active():
                raise LostError("the connection was lost")
        return status

    def end(self) -> None:
        self.ended = True
        with contextlib.suppress(*BROKEN):
            self._channel.close()

    def close(self) -> None:
        self.end()
        for thread in self._threads:
            thread.join(GRACE_S)


class LocalProcess(RemoteProcess):
    """A command on this machine, in a new session. Its working folder is `home`."""

    def __init__(self, command: Sequence[str], home: Path) -> None:
        super().__init__()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=home, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._input, self._output, self._errors = cast("tuple[IO[bytes], ...]", pipes)
        self._drain(lambda: self._available(self._errors))

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._input.fileno(), view) :]
        except (OSError, ValueError) as error:
            raise BrokenPipeError from error

    def finish(self) -> None:
        self._input.close()

    def read(self) -> bytes:
        return self._available(self._output)

    def _available(self, pipe: IO[bytes]) -> bytes:
        poll = select.poll()
        poll.register(pipe.fileno(), select.POLLIN)
        while not poll.poll(100):
            if self.ended:  # a process that left the command's session may hold the pipe open
                return b""
        return os.read(pipe.fileno(), CHUNK)

    def wait(self) -> int:
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def end(self) -> None:
        self.ended = True
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        if self._process.poll() is None:
            self.end()
        self.ended = True
        self._process.wait()
        for thread in self._threads:
            thread.join(GRACE_S)
        for pipe in (self._input, self._output, self._errors):
            with contextlib.suppress(OSError):
                pipe.close()
