"""The report in a browser: no table is cut off, however many figures it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench import runs
from workbench.storage import write_json

if TYPE_CHECKING:
    from playwright.sync_api import Browser

INTERVAL = "98.60 [97.66, 99.16]"
TABLES = [  # as wide as the widest of the notebooks, and a narrow one
    {"columns": ["pair", *(f"figure {k}, protected" for k in range(11))], "rows": [["resnet18-X-vgg13_bn", *[INTERVAL] * 11]]},
    {
        "columns": ["view", "attacker", "knowledge", *(f"figure {k} (%)" for k in range(6))],
        "rows": [["perturbed", "optimise", "pairs, the weights of generator and encoder", *[INTERVAL] * 5, "—"]] * 3,
    },
    {"columns": ["codec", "bytes"], "rows": [["png [lossless]", "2971.15 ± 34.30"]]},
]
ABOUT = {
    **{"version": "0", "when": "today", "dataset": "digits", "n": 1000, "target": "resnet18", "auxiliary": "vgg13_bn"},
    **{"facts": {"weights": "abc"}, "main": {"title": "", "note": "", **TABLES[1]}},
}
CUT = """() => [...document.querySelectorAll("table, td, th")].filter(each => each.getClientRects().length).filter(each => {
  const box = each.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth + 0.5 }).map(each => each.textContent)"""


def test_no_table_of_the_report_is_cut_off(tmp_path: Path, browser: Browser) -> None:
    tables = [{"title": f"Table {number}", "note": "", "main": False, **table} for number, table in enumerate(TABLES)]
    write_json(tmp_path / "effectiveness.json", {"tables": tables, "figures": [], "results": []})
    status = {"status": "done", "notebook": "effectiveness", "seconds": 1.0}
    report = runs.collect(tmp_path, [status], ABOUT)
    with browser.new_page() as page:
        page.goto(report.as_uri())
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function("(width) => innerWidth === width", arg=width)
            assert page.evaluate(CUT) == [], width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            cells = [" ".join(cell.split()) for cell in page.locator("td").all_inner_texts()]
            assert cells[-1].removeprefix("bytes: ") == "2971.15 ± 34.30"
            assert sum(INTERVAL in cell for cell in cells) == 11 + 2 * 15
            assert page.locator("td", has_text="[lossless]").count() == 1
