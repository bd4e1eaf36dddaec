"""The byte format of payloads to the cloud. A payload carries one batch of images, with a version, lengths and a tag.

A payload holds either one string of bytes for each image, or one stream of bytes for all images of the batch. A codec can offer
several rates, from few bytes to good images. It numbers them from 0, and such a number is called a stop.

::

    byte 0        version (high nibble) and layout (low nibble). The layouts are:
                  0 one image, 1 strings of equal length, 2 strings of different lengths, 3 one stream for all images,
                  4 one image at a stop above 0, 5 one stream for all images at a stop above 0
    byte          the stop, 1 to 255                                                                    layouts 4 and 5
    varint        number of images            layouts 1 to 3, 5
    length        varint                                                                                      layout 1
    lengths       varints least, unit, width, then for each image (length - least) / unit in `width` bits     layout 2
    4 bytes       BLAKE2s tag of all bytes before and after it, keyed with the codec's key
    bytes         the strings, one after another, or the stream

The tag shows that no byte is missing or changed, and that this codec with these weights made the payload. A damaged or foreign
payload passes this check with a probability of 1 in 4 billion. The cloud then returns a wrong label. The codec's key is no
secret, because the transport authenticates the sender. Without tag and stop, the header of a stream has 1 byte for one image, 3
bytes for 256 images, and at most 4 bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence

import numpy as np

from .errors import PayloadError, UsageError

__all__ = ["MAX_IMAGES", "TAG_BYTES", "claimed_images", "pack", "pack_stream", "unpack", "unpack_stream"]

VERSION = 1
TAG_BYTES = 4
MAX_IMAGES = 65_535
MAX_PAYLOAD = 256 << 20
MAX_STOP = 255
SINGLE, EQUAL, VARIED, STREAM, SINGLE_AT_STOP, STREAM_AT_STOP = range(6)
ONE_IMAGE, AT_STOP = (SINGLE, SINGLE_AT_STOP), (SINGLE_AT_STOP, STREAM_AT_STOP)


def pack(strings: Sequence[bytes], key: bytes) -> bytes:
    """Return the payload of 1 to 65,535 images. `strings` are the coded images, one byte string for each image.

    `key` identifies the codec and its weights (`Codec.key`). Only a call of `unpack` with the same key accepts the payload.
    """
    if not 1 <= len(strings) <= MAX_IMAGES:
        raise UsageError(f"a payload holds 1 to {MAX_IMAGES} images, got {len(strings)}")
    lengths = [len(string) for string in strings]
    layout = SINGLE if len(strings) == 1 else EQUAL if len(set(lengths)) == 1 else VARIED
    header = bytes([VERSION << 4 | layout])
    if layout != SINGLE:
        header += _varint(len(strings)) + (_varint(lengths[0]) if layout == EQUAL else _pack_lengths(lengths))
    body = b"".join(strings)
    return header + _tag(header, body, key) + body


def pack_stream(stream: bytes, count: int, key: bytes, stop: int = 0) -> bytes:
    """Return the payload of `count` images (1 to 65,535) that are coded as one `stream`.

    `stop` is the number of the codec's rate, 0 to 255. `key` identifies the codec and its weights (`Codec.key`).
    """
    if not 1 <= count <= MAX_IMAGES:
        raise UsageError(f"a payload holds 1 to {MAX_IMAGES} images, got {count}")
    if not 0 <= stop <= MAX_STOP:
        raise UsageError(f"a stop of the rate is from 0 to {MAX_STOP}, got {stop}")
    single, several = AT_STOP if stop else (SINGLE, STREAM)
    header = bytes([VERSION << 4 | (single if count == 1 else several)]) + (bytes([stop]) if stop else b"")
    header += b"" if count == 1 else _varint(count)
    return header + _tag(header, stream, key) + stream


def claimed_images(payload: bytes) -> int:
    """Return the number of images that a payload's header claims. Neither this number nor the rest of the payload is checked.

    Invalid bytes count as 1 image.
    """
    if not payload or payload[0] >> 4 != VERSION or payload[0] & 15 not in (EQUAL, VARIED, STREAM, STREAM_AT_STOP):
        return 1
    try:
        return _read_varint(payload, 2 if payload[0] & 15 == STREAM_AT_STOP else 1)[0]
    except PayloadError:
        return 1


def unpack(payload: bytes, key: bytes) -> list[bytes]:
    """Return the strings of a payload, one for each image.

    Raises PayloadError if the payload is damaged, or was made with another `key`.
    """
    _, lengths, body, _ = _open(payload, key, (SINGLE, EQUAL, VARIED))
    ends = np.cumsum(lengths).tolist()
    return [body[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def unpack_stream(payload: bytes, key: bytes) -> tuple[bytes, int, int]:
    """Return the stream, the number of images and the stop of a payload.

    Raises PayloadError if the payload is damaged, or was made with another `key`.
    """
    count, _, body, stop = _open(payload, key, (SINGLE, STREAM, *AT_STOP))
    return body, count, stop


def _open(payload: bytes, key: bytes, layouts: tuple[int, ...]) -> tuple[int, list[int], bytes, int]:
    """Return a payload's number of images, the lengths of its strings, the bytes after the tag, and the stop.

    Raises PayloadError if the header or the tag is wrong, or if the payload's layout is not one of `layouts`.
    """
    if len(payload) > MAX_PAYLOAD:
        raise PayloadError(f"payload of {len(payload)} bytes is larger than {MAX_PAYLOAD >> 20} MiB")
    if not payload or payload[0] >> 4 != VERSION or payload[0] & 15 not in layouts:
        raise PayloadError(
            f"not a payload of version {VERSION} for this codec: it begins with {payload[:1].hex() or 'nothing'}"
        )
    layout, position, count, stop = payload[0] & 15, 1, 1, 0
    lengths: list[int] = []
    if layout in AT_STOP:
        stop, position = payload[1] if len(payload) > 1 else 0, 2
        if stop == 0:
            raise PayloadError("payload names no stop of its rate")
    if layout not in ONE_IMAGE:
        count, position = _read_varint(payload, position)
        if not 2 <= count <= MAX_IMAGES:
            raise PayloadError(f"payload claims {count} images; 2 to {MAX_IMAGES} can be")
        if layout == EQUAL:
            length, position = _read_varint(payload, position)
            lengths = [length] * count
        elif layout == VARIED:
            lengths, position = _read_lengths(payload, position, count)
    header, tag, body = payload[:position], payload[position : position + TAG_BYTES], payload[position + TAG_BYTES :]
    if layout in (SINGLE, STREAM, *AT_STOP):
        lengths = [len(body)]
    if len(tag) != TAG_BYTES or sum(lengths) != len(body):
        raise PayloadError(f"payload of {len(payload)} bytes is cut short or too long for the {count} images it claims")
    if not hmac.compare_digest(tag, _tag(header, body, key)):
        raise PayloadError("payload was damaged, or made by another codec or with other weights: its tag does not fit")
    return count, lengths, body, stop


def _tag(header: bytes, body: bytes, key: bytes) -> bytes:
    digest = hashlib.blake2s(header, digest_size=TAG_BYTES, key=hashlib.sha256(key).digest())
    digest.update(body)
    return digest.digest()


def _pack_lengths(lengths: Sequence[int]) -> bytes:
    least = min(lengths)
    unit = math.gcd(*(length - least for length in lengths)) or 1
    steps = (np.array(lengths) - least) // unit
    width = int(steps.max()).bit_length()
    bits = steps[:, None] >> np.arange(width) & 1
    return _varint(least) + _varint(unit) + _varint(width) + np.packbits(bits.astype(np.uint8)).tobytes()


def _read_lengths(payload: bytes, position: int, count: int) -> tuple[list[int], int]:
    least, position = _read_varint(payload, position)
    unit, position = _read_varint(payload, position)
    width, position = _read_varint(payload, position)
    end = position + (count * width + 7) // 8
    if width > 32 or end > len(payload):
        raise PayloadError("payload ends inside the lengths of its images")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8, end - position, position), count=count * width)
    steps = bits.reshape(count, width) @ (1 << np.arange(width, dtype=np.int64))
    return [least + unit * int(step) for step in steps], end


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(payload: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(payload):
            break
        byte = payload[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise PayloadError("payload ends inside its header, or holds a number above 2^35")
