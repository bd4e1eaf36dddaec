"""One contract for every arrangement across real TLS connections, compared with the same parts in this process."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support.services import both_of, cloud_of, serving
from workbench.client import HttpsClient
from workbench.codecs import Codec, Jpeg, Neural, Png
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.pictures import to_float
from workbench.system import COMPONENTS, Edge, System
from workbench.weights import Pair

N = 30


@dataclass(frozen=True)
class Arranged:
    system: HttpsClient
    what: str
    reference: System


@pytest.fixture(scope="module", params=["png", "jpeg", "neural", "PP"])
def arranged(
    request: pytest.FixtureRequest, networks: Pair, neural: Neural, digits: Dataset, certs: Path
) -> Iterator[Arranged]:
    codecs: dict[str, Codec] = {"png": Png(), "jpeg": Jpeg(), "neural": neural, "PP": Png()}
    codec = codecs[request.param]
    with contextlib.ExitStack() as stack:
        if request.param == "PP":
            reference = System.baseline(networks.generator, networks.target)
            cloud = stack.enter_context(serving(cloud_of(networks, codec, digits, roles=("client",)), certs, "cloud"))
            client = HttpsClient(cloud.url, certs=certs, protects=Edge(networks.generator, codec))
        else:
            reference = System.in_process(networks.generator, codec, networks.target)
            both = stack.enter_context(both_of(networks, codec, digits, certs, least_strength=0.0))
            client = HttpsClient(both.edge.url, certs=certs)
        yield Arranged(stack.enter_context(client), request.param, reference)


@pytest.fixture(scope="module")
def images(digits: Dataset) -> torch.Tensor:
    return to_float(digits.test.images[:N])


def test_answers_are_those_of_the_parts_joined_in_process(arranged: Arranged, images: torch.Tensor) -> None:
    answer, expected = arranged.system.recognise(images), arranged.reference.recognise(images)
    assert answer.scores.shape == (N, 10)
    assert answer.scores.sum(1).tolist() == pytest.approx([1.0] * N, abs=1e-5)
    assert torch.equal(answer.labels, expected.labels)
    torch.testing.assert_close(answer.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert answer.s1_bytes == expected.s1_bytes
    assert answer.s2_bytes == pytest.approx(expected.s2_bytes, rel=0.001)
    milliseconds = answer.milliseconds
    assert tuple(milliseconds) == COMPONENTS
    unmeasured = {component for component, value in milliseconds.items() if value is None}
    assert unmeasured == ({"network_client_edge"} if arranged.what == "PP" else set())
    assert (milliseconds["network_edge_cloud"] or 0) > 0
    assert all(value >= 0 for value in milliseconds.values() if value is not None)
    assert (milliseconds["generator"] or 0) > 0


def test_images_keep_their_order(arranged: Arranged, images: torch.Tensor) -> None:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    scores = arranged.system.recognise(images).scores
    torch.testing.assert_close(arranged.system.recognise(images[order]).scores, scores[order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores, scores[order], rtol=0.1)


def test_many_at_once_get_each_its_own_answer(arranged: Arranged, images: torch.Tensor) -> None:
    # PNG rounds what batches change
    alone = [arranged.reference.recognise(images[i : i + 1]).scores for i in range(len(images))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: arranged.system.recognise(images[i : i + 1]).scores, range(len(images))))
    torch.testing.assert_close(torch.cat(answers), torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.system
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_a_thousand_labels_are_right_under_32_clients(networks: Pair, digits: Dataset, certs: Path, batch: int) -> None:
    images = to_float(torch.cat([digits.train.images, digits.test.images])[:1000])
    assert len(images) == 1000
    reference = System.in_process(networks.generator, Png(), networks.target)
    expected = torch.cat([reference.recognise(part).labels for part in images.split(256)])
    assert expected.unique().numel() > 5
    parts = images.split(batch)
    with (
        both_of(networks, Png(), digits, certs, capacity=8192) as both,
        HttpsClient(both.edge.url, certs=certs, deadline_s=120) as client,
        concurrent.futures.ThreadPoolExecutor(32) as pool,
    ):
        answers = list(pool.map(lambda part: client.recognise(part).labels, parts))
    assert torch.equal(torch.cat(answers), expected)


def test_strength_reaches_the_generator(arranged: Arranged, images: torch.Tensor) -> None:
    for strength in (0.0, 0.5):
        answer, expected = arranged.system.recognise(images[:8], strength), arranged.reference.recognise(images[:8], strength)
        torch.testing.assert_close(answer.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_other_images_and_strengths_are_refused(arranged: Arranged, images: torch.Tensor) -> None:
    for wrong in (torch.zeros(3, 32, 32), torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 3, 32, 32)):
        with pytest.raises(UsageError, match="expected float images N x 3 x H x W"):
            arranged.system.recognise(wrong)
    for strength in (-0.5, 2.0, float("nan")):
        with pytest.raises(UsageError, match="strength must be between 0"):
            arranged.system.recognise(images, strength)
