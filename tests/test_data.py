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


def test_a_missing_data_folder_is_a_data_error(tmp_path: Path) -> None:
    for name in DATASETS:
        with pytest.raises(DataError, match="nowhere' does not exist"):
            load(name, tmp_path / "nowhere")


def test_digits_are_uint8_colour_images_in_seeded_splits(digits: Dataset) -> None:
    source, splits = load_digits(), (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [697, 100, 1000]
    for split in splits:
        assert split.images.shape == (len(split), 3, 32, 32)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert set(split.labels.tolist()) == set(range(len(digits.classes)))
        assert torch.equal(split.images[:, 0], split.images[:, 2])
    labels = torch.cat([split.labels for split in splits])
    assert torch.equal(labels, torch.from_numpy(source.target)[shuffled(1797)])
    images = torch.cat([split.images[:, 0] for split in splits])
    assert len(images.flatten(1).unique(dim=0)) == len(np.unique(source.images.reshape(1797, -1), axis=0))
    small = torch.from_numpy(source.images).float()[shuffled(1797)[-1000:]] / 16
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


def test_the_samples_have_a_test_split_only() -> None:
    for name, split in itertools.product(("samples", "samples-imagenet", "samples-photographs"), ("train", "validation")):
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
    assert pets.train.images[:, 0, 0, 0].tolist() == shuffled(7).tolist(), "the first pictures are of every class"
    assert torch.equal(pets.train.labels, (shuffled(7) >= 3).long())
    halves = pets.validation.images[:, 0, 0, 0].tolist(), pets.test.images[:, 0, 0, 0].tolist()
    assert [len(half) for half in halves] == [5, 5]
    assert sorted(halves[0] + halves[1]) == list(range(100, 110))
    assert torch.equal(pets.test.labels, (pets.test.images[:, 0, 0, 0] >= 104).long())


def test_the_first_pictures_of_a_split_have_all_classes(tmp_path: Path) -> None:
    for level, name in enumerate(("train", "val", "test")):
        save_class_folders(tmp_path / name, {"cat": 6, "dog": 6}, level=60 * level)
    pets, again = load("folder", tmp_path), load("folder", tmp_path)
    for level, split in enumerate((pets.train, pets.validation, pets.test)):
        assert set(split.labels[:6].tolist()) == {0, 1}
        assert torch.equal(split.labels, (split.images[:, 0, 0, 0] >= 60 * level + 6).long()), "labels follow their pictures"
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(pets, name).images, getattr(again, name).images)
    in_folders = pets.validation.images[shuffled(12).argsort()]
    assert cifar10.fingerprint(in_folders) in pets.division, "its name does not depend on the order of the split"


def test_folders_share_weights_only_with_equal_classes(tmp_path: Path) -> None:
    families = []
    for place, classes in (("a", ("cat", "dog")), ("b", ("cat", "dog")), ("c", ("cow", "dog")), ("cifar10", ("x", "y"))):
        folder = tmp_path / place / "pets of mine"
        save_class_folders(folder, dict.fromkeys(classes, 2))
        families.append(load("folder", folder / ".." / folder.name).family)
    assert families[0] == families[1] != families[2]
    assert all(re.fullmatch(r"folder-pets-of-mine-[0-9a-f]{8}", family) for family in families)


def test_a_folder_data_set_needs_a_folder() -> None:
    with pytest.raises(UsageError, match="needs --data-dir"):
        load("folder")


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"cat": 1, "dog": 1}, "2 images in .*few' are too few to train, validate and test on"),
        ({"cat": 1}, "holds 1 class folders; at least 2 are needed"),
        ({"cat": 2, "dog": 0}, r"no images in .*dog'"),
    ],
)
def test_a_folder_with_too_little_is_a_data_error(tmp_path: Path, counts: dict[str, int], reason: str) -> None:
    save_class_folders(tmp_path / "few", counts)
    with pytest.raises(DataError, match=reason):
        _ = load("folder", tmp_path / "few").train


def test_a_broken_picture_among_many_is_named(tmp_path: Path) -> None:
    save_class_folders(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "dog" / "003.png").write_bytes(encode(NOISE)[:300])
    with pytest.raises(DataError, match=r"dog/003\.png' cannot be read"):
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
    assert torch.equal(cifar.train.labels, shuffled(20) // 2), "the first pictures are of every class"
    assert cifar.division.startswith("20 unpublished pictures halved by position (seed 0, ")
    assert cifar.notes == [f"CIFAR-10 (JPEG q75 copy): {cifar.division}; these halves are not those of CIFAR-10 itself"]
    assert (cifar.chosen_on(cifar.division), cifar.chosen_on(cifar10.OFFICIAL)) == (0, None)


def save_copy(root: Path, kind: str, **options: Any) -> None:
    for split, name in itertools.product(("train", "test"), CIFAR10_CLASSES):
        folder = root / split / name
        folder.mkdir(parents=True)
        NOISE_32.save(folder / f"0.{kind.lower()}", kind, **options)


def test_a_copy_is_named_after_its_coding(tmp_path: Path) -> None:
    for kind, options, coding in (
        ("PNG", {}, "PNG"),
        ("JPEG", {"quality": 75}, "JPEG q75"),
        ("JPEG", {"quality": 92}, "JPEG q92"),
    ):
        save_copy(tmp_path / coding, kind, **options)
        cifar = load("cifar10", tmp_path / coding)
        assert cifar.title == f"CIFAR-10 ({coding} copy)"
        assert len(cifar.train) == 10
        assert sorted(cifar.test.labels.tolist() + cifar.validation.labels.tolist()) == list(range(10))
    (tmp_path / "PNG" / "test" / "airplane" / "0.png").write_text("no picture")
    with pytest.raises(DataError, match="cannot be read"):
        _ = load("cifar10", tmp_path / "PNG").test


def test_a_folder_that_holds_no_cifar10_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected cifar-10-batches-py"):
        load("cifar10", tmp_path)


def test_the_official_layout_is_read_from_both_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = save_official(tmp_path, monkeypatch)
    test, validation = shuffled(4).chunk(2)
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        cifar = load("cifar10", folder)
        assert cifar.title == "CIFAR-10"
        assert cifar.train.images.shape == (8, 3, 32, 32)
        assert cifar.train.labels.tolist() == [0, 1, 2, 9, 1, 1, 2, 9]
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


def test_a_picture_that_is_not_square_is_cut_to_its_middle() -> None:
    for width, height in ((96, 32), (32, 96), (300, 100)):
        side = min(width, height)
        picture = Image.new("RGB", (width, height), "red")
        left, top = (width - side) // 2, (height - side) // 2
        picture.paste("blue", (left, top, left + side, top + side))
        for kind, margin in (("PNG", 2), ("JPEG", 8)):
            read = pixels(encode(picture, kind, quality=100, subsampling=0), 32)
            assert read.shape == (32, 32, 3)
            assert np.allclose(read[2:-2, 2:-2], (0, 0, 255), atol=margin), (width, height, kind)


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


def test_pictures_keep_their_order_however_many_there_are() -> None:
    sources = [encode(Image.new("RGB", (8, 8), (index, 255 - index, 7))) for index in range(200)]
    for n in (1, 63, 200):
        images = load_pictures(sources[:n], None)
        assert images.shape == (n, 3, 8, 8)
        assert images.is_contiguous()
        assert images[:, 0, 0, 0].tolist() == list(range(n))
        assert images[:, 1, 7, 7].tolist() == list(range(255, 255 - n, -1))


def test_pictures_that_fit_in_no_tensor_are_refused() -> None:
    with pytest.raises(UsageError, match="no pictures given"):
        load_pictures([])
    sources = [encode(NOISE), encode(NOISE_32)]
    with pytest.raises(DataError, match="differ in size"):
        load_pictures(sources, None)
    assert load_pictures(sources, 16).shape == (2, 3, 16, 16)
    blank = encode(Image.new("RGB", (256, 256)))
    with pytest.raises(DataError, match="are more than fit in 4 GiB"):
        load_pictures([blank, *[b""] * 65_535], None)


def test_every_level_survives_the_way_to_float_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_uint8(torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])).tolist() == [0, 0, 128, 255, 255]


# --- files that are no pictures --------------------------------------------------------------------------------------------


def jpeg_with_exif(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    directory = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0"
    return encode(UPRIGHT, "JPEG", exif=exif)


def refused(data: bytes | Path, size: int | None = 32) -> str:
    """Return the one-line error for a file, or "" if it is read. Fail for any other exception, a long wait or a second line."""
    start, line = time.thread_time(), ""  # this thread's own work, on however busy a machine
    try:
        open_picture(data, size)
    except DataError as error:
        line = str(error)
    assert time.thread_time() - start < 5
    assert "\n" not in line
    return line


def read_or_refused(data: bytes, size: int | None = None) -> np.ndarray | None:
    try:
        return pixels(data, size)
    except DataError:
        return None


def test_a_header_with_too_many_pixels_is_refused_undecoded() -> None:
    for name, data in {
        "png 50,000 squared": png_claiming(50_000, 50_000),
        "png 12,000 squared": png_claiming(12_000, 12_000),
        "png one line": png_claiming(2**31 - 1, 1),
        "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0" + encode(Image.new("P", (8, 8)), "GIF")[13:],
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
    }.items():
        assert "120,000,000" in refused(data), name
    assert "truncated" in refused(png_claiming(500, 500)), "a claim within bounds is judged by its data"


def test_bytes_that_are_no_picture_are_refused() -> None:
    for data in (b"", b"\0", b"dear diary\n" * 40, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"<svg/>", b"MZ" * 500):
        assert f"picture {len(data)} bytes cannot be read" in refused(data), data


def test_a_file_that_is_no_picture_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    for content in (b"dear diary", b"", encode(NOISE, "PPM")):
        path.write_bytes(content)
        assert refused(path) == (
            f"picture '{path}' cannot be read: not a picture of a known format; give a whole JPEG, PNG, WebP, GIF, BMP or TIFF"
        ), content[:2]


def test_a_missing_file_and_a_folder_are_refused_by_their_names(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.jpg") == f"picture '{tmp_path / 'no.jpg'}' does not exist"
    assert f"picture '{tmp_path}' cannot be read" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "no" / "such" / "folder.jpg")
    assert "does not exist" in refused(Path("no\nsuch.jpg"))
    assert "cannot be read" in refused(Path("no\0such.jpg"))


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
def test_a_picture_cut_anywhere_is_refused_or_was_whole_already(name: str) -> None:
    data, whole = WHOLE[name], pixels(WHOLE[name])
    assert whole.shape in {(40, 56, 3), (56, 40, 3)}
    assert "cannot be read" in refused(data[: len(data) // 2])
    for end in {*np.linspace(0, len(data) - 1, 50).astype(int).tolist(), *range(10), *range(len(data) - 10, len(data))}:
        read = read_or_refused(data[:end])
        assert read is None or np.array_equal(read, whole), end


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_with_changed_bytes_is_read_or_refused(name: str) -> None:
    for seed in range(100):
        rng, damaged = np.random.default_rng(seed), bytearray(WHOLE[name])
        for position in rng.integers(0, min(501, len(damaged)), rng.integers(1, 13)):
            damaged[position] = rng.integers(0, 256)
        read = read_or_refused(bytes(damaged), (32, None)[seed % 2])
        assert read is None or read.shape[-1] == 3, seed


def test_random_bytes_are_refused() -> None:
    magics = [b"", *(whole[:12] for whole in WHOLE.values())]
    for seed in range(200):
        rng = np.random.default_rng(seed)
        line = refused(magics[seed % len(magics)] + rng.bytes(int(rng.integers(0, 301))))
        assert "cannot be read" in line or "claims too many pixels" in line, (seed, line)


ROTATED = (274, 3, 1, b"\6\0\0\0")


def test_a_damaged_exif_directory_is_read_past_or_refused() -> None:
    for name, entries in {
        "text as resolution": [ROTATED, (282, 2, 4, b"abc\0")],
        "text as width": [ROTATED, (256, 2, 4, b"abc\0")],
        "bytes as offset": [ROTATED, (273, 7, 4, b"abcd")],
        "directory beyond the end": [ROTATED, (34665, 4, 1, b"\xff\xff\xff\x7f")],
        "two orientations": [(274, 3, 2, b"\6\0\x08\0")],
        "text as orientation": [(274, 2, 4, b"six\0")],
    }.items():
        read = read_or_refused(jpeg_with_exif(entries))
        assert read is None or sorted(read.shape) == [3, 32, 48], name
