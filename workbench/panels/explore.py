"""`Explorer`: the view of the notebook `explore`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .live_view import LiveView

__all__ = ["Explorer"]


class Explorer(LiveView):
    """Pictures through the system, live: display `explorer.widget`. The parameters are those of the notebook `explore`.

    The controls appear at once. Networks are loaded, and missing ones trained, in the background. The settings are attributes
    (`strength`, `rate`, `codec`, `quality`, `pair`, `variant`, `source`, `pictures`), for code as for the page.
    Another explorer of the same `name` replaces this one. Raises UsageError for an invalid parameter.
    """

    @classmethod
    def compare(
        cls,
        methods: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]],
        images: Any,
        *,
        recognise: Callable[..., Any] | None = None,
        labels: Sequence[int] | None = None,
        classes: Sequence[str] = (),
        name: str = "compare",
        **parameters: Any,
    ) -> LiveView:
        """Show user-defined methods on images N x 3 x H x W (numpy or torch, uint8 or floats in [0, 1]).

        A method is `(protect, encode, decode)`, see `callables.CallableMethod`. `recognise` returns scores N x K, `labels` are
        the true classes. Further parameters are those of the class. Raises UsageError for other shapes and values.
        """
        from .comparison import Comparison

        return Comparison(methods, images, recognise=recognise, labels=labels, classes=classes, name=name, **parameters)
