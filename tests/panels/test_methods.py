"""User-defined methods in `explore`."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tests.support.explorers import meta, pixels, press, said
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.panels import Explorer


def blur(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    blurred = [
        Image.fromarray((255 * each.transpose(1, 2, 0)).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3)) for each in images
    ]
    return np.stack([np.asarray(each).transpose(2, 0, 1) / 255 for each in blurred])


def as_jpeg(images: np.ndarray[Any, Any]) -> list[bytes]:
    files = []
    for each in images:
        buffer = io.BytesIO()
        Image.fromarray((255 * each.transpose(1, 2, 0)).round().astype(np.uint8)).save(buffer, "JPEG", quality=20)
        files.append(buffer.getvalue())
    return files


def from_jpeg(files: list[bytes]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(Image.open(io.BytesIO(each))).transpose(2, 0, 1) / 255 for each in files])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_method_of_somebody_else_is_explored(kind: str, digits: Dataset) -> None:
    images = digits.test.images[:20].float() / 255
    seen_kinds = set[type]()

    def protect(given: Any) -> Any:
        seen_kinds.add(type(given))
        return blur(given if kind == "numpy" else given.numpy())

    encode = as_jpeg if kind == "numpy" else (lambda given: as_jpeg(given.numpy()))
    explorer = Explorer.compare(
        {"blur": (protect, encode, from_jpeg), "nothing": (lambda x: x, encode, from_jpeg)},
        images.numpy() if kind == "numpy" else images,
        labels=digits.test.labels[:20].tolist(),
        recognise=lambda given: np.eye(10)[[int(k) % 10 for k in np.asarray(given).sum((1, 2, 3))]],
        sheet=16,
    )
    try:
        assert explorer.wait(60), explorer.error
        assert seen_kinds == {np.ndarray if kind == "numpy" else torch.Tensor}
        assert explorer.stage.options["pairs"] == ["blur", "nothing"]
        assert explorer.pictures == list(range(16))
        expected = blur(images[:1].numpy())[0].transpose(1, 2, 0)
        assert abs(pixels(explorer, "full") / 255 - expected).max() <= 1 / 255
        files = as_jpeg(explorer._last[0].protected(1.0).numpy())  # type: ignore[union-attr]
        assert meta(explorer)["payload"] == sum(map(len, files))
        assert abs(pixels(explorer, "cloud") / 255 - from_jpeg(files[:1])[0].transpose(1, 2, 0)).max() <= 1 / 255
        explorer.strength = 0.0
        assert explorer.wait()
        assert meta(explorer)["ssim"] == [1.0] * 16
        explorer.pair = "nothing"
        assert explorer.wait()
        assert np.array_equal(pixels(explorer, "full"), pixels(explorer, "original"))
        assert explorer.frame().axes
        assert explorer.link()["python"].startswith("explorer.apply(strength=0.0, ")
        press(explorer, "attack")
        assert explorer.rest()
        assert "is not a pair of the workbench" in said(explorer)
    finally:
        explorer.close()


def test_the_six_lines_of_the_page_explore_a_blur() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "explore.md").read_text("utf-8")
    (code,) = [block.partition("```")[0] for block in page.split("```python\n")[1:] if "Explorer.compare" in block]
    assert len([line for line in code.splitlines() if line]) == 6
    names: dict[str, Any] = {}
    exec(code, names)
    explorer = names["explorer"]
    try:
        assert explorer.wait(60), explorer.error
        assert meta(explorer)["name"] == "blur, JPEG 20"
        files = names["jpeg"].encode_each(explorer._last[0].full)
        assert meta(explorer)["payload"] == sum(map(len, files))
        assert max(meta(explorer)["ssim"]) < 0.95
    finally:
        explorer.close()


def test_a_method_may_have_a_rate(digits: Dataset) -> None:
    def encode(images: Any, rate: float) -> bytes:
        return bytes(round(10 * rate) + 1) * len(images)

    kept: dict[str, Any] = {}

    def protect(images: Any) -> Any:
        kept["images"] = images
        return images

    explorer = Explorer.compare({"mine": (protect, encode, lambda _: kept["images"])}, digits.test.images[:1].numpy(), rate=1.0)
    try:
        assert explorer.wait(60), explorer.error
        assert len(explorer.stage.options["rates"]) == 11
        assert meta(explorer)["payload"] == 11
        explorer.rate = 0.5
        assert explorer.wait()
        assert meta(explorer)["payload"] == 6
        assert meta(explorer)["target"] == [], "nothing recognises"
    finally:
        explorer.close()


IMAGES = np.zeros((2, 3, 32, 32), np.float32)


def same(images: Any) -> Any:
    return images


@pytest.mark.parametrize(
    ("methods", "images", "more", "message"),
    [
        ({}, IMAGES, {}, "no method to compare"),
        ({"a": (same, same)}, IMAGES, {}, "method 'a' must be three callables"),
        (
            {"a": (same, as_jpeg, from_jpeg)},
            IMAGES[0],
            {},
            "expected images N x 3 x H x W, H and W at least 11, got (3, 32, 32)",
        ),
        ({"a": (same, as_jpeg, from_jpeg)}, IMAGES + 2, {}, "floats in [0, 1], got torch.float32 from 2 to 2"),
        ({"a": (same, as_jpeg, from_jpeg)}, IMAGES, {"labels": [1]}, "expected 2 labels, got (1,)"),
        ({"a": (same, as_jpeg, from_jpeg)}, IMAGES, {"picture": 2}, "picture 2 is not there: 2 images were given"),
    ],
)
def test_wrong_methods_and_images_are_named(methods: Any, images: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Explorer.compare(methods, images, **more)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ((lambda x: x[:, :, ::2], as_jpeg, from_jpeg), "protect of 'a' returned (1, 3, 16, 32), expected (1, 3, 32, 32)"),
        ((same, lambda x: 5, from_jpeg), "encode of 'a' must return bytes, or 1 byte strings, got int"),
        ((same, as_jpeg, lambda _: IMAGES), "decode of 'a' returned (2, 3, 32, 32), expected (1, 3, 32, 32)"),
    ],
)
def test_what_a_method_returns_wrong_is_said(method: Any, message: str) -> None:
    explorer = Explorer.compare({"a": method}, IMAGES)
    try:
        with pytest.raises(UsageError):
            explorer.wait(60)
        assert message in said(explorer)
    finally:
        explorer.close()
