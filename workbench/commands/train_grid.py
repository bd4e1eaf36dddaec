"""`workbench grid`: train and evaluate all pairs of target and auxiliary classifiers in one resumable run."""

from __future__ import annotations

import argparse
import contextlib

from ..storage import expand_user
from ..terminal import printable
from .options import Commands, add_command, check_preset, positive, read_dataset, text_table

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "grid",
        grid,
        "train and measure target x auxiliary pairs, all 64 unless some are named",
        """  workbench grid --targets resnet18 vgg13_bn --auxiliaries resnet18 vgg13_bn
  workbench grid --dataset cifar10 --preset paper --scheduler tcp://head:8786     a GPU for each Dask worker
After an interruption the same command continues.""",
    )
    made.add_argument("--dataset", default="digits", help="digits or cifar10 (default: digits)")
    made.add_argument("--data-dir", metavar="DIR", help="a local copy of the data set")
    made.add_argument("--targets", nargs="+", metavar="NAME", help="default: all eight")
    made.add_argument("--auxiliaries", nargs="+", metavar="NAME", help="default: all eight")
    made.add_argument("--preset", default="quick", help="quick, hours or paper (default: quick)")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
    made.add_argument("--limit", type=positive, metavar="N", help="measure on the first N test images only")
    made.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="send through the codec neural at this rate, 0 to 1, and train its compressors (default: PNG)",
    )
    made.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler (extra `cluster`)")


def grid(options: argparse.Namespace) -> int:
    from .. import runs
    from ..classifiers import CLASSIFIER_NAMES
    from ..grid import Grid
    from ..rates import check_rate
    from ..weights import classifier_name

    dataset = read_dataset(options)
    check_preset(options.preset)
    check_rate(options.rate)
    where = ("--data-dir", str(expand_user(options.data_dir).resolve())) if options.data_dir else ()
    data = ("--dataset", options.dataset, *where)
    targets, auxiliaries = (
        tuple(classifier_name(name) for name in names or CLASSIFIER_NAMES) for names in (options.targets, options.auxiliaries)
    )
    asked = Grid(dataset, data, targets, auxiliaries, options.preset, options.seed, options.limit, options.rate)
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(runs.dask_executor(options.scheduler)) if options.scheduler else None
        result = asked.run(executor)
    rows = [
        [
            f"{each['target']}-X-{each['auxiliary']}",
            *(f"{100 * each[key]['value']:.1f}" for key in ("original_accuracy", "protected_accuracy")),
            f"{100 * each['auxiliary_protected_accuracy']['value']:.1f}",
            f"{each['abs_ssim']['value']:.3f}",
            f"{each['legibility']['value']:+.3f}" if "legibility" in each else "",
        ]
        for each in result["results"]
    ]
    print(text_table(["pair", "target, original", "target, protected", "auxiliary, protected", "|SSIM|", "legibility"], rows))
    hours = result["cost"]["all_64_pairs_hours"]
    print(f"\nall 64 pairs would take about {hours:g} hours of training at this pace\n{printable(asked.folder / 'grid.json')}")
    return 0
