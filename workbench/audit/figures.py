"""Store the metrics of completed attackers. If the metrics are in files, an interrupted audit can continue."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..storage import replacing

__all__ = ["Figures"]


class Figures:
    """A mapping from the settings of an attacker's run to the metrics of that run.

    A key has the attacker's name and all settings of the run. Its entry is {metric: one number for each image}. If `folder` is
    given, the metrics are also written to files in that folder, so that another process can read them. A folder is for one
    audit only. The folder's name must depend on everything that the keys omit, such as data and weights.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[tuple[object, ...], dict[str, Tensor]] = {}

    def __contains__(self, key: tuple[object, ...]) -> bool:
        """Return whether the metrics of a run are stored, in memory or in the folder. An unreadable file counts as missing."""
        if key not in self._known and self.folder is not None:
            try:
                self._known[key] = load_file(self._path(self.folder, key))
            except (OSError, SafetensorError):
                return False
        return key in self._known

    def __getitem__(self, key: tuple[object, ...]) -> dict[str, Tensor]:
        return self._known[key]

    def add(self, key: tuple[object, ...], figures: dict[str, Tensor], to_folder: bool = True) -> None:
        """Store the metrics of an attacker's run. If `to_folder` is False, they are kept in memory only.

        Raises StorageError if the file of the metrics cannot be written.
        """
        self._known[key] = figures
        if self.folder is not None and to_folder:
            with replacing(self._path(self.folder, key)) as temporary:
                temporary.write_bytes(save({name: values.contiguous() for name, values in figures.items()}))

    @staticmethod
    def _path(folder: Path, key: tuple[object, ...]) -> Path:
        return folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.safetensors"
