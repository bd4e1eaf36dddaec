"""Run a batch of notebooks with papermill, in parallel processes. Then collect the results and write a report.

::

    data/runs/<time>/  batch.json            the parameters, notebooks and preset of the batch
                       <name>.ipynb          each executed notebook, with its results in <name>.json
                       <name>.status.json    its state: done or failed, with the reason
                       <name>.html           the page that a notebook writes, if any
                       figures/              every figure as PNG and SVG
                       summary.json          one object for each result
                       report.html           one self-contained page

A task is one notebook to execute. Any `concurrent.futures.Executor` can run the tasks. By default they run on threads of this
machine, each of which waits for a notebook's process. A cluster (`dask_executor`) can run them, too, if its workers access the
same files. `resume` skips completed notebooks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .errors import RunError, StorageError, UsageError, unknown
from .notebook import column_kinds
from .processes import Children, cores, run_jobs
from .storage import data_root, write_json, write_text

__all__ = ["NOTEBOOKS", "Task", "collect", "dask_executor", "execute", "new_directory", "notebooks_folder", "run_batch"]

NOTEBOOKS = ("explore", "train", "effectiveness", "bandwidth", "privacy", "tradeoff", "latency", "energy", "deploy")
ALONE = ("latency", "energy", "deploy")  # these measure time and run alone
LONGEST = ("privacy", "bandwidth", "tradeoff", "effectiveness", "explore", "train")  # by decreasing time on one core
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Task:
    """A notebook to execute: its path, output folder, parameters and number of threads."""

    notebook: str
    output_dir: str
    parameters: dict[str, Any] = field(default_factory=dict)
    threads: int = 1

    @property
    def name(self) -> str:
        return Path(self.notebook).stem

    @property
    def status_file(self) -> Path:
        return Path(self.output_dir) / f"{self.name}.status.json"


def notebooks_folder() -> Path:
    """Return the checkout's folder `notebooks/`. Raises RunError if the package was installed without this folder."""
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        raise RunError(f"no notebooks at {folder}: run from a checkout of the repository")
    return folder


def plan(names: Sequence[str], directory: Path, parameters: dict[str, Any], threads: int = 1) -> list[Task]:
    """Return one task for each of the notebooks `names`. All results go to the folder `directory`.

    A notebook gets only the parameters that it declares. It gets `threads` threads, or all cores if it measures time. Raises
    UsageError for an unknown notebook, for a parameter that no notebook declares, and for a value that JSON cannot represent
    exactly.
    """
    import papermill

    folder = notebooks_folder()
    declared: dict[str, set[str]] = {}
    for name in names:
        path = folder / f"{name}.ipynb"
        if not path.is_file():
            raise unknown("notebook", name, (each.stem for each in folder.glob("*.ipynb")))
        declared[name] = set(papermill.inspect_notebook(str(path)))
    for key, value in parameters.items():
        if not any(key in each for each in declared.values()):
            raise unknown("parameter", key, set().union(*declared.values()))
        if not _survives_json(value):
            raise UsageError(f"parameter {key!r} must be a plain JSON value, got {value!r}")
    return [
        Task(
            str(folder / f"{name}.ipynb"),
            str(directory),
            {key: value for key, value in parameters.items() if key in declared[name]} | {"output_dir": str(directory)},
            cores() if name in ALONE else threads,
        )
        for name in names
    ]


def _survives_json(value: Any) -> bool:
    try:
        back = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return False
    return type(back) is type(value) and back == value


_children = Children()


def execute(task: Task) -> dict[str, Any]:
    """Execute a notebook in its own process. Return its status as a dict.

    The entry `status` is `done` or `failed`. A failed notebook raises nothing: its `error` and `traceback` are in the dict. The
    status is also written next to the executed notebook.
    """
    start = time.monotonic()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(task.threads),
        "MPLBACKEND": "Agg",
        "WORKBENCH_DATA": str(data_root()),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    environment.pop("JPY_SESSION_NAME", None)
    with _children.start([sys.executable, "-m", "workbench.runs"], stdin=subprocess.PIPE, env=environment) as process:
        out, err = process.communicate(json.dumps(asdict(task)))
    lines = out.strip().splitlines()
    try:
        status: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = "\n".join(err.strip().splitlines()[-20:])
        status = {"status": "failed", "error": f"the notebook's process ended with {process.returncode}", "traceback": last}
    status |= {"notebook": task.name, "parameters": task.parameters, "seconds": round(time.monotonic() - start, 1)}
    write_json(task.status_file, status)
    return status


def _execute_here(task: Task) -> dict[str, Any]:
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    output = Path(task.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="pmc2-") as sockets:
            config = Config()
            if os.name == "posix":  # parallel kernels compete for TCP ports, so use sockets in a folder
                config.KernelManager.transport = "ipc"
                config.KernelManager.ip = str(Path(sockets) / "kernel")
            papermill.execute_notebook(
                task.notebook,
                str(output / f"{task.name}.ipynb"),
                parameters=task.parameters,
                progress_bar=False,
                cwd=str(output),
                config=config,
            )
    except PapermillExecutionError as error:
        trace = _ANSI.sub("", "\n".join(error.traceback))
        return {"status": "failed", "error": f"{error.ename}: {error.evalue}", "traceback": trace}
    return {"status": "done"}


def run_batch(
    tasks: Sequence[Task],
    executor: Executor | None = None,
    resume: bool = False,
    networks: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Execute tasks, and return their statuses in order. A failed task does not stop the others.

    `resume` skips tasks that an earlier call completed with the same parameters. `networks` are the SHA-256 of the present
    weights. A task whose results come from other weights is not skipped. If `networks` is None, weights are not compared.
    Without `executor` the notebooks share this machine's cores. Ctrl-C stops the running notebooks and raises
    KeyboardInterrupt. The results of completed notebooks stay.
    """
    statuses: dict[str, dict[str, Any]] = {}
    if resume:
        for task in tasks:
            previous = read_json(task.status_file)
            done_before = previous.get("status") == "done" and previous.get("parameters") == task.parameters
            if done_before and (networks is None or _measured(task) <= set(networks)):
                statuses[task.name] = previous
    pending = [task for task in tasks if task.name not in statuses]
    bar = tqdm(total=len(tasks), initial=len(statuses), desc="notebooks", unit="notebook", file=sys.stderr, dynamic_ncols=True)

    def done(name: str, outcome: dict[str, Any] | Exception) -> None:
        if isinstance(outcome, StorageError):
            raise outcome
        if isinstance(outcome, Exception):  # a lost worker: executors raise exceptions of any kind
            failure = {"status": "failed", "notebook": name, "error": f"{type(outcome).__name__}: {outcome}"}
            parameters = next(task.parameters for task in pending if task.name == name)
            outcome = {**failure, "traceback": "", "parameters": parameters, "seconds": 0.0}
        statuses[name] = outcome
        bar.set_postfix_str(f"{name} {outcome['status']} in {outcome['seconds']:.0f} s")
        bar.update()

    with bar:
        for wave in _waves(pending):
            run_jobs(execute, {task.name: (task,) for task in wave}, executor, done, children=_children)
    return [statuses[task.name] for task in tasks]


def _measured(task: Task) -> set[str]:
    """Return the SHA-256 of all weights that a notebook's results record."""
    results = read_json(Path(task.output_dir) / f"{task.name}.json").get("results", [])
    own = {result["sha256"] for result in results if "sha256" in result}  # the notebook `train` has one for each network
    return own | {sha for result in results for sha in result.get("weights", {}).values()}


def _waves(tasks: Sequence[Task]) -> list[list[Task]]:
    # The tasks of a wave run in parallel, the longest first. A notebook of unknown duration counts as the longest.
    together = sorted(
        (task for task in tasks if task.name not in ALONE),
        key=lambda task: LONGEST.index(task.name) if task.name in LONGEST else -1,
    )
    return [wave for wave in (together, *([task] for task in tasks if task.name in ALONE)) if wave]


@contextlib.contextmanager
def dask_executor(scheduler: str) -> Iterator[Executor]:
    """A context that yields an Executor on a Dask cluster. `scheduler` is the address of its scheduler (`tcp://host:8786`).

    Raises RunError if the package's extra `cluster` is not installed, or if the scheduler does not respond within ten seconds.
    """
    try:
        from distributed import Client
        from distributed.comm.addressing import get_address_host_port
    except ImportError as error:
        raise RunError("--scheduler needs Dask: pip install -e '.[cluster]' in the checkout") from error
    try:
        # Try a plain connection first: a Dask Client that never connects logs errors when it is closed.
        socket.create_connection(get_address_host_port(scheduler), timeout=10).close()
        client = Client(scheduler, timeout=10, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise RunError(
            f"no Dask scheduler answers at {scheduler!r} ({error or type(error).__name__}); start one with `dask scheduler`"
        ) from error
    with client:
        yield client.get_executor(pure=False)  # type: ignore[no-untyped-call]


def new_directory() -> Path:
    """Create the folder `data/runs/<time>`, and return its path."""
    runs = data_root() / "runs"
    stem = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    for attempt in range(100):
        path = runs / (stem if not attempt else f"{stem}.{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(
                f"cannot make {path}: {error.strerror}; set WORKBENCH_DATA to a folder that can be written"
            ) from error
        return path
    raise StorageError(f"too many runs at {stem} in {runs}")


def point_latest(directory: Path) -> None:
    """Make `data/runs/latest` a symbolic link to the run in `directory`."""
    link = directory.parent / "latest"
    aside = directory.parent / f".latest.{os.getpid()}"
    try:
        aside.unlink(missing_ok=True)
        aside.symlink_to(directory.name)
        aside.replace(link)
    except OSError as error:
        raise StorageError(f"cannot point {link} at {directory}: {error.strerror}; remove what lies there") from error


def collect(directory: Path, statuses: Sequence[dict[str, Any]], about: dict[str, Any]) -> Path:
    """Write `summary.json` and `report.html` to `directory`, which has the results of a batch. Return the report's path.

    `statuses` come from `run_batch`. `about` are the facts at the head of the report, such as versions and settings.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    notebooks = []
    for status in statuses:
        kept = read_json(directory / f"{status['notebook']}.json")
        figures = [{**figure, "data": _embed(directory / f"{figure['file']}.png")} for figure in kept.get("figures", [])]
        page = f"{status['notebook']}.html"  # a notebook may write a page of its own
        page = page if (directory / page).is_file() else ""
        notebooks.append({**kept, **status, "figures": figures, "name": status["notebook"], "page": page})
    results = [{"notebook": each["name"], **result} for each in notebooks for result in each.get("results", [])]
    write_json(directory / "summary.json", {"about": about, "results": results})
    environment = Environment(
        loader=PackageLoader("workbench", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        about=about, notebooks=notebooks, machine=platform.node() or "this machine", column_kinds=column_kinds
    )
    write_text(directory / "report.html", page)
    return directory / "report.html"


def main_table(directory: Path) -> dict[str, Any]:
    """Return the main table of a batch, or a table that reports its absence. `directory` is the batch's folder.

    A notebook marks its main table with `Notebook.table(..., main=True)`.
    """
    for path in sorted(directory.glob("*.json")):
        for table in read_json(path).get("tables", []):
            if table.get("main"):
                return dict(table)
    return {"title": "", "columns": ["no main table"], "rows": [], "note": "the notebook that makes it did not run or failed"}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty dict if the file is missing or contains no valid object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _embed(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""


if __name__ == "__main__":
    print(json.dumps(_execute_here(Task(**json.load(sys.stdin)))))
