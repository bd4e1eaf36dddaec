"""Check that a picture gets the same label each time it is sent, apart from changes by a generator's random component."""

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

    An unexpected label differs from the label of an earlier computation. `noise` is the standard deviation of the generator's
    random component. If it is 0, the limit is 0. Otherwise the limit is a tenth of `n`, plus four standard deviations of a
    binomial count with this mean. For example, 16 of 64 labels may differ. If a service mixed up images of ten classes, about
    57 of 64 would differ.
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
        """Count the labels `found` in a response. Return False if, in all responses so far, too many labels were unexpected.

        `request` is the index of the request. The limit is that of `too_many_others`. If the response has a wrong number of
        labels, they are not counted, and the result is False.
        """
        expected = self.labels[request]
        if found.shape != expected.shape:
            return False
        self.n += len(expected)
        self.others += int((found != expected).sum())
        return not too_many_others(self.others, self.n, self.noise)
