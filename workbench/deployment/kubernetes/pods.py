"""Read the state of a container's pods from the cluster's objects: the ready pods, and the faults of the other pods."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .guest import Container

__all__ = ["Pod", "Trouble", "pods_of", "refused", "warned"]

SHOWN = 300  # characters of a message
ENDS = {  # {permanent fault: hint for the remedy}
    "ImagePullBackOff": "can the cluster, or the guest itself, reach the registry (egress), and does it have this digest?",
    "InvalidImageName": "write it as registry.example/pmc2-edge@sha256:...",
    "ErrImageNeverPull": "the cluster pulls no images automatically",
    "CrashLoopBackOff": "",
    "CreateContainerConfigError": "",
}
LASTS = {  # {fault that the cluster may resolve: hint}
    "ErrImagePull": "",
    "CreateContainerError": "the guest's policy may have refused it, or the image may not fit its memory",
    "RunContainerError": "",
}
EVENTS = {  # {fault that only events report: hint}
    "FailedMount": "",
    "FailedCreatePodSandBox": "do the nodes have Kata Containers, and the hardware for this runtime?",
    "FailedScheduling": "",
}
FORBIDDEN = r"annotation \S+ is not enabled"  # error of Kata's Go runtime; the Rust runtime ignores the annotation silently
ALLOW = (
    "the nodes' Kata must allow it: shims.<shim>.allowedHypervisorAnnotations of its chart; `workbench doctor` has the command"
)


@dataclass(frozen=True)
class Pod:
    """A pod. `started` and `ready` describe its container. `address` and `node_address` are IP addresses of pod and node."""

    name: str
    started: bool
    ready: bool
    address: str
    node_address: str


@dataclass(frozen=True)
class Trouble:
    """A fault that prevents a pod from running. `reason` is Kubernetes' name of the fault, and `message` has the details.

    `final`: the cluster cannot resolve the fault without a change by the user. `ended`: the edge's process ended, and its log
    may have the reason. `previous`: the process was restarted, so its log before the restart needs kubectl's option --previous.
    """

    reason: str
    message: str
    pod: str = ""
    final: bool = False
    ended: bool = False
    previous: bool = False

    @property
    def line(self) -> str:
        text = " ".join(self.message.split())[:SHOWN]
        return f"{self.reason}: {text}" if text else self.reason


def pods_of(found: Iterable[Mapping[str, Any]], container: Container) -> tuple[list[Pod], list[Trouble]]:
    """Return the pods of a container, and the faults of these pods. Faults that the cluster cannot resolve come first.

    `found` are the pod objects of the container. Pods that are being deleted are skipped. The messages contain settings of
    `container`.
    """
    pods, troubles = [], []
    for each in found:
        if each["metadata"].get("deletionTimestamp"):
            continue
        status = each.get("status", {})
        inside = status.get("containerStatuses", [])
        pods.append(
            Pod(
                name=each["metadata"]["name"],
                started=any("waiting" not in one.get("state", {"waiting": {}}) for one in inside),
                ready=_condition(status, "Ready").get("status") == "True",
                address=status.get("podIP", ""),
                node_address=status.get("hostIP", ""),
            )
        )
        troubles += _of_scheduling(status, pods[-1].name)
        troubles += [trouble for one in inside for trouble in _of_container(one, pods[-1].name, container)]
    return pods, sorted(troubles, key=lambda trouble: not trouble.final)


def refused(status: Mapping[str, Any], runtime_class: str) -> list[Trouble]:
    """Return a list with the fault that prevents a Deployment from creating pods, or [] if there is none.

    `status` is the status of the Deployment object. `runtime_class` is the name of the pods' runtime class. The message about a
    missing runtime class contains this name.
    """
    failure = _condition(status, "ReplicaFailure")
    if failure.get("status") != "True":
        return []
    message = failure.get("message", "")
    if "RuntimeClass" in message and "not found" in message:
        message = (
            f"the cluster has no runtime class {runtime_class}: install Kata Containers for this hardware, or take another"
        )
    return [Trouble(failure.get("reason", "FailedCreate"), message, final=True)]


def warned(events: Iterable[Mapping[str, Any]], pods: Iterable[Pod]) -> list[Trouble]:
    """Return faults of `pods` that only `events` report, such as a failed mount.

    Only the newest event of each pod counts. Pods with a started container are skipped.
    """
    newest: dict[str, Mapping[str, Any]] = {}
    for event in sorted(events, key=_when):
        newest[event.get("involvedObject", {}).get("name", "")] = event
    reported = {pod.name: newest[pod.name] for pod in pods if pod.name in newest and not pod.started}
    return [
        Trouble(event["reason"], _advised(event.get("message", ""), _advice(event)), name)
        for name, event in reported.items()
        if event.get("reason") in EVENTS
    ]


def _advice(event: Mapping[str, Any]) -> str:
    return ALLOW if re.search(FORBIDDEN, str(event.get("message", ""))) else EVENTS[event["reason"]]


def _when(event: Mapping[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _of_scheduling(status: Mapping[str, Any], pod: str) -> list[Trouble]:
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") != "False":
        return []
    return [Trouble(scheduled.get("reason", "Unschedulable"), scheduled.get("message", ""), pod)]


def _of_container(status: Mapping[str, Any], pod: str, container: Container) -> list[Trouble]:
    if status.get("ready"):
        return []
    state, last = status.get("state", {}), status.get("lastState", {})
    ended = state.get("terminated") or last.get("terminated") or {}
    if ended.get("reason") == "OOMKilled":
        message = f"the edge needs more than memory = {container.memory}, in which its image lies, too"
        return [Trouble("OOMKilled", message, pod, final=True)]
    waiting = state.get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason == "CrashLoopBackOff":
        message = f"the edge ends with exit status {ended.get('exitCode', 'unknown')}, again and again"
        return [Trouble(reason, message, pod, final=True, ended=True, previous=True)]
    if reason in ENDS or reason in LASTS:
        return [Trouble(reason, _advised(message, (ENDS | LASTS)[reason]), pod, final=reason in ENDS)]
    return []


def _advised(message: str, advice: str) -> str:
    return f"{message[: SHOWN - len(advice) - 2].rstrip('. ')}; {advice}" if advice else message


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found: Iterable[Mapping[str, Any]] = status.get("conditions", [])
    return next((each for each in found if each.get("type") == kind), {})
