"""The codecs, with one interface: images in [0, 1] -> payload bytes -> images in [0, 1].

::

    png, jpeg, webp    ordinary image files
    neural             one stream of bytes for the batch; rate 0 has only what recognition needs, rate 1 the picture
    compressai         the paper's form of the neural codec: rounded latents, one string for each image

    payload -> unpack (checked) -> codes (for `Neural`: the distinct ones) -> decode_each -> images

A code is the coded form of one image. A payload is a complete batch with its header (see `bitstream`).
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

    `name` selects the codec in `CODECS`. `repeats` states whether images often share a code, so that caching by code is useful.
    """

    name: ClassVar[str]
    repeats: ClassVar[bool] = False

    @property
    @abstractmethod
    def key(self) -> bytes:
        """Bytes that identify the decoders for this codec's payloads. A decoder with another key refuses them."""

    @abstractmethod
    def encode(self, images: Tensor) -> bytes:
        """Return the payload of a batch of 1 to 65,535 float images N x 3 x H x W in [0, 1]."""

    @abstractmethod
    def unpack(self, payload: bytes) -> tuple[list[bytes], Tensor]:
        """Return the codes in a payload of N images, and each image's index into the codes (N).

        With `repeats` the codes are distinct. Raises PayloadError for bytes that are no payload of this codec.
        """

    @abstractmethod
    def decode_each(self, coded: list[bytes]) -> Tensor:
        """Decode codes from `unpack` to images N x 3 x H x W in [0, 1]."""

    @abstractmethod
    def sizes(self, payload: bytes) -> list[float]:
        """Return the number of bytes of each image in a payload, without the bytes that images share, such as the header."""

    def decode(self, payload: bytes) -> Tensor:
        """Return the images of a payload, float N x 3 x H x W in [0, 1]. Raises PayloadError for any invalid payload."""
        coded, which = self.unpack(payload)
        with torch.inference_mode():
            images = self.decode_each(coded)
        return images[which] if self.repeats else images

    def at(self, rate: float | None) -> Self:
        """Return a codec that encodes at `rate`, in [0, 1], or this codec for None. Raises UsageError if it has no rate."""
        if rate is not None:
            raise UsageError(f"codec {self.name!r} has no rate, got {rate:g}: the codec 'neural' has one")
        return self

    def to(self, device: str | torch.device) -> Self:
        """Move the codec's networks, if any, to a device, and return the codec."""
        return self


class _StringCodec(Codec):
    @abstractmethod
    def encode_each(self, images: Tensor) -> list[bytes]:
        """Return the code of each of the images N x 3 x H x W in [0, 1]."""

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
    """A codec whose codes are ordinary image files, by Pillow: 8 bits a channel.

    `options` are those of Pillow's `save`. Decoding raises PayloadError for an image with a side above `side` pixels.
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
        """Decode files. Raises PayloadError if a file is damaged, or if the images have different sizes."""
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
    """PNG: lossless with 8 bits, as in the baseline."""

    name, format = "png", "PNG"


class Jpeg(_FileCodec):
    """JPEG with a quality from 1 to 95 and optimised Huffman tables.

    `subsampling` is 4:4:4, 4:2:2 or 4:2:0. Only 4:4:4 keeps colour at full resolution, which perturbed images need: at quality
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
    """WebP: lossy with a quality from 1 to 100 (always 4:2:0), or lossless."""

    name, format = "webp", "WEBP"

    def __init__(self, quality: int = 90, lossless: bool = False, side: int = MAX_SIDE) -> None:
        if not (isinstance(quality, int) and 1 <= quality <= 100):
            raise UsageError(f"WebP quality must be a whole number from 1 to 100, got {quality!r}")
        super().__init__(side)
        self.quality, self.lossless = quality, lossless
        self.options = {"quality": quality, "lossless": lossless, "exact": True}


class _NeuralCodec(Codec):
    """The base of codecs on a neural compressor, which must be trained and have its integer tables.

    `identity` is the SHA-256 of the compressor's weights, so that payloads for other weights are refused. All images have
    `size` (H, W), which no payload contains.
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
    """The neural codec with one entropy-coded stream for the batch (see `entropy`).

    `rate` is from 0 (at most a byte an image) to 1 (the picture). `encode` uses the nearest of the compressor's `rates`, and
    `decode` takes payloads of all its rates. A stop is the index of a rate. `rate_weight` is the cost of a bit in
    `NeuralCompressor.choose`.
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
        """Return the distinct integer latents of a payload as bytes, and each image's index into them.

        If their stop is not 0, it follows the latents as one more byte.
        """
        stop, symbols, which = self._symbols(payload)
        behind = bytes([stop]) if stop else b""
        return [each.tobytes() + behind for each in symbols], torch.from_numpy(which)

    def decode_each(self, coded: list[bytes]) -> Tensor:
        symbols, stop = self.latents(coded), coded[0][-1] if len(coded[0]) % WORD else 0
        return _pictures(in_parts(lambda part: self.compressor.reconstruct(part, self.size, stop), symbols))

    def latents(self, coded: list[bytes]) -> Tensor:
        """Return the integer latents N x M x h x w in codes from `unpack`."""
        joined = bytearray().join(each[: len(each) // WORD * WORD] for each in coded)
        return torch.frombuffer(joined, dtype=torch.int32).view(len(coded), -1, *self._latent)

    def sizes(self, payload: bytes) -> list[float]:
        """Return the information in each image's latents, in bytes (not whole numbers)."""
        stop, symbols, which = self._symbols(payload)
        return (self.coder(stop).bits(symbols)[which] / 8).tolist()  # type: ignore[no-any-return]

    def bits(self, symbols: Tensor) -> Tensor:
        """Return the information in each image's integer latents N x M x h x w at the codec's rate, in bits (N)."""
        return torch.from_numpy(self.coder(self.stop).bits(symbols.cpu().numpy()))

    def _symbols(self, payload: bytes) -> tuple[int, np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.int64]]]:
        stream, n, stop = bitstream.unpack_stream(payload, self.key)
        if stop >= max(1, self.compressor.stops):
            raise PayloadError(f"payload is of stop {stop} of the rate, this compressor has {len(self.rates)}")
        return stop, *self.coder(stop).decode(stream, n, self._latent)


class CompressAI(_NeuralCodec, _StringCodec):
    """The neural codec of the paper: rounded latents and CompressAI's entropy coder, 8, 12, 16 ... bytes an image."""

    name = "compressai"

    def encode_each(self, images: Tensor) -> list[bytes]:
        return self.compressor.strings(self._checked(images))  # type: ignore[no-any-return]

    def decode_each(self, coded: list[bytes]) -> Tensor:
        if any(len(string) < 8 or len(string) % 4 for string in coded):
            raise PayloadError("payload holds a string that is no whole number of 4-byte words, at least two")
        return _pictures(self.compressor.images(coded, self.size))


CODECS: dict[str, type[Codec]] = {"png": Png, "jpeg": Jpeg, "webp": WebP, "neural": Neural, "compressai": CompressAI}


def codec(name: str, **options: Any) -> Codec:
    """Build a codec by name with the options of its class. Raises UsageError for an unknown name or option."""
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
