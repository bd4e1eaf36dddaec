"""Plots in one style, for notebooks, reports and papers. The palette is the colour-blind-safe palette of Okabe and Ito.

::

    style        colours, matplotlib's defaults, lines and points with intervals
    galleries    pictures in rows and columns
    labels       names next to points
    recognition  accuracy over strength, over bytes, and for each pair of target and auxiliary classifier
    learning     loss and accuracy during and after training
    timing       the components of a picture's latency
    energy       the energy of a picture on the phone
    attacks      the success of attackers, and the trade-off with accuracy and bits
    surface      accuracy, similarity and an attacker's gain over strength and rate
"""

from .attacks import attack_curves, attack_effort, attack_pairs, attack_rates, front, pareto
from .energy import PART_TITLES, energy_bars, energy_shares
from .galleries import comparison, gallery, reconstructions
from .learning import learning_curves, training_curves
from .recognition import accuracy_bytes, heatmap, rate_accuracy, strength_curves
from .style import use_style
from .surface import surface, surface_front
from .timing import COMPONENT_TITLES, components, links

__all__ = [
    "COMPONENT_TITLES",
    "PART_TITLES",
    "accuracy_bytes",
    "attack_curves",
    "attack_effort",
    "attack_pairs",
    "attack_rates",
    "comparison",
    "components",
    "energy_bars",
    "energy_shares",
    "front",
    "gallery",
    "heatmap",
    "learning_curves",
    "links",
    "pareto",
    "rate_accuracy",
    "reconstructions",
    "strength_curves",
    "surface",
    "surface_front",
    "training_curves",
    "use_style",
]
