"""The phone's page, which the edge serves: its files, the headers that bind a browser to them, and what else a browser asks.

::

    browser -- GET / and the page's files ---> the same for everyone, no secret in them: no credential is asked
            -- POST /recognize --------------> admitted as any client is, and refused where another site's page sent it
            <-- labels, and cloud_picture ---- where X-Show: cloud asked: what the edge's own codec makes of its payload
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..codecs import Codec
from ..errors import ProtocolError, ServiceError
from ..pictures import to_uint8
from .trust import is_loopback

if TYPE_CHECKING:
    from .edge import EdgeService

__all__ = ["MOST_SHOWN", "CloudView", "PayloadSlice", "asks_to_see", "decode_view", "page_routes", "refuse_other_sites"]

STATIC = Path(__file__).parent / "static"
MOST_SHOWN = 4  # pictures of a request
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
    "Cross-Origin-Embedder-Policy": "require-corp",  # a page for itself is given the finer clock
    "Cache-Control": "no-cache",  # kept, and asked after each time: an edge that was renewed has its new page at once
}


# --- the page --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file of the page, in memory, and the mark by which a browser knows that it has it."""

    content: bytes = field(repr=False)
    kind: str
    mark: str

    async def __call__(self, request: Request) -> Response:
        """Answer with the file, or with 304 where the browser has it."""
        headers = {**HEADERS, "ETag": self.mark}
        known = {mark.strip().removeprefix("W/") for mark in request.headers.get("If-None-Match", "").split(",")}
        if self.mark in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "Content-Type": self.kind})


def page_routes(service: EdgeService) -> list[Route]:
    """Return the routes of the page's files, read once: each under its name, `index.html` as `/`; and of what it asks first."""
    routes = [Route("/page.json", functools.partial(_told, service))]
    for path in sorted(STATIC.glob("*.*")):
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            file = _File(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
            routes.append(Route("/" if path.name == "index.html" else f"/{path.name}", file.__call__))
    return routes


async def _told(service: EdgeService, request: Request) -> Response:
    """Answer with what the page must know of the edge, and whether it may send pictures; without a status that is an error."""
    told: dict[str, object] = {"ready": service.ready, "token": service.token is not None, "admitted": True}
    try:
        service.admit(request)
        model, agent = service.model, "none" if service.agent is None else "agent"
        told |= {"model": model.name, "classes": service.classes, "codec": model.parameters["codec"], "size": service.size}
        told |= {"most": service.most, "attestation": "plain" if service.plain else agent}
    except ServiceError as error:
        told |= {"admitted": False, "why": str(error)}
    return JSONResponse(told, headers={**HEADERS, "Cache-Control": "no-store"})


# --- requests of a browser -------------------------------------------------------------------------------------------------


def refuse_other_sites(request: Request, plain: bool = False) -> None:
    """Raise ServiceError 403 where the page of another site sends a request: it would come with this browser's certificate.

    Browsers say which site's page it was; whatever says nothing of it is no browser. `plain`: without TLS any name can be made
    to lead here, so that a page of the same name proves nothing unless the name is loopback's own.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = site in (None, "same-origin", "none")
    if origin is not None:
        host, place = _split(origin)
        own = own and (site is not None or (place != "" and place == request.headers.get("Host", "").lower()))
        own = own and (not plain or is_loopback(host))
    if not own:
        raise ServiceError("a page of another site may not send pictures: open the page of this edge, at its own /", status=403)


def _split(origin: str) -> tuple[str, str]:
    """Return the host of an origin, and the host with its port; of what is none, such as `null`, nothing."""
    try:
        parts = urlsplit(origin)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""


def asks_to_see(asked: str | None, pictures: int) -> bool:
    """Return whether `asked` asks for what the cloud saw of so many pictures. Raises ProtocolError."""
    if asked is None:
        return False
    if asked != "cloud":
        raise ProtocolError("the header X-Show can only be 'cloud': leave it out, or ask for what the cloud saw")
    if pictures > MOST_SHOWN:
        raise ProtocolError(f"X-Show: cloud is for at most {MOST_SHOWN} pictures of a request, this one has {pictures}")
    return True


# --- what the cloud saw ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PayloadSlice:
    """Where a request's `n` pictures are in the payload that was sent: from the one numbered `first` on."""

    payload: bytes = field(repr=False)
    first: int
    n: int


@dataclass(frozen=True)
class CloudView:
    """What the cloud saw of a request's pictures, a PNG each. It goes to whoever sent them alone."""

    files: tuple[bytes, ...] = field(repr=False)

    @property
    def answer(self) -> dict[str, object]:
        """What is put into the answer."""
        return {"cloud_picture": [base64.b64encode(file).decode() for file in self.files]}


def decode_view(codec: Codec, place: PayloadSlice) -> CloudView:
    """Decode a request's own part of a payload as the cloud does; on a thread that may compute."""
    coded, which = codec.unpack(place.payload)
    own = [coded[index] for index in which[place.first : place.first + place.n].tolist()]
    with torch.inference_mode():
        images = codec.decode_each(own)
    return CloudView(tuple(map(_png, to_uint8(images.cpu()).permute(0, 2, 3, 1).contiguous().numpy())))


def _png(pixels: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")  # type: ignore[arg-type]
    return buffer.getvalue()
