"""Interactive views for Jupyter. Views and torch are imported on first use, so that controls appear before torch is loaded."""

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
    """Import a view on first use."""
    from importlib import import_module

    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
