"""The long tasks of the view `explore`. One thread runs one task at a time, and pauses while the user is active.

- curves: measure accuracy, SSIM and bytes per image on the test images, at several strengths of the perturbation
- surface: measure accuracy and bytes per image at several strengths and rates. A higher rate means more bits.
- search: measure the first pictures of a collection. The results are used to filter and sort the pictures.
- attack: train an attacker, a network that reconstructs pictures from the cloud's decoded pictures
- map: compute a point in the plane for each picture, from the target classifier's features of the decoded picture
- prefetching: compute the cloud's results at other strengths and rates, and send the results to the page in advance

A collection is a numbered list of pictures. The cloud decodes and classifies the protected pictures. The page is the widget in
the browser. The settings are the values of the page's controls, such as the strength, the rate and the networks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import exports
from .latest_wins import REST_S, Superseded
from .settings import SHEETS, Settings

if TYPE_CHECKING:
    from .pipeline import Scan
    from .view_base import ViewBase

__all__ = ["BackgroundTasks"]

CURVE_IMAGES = 1000
SURFACE_IMAGES = 256
ATTACK = (2000, 12_000)  # number of an attacker's training pairs, and of its training images with repeats
MAPPED = 256  # points on the map
PLACES = {1: 101, 16: 41, 64: 21, 256: 11}  # number of strengths to prefetch, by the number of pictures on the screen
Key = tuple[str, str, str, int, float]


class BackgroundTasks:
    """A thread that runs the tasks in a queue, then the requested curves, surface and prefetching, in this order.

    `explorer` is the view that the tasks belong to. The dicts `curves`, `surfaces` and `scans` cache the results for each
    combination of settings. `scans` has the results of searches.
    """

    def __init__(self, explorer: ViewBase) -> None:
        self.explorer = explorer
        self.curves: dict[Key, list[dict[str, Any]]] = {}
        self.surfaces: dict[Key, list[dict[str, Any]]] = {}
        self.scans: dict[tuple[str, float, Key], Scan] = {}
        self.mapping = False  # whether the page shows the map
        self._queue: deque[Callable[[], None]] = deque()
        self._stale, self._surface, self._ahead, self._busy = False, False, False, False
        self._around: tuple[Any, ...] | None = None  # id of the frames and settings for which prefetching is done
        self._mapped: tuple[Any, ...] | None = None
        explorer.worker.run_along(self._run, "explorer-tasks")

    @property
    def idle(self) -> bool:
        """Whether all queued tasks and requested curves are done. Surface and prefetching may still be pending."""
        return not (self._queue or self._stale or self._busy)

    def later(self, task: Callable[[], None]) -> None:
        """Append `task` to the queue. The thread calls `task()` after all earlier tasks in the queue."""
        with self.explorer.worker.changed:
            self._queue.append(task)
            self.explorer.worker.changed.notify_all()

    def refresh(self) -> None:
        """Request that the thread shows the curves of the present settings. Curves that are not cached are measured first."""
        with self.explorer.worker.changed:
            self._stale = True
            self.explorer.worker.changed.notify_all()

    def look_ahead(self) -> None:
        """Request prefetching: the thread sends the cloud's results at other strengths and rates to the page in advance."""
        with self.explorer.worker.changed:
            self._ahead = True
            self.explorer.worker.changed.notify_all()

    def _run(self) -> None:
        worker = self.explorer.worker
        while True:
            with worker.changed:
                self._busy = False
                worker.changed.notify_all()
                worker.changed.wait_for(lambda: worker.closed or self._queue or self._stale or self._surface or self._ahead)
                if worker.closed:
                    return
                self._busy = not self.idle
                if self._queue:
                    task = self._queue.popleft()
                elif self._stale:
                    task, self._stale = self._measure, False
                elif self._surface:
                    task, self._surface = self._measure_surface, False
                else:
                    task, self._ahead = self._fill, False
            self.explorer.guard(task)

    def _pace(self) -> None:
        self.explorer.worker.wait_for_rest(REST_S)

    # --- prefetched views ----------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        self._pace()
        explorer, settings = self.explorer, self.explorer.settings()
        number, method = explorer.shown, explorer.method_of(settings)
        if self.mapping:
            self.draw_map()
        captured = explorer.capture(method, settings)
        around = (number, replace(settings, strength=0.0))
        if around == self._around:
            return
        for other in self._others(settings, method.rates(settings.codec)):
            self._pace()
            if self._queue or self._stale:
                self._ahead = True
            if self._ahead or explorer.shown != number or explorer.stage.number < 0:
                return
            packed = explorer.pack(number, other, method.see(other, explorer.key(settings), captured, self._pace))
            explorer.stage.send({"kind": "ahead", "meta": packed["meta"]}, [packed["blob"]])
        self._around = around

    def table(self) -> list[dict[str, Any]]:
        """Return the cloud's results at other strengths and rates, for the pictures on the page.

        The list begins with a result at each prefetched strength, at the present rate. Then it has a result at each rate of the
        codec, at the present strength. Each result has the format of `pack_seen`. Results that are not cached are computed.
        """
        explorer, settings = self.explorer, self.explorer.settings()
        number, method, key = explorer.shown, explorer.method_of(settings), explorer.key(settings)
        captured = explorer.capture(method, settings)
        others = self._others(settings, method.rates(settings.codec))
        return [explorer.pack(number, other, method.see(other, key, captured, lambda: None)) for other in others]

    @staticmethod
    def _others(settings: Settings, rates: tuple[float, ...]) -> Iterator[Settings]:
        size = next(size for size in SHEETS if size >= len(settings.pictures))
        places = PLACES[size]
        strengths = sorted((k / (places - 1) for k in range(places)), key=lambda k: abs(k - settings.strength))
        yield from (replace(settings, strength=strength) for strength in strengths)
        yield from (replace(settings, rate=rate) for rate in rates)

    # --- curves and surface --------------------------------------------------------------------------------------------------

    @staticmethod
    def key(settings: Settings) -> Key:
        return settings.pair, settings.variant, settings.codec, settings.graded, settings.rate

    def _measure(self) -> None:
        self._pace()
        explorer = self.explorer
        if not explorer.measurable:
            return
        settings = explorer.settings()
        key = self.key(settings)
        try:
            if key not in self.curves:
                self.curves[key] = self._evaluate(key, settings)
            self.show_curves(explorer.settings())
            self._surface = bool(explorer.method_of(settings).rates(settings.codec))
        except Superseded:
            self.refresh()

    def _measure_surface(self) -> None:
        self._pace()
        settings = self.explorer.settings()
        key, rates = self.key(settings), self.explorer.method_of(settings).rates(settings.codec)
        try:
            if rates and (whole := (*key[:4], 0.0)) not in self.surfaces:
                self.surfaces[whole] = self._evaluate_surface(key, settings, rates)
            self.show_curves(self.explorer.settings())
        except Superseded:
            self.refresh()

    def _paced(self, key: Key, settings: Settings, limit: int) -> Any:
        from .curves import Paced

        def pace() -> None:
            if self._queue or self.key(self.explorer.settings()) != key:
                raise Superseded
            self._pace()

        dataset = self.explorer.load()
        pair = self.explorer.pipeline_of(settings).pair
        return Paced(pair, dataset, pace, min(self.explorer.limit or limit, limit, len(dataset.test)))

    def _evaluate(self, key: Key, settings: Settings) -> list[dict[str, Any]]:
        from .curves import STRENGTHS

        evaluation, done = self._paced(key, settings, CURVE_IMAGES), 0
        n = len(evaluation.images)
        codec = self.explorer.pipeline_of(settings).codec(settings, tuple(evaluation.images.shape[-2:]))

        def next_point(_: Any) -> Any:
            nonlocal done
            text = f"measuring the curves with {n:,} test images: {done} of {len(STRENGTHS)} strengths are done"
            self.explorer.stage.curves = {"text": text}
            done += 1
            return codec

        rows: list[dict[str, Any]] = evaluation.curve(list(STRENGTHS), next_point, float)
        return rows

    def _evaluate_surface(self, key: Key, settings: Settings, rates: tuple[float, ...]) -> list[dict[str, Any]]:
        from .curves import STRENGTHS

        evaluation, pipeline = self._paced(key, settings, SURFACE_IMAGES), self.explorer.pipeline_of(settings)
        size = tuple(evaluation.images.shape[-2:])
        places = [(strength, rate) for rate in rates for strength in STRENGTHS]
        rows: list[dict[str, Any]] = evaluation.curve(
            places,
            lambda place: pipeline.codec(replace(settings, rate=place[1]), size),
            lambda place: place[0],
            auxiliary=False,
        )
        return rows

    def show_known(self) -> None:
        """Show the cached curves and surface of the present settings. If no curves are cached, clear the plots."""
        if self.explorer.measurable and self.explorer.picture_source.sources:
            self.show_curves(self.explorer.settings())

    def show_curves(self, settings: Settings) -> None:
        """Show the cached curves and surface of `settings`. If no curves are cached, clear the plots."""
        from .curves import for_page

        key = self.key(settings)
        rows, surface = self.curves.get(key), self.surfaces.get((*key[:4], 0.0), [])
        title = f"{self.explorer.title}, {exports.system_text(settings)}, {settings.codec}"
        self.explorer.stage.curves = {} if rows is None else for_page(rows, surface, title, len(self.explorer.classes))

    # --- searches and the map ------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Measure the collection's first 512 pictures, then apply the filter and the order that the user has selected.

        The measurements are a `pipeline.Scan`. They are cached by settings.
        """
        explorer = self.explorer
        self._pace()
        settings, wanted = explorer.settings(), (explorer.stage.show, explorer.stage.sort)
        key = (settings.source, settings.strength, self.key(settings))
        split = explorer.picture_source.sources[settings.source].split
        if key not in self.scans or (wanted[1] == "attacker's PSNR" and not self.scans[key].psnr):
            explorer.report("sending the first pictures, to filter and sort them…", busy=True)
            self.scans[key] = explorer.pipeline_of(settings).scan(settings, split.images, split.labels, self._pace)
        explorer.report("")
        if (explorer.stage.show, explorer.stage.sort) != wanted:
            return
        explorer.picture_source.arrange(self.scans[key])
        count, n = explorer.stage.options.get("count", 0), len(self.scans[key].right)
        if explorer.stage.show == wanted[0]:
            explorer.report(f"{count} of the first {n} pictures, at strength {settings.strength:g}", kept=True)

    def forget(self, source: str) -> None:
        """Drop the cached searches of the collection named `source`. Called after the collection's pictures were replaced."""
        self._around = self._mapped = None
        self.scans = {key: scan for key, scan in self.scans.items() if key[0] != source}

    def show_map(self, on: bool) -> None:
        self.mapping = on
        if on:
            self.later(self.draw_map)

    def draw_map(self) -> None:
        """Draw the map of the collection's first `MAPPED` (256) pictures, with one point for each picture.

        The target classifier computes features of each decoded picture. A projection maps these features to a point in the
        plane. Does nothing for user-defined methods, or before the first view.
        """
        from .projection import as_points

        explorer = self.explorer
        if not explorer.measurable or explorer.view is None:
            return
        settings = explorer.settings()
        attack = explorer.pipeline_of(settings).attack_of(settings)
        by = explorer.stage.projection
        known = (settings.source, settings.strength, self.key(settings), attack, by)
        if known == self._mapped:
            return
        split = explorer.picture_source.sources[settings.source].split.head(MAPPED)
        captured, seen, features = explorer.pipeline_of(settings).features(settings, split.images, self._pace)
        explorer.stage.points = as_points(captured, seen, features, split.labels, by)
        self._mapped = known

    # --- an attacker ---------------------------------------------------------------------------------------------------------

    def attack(self) -> None:
        """Train an attacker on pictures that are sent with the present settings. Then show its reconstructions on the page."""
        explorer = self.explorer
        settings, dataset = explorer.settings(), explorer.load()
        pairs, passes = ATTACK
        passed = 0
        explorer.offer(attacking=True)
        explorer.report(f"{pairs:,} pictures pass through the edge: an attacker will learn from them…", busy=True)

        def tick(images: int) -> None:
            nonlocal passed
            passed += images
            explorer.report(f"an attacker learns from what the cloud sees: {min(1.0, passed / passes):.0%}", busy=True)
            self._pace()

        try:
            explorer.pipeline_of(settings).attack(settings, dataset, tick, pairs, passes)
        finally:
            explorer.offer(attacking=False)
        explorer.report("")
        explorer.renew()
        explorer.picture_source.tell()
        explorer.request()

    # --- exports -------------------------------------------------------------------------------------------------------------

    def export(self, kind: str) -> None:
        """Write the present view to files. `kind` is one of `exports.KINDS`, such as "figure (PNG)".

        A figure also shows the pinned views, which the user has kept for comparison. If the export is a single file, the page
        offers it for download.
        """
        explorer = self.explorer
        explorer.worker.wait_for_rest(0.0)  # for the view of settings that have just changed
        view = explorer.view
        if view is None:
            return
        from ..notebook import default_output

        folder, gain = explorer.output or default_output(), explorer.stage.gain
        if kind == exports.PAGE:
            explorer.report("computing the views of the page…", busy=True)
            self._offer([explorer.save(folder / "explore.html")])
            return
        views = [each for each in explorer.pinned if each is not view] + [view]
        parameters = self.parameters(view, folder, gain) if "settings" in kind else {}
        paths = exports.export(kind, views, folder, parameters, explorer.origin(view.settings), gain)
        self._offer(paths)

    def _offer(self, paths: list[Path]) -> None:
        explorer = self.explorer
        where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures in {paths[0].parent}"
        explorer.report(f"written: {where}", kept=True)
        if len(paths) == 1:
            content = {"kind": "file", "name": paths[0].name, "type": exports.TYPES[paths[0].suffix]}
            explorer.stage.send(content, [paths[0].read_bytes()])

    def parameters(self, view: Any, folder: Path, gain: float) -> dict[str, Any]:
        """Return the parameters with which the notebook `explore` reproduces `view`, a `methods.View`.

        The notebook cannot read uploads. So an uploaded picture is first written below `folder`, by `exports.write_pictures`.
        `write_pictures` also requires `gain`, the amplification of residuals, although no residual is written.
        """
        explorer = self.explorer
        settings: Settings = view.settings
        source = explorer.picture_source.sources[settings.source]
        if source.dataset:
            own = source.dataset == explorer.dataset
            return settings.parameters(source.dataset, explorer.data_dir if own else "")
        if source.folder:
            return settings.parameters(explorer.dataset, explorer.data_dir, source.folder)
        kept = folder / "explore-uploads" / str(settings.index)
        exports.write_pictures(view, kept, gain, "original")
        return replace(settings, pictures=(0,)).parameters(explorer.dataset, explorer.data_dir, str(kept.resolve()))
