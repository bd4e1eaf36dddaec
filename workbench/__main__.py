"""The entry point of the `workbench` command. It turns exceptions into messages for the user."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .commands import ALL
from .errors import UsageError, WorkbenchError
from .processes import spin_briefly
from .streams import complain, flushed, prepare
from .terminal import printable

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (None: `sys.argv`), and return the exit status.

    The status is 0 for success, 1 for an error, 2 for wrong usage and 130 after Ctrl-C. A command may define further meanings
    of 1 and 2. Raises SystemExit for `--help`, `--version` and options that cannot be parsed.
    """
    prepare()
    try:
        status = _run(arguments)
    except SystemExit as ended:  # argparse: --help, --version, wrong usage
        if not flushed() and not ended.code:
            raise SystemExit(1) from None
        raise
    return status if flushed() else status or 1


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    spin_briefly()
    try:
        _require_directory()
        status: int = options.run(options)
    except WorkbenchError as error:
        complain(f"workbench: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        complain("workbench: stopped; what was finished is kept, the same command goes on from there")
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        complain(f"workbench: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return 1
    return status


def _require_directory() -> None:
    # Without a working directory libraries would abort during their import.
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the working directory no longer exists: change to one that does") from error


class _Parser(argparse.ArgumentParser):
    """An argument parser whose messages escape control characters, because a message may quote the command line."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message, "\n") if message else message, file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="workbench",
        description="PMC² Workbench: privacy-protected image recognition between phone, edge and cloud.",
        epilog="""examples:
  workbench reproduce                                    everything on the embedded digits, with a report
  workbench train pair --dataset digits                  what a pair lacks, minutes on 2 cores
  workbench evaluate --dataset digits --codec neural     accuracy, SSIM and bytes of the whole system
  workbench models                                       which weights are there""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for each in ALL:
        each.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
