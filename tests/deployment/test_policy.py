"""The guest's policy in a Rego engine: it starts this image with this command, and refuses all requests that look inside."""

from __future__ import annotations

import random
import re
import tomllib
from dataclasses import replace
from typing import Any, get_args

import pytest

from tests.support.containers import CONFIDENTIAL, DEVELOPMENT, IMAGE, pod
from workbench.deployment.kubernetes import guest
from workbench.deployment.kubernetes.manifests import Container, initdata

from . import agent_requests
from .agent_requests import EDGE, ENGINES, SHARED, VERSIONS, Request, Version, life, policy_of, with_change
from .hostile import HOSTILE, Hostile
from .mutations import mutated, unlike


def decide(container: Container, request: str, asked: dict[str, Any]) -> bool:
    """Return the decision of a Rego engine on a request."""
    return agent_requests.decide(policy_of(container), request, asked)


def asked_to_create(container: Container) -> dict[str, Any]:
    """Return the host's request for the edge's container, in the agent's format."""
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


def test_the_edges_output_is_read_only_on_request() -> None:
    assert not decide(CONFIDENTIAL, "ReadStreamRequest", {})
    assert decide(replace(CONFIDENTIAL, logs=True), "ReadStreamRequest", {})
    assert decide(DEVELOPMENT, "ReadStreamRequest", {})
    assert not decide(DEVELOPMENT, "ExecProcessRequest", {"process": {"Args": ["sh"]}})


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the request for the edge's container with one change. A step of `path` is a key or an index, + appends."""
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
def test_the_guest_starts_only_this_image_with_this_command(path: str, value: Any) -> None:
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
def test_the_host_adds_only_network_settings_to_the_guest(path: str, allowed: bool) -> None:
    asked = {"path": f"/run/kata-containers/shared/containers/{path}"}
    assert decide(CONFIDENTIAL, "CopyFileRequest", asked) is allowed


def test_in_development_the_host_adds_only_certificates() -> None:
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
    """Keys are released on that address. A host that redirects it could release its own."""
    assert decide(CONFIDENTIAL, request_, asked) is allowed


def test_a_replaced_policy_is_what_the_guest_gets() -> None:
    own = "package agent_policy\n\ndefault ExecProcessRequest := true\n"
    assert tomllib.loads(initdata(replace(CONFIDENTIAL, policy=own)))["data"]["policy.rego"] == own


def test_the_policy_decides_on_every_request_that_it_names_once() -> None:
    policy = tomllib.loads(initdata(CONFIDENTIAL))["data"]["policy.rego"]
    named = re.findall(r"^default (\w+) := (?:true|false)$", policy, re.MULTILINE)
    assert len(named) == len(set(named)) >= 30


# --- the complete life of a pod, and a hostile host's changes ---------------------------------------------------------------


LOGGED = replace(CONFIDENTIAL, logs=True)
CONTAINERS = {"confidential": CONFIDENTIAL, "logged": LOGGED, "development": DEVELOPMENT}
REFUSED = [
    "AddSwapPathRequest", "AddSwapRequest", "AllowRequestsFailingPolicy", "CloseStdinRequest", "ExecProcessRequest",
    "GetDiagnosticDataRequest", "GetIPTablesRequest", "GetMetricsRequest", "ListInterfacesRequest", "ListRoutesRequest",
    "MemAgentCompactConfig", "MemAgentMemcgConfig", "MemHotplugByProbeRequest", "PauseContainerRequest", "PullImageRequest",
    "ReadStreamRequest", "ReseedRandomDevRequest", "ResizeVolumeRequest", "ResumeContainerRequest", "SetGuestDateTimeRequest",
    "SetIPTablesRequest", "SetPolicyRequest", "StartTracingRequest", "StopTracingRequest", "TtyWinResizeRequest",
    "UpdateContainerRequest", "UpdateEphemeralMountsRequest", "VolumeStatsRequest", "WriteStreamRequest",
]  # fmt: skip
GRANTED = [
    "AddARPNeighborsRequest", "CopyFileRequest", "CreateContainerRequest", "CreateSandboxRequest", "DestroySandboxRequest",
    "GetOOMEventRequest", "GuestDetailsRequest", "OnlineCPUMemRequest", "RemoveContainerRequest",
    "RemoveStaleVirtiofsShareMountsRequest", "SignalProcessRequest", "StartContainerRequest", "StatsContainerRequest",
    "UpdateInterfaceRequest", "UpdateRoutesRequest", "WaitProcessRequest",
]  # fmt: skip
BASES: dict[str, tuple[str, Request]] = {
    "edge": ("CreateContainerRequest", agent_requests.edge(CONFIDENTIAL, "4.1.0")),
    "pause": ("CreateContainerRequest", agent_requests.pause("4.1.0")),
    "sandbox": ("CreateSandboxRequest", agent_requests.sandbox("4.1.0")),
    "copy": ("CopyFileRequest", agent_requests.copied_file("4.1.0", EDGE, "hosts")),
    "copy-3.21": ("CopyFileRequest", agent_requests.copied_file("3.21.0", EDGE, "hosts")),
    "interface": ("UpdateInterfaceRequest", agent_requests.interface()),
    "routes": ("UpdateRoutesRequest", agent_requests.routes()),
    "neighbours": ("AddARPNeighborsRequest", agent_requests.neighbours()),
    "signal": ("SignalProcessRequest", {"container_id": EDGE, "exec_id": EDGE, "signal": 15}),
    "wait": ("WaitProcessRequest", {"container_id": EDGE, "exec_id": EDGE}),
    "start": ("StartContainerRequest", {"container_id": EDGE}),
    "remove": ("RemoveContainerRequest", {"container_id": EDGE, "timeout": 0}),
    "stats": ("StatsContainerRequest", {"container_id": EDGE}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_agent_grants_the_whole_life_of_a_pod(kind: str, version: Version, engine: str) -> None:
    container = CONTAINERS[kind]
    refused = [
        (name, request)
        for name, request in life(container, version)
        if not agent_requests.decide(policy_of(container), name, request, engine)
    ]
    assert not refused


def test_a_life_has_each_granted_request() -> None:
    assert get_args(Version) == VERSIONS
    for version in VERSIONS:
        assert {name for name, _ in life(CONFIDENTIAL, version)} == set(GRANTED)
    assert {name for name, _ in life(LOGGED, "4.1.0")} == {*GRANTED, "ReadStreamRequest", "GetDiagnosticDataRequest"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hostile", HOSTILE, ids=str)
def test_the_agent_refuses(hostile: Hostile, engine: str) -> None:
    name, request = BASES[hostile.base]
    assert not agent_requests.decide(
        policy_of(CONFIDENTIAL), name, with_change(request, hostile.path, hostile.value), engine
    ), hostile.gain


@pytest.mark.parametrize("engine", ENGINES)
def test_the_unchanged_requests_are_granted(engine: str) -> None:
    """Without this test, a policy that refuses everything would pass."""
    assert all(agent_requests.decide(policy_of(CONFIDENTIAL), name, request, engine) for name, request in BASES.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_every_other_request_is_refused_whatever_it_asks_for(engine: str) -> None:
    policy = policy_of(CONFIDENTIAL)
    requests = [{}, *(request for _, request in BASES.values())]
    assert not [name for name in REFUSED for request in requests if agent_requests.decide(policy, name, request, engine)]


def test_the_policy_decides_exactly_the_agents_messages() -> None:
    named = re.findall(r"^default (\w+) := (true|false)$", policy_of(CONFIDENTIAL), re.MULTILINE)
    assert sorted(name for name, _ in named) == sorted(REFUSED + GRANTED)
    assert [name for name, granted in named if granted == "true"] == ["DestroySandboxRequest"]


@pytest.mark.parametrize("count", [None, pytest.param(5000, marks=pytest.mark.system)], ids=["few", "many"])
@pytest.mark.parametrize("engine", ENGINES)
def test_no_mutation_that_is_granted_does_anything_else(engine: str, count: int | None, request: pytest.FixtureRequest) -> None:
    chance = random.Random(20261130)
    originals = [
        pair for version in VERSIONS for pair in life(CONFIDENTIAL, version) if pair[0] != "DestroySandboxRequest" and pair[1]
    ]
    weights = [6 if name == "CreateContainerRequest" else 1 for name, _ in originals]
    granted, wrong = 0, []
    for _ in range(count or request.config.getoption("--mutations")):
        name, original = chance.choices(originals, weights)[0]
        mutant = mutated(original, chance)
        if agent_requests.decide(policy_of(CONFIDENTIAL), name, mutant, engine):
            granted += 1
            wrong += [(name, difference)] if (difference := unlike(mutant, original)) else []
    assert granted, "every mutation was refused: the generator changes too much to show anything"
    assert not wrong


def test_the_comparison_of_mutations_sees_each_hostile_request() -> None:
    """If the comparison missed a hostile request, a mutation of that kind would pass."""
    pairs = [(hostile, BASES[hostile.base][1]) for hostile in HOSTILE]
    assert not [hostile for hostile, request in pairs if not unlike(with_change(request, hostile.path, hostile.value), request)]


def test_each_hostile_request_has_a_name_of_its_own() -> None:
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE) >= 40


NEEDLESS = re.compile(  # fields whose removal makes a request harmless
    r"(string_user|sandbox_id|file_type|symlink_target|data|dir_mode)|storages/\d/(fs_group|shared)"
    r"|OCI/(Solaris|Process/(User/Username|OOMScoreAdj|Capabilities/\w+)|Annotations/(?!io\.kubernetes\.cri\.container-type).*"
    r"|Linux/(IntelRdt|(Sysctl|Resources)/.*|Namespaces/(\d/Path|3/Type)))"
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("base", ["edge", "pause", "sandbox", "copy"])
def test_a_field_that_pins_something_cannot_be_left_out(base: str, version: Version) -> None:
    requests = {"edge": agent_requests.edge(CONFIDENTIAL, version), "pause": agent_requests.pause(version)}
    requests |= {"sandbox": agent_requests.sandbox(version), "copy": agent_requests.copied_file(version, EDGE, "hosts")}
    granted = []
    for path in fields(requests[base]):
        parent, _, name = path.rpartition("/")
        partial = with_change(requests[base], f"{parent}/-{name}".lstrip("/"), None)
        if agent_requests.decide(policy_of(CONFIDENTIAL), BASES[base][0], partial, "regorus"):
            granted.append(path)
    assert not [path for path in granted if not NEEDLESS.fullmatch(path)]


def fields(value: Any, path: str = "") -> list[str]:
    """Return the path of each field of a request."""
    found = []
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        place = f"{path}/{str(key).replace('/', '~1')}".lstrip("/")
        found += [place] if isinstance(value, dict) else []
        found += fields(child, place) if isinstance(child, dict | list) else []
    return found


def test_the_mutation_check_ignores_what_a_host_may_choose() -> None:
    _, request = BASES["edge"]
    assert not unlike(with_change(request, "OCI/Linux/Resources/CPU/Shares", 2), request)
    assert not unlike(with_change(request, "OCI/Mounts/-5", None), request)


# --- development: the host provides the certificates -------------------------------------------------------------------------


FOLDER = f"{SHARED}/{EDGE}-0123456789abcdef-certs"
OLD, NEW = (agent_requests.certificates(version) for version in VERSIONS)
ROOT, GENERATION, FILE, DATA, LINK = 0, 1, 2, 5, 6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("request_", "path", "value"),
    [
        (NEW[DATA], "symlink_target", "/etc"),
        (NEW[DATA], "symlink_target", ".."),
        (NEW[DATA], "symlink_target", "..2026/../.."),
        (NEW[LINK], "symlink_target", "../../hosts"),
        (NEW[LINK], "symlink_target", "..data/edge.key"),
        (NEW[LINK], "path", f"{FOLDER}/..data"),
        (NEW[LINK], "path", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts"),
        (NEW[LINK], "file_mode", 0o100644),
        (NEW[ROOT], "path", f"{SHARED}/{EDGE}"),
        (NEW[ROOT], "path", f"{FOLDER}/x"),
        (NEW[ROOT], "file_mode", 0o047777),
        (NEW[FILE], "path", f"{FOLDER}/..2026_11_30_01_37_03.1234567890/x.pem"),
        (NEW[FILE], "path", f"{FOLDER}/../../edge.key"),
        (NEW[FILE], "file_mode", 0o104755),
        (NEW[FILE], "file_type", "Symlink"),
        (OLD[DATA], "data", list(b"/etc")),
        (OLD[DATA], "data", list(b"..")),
        (OLD[DATA], "data", list(b"../../etc")),
        (OLD[LINK], "data", list(b"../../hosts")),
        (OLD[LINK], "data", []),
        (OLD[FILE], "file_mode", 0o120777),
    ],
)
def test_in_development_links_stay_in_the_certificates_folder(request_: Request, path: str, value: Any, engine: str) -> None:
    policy = policy_of(DEVELOPMENT)
    assert agent_requests.decide(policy, "CopyFileRequest", request_, engine)
    assert not agent_requests.decide(policy, "CopyFileRequest", with_change(request_, path, value), engine)


@pytest.mark.parametrize("request_", [*OLD, *NEW], ids=lambda request: request["path"].removeprefix(FOLDER))
def test_a_confidential_guest_takes_no_certificate(request_: Request) -> None:
    assert not decide(CONFIDENTIAL, "CopyFileRequest", request_)


# --- the text of the policy -----------------------------------------------------------------------------------------------


def test_a_line_of_the_policy_fits_into_agents_that_limit_it() -> None:
    """regorus refuses lines of more than 1024 characters; agents raise that limit since kata-containers 3.31.0."""
    long = replace(CONFIDENTIAL, options=tuple(f"--option-{number}" for number in range(200)))
    assert max(map(len, policy_of(long).splitlines())) < 1024
    assert decide(long, "CreateContainerRequest", agent_requests.edge(long, "4.1.0"))


def test_the_policy_speaks_both_versions_of_rego() -> None:
    regorus = pytest.importorskip("regorus", reason="the agent's own Rego engine, regorus, is not installed")
    for old in (True, False):
        engine = regorus.Engine()
        engine.set_rego_v0(old)
        engine.add_policy("policy.rego", policy_of(CONFIDENTIAL))
        engine.set_input_json("{}")
        assert engine.eval_rule("data.agent_policy.GetOOMEventRequest") is True


def test_the_pod_mounts_what_the_policy_admits() -> None:
    (edge,) = pod(CONFIDENTIAL)["spec"]["containers"]
    assert {mount["mountPath"]: mount["name"] for mount in edge["volumeMounts"]} == guest.VOLUMES
