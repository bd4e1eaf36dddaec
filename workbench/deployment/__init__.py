"""The two stages on other machines: planned in a file, shipped, started, joined, watched, and taken away again.

::

    plan             deployment.toml: which stage where, and how one reaches it
    launch           all of it: launch, status, logs, stop
    stages           a stage on a plain host or in a container
    shipment         what a stage is sent
    far              what runs on a plain host: an environment, a supervised process, its log; the standard library alone
    guest manifests containers pods    the edge in a confidential container, through kubectl on its host
    tunnels          what joins machines that do not reach each other: ports, kept up by a process on this side
"""
