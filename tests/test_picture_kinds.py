"""Every kind of picture against hand-computed values: samples of 1 to 32 bits, alpha, palettes, eight orientations."""

from __future__ import annotations

import functools
import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.picture_files import chunk, png, tiff
from workbench.errors import DataError
from workbench.pictures import open_picture

W = 255  # white, also the background of transparent pixels


def levels(content: bytes) -> list[Any]:
    """Return the first row as grey levels, or as colours if any pixel is coloured."""
    row = np.asarray(open_picture(content, None))[0].tolist()
    return [pixel[0] for pixel in row] if all(len(set(pixel)) == 1 for pixel in row) else [tuple(pixel) for pixel in row]


def pack(code: str, *values: float) -> bytes:
    return struct.pack(code, *values)


# --- PNG: depth, colour type (0 grey, 2 colour, 3 palette, 4 grey and alpha, 6 colour and alpha), tRNS ------------------------

RGB = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255])
PNGS = {
    "1 bit": (png(8, 1, 0, [b"\x0f"]), [0] * 4 + [W] * 4),
    "1 bit, 0 transparent": (png(8, 1, 0, [b"\x0f"], chunk(b"tRNS", b"\0\0")), [W] * 8),
    "1 bit, 1 transparent": (png(8, 1, 0, [b"\x0f"], chunk(b"tRNS", b"\0\1")), [0] * 4 + [W] * 4),
    "2 bits": (png(4, 2, 0, [b"\x1b"]), [0, 85, 170, W]),
    "2 bits, 1 transparent": (png(4, 2, 0, [b"\x1b"], chunk(b"tRNS", b"\0\1")), [0, W, 170, W]),
    "2 bits, 0 transparent": (png(4, 2, 0, [b"\x1b"], chunk(b"tRNS", b"\0\0")), [W, 85, 170, W]),
    "4 bits": (png(4, 4, 0, [b"\x03\x8f"]), [0, 51, 136, W]),
    "4 bits, 3 transparent": (png(4, 4, 0, [b"\x03\x8f"], chunk(b"tRNS", b"\0\3")), [0, W, 136, W]),
    "8 bits": (png(3, 8, 0, [bytes([0, 77, 255])]), [0, 77, W]),
    "8 bits, 77 transparent": (png(3, 8, 0, [bytes([0, 77, 255])], chunk(b"tRNS", b"\0\x4d")), [0, W, W]),
    "16 bits": (png(3, 16, 0, [pack(">3H", 0, 32896, 65535)]), [0, 128, W]),
    "16 bits, 4660 transparent": (
        png(4, 16, 0, [pack(">4H", 0, 4660, 4661, 65535)], chunk(b"tRNS", pack(">H", 4660))),
        [0, W, 18, W],
    ),
    "16 bits, 0 transparent": (png(3, 16, 0, [pack(">3H", 0, 257, 514)], chunk(b"tRNS", b"\0\0")), [W, 1, 2]),
    "colour, 8 bits, one transparent": (
        png(2, 8, 2, [bytes([1, 2, 3, 4, 5, 6])], chunk(b"tRNS", pack(">3H", 1, 2, 3))),
        [(W, W, W), (4, 5, 6)],
    ),
    "colour, 16 bits": (png(1, 16, 2, [pack(">3H", 65535, 257, 0)]), [(255, 1, 0)]),
    "colour, 16 bits, one transparent": (
        png(3, 16, 2, [pack(">9H", 258, 772, 1286, 258, 772, 1287, 65535, 0, 0)], chunk(b"tRNS", pack(">3H", 258, 772, 1286))),
        [(W, W, W), (1, 3, 5), (255, 0, 0)],
    ),
    "palette, 1 bit": (png(8, 1, 3, [b"\x0f"], chunk(b"PLTE", RGB)), [(255, 0, 0)] * 4 + [(0, 255, 0)] * 4),
    "palette, 2 bits, alpha": (
        png(4, 2, 3, [b"\x1a"], chunk(b"PLTE", RGB), chunk(b"tRNS", b"\xff\0")),
        [(255, 0, 0), (W, W, W), (0, 0, 255), (0, 0, 255)],
    ),
    "palette, 4 bits, half alpha": (
        png(2, 4, 3, [b"\x10"], chunk(b"PLTE", RGB), chunk(b"tRNS", b"\0\x33")),
        [(204, W, 204), (W, W, W)],
    ),
    "palette, 8 bits": (png(3, 8, 3, [b"\2\1\0"], chunk(b"PLTE", RGB)), [(0, 0, 255), (0, 255, 0), (255, 0, 0)]),
    "grey and alpha, 8 bits": (png(3, 8, 4, [bytes([60, 255, 60, 0, 0, 51])]), [60, W, 204]),
    "grey and alpha, 16 bits": (png(3, 16, 4, [pack(">6H", 4660, 65535, 4660, 0, 0, 13107)]), [18, W, 204]),
    "colour and alpha, 8 bits": (png(2, 8, 6, [bytes([255, 0, 0, 255, 255, 0, 0, 51])]), [(255, 0, 0), (255, 204, 204)]),
    "colour and alpha, 16 bits": (png(1, 16, 6, [pack(">4H", 65535, 0, 0, 13107)]), [(255, 204, 204)]),
}

# --- TIFF: bits, photometric (0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK), SampleFormat (2 signed, 3 float) ---

TIFFS: dict[str, tuple[bytes, list[Any]]] = {
    "1 bit": (tiff(8, 1, 1, b"\x0f"), [0] * 4 + [W] * 4),
    "2 bits": (tiff(4, 1, 2, b"\x1b"), [0, 85, 170, W]),
    "4 bits": (tiff(4, 1, 4, b"\x03\x8f"), [0, 51, 136, W]),
    "12 bits": (tiff(4, 1, 12, bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])), [0, 128, W, 1]),
    "palette, 4 bits": (
        tiff(2, 1, 4, b"\x01", 3, palette=[65535, 0, *[0] * 14, 0, 65535, *[0] * 30]),
        [(255, 0, 0), (0, 255, 0)],
    ),
}
for order, name in (("<", "little"), (">", "big")):
    made = functools.partial(tiff, order=order)

    def packed(code: str, *values: float, order: str = order) -> bytes:
        return struct.pack(order + code, *values)

    both: dict[str, tuple[bytes, list[Any]]] = {
        "1 bit, white is 0": (made(8, 1, 1, b"\x0f", 0), [W] * 4 + [0] * 4),
        "2 bits, white is 0": (made(4, 1, 2, b"\x1b", 0), [W, 170, 85, 0]),
        "4 bits, white is 0": (made(2, 1, 4, b"\x1b", 0), [238, 68]),
        "8 bits, white is 0": (made(3, 1, 8, b"\0\x80\xff", 0), [W, 127, 0]),
        "8 bits, signed": (made(4, 1, 8, pack("4b", -1, 0, 1, 127), kind=2), [0, 0, 2, W]),
        "16 bits": (made(3, 1, 16, packed("3H", 0, 32896, 65535)), [0, 128, W]),
        "16 bits, signed": (made(4, 1, 16, packed("4h", -5, 0, 16448, 32767), kind=2), [0, 0, 128, W]),
        "32 bits, signed": (made(4, 1, 32, packed("4i", -7, 0, 500, 1000), kind=2), [0, 0, 128, W]),
        "float": (made(4, 1, 32, packed("4f", -1, 0, 0.2, 1), kind=3), [0, 0, 51, W]),
        "float beyond 1": (made(3, 1, 32, packed("3f", 0, 1, 5), kind=3), [0, 51, W]),
        "float, dark": (made(2, 1, 32, packed("2f", 0, 0.2), kind=3), [0, 51]),
        "float, white is 0": (made(3, 1, 32, packed("3f", 0, 0.2, 1), 0, kind=3), [W, 204, 0]),
        "float, not finite": (
            made(4, 1, 32, packed("4f", float("nan"), float("inf"), float("-inf"), 2), kind=3),
            [0, W, 0, W],
        ),
        "grey and alpha": (made(2, 1, 8, bytes([60, 0, 0, 51]), samples=2, extra=2), [W, 204]),
        "grey and associated alpha": (made(2, 1, 8, bytes([0, 0, 51, 51]), samples=2, extra=1), [W, W]),
        "grey and a sample that is no alpha": (made(2, 1, 8, bytes([60, 0, 7, 51]), samples=2, extra=0), [60, 7]),
        "colour and alpha": (made(1, 1, 8, bytes([255, 0, 0, 51]), 2, 4, extra=2), [(255, 204, 204)]),
        "colour and associated alpha": (made(1, 1, 8, bytes([51, 0, 0, 51]), 2, 4, extra=1), [(255, 204, 204)]),
        "colour, 16 bits": (made(1, 1, 16, packed("3H", 65535, 257, 0), 2, 3), [(255, 1, 0)]),
        "colour and alpha, 16 bits": (
            made(1, 1, 16, packed("4H", 65535, 0, 0, 13107), 2, 4, extra=2),
            [(255, 204, 204)],
        ),
        "CMYK": (made(2, 1, 8, bytes([0, 255, 255, 0, 0, 0, 0, 204]), 5, 4), [(255, 0, 0), (51, 51, 51)]),
        "palette": (
            made(3, 1, 8, b"\0\1\2", 3, palette=[65535, *[0] * 256, 65535, *[0] * 256, 65535, *[0] * 253]),
            [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
        ),
    }
    TIFFS |= {f"{kind}, {name}-endian": value for kind, value in both.items()}
TIFFS |= {  # Pillow reads these in one byte order only
    "16 bits, white is 0": (tiff(3, 1, 16, pack("<3H", 0, 32896, 65535), 0), [W, 127, 0]),
    "32 bits, unsigned": (tiff(4, 1, 32, pack("<4I", 0, 1 << 30, 1 << 31, (1 << 32) - 1)), [0, 64, 128, W]),
    "32 bits, all black": (tiff(2, 1, 32, bytes(8)), [0, 0]),
}


@pytest.mark.parametrize(
    ("content", "expected"), [*PNGS.values(), *TIFFS.values()], ids=[*PNGS, *(f"TIFF {kind}" for kind in TIFFS)]
)
def test_a_picture_of_every_kind_has_the_values_computed_by_hand(content: bytes, expected: list[Any]) -> None:
    assert levels(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        tiff(2, 1, 64, pack("<2d", 0, 1), kind=3),
        tiff(2, 1, 16, pack("<2e", 0, 1), kind=3),
        tiff(4, 1, 10, bytes(5)),
        tiff(4, 1, 24, bytes(12)),
        tiff(2, 1, 16, bytes(8), samples=2, extra=2),
        tiff(1, 1, 32, bytes(12), 2, 3, kind=3),
    ],
    ids=["float64", "float16", "10 bits", "24 bits", "16-bit alpha", "float colour"],
)
def test_a_tiff_that_is_not_read_is_said_to_be_one(content: bytes) -> None:
    with pytest.raises(DataError, match="a TIFF whose samples are of an unsupported kind"):
        open_picture(content, None)


# --- other encoders, with flat pictures, so that the values are known --------------------------------------------------------


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (16, 16), colour)


def two_colours(index: int) -> Image.Image:
    picture = flat("P", index)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    return picture


def see_through_gif() -> bytes:
    picture = two_colours(0)
    picture.paste(1, (0, 0, 8, 16))
    return saved(picture, "GIF", transparency=0)


FLAT: dict[str, tuple[bytes, tuple[int, int, int], int]] = {  # file, colour, tolerance of the codec
    "JPEG, grey": (saved(flat("L", 77), "JPEG"), (77, 77, 77), 1),
    "JPEG, colour": (saved(flat("RGB", (200, 100, 50)), "JPEG", quality=100), (200, 100, 50), 2),
    "JPEG, CMYK": (saved(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0), 2),
    "MPO": (
        saved(flat("RGB", (200, 100, 50)), "MPO", save_all=True, append_images=[flat("RGB", (0, 0, 0))], quality=100),
        (200, 100, 50),
        2,
    ),
    "WebP, colour": (saved(flat("RGB", (200, 100, 50)), "WEBP", lossless=True), (200, 100, 50), 0),
    "WebP, alpha": (saved(flat("RGBA", (255, 0, 0, 51)), "WEBP", lossless=True), (255, 204, 204), 0),
    "WebP, transparent": (saved(flat("RGBA", (255, 0, 0, 0)), "WEBP", lossless=True, exact=True), (W, W, W), 0),
    "GIF, grey": (saved(flat("L", 77), "GIF"), (77, 77, 77), 0),
    "GIF, one bit": (saved(flat("1", 1), "GIF"), (W, W, W), 0),
    "GIF, palette": (saved(flat("RGB", (200, 100, 50)), "GIF"), (200, 100, 50), 0),
    "BMP, one bit": (saved(flat("1", 1), "BMP"), (W, W, W), 0),
    "BMP, palette": (saved(two_colours(1), "BMP"), (200, 100, 50), 0),
    "BMP, colour": (saved(flat("RGB", (200, 100, 50)), "BMP"), (200, 100, 50), 0),
    "TIFF, LZW": (saved(flat("RGB", (200, 100, 50)), "TIFF", compression="tiff_lzw"), (200, 100, 50), 0),
    "TIFF, 16 bits, deflate": (saved(flat("I;16", 32896), "TIFF", compression="tiff_adobe_deflate"), (128, 128, 128), 0),
}


@pytest.mark.parametrize("kind", FLAT)
def test_a_flat_picture_keeps_its_colour_in_every_format(kind: str) -> None:
    content, colour, off = FLAT[kind]
    pixels = np.asarray(open_picture(content, None)).astype(int)
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels - colour).max() <= off


def test_a_gifs_transparent_colour_lies_on_white() -> None:
    row = np.asarray(open_picture(see_through_gif(), None))[0]
    assert row[0].tolist() == [200, 100, 50]
    assert row[15].tolist() == [W, W, W]


# --- orientation -----------------------------------------------------------------------------------------------------------

# The upright picture is 1 2 3 / 4 5 6. Below is its stored form for each orientation (EXIF 2.3, tag 274). The comments name the
# side of the upright picture that the first row and the first column show.
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],  # top, left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[3, 6], [2, 5], [1, 4]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[4, 1], [5, 2], [6, 3]],  # left, bottom
}
STEP, CELL = 40, 16


def stored(orientation: int) -> np.ndarray:
    return np.kron(np.array(STORED[orientation], np.uint8) * STEP, np.ones((CELL, CELL), np.uint8))


def write(kind: str, orientation: int) -> bytes:
    pixels = stored(orientation)
    height, width = pixels.shape
    if kind.startswith("TIFF"):
        if "deflate" in kind:
            return saved(Image.fromarray(pixels), "TIFF", compression="tiff_adobe_deflate", tiffinfo={274: orientation})
        order, bits = "<" if "little" in kind else ">", 16 if "16" in kind else 8
        content = (pixels * np.uint16(257)).astype(order + "u2") if bits == 16 else pixels
        return tiff(width, height, bits, content.tobytes(), order=order, orientation=orientation)
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"PNG": {}, "WEBP": {"lossless": True}}.get(kind, {"quality": 100, "subsampling": 0})
    if kind == "MPO":
        options |= {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
    return saved(Image.fromarray(pixels).convert("RGB"), kind, exif=exif, **options)


KINDS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF little", "TIFF big", "TIFF little 16", "TIFF big 16", "TIFF deflate")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 16])
def test_each_orientation_is_applied_once_in_every_format(kind: str, size: int | None) -> None:
    for orientation in STORED:
        read = np.asarray(open_picture(write(kind, orientation), size))[..., 0].astype(int)
        if size is None:
            assert read.shape == (2 * CELL, 3 * CELL), orientation
            centres = read[CELL // 2 :: CELL, CELL // 2 :: CELL]
            assert np.abs(centres - STEP * np.array(STORED[1])).max() <= 3, orientation
        else:  # the central square of the upright picture: the middle column, and half of those next to it
            assert read.shape == (16, 16)
            assert np.abs(read[[4, 12], 8] - STEP * np.array([2, 5])).max() <= 3, orientation


@pytest.mark.parametrize("value", [0, 9, 200])
def test_an_orientation_that_there_is_not_turns_nothing(value: int) -> None:
    content = tiff(3, 1, 8, bytes([1, 2, 3]), orientation=value)
    assert levels(content) == [1, 2, 3]


def test_damaged_exif_does_not_make_a_picture_unreadable() -> None:
    content = saved(flat("L", 77), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk")
    assert np.abs(np.asarray(open_picture(content, None)).astype(int) - 77).max() <= 1
