"""A saved notebook: the state that nbconvert writes into its page is enough for the stage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import pytest

from tests.support.pair import AUXILIARY, TARGET
from tests.support.stage_page import open_stage

if TYPE_CHECKING:
    from playwright.sync_api import Page

CODE = f"""from workbench.panels import Explorer
explorer = Explorer("digits", "{TARGET}", "{AUXILIARY}", limit=12, strength=0.5)
explorer.widget"""
STATE = re.compile(r'<script type="application/vnd.jupyter.widget-state\+json">(.*?)</script>', re.DOTALL)
DRAWN = """([strength]) => {
    const slider = document.querySelector(".pmc2-strength input[type=range]");
    slider.value = strength;
    slider.dispatchEvent(new Event("input"));
    return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
        const canvas = document.querySelector(".pmc2-protected .pmc2-over");
        done(Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data));
    })));
}"""


def stage_in(page: str) -> dict[str, Any]:
    match = STATE.search(page)
    assert match is not None
    models = json.loads(match[1])["state"].values()
    (stage,) = [model for model in models if model["model_module"] == "anywidget"]
    state = {name: value for name, value in stage["state"].items() if not name.startswith("_")}
    for buffer in stage["buffers"]:
        *path, last = buffer["path"]
        place = state
        for name in path:
            place = place[name]
        place[last] = {"base64": buffer["data"]}
    return state


@pytest.mark.system
def test_a_page_of_nbconvert_holds_the_whole_stage(tiny_data: Path, tmp_path: Path, page: Page) -> None:
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in (CODE, "explorer.wait()")])
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    html, _ = HTMLExporter().from_notebook_node(notebook)
    open_stage(page, stage_in(html))
    assert page.locator(".pmc2-numbers").get_attribute("data-strength") == "0.5"
    ends = [np.asarray(page.evaluate(DRAWN, [strength]), float) for strength in (0, 1)]
    assert np.abs(ends[0] - ends[1]).max() > 10, "the generator changes the picture"
    half = np.asarray(page.evaluate(DRAWN, [0.5]), float)
    assert np.abs(half - (ends[0] + ends[1]) / 2).max() <= 1, "the page blends without a kernel"
