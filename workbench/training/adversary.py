"""A generator that learns against whoever would undo it: min-max training with an inversion network, in turns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..classifiers import Classifier
from ..data import Split
from ..errors import UsageError
from ..models import PerturbationGenerator, UNet, check_strength
from ..pictures import to_float
from .objectives import Objective
from .protection import GeneratorLoss, GeneratorObjective

__all__ = ["AdversarialObjective", "Defence", "class_means"]

WARM_UP = 0.1  # of the steps, in which the adversary's term grows to its weight
PACE = 4.0  # of the adversary's learning rate, in the generator's
TURNS = 3  # one of which is the generator's: an adversary that lags behind lets pass what a fresh one finds


@dataclass(frozen=True)
class Defence:
    """What a generator learns beside its own loss: weight * what an inversion network recovers beyond the label.

    `noise` is the standard deviation of the generator's random component (see `PerturbationGenerator`; None: as it came),
    `strength` the one at which the generator will be used, `width` the inversion network's. A weight of 0 leaves the adversary
    away.
    """

    weight: float = 0.0
    noise: float | None = None
    strength: float = 1.0
    width: int = 16

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UsageError(f"the adversary's weight must be a number from 0 up, got {self.weight}")
        if self.noise is not None and not 0 <= self.noise <= 1:
            raise UsageError(f"the random component's standard deviation must be between 0 and 1, got {self.noise}")
        check_strength(self.strength)


def class_means(split: Split, classes: int) -> Tensor:
    """Return the mean image of each class, K x 3 x H x W in [0, 1]: what is known of a picture whose label is known."""
    return torch.stack([to_float(split.images[split.labels == k]).mean(0) for k in range(classes)])


class _Contest(nn.Module):
    """A generator and its adversary, as one network."""

    def __init__(self, generator: PerturbationGenerator, inverter: nn.Module) -> None:
        super().__init__()
        self.generator, self.inverter = generator, inverter


class AdversarialObjective(Objective):
    """generator's loss + weight * max(0, R), where R is the share that the inversion network I recovers beyond the label.

    ::

        x -> generator (+ noise) -> x' -> I -> x''       R = 1 - MSE(x'', x) / MSE(mean image of x's class, x)

    In turns: twice I learns to minimise its error on what the generator makes, then the generator, against I as it is. Below
    zero R counts for nothing: an adversary that does worse than who knows the label alone has learnt nothing, and driving its
    errors further only teaches the generator to deceive this one (He et al. 2019 invert by such networks; the game is that of
    Goodfellow et al. 2014, with reconstruction in the place of discrimination).
    """

    adversarial = True

    def __init__(
        self,
        generator: PerturbationGenerator,
        target: Classifier,
        auxiliary: Classifier,
        loss: GeneratorLoss,
        defence: Defence,
        means: Tensor,
    ) -> None:
        super().__init__()
        self.protection = GeneratorObjective(generator, target, auxiliary, loss, defence.strength)
        self.network = self.contest = _Contest(generator, UNet(defence.width))
        self.weight, self.ramp, self.attacks = defence.weight, 1.0, False
        self.register_buffer("means", means, persistent=False)

    means: Tensor

    def parts(self) -> list[nn.Module]:
        """Return the generator."""
        return [self.contest.generator]

    def groups(self) -> list[dict[str, Any]]:
        """Let the adversary learn faster: it must keep up."""
        generator = [p for p in self.contest.generator.parameters() if p.requires_grad]
        return [
            {"params": generator, "scale": 1.0},
            {"params": list(self.contest.inverter.parameters()), "scale": PACE},
        ]

    def at(self, step: int, total: int) -> None:
        """Take turns."""
        self.attacks = step % TURNS != 0
        self.ramp = min(1.0, step / max(1.0, WARM_UP * total))

    def recovered(self, protected: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return R of a batch."""
        guess = self.contest.inverter((protected - 0.5) * 4)
        with torch.autocast(images.device.type, enabled=False):
            return 1 - F.mse_loss(guess.float(), images) / F.mse_loss(self.means[labels], images)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of whose turn it is; in evaluation the generator's, with all figures and what is recovered."""
        if self.training and self.attacks:
            with torch.no_grad():
                protected = self.contest.generator(images, self.protection.strength)
            share = self.recovered(protected, images, labels)
            return -share, {"recovered": share}
        protected = self.contest.generator(images, self.protection.strength)
        loss, figures = self.protection.judge(images, protected, labels, every=2 if self.training else 1)
        inverter = self.contest.inverter.requires_grad_(False)
        share = self.recovered(protected, images, labels)
        inverter.requires_grad_(True)
        return loss + self.weight * self.ramp * share.clamp_min(0), {**figures, "recovered": share}
