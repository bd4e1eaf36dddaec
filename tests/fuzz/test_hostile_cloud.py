"""An authentic cloud with nonsensical responses: the edge reports the cloud's fault, and blames no client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from workbench.protocol import LENGTH_HEADER
from workbench.services.batching import ComputePool
from workbench.services.cloud import CloudService, cloud_model
from workbench.services.types import RequestContext
from workbench.system import Cloud

from doors import MODEL, Ask, House, parts  # isort: skip
from hostile import pictures  # isort: skip
from tests.support.services import WEIGHTS, edge_of, serving


class LyingCloud(CloudService):
    lie: Callable[[bytes, bytes], tuple[bytes, bytes]]

    async def _answer(self, http: HttpRequest, body: bytes, call: RequestContext) -> HttpResponse:
        answer = await super()._answer(http, body, call)
        length = int(answer.headers[LENGTH_HEADER])
        head, data = self.lie(answer.body[:length], answer.body[length:])
        return HttpResponse(head + data, headers={LENGTH_HEADER: str(len(head))}, media_type="application/octet-stream")


@contextlib.contextmanager
def lying(lie: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> Iterator[House]:
    pair, codecs, dataset = parts()
    cloud = Cloud(codecs["png"], pair.target)
    model = cloud_model(MODEL, WEIGHTS["target"], cloud, dataset.classes)
    service = LyingCloud(cloud, model, dataset.classes, ComputePool(), plain=True)
    service.ready, service.lie = True, lie
    loop = asyncio.new_event_loop()
    with serving(service, None, "cloud") as served:
        edge = edge_of(pair, codecs["png"], dataset, served.url, None, plain=True)
        loop.run_until_complete(edge.open())
        try:
            yield House({"edge": edge}, loop)
        finally:
            loop.run_until_complete(edge.close())
            loop.close()


ASK = Ask("edge", "/recognize", pictures()["digit"])


@pytest.mark.parametrize("said", ['"x"', "-5", "1e999", "null", "[]", "{}", "9" * 19])
def test_times_that_are_none_spoil_no_answer(said: str) -> None:
    def lie(head: bytes, data: bytes) -> tuple[bytes, bytes]:
        lied, count = re.subn(rb'(_ms": )[0-9.e-]+', rb"\g<1>" + said.encode(), head)
        assert count == 3
        return lied, data

    with lying(lie) as services:
        answer = services.ask(ASK)
    assert answer.status == 200
    times = json.loads(answer.body)["milliseconds"]
    assert all(math.isfinite(value) and value >= 0 for value in times.values())


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_none_are_the_clouds_fault(score: float) -> None:
    def lie(head: bytes, data: bytes) -> tuple[bytes, bytes]:
        scores = np.full(10, score, np.float32).tobytes()
        return head, data[: -len(scores)] + scores

    with lying(lie) as services:
        answer = services.ask(ASK)
    assert answer.status == 502
    assert "did not answer with scores" in json.loads(answer.body)["error"]
