"""Load data sets by name: uint8 images (N x 3 x H x W), labels, class names and splits.

Most data sets have three splits. Networks learn from `train` images. `validation` images select the best checkpoint, and `test`
images are used for measurements only. A division is a named way to divide the pictures that are not for training into
validation and test images.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from . import cifar10
from .errors import DataError, UsageError, unknown
from .folders import ClassFolders, passed_over, split_folders, visible_folders
from .pictures import load_pictures, open_picture, to_uint8
from .samples import PHOTOGRAPHS, label_of, sample_files
from .storage import expand_user
from .streams import complain
from .terminal import printable

__all__ = ["CIFAR10_CLASSES", "DATASETS", "Dataset", "Split", "load"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = ("train", "validation", "test")
_REPORTED: set[str] = set()


@dataclass(frozen=True)
class Split:
    """Images (uint8, N x 3 x H x W) and their labels (int64, N)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, n: int | None) -> Split:
        """Return a split of the first `n` images, or of all images if `n` is None."""
        return self if n is None else Split(self.images[:n], self.labels[:n])

    def sha256(self) -> str:
        """Return the SHA-256 of the images and labels, in their order."""
        return hashlib.sha256(self.images.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A named data set. Each of the splits `train`, `validation` and `test` is read on first access.

    `title` is the name to display in plots and messages. `family` is the name under which data sets share weights. For example,
    `samples` uses the weights of `cifar10`. `mirror` states whether an image keeps its label if left and right are exchanged.
    `notes` are lines of text that report skipped files and unusual splits.
    """

    name: str
    title: str
    family: str
    classes: tuple[str, ...]
    mirror: bool
    _read: Callable[[str], Split] = field(repr=False)
    _divide: Callable[[], str] = field(repr=False, default=lambda: "")
    notes: list[str] = field(repr=False, compare=False, default_factory=list)

    @cached_property
    def train(self) -> Split:
        return self._read("train")

    @cached_property
    def validation(self) -> Split:
        return self._read("validation")

    @cached_property
    def test(self) -> Split:
        return self._read("test")

    @cached_property
    def division(self) -> str:
        """The name of the division into validation and test images. Data sets with the same division have equal splits."""
        return self._divide() or self.title

    def chosen_on(self, division: str) -> int | None:
        """Return how many test images of this data set are validation images in `division`. Return None if this is unknown.

        `division` is the name of the division with which a network was trained. The validation images of that division selected
        the network's weights, so the network's accuracy on them is biased.
        """
        if division in (self.division, self.title) and not self.name.startswith("samples"):
            return 0
        published = self.title == "CIFAR-10" or self.name.startswith("samples") or self.division == cifar10.OFFICIAL
        if division == cifar10.OFFICIAL and self.family == "cifar10" and published:
            return cifar10.in_validation_half(self.test.images)
        return None


def load(name: str = "digits", data_dir: str | Path | None = None) -> Dataset:
    """Load the data set `name`. Only `cifar10` and `folder` use `data_dir`, the folder or archive with their files.

    - `digits`: scikit-learn's 1,797 handwritten digits, scaled from 8 x 8 to 32 x 32 pixels. Needs no file. 697 images are for
      training, 100 for validation and 1,000 for tests.
    - `cifar10`: 50,000 training, 5,000 validation and 5,000 test images. The last two are random halves of the official test
      set (see the module `cifar10`). `data_dir` has torchvision's layout, the archive `cifar-10-python.tar.gz`, or folders
      `train/` and `test/` with class folders. Without `data_dir`, the files are downloaded to `data/datasets/cifar10`.
    - `samples`: 20 CIFAR-10 test images from the foolbox package (test split only). 13 are validation images of `cifar10`.
    - `samples-imagenet`: 20 ImageNet pictures from the same package, cropped to squares and scaled to 32 x 32.
    - `samples-photographs`: the 7 pictures of `samples-imagenet` that show a class of CIFAR-10.
    - `folder`: the pictures in `data_dir`, with one folder for each class. The class folders lie directly in `data_dir`, or in
      its subfolders `train/`, `test/` and `val/`. The order of the pictures is random, and the same at each call.

    Skipped files are reported on stderr, and kept in `notes`. Raises UsageError for an unknown name, and DataError for missing
    or unreadable files.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    directory = expand_user(data_dir) if data_dir else None
    archive = name == "cifar10" and directory is not None and directory.is_file()
    if directory is not None and not (directory.is_dir() or archive):
        raise DataError(f"data folder {str(directory)!r} does not exist; give the folder that holds the images")
    return DATASETS[name](directory)


def _digits(directory: Path | None) -> Dataset:
    def read(split: str) -> Split:
        from sklearn.datasets import load_digits

        digits = load_digits()
        small = torch.from_numpy(digits.images).float().div_(16)[:, None]  # N x 1 x 8 x 8 in [0, 1]
        large = torch.nn.functional.interpolate(small, size=32, mode="bicubic", align_corners=False).clamp_(0, 1)
        images = to_uint8(large).expand(-1, 3, -1, -1).contiguous()
        chosen = dict(zip(SPLITS, torch.split(_shuffled(len(images)), [697, 100, 1000]), strict=True))[split]
        return Split(images[chosen], torch.from_numpy(digits.target).long()[chosen])

    return Dataset("digits", "scikit-learn digits", "digits", tuple(map(str, range(10))), False, read)


def _cifar10(directory: Path | None) -> Dataset:
    notes: list[str] = []
    if directory is not None and directory.is_file() and directory.name not in cifar10.ARCHIVES:
        raise DataError(f"{str(directory)!r} is a file: give the folder with CIFAR-10, or the archive {cifar10.ARCHIVES[0]}")
    if (root := cifar10.locate(directory)) is not None:
        found = root
        title, read = "CIFAR-10", _cached_reader(lambda part: Split(*cifar10.read_official(found, part == "train")))
    else:
        assert directory is not None
        splits, passed = split_folders(directory)
        if not splits:
            raise DataError(
                f"no CIFAR-10 under {str(directory)!r}: expected {cifar10.BATCHES}/ (torchvision's layout), "
                "cifar-10-python.tar.gz, or train/ and test/ with a folder for each class"
            )
        held_out = _held_out(splits, notes)
        if "test" in splits and "validation" in splits:
            passed["folders that are no split"] += 1
        parts = {
            "train": ClassFolders.scan(splits["train"], CIFAR10_CLASSES),
            "test": ClassFolders.scan(splits[held_out], CIFAR10_CLASSES),
        }
        _say(passed_over(directory, sum((part.passed for part in parts.values()), passed)), notes)
        title = f"CIFAR-10 ({_describe_copy(parts['test'].paths[0])} copy)"
        read = _cached_reader(lambda part: _read_class_folders(parts[part], mix=part == "train"))

    @functools.cache
    def halves() -> tuple[Tensor, Tensor, str]:
        *chosen, division = cifar10.halve(read("test").images)
        if division != cifar10.OFFICIAL:
            notes.append(f"{title}: {division}; these halves are not those of CIFAR-10 itself")
        return chosen[0], chosen[1], division

    def split(name: str) -> Split:
        if name == "train":
            return read("train")
        whole, (test, validation, _) = read("test"), halves()
        chosen = test if name == "test" else validation
        return Split(whole.images[chosen], whole.labels[chosen])

    return Dataset("cifar10", title, "cifar10", CIFAR10_CLASSES, True, split, lambda: halves()[2], notes)


def _cached_reader(read: Callable[[str], Split]) -> Callable[[str], Split]:
    cache: dict[str, Split] = {}
    lock = threading.Lock()

    def remember(part: str) -> Split:
        with lock:
            if part not in cache:
                cache[part] = read(part)
            return cache[part]

    return remember


def _describe_copy(first: Path) -> str:
    open_picture(first)  # raises DataError with the file's name if it is damaged
    with Image.open(first) as picture:
        tables = getattr(picture, "quantization", None)
        if picture.format != "JPEG" or not tables:
            return str(picture.format)
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        if getattr(Image.open(buffer), "quantization", None) == tables:
            return f"JPEG q{quality}"
    return "JPEG"


def _samples(directory: Path | None) -> Dataset:
    read = _sample_reader("samples", {label: label for label in range(len(CIFAR10_CLASSES))})

    def division() -> str:
        images = read("test").images
        return f"test alone: {cifar10.in_validation_half(images)} of {len(images)} are validation images of CIFAR-10"

    return Dataset("samples", "CIFAR-10 (20 pristine samples)", "cifar10", CIFAR10_CLASSES, True, read, division)


def _samples_imagenet(directory: Path | None) -> Dataset:
    labels = sorted({label_of(path) for path in sample_files("samples-imagenet")})
    read = _sample_reader("samples-imagenet", {label: index for index, label in enumerate(labels)})
    names = tuple(f"ImageNet {label}" for label in labels)
    return Dataset("samples-imagenet", "ImageNet (20 samples, 32 x 32)", "imagenet", names, True, read)


def _samples_photographs(directory: Path | None) -> Dataset:
    read = _sample_reader("samples-imagenet", {label: CIFAR10_CLASSES.index(name) for label, name in PHOTOGRAPHS.items()})
    return Dataset("samples-photographs", "ImageNet (7 photographs, 32 x 32)", "cifar10", CIFAR10_CLASSES, True, read)


def _sample_reader(name: str, classes: dict[int, int]) -> Callable[[str], Split]:
    def read(split: str) -> Split:
        if split != "test":
            raise DataError(
                f"the samples have no {split} split, they are 20 images to look at: use --dataset cifar10 or digits"
            )
        shown = {path: classes[label] for path in sample_files(name) if (label := label_of(path)) in classes}
        return Split(load_pictures(shown, 32), torch.tensor(list(shown.values())))

    return read


def _folder(directory: Path | None) -> Dataset:
    if directory is None:
        raise UsageError("data set 'folder' needs --data-dir: a folder with one folder of images for each class")
    notes: list[str] = []
    splits, passed = split_folders(directory)
    top = splits.get("train", directory)
    classes = tuple(path.name for path in visible_folders(top))
    if len(classes) < 2:
        inside = f" (only {classes[0]!r}: is that the folder to give?)" if classes and visible_folders(top / classes[0]) else ""
        raise DataError(
            f"{str(top)!r} holds {len(classes)} class folders{inside}; at least 2 are needed, each with images inside"
        )
    parts = {split: ClassFolders.scan(folder, classes) for split, folder in (splits or {"all": directory}).items()}
    _say(passed_over(directory, sum((part.passed for part in parts.values()), passed)), notes)
    whole = SPLITS if len(splits) == len(SPLITS) else ("train",)  # the splits that have their own folder
    read = _cached_reader(lambda part: _read_class_folders(parts[part], mix=part in whole))
    pool = _held_out(splits, notes) if splits else "all"

    def split(name: str) -> Split:
        if splits and name in whole:
            return read(name)
        source = read(pool)
        first = 0 if splits else round(0.8 * len(source))
        middle = (first + len(source)) // 2
        order = _shuffled(len(source))
        if not min(first or len(parts["train"].paths), middle - first, len(source) - middle):
            raise DataError(f"{len(source)} images in {str(directory)!r} are too few to train, validate and test on")
        chosen = {"train": order[:first], "validation": order[first:middle], "test": order[middle:]}[name]
        return Split(source.images[chosen], source.labels[chosen])

    def division() -> str:
        if len(splits) == len(SPLITS):
            images = read("validation").images
            in_folders = images[_shuffled(len(images)).argsort()]  # the name of a division is that of the order in the folders
            return f"validation and test as in the folders ({cifar10.fingerprint(in_folders)})"
        how = "halves" if splits else "the last two tenths"
        return f"{how} of {len(read(pool)):,} images by position (seed 0, {cifar10.fingerprint(read(pool).images)})"

    name = directory.resolve().name
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:32]
    family = f"folder-{plain}-{hashlib.sha256(chr(0).join(classes).encode()).hexdigest()[:8]}"  # other classes, other weights
    return Dataset("folder", f"folder {printable(name)}", family, classes, True, split, division, notes)


def _held_out(splits: dict[str, Path], notes: list[str]) -> str:
    if "test" in splits:
        return "test"
    _say(
        f"no test/ next to {str(splits['validation'])!r}: one half of its images chooses the best weights, "
        "figures are measured on the other",
        notes,
    )
    return "validation"


def _say(line: str, notes: list[str]) -> None:
    if line:
        notes.append(line)
    if line and line not in _REPORTED:  # report once, since `explore` opens the same folder repeatedly
        _REPORTED.add(line)
        complain(line)


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "samples": _samples,
    "samples-imagenet": _samples_imagenet,
    "samples-photographs": _samples_photographs,
    "folder": _folder,
}


def _read_class_folders(folders: ClassFolders, mix: bool) -> Split:
    # Without `mix`, pictures are sorted by class. Then the first N pictures of a split would be of one or two classes.
    order = _shuffled(len(folders.paths)) if mix else torch.arange(len(folders.paths))
    paths = folders.paths
    return Split(load_pictures([paths[index] for index in order.tolist()], 32), torch.tensor(folders.labels)[order])


def _shuffled(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))
