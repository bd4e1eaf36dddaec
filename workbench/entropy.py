"""Entropy coding of a batch's latents in one stream: common latents as whole patterns, others latent by latent.

::

    symbols (N x M x h x w) ->  pattern of each image  ---------------------------------------.
                                   `-> no known pattern: its latents, channel by channel -------> range coder -> shortest tail
                                                            `-> beyond the table: 32 bits

Near one bit a latent, most images have latents that occurred before: there are only a few patterns for each class. Their joint
distribution, a table of integers that ships with the weights, needs fewer bits than any product of the channels' distributions.
A pattern that occurs twice in a batch is decoded once. Latents that always equal their median cost neither bytes nor time.

The range coder is constriction's. Every probability is an integer of the tables over a power of two, so every machine
produces the same bytes. The coder ends on a word of 32 bits: `_shorten` finds the fewest bytes that still decode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from .errors import PayloadError

__all__ = ["LatentCoder", "Tables", "learn_patterns"]

Integers = NDArray[np.int32]

PRECISION = 16  # bits of a probability, as in CompressAI's tables
MAX_PATTERNS = 1024
HALF = 1 << 16  # a symbol outside its table is coded as two uniform halves of 32 bits


@dataclass(frozen=True)
class Tables:
    """The integer tables that both ends share. They ship with the weights.

    `cdf` M x L, `offset` M, `length` M are CompressAI's: channel m has the symbols offset .. offset + length - 3, and one more
    for values outside this range. `patterns` K x M x h x w are the commonest latents. `counts` K + 1 says how often each
    occurred, with all other patterns last. If K is 0, or images have another size than the patterns, all latents are coded one
    by one.
    """

    cdf: Integers
    offset: Integers
    length: Integers
    patterns: Integers
    counts: NDArray[np.int64]


def learn_patterns(symbols: Integers, at_most: int = MAX_PATTERNS, least: int = 2) -> tuple[Integers, NDArray[np.int64]]:
    """Return the patterns that occurred `least` times or more among symbols N x M x h x w, commonest first, and their counts.

    The last count is for all other patterns: their occurrences plus one. With `least` 2 this is the number of patterns that
    occurred once, which estimates how many new patterns as many further images would contain (Good 1953).
    """
    flat = symbols.reshape(len(symbols), -1)
    rows, counts = np.unique(flat, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    small = (np.abs(rows) < 1 << 7).all(1)  # patterns are stored in 8 bits
    order = order[(counts >= least)[order] & small[order]][:at_most]
    kept = counts[order].astype(np.int64)
    patterns = rows[order].reshape(-1, *symbols.shape[1:]).astype(np.int32)
    return patterns, np.append(kept, len(flat) - kept.sum() + 1)


class LatentCoder:
    """Codes batches of latents with a model's tables. Lossless for integers of 32 bits."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._channels = [_channel(row, int(n)) for row, n in zip(tables.cdf, tables.length, strict=True)]
        patterns = tables.patterns
        self._shape = patterns.shape[1:]
        self._flat = patterns.reshape(len(patterns), -1) if len(patterns) else np.zeros((0, 0), np.int32)
        self._mix = np.random.default_rng(0).integers(1, 1 << 62, self._flat.shape[1], np.int64) | 1
        hashes = self._flat.astype(np.int64) @ self._mix
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        frequencies = _normalise(tables.counts) if len(patterns) else np.ones(1, np.int64)
        self._pattern_bits = PRECISION + np.log2(1 / frequencies) if len(patterns) else np.zeros(1)
        self._pattern_model = _model(frequencies) if len(patterns) else None
        # A channel is silent if it is zero in every pattern. Other images store once whether they are silent there, too.
        self._loud = np.flatnonzero((patterns != 0).any(axis=(0, 2, 3))) if len(patterns) else np.arange(len(tables.cdf))
        self._quiet = np.setdiff1d(np.arange(len(tables.cdf)), self._loud)

    # --- encoding ----------------------------------------------------------------------------------------------------------

    def encode(self, symbols: Integers) -> bytes:
        """Return the stream of symbols N x M x h x w, with N at least 1."""
        index = self.index(symbols)
        return self._encode(index, symbols[index == len(self._flat)], symbols.shape[2:])

    def _encode(self, index: NDArray[np.int64], others: Integers, size: Sequence[int]) -> bytes:
        encoder = constriction.stream.queue.RangeEncoder()
        if self._fits(size):
            encoder.encode(index.astype(np.int32), self._pattern_model)
        if len(others):
            strange = (others[:, self._quiet] != 0).any(axis=(1, 2, 3))
            if len(self._quiet):
                encoder.encode(strange.astype(np.int32), _STRANGE)
            self._put(encoder, others, self._loud)
            self._put(encoder, others[strange], self._quiet)
        stream = encoder.get_compressed().astype(">u4").tobytes()

        def decodes(short: bytes) -> bool:
            try:
                read, rest = self._read(short, len(index), size)
            except PayloadError:
                return False
            return np.array_equal(read, index) and np.array_equal(rest, others)

        return _shorten(stream, decodes)

    def _put(self, encoder: Any, symbols: Integers, channels: NDArray[np.int64]) -> None:
        if not len(symbols):
            return
        beyond: list[Integers] = []
        for channel in channels:
            model, last = self._channels[channel]
            values = symbols[:, channel].ravel()
            place = values.astype(np.int64) - int(self.tables.offset[channel])
            outside = (place < 0) | (place >= last)
            if model is not None:
                encoder.encode(np.where(outside, last, place).astype(np.int32), model)
            beyond.append(values[outside])
        rest = np.concatenate([np.zeros(0, np.int32), *beyond]).view(np.uint32)
        if len(rest):
            encoder.encode((rest % HALF).astype(np.int32), _HALVES)
            encoder.encode((rest // HALF).astype(np.int32), _HALVES)

    # --- decoding ----------------------------------------------------------------------------------------------------------

    def decode(self, stream: bytes, n: int, size: Sequence[int]) -> tuple[Integers, NDArray[np.int64]]:
        """Return the distinct symbols U x M x h x w of a stream, and for each of its `n` images the index of its symbols.

        Raises PayloadError unless `encode` would produce exactly this stream.
        """
        index, others = self._read(stream, n, tuple(size))
        known = len(self._flat)
        if (self.index(others) != known).any() or self._encode(index, others, tuple(size)) != stream:
            raise PayloadError(f"payload holds a stream of {len(stream)} bytes that no encoder makes of {n} images")
        used, inverse = np.unique(index[index < known], return_inverse=True)
        which = np.empty(n, np.int64)
        which[index < known] = inverse
        which[index == known] = len(used) + np.arange(len(others))
        return np.concatenate([self.tables.patterns[used], others]) if len(used) else others, which

    def _read(self, stream: bytes, n: int, size: Sequence[int]) -> tuple[NDArray[np.int64], Integers]:
        """Return the number of each image's pattern, and the symbols of the images without a pattern."""
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
        except (ValueError, AssertionError, OverflowError) as error:
            raise PayloadError(f"payload holds a stream of {len(stream)} bytes that cannot be decoded") from error
        return index.astype(np.int64), others

    def _take(self, decoder: Any, symbols: Integers, rows: NDArray[np.int64], channels: NDArray[np.int64]) -> None:
        """Decode the `channels` of the given `rows` into `symbols`."""
        if not len(rows):
            return
        shape = (len(rows), *symbols.shape[2:])
        count = int(np.prod(shape))
        outside = np.zeros((len(channels), count), bool)
        values = np.zeros((len(channels), count), np.int32)
        for place, channel in enumerate(channels):
            model, last = self._channels[channel]
            read = np.full(count, last, np.int32) if model is None else decoder.decode(model, count)
            outside[place] = read == last
            values[place] = read + self.tables.offset[channel]
        if total := int(outside.sum()):
            low, high = (decoder.decode(_HALVES, total).astype(np.uint32) for _ in range(2))
            values[outside] = (low + HALF * high).view(np.int32)
        symbols[rows[:, None], channels] = values.reshape(len(channels), *shape).swapaxes(0, 1)

    # --- both --------------------------------------------------------------------------------------------------------------

    def index(self, symbols: Integers) -> NDArray[np.int64]:
        """Return the number of each image's pattern, or K if it has none."""
        known = len(self._flat)
        if not len(symbols) or not self._fits(symbols.shape[2:]):
            return np.full(len(symbols), known, np.int64)
        flat = symbols.reshape(len(symbols), -1)
        place = np.searchsorted(self._hashes, flat.astype(np.int64) @ self._mix).clip(max=known - 1)
        found = self._order[place]
        return np.where((self._flat[found] == flat).all(1), found, known)

    def bits(self, symbols: Integers) -> NDArray[np.float64]:
        """Return the information in each image's symbols by the tables, in bits: the stream's length without its end."""
        index = self.index(symbols)
        known = len(self._flat)
        out = self._pattern_bits[index] if self._fits(symbols.shape[2:]) else np.zeros(len(symbols))
        others = np.flatnonzero(index == known)
        if len(others):
            strange = (symbols[others][:, self._quiet] != 0).any(axis=(1, 2, 3))
            out[others] += np.where(strange, 8.0, np.log2(256 / 255)) if len(self._quiet) else 0.0
            for channels, rows in ((self._loud, others), (self._quiet, others[strange])):
                for channel in channels:
                    out[rows] += self._channel_bits(int(channel), symbols[rows, channel])
        return out

    def _channel_bits(self, channel: int, values: Integers) -> NDArray[np.float64]:
        _, last = self._channels[channel]
        index = values.reshape(len(values), int(np.prod(values.shape[1:]))).astype(np.int64) - int(self.tables.offset[channel])
        outside = (index < 0) | (index >= last)
        frequency = np.diff(self.tables.cdf[channel, : last + 2]).clip(min=1)
        bits = PRECISION - np.log2(frequency[np.where(outside, last, index)]) + 32.0 * outside
        return bits.sum(1)  # type: ignore[no-any-return]

    def _fits(self, size: Sequence[int]) -> bool:
        return len(self._flat) > 0 and tuple(size) == tuple(self._shape[1:])


def _shorten(stream: bytes, decodes: Callable[[bytes], bool]) -> bytes:
    """Return the fewest bytes that decode to the same symbols if missing bytes count as zero: a prefix, rounded down or up."""
    number = int.from_bytes(stream, "big")
    for length in range(max(0, len(stream) - 12), len(stream)):
        cut = number >> 8 * (len(stream) - length)
        for candidate in (cut, cut + 1):
            if candidate >> 8 * length == 0:
                short = candidate.to_bytes(length, "big")
                if not short.endswith(b"\0") and decodes(short):
                    return short
    return stream


def _channel(cdf: Integers, length: int) -> tuple[Any, int]:
    """Return the model of a channel's symbols, and the number of the symbol for values outside the table."""
    frequencies = np.diff(cdf[:length]).astype(np.int64)
    last = len(frequencies) - 1
    return (_model(frequencies.clip(min=1)), last) if last else (None, 0)


def _normalise(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scale counts to integers of at least 1 that add up to 2^PRECISION, with integer arithmetic only."""
    total = 1 << PRECISION
    scaled: NDArray[np.int64] = np.maximum(1, counts * (total - len(counts)) // counts.sum())
    scaled[int(np.argmax(scaled))] += total - int(scaled.sum())
    return scaled


def _model(frequencies: NDArray[np.int64]) -> Any:
    return constriction.stream.model.Categorical(frequencies / frequencies.sum(), perfect=False)


_STRANGE = _model(np.array([255, 1]))
_HALVES = constriction.stream.model.Uniform(HALF)
