"""A registry of open views by name. A new view closes the earlier one of its name, for example when a cell runs again."""

from __future__ import annotations

from typing import Any

__all__ = ["replace_view"]

_OPEN: dict[tuple[str, str], Any] = {}


def replace_view(kind: str, name: str, view: Any) -> None:
    """Close the open view of this kind and name, if any, and register `view` in its place."""
    if (before := _OPEN.get((kind, name))) is not None:
        before.close()
    _OPEN[kind, name] = view
