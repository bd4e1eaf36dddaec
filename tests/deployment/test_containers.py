"""The edge's container by the real kubectl, on a small Kubernetes API server: applied, watched, read, reached, removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import served_by
from tests.support.sshd import Ground
from tests.support.waiting import until
from workbench.deployment.kubernetes.containers import Containers
from workbench.deployment.kubernetes.manifests import Container
from workbench.errors import RemoteError, UsageError
from workbench.remote import Here, Host

from .api_server import Handler, kubeconfig, serving
from .cluster import CREATING, Cluster, Object, cannot_mount, comes_up, inside, is_refused, stays, waits

IMAGE = "registry.example/pmc2-edge@sha256:" + "a" * 64
CONFIDENTIAL = Container(IMAGE, "10.0.0.7:8444", kbs_url="http://10.0.0.9:8080", resource="default/pmc2-edge")
DEVELOPMENT = Container(IMAGE, "10.0.0.7:8444", runtime="development")
CERTIFICATES = {"ca.pem": b"authority", "edge.pem": b"certificate", "edge.key": b"the key itself"}


@dataclass
class Served:
    cluster: Cluster
    kubectl: str
    kubeconfig: str
    host: Host

    def containers(self, container: Container = CONFIDENTIAL, **options: Any) -> Containers:
        given = {"kubectl": self.kubectl, "kubeconfig": self.kubeconfig, "context": "test"}
        return Containers(self.host, container, **(given | options))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[type[Handler], str, Path]]:
    handler = type("Bound", (Handler,), {"cluster": Cluster()})
    with served_by(handler) as url:
        yield handler, url, tmp_path_factory.mktemp("kubectl-cache")


@pytest.fixture
def served(
    api: tuple[type[Handler], str, Path], kubectl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    handler, url, cache = api
    monkeypatch.setenv("KUBECACHEDIR", str(cache))
    monkeypatch.setattr("workbench.deployment.kubernetes.containers.POD_POLL_S", 0.5)
    monkeypatch.setattr("workbench.deployment.kubernetes.containers.PATIENCE_S", 0.2)
    cluster = handler.cluster = Cluster()
    cluster.delay = 0.02
    with Here() as host:
        yield Served(cluster, kubectl, str(kubeconfig(tmp_path / "kubeconfig", url)), host)
    cluster.close()


def test_a_container_is_applied_serves_and_leaves_nothing(served: Served) -> None:
    containers = served.containers(replace(CONFIDENTIAL, logs=True, replicas_min=2, replicas_max=3))
    steps: list[str] = []

    def tell(line: str) -> None:
        steps.append(line)
        served.cluster.proceeds.set()

    with pytest.raises(RemoteError, match="there is no pmc2-edge in namespace default on .*: launch it first"):
        containers.status()
    containers.delete(10)
    served.cluster.proceeds.clear()  # no pod is ready before the first line
    containers.apply()
    containers.wait(30, tell)
    state = containers.status()
    assert state.ready == state.wanted > 0
    assert [pod.ready for pod in state.pods] == [True] * len(state.pods)
    assert steps[0].startswith("pmc2-edge: 0 of ")
    assert steps[-1] == "pmc2-edge: all replicas serve"
    assert "it serves" in "\n".join(containers.logs())
    assert containers.address() == ("10.244.0.5", 8443)
    assert {kind for kind, _, _ in served.cluster.objects} == {
        "namespaces", "deployments", "pods", "services", "networkpolicies", "poddisruptionbudgets", "horizontalpodautoscalers",
    }  # fmt: skip
    version = served.cluster.version
    containers.apply()
    containers.wait(30)
    assert served.cluster.version == version, "a second apply changes nothing"
    served.cluster.holds = True
    with pytest.raises(RemoteError, match=r"is not gone after 1 s: .*pod/pmc2-edge-0"):
        containers.delete(1)
    served.cluster.holds = False
    containers.delete(30)
    assert list(served.cluster.objects) == [("namespaces", "", "default")]
    assert "secrets" not in {plural for _, plural in served.cluster.requests}


def test_a_changed_container_replaces_its_own_and_no_other(served: Served) -> None:
    other = served.containers(replace(CONFIDENTIAL, name="other-edge"))
    other.apply()
    first = served.containers(replace(CONFIDENTIAL, node_port=30443, replicas_max=3))
    first.apply()
    first.wait(30)
    assert first.address() == ("192.0.2.10", 30443)
    assert served.cluster.names("horizontalpodautoscalers") == ["pmc2-edge"]
    revision = served.cluster.get("pods", "pmc2-edge-0")["metadata"]["labels"]["pmc2.workbench/revision"]
    larger = served.containers(replace(CONFIDENTIAL, memory="8Gi"))
    larger.apply()
    larger.wait(30)
    pod = served.cluster.get("pods", "pmc2-edge-0")
    assert pod["metadata"]["labels"]["pmc2.workbench/revision"] != revision
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    assert served.cluster.names("horizontalpodautoscalers") == served.cluster.names("poddisruptionbudgets") == []
    assert served.cluster.names("deployments") == ["other-edge", "pmc2-edge"]
    larger.delete(30)
    assert served.cluster.names("deployments") == served.cluster.names("services") == ["other-edge"]
    assert other.status().ready == 1


def test_in_development_the_secret_goes_and_the_namespace_stays(served: Served) -> None:
    containers = served.containers(replace(DEVELOPMENT, namespace="pmc2"))
    with pytest.raises(RemoteError, match='namespaces "pmc2" not found; create it'):
        containers.apply(CERTIFICATES)
    containers = served.containers(replace(DEVELOPMENT, namespace="pmc2", create_namespace=True))
    containers.apply(CERTIFICATES)
    assert served.cluster.names("secrets") == ["pmc2-edge-readable-by-the-host"]
    containers.wait(30)
    containers.delete(30)
    assert served.cluster.names("secrets") == []
    assert served.cluster.names("namespaces") == ["default", "pmc2"]


def test_over_ssh_it_is_the_same_and_nothing_stays_at_work_there(served: Served, machines: Ground) -> None:
    with machines.host("edge") as host:
        served.host = host
        containers = served.containers(replace(CONFIDENTIAL, logs=True))
        containers.apply()
        containers.wait(60)
        lines = containers.logs(follow=True)
        assert next(lines) == "it serves"
        with served.cluster.changed:
            served.cluster.logs["now"].append("one more")
            served.cluster.changed.notify_all()
        assert next(lines) == "one more"
        assert machines["edge"].processes(served.kubeconfig)
        lines.close()  # type: ignore[attr-defined]
        until(lambda: not machines["edge"].processes(served.kubeconfig))
        containers.delete(60)
        assert {kind for kind, _, _ in served.cluster.objects} == {"namespaces"}
        with pytest.raises(RemoteError, match="there is no 'no-such-kubectl' to run on edge"):
            served.containers(kubectl="no-such-kubectl").status()


def test_logs_that_the_guest_keeps_to_itself_are_not_asked_for(served: Served) -> None:
    with pytest.raises(UsageError, match="logs = true lets the host read it"):
        next(served.containers().logs())
    assert served.cluster.requests == []


# --- failures ----------------------------------------------------------------------------------------------------------------

ENDED = {"exitCode": 3, "reason": "Error", "finishedAt": None, "startedAt": None}
SCHEDULING = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}


FAILURES: list[tuple[Callable[[Cluster, Object], None], str]] = [
    (waits("ImagePullBackOff", f"Back-off pulling image {IMAGE}"), r"ImagePullBackOff: Back-off pulling .*registry \(egress\)"),
    (waits("CrashLoopBackOff", lastState={"terminated": ENDED}), r"CrashLoopBackOff: .*exit status 3.*stays in the guest"),
    (
        waits("CrashLoopBackOff", lastState={"terminated": ENDED | {"reason": "OOMKilled"}}),
        "OOMKilled: the edge needs more than memory = 6Gi",
    ),
    (
        stays({"conditions": [SCHEDULING | {"message": "0/3 nodes are available: 3 Insufficient memory."}]}),
        "Unschedulable: 0/3 nodes are available",
    ),
    (waits("CreateContainerError", "CreateContainerRequest is blocked by policy"), "blocked by policy; the guest's policy"),
    (is_refused('pods is forbidden: RuntimeClass "kata-qemu-snp" not found'), "no runtime class kata-qemu-snp"),
    (is_refused('exceeded quota: "small"'), 'FailedCreate: exceeded quota: "small"'),
    (cannot_mount, r"FailedMount: MountVolume\.SetUp failed for volume"),
]


def test_an_edge_that_does_not_start_is_one_line_with_a_reason(served: Served) -> None:
    containers = served.containers()
    served.cluster.scenario = FAILURES[0][0]
    containers.apply()
    for scenario, message in FAILURES:
        served.cluster.scenario = scenario
        served.cluster.deploy("default", "pmc2-edge")
        with pytest.raises(RemoteError, match=message) as failure:
            containers.wait(60)
        assert "\n" not in str(failure.value)
        assert str(failure.value).startswith("pmc2-edge in namespace default on ")


def test_a_crash_loop_is_reported_with_its_last_lines(served: Served) -> None:
    served.cluster.scenario = waits("CrashLoopBackOff", lastState={"terminated": ENDED})
    served.cluster.logs = {"now": ["another"], "previous": ["first", *"123", "workbench: no weights\x1b[31m", ""]}
    containers = served.containers(replace(CONFIDENTIAL, logs=True))
    containers.apply()
    with pytest.raises(RemoteError, match=r"its last lines: 1 \| 2 \| 3 \| workbench: no weights\\x1b\[31m$"):
        containers.wait(30)


def test_one_that_is_never_ready_is_given_up_in_time(served: Served) -> None:
    served.cluster.forbidden, served.cluster.scenario = {("get", "events")}, stays(CREATING)
    containers = served.containers()
    containers.apply()
    with pytest.raises(RemoteError, match="does not serve after 1 s: 0 of 1 are ready; no reason"):
        containers.wait(1)
    assert ("get", "events") in served.cluster.requests, "without the right to events, the edge is watched all the same"
    with pytest.raises(RemoteError, match="no pod that is ready"):
        containers.address()
    served.cluster.scenario = stays(inside({"running": {"startedAt": "2026-01-01T00:00:00Z"}}) | {"phase": "Running"})
    served.cluster.deploy("default", "pmc2-edge")
    begun = time.monotonic()
    with pytest.raises(
        RemoteError, match=r"does not serve after 1 s: 0 of 1 are ready; an edge runs .* the cloud at 10\.0\.0\.7:8444\?"
    ):
        containers.wait(1)
    assert time.monotonic() - begun < 20


def test_a_trouble_that_passes_is_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.deployment.kubernetes.containers.PATIENCE_S", 60.0)
    served.cluster.scenario = waits("ErrImagePull", "no route to host")
    steps: list[str] = []

    def passes(line: str) -> None:
        steps.append(line)
        if "ErrImagePull: no route to host" in line:
            comes_up(served.cluster, served.cluster.objects["deployments", "default", "pmc2-edge"])

    containers = served.containers()
    containers.apply()
    containers.wait(60, passes)
    assert any("ErrImagePull" in line for line in steps)
    assert steps[-1] == "pmc2-edge: all replicas serve"


def test_a_fault_of_the_previous_revision_does_not_count(served: Served) -> None:
    served.cluster.scenario = waits("ImagePullBackOff")
    served.containers().apply()
    with pytest.raises(RemoteError, match="ImagePullBackOff"):
        served.containers().wait(30)

    def leaves_the_old(cluster: Cluster, deployment: Object) -> None:
        comes_up(cluster, deployment)
        old = cluster.pod(deployment, 9, inside({"waiting": {"reason": "ImagePullBackOff"}}))
        old["metadata"]["labels"]["pmc2.workbench/revision"] = "before"
        cluster.put("pods", old)

    served.cluster.scenario = leaves_the_old
    larger = served.containers(replace(CONFIDENTIAL, memory="8Gi"))
    larger.apply()
    larger.wait(30)


def test_a_missing_right_is_one_line_that_holds_no_key(served: Served) -> None:
    served.cluster.forbidden = {("patch", "secrets")}
    with pytest.raises(
        RemoteError, match=r'User "someone" cannot patch resource "secrets".*have that right granted'
    ) as failure:
        served.containers(DEVELOPMENT).apply(CERTIFICATES)
    assert "\n" not in str(failure.value)
    assert "key itself" not in str(failure.value)
    assert "dGhlIGtleSBpdHNlbGY" not in str(failure.value)


def test_a_cluster_that_is_gone_is_one_line(served: Served, kubectl: str, tmp_path: Path) -> None:
    cluster = Cluster()
    with serving(cluster) as url:
        path = kubeconfig(tmp_path / "gone", url)
    containers = Containers(served.host, CONFIDENTIAL, kubectl, kubeconfig=str(path))
    for call in (containers.apply, containers.status, containers.delete):
        with pytest.raises(RemoteError, match=r"refused.*is the cluster up") as failure:
            call()
        assert "\n" not in str(failure.value)


def test_a_missing_kubectl_or_cluster_is_one_line(served: Served) -> None:
    for options, message in (
        ({"kubectl": "no-such-kubectl"}, "there is no 'no-such-kubectl' to run on .*install kubectl there"),
        ({"context": "no-such-context"}, 'context "?no-such-context"? does not exist.*name one'),
        ({"kubeconfig": "no-such-file"}, "no-such-file"),
    ):
        with pytest.raises(RemoteError, match=message) as failure:
            served.containers(**options).apply()
        assert "\n" not in str(failure.value)


def test_the_server_names_what_is_wrong_with_a_manifest(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server validates strictly, like a real one: it refuses an unknown field."""
    from workbench.deployment.kubernetes import manifests

    monkeypatch.setitem(manifests.CLASSES, "confidential", 7)
    with pytest.raises(RemoteError, match="strict decoding error"):
        served.containers().apply()
