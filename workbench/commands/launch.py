"""`workbench init-deployment`, `launch`, `status`, `logs` and `stop`: run an edge and a cloud on other machines."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..storage import write_text
from ..terminal import printable
from .options import Commands, add_command, duration, text_table

if TYPE_CHECKING:
    from ..deployment.deployed import Deployed

__all__ = ["PLAN", "add", "deployed"]

PLAN = Path("deployment.toml")


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "init-deployment",
        _init,
        "write the commented plan of a deployment",
        "  workbench init-deployment deployment.toml\n  workbench init-deployment deployment.toml --policy policy.toml",
    )
    made.add_argument("--policy", type=Path, metavar="FILE", help="write a commented policy, too: what an edge must prove")
    made.add_argument("plan", type=Path, nargs="?", default=PLAN, metavar="FILE", help=f"default: {PLAN}")
    made = _command(
        commands, "launch", _launch, "start edge and cloud on their machines, and join them", "launch deployment.toml"
    )
    made.add_argument("--ready", type=duration, default=300.0, metavar="S", help="how long the services may take to load (300)")
    _command(commands, "status", _status, "print whether and where the stages run, and how they ended", "status --json")
    made = _command(commands, "logs", _logs, "print the log of a stage", "logs edge --follow")
    made.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    made.add_argument("--lines", type=int, default=100, metavar="N", help="the number of last lines (100)")
    made = _command(commands, "stop", _stop, "stop the stages and remove them", "stop --purge")
    made.add_argument("--purge", action="store_true", help="also remove environments and weights for the next launch")


def _command(commands: Commands, name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
    made = add_command(commands, name, run, summary, f"  workbench {example}")
    if name == "logs":
        made.add_argument("stage", choices=("edge", "cloud"))
    made.add_argument("plan", type=Path, nargs="?", default=PLAN, metavar="FILE", help=f"default: {PLAN}")
    made.add_argument("--ssh-config", type=Path, metavar="FILE", help="replaces ~/.ssh/config")
    if name in ("launch", "status"):
        made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def deployed(plan: Path, config: Path | None = None) -> Deployed:
    """Return the deployment that the file `plan` (TOML) describes. The deployment logs its steps to standard error.

    `config` is an SSH configuration file that replaces ~/.ssh/config. Raises UsageError if `config` does not exist.
    """
    from ..deployment.deployed import Deployed
    from ..deployment.plan import Deployment

    if config is not None and not config.is_file():
        raise UsageError(f"there is no {config}")
    began = time.monotonic()
    return Deployed(
        Deployment.read(plan),
        config,
        lambda line: print(f"{time.monotonic() - began:6.1f} s  {printable(line)}", file=sys.stderr, flush=True),
        sys.stderr.isatty(),
    )


def _init(options: argparse.Namespace) -> int:
    from ..attest import Policy
    from ..deployment.plan import TEMPLATE

    files = {options.plan: TEMPLATE} | ({options.policy: Policy.template()} if options.policy else {})
    for path in files:
        if path.exists():
            raise UsageError(f"{path} is there already: edit it, or name another")
    for path, text in files.items():
        write_text(path, text)
    print(f"{options.plan}: name the hosts, then `workbench launch {options.plan}`")
    if options.policy:
        needed, key = "the measurement, the initdata and the oldest firmware", f"[client] policy = {str(options.policy)!r}"
        print(f"{options.policy}: name {needed}, then, in the plan, {key}")
    return 0


def _launch(options: argparse.Namespace) -> int:
    with deployed(options.plan, options.ssh_config) as made:
        urls = made.launch(options.ready)
        if options.json:
            print(json.dumps({**urls, "certs": str(made.plan.certs)}, indent=1))
            return 0
        print(text_table(["stage", "URL"], [[which, url] for which, url in urls.items()]))
        print(f"workbench recognize PICTURE --deployment {options.plan}")
    return 0


def _status(options: argparse.Namespace) -> int:
    with deployed(options.plan, options.ssh_config) as made:
        rows = made.status()
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        shown = [[row.stage, row.host, row.runtime, row.state, _ago(row.since), row.url] for row in rows]
        print(text_table(["stage", "host", "runtime", "state", "since", "URL"], shown))
        for row in rows:
            for line in row.last:
                print(f"{row.stage}: {printable(line)}")
    return 0 if all(row.state == "ready" for row in rows) else 1


def _ago(since: float | None) -> str:
    if since is None:
        return ""
    seconds = max(0, int(time.time() - since))
    return f"{seconds // 3600} h {seconds // 60 % 60:02} min" if seconds >= 3600 else f"{seconds // 60} min {seconds % 60:02} s"


def _logs(options: argparse.Namespace) -> int:
    if options.lines < 0:
        raise UsageError(f"--lines is from 0 up, got {options.lines}")
    with deployed(options.plan, options.ssh_config) as made:
        for line in made.logs(options.stage, options.lines, options.follow):
            print(printable(line, keep="\t"), flush=True)
    return 0


def _stop(options: argparse.Namespace) -> int:
    with deployed(options.plan, options.ssh_config) as made:
        ran = made.stop(options.purge)
        print(f"stopped: {', '.join(ran) or 'nothing ran'}")
    return 0
