"""`workbench import-weights`, `export-weights` and `models`: convert, ship and list weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import WorkbenchError, unknown
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
    made.add_argument("--target", default="", metavar="NAME", help="of a generator, where the checkpoint does not say")
    made.add_argument("--auxiliary", default="", metavar="NAME", help="of a generator, where the checkpoint does not say")

    made = add_command(
        commands,
        "export-weights",
        export_weights,
        "write a pair's weights in the form that ships: floats in 16 bits",
        "  workbench export-weights data/weights --dataset cifar10",
    )
    made.add_argument("folder", type=Path, help="where to: data/weights is searched for weights")
    add_common(made, device=False)
    made.add_argument("--full", action="store_true", help="keep floats in 32 bits")

    made = add_command(
        commands,
        "models",
        models,
        "list the networks and the weights that are there",
        "  workbench models\n  workbench models --json",
    )
    made.add_argument("--json", action="store_true", help="print a JSON array")


def import_weights(options: argparse.Namespace) -> int:
    """Convert a checkpoint of the public baseline to safetensors."""
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
    """Write a pair's weights in the shipped form."""
    from .. import weights

    for manifest in weights.export(options.dataset, options.target, options.auxiliary, options.folder, not options.full):
        path = options.folder / manifest.family / manifest.file
        print(f"{printable(path)}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def models(options: argparse.Namespace) -> int:
    """List the networks and the available weights."""
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
        print(
            json.dumps(
                [{**each, "training": {k: v for k, v in each["training"].items() if k != "history"}} for each in listed],
                indent=1,
            )
        )
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
