"""What the perturbation generator learns: the papers' loss, terms that hide a picture, and a start for its encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import legibility, metrics
from ..classifiers import Classifier
from ..errors import UsageError, unknown
from ..models import PerturbationGenerator, check_strength
from .objectives import Objective, share
from .recovery import recovered

__all__ = ["CAP", "EncoderObjective", "GeneratorLoss", "GeneratorObjective"]

SSIM_TERMS = ("signed", "absolute")
CAP = 2.5  # of a bounded auxiliary term; a uniform guess over ten classes has 2.30


@dataclass(frozen=True)
class GeneratorLoss:
    """CE(target(x'), y) - auxiliary term + ssim_weight * SSIM(x, x') + eye_weight * E(x, x') + recovery_weight * R(x, x').

    The first three terms are PP's (section 4). `auxiliary`: `unbounded` is the paper's CE(auxiliary(x'), y), which has no lower
    bound and fights the target's term; `bounded` stops each image's at 2.5 (a uniform guess over ten classes has 2.30).
    `ssim`: `signed` is the paper's, which rewards inverted contrast; `absolute` takes the magnitude.

    SSIM alone hides no picture: a fine checkerboard or opposite colour channels bring it to zero and leave the picture legible.
    E is what a glance reads: the mean |SSIM| of single channels and edges, plus the correlation of the best colour mix (see
    `legibility`). R is what an attacker in closed form recovers beyond the label, a share from 0 to 1 (see `recovered`).
    The papers have neither.
    """

    auxiliary: str = "unbounded"
    ssim: str = "signed"
    ssim_weight: float = 0.5
    cap: float = CAP
    eye_weight: float = 0.0
    recovery_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.auxiliary not in ("unbounded", "bounded"):
            raise unknown("auxiliary term", self.auxiliary, ("unbounded", "bounded"))
        if self.ssim not in SSIM_TERMS:
            raise unknown("SSIM term", self.ssim, SSIM_TERMS)
        weights = {"SSIM": self.ssim_weight, "legibility": self.eye_weight, "recovery": self.recovery_weight}
        for term, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"the {term} weight must be a number from 0 up, got {weight}")


class ReadGenerator(nn.Module):
    """A generator with a linear reader of the deepest features of its U-Net; the reader is not kept."""

    def __init__(self, generator: PerturbationGenerator, classes: int) -> None:
        super().__init__()
        self.generator = generator
        self.reader = nn.Linear(16 * generator.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """N x 3 x H x W -> logits N x K."""
        logits: Tensor = self.reader(self.generator.features(images).amax((2, 3)))
        return logits


def learn_apart_from_encoder(generator: PerturbationGenerator) -> PerturbationGenerator:
    """Let the expanding half of a generator learn alone: what the contracting half knows of the classes is not forgotten."""
    unet = generator.requires_grad_(True).unet
    for part in (unet.inc, unet.d1, unet.d2, unet.d3, unet.d4):
        part.requires_grad_(False)
    return generator


class EncoderObjective(Objective):
    """A start for a generator: its contracting half learns by cross-entropy to tell the classes apart.

    Which class a picture shows is what generator and encoder together must write into a few bits; through the loss of a frozen
    target they learn it slowly, at ten times the cost of an image. It depends on no classifier: one start serves all pairs.
    """

    def __init__(self, generator: PerturbationGenerator, classes: int, smoothing: float = 0.0) -> None:
        super().__init__()
        self.generator, self.smoothing = generator, smoothing
        self.network = ReadGenerator(generator, classes)
        for part in (generator.unet.u1, generator.unet.u2, generator.unet.u3, generator.unet.u4, generator.unet.outc):
            part.requires_grad_(False)

    def parts(self) -> list[nn.Module]:
        """Return the generator."""
        return [self.generator]

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the share of images recognised."""
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return loss, {"accuracy": share(logits, labels)}


class GeneratorObjective(Objective):
    """The protective perturbation's loss; target and auxiliary stay frozen, in eval mode.

    Where target and auxiliary are the same model, the auxiliary term is dropped (PP, section 4). `strength` is the one at which
    the generator will be used; the papers know 1 alone.
    """

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
        self.network, self.loss, self.strength = generator, loss, strength
        self.target = target.requires_grad_(False)
        self.auxiliary = None if auxiliary.name == target.name else auxiliary.requires_grad_(False)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; accuracy of target and auxiliary on the protected images, SSIM and |SSIM|."""
        return self.judge(images, self.network(images, self.strength), labels)

    def judge(
        self, images: Tensor, protected: Tensor, labels: Tensor, decoded: Tensor | None = None, every: int = 1
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of protected images, and that of what the cloud decodes of them, added up; figures of the latter.

        The auxiliary is shown every `every`-th picture.
        """
        shown = protected if decoded is None else torch.cat([protected, decoded])
        copies, n = len(shown) // len(images), len(images)
        truth = labels.repeat(copies)
        logits = self.target(shown)
        with torch.autocast(images.device.type, enabled=False):
            similarity = metrics.ssim(images.float(), protected.float())
        term = similarity.abs() if self.loss.ssim == "absolute" else similarity
        loss = copies * F.cross_entropy(logits, truth) + self.loss.ssim_weight * term.mean()
        hidden, shows = self._shown(images, protected, labels)
        loss = loss + hidden
        figures = {
            "accuracy": share(logits[-n:], labels),
            "ssim": similarity.mean(),
            "abs_ssim": similarity.abs().mean(),
            **shows,
        }
        if self.auxiliary is not None:
            other, truth = self.auxiliary(shown[::every]), truth[::every]
            entropy = F.cross_entropy(other, truth, reduction="none")
            entropy = entropy.clamp(max=self.loss.cap) if self.loss.auxiliary == "bounded" else entropy
            loss = loss - copies * entropy.mean()
            first = -(-(len(shown) - n) // every)  # of the latter
            figures["auxiliary"] = share(other[first:], truth[first:])
        return loss, figures

    def _shown(self, images: Tensor, protected: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss's terms of what an eye and a regression get of the protected images, and their values."""
        loss, figures = images.new_zeros(()), {}
        if self.loss.eye_weight:
            with torch.autocast(images.device.type, enabled=False):
                views = legibility.similarities(images.float(), protected.float())
                mixed = legibility.correlations(images.float(), protected.float())
            figures = {"views": torch.stack(list(views.values())).mean(), "colour_correlation": mixed.mean()}
            loss = loss + self.loss.eye_weight * (figures["views"] + figures["colour_correlation"])
        if self.loss.recovery_weight:
            figures["recovery"] = recovered(protected, images, labels)
            loss = loss + self.loss.recovery_weight * figures["recovery"]
        return loss, figures
