"""Train the missing networks of one pair, or of several pairs within a time budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from .. import weights
from ..data import Dataset
from ..errors import UsageError
from ..storage import data_root
from ..weights import Manifest
from .budget import SHARES, Budget, classifier_weight
from .compression import CompressorLoss
from .devices import rank
from .presets import ENCODER, PAPER, PRESETS
from .protection import GeneratorLoss
from .recipes import train_classifier, train_compressor, train_encoder, train_generator

__all__ = ["PAPER_PAIRS", "ensure", "train_all"]

PAPER_PAIRS = (  # the pairs of PMC², tables 2 and 3
    ("vgg13_bn", "resnet18"),
    ("resnet18", "vgg13_bn"),
    ("densenet121", "resnet18"),
    ("googlenet", "resnet18"),
)


class _Wanted:
    """A collection of a pair's networks, trained against each other. `need` trains a missing network."""

    def __init__(self, dataset: Dataset, preset: str, budget: Budget | None, shipped: bool = True) -> None:
        self.dataset, self.preset, self.budget, self.shipped = dataset, preset, budget, shipped
        self.present: dict[str, Manifest] = {}

    def usable(self, name: str) -> Manifest | None:
        """Return a network's manifest if its complete weights were trained against the collected networks, else None."""
        found = weights.find(name, self.dataset.family, self.shipped)
        shas = {manifest.sha256 for manifest in self.present.values()}
        return found if found is not None and found.complete and shas.issuperset(found.depends.values()) else None

    def need(self, name: str, train: Callable[[], Manifest | list[Manifest]]) -> None:
        """Add a network, trained by `train` if it has no usable weights. An interrupted training raises KeyboardInterrupt."""
        found: Manifest | list[Manifest] | None = self.usable(name)
        if found is None:
            if rank() == 0:
                tqdm.write(
                    f"no usable weights {name!r} for {self.dataset.title}: training them with preset {self.preset!r}",
                    sys.stderr,
                )
            try:
                found = train()
            finally:
                if self.budget is not None:
                    self.budget.note()
        for each in found if isinstance(found, list) else [found]:
            if not each.complete:
                raise KeyboardInterrupt
            self.present[each.name] = each
            if self.budget is not None:
                self.budget.done(each.name)


def ensure(
    dataset: Dataset,
    target: str,
    auxiliary: str,
    *,
    preset: str = "quick",
    seed: int = 0,
    compressor: bool = True,
    generator_loss: GeneratorLoss | None = None,
    compressor_loss: CompressorLoss | None = None,
    variant: str = "",
    budget: Budget | None = None,
    shipped: bool = True,
    **run: Any,
) -> list[Manifest]:
    """Train the missing or interrupted networks of a pair. Return the manifests of classifiers, generator and compressor.

    Existing networks are reused, whatever their preset, unless they were trained against other networks than the present ones.
    With `shipped` False, weights that ship with the workbench count as missing. The `variant` `paper` of generator and
    compressor has the papers' settings and losses, and is saved next to the pair's default ones. `run` are further options of
    `train_and_keep`. Trainings are reported on standard error.
    """
    wanted = _Wanted(dataset, preset, budget, shipped)
    run = {**run, "budget": budget}
    for each in dict.fromkeys((target, auxiliary)):
        wanted.need(each, partial(train_classifier, dataset, each, preset, seed, **run))
    pair = (dataset, target, auxiliary, preset, seed)
    name = weights.generator_name(target, auxiliary, variant)
    learn = partial(train_generator, *pair, generator_loss, **run)
    if wanted.usable(name) is None and ENCODER in PRESETS[preset] and variant != PAPER:
        wanted.need(ENCODER, partial(train_encoder, dataset, preset, seed, **run))
        del wanted.present[ENCODER]
    wanted.need(name, partial(learn, variant=variant))
    if compressor:
        code = partial(train_compressor, *pair, compressor_loss, generator_variant=variant, **run)
        wanted.need(weights.compressor_name(target, auxiliary, "", variant), code)
    return list(wanted.present.values())


def train_all(
    dataset: Dataset,
    pairs: Sequence[tuple[str, str]],
    *,
    preset: str = "quick",
    minutes: float | None = None,
    devices: int = 1,
    variant: str = "",
    shipped: bool = True,
    **options: Any,
) -> list[Manifest]:
    """Train all networks of several pairs, classifiers first, within `minutes` (None: by the preset's own schedules).

    A repeated call continues an interrupted one with the remaining time. `shipped` and `options` are those of `ensure`. Raises
    UsageError if both `minutes` and several devices are given.
    """
    if minutes is not None and devices > 1:
        raise UsageError(f"a time budget is for one device, got {devices}: leave out --minutes or --devices")
    budget = None if minutes is None else _budget(dataset, _missing(dataset, pairs, preset, variant, shipped), 60 * minutes)
    options = {"preset": preset, "devices": devices, "budget": budget, "shipped": shipped, **options}
    made: dict[str, Manifest] = {}
    for name in dict.fromkeys(each for pair in pairs for each in pair):
        made |= _by_name(_classifier_alone(dataset, name, **options))
    for target, auxiliary in pairs:
        made |= _by_name(ensure(dataset, target, auxiliary, variant=variant, **options))
    if budget is not None:
        budget.close()
    return list(made.values())


def _by_name(manifests: Sequence[Manifest]) -> dict[str, Manifest]:
    return {each.name: each for each in manifests}


def _classifier_alone(
    dataset: Dataset, name: str, *, preset: str, budget: Budget | None, shipped: bool, seed: int = 0, **options: Any
) -> list[Manifest]:
    run = {key: options[key] for key in ("device", "devices", "on_epoch") if key in options}
    wanted = _Wanted(dataset, preset, budget, shipped)
    wanted.need(name, partial(train_classifier, dataset, name, preset, seed, budget=budget, **run))
    return list(wanted.present.values())


def _budget(dataset: Dataset, missing: dict[str, float], seconds: float) -> Budget:
    return Budget(seconds, missing, data_root() / "runs" / "checkpoints" / dataset.family / "budget.json")


def _missing(
    dataset: Dataset, pairs: Sequence[tuple[str, str]], preset: str, variant: str = "", shipped: bool = True
) -> dict[str, float]:
    """Return the networks that `train_all` will train: {name: relative share of the budget}."""
    wanted = _Wanted(dataset, preset, None, shipped)
    missing: dict[str, float] = {}

    def lacks(name: str, weight: float, after: bool = False) -> bool:
        found = None if after else wanted.usable(name)
        if found is None:
            missing[name] = weight
        else:
            wanted.present[name] = found
        return found is None

    for name in dict.fromkeys(each for pair in pairs for each in pair):
        lacks(name, classifier_weight(name, len(dataset.classes)))
    for target, auxiliary in pairs:
        generator = weights.generator_name(target, auxiliary, variant)
        code = weights.compressor_name(target, auxiliary, "", variant)
        if lacks(generator, SHARES["generator"], after=bool({target, auxiliary} & missing.keys())):
            if ENCODER in PRESETS[preset] and variant != PAPER and wanted.usable(ENCODER) is None:
                missing[ENCODER] = SHARES[ENCODER]
            missing[code] = SHARES["compressor"]
        else:
            lacks(code, SHARES["compressor"])
    return missing
