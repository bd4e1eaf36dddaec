"""The eight recognition models: their shapes, their sizes, and the baseline's names."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch

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


@functools.cache
def classifier(name: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(name).eval()


@pytest.fixture(scope="module", autouse=True)
def _forget_the_classifiers() -> Iterator[None]:
    yield
    classifier.cache_clear()


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_there_are_eight_classifiers() -> None:
    assert set(CLASSIFIER_NAMES) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_classifier_has_the_baselines_number_of_parameters(name: str) -> None:
    assert parameters(classifier(name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_classifier_calls_its_tensors_as_the_baseline_does(name: str) -> None:
    shapes = {key: tuple(value.shape) for key, value in classifier(name).network.state_dict().items()}
    assert {key: shapes.get(key) for key in KEYS[name]} == KEYS[name]
    assert [key for key in shapes if key.startswith(NO_KEYS.get(name, ("mean", "std")))] == []


@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_classifier_gives_finite_logits_for_each_image_alone(name: str, side: int) -> None:
    images = pictures(2, 3, side, side)
    with torch.inference_mode():
        logits = classifier(name)(images)
        alone = classifier(name)(images[1:])
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    assert torch.allclose(logits[1:], alone, rtol=1e-3, atol=1e-4 * float(logits.abs().max()))
    assert not torch.equal(logits[0], logits[1])


def test_a_classifier_has_the_asked_number_of_classes() -> None:
    with torch.inference_mode():
        assert Classifier("mobilenet_v2", 7).eval()(pictures(1, 3, 32, 32)).shape == (1, 7)


def test_a_classifier_normalises_what_it_is_given() -> None:
    model = classifier("resnet18")
    images = pictures(2, 3, 32, 32)
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(model(images), model.network(normalised), atol=1e-5)


def test_every_weight_of_a_new_vgg_was_initialised() -> None:
    for key, value in classifier("vgg13_bn").state_dict().items():
        assert value.isfinite().all(), key
        assert value.abs().max() < 100, key


def test_an_unknown_classifier_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="unknown classifier 'resnet8': did you mean 'resnet18'"):
        Classifier("resnet8")


@pytest.mark.parametrize("name", ["vgg13_bn", "vgg16_bn"])
def test_the_vggs_linear_head_is_one_layer_on_the_same_features(name: str) -> None:
    with torch.device("meta"):
        public = Classifier(name)
    linear = Classifier(name, head="linear").eval()
    shapes = {key: value.shape for key, value in public.network.features.state_dict().items()}
    assert {key: value.shape for key, value in linear.network.features.state_dict().items()} == shapes
    assert sum(p.numel() for p in linear.parameters()) < 0.55 * sum(p.numel() for p in public.parameters())
    assert linear(pictures(2, 3, 32, 32)).shape == (2, 10)
    assert (heads(name), heads("resnet18")) == (("public", "linear"), ("public",))


def test_a_head_that_a_classifier_has_not_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown head of resnet18 'linear'"):
        Classifier("resnet18", head="linear")


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
@pytest.mark.parametrize("size", [(16, 16), (48, 32), (8, 40)])
def test_a_classifier_takes_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    classifier = Classifier(name, width=8).eval()
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        assert classifier(images).shape == (2, 10)
        if min(size) < 32:
            bottom, right = (max(0, 32 - side) for side in size)
            padded = torch.nn.functional.pad(images, (0, right, 0, bottom), mode="replicate")
            assert torch.equal(classifier(images), classifier(padded))


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
@pytest.mark.parametrize("width", [2, 8])
def test_a_narrow_network_is_the_same_with_fewer_channels(name: str, width: int) -> None:
    with torch.device("meta"):  # of the whole network the shapes are enough
        whole = Classifier(name, 7)
    narrow = Classifier(name, 7, width=width).eval()
    shapes, fewer = whole.network.state_dict(), narrow.network.state_dict()
    assert list(shapes) == list(fewer)
    for key, tensor in fewer.items():
        allowed = {(side, side // width) for side in shapes[key].shape} | {(3, 3), (7, 7), (1, 1)}
        assert all(pair in allowed or pair[0] == pair[1] for pair in zip(shapes[key].shape, tensor.shape, strict=True)), key
    assert sum(map(torch.numel, fewer.values())) < 1.3 * sum(map(torch.numel, shapes.values())) / width
    assert narrow(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert (whole.title, narrow.title) == (name, f"{name} (1/{width} width)")


def test_a_width_that_no_network_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"by one of 1, 2, 4, 8, got 3"):
        Classifier("resnet18", width=3)
