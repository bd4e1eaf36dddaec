"""The networks: the perturbation generator (U-Net), the neural compressor, and what all kinds share; `build` makes each.

All take images in [0, 1], N x 3 x H x W, and normalise inside. Module names and shapes below `unet` and `network` are those of
the public baseline, so that its checkpoints load (see `checkpoints.import_checkpoint`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import _compat, rates
from .classifiers import MEAN, STD, Classifier
from .errors import UsageError, unknown
from .pictures import check_images

with _compat.spared():
    from compressai.entropy_models import EntropyBottleneckVbr
    from compressai.models import FactorizedPrior

__all__ = [
    "NeuralCompressor",
    "PerturbationGenerator",
    "Unset",
    "build",
    "channels_last",
    "in_parts",
    "parameters",
]

Network = TypeVar("Network", bound=nn.Module)
MULTIPLE = 16  # both the U-Net and the compressor halve the sides four times
RATE_WEIGHT = 0.002  # of a bit, where the compressor chooses what it sends, in chances that the target errs
# Images that pass through a network together, however many a batch has. On a CPU what a layer makes of 64 stays in the
# caches, which is worth a tenth of the U-Net's time and a quarter of the encoder's.
AT_ONCE = {"cpu": 64, "cuda": 1024}
BEHIND = 64  # bytes for each latent, more than one can take of zeros


# --- the perturbation generator --------------------------------------------------------------------------------------------


class DoubleConv(nn.Module):
    """(3x3 convolution -> batch norm -> LeakyReLU 0.2) twice."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (c_in, c_out):
            layers += [nn.Conv2d(channels, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)]
        self.f = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """C_in x H x W -> C_out x H x W."""
        return self.f(x)  # type: ignore[no-any-return]


class Down(nn.Module):
    """2x2 max-pool -> DoubleConv."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.MaxPool2d(2), DoubleConv(c_in, c_out))

    def forward(self, x: Tensor) -> Tensor:
        """C_in x H x W -> C_out x H/2 x W/2."""
        return self.f(x)  # type: ignore[no-any-return]


class Up(nn.Module):
    """2x2 transposed convolution of stride 2 -> concatenation behind the skip -> DoubleConv."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(c_in, c_in // 2, 2, stride=2)
        self.conv = DoubleConv(c_in, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """C_in x H x W and the skip C_in/2 x 2H x 2W -> C_out x 2H x 2W."""
        return self.conv(torch.cat([skip, self.upsample(x)], dim=1))  # type: ignore[no-any-return]


class OutConv(nn.Module):
    """1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.f = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """C_in x H x W -> C_out x H x W."""
        return self.f(x)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """The paper's five-level U-Net, without its final addition: normalised images -> the additive perturbation.

    ::

        inc -------------------------------- skip ---------------------------> u4 -> outc
          `-> d1 --------------------------- skip --------------------> u3 ---^
                `-> d2 --------------------- skip -------------> u2 ---^
                      `-> d3 --------------- skip ------> u1 ---^
                            `-> d4 ----------------------^
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.inc = DoubleConv(3, w)
        self.d1, self.d2, self.d3, self.d4 = Down(w, 2 * w), Down(2 * w, 4 * w), Down(4 * w, 8 * w), Down(8 * w, 16 * w)
        self.u1, self.u2, self.u3, self.u4 = Up(16 * w, 8 * w), Up(8 * w, 4 * w), Up(4 * w, 2 * w), Up(2 * w, w)
        self.outc = OutConv(w, 3)

    def contract(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the features of the five levels: w x H x W down to 16 w x H/16 x W/16."""
        x1 = self.inc(x)
        x2 = self.d1(x1)
        x3 = self.d2(x2)
        x4 = self.d3(x3)
        return x1, x2, x3, x4, self.d4(x4)

    def forward(self, x: Tensor) -> Tensor:
        """N x 3 x H x W -> N x 3 x H x W, sides multiples of 16."""
        x1, x2, x3, x4, x5 = self.contract(x)
        y = self.u1(x5, x4)
        return self.outc(self.u4(self.u3(self.u2(y, x3), x2), x1))  # type: ignore[no-any-return]


class PerturbationGenerator(nn.Module):
    """The protective perturbation: x + a * (G(x) - x), where G(x) = clamp(x + U-Net(x) + noise * n).

    Images in [0, 1], N x 3 x H x W, of any size: sides that are no multiple of 16 are padded by reflection and cut again.
    `strength` a in [0, 1]: 0 is the original, 1 the paper's protected image. `width` 32 is the paper's (7.77 M parameters).
    `noise` is the standard deviation of the random component n, drawn anew for each image; 0, the paper's, is none. Outside
    of training n comes from the operating system's generator: who could foretell it could subtract it.
    Source: PP, section 4; PMC², section 3.
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
        """Return the protected images, in [0, 1], of the shape of `images`."""
        check_images(images)
        check_strength(strength)
        if strength == 0.0:
            return images
        perturbation = self.unet((_pad(images) - self.mean) / self.std)[..., : images.shape[-2], : images.shape[-1]]
        protected = images + perturbation * self.std
        if self.noise:
            drawn = torch.randn_like(protected) if self.training else _unforeseeable(protected)
            protected = protected + self.noise * drawn
        protected = protected.clamp(0, 1)
        return protected if strength == 1.0 else torch.lerp(images, protected, strength)

    def features(self, images: Tensor) -> Tensor:
        """Return what the U-Net's deepest level finds in images: N x 16 width x H/16 x W/16."""
        check_images(images)
        return self.unet.contract((_pad(images) - self.mean) / self.std)[-1]


# --- the neural compressor -------------------------------------------------------------------------------------------------


class NeuralCompressor(FactorizedPrior):  # type: ignore[misc]
    """Factorized Prior (Balle et al. 2018) as in CompressAI: g_a -> quantise -> entropy bottleneck -> g_s.

    ::

        x -> g_a -> y -> round -> y_hat -> g_s -> x_hat         y: N x M x H/16 x W/16
                          `-> entropy model -> likelihoods

    The paper's (PMC², section 3.3) is N = 128, M = 192: 2,998,147 parameters. Images in [0, 1]; sides that are no multiple of
    16 are padded by reflection, and `x_hat` is cut again. Beside CompressAI's integer tables it keeps those of the commonest
    latents, `patterns` and `pattern_counts` (see `entropy.Tables`).

    One that was trained on rate and accuracy knows more (see `choose`): `reader` (C x (M h w + 1)), a linear layer that reads
    the class from the latents before they are quantised, and `answers` (K x C), what the target says of each pattern.

    With `stops` it is one network for many rates, as in CompressAI's `models.vbr` (Kamisli et al. 2024): at stop s latents are
    quantised in steps of 1 / Gain[s], coarse to fine, and one density (`EntropyBottleneckVbr`) gives the tables of each stop.
    The first `LABEL_CHANNELS` are the label: always in steps of stop 0, which sends nothing else, and as patterns. `stop_cdf`,
    `stop_offset` and `stop_length` are the tables of the other stops. Without stops the step is 1 and the rate 0.
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
        """Load weights with their integer tables, whose sizes follow from training; CompressAI resizes only empty ones."""
        bottleneck = self.entropy_bottleneck
        for table in ("_quantized_cdf", "_offset", "_cdf_length"):
            setattr(bottleneck, table, torch.empty(0, dtype=torch.int32, device=bottleneck.quantiles.device))
        names = ("patterns", "pattern_counts", "reader", "answers")
        sized = [(self, "", name) for name in (*names, "stop_cdf", "stop_offset", "stop_length")]
        if self.stops:  # of a density of variable steps CompressAI resizes nothing
            sized += [(bottleneck, "entropy_bottleneck.", name) for name in ("_quantized_cdf", "_offset", "_cdf_length")]
        for module, prefix, table in sized:
            if prefix + table in state_dict:  # its size follows from training, its numbers may have been kept in fewer bits
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
        """Return `x_hat` (not clamped) and `likelihoods["y"]`; quantisation is noise in training mode."""
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
        """Make the integer tables, with `force` anew, of every stop."""
        if not self.stops:
            return bool(super().update(*args, force=force, **options))
        if len(self.stop_offset) and not force:
            return False
        self.stop_cdf, self.stop_offset, self.stop_length = rates.stop_tables(self.entropy_bottleneck, self.Gain)
        return True

    def tables(self, stop: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return the integer tables of a stop: cumulative frequencies M x L, offsets M, lengths M. Empty before `update`."""
        bottleneck = self.entropy_bottleneck
        if stop == 0:
            return bottleneck._quantized_cdf, bottleneck._offset, bottleneck._cdf_length
        sizes = (self.M * self.stop_length.amax(1)).tolist()
        cdf = torch.split(self.stop_cdf, sizes)[stop - 1].view(self.M, -1)
        return cdf, self.stop_offset[stop - 1], self.stop_length[stop - 1]

    def steps(self, stop: int = 0) -> Tensor:
        """Return the quantisation step of each channel at a stop: M x 1 x 1."""
        steps = torch.ones_like(self.medians)
        if self.stops:
            steps /= self.Gain[stop]
            steps[: rates.LABEL_CHANNELS] = 1 / self.Gain[0]
        return steps

    def sent(self, y: Tensor, stop: int) -> Tensor:
        """Return those of the latents N x M x h x w that a stop sends; the others are zero."""
        if not self.stops or stop:
            return y
        return torch.cat([y[:, : rates.LABEL_CHANNELS], torch.zeros_like(y[:, rates.LABEL_CHANNELS :])], 1)

    def symbols(self, images: Tensor, rate_weight: float = RATE_WEIGHT, stop: int = 0) -> Tensor:
        """Return the quantised latents of images, whole numbers N x M x H/16 x W/16 (see `quantise`)."""
        return self.quantise(self.latents(images), stop, rate_weight)

    def quantise(self, y: Tensor, stop: int = 0, rate_weight: float = RATE_WEIGHT) -> Tensor:
        """Return latents less their medians as whole numbers of the stop's step.

        Rounded, as in the paper; the label, of a compressor that has a reader for latents of this size, as `choose` has it.
        """
        symbols = (self.sent(y, stop) / self.steps(stop)).round().to(torch.int32)
        if len(self.reader) and y.shape[1:] == self.patterns.shape[1:]:
            label = slice(rates.LABEL_CHANNELS if self.stops else None)
            symbols[:, label] = self.patterns[self.choose(y, rate_weight)][:, label].to(torch.int32)
        return symbols

    def latents(self, images: Tensor) -> Tensor:
        """Return the latents less their medians, before they are quantised: N x M x H/16 x W/16."""
        check_images(images)
        y: Tensor = self.g_a(_pad(images))
        return y - self.medians

    def choose(self, y: Tensor, rate_weight: float = RATE_WEIGHT) -> Tensor:
        """Return for each of N latents the pattern that costs least: the chance that the target errs + rate_weight * bits.

        Rounding asks which pattern is nearest, and near one bit an image that is often one of another class. This is
        rate-distortion optimised quantisation with the task's own distortion, rate + accuracy: the reader says how likely each
        class is, the table `answers` what the target would say of each pattern. The decoder knows nothing of it.
        """
        return self.costs(y, rate_weight).argmin(1)

    def costs(self, y: Tensor, rate_weight: float = RATE_WEIGHT) -> Tensor:
        """Return what each pattern would cost for each of N latents: N x patterns (see `choose`)."""
        likely = F.linear(y.flatten(1), self.reader[:, :-1], self.reader[:, -1]).softmax(1)
        counts = self.pattern_counts.to(likely)
        bits = counts.sum().log2() - counts[:-1].log2()
        return rate_weight * bits - likely @ self.answers.T

    def reconstruct(self, symbols: Tensor, size: tuple[int, int], stop: int = 0) -> Tensor:
        """Return the images of `size` (H, W), not clamped, of `symbols` at a stop."""
        x_hat: Tensor = self.g_s(symbols.to(self.medians.device) * self.steps(stop) + self.medians)
        return x_hat[..., : size[0], : size[1]]

    @property
    def medians(self) -> Tensor:
        """What a symbol of zero stands for: M x 1 x 1."""
        medians: Tensor = self.entropy_bottleneck.quantiles[:, 0, 1].detach()
        return medians[:, None, None]

    def strings(self, images: Tensor) -> list[bytes]:
        """Return the latents rounded at stop 0, one string an image. CompressAI's coder: 8, 12, 16 ... bytes each."""
        check_images(images)
        coded: list[bytes]
        if self.stops:
            coded = self.entropy_bottleneck.compress(self.sent(self.g_a(_pad(images)), 0), qs=1 / self.Gain[0])
        else:
            coded = self.compress(_pad(images))["strings"][0]
        return coded

    def images(self, strings: list[bytes], size: tuple[int, int]) -> Tensor:
        """Return images of `size` (H, W) from strings of `strings`, which must come from this very model.

        CompressAI's decoder reads on behind the end of a string that is too short, whatever stands there: here it is zeros.
        """
        latent = tuple(-(-side // MULTIPLE) for side in size)
        behind = bytes(BEHIND * len(self.medians) * latent[0] * latent[1])
        parts = [strings[start : start + AT_ONCE["cpu"]] for start in range(0, len(strings), AT_ONCE["cpu"])]
        decoded = torch.cat([self._decoded([each + behind for each in part], latent) for part in parts])
        return decoded[..., : size[0], : size[1]]

    def _decoded(self, strings: list[bytes], latent: tuple[int, ...]) -> Tensor:
        images: Tensor
        if self.stops:
            images = self.g_s(self.entropy_bottleneck.decompress(strings, latent, qs=1 / self.Gain[0])).clamp(0, 1)
        else:
            images = self.decompress([strings], latent)["x_hat"]
        return images


class Unset(TorchFunctionMode):
    """Within it networks are built without drawing their first weights, which takes half of the time of loading others."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what was to be filled as it is."""
        if func in (Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build(kind: str, **spec: Any) -> nn.Module:
    """Build a network by its kind: `classifier` (name, num_classes, head, width), `generator` (width),
    `compressor` (N, M, stops)."""
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
    """Move a network to a device (None: where it is) in the memory layout in which convolutions run fastest."""
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def in_parts(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Return function(batch), of some rows at a time: what a network keeps of an image is 100 times the image."""
    at_once = AT_ONCE.get(batch.device.type, max(AT_ONCE.values()))
    if len(batch) <= at_once:
        return function(batch)
    return torch.cat([function(part) for part in torch.split(batch, at_once)])


def parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def check_strength(strength: float) -> None:
    """Raise UsageError for a strength of the perturbation that is not from 0 to 1."""
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"strength must be between 0 (the original) and 1 (the paper's perturbation), got {strength!r}")


def _unforeseeable(images: Tensor) -> Tensor:
    """Return standard normal numbers of the shape of `images`, from the operating system's generator.

    Torch's own starts every process at the same number unless it is told one, and never at one of more than 32 bits.
    """
    words = torch.frombuffer(bytearray(os.urandom(4 * images.numel())), dtype=torch.int32).to(torch.float64)
    uniform = (words + 0.5) / 2**32  # in (-1/2, 1/2), never at its ends
    return (torch.erfinv(2 * uniform) * math.sqrt(2)).to(images).view(images.shape)


def _pad(images: Tensor) -> Tensor:
    bottom, right = (-side % MULTIPLE for side in images.shape[-2:])
    if not (bottom or right):
        return images
    reflective = bottom < images.shape[-2] and right < images.shape[-1]
    return F.pad(images, (0, right, 0, bottom), mode="reflect" if reflective else "replicate")
