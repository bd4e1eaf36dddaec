"""A time budget divided among networks, images that grow during a training, and `workbench train all`."""

from __future__ import annotations

import itertools
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import training, weights
from workbench.__main__ import main
from workbench.classifiers import CLASSIFIER_NAMES, Classifier
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.models import PerturbationGenerator
from workbench.pictures import to_float
from workbench.training import TrainingSettings, budget, loop, missing, presets
from workbench.training.batches import Feed, crop_and_flip, resize, side_at
from workbench.training.budget import Budget, Cost
from workbench.training.loop import Trainer
from workbench.training.objectives import ClassifierObjective
from workbench.training.protection import EncoderObjective
from workbench.training.schedules import steps

SETTINGS = TrainingSettings(4, 16, 0.1, 5e-4, optimizer="sgd")
SIZES = ((0.0, 24), (0.5, 32))
PAIR = ("mobilenet_v2", "resnet18")


@pytest.fixture
def narrow_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("quick", "hours"):
        for kind, settings in presets.PRESETS[name].items():
            tiny = replace(settings, batch=16, max_images=32, validation_images=16, width=2, classifier_width=8, captured=False)
            monkeypatch.setitem(presets.PRESETS[name], kind, tiny)


# --- images that grow --------------------------------------------------------------------------------------------------------


def test_the_side_of_images_follows_from_the_share_of_the_steps() -> None:
    assert [side_at(SIZES, progress) for progress in (0.0, 0.49, 0.5, 0.99)] == [24, 24, 32, 32]
    assert side_at((), 0.5) is None


@pytest.mark.parametrize("sizes", [((0.1, 24),), ((0.0, 24), (0.0, 32)), ((0.0, 24), (1.0, 32)), ((0.0, 24), (-0.5, 32))])
def test_sizes_that_do_not_rise_from_zero_are_refused(sizes: tuple[tuple[float, int], ...]) -> None:
    with pytest.raises(UsageError, match="sizes must begin at 0"):
        replace(SETTINGS, sizes=sizes)


def test_a_smaller_image_keeps_what_a_larger_one_shows() -> None:
    slope = torch.linspace(0, 1, 32).expand(2, 3, 32, 32)
    small = resize(slope, 24)
    assert small.shape == (2, 3, 24, 24)
    torch.testing.assert_close(small.mean(), slope.mean(), atol=1e-3, rtol=0)
    assert (small[..., 1:] > small[..., :-1]).all()
    assert resize(slope, 32) is slope


def test_a_training_sees_small_images_first_and_counts_each_size(few: Dataset) -> None:
    seen: list[tuple[int, bool]] = []
    network = Classifier("resnet18", width=8)
    network.network.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0].shape[-1], module.training)))
    objective = ClassifierObjective(network, unpadded=True)
    trainer = Trainer(objective, few.train, replace(SETTINGS, sizes=SIZES), device="cpu")
    cost = [trainer.step(step)[2] for step in range(trainer.total)]
    trainer.validate(few.validation)
    assert seen == [(24, True)] * 6 + [(32, True)] * 6 + [(32, False)]
    assert len(set(cost)) == 2
    assert 1.2 < cost[-1] / cost[0] < 2.0


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_every_classifier_learns_at_24_pixels_and_reads_32(name: str) -> None:
    torch.manual_seed(0)
    network = Classifier(name, width=8).eval()
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    with torch.no_grad():
        before = network(images)
        objective = ClassifierObjective(network, unpadded=True)
        torch.testing.assert_close(network(images), before, rtol=0, atol=0)
    loss, _ = objective.train()(resize(images.repeat(4, 1, 1, 1), 24), labels.repeat(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_without_sizes_small_pictures_keep_their_border() -> None:
    network = Classifier("resnet18", width=8)
    small, labels = torch.rand(4, 3, 20, 20), torch.zeros(4, dtype=torch.int64)
    seen: list[int] = []
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    ClassifierObjective(network).train()(small, labels)
    assert seen == [32]


def test_a_feed_gives_each_step_the_images_of_its_rows(few: Dataset) -> None:
    feed = Feed(few.train, 16, 6, seed=3, device=torch.device("cpu"))
    first, rows = feed.rows(0), feed.rows(4)
    images, labels = feed.at(4, rows)
    assert torch.equal(images, to_float(few.train.images[rows]))
    assert torch.equal(labels, few.train.labels[rows])
    assert torch.equal(feed.rows(0), first), "an earlier epoch again"


# --- schedules ---------------------------------------------------------------------------------------------------------------


def test_a_schedule_takes_most_of_its_seconds_and_no_more() -> None:
    n, long = 50_000, replace(SETTINGS, epochs=10_000)
    for case in itertools.product((1.0, 30.0, 600.0), (1e-5, 1e-3, 0.02), (0.0, 0.05, 4.0)):
        seconds, image, validation = case
        settings = budget.schedule(long, Cost(image, validation), n, seconds)
        images = steps(n, settings) * settings.batch
        epochs = images / n
        validations = int(epochs / settings.validate_every) + 1
        spent = image * images + validation * validations
        assert validations <= budget.VALIDATIONS + 1, case
        if images > settings.batch:
            assert spent <= seconds + validation, f"the last validation may follow one of an epoch: {case}"
        if validation < 0.05 * seconds and images > 20 * settings.batch:
            assert spent > 0.7 * seconds, case


def test_a_schedule_is_bounded_by_a_step_and_thrice_the_preset() -> None:
    assert steps(48, budget.schedule(SETTINGS, Cost(10.0, 10.0), 48, 0.1)) == 1
    whole = budget.schedule(SETTINGS, Cost(1e-9, 1e-9), 48, 100.0)
    assert steps(48, whole) == budget.LONGEST * steps(48, SETTINGS)


def test_on_a_gpu_batches_and_learning_rates_grow() -> None:
    sgd, adam = budget.for_gpu(SETTINGS), budget.for_gpu(replace(SETTINGS, optimizer="adamw"))
    assert (sgd.batch, sgd.learning_rate) == (64, pytest.approx(0.4))
    assert (adam.batch, adam.learning_rate) == (64, pytest.approx(0.2))


def test_settings_come_back_from_json() -> None:
    settings = replace(SETTINGS, sizes=SIZES, clip=1.0)
    assert TrainingSettings.from_json(json.loads(json.dumps(settings.as_json()))) == settings


def test_measuring_the_speed_leaves_the_network_unchanged(few: Dataset) -> None:
    network = Classifier("resnet18", width=8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    seen: list[int] = []
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    settings = replace(SETTINGS, sizes=SIZES)
    objective = ClassifierObjective(network, unpadded=True)
    cost = budget.measured(objective, few.train, few.validation, settings, crop_and_flip(False), "cpu", 0.0)
    assert cost.image > 0
    assert cost.validation > 0
    assert set(seen) == {24, 32}
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.system
def test_a_compiled_training_takes_the_same_steps(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "COMPILER", "eager")  # traced by the compiler, without generating machine code
    losses, costs = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        objective = EncoderObjective(PerturbationGenerator(2), 10)
        trainer = Trainer(objective, few.train, replace(SETTINGS, compiled=compiled), device="cpu")
        taken = [trainer.step(step) for step in range(3)]
        losses.append([*(float(loss.detach()) for loss, _, _ in taken), trainer.validate(few.validation)["loss"]])
        costs.append([cost for _, _, cost in taken])
    torch._dynamo.reset()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert costs[0] == costs[1]


# --- the budget --------------------------------------------------------------------------------------------------------------


def test_unused_time_is_divided_among_the_next_networks(tmp_path: Path) -> None:
    whole = Budget(100.0, {"a": 3.0, "b": 1.0, "c": 1.0}, tmp_path / "budget.json")
    assert whole.share("a") == pytest.approx(60, abs=0.5)
    whole.done("a")
    assert whole.share("b") == pytest.approx(50, abs=0.5)
    whole.used = 80.0
    assert whole.share("b") == pytest.approx(10, abs=0.5)


def test_a_budget_goes_on_with_the_rest_of_its_seconds(tmp_path: Path) -> None:
    first = Budget(100.0, {"a": 1.0}, tmp_path / "budget.json")
    first.used, first.schedules["a"] = 30.0, SETTINGS.as_json()
    first.note()
    again = Budget(100.0, {"a": 1.0}, tmp_path / "budget.json")
    assert again.left == pytest.approx(70, abs=0.5)
    assert again.schedules == {"a": SETTINGS.as_json()}
    assert Budget(200.0, {"a": 1.0}, tmp_path / "budget.json").left == pytest.approx(200, abs=0.5), "another budget"
    other = Budget(100.0, {"a": 1.0}, tmp_path / "budget.json", {"preset": "hours"})
    assert (other.left, other.schedules) == (pytest.approx(100, abs=0.5), {}), "another preset"
    (tmp_path / "budget.json").write_text("{")
    assert Budget(100.0, {"a": 1.0}, tmp_path / "budget.json").left == pytest.approx(100, abs=0.5), "a damaged file"


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_number_above_zero(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a time budget must be a number of minutes above 0"):
        Budget(60 * minutes, {}, tmp_path / "budget.json")


def test_a_costlier_classifier_gets_more_of_the_budget() -> None:
    weight = {name: budget.classifier_weight(name) for name in ("resnet18", "vgg13_bn", "googlenet")}
    assert weight["resnet18"] == budget.SHARES["classifier"]
    assert weight["resnet18"] < weight["vgg13_bn"] < weight["googlenet"] < 5 * weight["resnet18"]


def test_the_budget_knows_which_networks_several_pairs_lack(few: Dataset, tiny_data: Path) -> None:
    pairs = [("resnet18", "mobilenet_v2"), ("mobilenet_v2", "resnet18")]
    assert set(missing._missing(few, pairs[:1], "quick")) == set()
    other = "mobilenet_v2-X-resnet18"
    assert set(missing._missing(few, pairs, "quick")) == {"encoder", other, f"{other}-compressor"}
    assert set(missing._missing(few, [("vgg13_bn", "resnet18")], "hours")) == {
        "vgg13_bn",
        "encoder",
        "vgg13_bn-X-resnet18",
        "vgg13_bn-X-resnet18-compressor",
    }


# --- train all ---------------------------------------------------------------------------------------------------------------


def train_all(*more: str) -> int:
    return main(["train", "all", "--dataset", "digits", "--pairs", "-X-".join(PAIR), "--device", "cpu", *more])


@pytest.mark.system
def test_train_all_trains_a_pair_in_a_budget_and_only_once(
    empty_data: Path, narrow_presets: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_all("--minutes", "0.1") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert all(f"{name}: " in err and "images a second" in err for name in (*PAIR, "encoder"))
    pair = weights.load_pair("digits", *PAIR)
    assert pair.compressor is not None
    for manifest in pair.manifests.values():
        assert manifest.complete
        assert manifest.training["max_images"] <= budget.LONGEST * 32
    assert not list((empty_data / "runs" / "checkpoints").rglob("*.*")), "neither checkpoints nor the budget are left"
    assert train_all("--minutes", "0.1") == 0
    assert "training them" not in capsys.readouterr().err


@pytest.mark.timing  # on a busy machine the budget ends before the interrupt
def test_an_interrupted_train_all_goes_on_with_its_schedule(few: Dataset, empty_data: Path, narrow_presets: None) -> None:
    calls: list[int] = []

    def stop_in_the_second(history: list[dict[str, Any]]) -> None:
        calls.append(len(history))
        if calls.count(1) == 2:
            signal.raise_signal(signal.SIGINT)

    how: dict[str, Any] = {"preset": "quick", "minutes": 0.2, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        training.train_all(few, [PAIR], **how, on_epoch=stop_in_the_second)
    kept = json.loads((empty_data / "runs" / "checkpoints" / "digits" / "budget.json").read_text())
    assert set(kept["schedules"]) == {PAIR[1]}
    assert kept["used"] > 0
    first = weights.find(PAIR[0], "digits")
    made = {each.name: each for each in training.train_all(few, [PAIR], **how)}
    assert made[PAIR[0]] == first
    assert made[PAIR[1]].complete
    chosen = kept["schedules"][PAIR[1]]
    assert {key: made[PAIR[1]].training[key] for key in chosen} == chosen


def test_a_budget_of_another_preset_or_pair_is_not_continued(
    few: Dataset, empty_data: Path, narrow_presets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[dict[str, Any]] = []

    def stopped(*_: object, budget: Budget, **__: object) -> None:
        requests.append(budget.request)
        budget.used, budget.schedules[PAIR[0]] = 1.0, SETTINGS.as_json()
        raise KeyboardInterrupt

    monkeypatch.setattr(missing, "train_classifier", stopped)
    for pair, preset in ((PAIR, "quick"), (PAIR, "hours"), (PAIR[::-1], "hours")):
        with pytest.raises(KeyboardInterrupt):
            training.train_all(few, [pair], preset=preset, minutes=1.0, device="cpu")
    assert len({json.dumps(each) for each in requests}) == 3
    assert all(each["seconds"] == 60 for each in requests)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all", "--minutes", "0"), "a time budget must be a number of minutes above 0, got 0"),
        (("all", "--pairs", "resnet18"), "'resnet18' is not a pair"),
        (("all", "--epochs", "3"), "--epochs is for one network"),
        (("all", "--minutes", "1", "--devices", "2"), "a time budget is for one device, got 2"),
        (("pair", "--minutes", "1"), "--minutes 1.0 goes with `train all`, not with `train pair`"),
        (("classifier", "--pairs", "a-X-b"), "--pairs a-X-b goes with `train all`, not with `train classifier`"),
    ],
)
def test_what_a_budget_cannot_do_is_one_line(
    arguments: tuple[str, ...], message: str, empty_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_papers_pairs_are_one_word(monkeypatch: pytest.MonkeyPatch, empty_data: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(training, "train_all", lambda dataset, pairs, **options: asked.append((pairs, options)) or [])
    assert main(["train", "all", "--pairs", "paper", "resnet18-X-vgg13_bn", "--minutes", "12"]) == 0
    (pairs, options), *_ = asked
    assert pairs == list(training.PAPER_PAIRS)
    assert options["minutes"] == 12
