"""What an attacker gets: views of the pictures, attackers that learn from pairs, and controls, without which no figure counts.

::

    views      what an attacker holds, and the pairs that he can make of it
    attackers  what he does with them: fit on pairs, guess
    scores     what a guess is worth
    crew       what they try, and they at work side by side
    run        every attacker on every view, beside the controls
    verdict    where the protection holds, and where it fails
    curves     over strength, bits and pairs
    page       the result for a privacy officer
"""

from .attackers import ATTACKERS, Attacker, Effort
from .run import EFFORTS, Audit
from .views import SOURCES, VIEWS, Observed, Observer, Pairs

__all__ = ["ATTACKERS", "EFFORTS", "SOURCES", "VIEWS", "Attacker", "Audit", "Effort", "Observed", "Observer", "Pairs"]
