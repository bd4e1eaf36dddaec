"""The curves and the surface of the view `explore`, two plots of measurements on test images.

The curves show accuracy, SSIM and bytes over the perturbation's strength. The surface shows accuracy and bytes over strength
and rate. A higher rate means more bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..data import Dataset
from ..evaluation import Evaluation
from ..weights import Pair
from .pipeline import CHUNK

__all__ = ["STRENGTHS", "Paced", "for_page"]

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.9, 1.0)


class Paced(Evaluation):
    """An evaluation that calls `pace` before each batch, so that another thread can delay or end it.

    The callback `pace` may wait. If `pace` raises an exception, the evaluation ends. `pair` has the networks. At most the first
    `limit` test images of `dataset` are used.
    """

    def __init__(self, pair: Pair, dataset: Dataset, pace: Callable[[], None], limit: int) -> None:
        super().__init__(pair, dataset, limit=limit, batch=CHUNK)
        self._pace = pace

    def _batches(self, n: int, what: str) -> Iterator[slice]:
        for rows in super()._batches(n, what):
            self._pace()
            yield rows


def for_page(rows: list[dict[str, Any]], surface: list[dict[str, Any]], title: str, classes: int) -> dict[str, Any]:
    """Convert rows of `Evaluation.curve` to the data from which the page draws the curves and the surface.

    `rows` are the measurements for the curves, one row for each strength. `surface` are the measurements for the surface, or an
    empty list. `title` is the beginning of the plot's caption. `classes` is the number of classes.

    In the result, a point of a curve is [strength, value, low, high], where low and high are the bounds of the 95 % interval. A
    point of the surface is [strength, rate, accuracy, bytes per image]. Accuracies are in %.
    """

    def series(name: str, factor: float = 1.0) -> list[list[float]]:
        return [
            [row["point"], *(round(factor * each, 4) for each in (row[name].value, row[name].low, row[name].high))]
            for row in rows
        ]

    return {
        "text": f"{title}, n = {rows[0]['target'].n:,} in payloads of up to {CHUNK}; bands: 95 %",
        "chance": 100 / classes,
        "target": series("target", 100),
        "auxiliary": series("auxiliary", 100),
        "ssim": series("ssim"),
        "bytes": series("bytes"),
        "surface": {
            "n": surface[0]["target"].n if surface else 0,
            "rows": [[*row["point"], round(100 * row["target"].value, 2), round(row["bytes"].value, 3)] for row in surface],
        },
    }
