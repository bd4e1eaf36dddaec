"""Types that the modules of a service share: the model that the service offers, and the state of a request."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["MOST_SHOWN", "Answer", "Model", "RequestContext"]

MOST_SHOWN = 4  # most pictures in a request for the cloud's view, the images that the cloud decodes


@dataclass(frozen=True)
class Model:
    """The description of the model that a service offers. `version` is a hash of the model's weights.

    `inputs` and `outputs` describe the tensors of a request and of its response. `parameters` has further metadata.
    """

    name: str
    version: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    parameters: dict[str, Any]


@dataclass
class RequestContext:
    """The state of one request, from which its log line is written.

    `peer` is the name of the client. `start` is the time at which the request's body was complete, in seconds of
    `time.perf_counter`. `payload` is the size of the payload in bytes, or this request's share of a joint payload.
    `milliseconds` has the time of each component, such as the classifier.
    """

    peer: str
    start: float
    id: str = ""
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    payload: float | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)

    def finish(self, other: str) -> dict[str, float]:
        """Record the time since `start` that no component accounts for, as the time of the component `other`.

        Return the times of all components (ms).
        """
        rest = sum(value for name, value in self.milliseconds.items() if name != other)
        self.milliseconds[other] = max(0.0, 1e3 * (time.perf_counter() - self.start) - rest)
        return self.milliseconds


Answer = Callable[[Request, bytes, RequestContext], Awaitable[Response]]
