"""The parts of `explore` that need no networks of the workbench: the newest settings win, and their view goes to the page.

::

    page: blends every strength alone
      |  settings
      v
    Stage --newest settings--> LatestWinsWorker: Method.capture, Method.see --frames, seen--> page      at once, nothing queues
      `----tasks-------------> BackgroundTasks: curves, searches, attackers, map, views in advance      while the controls rest
"""

from __future__ import annotations

import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, WorkbenchError
from . import exports
from .background_tasks import BackgroundTasks
from .controls import Controls
from .explore_stage import Stage, pack_frames, pack_seen, projections
from .kernel_patches import handle_on_subshell
from .latest_wins import Closed, LatestWinsWorker, Superseded
from .open_views import replace_view
from .picture_source import PictureSource
from .settings import CODECS, Settings, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..data import Dataset
    from .methods import Captured, Method, Seen, View
    from .pipeline import Pipeline

__all__ = ["LiveView"]

CLOSE_S = 2.0  # limit of `close`; at Python's exit the threads have longer
SHOWN_IN_FIGURE = 10  # of a sheet's pictures


class LiveView(Controls):
    """Pictures through a method, live. `Explorer` is the view of a pair, `Comparison` that of callables."""

    data_dir, limit = "", 0  # of the data set, if there is one

    def __init__(
        self,
        title: str,
        *,
        picture: int,
        output: Path | None,
        name: str,
        **traits: Any,
    ) -> None:
        check(picture=picture, **{key: traits[key] for key in ("strength", "rate", "quality", "sheet") if key in traits})
        replace_view("explore", name, self)
        self.dataset, self.title, self.output = title, title, output
        self.classes: tuple[str, ...] = ()
        self.pinned: list[View] = []
        self.error: Exception | None = None
        self.shown, self._frames = 0, (0,)  # the frames on the page, and their key
        self._renewed, self._picture = 0, picture
        self._spent: dict[tuple[str, int], deque[float]] = {}
        self._last: tuple[Captured | None, Seen | None] = (None, None)
        self._kept, self._program, self._drawing = False, threading.local(), threading.Lock()
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
        """End the threads. The last view stays. A running step, such as an epoch, may take longer than `CLOSE_S`."""
        self.worker.close()
        self.worker.join(CLOSE_S)

    # --- of each kind of view ------------------------------------------------------------------------------------------------

    def _glance(self) -> None:
        """Show pictures together with the controls, if some can be read at once."""

    def _begin(self) -> None:
        """Read the pictures, load the method, and show the first view. Runs in the worker's thread."""
        raise NotImplementedError

    def method_of(self, settings: Settings) -> Method:
        """Return the method that protects, encodes and decodes at the settings."""
        raise NotImplementedError

    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        """Return the origin that a figure must carry."""
        raise NotImplementedError

    def fill_variants(self) -> None:
        """Offer the generators of the pair, if it has several."""

    @property
    def measurable(self) -> bool:
        """Whether there are test images for measuring curves."""
        return False

    @property
    def attacked(self) -> bool:
        """Whether an attacker was trained."""
        return False

    def load(self) -> Dataset:
        """Return the data set. Raises RunError if there is none."""
        raise self._not_a_pair()

    def pipeline_of(self, settings: Settings) -> Pipeline:
        """Return the networks for the settings. Raises RunError if there are none."""
        raise self._not_a_pair()

    def _not_a_pair(self) -> RunError:
        return RunError(f"{self.stage.pair!r} is not a pair of the workbench: this needs its networks and data set")

    def note_of(self, settings: Settings) -> str:
        """Return the training conditions of the attacker whose guess is shown."""
        return ""

    # --- for notebooks that run without a user -------------------------------------------------------------------------------

    @property
    def view(self) -> View | None:
        """The displayed view of the first picture, or None before the first view."""
        shown: View | None = self.stage.view
        return shown

    def wait(self, timeout: float = 600.0) -> bool:
        """Wait until the view matches the settings. Return False after `timeout` seconds.

        Raises the error that prevented the first view.
        """
        done = self.worker.wait(lambda: self.worker.idle, timeout)
        if self.view is None and self.error is not None:
            raise self.error
        return done

    def rest(self, timeout: float = 1200.0) -> bool:
        """Wait like `wait`, and until the requested tasks are done, too."""
        deadline = time.monotonic() + timeout
        return self.wait(timeout) and self.worker.wait(
            lambda: self.tasks.idle and self.worker.idle, deadline - time.monotonic()
        )

    def frame(self) -> Figure:
        """Return the display as a figure: one picture with its figures, or the first pictures of a sheet."""
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

    def settings(self) -> Settings:
        """Return the present settings."""
        stage = self.stage
        system = stage.strength, stage.rate, stage.codec, stage.quality, stage.pair, stage.variant
        return Settings(stage.source, self.picture_source.pictures, *system)

    # --- updates by code -----------------------------------------------------------------------------------------------------

    @property
    def by_program(self) -> bool:
        """Whether code in this thread, not a user, sets a control. Then no view is requested."""
        return getattr(self._program, "depth", 0) > 0

    @contextmanager
    def programmatic_update(self) -> Iterator[None]:
        """Set controls in this thread without requests."""
        self._program.depth = getattr(self._program, "depth", 0) + 1
        try:
            yield
        finally:
            self._program.depth -= 1

    def offer(self, **choices: Any) -> None:
        """Send the available choices to the page."""
        with self._drawing:
            self.stage.options = {**self.stage.options, **choices}

    # --- the worker: the newest settings win ---------------------------------------------------------------------------------

    def request(self) -> None:
        """Show the present settings."""
        if not self.by_program and self.picture_source.sources:
            self.worker.request(self.settings())

    def _handle(self, settings: Settings) -> None:
        self.guard(lambda: self.show(settings, *self.compute(settings)))

    def _release(self) -> None:
        """Drop the pictures, because the widgets of a closed view live as long as the kernel and would keep them."""
        self.picture_source.sources.clear()
        self._last = (None, None)

    def key(self, settings: Settings) -> tuple[Any, ...]:
        """Return a cache key of the pictures on the screen, since other pictures may get the same name and numbers."""
        images = self.picture_source.sources[settings.source].split.images[list(settings.pictures)]
        return settings.source, settings.pictures, hash(images.numpy().tobytes())

    def capture(self, method: Method, settings: Settings) -> Captured:
        """Return the pictures on the screen as received by the edge."""
        split = self.picture_source.sources[settings.source].split
        return method.capture(self.key(settings), split.images[list(settings.pictures)])

    def compute(self, settings: Settings) -> tuple[Captured, Seen]:
        """Send the pictures through edge and cloud."""
        method = self.method_of(settings)
        settings = self._possible(settings, method)
        captured = self.capture(method, settings)
        self._bring(settings, captured)
        return captured, method.see(settings, self.key(settings), captured, self.worker.proceed)

    def _possible(self, settings: Settings, method: Method) -> Settings:
        """Return the nearest supported settings: another codec if the method lacks this one, rate 0 for a single rate."""
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
        """Send the pictures to the page, unless it has them."""
        frames = (*self.key(settings), settings.pair, settings.variant, self._renewed)
        if frames == self._frames:
            return
        source = self.picture_source.sources[settings.source]
        labels = [int(label) for label in source.split.labels[list(settings.pictures)]]
        names = [source.names[number] for number in settings.pictures] if source.names else []
        with self._drawing:
            self.shown, self._frames = self.shown + 1, frames
            self.stage.frames = pack_frames(self.shown, captured, settings, labels, names)

    def renew(self) -> None:
        """Make the page drop all views of the pictures on the screen."""
        self._renewed += 1

    def show(self, settings: Settings, captured: Captured, seen: Seen) -> None:
        """Display a view on the page."""
        from .methods import View

        fresh = self._last
        for made in (each for each in (captured, seen) if each not in fresh):
            for stage, milliseconds in made.milliseconds.items():
                self._spent.setdefault((stage, len(seen.which)), deque(maxlen=15)).append(milliseconds)
        settings = self._possible(settings, self.method_of(settings))
        label = int(self.picture_source.sources[settings.source].split.labels[settings.index])
        name = self.classes[label] if 0 <= label < len(self.classes) else "unknown"
        self._last = (captured, seen)
        self.stage.seen = self.pack(self.shown, settings, seen)
        self.stage.pictures = list(settings.pictures)
        self.stage.view = View.of(settings, captured, seen, name, self.classes)
        self.tasks.look_ahead()
        if not self._kept:
            self.report("")
        self.error, self._kept = None, False

    def pack(self, number: int, settings: Settings, seen: Seen) -> dict[str, Any]:
        """Return the cloud's view of the frames `number` in the page's form."""
        count = len(seen.which)
        spent = {stage: round(statistics.median(times), 3) for (stage, n), times in self._spent.items() if n == count}
        return pack_seen(number, settings, seen, spent, self.note_of(settings))

    # --- status line ---------------------------------------------------------------------------------------------------------

    def report(self, text: str, bad: bool = False, kept: bool = False, busy: bool = False) -> None:
        """Show a status line. A `kept` line survives the next view. `busy` shows a moving bar."""
        self._kept = kept
        self.stage.message = {"text": text, "bad": bad, "busy": busy}

    def guard(self, action: Callable[[], object]) -> None:
        """Run an action in a thread, and report its errors."""
        try:
            action()
        except (Closed, Superseded):
            return
        except WorkbenchError as error:
            self.error = error
            self.report(str(error), bad=True)
        except KeyboardInterrupt:
            self.report("the training was interrupted; run the cell again to go on from there", bad=True)
        except Exception as error:  # this thread has no caller
            if self.worker.closed:
                return  # its networks were dropped
            self.error = error
            self.report(f"{type(error).__name__}: {error}", bad=True)
            traceback.print_exc()
