"""What takes longer than a hand waits: curves, searches, attackers, exports; one after another, while the hand rests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import markup, pins
from .newest import REST_S
from .settings import PLACES, Settings

if TYPE_CHECKING:
    from .explore import Explorer
    from .pipeline import Scan

__all__ = ["Helper"]

CURVE_IMAGES = 1000
ATTACK = (2000, 12_000)  # pairs that an attacker learns from, pictures that pass
Key = tuple[str, str, str, int]


class _Superseded(Exception):  # noqa: N818 - no fault
    """Something else is shown, or was asked for, by now."""


class Helper:
    """Does what an explorer is asked for, in its order, in a thread of its own; while nothing is asked, the curves.

    And then, ahead of the hand, the views of all other strengths. `curves` and `scans` are kept once they are known.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.curves: dict[Key, tuple[list[dict[str, Any]], bytes, list[Any]]] = {}
        self.scans: dict[tuple[str, Key], Scan] = {}
        self._drawn: Key | None = None
        self._asked: deque[Callable[[], None]] = deque()
        self._stale, self._ahead, self._busy = False, False, False
        self._around: Settings | None = None  # which views are made ahead
        explorer.worker.run_along(self._run, "explorer-helper")

    @property
    def idle(self) -> bool:
        """Whether all is done that anybody waits for."""
        return not (self._asked or self._stale or self._busy)

    def later(self, job: Callable[[], None]) -> None:
        """Do a job when those before it are done."""
        with self.explorer.worker.changed:
            self._asked.append(job)
            self.explorer.worker.changed.notify_all()

    def refresh(self) -> None:
        """See to the curves of what is shown."""
        with self.explorer.worker.changed:
            self._stale = True
            self.explorer.worker.changed.notify_all()

    def _run(self) -> None:
        worker = self.explorer.worker
        while True:
            with worker.changed:
                self._busy = False
                worker.changed.notify_all()
                worker.changed.wait_for(lambda: worker.closed or self._asked or self._stale or self._ahead)
                if worker.closed:
                    return
                self._busy = not self.idle
                if self._asked:
                    job = self._asked.popleft()
                elif self._stale:
                    job, self._stale = self._measure, False
                else:
                    job, self._ahead = self._go_ahead, False
            self.explorer.guard(job)

    def _pace(self) -> None:
        self.explorer.worker.wait_for_rest(REST_S)

    # --- ahead of the hand ---------------------------------------------------------------------------------------------------

    def look_ahead(self, settings: Settings) -> None:
        """See to the views of the other strengths, where it is not only the strength that is another one now."""
        with self.explorer.worker.changed:
            before, self._around = self._around, replace(settings, strength=0.0)
            if self._around != before:
                self._ahead = True
                self.explorer.worker.changed.notify_all()

    def _go_ahead(self) -> None:
        """Let the pipeline remember the view of each place of the strength's slider, the nearest first."""
        self._pace()
        explorer, around = self.explorer, self._around
        if (view := explorer.view) is None or around is None:
            return
        pipeline, source = explorer.pipeline_of(around), explorer.choice.sources.get(around.source)
        if source is None or around.index >= len(source.split) or pipeline.remembers(view.original) < PLACES:
            return
        image, label = source.split.images[around.index], int(source.split.labels[around.index])
        for strength in sorted((k / (PLACES - 1) for k in range(PLACES)), key=lambda k: abs(k - view.settings.strength)):
            self._pace()
            if self._asked or self._stale:
                self._ahead = True
            if self._ahead or self._around != around:
                return
            pipeline.compute(replace(around, strength=strength), image, label)

    # --- curves over strength ------------------------------------------------------------------------------------------------

    @staticmethod
    def key(settings: Settings) -> Key:
        """Return what of the settings a curve over strength depends on."""
        return settings.pair, settings.variant, settings.codec, settings.quality if settings.codec in markup.GRADED else 0

    def _measure(self) -> None:
        """Measure the curves of what is shown, and draw them."""
        self._pace()
        if (view := self.explorer.view) is None:
            return
        key = self.key(view.settings)
        if key not in self.curves:
            try:
                self._evaluate(key, view.settings)
            except _Superseded:
                self.refresh()
                return
        self.mark((self.explorer.view or view).settings)

    def _evaluate(self, key: Key, settings: Settings) -> None:
        from ..evaluation import describe
        from .curves import STRENGTHS, Paced, draw

        explorer, controls = self.explorer, self.explorer.controls
        pipeline, dataset = explorer.pipeline_of(settings), explorer.load()
        n = min(explorer.limit or CURVE_IMAGES, len(dataset.test))
        size = (int(dataset.test.images.shape[-2]), int(dataset.test.images.shape[-1]))
        codec = pipeline.codec(settings.codec, settings.quality, size)
        done = 0

        def pace() -> None:
            if self._asked or self.key(explorer.settings()) != key:
                raise _Superseded
            self._pace()

        def next_point(_: Any) -> Any:
            nonlocal done
            controls.say_curves(f"measuring the curves with {n:,} test images: {done} of {len(STRENGTHS)} strengths are done")
            done += 1
            return codec

        controls.say_curves(f"measuring the curves with {n:,} test images…")
        evaluation = Paced(pipeline.pair, dataset, pace, n)
        rows = evaluation.curve(list(STRENGTHS), next_point, float)
        name = pins.system_text(settings)
        title = f"{explorer.title}, {name}, {describe(codec)}"
        title += f", n = {n:,} in payloads of up to {evaluation.batch}; bands: 95 %"
        self.curves[key] = (rows, *draw(rows, 1 / len(explorer.classes), title))

    def mark(self, settings: Settings) -> None:
        """Show the curves that belong to the settings; none where there are none yet."""
        key, controls = self.key(settings), self.explorer.controls
        if (known := self.curves.get(key)) is None:
            if self._drawn is not None:
                self._drawn = None
                controls.hide_curves()
            return
        if self._drawn != key:
            self._drawn = key
            controls.show_curves(known[1], markup.curves_marker(known[2]))

    # --- pictures that are looked for ----------------------------------------------------------------------------------------

    def search(self) -> None:
        """Let the number run over the pictures that `show` asks for: the misclassified, or all by their SSIM."""
        from .sources import EVERY, MISREAD

        self._pace()
        explorer, controls = self.explorer, self.explorer.controls
        settings, chosen = explorer.settings(), controls.show.value
        key = (settings.source, self.key(settings))
        split = explorer.choice.sources[settings.source].split
        if key not in self.scans:
            explorer.say("looking through the first pictures…")
            self.scans[key] = explorer.pipeline_of(settings).scan(settings, split.images, split.labels, self._pace)
            explorer.say("")
        scan = self.scans[key]
        if controls.show.value != chosen:
            return
        order = scan.wrong if chosen == MISREAD else scan.by_ssim
        if not order:
            explorer.say(
                f"none of the first {scan.n} pictures is recognised wrongly at full strength: all are shown", told=True
            )
            controls.show.value = EVERY
            return
        explorer.say(f"{len(order)} of the first {scan.n} pictures, at full strength", told=True)
        explorer.choice.run_over(order)

    def forget(self, source: str) -> None:
        """Forget what was found in a collection that others take the place of."""
        self._around = None
        self.scans = {key: scan for key, scan in self.scans.items() if key[0] != source}

    # --- an attacker ---------------------------------------------------------------------------------------------------------

    def attack(self) -> None:
        """Let an attacker learn from what the cloud sees at the present settings, and show its guess from then on."""
        explorer = self.explorer
        settings, dataset = explorer.settings(), explorer.load()
        pairs, passes = ATTACK
        passed = 0
        explorer.controls.attack.disabled = True
        explorer.say(f"{pairs:,} pictures pass through the edge: an attacker will learn from them…")

        def tick(images: int) -> None:
            nonlocal passed
            passed += images
            explorer.say(f"an attacker learns what the cloud sees: {min(1.0, passed / passes):.0%}")
            self._pace()

        try:
            explorer.pipeline_of(settings).attack(settings, dataset, tick, pairs, passes)
        finally:
            explorer.controls.attack.disabled = False
        explorer.say("")
        self._around = None  # with its guesses all views are others
        explorer.ask()

    # --- what is taken away --------------------------------------------------------------------------------------------------

    def export(self) -> None:
        """Write what is shown, with what is pinned where that is a figure; say where, and offer it to the browser."""
        explorer, view = self.explorer, self.explorer.view
        if view is None:
            return
        from ..notebook import default_output

        kind, folder, gain = explorer.controls.kind.value, explorer.output or default_output(), explorer.controls.gain.value
        views = [pin.view for pin in explorer.pins if pin.view is not view] + [view]
        parameters = self._parameters(view, folder, gain) if "settings" in kind else {}
        paths = pins.export(kind, views, folder, parameters, explorer.origin(view.settings), gain)
        where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures in {paths[0].parent}"
        explorer.say(f"written: {where}", more=pins.download(paths[0]) if len(paths) == 1 else "", told=True)

    def _parameters(self, view: Any, folder: Path, gain: float) -> dict[str, Any]:
        """Return the parameters that show a view again; a picture that was uploaded is kept for them beside the settings."""
        explorer = self.explorer
        settings: Settings = view.settings
        source = explorer.choice.sources[settings.source]
        if source.dataset:
            own = source.dataset == explorer.dataset
            return settings.parameters(source.dataset, explorer.data_dir if own else "")
        if source.folder:
            return settings.parameters(explorer.dataset, explorer.data_dir, source.folder)
        kept = folder / "explore-uploads" / str(settings.index)
        pins.write_pictures(view, kept, gain, "original")
        return replace(settings, index=0).parameters(explorer.dataset, explorer.data_dir, str(kept.resolve()))
