"""Convolutions by minimal filtering (Winograd 1980; Lavin and Gray 2016), which PyTorch does not use on x86 CPUs.

::

    y = A' ((G k G') * (B' x B)) A        x: input tile, (m + 2) x (m + 2)    k: kernel, 3 x 3    y: output tile, m x m

A, B and G are constant matrices, ' is the transpose, and * multiplies element by element. For each pair of an input and an
output channel, a tile takes (m + 2)^2 multiplications. A direct convolution takes 9 m^2. Summed over the input channels, the
multiplications of all tiles are (m + 2)^2 matrix products.

The three transforms take time, too. In total, the method saves time with at least `FEWEST` pairs of channels and more than
`SMALL` values in a batch. In float32, results agree with those of a direct convolution to about five digits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["convolve", "filter_minimally", "unfiltered"]

SIDES = (4, 3, 2)  # m, the side of an output tile in pixels: the first number that divides both sides of the image
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)  # points of the interpolation: a tile takes the first m + 1, and infinity
FEWEST = 64 * 128  # input channels times output channels
SMALL = 1 << 17  # numbers in a batch of images, over all channels
_unfiltered = ContextVar("unfiltered", default=False)


class _Convolution(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        if not _suits(input):
            return super().forward(input)
        sides = [m for m in SIDES if not (input.shape[-2] % m or input.shape[-1] % m)]
        if not sides:
            return super().forward(input)
        out: Tensor = _Filter.apply(input, self.weight, sides[0])  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


def filter_minimally(network: nn.Module) -> None:
    """Switch the network's 3 x 3 convolutions to minimal filtering for training, in place. `convolve` reverses this.

    The change affects layers with many channels, stride 1 and padding 1. It needs float32 inputs on a CPU, with gradients
    enabled, more than `SMALL` values, and sides that are multiples of 2, 3 or 4. For other inputs, the layers compute as
    before. Parameters keep their names and shapes.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _has_the_form(module) and module.in_channels * module.out_channels >= FEWEST:
            module.__class__ = _Convolution


def convolve(network: nn.Module) -> None:
    """Switch all layers that `filter_minimally` changed back to PyTorch's convolutions, in place."""
    for module in network.modules():
        if type(module) is _Convolution:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]


@contextlib.contextmanager
def unfiltered() -> Iterator[None]:
    """A context in which all layers compute PyTorch's convolutions, so that their operations can be counted."""
    before = _unfiltered.set(True)
    try:
        yield
    finally:
        _unfiltered.reset(before)


def _has_the_form(module: nn.Conv2d) -> bool:
    form = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
    return form == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def _suits(images: Tensor) -> bool:
    single = images.dtype == torch.float32 and images.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return single and images.numel() > SMALL and torch.is_grad_enabled() and not _unfiltered.get()


@cache
def _transforms(m: int) -> tuple[Tensor, Tensor, Tensor]:
    # B', G and A' of the Toom-Cook algorithm. Each is a Kronecker product, which transforms a flattened square.
    points, side = POINTS[: m + 1], m + 2
    into, kernel, out = np.zeros((side, side)), np.zeros((side, 3)), np.zeros((m, side))
    for row, point in enumerate(points):
        others = [other for other in points if other != point]
        into[row, :-1] = np.poly(others)[::-1]
        kernel[row] = [point**power / np.prod([point - other for other in others]) for power in range(3)]
        out[:, row] = [point**power for power in range(m)]
    into[-1], kernel[-1, -1], out[-1, -1] = np.poly(points)[::-1], 1, 1
    return tuple(torch.from_numpy(np.kron(each, each)).float() for each in (into, kernel, out))  # type: ignore[return-value]


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, kernels: Tensor, m: int) -> Tensor:
        n, channels, height, width = images.shape
        side, filters, rows, columns = m + 2, len(kernels), height // m, width // m
        into, kernel, out = _transforms(m)
        tiles = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).unfold(1, side, m).unfold(2, side, m)
        tiles = (into @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(side**2, -1)).view(side**2, -1, channels)
        weights = (kernel @ kernels.permute(2, 3, 0, 1).reshape(9, -1)).view(side**2, filters, channels)
        pixels = out @ torch.bmm(tiles, weights.transpose(1, 2)).view(side**2, -1)
        ctx.save_for_backward(tiles if ctx.needs_input_grad[1] else None, weights if ctx.needs_input_grad[0] else None)
        ctx.m, ctx.shape = m, images.shape
        pixels = pixels.view(m, m, n, rows, columns, filters).permute(2, 3, 0, 4, 1, 5)
        return pixels.reshape(n, height, width, filters).contiguous().permute(0, 3, 1, 2)  # channels_last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,), (tiles, weights), m = gradients, ctx.saved_tensors, ctx.m
        (n, channels, height, width), filters, side = ctx.shape, gradient.shape[1], m + 2
        rows, columns = height // m, width // m
        into, kernel, out = _transforms(m)
        pixels = gradient.permute(0, 2, 3, 1).reshape(n, rows, m, columns, m, filters).permute(2, 4, 0, 1, 3, 5)
        products = (out.T @ pixels.reshape(m**2, -1)).view(side**2, -1, filters)
        of_images = of_kernels = None
        if ctx.needs_input_grad[1]:
            of_kernels = kernel.T @ torch.bmm(products.transpose(1, 2), tiles).view(side**2, -1)
            of_kernels = of_kernels.view(3, 3, filters, channels).permute(2, 3, 0, 1)
        if ctx.needs_input_grad[0]:
            seen = (into.T @ torch.bmm(products, weights).view(side**2, -1)).view(side, side, n, rows, columns, channels)
            of_images = _added(seen.permute(2, 3, 0, 4, 1, 5), m)[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)
        return of_images, of_kernels, None


def _added(tiles: Tensor, m: int) -> Tensor:
    """Join tiles that overlap by 2 pixels, and add them where they overlap.

    `tiles` are n x rows x (m + 2) x columns x (m + 2) x channels. Return n x (rows + 1) m x (columns + 1) m x channels. Rows
    and columns after the last tile are zero.
    """
    n, rows, _, columns, _, channels = tiles.shape
    whole = tiles.new_zeros(n, rows + 1, m, columns + 1, m, channels)
    whole[:, :-1, :, :-1] = tiles[:, :, :m, :, :m]
    whole[:, 1:, :2, :-1] += tiles[:, :, m:, :, :m]
    whole[:, :-1, :, 1:, :2] += tiles[:, :, :m, :, m:]
    whole[:, 1:, :2, 1:, :2] += tiles[:, :, m:, :, m:]
    return whole.view(n, (rows + 1) * m, (columns + 1) * m, channels)
