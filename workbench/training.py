"""How the networks come to be: classifiers, generators, compressors; deterministic by seed, resumable after a kill at any moment.

A training is an `Objective` (a network and its loss) handed to `fit`. Every random choice follows from (seed, step) alone, so
that a run resumed from a checkpoint walks the path it would have walked. To add a loss: write an Objective.
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import metrics, weights
from .data import Dataset, Split, to_float, to_uint8
from .errors import StorageError, UsageError, unknown
from .models import Classifier, NeuralCompressor, PerturbationGenerator
from .storage import data_root, replacing
from .weights import Manifest

__all__ = [
    "PRESETS",
    "ClassifierObjective",
    "CompressorLoss",
    "CompressorObjective",
    "GeneratorLoss",
    "GeneratorObjective",
    "Objective",
    "Settings",
    "ensure",
    "fit",
    "train_classifier",
    "train_compressor",
    "train_generator",
]

CHECKPOINT_EVERY_S = 30.0


# --- settings --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How long and how fast one network is trained.

    `epochs` over the training split, but no more than `max_images` images in all (None: no bound); linear warm-up over the share
    `warmup` of the steps, then cosine to zero; `validation_images` bounds the split that chooses the best checkpoint.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    optimizer: str = "adamw"
    warmup: float = 0.3
    max_images: int | None = None
    validation_images: int | None = None
    width: int = 32  # of the U-Net


# `paper`: PP, section 5 and its public code; the classifiers' are those of the PyTorch_CIFAR10 project; the paper does not give the
# compressor's. `quick`: minutes on 2 cores; a U-Net of half width.
PRESETS: dict[str, dict[str, Settings]] = {
    "quick": {
        "classifier": Settings(8, 64, 2e-3, 5e-4, max_images=80_000, validation_images=1000),
        "generator": Settings(10, 64, 3e-3, 5e-4, max_images=60_000, validation_images=1000, width=16),
        "compressor": Settings(30, 32, 1e-3, 0.0, warmup=0.1, max_images=60_000, validation_images=1000),
    },
    "paper": {
        "classifier": Settings(100, 256, 1e-2, 1e-2, optimizer="sgd"),
        "generator": Settings(100, 256, 5e-3, 5e-4),
        "compressor": Settings(100, 256, 1e-3, 0.0, warmup=0.1),
    },
}


@dataclass(frozen=True)
class GeneratorLoss:
    """CE(target(x'), y) - auxiliary term + ssim_weight * SSIM(x, x')   (PP, section 4).

    `auxiliary`: `unbounded` is the paper's CE(auxiliary(x'), y), which has no lower bound and fights the target's term; `bounded`
    stops each image's at 2.5 (a uniform guess over ten classes has 2.30). `ssim`: `signed` is the paper's, which rewards inverted
    contrast; `absolute` takes the magnitude.
    """

    auxiliary: str = "unbounded"
    ssim: str = "signed"
    ssim_weight: float = 0.5
    cap: float = 2.5

    def __post_init__(self) -> None:
        if self.auxiliary not in ("unbounded", "bounded"):
            raise unknown("auxiliary term", self.auxiliary, ("unbounded", "bounded"))
        if self.ssim not in ("signed", "absolute"):
            raise unknown("SSIM term", self.ssim, ("signed", "absolute"))
        if self.ssim_weight < 0:
            raise UsageError(f"the SSIM weight must not be negative, got {self.ssim_weight}")


@dataclass(frozen=True)
class CompressorLoss:
    """bits per pixel + weight * distortion.

    `rate-distortion`: the mean squared error between the protected image and its reconstruction, on the scale of 255 (the paper's;
    PMC², section 3.3). `rate-accuracy`: the target's cross-entropy on the reconstruction, which the paper calls right and leaves
    undone. A weight of None stands for the default of each.
    """

    kind: str = "rate-distortion"
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in DISTORTION_WEIGHTS:
            raise unknown("compressor loss", self.kind, DISTORTION_WEIGHTS)
        if self.weight is None:
            object.__setattr__(self, "weight", DISTORTION_WEIGHTS[self.kind])


DISTORTION_WEIGHTS = {"rate-distortion": 1e-4, "rate-accuracy": 0.3}
LOSSES = {  # what each preset means where the caller does not say
    "quick": (GeneratorLoss("bounded", "absolute", 1.0), CompressorLoss("rate-accuracy")),
    "paper": (GeneratorLoss(), CompressorLoss()),
}


# --- objectives ------------------------------------------------------------------------------------------------------------


class Objective(nn.Module):
    """A network and its loss: forward(images, labels) -> (loss, figures by name). `network` is what is learnt and kept."""

    network: nn.Module

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups; `scale` multiplies the learning rate."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad], "scale": 1.0}]

    def before_validation(self) -> None:
        """Bring the network into the state in which it will be used."""


class ClassifierObjective(Objective):
    """Cross-entropy."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the share of images recognised."""
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        return loss, {"accuracy": _share(logits, labels)}


class GeneratorObjective(Objective):
    """The protective perturbation's loss; target and auxiliary stay frozen, in eval mode.

    Where target and auxiliary are the same model, the auxiliary term is dropped (PP, section 4).
    """

    def __init__(self, generator: PerturbationGenerator, target: Classifier, auxiliary: Classifier, loss: GeneratorLoss) -> None:
        super().__init__()
        self.network, self.loss = generator, loss
        self.target = target.requires_grad_(False)
        self.auxiliary = None if auxiliary.name == target.name else auxiliary.requires_grad_(False)

    def train(self, mode: bool = True) -> GeneratorObjective:
        """Set the generator's mode; the classifiers' stays."""
        super().train(mode)
        for frozen in (self.target, self.auxiliary):
            if frozen is not None:
                frozen.eval()
        return self

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; accuracy of target and auxiliary on the protected images, SSIM and |SSIM|."""
        protected = self.network(images)
        logits = self.target(protected)
        with torch.autocast(images.device.type, enabled=False):
            similarity = metrics.ssim(images.float(), protected.float())
        term = similarity.abs() if self.loss.ssim == "absolute" else similarity
        loss = F.cross_entropy(logits, labels) + self.loss.ssim_weight * term.mean()
        figures = {"accuracy": _share(logits, labels), "ssim": similarity.mean(), "abs_ssim": similarity.abs().mean()}
        if self.auxiliary is not None:
            other = self.auxiliary(protected)
            entropy = F.cross_entropy(other, labels, reduction="none")
            loss = loss - (entropy.clamp(max=self.loss.cap) if self.loss.auxiliary == "bounded" else entropy).mean()
            figures["auxiliary"] = _share(other, labels)
        return loss, figures


class CompressorObjective(Objective):
    """Rate + distortion, or rate + cross-entropy of the frozen target; images are already protected."""

    def __init__(self, compressor: NeuralCompressor, target: Classifier, loss: CompressorLoss) -> None:
        super().__init__()
        self.network, self.loss = compressor, loss
        self.target = target.requires_grad_(False)

    def train(self, mode: bool = True) -> CompressorObjective:
        """Set the compressor's mode; the classifier's stays."""
        super().train(mode)
        self.target.eval()
        return self

    def groups(self, settings: Settings) -> list[dict[str, Any]]:
        """Let the entropy model learn ten times faster: its rate falls last. Its quantiles are solved, not learnt."""
        bottleneck = self.network.entropy_bottleneck
        bottleneck.quantiles.requires_grad_(False)
        entropy = [p for p in bottleneck.parameters() if p.requires_grad]
        known = {id(p) for p in entropy}
        rest = [p for p in self.network.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": rest, "scale": 1.0}, {"params": entropy, "scale": 10.0}]

    def before_validation(self) -> None:
        """Solve the quantiles for the learnt distributions and make the integer tables from them."""
        self.network.update(force=True, update_quantiles=True)  # type: ignore[operator]

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; bits an image by the entropy model, MSE, and the target's accuracy on the reconstruction."""
        with torch.autocast(images.device.type, enabled=False):  # the entropy model's logits need 32 bits
            out = self.network(images.float())
        bits = -out["likelihoods"]["y"].log2().sum() / len(images)
        mse = F.mse_loss(out["x_hat"], images)
        needed = self.loss.kind == "rate-accuracy"
        with torch.set_grad_enabled(torch.is_grad_enabled() and needed):
            logits = self.target(out["x_hat"].clamp(0, 1) if not needed else _soft_clamp(out["x_hat"]))
        distortion = F.cross_entropy(logits, labels) if needed else 255**2 * mse
        loss = bits / images[0, 0].numel() + (self.loss.weight or 0.0) * distortion
        return loss, {"accuracy": _share(logits, labels), "bits": bits, "mse": mse}


def _soft_clamp(x: Tensor) -> Tensor:
    """Clamp to [0, 1] going forward, the identity going back: pixels outside the range still learn."""
    return x + (x.clamp(0, 1) - x).detach()


def _share(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()


# --- the loop --------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What `fit` leaves: the figures of the best checkpoint, the curves, and whether training ran to its end."""

    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0


def fit(
    objective: Objective,
    train: Split,
    validation: Split,
    settings: Settings,
    *,
    label: str,
    checkpoint: Path,
    identity: dict[str, Any],
    seed: int = 0,
    augment: Callable[[Tensor], Tensor] | None = None,
    device: str = "auto",
    devices: int = 1,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Outcome:
    """Train `objective.network` in place and leave it as it was at its best validation loss.

    A checkpoint is written every half minute, at every interrupt, and found again if its `identity` (settings, seed, data) is the
    same. Ctrl-C ends the training early: the best checkpoint so far is kept and `complete` is False. One bar shows loss, figures
    and time left. `on_epoch` sees the growing history. Several `devices` split each batch between them.
    """
    fabric = _fabric(device, devices)
    total = _steps(len(train), settings)
    torch.manual_seed(_mix(seed, -1))
    module, optimizer = fabric.setup(objective, _optimizer(objective, settings))
    run = _Run(fabric, objective, optimizer, checkpoint, {**identity, "seed": seed, "settings": asdict(settings)})
    step = run.resume()
    outcome, per_epoch = run.outcome, math.ceil(len(train) / settings.batch)
    images, labels = train.images.to(fabric.device), train.labels.to(fabric.device)
    validation = validation.head(settings.validation_images)
    bar = tqdm(
        total=total, initial=step, desc=label, unit="step", disable=fabric.global_rank != 0, dynamic_ncols=True, file=sys.stderr
    )
    started = saved = time.monotonic()
    spent = outcome.seconds
    running: dict[str, float] = {}
    try:
        for step in range(step, total):
            rows = _rows(len(train), settings.batch, step, seed).to(fabric.device)[fabric.global_rank :: fabric.world_size]
            torch.manual_seed(_mix(seed, step * fabric.world_size + fabric.global_rank))
            batch = to_float(images[rows])
            batch = batch if augment is None else augment(batch)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * group["scale"] * _schedule(step / total, settings.warmup)
            module.train()
            loss, figures = module(batch.contiguous(memory_format=torch.channels_last), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            optimizer.step()
            bar.update()
            if step % 10 == 0:
                running = {"loss": loss.item(), **{key: value.item() for key, value in figures.items()}}
                bar.set_postfix({key: f"{value:.3g}" for key, value in running.items()})
            ended = step + 1 == total
            if ended or (step + 1) % per_epoch == 0:
                outcome.seconds = spent + time.monotonic() - started
                run.validate(module, validation, settings, step + 1, running)
                if on_epoch is not None:
                    on_epoch(outcome.history)
            if not ended and time.monotonic() - saved > CHECKPOINT_EVERY_S:
                outcome.seconds = spent + time.monotonic() - started
                run.save(step + 1)
                saved = time.monotonic()
        outcome.complete = True
        outcome.seconds = spent + time.monotonic() - started
    except KeyboardInterrupt:
        outcome.seconds = spent + time.monotonic() - started
        if run.best is None:
            run.validate(module, validation, settings, step, running)
        run.save(step)
        tqdm.write(f"{label}: stopped at step {step} of {total}; the best so far is kept, the same command goes on from here", sys.stderr)
    finally:
        bar.close()
    run.restore_best()
    return outcome


class _Run:
    """One training's state on disk and in memory: what to resume from, what was best."""

    def __init__(
        self, fabric: Fabric, objective: Objective, optimizer: torch.optim.Optimizer, path: Path, identity: dict[str, Any]
    ) -> None:
        self.fabric, self.objective, self.optimizer, self.path = fabric, objective, optimizer, path
        self.identity = json.dumps(identity, sort_keys=True)
        self.best: dict[str, Tensor] | None = None
        self.best_loss = math.inf
        self.outcome = Outcome()

    def resume(self) -> int:
        """Load the checkpoint if there is one of this very training; return the step to go on from."""
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location=self.fabric.device, weights_only=True)
            if state["identity"] != self.identity:
                tqdm.write(f"{self.path.name}: a checkpoint of other settings lies there; starting anew", sys.stderr)
                return 0
        except Exception as error:  # torch raises whatever its zip and pickle readers raise
            tqdm.write(f"{self.path.name}: unreadable checkpoint ({type(error).__name__}); starting anew", sys.stderr)
            return 0
        _load_network(self.objective.network, state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.best_loss = state["best"], state["best_loss"]
        self.outcome = Outcome(**json.loads(state["outcome"]))
        return int(state["step"])

    def save(self, step: int) -> None:
        """Write the checkpoint, all or nothing."""
        if self.fabric.global_rank == 0:
            state = {
                "identity": self.identity,
                "step": step,
                "network": self.objective.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "best_loss": self.best_loss,
                "outcome": json.dumps(asdict(self.outcome)),
            }
            buffer = io.BytesIO()
            torch.save(state, buffer)
            with replacing(self.path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        self.fabric.barrier()

    def validate(self, module: nn.Module, split: Split, settings: Settings, step: int, running: dict[str, float]) -> None:
        """Measure the loss on the validation split, remember the network where it is the lowest so far."""
        self.objective.before_validation()
        module.eval()
        sums: dict[str, float] = {}
        with torch.no_grad():
            for images, labels in _batches(split, settings.batch, self.fabric.device):
                loss, figures = self.objective(images, labels)
                for key, value in {"loss": loss, **figures}.items():
                    sums[key] = sums.get(key, 0.0) + value.item() * len(labels)
        means = {key: value / len(split) for key, value in sums.items()}
        self.outcome.history.append({"step": step, "train": dict(running), "validation": means})
        if means["loss"] < self.best_loss or self.best is None:
            self.best_loss, self.outcome.best = means["loss"], {**means, "step": float(step)}
            self.best = {key: value.detach().clone() for key, value in self.objective.network.state_dict().items()}

    def restore_best(self) -> None:
        """Leave the network as it was at its best."""
        if self.best is not None:
            _load_network(self.objective.network, self.best)
        self.objective.network.eval()


def _load_network(network: nn.Module, state: dict[str, Tensor]) -> None:
    network.load_state_dict(state)  # CompressAI's own method sizes the integer tables


def _fabric(device: str, devices: int) -> Fabric:
    accelerator = {"auto": "auto", "cpu": "cpu", "cuda": "cuda"}.get(device)
    if accelerator is None:
        raise unknown("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch sees no CUDA GPU; use 'cpu' or 'auto'")
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda and devices > torch.cuda.device_count():
        raise UsageError(f"{devices} devices were asked for, but torch sees {torch.cuda.device_count()} CUDA GPUs")
    strategy = "ddp" if devices > 1 else "auto"
    fabric = Fabric(accelerator, strategy=strategy, devices=devices, precision="bf16-mixed" if cuda else "32-true")
    if devices > 1:
        fabric.launch()
    return fabric


def _optimizer(objective: Objective, settings: Settings) -> torch.optim.Optimizer:
    groups = objective.groups(settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay)


def _steps(n: int, settings: Settings) -> int:
    full = settings.epochs * math.ceil(n / settings.batch)
    return full if settings.max_images is None else min(full, math.ceil(settings.max_images / settings.batch))


def _rows(n: int, batch: int, step: int, seed: int) -> Tensor:
    """Return the rows of the training split that make up a step: an epoch is one permutation of all."""
    per_epoch = math.ceil(n / batch)
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(_mix(seed, -2 - epoch)))
    return order[position * batch : (position + 1) * batch]


def _schedule(progress: float, warmup: float) -> float:
    """Linear from 0 to 1 over the share `warmup`, then cosine to 0."""
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _mix(seed: int, step: int) -> int:
    """Spread (seed, step) over 63 bits, so that neighbouring steps share nothing (SplitMix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + (step + 3) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ z >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return (z ^ z >> 31) >> 1


def _batches(split: Split, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split), batch):
        images = to_float(split.images[start : start + batch].to(device))
        yield images.contiguous(memory_format=torch.channels_last), split.labels[start : start + batch].to(device)


def crop_and_flip(mirror: bool, padding: int = 4) -> Callable[[Tensor], Tensor]:
    """Return the papers' augmentation: a random crop after zero padding, and a horizontal flip where labels survive one."""

    def augment(images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        device = images.device
        padded = F.pad(images, (padding,) * 4)
        top, left = torch.randint(2 * padding + 1, (2, n, 1, 1, 1), device=device)
        columns = torch.arange(width, device=device).expand(n, 1, 1, width)
        if mirror:
            flip = torch.rand(n, 1, 1, 1, device=device) < 0.5
            columns = torch.where(flip, width - 1 - columns, columns)
        rows = torch.arange(height, device=device).view(1, 1, height, 1)
        channels = torch.arange(3, device=device).view(1, 3, 1, 1)
        return padded[torch.arange(n, device=device).view(n, 1, 1, 1), channels, top + rows, left + columns]

    return augment


# --- the three trainings ---------------------------------------------------------------------------------------------------


def train_classifier(dataset: Dataset, name: str, preset: str = "quick", seed: int = 0, **run: Any) -> Manifest:
    """Train a classifier on a data set and keep it under its name."""
    settings = _preset(preset, "classifier")
    torch.manual_seed(_mix(seed, -1))
    objective = ClassifierObjective(Classifier(weights.classifier_name(name), len(dataset.classes)))
    return _train(objective, dataset, name, preset, settings, seed, {}, {}, **run)


def train_generator(
    dataset: Dataset,
    target: str,
    auxiliary: str,
    preset: str = "quick",
    seed: int = 0,
    loss: GeneratorLoss | None = None,
    variant: str = "",
    **run: Any,
) -> Manifest:
    """Train the perturbation generator of a pair, whose classifiers must be there; keep it under `target-X-auxiliary`."""
    settings, loss = _preset(preset, "generator"), loss or LOSSES[preset][0]
    if preset == "paper" and (target, auxiliary) == ("googlenet", "vgg13_bn"):
        settings = replace(settings, learning_rate=1e-3)  # PP's public code: the one pair that needs it
    name = weights.generator_name(target, auxiliary, variant)
    (target_model, first), (auxiliary_model, second) = (_classifier(dataset, each) for each in (target, auxiliary))
    torch.manual_seed(_mix(seed, -1))
    objective = GeneratorObjective(PerturbationGenerator(settings.width), target_model, auxiliary_model, loss)
    depends = {"target": first.sha256, "auxiliary": second.sha256}
    return _train(objective, dataset, name, preset, settings, seed, asdict(loss), depends, **run)


def train_compressor(
    dataset: Dataset,
    target: str,
    auxiliary: str,
    preset: str = "quick",
    seed: int = 0,
    loss: CompressorLoss | None = None,
    variant: str = "",
    generator_variant: str = "",
    **run: Any,
) -> Manifest:
    """Train the compressor on a generator's protected training images; keep it under `target-X-auxiliary-compressor`."""
    settings, loss = _preset(preset, "compressor"), loss or LOSSES[preset][1]
    name = weights.compressor_name(target, auxiliary, variant, generator_variant)
    target_model, first = _classifier(dataset, target)
    generator, second = weights.load(weights.generator_name(target, auxiliary, generator_variant), dataset.family, "generator")
    torch.manual_seed(_mix(seed, -1))
    objective = CompressorObjective(NeuralCompressor(), target_model, loss)
    depends = {"target": first.sha256, "generator": second.sha256}
    limit = _steps(len(dataset.train), settings) * settings.batch
    protected = replace(
        dataset, _read=lambda split: _protect(generator, getattr(dataset, split).head(limit if split == "train" else settings.validation_images))
    )
    return _train(objective, protected, name, preset, settings, seed, asdict(loss), depends, augment=False, **run)


def _train(
    objective: Objective,
    dataset: Dataset,
    name: str,
    preset: str,
    settings: Settings,
    seed: int,
    loss: dict[str, Any],
    depends: dict[str, str],
    *,
    augment: bool = True,
    device: str = "auto",
    devices: int = 1,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Manifest:
    kind, spec = weights.describe(objective.network)
    checkpoint = data_root() / "runs" / "checkpoints" / dataset.family / f"{name}.pt"
    outcome = fit(
        objective,
        dataset.train,
        dataset.validation,
        settings,
        label=f"{kind} {name}",
        checkpoint=checkpoint,
        identity={"name": name, "data": dataset.title, "n": len(dataset.train), "loss": loss, "depends": depends, "spec": spec},
        seed=seed,
        augment=crop_and_flip(dataset.mirror) if augment else None,
        device=device,
        devices=devices,
        on_epoch=on_epoch,
    )
    training = {
        "preset": preset,
        **asdict(settings),
        "loss": loss,
        "images": len(dataset.train),
        "validation_images": min(len(dataset.validation), settings.validation_images or len(dataset.validation)),
        "seconds": round(outcome.seconds, 1),
        "device": "cuda" if torch.cuda.is_available() and device != "cpu" else "cpu",
        "torch": torch.__version__,
        "history": outcome.history,
    }
    manifest = Manifest(name, dataset.family, kind, spec, dataset.title, seed, training, outcome.best, depends, outcome.complete)
    manifest = weights.save(objective.network, manifest)
    if outcome.complete:
        checkpoint.unlink(missing_ok=True)
    return manifest


def _preset(preset: str, kind: str) -> Settings:
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    return PRESETS[preset][kind]


def _classifier(dataset: Dataset, name: str) -> tuple[Classifier, Manifest]:
    module, manifest = weights.load(weights.classifier_name(name), dataset.family, "classifier")
    assert isinstance(module, Classifier)
    return module.to(memory_format=torch.channels_last), manifest


def _protect(generator: nn.Module, split: Split) -> Split:
    """Return a split protected once and for all, in 8 bits: the generator is frozen, its images need not be made twice."""
    with torch.inference_mode():
        parts = [to_uint8(generator(images)) for images, _ in _batches(split, 256, torch.device("cpu"))]
    return Split(torch.cat(parts).contiguous(), split.labels)


def ensure(
    dataset: Dataset,
    target: str,
    auxiliary: str,
    *,
    preset: str = "quick",
    seed: int = 0,
    compressor: bool = True,
    **run: Any,
) -> list[Manifest]:
    """Return the manifests of a pair's classifiers, generator and compressor, training only what is missing or was interrupted.

    What exists is taken as it is, whatever its preset; weights that were trained against others than those present are trained
    again. Says on standard error what it trains.
    """
    names = list(dict.fromkeys((target, auxiliary)))
    plan: list[tuple[str, Callable[[], Manifest]]] = [
        (weights.classifier_name(name), lambda name=name: train_classifier(dataset, name, preset, seed, **run)) for name in names
    ]
    plan.append((weights.generator_name(target, auxiliary), lambda: train_generator(dataset, target, auxiliary, preset, seed, **run)))
    if compressor:
        plan.append((weights.compressor_name(target, auxiliary), lambda: train_compressor(dataset, target, auxiliary, preset, seed, **run)))
    present: dict[str, Manifest] = {}
    for name, train in plan:
        found = weights.find(name, dataset.family)
        fresh = found is not None and found.complete and all(
            sha in {manifest.sha256 for manifest in present.values()} for sha in found.depends.values()
        )
        if found is None or not fresh:
            tqdm.write(f"no usable weights {name!r} for {dataset.title}: training them with preset {preset!r}", sys.stderr)
            found = train()
            if not found.complete:
                raise KeyboardInterrupt
        present[name] = found
    return list(present.values())
