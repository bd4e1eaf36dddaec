"""The entry point of the remote agent: run one verb (command), such as `start`, and print its result.

The verb's arguments are read from standard input as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .common import AgentError, say
from .environments import environment
from .machine import free, probe
from .stage import logs, purge, start, status, stop
from .supervisor import supervise

VERBS = {each.__name__: each for each in (probe, free, environment, start, status, logs, stop, purge)}


def main(arguments: Sequence[str]) -> int:
    """Run one verb, and print the result or the error as a line of JSON. Return 0.

    `arguments` are the agent's folder and the verb. The verb `supervise` has one more argument, the folder of a stage.
    """
    folder, verb = Path(arguments[0]).expanduser(), arguments[1]
    if not folder.is_absolute():
        folder = Path.home() / folder
    if verb == "supervise":
        return supervise(Path(arguments[2]))
    try:
        asked = json.loads(sys.stdin.read() or "{}")
        say(done=VERBS[verb](folder, asked))
    except AgentError as error:
        say(error=str(error))
    except OSError as error:
        say(error=f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    return 0
