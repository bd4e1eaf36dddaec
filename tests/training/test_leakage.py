"""Leakage beyond the class: its bound holds, and generators learn to lower it, at every strength."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support.objectives import Small, generator_objective
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.models import PerturbationGenerator
from workbench.pictures import to_float
from workbench.training import GeneratorLoss, TrainingSettings
from workbench.training.leakage import leakage
from workbench.training.loop import Trainer
from workbench.training.objectives import clamp_inwards
from workbench.training.protection import GeneratorObjective, learn_from_deepest

HIDDEN = GeneratorLoss("bounded", "absolute", 0.0, eye_weight=4.0, leakage_weight=0.5, every_strength=True)


def objective(loss: GeneratorLoss = HIDDEN, noise: float = 0.1) -> GeneratorObjective:
    torch.manual_seed(0)
    return generator_objective(loss, noise=noise)


@pytest.fixture
def batch(digits: Dataset) -> tuple[Tensor, Tensor]:
    return to_float(digits.train.images[:32]), digits.train.labels[:32]


def test_a_loss_for_every_strength_has_no_other_strength() -> None:
    with pytest.raises(UsageError, match=r"trained at strength 1, got 0\.5"):
        GeneratorObjective(PerturbationGenerator(2, 0.1), Small(), Small("other"), HIDDEN, strength=0.5)


# --- the bound ---------------------------------------------------------------------------------------------------------------


def test_a_pattern_of_the_class_leaks_nothing() -> None:
    labels = torch.arange(40) % 4
    patterns = torch.rand(4, 3, 8, 8)[labels]
    assert float(leakage(patterns, labels, 0.1)) == pytest.approx(0, abs=1e-6)
    assert float(leakage(patterns + 0.01 * torch.randn(40, 3, 8, 8), labels, 0.1)) > 0.5


@pytest.mark.parametrize("deviation", [0.02, 0.1, 0.5])
def test_gaussian_values_leak_what_the_bound_says(deviation: float) -> None:
    torch.manual_seed(0)
    labels = torch.arange(20_000) % 2
    values = labels[:, None, None, None] + deviation * torch.randn(20_000, 1, 1, 2)
    expected = 2 * math.log(1 + deviation**2 / 0.1**2) / 2
    assert float(leakage(values, labels, 0.1)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("distance", [0.05, 0.2, 1.0])
def test_a_value_of_two_levels_leaks_less_than_the_bound(distance: float) -> None:
    noise, labels = 0.1, torch.zeros(1000, dtype=torch.int64)
    levels = distance * (torch.arange(1000) % 2).float()
    seen = torch.linspace(-2, 3, 20_001, dtype=torch.float64)
    normal = [torch.exp(-((seen - level) ** 2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi)) for level in (0, distance)]
    mixed = sum(normal) / 2
    information = sum(float((each * (each / mixed).clamp_min(1e-300).log()).nan_to_num().sum()) for each in normal) / 2
    information *= float(seen[1] - seen[0])
    assert 0 < information <= math.log(2) + 1e-3
    assert information <= float(leakage(levels[:, None, None, None], labels, noise))


def test_the_bound_is_that_of_the_classes_that_are_there() -> None:
    torch.manual_seed(0)
    values, labels = torch.rand(12, 3, 4, 4), torch.tensor([0, 5, 9]).repeat(4)
    compact = torch.tensor([0, 1, 2]).repeat(4)
    torch.testing.assert_close(leakage(values, labels, 0.1), leakage(values, compact, 0.1))


def test_pictures_that_are_all_of_other_classes_are_no_error() -> None:
    assert float(leakage(torch.rand(3, 3, 4, 4), torch.arange(3), 0.1)) == pytest.approx(0, abs=1e-6)


# --- what a generator learns ---------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_training_lowers_the_leakage(digits: Dataset) -> None:
    made = objective(GeneratorLoss("bounded", "absolute", 0.0, leakage_weight=2.0))
    settings = TrainingSettings(40, 32, 5e-2, 0.0, warmup=0.1, clip=1.0)
    trainer = Trainer(made, digits.train.head(64), settings, device="cpu")
    values = [float(trainer.step(step)[1]["leakage"].detach()) for step in range(36)]
    assert values[-1] < 0.5 * values[0]


def test_the_expanding_half_sees_only_the_deepest_features(digits: Dataset) -> None:
    made = objective()
    learn_from_deepest(made.network)
    trainer = Trainer(made, digits.train.head(48), TrainingSettings(2, 16, 1e-2, 5e-4), device="cpu")
    for step in range(3):
        trainer.step(step)
    unet, images = made.network.unet.eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = unet(images)
        for part in (unet.inc, unet.d1, unet.d2, unet.d3):
            part.register_forward_hook(lambda _, inputs, out: out)
        x1, x2, x3, x4, x5 = unet.contract(images)
        blind = unet.u1(x5, torch.zeros_like(x4))
        blind = unet.u3(unet.u2(blind, torch.rand_like(x3)), torch.rand_like(x2))
        blind = unet.outc(unet.u4(blind, torch.rand_like(x1)))
    torch.testing.assert_close(blind, before)
    assert set(unet.state_dict()) == set(PerturbationGenerator(2).unet.state_dict()), "the form of the U-Net stays"


def test_black_and_white_values_learn_inwards_alone() -> None:
    x = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    out = clamp_inwards(x)
    assert out.tolist() == [0, 0, 0.5, 1, 1]
    out.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, 1, 0], "a step against the gradient leads inwards"


def test_terms_below_their_limits_pull_no_more(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    made = objective(GeneratorLoss("bounded", "absolute", 0.0, eye_weight=4.0, leakage_weight=0.5))
    stripes = torch.zeros_like(images)
    stripes[..., ::2] = 1
    plain = objective(GeneratorLoss("bounded", "absolute", 0.0))
    with torch.no_grad():
        loss, figures = made.judge(images, stripes, labels, noiseless=stripes)
        expected, _ = plain.judge(images, stripes, labels)
    assert 0 < figures["views"] < 0.015
    torch.testing.assert_close(loss, expected)
    with torch.no_grad():
        visible, _ = made.judge(images, images, labels, noiseless=images)
        expected, _ = plain.judge(images, images, labels)
    assert visible > expected + 4


def test_the_leakage_term_grows_with_the_steps(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    made = objective(GeneratorLoss("bounded", "absolute", 0.0, leakage_weight=0.5)).train()
    plain = objective(GeneratorLoss("bounded", "absolute", 0.0)).train()
    shares = []
    with torch.no_grad():
        expected, _ = plain.judge(images, images, labels)
        for step in (0, 50, 100):
            made.at(step, 100)
            loss, figures = made.judge(images, images, labels, noiseless=images)
            term = 0.5 * (math.log1p(float(figures["leakage"])) - math.log1p(2.0))
            shares.append(float(loss - expected) / term)
    assert shares == pytest.approx([0.1, 0.5, 1.0], abs=1e-3)


def test_a_leakage_without_noise_is_refused() -> None:
    with pytest.raises(UsageError, match="bounded by the generator's random component: give one with --noise above 0"):
        objective(noise=0.0)


# --- every strength ------------------------------------------------------------------------------------------------------------


def shown_to_the_target(made: GeneratorObjective, images: Tensor, labels: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    seen: list[Tensor] = []
    hook = made.target.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    protected = torch.ones_like(images)
    with torch.no_grad():
        _, figures = made.judge(images, protected, labels)
    hook.remove()
    return seen, figures


def test_in_training_each_image_has_its_own_strength(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = torch.zeros(400, 3, 32, 32), batch[1].repeat(13)[:400]
    torch.manual_seed(0)
    (shown,), _ = shown_to_the_target(objective().train(), images, labels)
    strengths = shown[:, 0, 0, 0]
    assert torch.equal(shown, strengths.view(-1, 1, 1, 1).expand_as(shown)), "one strength for all of an image"
    whole = strengths == 1
    assert 165 < int(whole.sum()) < 235
    others = strengths[~whole].sort().values
    assert others.min() < 0.05
    assert others.max() > 0.95
    assert float(others.median()) == pytest.approx(0.5, abs=0.1)


def test_validation_measures_strength_1_and_a_half(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    seen, figures = shown_to_the_target(objective().eval(), images, labels)
    assert torch.equal(seen[0], torch.ones_like(images))
    torch.testing.assert_close(seen[1], (images + 1) / 2)
    assert "accuracy_half_strength" in figures


def test_the_papers_loss_knows_strength_1_alone(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    seen, figures = shown_to_the_target(objective(GeneratorLoss(), noise=0.0).train(), images, labels)
    assert torch.equal(seen[0], torch.ones_like(images))
    assert "accuracy_half_strength" not in figures


def test_noise_is_added_to_what_was_clamped() -> None:
    generator = PerturbationGenerator(2, 0.1).eval()
    generator.unet.outc.f.weight.data.zero_()
    generator.unet.outc.f.bias.data.fill_(40.0)
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert (generator.noiseless(images) == 1).all()
        protected = generator(images)
    assert float((1 - protected).mean()) == pytest.approx(0.1 / math.sqrt(2 * math.pi), rel=0.1)
