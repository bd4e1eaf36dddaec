"""Every parser of foreign bytes takes linear time, on families of input that are constructed as its worst case."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import struct
import time
from collections.abc import Callable

import httptools
import pytest
from PIL import Image

from workbench import bitstream
from workbench.codecs import Png
from workbench.errors import WorkbenchError
from workbench.pictures import ANY, open_picture
from workbench.protocol import read_request, read_response
from workbench.services.admission import _evidence
from workbench.services.attestation_agent import agent_at
from workbench.services.connection import words_of
from workbench.services.edge import LARGE
from workbench.services.forms import form_of
from workbench.services.http import HttpAnswer, PooledConnection

from hostile import chunk, jpeg, picture, png, segment  # isort: skip

MIB = 1 << 20
FLOOR_S = 0.25  # shorter times are too noisy
MOST_S = 3.0  # quadratic time would be minutes
GROWTH = 8.0  # limit for four times as many bytes: linear is 4, quadratic 16
SEAM = "multipart/form-data; boundary=seam"
SMALL = Image.new("RGB", (16, 16), (1, 2, 3))
ROWS = b"".join(b"\0" + b"\1\2\3" * 8 for _ in range(8))
HEAD = b'--seam\r\nContent-Disposition: form-data; name="p"; filename="p"\r\n\r\n'


def filled(pattern: bytes, before: bytes = b"", behind: bytes = b"") -> Callable[[int], bytes]:
    return lambda n: before + pattern * (n // len(pattern)) + behind


def scan_of(pattern: bytes) -> Callable[[int], bytes]:
    file = picture(SMALL, "JPEG")
    start = file.index(b"\xff\xda") + 14
    return filled(pattern, file[:start], b"\xff\xd9")


PICTURES: dict[str, Callable[[int], bytes]] = {
    "fill bytes, then none": filled(b"\xff", b"\xff\xd8", b"\0"),
    "fill bytes": filled(b"\xff", b"\xff\xd8"),
    "fill bytes, then a marker": filled(b"\xff", b"\xff\xd8", b"\xda\0\2\xff\xd9"),
    "fill bytes and stuffing": filled(b"\xff\xff\0", b"\xff\xd8"),
    "stuffing": filled(b"\xff\0", b"\xff\xd8"),
    "markers without a segment": filled(b"\xff\xd0", b"\xff\xd8"),
    "no marker at all": filled(b"\1", b"\xff\xd8"),
    "empty segments": filled(segment(0xE5, b""), b"\xff\xd8"),
    "segments of no length": filled(b"\xff\xe5\0\0", b"\xff\xd8"),
    "segments of EXIF": filled(segment(0xE1, b"Exif\0\0" + bytes(900)), b"\xff\xd8"),
    "small segments of EXIF": filled(segment(0xE1, b"Exif\0\0"), b"\xff\xd8"),
    "large segments of EXIF": lambda n: jpeg(SMALL, segment(0xE1, b"Exif\0\0" + bytes(60_000)) * (n // 60_000)),
    "large segments of other kinds": lambda n: jpeg(SMALL, segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * (n // 60_000)),
    "comments": lambda n: jpeg(SMALL, segment(0xFE, bytes(60_000)) * (n // 60_000)),
    "Photoshop's": lambda n: jpeg(SMALL, segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * (n // 60_000)),
    "a scan of fill bytes": scan_of(b"\xff"),
    "a scan of stuffing": scan_of(b"\xff\0"),
    "a scan of restarts": scan_of(b"\xff\xd0"),
    "a scan of zeros": scan_of(b"\0"),
    "scans": scan_of(b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0"),
    "behind the end": filled(b"\xff\xda", picture(SMALL, "JPEG")),
    "empty chunks": lambda n: png(8, 8, ROWS, chunk(b"prVt", b"") * (n // 12)),
    "one private chunk": lambda n: png(8, 8, ROWS, chunk(b"prVt", bytes(n))),
    "chunks of pixels": lambda n: png(8, 8, ROWS)[:33] + chunk(b"IDAT", b"\0") * (n // 13),
    "texts": lambda n: png(8, 8, ROWS, chunk(b"tEXt", b"a\0" + b"b" * 4000) * (n // 4014)),
    "a text without an end": lambda n: png(8, 8, ROWS, chunk(b"tEXt", b"a" * n)),
    "a profile": lambda n: png(8, 8, ROWS, chunk(b"iCCP", b"a" * n)),
    "EXIF of a PNG": lambda n: png(8, 8, ROWS, chunk(b"eXIf", exif_of(n))),
    "EXIF in hexadecimal": lambda n: png(
        8, 8, ROWS, chunk(b"tEXt", b"Raw profile type exif\0" + b"\nexif\n" + b"66\n" * (n // 3))
    ),
    "a chunk that claims more": lambda n: png(8, 8, ROWS)[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(n),
    "zeros": filled(b"\0"),
    "signatures of a PNG": filled(b"\x89PNG\r\n\x1a\n"),
}


def exif_of(n: int) -> bytes:
    entries = 60_000
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", entries)
    return head + b"".join(struct.pack("<HHII", tag, 7, n - 100, 8) for tag in range(1, entries + 1)) + bytes(n)


FORMS: dict[str, Callable[[int], bytes]] = {
    "returns": filled(b"\r", HEAD, b"\r\n--seam--\r\n"),
    "line ends": filled(b"\r\n", HEAD, b"\r\n--seam--\r\n"),
    "parts of a boundary": filled(b"\r\n--sea", HEAD, b"\r\n--seam--\r\n"),
    "false boundaries": filled(b"\r\n--seamX", HEAD, b"\r\n--seam--\r\n"),
    "boundaries": filled(b"--seam\r\n"),
    "headers": filled(b"a: b\r\n", b"--seam\r\n"),
    "one header": filled(b"a", b"--seam\r\n"),
    "a header's value": filled(b"a", b"--seam\r\na: "),
    "parameters": filled(b"; a=b", b'--seam\r\nContent-Disposition: form-data; name="p"'),
    "quotes": filled(b'\\"', b'--seam\r\nContent-Disposition: form-data; name="'),
    "before the first": filled(b"x"),
    "line ends before the first": filled(b"\r\n"),
    "behind the last": filled(b"\r\n--seam", HEAD + b"x\r\n--seam--\r\n"),
    "a field": filled(b"\xff", b'--seam\r\nContent-Disposition: form-data; name="strength"\r\n\r\n', b"\r\n--seam--\r\n"),
}

TEXTS: dict[str, Callable[[int], bytes]] = {
    "brackets": filled(b"["),
    "braces": filled(b'{"a":'),
    "quotes": filled(b'"'),
    "backslashes": filled(b"\\", b'{"a": "'),
    "escapes": filled(b"\\u0000", b'{"a": "', b'"}'),
    "digits": filled(b"9", b'{"a": '),
    "a fraction": filled(b"9", b'{"a": 0.', b"}"),
    "an exponent": filled(b"9", b'{"a": 1e', b"}"),
    "spaces": filled(b" ", b"{", b"}"),
    "empty lists": filled(b"[],", b'{"inputs": [', b"[]]}"),
    "equal keys": filled(b'"a":1,', b"{", b'"a":1}'),
    "no UTF-8": filled(b"\xff"),
    "an error of many words": filled(b"a ", b'{"error": "', b'"}'),
}


def binary(n: int, shape: list[int], size: int, key: str = "inputs") -> tuple[bytes, str]:
    entry = {"name": "image", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({key: [entry], "model_name": "m"}).encode()
    return head + bytes(n), str(len(head))


PAYLOADS: dict[str, Callable[[int], bytes]] = {
    "zeros": filled(b"\0"),
    "a varint": filled(b"\xff", b"\x11"),
    "lengths": lambda n: b"\x12" + bitstream._varint(60_000) + b"\0\1\x20" + b"\xff" * n,
    "equal lengths": lambda n: b"\x11" + bitstream._varint(60_000) + bitstream._varint(n // 60_000) + bytes(n),
    "a stream": lambda n: bitstream.pack_stream(bytes(n), 1000, b"PNG"),
    "one picture": lambda n: bitstream.pack([png(8, 8, ROWS, chunk(b"prVt", bytes(n)))], b"PNG"),
    "many pictures": lambda n: bitstream.pack([bytes(n // 60_000)] * 60_000, b"PNG"),
    "fill bytes": lambda n: bitstream.pack([b"\xff\xd8" + b"\xff" * n + b"\0"], b"PNG"),
}

STREAMS: dict[str, tuple[bytes, bytes]] = {
    "a reason": (b"HTTP/1.1 200 ", b"x"),
    "a header's value": (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n", b"x"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "line ends": (b"", b"\r\n"),
}


def seconds(reader: Callable[[bytes], object], body: bytes) -> float:
    start = time.process_time()
    with contextlib.suppress(WorkbenchError, httptools.HttpParserError):
        reader(body)
    return time.process_time() - start


def is_linear(family: Callable[[int], bytes], *readers: Callable[[bytes], object]) -> None:
    """Fail if sixteen mebibytes take more than eight times as long as four."""
    large = family(16 * MIB)
    for reader in readers:
        if (long := seconds(reader, large)) < FLOOR_S:
            continue
        small = family(4 * MIB)
        short = min(seconds(reader, small) for _ in range(2))
        if long >= min(MOST_S, GROWTH * short):  # once more, because the machine may have been busy
            long = min(long, seconds(reader, large))
        assert long < MOST_S
        assert long < max(FLOOR_S, GROWTH * short)


@pytest.mark.parametrize("family", PICTURES.values(), ids=PICTURES)
def test_pictures_are_judged_in_linear_time(family: Callable[[int], bytes]) -> None:
    is_linear(family, lambda body: open_picture(body, 32, LARGE))


@pytest.mark.parametrize("name", ["fill bytes, then none", "fill bytes and stuffing", "segments of EXIF", "zeros"])
def test_a_persons_own_pictures_are_too(name: str) -> None:
    is_linear(PICTURES[name], lambda body: open_picture(body, 32, ANY))


@pytest.mark.parametrize("family", FORMS.values(), ids=FORMS)
def test_forms_are_read_in_linear_time(family: Callable[[int], bytes]) -> None:
    is_linear(family, lambda body: form_of(body, SEAM, 256))


@pytest.mark.parametrize("family", TEXTS.values(), ids=TEXTS)
def test_texts_are_read_in_linear_time(family: Callable[[int], bytes]) -> None:
    is_linear(family, read_request, read_response, lambda body: words_of(HttpAnswer(500, {}, body)), _evidence)


@pytest.mark.parametrize(("shape", "share"), [([1], 1), ([1 << 16], 1), ([1], 0), ([1 << 16], 0)])
def test_tensors_are_read_in_linear_time(shape: list[int], share: int) -> None:
    is_linear(
        filled(b"\0"),
        lambda body: read_request(*binary(len(body), shape, share * len(body))),
        lambda body: read_response(*binary(len(body), shape, share * len(body), "outputs")),
    )


@pytest.mark.parametrize("family", PAYLOADS.values(), ids=PAYLOADS)
def test_payloads_are_unpacked_in_linear_time(family: Callable[[int], bytes]) -> None:
    codec, unpack_stream = Png(side=32), functools.partial(bitstream.unpack_stream, key=b"PNG")
    is_linear(family, codec.unpack, codec.sizes, unpack_stream, bitstream.claimed_images)


@pytest.mark.parametrize("name", ["one picture", "fill bytes"])
def test_payloads_are_decoded_in_linear_time(name: str) -> None:
    is_linear(PAYLOADS[name], Png(side=32).decode)


@pytest.mark.parametrize(("first", "rest"), STREAMS.values(), ids=STREAMS)
def test_answers_are_read_in_linear_time(first: bytes, rest: bytes) -> None:
    def read(body: bytes) -> None:
        async def run() -> None:
            kept = PooledConnection()
            kept._answer = asyncio.get_running_loop().create_future()
            for at in range(0, len(body), 1 << 12):
                kept.data_received(body[at : at + (1 << 12)])
            if kept._answer.done():
                kept._answer.exception()

        asyncio.run(run())

    is_linear(filled(rest, first), read)


def test_a_wrong_url_is_shown_in_linear_time() -> None:
    is_linear(filled(b"//"), lambda body: agent_at("http://" + body.decode()))
    is_linear(filled(b"@"), lambda body: agent_at("http:" + body.decode()))
