"""The helper of notebooks: results, tables and figures saved at once, parameters checked in a real IPython shell."""

from __future__ import annotations

import atexit
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import papermill
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from tests.support.pair import AUXILIARY, TARGET
from workbench.data import Dataset
from workbench.errors import StorageError, UsageError, WeightsError
from workbench.metrics import mean, wilson
from workbench.notebook import Notebook, column_kinds, default_output, format_cell, plain
from workbench.weights import Pair


@pytest.fixture(autouse=True)
def memory_figures() -> Iterator[None]:
    with plt.rc_context():
        plt.switch_backend("Agg")
        yield
        plt.close("all")


def read(folder: Path, name: str = "test") -> dict[str, Any]:
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def figure() -> Any:
    made, axis = plt.subplots(figsize=(3, 2))
    axis.plot([1, 2, 3])
    return made


def test_a_notebook_leaves_its_parameters_before_it_has_a_result(tmp_path: Path) -> None:
    Notebook("test", output_dir=str(tmp_path / "out"), dataset="digits", limit=3)
    kept = read(tmp_path / "out")
    assert kept["parameters"] == {"dataset": "digits", "limit": 3}
    assert (kept["notebook"], kept["results"], kept["tables"], kept["figures"]) == ("test", [], [], [])


def test_a_result_is_on_disk_at_once_with_its_origin(tmp_path: Path) -> None:
    nb = Notebook("test", output_dir=str(tmp_path))
    nb.result(
        "first", {"accuracy": wilson(9, 10), "bytes": [np.float64(2.5), torch.tensor(3)]}, {"seed": 0, "dataset": "digits"}
    )
    (only,) = read(tmp_path)["results"]
    assert only == {
        "name": "first",
        "values": {"accuracy": wilson(9, 10).as_dict(), "bytes": [2.5, 3]},
        "seed": 0,
        "dataset": "digits",
    }
    nb.result("second", 1, {})
    assert [each["name"] for each in read(tmp_path)["results"]] == ["first", "second"]


def test_a_table_is_kept_and_shown_with_estimates_in_percent(tmp_path: Path) -> None:
    nb = Notebook("test", output_dir=str(tmp_path))
    shown = nb.table(
        "A <title>", ["name", "accuracy", "x"], [["<b>", wilson(50, 100), 1.0], ["c", "—", 2]], "n = 100", main=True
    )
    (table,) = read(tmp_path)["tables"]
    assert table == {
        "title": "A <title>",
        "columns": ["name", "accuracy", "x"],
        "rows": [["<b>", "50.00 [40.38, 59.62]", "1.00"], ["c", "—", "2"]],
        "note": "n = 100",
        "main": True,
    }
    assert "&lt;b&gt;" in shown.data
    assert "<b>" not in shown.data
    assert "A &lt;title&gt;" in shown.data
    assert "50.00 [40.38, 59.62]" in shown.data


def test_tables_align_figures_right_and_words_left(tmp_path: Path) -> None:
    rows = [["PMC²", "the label", "pairs and their classes", -1.5, "—", ""], ["2 of them", "2 pairs", "", 3, "1.0 x", "—"]]
    columns = ["arrangement", "attacker", "knowledge", "gain", "share", "rest"]
    assert column_kinds([[format_cell(cell) for cell in row] for row in rows], 6) == ["word", "word", "words", *3 * ["figure"]]
    shown = Notebook("test", output_dir=str(tmp_path)).table("t", columns, rows)
    wanted = [*3 * ["left"], *3 * ["right"]]
    assert re.findall(r"<th [^>]*text-align:(\w+)", shown.data) == wanted
    assert re.findall(r"<td [^>]*text-align:(\w+)", shown.data) == 2 * wanted
    fixed = [";white-space:nowrap" in cell for cell in re.findall(r"<td [^>]*>", shown.data)]
    assert fixed == 2 * [True, True, False, *3 * [True]]


def test_a_figure_is_kept_as_png_and_svg_and_closed(tmp_path: Path) -> None:
    nb = Notebook("test", output_dir=str(tmp_path))
    drawn = figure()
    shown = nb.figure(drawn, "curve", 'a "caption" <with> marks')
    (kept,) = read(tmp_path)["figures"]
    assert kept == {"file": "figures/test-curve", "caption": 'a "caption" <with> marks', "width": 288}
    with Image.open(tmp_path / "figures" / "test-curve.png") as png:
        assert png.size == (480, 320)
    assert "<svg" in (tmp_path / "figures" / "test-curve.svg").read_text(encoding="utf-8")
    assert not plt.fignum_exists(drawn.number)
    assert "data:image/png;base64," in shown.data
    assert "&lt;with&gt;" in shown.data
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_a_folder_that_cannot_be_written_is_one_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write .*test.json"):
        Notebook("test", output_dir=str(tmp_path / "file"))


def test_plain_values_survive_json_unchanged() -> None:
    for value, expected in (
        (mean([1.0, 2.0]), mean([1.0, 2.0]).as_dict()),
        ({"a": (1, 2), 3: None}, {"a": [1, 2], "3": None}),
        ([np.int64(3), np.float32(0.5), np.bool_(True)], [3, 0.5, True]),
        (torch.tensor(0.25), 0.25),
        ({"deep": [{"er": (wilson(1, 2),)}]}, {"deep": [{"er": [wilson(1, 2).as_dict()]}]}),
        ("text", "text"),
    ):
        assert plain(value) == expected
        assert json.loads(json.dumps(plain(value))) == expected


def test_data_set_pair_and_evaluation_follow_the_parameters(tiny_data: Path, tmp_path: Path) -> None:
    nb = Notebook("test", output_dir=str(tmp_path), dataset="digits", data_dir="", target=TARGET, auxiliary=AUXILIARY, limit=5)
    dataset = nb.dataset()
    assert dataset.name == "digits"
    pair = nb.pair(dataset)
    assert pair.name == f"{TARGET}-X-{AUXILIARY}"
    assert len(nb.evaluation(dataset, pair).labels) == 5
    assert nb.pair(dataset, compressor=False).compressor is None
    nb.parameters["limit"] = 0
    assert len(nb.evaluation(dataset, pair).labels) == len(dataset.test)


def test_the_samples_are_never_trained_on(empty_data: Path, tmp_path: Path) -> None:
    nb = Notebook("test", output_dir=str(tmp_path), dataset="samples", target=TARGET, auxiliary=AUXILIARY)
    with pytest.raises(WeightsError, match="no weights 'resnet18' for data set 'cifar10'"):
        nb.pair(nb.dataset())


def test_an_evaluations_rows_can_be_kept_as_they_are(pair: Pair, digits: Dataset, tmp_path: Path) -> None:
    nb = Notebook("test", output_dir=str(tmp_path), limit=4)
    evaluation = nb.evaluation(digits, pair)
    nb.result("table 2", evaluation.table2(), evaluation.origin())
    (kept,) = read(tmp_path)["results"]
    assert set(kept["weights"]) == {"target", "auxiliary", "generator", "compressor"}
    assert kept["values"]["target"]["n"] == 4


# --- parameters, in a real shell -------------------------------------------------------------------------------------------

DECLARED = "limit: int = 0\nrate: float = 0.5\nkind: str = ''\npairs: list = []\nfast: bool = False\n"
CALL = (
    "from workbench.notebook import Notebook\n"
    "nb = Notebook('test', output_dir={!r}, limit=limit, rate=rate, kind=kind, pairs=pairs, fast=fast)"
)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.xmode = "Minimal"  # the default spends most of the time on tracebacks
    made = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path / "ipython"))
    yield made
    atexit.unregister(made.atexit_operations)
    made.restore_sys_module_state()
    InteractiveShell.clear_instance()


def run_cells(shell: Any, tmp_path: Path, injected: str) -> BaseException | None:
    shell.reset()
    for cell in (DECLARED, f"# Parameters\n{injected}\n"):
        shell.run_cell(cell, store_history=True).raise_error()
    result = shell.run_cell(CALL.format(str(tmp_path / "out")), store_history=True)
    error: BaseException | None = result.error_in_exec
    return error


REFUSED = {
    "limt = 3": "unknown parameter 'limt': did you mean 'limit'",
    "limit = 3\nquality = 1": "unknown parameter 'quality': .*choose one of",
    "limit = '3'": "parameter 'limit' must be of type int, got '3'",
    "limit = True": "parameter 'limit' must be of type int, got True",
    "limit = 1.5": "parameter 'limit' must be of type int, got 1.5",
    "rate = '1'": "parameter 'rate' must be of type float, got '1'",
    "rate = False": "parameter 'rate' must be of type float, got False",
    "kind = None": "parameter 'kind' must be of type str, got None",
    "pairs = 'a'": "parameter 'pairs' must be of type list, got 'a'",
    "fast = 1": "parameter 'fast' must be of type bool, got 1",
}
TAKEN = ("limit = 3", "rate = 1", "rate = 0.25\npairs = ['a']\nfast = True", "PAPERMILL_INPUT_PATH = 'x'", "")


def test_only_known_parameters_of_their_types_are_taken(shell: Any, tmp_path: Path) -> None:
    for injected, message in REFUSED.items():
        error = run_cells(shell, tmp_path, injected)
        assert isinstance(error, UsageError), injected
        assert re.match(message, str(error)), injected
        assert not (tmp_path / "out").exists(), injected
    for injected in TAKEN:
        assert run_cells(shell, tmp_path, injected) is None, injected
        (tmp_path / "out" / "test.json").unlink()


# --- the folder of results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["", "/home/me/explore.ipynb"], ids=["no server", "a server's variable"])
@pytest.mark.parametrize("injected", ["limit = 3", ""], ids=["injected", "not injected"])
def test_papermills_folder_wins_over_the_environment(
    shell: Any, tmp_path: Path, empty_data: Path, monkeypatch: pytest.MonkeyPatch, injected: str, session: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session:  # inherited if papermill or nbconvert is started in a notebook
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    shell.run_cell("limit: int = 0", store_history=True).raise_error()
    if injected:
        shell.run_cell(f"# Parameters\n{injected}\n", store_history=True).raise_error()
    shell.run_cell("from workbench.notebook import Notebook\nNotebook('test', limit=limit)", store_history=True).raise_error()
    expected = tmp_path if injected else empty_data / "runs" / "interactive"
    assert (expected / "test.json").is_file()
    assert default_output() == expected
    assert len(list(tmp_path.rglob("test.json"))) == 1


def test_a_script_writes_to_the_interactive_folder(empty_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_output() == empty_data / "runs" / "interactive"


@pytest.mark.parametrize("how", ["papermill", "nbconvert"])
def test_in_a_real_kernel_results_follow_the_injected_cell(
    how: str, empty_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with papermill in a notebook, which inherits its variable, and once with the executor of `nbconvert --execute`."""
    cell = nbformat.v4.new_code_cell
    parameters = cell("limit: int = 0", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(
        cells=[parameters, cell("from workbench.notebook import Notebook\nnb = Notebook('test', limit=limit)")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    (tmp_path / "work").mkdir()
    if how == "papermill":
        monkeypatch.setenv("JPY_SESSION_NAME", "/x.ipynb")
        nbformat.write(notebook, tmp_path / "in.ipynb")
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"),
            str(tmp_path / "out.ipynb"),
            {"limit": 3},
            cwd=str(tmp_path / "work"),
            progress_bar=False,
        )
    else:
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
        NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path / "work")}}).execute()
    (written,) = tmp_path.rglob("test.json")
    assert written.parent == (tmp_path / "work" if how == "papermill" else empty_data / "runs" / "interactive")
