"""The notebooks `train` and `effectiveness` from a user's view: JupyterLab in a real browser, with their buttons."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import browsers
from tests.support.browsers import accessible, open_notebook, run_all, screenshot, wait_for
from tests.support.pair import AUXILIARY, TARGET
from tests.support.trainings import few

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.system

NETWORK = "resnet18"  # the network that trains fastest on a CPU


def own(data: Path) -> str:
    return f'import os\nos.environ["WORKBENCH_DATA"] = "{data}"\n'


@pytest.mark.timeout(400)
def test_buttons_interrupt_and_resume_a_training(lab: str, page: Page, lab_folder: Path, tmp_path: Path) -> None:
    given = (
        f'{own(tmp_path / "data")}dataset, data_dir, target, auxiliary = "folder", "{few(tmp_path)}", "{NETWORK}", "{NETWORK}"'
    )
    path = browsers.notebook("train", lab_folder, f'{given}\noutput_dir = "{tmp_path / "output"}"')
    open_notebook(page, lab, "train.ipynb")
    run_all(page)
    said = page.locator(".pmc2-train .pmc2-message")

    def button(name: str) -> Locator:
        return page.locator(".pmc2-train button", has_text=name)

    wait_for(lambda: said.count() and "validation accuracy" in said.inner_text(), 120, "no epoch was reported")
    curves = page.locator(".pmc2-train .pmc2-figure")
    wait_for(lambda: curves.evaluate("(image) => image.naturalWidth") > 400, 30, "there are no curves")
    before = str(curves.evaluate(browsers.BYTES))
    wait_for(lambda: str(curves.evaluate(browsers.BYTES)) != before, 60, "the curves do not grow")

    button("Interrupt").click()
    wait_for(lambda: said.inner_text().startswith("interrupted: stopped at step"), 60, "it was not interrupted")
    page.get_by_text(re.compile("RunError: training was interrupted at step .*press Resume")).first.wait_for()
    screenshot(page, tmp_path, "train-interrupted")
    accessible(page, ".pmc2-train")
    button("Resume").click()
    wait_for(lambda: said.inner_text() == "done: 3 networks are there", 240, "it was not trained to its end")
    wait_for(button("Interrupt").is_disabled, 30, "it can still be interrupted")

    run_all(page)
    cells = wait_for(lambda: browsers.saved(page, path), 120, "the last cell was not executed")
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert said.inner_text() == "done: 3 networks are there", "existing networks are not trained again"


def test_a_pair_that_is_pressed_in_the_grid_opens_in_explore(lab: str, page: Page, lab_folder: Path, tmp_path: Path) -> None:
    given = f'dataset, target, auxiliary, limit = "digits", "{TARGET}", "{AUXILIARY}", 32'
    browsers.notebook("effectiveness", lab_folder, f'{given}\noutput_dir = "{tmp_path / "output"}"')
    open_notebook(page, lab, "effectiveness.ipynb")
    run_all(page)
    cell = page.locator(".pmc2-pairs button").first
    cell.wait_for()
    assert re.fullmatch(r"\d+\.\d", cell.inner_text().split()[0]), "it says its accuracy"
    assert page.locator(".pmc2-numbers").count() == 0
    cell.click()
    page.locator(".pmc2-pairs .pmc2-numbers").wait_for()
    assert f"{TARGET}" in page.locator(".pmc2-bars-target h4").inner_text()
    assert f"{AUXILIARY}" in page.locator(".pmc2-bars-auxiliary h4").inner_text()
    page.locator(".pmc2-pairs .pmc2-numbers").scroll_into_view_if_needed()
    screenshot(page, tmp_path, "effectiveness-opened")
    accessible(page, ".pmc2-pairs")
