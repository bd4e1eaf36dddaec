"""A time budget for several networks: each trains as long as its share allows, at this machine's measured speed.

A network gets the share weight / (sum of the weights of all networks still to be trained) of the remaining time:

========== ====== =======================================================
network    weight
========== ====== =======================================================
classifier 5 f    f = square root of (its FLOP / resnet18's FLOP)
encoder    2      pretrained U-Net from which all generators start
generator  3
compressor 2
========== ====== =======================================================

With two classifiers like resnet18, the classifiers get 59 % of the time, the encoder 12 %, the generator 18 % and the
compressor 12 %. Time that a network does not use goes to the next networks.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ..classifiers import Classifier
from ..data import Split
from ..errors import UsageError
from ..models import Unset
from ..storage import write_json
from .devices import on_gpu
from .loop import Trainer
from .objectives import Objective
from .schedules import Plan, TrainingSettings, steps

__all__ = ["SHARES", "Budget", "Cost", "classifier_weight", "for_gpu", "measured", "schedule", "within"]

SHARES = {"classifier": 5.0, "encoder": 2.0, "generator": 3.0, "compressor": 2.0}
USABLE = 0.85  # part of a share that is used for training, not for loading, measuring and fitting tables
LONGEST = 3  # longest schedule, as a multiple of the preset's; unused time goes to the next networks
VALIDATIONS = 12  # maximum in one training
WARM_UP = 3  # most steps before a measurement: they allocate memory and choose algorithms
WARM_UP_SHARE = 0.02  # minimum part of a share for measuring the speed
MEASURED = 6  # least number of measured steps, unless these take three times as long as planned
COMPILE_S = 60.0  # approximate time of torch.compile
COMPILE_PAYS = 5  # compiling is tried if the share is longer than this many times COMPILE_S
GPU_BATCH = 4  # factor on the preset's batch: small kernels would leave a GPU idle


@dataclass(frozen=True)
class Cost:
    """The measured seconds for one training image, and for one validation."""

    image: float
    validation: float


class Budget:
    """A time budget for several trainings. A file stores the used time, so that a restarted program continues with the rest.

    `seconds` is the whole budget. `weights` maps the name of each network to its weight, which sets the network's share of the
    time (see the module's table). `request` describes the trainings as JSON: pairs, preset, and so on. A file at `path` that
    was written for other `seconds` or for another `request` is ignored.
    """

    def __init__(
        self, seconds: float, weights: Mapping[str, float], path: Path, request: Mapping[str, Any] | None = None
    ) -> None:
        if not (math.isfinite(seconds) and seconds > 0):
            raise UsageError(f"a time budget must be a number of minutes above 0, got {seconds / 60:g}")
        self.weights, self.path = dict(weights), path
        self.seconds, self.request = seconds, {"seconds": seconds, **(request or {})}
        self.used, self.schedules = 0.0, dict[str, dict[str, Any]]()
        self._since = time.monotonic()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a missing or damaged file starts a new budget
            kept = json.loads(path.read_text())
            if kept["request"] == self.request:
                self.used, self.schedules = float(kept["used"]), dict(kept["schedules"])

    @property
    def left(self) -> float:
        return max(0.0, self.seconds - self.used - (time.monotonic() - self._since))

    def share(self, name: str) -> float:
        """Return the seconds for training one network: its share of the remaining time."""
        weight = self.weights.get(name, SHARES["generator"])
        return self.left * weight / sum({**self.weights, name: weight}.values())

    def note(self) -> None:
        """Write the used seconds and the chosen schedules to the file."""
        now = time.monotonic()
        self.used, self._since = self.used + now - self._since, now
        write_json(self.path, {"request": self.request, "used": self.used, "schedules": self.schedules})

    def done(self, name: str) -> None:
        """Remove a trained network from the budget, so that its unused time goes to the other networks."""
        known = self.weights.pop(name, None) is not None
        if self.schedules.pop(name, None) is not None or known:
            self.note()

    def close(self) -> None:
        """Delete the budget's file. Called once all networks are trained."""
        self.path.unlink(missing_ok=True)


def classifier_weight(name: str, num_classes: int = 10) -> float:
    """Return a classifier's weight in the budget. The weight grows with the square root of the classifier's FLOP."""
    return SHARES["classifier"] * math.sqrt(_flops(name, num_classes) / _flops("resnet18", num_classes))


def _flops(name: str, num_classes: int) -> int:
    with Unset():
        network = Classifier(name, num_classes, width=8).eval()  # cheap: the ratios are those of full width
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops())


def within(
    budget: Budget,
    plan: Plan,
    objective: Objective,
    train: Split,
    validation: Split,
    augment: Callable[[Tensor], Tensor],
    device: str,
) -> TrainingSettings:
    """Measure the training speed, and return the plan's settings with a schedule that fits the network's share of the budget.

    A resumed training keeps the settings of its first call.
    """
    name = plan.names[-1]
    if (kept := budget.schedules.get(name)) is not None:
        return TrainingSettings.from_json(kept)
    gpu, seconds = on_gpu(device), budget.share(name)
    settings = for_gpu(plan.settings) if gpu else plan.settings
    validation = validation.head(settings.validation_images)

    def measure(how: TrainingSettings) -> Cost:
        return measured(objective, train, validation, how, augment, device, WARM_UP_SHARE * seconds)

    cost = measure(settings)
    if gpu and seconds > COMPILE_PAYS * COMPILE_S:
        settings, cost = _compiled(settings, cost, measure, seconds)
    settings = schedule(settings, cost, len(train), budget.share(name))  # measuring has used time
    count = steps(len(train), settings) * settings.batch
    tqdm.write(
        f"{name}: {seconds:.0f} s of the budget, {1 / cost.image:,.0f} images a second: {count / len(train):.3g} epochs",
        sys.stderr,
    )
    budget.schedules[name] = settings.as_json()
    budget.note()
    return settings


def for_gpu(settings: TrainingSettings) -> TrainingSettings:
    """Return settings with batches `GPU_BATCH` times as large, and with a learning rate to match.

    For SGD, the learning rate grows linearly with the batch (Goyal et al. 2017). For AdamW and Muon, it grows with the batch's
    square root.
    """
    rate = GPU_BATCH if settings.optimizer == "sgd" else math.sqrt(GPU_BATCH)
    return replace(settings, batch=GPU_BATCH * settings.batch, learning_rate=rate * settings.learning_rate)


def schedule(settings: TrainingSettings, cost: Cost, n: int, seconds: float) -> TrainingSettings:
    """Return `settings` with as many steps and validations as fit into `seconds`.

    `cost` has the measured times of a training image and of a validation. `n` is the number of training images. The number of
    steps is at least one, and at most `LONGEST` times that of `settings`. The number of validations is 1 to `VALIDATIONS`. More
    than one validation together take at most a tenth of the time.
    """
    usable = USABLE * seconds
    validations = min(VALIDATIONS, max(1, int(usable / 10 / max(cost.validation, 1e-9))))
    possible = max(0.0, usable - validations * cost.validation) / cost.image
    images = min(possible, LONGEST * settings.batch * steps(n, settings))
    images = settings.batch * max(1, int(images / settings.batch))
    epochs = math.ceil(images / n) + 1  # one more, as an epoch's last batch may be smaller: `max_images` ends the training
    return replace(settings, epochs=epochs, max_images=images, validate_every=max(1, math.ceil(epochs / validations)))


def measured(
    objective: Objective,
    train: Split,
    validation: Split,
    settings: TrainingSettings,
    augment: Callable[[Tensor], Tensor],
    device: str,
    at_least_s: float,
) -> Cost:
    """Train a copy of the objective for at least `at_least_s` seconds. Return the measured times of an image and a validation.

    With progressive sizes, the time of an image is the mean over the sizes, weighted by the sizes' shares of the steps.
    """
    settings = replace(settings, epochs=1000, max_images=None)
    trainer = Trainer(copy.deepcopy(objective), train, settings, augment=augment, device=device)
    starts = [start for start, _ in settings.sizes] or [0.0]
    image = 0.0
    for start, end in zip(starts, [*starts[1:], 1.0], strict=True):
        first = math.ceil(start * trainer.total)
        image += (end - start) * _timed(trainer, first, at_least_s / len(starts))
    begin = time.monotonic()
    trainer.validate(validation)
    return Cost(image, time.monotonic() - begin)


def _timed(trainer: Trainer, first: int, at_least_s: float) -> float:
    begin = time.monotonic()
    for step in range(WARM_UP):
        loss, _, _ = trainer.step(first + step)
        if time.monotonic() - begin > at_least_s:  # slow steps need no further warm-up
            break
    float(loss.detach())  # synchronises with the GPU
    begin, count, images = time.monotonic(), 0, 0
    while (spent := time.monotonic() - begin) < at_least_s or count < (MEASURED if spent < 3 * at_least_s else 1):
        step = first + WARM_UP + count
        loss, _, _ = trainer.step(step)
        images += len(trainer.feed.rows(step))
        count += 1
        if count % MEASURED == 0:
            float(loss.detach())
    return (time.monotonic() - begin) / images


def _compiled(
    settings: TrainingSettings, cost: Cost, measure: Callable[[TrainingSettings], Cost], seconds: float
) -> tuple[TrainingSettings, Cost]:
    try:
        compiled = replace(settings, compiled=True)
        faster = measure(compiled)
    except Exception as error:  # compilers raise exceptions of any kind, and compiling is only an optimisation
        tqdm.write(f"torch.compile failed ({type(error).__name__}); training goes on without it", sys.stderr)
        return settings, cost
    saved = (1 - faster.image / cost.image) * seconds
    return (compiled, faster) if saved > COMPILE_S else (settings, cost)
