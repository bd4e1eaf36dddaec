"""Figures of the accuracy of two classifiers, target and auxiliary: over strength, over bytes, and for each pair of the two.

The target must still recognise protected pictures, and the auxiliary must not. A pair is a target and an auxiliary. A row is a
dict of measurements at one point of a curve, from `Evaluation.curve`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..metrics import Estimate, label_bits
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, band, point, subplots

__all__ = ["accuracy_bytes", "heatmap", "rate_accuracy", "strength_curves"]

PAYLOAD = "payload to the cloud (bytes/image)"


def strength_curves(rows: list[dict[str, Any]], chance: float, title: str) -> Figure:
    """Draw both classifiers' accuracies, SSIM and bytes over the perturbation's strength.

    `rows` has one row for each strength. `chance` is the accuracy of guessing, in [0, 1].
    """
    figure, (accuracy, ssim, size_axis) = subplots(1, 3, figsize=(10, 3))
    x = [row["point"] for row in rows]
    band(accuracy, x, [row["target"] for row in rows], "target", BLUE, 100)
    band(accuracy, x, [row["auxiliary"] for row in rows], "auxiliary", ORANGE, 100)
    accuracy.axhline(100 * chance, color=GREY, lw=1, ls=":", label="chance")
    accuracy.set(ylabel="accuracy at the cloud (%)", ylim=(0, 102))
    accuracy.legend(loc="best")
    band(ssim, x, [row["ssim"] for row in rows], "SSIM", GREEN)
    ssim.axhline(0, color=GREY, lw=1)
    ssim.set(ylabel="SSIM (original, protected)", ylim=(-0.2, 1.05))
    band(size_axis, x, [row["bytes"] for row in rows], "S2", PURPLE)
    size_axis.set(ylabel="S2 (bytes/image)", ylim=(0, 1.1 * max(row["bytes"].high for row in rows) or 1))
    for axis in (accuracy, ssim, size_axis):
        axis.set(xlabel="perturbation strength", xlim=(0, 1))
    figure.suptitle(title, fontsize=10)
    return figure


def accuracy_bytes(
    curves: dict[str, list[dict[str, Any]]], title: str, points: dict[str, dict[str, Any]] | None = None
) -> Figure:
    """Draw the target's accuracy in two panels: over JPEG quality, and over payload bytes (log scale).

    `curves` maps the name of a JPEG mode, such as its chroma subsampling, to one row for each quality. `points` maps the name
    of another codec to a single row. Only the second panel shows this row, as a point.
    """
    figure, (quality, rate) = subplots(1, 2, figsize=(10, 3.4))
    for colour, (name, rows) in zip((BLUE, ORANGE, GREEN, PURPLE), curves.items(), strict=False):
        band(quality, [row["point"] for row in rows], [row["target"] for row in rows], name, colour, 100)
        _over_bytes(rate, rows, name, colour)
    for colour, (name, row) in zip((GREY, "#000000"), (points or {}).items(), strict=False):
        point(rate, row["bytes"].value, row["target"], name, colour, "D")
    quality.set(xlabel="JPEG quality", ylabel="target accuracy at the cloud (%)", ylim=(0, 102))
    rate.set(xlabel=PAYLOAD, ylabel="target accuracy at the cloud (%)", ylim=(0, 102), xscale="log")
    quality.legend(loc="lower right")
    rate.legend(loc="lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def rate_accuracy(
    curves: dict[str, list[dict[str, Any]]], points: dict[str, dict[str, Any]], label: Estimate, classes: int, title: str
) -> Figure:
    """Draw the target's accuracy over bytes per image, for several codecs, and for an edge that sends only the label.

    `curves` maps the name of a codec to one row for each quality or rate. `points` maps the name of a codec with a single
    setting to its row. `label` is the accuracy of the edge that classifies a picture and sends the label in log2(`classes`)
    bits. A dashed line is the theoretical bound: the fewest bytes with which any codec can reach an accuracy.
    """
    figure, axis = subplots(figsize=(8.2, 4.2))
    shares = np.linspace(1 / classes + 0.02, 1 - 1e-6, 200)
    bound = [label_bits(share, classes) / 8 for share in shares]
    axis.plot(bound, 100 * shares, color="black", linestyle="--", linewidth=1, label="bound: no codec to the left of it")
    axis.fill_betweenx(100 * shares, 1e-3, bound, color="black", alpha=0.06, linewidth=0)
    for colour, (name, rows) in zip((BLUE, ORANGE, GREEN, SKY), curves.items(), strict=False):
        _over_bytes(axis, rows, name, colour)
    for marker, (name, row) in zip("Dsov^P*", points.items(), strict=False):
        point(axis, row["bytes"].value, row["target"], name, PURPLE, marker)
    point(axis, np.log2(classes) / 8, label, "the edge classifies and sends the label", GREY, "X")
    axis.set(xlabel=PAYLOAD, ylabel="target accuracy at the cloud (%)", ylim=(0, 102), xscale="log", xlim=(0.05, None))
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    axis.set_title(title)
    return figure


def heatmap(values: dict[tuple[str, str], Estimate], targets: list[str], auxiliaries: list[str], title: str) -> Figure:
    """Draw a grid of accuracies, with a row for each target and a column for each auxiliary classifier.

    `values` maps (target, auxiliary) to an accuracy. Pairs without an accuracy stay blank.
    """
    grid = np.full((len(targets), len(auxiliaries)), np.nan)
    for (target, auxiliary), value in values.items():
        grid[targets.index(target), auxiliaries.index(auxiliary)] = 100 * value.value
    figure, axis = subplots(figsize=(2.2 + 0.95 * len(auxiliaries), 1.4 + 0.45 * len(targets)))
    shown = axis.imshow(grid, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axis.grid(False)
    axis.set_xticks(range(len(auxiliaries)), auxiliaries, rotation=30, ha="right")
    axis.set_yticks(range(len(targets)), targets)
    axis.set(xlabel="auxiliary", ylabel="target")
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", color="black" if value > 55 else "white")
    figure.colorbar(shown, label="accuracy (%)")
    axis.set_title(title)
    return figure


def _over_bytes(axis: Axes, rows: list[dict[str, Any]], name: str, colour: str) -> None:
    rows = sorted(rows, key=lambda row: row["bytes"].value)
    band(axis, [row["bytes"].value for row in rows], [row["target"] for row in rows], name, colour, 100)
