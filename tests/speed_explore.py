"""The latency of `explore` in a real browser, from the input event to the painted pixels.

    python tests/speed_explore.py --out data/results/explore-speed.json

JupyterLab with the shipped pair and the pristine samples. A step is a key on the strength's slider. The next one follows after
its view was painted. A drag moves the mouse over the slider and back, with at most 60 events a second (each waits until the
page has processed the last one). A view is painted when the browser has presented the last of its pictures, by the browser's
own clock (Element Timing). An event counts from its own time stamp. Keys and mouse are sent without Playwright, because its
observation of each message halves the number of views. The first paint is counted from the click on "Run All Cells": once as
soon as the kernel is idle, and once after a pause for reading.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browsers
import websocket
from playwright.sync_api import sync_playwright

from workbench.data import load
from workbench.evaluation import origin
from workbench.metrics import percentile
from workbench.storage import write_json
from workbench.weights import load_pair

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Records the event that requested each value, and the time at which its view was presented, in the page's milliseconds.
WATCH = """() => {
    const root = document.querySelector('.pmc2-explore'), readout = root.querySelector('.pmc2-strength .widget-readout');
    const seen = window.seen = {asked: [], painted: []};
    let at = 0;
    for (const kind of ['keydown', 'pointermove', 'pointerdown'])
        document.addEventListener(kind, (event) => { at = event.timeStamp }, true);
    new MutationObserver(() => seen.asked.push([Number(readout.textContent), at]))
        .observe(readout, {subtree: true, childList: true, characterData: true});
    const left = new Map();
    const look = () => {
        const numbers = root.querySelector('.pmc2-numbers');
        if (!numbers || left.has(numbers.dataset.view)) return;
        const images = root.querySelectorAll('.pmc2-card img');
        left.set(numbers.dataset.view, images.length);
        for (const image of images) image.setAttribute('elementtiming', numbers.dataset.view + ' ' + numbers.dataset.strength);
    };
    new MutationObserver(look).observe(root, {subtree: true, childList: true});
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) {
            const [view, strength] = entry.identifier.split(' ');
            left.set(view, left.get(view) - 1);
            if (left.get(view) === 0) seen.painted.push([Number(strength), entry.renderTime]);
        }
    }).observe({type: 'element'});
}"""
READING_S = 3.0  # between the kernel's readiness and the click
PLACES = """() => ['.noUi-base', '[role=slider]'].map((each) => {
    const box = document.querySelector('.pmc2-strength ' + each).getBoundingClientRect();
    return [box.left, box.width, box.top + box.height / 2];
})"""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument("--steps", type=int, default=300, help="single steps (default: 300)")
    parser.add_argument(
        "--drags", type=int, default=10, help="drags over the slider and back, of as many pictures (default: 10)"
    )
    parser.add_argument("--starts", type=int, default=5, help="kernels of which each first paint is timed (default: 5)")
    given = parser.parse_args()
    samples = load("samples")
    if not 1 <= given.drags < len(samples.test):
        parser.error(
            f"--drags must be from 1 to {len(samples.test) - 1}, as there are pictures after the first, got {given.drags}"
        )
    if given.starts < 1 or given.steps < 1:
        parser.error(f"--starts and --steps must be 1 or more, got {given.starts} and {given.steps}")
    chromium = shutil.which("chromium") or sys.exit("this needs a browser: apt-get install chromium")
    place = Path(tempfile.mkdtemp())
    folder = place / "lab"
    folder.mkdir()
    browsers.notebook("explore", folder)
    first: dict[float, list[dict[str, float]]] = {0.0: [], READING_S: []}
    with browsers.jupyterlab(folder, place) as lab, running(chromium, place / "profile") as address:
        with sync_playwright() as playwright:
            browser = playwright.chromium.connect_over_cdp(address)
            starts = [*first] * given.starts
            for start, reading in enumerate(starts, 1):
                page = browsers.watched(browser.contexts[0].new_page(), [])
                browsers.open_notebook(page, lab, "explore.ipynb")
                time.sleep(reading)
                first[reading].append(first_paint(page))
                said = ", ".join(f"{key} {value:.2f} s" for key, value in first[reading][-1].items())
                print(f"first paint, clicked after {reading:.0f} s: {said}", flush=True)
                if start < len(starts):
                    shut_down(page, lab)
                    page.close()
            page.wait_for_function("() => document.querySelector('.pmc2-curves img')?.naturalWidth > 100")
            browsers.wait_for(lambda: browsers.saved(page, folder / "explore.ipynb"), 120, "the last cell was not executed")
            page.locator(".pmc2-strength").scroll_into_view_if_needed()
            page.evaluate(WATCH)
            page.locator(".pmc2-strength [role=slider]").focus()
        with Hand(address, lab) as hand:
            steps = single_steps(hand, given.steps)
            drags = dragged(hand, given.drags)
    pair = load_pair("cifar10", "resnet18", "vgg13_bn")
    figures = {
        "steps": quantiles(steps),
        **drags,
        "first_paint_s": {
            f"clicked after {reading:.0f} s": {key: spread([each[key] for each in found]) for key in found[0]}
            for reading, found in first.items()
        },
    }
    print(json.dumps(figures, indent=1))
    note = "milliseconds from the event to presented pixels, JupyterLab in headless Chromium; p50 and p95 with 95 % intervals"
    write_json(given.out, {"benchmark": "explore", "note": note, **figures, **origin(pair, samples)})


def first_paint(page: Page) -> dict[str, float]:
    """Run all cells. Return the seconds until the controls, the original, and the whole view were painted."""
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
    """Return the headers that JupyterLab requires for requests that change something."""
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}
    return {"X-XSRFToken": cookies.get("_xsrf", "")}


@contextlib.contextmanager
def running(chromium: str, profile: Path) -> Iterator[str]:
    """Start a headless browser that survives Playwright, and yield its address."""
    flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1440,1087"]
    process = subprocess.Popen([chromium, *browsers.FLAGS, *flags, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        told = profile / "DevToolsActivePort"
        port = browsers.wait_for(
            lambda: told.is_file() and told.read_text().partition("\n")[0], 30, "the browser did not start"
        )
        yield f"http://127.0.0.1:{port}"
    finally:
        browsers.ended(process)


class Hand:
    """Keys and a mouse for JupyterLab's page in a running browser, over the browser's own protocol."""

    def __init__(self, address: str, lab: str) -> None:
        with urllib.request.urlopen(f"{address}/json", timeout=30) as answer:
            (page,) = [each for each in json.load(answer) if each["type"] == "page" and each["url"].startswith(lab)]
        self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True)
        self._sent = 0

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol, and return its result."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != self._sent:
            pass
        if "result" not in answer:
            sys.exit(f"the browser refused {method}: {answer['error']}")
        return dict(answer["result"])

    def evaluate(self, function: str) -> Any:
        """Return a JavaScript function's result in the page."""
        answer = self.send("Runtime.evaluate", expression=f"({function})()", returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            sys.exit(f"the page failed: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Move, press or release the mouse."""
        self.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"), clickCount=1
        )


def single_steps(hand: Hand, count: int) -> list[float]:
    """Return the milliseconds from a key to its presented view, one at a time."""
    hand.press("End", 35)
    time.sleep(1)
    hand.evaluate("() => { seen.asked.length = seen.painted.length = 0 }")
    for step in range(count):
        hand.press(*(("ArrowLeft", 37) if step // 50 % 2 == 0 else ("ArrowRight", 39)))
        hand.evaluate(
            f"() => new Promise((done) => {{ const look = () => seen.painted.length > {step} ? done() : setTimeout(look, 4); look() }})"
        )
    asked, painted = hand.evaluate("() => [seen.asked, seen.painted]")
    if [value for value, _ in asked] != [value for value, _ in painted]:
        sys.exit(f"the painted steps differ from the requested ones: {asked[:5]}…, {painted[:5]}…")
    return [done - at for (_, at), (_, done) in zip(asked, painted, strict=True)]


def dragged(hand: Hand, count: int) -> dict[str, Any]:
    """Drag over the slider and back, each time for another picture. Return the ages of all views and of the shown ones.

    A view's age counts from the last event that requested its strength. The result also has events and views a second.
    """
    ages: dict[str, list[float]] = {"drags": [], "drags_anew": [], "drags_again": []}
    events, views, passed = 0, 0, 0.0
    for _ in range(count):
        next_picture(hand)
        (left, width, y), (handle, size, _) = hand.evaluate(PLACES)
        hand.mouse("mousePressed", handle + size / 2, y)
        start = time.perf_counter()
        for event, place in enumerate([*range(60), *range(60, -1, -1)], 1):
            time.sleep(max(0.0, start + event / 60 - time.perf_counter()))
            hand.mouse("mouseMoved", left + width * (1 - place / 60), y)
        passed += time.perf_counter() - start
        events += event
        hand.mouse("mouseReleased", left + width, y)
        time.sleep(1)
        asked, painted = hand.evaluate("() => [seen.asked, seen.painted]")
        views += len(painted)
        shown: set[float] = set()
        for value, at in painted:
            times = [when for each, when in asked if abs(each - value) < 1e-6 and when <= at]
            if times:
                ages["drags"].append(at - times[-1])
                ages["drags_again" if value in shown else "drags_anew"].append(at - times[-1])
            shown.add(value)
    rates = {"events_per_second": round(events / passed, 1), "views_per_second": round(views / passed, 1)}
    return {**{key: quantiles(found) for key, found in ages.items()}, "drag_rates": rates}


def next_picture(hand: Hand) -> None:
    """Show the next picture at full strength, and reset the recorded events."""
    index = "document.querySelector('.pmc2-explore .pmc2-numbers').dataset.index"
    before = hand.evaluate(
        f"() => (document.querySelector('.pmc2-index [role=slider]').focus({{preventScroll: true}}), {index})"
    )
    hand.press("ArrowRight", 39)
    hand.evaluate(
        f"() => new Promise((done) => {{ const look = () => {index} !== '{before}' ? done() : setTimeout(look, 4); look() }})"
    )
    time.sleep(1)
    hand.evaluate("() => { seen.asked.length = seen.painted.length = 0 }")


def quantiles(values: list[float]) -> dict[str, Any]:
    """Return p50 and p95 of milliseconds with their intervals."""
    return {name: percentile(values, percent).as_dict() for name, percent in (("p50", 50), ("p95", 95))}


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the least and the greatest of a few values."""
    return {
        "n": len(values),
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
