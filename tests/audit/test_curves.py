"""How an attacker's success moves: the points that were asked for, each an honest row with its price."""

from __future__ import annotations

import pytest
import torch

from workbench.audit import Audit, Effort
from workbench.audit.curves import CODECS, of_pairs, of_rate, of_strength
from workbench.audit.scores import Judge
from workbench.data import Dataset
from workbench.weights import Pair

N = 12


@pytest.fixture(scope="module")
def audit(networks: Pair, digits: Dataset) -> Audit:
    """A small audit."""
    judge = Judge(digits, 64, torch.device("cpu"))
    return Audit(networks, digits, n=N, seeds=2, effort=Effort(pairs=60, passes=64, width=4, steps=2), judge=judge)


def test_over_strength_each_point_is_a_row_at_that_strength_with_the_targets_answers(audit: Audit) -> None:
    rows = of_strength(audit, (0.0, 1.0))
    assert [(row["point"], row["strength"], row["view"]) for row in rows] == [(0.0, 0.0, "perturbed"), (1.0, 1.0, "perturbed")]
    assert all(row["seeds"] == 1 for row in rows)
    assert rows[0]["psnr"].value > 25, "what is not protected is there"
    right = audit.observed("perturbed").answers == audit.labels
    assert rows[1]["answered"].value == pytest.approx(float(right.float().mean()))
    undone, inverted = (audit.attack("perturbed", name, seeds=1)["psnr"].value for name in ("undo", "invert"))
    assert rows[1]["psnr"].value == pytest.approx(max(undone, inverted)), "the last point is the audit's own"


def test_over_bits_each_codec_has_its_rate_and_what_it_leaves_over_the_control(audit: Audit) -> None:
    names = ("neural", "JPEG q10", "PNG")
    rows = of_rate(audit, names)
    assert [row["point"] for row in rows] == list(names)
    bits = [row["bits"].value for row in rows]
    assert bits == sorted(bits)
    assert bits[0] == pytest.approx(float(audit.tap.bits(audit.images).mean()))
    control = audit.controls[0]["psnr"].value
    for row in rows:
        assert row["over"] == pytest.approx(row["psnr"].value - control)
        assert row["view"] == "decoded"
        assert 0 <= row["answered"].value <= 1
        assert row["noise"] == 0


def test_every_codec_of_the_curve_can_be_tapped(audit: Audit) -> None:
    for codec, options in CODECS.values():
        assert len(audit.tap_at(codec=codec, **options).observe(audit.images[:2], "decoded")) == 2


def test_over_pairs_each_source_has_its_rows_and_no_more_pairs_than_there_are(audit: Audit) -> None:
    found = of_pairs(audit, (20, 5000, 6000), ("same",))
    assert [(row["point"], row["pairs"], row["source"]) for row in found["same"]] == [(20, 20, "same"), (1077, 1077, "same")]
    other = of_pairs(audit, (20, 30), ("noise", "other"))
    assert {source: [row["point"] for row in rows] for source, rows in other.items()} == {"noise": [20, 30], "other": [20, 30]}
    assert {row["source"] for row in other["noise"]} == {"noise"}


def test_the_seeds_and_sources_of_a_curve_do_not_become_the_audits_own(audit: Audit) -> None:
    of_pairs(audit, (20,), ("noise",), seeds=1)
    row = audit.attack("perturbed", "undo")
    assert (row["source"], row["pairs"], row["seeds"]) == ("same", 60, 2)
