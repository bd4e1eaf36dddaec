"""The two stages on other machines: planned in a file, shipped, started, joined, watched, and taken away again.

::

    plan.py         deployment.toml: which stage where, and how one reaches it
    far.py          what runs there: an environment, a supervised process, its log; Python's standard library alone
    stages.py       a stage on a plain host, through `far.py`
    manifests.py, containers.py    the edge in a confidential container, through kubectl on its host
    tunnels.py      what joins the machines where they do not reach each other: forwarded ports, kept up by a process of its own
    launch.py       all of it: launch, status, logs, stop
"""
