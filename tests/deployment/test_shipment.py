"""A stage's shipment: a wheel that installs, and its own half of the weights."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from workbench.certs import issue
from workbench.deployment.plan import Deployment
from workbench.deployment.shipment import certificates_of, program, weights_of, wheel
from workbench.errors import WeightsError

PLAN = '[pair]\ndataset = "digits"\ntarget = "resnet18"\nauxiliary = "mobilenet_v2"\n[edge]\nhost = "local"\n[cloud]\nhost = "local"\n'


@pytest.fixture
def plan(tmp_path: Path, tiny_data: Path) -> Deployment:
    path = tmp_path / "deployment.toml"
    path.write_text(PLAN)
    return Deployment.read(path)


@pytest.mark.system
def test_the_wheel_is_reproducible_and_pip_installs_it(tmp_path: Path) -> None:
    first = wheel()
    wheel.cache_clear()
    assert wheel() == first
    path = tmp_path / first.name
    path.write_bytes(first.content)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    found = subprocess.run(
        [sys.executable, "-c", "import workbench.services.server, workbench; print(workbench.__file__)"],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(tmp_path / "site" / "workbench" / "__init__.py")


def test_the_wheel_declares_what_a_stage_needs_and_no_more() -> None:
    made = wheel()
    with zipfile.ZipFile(io.BytesIO(made.content)) as archive:
        name = next(each for each in archive.namelist() if each.endswith("METADATA"))
        needs = [line for line in archive.read(name).decode().splitlines() if line.startswith("Requires-Dist")]
    assert any("uvicorn" in each for each in needs)
    assert not any("pytest" in each for each in needs)
    assert made.python == "3.11"


def test_each_stage_is_sent_its_own_half_of_the_weights(plan: Deployment) -> None:
    edge, cloud = weights_of(plan, "edge"), weights_of(plan, "cloud")
    assert [name for name in cloud if "-X-" in name and "compressor" not in name] == []
    assert [name for name in edge if name.endswith("/resnet18.json")] == []
    assert [name for name in edge if "-compressor" in name] != []


def test_each_stage_gets_its_certificate_none_the_authority_key(plan: Deployment) -> None:
    issue(plan.certs)
    edge, cloud = certificates_of(plan, "edge"), certificates_of(plan, "cloud")
    assert sorted(edge) == ["certs/ca.pem", "certs/edge.key", "certs/edge.pem"]
    assert sorted(cloud) == ["certs/ca.pem", "certs/cloud.key", "certs/cloud.pem"]
    authority = (plan.certs / "authority" / "ca.key").read_text()
    assert authority not in (*edge.values(), *cloud.values())


def test_the_program_is_reproducible_and_needs_only_python(tmp_path: Path) -> None:
    first = program()
    program.cache_clear()
    assert program() == first
    path = tmp_path / "program"
    path.write_bytes(first)
    asked = [sys.executable, "-I", "-S", str(path), str(tmp_path / "far"), "status"]
    found = subprocess.run(asked, input='{"name": "x"}', cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["done"] == {"running": False, "known": False, "port": None}


def test_missing_weights_are_named_before_anything_is_sent(plan: Deployment, tiny_data: Path) -> None:
    other = Deployment.read(plan.path)
    object.__setattr__(other.pair, "auxiliary", "vgg13_bn")
    with pytest.raises(WeightsError, match="resnet18-X-vgg13_bn"):
        weights_of(other, "edge")
