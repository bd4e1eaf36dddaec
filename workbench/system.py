"""The system of the paper as plain objects: Client, Edge, Cloud, and System, which joins the three.

::

     trusted                                                           untrusted
     Client --JPEG (S1)--> Edge: generator -> codec ------payload (S2)-----> Cloud: codec -> classifier
        ^                                                                        |
        +------------------------------- scores <--------------------------------+

S1 is the data from client to edge. S2 is the payload from edge to cloud, which holds a whole batch of images. The generator
perturbs images, and the codec encodes them. Data leave the trusted domain only through `Edge.protect`. Methods with the
parameter `clock` add the times of their components to that `Stopwatch`.

The baseline (PP, MMSys '22) is a second arrangement of the same parts: the generator runs on the phone, which sends PNG
directly to the cloud. PMC² is the paper with the arrangement above.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .classifiers import Classifier
from .codecs import Codec, Jpeg, Png, codec
from .errors import WeightsError
from .inference import prepare
from .models import PerturbationGenerator, channels_last, in_parts
from .pictures import ANY, Limits, check_images, load_pictures, to_float
from .weights import Pair, load_pair

__all__ = ["COMPONENTS", "Client", "Cloud", "Edge", "Recognition", "Stopwatch", "System", "codec_for"]

# The nine components of Figure 4. In one process nothing crosses a network, so the two network components are None.
COMPONENTS = (
    "client_compression",
    "network_client_edge",
    "generator",
    "compression",
    "edge_other",
    "network_edge_cloud",
    "decompression",
    "classifier",
    "cloud_other",
)
NEURAL = ("neural", "compressai")  # codecs that need the pair's compressor
NETWORKS = ("network_client_edge", "network_edge_cloud")
PART = 256  # images that a cloud decodes and classifies between two calls of `proceed`
REMEMBERED = 4096  # limit of codes in the cloud's cache: about 13 MB for codes of 3 KB


def codec_for(pair: Pair, name: str, size: tuple[int, int] = (32, 32), **options: Any) -> Codec:
    """Build the codec called `name`, with its `options`.

    The neural codecs (`neural`, `compressai`) use the compressor of `pair`, and take images of `size` (H, W). Other codecs
    ignore `pair` and `size`. Raises WeightsError for a neural codec if the pair was loaded without its compressor.
    """
    if name not in NEURAL:
        return codec(name, **options)
    if pair.compressor is None:
        raise WeightsError(f"pair {pair.name} was loaded without its compressor: load it with compressor=True")
    return codec(name, compressor=pair.compressor, identity=pair.manifests["compressor"].sha256, size=size, **options)


class Stopwatch:
    """A stopwatch for the components of the system (see `COMPONENTS`). `milliseconds` has the total time of each component."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float | None] = dict.fromkeys(COMPONENTS, 0.0) | dict.fromkeys(NETWORKS)

    @contextmanager
    def __call__(self, component: str, device: torch.device | None = None) -> Iterator[None]:
        """A context that adds the time of the enclosed code, with pending work on a CUDA `device`, to `component`."""
        start = time.perf_counter()
        yield
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        self.milliseconds[component] = (self.milliseconds[component] or 0.0) + 1e3 * (time.perf_counter() - start)


class Client:
    """The phone. It compresses private pictures with JPEG for the edge."""

    def __init__(self, quality: int = 90, subsampling: str = "4:4:4") -> None:
        self.jpeg = Jpeg(quality, subsampling)

    def capture(self, images: Tensor, clock: Stopwatch | None = None) -> list[bytes]:
        """Return the content of a JPEG file for each image. `images` are floats in [0, 1], N x 3 x H x W."""
        check_images(images)
        with (clock or Stopwatch())("client_compression"):
            return self.jpeg.encode_each(images)


class Edge:
    """The trusted edge. It perturbs images, then encodes them."""

    def __init__(self, generator: PerturbationGenerator, codec: Codec, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.generator = channels_last(generator.eval(), self.device)
        self.codec = codec

    def receive(
        self, files: Sequence[bytes], size: int | None = None, clock: Stopwatch | None = None, limits: Limits = ANY
    ) -> Tensor:
        """Decode the files that clients sent. Return images in [0, 1], N x 3 x H x W.

        Images are cropped and scaled to squares of `size` pixels. With `size` None they keep their size, which must be equal
        for all. Raises DataError for a file that is unreadable or beyond the `limits`.
        """
        with (clock or Stopwatch())("edge_other"):
            return to_float(load_pictures(files, size, limits))

    def perturb(self, images: Tensor, strength: float = 1.0, clock: Stopwatch | None = None) -> Tensor:
        """Return the images protected at a strength from 0 to 1. Only the output of `protect` may leave the edge."""
        with torch.inference_mode(), (clock or Stopwatch())("generator", self.device):
            images = images.to(self.device, memory_format=torch.channels_last)
            return in_parts(lambda part: self.generator(part, strength), images)

    def protect(
        self, images: Tensor, strength: float = 1.0, clock: Stopwatch | None = None, rate: float | None = None
    ) -> bytes:
        """Perturb images at a `strength` from 0 to 1, encode them, and return the payload for the cloud.

        `rate` is the codec's rate, from 0 (the fewest bits) to 1. None selects the codec's own rate.
        """
        clock, codec = clock or Stopwatch(), self.codec.at(rate)
        protected = self.perturb(images, strength, clock)
        with clock("compression", self.device):
            return codec.encode(protected)


class Cloud:
    """The untrusted cloud: decodes payloads and classifies the images with an unmodified model.

    A code is the encoded form of one image. With some codecs (`codec.repeats`) many images have equal codes. Then each distinct
    code of a payload is decoded once, and the scores of the last `remembered` codes are cached. With `every`, each image is
    decoded and classified instead, as in the paper's cloud.
    """

    def __init__(
        self,
        codec: Codec,
        classifier: Classifier,
        device: str | torch.device = "cpu",
        remembered: int = REMEMBERED,
        every: bool = False,
    ) -> None:
        self.every = every
        self.device = torch.device(device)
        self.classifier = channels_last(classifier.eval(), self.device)
        self.codec, self.remembered = codec, remembered if codec.repeats and not every else 0
        self._answers: dict[bytes, Tensor] = {}
        self._singles: dict[bytes, Tensor] = {}  # scores by payload, for payloads of one image
        self._lock = threading.Lock()  # guards the caches, since a service runs several threads

    def decode(self, payload: bytes, clock: Stopwatch | None = None) -> Tensor:
        """Return a payload's images, N x 3 x H x W in [0, 1]. Raises PayloadError for bytes that the codec did not make."""
        with (clock or Stopwatch())("decompression", self.device):
            return self.codec.decode(payload)

    def recognise(self, payload: bytes, clock: Stopwatch | None = None, proceed: Callable[[], None] = lambda: None) -> Tensor:
        """Return the probabilities of the K classes for each of the N images in a payload (N x K), on the CPU.

        `proceed` is called before each part of up to 256 images. It may raise an exception to stop the work. Raises
        PayloadError for bytes that the codec did not make.
        """
        clock = clock or Stopwatch()
        with clock("decompression"):
            known = self.remember(payload)
        if known is not None:
            with clock("cloud_other"):
                return known.clone()
        with clock("decompression"):
            coded, which = self.codec.unpack(payload)
        if self.every:
            return self._classify([coded[int(row)] for row in which], clock, proceed)
        if not self.remembered:
            return self._classify(coded, clock, proceed)[which]
        with self._lock:
            found = {code: self._answers[code] for code in coded if code in self._answers}
        if new := [code for code in coded if code not in found]:
            found |= zip(new, self._classify(new, clock, proceed), strict=True)
        with clock("cloud_other"):
            scores = torch.stack([found[code] for code in coded])[which]
            self._remember(self._answers, found)
            if len(scores) == 1:
                self._remember(self._singles, {payload: scores})
            return scores

    def remember(self, payload: bytes) -> Tensor | None:
        """Return the cached scores for a payload of one image, or None if this payload is not in the cache."""
        return self._singles.get(payload)

    def _classify(self, coded: list[bytes], clock: Stopwatch, proceed: Callable[[], None]) -> Tensor:
        scores: list[Tensor] = []
        for start in range(0, len(coded), PART):
            proceed()
            with torch.inference_mode(), clock("decompression", self.device):
                images = self.codec.decode_each(coded[start : start + PART])
                images = images.to(self.device, memory_format=torch.channels_last)
            with torch.inference_mode(), clock("classifier", self.device):
                scores.append(in_parts(self.classifier, images).softmax(1).cpu())
        return scores[0] if len(scores) == 1 else torch.cat(scores)

    def _remember(self, answers: dict[bytes, Tensor], found: dict[bytes, Tensor]) -> None:
        with self._lock:
            answers |= found
            while len(answers) > self.remembered:
                del answers[next(iter(answers))]


@dataclass(frozen=True)
class Recognition:
    """The result for a batch of N images. `scores` (N x K) are the probabilities of the K classes for each image.

    `s1_bytes` is the number of bytes from client to edge, or None without a client. `s2_bytes` is the number of bytes from edge
    to cloud. If several requests share a payload, `s2_bytes` is this request's part of the payload. `milliseconds` has the time
    of each component for the whole batch, or None for a component that was not measured.
    """

    scores: Tensor
    s1_bytes: int | None
    s2_bytes: float
    milliseconds: dict[str, float | None]

    @property
    def labels(self) -> Tensor:
        return self.scores.argmax(1)


@dataclass(frozen=True)
class System:
    """Client, Edge and Cloud joined. Without a client, the phone does the work of the edge, as in the baseline PP."""

    client: Client | None
    edge: Edge
    cloud: Cloud

    @classmethod
    def in_process(
        cls,
        generator: PerturbationGenerator,
        codec: Codec,
        classifier: Classifier,
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> System:
        """Build the system of PMC²: JPEG of quality 90 from client to edge, `codec` from edge to cloud.

        Generator and classifier compute on `device` in `precision` (see `inference.prepare`).
        """
        codec = codec.to(device)
        generator, classifier = prepare(generator, device, precision), prepare(classifier, device, precision)
        return cls(Client(), Edge(generator, codec, device), Cloud(codec, classifier, device))

    @classmethod
    def load(
        cls,
        family: str,
        target: str = "resnet18",
        auxiliary: str = "vgg13_bn",
        codec: str = "neural",
        device: str | torch.device = "cpu",
        precision: str = "float32",
        **options: Any,
    ) -> System:
        """Build the system of PMC² from the stored weights of a pair.

        The pair is the classifiers `target` (at the cloud) and `auxiliary`, with the networks that were trained for them.
        `family` is the name under which data sets share weights (see `weights`). `codec` is a codec's name, and `options` are
        its options. Raises WeightsError if weights are missing.
        """
        pair = load_pair(family, target, auxiliary, compressor=codec in NEURAL)
        pair = pair if pair.compressor is None else replace(pair, compressor=prepare(pair.compressor, precision=precision))
        return cls.in_process(
            pair.generator, codec_for(pair, codec, **options), pair.target, device=device, precision=precision
        )

    @classmethod
    def baseline(cls, generator: PerturbationGenerator, classifier: Classifier, device: str | torch.device = "cpu") -> System:
        """Build the baseline PP: the generator on the phone, which sends PNG directly to the cloud."""
        return cls(None, Edge(generator, Png(), device), Cloud(Png(), classifier, device))

    def recognise(self, images: Tensor, strength: float = 1.0, rate: float | None = None) -> Recognition:
        """Send images through the whole system. They are floats in [0, 1], N x 3 x H x W.

        The edge protects the images at a `strength` from 0 to 1. The codec encodes them at a `rate`, by default its own rate.
        """
        check_images(images)
        clock = Stopwatch()
        s1 = None
        if self.client is not None:
            files = self.client.capture(images, clock)
            s1 = sum(map(len, files))
            images = self.edge.receive(files, clock=clock)
        payload = self.edge.protect(images, strength, clock, rate)
        return Recognition(self.cloud.recognise(payload, clock), s1, len(payload), clock.milliseconds)
