"""Methods that protect, encode and decode pictures: the interface, the types of results, and a cache of results.

::

    original --JPEG (S1)--> received --protect--> full --strength--> protected --codec, rate (S2)--> cloud, recognised
              `capture`, once for the pictures               `see`, once for each setting

The class `Method` is the interface. `pipeline` implements `Method` with the networks of a pair: a generator and two
classifiers, the target and the auxiliary. `callables` implements `Method` with user-defined functions. S1 is the data that the
client sends to the edge, and S2 the data that the edge sends to the cloud.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..pictures import to_float
from .settings import Settings

__all__ = ["Attack", "Cache", "Captured", "Method", "Seen", "View"]

TOP = 5
CACHED_PIXELS = 2**23  # limit of the cache, in pixels of pictures: 8,192 pictures of 32 x 32
Top = list[tuple[str, float]]
Result = TypeVar("Result")


@dataclass(frozen=True, repr=False, eq=False)
class Captured:
    """The edge's result for N pictures. Images are N x 3 x H x W in [0, 1].

    - `original`: the images before JPEG
    - `received`: the images after JPEG
    - `full`: the protected images at strength 1
    - `s1`: the sizes of the JPEG files (bytes)
    - `on_original`: the target's class probabilities for the originals, or None. `Pipeline` sets this field for a single
      picture only (1 x K).
    - `milliseconds`: the time of each step

    User-defined methods do not use JPEG. Then `received` equals `original`, and the sizes in `s1` are 0.
    """

    original: Tensor
    received: Tensor
    full: Tensor
    s1: list[int]
    on_original: Tensor | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)

    def protected(self, strength: float) -> Tensor:
        """Return the protected pictures at a strength in [0, 1]: `received` at 0, `full` at 1, else a blend of both."""
        return torch.lerp(self.received, self.full, strength)


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Seen:
    """The cloud's result for N pictures that were sent in one payload.

    - `cloud` (D x 3 x H x W): the D distinct decoded pictures. Pictures with equal codes share one
    - `which` (N): for each picture, the index of its decoded picture in `cloud`
    - `ssim` (N): the similarity of the protected and the original picture
    - `bits` (N): the information content of each picture's code (bits)
    - `payload`: the payload's size (bytes)
    - `codec`: a description of the codec, for display
    - `target`, `auxiliary` (N x K): class probabilities of the two classifiers, or None without the classifier
    - `guess` (D x 3 x H x W): an attacker's reconstructions of the originals, or None without an attacker
    - `psnr` (N): for each picture, the PSNR between the original and `guess[which]` (dB), or None without an attacker
    - `milliseconds`: the time of each step
    """

    cloud: Tensor
    which: Tensor
    ssim: Tensor
    bits: list[float]
    payload: int
    codec: str
    target: Tensor | None = None
    auxiliary: Tensor | None = None
    guess: Tensor | None = None
    psnr: Tensor | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, repr=False, kw_only=True)
class View:
    """The displayed result for one picture. Images are 3 x H x W in [0, 1].

    - `target`, `auxiliary`: each classifier's most likely classes for the decoded picture, as a list of (name, probability)
    - `on_original`: the target's most likely classes for the original picture, or an empty list
    - `label`: the name of the true class
    - `s1_bytes`, `s2_bytes`: the number of bytes sent from client to edge, and from edge to cloud
    - `guess`, `guess_psnr`: an attacker's reconstruction and its PSNR (dB), or None and 0 without an attacker
    - `code_bits`: the information content of the picture's code. The payload is longer, because the coder rounds up, and the
      container adds a header and a tag.
    """

    settings: Settings
    original: Tensor
    protected: Tensor
    cloud: Tensor
    label: str
    ssim: float
    s1_bytes: int
    s2_bytes: int
    codec: str
    target: Top
    auxiliary: Top
    on_original: Top
    code_bits: float
    milliseconds: dict[str, float]
    guess: Tensor | None = None
    guess_psnr: float = 0.0

    @classmethod
    def of(cls, settings: Settings, captured: Captured, seen: Seen, label: str, classes: tuple[str, ...]) -> View:
        """Return the view of a payload's first picture, from the results of edge (`captured`) and cloud (`seen`).

        The view's `s2_bytes` is the payload's size divided by its number of pictures. `label` is the name of the picture's true
        class. `classes` has the names of all classes.
        """
        which = int(seen.which[0])
        return cls(
            settings=settings,
            original=captured.original[0],
            protected=captured.protected(settings.strength)[0],
            cloud=seen.cloud[which],
            label=label,
            ssim=float(seen.ssim[0]),
            s1_bytes=captured.s1[0],
            s2_bytes=round(seen.payload / len(seen.which)),
            codec=seen.codec,
            target=top(seen.target, classes),
            auxiliary=top(seen.auxiliary, classes),
            on_original=top(captured.on_original, classes),
            code_bits=seen.bits[0],
            milliseconds=captured.milliseconds | seen.milliseconds,
            guess=None if seen.guess is None else seen.guess[which],
            guess_psnr=0.0 if seen.psnr is None else float(seen.psnr[0]),
        )


def top(shares: Tensor | None, classes: tuple[str, ...]) -> Top:
    """Return the `TOP` (5) most likely classes of the first picture, each as (name, probability).

    `shares` are the class probabilities of N pictures (N x K). None gives an empty list. `classes` are the names of the
    classes.
    """
    if shares is None:
        return []
    values, order = shares[0].topk(min(TOP, shares.shape[1]))
    return [(classes[int(i)], float(v)) for v, i in zip(values, order, strict=True)]


@dataclass(frozen=True)
class Attack:
    """A trained attacker. The function `guess` maps decoded pictures (N x 3 x H x W) to reconstructions of the originals.

    The attacker was trained on `pairs` pictures that were protected at `strength`. `passes` is the number of images in the
    training, with each use of an image counted.
    """

    guess: Callable[[Tensor], Tensor] = field(repr=False)
    pairs: int
    passes: int
    strength: float


class Cache:
    """A thread-safe cache. It drops the least recently used results if all results exceed `CACHED_PIXELS` pixels together.

    The two most recently used results always stay.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock, self._pixels = threading.Lock(), 0

    def clear(self) -> None:
        with self._lock:
            self._results.clear()
            self._pixels = 0

    def get(self, key: Hashable, make: Callable[[], Result], pixels: Callable[[Result], int]) -> Result:
        """Return the cached result for `key`. If it is missing, compute it by `make()`, and cache it.

        The function `pixels` returns the number of pixels in a result.
        """
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key][0]  # type: ignore[no-any-return]
        result = make()
        with self._lock:
            if key not in self._results:
                self._results[key] = result, pixels(result)
                self._pixels += pixels(result)
                while self._pixels > CACHED_PIXELS and len(self._results) > 2:
                    self._pixels -= self._results.popitem(last=False)[1][1]
        return result


class Method(ABC):
    """The interface of a method that protects, encodes and decodes pictures. `capture` and `see` cache their results."""

    def __init__(self) -> None:
        self.cache = Cache()

    @property
    @abstractmethod
    def codecs(self) -> tuple[str, ...]:
        """The names of the codecs that the method supports."""

    @abstractmethod
    def rates(self, codec: str) -> tuple[float, ...]:
        """Return the rates in [0, 1] that `codec` offers. For a codec with a single rate, return an empty tuple."""

    def attack_of(self, settings: Settings) -> Attack | None:
        """Return the attacker that was trained with the codec, quality and rate of `settings`, or None."""
        return None

    @abstractmethod
    def _capture(self, original: Tensor) -> Captured: ...

    @abstractmethod
    def _see(self, settings: Settings, captured: Captured, attack: Attack | None, proceed: Callable[[], None]) -> Seen: ...

    def capture(self, key: Hashable, images: Tensor) -> Captured:
        """Send `images` (uint8, N x 3 x H x W) to the edge, which protects them. Return the edge's result.

        The result is cached by `key`, which identifies the images.
        """
        return self.cache.get(
            ("captured", key), lambda: self._capture(to_float(images)), lambda made: 3 * _pixels(made.original)
        )

    def see(self, settings: Settings, key: Hashable, captured: Captured, proceed: Callable[[], None]) -> Seen:
        """Send protected pictures to the cloud, with the strength and the codec of `settings`. Return the cloud's result.

        The result is cached by the settings and by `key`, which identifies the pictures. `captured` is the edge's result for
        the pictures. `proceed` is a callback between the steps encoding, decoding and classification. It may raise an exception
        to stop the work.
        """
        attack = self.attack_of(settings)
        known = ("seen", key, settings.strength, settings.rate, settings.codec, settings.graded, attack)
        return self.cache.get(
            known, lambda: self._see(settings, captured, attack, proceed), lambda made: 2 * _pixels(made.cloud)
        )


def _pixels(images: Tensor) -> int:
    return len(images) * images.shape[-2:].numel()
