"""Interactive views for JupyterLab, in plain ipywidgets. What they need of torch comes when they need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .deploy import DeployPanel
    from .explore import Explorer
    from .pairs import PairGrid
    from .train import Trainer

__all__ = ["DeployPanel", "Explorer", "PairGrid", "Trainer"]

_ROOMS = {"DeployPanel": "deploy", "Explorer": "explore", "PairGrid": "pairs", "Trainer": "train"}


def __getattr__(name: str) -> Any:
    """Import a view when it is first asked for: a page has its controls before the networks' libraries are there."""
    from importlib import import_module

    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
