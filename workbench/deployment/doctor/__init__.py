"""What stands in the way of a launch, found before it: each machine is probed over the same SSH, and nothing there is changed.

::

    runner     all machines at once: shell facts -> inventory (Python) and kubectl -> findings
    hosts      a machine that runs a stage as a process
    guests     a node that starts SEV-SNP guests
    clusters   the cluster that a container goes to; charts: the values of Kata's Helm chart
    network    the ways between the machines
    findings   one line each: ok, or what is wrong and what mends it

The first question is POSIX sh, so a machine without Python gets its lines, too.
"""

from .findings import Finding
from .runner import Doctor

__all__ = ["Doctor", "Finding"]
