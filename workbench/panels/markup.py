"""The style and the status line of the views in the modules `trainer` and `pairs`, which use plain ipywidgets."""

from __future__ import annotations

import html
from html import escape
from pathlib import Path

from ..terminal import printable

__all__ = ["STYLE", "escape", "message"]

STYLE = f"<style>{Path(__file__).with_name('panels.css').read_text('utf-8')}</style>"


def message(text: str, bad: bool = False) -> str:
    """Return a status line as HTML. Screen readers announce its `text`. `bad` marks an error."""
    kind = "pmc2-text bad" if bad else "pmc2-text soft"
    return f'<div class="{kind}" role="status" aria-live="polite">{html.escape(printable(text))}</div>'
