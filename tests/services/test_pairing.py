"""Edge and cloud with different weights or codecs: neither computes for the other."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse

from tests.support.services import WEIGHTS, Answered, Log, Served, ask, cloud_of, edge_of, serving
from tests.support.waiting import until
from workbench.codecs import Codec, Jpeg, Neural, Png
from workbench.data import Dataset
from workbench.errors import WeightsError, WorkbenchError
from workbench.models import NeuralCompressor
from workbench.pictures import to_float
from workbench.protocol import LENGTH_HEADER, Tensor, write_request
from workbench.services.batching import ComputePool
from workbench.services.cloud import CloudService, cloud_model, key_id
from workbench.services.loading import StageConfig, cloud_stage, edge_stage
from workbench.services.trust import client_context
from workbench.system import Cloud, Edge
from workbench.weights import Pair

INFER = "/v2/models/resnet18/infer"


@pytest.fixture(scope="module")
def other() -> Neural:
    torch.manual_seed(1)
    compressor = NeuralCompressor(N=8, M=12).requires_grad_(False)
    compressor.update(force=True, update_quantiles=True)
    return Neural(compressor, identity="other")


@pytest.fixture(scope="module")
def cloud(networks: Pair, neural: Neural, digits: Dataset, certs: Path) -> Iterator[Served]:
    with serving(cloud_of(networks, neural, digits), certs, "cloud") as served:
        yield served


def sent(served: Served, payload: bytes, certs: Path) -> Answered:
    body, length = write_request([Tensor.of("payload", [payload])])
    return ask(served.url, INFER, body, certs, "edge", {LENGTH_HEADER: length})


def test_the_cloud_refuses_a_payload_of_other_weights(
    cloud: Served, networks: Pair, neural: Neural, other: Neural, digits: Dataset, certs: Path
) -> None:
    images = to_float(digits.test.images[:3])
    assert sent(cloud, Edge(networks.generator, neural).protect(images), certs).status == 200
    answer = sent(cloud, Edge(networks.generator, other).protect(images), certs)
    assert answer.status == 400
    assert set(answer.json) == {"error"}


def test_the_cloud_refuses_a_payload_of_another_codec(cloud: Served, digits: Dataset, certs: Path) -> None:
    images = to_float(digits.test.images[:3])
    for codec in (Png(), Jpeg()):
        assert sent(cloud, codec.encode(images), certs).status == 400


def test_the_cloud_refuses_a_payload_that_was_damaged(
    cloud: Served, networks: Pair, neural: Neural, digits: Dataset, certs: Path
) -> None:
    payload = Edge(networks.generator, neural).protect(to_float(digits.test.images[:3]))
    parts = urlsplit(cloud.url)
    connection = http.client.HTTPSConnection(parts.netloc, timeout=60, context=client_context(certs, "edge"))
    with contextlib.closing(connection):
        for position, byte in enumerate(payload):
            damaged = payload[:position] + bytes([byte ^ 0x55]) + payload[position + 1 :]
            body, length = write_request([Tensor.of("payload", [damaged])])
            connection.request("POST", INFER, body, {LENGTH_HEADER: length})
            response = connection.getresponse()
            response.read()
            assert response.status == 400, position


@pytest.mark.parametrize("what", ["target", "weights", "codec"])
def test_an_edge_is_not_ready_before_another_cloud_than_its_own(
    cloud: Served,
    networks: Pair,
    neural: Neural,
    other: Neural,
    digits: Dataset,
    certs: Path,
    files: list[bytes],
    logged: Log,
    what: str,
) -> None:
    codec: Codec = {"target": neural, "weights": other, "codec": Png()}[what]
    target = "c" * 64 if what == "target" else WEIGHTS["target"]
    edge = edge_of(networks, codec, digits, cloud.url, certs, target=target)
    reason = "the generator was trained for cccccccccccccccc" if what == "target" else "decodes another codec or other weights"
    with serving(edge, certs, "edge", ready=False) as served:
        until(lambda: reason in logged.text)
        assert "not ready: " in logged.text
        assert not edge.ready
        assert ask(served.url, "/v2/health/ready", certs=certs).status == 503
        answer = ask(served.url, "/recognize", files[0], certs)
        assert answer.status == 502
        assert cloud.url in answer.json["error"]


def test_an_edge_whose_cloud_offers_another_model_is_not_ready(
    cloud: Served, networks: Pair, neural: Neural, digits: Dataset, certs: Path, files: list[bytes], logged: Log
) -> None:
    edge = edge_of(networks, neural, digits, cloud.url, certs)
    edge.model = dataclasses.replace(edge.model, name="vgg13_bn")
    with serving(edge, certs, "edge", ready=False) as served:
        until(lambda: "there is no such model here; there is 'resnet18'" in logged.text)
        assert ask(served.url, "/recognize", files[0], certs).status == 502
        assert not edge.ready


def test_an_edge_waits_for_its_cloud(networks: Pair, neural: Neural, digits: Dataset, certs: Path, files: list[bytes]) -> None:
    with contextlib.ExitStack() as stack:
        with serving(cloud_of(networks, neural, digits), certs, "cloud") as first:
            url = first.url
        edge = edge_of(networks, neural, digits, url, certs)
        served = stack.enter_context(serving(edge, certs, "edge", ready=False))
        assert not edge.ready
        port = int(url.rpartition(":")[2])
        stack.enter_context(serving(cloud_of(networks, neural, digits), certs, "cloud", port=port))
        until(lambda: edge.ready)
        assert ask(served.url, "/recognize", files[0], certs).status == 200


class Misdescribed(CloudService):
    lie: dict[str, Any]

    async def _model(self, request: HttpRequest) -> HttpResponse:
        answer = await super()._model(request)
        return JSONResponse(json.loads(bytes(answer.body)) | self.lie)


@contextlib.contextmanager
def misdescribed(pair: Pair, codec: Codec, dataset: Dataset, certs: Path, **lie: Any) -> Iterator[tuple[Served, Misdescribed]]:
    cloud = Cloud(codec, pair.target)
    model = cloud_model(pair.target.name, WEIGHTS["target"], cloud, dataset.classes)
    service = Misdescribed(cloud, model, dataset.classes, ComputePool())
    service.ready, service.lie = True, lie
    with serving(service, certs, "cloud") as served:
        yield served, service


@pytest.mark.parametrize("lie", [{"parameters": None}, {"parameters": ["codec_id"]}, {"versions": 1}, {"versions": {"a": 1}}])
def test_an_edge_waits_for_a_malformed_cloud_to_be_repaired(
    networks: Pair, neural: Neural, digits: Dataset, certs: Path, logged: Log, lie: dict[str, Any]
) -> None:
    with misdescribed(networks, neural, digits, certs, **lie) as (served, cloud):
        edge = edge_of(networks, neural, digits, served.url, certs)
        with serving(edge, certs, "edge", ready=False):
            until(lambda: f"not ready: {served.url} does not speak the Open Inference Protocol" in logged.text)
            assert not edge.ready
            cloud.lie = {}
            until(lambda: edge.ready)


def test_an_edge_checks_its_cloud_again_after_a_fault(
    cloud: Served, networks: Pair, neural: Neural, digits: Dataset, certs: Path, logged: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = edge_of(networks, neural, digits, cloud.url, certs)
    check, faults = edge.check_cloud, iter([KeyError("a value of the cloud")])

    async def faulty() -> None:
        for fault in faults:
            raise fault
        await check()

    monkeypatch.setattr(edge, "check_cloud", faulty)
    with serving(edge, certs, "edge"):
        assert edge.ready
    assert "not ready: KeyError" in logged.text
    assert "a value of the cloud" not in logged.text


@pytest.mark.parametrize("name", ["codec_id", "version"])
def test_what_a_cloud_claims_is_a_short_line_of_the_log(
    networks: Pair, neural: Neural, digits: Dataset, certs: Path, logged: Log, name: str
) -> None:
    claim = "x\ny" + "z" * 10_000
    lie = {"versions": [claim]} if name == "version" else {"parameters": {"codec_id": claim}}
    with misdescribed(networks, neural, digits, certs, **lie) as (served, _):
        with serving(edge_of(networks, neural, digits, served.url, certs), certs, "edge", ready=False):
            until(lambda: "not ready: " in logged.text)
        (line,) = [text for each in logged.records("workbench.services") if "not ready" in (text := each.getMessage())]
    assert "'x\\nyzz" in line
    assert "\n" not in line
    assert len(line) < 300


def test_a_cloud_that_changed_while_the_edge_ran_is_refused(
    networks: Pair, neural: Neural, digits: Dataset, certs: Path, files: list[bytes]
) -> None:
    with contextlib.ExitStack() as stack:
        with serving(cloud_of(networks, neural, digits), certs, "cloud") as first:
            served = stack.enter_context(serving(edge_of(networks, neural, digits, first.url, certs), certs, "edge"))
            assert ask(served.url, "/recognize", files[0], certs).status == 200
            port = int(first.url.rpartition(":")[2])
        another = cloud_of(networks, neural, digits)
        another.model = dataclasses.replace(another.model, version="d" * 16)
        stack.enter_context(serving(another, certs, "cloud", port=port))
        answer = ask(served.url, "/recognize", files[0], certs)
        assert answer.status == 502
        assert (
            "answers with a resnet18 'dddddddddddddddd', the generator was trained for bbbbbbbbbbbbbbbb" in answer.json["error"]
        )


def test_codecs_are_known_by_all_that_their_decoder_must_know(neural: Neural, other: Neural) -> None:
    assert len({key_id(codec.key) for codec in (neural, other, Png(), Jpeg())}) == 4
    assert key_id(Png().key) == key_id(Png().key)


def test_stages_of_one_pair_agree(tiny_data: Path, digits: Dataset) -> None:
    for codec in ("png", "neural"):
        stage = StageConfig("digits", digits.classes, "resnet18", "mobilenet_v2", codec)
        edge, generator, target = edge_stage(stage)
        cloud, version = cloud_stage(stage)
        assert target == version != generator
        assert key_id(edge.codec.key) == key_id(cloud.codec.key)


def test_a_stage_whose_weights_are_missing_says_so(empty_data: Path, digits: Dataset) -> None:
    stage = StageConfig("digits", digits.classes, "resnet18", "mobilenet_v2")
    for make in (edge_stage, cloud_stage):
        with pytest.raises(WeightsError, match="digits") as caught:
            make(stage)
        assert isinstance(caught.value, WorkbenchError)
