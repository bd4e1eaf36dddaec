"""The state of a small Kubernetes cluster, and the progress of a Deployment on it.

`api_server.py` serves it to the real kubectl.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]


class Cluster:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.changes: list[tuple[int, str, str, Object]] = []  # version, ADDED | MODIFIED | DELETED, plural, object
        self.requests: list[tuple[str, str]] = []  # verb, plural
        self.forbidden: set[tuple[str, str]] = set()
        self.logs: dict[str, list[str]] = {"now": ["it serves"], "previous": []}
        self.scenario: Callable[[Cluster, Object], None] = comes_up
        self.delay = 0.1  # of every slow step of a cluster
        self.proceeds = threading.Event()  # slow steps wait for it
        self.proceeds.set()
        self.holds = False  # deleted pods stay
        self.changed = threading.Condition(threading.RLock())
        self.closed = False
        self.release = "v1.37.0"
        self._version = 0
        self._timers: list[threading.Timer] = []
        self.put("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.proceeds.set()
            self.changed.notify_all()
            timers = list(self._timers)
        for timer in timers:
            timer.cancel()
            timer.join()

    def later(self, act: Callable[[], None]) -> None:
        def step() -> None:
            self.proceeds.wait(60)
            if not self.closed:
                act()

        timer = threading.Timer(self.delay, step)
        timer.daemon = True
        with self.changed:
            if not self.closed:
                self._timers.append(timer)
                timer.start()

    @property
    def version(self) -> int:
        return self._version

    def names(self, plural: str) -> list[str]:
        with self.changed:
            return sorted(name for kind, _, name in self.objects if kind == plural)

    def get(self, plural: str, name: str, namespace: str = "default") -> Object:
        with self.changed:
            return copy.deepcopy(self.objects[plural, "" if plural == "namespaces" else namespace, name])

    def put(self, plural: str, made: Object) -> Object:
        with self.changed:
            metadata = made["metadata"]
            key = (plural, metadata.get("namespace", ""), metadata["name"])
            self._version += 1
            metadata.setdefault("uid", f"00000000-0000-0000-0000-{self._version:012d}")
            metadata.setdefault("creationTimestamp", now())
            metadata["resourceVersion"] = str(self._version)
            change = "MODIFIED" if key in self.objects else "ADDED"
            self.objects[key] = made
            self.changes.append((self._version, change, plural, copy.deepcopy(made)))
            self.changed.notify_all()
            return copy.deepcopy(made)

    def remove(self, plural: str, namespace: str, name: str) -> None:
        with self.changed:
            gone = self.objects.pop((plural, namespace, name), None)
            if gone is not None:
                self._version += 1
                gone["metadata"]["resourceVersion"] = str(self._version)
                self.changes.append((self._version, "DELETED", plural, gone))
                self.changed.notify_all()

    def apply(self, plural: str, namespace: str, name: str, given: Object) -> tuple[int, Object]:
        with self.changed:
            known = self.objects.get((plural, namespace, name))
            if known is None:
                made = copy.deepcopy(given)
                made["metadata"].setdefault("namespace", namespace)
                if not namespace:
                    del made["metadata"]["namespace"]
                made["metadata"]["generation"] = 1
            elif all(known.get(key) == given[key] for key in given if key not in ("metadata", "apiVersion", "kind")):
                return 200, copy.deepcopy(known)
            else:
                made = known | copy.deepcopy({key: given[key] for key in given if key != "metadata"})
                made["metadata"] = known["metadata"] | {"generation": known["metadata"]["generation"] + 1}
            stored = self.put(plural, made)
            if plural == "deployments":
                self.later(lambda: self.deploy(namespace, name))
            return (201 if known is None else 200), stored

    def deploy(self, namespace: str, name: str) -> None:
        """Play the scenario for a Deployment, in place of the pods that it has."""
        with self.changed:
            deployment = self.objects.get(("deployments", namespace, name))
            if deployment is not None and not self.closed:
                for each in self._owned(deployment):
                    self.remove(*each)
                self.scenario(self, deployment)

    def _owned(self, deployment: Object) -> list[tuple[str, str, str]]:
        wanted = deployment["spec"]["selector"]["matchLabels"].items()
        return [
            key
            for key, each in self.objects.items()
            if key[0] in ("pods", "replicasets") and wanted <= each["metadata"].get("labels", {}).items()
        ]

    def delete(self, plural: str, namespace: str, name: str, foreground: bool) -> Object:
        with self.changed:
            found = self.objects[plural, namespace, name]
            if plural != "deployments" or not foreground:
                self.remove(plural, namespace, name)
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
            found["metadata"] |= {"deletionTimestamp": now(), "finalizers": ["foregroundDeletion"]}
            stored = self.put(plural, found)
        if not self.holds:
            self.later(lambda: self._collect(namespace, name))
        return stored

    def _collect(self, namespace: str, name: str) -> None:
        with self.changed:
            for each in self._owned(self.objects["deployments", namespace, name]):
                self.remove(*each)
            self.remove("deployments", namespace, name)

    # --- scenarios of a Deployment ---------------------------------------------------------------------------------------

    def pod(self, deployment: Object, number: int, status: Object) -> Object:
        template = deployment["spec"]["template"]
        metadata = {
            "name": f"{deployment['metadata']['name']}-{number}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": dict(template["metadata"]["labels"]),
            "annotations": dict(template["metadata"]["annotations"]),
        }
        spec = {"nodeName": "node-a", **copy.deepcopy(template["spec"])}
        status = {"hostIP": "192.0.2.10", "podIP": f"10.244.0.{number + 5}", "phase": "Pending", **status}
        return self.put("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})

    def event(self, pod: str, reason: str, message: str) -> None:
        involved = {"kind": "Pod", "name": pod, "namespace": "default"}
        metadata = {"name": f"{pod}.{self.version:x}", "namespace": "default"}
        details = {"reason": reason, "message": message, "type": "Warning", "lastTimestamp": now()}
        self.put("events", {"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": involved, **details})

    def say(self, deployment: Object, ready: int, conditions: list[Object] | None = None) -> None:
        name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
        found = self.objects.get(("deployments", namespace, name))
        if found is None:
            return
        wanted = found["spec"].get("replicas", 1)
        found["status"] = {
            "observedGeneration": found["metadata"]["generation"],
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": wanted - ready,
            "conditions": conditions or [],
        }
        self.put("deployments", found)


def equip(cluster: Cluster, boot: str = "", *shims: str) -> None:
    """Store what Kata's chart 4.1.0 installs: runtime classes, the labels of a node that can run them, its own DaemonSet.

    `boot` is the boot ID of the node, which identifies a machine as that node.
    """
    shims = shims or ("qemu-snp", "qemu-coco-dev")
    labels = {"katacontainers.io/kata-runtime": "true", "node.kubernetes.io/worker": ""}
    for shim in shims:
        made: Object = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": f"kata-{shim}"}
        made["metadata"] = {"name": f"kata-{shim}", "annotations": {"katacontainers.io/kata-version": "4.1.0"}}
        made["overhead"] = {"podFixed": {"memory": "2048Mi", "cpu": "1.0"}}
        made["scheduling"] = {"nodeSelector": {"katacontainers.io/kata-runtime": "true"}}
        cluster.put("runtimeclasses", made)
    info = {"bootID": boot, "containerRuntimeVersion": "containerd://2.3.1", "kernelVersion": "6.17.0-8-generic"}
    status = {
        "allocatable": {"cpu": "32", "memory": "131072000Ki"},
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": info,
    }
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a", "labels": labels}, "spec": {}, "status": status}
    cluster.put("nodes", node)
    values = {
        "SHIMS_X86_64": " ".join(shims),
        "SNAPSHOTTER_HANDLER_MAPPING_X86_64": ",".join(f"{shim}:nydus" for shim in shims),
    }
    container = {"name": "kube-kata", "env": [{"name": name, "value": value} for name, value in values.items()]}
    release = {"meta.helm.sh/release-name": "coco", "meta.helm.sh/release-namespace": "coco-system"}
    metadata = {"name": "kata-as-coco-runtime", "namespace": "coco-system", "annotations": release}
    spec = {"template": {"spec": {"containers": [container]}}}
    cluster.put("daemonsets", {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec})


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def inside(state: Object, **more: Any) -> Object:
    status = {"name": "edge", "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": state, **more}
    return {"containerStatuses": [status]}


CREATING = inside({"waiting": {"reason": "ContainerCreating"}})
RUNNING = inside({"running": {"startedAt": "2026-01-01T00:00:00Z"}})


def comes_up(cluster: Cluster, deployment: Object) -> None:
    wanted = deployment["spec"].get("replicas", 1)
    for number in range(wanted):
        cluster.pod(deployment, number, CREATING)
    cluster.say(deployment, 0)

    def ready() -> None:
        with cluster.changed:
            if cluster.closed or "deletionTimestamp" in deployment["metadata"]:
                return
            status = {**inside(RUNNING["containerStatuses"][0]["state"], ready=True), "phase": "Running"}
            status["conditions"] = [{"type": "Ready", "status": "True"}]
            for number in range(wanted):
                cluster.pod(deployment, number, status)
            cluster.say(deployment, wanted)

    cluster.later(ready)


def stays(status: Object) -> Callable[[Cluster, Object], None]:
    def scenario(cluster: Cluster, deployment: Object) -> None:
        cluster.pod(deployment, 0, status)
        cluster.say(deployment, 0)

    return scenario


def waits(reason: str, message: str = "", **more: Any) -> Callable[[Cluster, Object], None]:
    return stays(inside({"waiting": {"reason": reason, "message": message}}, **more))


def is_refused(message: str) -> Callable[[Cluster, Object], None]:
    def scenario(cluster: Cluster, deployment: Object) -> None:
        failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        cluster.say(deployment, 0, [failure])

    return scenario


def cannot_mount(cluster: Cluster, deployment: Object) -> None:
    pod = cluster.pod(deployment, 0, CREATING)
    cluster.say(deployment, 0)
    cluster.event(pod["metadata"]["name"], "FailedMount", 'MountVolume.SetUp failed for volume "certs" : secret "x" not found')
