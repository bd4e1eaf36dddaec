"""Pictures in the body of a plain request: one file, or a form (multipart) of several. Nothing is written to a disk."""

from __future__ import annotations

import logging

from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import ProtocolError

__all__ = ["pictures_of"]

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
