"""A command at work on a machine: what goes into it, what comes out, and that it ends with whoever started it.

::

    run, stream    exec sh -c LEASE: input, then silence --stdin--> the command; stdin that ends is the lease that ends it
    put, get       the command itself; the end of its standard input is the end of the file

OpenSSH tells no command that its channel was closed: one that is silent would stay for ever. Its standard input does end,
with the channel, with the connection and with this process, however these end. So the far shell waits for that, and ends it.
"""

from __future__ import annotations

import abc
import contextlib
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self

import paramiko

from ..errors import RemoteError

__all__ = ["ChannelWork", "LocalWork", "LostError", "Watchdog", "Work", "last_line", "leased", "line_of"]

CHUNK = 32 << 10  # what one SSH packet carries
LIMIT = 64 << 20  # of standard error, and of a line: more is dropped, and cut
GRACE_S = 3.0  # from TERM to KILL

# $0 is this text, $1 the length of the input. A session that sshd starts leads a process group; where another server's does
# not, setsid makes one. What waits for the lease's end starts when the input has been read, and nobody waits for it; the shell
# itself outlives TERM, so that it ends when the command has. `kill -NAME -$$` is the form that dash, bash and busybox share.
LEASE = (
    'kill -0 -$$ 2>/dev/null || [ "$WORKBENCH_LEADS" ] || WORKBENCH_LEADS=1 exec setsid sh -c "$0" "$0" "$@"; '
    "n=$1; shift; exec 3<&0; "
    '{ exec 2>/dev/null; [ "$n" = 0 ] || head -c "$n" <&3; exec >&-; '
    '{ cat <&3 >/dev/null; kill -0 $$ && { trap "" TERM; kill -TERM -$$; sleep 3; kill -KILL -$$; }; } & } '
    '| "$@" 3<&- & trap "" TERM; wait $!'
)


class LostError(RemoteError):
    """Raised when the connection to a machine is not there, or not any more: what was under way may have happened or not."""


def leased(command: Sequence[str], length: int) -> list[str]:
    """Return the command that runs another with `length` bytes of input, and ends it when its own input ends."""
    return ["sh", "-c", LEASE, LEASE, str(length), *command]


def last_line(errors: bytes) -> str:
    """Return the last line of what a command said on standard error, fit for a line of ours."""
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    return "".join(each for each in lines[-1] if each.isprintable())[:300] if lines else ""


class Watchdog:
    """Calls `bark` once where it was not fed for so many seconds (None: never), on a thread of its own; a context manager."""

    def __init__(self, seconds: float | None, bark: Callable[[], object]) -> None:
        self._seconds, self._bark = seconds, bark
        self._due = time.monotonic() + (seconds or 0.0)
        self._ended = threading.Event()
        self.barked = False

    def __enter__(self) -> Self:
        if self._seconds is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def feed(self, extra: float = 0.0) -> None:
        """Start the time anew."""
        self._due = time.monotonic() + (self._seconds or 0.0) + extra

    def _watch(self) -> None:
        while (left := self._due - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        self.barked = True
        with contextlib.suppress(Exception):  # a connection that breaks just now has ended it, too
            self._bark()


class Work(abc.ABC):
    """A command at work. Its standard error is read on a thread, so that it never waits for a reader; a context manager."""

    def __init__(self) -> None:
        self.ended = False  # by `end`, before it had ended by itself
        self._kept = bytearray()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """Give it input, and wait until it is taken; BrokenPipeError where it takes no more."""

    @abc.abstractmethod
    def finish(self) -> None:
        """End its input."""

    @abc.abstractmethod
    def read(self) -> bytes:
        """Return some of its output; nothing where that has ended."""

    @abc.abstractmethod
    def wait(self) -> int:
        """Return how it ended, -1 where nothing tells; LostError where the connection ended first."""

    @abc.abstractmethod
    def end(self) -> None:
        """End it, and every reader's waiting; from any thread."""

    @abc.abstractmethod
    def close(self) -> None:
        """End it where it is still at work, and let go of it."""

    def feed(self, data: bytes) -> None:
        """Give it input on a thread, so that one can read meanwhile."""
        if data:
            self._begin(lambda: self._feed(data))

    def errors(self) -> bytes:
        """Return what it has said on standard error."""
        self._threads[0].join(1.0)
        return bytes(self._kept)

    def lines(self) -> Iterator[bytes]:
        """Give the lines of its output as they come, without their ends."""
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
            with contextlib.suppress(OSError, ValueError, EOFError, paramiko.SSHException):
                while part := read():
                    self._kept += part
                    del self._kept[:-LIMIT]

        self._begin(run)

    def _begin(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="work", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _feed(self, data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            for start in range(0, len(data), CHUNK):
                self.write(bytes(view[start : start + CHUNK]))


class ChannelWork(Work):
    """A command at the far end of an SSH channel."""

    def __init__(self, channel: paramiko.Channel) -> None:
        super().__init__()
        self._channel = channel
        self._drain(lambda: channel.recv_stderr(CHUNK))

    def write(self, data: bytes) -> None:
        """Send over the channel; waits while its window is full."""
        try:
            self._channel.sendall(data)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise BrokenPipeError from error

    def finish(self) -> None:
        """Send the end of input."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def read(self) -> bytes:
        """Return what has come, as soon as something has."""
        try:
            return self._channel.recv(CHUNK)
        except (OSError, EOFError, paramiko.SSHException):  # the window is told of the bytes over a connection that broke
            return b""

    def wait(self) -> int:
        """Return the exit status that was sent."""
        status = self._channel.recv_exit_status()
        if status == -1 and not self.ended:
            transport = self._channel.get_transport()
            transport.join(1.0)  # its thread ends where the connection did
            if not transport.is_active():
                raise LostError("the connection was lost")
        return status

    def end(self) -> None:
        """Close the channel; the lease ends the command."""
        self.ended = True
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def close(self) -> None:
        """Close the channel."""
        self.end()
        for thread in self._threads:
            thread.join(GRACE_S)


class LocalWork(Work):
    """A command on this machine, in a session of its own."""

    def __init__(self, command: Sequence[str], home: Path) -> None:
        super().__init__()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=home, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        self._input, self._output, self._errors = self._pipes()
        self._drain(lambda: self._available(self._errors))

    def _pipes(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        process = self._process
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("a process without pipes")
        return process.stdin, process.stdout, process.stderr

    def write(self, data: bytes) -> None:
        """Write to its pipe."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._input.fileno(), view) :]
        except (OSError, ValueError) as error:
            raise BrokenPipeError from error

    def finish(self) -> None:
        """Close its pipe."""
        self._input.close()

    def read(self) -> bytes:
        """Return what its pipe has, as soon as it has something."""
        return self._available(self._output)

    def _available(self, pipe: IO[bytes]) -> bytes:
        """Return what a pipe has, as soon as it has something; nothing where it ended, or the command was told to."""
        poll = select.poll()
        poll.register(pipe.fileno(), select.POLLIN)
        while not poll.poll(100):
            if self.ended:  # what has left the command's session may hold the pipe open
                return b""
        return os.read(pipe.fileno(), CHUNK)

    def wait(self) -> int:
        """Return the exit status as a shell tells it."""
        status = self._process.wait()
        return status if status >= 0 else 128 - status  # as a shell tells it

    def end(self) -> None:
        """Send TERM to its session and, where that is not enough, KILL."""
        self.ended = True
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """End it, and close its pipes."""
        if self._process.poll() is None:
            self.end()
        self.ended = True
        self._process.wait()
        for thread in self._threads:
            thread.join(GRACE_S)
        for pipe in (self._input, self._output, self._errors):
            with contextlib.suppress(OSError):
                pipe.close()


def line_of(command: Sequence[str]) -> str:
    """Return a command as the far shell reads it; `exec` spares a process, and is known to every shell."""
    return "exec " + shlex.join(command)
