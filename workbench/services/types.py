"""What the modules of a service share: the model that it offers, and a request under work."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["MOST_SHOWN", "Answer", "Model", "RequestContext"]

MOST_SHOWN = 4  # pictures of a request that asks for what the cloud saw


@dataclass(frozen=True)
class Model:
    """The one model that a service offers: its name, the hash of its weights, and its metadata."""

    name: str
    version: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    parameters: dict[str, Any]


@dataclass
class RequestContext:
    """A request under work: its client, its start, and the fields of its log line."""

    peer: str
    start: float
    id: str = ""
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    payload: int | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)

    def finish(self, other: str) -> dict[str, float]:
        """Charge to the component `other` the time that no other component accounts for; return all (ms)."""
        rest = sum(value for name, value in self.milliseconds.items() if name != other)
        self.milliseconds[other] = max(0.0, 1e3 * (time.perf_counter() - self.start) - rest)
        return self.milliseconds


Answer = Callable[[Request, bytes, RequestContext], Awaitable[Response]]
