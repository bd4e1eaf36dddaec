"""Fixtures of the audit's tests: observers on the tiny pair, one with few codes and one with many, and some digits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from workbench.audit import Observer
from workbench.audit.scores import Judge
from workbench.codecs import Neural
from workbench.data import Dataset
from workbench.pictures import to_float
from workbench.weights import Pair


@pytest.fixture(scope="session")
def lively(networks: Pair, neural: Neural) -> Pair:
    return replace(networks, compressor=neural.compressor)


@pytest.fixture(scope="session")
def observer(networks: Pair) -> Observer:
    return Observer(networks)


@pytest.fixture(scope="session")
def open_observer(networks: Pair) -> Observer:
    return Observer(networks, "png", strength=0.0)


@pytest.fixture(scope="session")
def images(digits: Dataset) -> Tensor:
    return to_float(digits.test.images[:40])


@pytest.fixture(scope="session")
def judge(digits: Dataset) -> Judge:
    return Judge(digits, 320, torch.device("cpu"), width=8)
