"""Plans of deployments: what the template says, and what is refused, by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_every_default_that_the_template_shows_is_the_one_that_holds(tmp_path: Path) -> None:
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
