"""The audit's report for a privacy officer, as one HTML page.

The page states the promise, the attackers, the method, and the failures of the protection. Every verdict, number and name on
the page comes from an audit's result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..storage import write_text

__all__ = ["render", "signed", "write"]

Result = Mapping[str, Any]

# Plain names of each view, and of the party that holds it.
VIEWS = {
    "label": (
        "the answer alone",
        "anyone who learns the class; an edge that classifies the picture itself would send only this",
    ),
    "payload": ("the payload", "an eavesdropper on the wire who gets behind the encryption"),
    "decoded": ("what the cloud decodes", "the cloud and its operator"),
    "perturbed": ("the perturbed image", "nobody, unless a codec carries it that keeps pictures, such as PNG"),
}
PROMISED = ("label", "payload", "decoded")
ATTACKS = {
    "undo": "corrects polarity, colours and contrast and smooths noise away, as a photo editor can",
    "invert": "trains a network to turn observations back into pictures, on its own pictures that it sent through the edge",
    "prior": "does the same with a network that also learnt how such pictures look, and draws plausible ones",
    "optimise": "has the weights of the system's own networks and searches for a picture that gives the observation",
    "latents": "has those weights, and a network that draws such pictures from 64 numbers: searches for the numbers",
    "diffusion": "has those weights, and a network that turns noise into such pictures: steers it towards the observation",
    "read": "trains a recognition model on observations",
    "retrain": "takes the model that was meant to fail and trains it on until it recognises protected pictures",
    "replay": "has a set of pictures that contains the private one, sends each through the edge, several times if "
    "the edge adds noise, and compares",
}
SOURCES = {
    "same": "of the same data set",
    "other": "of other data of the same kind",
    "noise": "of noise that the attackers made",
}
# The measures of a guess, their units and digits. The last one is judged by its ratio to the control.
MEASURES = {
    "psnr": ("closeness of the guess, pixel by pixel", " dB", 2),
    "ssim": ("its likeness in structure (SSIM)", "", 3),
    "identified": ("the picture named among the known ones", " times", 2),
}
CONTROLS = {"class mean": "the average picture of its class", "training image": "another picture of its class, by lot"}


def write(result: Result, path: Path, variants: Mapping[str, Result] | None = None) -> None:
    """Write the report to `path`, as one self-contained HTML file. `result` and `variants` are as in `render`."""
    write_text(path, render(result, variants))


def render(result: Result, variants: Mapping[str, Result] | None = None, whole: bool = True) -> str:
    """Return the report as HTML. `result` is an audit's result (`Audit.result`) as plain JSON.

    `variants` maps the name of another generator to a dict. The dict has the verdict on the view `perturbed` (`over`,
    `allowed`, `holds`), and the target's accuracy on the images of this view (`answered`). If `whole` is False, only the
    article and its style are returned, to embed in another page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("workbench", "audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "percent": percent, "signed": signed}
    rows = result["rows"]
    made: str = environment.get_template("privacy.html").render(
        result=result,
        whole=whole,
        views=[_view(result, name) for name in VIEWS if name in result["verdict"]],
        unjudged=[VIEWS[name][0] for name in dict.fromkeys(row["view"] for row in rows) if name not in result["verdict"]],
        attacks=_attacks(result),
        controls=[(CONTROLS[row["attacker"]], row) for row in result["controls"]],
        learnt=_learnt(result),
        fails=_fails(result),
        neural=_neural(result),
        effort=_effort(result),
        variants=[(name, each, all(each["holds"].values())) for name, each in (variants or {}).items()],
    )
    return made


def figure(value: Any, digits: int = 2) -> str:
    """Format an estimate with its interval: `12.31 [12.20, 12.42]`."""
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def percent(value: Any) -> str:
    """Format a proportion with its interval in percent: `91.2 % [90.1, 92.2]`, with no-break spaces."""
    return f"{100 * value['value']:.1f}\u00a0% [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def signed(value: float, digits: int = 2) -> str:
    """Format a difference with its sign. A difference that rounds to zero gets a plus sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _view(result: Result, name: str) -> dict[str, Any]:
    found, (title, holder) = result["verdict"][name], VIEWS[name]
    best, allowed = found["best"], found["allowed"]
    rows = []
    for key, (what, unit, digits) in MEASURES.items():
        share = key == "identified"
        rows.append(
            {
                "what": what,
                "attacker": best[key]["attacker"],
                "best": percent(best[key]["value"]) if share else figure(best[key]["value"], digits) + unit,
                "over": _over(found, key, unit, digits),
                "allowed": f"{allowed[key]:g}{unit}" if share else f"+{allowed[key]:g}{unit}",
                "holds": found["holds"][key],
            }
        )
    crosses = name in PROMISED or not _neural(result)
    return {"title": title, "holder": holder, "holds": all(found["holds"].values()), "promised": crosses, "rows": rows}


def _over(view: dict[str, Any], key: str, unit: str, digits: int) -> str:
    if key in view["failed"]:
        return "attack failed: below the control"
    low, high = view["interval"][key]
    if key == "identified":
        return f"{view['over'][key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{unit}"
    return f"{signed(view['over'][key], digits)} [{signed(low, digits)}, {signed(high, digits)}]{unit}"


def _neural(result: Result) -> bool:
    return str(result["codec"]).startswith("neural")


def _attacks(result: Result) -> list[dict[str, Any]]:
    views: dict[str, list[str]] = {}
    knows: dict[str, str] = {}
    for row in result["rows"]:
        views.setdefault(row["attacker"], []).append(row["view"])
        knows[row["attacker"]] = row["knows"]
    return [
        {"name": name, "does": ATTACKS.get(name, f"takes {knows[name]}"), "views": list(dict.fromkeys(seen))}
        for name, seen in views.items()
    ]


def _effort(result: Result) -> str:
    if result["converged"]:
        passes = " to ".join(str(each["effort"]["passes"]) for each in (result["effort_curve"][0], result["effort_curve"][-1]))
        return f"Effort was doubled from {passes} training images, until the best attacker gained less than 0.1 dB."
    if result["converged"] is None:
        return "The effort was not raised until the attackers stopped gaining: every figure is a lower bound."
    return "The attackers still gained when the effort was doubled for the last time: every figure is a lower bound."


def _learnt(result: Result) -> list[str]:
    sources = dict.fromkeys((row["pairs"], row["source"]) for row in result["rows"] if row["source"] in SOURCES)
    return [f"{pairs} pictures {SOURCES[source]}" for pairs, source in sources]


def _fails(result: Result) -> list[str]:
    said = []
    for name, found in result["verdict"].items():
        title, over, n = VIEWS[name][0], found["over"], result["n"]
        broken = {key for key, holds in found["holds"].items() if not holds}
        what = []
        if "psnr" in broken:
            what.append(f"guesses come {over['psnr']:.2f} dB closer than the average picture of the class")
        if "ssim" in broken:
            what.append(f"guesses are {over['ssim']:.3f} more alike in structure than the average picture of the class")
        if "identified" in broken:
            what.append(f"of {n} known pictures the right one is named {over['identified']:.2f} times as often as by the class")
        if what:
            said.append(f"From {title}: {'; '.join(what)}.")
    for name, area in result["linking"].items():
        if area["low"] > 1 / 2:
            title = VIEWS[name][0]
            said.append(
                f"Linking, from {title}: two shots of one picture look more alike than two pictures of its class in "
                f"{percent(area)} of comparisons (half would be chance)."
            )
    for name, area in result["membership"].items():
        if area["low"] > 1 / 2:
            said.append(
                f"Training pictures, from {VIEWS[name][0]}: the generator's own are distinguished from new ones in "
                f"{percent(area)} of comparisons (half would be chance)."
            )
    return said
