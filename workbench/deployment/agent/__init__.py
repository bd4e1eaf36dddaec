"""The remote agent on a stage's machine: makes an environment, and starts, watches and stops the stage. Standard library only.

::

    python3 PROGRAM FOLDER VERB   < arguments as JSON   > lines of JSON: progress, then {"done": ...} or {"error": ...}

    FOLDER/store/<sha256>        the sent files: the package, weights, and PROGRAM, which is this folder in one file
    FOLDER/envs/<key>/           an environment, made once for each package
    FOLDER/stages/<name>/        one stage: lock, spec.json, state.json, log, port, and its files

A supervisor in a session of its own runs the stage, so that it outlives the connection that started it. The supervisor holds
the stage's lock while it lives. A free lock means that nothing runs, whatever the files say. Needs Python 3.9.
"""
