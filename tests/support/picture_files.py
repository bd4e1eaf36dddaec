"""PNG and TIFF files written byte by byte, so that a test's expected values do not depend on Pillow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims `width` x `height` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


def png(width: int, depth: int, colour: int, rows: Sequence[bytes], *before: bytes) -> bytes:
    """Return a PNG of unfiltered rows. `before` are chunks that precede the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *before, pixels, chunk(b"IEND", b"")])


def tiff(
    width: int,
    height: int,
    bits: int,
    pixels: bytes,
    photometric: int = 1,
    samples: int = 1,
    kind: int = 1,
    order: str = "<",
    extra: int | None = None,
    orientation: int | None = None,
    palette: Sequence[int] = (),
) -> bytes:
    """Return an uncompressed TIFF of one strip. `order` is the byte order, `kind` the SampleFormat."""
    short, long = "H", "I"
    fields: list[tuple[int, str, list[int]]] = [
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [bits] * samples),
        (259, short, [1]),
        (262, short, [photometric]),
        (273, long, [0]),  # the strip's position, filled in below
        (277, short, [samples]),
        (278, long, [height]),
        (279, long, [len(pixels)]),
        (339, short, [kind] * samples),
    ]
    if orientation is not None:
        fields.append((274, short, [orientation]))
    if extra is not None:
        fields.append((338, short, [extra]))
    if palette:
        fields.append((320, short, list(palette)))
    fields.sort()
    start = 8 + 2 + 12 * len(fields) + 4
    outside = [field for field in fields if struct.calcsize(field[1]) * len(field[2]) > 4]
    strip = start + sum(struct.calcsize(code) * len(values) for _, code, values in outside)
    directory, beyond = b"", b""
    for tag, code, values in fields:
        content = struct.pack(order + code * len(values), *([strip] if tag == 273 else values))
        directory += struct.pack(order + "HHI", tag, {short: 3, long: 4}[code], len(values))
        if len(content) > 4:
            directory += struct.pack(order + "I", start + len(beyond))
            beyond += content
        else:
            directory += content.ljust(4, b"\0")
    header = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return header + struct.pack(order + "H", len(fields)) + directory + bytes(4) + beyond + pixels
