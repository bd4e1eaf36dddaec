"""Convolutions of 2 x 2 images as one matrix product give what PyTorch's convolutions give."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from workbench.classifiers import Classifier
from workbench.training.convolutions import multiply_small_images


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_and_gradients_are_those_of_a_convolution(side: int, bias: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(side)
    plain = nn.Conv2d(5, 7, 3, padding=1, bias=bias).to(memory_format=layout)
    quick, found = copy.deepcopy(plain), []
    multiply_small_images(quick)
    images = torch.randn(4, 5, side, side)
    for layer in (plain, quick):
        read = images.clone(memory_format=layout).requires_grad_()
        out: Tensor = layer(read)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        found.append([out, read.grad, *(each.grad for each in layer.parameters())])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, 2, 1),
        nn.Conv2d(4, 4, 3, 1, 1, groups=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 5, 1, 2),
    ],
    ids=["unpadded", "stride", "groups", "1 x 1", "5 x 5"],
)
def test_convolutions_of_other_forms_stay(layer: nn.Conv2d) -> None:
    multiply_small_images(layer)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("name", ["resnet18", "vgg13_bn"])
def test_a_classifier_keeps_its_parameters_and_its_logits(name: str) -> None:
    torch.manual_seed(0)
    network = Classifier(name, 10, "public" if name == "resnet18" else "linear", width=8).eval()
    before, images = {key: value.clone() for key, value in network.state_dict().items()}, torch.rand(3, 3, 32, 32)
    expected = network(images)
    multiply_small_images(network)
    assert sum(type(layer) is not nn.Conv2d for layer in network.modules() if isinstance(layer, nn.Conv2d)) >= 3
    torch.testing.assert_close(network(images), expected)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == {
        k: tuple(v.shape) for k, v in before.items()
    }
