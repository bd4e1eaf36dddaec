"""Figures of accuracy, bytes, SSIM and an attacker's gain over two settings: the strength of protection and the codec's rate.

A higher rate means more bits. The gain is the attacker's PSNR minus the control's (dB), or 0 if the attacker is worse. The
control guesses the mean image of the true class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .attacks import front
from .style import GREY, RING, band, subplots

__all__ = ["surface", "surface_front"]

Row = dict[str, Any]
STRENGTH_COLOURS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#b8a500")


def surface(rows: Sequence[Row], title: str) -> Figure:
    """Draw heat maps over rate (x) and strength (y): the target's accuracy, bytes, SSIM, and an attacker's gain.

    `rows` come from `Evaluation.surface`. The map of the gain is drawn only if every row also has the entry `over`, which
    `audit.sweeps.of_surface` measures.
    """
    maps: list[tuple[str, Callable[[Row], float], str, str]] = [
        ("target at the cloud (%)", lambda row: 100 * row["target"].value, "cividis", "{:.1f}"),
        ("payload (bytes/image)", lambda row: row["bytes"].value, "cividis_r", "{:.3g}"),
        ("a person at the cloud: SSIM with the original", lambda row: row["ssim"].value, "cividis_r", "{:.2f}"),
    ]
    if all("over" in row for row in rows):
        maps.append(("an attacker at the cloud: dB over the control", lambda row: row["over"], "cividis_r", "{:.1f}"))
    columns = 2 if len(maps) == 4 else len(maps)
    height = 1.1 + 0.42 * len({row["strength"] for row in rows})
    figure, axes = subplots(len(maps) // columns, columns, (5.4 * columns, height * len(maps) // columns + 0.4), squeeze=False)
    for axis, (name, value, colours, text) in zip(axes.flat, maps, strict=True):
        _map(figure, axis, _grid(rows, value), name, colours, text, logarithmic=name.startswith("payload"))
        axis.set_xticks(range(len(_values(rows, "rate"))), [f"{value:g}" for value in _values(rows, "rate")])
        axis.set_yticks(range(len(_values(rows, "strength"))), [f"{value:g}" for value in _values(rows, "strength")])
        axis.set(xlabel="rate", ylabel="strength")
    figure.suptitle(title, fontsize=10)
    return figure


def surface_front(rows: Sequence[Row], title: str) -> Figure:
    """Draw accuracy, SSIM and an attacker's gain over bytes per image (log scale), with one line for each strength.

    `rows` are as in `surface`. Points on the Pareto front of accuracy, bytes and gain have a ring: no other point is at least
    as good in all three and better in one.
    """
    attacked = all("over" in row for row in rows)
    figure, axes = subplots(1, 2 + attacked, (4.4 * (2 + attacked), 3.7), squeeze=False)
    points = [{"answered": row["target"], "bits": row["bytes"], "over": row.get("over", 0.0)} for row in rows]
    best = [row for row, on_front in zip(rows, front(points), strict=True) if on_front]
    for colour, strength in zip(STRENGTH_COLOURS, _values(rows, "strength"), strict=False):
        mine = [row for row in rows if row["strength"] == strength]
        x = [row["bytes"].value for row in mine]
        for axis, key, factor in ((axes[0, 0], "target", 100), (axes[0, 1], "ssim", 1)):
            band(axis, x, [row[key] for row in mine], f"strength {strength:g}", colour, factor)
        if attacked:
            axes[0, 2].plot(x, [row["over"] for row in mine], color=colour, marker=".", label=f"strength {strength:g}")
    values: tuple[Callable[[Row], float], ...] = (
        lambda row: 100 * row["target"].value,
        lambda row: row["ssim"].value,
        lambda row: row.get("over", 0.0),
    )
    labels = ("target at the cloud (%)", "SSIM, original and decoded", "attacker over the control (dB)")
    for axis, value, label in zip(axes[0], values, labels, strict=False):
        x, y = [row["bytes"].value for row in best], [value(row) for row in best]
        axis.scatter(x, y, s=95, linewidths=1.3, edgecolors=GREY, **RING)
        axis.set(xlabel="payload to the cloud (bytes/image)", ylabel=label, xscale="log")
    axes[0, -1].legend(fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=10)
    return figure


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return sorted({row[key] for row in rows})


def _grid(rows: Sequence[Row], value: Callable[[Row], float]) -> NDArray[np.float64]:
    strengths, rates = _values(rows, "strength"), _values(rows, "rate")
    grid = np.full((len(strengths), len(rates)), np.nan)
    for row in rows:
        grid[strengths.index(row["strength"]), rates.index(row["rate"])] = value(row)
    return grid


def _map(figure: Figure, axis: Axes, grid: NDArray[np.float64], name: str, colours: str, text: str, logarithmic: bool) -> None:
    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
    norm = LogNorm(low, high) if logarithmic and 0 < low < high else Normalize(low, high if high > low else low + 1)
    shown = axis.imshow(grid, cmap=colours, norm=norm, aspect="auto", origin="lower")
    axis.grid(False)
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            red, green, blue, _ = shown.to_rgba(np.asarray(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axis.text(column, row, text.format(value), ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axis.set_title(name)
    figure.colorbar(shown, ax=axis)
