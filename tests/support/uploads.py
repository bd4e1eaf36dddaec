"""Users' uploads: pictures, unusual pictures, and files that are no pictures."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def png(colour: Any, size: tuple[int, int] = (50, 40), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """Return a PNG of 40,000 x 40,000 pixels in a few hundred bytes of header and data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def awkward() -> list[tuple[str, bytes]]:
    """Return ten unusual files that users may upload."""
    cmyk, animated, sixteen = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("CMYK", (64, 64), (10, 80, 20, 0)).save(cmyk, "JPEG")
    frames = [Image.new("P", (32, 32), k) for k in range(3)]
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(sixteen, "PNG")
    return [
        ("grey.png", png(90, mode="L")),
        ("see through.png", png((10, 200, 30, 128), mode="RGBA")),
        ("cmyk.jpg", cmyk.getvalue()),
        ("wide.png", png((5, 6, 7), (2000, 8))),
        ("one pixel.png", png((250, 0, 0), (1, 1))),
        ("sixteen bits.png", sixteen.getvalue()),
        ("moving.gif", animated.getvalue()),
        ("truncated.png", png((1, 1, 1), (300, 300))[:100]),
        ("bomb.png", bomb()),
        ("<img src=x onerror=alert(1)>.png", b"no picture at all"),
    ]
