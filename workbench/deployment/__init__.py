"""Run the two services, called stages, on other machines: the edge, which protects pictures, and the cloud, which labels them.

::

    plan             deployment.toml: each stage's machine, and how it is reached
    deployed         a deployment as a whole: launch, status, logs, stop
    stages           a stage on a plain host or in a container
    shipment         the files that a stage receives
    credentials      the certificates of the stages, and the policy for the edge's evidence
    agent/           the program on a plain host: it makes an environment, supervises the stage, keeps its log
    kubernetes/      the edge in a confidential container, through kubectl on its host
    links            the tunnels that the stages of a plan need
    tunnels          a local process that keeps ports forwarded over SSH
    doctor/          what prevents a launch, and the command that fixes it
"""
