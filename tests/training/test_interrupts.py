"""Interrupts, kills and damaged checkpoints: a resumed training ends with identical bits."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.objectives import (
    OBJECTIVES,
    SETTINGS,
    Interrupted,
    classifier_objective,
    differences,
    generator_objective,
    seeded,
    stop,
    tensors,
    train_here,
)
from workbench.data import Dataset
from workbench.errors import RunError, StorageError, UsageError
from workbench.training import CompressorLoss, GeneratorLoss, Objective, Outcome, TrainingSettings


def resumed_equals_uninterrupted(
    make: Callable[[], Objective], data: Dataset, folder: Path, interrupt: Callable[[], Outcome]
) -> None:
    whole = seeded(make)
    straight = train_here(whole, data, folder / "whole")
    first = interrupt()
    assert not first.complete
    resumed = seeded(make)
    second = train_here(resumed, data, folder / "parts")
    assert second.complete
    assert second.history[-1]["step"] == straight.history[-1]["step"]
    assert differences(tensors(resumed), tensors(whole)) == []
    assert second.best == straight.best


@pytest.mark.parametrize(
    ("kind", "step"),  # in the first epoch, in the second, and while the compressor's latents are coarsened
    [
        *(("classifier", 2), ("generator", 5), ("compressor", 5), ("compressor, rate-distortion", 5)),
        pytest.param("compressor", 2, marks=pytest.mark.system),
    ],
)
def test_interrupted_in_a_step_and_resumed_it_ends_bit_identical(kind: str, step: int, few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        return train_here(Interrupted(seeded(OBJECTIVES[kind]), step, stop, after=False), few, tmp_path / "parts")

    resumed_equals_uninterrupted(OBJECTIVES[kind], few, tmp_path, interrupt)


def test_resumed_after_an_epoch_it_ends_bit_identical(few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        return train_here(seeded(classifier_objective), few, tmp_path / "parts", on_epoch=lambda _: stop())

    resumed_equals_uninterrupted(classifier_objective, few, tmp_path, interrupt)


def test_ctrl_c_after_a_batch_was_seen_counts_it_once(few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        ctrl_c = Interrupted(seeded(classifier_objective), 5, stop, after=True)
        return train_here(ctrl_c, few, tmp_path / "parts")

    resumed_equals_uninterrupted(classifier_objective, few, tmp_path, interrupt)


def test_ctrl_c_after_an_optimizer_step_does_not_repeat_it(few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        moved = 0

        def after_step(*_: Any) -> None:
            nonlocal moved
            moved += 1
            if moved == 5:
                stop()

        from torch.optim.optimizer import register_optimizer_step_post_hook

        hook = register_optimizer_step_post_hook(after_step)
        try:
            return train_here(seeded(classifier_objective), few, tmp_path / "parts")
        finally:
            hook.remove()

    resumed_equals_uninterrupted(classifier_objective, few, tmp_path, interrupt)


def test_a_run_interrupted_again_and_again_ends_bit_identical(few: Dataset, tmp_path: Path) -> None:
    whole = seeded(generator_objective)
    train_here(whole, few, tmp_path / "whole")
    for _ in range(5):
        objective = seeded(generator_objective)
        outcome = train_here(Interrupted(objective, 3, stop, after=False), few, tmp_path / "parts")
    assert outcome.complete
    assert differences(tensors(objective), tensors(whole)) == []


DRIVER = """
import sys
from pathlib import Path
import torch
from torch import nn
from workbench.data import load
from workbench.training import TrainingSettings, fit, loop
from workbench.training.objectives import ClassifierObjective

def train(folder, every):
    loop.CHECKPOINT_EVERY_S = every
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    digits = load("digits")
    outcome = fit(
        ClassifierObjective(network), digits.train.head(64), digits.validation.head(16),
        TrainingSettings(epochs=100, batch=16, learning_rate=1e-2, weight_decay=0.0, optimizer="sgd"),
        label="driver", checkpoint=Path(folder) / "driver.pt", identity={"name": "driver"}, device="cpu",
    )
    torch.save(network.state_dict(), Path(folder) / "final.pt")
    return outcome

if __name__ == "__main__":
    train(sys.argv[1], 0.0)
"""


@pytest.mark.system
def test_resumed_after_sigkill_it_ends_bit_identical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(driver), str(killed)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (killed / "driver.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it had ended before it could be killed"
    reached = torch.load(killed / "driver.pt", weights_only=True)["step"]
    assert 0 < reached < 400
    train = runpy.run_path(str(driver))["train"]
    outcome = train(killed, 30.0)
    assert "/400 [" in capsys.readouterr().err
    assert outcome.complete
    assert outcome.history[0]["step"] == 4, "the history begins before the kill"
    assert len(outcome.history) == 100
    train(whole, 30.0)
    finals = [torch.load(folder / "final.pt", weights_only=True) for folder in (killed, whole)]
    assert differences(*finals) == []


def interrupted_checkpoint(data: Dataset, folder: Path, settings: TrainingSettings = SETTINGS) -> Path:
    outcome = train_here(Interrupted(seeded(classifier_objective), 5, stop, after=False), data, folder, settings)
    assert not outcome.complete
    return folder / "test.pt"


def starts_again(data: Dataset, folder: Path, **options: Any) -> None:
    """Fail unless a training ignores the checkpoint in `folder`/parts and repeats an uninterrupted training."""
    again, fresh = seeded(classifier_objective), seeded(classifier_objective)
    train_here(again, data, folder / "parts", **options)
    train_here(fresh, data, folder / "whole", **options)
    assert differences(tensors(again), tensors(fresh)) == []


@pytest.mark.parametrize(("length", "what"), [(0.5, "truncated"), (0.0, "empty")])
def test_a_damaged_checkpoint_restarts_the_training(
    length: float, what: str, few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupted_checkpoint(few, tmp_path / "parts")
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(length * len(content))])
    capsys.readouterr()
    starts_again(few, tmp_path)
    said = capsys.readouterr().err
    assert "test.pt: unreadable checkpoint" in said, what
    assert "starting again" in said


@pytest.mark.parametrize("part", ["network", "optimizer"])
def test_a_checkpoint_that_another_version_wrote_is_not_used(
    part: str, few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupted_checkpoint(few, tmp_path / "parts")
    state = torch.load(checkpoint, weights_only=True)
    if part == "network":
        state["network"].popitem()
    else:
        state["optimizer"]["param_groups"].append(state["optimizer"]["param_groups"][0])
    torch.save(state, checkpoint)
    capsys.readouterr()
    starts_again(few, tmp_path)
    assert "a checkpoint of another version of this training; starting again" in capsys.readouterr().err


def test_a_checkpoint_of_other_settings_is_not_used(few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted_checkpoint(few, tmp_path / "parts", replace(SETTINGS, learning_rate=2e-2))
    capsys.readouterr()
    starts_again(few, tmp_path)
    assert "a checkpoint of other settings lies there" in capsys.readouterr().err


def test_a_checkpoint_of_another_seed_is_not_used(few: Dataset, tmp_path: Path) -> None:
    interrupted_checkpoint(few, tmp_path / "parts")
    starts_again(few, tmp_path, seed=1)


def test_ctrl_c_keeps_the_best_and_leaves_no_partial_file(
    few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupted_checkpoint(few, tmp_path)
    assert re.search(r"test: stopped at step [45] of 6; the best so far is kept", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_a_loss_that_is_no_number_is_one_run_error(few: Dataset, tmp_path: Path) -> None:
    before = interrupted_checkpoint(few, tmp_path).read_bytes()
    objective = seeded(classifier_objective)
    objective.register_forward_hook(lambda module, _, out: (out[0] * float("nan"), out[1]))
    with pytest.raises(RunError, match=r"test: loss is nan at step \d; lower the weights"):
        train_here(objective, few, tmp_path)
    assert (tmp_path / "test.pt").read_bytes() == before


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_of_a_loss_are_numbers(weight: float) -> None:
    with pytest.raises(UsageError, match="must be a number"):
        GeneratorLoss(ssim_weight=weight)
    with pytest.raises(UsageError, match="must be a number"):
        CompressorLoss("rate-accuracy", weight)


def test_an_error_in_the_objective_is_raised_as_it_is(few: Dataset, tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_here(Interrupted(seeded(classifier_objective), 2, fail, after=False), few, tmp_path)


def test_an_unwritable_checkpoint_is_one_storage_error(few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write .*test.pt"):
        train_here(seeded(classifier_objective), few, tmp_path / "file")
