"""How the networks come to be: classifiers, generators, compressors; deterministic by seed, resumable, one progress bar.

::

    objectives protection compression   what is learnt: the losses; recovery: an attacker in closed form
    adversary    ... against an inversion network
    batches      from which images, step by step
    loop         how: `fit`, its checkpoints, its schedule
    recipes      with which settings: the presets, the three trainings, `ensure`
"""

from .adversary import Defence
from .compression import CompressorLoss
from .loop import Outcome, TrainingSettings, fit, rank
from .objectives import Objective
from .protection import GeneratorLoss
from .recipes import (
    ENCODER,
    LOSSES,
    PRESETS,
    ensure,
    train_classifier,
    train_compressor,
    train_encoder,
    train_generator,
    train_joint,
)

__all__ = [
    "ENCODER",
    "LOSSES",
    "PRESETS",
    "CompressorLoss",
    "Defence",
    "GeneratorLoss",
    "Objective",
    "Outcome",
    "TrainingSettings",
    "ensure",
    "fit",
    "rank",
    "train_classifier",
    "train_compressor",
    "train_encoder",
    "train_generator",
    "train_joint",
]
