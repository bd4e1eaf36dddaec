"""Processes that a batch starts, and Ctrl-C that ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from workbench.errors import RunError
from workbench.processes import Children, as_done, interrupts, processor_name, spin_briefly

WAITS = [sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    WAITS[2].replace("import ", "import signal, ").replace("print", "signal.signal(2, signal.SIG_IGN); print"),
]


def test_torchs_threads_do_not_spin_unless_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variables, spins in (({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None), ({}, "10000")):
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        spin_briefly()
        assert os.environ.get("GOMP_SPINCOUNT") == spins
    monkeypatch.delenv("GOMP_SPINCOUNT")
    for entry in ("import workbench.notebook", "workbench.__main__.main(['certs', sys.argv[1]])"):
        code = f"import os, sys, workbench.__main__; {entry}; assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "10000", entry


def test_the_first_ctrl_c_is_noted_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as interrupted:
        assert not interrupted.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_results_come_as_they_are_done_and_ctrl_c_between_them() -> None:
    first, second = Future[int](), Future[int]()
    first.set_result(1)
    interrupted = threading.Event()
    each = as_done([second, first], interrupted)
    assert next(each) is first
    second.set_result(2)
    assert next(each) is second
    assert list(each) == []
    interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        next(as_done([Future[int]()], interrupted))


def test_after_a_stop_nothing_starts_until_a_new_batch() -> None:
    children = Children()
    with children.start(WAITS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        children.stop(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        process.communicate()
    with pytest.raises(RunError, match="was not started"), children.start(WAITS):
        pass
    children.restart()
    with children.start([sys.executable, "-c", "print('again')"]) as process:
        assert process.communicate(timeout=30)[0] == "again\n"


def test_one_that_does_not_listen_is_killed_when_patience_ends() -> None:
    children = Children()
    with children.start(STUBBORN) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        children.stop(signal.SIGINT, patience=0.3)
        assert process.wait(10) == -signal.SIGKILL
        process.communicate()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "processor\t: 0\nmodel name\t: AMD EPYC 7443P 24-Core Processor\nmodel name\t: other\n",
            "AMD EPYC 7443P 24-Core Processor",
        ),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", ""),
        ("model name\t:\n", ""),
        (None, ""),
    ],
)
def test_the_processor_has_a_name_on_every_system(text: str | None, name: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    found = processor_name(tmp_path / "cpuinfo")
    assert found == name if name else found
