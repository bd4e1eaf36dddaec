"""Render the Kubernetes objects of a container in which the edge or the cloud runs.

::

    Container --render--> NetworkPolicy, Deployment, Service             [Secret, only with the development runtime]
                          PodDisruptionBudget                            if there can be several replicas
                          HorizontalPodAutoscaler                        if the number of replicas can vary
                          Namespace                                      if the settings create it

A key broker gives the container its TLS certificate and key. Without a broker, a Secret contains them, and the host can read
them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml  # type: ignore[import-untyped]

from ...errors import UsageError
from .guest import CERTS, FILES, USER, VOLUMES, Container, initdata, initdata_digest, is_address, peer_of, port_of

__all__ = [
    "ANNOTATIONS",
    "CLASSES",
    "FILES",
    "Container",
    "initdata",
    "initdata_digest",
    "render",
    "runtime_class",
    "shim_name",
    "to_json",
    "to_yaml",
]

KubernetesObject = dict[str, Any]
CLASSES = {"confidential": "kata-qemu-snp", "development": "kata-qemu-coco-dev"}
VOLUME_SIZES = {"run": "16Mi", "tmp": "256Mi"}
GPU_CLASS = "kata-qemu-nvidia-gpu-snp"
GRACE_S = 45  # time limit for stopping; the edge has 30 s of it to finish accepted requests
START_S = 600  # time limit for loading and warming up the neural networks
INITDATA = "io.katacontainers.config.hypervisor.cc_init_data"
KERNEL = "io.katacontainers.config.hypervisor.kernel_params"
ANNOTATIONS = tuple(name.rpartition(".")[2] for name in (INITDATA, KERNEL))  # the nodes' Kata must allow pods to set these


def shim_name(container: Container) -> str:
    """Return the name of the container's shim in Kata's Helm chart, such as `qemu-snp-runtime-rs`.

    A shim is Kata's runtime for one kind of guest (virtual machine).
    """
    return str(runtime_class(container)).removeprefix("kata-")


def runtime_class(container: Container) -> str:
    name = GPU_CLASS if container.gpu else CLASSES[container.runtime]
    return f"{name}-runtime-rs" if container.shim == "rust" else name


# --- the objects -----------------------------------------------------------------------------------------------------------


def render(container: Container, certificates: Mapping[str, bytes] | None = None) -> list[KubernetesObject]:
    """Return the Kubernetes objects of a container.

    `certificates` maps ca.pem, edge.pem and edge.key to their contents. They are required without a key broker, and forbidden
    with one. Raises UsageError otherwise.
    """
    if container.resource and certificates:
        raise UsageError("certificates of this edge come from its key broker: in a Secret the host could read the TLS key")
    if not container.resource and set(certificates or ()) != set(FILES):
        raise UsageError(f"an edge without a key broker needs certificates: {', '.join(FILES)}")
    made = [_namespace(container)] if container.create_namespace else []
    made += [_secret(container, certificates)] if certificates else []
    made += [_network_policy(container), _deployment(container, certificates), _service(container)]
    if container.replicas_max > 1:
        made += [_disruption_budget(container)]
    if container.replicas_max > container.replicas_min:
        made += [_autoscaler(container)]
    return made


def to_json(manifests: list[KubernetesObject]) -> bytes:
    """Return the objects as JSON for `kubectl apply -f -`, one object on each line.

    A Kubernetes List is avoided, because the API server does not validate its items.
    """
    return b"".join(json.dumps(manifest).encode() + b"\n" for manifest in manifests)


def to_yaml(manifests: list[KubernetesObject]) -> str:
    return str(yaml.safe_dump_all(manifests, sort_keys=False, width=128))


def _object(container: Container, api: str, kind: str, spec: KubernetesObject, name: str = "") -> KubernetesObject:
    metadata = {"name": name or container.name, "namespace": container.namespace, "labels": _labels(container)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(container: Container) -> dict[str, str]:
    return {"app.kubernetes.io/name": f"pmc2-{container.role}", **container.selector}


def _namespace(container: Container) -> KubernetesObject:
    # no labels of the container, so that `delete` keeps the namespace and the other objects in it
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": container.namespace}}


def _secret_name(container: Container) -> str:
    return f"{container.name}-readable-by-the-host"


def _secret(container: Container, certificates: Mapping[str, bytes]) -> KubernetesObject:
    made = _object(container, "v1", "Secret", {}, _secret_name(container))
    del made["spec"]
    warning = "for development: the cluster's operator can read this key"
    made["metadata"]["annotations"] = {"pmc2.workbench/warning": warning}
    return made | {
        "type": "Opaque",
        "data": {name: base64.b64encode(content).decode() for name, content in sorted(certificates.items())},
    }


def _deployment(container: Container, certificates: Mapping[str, bytes] | None) -> KubernetesObject:
    spec: KubernetesObject = {
        "selector": {"matchLabels": container.selector},
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": 2 * START_S,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": _template(container, certificates),
    }
    if container.replicas_max == container.replicas_min:  # else the autoscaler sets the number, and an apply must not reset it
        spec["replicas"] = container.replicas_min
    return _object(container, "apps/v1", "Deployment", spec)


def _template(container: Container, certificates: Mapping[str, bytes] | None) -> KubernetesObject:
    annotations = {INITDATA: _packed(initdata(container)), KERNEL: "agent.guest_components_rest_api=all"}
    spec = _pod(container)
    revision = hashlib.sha256(json.dumps([annotations, spec]).encode() + (certificates or {}).get("edge.pem", b"")).hexdigest()[
        :16
    ]
    labels = _labels(container) | {"pmc2.workbench/revision": revision}
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def _pod(container: Container) -> KubernetesObject:
    volumes: list[KubernetesObject] = [
        {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": VOLUME_SIZES[name]}} for name in VOLUMES.values()
    ]
    if not container.resource:
        volumes.append({"name": "certs", "secret": {"secretName": _secret_name(container), "defaultMode": 0o440}})
    return {
        "runtimeClassName": runtime_class(container),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_edge(container)],
        "volumes": volumes,
    }


def _edge(container: Container) -> KubernetesObject:
    size = {"cpu": container.cpu, "memory": container.memory}
    mounts: list[KubernetesObject] = [{"name": name, "mountPath": path} for path, name in VOLUMES.items()]
    if not container.resource:
        mounts.append({"name": "certs", "mountPath": CERTS, "readOnly": True})
    return {
        "name": container.role,
        "image": container.image,
        "imagePullPolicy": "Always",
        "command": list(container.command),
        "ports": [{"name": "https", "containerPort": container.port, "protocol": "TCP"}],
        "resources": {"requests": size, "limits": size | ({container.gpu: "1"} if container.gpu else {})},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
        **_probes(container),
    }


def _probes(container: Container) -> KubernetesObject:
    # The edge needs HTTP probes, because it opens its port before its networks are loaded. The cloud needs TCP probes, because
    # the kubelet has no client certificate. The guest's policy refuses exec probes.
    if container.role == "cloud":
        asked = {"tcpSocket": {"port": "https"}, "periodSeconds": 10, "timeoutSeconds": 5}
        return {"startupProbe": asked | {"failureThreshold": START_S // 10}, "livenessProbe": asked | {"failureThreshold": 6}}

    def probe(path: str, period: int, failures: int) -> KubernetesObject:
        asked = {"scheme": "HTTPS", "path": f"/v2/health/{path}", "port": "https"}
        return {"httpGet": asked, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}

    return {
        "startupProbe": probe("live", 5, START_S // 5),
        "readinessProbe": probe("ready", 5, 3),
        "livenessProbe": probe("live", 10, 6),
    }


def _service(container: Container) -> KubernetesObject:
    port: KubernetesObject = {"name": "https", "port": container.port, "targetPort": "https", "protocol": "TCP"}
    if container.node_port:
        port["nodePort"] = container.node_port
    kind = "NodePort" if container.node_port else "ClusterIP"
    return _object(container, "v1", "Service", {"type": kind, "selector": container.selector, "ports": [port]})


def _network_policy(container: Container) -> KubernetesObject:
    peers = list(container.peers)
    if container.kbs_url and is_address(urlsplit(container.kbs_url).hostname or ""):
        peers.append(f"{_bracketed(urlsplit(container.kbs_url).hostname or '')}:{port_of(container.kbs_url)}")
    egress = [_rule(each) for each in dict.fromkeys(peers)]
    if _asks_names(container):
        ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
        # Select the namespace by the label that the API server sets. A pod label alone could occur in any namespace.
        system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
        names = {"namespaceSelector": system, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
        egress.append({"to": [names], "ports": ports})
    spec = {
        "podSelector": {"matchLabels": container.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": container.port}]}],
        "egress": egress,
    }
    return _object(container, "networking.k8s.io/v1", "NetworkPolicy", spec)


def _rule(peer: str) -> KubernetesObject:
    network, port = peer_of(peer)
    return {"to": [{"ipBlock": {"cidr": str(network)}}], "ports": [{"protocol": "TCP", "port": port}]}


def _disruption_budget(container: Container) -> KubernetesObject:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": container.selector}}
    return _object(container, "policy/v1", "PodDisruptionBudget", spec)


def _autoscaler(container: Container) -> KubernetesObject:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": container.name}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    spec = {
        "scaleTargetRef": target,
        "minReplicas": container.replicas_min,
        "maxReplicas": container.replicas_max,
        "metrics": [{"type": "Resource", "resource": cpu}],
        # A guest takes minutes to start, and its warm-up uses much CPU. So scale down slowly.
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": START_S}},
    }
    return _object(container, "autoscaling/v2", "HorizontalPodAutoscaler", spec)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _asks_names(container: Container) -> bool:
    first, slash, _ = container.image.partition("/")
    registry = first if slash and ("." in first or ":" in first or first == "localhost") else ""
    by_name = not is_address(registry.rpartition(":")[0] if registry.count(":") == 1 else registry)
    return bool(container.egress) and (by_name or not is_address(urlsplit(container.kbs_url or "//0.0.0.0").hostname or ""))
