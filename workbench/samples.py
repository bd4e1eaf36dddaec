"""The pictures in the package foolbox: 20 pristine ones of CIFAR-10's test set, and 20 of ImageNet."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from .errors import DataError

__all__ = ["PHOTOGRAPHS", "SAMPLES", "label_of", "sample_files"]

SAMPLES = {"samples": "cifar10", "samples-imagenet": "imagenet"}  # data sets, and the prefix of their file names
# ImageNet's classes that belong to a class of CIFAR-10: eagle, goose, spoonbill, bull mastiff, dalmatian, jeep.
PHOTOGRAPHS = {22: "bird", 99: "bird", 129: "bird", 243: "dog", 251: "dog", 609: "automobile"}


def sample_files(name: str) -> list[Path]:
    """Return the pictures of one of the `SAMPLES`, by number. Raises DataError if they are missing."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise DataError("the samples come inside the package foolbox, which is not installed: pip install foolbox")
    return sorted(Path(spec.origin).parent.glob(f"data/{SAMPLES[name]}_*.*"))


def label_of(path: Path) -> int:
    """Return the class index of a picture, for CIFAR-10 or ImageNet."""
    return int(re.split(r"[_.]", path.name)[2])
