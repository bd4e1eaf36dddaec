"""Exports of the view `explore`: a figure, PNG files of the pictures, or the settings with a command to reproduce the view.

A view in this module is a `methods.View`, the result for one picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..storage import replacing, write_json
from .settings import Settings

__all__ = ["KINDS", "PAGE", "TYPES", "export", "pixels", "png", "settings_text", "system_text", "write_pictures"]

PAGE = "page (HTML)"
KINDS = ("figure (PNG)", "figure (SVG)", "pictures (PNG)", "settings (JSON)", PAGE)
SHOWN = ("original", "protected", "cloud")
TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".json": "application/json", ".html": "text/html"}


def pixels(images: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Convert images in [0, 1], ... x 3 x H x W, to uint8 pixels, ... x H x W x 3."""
    from ..pictures import to_uint8

    out: np.ndarray[Any, np.dtype[np.uint8]] = to_uint8(images.detach().cpu()).movedim(-3, -1).contiguous().numpy()
    return out


def png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Encode uint8 pixels (H x W x 3) as a PNG file of the same size."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def system_text(settings: Settings) -> str:
    """Return the name of the selected networks: the pair's name, followed by `@variant` if a variant is selected."""
    return f"{settings.pair}@{settings.variant}" if settings.variant else settings.pair


def settings_text(view: Any) -> str:
    """Return a line of text with the view's collection, picture number, strength and codec."""
    settings = view.settings
    return f"{settings.source}, {settings.index}: strength {settings.strength:g}, {view.codec}"


def export(
    kind: str, views: Sequence[Any], folder: Path, parameters: dict[str, Any], origin: dict[str, Any], gain: float
) -> list[Path]:
    """Write views to `folder` in the format `kind`, and return the paths of the files.

    `kind` is one of `KINDS` except `PAGE`. `views` are `methods.View` objects. A figure shows all views. Any other kind
    contains the last view only. `parameters` are the parameters with which the notebook `explore` reproduces the last view.
    `origin` names data, weights and versions. `gain` amplifies the residual, the difference between the protected and the
    original picture.
    """
    stem, last = folder / "explore", views[-1]
    if kind.startswith("figure"):
        return [_figure(views, stem.with_suffix(".svg" if "SVG" in kind else ".png"), origin, gain)]
    if kind.startswith("pictures"):
        return write_pictures(last, folder / "explore-pictures", gain)
    path = folder / "explore-settings.json"
    figures = {
        key: getattr(last, key)
        for key in ("label", "target", "auxiliary", "ssim", "s1_bytes", "s2_bytes", "code_bits", "milliseconds")
    }
    command = Settings.command(parameters)
    write_json(path, {"parameters": parameters, "command": command, "figures": {**figures, "n": 1}, **origin})
    return [path]


def write_pictures(view: Any, folder: Path, gain: float, only: str = "") -> list[Path]:
    """Write the pictures of a `methods.View` to `folder` as PNG files of the same size. Return the paths.

    The files are named original, protected, cloud (the decoded picture), residual (amplified by `gain`) and attacker (a
    reconstruction, if there is one). `only` is the name of a single picture to write. If it is empty, all pictures are written.
    """
    from ..pictures import residual

    shown = {name: getattr(view, name) for name in SHOWN} | {"residual": residual(view.original, view.protected, gain)}
    if view.guess is not None:
        shown["attacker"] = view.guess
    paths = []
    for name, image in shown.items():
        if only not in ("", name):
            continue
        paths.append(folder / f"{name}.png")
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(png(pixels(image)))
    return paths


def _figure(views: Sequence[Any], path: Path, origin: dict[str, Any], gain: float) -> Path:
    from .. import plots

    figure = plots.comparison(views, gain, f"{origin['dataset']}; weights {origin['weights']['generator'][:8]}")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=200)
    return path
