"""The view of `explore`, in plain ipywidgets: what a person sees, what the cloud sees, what it recognises, what it costs."""

from __future__ import annotations

import html
import io
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from .. import metrics, plots
from ..codecs import Codec
from ..data import Split
from ..errors import WorkbenchError
from ..evaluation import describe
from ..inference import prepare_pair
from ..models import Classifier
from ..pictures import load_pictures, to_float, to_uint8
from ..system import NEURAL, Cloud, Edge, codec_for
from ..weights import Pair

__all__ = ["Explorer", "View"]

SIDE = 208  # of a picture on the screen, in pixels
TOP = 5
UPLOADS = "my own pictures"
STYLE = """<style>
.pmc2 { font-family: var(--jp-ui-font-family, sans-serif); font-size: 13px; color: var(--jp-ui-font-color1, inherit);
line-height: 1.35 } .pmc2 b { font-weight: 600 } .pmc2 .soft { opacity: .72 } .pmc2-picture img { image-rendering: pixelated;
border-radius: 4px } .pmc2 .bar { display: grid; grid-template-columns: 96px 1fr 52px; align-items: center; gap: 8px; height:
20px } .pmc2 .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right }
.pmc2 .track { background: rgba(128, 128, 128, .18); border-radius: 3px; height: 12px }
.pmc2 .fill { height: 12px; border-radius: 3px } .pmc2 .value { font-variant-numeric: tabular-nums; text-align: right }
.pmc2 .right { font-weight: 600 } .pmc2 .bad { color: var(--jp-error-color1, #b3261e) }
.pmc2.numbers { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px 18px } .pmc2.numbers > div { min-height: 38px }
.pmc2 .figure { font-size: 17px; font-variant-numeric: tabular-nums }
</style>"""


@dataclass(frozen=True)
class Settings:
    """What the controls say."""

    source: str
    index: int
    strength: float
    codec: str
    quality: int


@dataclass(frozen=True)
class View:
    """All that is shown for one picture: images 3 x H x W in [0, 1], top classes as (name, probability), figures."""

    settings: Settings
    original: Tensor
    protected: Tensor
    reconstructed: Tensor
    label: str
    target: list[tuple[str, float]]
    auxiliary: list[tuple[str, float]]
    original_target: list[tuple[str, float]]
    ssim: float
    s2_bytes: int
    codec: str


class Explorer:
    """A picture through the system, live: strength, codec and quality by hand.

    `sources` maps the name of a collection to its images and labels (-1: unknown). Display `explorer.widget`. Pictures follow
    the slider while it moves: a worker thread always takes the newest settings, so nothing queues. `curves` are rows of
    `Evaluation.curve` over strength, drawn with the current point on them.
    """

    def __init__(
        self, pair: Pair, sources: dict[str, Split], classes: tuple[str, ...], curves: list[dict[str, Any]] | None = None
    ) -> None:
        self.pair = prepare_pair(pair)
        self.sources, self.classes, self.curves = dict(sources), classes, curves or []
        self._codecs: dict[tuple[str, int, tuple[int, int]], Codec] = {}
        self._cache: tuple[tuple[str, int], Tensor, Tensor] | None = None
        self._wanted: Settings | None = None
        self._wake = threading.Condition()
        self._busy = self._failed = False
        self._build()
        self._worker = threading.Thread(target=self._work, name="explorer", daemon=True)
        self._worker.start()
        self._ask()

    # --- what is computed --------------------------------------------------------------------------------------------------

    def compute(self, settings: Settings) -> View:
        """Send one picture through edge and cloud and return all that is shown for it."""
        split = self.sources[settings.source]
        original, full = self._full_strength(settings)
        protected = torch.lerp(original, full, settings.strength)
        codec = self._codec(settings, (int(original.shape[-2]), int(original.shape[-1])))
        payload = codec.encode(protected)
        reconstructed = Cloud(codec, self.pair.target).decode(payload)
        label = int(split.labels[settings.index])
        with torch.inference_mode():
            similarity = float(metrics.ssim(original, protected))
        return View(
            settings,
            original[0],
            protected[0],
            reconstructed[0],
            self.classes[label] if 0 <= label < len(self.classes) else "unknown",
            self._top(self.pair.target, reconstructed),
            self._top(self.pair.auxiliary, reconstructed),
            self._top(self.pair.target, original),
            similarity,
            len(payload),
            describe(codec),
        )

    def _codec(self, settings: Settings, size: tuple[int, int]) -> Codec:
        key = (settings.codec, settings.quality if settings.codec in ("jpeg", "webp") else 0, size)
        if key not in self._codecs:
            options = {"quality": key[1]} if key[1] else {}
            self._codecs[key] = codec_for(self.pair, settings.codec, size=size, **options)
        return self._codecs[key]

    def _full_strength(self, settings: Settings) -> tuple[Tensor, Tensor]:
        key = (settings.source, settings.index)
        if self._cache is None or self._cache[0] != key:
            original = to_float(self.sources[settings.source].images[settings.index : settings.index + 1])
            edge = Edge(self.pair.generator, codec_for(self.pair, "png"))
            self._cache = (key, original, edge.perturb(original))
        return self._cache[1], self._cache[2]

    def _top(self, classifier: Classifier, images: Tensor) -> list[tuple[str, float]]:
        with torch.inference_mode():
            scores = classifier(images).softmax(1)[0]
        values, order = scores.topk(min(TOP, len(scores)))
        return [(self.classes[int(i)], float(v)) for v, i in zip(values, order, strict=True)]

    # --- what is shown -----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        wide = {"description_width": "72px"}
        first = next(iter(self.sources))
        self.source = widgets.Dropdown(options=list(self.sources), value=first, description="pictures", style=wide)
        self.index = widgets.IntSlider(0, 0, len(self.sources[first]) - 1, description="number", style=wide)
        self.upload = widgets.FileUpload(accept="image/*", multiple=True, description="my own…")
        self.strength = widgets.FloatSlider(1.0, min=0.0, max=1.0, step=0.01, description="strength", style=wide)
        codecs = [*(NEURAL if self.pair.compressor is not None else ()), "png", "jpeg", "webp"]
        self.codec = widgets.Dropdown(options=codecs, value=codecs[0], description="codec", style=wide)
        self.quality = widgets.IntSlider(89, 1, 95, description="quality", style=wide, disabled=True)
        for control in (self.source, self.index, self.strength, self.codec, self.quality):
            control.layout = widgets.Layout(width="300px")
        self.message = widgets.HTML(layout=widgets.Layout(height="22px"))
        names = ("original", "protected", "at the cloud", "residual")
        self.pictures = {name: widgets.Image(format="png", width=SIDE, height=SIDE) for name in names}
        self.captions = {name: widgets.HTML(layout=widgets.Layout(width=f"{SIDE}px", height="40px")) for name in names}
        self.bars = {
            name: widgets.HTML(layout=widgets.Layout(width="432px", height="148px")) for name in ("target", "auxiliary")
        }
        self.numbers = widgets.HTML(layout=widgets.Layout(width="880px", height="52px"))
        self.curve = widgets.Image(format="png", width=880, height=260)
        cards = []
        for name in names:
            picture = self.pictures[name]
            picture.layout = widgets.Layout(width=f"{SIDE}px", height=f"{SIDE}px")
            picture.add_class("pmc2-picture")
            cards.append(
                widgets.VBox([self.captions[name], picture], layout=widgets.Layout(width=f"{SIDE}px", margin="0 16px 8px 0"))
            )
        gap = widgets.Layout(flex_flow="row wrap", align_items="center")
        rows: list[widgets.Widget] = [
            widgets.HTML(STYLE),
            widgets.HBox([self.source, self.index, self.upload], layout=gap),
            widgets.HBox([self.strength, self.codec, self.quality], layout=gap),
            self.message,
            widgets.HBox(cards, layout=widgets.Layout(flex_flow="row wrap")),
            self.numbers,
            widgets.HBox(list(self.bars.values()), layout=widgets.Layout(flex_flow="row wrap", grid_gap="16px")),
        ]
        if self.curves:
            self.curve.layout = widgets.Layout(width="880px", height="260px")
            rows.append(self.curve)
        self.widget = widgets.VBox(rows)
        self.source.observe(self._change_source, "value")
        self.codec.observe(self._change_codec, "value")
        self.upload.observe(self._change_upload, "value")
        for control in (self.index, self.strength, self.quality):
            control.observe(lambda _: self._ask(), "value")

    def _change_source(self, change: dict[str, Any]) -> None:
        self.index.value = 0
        self.index.max = len(self.sources[change["new"]]) - 1
        self._ask()

    def _change_codec(self, change: dict[str, Any]) -> None:
        self.quality.disabled = change["new"] not in ("jpeg", "webp")
        self._ask()

    def _change_upload(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        side = int(next(iter(self.sources.values())).images.shape[-1])
        try:
            images = load_pictures([bytes(file["content"]) for file in change["new"]], side)
        except WorkbenchError as error:
            self._say(str(error))
            return
        self._say("")
        self.sources[UPLOADS] = Split(images, torch.full((len(images),), -1))
        self._cache = None
        self.source.options = list(self.sources)
        self.source.value = UPLOADS
        self._change_source({"new": UPLOADS})  # the name may be the same and the pictures others

    def _say(self, text: str) -> None:
        self.message.value = f'<div class="pmc2 bad">{html.escape(text)}</div>' if text else ""

    def show(self, view: View) -> None:
        """Bring a view to the screen."""
        gain = 1.0
        images = {
            "original": view.original,
            "protected": view.protected,
            "at the cloud": view.reconstructed,
            "residual": plots.residual(view.original, view.protected, gain),
        }
        captions = {
            "original": f"a person sees: {view.label}",
            "protected": f"before coding, SSIM {view.ssim:.3f}",
            "at the cloud": f"{view.codec}, {view.s2_bytes} bytes",
            "residual": "protected − original",
        }
        for name, image in images.items():
            self.pictures[name].value = _png(image)
            self.captions[name].value = _caption(name, captions[name])
        self.bars["target"].value = _bars(f"target {self.pair.target.name}, at the cloud", view.target, view.label, plots.BLUE)
        self.bars["auxiliary"].value = _bars(
            f"auxiliary {self.pair.auxiliary.name}, at the cloud", view.auxiliary, view.label, plots.ORANGE
        )
        name, probability = view.original_target[0]
        figures = [
            ("SSIM, original/protected", f"{view.ssim:.3f}"),
            ("payload to the cloud (S2)", f"{view.s2_bytes} bytes"),
            ("target on the original", f"{name}, {100 * probability:.0f} %"),
            ("target at the cloud", f"{view.target[0][0]}, {100 * view.target[0][1]:.0f} %"),
        ]
        cells = "".join(
            f'<div><div class="soft">{key}</div><div class="figure">{html.escape(value)}</div></div>' for key, value in figures
        )
        self.numbers.value = f'<div class="pmc2 numbers">{cells}</div>'

    # --- the newest settings win -------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        with self._wake:
            self._wanted = Settings(
                self.source.value, self.index.value, self.strength.value, self.codec.value, self.quality.value
            )
            self._wake.notify_all()

    def wait(self, timeout: float = 30.0) -> bool:
        """Wait until what is shown is what the controls say; False where `timeout` seconds did not suffice."""
        with self._wake:
            return self._wake.wait_for(lambda: self._wanted is None and not self._busy, timeout)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._wanted is not None)
                settings, self._wanted, self._busy = self._wanted, None, True
            assert settings is not None
            self._guard(lambda settings=settings: self.show(self.compute(settings)))  # type: ignore[misc]
            with self._wake:
                newer = self._wanted is not None
            if self.curves and not newer:
                self._guard(lambda settings=settings: self._draw_curves(settings))  # type: ignore[misc]

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
            if self._failed:
                self._failed = False
                self._say("")
        except WorkbenchError as error:
            self._failed = True
            self._say(str(error))
        except Exception as error:  # a thread of its own: nobody else would see it
            self._failed = True
            self._say(f"{type(error).__name__}: {error}")
            traceback.print_exc()

    def _draw_curves(self, settings: Settings) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        codec = self.curves[0].get("codec", "")
        title = f"{self.curves[0]['target'].n} test images{', ' + codec if codec else ''}, 95 % intervals"
        figure = plots.strength_curves(self.curves, 1 / len(self.classes), title, size=(8.8, 2.6))
        for axis in figure.axes:
            axis.axvline(settings.strength, color="black", lw=1)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
        self.curve.value = buffer.getvalue()


def _png(image: Tensor) -> bytes:
    pixels = to_uint8(image.detach().cpu()).permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _caption(name: str, text: str) -> str:
    return f'<div class="pmc2"><b>{name}</b><br><span class="soft">{html.escape(text)}</span></div>'


def _bars(title: str, top: list[tuple[str, float]], label: str, colour: str) -> str:
    lines = "".join(
        f'<div class="bar"><div class="name {"right" if name == label else ""}">{html.escape(name)}</div>'
        f'<div class="track"><div class="fill" style="width:{100 * value:.1f}%;background:{colour}"></div></div>'
        f'<div class="value">{100 * value:.1f} %</div></div>'
        for name, value in top
    )
    return f'<div class="pmc2"><b>{html.escape(title)}</b>{lines}</div>'
