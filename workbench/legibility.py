"""Measure how much of a picture a person can see in its protected version.

The mean SSIM of all channels misses details that a person sees. A fine checkerboard or opposite colours reduce it to zero,
although the picture stays legible. So the measures of this module use single channels, edges and mixes of colours. A mix is a
weighted sum of the channels red, green and blue. The measures bound what a glance reveals, not what a trained attacker recovers
(see `audit`).
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageError
from .metrics import ssim_by_channel

__all__ = ["CHANNELS", "LIMITS", "correlations", "legibility", "similarities"]

CHANNELS = ("luma", "red", "green", "blue", "sobel")
# Largest values of an illegible picture. The limit for edges is higher, because pure noise has a Sobel value of 0.04.
LIMITS = {**dict.fromkeys(CHANNELS, 0.03), "sobel": 0.05, "legibility": 0.03}
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
OTHERS = 4  # number of other pictures with which each picture is compared


def similarities(images: Tensor, protected: Tensor) -> dict[str, Tensor]:
    """Return |SSIM| of each picture and its protected version, for luma, red, green, blue and edges: {name: N values}.

    `images` and `protected` are N x 3 x H x W in [0, 1], H and W at least 13. The edges, named `sobel`, are the Sobel magnitude
    of luma. For the four other names the value is the larger one of two: |SSIM| with the protected picture and with its
    inverse, 1 - protected. The Sobel magnitude does not change under inversion.
    """
    (channels, edges), (protected_channels, protected_edges) = _views(images), _views(protected)
    likeness, inverse = ssim_by_channel(channels, protected_channels)
    values = torch.maximum(likeness.abs(), inverse.abs()).unbind(1)
    sobel = ssim_by_channel(edges, protected_edges)[0].abs()[:, 0]
    return dict(zip(CHANNELS, (*values, sobel), strict=True))


def correlations(images: Tensor, protected: Tensor) -> Tensor:
    """Return how well the best colour mix of each protected picture correlates with the original (N, in [0, 1]).

    The value is the largest absolute Pearson correlation between the original's luma and a mix. Both are blurred by a mean over
    3 x 3 pixels. The 26 mixes have the weights -1, 0 and 1 for red, green and blue. A picture of one colour has the value 0.
    """
    if images.shape != protected.shape or images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(
            f"legibility compares N x 3 x H x W images of one shape, got {tuple(images.shape)} and {tuple(protected.shape)}"
        )
    luma = _normalise(F.avg_pool2d(_luma(images), 3, stride=1))
    channels = F.avg_pool2d(protected, 3, stride=1).flatten(2)
    # A mix and its negative have opposite correlations, so the magnitudes of 13 mixes cover all 26.
    mixes = [mix for mix in itertools.product((-1.0, 0.0, 1.0), repeat=3) if mix > (0.0, 0.0, 0.0)]
    mixed = _normalise(torch.tensor(mixes, dtype=channels.dtype, device=channels.device) @ channels)
    return (mixed * luma).sum(2).abs().amax(1)


def legibility(images: Tensor, protected: Tensor) -> Tensor:
    """Return how much more each picture correlates with its own protected version than with other protected pictures (N).

    The function `correlations` computes each correlation. The chance level is the mean correlation with the protected versions
    of up to four other pictures, and the result is the excess over this level. Zero means that a glance reveals nothing of the
    picture. Raises UsageError for fewer than two pictures.
    """
    if len(images) < 2:
        raise UsageError(
            f"legibility compares a picture with those of other pictures: at least 2 are needed, got {len(images)}"
        )
    shifts = range(1, min(OTHERS, len(images) - 1) + 1)
    other = torch.stack([correlations(images, protected.roll(shift, 0)) for shift in shifts]).mean(0)
    return correlations(images, protected) - other


def _luma(images: Tensor) -> Tensor:
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _views(images: Tensor) -> tuple[Tensor, Tensor]:
    luma = _luma(images)
    kernel = images.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    gradient = F.conv2d(luma, torch.stack([kernel, kernel.mT])[:, None])
    return torch.cat([luma, images], 1), (gradient.square().sum(1, keepdim=True) + 1e-12).sqrt()


def _normalise(pictures: Tensor) -> Tensor:
    flat = pictures.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(flat, dim=2, keepdim=True)
    return flat / length.clamp_min(1e-6)
