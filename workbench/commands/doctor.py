"""`workbench doctor`: check the machines of a deployment for faults that would prevent a launch, and print the remedies."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..terminal import printable
from .launch import PLAN, deployed
from .options import Commands, add_command

if TYPE_CHECKING:
    from ..deployment.doctor import Finding

__all__ = ["add"]

WORDS = {"ok": "ok", "wrong": "WRONG", "unknown": "unknown", "unreachable": "UNREACHABLE"}


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "doctor",
        _doctor,
        "check the machines of a plan for everything that a launch needs, without changing them",
        """  workbench doctor deployment.toml
  workbench doctor deployment.toml --json

exit status: 0 all is ok, 1 something is wrong or cannot be determined, 2 a machine is unreachable, or the plan is invalid""",
    )
    made.add_argument("plan", type=Path, nargs="?", default=PLAN, metavar="FILE", help=f"default: {PLAN}")
    made.add_argument("--ssh-config", type=Path, metavar="FILE", help="replaces ~/.ssh/config")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument(
        "--root",
        default="/",
        metavar="DIR",
        help="the path of the machines' own root file system, if their sshd runs in a container (/)",
    )


def _doctor(options: argparse.Namespace) -> int:
    with deployed(options.plan, options.ssh_config) as made:
        findings = made.examine(options.root)
    states = {finding.state for finding in findings}
    if options.json:
        print(json.dumps({"ok": states == {"ok"}, "findings": [dataclasses.asdict(each) for each in findings]}, indent=1))
    else:
        widths = [max(len(printable(text)) for text in column) for column in zip(*map(_columns, findings), strict=True)]
        for finding in findings:
            cells = [printable(text).ljust(width) for text, width in zip(_columns(finding), widths, strict=True)]
            print("  ".join([*cells, printable(finding.advice)]))
    return 2 if "unreachable" in states else 0 if states == {"ok"} else 1


def _columns(finding: Finding) -> tuple[str, str, str]:
    return finding.machine, finding.check, WORDS[finding.state]
