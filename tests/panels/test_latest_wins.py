"""The latest settings win: nothing queues, failures are reported, a closed view keeps nothing."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.explorers import meta, opened, pixels, press, said, upload
from tests.support.uploads import png
from tests.support.waiting import until
from workbench.panels import Explorer
from workbench.panels.picture_source import UPLOADS
from workbench.panels.settings import Settings
from workbench.pictures import to_uint8


def test_the_newest_setting_wins(explorer: Explorer) -> None:
    for step in range(50):
        explorer.strength = round(step / 100, 2)
    explorer.strength = 0.73
    assert explorer.wait()
    assert meta(explorer)["strength"] == 0.73
    _, seen = explorer.compute(replace(explorer.settings(), strength=0.73))
    expected = to_uint8(seen.cloud[0].clone()).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(explorer, "cloud"), expected)


def test_setting_returns_at_once_and_settings_do_not_queue(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[float] = []
    real, gate = explorer.compute, threading.Event()

    def slow(settings: Settings) -> Any:
        computed.append(settings.strength)
        assert gate.wait(20)
        return real(settings)

    monkeypatch.setattr(explorer, "compute", slow)
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


def test_a_failed_computation_is_reported_and_the_next_shown(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(settings: Settings) -> Any:
        raise ZeroDivisionError("<i>nothing</i>")

    monkeypatch.setattr(explorer, "compute", fail)
    explorer.strength = 0.2
    assert explorer.wait()
    assert said(explorer) == "ZeroDivisionError: <i>nothing</i>"
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.undo()
    explorer.strength = 0.3
    assert explorer.wait()
    assert meta(explorer)["strength"] == 0.3
    assert said(explorer) == "", "what is over is no longer said"


def test_a_view_in_progress_does_not_use_up_a_kept_message(explorer: Explorer) -> None:
    shown = list[float]()

    def add_files(change: dict[str, Any]) -> None:  # just before the worker decides on the message
        shown.append(change["new"].settings.strength)
        if len(shown) == 1:
            upload(explorer, ("a.png", png((200, 30, 40))), ("notes.txt", b"no picture"))

    explorer.observe(add_files, "view")
    explorer.strength = 0.4
    assert explorer.wait()
    explorer.unobserve(add_files, "view")
    assert explorer.source == UPLOADS
    assert len(shown) == 2
    assert "notes.txt" in said(explorer)
    explorer.strength = 0.5
    assert explorer.wait()
    assert said(explorer) == ""


def test_another_view_of_the_name_closes_and_frees_the_first(fresh: Explorer, tmp_path: Path) -> None:
    network = weakref.ref(fresh.pipeline.pair.generator)
    assert fresh.rest()
    assert [thread.is_alive() for thread in fresh.worker.threads] == [True, True]
    second = opened(tmp_path)
    try:
        assert second.wait(60)
        assert not fresh.wait(1), "the first is closed"
        assert not any(thread.is_alive() for thread in fresh.worker.threads)
        fresh.strength = 0.1
        press(fresh, "random")
        assert fresh.view is not None
        assert fresh.view.settings.strength == 1.0, "what was shown stays"
        until(lambda: gc.collect() >= 0 and network() is None, pause=0.02)
    finally:
        second.close()
