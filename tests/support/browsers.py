"""A real browser, and JupyterLab in it: start them, and watch for errors and requests to other hosts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nbformat
import pytest

from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
TOKEN = "a-token-of-this-test"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
)
# The bytes of the displayed picture: its URL is a blob of the page.
BYTES = """async (image) => {
    const buffer = await (await fetch(image.src)).arrayBuffer();
    return Array.from(new Uint8Array(buffer)).map((byte) => byte.toString(16).padStart(2, "0")).join("");
}"""
wait_for = functools.partial(until, pause=0.1)  # each look takes a browser some milliseconds


def chromium_path() -> str:
    """Return the browser's path. Without a browser the test is skipped, or fails if `$WORKBENCH_REQUIRE_BROWSER` is set."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "no chromium on this machine: apt-get install chromium"
        if os.environ.get("WORKBENCH_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@contextlib.contextmanager
def launched(chromium: str, *flags: str) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Parked:
    """A browser for many tests.

    Playwright's event loop is only set in tests that use it, because others run their own loops.
    """

    browser: Browser
    loop: asyncio.AbstractEventLoop

    @classmethod
    @contextlib.contextmanager
    def launched(cls, chromium: str) -> Iterator[Parked]:
        with launched(chromium) as browser:
            loop = asyncio.get_running_loop()  # Playwright leaves its loop set in this thread
            asyncio._set_running_loop(None)
            try:
                yield cls(browser, loop)
            finally:
                asyncio._set_running_loop(loop)

    @contextlib.contextmanager
    def used(self) -> Iterator[Browser]:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self.loop)
        try:
            yield self.browser
        finally:
            asyncio._set_running_loop(before)


def watched(page: Page, found: list[str]) -> Page:
    def asked(request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in ("127.0.0.1", "localhost"):
            found.append(f"request to {address.hostname}")

    page.on("console", lambda message: found.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("request", asked)
    page.set_default_timeout(60_000)
    return page


@dataclass(frozen=True)
class Lab:
    """A JupyterLab for many tests: its address, its folder, and the folder of its settings."""

    url: str
    folder: Path
    settings: Path

    def clear(self) -> None:
        """End all kernels, and restore the initial settings."""
        headers = {"Authorization": f"token {TOKEN}"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}api/sessions", headers=headers), timeout=20) as answer:
            sessions = json.load(answer)
        for session in sessions:
            address = f"{self.url}api/sessions/{session['id']}"
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers, method="DELETE"), timeout=60):
                pass
        for path in self.settings.rglob("themes.jupyterlab-settings"):
            path.unlink()


@contextlib.contextmanager
def jupyterlab(folder: Path, place: Path, environment: dict[str, str] | None = None) -> Iterator[str]:
    names = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
    )
    places = {name: str(place / name.lower()) for name in names}
    quiet = Path(places["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    log = (place / "lab.log").open("wb")
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"),
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    variables = {**os.environ, **places, **(environment or {}), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    process = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)

    def answering() -> str | None:
        assert process.poll() is None, (place / "lab.log").read_text()
        for path in Path(places["JUPYTER_RUNTIME_DIR"]).glob("jpserver-*.json"):
            try:
                url = str(json.loads(path.read_text())["url"])
                request = urllib.request.Request(f"{url}api/status", headers={"Authorization": f"token {TOKEN}"})
                with urllib.request.urlopen(request, timeout=5):
                    return url
            except (OSError, ValueError):
                continue
        return None

    try:
        yield wait_for(answering, 60, "JupyterLab did not answer")
    finally:
        ended(process)
        log.close()


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def notebook(name: str, folder: Path, more: str = "", kept: str = "") -> Path:
    read = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in read.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += f"\n{more}"
    path = folder / f"{kept or name}.ipynb"
    nbformat.write(read, path)
    return path


def open_notebook(page: Page, lab: str, name: str, mode: str = "lab") -> None:
    page.goto(f"{lab}{mode}/workspaces/{uuid.uuid4().hex}/tree/{name}?token={TOKEN}")
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for()


def run_all(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def saved(page: Page, path: Path) -> Sequence[Any] | None:
    """Save the notebook, and return its code cells once the last was executed, else None."""
    page.keyboard.press("Control+s")
    try:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    except nbformat.reader.NotJSONError:
        return None  # the file is being written
    return cells if cells[-1].execution_count is not None else None


def accessible(page: Page, part: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, part).response["violations"]
    violations = [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]]) for each in found]
    assert not [each for each in violations if each[1] in ("serious", "critical")], violations


def screenshot(page: Page, folder: Path, name: str) -> None:
    """Save a screenshot, and copy it to `$WORKBENCH_SCREENSHOTS` if that is set."""
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    if wanted := os.environ.get("WORKBENCH_SCREENSHOTS"):
        Path(wanted).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, wanted)
