"""The controls and places of `explore`: which widgets there are, how they are laid out, how a view gets into them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets

from . import markup, messages, pins
from .settings import PLACES

__all__ = ["Controls"]

SIDE = 192  # of a picture on the screen at the zoom `fit`, about; smaller ones fit by explore.css
ZOOMS = {"fit": 0, "1×": 1, "2×": 2, "3×": 3, "4×": 4, "6×": 6, "8×": 8, "12×": 12, "16×": 16}
NAMED = ["source", "show", "index", "random", "upload", "folder", "strength", "codec", "quality", "pair", "variant"]
NAMED += ["view", "gain", "zoom", "divider", "toggle", "attack", "pin", "export", "message", "curves"]


def _described(kind: Any, width: str, label: str, *args: Any, **options: Any) -> Any:
    style = {"description_width": label}
    return kind(*args, style=style, layout=widgets.Layout(width=width), **options)


class Controls:
    """All widgets by name, and `widget`, which holds them. They are disabled until `enable`."""

    def __init__(self, pair: str, variant: str, strength: float, codec: str, quality: int) -> None:
        self.wanted_variant, self._program = variant, threading.local()
        self._make_choosers(pair, strength, codec, quality)
        self._make_views()
        self._make_places()
        self._name()
        row, part = self._row, self._part
        self.widget = widgets.VBox(
            [
                widgets.HTML(markup.STYLE + markup.PAGE),
                row(self.source, self.show, self.index, self.random),
                row(self.upload, self.drop, self.folder),
                part(self.strength, self.codec, self.quality, self.pair, self.variant),
                self.message,
                row(self.toggle, self.divider, self.zoom, self.gain),
                self.view,
                part(self.attack, self.pin, self.kind, self.export),
                self.pinned,
                self.curves_said,
                self.curves,
            ]
        )
        self.widget.add_class("pmc2-explore")
        messages.beside_cells(self.widget)
        messages.not_busy_for([self.index, self.strength, self.quality, self.divider])  # `gain` draws before it returns
        self._shown_size = (32, 32, 0)
        self.divide()

    # --- made once -----------------------------------------------------------------------------------------------------------

    def _make_choosers(self, pair: str, strength: float, codec: str, quality: int) -> None:
        wide, narrow = "290px", "180px"
        self.source = _described(widgets.Dropdown, wide, "64px", options=["…"], description="pictures")
        self.show = _described(widgets.Dropdown, "240px", "44px", options=["all"], description="show")
        self.index = _described(messages.IntSlider, "300px", "60px", 0, 0, 1, description="number")
        self.random = widgets.Button(description="random", tooltip="a picture at random", layout=widgets.Layout(width="92px"))
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=True, description="upload", layout=widgets.Layout(width="130px")
        )
        self.upload.tooltip = "choose pictures of your own"
        self.drop = widgets.HTML(markup.DROP)
        self.folder = _described(
            widgets.Text,
            "420px",
            "64px",
            description="or folder",
            placeholder="path of a folder, then Enter",
            continuous_update=False,
        )
        self.strength = _described(
            messages.FloatSlider, "520px", "64px", strength, min=0.0, max=1.0, step=1 / (PLACES - 1), description="strength"
        )
        self.codec = _described(widgets.Dropdown, narrow, "48px", options=list(markup.CODECS), value=codec, description="codec")
        self.quality = _described(
            widgets.IntSlider, "250px", "52px", quality, 1, 95, description="quality", disabled=codec not in markup.GRADED
        )
        self.pair = _described(widgets.Dropdown, wide, "64px", options=[pair], description="pair")
        self.variant = _described(widgets.Dropdown, "460px", "68px", options=[("…", "")], description="generator")

    def _make_views(self) -> None:
        self.toggle = widgets.ToggleButton(
            description="A/B: originals",
            tooltip="show the original in place of each picture",
            layout=widgets.Layout(width="140px"),
        )
        self.divider = _described(
            widgets.FloatSlider,
            "330px",
            "106px",
            0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            description="original left of",
            readout_format=".0%",
        )
        self.zoom = _described(widgets.Dropdown, "150px", "48px", options=ZOOMS, description="zoom")
        self.gain = _described(
            widgets.FloatSlider,
            "300px",
            "110px",
            1.0,
            min=1.0,
            max=16.0,
            step=0.5,
            description="residual times",
            readout_format=".1f",
        )
        self.attack = widgets.Button(
            description="train an attacker",
            tooltip="let an inversion network learn from what the cloud sees",
            layout=widgets.Layout(width="150px"),
        )
        self.pin = widgets.Button(
            description="pin", tooltip="keep this view beside others", layout=widgets.Layout(width="80px")
        )
        self.kind = _described(widgets.Dropdown, "230px", "52px", options=pins.KINDS, description="export")
        self.export = widgets.Button(
            description="write", tooltip="write the export to a file", layout=widgets.Layout(width="80px")
        )

    def _make_places(self) -> None:
        self.message = widgets.HTML(markup.message(""), layout=widgets.Layout(min_height="24px"))
        self.view = widgets.HTML(markup.cards({}, {}), layout=widgets.Layout(min_height="480px"))
        self.divided = widgets.HTML()
        self.pinned = widgets.HBox([], layout=widgets.Layout(flex_flow="row wrap", grid_gap="12px", overflow="visible"))
        self.curves_said = widgets.HTML(layout=widgets.Layout(min_height="24px"))
        self.curve, self.marker = widgets.Image(format="png"), widgets.HTML()
        self.curves = widgets.Box(
            [self.curve, self.marker, self.divided], layout=widgets.Layout(max_width="1100px", display="none")
        )

    def _name(self) -> None:
        """Give each its class."""
        for name in NAMED:
            getattr(self, name).add_class(f"pmc2-{name}")
        self.kind.add_class("pmc2-export-kind")
        self.show.add_class("pmc2-class")
        self.pinned.add_class("pmc2-pins")

    @staticmethod
    def _row(*controls: widgets.Widget) -> widgets.Widget:
        box = widgets.HBox(list(controls), layout=widgets.Layout(flex_flow="row wrap"))
        box.add_class("pmc2-row")
        return box

    def _part(self, *controls: widgets.Widget) -> widgets.Widget:
        box = self._row(*controls)
        box.add_class("pmc2-part")
        return box

    # --- who sets a control --------------------------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Whether it is the program, and not a hand, that sets a control in this thread: then it asks for nothing."""
        return getattr(self._program, "depth", 0) > 0

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Let the program set controls in this thread."""
        self._program.depth = getattr(self._program, "depth", 0) + 1
        try:
            yield
        finally:
            self._program.depth -= 1

    # --- what can be chosen --------------------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Let what needs the networks be pressed."""
        self.say_curves("")

    def offer(self, sources: list[str], chosen: str) -> None:
        """Offer collections of pictures."""
        self.source.options = sources
        self.source.value = chosen

    def choose_from(self, choices: list[str], count: int) -> None:
        """Offer what the number may run over, beginning with all."""
        self.show.options = choices
        self.show.value = choices[0]
        self.run_over(count)

    def run_over(self, count: int) -> None:
        """Let the number run over so many pictures, from the first."""
        self.index.value = 0
        self.index.max = max(0, count - 1)

    def offer_pairs(self, pairs: list[str], chosen: str) -> None:
        """Offer pairs of target and auxiliary."""
        self.pair.options = pairs if chosen in pairs else [chosen, *pairs]
        self.pair.value = chosen

    def offer_variants(self, variants: dict[str, str]) -> None:
        """Offer a pair's generators: what is shown, and the variant's name."""
        self.variant.options = list(variants.items()) or [("…", "")]
        self.variant.value = next(iter(variants.values()), "")

    def choose_variant(self, variant: str) -> None:
        """Choose a generator by name; one that is not there is offered all the same, and its absence said when it is loaded."""
        if variant not in [value for _, value in self.variant.options]:
            self.variant.options = [*self.variant.options, (variant, variant)]
        self.variant.value = variant

    def offer_codecs(self, codecs: Sequence[str], chosen: str) -> None:
        """Offer codecs."""
        if tuple(self.codec.options) != tuple(codecs):
            self.codec.options = list(codecs)
        if self.codec.value != chosen:
            self.codec.value = chosen
        self.quality.disabled = chosen not in markup.GRADED

    # --- what is shown -------------------------------------------------------------------------------------------------------

    def bring(self, files: dict[str, bytes], size: tuple[int, int], said: dict[str, str] | None = None, more: str = "") -> None:
        """Show pictures (PNG) of a size (H, W) by card, each pixel a square, what is said of them, and what is beneath."""
        height, width = size
        if (shown := (width, height, self.zoom.value)) != self._shown_size:
            self._shown_size = shown
            self.divide()
        self.view.value = markup.cards(files, said or {}) + more

    def divide(self) -> None:
        """Show pictures at their zoom, and left of the divider the original in each that has it beneath."""
        share = 100 * self.divider.value
        place = f"position: absolute; top: 0; bottom: 0; left: {share:g}%"
        drawn = f"content: ''; {place}; border-left: 1px solid #fff; mix-blend-mode: difference"
        line = f" .pmc2-explore .pmc2-both::after {{ {drawn} }}"
        width, height, zoom = self._shown_size
        factor = zoom or (max(1, SIDE // max(width, height)) if max(width, height) > 32 else "var(--fit)")
        size = f".pmc2-explore .pmc2-view {{ --w: {width}; --h: {height}; --zoom: {factor} }} "
        clipped = f".pmc2-explore .pmc2-over {{ clip-path: inset(0 0 0 {share:g}%) }}"
        self.divided.value = f"<style>{size}{clipped}{line if 0 < share < 100 else ''}</style>"

    def tell(self) -> None:
        """Let all pages of the notebook show what was moved in one."""
        self.index.tell()
        self.strength.tell()

    def hang(self, pinned: list[widgets.Widget]) -> None:
        """Show pins."""
        self.pinned.children = pinned
        messages.beside_cells(self.pinned)

    def say_curves(self, text: str) -> None:
        """Say what becomes of the curves."""
        self.curves_said.value = markup.message(text)

    def show_curves(self, image: bytes, marker: str) -> None:
        """Show the curves, and over them a line at the strength that the figures say."""
        self.say_curves("")
        self.curve.value, self.marker.value = image, marker
        self.curves.layout.display = "block"

    def hide_curves(self) -> None:
        """Show no curves: those that belong to what is shown are not known."""
        self.curves.layout.display = "none"
