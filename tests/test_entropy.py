"""The batch's entropy coder: lossless for any latents, close to their information, and strict on any other bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from workbench.entropy import MAX_PATTERNS, Integers, LatentCoder, Tables, learn_patterns
from workbench.errors import PayloadError
from workbench.models import NeuralCompressor

M, SIZE = 12, (2, 2)


def tables(patterns: Integers | None = None, counts: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None) -> Tables:
    """CompressAI's own integer tables of an untrained entropy model, with the given patterns."""
    torch.manual_seed(0)
    compressor = NeuralCompressor(N=8, M=M)
    compressor.update(force=True, update_quantiles=True)
    cdf, offset, length = (table.numpy().astype(np.int32) for table in compressor.tables())
    if patterns is None or counts is None:
        patterns, counts = np.zeros((0, M, 1, 1), np.int32), np.ones(1, np.int64)
    return Tables(cdf, offset, length, patterns, counts)


def sources() -> Integers:
    """Latents like a trained compressor's: 10 common patterns on four active channels, and images equal or close to them."""
    generator = np.random.default_rng(0)
    usual = np.zeros((10, M, *SIZE), np.int32)
    usual[:, :4] = generator.integers(-2, 3, (10, 4, *SIZE))
    symbols = usual[generator.choice(10, 400, p=np.arange(1, 11) / 55)]
    for row in generator.choice(400, 60, replace=False):
        symbols[row, generator.integers(4), generator.integers(2), generator.integers(2)] += generator.integers(-3, 4)
    symbols[7, 9, 0, 0] = 1  # one value in a silent channel
    return symbols


SYMBOLS = sources()
CODERS = {"patterns": LatentCoder(tables(*learn_patterns(SYMBOLS[:300]))), "plain": LatentCoder(tables())}


@pytest.fixture(params=CODERS)
def coder(request: pytest.FixtureRequest) -> LatentCoder:
    return CODERS[request.param]


def restored(coder: LatentCoder, symbols: Integers) -> Integers:
    distinct, which = coder.decode(coder.encode(symbols), len(symbols), symbols.shape[2:])
    return distinct[which]


LATENTS: list[st.SearchStrategy[int]] = [st.integers(-2, 2), st.integers(-300, 300), st.integers(-(1 << 31), (1 << 31) - 1)]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), size=st.sampled_from([(1, 1), (2, 2), (1, 3)]), kind=st.sampled_from(LATENTS))
@pytest.mark.parametrize("name", CODERS)
def test_any_latents_of_32_bits_come_back(
    name: str, data: st.DataObject, n: int, size: tuple[int, int], kind: st.SearchStrategy[int]
) -> None:
    symbols = data.draw(arrays.arrays(np.int32, (n, M, *size), elements=kind, fill=st.just(0)))
    assert np.array_equal(restored(CODERS[name], symbols), symbols)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.integers(0, len(SYMBOLS) - 1), min_size=1, max_size=300))
@pytest.mark.parametrize("name", CODERS)
def test_usual_latents_cost_little_more_than_their_information(name: str, rows: list[int]) -> None:
    coder, symbols = CODERS[name], SYMBOLS[rows]
    assert np.array_equal(restored(coder, symbols), symbols)
    excess = 8 * len(coder.encode(symbols)) - coder.bits(symbols).sum()
    assert excess <= 10 + 0.01 * coder.bits(symbols).sum()


def test_equal_latents_are_decoded_once() -> None:
    coder = CODERS["patterns"]
    distinct, which = coder.decode(coder.encode(SYMBOLS), len(SYMBOLS), SIZE)
    known = coder.index(SYMBOLS) < len(coder.tables.patterns)
    assert known.mean() > 0.8
    assert len(distinct) == len(set(coder.index(SYMBOLS)[known])) + (~known).sum()
    assert (which.min(), which.max()) == (0, len(distinct) - 1)
    assert len(coder.encode(SYMBOLS)) < 0.25 * len(CODERS["plain"].encode(SYMBOLS)), "patterns cost less"


def test_a_single_pattern_costs_nothing_at_all() -> None:
    silent = np.zeros((50, M, *SIZE), np.int32)
    coder = LatentCoder(tables(*learn_patterns(silent)))
    assert len(coder.encode(silent)) <= 1
    assert np.array_equal(restored(coder, silent), silent)


def test_latents_of_another_size_are_coded_one_by_one() -> None:
    other = np.ones((3, M, 2, 3), np.int32)
    assert (CODERS["patterns"].index(other) == len(CODERS["patterns"].tables.patterns)).all()
    assert np.array_equal(restored(CODERS["patterns"], other), other)


def test_the_stream_ends_with_the_last_byte_that_matters(coder: LatentCoder) -> None:
    for n in (1, 7, 50):
        stream = coder.encode(SYMBOLS[:n])
        assert stream == LatentCoder(coder.tables).encode(SYMBOLS[:n]), "the same bytes from another coder"
        assert not stream.endswith(b"\0")
        for cut in range(1, len(stream) + 1):
            try:
                distinct, which = coder.decode(stream[:-cut], n, SIZE)
            except PayloadError:
                continue
            assert not np.array_equal(distinct[which], SYMBOLS[:n])


# --- what is learnt --------------------------------------------------------------------------------------------------------


def test_patterns_are_the_repeated_ones_commonest_first() -> None:
    rows = np.repeat(np.array([0, 200, 1, 2, 3], np.int32), [5, 4, 1, 3, 1])[:, None, None, None]
    patterns, counts = learn_patterns(rows)
    assert patterns.ravel().tolist() == [0, 2]  # 200 needs more than 8 bits
    assert counts.tolist() == [5, 3, 7]  # six others, and one is added for unseen patterns


def test_patterns_are_limited_in_number() -> None:
    rows = np.repeat(np.indices((33, 33), np.int32).reshape(2, -1).T, 2, 0)[..., None, None]
    patterns, counts = learn_patterns(rows)
    assert len(patterns) == MAX_PATTERNS == 1024
    assert counts[-1] == len(rows) - 2 * MAX_PATTERNS + 1


# --- refusals --------------------------------------------------------------------------------------------------------------


def mutate(stream: bytes, source: random.Random) -> bytes:
    out = bytearray(stream)
    for _ in range(source.randrange(1, 4)):
        start = source.randrange(len(out) + 1)
        new = source.choice([b"", source.randbytes(source.randrange(1, 5)), out[start:]])
        out[start : source.choice([start, start + 1, len(out)])] = new
    return bytes(out)


def test_other_bytes_are_refused_or_are_what_an_encoder_makes(coder: LatentCoder, request: pytest.FixtureRequest) -> None:
    source = random.Random(0)
    whole = {n: coder.encode(SYMBOLS[:n]) for n in (1, 2, 5, 40)}
    for number in range(2 * request.config.getoption("--payloads")):
        n = source.choice([1, 1, 2, 5, 40])
        stream = mutate(whole[n], source) if number % 2 else source.randbytes(source.randrange(40))
        try:
            distinct, which = coder.decode(stream, n, SIZE)
        except PayloadError:
            continue
        assert coder.encode(distinct[which]) == stream


def test_a_stream_for_another_number_of_images_is_refused(coder: LatentCoder) -> None:
    stream = coder.encode(SYMBOLS[:40])
    for n in (39, 41, 200):
        with pytest.raises(PayloadError, match="no encoder makes|cannot be decoded"):
            coder.decode(stream, n, SIZE)
