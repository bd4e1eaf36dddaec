"""What `explore` writes in HTML: its style, captions, bars and figures, legible in both themes and to a screen reader."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..terminal import printable

__all__ = [
    "CARDS",
    "CODECS",
    "COMPONENTS",
    "DROP",
    "GRADED",
    "PAGE",
    "STYLE",
    "captions",
    "cards",
    "curves_marker",
    "escape",
    "message",
    "readout",
]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6E6E6E"  # the figures' own
CODECS = ("neural", "compressai", "png", "jpeg", "webp")
GRADED = ("jpeg", "webp")  # that have a quality
# By card: its heading, and what is said of it where nothing is shown yet.
CARDS = {
    "original": "original",
    "protected": "protected",
    "cloud": "at the cloud",
    "residual": "residual",
    "attacker": "an attacker's guess",
}
OVER = ("protected", "cloud", "attacker")  # cards with the original beneath
COMPONENTS = {
    "client_compression": "phone: JPEG",
    "generator": "edge: generator",
    "compression": "edge: codec",
    "decompression": "cloud: codec",
    "classifier": "cloud: classifier",
}


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _handler(name: str) -> str:
    """Return a script as the value of an attribute."""
    return html.escape(_asset(name), quote=True)


STYLE = f"<style>{_asset('explore.css')}</style>"
PAGE = f'<img hidden alt="" src="data:," onerror="{_handler("page.js")}">'
_OVER = "event.preventDefault(); event.stopPropagation(); this.classList.add('over')"
DROP = (
    f'<div class="pmc2-drop" ondragover="{_OVER}" ondragleave="this.classList.remove(\'over\')" '
    f'ondrop="{_handler("drop.js")}">or drop pictures here</div>'
)


def captions(seen: Any, gain: float, guessed: str) -> dict[str, str]:
    """Return by card two lines of what there is to see."""
    return {
        "original": f"what a person sees:<br>{escape(seen.label)}",
        "protected": f"before coding<br>SSIM {seen.ssim:.3f}",
        "cloud": f"{escape(seen.codec)}<br>{seen.s2_bytes:,} bytes",
        "residual": f"protected − original<br>times {gain:g}, grey is equal",
        "attacker": guessed,
    }


def cards(pictures: dict[str, bytes], said: dict[str, str]) -> str:
    """Return the cards: each with its picture (a PNG; none where there is nothing to see), two lines and, some, the original.

    All in one text: a widget for each would be a message for each, and those cost more than what is in them.
    """
    urls = {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in pictures.items()}
    figures = [_card(name, urls.get(name, ""), said.get(name, "…"), name in OVER) for name in CARDS]
    return f'<div class="pmc2-shelf" style="--original: url({urls.get("original", "")})">{"".join(figures)}</div>'


def _card(name: str, url: str, text: str, over: bool) -> str:
    both, kind = (" pmc2-both", ' class="pmc2-over"') if over and url else ("", "")
    picture = f'<img{kind} alt="{CARDS[name]}" src="{url}">' if url else ""
    caption = f'<b>{CARDS[name]}</b><br><span class="soft">{text}</span>'
    return (
        f'<figure class="pmc2-card pmc2-{name}"><div class="pmc2-stack{both}">{picture}</div>'
        f'<figcaption class="pmc2-caption pmc2-text">{caption}</figcaption></figure>'
    )


def message(text: str, bad: bool = False, more: str = "") -> str:
    """Return the line that says what is going on; `more` is markup. A screen reader reads it out."""
    kind = "pmc2-text bad" if bad else "pmc2-text soft"
    return f'<div class="{kind}" role="status" aria-live="polite">{html.escape(printable(text))}{more}</div>'


def readout(view: Any, spent: dict[str, float], serial: int) -> str:
    """Return the figures of a view, both models' top classes and each stage's milliseconds."""
    settings, bits = view.settings, 8 * view.s2_bytes
    top, chance = view.target[0]
    name, on_original = view.on_original[0]
    known = view.label != "unknown"
    figures = [
        ("SSIM, original and protected", f"{view.ssim:.3f}", "1 is the same picture"),
        ("S1, phone to edge", f"{view.s1_bytes:,} bytes", "JPEG, quality 90, 4:4:4"),
        (
            "S2, edge to cloud",
            f"{view.s2_bytes:,} bytes",
            f"{bits:,} bits: {view.code_bits:,.1f} of code, {bits - view.code_bits:,.1f} of coder",
        ),
        ("target, original", f"{name}, {100 * on_original:.0f} %", _verdict(name, view.label) if known else "class unknown"),
        ("target, at the cloud", f"{top}, {100 * chance:.0f} %", _verdict(top, view.label) if known else "class unknown"),
    ]
    cells = "".join(
        f'<div><span class="of">{escape(key)}</span><span class="is">{escape(value)}</span><small>{escape(note)}</small></div>'
        for key, value, note in figures
    )
    target, _, auxiliary = settings.pair.partition("-X-")
    columns = [
        _bars(f"Target {target}, at the cloud", view.target, view.label, BLUE, "pmc2-bars-target"),
        _bars(f"Auxiliary {auxiliary}, at the cloud", view.auxiliary, view.label, ORANGE, "pmc2-bars-auxiliary"),
        _stages(spent),
    ]
    return (
        f'<div class="pmc2-text pmc2-numbers" data-strength="{settings.strength:g}" data-view="{serial}" '
        f'data-index="{settings.index}">'
        f'<div class="pmc2-figures">{cells}</div><div class="pmc2-columns">{"".join(columns)}</div></div>'
    )


def _verdict(name: str, label: str) -> str:
    return "right" if name == label else f"wrong: it is {label}"


def _bars(title: str, top: Sequence[tuple[str, float]], label: str, colour: str, name: str) -> str:
    rows = [
        f'<div class="bar{" right" if each == label else ""}"><span>{html.escape(each)}{" ✓" if each == label else ""}</span>'
        f"{_track(share, colour)}"
        f"<span>{100 * share:.1f} %</span></div>"
        for each, share in top
    ]
    return f'<div class="{name}"><h4>{html.escape(title)}</h4>{"".join(rows)}</div>'


def _track(share: float, colour: str) -> str:
    """Return a bar, of which a share is filled."""
    return f'<span class="track"><span class="fill" style="width:{100 * share:.1f}%;background:{colour}"></span></span>'


def _stages(spent: dict[str, float]) -> str:
    whole = sum(spent.values())
    rows = [
        f'<div class="bar"><span>{html.escape(COMPONENTS[key])}</span>'
        f"{_track(value / max(whole, 1e-9), GREY)}<span>{value:.2f}</span></div>"
        for key, value in spent.items()
    ]
    return f'<div class="pmc2-stages"><h4>Milliseconds (median): {whole:.2f} in all</h4>{"".join(rows)}</div>'


def curves_marker(boxes: Sequence[tuple[float, float, float, float]]) -> str:
    """Return a line over each panel of a figure, at the strength; `boxes` are left, top, width, height as shares of it."""
    lines = [
        f'<i style="left:{100 * left:.2f}%;top:{100 * top:.2f}%;width:{100 * width:.2f}%;height:{100 * height:.2f}%"></i>'
        for left, top, width, height in boxes
    ]
    return f'<div aria-hidden="true" style="position:absolute;inset:0">{"".join(lines)}</div>'
