"""A notebook's view as a page: Voilà in a separate process, viewed by a real browser."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import psutil
import pytest

from tests.support.browsers import ended, wait_for
from tests.support.pair import AUXILIARY, TARGET
from tests.support.sshd import missing
from workbench.errors import RunError, UsageError
from workbench.panels.app import main, view_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SHOWN = "() => Boolean(document.querySelector('.pmc2-numbers')?.dataset.view)"
CLOUD = "[...document.querySelector('.pmc2-cloud .pmc2-over').getContext('2d').getImageData(0, 0, 32, 32).data].join()"


# --- what is run -----------------------------------------------------------------------------------------------------------


def test_a_view_is_the_notebooks_code_up_to_it() -> None:
    notebook = nbformat.read(NOTEBOOKS / "explore.ipynb", as_version=4)
    before = nbformat.writes(notebook)
    view = view_of(notebook, {"dataset": "digits", "strength": 0.5, "folder": "a 'b'"})
    nbformat.validate(view)
    assert all(cell.cell_type == "code" for cell in view.cells)
    assert view.cells[-1].source.endswith("explorer.widget")
    assert len([cell for cell in view.cells if ".widget" in cell.source]) == 1
    assert view.cells[1].source == "dataset = 'digits'\nstrength = 0.5\nfolder = \"a 'b'\""
    assert nbformat.writes(notebook) == before, "the notebook itself stays as it is"


def test_a_parameter_unknown_to_the_notebook_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = nbformat.read(NOTEBOOKS / "explore.ipynb", as_version=4)
    with pytest.raises(UsageError, match="unknown parameter 'datset': did you mean 'dataset'"):
        view_of(notebook, {"datset": "digits"})
    with pytest.raises(RunError, match="shows no view"):
        view_of(nbformat.read(NOTEBOOKS / "bandwidth.ipynb", as_version=4), {})


@pytest.mark.skipif(importlib.util.find_spec("voila") is None, reason="no Voilà here: pip install -e '.[app]' in the checkout")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explroe"], "no notebook 'explroe': name one of "),
        (["-p", "datset", "digits"], "unknown parameter 'datset'"),
        (["-p", "dataset", "[a"], "-p dataset '[a' is no YAML value"),
        (["broken.ipynb"], "broken.ipynb cannot be read as a notebook"),
    ],
)
def test_a_wrong_call_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.ipynb").write_text('{"cells":')
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"app: {words}")
    assert said.count("\n") == 1


def test_without_voila_the_way_out_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "voila.app", None)
    assert main(["--no-browser"]) == 1
    assert capsys.readouterr().err == "app: the page needs Voilà, which is not here: pip install -e '.[app]' in the checkout\n"


# --- the page --------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def app(tiny_root: Path, chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    if importlib.util.find_spec("voila") is None:
        missing("WORKBENCH_REQUIRE_BROWSER", "no Voilà here: pip install -e '.[app]' in the checkout")
    folder = tmp_path_factory.mktemp("app")
    log = folder / "said"
    given = {"dataset": "digits", "target": TARGET, "auxiliary": AUXILIARY, "limit": "32"}
    options = [part for name, value in given.items() for part in ("-p", name, value)]
    places = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    environment = {**os.environ, **places, "WORKBENCH_DATA": str(tiny_root), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "workbench.panels.app", "--no-browser", "--port", str(free_port()), *options]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:

        def address() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text(errors="replace")
            return re.search(r"http://\S+token=\w+", log.read_text(errors="replace"))

        yield wait_for(address, 90, "no address").group(), log
    finally:
        ended(process)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.system
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_shows_the_view_alone_and_asks_no_other_host(app: tuple[str, Path], page: Page, theme: str) -> None:
    url, log = app
    wrong: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}&theme={theme}")
    page.wait_for_selector(".pmc2-explore")
    page.wait_for_function(SHOWN)
    if wanted := os.environ.get("WORKBENCH_SCREENSHOTS"):
        page.screenshot(path=str(Path(wanted) / f"app-{theme}.png"))
    text = page.inner_text("body")
    assert "import" not in text, "no code"
    assert "Run all cells" not in text, "and no words about it"
    assert page.locator("figure:not(.pmc2-card)").count() == 0, "nothing of what the notebook keeps"
    here = url.partition("?")[0]
    elsewhere = [each for each in asked if not each.startswith((here, here.replace("http", "ws"), "data:", "blob:"))]
    assert elsewhere == []
    assert wrong == []
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (theme == "light")
    assert not (NOTEBOOKS / "explore.json").exists(), "what it keeps goes where JupyterLab's goes"
    assert "Traceback" not in log.read_text(errors="replace")


@pytest.mark.system
def test_the_slider_moves_the_picture_in_the_page(app: tuple[str, Path], page: Page) -> None:
    page.goto(app[0])
    page.wait_for_function(SHOWN)
    page.locator(".pmc2-codec select").select_option("png")
    page.wait_for_function("document.querySelector('.pmc2-numbers').dataset.codec === 'png'")
    before = page.evaluate(CLOUD)
    slider = page.locator(".pmc2-strength input[type=range]")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.pmc2-numbers').dataset.strength === '0.95'")
    assert page.evaluate(CLOUD) != before


@pytest.mark.system
def test_nothing_is_shown_without_the_token_and_no_file_at_all(app: tuple[str, Path], page: Page) -> None:
    url, _ = app
    here, _, token = url.partition("?")
    page.goto(here)
    assert "login" in page.url
    assert page.locator(".pmc2-explore").count() == 0
    assert status(f"{here}voila/files/explore.ipynb?{token}") == 403
    assert status(f"{here}voila/files/explore.png?{token}") == 403
    assert here.startswith("http://127.0.0.1:")


@pytest.mark.system
def test_a_kernel_ends_with_its_page(app: tuple[str, Path], page: Page) -> None:
    page.goto(app[0])
    page.wait_for_function(SHOWN)
    kernel = page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId")
    assert kernels(kernel)
    page.goto("about:blank")
    wait_for(lambda: not kernels(kernel), 30, "its kernel runs on")


def kernels(name: str) -> list[psutil.Process]:
    processes = psutil.process_iter(["cmdline"])
    return [each for each in processes if f"kernel-{name}.json" in " ".join(each.info["cmdline"] or [])]
