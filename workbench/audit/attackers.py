"""The registry of attackers. A new attacker is a class with `fit` and `guess`, and an entry in `KINDS`.

The attackers, by the kind of their guess::

    picture    undo, invert, prior, optimise: see `reconstruct`; latents, diffusion: see `priors`
    class      read      a classifier of the attacker's own, trained on protected pictures
               retrain   the auxiliary model, fine-tuned on protected pictures
    which      replay    sends known pictures through the edge, and selects the picture whose view is nearest to the observation

A view is the data that an attacker observes at one point of the system. A pair is one of the attacker's own pictures, together
with the observation of this picture. A send is one pass of a picture through client and edge.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..rows import distinct
from .contract import PICTURE_VIEWS, Attacker, Effort
from .networks import RATE, SmallCNN, learn, run, seeded
from .priors import DiffusionPrior, LatentPrior
from .reconstruct import Inversion, Optimise, Prior, Undo
from .views import Observed, Pairs

__all__ = ["ATTACKERS", "Effort", "Inversion", "Read", "Replay", "Retrain"]


class Read(Attacker):
    """Predicts the class with a small classifier.

    The classifier is trained on observations of the attacker's own pictures.
    """

    name, knows, guesses, views = "read", "pairs and their classes", "class", PICTURE_VIEWS

    def make(self) -> nn.Module:
        return SmallCNN(self.observer.pair.target.num_classes, self.effort.reader)

    def fit(self, pairs: Pairs) -> None:
        """Train the classifier. Raises UsageError if `pairs` has no labels."""
        if pairs.labels is None:
            raise UsageError(f"attacker {self.name!r} needs pairs whose classes are known: source 'same'")
        with seeded(self.seed):
            self.network = self.make().to(self.device)

        def loss(seen: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.network(seen).float(), labels)

        passes, rate = self._schedule()
        learn(self.network, loss, (pairs.observed.seen, pairs.labels), passes, rate=rate, seed=self.seed, tick=self.tick)

    def _schedule(self) -> tuple[int, float]:
        return self.effort.passes, RATE

    def guess(self, observed: Observed) -> Tensor:
        return run(self.network, self.device, observed.seen)


class Retrain(Read):
    """Predicts the class with a copy of the auxiliary model, which is fine-tuned on protected pictures."""

    name, knows = "retrain", "pairs and their classes, the auxiliary model"

    def make(self) -> nn.Module:
        """Return a trainable copy of the auxiliary model, without dropout.

        Dropout would draw from torch's random generator, which all threads share.
        """
        made = copy.deepcopy(self.observer.pair.auxiliary).requires_grad_(True)
        for layer in made.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        return made

    def _schedule(self) -> tuple[int, float]:
        return self.effort.passes // 4, RATE / 8

    def cost(self, n: int) -> int:
        return self.effort.passes // 4  # each image takes four times as long as in a `SmallCNN`


class Replay(Attacker):
    """Identifies the observed picture among pictures that the attacker knows.

    The attacker sends each known picture through the edge `effort.sends` times. The guess is the known picture whose mean view
    is nearest to the observation. A random component in the generator makes each view different. The mean over many views
    suppresses this component.
    """

    name, knows, guesses = "replay", "the pictures among which the observed one is", "which"

    def cost(self, n: int) -> int:
        return 0

    def fit(self, pairs: Pairs) -> None:
        """Store the mean view of each known picture over all sends. The known pictures are those of `pairs`."""
        for _ in self.sending(pairs):
            pass

    def sending(self, pairs: Pairs) -> Iterator[int]:
        """Send the known pictures repeatedly. After each send, yield how often each picture has been sent.

        For each picture, the attacker keeps the mean of the observations so far.
        """
        self.known = pairs.observed.seen.flatten(1)
        yield 1
        for send in range(2, self.sends + 1):
            again = self.observer.observe(pairs.images, pairs.observed.view).seen.flatten(1)
            self.known = self.known + (again - self.known) / send
            yield send

    @property
    def sends(self) -> int:
        """The number of sends of each known picture. It is 1 if the generator has no random component."""
        return self.effort.sends if self.observer.pair.generator.noise else 1

    def guess(self, observed: Observed) -> Tensor:
        (first, which), (first_known, which_known) = observed.distinct, distinct(self.known + 0.0)  # -0 becomes 0
        seen, known = observed.seen[first].flatten(1).double(), self.known[first_known].double()
        likeness = -torch.cdist(seen, known, compute_mode="use_mm_for_euclid_dist")  # 20 times as fast, and exact in 64 bits
        return likeness[which][:, which_known]


KINDS = (Undo, Inversion, Prior, Optimise, LatentPrior, DiffusionPrior, Read, Retrain, Replay)
ATTACKERS: dict[str, type[Attacker]] = {each.name: each for each in KINDS}
