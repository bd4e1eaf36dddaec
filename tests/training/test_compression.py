"""The losses of the compressor and of joint training, computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.objectives import (
    SETTINGS,
    Interrupted,
    Small,
    compressor_objective,
    joint_objective,
    stop,
    train_here,
)
from workbench import metrics
from workbench.codecs import Neural
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.pictures import to_float
from workbench.training import CompressorLoss, GeneratorLoss
from workbench.training.compression import CompressorObjective, JointObjective, fit_reader, refit_entropy_model
from workbench.training.objectives import ClassifierObjective


def test_the_rate_distortion_loss_is_its_formula(few: Dataset) -> None:
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


def test_the_quantisers_step_grows_once(few: Dataset) -> None:
    objective = joint_objective()
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


def test_rate_accuracy_trains_on_the_rounded_latents(few: Dataset) -> None:
    images, labels = to_float(few.train.images), few.train.labels
    seen: dict[str, list[Tensor]] = {}
    for kind, objective in (("rate-accuracy", joint_objective()), ("rate-distortion", compressor_objective())):
        with torch.no_grad():
            figures = [objective.train(mode)(images, labels)[1] for mode in (True, False)]
        seen[kind] = [each["bits"] for each in figures]
    torch.testing.assert_close(*seen["rate-accuracy"])
    assert not torch.allclose(*seen["rate-distortion"], rtol=1e-6), "the paper's trains on noise"


def test_both_terms_reach_every_part_that_learns(few: Dataset) -> None:
    images, labels = to_float(few.train.images), few.train.labels
    objective = compressor_objective().train()
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
    # forward pass and the weights' gradient, with a multiplication and an addition each (images need no gradient)
    assert whole.pflop == pytest.approx(2 * 2 * 3 * 32 * 32 * 10 * images / 1e15)
    first = train_here(Interrupted(ClassifierObjective(network), 2, stop, after=False), few, tmp_path / "parts")
    assert 0 < first.pflop < whole.pflop
    assert train_here(ClassifierObjective(network), few, tmp_path / "parts").pflop == pytest.approx(whole.pflop)


def test_a_trained_compressor_keeps_the_commonest_latents(few: Dataset) -> None:
    objective = compressor_objective()
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


def test_rate_accuracy_chooses_the_pattern_best_answered(few: Dataset) -> None:
    objective = joint_objective().eval()
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


def test_single_patterns_can_be_chosen_so_no_class_is_lost(few: Dataset) -> None:
    torch.manual_seed(0)
    objective = joint_objective().eval()
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
        target.logits = 1000.0  # a classifier with many classes that is certain of every label
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


def test_the_joint_loss_is_the_sum_of_both_losses(few: Dataset) -> None:
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


def test_joint_training_leaves_the_classifiers_unchanged(few: Dataset) -> None:
    objective = joint_objective().train()
    assert [part.training for part in (objective.generator, objective.compressor)] == [False, True]
    loss, _ = objective(to_float(few.train.images), few.train.labels)
    loss.backward()
    compressor = objective.compressor
    for part in (objective.generator, compressor.g_a, compressor.g_s, compressor.entropy_bottleneck, objective.network.reader):
        assert any(p.grad is not None and (p.grad != 0).any() for p in part.parameters())
    for frozen in (objective.target, objective.protection.auxiliary):
        assert not frozen.training
        assert all(p.grad is None for p in frozen.parameters())


def test_in_joint_training_the_generator_learns_slower() -> None:
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


def test_silent_channels_stay_silent(few: Dataset, tmp_path: Path) -> None:
    images = to_float(few.train.images)
    objective = joint_objective()

    def spread() -> Tensor:
        with torch.no_grad():
            return objective.compressor.g_a(objective.generator(images)).transpose(0, 1).flatten(1).std(1)  # type: ignore[no-any-return]

    objective.initialise(images)
    at_first = spread()
    speaking = at_first > 0
    assert 0 < speaking.sum() < 6
    assert (at_first[speaking] > 1).all(), "beyond a rounding step"
    train_here(objective, few, tmp_path, replace(SETTINGS, epochs=1))
    now = spread()
    assert (now[~speaking] == 0).all()
    assert not torch.allclose(now[speaking], at_first[speaking]), "nothing was trained"


def test_before_validation_the_entropy_model_is_fitted(few: Dataset) -> None:
    images = to_float(few.train.images)
    objective = joint_objective()
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
@pytest.mark.parametrize("before", [None, pytest.param(0.3, marks=pytest.mark.system), 40.0])
def test_the_entropy_model_reaches_the_entropy_from_any_start(before: float | None, spread: float) -> None:
    generator = torch.Generator().manual_seed(7)
    bottleneck = NeuralCompressor(N=4, M=4).entropy_bottleneck
    if before is not None:
        refit_entropy_model(bottleneck, before * torch.randn(300, 4, 2, 2, generator=generator))
    latents = spread * torch.randn(300, 4, 2, 2, generator=generator)
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


@pytest.mark.parametrize("make", [compressor_objective, joint_objective])
def test_a_trained_compressors_codec_round_trips(make: Callable[[], CompressorObjective], few: Dataset, tmp_path: Path) -> None:
    objective = make()
    images = to_float(few.train.images)
    train_here(objective, few, tmp_path, replace(SETTINGS, epochs=1))
    codec = Neural(objective.compressor, "identity")
    payload = codec.encode(images)
    with torch.no_grad():
        expected = objective.compressor(images)["x_hat"].clamp(0, 1)
    torch.testing.assert_close(codec.decode(payload), expected, rtol=0, atol=1e-4)
