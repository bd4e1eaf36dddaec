"""Plans of deployments: the template's content, and refusals by key."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import yaml

from workbench.__main__ import main
from workbench.certs import issue
from workbench.deployment.plan import TEMPLATE, Deployment
from workbench.errors import UsageError

IMAGE = f"registry.example/pmc2-edge@sha256:{'a' * 64}"
BOTH = '[edge]\nhost = "local"\n[cloud]\nhost = "local"\n'
CONTAINER = f"""[edge]
host = "edge-sev"
runtime = "confidential"
image = "{IMAGE}"
[edge.container]
kbs = "http://10.0.0.9:8080"
secrets = "default/pmc2-edge"
replicas = [2, 4]
[cloud]
host = "gpu-box"
address = "10.0.0.7:8444"
"""
GPU = f"""[edge]
host = "local"
[cloud]
host = "gpu-box"
runtime = "confidential"
image = "{IMAGE}"
options = ["--precision", "bfloat16"]
[cloud.container]
kbs = "http://10.0.0.9:8080"
secrets = "default/pmc2-cloud"
gpu = "nvidia.com/pgpu"
shim = "rust"
"""


def read(tmp_path: Path, text: str, name: str = "deployment.toml") -> Deployment:
    path = tmp_path / name
    path.write_text(text)
    return Deployment.read(path)


def test_the_template_is_a_plan_of_both_stages_on_this_machine(tmp_path: Path) -> None:
    plan = read(tmp_path, TEMPLATE)
    assert plan.edge.local
    assert plan.cloud.local
    assert (plan.name, plan.edge.runtime, plan.pair.target) == ("deployment", "process", "resnet18")
    assert plan.policy is None


def test_every_default_in_the_template_is_the_actual_one(tmp_path: Path) -> None:
    bare = read(tmp_path, BOTH)
    shown = [line[2:] for line in TEMPLATE.splitlines() if line.startswith(("# dataset", "# target", "# auxiliary", "# codec"))]
    assert len(shown) == 4
    assert read(tmp_path, BOTH + "[pair]\n" + "\n".join(shown)) == bare
    stage = ("# device", "# listen", "# pip", "# folder", "# options")
    edge = [line[2:] for line in TEMPLATE.partition("[cloud]")[0].splitlines() if line.startswith(stage)]
    assert len(edge) == 5
    assert read(tmp_path, BOTH.replace("[cloud]", "\n".join(edge) + "\n[cloud]")) == bare


def test_a_container_is_planned_with_its_settings(tmp_path: Path) -> None:
    plan = read(tmp_path, CONTAINER)
    assert plan.edge.container.replicas == (2, 4)
    assert plan.edge.container.memory == "6Gi"
    assert plan.cloud.address == "10.0.0.7:8444"


def test_a_container_s_shim_is_its_plan_s(tmp_path: Path) -> None:
    assert read(tmp_path, CONTAINER).container().shim == "go"
    assert read(tmp_path, CONTAINER.replace("replicas", 'shim = "rust"\nreplicas')).container().shim == "rust"


def test_a_cloud_with_a_confidential_gpu_is_only_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    plan = read(tmp_path, GPU)
    container = plan.cloud_container()
    assert (container.gpu, container.shim, container.name) == ("nvidia.com/pgpu", "rust", "deployment-cloud")
    assert main(["manifests", str(plan.path), "cloud"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("# A cloud in a guest")
    assert "never run" in said.splitlines()[0]
    (deployment,) = (each for each in yaml.safe_load_all(said) if each["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["runtimeClassName"] == "kata-qemu-nvidia-gpu-snp-runtime-rs"
    assert spec["containers"][0]["command"][-4:] == ["--device", "cuda", "--precision", "bfloat16"]
    assert main(["launch", str(plan.path)]) == 2
    assert "it has never run" in capsys.readouterr().err
    assert main(["manifests", str(plan.path), "edge"]) == 2
    assert "is no container" in capsys.readouterr().err


def test_manifests_of_a_development_edge_have_its_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    plan = read(tmp_path, re.sub("(?m)^(kbs|secrets) = .*\n", "", CONTAINER.replace("confidential", "development")))
    assert main(["manifests", str(plan.path)]) == 2
    assert "not issued yet: `workbench launch" in capsys.readouterr().err
    issue(plan.certs)
    assert main(["manifests", str(plan.path)]) == 0
    (secret,) = (each for each in yaml.safe_load_all(capsys.readouterr().out) if each["kind"] == "Secret")
    assert base64.b64decode(secret["data"]["edge.pem"]) == (plan.certs / "edge" / "edge.pem").read_bytes()


def test_the_policy_is_found_beside_the_plan(tmp_path: Path) -> None:
    assert read(tmp_path, BOTH + '[client]\npolicy = "policy.toml"\n').policy == tmp_path.resolve() / "policy.toml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "table [edge] is missing"),
        ('[edge]\nhost = "a"\n', "table [cloud] is missing"),
        ('[edge]\n[cloud]\nhost = "a"\n', "[edge] host is missing"),
        (BOTH.replace("host", "hots", 1), "did you mean 'host'"),
        (BOTH + "[clout]\n", "did you mean 'cloud'"),
        (BOTH.replace('"local"', "7", 1), "must be text, got 7"),
        (BOTH + 'runtime = "container"\n', "choose one of confidential, development, process"),
        (BOTH + 'device = "gpu"\n', "unknown device of [cloud] 'gpu'"),
        (BOTH + 'listen = "8444"\n', "no HOST:PORT"),
        (BOTH + "options = [1]\n", "must be a list of text"),
        (BOTH + 'runtime = "confidential"\n', "[cloud] runtime must be 'process'"),
        (
            BOTH + 'runtime = "development"\n[cloud.container]\ngpu = "nvidia.com/pgpu"\n',
            "[cloud] runtime must be 'process', or",
        ),
        (GPU.replace('secrets = "default/pmc2-cloud"', ""), "[cloud.container] kbs and secrets are needed"),
        (GPU.replace(IMAGE, "registry.example/pmc2:1"), "must name a digest"),
        (CONTAINER.replace("replicas", 'shim = "rs"\nreplicas'), "choose one of go, rust"),
        (CONTAINER.replace("replicas", 'gpu = "nvidia.com/pgpu"\nreplicas'), "a key of [cloud.container]"),
        (CONTAINER.replace(IMAGE, "registry.example/pmc2-edge:latest"), "must name a digest"),
        (CONTAINER.replace("10.0.0.7:8444", "gpu-box:8444"), "must be IP:PORT"),
        (CONTAINER.replace("[2, 4]", "[4, 2]"), "must be [least, most]"),
        (CONTAINER.replace('kbs = "http://10.0.0.9:8080"', ""), "kbs and secrets are needed"),
        (CONTAINER.replace("replicas", "replica"), "unknown key in [edge.container] 'replica'"),
        ("edge = 3", "[edge] must be a table"),
        ("[edge", "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert "deployment.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workbench init-deployment"):
        Deployment.read(tmp_path / "deployment.toml")


def test_a_name_that_could_not_be_a_service_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="small letters"):
        read(tmp_path, BOTH, "My Deployment.toml")
