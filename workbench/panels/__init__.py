"""Interactive widgets for Jupyter, called views.

Importing this package loads neither the modules of the views nor torch. So a view can show its controls before torch is loaded.
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
    """Import the class of a view on first use, and return it. Raises AttributeError if `name` is not in `__all__`."""
    from importlib import import_module

    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
