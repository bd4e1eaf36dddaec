"""Measure the whole system on a data set, for the tables and figures of the papers.

A pair is two classifiers and a generator. The target is the classifier at the cloud. The auxiliary is another classifier, which
should not recognise protected images. The generator protects images at a strength, from 0 (the original) to 1 (the paper's
perturbation). A codec makes the payload that the cloud decodes.

An estimate is a measured value with the number of images and a 95 % confidence interval. A result is one JSON object with
estimates and their origin (data set, seed, weights, device, versions).
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import legibility, metrics
from .cifar10 import OFFICIAL
from .classifiers import Classifier
from .codecs import Codec, CompressAI, Jpeg, Neural, Png, WebP
from .codecs import codec as codec_named
from .data import Dataset
from .errors import UsageError
from .inference import prepare, prepare_pair
from .models import check_strength, repeatable_noise
from .paper import PAPER
from .pictures import to_float
from .processes import processor_name
from .rows import distinct
from .system import Client, Cloud, Edge, codec_for
from .weights import Manifest, Pair, load, other_compressors

__all__ = ["PAPER", "SEEN", "Evaluation", "describe", "origin", "provenance"]

# Measures of how much the protected image shows of the original (see `metrics.ssim` and `legibility`).
SEEN = (
    "ssim",
    "abs_ssim",
    "inverted_ssim",
    "psnr",
    *(f"abs_ssim_{view}" for view in legibility.CHANNELS),
    "colour_correlation",
    "legibility",
)


class Evaluation:
    """The evaluation of a pair on the first `limit` test images of a data set (None: all).

    `client` is the phone, by default with JPEG of quality 90, 4:4:4. `batch` images are computed together and share one
    payload. `progress` shows progress bars. Generator and classifiers compute on `device` in `precision` (see
    `inference.prepare`).
    """

    def __init__(
        self,
        pair: Pair,
        dataset: Dataset,
        *,
        limit: int | None = None,
        client: Client | None = None,
        batch: int = 256,
        device: str = "cpu",
        precision: str = "float32",
        progress: bool = False,
    ) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"limit must be at least 1 image, got {limit}")
        if pair.target.num_classes != len(dataset.classes):
            raise UsageError(
                f"the weights tell {pair.target.num_classes} classes apart, {dataset.title} has {len(dataset.classes)}"
            )
        self.pair, self.precision = prepare_pair(pair, device, precision), precision
        self.dataset, self.batch, self.device = dataset, batch, torch.device(device)
        self.client, self.progress = client or Client(), progress
        self._table2: dict[float, dict[str, metrics.Estimate]] = {}
        self._ssim: dict[float, metrics.Estimate] = {}
        self._received: dict[tuple[Any, ...], dict[str, metrics.Estimate]] = {}
        self._edge = Edge(self.pair.generator, Png(), self.device)
        split = dataset.test.head(limit)
        self.images, self.labels = to_float(split.images), split.labels
        self._size = (int(self.images.shape[-2]), int(self.images.shape[-1]))

    @functools.cached_property
    def _captured(self) -> tuple[list[int], Tensor]:
        """The size in bytes of each image's JPEG file (the paper's S1), and the images as the edge receives them."""
        files = self.client.capture(self.images)
        return [len(file) for file in files], self._edge.receive(files)

    @functools.cached_property
    def _protected(self) -> Tensor:
        received = self._captured[1]
        with repeatable_noise(0):
            parts = [self._edge.perturb(received[rows]).cpu() for rows in self._batches(len(received), "perturbing")]
        return torch.cat(parts)

    def protected(self, strength: float = 1.0) -> Tensor:
        """Return the protected test images, N x 3 x H x W on the CPU. `strength` is from 0 to 1."""
        check_strength(strength)
        return self._protected if strength == 1.0 else torch.lerp(self._captured[1], self._protected, strength)

    def accuracy(self, classifier: Classifier, images: Tensor) -> metrics.Estimate:
        """Return a classifier's accuracy on `images`.

        `images` has one version of every test image, for example the protected or the decoded version, in the order of the test
        images.
        """
        first, which = distinct(images)
        scores = []
        with torch.inference_mode():
            for rows in self._batches(len(first), f"classifying with {classifier.name}"):
                batch = images[first[rows]].to(self.device, memory_format=torch.channels_last)
                scores.append(classifier(batch).cpu())
        return metrics.accuracy(torch.cat(scores)[which], self.labels)

    @functools.cached_property
    def original_accuracy(self) -> dict[str, metrics.Estimate]:
        """The accuracies of target and auxiliary on the original images, without JPEG compression."""
        networks = {"target": self.pair.target, "auxiliary": self.pair.auxiliary}
        return {role: self.accuracy(network, self.images) for role, network in networks.items()}

    def _batches(self, n: int, what: str) -> Iterator[slice]:
        starts = range(0, n, self.batch)
        for start in tqdm(starts, desc=what, unit="batch", leave=False, disable=not self.progress, file=sys.stderr):
            yield slice(start, start + self.batch)

    def transmit(self, images: Tensor, codec: Codec) -> tuple[list[float], Tensor]:
        """Send images through a codec. Return the number of payload bytes for each image, and the decoded images.

        Bytes that images share, such as the header, are divided equally among the images.
        """
        codec = codec.to(self.device)
        cloud = Cloud(codec, self.pair.target, self.device)
        sizes: list[float] = []
        decoded = []
        for rows in self._batches(len(images), f"sending as {codec.name}"):
            payload = codec.encode(images[rows].to(self.device))
            each = codec.sizes(payload)
            header = (len(payload) - sum(each)) / len(each)
            sizes += [size + header for size in each]
            decoded.append(cloud.decode(payload).cpu())
        return sizes, torch.cat(decoded)

    def received(self, codec: Codec, strength: float | None = 1.0, auxiliary: bool = True) -> dict[str, metrics.Estimate]:
        """Send the test images through a codec, and measure the images that the cloud decodes. Return the estimates by name.

        The images are protected at `strength`, or they are the originals if `strength` is None. `bytes` is the mean number of
        payload bytes for an image. `psnr` (dB) compares the decoded images with the codec's input. `target` and `auxiliary` are
        the accuracies of the two classifiers on the decoded images. If the argument `auxiliary` is False, the auxiliary's
        accuracy may be missing. Results are cached.
        """
        options = getattr(codec, "options", None)  # picture codecs with equal options share a cache entry
        key = (strength, codec if options is None else (codec.name, *sorted(options.items())))
        figures = self._received.setdefault(key, {})
        if "target" not in figures or (auxiliary and "auxiliary" not in figures):
            images = self.images if strength is None else self.protected(strength)
            sizes, decoded = self.transmit(images, codec)
            figures["bytes"] = metrics.mean(sizes)
            figures["psnr"] = metrics.mean(metrics.psnr(images, decoded).clamp(max=100))
            figures["target"] = self.accuracy(self.pair.target, decoded)
            if auxiliary:
                figures["auxiliary"] = self.accuracy(self.pair.auxiliary, decoded)
        return figures

    def result(self, codec: Codec, strength: float = 1.0) -> dict[str, Any]:
        """Measure the whole system with a codec at a strength. Return the object that `workbench evaluate --json` prints.

        `target_accuracy` and `auxiliary_accuracy` are measured at the cloud, on decoded images. `protected_accuracy` is the
        target's accuracy on protected images before the codec. The measures in `SEEN`, such as `ssim`, compare protected and
        original images.
        """
        s1, _ = self._captured
        after, before = self.received(codec, strength), self.table2(strength)
        figures = {
            "original_accuracy": before["original"],
            "protected_accuracy": before["target"],
            "target_accuracy": after["target"],
            "auxiliary_accuracy": after["auxiliary"],
            "auxiliary_protected_accuracy": before["auxiliary"],
            "auxiliary_original_accuracy": before["auxiliary_original"],
            **{key: value for key, value in before.items() if key in SEEN},
            "reconstruction_psnr": after["psnr"],
            "s1_bytes": metrics.mean(s1),
            "s2_bytes": after["bytes"],
        }
        return {
            "n": len(self.labels),
            **{key: value.as_dict() for key, value in figures.items()},
            "codec": describe(codec),
            "client": describe(self.client.jpeg),
            "strength": strength,
            **({"rate": codec.rate} if isinstance(codec, Neural) else {}),
            "batch": self.batch,
            **self.origin(),
        }

    def table1(self, jpeg: Jpeg) -> list[dict[str, Any]]:
        """Return the rows of Table 1 (PMC²): bytes per image and the target's accuracy, for original and protected images.

        Both kinds of images are sent as PNG and as `jpeg`.
        """
        return [
            {"row": f"{kind} {codec.name.upper()}", "bytes": figures["bytes"], "accuracy": figures["target"]}
            for kind, strength in (("regular", None), ("perturbed", 1.0))
            for codec in (Png(), jpeg)
            for figures in [self.received(codec, strength, auxiliary=False)]
        ]

    def table2(self, strength: float = 1.0) -> dict[str, metrics.Estimate]:
        """Return the row of Table 2 (PMC²): the accuracies of target and auxiliary, on original and on protected images.

        The images are protected at `strength`. The row also has the measures in `SEEN`. `legibility` is missing if there is
        only one image.
        """
        if strength not in self._table2:
            protected = self.protected(strength)
            with torch.inference_mode():
                similarity = metrics.ssim(self.images, protected)
                inverted = metrics.ssim(self.images, 1 - protected)
                views = legibility.similarities(self.images, protected)
                mixed = legibility.correlations(self.images, protected)
                read = legibility.legibility(self.images, protected) if len(self.images) > 1 else None
            self._table2[strength] = {
                "original": self.original_accuracy["target"],
                "auxiliary_original": self.original_accuracy["auxiliary"],
                "target": self.accuracy(self.pair.target, protected),
                "auxiliary": self.accuracy(self.pair.auxiliary, protected),
                "ssim": metrics.mean(similarity),
                "abs_ssim": metrics.mean(similarity.abs()),
                "inverted_ssim": metrics.mean(inverted),
                "psnr": metrics.mean(metrics.psnr(self.images, protected).clamp(max=100)),
                **{f"abs_ssim_{view}": metrics.mean(values) for view, values in views.items()},
                "colour_correlation": metrics.mean(mixed),
                **({} if read is None else {"legibility": metrics.mean(read)}),
            }
        return dict(self._table2[strength])

    def curve(
        self,
        points: list[Any],
        codec: Callable[[Any], Codec],
        strength: Callable[[Any], float],
        auxiliary: bool = True,
    ) -> list[dict[str, Any]]:
        """Return one row for each of the `points` of a curve: accuracies, SSIM and bytes per image.

        A point is a value on the curve's axis, for example a strength or a JPEG quality. The functions `codec` and `strength`
        return the codec and the strength at a point. If `auxiliary` is False, only the target's accuracy is measured.
        """
        rows = []
        for point in points:
            figures = self.received(codec(point), strength(point), auxiliary)
            row = {"point": point, "ssim": self._similarity(strength(point)), "bytes": figures["bytes"]}
            rows.append(row | {name: figures[name] for name in ("target", "auxiliary")[: 1 + auxiliary]})
        return rows

    def _similarity(self, strength: float) -> metrics.Estimate:
        if strength not in self._ssim:
            with torch.inference_mode():
                self._ssim[strength] = metrics.mean(metrics.ssim(self.images, self.protected(strength)))
        return self._ssim[strength]

    def surface(self, strengths: Sequence[float], rates: Sequence[float]) -> list[dict[str, Any]]:
        """Measure the neural codec at every combination of `strengths` and `rates`. Return one row for each combination.

        `target` and `auxiliary` are accuracies on the decoded images. `ssim` compares the decoded images with the originals.
        """
        codec, rows = codec_for(self.pair, "neural", self._size), []
        for strength in strengths:
            protected = self.protected(strength)
            for rate in rates:
                sizes, decoded = self.transmit(protected, codec.at(rate))
                with torch.inference_mode():
                    similarity = metrics.ssim(self.images, decoded)
                figures = {"bytes": metrics.mean(sizes), "ssim": metrics.mean(similarity)}
                figures["target"] = self.accuracy(self.pair.target, decoded)
                figures["auxiliary"] = self.accuracy(self.pair.auxiliary, decoded)
                rows.append({"strength": strength, "rate": rate, **figures})
        return rows

    def compressors(self) -> dict[str, list[dict[str, Any]]]:
        """Measure all variants of the pair's compressor. Return the rows of one curve for each kind of loss: {kind: rows}.

        Each variant was trained with a loss of some kind and weight. The rows are those of `curve`, and their `point` is the
        weight.
        """
        found: dict[str, dict[float, Codec]] = {}
        for manifest in other_compressors(self.pair):
            compressor = prepare(load(manifest.name, manifest.family, "compressor")[0], self.device)
            loss, options = manifest.training["loss"], {"compressor": compressor, "identity": manifest.sha256}
            found.setdefault(loss["kind"], {})[float(loss["weight"])] = codec_named("neural", size=self._size, **options)
        return {
            kind: self.curve(sorted(codecs), codecs.__getitem__, lambda _: 1.0, auxiliary=False)
            for kind, codecs in sorted(found.items())
        }

    def origin(self) -> dict[str, Any]:
        return origin(self.pair, self.dataset, self.device, self.precision)


def origin(pair: Pair, dataset: Dataset, device: str | torch.device = "cpu", precision: str = "float32") -> dict[str, Any]:
    """Return the origin of a pair's results: data set, seed, weights, device, precision, versions, commit."""
    manifests = pair.manifests
    return {
        "dataset": dataset.title,
        "target": pair.target.name,
        "auxiliary": pair.auxiliary.name,
        "width": {"target": pair.target.width, "auxiliary": pair.auxiliary.width},  # 1 is the papers' width
        "weights": pair.sha256(),
        "trained": {role: manifest.training.get("preset", "imported") for role, manifest in manifests.items()},
        "trained_on": {role: manifest.data for role, manifest in manifests.items()},
        "seed": manifests["generator"].seed,
        "precision": precision,
        **selection(pair, dataset),
        **provenance(device),
    }


def selection(pair: Pair, dataset: Dataset) -> dict[str, Any]:
    """Return the division of a data set, and how many of the test images helped to select a pair's weights.

    `division` is the name of the division into validation and test images. `chosen_on` has the number of such test images for
    each role (target, generator ...), or None if it is unknown. `selection` is a line of text about these numbers. It is empty
    if all are 0.
    """
    chosen = {role: dataset.chosen_on(_division(manifest)) for role, manifest in pair.manifests.items()}
    some = [f"{role} on {n} of {len(dataset.test)}" for role, n in chosen.items() if n]
    unknown_roles = [role for role, n in chosen.items() if n is None]
    lines = [f"test images that also chose the weights: {', '.join(some)}"] if some else []
    if unknown_roles:
        lines.append(f"whether test images chose the weights is not known: {', '.join(unknown_roles)}")
    return {"division": dataset.division, "chosen_on": chosen, "selection": "; ".join(lines)}


def _division(manifest: Manifest) -> str:
    named: str = manifest.training.get("division", "")
    return named or (OFFICIAL if manifest.data == "CIFAR-10" else manifest.data)


def describe(codec: Codec) -> str:
    """Return a codec's name with its options: `jpeg q89 4:4:4`, `neural rate 0.4`."""
    match codec:
        case Jpeg():
            return f"jpeg q{codec.quality} {codec.subsampling}"
        case WebP():
            return "webp lossless" if codec.lossless else f"webp q{codec.quality}"
        case Neural() if codec.rate:
            return f"neural rate {codec.rate:g}"
        case CompressAI():
            return "neural, rounded, CompressAI's coder"
    return codec.name


def provenance(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return the circumstances of a measurement: date (UTC), processor, number of cores, device, library versions, commit."""
    kind = torch.device(device).type
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"  # such as AVX2 or AVX512
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{processor}, {torch.get_num_threads()} threads"
    packages = ("torch", "torchvision", "compressai", "pillow")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "device": f"{kind} ({name})",
        "versions": {"python": platform.python_version()} | {each: importlib.metadata.version(each) for each in packages},
        "commit": _commit(),
    }


@functools.cache
def _commit() -> str | None:
    """Return the checkout's commit, with `+` appended if files were changed. Return None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
