"""The paper's five-level U-Net. It loads the public baseline's checkpoints: its modules have the same names and shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["UNet"]


class DoubleConv(nn.Module):
    """Two blocks of 3x3 convolution -> batch norm -> LeakyReLU 0.2. Shapes: C_in x H x W -> C_out x H x W."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (c_in, c_out):
            layers += [nn.Conv2d(channels, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2, inplace=True)]
        self.f = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)  # type: ignore[no-any-return]


class Down(nn.Module):
    """2x2 max-pool -> DoubleConv. Shapes: C_in x H x W -> C_out x H/2 x W/2."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.MaxPool2d(2), DoubleConv(c_in, c_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)  # type: ignore[no-any-return]


class Up(nn.Module):
    """2x2 transposed convolution of stride 2 -> concatenation with the skip connection -> DoubleConv.

    The skip connection comes first in the concatenation. Shapes: the input is C_in x H x W, the skip connection is C_in/2 x 2H
    x 2W, and the output is C_out x 2H x 2W.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(c_in, c_in // 2, 2, stride=2)
        self.conv = DoubleConv(c_in, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.upsample(x)], dim=1))  # type: ignore[no-any-return]


class OutConv(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.f = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """The network that computes a perturbation from normalised images. The caller adds the perturbation to the images.

    Images and perturbation are N x 3 x H x W. H and W are multiples of 16. `width` is the number of channels of the first
    level.

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
        """Return the features of each of the five levels, before the upsampling.

        The first level is N x w x H x W, and the fifth is N x 16 w x H/16 x W/16. w is the width of the network.
        """
        x1 = self.inc(x)
        x2 = self.d1(x1)
        x3 = self.d2(x2)
        x4 = self.d3(x3)
        return x1, x2, x3, x4, self.d4(x4)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2, x3, x4, x5 = self.contract(x)
        y = self.u1(x5, x4)
        return self.outc(self.u4(self.u3(self.u2(y, x3), x2), x1))  # type: ignore[no-any-return]
