"""Batches of notebooks: planned, executed in separate processes, resumed, interrupted, collected into one report."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from tests.support.waiting import until
from workbench import runs
from workbench.errors import RunError, StorageError, UsageError
from workbench.processes import cores
from workbench.runs import Task

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
PARAMETERS = "output_dir: str = ''"
COUNT = "from pathlib import Path\nwith Path(output_dir, '{name}.count').open('a') as file:\n    file.write('x')"
KEEP = f"""
import json
kept = {{"format": 1, "notebook": "good", "parameters": {{}}, "results": [{{"name": "answer", "values": {{"x": 42}}, "seed": 0}}],
        "tables": [{{"title": "Table <1>", "columns": ["codec", "bytes"], "rows": [["png", "<2>"]], "note": "n = 1", "main": True}}],
        "figures": [{{"file": "figures/good-dot", "caption": "a \\"dot\\" <1>", "width": 100}}]}}
Path(output_dir, "good.json").write_text(json.dumps(kept))
Path(output_dir, "figures").mkdir(exist_ok=True)
Path(output_dir, "figures", "good-dot.png").write_bytes(bytes.fromhex("{PIXEL.hex()}"))
"""
FAIL = "def fail():\n    if Path(output_dir, 'mended').exists():\n        return\n    raise ValueError('<script>alert(1)</script> & more')\nfail()"
ABOUT: dict[str, Any] = {
    "version": "0",
    "when": "today",
    "dataset": "digits <1>",
    "n": 1,
    "target": "resnet18",
    "auxiliary": "vgg13_bn",
    "facts": {"weights": "abc"},
    "main": {"title": "t", "columns": ["codec", "bytes"], "rows": [["png", "<2>"]], "note": "n = 1"},
}


def make(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in (COUNT.format(name=name), *cells))]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def task(path: Path, output: Path, threads: int = 1, **parameters: Any) -> Task:
    return Task(str(path), str(output), {"output_dir": str(output), **parameters}, threads)


def count(output: Path, name: str) -> int:
    path = output / f"{name}.count"
    return len(path.read_text()) if path.exists() else 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_plan_gives_each_notebook_the_parameters_it_declares(tmp_path: Path) -> None:
    explore, train = runs.plan(["explore", "train"], tmp_path, {"limit": 8, "quality": 50}, threads=2)
    assert explore.parameters == {"limit": 8, "quality": 50, "output_dir": str(tmp_path)}
    assert train.parameters == {"limit": 8, "output_dir": str(tmp_path)}
    assert (explore.name, explore.threads) == ("explore", 2)
    assert Path(explore.notebook).is_file()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_notebook_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown notebook 'explor': did you mean 'explore'.*bandwidth, deploy, effectiveness"):
        runs.plan(["explor"], tmp_path, {})


def test_a_parameter_that_no_notebook_declares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown parameter 'limt': did you mean 'limit'"):
        runs.plan(["explore", "train"], tmp_path, {"limt": 8})


def test_only_plain_json_values_are_taken(tmp_path: Path) -> None:
    for value in (np.int64(3), np.float32(0.5), Path("x"), {3}, (1, 2), {1: 2}, float("nan"), b"x", object()):
        with pytest.raises(UsageError, match=re.escape(f"parameter 'limit' must be a plain JSON value, got {value!r}")):
            runs.plan(["explore"], tmp_path, {"limit": value})
    for value in (3, 0.5, "x", True, None, [1, "a"], {"a": [1]}):
        assert runs.plan(["explore"], tmp_path, {"limit": value})[0].parameters["limit"] == value


@dataclass(frozen=True)
class Batch:
    tasks: list[Task]
    statuses: list[dict[str, Any]]
    files: list[dict[str, Any]]

    @property
    def output(self) -> Path:
        return Path(self.tasks[0].output_dir)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    folder, output = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("run")
    tell = "import os\nprint(x, *(os.environ.get(name) for name in ('OMP_NUM_THREADS', 'WORKBENCH_DATA', 'JPY_SESSION_NAME')))"
    good = make(folder, "good", KEEP, tell, parameters=PARAMETERS + "\nx: int = 0")
    tasks = [task(make(folder, "bad", FAIL), output), task(good, output, threads=3, x=1)]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WORKBENCH_DATA", str(folder))
        environment.setenv("JPY_SESSION_NAME", "a lab's")
        statuses = runs.run_batch(tasks)
    return Batch(tasks, statuses, [json.loads(each.status_file.read_text()) for each in tasks])


@pytest.fixture(scope="module")
def report(batch: Batch) -> Path:
    return runs.collect(batch.output, batch.statuses, ABOUT)


def test_a_notebook_that_fails_does_not_stop_the_others(batch: Batch) -> None:
    assert [status["notebook"] for status in batch.statuses] == ["bad", "good"], "in the requested order"
    assert [status["status"] for status in batch.statuses] == ["failed", "done"]
    assert all(status["seconds"] > 0 for status in batch.statuses)
    assert [status["parameters"] for status in batch.statuses] == [each.parameters for each in batch.tasks]
    assert batch.files == batch.statuses


def test_a_failure_names_its_error_and_keeps_its_traceback(batch: Batch) -> None:
    bad = batch.statuses[0]
    assert bad["error"] == "ValueError: <script>alert(1)</script> & more"
    assert "in fail()" in bad["traceback"]
    assert "\x1b" not in bad["traceback"], "a terminal's colours are no text"


def test_the_executed_notebook_is_in_the_runs_folder(batch: Batch) -> None:
    executed = nbformat.read(batch.output / "good.ipynb", as_version=4)
    assert executed.cells[-1]["outputs"][0]["text"] == f"1 3 {Path(batch.tasks[1].notebook).parent} None\n", (
        "its parameter, its threads, the data folder, and no lab's session"
    )
    source = nbformat.read(batch.tasks[1].notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in source.cells)


@pytest.mark.system
def test_resuming_runs_only_what_is_missing_or_changed(batch: Batch, report: Path) -> None:
    (batch.output / "mended").touch()
    more = task(make(Path(batch.tasks[0].notebook).parent, "more", parameters=PARAMETERS + "\nx: int = 0"), batch.output, x=1)
    tasks = [*batch.tasks, more]

    def counts() -> list[int]:
        return [count(batch.output, each.name) for each in tasks]

    assert counts() == [1, 1, 0]
    second = runs.run_batch(tasks, resume=True)
    assert [status["status"] for status in second] == ["done"] * 3
    assert counts() == [2, 1, 1]
    assert second[1] == batch.statuses[1]
    assert runs.run_batch(tasks, resume=True) == second
    assert counts() == [2, 1, 1], "there was nothing left to do"
    more.status_file.write_text('{"status": "do')
    assert [status["status"] for status in runs.run_batch(tasks, resume=True)] == ["done"] * 3
    assert counts() == [2, 1, 2]
    tasks[2] = replace(more, parameters={**more.parameters, "x": 2})
    assert [status["status"] for status in runs.run_batch(tasks, resume=True)] == ["done"] * 3
    assert counts() == [2, 1, 3], "its parameter changed"


@pytest.mark.system
def test_resuming_repeats_results_of_other_weights(tmp_path: Path) -> None:
    keep = "import json\nkept = {'results': [{'weights': {'target': 'a', 'generator': 'c'}}, {'sha256': 'b'}]}\n"
    keep += "Path(output_dir, 'good.json').write_text(json.dumps(kept))"
    made = task(make(tmp_path, "good", keep), tmp_path / "run")
    runs.run_batch([made])
    for networks, times in (({"a", "b", "c", "d"}, 1), (None, 1), ({"a", "b", "d"}, 2), ({"a", "c"}, 3)):
        runs.run_batch([made], resume=True, networks=networks)
        assert count(tmp_path / "run", "good") == times, networks


@pytest.mark.system
def test_killed_kernels_and_missing_notebooks_are_failures(tmp_path: Path) -> None:
    tasks = [
        task(make(tmp_path, "kernel", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), tmp_path / "run"),
        task(make(tmp_path, "process", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"), tmp_path / "run"),
        task(tmp_path / "nowhere.ipynb", tmp_path / "run"),
    ]
    kernel, process, nowhere = statuses = runs.run_batch(tasks)
    assert [status["status"] for status in statuses] == ["failed"] * 3
    assert "DeadKernel" in kernel["error"] + kernel["traceback"]
    assert process["error"] == "the notebook's process ended with -9"
    assert "nowhere.ipynb" in nowhere["error"] + nowhere["traceback"]
    assert [json.loads(each.status_file.read_text()) for each in tasks] == statuses


def test_a_worker_that_is_lost_is_a_failed_status(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=os._exit, initargs=(1,)) as lost:
        (status,) = runs.run_batch([task(make(tmp_path, "good"), tmp_path / "run")], lost)
    assert status["status"] == "failed"
    assert "BrokenProcessPool" in status["error"]
    assert count(tmp_path / "run", "good") == 0


def test_what_measures_time_runs_after_the_others_and_by_itself(tmp_path: Path) -> None:
    tasks = runs.plan(runs.NOTEBOOKS, tmp_path, {}, threads=1)
    waves = [[task.name for task in wave] for wave in runs._waves(tasks)]
    assert waves[0] == list(runs.LONGEST), "the longest first"
    assert {*runs.LONGEST, *runs.ALONE} == set(runs.NOTEBOOKS)
    assert waves[1:] == [[name] for name in runs.ALONE]
    assert {task.threads for task in tasks if task.name in runs.ALONE} == {cores()}
    assert {task.threads for task in tasks if task.name not in runs.ALONE} == {1}
    assert runs.run_batch([]) == []


BATCH = """
import sys
from workbench import runs
tasks = [runs.Task(path, sys.argv[1], {"output_dir": sys.argv[1]}) for path in sys.argv[2:]]
try:
    runs.run_batch(tasks)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(130)
"""


@pytest.mark.system
def test_ctrl_c_ends_running_notebooks_and_keeps_the_rest(tmp_path: Path) -> None:
    output = tmp_path / "run"
    endless = "import os, time\nPath(output_dir, f'{os.getppid()}-{os.getpid()}.pids').touch()\ntime.sleep(600)"
    paths = [make(tmp_path, "quick"), make(tmp_path, "endless", endless)]
    process = subprocess.Popen(
        [sys.executable, "-c", BATCH, str(output), *map(str, paths)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    quick = output / "quick.status.json"
    try:
        until(lambda: quick.exists() and any(output.glob("*.pids")), 60)
        pids = [int(pid) for path in output.glob("*.pids") for pid in path.stem.split("-")]
        assert all(alive(pid) for pid in pids)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (out, process.returncode) == ("interrupted\n", 130)
    until(lambda: not any(alive(pid) for pid in pids), 15, "neither the notebook's process nor its kernel ended")
    assert json.loads(quick.read_text())["status"] == "done"
    assert json.loads((output / "endless.status.json").read_text())["status"] == "failed"


class References(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.references: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [
            (tag, name, value or "") for name, value in attrs if name in ("src", "href", "srcset", "data", "action")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_summary_has_one_object_for_each_result(report: Path) -> None:
    summary = json.loads((report.parent / "summary.json").read_text())
    assert summary["results"] == [{"notebook": "good", "name": "answer", "values": {"x": 42}, "seed": 0}]
    assert summary["about"] == ABOUT


def test_the_report_is_one_page_that_needs_nothing_but_itself(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    parsed = References(page)
    links = [value for tag, name, value in parsed.references if (tag, name) == ("a", "href")]
    assert links == ["bad.ipynb", "good.ipynb"]
    assert all((report.parent / link).is_file() for link in links)
    others = [value for tag, name, value in parsed.references if (tag, name) != ("a", "href")]
    assert others == ["data:image/png;base64," + base64.b64encode(PIXEL).decode()]
    assert not re.search(r"https?://|file://|url\(|@import", page)
    assert not parsed.tags & {"script", "link", "iframe", "object", "embed"}


def test_the_report_shows_tables_figures_and_failures_as_text(report: Path) -> None:
    parsed = References(report.read_text(encoding="utf-8"))
    for text in (
        "digits <1>",
        "Table <1>",
        "<2>",
        'a "dot" <1>',
        "ValueError: <script>alert(1)</script> & more",
        "executed in",
    ):
        assert text in parsed.text, text
    assert parsed.text.count("failed") >= 1
    assert "raise ValueError" in parsed.text, "the traceback"


def test_a_notebook_that_left_nothing_is_still_in_the_report(tmp_path: Path) -> None:
    status = {"status": "failed", "notebook": "gone", "error": "lost", "traceback": "", "parameters": {}, "seconds": 0.0}
    parsed = References(runs.collect(tmp_path, [status], ABOUT).read_text(encoding="utf-8"))
    assert "gone.ipynb" in parsed.text
    assert "lost" in parsed.text


def test_the_main_table_is_the_one_that_is_marked(report: Path, tmp_path: Path) -> None:
    assert runs.main_table(report.parent)["rows"] == [["png", "<2>"]]
    assert runs.main_table(tmp_path)["columns"] == ["no main table"]
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    assert runs.main_table(tmp_path)["rows"] == []


def test_each_run_has_a_folder_and_latest_points_at_one(empty_data: Path) -> None:
    first, second = runs.new_directory(), runs.new_directory()
    assert first != second
    assert first.parent == second.parent == empty_data / "runs"
    for directory in (first, second, first):
        runs.point_latest(directory)
        latest = empty_data / "runs" / "latest"
        assert latest.is_symlink()
        assert latest.resolve() == directory
        assert not latest.readlink().is_absolute(), "the folder can be moved"
    assert {path.name for path in first.parent.iterdir()} == {first.name, second.name, "latest"}


def test_a_folder_in_the_place_of_latest_is_not_removed(empty_data: Path) -> None:
    directory = runs.new_directory()
    (directory.parent / "latest").mkdir()
    (directory.parent / "latest" / "mine").touch()
    with pytest.raises(StorageError, match="cannot point .*latest"):
        runs.point_latest(directory)
    assert (directory.parent / "latest" / "mine").exists()


def test_a_data_folder_that_cannot_be_made_is_one_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(StorageError, match="cannot make .*set WORKBENCH_DATA"):
        runs.new_directory()


def test_without_a_checkout_the_lack_of_notebooks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "site-packages" / "workbench" / "runs.py"))
    with pytest.raises(RunError, match="run from a checkout"):
        runs.notebooks_folder()
