"""Read picture files as 8-bit RGB: check each file against limits, then decode it.

Several pictures become one uint8 tensor, N x 3 x H x W. A single picture is read without torch, whose import takes seconds.

A scan is one pass of a JPEG file over the picture. Many files have one scan. Others refine the picture scan by scan. Segments
are the parts of a JPEG file, and chunks are the parts of a PNG file.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from .errors import DataError, UsageError
from .warning_filter import suppress_warnings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ANY",
    "Limits",
    "check_images",
    "encode",
    "load_pictures",
    "open_picture",
    "read_picture",
    "residual",
    "to_float",
    "to_uint8",
    "without_metadata",
]

MAX_TOTAL = 4 << 30  # limit of one decoded batch in bytes
THREADS_FROM = 4 << 20  # bytes of all files (estimated from the first) from which threads save time
ORIENTATION = 274  # EXIF tag
TURNS = dict(zip(range(2, 9), (Image.Transpose(t) for t in (0, 3, 1, 5, 4, 6, 2)), strict=True))  # by EXIF orientation
METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # PNG chunks
XMP = b"XML:com.adobe.xmp"
ORIENTED = (b"Raw profile type exif", XMP)  # keywords of text chunks in which Pillow finds an orientation
MOST_ORIENTED = 256 << 10  # bytes of such a text: at most 64 KiB of EXIF in hexadecimal digits
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)  # JPEG marker that begins a segment
START, END, SCAN, APP1 = 0xD8, 0xD9, 0xDA, 0xE1
EXIF, MOST_EXIF = b"Exif\0\0", 16  # limit of EXIF segments: Pillow copies all earlier ones for each further one
MOST_FILLING = 64 << 10  # limit of bytes between segments, which Pillow skips one at a time
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
WHITE_IS_ZERO, SIGNED = 0, 2
ASSOCIATED = {"La": "LA", "RGBa": "RGBA"}  # modes with premultiplied alpha
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Limits:
    """Limits for picture files. A file beyond a limit is not decoded.

    `formats` are Pillow's names of the accepted formats. `file_bytes` limits the size of a file. `jpeg_pixels` limits the
    pixels of a JPEG with one scan, which is decoded at the smallest sufficient scale. `pixels` limits the pixels of all other
    pictures, including a JPEG with several scans, which stays in memory at full size until the last scan.

    `scans` limits the scans of a JPEG, because each scan costs one pass over the whole picture. `pieces` limits the number of
    segments or chunks. A short piece takes more memory than its bytes in the file, so `file_bytes` alone does not limit the
    memory.
    """

    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    file_bytes: int = 128 << 20
    jpeg_pixels: int = 120_000_000  # more than any phone's camera
    pixels: int = 120_000_000
    scans: int = 1000
    pieces: int = 20_000  # some encoders write a PNG in chunks of 4 KB

    @property
    def names(self) -> str:
        """The names of the formats as text for a user, such as "JPEG, PNG or WebP"."""
        *others, last = (name.replace("WEBP", "WebP") for name in self.formats)
        return f"{', '.join(others)} or {last}" if others else last

    def scans_of(self, file: bytes, label: str) -> int:
        """Return the number of scans of a JPEG, or 0 for any other file. Call this before Pillow opens the file.

        `file` is the content of the file. Raises DataError if the file has too many scans or pieces. `label` is the picture's
        name in the message.
        """
        pieces = scans = exif = 0
        filling = MOST_FILLING + 1 if file.startswith(JPEG) and b"\xff" * MOST_FILLING in file else 0
        for marker, start, gap in _pieces(file):
            pieces, filling = pieces + 1, filling + (gap if not scans else 0)
            scans, exif = scans + (marker == SCAN), exif + (marker == APP1 and file.startswith(EXIF, start))
            if filling > MOST_FILLING or exif > MOST_EXIF:
                what = f"{MOST_EXIF} segments of EXIF" if exif > MOST_EXIF else f"{MOST_FILLING:,} bytes between its segments"
                raise DataError(f"picture {label} cannot be read: it has more than {what}; give a whole {self.names}")
            if scans > self.scans:
                raise DataError(f"picture {label} has more than {self.scans} scans, the most that are read")
            if pieces > self.pieces:
                raise DataError(f"picture {label} has more than {self.pieces:,} segments or chunks, the most that are read")
        return scans

    def check(self, picture: Image.Image, scans: int, label: str) -> None:
        """Raise DataError if a picture has too many pixels. Call this before the picture is decoded.

        `scans` is the result of `scans_of` for the picture's file, and selects the limit. `label` is the picture's name in the
        message.
        """
        width, height = picture.size
        most = self.jpeg_pixels if scans == 1 else self.pixels
        if width * height > most:
            raise DataError(f"picture {label} claims {width} x {height} pixels; at most {most:,} are read")


ANY = Limits()


def load_pictures(sources: Iterable[str | Path | bytes], size: int | None = 32, limits: Limits = ANY) -> Tensor:
    """Read picture files into one uint8 tensor, N x 3 x `size` x `size` (see `open_picture`).

    `sources` are paths or contents of files. With `size` None the pictures are not scaled, and must have equal sizes. Raises
    DataError if the sizes differ, or if a picture is unreadable or beyond the `limits`.
    """
    import torch

    sources = list(sources)
    if not sources:
        raise UsageError("no pictures given: name at least one file")
    first = np.asarray(open_picture(sources[0], size, limits))
    if len(sources) * first.size > MAX_TOTAL:
        raise DataError(
            f"{len(sources)} pictures of {first.shape[1]} x {first.shape[0]} pixels are more than fit in {MAX_TOTAL >> 30} GiB"
        )
    out = np.empty((len(sources), *first.shape), np.uint8)
    out[0] = first

    def read(index: int) -> None:
        pixels = np.asarray(_open(sources[index], size, limits))
        if pixels.shape != first.shape:
            raise DataError(f"pictures differ in size, {first.shape[:2]} and {pixels.shape[:2]}: give one size to scale all to")
        out[index] = pixels

    with suppress_warnings():  # one context for all threads
        first_bytes = len(sources[0]) if isinstance(sources[0], bytes) else Path(sources[0]).stat().st_size
        if first_bytes * len(sources) < THREADS_FROM:
            for index in range(1, len(sources)):
                read(index)
        else:
            with ThreadPoolExecutor() as pool:
                list(pool.map(read, range(1, len(sources))))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def open_picture(source: str | Path | bytes, size: int | None = 32, limits: Limits = ANY, name: str = "") -> Image.Image:
    """Read one picture as upright RGB. Crop it to its central square, and scale that square to `size` x `size`.

    `source` is a path or the content of a file. With `size` None the picture is neither cropped nor scaled. EXIF orientation is
    applied. Transparent pixels become white. Grey, palette and CMYK pictures become 8-bit RGB. Only the first frame of an
    animation is read.

    In a grey picture of up to 16 bits, white is the largest value that these bits can hold. In a grey picture of 32 bits, white
    is the largest value in the picture, but at least 1.

    Error messages contain the picture's path, or `name` if `source` is the content of a file. Raises DataError for a file that
    is missing, truncated, not a picture, or beyond the `limits`. The header is checked before anything is decoded.
    """
    with suppress_warnings():  # Pillow warns of large images and odd metadata; our limits are checked below
        return _open(source, size, limits, name)


def _pieces(file: bytes) -> Iterator[tuple[int, int, int]]:
    # Yield for each piece: its marker (0 for a chunk), the position of its content, the number of stray bytes before it.
    if file.startswith(PNG):
        position = len(PNG)
        while position < len(file):
            yield 0, position + 8, 0
            position += 12 + int.from_bytes(file[position : position + 4], "big")
    elif file.startswith(JPEG):
        position = len(JPEG)
        while (found := MARKER.search(file, position)) and (marker := found[1][0]) not in (START, END):
            yield marker, found.end() + 2, found.start() - position
            position = found.end() + int.from_bytes(file[found.end() : found.end() + 2], "big")
        yield END, len(file), (found.start() if found else len(file)) - position


def without_metadata(file: bytes) -> bytes:
    """Return a PNG without its text chunks and colour profile, but with its orientation. Other files are returned unchanged.

    Pillow would decompress these chunks when it opens the file. A chunk of a kilobyte may decompress to a megabyte.
    """
    if not file.startswith(PNG):
        return file
    parts, start, position, kept = [], 0, len(PNG), set[bytes]()
    while position < len(file):
        kind, content = file[position + 4 : position + 8], position + 8
        end = content + int.from_bytes(file[position : position + 4], "big") + 4
        if kind in METADATA:
            keyword = file[content : content + 80].partition(b"\0")[0]
            if keyword in kept or not _orients(kind, keyword, file[content : end - 4]):
                parts.append(file[start:position])
                start = end
            kept.add(keyword)
        position = end
    return b"".join((*parts, file[start:])) if parts else file


def _orients(kind: bytes, keyword: bytes, content: bytes) -> bool:
    if keyword not in ORIENTED:
        return False
    rest = content[len(keyword) + 1 :]
    if kind == b"iTXt":  # compression flag, method, language, translated keyword, text
        compressed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    else:
        compressed, text = kind == b"zTXt", rest[1:]  # method, text
    if not compressed:
        return len(text) <= MOST_ORIENTED
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(text, MOST_ORIENTED)
    except zlib.error:
        return False
    return not inflating.unconsumed_tail


def read_picture(path: str | Path, limits: Limits = ANY) -> bytes:
    """Return the content of a picture file, which may be a pipe. Raises DataError if the file is unreadable or too large."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(limits.file_bytes + 1)
    except FileNotFoundError as error:
        raise DataError(f"picture {str(path)!r} does not exist") from error
    except OSError as error:
        raise DataError(f"picture {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null byte in the path
        raise DataError(f"picture {str(path)!r} cannot be read: {error}") from error
    _check_length(content, limits, repr(str(path)))
    return content


def _check_length(content: bytes, limits: Limits, label: str) -> None:
    if len(content) > limits.file_bytes:
        raise DataError(f"picture {label} is larger than {limits.file_bytes / (1 << 20):g} MiB; scale it down first")


def _open(source: str | Path | bytes, size: int | None, limits: Limits, name: str = "") -> Image.Image:
    named = name if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else read_picture(source, limits)
    label = repr(named) if named else f"{len(content)} bytes"
    try:
        _check_length(content, limits, label)
        scans = limits.scans_of(content, label)
        content = without_metadata(content)
        with Image.open(io.BytesIO(content), formats=limits.formats) as picture:
            limits.check(picture, scans, label)
            if size is not None:
                picture.draft("RGB", (2 * size, 2 * size))  # decodes a JPEG at the smallest sufficient scale
            picture.load()
            upright = _to_rgb(picture, content)
            if (orientation := _orientation(picture)) in TURNS:
                upright = upright.transpose(TURNS[orientation])
            if size is None or upright.size == (size, size):
                return upright
            return ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"picture {label} claims too many pixels; at most {limits.pixels:,} are read") from error
    except Exception as error:  # Pillow's readers raise exceptions of any kind for damaged files
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):
            tiff = content.startswith(TIFF) and "TIFF" in limits.formats
            reason = "a TIFF whose samples are of an unsupported kind" if tiff else "not a picture of a known format"
        raise DataError(f"picture {label} cannot be read: {reason}; give a whole {limits.names}") from error


def _orientation(picture: Image.Image) -> int:
    # Pillow applies a TIFF's orientation while loading, and then removes the tag.
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's parser raises exceptions of any kind for damaged bytes
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(picture: Image.Image, content: bytes) -> Image.Image:
    if (grey := _wide_grey(picture)) is not None:
        return Image.fromarray(grey).convert("RGB")
    if picture.mode in ASSOCIATED:
        picture = picture.convert(ASSOCIATED[picture.mode])
    transparent = _sees_through(picture, content)
    if transparent is not None:
        opaque = np.array(picture.convert("RGB"))
        opaque[transparent] = 255
        return Image.fromarray(opaque)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _wide_grey(picture: Image.Image) -> np.ndarray[Any, Any] | None:
    # Return None for other pictures. `open_picture` states which value is white. Negative values and NaN are black.
    tags: dict[int, Any] = getattr(picture, "tag_v2", {})
    bits, kind = _first(tags.get(BITS_PER_SAMPLE, 16)), _first(tags.get(SAMPLE_FORMAT, 1))
    if picture.mode == "L" and kind == SIGNED:
        values = np.array(picture).view(np.int8)
    elif picture.mode == "I" and bits == 32 and kind != SIGNED:
        values = np.array(picture).view(np.uint32)
    elif picture.mode.startswith("I") or picture.mode == "F":
        values = np.array(picture)
    else:
        return None
    wide = values.astype(np.float32)
    if picture.mode == "F" or bits == 32:
        white = max(1.0, float(wide.max(initial=0.0, where=np.isfinite(wide))))
    else:
        white = 2.0 ** (bits - (kind == SIGNED)) - 1
    if picture.mode != "L" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        np.subtract(white, wide, out=wide)
    np.nan_to_num(wide, copy=False, posinf=white, neginf=0.0)
    wide *= 255 / white
    grey = wide.round(out=wide).clip(0, 255, out=wide).astype(np.uint8)
    if "transparency" in picture.info:
        grey[values == picture.info["transparency"]] = 255
    return grey


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _sees_through(picture: Image.Image, content: bytes) -> np.ndarray[Any, Any] | None:
    # Pillow scales samples of 2, 4 and 16 bits to 8, but not the transparent colour, which then matches no pixel.
    colour, depth = picture.info.get("transparency"), content[24] if content.startswith(PNG) else 8
    if picture.mode == "L" and depth in (2, 4) and isinstance(colour, int):
        grey: np.ndarray[Any, Any] = np.array(picture) == colour * (255 // (2**depth - 1))
        return grey
    if picture.mode == "RGB" and depth == 16 and isinstance(colour, tuple):
        with Image.open(io.BytesIO(content), formats=("PNG",)) as low:
            low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the low bytes of big-endian samples
            samples = np.array(picture).astype(np.uint16) << 8 | np.array(low)
        equal: np.ndarray[Any, Any] = (samples == np.array(colour)).all(2)
        return equal
    return None


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]."""
    return images.float().div_(255)


def to_uint8(images: Tensor) -> Tensor:
    """Return images in [0, 1] as uint8, rounded to the nearest of 256 levels."""
    return images.mul(255).round_().clamp_(0, 255).byte()


def encode(pixels: np.ndarray[Any, np.dtype[np.uint8]], format: str = "PNG", **options: Any) -> bytes:
    """Encode pixels (uint8, H x W x 3) as the content of a picture file. `options` are those of Pillow's `save`."""
    buffer = io.BytesIO()
    if options.get("optimize"):  # libjpeg then writes the whole file at once, and noise may need more than a byte a pixel
        ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 2 * pixels.nbytes)
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def residual(x: Tensor, y: Tensor, gain: float = 1.0) -> Tensor:
    """Return the difference y - x as an image, 0.5 + gain * (y - x) / 2, clamped to [0, 1]. Equal pixels become mid-grey."""
    return ((y - x) * gain / 2 + 0.5).clamp(0, 1)


def check_images(images: Tensor) -> None:
    """Raise UsageError unless `images` is a floating-point N x 3 x H x W tensor with at least one image."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or images.numel() == 0:
        raise UsageError(
            f"expected float images N x 3 x H x W in [0, 1], got {images.dtype} {tuple(images.shape)}; "
            "see workbench.pictures.to_float"
        )
