"""Classifiers that no training saw recognise unprotected pictures, and the audit's result has them on request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.audits import TINY, Counted
from workbench.audit import Audit
from workbench.audit.scores import Judge
from workbench.audit.unseen import allowed_unseen, unseen_cost, unseen_rows
from workbench.classifiers import CLASSIFIER_NAMES
from workbench.data import Dataset
from workbench.weights import Pair


@pytest.mark.system
def test_an_unseen_classifier_reads_open_pictures(networks: Pair, digits: Dataset) -> None:
    made = Audit(networks, digits, codec="png", strength=0.0, n=60, effort=replace(TINY, passes=2000))
    (row,) = unseen_rows(made, 1)
    assert row["classifier"] in set(CLASSIFIER_NAMES) - {networks.target.name, networks.auxiliary.name}
    assert row["originals"].low > 0.3
    assert abs(row["perturbed"].value - row["originals"].value) < 0.1
    assert row["perturbed"].n == 60


@pytest.mark.system
def test_the_result_has_unseen_classifiers_on_request(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Counted(networks, digits, codec="png", n=12, seeds=1, effort=TINY, judge=judge)
    result = made.result(("perturbed",), ("undo",), unseen=1)
    (row,) = result["unseen"]
    assert set(row) == {"classifier", "width", "originals", "perturbed", "decoded", "allowed", "holds"}
    assert row["holds"] == {view: row[view].high <= allowed_unseen(10) for view in ("perturbed", "decoded")}
    assert not row["holds"]["perturbed"], "12 pictures leave more than 15 % open"
    assert made.counted == made.total >= unseen_cost(TINY, 1)
