"""Client, edge and cloud joined: every arrangement and every codec under one contract, and the data that leave the edge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench import models
from workbench.codecs import Jpeg, Neural, Png
from workbench.data import Dataset
from workbench.errors import DataError, PayloadError, UsageError, WeightsError
from workbench.inference import prepare_pair
from workbench.metrics import psnr
from workbench.pictures import to_float
from workbench.system import COMPONENTS, Client, Cloud, Edge, Stopwatch, System, codec_for
from workbench.weights import Pair

NETWORKS = {"network_client_edge", "network_edge_cloud"}


@pytest.fixture(scope="module")
def images(digits: Dataset) -> torch.Tensor:
    return to_float(digits.test.images[:6])


@pytest.fixture(scope="module")
def prepared(networks: Pair) -> Pair:
    return prepare_pair(networks)


ARRANGEMENTS: dict[str, Callable[[Pair, Neural], System]] = {
    "PMC² png": lambda pair, _: System.in_process(pair.generator, Png(), pair.target),
    "PMC² jpeg": lambda pair, _: System.in_process(pair.generator, Jpeg(), pair.target),
    "PMC² neural": lambda pair, neural: System.in_process(pair.generator, neural, pair.target),
    "baseline PP": lambda pair, _: System.baseline(pair.generator, pair.target),
}


@pytest.fixture(params=ARRANGEMENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def system(name: str, prepared: Pair, neural: Neural) -> System:
    return ARRANGEMENTS[name](prepared, neural)


def received(system: System, images: torch.Tensor) -> torch.Tensor:
    return images if system.client is None else system.edge.receive(system.client.capture(images))


# --- the contract ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 6])
def test_scores_are_probabilities_for_each_image(system: System, images: torch.Tensor, n: int) -> None:
    answer = system.recognise(images[:n])
    assert answer.scores.shape == (n, 10)
    assert answer.scores.min() >= 0
    assert answer.scores.sum(1).tolist() == pytest.approx([1.0] * n, abs=1e-5)
    assert torch.equal(answer.labels, answer.scores.argmax(1))


def test_the_cloud_answers_the_payload_and_bytes_are_counted(name: str, system: System, images: torch.Tensor) -> None:
    before = images.clone()
    answer, again = system.recognise(images), system.recognise(images)
    assert torch.equal(images, before)
    assert torch.equal(answer.scores, again.scores)
    assert (answer.s1_bytes, answer.s2_bytes) == (again.s1_bytes, again.s2_bytes)
    payload = system.edge.protect(received(system, images))
    assert type(payload) is bytes
    assert answer.s2_bytes == len(payload)
    assert torch.equal(system.cloud.recognise(payload), answer.scores)
    assert (answer.s1_bytes is None) == (name == "baseline PP")
    if system.client is not None:
        assert answer.s1_bytes == sum(map(len, system.client.capture(images)))


def test_nine_components_are_timed_and_the_networks_are_not(name: str, system: System, images: torch.Tensor) -> None:
    milliseconds = system.recognise(images).milliseconds
    assert tuple(milliseconds) == COMPONENTS
    assert len(COMPONENTS) == 9
    assert {component for component, value in milliseconds.items() if value is None} == NETWORKS
    assert all(value >= 0 for value in milliseconds.values() if value is not None)
    worked = {"generator", "compression", "decompression", "classifier"}
    worked |= set() if name == "baseline PP" else {"client_compression", "edge_other"}
    assert {component for component, value in milliseconds.items() if value} >= worked
    if name == "baseline PP":
        assert milliseconds["client_compression"] == milliseconds["edge_other"] == 0


def test_images_keep_their_order(system: System, images: torch.Tensor) -> None:
    order = [4, 2, 0, 5, 3, 1]
    scores = system.recognise(images).scores
    assert torch.allclose(system.recognise(images[order]).scores, scores[order], rtol=0.01, atol=1e-9)
    assert not torch.allclose(scores, scores[order], rtol=0.1)


def test_the_payload_holds_no_original(name: str, system: System, images: torch.Tensor) -> None:
    at_edge = received(system, images)
    payload = system.edge.protect(at_edge)
    seen, protected = system.cloud.decode(payload), system.edge.perturb(at_edge)
    assert psnr(images, seen).max() < 25
    if "neural" not in name:
        assert (psnr(protected, seen) > psnr(images, seen) + 3).all()
    files = [*Png().encode_each(images), *Png().encode_each(at_edge), *Client().capture(images)]
    assert not any(file in payload for file in files)


def test_strength_reaches_the_generator(system: System, images: torch.Tensor) -> None:
    at_edge = received(system, images)
    for strength in (0.0, 0.5):
        expected = system.cloud.recognise(system.edge.codec.encode(system.edge.generator(at_edge, strength)))
        assert torch.allclose(system.recognise(images, strength).scores, expected, atol=1e-5)


def test_the_cloud_refuses_what_its_codec_did_not_make(system: System, images: torch.Tensor) -> None:
    payload = bytearray(system.edge.protect(images))
    payload[-1] ^= 1
    for broken in (bytes(payload), bytes(payload[:-1]), b"", b"junk"):
        with pytest.raises(PayloadError):
            system.cloud.recognise(broken)


def test_images_and_strengths_that_cannot_be_are_refused(system: System, images: torch.Tensor) -> None:
    for wrong in (torch.zeros(3, 32, 32), torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 3, 32, 32)):
        with pytest.raises(UsageError, match="expected float images N x 3 x H x W"):
            system.recognise(wrong)
    for strength in (-0.5, 2.0):
        with pytest.raises(UsageError, match=f"strength must be between 0 .*got {strength}"):
            system.recognise(images, strength)


# --- the parts -------------------------------------------------------------------------------------------------------------


def test_unprotected_png_is_the_classifier_alone(networks: Pair, digits: Dataset) -> None:
    images = to_float(digits.test.images[:32])
    system = System(None, Edge(networks.generator, Png()), Cloud(Png(), networks.target))
    answer = system.recognise(images, strength=0.0)
    with torch.inference_mode():
        alone = networks.target(images).softmax(1)
    assert torch.allclose(answer.scores, alone, atol=1e-4)
    assert torch.equal(answer.labels, alone.argmax(1))
    assert answer.labels.unique().numel() >= 5


def test_the_client_sends_jpeg_that_the_edge_reads(networks: Pair, images: torch.Tensor) -> None:
    client, edge = Client(), Edge(networks.generator, Png())
    files = client.capture(images)
    assert (client.jpeg.quality, client.jpeg.subsampling) == (90, "4:4:4")
    assert all(file.startswith(b"\xff\xd8\xff") for file in files)
    assert torch.equal(edge.receive(files), client.jpeg.decode_each(files))
    assert psnr(edge.receive(files), images).min() > 30
    assert edge.receive(files, size=16).shape == (6, 3, 16, 16)
    with pytest.raises(DataError):
        edge.receive([b"no picture"])


def test_a_system_by_name_is_the_one_made_of_its_parts(pair: Pair, images: torch.Tensor) -> None:
    loaded = System.load("digits", "resnet18", "mobilenet_v2", "jpeg", quality=70)
    made = System.in_process(pair.generator, Jpeg(70), pair.target)
    assert torch.allclose(loaded.recognise(images).scores, made.recognise(images).scores, atol=1e-5)
    assert loaded.edge.protect(images) == made.edge.protect(images)


def test_a_system_without_weights_says_which_are_missing(tiny_data: Path) -> None:
    with pytest.raises(WeightsError, match="no weights 'vgg13_bn' for data set 'digits'"):
        System.load("digits")


def test_a_neural_codec_needs_the_pairs_compressor(networks: Pair) -> None:
    pair = replace(networks, compressor=None)
    with pytest.raises(WeightsError, match="resnet18-X-mobilenet_v2 was loaded without its compressor"):
        codec_for(pair, "neural")
    assert isinstance(codec_for(pair, "jpeg", quality=50), Jpeg)


def test_a_stopwatch_adds_up_by_component() -> None:
    clock = Stopwatch()
    for component in ("generator", "generator", "classifier", "network_client_edge"):
        before = clock.milliseconds[component] or 0.0
        with clock(component):
            sum(range(1000))
        assert (clock.milliseconds[component] or 0.0) > before
    assert clock.milliseconds["network_edge_cloud"] is None


def test_a_large_batch_passes_through_the_networks_in_parts(
    networks: Pair, neural: Neural, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System.in_process(networks.generator, neural, networks.target)  # prepared here: the hooks stay with it
    whole = system.recognise(images)
    most: list[int] = []
    for network in (system.edge.generator, system.cloud.classifier):
        network.register_forward_pre_hook(lambda _, inputs: most.append(len(inputs[0])))
    monkeypatch.setitem(models.AT_ONCE, "cpu", 4)
    system.cloud._answers.clear()
    parts = system.recognise(images)
    assert most == [4, 2, 4, 2]
    assert parts.s2_bytes == whole.s2_bytes
    assert torch.allclose(parts.scores, whole.scores, atol=1e-5)


# --- the cloud's cache -----------------------------------------------------------------------------------------------------


def test_a_code_seen_before_is_answered_without_the_model(
    networks: Pair, neural: Neural, images: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    seen: list[int] = []
    hook = networks.target.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    request.addfinalizer(hook.remove)
    cloud, forgetful = Cloud(neural, networks.target), Cloud(neural, networks.target, remembered=0)
    payload = neural.encode(images)
    distinct = len(neural.unpack(payload)[0])
    first, again = cloud.recognise(payload), cloud.recognise(payload)
    assert seen == [distinct]
    assert torch.equal(first, again)
    mixed = cloud.recognise(neural.encode(torch.cat([images[:2], 1 - images[:1]])))
    assert seen == [distinct, 1]
    assert torch.equal(mixed[:2], first[:2])
    torch.testing.assert_close(forgetful.recognise(payload), first)
    assert seen == [distinct, 1, distinct]


def test_the_cloud_keeps_the_newest_answers_only(networks: Pair, neural: Neural, images: torch.Tensor) -> None:
    doubled = copy.deepcopy(networks.target).double()  # scores do not depend on the other images of a batch
    doubled.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    cloud = Cloud(neural, doubled, remembered=2)
    scores = torch.cat([cloud.recognise(neural.encode(image[None])) for image in images])
    assert len(cloud._answers) == 2
    torch.testing.assert_close(cloud.recognise(neural.encode(images)), scores, rtol=1.3e-6, atol=1e-5)
    assert len(cloud._answers) == 2
    again = torch.cat([cloud.recognise(neural.encode(image[None])) for image in images])
    assert torch.equal(again, scores), "what was forgotten is computed as it was"
    cloud = Cloud(Png(), networks.target)
    cloud.recognise(Png().encode(images))
    assert not cloud._answers, "pictures of codecs that do not repeat are not kept"
