"""Benchmark of the running services: throughput compared with direct calls, latency, bytes, CPU and memory.

::

    single      one image a request, one request after another: the components of the latency
    direct      one process: JPEG -> edge.receive -> edge.protect -> cloud.recognise, 256 images at a time
    saturated   the same JPEGs over TLS, through both services, with enough requests in flight for full throughput
    ladder      one image a request, closed loops of 1 to 256 clients
    open        one image a request, in open loops
    soak        one image a request at 70 % of saturation, for minutes: errors, memory and percentiles
    hostile     honest clients next to hostile connections (see `hostile`), and the same clients alone
    wire        bytes on both connections (client to edge, edge to cloud): the payload alone, with HTTP, and with HTTP and TLS

Direct and saturated alternate, round by round, on the same cores. Each ratio divides two values of the same round. In closed
and open loops (see `load`), every label is compared with the label that the same networks give in this process. Too many
different labels are an error (see `repeated_labels`).
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor as Images
from tqdm.auto import tqdm

from ..certs import Role
from ..client import HttpsClient, new_loop
from ..errors import ServiceError, UsageError
from ..evaluation import provenance
from ..metrics import spread
from ..protocol import LENGTH_HEADER, Tensor, read_response, write_request
from ..services.connection import Connection
from ..services.loading import StageConfig
from ..services.local import Local, Running
from ..services.trust import client_context
from ..system import Stopwatch, System
from .hostile import Probes, attacked
from .latency import end_to_end
from .link import Link, Way
from .load import FORGET, PERCENTS, WARM_UP, Load, closed_loop, open_loop, relaxation_s
from .repeated_labels import Labels

__all__ = ["bench_hostile", "bench_services"]

CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HONEST = 8  # number of honest clients next to hostile connections
FEW = 10.0  # images a second in an open loop that leaves the services idle between requests
SHARES = (0.3, 0.5, 0.7, 0.9)  # further rates of the open loop, as shares of saturation
SOAK = 0.7
SIZES = {1: 192, 8: 24, 64: 4, 256: 2}  # {images a request: requests in flight that saturate the services}
DIRECT = 256  # images in one direct call
REPEATS = 5  # number of requests whose bytes are counted
USAGE = ("process_cpu_seconds_total", "process_resident_memory_bytes")
Loop = Callable[..., Coroutine[Any, Any, Load]]  # `closed_loop` or `open_loop`
WAYS: tuple[Way, ...] = ("out", "back")


class EdgeTarget:
    """Sends requests with known labels to the edge. The loops `closed_loop` and `open_loop` call it as `send`.

    A request has `size` images from the JPEG `files`. `labels` are the expected classes of the files. `model` is the name of
    the model in the request's URL. `noise` is the standard deviation of the generator's random component, which may change
    some labels.
    """

    def __init__(
        self, connection: Connection, model: str, files: Sequence[bytes], labels: Images, size: int, noise: float = 0.0
    ) -> None:
        starts = range(0, len(files) - size + 1, size)
        self.connection, self.path, self.size = connection, f"/v2/models/{model}/infer", size
        self.requests = [write_request([Tensor.of("image", list(files[at : at + size]))]) for at in starts]
        self.labels = Labels([labels[at : at + size].numpy() for at in starts], noise)

    async def __call__(self, number: int) -> int:
        """Send request `number`. Return its number of images. Raises ServiceError for a failure or too many wrong labels."""
        which = number % len(self.requests)
        body, length = self.requests[which]
        deadline = asyncio.get_running_loop().time() + 60.0
        headers = {LENGTH_HEADER: length, "Content-Type": "application/octet-stream"}
        answer = await self.connection.call("POST", self.path, body, headers, deadline)
        if answer.status != 200:
            raise ServiceError(f"status {answer.status}", status=answer.status)
        found = read_response(answer.body, answer.headers.get(LENGTH_HEADER.lower())).outputs["class"].data
        if not self.labels.fit(which, np.asarray(found)):
            raise ServiceError("a wrong label", status=502)
        return self.size


@dataclass(eq=False, repr=False)
class ServiceFixture:
    """Runs edge and cloud on this machine, and sends loads to the edge.

    `options` are those of `workbench serve`. With `token` the edge also accepts clients without a certificate. `model`,
    `files`, `labels` and `noise` are as in `EdgeTarget`.
    """

    options: Sequence[str]
    model: str
    files: Sequence[bytes]
    labels: Images
    token: bool = False
    noise: float = 0.0

    def __enter__(self) -> ServiceFixture:
        self._stack = ExitStack()
        self.local = local = self._stack.enter_context(Local())
        self.cloud = local.start("cloud", *self.options)
        extra: tuple[str, ...] = ()
        if self.token:  # the edge then accepts connections without a certificate, too
            (local.folder / "token").write_text(secrets.token_hex(16))
            extra = ("--token-file", str(local.folder / "token"))
        self.edge = local.start("edge", *self.options, *extra, "--cloud", self.cloud.url)
        self._run = self._stack.enter_context(asyncio.Runner(loop_factory=new_loop)).run
        self._edge_connection = Connection(self.edge.url, lambda: client_context(local.certs, "client", "edge"), attempt_s=60.0)
        self._stack.callback(lambda: self._run(self._edge_connection.__aexit__()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _target(self, size: int) -> EdgeTarget:
        return EdgeTarget(self._edge_connection, self.model, self.files, self.labels, size, self.noise)

    def load(self, loop: Loop, much: float, seconds: float, size: int = 1, **options: float) -> Load:
        """Send requests of `size` images for `seconds`. `loop` is `closed_loop` or `open_loop`.

        `much` is the loop's second parameter: the concurrency of `closed_loop`, or the rate (requests per second) of
        `open_loop`. `options` are the loop's further parameters.
        """
        return self._run(loop(self._target(size), much, seconds, **options))

    def usage(self) -> dict[str, Any]:
        """Return the CPU time (s) and the resident memory (bytes) that each service reports."""
        return self._run(self._usage())

    def soak(self, rate: float, seconds: float, every: float, warm_up_s: float) -> tuple[Load, list[dict[str, Any]]]:
        """Send single images in an open loop, `rate` per second on average. Return the load, and a list of the services' usage.

        The services' usage (CPU time and memory) is read at intervals of `every` seconds. `warm_up_s` is the duration of the
        warm-up (s).
        """
        used, start = list[dict[str, Any]](), time.perf_counter()

        async def read() -> None:
            used.append({"at_s": round(time.perf_counter() - start, 1), **await self._usage()})

        load = open_loop(self._target(1), rate, seconds, warm_up_s=warm_up_s)
        return self._run(_meanwhile(load, _repeat(read, every))), used

    def under_attack(self, connections: int, seconds: float, every: float) -> dict[str, Any]:
        """Send requests of honest clients for `seconds`, while an attacker opens `connections` hostile connections to the edge.

        Return a dict with the honest clients' load (`honest`), the health checks (`probes`), the edge's memory in bytes
        (`edge_memory`, read every `every` seconds), and the counts of hostile connections (`attackers`).
        """
        authority = self.local.certs / "client" / "ca.pem"
        probes, memory = Probes(self.edge.url, authority), list[float]()

        async def read() -> None:
            memory.append((await self._used(self.edge, "client", "edge")).get("process_resident_memory_bytes", 0.0))

        with attacked(self.edge.url, authority, connections) as attack:
            honest = closed_loop(self._target(1), HONEST, seconds)
            load = self._run(_meanwhile(honest, _repeat(read, every), probes.run()))
        return {"honest": load.as_dict(), "probes": probes.as_dict(), "edge_memory": memory, "attackers": attack.counts}

    async def _usage(self) -> dict[str, Any]:
        return {
            "edge": await self._used(self.edge, "client", "edge"),
            "cloud": await self._used(self.cloud, "edge", "cloud"),
        }

    async def _used(self, service: Running, role: Role, peer: Role) -> dict[str, float]:
        async with Connection(service.url, lambda: client_context(self.local.certs, role, peer)) as connection:
            text = (await connection.call("GET", "/metrics")).body.decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {sample.name: sample.value for sample in samples if sample.name in USAGE}


async def _repeat(read: Callable[[], Awaitable[None]], every: float) -> None:
    while True:
        await read()
        await asyncio.sleep(every)


async def _meanwhile(load: Awaitable[Load], *others: Coroutine[Any, Any, None]) -> Load:
    running = [asyncio.create_task(each) for each in others]
    try:
        return await load
    finally:
        for task in running:
            task.cancel()


def bench_services(
    stage: StageConfig,
    system: System,
    images: Images,
    *,
    data: Sequence[str] = (),
    seconds: float = 5.0,
    rounds: int = 5,
    requests: int = 500,
    soak_s: float = 0.0,
    forget: float = FORGET,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure services that run as `stage` describes, and the same networks in this process. Return one JSON object.

    `system` has the networks in this process. `data` are the options of `workbench serve` that name the data set.

    Each closed loop lasts `seconds`, and the soak lasts `soak_s` (0: no soak). Each open loop lasts at least `seconds`, and at
    least `forget` times the queue's relaxation time (see `relaxation_s`). Direct calls and services alternate for `rounds`
    rounds. For the latency, `requests` single pictures are sent one after another. Raises UsageError for too few images.
    """
    if len(images) < DIRECT or rounds < 1 or requests < 1 or seconds <= 0:
        raise UsageError(
            f"needed are {DIRECT} images, a round, a request and some time, got {len(images)}, {rounds}, {requests}, {seconds}"
        )
    assert system.client is not None
    files, labels = _labelled(system, images, stage.size)
    named, options = _options(stage, data)
    result: dict[str, Any] = {**named, "n": len(images), "seconds": seconds, "rounds": rounds}
    result |= {"client_quality": system.client.jpeg.quality, **provenance()}
    bar = tqdm(total=5 + rounds + len(CLIENTS) + len(SHARES), desc="bench", unit="step", disable=not progress, file=sys.stderr)
    with bar, ServiceFixture(options, stage.target, files, labels, noise=system.edge.generator.noise) as fixture:
        before = fixture.usage()
        bar.update()
        result["single"] = _single(fixture, system, images, requests)
        bar.update()
        result["saturated"] = _saturated(fixture, system, files, stage.size, seconds, rounds, bar.update)
        top = result["saturated"]["1"]["images_per_s"]["median"]
        result["ladder"] = []
        for clients in CLIENTS:
            result["ladder"].append(fixture.load(closed_loop, clients, seconds).as_dict())
            bar.update()
        result["open"] = []
        for rate in (FEW, *(share * top for share in SHARES)):
            relaxed = relaxation_s(rate, top) if rate < top else seconds
            warm_up_s = min(WARM_UP, forget) * relaxed
            load = fixture.load(open_loop, rate, max(seconds, forget * relaxed), warm_up_s=warm_up_s)
            result["open"].append({"share_of_saturation": rate / top, "relaxation_s": relaxed, **load.as_dict()})
            bar.update()
        result["usage"] = {"before": before, "after": fixture.usage()}
        if soak_s:
            warm_up_s = min(WARM_UP, forget) * relaxation_s(SOAK * top, top)
            load, used = fixture.soak(SOAK * top, soak_s, max(1.0, soak_s / 90), warm_up_s)
            result["soak"] = {"share_of_saturation": SOAK, **load.as_dict(), "used": used, "memory_change": _changes(used)}
    result["wire"] = {"http": _wire(options, files, "--plain-http"), "tls": _wire(options, files)}
    bar.update(2)
    return result


def bench_hostile(
    stage: StageConfig, system: System, images: Images, *, connections: int, seconds: float, data: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure honest clients alone, then next to hostile connections, then alone again. Return one JSON object.

    The attack lasts `seconds`, with `connections` hostile connections. `stage`, `system` and `data` are as in `bench_services`.
    Honest clients send `images` one by one.

    `memory_change` is the relative change of the edge's memory from the end of the attack's first tenth to the attack's end.
    `p95_ratio` is the honest clients' 95th percentile of latency under attack, divided by the median of the two percentiles
    without an attack.
    """
    files, labels = _labelled(system, images, stage.size)
    _, options = _options(stage, data)
    with ServiceFixture(options, stage.target, files, labels, True, system.edge.generator.noise) as fixture:
        fixture.load(closed_loop, HONEST, min(2.0, seconds))  # warm-up
        quiet = fixture.load(closed_loop, HONEST, max(2.0, min(20.0, seconds / 4))).as_dict()
        found = fixture.under_attack(connections, seconds, max(0.25, seconds / 60))
        after = fixture.load(closed_loop, HONEST, max(2.0, min(20.0, seconds / 4))).as_dict()
    memory = found["edge_memory"]
    first = memory[min(len(memory) - 1, len(memory) // 10)] if memory else 0.0
    alone = statistics.median([quiet["ms"]["p95"]["value"], after["ms"]["p95"]["value"]])
    result = {"connections": connections, "clients": HONEST, "quiet": quiet, "after": after, **found, **provenance()}
    result["memory_change"] = memory[-1] / first - 1 if first else 0.0
    result["p95_ratio"] = found["honest"]["ms"]["p95"]["value"] / alone
    return result


def _options(stage: StageConfig, data: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    named = {"target": stage.target, "auxiliary": stage.auxiliary, "codec": stage.codec, "precision": stage.precision}
    named |= {"rate": f"{stage.rate:g}"} if stage.rate else {}
    return named, (*(text for name, value in named.items() for text in (f"--{name}", value)), "--quiet", *data)


def _labelled(system: System, images: Images, size: int) -> tuple[list[bytes], Images]:
    assert system.client is not None
    files = system.client.capture(images)
    return files, torch.cat([_direct(system, files[at : at + DIRECT], size) for at in range(0, len(files), DIRECT)])


def _changes(used: Sequence[dict[str, Any]]) -> dict[str, float]:
    # Compare the second tenth of a soak with the last tenth. The first tenth is warm-up.
    tenth = max(1, len(used) // 10)
    change: dict[str, float] = {}
    for name in ("edge", "cloud"):
        memory = [each[name].get("process_resident_memory_bytes", 0.0) for each in used]
        first, last = (statistics.median(part) for part in (memory[tenth : 2 * tenth] or memory[:1], memory[-tenth:]))
        change[name] = last / first - 1 if first else 0.0
    return change


def _single(fixture: ServiceFixture, system: System, images: Images, requests: int) -> dict[str, Any]:
    own: list[float] = []
    with HttpsClient(fixture.edge.url, certs=fixture.local.certs) as client:
        found = end_to_end(client, images, requests)
    for number in range(requests):
        image = images[number % len(images)][None]
        start = time.perf_counter()
        system.recognise(image)
        own.append(1e3 * (time.perf_counter() - start))
    result = {key: value for key, value in found.items() if key not in ("components", "ms")}
    result["components"] = {name: each.as_dict() for name, each in found["components"].items()}
    result["ms"] = {name: each.as_dict() for name, each in found["ms"].items()}
    result["in_process_ms"] = {f"p{each}": float(np.percentile(own, each)) for each in PERCENTS}
    return result


def _saturated(
    fixture: ServiceFixture,
    system: System,
    files: Sequence[bytes],
    size: int,
    seconds: float,
    rounds: int,
    done: Callable[[], Any],
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"direct": [], **{str(each): [] for each in SIZES}}
    generator: dict[str, list[float]] = {str(each): [] for each in SIZES}
    errors: dict[str, int] = {}
    for _ in range(rounds):
        rates["direct"].append(_direct_rate(system, files, size, seconds))
        for each, clients in SIZES.items():
            load = fixture.load(closed_loop, clients, seconds, each)
            rates[str(each)].append(load.rate)
            generator[str(each)].append(load.cpu_s / load.seconds)
            errors |= {text: errors.get(text, 0) + count for text, count in load.errors.items()}
        done()
    return {
        name: {
            "images_per_s": spread(each),
            "ratio": spread([ours / direct for ours, direct in zip(each, rates["direct"], strict=True)]),
            **(
                {} if name == "direct" else {"clients": SIZES[int(name)], "generator_cores": statistics.median(generator[name])}
            ),
        }
        for name, each in rates.items()
    } | {"errors": errors}


def _direct(system: System, files: Sequence[bytes], size: int) -> Images:
    return system.cloud.recognise(system.edge.protect(system.edge.receive(files, size, Stopwatch()))).argmax(1)


def _direct_rate(system: System, files: Sequence[bytes], size: int, seconds: float) -> float:
    start, images = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        at = images % (len(files) - DIRECT + 1)
        images += len(_direct(system, files[at : at + DIRECT], size))
    return images / (time.perf_counter() - start)


def _wire(options: Sequence[str], files: Sequence[bytes], *protection: str) -> dict[str, Any]:
    counted: dict[str, Any] = {}
    with ExitStack() as stack:
        local = stack.enter_context(Local())
        cloud = local.start("cloud", *options, *protection, ready=False)
        far = stack.enter_context(Link(cloud.url))
        edge = local.start("edge", *options, *protection, "--cloud", far.url)
        near = stack.enter_context(Link(edge.url))
        client = stack.enter_context(HttpsClient(near.url, certs=local.certs, plain=bool(protection)))
        for n in (1, DIRECT):
            client.recognise_files(files[:n])
            links = {"client_edge": near, "edge_cloud": far}
            start = {name: dict(link.bytes) for name, link in links.items()}
            payload = [client.recognise_files(files[:n]).s2_bytes for _ in range(REPEATS)]
            sockets = {
                name: {way: (link.bytes[way] - start[name][way]) / REPEATS for way in WAYS} for name, link in links.items()
            }
            counted[str(n)] = {"s1_bytes": sum(map(len, files[:n])), "payload": sum(payload) / REPEATS, **sockets}
    return counted
