"""Run a stage (edge or cloud) on its machine, as a process or in a container.

The remote agent, a program on the stage's machine, starts and stops the process. The command kubectl, on the stage's host,
starts and stops the container.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..certs import folder_of
from ..errors import RemoteError
from ..remote import Host
from ..terminal import printable
from .agent.stage import DRAIN_S
from .kubernetes.containers import AbsentError, Containers
from .kubernetes.guest import initdata_digest
from .kubernetes.manifests import FILES
from .ownership import own_folder
from .plan import Deployment, StagePlan, Which
from .shipment import certificates_of, locks, program, weights_of, wheel

__all__ = ["ContainerStage", "ProcessStage", "RemoteAgent", "Report", "Stage"]

Report = Callable[[str], None]
SHORT_S, START_S, INSTALL_S, ROLL_OUT_S = 60.0, 180.0, 3600.0, 1200.0


class Stage(Protocol):
    """The interface of `ProcessStage` and `ContainerStage`. A stage is the edge or the cloud."""

    def prepare(self) -> None:
        """Send and install the files that the stage needs, unless the stage's machine already has them."""

    def start(self, cloud: str) -> tuple[str, int]:
        """Start the stage, unless it already runs with these settings. Return the host and the port of the stage.

        Host and port are as seen from the stage's machine. `cloud` is the cloud's HOST:PORT, as seen from the edge. To start
        the cloud itself, pass "".
        """

    def status(self) -> dict[str, Any]:
        """Return the stage's state as a dict. `running` tells whether the stage runs.

        After the end of a process, `ended` is the time of the end (s since the epoch), `status` the exit status, and `last` a
        list of the last log lines.
        """

    def logs(self, lines: int, follow: bool) -> Iterator[str]:
        """Yield the last `lines` lines of the stage's log. With `follow`, also yield new lines."""

    def stop(self) -> bool:
        """End the stage, and remove its files or Kubernetes objects. Return whether a process ran or a container existed."""


class RemoteAgent:
    """A client of the remote agent, the program that runs stages on `host`. The agent's files there are in `folder`.

    The first call sends the agent's program to `host`, after a check that only the user can access `folder`.
    """

    def __init__(self, host: Host, folder: str) -> None:
        self.host, self.folder = host, folder
        self._own = self._program = ""

    def __call__(self, verb: str, timeout: float = SHORT_S, report: Report | None = None, **asked: Any) -> Any:
        """Run one command of the agent, such as `start`, and return the command's result.

        `verb` is the command's name, `asked` are its arguments, and `timeout` is in seconds. `report` is called with each line
        of progress. Raises RemoteError with the agent's message if the command fails.
        """
        answer: dict[str, Any] = {}
        lines = self.host.stream(self._command(verb), input=json.dumps(asked).encode(), timeout=timeout)
        with contextlib.closing(lines):  # type: ignore[type-var]
            for line in lines:
                answer = self._read(line)
                if "report" in answer and report is not None:
                    report(printable(answer["report"]))
        if "done" not in answer:
            raise RemoteError(f"{self.host.name}: {answer.get('error', 'the remote agent ended without an answer')}")
        return answer["done"]

    def lines(self, verb: str, **asked: Any) -> Iterator[str]:
        """Run a command of the agent that prints text, such as `logs`, and yield the lines of the text.

        `verb` is the command's name, and `asked` are its arguments. Raises RemoteError with the agent's message if the command
        fails.
        """
        lines = self.host.stream(self._command(verb), input=json.dumps(asked).encode())
        with contextlib.closing(lines):  # type: ignore[type-var]
            for line in lines:
                answer = self._read(line)
                if "error" in answer:
                    raise RemoteError(f"{self.host.name}: {answer['error']}")
                if "line" in answer:
                    yield printable(answer["line"], keep="\t")

    def knows(self, stage: str = "") -> bool:
        """Return whether the machine has files of the stage named `stage`.

        If `stage` is empty, return whether the agent's folder exists.
        """
        path = f"{self.folder}/stages/{stage}" if stage else self.folder
        return self.host.run(["test", "-e", path], timeout=SHORT_S).status == 0

    def send(self, files: Sequence[Path | bytes], progress: bool = False) -> list[str]:
        """Upload files into the subfolder `store` of the agent's folder. Return the SHA-256 of each file, in order.

        Each file is given as a local path or as bytes. `progress` shows a progress bar.
        """
        return [path.rpartition("/")[2] for path in self.host.put(files, f"{self._place()}/store", progress=progress)]

    def forget(self) -> None:
        """Forget that the agent's program was sent, so that the next command sends it again if it is missing.

        Call this after the agent's folder was removed.
        """
        self._own = self._program = ""

    def _place(self) -> str:
        if not self._own:
            self._own = own_folder(self.host, self.folder)
        return self._own

    def _command(self, verb: str) -> list[str]:
        if not self._program:
            found = self.host.run(["sh", "-c", "command -v python3"], timeout=SHORT_S)
            if found.status:
                raise RemoteError(
                    f"{self.host.name} has no python3: install Python 3.11 there, such as by `apt install python3-venv`"
                )
            (sha,) = self.send([program()])
            self._program = f"{self._place()}/store/{sha}"
        return ["python3", self._program, self._place(), verb]

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RemoteError(
                f"{self.host.name}: its shell says something of its own ({line[:60]!r}): keep its start-up files silent"
            )
        return found


class ProcessStage:
    """Runs a stage, the edge or the cloud, as a process on `host`.

    `report` is called with each line of progress. `progress` shows a progress bar for uploads.
    """

    def __init__(
        self, host: Host, deployment: Deployment, which: Which, report: Report = lambda _: None, progress: bool = False
    ) -> None:
        self.deployment, self.which, self.report, self.progress = deployment, which, report, progress
        self.plan: StagePlan = deployment.stage(which)
        self.agent = RemoteAgent(host, self.plan.folder)
        self.name = f"{deployment.name}-{which}"
        self._environment: Mapping[str, str] = {}
        self._weights: dict[str, str] = {}

    def prepare(self) -> None:
        weights = weights_of(self.deployment, self.which)
        package = wheel()
        size = sum(path.stat().st_size for path in weights.values())
        found = self.agent("probe", device=self.plan.device, bytes=2 * size)
        self.report(f"Python {found['python']}, {found['cores']} cores, {len(found['gpus'])} GPUs")
        shipped, *sent = self.agent.send([package.content, *locks().values(), *weights.values()], self.progress)
        locked = dict(zip(locks(), sent, strict=False))
        self._weights = dict(zip(weights, sent[len(locked) :], strict=True))
        self.report(f"environment of {package.name}")
        self._environment = self.agent(
            "environment",
            INSTALL_S,
            self.report,
            wheel=shipped,
            file=package.name,
            locks=locked,
            least=package.python,
            python=self.plan.python,
            pip=list(self.plan.pip),
            device=self.plan.device,
        )

    def start(self, cloud: str = "") -> tuple[str, int]:
        host, _, port = self.plan.listen.rpartition(":")
        pair = self.deployment.pair
        command = ["-m", "workbench", "serve", self.which, "--listen", f"{host}:{{port}}", "--port-file", "{home}/port"]
        command += ["--certs", "{home}/given/certs", "--dataset", pair.dataset, "--target", pair.target]
        command += ["--auxiliary", pair.auxiliary, "--codec", pair.codec, "--device", self.plan.device]
        command += ["--cloud", f"https://{cloud}"] if cloud else []
        found = self.agent(
            "start",
            START_S,
            self.report,
            name=self.name,
            port=int(port),
            command=[*command, *self.plan.options],
            environ={"WORKBENCH_DATA": "{home}/given/data"},
            environment=dict(self._environment),
            files=self._weights,
            texts=certificates_of(self.deployment, self.which),
        )
        return "127.0.0.1", int(found["port"])

    def status(self) -> dict[str, Any]:
        return dict(self.agent("status", name=self.name)) if self.agent.knows(self.name) else {"running": False, "known": False}

    def logs(self, lines: int = 100, follow: bool = False) -> Iterator[str]:
        if not self.agent.knows(self.name):
            raise RemoteError(f"{self.agent.host.name}: there is no stage {self.name} here: launch it first")
        return self.agent.lines("logs", name=self.name, lines=lines, follow=follow)

    def stop(self) -> bool:
        return self.agent.knows(self.name) and bool(self.agent("stop", DRAIN_S + SHORT_S, name=self.name))

    def purge(self) -> bool:
        """Remove the agent's folder, with all Python environments and sent files. Return whether the folder existed."""
        there = self.agent.knows() and bool(self.agent("purge"))
        self.agent.forget()
        return there


class ContainerStage:
    """Runs the edge in a container on a Kubernetes cluster. kubectl on `host` controls the cluster.

    `report` is called with each line of progress.
    """

    def __init__(self, host: Host, deployment: Deployment, report: Report = lambda _: None) -> None:
        settings = deployment.edge.container
        self.deployment, self.report = deployment, report
        self.container = deployment.container()
        self.containers = Containers(host, self.container, settings.kubectl, settings.context, settings.kubeconfig)

    def prepare(self) -> None:
        """Report the digest of the guest's configuration. Nothing is sent, because the image contains everything.

        The guest is the virtual machine around the container. The edge's attestation evidence has the digest as HOST_DATA.
        """
        self.report(f"host_data of its evidence: {initdata_digest(self.container)}")

    def start(self, cloud: str = "") -> tuple[str, int]:
        certs = folder_of(self.deployment.certs, "edge")
        own = None if self.container.resource else {name: (certs / name).read_bytes() for name in FILES}
        self.containers.apply(own)
        self.containers.wait(ROLL_OUT_S, self.report)
        return self.containers.address()

    def status(self) -> dict[str, Any]:
        """Return the container's state. `known` tells whether the container exists, and `running` whether a replica is ready.

        If the container exists, there are two more keys. `waiting` tells whether no replica is ready yet. `last` is a list with
        the text of the first fault, or [].
        """
        try:
            state = self.containers.status()
        except AbsentError:
            return {"running": False, "known": False}
        ready, last = bool(state.ready), [state.trouble] if state.trouble else []
        return {"running": ready, "waiting": not ready, "known": True, "last": last}

    def logs(self, lines: int = 100, follow: bool = False) -> Iterator[str]:
        return self.containers.logs(follow, lines)

    def stop(self) -> bool:
        there = bool(self.status()["known"])
        self.containers.delete()
        return there
