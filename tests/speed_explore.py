"""How fast `explore` follows a hand, measured in a real browser: from the event to the painted pixels.

    python tests/speed_explore.py --out data/results/explore-speed.json

JupyterLab, the shipped pair, the pristine samples. A step is a key on the strength's slider, the next one once its view is
painted; a drag moves the mouse over the slider and back, at 60 events a second where the page takes so many (each waits until
the page has taken the last one). A view counts as painted two animation frames after its
figures and its pictures are there. The first paint is counted from the click on "Run All Cells" of an idle kernel.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browsers

from workbench.data import load
from workbench.evaluation import origin
from workbench.metrics import percentile
from workbench.storage import write_json
from workbench.weights import load_pair

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Notes when the slider took which value, and when a view with it was painted; both in the page's own milliseconds.
WATCH = """() => {
    const root = document.querySelector('.pmc2-explore'), readout = root.querySelector('.pmc2-strength .widget-readout');
    const seen = window.seen = {asked: [], painted: []};
    const note = (event) => { const at = event.timeStamp; queueMicrotask(() => setTimeout(() =>
        seen.asked.push([Number(readout.textContent), at]), 0)) };
    for (const kind of ['keydown', 'pointermove', 'pointerdown']) document.addEventListener(kind, note, true);
    let last = '';
    const look = () => {
        const numbers = root.querySelector('.pmc2-numbers');
        const images = [...root.querySelectorAll('.pmc2-card img')];
        if (numbers && numbers.dataset.view !== last && images.every((image) => image.complete)) {
            last = numbers.dataset.view;
            const strength = Number(numbers.dataset.strength);
            requestAnimationFrame(() => requestAnimationFrame(() => seen.painted.push([strength, performance.now()])));
        }
    };
    root.addEventListener('load', look, true);
    new MutationObserver(look).observe(root, {subtree: true, childList: true, attributes: true});
}"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--steps", type=int, default=300, help="single steps (default: 300)")
    parser.add_argument("--drags", type=int, default=10, help="drags over the slider and back (default: 10)")
    parser.add_argument("--starts", type=int, default=5, help="kernels of which the first paint is timed (default: 5)")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("this needs a browser: apt-get install chromium")
    place = Path(tempfile.mkdtemp())
    folder = place / "lab"
    folder.mkdir()
    browsers.notebook("explore", folder)
    first: list[dict[str, float]] = []
    with browsers.jupyterlab(folder, place) as lab, browsers.launched(chromium) as browser:
        for start in range(given.starts):
            page = browsers.watched(browser.new_context(viewport={"width": 1440, "height": 1000}).new_page(), [])
            browsers.open_notebook(page, lab, "explore.ipynb")
            first.append(first_paint(page))
            print(f"first paint {start + 1}: " + ", ".join(f"{key} {value:.2f} s" for key, value in first[-1].items()))
            if start < given.starts - 1:
                shut_down(page, lab)
                page.context.close()
        page.wait_for_function("() => document.querySelector('.pmc2-curves img')?.naturalWidth > 100")
        browsers.wait_for(lambda: browsers.saved(page, folder / "explore.ipynb"), 120, "the last cell was not executed")
        page.locator(".pmc2-strength").scroll_into_view_if_needed()
        page.evaluate(WATCH)
        steps = single_steps(page, given.steps)
        drags, rates = dragged(page, given.drags)
    pair, samples = load_pair("cifar10", "resnet18", "vgg13_bn"), load("samples")
    figures = {
        "steps": quantiles(steps),
        "drags": {**quantiles(drags), **rates},
        "first_paint_s": {key: spread([each[key] for each in first]) for key in first[0]},
    }
    print(json.dumps(figures, indent=1))
    note = "milliseconds from the event to painted pixels, JupyterLab in headless Chromium; p50 and p95 with 95 % intervals"
    write_json(given.out, {"benchmark": "explore", "note": note, **figures, **origin(pair, samples)})


def first_paint(page: Page) -> dict[str, float]:
    """Run all cells; return the seconds until the controls, the original, and the whole view were painted."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    item = page.get_by_role("menuitem", name="Run All Cells", exact=True)
    item.wait_for()
    conditions = {
        "controls": "document.querySelector('.pmc2-strength [role=slider]')",
        "original": "document.querySelector('.pmc2-original img')?.naturalWidth === 32",
        "view": "document.querySelector('.pmc2-numbers')",
    }
    start = time.perf_counter()
    item.click()
    found = {}
    for key, condition in conditions.items():
        page.wait_for_function(f"() => Boolean({condition})", polling="raf")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found[key] = time.perf_counter() - start
    return found


def shut_down(page: Page, lab: str) -> None:
    """End the notebook's kernel."""
    for session in page.request.get(f"{lab}api/sessions?token={browsers.TOKEN}").json():
        page.request.delete(f"{lab}api/sessions/{session['id']}?token={browsers.TOKEN}", headers=crossing(page))


def crossing(page: Page) -> dict[str, str]:
    """Return what JupyterLab wants to see of a page that changes something."""
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}
    return {"X-XSRFToken": cookies.get("_xsrf", "")}


def single_steps(page: Page, count: int) -> list[float]:
    """Return the milliseconds from a key to its painted view, one at a time."""
    slider = page.locator(".pmc2-strength [role=slider]")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_timeout(500)
    page.evaluate("() => { seen.asked.length = seen.painted.length = 0 }")
    for step in range(count):
        page.keyboard.press("ArrowLeft" if step // 50 % 2 == 0 else "ArrowRight")
        page.wait_for_function(f"() => seen.painted.length > {step}", polling="raf")
    asked, painted = page.evaluate("() => [seen.asked, seen.painted]")
    if [value for value, _ in asked] != [value for value, _ in painted]:
        sys.exit(f"a step was not painted as it was asked for: {asked[:5]}…, {painted[:5]}…")
    return [done - at for (_, at), (_, done) in zip(asked, painted, strict=True)]


def dragged(page: Page, count: int) -> tuple[list[float], dict[str, float]]:
    """Return the age of each painted view, from the last event that asked for its strength, and events and views a second."""
    box = page.locator(".pmc2-strength .noUi-base, .pmc2-strength .noUi-target").first.bounding_box()
    handle = page.locator(".pmc2-strength [role=slider]").bounding_box()
    assert box is not None
    assert handle is not None
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.evaluate("() => { seen.asked.length = seen.painted.length = 0 }")
    page.mouse.move(x, y)
    page.mouse.down()
    start = time.perf_counter()
    events = 0
    for _ in range(count):
        for place in [*range(60), *range(60, 0, -1)]:
            events += 1
            time.sleep(max(0.0, start + events / 60 - time.perf_counter()))
            page.mouse.move(box["x"] + box["width"] * (1 - place / 60), y)
    page.mouse.up()
    passed = time.perf_counter() - start
    page.wait_for_timeout(500)
    asked, painted = page.evaluate("() => [seen.asked, seen.painted]")
    ages = []
    for value, at in painted:
        times = [when for each, when in asked if abs(each - value) < 1e-6 and when <= at]
        if times:
            ages.append(at - times[-1])
    return ages, {"events_per_second": round(events / passed, 1), "views_per_second": round(len(painted) / passed, 1)}


def quantiles(values: list[float]) -> dict[str, Any]:
    """Return p50 and p95 of milliseconds with their intervals."""
    return {name: percentile(values, percent).as_dict() for name, percent in (("p50", 50), ("p95", 95))}


def spread(values: list[float]) -> dict[str, float]:
    """Return the middle and the ends of a few values."""
    return {
        "n": len(values),
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
