"""Fixtures of the services' tests: certificates, edges, pictures as a phone sends them, and all that is logged."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.authority import copy_authority
from tests.support.services import SECRET, Both, Log, Served, both_of
from tests.support.waiting import until
from workbench.certs import ROLES, issue
from workbench.codecs import Jpeg, Png
from workbench.data import Dataset
from workbench.pictures import to_float
from workbench.services.trust import Token
from workbench.weights import Pair


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issue(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    kinds = {name: root / name for name in ("good", "expired", "elsewhere", "foreign", "stranger")}
    hosts = {
        "expired": (("127.0.0.1", "elsewhere.example"), ("127.0.0.1", "cloud.elsewhere.example")),
        "good": (("127.0.0.1", "localhost"), ("127.0.0.1", "localhost")),
        "elsewhere": (("elsewhere.example",), ("cloud.elsewhere.example",)),
    }
    then = datetime.now(UTC) - timedelta(days=30)
    issue(kinds["expired"], hosts["expired"][0], days=20, now=then, cloud_names=hosts["expired"][1])
    for name in ("good", "elsewhere"):
        copy_authority(kinds["expired"], kinds[name])
        issue(kinds[name], hosts[name][0], cloud_names=hosts[name][1])
    issue(kinds["foreign"])
    shutil.copytree(kinds["foreign"], kinds["stranger"])
    for role in ("", *ROLES):
        shutil.copy(kinds["good"] / "ca.pem", kinds["stranger"] / role)
    return kinds


@pytest.fixture(scope="session")
def files(digits: Dataset) -> list[bytes]:
    return Jpeg().encode_each(to_float(digits.test.images[:60]))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Log:
    for name in {"both", "edge", "token_edge"} & set(request.fixturenames):
        shared = request.getfixturevalue(name)
        for served in (shared.edge, shared.cloud) if isinstance(shared, Both) else (shared,):
            until(lambda served=served: not served.server.server_state.tasks)
    caplog.set_level(logging.DEBUG)
    for name in ("workbench.access", "workbench.services"):
        caplog.set_level(logging.DEBUG, name)
    return Log(caplog)


@pytest.fixture(scope="module")
def both(networks: Pair, digits: Dataset, certs: Path, request: pytest.FixtureRequest) -> Iterator[Both]:
    # an edge and its cloud, which demand certificates; a module's `EDGE` are further options of its edge
    with both_of(networks, Png(), digits, certs, **getattr(request.module, "EDGE", {})) as both:
        yield both


@pytest.fixture(scope="module")
def token_edge(networks: Pair, digits: Dataset, certs: Path) -> Iterator[Served]:
    with both_of(networks, Png(), digits, certs, token=Token(SECRET.encode())) as both:
        yield both.edge
