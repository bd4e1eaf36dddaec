"""Prepare networks for inference: the same function with fewer operations.

Batch norms are folded into the preceding convolutions. Activations and additions are fused into convolutions. Each
convolution's weights are stored in the layout in which it runs fastest. The memory layout of images is channels_last. In the
compressor, all-zero channels are removed and the parameters of its normalisation (GDN) are computed once.

Prepared networks compute the same results up to rounding: images within 1e-3, equal labels (tested). With `bfloat16`,
convolutions take half the time, and about one label in several hundred may change. The compressor's decoder always computes in
32 bits. A prepared network cannot be trained, saved or moved to another device.
"""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from . import _compat
from .classifiers import Classifier
from .errors import UsageError, unknown
from .models import Network, NeuralCompressor, PerturbationGenerator, channels_last
from .weights import Pair

with _compat.stub_unused_imports():
    from compressai.layers import GDN

__all__ = ["PRECISIONS", "computes_in_16_bits", "prepare", "prepare_pair"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TRACING = threading.Lock()


def prepare(network: Network, device: str | torch.device | None = None, precision: str = "float32") -> Network:
    """Return a copy of a generator, a classifier or a compressor, prepared for inference on `device`.

    For `device` None, the copy stays on the network's device. `precision` is float32 or bfloat16. A prepared network is
    returned unchanged. Raises UsageError for an unknown precision, or if the network was prepared in the other precision.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if (before := getattr(network, "prepared", None)) is not None:
        if before != precision:
            raise UsageError(f"a network prepared in {before} cannot be prepared in {precision}: start from the original")
        return network
    out: Any = channels_last(copy.deepcopy(network).eval().requires_grad_(False), device)
    numbers = PRECISIONS[precision]
    where = next(out.parameters()).device
    if isinstance(out, Classifier):
        out.network = _made(_fold(out.network), where, numbers)
    elif isinstance(out, PerturbationGenerator):
        setattr(out, "unet", _made(_fold(out.unet), where, numbers))  # noqa: B010  (a GraphModule in the U-Net's place)
    elif isinstance(out, NeuralCompressor):
        _lighten(out)
        out.g_a = _made(_traced(out.g_a), where, numbers)
        out.g_s = _made(_traced(out.g_s), where, torch.float32)
    out.prepared = precision
    return out  # type: ignore[no-any-return]


def prepare_pair(pair: Pair, device: str | torch.device | None = None, precision: str = "float32") -> Pair:
    """Return a pair whose networks are prepared for inference (see `prepare`)."""
    return replace(
        pair,
        target=prepare(pair.target, device, precision),
        auxiliary=prepare(pair.auxiliary, device, precision),
        generator=prepare(pair.generator, device, precision),
        compressor=None if pair.compressor is None else prepare(pair.compressor, device, precision),
    )


def computes_in_16_bits(device: str | torch.device = "cpu") -> bool:
    """Return whether a device computes faster in bfloat16 than in float32."""
    return torch.device(device).type != "cpu" or any(
        torch.cpu.get_capabilities().get(each) for each in ("avx512_bf16", "amx_bf16")
    )


class _Tracer(fx.Tracer):
    """A tracer that records the calls of the thread that created it.

    While it traces, torch.fx patches the calls of modules in all threads. So calls from other threads must run as usual.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _traced(network: nn.Module) -> fx.GraphModule:
    with _TRACING:
        tracer = _Tracer()
        graph = tracer.trace(network)
    return fx.GraphModule(tracer.root, graph, type(network).__name__)


def _fold(network: nn.Module) -> fx.GraphModule:
    traced = _traced(network)
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


def _made(network: fx.GraphModule, where: torch.device, numbers: torch.dtype) -> nn.Module:
    narrow = numbers is not torch.float32
    if where.type == "cpu" and torch._C._has_mkldnn and (not narrow or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        _fuse(network, numbers)
    else:
        channels_last(network.to(numbers))
    return _Narrow(network.to(numbers), numbers) if narrow else network


class _Narrow(nn.Module):
    def __init__(self, network: nn.Module, numbers: torch.dtype) -> None:
        super().__init__()
        self.network, self.numbers = network, numbers

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x.to(self.numbers))
        return y.float()


class _Norm(nn.Module):
    """A layer that computes GDN (generalised divisive normalisation) or its inverse with precomputed parameters."""

    def __init__(self, gdn: GDN) -> None:
        super().__init__()
        channels = gdn.beta.numel()
        self.inverse = bool(gdn.inverse)
        self.mix = nn.Conv2d(channels, channels, 1).requires_grad_(False)
        assert self.mix.bias is not None
        self.mix.bias.copy_(gdn.beta_reparam(gdn.beta))
        self.mix.weight.copy_(gdn.gamma_reparam(gdn.gamma).reshape(channels, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        norm: Tensor = self.mix(x * x)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class _Spread(nn.Module):
    def __init__(self, layer: nn.Conv2d, loud: Tensor) -> None:
        super().__init__()
        self.layer, self.channels = copy.deepcopy(layer), layer.out_channels
        assert layer.bias is not None
        self.layer.weight, self.layer.bias = nn.Parameter(layer.weight[loud]), nn.Parameter(layer.bias[loud])
        self.register_buffer("loud", loud)

    loud: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.new_zeros(y.shape[0], self.channels, y.shape[2], y.shape[3]).index_copy_(1, self.loud, y)


class _Gather(nn.Module):
    def __init__(self, layer: nn.ConvTranspose2d, loud: Tensor) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.layer.weight = nn.Parameter(layer.weight[loud])
        self.register_buffer("loud", loud)

    loud: Tensor

    def forward(self, y: Tensor) -> Tensor:
        return self.layer(y.index_select(1, self.loud))  # type: ignore[no-any-return]


def _lighten(compressor: NeuralCompressor) -> None:
    """Remove inactive channels from a compressor, and compute the parameters of its GDN layers once.

    A channel of the latents is inactive if its weights, its bias and its median are zero.
    """
    last, first = compressor.g_a[-1], compressor.g_s[0]
    medians = compressor.entropy_bottleneck.quantiles[:, 0, 1]
    silent = (last.weight == 0).flatten(1).all(1) & (last.bias == 0) & (medians == 0)
    if silent.any() and not silent.all():
        loud = (~silent).nonzero()[:, 0]
        compressor.g_a[-1], compressor.g_s[0] = _Spread(last, loud), _Gather(first, loud)
    for part in (compressor.g_a, compressor.g_s):
        for index, layer in enumerate(part):
            if isinstance(layer, GDN):
                part[index] = _Norm(layer).to(medians.device)


class _Convolution(nn.Module):
    """A convolution with an optional addition and activation, as one oneDNN call. The weights have oneDNN's preferred layout.

    In eager mode torch reorders the weights at every call. For a batch of one image, this costs more than the convolution. So
    this class calls the operators that torch.compile generates for CPUs. The preferred layout depends on the processor, and may
    depend on the input's size and the number of threads, so one copy of the weights is cached for each layout.
    """

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, numbers: torch.dtype) -> None:
        super().__init__()
        self.transposed = isinstance(layer, nn.ConvTranspose2d)
        padding, extra, stride, dilation = map(list, (layer.padding, layer.output_padding, layer.stride, layer.dilation))
        self.shape = (padding, extra, stride, dilation) if self.transposed else (padding, stride, dilation)
        self.groups = layer.groups
        # These are neither parameters nor buffers, because `.to` must not change weights in oneDNN's layout.
        self.weight: Tensor = layer.weight.detach().to(numbers).contiguous()
        self.bias = None if layer.bias is None else layer.bias.detach().to(numbers)
        self.activation, self.scalars = "none", list[float]()
        self._laid_out: dict[tuple[torch.Size, int], Tensor] = {}  # keys: the input's size, the number of threads
        self._layouts: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        weight = self._laid_out.get((x.shape, torch.get_num_threads()))
        if weight is None:
            weight = self._lay_out(x.shape)
        run, rest = torch.ops.mkldnn, (*self.shape, self.groups)
        if other is not None:
            unary = None if self.activation == "none" else self.activation
            return run._convolution_pointwise.binary(  # type: ignore[no-any-return]
                x, other, weight, self.bias, *rest, "add", 1.0, unary, self.scalars, ""
            )
        call = run._convolution_transpose_pointwise if self.transposed else run._convolution_pointwise
        return call(x, weight, self.bias, *rest, self.activation, self.scalars, "")  # type: ignore[no-any-return]

    def _lay_out(self, size: torch.Size) -> Tensor:
        run = torch.ops.mkldnn
        reorder = run._reorder_convolution_transpose_weight if self.transposed else run._reorder_convolution_weight
        made = reorder(self.weight, *self.shape, self.groups, size)
        layout = run._get_mkldnn_serialized_md(made).numpy().tobytes()
        kept = self._laid_out[size, torch.get_num_threads()] = self._layouts.setdefault(layout, made)
        return kept


def _fuse(network: fx.GraphModule, numbers: torch.dtype) -> None:
    """Replace the zero-padded convolutions of `network` by `_Convolution`s, which compute in the data type `numbers`.

    An addition or an activation becomes part of the convolution before it if nothing else uses the convolution's output.
    Transposed convolutions are replaced without additions and activations.
    """
    modules: dict[str, Any] = dict(network.named_modules())
    nodes = list(network.graph.nodes)
    order = {node: place for place, node in enumerate(nodes)}
    for node in nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or layer.padding_mode != "zeros":
            continue
        made = _Convolution(layer, numbers)
        if not made.transposed:
            follower = _only_user(node)
            if follower is not None and follower.op == "call_function" and follower.target in (operator.add, operator.iadd):
                others = [each for each in follower.args if each is not node]
                if len(others) == 1 and isinstance(others[0], fx.Node) and order[others[0]] < order[node]:
                    node.args = (node.args[0], others[0])
                    _absorb(network, node, follower)
                    follower = _only_user(node)
            activation = None if follower is None else _activation(follower, modules)
            if follower is not None and activation is not None:
                made.activation, made.scalars = activation
                _absorb(network, node, follower)
        network.add_submodule(str(node.target), made)
    network.delete_all_unused_submodules()
    network.graph.lint()
    network.recompile()


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _absorb(network: fx.GraphModule, node: fx.Node, follower: fx.Node) -> None:
    follower.replace_all_uses_with(node)
    network.graph.erase_node(follower)


def _activation(node: fx.Node, modules: dict[str, Any]) -> tuple[str, list[float]] | None:
    layer = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(layer, nn.ReLU) or node.target in (F.relu, torch.relu):
        return "relu", []
    if isinstance(layer, nn.LeakyReLU):
        return "leaky_relu", [layer.negative_slope]
    if isinstance(layer, nn.ReLU6):
        return "hardtanh", [0.0, 6.0]
    return None
