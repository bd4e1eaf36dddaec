"""A batch of notebooks on a real Dask cluster of two worker processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import nbformat
import pytest

from workbench import runs
from workbench.runs import Task

pytestmark = pytest.mark.system

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

MEET = """
import os, time
from pathlib import Path
Path(output_dir, f"{name}.here").touch()
deadline = time.monotonic() + 60
while not all(Path(output_dir, f"{other}.here").exists() for other in others):
    assert time.monotonic() < deadline, "the others were not executed at the same time"
    time.sleep(0.02)
"""


def make(folder: Path, name: str, cell: str) -> str:
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    parameters = "output_dir: str = ''\nname: str = ''\nothers: list = []"
    notebook.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(cell)]
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return str(folder / f"{name}.ipynb")


TRY = """
import json, sys
from workbench import runs
from workbench.errors import RunError
for address in sys.argv[1:]:
    try:
        with runs.dask_executor(address):
            pass
    except RunError as error:
        print(json.dumps([address, str(error)]))
"""
NO_ADDRESSES = ("nonsense://x", "tcp://", "host:port")
Attempts = tuple[str, subprocess.Popen[str]]


@pytest.fixture(scope="module", autouse=True)
def attempts() -> Iterator[Attempts]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-c", TRY, *NO_ADDRESSES, closed]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        yield closed, process
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    options = {"n_workers": 2, "processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options, silence_logs=50) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def executor(address: str) -> Iterator[Executor]:
    with runs.dask_executor(address) as made:
        yield made


def test_two_workers_run_in_parallel_and_failures_are_resumed(executor: Executor, tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    fail = "assert Path(output_dir, 'mended').exists(), 'not yet'"
    names = ["good", "bad"]
    tasks = [
        Task(make(tmp_path, name, cell), str(output), {"output_dir": str(output), "name": name, "others": names})
        for name, cell in zip(names, (MEET, MEET + fail), strict=True)
    ]
    good, bad = statuses = runs.run_batch(tasks, executor)
    assert [(status["notebook"], status["status"]) for status in statuses] == [("good", "done"), ("bad", "failed")]
    assert bad["error"] == "AssertionError: not yet", "both were there at the same time"
    assert [json.loads(task.status_file.read_text()) for task in tasks] == statuses
    (output / "mended").touch()
    again = runs.run_batch(tasks, executor, resume=True)
    assert [status["status"] for status in again] == ["done", "done"]
    assert again[0] == good, "what was done is not done twice"


def test_an_unreachable_scheduler_is_one_run_error(attempts: Attempts) -> None:
    listening_nowhere, process = attempts
    out, err = process.communicate(timeout=60)
    errors = dict(json.loads(line) for line in out.splitlines())
    assert set(errors) == {listening_nowhere, *NO_ADDRESSES}
    for given, message in errors.items():
        assert message.startswith(f"no Dask scheduler answers at {given!r} ("), given
        assert message.endswith("start one with `dask scheduler`")
        assert "\n" not in message
    assert err == "", "the process ends without output"
