"""The view of `Explorer.compare`. It shows how user-defined methods protect, encode and decode pictures.

A method is a set of functions that the view uses in place of the workbench's networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import exports
from .callables import as_methods, as_source
from .live_view import LiveView
from .methods import Method
from .settings import Settings

__all__ = ["Comparison"]


class Comparison(LiveView):
    """A view that shows how user-defined methods protect, encode and decode pictures.

    `Explorer.compare` describes the parameters. In this view, the setting `pair` is the name of the selected method.
    """

    def __init__(
        self,
        methods: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]],
        images: Any,
        *,
        recognise: Callable[..., Any] | None,
        labels: Sequence[int] | None,
        classes: Sequence[str],
        name: str,
        strength: float = 1.0,
        rate: float = 0.0,
        picture: int = 0,
        sheet: int = 1,
        output: Path | None = None,
    ) -> None:
        from torch import Tensor

        self._methods = as_methods(methods, recognise, not isinstance(images, Tensor))
        self._images = as_source(images, labels)
        if picture >= len(self._images.split):
            raise UsageError(f"picture {picture} is not there: {len(self._images.split)} images were given, from 0 on")
        highest = int(self._images.split.labels.max())
        self._names = tuple(map(str, classes)) or tuple(f"class {k}" for k in range(max(1000, highest + 1)))
        first = next(iter(self._methods))
        given = {"strength": strength, "rate": rate, "sheet": sheet}
        super().__init__("images", picture=picture, output=output, name=name, pair=first, codec=first, **given)

    def _begin(self) -> None:
        self.classes = self._names
        self.picture_source.add(self.title, self._images)
        self.picture_source.go_to(self._picture)
        named = list(self._names) if len(self._names) < 1000 else []
        kinds = [kind for kind in exports.KINDS if "settings" not in kind]
        self.offer(pairs=list(self._methods), classes=named, kinds=kinds, comparison=True, ready=True)
        self.request()

    def method_of(self, settings: Settings) -> Method:
        return self._methods[settings.pair]

    def origin(self, settings: Settings | None = None) -> dict[str, Any]:
        from ..evaluation import provenance

        return {"dataset": self.title, "weights": {"generator": "none"}, **provenance("cpu")}

    def link(self) -> dict[str, str]:
        """Return {"python": Python call, "command": ""}. The Python call restores the present settings.

        There is no papermill command, because no notebook contains the user's functions.
        """
        return {"python": self.settings().python(), "command": ""}
