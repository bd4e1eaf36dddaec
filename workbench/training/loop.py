"""The training loop for every objective (a loss with its networks), deterministic by seed and resumable after a kill.

Every random choice follows from (seed, step) alone, so that a resumed run repeats the steps of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ..data import Split
from ..errors import RunError, StorageError
from ..models import channels_last
from ..pictures import to_float
from ..processes import interrupts
from .batches import Feed, batches, seed_step
from .convolutions import convolve, filter_minimally, unfiltered
from .devices import agreed, launch, own_rows, precision_of
from .objectives import Objective
from .optimizers import optimizer_of
from .resume import RunState
from .schedules import Outcome, TrainingSettings, learning_rate_share, steps

__all__ = ["Trainer", "fit"]

CHECKPOINT_EVERY_S = 30.0
COMPILER = "inductor"
REPORT_EVERY = 10  # steps between two reports, because reading a figure waits for the GPU


def fit(
    objective: Objective,
    train: Split,
    validation: Split,
    settings: TrainingSettings,
    *,
    label: str,
    checkpoint: Path,
    identity: dict[str, Any],
    seed: int = 0,
    augment: Callable[[Tensor], Tensor] | None = None,
    device: str = "auto",
    devices: int = 1,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Outcome:
    """Train `objective.network` in place. At the end, restore the state that had the lowest validation loss.

    An adversarial objective keeps the last validated state instead. A checkpoint is written every half minute and at every
    interrupt. A later call resumes from the checkpoint if `identity`, `settings` and `seed` are the same. `identity` describes
    data and loss. Only the number of epochs may differ, if the steps so far do not depend on it (see `equal_steps`).

    Ctrl-C ends the training after the current step, and the outcome's `complete` is then False. A second Ctrl-C raises
    KeyboardInterrupt immediately. `label` names the training in the progress bar. `on_epoch` gets the history after each
    validation. If `devices` is above 1, each device has a process and gets a part of each batch. Only the first process writes
    files. Raises RunError if the loss or a figure is not finite.
    """
    trainer = Trainer(objective, train, settings, seed=seed, augment=augment, device=device, devices=devices)
    identity = {**identity, "seed": seed, "settings": settings.as_json(), "precision": trainer.precision}
    run = _Run(trainer, validation.head(settings.validation_images), label, checkpoint, identity, on_epoch)
    try:
        with interrupts() as interrupted, contextlib.closing(run.bar):
            run.go(interrupted)
    finally:
        convolve(objective)
    return run.end()


class Trainer:
    """An objective on its device, with its optimiser and images. `step` runs one training step."""

    def __init__(
        self,
        objective: Objective,
        train: Split,
        settings: TrainingSettings,
        *,
        seed: int = 0,
        augment: Callable[[Tensor], Tensor] | None = None,
        device: str = "auto",
        devices: int = 1,
    ) -> None:
        self.fabric = launch(device, devices, settings.half, objective.adversarial)
        self.objective, self.settings, self.seed = objective, settings, seed
        self.precision = precision_of(device, settings.half)
        self.total = steps(len(train), settings)
        torch.manual_seed(seed_step(seed, -1))
        channels_last(objective)
        filter_minimally(objective)
        if settings.compiled:
            objective.compile(backend=COMPILER)
        objective.eval()
        optimizer = optimizer_of(settings.optimizer, objective.groups(), settings.learning_rate, settings.weight_decay)
        self.module, self.optimizer = self.fabric.setup(objective, optimizer)
        self.feed = Feed(train, settings.batch, self.total, seed, self.fabric.device, augment, settings.sizes)
        self._flops: dict[tuple[str, int], float] = {}  # FLOP of one image, by the kind of step and the images' side

    def step(self, step: int) -> tuple[Tensor, dict[str, Tensor], float]:
        """Run a training step. Return the loss, the figures, and the PFLOP (10^15 operations) of all processes."""
        rows = own_rows(self.feed.rows(step), self.fabric)
        torch.manual_seed(seed_step(self.seed, step * self.fabric.world_size + self.fabric.global_rank))
        images, labels = self.feed.at(step, rows)
        rate = self.settings.learning_rate * learning_rate_share(step / self.total, self.settings.warmup, self.settings.hold)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        if not self.objective.training:
            self.module.train()
        self.objective.at(step, self.total)
        kind = (self.objective.turn, images.shape[-1])
        with contextlib.ExitStack() as stack:
            counter = None
            if kind not in self._flops:
                stack.enter_context(self._eager())  # the counter misses compiled operations
                stack.enter_context(unfiltered())
                counter = stack.enter_context(FlopCounterMode(display=False))
            loss, figures = self.module(images, labels)
            self.optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
        if counter is not None:
            self._flops[kind] = counter.get_total_flops() / len(rows)
        if self.settings.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.settings.clip)
        self.optimizer.step()
        return loss, figures, self._flops[kind] * len(rows) * self.fabric.world_size / 1e15

    def _eager(self) -> contextlib.AbstractContextManager[Any]:
        compiled: Any = torch.compiler.set_stance("force_eager") if self.settings.compiled else contextlib.nullcontext()
        return compiled  # type: ignore[no-any-return]

    def validate(self, split: Split) -> dict[str, float]:
        """Return the means of loss and figures over a split: {name: mean}."""
        self.module.eval()
        self.objective.before_validation(to_float(self.feed.images[:1024]))
        sums: dict[str, Tensor] = {}
        with torch.no_grad(), self._eager():
            for images, labels in batches(split, self.settings.batch, self.fabric.device):
                loss, figures = self.objective(images, labels)
                for key, value in {"loss": loss, **figures}.items():
                    sums[key] = sums.get(key, 0.0) + value.double() * len(labels)
        return {key: value.item() / len(split) for key, value in sums.items()}


class _Run:
    def __init__(
        self,
        trainer: Trainer,
        validation: Split,
        label: str,
        checkpoint: Path,
        identity: dict[str, Any],
        on_epoch: Callable[[list[dict[str, Any]]], None] | None,
    ) -> None:
        self.trainer, self.validation, self.label, self.on_epoch = trainer, validation, label, on_epoch
        self.state = RunState(trainer.fabric, trainer.objective, trainer.optimizer, checkpoint, identity, len(trainer.feed))
        self.step, self.total = self.state.resume(), trainer.total
        self.state.outcome.precision = trainer.precision
        self.running: dict[str, float] = {}
        self.bar = tqdm(
            total=self.total,
            initial=self.step,
            desc=label,
            unit="step",
            disable=trainer.fabric.global_rank != 0,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        self.started = self.saved = time.monotonic()
        self.spent = self.state.outcome.seconds

    def go(self, interrupted: threading.Event) -> None:
        outcome, stop = self.state.outcome, False
        every = self.trainer.feed.per_epoch * self.trainer.settings.validate_every
        while self.step < self.total and not stop:
            loss, figures, pflop = self.trainer.step(self.step)
            outcome.pflop += pflop
            due = time.monotonic() - self.saved > CHECKPOINT_EVERY_S
            if self.step % REPORT_EVERY == 0 or due:
                self._report({"loss": loss, **figures})
            self.step += 1
            self.bar.update()
            outcome.seconds = self.spent + time.monotonic() - self.started
            if self.step == self.total or self.step % every == 0:
                self._validate()
                if self.on_epoch is not None:
                    self.on_epoch(outcome.history)
            stop, due = agreed(self.trainer.fabric, interrupted.is_set(), due)
            if self.step < self.total and (stop or due):
                self._save(stop)
        if self.step < self.total and self.state.best is None:  # after the checkpoint, since validation may change the network
            self._validate()

    def end(self) -> Outcome:
        outcome = self.state.outcome
        outcome.complete = self.step == self.total
        if not outcome.complete and self.trainer.fabric.global_rank == 0:
            tqdm.write(
                f"{self.label}: stopped at step {self.step} of {self.total}; the best so far is kept, "
                "the same command goes on from here",
                sys.stderr,
            )
        self.state.restore_best()
        return outcome

    def _report(self, values: dict[str, Tensor]) -> None:
        self.running = {key: value.item() for key, value in values.items()}
        _require_finite(self.label, self.step, self.running)
        self.bar.set_postfix({key: f"{value:.3g}" for key, value in self.running.items()}, refresh=False)

    def _validate(self) -> None:
        means = self.trainer.validate(self.validation)
        self.state.remember(self.step, self.running, means)
        _require_finite(self.label, self.step, means)

    def _save(self, stop: bool) -> None:
        try:
            self.state.save(self.step)
        except StorageError as error:
            if not stop:
                raise
            tqdm.write(f"{self.label}: {error}", sys.stderr)  # go on: the disk may still have room for the best network
        self.saved = time.monotonic()


def _require_finite(label: str, step: int, figures: dict[str, float]) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise RunError(
                f"{label}: {name} is {value} at step {step}; lower the weights of the loss or the preset's learning rate. "
                "The last checkpoint is as it was"
            )
