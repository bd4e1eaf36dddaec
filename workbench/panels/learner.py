"""The training process for the view of `train`. It reads and writes lines of JSON.

::

    stdin     the training; a further line, or the end of the parent, stops it after the present step, a second line at once
    stdout    {"bar": ...} a progress   {"epoch": ...} a history as it grows   {"line": ...} other output
              {"known": ...} existing networks   {"error": ...} the reason of a failure

A separate process is needed, because a training can only be interrupted between two steps in a main thread, and because nothing
else may draw random numbers in it. So a resumed training ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import WorkbenchError, unknown

if TYPE_CHECKING:
    from ..weights import Manifest

__all__ = ["STOPPED", "main"]

STOPPED = 130
_BAR = re.compile(
    r"^(?P<label>.*?): +\d+%\|.*\| *(?P<step>\d+)/(?P<total>\d+) \[(?P<spent>[\d:]+)<(?P<left>[\d:]+|\?)(?P<rest>.*)\]?$"
)


class Told(io.TextIOBase):
    """Standard error as messages: a progress bar's state, or a line of text."""

    encoding = "utf-8"

    def __init__(self, out: TextIO) -> None:
        self._out, self._kept, self._lock = out, "", threading.Lock()
        self._label, self.stopping = "", False

    def send(self, **message: Any) -> None:
        """Send a message."""
        with self._lock:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()

    def write(self, text: str) -> int:
        """Turn the text into messages: each line, and each state of a bar."""
        *lines, self._kept = re.split(r"[\r\n]", self._kept + text)
        if _BAR.match(self._kept):  # a bar's state ends with the next one
            lines, self._kept = [*lines, self._kept], ""
        for line in filter(None, (re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).strip() for line in lines)):
            self._say(line)
        return len(text)

    def _say(self, line: str) -> None:
        if (bar := _BAR.match(line)) is None:
            self.send(line=line)
        else:
            if bar["label"] != self._label and self.stopping:
                _interrupt()  # the previous network ended in the step after which it should stop
            self._label = bar["label"]
            self.send(bar=bar["label"], step=int(bar["step"]), total=int(bar["total"]), left=bar["left"])


def main() -> int:
    """Run the requested training. Return 0, 1 for an error, or STOPPED."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    told = Told(sys.stdout)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_when_told, args=(told, sys.stdin), daemon=True).start()
    sys.stdout, sys.stderr = sys.stderr, told
    try:
        _train(told, **asked)
    except KeyboardInterrupt:
        return STOPPED
    except WorkbenchError as error:
        told.send(error=str(error))
        return 1
    return 0


def _stop_when_told(told: Told, asker: TextIO) -> None:
    """Interrupt the main thread for each line of input, and at its end."""
    for _ in asker:
        told.stopping = True
        _interrupt()
    told.stopping = True
    _interrupt()


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _train(
    told: Told, dataset: str, data_dir: str, target: str, auxiliary: str, preset: str, seed: int, compressor: bool, device: str
) -> None:
    """Train the missing networks of a pair, like `Notebook.pair`, and report all of its networks."""
    from .. import data, training, weights

    if preset not in training.PRESETS:
        raise unknown("preset", preset, training.PRESETS)
    found = data.load(dataset, data_dir or None)
    classifiers = [weights.classifier_name(each) for each in dict.fromkeys((target, auxiliary))]
    names = dict.fromkeys(classifiers, "classifier") | {weights.generator_name(target, auxiliary): "generator"}
    names |= {weights.compressor_name(target, auxiliary): "compressor"} if compressor else {}

    def known() -> None:
        there = [_described(kind, name, weights.find(name, found.family)) for name, kind in names.items()]
        told.send(known=there, data=found.title)

    known()
    if found.family == found.name or found.name == "folder":  # the samples have no training images
        run: dict[str, Any] = {"on_epoch": lambda history: told.send(epoch=history), "device": device}
        training.ensure(found, target, auxiliary, preset=preset, seed=seed, compressor=compressor, **run)
        known()


def _described(kind: str, name: str, manifest: Manifest | None) -> dict[str, Any]:
    history = [] if manifest is None else manifest.training.get("history", [])
    return {"label": f"{kind} {name}", "history": history, "there": manifest is not None and manifest.complete}


if __name__ == "__main__":
    sys.exit(main())
