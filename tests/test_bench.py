"""The benchmark of edge and cloud: both sides are measured on the same images, in turns, and compared."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from workbench.bench.model_speed import STEPS, bench_models
from workbench.bench.repeated_labels import Labels
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.pictures import to_float
from workbench.weights import Pair


def test_both_sides_are_timed_step_by_step_and_agree(pair: Pair, digits: Dataset) -> None:
    images = to_float(digits.test.images[:12])
    result = bench_models(pair, images, batches=(1, 8), rounds=2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["batches"]) == {"1", "8"}
    for parts in result["batches"].values():
        assert set(parts) == {*STEPS, "edge", "cloud", "both"}
        for part in parts.values():
            assert set(part) == {"paper", "ours", "new", "reduced"}
            for figure in (each[key] for side, each in part.items() for key in each):
                assert 0 < figure["least"] <= figure["median"] <= figure["most"]
        whole = parts["edge"]["ours"]["ms"]["least"] + parts["cloud"]["ours"]["ms"]["least"]
        assert whole <= parts["both"]["ours"]["ms"]["least"] * 1.0001
    for side in ("ours", "new"):
        assert result["agreement"][side]["n"] == 12
        assert result["agreement"][side]["labels_changed"] == 0
        assert result["agreement"][side]["largest_difference"] < 1e-3
    assert 1e-5 < result["agreement"]["reduced"]["largest_difference"] < 0.1, "in 16 bits, and the same picture"
    assert result["weights"] == pair.sha256()
    assert result["threads"] == torch.get_num_threads()


def test_a_generator_that_is_not_the_same_is_noticed(pair: Pair, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.bench import model_speed as bench

    def other(pair: Pair, device: object, precision: str) -> Pair:
        made = prepare(pair, device, precision)
        made.generator.register_forward_hook(lambda module, inputs, image: image + 0.5)
        return made

    prepare = bench.prepare_pair
    monkeypatch.setattr(bench, "prepare_pair", other)
    result = bench_models(pair, to_float(digits.test.images[:4]), batches=(1,), rounds=1)
    assert result["agreement"]["ours"]["largest_difference"] > 0.05


def test_wrong_counts_are_refused(pair: Pair, digits: Dataset) -> None:
    images = to_float(digits.test.images[:4])
    for batches, rounds in (((0,), 1), ((), 1), ((1,), 0)):
        with pytest.raises(UsageError, match="must be at least 1"):
            bench_models(pair, images, batches=batches, rounds=rounds)
    with pytest.raises(UsageError, match="a batch of 5 needs as many images, there are 4"):
        bench_models(pair, images, batches=(1, 5))


def test_only_a_random_component_excuses_other_labels() -> None:
    for noise, others, fits in ((0.0, 0, True), (0.0, 1, False), (0.1, 36, True), (0.1, 37, False)):  # 20 + 4 x 4.24
        found = np.repeat([1, 0], [others, 200 - others])
        assert Labels([np.zeros(200, dtype=np.int64)], noise).fit(0, found) is fits, (noise, others)


def test_a_few_first_labels_may_differ_with_a_random_component() -> None:
    labels = Labels([np.array([3])], noise=0.1)
    assert labels.fit(0, np.array([4])), "one of one says little"
    assert not all(labels.fit(0, np.array([4])) for _ in range(20))
    assert not Labels([np.array([3])], noise=0.1).fit(0, np.array([3, 3])), "labels of more pictures than were sent"
