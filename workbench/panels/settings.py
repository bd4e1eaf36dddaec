"""What the controls of `explore` say, as JSON and as the papermill command that shows it again."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UsageError, unknown
from . import markup

__all__ = ["PLACES", "Settings", "check"]

PLACES = 101  # of the strength's slider, from 0 to 1


@dataclass(frozen=True)
class Settings:
    """A picture (its collection and its number there) and what becomes of it; `pair` is `target-X-auxiliary`."""

    source: str
    index: int
    strength: float
    codec: str
    quality: int
    pair: str
    variant: str = ""

    def parameters(self, dataset: str, data_dir: str = "", folder: str = "") -> dict[str, Any]:
        """Return the parameters of the notebook `explore` that show this: of a picture of `folder`, where one is given."""
        target, _, auxiliary = self.pair.partition("-X-")
        values = {"dataset": dataset, "data_dir": data_dir, "folder": folder, "target": target, "auxiliary": auxiliary}
        own = {key: value for key, value in asdict(self).items() if key in ("variant", "strength", "codec", "quality")}
        return {**values, **own, "picture": self.index}

    @staticmethod
    def command(parameters: dict[str, Any]) -> str:
        """Return the command that runs the notebook with parameters, for a shell."""
        given = [f"-p {key} {shlex.quote(str(value))}" for key, value in parameters.items() if value != ""]
        return " ".join(["papermill notebooks/explore.ipynb out.ipynb", *given])


def check(strength: float, codec: str, quality: int, picture: int, limit: int) -> None:
    """Raise UsageError for a parameter of the notebook that is out of range."""
    if not (math.isfinite(strength) and 0 <= strength <= 1):
        raise UsageError(f"strength must be between 0 and 1, got {strength!r}")
    if codec not in markup.CODECS:
        raise unknown("codec", codec, markup.CODECS)
    if not 1 <= quality <= 95:
        raise UsageError(f"quality must be a whole number from 1 to 95, got {quality!r}")
    if picture < 0 or limit < 0:
        raise UsageError(f"picture and limit must be 0 or more, got {picture} and {limit}")
