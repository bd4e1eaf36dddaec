"""The rate of a request: it reaches the edge's codec, the payload contains it, and the operator limits it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.services import Both, ask, both_of
from workbench.client import HttpsClient
from workbench.codecs import Neural, Png
from workbench.data import Dataset
from workbench.errors import ServiceError, UsageError
from workbench.pictures import to_float
from workbench.system import System
from workbench.weights import Pair


@pytest.fixture(scope="module")
def both(networks: Pair, variable: Neural, digits: Dataset, certs: Path) -> Iterator[Both]:
    with both_of(networks, variable, digits, certs, most_rate=0.75) as both:
        yield both


@pytest.fixture(scope="module")
def images(digits: Dataset) -> torch.Tensor:
    return to_float(digits.test.images[:8])


def test_a_rate_is_answered_as_in_process(both: Both, networks: Pair, variable: Neural, images: torch.Tensor) -> None:
    reference = System.in_process(networks.generator, variable, networks.target)
    sizes = []
    with HttpsClient(both.edge.url, certs=both.certs) as client:
        for rate in (None, 0.0, 0.25, 0.75):
            answer, expected = client.recognise(images, rate=rate), reference.recognise(images, rate=rate)
            torch.testing.assert_close(answer.scores, expected.scores, rtol=1e-4, atol=1e-5)
            assert answer.s2_bytes == expected.s2_bytes
            sizes.append(answer.s2_bytes)
    assert sizes[0] == sizes[1] < sizes[2] < sizes[3]


def test_a_plain_request_may_name_a_rate(both: Both, files: list[bytes]) -> None:
    sizes = []
    for rate in ("0", "0.25", "0.75"):
        answer = ask(both.edge.url, "/recognize", files[0], both.certs, headers={"X-Rate": rate})
        assert answer.status == 200
        sizes.append(answer.json["payload_bytes"])
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.5 * sizes[-1]


def test_a_rate_that_the_edge_does_not_send_at_is_refused(both: Both, files: list[bytes]) -> None:
    messages = {
        "0.8": "this edge sends at a rate of 0.75 or less, got 0.8",
        "2": "rate must be between 0",
        "nan": "rate must be between 0",
        "much": "the header X-Rate must be a number",
    }
    for rate, message in messages.items():
        answer = ask(both.edge.url, "/recognize", files[0], both.certs, headers={"X-Rate": rate})
        assert (answer.status, message in str(answer.json["error"])) == (400, True), rate


def test_an_edge_sends_at_its_own_rate_unless_allowed_more(
    networks: Pair, variable: Neural, digits: Dataset, certs: Path, images: torch.Tensor
) -> None:
    own = variable.at(0.5)
    expected = System.in_process(networks.generator, own, networks.target).recognise(images)
    with both_of(networks, own, digits, certs) as both, HttpsClient(both.edge.url, certs=certs) as client:
        assert client.recognise(images).s2_bytes == expected.s2_bytes
        with pytest.raises(ServiceError, match=r"rate of 0\.5 or less, got 1"):
            client.recognise(images, rate=1.0)
        with pytest.raises(UsageError, match="rate must be between 0"):
            client.recognise(images, rate=-1.0)


def test_an_edge_of_another_codec_has_no_rate(networks: Pair, digits: Dataset, certs: Path, files: list[bytes]) -> None:
    with both_of(networks, Png(), digits, certs) as both:
        answer = ask(both.edge.url, "/recognize", files[0], both.certs, headers={"X-Rate": "0.5"})
    assert answer.status == 400
    assert "codec 'png' has no rate, got 0.5" in answer.json["error"]
