"""Load the networks of one service, the edge or the cloud, without the networks of the other service.

The weights belong to a pair. A pair is a target and an auxiliary classifier, for which a generator and a compressor were
trained. The edge runs the generator, and the cloud runs the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .. import weights
from ..classifiers import Classifier
from ..codecs import Codec, codec
from ..errors import UsageError, WeightsError
from ..inference import prepare
from ..models import PerturbationGenerator
from ..processes import cores
from ..system import NEURAL, REMEMBERED, Cloud, Edge

__all__ = ["StageConfig", "cloud_stage", "edge_stage", "lanes_and_threads", "warm_cloud", "warm_edge"]

LANE_CORES = 8  # cores of a lane: more threads hardly speed up one batch, so further cores compute another batch


@dataclass(frozen=True)
class StageConfig:
    """The settings of an edge or a cloud.

    Only `device`, `precision` and `rate` may differ between an edge and its cloud. `family` is the name of the folder with the
    data set's weights. `target` and `auxiliary` are the architectures of the pair's classifiers. Images have `size` x `size`
    pixels. `rate`, in [0, 1], is the rate of the codec `neural`.
    """

    family: str
    classes: tuple[str, ...]
    target: str
    auxiliary: str
    codec: str = "neural"
    device: str = "cpu"
    size: int = 32
    precision: str = "float32"
    rate: float = 0.0


def edge_stage(stage: StageConfig) -> tuple[Edge, str, str]:
    """Load an edge. Return the edge, the SHA-256 of its generator, and the SHA-256 of the target classifier.

    The generator was trained for that target, so the cloud must run the same target.
    """
    name = weights.generator_name(stage.target, stage.auxiliary)
    network, manifest = weights.load(name, stage.family, "generator")
    target = manifest.depends.get("target")
    if target is None:
        raise WeightsError(f"weights {name!r} do not say for which target they were trained: train them again")
    assert isinstance(network, PerturbationGenerator)
    generator = prepare(network, stage.device, stage.precision)
    edge = Edge(generator, _codec(stage, {"generator": manifest.sha256, "target": target}), stage.device)
    return edge, manifest.sha256, target


def cloud_stage(stage: StageConfig, remembered: int = REMEMBERED, every: bool = False) -> tuple[Cloud, str]:
    """Load a cloud. Return the cloud, and the SHA-256 of its classifier's weights.

    A code is the coded form of one image. The cloud caches the scores of up to `remembered` codes. With `every`, nothing is
    cached, and each image is decoded and classified.
    """
    network, manifest = weights.load(weights.classifier_name(stage.target), stage.family, "classifier")
    assert isinstance(network, Classifier)
    classifier = prepare(network, stage.device, stage.precision)
    cloud = Cloud(_codec(stage, {"target": manifest.sha256}), classifier, stage.device, remembered, every)
    return cloud, manifest.sha256


def warm_edge(edge: Edge, size: int, n: int) -> None:
    edge.protect(torch.rand(n, 3, size, size))


def warm_cloud(cloud: Cloud, size: int, n: int) -> None:
    cloud.recognise(cloud.codec.encode(torch.rand(n, 3, size, size)))


def _codec(stage: StageConfig, known: dict[str, str]) -> Codec:
    if stage.codec not in NEURAL:
        return codec(stage.codec, side=stage.size)  # limits memory and time, which grow with the square of the side
    name = weights.compressor_name(stage.target, stage.auxiliary)
    network, manifest = weights.load(name, stage.family, "compressor")
    for role, sha in known.items():
        if manifest.depends.get(role, sha) != sha:
            raise WeightsError(f"weights {name!r} were trained with another {role} than is there: train them again")
    options: dict[str, Any] = {"compressor": prepare(network, precision=stage.precision), "identity": manifest.sha256}
    options |= {"rate": stage.rate} if stage.codec == "neural" else {}
    return codec(stage.codec, **options, size=(stage.size, stage.size)).to(stage.device)


def lanes_and_threads(device: str, lanes: int = 0, threads: int = 0) -> tuple[int, int]:
    """Return the number of lanes, and the number of torch's threads in each lane. A lane is a worker thread for batches.

    If `lanes` or `threads` is 0, the function chooses the number by `device` and cores. Raises UsageError for more than 64
    lanes on the CPU.
    """
    if device != "cpu":
        return lanes or 2, threads or 1  # one lane copies and encodes while kernels of the other run
    lanes = lanes or max(1, cores() // LANE_CORES)
    if lanes > 64:
        raise UsageError(f"at most 64 lanes, got {lanes}")
    return lanes, threads or max(1, cores() // lanes)
