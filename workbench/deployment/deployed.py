"""Launch, query and stop a deployment: two stages (edge and cloud) and the SSH tunnels between the machines.

::

    launch    issue certificates -> prepare both stages: check, send files, make Python environments
              -> start the cloud -> open its tunnels -> start the edge -> open its tunnel -> wait until both are ready
    stop      stop edge, cloud and tunnels; certificates and sent files stay for the next launch, unless they are purged

Each step is idempotent, so a second `launch` changes nothing. After an interruption, the next `launch` continues with the
missing steps. A launch that fails stops the stages that it started.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import math
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..attest import Policy
from ..certs import Role
from ..errors import RemoteError, ServiceError, UsageError, WorkbenchError
from ..processes import as_done
from ..remote import Host, host_of
from ..services.trust import client_context
from ..storage import write_json
from ..terminal import printable
from . import tunnels
from .credentials import issue_certificates, required_policy
from .doctor import Doctor, Finding
from .links import Links, on_this_machine
from .plan import Deployment, StagePlan, Which
from .stages import ContainerStage, ProcessStage, Report, Stage

if TYPE_CHECKING:  # it imports torch, which `status` and `logs` do not need
    from ..client import HttpsClient

__all__ = ["Deployed", "StageRow"]

STAGES: tuple[Which, ...] = get_args(Which)
READY_S, SHORT_S = 300.0, 5.0
LAST = 5  # number of log lines in the status of a stage that ended


@dataclass(frozen=True)
class StageRow:
    """The status of a stage, the edge or the cloud.

    `state`: ready, starting, unreachable (the stage runs, but does not respond), crashed, absent (not launched), or unknown
    (the query failed, for example because the machine is unreachable). `since`: the time of the start or, after a crash, of the
    end (s since the epoch). `url`: the stage's URL, as seen from this machine.
    """

    stage: Which
    host: str
    runtime: str
    state: str
    url: str = ""
    since: float | None = None
    last: tuple[str, ...] = ()  # the last log lines of an ended stage, or the reason why the stage is not ready


class Deployed:
    """A deployment of edge and cloud, running or stopped. The end of a `with` block closes the connections.

    `deployment` is the plan. `config` is a configuration file that replaces ~/.ssh/config. `report` is called with a line of
    text for each step. `progress` shows a progress bar for uploads.
    """

    def __init__(
        self, deployment: Deployment, config: Path | None = None, report: Report = lambda _: None, progress: bool = False
    ) -> None:
        self.plan, self.report, self.progress = deployment, report, progress
        self.config = config.resolve() if config else None  # the tunnels' process has another working directory
        self.folder = deployment.folder
        self._hosts: dict[str, Host] = {}
        self._stages: dict[Which, Stage] = {}
        self._links = Links(deployment, self.config, lambda: self._host("local"))

    def __enter__(self) -> Deployed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the machines. Stages and tunnels keep running."""
        for host in self._hosts.values():
            host.close()
        self._hosts.clear()
        self._stages.clear()

    # --- launch ------------------------------------------------------------------------------------------------------------

    def launch(self, ready_s: float = READY_S) -> dict[Which, str]:
        """Start both stages and their tunnels, and wait until both stages are ready. Return {stage: URL}.

        The URLs are as seen from this machine. `ready_s` is the time limit (s) for each stage to become ready. If a step fails,
        RemoteError, UsageError or WeightsError is raised, and the stages that this call started are stopped.
        """
        self._check_policy()
        with self._alone():
            for which in STAGES:
                self.stage(which)  # checks the plan before any connection is opened
            self._examine()
            self._certificates()
            before = {which: bool(self._running(which)) for which in STAGES}
            try:
                return self._launched(ready_s)
            except BaseException:
                self._roll_back([which for which in STAGES if not before[which]])
                raise

    def _examine(self) -> None:
        for finding in Doctor(self.plan, self._host, self.close).quick():
            if finding.state == "wrong" and not finding.blocks:
                self.report(f"doctor: {finding.sentence}")
            if finding.blocks:
                raise RemoteError(f"{finding.sentence}. `workbench doctor {self.plan.path.name}` tells more")

    def _launched(self, ready_s: float) -> dict[Which, str]:
        with ThreadPoolExecutor(2) as pool:
            try:
                for done in as_done([pool.submit(self.stage(which).prepare) for which in STAGES]):
                    done.result()
            except BaseException:
                self.close()  # also ends running uploads, which the next launch resumes
                raise
        self.report("cloud: starting")
        state: dict[str, Any] = {"cloud": list(self.stage("cloud").start(""))}
        self._links.join(state)
        self.report("edge: starting")
        state["edge"] = list(self.stage("edge").start(self._links.cloud_seen_by_edge(state)))
        self._links.join(state)
        write_json(self.folder / "state.json", state)
        for which in ("cloud", "edge"):
            self._await_ready(which, ready_s)
        return {which: self.url(which) for which in STAGES}

    def _check_policy(self) -> None:
        policy = self.policy()
        for warning in policy.warnings if policy is not None else ():
            self.report(f"WARNING: {warning}")

    def _certificates(self) -> None:
        if issue_certificates(self.plan):
            self.report("certificates: issued")

    def _roll_back(self, fresh: Sequence[Which]) -> None:
        for which in reversed(fresh):
            with contextlib.suppress(WorkbenchError):
                if self.stage(which).stop():
                    self.report(f"{which}: stopped again")
        if len(fresh) == len(STAGES):
            with contextlib.suppress(WorkbenchError):
                self._links.stop()

    # --- queries -----------------------------------------------------------------------------------------------------------

    def url(self, which: Which) -> str:
        """Return the URL of the stage `which`, as seen from this machine.

        Raises RemoteError if the stage was not launched and has no address in the plan.
        """
        plan = self.plan.stage(which)
        if plan.address:
            return f"https://{plan.address}"
        port = self._state().get(which, [""])[-1] if on_this_machine(plan) else tunnels.ports(self.folder).get(which)
        if not port:
            raise RemoteError(f"the {which} of {self.plan.path.name} is not launched: `workbench launch {self.plan.path.name}`")
        return f"https://127.0.0.1:{port}"

    def examine(self, root: str = "/") -> list[Finding]:
        """Check the machines of both stages for faults that could prevent a launch. Return the findings.

        `root` is the folder on a machine that contains the host's root file system. It is not / if sshd runs in a container.
        """
        return Doctor(self.plan, self._host, self.close, root).full()

    def client(self, **options: Any) -> HttpsClient:
        """Return a client that sends pictures to the edge. `options` are keyword arguments of `HttpsClient`.

        If there is an attestation policy, the client verifies the edge's evidence before it sends a picture.
        """
        from ..client import HttpsClient

        options["policy"] = self.policy(options.get("policy"))
        return HttpsClient(self.url("edge"), certs=self.plan.certs, **options)

    def policy(self, given: Policy | str | Path | None = None) -> Policy | None:
        """Return the client's attestation policy: `given`, else the plan's policy, else None.

        Raises UsageError if a confidential edge has no policy, or if the edge's evidence can never meet the policy.
        """
        return required_policy(self.plan, given)

    def status(self) -> list[StageRow]:
        """Query both stages in parallel, and return the status of each."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self._row, STAGES))

    def logs(self, which: Which, lines: int = 100, follow: bool = False) -> Iterator[str]:
        return self.stage(which).logs(lines, follow)

    def stop(self, purge: bool = False) -> list[str]:
        """Stop both stages and the tunnels. Remove the files and keys of each stage from the stage's machine.

        Return the names of the stages that ran, and "tunnels" if the tunnels were open. With `purge`, also remove the remote
        agent's folder on each machine, and the deployment's folder on this machine.

        If a stage cannot be stopped, for example on an unreachable machine, the other stage and the tunnels are still stopped.
        Then the error is raised, and nothing is purged.
        """
        ran: list[str] = []
        errors: list[WorkbenchError] = []
        with self._alone():
            for which in STAGES:
                try:
                    if self.stage(which).stop():
                        ran.append(which)
                        self.report(f"{which}: stopped")
                except WorkbenchError as error:
                    errors.append(error)
            if self._links.stop():
                ran.append("tunnels")
            (self.folder / "state.json").unlink(missing_ok=True)
            if errors:
                raise errors[0]
            if purge:
                for stage in self._to_purge():
                    stage.purge()
                shutil.rmtree(self.folder)
        return ran

    def _to_purge(self) -> list[ProcessStage]:
        # `purge` removes the whole folder, which both stages may share
        found = {(self.plan.stage(which).host, self.plan.stage(which).folder): self.stage(which) for which in STAGES}
        return [stage for stage in found.values() if isinstance(stage, ProcessStage)]

    def stage(self, which: Which) -> Stage:
        """Return the object that starts and stops the stage `which`.

        Raises UsageError for an unknown stage, and for a cloud in a container, which cannot be launched.
        """
        if which not in STAGES:
            raise UsageError(f"there is no stage {which!r}: choose edge or cloud")
        if which not in self._stages:
            self._stages[which] = self._made(which, self.plan.stage(which))
        return self._stages[which]

    def _made(self, which: Which, plan: StagePlan) -> Stage:
        if which == "cloud" and plan.runtime != "process":
            raise UsageError(
                "[cloud] runtime = 'confidential' is not launched, for it has never run: "
                f"`workbench manifests {self.plan.path.name} cloud` prints its objects"
            )
        host = self._host(plan.host)
        report: Report = lambda line: self.report(f"{which}: {line}")  # noqa: E731
        if plan.runtime == "process":
            return ProcessStage(host, self.plan, which, report, self.progress)
        return ContainerStage(host, self.plan, report)

    def _host(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = host_of(name, config=self.config)
        return self._hosts[name]

    def _state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "state.json").read_text()))
        except (OSError, ValueError):
            return {}

    def _running(self, which: Which) -> bool:
        return bool(self.stage(which).status()["running"])

    def _row(self, which: Which) -> StageRow:
        plan = self.plan.stage(which)
        try:
            found = self.stage(which).status()
        except WorkbenchError as error:
            return StageRow(which, plan.host, plan.runtime, "unknown", last=(str(error),))
        last = tuple(printable(line) for line in found.get("last") or ())[-LAST:]
        if not found["running"]:
            state = "crashed" if "ended" in found else "starting" if found.get("waiting") else "absent"
            return StageRow(which, plan.host, plan.runtime, state, since=_seconds(found.get("ended")), last=last)
        try:
            url = self.url(which)
            state = "ready" if self._ready(which) else "starting"
        except WorkbenchError as error:
            return StageRow(
                which, plan.host, plan.runtime, "unreachable", since=_seconds(found.get("started")), last=(str(error),)
            )
        return StageRow(which, plan.host, plan.runtime, state, url, _seconds(found.get("started")))

    def _ready(self, which: Which) -> bool:
        role: Role = "client" if which == "edge" else "edge"
        trust = urllib.request.HTTPSHandler(context=client_context(self.plan.certs, role, which))
        url = self.url(which)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), trust).open(
                f"{url}/v2/health/ready", timeout=SHORT_S
            ) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(f"{url} cannot be reached ({getattr(error, 'reason', None) or type(error).__name__})") from None

    def _await_ready(self, which: Which, patience: float) -> None:
        self.report(f"{which}: loading")
        deadline, reason = time.monotonic() + patience, "it is loading"
        while time.monotonic() < deadline:
            try:
                if self._ready(which):
                    self.report(f"{which}: ready at {self.url(which)}")
                    return
                reason = "it is not ready: its log says why"
            except ServiceError as error:
                reason = str(error)
            found = self.stage(which).status()
            if not found["running"]:
                last = (found.get("last") or ["it said nothing"])[-1]
                raise RemoteError(f"the {which} ended with status {found.get('status')}: {last}")
            time.sleep(0.2)
        last = next(iter(list(self.stage(which).logs(1, False))[-1:]), "")
        raise RemoteError(
            f"the {which} was not ready in {patience:.0f} s ({reason}){f'; its last line: {last}' if last else ''}"
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder.with_name(f".{self.plan.name}.lock")
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    raise BlockingIOError  # the previous holder of the lock has just removed the file
            except BlockingIOError:
                raise RemoteError(f"another launch or stop of {self.plan.path.name} is under way: wait for it") from None
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
