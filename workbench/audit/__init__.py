"""The privacy audit: views of the pictures, attackers that learn from pairs, and controls that every figure is compared with.

::

    views           an attacker's observations, and the pairs that it learns from
    contract        the interface of an attacker, and its effort
    reconstruct     attackers that draw pictures
    attackers       attackers that read classes or replay pictures, and the registry
    scores          the measures of a guess
    membership      whether a picture was among a generator's training images
    crew            attackers in parallel
    run             every attacker on every view, the controls, convergence over effort
    verdict         whether each view stays within the allowed gain
    curves          success over strength, bits, pairs and sends
    privacy_report  the result for a privacy officer
"""

from .attackers import ATTACKERS, Attacker, Effort
from .run import EFFORTS, Audit
from .views import SOURCES, VIEWS, Observed, Observer, Pairs

__all__ = ["ATTACKERS", "EFFORTS", "SOURCES", "VIEWS", "Attacker", "Audit", "Effort", "Observed", "Observer", "Pairs"]
