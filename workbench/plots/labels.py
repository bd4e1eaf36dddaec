"""Write names next to the points of a figure, with as little overlap as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from .style import GREY

__all__ = ["label_points"]

Point = tuple[float, float]
NEAR = 10  # pt; a line connects a point with a name that is farther away
# Offsets of a name from its point (pt), best first: right, left, above, below, the diagonals; then the same, farther away.
PLACES = [
    (reach * math.cos(eighth * math.pi / 4), reach * math.sin(eighth * math.pi / 4))
    for reach in (NEAR, 18, 28, 40, 54, 70)
    for eighth in (0, 4, 2, 6, 1, 7, 3, 5)
]


def label_points(
    axis: Axes, points: Sequence[Point], names: Sequence[str], strokes: Sequence[tuple[Point, Point]] = (), clear: float = 4
) -> None:
    """Write the name of each point (x, y) next to the point, with as little overlap as possible.

    A name avoids points, strokes, other names and the edge of the axes. `strokes` are straight lines that are already drawn,
    given by their two ends. `clear` is the radius of a point's marker (pt). Call this function last, after
    `figure.draw_without_rendering`, which sets the positions of the axes.
    """
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    renderer, scale = FigureCanvasAgg(figure).get_renderer(), figure.dpi / 72  # type: ignore[no-untyped-call]
    places = axis.transData.transform(points)
    along = [_along(axis.transData.transform(list(ends))) for ends in strokes]
    taken = np.concatenate([_squares(places, clear * scale), *(_squares(each, scale) for each in along)])
    frame = np.array([axis.get_window_extent(renderer).extents])
    for place, point, name in zip(places, points, names, strict=True):
        measured = axis.text(0, 0, name, fontsize=8, transform=None)
        size = measured.get_window_extent(renderer)
        measured.remove()
        boxes = np.array([_box(place, scale * right, scale * up, size) for right, up in PLACES])
        outside = size.width * size.height - _overlap(boxes, frame)
        best = int((outside + _overlap(boxes, taken)).round().argmin())
        taken = np.concatenate([taken, boxes[best : best + 1]])
        right, up = PLACES[best]
        arrow = {"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 1, "shrinkB": clear}
        axis.annotate(
            name,
            point,
            (right, up),
            textcoords="offset points",
            ha=_side(right),
            va="center",
            fontsize=8,
            arrowprops=arrow if math.hypot(right, up) > NEAR + 1 else None,
        ).set_in_layout(False)


def _along(ends: Any) -> Any:
    count = 2 + int(np.hypot(*(ends[1] - ends[0])) / 2)
    return np.linspace(ends[0], ends[1], count)


def _squares(places: Any, radius: float) -> Any:
    return np.concatenate([places - radius, places + radius], axis=1)


def _side(right: float) -> Literal["left", "center", "right"]:
    return "center" if abs(right) < 1 else "left" if right > 0 else "right"


def _box(place: Any, right: float, up: float, size: Bbox) -> tuple[float, float, float, float]:
    left = place[0] + right - {"left": 0.0, "center": 0.5, "right": 1.0}[_side(right)] * size.width
    bottom = place[1] + up - size.height / 2
    return left, bottom, left + size.width, bottom + size.height


def _overlap(boxes: Any, others: Any) -> Any:
    common = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    return common.clip(min=0).prod(axis=2).sum(axis=1)
