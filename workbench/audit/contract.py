"""The interface of an attacker, and its effort."""

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

    `pairs`: the number of pictures that it sends through the edge. `passes`: training images of one network, repeats included.
    `width`: channels of its inversion networks. `reader`: channels of its classifiers, and of the judge's. `steps`: gradient
    steps of the white box for each picture. `sends`: how often `replay` sends each known picture.
    """

    pairs: int
    passes: int
    width: int = 16
    steps: int = 40
    sends: int = 16
    reader: int = 32

    def of(self, pairs: int) -> Effort:
        """Return the same effort with another number of pairs, and at least one pass for each pair."""
        if pairs < 1:
            raise UsageError(f"an attacker needs at least 1 pair to learn from, got {pairs}")
        return replace(self, pairs=pairs, passes=max(self.passes, pairs))

    def doubled(self, most_pairs: int) -> Effort:
        """Return twice the effort, with at most `most_pairs` pairs. The networks keep their width."""
        pairs = max(self.pairs, min(2 * self.pairs, most_pairs))
        return replace(self, pairs=pairs, passes=2 * self.passes, steps=2 * self.steps)


# `trial`: seconds, to check that everything runs; its figures mean nothing. `brief`: a notebook's, minutes with its curves; a
# lower bound. `quick`: one pair in minutes on 2 cores; a lower bound. `full`: an hour and more. `Audit.converge` doubles any of
# them until the attackers stop gaining. The white box's steps are as many passes over 1,000 pictures as the others' training.
EFFORTS = {
    "trial": Effort(pairs=120, passes=240, width=4, steps=2, sends=4, reader=8),
    "brief": Effort(pairs=1000, passes=2000, width=8, steps=5, sends=4, reader=8),
    "quick": Effort(pairs=5000, passes=8000, width=12, steps=8),
    "full": Effort(pairs=20_000, passes=60_000, width=16, steps=60),
}


class Attacker(ABC):
    """An attacker: `fit` learns from pairs, then `guess` reconstructs from observations.

    `guesses` names the kind of guess: `picture` (N x 3 x H x W in [0, 1]), `class` (logits N x K) or `which` (scores N x M for
    the M pictures of the pairs). `knows` states what the attacker needs. `most` bounds the observations that an audit gives to
    an attacker that searches for each of them. `tick` receives the number of images in each training step.
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
        """Return how many images `fit` and `guess` will report to `tick` for `n` observations."""
        return self.effort.passes
