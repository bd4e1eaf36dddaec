"""An SSH server in this process, for faults that OpenSSH never shows. Its commands are real processes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko

LOOPBACK = "127.0.0.1"


class Server(paramiko.ServerInterface):
    """A server that accepts every user and runs commands in a home folder. It has no SFTP."""

    def __init__(self, home: Path, spoil: Callable[[bytes], bytes], stalls: bool) -> None:
        self.home, self.spoil, self.stalls = home, spoil, stalls

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: bytes) -> None:
        if self.stalls:
            return
        environment = {**os.environ, "HOME": str(self.home)}
        pipe = subprocess.PIPE
        with (
            subprocess.Popen(
                ["sh", "-c", command], cwd=self.home, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
            ) as process,
            contextlib.suppress(OSError, EOFError, paramiko.SSHException, ValueError),
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            threads = [
                threading.Thread(
                    target=_copy, args=(lambda: channel.recv(32768), process.stdin.write, process.stdin.close, self.spoil)
                ),
                threading.Thread(target=_copy, args=(lambda: os.read(process.stdout.fileno(), 32768), channel.sendall)),
                threading.Thread(target=_copy, args=(lambda: os.read(process.stderr.fileno(), 32768), channel.sendall_stderr)),
            ]
            for thread in threads:
                thread.daemon = True
                thread.start()
            for thread in threads[1:]:
                thread.join()
            channel.send_exit_status(process.wait())
            channel.close()


def _copy(
    read: Callable[[], bytes],
    write: Callable[[bytes], Any],
    end: Callable[[], Any] = lambda: None,
    change: Callable[[bytes], bytes] = lambda data: data,
) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException, ValueError):
        while data := read():
            write(change(data))
    with contextlib.suppress(OSError):
        end()


class Link:
    """A listener whose accepted connections can be cut or frozen."""

    def __init__(self, key: Path, home: Path, spoil: Callable[[bytes], bytes], stalls: bool) -> None:
        self._key = paramiko.Ed25519Key.from_private_key_file(str(key))
        self._arguments = (home, spoil, stalls)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self.transports: list[paramiko.Transport] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(near)
            transport.set_log_channel("workbench.ssh")
            transport.add_server_key(self._key)
            self.transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(event=threading.Event(), server=Server(*self._arguments))

    def cut(self) -> None:
        """Break every connection."""
        for transport in self.transports:
            transport.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for transport in self.transports:
            transport.join(10)


@contextlib.contextmanager
def serving(key: Path, home: Path, spoil: Callable[[bytes], bytes] = lambda data: data, stalls: bool = False) -> Iterator[Link]:
    """Serve on a loopback port. `spoil` changes the input of commands, and with `stalls` no command runs."""
    link = Link(key, home, spoil, stalls)
    try:
        yield link
    finally:
        link.close()


@contextlib.contextmanager
def silent(says: bytes = b"") -> Iterator[int]:
    """A port that accepts connections, sends `says`, and then nothing more."""
    kept: list[socket.socket] = []
    with socket.create_server((LOOPBACK, 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    near.sendall(says)
                    kept.append(near)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for each in kept:
                each.close()
