"""The notebook `deploy` in JupyterLab: both stages launched, watched and stopped with its buttons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browsers import accessible, notebook, open_notebook, run_all, saved, screenshot, wait_for
from tests.support.pair import AUXILIARY, TARGET
from workbench.deployment.deployed import Deployed
from workbench.deployment.plan import Deployment

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.system


@pytest.fixture
def stopped(tiny_data: Path) -> Iterator[None]:
    yield
    for plan in (tiny_data / "runs" / "interactive").glob("local-*.toml"):
        with Deployed(Deployment.read(plan)) as made:
            made.stop(purge=True)
        plan.unlink()


def test_buttons_launch_watch_and_stop_both_stages(
    lab: str, page: Page, lab_folder: Path, tmp_path: Path, stopped: None
) -> None:
    pair = f'target, auxiliary, limit = "{TARGET}", "{AUXILIARY}", 32'
    notebook("deploy", lab_folder, f"{pair}\nrequests, keep = 10, True")
    open_notebook(page, lab, "deploy.ipynb")
    run_all(page)
    panel = page.locator(".pmc2-deploy table")
    panel.wait_for()
    panel.scroll_into_view_if_needed()

    def states() -> list[str]:
        return panel.locator("td.state").all_inner_texts()

    wait_for(lambda: states() == ["ready", "ready"], 120, "the stages were not ready")
    page.get_by_role("tab", name="steps").wait_for()
    screenshot(page, tmp_path, "deploy-ready")
    wait_for(lambda: saved(page, lab_folder / "deploy.ipynb"), 120, "the last cell was not executed")
    page.get_by_role("tab", name="log of the edge").click()
    page.locator(".pmc2-deploy pre").get_by_text('"service": "pmc2-edge"').first.wait_for()
    panel.scroll_into_view_if_needed()
    screenshot(page, tmp_path, "deploy-log")
    accessible(page, ".jp-OutputArea-output:has(.pmc2-deploy)")
    page.locator("button.jupyter-button", has_text="Stop").click()
    wait_for(lambda: states() == ["absent", "absent"], 60, "the stages were not stopped")
    wait_for(page.locator("button.jupyter-button", has_text="Launch").is_enabled, 30, "it cannot be launched again")
    cells = wait_for(lambda: saved(page, lab_folder / "deploy.ipynb"), 60, "the last cell was not executed")
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
