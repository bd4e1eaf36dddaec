"""Check the machines of a deployment over SSH for faults that would prevent a launch. The checks change nothing.

A deployment has two stages, the edge and the cloud. The edge may run in a container in a guest, a virtual machine.

::

    runner     all checks, on all machines in parallel: a shell script, then a Python program and kubectl
    hosts      a machine that runs a stage as a process
    guests     a cluster node that starts guests under SEV-SNP, AMD's protection of virtual machines
    clusters   the Kubernetes cluster of a container
    charts     the values of Kata's Helm chart on that cluster; Kata starts the guests
    network    the connections between the machines
    findings   the result of a check: ok, or a fault and its remedy, in one line

The first step on a machine is a POSIX shell script, which also runs without Python.
"""

from .findings import Finding
from .runner import Doctor

__all__ = ["Doctor", "Finding"]
