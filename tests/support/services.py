"""Edge and cloud with tiny networks over real TLS, each on a thread of this process, and requests to them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, ParamSpec
from urllib.parse import urlsplit

import psutil
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from workbench.certs import Role
from workbench.codecs import Codec
from workbench.data import Dataset
from workbench.services.batching import ComputePool
from workbench.services.cloud import CloudService, cloud_model
from workbench.services.connection import Connection
from workbench.services.edge import EdgeService, edge_model
from workbench.services.server import ConnectionQuota, Listener, Timeouts, Tls, server_of
from workbench.services.service import Service
from workbench.services.share import LoopShare
from workbench.services.trust import client_context, server_context
from workbench.system import Cloud, Edge
from workbench.weights import Pair

from .waiting import until

Given = ParamSpec("Given")
SECRET = "correct-horse-battery-staple"  # a bearer token


@dataclass
class Served:
    service: Service
    url: str
    server: uvicorn.Server
    thread: threading.Thread
    timeouts: Timeouts = field(default_factory=Timeouts)
    quota: ConnectionQuota = field(default_factory=ConnectionQuota)
    share: LoopShare = field(default_factory=LoopShare)

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(
    service: Service,
    certs: Path | None,
    role: Role,
    demand: bool = True,
    ready: bool = True,
    port: int = 0,
    quota: ConnectionQuota | None = None,
    token_file: Path | None = None,
    tls: Tls | None = None,
) -> Iterator[Served]:
    """Serve on a loopback port, without TLS if `certs` is None. Yield once the service is ready, or listens.

    `tls` replaces the context that is otherwise made of `certs`.
    """
    listener = Listener.open(f"127.0.0.1:{port}")
    if tls is None and certs is not None:
        tls = Tls(server_context(certs, role, demand), certs, role)
    quota, timeouts, share = ConnectionQuota() if quota is None else quota, Timeouts(), LoopShare()
    server = server_of(service, listener, tls, quota, timeouts, share, token_file)
    thread = threading.Thread(target=server.run, args=([listener.socket],), daemon=True)
    thread.start()
    scheme = "http" if certs is None else "https"
    served = Served(service, f"{scheme}://127.0.0.1:{listener.port}", server, thread, timeouts, quota, share)
    until(lambda: server.started and (service.ready or not ready))
    try:
        yield served
    finally:
        served.end()


WEIGHTS = {"generator": "a" * 64, "target": "b" * 64}


def cloud_of(pair: Pair, codec: Codec, dataset: Dataset, **options: Any) -> CloudService:
    cloud = Cloud(codec, pair.target)
    model = cloud_model(pair.target.name, WEIGHTS["target"], cloud, dataset.classes)
    service = CloudService(cloud, model, dataset.classes, ComputePool(), **options)
    service.ready = True
    return service


def edge_of(pair: Pair, codec: Codec, dataset: Dataset, url: str, certs: Path | None, **options: Any) -> EdgeService:
    trust = None if certs is None else lambda: client_context(certs, "edge", "cloud")
    model = edge_model(pair.target.name, WEIGHTS["generator"], dataset.classes, codec.name)
    cloud = Connection(url, trust, attempt_s=5.0, plain=certs is None)
    target = options.pop("target", WEIGHTS["target"])
    return EdgeService(Edge(pair.generator, codec), model, dataset.classes, cloud, target, ComputePool(), **options)


@dataclass(frozen=True)
class Both:
    edge: Served
    cloud: Served
    certs: Path


@contextlib.contextmanager
def both_of(pair: Pair, codec: Codec, dataset: Dataset, certs: Path, **options: Any) -> Iterator[Both]:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(serving(cloud_of(pair, codec, dataset), certs, "cloud"))
        edge = stack.enter_context(
            serving(edge_of(pair, codec, dataset, cloud.url, certs, **options), certs, "edge", demand="token" not in options)
        )
        yield Both(edge, cloud, certs)


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str,
    path: str,
    body: bytes | None = None,
    certs: Path | None = None,
    role: Role | None = "client",
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Answered:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if certs is None:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    else:
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=60, context=client_context(certs, role))
    with contextlib.closing(connection):
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


@contextlib.contextmanager
def connected_to(
    url: str, certs: Path | None = None, role: Role | None = "client", source: str = "", buffer: int = 0
) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.socket() as plain:
        plain.settimeout(30)
        if buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        if source:
            plain.bind((source, 0))
        plain.connect((parts.hostname, parts.port))
        if certs is None:
            yield plain
            return
        with client_context(certs, role).wrap_socket(plain, server_hostname=parts.hostname) as connection:
            yield connection


def is_cut(connection: socket.socket, patience: float = 10.0) -> float:
    start = time.monotonic()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while time.monotonic() - start < patience:
            connection.settimeout(max(0.01, start + patience - time.monotonic()))
            if not connection.recv(1 << 16):
                return time.monotonic() - start
    passed = time.monotonic() - start
    assert passed < patience, f"still open after {patience} s"
    return passed


def form_of(files: list[bytes]) -> tuple[bytes, dict[str, str]]:
    boundary = "between-two-pictures"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="picture"; filename="{index}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + file
        + b"\r\n"
        for index, file in enumerate(files)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def measured(url: str, certs: Path, role: Role = "client") -> dict[str, float]:
    answer = ask(url, "/metrics", certs=certs, role=role)
    assert answer.status == 200
    families = text_string_to_metric_families(answer.body.decode())
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for family in families for sample in family.samples}


def on_loop(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    """Run an asynchronous test on a new event loop."""

    @functools.wraps(test)
    def run(*arguments: Given.args, **options: Given.kwargs) -> None:
        asyncio.run(test(*arguments, **options))

    return run


class Log:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def lines(self, service: str = "pmc2-edge") -> list[dict[str, Any]]:
        found = [json.loads(each.getMessage()) for each in self.records("workbench.access") if each.levelno == logging.INFO]
        return [line for line in found if line["service"] == service]

    def records(self, name: str) -> list[logging.LogRecord]:
        return [record for record in list(self._caplog.records) if record.name == name]

    @property
    def text(self) -> str:
        return self._caplog.text


@contextlib.contextmanager
def leaving_no_process() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    left = set(psutil.Process().children()) - before
    for process in left:
        process.kill()
    assert not left


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def occupied(*pools: Executor) -> Iterator[None]:
    gate = threading.Event()
    try:
        for pool in pools:
            started = threading.Semaphore(0)
            width: int = pool._max_workers  # type: ignore[attr-defined]
            for _ in range(width):
                pool.submit(lambda begun=started: (begun.release(), gate.wait(60)))
            for _ in range(width):
                assert started.acquire(timeout=30)
        yield
    finally:
        gate.set()
