"""Training of all networks: classifiers, generators, compressors. It is deterministic by seed and resumable.

::

    objectives   the interface of a loss (objective), and the classifiers' loss
    protection   the generator's losses; leakage: a bound on the information for every attacker
    adversary    the generator's loss against an inversion network
    compression  the compressor's losses; variable_rate: for one compressor of many rates
    batches      the images of each step
    loop         `fit`, the training loop; schedules, devices, resume: what it needs
    fitting      fit an objective, and save its networks as weights with their manifests
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
