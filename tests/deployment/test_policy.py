"""The guest's policy in a Rego engine: it starts this image with this command, and refuses what would look or reach into it."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from workbench.deployment import guest
from workbench.deployment.manifests import Container, initdata

from .test_manifests import CONFIDENTIAL, DEVELOPMENT, IMAGE


def decide(container: Container, request: str, asked: dict[str, Any]) -> bool:
    """Ask a Rego engine whether the agent does this."""
    regopy = pytest.importorskip("regopy", reason="the Rego engine regopy is not installed")
    engine = regopy.Interpreter()
    engine.add_module("policy.rego", tomllib.loads(initdata(container))["data"]["policy.rego"])
    engine.set_input(asked)
    answer = str(engine.query(f"allowed = data.agent_policy.{request}"))
    if answer == "undefined":  # as for the agent: what no rule is about is refused
        return False
    allowed = json.loads(answer)["bindings"]["allowed"]
    assert isinstance(allowed, bool)
    return allowed


def asked_to_create(container: Container) -> dict[str, Any]:
    """What the host asks of the agent for the edge's container, in the agent's own terms."""
    shared = "/run/kata-containers/shared/containers/0a1b-2c3d-"
    mounts = [
        {"destination": "/proc", "source": "proc", "type_": "proc"},
        {"destination": "/dev", "source": "tmpfs", "type_": "tmpfs"},
        {"destination": "/dev/shm", "source": "/run/kata-containers/sandbox/shm", "type_": "bind"},
        {"destination": "/sys", "source": "sysfs", "type_": "sysfs"},
        {"destination": "/etc/hosts", "source": f"{shared}hosts", "type_": "bind"},
        {"destination": "/etc/resolv.conf", "source": f"{shared}resolv.conf", "type_": "bind"},
        {"destination": "/dev/termination-log", "source": f"{shared}termination-log", "type_": "bind"},
        {"destination": "/run/pmc2", "source": "/run/kata-containers/sandbox/ephemeral/run", "type_": "bind"},
        {"destination": "/tmp", "source": "/run/kata-containers/sandbox/ephemeral/tmp", "type_": "bind"},
    ]
    process = {
        "Args": list(container.command),
        "Env": [*guest.ENVIRONMENT, "HOSTNAME=pmc2-edge-0", "KUBERNETES_SERVICE_HOST=10.96.0.1", "PYTHON_VERSION=3.11.9"],
        "User": {"UID": guest.USER, "GID": guest.USER},
        "NoNewPrivileges": True,
        "Terminal": False,
    }
    return {
        "container_id": "0a1b",
        "OCI": {
            "Annotations": {"io.kubernetes.cri.container-type": "container"},
            "Hooks": None,
            "Mounts": mounts,
            "Process": process,
        },
        "storages": [
            {"driver": "image_guest_pull", "source": container.image},
            {"driver": "ephemeral", "source": "tmpfs"},
            {"driver": "ephemeral", "source": "tmpfs"},
        ],
    }


def asked_for_the_sandbox(container: Container) -> dict[str, Any]:
    asked = asked_to_create(container)
    asked["OCI"]["Annotations"]["io.kubernetes.cri.container-type"] = "sandbox"
    asked["OCI"]["Process"]["Args"] = ["/pause"]
    asked["OCI"]["Mounts"] = asked["OCI"]["Mounts"][:7]
    asked["storages"] = [{"driver": "image_guest_pull", "source": "pause"}]
    return asked


def test_the_guest_starts_the_sandbox_and_the_edge() -> None:
    assert decide(CONFIDENTIAL, "CreateSandboxRequest", {"guest_hook_path": "", "kernel_modules": []})
    assert decide(CONFIDENTIAL, "CreateContainerRequest", asked_for_the_sandbox(CONFIDENTIAL))
    assert decide(CONFIDENTIAL, "CreateContainerRequest", asked_to_create(CONFIDENTIAL))
    for request in ("StartContainerRequest", "SignalProcessRequest", "WaitProcessRequest", "DestroySandboxRequest"):
        assert decide(CONFIDENTIAL, request, {"container_id": "0a1b"})


@pytest.mark.parametrize(
    "request_",
    ["ExecProcessRequest", "ReadStreamRequest", "WriteStreamRequest", "SetPolicyRequest", "PullImageRequest", "AddSwapRequest",
     "ReadContainerTerminationMessage", "StartTracingRequest", "UpdateContainerRequest", "NoSuchRequest"],
)  # fmt: skip
def test_the_guest_refuses_what_looks_or_reaches_into_it(request_: str) -> None:
    assert not decide(CONFIDENTIAL, request_, {"container_id": "0a1b", "process": {"Args": ["sh"]}})


def test_what_the_edge_says_is_read_only_where_that_was_asked_for() -> None:
    assert not decide(CONFIDENTIAL, "ReadStreamRequest", {})
    assert decide(replace(CONFIDENTIAL, logs=True), "ReadStreamRequest", {})
    assert decide(DEVELOPMENT, "ReadStreamRequest", {})
    assert not decide(DEVELOPMENT, "ExecProcessRequest", {"process": {"Args": ["sh"]}})


def changed(path: str, value: Any) -> dict[str, Any]:
    """The request for the edge's container with one thing changed: a step of `path` is a key or an index, + appends."""
    asked = asked_to_create(CONFIDENTIAL)
    parent: Any = asked
    *steps, last = path.split(".")
    for step in steps:
        parent = parent[int(step) if step.isdigit() else step]
    if last == "+":
        parent.append(value)
    else:
        parent[int(last) if last.isdigit() else last] = value
    return asked


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("storages.0.source", IMAGE[:-1] + "b"),
        ("storages.0.source", "registry.example:5000/pmc2-edge:1"),
        ("storages.0.source", "pause"),
        ("storages.0.driver", "blk"),
        ("storages.+", {"driver": "virtio-fs", "source": "host"}),
        ("storages.+", {"driver": "image_guest_pull", "source": "other@sha256:" + "b" * 64}),
        ("OCI.Process.Args", ["sh"]),
        ("OCI.Process.Args.+", "--plain-http"),
        ("OCI.Process.Env.+", "WORKBENCH_TOKEN=of-the-host-of-the-host"),
        ("OCI.Process.Env.+", "LD_PRELOAD=/etc/hosts"),
        ("OCI.Process.Env.+", "PYTHONPATH=/tmp"),
        ("OCI.Process.Env.+", "HTTPS_PROXY=http://192.0.2.1"),
        ("OCI.Process.Env.1", "WORKBENCH_DATA=/etc"),
        ("OCI.Process.User.UID", 0),
        ("OCI.Process.NoNewPrivileges", False),
        ("OCI.Process.Terminal", True),
        ("OCI.Hooks", {"Prestart": [{"Path": "/bin/sh"}]}),
        ("OCI.Mounts.+", {"destination": "/opt/pmc2", "source": "/run/kata-containers/shared/containers/0a-hosts"}),
        ("OCI.Mounts.+", {"destination": "/etc/passwd", "source": "/run/kata-containers/shared/containers/0a-hosts"}),
        ("OCI.Mounts.+", {"destination": "/run/pmc2/certs", "source": "/run/kata-containers/shared/containers/0a-1b-certs"}),
        ("OCI.Mounts.7.source", "/run/kata-containers/shared/containers/0a-1b-hosts"),
        ("OCI.Mounts.7.source", "/run/kata-containers/sandbox/ephemeral/../../shared/containers/x"),
        ("OCI.Mounts.2.source", "/run/kata-containers/shared/containers/0a-1b-shm"),
        ("OCI.Annotations", {"io.kubernetes.cri.container-type": "sandbox"}),
        ("OCI.Annotations", {}),
    ],
)
def test_the_guest_starts_nothing_but_this_image_with_this_command(path: str, value: Any) -> None:
    assert not decide(CONFIDENTIAL, "CreateContainerRequest", changed(path, value))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("0a1b-2c3d-resolv.conf", True),
        ("0a1b-2c3d-hosts", True),
        ("0a1b/rootfs/opt/pmc2/bin/workbench", False),
        ("0a1b-2c3d-hosts/../../../../../etc/passwd", False),
        ("../../../../etc/hosts", False),
        ("0a1b-2c3d-certs/edge.key", False),
    ],
)
def test_the_host_puts_nothing_into_the_guest_but_what_the_network_needs(path: str, allowed: bool) -> None:
    asked = {"path": f"/run/kata-containers/shared/containers/{path}"}
    assert decide(CONFIDENTIAL, "CopyFileRequest", asked) is allowed


def test_in_development_the_host_hands_in_the_certificates_and_nothing_else() -> None:
    folder = "/run/kata-containers/shared/containers/0a1b-2c3d-certs"
    assert decide(DEVELOPMENT, "CopyFileRequest", {"path": f"{folder}/..data/edge.key"})
    assert not decide(DEVELOPMENT, "CopyFileRequest", {"path": f"{folder}/../x"})
    asked = asked_to_create(DEVELOPMENT)
    asked["OCI"]["Mounts"].append({"destination": "/run/pmc2/certs", "source": folder, "type_": "bind"})
    assert decide(DEVELOPMENT, "CreateContainerRequest", asked)


NEIGHBOUR = {"device": "eth0", "toIPAddress": {"address": "10.0.0.1"}}


@pytest.mark.parametrize(
    ("request_", "asked", "allowed"),
    [
        ("UpdateInterfaceRequest", {"interface": {"name": "eth0", "hwAddr": "66:74:9f:6a:96:01"}}, True),
        ("UpdateInterfaceRequest", {"interface": {"name": "lo", "hwAddr": "66:74:9f:6a:96:01"}}, False),
        ("UpdateInterfaceRequest", {"interface": {"name": "eth0", "hwAddr": "00:00:00:00:00:00"}}, False),
        ("UpdateRoutesRequest", {"routes": {"Routes": [{"dest": "", "device": "eth0", "source": ""}]}}, True),
        ("UpdateRoutesRequest", {"routes": {"Routes": [{"dest": "", "device": "lo", "source": ""}]}}, False),
        ("UpdateRoutesRequest", {"routes": {"Routes": [{"dest": "127.0.0.1/32", "device": "eth0", "source": ""}]}}, False),
        ("UpdateRoutesRequest", {"routes": {"Routes": [{"dest": "", "device": "eth0", "source": "::1"}]}}, False),
        ("AddARPNeighborsRequest", {"neighbors": {"ARPNeighbors": [NEIGHBOUR]}}, True),
        ("AddARPNeighborsRequest", {"neighbors": {"ARPNeighbors": [NEIGHBOUR | {"device": "lo"}]}}, False),
        (
            "AddARPNeighborsRequest",
            {"neighbors": {"ARPNeighbors": [NEIGHBOUR | {"toIPAddress": {"address": "127.1.2.3"}}]}},
            False,
        ),
        ("CreateSandboxRequest", {"guest_hook_path": "/tmp/hook", "kernel_modules": []}, False),
        ("CreateSandboxRequest", {"guest_hook_path": "", "kernel_modules": [{"name": "x"}]}, False),
    ],
)
def test_the_guests_loopback_is_its_own(request_: str, asked: dict[str, Any], allowed: bool) -> None:
    """There keys are handed out: a host that could redirect it would hand out its own."""
    assert decide(CONFIDENTIAL, request_, asked) is allowed


def test_what_is_put_in_place_of_the_policy_is_what_the_guest_gets() -> None:
    own = "package agent_policy\n\ndefault ExecProcessRequest := true\n"
    assert tomllib.loads(initdata(replace(CONFIDENTIAL, policy=own)))["data"]["policy.rego"] == own


def test_the_policy_decides_on_every_request_that_it_names_once() -> None:
    policy = tomllib.loads(initdata(CONFIDENTIAL))["data"]["policy.rego"]
    named = re.findall(r"^default (\w+) := (?:true|false)$", policy, re.MULTILINE)
    assert len(named) == len(set(named)) >= 30
