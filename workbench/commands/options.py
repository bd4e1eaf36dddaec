"""Shared functions of the commands: declare a command, declare and read common options, print tables.

The target is the classifier that must still recognise protected images. The auxiliary is the classifier that must fail on them.
A generator protects the images, and a compressor encodes them. The type `Pair` holds these four networks.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import UsageError, unknown
from ..terminal import printable

if TYPE_CHECKING:  # each command imports heavy modules itself, so that --help answers at once
    from ..data import Dataset
    from ..weights import Pair

__all__ = [
    "AUXILIARY",
    "TARGET",
    "Commands",
    "add_command",
    "add_common",
    "add_precision",
    "add_rate",
    "check_preset",
    "duration",
    "pick_device",
    "positive",
    "read_dataset",
    "read_pair",
    "read_rate",
    "text_table",
]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

TARGET, AUXILIARY = "resnet18", "vgg13_bn"


def add_command(commands: Commands, name: str, run: Any, summary: str, examples: str) -> argparse.ArgumentParser:
    """Declare the command `name`, and return its parser, to which the caller adds options.

    The function `run` gets the parsed options and returns the exit status. `summary` is one line of text. `examples` is a text
    with example commands, which ends the help text.
    """
    made = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=run)
    return made


def add_common(made: argparse.ArgumentParser, device: bool = True) -> None:
    """Declare the options for the data set, the target and the auxiliary. With `device`, also declare `--device`."""
    made.add_argument(
        "--dataset",
        default="digits",
        help="digits, cifar10, samples, samples-imagenet, samples-photographs or folder (default: digits)",
    )
    made.add_argument("--data-dir", metavar="DIR", help="a local copy of the data set; for `folder`, its class folders")
    made.add_argument(
        "--target", default=TARGET, metavar="NAME", help=f"the model that must still recognise pictures (default: {TARGET})"
    )
    made.add_argument("--auxiliary", default=AUXILIARY, metavar="NAME", help=f"the model that must fail (default: {AUXILIARY})")
    if device:
        made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one")


def add_precision(made: argparse.ArgumentParser, where: str) -> None:
    """Declare the option `--precision`, the number format in which the networks compute.

    `where` is the start of the option's help text. The default is added to it.
    """
    made.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help=f"{where} (default: float32)")


def add_rate(made: argparse.ArgumentParser, whose: str = "of the codec neural") -> None:
    made.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help=f"{whose}: 0 (the fewest bits, the class) to 1 (the most, the picture); default: 0",
    )


def read_rate(options: argparse.Namespace) -> float | None:
    """Return the value of `--rate`, or None if the option was not given. Rates are from 0 (fewest bits) to 1 (most bits).

    Raises UsageError for a rate outside [0, 1], and for a rate with another codec than `neural`.
    """
    from ..rates import check_rate

    check_rate(options.rate)
    if options.rate is not None and options.codec != "neural":
        raise UsageError(f"--rate {options.rate:g} goes with --codec neural, not {options.codec}")
    return None if options.rate is None else float(options.rate)


def read_dataset(options: argparse.Namespace) -> Dataset:
    from .. import data

    return data.load(options.dataset, options.data_dir or None)


def read_pair(options: argparse.Namespace, dataset: Dataset) -> Pair:
    """Load the four networks that the options name. Raises WeightsError for missing weights.

    If the codec needs no compressor, the compressor is not loaded.

    `--variant` names a variant of the compressor, and `--generator-variant` a variant of the generator. There is one exception:
    `--variant` may name a variant that only generators have, such as `paper`. Without `--generator-variant`, this generator is
    then loaded, with its own compressor.

    Raises UsageError if the codec needs a compressor, and `--variant` fits both a generator and a compressor. Raises UsageError
    if the codec needs no compressor, and `--variant` names one.
    """
    from .. import system, weights

    pair = (options.target, options.auxiliary)
    generator, compressor = options.generator_variant, options.variant
    neural = options.codec in system.NEURAL
    if compressor and not generator and weights.find(weights.generator_name(*pair, compressor), dataset.family) is not None:
        if neural and weights.find(weights.compressor_name(*pair, compressor), dataset.family) is not None:
            raise UsageError(
                f"--variant {compressor} is both a generator and a compressor of the default generator: for the former use "
                f"--generator-variant {compressor}, for the latter train the compressor under another name"
            )
        generator, compressor = compressor, ""
    if compressor and not neural:
        raise UsageError(
            f"--variant {compressor} names a compressor, and the codec {options.codec} has none: leave --variant out, or name "
            "a generator with --generator-variant"
        )
    return weights.load_pair(
        dataset.family,
        *pair,
        compressor=neural,
        variant=generator,
        compressor_variant=compressor,
    )


def check_preset(name: str) -> None:
    """Raise UsageError if there is no preset `name`. A preset is a set of training settings, such as `quick`."""
    from ..training import PRESETS

    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)


def pick_device(name: str) -> str:
    """Return "cpu" or "cuda" for the value `name` of `--device`. The value `auto` selects a GPU if there is one.

    Raises UsageError for "cuda" without a GPU.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was requested, but torch sees no CUDA GPU; use 'cpu' or 'auto'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def text_table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table as text. The first column is left-aligned, and the other columns are right-aligned.

    `columns` are the titles of the columns. Control characters in the cells of `rows` are escaped.
    """
    table = [columns, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [[cell.rjust(widths[i]) if i else cell.ljust(widths[i]) for i, cell in enumerate(row)] for row in table]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line).rstrip() for line in lines)


def duration(text: str) -> float:
    """Parse the text of an option as a finite number above 0. Raises ArgumentTypeError for other text."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text!r}")


def positive(text: str) -> int:
    """Parse the text of an option as an integer of at least 1. Raises ArgumentTypeError for other text."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
