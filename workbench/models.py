"""The perturbation generator, the neural compressor, and functions that build, move and run networks.

All networks take images N x 3 x H x W in [0, 1]. The caller does not normalise them. The submodules of the attributes `unet`
and `network` have the names and shapes of the public baseline, so that the baseline's checkpoints load.

The target is the classifier at the cloud. PMC² and PP are the two papers (see `paper`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import _compat, rates
from .classifiers import MEAN, STD, Classifier
from .errors import UsageError, unknown
from .pictures import check_images
from .unet import UNet

with _compat.stub_unused_imports():
    from compressai.entropy_models import EntropyBottleneckVbr
    from compressai.models import FactorizedPrior

__all__ = [
    "NeuralCompressor",
    "PerturbationGenerator",
    "UNet",
    "Unset",
    "build",
    "channels_last",
    "in_parts",
    "parameters",
    "repeatable_noise",
]

Network = TypeVar("Network", bound=nn.Module)
TABLES = (  # buffers of a compressor whose sizes depend on its training
    *("patterns", "pattern_counts", "reader", "answers", "stop_cdf", "stop_offset", "stop_length"),
    *("_quantized_cdf", "_offset", "_cdf_length"),
)
MULTIPLE = 16  # sides are multiples of this: U-Net and compressor halve them four times
RATE_WEIGHT = 0.002  # cost of one bit in `choose`, in units of the target's error probability
# Limit of the images that pass through a network together. On a CPU the activations of 64 images stay in the caches.
AT_ONCE = {"cpu": 64, "cuda": 1024}


class PerturbationGenerator(nn.Module):
    """The network that protects images with a perturbation: x + a * (G(x) - x).

    x is the original image. The strength a is from 0 (the original) to 1 (the paper's protected image). G(x) = clamp(clamp(x +
    U-Net(x)) + noise * n) is the protected image at strength 1. Images have any size. Sides that are no multiple of 16 are
    padded, and the result is cropped.

    `width` is the number of channels of the U-Net's first level, 32 in the paper (7.77 M parameters). `noise`, from 0 (the
    paper) to 1, is the standard deviation of the random component noise * n. n is standard normal, drawn for each image. An
    attacker that predicts n could subtract the component. So outside of training, n comes from the operating system's random
    source. Sources: PP, section 4; PMC², section 3.
    """

    def __init__(self, width: int = 32, noise: float = 0.0) -> None:
        super().__init__()
        if not 0 <= noise <= 1:
            raise UsageError(f"the random component's standard deviation must be between 0 and 1, got {noise!r}")
        self.width, self.noise = width, noise
        self.unet = UNet(width)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor, strength: float = 1.0) -> Tensor:
        """Return `images` (floats, N x 3 x H x W), protected at a `strength` from 0 (unchanged) to 1.

        Raises UsageError for another shape or type, for no images, and for a strength outside [0, 1].
        """
        check_images(images)
        check_strength(strength)
        if strength == 0.0:
            return images
        return self.blend(images, self.noiseless(images), strength)

    def blend(self, images: Tensor, noiseless: Tensor, strength: float) -> Tensor:
        """Return `images` protected at a `strength` above 0. `noiseless` is the output of the method `noiseless` for `images`.

        Each call draws a new random component.
        """
        protected = self.add_noise(noiseless, unforeseeable=not self.training)
        return protected if strength == 1.0 else torch.lerp(images, protected, strength)

    def noiseless(self, images: Tensor) -> Tensor:
        """Return the images protected at strength 1, without the random component."""
        perturbation: Tensor = self.unet((_pad(images) - self.mean) / self.std)
        return (images + perturbation[..., : images.shape[-2], : images.shape[-1]] * self.std).clamp(0, 1)

    def add_noise(self, protected: Tensor, unforeseeable: bool = True) -> Tensor:
        """Add the random component, and clamp to [0, 1]. If `unforeseeable` is False, torch's seed determines the component."""
        if not self.noise:
            return protected
        drawn = _unforeseeable(protected) if unforeseeable else torch.randn_like(protected)
        return (protected + self.noise * drawn).clamp(0, 1)

    def features(self, images: Tensor, padded: bool = True) -> Tensor:
        """Return the features of images at the U-Net's deepest level: N x (16 * width) x H/16 x W/16.

        With `padded`, sides that are no multiple of 16 are padded first.
        """
        check_images(images)
        images = _pad(images) if padded else images
        return self.unet.contract((images - self.mean) / self.std)[-1]


class NeuralCompressor(FactorizedPrior):  # type: ignore[misc]
    """The Factorized Prior compressor (Balle et al. 2018) of CompressAI, optionally for several rates.

    ::

        x -> g_a -> latents y -> round -> y_hat -> g_s -> x_hat         y: N x M x H/16 x W/16
                                   `-> entropy model -> likelihoods

    `N` is the number of channels of the hidden layers, and `M` is the number of channels of the latents. The paper has N = 128
    and M = 192 (PMC², section 3.3; 2,998,147 parameters). Sides that are no multiple of 16 are padded, and `x_hat` is cropped.

    A pattern is the rounded latents of one image. The buffer `patterns` (K x M x h x w) has the K commonest patterns of the
    training data, with h x w latents in each channel. The buffer `pattern_counts` (K + 1) has the number of images with each
    pattern. Its last entry counts all other patterns (see `entropy.Tables`).

    A compressor that was trained on rate and accuracy chooses a pattern for each image (see `choose`). For this it has two more
    buffers. `reader` (C x (M h w + 1)) is a linear layer that predicts one of C classes from the latents before rounding.
    `answers` (K x C) has the class probabilities that the target returns for each pattern.

    A rate is a compromise between few bits and good images. A stop is the index of a rate, from 0 (the fewest bits). With
    `stops` above 0, one network has that many rates, as in CompressAI's `models.vbr` (Kamisli et al. 2024). Stop s rounds the
    latents to multiples of its step 1 / Gain[s]. The steps become finer from stop 1 to the last stop. One probability density
    (`EntropyBottleneckVbr`) gives the entropy coder's integer tables for every stop. `stop_cdf`, `stop_offset` and
    `stop_length` are the tables of all stops except stop 0. With `stops` 0 there is one rate, of step 1.

    The first `LABEL_CHANNELS` channels carry the class label. At every stop they have the step of stop 0, and they are coded as
    patterns. Stop 0 sends no other channels.
    """

    patterns: Tensor
    pattern_counts: Tensor
    reader: Tensor
    answers: Tensor
    stop_cdf: Tensor
    stop_offset: Tensor
    stop_length: Tensor

    def __init__(self, N: int = 128, M: int = 192, stops: int = 0) -> None:
        super().__init__(N, M)
        self.stops = stops
        if stops:
            self.entropy_bottleneck = EntropyBottleneckVbr(M)
            self.Gain = nn.Parameter(rates.gains(stops), requires_grad=False)
            self.register_buffer("stop_cdf", torch.zeros(0, dtype=torch.int32))
            self.register_buffer("stop_offset", torch.zeros(0, M, dtype=torch.int32))
            self.register_buffer("stop_length", torch.zeros(0, M, dtype=torch.int32))
        self.register_buffer("patterns", torch.zeros(0, M, 1, 1, dtype=torch.int8))
        self.register_buffer("pattern_counts", torch.ones(1, dtype=torch.int64))
        self.register_buffer("reader", torch.zeros(0, 0))
        self.register_buffer("answers", torch.zeros(0, 0))

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any:
        """Load weights. Buffers whose sizes depend on the training, such as `patterns`, take the sizes in `state_dict`.

        Raises UsageError if the sizes of these buffers contradict each other.
        """
        own: list[tuple[nn.Module, str]] = [(self, ""), (self.entropy_bottleneck, "entropy_bottleneck.")]
        for module, prefix in own:
            for table in TABLES:
                if prefix + table in state_dict:
                    setattr(module, table, getattr(module, table).new_empty(state_dict[prefix + table].shape))
        loaded = super().load_state_dict(state_dict, strict=strict)
        if len(self.reader):
            latents, classes = self.patterns[0].numel() if len(self.patterns) else 0, len(self.reader)
            known = len(self.patterns)
            fits = self.reader.shape == (classes, latents + 1) and self.answers.shape == (known, classes)
            if not fits or len(self.pattern_counts) != known + 1:
                raise UsageError(
                    f"a compressor with {known} patterns of {latents} latents cannot have a reader of "
                    f"{tuple(self.reader.shape)}, answers of {tuple(self.answers.shape)}, {len(self.pattern_counts)} counts"
                )
        return loaded

    def forward(self, images: Tensor, stop: int = 0) -> dict[str, Any]:
        """Compress and reconstruct images at a stop. Return {"x_hat": images, not clamped, "likelihoods": {"y": likelihoods}}.

        In training, uniform noise replaces rounding.
        """
        check_images(images)
        out: dict[str, Any]
        if self.stops:
            y = self.sent(self.g_a(_pad(images)), stop)
            coded = (self.entropy_bottleneck(y, qs=1 / self.Gain[each]) for each in (0, stop))
            label = slice(rates.LABEL_CHANNELS)
            y_hat, likelihoods = (
                torch.cat([first[:, label], rest[:, label.stop :]], 1) for first, rest in zip(*coded, strict=True)
            )
            out = {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihoods}}
        else:
            out = super().forward(_pad(images))
        out["x_hat"] = out["x_hat"][..., : images.shape[-2], : images.shape[-1]]
        return out

    def update(self, *args: Any, force: bool = False, **options: Any) -> bool:
        """Compute the integer tables of every stop if they are missing or `force` is set. Return whether they were computed."""
        if not self.stops:
            return bool(super().update(*args, force=force, **options))
        if len(self.stop_offset) and not force:
            return False
        self.stop_cdf, self.stop_offset, self.stop_length = rates.stop_tables(self.entropy_bottleneck, self.Gain)
        return True

    def tables(self, stop: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return the integer tables of a stop: cumulative frequencies (M x L), offsets (M) and lengths (M).

        Each of the M channels has a row of frequencies, padded to L entries. The tables are empty before `update`.
        """
        bottleneck = self.entropy_bottleneck
        if stop == 0:
            return bottleneck._quantized_cdf, bottleneck._offset, bottleneck._cdf_length
        sizes = (self.M * self.stop_length.amax(1)).tolist()
        cdf = torch.split(self.stop_cdf, sizes)[stop - 1].view(self.M, -1)
        return cdf, self.stop_offset[stop - 1], self.stop_length[stop - 1]

    def steps(self, stop: int = 0) -> Tensor:
        """Return the quantisation step of each channel at a stop: M x 1 x 1. Latents are rounded to multiples of their step."""
        steps = torch.ones_like(self.medians)
        if self.stops:
            steps /= self.Gain[stop]
            steps[: rates.LABEL_CHANNELS] = 1 / self.Gain[0]
        return steps

    def sent(self, y: Tensor, stop: int) -> Tensor:
        """Return the latents `y` (N x M x h x w), with zeros in the channels that the stop does not send."""
        if not self.stops or stop:
            return y
        return torch.cat([y[:, : rates.LABEL_CHANNELS], torch.zeros_like(y[:, rates.LABEL_CHANNELS :])], 1)

    def symbols(self, images: Tensor, rate_weight: float = RATE_WEIGHT, stop: int = 0) -> Tensor:
        """Return the latents of images as integers (see `quantise`): N x M x H/16 x W/16."""
        return self.quantise(self.latents(images), stop, rate_weight)

    def quantise(self, y: Tensor, stop: int = 0, rate_weight: float = RATE_WEIGHT) -> Tensor:
        """Return the latents `y` as integers, in units of a stop's step. `y` is the output of `latents`.

        Latents are rounded, as in the paper. But if the compressor has a `reader` for latents of this size, the label's
        channels (all channels if `stops` is 0) are copied from the pattern that `choose` selects for `rate_weight`.
        """
        symbols = (self.sent(y, stop) / self.steps(stop)).round().to(torch.int32)
        if len(self.reader) and y.shape[1:] == self.patterns.shape[1:]:
            label = slice(rates.LABEL_CHANNELS if self.stops else None)
            symbols[:, label] = self.patterns[self.choose(y, rate_weight)][:, label].to(torch.int32)
        return symbols

    def latents(self, images: Tensor) -> Tensor:
        """Return the latents of images before rounding, minus the median of each channel: N x M x H/16 x W/16."""
        check_images(images)
        y: Tensor = self.g_a(_pad(images))
        return y - self.medians

    def choose(self, y: Tensor, rate_weight: float = RATE_WEIGHT) -> Tensor:
        """Return the index of the pattern with the lowest cost for each image: N values. `y` are latents, N x M x h x w.

        The cost of a pattern is the probability that the target errs on it, plus `rate_weight` for each of its bits. Rounding
        would select the nearest pattern. At one bit an image, that pattern often belongs to another class.
        """
        return self.costs(y, rate_weight).argmin(1)

    def costs(self, y: Tensor, rate_weight: float = RATE_WEIGHT) -> Tensor:
        """Return the cost of each of K patterns for each of N images (see `choose`), up to a constant: N x K."""
        likely = F.linear(y.flatten(1), self.reader[:, :-1], self.reader[:, -1]).softmax(1)
        counts = self.pattern_counts.to(likely)
        bits = counts.sum().log2() - counts[:-1].log2()
        return rate_weight * bits - likely @ self.answers.T

    def reconstruct(self, symbols: Tensor, size: tuple[int, int], stop: int = 0) -> Tensor:
        """Decode integer latents (`symbols`) that were coded at a `stop`, to images of `size` (H, W) without clamping."""
        x_hat: Tensor = self.g_s(symbols.to(self.medians.device) * self.steps(stop) + self.medians)
        return x_hat[..., : size[0], : size[1]]

    @property
    def medians(self) -> Tensor:
        """The median of each channel's latents: M x 1 x 1. The integer 0 decodes to this value."""
        medians: Tensor = self.entropy_bottleneck.quantiles[:, 0, 1].detach()
        return medians[:, None, None]

    def strings(self, images: Tensor) -> list[bytes]:
        """Encode the rounded latents of stop 0 with CompressAI's coder: 8, 12, 16 ... bytes for each image."""
        check_images(images)
        if self.stops:
            return list(self.entropy_bottleneck.compress(self.sent(self.g_a(_pad(images)), 0), qs=1 / self.Gain[0]))
        return list(self.compress(_pad(images))["strings"][0])

    def images(self, strings: list[bytes], size: tuple[int, int]) -> Tensor:
        """Decode the output of `strings` to images in [0, 1] of `size` (H, W)."""
        latent = tuple(-(-side // MULTIPLE) for side in size)
        # CompressAI's decoder reads beyond the end of a string that is too short, but at most 64 bytes for each latent.
        behind = bytes(64 * len(self.medians) * latent[0] * latent[1])
        decoded = []
        for start in range(0, len(strings), AT_ONCE["cpu"]):
            part = [each + behind for each in strings[start : start + AT_ONCE["cpu"]]]
            if self.stops:
                y_hat = self.entropy_bottleneck.decompress(part, latent, qs=1 / self.Gain[0])
                decoded.append(self.g_s(y_hat).clamp(0, 1))
            else:
                decoded.append(self.decompress([part], latent)["x_hat"])
        return torch.cat(decoded)[..., : size[0], : size[1]]


class Unset(TorchFunctionMode):
    """A context in which new networks have uninitialised weights. In it, building a network takes half as long."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build(kind: str, **spec: Any) -> nn.Module:
    """Build a network of the kind `classifier`, `generator` or `compressor`. `spec` are the arguments of the network's class.

    Raises UsageError for an unknown kind or argument.
    """
    kinds: dict[str, Callable[..., nn.Module]] = {
        "classifier": Classifier,
        "generator": PerturbationGenerator,
        "compressor": NeuralCompressor,
    }
    if kind not in kinds:
        raise unknown("kind of network", kind, kinds)
    try:
        return kinds[kind](**spec)
    except TypeError as error:
        raise UsageError(f"a {kind} cannot be built from {spec}: {error}") from error


def channels_last(module: Network, device: str | torch.device | None = None) -> Network:
    """Move a network to a device, in the memory layout that is fastest for convolutions. None keeps the present device."""
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def in_parts(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Return function(batch), computed on a limited number of rows at a time to save memory."""
    at_once = AT_ONCE.get(batch.device.type, max(AT_ONCE.values()))
    if len(batch) <= at_once:
        return function(batch)
    return torch.cat([function(part) for part in torch.split(batch, at_once)])


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def check_strength(strength: float) -> None:
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"strength must be between 0 (the original) and 1 (the paper's perturbation), got {strength!r}")


_repeatable: ContextVar[torch.Generator | None] = ContextVar("repeatable", default=None)


@contextmanager
def repeatable_noise(seed: int) -> Iterator[None]:
    """A context in which `seed` determines a perturbation's random component. Other threads and tasks are not affected.

    It is for measurements only. An attacker that knows the seed can subtract the component.
    """
    before = _repeatable.set(torch.Generator().manual_seed(seed))
    try:
        yield
    finally:
        _repeatable.reset(before)


def _unforeseeable(images: Tensor) -> Tensor:
    # Torch's generator could be predicted, because its seed has at most 32 bits.
    if (seeded := _repeatable.get()) is not None:
        return torch.randn(images.shape, generator=seeded).to(images)
    words = torch.frombuffer(bytearray(os.urandom(4 * images.numel())), dtype=torch.int32).to(torch.float64)
    uniform = (words + 0.5) / 2**32  # in (-1/2, 1/2), never at its ends
    return (torch.erfinv(2 * uniform) * math.sqrt(2)).to(images).view(images.shape)


def _pad(images: Tensor) -> Tensor:
    bottom, right = (-side % MULTIPLE for side in images.shape[-2:])
    if not (bottom or right):
        return images
    reflective = bottom < images.shape[-2] and right < images.shape[-1]
    return F.pad(images, (0, right, 0, bottom), mode="reflect" if reflective else "replicate")
