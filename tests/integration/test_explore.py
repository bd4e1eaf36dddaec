"""The notebook `explore` from a user's view: JupyterLab in a real browser, every control moved by mouse or by keyboard."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

import browsers  # isort: skip
from browsers import accessible, open_notebook, run_all, screenshot, wait_for  # isort: skip
from tests.support.pair import AUXILIARY, TARGET
from tests.support.uploads import awkward, png

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.system

CARDS = ("original", "protected", "cloud", "residual")
SMALL = f'dataset, target, auxiliary, limit = "digits", "{TARGET}", "{AUXILIARY}", 32'  # parameters: the tiny pair's
OVER = "document.querySelector('.pmc2-protected .pmc2-over')"


@pytest.fixture
def folder(lab_folder: Path) -> Path:
    """JupyterLab's folder."""
    return lab_folder


class View:
    """The view in a page, by its controls."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def of(self, name: str, inner: str = "") -> Locator:
        """Return a control by its name in the program, or an element inside it."""
        return self.page.locator(f".pmc2-{name} {inner}".strip()).first

    def numbers(self, name: str) -> str:
        """Return the heading of the figures."""
        return self.of("numbers").get_attribute(f"data-{name}") or ""

    def pictures(self) -> list[str]:
        """Return the bytes of the cards' displayed pictures."""
        cards = [self.page.locator(f".pmc2-{name} .pmc2-stack img").last for name in CARDS]
        return [str(card.evaluate(browsers.BYTES)) for card in cards]

    def pixels(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the pixels of a card's picture, H x W x 3."""
        return np.asarray(Image.open(io.BytesIO(bytes.fromhex(self.pictures()[CARDS.index(name)]))))

    def said(self) -> str:
        """Return the status line."""
        return self.of("message").inner_text()

    def choose(self, name: str, label: str) -> None:
        """Choose an option in a drop-down list."""
        self.of(name, "select").select_option(label=label)

    def after(self, act: Callable[[], Any], what: str = "another view") -> None:
        """Call `act`, and wait until another view is displayed."""
        before = self.numbers("view")
        act()
        wait_for(lambda: self.numbers("view") != before, 30, f"{what} did not come")

    def at(self, name: str) -> float:
        """Return the displayed value of a slider."""
        return float(self.of(name, "[role=slider]").get_attribute("aria-valuenow") or "nan")

    def press(self, name: str, *keys: str) -> None:
        """Press keys on a slider."""
        self.of(name, "[role=slider]").focus()
        for key in keys:
            self.page.keyboard.press(key)


def begin(page: Page, lab: str, folder: Path, name: str = "explore", more: str = "", mode: str = "lab") -> View:
    """Open the notebook with the tiny pair, run it, and wait for the view and its curves."""
    browsers.notebook("explore", folder, f'{SMALL}\noutput_dir = "{folder / name}-output"\n{more}', name)
    open_notebook(page, lab, f"{name}.ipynb", mode)
    run_all(page)
    return arrived(page)


def arrived(page: Page) -> View:
    """Wait for the view and its curves."""
    view = View(page)
    view.of("numbers").wait_for()
    view.of("explore").scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.pmc2-curves img')?.naturalWidth > 100")
    return view


def run_again(page: Page) -> View:
    """Run all cells again, and wait for the new view."""
    page.evaluate("() => document.querySelector('.pmc2-explore').classList.add('of-before')")
    run_all(page)
    page.locator(".of-before").wait_for(state="detached")
    return arrived(page)


def test_every_control_does_what_it_says(lab: str, page: Page, folder: Path, tmp_path: Path) -> None:
    view = begin(page, lab, folder)
    assert view.numbers("strength") == "1"
    first = view.pictures()

    # Strength: by keyboard, by dragging, by typing.
    view.after(lambda: view.press("strength", *["ArrowLeft"] * 10))
    wait_for(lambda: view.numbers("strength") == "0.9", 30, "ten steps to the left did not come")
    assert view.pictures()[0] == first[0]
    assert view.pictures()[3] != first[3], "the residual"
    view.of("strength", "[role=slider]").scroll_into_view_if_needed()
    box = view.of("strength", "[role=slider]").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 21):
        page.mouse.move(box["x"] + box["width"] / 2 - 8 * step, box["y"] + box["height"] / 2)
    page.mouse.up()
    wait_for(lambda: 0.1 < float(view.numbers("strength")) < 0.7, 30, "the slider did not follow the mouse")
    view.press("strength", "Home")
    wait_for(lambda: view.numbers("strength") == "0", 30, "strength 0 did not come")
    screenshot(page, tmp_path, "explore-strength-0")
    readout = view.of("strength", ".widget-readout")
    readout.fill("0.75")
    view.after(lambda: page.keyboard.press("Enter"))
    assert view.numbers("strength") == "0.75"
    assert page.locator(".pmc2-curves i").count() == 3, "the line at the strength, in each panel"
    assert view.of("curves").evaluate("(box) => getComputedStyle(box).getPropertyValue('--strength')") == "0.75"

    # Codec and its quality.
    assert "widget-slider" in (view.of("quality").get_attribute("class") or "")
    view.after(lambda: view.choose("codec", "jpeg"))
    size = view.of("cloud").inner_text()
    view.after(lambda: view.press("quality", "Home"))
    wait_for(lambda: "jpeg q1" in view.of("cloud").inner_text(), 30, "quality 1 did not come")
    assert view.of("cloud").inner_text() != size
    view.after(lambda: view.choose("codec", "png"))
    assert view.pictures()[1] == view.pictures()[2], "PNG is lossless"
    view.after(lambda: view.choose("codec", "neural"))

    # The picture.
    view.after(lambda: view.press("index", "ArrowRight", "ArrowRight"))
    wait_for(lambda: view.numbers("index") == "2", 30, "the third picture did not come")
    assert view.pictures()[0] != first[0]
    name = view.of("show", "option:nth-child(2)").inner_text()
    view.after(lambda: view.choose("show", name))
    assert view.of("original").inner_text().split()[-1] == name
    view.after(lambda: view.choose("show", "misclassified"))
    wait_for(lambda: "of the first 32 pictures" in view.said(), 30, "the misclassified were not found")
    assert "wrong: it is" in view.of("numbers").inner_text()
    view.after(lambda: view.choose("show", "least hidden (SSIM)"))
    view.after(lambda: view.choose("show", "all"))
    view.of("random").click()

    # Pair and generator: existing ones are offered.
    assert view.of("pair", "option").all_inner_texts() == [f"{TARGET}-X-{AUXILIARY}"]
    assert view.of("variant", "option").all_inner_texts()[0].startswith("own:")

    # Display options.
    shown = view.pictures()
    view.of("toggle").click()
    assert page.evaluate(f"getComputedStyle({OVER}).visibility") == "hidden", "the original beneath is seen"
    view.of("toggle").click()
    assert page.evaluate(f"getComputedStyle({OVER}).visibility") == "visible"
    view.press("divider", "Home", *["PageUp"] * 3)
    page.wait_for_function(f"getComputedStyle({OVER}).clipPath.includes('%')")
    assert "inset(0" in page.evaluate(f"getComputedStyle({OVER}).clipPath")
    screenshot(page, tmp_path, "explore-divider")
    view.press("divider", "Home")
    view.choose("zoom", "8×")
    page.wait_for_function("document.querySelector('.pmc2-protected img').getBoundingClientRect().width === 256")
    assert page.evaluate(f"getComputedStyle({OVER}).imageRendering") == "pixelated"
    view.choose("zoom", "fit")
    view.press("gain", "End")
    wait_for(lambda: "times 16" in view.of("residual").inner_text(), 30, "the residual was not amplified")
    assert view.pictures()[:3] == shown[:3] or view.numbers("index") != "0"

    # Pins.
    view.of("pin").click()
    card = page.locator(".pmc2-pin-card")
    card.first.wait_for()
    kept = view.pictures()
    view.after(lambda: view.press("strength", "End"))
    wait_for(lambda: view.numbers("strength") == "1", 30, "strength 1 did not come")
    view.of("pin").click()
    card.nth(1).wait_for()
    view.after(lambda: card.first.get_by_role("button", name="show again").click())
    assert view.pictures()[:3] == kept[:3]
    screenshot(page, tmp_path, "explore-pins")
    card.first.get_by_role("button", name="remove").click()
    wait_for(lambda: card.count() == 1, 30, "the pin was not removed")

    # Controls that are disabled.
    for kind, ending in (("figure (PNG)", "png"), ("figure (SVG)", "svg"), ("settings (JSON)", "json")):
        view.choose("export-kind", kind)
        view.of("export").click()
        link = view.of("message", f"a[download$={ending}]")
        link.wait_for()
        with page.expect_download() as download:
            link.click()
        written = next((folder / "explore-output").glob(f"explore*.{ending}"))
        assert Path(download.value.path()).read_bytes() == written.read_bytes()
    assert json.loads(written.read_text("utf-8"))["command"].startswith("papermill notebooks/explore.ipynb")
    view.choose("export-kind", "pictures (PNG)")
    view.of("export").click()
    wait_for(lambda: "4 pictures in" in view.said(), 30, "the pictures were not written")

    cells = wait_for(lambda: browsers.saved(page, folder / "explore.ipynb"), 60, "the last cell was not executed")
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.output_type == "stream"], "nothing was trained, nothing was warned of"
    assert [key for output in outputs for key in output.get("data", {}) if key.startswith("image/")] == [], "no stray figure"
    assert sum("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs) == 1


def test_an_attacker_is_trained_by_a_button_and_guesses(lab: str, page: Page, folder: Path, tmp_path: Path) -> None:
    view = begin(page, lab, folder, more="from workbench.panels import jobs\njobs.ATTACK = (128, 512)")
    view.after(lambda: view.choose("codec", "png"))
    view.of("attack").click()
    wait_for(lambda: "dB; learnt: 128 pairs" in view.of("attacker").inner_text(), 90, "the attacker guessed nothing")
    assert page.evaluate("document.querySelector('.pmc2-attacker .pmc2-over').naturalWidth") == 32
    screenshot(page, tmp_path, "explore-attacker")


def test_pictures_are_uploaded_by_choosing_and_by_dropping(lab: str, page: Page, folder: Path, tmp_path: Path) -> None:
    view = begin(page, lab, folder)
    files = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in awkward()]
    with page.expect_file_chooser() as chooser:
        view.of("upload").click()
    view.after(lambda: chooser.value.set_files(files))  # type: ignore[arg-type]
    assert view.of("source", "select").evaluate("each => each.value") == "my own pictures"
    for name in ("truncated.png", "bomb.png", "onerror=alert(1)"):
        assert name in view.said()
    assert page.locator(".pmc2-message img").count() == 0, "a file's name is no markup"
    count = int(float(view.of("index", "[role=slider]").get_attribute("aria-valuemax") or 0))
    assert count >= 5
    for _ in range(count):
        view.after(lambda: view.press("index", "ArrowRight"))
        assert view.pixels("original").shape == (32, 32, 3)
    screenshot(page, tmp_path, "explore-awkward")

    data = base64.b64encode(png((3, 140, 250))).decode()
    given = page.evaluate_handle(
        """async (data) => {
            const made = new DataTransfer(), content = await (await fetch("data:image/png;base64," + data)).blob();
            made.items.add(new File([content], "dropped.png", {type: "image/png"}));
            return made;
        }""",
        data,
    )
    view.after(lambda: view.of("drop").dispatch_event("drop", {"dataTransfer": given}))
    assert view.pixels("original")[0, 0].tolist() == [3, 140, 250]

    place = folder / "pictures of a folder"
    place.mkdir(exist_ok=True)
    (place / "green.png").write_bytes(png((0, 250, 0)))
    view.of("folder", "input").fill(str(place))
    view.after(lambda: page.keyboard.press("Enter"))
    assert view.pixels("original")[0, 0].tolist() == [0, 250, 0]


def test_it_lives_through_a_killed_kernel_and_running_all_twice(lab: str, page: Page, folder: Path) -> None:
    begin(page, lab, folder)
    view = run_again(page)
    assert page.locator(".pmc2-explore").count() == 1
    view.after(lambda: view.press("strength", "Home"))

    address = f"{lab}api/sessions?token={browsers.TOKEN}"
    (session,) = [each for each in page.request.get(address).json() if each["path"] == "explore.ipynb"]
    (killed,) = [each for each in psutil.process_iter() if session["kernel"]["id"] in " ".join(command(each))]
    killed.kill()
    page.get_by_role("dialog").get_by_text("Kernel Restarting").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Ok").click()
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    view = run_again(page)
    assert view.numbers("strength") == "1"
    view.after(lambda: view.press("strength", "Home"))


def command(process: psutil.Process) -> list[str]:
    """Return the command line of a process, or nothing after its end."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_two_tabs_show_the_same_and_follow_each_other(lab: str, page: Page, folder: Path, noted: list[str]) -> None:
    view = begin(page, lab, folder)
    wait_for(lambda: browsers.saved(page, folder / "explore.ipynb"), 60, "the last cell was not executed")
    other = View(browsers.watched(page.context.new_page(), noted))
    open_notebook(other.page, lab, "explore.ipynb", "doc")
    other.of("numbers").wait_for()
    for moved, following in ((view, other), (other, view)):
        moved.page.bring_to_front()
        for key, value in (("Home", "0"), ("End", "1")):
            moved.press("strength", key)
            wait_for(lambda: moved.numbers("strength") == following.numbers("strength") == value, 30, "a tab did not follow")  # noqa: B023
            # The other slider gets the value when the first one rests. Until then the same key would change nothing there.
            wait_for(lambda: following.at("strength") == float(value), 30, "a tab's slider did not follow")  # noqa: B023
    assert view.pictures() == other.pictures()


def test_no_slider_jumps_back_under_a_hand_that_moves_on(lab: str, page: Page, folder: Path) -> None:
    deaf = "import time\nfrom workbench.panels import Explorer\nExplorer._pin = lambda self: time.sleep(2)"
    view = begin(page, lab, folder, "deaf", more=deaf)
    wait_for(lambda: browsers.saved(page, folder / "deaf.ipynb"), 60, "the last cell was not executed")
    page.evaluate(
        """() => {
            const slider = document.querySelector(".pmc2-index [role=slider]"), at = () => Number(slider.getAttribute("aria-valuenow"));
            window.stood = [at()];
            new MutationObserver(() => window.stood.push(at())).observe(slider, {attributeFilter: ["aria-valuenow"]});
        }"""
    )
    view.press("index", "ArrowRight")
    view.of("pin").click()  # the kernel is busy for 2 s, and meanwhile reports the first move
    view.press("index", "ArrowRight")
    wait_for(lambda: view.numbers("index") == "2", 30, "the second move was not heard")
    stood = page.evaluate("window.stood")
    assert stood == [0, 1, 2], "where the slider stood, from its first place on"


SIZES = {"1440": (1440, 1000), "1024": (1024, 768), "360": (360, 780)}


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_is_accessible_in_both_themes_and_at_three_widths(
    theme: str, lab: str, browser: Browser, folder: Path, tmp_path: Path, noted: list[str]
) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = browsers.watched(context.new_page(), noted)
    begin(page, lab, folder, "accessible", mode="doc")
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Theme", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(f"JupyterLab {theme}", exact=True).click()
    light = "true" if theme == "Light" else "false"
    page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
    for name, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        page.locator(".pmc2-explore").scroll_into_view_if_needed()
        accessible(page, ".pmc2-explore")
        wide = page.evaluate(
            "() => [...document.querySelectorAll('.pmc2-explore *')].filter((each) => each.checkVisibility() && "
            "each.getBoundingClientRect().right > document.querySelector('.pmc2-explore').getBoundingClientRect().right + 1)"
            ".map((each) => each.className)"
        )
        assert not wide, "cut off"
        screenshot(page, tmp_path, f"explore-{theme.lower()}-{name}")
    context.close()


def test_the_slider_does_not_wait_for_a_cell_that_runs(lab: str, page: Page, folder: Path) -> None:
    browsers.notebook("explore", folder, f'{SMALL}\noutput_dir = "{folder}/running-output"', "running")
    path = folder / "running.ipynb"
    document = nbformat.read(path, 4)
    made = next(number for number, cell in enumerate(document.cells) if "explorer.widget" in cell.source)
    wait = """
import threading
open("begun", "w").close()
threading.Event().wait(120)
open("done", "w").close()
"""
    document.cells[made + 1 :] = [nbformat.v4.new_code_cell(wait)]
    nbformat.write(document, path)
    open_notebook(page, lab, "running.ipynb")
    run_all(page)
    view = arrived(page)
    assert (folder / "begun").exists()
    view.after(lambda: view.press("strength", "ArrowLeft"))
    assert view.numbers("strength") == "0.99"
    view.after(lambda: view.choose("codec", "jpeg"))
    view.of("pin").click()
    page.get_by_role("button", name="remove").click()
    wait_for(lambda: page.locator(".pmc2-pin-card").count() == 0, 30, "the pin stayed")
    assert not (folder / "done").exists(), "the cell runs still"


ROOM = """() => {
    const view = document.querySelector('.pmc2-view > .widget-html-content'), top = view.getBoundingClientRect().top;
    const next = view.closest('.pmc2-view').nextElementSibling.getBoundingClientRect().top;
    return [view, view.lastElementChild].map((each) => each.getBoundingClientRect().bottom - top).concat(next - top);
}"""


def test_a_view_takes_the_room_that_it_needs(lab: str, browser: Browser, page: Page, folder: Path) -> None:
    view = begin(page, lab, folder, "room", mode="doc")
    heights = set()
    for width, zoom, side in ((1440, "fit", 192), (1024, "12×", 384), (1024, "2×", 64), (360, "2×", 64), (360, "fit", 256)):
        page.set_viewport_size({"width": width, "height": 900})
        view.choose("zoom", zoom)
        shown = f"document.querySelector('.pmc2-original .pmc2-stack')?.offsetWidth === {side}"
        page.wait_for_function(f"() => {shown}")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        has, needs, next_one = page.evaluate(ROOM)
        assert has == pytest.approx(needs, abs=1), f"at {width} pixels, {zoom}"
        assert next_one >= needs - 1, "nothing lies over the view"
        heights.add(round(has))
    assert len(heights) == 5
    browser.start_tracing(page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline"])
    view.after(lambda: view.press("strength", "ArrowLeft"))
    events = json.loads(browser.stop_tracing())["traceEvents"]
    ends = [event["args"].get("endData", {}) for event in events if event["name"] == "Layout" and event["ph"] == "X"]
    alone = {str(end["layoutRoots"][0].get("nodeName")) for end in ends if len(end.get("layoutRoots", [])) == 1}
    assert any("widget-html-content" in each for each in alone), "a view is laid out without what is around it"
    assert any("widget-readout" in each for each in alone), "a slider's number, too"


def test_no_widget_fails_where_nothing_was_set_up(lab: str, page: Page, folder: Path) -> None:
    begin(page, lab, folder, "fresh")
    assert page.get_by_text("Error displaying widget").count() == 0
    assert page.locator(".jupyter-widgets-disconnected").count() == 0
    assert os.environ.get("JUPYTERLAB_SETTINGS_DIR") is None
