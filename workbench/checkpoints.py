"""Convert checkpoints of two public projects to safetensors with manifests.

The projects are hwsel/ProtectivePerturbation (the baseline PP) and huyvnphan/PyTorch_CIFAR10. A state dict is a dict of a
checkpoint's tensors, by name. A manifest describes a network's weights (see `weights`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import models, weights
from .classifiers import CLASSIFIERS, Classifier, heads
from .errors import WeightsError
from .models import Network
from .state_dicts import read_state_dict, require_finite, within
from .weights import Manifest

__all__ = ["import_checkpoint"]

OPTIONAL = "num_batches_tracked"


def import_checkpoint(path: str | Path, family: str = "cifar10", target: str = "", auxiliary: str = "") -> list[Manifest]:
    """Convert the checkpoint at `path` to safetensors in `data/runs/weights`. Return the manifests of its networks.

    A checkpoint of PyTorch_CIFAR10 contains one classifier, which is recognised by the names and shapes of its tensors. A
    Lightning checkpoint of ProtectivePerturbation contains a generator (`attack_model.*`). It may also contain the target and
    the auxiliary classifier for which the generator was trained (`model_A.*`, `model_B.*`).

    `family` is the name under which data sets share weights. `target` and `auxiliary` are the names of the generator's two
    classifiers. They default to the names in the checkpoint. The state dict may lie inside another dict, under a key such as
    `net` or `model`. Prefixes such as `module.` are removed from names. The manifest records such changes.

    Only tensors and plain values are unpickled. Raises WeightsError for a file that contains other objects, fits no network, or
    has a value that is not finite. Raises WeightsError also for a generator without names of its classifiers.
    """
    path = Path(path)
    content = read_state_dict(path)
    state, names = content.tensors, content.hyper_parameters
    generator = _part(state, "attack_model")

    def keep(module: nn.Module, name: str, *notes: str, **depends: str) -> Manifest:
        kind, spec = weights.describe(module)
        origin: dict[str, Any] = {"imported_from": path.name, "imported_sha256": content.sha256}
        origin |= {"import_notes": [*content.notes, *notes]} if content.notes or notes else {}
        return weights.save(module, Manifest(name, family, kind, spec, "imported", None, training=origin, depends=depends))

    if not generator:
        classifier, note = _recognise(state, path)
        return [keep(classifier, classifier.name, *filter(None, [note]))]
    target, auxiliary = target or names.get("model_A", ""), auxiliary or names.get("model_B", "")
    if not (target and auxiliary):
        raise WeightsError(
            f"{path} does not say for which models its generator was trained; name them with --target and --auxiliary"
        )
    networks: list[tuple[Classifier, str, str]] = []
    for role, name, prefix in (("target", target, "model_A"), ("auxiliary", auxiliary, "model_B")):
        inner = _part(state, prefix)
        if inner and not (role == "auxiliary" and auxiliary == target):
            classifier, _ = _recognise(inner, path)
            if classifier.name != name:
                raise WeightsError(f"{path} holds a {classifier.name} as {role}, not a {name}")
            networks.append((classifier, name, role))
    first = generator.get("inc.f.0.weight")
    width = len(first) if first is not None and first.ndim == 4 else 32
    network = _fill(models.PerturbationGenerator(width), generator, path)
    # save only after all networks fit
    saved = [keep(classifier, name) for classifier, name, _ in networks]
    depends = {role: manifest.sha256 for (_, _, role), manifest in zip(networks, saved, strict=True)}
    if auxiliary == target and "target" in depends:
        depends["auxiliary"] = depends["target"]
    return [*saved, keep(network, weights.generator_name(target, auxiliary), **depends)]


def _part(state: dict[str, Tensor], role: str) -> dict[str, Tensor]:
    inner = {key.removeprefix(f"{role}."): value for key, value in state.items() if key.startswith(f"{role}.")}
    return within(inner)[0]


def _recognise(state: dict[str, Tensor], path: Path) -> tuple[Classifier, str]:
    """Return the classifier with the weights in `state`, and a note on a removed prefix and on ignored tensors.

    If all tensors of `state` belong to the classifier, the note is empty. Otherwise the classifier has the tensors under one
    prefix, and the others are ignored. Raises WeightsError if no classifier fits, or if the tensors under several prefixes fit.
    """
    if found := _fit(state):
        return _fill(found, state, path), ""
    parts: dict[str, tuple[Classifier, dict[str, Tensor]]] = {}
    for prefix in dict.fromkeys(key.partition(".")[0] for key in state):
        part = _part(state, prefix)
        if found := _fit(part):
            parts[prefix] = found, part
    if len(parts) > 1:
        raise WeightsError(f"{path} holds several classifiers ({', '.join(parts)}): save the one to import alone")
    for prefix, (classifier, part) in parts.items():
        rest = len(state) - len(part)
        return _fill(classifier, part, path), f"prefix {f'{prefix}.'!r} removed, {rest} other tensors were not read"
    raise WeightsError(f"{path} fits none of {', '.join(CLASSIFIERS)} in CIFAR-10 form ({len(state)} tensors){_nearest(state)}")


def _fit(state: dict[str, Tensor]) -> Classifier | None:
    for classifier in _named_alike(state):
        own = weights.state_dict(classifier)
        if all(value.shape == state[key].shape for key, value in own.items() if key in state):
            return classifier
    return None


def _named_alike(state: dict[str, Tensor]) -> Iterator[Classifier]:
    """Yield a classifier with uninitialised weights for each architecture whose tensors have the same names as `state`.

    Its number of classes is the number of outputs of the last layer in `state`.
    """
    given = {key for key in state if not key.endswith(OPTIONAL)}
    for name, head in ((each, head) for each in CLASSIFIERS for head in heads(each)):
        own = _names(name, head)
        if given == set(own):
            bias = state[next(key for key in reversed(own) if key.endswith("bias"))]  # bias of the network's last layer
            with models.Unset():
                yield Classifier(name, len(bias) if bias.ndim == 1 and len(bias) else 10, head)


@functools.cache
def _names(name: str, head: str) -> tuple[str, ...]:
    with models.Unset():
        return tuple(key for key in weights.state_dict(Classifier(name, head=head)) if not key.endswith(OPTIONAL))


def _nearest(state: dict[str, Tensor]) -> str:
    """Return a hint for an error message if only shapes in `state` do not fit a classifier. Otherwise return an empty text.

    The hint names the first tensor whose shape is wrong, with both shapes.
    """
    for classifier in _named_alike(state):
        for key, value in weights.state_dict(classifier).items():
            if key in state and value.shape != state[key].shape:
                return f"; of a {classifier.name}, {key!r} would be {tuple(value.shape)}, not {tuple(state[key].shape)}"
    return ""


def _fill(network: Network, state: dict[str, Tensor], path: Path) -> Network:
    own = weights.state_dict(network)
    for key, value in own.items():
        if key in state and value.is_floating_point() != state[key].is_floating_point():
            raise WeightsError(f"{path}: tensor {key!r} holds {state[key].dtype}, the network needs {value.dtype}")
    require_finite(state, own, str(path))
    counters = {key: value for key, value in own.items() if key.endswith(OPTIONAL)}  # old versions of torch did not save them
    weights.load_state(network, {**counters, **state}, str(path))
    return network
