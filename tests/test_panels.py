"""The view of `explore` without a browser: its controls moved, its pictures, captions and files read."""

from __future__ import annotations

import base64
import gc
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image

from tests.support.pair import AUXILIARY, TARGET
from tests.support.uploads import awkward, png
from workbench import plots, weights
from workbench.data import Dataset, load
from workbench.errors import UsageError, WeightsError, WorkbenchError
from workbench.metrics import Estimate
from workbench.models import PerturbationGenerator
from workbench.panels import Explorer, PairGrid, jobs, layout, markup, messages, pins, pipeline, threads
from workbench.panels.choice import UPLOADS
from workbench.panels.pipeline import pairs_there, variants_there
from workbench.panels.settings import PLACES, Settings
from workbench.system import Client, codec_for
from workbench.weights import Pair

NAMES = ("original", "protected", "cloud", "residual")
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


def shown(explorer: Explorer) -> dict[str, bytes]:
    return {name: picture(explorer, name) for name in NAMES}


def card(explorer: Explorer, name: str) -> str:
    """Return the markup of a card."""
    return str(explorer.controls.view.value).partition(f'<figure class="pmc2-card pmc2-{name}">')[2].partition("</figure>")[0]


def picture(explorer: Explorer, name: str) -> bytes:
    found = re.search('src="data:image/png;base64,([^"]+)"', card(explorer, name))
    assert found is not None
    return base64.b64decode(found[1])


def caption(explorer: Explorer, name: str) -> str:
    return card(explorer, name).partition('<span class="soft">')[2].partition("</span>")[0]


def pixels(picture: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(picture)))


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in NAMES if before[name] != after[name]}


def uploaded(*files: tuple[str, bytes]) -> tuple[dict[str, Any], ...]:
    """Return the value of a FileUpload after a user has chosen files."""
    return tuple(
        {"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": datetime.now(UTC)}
        for name, content in files
    )


def said(explorer: Explorer) -> str:
    return str(explorer.controls.message.value)


# --- pictures and figures ------------------------------------------------------------------------------------------------


def test_at_first_it_shows_the_first_picture_at_full_strength(explorer: Explorer, digits: Dataset) -> None:
    original = pixels(shown(explorer)["original"])
    assert np.array_equal(original, digits.test.images[0].permute(1, 2, 0).numpy()), "pixel by pixel"
    assert caption(explorer, "original").endswith(f":<br>{digits.test.labels[0]}")
    assert "neural" in caption(explorer, "cloud")
    assert explorer.controls.strength.value == 1.0
    readout = explorer.controls.view.value
    assert f"Target {TARGET}" in readout
    assert f"Auxiliary {AUXILIARY}" in readout
    assert readout.count('class="bar') == 5 + 5 + 5, "the top five of both, and five stages"
    assert explorer.controls.index.max == 11
    assert not explorer.error


def test_strength_changes_all_but_the_original(explorer: Explorer) -> None:
    before, text = shown(explorer), caption(explorer, "protected")
    explorer.controls.strength.value = 0.4
    assert explorer.wait()
    assert {"protected", "residual"} <= changed(before, shown(explorer))
    assert "original" not in changed(before, shown(explorer))
    assert caption(explorer, "protected") != text
    assert 'data-strength="0.4"' in explorer.controls.view.value


def test_at_strength_0_the_protected_picture_is_the_edges(explorer: Explorer, digits: Dataset) -> None:
    explorer.controls.strength.value = 0.0
    assert explorer.wait()
    (file,) = Client().capture(digits.test.images[:1].float() / 255)
    assert np.array_equal(pixels(shown(explorer)["protected"]), pixels(file)), "the JPEG of the phone"
    residual = pixels(shown(explorer)["residual"]).astype(int)
    assert abs(residual - 127.5).max() < 10
    assert explorer.view is not None
    assert explorer.view.ssim > 0.99


def test_the_codec_changes_only_what_the_cloud_sees(explorer: Explorer) -> None:
    seen = {}
    for codec in ("png", "jpeg", "webp", "neural"):
        before = shown(explorer)
        explorer.controls.codec.value = codec
        assert explorer.wait()
        assert changed(before, shown(explorer)) <= {"cloud"}
        assert codec in caption(explorer, "cloud")
        assert explorer.controls.quality.disabled == (codec not in ("jpeg", "webp"))
        seen[codec] = shown(explorer)["cloud"]
        if codec == "png":
            assert seen["png"] == shown(explorer)["protected"], "PNG is lossless"
    assert len(set(seen.values())) == 4


def test_quality_changes_what_a_jpeg_leaves(explorer: Explorer) -> None:
    explorer.controls.codec.value = "jpeg"
    assert explorer.wait()
    before, text = shown(explorer), caption(explorer, "cloud")
    explorer.controls.quality.value = 5
    assert explorer.wait()
    assert changed(before, shown(explorer)) == {"cloud"}
    assert "jpeg q5" in caption(explorer, "cloud") != text


def test_the_residual_can_be_amplified_and_nothing_else_changes(explorer: Explorer) -> None:
    explorer.controls.strength.value = 0.1
    assert explorer.wait()
    before = shown(explorer)
    explorer.controls.gain.value = 8.0
    assert explorer.wait()
    assert changed(before, shown(explorer)) == {"residual"}
    assert np.ptp(pixels(shown(explorer)["residual"])) > np.ptp(pixels(before["residual"]))
    assert "times 8" in caption(explorer, "residual")


def test_each_pixel_is_a_square_of_whole_pixels_of_the_screen(explorer: Explorer) -> None:
    assert "--w: 32; --h: 32; --zoom: var(--fit)" in explorer.controls.divided.value
    explorer.controls.zoom.value = 4
    assert "--w: 32; --h: 32; --zoom: 4" in explorer.controls.divided.value
    assert pixels(shown(explorer)["protected"]).shape == (32, 32, 3)


def test_the_divider_uncovers_the_original(explorer: Explorer) -> None:
    before = shown(explorer)
    explorer.controls.divider.value = 0.3
    assert "inset(0 0 0 30%)" in explorer.controls.divided.value
    assert shown(explorer) == before
    beneath = f"--original: url(data:image/png;base64,{base64.b64encode(before['original']).decode()})"
    assert beneath in explorer.controls.view.value


def widgets_in(widget: Any) -> list[Any]:
    return [widget, *(each for child in getattr(widget, "children", ()) for each in widgets_in(child))]


def test_a_view_is_one_message(explorer: Explorer) -> None:
    assert explorer.rest()
    told: list[Any] = []
    for widget in widgets_in(explorer.widget):
        widget.observe(lambda change: told.append(change["owner"]), widget.keys)
    explorer.controls.strength.value = 0.4
    assert explorer.wait()
    controls = explorer.controls
    assert told == [controls.strength, controls.view]


def sent(slider: Any, value: float, page: str = "a", name: str = "a1") -> None:
    """Handle a value as it comes from a page."""
    data = {"method": "update", "state": {"value": value}}
    slider._handle_msg({"header": {"session": page, "msg_id": name}, "content": {"data": data}})


def test_other_pages_follow_a_slider_once_it_rests(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    slider, said = explorer.controls.strength, list[Any]()
    monkeypatch.setattr(messages, "_echo", lambda slider, header: said.append((header["msg_id"], slider.value)))
    for page, name, value in (("a", "a1", 0.5), ("a", "a2", 0.4), ("b", "b1", 0.3)):
        sent(slider, value, page, name)
    assert not said, "no echo"
    assert explorer.worker.wait(lambda: len(said) == 2, 20)
    assert said == [("a2", 0.3), ("b1", 0.3)], "each page waits for the answer to its last message, and takes no other before"
    slider.tell()
    assert len(said) == 2, "said already"


def test_the_next_value_may_come_once_the_last_view_is_out(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.panels.explore.PATIENCE_S", 60.0)  # however busy the machine is
    assert explorer.wait()
    for value in (0.5, 0.4, 0.3):
        sent(explorer.controls.strength, value)
        assert explorer.view is not None
        assert explorer.view.settings.strength == value
    sent(explorer.controls.index, 2)
    assert explorer.view is not None
    assert explorer.view.settings.index == 2


def test_no_slider_waits_long_for_a_view(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert explorer.wait()
    going = threading.Event()
    compute = explorer.compute
    monkeypatch.setattr(explorer, "compute", lambda settings: going.wait(60) and compute(settings))
    sent(explorer.controls.strength, 0.5)
    assert not explorer.worker.idle, "the slider is free, the view is not there"
    going.set()
    assert explorer.wait()
    assert explorer.view is not None
    assert explorer.view.settings.strength == 0.5


@pytest.fixture
def client() -> Iterator[Any]:
    """The client of a kernel that has two `sliders`, one of ours and ipywidgets' own."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute(
            "import ipywidgets, threading; from workbench.panels import messages\n"
            "sliders = messages.FloatSlider(), ipywidgets.FloatSlider()"
        )
        until_idle(client)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def moved(client: Any, which: int) -> tuple[str, str, list[dict[str, Any]]]:
    """Move one of the sliders as a page does; return its comm, the message's id and what the kernel answers."""
    client.execute(f"print(sliders[{which}].comm.comm_id)")
    (comm,) = [each["content"]["text"].strip() for each in until_idle(client) if each["msg_type"] == "stream"]
    data = {"method": "update", "state": {"value": 0.25}, "buffer_paths": []}
    message = client.session.msg("comm_msg", {"comm_id": comm, "data": data})
    client.shell_channel.send(message)
    return comm, message["header"]["msg_id"], until_idle(client)


def test_a_slider_s_late_echo_is_ipywidgets_own_but_for_its_time(client: Any) -> None:
    echoes = []
    for which in (0, 1):
        comm, asked, answer = moved(client, which)
        if which == 0:
            assert "comm_msg" not in [each["msg_type"] for each in answer], "not at once"
            client.execute("thread = threading.Thread(target=sliders[0].tell); thread.start(); thread.join()")
            answer = until_idle(client)
        (echo,) = [each for each in answer if each["msg_type"] == "comm_msg"]
        assert echo["parent_header"]["msg_id"] == asked
        assert echo["content"].pop("comm_id") == comm
        echoes.append((echo["content"], echo["metadata"], echo["buffers"]))
    assert echoes[0] == echoes[1]
    assert echoes[0][0] == {"data": {"method": "echo_update", "state": {"value": 0.25}, "buffer_paths": []}}
    client.execute("sliders[0].tell()")
    assert "comm_msg" not in [each["msg_type"] for each in until_idle(client)], "said already"


def test_a_kernel_is_not_busy_for_sliders_and_is_for_all_else(client: Any) -> None:
    client.execute("messages.not_busy_for(sliders[:1])")
    until_idle(client)
    states = []
    for which in (0, 1):
        *_, answer = moved(client, which)
        states.append([each["content"].get("execution_state", each["msg_type"]) for each in answer])
    assert states == [["idle"], ["busy", "comm_msg", "idle"]], "no echo of the first either"
    client.execute("print(sliders[0].value)")
    answer = until_idle(client)
    assert answer[0]["content"] == {"execution_state": "busy"}, "for code it is"
    assert [each["content"]["text"] for each in answer if each["msg_type"] == "stream"] == ["0.25\n"]


def test_a_view_goes_out_before_a_slider_is_free(client: Any) -> None:
    client.execute(
        "from workbench.panels.newest import Newest\n"
        "shown = ipywidgets.HTML()\n"
        "def show(text): shown.value = text\n"
        "worker = Newest('worker', lambda: None, show, lambda: None, lambda: None)\n"
        "worker.start()\n"
        "sliders[0].observe(lambda change: worker.ask(str(change['new'])), 'value')\n"
        "sliders[0].settle = lambda: worker.wait(lambda: worker.idle, 20)\n"
        "messages.not_busy_for(sliders[:1])"
    )
    until_idle(client)
    *_, answer = moved(client, 0)
    assert [each["content"].get("execution_state", each["msg_type"]) for each in answer] == ["comm_msg", "idle"]
    assert answer[0]["content"]["data"]["state"] == {"value": "0.25"}


def until_idle(client: Any) -> list[dict[str, Any]]:
    """Return a kernel's messages up to the next "idle"."""
    found = [client.get_iopub_msg(timeout=60)]
    while found[-1]["content"].get("execution_state") != "idle":
        found.append(client.get_iopub_msg(timeout=60))
    return found


def test_what_is_computed_is_what_the_system_computes(explorer: Explorer, pair: Pair, digits: Dataset) -> None:
    view = explorer.compute(Settings(DIGITS, 3, 0.5, "jpeg", 70, PAIR))
    original = digits.test.images[3:4].float() / 255
    received = edge_has(explorer, DIGITS, 3).received
    protected = pair.generator(received, 0.5)
    codec = codec_for(pair, "jpeg", quality=70)
    torch.testing.assert_close(view.original, original[0])
    torch.testing.assert_close(view.protected, protected[0], atol=2e-3, rtol=0)
    payload = codec.encode(view.protected[None])
    assert view.s2_bytes == len(payload)
    assert torch.equal(view.cloud, codec.decode(payload)[0])
    scores = pair.target(codec.decode(payload)).softmax(1)[0]
    assert view.target[0] == (str(scores.argmax().item()), pytest.approx(scores.max().item(), abs=1e-4))
    assert sum(value for _, value in view.target) <= 1 + 1e-5
    assert 0 < view.code_bits <= 8 * view.s2_bytes


def edge_has(explorer: Explorer, source: str, index: int) -> Any:
    """Return what the pipeline remembers of a picture once it is at the edge."""
    (found,) = [made for key, made in explorer.pipeline._known.items() if key[:3] == ("picture", source, index)]
    return found


@pytest.fixture
def alone(explorer: Explorer) -> pipeline.Pipeline:
    """Return the explorer's pipeline once nobody else uses it."""
    found = explorer.pipeline
    explorer.close()
    return found


def test_a_view_that_was_shown_before_is_not_computed_again(
    explorer: Explorer, alone: pipeline.Pipeline, digits: Dataset
) -> None:
    settings, images = replace(explorer.settings(), codec="jpeg", quality=71), digits.test.images
    first = alone.compute(settings, images[0], 3)
    assert first.ran == {"compression", "decompression", "classifier"}, "the picture itself is at the edge already"
    again = alone.compute(settings, images[0], 3)
    assert not again.ran
    assert again == replace(first, ran=frozenset())
    other = alone.compute(replace(settings, strength=0.5), images[0], 3)
    assert other.ran == first.ran
    assert not torch.equal(other.cloud, first.cloud)
    new = alone.compute(settings, images[1], 3)
    assert new.ran == set(first.milliseconds), "a new picture passes through all of it"
    assert not alone.compute(settings, images[0], 3).ran, "the picture before it is remembered, too"


def test_a_repeated_payload_is_not_decoded_again(explorer: Explorer, alone: pipeline.Pipeline, digits: Dataset) -> None:
    settings, picture = replace(explorer.settings(), codec="jpeg", quality=71), digits.test.images[0]
    first = alone.compute(settings, picture, 3)
    again = alone.compute(settings, picture, 4)
    assert again.ran == {"compression"}
    assert again.label != first.label
    assert (again.target, again.auxiliary, again.code_bits) == (first.target, first.auxiliary, first.code_bits)
    assert torch.equal(again.cloud, first.cloud)
    assert {**again.milliseconds, "compression": 0.0} == {**first.milliseconds, "compression": 0.0}


@pytest.mark.parametrize(("remembered", "pixels", "kept"), [(8, 2**21, 8), (512, 8 * 32 * 32, 8), (512, 1, pipeline.EACH)])
def test_what_is_old_makes_room_sooner_for_large_pictures(
    explorer: Explorer,
    alone: pipeline.Pipeline,
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    remembered: int,
    pixels: int,
    kept: int,
) -> None:
    monkeypatch.setattr(pipeline, "REMEMBERED", remembered)
    monkeypatch.setattr(pipeline, "PIXELS", pixels)
    settings, picture = replace(explorer.settings(), codec="jpeg", quality=71), digits.test.images[0]
    for k in range(9):
        alone.compute(replace(settings, strength=k / 8), picture, 3)
    assert len(alone._known) == kept
    assert not alone.compute(settings, picture, 3).ran, "the last view is remembered"
    assert "decompression" in alone.compute(replace(settings, strength=0.0), picture, 3).ran


def views(explorer: Explorer, index: int) -> set[float]:
    """Return the strengths of whose views of a picture the pipeline has a memory."""
    known = list(explorer.pipeline._known)
    return {key[1].strength for key in known if key[0] == "view" and key[1].index == index}


def test_views_of_all_strengths_are_made_ahead_at_rest(explorer: Explorer) -> None:
    explorer.controls.index.value = 4
    assert explorer.worker.wait(lambda: len(views(explorer, 4)) == PLACES, 60)
    for strength in (0.29, 0.57, 0.98):
        explorer.controls.strength.value = strength
        assert explorer.wait()
        assert explorer.view is not None
        assert (explorer.view.settings.strength, explorer.view.ran) == (strength, set())


def test_views_are_made_ahead_for_what_is_shown_alone(explorer: Explorer) -> None:
    assert explorer.worker.wait(lambda: len(views(explorer, 0)) == PLACES, 60)
    explorer.controls.index.value = 5
    assert explorer.wait()
    explorer.controls.index.value = 6
    assert explorer.worker.wait(lambda: len(views(explorer, 6)) == PLACES, 60)
    assert len(views(explorer, 5)) < PLACES


def test_no_view_of_a_large_picture_is_made_ahead(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert explorer.worker.wait(lambda: len(views(explorer, 0)) == PLACES, 60)
    monkeypatch.setattr(pipeline, "PIXELS", 4 * 100 * 32 * 32)
    explorer.controls.index.value = 7
    assert explorer.rest()
    assert not explorer.worker.wait(lambda: len(views(explorer, 7)) > 1, 1)


def test_compute_depends_on_its_settings_alone(explorer: Explorer) -> None:
    settings = Settings(DIGITS, 2, 0.6, "jpeg", 50, PAIR)
    before = shown(explorer)
    first = explorer.compute(settings)
    explorer.compute(Settings(DIGITS, 1, 0.1, "png", 50, PAIR))
    second = explorer.compute(settings)
    for name in ("original", "protected", "cloud"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for name in ("target", "auxiliary", "ssim", "s1_bytes", "s2_bytes", "code_bits"):
        assert getattr(first, name) == getattr(second, name), name
    assert shown(explorer) == before


def test_bars_have_the_figures_colours() -> None:
    assert (markup.BLUE, markup.ORANGE, markup.GREY) == (plots.BLUE, plots.ORANGE, plots.GREY)


GLANCE = """
import sys
from workbench.panels import Explorer, newest
newest.Newest.start = lambda worker: None
made = Explorer(limit={limit}, picture={picture}, folder={folder!r})
assert "torch" not in sys.modules
print(made.controls.view.value)
"""


def glance(limit: int = 0, picture: int = 0, folder: str = "") -> str:
    """Return the markup of what is shown with the controls, before torch is there."""
    code = GLANCE.format(limit=limit, picture=picture, folder=folder)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize("number", [0, 19])
def test_the_first_picture_comes_with_the_controls(number: int) -> None:
    controls, images = layout.Controls(PAIR, "", 1.0, "png", 89), load("samples").test.images
    controls.bring({"original": pins.png(images[number].permute(1, 2, 0).contiguous().numpy())}, (32, 32))
    assert glance(picture=number) == controls.view.value


@pytest.mark.parametrize("options", [{"picture": 20}, {"picture": 3, "limit": 2}, {"folder": "somewhere"}])
def test_a_missing_picture_does_not_come_with_the_controls(options: dict[str, Any]) -> None:
    assert "<img" not in glance(**options)


# --- the newest settings win ---------------------------------------------------------------------------------------------


def test_the_newest_setting_wins(explorer: Explorer) -> None:
    for step in range(50):
        explorer.controls.strength.value = round(step / 100, 2)
    explorer.controls.strength.value = 0.73
    assert explorer.wait()
    now = shown(explorer)
    explorer.show(explorer.compute(Settings(DIGITS, 0, 0.73, "neural", 89, PAIR)))
    assert shown(explorer) == now


def test_moving_a_control_returns_at_once_without_a_queue(explorer: Explorer) -> None:
    computed: list[float] = []
    real, gate = explorer.compute, threading.Event()

    def slow(settings: Settings, *rest: Any) -> Any:
        computed.append(settings.strength)
        assert gate.wait(20)
        return real(settings, *rest)

    explorer.compute = slow  # type: ignore[method-assign]
    start = time.monotonic()
    for step in range(30):
        explorer.controls.strength.value = step / 100
    assert time.monotonic() - start < 5
    assert not explorer.wait(timeout=0.05), "it cannot be ready while it computes"
    gate.set()
    assert explorer.wait()
    assert computed[-1] == pytest.approx(0.29)
    assert len(computed) <= 2, "what was overtaken is never computed"


def test_moves_during_programmatic_updates_are_heard(explorer: Explorer) -> None:
    setting, go_on = threading.Event(), threading.Event()
    real = explorer.controls.offer_codecs

    def slow(*given: Any) -> None:
        setting.set()
        assert go_on.wait(20)
        real(*given)

    explorer.controls.offer_codecs = slow  # type: ignore[method-assign]
    explorer.controls.strength.value = 0.5
    assert setting.wait(20)
    explorer.controls.strength.value = 0.25
    go_on.set()
    assert explorer.wait()
    assert explorer.view is not None
    assert explorer.view.settings.strength == 0.25


def test_a_failed_computation_is_reported_and_the_next_shown(explorer: Explorer, capsys: pytest.CaptureFixture[str]) -> None:
    real, before = explorer.compute, shown(explorer)

    def fail(settings: Settings, *_: Any) -> Any:
        raise ZeroDivisionError("<i>nothing</i>")

    explorer.compute = fail  # type: ignore[method-assign]
    explorer.controls.strength.value = 0.2
    assert explorer.wait()
    assert "ZeroDivisionError: &lt;i&gt;nothing&lt;/i&gt;" in said(explorer)
    assert "ZeroDivisionError" in capsys.readouterr().err
    explorer.compute = real  # type: ignore[method-assign]
    explorer.controls.strength.value = 0.3
    assert explorer.wait()
    assert changed(before, shown(explorer))
    assert "ZeroDivisionError" not in said(explorer), "what is over is no longer said"


def test_another_of_the_same_name_takes_its_place(explorer: Explorer, tmp_path: Path) -> None:
    second = opened(tmp_path)
    try:
        assert second.wait(60)
        assert not explorer.wait(1), "the first is closed"
        explorer.controls.strength.value = 0.1
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


# --- which picture -------------------------------------------------------------------------------------------------------


def test_the_number_chooses_the_picture(explorer: Explorer, digits: Dataset) -> None:
    before = shown(explorer)
    explorer.controls.index.value = 5
    assert explorer.wait()
    assert {"original", "protected"} <= changed(before, shown(explorer))
    assert caption(explorer, "original").endswith(f":<br>{digits.test.labels[5]}")
    explorer.controls.random.click()
    assert explorer.wait()
    assert 0 <= explorer.controls.index.value <= 11


def test_the_number_can_run_over_one_class(explorer: Explorer, digits: Dataset) -> None:
    wanted = (digits.test.head(12).labels == int(digits.test.labels[4])).nonzero()[:, 0].tolist()
    explorer.controls.show.value = str(int(digits.test.labels[4]))
    assert explorer.controls.index.max == len(wanted) - 1
    for position, index in enumerate(wanted):
        explorer.controls.index.value = position
        assert explorer.wait()
        assert np.array_equal(pixels(shown(explorer)["original"]), digits.test.images[index].permute(1, 2, 0).numpy())
    explorer.controls.show.value = "all"
    assert (explorer.controls.index.value, explorer.controls.index.max) == (0, 11)


def test_the_number_can_run_over_what_the_cloud_misreads(explorer: Explorer) -> None:
    explorer.controls.show.value = "misclassified"
    assert explorer.rest()
    assert "of the first 12" in said(explorer)
    for position in range(explorer.controls.index.max + 1):
        explorer.controls.index.value = position
        assert explorer.wait()
        assert explorer.view is not None
        assert explorer.view.target[0][0] != explorer.view.label
    assert explorer.controls.index.max + 1 == int(said(explorer).partition(" of the")[0].rpartition(">")[2])


def test_the_least_hidden_come_first(explorer: Explorer) -> None:
    explorer.controls.show.value = "least hidden (SSIM)"
    assert explorer.rest()
    similar = []
    for position in range(12):
        explorer.controls.index.value = position
        assert explorer.wait()
        assert explorer.view is not None
        similar.append(abs(explorer.view.ssim))
    assert similar == sorted(similar, reverse=True)


# --- pictures of one's own -----------------------------------------------------------------------------------------------


def test_uploaded_pictures_are_shown_and_replaced(explorer: Explorer) -> None:
    explorer.controls.upload.value = uploaded(
        ("a.png", png((200, 30, 40))), ("b.png", png((1, 2, 3))), ("c.png", png(9, mode="L"))
    )
    assert explorer.wait()
    assert (explorer.controls.source.value, explorer.controls.index.max) == (UPLOADS, 2)
    assert set(map(tuple, pixels(shown(explorer)["original"]).reshape(-1, 3))) == {(200, 30, 40)}
    assert "unknown" in caption(explorer, "original")
    explorer.controls.index.value = 2
    assert explorer.wait()
    assert pixels(shown(explorer)["original"])[0, 0].tolist() == [9, 9, 9]
    explorer.controls.upload.value = uploaded(("d.png", png((0, 250, 0))))
    assert explorer.wait()
    assert (explorer.controls.index.value, explorer.controls.index.max) == (0, 0)
    assert pixels(shown(explorer)["original"])[0, 0].tolist() == [0, 250, 0]
    explorer.controls.source.value = DIGITS
    assert explorer.wait()
    assert explorer.controls.index.max == 11


def test_of_ten_awkward_files_each_is_shown_or_its_fault_is_said(explorer: Explorer) -> None:
    files = awkward()
    explorer.controls.upload.value = uploaded(*files)
    assert explorer.wait()
    source = explorer.choice.sources[UPLOADS]
    refused = [name for name, _ in files if name not in source.names]
    assert {"grey.png", "see through.png", "cmyk.jpg", "wide.png", "one pixel.png"} <= set(source.names)
    assert {"truncated.png", "bomb.png", files[-1][0]} <= set(refused)
    for name in refused:
        assert name.partition("<")[0][:20] in said(explorer)
    assert "<img" not in said(explorer), "a file's name is no markup"
    for index in range(len(source.names)):
        explorer.controls.index.value = index
        assert explorer.wait()
        assert pixels(shown(explorer)["original"]).shape == (32, 32, 3)
    assert not explorer.error


def test_files_of_which_none_is_a_picture_change_nothing(explorer: Explorer) -> None:
    before = shown(explorer)
    explorer.controls.upload.value = uploaded(("notes.txt", b"<b>no picture</b>"))
    assert explorer.wait()
    assert "notes.txt" in said(explorer)
    assert shown(explorer) == before
    assert UPLOADS not in explorer.controls.source.options


def test_a_folder_is_shown_and_what_in_it_is_no_picture_is_said(explorer: Explorer, folder: Path) -> None:
    explorer.controls.folder.value = str(folder)
    assert explorer.wait()
    assert explorer.controls.source.value == "folder my pictures"
    assert explorer.controls.index.max == 1
    assert pixels(shown(explorer)["original"])[0, 0].tolist() == [200, 30, 40]
    assert "c.png" in said(explorer)
    explorer.controls.folder.value = str(folder / "not there")
    assert "does not exist" in said(explorer)
    assert explorer.controls.source.value == "folder my pictures"


# --- networks ------------------------------------------------------------------------------------------------------------


def test_the_pairs_and_generators_that_are_there_are_offered(explorer: Explorer) -> None:
    assert explorer.controls.pair.options == (PAIR,)
    assert [value for _, value in explorer.controls.variant.options] == [""]


def test_a_variant_that_is_not_there_is_said(tiny_data: Path, tmp_path: Path) -> None:
    explorer = opened(tmp_path, variant="nowhere")
    try:
        with pytest.raises(WeightsError, match="nowhere"):
            explorer.wait(60)
        assert "nowhere" in said(explorer)
        explorer.controls.variant.value = ""
        assert explorer.wait(60)
        assert explorer.view is not None
    finally:
        explorer.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": 1.5}, "strength must be between 0 and 1, got 1.5"),
        ({"strength": float("nan")}, "got nan"),
        ({"codec": "jpg"}, "unknown codec 'jpg'"),
        ({"quality": 0}, "quality must be a whole number from 1 to 95, got 0"),
        ({"picture": -1}, "picture and limit must be 0 or more"),
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
        assert "bad" in said(explorer)
    finally:
        explorer.close()


# --- what takes longer -----------------------------------------------------------------------------------------------------


def test_curves_are_measured_at_rest_and_a_line_follows(explorer: Explorer) -> None:
    assert explorer.rest()
    controls = explorer.controls
    assert controls.curves.layout.display == "block"
    drawn = bytes(controls.curve.value)
    assert pixels(drawn).std() > 0
    rows = explorer.curve()
    assert [row["point"] for row in rows] == [0.0, 0.2, 0.4, 0.6, 0.75, 0.9, 1.0]
    assert rows[0]["target"].n == 12
    controls.strength.value = 0.25
    assert explorer.wait()
    assert bytes(controls.curve.value) == drawn, "drawn once"
    assert 'data-strength="0.25"' in controls.view.value
    assert controls.marker.value.count("<i ") == 3
    controls.codec.value = "png"
    assert explorer.rest()
    assert bytes(controls.curve.value) != drawn
    assert explorer.curve()[0]["ssim"].value == pytest.approx(rows[0]["ssim"].value)
    controls.codec.value = "neural"
    assert explorer.rest()
    assert bytes(controls.curve.value) == drawn, "measured once"


def test_drawing_opens_no_figure_that_a_notebook_would_show(explorer: Explorer) -> None:
    import matplotlib.pyplot as plt

    before = list(plt.get_fignums())
    assert explorer.rest()
    assert list(plt.get_fignums()) == before, "pyplot's figures belong to the cells"


def test_an_attacker_learns_and_its_guess_follows(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ATTACK", (64, 256))
    explorer.controls.codec.value = "png"
    assert explorer.rest()
    assert "train an attacker" in caption(explorer, "attacker")
    explorer.controls.attack.click()
    assert explorer.rest()
    assert "dB; learnt: 64 pairs" in caption(explorer, "attacker")
    first = pixels(picture(explorer, "attacker"))
    assert first.shape == (32, 32, 3)
    explorer.controls.index.value = 3
    assert explorer.wait()
    assert not np.array_equal(first, pixels(picture(explorer, "attacker")))
    explorer.controls.codec.value = "neural"
    assert explorer.wait()
    assert "train an attacker" in caption(explorer, "attacker"), "of what another codec leaves it knows nothing"


def test_views_are_kept_side_by_side_and_shown_again(explorer: Explorer) -> None:
    explorer.controls.index.value, explorer.controls.strength.value = 4, 0.5
    assert explorer.wait()
    kept = shown(explorer)
    explorer.controls.pin.click()
    explorer.controls.index.value, explorer.controls.strength.value, explorer.controls.codec.value = 1, 0.1, "jpeg"
    assert explorer.wait()
    explorer.controls.pin.click()
    assert len(explorer.controls.pinned.children) == 2
    again, remove = explorer.pins[0].widget.children[1].children
    again.click()
    assert explorer.wait()
    assert shown(explorer) == kept
    assert (explorer.controls.codec.value, explorer.controls.index.value) == ("neural", 4)
    remove.click()
    assert len(explorer.controls.pinned.children) == len(explorer.pins) == 1


# --- what is taken away ------------------------------------------------------------------------------------------------------


def exported(explorer: Explorer, kind: str) -> str:
    explorer.controls.kind.value = kind
    explorer.controls.export.click()
    assert explorer.rest()
    return said(explorer)


def test_the_figure_is_exported_with_the_pinned_views(explorer: Explorer, tmp_path: Path) -> None:
    assert "explore.png" in exported(explorer, "figure (PNG)")
    alone = pixels((tmp_path / "out" / "explore.png").read_bytes()).shape
    explorer.controls.pin.click()
    explorer.controls.strength.value = 0.2
    assert explorer.wait()
    assert "save explore.png" in exported(explorer, "figure (PNG)")
    assert pixels((tmp_path / "out" / "explore.png").read_bytes()).shape[0] > alone[0]
    exported(explorer, "figure (SVG)")
    assert (tmp_path / "out" / "explore.svg").read_text("utf-8").lstrip().startswith("<?xml")


def test_the_pictures_are_exported_at_their_own_pixels(explorer: Explorer, tmp_path: Path) -> None:
    assert "4 pictures in" in exported(explorer, "pictures (PNG)")
    for name in NAMES:
        written = pixels((tmp_path / "out" / "explore-pictures" / f"{name}.png").read_bytes())
        assert np.array_equal(written, pixels(shown(explorer)[name]))


@pytest.mark.parametrize("of", ["data set", "folder", "upload"])
def test_the_exported_command_shows_the_same_again(explorer: Explorer, tmp_path: Path, folder: Path, of: str) -> None:
    if of == "folder":
        explorer.controls.folder.value = str(folder)
    if of == "upload":
        explorer.controls.upload.value = uploaded(("a.png", png((200, 30, 40))), ("b.png", png((1, 2, 90))))
    assert explorer.wait()
    controls = explorer.controls
    controls.index.value, controls.strength.value, controls.codec.value, controls.quality.value = 1, 0.6, "jpeg", 40
    assert explorer.wait()
    kept, view = shown(explorer), explorer.view
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
        assert shown(second) == kept
        assert replace(second.view.settings, source="", index=0) == replace(view.settings, source="", index=0)  # type: ignore[union-attr]
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
    made.helper.later(made.close)
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
