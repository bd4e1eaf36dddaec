"""The view of the notebook `train`: live learning curves of a pair's networks, and buttons to interrupt and resume training.

::

    buttons --settings, or an interrupt--> process: `learner` --lines of JSON--> reader: progress, curves, state
                                           |
                                           +--> a checkpoint every half minute and at an interrupt, the weights of each
                                                finished network

A pair is a target classifier, an auxiliary classifier, a generator that protects pictures and, optionally, a compressor.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

import ipywidgets as widgets
import traitlets

from ..errors import RunError
from . import markup
from .open_views import replace_view

__all__ = ["Trainer"]

LOOK_S = 0.05  # interval of polling while a notebook's cell waits
DRAW_S = 0.7  # minimum interval between two drawings of the curves
PATIENCE_S = 60.0  # limit for the running step and its checkpoint
DPI = 132
IDLE, TRAINING, STOPPING, STOPPED, DONE, FAILED = "idle", "training", "stopping", "interrupted", "done", "failed"
STYLE = """<style>
.pmc2-train { max-width: 1180px }
.pmc2-train .widget-hprogress { width: min(340px, 100%); height: 20px }
.pmc2-train .progress-bar { background: #0072B2 }
</style>"""


class NamedImage(widgets.Image):  # type: ignore[misc]
    """An image that can have a `tooltip`, which screen readers use as the image's name.

    This class adds the trait `description`. The front end of ipywidgets reads the length of this trait before it sets a
    tooltip. Without the trait, the front end would fail.
    """

    description = traitlets.Unicode("").tag(sync=True)


class Trainer:
    """Trains the missing networks of a pair, and shows the learning curves of all networks. Display `trainer.widget`.

    With `begin`, the training starts at once. Training runs in a separate process, which ends when the kernel ends. `start` and
    `interrupt` do the same as the buttons. `state` is one of idle, training, stopping, interrupted, done, failed. A resumed
    training continues from its checkpoint, and ends with the same weights as an uninterrupted one. A new trainer of the same
    `name` interrupts and replaces the open trainer. `preset` is one of `training.PRESETS`. With `compressor`, a compressor is
    trained, too.
    """

    def __init__(
        self,
        dataset: str = "digits",
        target: str = "resnet18",
        auxiliary: str = "vgg13_bn",
        *,
        data_dir: str = "",
        preset: str = "quick",
        seed: int = 0,
        compressor: bool = True,
        device: str = "auto",
        begin: bool = True,
        name: str = "train",
    ) -> None:
        replace_view("train", name, self)
        self._settings: dict[str, Any] = {"dataset": dataset, "data_dir": data_dir, "target": target, "auxiliary": auxiliary}
        self._settings |= {"preset": preset, "seed": seed, "compressor": compressor, "device": device}
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.totals: dict[str, int] = {}
        self.title, self.state, self.error = dataset, IDLE, ""
        self.there = 0  # number of trained networks
        self._label, self._last = "", ""
        self._drawn, self._stale = 0.0, False
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self._build()
        if begin:
            self.start()

    # --- the buttons' actions ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start or resume the training. Does nothing while a training runs."""
        with self._changed:
            if self.state in (TRAINING, STOPPING):
                return
            self._set(TRAINING, "starting…")
            self._label = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.learner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the learner sends its standard error as messages on standard output
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C in a terminal reaches only this process, which sends "stop"
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._settings) + "\n")
        self._process.stdin.flush()
        threading.Thread(target=self._read, args=(self._process,), name="trainer", daemon=True).start()

    def interrupt(self) -> None:
        """Request that the training stops after the present step and writes a checkpoint. Return at once.

        A second call stops the training at once, without a new checkpoint. Does nothing if no training runs.
        """
        with self._changed:
            if self.state not in (TRAINING, STOPPING) or self._process is None:
                return
            self._set(STOPPING, "it ends with the step it is in…")
            stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the process has ended, or its pipe is closed
            stdin.write("stop\n")
            stdin.flush()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all networks are trained.

        Raises RunError if the training was interrupted, has failed, or takes longer than `timeout` seconds. Ctrl-C and the
        notebook's stop button interrupt the training.
        """
        try:
            with self._changed:
                done = self._changed.wait_for(lambda: self.state not in (TRAINING, STOPPING), timeout)
        except KeyboardInterrupt:
            self.close()
            raise
        if not done:
            raise RunError(f"not trained in {timeout:g} s: wait again, or press Interrupt")
        self._require_done()

    async def trained(self) -> None:
        """Wait until all networks are trained, without blocking the view's buttons. In a cell: `await trainer.trained()`.

        Raises RunError if the training was interrupted or has failed. The notebook's stop button interrupts the training.
        """
        try:
            while self.state in (TRAINING, STOPPING):
                await asyncio.sleep(LOOK_S)
        except (KeyboardInterrupt, asyncio.CancelledError):  # the stop button raises either, by the kernel's version
            self.close()
            raise
        self._require_done()

    def _require_done(self) -> None:
        if self.state in (STOPPED, IDLE):
            raise RunError(f"training was interrupted{self._where()}: press Resume, then run this cell again")
        if self.state == FAILED:
            raise RunError(self.error)

    def close(self) -> None:
        """Interrupt the training, and wait until its process has ended. After `PATIENCE_S` (60) seconds, kill the process.

        The curves stay on the page.
        """
        self.interrupt()
        if (process := self._process) is None:
            return
        with self._changed:
            ended = self._changed.wait_for(lambda: self.state not in (TRAINING, STOPPING), PATIENCE_S)
        if not ended:
            process.kill()

    # --- display -------------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.start_button = widgets.Button(description="Train", icon="play", button_style="primary")
        self.start_button.on_click(lambda _: self.start())
        self.stop_button = widgets.Button(description="Interrupt", icon="pause")
        self.stop_button.on_click(lambda _: self.interrupt())
        self.message, self.progress_text = widgets.HTML(), widgets.HTML()
        self.progress = widgets.IntProgress(0, 0, 1)
        self.curves = NamedImage(format="png", tooltip="learning curves", layout=widgets.Layout(display="none"))
        for each, kind in ((self.message, "pmc2-message"), (self.curves, "pmc2-figure")):
            each.add_class(kind)
        row = widgets.HBox([self.start_button, self.stop_button, self.progress, self.progress_text])
        row.add_class("pmc2-row")
        row.layout.flex_flow = "row wrap"
        frame = widgets.Box([self.curves])
        frame.add_class("pmc2-curves")
        self.widget = widgets.VBox([widgets.HTML(markup.STYLE + STYLE), row, self.message, frame])
        self.widget.add_class("pmc2-panel").add_class("pmc2-train")
        self._set(IDLE, "not started")

    def _set(self, state: str, text: str, bad: bool = False) -> None:
        with self._changed:
            self.state = state
            self.message.value = markup.message(f"{state}: {text}" if text else state, bad)
            self.start_button.disabled = state in (TRAINING, STOPPING, DONE)
            self.start_button.description = "Resume" if state in (STOPPED, FAILED) else "Train"
            self.stop_button.disabled = state not in (TRAINING, STOPPING)
            self.progress.bar_style = {DONE: "success", FAILED: "danger", STOPPED: "warning"}.get(state, "")
            self._changed.notify_all()

    def _where(self) -> str:
        return f" at {self._last}" if self._last else ""

    def _show_progress(self, label: str, step: int, total: int, left: str) -> None:
        self._last = f"step {step:,} of {total:,} of {label}"
        self.progress.max, self.progress.value = max(1, total), step
        self.progress.tooltip = label
        self.progress_text.value = f'<span class="pmc2-text">step {step:,} of {total:,}, {left} left</span>'

    def _draw(self, now: bool = False) -> None:
        self._stale = True
        if not now and time.monotonic() - self._drawn < DRAW_S:
            return
        from .. import plots

        histories = {self._title(label): history for label, history in self.histories.items()}
        totals = {self._title(label): total for label, total in self.totals.items()}
        figure = plots.learning_curves(histories, totals, self._paper(), f"{self.title}, preset {self._settings['preset']}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, transparent=True)  # the page inverts it on a dark background
        self.curves.value = buffer.getvalue()
        self.curves.layout.display = ""
        self._drawn, self._stale = time.monotonic(), False

    def _title(self, label: str) -> str:
        kinds, _, name = label.rpartition(" ")
        roles = {self._settings["auxiliary"]: "auxiliary", self._settings["target"]: "target"}
        if name in roles:
            return f"{roles[name]}: {name}"
        variant = name.partition("@")[2]
        return f"{kinds.replace(' ', ' and ')} ({variant})" if variant else kinds.replace(" ", " and ")

    def _name(self, label: str) -> str:
        return self._title(label).replace(":", "")

    def _paper(self) -> dict[str, float]:
        """Return {title of a plot: the paper's accuracy of the target on protected CIFAR-10 images (%)}.

        The dict is empty for other data sets, and for pairs that the paper does not report.
        """
        if self._settings["dataset"] != "cifar10":
            return {}
        from ..evaluation import PAPER

        found = PAPER["table2"].get(f"{self._settings['target']}-X-{self._settings['auxiliary']}")
        return {} if found is None else {"generator": found, "generator and compressor": found}

    # --- the process's messages ----------------------------------------------------------------------------------------------

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        problem = ""
        last_line = ""
        for line in process.stdout:
            try:
                message = json.loads(line)
                problem = message.get("error", problem)
                last_line = message.get("line", last_line)
                self._take(message)
            except Exception as error:  # this thread has no caller that would report it
                traceback.print_exc()
                problem = f"{type(error).__name__}: {error}"
        process.stdout.close()
        status = process.wait()
        process.stdin.close()
        if self._stale:
            self._draw(now=True)
        self._end(status, problem or (last_line if status == 1 else ""))  # status 1: an exception's last line

    def _take(self, message: dict[str, Any]) -> None:
        if "bar" in message:
            label = message["bar"]
            if label != self._label:
                self._begin_network(label, message["step"], message["total"])
            self._show_progress(self._name(label), message["step"], message["total"], message["left"])
        elif "epoch" in message:
            self.histories[self._label] = message["epoch"]
            self._say_epoch(message["epoch"][-1]["validation"])
            self._draw()
        elif "known" in message:
            self.title = message["data"]
            self.histories = {each["label"]: each["history"] for each in message["known"]}
            self.there = sum(each["there"] for each in message["known"])
            self._draw(now=True)

    def _begin_network(self, label: str, step: int, total: int) -> None:
        self._label = label
        if label.partition(" ")[0] in ("classifier", "generator", "compressor"):  # other bars show reading or downloading
            self.totals[label] = total
            if step == 0 or label not in self.histories:  # else the network resumes, and its curve continues
                self.histories[label] = []
            self._draw()
        if self.state == TRAINING:
            self._set(TRAINING, self._name(label))

    def _say_epoch(self, figures: dict[str, float]) -> None:
        if self.state == TRAINING and "accuracy" in figures:
            self._set(TRAINING, f"{self._name(self._label)}, validation accuracy {100 * figures['accuracy']:.1f} %")

    def _end(self, status: int, problem: str) -> None:
        from .learner import STOPPED as ENDED

        if status == 0:
            self.progress.max = self.progress.value = 1
            self.progress_text.value = ""
            self._set(DONE, f"{self.there} networks are there")
        elif self.state == STOPPING or status == ENDED:
            self._set(STOPPED, f"stopped{self._where()}; Resume goes on from there")
        else:
            self.error = problem or f"the training's process ended with {status}"
            self._set(FAILED, self.error, bad=True)
