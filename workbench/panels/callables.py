"""User-defined methods of the view `explore`. A user defines a method by three functions: protect, encode and decode.

These functions replace the workbench's networks, which protect and compress pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..data import Split
from ..errors import UsageError
from ..pictures import to_uint8
from .methods import Captured, Method, Seen
from .settings import Settings
from .sources import Source

__all__ = ["CallableMethod", "as_methods", "as_source"]

Callables = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
STOPS = tuple(k / 10 for k in range(11))  # selectable values of a continuous rate


class CallableMethod(Method):
    """A method that calls user-defined functions: `protect`, `encode`, `decode` and, optionally, `recognise`.

    `callables` is the tuple (`protect`, `encode`, `decode`). `name` is the method's name on the page. Images are N x 3 x H x W
    in [0, 1]. If `numpy` is set, the functions get numpy arrays, else torch tensors.

    - `protect(images)` returns the protected images at full strength, in the shape of `images`.
    - `encode(images)` returns one byte string for each image, or one byte string for the whole batch. If `encode` has two
      required parameters, it is called as `encode(images, rate)`, with a rate in [0, 1].
    - `decode(payload)` takes the result of `encode`, and returns the decoded images, in the shape of the encoded images.
    - `recognise(images)` returns class scores (N x K), as probabilities or logits.

    The method raises UsageError if a function returns another shape, or if `encode` does not return bytes.
    """

    def __init__(self, name: str, callables: Callables, recognise: Callable[..., Any] | None, numpy: bool) -> None:
        if not (isinstance(callables, tuple) and len(callables) == 3 and all(map(callable, callables))):
            raise UsageError(f"method {name!r} must be three callables (protect, encode, decode), got {callables!r}")
        self.name, self._numpy, self._recognise = name, numpy, recognise
        self._protect, self._encode, self._decode = callables
        self._rated = _takes_rate(self._encode)
        super().__init__()

    @property
    def codecs(self) -> tuple[str, ...]:
        return (self.name,)

    def rates(self, codec: str) -> tuple[float, ...]:
        return STOPS if self._rated else ()

    def _capture(self, original: Tensor) -> Captured:
        full = self._images("protect", self._protect(self._given(original)), original)
        return Captured(original, original, full, [0] * len(original), self._scores(original))

    def _see(self, settings: Settings, captured: Captured, attack: object, proceed: Callable[[], None]) -> Seen:
        protected = captured.protected(settings.strength)
        given = (self._given(protected), settings.rate) if self._rated else (self._given(protected),)
        payload = self._encode(*given)
        sizes = self._sizes(payload, len(protected))
        proceed()
        cloud = self._images("decode", self._decode(payload), protected)
        proceed()
        return Seen(
            cloud=cloud,
            which=torch.arange(len(cloud)),
            ssim=metrics.ssim(captured.original, protected),
            bits=[8 * size for size in sizes],
            payload=round(sum(sizes)),
            codec=self.name,
            target=self._scores(cloud),
        )

    def _given(self, images: Tensor) -> Any:
        return images.numpy() if self._numpy else images

    def _images(self, what: str, returned: Any, like: Tensor) -> Tensor:
        images = torch.as_tensor(np.asarray(returned) if not isinstance(returned, Tensor) else returned).detach().float().cpu()
        if images.shape != like.shape:
            raise UsageError(f"{what} of {self.name!r} returned {tuple(images.shape)}, expected {tuple(like.shape)}")
        return images.clamp(0, 1)

    def _sizes(self, payload: Any, count: int) -> list[float]:
        if isinstance(payload, bytes | bytearray | memoryview):
            return [len(payload) / count] * count
        try:
            sizes = [float(len(each)) for each in payload]
        except TypeError:
            sizes = []
        if len(sizes) != count:
            raise UsageError(
                f"encode of {self.name!r} must return bytes, or {count} byte strings, got {type(payload).__name__}"
            )
        return sizes

    def _scores(self, images: Tensor) -> Tensor | None:
        if self._recognise is None:
            return None
        scores = torch.as_tensor(np.asarray(self._recognise(self._given(images)))).float()
        if scores.ndim != 2 or len(scores) != len(images):
            raise UsageError(f"recognise must return {len(images)} rows of scores, got {tuple(scores.shape)}")
        return scores if bool((scores >= 0).all()) and bool((scores.sum(1) - 1).abs().max() < 1e-3) else scores.softmax(1)


def as_methods(methods: dict[str, Callables], recognise: Callable[..., Any] | None, numpy: bool) -> dict[str, CallableMethod]:
    if not methods:
        raise UsageError("no method to compare: give {'name': (protect, encode, decode)}")
    return {name: CallableMethod(name, callables, recognise, numpy) for name, callables in methods.items()}


def as_source(images: Any, labels: Sequence[int] | None) -> Source:
    """Return a collection of `images`, which are N x 3 x H x W, uint8 or floats in [0, 1].

    H and W must be at least 11, because SSIM uses windows of 11 x 11 pixels. `labels` are the N true class indices, or None if
    the classes are unknown. Raises UsageError for other shapes, types or values.
    """
    tensor = images.detach().cpu() if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    if tensor.ndim != 4 or tensor.shape[1] != 3 or not len(tensor) or min(tensor.shape[-2:]) < metrics.SSIM_WINDOW:
        raise UsageError(f"expected images N x 3 x H x W, H and W at least {metrics.SSIM_WINDOW}, got {tuple(tensor.shape)}")
    if tensor.dtype != torch.uint8:
        if not tensor.is_floating_point() or float(tensor.min()) < 0 or float(tensor.max()) > 1:
            low, high = float(tensor.min()), float(tensor.max())
            raise UsageError(f"expected uint8 images or floats in [0, 1], got {tensor.dtype} from {low:g} to {high:g}")
        tensor = to_uint8(tensor.float())
    numbers = torch.full((len(tensor),), -1) if labels is None else torch.as_tensor(np.asarray(labels)).long()
    if numbers.shape != (len(tensor),):
        raise UsageError(f"expected {len(tensor)} labels, got {tuple(numbers.shape)}")
    return Source(Split(tensor, numbers))


def _takes_rate(encode: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(encode).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [each for each in parameters if each.default is each.empty]
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in required) == 2
