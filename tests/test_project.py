"""The repository's promises: versions declared once, packages complete."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "workbench"
REQUIRED = ("jupyterlab", "ipywidgets", "torch", "torchvision", "compressai", "matplotlib", "papermill", "paramiko", "pytest")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_python_version_named_is_supported(project: dict[str, Any]) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == project["project"]["name"]
    python, pip, section = environment["dependencies"]
    assert (pip, list(section)) == ("pip", ["pip"]), "it declares no package of its own"
    supported = SpecifierSet(project["project"]["requires-python"])
    assert python.removeprefix("python=") in supported
    assert project["tool"]["ruff"]["target-version"].replace("py3", "3.") in supported
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    bounds = re.search(r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", makefile)
    assert bounds is not None
    lowest, highest = map(int, bounds.groups())
    assert [minor for minor in range(30) if f"3.{minor}" in supported] == list(range(lowest, highest + 1))


def test_what_a_user_asked_for_is_declared(project: dict[str, Any]) -> None:
    lists = [project["project"]["dependencies"], project["project"]["optional-dependencies"]["dev"]]
    declared = {Requirement(line).name for lines in lists for line in lines}
    assert set(REQUIRED) <= declared


@pytest.mark.system
def test_the_wheel_is_complete_and_shared_files_are_installed(project: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path), str(ROOT)], check=True, capture_output=True, timeout=120)
    (built,) = tmp_path.glob("*.whl")
    folder = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    with zipfile.ZipFile(built) as wheel:
        held = {name for name in wheel.namelist() if name.startswith(f"{PACKAGE.name}/")}
    assert held == {path.relative_to(ROOT).as_posix() for path in folder}
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared
    for path, place in shared.items():
        assert (Path(sys.prefix) / place).read_bytes() == (ROOT / path).read_bytes(), "make setup"
    scripts = project["project"]["scripts"]
    assert scripts == {"workbench": "workbench.__main__:main"}


def imports_of(names: tuple[str, ...], path: Path) -> list[tuple[ast.AST, list[ast.AST]]]:
    found: list[tuple[ast.AST, list[ast.AST]]] = []

    def visit(node: ast.AST, around: list[ast.AST]) -> None:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules = [str(node.module)]
        if any(module.partition(".")[0] in names for module in modules):
            found.append((node, around))
        for child in ast.iter_child_nodes(node):
            visit(child, [*around, node])

    visit(ast.parse(path.read_text(encoding="utf-8")), [])
    return found


PATCHED = ("torchvision", "compressai")


@functools.cache
def reaching() -> list[Path]:
    named = (path for path in PACKAGE.rglob("*.py") if any(name in path.read_text(encoding="utf-8") for name in PATCHED))
    return sorted(path for path in named if imports_of(PATCHED, path))


def test_torchvision_and_compressai_come_through_compat_alone() -> None:
    assert {"classifiers.py", "compression.py", "cifar10.py", "inference.py", "models.py"} <= {path.name for path in reaching()}
    for path in reaching():
        for node, around in imports_of(PATCHED, path):
            withs = [ast.unparse(item.context_expr) for each in around if isinstance(each, ast.With) for item in each.items]
            assert "_compat.stub_unused_imports()" in withs, f"{path}:{getattr(node, 'lineno', 0)}"


FIRST = """
import importlib, os, pathlib, sys
import torch, PIL.Image, numpy  # neither torchvision nor compressai: each child is the first to import them
assert not {"torchvision", "compressai"} & set(sys.modules)

def reach(name, folder):
    module = importlib.import_module(name)
    if name == "workbench.cifar10":  # imports when it reads; without a network that is one line
        try:
            importlib.import_module("workbench.data").load("cifar10", folder).test
        except module.DataError as error:
            assert "--data-dir" in str(error), error
    assert "torchvision" in sys.modules or "compressai" in sys.modules, "it reaches neither: nothing was tried"

children = {}
for name in sys.argv[2:]:
    child = os.fork()
    if not child:
        try:
            reach(name, sys.argv[1])
        except BaseException as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    children[child] = name
failed = [name for child, name in children.items() if os.waitpid(child, 0)[1]]
sys.exit(1 if failed else 0)
"""


@pytest.mark.system
def test_each_module_can_be_the_first_to_import_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in reaching()]
    command = [sys.executable, "-W", "ignore", "-c", FIRST, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
