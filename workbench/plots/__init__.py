"""The figures: one visual language for notebooks, report and papers. Colours are Okabe and Ito's, safe for the colour-blind.

::

    style        colours, defaults, a line with its interval
    galleries    pictures side by side
    recognition  accuracy over strength, bytes, pairs and training steps
    timing       where the time of a picture goes
    attacks      what attackers get, and at which price they get less
"""

from .attacks import attack_curves, attack_pairs, attack_rates, front, pareto
from .galleries import gallery, reconstructions, residual
from .recognition import accuracy_bytes, heatmap, rate_accuracy, strength_curves, training_curves
from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, use_style
from .timing import COMPONENT_TITLES, components, links

__all__ = [
    "BLUE",
    "COMPONENT_TITLES",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "accuracy_bytes",
    "attack_curves",
    "attack_pairs",
    "attack_rates",
    "components",
    "front",
    "gallery",
    "heatmap",
    "links",
    "pareto",
    "rate_accuracy",
    "reconstructions",
    "residual",
    "strength_curves",
    "training_curves",
    "use_style",
]
