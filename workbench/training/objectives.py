"""What is learnt: the losses of classifier, generator and compressor. To add a loss, write an Objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import metrics
from ..errors import UsageError, unknown
from ..models import Classifier, NeuralCompressor, PerturbationGenerator

from compressai.ops import LowerBound  # isort: skip  (after models, which makes torchvision importable)

__all__ = [
    "ClassifierObjective",
    "CompressorLoss",
    "CompressorObjective",
    "GeneratorLoss",
    "GeneratorObjective",
    "Objective",
]


@dataclass(frozen=True)
class GeneratorLoss:
    """CE(target(x'), y) - auxiliary term + ssim_weight * SSIM(x, x')   (PP, section 4).

    `auxiliary`: `unbounded` is the paper's CE(auxiliary(x'), y), which has no lower bound and fights the target's term;
    `bounded` stops each image's at 2.5 (a uniform guess over ten classes has 2.30). `ssim`: `signed` is the paper's, which
    rewards inverted contrast; `absolute` takes the magnitude.
    """

    auxiliary: str = "unbounded"
    ssim: str = "signed"
    ssim_weight: float = 0.5
    cap: float = 2.5

    def __post_init__(self) -> None:
        if self.auxiliary not in ("unbounded", "bounded"):
            raise unknown("auxiliary term", self.auxiliary, ("unbounded", "bounded"))
        if self.ssim not in ("signed", "absolute"):
            raise unknown("SSIM term", self.ssim, ("signed", "absolute"))
        if self.ssim_weight < 0:
            raise UsageError(f"the SSIM weight must not be negative, got {self.ssim_weight}")


@dataclass(frozen=True)
class CompressorLoss:
    """bits per pixel + weight * distortion.

    `rate-distortion`: the mean squared error between the protected image and its reconstruction, on the scale of 255 (the
    paper's; PMC², section 3.3). `rate-accuracy`: the target's cross-entropy on the reconstruction, which the paper calls right
    and leaves undone. A weight of None stands for the default of each.
    """

    kind: str = "rate-distortion"
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in DISTORTION_WEIGHTS:
            raise unknown("compressor loss", self.kind, DISTORTION_WEIGHTS)
        if self.weight is None:
            object.__setattr__(self, "weight", DISTORTION_WEIGHTS[self.kind])


DISTORTION_WEIGHTS = {"rate-distortion": 1e-4, "rate-accuracy": 0.3}


class Objective(nn.Module):
    """A network and its loss: forward(images, labels) -> (loss, figures by name). `network` is what is learnt and kept."""

    network: nn.Module

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups; `scale` multiplies the learning rate."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad], "scale": 1.0}]

    def before_validation(self) -> None:
        """Bring the network into the state in which it will be used."""


class ClassifierObjective(Objective):
    """Cross-entropy."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the share of images recognised."""
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        return loss, {"accuracy": _share(logits, labels)}


class GeneratorObjective(Objective):
    """The protective perturbation's loss; target and auxiliary stay frozen, in eval mode.

    Where target and auxiliary are the same model, the auxiliary term is dropped (PP, section 4).
    """

    def __init__(
        self, generator: PerturbationGenerator, target: Classifier, auxiliary: Classifier, loss: GeneratorLoss
    ) -> None:
        super().__init__()
        self.network, self.loss = generator, loss
        self.target = target.requires_grad_(False)
        self.auxiliary = None if auxiliary.name == target.name else auxiliary.requires_grad_(False)

    def train(self, mode: bool = True) -> GeneratorObjective:
        """Set the generator's mode; the classifiers' stays."""
        super().train(mode)
        for frozen in (self.target, self.auxiliary):
            if frozen is not None:
                frozen.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; accuracy of target and auxiliary on the protected images, SSIM and |SSIM|."""
        protected = self.network(images)
        logits = self.target(protected)
        with torch.autocast(images.device.type, enabled=False):
            similarity = metrics.ssim(images.float(), protected.float())
        term = similarity.abs() if self.loss.ssim == "absolute" else similarity
        loss = F.cross_entropy(logits, labels) + self.loss.ssim_weight * term.mean()
        figures = {"accuracy": _share(logits, labels), "ssim": similarity.mean(), "abs_ssim": similarity.abs().mean()}
        if self.auxiliary is not None:
            other = self.auxiliary(protected)
            entropy = F.cross_entropy(other, labels, reduction="none")
            loss = loss - (entropy.clamp(max=self.loss.cap) if self.loss.auxiliary == "bounded" else entropy).mean()
            figures["auxiliary"] = _share(other, labels)
        return loss, figures


class CompressorObjective(Objective):
    """Rate + distortion, or rate + cross-entropy of the target, on images that the frozen generator protects."""

    def __init__(
        self, compressor: NeuralCompressor, generator: PerturbationGenerator, target: Classifier, loss: CompressorLoss
    ) -> None:
        super().__init__()
        self.network = self.compressor = compressor
        self.loss = loss
        compressor.entropy_bottleneck.quantiles.requires_grad_(False)
        self.zero = LowerBound(0)
        self.generator, self.target = generator.requires_grad_(False), target.requires_grad_(False)

    def spread(self, images: Tensor) -> None:
        """Scale the last layer of g_a so that latents of `images` have unit variance: as initialised all round to zero."""
        layer = self.compressor.g_a[-1]
        with torch.no_grad():
            deviation = self.compressor.g_a(self.generator.eval()(images)).std()
            layer.weight.div_(deviation)
            layer.bias.div_(deviation)

    def train(self, mode: bool = True) -> CompressorObjective:
        """Set the compressor's mode; the others' stays."""
        super().train(mode)
        self.generator.eval()
        self.target.eval()
        return self

    def groups(self) -> list[dict[str, Any]]:
        """Let the entropy model learn twenty times faster: its rate falls last. Its quantiles are solved, not learnt."""
        entropy = [p for p in self.compressor.entropy_bottleneck.parameters() if p.requires_grad]
        known = {id(p) for p in entropy}
        rest = [p for p in self.network.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": rest, "scale": 1.0}, {"params": entropy, "scale": 20.0}]

    def before_validation(self) -> None:
        """Solve the quantiles for the learnt distributions and make the integer tables from them."""
        self.compressor.update(force=True, update_quantiles=True)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; bits an image by the entropy model, MSE, and the target's accuracy on the reconstruction."""
        task = self.loss.kind == "rate-accuracy"
        with torch.no_grad():
            images = self.generator(images)
        with torch.autocast(images.device.type, enabled=False):  # the entropy model's logits need 32 bits
            x_hat, likelihoods = self._code(images.float(), straight=task and self.training)
        bits = -likelihoods.log2().sum() / len(images)
        mse = F.mse_loss(x_hat, images)
        figures = {"bits": bits, "mse": mse}
        distortion = 255**2 * mse
        if task or not self.training:
            logits = self.target(_clamp(x_hat, self.zero))
            figures["accuracy"] = _share(logits, labels)
            if task:
                distortion = F.cross_entropy(logits, labels)
        assert self.loss.weight is not None
        return bits / images[0, 0].numel() + self.loss.weight * distortion, figures

    def _code(self, images: Tensor, straight: bool) -> tuple[Tensor, Tensor]:
        """Return x_hat and the likelihoods of y.

        CompressAI trains on latents with noise. Near one bit an image the noise deceives: shifts far below a rounding step,
        spread over hundreds of latents, carry the label through it and are all rounded away later. `straight` decodes what
        will be sent, the rounded latents, with the gradient passed straight through; the rate still sees noise (Minnen and
        Singh 2020).
        """
        if not straight:
            out = self.compressor(images)
            return out["x_hat"], out["likelihoods"]["y"]
        bottleneck = self.compressor.entropy_bottleneck
        y = self.compressor.g_a(images)
        _, likelihoods = bottleneck(y)
        medians = bottleneck.quantiles[:, :, 1:2].detach().reshape(1, -1, 1, 1)
        y_hat = y + (bottleneck.quantize(y, "dequantize", medians) - y).detach()
        return self.compressor.g_s(y_hat), likelihoods


def _clamp(x: Tensor, bound: LowerBound) -> Tensor:
    """Clamp to [0, 1]; pixels outside still learn, but only inwards."""
    inside: Tensor = 1 - bound(1 - bound(x))
    return inside


def _share(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()
