"""Manage the edge's container on a Kubernetes cluster, by kubectl on a host: apply, wait, read the log, delete.

::

    with host_of(...) as host:
        containers = Containers(host, Container(...))
        containers.apply()
        containers.wait(600, print)
        containers.status(), containers.address()
        containers.delete()

A container can have several replicas, each in a pod and a guest (virtual machine) of its own. This module executes no command
in the container, because the guest's policy refuses such requests. It reads faults from the cluster's own reports.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import RemoteError, UsageError
from ...terminal import printable
from .manifests import Container, render, runtime_class, to_json
from .pods import Pod, Trouble, pods_of, refused, warned

if TYPE_CHECKING:
    from ...remote import Host, Result

__all__ = ["AbsentError", "Containers", "PodState"]

OBJECT_KINDS = ("deployment.apps", "service", "networkpolicy.networking.k8s.io")
SOMETIMES = {  # kinds of objects that only some containers have; `apply` deletes them if they are no longer needed
    "PodDisruptionBudget": "poddisruptionbudget.policy",
    "HorizontalPodAutoscaler": "horizontalpodautoscaler.autoscaling",
    "Secret": "secret",
}
LEFT = ("replicaset.apps", "pod")  # objects that the cluster derives from a Deployment
CALL_S = 30.0  # time limit of a call to the cluster
POD_POLL_S = 2.0  # between two polls of the pods
PATIENCE_S = 20.0  # how long a fault may last if the cluster often resolves it, such as a volume that does not exist yet
LAST, LAST_S = 5, 10.0  # number of log lines in the error about a failed edge, and the time limit for reading them
SHOWN = 400  # characters of kubectl's output in an error
ADVICE = (
    (r"context .*does not exist", "name one that its kubeconfig has"),
    (r"[Ff]orbidden", "have that right granted, or use another context"),
    (r"[Uu]nauthorized|must be logged in|provide credentials", "log in to the cluster there, or renew the credentials"),
    (r'namespaces? "[^"]*" not found', "create it, or let the workbench (create_namespace)"),
    (r"x509|tls:|certificate", "the cluster's certificate is not the one that the kubeconfig trusts"),
    (
        r"refused|no such host|[Uu]nable to connect|timeout|deadline exceeded|no route|EOF|no configuration",
        "is the cluster up, and is it the one that the kubeconfig there names?",
    ),
)


class AbsentError(RemoteError):
    """Raised if the container does not exist on the cluster."""


@dataclass(frozen=True)
class PodState:
    """The state of a container. `wanted` and `ready` count replicas. `trouble` is the text of the first fault, or ""."""

    wanted: int
    ready: int
    pods: tuple[Pod, ...]
    trouble: str = ""


@dataclass(frozen=True)
class Containers:
    """One container with its replicas on a cluster, managed by kubectl on `host`.

    `kubectl` is the command's name or path. `context` and `kubeconfig` are its options, or "" for kubectl's defaults. Every
    method raises RemoteError, with a one-line message, if kubectl or the cluster fails.
    """

    host: Host
    container: Container
    kubectl: str = "kubectl"
    context: str = ""
    kubeconfig: str = ""

    def apply(self, certificates: Mapping[str, bytes] | None = None) -> None:
        """Create or update the container's Kubernetes objects, and delete objects that the settings no longer require.

        A second call changes nothing. Manual edits are reverted, but the autoscaler keeps its number of replicas.

        `certificates` maps ca.pem, edge.pem and edge.key to their contents. They are required if the edge has no key broker.
        With a key broker, the broker gives them to the edge, and `certificates` must be None.
        """
        manifests = render(self.container, certificates)
        arguments = ("apply", "--server-side", "--force-conflicts", "--field-manager=pmc2-workbench", "--filename=-")
        self._call(*arguments, input=to_json(manifests), timeout=4 * CALL_S)
        there = {manifest["kind"] for manifest in manifests}
        gone = [name for kind, name in SOMETIMES.items() if kind not in there and (kind != "Secret" or self._may_have_secret)]
        if gone:
            self._call("delete", ",".join(gone), self._selector, "--ignore-not-found", "--wait=false")

    def wait(self, timeout: float = 600.0, report: Callable[[str], None] = lambda _: None) -> None:
        """Wait until all replicas are ready. `report` is called with a line whenever the state changes.

        Raises RemoteError, with the reason, if a replica fails, or if not all replicas are ready after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        since: dict[str, float] = {}  # the time at which each fault began, by its reason
        said = ""
        while True:
            state, troubles = self._look()
            for trouble in troubles:
                begun = since.setdefault(trouble.reason, time.monotonic())
                if trouble.final or time.monotonic() - begun > PATIENCE_S:
                    raise RemoteError(self._failed(trouble))
            since = {trouble.reason: since[trouble.reason] for trouble in troubles}
            line = f"{self.container.name}: {state.ready} of {state.wanted} ready" + (
                f" ({state.trouble})" if state.trouble else ""
            )
            if line != said:
                report(said := line)
            left = deadline - time.monotonic()
            if left <= 0:
                raise RemoteError(f"{self._name} does not serve after {timeout:g} s: {self._why(state)}")
            if self._rolled_out(min(POD_POLL_S, left)):
                report(f"{self.container.name}: all replicas serve")
                return

    def status(self) -> PodState:
        return self._look()[0]

    def logs(self, follow: bool = False, lines: int = 200) -> Iterator[str]:
        """Yield the last `lines` lines of each replica's log. With `follow`, also yield new lines until the iterator is closed.

        Raises UsageError if the guest's policy does not let the host read the log. The setting `logs = true` allows it.
        """
        if not self.container.readable:
            raise UsageError(f"{self._name}: its policy keeps what it says in the guest; logs = true lets the host read it")
        several = ("--prefix",) if self.container.replicas_max > 1 else ()
        most = f"--max-log-requests={2 * self.container.replicas_max + 1}"
        command = self._command("logs", self._selector, f"--tail={lines}", most, *several, *(("--follow",) if follow else ()))
        for line in self.host.stream(command, timeout=None if follow else CALL_S):
            yield line.decode("utf-8", "replace").rstrip("\r\n")

    def address(self) -> tuple[str, int]:
        """Return the edge's IP address and port.

        With a node port, return the address of a cluster node. Otherwise return the address of a pod, which is reachable from
        `self.host` but usually not from this machine. Raises RemoteError if no pod is ready.
        """
        state = self.status()
        pod = next((pod for pod in state.pods if pod.ready and pod.address), None)
        if pod is None:
            raise RemoteError(f"{self._name} has no pod that is ready: {state.trouble or 'wait for it'}")
        return (pod.node_address, self.container.node_port) if self.container.node_port else (pod.address, self.container.port)

    def delete(self, wait: float = 120.0) -> None:
        """Delete all Kubernetes objects of the container, and wait until the cluster has removed them.

        Raises RemoteError if objects remain after `wait` seconds. The namespace stays, since it may hold other objects.
        """
        deadline = time.monotonic() + wait
        arguments = ("--ignore-not-found", "--cascade=foreground", f"--timeout={max(1, round(wait))}s")
        self._call("delete", ",".join(self._kinds), self._selector, *arguments, timeout=wait + CALL_S, patient=True)
        while left := self._call("get", ",".join((*self._kinds, *LEFT)), self._selector, "--output=name").split():
            if time.monotonic() > deadline:
                raise RemoteError(f"{self._name} is not gone after {wait:g} s: {b', '.join(left).decode()[:SHOWN]} stays")
            time.sleep(0.2)

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Run kubectl with `arguments`, and return the JSON object that it prints, or {} if it prints nothing.

        kubectl writes no cache on the host. Raises RemoteError if kubectl fails or prints no JSON object.
        """
        answer = self._call(*arguments, "--output=json", "--cache-dir=/dev/null")
        try:
            found = json.loads(answer) if answer.strip() else {}
            return dict(found)
        except (ValueError, TypeError):
            raise RemoteError(f"{self.kubectl} on {self.host.name} answered no JSON to `{shlex.join(arguments)}`") from None

    # --- the cluster's reports -----------------------------------------------------------------------------------------------

    def _look(self) -> tuple[PodState, list[Trouble]]:
        found = self._json("get", "deployment.apps,pod", self._selector)
        deployment = next((each for each in found if each["kind"] == "Deployment"), None)
        if deployment is None:
            raise AbsentError(f"there is no {self._name}: launch it first")
        status, spec = deployment.get("status", {}), deployment["spec"]
        seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        revision = spec["template"]["metadata"]["labels"].get("pmc2.workbench/revision")
        newest = [each for each in found if each["metadata"]["labels"].get("pmc2.workbench/revision") == revision]
        pods, troubles = pods_of([each for each in newest if each["kind"] == "Pod"], self.container)
        troubles += refused(status, runtime_class(self.container)) if seen else []
        if pods and not troubles and not all(pod.ready for pod in pods):
            troubles += warned(self._events(), pods)
        ready = status.get("readyReplicas", 0) if seen else 0
        line = troubles[0].line if troubles else ""
        return PodState(spec.get("replicas", 1), ready, tuple(pods), line), troubles

    def _events(self) -> list[dict[str, Any]]:
        with contextlib.suppress(RemoteError):
            return self._json("get", "event", "--field-selector=involvedObject.kind=Pod")
        return []

    def _rolled_out(self, seconds: float) -> bool:
        what = f"deployment.apps/{self.container.name}"
        result = self._run("rollout", "status", what, f"--timeout={max(0.1, seconds):.1f}s", timeout=seconds + CALL_S)
        if result.status and not re.search(rb"timed out|exceeded its progress deadline", result.err):
            raise self._refusal(result)
        return result.status == 0

    def _failed(self, trouble: Trouble) -> str:
        line = f"{self._name} does not serve: {trouble.line}"
        if not trouble.ended:
            return line
        if not self.container.readable:
            return f"{line}; what it said stays in the guest (logs = true lets the host read it)"
        last = self._last_lines(trouble)
        return f"{line}; its last lines: {' | '.join(last)[-SHOWN:]}" if last else line

    def _why(self, state: PodState) -> str:
        if any(pod.started and not pod.ready for pod in state.pods):
            cloud = self.container.cloud
            return f"{state.ready} of {state.wanted} are ready; an edge runs that is not: does it reach the cloud at {cloud}?"
        return (
            state.trouble or f"{state.ready} of {state.wanted} are ready; no reason is given, its guest may still be starting"
        )

    def _last_lines(self, trouble: Trouble) -> list[str]:
        previous = ("--previous",) if trouble.previous else ()
        with contextlib.suppress(RemoteError):
            result = self._run("logs", trouble.pod, f"--tail={LAST}", *previous, timeout=LAST_S)
            return [line for line in _text(result.out).splitlines() if line.strip()] if result.status == 0 else []
        return []

    # --- kubectl -------------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"{self.container.name} in namespace {self.container.namespace} on {self.host.name}"

    @property
    def _selector(self) -> str:
        return "--selector=" + ",".join(f"{name}={value}" for name, value in self.container.selector.items())

    @property
    def _may_have_secret(self) -> bool:
        # kubectl needs rights for Secrets only if the container may have one
        return self.container.runtime == "development"

    @property
    def _kinds(self) -> list[str]:
        often = [name for kind, name in SOMETIMES.items() if kind != "Secret" or self._may_have_secret]
        return [*OBJECT_KINDS, *often]

    def _command(self, *arguments: str) -> list[str]:
        options = {"--kubeconfig": self.kubeconfig, "--context": self.context, "--namespace": self.container.namespace}
        return [self.kubectl, *(f"{name}={value}" for name, value in options.items() if value), *arguments]

    def _run(self, *arguments: str, input: bytes = b"", timeout: float = CALL_S) -> Result:
        return self.host.run(self._command(*arguments), input=input, timeout=timeout)

    def _call(self, *arguments: str, input: bytes = b"", timeout: float = CALL_S, patient: bool = False) -> bytes:
        result = self._run(*arguments, input=input, timeout=timeout)
        if result.status and not (patient and b"timed out" in result.err):
            raise self._refusal(result)
        return result.out

    def _json(self, *arguments: str) -> list[dict[str, Any]]:
        try:
            found = json.loads(self._call(*arguments, "--output=json"))
            return list(found["items"])
        except (ValueError, KeyError, TypeError):
            raise RemoteError(f"{self.kubectl} on {self.host.name} answered no JSON to `{shlex.join(arguments)}`") from None

    def _refusal(self, result: Result) -> RemoteError:
        if result.status in (126, 127):
            return RemoteError(
                f"there is no {self.kubectl!r} to run on {self.host.name}: install kubectl there, or name its path"
            )
        lines = [line for line in _text(result.err or result.out).splitlines() if line.strip()]
        line = lines[-1].strip()[:SHOWN] if lines else f"exit status {result.status}"
        advice = next((advice for pattern, advice in ADVICE if re.search(pattern, line)), "")
        return RemoteError(f"kubectl on {self.host.name}: {line}" + (f"; {advice}" if advice else ""))


def _text(output: bytes) -> str:
    return printable(output.decode("utf-8", "replace"), keep="\n")
