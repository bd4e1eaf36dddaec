"""Run attackers with several seeds, and compare their results with the controls.

A view is the data that an attacker observes at one point of the system, such as the payload. An observer simulates the system
and returns the observations of a view. A control is a guess without observation. An attempt is a list of attackers to run on
one view (`Attempt`). A row is a dict with the metrics of one attacker on one view.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import Dataset
from ..errors import DataError, UsageError
from ..metrics import Estimate, psnr, ssim
from ..pictures import to_float
from ..training.adversary import class_means
from ..weights import Pair
from .attackers import ATTACKERS
from .contract import EFFORTS, Attacker, Effort
from .crew import Attempt, run_parallel
from .figures import Figures
from .reconstruct import FromInversion, Inversion
from .scores import FIGURES, SHARES, Judge, across, identified, score
from .views import Observed, Observer, Pairs, pairs_of

__all__ = ["Attempts", "best_of"]


def _check_classes(labels: Tensor, dataset: Dataset) -> None:
    present = {int(each) for each in labels}
    if len(present) == len(labels):
        raise DataError(f"an audit compares test pictures of one class, and the {len(labels)} of {dataset.title} have one each")
    for label in sorted(present.difference(dataset.train.labels.tolist())):
        raise DataError(
            f"the class {dataset.classes[label]!r} of {dataset.title} has test pictures, and no training picture from which an "
            "attacker could learn it: add some, or leave the class out"
        )


class Attempts:
    """Runs attackers on the test images of a data set, for one configuration of the system.

    The configuration is `pair` (the system's networks), `codec`, `strength` (of the perturbation) and `rate` (of the codec).
    The first `n` test images are attacked, or all if there are fewer. Slow attackers attack at most `Attacker.most` of them.

    Each attacker runs with `seeds` seeds, and each metric is a mean over images and seeds. `pairs` is the number of pictures
    that an attacker learns from, and `source` selects these pictures (see `pairs_of`). By default the number is `effort.pairs`,
    but at most the size of the training split.

    `judge` is the classifier that scores guesses. A judge of another audit of the same data set may be reused. If `folder` is
    given, metrics are also stored there (see `Figures`). Raises UsageError for an unknown or impossible setting, and DataError
    if the source `same` has fewer than `pairs` pictures.
    """

    def __init__(
        self,
        pair: Pair,
        dataset: Dataset,
        *,
        codec: str = "neural",
        strength: float = 1.0,
        rate: float | None = None,
        n: int = 1000,
        seeds: int = 3,
        effort: Effort = EFFORTS["quick"],
        pairs: int | None = None,
        source: str = "same",
        device: str = "cpu",
        progress: bool = False,
        judge: Judge | None = None,
        folder: Path | None = None,
    ) -> None:
        if pair.target.num_classes != len(dataset.classes):
            raise UsageError(
                f"the weights tell {pair.target.num_classes} classes apart, {dataset.title} has {len(dataset.classes)}"
            )
        if n < 2 or seeds < 1:
            raise UsageError(f"an audit needs at least 2 images and 1 seed, got {n} and {seeds}")
        if pairs is not None and source == "same" and pairs > len(dataset.train):  # fail before minutes of work
            raise DataError(f"{pairs} pairs were requested, the training split of {dataset.title} has {len(dataset.train)}")
        self.pair, self.dataset, self.codec, self.strength = pair, dataset, codec, strength
        self.seeds, self.device, self.progress = seeds, torch.device(device), progress
        self.source = source
        self.effort = effort.of(min(effort.pairs, len(dataset.train)) if pairs is None else pairs)
        split = dataset.test.head(n)
        self.images, self.labels = to_float(split.images), split.labels
        _check_classes(self.labels, dataset)
        self._size = (int(self.images.shape[-2]), int(self.images.shape[-1]))
        self._options: dict[str, Any] = {} if rate is None else {"rate": rate}
        self.observer = Observer(pair, codec, self._size, strength, device, **self._options)
        self.guesses: dict[tuple[str, str], Tensor] = {}  # guesses of the first seed for display, by view and attacker
        self._protected: dict[float, Tensor] = {}
        self._observed: WeakKeyDictionary[Observer, dict[str, Observed]] = WeakKeyDictionary()
        self._figures = Figures(folder)
        self._bar: tqdm[Any] | None = None
        self._stop, self._telling = threading.Event(), threading.Lock()
        if judge is not None:
            self.judge = judge

    def observer_at(self, strength: float | None = None, codec: str | None = None, **options: Any) -> Observer:
        """Return an observer of the audit's networks with another strength or codec. None keeps the audit's value.

        `options` are passed to the codec.
        """
        options = (self._options if codec in (None, self.codec) else {}) | options
        at, codec = self.strength if strength is None else strength, codec or self.codec
        made = Observer(self.pair, codec, self._size, at, str(self.device), like=self.observer, **options)
        return self.observer if made.settings == self.observer.settings else made

    def observed(self, view: str, observer: Observer | None = None) -> Observed:
        """Return the observations of the test images in a view. Results are cached.

        `observer` defaults to the audit's own. All views share one pass of the images through the edge.
        """
        observer = observer or self.observer
        kept = self._observed.setdefault(observer, {})
        if view not in kept:
            kept[view] = observer.show(self.protected(observer), view)
        return kept[view]

    def protected(self, observer: Observer) -> Tensor:
        """Return the test images after protection at the observer's strength (N x 3 x H x W).

        The codec does not affect the result, so there is one cached result for each strength.
        """
        if observer.strength not in self._protected:
            self._protected[observer.strength] = observer.protect(self.images)
        return self._protected[observer.strength]

    # --- rows --------------------------------------------------------------------------------------------------------------

    def attack(self, view: str, attacker: str, **how: Any) -> dict[str, Any]:
        """Run one attacker on a view, and return its row. `how` are further fields of `Attempt`."""
        return self.rows(view, [attacker], **how)[0]

    def rows(self, view: str, attackers: Sequence[str], **how: Any) -> list[dict[str, Any]]:
        """Run attackers on a view, and return one row for each attacker. `how` are further fields of `Attempt`."""
        return self.tried([Attempt(view, attackers, **how)])[0]

    def best(self, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
        return [best_of(rows) for rows in self.tried(attempts)]

    def tried(self, attempts: Sequence[Attempt]) -> list[list[dict[str, Any]]]:
        """Run attempts in parallel. Return one list for each attempt, with one row for each of its attackers."""
        self._control  # noqa: B018
        for attempt in attempts:  # compute the shared inputs of all seeds before the threads start
            self.observed(attempt.view, attempt.observer)
            (attempt.observer or self.observer).quick  # noqa: B018
            if any(ATTACKERS[name].guesses == "picture" for name in attempt.attackers):
                self.judge  # noqa: B018
        plan = [(number, seed) for number, each in enumerate(attempts) for seed in range(each.seeds or self.seeds)]
        found = run_parallel([partial(self._try_all, attempts[number], seed) for number, seed in plan], self.device, self._stop)
        by_seed: list[list[dict[str, dict[str, Tensor]]]] = [[] for _ in attempts]
        for (number, _), values in zip(plan, found, strict=True):
            by_seed[number].append(values)
        return [self._rows(*each) for each in zip(attempts, by_seed, strict=True)]

    def _rows(self, attempt: Attempt, by_seed: list[dict[str, dict[str, Tensor]]]) -> list[dict[str, Any]]:
        replays = {"source": "the pictures themselves", "pairs": len(self.images), "sends": self._sends}
        learns = {"source": attempt.source or self.source, "pairs": attempt.pairs or self.effort.pairs}
        return [
            {
                "view": attempt.view,
                "attacker": name,
                "knows": ATTACKERS[name].knows,
                **(replays if name == "replay" else learns),
                "strength": (attempt.observer or self.observer).strength,
                "seeds": len(by_seed),
                **{key: across([values[name][key] for values in by_seed], key in SHARES) for key in by_seed[0][name]},
                "over_control": self._over([values[name] for values in by_seed]),
            }
            for name in attempt.attackers
        ]

    @property
    def _sends(self) -> int:
        return self.effort.sends if self.pair.generator.noise else 1

    def _over(self, by_seed: list[dict[str, Tensor]]) -> dict[str, Estimate]:
        gains = {
            key: across([values[key] - control[: len(values[key])] for values in by_seed])
            for key, control in self._control.items()
            if key in by_seed[0]
        }
        if "identified" in by_seed[0]:
            mine = across([values["identified"] for values in by_seed], share=True)
            chance = float(self.by_label[: mine.n].mean())
            gains["identified"] = Estimate(mine.value / chance, mine.low / chance, mine.high / chance, mine.n)
        return gains

    @cached_property
    def _control(self) -> dict[str, Tensor]:
        guess = self.means[self.labels]
        return {"psnr": psnr(self.images, guess).clamp(max=100), "ssim": ssim(self.images, guess)}

    def _try_all(self, attempt: Attempt, seed: int) -> dict[str, dict[str, Tensor]]:
        view, source, observer = attempt.view, attempt.source or self.source, attempt.observer or self.observer
        effort = self.effort if attempt.pairs is None else self.effort.of(attempt.pairs)
        run = (view, source, *observer.settings, effort, seed)
        missing = [name for name in attempt.attackers if (*run, name) not in self._figures]
        self.tick(self._cost(attempt.attackers, effort) - self._cost(missing, effort))
        if missing:
            for name, figures in self._run(missing, view, source, observer, effort, seed):
                # The generator's noise in a replay depends on earlier sends, so replays are not stored for other processes.
                self._figures.add((*run, name), figures, to_folder=ATTACKERS[name].guesses != "which")
        return {name: self._figures[(*run, name)] for name in attempt.attackers}

    def _run(
        self, names: Sequence[str], view: str, source: str, observer: Observer, effort: Effort, seed: int
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        own = observer is self.observer and source == self.source and effort == self.effort
        learnt, observed = pairs_of(observer, self.dataset, view, effort.pairs, source, seed), self.observed(view, observer)
        base: Inversion | None = None
        if any(issubclass(ATTACKERS[name], Inversion | FromInversion) for name in names):
            base = Inversion(observer, effort, seed, self.tick)
            base.fit(learnt)
        for name in names:
            kind, options = ATTACKERS[name], (observer, effort, seed, self.tick)
            if name == "invert" and base is not None:
                attacker: Attacker = base
            else:
                attacker = kind(*options, base) if issubclass(kind, FromInversion) else kind(*options)
            if attacker is not base and attacker.guesses != "which":
                attacker.fit(learnt)
            yield name, self._try(attacker, observed, (view, name) if seed == 0 and own else None)

    def _try(self, attacker: Attacker, observed: Observed, keep: tuple[str, str] | None) -> dict[str, Tensor]:
        if attacker.guesses == "which":
            # Without a random component, another send gives the same view.
            draws = attacker.observer.pair.generator.noise > 0
            known = attacker.observer.observe(self.images, observed.view) if draws else observed
            attacker.fit(Pairs(known, self.images, self.labels))
            return {"identified": identified(attacker.guess(observed))}
        guess = attacker.guess(observed[: attacker.most])
        if attacker.guesses == "class":
            return {"read": (guess.argmax(1) == self.labels).float()}
        if keep:
            self.guesses[keep] = guess
        return score(guess, self.images, self.labels, self.judge)

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.dataset, judge_passes(self.effort), self.device, self.tick, self.effort.reader)

    @cached_property
    def means(self) -> Tensor:
        """The mean training image of each class, K x 3 x H x W."""
        return class_means(self.dataset.train, len(self.dataset.classes))

    @cached_property
    def controls(self) -> list[dict[str, Any]]:
        """The rows of the two controls: the mean image of the true class, and a random training image of that class."""
        mean = self.means[self.labels]
        self.guesses["control", "class mean"] = mean
        drawn = []
        for seed in range(self.seeds):
            random, rows = torch.Generator().manual_seed(seed), torch.empty(len(self.labels), dtype=torch.int64)
            for label in range(len(self.dataset.classes)):
                of_class, here = (self.dataset.train.labels == label).nonzero()[:, 0], self.labels == label
                rows[here] = of_class[torch.randint(len(of_class), (int(here.sum()),), generator=random)]
            drawn.append(to_float(self.dataset.train.images[rows]))
        self.guesses["control", "training image"] = drawn[0]
        rows_ = []
        for name, guesses in (("class mean", [mean]), ("training image", drawn)):
            values = [score(each, self.images, self.labels, self.judge) for each in guesses]
            figures = {key: across([each[key] for each in values], key in SHARES) for key in FIGURES}
            rows_.append({"view": "control", "attacker": name, "knows": "the true label", "seeds": len(guesses), **figures})
        rows_[0]["identified"] = across([self.by_label], share=True)  # chance of a random picture of the class
        return rows_

    @property
    def by_label(self) -> Tensor:
        """For each of N test pictures, the probability that a random test picture of the same class is this picture."""
        return 1 / (self.labels[:, None] == self.labels[None]).sum(1)

    # --- progress ----------------------------------------------------------------------------------------------------------

    def tick(self, images: int) -> None:
        """Advance the progress bar by `images`. Raises CancelledError if another attacker has failed."""
        if self._stop.is_set():
            raise CancelledError
        with self._telling:
            if self._bar is not None:
                self._bar.update(images)

    @contextmanager
    def showing(self, title: str, passes: int) -> Iterator[None]:
        """Show a progress bar of `passes` images inside the context, if progress is enabled. `title` is the bar's label.

        If the judge is not trained yet, the bar also counts the images of the judge's training.
        """
        total = passes + (0 if "judge" in vars(self) else judge_passes(self.effort))
        self._bar = tqdm(
            total=total,
            desc=title,
            unit="image",
            unit_scale=True,
            disable=not self.progress,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None

    def _cost(self, names: Sequence[str], effort: Effort) -> int:
        made = [ATTACKERS[name](self.observer, effort) for name in names]
        shared = sum(isinstance(each, FromInversion | Inversion) for each in made)
        n = len(self.images)
        return sum(each.cost(min(n, each.most or n)) for each in made) - max(0, shared - 1) * effort.passes


def best_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row with the highest PSNR gain over the control.

    The gain is comparable between rows with different pictures. The PSNR is not.
    """
    return max(rows, key=lambda row: row["over_control"]["psnr"].value)


def judge_passes(effort: Effort) -> int:
    """Return the number of images that train the judge, repeats included: twice `effort.passes`, at most 60,000."""
    return min(2 * effort.passes, 60_000)
