"""Types that the modules of a service share: the offered model, and the state of a request."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["MOST_SHOWN", "Answer", "Model", "RequestContext"]

MOST_SHOWN = 4  # pictures of a request for the cloud's view


@dataclass(frozen=True)
class Model:
    """The model that a service offers: name, version (a hash of its weights), tensors, and further metadata."""

    name: str
    version: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    parameters: dict[str, Any]


@dataclass
class RequestContext:
    """The state of one request: its client (`peer`), its `start` (s), and further fields of its log line."""

    peer: str
    start: float
    id: str = ""
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    payload: int | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)

    def finish(self, other: str) -> dict[str, float]:
        """Record the time since the start that no component accounts for as component `other`. Return all times (ms)."""
        rest = sum(value for name, value in self.milliseconds.items() if name != other)
        self.milliseconds[other] = max(0.0, 1e3 * (time.perf_counter() - self.start) - rest)
        return self.milliseconds


Answer = Callable[[Request, bytes, RequestContext], Awaitable[Response]]
