"""Trainings that share their batches between two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pair import AUXILIARY
from workbench import weights

FEW = """
from dataclasses import replace
from workbench import data
from workbench.training import loop, recipes
from workbench.training import TrainingSettings

digits = data.DATASETS["digits"]

def few(directory):
    made = digits(directory)
    sizes = {"train": IMAGES, "validation": 16, "test": 16}
    return data.Dataset("digits", "few digits", "digits", made.classes, False, lambda name: getattr(made, name).head(sizes[name]))

data.DATASETS["digits"] = few
tiny = TrainingSettings(1, 16, 1e-3, 0.0, max_images=32, width=2, noise=0.1, classifier_width=4)
recipes.PRESETS["quick"] = dict.fromkeys(("classifier", "generator", "compressor"), tiny)
"""


COMMAND = """
import sys
from workbench.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""


UNEQUAL = """
import os
from pathlib import Path
import torch
from workbench.training.objectives import ClassifierObjective
from torch import nn

first = "LOCAL_RANK" not in os.environ
loop.CHECKPOINT_EVERY_S = 0.0 if first else 1e9  # the two clocks never agree
torch.manual_seed(5)
network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
dataset = data.load("digits")
outcome = loop.fit(
    ClassifierObjective(network), dataset.train, dataset.validation, TrainingSettings(3, 16, 1e-3, 0.0),
    label="two", checkpoint=Path("two.pt"), identity={}, device="cpu", devices=2,
)
if first:
    print("ended", outcome.complete, [entry["step"] for entry in outcome.history])
"""


def run_script(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"it did not end: {err[-2000:]}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.system
def test_two_processes_leave_one_set_of_weights(tmp_path: Path, empty_data: Path) -> None:
    names = ("--target", AUXILIARY, "--auxiliary", AUXILIARY)
    script = FEW.replace("IMAGES", "48") + COMMAND
    done = run_script(
        tmp_path, script, "train", "pair", *names, "--loss", "rate-distortion", "--device", "cpu", "--devices", "2"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pair = weights.load_pair(
        "digits", AUXILIARY, AUXILIARY
    )  # checks every hash, and that the networks were trained against each other
    assert all(manifest.complete for manifest in pair.manifests.values())
    folder = empty_data / "runs" / "weights" / "digits"
    manifests = {manifest.name: manifest for manifest in pair.manifests.values()}
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.json" for name in manifests),
        *(manifest.file for manifest in manifests.values()),
    }
    assert [line.split()[0] for line in done.stdout.splitlines()] == [str(folder / each.file) for each in manifests.values()]
    assert not list(empty_data.rglob("*.pt"))


@pytest.mark.system
def test_two_processes_end_with_a_last_batch_of_one_image(tmp_path: Path) -> None:
    done = run_script(tmp_path, FEW.replace("IMAGES", "49") + UNEQUAL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "ended True [4, 8, 12]\n"


@pytest.mark.system
def test_two_processes_that_learn_in_turns_come_to_an_end(tmp_path: Path, own_data: Path) -> None:
    names = ("--target", AUXILIARY, "--auxiliary", AUXILIARY, "--variant", "hardened")
    script = FEW.replace("IMAGES", "48") + COMMAND
    hardened = ("--against-inversion", "2", "--noise", "0.1")
    done = run_script(tmp_path, script, "train", "generator", *names, *hardened, "--device", "cpu", "--devices", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = weights.find(f"{AUXILIARY}-X-{AUXILIARY}@hardened", "digits")
    assert manifest is not None
    assert manifest.complete
    assert manifest.spec["noise"] == 0.1
