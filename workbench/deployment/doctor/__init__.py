"""Find obstacles before a launch: each machine is probed over SSH, and nothing there is changed.

::

    runner     all machines at once: shell facts -> inventory (Python) and kubectl -> findings
    hosts      a machine that runs a stage as a process
    guests     a node that starts SEV-SNP guests
    clusters   the cluster of a container; charts: the values of Kata's Helm chart
    network    the connections between the machines
    findings   one line each: ok, or the fault and its remedy

The first probe is POSIX sh, so that even a machine without Python gets its lines.
"""

from .findings import Finding
from .runner import Doctor

__all__ = ["Doctor", "Finding"]
