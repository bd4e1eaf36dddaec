"""Fit an objective to a data set, and save its networks as weights with manifests that record the training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from tqdm.auto import tqdm

from .. import weights
from ..data import Dataset, Split
from ..pictures import load_pictures, to_float
from ..storage import require_writable
from ..system import Client
from ..weights import Manifest
from .batches import crop_and_flip
from .budget import Budget, within
from .devices import on_gpu, rank, wait_for_all
from .loop import fit
from .objectives import Objective
from .schedules import Outcome, Plan, TrainingSettings

__all__ = ["MEASURED_ON", "captured", "train_and_keep"]

MEASURED_ON = {  # the split of each figure in a manifest's `metrics`, never the test split
    "validation": "the validation split, which also chose the checkpoint",
    "in_sample": "the images on which tables were fitted",
}
TABULATED = 4096  # images for `finish`: all validation images, then training images up to this number


def train_and_keep(
    objective: Objective,
    dataset: Dataset,
    plan: Plan,
    *,
    device: str = "auto",
    devices: int = 1,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    budget: Budget | None = None,
) -> list[Manifest]:
    """Fit an objective, save each of its parts (networks) as weights, and return their manifests.

    `plan` has the settings and the names of the networks. With a `budget`, the number of steps fits the network's share of the
    time, at this machine's speed. An interrupted training never replaces complete weights. `on_epoch` gets the history after
    each validation.
    """
    gpu = on_gpu(device)
    parts = objective.parts()
    specs = [weights.describe(part) for part in parts]
    label = " ".join(dict.fromkeys([*(kind for kind, _ in specs), plan.names[0]]))
    checkpoint = plan.checkpoint(dataset.family)
    require_writable(checkpoint.parent)
    train, validation = _splits(dataset, plan.settings)
    augment = crop_and_flip(dataset.mirror, plan.settings.crop, plan.settings.erase)
    if budget is not None:
        settings = within(budget, plan, objective, train, validation, augment, device)
        plan = replace(plan, settings=settings)
    outcome = fit(
        objective,
        train,
        validation,
        plan.settings,
        label=label,
        checkpoint=checkpoint,
        identity={
            "names": plan.names,
            "data": dataset.title,
            "n": len(dataset.train),
            "loss": plan.loss,
            "depends": plan.depends,
            "specs": specs,
        },
        seed=plan.seed,
        augment=augment,
        device=device,
        devices=devices,
        on_epoch=on_epoch,
    )
    if rank() == 0:
        last = _tabulated(train, validation)
        outcome.best = {
            **objective.finish(to_float(last.images), last.labels),
            **outcome.best,
        }  # last: `finish` must not overwrite the validation's figures
    kept = [weights.find(name, dataset.family) for name in plan.names]
    made: list[Manifest] = []
    if rank() == 0 and not outcome.complete and all(each is not None and each.complete for each in kept):
        tqdm.write(f"{label}: the weights {', '.join(plan.names)} that were there stay as they are", sys.stderr)
        made = [replace(each, complete=False, file="") for each in kept if each is not None]
    elif rank() == 0:
        made = _keep(parts, dataset, plan, outcome, "cuda" if gpu else "cpu")
        if outcome.complete:
            checkpoint.unlink(missing_ok=True)
    wait_for_all()
    return made or [found for name in plan.names if (found := weights.find(name, dataset.family)) is not None]


def _keep(parts: list[nn.Module], dataset: Dataset, plan: Plan, outcome: Outcome, device: str) -> list[Manifest]:
    settings = plan.settings
    training = {
        "preset": plan.preset,
        **settings.as_json(),
        "loss": plan.loss,
        "images": len(dataset.train),
        "division": dataset.division,
        "validation_images": min(len(dataset.validation), settings.validation_images or len(dataset.validation)),
        "seconds": round(outcome.seconds, 1),
        "pflop": round(outcome.pflop, 6),
        "computed_in": outcome.precision,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "history": outcome.history,
        "measured_on": MEASURED_ON,
    }
    made: list[Manifest] = []
    for name, part in zip(plan.names, parts, strict=True):
        kind, spec = weights.describe(part)
        on = {**plan.depends, **{each.kind: each.sha256 for each in made}}
        manifest = Manifest(
            name, dataset.family, kind, spec, dataset.title, plan.seed, training, outcome.best, on, outcome.complete
        )
        made.append(weights.save(part, manifest))
    return made


_captures: WeakKeyDictionary[Dataset, tuple[Split, Split]] = WeakKeyDictionary()  # training and validation splits


def _splits(dataset: Dataset, settings: TrainingSettings) -> tuple[Split, Split]:
    if not settings.captured:
        return dataset.train, dataset.validation
    if dataset not in _captures:
        _captures[dataset] = captured(dataset.train), captured(dataset.validation)
    return _captures[dataset]


def _tabulated(train: Split, validation: Split) -> Split:
    # An encoder is more certain on its training images. Their counts would make rare patterns too expensive for new images.
    rest = train.head(max(0, TABULATED - len(validation)))
    return Split(torch.cat([validation.images, rest.images]), torch.cat([validation.labels, rest.labels]))


def captured(split: Split) -> Split:
    """Return a split whose images have passed the client's JPEG compression, as the edge receives them."""
    client = Client()
    files = [file for part in torch.split(split.images, 1024) for file in client.capture(to_float(part))]
    return Split(load_pictures(files, None), split.labels)
