"""The view of the notebook `explore`. It shows how pictures are sent from a phone to the edge, and on to the cloud.

The view uses the networks of a pair: a target, an auxiliary and a generator. The target is a classifier that must still
recognise protected pictures. The auxiliary is a classifier that must not recognise them. The generator protects the pictures. A
variant is another generator for the same two classifiers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, RunError, UsageError
from ..pictures import open_picture
from . import exports
from .latest_wins import Closed
from .live_view import LiveView
from .settings import Settings, check

if TYPE_CHECKING:
    from ..data import Dataset
    from .methods import Method
    from .pipeline import Pipeline

__all__ = ["Explorer"]

KEPT = 3  # the most pairs whose networks stay loaded


class Explorer(LiveView):
    """An interactive view of pictures that are sent from a phone through the edge to the cloud. Display `explorer.widget`.

    The controls appear at once, and the networks are loaded in the background. Missing networks are trained if the data set has
    training images. A new explorer closes the open explorer of the same `name`. `output` is the folder for exports. The
    notebook `explore` explains the other parameters. Raises UsageError for an invalid parameter.
    """

    def __init__(
        self,
        dataset: str = "samples",
        target: str = "resnet18",
        auxiliary: str = "vgg13_bn",
        *,
        folder: str = "",
        data_dir: str = "",
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
        check(codec=codec, picture=picture, limit=limit)
        self.data_dir, self.folder, self.limit, self.seed, self.family = data_dir, folder, limit, seed, ""
        self._wanted_variant = variant
        self._pipelines: dict[tuple[str, str], Pipeline] = {}
        self._loading = threading.Lock()
        given = {"strength": strength, "rate": rate, "codec": codec, "quality": quality, "sheet": sheet}
        pair = f"{target}-X-{auxiliary}"
        super().__init__(dataset, picture=picture, output=output, name=name, pair=pair, variant=variant, **given)

    @classmethod
    def compare(
        cls,
        methods: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]],
        images: Any,
        *,
        recognise: Callable[..., Any] | None = None,
        labels: Sequence[int] | None = None,
        classes: Sequence[str] = (),
        name: str = "compare",
        **parameters: Any,
    ) -> LiveView:
        """Return a view that shows how user-defined methods protect, encode and decode `images`.

        - `methods`: {name: (protect, encode, decode)}. `callables.CallableMethod` describes these functions.
        - `images`: N x 3 x H x W, numpy or torch, uint8 or floats in [0, 1]
        - `recognise`: a function of N images that returns class scores (N x K)
        - `labels`: the true class indices of the images
        - `classes`: the names of the classes
        - `parameters`: the initial `strength` and `rate`, the number of the first picture (`picture`), the number of pictures
          on the screen (`sheet`), and the folder for exports (`output`)

        A new view closes the open view of the same `name`. Raises UsageError for invalid values.
        """
        from .comparison import Comparison

        return Comparison(methods, images, recognise=recognise, labels=labels, classes=classes, name=name, **parameters)

    # --- for notebooks that run without a user -------------------------------------------------------------------------------

    def curve(self) -> list[dict[str, Any]]:
        """Wait for the curves of the present settings, and return one row for each strength.

        Each row has the format of `Evaluation.curve`. If the measurement failed, its error is raised. Raises RunError if there
        are no curves after 20 minutes.
        """
        self.rest()
        rows = self.tasks.curves.get(self.tasks.key(self.settings()))
        if rows is None:
            raise self.error or RunError("the curves are not measured: run the cell again once the view shows them")
        return rows

    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        from ..evaluation import origin

        return origin(self.pipeline_of(settings or self.settings()).raw, self.load())

    def gallery(self) -> tuple[dict[str, Any], list[str]]:
        """Return the arguments of `plots.gallery` for a figure of example pictures at increasing strength.

        The first argument is {title of a row: images}. The second argument has the class name of each column.
        """
        settings = self.settings()
        return self.pipeline.gallery(settings, self.picture_source.sources[settings.source].split)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline from client to cloud, with the networks that the present settings select."""
        return self.pipeline_of(self.settings())

    # --- the pictures and the networks ---------------------------------------------------------------------------------------

    def _glance(self) -> None:
        """Show the first picture at once if the data set is one of `SAMPLES`. Other data sets need torch, and load slowly."""
        from ..samples import SAMPLES, sample_files

        if self.dataset in SAMPLES and not self.folder:
            with contextlib.suppress(DataError):  # the worker meets the same error, and reports it
                files = sample_files(self.dataset)[: self.limit or None]
                if self._picture < len(files):
                    self._bring_original(np.asarray(open_picture(files[self._picture])))

    def _bring_original(self, picture: Any) -> None:
        height, width, _ = picture.shape
        self.stage.frames = {
            **{"id": 0, "numbers": [self._picture], "labels": [-1], "names": [], "height": height, "width": width},
            **{"original": picture.tobytes(), "s1": [], "on_original": []},
        }

    def _begin(self) -> None:
        self.report("importing torch, reading the pictures…", busy=True)
        from ..data import load
        from .sources import Source

        dataset = self.load()
        self.classes, self.title, self.family = dataset.classes, dataset.title, dataset.family
        first = Source(dataset.test.head(self.limit or None), self.dataset)
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
            self.picture_source.offer("CIFAR-10, pristine samples", Source(load("samples").test, "samples"))
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

    def _release(self) -> None:
        self._pipelines.clear()
        super()._release()

    def load(self) -> Dataset:
        from ..data import load

        return load(self.dataset, self.data_dir or None)

    def fill_variants(self) -> None:
        """Offer the selected pair's variants on the page. If the selected variant is missing, select the first one.

        A variant that was passed to the constructor stays selected even if it is missing. Then the attempt to load it reports
        the error.
        """
        from .pipeline import variants_there

        variants = {name: text for text, name in variants_there(self.family, self.stage.pair).items()}
        with self.programmatic_update():
            if self.stage.variant not in variants and self.stage.variant != self._wanted_variant:
                self.stage.variant = next(iter(variants), "")
        if self.stage.variant not in variants:  # keep it in the list: loading it reports that it is missing
            variants[self.stage.variant] = self.stage.variant
        self.offer(variants=[[name, text] for name, text in variants.items()])

    def pipeline_of(self, settings: Settings) -> Pipeline:
        key = (settings.pair, settings.variant)
        with self._loading:  # the worker's thread and the tasks' thread both load
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
        return self.pipeline_of(settings)

    @property
    def measurable(self) -> bool:
        return True

    @property
    def attacked(self) -> bool:
        made = self._pipelines.get((self.stage.pair, self.stage.variant))
        return made is not None and bool(made.attacks)

    def note_of(self, settings: Settings) -> str:
        pipeline = self._pipelines.get((settings.pair, settings.variant))
        attack = None if pipeline is None else pipeline.attack_of(settings)
        if attack is None:
            return ""
        return f"learnt: {attack.pairs:,} pairs, strength {attack.strength:g}, {attack.passes:,} passes"
