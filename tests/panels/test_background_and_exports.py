"""Curves and attackers in the background, pinned views, exported files."""

from __future__ import annotations

import json
import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.explorers import DIGITS, everything, meta, pixels, press, said, upload
from tests.support.uploads import png
from tests.support.waiting import until
from workbench.panels import Explorer, background_tasks, pipeline


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


def test_an_attacker_learns_and_its_guess_follows(fresh: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = fresh
    monkeypatch.setattr(background_tasks, "ATTACK", (64, 64))
    explorer.codec = "png"
    assert explorer.rest()
    assert meta(explorer)["psnr"] is None
    before = explorer.stage.frames["id"]
    press(explorer, "attack")
    assert explorer.rest()
    assert explorer.stage.frames["id"] > before, "the page forgets what it knew without a guess"
    assert meta(explorer)["note"] == "learnt: 64 pairs, strength 1, 64 passes"
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


def test_a_perfect_guess_has_a_finite_psnr(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(explorer.settings(), codec="png", strength=0.0)
    captured, _ = explorer.compute(settings)
    perfect = pipeline.Attack(lambda _: captured.original, 1, 1, 0.0)
    monkeypatch.setitem(explorer.pipeline.attacks, (settings.codec, settings.graded, settings.rate), perfect)
    _, seen = explorer.compute(settings)
    assert seen.psnr is not None
    assert seen.psnr.tolist() == [pipeline.MOST_PSNR]


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


def test_a_pin_and_a_link_are_of_the_settings_before_them(explorer: Explorer) -> None:
    with explorer.programmatic_update():
        explorer.apply(strength=0.2, codec="jpeg", pictures=[3])  # not displayed yet
    assert explorer.view is not None
    assert explorer.view.settings != explorer.settings()
    press(explorer, "pin")
    assert [view.settings for view in explorer.pinned] == [explorer.settings()]
    assert np.array_equal(explorer.pinned[0].original, explorer.compute(explorer.settings())[0].original[0])
    assert "-p strength 0.2 " in explorer.link()["command"]


def test_an_export_waits_for_the_view_before_it(explorer: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    around = explorer.shown, replace(explorer.settings(), strength=0.0)
    until(lambda: explorer.tasks._around == around)  # prefetching would hold the export back
    real, gate = explorer.compute, threading.Event()
    monkeypatch.setattr(explorer, "compute", lambda settings: gate.wait(20) and real(settings))
    explorer.strength = 0.2
    press(explorer, "export", what="settings (JSON)")
    assert not explorer.rest(0.05)
    gate.set()
    assert explorer.rest()
    written = json.loads((tmp_path / "out" / "explore-settings.json").read_text("utf-8"))
    assert written["parameters"]["strength"] == 0.2


def exported(explorer: Explorer, kind: str) -> str:
    press(explorer, "export", what=kind)
    assert explorer.rest()
    return said(explorer)


def read(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(path))


def test_the_figure_is_exported_with_the_pinned_views(
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
