"""A stage's shipment: a wheel that installs, and its own half of the weights."""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from workbench.certs import issue
from workbench.deployment.plan import Deployment
from workbench.deployment.shipment import LOCKS, certificates_of, locks, program, weights_of, wheel
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


@pytest.mark.parametrize("python", ["3.11.4", "3.11.9", "3.12.3"])
def test_the_locks_pin_every_package_by_version_and_hash(python: str) -> None:
    platform = {
        "python_version": python[:4],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    pinned: dict[str, Version] = {}
    texts = {**locks(), "build": (LOCKS / "build.txt").read_bytes()}
    for part, text in texts.items():
        for line in re.sub(r" \\\n +", " ", text.decode()).splitlines():
            if line.startswith("#"):
                continue
            requirement, *hashes = line.split(" --hash=")
            assert hashes, line
            assert all(re.fullmatch("sha256:[0-9a-f]{64}", each.strip()) for each in hashes), line
            asked = Requirement(requirement)
            (pin,) = asked.specifier
            assert (pin.operator, asked.url) == ("==", None)
            if part != "build" and (asked.marker is None or asked.marker.evaluate(platform)):
                assert canonicalize_name(asked.name) not in pinned, "one version of each"
                pinned[canonicalize_name(asked.name)] = Version(pin.version)
    project = tomllib.loads((LOCKS.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for need in map(Requirement, project["dependencies"]):
        if need.marker is None or need.marker.evaluate(platform):
            assert pinned[canonicalize_name(need.name)] in need.specifier, "make lock"
    assert {"triton", "nvidia-cudnn-cu13"} <= set(pinned)
    assert not any(b"://" in text or b"--index" in text for text in texts.values())


def test_what_is_installed_here_is_what_is_locked() -> None:
    """So the tests are valid for the versions on hosts and in images."""
    text = locks()["base"].decode()
    for line in re.findall(r"^[a-z0-9].*", text, re.MULTILINE):
        asked = Requirement(line.removesuffix("\\"))
        if asked.name in {"starlette", "uvicorn", "httptools", "python-multipart", "cryptography", "compressai", "pillow"}:
            assert importlib.metadata.version(asked.name) in asked.specifier, "make lock"


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
