"""Views of `explore` on the tiny pair, and the data of their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.pair import AUXILIARY, TARGET
from workbench.panels import Explorer

PAIR = f"{TARGET}-X-{AUXILIARY}"


DIGITS = "scikit-learn digits"


def opened(folder: Path, **parameters: Any) -> Explorer:
    given = {"dataset": "digits", "target": TARGET, "auxiliary": AUXILIARY, "limit": 12, "output": folder / "out"}
    return Explorer(**{**given, **parameters})


def pixels(explorer: Explorer, name: str, k: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    frames, seen = explorer.stage.frames, explorer.stage.seen
    shape = (-1, frames["height"], frames["width"], 3)
    if name in ("original", "received", "full"):
        return np.frombuffer(frames[name], np.uint8).reshape(shape)[k]
    shift = seen["meta"]["distinct"] if name == "attacker" else 0
    return np.frombuffer(seen["blob"], np.uint8).reshape(shape)[seen["meta"]["which"][k] + shift]


def everything(explorer: Explorer) -> dict[str, bytes]:
    return {name: pixels(explorer, name).tobytes() for name in ("original", "received", "full", "cloud")}


def meta(explorer: Explorer) -> dict[str, Any]:
    return dict(explorer.stage.seen["meta"])


def said(explorer: Explorer) -> str:
    return str(explorer.stage.message["text"])


def press(explorer: Explorer, do: str, *buffers: bytes, **content: Any) -> None:
    explorer.stage._handle_custom_msg({"do": do, **content}, [memoryview(each) for each in buffers])


def upload(explorer: Explorer, *files: tuple[str, bytes]) -> None:
    press(explorer, "upload", *(content for _, content in files), names=[name for name, _ in files])
