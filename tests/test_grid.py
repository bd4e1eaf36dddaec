"""The grid of pairs: missing networks are trained, pairs are measured in a process each, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.pair import AUXILIARY, TARGET
from workbench import grid as module
from workbench import weights
from workbench.__main__ import main
from workbench.data import Dataset, Split
from workbench.errors import RunError
from workbench.grid import Grid

NAME = f"{TARGET}-X-{AUXILIARY}"
DATA = ("--dataset", "digits")


@pytest.fixture
def own_data(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_root, tmp_path / "data")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the commands of jobs instead of running them, since trainings take minutes."""
    seen: list[list[str]] = []

    def note(jobs: list[tuple[str, ...]], environment: dict[str, str]) -> tuple[str, str]:
        seen.extend(list(job) for job in jobs)
        return "", "not run"

    monkeypatch.setattr(module, "_run", note)
    return seen


@pytest.mark.system
def test_a_trained_pair_is_measured_once(own_data: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["grid", "--targets", TARGET, "--auxiliaries", AUXILIARY, "--limit", "6", "--preset", "paper", "--seed", "3"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert NAME in printed
    assert "all 64 pairs would take about 0 hours" in printed, "these weights say nothing of their time"
    folder = own_data / "runs" / "grid" / "digits"
    kept = json.loads((folder / "grid.json").read_text())
    assert [each["n"] for each in kept["results"]] == [6]
    assert (kept["presets"], kept["seeds"]) == (["tiny"], [0])
    assert kept["results"][0]["weights"] == weights.load_pair("digits", TARGET, AUXILIARY, compressor=False).sha256()
    for who in ("target", "auxiliary"):
        assert (folder / f"{who}.png").read_bytes().startswith(b"\x89PNG")
        assert "preset tiny, seed 0" in (folder / f"{who}.svg").read_text(), "of the networks, not of the options"
    before = (folder / f"{NAME}.json").stat().st_mtime_ns
    with ThreadPoolExecutor(1) as pool:
        assert Grid(digits, DATA, (TARGET,), (AUXILIARY,), limit=6).run(pool) == kept
    assert (folder / f"{NAME}.json").stat().st_mtime_ns == before


def test_what_is_missing_is_trained_before_it_is_measured(own_data: Path, digits: Dataset, commands: list[list[str]]) -> None:
    (own_data / "runs" / "weights" / "digits" / f"{NAME}.json").unlink()
    with pytest.raises(RunError, match=f"1 jobs failed.*{NAME}: not run"):
        Grid(digits, DATA, (TARGET,), (AUXILIARY,), preset="paper", seed=3).run()
    train, evaluate = commands
    assert train[:6] == ["train", "generator", "--target", TARGET, "--auxiliary", AUXILIARY]
    assert train[train.index("--seed") + 1] == "3"
    assert evaluate[0] == "evaluate"


def test_a_preset_with_an_encoder_trains_it_first(own_data: Path, digits: Dataset, commands: list[list[str]]) -> None:
    (own_data / "runs" / "weights" / "digits" / f"{NAME}.json").unlink()
    with pytest.raises(RunError, match=r"1 jobs failed.*encoder: not run$"):
        Grid(digits, DATA, (TARGET,), (AUXILIARY,), preset="hours").run()
    assert [command[:2] for command in commands] == [["train", "encoder"]], "and no generator without it"


def test_classifiers_come_first_and_pairs_without_are_skipped(
    own_data: Path, digits: Dataset, commands: list[list[str]]
) -> None:
    with pytest.raises(RunError, match=rf"3 jobs failed.*densenet121: not run; encoder: not run; {NAME}: not run$"):
        Grid(digits, DATA, (TARGET, "densenet121"), (AUXILIARY,), limit=6).run()
    assert commands[0][:4] == ["train", "classifier", "--target", "densenet121"]
    assert [command[:2] for command in commands if command[0] == "train"][1:] == [["train", "encoder"]]
    assert all("densenet121" not in command for command in commands[1:])


def test_a_result_of_other_weights_or_images_is_repeated(own_data: Path, digits: Dataset, commands: list[list[str]]) -> None:
    grid = Grid(digits, DATA, (TARGET,), (AUXILIARY,), limit=6)
    same = {"n": 6, "limit": 6, "images_sha256": digits.test.head(6).sha256()}
    backwards = Split(digits.test.images[:6].flip(0), digits.test.labels[:6].flip(0))
    sha = weights.load_pair("digits", TARGET, AUXILIARY, compressor=False).sha256()
    for result in (
        {"weights": {**sha, "generator": "0" * 64}, **same},
        {"weights": sha, **same, "n": 5, "limit": 5},
        {"weights": sha, **same, "limit": None},
        {"weights": sha, "n": 6, "limit": 6},
        {"weights": sha, **same, "images_sha256": backwards.sha256()},
    ):
        grid.folder.mkdir(parents=True, exist_ok=True)
        (grid.folder / f"{NAME}.json").write_text(json.dumps(result))
        commands.clear()
        with pytest.raises(RunError):
            grid.run()
        assert [command[0] for command in commands] == ["evaluate"], result


def test_the_estimate_counts_compressors_and_the_encoder(own_data: Path, digits: Dataset) -> None:
    pair = weights.load_pair("digits", TARGET, AUXILIARY)
    depends: dict[str, str] = {}
    for role, manifest in pair.manifests.items():
        training = {"preset": "quick", "seconds": 90}
        on = {each: depends[each] for each in manifest.depends}
        depends[role] = weights.save(getattr(pair, role), replace(manifest, training=training, depends=on)).sha256
    weights.save(pair.generator, weights.Manifest("encoder", "digits", "generator", {"width": 4}, "", 0, {"seconds": 90}))
    for rate, networks in ((None, 8 + 1 + 64), (0.0, 8 + 1 + 64 + 64)):
        grid = Grid(digits, DATA, (TARGET,), (AUXILIARY,), limit=6, rate=rate)
        sha = weights.load_pair("digits", TARGET, AUXILIARY, compressor=rate is not None).sha256()
        figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 6}
        accuracies = {f"{key}_accuracy": figure for key in ("protected", "auxiliary_protected")}
        same = {"weights": sha, "limit": 6, "images_sha256": digits.test.head(6).sha256(), "n": 6, "dataset": digits.title}
        grid.folder.mkdir(parents=True, exist_ok=True)
        (grid.folder / f"{NAME}.json").write_text(json.dumps(accuracies | same | ({} if rate is None else {"rate": rate})))
        assert grid.run()["cost"]["all_64_pairs_hours"] == pytest.approx(networks * 90 / 3600, abs=0.01), "nothing is trained"


@pytest.mark.system
def test_a_job_that_fails_is_named_with_its_reason(own_data: Path, digits: Dataset, tmp_path: Path) -> None:
    data: Any = ("--dataset", "folder", "--data-dir", str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=rf"{NAME}: workbench evaluate ended with \d \(workbench: .*nowhere"):
        Grid(digits, data, (TARGET,), (AUXILIARY,)).run()


def test_an_unknown_name_is_one_line(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", "--targets", "resnet81"]) == 2
    assert "unknown classifier 'resnet81': did you mean 'resnet18'" in capsys.readouterr().err
