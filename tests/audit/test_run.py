"""The audit of a pair: every attacker next to the controls, the verdict, the bound, an exact progress bar, one JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.audits import TINY, Counted, noisy, with_train
from workbench import metrics
from workbench.audit import ATTACKERS, EFFORTS, VIEWS, Audit, Effort
from workbench.audit.attempts import best_of
from workbench.audit.contract import Attacker
from workbench.audit.crew import Attempt
from workbench.audit.figures import Figures
from workbench.audit.reconstruct import Search
from workbench.audit.scores import FIGURES, Judge
from workbench.audit.unseen import allowed_unseen
from workbench.audit.verdict import ALLOWED, ALLOWED_PERTURBED, verdict
from workbench.audit.views import Observed
from workbench.data import Dataset, Split
from workbench.errors import DataError, UsageError
from workbench.evaluation import provenance
from workbench.metrics import Estimate
from workbench.notebook import plain
from workbench.pictures import to_float
from workbench.weights import Pair

N = 16
EFFORT = Effort(pairs=40, passes=64, width=4, steps=2, reader=8)


@pytest.fixture(scope="module")
def audited(networks: Pair, digits: Dataset, judge: Judge) -> tuple[Counted, dict[str, Any]]:
    made = Counted(networks, digits, n=N, seeds=2, effort=EFFORT, judge=judge)
    return made, made.result()


def row_of(result: dict[str, Any], view: str, attacker: str) -> dict[str, Any]:
    (row,) = [row for row in result["rows"] if (row["view"], row["attacker"]) == (view, attacker)]
    found: dict[str, Any] = row
    return found


# --- rows and controls -----------------------------------------------------------------------------------------------------


def test_every_attacker_has_a_row_on_every_view_it_works_on(audited: tuple[Counted, dict[str, Any]]) -> None:
    _, result = audited
    expected = [(view, name) for view in VIEWS for name, kind in ATTACKERS.items() if view in kind.views]
    assert [(row["view"], row["attacker"]) for row in result["rows"]] == expected


def test_every_row_has_its_figures_with_n_and_interval(audited: tuple[Counted, dict[str, Any]]) -> None:
    _, result = audited
    figures = {"picture": set(FIGURES), "class": {"read"}, "which": {"identified"}}
    for row in [*result["controls"], *result["rows"]]:
        estimates = {key: value for key, value in row.items() if isinstance(value, Estimate)}
        kind = "picture" if row["view"] == "control" else ATTACKERS[row["attacker"]].guesses
        assert set(estimates) == figures[kind]
        for each in estimates.values():
            assert each.n == N
            assert each.low <= each.value <= each.high
            assert all(math.isfinite(value) for value in (each.low, each.value, each.high))
        assert row["knows"]
    for row in result["rows"]:
        assert row["seeds"] == 2
        assert (row["pairs"], row["source"]) == (
            (N, "the pictures themselves") if row["attacker"] == "replay" else (EFFORT.pairs, "same")
        )


def test_the_first_control_is_the_class_mean_training_image(audited: tuple[Counted, dict[str, Any]], digits: Dataset) -> None:
    made, result = audited
    test = digits.test.head(N)
    images, train = to_float(test.images), to_float(digits.train.images)
    guesses = torch.stack([train[digits.train.labels == label].mean(0) for label in test.labels])
    expected = metrics.mean(metrics.psnr(images, guesses))
    control = result["controls"][0]
    assert control["attacker"] == "class mean"
    assert (control["psnr"].value, control["psnr"].low) == pytest.approx((expected.value, expected.low), rel=1e-5)
    assert control["ssim"].value == pytest.approx(float(metrics.ssim(images, guesses).mean()), abs=1e-5)
    torch.testing.assert_close(made.guesses["control", "class mean"], guesses)


def test_the_second_control_is_a_random_image_of_the_class(audited: tuple[Counted, dict[str, Any]], digits: Dataset) -> None:
    made, result = audited
    guesses, train = made.guesses["control", "training image"], to_float(digits.train.images)
    distance = torch.cdist(guesses.flatten(1), train.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance.min(1).values == 0).all()
    assert torch.equal(digits.train.labels[distance.argmin(1)], digits.test.labels[:N])
    assert result["controls"][1]["seeds"] == 2
    assert result["controls"][1]["psnr"].value < result["controls"][0]["psnr"].value, "the mean is nearer than any one"


def test_who_knows_the_label_names_one_of_its_class_by_lot(audited: tuple[Counted, dict[str, Any]], digits: Dataset) -> None:
    made, result = audited
    labels = digits.test.labels[:N].tolist()
    expected = [1 / labels.count(label) for label in labels]
    assert made.by_label.tolist() == pytest.approx(expected)
    for found in (result["controls"][0]["identified"].value, result["bound"]["label_identified"]):
        assert found == pytest.approx(sum(expected) / N)


def test_on_the_label_alone_nothing_beats_the_class_mean(audited: tuple[Counted, dict[str, Any]]) -> None:
    made, result = audited
    bound = len(set(made.observed("label").answers.tolist()))
    assert row_of(result, "label", "replay")["identified"].value <= bound / N + 1e-6


def test_what_is_kept_to_look_at_is_of_every_attacker_who_draws(audited: tuple[Counted, dict[str, Any]]) -> None:
    made, result = audited
    drawn = {(row["view"], row["attacker"]) for row in result["rows"] if "psnr" in row}
    assert set(made.guesses) == drawn | {("control", "class mean"), ("control", "training image")}
    assert all(guess.shape == (N, 3, 32, 32) for guess in made.guesses.values())


def test_a_row_alone_is_that_of_the_whole_audit(
    audited: tuple[Counted, dict[str, Any]], networks: Pair, digits: Dataset, judge: Judge
) -> None:
    _, result = audited
    alone = Audit(networks, digits, n=N, seeds=2, effort=EFFORT, judge=judge)
    for view, name in (("perturbed", "prior"), ("payload", "invert"), ("label", "replay")):
        assert alone.attack(view, name) == row_of(result, view, name)


def test_attackers_that_search_for_each_picture_take_the_first(
    networks: Pair, digits: Dataset, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Search, "most", 6)
    made = Counted(networks, digits, codec="png", strength=0.5, n=N, seeds=1, effort=EFFORT, judge=judge)
    result = made.result(("perturbed",), ("undo", "optimise", "latents", "replay"))
    assert {row["attacker"]: row["identified"].n for row in result["rows"]} == {
        "undo": N,
        "optimise": 6,
        "latents": 6,
        "replay": N,
    }
    assert made.counted == made.total, "the progress bar knows"
    guess, few = made.guesses["perturbed", "optimise"], made.images[:6]
    nearest = torch.cdist(guess.flatten(1), made.images.flatten(1)).argmin(1)
    best = row_of(result, "perturbed", "optimise")
    assert best["identified"].value == pytest.approx(float((nearest == torch.arange(6)).float().mean())), "among all known"
    control = metrics.psnr(few, made.means[made.labels[:6]])
    paired = metrics.mean(metrics.psnr(few, guess) - control)
    gain = best["over_control"]["psnr"]
    assert (gain.value, gain.low, gain.high) == pytest.approx((paired.value, paired.low, paired.high), abs=1e-4)


def test_the_best_attacker_gains_most_over_its_control() -> None:
    few, many = row("perturbed", "few", psnr=14.0, ssim=0.2, identified=0.01), row("perturbed", "many", psnr=13.5, ssim=0.2)
    many["identified"] = figure(0.01)
    few["over_control"], many["over_control"] = {"psnr": figure(0.1)}, {"psnr": figure(0.5)}
    assert best_of([few, many])["attacker"] == "many", "the first pictures are easier than the others"
    assert verdict(CONTROL, [few, many])["perturbed"]["best"]["psnr"]["attacker"] == "many"


def test_the_unprotected_picture_is_found_out_by_the_same_code(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Audit(networks, digits, codec="png", strength=0.0, n=N, seeds=1, effort=TINY, judge=judge)
    row = made.attack("perturbed", "undo")
    assert row["psnr"].value > 25
    assert row["identified"].value == 1
    assert row["psnr"].value > made.controls[0]["psnr"].value + 5
    assert made.attack("perturbed", "replay")["identified"].value == 1


# --- effort ----------------------------------------------------------------------------------------------------------------


class Scripted(Audit):
    script: tuple[float, ...] = ()

    def best(self, attempts: Any) -> list[dict[str, Any]]:
        value = self.script[len(self.effort_curve) // len(attempts)]
        return [{"view": each.view, "over_control": {"psnr": figure(value)}} for each in attempts]


@pytest.mark.parametrize(
    ("script", "efforts", "converged"),
    [
        ((15.0, 15.05), 2, True),
        ((15.0, 15.3, 15.45, 15.5), 4, True),
        ((15.0, 14.8), 2, True),
        ((15.0, 15.2, 15.4, 15.6), 4, False),
    ],
)
def test_effort_doubles_until_the_gain_is_below_a_tenth_decibel(
    script: tuple[float, ...], efforts: int, converged: bool, networks: Pair, digits: Dataset, judge: Judge
) -> None:
    made = Scripted(networks, digits, codec="png", n=4, seeds=1, effort=TINY, judge=judge)
    made.script = script
    curve = made.converge(("perturbed", "payload"), ("undo", "invert"), doublings=3)
    assert [row["view"] for row in curve] == ["perturbed", "payload"] * efforts
    assert [row["effort"]["passes"] for row in curve[::2]] == [240 * 2**number for number in range(efforts)]
    assert [row["effort"]["steps"] for row in curve[::2]] == [2 * 2**number for number in range(efforts)]
    assert [row["effort"]["pairs"] for row in curve[::2]] == [120, 240, 480, 697][:efforts], "as many as there are"
    assert made.converged is converged
    assert made.effort.passes == curve[-1]["effort"]["passes"], "table, verdict and Pareto front go on with it"


def test_the_number_where_effort_stopped_is_reported_everywhere(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Audit(networks, digits, codec="png", n=6, seeds=1, effort=EFFORT, judge=judge)
    curve = made.converge(("perturbed",), ("undo", "invert"), gain=100.0)
    result = made.result(("perturbed",), ("undo", "invert"))
    assert result["converged"]
    assert result["effort"] == curve[-1]["effort"] == {**result["effort"], "passes": 128, "pairs": 80}
    best = result["verdict"]["perturbed"]["best"]["psnr"]["value"]
    assert best == curve[-1]["psnr"] == max((row["psnr"] for row in result["rows"]), key=lambda each: each.value)
    assert len(result["effort_curve"]) == 2
    with pytest.raises(UsageError, match="needs an attacker that draws pictures, .* got replay on perturbed"):
        made.converge(("perturbed",), ("replay",))


def test_without_converging_the_result_is_marked_unknown(audited: tuple[Counted, dict[str, Any]]) -> None:
    _, result = audited
    assert result["converged"] is None
    assert result["effort_curve"] == []
    assert result["unprotected"]["psnr"].value >= result["identity"].value - 0.05, "doing nothing is no better"


# --- linking, membership, bound --------------------------------------------------------------------------------------------


def test_two_captures_are_linked_but_not_by_their_labels(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Audit(networks, digits, codec="png", strength=0.0, n=60, seeds=1, effort=TINY, judge=judge)
    assert made.linkage.linked("perturbed").low > 0.9
    assert made.linkage.linked("label").value < 0.8


@pytest.mark.system
def test_averages_over_squares_link_what_pixel_noise_hides(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Audit(noisy(networks, 1.0), digits, codec="png", n=60, seeds=1, effort=TINY, judge=judge)
    second = made.observer.show(made.linkage._second_protected, "perturbed").seen
    by_pixel = made.linkage._linked(made.observed("perturbed").seen, second, made.labels, 1).value
    assert made.linkage.pooled("perturbed") > 1
    assert made.linkage.linked("perturbed").value > by_pixel + 0.05
    result = made.result(("perturbed",), ("undo",))
    assert result["noise"] == 1.0
    assert result["linking_by_pixel"]["perturbed"].value == by_pixel
    assert made.linkage.pooled("label") == 1, "a label has no pixels"


def test_what_tells_members_is_the_targets_confidence(networks: Pair, digits: Dataset, judge: Judge) -> None:
    """The tiny target was fitted to some training images only, and is more confident on these."""
    fitted = with_train(digits, digits.train.head(128))
    made = Audit(networks, fitted, codec="png", strength=0.0, n=120, seeds=1, effort=TINY, judge=judge)
    assert made.linkage.members("perturbed").low > 0.5
    same = with_train(digits, digits.test.head(60))
    again = Audit(networks, same, codec="png", strength=0.0, n=60, effort=TINY, judge=judge)
    assert again.linkage.members("perturbed").value == pytest.approx(0.5, abs=1e-6), "equal pictures give no information"


def test_the_bound_is_the_number_of_codes(audited: tuple[Counted, dict[str, Any]]) -> None:
    made, result = audited
    bound, payload = result["bound"], made.observer.codec.encode(made.observer.protect(made.images))
    codes = len(set(made.observer.codec.unpack(payload)[0]))
    assert bound["codes"] == codes
    assert bound["identified"] == codes / N
    assert bound["bits"].value == pytest.approx(8 * sum(made.observer.codec.sizes(payload)) / N)
    for view in ("decoded", "payload", "label"):
        for name in ("replay", "invert"):
            assert row_of(result, view, name)["identified"].value <= bound["identified"] + 1e-6


def test_the_price_is_how_often_the_cloud_is_right(audited: tuple[Counted, dict[str, Any]]) -> None:
    made, result = audited
    for view in ("perturbed", "decoded"):
        right = made.observed(view).answers == made.labels
        assert result["answered"][view].value == pytest.approx(float(right.float().mean()))


# --- the verdict -----------------------------------------------------------------------------------------------------------


def figure(value: float, half: float = 1e-4) -> Estimate:
    return Estimate(value, value - half, value + half, 100)


def row(view: str, attacker: str, **values: float) -> dict[str, Any]:
    return {"view": view, "attacker": attacker, **{key: figure(value) for key, value in values.items()}}


CONTROL = [row("control", "class mean", psnr=13.0, ssim=0.2, identified=0.01)]


@pytest.mark.parametrize(
    ("view", "values", "holds"),
    [
        ("payload", {"psnr": 13.4, "ssim": 0.22, "identified": 0.014}, (True, True, True)),
        ("payload", {"psnr": 13.6, "ssim": 0.22, "identified": 0.014}, (False, True, True)),
        ("payload", {"psnr": 12.0, "ssim": 0.24, "identified": 0.014}, (True, False, True)),
        ("payload", {"psnr": 12.0, "ssim": 0.10, "identified": 0.016}, (True, True, False)),
        ("perturbed", {"psnr": 14.4, "ssim": 0.10, "identified": 0.014}, (True, True, True)),
        ("perturbed", {"psnr": 14.6, "ssim": 0.40, "identified": 0.900}, (False, False, False)),
    ],
)
def test_the_verdict_is_the_best_attackers_gain_over_the_control(
    view: str, values: dict[str, float], holds: tuple[bool, ...]
) -> None:
    weak = row(view, "weak", psnr=5.0, ssim=-0.3, identified=0.0)
    found = verdict(CONTROL, [weak, row(view, "strong", **values), row(view, "reader", read=0.9)])[view]
    assert {each["attacker"] for each in found["best"].values()} == {"strong"}
    gain = {"psnr": values["psnr"] - 13, "ssim": values["ssim"] - 0.2, "identified": values["identified"] / 0.01}
    none = {"psnr": 0.0, "ssim": 0.0, "identified": 1.0}
    assert found["over"] == pytest.approx({key: max(none[key], value) for key, value in gain.items()}), "max(control, attack)"
    assert found["failed"] == [key for key, value in gain.items() if value < none[key]], "the attack's failure, and said"
    assert tuple(found["holds"][key] for key in ("psnr", "ssim", "identified")) == holds
    assert found["allowed"] == {**ALLOWED, "psnr": ALLOWED_PERTURBED if view == "perturbed" else 0.5}


def test_a_threshold_is_judged_on_the_paired_interval() -> None:
    def judged(half: float) -> dict[str, Any]:
        best = row("payload", "strong", psnr=13.45, ssim=0.2, identified=0.01)
        best["over_control"] = {"psnr": figure(0.45, half)}
        return verdict(CONTROL, [best])["payload"]  # type: ignore[no-any-return]

    sure, unsure = judged(0.04), judged(0.06)
    assert sure["holds"]["psnr"]
    assert not unsure["holds"]["psnr"], "0.51 dB may be true, 0.5 is allowed"
    assert unsure["interval"]["psnr"] == pytest.approx([0.39, 0.51])
    assert unsure["over"]["psnr"] == pytest.approx(0.45)


@pytest.mark.parametrize(("view", "holds"), [("decoded", True), ("payload", True), ("label", True), ("perturbed", False)])
def test_few_codes_bound_what_few_pictures_leave_open(view: str, holds: bool) -> None:
    best = row(view, "replay", psnr=13.0, ssim=0.2, identified=0.01)
    best["identified"] = Estimate(0.01, 0.005, 0.018, 1000)  # 1.8 times the control's 0.01 may be true, 1.5 is allowed
    assert not verdict(CONTROL, [best])[view]["holds"]["identified"]
    found = verdict(CONTROL, [best], identifiable=0.01)[view]
    assert found["holds"]["identified"] is holds
    assert found["interval"]["identified"][1] == pytest.approx(1.0 if holds else 1.8)


def test_each_figure_has_its_own_best_attacker() -> None:
    rows = [
        row("decoded", "a", psnr=13.0, ssim=0.2, identified=0.01),
        row("payload", "b", psnr=15.0, ssim=0.1, identified=0.0),
        row("payload", "replay", identified=0.5),
    ]
    found = verdict(CONTROL, rows)
    assert {key: each["attacker"] for key, each in found["decoded"]["best"].items()} == {
        "psnr": "b",
        "ssim": "a",
        "identified": "replay",
    }
    assert found["decoded"]["holds"] == {"psnr": False, "ssim": True, "identified": False}


def test_there_is_no_verdict_on_a_view_that_nobody_drew_from() -> None:
    assert verdict(CONTROL, [row("payload", "replay", identified=0.5)]) == {}


# --- the bar ---------------------------------------------------------------------------------------------------------------


def test_the_bar_of_the_whole_audit_ends_exactly_at_its_end(audited: tuple[Counted, dict[str, Any]]) -> None:
    made, _ = audited
    assert made.counted == made.total > 0


def test_the_bar_counts_the_judge_and_is_on_standard_error(
    networks: Pair, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    effort = Effort(pairs=50, passes=90, width=4, steps=2, reader=8)
    made = Counted(networks, digits, codec="png", n=6, seeds=1, effort=effort, progress=True)
    made.result(("perturbed",), ("invert",))
    assert made.counted == made.total > 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "audit: 100%" in err.replace("\r", "\n").splitlines()[-1]


# --- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ({"n": 1}, UsageError, "at least 2 images and 1 seed, got 1 and 3"),
        ({"seeds": 0}, UsageError, "at least 2 images and 1 seed, got 1000 and 0"),
        ({"pairs": 698}, DataError, "698 pairs were requested, the training split of .* has 697"),
        ({"pairs": 0}, UsageError, "at least 1 pair to learn from, got 0"),
        ({"n": 2}, DataError, "compares test pictures of one class, and the 2 of .* have one each"),
    ],
)
def test_an_impossible_audit_is_refused_before_any_training(
    how: dict[str, Any], kind: type[Exception], message: str, networks: Pair, digits: Dataset
) -> None:
    with pytest.raises(kind, match=message):
        Audit(networks, digits, **how)


def test_a_class_without_training_pictures_is_refused(networks: Pair, digits: Dataset) -> None:
    rows = digits.train.labels != 3
    without = with_train(digits, Split(digits.train.images[rows], digits.train.labels[rows]))
    with pytest.raises(DataError, match="the class '3' of .* has test pictures, and no training picture"):
        Audit(networks, without)


@pytest.mark.parametrize(("classes", "allowed"), [(2, 0.75), (6, 0.25), (10, 0.15), (1000, 0.15)])
def test_unseen_classifiers_may_be_right_as_often_as_chance(classes: int, allowed: float) -> None:
    assert allowed_unseen(classes) == pytest.approx(allowed)


def test_weights_of_other_classes_are_refused(networks: Pair, digits: Dataset) -> None:
    with pytest.raises(UsageError, match="the weights tell 10 classes apart, .* has 2"):
        Audit(networks, replace(digits, classes=("a", "b")))


@pytest.mark.parametrize(
    ("view", "attacker", "message"),
    [
        ("payload", "read", "attacker 'read' does not work on view 'payload': on perturbed, decoded"),
        ("label", "optimise", "attacker 'optimise' does not work on view 'label': on perturbed, payload"),
        ("perturbed", "inverse", "unknown attacker 'inverse': did you mean 'invert'"),
    ],
)
def test_an_attacker_on_a_view_that_is_not_his_is_refused(
    view: str, attacker: str, message: str, networks: Pair, digits: Dataset
) -> None:
    with pytest.raises(UsageError, match=message):
        Audit(networks, digits, codec="png", n=4).attack(view, attacker)


def test_nothing_to_try_is_refused_and_not_an_empty_audit(networks: Pair, digits: Dataset) -> None:
    made = Audit(networks, digits, codec="png", n=4, effort=TINY, source="noise")
    with pytest.raises(UsageError, match="nothing to try: read on perturbed from 'noise' pairs; .* need source 'same'"):
        made.result(("perturbed",), ("read",))


def test_an_effort_of_more_pairs_learns_from_each_at_least_once() -> None:
    effort = Effort(pairs=10, passes=100)
    assert effort.of(50) == Effort(pairs=50, passes=100)
    assert effort.of(500) == Effort(pairs=500, passes=500)
    for each in EFFORTS.values():
        assert each.passes >= each.pairs


# --- the result ------------------------------------------------------------------------------------------------------------


def test_a_result_is_one_json_object_with_its_origin(audited: tuple[Counted, dict[str, Any]], networks: Pair) -> None:
    _, result = audited
    kept = json.loads(json.dumps(plain(result), allow_nan=False))
    assert (kept["n"], kept["seeds"], kept["strength"], kept["noise"]) == (N, 2, 1.0, 0.0)
    assert kept["dataset"] == "scikit-learn digits"
    assert kept["weights"] == {role: manifest.sha256 for role, manifest in networks.manifests.items()}
    assert kept["codec"] == "neural"
    assert set(provenance("cpu")) <= set(kept), "device, versions, commit"
    assert kept["effort"] == {"pairs": 40, "passes": 64, "width": 4, "steps": 2, "sends": 16, "reader": 8}
    assert set(kept["verdict"]) == set(VIEWS)
    assert set(kept["linking"]) == set(VIEWS)
    assert set(kept["membership"]) == {"perturbed", "decoded"}
    assert kept["controls"][0]["psnr"]["n"] == N


@pytest.mark.system
def test_an_audit_of_a_random_component_can_be_repeated(networks: Pair, digits: Dataset, judge: Judge) -> None:
    attackers = ("undo", "optimise", "replay")
    first, second = (
        Audit(noisy(networks, 0.25), digits, codec="png", n=6, seeds=1, effort=TINY, judge=judge) for _ in range(2)
    )
    found = [each.result(("perturbed", "decoded"), attackers) for each in (first, second)]
    assert plain(found[0]) == plain(found[1])
    sends = [first.observer.observe(first.images, "perturbed").seen for _ in range(2)]
    assert not torch.equal(*sends), "each send draws its own"


def test_the_pictures_of_the_test_split_are_no_attackers_pairs(
    audited: tuple[Counted, dict[str, Any]],
) -> None:
    made, _ = audited
    pairs = [each.result()[0] for each in made.observer.quick.kept._made.values()]
    assert pairs
    assert not any(near(each, made.images) for each in pairs)


def near(images: Tensor, others: Tensor) -> bool:
    distance = torch.cdist(images.flatten(1), others.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    return bool((distance == 0).any())


# --- interrupted audits ----------------------------------------------------------------------------------------------------


def test_an_interrupted_audit_continues_with_equal_figures(
    networks: Pair, digits: Dataset, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = noisy(networks, 0.25)

    def audit(folder: Path | None) -> Audit:
        return Audit(pair, digits, codec="png", n=6, seeds=2, effort=TINY, judge=judge, folder=folder)

    views, attackers = ("perturbed",), ("undo", "invert", "read", "replay")
    whole = audit(None).result(views, attackers)["rows"]
    attempt = Attempt("perturbed", ("undo", "invert"))
    audit(tmp_path).tried([Attempt("perturbed", ("undo", "invert", "replay"))])
    ran: list[str] = []
    for name in attackers:
        monkeypatch.setattr(ATTACKERS[name], "guess", _counting(name, ATTACKERS[name].guess, ran))
    continued = audit(tmp_path)
    continued.tried([attempt])
    assert ran == [], "their figures are in the folder"
    assert plain(continued.result(views, attackers)["rows"]) == plain(whole)
    assert {"undo", "read"} <= set(ran), "at strength 0 no figure was there, and `read` had not run"


def _counting(name: str, guess: Callable[[Attacker, Observed], Tensor], ran: list[str]) -> Callable[..., Tensor]:
    def counted(self: Attacker, observed: Observed) -> Tensor:
        ran.append(name)
        return guess(self, observed)

    return counted


def test_a_damaged_file_of_figures_counts_as_missing(tmp_path: Path) -> None:
    figures, key = Figures(tmp_path), ("perturbed", "undo", 0.5)
    assert key not in figures
    figures.add(key, {"psnr": torch.tensor([1.0, 2.0])})
    assert key in Figures(tmp_path)
    assert ("perturbed", "undo", 1.0) not in Figures(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert key not in Figures(tmp_path)
