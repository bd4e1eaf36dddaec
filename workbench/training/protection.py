"""The generator's loss: the terms of the paper PP (MMSys '22), and terms that hide the picture. The U-Net's pretraining."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import legibility, metrics
from ..classifiers import Classifier
from ..errors import UsageError, unknown
from ..models import PerturbationGenerator, check_strength
from .leakage import leakage
from .objectives import Objective, decayed_apart, share

__all__ = ["CAP", "EncoderObjective", "GeneratorLoss", "GeneratorObjective", "learn_from_deepest"]

SSIM_TERMS = ("signed", "absolute")
CAP = 2.5  # limit of a bounded auxiliary term; a uniform guess over ten classes has 2.30 nats
# The terms that hide a picture are zero below these limits. Smaller values are noise, and reducing them costs accuracy.
VIEW, COLOUR, NATS = 0.015, 0.08, 2.0
WHOLE = 1 / 2  # share of images at strength 1, if the generator learns every strength
FIRST = 0.1  # initial share of the leakage term's weight, which grows to 1 during training


@dataclass(frozen=True)
class GeneratorLoss:
    """The terms and weights of the generator's loss.

    ::

        CE(target(x'), y) - auxiliary term + ssim_weight * SSIM(x, x') + eye_weight * E(x, x') + leakage_weight * L

    x is an image, x' its protected form, y its label. The first three terms are those of PP (section 4).

    `auxiliary` selects the auxiliary term. `unbounded` is the paper's CE(auxiliary(x'), y), which can grow without limit and
    outweigh the target's term. `bounded` limits this term to `cap` nats an image (a uniform guess over ten classes has 2.30).
    `ssim` selects the SSIM term. `signed` is the paper's SSIM, which rewards inverted contrast. `absolute` is |SSIM|.

    The papers have neither E nor L. SSIM alone does not hide a picture: with a fine checkerboard or opposite colour channels,
    SSIM is zero, but the picture stays legible. E measures legibility as a sum of two terms (see `legibility`). One is the
    excess of |SSIM| over 0.015, for single channels and for edges. The other is the excess of the best colour mix's correlation
    over 0.08.

    L is max(0, log((1 + b) / 3)). b is an upper bound, in nats, on any attacker's information beyond the class (see `leakage`).
    L is zero for b up to 2. At b = 0, a generator draws the same picture for all images of a class.

    With `every_strength`, the target's term in training uses x + a (x' - x) in place of x'. At each step, a is drawn for each
    image: it is 1 with probability 1/2, else uniform in [0, 1]. All other terms use x'.
    """

    auxiliary: str = "unbounded"
    ssim: str = "signed"
    ssim_weight: float = 0.5
    cap: float = CAP
    eye_weight: float = 0.0
    leakage_weight: float = 0.0
    every_strength: bool = False

    def __post_init__(self) -> None:
        if self.auxiliary not in ("unbounded", "bounded"):
            raise unknown("auxiliary term", self.auxiliary, ("unbounded", "bounded"))
        if self.ssim not in SSIM_TERMS:
            raise unknown("SSIM term", self.ssim, SSIM_TERMS)
        weights = {"SSIM": self.ssim_weight, "legibility": self.eye_weight, "leakage": self.leakage_weight}
        for term, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"the {term} weight must be a number from 0 up, got {weight}")


class ReadGenerator(nn.Module):
    """A generator with a linear classifier on its U-Net's deepest features, for pretraining. The classifier is not saved."""

    def __init__(self, generator: PerturbationGenerator, classes: int, unpadded: bool = False) -> None:
        super().__init__()
        self.generator, self.unpadded = generator, unpadded
        for pool in generator.modules() if unpadded else ():
            if isinstance(pool, nn.MaxPool2d):
                pool.ceil_mode = True
        self.reader = nn.Linear(16 * generator.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.reader(self.generator.features(images, padded=not self.unpadded).amax((2, 3)))
        return logits


def learn_apart_from_encoder(generator: PerturbationGenerator) -> PerturbationGenerator:
    """Freeze the contracting half of a generator's U-Net, and unfreeze all other parameters. Return the generator."""
    unet = generator.requires_grad_(True).unet
    for part in (unet.inc, unet.d1, unet.d2, unet.d3, unet.d4):
        part.requires_grad_(False)
    return generator


def learn_from_deepest(generator: PerturbationGenerator) -> PerturbationGenerator:
    """Disable the skip connections of a generator's U-Net, and return the generator.

    The U-Net's expanding half then gets only the deepest features. Through skip connections every pixel would reach the output.
    The architecture does not change: the weights for the skipped features are set to zero and stay zero.
    """
    unet = generator.unet
    for up in (unet.u1, unet.u2, unet.u3, unet.u4):
        layer = up.conv.f[0]
        assert isinstance(layer, nn.Conv2d)
        skipped = layer.in_channels // 2  # the skip comes first
        with torch.no_grad():
            layer.weight[:, :skipped] = 0
        layer.weight.register_hook(partial(_without, channels=skipped))  # type: ignore[no-untyped-call]
    return generator


def _without(gradient: Tensor, channels: int) -> Tensor:
    gradient = gradient.clone()
    gradient[:, :channels] = 0
    return gradient


class EncoderObjective(Objective):
    """The loss of a generator's pretraining: the U-Net's contracting half learns to classify by cross-entropy.

    Without pretraining, a generator learns the classes through a frozen target. That is slow, and each image costs ten times as
    much computation. The pretraining uses neither target nor auxiliary, so the generators of all pairs of a data set start from
    one result. With `unpadded`, smaller training images (progressive sizes) are not padded to multiples of 16.
    """

    def __init__(self, generator: PerturbationGenerator, classes: int, smoothing: float = 0.0, unpadded: bool = False) -> None:
        super().__init__()
        self.generator, self.smoothing = generator, smoothing
        self.network = ReadGenerator(generator, classes, unpadded)
        for part in (generator.unet.u1, generator.unet.u2, generator.unet.u3, generator.unet.u4, generator.unet.outc):
            part.requires_grad_(False)

    def parts(self) -> list[nn.Module]:
        return [self.generator]

    def groups(self) -> list[dict[str, Any]]:
        return decayed_apart(self.network)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return loss, {"accuracy": share(logits, labels)}


class GeneratorObjective(Objective):
    """The generator's loss (`GeneratorLoss`) with its networks. Target and auxiliary stay frozen, in eval mode.

    If target and auxiliary are the same model, the auxiliary term is dropped (PP, section 4). `strength` is the share of the
    perturbation that is applied in later use (1 in the papers). All terms except the leakage are computed at this strength.

    Raises UsageError for another strength than 1 if the loss has `every_strength`, and for a leakage term if the generator has
    no random component.
    """

    network: PerturbationGenerator

    def __init__(
        self,
        generator: PerturbationGenerator,
        target: Classifier,
        auxiliary: Classifier,
        loss: GeneratorLoss,
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        check_strength(strength)
        if loss.every_strength and strength != 1:
            raise UsageError(f"a loss for every strength is trained at strength 1, got {strength:g}: set every_strength=False")
        if loss.leakage_weight and not generator.noise:
            raise UsageError("the leakage is bounded by the generator's random component: give one with --noise above 0")
        self.network, self.loss, self.strength = generator, loss, strength
        self.target = target.requires_grad_(False)
        self.auxiliary = None if auxiliary.name == target.name else auxiliary.requires_grad_(False)
        self.ramp = 1.0

    def at(self, step: int, total: int) -> None:
        self.ramp = max(FIRST, step / total)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures: accuracies of target and auxiliary, SSIM, |SSIM|, and the loss's further terms."""
        images = images.float()  # mixed precision passes bfloat16, which has fewer bits than a pixel
        protected, noiseless = self.protect(images)
        every = 2 if self.training and self.loss.leakage_weight else 1  # the papers' auxiliary gets every picture
        return self.judge(images, protected, labels, every=every, noiseless=noiseless)

    def protect(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the protected images at `self.strength`, and the protected images at strength 1 without the random component.

        If the network has no random component, the second result is None. The random component is drawn from torch's seeded
        random numbers. This holds in validation, too, so that trainings with equal seeds select equal checkpoints.
        """
        if not self.network.noise:
            return self.network(images, self.strength), None
        noiseless = self.network.noiseless(images)
        protected = self.network.add_noise(noiseless, unforeseeable=False)
        return torch.lerp(images, protected, self.strength), noiseless

    def judge(
        self,
        images: Tensor,
        protected: Tensor,
        labels: Tensor,
        decoded: Tensor | None = None,
        every: int = 1,
        noiseless: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and a dict of its terms and of the classifiers' accuracies.

        `decoded` are the images that a compressor decodes from `protected`, if any. The terms of target and auxiliary are then
        summed over protected and decoded images, and the accuracies are those on decoded images. All other terms use protected
        images only.

        To save time, the auxiliary's term and the |SSIM| of channels and edges use only one of `every` images. `noiseless` are
        the protected images at strength 1 without their random component (see `protect`).
        """
        loss, figures = self._recognised(images, protected, labels, decoded)
        similar, shows = self._shown(images, protected, every)
        loss = loss + similar
        shown = protected if decoded is None else torch.cat([protected, decoded])
        if self.auxiliary is not None:
            copies = len(shown) // len(images)
            other, truth = self.auxiliary(shown[::every]), labels.repeat(copies)[::every]
            entropy = F.cross_entropy(other, truth, reduction="none")
            entropy = entropy.clamp(max=self.loss.cap) if self.loss.auxiliary == "bounded" else entropy
            loss = loss - copies * entropy.mean()
            first = -(-(len(shown) - len(images)) // every)  # first row of the decoded images
            figures["auxiliary"] = share(other[first:], truth[first:])
        if self.loss.leakage_weight and noiseless is not None:
            figures["leakage"] = leakage(noiseless, labels, self.network.noise)
            excess = F.relu(figures["leakage"].log1p() - math.log1p(NATS))
            loss = loss + (self.ramp if self.training else 1.0) * self.loss.leakage_weight * excess
        return loss, {**figures, **shows}

    def _recognised(
        self, images: Tensor, protected: Tensor, labels: Tensor, decoded: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training and self.loss.every_strength:
            drawn = torch.rand(2, len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
            protected = torch.lerp(images, protected, torch.where(drawn[0] < WHOLE, 1.0, drawn[1]))
        shown = protected if decoded is None else torch.cat([protected, decoded])
        copies, n = len(shown) // len(images), len(images)
        logits = self.target(shown)
        loss = copies * F.cross_entropy(logits, labels.repeat(copies))
        figures = {"accuracy": share(logits[-n:], labels)}
        if self.loss.every_strength and not self.training:
            half = self.target(torch.lerp(images, protected, 0.5))
            loss = (loss + F.cross_entropy(half, labels)) / 2
            figures["accuracy_half_strength"] = share(half, labels)
        return loss, figures

    def _shown(self, images: Tensor, protected: Tensor, every: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = images.new_zeros(()), {}
        with torch.autocast(images.device.type, enabled=False):
            images, protected = images.float(), protected.float()
            if self.loss.ssim_weight or not self.training:
                similarity = metrics.ssim(images, protected)
                term = similarity.abs() if self.loss.ssim == "absolute" else similarity
                loss = loss + self.loss.ssim_weight * term.mean()
                figures = {"ssim": similarity.mean(), "abs_ssim": similarity.abs().mean()}
            if self.loss.eye_weight:
                views = torch.stack(
                    [each.mean() for each in legibility.similarities(images[::every], protected[::every]).values()]
                )
                colour = legibility.correlations(images, protected).mean()
                figures |= {"views": views.mean(), "colour_correlation": colour}
                loss = loss + self.loss.eye_weight * (F.relu(views - VIEW).mean() + F.relu(colour - COLOUR))
        return loss, figures
