"""Decode the large pictures of all requests on one thread pool, within one memory budget.

::

    request --picture headers--> too many pixels: refused before any picture is decoded
       |
       +--picture by picture--> wait for free memory --> decode --> image of the size that the generator needs
                                |
                                cancelled between two pictures, after the request's deadline

A JPEG file stores its picture in one or more passes, called scans. A JPEG with one scan can be decoded at a reduced scale, in
little memory.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image

from ..errors import DataError, ServiceError
from ..pictures import Limits, without_metadata
from ..system import Edge
from ..warning_filter import suppress_warnings

__all__ = ["MemoryBudget", "PictureDecoder"]

MOST_JPEG_PIXELS = 1 << 28  # pixels of a request's JPEGs with one scan, which are decoded at a scale of 1/8 or more
MOST_PIXELS = 1 << 26  # pixels of a request's other pictures
BUDGET = 512 << 20  # bytes of memory for decoding
PIXEL_BYTES = 24  # memory of a decoded pixel with its copies: alpha, white background, rotated
KEPT_BYTES = 8  # further memory of a pixel in a JPEG with several scans, whose coefficients are all kept
MEMORY_POLL_S = 0.1  # between two checks for cancellation, while a request waits for memory


class Cancelled(Exception):  # noqa: N818  (it never leaves this module)
    """Raised on a decoding thread after the request's deadline or failure."""


@dataclass(frozen=True)
class Cost:
    """The cost of decoding one picture: its pixels, and the `memory` in bytes.

    JPEGs with one scan and all other pictures have separate limits. So the picture's pixels are either `jpeg_pixels` (a JPEG
    with one scan) or `pixels` (any other picture), and the other field is 0.
    """

    jpeg_pixels: int = 0
    pixels: int = 0
    memory: int = 0


class MemoryBudget:
    """A limit of `most` bytes on the memory that all decoding threads use together."""

    def __init__(self, most: int = BUDGET) -> None:
        self.most, self.used = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def __call__(self, needed: int, cancelled: threading.Event) -> Iterator[None]:
        """Wait until `needed` bytes are free, and reserve them until the context ends.

        Raises Cancelled if `cancelled` is set during the wait. A picture that needs more than the limit is decoded alone.
        """
        with self._changed:
            while self.used and self.used + needed > self.most:
                self._changed.wait(MEMORY_POLL_S)
                if cancelled.is_set():
                    raise Cancelled
            self.used += needed
        try:
            yield
        finally:
            with self._changed:
                self.used -= needed
                self._changed.notify_all()


class PictureDecoder:
    """Decodes pictures to images of `size` x `size` pixels, on `threads` threads.

    `edge` is the object whose method `receive` decodes one picture. `budget` limits the memory of all threads together.
    `limits` bounds the bytes and the pixels of each picture.
    """

    def __init__(self, edge: Edge, size: int, limits: Limits, threads: int, budget: MemoryBudget | None = None) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decoder")
        self.budget = budget or MemoryBudget()
        self._edge, self._size, self._limits, self._threads = edge, size, limits, threads

    def close(self) -> None:
        self.pool.shutdown()

    async def decode(self, files: Sequence[bytes], deadline: float) -> torch.Tensor:
        """Return the images in the N `files` of one request, as N x 3 x size x size in [0, 1].

        Raises DataError if a picture is unreadable, or if a picture or the whole request is too large. Raises ServiceError 504
        after `deadline` (the event loop's time).
        """
        held = list(files)  # emptied at the end, so that a task in the queue keeps no pictures alive
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                costs = await loop.run_in_executor(self.pool, self._costs, held, cancelled)
                images: list[torch.Tensor | None] = [None] * len(held)
                numbers = itertools.count()  # shared: each thread takes the next picture
                work = [
                    loop.run_in_executor(self.pool, self._decode, held, costs, images, numbers, cancelled)
                    for _ in range(min(self._threads, len(held)))
                ]
                await asyncio.gather(*work)
        except (TimeoutError, Cancelled):
            raise ServiceError("the deadline passed before the pictures were decoded", status=504) from None
        finally:
            cancelled.set()
            held.clear()
        return torch.cat([image for image in images if image is not None])

    def _costs(self, files: list[bytes], cancelled: threading.Event) -> list[Cost]:
        costs = []
        for file in list(files):
            if cancelled.is_set():
                raise Cancelled
            costs.append(self._cost(file))
        jpeg_pixels, pixels = sum(cost.jpeg_pixels for cost in costs), sum(cost.pixels for cost in costs)
        for claimed, most, kind in (
            (jpeg_pixels, MOST_JPEG_PIXELS, "JPEGs"),
            (pixels, MOST_PIXELS, "PNGs and progressive JPEGs"),
        ):
            if claimed > most:
                raise DataError(f"the {kind} of this request claim {claimed:,} pixels; at most {most:,} are read: send fewer")
        return costs

    def _cost(self, file: bytes) -> Cost:
        try:
            scans = self._limits.scans_of(file, f"{len(file)} bytes")
            with suppress_warnings(), Image.open(io.BytesIO(without_metadata(file)), formats=self._limits.formats) as picture:
                self._limits.check(picture, scans, f"{len(file)} bytes")
                full = picture.width * picture.height
                picture.draft("RGB", (2 * self._size, 2 * self._size))
                scaled = picture.width * picture.height
        except DataError:
            raise
        except Exception:  # decoding will fail in the same way, with the right error
            return Cost()
        if scans == 1:
            return Cost(jpeg_pixels=full, memory=PIXEL_BYTES * scaled)
        return Cost(pixels=full, memory=PIXEL_BYTES * scaled + (KEPT_BYTES * full if scans else 0))

    def _decode(
        self,
        files: list[bytes],
        costs: list[Cost],
        images: list[torch.Tensor | None],
        numbers: Iterator[int],
        cancelled: threading.Event,
    ) -> None:
        for number in numbers:
            if cancelled.is_set():
                raise Cancelled
            if number >= len(images):
                return
            with self.budget(costs[number].memory, cancelled):
                try:
                    file = files[number]
                except IndexError:
                    raise Cancelled from None
                images[number] = self._edge.receive([file], self._size, limits=self._limits)
