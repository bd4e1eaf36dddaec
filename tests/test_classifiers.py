"""The eight recognition models: their shapes, their sizes, and the baseline's names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support import networks
from workbench.classifiers import CLASSIFIER_NAMES, MEAN, STD, Classifier, heads
from workbench.errors import UsageError
from workbench.models import parameters

PARAMETERS = {
    "vgg13_bn": 28_334_410,
    "vgg16_bn": 33_646_666,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "densenet121": 6_956_426,
    "mobilenet_v2": 2_236_682,
    "googlenet": 5_490_986,
    "inception_v3": 21_638_954,
}
# The names of tensors in checkpoints of the public baseline.
KEYS = {
    "resnet18": {"conv1.weight": (64, 3, 3, 3), "layer1.0.conv1.weight": (64, 64, 3, 3), "fc.weight": (10, 512)},
    "resnet34": {"layer3.5.bn2.running_var": (256,), "fc.bias": (10,)},
    "vgg13_bn": {
        "features.0.weight": (64, 3, 3, 3),
        "classifier.0.weight": (4096, 512),
        "classifier.3.weight": (4096, 4096),
        "classifier.6.weight": (10, 4096),
    },
    "vgg16_bn": {"features.40.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 512)},
    "densenet121": {
        "features.conv0.weight": (64, 3, 3, 3),
        "features.denseblock1.denselayer1.norm1.weight": (64,),
        "classifier.weight": (10, 1024),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "classifier.1.weight": (10, 1280),
    },
    "googlenet": {
        "conv1.conv.weight": (192, 3, 3, 3),
        "inception3a.branch2.1.conv.weight": (128, 96, 3, 3),
        "inception3a.branch3.1.conv.weight": (32, 16, 3, 3),
        "fc.weight": (10, 1024),
    },
    "inception_v3": {
        "Conv2d_1a_3x3.conv.weight": (192, 3, 3, 3),
        "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
        "fc.weight": (10, 2048),
    },
}
NO_KEYS = {"googlenet": ("conv2.", "conv3.", "aux"), "inception_v3": ("Conv2d_2", "Conv2d_3", "Conv2d_4", "AuxLogits")}


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_a_classifier_has_the_baselines_tensors_also_if_narrow(name: str) -> None:
    with torch.device("meta"):  # shapes without memory
        whole, narrow = Classifier(name).eval(), Classifier(name, width=8)
        assert whole(torch.empty(2, 3, 32, 32)).shape == (2, 10)
        assert Classifier(name, 7, width=8).eval()(torch.empty(2, 3, 32, 32)).shape == (2, 7)
    assert parameters(whole) == PARAMETERS[name]
    shapes, fewer = ({key: tuple(value.shape) for key, value in each.network.state_dict().items()} for each in (whole, narrow))
    assert {key: shapes.get(key) for key in KEYS[name]} == KEYS[name]
    assert [key for key in shapes if key.startswith(NO_KEYS.get(name, ("mean", "std")))] == []
    assert list(shapes) == list(fewer)
    for key, shape in fewer.items():
        assert all(few in (many, many // 8) for many, few in zip(shapes[key], shape, strict=True)), key
    assert parameters(narrow) < 1.3 * parameters(whole) / 8
    assert (whole.title, narrow.title) == (name, f"{name} (1/8 width)")


def test_a_classifier_normalises_what_it_is_given() -> None:
    model = networks.classifier(0, "resnet18")
    images = networks.pictures()
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(model(images), model.network(normalised), atol=1e-5)


def test_every_weight_of_a_new_vgg_was_initialised() -> None:
    for key, value in networks.classifier(0, "vgg13_bn").state_dict().items():
        assert value.isfinite().all(), key
        assert value.abs().max() < 100, key


@pytest.mark.parametrize("name", ["vgg13_bn", "vgg16_bn"])
def test_the_vggs_linear_head_is_one_layer_on_the_same_features(name: str) -> None:
    with torch.device("meta"):
        public, linear = Classifier(name), Classifier(name, head="linear").eval()
        assert linear(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    shapes = {key: value.shape for key, value in public.network.features.state_dict().items()}
    assert {key: value.shape for key, value in linear.network.features.state_dict().items()} == shapes
    assert sum(p.numel() for p in linear.parameters()) < 0.55 * sum(p.numel() for p in public.parameters())
    assert (heads(name), heads("resnet18")) == (("public", "linear"), ("public",))


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_logits_are_those_of_each_image_alone_at_any_size(name: str) -> None:
    classifier = networks.classifier(0, name)
    for size in ((32, 32), (48, 32), (8, 40)):
        images = networks.pictures(2, *size)
        with torch.inference_mode():
            logits, alone = classifier(images), classifier(images[1:])
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()
        assert torch.allclose(logits[1:], alone, rtol=1e-3, atol=1e-4 * float(logits.abs().max()))
        assert not torch.equal(logits[0], logits[1])
    with torch.inference_mode():  # the last images are padded by their border
        assert torch.equal(logits, classifier(torch.nn.functional.pad(images, (0, 0, 0, 24), mode="replicate")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet8"}, "unknown classifier 'resnet8': did you mean 'resnet18'"),
        ({"head": "linear"}, "unknown head of resnet18 'linear'"),
        ({"width": 3}, "by one of 1, 2, 4, 8, got 3"),
    ],
)
def test_an_unknown_name_head_or_width_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Classifier(**arguments)
