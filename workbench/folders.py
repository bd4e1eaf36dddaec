"""Folders of pictures: which files are read, how folders define classes and splits, and which entries are skipped.

::

    DIR/<class>/**/picture            one folder for each class, with pictures at any depth
    DIR/train, DIR/test[, DIR/val]    the same class folders in each (or training, testing; valid, validation, dev)

The splits are train, validation and test. Hidden entries and files of file managers (`._x.jpg`, `.DS_Store`, `Thumbs.db`,
`__MACOSX/`) are ignored. All other skipped entries are counted by kind, so that the caller can report them. A counter of such
entries is called `passed`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError

__all__ = ["SUFFIXES", "ClassFolders", "find_pictures", "passed_over", "split_folders", "visible_folders"]

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SYSTEM = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "icon\r",
}
SPLITS = {"train": ("train", "training"), "validation": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}


@dataclass(frozen=True)
class ClassFolders:
    """The content of class folders: `files` has the pictures of each class, and `passed` counts the skipped entries by kind."""

    files: list[list[Path]]
    passed: Counter[str]

    @property
    def paths(self) -> list[Path]:
        """The pictures of all classes, in the order of the classes."""
        return [path for paths in self.files for path in paths]

    @property
    def labels(self) -> list[int]:
        """The class index of each picture in `paths`."""
        return [label for label, paths in enumerate(self.files) for _ in paths]

    @staticmethod
    def scan(root: Path, classes: Sequence[str]) -> ClassFolders:
        """Find the pictures of each class in the folder `root`/CLASS.

        Raises DataError for a class without pictures, and for pictures of an unknown class.
        """
        files = []
        passed: Counter[str] = Counter()
        for name in classes:
            pictures, others = find_pictures(root / name)
            if not pictures:
                raise DataError(
                    f"no images in {str(root / name)!r}; every class needs a folder with images ({', '.join(SUFFIXES)})"
                )
            files.append(pictures)
            passed += others
        for folder in visible_folders(root):
            if folder.name not in classes:
                if find_pictures(folder)[0]:
                    raise DataError(
                        f"{str(folder)!r} holds images of a class that is not among {_listed(classes)}: "
                        "give every split the same class folders"
                    )
                passed["folders without pictures"] += 1
        return ClassFolders(files, passed + _loose(root))


def find_pictures(root: Path) -> tuple[list[Path], Counter[str]]:
    """Return the pictures under a folder, sorted by path, and counts of the skipped files by kind.

    A kind is a suffix such as `.txt`, or a phrase such as `special files`. Symbolic links are followed.
    """
    pictures: list[Path] = []
    others: Counter[str] = Counter()
    entered: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in entered:
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = [name for name in subfolders if not _of_system(name)]
        for path in (Path(folder, name) for name in files if not _of_system(name)):
            if path.suffix.lower() not in SUFFIXES:
                others[path.suffix.lower() or "files without a suffix"] += 1
            elif path.is_file() or not path.exists():  # include broken links: reading one raises an error with its name
                pictures.append(path)
            else:  # a pipe, a socket or a device: opening it could block forever
                others["special files"] += 1
    return sorted(pictures), others


def passed_over(root: Path, passed: Counter[str]) -> str:
    """Return a line of text that reports the skipped entries under `root`. `passed` counts them by kind.

    The line is empty if nothing was skipped.
    """
    if not passed:
        return ""
    counts = ", ".join(f"{count} {kind}" for kind, count in passed.most_common())
    return f"passed over under {str(root)!r}, not read as pictures: {counts}"


def visible_folders(root: Path) -> list[Path]:
    """Return the folders in `root`, sorted by name. Hidden folders and folders of file managers are left out."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not _of_system(path.name))


def split_folders(root: Path) -> tuple[dict[str, Path], Counter[str]]:
    """Return the folder of each split (`train`, `validation`, `test`), and counts of the other entries in `root` by kind.

    Both are empty if `root` holds class folders directly. Raises DataError if a split has two folders. Raises DataError also if
    `root` has a split with class folders, but lacks `train` or both other splits.
    """
    folders = visible_folders(root)
    splits: dict[str, Path] = {}
    for split, names in SPLITS.items():
        matching = [folder for folder in folders if folder.name.casefold() in names]
        if len(matching) > 1:
            raise DataError(f"{str(root)!r} holds {_listed([each.name for each in matching])}, both {split}: keep one of them")
        if matching:
            splits[split] = matching[0]
    if not ("train" in splits and len(splits) > 1):
        nested = [folder.name for folder in splits.values() if visible_folders(folder)]
        if not nested:  # class folders, some of which may have the name of a split
            return {}, Counter()
        missing = "test/ (or val/)" if "train" in splits else "train/"
        raise DataError(
            f"{str(root)!r} holds {_listed(f'{name}/' for name in nested)} without {missing}: "
            "add that folder, with the same class folders inside, or give the folder that holds the class folders"
        )
    passed = _loose(root)
    passed["folders that are no split"] += len(folders) - len(splits)
    return splits, +passed


def _loose(root: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in root.iterdir():
        if not path.is_dir() and not _of_system(path.name):
            suffix = path.suffix.lower()
            counts["pictures outside class folders" if suffix in SUFFIXES else suffix or "files without a suffix"] += 1
    return counts


def _of_system(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM


def _listed(names: Iterable[str]) -> str:
    whole = list(names)
    return ", ".join(whole[:12]) + (f" and {len(whole) - 12} more" if len(whole) > 12 else "")
