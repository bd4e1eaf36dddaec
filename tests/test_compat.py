"""Repairs for torchvision and compressai are made for the tested versions, and for no others."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from workbench import _compat


def test_the_installed_versions_are_tested() -> None:
    assert [package for package in _compat.TESTED if not _compat.tested(package)] == []


@pytest.mark.parametrize("package", _compat.TESTED)
def test_another_version_is_left_alone(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == package else version(name))
    assert not _compat.tested(package)
    monkeypatch.delitem(sys.modules, "torch_geometric", raising=False)
    with _compat.stub_unused_imports():
        assert "torch_geometric" not in sys.modules


OTHER = """
import importlib.metadata, sys
version = importlib.metadata.version
importlib.metadata.version = lambda name: "1.99" if name == "compressai" else version(name)
from workbench.models import build
print("torch_geometric" in sys.modules, type(build("generator", width=2)).__name__)
"""


@pytest.mark.system
def test_the_networks_are_there_with_another_version() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OTHER], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.split() == ["True", "PerturbationGenerator"], done.stderr
