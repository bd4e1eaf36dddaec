"""The training loop: it is deterministic, keeps the best network, and follows its schedule and batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.objectives import (
    OBJECTIVES,
    SETTINGS,
    adversarial_objective,
    classifier_objective,
    differences,
    joint_objective,
    seeded,
    tensors,
    train_here,
)
from workbench.data import Dataset, Split
from workbench.errors import UsageError
from workbench.pictures import to_float
from workbench.training import PRESETS, TrainingSettings
from workbench.training.batches import Feed, crop_and_flip
from workbench.training.presets import HIDDEN
from workbench.training.schedules import equal_steps, learning_rate_share, steps

KINDS = [pytest.param(kind, marks=[pytest.mark.system] if kind == "joint" else []) for kind in OBJECTIVES]


NOISY = {
    "joint, hidden": lambda: joint_objective(protection=HIDDEN, noise=0.1),
    "adversary": lambda: adversarial_objective(noise=0.1),
}


@pytest.mark.parametrize("kind", [*OBJECTIVES, *NOISY])
def test_objectives_compute_in_mixed_precision(kind: str, few: Dataset) -> None:
    objective = seeded((OBJECTIVES | NOISY)[kind])
    for mode in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = objective.train(mode)(to_float(few.train.images).bfloat16(), few.train.labels)
        assert loss.isfinite()
    loss.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_determines_the_networks(kind: str, few: Dataset, tmp_path: Path) -> None:
    left = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        objective = seeded(OBJECTIVES[kind])
        train_here(objective, few, tmp_path / folder, replace(SETTINGS, epochs=1), seed)
        left.append(tensors(objective))
    assert differences(left[0], left[1]) == []
    assert differences(left[0], left[2])


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_on_the_training_images(kind: str, few: Dataset, tmp_path: Path) -> None:
    objective = seeded(OBJECTIVES[kind])
    same = Dataset("digits", "", "digits", few.classes, False, lambda _: few.train)
    outcome = train_here(objective, same, tmp_path, replace(SETTINGS, epochs=4))
    losses = [entry["validation"]["loss"] for entry in outcome.history]
    assert min(losses) < losses[0]
    assert outcome.best["loss"] == min(losses)


def test_the_network_kept_has_the_lowest_validation_loss(few: Dataset, tmp_path: Path) -> None:
    objective = seeded(classifier_objective)
    kept: list[dict[str, Tensor]] = []
    settings = replace(
        SETTINGS, epochs=3, learning_rate=3.0, warmup=0.9
    )  # a learning rate that spoils the network before the end
    outcome = train_here(objective, few, tmp_path, settings, on_epoch=lambda _: kept.append(tensors(objective)))
    losses = [entry["validation"]["loss"] for entry in outcome.history]
    best = losses.index(min(losses))
    assert best != len(losses) - 1, "the last epoch must not be the best for this test to say anything"
    assert differences(tensors(objective), kept[best]) == []
    assert outcome.best["step"] == outcome.history[best]["step"]
    assert not objective.network.training


def test_history_has_an_entry_per_epoch_and_for_the_last_step(few: Dataset, tmp_path: Path) -> None:
    outcome = train_here(seeded(classifier_objective), few, tmp_path, replace(SETTINGS, epochs=3, max_images=16 * 8))
    assert [entry["step"] for entry in outcome.history] == [3, 6, 8]
    assert outcome.complete


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


def test_the_rate_stays_at_its_peak_as_long_as_it_is_held() -> None:
    rates = [learning_rate_share(i / 1000, 0.0, 0.7) for i in range(1001)]
    assert rates[:701] == [1.0] * 701
    assert rates[700:] == sorted(rates[700:], reverse=True)
    assert rates[850] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("hold", [-0.1, 1.1, float("nan")])
def test_a_held_share_of_the_steps_is_from_0_to_1(hold: float) -> None:
    with pytest.raises(UsageError, match="held for a share of the steps"):
        replace(SETTINGS, hold=hold)
    assert [learning_rate_share(progress, 0.0, 1.0) for progress in (0.0, 0.5, 1.0)] == [1.0] * 3


def test_steps_at_the_peak_and_of_one_size_suit_other_epochs() -> None:
    held = TrainingSettings(10, 10, 1e-3, 0.0, warmup=0.0, hold=0.7)  # 10 steps an epoch on 100 images
    assert [equal_steps(100, held, epochs) for epochs in (10, 5, 20)] == [70, 35, 70]
    assert equal_steps(100, replace(held, sizes=((0.0, 24), (0.4, 32))), 10) == 40
    for other in ({"warmup": 0.1}, {"hold": 0.0}, {"max_images": 500}):
        assert equal_steps(100, replace(held, **other), 10) == 0  # type: ignore[arg-type]
    for kind in ("classifier", "encoder"):
        assert equal_steps(50_000, PRESETS["hours"][kind], 20) == 14 * 98


@pytest.mark.parametrize("n", [48, 50])
def test_each_epoch_is_a_permutation_of_its_own(n: int) -> None:
    split, per_epoch = Split(torch.zeros(n, 3, 1, 1), torch.zeros(n)), -(-n // 16)
    first, other = (Feed(split, 16, 9, seed, torch.device("cpu")) for seed in (0, 1))
    epochs = [torch.cat([first.rows(step + epoch * per_epoch) for step in range(per_epoch)]) for epoch in range(3)]
    for order in epochs:
        assert torch.equal(order.sort().values, torch.arange(n))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])
    assert not torch.equal(first.rows(0), other.rows(0))


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
    assert areas.max() == 49  # pixels less than 4 from the centre: 7 x 7
    assert 0 < areas.min() < 49, "one at the border is cut"
    rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
    assert torch.equal(areas, rows * columns)


@pytest.mark.parametrize("mirror", [False, True])
def test_crops_are_shifted_and_mirrored_only_if_labels_allow(mirror: bool) -> None:
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
