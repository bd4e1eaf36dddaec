"""The interface of an attacker, and `Effort`, an attacker's budget.

A view is the data that an attacker observes at one point of the system, such as the payload. A pair is one of the attacker's
own pictures, together with the observation of this picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..errors import UsageError
from .views import VIEWS, Observed, Observer, Pairs

__all__ = ["EFFORTS", "PICTURE_VIEWS", "Attacker", "Effort"]

PICTURE_VIEWS = ("perturbed", "decoded")


@dataclass(frozen=True)
class Effort:
    """The budget of an attacker.

    - `pairs`: the number of pictures that the attacker sends through the edge
    - `passes`: the number of training images of one network; an image that is used twice counts twice
    - `width`: the channels of inversion networks
    - `reader`: the channels of the attackers' classifiers, and of the judge that scores guesses
    - `steps`: the gradient steps of a white-box attacker for each picture
    - `sends`: how often the attacker `replay` sends each picture that it knows
    """

    pairs: int
    passes: int
    width: int = 16
    steps: int = 40
    sends: int = 16
    reader: int = 32

    def of(self, pairs: int) -> Effort:
        """Return this effort with another number of pairs, and with at least as many passes."""
        if pairs < 1:
            raise UsageError(f"an attacker needs at least 1 pair to learn from, got {pairs}")
        return replace(self, pairs=pairs, passes=max(self.passes, pairs))

    def doubled(self, most_pairs: int) -> Effort:
        """Return this effort with twice the passes, steps and pairs. `most_pairs` limits the number of pairs."""
        pairs = max(self.pairs, min(2 * self.pairs, most_pairs))
        return replace(self, pairs=pairs, passes=2 * self.passes, steps=2 * self.steps)


# `trial` takes seconds, and its results mean nothing. `brief` takes minutes in a notebook, `quick` takes minutes on 2 cores;
# both give lower bounds. `full` takes an hour or more. In `quick` and `full`, a white-box search over 1,000 pictures processes
# as many images as the training of another attacker.
EFFORTS = {
    "trial": Effort(pairs=120, passes=240, width=4, steps=2, sends=4, reader=8),
    "brief": Effort(pairs=1000, passes=2000, width=8, steps=5, sends=4, reader=8),
    "quick": Effort(pairs=5000, passes=8000, width=12, steps=8),
    "full": Effort(pairs=20_000, passes=60_000, width=16, steps=60),
}


class Attacker(ABC):
    """An attacker: `fit` learns from pairs, then `guess` makes a guess for each observation.

    `guesses` names the kind of guess for N observations: `picture` (N x 3 x H x W in [0, 1]), `class` (logits for K classes,
    N x K) or `which` (a score for each of M known pictures, N x M). `knows` is a text that names what the attacker knows.
    `views` names the views on which the attacker works. `most` limits the number of observations in an audit (None: no limit).
    Attackers that run a search for every picture need this limit. `tick` is a callback for progress. It receives the number of
    images of each step.
    """

    name: ClassVar[str]
    guesses: ClassVar[str] = "picture"
    knows: ClassVar[str]
    views: ClassVar[tuple[str, ...]] = VIEWS
    most: ClassVar[int | None] = None

    def __init__(self, observer: Observer, effort: Effort, seed: int = 0, tick: Callable[[int], None] = lambda _: None) -> None:
        self.observer, self.effort, self.seed, self.tick = observer, effort, seed, tick
        self.device = observer.device

    @abstractmethod
    def fit(self, pairs: Pairs) -> None:
        """Learn from pairs. Raises UsageError for pairs that this attacker cannot use."""

    @abstractmethod
    def guess(self, observed: Observed) -> Tensor:
        """Return one guess for each of the N observations."""

    def cost(self, n: int) -> int:
        """Return the number of images that `fit` and `guess` report to `tick` for `n` observations."""
        return self.effort.passes
