"""A client's connection to a service: keep-alive, retries with random backoff, and a deadline.

A request changes no state at the service, so a retry is safe. With a request id, a retry gets the result that the service has
already computed. A request is retried if the service is overloaded (429, 503) or does not respond, or if the connection was
lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from ..errors import ProtocolError, ServiceError, UsageError
from ..protocol import LENGTH_HEADER, MAX_JSON, Response, Tensor, read_response, write_request
from .http import Admission, HttpAnswer, HttpConnections, split_url, without_secrets
from .trust import CERTIFICATE_POLL_S, is_loopback
from .trust import marks as marks_of

__all__ = ["Connection", "Scores", "infer", "metadata", "reported", "scores_of", "words_of"]

PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
AGAIN = (429, 503)
KINDS = {"models": list, "versions": list, "parameters": dict}  # of the metadata that this module's callers read

Scores = np.ndarray[Any, np.dtype[np.float32]]


class Connection:
    """A connection to the service at `url`. Open it with `async with`.

    `trust` returns the TLS context, and is called again after certificates were renewed. Without TLS, `trust` is None.
    `headers` are sent with each request. `attempt_s` is the time limit of one attempt, in seconds. `admit` checks each new
    connection before `headers` are sent.

    The URL must begin with https. With `plain`, http on loopback is also allowed. Raises UsageError for any other URL.
    """

    def __init__(
        self,
        url: str,
        trust: Callable[[], ssl.SSLContext] | None,
        headers: Mapping[str, str] | None = None,
        *,
        attempt_s: float = 10.0,
        plain: bool = False,
        admit: Admission | None = None,
    ) -> None:
        self.url, host, port = _checked(url, plain)
        self.attempt_s, self._trust = attempt_s, trust
        self._context = trust() if trust is not None and self.url.startswith("https") else None
        self._marks = marks_of(getattr(self._context, "files", ()))  # read first, so that no change is missed
        self._look_at = 0.0  # the loop's time of the next check of the files
        self._http = HttpConnections(host, port, headers, admit)
        self.renew()

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def renew(self) -> None:
        """Load the certificates again, for new connections. Connections with the old certificates serve no further request."""
        if self._trust is not None and self._context is not None:
            self._context = self._trust()
            self._http.forget()

    def _look(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + CERTIFICATE_POLL_S
        marks = marks_of(getattr(self._context, "files", ()))
        if marks and marks != self._marks:
            with contextlib.suppress(UsageError):  # the renewal is not complete yet
                self.renew()
                self._marks = marks

    async def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, deadline: float | None = None
    ) -> HttpAnswer:
        """Send a request, and return the response with any status. Retry until `deadline` (the event loop's time).

        With `deadline` None there is no retry. Raises ServiceError if no response arrives. A failed check of a certificate
        raises ServiceError without a retry.
        """
        loop = asyncio.get_running_loop()
        pause, reason = PAUSE_S, ""
        while True:
            self._look(loop.time())
            left = self.attempt_s if deadline is None else min(self.attempt_s, deadline - loop.time())
            answer = None
            try:
                async with asyncio.timeout(max(0.001, left)):
                    answer = await self._http.request(method, path, body, headers or {}, self._context)
            except TimeoutError:
                if not reason or left >= LONGEST_PAUSE_S:  # if the last attempt was cut short, an earlier reason says more
                    reason = f"{self.url} did not answer in {max(0.0, left):.1f} s"
            except ssl.SSLCertVerificationError as error:
                raise ServiceError(f"{self.url} is not to be trusted: {error.verify_message}", status=502) from None
            except OSError as error:
                if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
                    raise ServiceError(f"{self.url} does not trust this end ({error.reason})", status=502) from None
                reason = f"{self.url} cannot be reached ({error.strerror or error})"
            if answer is not None and answer.status not in AGAIN:
                return answer
            wait = pause * random.uniform(0.5, 1.0)
            if answer is not None and answer.status == 429:
                wait = max(wait, min(_number(answer.headers.get("retry-after")), 5.0) * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_S)
            if deadline is None or loop.time() + wait >= deadline:
                if answer is not None:
                    return answer
                raise ServiceError(reason, status=503)
            await asyncio.sleep(wait)


async def infer(
    connection: Connection,
    model: str,
    inputs: list[Tensor],
    *,
    id: str = "",
    parameters: dict[str, Any] | None = None,
    deadline: float | None = None,
) -> Response:
    """Send an inference request (Open Inference Protocol v2) to a `model`, and return the response. Retry until `deadline`.

    Raises ServiceError with the service's message if the status is not 200, and ServiceError 502 for a malformed response.
    """
    body, length = write_request(inputs, id, parameters)
    headers = {LENGTH_HEADER: length, "Content-Type": "application/octet-stream"}
    answer = await connection.call("POST", f"{_path(model)}/infer", body, headers, deadline)
    if answer.status != 200:
        raise ServiceError(f"{connection.url}: {words_of(answer)}", status=answer.status)
    try:
        return read_response(answer.body, answer.headers.get(LENGTH_HEADER.lower()))
    except ProtocolError:
        raise ServiceError(f"{connection.url} did not answer in the protocol", status=502) from None


def scores_of(answer: Response, images: int, classes: int, service: str) -> Scores:
    """Return the scores in a response: `images` x `classes`, all finite. Raises ServiceError 502 for any other scores.

    `service` names the service in the error message.
    """
    scores = answer.outputs["scores"].data if "scores" in answer.outputs else []
    shape = (images, classes)
    if isinstance(scores, list) or scores.dtype != np.float32 or scores.shape != shape or not np.isfinite(scores).all():
        raise ServiceError(f"{service} did not answer with scores of {classes} classes for {images} images", status=502)
    return scores


def reported(answer: Response, name: str) -> float:
    """Return the parameter `name` of a response. If it is missing or not a finite number of at least 0, return 0."""
    value = answer.parameters.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else 0.0


async def metadata(connection: Connection, model: str = "", deadline: float | None = None) -> dict[str, Any]:
    """Return the metadata of a `model` or, without a model, of the service. Retry until `deadline`.

    Raises ServiceError if the status is not 200, and ServiceError 502 for malformed metadata.
    """
    answer = await connection.call("GET", _path(model) if model else "/v2", deadline=deadline)
    if answer.status != 200:
        raise ServiceError(f"{connection.url}: {words_of(answer)}", status=answer.status)
    try:
        found = _json(answer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(key, kind()), kind) for key, kind in KINDS.items()):
        raise ServiceError(f"{connection.url} does not speak the Open Inference Protocol", status=502)
    return found


def _path(model: str) -> str:
    # a service names its model itself, so the name may have any characters
    return f"/v2/models/{quote(model, safe='', errors='replace')}"


def _checked(url: str, plain: bool) -> tuple[str, str, int]:
    parts = split_url(url)
    if parts is None:
        raise UsageError(f"{without_secrets(url)!r} is not the URL of a service: write https://HOST:PORT")
    if parts[0].startswith("http:") and not (plain and is_loopback(parts[1])):
        raise UsageError(f"{url!r} is plain HTTP, which is only used on this machine and on request: write https://")
    return parts


def words_of(answer: HttpAnswer) -> str:
    """Return the error message of a response as one line, or the response's status if there is no message."""
    try:
        return " ".join(str(_json(answer)["error"]).split())[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"status {answer.status}"


def _json(answer: HttpAnswer) -> Any:
    # parsing takes 30 times the text's memory
    if len(answer.body) > MAX_JSON:
        raise ValueError
    return json.loads(answer.body)


def _number(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 0.0
