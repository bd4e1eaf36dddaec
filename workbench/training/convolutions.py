"""Convolutions of 2 x 2 images as one matrix product, which trains the last layers of ResNets and VGGs twice as fast."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["multiply_small_images"]


class _Convolution(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        count, channels, height, width = input.shape
        if not self.training or (height, width) != (2, 2):
            return super().forward(input)
        # Output pixel (v, u) sees input pixel (y, x) through the kernel's element (1 + y - v, 1 + x - u).
        seen = self.weight.unfold(2, 2, 1).unfold(3, 2, 1).flip(2, 3)  # output channels, input channels, v, u, y, x
        matrix = seen.permute(2, 3, 0, 4, 5, 1).reshape(4 * self.out_channels, 4 * channels)
        pixels = F.linear(input.permute(0, 2, 3, 1).reshape(count, 4 * channels), matrix)
        image = pixels.view(count, 2, 2, self.out_channels).permute(0, 3, 1, 2)
        return image if self.bias is None else image + self.bias.view(-1, 1, 1)


def multiply_small_images(network: nn.Module) -> None:
    """Let the network's 3 x 3 convolutions, padded by 1, treat 2 x 2 images as matrix products in training. In place.

    A convolution reads nine pixels for each of the four, and 20 of these 36 are padding. Results are equal up to rounding.
    Parameters keep their names and shapes. In evaluation mode the network computes as before.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _has_the_form(module):
            module.__class__ = _Convolution


def _has_the_form(module: nn.Conv2d) -> bool:
    form = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
    return form == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
