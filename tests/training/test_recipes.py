"""The recipes: presets, the order of trainings, manifests."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.objectives import QUICKLY, SETTINGS, Small, classifier_objective, seeded, stop, train_here
from tests.support.pair import AUXILIARY, TARGET
from workbench import training, weights
from workbench.classifiers import Classifier
from workbench.data import Dataset, Split
from workbench.errors import UsageError, WeightsError
from workbench.models import PerturbationGenerator
from workbench.pictures import to_float
from workbench.system import Client, System
from workbench.training import (
    CompressorLoss,
    GeneratorLoss,
    Objective,
    Outcome,
    TrainingSettings,
    fit,
    fitting,
    missing,
    presets,
    recipes,
)
from workbench.training.objectives import ClassifierObjective
from workbench.training.schedules import Plan
from workbench.weights import Manifest


def test_the_preset_paper_has_the_papers_numbers() -> None:
    generator = presets.PRESETS["paper"]["generator"]
    assert (generator.epochs, generator.batch, generator.learning_rate, generator.weight_decay) == (100, 256, 5e-3, 5e-4)
    assert (generator.warmup, generator.width, generator.max_images, generator.optimizer) == (0.3, 32, None, "adamw")
    assert {kind: (each.epochs, each.batch) for kind, each in presets.PRESETS["paper"].items()} == dict.fromkeys(
        ("classifier", "generator", "compressor", "joint"), (100, 256)
    )


def test_every_preset_trains_all_three_and_has_its_losses() -> None:
    assert set(presets.PRESETS) == {"quick", "hours", "paper"} == set(training.LOSSES)
    every = {"classifier", "generator", "compressor", "joint"}
    assert [set(kinds) - every for kinds in presets.PRESETS.values()] == [{"encoder"}, {"encoder"}, set()]
    assert all(every <= set(kinds) for kinds in presets.PRESETS.values())


@pytest.mark.parametrize(("name", "batch", "rate"), [("resnet18", 512, 0.06), ("googlenet", 128, 0.03)])
def test_large_activations_train_in_smaller_batches(
    name: str, batch: int, rate: float, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(recipes, "train_and_keep", lambda objective, dataset, plan: [plans.append(plan)])
    training.train_classifier(few, name, "hours")
    assert [(plan.settings.batch, plan.settings.learning_rate) for plan in plans] == [(batch, rate)]


def test_what_a_preset_does_not_train_is_refused(few: Dataset, empty_data: Path) -> None:
    with pytest.raises(UsageError, match="preset 'paper' has no training of an encoder; 'quick' and 'hours' have"):
        training.train_encoder(few, "paper")


def test_variants_of_a_generator_share_one_encoder(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = weights.find(weights.generator_name(TARGET, AUXILIARY), "digits")
    loss = GeneratorLoss("bounded", "signed", 2.0)
    for variant, chosen, expected in (("one", None, presets.HIDDEN), ("two", loss, loss)):
        manifest = training.train_generator(few, TARGET, AUXILIARY, loss=chosen, variant=variant, device="cpu")
        encoder = weights.find(presets.ENCODER, few.family)
        assert encoder is not None
        assert manifest.name == f"{TARGET}-X-{AUXILIARY}@{variant}"
        assert manifest.training["loss"].items() >= {**asdict(expected), "start": encoder.sha256}.items()
        assert manifest.spec == {"width": tiny_presets.width, "noise": 0.1}
    assert capsys.readouterr().err.count("which generators start from: training them") == 1
    assert weights.find(weights.generator_name(TARGET, AUXILIARY), "digits") == plain


def test_an_interrupted_encoder_is_completed_first(few: Dataset, own_data: Path, tiny_presets: TrainingSettings) -> None:
    def generator(**run: Any) -> Manifest:
        return training.train_generator(few, TARGET, AUXILIARY, variant="one", device="cpu", **run)

    with pytest.raises(KeyboardInterrupt):
        generator(on_epoch=lambda _: signal.raise_signal(signal.SIGINT))
    first = weights.find(presets.ENCODER, few.family)
    assert first is None or not first.complete
    assert weights.find(f"{TARGET}-X-{AUXILIARY}@one", few.family) is None
    assert generator().complete
    encoder = weights.find(presets.ENCODER, few.family)
    assert encoder is not None
    assert encoder.complete


class Finished(ClassifierObjective):
    def finish(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": 2.0, "accuracy_in_sample": 3.0}


def train_finished(few: Dataset, settings: TrainingSettings) -> Manifest:
    objective = Finished(Classifier("resnet18", 10, width=8))
    plan = Plan(["resnet18"], "classifier", "quick", settings, 0)
    return fitting.train_and_keep(objective, few, plan, device="cpu")[0]


def test_a_manifest_names_what_its_figures_were_measured_on(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings
) -> None:
    manifest = train_finished(few, replace(tiny_presets, epochs=1, max_images=24))
    assert manifest.metrics["accuracy"] == manifest.training["history"][-1]["validation"]["accuracy"]
    assert manifest.metrics["accuracy_in_sample"] == 3.0
    assert "chose the checkpoint" in manifest.training["measured_on"]["validation"]
    assert "fitted" in manifest.training["measured_on"]["in_sample"]


@pytest.mark.parametrize("captured", [False, True])
def test_validation_sees_the_phones_jpeg_if_training_does(
    captured: bool, few: Dataset, own_data: Path, tiny_presets: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []

    def watched(objective: Objective, train: Split, validation: Split, *rest: Any, **options: Any) -> Outcome:
        given.extend((train.images, validation.images))
        return fit(objective, train, validation, *rest, **options)

    monkeypatch.setattr(fitting, "fit", watched)
    train_finished(few, replace(tiny_presets, epochs=1, max_images=24, captured=captured))
    expected = [fitting.captured(each) if captured else each for each in (few.train, few.validation)]
    assert all(torch.equal(images, split.images) for images, split in zip(given, expected, strict=True))


def test_what_is_captured_is_what_the_edge_receives(few: Dataset) -> None:
    split = fitting.captured(few.train)
    images = to_float(few.train.images)
    received = System.baseline(PerturbationGenerator(2), Small()).edge.receive(Client().capture(images))
    assert torch.equal(split.labels, few.train.labels)
    assert torch.equal(to_float(split.images), received)
    assert 0 < (received - images).abs().max() < 0.2


@pytest.mark.parametrize(
    ("able", "half", "precision"),
    [
        (True, True, "bf16-mixed"),
        (True, False, "32-true"),
        (False, True, "32-true"),
    ],
)
def test_sixteen_bits_are_used_on_request_if_supported(
    able: bool, half: bool, precision: str, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    outcome = train_here(seeded(classifier_objective), few, tmp_path, replace(SETTINGS, half=half))
    assert outcome.precision == precision
    assert outcome.complete


def unknown_device(few: Dataset, folder: Path) -> None:
    fit(
        classifier_objective(),
        few.train,
        few.validation,
        SETTINGS,
        label="",
        checkpoint=folder / "x.pt",
        identity={},
        device="gpu",
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda few, _: training.train_classifier(few, TARGET, preset="fast"),
            "unknown preset 'fast': .*choose one of hours, paper, quick",
        ),
        (lambda few, _: training.train_generator(few, TARGET, AUXILIARY, preset="papre"), "did you mean 'paper'"),
        (lambda few, _: training.train_compressor(few, TARGET, AUXILIARY, preset="x"), "choose one of hours, paper, quick"),
        (lambda few, _: training.train_classifier(few, "resnet81"), "did you mean 'resnet18'"),
        (unknown_device, "unknown device 'gpu': .*choose one of auto, cpu, cuda"),
        (lambda *_: GeneratorLoss("capped"), "unknown auxiliary term 'capped': .*bounded, unbounded"),
        (lambda *_: GeneratorLoss(ssim="abs"), "unknown SSIM term 'abs': .*absolute, signed"),
        (lambda *_: GeneratorLoss(ssim_weight=-1), "must be a number from 0 up, got -1"),
        (lambda *_: CompressorLoss("mse"), "unknown compressor loss 'mse': .*rate-accuracy, rate-distortion"),
    ],
)
def test_what_is_unknown_is_refused_with_the_choices(
    call: Callable[[Dataset, Path], Any], message: str, few: Dataset, tmp_path: Path, empty_data: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        call(few, tmp_path)
    assert not empty_data.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_gpu_that_is_not_there_is_one_usage_error(few: Dataset, empty_data: Path) -> None:
    with pytest.raises(UsageError, match="device 'cuda' was requested, but torch sees no CUDA GPU"):
        training.train_classifier(few, TARGET, device="cuda")


def test_a_trained_classifier_is_kept_with_its_manifest(few: Dataset, empty_data: Path, tiny_presets: TrainingSettings) -> None:
    seen: list[int] = []
    manifest = training.train_classifier(
        few, AUXILIARY, seed=3, device="cpu", on_epoch=lambda history: seen.append(len(history))
    )
    module, kept = weights.load(AUXILIARY, "digits", "classifier")
    assert kept == manifest
    assert isinstance(module, Classifier)
    assert (kept.seed, kept.data, kept.complete) == (3, "few digits", True)
    assert kept.training["preset"] == "quick"
    assert kept.training["learning_rate"] == tiny_presets.learning_rate
    assert (kept.training["images"], kept.training["validation_images"]) == (48, 8)
    assert kept.training["division"] == few.division
    best = min((entry["validation"] for entry in kept.training["history"]), key=lambda entry: entry["loss"])
    assert kept.metrics["accuracy"] == best["accuracy"]
    assert seen == [1, 2], "after each epoch and at the end"
    assert not list(empty_data.rglob("*.pt")), "the checkpoint is gone once training is complete"


def test_ctrl_c_keeps_incomplete_weights_that_can_be_resumed(
    few: Dataset, empty_data: Path, tiny_presets: TrainingSettings
) -> None:
    manifest = training.train_classifier(few, AUXILIARY, device="cpu", on_epoch=lambda _: stop())
    assert not manifest.complete
    module, kept = weights.load(AUXILIARY, "digits", "classifier")
    assert kept == manifest
    assert module(to_float(few.test.images)).isfinite().all()
    assert [path.name for path in empty_data.rglob("*.pt")] == [f"{AUXILIARY}.pt"]
    again = training.train_classifier(few, AUXILIARY, device="cpu")
    assert again.complete
    assert again.training["history"][:1] == manifest.training["history"], "it went on from where it was stopped"
    assert [entry["step"] for entry in again.training["history"]] == [2, 3]


def test_ctrl_c_does_not_replace_finished_weights(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights.find(AUXILIARY, "digits")
    stopped = training.train_classifier(few, AUXILIARY, device="cpu", on_epoch=lambda _: stop())
    assert not stopped.complete
    assert weights.find(AUXILIARY, "digits") == before
    assert f"the weights {AUXILIARY} that were there stay as they are" in capsys.readouterr().err
    weights.load_pair("digits", TARGET, AUXILIARY)
    assert training.train_classifier(few, AUXILIARY, device="cpu").complete, "the same call goes on"
    assert weights.find(AUXILIARY, "digits") != before


def test_a_generator_cannot_be_trained_without_its_classifiers(few: Dataset, empty_data: Path) -> None:
    with pytest.raises(WeightsError, match="no weights 'resnet18' for data set 'digits'"):
        training.train_generator(few, TARGET, AUXILIARY)


def test_nothing_is_trained_where_all_is_present(digits: Dataset, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_data.rglob("*")}
    manifests = training.ensure(digits, TARGET, AUXILIARY)
    assert [manifest.kind for manifest in manifests] == ["classifier", "classifier", "generator", "compressor"]
    assert {path: path.stat().st_mtime_ns for path in tiny_data.rglob("*")} == before
    assert capsys.readouterr().err == ""


def test_weights_of_a_replaced_classifier_count_as_missing(few: Dataset, own_data: Path) -> None:
    module, manifest = weights.load(AUXILIARY, "digits", "classifier")
    next(module.parameters()).data.add_(1)
    weights.save(module, manifest)
    name = weights.generator_name(TARGET, AUXILIARY)
    assert missing._missing(few, [(TARGET, AUXILIARY)], "quick").keys() >= {name, f"{name}-compressor"}


@pytest.mark.system
def test_weights_trained_against_replaced_ones_are_retrained(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    auxiliary, manifest = weights.load(AUXILIARY, "digits", "classifier")
    before = {each.name: each.sha256 for each, _ in weights.listing()}
    with torch.no_grad():
        next(auxiliary.parameters()).add_(1)
    replaced = weights.save(auxiliary, manifest)
    with pytest.raises(WeightsError, match="has been replaced by another"):
        weights.load_pair("digits", TARGET, AUXILIARY)
    manifests = {each.name: each for each in training.ensure(few, TARGET, AUXILIARY, **QUICKLY)}
    generator, compressor = weights.generator_name(TARGET, AUXILIARY), weights.compressor_name(TARGET, AUXILIARY)
    assert {name for name in before if manifests[name].sha256 != before[name]} == {AUXILIARY, generator, compressor}
    assert manifests[AUXILIARY].sha256 == replaced.sha256
    assert manifests[generator].depends == {"target": before[TARGET], "auxiliary": replaced.sha256}
    assert manifests[compressor].depends == {"target": before[TARGET], "generator": manifests[generator].sha256}
    said = capsys.readouterr().err
    assert f"no usable weights {generator!r} for few digits: training them with preset 'quick'" in said
    assert f"no usable weights {TARGET!r}" not in said
    weights.load_pair("digits", TARGET, AUXILIARY)


def test_only_what_is_missing_is_trained(few: Dataset, own_data: Path, tiny_presets: TrainingSettings) -> None:
    name = weights.compressor_name(TARGET, AUXILIARY)
    for path in own_data.rglob(f"{name}*"):
        path.unlink()
    before = {each.name: each.sha256 for each, _ in weights.listing()}
    assert name not in before
    training.ensure(few, TARGET, AUXILIARY, compressor=False, **QUICKLY)
    assert weights.find(name, "digits") is None
    training.ensure(few, TARGET, AUXILIARY, **QUICKLY)
    after = {each.name: each.sha256 for each, _ in weights.listing()}
    assert {key: after[key] for key in before} == before
    assert name in after


def test_an_interrupt_stops_the_rest_which_is_trained_later(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings
) -> None:
    generator = weights.generator_name(TARGET, AUXILIARY)
    (own_data / "runs" / "weights" / "digits" / f"{generator}.json").unlink()
    compressor = weights.find(weights.compressor_name(TARGET, AUXILIARY), "digits")
    training.train_encoder(few, "quick", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        training.ensure(few, TARGET, AUXILIARY, **QUICKLY, on_epoch=lambda _: stop())
    found = weights.find(generator, "digits")
    assert found is not None
    assert not found.complete
    assert weights.find(weights.compressor_name(TARGET, AUXILIARY), "digits") == compressor
    again = training.ensure(few, TARGET, AUXILIARY, compressor=False, **QUICKLY)
    assert [manifest.complete for manifest in again] == [True] * 3


@pytest.mark.system
def test_joint_training_continues_a_generator_and_is_resumed(
    few: Dataset, own_data: Path, tiny_presets: TrainingSettings
) -> None:
    how: dict[str, Any] = {"preset": "hours", "device": "cpu"}
    start = training.train_generator(few, TARGET, AUXILIARY, variant="start", **how)
    stopped = training.train_joint(few, TARGET, AUXILIARY, variant="together", **how, on_epoch=lambda _: stop())
    assert [each.complete for each in stopped] == [False, False]
    manifests = training.train_joint(few, TARGET, AUXILIARY, variant="together", **how)
    name = f"{TARGET}-X-{AUXILIARY}@together"
    assert [(each.name, each.complete) for each in manifests] == [(name, True), (f"{name}-compressor", True)]
    pair, encoder = weights.load_pair("digits", TARGET, AUXILIARY, variant="together"), weights.find("encoder", "digits")
    assert encoder is not None
    assert start.training["loss"]["start"] == encoder.sha256
    assert pair.manifests["generator"].training["loss"]["start"] == start.sha256
    assert pair.manifests["generator"].training["loss"]["before"]["seconds"] == start.training["seconds"]
    assert pair.manifests["generator"].sha256 != start.sha256


def test_joint_training_does_not_overwrite_what_it_starts_from(few: Dataset, own_data: Path) -> None:
    with pytest.raises(UsageError, match="would overwrite the generator variant 'start'"):
        training.train_joint(few, TARGET, AUXILIARY, variant="start")
