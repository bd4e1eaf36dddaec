"""The components of a picture's latency between real services (PMC², Figure 4), and the latency over slow links.

The arrangements of phone, edge and cloud are::

    png, jpeg, neural    phone --JPEG--> edge --codec--> cloud        PMC² with each codec
    every                as neural, but the cloud decodes and classifies each picture, also equal ones, as the paper's does
    new                  as neural, but the cloud caches no scores: each request decodes each distinct code once
    pp                   phone (generator) --PNG-------> cloud        the baseline, Protective Perturbation

A code is the compressed form of one picture, and equal pictures have equal codes. Edge and cloud are processes on this machine,
reached over TLS on loopback. Phone, edge and cloud share the machine's cores. So the phone computes as fast as the edge, unlike
a real phone.

The nine components are the paper's. Two of them are network connections. Their time is the sender's waiting time minus the
processing time that the receiver reports. `in_turns` alternates between arrangements within one run, so that a temporary
slowdown affects all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ..client import HttpsClient
from ..errors import UsageError, unknown
from ..metrics import Estimate, mean, percentile
from ..processes import cores
from ..services.loading import StageConfig, edge_stage
from ..services.local import Local
from ..system import COMPONENTS
from .link import FREE, LINKS, Kind, Link
from .load import PERCENTS

__all__ = ["ARRANGEMENTS", "LINKED", "Arranged", "end_to_end", "in_turns", "over_links", "running", "running_all"]

ROUNDS = 10  # default number of rounds; every round measures every arrangement

ARRANGEMENTS = {  # name: the cloud's options
    "png": ("--codec", "png"),
    "jpeg": ("--codec", "jpeg"),
    "every": ("--codec", "neural", "--decode-every"),
    "new": ("--codec", "neural", "--remember", "0"),
    "neural": ("--codec", "neural"),
    "pp": ("--arrangement", "pp"),
}
LINKED = ("png", "jpeg", "neural", "pp")  # `every` and `new` send the same bytes as `neural`


@dataclass(frozen=True)
class Arranged:
    """A running arrangement: its name (see `ARRANGEMENTS`), its clients and its emulated link.

    `client` sends pictures without an emulated link. `linked` is a second client, for measurements over the emulated `link` to
    the cloud. The payloads on `link` come from an edge or, in `pp`, from the phone. `linked` is None if the arrangement was
    started without this client.
    """

    name: str
    client: HttpsClient
    linked: HttpsClient | None
    link: Link


@contextmanager
def running(name: str, stage: StageConfig, data: Sequence[str] = (), linked: bool = True) -> Iterator[Arranged]:
    """A context that starts the services and clients of arrangement `name`, and yields the arrangement.

    `stage` names the networks. `data` are the options of `workbench serve` that name the data set. If `linked` is False, no
    client over the emulated link is started. This saves the seconds in which the second edge, which only that client needs,
    would start.
    """
    if name not in ARRANGEMENTS:
        raise unknown("arrangement", name, ARRANGEMENTS)
    pair = ("--target", stage.target, "--auxiliary", stage.auxiliary, "--quiet", *data)
    with ExitStack() as stack:
        local = stack.enter_context(Local())
        cloud = local.start("cloud", *pair, *ARRANGEMENTS[name], ready=False)
        link = stack.enter_context(Link(cloud.url))
        urls, phone = [cloud.url, link.url], None
        if name == "pp":
            phone = edge_stage(replace(stage, codec="png"))[0]
        else:
            options = (*pair, "--codec", "neural" if name in ("new", "every") else name, "--cloud")
            near = local.start("edge", *options, cloud.url, ready=False)
            urls = [near.url]
            if linked:  # a second edge, which receives one picture at a time
                urls.append(local.start("edge", *options, link.url, "--batch", "1", ready=False).url)
        for service in local.services:
            local.await_ready(service)
        plain, *others = (
            stack.enter_context(HttpsClient(url, certs=local.certs, protects=phone, deadline_s=60.0, attempt_s=60.0))
            for url in urls
        )
        yield Arranged(name, plain, others[0] if others else None, link)


@contextmanager
def running_all(names: Iterable[str], stage: StageConfig, data: Sequence[str] = ()) -> Iterator[dict[str, Arranged]]:
    """A context that starts several arrangements in parallel, like `running`, and yields them by name.

    Only the arrangements in `LINKED` get a client over the emulated link.
    """
    with ExitStack() as stack:
        with ThreadPoolExecutor(cores(), "start") as pool:
            started = {name: pool.submit(stack.enter_context, running(name, stage, data, name in LINKED)) for name in names}
        yield {name: system.result() for name, system in started.items()}


class _EndToEnd:
    def __init__(self, client: HttpsClient, images: Tensor, batch: int) -> None:
        self.client, self.images, self.batch, self.sent = client, images, batch, 0
        self.components: dict[str, list[float]] = {name: [] for name in COMPONENTS}
        self.took: list[float] = []
        self.bytes: list[float] = []

    def send(self, requests: int, counts: bool = True) -> None:
        for _ in range(requests):
            first = self.sent * self.batch % (len(self.images) - self.batch + 1)
            part = self.images[first : first + self.batch]
            self.sent += 1
            start = time.perf_counter()
            answer = self.client.recognise(part)
            passed = time.perf_counter() - start
            if counts:
                self.took.append(1e3 * passed / self.batch)
                self.bytes.append(answer.s2_bytes / self.batch)
                for name, value in answer.milliseconds.items():
                    self.components[name].append((value or 0.0) / self.batch)

    def result(self) -> dict[str, Any]:
        means: dict[str, Estimate] = {name: mean(values) for name, values in self.components.items()}
        whole = mean(self.took)
        return {
            "batch": self.batch,
            "requests": len(self.took),
            "components": means,
            "ms": {"mean": whole, **{f"p{each}": percentile(self.took, each) for each in PERCENTS}},
            "images_per_s": 1e3 / whole.value,
            "s2_bytes": sum(self.bytes) / len(self.bytes),
            "covered": sum(each.value for each in means.values()) / whole.value,
        }


def end_to_end(client: HttpsClient, images: Tensor, requests: int, batch: int = 1) -> dict[str, Any]:
    """Send `requests` batches one after another. Return the components of an image's latency: means (ms) with intervals.

    In the result, `ms` is the time from sending a batch to receiving its labels, divided by the batch size, with percentiles
    over requests. `covered` is the share of this time that the nine components add up to. Raises UsageError if there are fewer
    images than a batch.
    """
    return in_turns({"": client}, images, requests, batch, 1)[""]


def in_turns(
    clients: Mapping[str, HttpsClient], images: Tensor, requests: int, batch: int = 1, rounds: int = ROUNDS
) -> dict[str, dict[str, Any]]:
    """Measure several clients in alternation. Return {name: result}, with the result of `end_to_end` for each client.

    Each client sends `requests` batches, spread evenly over `rounds` rounds. The order of the clients rotates between rounds.
    Raises UsageError for fewer images than a batch, or fewer `requests` than `rounds`.
    """
    if not 0 < batch <= len(images) or not 0 < rounds <= requests:
        raise UsageError(
            f"{requests} requests of {batch} in {rounds} rounds need at least one a round, and as many images as a batch, "
            f"there are {len(images)}"
        )
    measured = {name: _EndToEnd(client, images, batch) for name, client in clients.items()}
    names = list(measured)
    for each in measured.values():
        each.send(max(2, requests // 20), counts=False)
    for number in range(rounds):
        part = requests * (number + 1) // rounds - requests * number // rounds
        for name in names[number % len(names) :] + names[: number % len(names)]:
            measured[name].send(part)
    return {name: each.result() for name, each in measured.items()}


def over_links(
    system: Arranged, images: Tensor, requests: int, kinds: Sequence[Kind] = (FREE, *LINKS.values())
) -> dict[str, Any]:
    """Send single images over each kind of link. Return {name of the link: latency and bytes}.

    The latency is end to end (ms), with percentiles. Raises UsageError for an arrangement without a client over a link.
    """
    if system.linked is None:
        raise UsageError(f"arrangement {system.name!r} has no client over a link: start it with linked=True")
    measured: dict[str, Any] = {}
    for kind in kinds:
        system.link.kind = kind
        times = end_to_end(system.linked, images, requests)
        measured[kind.name] = {"link": asdict(kind), "ms": times["ms"], "s2_bytes": times["s2_bytes"]}
    return measured
