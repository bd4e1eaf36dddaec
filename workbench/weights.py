"""Store and load the weights of networks. Each network has a safetensors file and a manifest.

A manifest is a JSON file that states the architecture, data, seed and accuracy of a network, and the SHA-256 of its tensors.
The files are in `data/weights/<family>/` (shipped) or `data/runs/weights/<family>/` (trained here)::

    resnet18-X-vgg13_bn.json                   the manifest, with the name and the hash of the file below
    resnet18-X-vgg13_bn.3f9a1c02.safetensors   the tensors

The tensors are written first, under a new name. Then the manifest is replaced. So a killed process leaves either the old
network or the new one.

A family is the name under which data sets share weights. A role is a network's part in the system: target, auxiliary, generator
or compressor. The target is the cloud's classifier, which recognises protected images. The auxiliary is another classifier,
which must not recognise them. A pair is a target and an auxiliary, with the generator and the compressor that were trained for
them. A variant is an alternative generator or compressor of a pair.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from . import models
from .classifiers import CLASSIFIERS, Classifier
from .errors import UsageError, WeightsError
from .storage import data_root, replacing, write_json

__all__ = [
    "Manifest",
    "Pair",
    "classifier_name",
    "compressor_name",
    "export",
    "files",
    "find",
    "generator_name",
    "listing",
    "load",
    "load_pair",
    "other_compressors",
    "pair_of",
    "save",
]

FORMAT = 1
ROLES = ("target", "auxiliary", "generator", "compressor")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("name", "family", "kind", "data", "file", "sha256"), str),
    **dict.fromkeys(("spec", "training", "metrics", "depends"), dict),
    "seed": (int, type(None)),
    "complete": bool,
}


@dataclass(frozen=True)
class Manifest:
    """The description of one network's weights.

    `models.build` makes the network from `kind` and `spec`. `data` is the title of the training data. `training` has the preset
    and its options. `metrics` were measured on the validation images, which also selected the checkpoint. Metrics whose names
    end in `_in_sample` were measured on the images to which a compressor's tables were fitted: validation and training images.

    `depends` maps roles to the SHA-256 of the networks that this one was trained against. `complete` states whether training
    ran to its end. `file` is the name of the tensors' file, and `sha256` is its hash.
    """

    name: str
    family: str
    kind: str
    spec: dict[str, Any]
    data: str
    seed: int | None
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    depends: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    file: str = ""
    sha256: str = ""
    format: int = FORMAT


def classifier_name(name: str) -> str:
    """Return the name of a classifier's weights, which is the `name` of its architecture.

    Raises UsageError for an unknown architecture.
    """
    if name not in CLASSIFIERS:
        Classifier(name)  # raises UsageError, which lists the names
    return name


def generator_name(target: str, auxiliary: str, variant: str = "") -> str:
    """Return the name of a generator's weights: `target-X-auxiliary`, followed by `@variant` if a variant is given."""
    return f"{classifier_name(target)}-X-{classifier_name(auxiliary)}{_at(variant)}"


def compressor_name(target: str, auxiliary: str, variant: str = "", generator_variant: str = "") -> str:
    """Return the name of a compressor's weights: the generator's name, `-compressor`, and `@variant` if a variant is given.

    `generator_variant` is the variant of the generator for which the compressor was trained.
    """
    return f"{generator_name(target, auxiliary, generator_variant)}-compressor{_at(variant)}"


def pair_of(name: str) -> tuple[str, str]:
    """Return the names of target and auxiliary from the `name` of a pair, `target-X-auxiliary`.

    Raises UsageError for any other text.
    """
    target, separator, auxiliary = name.partition("-X-")
    if not separator:
        raise UsageError(f"{name!r} is not a pair: write target-X-auxiliary, such as resnet18-X-vgg13_bn")
    return classifier_name(target), classifier_name(auxiliary)


def _at(variant: str) -> str:
    return f"@{_plain('variant', variant)}" if variant else ""


def _plain(what: str, name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UsageError(
            f"{what} {name!r} must be up to 64 letters, digits, '.', '_' or '-', and begin with one of the first two"
        )
    return name


def roots() -> tuple[Path, Path]:
    """Return the folders in which weights are searched, in this order: weights trained here, then shipped weights."""
    return data_root() / "runs" / "weights", data_root() / "weights"


def find(name: str, family: str, shipped: bool = True) -> Manifest | None:
    """Return the manifest of the weights `name` in a `family`, or None if there are no such weights.

    With `shipped` False only weights trained here are found. Raises WeightsError for an unreadable manifest.
    """
    path = _locate(name, family, roots() if shipped else roots()[:1])
    return None if path is None else _read_manifest(path)


def _locate(name: str, family: str, folders: Sequence[Path] | None = None) -> Path | None:
    _plain("data set family", family)
    return next((path for root in folders or roots() if (path := root / family / f"{name}.json").is_file()), None)


def files(name: str, family: str) -> tuple[Path, Path]:
    """Return the paths of the manifest and of the tensors of the weights `name` in a `family`.

    Raises WeightsError if the manifest is missing or unreadable.
    """
    path, manifest = _found(name, family)
    return path, path.with_name(manifest.file)


def _found(name: str, family: str) -> tuple[Path, Manifest]:
    path = _locate(name, family)
    if path is None:
        raise WeightsError(
            f"no weights {name!r} for data set {family!r} under {roots()[0]} or {roots()[1]}; "
            "train them with `workbench train`, or convert a checkpoint with `workbench import-weights`"
        )
    return path, _read_manifest(path)


def listing(on_error: Callable[[WeightsError], None] | None = None) -> Iterator[tuple[Manifest, Path]]:
    """Yield every manifest with the path of its tensors. Weights trained here hide shipped weights of the same name.

    An unreadable manifest raises WeightsError. If `on_error` is given, it is called with this error instead.
    """
    seen: set[tuple[str, str]] = set()
    for root in roots():
        for path in sorted(root.glob("*/*.json")):
            try:
                manifest = _read_manifest(path)
            except WeightsError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            if (key := (manifest.family, manifest.name)) not in seen:
                seen.add(key)
                yield manifest, path.with_name(manifest.file)


def save(module: nn.Module, manifest: Manifest, root: Path | None = None, half: bool = False) -> Manifest:
    """Write a network's tensors and manifest atomically. Return the manifest, completed with file name and hash.

    `root` is the folder of all families, `data/runs/weights` by default. With `half`, floats are stored in 16 bits, and `load`
    converts them back. Raises StorageError if the files cannot be written. Raises WeightsError for a value that does not fit 16
    bits, or a metric that is not finite.
    """
    _plain("data set family", manifest.family)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict(module).items()}
    if half:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
        for key, value in tensors.items():
            if not value.isfinite().all():
                raise WeightsError(f"weights {manifest.name!r}: tensor {key!r} does not fit 16 bits; keep it in 32")
    blob = safetensors.torch.save(tensors)
    digest = hashlib.sha256(blob).hexdigest()
    complete = Manifest(**{**asdict(manifest), "file": f"{manifest.name}.{digest[:8]}.safetensors", "sha256": digest})
    try:
        json.dumps(asdict(complete), allow_nan=False)
    except ValueError as error:
        raise WeightsError(f"weights {manifest.name!r} have figures that are no finite numbers; they were not kept") from error
    folder = (root or roots()[0]) / manifest.family
    with replacing(folder / complete.file) as temporary:
        temporary.write_bytes(blob)
    write_json(folder / f"{manifest.name}.json", asdict(complete))
    pattern = re.compile(re.escape(manifest.name) + r"\.[0-9a-f]{8}\.safetensors")
    for stale in folder.iterdir():
        if pattern.fullmatch(stale.name) and stale.name != complete.file:
            stale.unlink(missing_ok=True)
    return complete


def load(name: str, family: str, kind: str) -> tuple[nn.Module, Manifest]:
    """Load the weights `name` of a `family`. Return the network, frozen and in eval mode, and its manifest.

    `kind` is the expected kind of network: `classifier`, `generator` or `compressor`. Raises WeightsError if the weights are
    missing or of another kind, or if the tensors do not match the SHA-256 and the architecture in the manifest.
    """
    path, manifest = _found(name, family)
    if manifest.kind != kind:
        raise WeightsError(f"weights {name!r} are those of a {manifest.kind}, not of a {kind}")
    tensors_path = path.with_name(manifest.file)
    blob = _read(tensors_path)
    if hashlib.sha256(blob).hexdigest() != manifest.sha256:
        raise WeightsError(f"{tensors_path} does not have the SHA-256 of its manifest; delete both and train or copy again")
    try:
        with models.Unset():
            module = models.build(manifest.kind, **manifest.spec)
        tensors = safetensors.torch.load(blob)
    except (safetensors.SafetensorError, UsageError, TypeError, RuntimeError) as error:
        raise WeightsError(f"weights {name!r} at {path} cannot be built ({error}); train or copy them again") from error
    load_state(module, tensors, f"weights {name!r}")
    return module.eval().requires_grad_(False), manifest


@dataclass(frozen=True)
class Pair:
    """The networks of a pair, frozen, with their manifests by role. `compressor` is None if it was not loaded."""

    target: Classifier
    auxiliary: Classifier
    generator: models.PerturbationGenerator
    compressor: models.NeuralCompressor | None
    manifests: dict[str, Manifest]

    @property
    def name(self) -> str:
        return f"{self.target.name}-X-{self.auxiliary.name}"

    def sha256(self) -> dict[str, str]:
        return {role: manifest.sha256 for role, manifest in self.manifests.items()}


def load_pair(
    family: str,
    target: str,
    auxiliary: str,
    *,
    compressor: bool = True,
    variant: str = "",
    compressor_variant: str = "",
) -> Pair:
    """Load the networks of a pair from the weights of a `family`. With `compressor` False the compressor is left out.

    `target` and `auxiliary` are names of architectures. `variant` is the variant of the generator, and `compressor_variant` is
    the variant of the compressor. Raises WeightsError for networks that are missing, damaged, or trained against other versions
    of the pair's networks.
    """
    wanted = {
        "target": (classifier_name(target), "classifier"),
        "auxiliary": (classifier_name(auxiliary), "classifier"),
        "generator": (generator_name(target, auxiliary, variant), "generator"),
    }
    if compressor:
        wanted["compressor"] = (compressor_name(target, auxiliary, compressor_variant, variant), "compressor")
    loaded: dict[str, Any] = {}
    manifests: dict[str, Manifest] = {}
    for role, (name, kind) in wanted.items():
        loaded[role], manifests[role] = load(name, family, kind)
        for other, sha in manifests[role].depends.items():
            if sha != manifests[other].sha256:
                raise WeightsError(
                    f"weights {name!r} were trained with a {other} ({sha[:8]}) that has been replaced by another "
                    f"({manifests[other].sha256[:8]}): train {name!r} again"
                )
    return Pair(**{"compressor": None, **loaded}, manifests=manifests)


def other_compressors(pair: Pair) -> list[Manifest]:
    """Return the manifest of each compressor variant that was trained with the generator of `pair`."""
    generator = pair.manifests["generator"]
    return [
        manifest
        for manifest, _ in listing()
        if manifest.family == generator.family
        and manifest.name.startswith(f"{generator.name}-compressor@")
        and manifest.depends.get("generator") == generator.sha256
    ]


def export(family: str, target: str, auxiliary: str, root: Path, half: bool = True) -> list[Manifest]:
    """Write the networks of a pair to the folder `root` as they ship with the workbench. Return their manifests.

    With `half`, floats are stored in 16 bits. The networks then have new hashes, and `depends` has these hashes, too.
    """
    pair = load_pair(family, target, auxiliary)
    made: dict[str, Manifest] = {}
    for role, manifest in pair.manifests.items():
        depends = {other: made[other].sha256 for other in manifest.depends}
        training = {**manifest.training, "kept_in": "float16" if half else "float32"}
        made[role] = save(getattr(pair, role), replace(manifest, depends=depends, training=training), root, half)
    return list(made.values())


def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network by name. The names are those of public checkpoints, without `network.` or `unet.`."""
    return _core(module).state_dict()


def load_state(module: nn.Module, state: dict[str, Tensor], label: str) -> None:
    """Copy the tensors `state` into a network. Their names are the ones that `state_dict` returns.

    Raises WeightsError if a tensor is missing, has another shape, or is not part of the network. Only a compressor's tables may
    have other shapes. `label` is the start of the message.
    """
    own = state_dict(module)
    tables = {key for key in own if key.rpartition(".")[2] in models.TABLES}
    for key in sorted(own.keys() | state.keys()):
        if key not in state or key not in own:
            raise WeightsError(f"{label}: tensor {key!r} is {'missing' if key not in state else 'not part of the network'}")
        if key not in tables and own[key].shape != state[key].shape:
            raise WeightsError(
                f"{label}: tensor {key!r} is {tuple(state[key].shape)}, the network needs {tuple(own[key].shape)}"
            )
    try:
        _core(module).load_state_dict(state)
    except UsageError as error:
        raise WeightsError(f"{label}: {error}; train or copy them again") from error


def _core(module: nn.Module) -> nn.Module:
    if isinstance(module, Classifier):
        return module.network
    return module.unet if isinstance(module, models.PerturbationGenerator) else module


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}; train or copy these weights again") from error


def _read_manifest(path: Path) -> Manifest:
    try:
        fields = json.loads(_read(path))
        manifest = Manifest(**fields)
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a manifest of this workbench ({error}); delete it and train or copy these weights again"
        ) from error
    wrong = [key for key, kind in _TYPES.items() if not isinstance(getattr(manifest, key), kind)]
    if wrong or not manifest.depends.keys() <= set(ROLES):
        what = ", ".join(wrong) or "depends"
        raise WeightsError(
            f"{path} is not a manifest of this workbench (its {what} cannot be); delete it, train or copy these weights again"
        )
    if manifest.format != FORMAT:
        raise WeightsError(f"{path} has manifest format {manifest.format}, this workbench reads {FORMAT}")
    if Path(manifest.file).name != manifest.file or not manifest.file.endswith(".safetensors"):
        raise WeightsError(f"{path} names the file {manifest.file!r}, which is not a safetensors file next to it")
    return manifest


def describe(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return the kind of a network, and the arguments with which `models.build` builds it."""
    if isinstance(module, Classifier):
        spec = {"name": module.name, "num_classes": module.num_classes}
        spec |= {"head": module.head} if module.head != "public" else {}
        return "classifier", spec | ({"width": module.width} if module.width != 1 else {})
    if isinstance(module, models.PerturbationGenerator):
        return "generator", {"width": module.width} | ({"noise": module.noise} if module.noise else {})
    if isinstance(module, models.NeuralCompressor):
        return "compressor", {"N": module.N, "M": module.M} | ({"stops": module.stops} if module.stops else {})
    raise UsageError(f"a {type(module).__name__} is none of the workbench's networks")
