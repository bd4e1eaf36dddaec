"""The energy of a picture on the phone, measured: real services over TLS, and the CPU time of this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.pair import AUXILIARY, TARGET
from workbench.bench.energy_measurement import Phone, measure
from workbench.bench.energy_model import ARRANGEMENTS, Assumptions, energy
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.pictures import to_float
from workbench.services.loading import StageConfig, edge_stage
from workbench.system import Client, System
from workbench.weights import Pair

pytestmark = pytest.mark.system


@pytest.fixture
def stage(digits: Dataset) -> StageConfig:
    return StageConfig("digits", digits.classes, TARGET, AUXILIARY)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_a_phones_cpu_time_is_measured_against_real_services(
    tiny_data: Path, digits: Dataset, pair: Pair, stage: StageConfig, name: str
) -> None:
    images = to_float(digits.test.images[:24])
    phone = Phone(name, Client(), edge_stage(replace(stage, codec="png"))[0] if name == "pp" else None)
    threads = torch.get_num_threads()
    found = measure(phone, stage, images, repetitions=3, batch=10, data=("--dataset", "digits"))
    assert torch.get_num_threads() == threads
    assert (found.n, len(found.ms), len(found.sent)) == (24, 3, 3)
    assert all(len(values) == 3 for values in found.cpu_ms.values())
    assert all((value > 0) == (part != "generator" or name == "pp") for part in found.cpu_ms for value in found.cpu_ms[part])
    assert all(0 < cpu <= 1.05 * ms for cpu, ms in zip(found.total_ms, found.ms, strict=True)), "one core's, at most"
    assert len(set(found.sent)) == 1, "the same pictures are the same bytes"
    assert 10 < found.sent[0] - found.payload < 300, "HTTP and TLS, shared by ten pictures a request"
    if name == "pp":
        expected = System.baseline(pair.generator, pair.target).recognise(images)
        assert found.classes == expected.labels.tolist()
        assert 24 * found.payload == pytest.approx(expected.s2_bytes, rel=0.05), "in three payloads for one"
    else:
        files = Client().capture(images)
        assert sum(map(len, files)) <= 24 * found.payload < 1.1 * sum(map(len, files))
    if name == "none":
        with torch.inference_mode():
            seen = phone.client.jpeg.decode(phone.client.jpeg.encode(images))
            assert found.classes == pair.target(seen).argmax(1).tolist(), "the cloud saw the pictures as they are"
    assert energy(found, Assumptions())["mj"].value > 0


def test_too_few_images_or_repetitions_are_refused_first(digits: Dataset, stage: StageConfig) -> None:
    images = to_float(digits.test.images[:4])
    for repetitions, batch in ((1, 4), (2, 5), (2, 0)):
        with pytest.raises(UsageError, match=f"got {repetitions} and {batch}, and there are 4 images"):
            measure(Phone("none", Client()), stage, images, repetitions, batch)
