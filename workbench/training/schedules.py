"""The settings, the names and the outcome of one training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..storage import data_root

__all__ = ["Outcome", "Plan", "TrainingSettings", "learning_rate_share", "steps"]


@dataclass(frozen=True)
class TrainingSettings:
    """The schedule and the options of one training.

    `epochs` over the training split, but at most `max_images` images in total (None: no limit). The learning rate warms up
    linearly over the share `warmup` of the steps, then falls to zero as a cosine. `validation_images` limits the split that
    chooses the best checkpoint. It is evaluated every `validate_every` epochs and at the end.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    optimizer: str = "adamw"
    warmup: float = 0.3
    max_images: int | None = None
    validation_images: int | None = None
    validate_every: int = 1
    clip: float | None = None  # limit of the gradient's norm
    crop: int = 4  # zeros around an image before its random crop, in pixels
    erase: int = 0  # pixels less than half this far from a random one are made grey (cutout, DeVries and Taylor 2017)
    sizes: tuple[tuple[float, int], ...] = ()  # from this share of the steps on, images of this side in pixels
    smoothing: float = 0.0  # share of a label that is spread over all classes, for cross-entropy alone
    width: int = 32  # of the U-Net. A compressor's N is 4 times, its M 6 times as much
    noise: float = 0.0  # standard deviation of the generator's random component
    head: str = "public"  # of classifiers with several heads
    classifier_width: int = 1  # divides the classifiers' channels
    half: bool = False  # forward passes in bfloat16 on a CPU that supports it (on a CUDA GPU always)
    captured: bool = False  # train on images after the client's JPEG (S1)
    compiled: bool = False  # with torch.compile, which takes a minute before the first step

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.sizes]
        if starts and (starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1):
            raise UsageError(f"sizes must begin at 0 and their shares must rise below 1, got {self.sizes}")

    def as_json(self) -> dict[str, Any]:
        """Return the fields in the form in which JSON restores them."""
        return {**asdict(self), "sizes": [list(each) for each in self.sizes]}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> TrainingSettings:
        """Build settings from their JSON form, in which sizes are lists."""
        return cls(**{**fields, "sizes": tuple((float(start), int(side)) for start, side in fields["sizes"])})


@dataclass(frozen=True)
class Plan:
    """A training's networks, and the names under which its parts are saved.

    `loss` describes the loss in the manifests. `depends` maps the role of each network it is trained against to its SHA-256.
    """

    names: list[str]
    kind: str
    preset: str
    settings: TrainingSettings
    seed: int
    loss: dict[str, Any] = field(default_factory=dict)
    depends: dict[str, str] = field(default_factory=dict)

    def checkpoint(self, family: str) -> Path:
        """Return the path of the training's checkpoint."""
        return data_root() / "runs" / "checkpoints" / family / f"{'+'.join(self.names)}.pt"


@dataclass
class Outcome:
    """The result of `fit`: the best checkpoint's figures, the curves, the cost, and whether training ran to its end.

    `pflop` counts multiplications and additions of all steps' forward and backward passes, in 10^15.
    """

    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0
    pflop: float = 0.0
    precision: str = "32-true"


def steps(n: int, settings: TrainingSettings) -> int:
    """Return the number of steps of a training on `n` images."""
    full = settings.epochs * math.ceil(n / settings.batch)
    return full if settings.max_images is None else min(full, math.ceil(settings.max_images / settings.batch))


def learning_rate_share(progress: float, warmup: float) -> float:
    """Return the share of the peak learning rate: linear from 0 to 1 over `warmup`, then cosine to 0."""
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
