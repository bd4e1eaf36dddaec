"""`workbench import-weights`, `export-weights`, `model-card` and `models`: convert, export, describe and list weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import UsageError, WorkbenchError, unknown
from ..streams import complain
from ..terminal import printable
from .options import Commands, add_command, add_common, text_table

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "import-weights",
        import_weights,
        "convert a checkpoint of the public baseline to safetensors",
        """  workbench import-weights resnet18.pt                   a classifier of PyTorch_CIFAR10
  workbench import-weights epoch=99.ckpt                 a generator of ProtectivePerturbation, with its classifiers
  workbench import-weights generator.ckpt --target vgg13_bn --auxiliary resnet18""",
    )
    made.add_argument("file", type=Path, help="a state dict (.pt) or a Lightning checkpoint (.ckpt)")
    made.add_argument("--dataset", default="cifar10", help="the data set it was trained on (default: cifar10)")
    made.add_argument("--target", default="", metavar="NAME", help="of a generator, if the checkpoint does not name it")
    made.add_argument("--auxiliary", default="", metavar="NAME", help="of a generator, if the checkpoint does not name it")

    made = add_command(
        commands,
        "export-weights",
        export_weights,
        "write a pair's weights in the shipped form: floats in 16 bits",
        "  workbench export-weights data/weights --dataset cifar10",
    )
    made.add_argument("folder", type=Path, help="the folder to write to; data/weights is searched for weights")
    add_common(made, device=False)
    made.add_argument("--full", action="store_true", help="keep floats in 32 bits")

    made = add_command(
        commands,
        "model-card",
        model_card,
        "write a pair's model card from its manifests",
        """  workbench model-card --dataset cifar10                                print it
  workbench evaluate --dataset cifar10 --json > neural.json
  workbench model-card --dataset cifar10 --results neural.json --output data/weights/cifar10/resnet18-X-vgg13_bn.md""",
    )
    add_common(made, device=False)
    made.add_argument("--generator-variant", default="", metavar="NAME", help="of the generator")
    made.add_argument("--variant", default="", metavar="NAME", help="of the compressor")
    made.add_argument(
        "--results", nargs="+", type=Path, default=[], metavar="FILE", help="outputs of `workbench evaluate --json`"
    )
    made.add_argument("--output", type=Path, metavar="FILE", help="write it to a file")

    made = add_command(
        commands,
        "models",
        models,
        "list the networks and the available weights",
        "  workbench models\n  workbench models --json",
    )
    made.add_argument("--json", action="store_true", help="print a JSON array")


def import_weights(options: argparse.Namespace) -> int:
    from .. import checkpoints, data, weights

    families = [name for name in data.DATASETS if name != "folder" and not name.startswith("samples")]
    if options.dataset not in families and not options.dataset.startswith("folder-"):
        raise unknown("data set", options.dataset, families)
    for manifest in checkpoints.import_checkpoint(options.file, options.dataset, options.target, options.auxiliary):
        for note in manifest.training.get("import_notes", []):
            complain(f"{options.file}: {note}")
        print(
            f"{manifest.kind} {manifest.name}  sha256 {manifest.sha256[:16]}  "
            f"{printable(weights.roots()[0] / manifest.family / manifest.file)}"
        )
    return 0


def export_weights(options: argparse.Namespace) -> int:
    from .. import weights

    for manifest in weights.export(options.dataset, options.target, options.auxiliary, options.folder, not options.full):
        path = options.folder / manifest.family / manifest.file
        print(f"{printable(path)}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def model_card(options: argparse.Namespace) -> int:
    from .. import weights
    from ..model_card import card
    from ..storage import require_writable, write_text

    if options.output is not None:
        require_writable(options.output.resolve().parent)
    pair = weights.load_pair(
        options.dataset,
        options.target,
        options.auxiliary,
        variant=options.generator_variant,
        compressor_variant=options.variant,
    )
    text = card(pair, [_result(path) for path in options.results])
    if options.output is None:
        print(text, end="")
    else:
        write_text(options.output, text)
    return 0


def _result(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as JSON ({error}): name a file that `workbench evaluate --json` wrote"
        ) from error
    return content


def models(options: argparse.Namespace) -> int:
    from .. import weights
    from ..classifiers import CLASSIFIER_NAMES

    broken: list[WorkbenchError] = []
    listed = [
        {**manifest.__dict__, "path": str(path), "bytes": path.stat().st_size if path.is_file() else None}
        for manifest, path in weights.listing(broken.append)
    ]
    for error in broken:
        complain(f"workbench: {error}")
    if options.json:
        shown = [{**each, "training": {k: v for k, v in each["training"].items() if k != "history"}} for each in listed]
        print(json.dumps(shown, indent=1))
        return 1 if broken else 0
    print("classifiers that can be built: " + ", ".join(CLASSIFIER_NAMES))
    if not listed:
        print(f"no weights yet under {printable(weights.roots()[0])}; train some: workbench train pair --dataset digits")
        return 1 if broken else 0
    rows = []
    for each in listed:
        metrics = each["metrics"]
        accuracy = f"{100 * metrics['accuracy']:.1f} %" if "accuracy" in metrics else ""
        preset = each["training"].get("preset", "imported") + ("" if each["complete"] else " (stopped early)")
        size = "missing" if each["bytes"] is None else f"{each['bytes'] / 1e6:.1f} MB"
        rows.append([each["kind"], each["name"], each["data"], preset, accuracy, size])
    print(text_table(["kind", "name", "trained on", "preset", "validation accuracy", "size"], rows))
    return 1 if broken else 0
