"""The audit of one pair: every attacker on every view, the controls, linking and membership."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..data import Dataset, Split
from ..errors import DataError, UsageError
from ..evaluation import describe, origin
from ..metrics import Estimate, psnr, ssim
from ..pictures import to_float
from ..system import Client
from ..training.adversary import class_means
from ..weights import Pair
from .attackers import ATTACKERS, Attacker, Effort, FromInversion, Inversion
from .contract import PICTURE_VIEWS
from .crew import Attempt, run_parallel
from .membership import FALSE_POSITIVES, Shadow, rmia, true_positives
from .scores import FIGURES, RECOGNISABLE, SHARES, Judge, across, area, identified, score
from .verdict import verdict
from .views import VIEWS, Observed, Observer, Pairs, pairs_of

__all__ = ["EFFORTS", "Audit"]

# `trial`: seconds, to check that everything runs; its figures mean nothing. `brief`: a notebook's, minutes with its curves; a
# lower bound. `quick`: one pair in minutes on 2 cores; a lower bound. `full`: an hour and more. `Audit.converge` doubles any of
# them until the attackers stop gaining. The white box's steps are as many passes over 1,000 pictures as the others' training.
EFFORTS = {
    "trial": Effort(pairs=120, passes=240, width=4, steps=2, sends=4),
    "brief": Effort(pairs=1000, passes=2000, width=8, steps=5),
    "quick": Effort(pairs=5000, passes=8000, width=12, steps=8),
    "full": Effort(pairs=20_000, passes=60_000, width=16, steps=60),
}
GAIN = 0.1  # dB: attackers that gain less from twice the effort have converged
DOUBLINGS = 6  # at most
SHADOWS = 4  # generators of the membership test
POOLED = (1, 2, 4, 8, 16)  # sides of the squares over which a linking attacker averages


class Audit:
    """What attackers recover of the test images of a data set, from a pair with a codec, at a strength and a rate.

    `n` is the number of images, or all if there are fewer. Each attacker runs with `seeds` seeds and learns from `pairs` of a
    `source` (None: the effort's, as far as the training split has so many). Figures are means over images and seeds. A `judge`
    of another audit of the same data set is used as it is. Raises UsageError for an unknown or impossible setting.
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
    ) -> None:
        if pair.target.num_classes != len(dataset.classes):
            raise UsageError(
                f"the weights tell {pair.target.num_classes} classes apart, {dataset.title} has {len(dataset.classes)}"
            )
        if n < 2 or seeds < 1:
            raise UsageError(f"an audit needs at least 2 images and 1 seed, got {n} and {seeds}")
        if pairs is not None and source == "same" and pairs > len(dataset.train):  # before minutes of work, not after
            raise DataError(f"{pairs} pairs were asked for, the training split of {dataset.title} has {len(dataset.train)}")
        self.pair, self.dataset, self.codec, self.strength = pair, dataset, codec, strength
        self.seeds, self.device, self.progress = seeds, torch.device(device), progress
        self.source = source
        self.effort = effort.of(min(effort.pairs, len(dataset.train)) if pairs is None else pairs)
        split = dataset.test.head(n)
        self.images, self.labels = to_float(split.images), split.labels
        self._size = (int(self.images.shape[-2]), int(self.images.shape[-1]))
        self._options: dict[str, Any] = {} if rate is None else {"rate": rate}
        self.observer = Observer(pair, codec, self._size, strength, device, **self._options)
        self.guesses: dict[tuple[str, str], Tensor] = {}  # pictures of the first seed, to look at
        self.best_rows: dict[str, dict[str, Any]] = {}  # of `result`, by view
        self.effort_curve: list[dict[str, Any]] = []
        self.converged: bool | None = None  # unknown until `converge`
        self._protected: dict[float, Tensor] = {}
        self._pooled: dict[str, int] = {}
        self._shadows: list[Shadow] = []
        self._observed: WeakKeyDictionary[Observer, dict[str, Observed]] = WeakKeyDictionary()
        self._bar: tqdm[Any] | None = None
        self._stop, self._telling = threading.Event(), threading.Lock()
        if judge is not None:
            self.judge = judge

    def observer_at(self, strength: float | None = None, codec: str | None = None, **options: Any) -> Observer:
        """Return the same observer at another strength, or with another codec and its `options`, such as a rate."""
        at = self.strength if strength is None else strength
        options = (self._options if codec in (None, self.codec) else {}) | options
        return Observer(self.pair, codec or self.codec, self._size, at, str(self.device), like=self.observer, **options)

    def observed(self, view: str, observer: Observer | None = None) -> Observed:
        """Return a view of the test images, which pass through the edge once for all views."""
        observer = observer or self.observer
        kept = self._observed.setdefault(observer, {})
        if view not in kept:
            kept[view] = observer.show(self.protected(observer), view)
        return kept[view]

    def protected(self, observer: Observer) -> Tensor:
        """Return the protected test images at an observer's strength; the codec does not change them."""
        if observer.strength not in self._protected:
            self._protected[observer.strength] = observer.protect(self.images)
        return self._protected[observer.strength]

    # --- rows --------------------------------------------------------------------------------------------------------------

    def attack(self, view: str, attacker: str, **how: Any) -> dict[str, Any]:
        """Run one attacker on a view; return its row: the view, the attacker, its pairs, and every figure as an Estimate."""
        return self.rows(view, [attacker], **how)[0]

    def rows(self, view: str, attackers: Sequence[str], **how: Any) -> list[dict[str, Any]]:
        """Run attackers on a view, each with every seed, and return a row of each; `how` is an `Attempt`'s."""
        return self.tried([Attempt(view, attackers, **how)])[0]

    def best(self, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
        """Return the row of highest PSNR of each attempt."""
        return [_best(rows) for rows in self.tried(attempts)]

    def tried(self, attempts: Sequence[Attempt]) -> list[list[dict[str, Any]]]:
        """Return the rows of each attempt; attempts and seeds run in parallel."""
        self._control  # noqa: B018
        for attempt in attempts:  # what all seeds share
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
        """Return a row of each attacker from its figures, by seed."""
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
        """How often `replay` sends each known picture."""
        return self.effort.sends if self.pair.generator.noise else 1

    def _over(self, by_seed: list[dict[str, Tensor]]) -> dict[str, Estimate]:
        """Return an attacker's gain over the control, paired by picture: differences, and for `identified` the ratio."""
        gains = {
            key: across([values[key] - control for values in by_seed])
            for key, control in self._control.items()
            if key in by_seed[0]
        }
        if "identified" in by_seed[0]:
            mine, chance = across([values["identified"] for values in by_seed], share=True), float(self.by_label.mean())
            gains["identified"] = Estimate(mine.value / chance, mine.low / chance, mine.high / chance, mine.n)
        return gains

    @cached_property
    def _control(self) -> dict[str, Tensor]:
        """The control's PSNR and SSIM of each picture."""
        guess = self.means[self.labels]
        return {"psnr": psnr(self.images, guess).clamp(max=100), "ssim": ssim(self.images, guess)}

    def _try_all(self, attempt: Attempt, seed: int) -> dict[str, dict[str, Tensor]]:
        """Run an attempt's attackers with one seed; return the figures of each."""
        view, source, observer = attempt.view, attempt.source or self.source, attempt.observer or self.observer
        effort = self.effort if attempt.pairs is None else self.effort.of(attempt.pairs)
        own = observer is self.observer and source == self.source and attempt.pairs is None
        learnt, observed = pairs_of(observer, self.dataset, view, effort.pairs, source, seed), self.observed(view, observer)
        base: Inversion | None = None
        if any(issubclass(ATTACKERS[name], Inversion | FromInversion) for name in attempt.attackers):
            base = Inversion(observer, effort, seed, self._tick)
            base.fit(learnt)
        figures = {}
        for name in attempt.attackers:
            attacker = self._made(name, observer, effort, seed, base)
            if attacker is not base and attacker.guesses != "which":
                attacker.fit(learnt)
            figures[name] = self._try(attacker, observed, (view, name) if seed == 0 and own else None)
        return figures

    def _made(self, name: str, observer: Observer, effort: Effort, seed: int, base: Inversion | None) -> Attacker:
        if name == "invert" and base is not None:
            return base
        kind = ATTACKERS[name]
        if issubclass(kind, FromInversion):
            return kind(observer, effort, seed, self._tick, base)
        return kind(observer, effort, seed, self._tick)

    def _try(self, attacker: Attacker, observed: Observed, keep: tuple[str, str] | None) -> dict[str, Tensor]:
        if attacker.guesses == "which":
            known = attacker.observer.observe(self.images, observed.view)
            attacker.fit(Pairs(known, self.images, self.labels))
            return {"identified": identified(attacker.guess(observed))}
        guess = attacker.guess(observed)
        if attacker.guesses == "class":
            return {"read": (guess.argmax(1) == self.labels).float()}
        if keep:
            self.guesses[keep] = guess
        return score(guess, self.images, self.labels, self.judge)

    @cached_property
    def judge(self) -> Judge:
        """The network that judges reconstructions."""
        return Judge(self.dataset, judge_passes(self.effort), self.device, self._tick)

    @cached_property
    def means(self) -> Tensor:
        """The mean training image of each class."""
        return class_means(self.dataset.train, len(self.dataset.classes))

    @cached_property
    def controls(self) -> list[dict[str, Any]]:
        """Return the guesses that need no view: the mean image of the true class, and a random training image of it."""
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
        rows_[0]["identified"] = across([self.by_label], share=True)  # a picture of the class by lot
        return rows_

    @property
    def by_label(self) -> Tensor:
        """The chance of naming the right picture among the known ones from its class alone (N)."""
        return 1 / (self.labels[:, None] == self.labels[None]).sum(1)

    # --- linking and membership --------------------------------------------------------------------------------------------

    def linked(self, view: str) -> Estimate:
        """Return how well two captures of one picture are distinguished from two pictures of its class (area under ROC).

        The second capture is shifted by a pixel, 5 % brighter, and a JPEG of quality 70. The score is minus the distance of the
        two observations, averaged over squares of `pooled(view)` pixels: a low-pass distance ignores the generator's noise.
        """
        second = self.observer.show(self._second_protected, view)
        return self._linked(self.observed(view).seen, second.seen, self.labels, self.pooled(view))

    def pooled(self, view: str) -> int:
        """Return the side of the squares that separates captures best on as many of the attacker's own pictures."""
        if view not in self._pooled:
            own, observer = self.dataset.train.head(len(self.labels)), self.observer.quick
            images = to_float(own.images)
            first, second = observer.observe(images, view), observer.observe(_second_captures(images), view)
            sides = POOLED if first.pictures else (1,)
            areas = {side: self._linked(first.seen, second.seen, own.labels, side).value for side in sides}
            self._pooled[view] = max(areas, key=lambda side: areas[side])
        return self._pooled[view]

    def _linked(self, first: Tensor, second: Tensor, labels: Tensor, side: int) -> Estimate:
        first, second = (F.avg_pool2d(each, side).flatten(1) if side > 1 else each.flatten(1) for each in (first, second))
        random = torch.Generator().manual_seed(0)
        other = torch.arange(len(labels))
        for label in range(len(self.dataset.classes)):
            rows = (labels == label).nonzero()[:, 0]
            if len(rows) > 1:  # each is compared with the next of its class, in random order
                rows = rows[torch.randperm(len(rows), generator=random)]
                other[rows] = rows.roll(1)
        alone = other == torch.arange(len(other))
        same = -(first - second).square().sum(1)
        different = -(first - second[other]).square().sum(1)[~alone]
        return area(same, different)

    def members_by_rmia(self, view: str, shadows: int = SHADOWS) -> dict[str, Any]:
        """Return how well RMIA tells the generator's training images from new ones: area under ROC, and true positives.

        `true_positives` is their rate at 0.1 % false positives. The shadows learn from training images that are not among the
        candidates, half of the others are reference pictures. Raises DataError if too few training images are left.
        """
        order = torch.randperm(len(self.dataset.train), generator=torch.Generator().manual_seed(0))
        candidates, rows = order[: len(self.images)], order[len(self.images) :]
        if len(rows) < 8:
            raise DataError(
                f"shadow generators need training images besides the {len(self.images)} candidates, "
                f"{self.dataset.title} has {len(rows)} more: audit fewer images"
            )
        train, half = self.dataset.train, len(rows) // 2
        own, others = (Split(train.images[part], train.labels[part]) for part in (rows[half:], rows[:half]))
        if len(self._shadows) != shadows:
            classes = len(self.dataset.classes)
            self._shadows = [Shadow(own, classes, self.effort, seed, self.device, self._tick) for seed in range(shadows)]
        observer = self.observer.quick

        def confidences(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            audited = self._confidence(observer.observe(images, view), labels)
            return audited, torch.stack([shadow.confidence(images, labels) for shadow in self._shadows])

        references = confidences(to_float(others.images), others.labels)
        inside = rmia(*confidences(to_float(train.images[candidates]), train.labels[candidates]), *references)
        outside = rmia(*confidences(self.images, self.labels), *references)
        return {
            "area": area(inside, outside),
            "true_positives": true_positives(inside, outside),
            "false_positives": FALSE_POSITIVES,
            "shadows": shadows,
        }

    def members(self, view: str) -> Estimate:
        """Return how well the target's confidence tells the generator's training images from new ones (area under ROC)."""
        protected, labels = self._trained_on
        inside = self.observer.show(protected, view)
        return area(self._confidence(inside, labels), self._confidence(self.observed(view), self.labels))

    @cached_property
    def _second_protected(self) -> Tensor:
        """The second captures of the test images, protected."""
        return self.observer.protect(_second_captures(self.images))

    @cached_property
    def _trained_on(self) -> tuple[Tensor, Tensor]:
        """As many of the generator's training images, protected, and their labels."""
        rows = torch.randperm(len(self.dataset.train), generator=torch.Generator().manual_seed(0))[: len(self.images)]
        return self.observer.protect(to_float(self.dataset.train.images[rows])), self.dataset.train.labels[rows]

    def _confidence(self, observed: Observed, labels: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [
                self.observer.cloud.classifier(part.to(self.device)).softmax(1).cpu() for part in torch.split(observed.seen, 64)
            ]
        return torch.cat(parts).gather(1, labels[:, None])[:, 0]

    # --- effort -------------------------------------------------------------------------------------------------------------

    def converge(
        self,
        views: Sequence[str] = VIEWS,
        attackers: Sequence[str] = tuple(ATTACKERS),
        gain: float = GAIN,
        doublings: int = DOUBLINGS,
    ) -> list[dict[str, Any]]:
        """Double the effort until the best attacker gains less than `gain` dB on every view; return its curve over effort.

        A row of the curve is a view's best attacker at one effort. The last effort becomes the audit's own, so that table,
        verdict and Pareto front use it. `converged` is False if `doublings` did not suffice: the figures are then a lower
        bound. Raises UsageError if none of the attackers draws pictures.
        """
        plan = {view: [name for name in attackers if _draws(name, view)] for view in views}
        plan = {view: names for view, names in plan.items() if names}
        if not plan or gain <= 0 or doublings < 1:
            raise UsageError(
                "converging needs an attacker that draws pictures, a gain above 0 and a doubling, got "
                f"{', '.join(attackers)} on {', '.join(views)}, {gain:g} dB and {doublings}"
            )
        most, self.effort_curve, self.converged, self.best_rows = len(self.dataset.train), [], False, {}
        last: dict[str, float] = {}
        for number in range(doublings + 1):
            if number:
                self.effort = self.effort.doubled(most if self.source == "same" else 2 * self.effort.pairs)
            with self.showing(f"effort x {2**number}", sum(self.seeds * self._cost(names) for names in plan.values())):
                rows = self.best([Attempt(view, names) for view, names in plan.items()])
            self.effort_curve += [{**row, "effort": asdict(self.effort)} for row in rows]
            values = {row["view"]: row["psnr"].value for row in rows}
            if last and max(values[view] - last[view] for view in values) < gain:
                self.converged = True
                break
            last = values
        return self.effort_curve

    # --- the whole ---------------------------------------------------------------------------------------------------------

    def result(
        self, views: Sequence[str] = VIEWS, attackers: Sequence[str] = tuple(ATTACKERS), shadows: int = 0
    ) -> dict[str, Any]:
        """Return the audit: controls, every attacker on every view, linking, membership, bits, verdict, origin.

        `unprotected` is the best row of the same attackers at strength 0; `identity` is what doing nothing gives there, which
        a working attacker reaches. `converged` and `effort_curve` are those of `converge`; without it every figure is a lower
        bound. `membership_rmia` is there if `shadows` generators shall be trained for it.
        """
        plan = {
            view: [
                name
                for name in attackers
                if view in ATTACKERS[name].views and (self.source == "same" or ATTACKERS[name].guesses != "class")
            ]
            for view in views
        }
        if not any(plan.values()):
            raise UsageError(
                f"nothing to try: {', '.join(attackers)} on {', '.join(views)} from {self.source!r} pairs; "
                "those that read classes need source 'same'"
            )
        passes = self.effort.passes + sum(self.seeds * self._cost(names) for names in plan.values())
        pictures = [view for view in views if view in PICTURE_VIEWS]
        passes += shadows * Shadow.cost(self.effort) if pictures else 0
        with self.showing("audit", passes):
            controls = self.controls
            attempts = [Attempt(view, names) for view, names in plan.items() if names]
            unprotected = self.observer_at(strength=0.0)
            open_ = Attempt("perturbed", observer=unprotected, seeds=1)
            *by_view, at_zero = self.tried([*attempts, open_])
            rows = [row for rows in by_view for row in rows]
            for view in dict.fromkeys(row["view"] for row in rows if "psnr" in row):
                self.best_rows[view] = _best([row for row in rows if row["view"] == view and "psnr" in row])
            linking = {view: self.linked(view) for view in views}
            membership = {view: self.members(view) for view in pictures}
            rmia_ = {view: self.members_by_rmia(view, shadows) for view in pictures if shadows}
        return {
            "n": len(self.labels),
            "seeds": self.seeds,
            "controls": controls,
            "unprotected": _best(at_zero),
            "identity": across([psnr(self.images, self.observed("perturbed", unprotected).seen).clamp(max=100)]),
            "rows": rows,
            "linking": linking,
            "linking_pooled": {view: self.pooled(view) for view in views},
            "membership": membership,
            "membership_rmia": rmia_,
            "bound": self.bound(),
            "answered": self.answered(),
            "verdict": verdict(controls, rows),
            "judge": across([self.judge.right(self.images, self.labels)], share=True),
            "recognisable": RECOGNISABLE,
            "effort": asdict(self.effort),
            "effort_curve": self.effort_curve,
            "converged": self.converged,
            "codec": describe(self.observer.codec),
            "strength": self.strength,
            **self._options,
            "noise": self.pair.generator.noise,
            **origin(self.pair, self.dataset, self.device),
        }

    def answered(self) -> dict[str, Estimate]:
        """Return the share of correct answers of the cloud, by view: the price of the protection."""
        return {
            view: across([(self.observed(view).answers == self.labels).float()], share=True)
            for view in ("perturbed", "decoded")
        }

    def bound(self) -> dict[str, Any]:
        """Return the limits of every attacker on the payload: its bits, its distinct codes, and the share that these identify.

        From C distinct codes at most C of n pictures can be named correctly.
        """
        bits = self.observer.bits(self.protected(self.observer))
        codes = len(self.observed("payload").distinct[0])
        return {
            "bits": across([bits]),
            "codes": codes,
            "identified": min(1.0, codes / len(self.images)),
            "label_identified": float(self.by_label.mean()),
        }

    def _tick(self, images: int) -> None:
        if self._stop.is_set():
            raise CancelledError
        with self._telling:
            if self._bar is not None:
                self._bar.update(images)

    @contextmanager
    def showing(self, title: str, passes: int) -> Iterator[None]:
        """Show a progress bar, if requested, of the images that attackers and judge learn from."""
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

    def _cost(self, names: list[str]) -> int:
        """Return how many images pass for one seed of some attackers, which share one inversion network."""
        made = [ATTACKERS[name](self.observer, self.effort) for name in names]
        shared = sum(isinstance(each, FromInversion | Inversion) for each in made)
        return sum(each.cost(len(self.images)) for each in made) - max(0, shared - 1) * self.effort.passes


def _draws(name: str, view: str) -> bool:
    """Return whether an attacker draws pictures from a view."""
    return ATTACKERS[name].guesses == "picture" and view in ATTACKERS[name].views


def _second_captures(images: Tensor) -> Tensor:
    """Return second captures of images: shifted by a pixel, 5 % brighter, and a JPEG of quality 70."""
    shifted = F.pad(images, (1, 0, 1, 0), mode="reflect")[..., : images.shape[-2], : images.shape[-1]]
    jpeg = Client(70).jpeg
    return jpeg.decode(jpeg.encode((1.05 * shifted).clamp(0, 1)))


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of highest PSNR."""
    return max(rows, key=lambda row: row["psnr"].value)


def judge_passes(effort: Effort) -> int:
    """Return how many images the judge learns from: twice an attacker's, up to 60,000."""
    return min(2 * effort.passes, 60_000)
