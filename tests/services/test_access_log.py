"""The access log: one line for each request, with useful facts and nothing of its content."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.services import SECRET, Both, Log, ask, both_of, edge_of, form_of, serving
from tests.support.waiting import until
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.pictures import to_float
from workbench.protocol import LENGTH_HEADER, Tensor, write_request
from workbench.services.trust import Token
from workbench.weights import Pair

NAMES = tuple(f"species-{name}" for name in "abcdefghij")
QUOTE = "-".join(["what", "was", "sent"])
KEYS = ["at", "service", "status", "id", "by", "model", "images", "bytes_in", "bytes_out", "payload", "ms"]


@pytest.fixture(scope="module")
def named(digits: Dataset) -> Dataset:
    return dataclasses.replace(digits, classes=NAMES)


@pytest.fixture(scope="module")
def both(networks: Pair, named: Dataset, certs: Path) -> Iterator[Both]:
    with both_of(networks, Png(), named, certs, token=Token(SECRET.encode())) as both:
        yield both


def test_a_request_is_one_line_at_each_service(both: Both, files: list[bytes], logged: Log) -> None:
    body, headers = form_of(files[:3])
    answer = ask(both.edge.url, "/recognize", body, both.certs, headers=headers | {"X-Request-Id": "seven"})
    until(lambda: logged.lines("pmc2-edge") and logged.lines("pmc2-cloud"))
    (edge,), (cloud,) = logged.lines("pmc2-edge"), logged.lines("pmc2-cloud")
    assert list(edge) == list(cloud) == KEYS
    assert (edge["status"], edge["id"], edge["model"], edge["images"]) == (200, "seven", "resnet18", 3)
    assert (edge["bytes_in"], edge["bytes_out"]) == (len(body), len(answer.body))
    assert (cloud["status"], cloud["images"], cloud["payload"]) == (200, 3, edge["payload"])
    assert cloud["bytes_in"] > cloud["payload"] > 0
    assert set(cloud["ms"]) == {"decompression", "classifier", "cloud_other", "total"}
    assert {"generator", "compression", "edge_other", "network_edge_cloud", "classifier", "total"} <= set(edge["ms"])
    assert edge["ms"]["total"] >= edge["ms"]["generator"] > 0
    assert edge["ms"]["total"] >= cloud["ms"]["total"] > 0


def test_a_refusal_is_a_line_that_names_its_kind(both: Both, logged: Log) -> None:
    for content, headers in ((b"no picture", {}), (b"", {}), (b"x", {"X-Strength": "9"})):
        assert ask(both.edge.url, "/recognize", content, both.certs, headers=headers).status == 400
    assert ask(both.edge.url, "/recognize", b"x", both.certs, None).status == 401
    until(lambda: len(logged.lines()) == 4)
    assert [(line["status"], line["error"]) for line in logged.lines()] == [
        (400, "DataError"),
        (400, "ProtocolError"),
        (400, "UsageError"),
        (401, "ServiceError"),
    ]
    assert not logged.lines("pmc2-cloud")


def test_an_id_is_cut_and_stays_on_its_line(both: Both, files: list[bytes], logged: Log) -> None:
    body, length = write_request([Tensor.of("image", files[:1])], "line\nbreak" + "x" * 200)
    assert ask(both.edge.url, "/v2/models/resnet18/infer", body, both.certs, headers={LENGTH_HEADER: length}).status == 200
    until(logged.lines)
    assert logged.lines()[0]["id"] == "line\nbreak" + "x" * 54
    assert not any("\n" in record.getMessage() for record in logged.records("workbench.access"))


def test_nothing_that_is_logged_tells_what_was_in_a_request(
    both: Both, digits: Dataset, files: list[bytes], logged: Log
) -> None:
    png = Png().encode_each(to_float(digits.test.images[:1]))[0]
    with_token = {"Authorization": f"Bearer {SECRET}", "X-Request-Id": "with-token"}
    labels = set()
    for file in (*files[:5], png):
        answer = ask(both.edge.url, "/recognize", file, both.certs, None, with_token)
        labels.add(answer.json["results"][0]["label"])
    assert labels <= set(NAMES)
    for file in (files[0][:300], b"\x89PNG" + files[0], b"words in a picture"):
        assert ask(both.edge.url, "/recognize", file, both.certs, None, with_token).status == 400
    assert ask(both.edge.url, "/recognize", files[0], both.certs, None, {"Authorization": f"Bearer {SECRET}x"}).status == 401
    until(lambda: len(logged.lines()) == 10)
    for shown in (*traces(files[0]), *traces(png), *NAMES, SECRET, "Bearer", "words in a picture", "JFIF"):
        assert shown not in logged.text
    for key in both.certs.rglob("*.key"):
        for line in key.read_text().splitlines()[1:-1]:
            assert line not in logged.text
    for line in (*logged.lines(), *logged.lines("pmc2-cloud")):
        assert len(json.dumps(line)) < 1000


def traces(file: bytes) -> list[str]:
    pieces = [file[start : start + 24] for start in (0, len(file) // 2 // 3 * 3, (len(file) - 24) // 3 * 3)]
    return [
        *(piece.hex() for piece in pieces),
        *(base64.b64encode(piece).decode() for piece in pieces),
        *(repr(piece)[2:-1] for piece in pieces),
        *(", ".join(map(str, piece)) for piece in pieces),
    ]


class Broken(Png):
    def encode_each(self, images: torch.Tensor) -> list[bytes]:
        raise RuntimeError(QUOTE)


def test_a_fault_is_logged_by_its_place_and_not_by_its_words(
    both: Both, networks: Pair, named: Dataset, files: list[bytes], logged: Log
) -> None:
    edge = edge_of(networks, Broken(), named, both.cloud.url, both.certs)
    with serving(edge, both.certs, "edge") as served:
        answer = ask(served.url, "/recognize", files[0], both.certs)
        assert (answer.status, answer.json) == (500, {"error": "internal error; the service's log names it"})
        until(logged.lines)
    assert (logged.lines()[0]["status"], logged.lines()[0]["error"]) == (500, "RuntimeError")
    assert "unexpected RuntimeError" in logged.text
    assert "encode_each" in logged.text
    assert QUOTE not in logged.text


def test_no_line_is_made_where_none_is_wanted(
    both: Both, files: list[bytes], logged: Log, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "workbench.access")
    assert ask(both.edge.url, "/recognize", files[0], both.certs).status == 200
    assert logged.lines() == logged.lines("pmc2-cloud") == []
