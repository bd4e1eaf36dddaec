"""Containers of an edge and of a cloud, and their rendered objects."""

from __future__ import annotations

from typing import Any

from workbench.deployment.kubernetes.gpu import CloudContainer
from workbench.deployment.kubernetes.manifests import (
    Container,
    render,
)

IMAGE = "registry.example:5000/pmc2-edge@sha256:" + "a" * 64
CERTIFICATES = {"ca.pem": b"authority", "edge.pem": b"certificate", "edge.key": b"the key itself"}
CONFIDENTIAL = Container(IMAGE, "10.0.0.7:8444", kbs_url="http://10.0.0.9:8080", resource="default/pmc2-edge")
DEVELOPMENT = Container(IMAGE, "10.0.0.7:8444", runtime="development")
CLOUD = CloudContainer(
    IMAGE,
    name="pmc2-cloud",
    kbs_url="http://10.0.0.9:8080",
    resource="default/pmc2-cloud",
    gpu="nvidia.com/pgpu",
    memory="32Gi",
)


def rendered(container: Container) -> list[dict[str, Any]]:
    return render(container, None if container.resource else CERTIFICATES)


def only(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found


def pod(container: Container) -> dict[str, Any]:
    template: dict[str, Any] = only(rendered(container), "Deployment")["spec"]["template"]
    return template
