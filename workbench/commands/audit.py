"""`workbench audit`: measure what attackers recover from the protected data that an edge sends to a cloud."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StorageError, UsageError
from .options import (
    Commands,
    add_command,
    add_common,
    add_rate,
    pick_device,
    positive,
    read_dataset,
    read_pair,
    read_rate,
    text_table,
)

if TYPE_CHECKING:
    from ..data import Dataset
    from ..weights import Pair

__all__ = ["add"]

VIEWS = ("perturbed", "decoded", "payload", "label")
ATTACKERS = ("undo", "invert", "prior", "optimise", "latents", "diffusion", "read", "retrain", "replay")


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "audit",
        audit,
        "run attackers on what leaves the edge, next to controls",
        """  workbench audit                                                  every attacker on every view, digits
  workbench audit --dataset cifar10 --data-dir ~/cifar10 --json    the pair that ships: ten minutes on 2 cores
  workbench audit --view perturbed --attacker invert --pairs 500 --strength 0.5
  workbench audit --view perturbed --attacker invert --source noise        learn from the attacker's own noise
  workbench audit --dataset cifar10 --generator-variant paper --codec png --view perturbed
  workbench audit --dataset cifar10 --effort full --converge --membership --unseen    in full: days on 2 cores, hours on a GPU
views: perturbed (what a PNG link carries), decoded (what the cloud looks at), payload (what crosses), label""",
    )
    add_common(made)
    made.add_argument("--view", choices=VIEWS, help="one of the views (default: all)")
    made.add_argument("--attacker", choices=ATTACKERS, help="one of the attackers (default: all that the view allows)")
    made.add_argument(
        "--codec",
        default="neural",
        choices=("neural", "compressai", "png", "jpeg", "webp"),
        help="between edge and cloud (default: neural)",
    )
    made.add_argument("--strength", type=float, default=1.0, metavar="A", help="0 (the original) to 1 (default)")
    add_rate(made)
    made.add_argument("--pairs", type=positive, metavar="N", help="pictures with their views that attackers learn from")
    made.add_argument(
        "--source",
        default="same",
        choices=("same", "other", "noise"),
        help="of these pictures: the data set, others like it, noise",
    )
    made.add_argument(
        "--effort",
        default="quick",
        choices=("trial", "brief", "quick", "full"),
        help="trial: only to see that all runs; brief: a notebook's; quick (default): minutes; full: an hour and more",
    )
    made.add_argument("--seeds", type=positive, default=3, metavar="N", help="of each attacker (default: 3)")
    made.add_argument(
        "--limit",
        type=positive,
        default=1000,
        metavar="N",
        help="test images, all known to replay (default: 1000); attackers that search for each picture take at most 1000",
    )
    made.add_argument(
        "--converge", action="store_true", help="double the effort until the best attacker gains less than 0.1 dB"
    )
    made.add_argument("--membership", action="store_true", help="test membership with shadow generators, too")
    made.add_argument("--unseen", action="store_true", help="test three classifiers that no training saw, too")
    made.add_argument("--generator-variant", default="", metavar="NAME", help="of the generator")
    made.add_argument("--variant", default="", metavar="NAME", help="of the compressor")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("--output", type=Path, metavar="FILE", help="write the JSON object to a file, too")
    made.add_argument("--page", type=Path, metavar="FILE", help="write the page for a privacy officer (HTML), too")


def audit(options: argparse.Namespace) -> int:
    from ..audit import ATTACKERS as KNOWN
    from ..audit import EFFORTS, Audit, privacy_report, sweeps
    from ..audit.linkage import SHADOWS
    from ..audit.unseen import UNSEEN
    from ..notebook import plain
    from ..storage import require_writable, write_json

    for file in (options.output, options.page):
        if file is not None:
            require_writable(file.resolve().parent)
    rate = read_rate(options)
    dataset = read_dataset(options)
    pair = read_pair(options, dataset)
    views = (options.view,) if options.view else VIEWS
    attackers = (options.attacker,) if options.attacker else ATTACKERS
    if options.attacker and options.view and options.view not in KNOWN[options.attacker].views:
        allowed = ", ".join(KNOWN[options.attacker].views)
        raise UsageError(f"attacker {options.attacker!r} does not work on view {options.view!r}: on {allowed}")
    folder = _folder(options, pair, dataset)
    made = Audit(
        pair,
        dataset,
        codec=options.codec,
        strength=options.strength,
        rate=rate,
        n=options.limit,
        seeds=options.seeds,
        effort=EFFORTS[options.effort],
        pairs=options.pairs,
        source=options.source,
        device=pick_device(options.device),
        progress=True,
        folder=folder,
    )
    if options.membership:
        made.linkage.check_rmia(views)  # before hours of work
    if options.converge:
        made.converge(views, attackers)
    result = made.result(views, attackers, SHADOWS if options.membership else 0, UNSEEN if options.unseen else 0)
    result["sends"] = sweeps.of_sends(made) if "replay" in attackers and "perturbed" in views else []
    result = plain(result)
    if options.output is not None:
        write_json(options.output, result)
    if options.page is not None:
        privacy_report.write(result, options.page)
    print(json.dumps(result, indent=1) if options.json else _describe(result))
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _folder(options: argparse.Namespace, pair: Pair, dataset: Dataset) -> Path | None:
    from ..evaluation import origin
    from ..storage import data_root, require_writable

    settings = {key: value for key, value in vars(options).items() if key not in ("run", "json", "output", "page")}
    settings |= {key: value for key, value in origin(pair, dataset, pick_device(options.device)).items() if key != "date"}
    identity = json.dumps(settings, sort_keys=True, default=str)
    folder = data_root() / "runs" / "audits" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    try:
        require_writable(folder.parent)
    except StorageError as error:
        print(f"an interrupted audit will not continue: {error}", file=sys.stderr)
        return None
    if done := len(list(folder.glob("*.safetensors"))):
        print(f"continuing an interrupted audit, of which {done} results are there", file=sys.stderr)
    return folder


def _describe(result: dict[str, Any]) -> str:
    def cell(row: dict[str, Any], key: str, digits: int, factor: int = 1) -> str:
        if key not in row:
            return "-"
        value = row[key]
        return f"{factor * value['value']:.{digits}f} [{factor * value['low']:.{digits}f}, {factor * value['high']:.{digits}f}]"

    columns = ["view", "attacker", "PSNR (dB)", "SSIM", "distance", "class seen (%)", "identified (%)", "class read (%)"]
    kinds = (("psnr", 1, 1), ("ssim", 2, 1), ("distance", 2, 1), ("judged", 1, 100), ("identified", 1, 100), ("read", 1, 100))
    rows = [
        [row["view"], row["attacker"], *(cell(row, key, digits, factor) for key, digits, factor in kinds)]
        for row in [*result["controls"], *result["rows"]]
    ]
    lines = [
        f"{result['target']} protected against {result['auxiliary']}, {result['codec']}, strength {result['strength']:g}",
        f"{result['dataset']}, n = {result['n']} test images, {result['seeds']} seeds, {result['device']}",
        text_table(columns, rows),
        "",
    ]
    for view, found in result["verdict"].items():
        over, allowed = found["over"], found["allowed"]
        if found["failed"]:
            lines.append(f"{view}: no attacker reached the control in {', '.join(found['failed'])}: the attacks failed there")
        lines.append(
            f"{view}: at best {over['psnr']:+.2f} dB (allowed {allowed['psnr']:g}) and {over['ssim']:+.3f} SSIM (allowed "
            f"{allowed['ssim']:g}) over the class's mean image; the picture named {over['identified']:.2f} times as often "
            f"as from the label (allowed {allowed['identified']:g}): "
            + (
                "holds"
                if all(found["holds"].values())
                else "FAILS in " + ", ".join(k for k, v in found["holds"].items() if not v)
            )
        )
    for view, found in result["membership_rmia"].items():
        rate = found["true_positives"]
        lines.append(
            f"{view}: RMIA finds {100 * rate['value']:.2f} % [{100 * rate['low']:.2f}, {100 * rate['high']:.2f}] of the "
            f"training pictures at {100 * found['false_positives']:g} % false positives, area "
            f"{100 * found['area']['value']:.1f} %"
        )
    for row in result["sends"]:
        lines.append(f"replay, {row['sends']} sends of each known picture: names {100 * row['identified']['value']:.1f} %")
    for row in result["unseen"]:
        shares = ", ".join(f"{100 * row[view]['value']:.1f} % of {view}" for view in ("originals", "perturbed", "decoded"))
        held = "holds" if row["holds"]["perturbed"] else "FAILS"
        lines.append(
            f"{row['classifier']}, seen by no training: recognises {shares}; at most {100 * row['allowed']:.3g} % of "
            f"perturbed allowed: {held}"
        )
    for row in result["effort_curve"]:
        lines.append(
            f"effort: {row['effort']['passes']} passes, {row['view']}: {row['attacker']} {row['psnr']['value']:.2f} dB"
        )
    if not result["converged"]:
        lines.append("every figure is a lower bound: the effort was not raised until the attackers stopped gaining")
    bound = result["bound"]
    lines.append(
        f"payload: {bound['bits']['value']:.2f} bits an image, {bound['codes']} codes seen: no attacker names more than "
        f"{100 * bound['identified']:.1f} % of {result['n']} known pictures from it"
    )
    return "\n".join(lines)
