"""The rate: the stops of one compressor, from the label to the picture, in payloads and in tables."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.pair import AUXILIARY, TARGET
from workbench import bitstream, plots, weights
from workbench.__main__ import main
from workbench.audit import EFFORTS, Audit, sweeps
from workbench.codecs import CompressAI, Jpeg, Neural
from workbench.data import Dataset, load
from workbench.errors import PayloadError, UsageError
from workbench.evaluation import Evaluation, describe
from workbench.inference import prepare
from workbench.models import NeuralCompressor
from workbench.pictures import to_float
from workbench.rates import LABEL_CHANNELS, gains, rates_of, stop_of
from workbench.weights import Manifest, Pair

STOPS = 5
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return to_float(load("samples").test.images[:6])


@pytest.fixture(scope="module")
def codec(variable: Neural) -> Neural:
    return variable


@pytest.fixture(scope="module")
def compressor(codec: Neural) -> NeuralCompressor:
    return codec.compressor


def test_stops_are_evenly_spread_and_their_steps_become_finer() -> None:
    assert rates_of(STOPS) == RATES
    assert [stop_of(rate, STOPS) for rate in RATES] == list(range(STOPS))
    assert [stop_of(rate, 11) for rate in (0.04, 0.05, 0.3, 0.96, 1)] == [0, 1, 3, 10, 10]
    gain = gains(STOPS)
    assert gain[0] == gain[1]
    assert (gain[2:] > gain[1:-1]).all()


@pytest.mark.parametrize("rate", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_rate_or_a_stop_that_cannot_be_is_refused(codec: Neural, rate: float) -> None:
    with pytest.raises(UsageError, match=f"rate must be between 0 .* got {rate}"):
        codec.at(rate)
    for stop in (-1, 256):
        with pytest.raises(UsageError, match=f"from 0 to 255, got {stop}"):
            bitstream.pack_stream(b"abc", 1, b"key", stop)


def test_a_compressor_of_one_rate_serves_rate_0_alone(neural: Neural) -> None:
    assert neural.rates == (0.0,)
    assert neural.at(0.0).rate == neural.at(None).rate == 0
    with pytest.raises(UsageError, match=r"one rate, 0, got rate 0\.4: train a variable-rate one with `workbench train"):
        neural.at(0.4)
    with pytest.raises(UsageError, match="one rate, 0"):
        Neural(neural.compressor, "x", rate=1.0)


def test_other_codecs_have_no_rate() -> None:
    other = Jpeg()
    assert other.at(None) is other
    with pytest.raises(UsageError, match="codec 'jpeg' has no rate, got 0.5"):
        other.at(0.5)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [1, 6])
def test_a_payload_of_any_rate_is_decoded_by_any_codec(codec: Neural, images: torch.Tensor, rate: float, n: int) -> None:
    payload = codec.at(rate).encode(images[:n])
    symbols = codec.compressor.symbols(images[:n], stop=codec.at(rate).stop)
    expected = codec.compressor.reconstruct(symbols, (32, 32), codec.at(rate).stop).clamp(0, 1)
    for decoder in (codec, codec.at(1.0)):
        assert torch.allclose(decoder.decode(payload), expected, atol=1e-5)
        bits = codec.at(rate).bits(symbols)
        assert decoder.sizes(payload) == pytest.approx((bits / 8).tolist())
    assert 0 <= len(payload) - float(bits.sum()) / 8 < 10, "the information, and the header"


def test_bytes_grow_with_the_rate_and_the_label_stays(codec: Neural, images: torch.Tensor) -> None:
    sizes = [len(codec.at(rate).encode(images)) for rate in RATES]
    assert [describe(codec.at(rate)) for rate in (0.0, 0.5)] == ["neural", "neural rate 0.5"]
    assert sizes == sorted(sizes)
    assert sizes[0] < 10
    assert sizes[-1] > 1.2 * sizes[1]
    label = codec.compressor.symbols(images)[:, :LABEL_CHANNELS]
    for rate in RATES:
        coded, which = codec.unpack(codec.at(rate).encode(images))
        assert torch.equal(codec.latents(coded)[which][:, :LABEL_CHANNELS], label)
        assert bool(codec.latents(coded)[:, LABEL_CHANNELS:].any()) == (rate > 0)


def test_finer_steps_lose_less_of_the_latents(codec: Neural, images: torch.Tensor) -> None:
    y = codec.compressor.latents(images)[:, LABEL_CHANNELS:]
    lost = []
    for stop in range(1, STOPS):
        steps = codec.compressor.steps(stop)[LABEL_CHANNELS:]
        read = codec.compressor.symbols(images, stop=stop)[:, LABEL_CHANNELS:] * steps
        lost.append((read - y).abs().max().item())
        assert lost[-1] <= steps.max() / 2 + 1e-4
    assert lost == sorted(lost, reverse=True)


def test_the_tag_covers_the_stop(codec: Neural, images: torch.Tensor) -> None:
    for n in (1, 3):
        payload = bytearray(codec.at(0.5).encode(images[:n]))
        for stop in {0, 1, 3, 4, 200} - {payload[1]}:
            payload[1] = stop
            with pytest.raises(PayloadError):
                codec.decode(bytes(payload))


def test_a_stop_that_the_compressor_does_not_have_is_refused(codec: Neural, neural: Neural) -> None:
    with pytest.raises(PayloadError, match=f"of stop {STOPS} of the rate, this compressor has {STOPS}"):
        codec.decode(bitstream.pack_stream(b"abc", 1, codec.key, STOPS))
    with pytest.raises(PayloadError, match="of stop 1 of the rate, this compressor has 1"):
        neural.decode(bitstream.pack_stream(b"abc", 3, neural.key, 1))


@pytest.mark.parametrize("stop", [0, 1, 255])
@pytest.mark.parametrize("count", [1, bitstream.MAX_IMAGES])
def test_a_container_says_its_stop_and_how_many_images_it_claims(stop: int, count: int) -> None:
    payload = bitstream.pack_stream(b"abc", count, b"key", stop)
    assert bitstream.unpack_stream(payload, b"key") == (b"abc", count, stop)
    assert bitstream.claimed_images(payload) == count
    plain = bitstream.pack_stream(b"abc", count, b"key")
    assert len(payload) == len(plain) + (stop > 0)
    for end in range(len(payload)):
        with pytest.raises(PayloadError):
            bitstream.unpack_stream(payload[:end], b"key")


def test_hostile_payloads_are_decoded_or_refused_at_every_rate(
    codec: Neural, images: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    source = random.Random(0)
    whole = [(codec.at(rate).stop, n, codec.at(rate).encode(images[:n])) for rate in RATES for n in (1, 6)]
    for number in range(request.config.getoption("--payloads") // 2):
        stop, n, valid = source.choice(whole)
        body = bytearray(valid[len(bitstream.pack_stream(b"", n, codec.key, stop)) :])
        for _ in range(source.randrange(1, 4)):
            if body:
                body[source.randrange(len(body))] = source.randrange(256)
        del body[source.randrange(len(body) + 1) if number % 3 == 0 else len(body) :]
        payload = bitstream.pack_stream(bytes(body), source.choice([1, 6, 200]), codec.key, source.choice([stop, 1, 4]))
        try:
            coded, which = codec.unpack(payload)
            pictures = codec.decode_each(coded)
        except PayloadError:
            continue
        assert pictures.isfinite().all()
        assert int(which.max()) == len(pictures) - 1


def test_images_of_other_sizes_pass_at_every_rate(compressor: NeuralCompressor) -> None:
    wide = Neural(compressor, "ours", size=(32, 48))
    pictures = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    for rate in RATES:
        symbols = compressor.symbols(pictures, stop=wide.at(rate).stop)
        expected = compressor.reconstruct(symbols, (32, 48), wide.at(rate).stop).clamp(0, 1)
        assert torch.allclose(wide.decode(wide.at(rate).encode(pictures)), expected, atol=1e-5)


def test_compressais_coder_sends_the_latents_of_rate_0(compressor: NeuralCompressor, images: torch.Tensor) -> None:
    coder = CompressAI(compressor, "ours")
    decoded = coder.decode(coder.encode(images))
    y = compressor.sent(compressor.latents(images), 0)
    rounded = (y / compressor.steps()).round().int()
    assert torch.allclose(decoded, compressor.reconstruct(rounded, (32, 32)).clamp(0, 1), atol=1e-5)
    assert torch.allclose(compressor.forward(images)["x_hat"].clamp(0, 1), decoded, atol=1e-5)
    with pytest.raises(UsageError, match="has no rate"):
        coder.at(0.5)


@pytest.mark.parametrize("half", [False, True])
def test_one_file_keeps_the_tables_of_all_stops(
    compressor: NeuralCompressor, images: torch.Tensor, empty_data: object, half: bool
) -> None:
    kind, spec = weights.describe(compressor)
    assert spec == {"N": 8, "M": 12, "stops": STOPS}
    weights.save(compressor, Manifest("c", "digits", kind, spec, "untrained", 0), half=half)
    loaded, _ = weights.load("c", "digits", "compressor")
    assert isinstance(loaded, NeuralCompressor)
    for stop in range(STOPS):
        assert all(torch.equal(a, b) for a, b in zip(loaded.tables(stop), compressor.tables(stop), strict=True))
    ours, theirs = Neural(compressor, "same"), Neural(prepare(loaded), "same")
    if not half:
        assert theirs.at(0.5).encode(images) == ours.at(0.5).encode(images)
    for rate in RATES:
        assert theirs.decode(ours.at(rate).encode(images)).shape == images.shape


@pytest.mark.system
def test_commands_measure_at_a_rate(
    tiny_root: Path, tmp_path: Path, variable: Neural, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(shutil.copytree(tiny_root, tmp_path / "data")))
    pair = weights.load_pair("digits", TARGET, AUXILIARY)
    kind, spec = weights.describe(variable.compressor)
    depends = {role: pair.manifests[role].sha256 for role in ("target", "generator")}
    name = weights.compressor_name(TARGET, AUXILIARY)
    weights.save(variable.compressor, Manifest(name, "digits", kind, spec, "untrained", 0, depends=depends))
    named = ("--target", TARGET, "--auxiliary", AUXILIARY, "--json")
    results = []
    for rate in ("0", "0.75"):
        assert main(["evaluate", *named, "--limit", "8", "--strength", "0.5", "--rate", rate]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert [(each["codec"], each["rate"], each["strength"]) for each in results] == [
        ("neural", 0.0, 0.5),
        ("neural rate 0.75", 0.75, 0.5),
    ]
    assert results[0]["s2_bytes"]["value"] < 0.5 * results[1]["s2_bytes"]["value"]
    audit = ("audit", *named, "--limit", "8", "--view", "decoded", "--attacker", "undo", "--seeds", "1")
    assert main([*audit, "--effort", "trial", "--pairs", "20", "--rate", "0.75"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["codec"], result["rate"]) == ("neural rate 0.75", 0.75)


def test_the_surface_covers_every_strength_and_rate(networks: Pair, variable: Neural, digits: Dataset) -> None:
    manifests = {**networks.manifests, "compressor": replace(networks.manifests["compressor"], sha256="variable")}
    pair = replace(networks, compressor=variable.compressor, manifests=manifests)
    rows = Evaluation(pair, digits, limit=12, batch=12).surface([0, 1], [0, 1])
    assert [(row["strength"], row["rate"]) for row in rows] == [(a, r) for a in (0, 1) for r in (0, 1)]
    assert rows[0]["bytes"].value < rows[1]["bytes"].value
    audit = Audit(pair, digits, n=12, seeds=1, pairs=24, effort=EFFORTS["trial"])
    attacks = sweeps.of_surface(audit, [0, 1], [0, 1])
    assert [(row["strength"], row["rate"]) for row in attacks] == [(row["strength"], row["rate"]) for row in rows]
    assert all(row["over"] == max(0.0, row["over_control"].value) for row in attacks)
    joined = [{**row, "over": attack["over"]} for row, attack in zip(rows, attacks, strict=True)]
    figure = plots.surface(joined, "a title")
    assert [len(axis.texts) for axis in figure.axes[:4]] == [4] * 4
    assert len(plots.surface_front(joined, "a title").axes) == 3
