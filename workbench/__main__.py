"""The `workbench` command: train, evaluate, reproduce, import-weights, models."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import RunError, UsageError, WorkbenchError, unknown

if TYPE_CHECKING:  # the heavy modules are imported by the command that needs them: --help answers at once
    from .data import Dataset
    from .weights import Manifest

__all__ = ["main"]

TARGET, AUXILIARY = "resnet18", "vgg13_bn"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for an error, 2 for a wrong call, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("workbench: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"workbench: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 1
    return status


# --- the commands ----------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> int:
    """Train one network, or all that a pair needs."""
    from . import training, weights

    dataset = _dataset(options)
    _check_preset(options.preset)
    names = (options.target, options.auxiliary)
    if options.variant and options.what not in ("generator", "compressor", "joint"):
        raise UsageError(f"--variant {options.variant} goes with a generator, a compressor or joint, not with a {options.what}")
    run: Any = {"preset": options.preset, "seed": options.seed, "device": options.device, "devices": options.devices}
    if options.epochs is not None:
        if options.what == "pair":
            raise UsageError("--epochs is for one network; a pair's have epochs of their own, by the preset")
        run["epochs"] = options.epochs
    generator = training.LOSSES[options.preset][0]
    generator = training.GeneratorLoss(
        options.auxiliary_term or generator.auxiliary,
        options.ssim_term or generator.ssim,
        generator.ssim_weight if options.ssim_weight is None else options.ssim_weight,
    )
    compressor = training.LOSSES[options.preset][1]
    if options.loss or options.weight is not None:
        compressor = training.CompressorLoss(options.loss or compressor.kind, options.weight)
    trained: list[Manifest] = []
    if options.what == "pair":
        trained = training.ensure(dataset, *names, generator_loss=generator, compressor_loss=compressor, **run)
    elif options.what == "classifier":
        trained = [training.train_classifier(dataset, options.target, **run)]
    elif options.what == "encoder":
        trained = [training.train_encoder(dataset, **run)]
    elif options.what == "generator":
        trained = [training.train_generator(dataset, *names, loss=generator, variant=options.variant, **run)]
    elif options.what == "joint":
        variants: Any = {"variant": options.variant, "generator_variant": options.generator_variant or "start"}
        trained = training.train_joint(
            dataset, options.target, options.auxiliary, generator_loss=generator, compressor_loss=compressor, **variants, **run
        )
    else:
        variants = {"variant": options.variant, "generator_variant": options.generator_variant}
        trained = [training.train_compressor(dataset, options.target, options.auxiliary, loss=compressor, **variants, **run)]
    for manifest in (each for each in trained if each.file and training.rank() == 0):
        print(f"{weights.roots()[0] / manifest.family / manifest.file}  {_figures(manifest)}")
    return 0 if all(manifest.complete for manifest in trained) else 130


def evaluate(options: argparse.Namespace) -> int:
    """Measure one pair with one codec."""
    from . import system, weights
    from .evaluation import Evaluation

    dataset = _dataset(options)
    pair = weights.load_pair(
        dataset.family,
        options.target,
        options.auxiliary,
        compressor=options.codec in system.NEURAL,
        variant=options.generator_variant,
        compressor_variant=options.variant,
    )
    chosen: dict[str, Any] = {}
    if options.quality is not None:
        if options.codec not in ("jpeg", "webp"):
            raise UsageError(f"--quality {options.quality} goes with --codec jpeg or webp, not {options.codec}")
        chosen["quality"] = options.quality
    if options.subsampling is not None:
        if options.codec != "jpeg":
            raise UsageError(f"--subsampling {options.subsampling} goes with --codec jpeg, not {options.codec}")
        chosen["subsampling"] = options.subsampling
    client = system.Client(options.client_quality)
    size = (
        (int(dataset.test.images.shape[-2]), int(dataset.test.images.shape[-1])) if options.codec in system.NEURAL else (32, 32)
    )
    evaluation = Evaluation(
        pair,
        dataset,
        limit=options.limit,
        client=client,
        batch=options.batch,
        device=_device(options.device),
        precision=options.precision,
        progress=True,
    )
    result = evaluation.result(system.codec_for(evaluation.pair, options.codec, size=size, **chosen), options.strength)
    print(json.dumps(result, indent=1) if options.json else _describe(result))
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Train what is missing, execute the notebooks, write the report."""
    import contextlib
    import time

    from . import runs, training, weights
    from .storage import data_root, write_json

    asked = {
        "dataset": options.dataset,
        "data_dir": str(Path(options.data_dir).expanduser().resolve()) if options.data_dir else "",
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
    dataset = _dataset(options)
    n = len(dataset.test.head(asked.get("limit")))  # read, and downloaded if it must be, before anything is made
    threads = max(1, (runs.cores() // min(len(names), runs.cores())))
    _check_preset(options.preset)
    weights.generator_name(asked["target"], asked["auxiliary"])  # raises for names that cannot be
    runs.plan(names, Path(), asked)  # likewise, before anything is made
    if not options.resume:
        directory = runs.new_directory()
    tasks = runs.plan(names, directory, asked, threads)
    write_json(directory / "batch.json", {"parameters": asked, "notebooks": names, "preset": options.preset})
    runs.point_latest(directory)
    try:
        manifests = training.ensure(dataset, asked["target"], asked["auxiliary"], preset=options.preset, seed=asked["seed"])
        with contextlib.ExitStack() as stack:
            executor = stack.enter_context(runs.dask_executor(options.scheduler)) if options.scheduler else None
            statuses = runs.run_batch(tasks, executor, resume=bool(options.resume))
    except KeyboardInterrupt:
        print("workbench: stopped; `workbench reproduce --resume` goes on from there", file=sys.stderr)
        return 130
    about = _about(dataset, n, manifests, asked, directory, time.monotonic() - start)
    report = runs.collect(directory, statuses, about)
    failed = [status for status in statuses if status["status"] != "done"]
    for status in failed:
        print(f"workbench: notebook {status['notebook']} failed: {status['error'].splitlines()[0]}", file=sys.stderr)
    print(_text_table(about["main"]["columns"], about["main"]["rows"]))
    print(f"\n{about['main']['note']}\n\n{report}")
    if failed:
        print(f"workbench: {len(failed)} of {len(statuses)} notebooks failed; --resume runs only these again", file=sys.stderr)
    return 1 if failed else 0


def _batch(directory: Path, given: dict[str, Any], options: argparse.Namespace) -> tuple[dict[str, Any], list[str], str]:
    """Return parameters, notebooks and preset of a run to resume; raise where other ones were given beside `--resume`."""
    from . import runs

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


def grid(options: argparse.Namespace) -> int:
    """Train and measure the target x auxiliary grid."""
    import contextlib

    from . import runs
    from .grid import Grid
    from .models import CLASSIFIER_NAMES
    from .weights import classifier_name

    dataset = _dataset(options)
    _check_preset(options.preset)
    where = ("--data-dir", str(Path(options.data_dir).expanduser().resolve())) if options.data_dir else ()
    data = ("--dataset", options.dataset, *where)
    targets, auxiliaries = (
        tuple(classifier_name(name) for name in names or CLASSIFIER_NAMES) for names in (options.targets, options.auxiliaries)
    )
    asked = Grid(dataset.family, data, targets, auxiliaries, options.preset, options.seed, options.limit)
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(runs.dask_executor(options.scheduler)) if options.scheduler else None
        result = asked.run(executor)
    rows = [
        [
            f"{each['target']}-X-{each['auxiliary']}",
            *(f"{100 * each[key]['value']:.1f}" for key in ("original_accuracy", "protected_accuracy")),
            f"{100 * each['auxiliary_protected_accuracy']['value']:.1f}",
            f"{each['abs_ssim']['value']:.3f}",
        ]
        for each in result["results"]
    ]
    print(_text_table(["pair", "target, original", "target, protected", "auxiliary, protected", "|SSIM|"], rows))
    hours = result["cost"]["all_64_pairs_hours"]
    print(f"\nall 64 pairs would take about {hours:g} hours of training at this pace\n{asked.folder / 'grid.json'}")
    return 0


def import_weights(options: argparse.Namespace) -> int:
    """Convert a checkpoint of the public baseline."""
    from . import data, weights

    families = [name for name in data.DATASETS if name != "folder" and not name.startswith("samples")]
    if options.dataset not in families and not options.dataset.startswith("folder-"):
        raise unknown("data set", options.dataset, families)
    for manifest in weights.import_checkpoint(options.file, options.dataset, options.target, options.auxiliary):
        print(
            f"{manifest.kind} {manifest.name}  sha256 {manifest.sha256[:16]}  "
            f"{weights.roots()[0] / manifest.family / manifest.file}"
        )
    return 0


def bench(options: argparse.Namespace) -> int:
    """Time edge and cloud beside the papers' own way."""
    from . import weights
    from .bench import bench_models
    from .data import to_float

    dataset = _dataset(options)
    pair = weights.load_pair(dataset.family, options.target, options.auxiliary)
    images = to_float(dataset.test.head(options.limit).images)
    result = bench_models(
        pair, images, batches=options.batches, rounds=options.rounds, device=_device(options.device), progress=True
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
    print(_text_table(columns, rows))
    print("\nnew: at a cloud that remembers no earlier answer; reduced: generator, encoder and classifier in bfloat16")
    for name, found in result["agreement"].items():
        print(
            f"{name}: {found['labels_changed']} of {found['n']} labels differ from the plain networks'; "
            f"protected images by at most {found['largest_difference']:.1e}"
        )
    return 0


def export_weights(options: argparse.Namespace) -> int:
    """Write a pair's weights in the form that ships."""
    from . import weights

    for manifest in weights.export(options.dataset, options.target, options.auxiliary, options.folder, not options.full):
        path = options.folder / manifest.family / manifest.file
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def models(options: argparse.Namespace) -> int:
    """List the networks and the weights that are there."""
    from . import models as networks
    from . import weights

    broken: list[WorkbenchError] = []
    listed = [
        {**manifest.__dict__, "path": str(path), "bytes": path.stat().st_size if path.is_file() else None}
        for manifest, path in weights.listing(broken.append)
    ]
    for error in broken:
        print(f"workbench: {error}", file=sys.stderr)
    if options.json:
        print(
            json.dumps(
                [{**each, "training": {k: v for k, v in each["training"].items() if k != "history"}} for each in listed],
                indent=1,
            )
        )
        return 1 if broken else 0
    print("classifiers that can be built: " + ", ".join(networks.CLASSIFIER_NAMES))
    if not listed:
        print(f"no weights yet under {weights.roots()[0]}; train some: workbench train pair --dataset digits")
        return 1 if broken else 0
    rows = []
    for each in listed:
        metrics = each["metrics"]
        accuracy = f"{100 * metrics['accuracy']:.1f} %" if "accuracy" in metrics else ""
        preset = each["training"].get("preset", "imported") + ("" if each["complete"] else " (stopped early)")
        size = "missing" if each["bytes"] is None else f"{each['bytes'] / 1e6:.1f} MB"
        rows.append([each["kind"], each["name"], each["data"], preset, accuracy, size])
    print(_text_table(["kind", "name", "trained on", "preset", "validation accuracy", "size"], rows))
    return 1 if broken else 0


# --- what they share -------------------------------------------------------------------------------------------------------


def _dataset(options: argparse.Namespace) -> Dataset:
    from . import data

    return data.load(options.dataset, options.data_dir or None)


def _check_preset(name: str) -> None:
    from .training import PRESETS

    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch sees no CUDA GPU; use 'cpu' or 'auto'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _figures(manifest: Manifest) -> str:
    names = {
        "accuracy": ("accuracy", 100, " %"),
        "ssim": ("SSIM", 1, ""),
        "auxiliary": ("auxiliary", 100, " %"),
        "bits": ("bits", 1, ""),
    }
    parts = [
        f"{label} {manifest.metrics[key] * factor:.3g}{unit}"
        for key, (label, factor, unit) in names.items()
        if key in manifest.metrics
    ]
    return ", ".join(parts) + " (validation)"


def _describe(result: dict[str, Any]) -> str:
    def percent(key: str) -> str:
        value = result[key]
        return f"{100 * value['value']:.2f} % [{100 * value['low']:.2f}, {100 * value['high']:.2f}]"

    def number(key: str) -> str:
        value = result[key]
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}], spread {value['std']:.3f}"

    return "\n".join(
        [
            f"{result['target']} protected against {result['auxiliary']}, {result['codec']}, strength {result['strength']:g}",
            f"{result['dataset']}, {result['n']} test images, seed {result['seed']}, {result['device']}",
            f"  target on originals        {percent('original_accuracy')}",
            f"  target on protected        {percent('protected_accuracy')}",
            f"  target at the cloud        {percent('target_accuracy')}",
            f"  auxiliary at the cloud     {percent('auxiliary_accuracy')}",
            f"  SSIM, original/protected   {number('ssim')}",
            f"  |SSIM|                     {number('abs_ssim')}",
            f"  S1, client to edge, bytes  {number('s1_bytes')}",
            f"  S2, edge to cloud, bytes   {number('s2_bytes')}",
        ]
    )


def _about(
    dataset: Dataset, n: int, manifests: list[Manifest], asked: dict[str, Any], directory: Path, seconds: float
) -> dict[str, Any]:
    from datetime import datetime

    from . import runs
    from .evaluation import provenance

    main_table = runs.main_table(directory)
    origin = provenance()
    facts = {
        "weights": "; ".join(
            f"{each.name} {each.sha256[:12]} ({each.training.get('preset', 'imported')})" for each in manifests
        ),
        "training": f"{sum(each.training.get('seconds', 0) for each in manifests):.0f} s in all, seed {asked['seed']}",
        "device": origin["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in origin["versions"].items()),
        "commit": origin["commit"] or "outside a checkout",
        "this run": f"{math.ceil(seconds)} s; notebooks, figures (PNG, SVG) and summary.json lie beside this page",
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
        "main": main_table,
    }


def _text_table(columns: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(str(line[i])) for line in [columns, *rows]) for i in range(len(columns))]
    lines = [
        [str(cell).ljust(widths[i]) if i == 0 else str(cell).rjust(widths[i]) for i, cell in enumerate(line)]
        for line in [columns, *rows]
    ]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line).rstrip() for line in lines)


# --- the parser ------------------------------------------------------------------------------------------------------------


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

    def command(name: str, run: Any, summary: str, examples: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    def common(made: argparse.ArgumentParser, device: bool = True) -> None:
        made.add_argument(
            "--dataset",
            default="digits",
            help="digits, cifar10, samples, samples-imagenet, samples-photographs or folder (default: digits)",
        )
        made.add_argument("--data-dir", metavar="DIR", help="a local copy of the data set; for `folder`, its class folders")
        made.add_argument(
            "--target", default=TARGET, metavar="NAME", help=f"the model that must go on recognising (default: {TARGET})"
        )
        made.add_argument(
            "--auxiliary", default=AUXILIARY, metavar="NAME", help=f"the model that must not (default: {AUXILIARY})"
        )
        if device:
            made.add_argument(
                "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU where there is one"
            )

    made = command(
        "train",
        train,
        "train a network, or all that a pair needs",
        """  workbench train pair                                             what is missing of resnet18 / vgg13_bn on digits
  workbench train classifier --target densenet121 --dataset cifar10 --data-dir ~/cifar10
  workbench train generator --auxiliary-term bounded --ssim-weight 1 --variant bounded
  workbench train compressor --loss rate-distortion --weight 1e-4 --variant rd
  workbench train generator --variant start && workbench train joint --weight 0.03      generator and compressor together
Ctrl-C keeps the best so far; the same command goes on from there.""",
    )
    made.add_argument(
        "what", choices=("pair", "classifier", "encoder", "generator", "compressor", "joint"), help="what to train"
    )
    common(made)
    made.add_argument("--preset", default="quick", help="quick (minutes on 2 cores), hours (an afternoon on them) or paper")
    made.add_argument("--epochs", type=_positive, metavar="N", help="of one network, in place of the preset's")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
    made.add_argument(
        "--devices", type=_positive, default=1, help="how many GPUs (or processes on a CPU) share each batch; default: 1"
    )
    made.add_argument("--auxiliary-term", choices=("unbounded", "bounded"), help="generator: the paper's, or capped")
    made.add_argument(
        "--ssim-term",
        choices=("signed", "absolute"),
        help="generator: the paper's, or its magnitude",
    )
    made.add_argument("--ssim-weight", type=float, metavar="W", help="generator: weight of the SSIM term")
    made.add_argument(
        "--loss",
        choices=("rate-distortion", "rate-accuracy"),
        help="compressor: the paper's, or with the target's cross-entropy",
    )
    made.add_argument("--weight", type=float, metavar="LAMBDA", help="compressor: weight of the distortion")
    made.add_argument("--variant", default="", metavar="NAME", help="keep a generator or compressor under a name of its own")
    made.add_argument(
        "--generator-variant",
        default="",
        metavar="NAME",
        help="which generator the compressor is for; joint: which it starts from (default: start)",
    )

    made = command(
        "evaluate",
        evaluate,
        "measure accuracy, SSIM and bytes of the whole system",
        """  workbench evaluate --dataset digits --codec neural --json
  workbench evaluate --dataset cifar10 --data-dir ~/cifar10 --codec jpeg --quality 89 --limit 500
  workbench evaluate --dataset samples --codec png --strength 0.5""",
    )
    common(made)
    made.add_argument(
        "--codec",
        default="neural",
        choices=("neural", "compressai", "png", "jpeg", "webp"),
        help="default: neural; compressai: as in the paper, latents rounded, with CompressAI's entropy coder",
    )
    made.add_argument("--quality", type=int, metavar="Q", help="of jpeg (1 to 95) or webp (1 to 100)")
    made.add_argument("--subsampling", metavar="S", help="of jpeg: 4:4:4, 4:2:2 or 4:2:0 (default: 4:4:4)")
    made.add_argument(
        "--client-quality", type=int, default=90, metavar="Q", help="of the JPEG that the phone sends (default: 90)"
    )
    made.add_argument("--strength", type=float, default=1.0, metavar="A", help="0 (the original) to 1 (the paper's; default)")
    made.add_argument("--limit", type=_positive, metavar="N", help="the first N test images only")
    made.add_argument("--batch", type=_positive, default=256, metavar="N", help="images that share a payload (default: 256)")
    made.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bfloat16"),
        help="in which generator and classifiers compute (default: float32)",
    )
    made.add_argument("--variant", default="", metavar="NAME", help="of the compressor")
    made.add_argument("--generator-variant", default="", metavar="NAME", help="of the generator")
    made.add_argument("--json", action="store_true", help="print one JSON object")

    made = command(
        "reproduce",
        reproduce,
        "train what is missing, execute every notebook, write the report",
        """  workbench reproduce
  workbench reproduce --dataset cifar10 --data-dir ~/cifar10 --limit 1000
  workbench reproduce --resume                           what is missing of the latest run
  workbench reproduce --scheduler tcp://head:8786        on a Dask cluster that sees these files""",
    )
    common(made, device=False)
    made.add_argument("--preset", default="quick", help="for what must be trained: quick or paper (default: quick)")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
    made.add_argument("--limit", type=_positive, metavar="N", help="the first N test images only")
    made.add_argument("--notebooks", nargs="+", metavar="NAME", help="only these (default: all)")
    made.add_argument(
        "--resume", nargs="?", const="latest", metavar="RUN", help="go on with a run of data/runs (default: the latest)"
    )
    made.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler (extra `cluster`)")

    made = command(
        "grid",
        grid,
        "train and measure target x auxiliary pairs, all 64 unless some are named",
        """  workbench grid --targets resnet18 vgg13_bn --auxiliaries resnet18 vgg13_bn
  workbench grid --dataset cifar10 --preset paper --scheduler tcp://head:8786     a GPU for each Dask worker
The same command goes on where it was stopped.""",
    )
    made.add_argument("--dataset", default="digits", help="digits or cifar10 (default: digits)")
    made.add_argument("--data-dir", metavar="DIR", help="a local copy of the data set")
    made.add_argument("--targets", nargs="+", metavar="NAME", help="default: all eight")
    made.add_argument("--auxiliaries", nargs="+", metavar="NAME", help="default: all eight")
    made.add_argument("--preset", default="quick", help="quick, hours or paper (default: quick)")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
    made.add_argument("--limit", type=_positive, metavar="N", help="measure on the first N test images only")
    made.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler (extra `cluster`)")

    made = command(
        "bench",
        bench,
        "time edge and cloud beside the papers' own way, as a ratio",
        """  workbench bench models                                 resnet18 / vgg13_bn on digits, batches of 1 and 256
  workbench bench models --dataset cifar10 --batches 1 64 256 --rounds 31 --json""",
    )
    made.add_argument("what", choices=("models",), help="models: generator, codec and classifier")
    common(made)
    made.add_argument("--batches", type=_positive, nargs="+", default=[1, 256], metavar="N", help="images at a time (1 256)")
    made.add_argument("--rounds", type=_positive, default=15, metavar="N", help="turns of each side (default: 15)")
    made.add_argument("--limit", type=_positive, metavar="N", help="the first N test images only")
    made.add_argument("--json", action="store_true", help="print one JSON object")

    made = command(
        "import-weights",
        import_weights,
        "convert a checkpoint of the public baseline to safetensors",
        """  workbench import-weights resnet18.pt                   a classifier of PyTorch_CIFAR10
  workbench import-weights epoch=99.ckpt                 a generator of ProtectivePerturbation, with its classifiers
  workbench import-weights generator.ckpt --target vgg13_bn --auxiliary resnet18""",
    )
    made.add_argument("file", type=Path, help="a state dict (.pt) or a Lightning checkpoint (.ckpt)")
    made.add_argument("--dataset", default="cifar10", help="the data set it was trained on (default: cifar10)")
    made.add_argument("--target", default="", metavar="NAME", help="of a generator, where the checkpoint does not say")
    made.add_argument("--auxiliary", default="", metavar="NAME", help="of a generator, where the checkpoint does not say")

    made = command(
        "export-weights",
        export_weights,
        "write a pair's weights in the form that ships: floats in 16 bits",
        "  workbench export-weights data/weights --dataset cifar10",
    )
    made.add_argument("folder", type=Path, help="where to: data/weights is searched for weights")
    common(made, device=False)
    made.add_argument("--full", action="store_true", help="keep floats in 32 bits")

    made = command(
        "models", models, "list the networks and the weights that are there", "  workbench models\n  workbench models --json"
    )
    made.add_argument("--json", action="store_true", help="print a JSON array")
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
