"""The training of each kind of network by a preset. Each function saves the new weights, and returns the manifest.

The networks on which a training depends are loaded from their saved weights. `epochs` replaces the preset's number of epochs.
`run` are options of `train_and_keep`, such as the device. A `loss` of None selects the preset's loss. A pair is a target and an
auxiliary classifier. A variant is another generator or compressor of the same pair, saved under `name@variant`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from .. import weights
from ..classifiers import Classifier, heads
from ..data import Dataset
from ..errors import UsageError
from ..models import NeuralCompressor, PerturbationGenerator, channels_last
from ..pictures import to_float
from ..rates import STOPS, rates_of, stop_of
from ..weights import Manifest
from .adversary import AdversarialObjective, Defence, class_means
from .batches import seed_step
from .compression import CompressorLoss, CompressorObjective, JointObjective
from .devices import rank
from .fitting import train_and_keep
from .objectives import ClassifierObjective, Objective
from .presets import ENCODER, LOSSES, PAPER, PRESETS, START, losses_of, settings_of
from .protection import EncoderObjective, GeneratorLoss, GeneratorObjective, learn_apart_from_encoder, learn_from_deepest
from .schedules import Plan
from .variable_rate import VariableRateObjective

LARGE = ("googlenet", "inception_v3", "mobilenet_v2")  # their activations of 512 images would need 10 to 24 GB
LATENTS = 192  # latent channels of a variable-rate compressor at any width: rate 1 needs them

__all__ = ["train_classifier", "train_compressor", "train_encoder", "train_generator", "train_joint"]


def train_classifier(
    dataset: Dataset, name: str, preset: str = "quick", seed: int = 0, epochs: int | None = None, **run: Any
) -> Manifest:
    """Train a classifier on a data set, save it under its name, and return its manifest."""
    settings = settings_of(preset, "classifier", epochs)
    torch.manual_seed(seed_step(seed, -1))
    weights.classifier_name(name)  # raises UsageError for an unknown name
    if name in LARGE and settings.optimizer == "muon":
        settings = replace(settings, batch=settings.batch // 4, learning_rate=settings.learning_rate / 2)
    head = settings.head if settings.head in heads(name) else "public"
    network = Classifier(name, len(dataset.classes), head, settings.classifier_width)
    objective = ClassifierObjective(network, settings.smoothing, unpadded=bool(settings.sizes))
    plan = Plan([name], "classifier", preset, settings, seed)
    return train_and_keep(objective, dataset, plan, **run)[0]


def train_encoder(dataset: Dataset, preset: str = "hours", seed: int = 0, epochs: int | None = None, **run: Any) -> Manifest:
    """Pretrain the U-Net from which all generators of a data set start, and save it as `encoder`.

    The contracting half of the U-Net learns to classify images.
    """
    settings = settings_of(preset, ENCODER, epochs)
    torch.manual_seed(seed_step(seed, -1))
    objective = EncoderObjective(
        PerturbationGenerator(settings.width), len(dataset.classes), settings.smoothing, unpadded=bool(settings.sizes)
    )
    return train_and_keep(objective, dataset, Plan([ENCODER], ENCODER, preset, settings, seed), **run)[0]


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
    """Train the perturbation generator of a pair whose classifiers exist, and save it as `target-X-auxiliary`.

    The training starts from the generator named `start`. If `start` is None, it starts from the pretrained U-Net, which is
    trained if it is missing. The preset `paper` and the variant `paper` have no pretraining, and start from random weights. The
    variant `paper` has the papers' loss and settings.

    `defence` sets the strength in training (default 1) and the noise of the generator. It can add an inversion network as the
    adversary.
    """
    settings, strength = settings_of(preset, "generator", epochs, variant), 1.0 if defence is None else defence.strength
    if loss is None:
        loss = losses_of(preset, variant)[0]
        loss = replace(loss, every_strength=loss.every_strength and strength == 1)
    encoded = ENCODER in PRESETS[preset] and variant != PAPER
    if PAPER in (preset, variant) and (target, auxiliary) == ("googlenet", "vgg13_bn"):
        settings = replace(settings, learning_rate=1e-3)  # as in PP's public code, for the one pair that needs it
    name = weights.generator_name(target, auxiliary, variant)
    (target_model, first), (auxiliary_model, second) = (_classifier(dataset, each) for each in (target, auxiliary))
    if start == name:
        raise UsageError(f"training would overwrite the generator {name!r} that it starts from: keep it under a --variant")
    torch.manual_seed(seed_step(seed, -1))
    generator, losses = PerturbationGenerator(settings.width), asdict(loss)
    pretrained = weights.find(ENCODER, dataset.family)
    if start is None and encoded and (pretrained is None or not pretrained.complete):
        if rank() == 0:
            tqdm.write(f"no weights {ENCODER!r} for {dataset.title}, which generators start from: training them", sys.stderr)
        if not train_encoder(dataset, preset, seed, **run).complete:
            raise KeyboardInterrupt
    if start is not None or encoded:
        generator, before = _generator(dataset, start or ENCODER)
        losses |= {"start": before.sha256, "before": before.training}
        generator.requires_grad_(True)  # `load` returns frozen networks
    generator.noise = settings.noise if defence is None or defence.noise is None else defence.noise
    if encoded:
        learn_apart_from_encoder(generator)
    if loss.leakage_weight:
        learn_from_deepest(generator)
    objective: Objective = GeneratorObjective(generator, target_model, auxiliary_model, loss, strength)
    if defence is not None:
        losses["defence"] = asdict(defence)
    if defence is not None and defence.weight:
        means = class_means(dataset.train, len(dataset.classes))
        objective = AdversarialObjective(generator, target_model, auxiliary_model, loss, defence, means)
    depends = {"target": first.sha256, "auxiliary": second.sha256}
    plan = Plan([name], "generator", preset, settings, seed, losses, depends)
    return train_and_keep(objective, dataset, plan, **run)[0]


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
    """Train a compressor on a generator's protected images, and save it as `target-X-auxiliary-compressor`.

    `generator_variant` is the variant of the generator. With the loss `rate-accuracy`, the compressor has many rates. If
    `rate` (in [0, 1]) is given, the compressor is trained for the nearest of these rates only. Raises UsageError if `rate` is
    given with another loss.
    """
    settings = settings_of(preset, "compressor", epochs, generator_variant)
    loss = loss or losses_of(preset, generator_variant)[1]
    only = None if rate is None else stop_of(rate, STOPS)
    if only is not None and loss.kind != "rate-accuracy":
        raise UsageError(f"a compressor of rate and distortion has one rate, set by the weight of its loss, got rate {rate:g}")
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
        variable = VariableRateObjective(compressor, generator, target_model, loss, auxiliary_model, only)
        variable.initialise(to_float(dataset.train.images[:256]))
        objective: CompressorObjective = variable
        losses |= {} if only is None else {"rate": rates_of(STOPS)[only]}
    else:
        compressor = NeuralCompressor(4 * settings.width, 6 * settings.width)
        objective = CompressorObjective(compressor, generator, target_model, loss)
    plan = Plan([name], "compressor", preset, settings, seed, losses, depends)
    return train_and_keep(objective, dataset, plan, **run)[0]


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
    """Train a pair's generator together with a new compressor, and save both as `variant`.

    The training starts from the generator's variant `generator_variant`, whose weights stay unchanged. Raises UsageError if
    both variants are equal.
    """
    if variant == generator_variant:
        raise UsageError(
            f"training would overwrite the generator variant {variant!r} that it starts from: keep it under another"
        )
    settings = settings_of(preset, "joint", epochs)
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
    return train_and_keep(objective, dataset, Plan(names, "joint", preset, settings, seed, losses, depends), **run)


def _classifier(dataset: Dataset, name: str) -> tuple[Classifier, Manifest]:
    module, manifest = weights.load(weights.classifier_name(name), dataset.family, "classifier")
    assert isinstance(module, Classifier)
    return channels_last(module), manifest


def _generator(dataset: Dataset, name: str) -> tuple[PerturbationGenerator, Manifest]:
    module, manifest = weights.load(name, dataset.family, "generator")
    assert isinstance(module, PerturbationGenerator)
    return module, manifest
