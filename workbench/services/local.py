"""Run edge and cloud as local `workbench serve` processes: start them, wait until they are ready, stop them together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..certs import Role, issue
from ..errors import ServiceError
from .trust import client_context

__all__ = ["Local", "Running"]

START_S = 120.0  # torch, weights and warming up, on a busy machine


@dataclass
class Running:
    """A service that runs as a local process. `arguments` are the arguments of `workbench`, and `log` is the log file."""

    arguments: Sequence[str]
    folder: Path
    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def url(self) -> str:
        return f"{'http' if '--plain-http' in self.arguments else 'https'}://127.0.0.1:{self.port}"

    def restart(self) -> None:
        """Start the service again on the same port, after its process has ended."""
        other = _start(self.arguments, self.folder, self.log.stem, self.port)
        self.process = other.process

    def stop(self, number: int = signal.SIGTERM, patience: float = 40.0) -> int:
        """Send the signal `number` to the process, and return the exit status.

        A process that still runs after `patience` seconds is killed.
        """
        try:
            self.process.send_signal(number)  # has no effect on a process that has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        finally:  # in a session of its own, the process would outlive Ctrl-C
            self.process.kill()
            self.process.wait()
        return self.process.returncode


class Local:
    """Starts services as local processes, and stops them at the end of the context.

    The services get new certificates, in a temporary folder.

    ::

        with Local() as local:
            cloud = local.start("cloud", "--codec", "png")
            edge = local.start("edge", "--codec", "png", "--cloud", cloud.url)
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.services: list[Running] = []

    def __enter__(self) -> Local:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="workbench-")))
        self.certs = self.folder / "certs"
        issue(self.certs, days=7)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, what: str, *options: str, port: int = 0, ready: bool = True) -> Running:
        """Start the service `what` ("edge" or "cloud") on `port` (0: any free port).

        `options` are options of `workbench serve`. The method returns when the service is ready or, with `ready` False, when it
        listens. Raises ServiceError if the service ends before that.
        """
        name = f"{what}-{len(self.services)}"
        arguments = ["serve", what, "--certs", str(self.certs), *options]
        service = _start(arguments, self.folder, name, port)
        self._stack.callback(service.stop)  # the edge stops before the cloud, which its last requests need
        self.services.append(service)
        if ready:
            self.await_ready(service)
        return service

    def await_ready(self, service: Running) -> None:
        """Wait until a service reports that it is ready. Raises ServiceError if the service ends, or after two minutes."""
        what: Role = "cloud" if service.arguments[1] == "cloud" else "edge"
        context = client_context(self.certs, "edge" if what == "cloud" else "client", what)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{service.url}/v2/health/ready", context=context, timeout=5) as answer,
            ):
                if json.load(answer).get("ready"):
                    return
            if service.process.poll() is not None:
                break
            time.sleep(0.02)
        raise ServiceError(f"the {service.arguments[1]} did not become ready: {_last_line(service.log)}")


def _start(arguments: Sequence[str], folder: Path, name: str, port: int) -> Running:
    port_file, log = folder / f"{name}.port", folder / f"{name}.log"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "workbench", *arguments, "--listen", f"127.0.0.1:{port}", "--port-file", str(port_file)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=os.environ
        )
    try:
        deadline = time.monotonic() + START_S
        while not port_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"the {arguments[1]} did not start: {_last_line(log)}")
            time.sleep(0.02)
        return Running(arguments, folder, int(port_file.read_text()), log, process)
    except BaseException:  # in a session of its own, the process would outlive Ctrl-C
        process.kill()
        process.wait()
        raise


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
