"""A plain request: its pictures, one file or a form (multipart) of several, and its headers. Nothing is written to a disk."""

from __future__ import annotations

import logging
import math

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from ..errors import ProtocolError

__all__ = ["header_number", "pictures_of"]

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its lines quote what is on the wire


def pictures_of(body: bytes, content_type: str, most: int) -> list[bytes]:
    """Return the files of a body, 1 to `most`. Raises ProtocolError for a form that is broken, too long or empty."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        if not body:
            raise ProtocolError("the body is empty: send a JPEG or PNG file, or a form with several")
        return [body]
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise ProtocolError("the form's Content-Type has no boundary")
    parts: list[bytearray] = []

    def begin() -> None:
        if len(parts) == most:
            raise ProtocolError(f"a request has 1 to {most} pictures, this form has more")
        parts.append(bytearray())

    def data(chunk: bytes, start: int, end: int) -> None:
        parts[-1] += chunk[start:end]

    try:
        parser = MultipartParser(boundary, {"on_part_begin": begin, "on_part_data": data})
        parser.write(body)
        parser.finalize()
    except ProtocolError:
        raise
    except Exception as error:  # the parser's own, and what its callbacks meet in a form that makes no sense
        raise ProtocolError(f"the form cannot be read ({type(error).__name__})") from None
    if not parts:
        raise ProtocolError("the form holds no picture")
    return [bytes(part) for part in parts]


def header_number(http: Request, name: str) -> float | None:
    """Return the number in a header (None: there is no such header); ProtocolError for what is no number."""
    text = http.headers.get(name)
    if text is None:
        return None
    try:
        return float(text) if len(text) < 32 else math.nan
    except ValueError:
        raise ProtocolError(f"the header {name} must be a number") from None
