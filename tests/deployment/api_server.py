"""A small Kubernetes API server for real kubectl: discovery, server-side apply, lists, watches, logs, deletion.

It keeps objects in memory, checks each that is applied against the strict schema of the newest Kubernetes that is known, and
plays the controllers and the kubelet: a Deployment's pods come up as its `scenario` says. It serves plain HTTP on loopback.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

Object = dict[str, Any]

KINDS = {  # by plural: group, version, kind, whether it lies in a namespace
    "namespaces": ("", "v1", "Namespace", False),
    "pods": ("", "v1", "Pod", True),
    "services": ("", "v1", "Service", True),
    "secrets": ("", "v1", "Secret", True),
    "events": ("", "v1", "Event", True),
    "deployments": ("apps", "v1", "Deployment", True),
    "replicasets": ("apps", "v1", "ReplicaSet", True),
    "networkpolicies": ("networking.k8s.io", "v1", "NetworkPolicy", True),
    "poddisruptionbudgets": ("policy", "v1", "PodDisruptionBudget", True),
    "horizontalpodautoscalers": ("autoscaling", "v2", "HorizontalPodAutoscaler", True),
}
VERBS = [
    "create",
    "delete",
    "get",
    "list",
    "patch",
    "update",
    "watch",
]  # as the server tells; it knows get (and list), watch, patch, delete


class Cluster:
    """What the cluster holds, and how what is deployed on it fares."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.changes: list[tuple[int, str, str, Object]] = []  # version, ADDED | MODIFIED | DELETED, plural, object
        self.requests: list[tuple[str, str]] = []  # verb, plural
        self.forbidden: set[tuple[str, str]] = set()
        self.logs: dict[str, list[str]] = {"now": ["it serves"], "previous": []}
        self.scenario: Callable[[Cluster, Object], None] = comes_up
        self.delay = 0.1  # of everything that takes a cluster a while
        self.holds = False  # pods that were told to go stay
        self.changed = threading.Condition(threading.RLock())
        self.closed = False
        self._version = 0
        self._timers: list[threading.Timer] = []
        self.put("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            timers = list(self._timers)
        for timer in timers:
            timer.cancel()
            timer.join()

    def later(self, act: Callable[[], None]) -> None:
        timer = threading.Timer(self.delay, act)
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
        """Store an object as it is now, and tell those who watch."""
        with self.changed:
            metadata = made["metadata"]
            key = (plural, metadata.get("namespace", ""), metadata["name"])
            self._version += 1
            metadata.setdefault("uid", f"00000000-0000-0000-0000-{self._version:012d}")
            metadata.setdefault("creationTimestamp", now())
            metadata["resourceVersion"] = str(self._version)
            told = "MODIFIED" if key in self.objects else "ADDED"
            self.objects[key] = made
            self.changes.append((self._version, told, plural, copy.deepcopy(made)))
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
        """Apply on the server's side: what is given replaces what was, but for what others have added."""
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
                self.later(lambda: self._deploy(namespace, name))
            return (201 if known is None else 200), stored

    def _deploy(self, namespace: str, name: str) -> None:
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

    # --- what becomes of a Deployment ------------------------------------------------------------------------------------

    def pod(self, deployment: Object, number: int, status: Object) -> Object:
        """Put a pod of a Deployment, in a state."""
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
        told = {"reason": reason, "message": message, "type": "Warning", "lastTimestamp": now()}
        self.put("events", {"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": involved, **told})

    def say(self, deployment: Object, ready: int, conditions: list[Object] | None = None) -> None:
        """Put a Deployment's status."""
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


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def inside(state: Object, **more: Any) -> Object:
    """The status of the one container of a pod."""
    status = {"name": "edge", "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": state, **more}
    return {"containerStatuses": [status]}


CREATING = inside({"waiting": {"reason": "ContainerCreating"}})
RUNNING = inside({"running": {"startedAt": "2026-01-01T00:00:00Z"}})


def comes_up(cluster: Cluster, deployment: Object) -> None:
    """Its pods are made, pull, load, and then are ready."""
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
    """A pod that is made, and stays in a state."""

    def scenario(cluster: Cluster, deployment: Object) -> None:
        cluster.pod(deployment, 0, status)
        cluster.say(deployment, 0)

    return scenario


def waits(reason: str, message: str = "", **more: Any) -> Callable[[Cluster, Object], None]:
    """A pod whose container waits for a reason."""
    return stays(inside({"waiting": {"reason": reason, "message": message}}, **more))


def is_refused(message: str) -> Callable[[Cluster, Object], None]:
    """A Deployment whose pods cannot be made."""

    def scenario(cluster: Cluster, deployment: Object) -> None:
        failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        cluster.say(deployment, 0, [failure])

    return scenario


def cannot_mount(cluster: Cluster, deployment: Object) -> None:
    """A pod that is scheduled, and never gets its volume."""
    pod = cluster.pod(deployment, 0, CREATING)
    cluster.say(deployment, 0)
    cluster.event(pod["metadata"]["name"], "FailedMount", 'MountVolume.SetUp failed for volume "certs" : secret "x" not found')


# --- HTTP --------------------------------------------------------------------------------------------------------------------


class Refused(Exception):  # noqa: N818  (an answer of the server's)
    """Raised for an answer that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Handler(BaseHTTPRequestHandler):
    """One connection of kubectl's."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_PATCH(self) -> None:
        self._answer(self._patch)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, answer: Callable[[], tuple[int, Any] | None]) -> None:
        parts = urlsplit(self.path)
        self.parts = [part for part in parts.path.split("/") if part]
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answered = answer()
        except Refused as refused:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": refused.reason, "code": refused.code}
            answered = refused.code, status | {"message": str(refused)}
        if answered is not None:
            self._send(*answered)

    def _send(self, code: int, body: Any) -> None:
        content = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(code)
        self.send_header("Content-Type", "application/json" if not isinstance(body, bytes) else "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _where(self, verb: str) -> tuple[str, str, str, str]:
        """Return plural, namespace, name and sub-resource of the path, if the user may do this there."""
        rest = self.parts[2:] if self.parts[0] == "api" else self.parts[3:]
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        plural, name, sub = (*rest, "", "", "")[:3]
        if plural not in KINDS:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        self.cluster.requests.append((verb, plural))
        if (verb, plural) in self.cluster.forbidden:
            group = KINDS[plural][0]
            what = f"{plural}{'.' + group if group else ''}{f' {chr(34)}{name}{chr(34)}' if name else ''}"
            raise Refused(
                403,
                "Forbidden",
                f'{what} is forbidden: User "someone" cannot {verb} resource "{plural}" in API group "{group}" '
                f'in the namespace "{namespace}"',
            )
        return plural, namespace, name, sub

    # --- reading ---------------------------------------------------------------------------------------------------------

    def _get(self) -> tuple[int, Any] | None:
        if found := self._discovered():
            return 200, found
        watched = self.query.get("watch") in ("true", "1")
        plural, namespace, name, sub = self._where("watch" if watched else "get")
        if sub == "log":
            return self._log(namespace, name)
        if watched:
            if "sendInitialEvents" in self.query:
                raise Refused(422, "Invalid", "sendInitialEvents is forbidden for watch: the feature is not enabled")
            return self._watch(plural, namespace)
        with self.cluster.changed:
            if name:
                if (plural, namespace, name) not in self.cluster.objects:
                    raise self._missing(plural, name)
                return 200, copy.deepcopy(self.cluster.objects[plural, namespace, name])
            found = [
                copy.deepcopy(each) for key, each in self.cluster.objects.items() if self._fits(key[0], each, plural, namespace)
            ]
            group, version, kind, _ = KINDS[plural]
            metadata = {"resourceVersion": str(self.cluster.version)}
            api = f"{group}/{version}" if group else version
            return 200, {"kind": f"{kind}List", "apiVersion": api, "metadata": metadata, "items": found}

    def _missing(self, plural: str, name: str) -> Refused:
        group = KINDS[plural][0]
        return Refused(404, "NotFound", f'{plural}{"." + group if group else ""} "{name}" not found')

    def _fits(self, kind: str, each: Object, plural: str, namespace: str) -> bool:
        metadata = each["metadata"]
        if kind != plural or (namespace and metadata.get("namespace") != namespace):
            return False
        labels = dict(pair.split("=", 1) for pair in self.query.get("labelSelector", "").split(",") if pair)
        if not labels.items() <= metadata.get("labels", {}).items():
            return False
        fields = dict(pair.split("=", 1) for pair in self.query.get("fieldSelector", "").split(",") if pair)
        values = {"metadata.name": metadata["name"], "type": each.get("type")}
        values["involvedObject.kind"] = each.get("involvedObject", {}).get("kind")
        return all(values[name] == value for name, value in fields.items())

    def _stream(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _watch(self, plural: str, namespace: str) -> None:
        since = int(self.query.get("resourceVersion") or 0)
        until = time.monotonic() + float(self.query.get("timeoutSeconds", 30))

        def told() -> Iterator[bytes]:
            last = since
            while time.monotonic() < until and not self.cluster.closed:
                with self.cluster.changed:
                    news = [change for change in self.cluster.changes if change[0] > last]
                    if not news:
                        self.cluster.changed.wait(0.2)
                for version, kind, of, each in news:
                    last = version
                    if self._fits(of, each, plural, namespace):
                        yield json.dumps({"type": kind, "object": each}).encode() + b"\n"

        self._stream(told())

    def _log(self, namespace: str, name: str) -> tuple[int, Any] | None:
        if ("pods", namespace, name) not in self.cluster.objects:
            raise self._missing("pods", name)
        lines = self.cluster.logs["previous" if self.query.get("previous") == "true" else "now"]
        tail = int(self.query.get("tailLines", len(lines)))
        text = "".join(f"{line}\n" for line in lines[len(lines) - min(tail, len(lines)) :])
        if self.query.get("follow") != "true":
            return 200, text.encode()

        def followed() -> Iterator[bytes]:
            yield text.encode()
            sent = len(lines)
            while not self.cluster.closed:
                with self.cluster.changed:
                    if sent == len(lines):
                        self.cluster.changed.wait(0.2)
                    new, sent = lines[sent:], len(lines)
                if new:
                    yield "".join(f"{line}\n" for line in new).encode()

        self._stream(followed())
        return None

    # --- writing ---------------------------------------------------------------------------------------------------------

    def _patch(self) -> tuple[int, Any]:
        plural, namespace, name, _ = self._where("patch")
        if self.headers.get("Content-Type") != "application/apply-patch+yaml":
            raise Refused(415, "UnsupportedMediaType", "nothing but server-side apply here")
        if self.query.get("fieldValidation") != "Strict" or not self.query.get("fieldManager"):
            raise Refused(400, "BadRequest", "an apply is to be checked strictly, and to name its manager")
        given = yaml.safe_load(self.body)
        try:
            kubernetes_validate.validate(given, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(400, "BadRequest", f"strict decoding error: {error.message}") from None
        with self.cluster.changed:
            if namespace and ("namespaces", "", namespace) not in self.cluster.objects:
                raise self._missing("namespaces", namespace)
            return self.cluster.apply(plural, namespace, name, given)

    def _delete(self) -> tuple[int, Any]:
        plural, namespace, name, _ = self._where("delete")
        options = json.loads(self.body or b"{}")
        with self.cluster.changed:
            if (plural, namespace, name) not in self.cluster.objects:
                raise self._missing(plural, name)
            return 200, self.cluster.delete(plural, namespace, name, options.get("propagationPolicy") == "Foreground")

    # --- discovery -------------------------------------------------------------------------------------------------------

    def _discovered(self) -> Any:
        match self.parts:
            case ["version"]:
                return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
            case ["apis"]:
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_of(each) for each in GROUPS if each]}
            case ["api", version] | ["apis", _, version]:
                group = "" if self.parts[0] == "api" else self.parts[1]
                return {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": f"{group}/{version}" if group else version,
                    "resources": [resource_of(plural) for plural, kind in KINDS.items() if kind[0] == group],
                }
            case ["openapi", "v3"]:
                paths = {path_of(group): {"serverRelativeURL": f"/openapi/v3/{path_of(group)}?hash=1"} for group in GROUPS}
                return {"paths": paths}
            case ["openapi", "v3", *path]:
                return openapi_of("" if path[0] == "api" else path[1])
        return None


GROUPS = {group: version for group, version, _, _ in KINDS.values()}


def path_of(group: str) -> str:
    return f"apis/{group}/{GROUPS[group]}" if group else "api/v1"


def group_of(group: str) -> Object:
    version = {"groupVersion": f"{group}/{GROUPS[group]}", "version": GROUPS[group]}
    return {"name": group, "versions": [version], "preferredVersion": version}


def resource_of(plural: str) -> Object:
    group, version, kind, namespaced = KINDS[plural]
    singular = re.sub("ies$", "y", plural) if plural.endswith("ies") else plural.removesuffix("s")
    made = {"name": plural, "singularName": singular, "namespaced": namespaced, "kind": kind, "verbs": VERBS}
    return made | {"group": group, "version": version}


def openapi_of(group: str) -> Object:
    """Say of each kind that a patch of it can be checked by the server: kubectl asks before it relies on that."""
    paths: Object = {}
    for plural, (own, version, kind, namespaced) in KINDS.items():
        if own == group:
            path = f"/{path_of(group)}/{'namespaces/{namespace}/' if namespaced else ''}{plural}/{{name}}"
            parameters = [{"name": name, "in": "query"} for name in ("fieldValidation", "dryRun", "fieldManager")]
            named = {"group": group, "version": version, "kind": kind}
            paths[path] = {"patch": {"parameters": parameters, "x-kubernetes-group-version-kind": named}}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.37.0"}, "paths": paths, "components": {}}


@contextlib.contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """Serve a cluster's API on a port of loopback; give its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cluster": cluster}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        cluster.close()
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(path: Path, url: str) -> Path:
    """Write a kubeconfig with one context, `test`, of a user `someone`."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "someone", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "someone"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
