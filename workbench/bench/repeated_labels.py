"""Check the labels of repeated sends, of which a generator's random component may change some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Labels", "too_many_others"]

OTHER_LABELS = 0.1  # share of labels that a random component may change between two sends
FEWEST = 100  # minimum number of labels for a meaningful share


def too_many_others(others: int, n: int, noise: float) -> bool:
    """Return whether too many of `n` labels differ: more than 0 for `noise` 0, else more than a tenth."""
    return others > (OTHER_LABELS * n if noise else 0)


class Labels:
    """The expected labels of requests, and the number of labels in responses that differed.

    `labels` has one array for each request. `noise` is the standard deviation of the generator's random component.
    """

    def __init__(self, labels: Sequence[np.ndarray[Any, Any]], noise: float) -> None:
        self.labels, self.noise = labels, noise
        self.n = self.others = 0

    def fit(self, request: int, found: np.ndarray[Any, Any]) -> bool:
        """Count a response's labels, and return whether the differences so far are acceptable.

        A response with another number of labels never is.
        """
        expected = self.labels[request]
        if found.shape != expected.shape:
            return False
        self.n += len(expected)
        self.others += int((found != expected).sum())
        return not too_many_others(self.others, max(self.n, FEWEST), self.noise)
