"""The services' entry points for hostile input: pictures at the edge, payloads at the cloud, requests at both.

::

    bytes -> a door makes a request of them -> Service.__call__ (intake, admission, work, errors) -> judged: answered or refused

Every byte string is an input of every door. So seeds and fuzzers need no knowledge of its content. Edge and clouds have the
smallest networks. The edge's own cloud listens on a loopback port.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import nn

from workbench import bitstream
from workbench.codecs import Codec, CompressAI, Jpeg, Neural, Png
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.protocol import LENGTH_HEADER, Tensor, read_response, write_request
from workbench.services.service import Service

if (root := str(Path(__file__).resolve().parents[2])) not in sys.path:  # as a script
    sys.path.insert(0, root)
from hostile import damaged, mended, odd_json, picture, pictures, repacked, retagged  # isort: skip
from tests.support.services import cloud_of, edge_of, serving  # isort: skip

SIZE, MODEL = 32, "tiny"
CLASSES = tuple("abcdefghij")
MOST_S = 10.0  # time limit of one small input
REFUSED = (400, 404, 405, 413)
EVERY = 50  # one of so many inputs is valid, and must be processed correctly


class Finding(AssertionError):  # noqa: N818  (it is not the program that erred)
    """An input that was neither processed correctly nor refused properly."""


@dataclass(frozen=True)
class Ask:
    service: str
    path: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def scores(self) -> list[list[float]]:
        if b'"results"' in self.body[:100]:
            return [result["scores"] for result in json.loads(self.body)["results"]]
        data = read_response(self.body, self.headers.get(LENGTH_HEADER.lower())).outputs["scores"].data
        assert not isinstance(data, list)
        return data.tolist()  # type: ignore[no-any-return]


class Peak:
    """The peak growth of this process's memory inside the context, in MiB. Linux only."""

    grown = 0.0

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.grown = _status("VmHWM") - self._before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


class House:
    def __init__(self, services: dict[str, Service], loop: asyncio.AbstractEventLoop) -> None:
        self.services, self._loop = services, loop

    def ask(self, ask: Ask) -> Answer:
        return self._loop.run_until_complete(_ask(self.services[ask.service], ask))


async def _ask(service: Service, ask: Ask) -> Answer:
    coming = [{"type": "http.request", "body": ask.body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return coming.pop() if coming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in ask.headers.items()]
    scope = {"type": "http", "http_version": "1.1", "method": ask.method, "scheme": "http", "path": ask.path}
    scope |= {"query_string": b"", "root_path": "", "headers": headers, "server": ("127.0.0.1", 80)}
    await service(scope, receive, send)
    start, *bodies = sent
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in bodies))


@functools.cache
def parts() -> tuple[Any, dict[str, Codec], Any]:
    """Return the smallest pair, the codecs by name, and the classes, for `cloud_of` and `edge_of`."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, len(CLASSES))).requires_grad_(False)
    pair: Any = SimpleNamespace(generator=PerturbationGenerator(width=4), target=classifier)
    classifier.name = MODEL  # type: ignore[assignment]
    dataset: Any = SimpleNamespace(classes=CLASSES)
    compressor = NeuralCompressor(N=8, M=12).requires_grad_(False)
    compressor.g_a[-1].weight.mul_(300)  # latents with many symbols
    compressor.update(force=True, update_quantiles=True)
    codecs: tuple[Codec, ...] = (
        Neural(compressor, "tiny"),
        CompressAI(compressor, "tiny"),
        Png(side=SIZE),
        Jpeg(side=SIZE),
    )
    return pair, {codec.name: codec for codec in codecs}, dataset


@contextlib.contextmanager
def house() -> Iterator[House]:
    pair, codecs, dataset = parts()
    services: dict[str, Service] = {name: cloud_of(pair, codec, dataset, plain=True) for name, codec in codecs.items()}
    loop = asyncio.new_event_loop()
    with serving(cloud_of(pair, codecs["png"], dataset, plain=True), None, "cloud") as behind:
        edge = edge_of(pair, codecs["png"], dataset, behind.url, None, plain=True)
        services["edge"] = edge

        async def opened() -> None:
            await edge.open()
            assert edge._watch is not None
            await edge._watch

        async def closed() -> None:
            for service in services.values():
                await service.close()

        try:
            loop.run_until_complete(opened())
            yield House(services, loop)
        finally:
            loop.run_until_complete(closed())
            loop.close()


class Door(ABC):
    """One entry point. `knock` sends an input and judges the response."""

    name: str

    def __init__(self, house: House) -> None:
        self.house = house
        self.counts: dict[int, int] = {}
        self.slowest = 0.0
        self._right = [(ask, self.house.ask(ask).scores) for ask in self.valid()]
        self._knocks = 0

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Return valid inputs, from which hostile ones are derived."""

    @abstractmethod
    def ask(self, data: bytes) -> Ask:
        """Return the request for an input."""

    @abstractmethod
    def mutated(self, source: random.Random) -> bytes:
        """Return a hostile input."""

    @abstractmethod
    def valid(self) -> list[Ask]:
        """Return requests that must succeed."""

    def knock(self, data: bytes) -> Answer:
        """Send an input. Raises Finding unless it succeeds or is refused in one line, in time. Every `EVERY`-th call also sends a valid one."""
        ask = self.ask(data)
        start = time.perf_counter()
        answer = self.house.ask(ask)
        passed = time.perf_counter() - start
        self.slowest = max(self.slowest, passed)
        self.counts[answer.status] = self.counts.get(answer.status, 0) + 1
        judge(ask, answer)
        if passed > MOST_S:
            raise Finding(f"{ask.service}{ask.path}: it took {passed:.1f} s")
        self._knocks += 1
        if self._knocks % EVERY == 0:
            right, scores = self._right[self._knocks // EVERY % len(self._right)]
            again = self.house.ask(right)
            if again.status != 200 or not torch.allclose(torch.tensor(again.scores), torch.tensor(scores), atol=1e-5):
                raise Finding(f"{right.service}{right.path}: a valid request was answered with {again.status}, or wrongly")
        return answer


def judge(ask: Ask, answer: Answer) -> None:
    where = f"{ask.service}{ask.path}: status {answer.status}"
    if answer.status == 200:
        scores = torch.tensor(answer.scores)
        if not torch.allclose(scores.sum(1), torch.ones(len(scores)), atol=1e-3):
            raise Finding(f"{where}, and scores that are none")
        return
    in_time = "X-Timeout" not in ask.headers and b"timeout" not in ask.body
    if answer.status not in REFUSED and (answer.status != 504 or in_time):
        raise Finding(where)
    try:
        content = json.loads(answer.body)
        line = content["error"]
    except (ValueError, KeyError, TypeError):
        raise Finding(f"{where}, and no error in JSON") from None
    if list(content) != ["error"] or not isinstance(line, str) or not line or not line.isprintable() or len(line) > 4000:
        raise Finding(f"{where}, and an error that is no line")
    if re.search("0x[0-9a-f]{6}", line):
        raise Finding(f"{where}, and an error that names a place in memory")


def infer(service: str, tensor: Tensor, parameters: dict[str, Any] | None = None) -> Ask:
    body, length = write_request([tensor], "", parameters)
    return Ask(service, f"/v2/models/{MODEL}/infer", body, {LENGTH_HEADER: length})


def form(files: list[bytes]) -> bytes:
    head = b'--seam\r\nContent-Disposition: form-data; name="p"; filename="p"\r\nContent-Type: image/png\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--seam--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=seam"}
ODD_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {},
    {"Content-Type": "image/jpeg"},
    {"Content-Type": "text/plain; charset=\xff"},
    {"Content-Type": "multipart/form-data"},
    {"Content-Type": 'multipart/form-data; boundary="'},
    {"Content-Type": "multipart/form-data; boundary*=utf-8''%FF"},
    {"Content-Type": "multipart/form-data; boundary=" + "x" * 300},
    {"Content-Type": ";;;=;\xa0"},
    {"Content-Type": ""},
    {"X-Strength": "nan"},
    {"X-Strength": "1e400"},
    {"X-Strength": "0"},
    {"X-Strength": "one"},
    {"X-Strength": "١"},
    {"X-Strength": "1" * 5000},
    {"X-Timeout": "0"},
    {"X-Timeout": "1e-300"},
    {"X-Timeout": "0.0001"},
    {"X-Timeout": "-inf"},
    {"X-Timeout": "1_0"},
    {"X-Request-Id": "a"},
    {"X-Request-Id": "\xff\x80" * 400},
    {"X-Request-Id": "\x00\r\n"},
)
WAYS = 6


class ImageDoor(Door):
    """Files at the edge: alone, in forms, in inference requests, next to a valid one.

    Byte 0 selects how, the rest is the file.
    """

    name = "image"

    def seeds(self) -> list[bytes]:
        files = [*pictures().values(), *others().values()]
        ways = [bytes([number % WAYS]) + file for number, file in enumerate(files)]
        return [*ways, bytes([3]) + form(files[:2]), bytes([3]) + form([files[0], b"", files[1]])]

    def ask(self, data: bytes) -> Ask:
        way, file, good = (data[0] if data else 0), data[1:], pictures()["digit"]
        match way % WAYS:
            case 1:
                return Ask("edge", "/recognize", form([file]), FORM)
            case 2:
                return Ask("edge", "/recognize", form([good, file]), FORM)
            case 3:
                return Ask("edge", "/recognize", file, FORM)
            case 4:
                return infer("edge", Tensor.of("image", [file]))
            case 5:
                return infer("edge", Tensor.of("image", [good, file]))
        headers = {name: value.encode("utf-8").decode("latin-1") for name, value in ODD_HEADERS[way // WAYS % 24].items()}
        return Ask("edge", "/recognize", file, headers)

    def mutated(self, source: random.Random) -> bytes:
        way = source.randrange(252)
        files = list(pictures().values())
        if way % WAYS == 3:
            return bytes([way]) + damaged(form(source.sample(files, 2)), source, files)
        file = source.choice(files)
        file = repacked(file, source) if source.random() < 0.2 else damaged(file, source, files)
        return bytes([way]) + (mended(file) if source.random() < 0.7 else file)

    def valid(self) -> list[Ask]:
        kinds = ("digit", "progressive", "cmyk", "16 bits", "animated", "interlaced")
        files = [pictures()[name] for name in kinds]
        alone = [Ask("edge", "/recognize", file) for file in files]
        return [*alone, Ask("edge", "/recognize", form(files), FORM), infer("edge", Tensor.of("image", files))]


def others() -> dict[str, bytes]:
    image = Image.fromarray(torch.arange(3 * 32 * 32).view(32, 32, 3).to(torch.uint8).numpy())
    return {format: picture(image, format) for format in ("GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA")}


CODECS = ("neural", "compressai", "png", "jpeg")


class PayloadDoor(Door):
    """Payloads at the cloud: byte 0 selects the codec, and whether the tag is valid. The rest is the payload."""

    name = "payload"

    def __init__(self, house: House) -> None:
        generator = torch.Generator().manual_seed(0)
        self._payloads: dict[str, list[bytes]] = {}
        for name in CODECS:
            codec = house.services[name].cloud.codec  # type: ignore[attr-defined]
            smooth = nn.functional.interpolate(torch.rand(5, 3, 4, 4, generator=generator), (SIZE, SIZE), mode="bilinear")
            self._payloads[name] = [codec.encode(smooth[:n]) for n in (1, 2, 5)]
        super().__init__(house)

    def seeds(self) -> list[bytes]:
        return [
            bytes([CODECS.index(name) + tag]) + payload
            for tag in (0, 4)
            for name, each in self._payloads.items()
            for payload in each
        ]

    def ask(self, data: bytes) -> Ask:
        way, payload = (data[0] if data else 0), data[1:]
        name = CODECS[way % 4]
        if way & 4:
            payload = retagged(payload, self._key(name))
        return infer(name, Tensor.of("payload", [payload]))

    def _key(self, name: str) -> bytes:
        key: bytes = self.house.services[name].cloud.codec.key  # type: ignore[attr-defined]
        return key

    def mutated(self, source: random.Random) -> bytes:
        number = source.randrange(4)
        name, files = CODECS[number], list(pictures().values())
        whole = source.choice(self._payloads[name])
        way = source.randrange(10)
        if way == 0:
            return bytes([number + source.choice((0, 4))]) + source.randbytes(source.randrange(100))
        if way < 5 and name != "neural":
            strings = bitstream.unpack(whole, self._key(name))
            if source.random() < 0.2:
                strings = [source.choice(files) for _ in strings]
            place = source.randrange(len(strings))
            change: Callable[..., bytes] = repacked if source.random() < 0.3 else damaged
            strings[place] = change(strings[place], source)
            if source.random() < 0.7:
                strings[place] = mended(strings[place])
            return bytes([number + 4]) + bitstream.pack(strings, self._key(name))
        return bytes([number + source.choice((0, 4, 4, 4))]) + damaged(whole, source, self._payloads[name])

    def valid(self) -> list[Ask]:
        return [infer(name, Tensor.of("payload", [payload])) for name, each in self._payloads.items() for payload in each]


class ProtocolDoor(Door):
    """Requests at edge and cloud: `e` or `c`, the length header (or nothing), a line end. The rest is the body."""

    name = "protocol"

    def __init__(self, house: House) -> None:
        codec = house.services["png"].cloud.codec  # type: ignore[attr-defined]
        payload = codec.encode(torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
        self._contents = {"e": ("image", pictures()["digit"]), "c": ("payload", payload)}
        super().__init__(house)

    def _whole(self, door: str, plain: bool, source: random.Random) -> tuple[dict[str, Any], bytes]:
        name, content = self._contents[door]
        entry: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [1]}
        data = b""
        if plain:
            entry["data"] = ["x"]
        else:
            data = len(content).to_bytes(4, "little") + content
            entry["parameters"] = {"binary_data_size": len(data)}
        whole: dict[str, Any] = {"inputs": [entry]}
        if source.random() < 0.7:
            whole |= {"id": "a", "parameters": {"timeout": 20_000_000, "strength": 1.0}}
        if source.random() < 0.5:
            whole |= {"outputs": [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}]}
        return whole, data

    def seeds(self) -> list[bytes]:
        source = random.Random(0)
        made = []
        for door in "ec":
            for plain in (True, False, False, False):
                whole, data = self._whole(door, plain, source)
                head = json.dumps(whole).encode()
                length = b"" if plain else str(len(head)).encode()
                made.append(door.encode() + length + b"\n" + head + data)
        return made

    def ask(self, data: bytes) -> Ask:
        head, _, body = data.partition(b"\n")
        headers = {LENGTH_HEADER: head[1:].decode("latin-1")} if head[1:] else {}
        return Ask("png" if head[:1] == b"c" else "edge", f"/v2/models/{MODEL}/infer", body, headers)

    def mutated(self, source: random.Random) -> bytes:
        door = source.choice("ec")
        plain = source.random() < 0.3
        whole, data = self._whole(door, plain, source)
        head = odd_json(whole, source) if source.random() < 0.75 else json.dumps(whole).encode()
        if not plain and source.random() < 0.3:
            data = damaged(data, source)
        if source.random() < 0.1:
            head = damaged(head, source)
        length = str(len(head)) if not plain else ""
        if source.random() < 0.1:
            length = source.choice(("", "0", "-1", "+1", " 1", "1e3", "²", "0x10", "9" * 400, "99999999", "1", "1_0", "00001"))
        return (door + length).encode() + b"\n" + head + data

    def valid(self) -> list[Ask]:
        (image, file), (payload, content) = self._contents["e"], self._contents["c"]
        return [infer("edge", Tensor.of(image, [file])), infer("png", Tensor.of(payload, [content]))]


DOORS: dict[str, type[Door]] = {door.name: door for door in (ImageDoor, PayloadDoor, ProtocolDoor)}
