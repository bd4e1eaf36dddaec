"""The attackers' networks, the judge's, and the one loop that all of them learn by."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference import computes_in_16_bits
from ..models import UNet, channels_last, in_parts

__all__ = ["Critic", "Decoder", "SmallCNN", "inverter", "learn", "run", "seeded"]

RATE = 4e-3  # of AdamW, at its peak
_drawing = threading.Lock()


class Inverter(nn.Module):
    """A U-Net that draws the original from a picture-like view, told the label: N x 3 x H x W -> N x 3 x H x W."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.unet, self.classes = UNet(width), classes
        first: Any = self.unet.inc.f[0]
        self.unet.inc.f[0] = nn.Conv2d(3 + classes, first.out_channels, 3, padding=1)
        self.direct = nn.Conv2d(6, 3, 1)  # what is not hidden at all needs no network: it passes beside
        nn.init.zeros_(self.direct.weight)
        nn.init.zeros_(self.direct.bias)  # type: ignore[arg-type]

    def forward(self, seen: Tensor, answers: Tensor) -> Tensor:
        """Return the guess, not clamped."""
        told = F.one_hot(answers, self.classes).to(seen)[:, :, None, None].expand(-1, -1, *seen.shape[-2:])
        shown = 4 * (seen - 0.5)
        guess: Tensor = self.unet(torch.cat([shown, told], 1)) + self.direct(torch.cat([shown, shown.square()], 1)) + 0.5
        return guess


class Decoder(nn.Module):
    """Draws the original from a code, told the label: N x C x h x w of any kind -> N x 3 x H x W."""

    def __init__(self, example: Tensor, width: int, classes: int, size: int) -> None:
        super().__init__()
        flat = example.flatten(1)
        self.classes, self.side = classes, -(-size // 8)
        self.size = size
        self.register_buffer("speaks", (flat.std(0) > 0).nonzero()[:, 0])
        self.register_buffer("middle", flat.mean(0)[self.speaks])
        self.register_buffer("spread", flat.std(0)[self.speaks])
        w = 4 * width
        self.first = nn.Sequential(nn.Linear(len(self.speaks) + classes, w * self.side**2), nn.LeakyReLU(0.2))
        layers: list[nn.Module] = []
        for into in (w, w // 2, w // 4):
            layers += [nn.ConvTranspose2d(into, into // 2, 4, 2, 1), nn.BatchNorm2d(into // 2), nn.LeakyReLU(0.2)]
        self.rest = nn.Sequential(*layers, nn.Conv2d(w // 8, 3, 3, padding=1))

    speaks: Tensor
    middle: Tensor
    spread: Tensor

    def forward(self, seen: Tensor, answers: Tensor) -> Tensor:
        """Return the guess, not clamped."""
        code = (seen.flatten(1)[:, self.speaks] - self.middle) / self.spread
        told = F.one_hot(answers, self.classes).to(code)
        grid = self.first(torch.cat([code, told], 1)).view(len(seen), -1, self.side, self.side)
        guess: Tensor = self.rest(grid)[..., : self.size, : self.size] + 0.5
        return guess


def inverter(example: Tensor, width: int, classes: int, size: int) -> nn.Module:
    """Return a network that draws originals of `size` from views like `example`."""
    if example.shape[1] == 3 and example.shape[-1] == size:
        return Inverter(width, classes)
    return Decoder(example, width, classes, size)


class SmallCNN(nn.Module):
    """A small classifier: five convolutions. It judges reconstructions, having seen none, or reads the class from a view."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        w, layers = width, []
        for c_in, c_out in ((3, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if c_out > w else []
        layers += [nn.Conv2d(4 * w, 8 * w, 3, padding=1, bias=False), nn.BatchNorm2d(8 * w), nn.ReLU()]
        self.layers, self.last = nn.Sequential(*layers), nn.Linear(8 * w, classes)

    def forward(self, images: Tensor) -> Tensor:
        """N x 3 x H x W in [0, 1] -> logits N x K."""
        logits: Tensor = self.last(self.layers(4 * (images - 0.5)).amax((2, 3)))
        return logits

    def features(self, images: Tensor) -> list[Tensor]:
        """Return what each block makes of images, as LPIPS takes it: normalised over channels."""
        x, found = 4 * (images - 0.5), []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(F.normalize(x, dim=1))
        return found

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return how different pairs of images look to these features (N): squared, averaged over places, added over blocks.

        LPIPS (Zhang et al. 2018) without its learnt weights of channels, on this network in the place of AlexNet.
        """
        pairs = zip(self.features(x), self.features(y), strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


class Critic(nn.Module):
    """Tells guesses from originals patch by patch: N x 3 x H x W -> N x 1 x H/8 x W/8 logits (Isola et al. 2017)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.utils.spectral_norm(nn.Conv2d(c_in, c_out, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of being an original."""
        logits: Tensor = self.layers(4 * (images - 0.5))
        return logits


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw what is enclosed, such as a network's first weights, from this seed, and let nobody else draw meanwhile."""
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
    """Fit a network to `loss(*rows)` of the tensors in `data`, `passes` images in all: AdamW in one cycle.

    `tick` is told how many of the `passes` are done; the last step may look at more.
    """
    channels_last(network.train())
    parameters = [each for each in network.parameters() if each.requires_grad]
    n, device = len(data[0]), parameters[0].device
    batch = min(batch, n)
    total = max(1, math.ceil(passes / batch))
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=1e-4)
    # Of exactly five steps the warm-up would be none, and torch divides by its length.
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
    """Compute in 16 bits where the device does.

    Without autocast's memory of the weights in 16 bits: it is the whole process's, and cleared by whoever is done first.
    """
    return (
        torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
        if computes_in_16_bits(device)
        else contextlib.nullcontext()
    )


def run(network: Callable[..., Tensor], device: torch.device, *inputs: Tensor) -> Tensor:
    """Return network(*inputs) of many rows, some at a time, without gradients, on the CPU."""
    with torch.inference_mode(), narrow(device):
        rows = torch.arange(len(inputs[0]))
        return in_parts(lambda part: network(*(each[part].to(device) for each in inputs)).float().cpu(), rows)
