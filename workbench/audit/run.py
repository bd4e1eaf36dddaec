"""The complete audit of one configuration: every attacker on every view, the controls, linking and membership.

A view is the data that an attacker observes at one point of the system. A control is a guess without observation. The effort is
an attacker's budget: the numbers of pairs (own pictures with observations), training images and gradient steps. Linking and
membership are two further tests (see `linkage`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..errors import UsageError
from ..evaluation import describe, origin
from ..metrics import Estimate, psnr
from ..models import repeatable_noise
from .attackers import ATTACKERS
from .attempts import Attempts, best_of
from .contract import PICTURE_VIEWS
from .crew import Attempt
from .linkage import Linkage
from .membership import Shadow
from .scores import RECOGNISABLE, across
from .unseen import unseen_cost, unseen_rows
from .verdict import verdict
from .views import VIEWS

__all__ = ["Audit"]

GAIN = 0.1  # dB: attackers have converged if twice the effort gains less
DOUBLINGS = 6  # maximum number of doublings of the effort


class Audit(Attempts):
    """The audit of a data set's test images: every attacker on every view. The settings are those of `Attempts`."""

    def __init__(self, *settings: Any, **options: Any) -> None:
        super().__init__(*settings, **options)
        self.linkage = Linkage(self)
        self.best_rows: dict[str, dict[str, Any]] = {}  # best rows of `result`, by view
        self.effort_curve: list[dict[str, Any]] = []
        self.converged: bool | None = None  # None until `converge` has run

    # --- effort -------------------------------------------------------------------------------------------------------------

    def converge(
        self,
        views: Sequence[str] = VIEWS,
        attackers: Sequence[str] = tuple(ATTACKERS),
        gain: float = GAIN,
        doublings: int = DOUBLINGS,
    ) -> list[dict[str, Any]]:
        """Double the effort until a doubling raises the best PSNR by less than `gain` dB on every view. Return the curve.

        Each row of the curve has a view's best attacker at one effort. The last effort stays in `self.effort`, and all later
        runs use it. If `doublings` doublings do not suffice, `self.converged` is False, and all results are lower bounds on the
        attackers' success. Raises UsageError if none of the attackers reconstructs pictures.
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
            passes = sum(self.seeds * self._cost(names, self.effort) for names in plan.values())
            with self.showing(f"effort x {2**number}", passes):
                rows = self.best([Attempt(view, names) for view, names in plan.items()])
            self.effort_curve += [{**row, "effort": asdict(self.effort)} for row in rows]
            values = {row["view"]: row["over_control"]["psnr"].value for row in rows}
            if last and max(values[view] - last[view] for view in values) < gain:
                self.converged = True
                break
            last = values
        return self.effort_curve

    # --- the complete audit ------------------------------------------------------------------------------------------------

    def result(
        self, views: Sequence[str] = VIEWS, attackers: Sequence[str] = tuple(ATTACKERS), shadows: int = 0, unseen: int = 0
    ) -> dict[str, Any]:
        """Run the complete audit. Return the metrics, the verdict, and the origin of weights and data.

        Two entries test the attackers on pictures without protection (strength 0). `unprotected` is the better row of the
        attackers `undo` and `invert`. `identity` is the PSNR (dB) of the observation itself, taken as the guess. A working
        attacker reaches this value. `converged` and `effort_curve` come from `converge`. If `converge` was not called before,
        every result is a lower bound on the attackers' success.

        `shadows` is the number of shadow generators for the RMIA test (`membership_rmia`). At 0 the test is omitted. `unseen`
        is the number of classifiers in the rows `unseen` (see `unseen_rows`).
        """
        plan = self._plan(views, attackers)
        if shadows:
            self.linkage.check_rmia(views)
        passes = self.effort.passes + sum(self.seeds * self._cost(names, self.effort) for names in plan.values())
        pictures = [view for view in views if view in PICTURE_VIEWS]
        passes += shadows * Shadow.cost(self.effort) if pictures else 0
        passes += unseen_cost(self.effort, unseen)
        with self.showing("audit", passes), repeatable_noise(0):
            controls = self.controls
            attempts = [Attempt(view, names) for view, names in plan.items() if names]
            unprotected = self.observer_at(strength=0.0)
            open_ = Attempt("perturbed", observer=unprotected, seeds=1)
            *by_view, at_zero = self.tried([*attempts, open_])
            rows = [row for rows in by_view for row in rows]
            for view in dict.fromkeys(row["view"] for row in rows if "psnr" in row):
                self.best_rows[view] = best_of([row for row in rows if row["view"] == view and "psnr" in row])
            linking = {view: self.linkage.linked(view) for view in views}
            membership = {view: self.linkage.members(view) for view in pictures}
            rmia_ = {view: self.linkage.members_by_rmia(view, shadows) for view in pictures if shadows}
            unseen_ = unseen_rows(self, unseen) if unseen else []
        bound = self.bound()
        return {
            "n": len(self.labels),
            "seeds": self.seeds,
            "controls": controls,
            "unprotected": best_of(at_zero),
            "identity": across([psnr(self.images, self.observed("perturbed", unprotected).seen).clamp(max=100)]),
            "rows": rows,
            "linking": linking,
            "linking_pooled": {view: self.linkage.pooled(view) for view in views},
            "linking_by_pixel": {view: self.linkage.linked(view, side=1) for view in views},
            "membership": membership,
            "membership_rmia": rmia_,
            "unseen": unseen_,
            "bound": bound,
            "answered": self.answered(),
            "verdict": verdict(controls, rows, bound["identified"]),
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

    def _plan(self, views: Sequence[str], attackers: Sequence[str]) -> dict[str, list[str]]:
        def works(name: str, view: str) -> bool:
            attacker = ATTACKERS[name]
            return view in attacker.views and (self.source == "same" or attacker.guesses != "class")

        plan = {view: [name for name in attackers if works(name, view)] for view in views}
        if not any(plan.values()):
            raise UsageError(
                f"nothing to try: {', '.join(attackers)} on {', '.join(views)} from {self.source!r} pairs; "
                "attackers that read classes need source 'same'"
            )
        return plan

    def answered(self) -> dict[str, Estimate]:
        return {
            view: across([(self.observed(view).answers == self.labels).float()], share=True)
            for view in ("perturbed", "decoded")
        }

    def bound(self) -> dict[str, Any]:
        """Return limits that hold for every attacker on the payload.

        `bits` is the information in an image's payload. `codes` is the number C of distinct payloads. `identified` is the
        largest share of pictures that can be identified: with C distinct payloads, at most C of n pictures. `label_identified`
        is the share that a random choice within the class identifies.
        """
        bits = self.observer.bits(self.protected(self.observer))
        codes = len(self.observed("payload").distinct[0])
        return {
            "bits": across([bits]),
            "codes": codes,
            "identified": min(1.0, codes / len(self.images)),
            "label_identified": float(self.by_label.mean()),
        }


def _draws(name: str, view: str) -> bool:
    return ATTACKERS[name].guesses == "picture" and view in ATTACKERS[name].views
