"""The privacy audit: attackers, and the controls with which their results are compared.

A view is the data that an attacker observes at one point of the system, such as the payload. A pair is one of the attacker's
own pictures, together with the observation of this picture. A control is a guess without any observation, such as the mean
image of the true class. A gain compares an attacker with a control in one metric. For PSNR and SSIM it is the attacker's value
minus the control's value. For identification it is the ratio of the two values.

::

    views           an attacker's observations, and the pairs that it learns from
    contract        the interface of an attacker, and the effort (an attacker's budget)
    networks        the attackers' networks and their training loop
    reconstruct     attackers that reconstruct pictures
    priors          white-box attackers with a learnt image prior
    attackers       attackers that predict classes or replay pictures, and the registry
    scores          the scores of a guess
    membership      the RMIA test: whether a picture was among a generator's training images
    crew            parallel runs of attackers
    figures         stored metrics of completed attackers
    attempts        runs of attackers with several seeds, and the controls
    linkage         tests that link two captures of one picture, and tests that detect training images
    unseen          the accuracy of classifiers that took no part in the generator's training
    run             the whole audit, and its convergence over effort
    verdict         whether the attackers' gain on each view is small enough
    sweeps          the best attack over strength, bits, number of pairs, and number of sends
    privacy_report  the result for a privacy officer
"""

from .attackers import ATTACKERS
from .contract import EFFORTS, Attacker, Effort
from .run import Audit
from .views import SOURCES, VIEWS, Observed, Observer, Pairs

__all__ = ["ATTACKERS", "EFFORTS", "SOURCES", "VIEWS", "Attacker", "Audit", "Effort", "Observed", "Observer", "Pairs"]
