"""The figures: one visual language for notebooks, report and papers. Colours are Okabe and Ito's, safe for the colour-blind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .metrics import Estimate, label_bits
from .pictures import to_uint8

__all__ = [
    "accuracy_bytes",
    "components",
    "gallery",
    "heatmap",
    "links",
    "residual",
    "strength_curves",
    "training_curves",
    "use_style",
]

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6E6E6E"
SKY = "#56B4E9"
# The nine components of Figure 4, and their colours: phone and its network in greys, edge in oranges, cloud in blues.
COMPONENT_TITLES = {
    "client_compression": "JPEG on the phone",
    "network_client_edge": "network phone-edge",
    "generator": "generator",
    "compression": "compression",
    "edge_other": "others on edge/phone",
    "network_edge_cloud": "network to the cloud",
    "decompression": "decompression",
    "classifier": "classifier",
    "cloud_other": "others on the cloud",
}
_COMPONENT_COLOURS = ("#9A9A9A", "#5A5A5A", "#D55E00", "#F0A35E", "#F7D5B5", "#CC79A7", "#0072B2", "#56B4E9", "#BFE0F5")


def use_style() -> None:
    """Set matplotlib's defaults for every figure of the workbench."""
    mpl.rcParams.update(
        {
            "figure.dpi": 96,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, GREY]),
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "pmc2",
        }
    )


def _subplots(
    rows: int = 1, columns: int = 1, figsize: tuple[float, float] = (6, 4), squeeze: bool = True
) -> tuple[Figure, Any]:
    """Make a figure with axes that pyplot does not know of: no cell shows it by itself, any thread may draw it."""
    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def residual(x: Tensor, y: Tensor, gain: float = 1.0) -> Tensor:
    """Return the signed difference y - x as an image: mid-grey where equal, `gain` times amplified."""
    return ((y - x) * gain / 2 + 0.5).clamp(0, 1)


def gallery(rows: dict[str, Tensor], captions: Sequence[str] = ()) -> Figure:
    """Draw rows of images, each N x 3 x H x W in [0, 1], with its name at the left; `captions` stand above the columns."""
    n = max(len(images) for images in rows.values())
    figure, axes = _subplots(len(rows), n, figsize=(1.35 + 0.95 * n, 0.98 * len(rows) + 0.25), squeeze=False)
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


def strength_curves(rows: list[dict[str, Any]], chance: float, title: str, size: tuple[float, float] = (10, 3)) -> Figure:
    """Draw accuracy, SSIM and bytes against perturbation strength, from the rows of `Evaluation.curve`."""
    figure, (accuracy, ssim, size_axis) = _subplots(1, 3, figsize=size)
    x = [row["point"] for row in rows]
    _band(accuracy, x, [row["target"] for row in rows], "target", BLUE, 100)
    _band(accuracy, x, [row["auxiliary"] for row in rows], "auxiliary", ORANGE, 100)
    accuracy.axhline(100 * chance, color=GREY, lw=1, ls=":", label="chance")
    accuracy.set(ylabel="accuracy at the cloud (%)", ylim=(0, 102))
    accuracy.legend(loc="best")
    _band(ssim, x, [row["ssim"] for row in rows], "SSIM", GREEN)
    ssim.axhline(0, color=GREY, lw=1)
    ssim.set(ylabel="SSIM (original, protected)", ylim=(-0.2, 1.05))
    _band(size_axis, x, [row["bytes"] for row in rows], "S2", PURPLE)
    size_axis.set(ylabel="S2 (bytes/image)", ylim=(0, 1.1 * max(row["bytes"].high for row in rows) or 1))
    for axis in (accuracy, ssim, size_axis):
        axis.set(xlabel="perturbation strength", xlim=(0, 1))
    figure.suptitle(title, fontsize=10)
    return figure


def accuracy_bytes(
    curves: dict[str, list[dict[str, Any]]], title: str, points: dict[str, dict[str, Any]] | None = None
) -> Figure:
    """Draw accuracy over bytes for codecs whose quality varies, with single `points` beside; bytes on a log scale."""
    figure, (quality, rate) = _subplots(1, 2, figsize=(10, 3.4))
    for colour, (name, rows) in zip((BLUE, ORANGE, GREEN, PURPLE), curves.items(), strict=False):
        _band(quality, [row["point"] for row in rows], [row["target"] for row in rows], name, colour, 100)
        ordered = sorted(rows, key=lambda row: row["bytes"].value)
        _band(rate, [row["bytes"].value for row in ordered], [row["target"] for row in ordered], name, colour, 100)
    for colour, (name, row) in zip((GREY, "#000000"), (points or {}).items(), strict=False):
        _point(rate, row["bytes"].value, row["target"], name, colour, "D")
    quality.set(xlabel="JPEG quality", ylabel="target accuracy at the cloud (%)", ylim=(0, 102))
    rate.set(
        xlabel="payload to the cloud (bytes/image)", ylabel="target accuracy at the cloud (%)", ylim=(0, 102), xscale="log"
    )
    quality.legend(loc="lower right")
    rate.legend(loc="lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def rate_accuracy(
    curves: dict[str, list[dict[str, Any]]], points: dict[str, dict[str, Any]], label: Estimate, classes: int, title: str
) -> Figure:
    """Draw accuracy over bytes with what no codec can pass, the bound of the label alone, and what needs none.

    `label` is the accuracy of an edge that classifies by itself and sends the answer, log2 K bits; `curves` and `points` as in
    `accuracy_bytes`.
    """
    figure, axis = _subplots(figsize=(8.2, 4.2))
    shares = np.linspace(1 / classes + 0.02, 1 - 1e-6, 200)
    bound = [label_bits(share, classes) / 8 for share in shares]
    axis.plot(bound, 100 * shares, color="black", linestyle="--", linewidth=1, label="bound: no codec to the left of it")
    axis.fill_betweenx(100 * shares, 1e-3, bound, color="black", alpha=0.06, linewidth=0)
    for colour, (name, rows) in zip((BLUE, ORANGE, GREEN, SKY), curves.items(), strict=False):
        ordered = sorted(rows, key=lambda row: row["bytes"].value)
        _band(axis, [row["bytes"].value for row in ordered], [row["target"] for row in ordered], name, colour, 100)
    for marker, (name, row) in zip("Dsov^P*", points.items(), strict=False):
        _point(axis, row["bytes"].value, row["target"], name, PURPLE, marker)
    _point(axis, np.log2(classes) / 8, label, "the edge classifies and sends the label", GREY, "X")
    axis.set(xlabel="payload to the cloud (bytes/image)", ylabel="target accuracy at the cloud (%)", ylim=(0, 102))
    axis.set(xscale="log", xlim=(0.05, None))
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    axis.set_title(title)
    return figure


def _point(axis: Any, x: float, y: Estimate, name: str, colour: str, marker: str) -> None:
    bars = [[100 * (y.value - y.low)], [100 * (y.high - y.value)]]
    axis.errorbar([x], [100 * y.value], yerr=bars, fmt=marker, color=colour, capsize=3, label=name)


def heatmap(values: dict[tuple[str, str], Estimate], targets: list[str], auxiliaries: list[str], title: str) -> Figure:
    """Draw the target x auxiliary grid of accuracies; pairs that were not run stay blank."""
    grid = np.full((len(targets), len(auxiliaries)), np.nan)
    for (target, auxiliary), value in values.items():
        grid[targets.index(target), auxiliaries.index(auxiliary)] = 100 * value.value
    figure, axis = _subplots(figsize=(2.2 + 0.95 * len(auxiliaries), 1.4 + 0.45 * len(targets)))
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


def components(parts: dict[str, dict[str, Estimate]], axis_title: str, title: str) -> Figure:
    """Draw for each arrangement its nine components (ms an image) as one stacked bar."""
    figure, axis = _subplots(figsize=(9.4, 1.5 + 0.5 * len(parts)))
    names = list(parts)
    left = np.zeros(len(names))
    for colour, (key, text) in zip(_COMPONENT_COLOURS, COMPONENT_TITLES.items(), strict=True):
        values = np.array([parts[name][key].value for name in names])
        axis.barh(names, values, left=left, height=0.62, color=colour, label=text, edgecolor="white", linewidth=0.5)
        left += values
    for row, total in enumerate(left):
        axis.annotate(f"{total:.2f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set(xlabel=axis_title, ylabel="arrangement", xlim=(0, 1.1 * left.max()))
    axis.invert_yaxis()
    axis.set_axisbelow(True)
    axis.grid(axis="y", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    axis.set_title(title)
    return figure


def links(measured: dict[str, dict[str, Estimate]], title: str) -> Figure:
    """Draw the time end to end (ms, log scale) of each arrangement over links of several kinds: medians and their intervals."""
    figure, axis = _subplots(figsize=(9.4, 3.6))
    kinds = list(next(iter(measured.values())))
    width = 0.8 / len(measured)
    for number, (colour, (name, rows)) in enumerate(zip((ORANGE, GREEN, SKY, BLUE, PURPLE), measured.items(), strict=False)):
        x = np.arange(len(kinds)) + (number - (len(measured) - 1) / 2) * width
        middle = np.array([rows[kind].value for kind in kinds])
        bars = np.array([[rows[kind].value - rows[kind].low, rows[kind].high - rows[kind].value] for kind in kinds]).T
        axis.bar(x, middle, width=0.92 * width, color=colour, label=name)
        axis.errorbar(x, middle, yerr=bars, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set(xlabel="link to the cloud", ylabel="image to label (ms, median)", ylim=(0, None))
    axis.set_axisbelow(True)
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    axis.set_title(title)
    return figure


def training_curves(histories: dict[str, list[dict[str, Any]]]) -> Figure:
    """Draw validation accuracy and the other figures of each training against its steps, one column a network."""
    figure, axes = _subplots(2, len(histories), figsize=(1 + 2.6 * len(histories), 4.2), squeeze=False)
    for column, (name, history) in enumerate(histories.items()):
        steps = [entry["step"] for entry in history]
        top, bottom = axes[0, column], axes[1, column]
        for key, label, colour in (("accuracy", "target", BLUE), ("auxiliary", "auxiliary", ORANGE)):
            if history and key in history[0]["validation"]:
                top.plot(steps, [100 * entry["validation"][key] for entry in history], color=colour, marker=".", label=label)
        top.set(title=name, ylim=(0, 102))
        if len(top.get_lines()) > 1:
            top.legend(loc="center right")
        key, label, colour = next(
            each
            for each in (("bits", "bits an image", PURPLE), ("ssim", "SSIM", GREEN), ("loss", "loss", GREY))
            if not history or each[0] in history[0]["validation"]
        )
        bottom.plot(steps, [entry["validation"].get(key, float("nan")) for entry in history], color=colour, marker=".")
        bottom.set(xlabel="step", ylabel=label)
        if key == "bits":
            bottom.set_yscale("log")
    axes[0, 0].set_ylabel("validation accuracy (%)")
    return figure


def _band(axis: Axes, x: list[float], estimates: list[Estimate], label: str, colour: str, factor: float = 1.0) -> None:
    axis.plot(x, [factor * e.value for e in estimates], color=colour, marker=".", label=label)
    axis.fill_between(
        x, [factor * e.low for e in estimates], [factor * e.high for e in estimates], color=colour, alpha=0.18, lw=0
    )
