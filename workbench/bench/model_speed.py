"""The speed of edge and cloud compared with the papers' own implementation, in one run.

::

              generator                             compression               decompression             classifier
    paper     plain U-Net, eager, N x C x H x W     CompressAI compress       CompressAI decompress     plain classifier
    ours      prepared (see `inference`)            one stream (`entropy`)    once for each code        prepared, once per code
    new       as ours, but the cloud caches no scores of earlier batches
    reduced   as ours, generator, encoder and classifier in bfloat16

All implementations run in every round, one after another, so that other load on the machine affects all of them. Each ratio
divides two times of the same round. A code is the compressed form of one image, and equal images have equal codes.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..classifiers import Classifier
from ..codecs import Codec
from ..errors import UsageError
from ..evaluation import provenance
from ..inference import prepare_pair
from ..metrics import spread
from ..models import PerturbationGenerator
from ..system import REMEMBERED, Cloud, Edge, Stopwatch, codec_for
from ..weights import Pair

__all__ = ["bench_models"]

STEPS = ("generator", "compression", "decompression", "classifier")
SUMS = {"edge": STEPS[:2], "cloud": STEPS[2:], "both": STEPS}


@dataclass(frozen=True)
class _Papers:
    generator: PerturbationGenerator
    codec: Codec
    classifier: Classifier
    device: torch.device

    def run(self, images: Tensor) -> tuple[dict[str, float], Tensor, Tensor]:
        marks = [self._now()]
        with torch.inference_mode():
            protected = self.generator(images.to(self.device))
            marks.append(self._now())
            payload = self.codec.encode(protected)
            marks.append(self._now())
            decoded = self.codec.decode(payload)
            marks.append(self._now())
            scores = self.classifier(decoded.to(self.device)).cpu()
            marks.append(self._now())
        each = {step: 1e3 * (end - start) for step, start, end in zip(STEPS, marks, marks[1:], strict=False)}
        return _with_sums(each), protected.cpu(), scores.argmax(1)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class _Ours:
    edge: Edge
    cloud: Cloud

    def run(self, images: Tensor) -> tuple[dict[str, float], Tensor, Tensor]:
        clock = Stopwatch()
        protected = self.edge.perturb(images, clock=clock)
        with clock("compression", self.edge.device):
            payload = self.edge.codec.encode(protected)
        scores = self.cloud.recognise(payload, clock)
        each = {step: clock.milliseconds[step] or 0.0 for step in STEPS}
        each["classifier"] += clock.milliseconds["cloud_other"] or 0.0
        return _with_sums(each), protected.cpu(), scores.argmax(1)


_Side = _Papers | _Ours


def _with_sums(each: dict[str, float]) -> dict[str, float]:
    return each | {name: sum(each[step] for step in steps) for name, steps in SUMS.items()}


def bench_models(
    pair: Pair,
    images: Tensor,
    *,
    batches: Sequence[int] = (1, 256),
    rounds: int = 15,
    device: str | torch.device = "cpu",
    progress: bool = False,
    rate: float = 0.0,
) -> dict[str, Any]:
    """Time all implementations on `images`, in batches of each size in `batches`. Return one JSON object.

    `images` are float, N x 3 x H x W in [0, 1]. `rate`, in [0, 1], is the bit rate of the codec `neural` (0: fewest bits).
    Times are milliseconds for one image: the median, the least and the greatest over rounds. `ratio` is the papers' time
    divided by our time, within each round.

    The entry `agreement` compares `ours`, `new` and `reduced` with a reference over all `images`. The reference is the
    unprepared networks with the codec `neural`. The entry has the largest difference between protected images (values in [0,
    1]), and the number of images with different labels. The papers' implementation is left out, because it rounds the latents
    and so gives other labels. Raises UsageError for fewer images than the largest batch.
    """
    if rounds < 1 or min(batches, default=0) < 1:
        raise UsageError(f"rounds and batches must be at least 1, got {rounds} and {list(batches)}")
    if max(batches) > len(images):
        raise UsageError(f"a batch of {max(batches)} needs as many images, there are {len(images)}")
    device = torch.device(device)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    sides = _sides(pair, size, device, rate)
    result: dict[str, Any] = {"target": pair.target.name, "auxiliary": pair.auxiliary.name, "weights": pair.sha256()}
    result |= {"rate": rate} if rate else {}
    result |= {"rounds": rounds, "threads": torch.get_num_threads(), **provenance(device)}
    plain = copy.deepcopy(pair)
    codec = codec_for(plain, "neural", size=size, rate=rate).to(device)
    reference = _Ours(Edge(plain.generator, codec, device), Cloud(codec, plain.target, device, remembered=0))
    result["agreement"] = _agreement(reference, sides, images)  # first: this fills the cloud's cache, as in use
    result["batches"] = {}
    bar = tqdm(total=len(batches) * (rounds + 1), desc="bench", unit="round", disable=not progress, file=sys.stderr)
    with bar:
        for batch in batches:
            times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            for number in range(rounds + 1):
                start = number * batch % (len(images) - batch + 1)
                for name, side in sides.items():
                    milliseconds, _, _ = side.run(images[start : start + batch])
                    times[name].append({part: each / batch for part, each in milliseconds.items()})
                bar.update()
            # the first round is the warm-up
            result["batches"][str(batch)] = _compare({name: each[1:] for name, each in times.items()})
    return result


def _sides(pair: Pair, size: tuple[int, int], device: torch.device, rate: float = 0.0) -> dict[str, _Side]:
    def ours(precision: str, remembered: int = REMEMBERED) -> _Ours:
        made = prepare_pair(pair, device, precision)
        codec = codec_for(made, "neural", size=size, rate=rate).to(device)
        return _Ours(Edge(made.generator, codec, device), Cloud(codec, made.target, device, remembered))

    coder = codec_for(pair, "compressai", size=size).to(device)
    paper = _Papers(pair.generator.eval().to(device), coder, pair.target.eval().to(device), device)
    return {"paper": paper, "ours": ours("float32"), "new": ours("float32", 0), "reduced": ours("bfloat16")}


def _compare(times: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    paper = times["paper"]
    return {
        part: {
            name: {"ms": spread([each[part] for each in own])}
            | ({} if own is paper else {"ratio": spread([a[part] / b[part] for a, b in zip(paper, own, strict=True)])})
            for name, own in times.items()
        }
        for part in (*STEPS, *SUMS)
    }


def _agreement(reference: _Side, sides: dict[str, _Side], images: Tensor) -> dict[str, Any]:
    outcome: dict[str, dict[str, Any]] = {
        name: {"n": len(images), "largest_difference": 0.0, "labels_changed": 0} for name in sides if name != "paper"
    }
    for part in torch.split(images, 256):
        _, expected, labels = reference.run(part)
        for name, found in outcome.items():
            _, protected, own = sides[name].run(part)
            found["largest_difference"] = max(found["largest_difference"], float((expected - protected).abs().max()))
            found["labels_changed"] += int((labels != own).sum())
    return outcome
