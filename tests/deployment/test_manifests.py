"""The container's objects against Kubernetes' own schemas: their content, their permissions, and refusals before an apply."""

from __future__ import annotations

import base64
import copy
import functools
import gzip
import hashlib
import itertools
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils
from kubernetes_validate.utils import all_versions

from tests.support.containers import CERTIFICATES, CLOUD, CONFIDENTIAL, DEVELOPMENT, IMAGE, only, pod, rendered
from workbench.deployment.kubernetes import guest
from workbench.deployment.kubernetes.manifests import (
    Container,
    initdata,
    initdata_digest,
    render,
    runtime_class,
    shim_name,
    to_json,
    to_yaml,
)
from workbench.errors import UsageError

INITDATA = "io.katacontainers.config.hypervisor.cc_init_data"
VERSIONS = sorted({version for version in all_versions() if int(version.split(".")[1]) >= 28})


COMBINATIONS = [
    replace(
        base, node_port=node_port, replicas_min=least, replicas_max=most, create_namespace=namespace, logs=logs, egress=egress
    )
    for base, node_port, (least, most), namespace, logs, egress in itertools.product(
        (CONFIDENTIAL, DEVELOPMENT),
        (0, 30443),
        ((1, 1), (3, 3), (1, 4)),
        (False, True),
        (False, True),
        ((), ("192.0.2.0/24:443", "[2001:db8::1]:443")),
    )
]


COMBINATIONS += [replace(base, shim="rust") for base in (CONFIDENTIAL, DEVELOPMENT)]
COMBINATIONS += [CLOUD, replace(CLOUD, shim="rust", node_port=30444)]
OBJECTS = [json.loads(text) for text in sorted({json.dumps(each) for one in COMBINATIONS for each in rendered(one)})]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_container_is_valid_for_this_kubernetes(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))  # parse a version's schemas once
    for manifest in OBJECTS:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_combinations_have_every_kind_of_object() -> None:
    assert {manifest["kind"] for manifest in OBJECTS} == {
        "Namespace", "Secret", "NetworkPolicy", "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler",
    }  # fmt: skip


def test_the_versions_reach_from_1_28_to_the_newest_known() -> None:
    assert "1.28.0" in VERSIONS
    assert kubernetes_validate.latest_version() in VERSIONS
    assert len(VERSIONS) >= 10


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "template", "spec", "runtimeClassName"),
        ("spec", "template", "spec", "containers", 0, "securityContext", "readOnlyRootFilesystem"),
        ("spec", "template", "spec", "containers", 0, "readinessProbe", "httpGet"),
        ("spec", "strategy"),
    ],
    ids=lambda path: str(path[-1]),
)
def test_the_schema_catches_a_field_that_is_misspelt(path: tuple[str | int, ...]) -> None:
    deployment = copy.deepcopy(only(rendered(CONFIDENTIAL), "Deployment"))
    parent: Any = deployment
    for step in path[:-1]:
        parent = parent[step]
    parent[str(path[-1]).capitalize()] = parent.pop(path[-1])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_json_and_yaml_hold_the_same_objects() -> None:
    manifests = rendered(COMBINATIONS[-1])
    assert [json.loads(line) for line in to_json(manifests).splitlines()] == manifests
    assert list(yaml.safe_load_all(to_yaml(manifests))) == manifests


def test_a_container_is_rendered_the_same_every_time() -> None:
    assert to_json(rendered(CONFIDENTIAL)) == to_json(rendered(replace(CONFIDENTIAL)))


# --- the pod -----------------------------------------------------------------------------------------------------------------


def test_each_kata_implementation_has_its_own_runtime_classes() -> None:
    for container, name in (
        (CONFIDENTIAL, "kata-qemu-snp"),
        (DEVELOPMENT, "kata-qemu-coco-dev"),
        (replace(CONFIDENTIAL, shim="rust"), "kata-qemu-snp-runtime-rs"),
        (replace(DEVELOPMENT, shim="rust"), "kata-qemu-coco-dev-runtime-rs"),
        (CLOUD, "kata-qemu-nvidia-gpu-snp"),
        (replace(CLOUD, shim="rust"), "kata-qemu-nvidia-gpu-snp-runtime-rs"),
    ):
        assert pod(container)["spec"]["runtimeClassName"] == runtime_class(container) == name
        assert shim_name(container) == name.removeprefix("kata-")


def test_a_cloud_in_a_guest_gets_a_gpu_and_its_brokers_key() -> None:
    spec = pod(CLOUD)["spec"]
    (cloud,) = spec["containers"]
    assert cloud["name"] == "cloud"
    assert cloud["resources"]["limits"]["nvidia.com/pgpu"] == "1"
    assert cloud["command"][1:3] == ["serve", "cloud"]
    assert cloud["command"][cloud["command"].index("--secrets") + 1] == "default/pmc2-cloud"
    assert {volume["name"] for volume in spec["volumes"]} == {"run", "tmp"}, "no certificate comes from the host"
    assert egress(CLOUD) == ["10.0.0.9/32 TCP/8080"]
    assert "readinessProbe" not in cloud, "a cloud answers nobody without a certificate, the kubelet included"


def test_the_image_is_pulled_by_digest_never_from_the_host() -> None:
    edge = pod(CONFIDENTIAL)["spec"]["containers"][0]
    assert (edge["image"], edge["imagePullPolicy"]) == (IMAGE, "Always")


def test_the_annotation_is_the_configuration_of_the_digest() -> None:
    annotations = pod(CONFIDENTIAL)["metadata"]["annotations"]
    text = gzip.decompress(base64.b64decode(annotations[INITDATA], validate=True))
    assert text.decode() == initdata(CONFIDENTIAL)
    assert hashlib.sha256(text).hexdigest() == initdata_digest(CONFIDENTIAL)
    assert annotations["io.katacontainers.config.hypervisor.kernel_params"] == "agent.guest_components_rest_api=all"


def test_the_configuration_names_the_key_broker() -> None:
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
    found = tomllib.loads(initdata(replace(CONFIDENTIAL, kbs_url="https://10.0.0.9", kbs_cert=certificate)))
    assert (found["version"], found["algorithm"], set(found["data"])) == (
        "0.1.0",
        "sha256",
        {"policy.rego", "aa.toml", "cdh.toml"},
    )
    agent, hub = (tomllib.loads(found["data"][name]) for name in ("aa.toml", "cdh.toml"))
    assert agent["token_configs"]["kbs"] == {"url": "https://10.0.0.9", "cert": certificate + "\n"}
    assert hub["kbc"] == {"name": "cc_kbc", "url": "https://10.0.0.9", "kbs_cert": certificate + "\n"}


def test_the_digest_is_of_what_the_guest_runs_and_allows() -> None:
    digest = initdata_digest(CONFIDENTIAL)
    changes: list[dict[str, Any]] = [
        {"image": IMAGE[:-1] + "b"},
        {"cloud": "10.0.0.8:8444"},
        {"options": ("--least-strength", "0")},
        {"resource": "default/another"},
        {"kbs_url": "http://10.0.0.10:8080"},
        {"logs": True},
        {"policy": "package agent_policy"},
    ]
    assert not [change for change in changes if initdata_digest(replace(CONFIDENTIAL, **change)) == digest]
    other = replace(CONFIDENTIAL, memory="9Gi", cpu="2", replicas_min=2, replicas_max=5, node_port=30443, namespace="other")
    assert initdata_digest(other) == initdata_digest(replace(other, shim="rust")) == digest


def test_the_pod_has_no_more_rights_than_it_needs() -> None:
    spec = pod(CONFIDENTIAL)["spec"]
    edge = spec["containers"][0]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert edge["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert {volume["name"]: volume.get("emptyDir", {}).get("medium") for volume in spec["volumes"]} == {
        "run": "Memory",
        "tmp": "Memory",
    }
    assert edge["resources"]["requests"] == edge["resources"]["limits"] == {"cpu": "4", "memory": "6Gi"}
    assert spec["terminationGracePeriodSeconds"] > 30  # the edge's own time to finish


def test_probes_ask_the_edge_itself_by_https_and_never_execute() -> None:
    edge = pod(CONFIDENTIAL)["spec"]["containers"][0]
    paths = {kind: edge[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/v2/health/live", "readiness": "/v2/health/ready", "liveness": "/v2/health/live"}
    assert {edge[f"{kind}Probe"]["httpGet"]["scheme"] for kind in paths} == {"HTTPS"}
    assert "--probes" in edge["command"]


def test_a_new_manifest_is_a_new_revision() -> None:
    def revision(container: Container, certificates: dict[str, bytes] | None = None) -> str:
        (deployment,) = (each for each in render(container, certificates) if each["kind"] == "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["labels"]["pmc2.workbench/revision"])

    renewed = CERTIFICATES | {"edge.pem": b"another"}
    assert revision(CONFIDENTIAL) == revision(replace(CONFIDENTIAL, node_port=30443))
    assert revision(CONFIDENTIAL) != revision(replace(CONFIDENTIAL, memory="7Gi"))
    assert revision(DEVELOPMENT, CERTIFICATES) != revision(DEVELOPMENT, renewed)


# --- the key -----------------------------------------------------------------------------------------------------------------


def test_a_confidential_edges_key_is_in_no_manifest() -> None:
    manifests = rendered(CONFIDENTIAL)
    assert "Secret" not in {each["kind"] for each in manifests}
    command = pod(CONFIDENTIAL)["spec"]["containers"][0]["command"]
    assert command[command.index("--secrets") + 1] == "default/pmc2-edge"
    with pytest.raises(UsageError, match="in a Secret the host could read the TLS key"):
        render(CONFIDENTIAL, CERTIFICATES)


def test_in_development_certificates_come_in_a_marked_secret() -> None:
    manifests = rendered(DEVELOPMENT)
    secret = only(manifests, "Secret")
    assert secret["metadata"]["name"] == "pmc2-edge-readable-by-the-host"
    assert "can read this key" in secret["metadata"]["annotations"]["pmc2.workbench/warning"]
    assert {name: base64.b64decode(data) for name, data in secret["data"].items()} == CERTIFICATES
    assert "--secrets" not in pod(DEVELOPMENT)["spec"]["containers"][0]["command"]
    with pytest.raises(UsageError, match="needs certificates"):
        render(DEVELOPMENT, {"ca.pem": b""})


@pytest.mark.parametrize("container", [CONFIDENTIAL, DEVELOPMENT])
def test_no_key_is_anywhere_but_in_the_secret(container: Container) -> None:
    others = [each for each in rendered(container) if each["kind"] != "Secret"]
    text = to_json(others).decode() + to_yaml(others) + repr(container)
    assert "the key itself" not in text
    assert base64.b64encode(b"the key itself").decode() not in text


# --- the network -------------------------------------------------------------------------------------------------------------


def egress(container: Container) -> list[str]:
    policy = only(rendered(container), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    found = []
    for rule in policy["egress"]:
        assert rule["to"], "without a peer it is everyone"
        ports = ",".join(f"{port['protocol']}/{port['port']}" for port in rule["ports"])
        found += [f"{peer.get('ipBlock', {}).get('cidr', 'dns')} {ports}" for peer in rule["to"]]
        assert all(set(peer) in ({"ipBlock"}, {"namespaceSelector", "podSelector"}) for peer in rule["to"])
        for peer in rule["to"]:  # any namespace may have a pod with the label of the cluster's DNS
            namespace = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}})
            assert namespace == {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    return found


DNS = "dns UDP/53,TCP/53"


def test_the_edge_reaches_the_cloud_and_named_hosts_only() -> None:
    cloud, broker = "10.0.0.7/32 TCP/8444", "10.0.0.9/32 TCP/8080"
    registry = IMAGE.replace("registry.example", "192.0.2.4")
    assert egress(DEVELOPMENT) == [cloud]
    assert egress(replace(DEVELOPMENT, cloud="[2001:db8::7]:8444")) == ["2001:db8::7/128 TCP/8444"]
    assert egress(CONFIDENTIAL) == [cloud, broker]
    by_address = replace(CONFIDENTIAL, image=registry, egress=("192.0.2.4:5000",))
    assert egress(by_address) == [cloud, "192.0.2.4/32 TCP/5000", broker]
    registry_by_name = replace(CONFIDENTIAL, egress=("192.0.2.0/24:443",))
    assert egress(registry_by_name) == [cloud, "192.0.2.0/24 TCP/443", broker, DNS]
    broker_by_name = replace(CONFIDENTIAL, kbs_url="https://kbs.example", egress=("10.0.0.9:443",))
    assert egress(broker_by_name) == [cloud, "10.0.0.9/32 TCP/443", DNS]


def test_anyone_may_come_to_the_edges_port_and_to_no_other() -> None:
    assert only(rendered(CONFIDENTIAL), "NetworkPolicy")["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8443}]}]


@pytest.mark.parametrize(("node_port", "kind"), [(0, "ClusterIP"), (30443, "NodePort")])
def test_the_service_is_internal_without_a_node_port(node_port: int, kind: str) -> None:
    spec = only(rendered(replace(CONFIDENTIAL, node_port=node_port)), "Service")["spec"]
    assert spec["type"] == kind
    assert spec["ports"][0].get("nodePort", 0) == node_port


def test_where_it_scales_the_autoscaler_has_the_word_on_replicas() -> None:
    scaled = rendered(replace(CONFIDENTIAL, replicas_min=2, replicas_max=5))
    assert "replicas" not in only(scaled, "Deployment")["spec"]
    spec = only(scaled, "HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "pmc2-edge"}
    fixed = rendered(replace(CONFIDENTIAL, replicas_min=3, replicas_max=3))
    assert only(fixed, "Deployment")["spec"]["replicas"] == 3
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in fixed}


def test_every_object_but_the_namespace_has_the_common_labels() -> None:
    for container in COMBINATIONS:
        for manifest in rendered(container):
            labels = manifest["metadata"].get("labels", {})
            assert (container.selector.items() <= labels.items()) == (manifest["kind"] != "Namespace")


# --- refused -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": "registry.example/pmc2-edge:1"}, "'registry.example/pmc2-edge:1' must name a digest"),
        ({"image": "registry.example/pmc2-edge@sha256:abc"}, "must name a digest"),
        ({"image": 'x"@sha256:' + "a" * 64}, "must name a digest"),
        ({"cloud": "cloud.example:8444"}, "'cloud.example:8444' must be IP:PORT"),
        ({"cloud": "10.0.0.7"}, "'10.0.0.7' must be IP:PORT"),
        ({"cloud": "10.0.0.0/8:8444"}, "one IP:PORT, not a network"),
        ({"egress": ("registry.example:443",)}, "'registry.example:443' must be IP:PORT"),
        ({"runtime": "confidental"}, "did you mean 'confidential'"),
        ({"shim": "rs"}, "unknown shim 'rs': did you mean 'rust'"),
        ({"gpu": "H100"}, "'H100' must be a resource"),
        ({"kbs_url": ""}, "else the host would see its TLS key"),
        ({"resource": ""}, "else the host would see its TLS key"),
        ({"kbs_url": "http://kbs.example:8080"}, "has a name, which no network policy knows"),
        ({"kbs_url": 'http://10.0.0.9/"\nx'}, "must be http"),
        ({"kbs_url": "http://[::1"}, "must be http"),
        ({"kbs_cert": '"""\n[kbc]'}, "a certificate in PEM"),
        ({"resource": "../../etc"}, "REPOSITORY/TYPE"),
        ({"name": "Edge"}, "'Edge' must be small letters"),
        ({"namespace": "-"}, "'-' must be small letters"),
        ({"memory": "6"}, "'6' must be in Mi or Gi"),
        ({"cpu": "two"}, "'two' must be cores"),
        ({"port": 443}, "port 443"),
        ({"node_port": 80}, "node_port 80"),
        ({"replicas_min": 3, "replicas_max": 2}, "replicas from 3 to 2"),
        ({"options": ("'''\n[data]",)}, "cannot|can have '''"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_in_one_line_that_names_it(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        replace(CONFIDENTIAL, **wrong)
    assert "\n" not in str(refusal.value)


# --- the image ---------------------------------------------------------------------------------------------------------------


def test_the_image_is_what_the_guest_expects() -> None:
    text = Path(guest.__file__).with_name("Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [what for kind, what in instructions if kind == "FROM"] == ["${BASE} AS build", "${BASE}"]
    assert "BASE" in [what for kind, what in instructions if kind == "ARG"], "a base by digest is required, and has no default"
    (environment,) = (what.split() for kind, what in instructions if kind == "ENV")
    assert tuple(environment) == guest.ENVIRONMENT
    assert ["USER", f"{guest.USER}:{guest.USER}"] in instructions
    assert ["STOPSIGNAL", "SIGTERM"] in instructions
    installs = [part for kind, what in instructions if kind == "RUN" for part in what.split("&&") if "install" in part]
    assert len(installs) == 3
    assert all(
        "--no-deps" in part and ("--require-hashes" in part or "--no-index" in part)
        for part in installs
        if "uninstall" not in part
    )
    assert "://" not in text, "no index is named"
    assert ["ENTRYPOINT", json.dumps([guest.PROGRAM])] in instructions
