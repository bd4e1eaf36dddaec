"""What a picture costs the phone in energy (PMC², Figures 1 and 5): without protection, with the baseline, with PMC².

::

    none    phone: JPEG              --JPEG--> cloud              nothing is protected
    pp      phone: generator -> PNG  --PNG---> cloud              the baseline, Protective Perturbation
    pmc2    phone: JPEG              --JPEG--> edge --> cloud     the phone has the work of `none`

    energy of a picture = CPU time x power of a busy core + bytes sent x energy of a byte + time waited x power while waiting

CPU time is measured, of this process, which is the phone: its own stages and the sending, over TLS to services in processes of
their own. The power is a sensor's (see `sensors`), or assumed; what the radio takes no sensor tells, and is always assumed.
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
from torch import Tensor as Images
from tqdm.auto import tqdm

from ..client import new_loop
from ..errors import RunError, UsageError, unknown
from ..metrics import Estimate, mean
from ..protocol import Tensor
from ..services.connection import Connection, infer
from ..services.local import Local
from ..services.stages import Stage
from ..services.trust import client_context
from ..system import Client, Edge, Stopwatch
from .sensors import ROOT, Sensor, find_sensor

__all__ = [
    "ARRANGEMENTS",
    "PARTS",
    "RANGES",
    "Assumptions",
    "Measured",
    "Phone",
    "energy",
    "measure",
    "powers",
    "share",
    "shares",
    "source_of",
    "watts",
]

Result = TypeVar("Result")
ARRANGEMENTS = ("none", "pp", "pmc2")
PARTS = ("compression", "generator", "sending", "radio", "waiting")

# What published measurements of phones say, least and most, and who measured. Ours lie between.
RANGES: dict[str, tuple[float, float, str]] = {
    "cpu_w": (
        0.7,
        2.4,
        "a busy performance core of phones of 2015 and 2016, above idle (AnandTech, HiSilicon Kirin 960, March 2017)",
    ),
    "joules_per_byte": (
        2.3e-6,
        7e-6,
        "sent over Wi-Fi, or LTE once it is awake (Huang et al., MobiSys '12; Balasubramanian et al., IMC '09)",
    ),
}


@dataclass(frozen=True)
class Assumptions:
    """What the model does not measure: W of a busy core (where no sensor tells), J of a byte sent, W while waiting.

    `slowdown` is how many times as long as a core of this machine a phone's takes for the same work (1: as long). Raises
    UsageError for a negative figure, and where power or slowdown is 0.
    """

    cpu_w: float = 1.5
    joules_per_byte: float = 4e-6
    wait_w: float = 0.0
    slowdown: float = 1.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} must be a number from 0 up, got {value!r}")
        for name in ("cpu_w", "slowdown"):
            if not getattr(self, name):
                raise UsageError(f"{name} must be above 0, got 0")

    def text(self) -> str:
        """Return them in words, without the core's power."""
        words = [f"{1e6 * self.joules_per_byte:g} µJ a byte sent"]
        words += [f"{self.wait_w:g} W while waiting"] if self.wait_w else ["waiting not counted"]
        words += [f"a phone's core {self.slowdown:g} times as slow as this machine's"] if self.slowdown != 1 else []
        return ", ".join(words)


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
    """What was measured of an arrangement, a value an image and repetition: CPU time by part (ms), time (ms), bytes sent."""

    name: str
    batch: int
    n: int = 0
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS[:3]})
    ms: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
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
    phone: Phone, stage: Stage, images: Images, repetitions: int, batch: int, data: Sequence[str] = (), progress: bool = False
) -> Measured:
    """Send the images, `batch` a request, `repetitions` times from this process to services started here.

    The edge speaks the stage's codec to a cloud that remembers no answer; `data` are the options that name the data set to
    `workbench serve`. The first turn warms up and does not count. Raises UsageError for too few images or repetitions.
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
        pool = stack.enter_context(ThreadPoolExecutor(1, "phone"))  # a notebook's own thread runs a loop already
        runner = asyncio.Runner(loop_factory=new_loop)
        stack.callback(lambda: pool.submit(runner.close).result())
        door = Connection(url, lambda: client_context(local.certs, "client", "edge"), attempt_s=60.0)
        stack.callback(lambda: pool.submit(_on_one_thread, runner, door.__aexit__()).result())
        for number in tqdm(range(-1, repetitions), desc=phone.name, unit="turn", disable=not progress, leave=False):
            turn = pool.submit(_on_one_thread, runner, _turn(phone, door, stage.target, images, batch)).result()
            if number < 0:
                found.classes = turn.classes
                continue
            found.n = turn.n
            for part, values in turn.cpu_ms.items():
                found.cpu_ms[part] += values
            found.ms += turn.ms
            found.sent += turn.sent
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
    """Return what a picture costs the phone (mJ) by part, with intervals over repetitions; JSON once its estimates are.

    `power` is what `watts` measured (W; empty: assumed), `sees` of what. `range_mj` is the same under the least and the most
    that `RANGES` has for what was assumed. The paper's figures are of 5,000 images: `joules_5000` and `watts`, which is the
    energy over the time, go beside them.
    """
    n = len(measured.ms)
    each_w = [power[turn % len(power)] if power else assumed.cpu_w for turn in range(n)]
    cpu_ms = {part: [assumed.slowdown * value for value in values] for part, values in measured.cpu_ms.items()}
    parts = {part: [w * ms for w, ms in zip(each_w, values, strict=True)] for part, values in cpu_ms.items()}
    parts["radio"] = [1e3 * assumed.joules_per_byte * sent for sent in measured.sent]
    total_ms = [sum(values) for values in zip(*cpu_ms.values(), strict=True)]
    waited = [max(0.0, ms - cpu) for ms, cpu in zip(measured.ms, measured.total_ms, strict=True)]
    parts["waiting"] = [assumed.wait_w * ms for ms in waited]
    whole = [sum(values) for values in zip(*parts.values(), strict=True)]
    lasted = [cpu + wait for cpu, wait in zip(total_ms, waited, strict=True)]
    return {
        "n": measured.n,
        "repetitions": n,
        "batch": measured.batch,
        "source": source_of(assumed, power, sees),
        "cpu_ms": mean(total_ms),
        "ms": mean(lasted),
        "bytes": sum(measured.sent) / n,
        "power_w": mean(each_w),
        "mj": mean(whole),
        "parts_mj": {part: mean(values) for part, values in parts.items()},
        "range_mj": _range(parts, assumed, measured=bool(power)),
        "joules_5000": mean([5 * value for value in whole]),
        "watts": mean([mj / ms for mj, ms in zip(whole, lasted, strict=True)]),
        "assumed": asdict(assumed),
    }


def _range(parts: dict[str, list[float]], assumed: Assumptions, measured: bool) -> list[float]:
    """Return the least and the most (mJ) within the ranges of what was assumed; where 0 was, it stays."""
    ends = []
    for end, outer in ((0, min), (1, max)):
        scale = {}
        for name, bounds in RANGES.items():
            value = getattr(assumed, name)
            scale[name] = outer(1.0, bounds[end] / value) if value else 1.0
        core = 1.0 if measured else scale["cpu_w"]
        factors = dict.fromkeys(PARTS[:3], core) | {"radio": scale["joules_per_byte"], "waiting": 1.0}
        ends.append(sum(factors[part] * mean(values).value for part, values in parts.items()))
    return ends


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
    """Return what each arrangement takes of the baseline's energy (`pp`): `share` with its interval, and its `range`.

    The range is over the corners of what `RANGES` has for what was assumed; with the power measured, of the radio alone.
    """
    found: dict[str, Any] = {}
    ends = {name: sorted({*bounds[:2], getattr(assumed, name)}) for name, bounds in RANGES.items()}
    for name in measured:
        if name == "pp":
            continue
        ratios = []
        for values in itertools.product(*ends.values()):
            other = replace(assumed, **dict(zip(ends, values, strict=True)))
            both = (energy(measured[each], other, power.get(each, ()))["mj"].value for each in (name, "pp"))
            ratios.append(next(both) / next(both))
        parts = [energy(measured[each], assumed, power.get(each, ()))["mj"] for each in (name, "pp")]
        found[name] = {"share": share(*parts), "range": [min(ratios), max(ratios)]}
    return found
