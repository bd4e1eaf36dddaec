"""Fixtures of the tests of training: few images, presets of three steps, weights that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from workbench.data import Dataset
from workbench.training import TrainingSettings, presets


@pytest.fixture(scope="session")
def few(digits: Dataset) -> Dataset:
    sizes = {"train": 48, "validation": 16, "test": 16}
    return Dataset(
        "digits", "few digits", "digits", digits.classes, False, lambda name: getattr(digits, name).head(sizes[name])
    )


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> TrainingSettings:
    settings = TrainingSettings(2, 24, 1e-3, 0.0, max_images=72, validation_images=8, width=2, classifier_width=4, noise=0.1)
    for name, kinds in presets.PRESETS.items():
        monkeypatch.setitem(presets.PRESETS, name, dict.fromkeys(kinds, settings))
    return settings


@pytest.fixture
def own_data(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_root, tmp_path / "data")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"
