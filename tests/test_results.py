"""The results pages: generated from data/results, checked for every kind of difference, and read without torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from workbench import results
from workbench.__main__ import main
from workbench.bench.energy_model import PARTS, RADIOS, RANGES, Assumptions, Measured, energy, shares
from workbench.notebook import plain

ROOT = Path(__file__).resolve().parent.parent
PAGE, TEMPLATE = "docs/results/energy.md", "docs/results/templates/energy.md.j2"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("docs/results", "data/results"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


@pytest.fixture
def few(checkout: Path) -> Path:
    for path in (checkout / "docs" / "results").rglob("*.md*"):
        if path.name.partition(".")[0] not in ("README", "cifar10", "energy"):
            path.unlink()
    return checkout


def check(capsys: pytest.CaptureFixture[str], root: Path) -> tuple[int, list[str]]:
    status = main(["results", "--check", "--root", str(root)])
    out, err = capsys.readouterr()
    assert out == ""
    return status, err.splitlines()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_repository_s_pages_are_checked_without_torch() -> None:
    code = "import sys; from workbench.__main__ import main; status = main(['results', '--check']); print(status, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("0 False\n", "")


def test_a_changed_result_is_reported_then_written(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = few / "data/results/cifar10-resnet18-vgg13_bn.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    results.named(run, "table 3: neural")["values"]["target_accuracy"]["value"] = 0.1234
    path.write_text(json.dumps(run), encoding="utf-8")
    status, lines = check(capsys, few)
    assert status == 1
    assert [re.match(r"workbench: (\S+) differs from data/results at line \d+: run", line)[1] for line in lines] == [  # type: ignore[index]
        "README.md",
        "docs/results/cifar10.md",
    ]
    assert main(["results", "--root", str(few)]) == 0
    assert capsys.readouterr().out.splitlines() == ["README.md", "docs/results/cifar10.md"]
    assert "| 12.34 % [" in (few / "README.md").read_text(encoding="utf-8")
    assert check(capsys, few) == (0, [])


def test_other_results_have_their_tables_on_the_pages(checkout: Path) -> None:
    edit(checkout / "README.md", results.BEGIN, f"above\n{results.BEGIN}\nstale")
    edit(checkout / "README.md", results.END, f"{results.END}\nbelow")
    over = energy_of_the_notebook(checkout / "data/results/cifar10-energy-cpu.json")
    every_picture_decoded(checkout / "data/results/cifar10-latency-cpu.json")
    audit_in_full(checkout / "data/results/digits-resnet18-vgg13_bn-audit.json")
    assert main(["results", "--root", str(checkout)]) == 0
    text = (checkout / "README.md").read_text(encoding="utf-8")
    assert "stale" not in text
    assert f"above\n{results.BEGIN}\n|" in text
    assert f"{results.END}\nbelow" in text
    privacy = (checkout / "docs/results/privacy.md").read_text(encoding="utf-8")
    for line in (
        "| digits | 11.0 [10.0, 12.0] | 12.0 [11.0, 13.0] | 14.0 [13.0, 15.0] | 18.0 [17.0, 19.0] | 26.0 [25.0, 27.0] |",
        "digits: two shots are linked in 50.0 % [49.0, 51.0] of comparisons by pixel",
        "| digits, decoded | 1.23 % [0.23, 2.23] | 51.0 % [50.0, 52.0] | 4 |",
        "| digits, vgg19_bn (**fails**) | originals; no training saw it | 11.0 [10.0, 12.0] | 11.0 [10.0, 12.0] | 11.0 [10.0, 12.0] |",
        "| digits, payload | invert, 15.00 dB | invert, 15.00 dB |",
        "`workbench audit --effort brief --converge --membership --unseen --limit 900 --seeds 1 --json`",
    ):
        assert line in privacy, line
    services = (checkout / "docs/results/services.md").read_text(encoding="utf-8")
    for line in (
        "One picture alone takes 11.2 ms with the row *every* and",
        "PP is not ahead there",
        "| component (ms/image, 256 a request) | PMC², PNG | PMC², JPEG | PMC², neural, every | PMC², neural | PP |",
        "| link between the domains (p50 of one picture, ms) | PMC², PNG | PMC², JPEG | PMC², neural | PP |",
    ):
        assert line in services, line
    page = (checkout / PAGE).read_text(encoding="utf-8")
    least, most = over["pmc2"]["range"]
    assert page.index("range over the assumptions (mJ)") < page.index("## The assumptions") < page.index("## By situation")
    for line in (
        f"| {100 * least:.1f} to {100 * most:.1f} % |",
        "with 1 picture a request",
        "| a byte sent | 0.64 µJ | 2.27 µJ | 6.95 µJ | a 4G uplink of a phone of 2020 (Narayanan et al., SIGCOMM '21)",
        "| stream, Wi-Fi | stream, LTE | one request alone, Wi-Fi | one request alone, LTE |",
        "Over LTE that tail is 11.58 s at 1.06 W",
        "times what no protection costs, because it waits longer for its response",
    ):
        assert line in page, line


def audit_in_full(path: Path) -> None:
    audit = json.loads(path.read_text(encoding="utf-8"))

    def share(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.01, "high": value + 0.01}

    audit["sends"] = [{"sends": sends, "identified": share(0.1 + sends / 100)} for sends in (1, 2, 4, 8, 16)]
    audit["linking_by_pixel"] = {"perturbed": share(0.5)}
    audit["membership_rmia"] = {
        "decoded": {"true_positives": share(0.0123), "area": share(0.51), "false_positives": 0.001, "shadows": 4}
    }
    audit["unseen"] = [{"classifier": "vgg19_bn", **{view: share(0.11) for view in ("originals", "perturbed", "decoded")}}]
    audit["unseen"][0]["holds"] = {"perturbed": False, "decoded": True}
    audit["n"] = 900
    path.write_text(json.dumps(audit), encoding="utf-8")


def every_picture_decoded(path: Path) -> None:
    run = json.loads(path.read_text(encoding="utf-8"))
    name = "latency: resnet18-X-vgg13_bn, "
    every = json.loads(json.dumps(results.named(run, f"{name}new"))) | {"name": f"{name}every"}
    every["values"]["single"]["ms"]["p50"]["value"] = 11.25
    for row in (every, results.named(run, f"{name}new")):
        row["values"].pop("links", None)
    run["results"] = [row for row in run["results"] if row["name"] != f"{name}every"] + [every]
    path.write_text(json.dumps(run), encoding="utf-8")


def energy_of_the_notebook(path: Path) -> dict[str, Any]:
    run = json.loads(path.read_text(encoding="utf-8"))
    parts = {"none": (0.1, 0.0, 0.4), "pp": (0.2, 4.0, 0.4), "pmc2": (0.1, 0.0, 0.4)}
    took, sent = {"none": 6.0, "pp": 10.0, "pmc2": 12.0}, {"none": 1256.0, "pp": 2295.0, "pmc2": 1249.0}
    measured = {
        name: Measured(name, 1, 8, {part: [ms, ms] for part, ms in zip(PARTS, each, strict=False)}, [took[name]] * 2)
        for name, each in parts.items()
    }
    for name, each in measured.items():
        each.sent, each.payload = [sent[name]] * 2, sent[name] - 345
    over = shares(measured, Assumptions(), {})
    for row, name in zip(run["results"], ("none", "pp", "pmc2"), strict=True):
        row["values"] = plain(energy(measured[name], Assumptions()) | over.get(name, {}))
    radios = {name: asdict(radio) | {"alone_j": radio.alone_j} for name, radio in RADIOS.items()}
    run["results"].append(run["results"][0] | {"name": "assumptions", "values": plain({"ranges": RANGES, "radios": radios})})
    path.write_text(json.dumps(run), encoding="utf-8")
    return over


def test_pages_that_differ_or_have_no_template_are_reported(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar10, page = few / "docs/results/cifar10.md", few / PAGE
    number = page.read_text(encoding="utf-8").splitlines().index("## Next to the paper's meter") + 1
    edit(page, "## Next to the paper's meter", "## By hand")
    cifar10.write_text("".join(cifar10.read_text(encoding="utf-8").splitlines(keepends=True)[:5]), encoding="utf-8")
    (few / "docs/results/stray.md").write_text("by hand", encoding="utf-8")
    stray = "workbench: docs/results/stray.md has no template in docs/results/templates: add one, or remove the page"
    assert check(capsys, few) == (
        1,
        [
            "workbench: docs/results/cifar10.md differs from data/results at line 6: run `workbench results`",
            f"workbench: {PAGE} differs from data/results at line {number}: run `workbench results`",
            stray,
        ],
    )
    page.unlink()
    assert check(capsys, few)[1][1:] == [f"workbench: {PAGE} is missing: run `workbench results`", stray]


def test_what_cannot_be_rendered_is_one_line(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (few / "docs/results/templates/cifar10.md.j2").unlink()
    for path, old, new, reason in (
        (TEMPLATE, 'load("cifar10-energy-cpu")', 'load("energy-gpu")', r"energy-gpu\.json cannot be read.*No such file"),
        (TEMPLATE, "first.dataset", "first.nothing", r"energy\.md\.j2 uses a figure that .* does not have.*nothing"),
        (TEMPLATE, "v.mj | interval", "v | interval", r"energy\.md\.j2 uses a figure that .* does not have.*median"),
        (TEMPLATE, "{% endfor %}", "{% endfro %}", r"energy\.md\.j2, line \d+: .*endfro"),
        (TEMPLATE, "resnet18-X-vgg13_bn, PMC²", "resnet34", r"no row of .* has name = 'energy: resnet34'"),
        ("data/results/cifar10-energy-cpu.json", '"format"', "format", r"cifar10-energy-cpu\.json cannot be read"),
        ("README.md", results.END, "", r"README\.md lacks the lines '<!-- results: begin -->'"),
    ):
        before = (few / path).read_text(encoding="utf-8")
        edit(few / path, old, new)
        assert main(["results", "--root", str(few)]) == 2, reason
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(reason, line), line
        (few / path).write_text(before, encoding="utf-8")


def test_outside_a_checkout_the_way_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"workbench: no templates in {tmp_path / 'docs/results/templates'}: run this in a checkout, or name one with --root\n"
    )


def test_every_result_is_on_a_page() -> None:
    used: set[str] = set()
    for template in (ROOT / results.TEMPLATES).glob("*.j2"):
        used |= set(re.findall(r'(?:load|source)\("([^"]+)"|"(cifar10-samples[^"]*)"', template.read_text(encoding="utf-8")))
    named = {name for pair in used for name in pair if name}
    assert named == {path.stem for path in (ROOT / results.RESULTS).glob("*.json")}


def test_a_source_invents_no_date_and_no_processor() -> None:
    full = {"date": "2026-11-30", "processor": "AMD EPYC", "cores": 2, "device": "cpu (x86_64)", "commit": "abc"}
    unknown = "processor: not recorded; device: not recorded; commit: not recorded."
    for origin, when, facts in (
        (full, "", "date: 30 November 2026; processor: AMD EPYC, 2 cores; device: cpu (x86_64); commit: abc."),
        ({}, "", f"date: not recorded; {unknown}"),
        ({"commit": None}, "1 May 2026", f"date: 1 May 2026; {unknown}"),
    ):
        assert results.source("x", origin, when=when) == f"Source: [`x.json`](../../data/results/x.json); {facts}"


def test_figures_are_formatted_alike_everywhere() -> None:
    estimate = {"value": 0.867, "low": 0.8573, "high": 0.8761, "n": 5000, "std": 0.01}
    assert results.percent(estimate) == "86.70 % [85.73, 87.61]"
    assert results.interval({"median": 1508.7, "least": 1.25, "most": 2e6}, 1) == "1,508.7 [1.2, 2,000,000.0]"
    assert results.spread({"value": 748.73, "std": 81.25}) == "748.7 ± 81.2"
    assert [results.signed(value) for value in (0.024, -1.5, -0.001)] == ["+0.02", "-1.50", "+0.00"]
