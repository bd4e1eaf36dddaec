"""Two privacy tests: linking two captures of one picture, and membership of a picture in the generator's training images.

A capture is one photograph of a scene. A view is the data that an attacker observes at one point of the system, such as the
payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Split
from ..errors import DataError, UsageError
from ..metrics import Estimate
from ..pictures import to_float
from ..system import Client
from .attempts import Attempts
from .contract import PICTURE_VIEWS
from .membership import FALSE_POSITIVES, Shadow, rmia, true_positives
from .scores import area
from .views import Observed

__all__ = ["SHADOWS", "Linkage"]

SHADOWS = 4  # shadow generators of the membership test
POOLED = (1, 2, 4, 8, 16)  # pooling sizes, in pixels, that a linking attacker tries


class Linkage:
    """Linking and membership tests on the test images of an audit."""

    def __init__(self, audit: Attempts) -> None:
        self.audit = audit
        self._pooled: dict[str, int] = {}
        self._second: dict[str, Observed] = {}  # views of the second captures
        self._shadows: list[Shadow] = []

    def linked(self, view: str, side: int | None = None) -> Estimate:
        """Test whether two observations show the same picture. Return the area under the ROC curve (0.5: chance).

        A positive example has two captures of one picture. A negative example has captures of two different pictures of one
        class. The second capture is simulated: the picture is shifted by a pixel, made 5 % brighter, and compressed as a JPEG
        of quality 70.

        The score is the negative squared distance between the two observations. Before the comparison, each observation is
        averaged over squares of `side` pixels, which suppresses the generator's noise. By default, `side` is the result of
        `pooled`.
        """
        if view not in self._second:
            self._second[view] = self.audit.observer.show(self._second_protected, view)
        side = self.pooled(view) if side is None else side
        return self._linked(self.audit.observed(view).seen, self._second[view].seen, self.audit.labels, side)

    def pooled(self, view: str) -> int:
        """Return the pooling size (pixels) that links captures best in a view.

        The size is chosen on the attacker's own pictures.
        """
        if view not in self._pooled:
            *protected, labels = self._own_protected
            first, second = (self.audit.observer.quick.show(each, view) for each in protected)
            sides = POOLED if first.pictures else (1,)
            areas = {side: self._linked(first.seen, second.seen, labels, side).value for side in sides}
            self._pooled[view] = max(areas, key=lambda side: areas[side])
        return self._pooled[view]

    def _linked(self, first: Tensor, second: Tensor, labels: Tensor, side: int) -> Estimate:
        first, second = (F.avg_pool2d(each, side).flatten(1) if side > 1 else each.flatten(1) for each in (first, second))
        random = torch.Generator().manual_seed(0)
        other = torch.arange(len(labels))
        for label in range(len(self.audit.dataset.classes)):
            rows = (labels == label).nonzero()[:, 0]
            if len(rows) > 1:  # compare each picture with the next of its class, in random order
                rows = rows[torch.randperm(len(rows), generator=random)]
                other[rows] = rows.roll(1)
        alone = other == torch.arange(len(other))
        same = -(first - second).square().sum(1)
        different = -(first - second[other]).square().sum(1)[~alone]
        return area(same, different)

    def check_rmia(self, views: Sequence[str] = PICTURE_VIEWS) -> None:
        """Raise UsageError if the RMIA test supports none of `views`, and DataError if there are too few training images."""
        if not {*views} & {*PICTURE_VIEWS}:
            raise UsageError(
                f"the membership test works on the views {' and '.join(PICTURE_VIEWS)}, not on {', '.join(views)}: "
                "choose one of them, or leave the test out"
            )
        n, there = len(self.audit.images), len(self.audit.dataset.train)
        if there < n + 8:
            raise DataError(
                f"the membership test of {n} images needs at least {n + 8} training images, {self.audit.dataset.title} has "
                f"{there}: audit fewer images"
            )

    def members_by_rmia(self, view: str, shadows: int = SHADOWS) -> dict[str, Any]:
        """Return how well the RMIA test separates the generator's training images from test images (see `membership`).

        `area` is the area under the ROC curve. `true_positives` is the true-positive rate at 0.1 % false positives. `shadows`
        is the number of shadow generators.

        The test compares the audit's N test images with N random training images. Half of the remaining training images train
        the shadow generators, and the other half are the reference pictures. Raises DataError if fewer than 8 training images
        remain.
        """
        self.check_rmia()
        audit, train, n = self.audit, self.audit.dataset.train, len(self.audit.images)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        candidates, rows = order[:n], order[n:]
        half = len(rows) // 2
        own, others = (Split(train.images[part], train.labels[part]) for part in (rows[half:], rows[:half]))
        if len(self._shadows) != shadows:
            settings = (own, len(audit.dataset.classes), audit.effort)
            self._shadows = [Shadow(*settings, seed, audit.device, audit.tick) for seed in range(shadows)]
        observer = audit.observer.quick

        def confidences(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            audited = self._confidence(observer.observe(images, view), labels)
            return audited, torch.stack([shadow.confidence(images, labels) for shadow in self._shadows])

        references = confidences(to_float(others.images), others.labels)
        inside = rmia(*confidences(to_float(train.images[candidates]), train.labels[candidates]), *references)
        outside = rmia(*confidences(audit.images, audit.labels), *references)
        return {
            "area": area(inside, outside),
            "true_positives": true_positives(inside, outside),
            "false_positives": FALSE_POSITIVES,
            "shadows": shadows,
        }

    def members(self, view: str) -> Estimate:
        """Test membership by the target's confidence in the true label. Return the area under the ROC curve (0.5: chance).

        The test separates the generator's training images from test images. Both are observed in `view`.
        """
        protected, labels = self._trained_on
        inside = self.audit.observer.show(protected, view)
        return area(self._confidence(inside, labels), self._confidence(self.audit.observed(view), self.audit.labels))

    @cached_property
    def _second_protected(self) -> Tensor:
        return self.audit.observer.protect(_second_captures(self.audit.images))

    @cached_property
    def _own_protected(self) -> tuple[Tensor, Tensor, Tensor]:
        own, observer = self.audit.dataset.train.head(len(self.audit.labels)), self.audit.observer.quick
        images = to_float(own.images)
        return observer.protect(images), observer.protect(_second_captures(images)), own.labels

    @cached_property
    def _trained_on(self) -> tuple[Tensor, Tensor]:
        train = self.audit.dataset.train
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(self.audit.images)]
        return self.audit.observer.protect(to_float(train.images[rows])), train.labels[rows]

    def _confidence(self, observed: Observed, labels: Tensor) -> Tensor:
        classifier, device = self.audit.observer.cloud.classifier, self.audit.device
        with torch.inference_mode():
            parts = [classifier(part.to(device)).softmax(1).cpu() for part in torch.split(observed.seen, 64)]
        return torch.cat(parts).gather(1, labels[:, None])[:, 0]


def _second_captures(images: Tensor) -> Tensor:
    shifted = F.pad(images, (1, 0, 1, 0), mode="reflect")[..., : images.shape[-2], : images.shape[-1]]
    jpeg = Client(70).jpeg
    return jpeg.decode(jpeg.encode((1.05 * shifted).clamp(0, 1)))
