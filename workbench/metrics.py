"""Metrics: accuracy, SSIM, PSNR, sizes. Every figure has n and a 95 % confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import _compat  # noqa: F401  (before anything that imports torchvision)
from .errors import UsageError

__all__ = ["Estimate", "accuracy", "label_bits", "mean", "percentile", "psnr", "spread", "ssim", "ssim_by_channel", "wilson"]

_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # the papers' window (PP, section 4)
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for values in [0, 1]


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds `low` and `high` of its 95 % confidence interval, and the number `n` of images.

    `std` is the standard deviation over images, for figures such as bytes and SSIM, else None.
    """

    value: float
    low: float
    high: float
    n: int
    std: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, without `std` if it is None."""
        fields = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        return fields if self.std is None else {**fields, "std": self.std}

    def percent(self) -> str:
        """Format a proportion as `91.52 % [90.71, 92.26]`."""
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]" if spec else str(self)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the minimum and the maximum of repeated measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def wilson(successes: int, n: int) -> Estimate:
    """Return a proportion with Wilson's score interval (Wilson 1927), which is valid near 0 and 1, too."""
    if not 0 <= successes <= n or n == 0:
        raise UsageError(f"a proportion needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    p, z2 = successes / n, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def mean(values: Tensor | Sequence[float]) -> Estimate:
    """Return the mean over images with its normal interval, and the standard deviation between images."""
    x = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if x.size == 0:
        raise UsageError("a mean needs at least one value, got none")
    std = float(x.std(ddof=1)) if x.size > 1 else 0.0
    half = _Z * std / math.sqrt(x.size)
    value = float(x.mean())
    return Estimate(value, value - half, value + half, int(x.size), std)


def percentile(values: Sequence[float] | np.ndarray[Any, Any], percent: float) -> Estimate:
    """Return a percentile with its interval from order statistics (binomial, normal approximation of the ranks)."""
    x = np.sort(np.asarray(values, dtype=np.float64))
    if x.size == 0 or not 0 < percent < 100:
        raise UsageError(f"a percentile needs at least one value and a share from 0 to 100, got {x.size} and {percent}")
    p = percent / 100
    half = _Z * math.sqrt(x.size * p * (1 - p))
    low, high = (int(min(max(math.floor(rank), 0), x.size - 1)) for rank in (x.size * p - half, x.size * p + half))
    return Estimate(float(np.percentile(x, percent)), float(x[low]), float(x[high]), int(x.size))


def accuracy(scores: Tensor, labels: Tensor) -> Estimate:
    """Return the share of rows of `scores` (N x K) whose largest entry is at `labels` (N), with its Wilson interval."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise UsageError(f"scores must be N x K and labels N, got {tuple(scores.shape)} and {tuple(labels.shape)}")
    return wilson(int((scores.argmax(1) == labels.to(scores.device)).sum()), len(labels))


def label_bits(share: float, classes: int) -> float:
    """Return the least bits with which one of `classes` equally likely labels arrives correctly in a `share` of cases.

    The rate-distortion function of a uniform source under Hamming distortion D = 1 - share (Cover & Thomas, section 10.3): log2
    K - H(D) - D log2(K - 1). No codec can need fewer bits. The result is 0 for a share at or below chance.
    """
    wrong = 1 - share
    if not 0 <= wrong <= 1 or classes < 2:
        raise UsageError(f"expected a share from 0 to 1 and at least 2 classes, got {share} and {classes}")
    if wrong >= 1 - 1 / classes:
        return 0.0
    entropy = -sum(p * math.log2(p) for p in (wrong, share) if p > 0)
    return math.log2(classes) - entropy - wrong * math.log2(classes - 1)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity of each pair of images, in [-1, 1] (N values). It is differentiable.

    `x` and `y` are N x C x H x W in [0, 1], H and W at least 11. An 11 x 11 Gaussian window of sigma 1.5 is applied without
    padding, as in the papers (Wang et al. 2004; PP, section 4). A value near zero means that the local structures are
    unrelated. A negative value means inverted contrast, which a person can still read.
    """
    return ssim_by_channel(x, y)[0].mean(1)


def ssim_by_channel(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the SSIM of each channel of `x` with that of `y`, and with that of 1 - `y`, N x C each (see `ssim`)."""
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[-2:]) < SSIM_WINDOW:
        raise UsageError(
            f"SSIM compares N x C x H x W images of one shape, H and W at least {SSIM_WINDOW}, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    with torch.autocast(x.device.type, enabled=False):  # variances are small differences of large numbers
        maps = torch.cat([x, y, x * x, y * y, x * y], 1)  # one call, because five take three times as long
        place = torch.arange(SSIM_WINDOW, device=x.device, dtype=x.dtype) - SSIM_WINDOW // 2
        window = torch.softmax(-(place**2) / (2 * SSIM_SIGMA**2), 0).expand(maps.shape[1], 1, 1, -1)
        local = F.conv2d(F.conv2d(maps, window, groups=len(window)), window.mT, groups=len(window))
    mean_x, mean_y, square_x, square_y, product = local.chunk(5, 1)
    covariance = product - mean_x * mean_y
    scale = square_x + square_y - (mean_x * mean_x + mean_y * mean_y) + SSIM_C2

    def compare(mean: Tensor, covariance: Tensor) -> Tensor:
        luminance = (2 * mean_x * mean + SSIM_C1) / (mean_x * mean_x + mean * mean + SSIM_C1)
        return (luminance * (2 * covariance + SSIM_C2) / scale).mean(dim=(2, 3))

    return compare(mean_y, covariance), compare(1 - mean_y, -covariance)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair of images in [0, 1], in dB (N values; infinite for equal images)."""
    if x.shape != y.shape or x.ndim != 4:
        raise UsageError(f"PSNR compares N x C x H x W images of one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    return -10 * torch.log10((x - y).square().mean(dim=(1, 2, 3)))
