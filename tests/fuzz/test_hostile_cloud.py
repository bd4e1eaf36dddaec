"""An authentic cloud with nonsensical responses: edge and client report the cloud's fault, and the edge blames no client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from workbench.client import HttpsClient
from workbench.errors import ServiceError
from workbench.protocol import LENGTH_HEADER
from workbench.services.batching import ComputePool
from workbench.services.cloud import CloudService, cloud_model
from workbench.services.edge import EdgeService
from workbench.services.types import RequestContext
from workbench.system import Cloud, Edge

from doors import MODEL, SIZE, Ask, House, parts  # isort: skip
from hostile import pictures  # isort: skip
from tests.support.services import WEIGHTS, Served, edge_of, serving

Lie = Callable[[bytes, bytes], tuple[bytes, bytes]]  # the JSON of a response, and its binary data


class LyingCloud(CloudService):
    lie: Lie
    claims: dict[str, Any]  # in place of the metadata

    async def _service(self, http: HttpRequest) -> HttpResponse:
        return self._claimed(await super()._service(http))

    async def _model(self, http: HttpRequest) -> HttpResponse:
        return self._claimed(await super()._model(http))

    def _claimed(self, answer: HttpResponse) -> HttpResponse:
        return HttpResponse(json.dumps(json.loads(answer.body) | self.claims), answer.status_code)

    async def _answer(self, http: HttpRequest, body: bytes, call: RequestContext) -> HttpResponse:
        answer = await super()._answer(http, body, call)
        length = int(answer.headers[LENGTH_HEADER])
        head, data = self.lie(answer.body[:length], answer.body[length:])
        return HttpResponse(head + data, headers={LENGTH_HEADER: str(len(head))}, media_type="application/octet-stream")


@contextlib.contextmanager
def liar(lie: Lie = lambda head, data: (head, data), **claims: Any) -> Iterator[Served]:
    pair, codecs, dataset = parts()
    cloud = Cloud(codecs["png"], pair.target)
    model = cloud_model(MODEL, WEIGHTS["target"], cloud, dataset.classes)
    service = LyingCloud(cloud, model, dataset.classes, ComputePool(), plain=True)
    service.ready, service.lie, service.claims = True, lie, claims
    with serving(service, None, "cloud") as served:
        yield served


@contextlib.contextmanager
def lying(lie: Lie) -> Iterator[House]:
    pair, codecs, dataset = parts()
    loop = asyncio.new_event_loop()
    with liar(lie) as served:
        edge = edge_of(pair, codecs["png"], dataset, served.url, None, plain=True)
        loop.run_until_complete(edge.open())
        try:
            yield House({"edge": edge}, loop)
        finally:
            loop.run_until_complete(edge.close())
            loop.close()


ASK = Ask("edge", "/recognize", pictures()["digit"])


def ask_cloud(cloud: Served) -> dict[str, float | None]:
    pair, codecs, _ = parts()
    with HttpsClient(cloud.url, plain=True, protects=Edge(pair.generator, codecs["png"])) as client:
        answer = client.recognise(torch.zeros(8, 3, SIZE, SIZE))
    assert answer.scores.shape == (8, 10)
    return answer.milliseconds


async def check(edge: EdgeService) -> None:
    async with edge.cloud:
        await edge.check_cloud()


def with_times(said: str) -> Lie:
    def lie(head: bytes, data: bytes) -> tuple[bytes, bytes]:
        lied, count = re.subn(rb'(_ms": )[0-9.e-]+', rb"\g<1>" + said.encode(), head)
        assert count == 3
        return lied, data

    return lie


def with_scores(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], shape: list[int] | None = None) -> Lie:
    def lie(head: bytes, data: bytes) -> tuple[bytes, bytes]:
        content = json.loads(head)
        entry = content["outputs"][-1]
        size = entry["parameters"]["binary_data_size"]
        scores = change(np.frombuffer(data[-size:], np.float32).reshape(entry["shape"]))
        entry["shape"], entry["parameters"]["binary_data_size"] = shape or list(scores.shape), scores.nbytes
        return json.dumps(content).encode(), data[:-size] + scores.tobytes()

    return lie


TIMES = ['"x"', "-5", "1e999", "null", "[]", "{}", "9" * 19]


@pytest.mark.parametrize("said", TIMES)
def test_times_that_are_none_spoil_no_answer(said: str) -> None:
    with lying(with_times(said)) as services:
        answer = services.ask(ASK)
    assert answer.status == 200
    times = json.loads(answer.body)["milliseconds"]
    assert all(math.isfinite(value) and value >= 0 for value in times.values())


@pytest.mark.parametrize("said", TIMES)
def test_times_that_are_none_spoil_no_phones_answer(said: str) -> None:
    with liar(with_times(said)) as cloud:
        times = ask_cloud(cloud)
    assert all(value is None or (math.isfinite(value) and value >= 0) for value in times.values())


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (with_scores(lambda scores: scores[:1]), "did not answer with scores of 10 classes for 8 images"),
        (with_scores(lambda scores: scores[:, :9]), "did not answer with scores of 10 classes for 8 images"),
        (with_scores(lambda scores: scores * np.float32(math.nan)), "did not answer with scores"),
        (with_scores(lambda scores: scores[:0], [0, *[1 << 24] * 3]), "did not answer in the protocol"),
    ],
    ids=["one row", "nine classes", "nan", "a huge shape"],
)
def test_a_phone_accepts_no_wrong_answer_of_its_cloud(lie: Lie, reason: str) -> None:
    with liar(lie) as cloud, pytest.raises(ServiceError, match=reason) as caught:
        ask_cloud(cloud)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("claims", "status"),
    [({"parameters": None}, 502), ({"versions": {"": 1}}, 502), ({"models": {}}, 502), ({"models": ["模型\ud800"]}, 404)],
    ids=str,
)
def test_metadata_that_is_none_is_the_clouds_fault(claims: dict[str, Any], status: int) -> None:
    pair, codecs, dataset = parts()
    with liar(**claims) as cloud:
        with pytest.raises(ServiceError, match="does not speak the Open Inference Protocol|there is no such model") as caught:
            ask_cloud(cloud)
        assert caught.value.status == status
        if status == 502:  # an edge knows the name of its model
            edge = edge_of(pair, codecs["png"], dataset, cloud.url, None, plain=True)
            with pytest.raises(ServiceError, match="does not speak the Open Inference Protocol"):
                asyncio.run(check(edge))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_none_are_the_clouds_fault(score: float) -> None:
    with lying(with_scores(lambda scores: np.full_like(scores, score))) as services:
        answer = services.ask(ASK)
    assert answer.status == 502
    assert "did not answer with scores" in json.loads(answer.body)["error"]
