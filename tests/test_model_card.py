"""A pair's model card repeats its manifests, and only has figures that were measured with these weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.__main__ import main
from workbench.errors import UsageError
from workbench.metrics import wilson
from workbench.model_card import card
from workbench.weights import Pair

PAIR = ("--target", "resnet18", "--auxiliary", "mobilenet_v2")
TRAINED: dict[str, Any] = {
    "preset": "hours",
    "epochs": 40,
    "batch": 128,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "optimizer": "sgd",
    "warmup": 0.15,
    "hold": 0.7,
    "max_images": None,
    "crop": 4,
    "erase": 10,
    "smoothing": 0.1,
    "sizes": [[0.0, 24], [0.5, 32]],
    "captured": True,
    "images": 50_000,
    "division": "torch's generator seeded 0",
    "validation_images": 5000,
    "seconds": 7200.0,
    "pflop": 1.25,
    "computed_in": "bf16-mixed",
    "device": "NVIDIA H200",
}


@pytest.fixture
def trained(networks: Pair) -> Pair:
    start = {**TRAINED, "seconds": 360.0, "pflop": 0.5}
    training = {role: {**TRAINED, "seconds": 3600.0 * (place + 1)} for place, role in enumerate(networks.manifests)}
    training["generator"]["loss"] = {"auxiliary": "bounded", "leakage_weight": 1.0, "start": "abc", "before": start}
    manifests = {
        role: replace(manifest, training=training[role], metrics={"accuracy": 0.9312})
        for role, manifest in networks.manifests.items()
    }
    return replace(networks, manifests=manifests)


def result(pair: Pair, **more: Any) -> dict[str, Any]:
    share = wilson(4650, 5000).as_dict()
    size = {"value": 0.446, "low": 0.44, "high": 0.452, "n": 5000}
    accuracies = dict.fromkeys(("original_accuracy", "target_accuracy", "auxiliary_accuracy"), share)
    return {"n": 5000, "codec": "neural", "strength": 1.0, "weights": pair.sha256(), **accuracies, "s2_bytes": size, **more}


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def cells(text: str, first: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_a_card_has_a_section_for_all_that_a_reader_must_know(trained: Pair) -> None:
    text = card(trained)
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["Networks", "Data", "Recipe", "Cost", "Figures", "Intended use", "Limits"]
    assert "NVIDIA H200" in text
    assert "50,000 images, as the client's JPEG leaves them; division: torch's generator seeded 0" in text
    assert "40 epochs at most, batch 128, warm-up 0.15, rate held until 0.7, 24 px from 0, 32 px from 0.5" in text
    assert all(f"`{manifest.sha256[:16]}`" in text for manifest in trained.manifests.values())


def test_the_cost_is_the_sum_of_all_trainings(trained: Pair) -> None:
    text = card(trained)
    rows = [cells(section(text, "Cost"), name) for name in ("target", "generator's start", "generator", "all")]
    assert rows[0][1:3] == ["1.25", "1"]
    assert rows[1][1:3] == ["0.5", "0.1"]
    assert rows[2][1:3] == ["1.25", "3"]
    assert rows[3][1:3] == ["5.5", "10"]


def test_a_joint_training_is_counted_once(trained: Pair) -> None:
    training = {**trained.manifests["generator"].training, "seconds": 1800.0, "loss": {}}
    manifests = {
        role: replace(manifest, training=training if role in ("generator", "compressor") else manifest.training)
        for role, manifest in trained.manifests.items()
    }
    assert cells(section(card(replace(trained, manifests=manifests)), "Cost"), "all")[1:3] == ["3.75", "3.5"]


def test_figures_carry_their_intervals(trained: Pair) -> None:
    text = card(trained, [result(trained)])
    assert cells(section(text, "Figures"), "target")[1] == wilson(4656, 5000).percent()
    row = cells(text, "neural, 1, 5,000")
    assert row[1] == "93.00 % [92.26, 93.67]"
    assert row[4] == "0.446 [0.440, 0.452]"
    assert row[5] == "-", "what was not measured"


def test_a_result_of_other_weights_is_refused(trained: Pair) -> None:
    other = result(trained, weights={**trained.sha256(), "target": "f" * 64})
    with pytest.raises(UsageError, match=r"a result was measured with another target \(ffffffff\) than the pair's"):
        card(trained, [other])
    with pytest.raises(UsageError, match="an object of `workbench evaluate --json`"):
        card(trained, [{"n": 3}])


def test_limits_name_what_this_pair_lacks(trained: Pair) -> None:
    manifests = {**trained.manifests, "generator": replace(trained.manifests["generator"], complete=False)}
    narrow = replace(trained.manifests["target"], spec={**trained.manifests["target"].spec, "width": 4})
    text = card(replace(trained, manifests={**manifests, "target": narrow}))
    assert "The training of the generator was stopped early." in text
    assert "The target has 1/4 of the papers' width." in text
    assert "an observer of the perturbed view can recognise a repeat" in text
    assert "stopped early" not in card(trained)


def test_weights_without_a_record_of_their_training_have_a_card(networks: Pair) -> None:
    text = card(networks)
    assert "not recorded" in text
    assert "No figures of the test images were given" in text


def test_the_command_writes_the_card_next_to_the_weights(
    networks: Pair, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "neural.json").write_text(json.dumps(result(networks)))
    output = tmp_path / "card.md"
    command = ("model-card", *PAIR, "--results", str(tmp_path / "neural.json"), "--output", str(output))
    assert main(command) == 0
    assert output.read_text(encoding="utf-8") == card(networks, [result(networks)])
    assert main(("model-card", *PAIR)) == 0
    assert capsys.readouterr().out == card(networks)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read as JSON"), ("[]", "holds no JSON object")])
def test_what_is_no_result_is_one_line(
    content: str | None, message: str, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    assert main(("model-card", *PAIR, "--results", str(path))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert message in line
