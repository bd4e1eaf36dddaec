"""The labels of repeated sends. A generator's random component may change some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Labels", "too_many_others"]

OTHER_LABELS = 0.1  # share of the labels that a random component may change from one send to the next
FEWEST = 100  # labels, below which a share says little


def too_many_others(others: int, n: int, noise: float) -> bool:
    """Return whether too many of `n` labels differ: any without a random component (`noise` 0), with one over a tenth."""
    return others > (OTHER_LABELS * n if noise else 0)


class Labels:
    """The expected labels of requests, and how many labels of the responses differed.

    `labels` has one array for each request. `noise` is the standard deviation of the generator's random component.
    """

    def __init__(self, labels: Sequence[np.ndarray[Any, Any]], noise: float) -> None:
        self.labels, self.noise = labels, noise
        self.n = self.others = 0

    def fit(self, request: int, found: np.ndarray[Any, Any]) -> bool:
        """Count a response's labels, and return whether they fit so far. Labels of another number never fit."""
        expected = self.labels[request]
        if found.shape != expected.shape:
            return False
        self.n += len(expected)
        self.others += int((found != expected).sum())
        return not too_many_others(self.others, max(self.n, FEWEST), self.noise)
