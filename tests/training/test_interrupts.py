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
from torch import Tensor

from tests.support.objectives import (
    OBJECTIVES,
    SETTINGS,
    Interrupted,
    adversarial_objective,
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
    ("kind", "step", "after"),  # in the first epoch or in the second, before or after the network has seen the batch
    [
        *(("classifier", 2, False), ("classifier", 5, True), ("generator", 5, False), ("joint", 5, False)),
        ("adversarial", 3, False),  # in a turn of the generator; 2 and 5: of the adversary
        pytest.param("adversarial", 2, False, marks=pytest.mark.system),
        pytest.param("adversarial", 5, False, marks=pytest.mark.system),
        pytest.param("joint", 2, False, marks=pytest.mark.system),
        pytest.param("compressor", 5, False, marks=pytest.mark.system),
    ],
)
def test_interrupted_in_a_step_and_resumed_it_ends_bit_identical(
    kind: str, step: int, after: bool, few: Dataset, tmp_path: Path
) -> None:
    make = {**OBJECTIVES, "adversarial": lambda: adversarial_objective(noise=0.2)}[kind]

    def interrupt() -> Outcome:
        return train_here(Interrupted(seeded(make), step, stop, after), few, tmp_path / "parts")

    resumed_equals_uninterrupted(make, few, tmp_path, interrupt)


def test_resumed_after_an_epoch_it_ends_bit_identical(few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        return train_here(seeded(classifier_objective), few, tmp_path / "parts", on_epoch=lambda _: stop())

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
    for _ in range(3):
        objective = seeded(generator_objective)
        outcome = train_here(Interrupted(objective, 2, stop, after=False), few, tmp_path / "parts")
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


def interrupted_checkpoint(data: Dataset, folder: Path, settings: TrainingSettings = SETTINGS, seed: int = 0) -> Path:
    outcome = train_here(Interrupted(seeded(classifier_objective), 5, stop, after=False), data, folder, settings, seed)
    assert not outcome.complete
    return folder / "test.pt"


HELD = replace(SETTINGS, epochs=6, warmup=0.0, hold=0.5, optimizer="muon")  # of 18 steps, 9 have the peak learning rate


@pytest.mark.parametrize(
    ("change", "resumes"),
    [
        ({"epochs": 4}, True),
        ({"epochs": 10}, True),
        ({"epochs": 4, "learning_rate": 2e-2}, False),
    ],  # 6 and 15 steps at the peak
    ids=["shorter", "longer", "other rate"],
)
def test_before_the_rate_falls_a_run_can_change_its_length(
    change: dict[str, Any], resumes: bool, few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted_checkpoint(few, tmp_path / "parts", HELD)  # at step 5
    capsys.readouterr()
    networks = []
    for folder in ("parts", "whole"):
        objective = seeded(classifier_objective)
        assert train_here(objective, few, tmp_path / folder, replace(HELD, **change)).complete
        assert ("starting again" in capsys.readouterr().err) == (folder == "parts" and not resumes)
        networks.append(tensors(objective))
    assert differences(*networks) == []


def test_a_run_that_is_too_long_for_other_epochs_is_not_lost(few: Dataset, tmp_path: Path) -> None:
    checkpoint = interrupted_checkpoint(few, tmp_path, HELD)  # at step 5, and 2 epochs have 3 steps at the peak
    before = checkpoint.read_bytes()
    with pytest.raises(UsageError, match=r"test.pt: at step 5, a training of 6 epochs .* one of 2: continue with --epochs 6"):
        train_here(seeded(classifier_objective), few, tmp_path, replace(HELD, epochs=2))
    assert checkpoint.read_bytes() == before


def test_a_loss_that_knows_the_last_step_starts_again(few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = replace(HELD, optimizer="adamw")
    first = Interrupted(seeded(generator_objective), 5, stop, after=False)
    assert not train_here(first, few, tmp_path, settings).complete
    train_here(seeded(generator_objective), few, tmp_path, replace(settings, epochs=4))
    assert "starting again" in capsys.readouterr().err


def truncate(checkpoint: Path, length: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(length * len(content))])


def change(checkpoint: Path, part: str) -> None:
    state = torch.load(checkpoint, weights_only=True)
    if part == "network":
        state["network"].popitem()
    else:
        state["optimizer"]["param_groups"].append(state["optimizer"]["param_groups"][0])
    torch.save(state, checkpoint)


@pytest.fixture(scope="module")
def fresh(few: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    objective = seeded(classifier_objective)
    train_here(objective, few, tmp_path_factory.mktemp("fresh"))
    return tensors(objective)


@pytest.mark.parametrize(
    ("spoil", "settings", "seed", "message"),
    [
        (lambda path: truncate(path, 0.5), SETTINGS, 0, "test.pt: unreadable checkpoint"),
        (lambda path: truncate(path, 0.0), SETTINGS, 0, "test.pt: unreadable checkpoint"),
        (lambda path: change(path, "network"), SETTINGS, 0, "a checkpoint of another version of this training"),
        (lambda path: change(path, "optimizer"), SETTINGS, 0, "a checkpoint of another version of this training"),
        (lambda _: None, replace(SETTINGS, learning_rate=2e-2), 0, "a checkpoint of other settings lies there"),
        (lambda _: None, SETTINGS, 1, "a checkpoint of other settings lies there"),
    ],
    ids=["truncated", "empty", "other network", "other optimizer", "other settings", "other seed"],
)
def test_an_unusable_checkpoint_restarts_the_training(
    spoil: Callable[[Path], None],
    settings: TrainingSettings,
    seed: int,
    message: str,
    few: Dataset,
    fresh: dict[str, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(interrupted_checkpoint(few, tmp_path, settings, seed))
    capsys.readouterr()
    again = seeded(classifier_objective)
    train_here(again, few, tmp_path)
    said = capsys.readouterr().err
    assert message in said
    assert "starting again" in said
    assert differences(tensors(again), fresh) == []


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
