"""Training against an inversion network: its loss, its turns, its defence in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.objectives import adversarial_objective, differences, seeded, tensors, train_here
from tests.support.pair import AUXILIARY, TARGET
from workbench import metrics, training, weights
from workbench.data import Dataset
from workbench.errors import UsageError, WeightsError
from workbench.models import PerturbationGenerator
from workbench.pictures import to_float
from workbench.training import GeneratorLoss, TrainingSettings, presets
from workbench.training.adversary import PACE, TURNS, AdversarialObjective, Defence


class Draws(nn.Module):
    def __init__(self, draw: Callable[[Tensor], Tensor], means: Tensor) -> None:
        super().__init__()
        self.draw, self.means, self.scale = draw, means, nn.Parameter(torch.ones(()))

    def forward(self, seen: Tensor) -> Tensor:
        labels = seen[:, 3:].mean((2, 3)).argmax(1)
        return self.scale * self.draw(seen[:, :3]) - self.means[labels]


def graded(objective: AdversarialObjective) -> tuple[bool, bool]:
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


def test_the_loss_against_inversion_is_its_formula(few: Dataset) -> None:
    torch.manual_seed(2)
    objective = adversarial_objective(weight=3.0).eval()
    images, labels = to_float(few.train.images), few.train.labels
    objective.contest.inverter = Draws(lambda seen: 0.9 * (seen / 4 + 0.5), objective.means)
    objective.at(2, 40)  # half of the warm-up
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


def test_a_failed_inversion_costs_nothing(few: Dataset) -> None:
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


@pytest.mark.system
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


def test_the_inversion_network_learns_faster_and_is_not_kept() -> None:
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
    grown = 0.0

    def before_validation(self, images: Tensor) -> None:
        self.grown += 1.0

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = super().forward(images, labels)
        return loss + self.grown, figures


def test_against_inversion_the_last_network_is_kept(few: Dataset, tmp_path: Path) -> None:
    objective = seeded(adversarial_objective)
    objective.__class__ = Stronger
    kept: list[dict[str, Tensor]] = []
    outcome = train_here(objective, few, tmp_path, on_epoch=lambda _: kept.append(tensors(objective)))
    losses = [entry["validation"]["loss"] for entry in outcome.history]
    assert losses.index(min(losses)) == 0, "the first epoch must be the best for this test to say anything"
    assert outcome.best["step"] == outcome.history[-1]["step"]
    assert differences(tensors(objective), kept[-1]) == []
    assert differences(tensors(objective), kept[0])


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


def test_a_generator_keeps_its_defence_and_its_start(few: Dataset, own_data: Path, tiny_presets: TrainingSettings) -> None:
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
    loss = GeneratorLoss("bounded", "absolute")  # the preset's own cuts the skip connections
    training.train_generator(few, TARGET, AUXILIARY, loss=loss, variant="again", start=name, device="cpu")
    first, second = (dict(weights.load(each, "digits", "generator")[0].named_parameters()) for each in (name, f"{name}@again"))
    assert (
        differences({key: value.data for key, value in first.items()}, {key: value.data for key, value in second.items()}) == []
    )


def test_noise_alone_needs_no_adversary(few: Dataset, own_data: Path, tiny_presets: TrainingSettings) -> None:
    manifest = training.train_generator(
        few, TARGET, AUXILIARY, "paper", variant="noisy", defence=Defence(noise=0.1), device="cpu"
    )
    assert manifest.spec == {"width": tiny_presets.width, "noise": 0.1}
    assert "recovered" not in manifest.metrics


def test_a_missing_or_overwritten_start_is_refused(few: Dataset, own_data: Path) -> None:
    name = weights.generator_name(TARGET, AUXILIARY)
    with pytest.raises(UsageError, match=f"would overwrite the generator '{name}' that it starts from: keep it under"):
        training.train_generator(few, TARGET, AUXILIARY, start=name)
    with pytest.raises(WeightsError, match="no weights 'nowhere' for data set 'digits'"):
        training.train_generator(few, TARGET, AUXILIARY, start="nowhere")
