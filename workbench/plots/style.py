"""The elements that all figures share: colours, matplotlib's defaults, and lines and points with intervals.

An estimate is a value with the two ends of its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..metrics import Estimate

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "RING", "SKY", "band", "error_bars", "point", "subplots", "use_style"]

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6E6E6E"
SKY = "#56B4E9"
RING: dict[str, Any] = {"facecolors": "none", "zorder": 4, "label": "Pareto front"}  # options of `scatter` for the Pareto front


def use_style() -> None:
    """Set matplotlib's defaults for all figures of the workbench."""
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


def subplots(
    rows: int = 1, columns: int = 1, figsize: tuple[float, float] = (6, 4), squeeze: bool = True
) -> tuple[Figure, Any]:
    """Return a figure and its axes, as matplotlib's `subplots` does, but made without pyplot.

    So a notebook does not show the figure automatically, and any thread may draw it.
    """
    use_style()
    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def band(axis: Axes, x: list[float], estimates: list[Estimate], label: str, colour: str, factor: float = 1.0) -> None:
    """Draw estimates over `x` as a line, and the 95 % intervals as a band. Both are multiplied by `factor`."""
    axis.plot(x, [factor * e.value for e in estimates], color=colour, marker=".", label=label)
    axis.fill_between(
        x, [factor * e.low for e in estimates], [factor * e.high for e in estimates], color=colour, alpha=0.18, lw=0
    )


def point(axis: Any, x: float, y: Estimate, name: str, colour: str, marker: str) -> None:
    """Draw a proportion `y` in percent as a point at `x`, with its 95 % interval as an error bar."""
    axis.errorbar([x], [100 * y.value], yerr=error_bars([y], 100), fmt=marker, color=colour, capsize=3, label=name)


def error_bars(estimates: Sequence[Estimate], factor: float = 1.0) -> list[list[float]]:
    """Return the lengths of error bars as matplotlib expects them (2 x N): below each estimate, then above each estimate.

    The lengths are multiplied by `factor`.
    """
    return [[factor * (e.value - e.low) for e in estimates], [factor * (e.high - e.value) for e in estimates]]
