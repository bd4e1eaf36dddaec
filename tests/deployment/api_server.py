"""A small Kubernetes API server for the real kubectl: discovery, server-side apply, lists, watches, logs, deletion.

It checks each applied object against the strict schema of the newest known Kubernetes, and serves plain HTTP on loopback. Its
data are a `Cluster`, in memory.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

from tests.support.servers import served_by

from .cluster import Cluster, Object

KINDS = {  # by plural: group, version, kind, whether it belongs to a namespace
    "namespaces": ("", "v1", "Namespace", False),
    "pods": ("", "v1", "Pod", True),
    "services": ("", "v1", "Service", True),
    "secrets": ("", "v1", "Secret", True),
    "events": ("", "v1", "Event", True),
    "nodes": ("", "v1", "Node", False),
    "runtimeclasses": ("node.k8s.io", "v1", "RuntimeClass", False),
    "daemonsets": ("apps", "v1", "DaemonSet", True),
    "deployments": ("apps", "v1", "Deployment", True),
    "replicasets": ("apps", "v1", "ReplicaSet", True),
    "networkpolicies": ("networking.k8s.io", "v1", "NetworkPolicy", True),
    "poddisruptionbudgets": ("policy", "v1", "PodDisruptionBudget", True),
    "horizontalpodautoscalers": ("autoscaling", "v2", "HorizontalPodAutoscaler", True),
}
# in the form of discovery; the server supports get (and list), watch, patch, delete
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Refused(Exception):  # noqa: N818  (an answer of the server's)
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Handler(BaseHTTPRequestHandler):
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

        def events() -> Iterator[bytes]:
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

        self._stream(events())

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
                return {"major": "1", "minor": "37", "gitVersion": self.cluster.release}
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
    singular = re.sub("ies$", "y", plural) if plural.endswith("ies") else re.sub("(?<=s)es$|s$", "", plural)
    made = {"name": plural, "singularName": singular, "namespaced": namespaced, "kind": kind, "verbs": VERBS}
    return made | {"group": group, "version": version}


def openapi_of(group: str) -> Object:
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
    with served_by(type("Bound", (Handler,), {"cluster": cluster})) as url:
        try:
            yield url
        finally:
            cluster.close()


def kubeconfig(path: Path, url: str) -> Path:
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
