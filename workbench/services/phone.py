"""The web page for phones, which the edge serves: its files, its security headers, and the cloud's view of a picture.

A payload is the compressed protected pictures that the edge sends to the cloud. The cloud's view of a picture is the image that
the cloud decodes from the payload.

::

    browser -- GET / and the page's files ---> the same for everyone, without secrets, so no credential is needed
            -- POST /recognize --------------> needs a credential, as from any client; refused from the page of another site
            <-- labels, and cloud_picture ---- the cloud's view, decoded by the edge (only with the header X-Show: cloud)
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..codecs import Codec
from ..errors import ProtocolError, ServiceError
from ..pictures import encode, to_uint8
from .intake import Intake
from .types import MOST_SHOWN, Model

__all__ = ["PagedService", "PayloadSlice", "asks_to_see", "decode_view", "page_routes"]

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; worker-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",  # a cross-origin isolated page gets a finer clock
    "Cache-Control": "no-cache",  # revalidated at each use, so that an updated edge shows its new page immediately
}


@dataclass(frozen=True)
class _File:
    content: bytes = field(repr=False)
    kind: str
    mark: str

    async def __call__(self, request: Request) -> Response:
        headers = {**HEADERS, "ETag": self.mark}
        known = {mark.strip().removeprefix("W/") for mark in request.headers.get("If-None-Match", "").split(",")}
        if self.mark in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "Content-Type": self.kind})


class PagedService(Protocol):
    """The part of an edge's service that the page needs. `admit` raises ServiceError for a client without a credential."""

    model: Model
    classes: tuple[str, ...]
    size: int
    most: int
    ready: bool
    plain: bool
    intake: Intake

    @property
    def token(self) -> object | None: ...
    @property
    def agent(self) -> object | None: ...
    def admit(self, request: Request) -> str: ...


def page_routes(service: PagedService) -> list[Route]:
    """Return the routes of the page's files, and the route `/page.json`, which describes `service`.

    Each file is read once, in this function.
    """
    routes = [Route("/page.json", functools.partial(_page_json, service))]
    for path in sorted(STATIC.glob("*.*")):
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            file = _File(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
            routes.append(Route("/" if path.name == "index.html" else f"/{path.name}", file.__call__))
    return routes


async def _page_json(service: PagedService, request: Request) -> Response:
    description: dict[str, object] = {"ready": service.ready, "token": service.token is not None, "admitted": True}
    try:
        service.admit(request)
        model, agent = service.model, "none" if service.agent is None else "agent"
        description |= {"model": model.name, "classes": service.classes, "codec": model.parameters["codec"]}
        description |= {"size": service.size, "most": service.most, "most_bytes": service.intake.most}
        description |= {"attestation": "plain" if service.plain else agent}
    except ServiceError as error:
        description |= {"admitted": False, "why": str(error)}
    return JSONResponse(description, headers={**HEADERS, "Cache-Control": "no-store"})


def asks_to_see(asked: str | None, pictures: int) -> bool:
    """Return whether a request asks for the cloud's view of its pictures. `asked` is the header X-Show (None: missing).

    `pictures` is the number of pictures in the request. Raises ProtocolError for a header other than "cloud", and for too many
    pictures.
    """
    if asked is None:
        return False
    if asked != "cloud":
        raise ProtocolError("the header X-Show can only be 'cloud': leave it out, or ask for what the cloud saw")
    if pictures > MOST_SHOWN:
        raise ProtocolError(f"X-Show: cloud is for at most {MOST_SHOWN} pictures of a request, this one has {pictures}")
    return True


@dataclass(frozen=True)
class PayloadSlice:
    """The position of one request's pictures in the payload of a batch: `n` pictures from index `first` on."""

    payload: bytes = field(repr=False)
    first: int
    n: int


def decode_view(codec: Codec, place: PayloadSlice) -> list[bytes]:
    """Decode the pictures at `place` as the cloud does, and return one PNG for each. Call this on a worker thread."""
    coded, which = codec.unpack(place.payload)
    own = [coded[index] for index in which[place.first : place.first + place.n].tolist()]
    with torch.inference_mode():
        images = codec.decode_each(own)
    return list(map(encode, to_uint8(images.cpu()).permute(0, 2, 3, 1).contiguous().numpy()))
