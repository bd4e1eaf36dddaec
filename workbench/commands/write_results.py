"""`workbench results`: write the results pages from data/results, or check that the pages are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .options import Commands, add_command

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "results",
        write_results,
        "write docs/results and the README's table from data/results",
        """  workbench results                                      after a file of data/results or a template changed
  workbench results --check                              exit status 1 and a line for each page that differs""",
    )
    made.add_argument("--check", action="store_true", help="write nothing; report the pages that differ")
    made.add_argument(
        "--root", type=Path, metavar="DIR", help="a checkout of the project (default: the one this command runs from)"
    )


def write_results(options: argparse.Namespace) -> int:
    from .. import results
    from ..storage import write_text

    root = (options.root or Path(__file__).parents[2]).resolve()
    rendered = results.pages(root)
    lines = results.differing(root, rendered)
    if options.check:
        for line in lines:
            print(f"workbench: {line}", file=sys.stderr)
        return 1 if lines else 0
    for path, text in rendered.items():
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text:
            write_text(root / path, text)
            print(path)
    return 0
