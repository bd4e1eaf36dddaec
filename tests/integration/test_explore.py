"""The notebook `explore` in JupyterLab in a real browser: its controls moved by mouse and by keyboard, with a real kernel.

test_explore_stage.py tests the page alone, tests/panels the kernel alone.
"""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import psutil
import pytest

from tests.support import browsers
from tests.support.browsers import accessible, open_notebook, run_all, screenshot, wait_for
from tests.support.pair import AUXILIARY, TARGET
from tests.support.uploads import awkward, png

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SMALL = f'dataset, target, auxiliary, limit = "digits", "{TARGET}", "{AUXILIARY}", 32'  # parameters: the tiny pair's
# The pixels of a canvas, RGBA.
PIXELS = "(canvas) => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"
STAGE = "document.querySelector('.pmc2-explore').pmc2"
KEPT = f"{STAGE}.past.length > 0 && {STAGE}.present === JSON.stringify({STAGE}.state)"  # `undo` comes back here
# A drag and an undo in one task: the page sends the first strength at once, and the others after the kernel's reply.
DRAG_AND_UNDO = f"for (let k = 74; k > 50; k--) {STAGE}.set('strength', k / 100); {STAGE}.undoButton.click()"
AHEAD = f"[...{STAGE}.table.keys()].some((key) => key.split('|')[1] === '700')"  # the table has a view of strength 0.7
CHARTED = "() => document.querySelectorAll('.pmc2-chart').length >= 3"
CUT = (
    "() => { const whole = document.querySelector('.pmc2-explore'), right = whole.getBoundingClientRect().right + 1; "
    "return [...whole.querySelectorAll('*')].filter((each) => each.checkVisibility() && "
    "!each.closest('.pmc2-pane, svg') && each.getBoundingClientRect().right > right).map((each) => each.className) }"
)


pytestmark = pytest.mark.system


@pytest.fixture
def folder(lab_folder: Path) -> Path:
    return lab_folder


class View:
    def __init__(self, page: Page) -> None:
        self.page = page

    def of(self, name: str, inner: str = "") -> Locator:
        return self.page.locator(f".pmc2-{name} {inner}".strip()).first

    def numbers(self, name: str) -> str:
        return self.of("numbers").get_attribute(f"data-{name}") or ""

    def pixels(self, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return np.asarray(self.of(name, ".pmc2-over").evaluate(PIXELS)).reshape(-1, 4)[:, :3]

    def said(self) -> str:
        return self.of("message").inner_text()

    def choose(self, name: str, label: str) -> None:
        self.of(name, "select").select_option(label=label)

    def until(self, **settings: Any) -> None:
        for name, value in settings.items():
            wait_for(lambda: self.numbers(name) == str(value), 30, f"a view of {name} {value} did not come")  # noqa: B023

    def press(self, name: str, *keys: str) -> None:
        self.of(name, "input[type=range]").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def until_coloured(self, *colour: int) -> None:
        wait_for(lambda: self.pixels("original")[0].tolist() == [*colour], 30, f"a picture of {colour} did not come")


def begin(page: Page, lab: str, folder: Path, name: str = "explore", more: str = "", mode: str = "lab") -> View:
    browsers.notebook("explore", folder, f'{SMALL}\noutput_dir = "{folder / name}-output"\n{more}', name)
    open_notebook(page, lab, f"{name}.ipynb", mode)
    run_all(page)
    return arrived(page)


def arrived(page: Page) -> View:
    view = View(page)
    page.wait_for_function("() => document.querySelector('.pmc2-numbers')?.dataset.view")
    page.wait_for_function(CHARTED)
    return view


def run_again(page: Page) -> View:
    page.evaluate("() => document.querySelector('.pmc2-explore').classList.add('of-before')")
    run_all(page)
    page.locator(".of-before").wait_for(state="detached")
    return arrived(page)


def kernel_of(page: Page, lab: str, name: str) -> psutil.Process:
    address = f"{lab}api/sessions?token={browsers.TOKEN}"
    (session,) = [each for each in page.request.get(address).json() if each["path"] == name]
    processes = psutil.process_iter(["cmdline"])
    (process,) = [each for each in processes if session["kernel"]["id"] in " ".join(each.info["cmdline"] or [])]
    return process


def test_every_control_does_what_it_says(lab: str, page: Page, folder: Path, tmp_path: Path) -> None:
    view = begin(page, lab, folder)
    view.until(strength=1, index=0, codec="neural", count=1)
    first = view.pixels("original")

    # Strength: by keyboard, by typing, and in the curves.
    view.press("strength", *["ArrowLeft"] * 10)
    view.until(strength=0.9)
    wait_for(lambda: page.evaluate(KEPT), 30, "the step was not kept")
    assert np.array_equal(view.pixels("original"), first)
    typed = view.of("strength", "input[type=number]")
    typed.fill("0.75")
    typed.press("Enter")
    view.until(strength=0.75)
    assert page.locator(".pmc2-marker").count() == 3

    # Undo and redo.
    wait_for(lambda: page.evaluate(KEPT), 30, "the step was not kept")
    view.of("strength", "input[type=range]").press("Control+z")
    view.until(strength=0.9)
    view.of("redo").click()
    view.until(strength=0.75)
    page.evaluate(DRAG_AND_UNDO)
    view.until(strength=0.75)

    # Codec and quality.
    view.choose("codec", "jpeg")
    view.until(codec="jpeg")
    view.press("quality", "Home")
    wait_for(lambda: "jpeg q1 " in view.of("cloud").inner_text(), 30, "quality 1 did not come")
    view.choose("codec", "png")
    view.until(codec="png")
    assert abs(view.pixels("protected") - view.pixels("cloud")).max() <= 1, "PNG is lossless"
    assert view.of("pair", "option").all_inner_texts() == [f"{TARGET}-X-{AUXILIARY}"]
    assert view.of("variant", "option").all_inner_texts()[0].startswith("own:")

    # The pictures, and a sheet of them.
    view.press("number", "ArrowRight", "ArrowRight")
    view.until(index=2)
    assert not np.array_equal(view.pixels("original"), first)
    name = view.of("show", "option:nth-child(2)").inner_text()
    view.choose("show", name)
    wait_for(lambda: view.of("original").inner_text().split()[-1] == name, 30, f"no picture of {name} came")
    view.choose("show", "misclassified")
    wait_for(lambda: "of the first 32 pictures" in view.said(), 30, "the misclassified were not found")
    wait_for(lambda: "wrong: it is" in view.of("numbers").inner_text(), 30, "no misclassified picture came")
    view.choose("show", "all")
    view.choose("sheet", "16")
    view.until(count=16)
    assert page.locator(".pmc2-tile").count() == 16
    assert "accuracy" in view.of("figures").inner_text()
    view.choose("layer", "at the cloud")
    screenshot(page, tmp_path, "explore-sheet")
    tile = page.locator(".pmc2-tile").nth(5)
    assert (tile.get_attribute("aria-label") or "").startswith("picture 5, ")
    tile.click()
    view.until(index=5, count=1)

    # The map, and a group of it.
    page.locator(".pmc2-map summary").click()
    wait_for(lambda: "32 pictures at" in view.of("map").inner_text(), 60, "the map did not come")
    page.wait_for_function(CHARTED)  # the curves of the codec come later, and move the map down
    canvas = view.of("map-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    view.until(count=32)
    view.choose("show", "all")
    view.choose("sheet", "1 picture")
    view.until(count=1)

    # Pins, and disabled controls.
    view.of("pin").click()
    page.locator(".pmc2-pin-card").wait_for()
    view.press("strength", "End")
    view.until(strength=1)
    page.get_by_role("button", name="show again").click()
    view.until(strength=0.75)
    page.get_by_role("button", name="remove").click()
    wait_for(lambda: page.locator(".pmc2-pin-card").count() == 0, 30, "the pin was not removed")
    for kind, file in (("figure (PNG)", "explore.png"), ("settings (JSON)", "explore-settings.json")):
        view.choose("export-kind", kind)
        page.locator("button.pmc2-export").click()
        link = view.of("message", f"a[download='{file}']")
        link.wait_for()
        with page.expect_download() as download:
            link.click()
        written = folder / "explore-output" / file
        assert Path(download.value.path()).read_bytes() == written.read_bytes()
    assert json.loads(written.read_text("utf-8"))["command"].startswith("papermill notebooks/explore.ipynb")

    # A link that restores the view.
    page.locator(".pmc2-settings summary").click()
    wait_for(lambda: view.of("python", "input").input_value().startswith("explorer.apply("), 30, "no link")
    line = view.of("python", "input").input_value()
    view.press("strength", "Home")
    view.until(strength=0)
    view.of("paste", "input").fill(line)
    view.of("paste", "input").press("Enter")
    view.until(strength=0.75)

    cells = wait_for(lambda: browsers.saved(page, folder / "explore.ipynb"), 60, "the last cell was not executed")
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.output_type == "stream"], "nothing was trained, nothing was warned of"
    assert sum("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs) == 1


def test_pictures_are_uploaded_and_an_attacker_is_trained(lab: str, page: Page, folder: Path, tmp_path: Path) -> None:
    view = begin(
        page, lab, folder, "uploads", "from workbench.panels import background_tasks\nbackground_tasks.ATTACK = (128, 512)"
    )
    view.choose("codec", "png")
    view.until(codec="png")
    view.of("attack").click()
    wait_for(lambda: "learnt: 128 pairs" in view.of("attacker").inner_text(), 90, "the attacker guessed nothing")
    screenshot(page, tmp_path, "explore-attacker")
    files = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in awkward()]
    with page.expect_file_chooser() as chooser:
        view.of("upload").click()
    chooser.value.set_files(files)  # type: ignore[arg-type]
    wait_for(lambda: view.of("source", "select").input_value() == "my own pictures", 30, "the uploads were not chosen")
    for name in ("truncated.png", "bomb.png", "onerror=alert(1)"):
        wait_for(lambda: name in view.said(), 30, f"the message does not name {name}")  # noqa: B023
    assert page.locator(".pmc2-message img").count() == 0, "a file's name is no markup"
    number = view.of("number", "input[type=range]")
    wait_for(lambda: 5 <= int(number.get_attribute("max") or 0) < len(files), 30, "not all uploads can be chosen")
    count = int(number.get_attribute("max") or 0)
    view.press("number", "End")
    view.until(index=count)

    data = base64.b64encode(png((3, 140, 250))).decode()
    drop = """async (zone, data) => {
        const files = new DataTransfer(), content = await (await fetch("data:image/png;base64," + data)).blob();
        files.items.add(new File([content], "dropped.png", {type: "image/png"}));
        zone.dispatchEvent(new DragEvent("drop", {bubbles: true, dataTransfer: files}));
    }"""
    view.of("drop").evaluate(drop, data)
    view.until_coloured(3, 140, 250)
    place = folder / "pictures of a folder"
    place.mkdir(exist_ok=True)
    (place / "green.png").write_bytes(png((0, 250, 0)))
    view.of("folder", "input").fill(str(place))
    view.of("folder", "input").press("Enter")
    view.until_coloured(0, 250, 0)


def test_it_survives_two_tabs_and_stopped_and_killed_kernels(lab: str, page: Page, folder: Path, noted: list[str]) -> None:
    begin(page, lab, folder, "lives")
    view = run_again(page)
    assert page.locator(".pmc2-explore").count() == 1
    wait_for(lambda: figures(folder / "lives-output" / "explore.json") == 3, 60, "the last cell was not executed")
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    wait_for(lambda: in_sight(page), 30, "after Run All the view is not in sight")
    wait_for(lambda: browsers.saved(page, folder / "lives.ipynb"), 60, "it was not saved")

    other = View(browsers.watched(page.context.new_page(), noted))
    open_notebook(other.page, lab, "lives.ipynb", "doc")
    other.page.wait_for_function("() => document.querySelector('.pmc2-numbers')?.dataset.view")
    for moved, following in ((view, other), (other, view)):
        moved.page.bring_to_front()
        for key, value in (("Home", "0"), ("End", "1")):
            moved.press("strength", key)
            moved.until(strength=value)
            following.until(strength=value)
            assert following.of("strength", "input[type=range]").input_value() == value
    assert np.array_equal(view.pixels("cloud"), other.pixels("cloud"))
    other.page.close()

    kernel = kernel_of(page, lab, "lives.ipynb")
    page.bring_to_front()
    wait_for(lambda: page.evaluate(AHEAD), 60, "the kernel sent no view of strength 0.7 ahead")
    kernel.send_signal(signal.SIGSTOP)
    try:
        before = view.pixels("protected")
        view.press("strength", *["ArrowLeft"] * 30)
        assert not np.array_equal(view.pixels("protected"), before), "the page blends alone"
        wait_for(lambda: view.numbers("strength") == "0.7", 30, "the table has what the cloud sees")
    finally:
        kernel.send_signal(signal.SIGCONT)
    kernel.kill()
    page.get_by_role("dialog").get_by_text("Kernel Restarting").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Ok").click()
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    view = run_again(page)
    view.press("strength", "Home")
    view.until(strength=0)


def figures(path: Path) -> int:
    try:
        return len(json.loads(path.read_text("utf-8"))["figures"])
    except (OSError, ValueError):
        return 0


def in_sight(page: Page) -> bool:
    box = page.locator(".pmc2-shelf").bounding_box()
    return box is not None and 0 <= box["y"] < 1000


def test_the_view_does_not_wait_for_cells_and_follows_themes(lab: str, page: Page, folder: Path, tmp_path: Path) -> None:
    browsers.notebook("explore", folder, f'{SMALL}\noutput_dir = "{folder}/running-output"', "running")
    path = folder / "running.ipynb"
    document = nbformat.read(path, 4)
    shown = next(number for number, cell in enumerate(document.cells) if "explorer.widget" in cell.source)
    wait = 'import threading\nopen("begun", "w").close()\nthreading.Event().wait(300)\nopen("done", "w").close()\n'
    document.cells[shown + 1 :] = [nbformat.v4.new_code_cell(wait)]
    nbformat.write(document, path)
    open_notebook(page, lab, "running.ipynb", "doc")
    run_all(page)
    view = arrived(page)
    wait_for((folder / "begun").exists, 30, "the cell did not begin")
    view.choose("codec", "jpeg")
    view.until(codec="jpeg")
    view.of("pin").click()
    page.get_by_role("button", name="remove").click()
    for theme, light in (("Dark", "false"), ("Light", "true")):
        page.get_by_role("menuitem", name="Settings", exact=True).click()
        page.locator(".lm-Menu-itemLabel").get_by_text("Theme", exact=True).click()
        page.locator(".lm-Menu-itemLabel").get_by_text(f"JupyterLab {theme}", exact=True).click()
        page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
        page.locator("#jupyterlab-splash").wait_for(state="detached")  # it covers the page while the theme changes
        view.of("shelf").scroll_into_view_if_needed()
        accessible(page, ".pmc2-explore")
        screenshot(page, tmp_path, f"explore-{theme.lower()}")
    page.set_viewport_size({"width": 360, "height": 780})
    page.wait_for_function("() => document.querySelector('.pmc2-explore').clientWidth < 360")  # JupyterLab arranges it later
    wait_for(lambda: not page.evaluate(CUT), 30, "parts of the view are cut off")
    screenshot(page, tmp_path, "explore-360")
    assert page.get_by_text("Error displaying widget").count() == 0
    assert not (folder / "done").exists(), "the cell runs still"
    assert os.environ.get("JUPYTERLAB_SETTINGS_DIR") is None
