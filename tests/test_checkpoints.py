"""The public baseline's checkpoints brought in, and refused where they would do more than hold tensors."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import weights
from workbench.checkpoints import import_checkpoint
from workbench.classifiers import Classifier
from workbench.errors import WeightsError

from test_weights import PAIR, PAIR_NAME, classifier, generator, pictures, same  # isort: skip


def test_a_state_dict_of_the_classifiers_project_becomes_a_classifier_with_the_same_answers(
    empty_data: Path, tmp_path: Path
) -> None:
    original = classifier()
    torch.save(original.network.state_dict(), tmp_path / "mobilenet_v2.pt")
    (imported,) = import_checkpoint(tmp_path / "mobilenet_v2.pt")
    assert (imported.name, imported.family, imported.kind, imported.data) == (
        "mobilenet_v2",
        "cifar10",
        "classifier",
        "imported",
    )
    assert imported.training == {
        "imported_from": "mobilenet_v2.pt",
        "imported_sha256": hashlib.sha256((tmp_path / "mobilenet_v2.pt").read_bytes()).hexdigest(),
    }
    loaded, _ = weights.load("mobilenet_v2", "cifar10", "classifier")
    assert torch.equal(loaded(pictures()), original(pictures()))


def test_a_classifier_of_other_classes_is_recognised_by_its_shapes(empty_data: Path, tmp_path: Path) -> None:
    torch.save(Classifier("mobilenet_v2", 7).network.state_dict(), tmp_path / "seven.pt")
    (imported,) = import_checkpoint(tmp_path / "seven.pt", family="pets")
    assert imported.spec == {"name": "mobilenet_v2", "num_classes": 7}
    assert imported.family == "pets"


Save = Callable[[Path, dict[str, Any]], None]


class AttributeDict(dict[str, Any]):
    """As Lightning keeps hyper-parameters."""


class ModelCheckpoint:
    """As Lightning names the callback whose state a checkpoint carries."""


@pytest.fixture
def lightning() -> Save:
    """Save a checkpoint as Lightning does, its classes under Lightning's names, which are gone again when it is read."""
    homes = {
        AttributeDict: "pytorch_lightning.utilities.parsing",
        ModelCheckpoint: "pytorch_lightning.callbacks.model_checkpoint",
    }

    def save(path: Path, content: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for kind, home in homes.items():
                parts = home.split(".")
                for depth in range(1, len(parts) + 1):
                    name = ".".join(parts[:depth])
                    patch.setitem(sys.modules, name, sys.modules.get(name) or types.ModuleType(name))
                patch.setattr(sys.modules[home], kind.__name__, kind, raising=False)
                patch.setattr(kind, "__module__", home)
            torch.save(content, path)
        assert not any(name.startswith("pytorch_lightning") for name in sys.modules)

    return save


def checkpoint(hyper_parameters: Any, **networks: torch.nn.Module) -> dict[str, Any]:
    """What Lightning saves of the baseline's training."""
    return {
        "epoch": 99,
        "global_step": 19_500,
        "pytorch-lightning_version": "1.0.2",
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "best_model_path": "epoch=99.ckpt"}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}],
        "lr_schedulers": [{"last_epoch": 99}],
        "state_dict": {
            f"{prefix}.{key}": value for prefix, module in networks.items() for key, value in module.state_dict().items()
        },
        "hyper_parameters_name": "hparams",
        "hyper_parameters": hyper_parameters,
    }


HYPER_PARAMETERS = {"model_A": "mobilenet_v2", "model_B": "resnet18", "learning_rate": 5e-3, "gpu_id": "0", "max_epochs": 100}


def test_a_lightning_checkpoint_becomes_a_pair_with_the_same_answers(lightning: Save, empty_data: Path, tmp_path: Path) -> None:
    target, auxiliary, attack = classifier(1), classifier(2, "resnet18"), generator(3)
    networks = {"model_A": target.network, "model_B": auxiliary.network, "attack_model": attack.unet}
    lightning(tmp_path / "epoch=99.ckpt", checkpoint(AttributeDict(HYPER_PARAMETERS), **networks))
    imported = import_checkpoint(tmp_path / "epoch=99.ckpt")
    assert [each.name for each in imported] == ["mobilenet_v2", "resnet18", "mobilenet_v2-X-resnet18"]
    assert imported[2].depends == {"target": imported[0].sha256, "auxiliary": imported[1].sha256}
    pair = weights.load_pair("cifar10", "mobilenet_v2", "resnet18", compressor=False)
    assert torch.equal(pair.target(pictures()), target(pictures()))
    assert torch.equal(pair.auxiliary(pictures()), auxiliary(pictures()))
    assert torch.equal(pair.generator(pictures()), attack(pictures()))


@pytest.mark.parametrize(
    "container", [AttributeDict, dict, lambda values: argparse.Namespace(**values)], ids=["Lightning", "dict", "args"]
)
def test_the_models_are_read_from_hyper_parameters_of_every_kind(
    container: Callable[[Any], Any], lightning: Save, empty_data: Path, tmp_path: Path
) -> None:
    lightning(tmp_path / "last.ckpt", checkpoint(container(HYPER_PARAMETERS), attack_model=generator().unet))
    (imported,) = import_checkpoint(tmp_path / "last.ckpt")
    assert imported.name == "mobilenet_v2-X-resnet18"
    loaded, _ = weights.load(imported.name, "cifar10", "generator")
    assert torch.equal(loaded(pictures()), generator()(pictures()))


def test_a_checkpoint_of_one_model_against_itself_becomes_a_pair(lightning: Save, empty_data: Path, tmp_path: Path) -> None:
    values = AttributeDict(model_A="mobilenet_v2", model_B="mobilenet_v2")
    content = checkpoint(values, model_A=classifier().network, attack_model=generator().unet)
    lightning(tmp_path / "last.ckpt", content)
    assert [each.name for each in import_checkpoint(tmp_path / "last.ckpt")] == ["mobilenet_v2", PAIR_NAME]
    assert same(weights.load_pair("cifar10", *PAIR, compressor=False).generator, generator())


def test_a_generator_alone_needs_to_be_told_its_models(empty_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "generator.ckpt"
    torch.save(checkpoint({}, attack_model=generator().unet) | {"callbacks": {}}, path)
    with pytest.raises(WeightsError, match="name them with --target and --auxiliary"):
        import_checkpoint(path)
    (imported,) = import_checkpoint(path, "digits", "resnet18", "vgg13_bn")
    assert (imported.name, imported.family, imported.depends) == ("resnet18-X-vgg13_bn", "digits", {})


def test_a_checkpoint_whose_model_is_another_than_it_says_is_refused(empty_data: Path, tmp_path: Path) -> None:
    content = checkpoint({}, model_A=classifier().network, attack_model=generator().unet) | {"callbacks": {}}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match="holds a mobilenet_v2 as target, not a resnet18"):
        import_checkpoint(tmp_path / "x.ckpt", target="resnet18", auxiliary="vgg13_bn")


def test_a_generator_tensor_of_a_wrong_shape_is_named(empty_data: Path, tmp_path: Path) -> None:
    content = checkpoint({}, attack_model=generator().unet) | {"callbacks": {}}
    content["state_dict"]["attack_model.outc.f.weight"] = torch.zeros(3, 9, 1, 1)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match=r"x\.ckpt: tensor 'outc\.f\.weight' is \(3, 9, 1, 1\)"):
        import_checkpoint(tmp_path / "x.ckpt", target="resnet18", auxiliary="vgg13_bn")
    assert list(weights.listing()) == []


def test_of_a_checkpoint_that_fits_in_part_nothing_is_kept(empty_data: Path, tmp_path: Path) -> None:
    whole = checkpoint({}, model_A=classifier().network, attack_model=generator().unet) | {"callbacks": {}}
    missing = {key: value for key, value in whole["state_dict"].items() if key != "attack_model.outc.f.weight"}
    for state, message in (
        (missing, "tensor 'outc.f.weight' is missing"),
        ({**whole["state_dict"], "attack_model.inc.f.0.weight": torch.tensor(1.0)}, "the network needs"),
    ):
        torch.save({**whole, "state_dict": state}, tmp_path / "x.ckpt")
        with pytest.raises(WeightsError, match=message):
            import_checkpoint(tmp_path / "x.ckpt", target="mobilenet_v2", auxiliary="vgg13_bn")
        assert list(weights.listing()) == []


class Trap:
    """Pickles into a call of the shell."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.sprung))}",)


@pytest.mark.parametrize("how", ["torch.save", "pickle", "beside tensors"])
def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(empty_data: Path, tmp_path: Path, how: str) -> None:
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    elif how == "torch.save":
        torch.save(Trap(sprung), path)
    else:
        torch.save({"state_dict": generator().unet.state_dict(), "hyper_parameters": Trap(sprung)}, path)
    with pytest.raises(WeightsError, match="not a checkpoint of plain tensors") as caught:
        import_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not sprung.exists()
    assert list(weights.listing()) == []
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert sprung.exists(), "the trap was none"


@pytest.mark.parametrize("content", [b"", b"just a text file\n" * 20, b"PK\x03\x04 no archive", b"\x80\x02."])
def test_a_file_that_is_no_checkpoint_is_refused(empty_data: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"notes\.pt is not a checkpoint of plain tensors") as caught:
        import_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(empty_data: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pt", tmp_path):
        with pytest.raises(WeightsError, match="cannot read"):
            import_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(3)], {}, {"epoch": 3}, {"state_dict": {"a": 1}}, {"state_dict": {3: torch.zeros(1)}}, torch.zeros(2)],
    ids=["list", "empty", "no tensors", "numbers", "no names", "tensor"],
)
def test_a_checkpoint_without_tensors_by_name_is_refused(empty_data: Path, tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"holds (a|no) "):
        import_checkpoint(tmp_path / "x.pt")


def test_tensors_that_fit_no_classifier_are_refused(empty_data: Path, tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(10, 3), "layer.bias": torch.zeros(10)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"fits none of .*resnet18.* \(2 tensors\)"):
        import_checkpoint(tmp_path / "x.pt")
