"""The stage of `explore` in a real browser without a kernel: the page's own drawing and behaviour."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.support.browsers import accessible, screenshot, watched
from tests.support.fixtures import PROFILE
from tests.support.stage_page import open_stage
from workbench.panels.explore_stage import Stage, pack_frames, pack_seen
from workbench.panels.methods import Captured, Seen
from workbench.panels.saved_page import encoded, state_of, write
from workbench.panels.settings import Settings
from workbench.pictures import residual, to_uint8

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.support.browsers import Parked

CLASSES = ["airplane", "automobile", "bird", "cat"]
SIDE = 32
# The pixels of a canvas, RGB, row by row.
PIXELS = """(canvas) => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return Array.from(data).filter((_, k) => k % 4 !== 3);
}"""
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))))"


def captured(n: int) -> Captured:
    levels = torch.randint(0, 256, (3, n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).float() / 255
    return Captured(levels[0], levels[1], levels[2], [900] * n, torch.eye(len(CLASSES))[:1] if n == 1 else None)


def seen(n: int, value: float, guess: bool = False) -> Seen:
    """Return two distinct pictures at the cloud, of one colour each. The target's class of a picture is its number."""
    cloud = torch.stack([torch.full((3, SIDE, SIDE), value), torch.full((3, SIDE, SIDE), value / 2)])
    which = torch.arange(n) % 2
    answers = torch.nn.functional.one_hot(torch.arange(n) % len(CLASSES), len(CLASSES)) * 0.9 + 0.025
    similar = torch.linspace(0.0, 0.5, n) if n > 1 else torch.tensor([0.25])
    return Seen(
        cloud=cloud,
        which=which,
        ssim=similar,
        bits=[4.0] * n,
        payload=3 * n,
        codec="neural",
        target=answers,
        auxiliary=answers.flip(1),
        guess=1 - cloud if guess else None,
        psnr=torch.full((n,), 12.0) if guess else None,
        milliseconds={},
    )


def made(n: int, strength: float = 1.0, guess: bool = False) -> tuple[dict[str, Any], Captured]:
    stage, pictures = stage_of(n, strength, guess)
    return state_of(stage), pictures


def stage_of(n: int, strength: float = 1.0, guess: bool = False) -> tuple[Stage, Captured]:
    settings = Settings("digits", tuple(range(n)), strength, 0.0, "neural", 89, "resnet18-X-vgg13_bn")
    pictures = captured(n)
    stage = Stage(strength=strength, pair=settings.pair, source="digits", sheet=n)
    stage.options = {
        **{"sources": ["digits"], "shows": ["all", *CLASSES], "sorts": ["number"], "count": 40, "codecs": ["neural", "png"]},
        **{"pairs": [settings.pair], "variants": [["", "own"]], "kinds": ["figure (PNG)"], "classes": CLASSES, "ready": True},
    }
    stage.frames = pack_frames(7, pictures, settings, [k % 3 for k in range(n)], [])
    stage.seen = pack_seen(7, settings, seen(n, 0.8, guess), {"generator": 3.0}, "learnt: 64 pairs")
    return stage, pictures


@pytest.fixture(scope="module")
def shared(parked: Parked) -> Iterator[tuple[Page, list[str]]]:
    """One page for the module's tests, with the forbidden events on it. A page for each would take four times as long."""
    noted: list[str] = []
    with parked.used() as browser:
        page = watched(browser.new_context(**PROFILE).new_page(), noted)
    yield page, noted
    with parked.used():
        page.context.close()


@pytest.fixture
def empty(shared: tuple[Page, list[str]], browser: Browser) -> Iterator[Page]:
    """The shared page, empty. A test that sets the page's clock needs a `page` of its own."""
    page, noted = shared
    noted.clear()
    page.goto("about:blank")
    page.set_viewport_size(PROFILE["viewport"])
    yield page
    assert not noted


def pixels(page: Page, selector: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    page.evaluate(FRAMES)
    return np.asarray(page.eval_on_selector(selector, PIXELS))


def levels(image: torch.Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return to_uint8(image.clone()).permute(1, 2, 0).reshape(-1).numpy().astype(np.int64)


def pull(page: Page, name: str, value: float) -> None:
    page.eval_on_selector(
        f".pmc2-{name} input[type=range]",
        "(each, value) => { each.value = value; each.dispatchEvent(new Event('input')) }",
        value,
    )


def state(page: Page, name: str) -> Any:
    return page.evaluate("(name) => document.querySelector('.pmc2-explore').pmc2.state[name]", name)


def test_the_page_blends_each_strength_as_the_edge_does(empty: Page) -> None:
    given, pictures = made(1)
    open_stage(empty, given)
    pull(empty, "gain", 4)
    for strength in (0.0, 0.37, 1.0):
        pull(empty, "strength", strength)
        protected = pictures.protected(strength)[0]
        drawn = pixels(empty, ".pmc2-protected .pmc2-over")
        assert np.abs(drawn - levels(protected)).max() <= 1, f"rounding may differ in the last level, strength {strength}"
        changed = levels(residual(pictures.original[0], protected, 4.0))
        assert np.abs(pixels(empty, ".pmc2-residual .pmc2-over") - changed).max() <= 3, "4 / 2 levels, and rounding"
        assert np.array_equal(pixels(empty, ".pmc2-original .pmc2-over"), levels(pictures.original[0]))
        assert np.array_equal(pixels(empty, ".pmc2-protected .pmc2-under"), levels(pictures.original[0]))


def test_the_clouds_view_comes_from_the_table_without_kernel(empty: Page) -> None:
    given, _ = made(1)
    open_stage(empty, given)
    assert set(pixels(empty, ".pmc2-cloud .pmc2-over")) == {204}
    settings = Settings("digits", (0,), 0.4, 0.0, "neural", 89, "p")
    packed = encoded(pack_seen(7, settings, seen(1, 0.2), {}, ""))
    empty.evaluate("([meta, blob]) => model.message({kind: 'ahead', meta}, [blob])", [packed["meta"], packed["blob"]])
    assert set(pixels(empty, ".pmc2-cloud .pmc2-over")) == {204}, "ahead of the hand, not yet shown"
    pull(empty, "strength", 0.4)
    assert set(pixels(empty, ".pmc2-cloud .pmc2-over")) == {51}
    assert empty.locator(".pmc2-numbers").get_attribute("data-strength") == "0.4"
    pull(empty, "strength", 0.6)
    assert set(pixels(empty, ".pmc2-cloud .pmc2-over")) == {51}, "the last view stays until another comes"
    assert empty.locator(".pmc2-explore.pmc2-waiting").count() == 1
    late = encoded(pack_seen(6, settings, seen(1, 0.9), {}, ""))
    empty.evaluate("(seen) => model.arrive('seen', seen)", late)
    assert set(pixels(empty, ".pmc2-cloud .pmc2-over")) == {51}, "a view of other pictures is not shown"
    marks = pixels(empty, ".pmc2-strength .pmc2-marks").reshape(101, 3)
    assert [k for k in range(101) if marks[k].any()] == [40, 100], "the slider marks where views are known"


def test_a_sheet_frames_misread_pictures_and_opens_one(empty: Page) -> None:
    given, pictures = made(16)
    open_stage(empty, given)
    drawn = pixels(empty, ".pmc2-sheet-box canvas").reshape(2 * SIDE, 8 * SIDE, 3)
    for k in (0, 9, 15):
        top, left = k // 8 * SIDE, k % 8 * SIDE
        tile = drawn[top : top + SIDE, left : left + SIDE].reshape(-1)
        assert np.abs(tile - levels(pictures.protected(1.0)[k])).max() <= 1
    wrong = empty.eval_on_selector_all(".pmc2-tile", "(all) => all.map((each) => each.classList.contains('pmc2-wrong'))")
    assert wrong == [k % 3 != k % 4 for k in range(16)]
    least = empty.eval_on_selector_all(".pmc2-tile", "(all) => all.map((each) => each.classList.contains('pmc2-least'))")
    assert least == [k == 15 for k in range(16)]
    assert "accuracy" in empty.locator(".pmc2-figures").inner_text()
    assert "25.0 %" in empty.locator(".pmc2-figures").inner_text(), "4 of 16 are right"
    empty.locator(".pmc2-layer select").select_option("cloud")
    drawn = pixels(empty, ".pmc2-sheet-box canvas").reshape(2 * SIDE, 8 * SIDE, 3)
    assert (drawn[0, 0, 0], drawn[0, SIDE, 0]) == (204, 102)
    empty.locator(".pmc2-tile").first.focus()
    for key in ("ArrowRight", "ArrowDown"):
        empty.keyboard.press(key)
    assert empty.evaluate("document.activeElement.getAttribute('aria-label')").startswith("picture 9, airplane, misread")
    empty.keyboard.press("Enter")
    assert (state(empty, "number"), state(empty, "sheet")) == (9, 1)
    assert np.array_equal(pixels(empty, ".pmc2-original .pmc2-over"), levels(pictures.original[9])), "at once, from the sheet"


def test_a_change_right_after_an_undo_is_not_taken_back(page: Page) -> None:
    given, _ = made(1)
    open_stage(page, given)
    page.clock.install()
    for strength in (0.5, 0.4):
        pull(page, "strength", strength)
        page.clock.fast_forward(500)
    restored = "model.sent.filter(([each]) => each.do === 'restore').map(([each]) => each.settings.strength)"
    page.evaluate("model.answers = false")
    page.locator(".pmc2-undo").click()
    pull(page, "strength", 0.7)
    assert page.evaluate(restored) == [0.5, 0.7], "the kernel has not acted on the undo, and could take the change back"
    page.evaluate("model.arrive('handled', model.get('sequence'))")
    pull(page, "strength", 0.6)
    assert page.evaluate(restored) == [0.5, 0.7]


def test_undo_and_redo_go_over_fifty_steps_and_tell_the_kernel(page: Page) -> None:
    given, _ = made(1)
    open_stage(page, given)
    page.clock.install()
    for step in range(60):
        pull(page, "strength", step / 100)
        page.clock.fast_forward(500)
    page.locator(".pmc2-strength input[type=range]").focus()
    for _ in range(55):
        page.keyboard.press("Control+z")
    assert state(page, "strength") == 0.09, "50 steps back"
    assert page.locator(".pmc2-undo").is_disabled()
    page.keyboard.press("Control+Shift+z")
    assert state(page, "strength") == 0.1
    sent = page.evaluate("model.sent.filter(([each]) => each.do === 'restore').length")
    assert sent == 51
    assert page.evaluate("model.sent.at(-1)[0].settings.strength") == 0.1
    assert page.evaluate("model.get('sequence')") == page.evaluate("model.sent.length"), "messages follow their settings"
    pull(page, "strength", 0.7)
    page.clock.fast_forward(500)
    assert page.locator(".pmc2-redo").is_disabled(), "a new step ends the steps ahead"
    pull(page, "strength", 0.5)
    for keys, strength in (("Control+z", 0.7), ("Control+Shift+z", 0.5)):  # before the step has settled
        page.locator(".pmc2-strength input[type=range]").press(keys)
        assert state(page, "strength") == strength


def test_divider_swap_zoom_and_pan_are_linked_and_ask_nobody(empty: Page) -> None:
    given, _ = made(1)
    open_stage(empty, given)
    saved = empty.evaluate("model.saved.length")
    over = "getComputedStyle(document.querySelector('.pmc2-protected .pmc2-over'))"
    pull(empty, "divider", 0.3)
    assert empty.evaluate(f"{over}.clipPath") == "inset(0px 0px 0px 30%)"
    box = empty.locator(".pmc2-protected .pmc2-pane").bounding_box()
    assert box is not None
    empty.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert empty.evaluate(f"{over}.clipPath") == "inset(0px 0px 0px 50%)", "a press on the picture sets the divider"
    empty.locator(".pmc2-toggle").click()
    assert empty.evaluate(f"{over}.visibility") == "hidden"
    empty.locator(".pmc2-toggle").click()
    empty.locator(".pmc2-zoom select").select_option("4")
    matrices = empty.eval_on_selector_all(".pmc2-over", "(all) => all.map((each) => getComputedStyle(each).transform)")
    assert len(set(matrices)) == 1
    assert matrices[0].startswith("matrix(4, 0, 0, 4, ")
    empty.mouse.move(box["x"] + 100, box["y"] + 100)
    empty.mouse.down()
    empty.mouse.move(box["x"] + 140, box["y"] + 90, steps=4)
    empty.mouse.up()
    panned = empty.eval_on_selector_all(".pmc2-over", "(all) => all.map((each) => getComputedStyle(each).transform)")
    assert len(set(panned)) == 1
    assert panned != matrices
    assert empty.evaluate("model.saved.length") == saved
    assert empty.evaluate("model.sent.length") == 0


def test_controls_send_settings_within_their_range(empty: Page) -> None:
    given, _ = made(1)
    open_stage(empty, given)
    typed = empty.locator(".pmc2-strength input[type=number]")
    for text, value in (("0.75", 0.75), ("7", 1.0), ("-1", 0.0)):
        typed.fill(text)
        typed.press("Enter")
        assert state(empty, "strength") == value
    slider = empty.locator(".pmc2-strength input[type=range]")
    slider.press("ArrowRight")
    assert empty.evaluate("model.saved.at(-1)") == {"strength": 0.01}
    slider.press("End")
    assert state(empty, "strength") == 1
    assert empty.locator(".pmc2-rate input[type=range]").is_disabled(), "one rate"
    empty.evaluate("model.arrive('options', {...model.get('options'), rates: [0, 0.5, 1]})")
    empty.locator(".pmc2-rate input[type=range]").press("End")
    assert state(empty, "rate") == 1
    pull(empty, "rate", 0.3)
    assert state(empty, "rate") == 0.5, "the nearest stop"
    empty.locator(".pmc2-codec select").select_option("png")
    assert empty.evaluate("model.saved.at(-1)") == {"codec": "png"}
    empty.locator(".pmc2-button.pmc2-next").click()
    assert state(empty, "number") == 1
    empty.evaluate("model.arrive('strength', 0.25)")
    assert slider.input_value() == "0.25", "the kernel sets the slider"


def test_files_are_sent_as_they_are(empty: Page) -> None:
    given, _ = made(1)
    open_stage(empty, given)
    with empty.expect_file_chooser() as chooser:
        empty.locator(".pmc2-upload").click()
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": b"12"}])
    empty.wait_for_function("model.sent.length === 1")
    drop = """(zone) => {
        const files = new DataTransfer();
        files.items.add(new File(["123"], "b.png", {type: "image/png"}));
        zone.dispatchEvent(new DragEvent("drop", {bubbles: true, dataTransfer: files}));
    }"""
    empty.eval_on_selector(".pmc2-shelf", drop)
    empty.wait_for_function("model.sent.length === 2")
    assert empty.evaluate("model.sent") == [[{"do": "upload", "names": [name]}, 1] for name in ("a.png", "b.png")]


def test_curves_show_the_present_point_and_a_press_sets_it(empty: Page) -> None:
    given, _ = made(1)
    line = [[a, 50 + 40 * a, 45.0, 95.0] for a in (0.0, 0.5, 1.0)]
    rows = [[a, rate, 60 + 30 * a * rate, 2.0 + rate] for rate in (0.0, 0.5, 1.0) for a in (0.0, 0.5, 1.0)]
    given["curves"] = {
        **{"text": "digits, n = 32", "chance": 10, "target": line, "auxiliary": line, "ssim": line, "bytes": line},
        **{"surface": {"n": 32, "rows": rows}},
    }
    given["options"]["rates"] = [0, 0.5, 1]
    open_stage(empty, given)
    charts = empty.locator(".pmc2-chart")
    assert charts.count() == 4
    assert "target from 50.0 to 90.0" in (charts.first.get_attribute("aria-label") or "")
    before = empty.locator(".pmc2-marker").first.get_attribute("x1")
    box = charts.first.bounding_box()
    assert box is not None
    empty.mouse.click(box["x"] + box["width"] * (40 + 135) / 320, box["y"] + box["height"] / 2)
    assert state(empty, "strength") == pytest.approx(0.5, abs=0.02)
    assert empty.locator(".pmc2-marker").first.get_attribute("x1") != before
    empty.locator(".pmc2-surface rect").nth(7).click()
    assert (state(empty, "strength"), state(empty, "rate")) == (0.5, 1)
    ring = empty.locator(".pmc2-ring")
    cell = empty.locator(".pmc2-surface rect").nth(7).bounding_box()
    at = ring.bounding_box()
    assert cell is not None
    assert at is not None
    assert cell["x"] < at["x"] + at["width"] / 2 < cell["x"] + cell["width"]
    assert cell["y"] < at["y"] + at["height"] / 2 < cell["y"] + cell["height"]


def test_a_group_of_the_map_becomes_the_sheet(empty: Page) -> None:
    given, _ = made(1)
    frames = pack_frames(1, captured(4), Settings("d", (0, 1, 2, 3), 1.0, 0.0, "png", 1, "p"), [0] * 4, [])
    places = {"points": [[0, 0], [0.1, 0.1], [0.9, 0.9], [1, 1]], "labels": [0, 1, 2, 3], "answers": [0, 1, 2, 0], "psnr": None}
    places |= {"which": [0, 1, 2, 3], "distinct": 4, "height": SIDE, "width": SIDE}
    given["points"] = encoded({**places, "original": frames["original"], "cloud": frames["full"]})
    open_stage(empty, given)
    empty.locator(".pmc2-map summary").click()
    empty.wait_for_function("model.sent.length > 0")  # a details element reports that it is open later than the click
    assert empty.evaluate("model.sent.at(-1)[0]") == {"do": "map", "on": True}
    assert "4 pictures at 4 places" in empty.locator(".pmc2-map").inner_text()
    canvas = empty.locator(".pmc2-map-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y, scale = box["x"], box["y"], box["width"] / 560
    empty.mouse.move(x + 20 * scale, y + 340 * scale)
    assert empty.locator(".pmc2-thumbnail").is_visible()
    drawn = pixels(empty, ".pmc2-thumbnail").reshape(SIDE, 2 * SIDE, 3)
    assert np.array_equal(drawn[:, :SIDE].reshape(-1), levels(captured(4).original[0]))
    assert np.array_equal(drawn[:, SIDE:].reshape(-1), levels(captured(4).full[0]))
    empty.mouse.move(x + 400 * scale, y + 5 * scale)
    empty.mouse.down()
    for u, v in ((555, 5), (555, 150), (400, 150)):
        empty.mouse.move(x + u * scale, y + v * scale, steps=3)
    empty.mouse.up()
    assert empty.evaluate("model.sent.at(-1)[0]") == {"do": "select", "numbers": [2, 3]}


def test_a_page_without_a_kernel_still_blends_and_says_so(empty: Page) -> None:
    given, pictures = made(1)
    open_stage(empty, given)
    empty.evaluate("() => { model.send = () => { throw new Error('no comm') } }")
    pull(empty, "strength", 0.5)
    assert np.abs(pixels(empty, ".pmc2-protected .pmc2-over") - levels(pictures.protected(0.5)[0])).max() <= 1
    empty.locator(".pmc2-button.pmc2-random").click()
    assert "no kernel" in empty.locator(".pmc2-message").inner_text()


def opened(page: Page, path: Path) -> list[str]:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    return requests


def test_a_saved_page_is_whole_and_follows_the_sliders(empty: Page, tmp_path: Path) -> None:
    stage, pictures = stage_of(1)
    settings = Settings("digits", (0,), 0.4, 0.0, "neural", 89, "p")
    title = "@module@ </script><b>digits</b>"
    path = write(stage, [pack_seen(7, settings, seen(1, 0.2), {}, "")], tmp_path / "a page.html", title)
    assert opened(empty, path) == [path.as_uri()], "nothing else is loaded"
    assert empty.title() == title
    assert set(pixels(empty, ".pmc2-cloud .pmc2-over")) == {204}
    for strength in (0.4, 0.77):
        pull(empty, "strength", strength)
        drawn = pixels(empty, ".pmc2-protected .pmc2-over")
        assert np.abs(drawn - levels(pictures.protected(strength)[0])).max() <= 1
        assert set(pixels(empty, ".pmc2-cloud .pmc2-over")) == {51}, "at 0.4, and then the last view"
        empty.wait_for_function(
            "(late) => document.querySelector('.pmc2-message').innerText.includes('those of strength 0.4') === late",
            arg=strength != 0.4,
        )
    assert empty.locator(".pmc2-asking:visible").count() == 0, "controls that need a kernel are hidden"
    assert empty.locator(".pmc2-codec select").is_disabled()
    accessible(empty, ".pmc2-explore")
    empty.wait_for_function("() => document.querySelector('.pmc2-explore').pmc2.past.length")
    empty.locator(".pmc2-undo").click()
    assert state(empty, "strength") in (0.4, 1.0)  # whether 0.4 was a step of its own depends on the time
    assert "kernel" not in empty.locator(".pmc2-message").inner_text()
    screenshot(empty, tmp_path, "stage-saved")


def test_a_saved_sheet_is_drawn_and_text_of_it_is_no_markup(empty: Page, tmp_path: Path) -> None:
    stage, pictures = stage_of(16)
    stage.options = {**stage.options, "classes": ["</script><script>document.title = 'no'</script>", *CLASSES[1:]]}
    opened(empty, write(stage, [], tmp_path / "sheet.html", "sheet"))
    pull(empty, "strength", 0.5)
    drawn = pixels(empty, ".pmc2-sheet-box canvas").reshape(2 * SIDE, 8 * SIDE, 3)
    assert np.abs(drawn[:SIDE, :SIDE].reshape(-1) - levels(pictures.protected(0.5)[0])).max() <= 1
    empty.locator(".pmc2-tile").nth(3).click()
    assert (state(empty, "sheet"), empty.title()) == (16, "sheet")


def test_without_an_answer_the_page_names_its_views_settings(page: Page) -> None:
    given, _ = made(1)
    page.clock.install()
    open_stage(page, given)
    pull(page, "strength", 0.3)
    page.clock.fast_forward(1000)
    assert page.locator(".pmc2-message").inner_text().strip() == ""
    page.clock.fast_forward(5000)
    assert "kernel has sent no other view" in page.locator(".pmc2-message").inner_text()
    assert "those of strength 1, rate 0, neural" in page.locator(".pmc2-message").inner_text()
    packed = encoded(pack_seen(7, Settings("digits", (0,), 0.3, 0.0, "neural", 89, "p"), seen(1, 0.2), {}, ""))
    page.evaluate("(seen) => model.arrive('seen', seen)", packed)
    page.clock.fast_forward(100)
    assert page.locator(".pmc2-message").inner_text().strip() == "", "the view is there"


def test_only_a_new_view_is_kept_in_sight(page: Page) -> None:
    """A reopened notebook, and another program's page, stay as they are."""
    given, _ = made(1)
    page.clock.install()
    for program, age, moved in (("jp-Notebook", 3600, False), ("vscode", 0, False), ("jp-Notebook", 0, True)):
        given["options"]["began"] = time.time() - age
        open_stage(page, given)
        page.evaluate("(name) => { document.body.className = name; }", program)
        page.evaluate("() => document.body.prepend(Object.assign(document.createElement('div'), {style: 'height: 5000px'}))")
        page.clock.fast_forward(1000)
        assert page.evaluate("scrollY > 1000") is moved, (program, age)


def test_a_closed_view_listens_no_longer_and_text_is_no_markup(empty: Page) -> None:
    given, _ = made(1)
    given["message"] = {"text": "<img src=x onerror=alert(1)>: no picture", "bad": True, "busy": False}
    open_stage(empty, given)
    assert "<img" in empty.locator(".pmc2-message").inner_text()
    assert empty.locator(".pmc2-message img").count() == 0
    empty.evaluate("close_stage()")
    assert empty.evaluate("model.listening()") == 0


SIZES = {1440: 1000, 1024: 768, 360: 780}


@pytest.mark.parametrize(
    ("n", "theme"),
    [(1, "light"), (16, "dark"), *(pytest.param(*each, marks=pytest.mark.system) for each in ((1, "dark"), (16, "light")))],
)
def test_it_is_accessible_and_nothing_is_cut_off(empty: Page, theme: str, n: int, tmp_path: Path) -> None:
    given, _ = made(n, guess=True)
    pin = {"text": "digits, 0: strength 1, neural", "system": "p", "figures": "SSIM 0.1", "answer": "cat, 90 %; is cat"}
    given["pins"] = encoded([{**pin, "height": SIDE, "width": SIDE, "images": [bytes(3 * SIDE * SIDE)] * 3}])
    open_stage(empty, given, theme)
    empty.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    for width, height in SIZES.items():
        empty.set_viewport_size({"width": width, "height": height})
        empty.evaluate(FRAMES)
        accessible(empty, ".pmc2-explore")
        cut = empty.evaluate(
            "() => [...document.querySelectorAll('.pmc2-explore *')].filter((each) => each.checkVisibility() && "
            "!each.closest('.pmc2-pane, .pmc2-sheet-scroll, svg') && each.getBoundingClientRect().right > innerWidth + 1)"
            ".map((each) => each.className)"
        )
        assert not cut, f"cut off at {width} pixels"
        screenshot(empty, tmp_path, f"stage-{theme}-{width}-{n}")
    unnamed = empty.evaluate(
        "() => [...document.querySelectorAll('.pmc2-explore :is(input, select, button)')].filter((each) => !each.hidden && "
        "!(each.labels?.length || each.ariaLabel || each.textContent.trim())).map((each) => each.outerHTML)"
    )
    assert unnamed == []


# Of its themes Dark Modern and Light Modern.
VSCODE = {
    "vscode-dark": {"editor-background": "#1f1f1f", "editor-foreground": "#cccccc", "descriptionForeground": "#9d9d9d"},
    "vscode-light": {"editor-background": "#ffffff", "editor-foreground": "#3b3b3b", "descriptionForeground": "#3b3b3b"},
}
VSCODE["vscode-dark"] |= {"input-background": "#313131", "textLink-foreground": "#4daafc"}
VSCODE["vscode-light"] |= {"input-background": "#ffffff", "textLink-foreground": "#005fb8"}


@pytest.mark.parametrize("theme", ["vscode-dark", pytest.param("vscode-light", marks=pytest.mark.system)])
def test_it_has_the_colours_of_vs_code(empty: Page, theme: str) -> None:
    given, _ = made(1)
    open_stage(empty, given)
    empty.add_style_tag(
        content=":root { --jp-layout-color0: white; --jp-ui-font-color1: black; --jp-ui-font-color2: #555 } "
        ".cell-output-ipywidget-background { background: white !important }"
    )
    grounds = """([theme, colours]) => {
        const view = document.querySelector(".pmc2-explore"), output = view.parentElement;
        output.className = "cell-output-ipywidget-background";
        document.body.dataset.vscodeThemeKind = theme;
        for (const [name, value] of Object.entries(colours)) document.documentElement.style.setProperty(`--vscode-${name}`, value);
        document.querySelector(".pmc2-toggle").click();
        return [output, view].map((each) => getComputedStyle(each).backgroundColor);
    }"""
    red, green, blue = bytes.fromhex(VSCODE[theme]["editor-background"][1:])
    assert empty.evaluate(grounds, [theme, VSCODE[theme]]) == ["rgba(0, 0, 0, 0)", f"rgb({red}, {green}, {blue})"]
    accessible(empty, ".pmc2-explore")
