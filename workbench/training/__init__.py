"""Training of all networks: classifiers, generators and compressors.

Training is deterministic by seed, and continues after an interruption. An objective is a loss with the networks that it
trains.

::

    objectives     the interface of an objective, and the classifiers' objective
    protection     the generator's losses
    leakage        an upper bound on the information that any attacker gets
    adversary      the generator's loss against an inversion network
    compression    the compressor's losses
    variable_rate  the loss of one compressor for many rates
    batches        the images of each step
    optimizers     AdamW, SGD and Muon
    convolutions   faster convolutions on a CPU
    loop           `fit`, the training loop
    schedules      settings, learning rate and outcome of a training
    devices        devices, precision and processes
    resume         the checkpoint of a training
    fitting        fit an objective, and save its networks as weights with their manifests
    presets        the settings and losses by name
    recipes        the training of each kind of network
    budget         schedules that fit a time budget
    missing        training of all missing networks of one pair, or of several pairs
"""

from .adversary import Defence
from .compression import CompressorLoss
from .devices import rank
from .loop import fit
from .missing import PAPER_PAIRS, ensure, existing, train_all
from .objectives import Objective
from .presets import ENCODER, LOSSES, PAPER, PRESETS, losses_of
from .protection import GeneratorLoss
from .recipes import train_classifier, train_compressor, train_encoder, train_generator, train_joint
from .schedules import Outcome, TrainingSettings

__all__ = [
    "ENCODER",
    "LOSSES",
    "PAPER",
    "PAPER_PAIRS",
    "PRESETS",
    "CompressorLoss",
    "Defence",
    "GeneratorLoss",
    "Objective",
    "Outcome",
    "TrainingSettings",
    "ensure",
    "existing",
    "fit",
    "losses_of",
    "rank",
    "train_all",
    "train_classifier",
    "train_compressor",
    "train_encoder",
    "train_generator",
    "train_joint",
]
