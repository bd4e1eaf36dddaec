"""The interface of a method that protects, encodes and decodes, its results, and their cache.

::

    original --JPEG (S1)--> received --protect--> full --strength--> protected --codec, rate (S2)--> cloud, recognised
              `capture`, once for the pictures               `see`, once for each setting

`pipeline` implements it with the networks of a pair, `callables` with user-defined functions.
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
CACHED_PIXELS = 2**23  # of the pictures in the cache: 8,192 pictures of 32 x 32
Top = list[tuple[str, float]]
Result = TypeVar("Result")


@dataclass(frozen=True, repr=False, eq=False)
class Captured:
    """N pictures at the edge, each N x 3 x H x W in [0, 1]: original, received, and at full strength.

    `s1` has the bytes of each JPEG. `on_original` has the target's N x K probabilities for the originals, for a single picture
    only.
    """

    original: Tensor
    received: Tensor
    full: Tensor
    s1: list[int]
    on_original: Tensor | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)

    def protected(self, strength: float) -> Tensor:
        """Return the pictures at a strength."""
        return torch.lerp(self.received, self.full, strength)


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Seen:
    """The cloud's view of N pictures in one payload: the D distinct decoded pictures, and in `which` each picture's index.

    `target` and `auxiliary` are N x K probabilities, `bits` the information in each picture's code, `payload` the bytes of all.
    `guess` (D x 3 x H x W) and `psnr` (N, dB) are an attacker's, if one was trained. `codec` describes the codec.
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
    """The displayed view of one picture: images 3 x H x W in [0, 1], top classes (name, probability), milliseconds by stage.

    `guess` is an attacker's, if one was trained. `code_bits` is the information in the payload. The coder rounds it up, and the
    container adds its header and tag.
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
    def of(cls, settings: Settings, captured: Captured, seen: Seen, label: str, classes: tuple[str, ...], row: int = 0) -> View:
        """Return the view of one of the pictures. In a sheet, S2 is its part of the common payload."""
        alone = len(seen.which) == 1
        which = int(seen.which[row])
        return cls(
            settings=settings,
            original=captured.original[row],
            protected=captured.protected(settings.strength)[row],
            cloud=seen.cloud[which],
            label=label,
            ssim=float(seen.ssim[row]),
            s1_bytes=captured.s1[row],
            s2_bytes=seen.payload if alone else round(seen.payload / len(seen.which)),
            codec=seen.codec,
            target=top(seen.target, row, classes),
            auxiliary=top(seen.auxiliary, row, classes),
            on_original=top(captured.on_original, row, classes),
            code_bits=seen.bits[row],
            milliseconds=captured.milliseconds | seen.milliseconds,
            guess=None if seen.guess is None else seen.guess[which],
            guess_psnr=0.0 if seen.psnr is None else float(seen.psnr[row]),
        )


def top(shares: Tensor | None, row: int, classes: tuple[str, ...]) -> Top:
    """Return the names and probabilities of the most likely classes."""
    if shares is None:
        return []
    values, order = shares[row].topk(min(TOP, shares.shape[1]))
    return [(classes[int(i)], float(v)) for v, i in zip(values, order, strict=True)]


@dataclass(frozen=True)
class Attack:
    """A trained inversion network, and its training conditions."""

    guess: Callable[[Tensor], Tensor] = field(repr=False)
    pairs: int
    passes: int
    strength: float


class Cache:
    """Results by key. The oldest are dropped when all their pictures exceed `CACHED_PIXELS`. Thread-safe."""

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock, self._pixels = threading.Lock(), 0

    def clear(self) -> None:
        with self._lock:
            self._results.clear()
            self._pixels = 0

    def get(self, key: Hashable, make: Callable[[], Result], pixels: Callable[[Result], int]) -> Result:
        """Return the result of a key. A missing one is computed."""
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
    """Protects, encodes and decodes. `capture` and `see` cache their results."""

    def __init__(self) -> None:
        self.cache = Cache()

    @property
    @abstractmethod
    def codecs(self) -> tuple[str, ...]:
        """The names of the available codecs."""

    @abstractmethod
    def rates(self, codec: str) -> tuple[float, ...]:
        """Return the values of a codec's rate in [0, 1], none for a codec with one rate."""

    def attack_of(self, settings: Settings) -> Attack | None:
        """Return the attacker that was trained at the settings' codec, quality and rate."""
        return None

    @abstractmethod
    def _capture(self, original: Tensor) -> Captured: ...

    @abstractmethod
    def _see(self, settings: Settings, captured: Captured, attack: Attack | None, proceed: Callable[[], None]) -> Seen: ...

    def capture(self, key: Hashable, images: Tensor) -> Captured:
        """Return pictures (uint8, N x 3 x H x W) as received and protected by the edge, cached by `key`."""
        return self.cache.get(
            ("captured", key), lambda: self._capture(to_float(images)), lambda made: 3 * _pixels(made.original)
        )

    def see(self, settings: Settings, key: Hashable, captured: Captured, proceed: Callable[[], None]) -> Seen:
        """Return the cloud's view of captured pictures, cached by `key` and settings.

        `proceed` is called between the stages, and may raise.
        """
        attack = self.attack_of(settings)
        known = ("seen", key, settings.strength, settings.rate, settings.codec, settings.graded, attack)
        return self.cache.get(
            known, lambda: self._see(settings, captured, attack, proceed), lambda made: 2 * _pixels(made.cloud)
        )


def _pixels(images: Tensor) -> int:
    return len(images) * images.shape[-2:].numel()
