"""Fixtures of the services' tests: certificates, pictures as a phone sends them, and all that is logged."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.authority import copy_authority
from tests.support.services import Log
from workbench.certs import ROLES, issue
from workbench.codecs import Jpeg
from workbench.data import Dataset
from workbench.pictures import to_float


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and certificates for edge, cloud and client."""
    folder = tmp_path_factory.mktemp("certs")
    issue(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates of one authority, valid and invalid: expired, for another host, of another authority."""
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
    """JPEG files of digits, as a phone sends them."""
    return Jpeg().encode_each(to_float(digits.test.images[:60]))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Log:
    """Everything that is logged during a test, at the finest level."""
    caplog.set_level(logging.DEBUG)
    for name in ("workbench.access", "workbench.services"):
        caplog.set_level(logging.DEBUG, name)
    return Log(caplog)
