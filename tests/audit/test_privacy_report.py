"""The page for a privacy officer: it states the result in words and symbols, and no number of its own."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from workbench.audit import ATTACKERS, SOURCES, VIEWS, Audit, Effort, privacy_report
from workbench.audit.scores import Judge
from workbench.audit.verdict import verdict
from workbench.data import Dataset
from workbench.errors import StorageError
from workbench.metrics import Estimate
from workbench.notebook import plain
from workbench.weights import Pair

HOLDS, FAILS = "✓ holds", "✗ fails"


def estimate(value: float, half: float = 0.0173) -> Estimate:
    return Estimate(value, value - half, value + half, 731)


def row(view: str, attacker: str, **figures: float) -> dict[str, Any]:
    made = {"view": view, "attacker": attacker, "knows": "pairs", "source": "same", "pairs": 2917, "strength": 0.87, "seeds": 7}
    return made | {key: estimate(value, 4e-4 if key == "identified" else 0.0173) for key, value in figures.items()}


def result(perturbed: float = 18.63, decoded: float = 13.41, codec: str = "neural") -> dict[str, Any]:
    control = row("control", "class mean", psnr=13.19, ssim=0.147, identified=0.0123)
    controls = [control, row("control", "training image", psnr=10.57, ssim=0.071, identified=0.0119)]
    rows = [
        row("perturbed", "invert", psnr=perturbed, ssim=0.511, identified=0.0129),
        row("perturbed", "read", read=0.843),
        row("decoded", "undo", psnr=decoded, ssim=0.151, identified=0.0126),
        row("payload", "optimise", psnr=13.27, ssim=0.149, identified=0.0124),
    ]
    return plain(
        {
            "n": 731,
            "seeds": 7,
            "controls": controls,
            "rows": rows,
            "unprotected": row("perturbed", "undo", psnr=31.74),
            "judge": estimate(0.937),
            "linking": {"perturbed": estimate(0.917), "decoded": estimate(0.503)},
            "membership": {"perturbed": estimate(0.509), "decoded": estimate(0.491)},
            "bound": {"bits": estimate(3.59), "codes": 11, "identified": 0.015, "label_identified": 0.0137},
            "answered": {"perturbed": estimate(0.886), "decoded": estimate(0.879)},
            "verdict": verdict(controls, rows),
            "recognisable": {"psnr": 10.0, "ssim": 0.3},
            "effort": {"pairs": 2917, "passes": 4099, "width": 9, "steps": 6},
            "effort_curve": [],
            "converged": None,
            "codec": codec,
            "strength": 0.87,
            "noise": 0.0,
            "dataset": "some pictures",
            "target": "resnet18",
            "auxiliary": "vgg13_bn",
            "weights": {"generator": "c0ffee0123456789"},
            "device": "cpu (x86_64, 1 threads)",
            "commit": "4c43dcbf899d",
        }
    )


LOWER = "every figure is a lower bound"


def test_the_page_says_whether_the_figures_are_a_lower_bound() -> None:
    assert LOWER in words(privacy_report.render(result()))
    curve = [{"effort": {"passes": passes}} for passes in (8000, 32_000)]
    text = words(privacy_report.render(result() | {"converged": True, "effort_curve": curve}))
    assert LOWER not in text
    assert "doubled from 8000 to 32000 training images, until the best attacker gained less than 0.1 dB" in text
    assert LOWER in words(privacy_report.render(result() | {"converged": False, "effort_curve": curve}))


def test_a_figure_below_the_control_is_a_failed_attack() -> None:
    text = words(privacy_report.render(result(perturbed=12.5)))
    assert "attack failed: below the control" in text
    assert "−0.69" not in text


def words(text: str) -> str:
    body = re.sub(r"<style>.*?</style>|<title>.*?</title>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"</t[dh]>", " ", body))).split())


def summary(text: str) -> dict[str, str]:
    lines = re.findall(r"<li>(.*?)</li>", text.partition('class="summary"')[2].partition("</ul>")[0], re.DOTALL)
    return {title: words(line) for line in lines for title, _ in privacy_report.VIEWS.values() if title in words(line)}


def numbers(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*(numbers(each) for each in value.values()))
    if isinstance(value, list):
        return set().union(*(numbers(each) for each in value))
    if isinstance(value, str):
        return set(re.findall(r"\d+(?:\.\d+)?", value)) | set(re.findall(r"\d+(?:\.\d+)?", value[:12]))
    if isinstance(value, bool) or value is None:
        return set()
    forms = {f"{abs(value):.{digits}f}" for digits in (2, 3)} | {f"{abs(100 * value):.1f}", f"{value:g}", str(value)}
    return {form.lstrip("+") for form in forms}


def test_the_summary_states_for_each_view_whether_it_holds() -> None:
    lines = summary(privacy_report.render(result()))
    assert set(lines) == {"the perturbed image", "what the cloud decodes", "the payload"}
    assert lines["the perturbed image"].startswith(FAILS)
    assert lines["what the cloud decodes"].startswith(HOLDS)
    assert lines["the payload"].startswith(HOLDS)
    turned = summary(privacy_report.render(result(perturbed=13.2, decoded=14.5)))
    assert turned["the perturbed image"].startswith(FAILS), "its likeness is still too great"
    assert turned["what the cloud decodes"].startswith(FAILS)


def test_a_row_holds_or_fails_by_its_bound() -> None:
    text = words(privacy_report.render(result()))
    _, _, table = text.partition("The perturbed image – ")
    table = table.partition("Where it fails")[0]
    assert f"invert: 18.63 [18.61, 18.65] dB +5.44 [+5.42, +5.46] dB +1.5 dB {FAILS}" in table
    assert f"invert: 0.511 [0.494, 0.528] +0.364 [+0.347, +0.381] +0.03 {FAILS}" in table
    assert f"invert: 1.3 % [1.2, 1.3] 1.05 [1.02, 1.08] times 1.5 times {HOLDS}" in table


def test_a_failure_names_exactly_the_broken_bounds() -> None:
    fails = words(privacy_report.render(result())).partition("Where it fails")[2].partition("What was tried")[0]
    assert "From the perturbed image: guesses come 5.44 dB closer" in fails
    assert "guesses are 0.364 more alike" in fails
    assert "the right one is named" not in fails
    assert "Linking, from the perturbed image" in fails
    assert "from what the cloud decodes" not in fails.lower()
    assert "Training pictures" not in fails
    calm = result(perturbed=13.2)
    calm["verdict"] = {view: {**found, "holds": dict.fromkeys(found["holds"], True)} for view, found in calm["verdict"].items()}
    calm["linking"] = {}
    assert "Nowhere among what was tried." in words(privacy_report.render(calm))
    assert FAILS not in words(privacy_report.render(calm))


def test_the_page_has_no_number_that_the_result_has_not() -> None:
    made = result()
    shown = set(re.findall(r"\d+(?:\.\d+)?", words(privacy_report.render(made))))
    assert shown <= numbers(made)
    assert {"731", "18.63", "13.19", "3.59", "2917"} <= shown


def test_a_payload_equal_to_the_perturbed_image_is_named() -> None:
    assert "with this codec it stays at the edge" in words(privacy_report.render(result()))
    text = words(privacy_report.render(result(codec="png lossless")))
    assert "with this codec it stays at the edge" not in text
    assert "Use the neural codec: this audit ran with png lossless" in text
    assert "Send no private pictures through this pair" in text
    assert "Send no private pictures through this pair" not in words(privacy_report.render(result()))


def test_a_variant_stands_with_its_price_and_its_verdict() -> None:
    over = {"psnr": 1.21, "ssim": -0.004, "identified": 1.31}
    variant = {"over": over, "holds": dict.fromkeys(over, True), "answered": plain(estimate(0.853))}
    text = words(privacy_report.render(result(), {"private": variant}))
    assert f"Generator “private”, perturbed image: {HOLDS}, +1.21 dB, −0.004 in structure" in text
    assert "85.3" in text
    variant["holds"] = {**over, "ssim": False}
    assert f"Generator “private”, perturbed image: {FAILS}" in words(privacy_report.render(result(), {"private": variant}))


def test_names_are_text_and_never_markup() -> None:
    made = {**result(), "dataset": "<script>alert(1)</script>", "target": "a & <b>", "device": "<img src=x>"}
    text = privacy_report.render(made, {})
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a &amp; &lt;b&gt;" in text


def test_the_page_is_one_file_that_asks_for_nothing_else(tmp_path: Path) -> None:
    privacy_report.write(result(), tmp_path / "privacy.html")
    text = (tmp_path / "privacy.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert not re.search(r"https?:|src=|url\(|@import|<link", text)
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    with pytest.raises(StorageError, match="taken"):
        privacy_report.write(result(), tmp_path / "taken" / "privacy.html")


def test_every_attacker_view_and_source_has_its_words() -> None:
    assert set(privacy_report.ATTACKS) == set(ATTACKERS)
    assert set(privacy_report.VIEWS) == set(VIEWS)
    assert set(privacy_report.SOURCES) == set(SOURCES)


@pytest.mark.parametrize(
    ("views", "attackers", "codec"),
    [(VIEWS, ("undo", "replay"), "neural"), (("perturbed",), ("read",), "neural"), (("decoded",), ("undo",), "png")],
    ids=["all views", "no verdict", "png"],
)
def test_a_real_audit_whole_or_in_part_becomes_a_page(
    views: tuple[str, ...], attackers: tuple[str, ...], codec: str, networks: Pair, digits: Dataset, judge: Judge
) -> None:
    effort = Effort(pairs=48, passes=64, width=4, steps=2, reader=8)
    audit = Audit(networks, digits, codec=codec, n=12, seeds=1, effort=effort, judge=judge)
    made = plain(audit.result(views, attackers))
    text = words(privacy_report.render(made))
    assert f"on 12 test pictures of {digits.title}" in text
    for view in views:
        title = privacy_report.VIEWS[view][0]
        found = made["verdict"].get(view)
        if found is None:
            assert f"{title.capitalize()} was not judged" in text
        else:
            sign = HOLDS if all(found["holds"].values()) else FAILS
            assert summary(privacy_report.render(made))[title].startswith(sign)
    for name in attackers:
        assert privacy_report.ATTACKS[name] in text
