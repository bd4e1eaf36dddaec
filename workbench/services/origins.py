"""Refuse cross-site requests, with which a browser would send the user's certificate."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from ..errors import ServiceError
from .trust import is_loopback

__all__ = ["refuse_other_sites"]


def refuse_other_sites(request: Request, plain: bool = False) -> None:
    """Raise ServiceError 403 for a request that a browser sends from another site's page.

    Browsers send Sec-Fetch-Site or Origin, other clients neither. With `plain` (HTTP without TLS), an Origin must also be a
    loopback address, because DNS rebinding could give a hostile page the host name of this service.
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
    try:
        parts = urlsplit(origin)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""
