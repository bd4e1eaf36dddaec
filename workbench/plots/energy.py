"""Figures of the energy that a phone needs for one picture, by arrangement.

The arrangements are no protection, the baseline PP (the generator runs on the phone), and PMC² (the generator runs on the
edge). A model computes the energies from measurements. Each figure shows two uncertainties: the range of an energy over
the model's assumptions, and its 95 % interval over repeated measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..metrics import Estimate
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, error_bars, subplots

__all__ = ["PART_TITLES", "energy_bars", "energy_shares"]

# Parts and colours: the phone's computation in grey and orange, its radio in purple and blues.
PART_TITLES = {
    "compression": "JPEG or PNG",
    "generator": "generator",
    "sending": "sending (CPU)",
    "radio": "radio",
    "waiting": "waiting",
    "wake": "promotion and tail",
}
_PART_COLOURS = ("#9A9A9A", ORANGE, PURPLE, BLUE, SKY, GREEN)


def energy_bars(ours: Mapping[str, Mapping[str, Any]], paper: Mapping[str, float], title: str, meter: str) -> Figure:
    """Draw the energy of a picture (mJ) by arrangement: our values in one panel, and the paper's values in a second panel.

    `ours` maps the name of an arrangement to a result of `bench.energy_model.energy`, which is drawn as a stack of parts. A
    thin bar shows the range over the model's assumptions, and a thick bar the 95 % interval. `paper` maps the same names to the
    paper's values in mJ. If `paper` is empty, there is no second panel. `meter` is the second panel's title.
    """
    figure, axes = subplots(1, 2 if paper else 1, figsize=(9.4 if paper else 6.4, 1.9 + 0.5 * len(ours)), squeeze=False)
    axis, *others = axes[0]
    left = np.zeros(len(ours))
    names = list(ours)
    for colour, (part, text) in zip(_PART_COLOURS, PART_TITLES.items(), strict=True):
        values = np.array([ours[name]["parts_mj"][part].value for name in names])
        if values.any():
            axis.barh(names, values, left=left, height=0.58, color=colour, label=text, edgecolor="white", linewidth=0.5)
        left += values
    whole: list[Estimate] = [ours[name]["mj"] for name in names]
    ends = np.array([ours[name]["range_mj"] for name in names]).T
    beyond = np.clip([left - ends[0], ends[1] - left], 0, None)
    axis.errorbar(left, names, xerr=beyond, fmt="none", ecolor="black", elinewidth=0.8, capsize=3)
    axis.errorbar(left, names, xerr=error_bars(whole), fmt="none", ecolor="black", elinewidth=2.4)
    _numbers(axis, left, ends[1])
    _finish(axis, 1.18 * max(left.max(), ends.max()), title)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower left", ncols=len(PART_TITLES), fontsize=8)
    for other in others:
        values = np.array([paper[name] for name in names])
        other.barh(names, values, height=0.58, color="white", edgecolor=GREY, hatch="////", linewidth=1)
        _numbers(other, values, values)
        _finish(other, 1.18 * values.max(), meter)
    return figure


def energy_shares(ours: Mapping[str, Mapping[str, Any]], paper: Mapping[str, float], title: str) -> Figure:
    """Draw the energy of each arrangement in percent of the energy of PP: our values and the paper's values.

    `ours` maps the name of an arrangement to a row of `bench.energy_model.shares`, which is drawn with range and interval.
    `paper` maps the same names to the paper's values in percent.
    """
    figure, axis = subplots(figsize=(6.4, 1.7 + 0.45 * len(ours)))
    names = list(ours)
    wide: dict[str, Any] = {"color": BLUE, "lw": 6, "alpha": 0.25, "solid_capstyle": "butt"}
    hollow: dict[str, Any] = {"color": "white", "markeredgecolor": GREY, "markeredgewidth": 1.6}
    for row, name in enumerate(names):
        share, (low, high) = ours[name]["share"], ours[name]["range"]
        axis.plot([100 * low, 100 * high], [row, row], **wide, label="range of what is assumed")
        ours_in_percent = {"xerr": error_bars([share], 100), "label": "ours, 95 % interval"}
        axis.errorbar([100 * share.value], [row], **ours_in_percent, fmt="o", color=BLUE, capsize=3)
        if name in paper:
            axis.plot([paper[name]], [row], "D", **hollow, label="paper, its meter")
    axis.set_yticks(range(len(names)), names)
    axis.axvline(100, color=GREY, lw=1, ls=":")
    axis.annotate("PP", (100, 0), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=8, color=GREY)
    _finish(axis, 105, title, "energy of a picture (% of PP's)")
    axis.set_ylim(len(names) - 0.5, -0.5)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=3, fontsize=8)
    return figure


def _numbers(axis: Axes, values: Any, right: Any) -> None:
    for row, (value, end) in enumerate(zip(values, right, strict=True)):
        axis.annotate(f"{value:.2f}", (max(value, end), row), (6, 0), textcoords="offset points", va="center", fontsize=9)


def _finish(axis: Axes, right: float, title: str, label: str = "energy of a picture (mJ)") -> None:
    axis.set(xlabel=label, ylabel="arrangement", xlim=(0, right))
    axis.invert_yaxis()
    axis.set_axisbelow(True)
    axis.grid(axis="y", visible=False)
    axis.set_title(title)
