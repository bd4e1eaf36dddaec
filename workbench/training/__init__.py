"""Training of all networks: classifiers, generators, compressors. Deterministic by seed, resumable, with one progress bar.

::

    objectives protection compression   the losses; leakage: a bound for every attacker
    adversary    ... against an inversion network
    batches      the images of each step
    loop         `fit`; schedules, devices, resume: its schedule, its device, its checkpoints
    fitting      networks saved as weights with their manifests
    presets      the settings and losses by name
    recipes      the training of each kind of network
    budget       schedules that fit a time budget
    missing      all missing networks of one pair, or of several
"""

from .adversary import Defence
from .compression import CompressorLoss
from .devices import rank
from .loop import fit
from .missing import PAPER_PAIRS, ensure, train_all
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
