"""The grid of pairs, and the end of a view and of its threads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.explorers import PAIR, opened
from tests.support.pair import AUXILIARY, TARGET
from workbench import weights
from workbench.metrics import Estimate
from workbench.models import PerturbationGenerator
from workbench.panels import PairGrid, threads
from workbench.panels.pipeline import pairs_there, variants_there


def test_a_pair_of_the_grid_opens_in_explore(tiny_data: Path, tmp_path: Path) -> None:
    values = {(TARGET, AUXILIARY): Estimate(0.873, 0.86, 0.89, 480), ("vgg13_bn", "densenet121"): Estimate(0.1, 0.05, 0.2, 480)}
    grid = PairGrid(values, "digits", limit=12, output=tmp_path)
    assert set(grid.cells) == set(values), "what was not measured is blank"
    first, second = (grid.cells[pair] for pair in values)
    assert (first.description, second.description) == ("87.3", "10.0")
    assert "86.0 to 89.0 %, n = 480" in first.tooltip
    assert first.style.button_color != second.style.button_color
    assert (first.style.text_color, second.style.text_color) == ("#000000", "#ffffff"), "legible on light and dark"
    first.click()
    assert grid.explorer is not None
    opened = grid.explorer
    assert opened.wait(60)
    assert opened.view is not None
    assert opened.view.settings.pair == PAIR
    first.click()
    assert not opened.wait(1), "the one before is closed"
    assert grid.explorer.wait(60)
    grid.explorer.close()


SCRIPT = """
import sys
from workbench.panels import Explorer
closed = Explorer("digits", *sys.argv[1:], limit=12)
assert closed.wait(120)
closed.close()
left_open = Explorer("digits", *sys.argv[1:], limit=12, name="other")
assert left_open.wait(120)
"""


def test_a_thread_may_close_its_own_explorer(tiny_data: Path, tmp_path: Path) -> None:
    made = opened(tmp_path)
    assert made.wait(60)
    made.tasks.later(made.close)
    assert threads.join(made.worker.threads, 60)
    made.close()


@pytest.mark.system
def test_a_script_with_explorers_ends_with_status_0(tiny_data: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, TARGET, AUXILIARY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_encoder_that_generators_start_from_is_no_pair(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_root, tmp_path / "data")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    before = pairs_there("digits"), variants_there("digits", f"{TARGET}-X-{AUXILIARY}")
    generator = PerturbationGenerator(width=4)
    kind, spec = weights.describe(generator)
    weights.save(generator, weights.Manifest("encoder", "digits", kind, spec, "untrained", 0, {"loss": {}}, {}, {}))
    assert (pairs_there("digits"), variants_there("digits", f"{TARGET}-X-{AUXILIARY}")) == before
    assert before[0] == [f"{TARGET}-X-{AUXILIARY}"]
