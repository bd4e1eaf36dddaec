"""How the attackers' success moves: with the perturbation's strength, with the bits that cross, with what they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..metrics import Estimate
from .crew import Attempt
from .run import Audit
from .scores import across
from .views import Observer

__all__ = ["CODECS", "of_pairs", "of_rate", "of_strength"]

# From a byte an image and less to a picture whole; names as figures carry them.
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "neural": ("neural", {}),
    "neural, rounded": ("compressai", {}),
    "JPEG q10": ("jpeg", {"quality": 10}),
    "JPEG q50": ("jpeg", {"quality": 50}),
    "JPEG q89": ("jpeg", {"quality": 89}),
    "PNG": ("png", {}),
}


def of_strength(audit: Audit, points: Sequence[float], seeds: int = 1) -> list[dict[str, Any]]:
    """Return the better row of least squares and an inversion network on the perturbed view at each strength.

    `answered` is how often the target is right.
    """
    observers = [audit.observer_at(strength=point) for point in points]
    with audit.showing("attack over strength", len(points) * seeds * audit.effort.passes):
        rows = audit.best([Attempt("perturbed", observer=observer, seeds=seeds) for observer in observers])
    return [
        {**row, "point": point, "answered": _answered(audit, "perturbed", observer)}
        for row, point, observer in zip(rows, points, observers, strict=True)
    ]


def of_rate(audit: Audit, names: Sequence[str], seeds: int = 1) -> list[dict[str, Any]]:
    """Return the better row on what the cloud decodes for each of `CODECS`, with the bits and the share answered rightly.

    `over` is what he has above the class's mean image, in dB.
    """
    observers = []
    for name in names:
        codec, options = CODECS[name]
        observers.append(audit.observer if codec == audit.codec and not options else audit.observer_at(codec=codec, **options))
    with audit.showing("attack over bits", len(names) * seeds * audit.effort.passes):
        control = audit.controls[0]["psnr"].value
        rows = audit.best([Attempt("decoded", observer=observer, seeds=seeds) for observer in observers])
    return [
        {
            **row,
            "point": name,
            "noise": audit.pair.generator.noise,
            "bits": across([observer.bits(audit.protected(observer))]),
            "answered": _answered(audit, "decoded", observer),
            "over": row["psnr"].value - control,
        }
        for row, name, observer in zip(rows, names, observers, strict=True)
    ]


def of_pairs(audit: Audit, counts: Sequence[int], sources: Sequence[str], seeds: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Return the better rows on the perturbed view by source, over how many pairs he learnt from.

    Of the data set itself no more pairs are asked for than there are.
    """
    most = len(audit.dataset.train)
    plan = {source: list(dict.fromkeys(min(each, most) if source == "same" else each for each in counts)) for source in sources}
    passes = seeds * sum(audit.effort.of(count).passes for asked in plan.values() for count in asked)
    points = [(source, count) for source, asked in plan.items() for count in asked]
    with audit.showing("attack over pairs", passes):
        rows = audit.best([Attempt("perturbed", source=source, pairs=count, seeds=seeds) for source, count in points])
    found: dict[str, list[dict[str, Any]]] = {source: [] for source in sources}
    for (source, count), row in zip(points, rows, strict=True):
        found[source].append({**row, "point": count})
    return found


def _answered(audit: Audit, view: str, observer: Observer) -> Estimate:
    """Return how often the cloud's answer is right."""
    return across([(audit.observed(view, observer).answers == audit.labels).float()], share=True)
