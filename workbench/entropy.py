"""Entropy coding of a batch's integer latents as one stream. Frequent patterns of latents are coded as a whole.

::

    symbols (N x M x h x w) -> index of each image's pattern --------------------------------------.
                            |      `-> images without a known pattern: channel by channel ----------> range coder -> _shorten
                            `-> channels that no pattern covers: channel by channel ---------------'

N images have M channels of h x w latents each. A symbol is the integer value of one latent. A table has the probabilities of a
channel's symbols. A symbol outside its channel's table takes 32 additional bits. A pattern is a combination of symbols in the
first P channels of an image. The K known patterns occurred in the training data. At low rates, most images of a class have one
of a few patterns. One code for the pattern then needs fewer bits than a code for each channel. All other images are coded
latent by latent.

The range coder is that of the package constriction. Every probability is an integer of the tables divided by a power of two, so
every machine produces the same bytes. The coder's output is a whole number of 32-bit words. `_shorten` replaces it by the
shortest byte string that decodes to the same symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from .errors import PayloadError

__all__ = ["LatentCoder", "Tables", "learn_patterns"]

Integers = NDArray[np.int32]

PRECISION = 16  # bits of a probability in the tables, as in CompressAI
MAX_PATTERNS = 1024
HALF = 1 << 16  # a symbol outside its table is coded as two numbers of 16 bits


@dataclass(frozen=True)
class Tables:
    """The integer tables of encoder and decoder, which ship with the weights.

    `cdf` (M x L, cumulative frequencies), `offset` (M) and `length` (M) are CompressAI's. L is the largest length. Channel m
    has the symbols from offset to offset + length - 3, and one more symbol for all values outside this range.

    `patterns` (K x P x h x w) are the known patterns. `counts` (K + 1) states how often each pattern occurred in the training
    data. The last count is for all other patterns. Channels beyond P are coded latent by latent. If K is 0, or if an image's
    latents have another size than h x w, all channels are coded in this way.
    """

    cdf: Integers
    offset: Integers
    length: Integers
    patterns: Integers
    counts: NDArray[np.int64]


def learn_patterns(symbols: Integers, least: int = 2) -> tuple[Integers, NDArray[np.int64]]:
    """Return the patterns that occur at least `least` times, most frequent first, and how often each occurs.

    `symbols` (N x M x h x w) are the latents of the training images, and a pattern covers all M channels. At most 1,024
    patterns are returned, and only patterns with symbols from -127 to 127. The last count is for all other patterns. It is 1
    more than the number of images with such patterns, so that unseen patterns have a probability above 0 (Good 1953).
    """
    flat = symbols.reshape(len(symbols), -1)
    rows, counts = np.unique(flat, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    small = (np.abs(rows) < 1 << 7).all(1)  # patterns are stored in 8 bits
    order = order[(counts >= least)[order] & small[order]][:MAX_PATTERNS]
    kept = counts[order].astype(np.int64)
    patterns = rows[order].reshape(-1, *symbols.shape[1:]).astype(np.int32)
    return patterns, np.append(kept, len(flat) - kept.sum() + 1)


class LatentCoder:
    """An encoder and decoder for batches of integer latents. It is lossless for all 32-bit integers."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        frequencies = [np.diff(row[:n]).astype(np.int64) for row, n in zip(tables.cdf, tables.length.tolist(), strict=True)]
        self._last = np.array([len(each) - 1 for each in frequencies], np.int64)  # the symbol for values outside the table
        self._models = [_model(each.clip(min=1)) if len(each) > 1 else None for each in frequencies]
        self._symbol_bits = np.zeros((len(frequencies), int(self._last.max(initial=0)) + 1))  # bits of each channel's symbols
        for row, each in zip(self._symbol_bits, frequencies, strict=True):
            row[: len(each)] = PRECISION - np.log2(each.clip(min=1))
        patterns = tables.patterns
        self._shape = patterns.shape[1:]
        self._flat = patterns.reshape(len(patterns), -1) if len(patterns) else np.zeros((0, 0), np.int32)
        self._mix = np.random.default_rng(0).integers(1, 1 << 62, self._flat.shape[1], np.int64) | 1
        hashes = self._flat.astype(np.int64) @ self._mix
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        shares = _normalise(tables.counts) if len(patterns) else np.ones(1, np.int64)
        self._pattern_bits = PRECISION - np.log2(shares) if len(patterns) else np.zeros(1)
        self._pattern_model = _model(shares) if len(patterns) else None
        # A channel is quiet if it is zero in every pattern. For each image without a known pattern, the stream has a flag:
        # 1 if a quiet channel of the image is not zero.
        covered = np.arange(patterns.shape[1] if len(patterns) else len(tables.cdf))
        self._loud = np.flatnonzero((patterns != 0).any(axis=(0, 2, 3))) if len(patterns) else covered
        self._quiet = np.setdiff1d(covered, self._loud)
        self._free = np.arange(len(covered), len(tables.cdf))  # channels that no pattern covers

    def encode(self, symbols: Integers) -> bytes:
        """Encode the symbols of N images, N x M x h x w, as one stream. N is at least 1."""
        index = self.index(symbols)
        return self._encode(index, symbols[index == len(self._flat)], symbols, symbols.shape[2:])

    def _encode(self, index: NDArray[np.int64], others: Integers, symbols: Integers, size: Sequence[int]) -> bytes:
        encoder = constriction.stream.queue.RangeEncoder()
        if self._fits(size):
            encoder.encode(index.astype(np.int32), self._pattern_model)
        if len(others):
            strange = (others[:, self._quiet] != 0).any(axis=(1, 2, 3))
            if len(self._quiet):
                encoder.encode(strange.astype(np.int32), _STRANGE)
            self._put(encoder, others, self._loud)
            self._put(encoder, others[strange], self._quiet)
        self._put(encoder, symbols, self._free)
        return _shorten(encoder)

    def _put(self, encoder: Any, symbols: Integers, channels: NDArray[np.int64]) -> None:
        if not len(symbols) or not len(channels):
            return
        values = symbols[:, channels].swapaxes(0, 1).reshape(len(channels), -1)
        last = self._last[channels, None]
        place = values.astype(np.int64) - self.tables.offset[channels, None]
        outside = (place < 0) | (place >= last)
        for channel, row in zip(channels, np.where(outside, last, place).astype(np.int32), strict=True):
            if (model := self._models[channel]) is not None:
                encoder.encode(row, model)
        if outside.any():
            rest = values[outside].view(np.uint32)
            encoder.encode((rest % HALF).astype(np.int32), _HALVES)
            encoder.encode((rest // HALF).astype(np.int32), _HALVES)

    def decode(self, stream: bytes, n: int, size: Sequence[int]) -> tuple[Integers, NDArray[np.int64]]:
        """Decode a stream of `n` images. Return U rows of symbols, U x M x h x w, and each image's index into these rows (n).

        `size` is (h, w). Images with the same known pattern share a row if patterns cover all M channels. Each other image has
        its own row. Raises PayloadError unless `encode` would produce exactly this stream.
        """
        index, others, symbols = self._read(stream, n, tuple(size))
        known = len(self._flat)
        if (self.index(others) != known).any() or self._encode(index, others, symbols, tuple(size)) != stream:
            raise PayloadError(f"payload holds a stream of {len(stream)} bytes that no encoder makes of {n} images")
        if len(self._free):
            return symbols, np.arange(n)
        used, inverse = np.unique(index[index < known], return_inverse=True)
        which = np.empty(n, np.int64)
        which[index < known] = inverse
        which[index == known] = len(used) + np.arange(len(others))
        return np.concatenate([self.tables.patterns[used], others]) if len(used) else others, which

    def _read(self, stream: bytes, n: int, size: Sequence[int]) -> tuple[NDArray[np.int64], Integers, Integers]:
        """Return each image's pattern index, the symbols of images without a known pattern, and the symbols of all images.

        The last array is empty if patterns cover all channels.
        """
        padded = stream + bytes(8 + -len(stream) % 4)
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
        try:
            known = len(self._flat)
            index = decoder.decode(self._pattern_model, n) if self._fits(size) else np.full(n, known)
            others = np.zeros((int((index == known).sum()), len(self.tables.cdf), *size), np.int32)
            if len(others):
                strange = decoder.decode(_STRANGE, len(others)) if len(self._quiet) else np.zeros(len(others), np.int32)
                self._take(decoder, others, np.arange(len(others)), self._loud)
                self._take(decoder, others, np.flatnonzero(strange), self._quiet)
            symbols = np.zeros((n if len(self._free) else 0, *others.shape[1:]), np.int32)
            self._take(decoder, symbols, np.arange(len(symbols)), self._free)
        except (ValueError, AssertionError, OverflowError) as error:
            raise PayloadError(f"payload holds a stream of {len(stream)} bytes that cannot be decoded") from error
        if len(symbols):
            covered = len(self.tables.cdf) - len(self._free)
            if self._fits(size):
                symbols[index < known, :covered] = self.tables.patterns[index[index < known]]
            others[:, covered:] = symbols[index == known, covered:]
            symbols[index == known] = others
        return index.astype(np.int64), others, symbols

    def _take(self, decoder: Any, symbols: Integers, rows: NDArray[np.int64], channels: NDArray[np.int64]) -> None:
        if not len(rows) or not len(channels):
            return
        shape = (len(rows), *symbols.shape[2:])
        count = int(np.prod(shape))
        outside = np.zeros((len(channels), count), bool)
        values = np.zeros((len(channels), count), np.int32)
        for place, channel in enumerate(channels):
            model, last = self._models[channel], self._last[channel]
            read = np.full(count, last, np.int32) if model is None else decoder.decode(model, count)
            outside[place] = read == last
            values[place] = read + self.tables.offset[channel]
        if total := int(outside.sum()):
            low, high = (decoder.decode(_HALVES, total).astype(np.uint32) for _ in range(2))
            values[outside] = (low + HALF * high).view(np.int32)
        symbols[rows[:, None], channels] = values.reshape(len(channels), *shape).swapaxes(0, 1)

    def index(self, symbols: Integers) -> NDArray[np.int64]:
        """Return the index of each image's pattern (N). Images without a known pattern have the index K."""
        known = len(self._flat)
        if not len(symbols) or not self._fits(symbols.shape[2:]):
            return np.full(len(symbols), known, np.int64)
        flat = symbols[:, : self._shape[0]].reshape(len(symbols), -1)
        place = np.searchsorted(self._hashes, flat.astype(np.int64) @ self._mix).clip(max=known - 1)
        found = self._order[place]
        return np.where((self._flat[found] == flat).all(1), found, known)

    def bits(self, symbols: Integers) -> NDArray[np.float64]:
        """Return the information content of each image in bits (N values). `symbols` are N x M x h x w."""
        index = self.index(symbols)
        known = len(self._flat)
        out = self._pattern_bits[index] if self._fits(symbols.shape[2:]) else np.zeros(len(symbols))
        others = np.flatnonzero(index == known)
        if len(others):
            strange = (symbols[others][:, self._quiet] != 0).any(axis=(1, 2, 3))
            out[others] += np.where(strange, 8.0, np.log2(256 / 255)) if len(self._quiet) else 0.0
            for channels, rows in ((self._loud, others), (self._quiet, others[strange])):
                out[rows] += self._channel_bits(symbols[rows][:, channels], channels)
        return out + self._channel_bits(symbols[:, self._free], self._free)

    def _channel_bits(self, symbols: Integers, channels: NDArray[np.int64]) -> NDArray[np.float64]:
        last = self._last[channels, None, None]
        place = symbols.astype(np.int64) - self.tables.offset[channels, None, None]
        outside = (place < 0) | (place >= last)
        bits = self._symbol_bits[channels[:, None, None], np.where(outside, last, place)] + 32.0 * outside
        return bits.sum((1, 2, 3))  # type: ignore[no-any-return]

    def _fits(self, size: Sequence[int]) -> bool:
        return len(self._flat) > 0 and tuple(size) == tuple(self._shape[1:])


def _shorten(encoder: Any) -> bytes:
    """Return the shortest byte string that decodes to the encoder's symbols. The decoder reads zeros after the string's end.

    A range coder's stream is one long number, and all numbers in an interval decode to the same symbols. `encoder.pos()`
    returns the number of 32-bit words that the encoder has written, and two 64-bit numbers: the lower end and the width of this
    interval. In the long number, the 64 bits of the lower end follow these words.
    """
    stream: bytes = encoder.get_compressed().astype(">u4").tobytes()
    words, (lower, width) = encoder.pos()
    bits = 32 * words + 64
    number = int.from_bytes(stream, "big") << (bits - 8 * len(stream))
    low = (number >> 64 << 64) + lower
    low -= (1 << 64) if low > number else 0  # carry into the last word written
    for length in range(max(0, len(stream) - 12), len(stream)):
        unit = bits - 8 * length
        for candidate in (number >> unit, (number >> unit) + 1):
            if low <= candidate << unit < low + width and candidate >> 8 * length == 0 and (candidate & 255 or not length):
                return int(candidate).to_bytes(length, "big")
    return stream


def _normalise(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    total = 1 << PRECISION
    scaled: NDArray[np.int64] = np.maximum(1, counts * (total - len(counts)) // counts.sum())
    scaled[int(np.argmax(scaled))] += total - int(scaled.sum())
    return scaled


def _model(frequencies: NDArray[np.int64]) -> Any:
    return constriction.stream.model.Categorical(frequencies / frequencies.sum(), perfect=False)


_STRANGE = _model(np.array([255, 1]))
_HALVES = constriction.stream.model.Uniform(HALF)
