"""Check the labels of pictures that are sent repeatedly. A generator's random component may change some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Labels", "too_many_others"]

OTHER_LABELS = 0.1  # share of labels that a random component may change between two sends
SPREAD = 4  # tolerance in standard deviations of that count; chance alone exceeds it in 1 of 30,000 measurements


def too_many_others(others: int, n: int, noise: float) -> bool:
    """Return whether `others`, the number of unexpected labels among `n`, is too large.

    The limit is 0 if `noise` is 0 (no random component). Otherwise it is a tenth of `n`, plus four standard deviations of this
    count. For example, 16 of 64 labels may differ. If a service mixed up images of ten classes, about 57 of 64 would differ.
    """
    return others > (OTHER_LABELS * n + SPREAD * math.sqrt(n * OTHER_LABELS * (1 - OTHER_LABELS)) if noise else 0)


class Labels:
    """Compares the labels in responses with the expected labels of each request.

    `labels` has one array of expected labels for each request. `noise` is the standard deviation of the generator's random
    component. `self.n` counts the received labels, `self.others` the unexpected ones.
    """

    def __init__(self, labels: Sequence[np.ndarray[Any, Any]], noise: float) -> None:
        self.labels, self.noise = labels, noise
        self.n = self.others = 0

    def fit(self, request: int, found: np.ndarray[Any, Any]) -> bool:
        """Count the labels `found` in a response. Return whether the total of unexpected labels is within the limit.

        `request` is the index of the request. If the response has a wrong number of labels, no label is counted, and the
        result is False.
        """
        expected = self.labels[request]
        if found.shape != expected.shape:
            return False
        self.n += len(expected)
        self.others += int((found != expected).sum())
        return not too_many_others(self.others, self.n, self.noise)
