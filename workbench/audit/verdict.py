"""The verdict of an audit: whether the best attackers' gain over the control is small enough, on each view.

A view is the data that an attacker observes, such as the payload. The control is a guess without observation: the mean image of
the true class. The metrics are PSNR, SSIM and identification. The gain is the attacker's value of a metric minus the control's
value. For identification, the gain is the ratio of the two values. A row is a dict with the metrics of one attacker on one
view.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..metrics import Estimate

__all__ = ["ALLOWED", "ALLOWED_PERTURBED", "verdict"]

# The allowed gain over the control: differences of PSNR (dB) and SSIM, and a ratio for `identified`.
ALLOWED = {"psnr": 0.5, "ssim": 0.03, "identified": 1.5}
ALLOWED_PERTURBED = 1.5  # dB, allowed PSNR gain on the perturbed view
NOTHING = {"psnr": 0.0, "ssim": 0.0, "identified": 1.0}  # the values of no gain


def verdict(controls: list[dict[str, Any]], rows: list[dict[str, Any]], identifiable: float = 1.0) -> dict[str, Any]:
    """Return for each view the best attackers, their gain over the control, and whether that gain is allowed.

    The control is the mean image of the true class. For identification, the control is a random picture of the class. The
    payload determines the decoded image, because the decoder is public, and the cloud holds both. Therefore the best attack on
    payload or decoded image counts for both views.

    `identifiable` is the largest share of pictures that the distinct payloads can identify. This share limits the upper end of
    the interval of `identified` for payload, decoded image and label, which all follow from the payload.

    The result of a view has these entries. All but `failed` map the name of a metric to a value:

    - `best`: the best attacker and its value
    - `over`: this attacker's gain, but at least the value of no gain, because every attacker can use the control's guess
    - `interval`: the 95 % interval of the gain; for PSNR and SSIM, of the mean difference from the control over pictures
    - `allowed`: the largest allowed gain
    - `holds`: whether the upper end of `interval` is at most `allowed`
    - `failed`: a list of the metrics in which no attacker reached the control; such attacks are too weak to prove protection
    - `over_label`: the gain in PSNR and SSIM over attackers that observed only the cloud's label, if such attackers were run

    The control knows the true label. So for pictures that the cloud misclassifies, `over` overstates the protection.
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
    paired: Estimate | None = row.get("over_control", {}).get(key)
    if paired is not None:
        return paired
    mine, theirs = row[key], control[key].value
    if key == "identified":
        return Estimate(mine.value / theirs, mine.low / theirs, mine.high / theirs, mine.n)
    return Estimate(mine.value - theirs, mine.low - theirs, mine.high - theirs, mine.n)
