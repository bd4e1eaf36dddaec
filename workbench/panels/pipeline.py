"""Client, edge and cloud in one process, with the networks of one pair.

A pair is a target classifier, an auxiliary classifier, and a generator that protects pictures. A variant is another generator
for the same two classifiers. Data sets of one family use the same weights. For example, the family of `samples` is `cifar10`.
An attacker is a network that reconstructs pictures from the cloud's decoded pictures. The settings are the strength of
protection, the codec and its rate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import metrics, weights
from ..classifiers import Classifier
from ..codecs import Codec
from ..data import Dataset, Split
from ..errors import UsageError
from ..evaluation import describe
from ..inference import prepare_pair
from ..models import repeatable_noise
from ..pictures import residual, to_float
from ..system import NEURAL, Client, Edge, Stopwatch, codec_for
from ..weights import Pair
from .methods import Attack, Captured, Method, Seen
from .settings import Settings

__all__ = ["SCANNED", "Pipeline", "Scan", "pairs_there", "variants_there"]

MOST_PSNR = 100.0  # limit of PSNR in dB, since JSON has no infinity
PART = 64  # pictures in one batch of a classifier
SCANNED = 512  # pictures of a collection that a search covers
CHUNK = 32  # pictures in one step of a search; requests are handled between two steps


@dataclass(frozen=True)
class Scan:
    """Measurements of a collection's first pictures. Each list has one entry for each picture.

    - `right`: whether the cloud's label is correct
    - `ssim`: the absolute value of the SSIM between the protected and the original picture
    - `psnr`: the PSNR of an attacker's reconstruction (dB). This list is empty if no attacker was trained.
    """

    right: list[bool]
    ssim: list[float]
    psnr: list[float]


class Pipeline(Method):
    """A method that protects, sends and recognises pictures with the networks of one pair.

    `family` is the name under which the weights are stored, such as "cifar10". `pair` is the pair's name, such as
    "resnet18-X-vgg13_bn" for the target resnet18 and the auxiliary vgg13_bn. `variant` is the generator's variant (empty: the
    pair's own generator). `classes` are the names of the classes. Raises WeightsError if weights are missing.
    """

    def __init__(self, family: str, pair: str, variant: str, classes: tuple[str, ...]) -> None:
        target, auxiliary = weights.pair_of(pair)
        whole = weights.find(weights.compressor_name(target, auxiliary, "", variant), family) is not None
        self.raw = weights.load_pair(family, target, auxiliary, variant=variant, compressor=whole)
        self.pair: Pair = prepare_pair(self.raw)
        self.classes = classes
        super().__init__()
        self.attacks: dict[tuple[str, int, float], Attack] = {}
        self._codecs: dict[tuple[Any, ...], Codec] = {}
        self._lock = threading.Lock()
        first = Settings("", (0,), 1.0, 0.0, self.codecs[0], 89, pair, variant)
        warm = self.capture("warm", torch.zeros(1, 3, 32, 32, dtype=torch.uint8))  # warm-up: the first call is slow
        self.see(first, "warm", warm, lambda: None)
        self.cache.clear()

    @property
    def codecs(self) -> tuple[str, ...]:
        return (*(NEURAL if self.pair.compressor is not None else ()), "png", "jpeg", "webp")

    def rates(self, codec: str) -> tuple[float, ...]:
        if codec not in NEURAL:
            return ()
        stops: tuple[float, ...] = getattr(self._codec(codec, 0, (32, 32)), "rates", (0.0,))  # compressai has no rate
        return stops if len(stops) > 1 else ()

    def codec(self, settings: Settings, size: tuple[int, int]) -> Codec:
        """Return the codec that `settings` select, for images of `size` (H, W). The codec uses the rate of `settings`."""
        codec: Any = self._codec(settings.codec, settings.graded, size)
        rated: Codec = codec.at(settings.rate) if self.rates(settings.codec) else codec
        return rated

    def _codec(self, name: str, quality: int, size: tuple[int, int]) -> Codec:
        options: dict[str, Any] = {"quality": quality} if quality else {}
        with self._lock:
            if (name, quality, size) not in self._codecs:
                self._codecs[name, quality, size] = codec_for(self.pair, name, size=size, **options)
            return self._codecs[name, quality, size]

    def attack_of(self, settings: Settings) -> Attack | None:
        return self.attacks.get((settings.codec, settings.graded, settings.rate))

    def _capture(self, original: Tensor) -> Captured:
        clock, edge = Stopwatch(), Edge(self.pair.generator, codec_for(self.pair, "png"))
        files = Client().capture(original, clock)
        received = edge.receive(files, clock=clock)
        with repeatable_noise(0):  # the same picture gets the same random component
            full = edge.perturb(received, 1.0, clock)
        spent = {name: clock.milliseconds[name] or 0.0 for name in ("client_compression", "generator")}
        alone = self._classify(self.pair.target, original) if len(original) == 1 else None
        return Captured(original, received, full, [len(file) for file in files], alone, spent)

    def _see(self, settings: Settings, captured: Captured, attack: Attack | None, proceed: Callable[[], None]) -> Seen:
        clock, size = Stopwatch(), (int(captured.original.shape[-2]), int(captured.original.shape[-1]))
        protected, codec = captured.protected(settings.strength), self.codec(settings, size)
        with torch.inference_mode():
            with clock("compression"):
                payload = codec.encode(protected)
            proceed()
            with clock("decompression"):
                coded, which = codec.unpack(payload)
                cloud = codec.decode_each(coded)
            proceed()
            with clock("classifier"):
                target = self._classify(self.pair.target, cloud)
            proceed()
            auxiliary = self._classify(self.pair.auxiliary, cloud)
            guess = None if attack is None else attack.guess(cloud)
            ssim = metrics.ssim(captured.original, protected)
        return Seen(
            cloud=cloud,
            which=which,
            ssim=ssim,
            bits=[8 * size for size in codec.sizes(payload)],
            payload=len(payload),
            codec=describe(codec),
            target=target[which],
            auxiliary=auxiliary[which],
            guess=guess,
            psnr=None if guess is None else metrics.psnr(captured.original, guess[which]).clamp(max=MOST_PSNR),
            milliseconds={name: clock.milliseconds[name] or 0.0 for name in ("compression", "decompression", "classifier")},
        )

    @staticmethod
    def _classify(classifier: Classifier, images: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = torch.split(images.contiguous(memory_format=torch.channels_last), PART)
            return torch.cat([classifier(part).softmax(1) for part in parts])

    def scan(self, settings: Settings, images: Tensor, labels: Tensor, pace: Callable[[], None]) -> Scan:
        """Send a collection's first `SCANNED` (512) pictures through edge and cloud, and return measurements of each picture.

        `images` are uint8, N x 3 x H x W. `labels` are the true class indices (N). The callback `pace` is called between steps.
        """
        right, ssim, psnr = [], [], []
        for start in range(0, min(SCANNED, len(images)), CHUNK):
            pace()
            rows = slice(start, min(start + CHUNK, SCANNED))
            captured = self._capture(to_float(images[rows]))
            seen = self._see(settings, captured, self.attack_of(settings), pace)
            assert seen.target is not None
            right += (seen.target.argmax(1) == labels[rows]).tolist()
            ssim += seen.ssim.abs().tolist()
            psnr += [] if seen.psnr is None else seen.psnr.tolist()
        return Scan(right, ssim, psnr)

    def features(self, settings: Settings, images: Tensor, pace: Callable[[], None]) -> tuple[Captured, Seen, Tensor]:
        """Send pictures through edge and cloud. Return both results, and the target's features of the decoded pictures.

        `images` are uint8, N x 3 x H x W. The features (N x F) are the inputs of the target's last linear layer. The callback
        `pace` is called between steps.
        """
        captured = self._capture(to_float(images))
        pace()
        seen = self._see(settings, captured, self.attack_of(settings), pace)
        last = [module for module in self.raw.target.network.modules() if isinstance(module, torch.nn.Linear)][-1]
        read: list[Tensor] = []
        hook = last.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].flatten(1)))
        try:
            with torch.inference_mode():
                for part in torch.split(seen.cloud, PART):
                    pace()
                    self.raw.target(part)
        finally:
            hook.remove()
        return captured, seen, torch.cat(read)[seen.which]

    def gallery(self, settings: Settings, split: Split) -> tuple[dict[str, Tensor], list[str]]:
        """Return example pictures for a figure, as {title of a row: images}, and the class name of each column.

        The first rows show the pictures at increasing strength. The next row shows the pictures that the cloud has decoded, at
        full strength. The last row shows the residual (protected minus original) at full strength. Each column shows the first
        picture of one class in `split`. There are at most ten columns. If no picture is labelled, the columns show the first
        ten pictures.
        """
        there = [int((split.labels == k).nonzero()[0]) for k in range(len(self.classes)) if bool((split.labels == k).any())]
        there = there[:10] or list(range(min(10, len(split))))
        captured = self._capture(to_float(split.images[there]))
        codec = self.codec(settings, (int(split.images.shape[-2]), int(split.images.shape[-1])))
        rows = {f"strength {a:g}": captured.protected(a) for a in (0.0, 0.25, 0.5, 0.75, 1.0)}
        rows["at the cloud"] = codec.decode(codec.encode(captured.full))
        rows["residual"] = residual(captured.original, captured.full)
        return rows, [self.classes[int(k)] if k >= 0 else "" for k in split.labels[there]]

    def attack(self, settings: Settings, dataset: Dataset, tick: Callable[[int], None], pairs: int, passes: int) -> Attack:
        """Train an attacker on pictures that were sent with `settings`, and return the attacker.

        `attack_of` then returns this attacker for the same codec, quality and rate. The attacker learns from at most `pairs`
        training pictures of `dataset`. `passes` is the number of images in the training, with each use of an image counted.
        After each training step, `tick` is called with the number of images in that step. Raises DataError if the data set has
        no training pictures, and UsageError if the training pictures are not 32 x 32.
        """
        from ..audit.attackers import Effort, Inversion
        from ..audit.views import Observed, Observer, pairs_of

        if tuple(dataset.train.images.shape[-2:]) != (32, 32):
            raise UsageError(f"attackers learn from 32 x 32 pictures, {dataset.title} has others: choose another data set")
        options: dict[str, Any] = {"quality": settings.quality} if settings.graded else {}
        options |= {"rate": settings.rate} if self.rates(settings.codec) else {}
        observer = Observer(self.raw, settings.codec, (32, 32), settings.strength, **options)
        pairs = min(pairs, len(dataset.train))
        learner = Inversion(observer, Effort(pairs, passes, width=8), 0, tick)
        learner.fit(pairs_of(observer, dataset, "decoded", pairs))

        def guess(cloud: Tensor) -> Tensor:
            with torch.inference_mode():
                answers = self.pair.target(cloud).argmax(1)
                return learner.guess(Observed("decoded", cloud, answers))

        attack = Attack(guess, pairs, passes, settings.strength)
        self.attacks = {**self.attacks, (settings.codec, settings.graded, settings.rate): attack}
        return attack


def pairs_there(family: str) -> list[str]:
    """Return the names of the pairs in `family` that have weights for target, auxiliary and generator."""
    names = {name.partition("@")[0] for name in _generators(family)}
    return sorted(name for name in names if all(weights.find(each, family) for each in weights.pair_of(name)))


def variants_there(family: str, pair: str) -> dict[str, str]:
    """Return {description: variant} for the generators of `pair` that have weights in `family`.

    A description has the variant's name and the training loss. The pair's own generator has the variant "".
    """
    from ..notebook import loss_text

    found = {}
    for name, training in _generators(family).items():
        base, _, variant = name.partition("@")
        if base == pair:
            found[f"{variant or 'own'}: {loss_text(training)}"] = variant
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _generators(family: str) -> dict[str, dict[str, object]]:
    listed = [each for each, _ in weights.listing(on_error=lambda _: None) if each.kind == "generator" and "-X-" in each.name]
    return {each.name: each.training for each in listed if each.family == family and each.complete}
