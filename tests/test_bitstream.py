"""The container: unpacking returns the packed strings, and rejects everything else."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from workbench.bitstream import MAX_IMAGES, TAG_BYTES, pack, pack_stream, unpack, unpack_stream
from workbench.errors import PayloadError, UsageError

KEY = b"png"
BATCHES = {
    "one image": [b"only one image"],
    "one empty image": [b""],
    "one length": [b"abcdefgh", b"ijklmnop", b"qrstuvwx"],
    "many lengths": [b"a", b"", b"bcd" * 50, b"ef"],
    "two empty images": [b"", b""],
}


@given(strings=st.lists(st.binary(max_size=300), min_size=1, max_size=40), key=st.binary(max_size=80))
def test_what_was_packed_comes_out(strings: list[bytes], key: bytes) -> None:
    assert unpack(pack(strings, key), key) == strings


@pytest.mark.parametrize(
    ("strings", "overhead"),
    [
        ([b"x" * 8], 5),
        ([b""] * 600, 8),
        ([b"x" * 8] * 127, 7),
        ([b"x" * 8] * 256, 8),
        ([b"x" * 8, b"y" * 12], 10),
        ([b"x" * 8, b"y" * 12] * 128, 42),
    ],
)
def test_the_overhead_is_what_the_layout_says(strings: list[bytes], overhead: int) -> None:
    payload = pack(strings, KEY)
    assert unpack(payload, KEY) == strings
    assert len(payload) == sum(map(len, strings)) + overhead


# --- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
def test_every_change_of_a_single_byte_is_refused(batch: str) -> None:
    payload = pack(BATCHES[batch], KEY)
    for position, original in enumerate(payload):
        for value in {0, 1, 127, 128, 255, *(original ^ 1 << bit for bit in range(8))} - {original}:
            damaged = bytearray(payload)
            damaged[position] = value
            with pytest.raises(PayloadError):
                unpack(bytes(damaged), KEY)


@pytest.mark.parametrize("batch", BATCHES)
def test_every_truncation_and_extension_is_refused(batch: str) -> None:
    payload = pack(BATCHES[batch], KEY)
    extended = (both for extra in (b"\0", b"\xff", b"\0" * 500) for both in (payload + extra, extra + payload))
    for broken in (*(payload[:cut] for cut in range(len(payload))), *extended):
        with pytest.raises(PayloadError):
            unpack(broken, KEY)


@given(
    strings=st.lists(st.binary(max_size=50), min_size=1, max_size=8), one=st.binary(max_size=80), other=st.binary(max_size=80)
)
def test_another_key_is_refused(strings: list[bytes], one: bytes, other: bytes) -> None:
    assume(one != other)
    with pytest.raises(PayloadError, match="another codec or with other weights"):
        unpack(pack(strings, one), other)


def test_strings_that_changed_places_are_refused() -> None:
    payload = pack([b"aaaa", b"bbbb"], KEY)
    with pytest.raises(PayloadError, match="damaged"):
        unpack(payload[:-8] + b"bbbbaaaa", KEY)


def test_random_bytes_are_refused_and_nothing_else_happens() -> None:
    source = random.Random(0)
    for number in range(5000):
        junk = source.randbytes(source.randrange(64))
        if number % 2:
            junk = bytes([0x10 | number // 2 % 4]) + junk  # a valid first byte, or an invalid one
        with pytest.raises(PayloadError):
            unpack(junk, KEY)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "begins with nothing"),
        (b"\x20abcdefgh", "not a payload of version 1 for this codec: it begins with 20"),
        (b"\x13abcdefgh", "for this codec: it begins with 13"),
        (b"\x14abcdefgh", "begins with 14"),
        (b"\x11\x01\x04" + b"x" * 8, "claims 1 images"),
        (b"\x11\x80\x80\x04\x00" + b"x" * 4, "claims 65536 images"),
        (b"\x12\xff\xff\x03\x08\x04\x01" + b"\x00" * 100, "ends inside the lengths"),
        (b"\x11\x80\x80\x80\x80\x80\x01\x00", "above 2\\^35"),
        (b"\x11\x02\xff\xff\xff\xff\x7f" + b"x" * 8, "cut short or too long for the 2 images"),
        (b"\x10abc", "cut short"),
    ],
)
def test_a_refusal_says_what_is_wrong(payload: bytes, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        unpack(payload, KEY)


def test_a_payload_beyond_256_mib_is_refused_unread() -> None:
    with pytest.raises(PayloadError, match="larger than 256 MiB"):
        unpack(bytes((256 << 20) + 1), KEY)


def test_a_refusal_names_neither_key_nor_content() -> None:
    secret = b"e3b0c44298fc1c14"
    payload = bytearray(pack([b"private picture"], secret))
    payload[-1] ^= 1
    with pytest.raises(PayloadError) as caught:
        unpack(bytes(payload), secret)
    assert "e3b0" not in str(caught.value)
    assert "private" not in str(caught.value)


# --- one stream for the batch ----------------------------------------------------------------------------------------------


@given(stream=st.binary(max_size=300), count=st.integers(1, MAX_IMAGES), key=st.binary(max_size=80))
def test_a_stream_comes_out_with_its_number_of_images(stream: bytes, count: int, key: bytes) -> None:
    payload = pack_stream(stream, count, key)
    assert unpack_stream(payload, key) == (stream, count, 0)
    assert len(payload) - len(stream) - TAG_BYTES == 1 + (count > 1) + (count > 127) + (count > 16_383)


@given(stream=st.binary(max_size=30), count=st.integers(1, 600), data=st.data())
def test_a_changed_stream_is_refused(stream: bytes, count: int, data: st.DataObject) -> None:
    payload = bytearray(pack_stream(stream, count, KEY))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))
    for broken in (bytes(payload), pack_stream(stream, count, KEY)[:position], pack_stream(stream, count, KEY) + b"\0"):
        with pytest.raises(PayloadError):
            unpack_stream(broken, KEY)


def test_strings_and_streams_are_not_taken_for_each_other() -> None:
    with pytest.raises(PayloadError, match="for this codec"):
        unpack(pack_stream(b"abcd", 3, KEY), KEY)
    with pytest.raises(PayloadError, match="for this codec"):
        unpack_stream(pack([b"ab", b"cd"], KEY), KEY)


# --- numbers of images -----------------------------------------------------------------------------------------------------


def test_65535_images_fit() -> None:
    strings = [b"12345678"] * MAX_IMAGES
    payload = pack(strings, KEY)
    assert unpack(payload, KEY) == strings
    assert len(payload) == MAX_IMAGES * 8 + 9
    varied = [b"x" * (index % 3) for index in range(MAX_IMAGES)]
    assert unpack(pack(varied, KEY), KEY) == varied


@pytest.mark.parametrize("n", [0, MAX_IMAGES + 1])
def test_no_image_and_65536_images_are_refused(n: int) -> None:
    with pytest.raises(UsageError, match=f"1 to 65535 images, got {n}"):
        pack([b"x"] * n, KEY)
    with pytest.raises(UsageError, match=f"1 to 65535 images, got {n}"):
        pack_stream(b"x", n, KEY)
