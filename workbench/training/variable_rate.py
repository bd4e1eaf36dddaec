"""The loss of a compressor with many rates, for every strength of the perturbation.

Rate 0 keeps the label only. Higher rates keep more of the picture. A stop is one of the S discrete rates (see `rates`). Stop 0
is rate 0, which codes only the first latent channels. These channels carry the label.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..classifiers import Classifier
from ..models import NeuralCompressor, PerturbationGenerator
from ..rates import LABEL_CHANNELS
from .compression import CompressorLoss, CompressorObjective, WithReader
from .objectives import clamp_inwards, share
from .protection import CAP

__all__ = ["VariableRateObjective"]

READ, SMOOTHING = 0.5, 0.1  # weight of the reader's cross-entropy, and its label smoothing

LABELS = 0.35  # share of training images at stop 0
ENDS = 1.5  # strengths are drawn from an interval of this length and clamped to [0, 1]: 0 and 1 are frequent
PICTURE_WEIGHT = 0.02  # weight of the squared error (scale of 255) at the last stop, in bits a pixel
RECOGNISED = 4.0  # factor of the cross-entropy above stop 0, where the squared error would outweigh it
SPREAD, PICTURE_SPREAD = 1.5, 0.75  # initial standard deviations: the label's latents (in steps of stop 0), other latents
MARGIN = 1.5  # range of the tables, as a multiple of the latents' observed range


class LabelledCompressor(WithReader):
    def __init__(self, compressor: NeuralCompressor, classes: int) -> None:
        super().__init__(LABEL_CHANNELS, classes)
        self.compressor = compressor


class VariableRateObjective(CompressorObjective):
    """The loss of a compressor with many rates. Each image has a random stop and strength.

    ::

        loss = rate + w * (CE(target) - a * CE(auxiliary)) + v * squared error + CE(reader(y)) / 2

        x -> x + a (G(x) - x) -> g_a -> y -> round at stop s -> g_s -> x_hat        a, s: drawn separately for each image
                                        `-> bits                   `-> target, auxiliary, squared error

    G is the generator, a the strength, g_a the compressor's encoder, y the latents, g_s the decoder. The reader is a linear
    classifier on the label's latents, which only helps the training. A stop is one of the S discrete rates. Its gain is the
    inverse of its quantisation step (see `rates`).

    The weight w is that of `loss`. Above stop 0, it is multiplied by `RECOGNISED`. CE(auxiliary) is limited to `CAP` nats an
    image, and its weight is the strength a. The weight v is 0 at stop 0. At higher stops v grows with the square of the gain,
    because finer steps have smaller errors (Kamisli et al. 2024).

    The error is measured against the image without the generator's random component, because coding that noise would waste
    bits. With `only`, all images have this stop, for comparison with the network for all stops.
    """

    def __init__(
        self,
        compressor: NeuralCompressor,
        generator: PerturbationGenerator,
        target: Classifier,
        loss: CompressorLoss,
        auxiliary: Classifier | None = None,
        only: int | None = None,
    ) -> None:
        super().__init__(compressor, generator, target, loss)
        self.auxiliary = None if auxiliary is None or auxiliary.name == target.name else auxiliary.requires_grad_(False)
        self.only = only
        self._validated = 0  # images of the present validation, whose batches share one sequence of strengths and stops
        self.network = self.labelled = LabelledCompressor(compressor, target.num_classes)
        gain = compressor.Gain
        weights = PICTURE_WEIGHT * (gain / gain[-1]).square()
        weights[0] = 0.0
        self.register_buffer("picture_weights", weights.detach(), persistent=False)

    picture_weights: Tensor

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Scale the encoder so that its latents of `images` start with suitable standard deviations.

        The label's latents start at `SPREAD` quantisation steps of stop 0. The other latents start at `PICTURE_SPREAD`.
        """
        compressor = self.compressor
        layer = compressor.g_a[-1]
        deviation = self._latents(images).transpose(0, 1).flatten(1).std(1)
        wanted = torch.full_like(deviation, PICTURE_SPREAD)
        wanted[:LABEL_CHANNELS] = SPREAD / compressor.Gain[0]
        layer.weight.mul_((wanted / deviation)[:, None, None, None])
        layer.bias.zero_()
        compressor.entropy_bottleneck.quantiles[:, :, 1] = 0

    def at(self, step: int, total: int) -> None:
        """Lower the weight of the cross-entropy during the first 60 % of the steps, from 10 times the final value."""
        self.ease = 10.0 ** max(0.0, 1 - step / max(round(0.6 * total), 1))

    def _draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        stops = self.compressor.stops
        if self.training:
            strengths = ((torch.rand(n, device=device) - 0.5) * ENDS + 0.5).clamp(0, 1)
            drawn = torch.randint(1, stops, (n,), device=device)
            chosen = torch.where(torch.rand(n, device=device) < LABELS, torch.zeros_like(drawn), drawn)
        else:
            rows = self._validated + torch.arange(n, device=device)
            self._validated += n
            strengths, chosen = rows % 5 / 4, rows // 5 % stops
        return strengths, chosen if self.only is None else torch.full_like(chosen, self.only)

    def parts(self) -> list[nn.Module]:
        return [self.compressor]

    def before_validation(self, images: Tensor) -> None:
        """Restart the sequence of strengths and rates, so that each validation uses the same ones.

        Entropy tables are not needed here. `finish` computes them after the training.
        """
        self._validated = 0

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures: bits per image, MSE, and accuracies of target and auxiliary on decoded images."""
        images = images.float()  # mixed precision passes bfloat16; the entropy model's logits need 32 bits
        strengths, stops = self._draw(len(images), images.device)
        with torch.no_grad():
            images, wanted = self._seen(images, strengths[:, None, None, None])
        with torch.autocast(images.device.type, enabled=False):
            x_hat, bits, y = self._code_at(images, stops)
            asked = F.cross_entropy(self.labelled.read(y), labels, label_smoothing=SMOOTHING if self.training else 0.0)
        errors = (x_hat - wanted).square().mean((1, 2, 3))
        decoded = clamp_inwards(x_hat)
        logits = self.target(decoded)
        figures = {"bits": bits.mean(), "mse": errors.mean(), "accuracy": share(logits, labels)}
        entropy = F.cross_entropy(logits, labels, reduction="none")
        if self.auxiliary is not None:
            other = self.auxiliary(decoded)
            entropy = entropy - strengths * F.cross_entropy(other, labels, reduction="none").clamp(max=CAP)
            figures["auxiliary"] = share(other, labels)
        assert self.loss.weight is not None
        weight = self.loss.weight * (self.ease if self.training else 1.0) * torch.where(stops > 0, RECOGNISED, 1.0)
        picture = self.picture_weights[stops] * 255**2 * errors
        return (bits / images[0, 0].numel() + weight * entropy + picture).mean() + READ * asked, figures

    def _seen(self, images: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
        noiseless = self.generator.noiseless(images)
        protected = self.generator.add_noise(noiseless, unforeseeable=False)
        return torch.lerp(images, protected, strengths), torch.lerp(images, noiseless, strengths)

    def _code_at(self, images: Tensor, stops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Code each image at its stop. Return the reconstructions, the bits of each image (N), and the latents.

        The decoder gets rounded latents, and the gradient passes straight through the rounding. The bits are those of latents
        with uniform noise, as in CompressAI. The label's latents are rounded instead, because noise is misleading there (see
        `JointObjective._code`).
        """
        compressor, bottleneck = self.compressor, self.compressor.entropy_bottleneck
        y = compressor.g_a(images)
        step = (1 / compressor.Gain[stops])[:, None, None, None].expand(len(y), y.shape[1], 1, 1).clone()
        step[:, :LABEL_CHANNELS] = 1 / compressor.Gain[0]
        label = torch.arange(y.shape[1], device=y.device)[:, None, None] < LABEL_CHANNELS
        rounded = y + (step * (y / step).round() - y).detach()
        y_hat = torch.where(label | (stops > 0)[:, None, None, None], rounded, torch.zeros_like(y))
        noisy = y + step * (torch.rand_like(y) - 0.5) if self.training else y_hat
        likelihoods = _likelihoods_at(bottleneck, torch.where(label, y_hat, noisy), step)
        sent = label | (stops > 0)[:, None, None, None]
        bits = -(likelihoods.log2() * sent).sum((1, 2, 3))
        return compressor.g_s(y_hat), bits, y

    @torch.no_grad()
    def finish(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Compute the coder's integer tables for every stop, and the patterns from which stop 0 chooses.

        A pattern is the rounded latents of a whole image. Return figures of the choices, named `..._in_sample`.
        """
        bottleneck, device = self.compressor.entropy_bottleneck, self.compressor.medians.device
        parts = [self.compressor.latents(self._at_strengths(part.to(device))) for part in torch.split(images, 256)]
        y = torch.cat(parts)
        reach = MARGIN * torch.stack([y.amin((0, 2, 3)), torch.zeros_like(y[0, :, 0, 0]), y.amax((0, 2, 3))], 1)
        bottleneck.quantiles.copy_(reach[:, None])
        self.compressor.update(force=True)
        return self._choose_patterns(y, labels.to(device))

    def _at_strengths(self, images: Tensor) -> Tensor:
        strengths = torch.linspace(0, 1, 5, device=images.device)[torch.arange(len(images), device=images.device) % 5]
        return torch.lerp(images, self._protect(images), strengths[:, None, None, None])


def _likelihoods_at(bottleneck: Any, values: Tensor, step: Tensor) -> Tensor:
    steps = step.expand(values.shape).transpose(0, 1).flatten(1)[:, None]
    flat = values.transpose(0, 1).flatten(1)[:, None]
    likelihoods: Tensor = bottleneck.likelihood_lower_bound(bottleneck._likelihood_variable(flat, qs=steps)[0])
    return likelihoods.view(values.shape[1], len(values), *values.shape[2:]).transpose(0, 1)
