"""The variant `paper`: the papers' loss and settings, from scratch, next to a pair's own generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench import training, weights
from workbench.__main__ import main
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.training import PAPER, GeneratorLoss, presets
from workbench.training.missing import _missing
from workbench.training.presets import settings_of

PAIR = ("--target", "resnet18", "--auxiliary", "mobilenet_v2")
NAME = "resnet18-X-mobilenet_v2"


@pytest.mark.parametrize("preset", ["quick", "hours"])
def test_its_generator_has_the_papers_settings(preset: str) -> None:
    own, settings = settings_of(preset, "generator"), settings_of(preset, "generator", variant=PAPER)
    assert (settings.batch, settings.learning_rate, settings.weight_decay) == (256, 5e-3, 5e-4)
    assert (settings.optimizer, settings.warmup, settings.clip, settings.noise) == ("adamw", 0.3, None, 0.0)
    assert settings.max_images is None
    assert settings.epochs >= 15
    assert (settings.width, settings.half) == (own.width, own.half)
    assert not settings.captured, "the papers train on the pictures themselves"
    assert settings_of(preset, "generator", 3, PAPER).epochs == 3
    assert settings_of(preset, "classifier", variant=PAPER) == settings_of(preset, "classifier")


def test_its_losses_are_the_papers_whatever_the_preset() -> None:
    for preset in presets.PRESETS:
        generator, compressor = training.losses_of(preset, PAPER)
        assert (generator.auxiliary, generator.ssim, generator.ssim_weight) == ("unbounded", "signed", 0.5)
        assert (generator.eye_weight, generator.leakage_weight, generator.every_strength) == (0, 0, False)
        assert compressor.kind == "rate-distortion"


@pytest.mark.system
def test_it_is_trained_from_scratch_and_evaluated_by_its_name(
    own_data: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(presets.PAPER_EPOCHS, "quick", (1, 1))
    for preset, kind in (("quick", "generator"), ("quick", "compressor"), ("paper", "generator")):
        settings = presets.PRESETS[preset][kind]
        monkeypatch.setitem(presets.PRESETS[preset], kind, replace(settings, width=2, batch=8))
    before = {manifest.name: manifest.sha256 for manifest, _ in weights.listing()}
    training.ensure(few, "resnet18", "mobilenet_v2", variant=PAPER, device="cpu")
    after = {manifest.name: manifest for manifest, _ in weights.listing()}
    assert set(after) - set(before) == {f"{NAME}@paper", f"{NAME}@paper-compressor"}, "no encoder either"
    assert {name: after[name].sha256 for name in before} == before
    loss = after[f"{NAME}@paper"].training["loss"]
    assert (loss["auxiliary"], loss["ssim"], loss["ssim_weight"]) == ("unbounded", "signed", 0.5)
    assert "start" not in loss
    assert after[f"{NAME}@paper-compressor"].training["loss"]["kind"] == "rate-distortion"
    assert main(["evaluate", *PAIR, "--variant", "paper", "--codec", "compressai", "--limit", "8", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["weights"]
    assert measured["generator"] == after[f"{NAME}@paper"].sha256
    assert measured["compressor"] == after[f"{NAME}@paper-compressor"].sha256


def test_the_command_trains_a_pair_of_it(monkeypatch: pytest.MonkeyPatch, empty_data: Path) -> None:
    asked: list[dict[str, Any]] = []
    for name in ("ensure", "train_all"):
        monkeypatch.setattr(training, name, lambda *_, **options: asked.append(options) or [])
    assert main(["train", "pair", *PAIR, "--variant", "paper"]) == 0
    assert main(["train", "all", *PAIR, "--variant", "paper", "--preset", "hours"]) == 0
    for options in asked:
        assert options["variant"] == PAPER
        assert options["generator_loss"] == GeneratorLoss()
        assert options["compressor_loss"].kind == "rate-distortion"
    assert [options["preset"] for options in asked] == ["quick", "hours"]


def test_the_budget_of_all_lists_its_networks(tiny_data: Path, digits: Dataset) -> None:
    pairs = [("resnet18", "mobilenet_v2")]
    for preset in ("quick", "hours"):
        assert set(_missing(digits, pairs, preset, PAPER)) == {f"{NAME}@paper", f"{NAME}@paper-compressor"}


@pytest.mark.parametrize("what", ["pair", "all"])
def test_another_variant_of_a_whole_pair_is_one_line(what: str, empty_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", what, "--variant", "mine"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--variant mine cannot be trained as a whole: of a pair 'paper' alone, or no variant" in line


def test_a_variant_of_neither_network_is_refused(tiny_data: Path) -> None:
    assert main(["evaluate", *PAIR, "--variant", "paper", "--limit", "8"]) == 1
    with pytest.raises(UsageError, match="variant"):
        weights.generator_name("resnet18", "vgg13_bn", "../x")


def test_a_variant_of_two_networks_is_refused(own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = weights.load_pair("digits", "resnet18", "mobilenet_v2")
    for role, name in (("generator", f"{NAME}@paper"), ("compressor", f"{NAME}-compressor@paper")):
        weights.save(getattr(pair, role), replace(pair.manifests[role], name=name, seed=7))
    assert main(["evaluate", *PAIR, "--variant", "paper", "--limit", "8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--variant paper is both a generator and a compressor of the default generator" in line
    assert main(["evaluate", *PAIR, "--variant", "paper", "--codec", "png", "--limit", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 7, "only the generator is meant, because PNG needs no compressor"
