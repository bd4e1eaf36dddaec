"""`workbench train`: train one network, or all that a pair needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..terminal import printable
from .options import Commands, add_command, add_common, check_preset, positive, read_dataset

if TYPE_CHECKING:
    from ..weights import Manifest

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "train",
        train,
        "train a network, or all that a pair needs",
        """  workbench train pair                                             what is missing of resnet18 / vgg13_bn on digits
  workbench train classifier --target densenet121 --dataset cifar10 --data-dir ~/cifar10
  workbench train generator --auxiliary-term bounded --ssim-weight 1 --variant bounded
  workbench train compressor --loss rate-distortion --weight 1e-4 --variant rd
  workbench train generator --start resnet18-X-vgg13_bn --against-inversion 6 --noise 0.2 --variant private
  workbench train generator --variant start && workbench train joint --weight 0.03      generator and compressor together
Ctrl-C keeps the best so far; the same command goes on from there.""",
    )
    made.add_argument(
        "what", choices=("pair", "classifier", "encoder", "generator", "compressor", "joint"), help="what to train"
    )
    add_common(made)
    made.add_argument("--preset", default="quick", help="quick (minutes on 2 cores), hours (an afternoon on them) or paper")
    made.add_argument("--epochs", type=positive, metavar="N", help="of one network, in place of the preset's")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
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
    made.add_argument("--recovery-weight", type=float, metavar="W", help="generator: weight of what a regression recovers")
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
        "--strength", type=float, metavar="A", help="generator: the strength that it is to be used at (default: 1)"
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
    made.add_argument("--variant", default="", metavar="NAME", help="keep a generator or compressor under a name of its own")
    made.add_argument(
        "--generator-variant",
        default="",
        metavar="NAME",
        help="which generator the compressor is for; joint: which it starts from (default: start)",
    )


def train(options: argparse.Namespace) -> int:
    from .. import training, weights

    dataset = read_dataset(options)
    check_preset(options.preset)
    names = (options.target, options.auxiliary)
    if options.variant and options.what not in ("generator", "compressor", "joint"):
        raise UsageError(f"--variant {options.variant} goes with a generator, a compressor or joint, not with a {options.what}")
    run: Any = {"preset": options.preset, "seed": options.seed, "device": options.device, "devices": options.devices}
    hardened = {"--against-inversion": options.against_inversion, "--noise": options.noise, "--strength": options.strength}
    asked = {**hardened, "--start": options.start}
    for option, value in asked.items():
        if value is not None and options.what != "generator":
            raise UsageError(f"{option} {value} goes with `train generator`, not with a {options.what}")
    if options.rate is not None and options.what != "compressor":
        raise UsageError(f"--rate {options.rate:g} goes with `train compressor`, not with a {options.what}")
    if options.epochs is not None:
        if options.what == "pair":
            raise UsageError("--epochs is for one network; a pair's have epochs of their own, by the preset")
        run["epochs"] = options.epochs
    generator = training.LOSSES[options.preset][0]
    generator = training.GeneratorLoss(
        options.auxiliary_term or generator.auxiliary,
        options.ssim_term or generator.ssim,
        generator.ssim_weight if options.ssim_weight is None else options.ssim_weight,
        eye_weight=generator.eye_weight if options.eye_weight is None else options.eye_weight,
        recovery_weight=generator.recovery_weight if options.recovery_weight is None else options.recovery_weight,
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
        defence = None
        if any(value is not None for value in hardened.values()):
            strength = 1.0 if options.strength is None else options.strength
            defence = training.Defence(options.against_inversion or 0.0, options.noise, strength)
        learnt: Any = {"loss": generator, "variant": options.variant, "start": options.start, "defence": defence}
        trained = [training.train_generator(dataset, options.target, options.auxiliary, **learnt, **run)]
    elif options.what == "joint":
        variants: Any = {"variant": options.variant, "generator_variant": options.generator_variant or "start"}
        trained = training.train_joint(
            dataset, options.target, options.auxiliary, generator_loss=generator, compressor_loss=compressor, **variants, **run
        )
    else:
        variants = {"variant": options.variant, "generator_variant": options.generator_variant, "rate": options.rate}
        trained = [training.train_compressor(dataset, options.target, options.auxiliary, loss=compressor, **variants, **run)]
    for manifest in (each for each in trained if each.file and training.rank() == 0):
        print(f"{printable(weights.roots()[0] / manifest.family / manifest.file)}  {_figures(manifest)}")
    return 0 if all(manifest.complete for manifest in trained) else 130


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
