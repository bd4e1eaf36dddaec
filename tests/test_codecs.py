"""The contract of every codec, and the tests of each codec alone."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.networks import spread_compressor
from tests.support.picture_files import png_claiming
from workbench import bitstream
from workbench.codecs import CODECS, Codec, CompressAI, Jpeg, Neural, Png, WebP, codec
from workbench.data import load
from workbench.entropy import learn_patterns
from workbench.errors import PayloadError, UsageError
from workbench.metrics import psnr
from workbench.models import NeuralCompressor
from workbench.pictures import to_float, to_uint8
from workbench.system import codec_for
from workbench.weights import Pair

MAKE: dict[str, Callable[[], Codec]] = {
    "png": Png,
    "jpeg 4:4:4": Jpeg,
    "jpeg 4:2:0": lambda: Jpeg(80, "4:2:0"),
    "webp lossy": WebP,
    "webp lossless": lambda: WebP(lossless=True),
    "neural": lambda: Neural(spread_compressor(0), identity="a" * 64),
    "compressai": lambda: CompressAI(spread_compressor(0), identity="a" * 64),
}
LOSSLESS = ("png", "webp lossless")


@pytest.fixture(scope="module")
def made() -> dict[str, Codec]:
    return {name: make() for name, make in MAKE.items()}


@pytest.fixture(params=MAKE)
def coder(request: pytest.FixtureRequest, made: dict[str, Codec]) -> Codec:
    return made[request.param]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return to_float(load("samples").test.images[:6])


# --- the contract ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 6])
def test_a_batch_comes_back_in_its_shape_between_0_and_1(coder: Codec, images: torch.Tensor, n: int) -> None:
    given_images = images[:n].clone().requires_grad_()
    payload = coder.encode(given_images)
    assert type(payload) is bytes
    assert coder.encode(images[:n].contiguous(memory_format=torch.channels_last)) == payload
    assert torch.equal(given_images, images[:n])
    decoded = coder.decode(payload)
    assert (decoded.shape, decoded.dtype) == ((n, 3, 32, 32), torch.float32)
    assert 0 <= decoded.min() <= decoded.max() <= 1


@pytest.mark.parametrize("lossless", LOSSLESS)
def test_a_lossless_codec_is_exact_at_8_bits(made: dict[str, Codec], images: torch.Tensor, lossless: str) -> None:
    coder = made[lossless]
    assert torch.equal(coder.decode(coder.encode(images)), images)
    finer = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_uint8(coder.decode(coder.encode(finer))), to_uint8(finer))


@pytest.mark.parametrize(("lossy", "at_least"), [("jpeg 4:4:4", 30), ("jpeg 4:2:0", 25), ("webp lossy", 27)])
def test_a_lossy_codec_stays_close(made: dict[str, Codec], images: torch.Tensor, lossy: str, at_least: float) -> None:
    noise = psnr(images, made[lossy].decode(made[lossy].encode(images)))
    assert noise.min() > at_least
    assert noise.isfinite().all()


def test_images_keep_their_order(coder: Codec, images: torch.Tensor) -> None:
    order = [3, 0, 5, 1, 4, 2]
    decoded = coder.decode(coder.encode(images))
    assert torch.allclose(coder.decode(coder.encode(images[order])), decoded[order], atol=1e-5)
    assert not torch.allclose(decoded[0], decoded[1], atol=0.02)


def test_sizes_and_the_header_add_up_to_the_payload(coder: Codec, images: torch.Tensor) -> None:
    for n in (1, 6):
        payload = coder.encode(images[:n])
        sizes = coder.sizes(payload)
        header = len(payload) - sum(sizes)
        assert len(sizes) == n
        if coder.name == "neural":
            assert 5 - 0.5 < header < (7 if n == 1 else 8)  # the information in the latents, rounded up to whole bytes
        else:
            assert header == 5 if n == 1 else 6 < header <= 6 + 6 + 2 * n


WRONG = {
    "uint8": torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    "one image": torch.zeros(3, 32, 32),
    "grey": torch.zeros(2, 1, 32, 32),
    "channels last": torch.zeros(2, 32, 32, 3),
    "none": torch.zeros(0, 3, 32, 32),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_are_no_images_is_refused(made: dict[str, Codec], wrong: str) -> None:
    for coder in made.values():
        with pytest.raises(UsageError, match="expected float images N x 3 x H x W"):
            coder.encode(WRONG[wrong])


@pytest.mark.parametrize("other", MAKE)
def test_another_codecs_payload_is_refused(other: str, made: dict[str, Codec], images: torch.Tensor) -> None:
    payload = made[other].encode(images[:2])
    for name, coder in made.items():
        if name.split()[0] == other.split()[0]:
            assert coder.decode(payload).shape == (2, 3, 32, 32)  # decoders of a format ignore the encoder's options
            continue
        for refuse in (coder.decode, coder.sizes):
            with pytest.raises(PayloadError, match="another codec|for this codec"):
                refuse(payload)


@pytest.mark.parametrize("n", [1, 3])
def test_a_damaged_payload_is_refused(coder: Codec, images: torch.Tensor, n: int) -> None:
    payload = coder.encode(images[:n])
    for position in {0, 1, 4, 6, len(payload) // 2, len(payload) - 1}:
        damaged = bytearray(payload)
        damaged[position] ^= 0x10
        for broken in (bytes(damaged), payload[:position], payload + b"\0"):
            with pytest.raises(PayloadError):
                coder.decode(broken)


# --- files of images -------------------------------------------------------------------------------------------------------


def file(kind: str, side: int = 16, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 80).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


FORMATS: list[type[Png | Jpeg | WebP]] = [Png, Jpeg, WebP]


@pytest.mark.parametrize("kind", FORMATS)
def test_images_of_any_size_pass_and_are_clamped(kind: type[Png | Jpeg | WebP]) -> None:
    coder = kind()
    for size in ((17, 40), (8, 8), (1, 1)):
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).round()
        payload = coder.encode(images)
        assert coder.decode(payload).shape == (2, 3, *size)
        assert coder.encode(images * 3 - 1) == payload, "values outside [0, 1] are clamped"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_payload_with_wrong_content_is_refused(kind: type[Png | Jpeg | WebP]) -> None:
    coder = kind()
    whole = coder.encode_each(torch.rand(1, 3, 16, 16))[0]
    other = file("PNG" if coder.format != "PNG" else "JPEG")
    for strings in ([b""], [b"no image"], [whole, whole[: len(whole) // 2]], [other]):
        with pytest.raises(PayloadError, match=f"holds no whole {coder.format} image"):
            coder.decode(bitstream.pack(strings, coder.key))
    with pytest.raises(PayloadError, match="differ in size"):
        coder.decode(bitstream.pack([file(coder.format, 16), file(coder.format, 24)], coder.key))


@pytest.mark.parametrize("side", [4097, 50_000])
def test_an_image_that_claims_long_sides_is_refused_undecoded(side: int) -> None:
    with pytest.raises(PayloadError):
        Png().decode(bitstream.pack([png_claiming(side, side)], Png().key))


def test_a_small_payload_that_claims_too_much_is_refused() -> None:
    blank = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(blank, "PNG")
    with pytest.raises(PayloadError):
        Png().decode(bitstream.pack([blank.getvalue(), *[b""] * (bitstream.MAX_IMAGES - 1)], Png().key))


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=10))
def test_a_damaged_file_under_a_right_tag_is_decoded_or_refused(
    kind: type[Png | Jpeg | WebP], changes: list[tuple[int, int]]
) -> None:
    coder = kind()
    damaged = bytearray(DAMAGED[coder.format])
    for position, value in changes:
        damaged[position % len(damaged)] = value
    with contextlib.suppress(PayloadError):
        assert coder.decode(bitstream.pack([bytes(damaged)], coder.key)).shape[:2] == (1, 3)


DAMAGED = {kind.format: file(kind.format) for kind in FORMATS}


def test_a_large_image_of_noise_is_encoded() -> None:
    noise = torch.rand(1, 3, 600, 600, generator=torch.Generator().manual_seed(0))
    for quality in (75, 95):
        jpeg = Jpeg(quality)
        assert jpeg.decode(jpeg.encode(noise)).shape == noise.shape


def test_jpeg_keeps_full_colour_and_webp_has_its_quality(images: torch.Tensor) -> None:
    def bytes_of(coder: Codec) -> int:
        return len(coder.encode(images))

    assert bytes_of(Jpeg(89, "4:2:0")) < bytes_of(Jpeg(89, "4:2:2")) < bytes_of(Jpeg(89, "4:4:4")) < bytes_of(Jpeg(95))
    assert bytes_of(WebP(10)) < bytes_of(WebP(90))
    with Image.open(io.BytesIO(Jpeg().encode_each(images[:1])[0])) as picture:
        assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3


# --- neural ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["neural", "compressai"])
def test_neural_decodes_to_its_compressors_own_rounded_forward(
    made: dict[str, Codec], images: torch.Tensor, which: str
) -> None:
    coder = made[which]
    assert isinstance(coder, Neural | CompressAI)
    expected = coder.compressor.eval()(images)["x_hat"].clamp(0, 1)
    assert torch.allclose(coder.decode(coder.encode(images)), expected, atol=1e-4)
    assert expected.std(0).mean() > 0.01


def test_the_pairs_codec_is_keyed_by_its_weights_hash(networks: Pair) -> None:
    coder = codec_for(networks, "neural")
    assert isinstance(coder, Neural)
    assert (coder.identity, coder.compressor) == (networks.manifests["compressor"].sha256, networks.compressor)


@pytest.mark.parametrize("kind", [Neural, CompressAI])
def test_neural_refuses_payloads_of_other_weights_or_size(images: torch.Tensor, kind: type[Neural | CompressAI]) -> None:
    ours, wide = kind(spread_compressor(0), "ours"), kind(spread_compressor(0), "ours", size=(32, 48))
    payload = ours.encode(images)
    for other in (kind(spread_compressor(1), "theirs"), wide):
        with pytest.raises(PayloadError, match="other weights"):
            other.decode(payload)
    assert wide.decode(wide.encode(torch.rand(2, 3, 32, 48))).shape == (2, 3, 32, 48)


def test_compressai_strings_are_at_least_two_words_of_4_bytes(made: dict[str, Codec], images: torch.Tensor) -> None:
    coder = made["compressai"]
    assert isinstance(coder, CompressAI)
    strings = coder.encode_each(images)
    assert all(len(string) >= 8 and len(string) % 4 == 0 for string in strings)
    assert len(set(strings)) == len(images)
    for string in (b"", b"1234", b"1234567", b"123456789"):
        with pytest.raises(PayloadError, match="no whole number of 4-byte words"):
            coder.decode(bitstream.pack([b"12345678", string], coder.key))


def test_neural_needs_entropy_tables_and_images_of_its_size(made: dict[str, Codec]) -> None:
    with pytest.raises(UsageError, match=r"takes images of \(32, 32\), got \(32, 48\)"):
        made["neural"].encode(torch.rand(1, 3, 32, 48))
    with pytest.raises(UsageError, match="no entropy tables"):
        Neural(NeuralCompressor(8, 12), "new")


def learnt(images: torch.Tensor) -> Neural:
    compressor = spread_compressor(0)
    patterns, counts = learn_patterns(compressor.symbols(images[:3].repeat(4, 1, 1, 1)).numpy())
    compressor.patterns, compressor.pattern_counts = torch.from_numpy(patterns).to(torch.int8), torch.from_numpy(counts)
    return Neural(compressor, "ours")


def test_hostile_payloads_of_one_rate_are_decoded_or_refused(images: torch.Tensor, request: pytest.FixtureRequest) -> None:
    coder, source = learnt(images), random.Random(0)
    whole = [coder.encode(images[:n])[6:] for n in (4, 5, 6)]
    for number in range(request.config.getoption("--payloads")):
        body = bytearray(source.choice(whole))
        for _ in range(source.randrange(1, 4)):
            body[source.randrange(len(body))] = source.randrange(256)
        del body[source.randrange(len(body)) if number % 3 == 0 else len(body) :]
        payload = bitstream.pack_stream(bytes(body), source.choice([1, 3, 6, 200]), coder.key)
        with contextlib.suppress(PayloadError):
            coded, which = coder.unpack(payload)
            assert coder.decode_each(coded).isfinite().all()
            assert int(which.max()) == len(coded) - 1


def test_known_latents_cost_bits_equal_ones_are_decoded_once(images: torch.Tensor) -> None:
    coder = learnt(images)
    batch = images[[0, 1, 0, 2, 1, 0, 0, 0]]
    payload = coder.encode(batch)
    assert len(payload) - bitstream.TAG_BYTES - 2 <= 3  # eight times log2(3) bits
    coded, which = coder.unpack(payload)
    assert len(coded) == len(set(coded)) == 3
    assert torch.equal(coder.decode_each(coded)[which], coder.decode(payload))
    assert torch.allclose(coder.decode(payload), spread_compressor(0).eval()(batch)["x_hat"].clamp(0, 1), atol=1e-4)
    known, unknown = coder.sizes(payload), coder.sizes(coder.encode(images[3:]))
    assert max(known) < 0.3 < min(unknown)
    plain = Neural(spread_compressor(0), "ours")
    assert torch.allclose(coder.decode(coder.encode(images)), plain.decode(plain.encode(images)), atol=1e-5)


def choosing(images: torch.Tensor) -> NeuralCompressor:
    """Return a compressor with three patterns, whose reader predicts the class from the first latents."""
    compressor = learnt(images).compressor
    y = compressor.patterns.flatten(1).float()
    compressor.reader = torch.cat([10 * y, -5 * y.square().sum(1, keepdim=True)], 1)  # the nearest pattern's number
    compressor.answers = torch.full((3, 3), 0.1) + 0.7 * torch.eye(3)
    return compressor


def test_a_compressor_with_a_reader_sends_patterns_only(images: torch.Tensor) -> None:
    compressor = choosing(images)
    coder = Neural(compressor, "ours")
    y = compressor.latents(images)
    nearest = torch.cdist(y.flatten(1), compressor.patterns.flatten(1).float()).argmin(1)
    assert torch.equal(compressor.symbols(images), compressor.patterns[nearest].int())
    coded, which = coder.unpack(coder.encode(images))
    assert len(coded) <= 3 < len(images)
    assert max(coder.sizes(coder.encode(images))) < 0.3, "log2(3) bits"
    wide = torch.rand(2, 3, 32, 48)
    assert torch.equal(compressor.symbols(wide), compressor.latents(wide).round().int()), "rounded at another size"
    assert torch.equal(
        torch.frombuffer(bytearray(coded[int(which[0])]), dtype=torch.int32), compressor.patterns[nearest[0]].int().flatten()
    )


def test_a_heavy_bit_makes_all_images_the_commonest_pattern(images: torch.Tensor) -> None:
    compressor = choosing(images)
    compressor.pattern_counts = torch.tensor([1, 8, 1, 1])
    assert len(Neural(compressor, "ours", rate_weight=0.0).unpack(Neural(compressor, "ours").encode(images))[0]) > 1
    coded, _ = Neural(compressor, "ours").unpack(Neural(compressor, "ours", rate_weight=100.0).encode(images))
    assert torch.equal(torch.frombuffer(bytearray(coded[0]), dtype=torch.int32), compressor.patterns[1].int().flatten())
    assert len(coded) == 1


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_the_weight_of_a_bit_is_a_number_from_0_up(weight: float) -> None:
    with pytest.raises(UsageError, match=f"from 0 up, got {weight}"):
        Neural(spread_compressor(0), "ours", rate_weight=weight)


def test_latents_that_overflow_the_decoder_are_refused(images: torch.Tensor) -> None:
    coder = learnt(images)
    latents = coder.compressor.symbols(images[:2]).numpy()
    for huge in (2**31 - 1, -(2**31)):
        latents[1] = huge
        payload = bitstream.pack_stream(coder.coder(0).encode(latents), 2, coder.key)
        with torch.no_grad():
            if coder.compressor.reconstruct(torch.from_numpy(latents), (32, 32)).isfinite().all():
                coder.compressor.g_s[-1].weight.mul_(float("inf"))  # an overflow anywhere must show in the picture
        with pytest.raises(PayloadError, match="decode to no picture"):
            coder.decode(payload)


# --- by name ---------------------------------------------------------------------------------------------------------------


def test_the_registry_names_each_codec_as_it_names_itself() -> None:
    names = ("png", "jpeg", "webp", "neural", "compressai")
    assert {name: kind.name for name, kind in CODECS.items()} == {name: name for name in names}
    made = codec("jpeg", quality=50, subsampling="4:2:0")
    assert isinstance(made, Jpeg)
    assert (made.quality, made.subsampling) == (50, "4:2:0")


def test_an_unknown_codec_and_an_unknown_option_are_named() -> None:
    with pytest.raises(UsageError, match="unknown codec 'jpg': did you mean 'jpeg'"):
        codec("jpg")
    with pytest.raises(UsageError, match="codec 'png' does not take quality"):
        codec("png", quality=9)
    with pytest.raises(UsageError, match="unknown chroma subsampling '444': did you mean '4:4:4'"):
        codec("jpeg", subsampling="444")


OUT_OF_RANGE = [(Jpeg, 0, 95), (Jpeg, 96, 95), (Jpeg, 89.5, 95), (Jpeg, "89", 95), (WebP, 0, 100), (WebP, 101, 100)]


@pytest.mark.parametrize(("kind", "quality", "most"), [*OUT_OF_RANGE, (WebP, None, 100)])
def test_a_quality_out_of_range_is_refused(kind: type[Jpeg | WebP], quality: Any, most: int) -> None:
    with pytest.raises(UsageError, match=f"from 1 to {most}, got {quality!r}"):
        kind(quality)
