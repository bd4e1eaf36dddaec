"""Interactive widgets for Jupyter, called views.

Importing this package loads neither the views nor torch, so that a view's controls appear before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .deploy import DeployPanel
    from .explore import Explorer
    from .pairs import PairGrid
    from .trainer import Trainer

__all__ = ["DeployPanel", "Explorer", "PairGrid", "Trainer"]

_ROOMS = {"DeployPanel": "deploy", "Explorer": "explore", "PairGrid": "pairs", "Trainer": "trainer"}


def __getattr__(name: str) -> Any:
    """Import the view's class `name` on first use, and return the class. Raises AttributeError for any other name."""
    from importlib import import_module

    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
