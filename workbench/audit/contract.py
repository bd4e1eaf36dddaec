"""The contract of an attacker, and how much effort it spends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..errors import UsageError
from .views import VIEWS, Observed, Observer, Pairs

__all__ = ["PICTURE_VIEWS", "Attacker", "Effort"]

PICTURE_VIEWS = ("perturbed", "decoded")


@dataclass(frozen=True)
class Effort:
    """The budget of an attacker.

    `pairs`: pictures that it sent through the edge itself. `passes`: images that pass through one training. `width`: channels
    of its networks. `steps`: gradient steps a picture of the white box. `sends`: how often `replay` sends each known picture.
    """

    pairs: int
    passes: int
    width: int = 16
    steps: int = 40
    sends: int = 16

    def of(self, pairs: int) -> Effort:
        """Return the same effort with another number of pairs, each of which is learnt from at least once."""
        if pairs < 1:
            raise UsageError(f"an attacker needs at least 1 pair to learn from, got {pairs}")
        return replace(self, pairs=pairs, passes=max(self.passes, pairs))

    def doubled(self, most_pairs: int) -> Effort:
        """Return twice the effort, with at most `most_pairs` pairs. The networks keep their width."""
        pairs = max(self.pairs, min(2 * self.pairs, most_pairs))
        return replace(self, pairs=pairs, passes=2 * self.passes, steps=2 * self.steps)


class Attacker(ABC):
    """Learns from pairs, then guesses from observations.

    `guesses` names the kind of guess: `picture` (N x 3 x H x W in [0, 1]), `class` (logits N x K) or `which` (scores N x M for
    the M pictures of the pairs). `knows` says what the attacker needs. `tick` receives the number of images that passed
    through a training.
    """

    name: ClassVar[str]
    guesses: ClassVar[str] = "picture"
    knows: ClassVar[str]
    views: ClassVar[tuple[str, ...]] = VIEWS

    def __init__(self, observer: Observer, effort: Effort, seed: int = 0, tick: Callable[[int], None] = lambda _: None) -> None:
        self.observer, self.effort, self.seed, self.tick = observer, effort, seed, tick
        self.device = observer.device

    @abstractmethod
    def fit(self, pairs: Pairs) -> None:
        """Learn from pairs."""

    @abstractmethod
    def guess(self, observed: Observed) -> Tensor:
        """Return the guesses."""

    def cost(self, n: int) -> int:
        """Return how many images `fit` and `guess` of `n` observations report to `tick`."""
        return self.effort.passes
