"""Save a view of `explore` as one HTML file that works without a kernel.

The view's widget is called the stage. The file contains the widget's JavaScript module, style and state.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..storage import write_text
from .explore_stage import HERE, Stage

__all__ = ["encoded", "state_of", "write"]


def state_of(stage: Stage) -> dict[str, Any]:
    """Return the traits that the widget `stage` shares with its page, as {name: JSON value}."""
    names = [name for name in stage.keys if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")]
    return {name: encoded(getattr(stage, name)) for name in names}


def write(stage: Stage, ahead: Sequence[dict[str, Any]], path: Path, title: str) -> Path:
    """Write the view of `stage` to `path` as an HTML file, and return `path`.

    `ahead` are the cloud's results at other settings, each in the format of `pack_seen`. `title` is the page's title. Raises
    StorageError if the file cannot be written.
    """
    traits = state_of(stage)
    traits["options"] |= {"saved": True}
    traits["message"] = {}
    state = json.dumps({"traits": traits, "ahead": encoded(ahead)}, separators=(",", ":"))
    parts = {
        "title": html.escape(title),
        "style": (HERE / "explore.css").read_text("utf-8"),
        "state": state.replace("<", "\\u003c"),  # "</script>" in the state must not end its element
        "module": (HERE / "explore.js").read_text("utf-8"),
    }
    page = (HERE / "saved_page.html").read_text("utf-8")
    write_text(path, re.sub("@(title|style|state|module)@", lambda mark: parts[mark[1]], page))
    return path


def encoded(value: Any) -> Any:
    """Convert a trait's value to JSON types. Bytes become `{"base64": text}`."""
    if isinstance(value, bytes | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: encoded(each) for key, each in value.items()}
    return [encoded(each) for each in value] if isinstance(value, list | tuple) else value
