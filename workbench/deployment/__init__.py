"""Launch, watch and stop edge and cloud on other machines, from one plan.

::

    plan         deployment.toml: the host, the address and the options of each stage
    deployed     a planned deployment: launch, status, logs, stop
    stages       a stage on a plain host or in a container
    shipment     the files that a stage is sent            credentials   its certificates, and the policy for its evidence
    agent/       the program on a plain host: an environment, a supervised process, its log (standard library alone)
    kubernetes/  a stage in a confidential container, through kubectl on its host
    doctor/      checks of machines and clusters, before a launch
    tunnels      ports between machines that do not reach each other, kept open by a process on this machine
"""
