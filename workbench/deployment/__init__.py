"""The two stages on other machines: planned in a file, shipped, started, joined, watched, and removed.

::

    plan             deployment.toml: the machine of each stage, and the way to reach it
    deployed         a deployment as a whole: launch, status, logs, stop
    stages           a stage on a plain host or in a container
    shipment         the files that a stage is sent
    credentials      the certificates of the stages, and the policy for the edge's evidence
    agent/           the program on a plain host: an environment, a supervised process, its log; standard library only
    kubernetes/      the edge in a confidential container, through kubectl on its host
    links            the tunnels that the stages need
    tunnels          ports that join machines in separate networks, kept open by a process on this side
    doctor/          what prevents a launch, and the command that fixes it
"""
