"""Limits of a request as a whole: pixels and memory at the edge, images at the cloud, and cancelled work."""

from __future__ import annotations

import asyncio
import io
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from tests.support.picture_files import chunk
from tests.support.services import Answered, Both, Log, ask, form_of
from tests.support.waiting import until
from workbench import bitstream
from workbench.codecs import Neural, Png
from workbench.data import Dataset
from workbench.errors import DataError, ServiceError
from workbench.models import PerturbationGenerator
from workbench.pictures import open_picture
from workbench.protocol import LENGTH_HEADER, Tensor, write_request
from workbench.services import cloud as cloud_module
from workbench.services import decoding
from workbench.services.decoding import Cancelled, MemoryBudget, PictureDecoder
from workbench.services.edge import LARGE
from workbench.system import Edge
from workbench.weights import Pair

INFER = "/v2/models/resnet18/infer"


def flat(side: int, mode: str = "1", format: str = "PNG", **options: bool) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, format, **options)
    return buffer.getvalue()


def with_chunks(png: bytes, before: bytes, after: bytes = b"") -> bytes:
    return png[:33] + before + png[33:-12] + after + png[-12:]


MEGABYTE = zlib.compress(bytes((1 << 20) - 8), 9)
EXIF_TEXT = b"\nexif\n 26\n" + (b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0").hex().encode()
XMP_TEXT = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
INFLATED = {
    "texts": b"".join(chunk(b"zTXt", b"k%d\0\0" % number + MEGABYTE) for number in range(13)),
    "texts of one keyword": chunk(b"zTXt", b"k\0\0" + MEGABYTE) * 13,
    "international texts": b"".join(chunk(b"iTXt", b"k%d\0\1\0\0\0" % number + MEGABYTE) for number in range(13)),
    "profiles": chunk(b"iCCP", b"k\0\0" + MEGABYTE) * 13,
    "EXIF as a text": chunk(b"zTXt", b"Raw profile type exif\0\0" + MEGABYTE) * 13,
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTE) * 13,
    "plain, then EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(EXIF_TEXT))
    + chunk(b"zTXt", b"Raw profile type exif\0\0" + MEGABYTE) * 12,
}


@pytest.mark.parametrize("chunks", INFLATED.values(), ids=INFLATED)
@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after"])
def test_texts_and_profiles_of_a_png_are_not_inflated(
    chunks: bytes, after: bool, monkeypatch: pytest.MonkeyPatch, networks: Pair
) -> None:
    inflated: list[int] = []
    real = PngImagePlugin._safe_zlib_decompress
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda data: inflated.append(len(got := real(data))) or got)
    file = with_chunks(flat(20, "RGB"), *((b"", chunks) if after else (chunks, b"")))
    assert len(file) < 16 << 10  # decoded on a lane, next to others
    assert open_picture(file, 32).size == (32, 32)
    decoder = PictureDecoder(Edge(networks.generator, Png()), 32, LARGE, 1)
    decoder._costs([file], threading.Event())
    decoder.close()
    assert Png().decode_each([file])[0].shape == (3, 20, 20)
    assert sum(inflated) < 4096


TURNED = {
    "EXIF as a compressed text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(EXIF_TEXT)),
    "EXIF as a text": chunk(b"tEXt", b"Raw profile type exif\0" + EXIF_TEXT),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_TEXT),
    "compressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP_TEXT)),
}


@pytest.mark.parametrize("chunks", TURNED.values(), ids=TURNED)
def test_a_png_that_says_its_orientation_in_a_text_is_turned(chunks: bytes) -> None:
    plain = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(plain, "PNG")
    turned = open_picture(with_chunks(plain.getvalue(), chunk(b"tEXt", b"Comment\0x") + chunks), 4)
    assert np.array_equal(np.array(turned), np.rot90(np.array(open_picture(plain.getvalue(), 4)), -1))


@pytest.mark.parametrize(("mode", "n"), [("1", 256), ("RGBA", 9), ("1", 5)])
def test_a_requests_pixels_are_summed_before_decoding(both: Both, mode: str, n: int) -> None:
    body, headers = form_of([flat(4096, mode)] * n)
    start = time.monotonic()
    answer = ask(both.edge.url, "/recognize", body, both.certs, headers=headers)
    assert time.monotonic() - start < 10
    assert answer.status == 400
    assert f"claim {n * 4096 * 4096:,} pixels; at most 67,108,864 are read: send fewer" in answer.json["error"]


def test_the_sum_holds_on_the_binary_way_in_too(both: Both) -> None:
    body, length = write_request([Tensor.of("image", [flat(4096)] * 64)])
    answer = ask(both.edge.url, INFER, body, both.certs, headers={LENGTH_HEADER: length})
    assert (answer.status, "send fewer" in answer.json["error"]) == (400, True)


def test_progressive_jpegs_count_as_what_they_cost(both: Both) -> None:
    once, often = flat(4000, "L", "JPEG"), flat(4000, "L", "JPEG", progressive=True)
    body, headers = form_of([often] * 5)
    assert (
        "PNGs and progressive JPEGs of this request claim"
        in ask(both.edge.url, "/recognize", body, both.certs, headers=headers).json["error"]
    )
    body, headers = form_of([once] * 5)
    assert ask(both.edge.url, "/recognize", body, both.certs, headers=headers).status == 200


def test_a_batch_of_photographs_is_still_read(both: Both) -> None:
    body, headers = form_of([flat(1000, "L", "JPEG")] * 40)
    answer = ask(both.edge.url, "/recognize", body, both.certs, headers=headers)
    assert (answer.status, len(answer.json["results"])) == (200, 40)


class _Slow(Edge):
    def __init__(self, networks: Pair) -> None:
        assert isinstance(networks.generator, PerturbationGenerator)
        super().__init__(networks.generator, Png())
        self.gate, self.now, self.most, self.begun = threading.Event(), 0, 0, 0
        self._lock = threading.Lock()

    def receive(self, *arguments: object, **options: object) -> torch.Tensor:
        with self._lock:
            self.now, self.begun = self.now + 1, self.begun + 1
            self.most = max(self.most, self.now)
        assert self.gate.wait(30)
        try:
            return super().receive(*arguments, **options)  # type: ignore[arg-type]
        finally:
            with self._lock:
                self.now -= 1


def test_one_budget_of_memory_holds_for_all_requests(networks: Pair) -> None:
    edge = _Slow(networks)
    budget = MemoryBudget(2 * decoding.PIXEL_BYTES * 500 * 500)
    decoders = [PictureDecoder(edge, 32, LARGE, 4, budget) for _ in range(2)]

    async def run() -> list[torch.Tensor]:
        late = asyncio.get_running_loop().time() + 30
        work = [asyncio.ensure_future(decoder.decode([flat(500)] * 4, late)) for decoder in decoders]
        while edge.begun < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert (edge.begun, budget.used) == (2, budget.most)
        edge.gate.set()
        return await asyncio.gather(*work)

    images = asyncio.run(run())
    assert [tuple(each.shape) for each in images] == [(4, 3, 32, 32)] * 2
    assert (edge.most, budget.used) == (2, 0)
    for decoder in decoders:
        decoder.close()


def test_a_picture_beyond_the_budget_is_decoded_alone() -> None:
    budget, never = MemoryBudget(10), threading.Event()
    with budget(100, never):
        assert budget.used == 100
        given_up = threading.Event()
        given_up.set()
        with pytest.raises(Cancelled), budget(1, given_up):
            pass
    with budget(1, never), budget(9, never):
        assert budget.used == 10


def test_what_nobody_waits_for_is_not_decoded_any_further(networks: Pair) -> None:
    edge = _Slow(networks)
    decoder = PictureDecoder(edge, 32, LARGE, 1)

    async def run() -> None:
        soon = asyncio.get_running_loop().time() + 0.5
        with pytest.raises(ServiceError, match="the deadline passed before the pictures were decoded") as caught:
            await decoder.decode([flat(300)] * 50, soon)
        assert caught.value.status == 504

    asyncio.run(run())
    edge.gate.set()
    decoder.close()
    assert edge.begun == 1


def test_pictures_keep_their_order_an_unreadable_one_refuses_all(networks: Pair, files: list[bytes]) -> None:
    edge = Edge(networks.generator, Png())
    decoder = PictureDecoder(edge, 32, LARGE, 3)

    async def decode(given: list[bytes]) -> torch.Tensor:
        return await decoder.decode(given, asyncio.get_running_loop().time() + 30)

    assert torch.equal(asyncio.run(decode(files[:7])), edge.receive(files[:7], 32, limits=LARGE))
    with pytest.raises(DataError, match="cannot be read"):
        asyncio.run(decode([*files[:3], b"\xff\xd8no picture", *files[3:5]]))
    decoder.close()


def payload_of(both: Both, payload: bytes, timeout_us: int = 0) -> Answered:
    parameters = {"timeout": timeout_us} if timeout_us else {}
    body, length = write_request([Tensor.of("payload", [payload])], parameters=parameters)
    return ask(both.cloud.url, INFER, body, both.certs, "edge", {LENGTH_HEADER: length})


@pytest.mark.parametrize("n", [cloud_module.MOST_IMAGES + 1, bitstream.MAX_IMAGES])
def test_a_payloads_images_are_bounded_before_unpacking(both: Both, n: int) -> None:
    payload = bitstream.pack([flat(32)] * n, b"PNG")
    start = time.monotonic()
    answer = payload_of(both, payload)
    assert (answer.status, answer.json) == (
        400,
        {"error": f"a payload may hold at most 1024 images, this one claims {n}: send fewer"},
    )
    assert time.monotonic() - start < 5


def test_as_many_as_may_be_are_recognised(both: Both) -> None:
    answer = payload_of(both, bitstream.pack([flat(32, "RGB")] * 300, b"PNG"))
    assert answer.status == 200


def test_the_queue_is_counted_in_images(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_module, "MOST_WAITING", 10)
    assert payload_of(both, bitstream.pack([flat(32, "RGB")] * 10, b"PNG")).status == 200
    refused = payload_of(both, bitstream.pack([flat(32, "RGB")] * 11, b"PNG"))
    assert (refused.status, refused.json) == (429, {"error": "the queue is full (0 images wait)"})


def test_a_deadline_that_passes_ends_the_work_between_parts(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.system.PART", 1)
    service = both.cloud.service
    decoded: list[int] = []
    plain = service.cloud.codec.decode_each  # type: ignore[attr-defined]

    def slow(coded: list[bytes]) -> torch.Tensor:
        decoded.append(len(coded))
        time.sleep(0.05)
        found: torch.Tensor = plain(coded)
        return found

    monkeypatch.setattr(service.cloud.codec, "decode_each", slow)  # type: ignore[attr-defined]
    assert payload_of(both, bitstream.pack([flat(32, "RGB")] * 200, b"PNG"), timeout_us=1_000_000).status == 504
    until(lambda: service.waiting == 0, 5.0)
    assert sum(decoded) < 100


def test_parts_answer_as_the_whole(networks: Pair, neural: Neural, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.pictures import to_float
    from workbench.system import Cloud

    payload = Edge(networks.generator, neural).protect(to_float(digits.test.images[:9]))
    whole = Cloud(neural, networks.target).recognise(payload)
    monkeypatch.setattr("workbench.system.PART", 2)
    assert torch.allclose(Cloud(neural, networks.target).recognise(payload), whole, atol=1e-5)


def test_no_bound_is_logged_with_what_was_sent(both: Both, logged: Log) -> None:
    payload_of(both, bitstream.pack([flat(32)] * 2000, b"PNG"))
    until(lambda: logged.lines("pmc2-cloud"))
    assert logged.lines("pmc2-cloud")[-1]["status"] == 400
    assert "Traceback" not in logged.text
