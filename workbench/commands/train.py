"""`workbench train`: train one network, or all networks that a pair of classifiers (target and auxiliary) needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..processes import keep_memory
from ..streams import complain
from ..terminal import printable
from .options import Commands, add_command, add_common, check_preset, positive, read_dataset

if TYPE_CHECKING:
    from ..data import Dataset
    from ..training import CompressorLoss, GeneratorLoss
    from ..weights import Manifest

__all__ = ["add"]

WHOLE = ("pair", "all")
_OF_GENERATORS = ("--auxiliary-term", "--ssim-term", "--ssim-weight", "--eye-weight", "--leakage-weight")
_HARDENED = ("--against-inversion", "--noise", "--strength")
READERS: dict[str, tuple[str, ...]] = {  # the trainings that read an option
    **dict.fromkeys(_OF_GENERATORS, ("generator", "joint", *WHOLE)),
    **dict.fromkeys((*_HARDENED, "--start"), ("generator",)),
    **dict.fromkeys(("--loss", "--weight"), ("compressor", "joint", *WHOLE)),
    "--rate": ("compressor",),
    "--variant": ("generator", "compressor", "joint", *WHOLE),
    "--generator-variant": ("compressor", "joint"),
    **dict.fromkeys(("--pairs", "--minutes"), ("all",)),
}


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "train",
        train,
        "train a network, or all that a pair needs",
        """  workbench train pair                                             what is missing of resnet18 / vgg13_bn on digits
  workbench train all --minutes 5                                  the same within a time budget
  workbench train all --dataset cifar10 --data-dir ~/cifar10 --pairs paper --minutes 12 --device cuda
  workbench train classifier --target densenet121 --dataset cifar10 --data-dir ~/cifar10
  workbench train generator --auxiliary-term bounded --ssim-weight 1 --variant bounded
  workbench train compressor --loss rate-distortion --weight 1e-4 --variant rd
  workbench train generator --start resnet18-X-vgg13_bn --against-inversion 6 --noise 0.2 --variant hardened
  workbench train generator --variant start && workbench train joint --weight 0.03      generator and compressor together
Ctrl-C keeps the best so far; the same command goes on from there.""",
    )
    made.add_argument(
        "what",
        choices=("all", "pair", "classifier", "encoder", "generator", "compressor", "joint"),
        help="what to train; all: everything that --pairs need, within --minutes",
    )
    add_common(made)
    made.add_argument(
        "--preset",
        help="quick (minutes on 2 cores), hours (an afternoon on them) or paper; default: quick, of all on CIFAR-10 hours",
    )
    made.add_argument(
        "--pairs",
        nargs="+",
        metavar="PAIR",
        help="all: such as resnet18-X-vgg13_bn; paper: the paper's four (default: that of --target and --auxiliary)",
    )
    made.add_argument(
        "--minutes", type=float, metavar="M", help="all: time budget; schedules follow from it and the measured speed"
    )
    made.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="of one network, in place of the preset's; a stopped run of the preset hours may take others",
    )
    made.add_argument("--seed", type=int, help="default: 0")
    made.add_argument(
        "--devices", type=positive, default=1, help="how many GPUs (or processes on a CPU) share each batch; default: 1"
    )
    made.add_argument("--auxiliary-term", choices=("unbounded", "bounded"), help="generator: the paper's, or capped")
    made.add_argument(
        "--ssim-term",
        choices=("signed", "absolute"),
        help="generator: the paper's, or its magnitude",
    )
    made.add_argument("--ssim-weight", type=float, metavar="W", help="generator: weight of the SSIM term")
    made.add_argument("--eye-weight", type=float, metavar="W", help="generator: weight of what a person could still read")
    made.add_argument(
        "--leakage-weight", type=float, metavar="W", help="generator: weight of a bound of what leaks beyond the class"
    )
    made.add_argument(
        "--against-inversion",
        type=float,
        metavar="W",
        help="generator: learn in turns with a network that inverts it; weight of what that recovers beyond the label",
    )
    made.add_argument(
        "--noise", type=float, metavar="S", help="generator: standard deviation of a random component, new for each image"
    )
    made.add_argument(
        "--strength",
        type=float,
        metavar="A",
        help="generator: the one strength that it is to be used at (default: every one)",
    )
    made.add_argument("--start", metavar="WEIGHTS", help="generator: the one that it starts from, such as resnet18-X-vgg13_bn")
    made.add_argument(
        "--loss",
        choices=("rate-distortion", "rate-accuracy"),
        help="compressor: the paper's, or with the target's cross-entropy",
    )
    made.add_argument("--weight", type=float, metavar="LAMBDA", help="compressor: weight of the distortion")
    made.add_argument(
        "--rate", type=float, metavar="R", help="compressor: learn this one rate, 0 to 1 (default: all rates in one network)"
    )
    made.add_argument(
        "--variant",
        default="",
        metavar="NAME",
        help="keep a generator or compressor under a name of its own; paper: train it, a pair or all as the papers do",
    )
    made.add_argument(
        "--generator-variant",
        default="",
        metavar="NAME",
        help="which generator the compressor is for; joint: which it starts from (default: start)",
    )


def train(options: argparse.Namespace) -> int:
    _check(options)
    keep_memory()
    from .. import training, weights

    dataset = read_dataset(options)
    preset = options.preset or ("quick" if options.what != "all" or dataset.family == "digits" else "hours")
    check_preset(preset)
    if options.what in WHOLE and (reused := training.existing(dataset, _pairs(options), options.variant)):
        _check_reused(options, reused)
        if training.rank() == 0:
            names = ", ".join(manifest.name for manifest in reused)
            commands = ", ".join(f"`workbench train {kind}`" for kind in dict.fromkeys(manifest.kind for manifest in reused))
            complain(f"workbench: reused as they are: {names}; to train new ones, use {commands}")
    trained = _train(options, dataset, preset)
    for manifest in (each for each in trained if each.file and training.rank() == 0):
        print(f"{printable(weights.files(manifest.name, manifest.family)[1])}  {_figures(manifest)}")
    return 0 if all(manifest.complete for manifest in trained) else 130


def _check(options: argparse.Namespace) -> None:
    what = options.what
    if options.variant and what in WHOLE and options.variant != "paper":
        raise UsageError(f"--variant {options.variant} cannot be trained as a whole: of a pair 'paper' alone, or no variant")
    if options.variant == "paper" and what in ("compressor", "joint"):
        raise UsageError(
            "--variant paper names the papers' own system: train its compressor with "
            "`workbench train compressor --generator-variant paper`, or choose another name"
        )
    for option, readers in READERS.items():
        value = _value(options, option)
        if value is not None and what not in readers:
            commands = " or ".join(f"`train {reader}`" for reader in readers)
            raise UsageError(f"{option} {value} goes with {commands}, not with `train {what}`")
    if options.epochs is not None and what in WHOLE:
        raise UsageError("--epochs is for one network; a pair's have epochs of their own, by the preset")


def _value(options: argparse.Namespace, option: str) -> Any:
    value = getattr(options, option[2:].replace("-", "_"))
    return " ".join(value) if isinstance(value, list) else None if value == "" else value


def _check_reused(options: argparse.Namespace, reused: list[Manifest]) -> None:
    for manifest in reused:
        loss = manifest.training.get("loss", {})
        loss = loss.get("joint", loss)
        recorded = {"--preset": manifest.training.get("preset", "imported"), "--seed": manifest.seed}
        if manifest.kind == "generator":
            keys = ("auxiliary", "ssim", "ssim_weight", "eye_weight", "leakage_weight")
            recorded |= {option: loss.get(key) for option, key in zip(_OF_GENERATORS, keys, strict=True)}
        if manifest.kind == "compressor":
            recorded |= {"--loss": loss.get("kind"), "--weight": loss.get("weight")}
        for option, trained_with in recorded.items():
            value = _value(options, option)
            if value not in (None, trained_with):
                raise UsageError(
                    f"{option} {value} would be ignored, because {manifest.name!r} exists already and was trained with "
                    f"{trained_with}: leave the option out, or train this network with `workbench train {manifest.kind}`"
                )


def _pairs(options: argparse.Namespace) -> list[tuple[str, str]]:
    from .. import weights
    from ..training import PAPER_PAIRS

    if not options.pairs:
        return [(options.target, options.auxiliary)]
    pairs = [pair for name in options.pairs for pair in (PAPER_PAIRS if name == "paper" else [weights.pair_of(name)])]
    return list(dict.fromkeys(pairs))


def _train(options: argparse.Namespace, dataset: Dataset, preset: str) -> list[Manifest]:
    from .. import training

    target: str = options.target
    auxiliary: str = options.auxiliary
    run: Any = {"preset": preset, "seed": options.seed or 0, "device": options.device, "devices": options.devices}
    if options.epochs is not None:
        run["epochs"] = options.epochs
    generator, compressor = _losses(options, preset)
    losses: Any = {"generator_loss": generator, "compressor_loss": compressor}
    if options.what == "pair":
        return training.ensure(dataset, target, auxiliary, variant=options.variant, **losses, **run)
    if options.what == "all":
        run |= {"minutes": options.minutes, "variant": options.variant}
        return training.train_all(dataset, _pairs(options), **losses, **run)
    if options.what == "classifier":
        return [training.train_classifier(dataset, options.target, **run)]
    if options.what == "encoder":
        return [training.train_encoder(dataset, **run)]
    if options.what == "generator":
        defence = None
        if any(_value(options, option) is not None for option in _HARDENED):
            strength = 1.0 if options.strength is None else options.strength
            defence = training.Defence(options.against_inversion or 0.0, options.noise, strength)
        learnt: Any = {"loss": generator, "variant": options.variant, "start": options.start, "defence": defence}
        return [training.train_generator(dataset, target, auxiliary, **learnt, **run)]
    variants: Any = {"variant": options.variant, "generator_variant": options.generator_variant}
    if options.what == "joint":
        variants["generator_variant"] = options.generator_variant or "start"
        return training.train_joint(dataset, target, auxiliary, **losses, **variants, **run)
    variants["rate"] = options.rate
    return [training.train_compressor(dataset, target, auxiliary, loss=compressor, **variants, **run)]


def _losses(options: argparse.Namespace, preset: str) -> tuple[GeneratorLoss, CompressorLoss]:
    from .. import training

    generator, compressor = training.losses_of(preset, options.generator_variant or options.variant)
    generator = training.GeneratorLoss(
        options.auxiliary_term or generator.auxiliary,
        options.ssim_term or generator.ssim,
        generator.ssim_weight if options.ssim_weight is None else options.ssim_weight,
        eye_weight=generator.eye_weight if options.eye_weight is None else options.eye_weight,
        leakage_weight=generator.leakage_weight if options.leakage_weight is None else options.leakage_weight,
        every_strength=generator.every_strength and options.strength is None,
    )
    if options.loss or options.weight is not None:
        compressor = training.CompressorLoss(options.loss or compressor.kind, options.weight)
    return generator, compressor


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
