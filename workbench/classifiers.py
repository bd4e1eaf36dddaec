"""The papers' eight recognition models: torchvision's networks in their CIFAR-10 form.

This form is that of the public PyTorch_CIFAR10 project. The first convolution has stride 1. The first pooling layers are kept
only if that project keeps them. Auxiliary heads are removed. All parameters have that project's names, so that its checkpoints
load.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _compat
from .errors import UsageError, unknown
from .pictures import check_images

with _compat.stub_unused_imports():
    from torchvision import models as vision
    from torchvision.models.googlenet import BasicConv2d as GoogLeNetConv
    from torchvision.models.inception import BasicConv2d as InceptionConv

__all__ = ["CLASSIFIERS", "CLASSIFIER_NAMES", "MEAN", "STD", "WIDTHS", "Classifier", "heads"]

# The baseline's CIFAR-10 statistics (PP, server/data.py). They normalise the images of every data set.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
LEAST = 32  # minimum side of an image in pixels, since the VGGs halve it five times


def _vgg(constructor: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    with torch.device("meta"):  # allocates nothing: the first linear layer has 103 M numbers, and is replaced
        network: Any = constructor(num_classes=num_classes, init_weights=False)
    network.classifier[0] = nn.Linear(512, 4096, device="meta")
    # like `to_empty`, which would import sympy first
    network._apply(lambda meta: torch.empty(meta.shape, dtype=meta.dtype))
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network  # type: ignore[no-any-return]


def _resnet(constructor: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    network: Any = constructor(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network  # type: ignore[no-any-return]


def _densenet121(num_classes: int) -> nn.Module:
    network = vision.densenet121(num_classes=num_classes)
    network.features.conv0 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.features.conv0.weight)
    return network  # type: ignore[no-any-return]


def _mobilenet_v2(num_classes: int) -> nn.Module:
    settings = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    network = vision.mobilenet_v2(num_classes=num_classes, inverted_residual_setting=settings)
    network.features[0][0].stride = (1, 1)
    return network  # type: ignore[no-any-return]


def _googlenet(num_classes: int) -> nn.Module:
    network = vision.googlenet(num_classes=num_classes, aux_logits=False, transform_input=False, init_weights=False)
    network.conv1 = GoogLeNetConv(3, 192, kernel_size=3, stride=1, padding=1)
    network.maxpool1 = network.conv2 = network.conv3 = network.maxpool2 = nn.Identity()
    network.maxpool3 = nn.MaxPool2d(3, stride=2, padding=1)
    network.maxpool4 = nn.MaxPool2d(3, stride=2, padding=1)
    return network  # type: ignore[no-any-return]


def _inception_v3(num_classes: int) -> nn.Module:
    network = vision.inception_v3(num_classes=num_classes, aux_logits=False, transform_input=False, init_weights=False)
    network.Conv2d_1a_3x3 = InceptionConv(3, 192, kernel_size=3, stride=1, padding=1)
    network.Conv2d_2a_3x3 = network.Conv2d_2b_3x3 = network.maxpool1 = nn.Identity()
    network.Conv2d_3b_1x1 = network.Conv2d_4a_3x3 = network.maxpool2 = nn.Identity()
    return network  # type: ignore[no-any-return]


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {  # each builds a network for a number of classes
    "vgg13_bn": partial(_vgg, vision.vgg13_bn),
    "vgg16_bn": partial(_vgg, vision.vgg16_bn),
    "resnet18": partial(_resnet, vision.resnet18),
    "resnet34": partial(_resnet, vision.resnet34),
    "densenet121": _densenet121,
    "mobilenet_v2": _mobilenet_v2,
    "googlenet": _googlenet,
    "inception_v3": _inception_v3,
}
CLASSIFIER_NAMES = tuple(CLASSIFIERS)
WIDTHS = (1, 2, 4, 8)  # common divisors of the numbers of channels of all eight networks


def _narrow(network: nn.Module, width: int) -> nn.Module:
    named = [
        (name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    last = named[-1][0]
    for name, layer in named:
        if isinstance(layer, nn.Conv2d):
            first = layer.in_channels == 3
            narrow: nn.Module = nn.Conv2d(
                3 if first else layer.in_channels // width,
                layer.out_channels // width,
                (layer.kernel_size[0], layer.kernel_size[1]),
                (layer.stride[0], layer.stride[1]),
                layer.padding,  # type: ignore[arg-type]
                groups=layer.groups if layer.groups == 1 else layer.groups // width,
                bias=layer.bias is not None,
            )
            nn.init.kaiming_normal_(narrow.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        elif isinstance(layer, nn.BatchNorm2d):
            narrow = nn.BatchNorm2d(layer.num_features // width, layer.eps, layer.momentum)
        else:
            outputs = layer.out_features if name == last else layer.out_features // width
            narrow = nn.Linear(layer.in_features // width, outputs)
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, narrow)
    return network


def heads(name: str) -> tuple[str, ...]:
    """Return the names of the heads that a classifier supports: `public`, and for the VGGs also `linear`.

    A head is the last part of the network, which computes the logits.
    """
    return ("public", "linear") if name.startswith("vgg") else ("public",)


class Classifier(nn.Module):
    """A recognition model. It maps images in [0, 1], N x 3 x H x W, to logits, N x num_classes.

    `name` is one of `CLASSIFIERS`. Images with a side below 32 pixels are padded by repeating their border. `head` names the
    last part of the network, which computes the logits. The head `public` has the layers of the public checkpoints. The head
    `linear`, for the VGGs only, has one layer instead of three. With it a VGG has less than half of the parameters. `width` (1,
    2, 4 or 8) divides the papers' number of channels in every layer. So a larger `width` gives a smaller network, for small
    data sets and tests. Raises UsageError for another name, head or width.
    """

    def __init__(self, name: str = "resnet18", num_classes: int = 10, head: str = "public", width: int = 1) -> None:
        super().__init__()
        if name not in CLASSIFIERS:
            raise unknown("classifier", name, CLASSIFIERS)
        if head not in heads(name):
            raise unknown(f"head of {name}", head, heads(name))
        if width not in WIDTHS:
            raise UsageError(
                f"the width divides a classifier's channels by one of {', '.join(map(str, WIDTHS))}, got {width!r}"
            )
        self.name, self.num_classes, self.head, self.width = name, num_classes, head, width
        self.network = CLASSIFIERS[name](num_classes)
        if head == "linear":
            self.network.classifier = nn.Sequential(nn.Linear(512, num_classes))
        if width > 1:
            _narrow(self.network, width)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    @property
    def title(self) -> str:
        """The name, with the width if this is not 1: `resnet18 (1/8 width)`."""
        return self.name if self.width == 1 else f"{self.name} (1/{self.width} width)"

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        bottom, right = (max(0, LEAST - side) for side in images.shape[-2:])
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom), mode="replicate")
        return self.read_unpadded(images)

    def read_unpadded(self, images: Tensor) -> Tensor:
        """Return the logits of images without the padding of `forward`, for training on images smaller than 32 pixels."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
