"""Energy of a picture on the phone (PMC², Figures 1 and 5): without protection, with the baseline, with PMC².

::

    none    phone: JPEG              --JPEG--> cloud              nothing is protected
    pp      phone: generator -> PNG  --PNG---> cloud              the baseline, Protective Perturbation
    pmc2    phone: JPEG              --JPEG--> edge --> cloud     the phone computes what it computes in `none`

    energy of a picture = CPU time x power of a busy core + bytes sent x energy of a byte
                          + time waited x power while waiting + tail of the radio / pictures a request

CPU time is measured, of this process, which is the phone: its own stages and the sending, over TLS to services in processes of
their own. Bytes are counted at the socket, with HTTP and TLS, at the number of pictures that a request has. The core's power is
a sensor's (see `sensors`), or assumed. No sensor sees the radio: its energy is always assumed.

The assumptions matter more than the noise, so their range comes first in every result (`RANGES`), and `SCENARIOS` names whole
situations: a stream of pictures, and single pictures after which the radio stays awake for its tail.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from scipy.special import stdtrit
from torch import Tensor as Images
from tqdm.auto import tqdm

from ..certs import Role
from ..client import new_loop
from ..errors import RunError, UsageError, unknown
from ..metrics import Estimate, mean
from ..protocol import Tensor
from ..services.connection import Connection, infer
from ..services.loading import StageConfig
from ..services.local import Local
from ..services.trust import client_context
from ..system import Client, Edge, Stopwatch
from .link import Link
from .sensors import ROOT, Sensor, find_sensor

__all__ = [
    "ARRANGEMENTS",
    "PARTS",
    "RANGES",
    "SCENARIOS",
    "Assumptions",
    "Measured",
    "Phone",
    "energy",
    "measure",
    "powers",
    "share",
    "shares",
    "source_of",
    "student",
    "watts",
]

Result = TypeVar("Result")
ARRANGEMENTS = ("none", "pp", "pmc2")
PARTS = ("compression", "generator", "sending", "radio", "waiting", "tail")

# The least and the most that published measurements of phones say, and their source. The defaults lie between.
RANGES: dict[str, tuple[float, float, str]] = {
    "cpu_w": (
        0.7,
        2.4,
        "a busy performance core of phones of 2015 and 2016, above idle (AnandTech, HiSilicon Kirin 960, March 2017)",
    ),
    "joules_per_byte": (
        2.3e-6,
        7e-6,
        "sent over Wi-Fi, or LTE once it is awake (after Huang et al., MobiSys '12; not compared with its tables)",
    ),
    "slowdown": (
        1.0,
        3.2,
        "a phone as fast as this machine, or as much slower as the paper's phone is than its edge (8.149 and 2.616 ms a "
        "picture in the generator; PMC², Figure 4, 2025)",
    ),
    "wait_w": (
        0.0,
        1.29,
        "waiting not counted, or a radio that stays active: 0.13 W on Wi-Fi, 1.29 W on LTE "
        "(after Huang et al., MobiSys '12; not compared with its tables)",
    ),
}


@dataclass(frozen=True)
class Assumptions:
    """The inputs of the model that are not measured.

    `cpu_w`: power of a busy core (W), unless a sensor reads it. `joules_per_byte`: of a byte sent. `wait_w`: power while the
    phone waits for an answer. `slowdown`: time of a phone's core over that of this machine's for the same work. `tail_j`:
    energy of the radio's tail after each request (J), 0 in a stream of requests. Raises UsageError for a negative figure, and
    for a power or slowdown of 0.
    """

    cpu_w: float = 1.5
    joules_per_byte: float = 4e-6
    wait_w: float = 0.13
    slowdown: float = 2.0
    tail_j: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} must be a number from 0 up, got {value!r}")
        for name in ("cpu_w", "slowdown"):
            if not getattr(self, name):
                raise UsageError(f"{name} must be above 0, got 0")

    def text(self) -> str:
        """Return the assumptions in words, without the core's power."""
        words = [f"{1e6 * self.joules_per_byte:g} µJ a byte sent"]
        words += [f"{self.wait_w:g} W while waiting"] if self.wait_w else ["waiting not counted"]
        words += [f"a phone's core {self.slowdown:g} times as slow as this machine's"] if self.slowdown != 1 else []
        words += [f"{self.tail_j:g} J of tail after a request"] if self.tail_j else []
        return ", ".join(words)


# Whole situations, as changes of the assumptions. Tails, s x W: Huang et al., A Close Examination of Performance and Power
# Characteristics of 4G LTE Networks, MobiSys '12.
SCENARIOS: dict[str, dict[str, float]] = {
    "stream, Wi-Fi": {"wait_w": 0.13, "tail_j": 0.0},
    "one request alone, Wi-Fi": {"wait_w": 0.13, "tail_j": 0.238 * 0.119},
    "one request alone, LTE": {"wait_w": 1.29, "tail_j": 11.576 * 1.060},
}


class CpuClock(Stopwatch):
    """Adds up milliseconds of this process's CPU time, all its threads, by component."""

    @contextmanager
    def __call__(self, component: str, device: torch.device | None = None) -> Iterator[None]:
        """Charge the enclosed work to `component`."""
        start = time.process_time()
        yield
        self.milliseconds[component] = (self.milliseconds[component] or 0.0) + 1e3 * (time.process_time() - start)


@dataclass(frozen=True)
class Phone:
    """What a phone has in an arrangement: images in, the tensor that it sends out. `edge` is the baseline's, on the phone."""

    name: str
    client: Client
    edge: Edge | None = None

    def __post_init__(self) -> None:
        if self.name not in ARRANGEMENTS:
            raise unknown("arrangement", self.name, ARRANGEMENTS)
        if (self.edge is None) == (self.name == "pp"):
            raise UsageError(f"arrangement {self.name!r} has {'a' if self.name == 'pp' else 'no'} generator on the phone")

    def work(self, images: Images, clock: Stopwatch | None = None) -> tuple[Tensor, int]:
        """Do the phone's work on images N x 3 x H x W in [0, 1]; return what is sent, and its bytes without the protocol's."""
        if self.edge is not None:
            payload = self.edge.protect(images, 1.0, clock)
            return Tensor.of("payload", [payload]), len(payload)
        if self.name == "pmc2":
            files = self.client.capture(images, clock)
            return Tensor.of("image", list(files)), sum(map(len, files))
        clock = clock or Stopwatch()
        with clock("client_compression"):  # the same files, in the container that a cloud takes
            payload = self.client.jpeg.encode(images)
        return Tensor.of("payload", [payload]), len(payload)


@dataclass
class Measured:
    """The measurements of an arrangement, a value an image and repetition: CPU time by part (ms), time (ms), bytes sent.

    `sent` counts bytes at the socket, `payload` the picture's own bytes alone.
    """

    name: str
    batch: int
    n: int = 0
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS[:3]})
    ms: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    payload: float = 0.0
    classes: list[int] = field(default_factory=list)

    @property
    def total_ms(self) -> list[float]:
        """CPU time of an image, by repetition."""
        return [sum(parts) for parts in zip(*self.cpu_ms.values(), strict=True)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread: several that wait for each other would be charged for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    phone: Phone,
    stage: StageConfig,
    images: Images,
    repetitions: int,
    batch: int,
    data: Sequence[str] = (),
    progress: bool = False,
) -> Measured:
    """Send the images, `batch` a request, `repetitions` times from this process to services started here.

    The edge speaks the stage's codec to a cloud that remembers no answer; `data` are the options that name the data set to
    `workbench serve`. Before the turns that count, one turn goes through a relay that counts bytes, and one warms up. Raises
    UsageError for too few images or repetitions.
    """
    if repetitions < 2 or not 0 < batch <= len(images):
        raise UsageError(
            f"needed are 2 repetitions and a batch of images, got {repetitions} and {batch}, and there are {len(images)} images"
        )
    pair = ("--target", stage.target, "--auxiliary", stage.auxiliary, "--quiet", *data)
    found = Measured(phone.name, batch)
    with ExitStack() as stack:
        local = stack.enter_context(Local())
        url = _start(local, phone.name, stage.codec, pair)
        role: Role = "edge" if phone.name == "pmc2" else "cloud"
        counter = stack.enter_context(Link(url))
        pool = stack.enter_context(ThreadPoolExecutor(1, "phone"))  # a notebook's own thread runs a loop already
        runner = asyncio.Runner(loop_factory=new_loop)
        stack.callback(lambda: pool.submit(runner.close).result())
        door = Connection(url, lambda: client_context(local.certs, "client", role), attempt_s=60.0)
        stack.callback(lambda: pool.submit(_on_one_thread, runner, door.__aexit__()).result())
        sent = pool.submit(_on_one_thread, runner, _bytes(counter, local, role, phone, stage.target, images, batch)).result()
        for number in tqdm(range(-1, repetitions), desc=phone.name, unit="turn", disable=not progress, leave=False):
            turn = pool.submit(_on_one_thread, runner, _turn(phone, door, stage.target, images, batch)).result()
            if number < 0:
                found.classes = turn.classes
                continue
            found.n = turn.n
            for part, values in turn.cpu_ms.items():
                found.cpu_ms[part] += values
            found.ms += turn.ms
            found.sent.append(sent)
            found.payload = turn.sent[0]
            if turn.classes != found.classes:
                raise RunError(f"{phone.name}: the services gave other labels to the same images")
    return found


def _on_one_thread(runner: asyncio.Runner, work: Coroutine[Any, Any, Result]) -> Result:
    with one_thread():
        return runner.run(work)


def _start(local: Local, name: str, codec: str, pair: Sequence[str]) -> str:
    """Start what a phone of an arrangement asks, and return its URL."""
    if name != "pmc2":
        options = ("--arrangement", "pp", "--codec", "png" if name == "pp" else "jpeg")
        return local.start("cloud", *pair, *options).url
    cloud = local.start("cloud", *pair, "--codec", codec, "--remember", "0", ready=False)
    edge = local.start("edge", *pair, "--codec", codec, "--cloud", cloud.url, ready=False)
    for service in (cloud, edge):
        local.await_ready(service)
    return edge.url


async def _bytes(counter: Link, local: Local, role: Role, phone: Phone, model: str, images: Images, batch: int) -> float:
    """Return the bytes an image that this phone sends on an open connection: payload, HTTP and TLS."""
    async with Connection(counter.url, lambda: client_context(local.certs, "client", role), attempt_s=60.0) as door:
        await _turn(phone, door, model, images[:batch], batch)  # opens the connection
        before = counter.bytes["out"]
        few = images[: max(batch, min(len(images), 64) // batch * batch)]
        await _turn(phone, door, model, few, batch)
        return (counter.bytes["out"] - before) / len(few)


async def _turn(phone: Phone, door: Connection, model: str, images: Images, batch: int) -> Measured:
    """Send all images once: each picture's part of the CPU time of this process, of the time, of the bytes."""
    turn, clock, sent = Measured(phone.name, batch), CpuClock(), 0
    deadline = asyncio.get_running_loop().time() + 120.0
    start, cpu = time.perf_counter(), time.process_time()
    for part in torch.split(images, batch):
        tensor, size = phone.work(part, clock)
        sent += size
        answer = await infer(door, model, [tensor], deadline=deadline)
        turn.classes += [int(each) for each in answer.outputs["class"].data]
    taken, passed, n = 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - start), len(images)
    own = {part: clock.milliseconds[part] or 0.0 for part in ("client_compression", "compression", "generator")}
    turn.n = n
    turn.cpu_ms["compression"] = [(own["client_compression"] + own["compression"]) / n]
    turn.cpu_ms["generator"] = [own["generator"] / n]
    turn.cpu_ms["sending"] = [(taken - sum(own.values())) / n]
    turn.ms, turn.sent = [passed / n], [sent / n]
    return turn


def powers(
    phones: Mapping[str, Phone], images: Images, source: str = "auto", root: Path = ROOT
) -> tuple[dict[str, list[float]], str, list[str]]:
    """Return what a busy core takes at each phone's work (W, by window; none: assume it), what tells it, and why not others.

    `source` is one of `sensors.SOURCES`. Nothing else should run. With `auto` a sensor that cannot tell work from rest is not
    used, and that is said; asked for, it raises RunError.
    """
    sensor, reasons = find_sensor(source, root)
    if sensor is None:
        return {}, "", reasons
    found: dict[str, list[float]] = {}
    try:
        for name, phone in phones.items():
            alike = next((known for known in found if (phones[known].edge is None) == (phone.edge is None)), None)
            found[name] = found[alike] if alike else watts(sensor, partial(phone.work, images))
    except RunError as error:
        if source != "auto":
            raise
        return {}, "", [*reasons, str(error)]
    return found, f"{sensor.source}, {sensor.sees}", reasons


def watts(sensor: Sensor, work: Callable[[], object], rest: Callable[[float], object] = time.sleep) -> list[float]:
    """Return what a second of CPU time takes above rest (W), by window: `work` again and again, then as long at rest.

    Raises RunError where the sensor sees no more energy at work than at rest: it is too coarse, or the machine busy otherwise.
    """
    found = []
    with one_thread():
        work()
        for _ in range(sensor.windows):
            with sensor.reading() as idle:
                rest(sensor.window_s)
            cpu = time.process_time()
            with sensor.reading() as busy:
                until = time.perf_counter() + sensor.window_s
                while time.perf_counter() < until:
                    work()
            cpu = time.process_time() - cpu
            found.append((busy.joules - idle.joules / idle.seconds * busy.seconds) / cpu)
    if mean(found).value <= 0:
        raise RunError(
            f"the {sensor.source} readings are no higher at work than at rest ({mean(found).value:.2f} W): end what else runs "
            "here, or take source 'estimate'"
        )
    return found


def energy(measured: Measured, assumed: Assumptions, power: Sequence[float] = (), sees: str = "") -> dict[str, Any]:
    """Return the energy of a picture (mJ) by part, with Student's intervals over repetitions.

    `range_mj` comes first: the energy at the least and the most of `RANGES` of every assumption. `power` is the result of
    `watts` (W; empty: assumed), `sees` its source. The paper's figures are of 5,000 images: `joules_5000`, and `watts`, the
    energy over the time, compare with them.
    """
    n = len(measured.ms)
    each_w = [power[turn % len(power)] if power else assumed.cpu_w for turn in range(n)]
    cpu_ms = {part: [assumed.slowdown * value for value in values] for part, values in measured.cpu_ms.items()}
    parts = {part: [w * ms for w, ms in zip(each_w, values, strict=True)] for part, values in cpu_ms.items()}
    parts["radio"] = [1e3 * assumed.joules_per_byte * sent for sent in measured.sent]
    total_ms = [sum(values) for values in zip(*cpu_ms.values(), strict=True)]
    waited = [max(0.0, ms - cpu) for ms, cpu in zip(measured.ms, measured.total_ms, strict=True)]
    parts["waiting"] = [assumed.wait_w * ms for ms in waited]
    parts["tail"] = [1e3 * assumed.tail_j / measured.batch] * n
    whole = [sum(values) for values in zip(*parts.values(), strict=True)]
    lasted = [cpu + wait for cpu, wait in zip(total_ms, waited, strict=True)]
    return {
        "range_mj": _range(measured, assumed, power),
        "n": measured.n,
        "repetitions": n,
        "batch": measured.batch,
        "source": source_of(assumed, power, sees),
        "cpu_ms": student(total_ms),
        "ms": student(lasted),
        "bytes": sum(measured.sent) / n,
        "payload_bytes": measured.payload,
        "power_w": student(each_w),
        "mj": student(whole),
        "parts_mj": {part: student(values) for part, values in parts.items()},
        "joules_5000": student([5 * value for value in whole]),
        "watts": student([mj / ms for mj, ms in zip(whole, lasted, strict=True)]),
        "assumed": asdict(assumed),
    }


def _range(measured: Measured, assumed: Assumptions, power: Sequence[float]) -> list[float]:
    """Return the least and the most energy (mJ) over `RANGES`: it grows with every assumption."""
    if power:
        assumed = replace(assumed, cpu_w=1.0)
    ends = []
    for end, outer in ((0, min), (1, max)):
        bounds = {name: outer(getattr(assumed, name), limits[end]) for name, limits in RANGES.items()}
        ends.append(sum(_parts(measured, replace(assumed, **bounds), power).values()))
    return ends


def _parts(measured: Measured, assumed: Assumptions, power: Sequence[float] = ()) -> dict[str, float]:
    """Return the mean energy of a picture by part (mJ)."""
    core = sum(power) / len(power) if power else assumed.cpu_w
    n = len(measured.ms)
    parts = {part: core * assumed.slowdown * sum(values) / n for part, values in measured.cpu_ms.items()}
    waited = [max(0.0, ms - cpu) for ms, cpu in zip(measured.ms, measured.total_ms, strict=True)]
    return parts | {
        "radio": 1e3 * assumed.joules_per_byte * sum(measured.sent) / n,
        "waiting": assumed.wait_w * sum(waited) / n,
        "tail": 1e3 * assumed.tail_j / measured.batch,
    }


def student(values: Sequence[float]) -> Estimate:
    """Return the mean of few repetitions with its interval by Student's t."""
    found = mean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * (found.std or 0.0) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(found.value, found.value - half, found.value + half, found.n, found.std)


def source_of(assumed: Assumptions, power: Sequence[float] = (), sees: str = "") -> str:
    """Return in words where the energy comes from: a sensor, or an `estimate`, and what was assumed."""
    if power:
        return f"{sees}: {mean(list(power)).value:.2f} W a busy core above rest; assumed: {assumed.text()}"
    return f"estimate: assumed {assumed.cpu_w:g} W a busy core, {assumed.text()}"


def share(part: Estimate, whole: Estimate) -> Estimate:
    """Return `part` over `whole`, two independent means, with the interval that their relative errors give (delta method)."""
    ratio = part.value / whole.value
    relative = math.hypot((part.high - part.value) / part.value, (whole.high - whole.value) / whole.value)
    return Estimate(ratio, ratio * (1 - relative), ratio * (1 + relative), min(part.n, whole.n))


def shares(measured: Mapping[str, Measured], assumed: Assumptions, power: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the energy of each arrangement over the baseline's (`pp`).

    `range` comes first: the least and the most over all corners of `RANGES`. `share` is the ratio under `assumed`, with the
    interval of the measurements' noise alone. `scenarios` has the ratio in each of `SCENARIOS`. `over_none` is the ratio to no
    protection at all: equality is found only if its interval holds 1 and is narrow.
    """
    result: dict[str, Any] = {}
    ends = {name: sorted({*bounds[:2], getattr(assumed, name)}) for name, bounds in RANGES.items()}

    def ratio(name: str, other: Assumptions) -> float:
        both = (sum(_parts(measured[each], other, power.get(each, ())).values()) for each in (name, "pp"))
        return next(both) / next(both)

    whole = {name: energy(each, assumed, power.get(name, ()))["mj"] for name, each in measured.items()}
    for name in measured:
        if name == "pp":
            continue
        ratios = [
            ratio(name, replace(assumed, **dict(zip(ends, values, strict=True))))
            for values in itertools.product(*ends.values())
        ]
        result[name] = {
            "range": [min(ratios), max(ratios)],
            "share": share(whole[name], whole["pp"]),
            "scenarios": {title: ratio(name, replace(assumed, **change)) for title, change in SCENARIOS.items()},
        }
        if name != "none" and "none" in whole:
            result[name]["over_none"] = share(whole[name], whole["none"])
    return result
