"""The augmented images of each training step. They depend on the seed and on the step only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Split
from ..pictures import to_float

__all__ = ["Feed", "batches", "crop_and_flip", "resize", "seed_step", "side_at"]


def seed_step(seed: int, step: int) -> int:
    """Mix a training's seed and the number of a step into a seed of 63 bits.

    Neighbouring steps get unrelated seeds (SplitMix64's finaliser).
    """
    z = (seed * 0x9E3779B97F4A7C15 + (step + 3) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (z ^ z >> 31) >> 1


class Feed:
    """The training images on the device, and the augmented batch of each step.

    `total` is the number of steps of the training. `sizes` are pairs (start, side) for progressive sizes: after the share
    `start` of all steps, images have `side` x `side` pixels.
    """

    def __init__(
        self,
        split: Split,
        batch: int,
        total: int,
        seed: int,
        device: torch.device,
        augment: Callable[[Tensor], Tensor] | None = None,
        sizes: Sequence[tuple[float, int]] = (),
    ) -> None:
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.batch, self.total, self.seed, self.device = batch, total, seed, device
        self.augment, self.sizes = augment, sizes
        self.per_epoch = math.ceil(len(split) / batch)
        self._epoch, self._rows = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, step: int) -> Tensor:
        """Return the indices of a step's images, on the device.

        Each epoch permutes all images and cuts them into batches.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            random = torch.Generator().manual_seed(seed_step(self.seed, -2 - epoch))
            self._epoch, self._rows = epoch, torch.randperm(len(self), generator=random).to(self.device)
        return self._rows[position * self.batch : (position + 1) * self.batch]

    def at(self, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the augmented images of a step (N x 3 x side x side in [0, 1]) and their labels.

        `rows` are the indices of the images.
        """
        images = to_float(self.images[rows])
        images = images if self.augment is None else self.augment(images)
        images = resize(images, side_at(self.sizes, step / self.total))
        return images.contiguous(memory_format=torch.channels_last), self.labels[rows]


def side_at(sizes: Sequence[tuple[float, int]], progress: float) -> int | None:
    """Return the images' side in pixels after the share `progress` of the steps, or None for the original size.

    `sizes` are pairs (start, side), as in `Feed`.
    """
    return next((side for start, side in reversed(sizes) if progress >= start), None)


def resize(images: Tensor, side: int | None) -> Tensor:
    """Resize square images to `side` pixels by antialiased bilinear interpolation. None keeps their size."""
    if side is None or images.shape[-1] == side:
        return images
    return F.interpolate(images, size=side, mode="bilinear", antialias=True)


def batches(split: Split, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images (in [0, 1]) and labels of a split in order, `batch` at a time, on `device`."""
    for start in range(0, len(split), batch):
        images = to_float(split.images[start : start + batch].to(device))
        yield images.contiguous(memory_format=torch.channels_last), split.labels[start : start + batch].to(device)


def crop_and_flip(mirror: bool, padding: int = 4, erase: int = 0) -> Callable[[Tensor], Tensor]:
    """Return a function that augments images as in the papers: a random crop after zero padding, and a random flip.

    The flip is horizontal, and only made with `mirror`. `padding` is in pixels. With `erase`, a grey square with a side of
    about `erase` pixels covers a random place in each image (cutout). The papers do not use cutout.
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
