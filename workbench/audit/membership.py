"""Membership inference by RMIA with shadow generators: whether a picture was among a generator's training images.

::

    p(x)    the confidence of the target, a generator's classifier, in the true label of the protected picture x
    ratio   p(x) of the audited generator / p(x) expected without training on x, estimated from shadow generators
    score   the share of reference pictures z whose ratio is below the ratio of x

Source: Zarifzadeh, Liu, Shokri, Low-Cost High-Power Membership Inference Attacks, ICML 2024 (offline form).

The attacker trains shadow generators, which imitate the audited generator. A shadow generator has few channels, and two small
classifiers of its own: a target and an auxiliary. Generator, target and auxiliary each learn from a different third of the
attacker's pictures. So the classifiers have not seen the pictures that train the shadow generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Split
from ..errors import UsageError
from ..metrics import Estimate, wilson
from ..models import PerturbationGenerator
from ..pictures import to_float
from ..training.protection import CAP
from .contract import Effort
from .networks import SmallCNN, learn, run, seeded

__all__ = ["FALSE_POSITIVES", "Shadow", "rmia", "true_positives"]

FALSE_POSITIVES = 0.001
WIDTH = 4  # channels of a shadow's generator
TOWARDS_ONE = 0.3  # RMIA's offline estimate of p(x) is ((1 + a) p_out + 1 - a) / 2; p_out: the shadows' mean


class Shadow:
    """A shadow: a small generator with its own target and auxiliary.

    `own` are the attacker's pictures, which train the three networks. `effort.passes` images train each network, repeats
    included. Raises UsageError for fewer than 3 pictures.
    """

    def __init__(
        self,
        own: Split,
        classes: int,
        effort: Effort,
        seed: int,
        device: torch.device,
        tick: Callable[[int], None] = lambda _: None,
    ) -> None:
        if len(own) < 3:
            raise UsageError(f"a shadow generator needs at least 3 pictures of the attacker's own, got {len(own)}")
        self.device = device
        rows = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
        self.rows = torch.tensor_split(rows, 3)  # rows for target, auxiliary and generator
        with seeded(seed):
            self.target, auxiliary = SmallCNN(classes, 8).to(device), SmallCNN(classes, 8).to(device)
            self.generator = PerturbationGenerator(WIDTH).to(device)
        for network, part in ((self.target, self.rows[0]), (auxiliary, self.rows[1])):
            data = (to_float(own.images[part]), own.labels[part])
            learn(network, _recognition(network), data, effort.passes, seed=seed, tick=tick)
            network.requires_grad_(False)

        def protection(images: Tensor, labels: Tensor) -> Tensor:
            protected = self.generator(images)
            hidden = F.cross_entropy(auxiliary(protected).float(), labels, reduction="none").clamp(max=CAP)
            return F.cross_entropy(self.target(protected).float(), labels) - hidden.mean()

        data = (to_float(own.images[self.rows[2]]), own.labels[self.rows[2]])
        learn(self.generator, protection, data, effort.passes, seed=seed, tick=tick)

    @staticmethod
    def cost(effort: Effort) -> int:
        """Return how many images the training of one shadow's three networks processes. Each use of an image counts."""
        return 3 * effort.passes

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Protect images, and return the confidence of the shadow's target in each label, N values in [0, 1]."""
        scores = run(lambda part: self.target(self.generator(part)).float().softmax(1), self.device, images)
        return scores.gather(1, labels[:, None])[:, 0]


def _recognition(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(images).float(), labels)

    return loss


def rmia(audited: Tensor, shadows: Tensor, references: Tensor, shadows_of_references: Tensor) -> Tensor:
    """Return the RMIA scores of N pictures, in [0, 1]. A high score suggests that the picture was a training image.

    All arguments are confidences p(x) (see the module). `audited` (N) and `references` (R) are those of the audited generator,
    for the N pictures and for R reference pictures. `shadows` (S x N) and `shadows_of_references` (S x R) are those of S
    shadow generators, for the same pictures. No shadow was trained on any of these pictures.
    """
    ratio, others = _ratio(audited, shadows), _ratio(references, shadows_of_references)
    ordered = others.sort().values
    below = torch.searchsorted(ordered, ratio.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, ratio.contiguous(), right=True)
    return (below + up_to).double() / (2 * len(others))  # a tie counts half


def _ratio(confidence: Tensor, shadows: Tensor) -> Tensor:
    out = shadows.double().mean(0)
    usual = ((1 + TOWARDS_ONE) * out + 1 - TOWARDS_ONE) / 2
    return confidence.double() / usual.clamp_min(1e-12)


def true_positives(members: Tensor, others: Tensor) -> Estimate:
    """Return the true-positive rate of a membership test: the share of members with a score above a threshold.

    `members` and `others` are scores of members and of non-members. At most one in 1,000 non-members exceeds the threshold.
    The interval is Wilson's. Raises UsageError if `members` or `others` is empty.
    """
    if not len(members) or not len(others):
        raise UsageError(f"a rate needs scores on both sides, got {len(members)} and {len(others)}")
    allowed = int(FALSE_POSITIVES * len(others))
    threshold = others.sort(descending=True).values[allowed]
    return wilson(int((members > threshold).sum()), len(members))
