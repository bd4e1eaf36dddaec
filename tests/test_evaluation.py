"""The evaluation of a pair: the fields of a result, the shapes of the tables, and golden figures of the tiny pair."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.pair import fit
from workbench import weights
from workbench.cifar10 import OFFICIAL
from workbench.codecs import Codec, Jpeg, Png, WebP
from workbench.data import Dataset, load
from workbench.errors import UsageError
from workbench.evaluation import PAPER, SEEN, Evaluation, describe, selection
from workbench.inference import prepare_pair
from workbench.metrics import Estimate, ssim
from workbench.pictures import to_float
from workbench.system import Client, System, codec_for
from workbench.weights import Pair

GOLDEN = Path(__file__).parent / "golden" / "evaluation.json"
LIMIT = 48
ACCURACIES = ("original_accuracy", "target_accuracy", "auxiliary_accuracy")


@pytest.fixture(scope="module")
def networks(tiny_root: Path, digits: Dataset) -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(tiny_root))
        pair = weights.load_pair("digits", "resnet18", "mobilenet_v2")
        for classifier in (pair.target, pair.auxiliary):
            fit(classifier, digits.train)
        yield pair


@pytest.fixture(scope="module")
def prepared(networks: Pair) -> Pair:
    return prepare_pair(networks)


@pytest.fixture(scope="module")
def evaluation(prepared: Pair, digits: Dataset) -> Evaluation:
    return Evaluation(prepared, digits, limit=LIMIT)


@pytest.fixture(scope="module")
def results(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    return {name: evaluation.result(codec_for(evaluation.pair, name)) for name in ("png", "jpeg", "neural", "compressai")}


# --- a result --------------------------------------------------------------------------------------------------------------


def test_a_result_carries_its_figures_and_their_origin(results: dict[str, dict[str, Any]], evaluation: Evaluation) -> None:
    named = {"png": "png", "jpeg": "jpeg q89 4:4:4", "neural": "neural", "compressai": "neural, rounded, CompressAI's coder"}
    assert {name: result["codec"] for name, result in results.items()} == named
    for name, result in results.items():
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert result["n"] == LIMIT
        for key in (*ACCURACIES, "ssim", "s1_bytes", "s2_bytes"):
            figure = result[key]
            assert figure["low"] <= figure["value"] <= figure["high"], (name, key)
            assert figure["n"] == LIMIT
        assert all(0 <= result[key]["value"] <= 1 for key in ACCURACIES), name
    assert (result["client"], result["strength"], result["batch"]) == ("jpeg q90 4:4:4", 1.0, 256)
    assert (result["dataset"], result["seed"]) == ("scikit-learn digits", 0)
    assert (result["target"], result["auxiliary"]) == ("resnet18", "mobilenet_v2")
    assert result["weights"] == evaluation.pair.sha256()
    assert set(result["weights"]) == {"target", "auxiliary", "generator", "compressor"}
    assert result["device"].startswith("cpu (")
    assert result["versions"]["torch"] == torch.__version__
    assert set(result["versions"]) == {"python", "torch", "torchvision", "compressai", "pillow"}
    assert abs(datetime.now(UTC).date() - date.fromisoformat(result["date"])) <= timedelta(days=1)
    assert result["cores"] == os.cpu_count()
    assert result["commit"] is None or len(result["commit"]) >= 7


def chosen(pair: Pair, role: str, manifest: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    manifests = {role: replace(pair.manifests[role], **manifest)}
    return selection(Pair(pair.target, pair.auxiliary, pair.generator, None, manifests), dataset)


def test_a_result_names_its_division_and_selection(networks: Pair, digits: Dataset) -> None:
    samples = load("samples")
    own = {"data": digits.title, "training": {"division": digits.division}}
    before = {"data": digits.title, "training": {}}  # an old manifest without a division
    for manifest in (own, before):
        found = chosen(networks, "target", manifest, digits)
        assert found == {"division": digits.division, "chosen_on": {"target": 0}, "selection": ""}
    for manifest in ({"data": "CIFAR-10", "training": {}}, {"data": "x", "training": {"division": OFFICIAL}}):
        found = chosen(networks, "target", manifest, samples)
        assert found["chosen_on"] == {"target": 13}
        assert found["selection"] == "test images that also chose the weights: target on 13 of 20"
    for dataset in (digits, samples):
        found = chosen(networks, "generator", {"data": "CIFAR-10 (JPEG q75 copy)", "training": {}}, dataset)
        assert found["selection"] == "whether test images chose the weights is not known: generator"


def test_a_result_is_the_system_run_on_the_same_images(
    results: dict[str, dict[str, Any]], evaluation: Evaluation, digits: Dataset
) -> None:
    pair, split = evaluation.pair, digits.test.head(LIMIT)
    answer = System.in_process(pair.generator, Png(), pair.target).recognise(to_float(split.images))
    right = float((answer.labels == split.labels).float().mean())
    assert results["png"]["target_accuracy"]["value"] == pytest.approx(right, abs=0.02)
    assert results["png"]["s1_bytes"]["value"] * LIMIT == pytest.approx(answer.s1_bytes)
    assert results["png"]["s2_bytes"]["value"] * LIMIT == pytest.approx(answer.s2_bytes)


def test_similarity_compares_protected_and_client_images(results: dict[str, dict[str, Any]], evaluation: Evaluation) -> None:
    with torch.inference_mode():
        expected = float(ssim(evaluation.images, evaluation.protected()).mean())
    assert [result["ssim"]["value"] for result in results.values()] == pytest.approx([expected] * len(results), abs=1e-6)
    assert expected < 0.95


def test_strength_0_measures_the_originals_at_the_edge(evaluation: Evaluation) -> None:
    result = evaluation.result(Png(), strength=0.0)
    assert result["strength"] == 0
    assert result["target_accuracy"] == result["protected_accuracy"]
    assert result["ssim"]["value"] > 0.95
    half = evaluation.protected(0.5)
    assert torch.allclose(half, (evaluation.protected(0.0) + evaluation.protected(1.0)) / 2, atol=1e-6)


def test_a_strength_out_of_range_is_refused(evaluation: Evaluation) -> None:
    with pytest.raises(UsageError, match="strength must be between 0"):
        evaluation.protected(1.5)


# --- the measured images ---------------------------------------------------------------------------------------------------


def test_a_random_component_does_not_keep_figures_from_repeating(networks: Pair, prepared: Pair, digits: Dataset) -> None:
    generator = copy.deepcopy(networks.generator)
    generator.noise = 0.3
    pair = replace(prepared, generator=generator)
    first, second = (Evaluation(pair, digits, limit=8).protected() for _ in range(2))
    assert torch.equal(first, second)


def test_limit_takes_the_first_images_and_none_takes_all(prepared: Pair, digits: Dataset) -> None:
    few = Evaluation(prepared, digits, limit=5)
    assert torch.equal(few.images, to_float(digits.test.images[:5]))
    assert torch.equal(few.labels, digits.test.labels[:5])
    assert len(Evaluation(prepared, digits).labels) == 1000
    with pytest.raises(UsageError, match="at least 1 image, got 0"):
        Evaluation(prepared, digits, limit=0)


def test_a_data_set_of_another_number_of_classes_is_refused(networks: Pair) -> None:
    with pytest.raises(UsageError, match=r"tell 10 classes apart, ImageNet .* has 19"):
        Evaluation(networks, load("samples-imagenet"))


def test_batches_change_the_headers_and_not_the_figures(prepared: Pair, digits: Dataset) -> None:
    whole = Evaluation(prepared, digits, limit=5).result(Png())
    parts = Evaluation(prepared, digits, limit=5, batch=2).result(Png())
    assert parts["batch"] == 2
    for key in (*ACCURACIES, "ssim", "s1_bytes"):
        assert parts[key]["value"] == pytest.approx(whole[key]["value"], abs=1e-4), key
    assert 0 < parts["s2_bytes"]["value"] - whole["s2_bytes"]["value"] < 3


def test_the_client_decides_what_the_edge_receives(prepared: Pair, digits: Dataset) -> None:
    client = Client(quality=20)
    coarse = Evaluation(prepared, digits, limit=3, client=client)
    result = coarse.result(Png(), strength=0.0)
    files = client.capture(coarse.images)
    assert result["client"] == "jpeg q20 4:4:4"
    assert result["s1_bytes"]["value"] == pytest.approx(sum(map(len, files)) / 3)
    assert torch.equal(coarse.protected(0.0), client.jpeg.decode_each(files))


# --- rows ------------------------------------------------------------------------------------------------------------------


def test_what_is_transmitted_adds_up_to_the_payloads(evaluation: Evaluation) -> None:
    for coder in (Png(), codec_for(evaluation.pair, "neural")):
        sizes, decoded = evaluation.transmit(evaluation.images, coder)
        assert sum(sizes) == pytest.approx(len(coder.encode(evaluation.images)))
        assert decoded.shape == evaluation.images.shape
        assert len(sizes) == LIMIT
    sizes, decoded = Evaluation(evaluation.pair, evaluation.dataset, limit=12, batch=4).transmit(decoded[[1, 5, 7]], Png())
    assert len(sizes) == len(decoded) == 3, "part of the images of several batches"


def test_table_1_has_regular_and_perturbed_png_and_jpeg(evaluation: Evaluation) -> None:
    rows = evaluation.table1(Jpeg())
    assert [row["row"] for row in rows] == list(PAPER["table1"])
    assert all(isinstance(row[key], Estimate) and row[key].n == LIMIT for row in rows for key in ("bytes", "accuracy"))
    assert rows[0]["accuracy"] == evaluation.original_accuracy["target"]
    assert rows[1]["bytes"].value < rows[0]["bytes"].value


def test_table_2_has_both_models_and_the_similarity(evaluation: Evaluation, results: dict[str, dict[str, Any]]) -> None:
    row = evaluation.table2()
    assert set(row) == {"original", "auxiliary_original", "target", "auxiliary", *SEEN}
    assert all(isinstance(figure, Estimate) and figure.n == LIMIT for figure in row.values())
    assert row["target"].as_dict() == results["png"]["protected_accuracy"]
    assert row["auxiliary"].as_dict() == results["png"]["auxiliary_protected_accuracy"]
    for key in ("ssim", "legibility", "abs_ssim_sobel"):
        assert row[key].as_dict() == results["png"][key]


def test_a_curve_has_a_row_for_each_point(evaluation: Evaluation, results: dict[str, dict[str, Any]]) -> None:
    rows = evaluation.curve([20, 89], Jpeg, lambda _: 1.0)
    assert [row["point"] for row in rows] == [20, 89]
    assert all(set(row) == {"point", "target", "auxiliary", "ssim", "bytes"} for row in rows)
    assert rows[0]["bytes"].value < rows[1]["bytes"].value
    assert rows[1]["bytes"].as_dict() == results["jpeg"]["s2_bytes"]
    assert rows[1]["target"].as_dict() == results["jpeg"]["target_accuracy"]
    original, protected = evaluation.curve([0.0, 1.0], lambda _: Png(), float)
    assert original["ssim"].value > protected["ssim"].value + 0.02
    assert protected["auxiliary"].as_dict() == results["png"]["auxiliary_accuracy"]


def test_a_codec_is_described_with_its_options() -> None:
    coders = (Jpeg(50, "4:2:0"), WebP(80), WebP(lossless=True))
    assert [describe(coder) for coder in coders] == ["jpeg q50 4:2:0", "webp q80", "webp lossless"]


# --- golden figures --------------------------------------------------------------------------------------------------------

TOLERANCES = {
    **{key: {"abs": 0.05} for key in ACCURACIES},
    "ssim": {"abs": 1e-3},
    "s1_bytes": {"rel": 0.02},
    "s2_bytes": {"rel": 0.02},
}


def test_the_tiny_pair_reaches_its_golden_figures(results: dict[str, dict[str, Any]], request: pytest.FixtureRequest) -> None:
    figures = {name: {key: result[key]["value"] for key in TOLERANCES} for name, result in results.items()}
    if request.config.getoption("--regenerate"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert figures.keys() == golden.keys()
    for name, expected in golden.items():
        assert figures[name].keys() == expected.keys()
        for key, value in expected.items():
            assert figures[name][key] == pytest.approx(value, **TOLERANCES[key]), (name, key)


def test_the_pairs_other_compressors_are_measured(
    networks: Pair, prepared: Pair, digits: Dataset, tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    monkeypatch.setenv("WORKBENCH_DATA", str(root))
    evaluation = Evaluation(prepared, digits, limit=8)
    assert evaluation.compressors() == {}
    own = networks.manifests["compressor"]
    for variant, kind, weight in (("a", "rate-distortion", 0.01), ("b", "rate-distortion", 0.001), ("c", "rate-accuracy", 0.1)):
        name = weights.compressor_name("resnet18", "mobilenet_v2", variant)
        training = {**own.training, "loss": {"kind": kind, "weight": weight}}
        weights.save(networks.compressor, replace(own, name=name, training=training))
    stale = replace(own, name=weights.compressor_name("resnet18", "mobilenet_v2", "d"), depends={"generator": "another"})
    weights.save(networks.compressor, stale)
    curves = evaluation.compressors()
    assert {kind: [row["point"] for row in rows] for kind, rows in curves.items()} == {
        "rate-accuracy": [0.1],
        "rate-distortion": [0.001, 0.01],
    }
    expected = Estimate(**evaluation.result(codec_for(evaluation.pair, "neural"))["target_accuracy"])
    assert all(row["target"] == expected for rows in curves.values() for row in rows)


def test_in_sixteen_bits_the_figures_are_nearly_the_same(
    networks: Pair, digits: Dataset, results: dict[str, dict[str, Any]]
) -> None:
    narrow, wide = Evaluation(networks, digits, limit=LIMIT, precision="bfloat16"), results["png"]
    assert (narrow.origin()["precision"], wide["precision"]) == ("bfloat16", "float32")
    accuracy = narrow.accuracy(narrow.pair.target, narrow.protected())
    assert accuracy.value == pytest.approx(wide["protected_accuracy"]["value"], abs=3 / LIMIT)


def test_a_codec_is_measured_once_whatever_asks_for_it(
    prepared: Pair, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation(prepared, digits, limit=16)
    sent: list[str] = []
    transmit = Evaluation.transmit

    def counted(self: Evaluation, images: Tensor, codec: Codec) -> tuple[list[float], Tensor]:
        sent.append(describe(codec))
        return transmit(self, images, codec)

    monkeypatch.setattr(Evaluation, "transmit", counted)
    png, jpeg = evaluation.result(Png()), evaluation.result(Jpeg(89))
    table = {row["row"]: row for row in evaluation.table1(Jpeg(89))}
    (curve,) = evaluation.curve([89], Jpeg, lambda _: 1.0, auxiliary=False)
    evaluation.curve([89], lambda quality: Jpeg(quality, "4:2:0"), lambda _: 1.0, auxiliary=False)
    evaluation.curve([0.5], lambda _: Png(), float)
    assert sent == ["png", "jpeg q89 4:4:4", "png", "jpeg q89 4:4:4", "jpeg q89 4:2:0", "png"]  # the second two: originals
    assert table["perturbed PNG"]["bytes"].as_dict() == png["s2_bytes"]
    assert curve["target"].as_dict() == jpeg["target_accuracy"]
    assert "auxiliary" not in curve
