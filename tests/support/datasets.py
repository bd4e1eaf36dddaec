"""Pictures and data sets written to a folder."""

from __future__ import annotations

import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.data import CIFAR10_CLASSES
from workbench.pictures import open_picture

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8))


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes | str | Path, size: int | None = None) -> np.ndarray:
    return np.asarray(open_picture(data, size))


def shuffled(n: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def save_class_folders(root: Path, counts: dict[str, int], level: int = 0) -> None:
    levels = itertools.count(level)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (40, 40), (next(levels),) * 3).save(root / name / f"{index:03d}.png")


def save_official(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write the official layout with four images a file, and disable torchvision's check of hashes. Return the test images."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(1)
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    names = ["data_batch_1", "data_batch_2", "test_batch"]
    for number, name in enumerate(names):
        rows = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [number, 1, 2, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CIFAR10_CLASSES)}))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name in names[:2]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[2], None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    return rows.reshape(4, 3, 32, 32)
