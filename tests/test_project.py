"""The repository's own promises: declared once, packaged whole, and every file importing only from the floors below it."""

from __future__ import annotations

import ast
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
FLOORS = (
    (
        "errors",
        "terminal",
        "streams",
        "quiet",
        "storage",
        "processes",
        "_compat",
        "metrics",
        "legibility",
        "paper",
        "pictures",
        "samples",
        "folders",
        "cifar10",
        "data",
    ),
    ("classifiers", "models", "weights", "state_dicts", "checkpoints", "inference"),
    ("entropy", "bitstream", "codecs"),
    ("system",),
    ("training", "evaluation", "audit"),
    ("certs", "protocol", "attest", "services", "client"),
    ("bench", "ssh"),
    ("remote", "deployment"),
    ("plots", "notebook", "panels", "results", "runs", "grid"),
    ("commands", "__main__"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
REQUIRED = ("jupyterlab", "ipywidgets", "torch", "torchvision", "compressai", "matplotlib", "papermill", "paramiko", "pytest")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_conda_environment_declares_no_package_of_its_own(project: dict[str, Any], environment: dict[str, Any]) -> None:
    assert environment["name"] == project["project"]["name"]
    python, pip, section = environment["dependencies"]
    assert re.fullmatch(r"python=3\.\d+", python)
    assert pip == "pip"
    assert section == {"pip": ["--editable .[dev]"]}
    assert "dev" in project["project"]["optional-dependencies"]


def test_every_place_that_names_a_python_names_one_that_is_supported(
    project: dict[str, Any], environment: dict[str, Any]
) -> None:
    supported = SpecifierSet(project["project"]["requires-python"])
    assert environment["dependencies"][0].removeprefix("python=") in supported
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


def test_make_installs_the_torch_that_is_declared(project: dict[str, Any]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert r"""sed -nE 's/^ *"(torch==[^"]+)".*/\1/p' pyproject.toml""" in (ROOT / "Makefile").read_text(
        encoding="utf-8"
    ).replace("$$", "$")
    found = re.findall(r'^ *"(torch==[^"]+)"', text, re.MULTILINE)
    assert found == [line for line in project["project"]["dependencies"] if Requirement(line).name == "torch"]


def test_the_wheel_holds_the_whole_folder_and_what_is_shared_is_installed(project: dict[str, Any], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=120)
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


def test_the_version_is_declared_alike(project: dict[str, Any]) -> None:
    from workbench import __version__

    assert project["project"]["version"] == __version__


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Return the names right below `workbench` that a file imports, wherever in the file it does."""
    own = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = own[: len(own) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            targets = [(*module, alias.name) for alias in node.names]
        names |= {target[1] for target in targets if target[0] == "workbench" and len(target) > 1}
    return {name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def test_every_file_has_its_floor() -> None:
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert tops == set(FLOOR)


def test_the_drawing_of_the_floors_is_what_the_test_of_imports_holds() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = text.partition("<!-- floors: begin -->\n```\n")[2].partition("```\n<!-- floors: end -->")[0]
    expected = "".join(f"{number}  {' '.join(names)}\n" for number, names in enumerate(FLOORS))
    assert drawing == expected, f"docs/architecture.md: write\n{expected}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_from_its_own_floor_and_those_below(path: Path) -> None:
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    above = {name for name in imported(path) if FLOOR[name] > FLOOR[top]}
    assert not above, f"{path.name} is on floor {FLOOR[top]}"


def test_the_reader_of_imports_sees_every_form() -> None:
    seen = imported(PACKAGE / "notebook.py")
    assert {"data", "training", "weights", "errors", "evaluation"} <= seen, "from . import, from .x import, in a function"
    assert {"objectives", "loop"}.isdisjoint(imported(PACKAGE / "training" / "recipes.py"))
    assert {"weights", "data", "models", "pictures"} <= imported(PACKAGE / "training" / "recipes.py"), (
        "from .. import, from ..x import"
    )
    assert imported(PACKAGE / "commands" / "reproduce.py") >= {"errors", "runs", "training", "weights"}


def test_the_package_itself_imports_nothing() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports_of(names: tuple[str, ...], path: Path) -> list[tuple[ast.AST, list[ast.AST]]]:
    """Return each import of one of the packages `names` in a file, with the statements around it."""
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
REACHING = sorted(path for path in PACKAGE.rglob("*.py") if imports_of(PATCHED, path))


def test_torchvision_and_compressai_are_imported_through_compat_alone() -> None:
    assert {"classifiers.py", "compression.py", "cifar10.py", "inference.py", "models.py"} <= {path.name for path in REACHING}
    for path in REACHING:
        for node, around in imports_of(PATCHED, path):
            withs = [ast.unparse(item.context_expr) for each in around if isinstance(each, ast.With) for item in each.items]
            assert "_compat.spared()" in withs, f"{path}:{getattr(node, 'lineno', 0)}"


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


def test_each_module_that_reaches_torchvision_can_be_the_first_to_do_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in REACHING]
    command = [sys.executable, "-W", "ignore", "-c", FIRST, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
