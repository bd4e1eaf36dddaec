"""CIFAR-10: its published files, their archive, and the division of the test set into halves.

The papers shuffle the official test set with torch's random number generator, seed 0, and halve it (PP, section 5). One half is
for tests, the other for validation. A picture's half depends only on its pixels, so every layout of the files gives the same
halves. The file `cifar10_test.sha256` holds, in the published order, the first 5 bytes of the SHA-256 of each test picture (3 x
32 x 32 bytes). Pictures with other pixels, for example JPEG copies, count as unpublished. Their half depends on their position
in the test set.
"""

from __future__ import annotations

import functools
import hashlib
import lzma
import os
import socket
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch import Tensor

from . import _compat
from .errors import DataError
from .storage import data_root, replacing
from .streams import complain

__all__ = ["ARCHIVES", "BATCHES", "OFFICIAL", "fingerprint", "halve", "in_validation_half", "locate", "read_official"]

BATCHES = "cifar-10-batches-py"
ARCHIVES = tuple(f"cifar-10-python.{suffix}" for suffix in ("tar.gz", "tgz", "tar.xz", "tar.bz2", "tar"))
OFFICIAL = "CIFAR-10's test set halved by torch's generator seeded 0, by picture"
KEY = 5  # bytes of a picture's hash, enough to distinguish all 10,000
MOST_BYTES = 64 << 20  # limit of one file in the archive
DOWNLOAD_TIMEOUT_S = 30


def keys(images: Tensor) -> list[bytes]:
    """Return a short hash of each picture: the first `KEY` bytes of its SHA-256. `images` are uint8, N x 3 x 32 x 32."""
    return [hashlib.sha256(image.tobytes()).digest()[:KEY] for image in images.contiguous().numpy()]


@functools.cache
def _ranks() -> dict[bytes, int]:
    content = Path(__file__).with_name("cifar10_test.sha256").read_bytes()
    published = [content[start : start + KEY] for start in range(0, len(content), KEY)]
    return {published[index]: rank for rank, index in enumerate(_order(len(published)).tolist())}


def _order(n: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def halve(images: Tensor) -> tuple[Tensor, Tensor, str]:
    """Divide a test set into a test half and a validation half. Return the indices of each half, and the name of this division.

    `images` are the test set, uint8, N x 3 x 32 x 32. A published CIFAR-10 test picture goes to the same half as in the papers.
    The published pictures of each half come first, in the papers' order. Unpublished pictures are shuffled (seed 0) and then
    halved.
    """
    ranks, names = _ranks(), keys(images)
    published = sorted((ranks[name], row) for row, name in enumerate(names) if name in ranks)
    others = torch.tensor([row for row, name in enumerate(names) if name not in ranks], dtype=torch.long)
    others = others[_order(len(others))]
    middle = (len(others) + 1) // 2
    half = len(ranks) // 2
    test = torch.tensor([row for rank, row in published if rank < half], dtype=torch.long)
    validation = torch.tensor([row for rank, row in published if rank >= half], dtype=torch.long)
    division = OFFICIAL if published else ""
    if len(others):
        division += f"{'; ' if published else ''}{len(others):,} unpublished pictures halved by position "
        division += f"(seed 0, {fingerprint(images)})"
    return torch.cat([test, others[:middle]]), torch.cat([validation, others[middle:]]), division


def fingerprint(images: Tensor) -> str:
    """Return 8 hex digits that identify the pictures and their order."""
    return hashlib.sha256(b"".join(keys(images))).hexdigest()[:8]


def in_validation_half(images: Tensor) -> int:
    """Return how many of `images` (uint8, N x 3 x 32 x 32) are in the validation half of CIFAR-10's official test set."""
    ranks = _ranks()
    return sum(ranks.get(name, 0) >= len(ranks) // 2 for name in keys(images))


def locate(directory: Path | None) -> Path | None:
    """Return the folder that contains `cifar-10-batches-py`. Return None if `directory` has neither this folder nor an archive.

    `directory` is the user's folder or archive. None means `data/datasets/cifar10`, which is returned even if it is empty,
    because `read_official` downloads missing files. An archive is unpacked to the folder that contains it, or to
    `data/datasets/cifar10` if that folder is read-only. Raises DataError for a damaged or incomplete archive.
    """
    root = directory or data_root() / "datasets" / "cifar10"
    archive = next((path for name in ARCHIVES if (path := root / name).is_file()), None)
    if root.name in ARCHIVES and root.is_file():
        archive, root = root, root.parent
    if root.name == BATCHES:
        root = root.parent
    if archive is None:
        return root if directory is None or (root / BATCHES).is_dir() else None
    if _complete(root):
        return root
    target = root if os.access(root, os.W_OK) else data_root() / "datasets" / "cifar10"
    if not _complete(target):
        complain(f"unpacking {archive} to {target / BATCHES}")
        _unpack(archive, target / BATCHES)
    return target


def read_official(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Return the images (uint8, N x 3 x 32 x 32) and the labels of the training set, or of the test set if `train` is False.

    The pictures have their published order. `root` is the folder from `locate`. Missing files are downloaded to `root`. Raises
    DataError if the download fails.
    """
    cifar10 = _torchvision()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        dataset = cifar10(str(root), train=train, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded to {str(root)!r} ({type(error).__name__}: {error}); put a copy on this machine "
            "and name its folder with --data-dir (DATA_DIR= for make), or use --dataset digits, which needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(dataset.targets)


def _torchvision() -> Any:
    with _compat.stub_unused_imports():
        from torchvision.datasets import CIFAR10
    return CIFAR10


def _published() -> dict[str, str | None]:
    cifar10 = _torchvision()
    return dict([*cifar10.train_list, *cifar10.test_list, (cifar10.meta["filename"], cifar10.meta["md5"])])


def _complete(root: Path) -> bool:
    return (root / BATCHES).is_dir() and all((root / BATCHES / name).is_file() for name in _published())


def _unpack(archive: Path, folder: Path) -> None:
    wanted = _published()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                *_, parent, name = ("", "", *PurePosixPath(member.name).parts)
                if parent == BATCHES and name in wanted and member.isfile() and member.size <= MOST_BYTES:
                    _write(tar.extractfile(member), folder / name, wanted.pop(name))
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{str(archive)!r} cannot be unpacked ({reason}); download it again") from error
    if wanted:
        others = f" and {len(wanted) - 1} more files" if len(wanted) > 1 else ""
        raise DataError(f"{str(archive)!r} lacks {BATCHES}/{next(iter(wanted))}{others}; download it again")


def _write(file: IO[bytes] | None, path: Path, md5: str | None) -> None:
    content = file.read() if file is not None else b""
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path.name} in the archive does not have the published MD5 sum {md5}; download the archive again")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
