"""The closed-form attacker finds what SSIM and legibility miss, and finds nothing in pure noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workbench.legibility import correlations
from workbench.training.recovery import recovered

N, CLASSES = 48, 4


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth random pictures, independent of their labels."""
    coarse = torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(0)).expand(N, 3, 6, 6)
    return torch.nn.functional.interpolate(coarse, 32, mode="bicubic", align_corners=True).clamp(0, 1)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(N) % CLASSES


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def share(protected: Tensor, images: Tensor, labels: Tensor) -> float:
    torch.manual_seed(2)
    return float(recovered(protected, images, labels))


def loud_where_bright(images: Tensor) -> Tensor:
    """Noise whose contrast follows the picture, so that no colour mix correlates with it."""
    return 0.5 + images * (noise(tuple(images.shape)).round() - 0.5)


def opposite_colours(images: Tensor) -> Tensor:
    return torch.stack([images[:, 0], 1 - images[:, 0], torch.full_like(images[:, 0], 0.5)], 1)


@pytest.mark.parametrize("show", [lambda images: images, lambda images: 1 - images, opposite_colours, loud_where_bright])
def test_what_can_be_read_is_recovered(show: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
    assert 0.6 < share(show(images), images, labels) <= 1


def test_the_modulated_noise_escapes_the_eye_s_measure(images: Tensor) -> None:
    assert correlations(images, loud_where_bright(images)).mean() < 0.35


def test_nothing_is_recovered_from_noise_or_from_the_label(images: Tensor, labels: Tensor) -> None:
    patterns = noise((CLASSES, 3, 32, 32))
    assert share(noise((N, 3, 32, 32)), images, labels) < 0.06
    assert share(patterns[labels], images, labels) < 0.06


def test_pictures_that_the_label_determines_leave_nothing(labels: Tensor) -> None:
    patterns = noise((CLASSES, 3, 32, 32))[labels]
    assert share(patterns, patterns, labels) < 1e-3


def test_a_generator_can_learn_by_it(images: Tensor, labels: Tensor) -> None:
    shown = images.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([shown], 0.05)
    for step in range(30):
        torch.manual_seed(step)
        optimizer.zero_grad()
        recovered(shown, images, labels).backward()
        optimizer.step()
    assert share(shown.detach(), images, labels) < share(images, images, labels) / 2, "with filters that it has not seen"
