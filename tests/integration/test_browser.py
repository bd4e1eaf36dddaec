"""The interactive notebook as a person uses it: JupyterLab in a real browser, the slider moved by keyboard."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import nbformat
import pytest

from workbench.deployment.launch import Deployed
from workbench.deployment.plan import Deployment

from conftest import AUXILIARY, TARGET  # isort: skip

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
MORE = {"explore": "", "deploy": "\nrequests, keep = 10, True"}
TOKEN = "a-token-of-this-test"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
)
# The picture on the screen, byte for byte: its address is a blob of the page's own.
BYTES = """async (image) => {
    const buffer = await (await fetch(image.src)).arrayBuffer();
    return Array.from(new Uint8Array(buffer)).map((byte) => byte.toString(16).padStart(2, "0")).join("");
}"""
Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """Look again and again until there is something; fail with `what` where there is nothing in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what} within {seconds:.0f} s")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's path; without one the tests are skipped, or fail where `$WORKBENCH_REQUIRE_BROWSER` is set."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "no chromium on this machine: apt-get install chromium"
        if os.environ.get("WORKBENCH_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for JupyterLab with notebooks whose parameters name the tiny pair."""
    lab = tmp_path / "lab"
    lab.mkdir()
    for name, more in MORE.items():
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source += f'\ntarget, auxiliary, limit = "{TARGET}", "{AUXILIARY}", 32{more}'
        nbformat.write(notebook, lab / f"{name}.ipynb")
    return lab


@pytest.fixture
def lab(folder: Path, tiny_data: Path, tmp_path: Path, chromium: str) -> Iterator[str]:
    """The address of a JupyterLab of the test's own, which asks nothing of any other machine."""
    places = {name: str(tmp_path / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    places |= {name: str(tmp_path / name.lower()) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    quiet = tmp_path / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    log = (tmp_path / "lab.log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"),
            f"--IdentityProvider.token={TOKEN}",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.extension_manager=readonly",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ],
        cwd=folder,
        env={**os.environ, **places, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        stdout=log,
        stderr=log,
    )

    def answering() -> str | None:
        assert process.poll() is None, (tmp_path / "lab.log").read_text()
        for path in (tmp_path / "jupyter_runtime_dir").glob("jpserver-*.json"):
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
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    """An empty page of a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 1280, "height": 1000})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def screenshot(page: Page, folder: Path, name: str) -> None:
    """Keep what is on the screen, and a copy in `$WORKBENCH_SCREENSHOTS` where that is set."""
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    if wanted := os.environ.get("WORKBENCH_SCREENSHOTS"):
        Path(wanted).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, wanted)


def saved(page: Page, path: Path) -> list[Any] | None:
    """Save the notebook and return its code cells once the last was executed."""
    page.keyboard.press("Control+s")
    text = path.read_text(encoding="utf-8")
    if not text:
        return None  # it is being written
    cells = [cell for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "code"]
    return cells if cells[-1].execution_count is not None else None


def test_in_the_browser_the_pictures_follow_the_slider(lab: str, page: Page, folder: Path, tmp_path: Path) -> None:
    page.goto(f"{lab}lab/tree/explore.ipynb?token={TOKEN}")
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    pictures = page.locator("img.pmc2-picture")
    pictures.nth(3).wait_for()
    pictures.first.scroll_into_view_if_needed()
    page.wait_for_function(
        "() => [...document.querySelectorAll('img.pmc2-picture')].every((image) => image.naturalWidth === 208)"
    )
    assert pictures.count() == 4

    def shown() -> list[str]:
        return [str(pictures.nth(i).evaluate(BYTES)) for i in range(4)]

    original, protected, *_ = at_first = shown()
    assert original != protected
    screenshot(page, tmp_path, "explore-strength-1")

    handle = page.locator(".widget-slider", has_text="strength").get_by_role("slider")
    handle.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    after = wait_for(lambda: now if (now := shown())[1] != protected else None, 30, "the protected picture did not change")
    assert after[0] == original
    assert after[3] != at_first[3], "the residual"

    page.keyboard.press("Home")
    wait_for(lambda: shown()[1] == original, 30, "at strength 0 the protected picture did not become the original")
    page.locator(".pmc2", has_text="SSIM 1.000").first.wait_for()
    screenshot(page, tmp_path, "explore-strength-0")

    cells = wait_for(lambda: saved(page, folder / "explore.ipynb"), 60, "the last cell was not executed")
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.output_type == "stream"], "nothing was trained, nothing was warned of"
    assert [key for output in outputs for key in output.get("data", {}) if key.startswith("image/")] == [], "no stray figure"
    assert sum("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs) == 1


@pytest.fixture
def stopped(tiny_data: Path) -> Iterator[None]:
    """Stops at the end what a notebook has launched and kept."""
    yield
    for plan in (tiny_data / "runs" / "interactive").glob("local-*.toml"):
        with Deployed(Deployment.read(plan)) as made:
            made.stop(purge=True)
        plan.unlink()


def test_in_the_browser_both_stages_are_launched_watched_and_stopped_by_a_button(
    lab: str, page: Page, folder: Path, tmp_path: Path, stopped: None
) -> None:
    page.goto(f"{lab}lab/tree/deploy.ipynb?token={TOKEN}")
    page.locator("#jp-main-statusbar").get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    panel = page.locator(".pmc2-deploy table")
    panel.wait_for()
    panel.scroll_into_view_if_needed()

    def states() -> list[str]:
        return panel.locator("td.state").all_inner_texts()

    wait_for(lambda: states() == ["ready", "ready"], 120, "the stages were not ready")
    page.get_by_role("tab", name="steps").wait_for()
    screenshot(page, tmp_path, "deploy-ready")
    wait_for(lambda: saved(page, folder / "deploy.ipynb"), 120, "the last cell was not executed")
    page.get_by_role("tab", name="log of the edge").click()
    page.locator(".pmc2-deploy pre").get_by_text('"service": "pmc2-edge"').first.wait_for()
    panel.scroll_into_view_if_needed()
    screenshot(page, tmp_path, "deploy-log")
    page.locator("button.jupyter-button", has_text="Stop").click()
    wait_for(lambda: states() == ["absent", "absent"], 60, "the stages were not stopped")
    assert page.locator("button.jupyter-button", has_text="Launch").is_enabled()
    cells = wait_for(lambda: saved(page, folder / "deploy.ipynb"), 60, "the last cell was not executed")
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
