"""The data that leave the edge: 1,000 requests, captured before their encryption, have only payloads and protocol fields."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.services import both_of
from workbench.client import HttpsClient
from workbench.codecs import Codec, Neural, Png
from workbench.data import Dataset
from workbench.pictures import to_float, to_uint8
from workbench.protocol import read_request
from workbench.services import http
from workbench.system import Client as Phone
from workbench.weights import Pair

N = 1000
CLASSES = tuple(f"handwritten {number}" for number in range(10))
HEAD = re.compile(
    rb"POST /v2/models/resnet18/infer HTTP/1\.1\r\nContent-Length: (\d+)\r\nInference-Header-Content-Length: (\d+)\r\n"
    rb"Content-Type: application/octet-stream\r\nHost: 127\.0\.0\.1:\d+\r\n\r\n"
)
ID = re.compile("[0-9a-f]{16}")
KEYS = {"parameters": {"binary_data_output": True}, "inputs": [{"name": "payload", "datatype": "BYTES", "shape": [1]}]}


@pytest.fixture(params=["neural", "png"])
def codec(request: pytest.FixtureRequest, neural: Neural) -> Codec:
    return neural if request.param == "neural" else Png()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    written: list[tuple[int, bytes]] = []
    send = http.PooledConnection.exchange

    async def noted(kept: http.PooledConnection, request: bytes) -> http.HttpAnswer:
        assert kept.transport is not None
        assert kept.transport.get_extra_info("ssl_object") is not None
        written.append((kept.transport.get_extra_info("peername")[1], request))
        return await send(kept, request)

    monkeypatch.setattr(http.PooledConnection, "exchange", noted)
    return written


@pytest.mark.system
def test_a_thousand_requests_hold_payloads_and_protocol_alone(
    networks: Pair, codec: Codec, digits: Dataset, certs: Path, sent: list[tuple[int, bytes]]
) -> None:
    named = replace(digits, classes=CLASSES)
    pictures = digits.test.images[:N]
    images = to_float(pictures)
    originals = Phone().capture(images)
    with both_of(networks, codec, named, certs) as both, HttpsClient(both.edge.url, certs=certs) as client:
        edge = both.edge.service.edge  # type: ignore[attr-defined]
        labels = torch.cat([client.recognise_files([file]).labels for file in originals])
    assert labels.unique().numel() > 2, "the answers differ, so that they could be seen"
    cloud = int(both.cloud.url.rpartition(":")[2])
    # A response that is late makes the edge send the same bytes again on another connection. Other bytes count as a request.
    seen = list(dict.fromkeys(request for port, request in sent if port == cloud and request.startswith(b"POST")))
    others = [request for port, request in sent if port == cloud and not request.startswith(b"POST")]
    assert len(seen) == N
    assert {request.partition(b" HTTP")[0] for request in others} <= {b"GET /v2/models/resnet18"}
    assert all(request.endswith(b"\r\n\r\n") for request in others), "no body"
    received = to_uint8(edge.receive(originals))
    ids = set()
    for request, file, original, picture in zip(seen, originals, pictures, received, strict=True):
        head = HEAD.match(request)
        assert head is not None, "no header but these"
        body = request[head.end() :]
        assert len(body) == int(head[1])
        header, payload = json.loads(body[: int(head[2])]), read_request(body, head[2].decode()).inputs["payload"].data[0]
        size = header["inputs"][0].pop("parameters")
        ids.add(header.pop("id"))
        assert header == KEYS
        assert size == {"binary_data_size": 4 + len(payload)}
        assert payload == edge.protect(to_float(picture[None])), "to the byte what the codec made of the protected picture"
        assert body[int(head[2]) + 4 :] == payload, "and nothing behind it"
        for whole in (original, picture):
            assert not any(row.tobytes() in request for row in whole.numpy().reshape(-1, 16) if len(set(row)) > 4)
        assert file[100:140] not in request
    assert len(ids) == N, "by which the cloud knows an attempt from another request"
    assert all(ID.fullmatch(each) for each in ids), "of chance"
    text = b"".join(seen)
    assert not any(name.encode() in text for name in CLASSES)
