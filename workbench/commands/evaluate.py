"""`workbench evaluate`: measure how well a system protects and recognises test images, and the bytes per image."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import UsageError
from .options import (
    Commands,
    add_command,
    add_common,
    add_precision,
    add_rate,
    pick_device,
    positive,
    read_dataset,
    read_pair,
    read_rate,
)

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "evaluate",
        evaluate,
        "measure accuracy, SSIM and bytes of the whole system",
        """  workbench evaluate --dataset digits --codec neural --json
  workbench evaluate --dataset cifar10 --data-dir ~/cifar10 --codec jpeg --quality 89 --limit 500
  workbench evaluate --dataset digits --rate 0.6 --strength 0.2
  workbench evaluate --dataset samples --codec png --strength 0.5""",
    )
    add_common(made)
    made.add_argument(
        "--codec",
        default="neural",
        choices=("neural", "compressai", "png", "jpeg", "webp"),
        help="default: neural; compressai: as in the paper, latents rounded, with CompressAI's entropy coder",
    )
    made.add_argument("--quality", type=int, metavar="Q", help="of jpeg (1 to 95) or webp (1 to 100)")
    add_rate(made)
    made.add_argument("--subsampling", metavar="S", help="of jpeg: 4:4:4, 4:2:2 or 4:2:0 (default: 4:4:4)")
    made.add_argument(
        "--client-quality", type=int, default=90, metavar="Q", help="of the JPEG that the phone sends (default: 90)"
    )
    made.add_argument("--strength", type=float, default=1.0, metavar="A", help="0 (the original) to 1 (the paper's; default)")
    made.add_argument("--limit", type=positive, metavar="N", help="the first N test images only")
    made.add_argument("--batch", type=positive, default=256, metavar="N", help="images that share a payload (default: 256)")
    add_precision(made, "in which generator and classifiers compute")
    made.add_argument("--variant", default="", metavar="NAME", help="of the compressor")
    made.add_argument("--generator-variant", default="", metavar="NAME", help="of the generator")
    made.add_argument("--json", action="store_true", help="print one JSON object")


def evaluate(options: argparse.Namespace) -> int:
    from .. import system
    from ..evaluation import Evaluation
    from ..models import check_strength

    rate = read_rate(options)
    chosen: dict[str, Any] = {} if rate is None else {"rate": rate}
    if options.quality is not None:
        if options.codec not in ("jpeg", "webp"):
            raise UsageError(f"--quality {options.quality} goes with --codec jpeg or webp, not {options.codec}")
        chosen["quality"] = options.quality
    if options.subsampling is not None:
        if options.codec != "jpeg":
            raise UsageError(f"--subsampling {options.subsampling} goes with --codec jpeg, not {options.codec}")
        chosen["subsampling"] = options.subsampling
    check_strength(options.strength)
    client = system.Client(options.client_quality)
    dataset = read_dataset(options)
    pair = read_pair(options, dataset)
    height, width = dataset.test.images.shape[-2:]
    evaluation = Evaluation(
        pair,
        dataset,
        limit=options.limit,
        client=client,
        batch=options.batch,
        device=pick_device(options.device),
        precision=options.precision,
        progress=True,
    )
    codec = system.codec_for(evaluation.pair, options.codec, size=(height, width), **chosen)
    result = evaluation.result(codec, options.strength)
    print(json.dumps(result, indent=1) if options.json else _describe(result))
    return 0


def _describe(result: dict[str, Any]) -> str:
    from ..legibility import CHANNELS

    def percent(key: str) -> str:
        value = result[key]
        return f"{100 * value['value']:.2f} % [{100 * value['low']:.2f}, {100 * value['high']:.2f}]"

    def number(key: str) -> str:
        value = result[key]
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}], spread {value['std']:.3f}"

    def title(role: str) -> str:
        width = result["width"][role]
        return result[role] if width == 1 else f"{result[role]} (1/{width} width)"

    views = ", ".join(f"{view} {result[f'abs_ssim_{view}']['value']:.3f}" for view in CHANNELS)
    return "\n".join(
        [
            f"{title('target')} protected against {title('auxiliary')}, {result['codec']}, strength {result['strength']:g}",
            f"{result['dataset']}, {result['n']} test images, seed {result['seed']}, {result['device']}",
            f"  target on originals        {percent('original_accuracy')}",
            f"  target on protected        {percent('protected_accuracy')}",
            f"  target at the cloud        {percent('target_accuracy')}",
            f"  auxiliary at the cloud     {percent('auxiliary_accuracy')}",
            f"  SSIM, original/protected   {number('ssim')}",
            f"  |SSIM|                     {number('abs_ssim')}",
            f"  |SSIM| by view             {views}",
            *([f"  legibility                 {number('legibility')} (0: nothing is read)"] if "legibility" in result else []),
            f"  S1, client to edge, bytes  {number('s1_bytes')}",
            f"  S2, edge to cloud, bytes   {number('s2_bytes')}",
            *filter(None, [result["selection"]]),
        ]
    )
