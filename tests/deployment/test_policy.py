"""The guest's policy in a Rego engine: it starts this image with this command, and refuses all requests that look inside."""

from __future__ import annotations

import importlib.util
import random
import re
import tomllib
from dataclasses import replace
from typing import Any, get_args

import pytest

from tests.support.containers import CONFIDENTIAL, DEVELOPMENT, pod
from workbench.deployment.kubernetes import guest
from workbench.deployment.kubernetes.manifests import initdata

from . import agent_requests
from .agent_requests import EDGE, ENGINES, SHARED, VERSIONS, Request, Version, decide, life, outputs, policy_of, with_change
from .hostile import HOSTILE, Hostile
from .mutations import mutated, unlike

# regorus, the agent's own engine, exists for few platforms; elsewhere `make test` asks regopy.
SECOND = [pytest.mark.system] if importlib.util.find_spec("regorus") else []


def test_a_replaced_policy_is_what_the_guest_gets() -> None:
    own = "package agent_policy\n\ndefault ExecProcessRequest := true\n"
    assert tomllib.loads(initdata(replace(CONFIDENTIAL, policy=own)))["data"]["policy.rego"] == own


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
        (name, request) for name, request in life(container, version) if not decide(policy_of(container), name, request, engine)
    ]
    assert not refused


def test_a_life_has_each_granted_request() -> None:
    assert get_args(Version) == VERSIONS
    for version in VERSIONS:
        assert {name for name, _ in life(CONFIDENTIAL, version)} == set(GRANTED)
    assert {name for name, _ in life(LOGGED, "4.1.0")} == {*GRANTED, "ReadStreamRequest", "GetDiagnosticDataRequest"}


@pytest.mark.parametrize("engine", ["regorus", pytest.param("regopy", marks=SECOND)])
def test_the_agent_refuses_each_hostile_request(engine: str) -> None:
    def granted(hostile: Hostile) -> bool:
        name, request = BASES[hostile.base]
        return decide(policy_of(CONFIDENTIAL), name, with_change(request, hostile.path, hostile.value), engine)

    assert not [f"{hostile}: {hostile.gain}" for hostile in HOSTILE if granted(hostile)]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_unchanged_requests_are_granted(engine: str) -> None:
    """Without this test, a policy that refuses everything would pass."""
    assert all(decide(policy_of(CONFIDENTIAL), name, request, engine) for name, request in BASES.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_every_other_request_is_refused_whatever_it_asks_for(engine: str) -> None:
    requests = [{}, *(request for _, request in BASES.values())]
    for container, readable in ((CONFIDENTIAL, set()), (DEVELOPMENT, {name for name, _ in outputs("4.1.0")})):
        names, policy = set(REFUSED) - readable, policy_of(container)
        assert not [name for name in names for request in requests if decide(policy, name, request, engine)]


def test_the_policy_decides_exactly_the_agents_messages() -> None:
    named = re.findall(r"^default (\w+) := (true|false)$", policy_of(CONFIDENTIAL), re.MULTILINE)
    assert sorted(name for name, _ in named) == sorted(REFUSED + GRANTED)
    assert [name for name, granted in named if granted == "true"] == ["DestroySandboxRequest"]


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ("regorus", None),
        pytest.param("regopy", None, marks=SECOND),
        *(pytest.param(engine, 5000, marks=pytest.mark.system) for engine in ENGINES),
    ],
)
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
        if decide(policy_of(CONFIDENTIAL), name, mutant, engine):
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
        if decide(policy_of(CONFIDENTIAL), BASES[base][0], partial, "regorus"):
            granted.append(path)
    assert not [path for path in granted if not NEEDLESS.fullmatch(path)]


def fields(value: Any, path: str = "") -> list[str]:
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


LINKS = [
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
]


@pytest.mark.parametrize("engine", ENGINES)
def test_in_development_links_stay_in_the_certificates_folder(engine: str) -> None:
    policy = policy_of(DEVELOPMENT)
    assert all(decide(policy, "CopyFileRequest", request, engine) for request, *_ in LINKS)
    hostile = [row for row in LINKS if decide(policy, "CopyFileRequest", with_change(*row), engine)]
    assert not hostile


def test_a_confidential_guest_takes_no_certificate() -> None:
    policy = policy_of(CONFIDENTIAL)
    assert not [request["path"] for request in (*OLD, *NEW) if decide(policy, "CopyFileRequest", request)]


# --- the text of the policy -----------------------------------------------------------------------------------------------


def test_a_line_of_the_policy_fits_into_agents_that_limit_it() -> None:
    """regorus refuses lines of more than 1024 characters; agents raise that limit since kata-containers 3.31.0."""
    long = replace(CONFIDENTIAL, options=tuple(f"--option-{number}" for number in range(200)))
    assert max(map(len, policy_of(long).splitlines())) < 1024
    assert decide(policy_of(long), "CreateContainerRequest", agent_requests.edge(long, "4.1.0"))


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
