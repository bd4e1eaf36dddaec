"""The curves over strength under the pictures: measured beside the hand's work, drawn once, and a line moves over them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from .. import plots
from ..data import Dataset
from ..evaluation import Evaluation
from ..weights import Pair
from .pipeline import CHUNK

__all__ = ["STRENGTHS", "Paced", "draw"]

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.9, 1.0)
SIZE, DPI = (11.0, 2.9), 144
Box = tuple[float, float, float, float]


class Paced(Evaluation):
    """An evaluation that asks before each few images whether it may go on."""

    def __init__(self, pair: Pair, dataset: Dataset, pace: Callable[[], None], limit: int) -> None:
        super().__init__(pair, dataset, limit=limit, batch=CHUNK)
        self._pace = pace

    def _batches(self, n: int, what: str) -> Iterator[slice]:
        for rows in super()._batches(n, what):
            self._pace()
            yield rows


def draw(rows: list[dict[str, Any]], chance: float, title: str) -> tuple[bytes, list[Box]]:
    """Return the curves as a PNG on no ground, and where its panels are: left, top, width, height as shares of it."""
    figure, buffer = plots.strength_curves(rows, chance, title, size=SIZE), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, transparent=True)
    boxes = [axis.get_position() for axis in figure.axes]
    return buffer.getvalue(), [(box.x0, 1 - box.y1, box.width, box.height) for box in boxes]
