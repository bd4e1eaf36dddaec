"""Store the figures of attackers that have run. With a folder, an interrupted audit continues where it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..storage import replacing

__all__ = ["Figures"]


class Figures:
    """A store of attackers' figures, {figure: values by image}. The key is the attacker with all settings of its run.

    With a `folder`, each attacker's figures are also a file there, so another process finds them. The folder is for one audit
    only: its name must follow from everything that the keys leave out, such as data and weights.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[tuple[object, ...], dict[str, Tensor]] = {}

    def __contains__(self, key: tuple[object, ...]) -> bool:
        """Return whether an attacker has run. A file that cannot be read counts as missing."""
        if key not in self._known and self.folder is not None:
            try:
                self._known[key] = load_file(self._path(self.folder, key))
            except (OSError, SafetensorError):
                return False
        return key in self._known

    def __getitem__(self, key: tuple[object, ...]) -> dict[str, Tensor]:
        return self._known[key]

    def __setitem__(self, key: tuple[object, ...], figures: dict[str, Tensor]) -> None:
        self._known[key] = figures
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(self.folder, key)) as temporary:
                save_file({name: values.contiguous() for name, values in figures.items()}, temporary)

    @staticmethod
    def _path(folder: Path, key: tuple[object, ...]) -> Path:
        return folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.safetensors"
