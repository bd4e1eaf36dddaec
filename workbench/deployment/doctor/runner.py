"""Run all checks on the machines of a plan, in parallel. A finding is the result of one check.

::

    shell facts (POSIX sh, one command) -> inventory (Python, on standard input) and kubectl -> findings

The shell facts are the output of a shell script on the machine. The inventory is the output of a Python program there.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ...errors import RemoteError
from ...remote import Host
from .. import agent
from ..kubernetes.containers import Containers
from ..kubernetes.guest import Container, port_of
from ..kubernetes.manifests import shim_name
from ..plan import Deployment, StagePlan, Which
from .charts import annotation_findings
from .clusters import ClusterFacts, cluster_findings, facts_of_cluster, own_node
from .findings import Finding, ok, unknown, version_of
from .guests import node_findings
from .hosts import OLDEST, SHELL, facts_of, host_findings, shell_findings, system_of
from .network import forwarding_finding, network_findings, reachable_from_here

__all__ = ["Doctor"]

SHELL_S, INVENTORY_S = 30.0, 60.0
BROKEN = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # exceptions for output in an unexpected format


@dataclass(frozen=True)
class _Target:
    host: Host
    which: Which
    stage: StagePlan
    container: Container | None

    @property
    def machine(self) -> str:
        return self.host.name


class Doctor:
    """Checks the machines of a plan. `host(name)` returns the machine with this name, and `close()` closes all connections.

    `root` is the folder on a machine that contains the host's root file system. It is not / if sshd runs in a container. A
    relative `root` is relative to the user's home folder on the machine.
    """

    def __init__(self, plan: Deployment, host: Callable[[str], Host], close: Callable[[], None], root: str = "/") -> None:
        self.plan, self.root = plan, root
        self._host, self._close = host, close

    def quick(self) -> list[Finding]:
        """Run the short checks before a launch, and return the findings. Raises RemoteError for an unreachable machine."""
        return self._each(self._quick)

    def full(self) -> list[Finding]:
        """Run all checks, and return the findings. An unreachable machine is a finding, too."""
        return self._each(self._full)

    def _each(self, examine: Callable[[_Target], list[Finding]]) -> list[Finding]:
        targets = [self._target(which) for which in get_args(Which)]
        with ThreadPoolExecutor(len(targets)) as pool:
            futures = [pool.submit(examine, target) for target in targets]
            try:
                found = [finding for future in futures for finding in future.result()]
            except BaseException:
                self._close()  # also ends running checks
                raise
        faults = {(each.machine, each.check) for each in found if each.state != "ok"}
        return [each for each in dict.fromkeys(found) if each.state != "ok" or (each.machine, each.check) not in faults]

    def _target(self, which: Which) -> _Target:
        stage = self.plan.stage(which)
        container: Container | None = None
        if stage.runtime != "process":
            container = self.plan.container() if which == "edge" else self.plan.cloud_container()
        return _Target(self._host(stage.host), which, stage, container)

    # --- one machine -------------------------------------------------------------------------------------------------------

    def _quick(self, target: _Target) -> list[Finding]:
        facts, skew = self._shell(target)
        findings = shell_findings(target.machine, facts, target.stage, skew)
        if target.container is not None:
            cluster = facts_of_cluster(self._containers(target, target.container), short=True)
            inventory = self._inventory(target, facts, short=True) if own_node(cluster, facts.get("boot", "")) else None
            findings += self._of_cluster(target, target.container, cluster, (inventory or {}).get("annotations", {}))
        return findings

    def _full(self, target: _Target) -> list[Finding]:
        machine = target.machine
        try:
            facts, skew = self._shell(target)
            findings = [ok(machine, "reach", "is reached"), *shell_findings(machine, facts, target.stage, skew)]
            inventory = self._inventory(target, facts)
            cluster = ClusterFacts()
            if target.container is not None:
                cluster = facts_of_cluster(self._containers(target, target.container))
            with _guarded(machine, findings):
                findings += self._of_machine(target, facts, inventory, cluster)
            if target.container is not None:
                configured = (inventory or {}).get("annotations", {}) if own_node(cluster, facts.get("boot", "")) else {}
                findings += self._of_cluster(target, target.container, cluster, configured)
            findings += self._of_ways(target, facts, inventory)
        except RemoteError as error:
            text = re.sub(rf"^{re.escape(machine)}:? ", "", str(error))
            return [Finding(machine, "reach", "unreachable", f"is not reached: {text}", blocks=True)]
        return _without_doubles(findings)

    def _shell(self, target: _Target) -> tuple[dict[str, str], float | None]:
        folder = target.stage.folder.removeprefix("~").removeprefix("/" if target.stage.folder[0] == "~" else "") or "."
        begun = time.time()
        result = target.host.run(["sh", "-s", self.root, folder], input=SHELL.encode(), timeout=SHELL_S)
        ended = time.time()
        facts = facts_of(result.out)
        now = facts.get("now", "")
        if not now.isdigit():
            return facts, None
        ahead, behind = float(now) + 1 - begun, float(now) - ended  # bounds of the skew: `now` has whole seconds
        return facts, 0.0 if behind <= 0 <= ahead else min(ahead, behind, key=abs)

    def _inventory(self, target: _Target, facts: Mapping[str, str], short: bool = False) -> dict[str, Any] | None:
        if version_of(facts.get("python", "")) < OLDEST:
            return None
        program = Path(agent.__file__).with_name("inventory.py").read_bytes()
        command = ["python3", "-I", "-B", "-", json.dumps(self._request(target) | {"short": short})]
        result = target.host.run(command, input=program, timeout=INVENTORY_S)
        lines = result.out.splitlines()
        try:
            return dict(json.loads(lines[-1]))
        except (IndexError, TypeError, ValueError):
            return None

    def _request(self, target: _Target) -> dict[str, Any]:
        container, stage = target.container, target.stage
        cloud = self.plan.cloud.address.rpartition(":")
        asked: dict[str, Any] = {"root": self.root, "folder": stage.folder, "python": stage.python}
        asked["reach"] = [[cloud[0].strip("[]"), int(cloud[2])]] if target.which == "edge" and cloud[2] else []
        asked["broker"] = container.kbs_url if container and port_of(container.kbs_url) else ""
        asked["broker_cert"] = container.kbs_cert if container else ""
        asked["image"] = container.image if container else ""
        asked["shims"] = [shim_name(container)] if container else []
        return asked

    def _containers(self, target: _Target, container: Container) -> Containers:
        settings = target.stage.container
        return Containers(target.host, container, settings.kubectl, settings.context, settings.kubeconfig)

    # --- findings ----------------------------------------------------------------------------------------------------------

    def _of_machine(
        self, target: _Target, facts: Mapping[str, str], inventory: dict[str, Any] | None, cluster: ClusterFacts
    ) -> list[Finding]:
        machine, container = target.machine, target.container
        findings: list[Finding] = []
        if container is None and inventory is not None:
            name = f"{self.plan.name}-{target.which}"
            return host_findings(machine, target.which, target.stage, name, facts, inventory)
        if container is None:
            findings = [ok(machine, "kernel", f"has {system_of(facts)}")]
        elif not cluster.answers.get("nodes") or own_node(cluster, facts.get("boot", "")) is not None:
            findings = node_findings(machine, container, facts, inventory)  # else the cluster reports on its nodes
        if inventory is None:
            findings.append(unknown(machine, "inventory", "tells no more of itself without a Python", "install python3 there"))
        return findings

    def _of_cluster(
        self, target: _Target, container: Container, cluster: ClusterFacts, configured: Mapping[str, Any]
    ) -> list[Finding]:
        findings: list[Finding] = []
        with _guarded(target.machine, findings):
            create = target.stage.container.create_namespace
            findings += cluster_findings(target.machine, container, cluster, create)
            if cluster.answers:
                daemons = cluster.answers.get("daemons", ())
                findings += annotation_findings(target.machine, container, daemons, configured)
        return findings

    def _of_ways(self, target: _Target, facts: Mapping[str, str], inventory: dict[str, Any] | None) -> list[Finding]:
        findings: list[Finding] = []
        with _guarded(target.machine, findings):
            if inventory is not None:
                findings += network_findings(target.machine, target.which, target.container, inventory)
            if not target.stage.local and not target.stage.address:
                back = target.which == "edge" and not self.plan.cloud.address and self.plan.cloud.host != target.stage.host
                findings.append(forwarding_finding(target.host, facts.get("ssh", ""), back))
            elif target.which == "edge" and target.stage.address:
                findings.append(reachable_from_here(target.machine, target.which, target.stage.address))
        return findings


@contextlib.contextmanager
def _guarded(machine: str, findings: list[Finding]) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        findings.append(unknown(machine, "answers", f"answers in an unexpected form ({type(error).__name__})"))


def _without_doubles(findings: list[Finding]) -> list[Finding]:
    # the shell script and the inventory both check the disk: keep only the later finding
    last = {(each.machine, each.check): each for each in findings if each.check == "disk"}
    return [each for each in findings if each.check != "disk" or last[each.machine, each.check] is each]
