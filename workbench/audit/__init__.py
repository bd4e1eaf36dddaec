"""The privacy audit: attackers that reconstruct pictures, and controls that every figure is compared with.

A view is what an attacker observes at one point of the system, such as the payload. A pair is one of the attacker's own
pictures with its observation. A control is a guess without any observation, such as the mean image of the true class. A gain is
how much better an attacker's figure is than the control's, for identification the ratio of the two.

::

    views           an attacker's observations, and the pairs that it learns from
    contract        the interface of an attacker, and its effort
    reconstruct     attackers that reconstruct pictures
    attackers       attackers that read classes or replay pictures, and the registry
    scores          the measures of a guess
    membership      the RMIA test: whether a picture was among a generator's training images
    crew            attackers in parallel
    attempts        attackers on views, each with every seed, next to the controls
    linkage         linking of captures, and membership of training images
    run             the whole audit, and its convergence over effort
    verdict         whether each view stays within the allowed gain
    sweeps          the best attack over strength, bits, number of pairs, and sends of each picture
    privacy_report  the result for a privacy officer
"""

from .attackers import ATTACKERS
from .contract import EFFORTS, Attacker, Effort
from .run import Audit
from .views import SOURCES, VIEWS, Observed, Observer, Pairs

__all__ = ["ATTACKERS", "EFFORTS", "SOURCES", "VIEWS", "Attacker", "Audit", "Effort", "Observed", "Observer", "Pairs"]
