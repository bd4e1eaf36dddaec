"""Where the time of a picture goes between real services (PMC², Figure 4), and what a thin link makes of it.

::

    png, jpeg, neural    phone --JPEG--> edge --codec--> cloud        PMC² with each codec
    new                  as neural, at a cloud that remembers no answer: it decodes and classifies each code, as the paper's
    pp                   phone (generator) --PNG-------> cloud        the baseline, Protective Perturbation

Edge and cloud are processes of this machine, reached over TLS on loopback; all share its cores, so that a phone here is as
fast as an edge. Nine components as in the paper; a network's is what one end waited less what the other says it took.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from ..client import Client
from ..errors import UsageError, unknown
from ..metrics import Estimate, mean, percentile
from ..services.link import FREE, LINKS, Kind, Link
from ..services.local import Local
from ..services.stages import Stage, edge_stage
from ..system import COMPONENTS
from .load import PERCENTS

__all__ = ["ARRANGEMENTS", "Arranged", "end_to_end", "over_links", "running"]

ARRANGEMENTS = {  # and the cloud's options
    "png": ("--codec", "png"),
    "jpeg": ("--codec", "jpeg"),
    "new": ("--codec", "neural", "--remember", "0"),
    "neural": ("--codec", "neural"),
    "pp": ("--arrangement", "pp"),
}


@dataclass(frozen=True)
class Arranged:
    """An arrangement at work: its client, and the same with a link between trusted and untrusted domain."""

    name: str
    client: Client
    linked: Client
    link: Link


@contextmanager
def running(name: str, stage: Stage, data: Sequence[str] = ()) -> Iterator[Arranged]:
    """Start an arrangement's services and give what asks them; `data` are the options that name the data set to `serve`."""
    if name not in ARRANGEMENTS:
        raise unknown("arrangement", name, ARRANGEMENTS)
    pair = ("--target", stage.target, "--auxiliary", stage.auxiliary, "--quiet", *data)
    with ExitStack() as stack:
        local = stack.enter_context(Local())
        cloud = local.start("cloud", *pair, *ARRANGEMENTS[name], ready=False)
        link = stack.enter_context(Link(cloud.url))
        doors, phone = (cloud.url, link.url), None
        if name == "pp":
            phone = edge_stage(replace(stage, codec="png"))[0]
        else:
            options = (*pair, "--codec", "neural" if name == "new" else name, "--cloud")
            near = local.start("edge", *options, cloud.url, ready=False)
            far = local.start("edge", *options, link.url, "--batch", "1", ready=False)  # one picture after another comes there
            doors = near.url, far.url
        for service in local.services:
            local.await_ready(service)
        plain, linked = (
            stack.enter_context(Client(url, certs=local.certs, protects=phone, deadline_s=60.0, attempt_s=60.0))
            for url in doors
        )
        yield Arranged(name, plain, linked, link)


def end_to_end(client: Client, images: Tensor, requests: int, batch: int = 1, progress: bool = False) -> dict[str, Any]:
    """Send `requests` batches one after another, and say where the time of an image went (ms; means with their intervals).

    `ms` is the time from pictures in to labels back, with its percentiles over requests; `covered` is how much of it the nine
    components, each measured, account for. Raises UsageError where there are fewer images than a batch.
    """
    if not 0 < batch <= len(images) or requests < 1:
        raise UsageError(
            f"{requests} requests of {batch} need at least one of them and as many images, there are {len(images)}"
        )
    components: dict[str, list[float]] = {name: [] for name in COMPONENTS}
    took: list[float] = []
    sent: list[float] = []
    warm = max(2, requests // 20)
    for number in tqdm(range(-warm, requests), desc=f"{batch} at a time", unit="request", disable=not progress, leave=False):
        first = (number + warm) * batch % (len(images) - batch + 1)
        part = images[first : first + batch]
        start = time.perf_counter()
        answer = client.recognise(part)
        passed = time.perf_counter() - start
        if number < 0:
            continue
        took.append(1e3 * passed / batch)
        sent.append(answer.s2_bytes / batch)
        for name, value in answer.milliseconds.items():
            components[name].append((value or 0.0) / batch)
    means: dict[str, Estimate] = {name: mean(values) for name, values in components.items()}
    whole = mean(took)
    return {
        "batch": batch,
        "requests": requests,
        "components": means,
        "ms": {"mean": whole, **{f"p{each}": percentile(took, each) for each in PERCENTS}},
        "images_per_s": 1e3 / whole.value,
        "s2_bytes": sum(sent) / len(sent),
        "covered": sum(each.value for each in means.values()) / whole.value,
    }


def over_links(
    system: Arranged, images: Tensor, requests: int, kinds: Sequence[Kind] = (FREE, *LINKS.values())
) -> dict[str, Any]:
    """Send single images over a link of each kind; return the percentiles of the time end to end (ms) by the link's name."""
    measured: dict[str, Any] = {}
    for kind in kinds:
        system.link.kind = kind
        found = end_to_end(system.linked, images, requests)
        measured[kind.name] = {"link": asdict(kind), "ms": found["ms"], "s2_bytes": found["s2_bytes"]}
    return measured
