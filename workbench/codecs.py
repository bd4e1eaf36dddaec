"""The codecs, with one interface: images in [0, 1] -> payload bytes -> images in [0, 1].

::

    png, jpeg, webp    ordinary image files
    neural             one stream of bytes for the whole batch, at a rate from 0 to 1
    compressai         the paper's form of the neural codec: one string of bytes for each image

    payload -> unpack (checked) -> codes -> decode_each -> images

A payload is a complete batch with its header (see `bitstream`). A code is the coded form of one image. In the codec `neural`,
several images of a payload can share a code.

The neural codecs use a neural compressor, which computes M channels of h x w numbers for each image. Rounded to integers, these
numbers are the image's integer latents. At rate 0 the payload holds only the information that recognition needs. At rate 1 it
holds the whole picture. A compressor has a list of rates, and a stop is an index into this list.
"""

from __future__ import annotations

import copy
import io
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from . import bitstream
from .entropy import LatentCoder, Tables
from .errors import PayloadError, UsageError, unknown
from .models import MULTIPLE, RATE_WEIGHT, NeuralCompressor, in_parts
from .pictures import Limits, check_images, encode, to_float, to_uint8, without_metadata
from .rates import LABEL_CHANNELS, rates_of, stop_of
from .warning_filter import suppress_warnings

__all__ = ["CODECS", "Codec", "CompressAI", "Jpeg", "Neural", "Png", "WebP", "codec"]

MAX_SIDE, MAX_TOTAL = 4096, 4 << 30  # limits: pixels of an image's side, bytes of a decoded batch
WORD = 4  # bytes of a latent in a code
BOUNDS = Limits(scans=20)  # limits of an image file, in addition to its side


class Codec(ABC):
    """The interface of a codec. `decode(encode(images))` has the shape of `images`.

    `name` is the codec's name in `CODECS`. `repeats` states whether different images often have the same code. Then caching by
    code is useful.
    """

    name: ClassVar[str]
    repeats: ClassVar[bool] = False

    @property
    @abstractmethod
    def key(self) -> bytes:
        """Bytes that identify the payload's format, for example the codec and its weights.

        A codec refuses payloads that were encoded with another key.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> bytes:
        """Encode 1 to 65,535 images as one payload. `images` are floats in [0, 1], N x 3 x H x W."""

    @abstractmethod
    def unpack(self, payload: bytes) -> tuple[list[bytes], Tensor]:
        """Return the codes in a payload of N images, and each image's index into these codes (N).

        If `repeats` is true, several images can share one of the codes. Raises PayloadError for bytes that are no payload of
        this codec.
        """

    @abstractmethod
    def decode_each(self, coded: list[bytes]) -> Tensor:
        """Decode each code from `unpack` to an image. Return all images, N x 3 x H x W in [0, 1]."""

    @abstractmethod
    def sizes(self, payload: bytes) -> list[float]:
        """Return how many bytes of a payload belong to each image.

        Bytes that images share, such as the header, are not counted.
        """

    def decode(self, payload: bytes) -> Tensor:
        """Return the images of a payload as floats in [0, 1], N x 3 x H x W. Raises PayloadError for any invalid payload."""
        coded, which = self.unpack(payload)
        with torch.inference_mode():
            images = self.decode_each(coded)
        return images[which] if self.repeats else images

    def at(self, rate: float | None) -> Self:
        """Return a copy of this codec that encodes at `rate`, in [0, 1]. For None, return this codec itself.

        Raises UsageError if the codec has no rates.
        """
        if rate is not None:
            raise UsageError(f"codec {self.name!r} has no rate, got {rate:g}: the codec 'neural' has one")
        return self

    def to(self, device: str | torch.device) -> Self:
        """Move the codec's networks, if any, to a device. Return the codec."""
        return self


class _StringCodec(Codec):
    @abstractmethod
    def encode_each(self, images: Tensor) -> list[bytes]:
        """Return one code for each image. `images` are N x 3 x H x W in [0, 1]."""

    def encode(self, images: Tensor) -> bytes:
        check_images(images)
        with torch.inference_mode():
            return bitstream.pack(self.encode_each(images), self.key)

    def unpack(self, payload: bytes) -> tuple[list[bytes], Tensor]:
        strings = bitstream.unpack(payload, self.key)
        return strings, torch.arange(len(strings))

    def sizes(self, payload: bytes) -> list[float]:
        return [float(len(string)) for string in bitstream.unpack(payload, self.key)]


class _FileCodec(_StringCodec):
    """The base of codecs whose codes are image files. Pillow writes and reads them with 8 bits per channel.

    `options` are arguments of Pillow's `save`. Decoding raises PayloadError for an image with a side above `side` pixels.
    """

    format: ClassVar[str]

    def __init__(self, side: int = MAX_SIDE) -> None:
        self.side, self.options = side, dict[str, Any]()

    @property
    def key(self) -> bytes:
        return self.format.encode()  # any decoder of the format is suitable

    def encode_each(self, images: Tensor) -> list[bytes]:
        pixels = to_uint8(images.detach().cpu()).permute(0, 2, 3, 1).contiguous().numpy()
        return [encode(image, self.format, **self.options) for image in pixels]

    def decode_each(self, coded: list[bytes]) -> Tensor:
        """Decode image files. Raises PayloadError if a file is damaged, or if the images have different sizes."""
        with suppress_warnings():  # Pillow warns of large images and odd metadata; sizes are checked before decoding
            first = self._open(coded[0])
            if len(coded) * first.size > MAX_TOTAL:
                raise PayloadError(
                    f"payload claims {len(coded)} images of {first.shape[:2]} pixels, more than is decoded at once"
                )
            out = np.empty((len(coded), *first.shape), np.uint8)
            out[0] = first
            for index, string in enumerate(coded[1:], start=1):
                pixels = self._open(string)
                if pixels.shape != first.shape:
                    raise PayloadError(f"images of one payload differ in size: {first.shape[:2]} and {pixels.shape[:2]}")
                out[index] = pixels
        return to_float(torch.from_numpy(out).permute(0, 3, 1, 2).contiguous())

    def _open(self, string: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        try:
            BOUNDS.scans_of(string, f"of {len(string)} bytes in a payload")
            with Image.open(io.BytesIO(without_metadata(string)), formats=[self.format]) as picture:
                if max(picture.size) > self.side:
                    raise PayloadError(f"image of {picture.size} pixels in a payload; sides of at most {self.side} are decoded")
                return np.asarray(picture.convert("RGB"))
        except PayloadError:
            raise
        except Exception as error:  # Pillow's readers raise exceptions of any kind for damaged files
            reason = "not of the format" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
            raise PayloadError(f"payload holds no whole {self.format} image: {reason}") from error


class Png(_FileCodec):
    """PNG, the lossless codec of the baseline. Images are rounded to 8 bits per channel."""

    name, format = "png", "PNG"


class Jpeg(_FileCodec):
    """JPEG with a quality from 1 to 95 and optimised Huffman tables.

    `subsampling` is 4:4:4, 4:2:2 or 4:2:0. Only 4:4:4 keeps colour at full resolution. Perturbed images need this: at quality
    89, 4:2:0 lowers the classifier's accuracy from 91.17 % to 11.50 % (PMC², section 3.3).
    """

    name, format = "jpeg", "JPEG"

    def __init__(self, quality: int = 89, subsampling: str = "4:4:4", side: int = MAX_SIDE) -> None:
        if not (isinstance(quality, int) and 1 <= quality <= 95):
            raise UsageError(f"JPEG quality must be a whole number from 1 to 95, got {quality!r}")
        if subsampling not in ("4:4:4", "4:2:2", "4:2:0"):
            raise unknown("chroma subsampling", subsampling, ("4:4:4", "4:2:2", "4:2:0"))
        super().__init__(side)
        self.quality, self.subsampling = quality, subsampling
        self.options = {"quality": quality, "subsampling": subsampling, "optimize": True}


class WebP(_FileCodec):
    """WebP. The lossy form has a quality from 1 to 100, and colour at half resolution (4:2:0). The other form is lossless."""

    name, format = "webp", "WEBP"

    def __init__(self, quality: int = 90, lossless: bool = False, side: int = MAX_SIDE) -> None:
        if not (isinstance(quality, int) and 1 <= quality <= 100):
            raise UsageError(f"WebP quality must be a whole number from 1 to 100, got {quality!r}")
        super().__init__(side)
        self.quality, self.lossless = quality, lossless
        self.options = {"quality": quality, "lossless": lossless, "exact": True}


class _NeuralCodec(Codec):
    """The base of codecs that use a neural compressor. The compressor must have the tables of its entropy coder.

    `identity` is the SHA-256 of the compressor's weights. The codec refuses payloads that were made with other weights. All
    images must have `size` (H, W), which is not part of a payload.
    """

    def __init__(self, compressor: NeuralCompressor, identity: str, size: tuple[int, int] = (32, 32)) -> None:
        if compressor.tables()[0].numel() == 0:
            raise UsageError("the compressor has no entropy tables yet: call its update(force=True) after training")
        self.compressor, self.identity, self.size = compressor.eval(), identity, size

    @property
    def key(self) -> bytes:
        return f"{self.name} {self.identity} {self.size[0]}x{self.size[1]}".encode()

    def to(self, device: str | torch.device) -> Self:
        self.compressor.to(device)
        return self

    def _checked(self, images: Tensor) -> Tensor:
        check_images(images)
        if tuple(images.shape[-2:]) != self.size:
            raise UsageError(f"this neural codec takes images of {self.size}, got {tuple(images.shape[-2:])}")
        return images.to(self.compressor.entropy_bottleneck.quantiles.device)


class Neural(_NeuralCodec):
    """The neural codec that codes a batch as one stream of bytes (see `entropy`).

    `rate` is from 0 (the fewest bytes) to 1 (the whole picture). `encode` uses the nearest rate in `rates`, the compressor's
    list. `decode` accepts payloads of all these rates. A pattern is a combination of latents that is frequent in the training
    data. The compressor chooses a pattern for each image, and `rate_weight` is the cost of one bit in this choice. A higher
    weight gives fewer bytes and less accuracy.
    """

    name, repeats = "neural", True

    def __init__(
        self,
        compressor: NeuralCompressor,
        identity: str,
        size: tuple[int, int] = (32, 32),
        rate_weight: float = RATE_WEIGHT,
        rate: float = 0.0,
    ) -> None:
        super().__init__(compressor, identity, size)
        if not (math.isfinite(rate_weight) and rate_weight >= 0):
            raise UsageError(f"the weight of a bit must be a number from 0 up, got {rate_weight}")
        self.rate_weight, self.rate = rate_weight, rate
        self.stop = stop_of(rate, compressor.stops)
        self._coders: dict[int, LatentCoder] = {}
        self._latent = (-(-size[0] // MULTIPLE), -(-size[1] // MULTIPLE))

    @property
    def rates(self) -> tuple[float, ...]:
        return rates_of(self.compressor.stops)

    def at(self, rate: float | None) -> Self:
        if rate is None:
            return self
        other = copy.copy(self)
        other.rate, other.stop = rate, stop_of(rate, self.compressor.stops)
        return other

    def coder(self, stop: int) -> LatentCoder:
        if stop not in self._coders:
            compressor = self.compressor
            patterns = compressor.patterns[:, : LABEL_CHANNELS if stop else None]
            tables = (*compressor.tables(stop), patterns)
            cdf, offset, length, patterns = (table.cpu().numpy().astype(np.int32) for table in tables)
            self._coders[stop] = LatentCoder(Tables(cdf, offset, length, patterns, compressor.pattern_counts.cpu().numpy()))
        return self._coders[stop]

    def encode(self, images: Tensor) -> bytes:
        with torch.inference_mode():
            symbols = in_parts(lambda part: self.compressor.symbols(part, self.rate_weight, self.stop), self._checked(images))
        return bitstream.pack_stream(self.coder(self.stop).encode(symbols.cpu().numpy()), len(images), self.key, self.stop)

    def unpack(self, payload: bytes) -> tuple[list[bytes], Tensor]:
        """Return the codes in a payload of N images, and each image's index into these codes (N).

        A code is the integer latents of an image as bytes. If the payload's stop is not 0, one more byte holds the stop.
        """
        stop, symbols, which = self._symbols(payload)
        behind = bytes([stop]) if stop else b""
        return [each.tobytes() + behind for each in symbols], torch.from_numpy(which)

    def decode_each(self, coded: list[bytes]) -> Tensor:
        symbols, stop = self.latents(coded), coded[0][-1] if len(coded[0]) % WORD else 0
        return _pictures(in_parts(lambda part: self.compressor.reconstruct(part, self.size, stop), symbols))

    def latents(self, coded: list[bytes]) -> Tensor:
        """Convert codes from `unpack` to integer latents, N x M x h x w."""
        joined = bytearray().join(each[: len(each) // WORD * WORD] for each in coded)
        return torch.frombuffer(joined, dtype=torch.int32).view(len(coded), -1, *self._latent)

    def sizes(self, payload: bytes) -> list[float]:
        """Return the information content of each image's latents, in bytes. The values need not be whole numbers."""
        stop, symbols, which = self._symbols(payload)
        return (self.coder(stop).bits(symbols)[which] / 8).tolist()  # type: ignore[no-any-return]

    def bits(self, symbols: Tensor) -> Tensor:
        """Return the information content of each image at the codec's rate, in bits: N values.

        `symbols` are the integer latents of the images, N x M x h x w.
        """
        return torch.from_numpy(self.coder(self.stop).bits(symbols.cpu().numpy()))

    def _symbols(self, payload: bytes) -> tuple[int, np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.int64]]]:
        stream, n, stop = bitstream.unpack_stream(payload, self.key)
        if stop >= max(1, self.compressor.stops):
            raise PayloadError(f"payload is of stop {stop} of the rate, this compressor has {len(self.rates)}")
        return stop, *self.coder(stop).decode(stream, n, self._latent)


class CompressAI(_NeuralCodec, _StringCodec):
    """The neural codec of the paper. CompressAI's entropy coder makes a string of 8, 12, 16 ... bytes for each image."""

    name = "compressai"

    def encode_each(self, images: Tensor) -> list[bytes]:
        return self.compressor.strings(self._checked(images))  # type: ignore[no-any-return]

    def decode_each(self, coded: list[bytes]) -> Tensor:
        if any(len(string) < 8 or len(string) % 4 for string in coded):
            raise PayloadError("payload holds a string that is no whole number of 4-byte words, at least two")
        return _pictures(self.compressor.images(coded, self.size))


CODECS: dict[str, type[Codec]] = {"png": Png, "jpeg": Jpeg, "webp": WebP, "neural": Neural, "compressai": CompressAI}


def codec(name: str, **options: Any) -> Codec:
    """Build the codec `name` of `CODECS`. `options` are the arguments of its class.

    Raises UsageError for an unknown name or option.
    """
    if name not in CODECS:
        raise unknown("codec", name, CODECS)
    try:
        return CODECS[name](**options)
    except TypeError as error:
        raise UsageError(f"codec {name!r} does not take {', '.join(options) or 'no options'}: {error}") from error


def _pictures(images: Tensor) -> Tensor:
    if not images.isfinite().all():
        raise PayloadError("payload holds latents that decode to no picture")
    return images.clamp(0, 1)
