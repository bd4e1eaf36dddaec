"""A cluster's probes show no certificate: what an edge returns to them, and what it only returns with a certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import Served, ask, cloud_of, edge_of, serving
from workbench.codecs import Neural
from workbench.data import Dataset
from workbench.weights import Pair


@pytest.fixture(scope="module")
def edge(networks: Pair, neural: Neural, digits: Dataset, certs: Path) -> Iterator[Served]:
    """An edge without a token whose handshake demands no certificate."""
    with (
        serving(cloud_of(networks, neural, digits), certs, "cloud") as cloud,
        serving(edge_of(networks, neural, digits, cloud.url, certs), certs, "edge", demand=False) as served,
    ):
        yield served


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_is_reported_without_a_certificate(edge: Served, certs: Path, path: str) -> None:
    assert ask(edge.url, path, certs=certs, role=None).status == 200


@pytest.mark.parametrize("path", ["/recognize", "/v2/models/resnet18/infer"])
def test_nothing_is_recognised_without_one(edge: Served, certs: Path, files: list[bytes], path: str) -> None:
    answer = ask(edge.url, path, files[0], certs, role=None)
    assert (answer.status, answer.json) == (401, {"error": "show a certificate"})


@pytest.mark.parametrize("path", ["/metrics", "/v2/models/resnet18"])
def test_other_paths_need_a_certificate(edge: Served, certs: Path, path: str) -> None:
    assert ask(edge.url, path, certs=certs, role=None).status == 401


def test_a_phone_with_a_certificate_is_answered(edge: Served, certs: Path, files: list[bytes]) -> None:
    assert ask(edge.url, "/recognize", files[0], certs).status == 200


def test_a_certificate_that_is_shown_must_hold(edge: Served, folders: dict[str, Path]) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(edge.url, "/v2/health/live", certs=folders["stranger"])
