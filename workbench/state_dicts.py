"""Read checkpoint files of other projects as tensors by name, without wrappers and prefixes.

::

    file -> {"net": {"module.conv1.weight": ...}, "acc": 93, "epoch": 99}
         -> StateDict(tensors={"conv1.weight": ...}, notes=["read from 'net'", "prefix 'module.' removed"])

A wrapper is a dict around the tensors, such as "net" above. A prefix is a part such as `module.` that enclosing modules add to
the start of names. A state dict is a dict of tensors by name.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .errors import WeightsError

__all__ = ["StateDict", "read_state_dict", "require_finite", "within"]

# Keys under which training scripts store a state dict next to epoch, optimizer and accuracy, preferred ones first.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "classifier", "weights")
NOT_NETWORKS = ("optim", "sched", "scaler", "callbacks")  # a key with one of these words is no network
# parts of names that DataParallel, torch.compile and FSDP add
TRANSPARENT = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
MOST_NESTED = 8


@dataclass(frozen=True)
class StateDict:
    """The tensors of a checkpoint file, by name. `sha256` is the hash of the file.

    `hyper_parameters` has the file's hyper-parameters whose values are text. `notes` reports removed prefixes and parts of the
    file that were not read.
    """

    tensors: dict[str, Tensor]
    sha256: str = ""
    hyper_parameters: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Inert(dict):  # type: ignore[type-arg]
    """A substitute for classes that occur in the baseline's Lightning checkpoints. It stores fields and runs no code."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


_KNOWN_GLOBALS: dict[str, type] = {
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,  # torch's unpickler only sets items on this class
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": _Inert,
    "argparse.Namespace": _Inert,
}


def read_state_dict(path: Path) -> StateDict:
    """Read a checkpoint in torch's or safetensors' format, without wrappers and prefixes.

    Only tensors and plain values are unpickled. Raises WeightsError for a file that is unreadable, contains other objects, or
    has no tensors by name.
    """
    try:
        file = path.read_bytes()  # once, because it may be a pipe
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    content = _load(file, path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    where, state, ignored = _unwrap(content, path)
    if not state:
        raise WeightsError(f"{path} holds no tensors by name: expected a state dict or a Lightning checkpoint")
    notes = [f"read from {where!r}"] if where not in ("", "state_dict") else []
    notes += [f"{name!r} was not read" for name in ignored]
    parameters = content.get("hyper_parameters")
    items = parameters.items() if isinstance(parameters, dict) else ()
    texts = {key: value for key, value in items if isinstance(value, str)}
    return _plain_names(StateDict(state, hashlib.sha256(file).hexdigest(), texts, notes), path)


def _load(file: bytes, path: Path) -> Any:
    allowed: list[Any] = [(stand_in, name) for name, stand_in in _KNOWN_GLOBALS.items()]
    try:
        if file[8:9] == b"{":  # safetensors begins with the length of a JSON header
            return safetensors.torch.load(file)
        with torch.serialization.safe_globals(allowed):
            return torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's zip and pickle readers raise exceptions of any kind
        text = str(error).partition("WeightsUnpickler error:")[2] or str(error) or type(error).__name__
        reason = text.strip().splitlines()[0]
        raise WeightsError(f"{path} is not a checkpoint of plain tensors ({reason[:160]}); it was not loaded") from error


def _unwrap(content: dict[Any, Any], path: Path, depth: int = 0) -> tuple[str, dict[str, Tensor], list[str]]:
    """Find the network's state dict in nested dicts. Return its path, its tensors, and the keys of ignored state dicts.

    A path is the keys, joined by points (`model.net`). A nested state dict is chosen only if it has more tensors than the dict
    around it. Keys in `WRAPPERS` are preferred.
    """
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    inner: dict[str, tuple[str, dict[str, Tensor], list[str]]] = {}
    for key, value in content.items() if depth < MOST_NESTED else ():
        if isinstance(key, str) and isinstance(value, dict) and not any(part in key.lower() for part in NOT_NETWORKS):
            found = _unwrap(value, path, depth + 1)
            if len(found[1]) > len(own):
                inner[key] = found
    if not inner:
        return "", own, []
    named = [key for key in WRAPPERS if key in inner] or list(inner)
    if len(named) > 1 and named[0] not in WRAPPERS:
        raise WeightsError(f"{path} holds several state dicts ({', '.join(named)}): save the one to import alone")
    where, state, ignored = inner[named[0]]
    return f"{named[0]}.{where}".rstrip("."), state, [*ignored, *(key for key in inner if key != named[0])]


def _plain_names(state: StateDict, path: Path) -> StateDict:
    """Remove the parts of names that DataParallel, torch.compile and enclosing modules add."""
    split = {key: [part for part in key.split(".") if part not in TRANSPARENT] for key in state.tensors}
    if len({tuple(parts) for parts in split.values()}) < len(split):
        raise WeightsError(f"{path} holds the same tensor with and without a wrapper's prefix: save one network alone")
    removed = [f"{part}." for part in TRANSPARENT if any(part in key.split(".") for key in state.tensors)]
    tensors = {".".join(parts): state.tensors[key] for key, parts in split.items()}
    tensors, prefix = within(tensors, keep="attack_model")
    removed += [prefix] if prefix else []
    notes = [*state.notes, *([f"prefix {', '.join(map(repr, removed))} removed"] if removed else [])]
    return replace(state, tensors=tensors, notes=notes)


def within(tensors: dict[str, Tensor], keep: str = "") -> tuple[dict[str, Tensor], str]:
    """Remove the prefix that all tensor names share, such as `model.net.`. Return the renamed tensors and the prefix.

    A part of the prefix that equals `keep`, and the parts after it, are not removed.
    """
    prefix = ""
    while True:
        first = {name.partition(".")[0] for name in tensors}
        if len(first) != 1 or keep in first or not all("." in name for name in tensors):
            return tensors, prefix
        prefix += f"{first.pop()}."
        tensors = {name.partition(".")[2]: value for name, value in tensors.items()}


def require_finite(tensors: dict[str, Tensor], names: Iterable[str], label: str) -> None:
    """Raise WeightsError if a tensor whose name is in `names` contains NaN or infinity.

    `label` is the start of the message. Names without a tensor are skipped.
    """
    for name in names:
        if name in tensors and not bool(torch.isfinite(tensors[name]).all()):
            raise WeightsError(f"{label}: tensor {name!r} holds values that are not finite (NaN or infinity); it was not kept")
