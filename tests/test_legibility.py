"""Legibility must find what the eye reads, even if SSIM over all channels misses it. In noise it must find nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench.errors import UsageError
from workbench.legibility import CHANNELS, LIMITS, correlations, legibility, similarities
from workbench.metrics import ssim


@pytest.fixture(scope="module")
def images() -> Tensor:
    coarse = torch.rand(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, 32, mode="bicubic", align_corners=True).clamp(0, 1)


def luma(images: Tensor) -> Tensor:
    return 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]


def opposite_colours(images: Tensor) -> Tensor:
    grey = luma(images)
    return torch.stack([0.5 + 0.6 * (grey - 0.5), 0.5 - 0.6 * 0.299 / 0.587 * (grey - 0.5), torch.full_like(grey, 0.5)], 1)


def checkerboard(images: Tensor) -> Tensor:
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    return (0.5 * luma(images) + 0.5 * board)[:, None].expand_as(images)


def test_a_picture_and_its_inverse_are_read_alike(images: Tensor) -> None:
    grey = luma(images)[:, None].expand_as(images)
    for shown in (grey, 1 - grey):
        assert correlations(images, shown).tolist() == pytest.approx([1.0] * 16, abs=1e-4)
        assert all(values.min() > 0.99 for values in similarities(grey, shown).values())


@pytest.mark.parametrize("hide", [opposite_colours, checkerboard])
def test_what_ssim_over_all_channels_misses_is_read(images: Tensor, hide) -> None:  # type: ignore[no-untyped-def]
    shown = hide(images)
    assert ssim(images, shown).abs().mean() < 0.3
    assert correlations(images, shown).min() > 0.8
    assert legibility(images, shown).mean() > 10 * LIMITS["legibility"]


def test_noise_is_not_read(images: Tensor) -> None:
    noise = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert legibility(images, noise).mean().abs() < 0.05
    assert all(similarities(images, noise)[view].mean() < 0.1 for view in CHANNELS)


def test_a_look_that_all_pictures_share_is_not_read(images: Tensor) -> None:
    same = images[:1].expand_as(images)
    assert legibility(images[1:], same[1:]).abs().max() < 1e-5


def test_the_correlation_is_the_largest_over_26_mixes(images: Tensor) -> None:
    shown = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    def blur(picture: np.ndarray) -> np.ndarray:
        return sum(picture[i : i + 30, j : j + 30] for i in range(3) for j in range(3)) / 9  # type: ignore[no-any-return]

    for picture, protected, value in zip(images, shown, correlations(images[:3], shown), strict=False):
        original = blur(luma(picture[None])[0].double().numpy())
        mixes = [(r, g, b) for r in (-1, 0, 1) for g in (-1, 0, 1) for b in (-1, 0, 1) if (r, g, b) != (0, 0, 0)]
        assert len(mixes) == 26
        found = [
            np.corrcoef(original.ravel(), blur(np.tensordot(mix, protected.double().numpy(), 1)).ravel())[0, 1] for mix in mixes
        ]
        assert float(value) == pytest.approx(max(found), abs=1e-4)


def test_each_channel_is_looked_at_alone(images: Tensor) -> None:
    shown = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    shown[:, 2] = images[:, 2]
    values = similarities(images, shown)
    assert values["blue"].min() > 0.99
    assert max(values["red"].mean(), values["green"].mean()) < 0.1


def test_a_flat_picture_has_no_correlation(images: Tensor) -> None:
    assert correlations(images, torch.full_like(images, 0.5)).tolist() == [0.0] * 16


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ((2, 3, 32, 32), (2, 3, 32, 31), "of one shape"),
        ((2, 1, 32, 32), (2, 1, 32, 32), "N x 3"),
        ((1, 3, 32, 32),) * 2 + ("at least 2",),
    ],
)
def test_what_cannot_be_compared_is_refused(first: tuple[int, ...], second: tuple[int, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        legibility(torch.rand(first), torch.rand(second))
