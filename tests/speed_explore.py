"""How fast `explore` follows a hand, measured in a real browser by the browser's own clock.

    python tests/speed_explore.py --out data/results/explore-speed.json

JupyterLab with the shipped pair. There are three measurements, each with one picture and with a sheet of 64:

- a drag over the strength's slider while the kernel is stopped (SIGSTOP): the page's frames a second, each of another strength,
  at 60 mouse events a second
- single steps: the time from a key's own time stamp until the cloud's view at that strength is on the screen. The page's table
  of views is emptied before each step, so that every view comes from the kernel. The next step follows at once.
- the first paint: the time from the click on "Run All Cells" until the view is painted, with the click as soon as the kernel is
  idle, and with the click after a pause for reading

A frame counts as on the screen when the animation frame after its drawing begins. The sheet's pictures are the pristine
samples, turned and mirrored. Keys and mouse are sent over the browser's own protocol, because Playwright takes time for each
message.
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
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import websocket
from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script
from tests.support import browsers  # isort: skip
from workbench.data import load
from workbench.evaluation import origin
from workbench.metrics import percentile
from workbench.storage import write_json
from workbench.weights import load_pair

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from workbench.data import Dataset

STAGE = "document.querySelector('.pmc2-explore').pmc2"
# Notes each frame in which the stage draws another strength, and when a step's view from the kernel is on the screen.
WATCH = f"""() => {{
    const stage = {STAGE}, seen = window.seen = {{at: 0, wanted: null, frames: [], steps: []}};
    document.addEventListener('keydown', (event) => {{ seen.at = event.timeStamp }}, true);
    let last = null;
    const look = (now) => {{
        if (stage.state.strength !== last) seen.frames.push(now);
        last = stage.state.strength;
        const shown = stage.shown?.meta.strength;
        if (seen.wanted !== null && stage.state.strength === seen.wanted && shown === seen.wanted && !seen.due) seen.due = true;
        else if (seen.due) {{ seen.steps.push(now - seen.at); seen.wanted = null; seen.due = false; }}
        requestAnimationFrame(look);
    }};
    requestAnimationFrame(look);
}}"""
READING_S = 3.0  # between the kernel's readiness and the click
SHEET = 64
PLACE = """() => {
    const box = document.querySelector('.pmc2-strength input[type=range]').getBoundingClientRect();
    return [box.left + 8, box.width - 16, box.top + box.height / 2];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the figures go, as JSON")
    parser.add_argument(
        "--steps", type=int, default=200, help="single steps of one picture, half as many of a sheet (default: 200)"
    )
    parser.add_argument("--drags", type=int, default=5, help="drags over the slider and back (default: 5)")
    parser.add_argument("--starts", type=int, default=5, help="kernels of which each first paint is timed (default: 5)")
    given = parser.parse_args()
    if min(given.drags, given.starts, given.steps) < 1:
        parser.error(f"--drags, --starts and --steps must be 1 or more, got {given.drags}, {given.starts} and {given.steps}")
    samples = load("samples")
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
            ready(page)
            browsers.wait_for(lambda: browsers.saved(page, folder / "explore.ipynb"), 300, "the last cell was not executed")
            kernel = kernel_of(page, lab)
            page.evaluate(WATCH)
            page.locator(".pmc2-strength input[type=range]").scroll_into_view_if_needed()
        figures: dict[str, Any] = {}
        with Hand(address, lab) as hand:
            for name, n in (("picture", 1), ("sheet", SHEET)):
                if n > 1:
                    show_sheet(hand, pictures(place, samples))
                figures[name] = {"n": n, "cloud_ms": quantiles(steps(hand, given.steps if n == 1 else given.steps // 2))}
                figures[name]["stopped"] = dragged(hand, given.drags, kernel)
    pair = load_pair("cifar10", "resnet18", "vgg13_bn")
    figures["first_paint_s"] = {
        f"clicked after {reading:.0f} s": {key: spread([each[key] for each in found]) for key in found[0]}
        for reading, found in first.items()
    }
    print(json.dumps(figures, indent=1))
    note = "JupyterLab in headless Chromium; milliseconds from the event to the frame, p50 and p95 with 95 % intervals"
    write_json(given.out, {"benchmark": "explore", "note": note, **figures, **origin(pair, samples)})


def ready(page: Page) -> None:
    page.wait_for_function("() => document.querySelector('.pmc2-numbers')?.dataset.view", timeout=120_000)
    page.wait_for_function("() => document.querySelectorAll('.pmc2-chart').length >= 3", timeout=300_000)


def kernel_of(page: Page, lab: str) -> psutil.Process:
    (session,) = page.request.get(f"{lab}api/sessions?token={browsers.TOKEN}").json()
    (process,) = [
        each for each in psutil.process_iter(["cmdline"]) if session["kernel"]["id"] in " ".join(each.info["cmdline"] or [])
    ]
    return process


def pictures(place: Path, samples: Dataset) -> Path:
    folder = place / "pictures"
    folder.mkdir()
    images = samples.test.images.permute(0, 2, 3, 1).numpy()
    for k in range(SHEET):
        image = np.rot90(images[k % len(images)], k // len(images))
        Image.fromarray(np.ascontiguousarray(image[:, ::-1] if k % 2 else image)).save(folder / f"{k:02d}.png")
    return folder


def first_paint(page: Page) -> dict[str, float]:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    item = page.get_by_role("menuitem", name="Run All Cells", exact=True)
    item.wait_for()
    conditions = {
        "controls": "document.querySelector('.pmc2-strength input')",
        "original": "document.querySelector('.pmc2-original .pmc2-over')?.width === 32",
        "view": "document.querySelector('.pmc2-numbers')?.dataset.view",
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
    for session in page.request.get(f"{lab}api/sessions?token={browsers.TOKEN}").json():
        page.request.delete(f"{lab}api/sessions/{session['id']}?token={browsers.TOKEN}", headers=crossing(page))


def crossing(page: Page) -> dict[str, str]:
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}
    return {"X-XSRFToken": cookies.get("_xsrf", "")}


@contextlib.contextmanager
def running(chromium: str, profile: Path) -> Iterator[str]:
    flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1440,1087"]
    process = subprocess.Popen([chromium, *browsers.FLAGS, *flags, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        port_file = profile / "DevToolsActivePort"
        port = browsers.wait_for(
            lambda: port_file.is_file() and port_file.read_text().partition("\n")[0], 30, "the browser did not start"
        )
        yield f"http://127.0.0.1:{port}"
    finally:
        browsers.ended(process)


class Hand:
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
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != self._sent:
            pass
        if "result" not in answer:
            sys.exit(f"the browser refused {method}: {answer['error']}")
        return dict(answer["result"])

    def evaluate(self, function: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=f"({function})()", returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            sys.exit(f"the page failed: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"), clickCount=1
        )


def show_sheet(hand: Hand, folder: Path) -> None:
    hand.evaluate(f"() => {{ {STAGE}.send({{do: 'folder', path: {json.dumps(str(folder))}}}) }}")
    until(hand, f"{STAGE}.options.count === {SHEET}")
    hand.evaluate(f"() => {{ {STAGE}.set('sheet', {SHEET}) }}")
    until(hand, f"{STAGE}.shown?.meta.which.length === {SHEET}")
    hand.evaluate("() => { document.querySelector('.pmc2-strength input[type=range]').scrollIntoView({block: 'start'}) }")


def until(hand: Hand, condition: str) -> None:
    browsers.wait_for(lambda: hand.evaluate(f"() => Boolean({condition})"), 60, f"not true in the page: {condition}")


def steps(hand: Hand, count: int) -> list[float]:
    hand.evaluate("() => { document.querySelector('.pmc2-strength input[type=range]').focus({preventScroll: true}) }")
    hand.press("End", 35)
    time.sleep(1)
    hand.evaluate("() => { seen.steps.length = 0 }")
    for step in range(count):
        key, code, sign = ("ArrowLeft", 37, -1) if step // 80 % 2 == 0 else ("ArrowRight", 39, 1)
        hand.evaluate(
            f"() => {{ const stage = {STAGE}; stage.table.clear(); stage.held = 0; stage.shown = null; "
            f"seen.wanted = Math.round(100 * (stage.state.strength + {sign} * 0.01)) / 100; }}"
        )
        hand.press(key, code)
        hand.evaluate(
            f"() => new Promise((done) => {{ const look = () => seen.steps.length > {step} ? done() : setTimeout(look, 4); look() }})"
        )
    return [float(each) for each in hand.evaluate("() => seen.steps")]


def dragged(hand: Hand, count: int, kernel: psutil.Process) -> dict[str, Any]:
    kernel.suspend()
    frames, passed, gaps = 0, 0.0, list[float]()
    try:
        for _ in range(count):
            left, width, y = hand.evaluate(PLACE)
            hand.mouse("mousePressed", left + width, y)
            hand.evaluate("() => { seen.frames.length = 0 }")
            start = time.perf_counter()
            for event, place in enumerate([*range(60), *range(60, -1, -1)], 1):
                time.sleep(max(0.0, start + event / 60 - time.perf_counter()))
                hand.mouse("mouseMoved", left + width * (1 - place / 60), y)
            hand.mouse("mouseReleased", left + width, y)
            times = hand.evaluate("() => seen.frames")
            frames += len(times) - 1
            passed += (times[-1] - times[0]) / 1000
            gaps += [later - earlier for earlier, later in pairwise(times)]
    finally:
        kernel.resume()
    return {"frames_per_second": round(frames / passed, 1), "frame_gap_ms": quantiles(gaps)}


def quantiles(values: list[float]) -> dict[str, Any]:
    return {name: percentile(values, percent).as_dict() for name, percent in (("p50", 50), ("p95", 95))}


def spread(values: list[float]) -> dict[str, float]:
    spread = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {"n": len(values)} | {key: round(value, 2) for key, value in spread.items()}


if __name__ == "__main__":
    main()
