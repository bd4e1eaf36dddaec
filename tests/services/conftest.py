"""What the services' tests share: edge and cloud of tiny networks behind real TLS, each on a thread of the test's own process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from workbench.certs import Role, issue
from workbench.codecs import Codec
from workbench.data import Dataset
from workbench.services.app import Service
from workbench.services.batching import Lanes
from workbench.services.cloud import CloudService, cloud_model
from workbench.services.connection import Connection
from workbench.services.edge import EdgeService, edge_model
from workbench.services.server import Listener, Tls, server_of
from workbench.services.trust import client_context, server_context
from workbench.system import Cloud, Edge
from workbench.weights import Pair


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and certificates for edge, cloud and client."""
    folder = tmp_path_factory.mktemp("certs")
    issue(folder)
    return folder


@dataclass
class Served:
    """A service at work on a thread, its URL, and the server that can be told to end."""

    service: Service
    url: str
    server: uvicorn.Server
    thread: threading.Thread

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(service: Service, certs: Path | None, role: Role, demand: bool = True, ready: bool = True) -> Iterator[Served]:
    """Serve on a free port of loopback, without TLS where `certs` is None; wait until the service is ready, or listens."""
    listener = Listener.open("127.0.0.1:0")
    tls = None if certs is None else Tls(server_context(certs, role, demand), certs, role)
    server = server_of(service, listener, tls)
    thread = threading.Thread(target=server.run, args=([listener.socket],), daemon=True)
    thread.start()
    scheme = "http" if certs is None else "https"
    served = Served(service, f"{scheme}://127.0.0.1:{listener.port}", server, thread)
    until(lambda: server.started and (service.ready or not ready))
    try:
        yield served
    finally:
        served.end()


def until(condition: Callable[[], Any], patience: float = 30.0) -> None:
    """Return once a condition holds; fail where it does not in time."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


WEIGHTS = {"generator": "a" * 64, "target": "b" * 64}


def cloud_of(pair: Pair, codec: Codec, dataset: Dataset, **options: Any) -> CloudService:
    """A cloud's service of a pair, ready."""
    cloud = Cloud(codec, pair.target)
    model = cloud_model(pair.target.name, WEIGHTS["target"], cloud, dataset.classes)
    service = CloudService(cloud, model, dataset.classes, Lanes(), **options)
    service.ready = True
    return service


def edge_of(pair: Pair, codec: Codec, dataset: Dataset, url: str, certs: Path | None, **options: Any) -> EdgeService:
    """An edge's service of a pair, whose cloud is at `url`."""
    trust = None if certs is None else lambda: client_context(certs, "edge")
    model = edge_model(pair.target.name, WEIGHTS["generator"], dataset.classes, codec.name)
    cloud = Connection(url, trust, attempt_s=5.0, plain=certs is None)
    target = options.pop("target", WEIGHTS["target"])
    return EdgeService(Edge(pair.generator, codec), model, dataset.classes, cloud, target, Lanes(), **options)


@dataclass(frozen=True)
class Both:
    """Edge and cloud at work, and the certificates to reach them with."""

    edge: Served
    cloud: Served
    certs: Path


@contextlib.contextmanager
def both_of(pair: Pair, codec: Codec, dataset: Dataset, certs: Path, **options: Any) -> Iterator[Both]:
    """Serve a cloud and its edge; `options` go to the edge."""
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(serving(cloud_of(pair, codec, dataset), certs, "cloud"))
        edge = stack.enter_context(
            serving(edge_of(pair, codec, dataset, cloud.url, certs, **options), certs, "edge", demand="token" not in options)
        )
        yield Both(edge, cloud, certs)
