"""`workbench bench`: how fast, beside the papers' own way."""

from __future__ import annotations

import argparse
import json

from .common import Commands, add_command, add_common, pick_device, positive, read_dataset, text_table

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Declare the options."""
    made = add_command(
        commands,
        "bench",
        bench,
        "time edge and cloud beside the papers' own way, as a ratio",
        """  workbench bench models                                 resnet18 / vgg13_bn on digits, batches of 1 and 256
  workbench bench models --dataset cifar10 --batches 1 64 256 --rounds 31 --json""",
    )
    made.add_argument("what", choices=("models",), help="models: generator, codec and classifier")
    add_common(made)
    made.add_argument("--batches", type=positive, nargs="+", default=[1, 256], metavar="N", help="images at a time (1 256)")
    made.add_argument("--rounds", type=positive, default=15, metavar="N", help="turns of each side (default: 15)")
    made.add_argument("--limit", type=positive, metavar="N", help="the first N test images only")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def bench(options: argparse.Namespace) -> int:
    """Time edge and cloud beside the papers' own way."""
    from .. import weights
    from ..bench.models import bench_models
    from ..pictures import to_float

    dataset = read_dataset(options)
    pair = weights.load_pair(dataset.family, options.target, options.auxiliary)
    images = to_float(dataset.test.head(options.limit).images)
    result = bench_models(
        pair, images, batches=options.batches, rounds=options.rounds, device=pick_device(options.device), progress=True
    )
    result |= {"dataset": dataset.title}
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{dataset.title}, {pair.name}, {result['device']}, {result['rounds']} rounds; ms an image, median [least, most]\n")
    sides = list(result["agreement"])
    columns = ["batch", "part", "the papers' way", *(text for name in sides for text in (name, "ratio"))]
    spread = "{median:.2f} [{least:.2f}, {most:.2f}]"
    rows = [
        [
            batch,
            part,
            spread.format(**each["paper"]["ms"]),
            *(spread.format(**each[name][key]) for name in sides for key in ("ms", "ratio")),
        ]
        for batch, parts in result["batches"].items()
        for part, each in parts.items()
    ]
    print(text_table(columns, rows))
    print("\nnew: at a cloud that remembers no earlier answer; reduced: generator, encoder and classifier in bfloat16")
    for name, found in result["agreement"].items():
        print(
            f"{name}: {found['labels_changed']} of {found['n']} labels differ from the plain networks'; "
            f"protected images by at most {found['largest_difference']:.1e}"
        )
    return 0
