"""Inputs that are small to send and expensive to read: each has a limit of time and memory."""

from __future__ import annotations

import functools
import io
import json
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support.pair import AUXILIARY, TARGET
from workbench import bitstream
from workbench.data import Dataset
from workbench.errors import PayloadError
from workbench.pictures import open_picture
from workbench.protocol import LENGTH_HEADER, Tensor
from workbench.services.edge import LARGE
from workbench.services.loading import StageConfig, cloud_stage

from doors import FORM, MODEL, Ask, House, Peak, form, house, infer  # isort: skip
from hostile import chunk, jpeg, picture, pictures, png, segment  # isort: skip

MOST_S = 20.0  # limit on a busy machine: accepted input takes a tenth of it, without limits it took up to hours
LIGHT, HEAVY = 100, 500  # MiB in addition to the body: refused by its header, and decoded up to the limit
KNOWN = "claims|most that are read|a known format|cannot be read"


@pytest.fixture(scope="module")
def services() -> Iterator[House]:
    with house() as made:
        yield made


def flat_png(width: int, height: int, bits: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    packer, row = zlib.compressobj(9), bytes(1 + -(-width * channels * bits // 8))
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    whole = png(1, 1, b"")[:8] + chunk(b"IHDR", header) + extra + chunk(b"IDAT", packed)
    return whole + chunk(b"IEND", b"")


@functools.cache
def flat_jpeg(width: int, height: int, mode: str = "L", **options: bool) -> bytes:
    return picture(Image.new(mode, (width, height)), "JPEG", **options)


def scanned(file: bytes, times: int, component: int = 1) -> bytes:
    start = file.rindex(b"\xff\xda")
    scans = [segment(0xDA, bytes([1, number, 0, 0, 63, 0])) for number in [component] * times + [2, 3]]
    return file[:start] + b"".join(scans) + b"\xff\xd9"


def refined(file: bytes, scans: int) -> bytes:
    last = file.rindex(b"\xff\xda")
    have = file.count(b"\xff\xda")
    return file[:-2] + file[last:-2] * (scans - have) + b"\xff\xd9"


def overlapping_exif() -> bytes:
    entries, size = 2700, 32_000
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", entries)
    return head + b"".join(struct.pack("<HHII", 40_000 + number, 7, size, 10) for number in range(entries)) + bytes(size - 100)


def small() -> Image.Image:
    return Image.new("RGB", (16, 16), (1, 2, 3))


ROWS = b"".join(b"\0" + b"\1\2\3" * 8 for _ in range(8))
TEXT = zlib.compress(bytes(1 << 20), 9)

REFUSED: dict[str, Callable[[], bytes]] = {
    "a PNG that claims 30,000 x 30,000": lambda: png(30_000, 30_000, ROWS),
    "a PNG that claims 2^31 x 2^31": lambda: png(2**31 - 1, 2**31 - 1, ROWS),
    "a PNG of 10,000 x 10,000": lambda: flat_png(10_000, 10_000, 1),
    "a JPEG of 10,000 x 10,000": lambda: flat_jpeg(10_000, 10_000),
    "a PNG of no width": lambda: png(0, 8, ROWS),
    "a JPEG of no height": lambda: jpeg(small()).replace(b"\0\x11\x08\0\x10\0\x10", b"\0\x11\x08\0\0\0\x10"),
    "a progressive JPEG of 64 megapixels": lambda: flat_jpeg(8_000, 8_000, progressive=True),
    "a progressive JPEG of 1,000 scans": lambda: refined(picture(small(), "JPEG", progressive=True), 1000),
    "a JPEG of 1,000 scans, not progressive": lambda: scanned(flat_jpeg(4_096, 4_096, "RGB"), 1000),
    "a JPEG of 64 megapixels in three scans": lambda: scanned(flat_jpeg(7_900, 8_000, "RGB"), 1),
    "a JPEG of a million segments": lambda: jpeg(small(), segment(0xE5, b"") * 1_000_000),
    "a PNG of a million chunks": lambda: png(8, 8, ROWS, chunk(b"prVt", b"") * 1_000_000),
    "a PNG of a million chunks behind its pixels": lambda: png(8, 8, ROWS, behind=chunk(b"tEXt", b"a\0b") * 1_000_000),
    "a GIF that is called a JPEG": lambda: picture(small(), "GIF"),
}

READ: dict[str, Callable[[], bytes]] = {
    "a PNG of 4,096 x 4,096 with alpha": lambda: flat_png(4_096, 4_096, 8, 6),
    "a PNG of 4,096 x 4,096 of 16 bits": lambda: flat_png(4_096, 4_096, 16),
    "a PNG of 4,096 x 4,096 of 16 bits in colour": lambda: flat_png(4_096, 4_096, 16, 2),
    "a JPEG of 64 megapixels": lambda: flat_jpeg(8_000, 8_000),
    "a progressive CMYK JPEG of 16 megapixels": lambda: flat_jpeg(4_096, 4_096, "CMYK", progressive=True),
    "a progressive JPEG of 20 scans": lambda: refined(flat_jpeg(4_096, 4_096, "RGB", progressive=True), 20),
    "a JPEG one pixel high": lambda: flat_jpeg(60_000, 1),
    "a JPEG with EXIF that overlaps": lambda: jpeg(small(), segment(0xE1, b"Exif\0\0" + overlapping_exif())),
    "a PNG with EXIF that overlaps": lambda: png(8, 8, ROWS, chunk(b"eXIf", overlapping_exif())),
    "a JPEG with 16 MiB of profiles": lambda: jpeg(small(), segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 270),
    "a PNG with 70 texts of a mebibyte": lambda: png(8, 8, ROWS, chunk(b"zTXt", b"a\0\0" + TEXT) * 70),
    "a PNG with 16 MiB of a private chunk": lambda: png(8, 8, ROWS, chunk(b"prVt", bytes(16 << 20))),
}


def ask(services: House, request: Ask) -> tuple[int, str, float]:
    start = time.perf_counter()
    with Peak() as peak:
        answer = services.ask(request)
    assert time.perf_counter() - start < MOST_S
    return answer.status, "" if answer.status == 200 else json.loads(answer.body)["error"], peak.grown


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_beyond_the_limits_is_refused_at_once(name: str, services: House) -> None:
    file = REFUSED[name]()
    status, error, grown = ask(services, Ask("edge", "/recognize", file))
    assert status == 400
    assert any(part in error for part in KNOWN.split("|")), error
    assert grown < LIGHT + len(file) / (1 << 20)
    assert services.ask(Ask("edge", "/recognize", pictures()["digit"])).status == 200


SLOW = ("a PNG of 4,096 x 4,096 of 16 bits", "a PNG of 4,096 x 4,096 of 16 bits in colour", "a progressive JPEG of 20 scans")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.system] if name in SLOW else []) for name in READ])
def test_a_picture_at_the_limits_costs_what_the_limits_allow(name: str, services: House) -> None:
    file = READ[name]()
    status, error, grown = ask(services, Ask("edge", "/recognize", file))
    assert (status, error) == (200, "")
    assert grown < HEAVY


def test_a_bomb_in_a_form_takes_no_other_picture_with_it(services: House) -> None:
    body = form([pictures()["digit"], png(30_000, 30_000, ROWS)])
    status, error, grown = ask(services, Ask("edge", "/recognize", body, FORM))
    assert status == 400
    assert "claims too many pixels" in error
    assert grown < LIGHT


def test_scans_are_counted_where_a_decoder_meets_them() -> None:
    inside = jpeg(small(), segment(0xE1, b"Exif\0\0" + b"\xff\xda" * 50)) + b"\xff\xda" * 50  # a small picture, then a film
    assert LARGE.scans_of(inside, "") == 1
    assert open_picture(inside, 32, LARGE).size == (32, 32)
    assert LARGE.scans_of(pictures()["restarts"], "") == 1
    assert LARGE.scans_of(picture(small(), "JPEG", progressive=True), "") == 10
    assert LARGE.scans_of(picture(small(), "PNG"), "") == 0


def test_a_jpeg_that_others_follow_is_one() -> None:
    both = io.BytesIO()
    Image.new("RGB", (5_000, 4_000)).save(both, "MPO", save_all=True, append_images=[small()])  # phones write such files
    assert Image.open(both).format == "MPO"
    assert open_picture(both.getvalue(), 32, LARGE).size == (32, 32)


PAYLOADS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a PNG of 4,096 x 4,096": ("png", lambda: flat_png(4_096, 4_096, 8, 2), "sides of at most 32"),
    "a PNG that claims 30,000 x 30,000": ("png", lambda: png(30_000, 30_000, ROWS), "sides of at most 32|too many|exceeds"),
    "a PNG of a million chunks": ("png", lambda: png(8, 8, ROWS, chunk(b"prVt", b"") * 1_000_000), "most that are read"),
    "a JPEG of 100,000 scans": ("jpeg", lambda: scanned(flat_jpeg(32, 32, "RGB"), 100_000), "most that are read"),
    "a JPEG of 64 megapixels": ("jpeg", lambda: flat_jpeg(8_000, 8_000), "sides of at most 32"),
    "a GIF": ("png", lambda: picture(small(), "GIF"), "not of the format"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_an_image_beyond_the_limits_in_a_payload_is_refused(name: str, services: House) -> None:
    codec, make, message = PAYLOADS[name]
    payload = bitstream.pack([make()], services.services[codec].cloud.codec.key)  # type: ignore[attr-defined]
    status, error, grown = ask(services, infer(codec, Tensor.of("payload", [payload])))
    assert status == 400
    assert any(part in error for part in message.split("|")), error
    assert grown < LIGHT + len(payload) / (1 << 20)


def test_a_cloud_takes_images_of_its_own_size_alone(tiny_data: Path, digits: Dataset) -> None:
    for codec in ("png", "jpeg", "webp"):
        cloud, _ = cloud_stage(StageConfig("digits", digits.classes, TARGET, AUXILIARY, codec))
        payload = cloud.codec.encode(torch.zeros(1, 3, 32, 32))
        assert cloud.recognise(payload).shape == (1, 10)
        larger = cloud.codec.encode(torch.zeros(1, 3, 48, 48))
        with pytest.raises(PayloadError, match="sides of at most 32"):
            cloud.recognise(larger)


@pytest.mark.parametrize("stop", [0, 10])
def test_ten_bytes_that_claim_65535_images_cost_little(services: House, stop: int) -> None:
    key = services.services["neural"].cloud.codec.key  # type: ignore[attr-defined]
    payload = bitstream.pack_stream(b"\x55\xaa\x12", bitstream.MAX_IMAGES, key, stop)
    status, _, grown = ask(services, infer("neural", Tensor.of("payload", [payload])))
    assert status == 400
    assert grown < HEAVY


def test_a_string_that_is_too_short_is_read_as_zeros(services: House) -> None:
    codec = services.services["compressai"].cloud.codec  # type: ignore[attr-defined]
    (string,) = codec.encode_each(torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32))
    for length in range(8, len(string), 4):
        pictures = [codec.decode_each([string[:length]]) for _ in range(5)]
        pictures.append(codec.decode_each([string[:length] + bytes(4096)]))
        assert all(torch.equal(each, pictures[0]) for each in pictures)


PATH = f"/v2/models/{MODEL}/infer"


def binary(shape: list[int], data: bytes, **parameters: object) -> Ask:
    entry = {"name": "image", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
    return Ask("edge", PATH, head + data, {LENGTH_HEADER: str(len(head))})


REQUESTS: dict[str, tuple[Callable[[], Ask], str]] = {
    "30 MiB of empty lists": (lambda: Ask("edge", PATH, b'{"inputs":[' + b"[]," * (10 << 20) + b"[]]}"), "is above 1048576"),
    "30 MiB of empty objects": (lambda: Ask("png", PATH, b'{"inputs":[' + b"{}," * (10 << 20) + b"{}]}"), "is above 1048576"),
    "a million brackets": (lambda: Ask("png", PATH, b"[" * (1 << 20)), "cannot be read (RecursionError)"),
    "7 million empty elements": (lambda: binary([7 << 20], bytes(28 << 20)), "at most 65536 elements"),
    "a number of 5,000 digits": (lambda: Ask("png", PATH, b'{"inputs": ' + b"9" * 5000 + b"}"), "cannot be read"),
    "a strength of 400 digits": (lambda: binary([1], b"\0\0\0\0", strength=10**400), "more than 64 bits"),
    "a timeout of 400 digits": (lambda: binary([1], b"\0\0\0\0", timeout=10**400), "more than 64 bits"),
    "a strength that is infinite": (lambda: binary([1], b"\0\0\0\0", strength=float("inf")), "cannot be read"),
    "33 MiB": (lambda: Ask("edge", PATH, bytes(33 << 20)), "a body may have at most"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_is_dear_to_read_is_refused_before_it_is(name: str, services: House) -> None:
    make, message = REQUESTS[name]
    status, error, grown = ask(services, make())
    assert status == (413 if name == "33 MiB" else 400)
    assert message in error
    assert grown < LIGHT


@pytest.mark.parametrize("name", ["edge", "png"])
def test_what_came_too_late_is_not_kept_in_a_queue(name: str, services: House) -> None:
    service: Any = services.services[name]
    busy, free = threading.Event(), threading.Event()
    pool: ThreadPoolExecutor = service._decoder.pool if name == "edge" else service._lanes.pool
    tasks = [pool.submit(lambda: (busy.set(), free.wait(60))) for _ in range(pool._max_workers)]
    assert busy.wait(60)
    head, payload = png(8, 8, ROWS), bitstream.pack([png(8, 8, ROWS)], b"PNG")
    with Peak() as peak:
        for number in range(15):
            late = Ask("edge", "/recognize", head + bytes([number]) * (20 << 20), {"X-Timeout": "0.01"})
            if name == "png":
                late = infer(name, Tensor.of("payload", [payload + bytes([number]) * (20 << 20)]), {"timeout": 10_000})
            assert services.ask(late).status == 504
    free.set()
    assert all(task.result(60) for task in tasks)
    assert peak.grown < 200  # of 300 received MiB, which the limit on bodies in transit no longer counts


def test_what_came_too_late_waits_for_no_batch(services: House) -> None:
    edge: Any = services.services["edge"]
    busy, free = threading.Event(), threading.Event()
    task = edge._lanes.pool.submit(lambda: (busy.set(), free.wait(60)))
    assert busy.wait(60)
    for _ in range(3):
        assert services.ask(Ask("edge", "/recognize", pictures()["digit"], {"X-Timeout": "0.01"})).status == 504
    assert not edge._batcher._waiting
    free.set()
    assert task.result(60)
    assert services.ask(Ask("edge", "/recognize", pictures()["digit"])).status == 200


def test_a_form_that_makes_no_sense_writes_nothing_to_the_log(services: House, caplog: pytest.LogCaptureFixture) -> None:
    for body in (b"--seam\r\n\0: a\r\n", b"--saem", b"--seam\r\na: b\r\n\r\n\r\n--seam?"):
        assert services.ask(Ask("edge", "/recognize", body, FORM)).status == 400
    assert [record.name for record in caplog.records if not record.name.startswith("workbench")] == []
