"""A collection of pictures for `explore`: a data set's test images, a folder, or uploaded files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data import Split
from ..errors import DataError, UsageError, WorkbenchError
from ..folders import SUFFIXES, find_pictures, passed_over
from ..pictures import open_picture
from ..storage import expand_user

__all__ = ["Source", "from_files", "from_folder", "named"]

MOST = 5000  # pictures that are read from a folder


@dataclass(frozen=True)
class Source:
    """A collection of pictures. `dataset` is the name of its data set for `data.load`, `folder` is the path of its folder.

    Uploads have neither a data set nor a folder. `names` are the file names, empty for a data set.
    """

    split: Split
    dataset: str = ""
    folder: str = ""
    names: tuple[str, ...] = ()

    def choices(self, classes: Sequence[str]) -> list[str]:
        """Return the filters: "all", each class with a picture and, with labels, "recognised" and "misclassified"."""
        there = [name for k, name in enumerate(classes) if bool((self.split.labels == k).any())]
        return ["all", *there, *(["recognised", "misclassified"] if there else [])]

    def of_class(self, k: int) -> list[int]:
        """Return the numbers of the pictures of class index `k`."""
        numbers: list[int] = (self.split.labels == k).nonzero()[:, 0].tolist()
        return numbers


def from_files(files: Sequence[tuple[str, bytes]], side: int) -> tuple[Source | None, list[str]]:
    """Read files (name, content) as squares of `side` pixels. Return the collection (None if all fail) and the errors."""
    return _read(files, side)


def from_folder(path: str, side: int) -> tuple[Source | None, list[str]]:
    """Read a folder's pictures, ordered by name, as `from_files` does. Raises DataError for a missing or empty folder."""
    folder = expand_user(path)
    if not folder.is_dir():
        raise DataError(f"folder {path!r} does not exist; give the path of a folder with pictures")
    pictures, others = find_pictures(folder)
    if not pictures:
        raise DataError(f"no pictures in {path!r}: {', '.join(SUFFIXES)} are looked for")
    others[f"pictures beyond the first {MOST:,}"] = max(0, len(pictures) - MOST)
    source, wrong = _read([(each.name, each) for each in pictures[:MOST]], side, str(folder))
    return source, [*wrong, *filter(None, [passed_over(folder, +others)])]


def _read(files: Sequence[tuple[str, bytes | Path]], side: int, folder: str = "") -> tuple[Source | None, list[str]]:
    images, names, wrong = [], [], []
    for name, content in files:
        try:
            images.append(np.asarray(open_picture(content, side)))
            names.append(name)
        except WorkbenchError as error:
            wrong.append(f"{name}: {error}")
    if not images:
        return None, wrong
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Source(Split(pixels, torch.full((len(images),), -1)), "", folder, tuple(names)), wrong


def named(name: str, limit: int = 0, data_dir: str = "") -> tuple[Source, tuple[str, ...], str, str]:
    """Return a data set's test pictures, class names, title and family. `limit` is the number of pictures (0: all).

    The family is the name of the data set whose weights are used.
    """
    from ..data import load

    dataset = load(name, data_dir or None)
    if limit < 0:
        raise UsageError(f"limit must be 0 (all) or more, got {limit}")
    return Source(dataset.test.head(limit or None), name), dataset.classes, dataset.title, dataset.family
