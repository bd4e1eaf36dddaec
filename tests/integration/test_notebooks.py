"""Every notebook through papermill and a real kernel, with a tiny pair, and its saved output in JupyterLab."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from PIL import Image

from tests.support.browsers import accessible, open_notebook, screenshot, wait_for
from tests.support.once import filled_once
from tests.support.pair import AUXILIARY, TARGET
from workbench import runs

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
# their whole output is in the file, while the other notebooks' views need a kernel
READ = ("bandwidth", "latency", "privacy", "tradeoff", "energy")
TRUE = "effectiveness"  # the notebook that `make test` runs
pytestmark = pytest.mark.timeout(300)  # a notebook may take 200 s


def papermill(name: str, output: Path, data: Path, **parameters: Any) -> None:
    given = [part for key, value in parameters.items() for part in ("-y", json.dumps({key: value}))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(FOLDER / f"{name}.ipynb"), f"{name}.ipynb", *given]
    environment = {**os.environ, "WORKBENCH_DATA": str(data), "OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with (output / "output.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=output, env=environment, stdout=log, stderr=log)
        try:
            (output / "status").write_text(str(process.wait(timeout=200)))
        finally:
            process.kill()
            process.wait()


class Executed(dict[str, tuple[Path, int, str]]):
    """Notebooks, and one with a wrong parameter, executed once in all processes, on first access: folder, exit status, output."""

    def __init__(self, data: Path, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._data, self._folders = data, folders
        given = {"target": TARGET, "auxiliary": AUXILIARY}
        self._wanted = {name: (name, given | {"limit": 32}) for name in runs.NOTEBOOKS}
        self._wanted |= {"wrong": ("train", given | {"limitt": 32})}
        self._wanted["explore"][1]["dataset"] = "digits"
        self._wanted["latency"][1]["requests"] = 20
        self._wanted["energy"][1]["repetitions"] = 3
        self._wanted["tradeoff"][1].update(strengths=[0, 1], rates=[0], pairs=60)  # the tiny compressor has one rate
        self._wanted["privacy"][1].update(seeds=1, effort="trial", pairs=[60, 120], others=[60])

    def __missing__(self, key: str) -> tuple[Path, int, str]:
        name, given = self._wanted[key]
        folder = filled_once(self._folders, f"notebook-{key}", lambda place: papermill(name, place, self._data, **given))
        self[key] = folder, int((folder / "status").read_text()), (folder / "output.log").read_text(encoding="utf-8")
        return self[key]


@pytest.fixture(scope="module")
def executed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    return Executed(tiny_root, tmp_path_factory)


def test_the_notebooks_are_those_that_a_batch_runs() -> None:
    assert (
        {path.stem for path in PATHS}
        == set(runs.NOTEBOOKS)
        == {"explore", "train", "effectiveness", "bandwidth", "privacy", "tradeoff", "latency", "energy", "deploy"}
    )


@pytest.mark.parametrize(
    "name", [each if each == TRUE else pytest.param(each, marks=pytest.mark.system) for each in runs.NOTEBOOKS]
)
def test_a_notebook_runs_headlessly_and_leaves_its_results(name: str, executed: Executed) -> None:
    folder, status, said = executed[name]
    assert status == 0, said[-3000:]
    kept = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert kept["notebook"] == name
    assert (kept["parameters"]["limit"], kept["parameters"]["target"]) == (32, TARGET)
    assert kept["results"]
    for result in kept["results"]:
        assert result["values"]
        assert result["dataset"] == ("untrained" if name == "train" else "scikit-learn digits")
        assert result["seed"] == 0
        assert result.get("weights") or result["sha256"]
    assert kept["figures"]
    for figure in kept["figures"]:
        with Image.open(folder / f"{figure['file']}.png") as png:
            assert min(png.size) > 100
        assert "<svg" in (folder / f"{figure['file']}.svg").read_text(encoding="utf-8")
        assert len(figure["caption"]) > 20
    assert sum(table["main"] for table in kept["tables"]) == (name == "bandwidth")
    executed = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert sum("data:image/png;base64," in text for text in shown) == len(kept["figures"])
    assert sum("<table" in text for text in shown) >= len(kept["tables"]), "a cell shows its last table alone"
    assert not [output for output in outputs if output.get("name") == "stderr"], "a notebook that has its weights is silent"


@pytest.mark.system
@pytest.mark.parametrize("name", READ)
def test_what_a_batch_left_is_legible_in_jupyterlab(
    name: str, executed: Executed, lab: str, lab_folder: Path, page: Page, tmp_path: Path
) -> None:
    kept = json.loads((executed[name][0] / f"{name}.json").read_text(encoding="utf-8"))
    shutil.copy(executed[name][0] / f"{name}.ipynb", lab_folder)
    open_notebook(page, lab, f"{name}.ipynb", "doc")
    for number, figure in enumerate(kept["figures"]):
        shown = page.locator(".jp-OutputArea-output img").nth(number)
        shown.scroll_into_view_if_needed()
        wait_for(lambda: shown.evaluate("(image) => image.naturalWidth") > 400, 30, "a figure did not load")  # noqa: B023
        assert shown.get_attribute("alt") == figure["caption"]
        box, view = shown.bounding_box(), page.locator(".jp-Notebook").bounding_box()
        assert box is not None
        assert view is not None
        assert box["x"] >= view["x"]
        assert box["x"] + box["width"] <= view["x"] + view["width"], "it is cut off"
        screenshot(page, tmp_path, f"{name}-{number}")
    tables = page.locator(".jp-OutputArea-output table").all()
    assert len(tables) >= len(kept["tables"]) > 0
    for table in tables:
        assert table.evaluate("(each) => each.scrollWidth <= each.parentElement.clientWidth"), "a table is cut off"
    accessible(page, ".jp-Notebook .jp-OutputArea-output")


@pytest.mark.system
def test_an_unknown_parameter_stops_the_notebook(executed: Executed) -> None:
    folder, status, said = executed["wrong"]
    assert status != 0
    assert "unknown parameter 'limitt': did you mean 'limit'?" in said
    assert not (folder / "train.json").exists()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebooks_typed_parameters_all_reach_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    statements = ast.parse(cells[0].source).body
    assert all(isinstance(statement, ast.AnnAssign) and statement.value is not None for statement in statements)
    declared = [statement.target.id for statement in statements]  # type: ignore[attr-defined]
    types = {statement.annotation.id for statement in statements}  # type: ignore[attr-defined]
    assert types <= {"str", "int", "float", "bool", "list"}
    assert all("  # " in line for line in cells[0].source.splitlines()), "each says what it is for"
    calls = [
        node
        for cell in notebook.cells
        if cell.cell_type == "code"
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Notebook"
    ]
    assert len(calls) == 1
    assert sorted(keyword.arg or "" for keyword in calls[0].keywords) == sorted(declared)
    assert [argument.value for argument in calls[0].args] == [path.stem]  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_and_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        assert cell.outputs == []
        assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_a_notebook_takes_from_a_module_exists(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    nodes = list(ast.walk(ast.parse("\n".join(cells))))
    taken: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench"):
            names = [alias.name for alias in node.names]
            module = __import__(node.module or "", fromlist=names)  # imports submodules, too
            taken |= {name: getattr(module, name) for name in names}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in taken:
            assert hasattr(taken[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
