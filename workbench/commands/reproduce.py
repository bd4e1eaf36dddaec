"""`workbench reproduce`: train missing networks, execute the notebooks, and write the report."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import RunError, UsageError
from ..storage import expand_user
from ..streams import complain
from .options import AUXILIARY, TARGET, Commands, add_command, add_common, check_preset, positive, read_dataset, text_table

if TYPE_CHECKING:
    from ..data import Dataset
    from ..weights import Manifest

__all__ = ["add"]

EMBEDDED = "digits"  # a training on this data set takes minutes, so no shipped weights are used


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "reproduce",
        reproduce,
        "train missing networks, execute every notebook, write the report",
        """  workbench reproduce
  workbench reproduce --dataset cifar10 --data-dir ~/cifar10 --limit 1000
  workbench reproduce --resume                           the rest of the latest run
  workbench reproduce --scheduler tcp://head:8786        on a Dask cluster that sees these files""",
    )
    add_common(made, device=False)
    made.add_argument("--preset", default="quick", help="for missing networks: quick or paper (default: quick)")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
    made.add_argument("--limit", type=positive, metavar="N", help="the first N test images only")
    made.add_argument("--notebooks", nargs="+", metavar="NAME", help="only these (default: all)")
    made.add_argument(
        "--resume", nargs="?", const="latest", metavar="RUN", help="continue a run in data/runs (default: the latest)"
    )
    made.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler (extra `cluster`)")


def reproduce(options: argparse.Namespace) -> int:
    from .. import runs, training, weights
    from ..processes import cores
    from ..storage import data_root, write_json

    asked = {
        "dataset": options.dataset,
        "data_dir": str(expand_user(options.data_dir).resolve()) if options.data_dir else "",
        "target": options.target,
        "auxiliary": options.auxiliary,
        "seed": options.seed,
    } | ({"limit": options.limit} if options.limit is not None else {})
    names = options.notebooks or list(runs.NOTEBOOKS)
    if options.resume:
        directory = (data_root() / "runs" / options.resume).resolve()
        asked, names, options.preset = _batch(directory, asked, options)
        options.dataset, options.data_dir = asked["dataset"], asked["data_dir"]
    start = time.monotonic()
    dataset = read_dataset(options)
    n = len(dataset.test.head(asked.get("limit")))  # reads or downloads the data set before any file is written
    threads = max(1, (cores() // min(len(names), cores())))
    check_preset(options.preset)
    weights.generator_name(asked["target"], asked["auxiliary"])  # raises for invalid names
    runs.plan(names, Path(), asked)  # also raises for invalid names, before any file is written
    if not options.resume:
        directory = runs.new_directory()
    tasks = runs.plan(names, directory, asked, threads)
    write_json(directory / "batch.json", {"parameters": asked, "notebooks": names, "preset": options.preset})
    runs.point_latest(directory)
    ours = dataset.name == EMBEDDED
    if ours and weights.find(asked["target"], dataset.family, shipped=False) is None:
        print(f"workbench: reproduce trains its own networks on {dataset.title} and uses no shipped weights", file=sys.stderr)
    pair = (dataset, asked["target"], asked["auxiliary"])
    try:
        manifests = training.ensure(*pair, preset=options.preset, seed=asked["seed"], shipped=not ours)
        networks = {manifest.sha256 for manifest, _ in weights.listing(on_error=lambda error: complain(f"workbench: {error}"))}
        with contextlib.ExitStack() as stack:
            executor = stack.enter_context(runs.dask_executor(options.scheduler)) if options.scheduler else None
            statuses = runs.run_batch(tasks, executor, resume=bool(options.resume), networks=networks)
    except KeyboardInterrupt:
        print("workbench: stopped; `workbench reproduce --resume` goes on from there", file=sys.stderr)
        return 130
    about = _about(dataset, n, manifests, asked, directory, time.monotonic() - start)
    report = runs.collect(directory, statuses, about)
    failed = [status for status in statuses if status["status"] != "done"]
    for status in failed:
        print(f"workbench: notebook {status['notebook']} failed: {status['error'].splitlines()[0]}", file=sys.stderr)
    print(text_table(about["main"]["columns"], about["main"]["rows"]))
    print(f"\n{about['main']['note']}\n\n{report}")
    if failed:
        print(f"workbench: {len(failed)} of {len(statuses)} notebooks failed; --resume runs only these again", file=sys.stderr)
    return 1 if failed else 0


def _batch(directory: Path, given: dict[str, Any], options: argparse.Namespace) -> tuple[dict[str, Any], list[str], str]:
    from .. import runs

    batch = runs.read_json(directory / "batch.json")
    asked, names, preset = batch.get("parameters"), batch.get("notebooks"), batch.get("preset", "quick")
    known = {"dataset", "data_dir", "target", "auxiliary", "seed"}
    if not (isinstance(asked, dict) and known <= asked.keys() and isinstance(names, list) and names):
        raise RunError(f"no run to resume at {directory}: name a folder of {directory.parent}, or leave --resume away")
    defaults = {"dataset": "digits", "data_dir": "", "target": TARGET, "auxiliary": AUXILIARY, "seed": 0}
    for key, value in {**given, "preset": options.preset, "notebooks": options.notebooks or names}.items():
        there = {**asked, "preset": preset, "notebooks": names}.get(key)
        if value != there and value != {**defaults, "preset": "quick"}.get(key):
            raise UsageError(f"--resume goes on with {key} {there!r}, not {value!r}: leave that option away")
    return asked, names, preset


def _about(
    dataset: Dataset, n: int, manifests: list[Manifest], asked: dict[str, Any], directory: Path, seconds: float
) -> dict[str, Any]:
    from .. import runs
    from ..evaluation import provenance

    origin = provenance()
    seeds = " and ".join(sorted({str(each.seed) for each in manifests}))  # not the option's, which reused networks may not have
    facts = {
        "weights": "; ".join(
            f"{each.name} {each.sha256[:12]} ({each.training.get('preset', 'imported')})" for each in manifests
        )
        + ("; all trained by `workbench reproduce`, none shipped" if dataset.name == EMBEDDED else ""),
        "classifiers": ", ".join(
            f"{each.spec['name']} at 1/{each.spec['width']} of the papers' width" if "width" in each.spec else each.spec["name"]
            for each in manifests
            if each.kind == "classifier"
        ),
        "training": f"{sum(each.training.get('seconds', 0) for each in manifests):.0f} s in all, seed {seeds}",
        "device": origin["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in origin["versions"].items()),
        "commit": origin["commit"] or "outside a checkout",
        "this run": f"{math.ceil(seconds)} s; notebooks, figures (PNG, SVG) and summary.json are next to this page",
    }
    return {
        "version": __version__,
        "when": datetime.now().astimezone().strftime("%-d %B %Y, %H:%M %Z"),
        "dataset": dataset.title,
        "n": n,
        "target": asked["target"],
        "auxiliary": asked["auxiliary"],
        "parameters": asked,
        "origin": origin,
        "facts": facts,
        "main": runs.main_table(directory),
    }
