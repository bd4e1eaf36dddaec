"""Names beside points, where they cover nothing."""

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
NEAR = 10  # points; to a name that stands farther off a line leads
# Where a name may stand, in points from its point, the best first: beside it, above and below, then farther and farther off.
PLACES = [
    (reach * math.cos(eighth * math.pi / 4), reach * math.sin(eighth * math.pi / 4))
    for reach in (NEAR, 18, 28, 40, 54, 70)
    for eighth in (0, 4, 2, 6, 1, 7, 3, 5)
]


def label_points(
    axis: Axes, points: Sequence[Point], names: Sequence[str], strokes: Sequence[tuple[Point, Point]] = (), clear: float = 4
) -> None:
    """Write the name of each point (x, y) beside it, where it covers no point, no stroke and no other name.

    `strokes` are straight lines that are drawn already; `clear` is the radius of a point's marker (pt). What else the figure
    holds must be there before: its layout is made here.
    """
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    renderer, scale = FigureCanvasAgg(figure).get_renderer(), figure.dpi / 72  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    places = axis.transData.transform(list(points))
    taken = [_square(place, clear * scale) for place in places]
    taken += [_square(each, scale) for ends in strokes for each in _along(axis.transData.transform(list(ends)))]
    frame = axis.get_window_extent(renderer)
    for place, point, name in zip(places, points, names, strict=True):
        measured = axis.text(0, 0, name, fontsize=8, transform=None)
        size = measured.get_window_extent(renderer)
        measured.remove()
        boxes = [_box(place, scale * right, scale * up, size) for right, up in PLACES]
        outside = [size.width * size.height - _overlap(box, frame) for box in boxes]
        spoilt = [round(out + sum(_overlap(box, other) for other in taken)) for box, out in zip(boxes, outside, strict=True)]
        best = spoilt.index(min(spoilt))
        taken.append(boxes[best])
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
    """Return places along a stroke from one end to the other, two pixels apart (M x 2)."""
    count = 2 + int(np.hypot(*(ends[1] - ends[0])) / 2)
    return np.linspace(ends[0], ends[1], count)


def _square(place: Any, radius: float) -> Bbox:
    return Bbox([place - radius, place + radius])


def _side(right: float) -> Literal["left", "center", "right"]:
    return "center" if abs(right) < 1 else "left" if right > 0 else "right"


def _box(place: Any, right: float, up: float, size: Bbox) -> Bbox:
    """Return where a text of a size stands beside a place (pixels)."""
    back = {"left": 0.0, "center": 0.5, "right": 1.0}[_side(right)]
    return Bbox.from_bounds(place[0] + right - back * size.width, place[1] + up - size.height / 2, size.width, size.height)


def _overlap(a: Bbox, b: Bbox) -> float:
    common = Bbox.intersection(a, b)
    return 0.0 if common is None else common.width * common.height
