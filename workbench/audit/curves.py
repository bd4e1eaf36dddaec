"""How the attackers' success moves: with the perturbation's strength, with the bits that cross, with what they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..metrics import Estimate
from .run import Audit
from .scores import across
from .views import Tap

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
    """Return the row of `Audit.best` on the perturbed view at each strength, and how often the target is right (`answered`)."""
    rows = []
    with audit.showing("attack over strength", len(points) * seeds * audit.effort.passes):
        for point in points:
            tap = audit.tap_at(strength=point)
            row = audit.best("perturbed", tap=tap, seeds=seeds)
            rows.append({**row, "point": point, "answered": _answered(audit, "perturbed", tap)})
    return rows


def of_rate(audit: Audit, names: Sequence[str], seeds: int = 1) -> list[dict[str, Any]]:
    """Return the better row on what the cloud decodes for each of `CODECS`, with the bits and the share answered rightly.

    `over` is what he has above the class's mean image, in dB.
    """
    rows = []
    with audit.showing("attack over bits", len(names) * seeds * audit.effort.passes):
        control = audit.controls[0]["psnr"].value
        for name in names:
            codec, options = CODECS[name]
            tap = audit.tap if codec == audit.codec and not options else audit.tap_at(codec=codec, **options)
            row = audit.best("decoded", tap=tap, seeds=seeds)
            rows.append(
                {
                    **row,
                    "point": name,
                    "noise": audit.pair.generator.noise,
                    "bits": across([tap.bits(audit.protected(tap))]),
                    "answered": _answered(audit, "decoded", tap),
                    "over": row["psnr"].value - control,
                }
            )
    return rows


def of_pairs(audit: Audit, counts: Sequence[int], sources: Sequence[str], seeds: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Return the better rows on the perturbed view by source, over how many pairs he learnt from.

    Of the data set itself no more pairs are asked for than there are.
    """
    most = len(audit.dataset.train)
    plan = {source: list(dict.fromkeys(min(each, most) if source == "same" else each for each in counts)) for source in sources}
    passes = seeds * sum(audit.effort.of(count).passes for asked in plan.values() for count in asked)
    with audit.showing("attack over pairs", passes):
        return {
            source: [{**audit.best("perturbed", source=source, pairs=count, seeds=seeds), "point": count} for count in asked]
            for source, asked in plan.items()
        }


def _answered(audit: Audit, view: str, tap: Tap) -> Estimate:
    """Return how often the cloud's answer is right."""
    return across([(audit.observed(view, tap).answers == audit.labels).float()], share=True)
