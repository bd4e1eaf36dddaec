"""Attackers in parallel: each has the same result as alone, and if one fails, all end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial

import pytest
import torch

from tests.support.audits import TINY
from workbench.audit import Audit
from workbench.audit.crew import Attempt, run_parallel
from workbench.audit.networks import seeded
from workbench.audit.scores import Judge
from workbench.audit.views import KEPT, Kept
from workbench.data import Dataset
from workbench.weights import Pair

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Watched(Audit):
    def tick(self, images: int) -> None:
        self.threads.add((threading.current_thread().name, torch.get_num_threads()))
        super().tick(images)

    threads: set[tuple[str, int]]


@pytest.mark.system
def test_attackers_in_parallel_get_what_they_get_in_turn(lively: Pair, digits: Dataset) -> None:
    judge = Judge(digits, 64, CPU)
    attempts = [
        Attempt("perturbed", ("undo", "invert", "prior", "read", "retrain", "replay")),
        Attempt("payload", ("invert", "prior", "optimise", "replay")),
        Attempt("perturbed", source="noise", pairs=40, seeds=1),
    ]
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        made = Watched(lively, digits, n=12, seeds=2, effort=TINY, judge=judge)  # a new one, because an audit keeps its figures
        made.threads = set()
        try:
            found.append((made.tried(attempts), made.threads))
        finally:
            assert torch.get_num_threads() == count
            torch.set_num_threads(1)
    (alone, one), (together, two) = found
    assert alone == together, "equal bits, although the retrained model has dropout and the critic has random initial weights"
    assert one == {("MainThread", 1)}
    assert two == {("attacker_0", 1), ("attacker_1", 1)}


@pytest.mark.usefixtures("two_threads")
def test_where_one_fails_the_others_end_and_no_other_starts() -> None:
    stop, started, ended = threading.Event(), threading.Event(), []

    def works() -> None:
        started.set()
        assert stop.wait(30)
        ended.append(torch.get_num_threads())
        raise CancelledError

    def fails() -> None:
        assert started.wait(30)
        raise ValueError("it fails")

    def never() -> None:
        ended.append(0)

    with pytest.raises(ValueError, match="it fails"):
        run_parallel([works, fails, never, never], CPU, stop)
    assert ended == [1]
    assert not stop.is_set(), "who goes on is not ended by what is over"
    assert torch.get_num_threads() == 2
    assert not [each for each in threading.enumerate() if each.name.startswith("attacker")]


@pytest.mark.usefixtures("two_threads")
def test_what_they_return_comes_in_their_order() -> None:
    second = threading.Event()

    def first() -> int:
        assert second.wait(30)
        return 1

    def other() -> int:
        second.set()
        return 2

    assert run_parallel([first, other], CPU, threading.Event()) == [1, 2]
    assert run_parallel([], CPU, threading.Event()) == []


@pytest.mark.usefixtures("two_threads")
def test_what_is_drawn_from_a_seed_no_other_thread_changes() -> None:
    def draw(seed: int) -> list[float]:
        drawn = []
        for _ in range(20):
            with seeded(seed):
                drawn += [float(torch.rand(())) for _ in range(20)]
        return drawn

    found = run_parallel([partial(draw, seed) for seed in (1, 2, 1, 2)], CPU, threading.Event())
    assert found[0] == found[2] == found[0][:20] * 20
    assert found[1] == found[3] != found[0]


@pytest.mark.usefixtures("two_threads")
def test_what_two_ask_for_is_made_once_and_an_error_is_not_kept() -> None:
    kept: Kept[int] = Kept()
    asked, made = threading.Barrier(2), []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    def ask() -> int:
        asked.wait(30)
        return kept.get("this", make)

    assert run_parallel([ask, ask], CPU, threading.Event()) == [0, 0]
    assert made == [0]

    def fail() -> int:
        raise ValueError("it cannot be made")

    with pytest.raises(ValueError, match="it cannot be made"):
        kept.get("that", fail)
    assert kept.get("that", make) == 1
    for number in range(KEPT):
        kept.get(number, make)
    assert kept.get("this", make) == made[-1] == KEPT + 2, "only the last few are kept"
