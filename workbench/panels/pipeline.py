"""One pair as client, edge and cloud in this process, a picture at a time: what `explore` shows, with where the time went.

::

    original --JPEG (S1)--> received --generator--> full strength --strength--> protected --codec (S2)--> seen, recognised
                            once a picture                      once a strength                   once a payload
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import metrics, weights
from ..classifiers import Classifier
from ..codecs import Codec
from ..data import Dataset, Split
from ..errors import UsageError
from ..evaluation import describe
from ..inference import prepare_pair
from ..pictures import residual, to_float
from ..system import NEURAL, Client, Cloud, Edge, Stopwatch, codec_for
from ..weights import Pair
from .pins import pixels, png
from .settings import Settings

__all__ = ["SCANNED", "Attack", "Pipeline", "Scan", "View", "pairs_there", "variants_there"]

TOP = 5
SCANNED = 512  # pictures that are looked through for the misclassified and the least hidden
CHUNK = 32  # of them at once, so that the hand never waits
REMEMBERED = 512  # pictures, payloads and views: a hand that moves to and fro comes by the same ones again
PIXELS = 2**21  # in those: of large pictures fewer are kept
EACH = 4  # that a view is made of at most: picture, payload, guess and itself
Top = list[tuple[str, float]]
Result = TypeVar("Result")


@dataclass(frozen=True, repr=False, kw_only=True)
class View:
    """All that is shown of one picture: images 3 x H x W in [0, 1], top classes (name, probability), milliseconds by component.

    `guess` is an attacker's, where one has learnt; `files` are the images as PNGs, by card. `code_bits` is the information in
    the payload, which the coder rounds up and the container adds its header and tag to. Of the components, those that `ran` did
    so for this view; the others' milliseconds are of when they did.
    """

    settings: Settings
    original: Tensor
    protected: Tensor
    cloud: Tensor
    label: str
    ssim: float
    s1_bytes: int
    s2_bytes: int
    codec: str
    target: Top
    auxiliary: Top
    on_original: Top
    code_bits: float
    milliseconds: dict[str, float]
    ran: frozenset[str]
    files: dict[str, bytes]
    guess: Tensor | None = None
    guess_psnr: float = 0.0


@dataclass(frozen=True)
class Scan:
    """What looking through the first pictures found: those recognised wrongly, and all by |SSIM|, the least hidden first."""

    n: int
    wrong: list[int]
    by_ssim: list[int]


@dataclass(frozen=True)
class Attack:
    """An inversion network that has learnt, and from what."""

    guess: Callable[[Tensor], Tensor] = field(repr=False)
    pairs: int
    passes: int
    strength: float


@dataclass(frozen=True, repr=False)
class _Captured:
    """One picture once the edge has it: the original, what the edge received, that at full strength; S1, times, its classes."""

    original: Tensor
    received: Tensor
    full: Tensor
    s1: int
    milliseconds: dict[str, float]
    on_original: Top


@dataclass(frozen=True, repr=False)
class _Seen:
    """What a payload is to the cloud: the images that it decodes, what both models recognise, the bits of its code; times."""

    cloud: Tensor
    target: Top
    auxiliary: Top
    code_bits: float
    milliseconds: dict[str, float]


class Pipeline:
    """The networks of one pair (`target-X-auxiliary`) with a generator `variant`; raises WeightsError where there are none."""

    def __init__(self, family: str, pair: str, variant: str, classes: tuple[str, ...]) -> None:
        target, auxiliary = weights.pair_of(pair)
        whole = weights.find(weights.compressor_name(target, auxiliary, "", variant), family) is not None
        self.raw = weights.load_pair(family, target, auxiliary, variant=variant, compressor=whole)
        self.pair: Pair = prepare_pair(self.raw)
        self.classes = classes
        self.attacks: dict[tuple[str, int], Attack] = {}
        self._codecs: dict[tuple[str, int, tuple[int, int]], Codec] = {}
        self._known: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()
        first = Settings("", 0, 1.0, self.codecs[0], 89, pair, variant)
        self.compute(first, torch.zeros(3, 32, 32, dtype=torch.uint8), -1)  # what the first picture takes longer is not its own
        self._known.clear()

    @property
    def codecs(self) -> tuple[str, ...]:
        """The names of the codecs that can be chosen."""
        return (*(NEURAL if self.pair.compressor is not None else ()), "png", "jpeg", "webp")

    def codec(self, name: str, quality: int, size: tuple[int, int]) -> Codec:
        """Return a codec for images of a size (H, W), made once."""
        key = (name, quality if name in ("jpeg", "webp") else 0, size)
        with self._lock:
            if key not in self._codecs:
                self._codecs[key] = codec_for(self.pair, name, size=size, **({"quality": quality} if key[1] else {}))
            return self._codecs[key]

    def compute(self, settings: Settings, image: Tensor, label: int) -> View:
        """Send one picture (uint8, 3 x H x W) through the system; what was shown a while ago is shown again."""
        attack = self.attacks.get((settings.codec, settings.quality))
        picture = (settings.source, settings.index, hash(image.numpy().tobytes()))  # others may come under the same name
        key = ("view", settings, picture, label, attack)
        view, sent = self._once(key, image, lambda: self._send(settings, image, picture, label, attack))
        return view if sent else replace(view, ran=frozenset())

    def _send(
        self, settings: Settings, image: Tensor, picture: tuple[str, int, int], label: int, attack: Attack | None
    ) -> View:
        found, captured = self._once(("picture", *picture), image, lambda: self._capture(to_float(image[None])))
        clock, size = Stopwatch(), (int(image.shape[-2]), int(image.shape[-1]))
        protected = torch.lerp(found.received, found.full, settings.strength)
        codec = self.codec(settings.codec, settings.quality, size)
        with torch.inference_mode():
            with clock("compression"):
                payload = codec.encode(protected)
            came = (settings.codec, settings.quality, size, payload)
            seen, decoded = self._once(("payload", *came), image, lambda: self._see(codec, payload))
            guess = None
            if attack is not None:
                guess, _ = self._once(("guess", attack, *came), image, lambda: attack.guess(seen.cloud))
        shown = {"original": found.original, "protected": protected, "cloud": seen.cloud}
        shown |= {} if guess is None else {"attacker": guess}
        spent = {"compression": clock.milliseconds["compression"] or 0.0}
        ran = spent | (found.milliseconds if captured else {}) | (seen.milliseconds if decoded else {})
        return View(
            settings=settings,
            original=found.original[0],
            protected=protected[0],
            cloud=seen.cloud[0],
            label=self.classes[label] if 0 <= label < len(self.classes) else "unknown",
            ssim=float(metrics.ssim(found.original, protected)),
            s1_bytes=found.s1,
            s2_bytes=len(payload),
            codec=describe(codec),
            target=seen.target,
            auxiliary=seen.auxiliary,
            on_original=found.on_original,
            code_bits=seen.code_bits,
            milliseconds=found.milliseconds | spent | seen.milliseconds,
            ran=frozenset(ran),
            files={name: png(pixels(each[0])) for name, each in shown.items()},
            guess=None if guess is None else guess[0],
            guess_psnr=0.0 if guess is None else float(metrics.psnr(found.original, guess)),
        )

    @staticmethod
    def remembers(image: Tensor) -> int:
        """Return of how many views all is remembered, where pictures have an image's size: of one at least."""
        return max(1, min(REMEMBERED, PIXELS // image.shape[-2:].numel()) // EACH)

    def _once(self, key: tuple[Any, ...], image: Tensor, make: Callable[[], Result]) -> tuple[Result, bool]:
        """Return what is made of a picture, and whether it was made now."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key], False
        made = make()
        with self._lock:
            self._known[key] = made
            while len(self._known) > EACH * self.remembers(image):
                self._known.popitem(last=False)
        return made, True

    def _capture(self, original: Tensor) -> _Captured:
        clock, edge = Stopwatch(), Edge(self.pair.generator, codec_for(self.pair, "png"))
        files = Client().capture(original, clock)
        received = edge.receive(files, clock=clock)
        full = edge.perturb(received, 1.0, clock)
        spent = {key: clock.milliseconds[key] or 0.0 for key in ("client_compression", "generator")}
        return _Captured(original, received, full, len(files[0]), spent, self._top(self.pair.target, original))

    def _see(self, codec: Codec, payload: bytes) -> _Seen:
        clock = Stopwatch()
        with clock("decompression"):
            cloud = Cloud(codec, self.pair.target).decode(payload)
        with clock("classifier"):
            target = self._top(self.pair.target, cloud)
        spent = {key: clock.milliseconds[key] or 0.0 for key in ("decompression", "classifier")}
        return _Seen(cloud, target, self._top(self.pair.auxiliary, cloud), 8 * sum(codec.sizes(payload)), spent)

    def _top(self, classifier: Classifier, images: Tensor) -> Top:
        with torch.inference_mode():
            scores = classifier(images).softmax(1)[0]
        values, order = scores.topk(min(TOP, len(scores)))
        return [(self.classes[int(i)], float(v)) for v, i in zip(values, order, strict=True)]

    def scan(self, settings: Settings, images: Tensor, labels: Tensor, pace: Callable[[], None]) -> Scan:
        """Look through the first pictures (uint8, N x 3 x H x W) at full strength; `pace` is called before each part."""
        images, labels = images[:SCANNED], labels[:SCANNED]
        codec = self.codec(settings.codec, settings.quality, (int(images.shape[-2]), int(images.shape[-1])))
        edge, cloud, client = Edge(self.pair.generator, codec), Cloud(codec, self.pair.target, remembered=0), Client()
        wrong, similar = [], []
        for start in range(0, len(images), CHUNK):
            pace()
            original = to_float(images[start : start + CHUNK])
            protected = edge.perturb(edge.receive(client.capture(original)))
            scores = cloud.recognise(codec.encode(protected))
            wrong.append(scores.argmax(1) != labels[start : start + CHUNK])
            with torch.inference_mode():
                similar.append(metrics.ssim(original, protected).abs())
        order = torch.cat(similar).argsort(descending=True, stable=True)
        return Scan(len(images), torch.cat(wrong).nonzero()[:, 0].tolist(), order.tolist())

    def gallery(self, settings: Settings, split: Split) -> tuple[dict[str, Tensor], list[str]]:
        """Return rows of pictures, the first of each class, as the strength grows, and the names of the classes."""
        there = [int((split.labels == k).nonzero()[0]) for k in range(len(self.classes)) if bool((split.labels == k).any())][
            :10
        ]
        there = there or list(range(min(10, len(split))))
        codec = self.codec(settings.codec, settings.quality, (int(split.images.shape[-2]), int(split.images.shape[-1])))
        edge, original = Edge(self.pair.generator, codec), to_float(split.images[there])
        received = edge.receive(Client().capture(original))
        full = edge.perturb(received)
        rows = {f"strength {a:g}": torch.lerp(received, full, a) for a in (0.0, 0.25, 0.5, 0.75, 1.0)}
        rows["at the cloud"] = codec.decode(codec.encode(full))
        rows["residual"] = residual(original, full)
        return rows, [self.classes[int(k)] if k >= 0 else "" for k in split.labels[there]]

    def attack(self, settings: Settings, dataset: Dataset, tick: Callable[[int], None], pairs: int, passes: int) -> Attack:
        """Let an inversion network learn from pictures of the training split what the cloud sees of them, and keep it.

        `tick` is told how many images have passed. Raises DataError where there are no training pictures to learn from.
        """
        from ..audit.attackers import Effort, Inversion
        from ..audit.views import Observed, Observer, pairs_of

        if tuple(dataset.train.images.shape[-2:]) != (32, 32):
            raise UsageError(f"attackers learn from 32 x 32 pictures, {dataset.title} has others: choose another data set")
        options: dict[str, Any] = {"quality": settings.quality} if settings.codec in ("jpeg", "webp") else {}
        observer = Observer(self.raw, settings.codec, (32, 32), settings.strength, **options)
        pairs = min(pairs, len(dataset.train))
        learner = Inversion(observer, Effort(pairs, passes, width=8), 0, tick)
        learner.fit(pairs_of(observer, dataset, "decoded", pairs))

        def guess(cloud: Tensor) -> Tensor:
            with torch.inference_mode():
                answers = self.pair.target(cloud).argmax(1)
                return learner.guess(Observed("decoded", cloud, answers))

        made = Attack(guess, pairs, passes, settings.strength)
        self.attacks = {**self.attacks, (settings.codec, settings.quality): made}
        return made


def pairs_there(family: str) -> list[str]:
    """Return the names of the pairs whose three networks are there."""
    names = {name.partition("@")[0] for name in _generators(family)}
    return sorted(name for name in names if all(weights.find(each, family) for each in weights.pair_of(name)))


def variants_there(family: str, pair: str) -> dict[str, str]:
    """Return the variants of a pair's generator by what tells them apart: the loss that each was trained with."""
    from ..notebook import loss_text

    found = {}
    for name, training in _generators(family).items():
        base, _, variant = name.partition("@")
        if base == pair:
            found[f"{variant or 'own'}: {loss_text(training)}"] = variant
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _generators(family: str) -> dict[str, dict[str, object]]:
    """Return the training of each complete generator of a pair; an encoder, which generators start from, is of none."""
    listed = [each for each, _ in weights.listing(on_error=lambda _: None) if each.kind == "generator" and "-X-" in each.name]
    return {each.name: each.training for each in listed if each.family == family and each.complete}
