"""`workbench bench`: measure the speed of the networks, or of edge and cloud services under load.

The command `bench models` compares the networks with the papers' own implementation.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .options import (
    Commands,
    add_command,
    add_common,
    add_precision,
    add_rate,
    duration,
    pick_device,
    positive,
    read_dataset,
    text_table,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..services.loading import StageConfig
    from ..system import System

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "bench",
        lambda options: (models if options.what == "models" else services)(options),
        "time models next to the papers' own implementation, or the services at work, as ratios",
        """  workbench bench models                                 resnet18 / vgg13_bn on digits, batches of 1 and 256
  workbench bench models --dataset cifar10 --batches 1 64 256 --rounds 31 --json
  workbench bench services --dataset cifar10 --data-dir ~/cifar10    both services here, from one client to saturation
  workbench bench services --hostile 10000 --seconds 120             what attackers without credentials cost the others""",
    )
    made.add_argument("what", choices=("models", "services"), help="models: generator, codec and classifier; services: both")
    add_common(made)
    made.add_argument("--batches", type=positive, nargs="+", default=[1, 256], metavar="N", help="of models: at a time (1 256)")
    made.add_argument("--rounds", type=positive, metavar="N", help="turns of each side (default: 15; services: 5)")
    made.add_argument("--seconds", type=duration, default=5.0, metavar="S", help="of services: how long each step lasts (5)")
    made.add_argument("--requests", type=positive, default=500, metavar="N", help="of services: sent one by one (500)")
    made.add_argument(
        "--soak", type=duration, default=0.0, metavar="MIN", help="of services: minutes at 70 %% of saturation (0)"
    )
    made.add_argument(
        "--hostile",
        type=positive,
        metavar="N",
        help="of services: only 8 honest clients, alone and next to N hostile connections",
    )
    add_precision(made, "of services: in which all sides compute")
    add_rate(made)
    made.add_argument("--limit", type=positive, metavar="N", help="the first N test images only")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def services(options: argparse.Namespace) -> int:
    from ..bench.services import bench_services
    from ..pictures import to_float
    from ..services.loading import StageConfig
    from ..system import System

    dataset = read_dataset(options)
    named: Any = {"precision": options.precision} | ({} if options.rate is None else {"rate": options.rate})
    stage = StageConfig(dataset.family, dataset.classes, options.target, options.auxiliary, **named)
    system = System.load(dataset.family, options.target, options.auxiliary, device=pick_device(options.device), **named)
    images = to_float(dataset.test.head(options.limit or 1024).images)
    data = ("--dataset", options.dataset, *(("--data-dir", options.data_dir) if options.data_dir else ()))
    if options.hostile:
        return hostile(options, stage, system, images, (*data, "--device", options.device))
    result = bench_services(
        stage,
        system,
        images,
        data=(*data, "--device", options.device),
        seconds=options.seconds,
        rounds=options.rounds or 5,
        requests=options.requests,
        soak_s=60 * options.soak,
        progress=True,
    )
    result |= {"dataset": dataset.title}
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{dataset.title}, {stage.target}-X-{stage.auxiliary}, {result['device']}, n = {result['n']} images")
    for columns, rows in _tables(result):
        print("\n" + text_table(columns, rows))
    for name in ("edge", "cloud"):
        before, after = (result["usage"][when][name] for when in ("before", "after"))
        if before and after:
            seconds = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
            memory = [each["process_resident_memory_bytes"] / 2**20 for each in (before, after)]
            print(f"\n{name}: {seconds:.1f} s of CPU, {memory[0]:.0f} MiB resident before, {memory[1]:.0f} after", end="")
    loads = (*result["ladder"], *result["open"], result["saturated"])
    if soak := result.get("soak"):
        change = ", ".join(f"{name} {100 * value:+.1f} %" for name, value in soak["memory_change"].items())
        wrong = soak["errors"] or "none"
        print(f"\nsoak: {soak['requests']} requests in {soak['seconds']:.0f} s, errors {wrong}; memory {change}", end="")
    print(f"\nerrors: {dict(sum((Counter(each['errors']) for each in loads), Counter())) or 'none'}")
    return 0


def hostile(options: argparse.Namespace, stage: StageConfig, system: System, images: Tensor, data: tuple[str, ...]) -> int:
    from ..bench.services import bench_hostile

    result = bench_hostile(stage, system, images, connections=options.hostile, seconds=options.seconds, data=data)
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    rows = [
        [
            name,
            f"{each['images_per_s']:.1f}",
            *(f"{each['ms'][p]['value']:.2f}" for p in ("p50", "p95", "p99")),
            str(each["errors"]),
        ]
        for name, each in (("alone", result["quiet"]), ("attacked", result["honest"]), ("afterwards", result["after"]))
    ]
    print(f"{result['clients']} honest clients, {result['connections']} hostile connections for {options.seconds:g} s\n")
    print(text_table(["honest clients", "images/s", "p50 (ms)", "p95 (ms)", "p99 (ms)", "errors"], rows))
    print(f"\np95 {result['p95_ratio']:.2f} times; edge memory {100 * result['memory_change']:+.1f} %")
    print(f"probes: {result['probes']}\nattackers: {result['attackers']}")
    return 0


def _tables(result: dict[str, Any]) -> Iterator[tuple[list[str], list[list[str]]]]:
    rate, ratio = "{median:.1f} [{least:.1f}, {most:.1f}]", "{median:.3f} [{least:.3f}, {most:.3f}]"
    saturated = {name: each for name, each in result["saturated"].items() if name != "errors"}
    named = {name: f"{name} a request, {each.get('clients')} at once" for name, each in saturated.items()}
    named["direct"] = "no network, 256 at a time"
    yield (
        ["images, saturated", "images/s", "ratio"],
        [[named[name], rate.format(**each["images_per_s"]), ratio.format(**each["ratio"])] for name, each in saturated.items()],
    )
    percents = ("p50", "p95", "p99")
    single = result["single"]
    lines = {
        "one after another, image to label": single,
        **{each["loop"]: each for each in (*result["ladder"], *result["open"])},
        **({f"soak, {result['soak']['loop']}": result["soak"]} if "soak" in result else {}),
    }
    rows = [
        [
            name,
            f"{each['images_per_s']:.1f}",
            *("{value:.2f} [{low:.2f}, {high:.2f}]".format(**each["ms"][p]) for p in percents),
        ]
        for name, each in lines.items()
    ]
    rows.append(["the same without a network", "", *(f"{single['in_process_ms'][p]:.2f}" for p in percents)])
    yield ["one image a request", "images/s", *(f"{each} (ms)" for each in percents)], rows
    yield (
        ["bytes a request", "payload", "client > edge", "edge > client", "edge > cloud", "cloud > edge"],
        [
            [f"{name}, {n} image{'s' * (n != '1')}", f"{each['payload']:.0f}"]
            + [f"{each[link][way]:.0f}" for link in ("client_edge", "edge_cloud") for way in ("out", "back")]
            for name, wire in result["wire"].items()
            for n, each in wire.items()
        ],
    )


def models(options: argparse.Namespace) -> int:
    from .. import weights
    from ..bench.model_speed import bench_models
    from ..pictures import to_float

    dataset = read_dataset(options)
    pair = weights.load_pair(dataset.family, options.target, options.auxiliary)
    images = to_float(dataset.test.head(options.limit).images)
    result = bench_models(
        pair,
        images,
        batches=options.batches,
        rounds=options.rounds or 15,
        device=pick_device(options.device),
        progress=True,
        rate=options.rate or 0.0,
    )
    result |= {"dataset": dataset.title}
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{dataset.title}, {pair.name}, {result['device']}, {result['rounds']} rounds; ms an image, median [least, most]\n")
    sides = list(result["agreement"])
    columns = ["batch", "part", "the papers' way", *(text for name in sides for text in (name, "ratio"))]
    spread = "{median:.2f} [{least:.2f}, {most:.2f}]"
    rows = [
        [
            batch,
            part,
            spread.format(**each["paper"]["ms"]),
            *(spread.format(**each[name][key]) for name in sides for key in ("ms", "ratio")),
        ]
        for batch, parts in result["batches"].items()
        for part, each in parts.items()
    ]
    print(text_table(columns, rows))
    print("\nnew: at a cloud that remembers no earlier answer; reduced: generator, encoder and classifier in bfloat16")
    for name, found in result["agreement"].items():
        print(
            f"{name}: {found['labels_changed']} of {found['n']} labels differ from the plain networks'; "
            f"protected images by at most {found['largest_difference']:.1e}"
        )
    return 0
