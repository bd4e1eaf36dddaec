"""The part of the view `explore` that computes the page's data whenever the settings change.

::

    page: shows every strength without the kernel
      |  settings
      v
    Stage --newest settings--> LatestWinsWorker: Method.capture, Method.see --frames, seen--> page      at once, without a queue
      `----tasks-------------> BackgroundTasks: curves, searches, attackers, map, prefetching           while the user is idle

The stage is the widget, and the page is the widget's display in the browser. A method protects, encodes and decodes pictures.
It uses either the workbench's networks or user-defined functions. `capture` returns the edge's result, and `see` returns the
cloud's result.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from . import exports
from .background_tasks import BackgroundTasks
from .controls import Controls
from .explore_stage import Stage, pack_frames, projections
from .kernel_patches import handle_on_subshell
from .latest_wins import LatestWinsWorker
from .open_views import replace_view
from .picture_source import PictureSource
from .settings import CODECS, Settings, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .methods import Captured, Method, Seen, View

__all__ = ["LiveView"]

CLOSE_S = 2.0  # seconds that `close` waits; Python's exit waits longer
SHOWN_IN_FIGURE = 10  # the most pictures in a figure


class LiveView(Controls):
    """The base class of two views: `Explorer` uses the workbench's networks, `Comparison` uses user-defined functions.

    `title` names the data set. `picture` is the number of the first picture. `output` is the folder for exports (None: the
    default folder). `traits` are initial values of the stage's traits. A new view closes the open view of the same `name`.
    """

    tasks: BackgroundTasks
    picture_source: PictureSource

    def __init__(self, title: str, *, picture: int, output: Path | None, name: str, **traits: Any) -> None:
        check(picture=picture, **{key: traits[key] for key in ("strength", "rate", "quality", "sheet") if key in traits})
        replace_view("explore", name, self)
        super().__init__(title, output)
        self._picture, self._frames = picture, (0,)  # the first picture, and the key of the frames on the page
        self._last: tuple[Captured | None, Seen | None] = (None, None)
        self.stage = Stage(**traits)
        handle_on_subshell(self.stage)
        self.offer(
            **{"pairs": [self.stage.pair], "codecs": list(CODECS), "kinds": list(exports.KINDS), "projections": projections()},
            **{"began": time.time(), "ready": False},
        )
        self.widget = self.stage
        self.worker = LatestWinsWorker[Settings](
            "explorer-worker", lambda: self.guard(self._begin), self._handle, self._release
        )
        self.picture_source, self.tasks = PictureSource(self), BackgroundTasks(self)
        self.connect()
        self._glance()
        self.worker.start()

    def close(self) -> None:
        """End the background threads, and wait for them at most `CLOSE_S` (2) seconds. The page keeps the last view."""
        self.worker.close()
        self.worker.join(CLOSE_S)

    def _glance(self) -> None:
        """Show the first picture at once, if that needs no slow import."""

    @abstractmethod
    def _begin(self) -> None:
        """Read the pictures, load the networks if there are any, and request the first view. Runs in the worker's thread."""

    # --- for notebooks that run without a user -------------------------------------------------------------------------------

    def wait(self, timeout: float = 600.0) -> bool:
        """Wait until the view shows the present settings. Return False after `timeout` seconds, or if the view is closed.

        Raises the error that prevented the first view.
        """
        done = self.worker.wait(lambda: self.worker.idle, timeout)
        if self.view is None and self.error is not None:
            raise self.error
        return done

    def rest(self, timeout: float = 1200.0) -> bool:
        """Wait until the view shows the present settings, and all requested background tasks are done.

        Return False after `timeout` seconds, or if the view is closed.
        """
        deadline = time.monotonic() + timeout
        return self.wait(timeout) and self.worker.wait(
            lambda: self.tasks.idle and self.worker.idle, deadline - time.monotonic()
        )

    def frame(self) -> Figure:
        """Return the view as a Matplotlib figure.

        If the view shows a single picture, the figure includes its measurements. Otherwise the figure shows the first ten
        pictures, without measurements. Raises RunError if no view is displayed yet, or the error that prevented the view.
        """
        from .. import plots

        captured, seen = self._last
        if self.view is None or captured is None or seen is None:
            raise self.error or RunError("nothing is shown yet: call explorer.wait() first")
        name = f"{self.title}, {exports.system_text(self.view.settings)}"
        if len(captured.original) == 1:
            return plots.comparison([self.view], self.stage.gain, name)
        rows = {"original": captured.original, "protected": captured.protected(self.view.settings.strength)}
        rows["at the cloud"] = seen.cloud[seen.which]
        return plots.gallery({key: images[:SHOWN_IN_FIGURE] for key, images in rows.items()})

    # --- the worker ----------------------------------------------------------------------------------------------------------

    def request(self) -> None:
        """Request that the worker computes and shows the view of the present settings.

        Does nothing inside `programmatic_update`.
        """
        if not self.by_program and self.picture_source.sources:
            self.worker.request(self.settings())

    def _handle(self, settings: Settings) -> None:
        self.guard(lambda: self.show(settings, *self.compute(settings)))

    def _release(self) -> None:
        """Drop the pictures of a closed view. Otherwise the widgets would keep the pictures until the kernel ends."""
        self.picture_source.sources.clear()
        self._last = (None, None)

    def compute(self, settings: Settings) -> tuple[Captured, Seen]:
        """Send the pictures of `settings` through edge and cloud, and return the two results.

        The edge's result is also sent to the page. Raises Superseded after a newer request, and Closed after `close`.
        """
        method = self.method_of(settings)
        settings = self._possible(settings, method)
        captured = self.capture(method, settings)
        self._bring(settings, captured)
        return captured, method.see(settings, self.key(settings), captured, self.worker.proceed)

    def present(self) -> View | None:
        view = self.view
        if view is None or self.worker.closed:
            return view
        settings = self.settings()
        if self.worker.idle and view.settings == settings:
            return view
        method = self.method_of(settings)
        settings = self._possible(settings, method)
        captured = self.capture(method, settings)
        return self._view_of(settings, captured, method.see(settings, self.key(settings), captured, lambda: None))

    def _possible(self, settings: Settings, method: Method) -> Settings:
        """Return `settings` with a codec and a rate that `method` supports, and set the controls to these values."""
        if settings.codec not in method.codecs:
            text = f"{exports.system_text(settings)} has no compressor of its own: shown with {method.codecs[0]}"
            self.report(text, kept=True)
            settings = replace(settings, codec=method.codecs[0])
        rates, wished = method.rates(settings.codec), settings.rate
        nearest = min(rates, key=lambda rate: abs(rate - settings.rate)) if rates else 0.0
        settings = replace(settings, rate=nearest)
        wanted = {"codecs": list(method.codecs), "rates": list(rates)}
        if {key: self.stage.options.get(key) for key in wanted} != wanted:
            self.offer(**wanted)
        with self.programmatic_update():
            if self.stage.codec not in method.codecs:
                self.stage.codec = settings.codec
            if self.stage.codec == settings.codec and self.stage.rate == wished:
                self.stage.rate = settings.rate
        return settings

    def _bring(self, settings: Settings, captured: Captured) -> None:
        frames = (*self.key(settings), settings.pair, settings.variant, self._renewed)
        if frames == self._frames:
            return
        source = self.picture_source.sources[settings.source]
        labels = [int(label) for label in source.split.labels[list(settings.pictures)]]
        names = [source.names[number] for number in settings.pictures] if source.names else []
        with self._drawing:
            self.shown, self._frames = self.shown + 1, frames
            self.stage.frames = pack_frames(self.shown, captured, settings, labels, names)

    def show(self, settings: Settings, captured: Captured, seen: Seen) -> None:
        """Send the cloud's result `seen` to the page, and set the stage's trait `view`, which Python code can observe.

        `captured` is the edge's result for the same pictures.
        """
        fresh = self._last
        for made in (each for each in (captured, seen) if each not in fresh):
            for stage, milliseconds in made.milliseconds.items():
                self._spent.setdefault((stage, len(seen.which)), deque(maxlen=15)).append(milliseconds)
        settings = self._possible(settings, self.method_of(settings))
        self._last = (captured, seen)
        self.stage.seen = self.pack(self.shown, settings, seen)
        self.stage.pictures = list(settings.pictures)
        self.stage.view = self._view_of(settings, captured, seen)
        self.tasks.look_ahead()
        with self._drawing:
            self.worker.proceed()  # leave the text to the view of a newer request
            if not self._kept:
                self.report("")
            self.error, self._kept = None, False

    def _view_of(self, settings: Settings, captured: Captured, seen: Seen) -> View:
        from .methods import View

        label = int(self.picture_source.sources[settings.source].split.labels[settings.index])
        name = self.classes[label] if 0 <= label < len(self.classes) else "unknown"
        return View.of(settings, captured, seen, name, self.classes)
