"""A deployment whose edge is in a confidential container: kubectl over SSH, a process as the guest, its key and its evidence.

The cluster is the tests' API server. The guest is the container's own command, run on this machine next to a small server that
is its data hub and its attestation agent. The signing processor is simulated. SSH, kubectl, TLS and all checks are real.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from tests.support.pair import AUXILIARY, TARGET
from tests.support.servers import answering, reserved_port, send
from tests.support.snp import MEASUREMENT, processor
from tests.support.sshd import Ground
from workbench.data import Dataset
from workbench.deployment.deployed import Deployed
from workbench.deployment.kubernetes.guest import AGENT, CERTS, PROGRAM, initdata_digest
from workbench.deployment.plan import ClientPlan, Deployment
from workbench.deployment.stages import ContainerStage
from workbench.errors import AttestationError, RemoteError, UsageError
from workbench.pictures import to_float
from workbench.system import System

from .api_server import kubeconfig, serving
from .cluster import CREATING, Cluster, Object, equip, inside, waits

PLAN = """[pair]
dataset = "digits"
target = "{target}"
auxiliary = "{auxiliary}"
[edge]
host = "edge"
runtime = "confidential"
image = "registry.example/pmc2-edge@sha256:{digest}"
options = ["--device", "cpu"]
[edge.container]
node_port = {node_port}
kbs = "http://127.0.0.1:8080"
secrets = "default/pmc2-edge"
kubectl = {kubectl}
kubeconfig = {kubeconfig}
[cloud]
host = "cloud"
python = {python}
listen = "127.0.0.1:{port}"
address = "127.0.0.1:{port}"
[client]
policy = "policy.toml"
"""
POLICY = f'measurements = ["{MEASUREMENT.hex()}"]\ninitdata = "{{}}"\nminimum_tcb = "any"\n'


class Guest:
    """A simulated guest: the pod's command as a process here, with a data hub and an attestation agent of its own."""

    def __init__(self, released: Path, folder: Path, port: int) -> None:
        self.released, self.folder, self.port = released, folder, port
        self.host_data = b""
        self.process: subprocess.Popen[bytes] | None = None
        self.asked: list[str] = []
        self.url = ""  # URL of its data hub and its agent

    def ask(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(urlsplit(handler.path).path)
        send(handler, 200, self.answer(handler.path))

    def answer(self, path: str) -> bytes:
        parts = urlsplit(path)
        if parts.path == "/aa/evidence":
            (data,) = parse_qs(parts.query)["runtime_data"]
            return json.dumps(processor().evidence(data.encode(), host_data=self.host_data)).encode()
        return (self.released / parts.path.removeprefix("/cdh/resource/default/pmc2-edge/")).read_bytes()

    def deploy(self, cluster: Cluster, deployment: Object) -> None:
        """Run a Deployment's command, and report its pod as ready once it listens. A scenario of the cluster."""
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        here = {AGENT: self.url, CERTS: str(self.folder), "0.0.0.0:8443": f"127.0.0.1:{self.port}"}
        command = [here.get(each, each) for each in container["command"] if each != PROGRAM]
        cluster.pod(deployment, 0, CREATING)
        cluster.say(deployment, 0)
        with (self.folder.parent / "guest.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workbench", *command, "--port-file", str(self.folder.parent / "port")], stderr=log
            )

        def ready() -> None:
            if not (self.folder.parent / "port").exists():
                cluster.later(ready)
                return
            status = {**inside({"running": {}}, ready=True), "phase": "Running", "hostIP": "127.0.0.1"}
            with cluster.changed:
                cluster.pod(deployment, 0, {**status, "conditions": [{"type": "Ready", "status": "True"}]})
                cluster.say(deployment, 1)

        cluster.later(ready)

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)


def planned(
    folder: Path, kubectl: str = "kubectl", url: str = "http://127.0.0.1:9", node_port: int = 30443, port: int = 8443
) -> Deployment:
    path = folder / "guarded.toml"
    texts = {"kubectl": kubectl, "kubeconfig": str(kubeconfig(folder / "kubeconfig", url)), "python": sys.executable}
    names = {"target": TARGET, "auxiliary": AUXILIARY, "digest": "a" * 64, "node_port": node_port, "port": port}
    path.write_text(PLAN.format(**names, **{key: json.dumps(text) for key, text in texts.items()}))
    path.with_name("policy.toml").write_text(POLICY.format("any"))
    return Deployment.read(path)


@pytest.fixture
def contained(
    machines: Ground, kubectl: str, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Deployed, Guest, Cluster]]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("workbench.deployment.kubernetes.containers.POD_POLL_S", 0.5)
    cluster = Cluster()
    equip(cluster)
    with serving(cluster) as url, reserved_port() as node_port, reserved_port() as port:
        plan = planned(tmp_path, kubectl, url, node_port, port)
        guest = Guest(plan.certs / "edge", tmp_path / "memory", plan.edge.container.node_port)
        cluster.scenario = guest.deploy
        with Deployed(plan, machines.config()) as made, answering(guest.ask) as guest.url:
            try:
                yield made, guest, cluster
            finally:
                made.stop(purge=True)
                guest.end()


@pytest.mark.system
def test_an_edge_in_a_container_gets_its_key_and_recognises(
    contained: tuple[Deployed, Guest, Cluster], digits: Dataset
) -> None:
    made, guest, cluster = contained
    before = set(cluster.objects)
    images = to_float(digits.test.images[:20])
    steps: list[str] = []
    made.report = steps.append
    made.launch()
    digest = initdata_digest(made.plan.container())
    assert any(digest in line for line in steps), "what a policy is to ask for"
    assert guest.asked[:3] == [f"/cdh/resource/default/pmc2-edge/{name}" for name in ("ca.pem", "edge.pem", "edge.key")]
    assert [row.state for row in made.status()] == ["ready", "ready"]

    guest.host_data = bytes.fromhex(digest)
    inside_labels = System.load("digits", TARGET, AUXILIARY).recognise(images).labels
    with made.client(policy=processor().policy(initdata=digest)) as client:
        assert torch.equal(client.recognise(images).labels, inside_labels)
        assert client.verdict is not None
        assert client.verdict.proves
    guest.host_data = bytes(32)  # another configuration, with which the host gives itself access
    for policy in (processor().policy(initdata=digest), processor().policy(initdata="any")):
        with made.client(policy=policy) as client, pytest.raises(AttestationError, match="initdata"):
            client.recognise(images)

    assert "secrets" not in {plural for _, plural in cluster.requests}
    assert made.stop() == ["edge", "cloud", "tunnels"]
    assert set(cluster.objects) == before


def test_a_policy_that_does_not_fit_ends_the_launch_first(tmp_path: Path, tiny_data: Path) -> None:
    steps: list[str] = []
    made = Deployed(planned(tmp_path), report=steps.append)
    digest = initdata_digest(made.plan.container())
    for text, reason in (
        (POLICY.format("ab" * 32), f"asks for initdata = {'ab' * 32}, and the edge of guarded.toml has {digest}"),
        ('kind = "sample"\n', "proves nothing of a confidential edge"),
        (POLICY.format("").replace('initdata = ""', ""), "a policy needs initdata"),
    ):
        (tmp_path / "policy.toml").write_text(text)
        for call in (made.launch, made.client, lambda: made.policy(tmp_path / "policy.toml")):
            with pytest.raises(UsageError, match=reason):
                call()
    for text in (POLICY.format(digest.upper()), POLICY.format("any")):
        (tmp_path / "policy.toml").write_text(text)
        policy = made.policy()
        assert policy is not None
        assert policy.initdata == digest
    bare = dataclasses.replace(made.plan, client=ClientPlan())
    for call in (Deployed(bare).launch, Deployed(bare).client):
        with pytest.raises(UsageError, match=r"a confidential edge needs \[client\] policy"):
            call()
    assert steps == []
    assert not made._hosts, "no machine is connected"
    assert not made.plan.certs.exists()


def test_before_it_serves_a_container_has_a_state_and_no_logs(contained: tuple[Deployed, Guest, Cluster]) -> None:
    made, _, cluster = contained
    with pytest.raises(RemoteError, match="not launched"):
        made.url("edge")
    with pytest.raises(UsageError, match="keeps what it says in the guest"):
        list(made.logs("edge"))
    assert made.status()[0].state == "absent"
    cluster.scenario = waits("CrashLoopBackOff", "back-off 10s")
    edge = made.stage("edge")
    assert isinstance(edge, ContainerStage)
    edge.containers.apply()
    row = made.status()[0]
    assert row.state == "starting", "the cluster tries again"
    assert "CrashLoopBackOff" in row.last[0]
