"""Minimal objectives, and a training of one of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from workbench.classifiers import MEAN, STD, Classifier
from workbench.data import Dataset
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.training import CompressorLoss, GeneratorLoss, Objective, Outcome, TrainingSettings, fit
from workbench.training.adversary import AdversarialObjective, Defence
from workbench.training.batches import crop_and_flip
from workbench.training.compression import CompressorObjective, JointObjective
from workbench.training.objectives import ClassifierObjective
from workbench.training.presets import HIDDEN
from workbench.training.protection import EncoderObjective, GeneratorObjective
from workbench.training.variable_rate import VariableRateObjective

# 3 steps an epoch on 48 images, 6 in total
SETTINGS = TrainingSettings(epochs=2, batch=16, learning_rate=1e-2, weight_decay=1e-3)


IDENTITY = {"name": "test"}


QUICKLY: dict[str, Any] = {"device": "cpu", "compressor_loss": CompressorLoss("rate-distortion")}


class Small(Classifier):
    def __init__(self, name: str = "small", logits: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.name, self.num_classes, self.head, self.logits = name, 10, "public", logits
        self.network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)
        )
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits * super().forward(images)


def classifier_objective() -> ClassifierObjective:
    return ClassifierObjective(Small())


def generator_objective(
    loss: GeneratorLoss = GeneratorLoss("bounded", "absolute"), auxiliary: str = "other", noise: float = 0.0
) -> GeneratorObjective:
    return GeneratorObjective(
        PerturbationGenerator(width=2, noise=noise), Small().eval(), Small(auxiliary, logits=20).eval(), loss
    )


def compressor_objective() -> CompressorObjective:
    compressor = NeuralCompressor(N=4, M=6)
    compressor.g_a[-1].weight.data.mul_(100)  # latents that do not all round to zero
    return CompressorObjective(compressor, PerturbationGenerator(width=2).eval(), Small().eval(), CompressorLoss())


def variable_objective(only: int | None = None, noise: float = 0.0, auxiliary: str = "other") -> VariableRateObjective:
    compressor, generator = NeuralCompressor(N=4, M=6, stops=4), PerturbationGenerator(width=2, noise=noise).eval()
    objective = VariableRateObjective(
        compressor, generator, Small().eval(), CompressorLoss("rate-accuracy", 0.4), Small(auxiliary, logits=20).eval(), only
    )
    objective.initialise(torch.rand(8, 3, 32, 32))
    return objective


def joint_objective(
    keep_encoder: bool = False, protection: GeneratorLoss = GeneratorLoss("bounded", "absolute", 2.0), noise: float = 0.0
) -> JointObjective:
    compressor, generator = NeuralCompressor(N=4, M=6), PerturbationGenerator(width=2, noise=noise)
    compressor.g_a[-1].weight.data.mul_(100)
    classifiers = (Small().eval(), Small("other", logits=20).eval())
    return JointObjective(compressor, generator, *classifiers, CompressorLoss("rate-accuracy", 0.2), protection, keep_encoder)


def adversarial_objective(weight: float = 6.0, noise: float = 0.0, strength: float = 1.0) -> AdversarialObjective:
    generator, means = PerturbationGenerator(width=2, noise=noise), torch.rand(10, 3, 32, 32)
    classifiers = (Small().eval(), Small("other", logits=20).eval())
    defence = Defence(weight, noise, strength, width=2)
    return AdversarialObjective(generator, *classifiers, GeneratorLoss("bounded", "absolute"), defence, means)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "classifier": classifier_objective,
    "encoder": lambda: EncoderObjective(PerturbationGenerator(width=2), 10),
    "generator": generator_objective,
    "generator, hidden": lambda: generator_objective(HIDDEN, noise=0.1),
    "compressor": compressor_objective,
    "compressor, variable rate": variable_objective,
    "joint": joint_objective,
}


def train_here(
    objective: Objective, data: Dataset, folder: Path, settings: TrainingSettings = SETTINGS, seed: int = 0, **options: Any
) -> Outcome:
    return fit(
        objective,
        data.train,
        data.validation,
        settings,
        label="test",
        checkpoint=folder / "test.pt",
        identity=IDENTITY,
        seed=seed,
        augment=crop_and_flip(True),
        device="cpu",
        **options,
    )


def seeded(make: Callable[[], Objective]) -> Objective:
    torch.manual_seed(5)
    return make()


def tensors(objective: Objective) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in objective.network.state_dict().items()}


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [key for key in first if not torch.equal(first[key], second[key])]


class Interrupted(Objective):
    def __init__(self, inner: Objective, step: int, happen: Callable[[], Any], after: bool) -> None:
        super().__init__()
        self.inner, self.network, self.adversarial = inner, inner.network, inner.adversarial
        self.step, self.happen, self.after, self.calls = step, happen, after, 0

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        self.inner.train(mode)
        return self

    def groups(self) -> list[dict[str, Any]]:
        return self.inner.groups()

    def at(self, step: int, total: int) -> None:
        self.inner.at(step, total)

    def before_validation(self, images: Tensor) -> None:
        self.inner.before_validation(images)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += self.training
        due = self.training and self.calls == self.step
        if due and not self.after:
            self.happen()
        out: tuple[Tensor, dict[str, Tensor]] = self.inner(images, labels)
        if due and self.after:
            self.happen()
        return out


def stop() -> None:
    signal.raise_signal(signal.SIGINT)
