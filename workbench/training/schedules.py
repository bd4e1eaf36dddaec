"""The settings, the names and the outcome of a training, and its learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..storage import data_root

__all__ = ["Outcome", "Plan", "TrainingSettings", "equal_steps", "learning_rate_share", "steps"]


@dataclass(frozen=True)
class TrainingSettings:
    """The schedule and the options of one training.

    The training lasts `epochs` over the training split, but at most `max_images` images in total (None: no limit). The
    learning rate rises linearly over the share `warmup` of the steps, stays until the share `hold`, then falls to zero as a
    cosine. Every `validate_every` epochs and at the end, the network is validated on the first `validation_images` of the
    validation split (None: all).
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    optimizer: str = "adamw"
    warmup: float = 0.3
    hold: float = 0.0
    max_images: int | None = None
    validation_images: int | None = None
    validate_every: int = 1
    clip: float | None = None  # limit of the gradient's norm
    crop: int = 4  # zeros around an image before its random crop, in pixels
    erase: int = 0  # approximate side in pixels of a grey square at a random place (cutout, DeVries and Taylor 2017)
    sizes: tuple[tuple[float, int], ...] = ()  # (share of the steps, side in pixels from that step on)
    smoothing: float = 0.0  # label smoothing of the cross-entropy
    width: int = 32  # of the U-Net; a compressor has N = 4 width, and M = 6 width if it has one rate
    noise: float = 0.0  # standard deviation of the generator's random component
    head: str = "public"  # head of a classifier that supports several
    classifier_width: int = 1  # divisor of the classifiers' channels
    half: bool = False  # forward passes in bfloat16 on a CPU that supports it (on a CUDA GPU always)
    captured: bool = False  # train and validate on images that have passed the client's JPEG compression
    compiled: bool = False  # use torch.compile, which delays the first step by a minute

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.sizes]
        if starts and (starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1):
            raise UsageError(f"sizes must begin at 0 and their shares must rise below 1, got {self.sizes}")
        if not 0 <= self.hold <= 1:
            raise UsageError(f"the learning rate is held for a share of the steps from 0 to 1, got {self.hold!r}")

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, with tuples as lists."""
        return {**asdict(self), "sizes": [list(each) for each in self.sizes]}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> TrainingSettings:
        return cls(**{**fields, "sizes": tuple((float(start), int(side)) for start, side in fields["sizes"])})


@dataclass(frozen=True)
class Plan:
    """The settings and metadata of a training, and the names under which its networks are saved.

    `loss` describes the loss in the manifests. `depends` maps a role (`target`, `auxiliary` or `generator`) to the SHA-256 of
    the network that the training uses in this role.
    """

    names: list[str]
    kind: str
    preset: str
    settings: TrainingSettings
    seed: int
    loss: dict[str, Any] = field(default_factory=dict)
    depends: dict[str, str] = field(default_factory=dict)

    def checkpoint(self, family: str) -> Path:
        return data_root() / "runs" / "checkpoints" / family / f"{'+'.join(self.names)}.pt"


@dataclass
class Outcome:
    """The result of `fit`: figures, history and cost of a training.

    `best` has the figures of the kept network. `history` has an entry for each validation. `complete` states whether the
    training ran to its end. `pflop` is the number of multiplications and additions of all forward and backward passes in
    training steps, in 10^15. It counts direct convolutions, even if faster algorithms compute them.
    """

    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0
    pflop: float = 0.0
    precision: str = "32-true"


def steps(n: int, settings: TrainingSettings) -> int:
    """Return the number of steps of a training on a split of `n` images."""
    full = settings.epochs * math.ceil(n / settings.batch)
    return full if settings.max_images is None else min(full, math.ceil(settings.max_images / settings.batch))


def learning_rate_share(progress: float, warmup: float, hold: float = 0.0) -> float:
    """Return the factor on the peak learning rate, in [0, 1], after the share `progress` of all steps.

    The factor rises linearly over the share `warmup` of the steps, stays at 1 until the share `hold`, then falls to 0 as a
    cosine.
    """
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    fall = max(warmup, hold)
    return 1.0 if progress <= fall else 0.5 * (1 + math.cos(math.pi * (progress - fall) / (1 - fall)))


def equal_steps(n: int, settings: TrainingSettings, epochs: int) -> int:
    """Return the number of first steps that are the same for `settings` and for `settings` with another number of `epochs`.

    In these steps, the learning rate is at its peak, and images have the first size. With a warm-up or `max_images`, the result
    is 0. `n` is the number of training images.
    """
    if settings.warmup or settings.max_images is not None:
        return 0
    share = min([settings.hold, *(start for start, _ in settings.sizes[1:])])
    return min(math.floor(share * steps(n, replace(settings, epochs=each))) for each in (settings.epochs, epochs))
