"""The command `workbench` as a user calls it: its help, its output, its one-line errors, and its behaviour on Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.pair import AUXILIARY, TARGET, WIDTH
from workbench import __version__, runs, weights
from workbench.__main__ import main
from workbench.audit import ATTACKERS, EFFORTS, SOURCES, VIEWS, Effort, privacy_report
from workbench.classifiers import Classifier
from workbench.commands import audit as audit_command
from workbench.training import PRESETS, TrainingSettings

COMMANDS = (
    *("train", "evaluate", "audit", "reproduce", "grid", "bench", "import-weights", "export-weights", "models"),
    *("certs", "serve", "measure", "recognize", "results"),
)
TITLES = tuple(Classifier(name, width=WIDTH[name]).title for name in (TARGET, AUXILIARY))
PAIR = ("--target", TARGET, "--auxiliary", AUXILIARY)
KEYS = ("n", "original_accuracy", "target_accuracy", "auxiliary_accuracy", "ssim", "s1_bytes", "s2_bytes", "codec", "dataset")


def fails_in_one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("workbench: ")
    return status, line


# --- help ------------------------------------------------------------------------------------------------------------------


HELP = """
import contextlib, io, json, sys
from workbench.__main__ import main
pages = {}
for name in ("", *sys.argv[1:]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main([*filter(None, [name]), "--help"])
        except SystemExit as end:
            assert not end.code, name
    heavy = {"torch", "numpy", "matplotlib", "papermill", "ipywidgets", "distributed"} & set(sys.modules)
    pages[name] = [out.getvalue(), sorted(heavy)]
print(json.dumps(pages))
"""


def test_help_shows_examples_and_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *COMMANDS], capture_output=True, text=True, timeout=60, check=True)
    pages = json.loads(done.stdout)
    assert done.stderr == ""
    assert all(f"\n    {name}" in pages[""][0] for name in COMMANDS)
    for name, (page, heavy) in pages.items():
        assert heavy == [], name
        assert page.startswith(f"usage: workbench {name}".rstrip()), name
        examples = page.partition("examples:\n")[2].splitlines()
        assert any(line.startswith(f"  workbench {name}".rstrip()) for line in examples), name


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == f"workbench {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *[(), ("trian",), ("train",), ("train", "everything"), ("evaluate", "--limit", "0"), ("models", "--x")],
        *[("bench", "services", "--seconds", "inf"), ("bench", "services", "--soak", "nan"), ("launch", "--ready", "0")],
    ],
)
def test_a_wrong_call_exits_with_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: workbench" in capsys.readouterr().err


# --- evaluate --------------------------------------------------------------------------------------------------------------


def test_evaluate_prints_one_json_object_or_the_same_to_people(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", *PAIR, "--limit", "6", "--codec", "neural"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(KEYS) | {"weights", "seed"} <= set(result)
    assert result["n"] == 6
    assert result["codec"] == "neural"
    assert (result["target"], result["auxiliary"], result["seed"]) == (TARGET, AUXILIARY, 0)
    assert set(result["weights"]) == {"target", "auxiliary", "generator", "compressor"}
    assert all(len(sha) == 64 for sha in result["weights"].values())
    for key in ("original_accuracy", "target_accuracy", "auxiliary_accuracy", "ssim", "s1_bytes", "s2_bytes"):
        figure = result[key]
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["n"] == 6
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "{} protected against {}, neural, strength 1".format(*TITLES) in text
    assert f"{100 * result['target_accuracy']['value']:.2f} %" in text
    assert f"{result['s2_bytes']['value']:.3f} [" in text


@pytest.mark.parametrize(
    ("options", "codec"),
    [
        (("--codec", "jpeg", "--quality", "50", "--subsampling", "4:2:0"), "jpeg q50 4:2:0"),
        (("--codec", "webp", "--quality", "100"), "webp q100"),
        (("--codec", "png", "--strength", "0"), "png"),
    ],
)
def test_evaluate_measures_the_codec_that_is_asked_for(
    options: tuple[str, ...], codec: str, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *PAIR, "--limit", "4", "--device", "cpu", "--json", *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["codec"] == codec
    assert "compressor" not in result["weights"]
    assert result["strength"] == (0 if "--strength" in options else 1)
    if result["strength"] == 0:
        assert result["ssim"]["value"] > 0.9, "only the phone's JPEG lies between"


@pytest.mark.system
def test_bench_prints_ratios_for_people_and_machines(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "models", *PAIR, "--limit", "6", "--batches", "1", "4", "--rounds", "2", "--device", "cpu"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["batches"]) == {"1", "4"}
    assert result["dataset"] == "scikit-learn digits"
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "the papers' way" in text
    assert "0 of 6 labels differ" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--codec", "png", "--quality", "89"), 2, "--quality 89 goes with --codec jpeg or webp, not png"),
        (("--codec", "webp", "--subsampling", "4:2:0"), 2, "--subsampling 4:2:0 goes with --codec jpeg, not webp"),
        (("--codec", "png", "--rate", "0.5"), 2, "--rate 0.5 goes with --codec neural, not png"),
        (
            ("--codec", "png", "--strength", "nan"),
            2,
            "strength must be between 0 (the original) and 1 (the paper's perturbation), got nan",
        ),
        (("--rate", "1.5"), 2, "rate must be between 0 (the fewest bits) and 1 (the most), got 1.5"),
        (
            ("--rate", "0.4"),
            2,
            "this compressor has one rate, 0, got rate 0.4: train a variable-rate one with `workbench train",
        ),
        (("--codec", "jpeg", "--quality", "96"), 2, "JPEG quality must be a whole number from 1 to 95, got 96"),
        (("--codec", "jpeg", "--subsampling", "4:1:1"), 2, "unknown chroma subsampling '4:1:1'"),
        (("--codec", "png", "--client-quality", "0"), 2, "JPEG quality must be a whole number from 1 to 95, got 0"),
        (("--codec", "png", "--generator-variant", "../x"), 2, "variant '../x' must be"),
        (("--dataset", "cifar"), 2, "unknown data set 'cifar': did you mean 'cifar10'?"),
        (("--dataset", "folder"), 2, "data set 'folder' needs --data-dir"),
        (("--dataset", "cifar10", "--data-dir", "/nowhere/at/all"), 1, "data folder '/nowhere/at/all' does not exist"),
        (("--target", "resnet81"), 2, "unknown classifier 'resnet81': did you mean 'resnet18'?"),
        (("--auxiliary", "resnet34", "--codec", "png"), 1, "no weights 'resnet34' for data set 'digits'"),
        (("--dataset", "samples", "--codec", "png"), 1, "no weights 'resnet18' for data set 'cifar10'"),
        (("--codec", "png", "--generator-variant", "other"), 1, f"no weights '{TARGET}-X-{AUXILIARY}@other'"),
        (("--codec", "png", "--variant", "nosuch"), 2, "--variant nosuch names a compressor, and the codec png has none"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    arguments: tuple[str, ...], status: int, message: str, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fails_in_one_line(capsys, "evaluate", *PAIR, "--limit", "4", *arguments)
    assert message in line
    assert code == status


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
@pytest.mark.parametrize("command", [("evaluate", "--codec", "png"), ("train", "classifier")])
def test_a_gpu_that_is_not_there_is_one_line(
    command: tuple[str, ...], tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fails_in_one_line(capsys, *command, *PAIR, "--device", "cuda")
    assert code == 2
    assert "torch sees no CUDA GPU" in line


def interrupted(arguments: Sequence[str], data: Path, ready: Callable[[bytes], bool]) -> tuple[int, bytes, str]:
    """Start the command, and send Ctrl-C once `ready` accepts its output. Return its status and its outputs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "WORKBENCH_DATA": str(data), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stderr is not None
        said = b""
        while not ready(said):
            chunk = os.read(process.stderr.fileno(), 4096)
            assert chunk, said.decode()
            said += chunk
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, (said + err).decode()


# --- audit -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_efforts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EFFORTS:
        monkeypatch.setitem(EFFORTS, name, Effort(pairs=40, passes=64, width=4, steps=2, reader=8))


AUDIT = ("audit", *PAIR, "--limit", "6", "--seeds", "1", "--device", "cpu")


def test_what_the_command_offers_is_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit_command.VIEWS == VIEWS
    assert tuple(ATTACKERS) == audit_command.ATTACKERS
    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    said = "".join(capsys.readouterr().out.split())
    for choices in (VIEWS, tuple(ATTACKERS), SOURCES):
        assert "{" + ",".join(choices) + "}" in said


def test_audit_prints_exactly_one_json_object_and_keeps_the_same(
    tiny_data: Path, tiny_efforts: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, shown = tmp_path / "audit.json", tmp_path / "audit.html"
    assert main([*AUDIT, "--view", "label", "--json", "--output", str(path), "--page", str(shown)]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert json.loads(path.read_text()) == result
    assert (result["n"], result["seeds"], result["dataset"]) == (6, 1, "scikit-learn digits")
    assert (result["target"], result["auxiliary"]) == (TARGET, AUXILIARY)
    assert [row["attacker"] for row in result["rows"]] == ["invert", "prior", "replay"]
    assert {row["view"] for row in result["rows"]} == {"label"}
    assert all(len(sha) == 64 for sha in result["weights"].values())
    assert "audit: 100%" in err
    assert shown.read_text(encoding="utf-8") == privacy_report.render(result)
    assert {each.name for each in tmp_path.iterdir() if each.is_file()} == {"audit.json", "audit.html"}
    assert not list((tiny_data / "runs" / "audits").iterdir()), "an audit that ended leaves no figures of attackers"


def test_audit_takes_its_options(tiny_data: Path, tiny_efforts: None, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--view", "perturbed", "--attacker", "undo", "--codec", "png", "--strength", "0.5", "--pairs", "30")
    assert main([*AUDIT, *options, "--source", "noise", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["rows"]
    assert (row["attacker"], row["pairs"], row["source"], row["strength"]) == ("undo", 30, "noise", 0.5)
    assert result["codec"] == "png"
    assert "compressor" not in result["weights"]
    assert result["sends"] == [], "replay did not run"
    assert main([*AUDIT, "--view", "perturbed", "--attacker", "replay", "--codec", "png", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["sends"] for row in result["sends"]] == ([1, 2, 4, 8, 16] if result["noise"] else [1])


def test_audit_refuses_membership_on_too_few_pictures_at_once(
    tiny_data: Path, tiny_efforts: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("workbench.audit.Audit.converge")  # it would run first
    assert main(["audit", *PAIR, "--limit", "1000", "--seeds", "1", "--device", "cpu", "--converge", "--membership"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the membership test of 1000 images needs at least 1008 training images" in line
    assert line.endswith("has 697: audit fewer images")


def test_audit_says_the_same_to_people(
    tiny_data: Path, tiny_efforts: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.json"
    assert main([*AUDIT, "--view", "perturbed", "--attacker", "undo", "--codec", "png", "--output", str(path)]) == 0
    result, text = json.loads(path.read_text()), capsys.readouterr().out
    assert f"{TARGET} protected against {AUXILIARY}, png, strength 1" in text
    assert "n = 6 test images" in text
    for row in (*result["controls"], *result["rows"]):
        assert f"{row['psnr']['value']:.1f} [{row['psnr']['low']:.1f}, {row['psnr']['high']:.1f}]" in text
    assert f"perturbed: at best {result['verdict']['perturbed']['over']['psnr']:+.2f} dB" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("--attacker", "read", "--view", "payload"),
            2,
            "attacker 'read' does not work on view 'payload': on perturbed, decoded",
        ),
        (("--attacker", "read", "--source", "noise"), 2, "nothing to try: read on perturbed, decoded, payload, label"),
        (("--rate", "nan"), 2, "rate must be between 0"),
        (("--codec", "png", "--variant", "nosuch"), 2, "--variant nosuch names a compressor, and the codec png has none"),
        (("--membership", "--view", "payload"), 2, "works on the views perturbed and decoded, not on payload"),
        (("--pairs", "100000"), 1, "100000 pairs were requested, the training split of scikit-learn digits has 697"),
        (("--dataset", "cifar"), 2, "unknown data set 'cifar': did you mean 'cifar10'?"),
        (("--generator-variant", "other"), 1, f"no weights '{TARGET}-X-{AUXILIARY}@other'"),
        (("--output", "/dev/null/audit.json"), 1, "cannot write /dev/null"),
        (("--page", "/dev/null/audit.html"), 1, "cannot write /dev/null"),
    ],
)
def test_what_cannot_be_audited_is_one_line(
    arguments: tuple[str, ...], status: int, message: str, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fails_in_one_line(capsys, *AUDIT, *arguments)
    assert message in line
    assert code == status


@pytest.mark.parametrize("arguments", [("--view", "png"), ("--attacker", "guess"), ("--seeds", "0"), ("--source", "mine")])
def test_a_wrong_call_of_audit_exits_with_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["audit", *arguments])
    assert end.value.code == 2
    assert "usage: workbench audit" in capsys.readouterr().err


@pytest.mark.system
def test_ctrl_c_while_auditing_keeps_the_old_file(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text("before")
    command = (*AUDIT, "--json", "--output", str(tmp_path / "audit.json"))
    status, out, text = interrupted(command, tiny_data, lambda said: b"audit:" in said)
    assert status == 130, text
    assert out == b""
    assert "Traceback" not in text
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"audit.json": "before"}


# --- train -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace all presets by one training step with eight images."""
    tiny = TrainingSettings(1, 8, 1e-3, 0.0, max_images=8, validation_images=8, width=2, classifier_width=4, noise=0.1)
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, dict.fromkeys(("classifier", "generator", "compressor"), tiny))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("train", "pair", "--preset", "fast"), 2, "unknown preset 'fast': choose one of hours, paper, quick"),
        (
            (
                "train",
                "generator",
            ),
            1,
            "no weights 'resnet18' for data set 'digits'",
        ),
        (
            (
                "train",
                "compressor",
            ),
            1,
            "no weights",
        ),
        (("train", "generator", "--ssim-weight", "-1"), 2, "the SSIM weight must be a number from 0 up, got -1.0"),
        (("train", "classifier", "--target", "resnet"), 2, "unknown classifier 'resnet'"),
        (("train", "generator", "--variant", "a b"), 2, "variant 'a b' must be"),
        (("train", "classifier", "--dataset", "samples"), 1, "the samples have no train split"),
        (("train", "classifier", "--noise", "0.2"), 2, "--noise 0.2 goes with `train generator`, not with `train classifier`"),
        (
            ("train", "pair", "--against-inversion", "2"),
            2,
            "--against-inversion 2.0 goes with `train generator`, not with `train pair`",
        ),
        (("train", "compressor", "--start", "x"), 2, "--start x goes with `train generator`, not with `train compressor`"),
        (
            ("train", "compressor", "--eye-weight", "5"),
            2,
            "--eye-weight 5.0 goes with `train generator` or `train joint` or `train pair` or `train all`, not with",
        ),
        *(
            (("train", what, option, value), 2, f"{option} {value} goes with `train generator`")
            for what, option, value in (
                ("compressor", "--auxiliary-term", "bounded"),
                ("classifier", "--ssim-term", "signed"),
                ("encoder", "--ssim-weight", "1.0"),
                ("classifier", "--leakage-weight", "1.0"),
            )
        ),
        (("train", "generator", "--loss", "rate-accuracy"), 2, "--loss rate-accuracy goes with `train compressor`"),
        (("train", "generator", "--weight", "0.1"), 2, "--weight 0.1 goes with `train compressor`"),
        *(
            (("train", what, "--generator-variant", "paper"), 2, "--generator-variant paper goes with `train compressor`")
            for what in ("generator", "pair", "all")
        ),
        *(
            (("train", what, "--variant", "paper"), 2, "with `workbench train compressor --generator-variant paper`")
            for what in ("compressor", "joint")
        ),
        (("train", "generator", "--noise", "2"), 2, "standard deviation must be between 0 and 1, got 2.0"),
        (("train", "generator", "--against-inversion", "-1"), 2, "the adversary's weight must be a number from 0 up, got -1.0"),
        (("train", "generator", "--strength", "3"), 2, "strength must be between 0"),
        (("train", "pair", "--rate", "0.5"), 2, "--rate 0.5 goes with `train compressor`, not with `train pair`"),
        (("train", "compressor", "--rate", "2"), 2, "rate must be between 0"),
        (
            ("train", "compressor", "--loss", "rate-distortion", "--rate", "0.5"),
            2,
            "one rate, set by the weight of its loss, got rate 0.5",
        ),
        (("reproduce", "--notebooks", "explor"), 2, "unknown notebook 'explor': did you mean 'explore'?"),
        (("reproduce", "--resume", "2001-01-01"), 1, "no run to resume at"),
        (("reproduce", "--resume"), 1, "no run to resume at"),
        (("reproduce", "--dataset", "cifar11"), 2, "unknown data set 'cifar11'"),
        (("reproduce", "--preset", "fast"), 2, "unknown preset 'fast'"),
        (("reproduce", "--target", "resnet81"), 2, "unknown classifier 'resnet81'"),
        *(
            (("import-weights", "resnet18.pt", "--dataset", name), 2, f"unknown data set {name!r}")
            for name in ("../../escaped", "cifar", "samples", "folder")
        ),
    ],
)
def test_what_cannot_be_trained_or_imported_is_one_line(
    arguments: tuple[str, ...], status: int, message: str, empty_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fails_in_one_line(capsys, *arguments)
    assert message in line
    assert code == status
    assert {path.name for path in empty_data.glob("runs/*")} <= ({"checkpoints"} if arguments[0] == "train" else set()), (
        "no run"
    )


def test_an_unwritable_data_folder_is_one_line_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_presets: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "file" / "data"))
    code, line = fails_in_one_line(capsys, "train", "classifier", "--target", AUXILIARY, "--device", "cpu")
    assert code == 1
    assert str(tmp_path / "file") in line


def test_train_says_where_the_weights_are_and_how_good(
    empty_data: Path, tiny_presets: None, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--target", AUXILIARY, "--auxiliary", AUXILIARY, "--device", "cpu")
    assert main(["train", "classifier", *names]) == 0
    assert main(["train", "generator", *names, "--auxiliary-term", "bounded", "--ssim-weight", "3", "--variant", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in lines:
        path = Path(line.partition("  ")[0])
        assert path.is_file()
        assert path.is_relative_to(empty_data)
        assert "accuracy " in line
        assert line.endswith("(validation)")
    manifest = weights.find(f"{AUXILIARY}-X-{AUXILIARY}@mine", "digits")
    assert manifest is not None
    assert (manifest.training["loss"]["auxiliary"], manifest.training["loss"]["ssim_weight"]) == ("bounded", 3.0)


def test_train_generator_takes_a_defence(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_presets: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_root, tmp_path / "data")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    name = f"{TARGET}-X-{AUXILIARY}"
    defence = ("--against-inversion", "3", "--noise", "0.2", "--strength", "0.8", "--start", name, "--variant", "hardened")
    assert main(["train", "generator", *PAIR, "--device", "cpu", *defence]) == 0
    assert f"{name}@hardened." in capsys.readouterr().out
    manifest, start = weights.find(f"{name}@hardened", "digits"), weights.find(name, "digits")
    assert manifest is not None
    assert start is not None
    assert manifest.spec["noise"] == 0.2
    kept = manifest.training["loss"]
    assert kept["start"] == start.sha256
    assert {key: kept["defence"][key] for key in ("weight", "noise", "strength")} == {
        "weight": 3,
        "noise": 0.2,
        "strength": 0.8,
    }


def test_train_pair_trains_nothing_that_is_there(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in tiny_data.rglob("*"))
    assert main(["train", "pair", *PAIR]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    (line,) = err.splitlines()
    assert line.startswith(f"workbench: reused as they are: {TARGET}, {AUXILIARY}, {TARGET}-X-{AUXILIARY}, ")
    assert sorted(path.name for path in tiny_data.rglob("*")) == before


@pytest.fixture
def shipped(pair: weights.Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the tiny pair as weights that ship."""
    weights.export("digits", TARGET, AUXILIARY, tmp_path / "weights")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    return tmp_path / "weights"


@pytest.mark.parametrize("what", ["pair", "all"])
def test_a_shipped_pair_is_reused_and_its_paths_printed(what: str, shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", what, *PAIR, "--seed", "0"]) == 0
    out, err = capsys.readouterr()
    paths = [Path(line.partition("  ")[0]) for line in out.splitlines()]
    assert len(paths) == 4
    for path in paths:
        assert path.is_file()
        assert path.is_relative_to(shipped)
    assert err.rstrip().endswith("use `workbench train classifier`, `workbench train generator`, `workbench train compressor`")


@pytest.mark.parametrize("what", ["pair", "all"])
@pytest.mark.parametrize(
    ("option", "value", "network"),
    [
        ("--eye-weight", "9.0", f"{TARGET}-X-{AUXILIARY}"),
        ("--auxiliary-term", "bounded", f"{TARGET}-X-{AUXILIARY}"),
        ("--loss", "rate-distortion", f"{TARGET}-X-{AUXILIARY}-compressor"),
        ("--seed", "3", TARGET),
        ("--preset", "hours", TARGET),
    ],
)
def test_an_option_that_reused_weights_lack_is_refused(
    what: str, option: str, value: str, network: str, shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = fails_in_one_line(capsys, "train", what, *PAIR, option, value)
    assert code == 2
    assert f"{option} {value} would be ignored, because '{network}' exists already" in line


@pytest.mark.system
def test_ctrl_c_while_training_keeps_the_best_and_says_so(empty_data: Path) -> None:
    command = ("train", "classifier", "--target", AUXILIARY, "--device", "cpu")
    status, out, text = interrupted(command, empty_data, lambda said: b"%|" in said and b" 0/" not in said[-120:])
    assert status == 130, text
    assert "the best so far is kept, the same command goes on from here" in text
    assert "Traceback" not in text
    manifest = weights.find(AUXILIARY, "digits")
    assert manifest is not None
    assert not manifest.complete
    assert manifest.file in out.decode()
    weights.load(AUXILIARY, "digits", "classifier")
    assert [path.suffix for path in (empty_data / "runs" / "checkpoints" / "digits").iterdir()] == [".pt"]


# --- reproduce -------------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_an_interrupted_reproduce_is_resumed_to_its_report(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(runs, "run_batch", stop)
        assert main(["reproduce", *PAIR, "--limit", "8", "--notebooks", "bandwidth"]) == 130
    assert "`workbench reproduce --resume` goes on" in capsys.readouterr().err
    code, line = fails_in_one_line(capsys, "reproduce", "--resume", "--limit", "9")
    assert (code, line) == (2, "workbench: --resume goes on with limit 8, not 9: leave that option away")
    code, line = fails_in_one_line(capsys, "reproduce", "--resume", "--preset", "paper")
    assert "--resume goes on with preset 'quick', not 'paper'" in line
    assert main(["reproduce", "--resume"]) == 0
    out = capsys.readouterr().out
    latest = tiny_data / "runs" / "latest"
    report = Path(out.splitlines()[-1])
    assert report == latest.resolve() / "report.html"
    assert report.is_file()
    assert "codec" in out.splitlines()[0]
    for codec in ("png", "jpeg q89 4:4:4", "webp q89", "neural"):
        assert any(line.startswith(codec) for line in out.splitlines()), codec
    summary = json.loads((report.parent / "summary.json").read_text())
    assert summary["about"]["parameters"]["limit"] == 8
    assert {result["notebook"] for result in summary["results"]} == {"bandwidth"}
    assert [path.name for path in latest.resolve().glob("*.ipynb")] == ["bandwidth.ipynb"]
    executed = (report.parent / "bandwidth.ipynb").stat().st_mtime_ns
    assert main(["reproduce", "--resume"]) == 0
    assert (report.parent / "bandwidth.ipynb").stat().st_mtime_ns == executed
    assert capsys.readouterr().out == out


def test_a_batch_that_is_none_is_one_line(empty_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_data / "runs" / "old").mkdir(parents=True)
    for batch in ("{}", "[]", '{"parameters": {}}', '{"parameters": 3, "notebooks": ["train"]}', "{"):
        (empty_data / "runs" / "old" / "batch.json").write_text(batch)
        line = fails_in_one_line(capsys, "reproduce", "--resume", "old")[1]
        assert line.startswith("workbench: no run to resume at"), batch


@pytest.mark.system
def test_the_report_counts_the_images_that_there_are(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "run_batch", lambda tasks, *_, **__: [])
    assert main(["reproduce", *PAIR, "--limit", "5000", "--notebooks", "train"]) == 0
    summary = json.loads((tiny_data / "runs" / "latest" / "summary.json").read_text())
    assert summary["about"]["n"] == 1000


def test_a_data_set_that_cannot_be_read_leaves_no_run_behind(
    empty_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    fails_in_one_line(capsys, "reproduce", "--dataset", "folder", "--data-dir", str(tmp_path / "none"))
    assert list(empty_data.glob("runs/*")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workbench", "init-deployment", str(tmp_path / "plan.toml")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == "workbench: cannot write to standard output: No space left on device\n"


# --- models and import-weights ---------------------------------------------------------------------------------------------


def test_models_lists_what_can_be_built_and_what_is_there(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("classifiers that can be built: vgg13_bn, vgg16_bn, resnet18")
    assert lines[1].split() == ["kind", "name", "trained", "on", "preset", "validation", "accuracy", "size"]
    names = {AUXILIARY, TARGET, f"{TARGET}-X-{AUXILIARY}", f"{TARGET}-X-{AUXILIARY}-compressor"}
    assert {line.split()[1] for line in lines[3:]} == names
    assert len(lines) == 3 + len(names)
    assert "tiny" in lines[3]
    assert "10.0 %" in lines[3]


def test_models_as_json_is_one_array_of_what_is_there(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert sorted(each["kind"] for each in listed) == ["classifier", "classifier", "compressor", "generator"]
    for each in listed:
        assert Path(each["path"]).stat().st_size == each["bytes"]
        assert len(each["sha256"]) == 64
        assert "history" not in each["training"]


def test_models_without_weights_says_how_to_train_some(empty_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "workbench train pair" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_models_says_of_a_damaged_manifest_which_file_it_is(empty_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = empty_data / "weights" / "digits" / "resnet18.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    torch.manual_seed(0)
    classifier = Classifier(AUXILIARY, width=WIDTH[AUXILIARY])
    spec = weights.describe(classifier)[1]
    weights.save(classifier, weights.Manifest(AUXILIARY, "digits", "classifier", spec, "untrained", 0))
    for arguments in (["models"], ["models", "--json"]):
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert AUXILIARY in out, "the others are listed all the same"
        (line,) = err.splitlines()
        assert line.startswith("workbench: ")
        assert str(path) in line
