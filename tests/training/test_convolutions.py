"""Convolutions by minimal filtering give what PyTorch's convolutions give."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support.objectives import SETTINGS, train_here
from workbench.classifiers import Classifier
from workbench.data import Dataset
from workbench.inference import prepare
from workbench.pictures import to_float
from workbench.training import convolutions
from workbench.training.convolutions import filter_minimally
from workbench.training.objectives import ClassifierObjective

CHANNELS = 64, 128
SIZES = [(2, 2), (3, 3), (4, 8), (6, 6), (9, 6), (10, 14), (16, 12), (5, 5), (1, 1)]


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "SMALL", 0)


def layers(bias: bool = True) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(*CHANNELS, 3, padding=1, bias=bias).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    quick = copy.deepcopy(plain)
    filter_minimally(quick)
    return plain, quick


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_those_of_a_convolution(
    size: tuple[int, int], bias: bool, layout: torch.memory_format
) -> None:
    images, found = torch.randn(3, CHANNELS[0], *size), []
    against = torch.randn(3, CHANNELS[1], *size)
    for layer in layers(bias):
        read = images.clone(memory_format=layout).requires_grad_()
        out: Tensor = layer(read)
        (out * against).sum().backward()
        found.append([out, read.grad, *(each.grad for each in layer.parameters())])
    for expected, value in zip(*found, strict=True):
        assert value.shape == expected.shape
        assert (value - expected).abs().max() < 1e-4 * expected.abs().max()


def test_gradients_of_gradients_are_refused() -> None:
    images = torch.randn(2, CHANNELS[0], 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(layers()[1](images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_training_filters_minimally_and_leaves_plain_layers(few: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    objective = ClassifierObjective(Classifier("vgg13_bn", 10, "linear", width=4))
    used: set[str] = set()
    for layer in objective.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda module, _: used.add(type(module).__name__))
    outcome = train_here(objective, few, tmp_path, replace(SETTINGS, epochs=1))
    assert used == {"Conv2d", "_Convolution"}
    assert {type(layer) for layer in objective.modules() if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}
    prepared = prepare(objective.network.eval())
    assert prepared(to_float(few.test.images[:2])).isfinite().all()
    with FlopCounterMode(display=False) as counter:
        objective.train()(to_float(few.train.images), few.train.labels)[0].backward()
    assert outcome.pflop == pytest.approx(counter.get_total_flops() / 1e15), "the cost is that of plain convolutions"


@pytest.mark.parametrize("m", convolutions.SIDES)
def test_the_transforms_are_exact(m: int) -> None:
    into, kernel, out = (each.double() for each in convolutions._transforms(m))
    image, weights = torch.randn(m + 2, m + 2).double(), torch.randn(3, 3).double()
    filtered = out @ ((kernel @ weights.flatten()) * (into @ image.flatten()))
    expected = nn.functional.conv2d(image[None, None], weights[None, None])
    torch.testing.assert_close(filtered.view(m, m), expected[0, 0], rtol=1e-5, atol=1e-5)


def test_frozen_kernels_pass_the_gradient_on() -> None:
    plain, quick = (layer.requires_grad_(False) for layer in layers())
    images = torch.randn(2, CHANNELS[0], 4, 4, requires_grad=True)
    expected, value = (torch.autograd.grad(layer(images).square().sum(), images)[0] for layer in (plain, quick))
    assert (value - expected).abs().max() < 1e-4 * expected.abs().max()


def test_without_gradients_or_in_16_bits_the_layer_is_unchanged() -> None:
    plain, quick = layers()
    images = torch.randn(2, CHANNELS[0], 4, 4)
    with torch.no_grad():
        assert torch.equal(quick(images), plain(images))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quick(images), plain(images))
    assert not torch.equal(quick(images), plain(images)), "else this test says nothing"


def test_of_few_values_the_layer_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, quick = layers()
    images = torch.randn(2, CHANNELS[0], 4, 4)
    monkeypatch.setattr(convolutions, "SMALL", images.numel())
    assert torch.equal(quick(images), plain(images))
    assert not torch.equal(quick(images.repeat(2, 1, 1, 1)), plain(images.repeat(2, 1, 1, 1)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, 2, 1),
        nn.Conv2d(128, 128, 3, 1, 1, groups=2),
        nn.Conv2d(128, 128, 3, 1, 2, dilation=2),
        nn.Conv2d(128, 128, 3, 1, 1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 5, 1, 2),
        nn.Conv2d(64, 64, 3, 1, 1),
    ],
    ids=["unpadded", "stride", "groups", "dilation", "reflect", "1 x 1", "5 x 5", "few channels"],
)
def test_convolutions_of_other_forms_stay(layer: nn.Conv2d) -> None:
    filter_minimally(layer)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("name", ["resnet18", "vgg13_bn"])
def test_a_classifier_keeps_its_parameters_and_its_logits(name: str) -> None:
    torch.manual_seed(0)
    plain = Classifier(name, 10, "public" if name == "resnet18" else "linear", width=2)
    quick, images = copy.deepcopy(plain), torch.rand(8, 3, 32, 32)
    filter_minimally(quick)
    assert sum(type(layer) is not nn.Conv2d for layer in quick.modules() if isinstance(layer, nn.Conv2d)) >= 3
    torch.testing.assert_close(quick(images), plain(images), rtol=1e-3, atol=1e-3)
    quick.load_state_dict(plain.state_dict())  # their batch norms saw slightly different images
    with torch.no_grad():
        assert torch.equal(quick.eval()(images), plain.eval()(images))
    assert list(quick.state_dict()) == list(plain.state_dict())
