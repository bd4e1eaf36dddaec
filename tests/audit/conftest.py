"""Fixtures of the audit's tests: observers on the tiny pair, one with few codes and one with many, and some digits."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from torch import Tensor

from workbench.audit import Audit, Effort, Observer
from workbench.codecs import Neural
from workbench.data import Dataset
from workbench.pictures import to_float
from workbench.weights import Pair

TINY = Effort(pairs=120, passes=240, width=4, steps=2)


class Counted(Audit):
    """An audit that records the updates of its progress bar."""

    told = 0
    total: float = 0

    def tick(self, images: int) -> None:
        self.told += images
        self.total = 0 if self._bar is None else self._bar.total
        super().tick(images)


@pytest.fixture(scope="session")
def lively(networks: Pair, neural: Neural) -> Pair:
    """The tiny pair with a compressor whose codes differ from picture to picture."""
    return replace(networks, compressor=neural.compressor)


@pytest.fixture(scope="session")
def observer(networks: Pair) -> Observer:
    """An observer of a codec with few distinct codes."""
    return Observer(networks)


@pytest.fixture(scope="session")
def open_observer(networks: Pair) -> Observer:
    """An observer of unprotected pictures."""
    return Observer(networks, "png", strength=0.0)


@pytest.fixture(scope="session")
def images(digits: Dataset) -> Tensor:
    """40 test digits, float 40 x 3 x 32 x 32."""
    return to_float(digits.test.images[:40])


def noisy(pair: Pair, noise: float) -> Pair:
    """The same pair with a random component in its generator."""
    generator = copy.deepcopy(pair.generator)
    generator.noise = noise
    return replace(pair, generator=generator)
