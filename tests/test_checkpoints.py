"""The public baseline's checkpoints are imported, and refused if they contain more than tensors."""

from __future__ import annotations

import argparse
import functools
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
import safetensors.torch
import torch

from tests.support import networks
from tests.support.networks import PAIR, PAIR_NAME, generator, pictures, same
from workbench import models, weights
from workbench.__main__ import main
from workbench.checkpoints import import_checkpoint
from workbench.classifiers import Classifier
from workbench.errors import WeightsError


@functools.cache
def classifier(seed: int = 0, name: str = "mobilenet_v2") -> Classifier:
    return networks.classifier(seed, name, width=1)


def test_a_public_state_dict_becomes_the_same_classifier(empty_data: Path, tmp_path: Path) -> None:
    original = classifier()
    torch.save(original.network.state_dict(), tmp_path / "mobilenet_v2.pt")
    (imported,) = import_checkpoint(tmp_path / "mobilenet_v2.pt")
    identity = (imported.name, imported.family, imported.kind, imported.data)
    assert identity == ("mobilenet_v2", "cifar10", "classifier", "imported")
    assert imported.training == {
        "imported_from": "mobilenet_v2.pt",
        "imported_sha256": hashlib.sha256((tmp_path / "mobilenet_v2.pt").read_bytes()).hexdigest(),
    }
    loaded, _ = weights.load("mobilenet_v2", "cifar10", "classifier")
    assert torch.equal(loaded(pictures()), original(pictures()))


# --- files as training scripts write them --------------------------------------------------------------------------------


def shuffled(state: dict[str, Any]) -> dict[str, Any]:
    order = torch.randperm(len(state), generator=torch.Generator().manual_seed(0)).tolist()
    items = list(state.items())
    return {items[index][0]: items[index][1] for index in order}


def prefixed(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


MEAN = {"normalize.mean": torch.zeros(3), "normalize.std": torch.ones(3)}
WRITTEN: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "in any order": (shuffled, []),
    "module.": (prefixed("module."), ["prefix 'module.' removed"]),
    "model.": (prefixed("model."), ["prefix 'model.' removed"]),
    "_orig_mod.module.": (prefixed("_orig_mod.module."), ["prefix 'module.', '_orig_mod.' removed"]),
    "module.module.": (prefixed("module.module."), ["prefix 'module.' removed"]),
    "backbone.encoder.": (prefixed("backbone.encoder."), ["prefix 'backbone.encoder.' removed"]),
    "_orig_mod. inside": (
        lambda state: {key.replace("features.", "features._orig_mod."): value for key, value in state.items()},
        ["prefix '_orig_mod.' removed"],
    ),
    "next to a normalisation": (
        lambda state: {**MEAN, **prefixed("model.")(state)},
        ["prefix 'model.' removed, 2 other tensors were not read"],
    ),
    "net": (lambda state: {"net": state, "acc": torch.tensor(93.0), "epoch": 9}, ["read from 'net'"]),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 9, "best_prec1": 93.1}, []),
    "model": (lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}}, ["read from 'model'"]),
    "another name": (lambda state: {"student": state, "epoch": 9}, ["read from 'student'"]),
    "nested": (
        lambda state: {"checkpoint": {"model": prefixed("module.")(state)}, "args": {"lr": 0.1}},
        ["read from 'checkpoint.model'", "prefix 'module.' removed"],
    ),
    "optimizer with tensors": (
        lambda state: {
            "net": state,
            "optimizer": {f"m.{key}": value for key, value in state.items()} | {"extra": torch.zeros(1)},
        },
        ["read from 'net'"],
    ),
    "with an average": (lambda state: {"model": state, "ema": dict(state)}, ["read from 'model'", "'ema' was not read"]),
    "without counters": (lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, []),
    "in 16 bits": (lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()}, []),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_classifier_is_recognised_however_its_file_was_written(how: str, empty_data: Path, tmp_path: Path) -> None:
    write, notes = WRITTEN[how]
    state = classifier().network.state_dict()
    torch.save(write(state), tmp_path / "x.pt")
    (imported,) = import_checkpoint(tmp_path / "x.pt")
    assert (imported.name, imported.spec["num_classes"]) == ("mobilenet_v2", 10)
    assert imported.training.get("import_notes", []) == notes
    stored = safetensors.torch.load_file(empty_data / "runs" / "weights" / "cifar10" / imported.file)
    assert stored.keys() == state.keys()
    for key, value in stored.items():
        expected = state[key].half().float() if how == "in 16 bits" and value.is_floating_point() else state[key]
        assert torch.equal(value, expected), key


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg13_bn", "densenet121"])
def test_the_number_of_classes_is_that_of_the_last_layer(name: str, empty_data: Path, tmp_path: Path) -> None:
    with models.Unset():
        state = Classifier(name, 7, "linear" if name == "vgg13_bn" else "public").network.state_dict()
    state = {key: torch.zeros_like(value) for key, value in sorted(state.items())}
    torch.save(state, tmp_path / "x.pt")
    (imported,) = import_checkpoint(tmp_path / "x.pt", family="pets")
    assert (imported.family, imported.name, imported.spec["num_classes"]) == ("pets", name, 7)
    assert imported.spec.get("head", "public") == ("linear" if name == "vgg13_bn" else "public")


def test_a_safetensors_file_is_read(empty_data: Path, tmp_path: Path) -> None:
    safetensors.torch.save_file(prefixed("module.")(classifier().network.state_dict()), tmp_path / "x.safetensors")
    (imported,) = import_checkpoint(tmp_path / "x.safetensors")
    assert imported.name == "mobilenet_v2"


@pytest.mark.parametrize(("value", "prefix"), [(float("nan"), ""), (float("-inf"), "module.")])
def test_a_value_that_is_not_finite_names_its_tensor(value: float, prefix: str, empty_data: Path, tmp_path: Path) -> None:
    state = networks.classifier(width=1).network.state_dict()
    state["features.1.conv.1.weight"].view(-1)[3] = value
    torch.save(prefixed(prefix)(state), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"x\.pt: tensor 'features\.1\.conv\.1\.weight' holds values that are not finite"):
        import_checkpoint(tmp_path / "x.pt")
    assert list(weights.listing()) == []


def test_a_wrapped_generator_is_imported_with_its_classifiers(empty_data: Path, tmp_path: Path) -> None:
    content = checkpoint({}, model_A=classifier().network, attack_model=generator(3).unet) | {"callbacks": {}}
    state = content["state_dict"]
    wrapped = {f"module.{key.replace('attack_model.', 'attack_model._orig_mod.')}": state[key] for key in sorted(state)}
    torch.save({"net": wrapped}, tmp_path / "x.ckpt")
    imported = import_checkpoint(tmp_path / "x.ckpt", target="mobilenet_v2", auxiliary="vgg13_bn")
    assert [each.name for each in imported] == ["mobilenet_v2", "mobilenet_v2-X-vgg13_bn"]
    assert imported[1].training["import_notes"] == ["read from 'net'", "prefix 'module.', '_orig_mod.' removed"]
    assert same(weights.load(imported[1].name, "cifar10", "generator")[0], generator(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda state: {"a": state, "b": dict(state)}, r"holds several state dicts \(a, b\)"),
        (lambda state: {**prefixed("a.")(state), **prefixed("b.")(state)}, r"holds several classifiers \(a, b\)"),
        (lambda state: {**state, **prefixed("module.")(state)}, "the same tensor with and without a wrapper's prefix"),
        (
            lambda state: {**state, "features.0.0.weight": torch.zeros(32, 3, 7, 7)},
            r"of a mobilenet_v2, 'features\.0\.0\.weight' would be \(32, 3, 3, 3\), not \(32, 3, 7, 7\)",
        ),
        (
            lambda state: {**state, "features.0.0.weight": torch.zeros(32, 3, 3, 3, dtype=torch.int8)},
            r"tensor 'features\.0\.0\.weight' holds torch\.int8, the network needs torch\.float32",
        ),
    ],
    ids=["two networks", "two prefixes", "twice", "another first layer", "integers"],
)
def test_a_file_that_is_ambiguous_or_of_another_form_says_why(
    write: Callable[[dict[str, Any]], Any], message: str, empty_data: Path, tmp_path: Path
) -> None:
    torch.save(write(classifier().network.state_dict()), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        import_checkpoint(tmp_path / "x.pt")
    assert list(weights.listing()) == []


def test_the_command_says_what_it_removed(empty_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"net": prefixed("module.")(classifier().network.state_dict())}, tmp_path / "x.pt")
    assert main(["import-weights", str(tmp_path / "x.pt")]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"{tmp_path / 'x.pt'}: read from 'net'", f"{tmp_path / 'x.pt'}: prefix 'module.' removed"]
    ((manifest, path),) = weights.listing()
    assert out == f"classifier {manifest.name}  sha256 {manifest.sha256[:16]}  {path}\n"


Save = Callable[[Path, dict[str, Any]], None]


class AttributeDict(dict[str, Any]):
    """The class in which Lightning stores hyper-parameters."""


class ModelCheckpoint:
    """The name of Lightning's callback whose state a checkpoint contains."""


@pytest.fixture
def lightning() -> Save:
    """Save a checkpoint like Lightning, with classes under Lightning's names that no longer exist when it is read."""
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
    """Return Lightning's checkpoint of the baseline's training."""
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


def test_a_lightning_checkpoint_becomes_the_same_pair(lightning: Save, empty_data: Path, tmp_path: Path) -> None:
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


def test_a_generator_alone_needs_the_names_of_its_models(empty_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "generator.ckpt"
    torch.save(checkpoint({}, attack_model=generator().unet) | {"callbacks": {}}, path)
    with pytest.raises(WeightsError, match="name them with --target and --auxiliary"):
        import_checkpoint(path)
    (imported,) = import_checkpoint(path, "digits", "resnet18", "vgg13_bn")
    assert (imported.name, imported.family, imported.depends) == ("resnet18-X-vgg13_bn", "digits", {})


def test_a_checkpoint_of_another_model_than_declared_is_refused(empty_data: Path, tmp_path: Path) -> None:
    content = checkpoint({}, model_A=classifier().network, attack_model=generator().unet) | {"callbacks": {}}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match="holds a mobilenet_v2 as target, not a resnet18"):
        import_checkpoint(tmp_path / "x.ckpt", target="resnet18", auxiliary="vgg13_bn")


def test_of_a_checkpoint_that_fits_in_part_nothing_is_kept(empty_data: Path, tmp_path: Path) -> None:
    whole = checkpoint({}, model_A=classifier().network, attack_model=generator().unet) | {"callbacks": {}}
    missing = {key: value for key, value in whole["state_dict"].items() if key != "attack_model.outc.f.weight"}
    for state, message in (
        (missing, "tensor 'outc.f.weight' is missing"),
        ({**whole["state_dict"], "attack_model.inc.f.0.weight": torch.tensor(1.0)}, "the network needs"),
        (
            {**whole["state_dict"], "attack_model.outc.f.bias": torch.full((3,), float("nan"))},
            "holds values that are not finite",
        ),
    ):
        torch.save({**whole, "state_dict": state}, tmp_path / "x.ckpt")
        with pytest.raises(WeightsError, match=message):
            import_checkpoint(tmp_path / "x.ckpt", target="mobilenet_v2", auxiliary="vgg13_bn")
        assert list(weights.listing()) == []


class Trap:
    """An object whose unpickling would run a shell command."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.sprung))}",)


@pytest.mark.parametrize("how", ["torch.save", "pickle", "next to tensors"])
def test_a_pickle_that_would_run_a_command_runs_nothing(empty_data: Path, tmp_path: Path, how: str) -> None:
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
