"""The widget of `explore`, called the stage, and the binary format of the data that the stage sends to the page.

The stage is an anywidget. The page is the stage's display in the browser, written in JavaScript. In the diagram, x is a picture
that the edge has received. G(x) is the same picture protected at full strength. The number a is the strength, in [0, 1].

::

    page                                              kernel
    settings (strength, rate, codec, ...)  <------->  traits of the stage
    blend x + a (G(x) - x), on canvases    <--------  `frames`: received x, protected G(x), sent once
    decoded pictures, classes, bytes       <--------  `seen` (present settings), custom messages (prefetched)
    buttons, files, pasted settings        -------->  custom messages

The page sends custom messages at once, but ipywidgets holds changed traits back while the kernel handles earlier changes. A
message can then arrive before settings that were changed earlier. So the page numbers its messages. It sets the trait
`sequence` to the newest number, and sends this trait with the settings. The kernel acts on a message once `sequence` has
reached the message's number, and then sets `handled` to the number. Until then the page sends the restored settings of an undo
again with each further change.

Pixels are sent as binary buffers, uint8, N x H x W x 3. This module does not import torch, so that the controls appear before
torch is loaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from ..errors import UsageError, unknown
from .exports import pixels
from .settings import Settings, check

if TYPE_CHECKING:
    from torch import Tensor

    from .methods import Captured, Seen

__all__ = ["HERE", "LAYERS", "SETTINGS", "Stage", "pack_frames", "pack_seen", "projections"]

HERE = Path(__file__).parent
LAYERS = ("protected", "cloud", "residual", "original", "attacker")
SETTINGS = ("strength", "rate", "codec", "quality", "pair", "variant", "source", "show", "sort", "number", "sheet", "selection")
UMAP = "umap"  # the module of the package umap-learn
TOP = 5  # classes shown for a single picture; with several pictures on the screen, each has one class


class Stage(anywidget.AnyWidget):
    """The widget. Its traits are the settings, and the data that the page draws.

    A strength, rate, quality or sheet out of range raises UsageError. The sheet is the number of pictures on the screen. A gain
    out of range does not raise an error, but is clamped to the range 1 to 16.
    """

    _esm = HERE / "explore.js"
    _css = HERE / "explore.css"

    strength = traitlets.Float(1.0).tag(sync=True)
    rate = traitlets.Float(0.0).tag(sync=True)
    codec = traitlets.Unicode("neural").tag(sync=True)
    quality = traitlets.Int(89).tag(sync=True)
    pair = traitlets.Unicode().tag(sync=True)
    variant = traitlets.Unicode().tag(sync=True)
    source = traitlets.Unicode().tag(sync=True)
    show = traitlets.Unicode("all").tag(sync=True)  # filter of the source's pictures
    sort = traitlets.Unicode("number").tag(sync=True)
    number = traitlets.Int(0).tag(sync=True)  # position of the first picture in the filtered order
    sheet = traitlets.Int(1).tag(sync=True)  # number of pictures on the screen
    selection = traitlets.List(traitlets.Int()).tag(sync=True)
    layer = traitlets.Enum(LAYERS, "protected").tag(sync=True)  # image shown for each picture of a sheet
    gain = traitlets.Float(1.0).tag(sync=True)  # amplification of the residual
    projection = traitlets.Unicode("PCA").tag(sync=True)  # projection of the map
    sequence = traitlets.Int(0).tag(sync=True)  # number of the page's last message
    handled = traitlets.Int(0).tag(sync=True)  # number of the last message on which the kernel has acted

    view = traitlets.Any()  # the displayed `View`, for observers in the kernel
    pictures: traitlets.List[int] = traitlets.List()

    options = traitlets.Dict().tag(sync=True)
    frames = traitlets.Dict().tag(sync=True)
    seen = traitlets.Dict().tag(sync=True)
    message = traitlets.Dict().tag(sync=True)
    curves = traitlets.Dict().tag(sync=True)
    points = traitlets.Dict().tag(sync=True)
    pins: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)

    @traitlets.validate("strength", "rate", "quality", "sheet", "gain")
    def _in_range(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "gain":
            return min(max(value, 1.0), 16.0)
        check(**{name: value})
        return value

    @traitlets.validate("projection")
    def _is_available(self, proposal: Any) -> Any:
        name = proposal["value"]
        if name == "UMAP" and name not in projections():
            raise UsageError("the projection 'UMAP' needs umap-learn: pip install umap-learn, or choose 'PCA'")
        if name not in projections():
            raise unknown("projection", name, projections())
        return name


def projections() -> list[str]:
    return ["PCA", *(["UMAP"] if find_spec(UMAP) else [])]


def pack_frames(number: int, captured: Captured, settings: Settings, labels: list[int], names: list[str]) -> dict[str, Any]:
    """Return the value of the trait `frames`: the pixels of the original, the received and the fully protected pictures.

    `number` is the id of these frames. The cloud's results for the same pictures contain this id. `captured` is the edge's
    result. `settings` contain the pictures' numbers in the collection. `labels` are class indices (-1: unknown). `names` are
    file names, or empty.
    """
    original = captured.on_original
    return {
        "id": number,
        "numbers": list(settings.pictures),
        "labels": labels,
        "names": names,
        "height": int(captured.original.shape[-2]),
        "width": int(captured.original.shape[-1]),
        "original": pixels(captured.original).tobytes(),
        "received": pixels(captured.received).tobytes(),
        "full": pixels(captured.full).tobytes(),
        "s1": captured.s1,
        "on_original": [] if original is None else _top(original, 1),
    }


def pack_seen(number: int, settings: Settings, seen: Seen, spent: dict[str, float], note: str) -> dict[str, Any]:
    """Return the value of the trait `seen`: the cloud's result for the pictures on the page.

    `number` is the id of these pictures' `frames`. `spent` maps the name of each step to its time in milliseconds. `note`
    describes how the attacker was trained. The returned dict has two entries. `meta` has classes and measurements. `blob` has
    the pixels of the distinct decoded pictures, followed by the pixels of an attacker's reconstructions, if there are any.
    """
    count = TOP if len(seen.which) == 1 else 1
    blob = pixels(seen.cloud).tobytes() + (b"" if seen.guess is None else pixels(seen.guess).tobytes())
    meta = {
        "id": number,
        "strength": settings.strength,
        "rate": settings.rate,
        "codec": settings.codec,
        "quality": settings.graded,
        "name": seen.codec,
        "distinct": len(seen.cloud),
        "which": seen.which.tolist(),
        "target": [] if seen.target is None else _top(seen.target, count),
        "auxiliary": [] if seen.auxiliary is None else _top(seen.auxiliary, count),
        "ssim": [round(value, 4) for value in seen.ssim.tolist()],
        "bits": [round(value, 2) for value in seen.bits],
        "payload": seen.payload,
        "psnr": None if seen.psnr is None else [round(value, 2) for value in seen.psnr.tolist()],
        "note": note,
        "spent": spent,
    }
    return {"meta": meta, "blob": blob}


def _top(shares: Tensor, count: int) -> list[list[list[float]]]:
    values, order = shares.topk(min(count, shares.shape[1]), dim=1)
    return [
        [[int(k), round(float(v), 4)] for v, k in zip(*row, strict=True)]
        for row in zip(values.tolist(), order.tolist(), strict=True)
    ]
