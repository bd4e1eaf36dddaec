"""The view of `explore`: what a person sees, what the cloud sees, what it recognises, what an attacker gets, what it costs.

::

    controls, choice --newest settings--> worker: Pipeline.compute --> pictures, figures           at once, nothing queues
                     --jobs-------------> helper: curves, scans, attackers, exports, views ahead   while the hand rests
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import DataError, RunError, UsageError, WorkbenchError
from ..pictures import open_picture, residual
from . import markup, pins
from .choice import Choice
from .jobs import Helper
from .layout import Controls
from .newest import Closed, Newest
from .settings import Settings, check

if TYPE_CHECKING:
    from ..data import Dataset
    from .pipeline import Pipeline, View

__all__ = ["Explorer"]

KEPT = 3  # pairs whose networks are kept
CLOSE_S = 2.0  # for which `close` waits; Python's end waits longer
PATIENCE_S = 0.05  # for which a slider waits for its view


class Explorer:
    """Pictures through the system, live: display `explorer.widget`; the parameters are those of the notebook `explore`.

    The controls are there at once; networks are loaded, and trained where there are none, beside. A worker always takes the
    newest settings. Another explorer of the same `name` takes this one's place. Raises UsageError for a bad parameter.
    """

    _open: ClassVar[dict[str, Explorer]] = {}

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
        codec: str = "neural",
        quality: int = 89,
        picture: int = 0,
        limit: int = 0,
        seed: int = 0,
        output: Path | None = None,
        name: str = "explore",
    ) -> None:
        check(strength, codec, quality, picture, limit)
        if (before := self._open.get(name)) is not None:
            before.close()
        self._open[name] = self
        self.dataset, self.data_dir, self.folder, self.limit, self.seed = dataset, data_dir, folder, limit, seed
        self.output = output
        self.view: View | None = None
        self.pins: list[pins.Pin] = []
        self.error: Exception | None = None
        self._asked_pair, self._picture = f"{target}-X-{auxiliary}", picture
        self._pipelines: dict[tuple[str, str], Pipeline] = {}
        self._spent: dict[str, deque[float]] = {}
        self._serial, self._told = 0, False
        self._loading, self._drawing = threading.Lock(), threading.Lock()
        self.controls = Controls(self._asked_pair, variant, strength, codec, quality)
        self.worker = Newest[Settings](
            "explorer-worker", lambda: self.guard(self._begin), self._handle, self.controls.tell, self._let_go
        )
        self.widget = self.controls.widget
        self.choice, self.helper = Choice(self), Helper(self)
        self._connect()
        self._glance()
        self.worker.start()

    def close(self) -> None:
        """End the threads; the last view stays. A step under way, such as an epoch, may go on for longer than `CLOSE_S`."""
        self.worker.close()
        self.worker.join(CLOSE_S)

    # --- waiting: notebooks that run without a hand --------------------------------------------------------------------------

    def wait(self, timeout: float = 600.0) -> bool:
        """Wait until what is shown is what the controls say; False where `timeout` seconds did not suffice.

        Raises what kept the first view from being made.
        """
        done = self.worker.wait(lambda: self.worker.idle, timeout)
        if self.view is None and self.error is not None:
            raise self.error
        return done

    def rest(self, timeout: float = 1200.0) -> bool:
        """Wait until the helper has done all that it was asked, too."""
        deadline = time.monotonic() + timeout
        return self.wait(timeout) and self.worker.wait(
            lambda: self.helper.idle and self.worker.idle, deadline - time.monotonic()
        )

    def curve(self) -> list[dict[str, Any]]:
        """Return the rows over strength (see `Evaluation.curve`) of what is shown, once they are measured.

        Raises what kept them from being measured, RunError where it took too long.
        """
        self.rest()
        if (found := self.helper.curves.get(self.helper.key(self.settings()))) is None:
            raise self.error or RunError("the curves are not there: run the cell again once the view shows them")
        return found[0]

    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        """Return what a figure of these settings, or of those that are shown, must carry (see `evaluation.origin`)."""
        from ..evaluation import origin

        return origin(self.pipeline_of(settings or self.settings()).raw, self.load())

    def gallery(self) -> tuple[dict[str, Any], list[str]]:
        """Return rows of pictures for `plots.gallery`: the first of each class as the strength grows."""
        settings = self.settings()
        return self.pipeline.gallery(settings, self.choice.sources[settings.source].split)

    @property
    def pipeline(self) -> Pipeline:
        """The networks of what is shown."""
        settings = self.settings()
        return self.pipeline_of(settings)

    def settings(self) -> Settings:
        """Return what the controls say."""
        c, number = self.controls, self.choice.number
        system = c.strength.value, c.codec.value, c.quality.value, c.pair.value, c.variant.value or ""
        return Settings(c.source.value, number, *system)

    # --- what the controls do ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        c = self.controls
        c.strength.observe(lambda _: self.ask(), "value")
        c.index.settle = c.strength.settle = lambda: self.worker.wait(lambda: self.worker.idle, PATIENCE_S)
        for control in (c.codec, c.quality, c.pair, c.variant):
            control.observe(self._change_system, "value")
        for control in (c.gain, c.zoom):
            control.observe(lambda _: self._redraw(), "value")
        c.divider.observe(lambda _: self.controls.divide(), "value")
        c.attack.on_click(lambda _: self.helper.later(self.helper.attack))
        c.pin.on_click(lambda _: self._pin())
        c.export.on_click(lambda _: self.helper.later(self.helper.export))

    def _change_system(self, change: dict[str, Any]) -> None:
        if self.controls.quiet:
            return
        if change["owner"] is self.controls.pair:
            self._fill_variants()
        self.controls.quality.disabled = self.controls.codec.value not in markup.GRADED
        self.choice.look_again()
        self.ask()
        self.helper.refresh()

    def _pin(self) -> None:
        if self.view is not None:
            self.pins.append(pins.Pin(self.view, self.show_again, self._unpin))
            self.controls.hang([pin.widget for pin in self.pins])

    def _unpin(self, pin: pins.Pin) -> None:
        self.pins.remove(pin)
        self.controls.hang([pin.widget for pin in self.pins])

    def show_again(self, settings: Settings) -> None:
        """Set the controls to settings that they once had."""
        source = self.choice.sources.get(settings.source)
        if source is None or settings.index >= len(source.split):
            self.say(f"the picture {settings.index} of {settings.source!r} is no longer there", bad=True)
            return
        c = self.controls
        with c.quietly():
            c.source.value, c.strength.value, c.pair.value = settings.source, settings.strength, settings.pair
        self._fill_variants()
        self.choice.run_over_all()
        with c.quietly():
            c.variant.value, c.codec.value, c.quality.value = settings.variant, settings.codec, settings.quality
            c.index.value = settings.index
            c.quality.disabled = settings.codec not in markup.GRADED
        self.ask()
        self.helper.refresh()

    # --- what the controls offer ---------------------------------------------------------------------------------------------

    def _fill_variants(self) -> None:
        from .pipeline import variants_there

        found = variants_there(self.family, self.controls.pair.value)
        with self.controls.quietly():
            self.controls.offer_variants(found)

    # --- the worker: the newest settings win ---------------------------------------------------------------------------------

    def ask(self) -> None:
        """Show what the controls say."""
        if self.controls.quiet or not self.choice.sources:
            return
        self.worker.ask(self.settings())

    def _handle(self, settings: Settings) -> None:
        self.guard(lambda: self.show(self.compute(settings)))

    def _let_go(self) -> None:
        """Keep no networks: a closed view's widgets live on for as long as the kernel does, and would keep them along."""
        self._pipelines.clear()
        self.choice.sources.clear()

    def _glance(self) -> None:
        """Show the first picture along with the controls where it is a file: what reads all of them takes seconds to come."""
        from ..samples import SAMPLES, sample_files

        if self.dataset in SAMPLES and not self.folder:
            with contextlib.suppress(DataError):  # the worker meets it, too, and says it
                files = sample_files(self.dataset)[: self.limit or None]
                if self._picture < len(files):
                    self._bring_original(np.asarray(open_picture(files[self._picture])))

    def _bring_original(self, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        height, width, _ = picture.shape
        self.controls.bring({"original": pins.png(picture)}, (height, width))

    def _begin(self) -> None:
        """Read the pictures and show the first; then see to the networks."""
        self.say("reading the pictures…")
        from .sources import named

        first, self.classes, self.title, self.family = named(self.dataset, self.limit, self.data_dir)
        if self._picture >= len(first.split) and not self.folder:
            raise UsageError(
                f"picture {self._picture} is not there: {self.title} has {len(first.split)} test pictures, from 0 on"
            )
        self.choice.add(self.title, first)
        self.choice.go_to(self._picture)
        self._bring_original(first.split.images[self.controls.index.value].permute(1, 2, 0).contiguous().numpy())
        self.say("loading the networks…")
        from .pipeline import pairs_there

        self._ensure()
        if self.family == "cifar10" and self.dataset != "samples":
            self.choice.offer("CIFAR-10, pristine samples", named("samples")[0])
        there = pairs_there(self.family)
        with self.controls.quietly():
            self.controls.offer_pairs(there, self._asked_pair)
        wanted = self.controls.wanted_variant
        self._fill_variants()
        with self.controls.quietly():
            self.controls.choose_variant(wanted)
        if self.folder:
            self.choice.take_folder(self.folder)
            self.choice.go_to(self._picture)
        self.controls.enable()
        self.ask()
        self.helper.refresh()

    def _ensure(self) -> None:
        """Train what is missing, where there is something to train on."""
        dataset = self.load()
        if dataset.family != dataset.name and dataset.name != "folder":
            return
        from .. import training

        target, _, auxiliary = self._asked_pair.partition("-X-")

        def told(history: list[dict[str, Any]]) -> None:
            self._go_on()
            self.say(f"networks that are missing are trained first: {len(history)} epochs of the present one are done")

        self._go_on()
        training.ensure(dataset, target, auxiliary, seed=self.seed, on_epoch=told)

    def _go_on(self) -> None:
        """Raise Closed where nobody waits for what follows."""
        if self.worker.closed:
            raise Closed

    def load(self) -> Dataset:
        """Return the data set that the first collection is of."""
        from ..data import load

        return load(self.dataset, self.data_dir or None)

    def pipeline_of(self, settings: Settings) -> Pipeline:
        """Return the networks that settings name, loaded once."""
        key = (settings.pair, settings.variant)
        with self._loading:  # the worker and the helper ask
            if key not in self._pipelines:
                from .pipeline import Pipeline

                self.say(f"loading {pins.system_text(settings)}…")
                made = Pipeline(self.family, settings.pair, settings.variant, self.classes)
                while len(self._pipelines) >= KEPT:
                    del self._pipelines[next(iter(self._pipelines))]
                self._pipelines[key] = made
                self.say("")
            return self._pipelines[key]

    def compute(self, settings: Settings) -> View:
        """Send one picture through edge and cloud and return all that is shown for it."""
        from dataclasses import replace

        pipeline = self.pipeline_of(settings)
        if settings.codec not in pipeline.codecs:
            said = f"{pins.system_text(settings)} has no compressor of its own: shown with {pipeline.codecs[0]}"
            self.say(said, told=True)
            settings = replace(settings, codec=pipeline.codecs[0])
        with self.controls.quietly():
            self.controls.offer_codecs(pipeline.codecs, settings.codec)
        split = self.choice.sources[settings.source].split
        return pipeline.compute(settings, split.images[settings.index], int(split.labels[settings.index]))

    def show(self, view: View) -> None:
        """Bring a view to the screen."""
        for key in view.ran:
            self._spent.setdefault(key, deque(maxlen=15)).append(view.milliseconds[key])
        with self._drawing:
            self.view = view
            self._serial += 1
            self._draw(view)
        self.helper.mark(view.settings)
        self.helper.look_ahead(view.settings)
        if self.error is not None and not self._told:
            self.say("")
        self.error, self._told = None, False

    def _draw(self, view: View) -> None:
        spent = {key: statistics.median(self._spent[key]) for key in view.milliseconds if key in self._spent}
        gain = self.controls.gain.value
        changed = pins.png(pins.pixels(residual(view.original, view.protected, gain)))
        said = markup.captions(view, gain, self._note(view))
        size = view.original.shape[1], view.original.shape[2]
        self.controls.bring({**view.files, "residual": changed}, size, said, markup.readout(view, spent, self._serial))

    def _note(self, view: View) -> str:
        settings = view.settings
        attack = self._pipelines[settings.pair, settings.variant].attacks.get((settings.codec, settings.quality))
        if attack is None or view.guess is None:
            return "press “train an attacker”"
        learnt = f"{attack.pairs:,} pairs,<br>strength {attack.strength:g}, {attack.passes:,} passes"
        return f"{view.guess_psnr:.1f} dB; learnt: {learnt}"

    def _redraw(self) -> None:
        with self._drawing:  # the worker may be about to show another
            if self.view is not None and not self.controls.quiet:
                self._draw(self.view)

    # --- what is said --------------------------------------------------------------------------------------------------------

    def say(self, text: str, bad: bool = False, more: str = "", told: bool = False) -> None:
        """Say what is going on, in one line; what is `told` is not wiped away by the view that follows."""
        self._told = told
        self.controls.message.value = markup.message(text, bad, more)

    def guard(self, action: Callable[[], None]) -> None:
        """Do something in a thread; what goes wrong is said."""
        try:
            action()
        except Closed:
            return
        except WorkbenchError as error:
            self.error = error
            self.say(str(error), bad=True)
        except KeyboardInterrupt:
            self.say("the training was interrupted; run the cell again to go on from there", bad=True)
        except Exception as error:  # a thread of its own: nobody else would see it
            if self.worker.closed:
                return  # what it needed has been let go
            self.error = error
            self.say(f"{type(error).__name__}: {error}", bad=True)
            traceback.print_exc()
