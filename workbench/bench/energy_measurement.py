"""Measure the inputs of the energy model for three arrangements of phone, edge and cloud: no protection, the baseline, PMC².

::

    none    phone: JPEG              --JPEG--> cloud              nothing is protected
    pp      phone: generator -> PNG  --PNG---> cloud              the baseline, Protective Perturbation
    pmc2    phone: JPEG              --JPEG--> edge --> cloud     the phone does the same work as in `none`

This process acts as the phone, and the services run in other processes. The measured CPU time covers the phone's computation
and the sending of requests over TLS. The bytes of a request are counted at the socket, with HTTP and TLS. They depend on the
number of pictures per request. The power of a core is read from a sensor (see `sensors`) or assumed (see `energy_model`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor as Images

from .. import weights
from ..certs import Role
from ..client import new_loop
from ..errors import RunError, UsageError, unknown
from ..metrics import mean
from ..protocol import Tensor
from ..services.connection import Connection, infer
from ..services.loading import StageConfig
from ..services.local import Local
from ..services.trust import client_context
from ..system import Client, Edge, Stopwatch
from .energy_model import ARRANGEMENTS, Measured
from .link import Link
from .repeated_labels import too_many_others
from .sensors import ROOT, Sensor, find_sensor

__all__ = ["CpuClock", "Phone", "check_labels", "measure", "noise_of", "one_thread", "powers", "watts"]

Result = TypeVar("Result")


class CpuClock(Stopwatch):
    """A stopwatch of this process's CPU time (ms) by component, summed over all threads."""

    @contextmanager
    def __call__(self, component: str, device: torch.device | None = None) -> Iterator[None]:
        """Add the CPU time of the enclosed code to `component`."""
        start = time.process_time()
        yield
        self.milliseconds[component] = (self.milliseconds[component] or 0.0) + 1e3 * (time.process_time() - start)


@dataclass(frozen=True)
class Phone:
    """The phone's part of an arrangement: the phone turns images into the tensor that it sends.

    `name` is the name of the arrangement. In the baseline (`pp`), the generator and the PNG codec run on the phone, and `edge`
    holds both. In the other arrangements `edge` is None.
    """

    name: str
    client: Client
    edge: Edge | None = None

    def __post_init__(self) -> None:
        if self.name not in ARRANGEMENTS:
            raise unknown("arrangement", self.name, ARRANGEMENTS)
        if (self.edge is None) == (self.name == "pp"):
            raise UsageError(f"arrangement {self.name!r} has {'a' if self.name == 'pp' else 'no'} generator on the phone")

    def work(self, images: Images, clock: Stopwatch | None = None) -> tuple[Tensor, int]:
        """Process images (N x 3 x H x W in [0, 1]) as the phone does before sending. Return the tensor to send, and its size.

        The size is the number of content bytes in the tensor, without headers. `clock` accumulates the time of each component,
        such as the generator.
        """
        if self.edge is not None:
            payload = self.edge.protect(images, 1.0, clock)
            return Tensor.of("payload", [payload]), len(payload)
        if self.name == "pmc2":
            files = self.client.capture(images, clock)
            return Tensor.of("image", list(files)), sum(map(len, files))
        clock = clock or Stopwatch()
        with clock("client_compression"):  # the JPEGs, in the container that the cloud accepts
            payload = self.client.jpeg.encode(images)
        return Tensor.of("payload", [payload]), len(payload)


@contextmanager
def one_thread() -> Iterator[None]:
    """A context that limits torch to one thread. Further threads would wait in a busy loop, which counts as CPU time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    phone: Phone, stage: StageConfig, images: Images, repetitions: int, batch: int, data: Sequence[str] = ()
) -> Measured:
    """Start the services of the phone's arrangement, send all images `repetitions` times, and return the measurements.

    A request has `batch` images. `stage` names the networks, and the codec between edge and cloud in PMC². In PMC² the cloud
    caches no scores. `data` are the options of `workbench serve` that name the data set.

    Two steps precede the measurements. Some images are sent through a relay that counts bytes, and then all images are sent
    once as warm-up. Raises UsageError for too few images or repetitions. Raises RunError if the labels differ from those of the
    warm-up (see `check_labels`).
    """
    if repetitions < 2 or not 0 < batch <= len(images):
        raise UsageError(
            f"needed are 2 repetitions and a batch of images, got {repetitions} and {batch}, and there are {len(images)} images"
        )
    pair = ("--target", stage.target, "--auxiliary", stage.auxiliary, "--quiet", *data)
    found, noise = Measured(phone.name, batch), noise_of(phone.name, stage)
    with ExitStack() as stack:
        local = stack.enter_context(Local())
        url = _start(local, phone.name, stage.codec, pair)
        role: Role = "edge" if phone.name == "pmc2" else "cloud"
        counter = stack.enter_context(Link(url))
        pool = stack.enter_context(ThreadPoolExecutor(1, "phone"))  # a notebook's main thread already runs an event loop
        runner = asyncio.Runner(loop_factory=new_loop)
        stack.callback(lambda: pool.submit(runner.close).result())
        connection = Connection(url, lambda: client_context(local.certs, "client", role), attempt_s=60.0)
        stack.callback(lambda: pool.submit(_on_one_thread, runner, connection.__aexit__()).result())
        counted = _overhead(counter, local, role, phone, stage.target, images, batch)
        overhead = pool.submit(_on_one_thread, runner, counted).result()
        for number in range(-1, repetitions):
            turn = pool.submit(_on_one_thread, runner, _turn(phone, connection, stage.target, images, batch)).result()
            if number < 0:
                found.classes = turn.classes
                continue
            found.n = turn.n
            for part, values in turn.cpu_ms.items():
                found.cpu_ms[part] += values
            found.ms += turn.ms
            found.payload = turn.sent[0]
            found.sent.append(found.payload + overhead)
            check_labels(phone.name, found.classes, turn.classes, noise)
    return found


def check_labels(name: str, first: Sequence[int], later: Sequence[int], noise: float) -> None:
    """Raise RunError if too many labels differ between two transmissions of the same images.

    `first` and `later` are the labels of the two transmissions, in the order of the images. The error message contains `name`,
    the arrangement's name. `noise` is the standard deviation of the generator's random component. If it is 0, no label may
    differ. Otherwise, the component is drawn for each transmission, and some labels may differ (see `too_many_others`).
    """
    others = sum(one != other for one, other in zip(first, later, strict=True))
    if too_many_others(others, len(first), noise):
        raise RunError(f"{name}: the services gave other labels to {others} of the same {len(first)} images")


def noise_of(name: str, stage: StageConfig) -> float:
    """Return the standard deviation of the generator's random component in arrangement `name`, or 0 if there is none."""
    manifest = None if name == "none" else weights.find(weights.generator_name(stage.target, stage.auxiliary), stage.family)
    return float(manifest.spec.get("noise", 0.0)) if manifest else 0.0


def _on_one_thread(runner: asyncio.Runner, work: Coroutine[Any, Any, Result]) -> Result:
    with one_thread():
        return runner.run(work)


def _start(local: Local, name: str, codec: str, pair: Sequence[str]) -> str:
    if name != "pmc2":
        options = ("--arrangement", "pp", "--codec", "png" if name == "pp" else "jpeg")
        return local.start("cloud", *pair, *options).url
    cloud = local.start("cloud", *pair, "--codec", codec, "--remember", "0", ready=False)
    edge = local.start("edge", *pair, "--codec", codec, "--cloud", cloud.url, ready=False)
    for service in (cloud, edge):
        local.await_ready(service)
    return edge.url


async def _overhead(counter: Link, local: Local, role: Role, phone: Phone, model: str, images: Images, batch: int) -> float:
    async with Connection(counter.url, lambda: client_context(local.certs, "client", role), attempt_s=60.0) as connection:
        await _turn(phone, connection, model, images[:batch], batch)  # opens the connection
        before = counter.bytes["out"]
        few = images[: max(batch, min(len(images), 64) // batch * batch)]
        turn = await _turn(phone, connection, model, few, batch)
        return (counter.bytes["out"] - before) / len(few) - turn.sent[0]


async def _turn(phone: Phone, connection: Connection, model: str, images: Images, batch: int) -> Measured:
    turn, clock, sent = Measured(phone.name, batch), CpuClock(), 0
    deadline = asyncio.get_running_loop().time() + 120.0
    start, cpu = time.perf_counter(), time.process_time()
    for part in torch.split(images, batch):
        tensor, size = phone.work(part, clock)
        sent += size
        answer = await infer(connection, model, [tensor], deadline=deadline)
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
    """Measure the power of a busy core (W) while each of the `phones` processes `images`.

    Return {key of `phones`: power of each measurement (see `watts`)}, the sensor's description, and the reasons why other
    sensors are not used. If no sensor is usable, the dict is empty, and the power must be assumed. `source` is one of
    `sensors.SOURCES`, `root` is the folder of the sensors' files. Phones without a generator share one measurement. Nothing
    else should run on the machine.

    A sensor may be too coarse to distinguish work from rest. With `source` "auto", such a sensor is not used. Otherwise
    RunError is raised.
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
    """Return the power (W) that a busy core adds to the machine's power at rest, one value for each of several measurements.

    The sensor sets the number of measurements (`windows`) and their length (`window_s`). Each measurement has two parts of this
    length. First the process rests (`rest(seconds)`), and then it repeats `work`. Raises RunError if the mean power is not
    above 0. Then the sensor is too coarse, or the machine is busy.
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
