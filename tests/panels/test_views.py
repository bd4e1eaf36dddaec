"""The views of `explore` without a browser: the page's data, caching, and views in advance."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.explorers import DIGITS, PAIR, everything, meta, pixels
from workbench.codecs import Neural
from workbench.data import Dataset, load
from workbench.panels import Explorer, methods
from workbench.panels.settings import Settings
from workbench.system import Client, codec_for
from workbench.weights import Pair


def test_at_first_it_shows_the_first_picture_at_full_strength(fresh: Explorer, digits: Dataset) -> None:
    explorer = fresh
    assert np.array_equal(pixels(explorer, "original"), digits.test.images[0].permute(1, 2, 0).numpy()), "pixel by pixel"
    frames, seen = explorer.stage.frames, meta(explorer)
    assert (frames["numbers"], frames["labels"]) == ([0], [int(digits.test.labels[0])])
    assert (seen["strength"], seen["rate"], seen["codec"], seen["name"]) == (1.0, 0.0, "neural", "neural")
    assert len(seen["target"][0]) == len(seen["auxiliary"][0]) == 5, "the top five of both"
    assert set(seen["spent"]) == {"client_compression", "generator", "compression", "decompression", "classifier"}
    assert explorer.stage.options["count"] == 12
    assert explorer.stage.options["classes"] == list(digits.classes)
    assert explorer.stage.options["pairs"] == [PAIR]
    assert [name for name, _ in explorer.stage.options["variants"]] == [""]
    assert explorer.stage.options["codecs"] == ["neural", "compressai", "png", "jpeg", "webp"]
    assert not explorer.error


def test_the_page_gets_what_edge_and_cloud_compute(explorer: Explorer, digits: Dataset) -> None:
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


def test_a_step_of_the_strength_sends_only_the_clouds_view(explorer: Explorer) -> None:
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
def test_a_sheet_is_one_payload_of_pictures_as_they_are_alone(explorer: Explorer, codec: str) -> None:
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


def test_compute_depends_on_its_settings_alone_and_is_cached(explorer: Explorer) -> None:
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
    monkeypatch.setattr(methods, "CACHED_PIXELS", 100)
    cache, computed = methods.Cache(), list[int]()

    def get(key: int) -> int:
        return cache.get(key, lambda: computed.append(key) or key, lambda _: 40)  # type: ignore[func-returns-value]

    assert [get(key) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert computed == [1, 2, 3, 2], "2 was the oldest when 3 came"


FIRST = """
import json, sys
from workbench.panels import Explorer, latest_wins
latest_wins.LatestWinsWorker.start = lambda worker: None
for number, options in enumerate(json.loads(sys.argv[1])):
    made = Explorer(name=str(number), **options)
    print(made.stage.frames.get("original", b"").hex())
assert "torch" not in sys.modules
"""


def test_the_first_picture_comes_with_the_controls() -> None:
    options = [{"picture": 19}, {"picture": 20}, {"picture": 3, "limit": 2}, {"folder": "somewhere"}]
    done = subprocess.run([sys.executable, "-c", FIRST, json.dumps(options)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = load("samples").test.images[19].permute(1, 2, 0).contiguous().numpy().tobytes()
    assert [bytes.fromhex(line) for line in done.stdout.splitlines()] == [expected, b"", b"", b""]


def ahead(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    def keep(content: dict[str, Any], buffers: Any = None) -> None:
        if content["kind"] == "ahead":
            sent.append(content["meta"] | {"blob": buffers[0]})

    monkeypatch.setattr(explorer.stage, "send", keep)
    return sent


@pytest.mark.parametrize(("pictures", "places"), [([4], 101), ([4, 1, 7], 41)])
def test_views_of_all_strengths_are_sent_at_rest(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, pictures: list[int], places: int
) -> None:
    assert explorer.rest()
    sent = ahead(explorer, monkeypatch)
    explorer.apply(pictures=pictures, codec="png", strength=0.3)

    def of_these() -> list[dict[str, Any]]:  # the settings before may still send some
        return [each for each in sent if each["codec"] == "png" and len(each["which"]) == len(pictures)]

    assert explorer.worker.wait(lambda: len({each["strength"] for each in of_these()}) == places, 60)
    now = of_these()
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


def give(explorer: Explorer, variable: Neural) -> None:
    assert explorer.rest()
    networks = explorer.pipeline
    networks.pair = replace(networks.pair, compressor=variable.compressor)
    networks._codecs.clear()
    networks.cache.clear()
    explorer.renew()
    explorer.request()
    assert explorer.wait()


def test_several_rates_have_a_slider_and_a_surface(fresh: Explorer, variable: Neural, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = fresh
    begun, gate = threading.Event(), threading.Event()

    def measure(*_: Any) -> list[dict[str, Any]]:
        begun.set()
        assert gate.wait(60)
        return []

    monkeypatch.setattr(explorer.tasks, "_evaluate_surface", measure)
    give(explorer, variable)
    explorer.tasks.refresh()
    assert explorer.rest(60)
    assert len(explorer.curve()) == 7
    assert begun.wait(60), "no cell waits for the surface"
    gate.set()
    assert explorer.stage.options["rates"] == list(variable.rates)
    few = meta(explorer)
    explorer.rate = 1.0
    assert explorer.wait()
    assert (few["rate"], meta(explorer)["rate"]) == (0.0, 1.0)
    assert meta(explorer)["payload"] > few["payload"]
    explorer.rate = 0.3
    assert explorer.wait()
    assert explorer.rate == meta(explorer)["rate"] == 0.25, "the nearest stop, on the page as well"
