"""Hostile input, derived from valid input with a seed: damaged bytes, pictures, payloads and requests."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tests.support.picture_files import chunk
from workbench import bitstream
from workbench.errors import PayloadError

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 200, 254, 255)
WORDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def png(width: int, height: int, rows: bytes, extra: bytes = b"", bits: int = 8, colour: int = 2, behind: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + behind + chunk(b"IEND", b"")


def jpeg(image: Image.Image, extra: bytes = b"", **options: Any) -> bytes:
    file = picture(image, "JPEG", **options)
    return file[:2] + extra + file[2:]


def picture(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@functools.cache
def pictures() -> dict[str, bytes]:
    ramp = np.arange(32 * 24 * 3, dtype=np.uint32).reshape(24, 32, 3)
    colour = Image.fromarray((ramp * 7 % 256).astype(np.uint8))
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a description"
    deep = Image.fromarray((ramp[..., 0] * 97 % 65536).astype(np.uint16))
    text = chunk(b"tEXt", b"Comment\0words") + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nffff"))
    flat = b"".join(b"\0" + b"\1\2\3" * 8 for _ in range(8))
    return {
        "baseline": picture(colour, "JPEG"),
        "4:4:4": picture(colour, "JPEG", subsampling=0, quality=90),
        "progressive": picture(colour, "JPEG", progressive=True, exif=exif),
        "restarts": picture(colour, "JPEG", restart_marker_blocks=1, icc_profile=bytes(200)),
        "grey": picture(colour.convert("L"), "JPEG", comment=b"words"),
        "cmyk": picture(colour.convert("CMYK"), "JPEG", progressive=True),
        "rgb": picture(colour, "PNG"),
        "alpha": picture(colour.convert("RGBA"), "PNG", exif=exif),
        "palette": picture(colour.quantize(16), "PNG", transparency=3),
        "bits": picture(colour.convert("1"), "PNG"),
        "16 bits": picture(deep, "PNG", icc_profile=bytes(200)),
        "animated": picture(colour, "PNG", save_all=True, append_images=[colour.rotate(90), colour.rotate(180)]),
        "text": png(8, 8, flat, text),
        "interlaced": _interlaced(),
        "digit": picture(colour.resize((32, 32)), "JPEG", quality=90),
    }


def _interlaced() -> bytes:
    sizes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    rows = b"".join(b"\0" + bytes(range(3 * width)) for width, height in sizes for _ in range(height))
    file = png(8, 8, rows)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)
    return PNG + chunk(b"IHDR", header) + file[file.index(b"IDAT") - 4 :]


def mended(file: bytes) -> bytes:
    if not file.startswith(PNG):
        return file
    out, position = bytearray(PNG), len(PNG)
    while position + 12 <= len(file):
        length = int.from_bytes(file[position : position + 4], "big")
        if position + 12 + length > len(file):
            break
        out += chunk(file[position + 4 : position + 8], file[position + 8 : position + 8 + length])
        position += 12 + length
    return bytes(out + file[position:])


def repacked(file: bytes, source: random.Random) -> bytes:
    start = file.find(b"IDAT")
    if not file.startswith(PNG) or start < 0:
        return file
    length = int.from_bytes(file[start - 4 : start], "big")
    try:
        rows = zlib.decompress(file[start + 4 : start + 4 + length])
    except zlib.error:
        return file
    return file[: start - 4] + chunk(b"IDAT", zlib.compress(damaged(rows, source))) + file[start + 8 + length :]


def damaged(whole: bytes, source: random.Random, others: Sequence[bytes] = ()) -> bytes:
    data = bytearray(whole)
    for _ in range(source.choice((1, 1, 1, 2, 2, 3, 4))):
        source.choice(_DAMAGE)(data, source, others)
    return bytes(data[: 1 << 20])


def _place(data: bytearray, source: random.Random) -> int:
    most = len(data) if source.random() < 0.5 else min(len(data), 64)
    return source.randrange(most) if most else 0


def _cut(data: bytearray, source: random.Random, _: Sequence[bytes]) -> None:
    del data[_place(data, source) :]


def _flip(data: bytearray, source: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[_place(data, source)] ^= 1 << source.randrange(8)


def _set(data: bytearray, source: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[_place(data, source)] = source.choice((source.randrange(256), source.choice(NUMBERS)))


def _word(data: bytearray, source: random.Random, _: Sequence[bytes]) -> None:
    length = source.choice((2, 4))
    place = _place(data, source)
    word = (source.choice(WORDS) & ((1 << 8 * length) - 1)).to_bytes(length, source.choice(("big", "little")))
    data[place : place + length] = word


def _double(data: bytearray, source: random.Random, _: Sequence[bytes]) -> None:
    start = _place(data, source)
    part = data[start : start + source.randrange(1, 64)]
    place = _place(data, source)
    data[place:place] = part * source.choice((1, 1, 2, 30))


def _drop(data: bytearray, source: random.Random, _: Sequence[bytes]) -> None:
    start = _place(data, source)
    del data[start : start + source.randrange(1, 32)]


def _noise(data: bytearray, source: random.Random, _: Sequence[bytes]) -> None:
    place = _place(data, source)
    data[place:place] = source.randbytes(source.randrange(1, 24))


def _splice(data: bytearray, source: random.Random, others: Sequence[bytes]) -> None:
    if others and (other := source.choice(others)):
        start = source.randrange(len(other))
        data[_place(data, source) :] = other[start : start + source.randrange(1, len(other) + 1)]


_DAMAGE: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...]
_DAMAGE = (_cut, _flip, _flip, _set, _set, _word, _double, _drop, _noise, _splice)


def retagged(payload: bytes, key: bytes) -> bytes:
    if not payload:
        return payload
    layout, position, count = payload[0] & 15, 1, 1
    try:
        if layout in (bitstream.EQUAL, bitstream.VARIED, bitstream.STREAM):
            count, position = bitstream._read_varint(payload, position)
        if layout == bitstream.EQUAL:
            _, position = bitstream._read_varint(payload, position)
        elif layout == bitstream.VARIED and count <= bitstream.MAX_IMAGES:
            _, position = bitstream._read_lengths(payload, position, count)
    except PayloadError:
        return payload
    header, body = payload[:position], payload[position + bitstream.TAG_BYTES :]
    digest = hashlib.blake2s(header, digest_size=bitstream.TAG_BYTES, key=hashlib.sha256(key).digest())
    digest.update(body)
    return header + digest.digest() + body


ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**19, -(10**19), 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", "image", "payload", "BYTES", "FP64", "UINT8", "BOOL", "label", "scores", "\ud800", "\u0000", "x" * 300, "\U0001f600",
    [], {}, [[]], [1], [-1], [0], [1 << 24], [2, 1 << 40], [[[[[[[[[[1]]]]]]]]]],
    {"binary_data_size": 4}, {"binary_data_size": -1}, {"binary_data": True}, {"binary_data_output": 3},
    {"strength": 10**400}, {"timeout": 10**400}, {"timeout": 1e-300},
)  # fmt: skip
KEYS = ("id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data_size", "timeout", "strength")


def odd_json(whole: Any, source: random.Random) -> bytes:
    content = json.loads(json.dumps(whole))
    for _ in range(source.choice((1, 1, 2, 3))):
        content = _odd(content, source)
    text = json.dumps(content)
    way = source.randrange(12)
    if way == 0 and text.startswith("{"):  # repeated keys
        text = text[:-1] + ("," if len(text) > 2 else "") + json.dumps({source.choice(KEYS): source.choice(ODD)})[1:]
    elif way == 1:
        depth = source.choice((10, 500, 5000))
        text = text.replace("[", "[" * depth, 1).replace("]", "]" * depth, 1)
    elif way == 2:
        return damaged(text.encode("utf-8", "replace"), source)
    elif way == 3:
        text = text.replace("1", "9" * 5000, 1)  # more digits than Python parses
    elif way == 4:
        return text.encode(source.choice(("utf-8", "utf-16", "utf-32", "utf-8-sig")), "replace")
    return text.encode("utf-8", source.choice(("replace", "surrogatepass")))


def _odd(content: Any, source: random.Random) -> Any:
    if isinstance(content, dict) and content and source.random() < 0.85:
        key = source.choice(list(content))
        way = source.randrange(8)
        if way == 0:
            del content[key]
        elif way == 1:
            content[source.choice(KEYS)] = copy.deepcopy(source.choice(ODD))
        elif way == 2:
            content[source.choice(KEYS)] = content.pop(key)
        else:
            content[key] = _odd(content[key], source)
        return content
    if isinstance(content, list) and content and source.random() < 0.85:
        place = source.randrange(len(content))
        if source.randrange(6) == 0:
            return content * source.choice((0, 2, 70)) if len(content) < 100 else []
        content[place] = _odd(content[place], source)
        return content
    return copy.deepcopy(source.choice(ODD))
