"""Membership by RMIA: scores against hand-computed figures, the rate at few false positives, and shadow generators."""

from __future__ import annotations

import pytest
import torch

from tests.support.audits import Counted, with_train
from workbench.audit import Audit, Effort
from workbench.audit.membership import Shadow, rmia, true_positives
from workbench.audit.scores import Judge
from workbench.data import Dataset
from workbench.errors import DataError, UsageError
from workbench.weights import Pair

CPU = torch.device("cpu")
EFFORT = Effort(pairs=60, passes=64, width=4, steps=2, reader=8)


def test_the_score_is_the_share_of_references_with_lower_ratio() -> None:
    # p(x) = (1.3 out + 0.7) / 2: out = 1 gives 1, out = 0.5 gives 0.675
    audited, shadows = torch.tensor([0.9, 0.9, 0.2]), torch.tensor([[1.0, 0.5, 1.0], [1.0, 0.5, 1.0]])
    references, of_references = torch.tensor([0.1, 0.5, 0.9, 1.0]), torch.ones(2, 4)
    # ratios 0.9, 1.33 and 0.2 against 0.1, 0.5, 0.9 and 1.0
    assert rmia(audited, shadows, references, of_references).tolist() == [0.625, 1.0, 0.25]


def test_what_every_generator_is_sure_of_shows_no_membership() -> None:
    """By confidence alone an easy picture looks like a member. RMIA compares with generators that did not see it."""
    easy, hard = rmia(
        torch.tensor([0.99, 0.7]), torch.tensor([[0.99, 0.2]]), torch.linspace(0.5, 1, 50), torch.full((1, 50), 0.8)
    )
    assert hard > easy


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (torch.arange(1000.0), 0.5),  # one false positive in 1,000 is allowed: the threshold is 998
        (torch.arange(999.0), 0.5),  # none is allowed: the threshold is 998
        (torch.full((2000,), 5.0), 1.0),
    ],
)
def test_the_rate_is_that_at_a_thousandth_of_false_positives(others: torch.Tensor, expected: float) -> None:
    members = torch.tensor([998.5, 998.0, 2000.0, 6.0]) if expected == 0.5 else torch.tensor([6.0, 7.0])
    found = true_positives(members, others)
    assert found.value == expected
    assert found.low < found.value or expected == 1.0
    assert found.n == len(members)
    with pytest.raises(UsageError, match="needs scores on both sides, got 4 and 0|got 2 and 0"):
        true_positives(members, others[:0])


def test_a_shadows_classifiers_see_no_picture_of_its_generator(digits: Dataset) -> None:
    own = digits.train.head(90)
    ticks: list[int] = []
    shadow, again = (Shadow(own, 10, EFFORT, 3, CPU, ticks.append) for _ in range(2))
    assert sorted(torch.cat(shadow.rows).tolist()) == list(range(90))
    assert sum(ticks) == 2 * Shadow.cost(EFFORT)
    images, labels = torch.rand(5, 3, 32, 32), torch.tensor([0, 1, 2, 3, 4])
    found = shadow.confidence(images, labels)
    assert found.shape == (5,)
    assert ((found > 0) & (found < 1)).all()
    assert torch.equal(found, again.confidence(images, labels)), "the same seed, the same shadow"
    with pytest.raises(UsageError, match="at least 3 pictures of the attacker's own, got 2"):
        Shadow(digits.train.head(2), 10, EFFORT, 0, CPU)


def test_members_are_training_images_that_no_shadow_saw(networks: Pair, digits: Dataset, judge: Judge) -> None:
    few = with_train(digits, digits.train.head(130))
    made = Audit(networks, few, codec="png", n=60, seeds=1, effort=EFFORT, judge=judge)
    found = made.linkage.members_by_rmia("perturbed", shadows=2)
    assert 0 <= found["area"].low <= found["area"].value <= found["area"].high <= 1
    assert found["area"].n == 120
    assert found["true_positives"].n == 60
    assert (found["false_positives"], found["shadows"]) == (0.001, 2)
    made.images = torch.zeros(128, 3, 32, 32)
    with pytest.raises(DataError, match="of 128 images needs at least 136 training images, .* has 130: audit"):
        made.linkage.members_by_rmia("perturbed")


@pytest.mark.system
def test_shadows_are_in_the_result_and_in_the_progress_bar(networks: Pair, digits: Dataset, judge: Judge) -> None:
    made = Counted(networks, digits, codec="png", n=12, seeds=1, effort=EFFORT, judge=judge)
    result = made.result(("perturbed", "label"), ("undo", "invert"), shadows=2)
    assert set(result["membership_rmia"]) == {"perturbed"}
    assert made.counted == made.total > 2 * Shadow.cost(EFFORT)
