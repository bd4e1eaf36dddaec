"""The trainings with their presets, and `ensure`, which trains what a pair lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from .. import weights
from ..classifiers import Classifier, heads
from ..data import Dataset, Split
from ..errors import UsageError, unknown
from ..models import NeuralCompressor, PerturbationGenerator, channels_last
from ..pictures import load_pictures, to_float
from ..rates import STOPS, rates_of, stop_of
from ..storage import data_root, require_writable
from ..system import Client
from ..weights import Manifest
from .adversary import AdversarialObjective, Defence, class_means
from .batches import crop_and_flip, seed_step
from .compression import CompressorLoss, CompressorObjective, JointObjective
from .loop import TrainingSettings, fit, rank, wait_for_all
from .objectives import ClassifierObjective, Objective
from .protection import EncoderObjective, GeneratorLoss, GeneratorObjective, learn_apart_from_encoder
from .variable_rate import VariableRateObjective

__all__ = [
    "ENCODER",
    "LOSSES",
    "PRESETS",
    "ensure",
    "train_classifier",
    "train_compressor",
    "train_encoder",
    "train_generator",
    "train_joint",
]

# `paper`: PP, section 5 and its public code; the classifiers' are those of the PyTorch_CIFAR10 project; the paper does not
# give the compressor's. `quick`: a minute or two on 2 cores; networks of a quarter of the width. `hours`: CIFAR-10
# on 2 cores without a GPU; networks of full width, schedules that an afternoon has room for.
PRESETS: dict[str, dict[str, TrainingSettings]] = {
    "quick": {
        "classifier": TrainingSettings(
            6, 64, 2e-3, 5e-4, max_images=20_000, validation_images=1000, head="linear", classifier_width=4
        ),
        "encoder": TrainingSettings(
            12, 64, 4e-3, 5e-4, warmup=0.2, max_images=20_000, validation_images=1000, width=8, smoothing=0.1
        ),
        "generator": TrainingSettings(20, 48, 6e-3, 5e-4, warmup=0.2, max_images=16_000, validation_images=1000, width=8),
        "compressor": TrainingSettings(
            11, 16, 1e-3, 0.0, warmup=0.1, clip=1.0, crop=2, max_images=12_000, validation_images=1000, width=8
        ),
        "joint": TrainingSettings(
            11, 16, 1e-3, 0.0, warmup=0.1, clip=1.0, crop=2, max_images=12_000, validation_images=1000, width=8
        ),
    },
    "hours": {
        "classifier": TrainingSettings(10, 128, 0.1, 5e-4, optimizer="sgd", warmup=0.2, head="linear", half=True),
        "encoder": TrainingSettings(
            24, 128, 0.1, 5e-4, optimizer="sgd", warmup=0.2, half=True, captured=True, erase=8, smoothing=0.1
        ),
        "generator": TrainingSettings(1, 64, 1e-3, 5e-4, warmup=0.2, max_images=30_000, half=True, captured=True, erase=8),
        "compressor": TrainingSettings(
            1, 32, 1e-3, 0.0, warmup=0.1, clip=1.0, crop=2, max_images=30_000, half=True, captured=True
        ),
        "joint": TrainingSettings(2, 64, 1e-3, 0.0, warmup=0.1, clip=1.0, max_images=48_000, half=True, captured=True, erase=8),
    },
    "paper": {
        "classifier": TrainingSettings(100, 256, 1e-2, 1e-2, optimizer="sgd"),
        "generator": TrainingSettings(100, 256, 5e-3, 5e-4),
        "compressor": TrainingSettings(100, 256, 1e-3, 0.0, warmup=0.1, clip=1.0),
        "joint": TrainingSettings(100, 256, 1e-3, 0.0, warmup=0.1, clip=1.0),
    },
}
JOINTLY = ("hours",)  # presets whose pairs end with generator and compressor trained together,
START = "start"  # from a generator kept under this variant;
ENCODER = "encoder"  # where a preset has this training too, that generator starts from the one kept under this name
MEASURED_ON = {  # of the figures in a manifest's `metrics`; none is of the test split
    "validation": "the validation split, which also chose the checkpoint",
    "in_sample": "the images on which tables were fitted",
}
LATENTS = 192  # channels of a variable-rate compressor of any width: at rate 1 they are to hold a picture
TABULATED = 4096  # images of which a compressor learns its commonest latents, at least
UNREADABLE = {"eye_weight": 12.0, "recovery_weight": 10.0}  # with less a digit's strokes stay in sight, with SSIM near zero
LOSSES = {  # what each preset means where the caller does not say
    "quick": (GeneratorLoss("bounded", "absolute", 2.0, **UNREADABLE), CompressorLoss("rate-accuracy")),
    "hours": (GeneratorLoss("bounded", "absolute", 2.0), CompressorLoss("rate-accuracy", 0.02)),
    "paper": (GeneratorLoss(), CompressorLoss()),
}


def train_classifier(
    dataset: Dataset, name: str, preset: str = "quick", seed: int = 0, epochs: int | None = None, **run: Any
) -> Manifest:
    """Train a classifier on a data set and keep it under its name; `epochs` in place of the preset's."""
    settings = _preset(preset, "classifier", epochs)
    torch.manual_seed(seed_step(seed, -1))
    weights.classifier_name(name)  # raises for one that is unknown
    head = settings.head if settings.head in heads(name) else "public"
    network = Classifier(name, len(dataset.classes), head, settings.classifier_width)
    objective = ClassifierObjective(network, settings.smoothing)
    return _train(objective, dataset, [name], preset, settings, seed, {}, {}, **run)[0]


def train_encoder(dataset: Dataset, preset: str = "hours", seed: int = 0, epochs: int | None = None, **run: Any) -> Manifest:
    """Train the start of all generators of a data set, a U-Net whose contracting half tells the classes apart; keep it."""
    settings = _preset(preset, ENCODER, epochs)
    torch.manual_seed(seed_step(seed, -1))
    objective = EncoderObjective(PerturbationGenerator(settings.width), len(dataset.classes), settings.smoothing)
    return _train(objective, dataset, [ENCODER], preset, settings, seed, {}, {}, **run)[0]


def train_generator(
    dataset: Dataset,
    target: str,
    auxiliary: str,
    preset: str = "quick",
    seed: int = 0,
    loss: GeneratorLoss | None = None,
    variant: str = "",
    epochs: int | None = None,
    start: str | None = None,
    defence: Defence | None = None,
    **run: Any,
) -> Manifest:
    """Train the perturbation generator of a pair, whose classifiers must be there; keep it under `target-X-auxiliary`.

    It starts from the generator kept under the name `start`, where one is named; a `defence` lets it learn against an
    inversion network, with a random component, for another strength than 1, or all of it.
    """
    settings, loss = _preset(preset, "generator", epochs), loss or LOSSES[preset][0]
    if preset == "paper" and (target, auxiliary) == ("googlenet", "vgg13_bn"):
        settings = replace(settings, learning_rate=1e-3)  # PP's public code: the one pair that needs it
    name = weights.generator_name(target, auxiliary, variant)
    (target_model, first), (auxiliary_model, second) = (_classifier(dataset, each) for each in (target, auxiliary))
    if start == name:
        raise UsageError(f"training would overwrite the generator {name!r} that it starts from: keep it under a --variant")
    torch.manual_seed(seed_step(seed, -1))
    generator, losses = PerturbationGenerator(settings.width), asdict(loss)
    if start is None and ENCODER in PRESETS[preset] and weights.find(ENCODER, dataset.family) is None:
        if rank() == 0:
            tqdm.write(f"no weights {ENCODER!r} for {dataset.title}, which generators start from: training them", sys.stderr)
        train_encoder(dataset, preset, seed, **run)
    if start is not None or ENCODER in PRESETS[preset]:
        generator, before = _generator(dataset, start or ENCODER)
        losses |= {"start": before.sha256, "before": before.training}
        generator.requires_grad_(True)  # what is loaded is frozen
    if ENCODER in PRESETS[preset]:
        learn_apart_from_encoder(generator)
    strength = 1.0 if defence is None else defence.strength
    objective: Objective = GeneratorObjective(generator, target_model, auxiliary_model, loss, strength)
    if defence is not None:
        generator.noise = generator.noise if defence.noise is None else defence.noise
        losses["defence"] = asdict(defence)
    if defence is not None and defence.weight:
        means = class_means(dataset.train, len(dataset.classes))
        objective = AdversarialObjective(generator, target_model, auxiliary_model, loss, defence, means)
    depends = {"target": first.sha256, "auxiliary": second.sha256}
    return _train(objective, dataset, [name], preset, settings, seed, losses, depends, **run)[0]


def train_compressor(
    dataset: Dataset,
    target: str,
    auxiliary: str,
    preset: str = "quick",
    seed: int = 0,
    loss: CompressorLoss | None = None,
    variant: str = "",
    generator_variant: str = "",
    epochs: int | None = None,
    rate: float | None = None,
    **run: Any,
) -> Manifest:
    """Train the compressor on a generator's protected training images; keep it under `target-X-auxiliary-compressor`.

    By rate and accuracy it is one network for all rates and strengths, or for one `rate` where that is given; by rate and
    distortion one for strength 1 and for one rate, as in the paper.
    """
    settings, loss = _preset(preset, "compressor", epochs), loss or LOSSES[preset][1]
    name = weights.compressor_name(target, auxiliary, variant, generator_variant)
    target_model, first = _classifier(dataset, target)
    generator, second = _generator(dataset, weights.generator_name(target, auxiliary, generator_variant))
    depends = {"target": first.sha256, "generator": second.sha256}
    auxiliary_model = None
    if loss.kind == "rate-accuracy":
        auxiliary_model, third = _classifier(dataset, auxiliary)
        depends["auxiliary"] = third.sha256
    torch.manual_seed(seed_step(seed, -1))
    generator = channels_last(generator)
    losses = asdict(loss)
    if loss.kind == "rate-accuracy":
        compressor = NeuralCompressor(4 * settings.width, LATENTS, STOPS)
        only = None if rate is None else stop_of(rate, STOPS)
        objective: CompressorObjective = VariableRateObjective(compressor, generator, target_model, loss, auxiliary_model, only)
        objective.initialise(to_float(dataset.train.images[:256]))
        losses |= {} if only is None else {"rate": rates_of(STOPS)[only]}
    elif rate is not None:
        raise UsageError(
            f"a compressor of rate and distortion has one rate, given by the weight of its loss, got rate {rate:g}"
        )
    else:
        compressor = NeuralCompressor(4 * settings.width, 6 * settings.width)
        objective = CompressorObjective(compressor, generator, target_model, loss, auxiliary_model)
    return _train(objective, dataset, [name], preset, settings, seed, losses, depends, **run)[0]


def train_joint(
    dataset: Dataset,
    target: str,
    auxiliary: str,
    preset: str = "quick",
    seed: int = 0,
    generator_loss: GeneratorLoss | None = None,
    compressor_loss: CompressorLoss | None = None,
    variant: str = "",
    generator_variant: str = START,
    epochs: int | None = None,
    **run: Any,
) -> list[Manifest]:
    """Go on training a generator (a pair's `generator_variant`) together with a new compressor; keep both under `variant`."""
    if variant == generator_variant:
        raise UsageError(
            f"training would overwrite the generator variant {variant!r} that it starts from: keep it under another"
        )
    settings = _preset(preset, "joint", epochs)
    protection, loss = generator_loss or LOSSES[preset][0], compressor_loss or LOSSES[preset][1]
    names = [weights.generator_name(target, auxiliary, variant), weights.compressor_name(target, auxiliary, "", variant)]
    (target_model, first), (auxiliary_model, second) = (_classifier(dataset, each) for each in (target, auxiliary))
    generator, start = _generator(dataset, weights.generator_name(target, auxiliary, generator_variant))
    torch.manual_seed(seed_step(seed, -1))
    compressor = NeuralCompressor(4 * settings.width, 6 * settings.width)
    keep = ENCODER in PRESETS[preset]
    objective = JointObjective(compressor, channels_last(generator), target_model, auxiliary_model, loss, protection, keep)
    objective.initialise(to_float(dataset.train.images[:256]))
    depends = {"target": first.sha256, "auxiliary": second.sha256}
    losses = {"joint": {**asdict(protection), **asdict(loss)}, "start": start.sha256, "before": start.training}
    return _train(objective, dataset, names, preset, settings, seed, losses, depends, **run)


def _train(
    objective: Objective,
    dataset: Dataset,
    names: list[str],
    preset: str,
    settings: TrainingSettings,
    seed: int,
    loss: dict[str, Any],
    depends: dict[str, str],
    *,
    device: str = "auto",
    devices: int = 1,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[Manifest]:
    """Fit, and keep each of the objective's parts under its name; a later part depends on those before it."""
    parts = objective.parts()
    specs = [weights.describe(part) for part in parts]
    label = " ".join(dict.fromkeys([*(kind for kind, _ in specs), names[0]]))
    checkpoint = data_root() / "runs" / "checkpoints" / dataset.family / f"{'+'.join(names)}.pt"
    require_writable(checkpoint.parent)
    outcome = fit(
        objective,
        _captured(dataset.train) if settings.captured else dataset.train,
        _captured(dataset.validation) if settings.captured else dataset.validation,
        settings,
        label=label,
        checkpoint=checkpoint,
        identity={
            "names": names,
            "data": dataset.title,
            "n": len(dataset.train),
            "loss": loss,
            "depends": depends,
            "specs": specs,
        },
        seed=seed,
        augment=crop_and_flip(dataset.mirror, settings.crop, settings.erase),
        device=device,
        devices=devices,
        on_epoch=on_epoch,
    )
    if rank() == 0:
        last = _tabulated(dataset, settings)
        outcome.best = {**objective.finish(to_float(last.images), last.labels), **outcome.best}  # it overwrites no figure
    training = {
        "preset": preset,
        **asdict(settings),
        "loss": loss,
        "images": len(dataset.train),
        "division": dataset.division,
        "validation_images": min(len(dataset.validation), settings.validation_images or len(dataset.validation)),
        "seconds": round(outcome.seconds, 1),
        "pflop": round(outcome.pflop, 6),
        "computed_in": outcome.precision,
        "device": "cuda" if torch.cuda.is_available() and device != "cpu" else "cpu",
        "torch": torch.__version__,
        "history": outcome.history,
        "measured_on": MEASURED_ON,
    }
    made: list[Manifest] = []
    kept = [weights.find(name, dataset.family) for name in names]
    if rank() == 0 and not outcome.complete and all(each is not None and each.complete for each in kept):
        tqdm.write(f"{label}: the weights {', '.join(names)} that were there stay as they are", sys.stderr)
        made = [replace(each, complete=False, file="") for each in kept if each is not None]
    elif rank() == 0:
        for name, part, (kind, spec) in zip(names, parts, specs, strict=True):
            on = {**depends, **{each.kind: each.sha256 for each in made}}
            manifest = Manifest(
                name, dataset.family, kind, spec, dataset.title, seed, training, outcome.best, on, outcome.complete
            )
            made.append(weights.save(part, manifest))
        if outcome.complete:
            checkpoint.unlink(missing_ok=True)
    wait_for_all()
    return made or [found for name in names if (found := weights.find(name, dataset.family)) is not None]


def _tabulated(dataset: Dataset, settings: TrainingSettings) -> Split:
    """Return the images of which a compressor learns how often which latents come.

    Those of the validation split: on images that it was fitted on an encoder is surer than on new ones, and what it is seldom
    sure of would cost too much. Where they are few, training images are added.
    """
    split, rest = dataset.validation, dataset.train.head(max(0, TABULATED - len(dataset.validation)))
    split = Split(torch.cat([split.images, rest.images]), torch.cat([split.labels, rest.labels]))
    return _captured(split) if settings.captured else split


def _captured(split: Split) -> Split:
    """Return a split as the edge receives it, through the JPEG that the client sends (S1)."""
    client = Client()
    files = [file for part in torch.split(split.images, 1024) for file in client.capture(to_float(part))]
    return Split(load_pictures(files, None), split.labels)


def _preset(preset: str, kind: str, epochs: int | None = None) -> TrainingSettings:
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    settings = PRESETS[preset].get(kind)
    if settings is None:
        raise UsageError(f"preset {preset!r} has no training of an {kind}; 'quick' and 'hours' have")
    return settings if epochs is None else replace(settings, epochs=epochs, max_images=None)


def _classifier(dataset: Dataset, name: str) -> tuple[Classifier, Manifest]:
    module, manifest = weights.load(weights.classifier_name(name), dataset.family, "classifier")
    assert isinstance(module, Classifier)
    return channels_last(module), manifest


def _generator(dataset: Dataset, name: str) -> tuple[PerturbationGenerator, Manifest]:
    module, manifest = weights.load(name, dataset.family, "generator")
    assert isinstance(module, PerturbationGenerator)
    return module, manifest


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
    **run: Any,
) -> list[Manifest]:
    """Return the manifests of a pair's classifiers, generator and compressor, training only what is missing or was interrupted.

    What exists is taken as it is, whatever its preset; weights that were trained against others than those present are trained
    again. Says on standard error what it trains.
    """
    present: dict[str, Manifest] = {}

    def usable(name: str) -> Manifest | None:
        found = weights.find(name, dataset.family)
        shas = {manifest.sha256 for manifest in present.values()}
        return found if found is not None and found.complete and shas.issuperset(found.depends.values()) else None

    def need(name: str, train: Callable[[], Manifest | list[Manifest]]) -> None:
        found: Manifest | list[Manifest] | None = usable(name)
        if found is None:
            if rank() == 0:
                tqdm.write(f"no usable weights {name!r} for {dataset.title}: training them with preset {preset!r}", sys.stderr)
            found = train()
        for each in found if isinstance(found, list) else [found]:
            if not each.complete:
                raise KeyboardInterrupt
            present[each.name] = each

    for each in dict.fromkeys((target, auxiliary)):
        need(each, partial(train_classifier, dataset, each, preset, seed, **run))
    pair = (dataset, target, auxiliary, preset, seed)
    name = weights.generator_name(target, auxiliary)
    learn = partial(train_generator, *pair, generator_loss, **run)
    jointly = preset in JOINTLY and (compressor_loss or LOSSES[preset][1]).kind == "rate-accuracy"
    if usable(name) is None and ENCODER in PRESETS[preset]:
        need(ENCODER, partial(train_encoder, dataset, preset, seed, **run))
        del present[ENCODER]
    if compressor and jointly and usable(name) is None:
        start = weights.generator_name(target, auxiliary, START)
        need(start, partial(learn, variant=START))
        need(name, partial(train_joint, *pair, generator_loss, compressor_loss, **run))
        del present[start]
    need(name, learn)
    if compressor:
        code = partial(train_compressor, *pair, compressor_loss, **run)
        need(weights.compressor_name(target, auxiliary), code)
    return list(present.values())
