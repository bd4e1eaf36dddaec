"""Methods that protect, encode and decode pictures: the interface, its results, and a cache of results.

::

    original --JPEG (S1)--> received --protect--> full --strength--> protected --codec, rate (S2)--> cloud, recognised
              `capture`, once for the pictures               `see`, once for each setting

`pipeline` implements the interface with the networks of a pair, `callables` with user-defined functions. S1 is what the client
sends to the edge, S2 what the edge sends to the cloud.
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
    """N pictures at the edge as tensors N x 3 x H x W in [0, 1]: `original`, `received` after JPEG, and `full`.

    `full` are the protected pictures at strength 1, `s1` are the sizes of the JPEG files (bytes). `on_original` has the
    target's class probabilities for the original. The networks of a pair set `on_original` for a single picture only (1 x K).
    """

    original: Tensor
    received: Tensor
    full: Tensor
    s1: list[int]
    on_original: Tensor | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)

    def protected(self, strength: float) -> Tensor:
        """Return the protected pictures at a strength in [0, 1], blended from `received` and `full`."""
        return torch.lerp(self.received, self.full, strength)


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Seen:
    """The cloud's result for N pictures that were sent in one payload.

    - `cloud`: the D distinct decoded pictures, D x 3 x H x W; `which` (N): each picture's index in `cloud`
    - `ssim` (N): between protected and original pictures
    - `bits`: the information in each picture's code; `payload`: the size in bytes; `codec`: a description for people
    - `target`, `auxiliary`: class probabilities N x K, or None without that classifier
    - `guess` (D x 3 x H x W): an attacker's reconstructions, `psnr` (N): their PSNR (dB) to the originals, or None
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
    """The displayed result for one picture: images 3 x H x W in [0, 1], top classes (name, probability), milliseconds by step.

    `guess` is an attacker's reconstruction, if one was trained. `code_bits` is the information in the code (bits). The payload
    is longer than this, because the coder rounds up and the container adds a header and a tag.
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
        """Return the view of the first of the pictures in a payload. `s2_bytes` is an equal share of the payload.

        `label` is the name of the picture's true class, `classes` are the names of all classes.
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
    """Return the `TOP` most likely classes of the first row of class probabilities (N x K), each as (name, probability)."""
    if shares is None:
        return []
    values, order = shares[0].topk(min(TOP, shares.shape[1]))
    return [(classes[int(i)], float(v)) for v, i in zip(values, order, strict=True)]


@dataclass(frozen=True)
class Attack:
    """A trained attacker: `guess` maps decoded pictures to reconstructions of the originals.

    It was trained on `pairs` pictures at `strength`, for `passes` images in total, with repeats.
    """

    guess: Callable[[Tensor], Tensor] = field(repr=False)
    pairs: int
    passes: int
    strength: float


class Cache:
    """A thread-safe cache of results. Above `CACHED_PIXELS` pixels, the least recently used results are dropped."""

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock, self._pixels = threading.Lock(), 0

    def clear(self) -> None:
        with self._lock:
            self._results.clear()
            self._pixels = 0

    def get(self, key: Hashable, make: Callable[[], Result], pixels: Callable[[Result], int]) -> Result:
        """Return the result for a key, computed by `make` if it is missing. `pixels` counts the pixels of a result."""
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
        """Return the rates in [0, 1] that a codec offers, or an empty tuple if it has one rate only."""

    def attack_of(self, settings: Settings) -> Attack | None:
        """Return the attacker that was trained with the settings' codec, quality and rate, or None."""
        return None

    @abstractmethod
    def _capture(self, original: Tensor) -> Captured: ...

    @abstractmethod
    def _see(self, settings: Settings, captured: Captured, attack: Attack | None, proceed: Callable[[], None]) -> Seen: ...

    def capture(self, key: Hashable, images: Tensor) -> Captured:
        """Return pictures (uint8, N x 3 x H x W) as the edge receives and protects them, cached by `key`."""
        return self.cache.get(
            ("captured", key), lambda: self._capture(to_float(images)), lambda made: 3 * _pixels(made.original)
        )

    def see(self, settings: Settings, key: Hashable, captured: Captured, proceed: Callable[[], None]) -> Seen:
        """Return the cloud's result for captured pictures, cached by `key` and settings.

        `proceed` is called between encoding, decoding and classification. It may raise to stop the work.
        """
        attack = self.attack_of(settings)
        known = ("seen", key, settings.strength, settings.rate, settings.codec, settings.graded, attack)
        return self.cache.get(
            known, lambda: self._see(settings, captured, attack, proceed), lambda made: 2 * _pixels(made.cloud)
        )


def _pixels(images: Tensor) -> int:
    return len(images) * images.shape[-2:].numel()
