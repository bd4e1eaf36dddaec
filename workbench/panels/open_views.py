"""A registry of open views. A new view closes the open view of the same name, for example when a cell runs again."""

from __future__ import annotations

from typing import Any

__all__ = ["replace_view"]

_OPEN: dict[tuple[str, str], Any] = {}


def replace_view(kind: str, name: str, view: Any) -> None:
    """Register `view` under `kind` and `name`, and close the view that was registered there before, if there is one.

    `kind` is the kind of the view, "explore" or "train".
    """
    if (before := _OPEN.get((kind, name))) is not None:
        before.close()
    _OPEN[kind, name] = view
