"""How fast edge and cloud run, beside the papers' own way, both in one run.

::

    the papers' way   plain U-Net, eager, N x C x H x W      CompressAI compress    CompressAI decompress   plain classifier
    ours              prepared (see `inference`)             one stream (`entropy`) distinct latents once   prepared

Both sides take turns, round by round, so that whatever else the machine does falls on both; a ratio is taken within a round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .codecs import Codec
from .errors import UsageError
from .evaluation import provenance
from .inference import prepare_pair
from .models import Classifier, PerturbationGenerator
from .system import codec_for
from .weights import Pair

__all__ = ["bench_models"]

STEPS = ("generator", "compression", "decompression", "classifier")


@dataclass(frozen=True)
class _Side:
    """Generator, codec and classifier as one side runs them."""

    generator: PerturbationGenerator
    codec: Codec
    classifier: Classifier
    device: torch.device
    layout: torch.memory_format

    def run(self, images: Tensor) -> tuple[dict[str, float], Tensor, Tensor]:
        """Send a batch through; return the seconds of each step, the protected images and the labels."""
        marks = [self._now()]
        with torch.inference_mode():
            protected = self.generator(images.to(self.device, memory_format=self.layout))
            marks.append(self._now())
            payload = self.codec.encode(protected)
            marks.append(self._now())
            decoded, which = self.codec.decode_distinct(payload)
            marks.append(self._now())
            scores = self.classifier(decoded.to(self.device, memory_format=self.layout))[which.to(self.device)]
            marks.append(self._now())
        seconds = {step: end - start for step, start, end in zip(STEPS, marks, marks[1:], strict=False)}
        return seconds, protected.cpu(), scores.argmax(1).cpu()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def bench_models(
    pair: Pair,
    images: Tensor,
    *,
    batches: Sequence[int] = (1, 256),
    rounds: int = 15,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Time both sides on images (float N x 3 x H x W in [0, 1]) in batches of each size; return one JSON object.

    Milliseconds are an image's, the median over rounds with the least and the most; `ratio` is the papers' way over ours, of
    each round its own. Beside them the largest difference between the two protected images, of a value between 0 and 1, and the
    share of labels that differ, over all `images`. Raises UsageError where there are fewer images than the largest batch.
    """
    if rounds < 1 or min(batches, default=0) < 1:
        raise UsageError(f"rounds and batches must be at least 1, got {rounds} and {list(batches)}")
    if max(batches) > len(images):
        raise UsageError(f"a batch of {max(batches)} needs as many images, there are {len(images)}")
    device = torch.device(device)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    sides = {
        "paper": _side(pair, "compressai", size, device, torch.contiguous_format),
        "ours": _side(prepare_pair(pair, device), "neural", size, device, torch.channels_last),
    }
    result: dict[str, Any] = {"target": pair.target.name, "auxiliary": pair.auxiliary.name, "weights": pair.sha256()}
    result |= {"rounds": rounds, "threads": torch.get_num_threads(), **provenance(device), "batches": {}}
    bar = tqdm(total=len(batches) * (rounds + 1), desc="bench", unit="round", disable=not progress, file=sys.stderr)
    with bar:
        for batch in batches:
            times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            for number in range(rounds + 1):
                start = number * batch % (len(images) - batch + 1)
                for name, side in sides.items():
                    seconds, _, _ = side.run(images[start : start + batch])
                    times[name].append({step: 1e3 * each / batch for step, each in seconds.items()})
                bar.update()
            result["batches"][str(batch)] = _compare(*(each[1:] for each in times.values()))  # the first round warms up
    return result | {"agreement": _agreement(sides, images)}


def _side(pair: Pair, codec: str, size: tuple[int, int], device: torch.device, layout: torch.memory_format) -> _Side:
    made = codec_for(pair, codec, size=size).to(device)
    return _Side(pair.generator.eval().to(device), made, pair.target.eval().to(device), device, layout)


def _compare(paper: list[dict[str, float]], ours: list[dict[str, float]]) -> dict[str, Any]:
    sums: dict[str, Callable[[dict[str, float]], float]] = {
        "edge": lambda each: each["generator"] + each["compression"],
        "cloud": lambda each: each["decompression"] + each["classifier"],
        "both": lambda each: sum(each.values()),
    }
    parts = {step: (lambda each, step=step: each[step]) for step in STEPS} | sums
    return {
        part: {
            "paper_ms": _spread([figure(each) for each in paper]),
            "ours_ms": _spread([figure(each) for each in ours]),
            "ratio": _spread([figure(theirs) / figure(own) for theirs, own in zip(paper, ours, strict=True)]),
        }
        for part, figure in parts.items()
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _agreement(sides: dict[str, _Side], images: Tensor) -> dict[str, Any]:
    difference, changed = 0.0, 0
    for part in torch.split(images, 256):
        (_, expected, labels), (_, protected, own) = (side.run(part) for side in sides.values())
        difference = max(difference, float((expected - protected).abs().max()))
        changed += int((labels != own).sum())
    return {"n": len(images), "largest_difference": difference, "labels_changed": changed}
