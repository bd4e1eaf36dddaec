"""The view of `train`: real trainings of a small data set in a process of their own, interrupted and resumed by its buttons."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.trainings import few
from tests.support.waiting import until
from workbench import weights
from workbench.data import load
from workbench.errors import RunError
from workbench.panels import Trainer
from workbench.panels.learner import STOPPED, Reporter

TARGET, AUXILIARY = "mobilenet_v2", "resnet18"
SECONDS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return few(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "data"
    monkeypatch.setenv("WORKBENCH_DATA", str(root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return root


@pytest.fixture
def trainers() -> Iterator[Callable[..., Trainer]]:
    made: list[Trainer] = []

    def make(folder: Path, **options: Any) -> Trainer:
        given = {"data_dir": str(folder), "device": "cpu", "compressor": False, "auxiliary": TARGET, **options}
        made.append(Trainer("folder", TARGET, **given))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()


def shas(root: Path) -> dict[str, str]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("runs/weights/*/*.json")]
    assert all(manifest["complete"] for manifest in found)
    return {manifest["name"]: manifest["sha256"] for manifest in found}


def words(trainer: Trainer) -> str:
    return re.sub("<[^>]*>", "", trainer.message.value)


def test_each_widget_with_a_tooltip_has_a_description() -> None:
    trainer = Trainer("folder", TARGET, begin=False)
    shown = list(trainer.widget.children)
    for box in shown:
        shown += getattr(box, "children", ())
    named = [each for each in shown if each.tooltip]
    assert trainer.curves in named
    assert all(each.has_trait("description") for each in named), "the page fails to make any other view"


# --- trained, live ---------------------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.timeout(400)
def test_interrupted_and_resumed_it_ends_with_the_same_weights(
    folder: Path, own: Path, trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainers(folder, name="resumed")
    assert trainer.state == "training"
    assert (trainer.start_button.disabled, trainer.stop_button.disabled) == (True, False)
    until(lambda: trainer.histories.get(f"classifier {TARGET}"), SECONDS)  # wait for the first epoch
    trainer.stop_button.click()
    until(lambda: trainer.state == "interrupted", SECONDS)
    assert re.match(r"interrupted: stopped at step \d+ of \d+ of .*; Resume goes on from there", words(trainer))
    with pytest.raises(RunError, match="training was interrupted at step .*press Resume, then run this cell again"):
        trainer.wait()
    assert list(own.glob("runs/checkpoints/*/*.pt")), "what was learnt is kept"
    assert (trainer.start_button.disabled, trainer.start_button.description) == (False, "Resume")
    assert trainer.stop_button.disabled
    trainer.start_button.click()
    trainer.wait(SECONDS)
    assert (trainer.state, words(trainer)) == ("done", "done: 2 networks are there")
    assert trainer.start_button.disabled
    assert not list(own.glob("runs/checkpoints/*/*.pt"))

    other = own.with_name("other")
    monkeypatch.setenv("WORKBENCH_DATA", str(other))
    through = trainers(folder, name="through")
    asyncio.run(through.trained())
    assert shas(own) == shas(other)
    assert set(shas(own)) == {TARGET, "encoder", f"{TARGET}-X-{TARGET}"}
    assert validated(through) == validated(trainer), "curves included"


def validated(trainer: Trainer) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Return by network the validation figures of each epoch. Figures of single training steps appear every tenth step."""
    return {label: [(entry["step"], entry["validation"]) for entry in history] for label, history in trainer.histories.items()}


def family(folder: Path) -> str:
    return load("folder", str(folder)).family


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Trainer, list[str], Path]]:
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(root))
        patch.setenv("OMP_NUM_THREADS", "1")
        said: list[str] = []
        options: dict[str, Any] = {"data_dir": str(folder), "device": "cpu", "begin": False, "name": "trained"}
        trainer = Trainer("folder", TARGET, AUXILIARY, **options)
        trainer.message.observe(lambda change: said.append(re.sub("<[^>]*>", "", change["new"])), "value")
        trainer.start_button.click()
        trainer.wait(SECONDS)
        yield trainer, said, root
        trainer.close()


@pytest.mark.system
@pytest.mark.timeout(300)
def test_every_state_is_said_in_a_line(trained: tuple[Trainer, list[str], Path]) -> None:
    trainer, said, _ = trained
    assert said[0] == "training: starting…"
    for name in (f"target {TARGET}", f"auxiliary {AUXILIARY}", "generator", "compressor"):
        assert f"training: {name}" in said
        assert any(re.fullmatch(rf"training: {name}, validation accuracy \d+\.\d %", line) for line in said)
    assert said[-1] == "done: 4 networks are there"
    assert 'role="status"' in trainer.message.value
    assert (trainer.progress.value, trainer.progress.max) == (1, 1)


@pytest.mark.system
def test_the_curves_are_those_that_are_kept_with_the_weights(trained: tuple[Trainer, list[str], Path]) -> None:
    trainer, _, root = trained
    kept = {}
    for path in root.glob("runs/weights/*/*.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kept[f"{manifest['kind']} {manifest['name']}"] = manifest["training"]["history"]
    assert kept.pop("generator encoder"), "what generators start from is none of the pair's networks"
    assert trainer.histories == kept
    assert all(kept.values())
    shown = Image.open(io.BytesIO(trainer.curves.value))
    alpha = np.asarray(shown.convert("RGBA"))[..., 3]
    assert shown.size[0] > 1000
    assert 0 < (alpha > 0).mean() < 0.3, "ink on no ground, legible on light and on dark"
    assert trainer.curves.layout.display == ""


@pytest.mark.system
@pytest.mark.timeout(120)
def test_what_exists_is_shown_and_not_trained_again(
    folder: Path, trained: tuple[Trainer, list[str], Path], trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _, root = trained
    monkeypatch.setenv("WORKBENCH_DATA", str(root))
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    again = trainers(folder, auxiliary=AUXILIARY, compressor=True, name="again")
    again.wait(SECONDS)
    assert again.histories == before.histories
    assert again.totals == {}
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")} == times


# --- ends ------------------------------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.timeout(120)
def test_another_of_its_name_takes_its_place_and_interrupts_it(
    folder: Path, own: Path, trainers: Callable[..., Trainer]
) -> None:
    first = trainers(folder, name="same")
    until(lambda: first.totals, SECONDS)
    second = trainers(folder, name="same", begin=False)
    assert first.state == "interrupted"
    assert second.state == "idle"
    with pytest.raises(RunError, match="press Resume"):
        second.wait()


@pytest.mark.system
@pytest.mark.timeout(120)
def test_a_killed_process_is_reported_and_resumed(folder: Path, own: Path, trainers: Callable[..., Trainer]) -> None:
    trainer = trainers(folder, name="killed")
    until(lambda: trainer.totals, SECONDS)
    assert trainer._process is not None
    trainer._process.kill()
    with pytest.raises(RunError, match="ended with -9"):
        trainer.wait(30)
    assert trainer.state == "failed"
    assert "bad" in trainer.message.value
    assert not trainer.start_button.disabled


@pytest.mark.system
@pytest.mark.timeout(120)
def test_an_error_is_a_line_with_the_way_out(own: Path, tmp_path: Path, trainers: Callable[..., Trainer]) -> None:
    trainer = trainers(tmp_path / "nowhere", name="wrong")
    with pytest.raises(RunError, match="nowhere"):
        trainer.wait(SECONDS)
    assert trainer.state == "failed"
    trainer = trainers(tmp_path, preset="quik", name="preset")
    with pytest.raises(RunError, match="unknown preset 'quik': did you mean 'quick'"):
        trainer.wait(SECONDS)


@pytest.mark.system
@pytest.mark.timeout(120)
def test_training_ends_with_whoever_asked_for_it(folder: Path, own: Path) -> None:
    """The parent process is killed outright. The training sees the end of its input, and stops with a checkpoint."""
    script = (
        "import sys, time; from workbench.panels import Trainer\n"
        f"t = Trainer('folder', {TARGET!r}, {AUXILIARY!r}, data_dir=sys.argv[1], device='cpu')\n"
        "while not t.totals: time.sleep(0.01)\n"
        "print(t._process.pid, flush=True); time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    learning = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive(learning), 60, "it trains on for nobody")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.system
@pytest.mark.timeout(120)
def test_stopping_an_awaiting_cell_interrupts_the_training(folder: Path, own: Path, trainers: Callable[..., Trainer]) -> None:
    trainer = trainers(folder, name="awaited")

    async def cell() -> None:
        waiting = asyncio.create_task(trainer.trained())
        while not trainer.totals:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cell())
    assert trainer.state == "interrupted"
    with pytest.raises(RunError, match="press Resume"):
        asyncio.run(trainer.trained())


@pytest.mark.system
@pytest.mark.timeout(120)
def test_the_notebooks_stop_button_interrupts_the_training_too(folder: Path, own: Path) -> None:
    """Ctrl-C arrives during the training, seconds after the waiting began."""
    script = (
        "import os, signal, sys, threading, time; from workbench.panels import Trainer\n"
        f"t = Trainer('folder', {TARGET!r}, {AUXILIARY!r}, data_dir=sys.argv[1], device='cpu')\n"
        "def press():\n    while not t.totals: time.sleep(0.01)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=press).start()\n"
        "try:\n    t.wait()\nexcept KeyboardInterrupt:\n    print(t.state)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, timeout=110)
    assert (parent.stdout, parent.returncode) == ("interrupted\n", 0)


# --- what the process says -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def learner(folder: Path) -> Iterator[Any]:
    asked = {"dataset": "folder", "data_dir": str(folder), "target": TARGET, "auxiliary": AUXILIARY, "preset": "quick"}
    asked |= {"seed": 0, "compressor": False, "device": "cpu"}
    command = [sys.executable, "-m", "workbench.panels.learner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked) + "\n")
        yield process


@pytest.mark.system
@pytest.mark.timeout(200)
def test_what_is_to_stop_in_its_last_step_begins_no_other(folder: Path, own: Path) -> None:
    with learner(folder) as process:
        labels = []
        for line in process.stdout:
            message = json.loads(line)
            labels += [message["bar"]] if "bar" in message else []
            if len(message.get("epoch", ())) == 3:  # the fourth epoch is the last, with one step
                process.stdin.write("stop\n")
        assert process.wait(60) == STOPPED
    assert set(labels) <= {f"classifier {TARGET}", f"classifier {AUXILIARY}"}
    found = weights.find(AUXILIARY, family(folder))
    assert found is None or not found.complete


def test_a_progress_bar_is_told_as_its_state_and_words_as_words() -> None:
    from tqdm import tqdm

    out = io.StringIO()
    bar = tqdm(total=40, desc="classifier resnet18", unit="step", file=Reporter(out), mininterval=0)
    bar.update(10)
    bar.set_postfix({"loss": "0.5"})
    tqdm.write("no usable weights 'x': training them", file=Reporter(out))
    bar.close()
    messages = [json.loads(line) for line in out.getvalue().splitlines()]
    states = [each for each in messages if "bar" in each]
    assert states[0] == {"bar": "classifier resnet18", "step": 0, "total": 40, "left": "?"}
    assert (states[-1]["step"], states[-1]["total"]) == (10, 40)
    assert {"line": "no usable weights 'x': training them"} in messages


def test_lines_that_come_in_parts_are_told_once_they_are_whole() -> None:
    out = io.StringIO()
    writer = Reporter(out)
    for text in ("one ", "line\ntwo\r", "\x1b[31mthree\x1b[0m\n", "\n"):
        writer.write(text)
    assert [json.loads(line)["line"] for line in out.getvalue().splitlines()] == ["one line", "two", "three"]


@pytest.mark.system
def test_an_interrupt_stops_the_process_under_any_shell(folder: Path, own: Path) -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with learner(folder) as process:
        signal.signal(signal.SIGINT, previous)
        next(line for line in process.stdout if "bar" in json.loads(line))
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == STOPPED
