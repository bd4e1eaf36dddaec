"""The remote agent, a program on the machine of a stage (edge or cloud). It makes a Python environment, and runs the stage.

::

    python3 PROGRAM FOLDER VERB   < arguments as JSON   > lines of JSON: progress, then {"done": ...} or {"error": ...}

    FOLDER/store/<sha256>        the sent files: the package, weights, and PROGRAM, which is the package `agent` as one zip file
    FOLDER/envs/<key>/           a Python environment, for one version of the package and one set of installation options
    FOLDER/stages/<name>/        one stage: lock, spec.json, state.json, log, port, and its files

A supervisor process in its own session runs the stage, so that the stage outlives the SSH connection that started it. The
supervisor holds the stage's lock as long as it runs. So a free lock means that the stage does not run. A killed supervisor does
not record the end in state.json. The agent needs Python 3.9 and only the standard library.
"""
