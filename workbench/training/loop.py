"""How it is learnt: one loop for every objective; deterministic by seed, resumable after a kill at any moment.

Every random choice follows from (seed, step) alone, so that a run resumed from a checkpoint walks the path it would have
walked.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ..data import Split
from ..errors import RunError, StorageError, UsageError, unknown
from ..inference import computes_in_16_bits
from ..models import channels_last
from ..pictures import to_float
from ..processes import interrupts
from ..storage import replacing
from .batches import batches, rows_of, seed_step
from .objectives import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Outcome", "TrainingSettings", "fit", "rank", "steps", "wait_for_all"]

CHECKPOINT_EVERY_S = 30.0


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast one network is trained.

    `epochs` over the training split, but no more than `max_images` images in all (None: no bound); linear warm-up over the
    share `warmup` of the steps, then cosine to zero; `validation_images` bounds the split that chooses the best checkpoint.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    optimizer: str = "adamw"
    warmup: float = 0.3
    max_images: int | None = None
    validation_images: int | None = None
    clip: float | None = None  # of the gradient's norm
    crop: int = 4  # zeros around an image before its random crop, in pixels
    erase: int = 0  # pixels less than half this far from a random one are made grey (cutout; DeVries and Taylor 2017)
    smoothing: float = 0.0  # share of a label that goes to all classes alike, where cross-entropy is all that is learnt
    width: int = 32  # of the U-Net; of the compressor N is 4 times, M 6 times as much
    head: str = "public"  # of the classifiers that have several
    classifier_width: int = 1  # by which the classifiers' channels are divided
    half: bool = False  # forward passes in bfloat16 on a CPU that computes in it (a CUDA GPU's always are)
    captured: bool = False  # train on what the client's JPEG leaves of the images (S1)


@dataclass
class Outcome:
    """What `fit` leaves: the figures of the best checkpoint, the curves, the cost, and whether training ran to its end.

    `pflop` counts multiplications and additions of all steps' forward and backward passes, in 10^15.
    """

    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0
    pflop: float = 0.0
    precision: str = "32-true"


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
    """Train `objective.network` in place and leave it as it was at its best validation loss.

    A checkpoint is written every half minute, at every interrupt, and found again if its `identity` (settings, seed, data) is
    the same. Ctrl-C ends the training early, after the step it fell into: the best checkpoint so far is kept and `complete` is
    False; a second Ctrl-C raises at once. One bar shows loss, figures and time left. `on_epoch` sees the growing history.
    Several `devices` split each batch between them, a process each: all but the first are copies that write nothing.
    """
    fabric = _fabric(device, devices, settings.half, objective.adversarial)
    total = steps(len(train), settings)
    torch.manual_seed(seed_step(seed, -1))
    channels_last(objective)
    module, optimizer = fabric.setup(objective, _optimizer(objective, settings))
    precision = _precision(device, settings.half)
    about = {**identity, "seed": seed, "settings": asdict(settings), "precision": precision}
    run = _Run(fabric, objective, optimizer, checkpoint, about)
    step = run.resume()
    run.outcome.precision = precision
    outcome, per_epoch = run.outcome, math.ceil(len(train) / settings.batch)
    images, labels = train.images.to(fabric.device), train.labels.to(fabric.device)
    sample = to_float(images[:1024])
    validation = validation.head(settings.validation_images)
    bar = tqdm(
        total=total,
        initial=step,
        desc=label,
        unit="step",
        disable=fabric.global_rank != 0,
        dynamic_ncols=True,
        file=sys.stderr,
    )
    started = saved = time.monotonic()
    spent = outcome.seconds
    running: dict[str, float] = {}
    stop = False
    per_image = 0.0
    with interrupts() as interrupted, contextlib.closing(bar):
        while step < total and not stop:
            rows = _share_of(rows_of(len(train), settings.batch, step, seed), fabric).to(fabric.device)
            torch.manual_seed(seed_step(seed, step * fabric.world_size + fabric.global_rank))
            batch = to_float(images[rows])
            batch = batch if augment is None else augment(batch)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * group["scale"] * _schedule(step / total, settings.warmup)
            module.train()
            objective.at(step, total)
            with contextlib.nullcontext() if per_image else FlopCounterMode(display=False) as counter:
                loss, figures = module(batch.contiguous(memory_format=torch.channels_last), labels[rows])
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
            if counter is not None:
                per_image = counter.get_total_flops() / len(rows)
            outcome.pflop += per_image * len(rows) * fabric.world_size / 1e15
            if settings.clip is not None:
                fabric.clip_gradients(module, optimizer, max_norm=settings.clip)
            optimizer.step()
            due = time.monotonic() - saved > CHECKPOINT_EVERY_S
            if step % 10 == 0 or due:
                running = {"loss": loss.item(), **{key: value.item() for key, value in figures.items()}}
                _require_finite(label, step, running)
                bar.set_postfix({key: f"{value:.3g}" for key, value in running.items()}, refresh=False)
            step += 1
            bar.update()
            outcome.seconds = spent + time.monotonic() - started
            if step == total or step % per_epoch == 0:
                run.validate(module, validation, settings, step, running, sample)
                _require_finite(label, step, outcome.history[-1]["validation"])
                if on_epoch is not None:
                    on_epoch(outcome.history)
            stop, due = _agreed(fabric, interrupted.is_set(), due)
            if step < total and (stop or due):
                try:
                    run.save(step)
                except StorageError as error:
                    if not stop:
                        raise
                    tqdm.write(f"{label}: {error}", sys.stderr)  # the best so far may still fit
                saved = time.monotonic()
        if step < total and run.best is None:  # after the checkpoint: it may change the network
            run.validate(module, validation, settings, step, running, sample)
    outcome.complete = step == total
    if not outcome.complete and fabric.global_rank == 0:
        tqdm.write(
            f"{label}: stopped at step {step} of {total}; the best so far is kept, the same command goes on from here",
            sys.stderr,
        )
    run.restore_best()
    return outcome


def _require_finite(label: str, step: int, figures: dict[str, float]) -> None:
    """Raise RunError where a figure is no number any more: nothing that comes after it would be worth keeping."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise RunError(
                f"{label}: {name} is {value} at step {step}; lower the weights of the loss or the preset's learning rate. "
                "The last checkpoint is as it was"
            )


def _agreed(fabric: Fabric, *wishes: bool) -> list[bool]:
    """Return which wishes at least one process has: their clocks and signals differ, what they do next must not."""
    if fabric.world_size == 1:
        return list(wishes)
    sums = fabric.all_reduce(torch.tensor([float(wish) for wish in wishes], device=fabric.device), reduce_op="sum")
    assert isinstance(sums, Tensor)
    return [bool(value > 0) for value in sums]


def _share_of(rows: Tensor, fabric: Fabric) -> Tensor:
    """Return this process's rows of a batch, at least one: a last batch may be smaller than the number of processes."""
    return rows[fabric.global_rank % len(rows) :: fabric.world_size]


def rank() -> int:
    """Return which of several training processes this is; 0 writes and speaks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return int(os.environ.get("LOCAL_RANK", "0"))  # set for the copies before they have met


def wait_for_all() -> None:
    """Return when every training process has come here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


class _Run:
    """One training's state on disk and in memory: what to resume from, what was best."""

    def __init__(
        self,
        fabric: Fabric,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        path: Path,
        identity: dict[str, Any],
    ) -> None:
        self.fabric, self.objective, self.optimizer, self.path = fabric, objective, optimizer, path
        self.identity = json.dumps(identity, sort_keys=True)
        self.best: dict[str, Tensor] | None = None
        self.best_loss = math.inf
        self.outcome = Outcome()

    def resume(self) -> int:
        """Load the checkpoint if there is one of this very training; return the step to go on from."""
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location=self.fabric.device, weights_only=True)
            if state["identity"] != self.identity:
                tqdm.write(f"{self.path.name}: a checkpoint of other settings lies there; starting anew", sys.stderr)
                return 0
        except Exception as error:  # torch raises whatever its zip and pickle readers raise
            tqdm.write(f"{self.path.name}: unreadable checkpoint ({type(error).__name__}); starting anew", sys.stderr)
            return 0
        network = self.objective.network
        fresh = {key: value.clone() for key, value in network.state_dict().items()}
        try:
            network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.outcome = Outcome(**json.loads(state["outcome"]))
            self.best, self.best_loss, step = state["best"], state["best_loss"], int(state["step"])
        except (KeyError, RuntimeError, TypeError, ValueError):
            network.load_state_dict(fresh)
            tqdm.write(f"{self.path.name}: a checkpoint of another version of this training; starting anew", sys.stderr)
            return 0
        return step

    def save(self, step: int) -> None:
        """Write the checkpoint, all or nothing."""
        if self.fabric.global_rank == 0:
            state = {
                "identity": self.identity,
                "step": step,
                "network": self.objective.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "best_loss": self.best_loss,
                "outcome": json.dumps(asdict(self.outcome)),
            }
            buffer = io.BytesIO()
            torch.save(state, buffer)
            with replacing(self.path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        self.fabric.barrier()

    def validate(
        self, module: nn.Module, split: Split, settings: TrainingSettings, step: int, running: dict[str, float], sample: Tensor
    ) -> None:
        """Measure the loss on the validation split, remember the network where it is the lowest so far."""
        module.eval()
        self.objective.before_validation(sample)
        sums: dict[str, float] = {}
        with torch.no_grad():
            for images, labels in batches(split, settings.batch, self.fabric.device):
                loss, figures = self.objective(images, labels)
                for key, value in {"loss": loss, **figures}.items():
                    sums[key] = sums.get(key, 0.0) + value.item() * len(labels)
        means = {key: value / len(split) for key, value in sums.items()}
        self.outcome.history.append({"step": step, "train": dict(running), "validation": means})
        if means["loss"] < self.best_loss or self.best is None or self.objective.adversarial:
            self.best_loss, self.outcome.best = means["loss"], {**means, "step": float(step)}
            self.best = {key: value.detach().clone() for key, value in self.objective.network.state_dict().items()}

    def restore_best(self) -> None:
        """Leave the network as it was at its best."""
        if self.best is not None:
            self.objective.network.load_state_dict(self.best)
        self.objective.network.eval()


def _fabric(device: str, devices: int, half: bool, adversarial: bool = False) -> Fabric:
    accelerator = {"auto": "auto", "cpu": "cpu", "cuda": "cuda"}.get(device)
    if accelerator is None:
        raise unknown("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch sees no CUDA GPU; use 'cpu' or 'auto'")
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda and devices > torch.cuda.device_count():
        raise UsageError(f"{devices} devices were asked for, but torch sees {torch.cuda.device_count()} CUDA GPUs")
    from lightning_fabric import Fabric  # takes torch's compiler along, seconds that only those pay who train

    strategy = ("ddp_find_unused_parameters_true" if adversarial else "ddp") if devices > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=devices, precision=_precision(device, half))
    if devices > 1:
        fabric.launch()
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """End the group of processes: what gloo's threads still do when the interpreter is gone ends in abort()."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _precision(device: str, half: bool) -> Literal["bf16-mixed", "32-true"]:
    """Return in which numbers forward passes run: bfloat16 on a CUDA GPU, and where asked for on a CPU that has it."""
    if torch.cuda.is_available() and device != "cpu":
        return "bf16-mixed"
    return "bf16-mixed" if half and computes_in_16_bits() else "32-true"


def _optimizer(objective: Objective, settings: TrainingSettings) -> torch.optim.Optimizer:
    groups = objective.groups()
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def steps(n: int, settings: TrainingSettings) -> int:
    """Return the number of steps that a training on `n` images takes."""
    full = settings.epochs * math.ceil(n / settings.batch)
    return full if settings.max_images is None else min(full, math.ceil(settings.max_images / settings.batch))


def _schedule(progress: float, warmup: float) -> float:
    """Linear from 0 to 1 over the share `warmup`, then cosine to 0."""
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
