"""Run the two stages (services) of the workbench on other machines.

The edge is the stage that protects pictures. The cloud is the stage that recognizes protected pictures.

::

    plan             deployment.toml: the machine, the settings and the address of each stage
    deployed         a deployment as a whole: launch, status, logs, stop
    stages           start and stop one stage, as a process on a host or in a container
    shipment         the files that a stage's machine receives
    credentials      the stages' certificates, and the client's policy for the edge's attestation evidence
    agent/           the program on a host without Kubernetes: it installs Python packages, runs the stage, writes its log
    kubernetes/      the edge in a confidential container, through kubectl on a host
    links            the tunnels that the stages of a plan need
    tunnels          a local process that keeps ports forwarded over SSH
    doctor/          checks of the machines: faults that prevent a launch, and the commands that fix them
"""
