"""Wait until a condition holds, by polling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def until(
    look: Callable[[], Found | None], patience: float = 30.0, what: str = "it did not come to pass", pause: float = 0.005
) -> Found:
    """Call `look` every `pause` seconds until it returns a true value. Fail with `what` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} within {patience:.0f} s"
        time.sleep(pause)
    return found
