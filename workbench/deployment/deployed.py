"""A deployment as a whole: both stages up and joined, watched, and taken away again.

::

    launch    certificates -> both: look, send, make an environment -> cloud -> tunnels -> edge -> both ready
    stop      edge, cloud, tunnels; certificates and what was sent stay for the next launch, unless all is purged

Each step leaves what is there as it is, if that is what was asked for: `launch` twice is `launch` once, and one that was cut
short goes on where it was. Where a launch fails, what it started is stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import math
import os
import shutil
import sys
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
from .agent.stage import DRAIN_S
from .credentials import issue_certificates, required_policy
from .doctor import Doctor, Finding
from .plan import Deployment, StagePlan, Which
from .stages import ContainerStage, ProcessStage, RemoteAgent, Stage, Told
from .tunnels import Tunnel

if TYPE_CHECKING:  # torch comes with it: who asks for a state, or a log, need not wait for that
    from ..client import HttpsClient

__all__ = ["Deployed", "StageRow"]

STAGES: tuple[Which, ...] = get_args(Which)
READY_S, JOINED_S, SHORT_S = 300.0, 60.0, 5.0
LAST = 5  # lines of a stage that ended


@dataclass(frozen=True)
class StageRow:
    """What is known of a stage.

    `state`: ready, starting, unreachable (it runs, and nothing answers), crashed or absent; unknown where its machine cannot be
    asked.
    """

    stage: Which
    host: str
    runtime: str
    state: str
    url: str = ""
    since: float | None = None
    last: tuple[str, ...] = ()  # lines that it said before it ended, or why it cannot be asked


class Deployed:
    """A deployment at work, or not yet; `config` is another file than ~/.ssh/config. A context manager.

    `told` is told each step, in a line.
    """

    def __init__(
        self, deployment: Deployment, config: Path | None = None, told: Told = lambda _: None, progress: bool = False
    ) -> None:
        self.plan, self.told, self.progress = deployment, told, progress
        self.config = config.resolve() if config else None  # the tunnels' process has another working folder
        self.folder = deployment.folder
        self._hosts: dict[str, Host] = {}
        self._stages: dict[Which, Stage] = {}

    def __enter__(self) -> Deployed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; stages and tunnels stay."""
        for host in self._hosts.values():
            host.close()
        self._hosts.clear()
        self._stages.clear()

    # --- up ----------------------------------------------------------------------------------------------------------------

    def launch(self, ready_s: float = READY_S) -> dict[Which, str]:
        """Bring both stages up and join them; return their URLs, as one reaches them from here, once both are ready.

        Raises RemoteError, UsageError or WeightsError for what keeps them from it; what this call started is then stopped.
        """
        self._check_policy()
        with self._alone():
            for which in STAGES:
                self.stage(which)  # refuses a plan that is not launched, before any machine is asked
            self._examine()
            self._certificates()
            before = {which: bool(self._running(which)) for which in STAGES}
            try:
                return self._launched(ready_s)
            except BaseException:
                self._roll_back([which for which in STAGES if not before[which]])
                raise

    def _examine(self) -> None:
        """Ask both machines, in the doctor's short form. Raises RemoteError if no launch can succeed, and tells of the rest."""
        for finding in Doctor(self.plan, self._host, self.close).quick():
            if finding.state == "wrong" and not finding.blocks:
                self.told(f"doctor: {finding.sentence}")
            if finding.blocks:
                raise RemoteError(f"{finding.sentence}. `workbench doctor {self.plan.path.name}` tells more")

    def _launched(self, ready_s: float) -> dict[Which, str]:
        with ThreadPoolExecutor(2) as pool:
            try:
                for done in as_done([pool.submit(self.stage(which).prepare) for which in STAGES]):
                    done.result()
            except BaseException:
                self.close()  # what is still being sent, too: the next launch goes on with it
                raise
        self.told("cloud: starting")
        state: dict[str, Any] = {"cloud": list(self.stage("cloud").start(""))}
        self._join(state)
        self.told("edge: starting")
        state["edge"] = list(self.stage("edge").start(self._cloud_seen_by_edge(state)))
        self._join(state)
        write_json(self.folder / "state.json", state)
        for which in ("cloud", "edge"):
            self._await_ready(which, ready_s)
        return {which: self.url(which) for which in STAGES}

    def _check_policy(self) -> None:
        """Read the plan's attestation policy before anything is sent, and report its warnings. Raises UsageError."""
        policy = self.policy()
        for warning in policy.warnings if policy is not None else ():
            self.told(f"WARNING: {warning}")

    def _certificates(self) -> None:
        if issue_certificates(self.plan):
            self.told("certificates: issued")

    def _roll_back(self, fresh: Sequence[Which]) -> None:
        """Stop what a failed launch started; where that fails, too, `stop` will do it."""
        for which in reversed(fresh):
            with contextlib.suppress(WorkbenchError):
                if self.stage(which).stop():
                    self.told(f"{which}: stopped again")
        if len(fresh) == len(STAGES):
            with contextlib.suppress(WorkbenchError):
                self._stop_tunnels()

    # --- joined ------------------------------------------------------------------------------------------------------------

    def _tunnels(self, state: dict[str, Any]) -> list[Tunnel]:
        """Return the tunnels that the stages started so far need."""
        edge, cloud = self.plan.edge, self.plan.cloud
        config = str(self.config) if self.config else None
        wanted: list[Tunnel] = []
        if "cloud" in state and not cloud.local and not cloud.address:
            wanted.append(Tunnel("cloud", "forward", cloud.host, state["cloud"][1], cloud.folder, config=config))
        if "cloud" in state and self._through_here():
            near = state["cloud"][1] if cloud.local else tunnels.ports(self.folder).get("cloud", 0)
            if near:
                wanted.append(Tunnel("cloud-at-edge", "reverse", edge.host, near, edge.folder, config=config))
        if "edge" in state and not edge.address and not self._here(edge):
            target, port = state["edge"]
            wanted.append(Tunnel("edge", "forward", edge.host, port, edge.folder, target, config))
        return wanted

    def _through_here(self) -> bool:
        """Whether the edge reaches the cloud through this machine."""
        edge, cloud = self.plan.edge, self.plan.cloud
        return not cloud.address and not edge.local and edge.host != cloud.host

    def _join(self, state: dict[str, Any]) -> None:
        """Have the tunnels kept up that are needed by now; return once they are there."""
        deadline, asked = time.monotonic() + JOINED_S, list[Tunnel]()
        while wanted := self._tunnels(state):
            if wanted != asked:  # one may lead to the port of another
                tunnels.want(self.folder, wanted)
                self._agent_here()("start", JOINED_S, **self._keeper())
                asked = wanted
            there = tunnels.ports(self.folder)
            missing = [each for each in wanted if each.name not in there]
            if not missing and self._tunnels(state) == wanted:
                return
            if time.monotonic() > deadline:
                reasons = there.get("errors", {})
                told = next((reasons[each.host] for each in missing if each.host in reasons), f"none in {JOINED_S:.0f} s")
                raise RemoteError(f"no tunnel to {missing[0].host}: {told}")
            time.sleep(0.05)

    def _keeper(self) -> dict[str, Any]:
        package = Path(__file__).resolve().parents[2]
        return {
            "name": f"{self.plan.name}-tunnels",
            "port": 0,
            "command": ["-m", f"{__package__}.tunnels", str(self.folder), "{home}/port"],
            "environ": {},
            "environment": {"python": sys.executable, "path": str(package)},
            "files": {},
            "texts": {},
        }

    def _stop_tunnels(self) -> bool:
        (self.folder / "wanted.json").unlink(missing_ok=True)
        (self.folder / "ports.json").unlink(missing_ok=True)
        here, name = self._agent_here(), self._keeper()["name"]
        return here.knows(name) and bool(here("stop", DRAIN_S, name=name))

    def _agent_here(self) -> RemoteAgent:
        return RemoteAgent(self._host("local"), str(self.folder / "here"))

    def _cloud_seen_by_edge(self, state: dict[str, Any]) -> str:
        if self.plan.cloud.address:
            return self.plan.cloud.address
        if self.plan.edge.host == self.plan.cloud.host:
            return f"127.0.0.1:{state['cloud'][1]}"
        return f"127.0.0.1:{tunnels.ports(self.folder)['cloud-at-edge' if self._through_here() else 'cloud']}"

    # --- asked -------------------------------------------------------------------------------------------------------------

    def url(self, which: Which) -> str:
        """Return where a stage is reached from here; RemoteError where it was not launched."""
        plan = self.plan.stage(which)
        if plan.address:
            return f"https://{plan.address}"
        port = self._state().get(which, [""])[-1] if self._here(plan) else tunnels.ports(self.folder).get(which)
        if not port:
            raise RemoteError(f"the {which} of {self.plan.path.name} is not launched: `workbench launch {self.plan.path.name}`")
        return f"https://127.0.0.1:{port}"

    @staticmethod
    def _here(plan: StagePlan) -> bool:
        """Whether a stage listens on this machine itself."""
        return plan.local and plan.runtime == "process"

    def examine(self, root: str = "/") -> list[Finding]:
        """Ask both machines for everything that a launch needs; nothing there is changed. See `doctor.Doctor`."""
        return Doctor(self.plan, self._host, self.close, root).full()

    def client(self, **options: Any) -> HttpsClient:
        """Return a client of the edge; with the plan's policy it sends nothing before the edge's evidence is verified."""
        from ..client import HttpsClient

        options["policy"] = self.policy(options.get("policy"))
        return HttpsClient(self.url("edge"), certs=self.plan.certs, **options)

    def policy(self, given: Policy | str | Path | None = None) -> Policy | None:
        """Return what the edge's evidence must prove; see `trust.required_policy`."""
        return required_policy(self.plan, given)

    def status(self) -> list[StageRow]:
        """Ask both machines, side by side; one that cannot be asked is said so."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self._row, STAGES))

    def logs(self, which: Which, lines: int = 100, follow: bool = False) -> Iterator[str]:
        """Give a stage's log, and with `follow` what is to come."""
        return self.stage(which).logs(lines, follow)

    def stop(self, purge: bool = False) -> list[str]:
        """Take everything away: stages, tunnels, keys; `purge` also what is kept for the next launch. Return what ran.

        Raises RemoteError where a machine cannot be asked; what can be stopped is.
        """
        ran: list[str] = []
        errors: list[WorkbenchError] = []
        with self._alone():
            for which in STAGES:
                try:
                    if self.stage(which).stop():
                        ran.append(which)
                        self.told(f"{which}: stopped")
                except WorkbenchError as error:
                    errors.append(error)
            if self._stop_tunnels():
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
        """Return a stage for each folder that is kept on a plain host."""
        found = {(self.plan.stage(which).host, self.plan.stage(which).folder): self.stage(which) for which in STAGES}
        return [stage for stage in found.values() if isinstance(stage, ProcessStage)]

    def stage(self, which: Which) -> Stage:
        """Return the edge or the cloud where it is planned to be."""
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
        told: Told = lambda line: self.told(f"{which}: {line}")  # noqa: E731
        if plan.runtime == "process":
            return ProcessStage(host, self.plan, which, told, self.progress)
        return ContainerStage(host, self.plan, told)

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
            state = "crashed" if "ended" in found else "absent"
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
        """Ask a stage whether it is ready; ServiceError where it cannot be reached."""
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
        """Return once a stage is ready; RemoteError, with its last line, where it ends or takes too long."""
        self.told(f"{which}: loading")
        deadline, reason = time.monotonic() + patience, "it is loading"
        while time.monotonic() < deadline:
            try:
                if self._ready(which):
                    self.told(f"{which}: ready at {self.url(which)}")
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
        """Let nobody else change this deployment meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder.with_name(f".{self.plan.name}.lock")
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    raise BlockingIOError  # its holder has just removed it
            except BlockingIOError:
                raise RemoteError(f"another launch or stop of {self.plan.path.name} is under way: wait for it") from None
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def _seconds(value: Any) -> float | None:
    """Return a time as a host reports it; None for anything that is no number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
