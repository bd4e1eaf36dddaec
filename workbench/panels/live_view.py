"""The view of `explore`: the user's, the cloud's and an attacker's view of pictures, the labels, and the cost.

::

    page: blends every strength alone
      |  settings
      v
    Stage --newest settings--> LatestWinsWorker: Method.capture, Method.see --frames, seen--> page      at once, nothing queues
      `----tasks-------------> BackgroundTasks: curves, searches, attackers, map, views in advance      while the controls rest
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import DataError, RunError, UsageError, WorkbenchError, unknown
from ..pictures import open_picture
from . import exports
from .background_tasks import BackgroundTasks
from .controls import Controls
from .explore_stage import Stage, pack_frames, pack_seen
from .kernel_patches import handle_on_subshell
from .latest_wins import Closed, LatestWinsWorker, Superseded
from .picture_source import PictureSource
from .settings import CODECS, Settings, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..data import Dataset
    from .pipeline import Captured, Method, Pipeline, Seen, View

__all__ = ["LiveView"]

KEPT = 3  # pairs with loaded networks
CLOSE_S = 2.0  # limit of `close`; at Python's exit the threads have longer
SHOWN_IN_FIGURE = 10  # of a sheet's pictures


class LiveView(Controls):
    """Pictures through the system, live. `Explorer` is the view of a pair, `Comparison` that of callables."""

    _open: ClassVar[dict[str, LiveView]] = {}

    def __init__(
        self,
        dataset: str = "samples",
        target: str = "resnet18",
        auxiliary: str = "vgg13_bn",
        *,
        data_dir: str = "",
        folder: str = "",
        variant: str = "",
        strength: float = 1.0,
        rate: float = 0.0,
        codec: str = "neural",
        quality: int = 89,
        picture: int = 0,
        sheet: int = 1,
        limit: int = 0,
        seed: int = 0,
        output: Path | None = None,
        name: str = "explore",
    ) -> None:
        check(strength=strength, rate=rate, quality=quality, picture=picture, sheet=sheet, limit=limit)
        self._check_codec(codec)
        if (before := self._open.get(name)) is not None:
            before.close()
        self._open[name] = self
        self.dataset, self.data_dir, self.folder, self.limit, self.seed = dataset, data_dir, folder, limit, seed
        self.output, self.title, self.family = output, dataset, ""
        self.classes: tuple[str, ...] = ()
        self.pinned: list[View] = []
        self.error: Exception | None = None
        self.shown, self._frames = 0, (0,)  # the frames on the page, and their key
        self._renewed = 0
        self._wanted_variant, self._picture = variant, picture
        self._pipelines: dict[tuple[str, str], Pipeline] = {}
        self._spent: dict[tuple[str, int], deque[float]] = {}
        self._last: tuple[Captured | None, Seen | None] = (None, None)
        self._kept, self._program = False, threading.local()
        self._loading, self._drawing = threading.Lock(), threading.Lock()
        given = {"strength": strength, "rate": rate, "codec": codec, "quality": quality, "sheet": sheet}
        self.stage = Stage(pair=f"{target}-X-{auxiliary}", variant=variant, **given)
        handle_on_subshell(self.stage)
        self.offer(pairs=[self.stage.pair], codecs=list(CODECS), kinds=list(exports.KINDS), ready=False)
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

    def curve(self) -> list[dict[str, Any]]:
        """Return the rows over strength (see `Evaluation.curve`) at the present settings, once they are measured.

        Raises the error that prevented it, or RunError if it took too long.
        """
        self.rest()
        rows = self.tasks.curves.get(self.tasks.key(self.settings()))
        if rows is None:
            raise self.error or RunError("the curves are not measured: run the cell again once the view shows them")
        return rows

    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        """Return the origin that a figure must carry: data, seed, weights, device, versions, commit."""
        from ..evaluation import origin

        return origin(self.pipeline_of(settings or self.settings()).raw, self.load())

    def gallery(self) -> tuple[dict[str, Any], list[str]]:
        """Return rows of pictures for `plots.gallery`: the first of each class under growing strength."""
        settings = self.settings()
        return self.pipeline.gallery(settings, self.picture_source.sources[settings.source].split)

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

    @property
    def pipeline(self) -> Pipeline:
        """The networks of the present settings."""
        return self.pipeline_of(self.settings())

    @property
    def measurable(self) -> bool:
        """Whether there are test images for measuring curves."""
        return True

    @property
    def attacked(self) -> bool:
        """Whether an attacker was trained at the present settings."""
        made = self._pipelines.get((self.stage.pair, self.stage.variant))
        return made is not None and bool(made.attacks)

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

    def fill_variants(self) -> None:
        """Offer the generators of the pair, and choose the first if the chosen one is not among them."""
        from .pipeline import variants_there

        variants = {name: text for text, name in variants_there(self.family, self.stage.pair).items()}
        with self.programmatic_update():
            if self.stage.variant not in variants and self.stage.variant != self._wanted_variant:
                self.stage.variant = next(iter(variants), "")
        if self.stage.variant not in variants:  # it is still offered, and its absence is reported when it is loaded
            variants[self.stage.variant] = self.stage.variant
        self.offer(variants=[[name, text] for name, text in variants.items()])

    # --- the worker: the newest settings win ---------------------------------------------------------------------------------

    def request(self) -> None:
        """Show the present settings."""
        if not self.by_program and self.picture_source.sources:
            self.worker.request(self.settings())

    def _handle(self, settings: Settings) -> None:
        self.guard(lambda: self.show(settings, *self.compute(settings)))

    def _release(self) -> None:
        """Drop the networks, because the widgets of a closed view live as long as the kernel and would keep them."""
        self._pipelines.clear()
        self.picture_source.sources.clear()
        self._last = (None, None)

    def _glance(self) -> None:
        """Show the first picture together with the controls if it is a file.

        A data set would take seconds to load, with torch.
        """
        from ..samples import SAMPLES, sample_files

        if self.dataset in SAMPLES and not self.folder:
            with contextlib.suppress(DataError):  # the worker has the same error, and reports it
                files = sample_files(self.dataset)[: self.limit or None]
                if self._picture < len(files):
                    self._bring_original(np.asarray(open_picture(files[self._picture])))

    def _bring_original(self, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        height, width, _ = picture.shape
        self.stage.frames = {
            **{"id": 0, "numbers": [self._picture], "labels": [-1], "names": [], "height": height, "width": width},
            **{"original": picture.tobytes(), "s1": [], "on_original": []},
        }

    def _begin(self) -> None:
        """Read the pictures and show the first, then load the networks."""
        self.report("importing torch, reading the pictures…", busy=True)
        from .sources import named

        first, self.classes, self.title, self.family = named(self.dataset, self.limit, self.data_dir)
        if self._picture >= len(first.split) and not self.folder:
            raise UsageError(
                f"picture {self._picture} is not there: {self.title} has {len(first.split)} test pictures, from 0 on"
            )
        self.picture_source.add(self.title, first)
        self.picture_source.go_to(self._picture)
        self.offer(classes=list(self.classes))
        self._bring_original(first.split.images[self._picture if not self.folder else 0].permute(1, 2, 0).contiguous().numpy())
        self.report("loading the networks…", busy=True)
        from .pipeline import pairs_there

        self._ensure()
        if self.family == "cifar10" and self.dataset != "samples":
            self.picture_source.offer("CIFAR-10, pristine samples", named("samples")[0])
        there = pairs_there(self.family)
        self.offer(pairs=there if self.stage.pair in there else [self.stage.pair, *there])
        self.fill_variants()
        if self.folder:
            self.picture_source.take_folder(self.folder)
            self.picture_source.go_to(self._picture)
        self.offer(ready=True)
        self.request()
        self.tasks.refresh()

    def _ensure(self) -> None:
        """Train missing networks, if there are training images."""
        dataset = self.load()
        if dataset.family != dataset.name and dataset.name != "folder":
            return
        from .. import training

        target, _, auxiliary = self.stage.pair.partition("-X-")

        def report(history: list[dict[str, Any]]) -> None:
            self._go_on()
            self.report(f"missing networks are trained first: {len(history)} epochs of the present one are done", busy=True)

        self._go_on()
        training.ensure(dataset, target, auxiliary, seed=self.seed, on_epoch=report)

    def _go_on(self) -> None:
        if self.worker.closed:
            raise Closed

    def load(self) -> Dataset:
        """Return the data set of the first collection."""
        from ..data import load

        return load(self.dataset, self.data_dir or None)

    def pipeline_of(self, settings: Settings) -> Pipeline:
        """Return the networks for the settings, loaded once."""
        key = (settings.pair, settings.variant)
        with self._loading:  # for the worker and for the tasks
            if key not in self._pipelines:
                from .pipeline import Pipeline

                self.report(f"loading {exports.system_text(settings)}…", busy=True)
                loaded = Pipeline(self.family, settings.pair, settings.variant, self.classes)
                while len(self._pipelines) >= KEPT:
                    del self._pipelines[next(iter(self._pipelines))]
                self._pipelines[key] = loaded
                self.report("")
            return self._pipelines[key]

    def method_of(self, settings: Settings) -> Method:
        """Return the method that protects, encodes and decodes at the settings."""
        return self.pipeline_of(settings)

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
        from .pipeline import View

        fresh = self._last
        for made in (each for each in (captured, seen) if each not in fresh):
            for stage, milliseconds in made.milliseconds.items():
                self._spent.setdefault((stage, len(seen.which)), deque(maxlen=15)).append(milliseconds)
        settings = self._possible(settings, self.method_of(settings))
        label = int(self.picture_source.sources[settings.source].split.labels[settings.index])
        name = self.classes[label] if 0 <= label < len(self.classes) else "unknown"
        self._last = (captured, seen)
        self.send_seen(self.shown, settings, seen)
        self.stage.pictures = list(settings.pictures)
        self.stage.view = View.of(settings, captured, seen, name, self.classes)
        self.tasks.look_ahead()
        if not self._kept:
            self.report("")
        self.error, self._kept = None, False

    def send_seen(self, number: int, settings: Settings, seen: Seen, ahead: bool = False) -> None:
        """Send the cloud's view at some settings, for display or in advance."""
        count = len(seen.which)
        spent = {stage: round(statistics.median(times), 3) for (stage, n), times in self._spent.items() if n == count}
        packed = pack_seen(number, settings, seen, spent, self._note(settings))
        if ahead:
            self.stage.send({"kind": "ahead", "meta": packed["meta"]}, [packed["blob"]])
        else:
            self.stage.seen = packed

    def _note(self, settings: Settings) -> str:
        """Return the training conditions of the attacker whose guess is shown."""
        pipeline = self._pipelines.get((settings.pair, settings.variant))
        attack = None if pipeline is None else pipeline.attack_of(settings)
        if attack is None:
            return ""
        return f"learnt: {attack.pairs:,} pairs, strength {attack.strength:g}, {attack.passes:,} passes"

    # --- status line ---------------------------------------------------------------------------------------------------------

    def report(self, text: str, bad: bool = False, kept: bool = False, busy: bool = False) -> None:
        """Show a status line. A `kept` line survives the next view. `busy` shows a moving bar."""
        self._kept = kept
        self.stage.message = {"text": text, "bad": bad, "busy": busy}

    def guard(self, action: Callable[[], None]) -> None:
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

    def _check_codec(self, codec: str) -> None:
        if codec not in CODECS:
            raise unknown("codec", codec, CODECS)
