"""Train the missing networks of one pair, or of several pairs within a time budget.

A pair is a target and an auxiliary classifier, with the generator and the compressor that belong to them.
"""

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
from .devices import on_gpu, rank
from .presets import ENCODER, PAPER, PRESETS
from .protection import GeneratorLoss
from .recipes import train_classifier, train_compressor, train_encoder, train_generator

__all__ = ["PAPER_PAIRS", "ensure", "existing", "train_all"]

PAPER_PAIRS = (  # the pairs of PMC², tables 2 and 3
    ("vgg13_bn", "resnet18"),
    ("resnet18", "vgg13_bn"),
    ("densenet121", "resnet18"),
    ("googlenet", "resnet18"),
)


class _Wanted:
    def __init__(self, dataset: Dataset, preset: str, budget: Budget | None, shipped: bool = True) -> None:
        self.dataset, self.preset, self.budget, self.shipped = dataset, preset, budget, shipped
        self.present: dict[str, Manifest] = {}

    def usable(self, name: str) -> Manifest | None:
        found = weights.find(name, self.dataset.family, self.shipped)
        shas = {manifest.sha256 for manifest in self.present.values()}
        return found if found is not None and found.complete and shas.issuperset(found.depends.values()) else None

    def need(self, name: str, train: Callable[[], Manifest]) -> None:
        found = self.usable(name)
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
        if not found.complete:
            raise KeyboardInterrupt
        self.present[found.name] = found
        if self.budget is not None:
            self.budget.done(found.name)


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

    Existing networks are reused, whatever their preset. A network also counts as missing if its training used a classifier or a
    generator that was replaced since. With `shipped` False, weights that ship with the workbench count as missing, too. With
    `compressor` False, no compressor is trained.

    With the `variant` `paper`, generator and compressor get the papers' settings and losses, and are saved next to the default
    variant. `run` are further options of `train_and_keep`. Trainings are reported on standard error. Raises KeyboardInterrupt
    if a training was interrupted.
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


def existing(dataset: Dataset, pairs: Sequence[tuple[str, str]], variant: str = "") -> list[Manifest]:
    """Return the manifests of the networks that `ensure` and `train_all` would reuse."""
    wanted = _Wanted(dataset, "", None)
    classifiers = [each for pair in pairs for each in pair]
    generators = [weights.generator_name(*pair, variant) for pair in pairs]
    compressors = [weights.compressor_name(*pair, "", variant) for pair in pairs]
    for name in dict.fromkeys((*classifiers, *generators, *compressors)):
        if (found := wanted.usable(name)) is not None:
            wanted.present[name] = found
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
    """Train the missing networks of several pairs, classifiers first. Return all manifests.

    `pairs` are names (target, auxiliary). `minutes` is the time budget for all trainings. Without a budget (None), the
    trainings have the preset's schedules. After an interruption, a second call continues with the remaining time. With
    `shipped` False, weights that ship with the workbench count as missing. `options`, such as seed and losses, are those of
    `ensure`. Raises UsageError if both `minutes` and several devices are given, and KeyboardInterrupt if a training was
    interrupted.
    """
    if minutes is not None and devices > 1:
        raise UsageError(f"a time budget is for one device, got {devices}: leave out --minutes or --devices")
    budget = None
    if minutes is not None:
        path = data_root() / "runs" / "checkpoints" / dataset.family / "budget.json"
        request: dict[str, Any] = {"pairs": [list(pair) for pair in pairs], "preset": preset, "variant": variant}
        request["gpu"] = on_gpu(options.get("device", "auto"))
        budget = Budget(60 * minutes, _missing(dataset, pairs, preset, variant, shipped), path, request)
    run: dict[str, Any] = {key: options[key] for key in ("device", "on_epoch") if key in options}
    run |= {"devices": devices, "budget": budget}
    classifiers = _Wanted(dataset, preset, budget, shipped)
    for name in dict.fromkeys(each for pair in pairs for each in pair):
        classifiers.need(name, partial(train_classifier, dataset, name, preset, options.get("seed", 0), **run))
    made, options = classifiers.present, {"preset": preset, "variant": variant, "shipped": shipped, **run, **options}
    for target, auxiliary in pairs:
        made |= {each.name: each for each in ensure(dataset, target, auxiliary, **options)}
    if budget is not None:
        budget.close()
    return list(made.values())


def _missing(
    dataset: Dataset, pairs: Sequence[tuple[str, str]], preset: str, variant: str = "", shipped: bool = True
) -> dict[str, float]:
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
