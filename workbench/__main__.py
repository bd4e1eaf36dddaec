"""The `workbench` command: its entry, and what every error of a user's ends in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import ALL
from .errors import UsageError, WorkbenchError
from .processes import spin_briefly
from .terminal import printable

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for an error, 2 for a wrong call, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    spin_briefly()
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except WorkbenchError as error:
        print(f"workbench: {printable(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("workbench: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"workbench: {printable(f'{error.strerror or error}{where}')}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="PMC² Workbench: privacy-protected image recognition between phone, edge and cloud.",
        epilog="""examples:
  workbench reproduce                                    everything on the embedded digits, with a report
  workbench train pair --dataset digits                  what a pair needs, minutes on 2 cores
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
