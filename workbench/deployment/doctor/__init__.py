"""Find what would prevent a launch of the stages (edge and cloud). Machines are probed over SSH, and nothing is changed.

::

    runner     all machines at once: shell facts -> inventory (Python) and kubectl -> findings
    hosts      a machine that runs a stage as a process
    guests     a node that starts SEV-SNP guests
    clusters   the cluster of a container
    charts     the values of Kata's Helm chart on that cluster
    network    the connections between the machines
    findings   the result of a check: ok, or a fault and its remedy, in one line

The first probe is a POSIX shell script, so that it also runs on a machine without Python.
"""

from .findings import Finding
from .runner import Doctor

__all__ = ["Doctor", "Finding"]
