"""The networks of the attackers and of the judge (the classifier that scores guesses), and their training loop.

Attackers learn from pairs, their own pictures with observations. In arguments, `seen` are the observations, and `answers` are
the labels that the cloud returned for them. An inverter predicts the original picture from an observation and a label.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference import computes_in_16_bits
from ..models import channels_last, in_parts
from ..training.adversary import labelled_unet, with_labels
from .views import Pairs

__all__ = [
    "RATE",
    "Critic",
    "Inverter",
    "MeanPictures",
    "SmallCNN",
    "feature_distance",
    "inverter",
    "learn",
    "narrow",
    "run",
    "seeded",
    "solve",
]

RATE = 4e-3  # peak learning rate of AdamW
_drawing = threading.Lock()


def solve(x: Tensor, wanted: Tensor) -> Tensor:
    """Return the least-squares solution of x @ solution = wanted, for `x` of N x F and `wanted` of N x T.

    The solution is F x T in float32. The normal equations with a tiny ridge are solved in float64. `torch.linalg.lstsq` in
    float32 would drop all singular values below about N * 1e-7 times the largest one. For the pixels of 2,000 pictures, it
    would drop a quarter of the directions, which carry the colours.
    """
    x, wanted = x.double(), wanted.double()
    gram = x.T @ x
    ridge = 1e-9 * gram.diagonal().mean().clamp_min(1e-30)
    solution: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), x.T @ wanted)
    return solution.float()


class MeanPictures(nn.Module):
    """A table with the mean picture for each of K labels (K x 3 x H x W), of an attacker's own pictures.

    A picture belongs to the label that the cloud returned for it. Each label's mean is shrunk towards the mean of all pictures,
    which has the weight of `PRIOR` pictures. So the mean of a rare label is close to the mean of all pictures.
    """

    PRIOR = 4

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means)

    means: Tensor

    @classmethod
    def of(cls, pairs: Pairs, classes: int) -> MeanPictures:
        answers, images = pairs.observed.answers, pairs.images
        sums = torch.zeros(classes, *images.shape[1:]).index_add_(0, answers, images)
        counts = torch.bincount(answers, minlength=classes)[:, None, None, None]
        return cls((sums + cls.PRIOR * images.mean(0)) / (counts + cls.PRIOR))

    def forward(self, answers: Tensor) -> Tensor:
        return self.means[answers]


class Inverter(nn.Module, ABC):
    """Reconstructs originals from observations and labels, as base + `share` * residual.

    The base is a simple guess that is fitted in closed form. The residual is a trained correction, weighted by `share`. The
    residual starts at zero, so an untrained network returns the base.
    """

    def __init__(self, means: MeanPictures) -> None:
        super().__init__()
        self.means, self.share, self.classes = copy.deepcopy(means), 1.0, len(means.means)

    def forward(self, seen: Tensor, answers: Tensor) -> Tensor:
        """Return guesses of the originals (N x 3 x H x W, not clamped) from observations and labels."""
        return self.base(seen, answers) + self.share * self.residual(seen, answers)

    def base(self, seen: Tensor, answers: Tensor) -> Tensor:
        """Return the base of each guess, N x 3 x H x W. By default the base is the label's mean picture."""
        guess: Tensor = self.means(answers)
        return guess

    @abstractmethod
    def residual(self, seen: Tensor, answers: Tensor) -> Tensor:
        """Return the correction of each base, N x 3 x H x W."""

    def fit_base(self, seen: Tensor, answers: Tensor, images: Tensor) -> None:
        """Fit the base in closed form to observations, labels and the originals `images`. Does nothing by default."""


class PictureInverter(Inverter):
    """An inverter for observations that are pictures. A U-Net computes the residual.

    The base predicts each pixel by linear regression. The inputs are the observed pixel, its square, and the pixel of the
    label's mean picture.
    """

    def __init__(self, width: int, means: MeanPictures) -> None:
        super().__init__(means)
        self.unet = labelled_unet(width, self.classes)
        zero_(self.unet.outc.f)
        self.register_buffer("matrix", torch.zeros(10, 3))

    matrix: Tensor

    def fit_base(self, seen: Tensor, answers: Tensor, images: Tensor) -> None:
        rows = self._pixels(seen, answers).permute(0, 2, 3, 1).flatten(0, 2)
        self.matrix.copy_(solve(rows, images.permute(0, 2, 3, 1).flatten(0, 2)))

    def _pixels(self, seen: Tensor, answers: Tensor) -> Tensor:
        shown = seen - 0.5
        return torch.cat([shown, shown.square(), self.means(answers) - 0.5, torch.ones_like(shown[:, :1])], 1)

    def base(self, seen: Tensor, answers: Tensor) -> Tensor:
        with torch.autocast(seen.device.type, enabled=False):  # 16 bits would round the pixels of an unprotected picture
            return torch.einsum("nfhw,ft->nthw", self._pixels(seen.float(), answers), self.matrix)

    def residual(self, seen: Tensor, answers: Tensor) -> Tensor:
        return self.unet(with_labels(4 * (seen - 0.5), answers, self.classes))  # type: ignore[no-any-return]


class CodeInverter(Inverter):
    """An inverter for observed latents (N x C x h x w) or one-hot labels (N x K x 1 x 1).

    The base is the label's mean picture. Transposed convolutions compute the residual.
    """

    def __init__(self, example: Tensor, width: int, means: MeanPictures, size: int) -> None:
        super().__init__(means)
        flat = example.flatten(1)
        self.side, self.size = -(-size // 8), size
        self.register_buffer("speaks", (flat.std(0) > 0).nonzero()[:, 0])
        self.register_buffer("middle", flat.mean(0)[self.speaks])
        self.register_buffer("spread", flat.std(0)[self.speaks])
        w = 4 * width
        self.first = nn.Sequential(nn.Linear(len(self.speaks) + self.classes, w * self.side**2), nn.LeakyReLU(0.2))
        layers: list[nn.Module] = []
        for into in (w, w // 2, w // 4):
            layers += [nn.ConvTranspose2d(into, into // 2, 4, 2, 1), nn.BatchNorm2d(into // 2), nn.LeakyReLU(0.2)]
        last = nn.Conv2d(w // 8, 3, 3, padding=1)
        zero_(last)
        self.rest = nn.Sequential(*layers, last)

    speaks: Tensor
    middle: Tensor
    spread: Tensor

    def residual(self, seen: Tensor, answers: Tensor) -> Tensor:
        code = (seen.flatten(1)[:, self.speaks] - self.middle) / self.spread
        label = F.one_hot(answers, self.classes).to(code)
        grid = self.first(torch.cat([code, label], 1)).view(len(seen), -1, self.side, self.side)
        residual: Tensor = self.rest(grid)[..., : self.size, : self.size]
        return residual


def zero_(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def inverter(example: Tensor, width: int, means: MeanPictures, size: int) -> Inverter:
    """Return an untrained inverter for observations like `example` (N x C x h x w) and originals of `size` x `size` pixels.

    `width` scales the number of channels. `means` has the mean picture for each label.
    """
    if example.shape[1] == 3 and example.shape[-1] == size:
        return PictureInverter(width, means)
    return CodeInverter(example, width, means, size)


class SmallCNN(nn.Module):
    """A small classifier of five convolutions, for the judge and for attackers that predict the class."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        w, layers = width, []
        for c_in, c_out in ((3, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if c_out > w else []
        layers += [nn.Conv2d(4 * w, 8 * w, 3, padding=1, bias=False), nn.BatchNorm2d(8 * w), nn.ReLU()]
        self.layers, self.last = nn.Sequential(*layers), nn.Linear(8 * w, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N x K) of images (N x 3 x H x W in [0, 1])."""
        return self._head(self.layers(4 * (images - 0.5)))

    def _head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(x.amax((2, 3)))
        return logits

    def features_and_logits(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the activations of each block, and the logits. Activations are normalised over channels, as in LPIPS."""
        x, activations = 4 * (images - 0.5), []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                activations.append(F.normalize(x, dim=1))
        return activations, self._head(x)


def feature_distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """Return the perceptual distance between each of N images and its counterpart (N).

    `x` and `y` are the features of the images and of their counterparts, with a tensor for each block. Squared differences are
    summed over channels, averaged over pixels, and summed over blocks. With features of AlexNet and learnt channel weights, the
    distance would be LPIPS (Zhang et al. 2018).
    """
    return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(x, y, strict=True)]).sum(0)


class Critic(nn.Module):
    """A patch discriminator, which learns to separate originals from guesses (Isola et al. 2017).

    The input is N x 3 x H x W. The output is a map of logits, N x 1 x H/8 x W/8.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.utils.spectral_norm(nn.Conv2d(c_in, c_out, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(4 * (images - 0.5))
        return logits


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global random number generator for the context, for example to draw initial weights.

    Only one thread at a time can be in this context. Other threads wait.
    """
    with _drawing:
        torch.manual_seed(seed)
        yield


def learn(
    network: nn.Module,
    loss: Callable[..., Tensor],
    data: Sequence[Tensor],
    passes: int,
    *,
    batch: int = 64,
    rate: float = RATE,
    seed: int = 0,
    tick: Callable[[int], None] = lambda _: None,
) -> None:
    """Train a network with AdamW and one learning-rate cycle, on `passes` images in total, repeats included.

    `data` are tensors with one row for each image. `loss` is called with a batch of rows from each tensor. `rate` is the peak
    learning rate. `tick` receives the number of images of each step. The last step may report fewer images, so that the sum is
    `passes`.
    """
    channels_last(network.train())
    parameters = [each for each in network.parameters() if each.requires_grad]
    n, device = len(data[0]), parameters[0].device
    batch = min(batch, n)
    total = max(1, math.ceil(passes / batch))
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=1e-4)
    # With exactly five steps torch would divide by a warm-up of length zero.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(6, total + 1), pct_start=0.2)
    random = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(total):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(n, generator=random)])
        rows, order = order[:batch], order[batch:]
        optimizer.zero_grad(set_to_none=True)
        with narrow(device):
            value = loss(*(each[rows].to(device) for each in data))
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        tick(max(0, min(batch, passes - step * batch)))
    network.eval()


def narrow(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context that computes in bfloat16, if the device supports that.

    Autocast's weight cache is off. All threads share this cache, and the first thread to finish would clear it.
    """
    return (
        torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
        if computes_in_16_bits(device)
        else contextlib.nullcontext()
    )


def run(network: Callable[..., Tensor], device: torch.device, *inputs: Tensor) -> Tensor:
    """Compute network(*inputs) in batches on `device`, without gradients. Return the result on the CPU."""
    with torch.inference_mode(), narrow(device):
        rows = torch.arange(len(inputs[0]))
        return in_parts(lambda part: network(*(each[part].to(device) for each in inputs)).float().cpu(), rows)
