"""Check the Kubernetes cluster for a stage's container: runtime class, nodes, namespace and ports.

The checks run kubectl on a host, and read the objects of the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ...errors import RemoteError
from ..kubernetes.containers import Containers
from ..kubernetes.guest import Container
from ..kubernetes.manifests import runtime_class
from .charts import chart_findings, installing
from .findings import Finding, ok, unknown, version_of, wrong
from .guests import kernel_finding

__all__ = ["ClusterFacts", "cluster_findings", "facts_of_cluster", "own_node"]

Object = Mapping[str, Any]
KUBERNETES, CONTAINERD = (1, 28), (1, 7)
SNP_LABEL, WORKER = "amd.feature.node.kubernetes.io/snp", "node.kubernetes.io/worker"
UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9, "m": 1e-3}


@dataclass(frozen=True)
class ClusterFacts:
    """The results of the queries to a cluster.

    `answers` is {query: returned Kubernetes objects}. `errors` is {query: error message} for failed queries.
    """

    answers: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


def facts_of_cluster(containers: Containers, short: bool = False) -> ClusterFacts:
    """Query the cluster through kubectl. With `short`, query only runtime classes, nodes and DaemonSets."""
    namespace = containers.container.namespace
    questions = {
        "classes": ("get", "runtimeclass"),
        "nodes": ("get", "node"),
        "daemons": ("get", "daemonset.apps", "--all-namespaces"),
    }
    if not short:
        questions["version"] = ("version",)
        questions["namespaces"] = ("get", "namespace", namespace, "--ignore-not-found")
    if not short and containers.container.node_port:
        questions["services"] = ("get", "service", "--all-namespaces")
    answers: dict[str, Sequence[Object]] = {}
    errors: dict[str, str] = {}

    def ask(name: str) -> None:
        try:
            found = containers.ask(*questions[name])
            answers[name] = found.get("items", [found] if found else [])
        except RemoteError as error:
            errors[name] = str(error)

    with ThreadPoolExecutor(3) as pool:
        for asked in [pool.submit(ask, name) for name in questions]:
            asked.result()
    return ClusterFacts(answers, errors)


def cluster_findings(machine: str, container: Container, facts: ClusterFacts, create_namespace: bool) -> list[Finding]:
    if not facts.answers and not all("orbidden" in error for error in facts.errors.values()):
        error = next(iter(facts.errors.values()), "kubectl answers nothing")
        text = error.removeprefix(f"kubectl on {machine}: ")
        return [wrong(machine, "cluster", f"has no cluster that answers ({text})", "`kubectl version` there", blocks=True)]
    findings: list[Finding] = []
    checks: dict[str, Callable[[Sequence[Object]], Iterable[Finding]]] = {
        "version": lambda found: [_version(machine, found)],
        "classes": lambda found: [_class(machine, container, found, facts.answers.get("daemons", ()))],
        "nodes": lambda found: _nodes(machine, container, facts.answers.get("classes", ()), found),
        "daemons": lambda found: chart_findings(machine, container, found) if _has_class(container, facts) else [],
        "namespaces": lambda found: [_namespace(machine, container, found, create_namespace)],
        "services": lambda found: [_node_port(machine, container, found)],
    }
    for name, check in checks.items():
        if name in facts.answers:
            findings += check(facts.answers[name])
        elif name in facts.errors:
            findings.append(unknown(machine, name, f"does not tell its {name} ({facts.errors[name]})"))
    return findings


def own_node(facts: ClusterFacts, boot: str) -> Object | None:
    """Return the cluster node that is also the host on which kubectl runs, or None if this host is no node.

    `boot` is the boot ID of the host. A node is the host if it has the same boot ID.
    """
    nodes = facts.answers.get("nodes", ())
    return next((node for node in nodes if boot and node.get("status", {}).get("nodeInfo", {}).get("bootID") == boot), None)


# --- the checks ------------------------------------------------------------------------------------------------------------


def _version(machine: str, found: Sequence[Object]) -> Finding:
    version = str(found[0].get("serverVersion", {}).get("gitVersion", "")) if found else ""
    if not version_of(version):
        return unknown(machine, "Kubernetes", "does not tell the version of its cluster", "`kubectl version` there")
    if version_of(version) < KUBERNETES:
        least = ".".join(map(str, KUBERNETES))
        way = "`sudo kubeadm upgrade plan` there tells the way up"
        return wrong(machine, "Kubernetes", f"has Kubernetes {version}, and the objects are of {least} or later", way)
    return ok(machine, "Kubernetes", f"has Kubernetes {version}")


def _has_class(container: Container, facts: ClusterFacts) -> bool:
    classes = facts.answers.get("classes")
    return classes is None or any(each["metadata"]["name"] == runtime_class(container) for each in classes)


def _class(machine: str, container: Container, found: Sequence[Object], daemons: Sequence[Object]) -> Finding:
    name = runtime_class(container)
    classes = {each["metadata"]["name"]: each for each in found}
    if name in classes:
        version = classes[name]["metadata"].get("annotations", {}).get("katacontainers.io/kata-version", "")
        return ok(machine, "runtime class", f"has the runtime class {name}{f' of Kata {version}' if version else ''}")
    other = name.removesuffix("-runtime-rs") if container.shim == "rust" else f"{name}-runtime-rs"
    if other in classes:
        way = f'set [{container.role}.container] shim = "{"go" if container.shim == "rust" else "rust"}" in the plan'
        return wrong(machine, "runtime class", f"has no runtime class {name}, but {other}", way, blocks=True)
    way = f"{installing(container, daemons)}, then wait until `kubectl get runtimeclass` shows it"
    return wrong(machine, "runtime class", f"has no runtime class {name}", way, blocks=True)


def _nodes(machine: str, container: Container, classes: Sequence[Object], nodes: Sequence[Object]) -> list[Finding]:
    chosen = next((each for each in classes if each["metadata"]["name"] == runtime_class(container)), {})
    wanted: Mapping[str, str] = chosen.get("scheduling", {}).get("nodeSelector", {}) or {}
    usable = [node for node in nodes if _is_ready(node)]
    if not usable:
        return [wrong(machine, "nodes", "has no node that is ready", "`kubectl describe nodes` there tells why")]
    fit = [node for node in usable if wanted.items() <= node["metadata"].get("labels", {}).items()]
    if not fit:
        return [_unlabelled(machine, wanted, usable)]
    roomy = [node for node in fit if not _lacks(container, chosen, node)]
    names = ", ".join(node["metadata"]["name"] for node in fit)
    findings = [ok(machine, "nodes", f"has nodes for it: {names}")]
    if roomy:
        findings.append(ok(machine, "room", f"has room for {container.memory} and {container.cpu} cores"))
    else:
        way = f"choose a smaller [{container.role}.container] memory or cpu, or add a node"
        findings.append(wrong(machine, "room", f"has no node with room: {_lacks(container, chosen, fit[0])}", way))
    findings += [_containerd(machine, node) for node in fit]
    if container.runtime == "confidential":
        findings += [_kernel(machine, node) for node in fit]
    return list(dict.fromkeys(findings))


def _is_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    return ready and not node.get("spec", {}).get("unschedulable")


def _unlabelled(machine: str, wanted: Mapping[str, str], nodes: Sequence[Object]) -> Finding:
    name = nodes[0]["metadata"]["name"]
    have = nodes[0]["metadata"].get("labels", {})
    missing = [f"{key}={value}" for key, value in wanted.items() if have.get(key) != value]
    if any(each.startswith(SNP_LABEL) for each in missing):
        way = f"`sudo snphost ok` on {name}; the label is node-feature-discovery's, which sees no SEV-SNP there"
    elif not any(WORKER in node["metadata"].get("labels", {}) for node in nodes):
        way = f"`kubectl label node {name} {WORKER}=`, then wait until the chart's pods (`kubectl get pods -A`) are ready"
    else:
        way = "wait until the chart's pods are ready (`kubectl get pods -A | grep kata`): they set it"
    return wrong(machine, "nodes", f"has no node with the label {', '.join(missing)} of the runtime class", way)


def _lacks(container: Container, chosen: Object, node: Object) -> str:
    have: Mapping[str, str] = node.get("status", {}).get("allocatable", {})
    extra: Mapping[str, str] = chosen.get("overhead", {}).get("podFixed", {}) or {}
    need = {"memory": container.memory, "cpu": container.cpu} | ({container.gpu: "1"} if container.gpu else {})
    for name in dict.fromkeys((*need, *extra)):
        wanted = _quantity(need.get(name, "0")) + _quantity(extra.get(name, "0"))
        if _quantity(have.get(name, "0")) < wanted:
            more = f" and {extra[name]} of the guest's own" if name in extra and name in need else ""
            name_of, wanted_of = node["metadata"]["name"], need.get(name) or extra[name]
            return f"{name_of} has {have.get(name, 'no')} {name}, needed are {wanted_of}{more}"
    return ""


def _quantity(text: str) -> float:
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    return float(found[1]) * UNITS.get(found[2], 0) if found else 0.0


def _containerd(machine: str, node: Object) -> Finding:
    kind, _, version = str(node.get("status", {}).get("nodeInfo", {}).get("containerRuntimeVersion", "")).partition("://")
    name, least = node["metadata"]["name"], ".".join(map(str, CONTAINERD))
    way = f"install containerd 2.3 on {name} (docs/deployment.md)"
    if kind != "containerd":
        return wrong(
            machine, "containerd", f"has {kind or 'an unknown runtime'} on {name}, and the charts are for containerd", way
        )
    if version_of(version) < CONTAINERD:
        return wrong(machine, "containerd", f"has containerd {version} on {name}, and the charts need {least} or later", way)
    return ok(machine, "containerd", f"has containerd {version} on {name}")


def _kernel(machine: str, node: Object) -> Finding:
    found = kernel_finding(machine, str(node.get("status", {}).get("nodeInfo", {}).get("kernelVersion", "")))
    name = node["metadata"]["name"]
    return Finding(machine, "node kernel", found.state, f"{found.text} on {name}", found.mend)


def _namespace(machine: str, container: Container, found: Sequence[Object], create: bool) -> Finding:
    if found or create:
        return ok(machine, "namespace", f"has the namespace {container.namespace}{'' if found else ', once it is created'}")
    way = f"`kubectl create namespace {container.namespace}` there, or set create_namespace = true"
    return wrong(machine, "namespace", f"has no namespace {container.namespace}", way)


def _node_port(machine: str, container: Container, services: Sequence[Object]) -> Finding:
    for service in services:
        ports = service.get("spec", {}).get("ports", [])
        own = container.selector.items() <= service["metadata"].get("labels", {}).items()
        if not own and any(port.get("nodePort") == container.node_port for port in ports):
            name = f"{service['metadata'].get('namespace', '')}/{service['metadata']['name']}"
            way = f"choose another [{container.role}.container] node_port"
            return wrong(machine, "node port", f"has node port {container.node_port} taken by the service {name}", way)
    return ok(machine, "node port", f"has node port {container.node_port} free")
