"""Data sets as uint8 N x 3 x H x W tensors with labels, class names and the papers' splits."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from . import _compat
from .errors import DataError, UsageError, unknown
from .pictures import load_pictures, open_picture, to_uint8
from .samples import PHOTOGRAPHS, label_of, sample_files
from .storage import data_root

__all__ = [
    "CIFAR10_CLASSES",
    "DATASETS",
    "Dataset",
    "Split",
    "load",
]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = ("train", "validation", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
DOWNLOAD_TIMEOUT_S = 30


@dataclass(frozen=True)
class Split:
    """Images (uint8, N x 3 x H x W) and their labels (int64, N)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, n: int | None) -> Split:
        """Return the first `n` images, or all where `n` is None."""
        return self if n is None else Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class Dataset:
    """A named data set whose splits are read when they are first asked for.

    `family` names the data set whose weights serve this one (the pristine samples are recognised by CIFAR-10 weights);
    `title` is the name that figures carry; `mirror` says whether a mirrored image keeps its label.
    """

    name: str
    title: str
    family: str
    classes: tuple[str, ...]
    mirror: bool
    _read: Callable[[str], Split] = field(repr=False)

    @cached_property
    def train(self) -> Split:
        """The images that networks are fitted on."""
        return self._read("train")

    @cached_property
    def validation(self) -> Split:
        """The images that the best checkpoint is chosen on."""
        return self._read("validation")

    @cached_property
    def test(self) -> Split:
        """The images that figures are measured on."""
        return self._read("test")


def load(name: str = "digits", data_dir: str | Path | None = None) -> Dataset:
    """Return a data set by name.

    - `digits`: scikit-learn's 1,797 handwritten digits, 8 x 8 brought to 3 x 32 x 32; 697 / 100 / 1,000: as many to
      measure on as an audit asks for. Needs no file.
    - `cifar10`: 50,000 / 5,000 / 5,000, the official test set halved by torch's generator seeded 0 (PP, section 5). Read from
      `data_dir` (torchvision's layout, or `train/` and `test/` with class folders), else downloaded to `data/datasets`.
    - `samples`: 20 pristine CIFAR-10 test images from the foolbox package (test split only); `samples-imagenet`: 20 ImageNet
      pictures from the same place, cut square and scaled to 32 x 32; `samples-photographs`: the 7 of these that show a class
      of CIFAR-10.
    - `folder`: any `data_dir` of class folders, with or without `train/` and `test/` above them.

    Raises UsageError for an unknown name, DataError when files are missing or cannot be read.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    directory = Path(data_dir).expanduser() if data_dir else None
    if directory is not None and not directory.is_dir():
        raise DataError(f"data folder {str(directory)!r} does not exist; give the folder that holds the images")
    return DATASETS[name](directory)


def _digits(directory: Path | None) -> Dataset:
    def read(split: str) -> Split:
        from sklearn.datasets import load_digits

        digits = load_digits()
        small = torch.from_numpy(digits.images).float().div_(16)[:, None]  # N x 1 x 8 x 8 in [0, 1]
        large = torch.nn.functional.interpolate(small, size=32, mode="bicubic", align_corners=False).clamp_(0, 1)
        images = to_uint8(large).expand(-1, 3, -1, -1).contiguous()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        chosen = dict(zip(SPLITS, torch.split(order, [697, 100, 1000]), strict=True))[split]
        return Split(images[chosen], torch.from_numpy(digits.target).long()[chosen])

    return Dataset("digits", "scikit-learn digits", "digits", tuple(map(str, range(10))), False, read)


def _cifar10(directory: Path | None) -> Dataset:
    root = directory or data_root() / "datasets" / "cifar10"
    if root.name == "cifar-10-batches-py":
        root = root.parent
    if directory is None or (root / "cifar-10-batches-py").is_dir():
        title, read = "CIFAR-10", cached_reader(lambda train: _cifar10_official(root, train))
    elif (root / "train").is_dir() and (root / "test").is_dir():
        title = f"CIFAR-10 ({_describe_copy(root)} copy)"
        read = cached_reader(lambda train: _read_class_folders(root / ("train" if train else "test"), CIFAR10_CLASSES, 32))
    else:
        raise DataError(
            f"no CIFAR-10 under {str(root)!r}: expected cifar-10-batches-py/ (torchvision's layout) "
            "or train/ and test/ with a folder for each class"
        )

    def split(name: str) -> Split:
        if name == "train":
            return read(True)
        whole = read(False)
        test, validation = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0)).chunk(2)
        chosen = test if name == "test" else validation
        return Split(whole.images[chosen], whole.labels[chosen])

    return Dataset("cifar10", title, "cifar10", CIFAR10_CLASSES, True, split)


def cached_reader(read: Callable[[bool], Split]) -> Callable[[bool], Split]:
    """Return `read` remembering its two answers: validation and test come from one reading of the same files."""
    cache: dict[bool, Split] = {}
    lock = threading.Lock()

    def remember(train: bool) -> Split:
        with lock:
            if train not in cache:
                cache[train] = read(train)
            return cache[train]

    return remember


def _cifar10_official(root: Path, train: bool) -> Split:
    import socket

    with _compat.spared():
        from torchvision.datasets import CIFAR10

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        dataset = CIFAR10(str(root), train=train, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded to {str(root)!r} ({type(error).__name__}: {error}); put a copy on this machine "
            "and name its folder with --data-dir (DATA_DIR= for make), or use --dataset digits, which needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(dataset.targets))


def _describe_copy(root: Path) -> str:
    """Name the coding of a copy of a data set after its first file: `JPEG q75`, `PNG`."""
    first = next((path for path in sorted(root.glob("test/*/*")) if path.suffix.lower() in SUFFIXES), None)
    if first is None:
        raise DataError(f"no images under {str(root / 'test')!r}: expected a folder for each class, with images inside")
    open_picture(first)  # raises the error that names it, if it is damaged
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
    def read(split: str) -> Split:
        paths = _packaged("samples", split)
        return Split(load_pictures(paths, 32), torch.tensor([label_of(path) for path in paths]))

    return Dataset("samples", "CIFAR-10 (20 pristine samples)", "cifar10", CIFAR10_CLASSES, True, read)


def _samples_imagenet(directory: Path | None) -> Dataset:
    classes = sorted({label_of(path) for path in _packaged("samples-imagenet", "test")})

    def read(split: str) -> Split:
        paths = _packaged("samples-imagenet", split)
        return Split(load_pictures(paths, 32), torch.tensor([classes.index(label_of(path)) for path in paths]))

    names = tuple(f"ImageNet {index}" for index in classes)
    return Dataset("samples-imagenet", "ImageNet (20 samples, 32 x 32)", "imagenet", names, True, read)


def _samples_photographs(directory: Path | None) -> Dataset:
    def read(split: str) -> Split:
        of = {path: label_of(path) for path in _packaged("samples-imagenet", split)}
        shown = {path: PHOTOGRAPHS[label] for path, label in of.items() if label in PHOTOGRAPHS}
        return Split(load_pictures(shown, 32), torch.tensor([CIFAR10_CLASSES.index(name) for name in shown.values()]))

    return Dataset("samples-photographs", "ImageNet (7 photographs, 32 x 32)", "cifar10", CIFAR10_CLASSES, True, read)


def _packaged(name: str, split: str) -> list[Path]:
    if split != "test":
        raise DataError(f"the samples have no {split} split, they are 20 images to look at: use --dataset cifar10 or digits")
    return sample_files(name)


def _folder(directory: Path | None) -> Dataset:
    if directory is None:
        raise UsageError("data set 'folder' needs --data-dir: a folder with one folder of images for each class")
    given = (directory / "train").is_dir() and (directory / "test").is_dir()
    top = directory / "train" if given else directory
    classes = tuple(sorted(path.name for path in top.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(classes) < 2:
        raise DataError(f"{str(top)!r} holds {len(classes)} class folders; at least 2 are needed, each with images inside")
    if given:
        read = cached_reader(lambda train: _read_class_folders(directory / ("train" if train else "test"), classes, 32))
    else:
        read = cached_reader(lambda _: _read_class_folders(directory, classes, 32))

    def split(name: str) -> Split:
        """Where the folder has a test set, halve it; else take tenths of the whole."""
        if given and name == "train":
            return read(True)
        source = read(False)
        first = 0 if given else round(0.8 * len(source))
        middle = (first + len(source)) // 2
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
        if not min(first or len(read(True)), middle - first, len(source) - middle):
            raise DataError(f"{len(source)} images in {str(directory)!r} are too few to train, validate and test on")
        chosen = {"train": order[:first], "validation": order[first:middle], "test": order[middle:]}[name]
        return Split(source.images[chosen], source.labels[chosen])

    name = directory.resolve().name
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:32]
    family = f"folder-{plain}-{hashlib.sha256(chr(0).join(classes).encode()).hexdigest()[:8]}"  # other classes, other weights
    return Dataset("folder", f"folder {name}", family, classes, True, split)


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "samples": _samples,
    "samples-imagenet": _samples_imagenet,
    "samples-photographs": _samples_photographs,
    "folder": _folder,
}


def _read_class_folders(root: Path, classes: Sequence[str], size: int) -> Split:
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(path for path in (root / name).glob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(
                f"no images in {str(root / name)!r}; every class needs a folder with images ({', '.join(SUFFIXES)})"
            )
        paths += found
        labels += [label] * len(found)
    return Split(load_pictures(paths, size), torch.tensor(labels))
