"""Metrics: accuracy, similarity of images (SSIM, PSNR), percentiles, and estimates with 95 % confidence intervals.

PP is the paper of the baseline (see `paper`).
"""

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
    """A measured value with its 95 % confidence interval. `low` and `high` are the bounds of the interval.

    `n` is the number of images, or of other measurements. `std` is the standard deviation over the images, for means such as
    bytes and SSIM. It is None for all other values.
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
        """Format a proportion and its interval in percent: `91.52 % [90.71, 92.26]`."""
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]" if spec else str(self)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the minimum (`least`) and the maximum (`most`) of repeated measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def wilson(successes: int, n: int) -> Estimate:
    """Return the proportion `successes` / `n` with Wilson's score interval (Wilson 1927).

    Unlike the normal interval, this interval is also valid for proportions near 0 and 1.
    """
    if not 0 <= successes <= n or n == 0:
        raise UsageError(f"a proportion needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    p, z2 = successes / n, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def mean(values: Tensor | Sequence[float]) -> Estimate:
    """Return the mean and the standard deviation of `values`, with a normal confidence interval for the mean.

    `values` has one number for each image.
    """
    x = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if x.size == 0:
        raise UsageError("a mean needs at least one value, got none")
    std = float(x.std(ddof=1)) if x.size > 1 else 0.0
    half = _Z * std / math.sqrt(x.size)
    value = float(x.mean())
    return Estimate(value, value - half, value + half, int(x.size), std)


def percentile(values: Sequence[float] | np.ndarray[Any, Any], percent: float) -> Estimate:
    """Return a percentile of `values` with its confidence interval. `percent` is above 0 and below 100.

    The bounds of the interval are two of the values. Their ranks come from the normal approximation of the binomial
    distribution.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    if x.size == 0 or not 0 < percent < 100:
        raise UsageError(f"a percentile needs at least one value and a share from 0 to 100, got {x.size} and {percent}")
    p = percent / 100
    half = _Z * math.sqrt(x.size * p * (1 - p))
    low, high = (int(min(max(math.floor(rank), 0), x.size - 1)) for rank in (x.size * p - half, x.size * p + half))
    return Estimate(float(np.percentile(x, percent)), float(x[low]), float(x[high]), int(x.size))


def accuracy(scores: Tensor, labels: Tensor) -> Estimate:
    """Return the share of images that are classified correctly, with its Wilson interval.

    `scores` (N x K) has a row of K class scores for each image. The largest score of a row is the predicted class. `labels` (N)
    are the indices of the true classes.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise UsageError(f"scores must be N x K and labels N, got {tuple(scores.shape)} and {tuple(labels.shape)}")
    return wilson(int((scores.argmax(1) == labels.to(scores.device)).sum()), len(labels))


def label_bits(share: float, classes: int) -> float:
    """Return the smallest number of bits per label with which a `share` of the labels can arrive correctly.

    A label is one of `classes` equally likely classes. No codec needs fewer bits. The result is log2 K - H(D) - D log2(K - 1),
    with K classes, D = 1 - share and the binary entropy H. This is the rate-distortion function of a uniform source under
    Hamming distortion D (Cover & Thomas, section 10.3). The result is 0 for a share at or below chance.
    """
    wrong = 1 - share
    if not 0 <= wrong <= 1 or classes < 2:
        raise UsageError(f"expected a share from 0 to 1 and at least 2 classes, got {share} and {classes}")
    if wrong >= 1 - 1 / classes:
        return 0.0
    entropy = -sum(p * math.log2(p) for p in (wrong, share) if p > 0)
    return math.log2(classes) - entropy - wrong * math.log2(classes - 1)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity (SSIM) of each image in `x` to the corresponding image in `y`: N values in [-1, 1].

    `x` and `y` are N x C x H x W in [0, 1]. H and W are at least 11. The result is differentiable. An 11 x 11 Gaussian window
    of sigma 1.5 is applied without padding, as in the papers (Wang et al. 2004; PP, section 4). A value near zero means that
    the local structures are unrelated. A negative value means inverted contrast, which a person can still read.
    """
    return ssim_by_channel(x, y)[0].mean(1)


def ssim_by_channel(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the SSIM of `x` and `y`, and the SSIM of `x` and 1 - `y`. Both are N x C: one value for each channel.

    1 - `y` is `y` with inverted contrast. The arguments are those of `ssim`.
    """
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
    """Return the peak signal-to-noise ratio (PSNR) of each image in `x` to the corresponding image in `y`: N values in dB.

    `x` and `y` are N x C x H x W in [0, 1]. Equal images give infinity.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise UsageError(f"PSNR compares N x C x H x W images of one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    return -10 * torch.log10((x - y).square().mean(dim=(1, 2, 3)))
