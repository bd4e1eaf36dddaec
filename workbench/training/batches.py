"""Which images make a step, and how they come in: by seed and step alone, an epoch one permutation; cropped and flipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Split
from ..pictures import to_float

__all__ = ["batches", "crop_and_flip", "rows_of", "seed_step"]


def seed_step(seed: int, step: int) -> int:
    """Spread (seed, step) over 63 bits, so that neighbouring steps share nothing (SplitMix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + (step + 3) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (z ^ z >> 31) >> 1


def rows_of(n: int, batch: int, step: int, seed: int) -> Tensor:
    """Return the rows of the training split that make up a step: an epoch is one permutation of all."""
    per_epoch = math.ceil(n / batch)
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_step(seed, -2 - epoch)))
    return order[position * batch : (position + 1) * batch]


def batches(split: Split, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split's images in [0, 1] and labels in order, `batch` at a time, on a device."""
    for start in range(0, len(split), batch):
        images = to_float(split.images[start : start + batch].to(device))
        yield images.contiguous(memory_format=torch.channels_last), split.labels[start : start + batch].to(device)


def crop_and_flip(mirror: bool, padding: int = 4, erase: int = 0) -> Callable[[Tensor], Tensor]:
    """Return the papers' augmentation: a random crop after zero padding, and a horizontal flip where labels survive one.

    With `erase`, pixels less than half this far, both ways, from a random one are made grey (cutout), which the papers leave.
    """

    def augment(images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        device = images.device
        padded = F.pad(images, (padding,) * 4)
        top, left = torch.randint(2 * padding + 1, (2, n, 1, 1, 1), device=device)
        columns = torch.arange(width, device=device).expand(n, 1, 1, width)
        if mirror:
            flip = torch.rand(n, 1, 1, 1, device=device) < 0.5
            columns = torch.where(flip, width - 1 - columns, columns)
        rows = torch.arange(height, device=device).view(1, 1, height, 1)
        channels = torch.arange(3, device=device).view(1, 3, 1, 1)
        cropped = padded[torch.arange(n, device=device).view(n, 1, 1, 1), channels, top + rows, left + columns]
        if not erase:
            return cropped
        y, x = torch.randint(height, (n, 1, 1, 1), device=device), torch.randint(width, (n, 1, 1, 1), device=device)
        columns = torch.arange(width, device=device).view(1, 1, 1, width)
        inside = ((rows - y).abs() * 2 < erase) & ((columns - x).abs() * 2 < erase)
        return cropped.masked_fill(inside, 0.5)

    return augment
