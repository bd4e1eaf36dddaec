"""What the rows of an audit come to: where the protection holds, and where it fails."""

from __future__ import annotations

from typing import Any

__all__ = ["ALLOWED", "ALLOWED_PERTURBED", "verdict"]

# What the audit asks of a view for it to count as protected beyond the label: gaps to the control, and a ratio.
ALLOWED = {"psnr": 0.5, "ssim": 0.03, "identified": 1.5}
ALLOWED_PERTURBED = 1.5  # dB, of the perturbed view


def verdict(controls: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each view the best attackers, what they have over the control, and whether that is within what is allowed.

    The control is the class's mean image given the true label; of identification, naming one of the class by lot. The decoder
    is public, so that who holds the payload holds the decoded image, and the cloud holds both: what is best on the one counts
    for the other. `over_label` is what the best attackers have over those who saw nothing but the cloud's answer, where
    these were tried: attackers know no more of the class than that, and where the cloud errs the true label flatters the
    protection.
    """
    control, coded = controls[0], ("decoded", "payload")
    by_label = [row for row in rows if row["view"] == "label"]
    found = {}
    for view in dict.fromkeys(row["view"] for row in rows):
        holds = coded if view in coded else (view,)
        mine = [row for row in rows if row["view"] in holds]
        tried = {key: [row for row in mine if key in row] for key in ALLOWED}
        if not all(tried.values()):
            continue
        best = {key: _best(those, key) for key, those in tried.items()}
        value = {key: row[key].value for key, row in best.items()}
        over = {key: value[key] - control[key].value for key in ("psnr", "ssim")}
        over["identified"] = value["identified"] / control["identified"].value
        answered = {key: [row[key].value for row in by_label if key in row] for key in ("psnr", "ssim")}
        allowed = ALLOWED | ({"psnr": ALLOWED_PERTURBED} if view == "perturbed" else {})
        found[view] = {
            "best": {key: {"attacker": row["attacker"], "value": row[key]} for key, row in best.items()},
            "over": over,
            "over_label": {key: value[key] - max(theirs) for key, theirs in answered.items() if theirs},
            "allowed": allowed,
            "holds": {key: over[key] <= limit for key, limit in allowed.items()},
        }
    return found


def _best(rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    return max(rows, key=lambda row: row[key].value)
