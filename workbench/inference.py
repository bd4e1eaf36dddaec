"""The networks as edge and cloud run them: the same function in fewer operations.

    batch norms folded into the convolutions before them; channels_last; the compressor's silent channels left out, its
    normalisation's parameters computed once

Exact to rounding: images within 1e-3, labels the same (tested). What is prepared can no longer be trained or saved.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .models import Classifier, NeuralCompressor, PerturbationGenerator, channels_last
from .weights import Pair

from compressai.layers import GDN  # isort: skip  (after models, which makes torchvision importable)

__all__ = ["prepare", "prepare_pair"]

Network = TypeVar("Network", bound=nn.Module)


def prepare(network: Network, device: str | torch.device | None = None) -> Network:
    """Return a copy of a generator, a classifier or a compressor, made for inference on a device; the original stays."""
    out: Any = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(out, Classifier):
        out.network = _fold(out.network)
    elif isinstance(out, PerturbationGenerator):
        setattr(out, "unet", _fold(out.unet))  # noqa: B010  (a GraphModule in the U-Net's place)
    elif isinstance(out, NeuralCompressor):
        _lighten(out)
    return channels_last(out, device)  # type: ignore[no-any-return]


def prepare_pair(pair: Pair, device: str | torch.device | None = None) -> Pair:
    """Return a pair whose networks are made for inference on a device."""
    return replace(
        pair,
        target=prepare(pair.target, device),
        auxiliary=prepare(pair.auxiliary, device),
        generator=prepare(pair.generator, device),
        compressor=None if pair.compressor is None else prepare(pair.compressor, device),
    )


def _fold(network: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a convolution, and nothing else does, into that convolution."""
    traced = fx.symbolic_trace(network)
    modules: dict[str, Any] = dict(traced.named_modules())
    for node in traced.graph.nodes:
        norm, source = modules.get(str(node.target)), node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node):
            continue
        convolution = modules.get(str(source.target)) if source.op == "call_module" else None
        if isinstance(convolution, nn.Conv2d) and len(source.users) == 1:
            parent, _, name = str(source.target).rpartition(".")
            setattr(traced.get_submodule(parent), name, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Norm(nn.Module):
    """A GDN or its inverse, whose parameters are no longer reparametrised at every call."""

    def __init__(self, gdn: GDN) -> None:
        super().__init__()
        channels = gdn.beta.numel()
        self.inverse = bool(gdn.inverse)
        self.register_buffer("beta", gdn.beta_reparam(gdn.beta).detach().clone())
        self.register_buffer("gamma", gdn.gamma_reparam(gdn.gamma).detach().reshape(channels, channels, 1, 1).clone())

    beta: Tensor
    gamma: Tensor

    def forward(self, x: Tensor) -> Tensor:
        norm = F.conv2d(x * x, self.gamma, self.beta)
        return x.mul(norm.sqrt_() if self.inverse else norm.rsqrt_())


class _Spread(nn.Module):
    """The last layer of g_a for the channels that speak; the others are zero."""

    def __init__(self, layer: nn.Conv2d, loud: Tensor) -> None:
        super().__init__()
        self.layer, self.channels = copy.deepcopy(layer), layer.out_channels
        assert layer.bias is not None
        self.layer.weight, self.layer.bias = nn.Parameter(layer.weight[loud]), nn.Parameter(layer.bias[loud])
        self.register_buffer("loud", loud)

    loud: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.new_zeros(len(y), self.channels, *y.shape[2:]).index_copy_(1, self.loud, y)


class _Gather(nn.Module):
    """The first layer of g_s for the channels that speak."""

    def __init__(self, layer: nn.ConvTranspose2d, loud: Tensor) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.layer.weight = nn.Parameter(layer.weight[loud])
        self.register_buffer("loud", loud)

    loud: Tensor

    def forward(self, y: Tensor) -> Tensor:
        return self.layer(y.index_select(1, self.loud))  # type: ignore[no-any-return]


def _lighten(compressor: NeuralCompressor) -> None:
    """Leave out what always is zero: channels whose last weights are, and whose median is."""
    last, first = compressor.g_a[-1], compressor.g_s[0]
    if isinstance(last, _Spread):
        return  # prepared before
    medians = compressor.entropy_bottleneck.quantiles[:, 0, 1]
    silent = (last.weight == 0).flatten(1).all(1) & (last.bias == 0) & (medians == 0)
    if silent.any() and not silent.all():
        loud = (~silent).nonzero()[:, 0]
        compressor.g_a[-1], compressor.g_s[0] = _Spread(last, loud), _Gather(first, loud)
    for part in (compressor.g_a, compressor.g_s):
        for index, layer in enumerate(part):
            if isinstance(layer, GDN):
                part[index] = _Norm(layer)
