"""How networks come to be: the losses by hand, the loop's determinism, what survives interrupts and kills, the recipes."""

from __future__ import annotations

import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import metrics, training, weights
from workbench.classifiers import MEAN, STD, Classifier
from workbench.codecs import Neural
from workbench.data import Dataset, Split
from workbench.errors import RunError, StorageError, UsageError, WeightsError
from workbench.models import NeuralCompressor, PerturbationGenerator, parameters
from workbench.pictures import to_float
from workbench.system import Client, System
from workbench.training import CompressorLoss, GeneratorLoss, Objective, Outcome, TrainingSettings, fit, fitting, presets
from workbench.training.adversary import PACE, TURNS, AdversarialObjective, Defence, class_means
from workbench.training.batches import crop_and_flip, rows_of
from workbench.training.compression import CompressorObjective, JointObjective, fit_reader, refit_entropy_model
from workbench.training.objectives import ClassifierObjective
from workbench.training.protection import EncoderObjective, GeneratorObjective, learn_apart_from_encoder
from workbench.training.settings import Plan, learning_rate_share, steps
from workbench.weights import Manifest

from conftest import AUXILIARY, TARGET  # isort: skip

SETTINGS = TrainingSettings(
    epochs=2, batch=16, learning_rate=1e-2, weight_decay=1e-3
)  # 3 steps an epoch on 48 images: 6 in all
IDENTITY = {"name": "test"}
QUICKLY: dict[str, Any] = {"device": "cpu", "compressor_loss": CompressorLoss("rate-distortion")}


class Small(Classifier):
    """A classifier as small as one can be that still has batch norm: it keeps statistics while it trains."""

    def __init__(self, name: str = "small", logits: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.name, self.num_classes, self.head, self.logits = name, 10, "public", logits
        self.network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)
        )
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits * super().forward(images)


def classifier_objective() -> ClassifierObjective:
    return ClassifierObjective(Small())


def generator_objective(
    loss: GeneratorLoss = GeneratorLoss("bounded", "absolute"), auxiliary: str = "other"
) -> GeneratorObjective:
    return GeneratorObjective(PerturbationGenerator(width=2), Small().eval(), Small(auxiliary, logits=20).eval(), loss)


def compressor_objective(kind: str = "rate-accuracy") -> CompressorObjective:
    compressor = NeuralCompressor(N=4, M=6)
    compressor.g_a[-1].weight.data.mul_(100)  # latents that do not all round to zero
    return CompressorObjective(compressor, PerturbationGenerator(width=2).eval(), Small().eval(), CompressorLoss(kind))


def joint_objective(keep_encoder: bool = False) -> JointObjective:
    compressor, generator = NeuralCompressor(N=4, M=6), PerturbationGenerator(width=2)
    compressor.g_a[-1].weight.data.mul_(100)
    classifiers = (Small().eval(), Small("other", logits=20).eval())
    losses = (CompressorLoss("rate-accuracy", 0.2), GeneratorLoss("bounded", "absolute", 2.0))
    return JointObjective(compressor, generator, *classifiers, *losses, keep_encoder)


def adversarial_objective(weight: float = 6.0, noise: float = 0.0, strength: float = 1.0) -> AdversarialObjective:
    generator, means = PerturbationGenerator(width=2, noise=noise), torch.rand(10, 3, 32, 32)
    classifiers = (Small().eval(), Small("other", logits=20).eval())
    defence = Defence(weight, noise, strength, width=2)
    return AdversarialObjective(generator, *classifiers, GeneratorLoss("bounded", "absolute"), defence, means)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "classifier": classifier_objective,
    "encoder": lambda: EncoderObjective(PerturbationGenerator(width=2), 10),
    "generator": generator_objective,
    "compressor": compressor_objective,
    "compressor, rate-distortion": lambda: compressor_objective("rate-distortion"),
    "joint": joint_objective,
}


@pytest.fixture
def few(digits: Dataset) -> Dataset:
    """48 digits to train on, 16 to validate on, 16 to test on."""
    sizes = {"train": 48, "validation": 16, "test": 16}
    return Dataset(
        "digits", "few digits", "digits", digits.classes, False, lambda name: getattr(digits, name).head(sizes[name])
    )


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> TrainingSettings:
    """Presets of three steps, an epoch after the second, of the narrowest generator."""
    settings = TrainingSettings(2, 24, 1e-3, 0.0, max_images=72, validation_images=8, width=2, noise=0.1)
    for name, kinds in presets.PRESETS.items():
        monkeypatch.setitem(presets.PRESETS, name, dict.fromkeys(kinds, settings))
    return settings


def train_here(
    objective: Objective, data: Dataset, folder: Path, settings: TrainingSettings = SETTINGS, seed: int = 0, **options: Any
) -> Outcome:
    return fit(
        objective,
        data.train,
        data.validation,
        settings,
        label="test",
        checkpoint=folder / "test.pt",
        identity=IDENTITY,
        seed=seed,
        augment=crop_and_flip(True),
        device="cpu",
        **options,
    )


def seeded(make: Callable[[], Objective]) -> Objective:
    torch.manual_seed(5)
    return make()


def tensors(objective: Objective) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in objective.network.state_dict().items()}


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that are not identical, bit by bit."""
    assert first.keys() == second.keys()
    return [key for key in first if not torch.equal(first[key], second[key])]


# --- determinism -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_same_seed_gives_identical_networks_and_another_seed_gives_others(kind: str, few: Dataset, tmp_path: Path) -> None:
    left = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        objective = seeded(OBJECTIVES[kind])
        train_here(objective, few, tmp_path / folder, seed=seed)
        left.append(tensors(objective))
    assert differences(left[0], left[1]) == []
    assert differences(left[0], left[2])


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_training_lowers_the_loss_on_the_training_images(kind: str, few: Dataset, tmp_path: Path) -> None:
    objective = seeded(OBJECTIVES[kind])
    same = Dataset("digits", "", "digits", few.classes, False, lambda _: few.train)
    outcome = train_here(objective, same, tmp_path, replace(SETTINGS, epochs=4))
    losses = [entry["validation"]["loss"] for entry in outcome.history]
    assert min(losses) < losses[0]
    assert outcome.best["loss"] == min(losses)


def test_the_network_left_is_the_one_of_the_lowest_validation_loss(few: Dataset, tmp_path: Path) -> None:
    objective = seeded(classifier_objective)
    kept: list[dict[str, Tensor]] = []
    settings = replace(SETTINGS, epochs=3, learning_rate=3.0, warmup=0.9)  # a rate that spoils the network before the end
    outcome = train_here(objective, few, tmp_path, settings, on_epoch=lambda _: kept.append(tensors(objective)))
    losses = [entry["validation"]["loss"] for entry in outcome.history]
    best = losses.index(min(losses))
    assert best != len(losses) - 1, "the last epoch must not be the best for this test to say anything"
    assert differences(tensors(objective), kept[best]) == []
    assert outcome.best["step"] == outcome.history[best]["step"]
    assert not objective.network.training


def test_history_has_an_entry_for_each_epoch_and_for_the_last_step(few: Dataset, tmp_path: Path) -> None:
    outcome = train_here(seeded(classifier_objective), few, tmp_path, replace(SETTINGS, epochs=3, max_images=16 * 8))
    assert [entry["step"] for entry in outcome.history] == [3, 6, 8]
    assert outcome.complete


# --- interrupts and kills --------------------------------------------------------------------------------------------------


class Interrupted(Objective):
    """An objective during whose `step`-th training step something happens once, before or after the network has seen the batch."""

    def __init__(self, inner: Objective, step: int, happen: Callable[[], Any], after: bool) -> None:
        super().__init__()
        self.inner, self.network, self.adversarial = inner, inner.network, inner.adversarial
        self.step, self.happen, self.after, self.calls = step, happen, after, 0

    def groups(self) -> list[dict[str, Any]]:
        return self.inner.groups()

    def at(self, step: int, total: int) -> None:
        self.inner.at(step, total)

    def before_validation(self, images: Tensor) -> None:
        self.inner.before_validation(images)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += self.training
        due = self.training and self.calls == self.step
        if due and not self.after:
            self.happen()
        out: tuple[Tensor, dict[str, Tensor]] = self.inner(images, labels)
        if due and self.after:
            self.happen()
        return out


def stop() -> None:
    """What Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


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
    ("kind", "step"),  # in the first epoch, in the second, and where the compressor's latents are coarsened
    [("classifier", 2), ("generator", 5), ("compressor", 2), ("compressor", 5), ("compressor, rate-distortion", 5)],
)
def test_interrupted_in_a_step_and_resumed_it_ends_bit_identical(kind: str, step: int, few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        return train_here(Interrupted(seeded(OBJECTIVES[kind]), step, stop, after=False), few, tmp_path / "parts")

    resumed_equals_uninterrupted(OBJECTIVES[kind], few, tmp_path, interrupt)


def test_interrupted_at_the_end_of_an_epoch_and_resumed_it_ends_bit_identical(few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        return train_here(seeded(classifier_objective), few, tmp_path / "parts", on_epoch=lambda _: stop())

    resumed_equals_uninterrupted(classifier_objective, few, tmp_path, interrupt)


def test_ctrl_c_after_the_network_saw_a_batch_counts_that_batch_once(few: Dataset, tmp_path: Path) -> None:
    def interrupt() -> Outcome:
        ctrl_c = Interrupted(seeded(classifier_objective), 5, stop, after=True)
        return train_here(ctrl_c, few, tmp_path / "parts")

    resumed_equals_uninterrupted(classifier_objective, few, tmp_path, interrupt)


def test_ctrl_c_after_the_optimizer_moved_the_network_does_not_move_it_twice(few: Dataset, tmp_path: Path) -> None:
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


def test_killed_by_sigkill_it_goes_on_from_its_checkpoint_and_ends_bit_identical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


@pytest.mark.parametrize(("length", "what"), [(0.5, "truncated"), (0.0, "empty")])
def test_a_damaged_checkpoint_is_reported_and_training_starts_anew(
    length: float, what: str, few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupted_checkpoint(few, tmp_path / "parts")
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(length * len(content))])
    again, fresh = seeded(classifier_objective), seeded(classifier_objective)
    capsys.readouterr()
    train_here(again, few, tmp_path / "parts")
    said = capsys.readouterr().err
    assert "test.pt: unreadable checkpoint" in said, what
    assert "starting again" in said
    train_here(fresh, few, tmp_path / "whole")
    assert differences(tensors(again), tensors(fresh)) == []


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
    again, fresh = seeded(classifier_objective), seeded(classifier_objective)
    capsys.readouterr()
    train_here(again, few, tmp_path / "parts")
    assert "a checkpoint of another version of this training; starting again" in capsys.readouterr().err
    train_here(fresh, few, tmp_path / "whole")
    assert differences(tensors(again), tensors(fresh)) == []


def test_a_checkpoint_of_other_settings_is_not_used(few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted_checkpoint(few, tmp_path / "parts", replace(SETTINGS, learning_rate=2e-2))
    again, fresh = seeded(classifier_objective), seeded(classifier_objective)
    capsys.readouterr()
    train_here(again, few, tmp_path / "parts")
    assert "a checkpoint of other settings lies there" in capsys.readouterr().err
    train_here(fresh, few, tmp_path / "whole")
    assert differences(tensors(again), tensors(fresh)) == []


def test_a_checkpoint_of_another_seed_is_not_used(few: Dataset, tmp_path: Path) -> None:
    interrupted_checkpoint(few, tmp_path / "parts")
    again, fresh = seeded(classifier_objective), seeded(classifier_objective)
    train_here(again, few, tmp_path / "parts", seed=1)
    train_here(fresh, few, tmp_path / "whole", seed=1)
    assert differences(tensors(again), tensors(fresh)) == []


def test_ctrl_c_says_that_the_best_is_kept_and_leaves_no_partial_file(
    few: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupted_checkpoint(few, tmp_path)
    assert re.search(r"test: stopped at step [45] of 6; the best so far is kept", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_a_loss_that_is_no_number_is_one_run_error_and_the_checkpoint_stays(few: Dataset, tmp_path: Path) -> None:
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


def test_a_checkpoint_that_cannot_be_written_is_one_storage_error(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write .*test.pt"):
        train_here(seeded(classifier_objective), few, tmp_path / "file")


# --- the losses ------------------------------------------------------------------------------------------------------------


class Inverter(PerturbationGenerator):
    """A generator that inverts contrast, so that SSIM is negative."""

    def forward(self, images: Tensor, strength: float = 1.0) -> Tensor:
        return super().forward(images, strength).lerp(1 - images, 0.8)


@pytest.mark.parametrize("auxiliary", ["unbounded", "bounded"])
@pytest.mark.parametrize("ssim", ["signed", "absolute"])
def test_the_generators_loss_is_its_formula(auxiliary: str, ssim: str, few: Dataset) -> None:
    torch.manual_seed(2)
    loss_terms = GeneratorLoss(auxiliary, ssim, ssim_weight=0.7, cap=2.5)
    classifiers = (Small().eval(), Small("other", logits=20).eval())
    objective = GeneratorObjective(Inverter(width=2), *classifiers, loss_terms).eval()
    images, labels = to_float(few.train.images), few.train.labels
    with torch.no_grad():
        loss, figures = objective(images, labels)
        protected = objective.network(images)
        assert objective.auxiliary is not None
        ours, theirs = objective.target(protected), objective.auxiliary(protected)
        similarity = metrics.ssim(images, protected)
    entropy = -theirs.log_softmax(1)[torch.arange(48), labels]
    assert 0 < (entropy > 2.5).sum() < 48, "some images must be beyond the cap and some below"
    assert similarity.mean() < -0.1, "the sign must matter"
    term = entropy.clamp(max=2.5).mean() if auxiliary == "bounded" else entropy.mean()
    structure = similarity.abs().mean() if ssim == "absolute" else similarity.mean()
    expected = -ours.log_softmax(1)[torch.arange(48), labels].mean() - term + 0.7 * structure
    torch.testing.assert_close(loss, expected)
    assert figures["accuracy"] == (ours.argmax(1) == labels).float().mean()
    assert figures["auxiliary"] == (theirs.argmax(1) == labels).float().mean()
    torch.testing.assert_close(figures["ssim"], similarity.mean())
    torch.testing.assert_close(figures["abs_ssim"], similarity.abs().mean())


def test_with_target_as_its_own_auxiliary_the_auxiliary_term_is_dropped(few: Dataset) -> None:
    objective = generator_objective(GeneratorLoss(ssim_weight=0.5), auxiliary="small").eval()
    images, labels = to_float(few.train.images), few.train.labels
    with torch.no_grad():
        loss, figures = objective(images, labels)
        protected = objective.network(images)
        expected = F.cross_entropy(objective.target(protected), labels) + 0.5 * metrics.ssim(images, protected).mean()
    torch.testing.assert_close(loss, expected)
    assert "auxiliary" not in figures


def test_beyond_the_cap_a_bounded_auxiliary_term_pulls_no_more(few: Dataset) -> None:
    torch.manual_seed(2)
    objective = generator_objective(GeneratorLoss("bounded", cap=0.0)).eval()
    without = generator_objective(GeneratorLoss(), auxiliary="small").eval()
    without.load_state_dict(objective.state_dict(), strict=False)
    gradients = []
    for each in (objective, without):
        loss, _ = each(to_float(few.train.images), few.train.labels)
        gradients.append(torch.autograd.grad(loss, each.network.unet.outc.f.weight)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", ["generator", "compressor", "compressor, rate-distortion"])
def test_frozen_networks_stay_as_they_were_in_eval_mode(kind: str, few: Dataset, tmp_path: Path) -> None:
    objective = seeded(OBJECTIVES[kind])
    frozen = {
        name: module
        for name in ("target", "auxiliary", "generator")
        if isinstance(module := getattr(objective, name, None), nn.Module)
    }
    assert len(frozen) == 2
    before = {name: {key: value.clone() for key, value in module.state_dict().items()} for name, module in frozen.items()}
    learnt = tensors(objective)
    objective.train()
    assert not any(part.training for module in frozen.values() for part in module.modules())
    assert objective.network.training
    train_here(objective, few, tmp_path)
    assert differences(learnt, tensors(objective)), "nothing was trained"
    for name, module in frozen.items():
        assert differences(before[name], module.state_dict()) == [], name
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in module.parameters()), name


def test_the_rate_distortion_loss_is_bits_per_pixel_plus_weighted_squared_error(few: Dataset) -> None:
    objective = CompressorObjective(
        NeuralCompressor(N=4, M=6), PerturbationGenerator(width=2).eval(), Small().eval(), CompressorLoss(weight=3e-3)
    ).eval()
    images, labels = to_float(few.train.images), few.train.labels
    with torch.no_grad():
        loss, figures = objective(images, labels)
        protected = objective.generator(images)
        out = objective.compressor(protected)
    bits = -out["likelihoods"]["y"].double().log2().sum() / len(images)
    squared = (255 * (out["x_hat"] - protected)).double().square().mean()
    torch.testing.assert_close(loss.double(), bits / (32 * 32) + 3e-3 * squared, rtol=1e-5, atol=0)
    torch.testing.assert_close(figures["bits"].double(), bits, rtol=1e-5, atol=0)
    torch.testing.assert_close(figures["mse"].double(), squared / 255**2, rtol=1e-5, atol=0)


def test_the_rate_accuracy_loss_is_bits_per_pixel_plus_weighted_cross_entropy(few: Dataset) -> None:
    objective = CompressorObjective(
        NeuralCompressor(N=4, M=6), PerturbationGenerator(width=2).eval(), Small().eval(), CompressorLoss("rate-accuracy", 0.4)
    ).eval()
    images, labels = to_float(few.train.images), few.train.labels
    with torch.no_grad():
        loss, figures = objective(images, labels)
        out = objective.compressor(objective.generator(images))
        logits = objective.target(out["x_hat"].clamp(0, 1))
    bits = -out["likelihoods"]["y"].log2().sum() / len(images)
    torch.testing.assert_close(loss, bits / (32 * 32) + 0.4 * F.cross_entropy(logits, labels))
    assert figures["accuracy"] == (logits.argmax(1) == labels).float().mean()


def test_with_an_auxiliary_the_rate_accuracy_loss_is_less_its_bounded_cross_entropy(few: Dataset) -> None:
    torch.manual_seed(0)
    parts = (NeuralCompressor(N=4, M=6), PerturbationGenerator(width=2).eval(), Small().eval())
    images, labels = to_float(few.train.images), few.train.labels
    losses = []
    for auxiliary in (None, Small("other", logits=20).eval(), Small(logits=20).eval()):
        objective = CompressorObjective(*parts, CompressorLoss("rate-accuracy", 0.4), auxiliary).eval()
        with torch.no_grad():
            loss, figures = objective(images, labels)
            other = Small("other") if auxiliary is None else auxiliary
            logits = other(objective.compressor(objective.generator(images))["x_hat"].clamp(0, 1))
        losses.append(loss)
        if "auxiliary" in figures:
            assert figures["auxiliary"] == (logits.argmax(1) == labels).float().mean()
            term = F.cross_entropy(logits, labels, reduction="none").clamp(max=2.5).mean()
    assert "auxiliary" not in figures, "the target is not its own auxiliary"
    torch.testing.assert_close(losses[1], losses[0] - 0.4 * term)
    torch.testing.assert_close(losses[2], losses[0])


def test_the_quantisers_step_grows_once_and_the_function_around_it_stays(few: Dataset) -> None:
    objective = compressor_objective()
    compressor, images = objective.compressor, to_float(few.train.images[:8])
    with torch.no_grad():
        latents = [compressor.g_a(images)]
        before = compressor.g_s(latents[0])
        for step in range(10):
            objective.at(step, 10)
            latents.append(compressor.g_a(images))
    torch.testing.assert_close(compressor.g_s(latents[-1]), before)
    spreads = [float(each.std()) for each in latents]
    assert len({round(spread, 4) for spread in spreads}) == 2
    assert spreads[-1] < spreads[0]


def test_the_papers_loss_is_neither_eased_nor_coarsened(few: Dataset) -> None:
    objective = compressor_objective("rate-distortion")
    before = tensors(objective)
    for step in range(10):
        objective.at(step, 10)
    assert differences(before, tensors(objective)) == []


def test_rate_accuracy_trains_on_the_rounded_latents_that_will_be_sent(few: Dataset) -> None:
    images, labels = to_float(few.train.images), few.train.labels
    seen: dict[str, list[Tensor]] = {}
    for kind in ("rate-accuracy", "rate-distortion"):
        objective = compressor_objective(kind)
        with torch.no_grad():
            figures = [objective.train(mode)(images, labels)[1] for mode in (True, False)]
        seen[kind] = [torch.stack([each["mse"], each["bits"]]) for each in figures]
    torch.testing.assert_close(*seen["rate-accuracy"])
    assert not torch.allclose(*seen["rate-distortion"], rtol=1e-6), "the paper's trains on noise"


@pytest.mark.parametrize("kind", ["rate-accuracy", "rate-distortion"])
def test_both_terms_reach_every_part_that_learns(kind: str, few: Dataset) -> None:
    images, labels = to_float(few.train.images), few.train.labels
    objective = compressor_objective(kind).train()
    loss, _ = objective(images, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    for part in ("g_a", "g_s", "entropy_bottleneck"):
        gradients = [p.grad for p in getattr(objective.compressor, part).parameters() if p.requires_grad]
        assert gradients, part
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients), part
        assert any((gradient != 0).any() for gradient in gradients if gradient is not None), part
    assert all(p.grad is None for frozen in (objective.generator, objective.target) for p in frozen.parameters())


def test_the_cost_of_a_training_is_counted_over_an_interrupt(few: Dataset, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    whole = train_here(ClassifierObjective(network), few, tmp_path / "whole")
    images = 2 * len(few.train)
    # forward and the weights' gradient, a multiplication and an addition each; the images need no gradient
    assert whole.pflop == pytest.approx(2 * 2 * 3 * 32 * 32 * 10 * images / 1e15)
    first = train_here(Interrupted(ClassifierObjective(network), 2, stop, after=False), few, tmp_path / "parts")
    assert 0 < first.pflop < whole.pflop
    assert train_here(ClassifierObjective(network), few, tmp_path / "parts").pflop == pytest.approx(whole.pflop)


def test_an_encoder_learns_in_the_contracting_half_alone(few: Dataset) -> None:
    generator = PerturbationGenerator(width=2)
    objective = EncoderObjective(generator, 10).train()
    images = to_float(few.train.images)
    assert generator.features(images).shape == (len(images), 32, 2, 2)
    loss, _ = objective(images, few.train.labels)
    loss.backward()
    learnt = {name.split(".")[0] for name, p in generator.unet.named_parameters() if p.grad is not None}
    assert learnt == {"inc", "d1", "d2", "d3", "d4"}
    assert objective.parts() == [generator]


def test_a_trained_compressor_keeps_the_commonest_latents_of_its_training_images(few: Dataset) -> None:
    objective = compressor_objective("rate-distortion")
    with torch.no_grad():
        objective.compressor.g_a[-1].weight.mul_(0.05)
        objective.compressor.g_a[-1].bias.zero_()
        objective.compressor.update(force=True)
        images = to_float(few.train.images)
        assert objective.eval().finish(images, few.train.labels) == {}
        symbols = objective.compressor.symbols(objective.generator(images))
    rows, counts = symbols.flatten(1).unique(dim=0, return_counts=True)
    patterns, seen = objective.compressor.patterns.flatten(1), objective.compressor.pattern_counts
    assert len(patterns) == int((counts > 1).sum()) > 0
    assert int(seen.sum()) == len(images) + 1
    for pattern, count in zip(patterns, seen, strict=False):
        assert int(counts[(rows == pattern).all(1)].item()) == int(count)


def test_what_learnt_rate_and_accuracy_chooses_the_pattern_that_the_target_answers_best(few: Dataset) -> None:
    objective = compressor_objective("rate-accuracy").eval()
    compressor, images, labels = objective.compressor, to_float(few.train.images), few.train.labels
    with torch.no_grad():
        compressor.g_a[-1].weight.mul_(0.05)
        compressor.g_a[-1].bias.zero_()
        rounded = compressor.symbols(objective.generator(images))
        figures = objective.finish(images, labels)
        y = compressor.latents(objective.generator(images))
        chosen = compressor.symbols(objective.generator(images))
        decoded = compressor.reconstruct(chosen, (32, 32)).clamp(0, 1)
        says = objective.target(decoded).softmax(1)
    assert {tuple(row) for row in compressor.patterns.flatten(1).tolist()} <= {
        tuple(row) for row in rounded.flatten(1).tolist()
    }
    assert int(compressor.pattern_counts.sum()) == len(images) + 1, "each image has a pattern"
    assert figures["accuracy_in_sample"] == pytest.approx(float((says.argmax(1) == labels).float().mean()))
    assert 0 <= figures["bits_in_sample"] <= math.log2(len(compressor.patterns)) + 0.1
    likely = (y.flatten(1) @ compressor.reader[:, :-1].T + compressor.reader[:, -1]).softmax(1)
    best = (likely @ compressor.answers.T).max(1).values
    index = compressor.choose(y, rate_weight=0.0)
    torch.testing.assert_close((likely * compressor.answers[index]).sum(1), best)
    assert len(set(compressor.choose(y, rate_weight=1e6).tolist())) == 1, "bits above all: always the commonest"


def test_patterns_that_came_once_can_be_chosen_so_that_no_class_is_lost(few: Dataset) -> None:
    torch.manual_seed(0)
    objective = compressor_objective("rate-accuracy").eval()
    compressor, target, images = objective.compressor, objective.target, to_float(few.train.images)
    assert isinstance(target, Small)
    with torch.no_grad():
        compressor.g_a[-1].weight.mul_(10)
        rounded = compressor.symbols(objective.generator(images))
        assert len(rounded.flatten(1).unique(dim=0)) == len(images), "none came twice"
        decoded = compressor.reconstruct(rounded, (32, 32)).clamp(0, 1)
        mean, spread, last = target(decoded).mean(0), target(decoded).std(0), target.network[-1]
        last.weight.div_(spread[:, None])
        last.bias.sub_(mean).div_(spread)
        target.logits = 1000.0  # it tells many classes, and is sure of all that it says
        labels = target(decoded).argmax(1)
        figures = objective.finish(images, labels)
    assert len(labels.unique()) > 5
    assert compressor.answers.argmax(1).unique().tolist() == labels.unique().tolist()
    assert figures["accuracy_in_sample"] == 1


def test_the_reader_of_latents_is_a_logistic_regression() -> None:
    torch.manual_seed(0)
    latents = torch.randn(400, 6)
    labels = (latents @ torch.randn(6, 3) + torch.tensor([1.0, 0, -1])).argmax(1)
    reader = fit_reader(latents, labels, 4)
    logits = latents @ reader[:, :-1].T + reader[:, -1]
    assert (logits.argmax(1) == labels).float().mean() > 0.97
    assert reader.shape == (4, 7)
    assert (logits.argmax(1) != 3).all(), "a class that never came is never read"


def test_with_its_encoder_kept_a_generator_learns_in_its_expanding_half_alone(few: Dataset) -> None:
    unet = learn_apart_from_encoder(PerturbationGenerator(width=2)).unet
    learns = {name for name, part in unet.named_children() if any(p.requires_grad for p in part.parameters())}
    assert learns == {"u1", "u2", "u3", "u4", "outc"}
    joint = joint_objective(keep_encoder=True).train()
    generator = joint.generator
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    groups = joint.groups()
    assert sum(p.numel() for p in groups[1]["params"]) == parameters(generator)
    optimizer = torch.optim.SGD([p for group in groups for p in group["params"]], 0.1)
    loss, _ = joint(to_float(few.train.images), few.train.labels)
    loss.backward()
    optimizer.step()
    changed = {name.split(".")[1] for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= {"u1", "u2", "u3", "u4", "outc"}


def test_in_training_the_auxiliary_is_shown_every_second_picture(few: Dataset) -> None:
    objective = joint_objective()
    seen: list[int] = []
    objective.protection.auxiliary.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    images, labels = to_float(few.train.images[:7]), few.train.labels[:7]
    for mode in (True, False):
        objective.train(mode)(images, labels)
    assert seen == [7, 14]


def test_the_joint_loss_is_both_losses_on_what_the_edge_makes_and_what_the_cloud_sees(few: Dataset) -> None:
    objective = joint_objective().eval()
    images, labels = to_float(few.train.images), few.train.labels
    with torch.no_grad():
        loss, figures = objective(images, labels)
        protected = objective.generator(images)
        out = objective.compressor(protected)
        bits = -out["likelihoods"]["y"].log2().sum() / len(images)
        expected = bits / (32 * 32) / 0.2 + 2.0 * metrics.ssim(images, protected).abs().mean()
        for view in (protected, out["x_hat"].clamp(0, 1)):
            other = F.cross_entropy(objective.protection.auxiliary(view), labels, reduction="none")
            expected = expected + F.cross_entropy(objective.target(view), labels) - other.clamp(max=2.5).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert figures["accuracy"] == (objective.target(out["x_hat"].clamp(0, 1)).argmax(1) == labels).float().mean()


def test_in_joint_training_generator_and_compressor_learn_and_the_classifiers_do_not(few: Dataset) -> None:
    objective = joint_objective().train()
    assert [part.training for part in (objective.generator, objective.compressor)] == [False, True]
    loss, _ = objective(to_float(few.train.images), few.train.labels)
    loss.backward()
    for part in (objective.generator, objective.compressor.g_a, objective.compressor.g_s, objective.network.reader):
        assert any(p.grad is not None and (p.grad != 0).any() for p in part.parameters())
    for frozen in (objective.target, objective.protection.auxiliary):
        assert not frozen.training
        assert all(p.grad is None for p in frozen.parameters())


def test_in_joint_training_the_generator_learns_slower_and_everything_learns_once() -> None:
    objective = joint_objective()
    groups = objective.groups()
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert len(scales) == sum(len(group["params"]) for group in groups), "in one group only"
    assert set(scales) == {id(p) for p in objective.network.parameters() if p.requires_grad}
    assert {scales[id(p)] for p in objective.generator.parameters()} == {0.1}
    assert {scales[id(p)] for p in objective.compressor.g_a.parameters()} == {1.0}


def test_joint_training_is_for_rate_accuracy_alone(few: Dataset) -> None:
    made = joint_objective()
    with pytest.raises(UsageError, match="together on rate-accuracy, not on 'rate-distortion'"):
        JointObjective(
            made.compressor, made.generator, made.target, made.protection.auxiliary, CompressorLoss(), GeneratorLoss()
        )


def test_at_first_a_few_channels_speak_and_the_silent_ones_stay_silent(few: Dataset, tmp_path: Path) -> None:
    images = to_float(few.train.images)
    generator = PerturbationGenerator(width=2).eval()
    objective = CompressorObjective(NeuralCompressor(N=4, M=12), generator, Small().eval(), CompressorLoss("rate-accuracy"))

    def spread() -> Tensor:
        with torch.no_grad():
            return objective.compressor.g_a(objective.generator(images)).transpose(0, 1).flatten(1).std(1)  # type: ignore[no-any-return]

    objective.initialise(images)
    at_first = spread()
    speaking = at_first > 0
    assert 0 < speaking.sum() < 12
    assert (at_first[speaking] > 1).all(), "beyond a rounding step"
    train_here(objective, few, tmp_path)
    now = spread()
    assert (now[~speaking] == 0).all()
    assert not torch.allclose(now[speaking], at_first[speaking]), "nothing was trained"


def test_before_validation_the_entropy_model_is_fitted_to_what_will_be_sent(few: Dataset) -> None:
    images = to_float(few.train.images)
    objective = compressor_objective()
    with torch.no_grad():
        objective.compressor.g_a[-1].bias.zero_()
        _, before = objective.eval()(images, few.train.labels)
    reconstructed = objective.compressor(images)["x_hat"]
    objective.before_validation(images)
    torch.testing.assert_close(objective.compressor(images)["x_hat"], reconstructed)
    with torch.no_grad():
        _, after = objective(images, few.train.labels)
        symbols = objective.compressor.g_a(objective.generator(images)).round().transpose(0, 1).flatten(1)
    entropy = 0.0
    for channel in symbols:
        shares = channel.unique(return_counts=True)[1] / channel.numel()
        entropy -= float((shares * shares.log2()).sum()) * channel.numel() / len(images)
    assert entropy > 1
    assert float(after["bits"]) < float(before["bits"])
    assert entropy <= float(after["bits"]) < 1.5 * entropy, "no model can do better than the empirical entropy"


@pytest.mark.parametrize("spread", [0.2, 1.5, 10.0, 60.0])
@pytest.mark.parametrize("before", [None, 0.3, 40.0])
def test_the_entropy_model_comes_near_the_entropy_from_wherever_it_starts(before: float | None, spread: float) -> None:
    generator = torch.Generator().manual_seed(7)
    bottleneck = NeuralCompressor(N=4, M=12).entropy_bottleneck
    if before is not None:
        refit_entropy_model(bottleneck, before * torch.randn(300, 12, 2, 2, generator=generator))
    latents = spread * torch.randn(300, 12, 2, 2, generator=generator)
    refit_entropy_model(bottleneck, latents)
    assert (bottleneck.quantiles[:, 0, 1] == 0).all(), "medians stay"
    symbols = latents.round().clamp(-127, 127).transpose(0, 1).flatten(1)
    with torch.no_grad():
        bits = -bottleneck._likelihood(symbols[:, None])[0].log2().sum() / len(symbols[0])
    entropy = 0.0
    for channel in symbols:
        shares = channel.unique(return_counts=True)[1] / channel.numel()
        entropy -= float((shares * shares.log2()).sum())
    assert entropy <= float(bits) < 1.05 * entropy


@pytest.mark.parametrize("kind", ["rate-accuracy", "rate-distortion"])
def test_a_trained_compressor_has_tables_and_its_codec_round_trips(kind: str, few: Dataset, tmp_path: Path) -> None:
    objective = compressor_objective(kind)
    images = to_float(few.train.images)
    train_here(objective, few, tmp_path)
    codec = Neural(objective.compressor, "identity")
    payload = codec.encode(images)
    with torch.no_grad():
        expected = objective.compressor(images)["x_hat"].clamp(0, 1)
    torch.testing.assert_close(codec.decode(payload), expected, rtol=0, atol=1e-4)


# --- against an inversion network ------------------------------------------------------------------------------------------


class Draws(nn.Module):
    """An inversion network whose residual over the class means gives a chosen picture."""

    def __init__(self, draw: Callable[[Tensor], Tensor], means: Tensor) -> None:
        super().__init__()
        self.draw, self.means, self.scale = draw, means, nn.Parameter(torch.ones(()))

    def forward(self, seen: Tensor) -> Tensor:
        labels = seen[:, 3:].mean((2, 3)).argmax(1)
        return self.scale * self.draw(seen[:, :3]) - self.means[labels]


def graded(objective: AdversarialObjective) -> tuple[bool, bool]:
    """Whether the generator and the inversion network have a gradient that is not zero."""
    parts = (objective.contest.generator, objective.contest.inverter)
    first, second = (any(p.grad is not None and bool((p.grad != 0).any()) for p in part.parameters()) for part in parts)
    return first, second


def test_what_is_recovered_is_counted_from_the_class_mean_on(few: Dataset) -> None:
    objective = adversarial_objective().eval()
    images, labels = to_float(few.train.images), few.train.labels
    means = objective.means[labels]
    for guess, expected in ((images, 1.0), (means, 0.0), ((images + means) / 2, 0.75), (2 * means - images, -3.0)):
        objective.contest.inverter = Draws(lambda _, guess=guess: guess, objective.means)  # type: ignore[misc]
        assert objective.recovered(images, images, labels).item() == pytest.approx(expected, abs=1e-5)


def test_the_loss_against_inversion_is_the_generators_and_what_is_recovered(few: Dataset) -> None:
    torch.manual_seed(2)
    objective = adversarial_objective(weight=3.0).eval()
    images, labels = to_float(few.train.images), few.train.labels
    objective.contest.inverter = Draws(lambda seen: 0.9 * (seen / 4 + 0.5), objective.means)
    objective.at(2, 40)  # half of the warming up
    with torch.no_grad():
        loss, figures = objective(images, labels)
        protected = objective.contest.generator(images)
        own, _ = objective.protection(images, labels)
    wrong, least = (0.9 * protected - images).square().mean(), (objective.means[labels] - images).square().mean()
    assert wrong < least, "something must be recovered"
    torch.testing.assert_close(figures["recovered"], 1 - wrong / least)
    torch.testing.assert_close(loss, own + 3.0 * 0.5 * (1 - wrong / least))
    objective.at(20, 40)
    assert objective.ramp == 1


def test_an_inversion_that_does_worse_than_the_class_mean_costs_nothing_and_pulls_nowhere(few: Dataset) -> None:
    torch.manual_seed(2)
    objective = adversarial_objective().train()
    objective.contest.inverter = Draws(lambda seen: 10 * seen, objective.means)
    images, labels = to_float(few.train.images), few.train.labels
    objective.at(2 * TURNS, 4 * TURNS)
    loss, figures = objective(images, labels)
    assert figures["recovered"] < 0
    own, _ = objective.protection.judge(images, objective.contest.generator(images), labels, every=2)
    torch.testing.assert_close(loss, own)
    last = objective.contest.generator.unet.outc.f.weight
    torch.testing.assert_close(torch.autograd.grad(loss, last)[0], torch.autograd.grad(own, last)[0])


def test_in_each_turn_one_learns_and_the_other_does_not(few: Dataset) -> None:
    objective = adversarial_objective().train()
    images, labels = to_float(few.train.images), few.train.labels
    for step, expected in ((0, (True, False)), (1, (False, True)), (TURNS - 1, (False, True)), (TURNS, (True, False))):
        objective.zero_grad(set_to_none=True)
        objective.at(step, 4 * TURNS)
        loss, figures = objective(images, labels)
        loss.backward()
        assert graded(objective) == expected
        assert all(p.requires_grad for p in objective.contest.inverter.parameters()), "for its next turn"
        assert ("accuracy" in figures) == expected[0]
        frozen = (objective.protection.target, objective.protection.auxiliary)
        assert all(p.grad is None for each in frozen if each is not None for p in each.parameters())


def test_the_inversion_network_learns_to_recover(few: Dataset) -> None:
    torch.manual_seed(0)
    objective = adversarial_objective().train()
    images, labels = to_float(few.train.images), few.train.labels
    optimizer = torch.optim.Adam(objective.contest.inverter.parameters(), 1e-2)
    objective.at(1, 2)
    recovered = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, figures = objective(images, labels)
        loss.backward()
        optimizer.step()
        recovered.append(figures["recovered"].item())
    assert recovered[-1] > recovered[0] + 0.3


def test_trainings_own_adversary_is_told_the_label_and_recovers_nothing_without_a_residual(few: Dataset) -> None:
    objective = adversarial_objective().eval()
    images, labels = to_float(few.train.images), few.train.labels
    seen: list[Tensor] = []

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros_like(x[:, :3])

    objective.contest.inverter = Nothing()
    assert objective.recovered(images, images, labels).item() == pytest.approx(0.0, abs=1e-6), "the class mean is free"
    assert torch.equal(seen[0][:, 3:].mean((2, 3)).argmax(1), labels)
    assert adversarial_objective().contest.inverter.inc.f[0].in_channels == 3 + 10


def test_the_inversion_network_learns_faster_and_the_generator_alone_is_kept() -> None:
    objective = adversarial_objective()
    scales = {id(p): group["scale"] for group in objective.groups() for p in group["params"]}
    assert {scales[id(p)] for p in objective.contest.generator.parameters()} == {1.0}
    assert {scales[id(p)] for p in objective.contest.inverter.parameters()} == {PACE}
    assert len(scales) == len(list(objective.contest.parameters()))
    assert objective.parts() == [objective.contest.generator]


def test_a_generator_learns_at_the_strength_that_it_is_used_at(few: Dataset) -> None:
    images, labels = to_float(few.train.images), few.train.labels
    for strength in (0.0, 0.4):
        objective = adversarial_objective(strength=strength).eval()
        with torch.no_grad():
            _, figures = objective(images, labels)
            expected = metrics.ssim(images, objective.contest.generator(images, strength)).mean()
        torch.testing.assert_close(figures["ssim"], expected)
    assert figures["ssim"] < 1


class Stronger(AdversarialObjective):
    """One whose adversary seems stronger at each validation, so that the loss grows."""

    grown = 0.0

    def before_validation(self, images: Tensor) -> None:
        self.grown += 1.0

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = super().forward(images, labels)
        return loss + self.grown, figures


def test_against_an_inversion_network_the_last_network_is_kept_and_not_the_best(few: Dataset, tmp_path: Path) -> None:
    objective = seeded(adversarial_objective)
    objective.__class__ = Stronger
    kept: list[dict[str, Tensor]] = []
    outcome = train_here(objective, few, tmp_path, on_epoch=lambda _: kept.append(tensors(objective)))
    losses = [entry["validation"]["loss"] for entry in outcome.history]
    assert losses.index(min(losses)) == 0, "the first epoch must be the best for this test to say anything"
    assert outcome.best["step"] == outcome.history[-1]["step"]
    assert differences(tensors(objective), kept[-1]) == []
    assert differences(tensors(objective), kept[0])


@pytest.mark.parametrize("step", [2, 3, 5])  # in a turn of either, and in the second epoch
def test_interrupted_against_an_inversion_network_and_resumed_it_ends_bit_identical(
    step: int, few: Dataset, tmp_path: Path
) -> None:
    make = lambda: adversarial_objective(noise=0.2)  # noqa: E731

    def interrupt() -> Outcome:
        return train_here(Interrupted(seeded(make), step, stop, after=False), few, tmp_path / "parts")

    resumed_equals_uninterrupted_but_for_noise(make, few, tmp_path, interrupt)


def resumed_equals_uninterrupted_but_for_noise(
    make: Callable[[], AdversarialObjective], data: Dataset, folder: Path, interrupt: Callable[[], Outcome]
) -> None:
    """As above; validation draws from the operating system's generator, so that its figures are no evidence."""
    whole = seeded(make)
    train_here(whole, data, folder / "whole")
    assert not interrupt().complete
    resumed = seeded(make)
    assert train_here(resumed, data, folder / "parts").complete
    assert differences(tensors(resumed), tensors(whole)) == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weight": -1.0}, "the adversary's weight must be a number from 0 up, got -1"),
        ({"weight": float("nan")}, "the adversary's weight must be a number from 0 up, got nan"),
        ({"noise": 1.5}, "standard deviation must be between 0 and 1, got 1.5"),
        ({"noise": float("nan")}, "standard deviation must be between 0 and 1, got nan"),
        ({"strength": -0.1}, "strength must be between 0 .* got -0.1"),
    ],
)
def test_a_defence_that_there_is_not_is_refused(how: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Defence(**how)  # type: ignore[arg-type]


def test_class_means_are_the_mean_training_image_of_each_class(few: Dataset) -> None:
    means = class_means(few.train, 10)
    assert means.shape == (10, 3, 32, 32)
    for label in range(10):
        rows = [to_float(few.train.images[i : i + 1])[0] for i in range(48) if few.train.labels[i] == label]
        torch.testing.assert_close(means[label], sum(rows[1:], rows[0]) / len(rows))


def test_a_generator_learnt_against_inversion_is_kept_with_its_defence_and_from_where_it_started(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings
) -> None:
    start = weights.find(weights.generator_name(TARGET, AUXILIARY), "digits")
    assert start is not None
    manifest = training.train_generator(
        few, TARGET, AUXILIARY, variant="hardened", start=start.name, defence=Defence(4.0, 0.2, 0.9), device="cpu"
    )
    assert manifest.complete
    assert manifest.spec == {"width": 4, "noise": 0.2}, "of the width that it started with"
    assert manifest.training["loss"]["defence"] == {"weight": 4.0, "noise": 0.2, "strength": 0.9, "width": 16}
    assert manifest.training["loss"]["start"] == start.sha256
    assert "recovered" in manifest.metrics
    module, _ = weights.load(f"{TARGET}-X-{AUXILIARY}@hardened", "digits", "generator")
    assert isinstance(module, PerturbationGenerator)
    assert module.noise == 0.2
    assert set(module.state_dict()) == set(PerturbationGenerator(4).state_dict()), "nothing of the adversary"
    assert weights.find(start.name, "digits") == start


def test_a_generator_starts_from_the_very_weights_that_are_named(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = replace(tiny_presets, learning_rate=0.0)
    monkeypatch.setitem(presets.PRESETS, "quick", {"generator": still})
    name = weights.generator_name(TARGET, AUXILIARY)
    training.train_generator(few, TARGET, AUXILIARY, variant="again", start=name, device="cpu")
    first, second = (dict(weights.load(each, "digits", "generator")[0].named_parameters()) for each in (name, f"{name}@again"))
    assert (
        differences({key: value.data for key, value in first.items()}, {key: value.data for key, value in second.items()}) == []
    )


def test_noise_alone_needs_no_adversary(few: Dataset, own_data: Path, tiny_presets: TrainingSettings) -> None:
    manifest = training.train_generator(few, TARGET, AUXILIARY, variant="noisy", defence=Defence(noise=0.1), device="cpu")
    assert manifest.spec == {"width": tiny_presets.width, "noise": 0.1}
    assert "recovered" not in manifest.metrics


def test_a_start_that_is_not_there_or_would_be_overwritten_is_refused(few: Dataset, own_data: Path) -> None:
    name = weights.generator_name(TARGET, AUXILIARY)
    with pytest.raises(UsageError, match=f"would overwrite the generator '{name}' that it starts from: keep it under"):
        training.train_generator(few, TARGET, AUXILIARY, start=name)
    with pytest.raises(WeightsError, match="no weights 'nowhere' for data set 'digits'"):
        training.train_generator(few, TARGET, AUXILIARY, start="nowhere")


# --- the loop's parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0.1, 0.3])
def test_the_schedule_climbs_to_one_and_falls_to_zero(warmup: float) -> None:
    rates = [learning_rate_share(i / 1000, warmup) for i in range(1001)]
    top = round(1000 * warmup)
    assert rates[0] == pytest.approx(0, abs=0.02)
    assert rates[top] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert max(rates) == pytest.approx(1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert learning_rate_share(warmup / 2, warmup) == pytest.approx(0.5)
    assert learning_rate_share((1 + warmup) / 2, warmup) == pytest.approx(0.5)


@pytest.mark.parametrize("n", [48, 50])
def test_each_epoch_is_a_permutation_of_its_own(n: int) -> None:
    per_epoch = -(-n // 16)
    epochs = [torch.cat([rows_of(n, 16, step + epoch * per_epoch, 0) for step in range(per_epoch)]) for epoch in range(3)]
    for order in epochs:
        assert torch.equal(order.sort().values, torch.arange(n))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    assert not torch.equal(rows_of(n, 16, 0, 0), rows_of(n, 16, 0, 1))


def test_the_number_of_images_bounds_the_number_of_steps() -> None:
    assert steps(100, TrainingSettings(3, 32, 1e-3, 0.0)) == 12
    assert steps(100, TrainingSettings(3, 32, 1e-3, 0.0, max_images=70)) == 3
    assert steps(100, TrainingSettings(3, 32, 1e-3, 0.0, max_images=10_000)) == 12


def test_an_erased_square_is_grey_and_the_rest_as_it_was() -> None:
    torch.manual_seed(0)
    images = torch.rand(200, 3, 32, 24)
    torch.manual_seed(1)
    plain = crop_and_flip(True)(images)
    torch.manual_seed(1)
    erased = crop_and_flip(True, erase=8)(images)
    changed = (plain != erased).any(1)
    assert (erased.movedim(1, -1)[changed] == 0.5).all()
    areas = changed.flatten(1).sum(1)
    assert areas.max() == 49  # pixels less than 4 from the centre: 7 by 7
    assert 0 < areas.min() < 49, "one at the border is cut"
    rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
    assert torch.equal(areas, rows * columns)


@pytest.mark.parametrize("mirror", [False, True])
def test_crops_are_shifted_originals_and_mirrored_only_where_labels_survive_it(mirror: bool) -> None:
    torch.manual_seed(0)
    images = torch.rand(60, 3, 32, 24)
    out = crop_and_flip(mirror)(images)
    assert out.shape == images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    found = []
    for image, source in zip(out, padded, strict=True):
        matches = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped in (False, True)
            if torch.equal(
                source[:, top : top + 32, left : left + 24].flip(2) if flipped else source[:, top : top + 32, left : left + 24],
                image,
            )
        ]
        assert len(matches) == 1
        found += matches
    assert {flipped for _, _, flipped in found} == ({False, True} if mirror else {False})
    assert len({top for top, _, _ in found}) == 9
    assert len({left for _, left, _ in found}) == 9


# --- the recipes -----------------------------------------------------------------------------------------------------------


def test_the_preset_paper_has_the_papers_numbers() -> None:
    generator = presets.PRESETS["paper"]["generator"]
    assert (generator.epochs, generator.batch, generator.learning_rate, generator.weight_decay) == (100, 256, 5e-3, 5e-4)
    assert (generator.warmup, generator.width, generator.max_images, generator.optimizer) == (0.3, 32, None, "adamw")
    assert {kind: (each.epochs, each.batch) for kind, each in presets.PRESETS["paper"].items()} == dict.fromkeys(
        ("classifier", "generator", "compressor", "joint"), (100, 256)
    )
    loss, distortion = training.LOSSES["paper"]
    assert (loss.auxiliary, loss.ssim, loss.ssim_weight) == ("unbounded", "signed", 0.5)
    assert distortion.kind == "rate-distortion"


def test_every_preset_trains_all_three_and_has_its_losses() -> None:
    assert set(presets.PRESETS) == {"quick", "hours", "paper"} == set(training.LOSSES)
    every = {"classifier", "generator", "compressor", "joint"}
    assert [set(kinds) - every for kinds in presets.PRESETS.values()] == [{"encoder"}, {"encoder"}, set()]
    assert all(every <= set(kinds) for kinds in presets.PRESETS.values())


def test_what_a_preset_does_not_train_is_refused(few: Dataset, empty_data: Path) -> None:
    with pytest.raises(UsageError, match="preset 'paper' has no training of an encoder; 'quick' and 'hours' have"):
        training.train_encoder(few, "paper")


@pytest.mark.parametrize("preset", ["quick", "hours"])
def test_a_generator_s_encoder_is_trained_first_once(
    preset: str, few: Dataset, own_data: Path, tiny_presets: TrainingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    for variant in ("one", "two"):
        manifest = training.train_generator(few, TARGET, AUXILIARY, preset=preset, variant=variant, device="cpu")
        encoder = weights.find(presets.ENCODER, few.family)
        assert encoder is not None
        assert manifest.training["loss"]["start"] == encoder.sha256
    assert capsys.readouterr().err.count("which generators start from: training them") == 1


class Finished(ClassifierObjective):
    """A classifier whose tables are fitted last, with figures of the same names as validation's, and one of its own."""

    def finish(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": 2.0, "accuracy_in_sample": 3.0}


def train_finished(few: Dataset, settings: TrainingSettings) -> Manifest:
    objective = Finished(Classifier("resnet18", 10))
    plan = Plan(["resnet18"], "classifier", "quick", settings, 0)
    return fitting.train_and_keep(objective, few, plan, device="cpu")[0]


def test_a_manifest_says_on_what_its_figures_were_measured_and_what_is_finished_last_overwrites_none(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings
) -> None:
    manifest = train_finished(few, replace(tiny_presets, epochs=1, max_images=24))
    assert manifest.metrics["accuracy"] == manifest.training["history"][-1]["validation"]["accuracy"]
    assert manifest.metrics["accuracy_in_sample"] == 3.0
    assert "chose the checkpoint" in manifest.training["measured_on"]["validation"]
    assert "fitted" in manifest.training["measured_on"]["in_sample"]


@pytest.mark.parametrize("captured", [False, True])
def test_validation_sees_the_phones_jpeg_if_training_does(
    captured: bool, few: Dataset, own_data: Path, tiny_presets: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []

    def watched(objective: Objective, train: Split, validation: Split, *rest: Any, **options: Any) -> Outcome:
        given.extend((train.images, validation.images))
        return fit(objective, train, validation, *rest, **options)

    monkeypatch.setattr(fitting, "fit", watched)
    train_finished(few, replace(tiny_presets, epochs=1, max_images=24, captured=captured))
    expected = [fitting.captured(each) if captured else each for each in (few.train, few.validation)]
    assert all(torch.equal(images, split.images) for images, split in zip(given, expected, strict=True))


def test_what_is_captured_is_what_the_edge_receives(few: Dataset) -> None:
    split = fitting.captured(few.train)
    images = to_float(few.train.images)
    received = System.baseline(PerturbationGenerator(2), Small()).edge.receive(Client().capture(images))
    assert torch.equal(split.labels, few.train.labels)
    assert torch.equal(to_float(split.images), received)
    assert 0 < (received - images).abs().max() < 0.2


@pytest.mark.parametrize(
    ("able", "half", "precision"),
    [
        (True, True, "bf16-mixed"),
        (True, False, "32-true"),
        (False, True, "32-true"),
    ],
)
def test_sixteen_bits_are_used_where_they_are_asked_for_and_the_processor_has_them(
    able: bool, half: bool, precision: str, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    outcome = train_here(seeded(classifier_objective), few, tmp_path, replace(SETTINGS, half=half))
    assert outcome.precision == precision
    assert outcome.complete


def unknown_device(few: Dataset, folder: Path) -> None:
    fit(
        classifier_objective(),
        few.train,
        few.validation,
        SETTINGS,
        label="",
        checkpoint=folder / "x.pt",
        identity={},
        device="gpu",
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda few, _: training.train_classifier(few, TARGET, preset="fast"),
            "unknown preset 'fast': .*choose one of hours, paper, quick",
        ),
        (lambda few, _: training.train_generator(few, TARGET, AUXILIARY, preset="papre"), "did you mean 'paper'"),
        (lambda few, _: training.train_compressor(few, TARGET, AUXILIARY, preset="x"), "choose one of hours, paper, quick"),
        (lambda few, _: training.train_classifier(few, "resnet81"), "did you mean 'resnet18'"),
        (unknown_device, "unknown device 'gpu': .*choose one of auto, cpu, cuda"),
        (lambda *_: GeneratorLoss("capped"), "unknown auxiliary term 'capped': .*bounded, unbounded"),
        (lambda *_: GeneratorLoss(ssim="abs"), "unknown SSIM term 'abs': .*absolute, signed"),
        (lambda *_: GeneratorLoss(ssim_weight=-1), "must be a number from 0 up, got -1"),
        (lambda *_: CompressorLoss("mse"), "unknown compressor loss 'mse': .*rate-accuracy, rate-distortion"),
    ],
)
def test_what_is_unknown_is_refused_with_the_choices(
    call: Callable[[Dataset, Path], Any], message: str, few: Dataset, tmp_path: Path, empty_data: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        call(few, tmp_path)
    assert not empty_data.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_gpu_that_is_not_there_is_one_usage_error(few: Dataset, empty_data: Path) -> None:
    with pytest.raises(UsageError, match="device 'cuda' was requested, but torch sees no CUDA GPU"):
        training.train_classifier(few, TARGET, device="cuda")


def test_a_trained_classifier_is_kept_with_all_that_is_known_of_it(
    few: Dataset, empty_data: Path, tiny_presets: TrainingSettings
) -> None:
    seen: list[int] = []
    manifest = training.train_classifier(
        few, AUXILIARY, seed=3, device="cpu", on_epoch=lambda history: seen.append(len(history))
    )
    module, kept = weights.load(AUXILIARY, "digits", "classifier")
    assert kept == manifest
    assert isinstance(module, Classifier)
    assert (kept.seed, kept.data, kept.complete) == (3, "few digits", True)
    assert kept.training["preset"] == "quick"
    assert kept.training["learning_rate"] == tiny_presets.learning_rate
    assert (kept.training["images"], kept.training["validation_images"]) == (48, 8)
    assert kept.training["division"] == few.division
    assert kept.metrics["accuracy"] == kept.training["history"][-1]["validation"]["accuracy"]
    assert seen == [1, 2], "after each epoch and at the end"
    assert not list(empty_data.rglob("*.pt")), "the checkpoint is gone once training is complete"


def test_ctrl_c_keeps_the_best_as_incomplete_weights_and_the_same_call_goes_on(
    few: Dataset, empty_data: Path, tiny_presets: TrainingSettings
) -> None:
    manifest = training.train_classifier(few, AUXILIARY, device="cpu", on_epoch=lambda _: stop())
    assert not manifest.complete
    module, kept = weights.load(AUXILIARY, "digits", "classifier")
    assert kept == manifest
    assert module(to_float(few.test.images)).isfinite().all()
    assert [path.name for path in empty_data.rglob("*.pt")] == [f"{AUXILIARY}.pt"]
    again = training.train_classifier(few, AUXILIARY, device="cpu")
    assert again.complete
    assert again.training["history"][:1] == manifest.training["history"], "it went on from where it was stopped"
    assert [entry["step"] for entry in again.training["history"]] == [2, 3]


def test_ctrl_c_does_not_put_the_beginning_of_a_training_in_the_place_of_a_finished_one(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights.find(AUXILIARY, "digits")
    stopped = training.train_classifier(few, AUXILIARY, device="cpu", on_epoch=lambda _: stop())
    assert not stopped.complete
    assert weights.find(AUXILIARY, "digits") == before
    assert f"the weights {AUXILIARY} that were there stay as they are" in capsys.readouterr().err
    weights.load_pair("digits", TARGET, AUXILIARY)
    assert training.train_classifier(few, AUXILIARY, device="cpu").complete, "the same call goes on"
    assert weights.find(AUXILIARY, "digits") != before


def test_a_generator_cannot_be_trained_without_its_classifiers(few: Dataset, empty_data: Path) -> None:
    with pytest.raises(WeightsError, match="no weights 'resnet18' for data set 'digits'"):
        training.train_generator(few, TARGET, AUXILIARY)


def test_nothing_is_trained_where_all_is_present(digits: Dataset, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_data.rglob("*")}
    manifests = training.ensure(digits, TARGET, AUXILIARY)
    assert [manifest.kind for manifest in manifests] == ["classifier", "classifier", "generator", "compressor"]
    assert {path: path.stat().st_mtime_ns for path in tiny_data.rglob("*")} == before
    assert capsys.readouterr().err == ""


@pytest.fixture
def own_data(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny networks' folder, to be changed."""
    shutil.copytree(tiny_root, tmp_path / "data")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_what_was_trained_against_weights_that_were_replaced_is_trained_again(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    auxiliary, manifest = weights.load(AUXILIARY, "digits", "classifier")
    before = {each.name: each.sha256 for each, _ in weights.listing()}
    with torch.no_grad():
        next(auxiliary.parameters()).add_(1)
    replaced = weights.save(auxiliary, manifest)
    with pytest.raises(WeightsError, match="has been replaced by another"):
        weights.load_pair("digits", TARGET, AUXILIARY)
    manifests = {each.name: each for each in training.ensure(few, TARGET, AUXILIARY, **QUICKLY)}
    generator, compressor = weights.generator_name(TARGET, AUXILIARY), weights.compressor_name(TARGET, AUXILIARY)
    assert {name for name in before if manifests[name].sha256 != before[name]} == {AUXILIARY, generator, compressor}
    assert manifests[AUXILIARY].sha256 == replaced.sha256
    assert manifests[generator].depends == {"target": before[TARGET], "auxiliary": replaced.sha256}
    assert manifests[compressor].depends == {"target": before[TARGET], "generator": manifests[generator].sha256}
    said = capsys.readouterr().err
    assert f"no usable weights {generator!r} for few digits: training them with preset 'quick'" in said
    assert f"no usable weights {TARGET!r}" not in said
    weights.load_pair("digits", TARGET, AUXILIARY)


def test_only_what_is_missing_is_trained(few: Dataset, own_data: Path, tiny_presets: TrainingSettings) -> None:
    name = weights.compressor_name(TARGET, AUXILIARY)
    for path in own_data.rglob(f"{name}*"):
        path.unlink()
    before = {each.name: each.sha256 for each, _ in weights.listing()}
    assert name not in before
    training.ensure(few, TARGET, AUXILIARY, compressor=False, **QUICKLY)
    assert weights.find(name, "digits") is None
    training.ensure(few, TARGET, AUXILIARY, **QUICKLY)
    after = {each.name: each.sha256 for each, _ in weights.listing()}
    assert {key: after[key] for key in before} == before
    assert name in after


def test_what_was_interrupted_is_trained_to_its_end_and_an_interrupt_stops_the_rest(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings
) -> None:
    generator = weights.generator_name(TARGET, AUXILIARY)
    (own_data / "runs" / "weights" / "digits" / f"{generator}.json").unlink()
    compressor = weights.find(weights.compressor_name(TARGET, AUXILIARY), "digits")
    training.train_encoder(few, "quick", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        training.ensure(few, TARGET, AUXILIARY, **QUICKLY, on_epoch=lambda _: stop())
    found = weights.find(generator, "digits")
    assert found is not None
    assert not found.complete
    assert weights.find(weights.compressor_name(TARGET, AUXILIARY), "digits") == compressor
    again = training.ensure(few, TARGET, AUXILIARY, compressor=False, **QUICKLY)
    assert [manifest.complete for manifest in again] == [True] * 3


def test_a_preset_of_hours_ends_with_generator_and_compressor_trained_together(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings
) -> None:
    (own_data / "runs" / "weights" / "digits" / f"{TARGET}-X-{AUXILIARY}.json").unlink()
    epochs: list[int] = []

    def stop_in_the_joint_training(history: list[dict[str, Any]]) -> None:
        epochs.append(len(history))
        if epochs.count(1) == 3:  # after the encoder's and the generator's
            stop()

    with pytest.raises(KeyboardInterrupt):
        training.ensure(few, TARGET, AUXILIARY, preset="hours", device="cpu", on_epoch=stop_in_the_joint_training)
    stopped = weights.find(f"{TARGET}-X-{AUXILIARY}", "digits")
    assert stopped is not None
    assert not stopped.complete
    manifests = training.ensure(few, TARGET, AUXILIARY, preset="hours", device="cpu")
    assert [each.name for each in manifests][2:] == [f"{TARGET}-X-{AUXILIARY}", f"{TARGET}-X-{AUXILIARY}-compressor"]
    assert all(each.complete for each in manifests)
    pair = weights.load_pair("digits", TARGET, AUXILIARY)
    start, encoder = weights.find(f"{TARGET}-X-{AUXILIARY}@start", "digits"), weights.find("encoder", "digits")
    assert start is not None
    assert encoder is not None
    assert start.training["loss"]["start"] == encoder.sha256
    assert pair.manifests["generator"].training["loss"]["start"] == start.sha256
    assert pair.manifests["generator"].training["loss"]["before"]["seconds"] == start.training["seconds"]
    assert pair.manifests["generator"].sha256 != start.sha256
    assert training.ensure(few, TARGET, AUXILIARY, preset="hours", device="cpu") == manifests, "nothing is trained again"


def test_joint_training_does_not_overwrite_what_it_starts_from(few: Dataset, own_data: Path) -> None:
    with pytest.raises(UsageError, match="would overwrite the generator variant 'start'"):
        training.train_joint(few, TARGET, AUXILIARY, variant="start")


def test_two_variants_of_a_generator_lie_side_by_side(few: Dataset, own_data: Path, tiny_presets: TrainingSettings) -> None:
    plain = weights.find(weights.generator_name(TARGET, AUXILIARY), "digits")
    loss = GeneratorLoss("bounded", "signed", 2.0)
    manifest = training.train_generator(few, TARGET, AUXILIARY, loss=loss, variant="bounded", device="cpu")
    assert manifest.name == f"{TARGET}-X-{AUXILIARY}@bounded"
    assert manifest.training["loss"].items() >= asdict(loss).items()
    assert manifest.spec == {"width": tiny_presets.width, "noise": 0.1}
    assert weights.find(weights.generator_name(TARGET, AUXILIARY), "digits") == plain


# --- several processes -----------------------------------------------------------------------------------------------------

FEW = """
from dataclasses import replace
from workbench import data
from workbench.training import loop, recipes
from workbench.training.loop import TrainingSettings

digits = data.DATASETS["digits"]

def few(directory):
    made = digits(directory)
    sizes = {"train": IMAGES, "validation": 16, "test": 16}
    return data.Dataset("digits", "few digits", "digits", made.classes, False, lambda name: getattr(made, name).head(sizes[name]))

data.DATASETS["digits"] = few
tiny = TrainingSettings(1, 16, 1e-3, 0.0, max_images=32, width=2)
recipes.PRESETS["quick"] = dict.fromkeys(("classifier", "generator", "compressor"), tiny)
"""
COMMAND = """
import sys
from workbench.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""
UNEQUAL = """
import os
from pathlib import Path
import torch
from workbench.classifiers import Classifier
from workbench.models import PerturbationGenerator
from workbench.training.objectives import ClassifierObjective
from torch import nn

first = "LOCAL_RANK" not in os.environ
loop.CHECKPOINT_EVERY_S = 0.0 if first else 1e9  # the two clocks never agree
torch.manual_seed(5)
network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
dataset = data.load("digits")
outcome = loop.fit(
    ClassifierObjective(network), dataset.train, dataset.validation, TrainingSettings(3, 16, 1e-3, 0.0),
    label="two", checkpoint=Path("two.pt"), identity={}, device="cpu", devices=2,
)
if first:
    print("ended", outcome.complete, [entry["step"] for entry in outcome.history])
"""


def run_script(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, and end what it started where it does not come to one."""
    (folder / "script.py").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"it did not end: {err[-2000:]}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_two_processes_share_the_batches_of_a_pair_and_leave_one_set_of_weights(tmp_path: Path, empty_data: Path) -> None:
    names = ("--target", AUXILIARY, "--auxiliary", AUXILIARY)
    script = FEW.replace("IMAGES", "48") + COMMAND
    done = run_script(
        tmp_path, script, "train", "pair", *names, "--loss", "rate-distortion", "--device", "cpu", "--devices", "2"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pair = weights.load_pair("digits", AUXILIARY, AUXILIARY)  # checks every hash, and who was trained against whom
    assert all(manifest.complete for manifest in pair.manifests.values())
    folder = empty_data / "runs" / "weights" / "digits"
    manifests = {manifest.name: manifest for manifest in pair.manifests.values()}
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.json" for name in manifests),
        *(manifest.file for manifest in manifests.values()),
    }
    assert [line.split()[0] for line in done.stdout.splitlines()] == [str(folder / each.file) for each in manifests.values()]
    assert not list(empty_data.rglob("*.pt"))


def test_two_processes_come_to_an_end_with_a_last_batch_of_one_image_and_clocks_that_differ(tmp_path: Path) -> None:
    done = run_script(tmp_path, FEW.replace("IMAGES", "49") + UNEQUAL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "ended True [4, 8, 12]\n"


def test_two_processes_that_learn_in_turns_come_to_an_end(tmp_path: Path, own_data: Path) -> None:
    names = ("--target", AUXILIARY, "--auxiliary", AUXILIARY, "--variant", "hardened")
    script = FEW.replace("IMAGES", "48") + COMMAND
    hardened = ("--against-inversion", "2", "--noise", "0.1")
    done = run_script(tmp_path, script, "train", "generator", *names, *hardened, "--device", "cpu", "--devices", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = weights.find(f"{AUXILIARY}-X-{AUXILIARY}@hardened", "digits")
    assert manifest is not None
    assert manifest.complete
    assert manifest.spec["noise"] == 0.1
