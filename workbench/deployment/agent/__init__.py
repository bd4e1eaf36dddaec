"""What runs on a stage's machine: makes an environment, and starts, watches and stops the stage. Standard library alone.

::

    python3 PROGRAM FOLDER VERB   < what to do, as JSON   > lines of JSON: {"told": ...}*, then {"done": ...} or {"error": ...}

    FOLDER/store/<sha256>        what was sent: the package, weights, and PROGRAM, which is this folder in one file
    FOLDER/envs/<key>/           an environment, made once for a package
    FOLDER/stages/<name>/        one stage: lock, spec.json, state.json, log, port, and what it was given

A stage runs under a supervisor in a session of its own, which outlives the connection that started it. The supervisor holds the
stage's lock for as long as it lives: whoever finds it free knows that nothing runs, whatever a file says. Python 3.9 will do.
"""
