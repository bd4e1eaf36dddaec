"""Find the sample pictures in the package foolbox: 20 of CIFAR-10's test set, and 20 of ImageNet."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from .errors import DataError

__all__ = ["PHOTOGRAPHS", "SAMPLES", "label_of", "sample_files"]

SAMPLES = {"samples": "cifar10", "samples-imagenet": "imagenet"}  # name: prefix of the pictures' file names
# ImageNet's classes with a matching class in CIFAR-10: eagle, goose, spoonbill, bull mastiff, dalmatian, jeep.
PHOTOGRAPHS = {22: "bird", 99: "bird", 129: "bird", 243: "dog", 251: "dog", 609: "automobile"}


def sample_files(name: str) -> list[Path]:
    """Return the picture files of the sample set `name`, a key of `SAMPLES`, in order of their numbers.

    Raises DataError if the package foolbox is not installed.
    """
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise DataError("the samples come inside the package foolbox, which is not installed: pip install foolbox")
    return sorted(Path(spec.origin).parent.glob(f"data/{SAMPLES[name]}_*.*"))


def label_of(path: Path) -> int:
    """Return the class index in a sample's file name. The classes are CIFAR-10's or ImageNet's, as in `SAMPLES`."""
    return int(re.split(r"[_.]", path.name)[2])
