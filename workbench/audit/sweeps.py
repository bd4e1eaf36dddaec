"""The best attack's success over strength, transmitted bits, number of pairs, and number of sends.

Strength is the share of the perturbation that the edge applies. A pair is one of the attacker's own pictures, together with the
observation of this picture. A send is one pass of a picture through client and edge. The attack `undo` uses least squares, and
`invert` uses a trained network. The attack `replay` compares the observation with observations of known pictures. A row is a
dict with the metrics of one attack.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..codecs import Png
from ..errors import UsageError
from ..metrics import Estimate, psnr
from .attackers import ATTACKERS, Replay
from .crew import Attempt
from .run import Audit
from .scores import across, identified
from .views import Observer, Pairs, pairs_of

__all__ = ["CODECS", "of_pairs", "of_rate", "of_sends", "of_strength", "of_surface"]

# Codecs from less than a byte per image to a complete picture, by their names in plots.
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "neural": ("neural", {}),
    "neural, rounded": ("compressai", {}),
    "JPEG q10": ("jpeg", {"quality": 10}),
    "JPEG q50": ("jpeg", {"quality": 50}),
    "JPEG q89": ("jpeg", {"quality": 89}),
    "PNG": ("png", {}),
}


def of_strength(audit: Audit, points: Sequence[float], seeds: int = 1) -> list[dict[str, Any]]:
    """Return one row for each strength in `points`: the better of `undo` and `invert` on the protected images.

    `answered` is the target's accuracy on these images.
    """
    observers = [audit.observer_at(strength=point) for point in points]
    with audit.showing("attack over strength", len(points) * seeds * audit.effort.passes):
        rows = audit.best([Attempt("perturbed", observer=observer, seeds=seeds) for observer in observers])
    return [
        {**row, "point": point, "answered": _answered(audit, "perturbed", observer)}
        for row, point, observer in zip(rows, points, observers, strict=True)
    ]


def of_rate(audit: Audit, names: Sequence[str], seeds: int = 1) -> list[dict[str, Any]]:
    """Return one row for each codec in `names` (of `CODECS`): the better of `undo` and `invert` on the cloud's decoded images.

    `bits` is the information in an image's code, `answered` the cloud's accuracy. `over` is the attack's PSNR gain (dB) over
    the control, the class's mean image. If the attack's PSNR is below the control's, `over` is 0 and `failed` is True. If
    `Audit.result` has run, the row of the audit's own codec is the best of all its attackers.
    """
    observers = [audit.observer_at(codec=codec, **options) for codec, options in map(CODECS.__getitem__, names)]
    known = [audit.best_rows.get("decoded") if observer is audit.observer else None for observer in observers]
    asked = [observer for observer, row in zip(observers, known, strict=True) if row is None]
    with audit.showing("attack over bits", len(asked) * seeds * audit.effort.passes):
        control = audit.controls[0]["psnr"].value
        shown = [_decoded(audit, observer) for observer in asked]
        fresh = iter(audit.best([Attempt(view, observer=observer, seeds=seeds) for view, observer in shown]))
        rows = [next(fresh) if row is None else row for row in known]
    return [
        {
            **row,
            "view": "decoded",
            "point": name,
            "noise": audit.pair.generator.noise,
            "bits": across([observer.bits(audit.protected(observer))]),
            "answered": _answered(audit, *_decoded(audit, observer)),
            "over": max(0.0, row["psnr"].value - control),
            "failed": row["psnr"].value < control,
        }
        for row, name, observer in zip(rows, names, observers, strict=True)
    ]


def _decoded(audit: Audit, observer: Observer) -> tuple[str, Observer]:
    return ("perturbed", audit.observer) if isinstance(observer.codec, Png) else ("decoded", observer)


def of_surface(
    audit: Audit, strengths: Sequence[float], rates: Sequence[float], attackers: Sequence[str] = ("undo",)
) -> list[dict[str, Any]]:
    """Return one row for each pairing of strength and codec rate: the best of `attackers` on the cloud's decoded images.

    `over` is the PSNR gain over the class's mean image (dB), or 0 if no attacker exceeds that image. Only PSNR is measured, so
    30 points take seconds with least squares (`undo`).
    """
    control = psnr(audit.images, audit.means[audit.labels]).clamp(max=100)
    rows = []
    for strength, rate in itertools.product(strengths, rates):
        observer = audit.observer_at(strength=strength, codec="neural", rate=rate)
        learnt = pairs_of(observer, audit.dataset, "decoded", audit.effort.pairs, audit.source)
        tried: list[dict[str, Any]] = []
        for name in attackers:
            attacker = ATTACKERS[name](observer, audit.effort)
            attacker.fit(learnt)
            gains = psnr(audit.images, attacker.guess(audit.observed("decoded", observer))).clamp(max=100)
            tried.append({"attacker": name, "psnr": across([gains]), "over_control": across([gains - control])})
        best = max(tried, key=lambda row: row["psnr"].value)
        over = max(0.0, best["over_control"].value)
        rows.append({"strength": strength, "rate": rate, "pairs": len(learnt), **best, "over": over})
    return rows


def of_pairs(audit: Audit, counts: Sequence[int], sources: Sequence[str], seeds: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Return {source: rows}, with one row for each number of pairs in `counts`.

    A row is the better of `undo` and `invert` on the protected images. `sources` are the origins of the attacker's pictures
    (see `pairs_of`). The source `same` has no more pictures than the training split, so larger numbers are reduced.
    """
    most = len(audit.dataset.train)
    plan = {source: list(dict.fromkeys(min(each, most) if source == "same" else each for each in counts)) for source in sources}
    passes = seeds * sum(audit.effort.of(count).passes for asked in plan.values() for count in asked)
    points = [(source, count) for source, asked in plan.items() for count in asked]
    with audit.showing("attack over pairs", passes):
        rows = audit.best([Attempt("perturbed", source=source, pairs=count, seeds=seeds) for source, count in points])
    by_source: dict[str, list[dict[str, Any]]] = {source: [] for source in sources}
    for (source, count), row in zip(points, rows, strict=True):
        by_source[source].append({**row, "point": count})
    return by_source


def of_sends(audit: Audit, counts: Sequence[int] = (1, 2, 4, 8, 16)) -> list[dict[str, Any]]:
    """Return the share of pictures that `replay` identifies, one row for each number of sends in `counts`.

    The attacker sends every known picture this number of times. The rows measure how well a generator's random component
    protects against repeated sends. Without a random component, only the count 1 gives a row. Raises UsageError if `counts` is
    empty or contains a number below 1.
    """
    if not counts or min(counts) < 1:
        raise UsageError(f"replay needs numbers of sends of 1 or more, got {', '.join(map(str, counts)) or 'none'}")
    view, rows = "perturbed", []
    observed = audit.observed(view)
    attacker = Replay(audit.observer, replace(audit.effort, sends=max(counts)))
    for sends in attacker.sending(Pairs(audit.observer.observe(audit.images, view), audit.images, audit.labels)):
        if sends in counts:
            figures = across([identified(attacker.guess(observed))], share=True)
            rows.append({"view": view, "attacker": Replay.name, "sends": sends, "identified": figures})
    return rows


def _answered(audit: Audit, view: str, observer: Observer) -> Estimate:
    return across([(audit.observed(view, observer).answers == audit.labels).float()], share=True)
