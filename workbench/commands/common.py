"""What the commands share: how one is declared, and the options that most have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import UsageError, unknown
from ..terminal import printable

if TYPE_CHECKING:  # the heavy modules are imported by the command that needs them: --help answers at once
    from ..data import Dataset
    from ..weights import Pair

__all__ = [
    "AUXILIARY",
    "TARGET",
    "Commands",
    "add_command",
    "add_common",
    "add_rate",
    "check_preset",
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
    """Declare a command; `run` takes the options and returns the exit status."""
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
    """Declare the options that say on which data, which pair and, unless told not to, which device."""
    made.add_argument(
        "--dataset",
        default="digits",
        help="digits, cifar10, samples, samples-imagenet, samples-photographs or folder (default: digits)",
    )
    made.add_argument("--data-dir", metavar="DIR", help="a local copy of the data set; for `folder`, its class folders")
    made.add_argument(
        "--target", default=TARGET, metavar="NAME", help=f"the model that must go on recognising (default: {TARGET})"
    )
    made.add_argument("--auxiliary", default=AUXILIARY, metavar="NAME", help=f"the model that must not (default: {AUXILIARY})")
    if device:
        made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU where there is one")


def add_rate(made: argparse.ArgumentParser, whose: str = "of the codec neural") -> None:
    """Declare the option of a rate."""
    made.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help=f"{whose}: 0 (the fewest bits, the class) to 1 (the most, the picture); default: 0",
    )


def read_rate(options: argparse.Namespace) -> float | None:
    """Return the rate that the options name, None if they name none.

    Raises UsageError for a rate that cannot be, or another codec than neural.
    """
    from ..rates import check_rate

    check_rate(options.rate)
    if options.rate is not None and options.codec != "neural":
        raise UsageError(f"--rate {options.rate:g} goes with --codec neural, not {options.codec}")
    return None if options.rate is None else float(options.rate)


def read_dataset(options: argparse.Namespace) -> Dataset:
    """Return the data set that the options name."""
    from .. import data

    return data.load(options.dataset, options.data_dir or None)


def read_pair(options: argparse.Namespace, dataset: Dataset) -> Pair:
    """Return the pair, its generator's and compressor's variants among them, that the options name; without the compressor
    where the codec needs none. Raises WeightsError."""
    from .. import system, weights

    return weights.load_pair(
        dataset.family,
        options.target,
        options.auxiliary,
        compressor=options.codec in system.NEURAL,
        variant=options.generator_variant,
        compressor_variant=options.variant,
    )


def check_preset(name: str) -> None:
    """Raise UsageError for a preset that there is not."""
    from ..training import PRESETS

    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)


def pick_device(name: str) -> str:
    """Return the device that `auto` stands for, or the one named; UsageError for a GPU that is not there."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch sees no CUDA GPU; use 'cpu' or 'auto'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def text_table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table in columns of text, the first to the left; control characters in cells are escaped."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(str(line[i])) for line in [columns, *rows]) for i in range(len(columns))]
    lines = [
        [str(cell).ljust(widths[i]) if i == 0 else str(cell).rjust(widths[i]) for i, cell in enumerate(line)]
        for line in [columns, *rows]
    ]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line).rstrip() for line in lines)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
