"""What the perturbation generator learns: the papers' loss, its bounded form, and a start for its contracting half."""

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
    """CE(target(x'), y) - auxiliary term + ssim_weight * SSIM(x, x') + eye_weight * eye(x, x')   (PP, section 4, and the eye).

    `auxiliary`: `unbounded` is the paper's CE(auxiliary(x'), y), which has no lower bound and fights the target's term;
    `bounded` stops each image's at 2.5 (a uniform guess over ten classes has 2.30). `ssim`: `signed` is the paper's, which
    rewards inverted contrast; `absolute` takes the magnitude. Neither hides a picture by itself: a fine checkerboard or
    opposite colour channels bring SSIM to zero and leave it legible. `eye` therefore adds up what a person could read: the
    mean |SSIM| of single channels and edges, and the correlation of the best colour mix (see `legibility`). The papers have 0.
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
        if not (math.isfinite(self.ssim_weight) and self.ssim_weight >= 0):
            raise UsageError(f"the SSIM weight must be a number from 0 up, got {self.ssim_weight}")
        if not (math.isfinite(self.eye_weight) and self.eye_weight >= 0):
            raise UsageError(f"the weight of what an eye reads must be a number from 0 up, got {self.eye_weight}")


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
        means: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_strength(strength)
        self.register_buffer("means", means, persistent=False)
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
        eye = {}
        if self.loss.eye_weight:
            with torch.autocast(images.device.type, enabled=False):
                views = legibility.similarities(images.float(), protected.float())
                eye = {"views": torch.stack(list(views.values())).mean(), "read": legibility.correlations(images.float(), protected.float()).mean()}
            loss = loss + self.loss.eye_weight * (eye["views"] + eye["read"])
        if self.loss.recovery_weight:
            eye["recovered"] = recovered(protected, images - self.means[labels])
            loss = loss + self.loss.recovery_weight * eye["recovered"]
        figures = eye | {"accuracy": share(logits[-n:], labels), "ssim": similarity.mean(), "abs_ssim": similarity.abs().mean()}
        if self.auxiliary is not None:
            other, truth = self.auxiliary(shown[::every]), truth[::every]
            entropy = F.cross_entropy(other, truth, reduction="none")
            entropy = entropy.clamp(max=self.loss.cap) if self.loss.auxiliary == "bounded" else entropy
            loss = loss - copies * entropy.mean()
            first = -(-(len(shown) - n) // every)  # of the latter
            figures["auxiliary"] = share(other[first:], truth[first:])
        return loss, figures
