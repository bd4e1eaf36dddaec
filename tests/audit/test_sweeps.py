"""The curves of an attacker's success: the requested points, each with an honest row and its price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.audits import Counted, noisy, with_train
from workbench import metrics
from workbench.audit import Audit, Effort
from workbench.audit.attackers import Replay
from workbench.audit.attempts import judge_passes
from workbench.audit.reconstruct import Inversion
from workbench.audit.scores import RECOGNISABLE, Judge, identified
from workbench.audit.sweeps import CODECS, of_pairs, of_rate, of_sends, of_strength
from workbench.audit.views import Pairs
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.metrics import Estimate
from workbench.plots import attack_curves, attack_effort
from workbench.weights import Pair

N = 12
EFFORT = Effort(pairs=60, passes=64, width=4, steps=2, reader=8)


@pytest.fixture(scope="module")
def audit(networks: Pair, digits: Dataset, judge: Judge) -> Audit:
    return Audit(networks, digits, n=N, seeds=2, effort=EFFORT, judge=judge)


def test_each_point_over_strength_is_a_row_at_that_strength(audit: Audit) -> None:
    rows = of_strength(audit, (0.0, 1.0))
    assert [(row["point"], row["strength"], row["view"]) for row in rows] == [(0.0, 0.0, "perturbed"), (1.0, 1.0, "perturbed")]
    assert all(row["seeds"] == 1 for row in rows)
    assert rows[0]["psnr"].value > 25, "what is not protected is there"
    right = audit.observed("perturbed").answers == audit.labels
    assert rows[1]["answered"].value == pytest.approx(float(right.float().mean()))
    undone, inverted = (audit.attack("perturbed", name, seeds=1)["psnr"].value for name in ("undo", "invert"))
    assert rows[1]["psnr"].value == pytest.approx(max(undone, inverted)), "the last point is the audit's own"


def test_each_codec_over_bits_has_its_rate_and_its_gain(audit: Audit) -> None:
    names = ("neural", "JPEG q10", "PNG")
    rows = of_rate(audit, names)
    assert [row["point"] for row in rows] == list(names)
    bits = [row["bits"].value for row in rows]
    assert bits == sorted(bits)
    assert bits[0] == pytest.approx(float(audit.observer.bits(audit.observer.protect(audit.images)).mean()))
    control = audit.controls[0]["psnr"].value
    for row in rows:
        assert row["over"] == pytest.approx(max(0.0, row["psnr"].value - control)), "max(control, attack)"
        assert row["failed"] == (row["psnr"].value < control)
        assert row["view"] == "decoded"
        assert 0 <= row["answered"].value <= 1
        assert row["noise"] == 0


@pytest.mark.system
def test_the_pareto_point_is_the_number_of_table_and_verdict(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Audit(networks, digits, n=N, seeds=1, effort=EFFORT, judge=judge)
    result = made.result(("decoded",), ("undo", "invert", "prior"))
    own, other = of_rate(made, ("neural", "PNG"))
    best = max((row for row in result["rows"]), key=lambda row: row["psnr"].value)
    assert own["psnr"] == best["psnr"] == made.best_rows["decoded"]["psnr"]
    assert other["psnr"] != own["psnr"]


@pytest.mark.system
def test_no_curve_runs_an_attacker_that_has_run_already(
    networks: Pair, digits: Dataset, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    fit = Inversion.fit

    def counted(self: Inversion, pairs: Pairs) -> None:
        fitted.append(pairs.observed.view)
        fit(self, pairs)

    monkeypatch.setattr(Inversion, "fit", counted)
    made = Audit(networks, digits, n=N, seeds=1, effort=EFFORT, judge=judge)
    result = made.result(("perturbed", "decoded"), ("undo", "invert"))
    assert fitted.count("perturbed") == 2, "the table's, and the one at strength 0"
    fitted.clear()
    at_zero, at_one = of_strength(made, (0.0, 1.0))
    neural, png = of_rate(made, ("neural", "PNG"))
    (same,) = of_pairs(made, (EFFORT.pairs,), ("same",))["same"]
    assert fitted == []
    assert at_zero["psnr"] == result["unprotected"]["psnr"]
    assert at_one["psnr"] == png["psnr"] == same["psnr"] == made.best_rows["perturbed"]["psnr"]
    assert neural["psnr"] == made.best_rows["decoded"]["psnr"]
    of_strength(made, (0.5,))
    made.effort = made.effort.doubled(len(digits.train))
    of_strength(made, (1.0,))
    assert fitted == ["perturbed"] * 2, "another strength and another effort are run"


def test_noise_protects_less_the_more_often_a_picture_is_sent(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Audit(noisy(networks, 1.0), digits, codec="png", n=60, seeds=1, effort=EFFORT, judge=judge)
    rows = of_sends(made, (1, 8))
    assert [row["sends"] for row in rows] == [1, 8]
    assert rows[1]["identified"].value > rows[0]["identified"].value
    attacker = Replay(made.observer, replace(EFFORT, sends=8))
    known = made.observer.observe(made.images, "perturbed")
    attacker.fit(Pairs(known, made.images, made.labels))
    again = float(identified(attacker.guess(made.observed("perturbed"))).mean())
    assert rows[1]["identified"].value == pytest.approx(again, abs=0.1), "as the attacker of the table"
    assert [row["sends"] for row in of_sends(Audit(networks, digits, codec="png", n=6, effort=EFFORT))] == [1]


@pytest.mark.parametrize("counts", [(), (0, 4)])
def test_replay_over_no_sends_is_refused(audit: Audit, counts: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="1 or more, got"):
        of_sends(audit, counts)


def test_every_codec_of_the_curve_can_be_tapped(audit: Audit) -> None:
    for codec, options in CODECS.values():
        assert len(audit.observer_at(codec=codec, **options).observe(audit.images[:2], "decoded")) == 2


@pytest.mark.system
def test_each_source_over_pairs_has_no_more_pairs_than_exist(networks: Pair, digits: Dataset, judge: Judge) -> None:
    few = with_train(digits, digits.train.head(40))
    audit = Audit(networks, few, n=N, seeds=2, effort=EFFORT, pairs=20, judge=judge)
    found = of_pairs(audit, (20, 5000, 6000), ("same",))
    assert [(row["point"], row["pairs"], row["source"]) for row in found["same"]] == [(20, 20, "same"), (40, 40, "same")]
    other = of_pairs(audit, (20, 30), ("noise", "other"))
    assert {source: [row["point"] for row in rows] for source, rows in other.items()} == {"noise": [20, 30], "other": [20, 30]}
    assert {row["source"] for row in other["noise"]} == {"noise"}


def test_a_curve_leaves_the_audits_seeds_and_sources_unchanged(audit: Audit) -> None:
    of_pairs(audit, (20,), ("noise",), seeds=1)
    row = audit.attack("perturbed", "undo")
    assert (row["source"], row["pairs"], row["seeds"]) == ("same", 60, 2)


@pytest.mark.parametrize(
    ("curve", "title", "attacked"),
    [
        (lambda audit: of_strength(audit, (0.0, 0.5, 1.0), seeds=2), "attack over strength", 3 * 2 * 64),
        (lambda audit: of_rate(audit, ("neural", "PNG")), "attack over bits", 2 * 64),
        (lambda audit: of_pairs(audit, (20, 100), ("same", "noise")), "attack over pairs", 2 * (64 + 100)),
    ],
)
@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.system
def test_a_curve_shows_a_bar_that_ends_at_its_end(
    curve: Callable[[Audit], object],
    title: str,
    attacked: int,
    judged: bool,
    audit: Audit,
    digits: Dataset,
    capsys: pytest.CaptureFixture[str],
) -> None:
    judge = audit.judge if judged else None
    made = Counted(audit.pair, digits, n=N, effort=EFFORT, judge=judge, progress=True)
    curve(made)
    assert made.counted == made.total == attacked + (0 if judged else judge_passes(EFFORT))
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{title}: 100%" in err.replace("\r", "\n").splitlines()[-1]


def test_a_curve_of_a_silent_audit_says_nothing(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    of_strength(audit, (0.5,))
    assert capsys.readouterr() == ("", "")


def test_the_figure_shows_all_strengths_and_no_ssim_above_one() -> None:
    def row(point: float, ssim: Estimate) -> dict[str, Any]:
        figures = {"psnr": Estimate(20.0, 19.0, 21.0, 9), "answered": metrics.wilson(9, 9)}
        return {"point": point, "ssim": ssim, **figures}

    near = Estimate(0.98, 0.86, 1.1, 9)  # a normal interval of few values may leave the range
    rows = [row(0.0, near), row(1.0, Estimate(0.2, 0.1, 0.3, 9))]
    axes = attack_curves(rows, rows[1], RECOGNISABLE, "digits").axes
    for axis in axes:
        low, high = axis.get_xlim()
        assert low < -0.03, "the marker at 0 is cut"
        assert high > 1.03, "the marker at 1 is cut"
        assert list(axis.get_xticks()) == [0, 0.25, 0.5, 0.75, 1]
    assert axes[1].get_ylim()[1] <= 1.02
    assert axes[0].get_ylim()[1] > 21


def test_the_curve_over_effort_shows_each_view_and_the_control() -> None:
    def row(view: str, passes: int, value: float) -> dict[str, Any]:
        return {"view": view, "effort": {"passes": passes}, "psnr": Estimate(value, value - 0.1, value + 0.1, 9)}

    rows = [row(view, passes, 13 + passes / 1e4) for passes in (2000, 4000) for view in ("perturbed", "payload")]
    (axis,) = attack_effort(rows, rows[0], "digits").axes
    assert [line.get_label() for line in axis.get_lines() if not line.get_label().startswith("_")] == [
        "perturbed",
        "payload",
        "class mean (control)",
    ]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["2,000", "4,000"]
