"""The view of `explore` without a browser: its settings changed, what it sends to the page and its files read."""

from __future__ import annotations

import ast
import gc
import io
import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image, ImageFilter

from tests.support.pair import AUXILIARY, TARGET
from tests.support.uploads import awkward, png
from workbench import weights
from workbench.data import Dataset, load
from workbench.errors import UsageError, WeightsError, WorkbenchError
from workbench.metrics import Estimate
from workbench.models import PerturbationGenerator
from workbench.panels import Explorer, PairGrid, background_tasks, pipeline, projection, threads
from workbench.panels.picture_source import UPLOADS
from workbench.panels.pipeline import pairs_there, variants_there
from workbench.panels.settings import Settings, parse
from workbench.pictures import to_uint8
from workbench.system import Client, codec_for
from workbench.weights import Pair

PAIR = f"{TARGET}-X-{AUXILIARY}"
DIGITS = "scikit-learn digits"


def opened(folder: Path, **parameters: Any) -> Explorer:
    given = {"dataset": "digits", "target": TARGET, "auxiliary": AUXILIARY, "limit": 12, "output": folder / "out"}
    return Explorer(**{**given, **parameters})


@pytest.fixture
def explorer(tiny_data: Path, tmp_path: Path) -> Iterator[Explorer]:
    made = opened(tmp_path)
    assert made.wait(60)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures and a file that is none."""
    place = tmp_path / "my pictures"
    place.mkdir()
    (place / "a.png").write_bytes(png((200, 30, 40)))
    (place / "b.png").write_bytes(png((1, 2, 3)))
    (place / "c.png").write_bytes(b"no picture")
    return place


def pixels(explorer: Explorer, name: str, k: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a picture as the page gets it: of the frames, at the cloud, or an attacker's guess."""
    frames, seen = explorer.stage.frames, explorer.stage.seen
    shape = (-1, frames["height"], frames["width"], 3)
    if name in ("original", "received", "full"):
        return np.frombuffer(frames[name], np.uint8).reshape(shape)[k]
    shift = seen["meta"]["distinct"] if name == "attacker" else 0
    return np.frombuffer(seen["blob"], np.uint8).reshape(shape)[seen["meta"]["which"][k] + shift]


def everything(explorer: Explorer) -> dict[str, bytes]:
    return {name: pixels(explorer, name).tobytes() for name in ("original", "received", "full", "cloud")}


def meta(explorer: Explorer) -> dict[str, Any]:
    return dict(explorer.stage.seen["meta"])


def said(explorer: Explorer) -> str:
    return str(explorer.stage.message["text"])


def press(explorer: Explorer, do: str, *buffers: bytes, **content: Any) -> None:
    """Send a message as a button of the page does."""
    explorer.stage._handle_custom_msg({"do": do, **content}, [memoryview(each) for each in buffers])


def upload(explorer: Explorer, *files: tuple[str, bytes]) -> None:
    press(explorer, "upload", *(content for _, content in files), names=[name for name, _ in files])


# --- pictures and figures ------------------------------------------------------------------------------------------------


def test_at_first_it_shows_the_first_picture_at_full_strength(explorer: Explorer, digits: Dataset) -> None:
    assert np.array_equal(pixels(explorer, "original"), digits.test.images[0].permute(1, 2, 0).numpy()), "pixel by pixel"
    frames, seen = explorer.stage.frames, meta(explorer)
    assert (frames["numbers"], frames["labels"]) == ([0], [int(digits.test.labels[0])])
    assert (seen["strength"], seen["rate"], seen["codec"], seen["name"]) == (1.0, 0.0, "neural", "neural")
    assert len(seen["target"][0]) == len(seen["auxiliary"][0]) == 5, "the top five of both"
    assert set(seen["spent"]) == {"client_compression", "generator", "compression", "decompression", "classifier"}
    assert explorer.stage.options["count"] == 12
    assert explorer.stage.options["classes"] == list(digits.classes)
    assert not explorer.error


def test_the_page_gets_what_the_edge_blends_and_the_cloud_decodes(explorer: Explorer, digits: Dataset) -> None:
    explorer.codec, explorer.strength = "png", 0.4
    assert explorer.wait()
    (file,) = Client().capture(digits.test.images[:1].float() / 255)
    received = np.asarray(Image.open(io.BytesIO(file)))
    assert np.array_equal(pixels(explorer, "received"), received), "the JPEG of the phone"
    blended = received + 0.4 * (pixels(explorer, "full").astype(float) - received)
    assert abs(pixels(explorer, "cloud") - blended).max() <= 1, "PNG is lossless: only the last level may be rounded otherwise"
    explorer.strength = 0.0
    assert explorer.wait()
    assert np.array_equal(pixels(explorer, "cloud"), received)
    assert explorer.view is not None
    assert explorer.view.ssim > 0.99


def test_a_step_of_the_strength_sends_what_the_cloud_sees_and_no_other_pixels(explorer: Explorer) -> None:
    assert explorer.rest()
    before, frames = everything(explorer), explorer.stage.frames
    changes: list[str] = []
    explorer.stage.observe(lambda change: changes.append(change["name"]), explorer.stage.keys)
    explorer.strength = 0.4
    assert explorer.wait()
    assert changes == ["strength", "seen"], "one message each"
    assert explorer.stage.frames is frames
    assert {name for name, each in everything(explorer).items() if each != before[name]} <= {"cloud"}


def test_the_codec_changes_only_what_the_cloud_sees(explorer: Explorer) -> None:
    seen = {}
    for codec in ("png", "jpeg", "webp", "neural"):
        before = everything(explorer)
        explorer.codec = codec
        assert explorer.wait()
        assert {name for name, each in everything(explorer).items() if each != before[name]} <= {"cloud"}
        assert meta(explorer)["name"].startswith(codec)
        seen[codec] = pixels(explorer, "cloud").tobytes()
    assert len(set(seen.values())) == 4
    explorer.codec = "jpeg"
    assert explorer.wait()
    explorer.quality = 5
    assert explorer.wait()
    assert meta(explorer)["name"].startswith("jpeg q5")
    assert pixels(explorer, "cloud").tobytes() != seen["jpeg"]


def test_what_is_computed_is_what_the_system_computes(explorer: Explorer, pair: Pair, digits: Dataset) -> None:
    settings = Settings(DIGITS, (3,), 0.5, 0.0, "jpeg", 70, PAIR)
    captured, seen = explorer.compute(settings)
    original = digits.test.images[3:4].float() / 255
    protected = pair.generator(captured.received, 0.5)
    codec = codec_for(pair, "jpeg", quality=70)
    torch.testing.assert_close(captured.original, original)
    torch.testing.assert_close(captured.protected(0.5), protected, atol=2e-3, rtol=0)
    payload = codec.encode(captured.protected(0.5))
    assert seen.payload == len(payload)
    assert torch.equal(seen.cloud, codec.decode(payload))
    scores = pair.target(codec.decode(payload)).softmax(1)
    assert seen.target is not None
    torch.testing.assert_close(seen.target, scores, atol=1e-4, rtol=0)
    assert 0 < seen.bits[0] <= 8 * seen.payload


@pytest.mark.parametrize("codec", ["neural", "jpeg"])
def test_a_sheet_is_one_payload_and_each_picture_is_as_it_is_alone(explorer: Explorer, codec: str) -> None:
    explorer.apply(pictures=list(range(12)), strength=0.8, codec=codec)
    assert explorer.wait()
    sheet, captured = meta(explorer), everything(explorer)
    assert (len(sheet["which"]), len(sheet["ssim"]), explorer.stage.sheet) == (12, 12, 16)
    assert len(captured["original"]) == 32 * 32 * 3
    several = {k: (pixels(explorer, "cloud", k).copy(), sheet["target"][k][0], sheet["ssim"][k]) for k in (0, 5, 11)}
    for k, (cloud, (answer, share), ssim) in several.items():
        explorer.pictures = [k]  # type: ignore[assignment]
        assert explorer.wait()
        alone = meta(explorer)
        assert abs(pixels(explorer, "cloud").astype(int) - cloud).max() <= 1
        assert alone["target"][0][0] == [answer, pytest.approx(share, abs=2e-3)]
        assert alone["ssim"][0] == pytest.approx(ssim, abs=1e-3)
    if codec == "neural":
        assert sheet["payload"] < 12 * alone["payload"], "a batch shares its payload"


def test_compute_depends_on_its_settings_alone_and_what_is_known_is_kept(explorer: Explorer) -> None:
    settings = Settings(DIGITS, (2,), 0.6, 0.0, "jpeg", 50, PAIR)
    captured, seen = explorer.compute(settings)
    explorer.compute(Settings(DIGITS, (1,), 0.1, 0.0, "png", 50, PAIR))
    again = explorer.compute(settings)
    assert again[0] is captured
    assert again[1] is seen
    explorer.pipeline.cache.clear()
    fresh = explorer.compute(settings)
    assert fresh[1] is not seen
    assert torch.equal(fresh[1].cloud, seen.cloud)
    assert (fresh[1].bits, fresh[1].payload) == (seen.bits, seen.payload)


def test_the_cache_drops_the_oldest_by_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CACHED_PIXELS", 100)
    cache, computed = pipeline.Cache(), list[int]()

    def get(key: int) -> int:
        return cache.get(key, lambda: computed.append(key) or key, lambda _: 40)  # type: ignore[func-returns-value]

    assert [get(key) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert computed == [1, 2, 3, 2], "2 was the oldest when 3 came"


FIRST = """
import sys
from workbench.panels import Explorer, latest_wins
latest_wins.LatestWinsWorker.start = lambda worker: None
made = Explorer(limit={limit}, picture={picture}, folder={folder!r})
assert "torch" not in sys.modules
print(made.stage.frames.get("original", b"").hex())
"""


@pytest.mark.parametrize("options", [{"picture": 19}, {"picture": 20}, {"picture": 3, "limit": 2}, {"folder": "somewhere"}])
def test_the_first_picture_is_there_with_the_controls_before_torch_is(options: dict[str, Any]) -> None:
    code = FIRST.format(**{"limit": 0, "picture": 0, "folder": ""} | options)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = options == {"picture": 19}
    expected = load("samples").test.images[19].permute(1, 2, 0).contiguous().numpy().tobytes() if there else b""
    assert bytes.fromhex(done.stdout) == expected


# --- ahead of the hand -----------------------------------------------------------------------------------------------------


def ahead(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list that receives the views sent ahead of the hand."""
    sent: list[dict[str, Any]] = []

    def keep(content: dict[str, Any], buffers: Any = None) -> None:
        if content["kind"] == "ahead":
            sent.append(content["meta"] | {"blob": buffers[0]})

    monkeypatch.setattr(explorer.stage, "send", keep)
    return sent


@pytest.mark.parametrize(("pictures", "places"), [([4], 101), ([4, 1, 7], 41)])
def test_while_the_hand_rests_the_views_of_all_strengths_are_sent(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, pictures: list[int], places: int
) -> None:
    assert explorer.rest()
    sent = ahead(explorer, monkeypatch)
    explorer.apply(pictures=pictures, codec="png", strength=0.3)
    assert explorer.worker.wait(lambda: len({each["strength"] for each in sent}) == places, 60)
    now = [each for each in sent if each["codec"] == "png" and len(each["which"]) == len(pictures)]
    assert {each["id"] for each in now} == {explorer.stage.frames["id"]}
    assert abs(now[0]["strength"] - 0.3) <= 0.02, "the nearest first"
    explorer.strength = 0.6
    assert explorer.wait()
    same = [each["blob"] for each in now if each["strength"] == pytest.approx(0.6)]
    assert same == [explorer.stage.seen["blob"]]


def test_views_are_sent_ahead_for_what_is_shown_alone(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert explorer.rest()
    sent = ahead(explorer, monkeypatch)
    explorer.pictures = 5  # type: ignore[assignment]
    assert explorer.wait()
    first = explorer.stage.frames["id"]
    explorer.pictures = 6  # type: ignore[assignment]
    assert explorer.wait()
    assert explorer.worker.wait(lambda: sum(each["id"] == explorer.stage.frames["id"] for each in sent) >= 101, 60)
    assert sum(each["id"] == first for each in sent) < 101


# --- the newest settings win ---------------------------------------------------------------------------------------------


def test_the_newest_setting_wins(explorer: Explorer) -> None:
    for step in range(50):
        explorer.strength = round(step / 100, 2)
    explorer.strength = 0.73
    assert explorer.wait()
    assert meta(explorer)["strength"] == 0.73
    _, seen = explorer.compute(replace(explorer.settings(), strength=0.73))
    expected = to_uint8(seen.cloud[0].clone()).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(explorer, "cloud"), expected)


def test_setting_returns_at_once_and_settings_do_not_queue(explorer: Explorer) -> None:
    computed: list[float] = []
    real, gate = explorer.compute, threading.Event()

    def slow(settings: Settings) -> Any:
        computed.append(settings.strength)
        assert gate.wait(20)
        return real(settings)

    explorer.compute = slow  # type: ignore[method-assign]
    start = time.monotonic()
    for step in range(30):
        explorer.strength = step / 100
    assert time.monotonic() - start < 5
    assert not explorer.wait(timeout=0.05), "it cannot be ready while it computes"
    gate.set()
    assert explorer.wait()
    assert computed[-1] == pytest.approx(0.29)
    assert len(computed) <= 2, "what was overtaken is never computed"


def test_a_view_that_is_overtaken_is_given_up_between_two_stages(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert explorer.rest()
    encoding, go_on = threading.Event(), threading.Event()
    codec = explorer.pipeline.codec(explorer.settings(), (32, 32))
    real, decoded = codec.encode, list[bytes]()

    def slow(images: Any) -> bytes:
        encoding.set()
        assert go_on.wait(20)
        return real(images)

    monkeypatch.setattr(codec, "encode", slow)
    unpack = codec.unpack
    monkeypatch.setattr(codec, "unpack", lambda payload: decoded.append(payload) or unpack(payload))
    explorer.strength = 0.123
    assert encoding.wait(20)
    explorer.strength = 0.456
    go_on.set()
    assert explorer.wait()
    assert meta(explorer)["strength"] == 0.456
    assert explorer.pipeline.cache is not None
    keys = [key for key in explorer.pipeline.cache._results if isinstance(key, tuple) and key[0] == "seen"]
    assert 0.123 not in [key[2] for key in keys], "its payload was never decoded"


def test_what_fails_while_computing_is_said_and_the_next_setting_is_shown(
    explorer: Explorer, capsys: pytest.CaptureFixture[str]
) -> None:
    real = explorer.compute

    def fail(settings: Settings) -> Any:
        raise ZeroDivisionError("<i>nothing</i>")

    explorer.compute = fail  # type: ignore[method-assign]
    explorer.strength = 0.2
    assert explorer.wait()
    assert said(explorer) == "ZeroDivisionError: <i>nothing</i>"
    assert "ZeroDivisionError" in capsys.readouterr().err
    explorer.compute = real  # type: ignore[method-assign]
    explorer.strength = 0.3
    assert explorer.wait()
    assert meta(explorer)["strength"] == 0.3
    assert said(explorer) == "", "what is over is no longer said"


def test_another_of_the_same_name_takes_its_place(explorer: Explorer, tmp_path: Path) -> None:
    second = opened(tmp_path)
    try:
        assert second.wait(60)
        assert not explorer.wait(1), "the first is closed"
        explorer.strength = 0.1
        press(explorer, "random")
        assert explorer.view is not None
        assert explorer.view.settings.strength == 1.0, "what was shown stays"
    finally:
        second.close()


def test_a_view_that_is_closed_keeps_no_networks(explorer: Explorer) -> None:
    network = weakref.ref(explorer.pipeline.pair.generator)
    assert explorer.rest()
    explorer.close()
    deadline = time.monotonic() + 30
    while network() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    assert network() is None
    assert explorer.view is not None, "what was shown stays"


# --- which pictures ------------------------------------------------------------------------------------------------------


def test_the_number_chooses_the_picture(explorer: Explorer, digits: Dataset) -> None:
    explorer.stage.number = 5
    assert explorer.wait()
    assert np.array_equal(pixels(explorer, "original"), digits.test.images[5].permute(1, 2, 0).numpy())
    assert explorer.pictures == [5]
    press(explorer, "random")
    assert explorer.wait()
    assert 0 <= explorer.stage.number <= 11


def test_pictures_of_one_class_and_their_order(explorer: Explorer, digits: Dataset) -> None:
    label = int(digits.test.labels[4])
    wanted = (digits.test.head(12).labels == label).nonzero()[:, 0].tolist()
    explorer.stage.show = str(label)
    assert explorer.wait()
    assert explorer.stage.options["count"] == len(wanted)
    explorer.stage.sheet = 16
    assert explorer.wait()
    assert explorer.pictures == explorer.stage.frames["numbers"] == wanted
    explorer.stage.show = "all"
    assert explorer.wait()
    assert (explorer.stage.number, explorer.stage.options["count"]) == (0, 12)


@pytest.mark.parametrize("show", ["misclassified", "recognised"])
def test_pictures_can_be_those_that_the_cloud_reads_wrong_or_right(explorer: Explorer, show: str) -> None:
    explorer.stage.show = show
    assert explorer.rest()
    assert f"{explorer.stage.options['count']} of the first 12 pictures, at strength 1" in said(explorer)
    explorer.stage.sheet = 16
    assert explorer.wait()
    answers = [top[0][0] for top in meta(explorer)["target"]]
    right = [answer == label for answer, label in zip(answers, explorer.stage.frames["labels"], strict=True)]
    assert right
    assert set(right) == {show == "recognised"}


def test_the_least_hidden_come_first(explorer: Explorer) -> None:
    explorer.stage.sort = "least hidden (SSIM)"
    assert explorer.rest()
    explorer.stage.sheet = 16
    assert explorer.wait()
    similar = [abs(value) for value in meta(explorer)["ssim"]]
    assert similar == sorted(similar, reverse=True)
    assert sorted(explorer.pictures) == list(range(12))


def test_the_map_has_equal_points_for_equal_pictures_and_a_group_becomes_the_sheet(explorer: Explorer) -> None:
    press(explorer, "map", on=True)
    assert explorer.rest()
    points = explorer.stage.points
    assert len(points["points"]) == len(points["labels"]) == 12
    assert all(0 <= value <= 1 for point in points["points"] for value in point)
    places: dict[int, set[tuple[float, ...]]] = {}
    for which, point in zip(points["which"], points["points"], strict=True):
        places.setdefault(which, set()).add(tuple(point))
    assert all(len(each) == 1 for each in places.values()), "what the cloud cannot tell apart is one point"
    assert len(points["cloud"]) == points["distinct"] * 32 * 32 * 3
    press(explorer, "select", numbers=[2, 7, 5])
    assert explorer.wait()
    assert explorer.pictures == explorer.stage.frames["numbers"] == [2, 7, 5]
    assert (explorer.stage.show, explorer.stage.sheet) == ("selection", 16)


def test_points_are_principal_components() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.cartesian_prod(torch.arange(-4.0, 5.0), torch.tensor([-1.0, 1.0]))  # uncorrelated, the first axis wider
    axes = torch.linalg.qr(torch.randn(20, 2, generator=generator))[0].T
    found = projection.project(places @ axes + 5)
    for k in range(2):
        correlation = torch.corrcoef(torch.stack([found[:, k], places[:, k]]))[0, 1]
        assert abs(correlation) > 0.999, "the widest spread first"
    assert torch.equal(found, projection.project(places @ axes + 5))
    assert torch.equal(projection.project(torch.ones(3, 4)), torch.zeros(3, 2)), "one place"


# --- pictures of one's own -----------------------------------------------------------------------------------------------


def test_uploaded_pictures_are_shown_at_once_and_others_take_their_place(explorer: Explorer) -> None:
    upload(explorer, ("a.png", png((200, 30, 40))), ("b.png", png((1, 2, 3))), ("c.png", png(9, mode="L")))
    assert explorer.wait()
    assert (explorer.source, explorer.stage.options["count"]) == (UPLOADS, 3)
    assert set(map(tuple, pixels(explorer, "original").reshape(-1, 3))) == {(200, 30, 40)}
    assert (explorer.stage.frames["labels"], explorer.stage.frames["names"]) == ([-1], ["a.png"])
    explorer.stage.number = 2
    assert explorer.wait()
    assert pixels(explorer, "original")[0, 0].tolist() == [9, 9, 9]
    upload(explorer, ("d.png", png((0, 250, 0))))
    assert explorer.wait()
    assert (explorer.stage.number, explorer.stage.options["count"]) == (0, 1)
    assert pixels(explorer, "original")[0, 0].tolist() == [0, 250, 0]
    explorer.source = DIGITS
    assert explorer.wait()
    assert explorer.stage.options["count"] == 12


def test_of_ten_awkward_files_each_is_shown_or_its_fault_is_said(explorer: Explorer) -> None:
    files = awkward()
    upload(explorer, *files)
    assert explorer.wait()
    source = explorer.picture_source.sources[UPLOADS]
    refused = [name for name, _ in files if name not in source.names]
    assert {"grey.png", "see through.png", "cmyk.jpg", "wide.png", "one pixel.png"} <= set(source.names)
    assert {"truncated.png", "bomb.png", files[-1][0]} <= set(refused)
    for name in refused:
        assert name.partition("<")[0][:20] in said(explorer)
    for index in range(len(source.names)):
        explorer.stage.number = index
        assert explorer.wait()
        assert pixels(explorer, "original").shape == (32, 32, 3)
    assert not explorer.error


def test_files_of_which_none_is_a_picture_change_nothing(explorer: Explorer) -> None:
    before = everything(explorer)
    upload(explorer, ("notes.txt", b"<b>no picture</b>"))
    assert explorer.wait()
    assert "notes.txt" in said(explorer)
    assert explorer.stage.message["bad"]
    assert everything(explorer) == before
    assert UPLOADS not in explorer.stage.options["sources"]


def test_a_folder_is_shown_and_what_in_it_is_no_picture_is_said(explorer: Explorer, folder: Path) -> None:
    press(explorer, "folder", path=str(folder))
    assert explorer.wait()
    assert explorer.source == "folder my pictures"
    assert explorer.stage.options["count"] == 2
    assert pixels(explorer, "original")[0, 0].tolist() == [200, 30, 40]
    assert "c.png" in said(explorer)
    press(explorer, "folder", path=str(folder / "not there"))
    assert "does not exist" in said(explorer)
    assert explorer.source == "folder my pictures"


# --- networks ------------------------------------------------------------------------------------------------------------


def test_the_pairs_and_generators_that_are_there_are_offered(explorer: Explorer) -> None:
    assert explorer.stage.options["pairs"] == [PAIR]
    assert [name for name, _ in explorer.stage.options["variants"]] == [""]
    assert explorer.stage.options["codecs"] == ["neural", "compressai", "png", "jpeg", "webp"]


def test_a_variant_that_is_not_there_is_said(tiny_data: Path, tmp_path: Path) -> None:
    explorer = opened(tmp_path, variant="nowhere")
    try:
        with pytest.raises(WeightsError, match="nowhere"):
            explorer.wait(60)
        assert "nowhere" in said(explorer)
        explorer.variant = ""
        assert explorer.wait(60)
        assert explorer.view is not None
    finally:
        explorer.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": 1.5}, "strength must be between 0 and 1, got 1.5"),
        ({"strength": float("nan")}, "got nan"),
        ({"rate": -0.1}, "rate must be between 0 and 1, got -0.1"),
        ({"codec": "jpg"}, "unknown codec 'jpg'"),
        ({"quality": 0}, "quality must be a whole number from 1 to 95, got 0"),
        ({"picture": -1}, "picture and limit must be 0 or more"),
        ({"sheet": 12}, "a sheet has 1, 16, 64 or 256 pictures, got 12"),
    ],
)
def test_a_bad_parameter_is_refused_at_once(tiny_data: Path, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"dataset": "digit"}, "digit"), ({"picture": 40}, "picture 40 is not there: .* 12 test pictures")]
)
def test_a_parameter_that_names_nothing_is_said_and_raised(
    tiny_data: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    explorer = opened(tmp_path, **wrong)
    try:
        with pytest.raises(WorkbenchError, match=message):
            explorer.wait(60)
        assert explorer.stage.message["bad"]
    finally:
        explorer.close()


# --- from code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("strength", 1.01, "strength must be between 0 and 1, got 1.01"),
        ("strength", "much", "strength must be between 0 and 1, got 'much'"),
        ("rate", 2, "rate must be between 0 and 1, got 2"),
        ("rate", 0.5, "neural has one rate, 0; got rate 0.5"),
        ("codec", "mp3", "unknown codec 'mp3'"),
        ("quality", 96, "quality must be a whole number from 1 to 95, got 96"),
        ("pair", "a-X-b", "unknown pair 'a-X-b'"),
        ("variant", "private", "unknown variant 'private'"),
        ("source", "nothing", "unknown source 'nothing'"),
        ("pictures", [3, 12], "picture 12 is not there: scikit-learn digits has 12 pictures"),
        ("pictures", [0.5], "a picture's number is a whole number from 0 on, got 0.5"),
        ("pictures", [], "a view shows 1 to 256 pictures, got 0 numbers"),
    ],
)
def test_a_value_that_cannot_be_set_is_named_and_changes_nothing(
    explorer: Explorer, name: str, value: Any, message: str
) -> None:
    before = explorer.settings()
    with pytest.raises(UsageError, match=re_escape(message)):
        setattr(explorer, name, value)
    if name in ("strength", "quality"):
        with pytest.raises((UsageError, traitlets.TraitError), match=str(value)):
            setattr(explorer.stage, name, value)  # as from a page
    with pytest.raises(UsageError, match="unknown setting 'strenght': did you mean 'strength'"):
        explorer.apply(strenght=1)
    assert explorer.settings() == before


def re_escape(text: str) -> str:
    import re

    return re.escape(text)


def test_a_notebook_drives_the_view_and_the_view_a_notebook(explorer: Explorer) -> None:
    strengths, views = list[float](), list[Any]()
    explorer.observe(lambda change: strengths.append(change["new"]), "strength")
    explorer.observe(lambda change: views.append(change["new"]), "view")
    explorer.strength = 0.4
    assert explorer.wait()
    explorer.stage.set_state({"strength": 0.2})  # as from a page
    assert explorer.wait()
    assert strengths == [0.4, 0.2]
    assert [view.settings.strength for view in views[-1:]] == [0.2]
    explorer.select([3, 1])
    assert explorer.wait()
    assert explorer.pictures == [3, 1]
    with pytest.raises(UsageError, match="unknown attribute 'colour'"):
        explorer.observe(print, "colour")


@pytest.mark.parametrize("pictures", [[2], [0, 5, 3]])
def test_what_is_shown_is_a_figure(explorer: Explorer, pictures: list[int]) -> None:
    import matplotlib.pyplot as plt

    before = list(plt.get_fignums())
    explorer.pictures = pictures  # type: ignore[assignment]
    assert explorer.wait()
    figure = explorer.frame()
    shown = [axis for axis in figure.axes if axis.get_images()]
    assert len(shown) == (4 if len(pictures) == 1 else 3 * len(pictures))
    assert list(plt.get_fignums()) == before, "pyplot's figures belong to the cells"


def test_settings_are_set_at_once_and_a_link_sets_them_again(explorer: Explorer, tmp_path: Path) -> None:
    explorer.apply(strength=0.3, codec="jpeg", quality=40, pictures=[7])
    assert explorer.wait()
    links, kept = explorer.link(), explorer.settings()
    call = ast.parse(links["python"], mode="eval").body
    assert isinstance(call, ast.Call)
    explorer.apply(strength=1.0, codec="png", pictures=[0, 1])
    for text in (*links.values(), json.dumps({"parameters": kept.parameters("digits")})):
        press(explorer, "paste", text=text)
        assert explorer.wait()
        assert explorer.settings() == kept
        explorer.apply(strength=1.0, codec="png", pictures=[0, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "names no settings"),
        ("explorer.apply(strength=open('x'))", "names no settings"),
        ("{", "names no settings"),
        ("papermill a b -p dataset cifar10 -p strength 1", "of the data set 'cifar10', this view shows 'digits'"),
        ("explorer.apply(strong=1)", "unknown setting 'strong'"),
    ],
)
def test_a_pasted_text_that_is_no_link_is_named(explorer: Explorer, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text, "digits")
    press(explorer, "paste", text=text)
    assert message in said(explorer)
    assert explorer.strength == 1.0


def test_undo_sets_all_settings_at_once(explorer: Explorer) -> None:
    explorer.apply(strength=0.3, codec="jpeg", pictures=list(range(12)))
    assert explorer.wait()
    before = {
        name: getattr(explorer.stage, name) for name in ("strength", "codec", "number", "sheet", "show", "selection", "source")
    }
    explorer.select([5, 2])
    explorer.codec = "png"
    assert explorer.wait()
    press(explorer, "restore", settings=before)
    assert explorer.wait()
    assert explorer.pictures == list(range(12))
    assert (explorer.codec, explorer.strength) == ("jpeg", 0.3)


# --- anybody's method ------------------------------------------------------------------------------------------------------


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
    page = (Path(__file__).resolve().parents[1] / "docs" / "explore.md").read_text("utf-8")
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
        ({"a": (same, as_jpeg, from_jpeg)}, IMAGES[0], {}, r"expected images N x 3 x H x W, .* got (3, 32, 32)"),
        ({"a": (same, as_jpeg, from_jpeg)}, IMAGES + 2, {}, "floats in [0, 1], got torch.float32 from 2 to 2"),
        ({"a": (same, as_jpeg, from_jpeg)}, IMAGES, {"labels": [1]}, "expected 2 labels, got (1,)"),
        ({"a": (same, as_jpeg, from_jpeg)}, IMAGES, {"picture": 2}, "picture 2 is not there: 2 images were given"),
    ],
)
def test_wrong_methods_and_images_are_named(methods: Any, images: Any, more: dict[str, Any], message: str) -> None:
    import re

    pattern = message if message.startswith("expected images") else re.escape(message)
    with pytest.raises(UsageError, match=pattern.replace("(3, 32, 32)", r"\(3, 32, 32\)")):
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


# --- what takes longer -----------------------------------------------------------------------------------------------------


def test_the_curves_are_measured_while_the_hand_rests(explorer: Explorer) -> None:
    assert explorer.rest()
    first = explorer.stage.curves
    assert "n = 12" in first["text"]
    rows = explorer.curve()
    assert [row["point"] for row in rows] == [0.0, 0.2, 0.4, 0.6, 0.75, 0.9, 1.0]
    assert rows[0]["target"].n == 12
    assert [each[1] for each in first["target"]] == [pytest.approx(100 * row["target"].value, abs=1e-3) for row in rows]
    explorer.strength = 0.25
    assert explorer.wait()
    assert explorer.stage.curves is first, "measured once"
    explorer.codec = "png"
    assert explorer.rest()
    assert explorer.stage.curves["bytes"] != first["bytes"]
    assert explorer.curve()[0]["ssim"].value == pytest.approx(rows[0]["ssim"].value)
    explorer.codec = "neural"
    assert explorer.rest()
    assert explorer.stage.curves == first


def test_an_attacker_learns_what_the_cloud_sees_and_its_guess_follows(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_tasks, "ATTACK", (64, 256))
    explorer.codec = "png"
    assert explorer.rest()
    assert meta(explorer)["psnr"] is None
    before = explorer.stage.frames["id"]
    press(explorer, "attack")
    assert explorer.rest()
    assert explorer.stage.frames["id"] > before, "the page forgets what it knew without a guess"
    assert meta(explorer)["note"] == "learnt: 64 pairs, strength 1, 256 passes"
    assert meta(explorer)["psnr"][0] > 0
    first = pixels(explorer, "attacker").copy()
    explorer.stage.number = 3
    assert explorer.wait()
    assert not np.array_equal(first, pixels(explorer, "attacker"))
    explorer.stage.sort = "attacker's PSNR"
    assert explorer.rest()
    explorer.stage.sheet = 16
    assert explorer.wait()
    found = meta(explorer)["psnr"]
    assert len(found) == 12
    assert found == sorted(found, reverse=True)
    explorer.codec = "neural"
    assert explorer.rest()
    assert meta(explorer)["psnr"] is None, "of what another codec leaves it knows nothing"


def test_views_are_kept_side_by_side_and_shown_again(explorer: Explorer) -> None:
    explorer.apply(pictures=[4], strength=0.5)
    assert explorer.wait()
    kept = everything(explorer)
    press(explorer, "pin")
    explorer.apply(pictures=[1], strength=0.1, codec="jpeg")
    assert explorer.wait()
    press(explorer, "pin")
    assert [pin["text"] for pin in explorer.stage.pins] == [
        f"{DIGITS}, 4: strength 0.5, neural",
        f"{DIGITS}, 1: strength 0.1, jpeg q89 4:4:4",
    ]
    assert explorer.stage.pins[0]["images"][0] == kept["original"]
    press(explorer, "again", at=0)
    assert explorer.wait()
    assert everything(explorer) == kept
    assert (explorer.codec, explorer.pictures) == ("neural", [4])
    press(explorer, "unpin", at=0)
    assert len(explorer.stage.pins) == len(explorer.pinned) == 1


# --- what is taken away ------------------------------------------------------------------------------------------------------


def exported(explorer: Explorer, kind: str) -> str:
    press(explorer, "export", what=kind)
    assert explorer.rest()
    return said(explorer)


def read(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(path))


def test_the_figure_is_exported_as_png_and_svg_with_what_is_pinned(
    explorer: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list[tuple[dict[str, Any], bytes]]()
    send = explorer.stage.send
    monkeypatch.setattr(
        explorer.stage, "send", lambda content, buffers: files.append((content, buffers[0])) or send(content, buffers)
    )
    assert "explore.png" in exported(explorer, "figure (PNG)")
    alone = read(tmp_path / "out" / "explore.png").shape
    assert (
        {"kind": "file", "name": "explore.png", "type": "image/png"},
        (tmp_path / "out" / "explore.png").read_bytes(),
    ) in files
    press(explorer, "pin")
    explorer.strength = 0.2
    assert explorer.wait()
    exported(explorer, "figure (PNG)")
    assert read(tmp_path / "out" / "explore.png").shape[0] > alone[0]
    exported(explorer, "figure (SVG)")
    assert (tmp_path / "out" / "explore.svg").read_text("utf-8").lstrip().startswith("<?xml")


def test_the_pictures_are_exported_at_their_own_pixels(explorer: Explorer, tmp_path: Path) -> None:
    assert "4 pictures in" in exported(explorer, "pictures (PNG)")
    folder = tmp_path / "out" / "explore-pictures"
    assert np.array_equal(read(folder / "original.png"), pixels(explorer, "original"))
    assert np.array_equal(read(folder / "protected.png"), pixels(explorer, "full"))
    assert np.array_equal(read(folder / "cloud.png"), pixels(explorer, "cloud"))
    assert read(folder / "residual.png").shape == (32, 32, 3)


@pytest.mark.parametrize("of", ["data set", "folder", "upload"])
def test_the_exported_command_shows_the_same_again(explorer: Explorer, tmp_path: Path, folder: Path, of: str) -> None:
    if of == "folder":
        press(explorer, "folder", path=str(folder))
    if of == "upload":
        upload(explorer, ("a.png", png((200, 30, 40))), ("b.png", png((1, 2, 90))))
    explorer.apply(pictures=[1], strength=0.6, codec="jpeg", quality=40)
    assert explorer.wait()
    kept, view = everything(explorer), explorer.view
    exported(explorer, "settings (JSON)")
    written = json.loads((tmp_path / "out" / "explore-settings.json").read_text("utf-8"))
    assert written["figures"]["s2_bytes"] == view.s2_bytes  # type: ignore[union-attr]
    assert written["figures"]["n"] == 1
    assert written["weights"]["generator"]
    words = shlex.split(written["command"])
    assert words[:3] == ["papermill", "notebooks/explore.ipynb", "out.ipynb"]
    given = dict(zip(words[4::3], words[5::3], strict=True))
    assert given == {key: str(value) for key, value in written["parameters"].items() if value != ""}
    second = Explorer(**written["parameters"], name="again")
    try:
        assert second.wait(60)
        assert everything(second) == kept
        same = {"source": "", "pictures": (0,)}
        assert replace(second.view.settings, **same) == replace(view.settings, **same)  # type: ignore[union-attr]
    finally:
        second.close()


# --- the grid of pairs -------------------------------------------------------------------------------------------------------


def test_a_pair_of_the_grid_opens_in_explore(tiny_data: Path, tmp_path: Path) -> None:
    values = {(TARGET, AUXILIARY): Estimate(0.873, 0.86, 0.89, 480), ("vgg13_bn", "densenet121"): Estimate(0.1, 0.05, 0.2, 480)}
    grid = PairGrid(values, "digits", limit=12, output=tmp_path)
    assert set(grid.cells) == set(values), "what was not measured is blank"
    first, second = (grid.cells[pair] for pair in values)
    assert (first.description, second.description) == ("87.3", "10.0")
    assert "86.0 to 89.0 %, n = 480" in first.tooltip
    assert first.style.button_color != second.style.button_color
    assert (first.style.text_color, second.style.text_color) == ("#000000", "#ffffff"), "legible on light and dark"
    first.click()
    assert grid.explorer is not None
    opened = grid.explorer
    assert opened.wait(60)
    assert opened.view is not None
    assert opened.view.settings.pair == PAIR
    first.click()
    assert not opened.wait(1), "the one before is closed"
    assert grid.explorer.wait(60)
    grid.explorer.close()


# --- the end of the threads ------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from workbench.panels import Explorer
closed = Explorer("digits", *sys.argv[1:], limit=12)
assert closed.wait(120)
closed.close()
left_open = Explorer("digits", *sys.argv[1:], limit=12, name="other")
assert left_open.wait(120)
"""


def test_closing_joins_the_threads(tiny_data: Path, tmp_path: Path) -> None:
    made = opened(tmp_path)
    assert made.wait(60)
    assert [thread.is_alive() for thread in made.worker.threads] == [True, True]
    made.close()
    assert not any(thread.is_alive() for thread in made.worker.threads)
    made.close()


def test_a_thread_may_close_its_own_explorer(tiny_data: Path, tmp_path: Path) -> None:
    made = opened(tmp_path)
    assert made.wait(60)
    made.tasks.later(made.close)
    assert threads.join(made.worker.threads, 60)


def test_a_script_with_explorers_ends_with_status_0(tiny_data: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, TARGET, AUXILIARY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_encoder_that_generators_start_from_is_no_pair(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_root, tmp_path / "data")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    before = pairs_there("digits"), variants_there("digits", f"{TARGET}-X-{AUXILIARY}")
    generator = PerturbationGenerator(width=4)
    kind, spec = weights.describe(generator)
    weights.save(generator, weights.Manifest("encoder", "digits", kind, spec, "untrained", 0, {"loss": {}}, {}, {}))
    assert (pairs_there("digits"), variants_there("digits", f"{TARGET}-X-{AUXILIARY}")) == before
    assert before[0] == [f"{TARGET}-X-{AUXILIARY}"]
