"""Parse the plain requests of curl and browsers. A body is one picture file, or a form with several files.

A request may have parameters, such as the strength of the protection. A parameter is a header or, in a form, a text field (see
`PARAMETERS`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from ..errors import ProtocolError

__all__ = ["Form", "form_of"]

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its log lines quote received bytes

PARAMETERS = {
    "strength": "X-Strength",
    "rate": "X-Rate",
    "timeout": "X-Timeout",
    "id": "X-Request-Id",
    "show": "X-Show",
}
MOST_TEXT = 256  # bytes of a text field
SPARE = 16  # parts of a form beyond its pictures and parameters: empty file inputs
PLAIN = (b"7bit", b"8bit", b"binary", b"identity")
CODINGS = (b"content-transfer-encoding", b"content-encoding")


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray, repr=False)
    header: tuple[bytes, bytes] = (b"", b"")  # the header that is being parsed


@dataclass(frozen=True)
class Form:
    """The content of a plain request: the picture files, and the parameters that are form fields."""

    files: list[bytes] = field(repr=False)
    fields: dict[str, str] = field(default_factory=dict)

    def text(self, http: Request, name: str) -> str | None:
        """Return the parameter `name`, which is a header of `http` or a form field. Return None if the parameter is missing.

        Raises ProtocolError if the parameter is given twice.
        """
        headers = http.headers.getlist(PARAMETERS[name])
        if len(headers) > 1:
            raise ProtocolError(f"the header {PARAMETERS[name]} comes {len(headers)} times: leave one")
        header = headers[0] if headers else None
        if header is not None and name in self.fields:
            raise ProtocolError(f"{name} is given twice, as the header {PARAMETERS[name]} and as a field: leave one out")
        return self.fields.get(name) if header is None else header

    def number(self, http: Request, name: str) -> float | None:
        """Return the parameter `name` as a number, or None if the parameter is missing. Raises ProtocolError for other text."""
        text = self.text(http, name)
        try:
            return None if text is None else float(text) if len(text) < 32 else math.nan
        except ValueError:
            what = f"the field {name}" if name in self.fields else f"the header {PARAMETERS[name]}"
            raise ProtocolError(f"{what} must be a number") from None


def form_of(body: bytes, content_type: str, most: int) -> Form:
    """Parse the body of a plain request, which has 1 to `most` pictures. Raises ProtocolError for any other body.

    `content_type` is the request's header Content-Type.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        if not body:
            raise ProtocolError("the body is empty: send a JPEG or PNG file, or a form with several")
        return Form([body])
    files: list[bytes] = []
    fields: dict[str, str] = {}
    for part in _parts(body, options.get(b"boundary", b""), most):
        _, described = parse_options_header(part.headers.get(b"content-disposition"))
        name = described.get(b"name", b"").decode("utf-8", "replace")
        if coded := next((part.headers[key] for key in CODINGS if part.headers.get(key, b"8bit").lower() not in PLAIN), None):
            raise ProtocolError(f"the part {name[:MOST_TEXT]!r} is in the coding {coded[:32]!r}: send it as it is")
        if _is_file(part, described):
            if part.content or described.get(b"filename"):  # an empty file input has neither
                files.append(bytes(part.content))
            continue
        if name not in PARAMETERS:
            raise ProtocolError(
                f"the form's field {name[:MOST_TEXT]!r} is unknown; fields are {', '.join(PARAMETERS)}, and files"
            )
        if name in fields:
            raise ProtocolError(f"the form's field {name} comes twice")
        fields[name] = _text(name, part.content)
    if not files:
        raise ProtocolError("the form holds no picture")
    if len(files) > most:
        raise ProtocolError(f"a request has 1 to {most} pictures, this form has more")
    return Form(files, fields)


def _is_file(part: _Part, described: dict[bytes, bytes]) -> bool:
    kind, _ = parse_options_header(part.headers.get(b"content-type"))
    return b"filename" in described or kind.startswith((b"image/", b"application/octet-stream")) or b"name" not in described


def _text(name: str, content: bytes | bytearray) -> str:
    try:
        text = content.decode("utf-8") if len(content) <= MOST_TEXT else None
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise ProtocolError(f"the form's field {name} must be text of at most {MOST_TEXT} bytes")
    return text.strip()


def _parts(body: bytes, boundary: bytes, most: int) -> list[_Part]:
    if not 0 < len(boundary) <= 200:
        raise ProtocolError("the form's Content-Type has no boundary")
    if body.count(b"\r\n--" + boundary) > most + len(PARAMETERS) + SPARE:  # also bounds the parser's time
        raise ProtocolError(f"a request has 1 to {most} pictures, this form has more")
    parts: list[_Part] = []

    def name(chunk: bytes, start: int, end: int) -> None:
        parts[-1].header = parts[-1].header[0] + chunk[start:end], b""

    def value(chunk: bytes, start: int, end: int) -> None:
        parts[-1].header = parts[-1].header[0], parts[-1].header[1] + chunk[start:end]

    def ended() -> None:
        key, text = parts[-1].header
        parts[-1].headers.setdefault(key.lower(), text)
        parts[-1].header = b"", b""

    def data(chunk: bytes, start: int, end: int) -> None:
        parts[-1].content += chunk[start:end]

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: parts.append(_Part()),
                "on_header_field": name,
                "on_header_value": value,
                "on_header_end": ended,
                "on_part_data": data,
            },
        )
        parser.write(body)
        parser.finalize()
    except Exception as error:  # the parser's own errors, and those of its callbacks for a malformed form
        raise ProtocolError(f"the form cannot be read ({type(error).__name__})") from None
    return parts
