"""Workarounds for imports of torchvision and compressai. Import both only inside `with stub_unused_imports():`.

torchvision's wheels are linked against CUDA torch. On a CPU build of torch, `import torchvision` fails because the operator
`torchvision::nms` is not declared. This module declares the operator, and also `qnms`. Torchvision's models and transforms need
no more.

Both packages import modules that the networks never use: torch's compiler, torch_geometric, pandas and scipy's statistics.
Importing these modules would take as long as importing torch, so empty stand-ins replace them.

Both workarounds depend on private details of the packages. So they apply only to the versions in `TESTED`. Other versions are
imported as usual.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import library

__all__ = ["stub_unused_imports", "tested"]

TESTED = {"torchvision": ("0.26.", "0.28."), "compressai": ("1.2.",)}  # 0.26 is the version for machines with a GPU


def tested(*packages: str) -> bool:
    return all(importlib.metadata.version(name).startswith(TESTED[name]) for name in packages)


if torch.version.cuda is None and tested("torchvision"):
    _library = library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # kept alive: it owns the operators
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]

# Modules that are imported but not used, and the attributes that their stand-ins need.
_UNUSED: dict[str, dict[str, Any]] = {
    "torch._dynamo": {},
    "torch._dynamo.utils": {"is_compile_supported": lambda _: False},
    "torch_geometric": {},
    "torch_geometric.transforms": {},
    "compressai.datasets": {},
    "compressai.transforms": {},
    "scipy.stats": {},
}


class _Empty(ModuleType):
    """An empty stand-in for an unused module while torchvision or compressai is imported.

    It is empty only for the thread that imports. Another thread that reads a missing attribute waits for the end of the
    import, and then gets the real module's attribute.
    """

    def __init__(self, name: str, contents: dict[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(contents)
        self._importer, self._over = threading.get_ident(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        own = threading.get_ident() == self._importer and not self._over.is_set()
        if own or (name.startswith("__") and name != "__path__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self._over.wait()
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def stub_unused_imports() -> Iterator[None]:
    """A context for the imports of torchvision and compressai. In it, empty stand-ins replace the modules in `_UNUSED`.

    Modules that are already loaded stay loaded. After the context, imports load the real modules. If a version is not in
    `TESTED`, the context does nothing.
    """
    if not tested(*TESTED):
        yield
        return
    empty: dict[str, _Empty] = {}
    for name, contents in _UNUSED.items():
        if name not in sys.modules:
            empty[name] = sys.modules[name] = _Empty(name, contents)
            parent, _, child = name.rpartition(".")
            if parent in empty:
                setattr(empty[parent], child, empty[name])
    try:
        yield
    finally:
        for name, module in empty.items():
            parent, _, child = name.rpartition(".")
            if sys.modules.get(name) is module:
                del sys.modules[name]
            if parent in sys.modules and vars(sys.modules[parent]).get(child) is module:
                delattr(sys.modules[parent], child)
        for module in empty.values():
            module._over.set()
