"""Adversarial training: a generator protects images, and an inversion network (the adversary) tries to recover them."""

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

__all__ = ["AdversarialObjective", "Defence", "class_means", "labelled_unet", "with_labels"]

WARM_UP = 0.1  # share of the steps over which the adversarial term's weight increases
PACE = 4.0  # ratio of the adversary's learning rate to the generator's
TURNS = 3  # steps in a cycle, one of which trains the generator: a slow adversary would be too weak


@dataclass(frozen=True)
class Defence:
    """The options of a generator's training against an inversion network, the adversary.

    `weight` is the weight of the adversarial term (see `AdversarialObjective`). With a weight of 0, there is no adversary.
    `noise` is the standard deviation of the generator's random component (None: the preset's). `strength`, in [0, 1], is the
    share of the perturbation that is applied to images in training. `width` is the number of channels of the adversary's first
    layer.
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
    """Return the mean image of each class, K x 3 x H x W in [0, 1].

    For an attacker that knows only the label, this mean is the guess with the least MSE.
    """
    return torch.stack([to_float(split.images[split.labels == k]).mean(0) for k in range(classes)])


def labelled_unet(width: int, classes: int) -> UNet:
    """Return a U-Net whose input is an image with its label, such as an inversion network.

    Inputs are N x (3 + `classes`) x H x W (see `with_labels`), and outputs N x 3 x H x W. The first layer has `width` channels.
    """
    unet = UNet(width)
    first = unet.inc.f[0]
    assert isinstance(first, nn.Conv2d)
    unet.inc.f[0] = nn.Conv2d(3 + classes, first.out_channels, 3, padding=1)
    return unet


def with_labels(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Append one-hot labels as constant channels to images N x 3 x H x W. Return N x (3 + `classes`) x H x W."""
    channels = F.one_hot(labels, classes).to(images)[:, :, None, None].expand(-1, -1, *images.shape[-2:])
    return torch.cat([images, channels], 1)


class _Contest(nn.Module):
    def __init__(self, generator: PerturbationGenerator, inverter: nn.Module) -> None:
        super().__init__()
        self.generator, self.inverter = generator, inverter


class AdversarialObjective(Objective):
    """The loss of a generator against an inversion network I, the adversary.

    ::

        loss = generator's loss + weight * max(0, R)                R = 1 - MSE(x'', x) / MSE(m, x)
        x -> generator (+ noise) -> x' -> m + I(x', y) -> x''

    R is the share of the image that the adversary recovers beyond the label. m is the mean image of x's class y. We assume that
    attackers know the label. So the adversary gets the label, too, and predicts only the difference between x and m.

    In every three steps, two train the adversary on the generator's output, and one trains the generator. A negative R counts
    as zero, because the adversary is then worse than the guess m. A still larger error would not protect against other
    attackers. (Inversion networks: He et al. 2019. The game: Goodfellow et al. 2014.)
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
        adversary = labelled_unet(defence.width, len(means))
        self.network = self.contest = _Contest(generator, adversary)
        self.weight, self.ramp, self.attacks = defence.weight, 1.0, False
        self.register_buffer("means", means, persistent=False)

    means: Tensor

    def parts(self) -> list[nn.Module]:
        return [self.contest.generator]

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters of both networks, with a higher learning rate for the adversary.

        So the adversary can follow the changes of the generator.
        """
        generator = [p for p in self.contest.generator.parameters() if p.requires_grad]
        return [
            {"params": generator, "scale": 1.0},
            {"params": list(self.contest.inverter.parameters()), "scale": PACE},
        ]

    def at(self, step: int, total: int) -> None:
        """Select the network that this step trains, and increase the adversarial term's weight gradually."""
        self.protection.at(step, total)
        self.attacks = step % TURNS != 0
        self.turn = "adversary" if self.attacks else "generator"
        self.ramp = min(1.0, step / max(1.0, WARM_UP * total))

    def recovered(self, protected: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the share R that the inversion network recovers from `protected` beyond the label, a scalar of at most 1.

        `images` are the originals of `protected`.
        """
        means = self.means[labels]
        residual = self.contest.inverter(with_labels((protected - 0.5) * 4, labels, len(self.means)))
        with torch.autocast(images.device.type, enabled=False):
            return 1 - F.mse_loss(means + residual.float(), images) / F.mse_loss(means, images)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the figures of the network that this step trains (in evaluation: of the generator)."""
        images = images.float()  # mixed precision passes bfloat16
        if self.training and self.attacks:
            with torch.no_grad():
                protected, _ = self.protection.protect(images)
            share = self.recovered(protected, images, labels)
            return -share, {"recovered": share}
        protected, noiseless = self.protection.protect(images)
        loss, figures = self.protection.judge(images, protected, labels, every=2 if self.training else 1, noiseless=noiseless)
        inverter = self.contest.inverter.requires_grad_(False)
        share = self.recovered(protected, images, labels)
        inverter.requires_grad_(True)
        return loss + self.weight * self.ramp * share.clamp_min(0), {**figures, "recovered": share}
