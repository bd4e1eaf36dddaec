"""The interactive view without a browser: its controls moved, its pictures and captions read."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.data import Dataset, Split
from workbench.evaluation import Evaluation
from workbench.panels import SIDE, UPLOADS, Explorer, Settings
from workbench.pictures import to_uint8
from workbench.system import codec_for
from workbench.weights import Pair

NAMES = ("original", "protected", "at the cloud", "residual")


@pytest.fixture
def sources(digits: Dataset) -> dict[str, Split]:
    """Two collections: the first six digits, and four others, coloured."""
    other = digits.test.images[6:10].clone()
    other[:, 1] //= 2
    return {"digits": digits.test.head(6), "coloured": Split(other, torch.tensor([-1, -1, -1, -1]))}


@pytest.fixture
def explorer(pair: Pair, sources: dict[str, Split], digits: Dataset) -> Explorer:
    explorer = Explorer(pair, sources, digits.classes)
    assert explorer.wait()
    return explorer


def shown(explorer: Explorer) -> dict[str, bytes]:
    return {name: bytes(explorer.pictures[name].value) for name in NAMES}


def captions(explorer: Explorer) -> dict[str, str]:
    return {name: explorer.captions[name].value for name in NAMES}


def pixels(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)))


def enlarged(image: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of the data set as it must look on the screen: its pixels as squares."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST))


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in NAMES if before[name] != after[name]}


def uploaded(*files: tuple[str, bytes]) -> tuple[dict[str, Any], ...]:
    """What a FileUpload holds once a person has chosen files."""
    return tuple(
        {"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": datetime.now(UTC)}
        for name, content in files
    )


def png(colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_at_first_it_shows_the_first_picture_at_full_strength(explorer: Explorer, sources: dict[str, Split]) -> None:
    original = pixels(shown(explorer)["original"])
    assert original.shape == (SIDE, SIDE, 3)
    assert np.array_equal(original, enlarged(sources["digits"].images[0]))
    label = sources["digits"].labels[0].item()
    assert f"{label}</span>" in captions(explorer)["original"]
    assert "bytes" in captions(explorer)["at the cloud"]
    assert "neural" in captions(explorer)["at the cloud"]
    assert explorer.strength.value == 1.0
    assert "target resnet18" in explorer.bars["target"].value
    assert "auxiliary mobilenet_v2" in explorer.bars["auxiliary"].value
    assert explorer.bars["target"].value.count('class="bar"') == 5
    assert explorer.message.value == ""


def test_strength_changes_all_but_the_original(explorer: Explorer) -> None:
    before, text, numbers = shown(explorer), captions(explorer), explorer.numbers.value
    explorer.strength.value = 0.4
    assert explorer.wait()
    assert {"protected", "residual"} <= changed(before, shown(explorer))
    assert "original" not in changed(before, shown(explorer))
    assert captions(explorer)["protected"] != text["protected"]
    assert explorer.numbers.value != numbers


def test_at_strength_zero_the_protected_picture_is_the_original_and_the_residual_grey(explorer: Explorer) -> None:
    explorer.strength.value = 0.0
    assert explorer.wait()
    now = shown(explorer)
    assert now["protected"] == now["original"]
    assert set(np.unique(pixels(now["residual"]))) <= {127, 128}
    assert "SSIM 1.000" in captions(explorer)["protected"]


def test_the_codec_changes_only_what_the_cloud_sees(explorer: Explorer) -> None:
    seen = {}
    for codec in ("png", "jpeg", "webp", "neural"):
        before = shown(explorer)
        explorer.codec.value = codec
        assert explorer.wait()
        assert changed(before, shown(explorer)) <= {"at the cloud"}
        assert codec in captions(explorer)["at the cloud"]
        assert explorer.quality.disabled == (codec not in ("jpeg", "webp"))
        seen[codec] = shown(explorer)["at the cloud"]
        if codec == "png":
            assert seen["png"] == shown(explorer)["protected"], "PNG is lossless"
    assert len(set(seen.values())) == 4


def test_quality_changes_what_a_jpeg_leaves(explorer: Explorer) -> None:
    explorer.codec.value = "jpeg"
    assert explorer.wait()
    before, text = shown(explorer), captions(explorer)
    explorer.quality.value = 5
    assert explorer.wait()
    assert changed(before, shown(explorer)) == {"at the cloud"}
    assert "jpeg q5" in captions(explorer)["at the cloud"] != text["at the cloud"]


def test_the_number_chooses_the_picture_and_another_collection_begins_at_its_first(
    explorer: Explorer, sources: dict[str, Split]
) -> None:
    before = shown(explorer)
    explorer.index.value = 5
    assert explorer.wait()
    assert {"original", "protected"} <= changed(before, shown(explorer))
    assert f"{sources['digits'].labels[5]}</span>" in captions(explorer)["original"]
    explorer.source.value = "coloured"
    assert explorer.wait()
    assert (explorer.index.value, explorer.index.max) == (0, 3)
    assert np.array_equal(pixels(shown(explorer)["original"]), enlarged(sources["coloured"].images[0]))
    assert "unknown" in captions(explorer)["original"]


def test_the_newest_setting_wins(explorer: Explorer) -> None:
    for step in range(50):
        explorer.strength.value = round(step / 100, 2)
    explorer.strength.value = 0.73
    assert explorer.wait()
    now = shown(explorer)
    explorer.show(explorer.compute(Settings("digits", 0, 0.73, "neural", 89)))
    assert shown(explorer) == now


def test_moving_a_control_returns_at_once_and_settings_do_not_queue(explorer: Explorer) -> None:
    computed: list[float] = []
    real = explorer.compute
    gate = threading.Event()

    def slow(settings: Settings) -> Any:
        computed.append(settings.strength)
        assert gate.wait(20)
        return real(settings)

    explorer.compute = slow  # type: ignore[method-assign]
    start = time.monotonic()
    for step in range(30):
        explorer.strength.value = step / 100
    assert time.monotonic() - start < 5
    assert not explorer.wait(timeout=0.05), "it cannot be ready while it computes"
    gate.set()
    assert explorer.wait()
    assert computed[-1] == pytest.approx(0.29)
    assert len(computed) <= 2, "what was overtaken is never computed"


def test_compute_depends_on_its_settings_alone(explorer: Explorer) -> None:
    settings = Settings("digits", 2, 0.6, "jpeg", 50)
    before = shown(explorer)
    first = explorer.compute(settings)
    explorer.compute(Settings("coloured", 1, 0.1, "png", 50))
    second = explorer.compute(settings)
    for name in ("original", "protected", "reconstructed"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert (first.target, first.auxiliary, first.ssim, first.s2_bytes) == (
        second.target,
        second.auxiliary,
        second.ssim,
        second.s2_bytes,
    )
    assert shown(explorer) == before
    assert (explorer.strength.value, explorer.index.value) == (1.0, 0)


def test_what_is_computed_is_what_the_system_computes(explorer: Explorer, pair: Pair, sources: dict[str, Split]) -> None:
    view = explorer.compute(Settings("digits", 3, 0.5, "jpeg", 70))
    images = sources["digits"].images[3:4].float() / 255
    protected = pair.generator(images, 0.5)
    codec = codec_for(pair, "jpeg", quality=70)
    payload = codec.encode(protected)
    torch.testing.assert_close(view.protected, protected[0])
    assert view.s2_bytes == len(payload)
    assert torch.equal(view.reconstructed, codec.decode(payload)[0])
    scores = pair.target(codec.decode(payload)).softmax(1)[0]
    assert view.target[0] == (str(scores.argmax().item()), pytest.approx(scores.max().item()))
    assert sum(value for _, value in view.target) <= 1 + 1e-5


def test_an_uploaded_picture_is_shown_at_once(explorer: Explorer) -> None:
    explorer.strength.value = 0.0
    explorer.upload.value = uploaded(("red.png", png((200, 30, 40))))
    assert explorer.wait()
    assert explorer.source.value == UPLOADS
    assert UPLOADS in explorer.source.options
    assert explorer.index.max == 0
    assert set(map(tuple, pixels(shown(explorer)["original"]).reshape(-1, 3))) == {(200, 30, 40)}
    assert "unknown" in captions(explorer)["original"]
    assert explorer.message.value == ""


def test_several_pictures_can_be_uploaded_and_then_others(explorer: Explorer) -> None:
    explorer.upload.value = uploaded(("a.png", png((200, 30, 40))), ("b.png", png((1, 2, 3))), ("c.png", png((9, 9, 9))))
    assert explorer.wait()
    assert explorer.index.max == 2
    explorer.index.value = 2
    assert explorer.wait()
    assert pixels(shown(explorer)["original"])[0, 0].tolist() == [9, 9, 9]
    explorer.upload.value = uploaded(("d.png", png((0, 250, 0))))
    assert explorer.wait()
    assert (explorer.index.value, explorer.index.max) == (0, 0)
    assert pixels(shown(explorer)["original"])[0, 0].tolist() == [0, 250, 0]
    assert explorer.message.value == ""


def test_a_file_that_is_no_picture_is_said_and_everything_else_stays(explorer: Explorer) -> None:
    before = shown(explorer)
    explorer.upload.value = uploaded(("notes.txt", b"<b>no picture</b>"))
    assert explorer.wait()
    assert "cannot be read: not a picture" in explorer.message.value
    assert shown(explorer) == before
    assert list(explorer.source.options) == ["digits", "coloured"]
    explorer.strength.value = 0.5
    assert explorer.wait()
    assert changed(before, shown(explorer))


def test_a_picture_that_can_be_read_clears_the_message(explorer: Explorer) -> None:
    explorer.upload.value = uploaded(("notes.txt", b"no picture"))
    assert explorer.message.value
    explorer.upload.value = uploaded(("red.png", png((200, 30, 40))))
    assert explorer.wait()
    assert explorer.message.value == ""


def test_what_fails_while_computing_is_said_and_the_next_setting_is_shown(
    explorer: Explorer, capsys: pytest.CaptureFixture[str]
) -> None:
    real, before = explorer.compute, shown(explorer)

    def fail(settings: Settings) -> Any:
        raise ZeroDivisionError("<i>nothing</i>")

    explorer.compute = fail  # type: ignore[method-assign]
    explorer.strength.value = 0.2
    assert explorer.wait()
    assert "ZeroDivisionError: &lt;i&gt;nothing&lt;/i&gt;" in explorer.message.value
    assert "ZeroDivisionError" in capsys.readouterr().err
    explorer.compute = real  # type: ignore[method-assign]
    explorer.strength.value = 0.3
    assert explorer.wait()
    assert changed(before, shown(explorer))
    assert explorer.message.value == "", "what is over is no longer said"


def test_without_a_compressor_the_other_codecs_remain(pair: Pair, sources: dict[str, Split], digits: Dataset) -> None:
    bare = Pair(pair.target, pair.auxiliary, pair.generator, None, pair.manifests)
    explorer = Explorer(bare, sources, digits.classes)
    assert explorer.wait()
    assert list(explorer.codec.options) == ["png", "jpeg", "webp"]
    assert "png" in captions(explorer)["at the cloud"]


@pytest.fixture
def curves(pair: Pair, digits: Dataset) -> Iterator[list[dict[str, Any]]]:
    evaluation = Evaluation(pair, digits, limit=8)
    return evaluation.curve([0.0, 1.0], lambda _: codec_for(pair, "png"), lambda a: a)


def test_the_curves_follow_the_strength(
    pair: Pair, sources: dict[str, Split], digits: Dataset, curves: list[dict[str, Any]]
) -> None:
    explorer = Explorer(pair, sources, digits.classes, curves)
    assert explorer.wait()
    first = bytes(explorer.curve.value)
    assert pixels(first).std() > 0
    explorer.strength.value = 0.25
    assert explorer.wait()
    assert bytes(explorer.curve.value) != first
    assert explorer.curve in explorer.widget.children


def test_drawing_the_curves_opens_no_figure_that_a_notebook_would_show(
    pair: Pair, sources: dict[str, Split], digits: Dataset, curves: list[dict[str, Any]]
) -> None:
    import matplotlib.pyplot as plt

    explorer = Explorer(pair, sources, digits.classes, curves)
    assert explorer.wait()
    opened = list(plt.get_fignums())
    seen: set[int] = set()
    for step in range(8):
        explorer.strength.value = step / 10
        while not explorer.wait(timeout=0.001):
            seen |= set(plt.get_fignums()) - set(opened)
    assert not seen, "pyplot's figures belong to the cells"


def test_a_picture_larger_than_the_networks_is_taken_as_it_is(pair: Pair, digits: Dataset) -> None:
    images = to_uint8(torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(0)))
    explorer = Explorer(pair, {"large": Split(images, torch.tensor([3]))}, digits.classes)
    assert explorer.wait()
    assert explorer.message.value == ""
    assert explorer.compute(Settings("large", 0, 1.0, "neural", 89)).reconstructed.shape == (3, 48, 40)
