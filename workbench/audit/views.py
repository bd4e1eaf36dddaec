"""The attacker's views of a picture on its way to the cloud, and the pairs that attackers learn from.

::

    picture -> client's JPEG -> edge: generator ----> codec ----payload----> cloud: codec -> target --> label
    view:                                     perturbed         payload                decoded          label

A view is the data that an attacker observes at one of these four points. `perturbed` is the protected image itself, as a
lossless codec such as PNG transmits it. `decoded` is the cloud's decoded image. `payload` is the bytes on the wire, inside
TLS. `label` is the class alone, as an edge with its own classifier would send it. Every view includes the label, because the
cloud returns it. A pair is one of the attacker's own pictures, together with the observation of this picture.
"""

from __future__ import annotations

import copy
import itertools
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..codecs import CompressAI, Neural
from ..data import Dataset
from ..errors import DataError, unknown
from ..inference import computes_in_16_bits, prepare_pair
from ..models import NeuralCompressor, PerturbationGenerator, channels_last, check_strength, in_parts, repeatable_noise
from ..pictures import to_float, to_uint8
from ..rows import distinct
from ..system import Client, Cloud, Edge, codec_for
from ..weights import Pair

__all__ = ["SOURCES", "VIEWS", "Observed", "Observer", "Pairs", "pairs_of"]

Made = TypeVar("Made")
VIEWS = ("perturbed", "decoded", "payload", "label")
SOURCES = ("same", "other", "noise")
BATCH = 256  # pictures in one payload
KEPT = 3  # number of sets of protected pictures in an observer's cache


@dataclass(frozen=True, eq=False, repr=False)
class Observed:
    """Observations of N pictures in one view.

    `seen` (N x C x H x W) are the observations: images, the latents of a neural codec's `payload`, or one-hot labels. `answers`
    (N) are the labels that the cloud returned.
    """

    view: str
    seen: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        return f"Observed({self.view!r}, {tuple(self.seen.shape)})"

    def __getitem__(self, rows: slice | Tensor) -> Observed:
        return Observed(self.view, self.seen[rows], self.answers[rows])

    @property
    def pictures(self) -> bool:
        """Whether the observations are pictures of the original's size."""
        return self.view in ("perturbed", "decoded")

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor]:
        """Two tensors of indices for U distinct observations.

        The first tensor (U) has the row in which each distinct observation first occurs. The second tensor (N) has the position
        of each observation in the first tensor.
        """
        return distinct(self.seen + 0.0)  # -0 becomes 0


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """A set of N pairs, from which an attacker learns: its own pictures with their observations and true labels.

    `images` are N x 3 x H x W in [0, 1]. `labels` is None if the pictures show none of the data set's classes.
    """

    observed: Observed
    images: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        known = "unknown" if self.labels is None else "known"
        return f"Pairs({self.observed!r}, {tuple(self.images.shape)}, classes {known})"

    def __getitem__(self, rows: slice | Tensor) -> Pairs:
        return Pairs(self.observed[rows], self.images[rows], None if self.labels is None else self.labels[rows])


class Kept(Generic[Made]):
    """A cache of the last `KEPT` values. If two threads request one missing value, the second thread waits for the first."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Future[Made]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return the cached value of a key, computed by `make` if it is missing."""
        with self._lock:
            future = self._made.get(key)
            mine = future is None
            if future is None:
                future = self._made[key] = Future()
                while len(self._made) > KEPT:
                    del self._made[next(iter(self._made))]
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._made.pop(key, None)
                future.set_exception(error)
        return future.result()


class Observer:
    """Simulates client, edge and cloud, and returns an attacker's observations.

    `pair` has the system's networks. `size` is the height and width of the images. `options` are passed to the codec. `like` is
    another observer of the same networks. The two observers share prepared networks and protected pictures. Raises UsageError
    for a strength outside [0, 1].
    """

    def __init__(
        self,
        pair: Pair,
        codec: str = "neural",
        size: tuple[int, int] = (32, 32),
        strength: float = 1.0,
        device: str = "cpu",
        precision: str = "float32",
        like: Observer | None = None,
        **options: Any,
    ) -> None:
        check_strength(strength)
        self.pair, self.strength, self.device = pair, strength, torch.device(device)
        self._asked, self._options = (codec, size, strength, device), options
        assert like is None or like.pair is pair, "observers on different pairs have nothing to share"
        self._like = like
        self.networks: Pair = prepare_pair(pair, device, precision) if like is None else like.networks
        self.codec = codec_for(self.networks, codec, size, **options).to(device)
        self.client = Client()
        self.edge = Edge(self.networks.generator, self.codec, device)
        self.cloud = Cloud(self.codec, self.networks.target, device, remembered=0)
        self.kept: Kept[tuple[Tensor, Tensor, Tensor | None]] = Kept() if like is None else like.kept
        self._sent: tuple[Tensor, list[Tensor], list[Tensor]] | None = None  # the last images: original, received, noiseless
        self._sends: defaultdict[tuple[int, str], Iterator[int]] = defaultdict(itertools.count)  # by images and view

    @property
    def settings(self) -> tuple[object, ...]:
        """The codec, its options and the strength. Observers of the same networks with equal settings have equal views."""
        return (self._asked[0], *sorted(self._options.items()), self.strength)

    @cached_property
    def quick(self) -> Observer:
        """An observer with the same settings that computes in 16 bits, for the many pictures that attackers learn from.

        If the device does not support 16 bits, this is the observer itself.
        """
        if not computes_in_16_bits(self.device):
            return self
        like = None if self._like is None else self._like.quick
        return Observer(self.pair, *self._asked, precision="bfloat16", like=like, **self._options)

    def protect(self, images: Tensor, view: str = "") -> Tensor:
        """Send images through the client's JPEG to the edge, and return the protected images, on the CPU.

        `images` and the result are float, N x 3 x H x W. `view` is the view for which the images are sent. Repeated sends of
        one tensor differ only in the generator's random component. This component depends on the images, on `view` and on the
        number of earlier sends. So an audit is repeatable.
        """
        content = zlib.crc32(images.numpy().tobytes())
        send = next(self._sends[content, view])
        with repeatable_noise(zlib.crc32(f"{view} {send}".encode(), content)):
            return self._protect(images)

    def _protect(self, images: Tensor) -> Tensor:
        generator = self.edge.generator
        received = (self.edge.receive(self.client.capture(part)) for part in torch.split(images, BATCH))
        if not (generator.noise and self.strength):
            return torch.cat([self.edge.perturb(part, self.strength).cpu() for part in received])
        sent = self._sent
        with torch.inference_mode():
            if sent is None or sent[0] is not images:
                parts = [part.to(self.device, memory_format=torch.channels_last) for part in received]
                sent = self._sent = (images, parts, [in_parts(generator.noiseless, part) for part in parts])
            return torch.cat([generator.blend(*both, self.strength).cpu() for both in zip(*sent[1:], strict=True)])

    def observe(self, images: Tensor, view: str) -> Observed:
        """Send float images N x 3 x H x W through the system, and return their observations in one view."""
        return self.show(self.protect(images, view), view)

    def show(self, protected: Tensor, view: str) -> Observed:
        """Return the observations of protected images in a view. Raises UsageError for an unknown view."""
        if view not in VIEWS:
            raise unknown("view", view, VIEWS)
        parts = [self._show(part.to(self.device), view) for part in torch.split(protected, BATCH)]
        seen, answers = (torch.cat([part[index].cpu() for part in parts]) for index in (0, 1))
        return Observed(view, seen, answers)

    def _show(self, protected: Tensor, view: str) -> tuple[Tensor, Tensor]:
        if view == "perturbed":  # PNG carries 8 bits
            shown = to_float(to_uint8(protected))
            return shown, self._answer(shown)
        coded, which = self.codec.unpack(self.codec.encode(protected))
        pictures = self.codec.decode_each(coded)
        answers = self._answer(pictures)[which]
        if view == "label":
            return F.one_hot(answers, self.pair.target.num_classes).float()[:, :, None, None], answers
        return (self._symbols(coded, protected) if view == "payload" else pictures)[which], answers

    def _answer(self, pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            return in_parts(self.cloud.classifier, pictures.to(self.device)).argmax(1)

    def _symbols(self, coded: list[bytes], protected: Tensor) -> Tensor:
        if isinstance(self.codec, Neural):
            return self.codec.latents(coded).float()
        if isinstance(self.codec, CompressAI):  # one string for each image, in order
            with torch.inference_mode():
                return in_parts(self.codec.compressor.latents, protected).round()
        return self.codec.decode_each(coded)

    def bits(self, protected: Tensor) -> Tensor:
        """Return the information in the coded form of each protected image, in bits (N)."""
        parts = torch.split(protected, BATCH)
        return 8 * torch.tensor([size for part in parts for size in self.codec.sizes(self.codec.encode(part.to(self.device)))])

    @cached_property
    def generator(self) -> PerturbationGenerator:
        """A copy of the generator for a white-box attacker, without the random component.

        The attacker cannot know the random values of a send.
        """
        made = channels_last(copy.deepcopy(self.pair.generator).eval().requires_grad_(False), self.device)
        made.noise = 0.0
        return made

    @cached_property
    def compressor(self) -> NeuralCompressor | None:
        """A copy of the compressor for a white-box attacker, or None for a codec without a compressor."""
        if not isinstance(self.codec, Neural | CompressAI) or self.pair.compressor is None:
            return None
        made: NeuralCompressor = copy.deepcopy(self.pair.compressor).eval().requires_grad_(False)
        return channels_last(made, self.device)


def pairs_of(observer: Observer, dataset: Dataset, view: str, n: int, source: str = "same", seed: int = 0) -> Pairs:
    """Send `n` of the attacker's own pictures through the edge. Return the pictures with their observations.

    Any client may send such pictures. `source` selects them: `same` is random pictures of the data set's training split,
    `other` is other data of the same kind, `noise` is smoothed noise. The last `KEPT` sets of protected pictures are cached
    for other views and codecs. Raises UsageError for an unknown source, and DataError if the training split has fewer than `n`
    pictures.
    """
    quick, asked = observer.quick, (dataset.name, n, source, seed, observer.strength)

    def protected() -> tuple[Tensor, Tensor, Tensor | None]:
        images, labels = _pictures(dataset, n, source, seed)
        return images, quick.protect(images), labels

    images, seen, labels = quick.kept.get(asked, protected)
    return Pairs(quick.show(seen, view), images, labels)


def _pictures(dataset: Dataset, n: int, source: str, seed: int) -> tuple[Tensor, Tensor | None]:
    size = int(dataset.test.images.shape[-1])
    random = torch.Generator().manual_seed(seed)
    if source == "same":
        if n > len(dataset.train):
            raise DataError(f"{n} pairs were requested, the training split of {dataset.title} has {len(dataset.train)}")
        rows = torch.randperm(len(dataset.train), generator=random)[:n]
        return to_float(dataset.train.images[rows]), dataset.train.labels[rows]
    if source == "other":
        return _glyphs(n, size, seed) if dataset.family == "digits" else _cuttings(n, size, random), None
    if source == "noise":
        return _noise(n, size, random), None
    raise unknown("source of pairs", source, SOURCES)


def _noise(n: int, size: int, random: torch.Generator) -> Tensor:
    images = torch.empty(n, 3, size, size)
    for row in range(n):
        cells = 2 ** int(torch.randint(1, 6, (1,), generator=random))
        coarse = torch.rand(1, 3, cells, cells, generator=random)
        images[row] = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[0]
    return images


def _cuttings(n: int, size: int, random: torch.Generator) -> Tensor:
    from sklearn.datasets import load_sample_images

    from ..data import load

    photographs = [torch.from_numpy(np.asarray(each).copy()).permute(2, 0, 1) for each in load_sample_images().images]
    photographs += list(load("samples-imagenet").test.images)
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    for row in range(n):
        draw = torch.rand(5, generator=random)
        photograph = photographs[int(draw[0] * 2) if draw[1] < 0.9 else 2 + int(draw[0] * (len(photographs) - 2))]
        height, width = photograph.shape[-2:]
        side = int(min(height, width) * (0.08 + 0.92 * float(draw[2]) ** 2))
        side = max(side, min(size // 2, height, width))
        top, left = int(draw[3] * (height - side + 1)), int(draw[4] * (width - side + 1))
        cut = to_float(photograph[None, :, top : top + side, left : left + side])
        cut = F.interpolate(cut, size=size, mode="bilinear", align_corners=False, antialias=True)
        images[row] = to_uint8(cut.flip(-1) if int(draw[4] * 1e6) % 2 else cut)[0]
    return to_float(images)


def _glyphs(n: int, size: int, seed: int) -> Tensor:
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(seed)
    paths = sorted(
        {each.fname for each in font_manager.fontManager.ttflist if "DejaVu" in each.name and "Display" not in each.name}
    )
    images = np.empty((n, 8, 8), np.float32)
    for row in range(n):
        font = ImageFont.truetype(str(random.choice(paths)), int(random.integers(44, 60)))
        picture = Image.new("L", (64, 64))
        place = (32 + int(random.integers(-3, 4)), 32 + int(random.integers(-3, 4)))
        ImageDraw.Draw(picture).text(place, str(random.integers(10)), fill=255, font=font, anchor="mm")
        picture = picture.rotate(float(random.uniform(-12, 12)), Image.Resampling.BILINEAR)
        images[row] = np.asarray(picture.resize((8, 8), Image.Resampling.BOX), np.float32) / 255
    small = torch.from_numpy(images)[:, None]
    return F.interpolate(small, size=size, mode="bicubic", align_corners=False).clamp_(0, 1).expand(-1, 3, -1, -1).contiguous()
