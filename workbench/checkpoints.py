"""Checkpoints of the public baseline brought in: classifiers and generators that others trained, kept as weights of ours."""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import models, weights
from .classifiers import CLASSIFIERS, Classifier
from .errors import WeightsError
from .weights import Manifest

__all__ = ["import_checkpoint"]


class _Inert(dict):  # type: ignore[type-arg]
    """Stands in for the few classes that the baseline's Lightning checkpoints mention; keeps fields, runs nothing."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


_KNOWN_GLOBALS: dict[str, type] = {
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,  # torch fills items into its own few kinds of dict only
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": _Inert,
    "argparse.Namespace": _Inert,
}


def import_checkpoint(path: str | Path, family: str = "cifar10", target: str = "", auxiliary: str = "") -> list[Manifest]:
    """Convert a checkpoint of the public baseline to safetensors and return the manifests of what it held.

    A state dict of huyvnphan/PyTorch_CIFAR10 gives one classifier, recognised by its shapes. A Lightning checkpoint of
    hwsel/ProtectivePerturbation gives the generator (`attack_model.*`), and the two classifiers where it carries them
    (`model_A.*`, `model_B.*`); target and auxiliary are read from its hyper-parameters unless given.

    Only tensors and plain values are unpickled: a file that asks for more is refused (WeightsError), as is one that fits none.
    """
    path = Path(path)
    state, names = _read_checkpoint(path)
    generator = {key.removeprefix("attack_model."): value for key, value in state.items() if key.startswith("attack_model.")}
    if not generator:
        classifier = _recognise(state, path)
        return [_keep(classifier, weights.classifier_name(classifier.name), family, path)]
    target, auxiliary = target or names.get("model_A", ""), auxiliary or names.get("model_B", "")
    if not (target and auxiliary):
        raise WeightsError(
            f"{path} does not say for which models its generator was trained; name them with --target and --auxiliary"
        )
    networks: list[tuple[Classifier, str, str]] = []
    for role, name, prefix in (("target", target, "model_A."), ("auxiliary", auxiliary, "model_B.")):
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner and not (role == "auxiliary" and auxiliary == target):
            classifier = _recognise(inner, path)
            if classifier.name != name:
                raise WeightsError(f"{path} holds a {classifier.name} as {role}, not a {name}")
            networks.append((classifier, name, role))
    first = generator.get("inc.f.0.weight")
    network = models.PerturbationGenerator(len(first) if first is not None and first.ndim == 4 else 32)
    weights.load_state(network, generator, str(path))
    saved = [_keep(classifier, name, family, path) for classifier, name, _ in networks]  # all fit: now keep them
    depends = {role: manifest.sha256 for (_, _, role), manifest in zip(networks, saved, strict=True)}
    if auxiliary == target and "target" in depends:
        depends["auxiliary"] = depends["target"]
    return [*saved, _keep(network, weights.generator_name(target, auxiliary), family, path, depends)]


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    allowed: list[Any] = [(stand_in, name) for name, stand_in in _KNOWN_GLOBALS.items()]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises whatever its zip and pickle readers raise
        text = str(error).partition("WeightsUnpickler error:")[2] or str(error) or type(error).__name__
        reason = text.strip().splitlines()[0]
        raise WeightsError(f"{path} is not a checkpoint of plain tensors ({reason[:160]}); it was not loaded") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    parameters = content.get("hyper_parameters", {})
    state = content.get("state_dict", content)
    with contextlib.suppress(AttributeError, TypeError):
        if state and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
            return dict(state), {key: value for key, value in dict(parameters).items() if isinstance(value, str)}
    raise WeightsError(f"{path} holds no tensors by name: expected a state dict or a Lightning checkpoint")


def _recognise(state: dict[str, Tensor], path: Path) -> Classifier:
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    bias = next((value for key, value in reversed(list(state.items())) if key.endswith("bias")), None)
    classes = len(bias) if bias is not None and bias.ndim == 1 else 10
    for name in CLASSIFIERS:
        classifier = Classifier(name, classes)
        if {key: tuple(value.shape) for key, value in weights.state_dict(classifier).items()} == shapes:
            weights.load_state(classifier, state, str(path))
            return classifier
    raise WeightsError(f"{path} fits none of {', '.join(CLASSIFIERS)} in CIFAR-10 form ({len(state)} tensors)")


def _keep(module: nn.Module, name: str, family: str, path: Path, depends: dict[str, str] | None = None) -> Manifest:
    kind, spec = weights.describe(module)
    origin = {"imported_from": path.name, "imported_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return weights.save(module, Manifest(name, family, kind, spec, "imported", None, training=origin, depends=depends or {}))
