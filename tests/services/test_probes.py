"""A cluster's probes show no certificate: what an edge returns to them, and what it only returns with a certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import Served, ask, cloud_of, edge_of, serving
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.weights import Pair


@pytest.fixture(scope="module")
def edge(networks: Pair, digits: Dataset, certs: Path) -> Iterator[Served]:
    """An edge without a token whose handshake demands no certificate."""
    with (
        serving(cloud_of(networks, Png(), digits), certs, "cloud") as cloud,
        serving(edge_of(networks, Png(), digits, cloud.url, certs), certs, "edge", demand=False) as served,
    ):
        yield served


def test_only_health_is_reported_without_a_certificate(edge: Served, certs: Path, files: list[bytes]) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(edge.url, path, certs=certs, role=None).status == 200, path
    for path in ("/recognize", "/v2/models/resnet18/infer"):
        answer = ask(edge.url, path, files[0], certs, role=None)
        assert (answer.status, answer.json) == (401, {"error": "show a certificate"}), path
    for path in ("/metrics", "/v2/models/resnet18"):
        assert ask(edge.url, path, certs=certs, role=None).status == 401, path
    assert ask(edge.url, "/recognize", files[0], certs).status == 200


def test_a_certificate_that_is_shown_must_hold(edge: Served, folders: dict[str, Path]) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(edge.url, "/v2/health/live", certs=folders["stranger"])
