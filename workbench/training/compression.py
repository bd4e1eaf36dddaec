"""The paper's loss of the compressor (rate + distortion), and a joint loss of compressor and generator (rate + recognition).

The compressor's encoder g_a maps an image to latents, which are rounded. Its decoder g_s maps rounded latents to an image. The
entropy model estimates the probability of each latent, which gives the rate in bits. A pattern is the rounded latents of a
whole image.

A reader is a linear classifier on latents. One reader is used in the training only. After the training, a second reader is
fitted and stored in the compressor. The compressor uses this second reader to choose patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _compat
from ..classifiers import Classifier
from ..entropy import learn_patterns
from ..errors import UsageError, unknown
from ..models import MULTIPLE, NeuralCompressor, PerturbationGenerator
from .objectives import Objective, clamp_inwards, share
from .protection import GeneratorLoss, GeneratorObjective, learn_apart_from_encoder, learn_from_deepest

with _compat.stub_unused_imports():
    from compressai.entropy_models import EntropyBottleneck

__all__ = ["CompressorLoss", "CompressorObjective", "JointNetwork", "JointObjective", "refit_entropy_model"]


@dataclass(frozen=True)
class CompressorLoss:
    """The compressor's loss: bits per pixel + weight * distortion. `kind` selects the distortion.

    `rate-distortion` is the paper's loss (PMC², section 3.3). Its distortion is the mean squared error between the protected
    image and its reconstruction, on the scale of 255.

    `rate-accuracy` is proposed in the paper, but not evaluated there. Its distortion is the target's cross-entropy on the
    reconstruction, minus the auxiliary's cross-entropy (at most 2.5 nats). A `weight` of None selects the default of the
    `kind`.
    """

    kind: str = "rate-distortion"
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in DISTORTION_WEIGHTS:
            raise unknown("compressor loss", self.kind, DISTORTION_WEIGHTS)
        if self.weight is None:
            object.__setattr__(self, "weight", DISTORTION_WEIGHTS[self.kind])
        if self.weight is None or not (math.isfinite(self.weight) and self.weight > 0):
            raise UsageError(f"the weight of a compressor's loss must be a number above 0, got {self.weight}")


DISTORTION_WEIGHTS = {"rate-distortion": 1e-4, "rate-accuracy": 0.15}


ACTIVE, EASE, COARSEN = 4, 10.0, 6.0  # see `JointObjective.initialise` and `JointObjective.at`


class CompressorObjective(Objective):
    """The paper's loss: bits per pixel + weight * squared error. The images are protected by a frozen generator."""

    def __init__(
        self,
        compressor: NeuralCompressor,
        generator: PerturbationGenerator,
        target: Classifier,
        loss: CompressorLoss,
    ) -> None:
        super().__init__()
        self.network = self.compressor = compressor
        self.loss, self.ease = loss, 1.0
        compressor.entropy_bottleneck.quantiles.requires_grad_(False)
        self.generator, self.target = generator.requires_grad_(False), target.requires_grad_(False)

    def _latents(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.compressor.g_a(self._protect(part)) for part in torch.split(images, 256)])

    def _protect(self, images: Tensor) -> Tensor:
        return self.generator.add_noise(self.generator.noiseless(images), unforeseeable=False)

    def groups(self) -> list[dict[str, Any]]:
        """Return two parameter groups. The entropy model learns twenty times as fast as the rest.

        The quantiles of the entropy model are not trained.
        """
        entropy = [p for p in self.compressor.entropy_bottleneck.parameters() if p.requires_grad]
        known = {id(p) for p in entropy}
        rest = [p for p in self.network.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": rest, "scale": 1.0}, {"params": entropy, "scale": 20.0}]

    def before_validation(self, images: Tensor) -> None:
        self.compressor.update(force=True, update_quantiles=True)

    @torch.no_grad()
    def finish(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Store the most frequent patterns of `images` and their counts in the compressor, for the codec."""
        self._learn_patterns(self._all_latents(images), least=2)
        return {}

    def _all_latents(self, images: Tensor) -> Tensor:
        device = self.compressor.medians.device
        return torch.cat([self.compressor.latents(self._protect(part.to(device))) for part in torch.split(images, 256)])

    def _learn_patterns(self, y: Tensor, least: int) -> None:
        compressor = self.compressor
        compressor.reader = compressor.reader.new_zeros(0, 0)  # without a reader, `quantise` rounds
        patterns, counts = learn_patterns(compressor.quantise(y).cpu().numpy(), least=least)
        compressor.patterns = torch.from_numpy(patterns).to(compressor.patterns)
        compressor.pattern_counts = torch.from_numpy(counts).to(compressor.pattern_counts)

    def _choose_patterns(self, y: Tensor, labels: Tensor) -> dict[str, float]:
        compressor = self.compressor
        # With few images, all patterns of a class may occur only once: keep patterns that occur once, too.
        self._learn_patterns(y, least=1)
        if not len(compressor.patterns):
            return {}
        size = (MULTIPLE * y.shape[2], MULTIPLE * y.shape[3])
        decoded = [compressor.reconstruct(part, size).clamp(0, 1) for part in torch.split(compressor.patterns, 256)]
        compressor.answers = torch.cat([self.target(part).softmax(1) for part in decoded])
        compressor.reader = fit_reader(compressor.sent(y, 0).flatten(1), labels, self.target.num_classes)
        for _ in range(5):  # costs depend on the counts of chosen patterns, so iterate
            chosen = torch.bincount(compressor.choose(y), minlength=len(compressor.patterns))
            kept = chosen > 0
            compressor.patterns, compressor.answers = compressor.patterns[kept], compressor.answers[kept]
            compressor.pattern_counts = torch.cat([chosen[kept], chosen.new_ones(1)])
        index = compressor.choose(y)
        share_of = compressor.pattern_counts[:-1] / compressor.pattern_counts.sum()
        accuracy = (compressor.answers.argmax(1)[index] == labels).float().mean()
        return {"accuracy_in_sample": float(accuracy), "bits_in_sample": float(-share_of[index].log2().mean())}

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures: bits per image, MSE and, in validation, the target's accuracy on decoded images."""
        assert self.loss.kind == "rate-distortion", "other losses have objectives of their own"
        with torch.no_grad():
            images = self._protect(images)
        with torch.autocast(images.device.type, enabled=False):  # the entropy model's logits need 32 bits
            out = self.compressor(images.float())
        bits, mse = -out["likelihoods"]["y"].log2().sum() / len(images), F.mse_loss(out["x_hat"], images)
        figures = {"bits": bits, "mse": mse}
        if not self.training:
            figures["accuracy"] = share(self.target(clamp_inwards(out["x_hat"])), labels)
        assert self.loss.weight is not None
        return bits / images[0, 0].numel() + self.loss.weight * 255**2 * mse, figures


class WithReader(nn.Module):
    """Networks that train together with a reader, a linear classifier on the first `channels` latent channels.

    The reader is not saved with the weights.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.channels, self.reader = channels, nn.Linear(4 * channels, classes)

    def read(self, y: Tensor) -> Tensor:
        """Return the reader's logits (N x K) for latents N x M x h x w."""
        logits: Tensor = self.reader(F.adaptive_avg_pool2d(y[:, : self.channels], 2).flatten(1))
        return logits

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load each network by its own `load_state_dict`, because a compressor must resize its tables."""
        for name, part in self.named_children():
            own = {key.removeprefix(f"{name}."): value for key, value in state_dict.items() if key.startswith(f"{name}.")}
            part.load_state_dict(own)


class JointNetwork(WithReader):
    """A generator and its compressor, with a reader of the active latent channels (see `JointObjective.initialise`)."""

    def __init__(self, generator: PerturbationGenerator, compressor: NeuralCompressor, classes: int) -> None:
        super().__init__(ACTIVE, classes)
        self.generator, self.compressor = generator, compressor


class JointObjective(CompressorObjective):
    """The joint loss of generator and compressor. The paper has no such loss.

    ::

        generator's loss(x') + its terms of target and auxiliary on x_hat + bits per pixel / weight + CE(reader(y), label)

    x' is the protected image, y its latents, x_hat the decoded image. `protection` has the options of the generator's loss. The
    terms of target and auxiliary are added a second time, on x_hat. The weight is that of `loss`.

    The reader is a linear classifier on the active latents. Its term trains the encoder in the first steps, when the gradient
    through the untrained decoder has little information.

    The generator's batch norms keep their statistics. With `keep_encoder`, the contracting half of the generator's U-Net is
    frozen. To save time, the auxiliary classifies only every second image in training.
    """

    def __init__(
        self,
        compressor: NeuralCompressor,
        generator: PerturbationGenerator,
        target: Classifier,
        auxiliary: Classifier,
        loss: CompressorLoss,
        protection: GeneratorLoss,
        keep_encoder: bool = False,
    ) -> None:
        if loss.kind != "rate-accuracy":
            raise UsageError(f"generator and compressor are trained together on rate-accuracy, not on {loss.kind!r}")
        super().__init__(compressor, generator, target, loss)
        if keep_encoder:
            learn_apart_from_encoder(generator)
        else:
            generator.requires_grad_(True)
        if protection.leakage_weight:
            learn_from_deepest(generator)
        self.pace = 0.3 if keep_encoder else 0.1
        self.protection = GeneratorObjective(generator, target, auxiliary, protection)
        self.network = self.joint = JointNetwork(generator, compressor, target.num_classes)

    def initialise(self, images: Tensor) -> None:
        """Scale the encoder so that its latents of `images` do not all round to zero, and fit the entropy model to them.

        The first `ACTIVE` channels are active: they start with a standard deviation of 1.5 rounding steps. The other channels
        are zero and stay zero. A label needs only a few bits. Many rarely used channels would cost more bits than a few
        channels that carry the label.
        """
        layer = self.compressor.g_a[-1]
        with torch.no_grad():
            deviation = self._latents(images).transpose(0, 1).flatten(1).std(1)
            active = torch.arange(len(deviation), device=deviation.device) < ACTIVE
            layer.weight.mul_((active * 1.5 / deviation)[:, None, None, None])
            layer.bias.zero_()
        layer.weight.register_hook(lambda gradient: gradient * active[:, None, None, None].to(gradient))
        layer.bias.register_hook(lambda gradient: gradient * active.to(gradient))
        refit_entropy_model(self.compressor.entropy_bottleneck, self._latents(images))

    def at(self, step: int, total: int) -> None:
        """Increase the rate's influence on the loss during the first 60 % of the steps.

        The weight of the rate rises from 1 / `EASE` of its final value to that value. With the final weight from the start, all
        latents become zero before the decoder has learnt to use them.

        In the same steps, quantisation is `COARSEN` times finer than afterwards. The rounding step stays 1, but the latents
        become smaller at the end of these steps: the last layer of g_a is divided by `COARSEN`. To match, the weights of the
        reader and of the first layer of g_s are multiplied by `COARSEN`.
        """
        turn = round(0.6 * total)
        self.ease = EASE ** max(0.0, 1 - step / max(turn, 1))
        if step == turn:
            self._coarsen()

    @torch.no_grad()
    def _coarsen(self) -> None:
        self.compressor.g_a[-1].weight.div_(COARSEN)
        self.compressor.g_a[-1].bias.div_(COARSEN)
        self.compressor.g_s[0].weight.mul_(COARSEN)
        self.joint.reader.weight.mul_(COARSEN)

    def before_validation(self, images: Tensor) -> None:
        refit_entropy_model(self.compressor.entropy_bottleneck, self._latents(images))

    @torch.no_grad()
    def finish(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Fit the tables with which the coder chooses a pattern for each image. Return bits and accuracy of the choices.

        A pattern is the rounded latents of a whole image (see `NeuralCompressor.choose`). The figures are in-sample, because
        the tables were fitted to `images`.
        """
        y = self._all_latents(images)
        return self._choose_patterns(y, labels.to(y.device))

    def groups(self) -> list[dict[str, Any]]:
        """Return parameter groups. The pretrained generator learns more slowly than the compressor.

        So the generator does not forget the classes.
        """
        generator = [p for p in self.generator.parameters() if p.requires_grad]
        known = {id(p) for p in generator}
        rest, entropy = super().groups()
        others = [p for p in rest["params"] if id(p) not in known]
        return [{"params": others, "scale": 1.0}, {"params": generator, "scale": self.pace}, entropy]

    def parts(self) -> list[nn.Module]:
        return [self.generator, self.compressor]

    def train(self, mode: bool = True) -> JointObjective:
        """Set the mode of the compressor and the reader. The other networks stay in eval mode."""
        super().train(mode)
        self.protection.eval()
        self.protection.training = mode  # only this flag, which selects random strengths
        return self

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its figures: bits per image, accuracies of both classifiers on decoded images, SSIM, |SSIM|."""
        images = images.float()  # mixed precision passes bfloat16
        protected, noiseless = self.protection.protect(images)
        with torch.autocast(images.device.type, enabled=False):
            x_hat, likelihoods, y = self._code(protected.float(), straight=self.training)
            asked = 0.0 if y is None else F.cross_entropy(self.joint.read(y), labels)
        bits = -likelihoods.log2().sum() / len(images)
        loss, figures = self.protection.judge(
            images, protected, labels, clamp_inwards(x_hat), every=2 if self.training else 1, noiseless=noiseless
        )
        assert self.loss.weight is not None
        weight = self.loss.weight * (self.ease if self.training else 1.0)
        return loss + asked + bits / images[0, 0].numel() / weight, {**figures, "bits": bits}

    def _code(self, images: Tensor, straight: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the reconstruction, the likelihoods of the quantised latents and, if `straight`, the latents (else None).

        CompressAI trains on latents with uniform noise. At about one bit an image, this misleads the encoder: it learns tiny
        shifts of hundreds of latents, which carry the label through the noise. But rounding removes these shifts after the
        training. With `straight`, rate and reconstruction use rounded latents, and the gradient passes straight through the
        rounding.
        """
        if not straight:
            out = self.compressor(images)
            return out["x_hat"], out["likelihoods"]["y"], None
        y = self.compressor.g_a(images)
        y_hat = y + (y.round() - y).detach()
        likelihoods = _likelihoods(self.compressor.entropy_bottleneck, y_hat.transpose(0, 1).flatten(1))
        return self.compressor.g_s(y_hat), likelihoods, y


def _likelihoods(bottleneck: EntropyBottleneck, symbols: Tensor) -> Tensor:
    likelihoods: Tensor = bottleneck.likelihood_lower_bound(bottleneck._likelihood(symbols[:, None])[0])
    return likelihoods[:, 0]


def fit_reader(latents: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Fit a logistic regression of labels (n) on latents (n x D). Return its weights, `classes` x (D + 1).

    The last column has the biases.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x, labels = torch.cat([latents, torch.ones_like(latents[:, :1])], 1).detach().clone(), labels.clone()
        weights = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ weights.T, labels) + 1e-4 * weights.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def refit_entropy_model(bottleneck: EntropyBottleneck, latents: Tensor) -> None:
    """Fit the entropy model to rounded latents (N x M x h x w) by L-BFGS, and update the integer tables.

    The fit only needs each channel's histogram, so it takes a fraction of a second. The medians stay at zero, so
    reconstructions do not change. All integers up to the largest magnitude of any latent plus 2 keep a small probability, for
    unseen images.
    """
    symbols = latents.detach().round().clamp(-127, 127).transpose(0, 1).flatten(1)  # M x n
    reach = int(symbols.abs().max()) + 2
    values = torch.arange(-reach, reach + 1, device=symbols.device, dtype=torch.float32)
    counts = torch.stack([(symbols == value).sum(1) for value in values], dim=1).float()  # M x (2 reach + 1)
    weights = (counts + 0.05 * torch.exp(-values.abs())) / symbols.shape[1]
    learnt = [parameter for name, parameter in bottleneck.named_parameters() if name != "quantiles"]
    optimizer = torch.optim.LBFGS(
        learnt, max_iter=100, history_size=20, tolerance_grad=1e-5, tolerance_change=1e-4, line_search_fn="strong_wolfe"
    )
    edges = torch.cat([values - 0.5, values[-1:] + 0.5]).expand(len(counts), 1, -1)  # adjacent intervals share an edge

    def bits() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        logits = bottleneck._logits_cumulative(edges, stop_gradient=False)[:, 0]
        below, above = logits[:, :-1], logits[:, 1:]
        # log(sigmoid(above) - sigmoid(below)), exact also in the tails, where the difference is zero in 32 bits. If the logits
        # themselves are equal in 32 bits, the result is bounded.
        gap = (above - below).clamp(min=1e-9)
        logarithms = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-gap))
        loss = -(weights * logarithms).sum() / math.log(2)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(bits)  # type: ignore[no-untyped-call]
    optimizer.zero_grad(set_to_none=True)
    bottleneck._update_quantiles()
    with torch.no_grad():
        bottleneck.quantiles[:, :, 1] = 0
        bottleneck.quantiles[:, :, 0].clamp_(max=-1)
        bottleneck.quantiles[:, :, 2].clamp_(min=1)
    bottleneck.update(force=True)
