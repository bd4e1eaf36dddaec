"""Write the model card (Mitchell et al. 2019) of a pair from the manifests of its networks.

A pair is a target classifier, an auxiliary classifier, and the generator and compressor that were trained for them. A manifest
is the JSON file that describes a network's weights (see `weights`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import UsageError
from .metrics import wilson
from .weights import Manifest, Pair

__all__ = ["card"]

USE = """
- Research on protected image recognition: to reproduce the figures below, to compare other generators and codecs with them.
- Recognition of images like those of the training data, by edge and cloud as `docs/services.md` describes them.
"""
LIMITS = """
- The edge must be trusted: it sees every picture. The protection concerns what leaves it.
- The cloud learns the class that it recognises. Above rate 0 or below strength 1 it learns more.
- Images unlike the training data get one of its classes all the same, without a warning.
- Figures are those of one training with one seed. Attacks that are not listed were not measured.
- Not meant for decisions about persons, and not for biometric identification.
"""
FIGURES = {
    "original_accuracy": "target, originals",
    "target_accuracy": "target, cloud",
    "auxiliary_accuracy": "auxiliary, cloud",
    "s2_bytes": "S2 (B)",
    "abs_ssim": "|SSIM|",
    "legibility": "legibility",
}
SHARES = ("original_accuracy", "target_accuracy", "auxiliary_accuracy")


def card(pair: Pair, results: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the model card of a pair as Markdown.

    `results` are JSON objects from `workbench evaluate --json`, whose measured values the card lists. Raises UsageError for a
    result that was measured with other weights.
    """
    manifests = pair.manifests
    for result in results:
        _require_same(pair, result)
    generator = manifests["generator"]
    networks = [
        [role, manifest.name, ", ".join(f"{k} {v}" for k, v in manifest.spec.items()), f"`{manifest.sha256[:16]}`"]
        for role, manifest in manifests.items()
    ]
    sections = {
        "Networks": _table(["role", "network", "parameters of the form", "SHA-256"], networks),
        "Data": "\n".join(_data(manifests)),
        "Recipe": _table(["training", "preset", "schedule", "optimiser", "images", "loss"], _recipes(manifests)),
        "Cost": _table(["training", "PFLOP", "hours", "device", "precision"], _costs(manifests)),
        "Figures": "\n\n".join(_figures(manifests, results)),
        "Intended use": USE.strip(),
        "Limits": "\n".join([LIMITS.strip(), *_own_limits(pair)]),
    }
    head = f"# Model card: {generator.name}, {generator.data}\n\nWritten by `workbench model-card`. Do not edit."
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _require_same(pair: Pair, result: Mapping[str, Any]) -> None:
    measured = result.get("weights")
    if not isinstance(measured, Mapping) or "target_accuracy" not in result:
        raise UsageError("a result for a model card is an object of `workbench evaluate --json`; got other content")
    for role, sha in pair.sha256().items():
        if measured.get(role, sha) != sha:
            raise UsageError(
                f"a result was measured with another {role} ({str(measured[role])[:8]}) than the pair's ({sha[:8]}): "
                "run `workbench evaluate --json` again"
            )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _data(manifests: Mapping[str, Manifest]) -> Iterator[str]:
    by_data: dict[str, list[str]] = {}
    for role, manifest in manifests.items():
        training = manifest.training
        images = f"{training['images']:,} images" if "images" in training else "images not recorded"
        division = f"; division: {training['division']}" if training.get("division") else ""
        form = ", as the client's JPEG leaves them" if training.get("captured") else ""
        by_data.setdefault(f"{manifest.data}: {images}{form}{division}", []).append(role)
    for text, roles in by_data.items():
        yield f"- {', '.join(roles)}: {text}."


def _stages(manifests: Mapping[str, Manifest]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    seen: set[float] = set()
    for role, manifest in manifests.items():
        chain: list[tuple[str, Mapping[str, Any]]] = [(role, manifest.training)]
        while isinstance(before := chain[0][1].get("loss", {}).get("before"), Mapping):
            chain.insert(0, (f"{role}'s start", before))
        for title, training in chain:
            key = training.get("seconds")  # generator and compressor of a joint training have one record
            if key is None or key not in seen:
                seen.update([] if key is None else [key])
                yield title, training


def _recipes(manifests: Mapping[str, Manifest]) -> list[list[str]]:
    rows = []
    for title, training in _stages(manifests):
        if "epochs" not in training:
            rows.append([title, training.get("preset", "imported"), *["not recorded"] * 4])
            continue
        sizes = training.get("sizes") or []
        schedule = f"{training['epochs']} epochs at most, batch {training['batch']}, warm-up {training['warmup']:g}"
        schedule += f", rate held until {training['hold']:g}" if training.get("hold") else ""
        schedule += f", {training['max_images']:,} images at most" if training.get("max_images") else ""
        schedule += "".join(f", {side} px from {start:g}" for start, side in sizes)
        optimiser = f"{training['optimizer']}, rate {training['learning_rate']:g}, decay {training['weight_decay']:g}"
        shown = f"crop {training['crop']}, cutout {training['erase']}, smoothing {training['smoothing']:g}"
        rows.append([title, str(training["preset"]), schedule, optimiser, shown, _loss(training.get("loss", {}))])
    return rows


def _loss(loss: Mapping[str, Any]) -> str:
    terms = {**loss, **loss.get("joint", {}), **loss.get("defence", {})}
    hidden = ("before", "start", "joint", "defence")
    text = ", ".join(f"{key} {value}" for key, value in terms.items() if key not in hidden)
    return text or "cross-entropy"


def _costs(manifests: Mapping[str, Manifest]) -> list[list[str]]:
    rows, pflop, hours = [], 0.0, 0.0
    for title, training in _stages(manifests):
        pflop += training.get("pflop", 0.0)
        hours += training.get("seconds", 0.0) / 3600
        cost = [f"{training['pflop']:.3g}" if "pflop" in training else "not recorded"]
        cost.append(f"{training['seconds'] / 3600:.2g}" if "seconds" in training else "not recorded")
        rows.append([title, *cost, *(str(training.get(key, "not recorded")) for key in ("device", "computed_in"))])
    return [*rows, ["all", f"{pflop:.3g}", f"{hours:.2g}", "", ""]]


def _figures(manifests: Mapping[str, Manifest], results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = []
    for role, manifest in manifests.items():
        n = manifest.training.get("validation_images")
        if n and "accuracy" in manifest.metrics:
            share = wilson(round(manifest.metrics["accuracy"] * n), n)
            rows.append([role, share.percent(), f"{n:,}"])
    if rows:
        yield "On the validation images, which also chose the weights:"
        yield _table(["network", "accuracy [95 % interval]", "images"], rows)
    if not results:
        yield "No figures of the test images were given: `workbench model-card --results FILE`."
        return
    yield "On the test images:"
    yield _table(["codec, strength, n", *FIGURES.values()], [_row(result) for result in results])


def _row(result: Mapping[str, Any]) -> list[str]:
    def cell(key: str) -> str:
        figure = result.get(key)
        if figure is None:
            return "-"
        factor, digits = (100, 2) if key in SHARES else (1, 3)
        value, low, high = (f"{factor * figure[bound]:.{digits}f}" for bound in ("value", "low", "high"))
        return f"{value}{' %' if key in SHARES else ''} [{low}, {high}]"

    return [f"{result['codec']}, {result['strength']:g}, {result['n']:,}", *(cell(key) for key in FIGURES)]


def _own_limits(pair: Pair) -> Iterator[str]:
    for role, manifest in pair.manifests.items():
        if not manifest.complete:
            yield f"- The training of the {role} was stopped early."
        if manifest.spec.get("width", 1) != 1 and manifest.kind == "classifier":
            yield f"- The {role} has 1/{manifest.spec['width']} of the papers' width."
    if not pair.generator.noise:
        yield "- The same picture gives the same protected picture: an observer of the perturbed view can recognise a repeat."
