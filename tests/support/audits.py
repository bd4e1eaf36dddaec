"""A tiny audit, and pairs with a random component."""

from __future__ import annotations

import copy
from dataclasses import replace

from workbench.audit import Audit, Effort
from workbench.data import Dataset, Split
from workbench.weights import Pair

TINY = Effort(pairs=120, passes=240, width=4, steps=2, reader=8)


class Counted(Audit):
    counted = 0
    total: float = 0

    def tick(self, images: int) -> None:
        self.counted += images
        self.total = 0 if self._bar is None else self._bar.total
        super().tick(images)


def with_train(dataset: Dataset, train: Split) -> Dataset:
    parts = {"train": train, "validation": dataset.validation, "test": dataset.test}
    return Dataset(dataset.name, dataset.title, dataset.family, dataset.classes, dataset.mirror, parts.__getitem__)


def noisy(pair: Pair, noise: float) -> Pair:
    generator = copy.deepcopy(pair.generator)
    generator.noise = noise
    return replace(pair, generator=generator)
