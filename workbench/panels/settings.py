"""The settings of the view `explore`: valid ranges, conversion to a Python call or a papermill command, and parsing."""

from __future__ import annotations

import ast
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml  # type: ignore[import-untyped]

from ..errors import UsageError, unknown

__all__ = ["CODECS", "GRADED", "SHEETS", "Settings", "check", "parse"]

CODECS = ("neural", "compressai", "png", "jpeg", "webp")
GRADED = ("jpeg", "webp")  # codecs with a quality setting
SHEETS = (1, 16, 64, 256)  # numbers of pictures in one view
VIEW = ("strength", "rate", "codec", "quality", "pair", "variant", "source", "pictures")  # settings in a link
NOTEBOOK = ("dataset", "data_dir", "folder", "limit", "seed", "output_dir")  # further parameters of the notebook


@dataclass(frozen=True)
class Settings:
    """The settings of a view: the pictures, the networks and the transmission.

    - `source`: the name of a collection of pictures
    - `pictures`: the numbers of the pictures on the screen. The first picture of the collection has the number 0.
    - `strength`: the strength of protection, from 0 (none) to 1 (full)
    - `codec`: the name of a codec
    - `rate`: the rate of the codec, from 0 (the fewest bits) to 1 (the most bits)
    - `quality`: 1 to 95, for the codecs JPEG and WebP only
    - `pair`: the names of the two classifiers, joined by `-X-`. In a view of `Explorer.compare`: the name of the user-defined
      method
    - `variant`: the name of another generator for these classifiers (empty: the pair's own generator)
    """

    source: str
    pictures: tuple[int, ...]
    strength: float
    rate: float
    codec: str
    quality: int
    pair: str
    variant: str = ""

    @property
    def index(self) -> int:
        """The number that the first picture on the screen has in the collection."""
        return self.pictures[0]

    @property
    def graded(self) -> int:
        """The quality if the codec has one (JPEG, WebP), else 0."""
        return self.quality if self.codec in GRADED else 0

    def parameters(self, dataset: str, data_dir: str = "", folder: str = "") -> dict[str, Any]:
        """Return these settings as parameters of the notebook `explore`.

        `dataset` is the name of a data set, and `data_dir` the path of the data set's files. `folder` is the path of a folder
        whose pictures are shown. Both paths may be empty.
        """
        target, _, auxiliary = self.pair.partition("-X-")
        values = {"dataset": dataset, "data_dir": data_dir, "folder": folder, "target": target, "auxiliary": auxiliary}
        own = {key: getattr(self, key) for key in ("variant", "strength", "rate", "codec", "quality")}
        return {**values, **own, "picture": self.index, "sheet": len(self.pictures) if len(self.pictures) in SHEETS else 1}

    @staticmethod
    def command(parameters: dict[str, Any]) -> str:
        """Return the papermill command that runs the notebook `explore` with `parameters`."""
        given = [f"-p {key} {shlex.quote(str(value))}" for key, value in parameters.items() if value != ""]
        return " ".join(["papermill notebooks/explore.ipynb out.ipynb", *given])

    def python(self) -> str:
        """Return the Python call `explorer.apply(...)` that applies these settings."""
        values = asdict(self) | {"pictures": list(self.pictures)}
        return f"explorer.apply({', '.join(f'{key}={values[key]!r}' for key in VIEW)})"


def parse(text: str, dataset: str) -> dict[str, Any]:
    """Read settings from a text, and return them as keyword arguments of `Explorer.apply`.

    `text` is a Python call, a papermill command or exported JSON. Raises UsageError for any other text. Also raises UsageError
    if the settings name another data set than `dataset`.
    """
    text = text.strip()
    try:
        if text.startswith("papermill "):
            words = shlex.split(text)
            given = {words[at + 1]: yaml.safe_load(words[at + 2]) for at, word in enumerate(words) if word == "-p"}
        elif text.startswith("{"):
            given = json.loads(text)
            given = given.get("parameters", given)
        else:
            call = ast.parse(text, mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError
            given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, SyntaxError, IndexError, AttributeError, yaml.YAMLError):
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise UsageError(
            f"{shown!r} names no settings: paste a line explorer.apply(...), a papermill command, or the exported JSON"
        ) from None
    return _of_view(given, dataset)


def _of_view(given: dict[str, Any], dataset: str) -> dict[str, Any]:
    other = given.get("dataset", dataset)
    if other != dataset:
        raise UsageError(f"these settings are of the data set {other!r}, this view shows {dataset!r}: run the command instead")
    settings = {key: value for key, value in given.items() if key in VIEW}
    if "target" in given and "auxiliary" in given:
        settings["pair"] = f"{given['target']}-X-{given['auxiliary']}"
        settings.setdefault("variant", "")
    if "picture" in given:
        first = int(given["picture"])
        settings["pictures"] = list(range(first, first + int(given.get("sheet", 1))))
    known = {*VIEW, *NOTEBOOK, "target", "auxiliary", "picture", "sheet"}
    for key in given:
        if key not in known:
            raise unknown("setting", key, VIEW)
    return settings


def check(**values: Any) -> None:
    """Raise UsageError if a value is invalid. The keywords are names of settings, or of parameters of `Explorer`."""
    for name in ("strength", "rate"):
        if name in values and not _share(values[name]):
            raise UsageError(f"{name} must be between 0 and 1, got {values[name]!r}")
    if "codec" in values and values["codec"] not in CODECS:
        raise unknown("codec", values["codec"], CODECS)
    if "quality" in values and not (_whole(values["quality"]) and 1 <= values["quality"] <= 95):
        raise UsageError(f"quality must be a whole number from 1 to 95, got {values['quality']!r}")
    if "sheet" in values and values["sheet"] not in SHEETS:
        raise UsageError(f"a sheet has {', '.join(map(str, SHEETS[:-1]))} or {SHEETS[-1]} pictures, got {values['sheet']!r}")
    if "picture" in values and (values["picture"] < 0 or values.get("limit", 0) < 0):
        raise UsageError(f"picture and limit must be 0 or more, got {values['picture']} and {values.get('limit', 0)}")
    if "pictures" in values:
        _check_pictures(values["pictures"])


def _check_pictures(pictures: Sequence[Any]) -> None:
    if not 1 <= len(pictures) <= SHEETS[-1]:
        raise UsageError(f"a view shows 1 to {SHEETS[-1]} pictures, got {len(pictures)} numbers")
    for number in pictures:
        if not _whole(number) or number < 0:
            raise UsageError(f"a picture's number is a whole number from 0 on, got {number!r}")


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
