"""The presets `quick`, `hours` and `paper`: settings and losses for each kind of training."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UsageError, unknown
from .compression import CompressorLoss
from .protection import GeneratorLoss
from .schedules import TrainingSettings

__all__ = ["ENCODER", "LOSSES", "PAPER", "PRESETS", "START", "losses_of", "settings_of"]

NOISE = 0.1  # standard deviation of the random component, which `leakage` needs

# Learning rate and image side (24 pixels) are constant for 70 % of the steps. During these, the number of epochs can change.
ANYTIME = TrainingSettings(
    40, 512, 0.06, 5e-4, "muon", 0.0, 0.7, validate_every=2, half=True, erase=6, smoothing=0.1, sizes=((0.0, 24), (0.7, 32))
)
# `paper` has the settings in PP, section 5, and in its public code. The classifiers' settings are from PyTorch_CIFAR10. The
# papers do not give the compressor's. `quick` trains networks of a quarter of the width, in a minute or two on 2 cores. `hours`
# trains networks of full width on CIFAR-10, in an afternoon on 2 cores without a GPU.
PRESETS: dict[str, dict[str, TrainingSettings]] = {
    "quick": {
        "classifier": TrainingSettings(
            6, 64, 2e-3, 5e-4, max_images=20_000, validation_images=1000, head="linear", classifier_width=4
        ),
        "encoder": TrainingSettings(
            12, 64, 4e-3, 5e-4, warmup=0.2, max_images=20_000, validation_images=1000, width=8, smoothing=0.1
        ),
        "generator": TrainingSettings(
            24, 48, 6e-3, 5e-4, warmup=0.2, max_images=16_000, validation_images=1000, width=8, clip=0.25, noise=NOISE
        ),
        "compressor": TrainingSettings(
            11, 16, 1e-3, 0.0, warmup=0.1, clip=1.0, crop=2, max_images=12_000, validation_images=1000, width=8
        ),
        "joint": TrainingSettings(
            11, 16, 1e-3, 0.0, warmup=0.1, clip=1.0, crop=2, max_images=12_000, validation_images=1000, width=8
        ),
    },
    "hours": {
        "classifier": replace(ANYTIME, head="linear"),
        "encoder": replace(ANYTIME, captured=True),
        "generator": TrainingSettings(
            2, 64, 4e-3, 5e-4, warmup=0.2, max_images=96_000, half=True, captured=True, erase=8, clip=0.25, noise=NOISE
        ),
        "compressor": TrainingSettings(
            2, 32, 1e-3, 0.0, warmup=0.1, clip=1.0, crop=2, max_images=96_000, half=True, captured=True
        ),
        "joint": TrainingSettings(2, 64, 1e-3, 0.0, warmup=0.1, clip=1.0, max_images=48_000, half=True, captured=True, erase=8),
    },
    "paper": {
        "classifier": TrainingSettings(100, 256, 1e-2, 1e-2, optimizer="sgd"),
        "generator": TrainingSettings(100, 256, 5e-3, 5e-4),
        "compressor": TrainingSettings(100, 256, 1e-3, 0.0, warmup=0.1, clip=1.0),
        "joint": TrainingSettings(100, 256, 1e-3, 0.0, warmup=0.1, clip=1.0),
    },
}
PAPER = "paper"  # the variant with the papers' settings and losses, at a preset's widths
PAPER_EPOCHS = {"quick": (30, 11), "hours": (15, 6)}  # epochs of that variant's generator and compressor
START = "start"  # the variant of the generator that a joint training starts from
ENCODER = "encoder"  # the pretrained U-Net that a preset's generators start from, if the preset has one
HIDDEN = GeneratorLoss("bounded", "absolute", 0.0, eye_weight=3.0, leakage_weight=1.0, every_strength=True)
LOSSES = {  # the default losses of each preset
    "quick": (HIDDEN, CompressorLoss("rate-accuracy")),
    "hours": (HIDDEN, CompressorLoss("rate-accuracy")),
    "paper": (GeneratorLoss(), CompressorLoss()),
}


def settings_of(preset: str, kind: str, epochs: int | None = None, variant: str = "") -> TrainingSettings:
    """Return a preset's settings for a kind of training (classifier, encoder, generator, compressor or joint).

    `epochs` replaces the preset's number of epochs, and removes the limit `max_images`. In the variant `paper` of another
    preset, the generator has the papers' settings at that preset's width. Generator and compressor then train for
    `PAPER_EPOCHS`, unless `epochs` is given. Raises UsageError if the preset is unknown, or has no training of this kind.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    settings = PRESETS[preset].get(kind)
    if settings is None:
        raise UsageError(f"preset {preset!r} has no training of an {kind}; 'quick' and 'hours' have")
    if variant == PAPER and preset != PAPER:
        settings = _papers(preset, kind, settings)
    return settings if epochs is None else replace(settings, epochs=epochs, max_images=None)


def losses_of(preset: str, variant: str = "") -> tuple[GeneratorLoss, CompressorLoss]:
    """Return a preset's losses for generator and compressor. The variant `paper` has the papers' losses."""
    return LOSSES[PAPER if variant == PAPER else preset]


def _papers(preset: str, kind: str, own: TrainingSettings) -> TrainingSettings:
    if kind == "generator":
        how = PRESETS[PAPER][kind]
        return replace(
            how, epochs=PAPER_EPOCHS[preset][0], width=own.width, half=own.half, validation_images=own.validation_images
        )
    if kind == "compressor":  # the papers do not give its settings
        return replace(own, epochs=PAPER_EPOCHS[preset][1], max_images=None, captured=False)
    return own
