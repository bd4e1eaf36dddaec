"""The verdict of an audit: for each view, whether the best attackers stay within the allowed gain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..metrics import Estimate

__all__ = ["ALLOWED", "ALLOWED_PERTURBED", "verdict"]

# The gain beyond the label that a protected view may allow: differences from the control, and a ratio.
ALLOWED = {"psnr": 0.5, "ssim": 0.03, "identified": 1.5}
ALLOWED_PERTURBED = 1.5  # dB, of the perturbed view
NOTHING = {"psnr": 0.0, "ssim": 0.0, "identified": 1.0}  # no gain over the control


def verdict(controls: list[dict[str, Any]], rows: list[dict[str, Any]], identifiable: float = 1.0) -> dict[str, Any]:
    """Return for each view the best attackers, their gain over the control, and whether that gain is allowed.

    The control is the class's mean image given the true label. For identification it is a random picture of the class. The
    decoder is public, so a payload gives the decoded image, and the cloud holds both. Therefore the best attack on either
    counts for both.

    `identifiable` is the share of pictures that the distinct payloads can identify at most. It bounds what the interval of few
    identified pictures leaves open, for payload, decoded image and label, which all follow from the payload.

    `over` is the gain of max(control, attack), since every attacker can fall back on the control. `failed` names the measures
    in which no attacker reached the control. That is the attacks' failure and no evidence of protection. `interval` is the 95 %
    interval of the gain, paired by picture. A measure `holds` if the upper end of that interval is within `allowed`.
    `over_label` is the gain over attackers that saw only the cloud's answer, if these were run. A control that is given the
    true label makes protection look better than it is whenever the cloud errs.
    """
    control, coded = controls[0], ("decoded", "payload")
    by_label = [row for row in rows if row["view"] == "label"]
    views = {}
    for view in dict.fromkeys(row["view"] for row in rows):
        sources = coded if view in coded else (view,)
        mine = [row for row in rows if row["view"] in sources]
        tried = {key: [row for row in mine if key in row] for key in ALLOWED}
        if not all(tried.values()):
            continue
        best = {key: max(those, key=lambda row: _gain(key, row, control).value) for key, those in tried.items()}
        value = {key: row[key].value for key, row in best.items()}
        gain = {key: _gain(key, row, control) for key, row in best.items()}
        if view in (*coded, "label"):
            most = max(gain["identified"].value, identifiable / control["identified"].value)
            gain["identified"] = replace(gain["identified"], high=min(gain["identified"].high, most))
        answered = {key: [row[key].value for row in by_label if key in row] for key in ("psnr", "ssim")}
        allowed = ALLOWED | ({"psnr": ALLOWED_PERTURBED} if view == "perturbed" else {})
        views[view] = {
            "best": {key: {"attacker": row["attacker"], "value": row[key]} for key, row in best.items()},
            "over": {key: max(NOTHING[key], each.value) for key, each in gain.items()},
            "interval": {key: [each.low, each.high] for key, each in gain.items()},
            "failed": [key for key, each in gain.items() if each.value < NOTHING[key]],
            "over_label": {key: value[key] - max(theirs) for key, theirs in answered.items() if theirs},
            "allowed": allowed,
            "holds": {key: gain[key].high <= limit for key, limit in allowed.items()},
        }
    return views


def _gain(key: str, row: dict[str, Any], control: dict[str, Any]) -> Estimate:
    """Return an attacker's gain over the control: paired by picture if the row has it, else between the two estimates."""
    paired: Estimate | None = row.get("over_control", {}).get(key)
    if paired is not None:
        return paired
    mine, theirs = row[key], control[key].value
    if key == "identified":
        return Estimate(mine.value / theirs, mine.low / theirs, mine.high / theirs, mine.n)
    return Estimate(mine.value - theirs, mine.low - theirs, mine.high - theirs, mine.n)
