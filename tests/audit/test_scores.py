"""The scores of a guess: every score by hand, ties included, and honest intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from workbench import metrics
from workbench.audit.scores import FIGURES, Judge, across, area, identified, score
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.pictures import to_float

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def distance(judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    return judge.compare(x, y, torch.zeros(len(x), dtype=torch.int64))[0]


@pytest.fixture(scope="module")
def judge(digits: Dataset) -> Judge:
    return Judge(digits, 1600, torch.device("cpu"), width=8)


# --- one picture -----------------------------------------------------------------------------------------------------------


def test_a_guess_that_is_wrong_by_a_tenth_everywhere_is_20_db(judge: Judge) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.8
    found = score(images + 0.1, images, torch.zeros(3, dtype=torch.int64), judge)
    assert tuple(found) == FIGURES
    assert all(values.shape == (3,) for values in found.values())
    torch.testing.assert_close(found["psnr"], torch.full((3,), 20.0))
    assert torch.equal(found["identified"], torch.ones(3))


def test_the_picture_itself_has_the_best_of_every_figure(judge: Judge, images: Tensor, digits: Dataset) -> None:
    found = score(images, images, digits.test.labels[:40], judge)
    assert torch.equal(found["psnr"], torch.full((40,), 100.0)), "infinite would be no mean"
    torch.testing.assert_close(found["ssim"], torch.ones(40))
    torch.testing.assert_close(found["distance"], torch.zeros(40), rtol=0, atol=1e-5)
    assert torch.equal(found["identified"], torch.ones(40))
    assert found["judged"].mean() > 0.5, "the judge reads the originals"


def test_inverted_contrast_counts_by_its_magnitude(judge: Judge, images: Tensor) -> None:
    found = score(1 - images, images, torch.zeros(40, dtype=torch.int64), judge)
    assert found["ssim"].mean() < -0.3
    assert torch.equal(found["abs_ssim"], found["ssim"].abs())


def test_the_judge_sees_the_class_in_originals_and_not_in_noise(judge: Judge, digits: Dataset) -> None:
    images, labels = to_float(digits.test.images[:200]), digits.test.labels[:200]
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    assert judge.right(images, labels).mean() > 0.6
    assert judge.right(noise, labels).mean() < 0.3


def test_the_judges_distance_is_a_distance_that_grows(judge: Judge, images: Tensor) -> None:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    means = [float(distance(judge, images, (images + much * noise).clamp(0, 1)).mean()) for much in (0.0, 0.02, 0.1, 0.5)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(0, abs=1e-5)
    assert means[1] > 1e-4
    other = images.flip(0)
    torch.testing.assert_close(distance(judge, images, other), distance(judge, other, images), rtol=1e-2, atol=1e-3)


def test_one_pass_over_the_guesses_also_judges_them(judge: Judge, images: Tensor, digits: Dataset) -> None:
    guesses, labels = images.flip(0), digits.test.labels[:40]
    assert torch.equal(judge.compare(images, guesses, labels)[1], judge.right(guesses, labels))


def test_a_judge_is_the_same_each_time(digits: Dataset, images: Tensor) -> None:
    first, second = (Judge(digits, 64, torch.device("cpu"), width=8) for _ in range(2))
    assert torch.equal(distance(first, images, images.flip(0)), distance(second, images, images.flip(0)))


# --- identification --------------------------------------------------------------------------------------------------------


def test_ties_are_broken_by_lot() -> None:
    likeness = torch.tensor(
        [
            [5.0, 1.0, 0.0, 5.0],  # the right one ties with another
            [2.0, 1.0, 0.0, 0.0],  # a wrong one
            [7.0, 7.0, 7.0, 7.0],  # all alike
            [0.0, 0.0, 0.0, 3.0],  # the right one alone
        ]
    )
    assert identified(likeness).tolist() == [0.5, 0.0, 0.25, 1.0]


def test_who_draws_one_picture_for_all_names_one_of_them(judge: Judge, images: Tensor) -> None:
    found = score(images[:1].expand(40, -1, -1, -1), images, torch.zeros(40, dtype=torch.int64), judge)
    assert found["identified"].tolist() == [1.0] + [0.0] * 39


# --- over images and seeds -------------------------------------------------------------------------------------------------


def test_with_one_seed_the_interval_is_that_of_the_images() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    ours, expected = across([values]), metrics.mean(values)
    assert ours.value == pytest.approx(expected.value)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))
    assert ours.n == 50


def test_seeds_that_differ_widen_it_and_seeds_that_agree_do_not() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    alike, apart = across([values, values, values]), across([values - 1, values, values + 1])
    one = across([values])
    assert (alike.low, alike.high) == pytest.approx((one.low, one.high))
    assert apart.value == pytest.approx(one.value)
    assert one.low - apart.low > 0.5
    assert apart.high - one.high > 0.5


@pytest.mark.parametrize("right", [0, 40])
def test_a_share_of_none_or_all_is_not_sure(right: int) -> None:
    values = torch.cat([torch.ones(right), torch.zeros(40 - right)])
    found, wilson = across([values, values], share=True), metrics.wilson(right, 40)
    assert (found.value, found.low, found.high) == pytest.approx((wilson.value, wilson.low, wilson.high))
    assert found.high - found.low > 0.05
    assert found.std is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=7, max_size=7), min_size=1, max_size=4))
def test_a_share_stays_between_0_and_1_around_its_value(figures: list[list[float]]) -> None:
    found = across([torch.tensor(each) for each in figures], share=True)
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1
    assert found.value == pytest.approx(float(np.mean(figures)), abs=1e-6)


# --- area under ROC --------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(SCORES, SCORES)
def test_the_area_is_that_of_scikit_learn(positive: list[float], negative: list[float]) -> None:
    expected = roc_auc_score([1] * len(positive) + [0] * len(negative), positive + negative)
    found = area(torch.tensor(positive), torch.tensor(negative))
    assert found.value == pytest.approx(expected)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.n == len(positive) + len(negative)


def test_the_interval_of_an_area_is_hanleys_and_mcneils() -> None:
    positive, negative = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 1.0, 2.5])
    found = area(positive, negative)
    a = (1.5 + 2 + 3 + 3) / 12
    first, second = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + 3 * (first - a * a) + 2 * (second - a * a)) / 12)
    assert found.value == pytest.approx(a)
    assert found.low == pytest.approx(a - 1.96 * error)


def test_an_area_needs_both_sides() -> None:
    with pytest.raises(UsageError, match="an area needs scores on both sides, got 2 and 0"):
        area(torch.ones(2), torch.ones(0))
