"""The metrics against known values, and against independent implementations of their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.data import Dataset, load
from workbench.errors import UsageError
from workbench.metrics import Estimate, accuracy, label_bits, mean, percentile, psnr, ssim, wilson
from workbench.pictures import to_float


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return to_float(load("samples").test.images[:4])


# --- intervals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (9, 10, 0.59585, 0.98212),
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (1, 2, 0.09453, 0.90547),
        (4576, 5000, 0.90716, 0.92261),
    ],
)
def test_wilson_gives_the_known_intervals(successes: int, n: int, low: float, high: float) -> None:
    estimate = wilson(successes, n)
    assert estimate.value == successes / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=6e-6)
    assert (estimate.n, estimate.std) == (n, None)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.just(n) | st.just(0) | st.integers(0, n), st.just(n))))
def test_a_proportion_lies_in_its_interval_within_0_and_1(counts: tuple[int, int]) -> None:
    estimate = wilson(*counts)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bounds_are_those_of_a_score_test_at_95_percent(counts: tuple[int, int]) -> None:
    successes, n = counts
    estimate = wilson(successes, n)
    for bound in (estimate.low, estimate.high):
        allowed = 1.959963984540054 * math.sqrt(bound * (1 - bound) / n)
        assert abs(successes / n - bound) == pytest.approx(allowed, abs=1e-7)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(UsageError, match=f"got {successes} of {n}"):
        wilson(successes, n)


def test_mean_carries_the_spread_and_a_normal_interval() -> None:
    estimate = mean([1.0, 2.0, 3.0, 6.0])
    std = math.sqrt(14 / 3)
    assert estimate.value == pytest.approx(3)
    assert estimate.std == pytest.approx(std)
    assert (estimate.low, estimate.high) == pytest.approx((3 - 1.959964 * std / 2, 3 + 1.959964 * std / 2))
    assert estimate.n == 4


def test_mean_takes_tensors_and_whole_numbers_and_a_single_value() -> None:
    assert mean(torch.tensor([1.0, 3.0], requires_grad=True)).value == 2
    assert mean([8, 12]).value == 10
    assert mean([5.0]) == Estimate(5.0, 5.0, 5.0, 1, 0.0)


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one value"):
        mean([])


@pytest.mark.parametrize(("percent", "low", "high"), [(50, 470, 530), (95, 935, 963), (99, 983, 996)])
def test_a_percentile_has_the_interval_of_its_order_statistics(percent: float, low: float, high: float) -> None:
    found = percentile(list(range(1000, 0, -1)), percent)
    assert found.value == pytest.approx(10 * percent, abs=1)
    assert (found.low, found.high, found.n) == (pytest.approx(low, abs=2), pytest.approx(high, abs=2), 1000)


def test_a_percentile_of_one_value_is_it_of_none_is_refused() -> None:
    assert (percentile([3.0], 95).low, percentile([3.0], 95).value) == (3.0, 3.0)
    for values, percent in (([], 50), ([1.0], 0), ([1.0], 100)):
        with pytest.raises(UsageError, match="a percentile needs"):
            percentile(values, percent)


def test_an_estimate_reads_as_json_and_as_text() -> None:
    assert wilson(9, 10).as_dict().keys() == {"value", "low", "high", "n"}
    assert mean([1.0, 2.0]).as_dict()["std"] == pytest.approx(math.sqrt(0.5))
    assert wilson(9, 10).percent() == "90.00 % [59.58, 98.21]"
    assert f"{wilson(9, 10):.2f}" == "0.90 [0.60, 0.98]"


# --- accuracy --------------------------------------------------------------------------------------------------------------


def test_accuracy_counts_rows_with_the_top_score_at_the_label() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [5.0, -1.0, 2.0], [0.0, 0.0, 1.0], [-3.0, -2.0, -1.0]])
    assert accuracy(scores, torch.tensor([1, 0, 1, 2])) == wilson(3, 4)


def test_accuracy_refuses_shapes_that_do_not_match(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"got \(5, 10\) and \(4,\)"):
        accuracy(torch.zeros(5, 10), digits.test.labels[:4])
    with pytest.raises(UsageError, match="scores must be N x K"):
        accuracy(torch.zeros(5), torch.zeros(5))


# --- similarity ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (2, 1, 11, 40), (1, 3, 96, 64)])
def test_ssim_and_its_gradient_equal_a_librarys(shape: tuple[int, ...]) -> None:
    from pytorch_msssim import ssim as reference

    made = torch.Generator().manual_seed(0)
    x, noise = torch.rand(shape, generator=made), torch.randn(shape, generator=made)
    for y in ((x + 0.1 * noise).clamp(0, 1), 1 - x, torch.rand(shape, generator=made), x.round()):
        values, gradients = [], []
        for measure in (ssim, lambda x, y: reference(x, y, data_range=1.0, size_average=False)):
            moved = y.clone().requires_grad_()
            value = measure(x, moved)
            value.sum().backward()
            values.append(value.detach())
            gradients.append(moved.grad)
        torch.testing.assert_close(values[0], values[1], atol=2e-6, rtol=0)
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-3)


def test_ssim_can_be_learnt_by_after_it_was_only_looked_at(images: torch.Tensor) -> None:
    y = images[..., :13, :17].roll(1, 0)
    with torch.inference_mode():
        expected = ssim(images[..., :13, :17], y)
    y.requires_grad_()
    value = ssim(images[..., :13, :17], y)
    value.sum().backward()
    assert torch.equal(value.detach(), expected)


def test_ssim_keeps_its_precision_under_bfloat16(images: torch.Tensor) -> None:
    y = (images + 0.01).clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ssim(images, y)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, ssim(images, y))


def test_ssim_takes_images_of_11_pixels_and_refuses_smaller_ones(images: torch.Tensor) -> None:
    assert ssim(images[..., :11, :11], images[..., :11, :11]).shape == (4,)
    with pytest.raises(UsageError, match="H and W at least 11"):
        ssim(images[..., :10], images[..., :10])


@pytest.mark.parametrize("measure", [ssim, psnr])
def test_a_pair_of_two_shapes_is_refused(measure: Callable[..., torch.Tensor], images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="of one shape"):
        measure(images, images[:3])
    with pytest.raises(UsageError, match="of one shape"):
        measure(images[0], images[0])


def test_psnr_is_known_for_a_known_error(images: torch.Tensor) -> None:
    x = torch.full((2, 3, 16, 16), 0.5)
    y = x.clone()
    y[0] += 0.1
    y[1] -= 0.01
    assert psnr(x, y).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
    assert psnr(images, images).tolist() == [math.inf] * 4


# --- the bound on labels ---------------------------------------------------------------------------------------------------


def test_the_labels_bound_is_what_the_channel_of_errors_needs() -> None:
    assert label_bits(1.0, 10) == pytest.approx(math.log2(10))
    assert label_bits(0.1, 10) == label_bits(0.03, 10) == 0
    assert label_bits(0.904, 10) == pytest.approx(2.56, abs=0.005)  # the paper's accuracy
    # Mutual information of a uniform label and an answer that is right in 3 of 4 cases, else any other label.
    joint = np.full((4, 4), 0.25 / 3 / 4)
    np.fill_diagonal(joint, 0.75 / 4)
    information = float((joint * np.log2(joint / np.outer(joint.sum(1), joint.sum(0)))).sum())
    assert label_bits(0.75, 4) == pytest.approx(information)


@pytest.mark.parametrize(("share", "classes"), [(1.1, 10), (-0.1, 10), (0.5, 1)])
def test_shares_and_classes_out_of_range_are_refused(share: float, classes: int) -> None:
    with pytest.raises(UsageError, match="expected a share from 0 to 1 and at least 2 classes"):
        label_bits(share, classes)
