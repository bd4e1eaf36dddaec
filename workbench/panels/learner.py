"""The training process of the view `train`. It exchanges lines of JSON with the kernel.

::

    stdin     line 1: the settings
              each further line, and end of file: an interrupt. The first interrupt stops training after the present step, the
              second interrupt stops training at once
    stdout    {"bar": ...} progress   {"epoch": ...} the history so far   {"line": ...} other output
              {"known": ...} label and history of each network, and whether it is trained   {"error": ...} reason of a failure

Training runs in a separate process for two reasons. First, Python handles interrupts only in the main thread of a process.
Second, other code in the same process could draw random numbers. Then a resumed training would end with other weights than an
uninterrupted training.
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


class Reporter(io.TextIOBase):
    """A replacement for standard error. It sends each line of text, and each update of a progress bar, as a JSON message."""

    encoding = "utf-8"

    def __init__(self, out: TextIO) -> None:
        self._out, self._kept, self._lock = out, "", threading.Lock()
        self._label, self.stopping = "", False

    def send(self, **message: Any) -> None:
        """Write the keyword arguments as one JSON object on a line."""
        with self._lock:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()

    def write(self, text: str) -> int:
        """Send each complete line and each progress-bar update in `text` as a message. Return the length of `text`."""
        *lines, self._kept = re.split(r"[\r\n]", self._kept + text)
        if _BAR.match(self._kept):  # tqdm does not end a bar with a newline: send it at once
            lines, self._kept = [*lines, self._kept], ""
        for line in filter(None, (re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).strip() for line in lines)):
            self._say(line)
        return len(text)

    def _say(self, line: str) -> None:
        if (bar := _BAR.match(line)) is None:
            self.send(line=line)
        else:
            if bar["label"] != self._label and self.stopping:
                _interrupt()  # the interrupt came in the previous network's last step: repeat it
            self._label = bar["label"]
            self.send(bar=bar["label"], step=int(bar["step"]), total=int(bar["total"]), left=bar["left"])


def main() -> int:
    """Run a training with the settings in the first line of standard input, and return the exit status.

    The status is 0 after success, 1 after an error, and `STOPPED` (130) after an interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    reporter = Reporter(sys.stdout)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_on_request, args=(reporter, sys.stdin), daemon=True).start()
    sys.stdout, sys.stderr = sys.stderr, reporter
    try:
        _train(reporter, **request)
    except KeyboardInterrupt:
        return STOPPED
    except WorkbenchError as error:
        reporter.send(error=str(error))
        return 1
    return 0


def _stop_on_request(reporter: Reporter, requests: TextIO) -> None:
    """Send SIGINT to this process for each line in `requests`, and once more at the end of `requests`."""
    for _ in requests:
        reporter.stopping = True
        _interrupt()
    reporter.stopping = True
    _interrupt()


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _train(
    reporter: Reporter,
    dataset: str,
    data_dir: str,
    target: str,
    auxiliary: str,
    preset: str,
    seed: int,
    compressor: bool,
    device: str,
) -> None:
    from .. import data, training, weights

    if preset not in training.PRESETS:
        raise unknown("preset", preset, training.PRESETS)
    found = data.load(dataset, data_dir or None)
    classifiers = [weights.classifier_name(each) for each in dict.fromkeys((target, auxiliary))]
    names = dict.fromkeys(classifiers, "classifier") | {weights.generator_name(target, auxiliary): "generator"}
    names |= {weights.compressor_name(target, auxiliary): "compressor"} if compressor else {}

    def known() -> None:
        there = [_described(kind, name, weights.find(name, found.family)) for name, kind in names.items()]
        reporter.send(known=there, data=found.title)

    known()
    if found.family == found.name or found.name == "folder":  # the samples have no training images
        run: dict[str, Any] = {"on_epoch": lambda history: reporter.send(epoch=history), "device": device}
        training.ensure(found, target, auxiliary, preset=preset, seed=seed, compressor=compressor, **run)
        known()


def _described(kind: str, name: str, manifest: Manifest | None) -> dict[str, Any]:
    history = [] if manifest is None else manifest.training.get("history", [])
    return {"label": f"{kind} {name}", "history": history, "there": manifest is not None and manifest.complete}


if __name__ == "__main__":
    sys.exit(main())
