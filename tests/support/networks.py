"""Untrained networks of all kinds, their manifests, and pictures for them."""

from __future__ import annotations

from typing import Any

import torch

from workbench.classifiers import Classifier
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.weights import Manifest, describe


def generator(seed: int = 0) -> PerturbationGenerator:
    torch.manual_seed(seed)
    return PerturbationGenerator(width=2).eval()


def classifier(seed: int = 0, name: str = "mobilenet_v2", width: int = 8) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(name, width=width).eval()


def spread_compressor(seed: int = 0) -> NeuralCompressor:
    """Return a compressor whose latents spread over many symbols, so that each image has another code."""
    torch.manual_seed(seed)
    made = NeuralCompressor(N=8, M=12).eval().requires_grad_(False)
    made.g_a[-1].weight.mul_(300)
    made.update(force=True, update_quantiles=True)
    return made


def manifest(module: torch.nn.Module, name: str, family: str = "digits", **fields: Any) -> Manifest:
    kind, spec = describe(module)
    return Manifest(name, family, kind, spec, data="untrained", seed=0, **fields)


def pictures(n: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


PAIR = ("mobilenet_v2", "mobilenet_v2")
PAIR_NAME = "mobilenet_v2-X-mobilenet_v2"
