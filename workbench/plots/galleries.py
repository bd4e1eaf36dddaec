"""Figures that show pictures in rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..metrics import psnr
from ..pictures import residual, to_uint8
from .style import subplots

__all__ = ["comparison", "gallery", "reconstructions"]

GAP = 2  # pixels between the pictures of a mosaic


def gallery(rows: dict[str, Tensor], captions: Sequence[str] = ()) -> Figure:
    """Draw rows of images. `rows` maps the name of a row to the row's images, N x 3 x H x W in [0, 1].

    The names are drawn on the left, and `captions` above the columns.
    """
    n = max(len(images) for images in rows.values())
    figure, axes = subplots(len(rows), n, figsize=(1.35 + 0.95 * n, 0.98 * len(rows) + 0.25), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        pixels = to_uint8(images.detach().cpu()).permute(0, 2, 3, 1).numpy()
        for column, axis in enumerate(line):
            axis.axis("off")
            if column < len(pixels):
                axis.imshow(pixels[column], interpolation="nearest")
        line[0].text(-0.12, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
    for axis, caption in zip(axes[0], captions, strict=False):
        axis.set_title(caption)
    return figure


def reconstructions(images: Tensor, guesses: dict[str, Tensor], title: str, each: int = 5) -> Figure:
    """Draw the best and the worst reconstructions of several attackers, below the original pictures.

    `images` are the originals, N x 3 x H x W in [0, 1]. `guesses` maps the name of an attacker to its reconstructions of the
    first n originals, n x 3 x H x W with n at most N. `each` is the number of best and of worst reconstructions that are drawn
    for an attacker. The ranking is by PSNR.
    """
    each = min(each, len(images))
    figure, axes = subplots(len(guesses), 2, figsize=(1.7 + 1.3 * each, 0.35 + 1.72 * len(guesses)), squeeze=False)
    for line, (name, guess) in zip(axes, guesses.items(), strict=True):
        order = psnr(images[: len(guess)], guess).argsort(descending=True, stable=True)
        for axis, rows in zip(line, (order[:each], order[-each:]), strict=True):
            _mosaic(axis, images[rows], guess[rows])
        line[0].set_yticks([images.shape[-2] / 2, 1.5 * images.shape[-2] + GAP], ["original", name])
        line[1].set_yticks([])
    axes[0, 0].set_title(f"best {each}")
    axes[0, 1].set_title(f"worst {each}")
    figure.suptitle(f"{title}: PSNR (dB) below")
    return figure


def _mosaic(axis: Axes, images: Tensor, guesses: Tensor) -> None:
    lines = [_line(part) for part in (images, guesses)]
    axis.imshow(np.concatenate([lines[0], np.full_like(lines[0][:GAP], 255), lines[1]]), interpolation="nearest")
    width = images.shape[-1]
    values = psnr(images, guesses).clamp(max=100)
    axis.set_xticks(
        [(width + GAP) * k + width / 2 for k in range(len(images))], [f"{value:.1f}" for value in values], fontsize=8
    )
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _line(images: Tensor) -> np.ndarray[Any, Any]:
    pixels = to_uint8(images.detach().cpu()).permute(0, 2, 3, 1).numpy()
    gap = ((0, 0), (0, GAP), (0, 0))
    line: np.ndarray[Any, Any] = np.concatenate([np.pad(picture, gap, constant_values=255) for picture in pixels], axis=1)
    return line[:, :-GAP]


def comparison(views: Sequence[Any], gain: float, title: str) -> Figure:
    """Draw a row for each view: the original, protected and decoded picture, the residual, and a column of text.

    Each view is a `panels.methods.View`: the result of one pair of networks for one picture. The residual is the protected
    minus the original picture, amplified by `gain`, on mid-grey. If an attacker was trained, the attacker's reconstruction is
    drawn, too.
    """
    names = ["original", "protected", "at the cloud", f"residual x {gain:g}"]
    guessed = any(view.guess is not None for view in views)
    columns = len(names) + guessed
    figure, axes = subplots(len(views), columns + 1, figsize=(1.5 * columns + 3.4, 1.62 * len(views) + 0.5), squeeze=False)
    for line, view in zip(axes, views, strict=True):
        images = [view.original, view.protected, view.cloud, residual(view.original, view.protected, gain), view.guess][
            :columns
        ]
        for axis, image in zip(line, images, strict=False):
            if image is not None:
                axis.imshow(to_uint8(image.detach().cpu()).permute(1, 2, 0).numpy(), interpolation="nearest")
        for axis in line:
            axis.axis("off")
        line[-1].text(0, 0.5, _figures_of(view), va="center", fontsize=8.5, transform=line[-1].transAxes)
    for axis, name in zip(axes[0], [*names, "attacker's guess"][:columns], strict=False):
        axis.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=9)
    return figure


def _figures_of(view: Any) -> str:
    lines = [
        f"{view.label}: strength {view.settings.strength:g}, {view.codec}",
        f"target at the cloud: {view.target[0][0]}, {100 * view.target[0][1]:.0f} %",
        f"auxiliary: {view.auxiliary[0][0]}, {100 * view.auxiliary[0][1]:.0f} %",
        f"SSIM {view.ssim:.3f}; S1 {view.s1_bytes:,} B, S2 {view.s2_bytes:,} B",
    ]
    return "\n".join(lines + ([f"guess: {view.guess_psnr:.1f} dB"] if view.guess is not None else []))
