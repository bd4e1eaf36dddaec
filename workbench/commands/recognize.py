"""`workbench recognize`: send pictures to an edge service, and print the labels that its cloud returns."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..terminal import printable
from .launch import PLAN, deployed
from .options import AUXILIARY, TARGET, Commands, add_command, positive, text_table

if TYPE_CHECKING:
    from ..client import HttpsClient
    from ..system import Recognition

__all__ = ["add"]

EDGE, CLOUD = "https://127.0.0.1:8443", "https://127.0.0.1:8444"


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "recognize",
        recognize,
        "have pictures recognised by an edge and its cloud",
        f"""  workbench recognize cat.png dog.jpg --edge {EDGE} --certs data/certs
  workbench recognize cat.png --deployment deployment.toml              through what `workbench launch` has launched
  workbench recognize *.jpg --certs data/certs --token-file token --json
  workbench recognize cat.png --certs data/certs --policy policy.toml   only to an attested guest
  workbench recognize cat.png --arrangement pp --cloud {CLOUD} --certs data/certs   protected here, no edge""",
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JPEG or PNG, of any size")
    made.add_argument("--edge", metavar="URL", help=f"where pictures go (default: the deployment's, else {EDGE})")
    made.add_argument(
        "--deployment",
        type=Path,
        metavar="FILE",
        help=f"a plan that is launched (default, without --certs: {PLAN} if it is here)",
    )
    made.add_argument("--certs", type=Path, metavar="DIR", help="a folder made by `workbench certs`: its authority is trusted")
    made.add_argument("--token-file", type=Path, metavar="FILE", help="shown in place of a certificate ($WORKBENCH_TOKEN)")
    made.add_argument("--strength", type=float, default=1.0, metavar="A", help="of the perturbation (default: 1)")
    made.add_argument("--rate", type=float, metavar="R", help="of the edge's codec neural, 0 to 1 (default: the edge's own)")
    made.add_argument("--deadline", type=float, default=30.0, metavar="S", help="for each batch of 256 (30)")
    made.add_argument(
        "--batch", type=positive, default=256, metavar="N", help="pictures that are sent together, up to 24 MiB (256)"
    )
    made.add_argument(
        "--arrangement", default="pmc2", choices=("pmc2", "pp"), help="pp: protect here, send PNG to --cloud (default: pmc2)"
    )
    made.add_argument("--cloud", default=CLOUD, metavar="URL", help=f"of arrangement pp (default: {CLOUD})")
    made.add_argument("--dataset", default="cifar10", help="of arrangement pp: whose weights (default: cifar10, which ships)")
    made.add_argument("--target", default=TARGET, metavar="NAME", help=f"of arrangement pp (default: {TARGET})")
    made.add_argument("--auxiliary", default=AUXILIARY, metavar="NAME", help=f"of arrangement pp (default: {AUXILIARY})")
    made.add_argument("--policy", type=Path, metavar="FILE", help="what the edge's evidence must prove first (attestation)")
    made.add_argument("--plain-http", action="store_true", help="allow http:// on loopback: for debugging")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def recognize(options: argparse.Namespace) -> int:
    from ..client import HttpsClient
    from ..services.trust import Token

    _place(options)
    if options.certs is None and not options.plain_http:
        raise UsageError("give --certs DIR (made by `workbench certs DIR`): its authority is whom this client trusts")
    shared: dict[str, Any] = {"certs": options.certs, "token": Token.read(options.token_file), "plain": options.plain_http}
    shared |= {"deadline_s": options.deadline, "batch": options.batch, "policy": options.policy}
    files = [_read(path) for path in options.files]
    progress = len(files) > options.batch
    if options.arrangement == "pp":
        edge, images = _phone(options, files)
        with HttpsClient(options.cloud, protects=edge, **shared) as client:
            answer = client.recognise(images, options.strength, progress, options.rate)
            return _print(options, client, answer)
    with HttpsClient(options.edge, **shared) as client:
        answer = client.recognise_files(files, options.strength, progress, options.rate)
        return _print(options, client, answer)


def _place(options: argparse.Namespace) -> None:
    plan = options.deployment
    if plan is not None and (options.edge is not None or options.arrangement == "pp"):
        raise UsageError("--deployment names its own edge: leave out --edge and --arrangement pp")
    if plan is None and options.edge is None and options.certs is None and options.arrangement != "pp" and PLAN.is_file():
        plan = PLAN
    if plan is not None:
        with deployed(plan) as made:
            options.edge, options.certs = made.url("edge"), options.certs or made.plan.certs
            options.policy = made.policy(options.policy)
    options.edge = options.edge or EDGE


def _read(path: Path) -> bytes:
    # The file may be a pipe, so it is read only once.
    from ..pictures import open_picture, read_picture
    from ..services.edge import LARGE

    content = read_picture(path, LARGE)
    open_picture(content, limits=LARGE, name=str(path))
    return content


def _phone(options: argparse.Namespace, files: list[bytes]) -> tuple[Any, Any]:
    from .. import data
    from ..pictures import load_pictures, to_float
    from ..services.loading import StageConfig, edge_stage

    dataset = data.load(options.dataset)
    stage = StageConfig(dataset.family, dataset.classes, options.target, options.auxiliary, "png")
    return edge_stage(stage)[0], to_float(load_pictures(files, stage.size))


def _print(options: argparse.Namespace, client: HttpsClient, answer: Recognition) -> int:
    classes, names = client.classes, [str(path) for path in options.files]
    best = answer.scores.max(1).values.tolist()
    labels = [classes[label] for label in answer.labels.tolist()]
    if options.json:
        scores = [dict(zip(classes, map(float, row), strict=True)) for row in answer.scores]
        results = [
            {"file": name, "label": label, "scores": row} for name, label, row in zip(names, labels, scores, strict=True)
        ]
        result = {"results": results, "n": len(names), "arrangement": options.arrangement, "strength": options.strength}
        result |= {} if options.rate is None else {"rate": options.rate}
        if client.verdict is not None:
            verdict = client.verdict
            warnings = list(verdict.warnings)
            result["attestation"] = {"proves": verdict.proves, "summary": verdict.summary, "warnings": warnings}
        result |= {"s1_bytes": answer.s1_bytes, "s2_bytes": answer.s2_bytes, "milliseconds": answer.milliseconds}
        print(json.dumps(result, indent=1))
        return 0
    rows = [[name, label, f"{100 * score:.1f} %"] for name, label, score in zip(names, labels, best, strict=True)]
    print(text_table(["picture", "label", "score"], rows))
    if client.verdict is not None:
        print(f"\nattested: {printable(client.verdict.summary)}")
        for warning in client.verdict.warnings:
            print(f"WARNING: {printable(warning)}")
    sent = "" if answer.s1_bytes is None else f"{answer.s1_bytes:,} bytes to the edge, "
    total = sum(value for value in answer.milliseconds.values() if value is not None)
    print(f"\n{sent}{answer.s2_bytes:,.0f} bytes on to the cloud, {total:.1f} ms in all:")
    print(text_table(["component", "ms"], [[name, f"{value or 0:.2f}"] for name, value in answer.milliseconds.items()]))
    return 0
