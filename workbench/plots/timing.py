"""Figures of a picture's latency, the time from image to label, by arrangement (see `bench.latency`).

An arrangement is a way to divide the work between phone, edge and cloud.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..metrics import Estimate
from .style import BLUE, GREEN, ORANGE, PURPLE, SKY, error_bars, subplots

__all__ = ["COMPONENT_TITLES", "components", "links"]

# The nine components (PMC², Figure 4), and their colours: phone and its network in greys, edge in oranges, cloud in blues.
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


def components(parts: dict[str, dict[str, Estimate]], whole: dict[str, Estimate], axis_title: str, title: str) -> Figure:
    """Draw each arrangement's latency as a stacked bar of nine components, and the measured total with its interval.

    `parts` maps the name of an arrangement to {component: ms per image}. `COMPONENT_TITLES` lists the components. `whole` maps
    the name of an arrangement to the measured total in ms per image. `axis_title` is the label of the x axis.
    """
    figure, axis = subplots(figsize=(9.4, 1.5 + 0.5 * len(parts)))
    names = list(parts)
    left = np.zeros(len(names))
    for colour, (key, text) in zip(_COMPONENT_COLOURS, COMPONENT_TITLES.items(), strict=True):
        values = np.array([parts[name][key].value for name in names])
        axis.barh(names, values, left=left, height=0.62, color=colour, label=text, edgecolor="white", linewidth=0.5)
        left += values
    for row, name in enumerate(names):
        found = whole[name]
        axis.errorbar(found.value, row, xerr=error_bars([found]), fmt="none", ecolor="black", elinewidth=0.8, capsize=3)
        text, place = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]", (max(found.high, left[row]), row)
        axis.annotate(text, place, (5, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set(xlabel=axis_title, ylabel="arrangement", xlim=(0, 1.5 * max(each.high for each in whole.values())))
    axis.invert_yaxis()
    axis.set_axisbelow(True)
    axis.grid(axis="y", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    axis.set_title(title)
    return figure


def links(measured: dict[str, dict[str, Estimate]], title: str) -> Figure:
    """Draw the median latency from image to label (ms) over different network links, for each arrangement.

    `measured` maps the name of an arrangement to {kind of link: median}. The medians are drawn with their intervals.
    """
    figure, axis = subplots(figsize=(9.4, 3.6))
    kinds = list(next(iter(measured.values())))
    width = 0.8 / len(measured)
    for number, (colour, (name, rows)) in enumerate(zip((ORANGE, GREEN, SKY, BLUE, PURPLE), measured.items(), strict=False)):
        x = np.arange(len(kinds)) + (number - (len(measured) - 1) / 2) * width
        medians = [rows[kind] for kind in kinds]
        bars = {"yerr": error_bars(medians), "error_kw": {"ecolor": "black", "elinewidth": 0.8}, "capsize": 2}
        axis.bar(x, [each.value for each in medians], width=0.92 * width, color=colour, label=name, **bars)
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set(xlabel="link to the cloud", ylabel="image to label (ms, median)", ylim=(0, None))
    axis.set_axisbelow(True)
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    axis.set_title(title)
    return figure
