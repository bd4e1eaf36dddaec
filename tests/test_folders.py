"""Users' folders: which files are read, which are skipped and counted, and the error line for each mistake."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.datasets import save_class_folders, save_official, shuffled
from workbench import cifar10, folders
from workbench.data import CIFAR10_CLASSES, load
from workbench.errors import DataError
from workbench.folders import SUFFIXES, find_pictures
from workbench.panels.sources import from_folder
from workbench.pictures import ANY


def save(path: Path, level: int = 0, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.new("RGB", (32, 32), (level,) * 3).save(file, kind)


def count(data_dir: Path) -> int:
    pets = load("folder", data_dir)
    return len(pets.train) + len(pets.validation) + len(pets.test)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    save_class_folders(root, {"cat": 10, "dog": 10})
    return root


def test_every_suffix_that_pillow_knows_of_these_formats_is_read() -> None:
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in (*ANY.formats, "MPO")}
    assert known <= set(SUFFIXES)


def test_pictures_are_read_with_any_suffix_case_at_any_depth(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added = (
        ("a.jfif", "JPEG"),
        ("b.jpe", "JPEG"),
        ("c.mpo", "MPO"),
        ("D.JPG", "JPEG"),
        ("e.JPEG", "JPEG"),
        ("f.Png", "PNG"),
        ("g.apng", "PNG"),
        ("h.TIF", "TIFF"),
        ("i.b.c.webp", "WEBP"),
        ("images/a.JPEG", "JPEG"),  # Tiny ImageNet's layout
        ("2024/06/a.png", "PNG"),
    )
    for level, (name, kind) in enumerate(added, 200):
        save(pets / "cat" / name, level, kind)
    assert {str(path.relative_to(pets / "cat")) for path in find_pictures(pets / "cat")[0]} >= {name for name, _ in added}
    assert count(pets) == 20 + len(added)
    assert capsys.readouterr().err == ""


def test_files_of_file_managers_are_ignored_like_dot_folders(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        *("cat/._000.png", "._cat/000.png", "__MACOSX/cat/._000.png", "__MACOSX/cat/x.png", ".git/x.png", "cat/.thumbs/x.png"),
        *(".DS_Store", "Thumbs.db", "desktop.ini", "cat/.DS_Store", "cat/Thumbs.db", "dog/thumbs.DB"),
    ):
        (pets / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / name).write_bytes(b"\0\5\26\7 no picture")
    assert count(pets) == 20
    assert load("folder", pets).classes == ("cat", "dog")
    assert capsys.readouterr().err == ""


def test_what_is_passed_over_is_counted_in_one_line(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("labels.csv", "README", "cat/notes.txt", "cat/more/notes.TXT", "dog/clip.mp4", "dog/no-suffix"):
        (pets / name).parent.mkdir(exist_ok=True)
        (pets / name).write_text("no picture")
    save(pets / "loose.png")
    os.mkfifo(pets / "dog" / "pipe.png")
    assert len(load("folder", pets).train) == 16
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"passed over under '{pets}', not read as pictures: 2 .txt, 2 files without a suffix, ")
    for kind in ("1 .mp4", "1 .csv", "1 pictures outside class folders", "1 special files"):
        assert kind in line
    assert load("folder", pets).notes == [line]
    assert capsys.readouterr().err == "", "once is enough"


def test_control_characters_of_a_folders_name_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "pets\x1b[2J\nred"
    save_class_folders(root, {"cat": 10, "dog": 10})
    (root / "cat" / "x.\x1b[31m").write_text("no picture")
    load("folder", root)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert r"1 .\x1b[31m" in line


def test_links_are_followed_once(pets: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "more" / "x.png", 200)
    (pets / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (pets / "cat" / "linked.png").symlink_to(pets / "dog" / "000.png")
    (pets / "cat" / "loop").symlink_to(pets / "cat")
    (tmp_path / "bird").mkdir()
    save(tmp_path / "bird" / "x.png", 210)
    (pets / "bird").symlink_to(tmp_path / "bird")
    assert load("folder", pets).classes == ("bird", "cat", "dog")
    assert count(pets) == 23


def test_a_broken_link_is_named(pets: Path) -> None:
    (pets / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png' does not exist"):
        _ = load("folder", pets).train


def save_splits(root: Path, **counts: int) -> None:
    for number, (name, each) in enumerate(counts.items()):
        save_class_folders(root / name, {"a": each, "b": each}, level=60 * number)


def grey(split: Any) -> list[int]:
    return sorted(split.images[:, 0, 0, 0].tolist())


def test_without_a_test_folder_validation_is_halved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for held_out in ("val", "valid", "validation", "dev", "Val"):
        root = tmp_path / f"with {held_out}"
        save_splits(root, train=3, **{held_out: 5})
        pets = load("folder", root)
        assert grey(pets.train) == list(range(6)), held_out
        assert sorted(grey(pets.validation) + grey(pets.test)) == list(range(60, 70)), held_out
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"no test/ next to '{root / held_out}': one half of its images chooses the best weights")


def test_three_folders_are_the_three_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_splits(tmp_path, train=3, val=2, test=4)
    pets = load("folder", tmp_path)
    levels = [grey(split) for split in (pets.train, pets.validation, pets.test)]
    assert levels == [list(range(6)), list(range(60, 64)), list(range(120, 128))]
    assert pets.division.startswith("validation and test as in the folders")
    assert capsys.readouterr().err == ""
    save_splits(tmp_path / "other names", Training=3, Testing=4)
    pets = load("folder", tmp_path / "other names")
    assert (len(pets.train), len(pets.validation), len(pets.test)) == (6, 4, 4)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 3}, r"holds train/ without test/ \(or val/\)"),
        ({"test": 3}, r"holds test/ without train/"),
        ({"test": 3, "val": 3}, r"holds val/, test/ without train/"),
        ({"train": 3, "training": 3, "test": 3}, r"holds train, training, both train: keep one of them"),
    ],
)
def test_splits_that_are_incomplete_are_one_line(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    save_splits(tmp_path, **counts)
    with pytest.raises(DataError, match=message):
        load("folder", tmp_path)


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"bus": 10, "train": 10})
    assert load("folder", tmp_path).classes == ("bus", "train")


def test_a_class_that_another_split_lacks_is_named(tmp_path: Path) -> None:
    classes = dict.fromkeys(CIFAR10_CLASSES, 1)
    for split in ("train", "test", "val"):
        root = tmp_path / f"more in {split}"
        for each in {"train", "test", split}:
            save_class_folders(root / each, classes)
        save(root / split / "c" / "x.png")
        # train/ defines the classes: its additional classes are missing in the other split.
        missing = "'.*test/c'; every class" if split == "train" else f"'.*{split}/c' holds images of a class"
        with pytest.raises(DataError, match=missing):
            load("folder", root)
        if split == "val":
            assert "1 folders that are no split" in " ".join(load("cifar10", root).notes)
        else:
            with pytest.raises(DataError, match=f"'.*{split}/c' holds images of a class"):
                load("cifar10", root)


def test_an_empty_folder_of_a_class_that_train_lacks_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_splits(tmp_path, train=3, test=4)
    (tmp_path / "test" / "c").mkdir()
    (tmp_path / "extra").mkdir()
    (tmp_path / "labels.csv").write_text("x")
    load("folder", tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.partition("pictures: ")[2] == "1 .csv, 1 folders that are no split, 1 folders without pictures"


def test_a_folder_one_level_too_high_says_which_is_meant(tmp_path: Path, pets: Path) -> None:
    with pytest.raises(DataError, match=r"holds 1 class folders \(only 'pets': is that the folder to give\?\)"):
        load("folder", tmp_path)


def test_explores_own_folder_is_read_and_counted_alike(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(pets / "cat" / "x.jfif", 200, "JPEG")
    (pets / "cat" / "._x.jfif").write_bytes(b"no picture")
    (pets / "notes.txt").write_text("no picture")
    source, wrong = from_folder(str(pets), 32)
    assert source is not None
    assert len(source.split) == 21
    assert wrong == [f"passed over under '{pets}', not read as pictures: 1 .txt"]
    monkeypatch.setattr("workbench.panels.sources.MOST", 5)
    assert "16 pictures beyond the first 5" in from_folder(str(pets), 32)[1][0]


def test_a_folder_that_changed_divides_under_another_name(pets: Path) -> None:
    before = load("folder", pets).division
    assert load("folder", pets).division == before
    save(pets / "cat" / "000.png", 99)
    assert load("folder", pets).division != before


def pack(root: Path, archive: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(archive, f"w:{archive.suffix[1:].replace('tar', '').replace('tgz', 'gz')}") as tar:
        tar.add(root / cifar10.BATCHES, cifar10.BATCHES)
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    shutil.rmtree(root / cifar10.BATCHES)
    return archive


@pytest.mark.parametrize("name", cifar10.ARCHIVES)
def test_the_archive_alone_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = save_official(tmp_path, monkeypatch)
    archive = pack(tmp_path, tmp_path / name)
    for given in (tmp_path, archive):
        cifar = load("cifar10", given)
        assert np.array_equal(cifar.test.images.numpy(), rows[shuffled(4).chunk(2)[0]])
        assert f"unpacking {archive} to {tmp_path / cifar10.BATCHES}" in capsys.readouterr().err, given
        load("cifar10", tmp_path)
        assert capsys.readouterr().err == "", "it is unpacked once"
        shutil.rmtree(tmp_path / cifar10.BATCHES)


def test_an_archive_writes_nothing_but_the_published_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_official(tmp_path, monkeypatch)
    link = tarfile.TarInfo(f"{cifar10.BATCHES}/extra")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    others = [
        tarfile.TarInfo(name)
        for name in ("../evil", "/tmp/evil-cifar", f"{cifar10.BATCHES}/../evil", f"{cifar10.BATCHES}/readme.html")
    ]
    (tmp_path / "in").mkdir()
    pack(tmp_path, tmp_path / "in" / "cifar-10-python.tar.gz", (link, b""), *[(info, b"x") for info in others])
    _ = load("cifar10", tmp_path / "in").test
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    batches = ["batches.meta", "data_batch_1", "data_batch_2", "test_batch"]
    assert written == [*(f"in/{cifar10.BATCHES}/{name}" for name in batches), "in/cifar-10-python.tar.gz"]


def test_an_archive_whose_file_has_another_md5_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    save_official(tmp_path, monkeypatch)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", "0" * 32]])
    pack(tmp_path, tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(DataError, match="test_batch in the archive does not have the published MD5 sum 0000"):
        load("cifar10", tmp_path)
    assert not (tmp_path / cifar10.BATCHES / "test_batch").exists()


def test_a_damaged_archive_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_official(tmp_path, monkeypatch)
    whole = pack(tmp_path, tmp_path / "whole.tar.gz").read_bytes()
    archive = tmp_path / "cifar-10-python.tar.gz"
    for content in (whole[:5000], b"", b"<html>" * 99):
        archive.write_bytes(content)
        with pytest.raises(DataError, match="cannot be unpacked") as caught:
            load("cifar10", tmp_path)
        assert "\n" not in str(caught.value)


def test_what_is_no_whole_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_official(tmp_path, monkeypatch)
    (tmp_path / cifar10.BATCHES / "test_batch").unlink()
    pack(tmp_path, tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(DataError, match="lacks cifar-10-batches-py/test_batch; download it again"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"cifar\.zip' is a file: give the folder with CIFAR-10, or the archive"):
        load("cifar10", tmp_path / "cifar.zip")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    places = {key: rank for rank, key in enumerate(np.array(cifar10.keys(images), object)[shuffled(12).numpy()])}
    monkeypatch.setattr(cifar10, "_ranks", lambda: places)
    return images


def test_published_pictures_are_halved_alike_in_any_order(published: torch.Tensor) -> None:
    test, validation = shuffled(12).chunk(2)
    for seed in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
        chosen = cifar10.halve(published[order])
        assert chosen[2] == cifar10.OFFICIAL
        assert torch.equal(published[order][chosen[0]], published[test])
        assert torch.equal(published[order][chosen[1]], published[validation])
    assert cifar10.in_validation_half(published[validation]) == 6
    assert cifar10.in_validation_half(published[test]) == cifar10.in_validation_half(255 - published) == 0
    some = torch.tensor([int(test[5]), int(validation[0]), int(test[2])])
    chosen = cifar10.halve(published[some])
    assert (chosen[0].tolist(), chosen[1].tolist()) == ([2, 0], [1]), "some of them stay in their halves"


def test_other_pictures_are_halved_by_position_as_before(published: torch.Tensor) -> None:
    others = 255 - published
    test, validation, division = cifar10.halve(others)
    assert [test.tolist(), validation.tolist()] == [half.tolist() for half in shuffled(12).chunk(2)]
    assert division.startswith("12 unpublished pictures halved by position (seed 0, ")
    test, validation, division = cifar10.halve(torch.cat([others[:5], published]))
    assert sorted(torch.cat([test, validation]).tolist()) == list(range(17))
    assert (len(test), len(validation)) == (9, 8)
    assert division.startswith(f"{cifar10.OFFICIAL}; 5 unpublished pictures")


def test_all_layouts_agree_on_the_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's batches and class folders of the same pictures as PNGs have the same test images in the same order."""
    rows = torch.from_numpy(save_official(tmp_path, monkeypatch))
    places = {key: rank for rank, key in enumerate(np.array(cifar10.keys(rows), object)[shuffled(4).numpy()])}
    monkeypatch.setattr(cifar10, "_ranks", lambda: places)
    for split in ("train", "test"):
        for name in CIFAR10_CLASSES:
            save(tmp_path / "png" / split / name / "filler.png", 9)
    for row, label in zip(rows, [2, 1, 2, 9], strict=True):
        Image.fromarray(row.permute(1, 2, 0).numpy()).save(
            tmp_path / "png" / "test" / CIFAR10_CLASSES[label] / f"{int(row[0, 0, 0])}.png"
        )
    batches, copy = load("cifar10", tmp_path), load("cifar10", tmp_path / "png")
    assert torch.equal(batches.test.images, copy.test.images[:2])
    assert torch.equal(batches.test.labels, copy.test.labels[:2])
    assert torch.equal(batches.validation.images, copy.validation.images[:2])
    assert batches.division == cifar10.OFFICIAL
    assert copy.division != cifar10.OFFICIAL
    assert "10 unpublished pictures" in copy.notes[-1]


def test_thirteen_of_the_samples_are_validation_images() -> None:
    """The shipped hashes on real pictures: foolbox's are numbers 0 to 19 of the published order."""
    validation = shuffled(10_000)[5000:]
    samples = load("samples")
    expected = [number in set(validation.tolist()) for number in range(20)]
    assert [bool(cifar10.in_validation_half(image[None])) for image in samples.test.images] == expected
    assert sum(expected) == samples.chosen_on(cifar10.OFFICIAL) == 13
    assert samples.chosen_on("another division") is None
    assert load("samples-photographs").chosen_on(cifar10.OFFICIAL) == 0
    assert "13 of 20" in samples.division


def test_every_published_key_ships() -> None:
    assert len(cifar10._ranks()) == 10_000
    assert folders.SPLITS.keys() == {"train", "validation", "test"}
