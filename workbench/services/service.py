"""The base class of both services: the Open Inference Protocol's routes, authentication, metrics, a log line for each request.

::

    /v2/health/live|ready  /v2  /v2/models/M[/versions/V]/ready       health, service         without a credential
    /openapi.json                                                    OpenAPI document        without a credential
    /v2/models/M[/versions/V]                                        metadata of the model   with a credential
    /v2/models/M[/versions/V]/infer                                  inference               with a credential
    /metrics                                                         metrics                 with a credential

A credential is a client's certificate or a bearer token. A subclass defines the input and the work of its model. Every error
response is the JSON object `{"error": MESSAGE}`, with one line of text. No error, log line or metric contains a pixel, a label,
a key or a token.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from .. import __version__
from ..certs import Role
from ..errors import ProtocolError, ServiceError, UsageError, WorkbenchError
from ..protocol import LENGTH_HEADER, MAX_TIMEOUT_S, Request, Response, read_request, write_response
from .intake import Intake
from .trust import Peer, Token, is_loopback
from .types import Answer, Model, RequestContext

__all__ = ["Service"]

log = logging.getLogger("workbench.access")

BUCKETS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)  # ms
SHOWN = 64  # characters of a request id in the log


class Service(ABC):
    """An ASGI application that serves one `model`. A client needs a certificate with one of the `roles`, or the `token`.

    `plain` means HTTP without TLS, on loopback only. Clients then need no certificate, and a token only if `token` is given.
    `intake` limits the bodies of requests. A request without a timeout of its own gets `deadline_s` seconds.
    """

    name: str
    other: str  # the component that gets the rest of a request's time

    def __init__(
        self,
        model: Model,
        roles: tuple[Role, ...],
        *,
        token: Token | None = None,
        plain: bool = False,
        intake: Intake | None = None,
        deadline_s: float = 30.0,
    ) -> None:
        self.model, self.roles, self.token, self.plain = model, roles, token, plain
        self.intake, self.deadline_s = intake or Intake(), deadline_s
        self.ready = False
        self._document = b""
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # CPU, memory, files, if the system reports them
        self._requests = Counter("pmc2_requests", "requests by status", ["status"], registry=registry)
        self._images = Counter("pmc2_images", "images recognised", registry=registry)
        self._payload = Counter("pmc2_payload_bytes", "bytes of payloads between edge and cloud", registry=registry)
        times = Histogram("pmc2_milliseconds", "time by component", ["component"], buckets=BUCKETS, registry=registry)
        self._times = functools.cache(times.labels)  # by component, of which there are few
        Gauge("pmc2_waiting_images", "accepted and unanswered", registry=registry).set_function(lambda: self.waiting)
        Gauge("pmc2_held_bytes", "of bodies being read", registry=registry).set_function(lambda: self.intake.held)
        self._direct = {f"/v2/models/{model.name}/infer": self._answer, **self.direct()}
        self.app = Starlette(
            routes=self._routes(),
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _refused, WorkbenchError: _refused},
        )
        self.app.router.redirect_slashes = False  # unknown paths get 404, never a redirect to the Host header's site

    @abstractmethod
    async def infer(self, request: Request, call: RequestContext, deadline: float) -> Response:
        """Return the response to an inference request, and set the fields of the request's log line in `call`.

        Raises ServiceError 504 after `deadline` (the event loop's time).
        """

    @abstractmethod
    def openapi(self) -> dict[str, Any]: ...

    @property
    @abstractmethod
    def waiting(self) -> int:
        """The number of accepted images that have no response yet."""

    async def open(self) -> None:  # noqa: B027  (as the next three: most services need none)
        """Called at the start, on the running event loop."""

    async def close(self) -> None:  # noqa: B027
        """Called after the last request."""

    def renewed(self) -> None:  # noqa: B027
        """Called after the certificate was rotated."""

    def arriving(self, change: int) -> None:  # noqa: B027
        """Called with `change` +1 when a request's body begins to arrive, and with -1 when the body is complete or lost."""

    def direct(self) -> dict[str, Answer]:
        """Return {path: handler} for the POST requests, other than inference, that bypass the router."""
        return {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # POST requests for inference bypass the router, for speed
        answer = self._direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if answer is None:
            await self.app(scope, receive, send)
        else:
            response = await self.work(HttpRequest(scope, receive), answer)
            await response(scope, receive, send)

    def _routes(self) -> list[Route]:
        versions = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        return [
            *(Route(f"{path}/infer", self._infer, methods=["POST"]) for path in versions),
            *(Route(path, self._elsewhere, methods=["POST"]) for path in self._direct),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2", self._service),
            *(Route(path, self._model) for path in versions),
            *(Route(f"{path}/ready", self._ready) for path in versions),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
        ]

    async def _live(self, _: HttpRequest) -> HttpResponse:
        return JSONResponse({"live": True})

    async def _ready(self, request: HttpRequest) -> HttpResponse:
        if error := self._wrong_model(request):
            return error
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

    async def _service(self, _: HttpRequest) -> HttpResponse:
        return JSONResponse(
            {"name": self.name, "version": __version__, "extensions": ["binary_tensor_data"], "models": [self.model.name]}
        )

    async def _model(self, request: HttpRequest) -> HttpResponse:
        self.admit(request)
        model = self.model
        return self._wrong_model(request) or JSONResponse(
            {
                "name": model.name,
                "versions": [model.version],
                "platform": "pmc2",
                "inputs": model.inputs,
                "outputs": model.outputs,
                "parameters": model.parameters,
            }
        )

    async def _metrics(self, request: HttpRequest) -> HttpResponse:
        self.admit(request)
        return HttpResponse(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def _openapi(self, _: HttpRequest) -> HttpResponse:
        if not self._document:  # cached, because clients need no credential to request it
            self._document = json.dumps(self.openapi()).encode()
        return HttpResponse(self._document, media_type="application/json")

    async def _infer(self, request: HttpRequest) -> HttpResponse:
        return self._wrong_model(request) or await self.work(request, self._answer)

    async def _elsewhere(self, request: HttpRequest) -> HttpResponse:
        raise HTTPException(404)  # `__call__` serves POST; this route only lets the router refuse other methods with 405

    async def _answer(self, http: HttpRequest, body: bytes, call: RequestContext) -> HttpResponse:
        request = read_request(body, http.headers.get(LENGTH_HEADER))
        call.id = request.id
        deadline = self.deadline(request.parameters.get("timeout"), 1e-6)  # in microseconds, as in Triton
        response = await self.infer(request, call, deadline)
        response.parameters.update({f"{name}_ms": round(value, 4) for name, value in call.finish(self.other).items()})
        content, length = write_response(response, request)
        headers = {LENGTH_HEADER: length} if length else {}
        return HttpResponse(content, headers=headers, media_type="application/octet-stream" if length else "application/json")

    def _wrong_model(self, request: HttpRequest) -> HttpResponse | None:
        asked, version = request.path_params.get("model", self.model.name), request.path_params.get("version")
        if asked != self.model.name or version not in (None, self.model.version):
            return JSONResponse({"error": f"there is no such model here; there is {self.model.name!r}"}, 404)
        return None

    def admit(self, request: HttpRequest) -> str:
        """Return the name of the client that sent a request.

        Raises ServiceError 401 without a valid credential, and 403 for a certificate of another role.
        """
        peer: Peer = request.scope.get("peer", Peer())
        if self.token is not None and self.token.fits(request.headers.get("Authorization")):
            request.scope.get("prove", bool)()  # a proven connection is never closed to make room
            return f"token {peer.name}".strip()
        if self.plain and self.token is None:
            return "plain"
        if peer.role is None:
            raise ServiceError("show a certificate" + (" or a bearer token" if self.token else ""), status=401)
        if peer.role not in self.roles:
            raise ServiceError(f"a certificate of role {peer.role!r} may not ask this service", status=403)
        return f"{peer.role} {peer.name}"

    def deadline(self, timeout: Any, unit: float = 1.0) -> float:
        """Return the time at which a request with this `timeout` expires, in the event loop's time.

        `timeout` is in units of `unit` seconds, and None selects `self.deadline_s` seconds. Raises ProtocolError for an invalid
        timeout.
        """
        seconds = self.deadline_s
        if timeout is not None:
            if type(timeout) not in (int, float) or not 0 < timeout * unit <= MAX_TIMEOUT_S:
                raise ProtocolError(f"timeout must be a number above 0, at most {MAX_TIMEOUT_S:g} s")
            seconds = timeout * unit
        return asyncio.get_running_loop().time() + seconds

    async def work(self, request: HttpRequest, answer: Answer) -> HttpResponse:
        """Return the response of the handler `answer` to a request, or an error response.

        The handler is called after the client's credential was checked and the body was read.
        """
        call = RequestContext("", time.perf_counter())
        kind = ""
        try:
            _refuse_other_sites(request, self.plain)
            call.peer = self.admit(request)
            _refuse_codings(request)
            self.arriving(+1)
            arrived = False
            try:
                async with self.intake.body(request) as body:
                    call.start, call.bytes_in = time.perf_counter(), len(body)
                    self.arriving(-1)
                    arrived = True
                    response = await answer(request, body, call)
            finally:
                if not arrived:
                    self.arriving(-1)
        except WorkbenchError as error:
            kind, response = type(error).__name__, _failed(error)
        except Exception as error:  # an internal fault: the log has its traceback, the response has no details
            log.error("unexpected %s", type(error).__name__, exc_info=_without_values(error))
            kind, response = type(error).__name__, JSONResponse({"error": "internal error; the service's log names it"}, 500)
        call.bytes_out = len(response.body)
        total = 1e3 * (time.perf_counter() - call.start)
        response.background = BackgroundTask(self._take_note, call, response.status_code, kind, total)
        return response

    async def _take_note(self, call: RequestContext, status: int, kind: str, total: float) -> None:
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._images.inc(call.images)
            self._payload.inc(call.payload or 0)
            for component, value in call.milliseconds.items():
                self._times(component).observe(value)
            self._times("total").observe(total)
        if log.isEnabledFor(logging.INFO):
            line: dict[str, Any] = {"at": round(time.time(), 3), "service": self.name, "status": status}
            line |= {"error": kind} if kind else {}
            line |= {"id": call.id[:SHOWN], "by": call.peer, "model": self.model.name, "images": call.images}
            payload = None if call.payload is None else math.ceil(call.payload)
            line |= {"bytes_in": call.bytes_in, "bytes_out": call.bytes_out, "payload": payload}
            line["ms"] = {name: round(value, 3) for name, value in call.milliseconds.items()} | {"total": round(total, 3)}
            log.info(json.dumps(line))

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> Any:
        await self.open()
        try:
            yield
        finally:
            self.ready = False
            await self.close()


def _failed(error: WorkbenchError) -> JSONResponse:
    status = error.status if isinstance(error, ServiceError) else 400
    after = error.retry_after if isinstance(error, ServiceError) else None
    headers = {"Retry-After": str(after or 1)} if status in (429, 503) else {}
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= {"Connection": "close"} if status in (408, 413) else {}
    headers |= {"Accept-Encoding": "identity"} if status == 415 else {}
    return JSONResponse({"error": str(error)}, status, headers=headers)


def _refuse_other_sites(request: HttpRequest, plain: bool) -> None:
    # Browsers send Sec-Fetch-Site or Origin, other clients neither. Without TLS (`plain`), DNS rebinding could give a hostile
    # page the host name of this service, so an Origin must also be a loopback address.
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = site in (None, "same-origin", "none")
    if origin is not None:
        host, place = _origin(origin)
        own = own and (site is not None or (place != "" and place == request.headers.get("Host", "").lower()))
        own = own and (not plain or is_loopback(host))
    if not own:
        raise ServiceError("a page of another site may not send pictures: open the page of this edge, at its own /", status=403)


def _origin(origin: str) -> tuple[str, str]:
    try:
        parts = urlsplit(origin)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""


def _refuse_codings(request: HttpRequest) -> None:
    # a small compressed body could decode to any size
    values = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"content-encoding"]
    if not values:
        return
    codings = [coding.strip() for value in values for coding in value.split(",")]
    if others := [coding for coding in codings if coding and coding.lower() != "identity"]:
        raise ServiceError(f"Content-Encoding {others[0][:SHOWN]!r} is not read: send the body without a coding", status=415)


def _without_values(error: BaseException) -> BaseException:
    # the text might quote received data
    return Exception(type(error).__name__).with_traceback(error.__traceback__)


async def _refused(_: HttpRequest, error: Exception) -> HttpResponse:
    if isinstance(error, WorkbenchError):
        return _failed(error)
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)


def number(parameters: dict[str, Any], name: str, default: float) -> float:
    """Return the parameter `name` as a float, or `default` if the parameter is missing. Raises UsageError for other types."""
    value = parameters.get(name, default)
    if type(value) not in (int, float):
        raise UsageError(f"{name} must be a number")
    return float(value)
