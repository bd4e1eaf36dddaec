"""Python attributes for the settings of the view `explore`, and the actions of the view's buttons.

The page is the view in the browser. The stage is the view's widget, whose traits are shared with the page. A collection is a
numbered list of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, unknown
from ..storage import expand_user
from . import exports
from .explore_stage import SETTINGS
from .settings import SHEETS, Settings, check, parse
from .view_base import ViewBase

if TYPE_CHECKING:
    from .methods import View

__all__ = ["Controls"]

OBSERVABLE = (*SETTINGS, "pictures", "view", "gain", "layer")
SYSTEM = ("codec", "quality", "pair", "variant", "rate")  # settings that also change the curves
MOST_PINS = 12


def _choice(name: str, doc: str | None = None) -> Any:
    """Return a property that reads and sets the trait `name` of the widget. `doc` is the property's docstring.

    Setting a value that is not among the widget's options raises UsageError.
    """

    def choose(view: Controls, value: str) -> None:
        offered = [each[0] if isinstance(each, list) else each for each in view.stage.options.get(f"{name}s", [""])]
        if value not in offered:
            raise unknown(name, value, offered)
        setattr(view.stage, name, value)

    return property(lambda view: str(getattr(view.stage, name)), choose, doc=doc)


class Controls(ViewBase):
    """The settings of a view, as attributes that Python code can read and set. An invalid value raises UsageError."""

    # --- attributes ----------------------------------------------------------------------------------------------------------

    @property
    def strength(self) -> float:
        """The strength of the perturbation that protects the pictures, from 0 (none) to 1 (full)."""
        return float(self.stage.strength)

    @strength.setter
    def strength(self, value: float) -> None:
        check(strength=value)
        self.stage.strength = float(value)

    @property
    def rate(self) -> float:
        """The rate of the codec, from 0 (the fewest bits) to 1 (the most bits). Some codecs have only the rate 0."""
        return float(self.stage.rate)

    @rate.setter
    def rate(self, value: float) -> None:
        check(rate=value)
        if value and self.stage.options.get("ready") and not self.stage.options.get("rates"):
            raise UsageError(f"{self.stage.codec} has one rate, 0; got rate {value!r}: choose a codec with several rates")
        self.stage.rate = float(value)

    codec = _choice("codec")
    pair = _choice("pair", "The name of the pair of classifiers, `target-X-auxiliary`, or of the user-defined method.")
    variant = _choice("variant", "The name of another generator for the same pair. Empty: the pair's own generator.")

    @property
    def quality(self) -> int:
        """The quality of the codecs JPEG and WebP, from 1 to 95. Other codecs ignore this setting."""
        return int(self.stage.quality)

    @quality.setter
    def quality(self, value: int) -> None:
        check(quality=value)
        self.stage.quality = value

    @property
    def source(self) -> str:
        return str(self.stage.source)

    @source.setter
    def source(self, value: str) -> None:
        self.picture_source.choose(value)

    @property
    def pictures(self) -> list[int]:
        """The numbers of the pictures on the screen. The first picture of the chosen collection has the number 0."""
        return list(self.picture_source.pictures)

    @pictures.setter
    def pictures(self, numbers: int | Sequence[int]) -> None:
        numbers = [numbers] if isinstance(numbers, int) else list(numbers)
        check(pictures=numbers)
        self._require_sources()
        there = len(self.picture_source.sources[self.stage.source].split)
        run = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        sheet = next(size for size in SHEETS if size >= len(numbers))
        if run and numbers[-1] < there and (len(numbers) == sheet or numbers[-1] == there - 1):
            self.restore({"show": "all", "sort": "number", "number": numbers[0], "sheet": sheet})
        else:
            self.picture_source.select(numbers)

    def select(self, numbers: Sequence[int]) -> None:
        """Show several pictures of the chosen collection at once, by number. Raises UsageError for an unknown number."""
        numbers = list(numbers)
        check(pictures=numbers)
        self._require_sources()
        self.picture_source.select(numbers)

    def observe(self, handler: Callable[[Any], None], names: str | Sequence[str] = ("strength",)) -> None:
        """Call `handler(change)` whenever one of the named attributes changes.

        `names` is one name or a sequence of names, such as "strength", "pictures" or "view". The attribute "view" is the
        displayed result, a `methods.View`. `change.old` and `change.new` are the old and the new value, as in traitlets.
        Handlers of "pictures" and "view" run in the worker's thread. Raises UsageError for an unknown name.
        """
        for name in [names] if isinstance(names, str) else names:
            if name not in OBSERVABLE:
                raise unknown("attribute", name, OBSERVABLE)
            self.stage.observe(handler, name)

    def unobserve(self, handler: Callable[[Any], None], names: str | Sequence[str] = ("strength",)) -> None:
        """Stop calling `handler` for changes of the named attributes. The opposite of `observe`."""
        self.stage.unobserve(handler, [names] if isinstance(names, str) else list(names))

    def apply(self, **settings: Any) -> None:
        """Set several settings at once, by keyword arguments.

        The keywords are `strength`, `rate`, `codec`, `quality`, `pair`, `variant`, `source` and `pictures`. Raises UsageError
        for an invalid value. In that case no setting changes.
        """
        own = {key: value for key, value in settings.items() if key not in ("source", "pictures")}
        for key in own:
            if key not in SETTINGS:
                raise unknown("setting", key, (*SETTINGS[:6], "source", "pictures"))
        check(**{key: value for key, value in own.items() if key in ("strength", "rate", "quality", "sheet")})
        if "pictures" in settings:
            check(pictures=settings["pictures"])
        for key, options in (("pair", "pairs"), ("codec", "codecs")):
            if key in own and own[key] not in (offered := self.stage.options[options]) and self.stage.options.get("ready"):
                raise unknown(key, own[key], offered)
        self._require_sources()
        source = settings.get("source", self.stage.source)
        if source not in self.picture_source.sources:
            raise unknown("source", source, self.picture_source.sources)
        there = len(self.picture_source.sources[source].split)
        if wrong := [number for number in settings.get("pictures", ()) if number >= there]:
            raise UsageError(f"picture {wrong[0]} is not there: {source} has {there} pictures, from 0 on")
        self.restore(own | {"source": source})
        if "pictures" in settings:
            self.pictures = settings["pictures"]

    def restore(self, settings: dict[str, Any]) -> None:
        """Set several settings of the page at once. The page's undo button calls this method.

        `settings` maps names in `SETTINGS` to values. Other names are ignored. If the setting `source` names a collection that
        no longer exists, the status line shows an error, and no setting changes.
        """
        source = settings.get("source", self.stage.source)
        if source not in self.picture_source.sources:
            self.report(f"the pictures {source!r} are no longer there", bad=True)
            return
        with self.programmatic_update():
            for name, value in settings.items():
                if name in SETTINGS:
                    setattr(self.stage, name, value)
        self.fill_variants()
        self.picture_source.rearrange()
        self.request()
        self.tasks.refresh()

    @property
    def projection(self) -> str:
        """The algorithm that projects features to the points of the map: "PCA" or "UMAP". "UMAP" needs umap-learn."""
        return str(self.stage.projection)

    @projection.setter
    def projection(self, value: str) -> None:
        self.stage.projection = value

    def save(self, path: str | Path) -> Path:
        """Write the view to `path`, as one HTML file that works without a kernel. Return the path.

        The file contains the pictures on the screen. The sliders for strength and rate still work in the file. Raises
        StorageError if the file cannot be written, and UsageError if no view is displayed yet.
        """
        from .saved_page import write

        view = self._require_shown()
        return write(self.stage, self.tasks.table(), expand_user(path), exports.settings_text(view))

    def link(self) -> dict[str, str]:
        """Return {"python": Python call, "command": papermill command}. Each of the two texts reproduces the view."""
        from ..notebook import default_output

        view = self._require_shown()
        parameters = self.tasks.parameters(view, self.output or default_output(), self.stage.gain)
        return {"python": view.settings.python(), "command": Settings.command(parameters)}

    def _require_shown(self) -> View:
        view = self.present()
        if view is None:
            raise UsageError("nothing is shown yet: call explorer.wait() first")
        return view

    def _require_sources(self) -> None:
        if not self.picture_source.sources and not self.worker.wait(lambda: bool(self.picture_source.sources), 600.0):
            raise UsageError("the pictures are not read: see explorer.error")

    # --- the page's controls -------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Register the handlers for changes of the widget's settings, and for messages from the page."""
        self.stage.observe(lambda _: self.request(), ["strength", "number", "sheet"])
        self.stage.observe(self._change_system, list(SYSTEM))
        self.stage.observe(lambda _: self.tasks.show_map(self.tasks.mapping), "projection")
        self.stage.on_msg(lambda _, content, buffers: self._receive(content, buffers))
        self.stage.observe(lambda _: self._take_due(), "sequence")

    def _change_system(self, change: dict[str, Any]) -> None:
        if self.by_program:
            return
        if change["name"] == "pair":
            self.fill_variants()
        self.picture_source.repeat_search()
        self.request()
        self.tasks.show_known()
        self.tasks.refresh()

    def _receive(self, content: dict[str, Any], buffers: Sequence[Any]) -> None:
        self._messages.append((content, buffers))
        self._take_due()

    def _take_due(self) -> None:
        """Handle each received message for which all earlier settings have arrived. Keep the other messages.

        The page numbers its messages, so that the kernel handles a message after the settings that the user changed before it.
        The module `explore_stage` describes the numbering.
        """
        messages, self._messages = self._messages, []
        for content, buffers in messages:
            if content.get("sequence", 0) > self.stage.sequence:
                self._messages.append((content, buffers))
            else:
                self._take(content, buffers)
                self.stage.handled = max(self.stage.handled, content.get("sequence", 0))

    def _take(self, content: dict[str, Any], buffers: Sequence[Any]) -> None:
        actions: dict[str, Callable[[], object]] = {
            "random": self.picture_source.random,
            "attack": lambda: self.tasks.later(self.tasks.attack),
            "pin": self.pin,
            "unpin": lambda: self.unpin(int(content["at"])),
            "again": lambda: self.show_again(int(content["at"])),
            "export": lambda: self.tasks.later(lambda: self.tasks.export(str(content["what"]))),
            "upload": lambda: self.picture_source.take_files(content["names"], [bytes(each) for each in buffers]),
            "folder": lambda: self.picture_source.take_folder(str(content["path"])),
            "select": lambda: self.select([int(number) for number in content["numbers"]]),
            "restore": lambda: self.restore(dict(content["settings"])),
            "map": lambda: self.tasks.show_map(bool(content["on"])),
            "paste": lambda: self.apply(**parse(str(content["text"]), self.dataset)),
            "link": lambda: self.stage.send({"kind": "link", **self.link()}),
        }
        if not self.worker.closed and content.get("do") in actions:
            self.guard(actions[content["do"]])

    # --- pins ----------------------------------------------------------------------------------------------------------------

    def pin(self) -> None:
        """Pin the view of the present settings: keep it on the page for comparison.

        Only the newest `MOST_PINS` (12) pins are kept.
        """
        view = self.present()
        if view is not None:
            self.pinned = [*self.pinned, view][-MOST_PINS:]
            self._show_pins()

    def unpin(self, at: int) -> None:
        self.pinned = [view for number, view in enumerate(self.pinned) if number != at]
        self._show_pins()

    def show_again(self, at: int) -> None:
        settings = self.pinned[at].settings
        source = self.picture_source.sources.get(settings.source)
        if source is None or settings.index >= len(source.split):
            self.report(f"the picture {settings.index} of {settings.source!r} is no longer there", bad=True)
            return
        names = ("strength", "rate", "codec", "quality", "pair", "variant", "source")
        self.apply(**{name: getattr(settings, name) for name in names}, pictures=list(settings.pictures))

    def _show_pins(self) -> None:
        self.stage.pins = [
            {
                "text": exports.settings_text(view),
                "system": exports.system_text(view.settings),
                "figures": f"SSIM {view.ssim:.3f}, S2 {view.s2_bytes:,} bytes",
                "answer": f"{view.target[0][0]}, {100 * view.target[0][1]:.0f} %; is {view.label}" if view.target else "",
                "height": int(view.original.shape[-2]),
                "width": int(view.original.shape[-1]),
                "images": [exports.pixels(getattr(view, name)).tobytes() for name in exports.SHOWN],
            }
            for view in self.pinned
        ]
