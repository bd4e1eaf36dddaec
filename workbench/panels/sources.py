"""A collection of pictures for `explore`: a data set's test images, a folder's pictures, or uploaded files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data import Split
from ..errors import DataError, WorkbenchError
from ..folders import SUFFIXES, find_pictures, passed_over
from ..pictures import open_picture
from ..storage import expand_user

__all__ = ["Source", "from_files", "from_folder"]

MOST = 5000  # pictures that are read from a folder


@dataclass(frozen=True)
class Source:
    """A collection of pictures: a data set's test images, a folder's pictures, or uploaded files.

    `split` has the images and the labels (-1: unknown). `dataset` is the name of the data set. `folder` is the path of the
    folder. `names` are the names of the files. A field that does not apply is empty.
    """

    split: Split
    dataset: str = ""
    folder: str = ""
    names: tuple[str, ...] = ()

    def choices(self, classes: Sequence[str]) -> list[str]:
        """Return the names of the filters: "all", the classes that have pictures, "recognised" and "misclassified".

        `classes` are the names of all classes. Without labels, the only filter is "all".
        """
        there = [name for k, name in enumerate(classes) if bool((self.split.labels == k).any())]
        return ["all", *there, *(["recognised", "misclassified"] if there else [])]

    def of_class(self, k: int) -> list[int]:
        """Return the numbers of the pictures whose class index is `k`."""
        numbers: list[int] = (self.split.labels == k).nonzero()[:, 0].tolist()
        return numbers


def from_folder(path: str, side: int) -> tuple[Source | None, list[str]]:
    """Read the pictures of the folder `path` and its subfolders, sorted by path.

    `side` and the result are as in `from_files`. At most `MOST` (5000) pictures are read. If files were skipped, an additional
    line of text reports their number. Raises DataError if the folder does not exist or has no pictures.
    """
    folder = expand_user(path)
    if not folder.is_dir():
        raise DataError(f"folder {path!r} does not exist; give the path of a folder with pictures")
    pictures, others = find_pictures(folder)
    if not pictures:
        raise DataError(f"no pictures in {path!r}: {', '.join(SUFFIXES)} are looked for")
    others[f"pictures beyond the first {MOST:,}"] = max(0, len(pictures) - MOST)
    source, wrong = from_files([(each.name, each) for each in pictures[:MOST]], side, str(folder))
    return source, [*wrong, *filter(None, [passed_over(folder, +others)])]


def from_files(files: Sequence[tuple[str, bytes | Path]], side: int, folder: str = "") -> tuple[Source | None, list[str]]:
    """Read picture files as a collection. Crop and scale each picture to `side` x `side` pixels.

    Each entry of `files` is a tuple of the file's name, and the file's bytes or path. `folder` is the path of the files'
    folder, or empty for uploads. Return the collection, and a line of text for each file that cannot be read. If no file can be
    read, the collection is None.
    """
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
