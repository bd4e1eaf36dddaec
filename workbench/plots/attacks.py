"""Figures of the success of attackers that reconstruct pictures, and of the trade-off with accuracy and bits.

Success is the PSNR and the SSIM of a reconstruction (a guess) with the original. A row is a dict of measurements at one point
of a curve. The control is a guess without any observation: the mean image of the true class. A gain is an attacker's PSNR minus
the control's, or 0 if the attacker is worse. A training pair is a picture together with the attacker's observation of this
picture. The target is the classifier at the cloud.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..metrics import Estimate
from .labels import label_points
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, RING, SKY, band, error_bars, subplots

__all__ = ["attack_curves", "attack_effort", "attack_pairs", "attack_rates", "front", "pareto"]

Row = dict[str, Any]
AXIS_LABELS = {"psnr": "PSNR of the guesses (dB)", "ssim": "SSIM of the guesses"}
SOURCE_TITLES = {"same": "the same data", "other": "other data", "noise": "noise"}


def attack_curves(rows: Sequence[Row], control: Row, recognisable: dict[str, float], title: str) -> Figure:
    """Draw three curves over the perturbation's strength: an attacker's PSNR, the attacker's SSIM, and the target's accuracy.

    `rows` come from `audit.sweeps.of_strength`. `control` is the control's row. `recognisable` has the lowest values of `psnr`
    and `ssim` at which a reconstruction counts as recognisable.
    """
    figure, axes = subplots(1, 3, figsize=(10, 3.3))
    x = [row["point"] for row in rows]
    for axis, key in zip(axes, AXIS_LABELS, strict=False):
        band(axis, x, [row[key] for row in rows], "attacker", ORANGE)
    band(axes[2], x, [row["answered"] for row in rows], "target", BLUE, 100)
    _levels(axes, control, recognisable)
    for axis in axes:
        axis.set(xlabel="perturbation strength", xlim=(-0.04, 1.04))
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    return _finished(figure, axes, title)


def attack_rates(rows: Sequence[Row], control: Row, recognisable: dict[str, float], title: str) -> Figure:
    """Draw an attacker's PSNR, the attacker's SSIM, and the target's accuracy over the bits of an image (log scale).

    `rows` come from `audit.sweeps.of_rate`. In these rows the attacker holds the cloud's decoded images. Each point is labelled
    with its codec. `control` and `recognisable` are as in `attack_curves`.
    """
    figure, axes = subplots(1, 3, figsize=(12, 4.2))
    rows = sorted(rows, key=lambda row: row["bits"].value)
    for axis, key, colour, factor in zip(axes, (*AXIS_LABELS, "answered"), (ORANGE, ORANGE, BLUE), (1, 1, 100), strict=True):
        label = "target" if key == "answered" else "attacker"
        band(axis, [row["bits"].value for row in rows], [row[key] for row in rows], label, colour, factor)
    _levels(axes, control, recognisable)
    for axis in axes:
        axis.set(xlabel="payload to the cloud (bits/image)", xscale="log")
        axis.margins(x=0.14, y=0.16)
    _finished(figure, axes, title)
    axes[2].set_ylim(0, 125)  # room for the codecs' names
    axes[2].set_yticks(range(0, 101, 20))
    figure.draw_without_rendering()
    for axis, key, factor in zip(axes, (*AXIS_LABELS, "answered"), (1, 1, 100), strict=True):
        at = [(row["bits"].value, factor * row[key].value) for row in rows]
        label_points(axis, at, [str(row["point"]) for row in rows], list(itertools.pairwise(at)))
    return figure


def attack_pairs(sources: dict[str, Sequence[Row]], control: Row, recognisable: dict[str, float], title: str) -> Figure:
    """Draw an attacker's PSNR and SSIM over the number of training pairs (log scale), with one line for each source of pairs.

    `sources` maps the name of a source to rows of `audit.sweeps.of_pairs`. The attacker's pictures come from the same data set
    (`same`), from other data sets (`other`), or are noise (`noise`). `control` and `recognisable` are as in `attack_curves`.
    """
    figure, axes = subplots(1, 2, figsize=(9.4, 3.5))
    for axis, key in zip(axes, AXIS_LABELS, strict=True):
        for colour, (source, rows) in zip((BLUE, GREEN, PURPLE), sources.items(), strict=False):
            band(axis, [row["point"] for row in rows], [row[key] for row in rows], SOURCE_TITLES.get(source, source), colour)
    _levels(axes, control, recognisable)
    counts = sorted({int(row["point"]) for rows in sources.values() for row in rows})
    for axis in axes:
        axis.set(xlabel="pairs that the attacker learns from", xscale="log")
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.tick_params(axis="x", labelsize=8)  # adjacent tick labels must not touch
        axis.minorticks_off()
        axis.margins(x=0.08)
    return _finished(figure, axes, title)


def attack_effort(rows: Sequence[Row], control: Row, title: str) -> Figure:
    """Draw the best attacker's PSNR over the number of training images (log scale), with one line for each view.

    A view is the data that attackers observe of a picture, such as `decoded`. `rows` come from `Audit.converge`. `control` is
    the control's row.
    """
    figure, axis = subplots(figsize=(6.4, 3.6))
    views = list(dict.fromkeys(row["view"] for row in rows))
    for colour, view in zip((ORANGE, BLUE, GREEN, PURPLE), views, strict=False):
        mine = [row for row in rows if row["view"] == view]
        band(axis, [row["effort"]["passes"] for row in mine], [row["psnr"] for row in mine], view, colour)
    efforts = sorted({row["effort"]["passes"] for row in rows})
    axis.axhline(control["psnr"].value, color="black", lw=1, ls="--", label="class mean (control)")
    axis.set(xlabel="effort (images of a training)", ylabel=AXIS_LABELS["psnr"], xscale="log", title=title)
    axis.set_xticks(efforts, [f"{effort:,}" for effort in efforts])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    return figure


def front(points: Sequence[Row]) -> list[bool]:
    """Return for each point whether the point is on the Pareto front.

    For a point on the front, no other point is at least as good in all values and better in one. A point has three values:
    `answered` (accuracy, higher is better), `bits` (lower is better) and `over` (an attacker's gain in dB, lower is better).
    `answered` and `bits` are Estimates.
    """
    costs = [(-point["answered"].value, point["bits"].value, point["over"]) for point in points]
    return [
        not any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in costs) for mine in costs
    ]


def pareto(points: Sequence[Row], title: str) -> Figure:
    """Draw the target's accuracy over the bits of an image (log scale). The colour is an attacker's gain (dB).

    `points` are rows of `audit.sweeps.of_rate`, with the additional key `variant`: the name of the generator that protected the
    pictures. The name is "" for the pair's own generator. The variant selects the marker. Points on the Pareto front (see
    `front`) have a ring.
    """
    figure, axis = subplots(figsize=(8.6, 4.6))
    overs = [point["over"] for point in points]
    scale = {"vmin": min(0.0, *overs), "vmax": max(1.0, *overs), "cmap": "cividis"}
    variants = list(dict.fromkeys(point.get("variant", "") for point in points))
    shown: Any = None
    for marker, variant in zip("osD^vP", variants, strict=False):
        mine = [point for point in points if point.get("variant", "") == variant]
        x, y = [point["bits"].value for point in mine], [100 * point["answered"].value for point in mine]
        axis.errorbar(x, y, yerr=error_bars([point["answered"] for point in mine], 100), fmt="none", ecolor=GREY, elinewidth=1)
        label = f"generator: {variant or 'the pair’s own'}"
        shown = axis.scatter(x, y, c=[point["over"] for point in mine], marker=marker, s=70, zorder=3, label=label, **scale)
    best = [point for point, on in zip(points, front(points), strict=True) if on]
    x, y = [point["bits"].value for point in best], [100 * point["answered"].value for point in best]
    axis.scatter(x, y, s=210, linewidths=1.6, edgecolors=ORANGE, **RING)
    axis.set(xlabel="payload to the cloud (bits/image)", ylabel="target accuracy at the cloud (%)", xscale="log")
    axis.margins(x=0.12, y=0.2)
    figure.colorbar(shown, label="the attacker's PSNR over the control (dB)")
    axis.set_title(title)
    legend = axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=8)
    for handle in legend.legend_handles[:-1]:
        handle.set_facecolor(SKY)
    at = [(point["bits"].value, 100 * point["answered"].value) for point in points]
    bars = [((x, 100 * p["answered"].low), (x, 100 * p["answered"].high)) for (x, _), p in zip(at, points, strict=True)]
    figure.draw_without_rendering()
    label_points(axis, at, [str(point["point"]) for point in points], bars, clear=9)
    return figure


def _levels(axes: Sequence[Axes], control: Row, recognisable: dict[str, float]) -> None:
    for axis, key in zip(axes, AXIS_LABELS, strict=False):
        level: Estimate = control[key]
        axis.axhline(level.value, color="black", lw=1, ls="--", label="class mean (control)")
        axis.axhspan(level.low, level.high, color="black", alpha=0.12, lw=0)
        axis.axhline(recognisable[key], color=GREY, lw=1.2, ls=":", label="recognisable (He et al.)")


def _finished(figure: Figure, axes: Sequence[Axes], title: str) -> Figure:
    for axis, text in zip(axes, AXIS_LABELS.values(), strict=False):
        axis.set_ylabel(text)
    axes[1].set_ylim(top=min(1.02, axes[1].get_ylim()[1]))  # an SSIM is at most 1, a normal interval may reach above it
    for axis in axes[len(AXIS_LABELS) :]:
        axis.set(ylabel="target accuracy at the cloud (%)", ylim=(0, 102))
    lines = {line.get_label(): line for axis in axes[: len(AXIS_LABELS)] for line in axis.get_lines()}
    figure.legend(list(lines.values()), [str(name) for name in lines], loc="outside lower center", ncols=len(lines), fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure
