"""Reading pictures: data sets and their splits, a user's own pictures of any kind, and files that are no pictures."""

from __future__ import annotations

import itertools
import re
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from tests.support.datasets import NOISE, RNG, encode, pixels, save_class_folders, save_official, shuffled
from tests.support.picture_files import png_claiming
from workbench import cifar10
from workbench.data import CIFAR10_CLASSES, DATASETS, Dataset, load
from workbench.errors import DataError, UsageError
from workbench.pictures import load_pictures, open_picture, to_float, to_uint8

NOISE_32 = Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8))


# --- data sets -------------------------------------------------------------------------------------------------------------


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="unknown data set 'digit': did you mean 'digits'"):
        load("digit")


@pytest.mark.parametrize("name", DATASETS)
def test_a_missing_data_folder_is_a_data_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere' does not exist"):
        load(name, tmp_path / "nowhere")


@pytest.mark.parametrize(("split", "n"), [("train", 697), ("validation", 100), ("test", 1000)])
def test_digits_are_uint8_colour_images_with_labels(digits: Dataset, split: str, n: int) -> None:
    part = getattr(digits, split)
    assert len(part) == n
    assert part.images.shape == (n, 3, 32, 32)
    assert part.images.dtype == torch.uint8
    assert part.labels.shape == (n,)
    assert part.labels.dtype == torch.int64
    assert set(part.labels.tolist()) == set(range(len(digits.classes)))
    assert torch.equal(part.images[:, 0], part.images[:, 2])


def test_digits_splits_are_disjoint_complete_and_seeded(digits: Dataset) -> None:
    source = load_digits()
    splits = (digits.train, digits.validation, digits.test)
    labels = torch.cat([split.labels for split in splits])
    assert torch.equal(labels, torch.from_numpy(source.target)[shuffled(1797)])
    images = torch.cat([split.images for split in splits])
    assert len(images) == 1797
    assert len(images.flatten(1).unique(dim=0)) == len(np.unique(source.images.reshape(1797, -1), axis=0))


def test_digits_show_what_scikit_learn_has(digits: Dataset) -> None:
    small = torch.from_numpy(load_digits().images).float()[shuffled(1797)[-1000:]] / 16
    shrunk = torch.nn.functional.avg_pool2d(to_float(digits.test.images)[:, 0], 4)
    assert (shrunk - small).abs().mean() < 0.06 < (shrunk.roll(1, 0) - small).abs().mean() / 3


def test_digits_are_the_same_every_time_and_read_once(digits: Dataset) -> None:
    again = load("digits")
    assert torch.equal(again.test.images, digits.test.images)
    assert torch.equal(again.test.labels, digits.test.labels)
    assert again.test is again.test
    assert (again.family, again.mirror) == ("digits", False)


def test_head_takes_the_first_or_all(digits: Dataset) -> None:
    assert torch.equal(digits.test.head(7).images, digits.test.images[:7])
    assert torch.equal(digits.test.head(7).labels, digits.test.labels[:7])
    assert digits.test.head(None) is digits.test
    assert len(digits.test.head(10_000)) == 1000


def packaged(prefix: str) -> list[Path]:
    import importlib.util

    origin = importlib.util.find_spec("foolbox").origin
    return sorted(Path(origin).parent.glob(f"data/{prefix}_*"))


def test_the_samples_are_twenty_images_labelled_by_name() -> None:
    samples = load("samples")
    files = packaged("cifar10")
    assert len(samples.test) == len(files) == 20
    assert samples.test.labels.tolist() == [int(path.stem.split("_")[2]) for path in files]
    for image, path in zip(samples.test.images, files, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(path).convert("RGB")))
    assert (samples.classes, samples.family) == (CIFAR10_CLASSES, "cifar10")


def test_the_imagenet_samples_are_square_and_named() -> None:
    samples = load("samples-imagenet")
    expected = [f"ImageNet {int(path.stem.split('_')[2])}" for path in packaged("imagenet")]
    assert samples.test.images.shape == (20, 3, 32, 32)
    assert [samples.classes[label] for label in samples.test.labels] == expected
    assert len(samples.classes) == len(set(expected))


def test_the_photographs_show_classes_of_cifar10() -> None:
    photographs, imagenet = load("samples-photographs"), load("samples-imagenet")
    assert (photographs.classes, photographs.family) == (CIFAR10_CLASSES, "cifar10")
    named = [CIFAR10_CLASSES[label] for label in photographs.test.labels]
    assert named == ["dog", "automobile", "automobile", "bird", "bird", "dog", "bird"]
    for image in photographs.test.images:
        assert (imagenet.test.images == image).flatten(1).all(1).any()


@pytest.mark.parametrize("name", ["samples", "samples-imagenet", "samples-photographs"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_samples_have_a_test_split_only(name: str, split: str) -> None:
    with pytest.raises(DataError, match=f"no {split} split"):
        getattr(load(name), split)


# --- folders ---------------------------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_split_into_disjoint_tenths(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "pets", {"cat": 12, "dog": 8})
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / ".cache").mkdir()
    pets = load("folder", tmp_path / "pets")
    assert pets.classes == ("cat", "dog")
    assert pets.family.startswith("folder-pets-")
    levels = [split.images[:, 0, 0, 0].tolist() for split in (pets.train, pets.validation, pets.test)]
    assert [len(part) for part in levels] == [16, 2, 2]
    assert [*levels[0], *levels[1], *levels[2]] == shuffled(20).tolist()
    for split in (pets.train, pets.validation, pets.test):
        assert torch.equal(split.labels, (split.images[:, 0, 0, 0] >= 12).long())


def test_a_folder_with_train_and_test_halves_the_test(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "train", {"cat": 3, "dog": 4})
    save_class_folders(tmp_path / "test", {"cat": 4, "dog": 6}, level=100)
    pets = load("folder", tmp_path)
    assert pets.train.images[:, 0, 0, 0].tolist() == list(range(7))
    assert pets.train.labels.tolist() == [0] * 3 + [1] * 4
    halves = pets.validation.images[:, 0, 0, 0].tolist(), pets.test.images[:, 0, 0, 0].tolist()
    assert [len(half) for half in halves] == [5, 5]
    assert sorted(halves[0] + halves[1]) == list(range(100, 110))
    assert torch.equal(pets.test.labels, (pets.test.images[:, 0, 0, 0] >= 104).long())


def test_folders_share_weights_only_with_equal_classes(tmp_path: Path) -> None:
    families = []
    for place, classes in (("a", ("cat", "dog")), ("b", ("cat", "dog")), ("c", ("cow", "dog")), ("cifar10", ("x", "y"))):
        folder = tmp_path / place / "pets of mine"
        save_class_folders(folder, dict.fromkeys(classes, 2))
        families.append(load("folder", folder / ".." / folder.name).family)
    assert families[0] == families[1] != families[2]
    assert all(re.fullmatch(r"folder-pets-of-mine-[0-9a-f]{8}", family) for family in families)


def test_a_folder_too_small_for_three_splits_is_a_data_error(tmp_path: Path) -> None:
    save_class_folders(tmp_path / "few", {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match="2 images in .*few' are too few to train, validate and test on"):
        _ = load("folder", tmp_path / "few").train


def test_a_folder_data_set_needs_a_folder() -> None:
    with pytest.raises(UsageError, match="needs --data-dir"):
        load("folder")


def test_a_folder_needs_two_classes(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"cat": 1})
    with pytest.raises(DataError, match="holds 1 class folders; at least 2 are needed"):
        load("folder", tmp_path)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"cat": 2, "dog": 0})
    with pytest.raises(DataError, match=r"no images in .*dog'"):
        _ = load("folder", tmp_path).test


def test_a_broken_picture_among_many_is_named(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"cat": 50, "dog": 50})
    (tmp_path / "dog" / "031.png").write_bytes(encode(NOISE)[:300])
    with pytest.raises(DataError, match=r"dog/031\.png' cannot be read"):
        _ = load("folder", tmp_path).train


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------------


def test_a_copy_is_halved_by_position(tmp_path: Path) -> None:
    for number, (name, split) in enumerate(itertools.product(CIFAR10_CLASSES, ("train", "test"))):
        (tmp_path / split / name).mkdir(parents=True)
        for index in range(2):
            grey = Image.new("RGB", (32, 32), (10 * number + 5 * index,) * 3)
            grey.save(tmp_path / split / name / f"{index}.jpg", quality=75)
    cifar = load("cifar10", tmp_path)
    assert cifar.title == "CIFAR-10 (JPEG q75 copy)"
    assert (cifar.family, cifar.classes) == ("cifar10", CIFAR10_CLASSES)
    test, validation = shuffled(20).chunk(2)
    for split, chosen in ((cifar.test, test), (cifar.validation, validation)):
        assert torch.equal(split.labels, chosen // 2)
        for row, position in enumerate(chosen.tolist()):
            file = tmp_path / "test" / CIFAR10_CLASSES[position // 2] / f"{position % 2}.jpg"
            assert np.array_equal(split.images[row].permute(1, 2, 0).numpy(), np.asarray(Image.open(file).convert("RGB")))
    assert cifar.train.labels.tolist() == sorted(list(range(10)) * 2)
    assert cifar.division.startswith("20 unpublished pictures halved by position (seed 0, ")
    assert cifar.notes == [f"CIFAR-10 (JPEG q75 copy): {cifar.division}; these halves are not those of CIFAR-10 itself"]
    assert (cifar.chosen_on(cifar.division), cifar.chosen_on(cifar10.OFFICIAL)) == (0, None)


def save_copy(root: Path, kind: str, **options: Any) -> None:
    for split, name in itertools.product(("train", "test"), CIFAR10_CLASSES):
        folder = root / split / name
        folder.mkdir(parents=True)
        NOISE_32.save(folder / f"0.{kind.lower()}", kind, **options)


@pytest.mark.parametrize(
    ("kind", "options", "coding"),
    [("PNG", {}, "PNG"), ("JPEG", {"quality": 75}, "JPEG q75"), ("JPEG", {"quality": 92}, "JPEG q92")],
)
def test_a_copy_is_named_after_its_coding(tmp_path: Path, kind: str, options: dict[str, Any], coding: str) -> None:
    save_copy(tmp_path, kind, **options)
    cifar = load("cifar10", tmp_path)
    assert cifar.title == f"CIFAR-10 ({coding} copy)"
    assert len(cifar.train) == 10
    assert sorted(cifar.test.labels.tolist() + cifar.validation.labels.tolist()) == list(range(10))


def test_a_copy_whose_first_file_is_no_picture_is_a_data_error(tmp_path: Path) -> None:
    save_copy(tmp_path, "PNG")
    (tmp_path / "test" / "airplane" / "0.png").write_text("no picture")
    with pytest.raises(DataError, match="cannot be read"):
        _ = load("cifar10", tmp_path).test


def test_a_folder_that_holds_no_cifar10_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected cifar-10-batches-py"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_the_official_layout_is_read_from_both_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    rows = save_official(tmp_path, monkeypatch)
    cifar = load("cifar10", tmp_path / inside)
    assert cifar.title == "CIFAR-10"
    assert cifar.train.images.shape == (8, 3, 32, 32)
    assert cifar.train.labels.tolist() == [0, 1, 2, 9, 1, 1, 2, 9]
    test, validation = shuffled(4).chunk(2)
    assert np.array_equal(cifar.test.images.numpy(), rows[test])
    assert np.array_equal(cifar.validation.images.numpy(), rows[validation])
    assert cifar.test.labels.tolist() == torch.tensor([2, 1, 2, 9])[test].tolist()


def test_without_a_network_cifar10_is_one_line(empty_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/x.tar.gz")
    monkeypatch.setenv("no_proxy", "*")
    cifar = load("cifar10")
    with pytest.raises(DataError, match="--data-dir") as caught:
        _ = cifar.test
    message = str(caught.value)
    assert "\n" not in message
    assert str(empty_data / "datasets" / "cifar10") in message
    assert "--dataset digits" in message


# --- pictures --------------------------------------------------------------------------------------------------------------

UPRIGHT = Image.new("RGB", (48, 32), "red")
UPRIGHT.paste("blue", (0, 0, 24, 16))
UPRIGHT.paste("white", (24, 16, 48, 32))


def test_a_16_bit_picture_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    read = pixels(encode(Image.fromarray(ramp)), 32)[..., 0].astype(float)
    assert np.abs(read - ramp / 257).max() <= 0.51


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("lime", "red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (pixels(data) == (0, 255, 0)).all(), kind


@pytest.mark.parametrize("shape", [(96, 32), (32, 96), (300, 100)])
def test_a_picture_that_is_not_square_is_cut_to_its_middle(shape: tuple[int, int]) -> None:
    side = min(shape)
    picture = Image.new("RGB", shape, "red")
    left, top = (shape[0] - side) // 2, (shape[1] - side) // 2
    picture.paste("blue", (left, top, left + side, top + side))
    for kind, margin in (("PNG", 2), ("JPEG", 8)):
        read = pixels(encode(picture, kind, quality=100, subsampling=0), 32)
        assert read.shape == (32, 32, 3)
        assert np.allclose(read[2:-2, 2:-2], (0, 0, 255), atol=margin), kind


def test_a_large_jpeg_is_scaled_like_the_same_large_png() -> None:
    smooth = NOISE.resize((800, 600), Image.Resampling.BICUBIC)
    jpeg, png = (pixels(encode(smooth, kind, quality=100), 32).astype(float) for kind in ("JPEG", "PNG"))
    assert np.abs(jpeg - png).mean() < 3


def test_a_picture_of_the_requested_size_passes_unchanged() -> None:
    assert np.array_equal(pixels(encode(NOISE_32), 32), np.asarray(NOISE_32))
    assert np.array_equal(pixels(encode(NOISE), None), np.asarray(NOISE))


def test_a_path_a_string_and_bytes_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encode(NOISE))
    expected = pixels(encode(NOISE), 32)
    assert np.array_equal(pixels(path, 32), expected)
    assert np.array_equal(pixels(str(path), 32), expected)


@pytest.mark.parametrize("n", [1, 63, 200])
def test_pictures_keep_their_order_however_many_there_are(n: int) -> None:
    sources = [encode(Image.new("RGB", (8, 8), (index, 255 - index, 7))) for index in range(n)]
    images = load_pictures(sources, None)
    assert images.shape == (n, 3, 8, 8)
    assert images.is_contiguous()
    assert images[:, 0, 0, 0].tolist() == list(range(n))
    assert images[:, 1, 7, 7].tolist() == list(range(255, 255 - n, -1))


def test_no_pictures_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no pictures given"):
        load_pictures([])


def test_pictures_of_two_sizes_need_a_size() -> None:
    sources = [encode(NOISE), encode(NOISE_32)]
    with pytest.raises(DataError, match="differ in size"):
        load_pictures(sources, None)
    assert load_pictures(sources, 16).shape == (2, 3, 16, 16)


def test_more_pictures_than_memory_holds_are_a_data_error() -> None:
    blank = encode(Image.new("RGB", (4096, 4096)))
    with pytest.raises(DataError):
        load_pictures([blank, *[b""] * 65_535], None)


def test_every_level_survives_the_way_to_float_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_uint8(torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])).tolist() == [0, 0, 128, 255, 255]


# --- files that are no pictures --------------------------------------------------------------------------------------------


def jpeg_with_exif(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """Return a JPEG whose EXIF directory holds entries of (tag, type, count, four bytes of value)."""
    directory = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0"
    return encode(UPRIGHT, "JPEG", exif=exif)


def refused(data: bytes | Path, size: int | None = 32) -> str:
    """Return the one-line error for a file. Fail for any other exception, a long wait or a second line."""
    start = time.thread_time()  # this thread's own work, on however busy a machine
    with pytest.raises(DataError) as caught:
        open_picture(data, size)
    assert time.thread_time() - start < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_or_refused(data: bytes, size: int | None = None) -> np.ndarray | None:
    """Return the pixels of a picture, or None if it is refused with a DataError."""
    try:
        return pixels(data, size)
    except DataError:
        return None


@pytest.mark.parametrize(
    "data",
    [
        png_claiming(50_000, 50_000),
        png_claiming(12_000, 12_000),
        png_claiming(2**31 - 1, 1),
        b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0" + encode(Image.new("P", (8, 8)), "GIF")[13:],
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
    ],
    ids=["png 50,000 squared", "png 12,000 squared", "png one line", "gif", "bmp"],
)
def test_a_header_with_too_many_pixels_is_refused_undecoded(data: bytes) -> None:
    assert "120,000,000" in refused(data)


def test_a_claim_within_bounds_is_judged_by_its_data() -> None:
    assert "truncated" in refused(png_claiming(500, 500))


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"dear diary\n" * 40, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"<svg/>", b"MZ" * 500]
)
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    assert f"picture {len(data)} bytes cannot be read" in refused(data)


@pytest.mark.parametrize("content", [b"dear diary", b""])
def test_a_file_that_is_no_picture_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    assert refused(path) == (
        f"picture '{path}' cannot be read: not a picture of a known format; give a whole JPEG, PNG, WebP, GIF, BMP or TIFF"
    )


def test_a_missing_file_and_a_folder_are_refused_by_their_names(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.jpg") == f"picture '{tmp_path / 'no.jpg'}' does not exist"
    assert f"picture '{tmp_path}' cannot be read" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "no" / "such" / "folder.jpg")


def test_a_name_with_line_breaks_or_a_null_stays_one_line() -> None:
    assert "does not exist" in refused(Path("no\nsuch.jpg"))
    assert "cannot be read" in refused(Path("no\0such.jpg"))


def test_other_formats_that_pillow_reads_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "drawing.ppm"
    path.write_bytes(encode(NOISE, "PPM"))
    assert "known format" in refused(path)


def test_a_file_beyond_128_mib_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.write(encode(NOISE))
        file.truncate((128 << 20) + 1)
    assert "larger than 128 MiB" in refused(path)


EXIF = Image.Exif()
EXIF[274], EXIF[271], EXIF[282] = 6, "maker", 72.0
EXIF.get_ifd(0x8769)[36867] = "2020:01:01 00:00:00"
WHOLE = {
    "jpeg": encode(NOISE, "JPEG", exif=EXIF),
    "progressive jpeg": encode(NOISE, "JPEG", progressive=True),
    "png": encode(NOISE, exif=EXIF),
    "palette": encode(NOISE.quantize(16), transparency=3),
    "webp": encode(NOISE, "WEBP", exif=EXIF),
    "gif": encode(NOISE.quantize(16), "GIF"),
    "bmp": encode(NOISE, "BMP"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_half_a_picture_is_refused(name: str) -> None:
    assert pixels(WHOLE[name]).shape in {(40, 56, 3), (56, 40, 3)}
    assert "cannot be read" in refused(WHOLE[name][: len(WHOLE[name]) // 2])


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_picture_cut_anywhere_is_refused_or_was_whole_already(name: str, data: st.DataObject) -> None:
    whole = WHOLE[name]
    read = read_or_refused(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert read is None or np.array_equal(read, pixels(whole))


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=12),
    size=st.sampled_from([32, None]),
)
def test_a_picture_with_changed_bytes_is_read_or_refused(name: str, changes: list[tuple[int, int]], size: int | None) -> None:
    damaged = bytearray(WHOLE[name])
    for position, value in changes:
        damaged[position % len(damaged)] = value
    read = read_or_refused(bytes(damaged), size)
    assert read is None or read.shape[-1] == 3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(magic=st.sampled_from([b"", *(whole[:12] for whole in WHOLE.values())]), rest=st.binary(max_size=300))
def test_random_bytes_are_refused(magic: bytes, rest: bytes) -> None:
    assert "cannot be read" in refused(magic + rest)


ROTATED = (274, 3, 1, b"\6\0\0\0")


@pytest.mark.parametrize(
    "entries",
    [
        [ROTATED, (282, 2, 4, b"abc\0")],
        [ROTATED, (256, 2, 4, b"abc\0")],
        [ROTATED, (273, 7, 4, b"abcd")],
        [ROTATED, (34665, 4, 1, b"\xff\xff\xff\x7f")],
        [(274, 3, 2, b"\6\0\x08\0")],
        [(274, 2, 4, b"six\0")],
    ],
    ids=[
        "text as resolution",
        "text as width",
        "bytes as offset",
        "directory beyond the end",
        "two orientations",
        "text as orientation",
    ],
)
def test_a_damaged_exif_directory_is_read_past_or_refused(entries: list[tuple[int, int, int, bytes]]) -> None:
    read = read_or_refused(jpeg_with_exif(entries))
    assert read is None or sorted(read.shape) == [3, 32, 48]
