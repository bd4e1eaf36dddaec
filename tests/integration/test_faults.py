"""Edge and cloud as processes, under load and with faults: killed, hung, disconnected, with wrong certificates, overloaded.

::

    Load (clients that never pause) --> door (a relay) --> edge --> passage (a relay) --> cloud

Each response is compared with that of the parts joined in this process. Whatever happens to the services, a client that keeps
sending gets the right response before its deadline, and is served again within `RECOVERY_S` of the end of the fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.authority import copy_authority
from tests.support.pair import AUXILIARY, TARGET, WIDTH, fit
from tests.support.waiting import until
from workbench import weights
from workbench.bench.link import Link, Way
from workbench.certs import LOCAL, Role, issue
from workbench.classifiers import Classifier
from workbench.client import AsyncHttpsClient
from workbench.codecs import Neural
from workbench.data import Dataset, Split
from workbench.errors import WorkbenchError
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.pictures import to_float
from workbench.protocol import Tensor
from workbench.services.connection import Connection, infer, metadata
from workbench.services.http import HttpAnswer
from workbench.services.local import Local, Running
from workbench.services.trust import client_context
from workbench.ssh.relays import Endpoint, copy
from workbench.system import Cloud, Edge, System
from workbench.weights import Manifest

pytestmark = [pytest.mark.system, pytest.mark.timing]  # each measures how soon a client is served again

BEFORE = datetime.now(UTC) - timedelta(days=2)
RECOVERY_S = 2.0
HUNG_S = 2.0  # duration of a temporary fault
DEADLINE_S = 30.0
OPTIONS = ("--dataset", "digits", "--target", TARGET, "--auxiliary", AUXILIARY, "--threads", "1")


# --- weights whose labels differ -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    files: list[bytes] = field(repr=False)
    labels: list[int]
    system: System


def save_networks(root: Path, digits: Dataset) -> None:
    store = root / "runs" / "weights"
    torch.manual_seed(0)
    generator = PerturbationGenerator(width=4).eval()
    compressor = NeuralCompressor(N=8, M=12).requires_grad_(False).eval()
    compressor.g_a[-1].weight.mul_(300)  # latents that spread over many symbols, so that decoded images differ
    compressor.update(force=True, update_quantiles=True)
    codec, target = Neural(compressor, identity="fitted"), Classifier(TARGET, width=WIDTH[TARGET]).eval()
    train = digits.train
    seen = Cloud(codec, target).decode(Edge(generator, codec).protect(to_float(train.images)))
    fit(target, Split((255 * seen).round().to(torch.uint8), train.labels))

    def save(name: str, module: torch.nn.Module, **depends: str) -> str:
        kind, spec = weights.describe(module)
        training = {"preset": "tiny", "history": []}
        manifest = Manifest(name, "digits", kind, spec, "fitted", 0, training, {"accuracy": 0.1}, depends)
        return weights.save(module, manifest, store).sha256

    kept = save(TARGET, target)
    other = save(AUXILIARY, Classifier(AUXILIARY, width=WIDTH[AUXILIARY]))
    made = save(weights.generator_name(TARGET, AUXILIARY), generator, target=kept, auxiliary=other)
    save(weights.compressor_name(TARGET, AUXILIARY), compressor, target=kept, generator=made)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Iterator[Pictures]:
    root = tmp_path_factory.mktemp("fitted")
    save_networks(root, digits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(root))
        patch.setenv("OMP_NUM_THREADS", "1")
        system = System.load("digits", TARGET, AUXILIARY)
        images = to_float(digits.test.images[:200])
        best = system.recognise(images).scores.topk(2)
        sure = best.values[:, 0] - best.values[:, 1] > 0.3
        labels = best.indices[sure, 0].tolist()
        assert system.client is not None
        assert len(labels) >= 60
        assert len(set(labels)) >= 8, "a label that belongs to another picture is seen"
        yield Pictures(system.client.capture(images[sure]), labels, system)


# --- a network that can be cut ---------------------------------------------------------------------------------------------


class Relay(Link):
    def __init__(self, port: int) -> None:
        super().__init__(f"https://127.0.0.1:{port}")
        self.heal()

    def silence(self) -> None:
        """Pass no data in either direction. Connections stay open, and new ones are accepted."""
        self._flows.clear()

    def heal(self) -> None:
        """Pass the data of new connections. Silenced ones stay silent."""
        self._flows = threading.Event()
        self._flows.set()

    def drop(self) -> None:
        before = self._flows
        self.heal()
        self.cut()
        before.set()

    def _copy(self, source: Endpoint, sink: Endpoint, way: Way) -> None:
        flows = self._flows

        def receive(size: int) -> bytes:
            data = source.recv(size)
            flows.wait()
            return data

        gated = SimpleNamespace(recv=receive, sendall=source.sendall, shutdown=source.shutdown, close=source.close)
        copy(gated, sink, way)


# --- clients that never pause ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    client: int
    start: float
    end: float


class Load:
    """Clients that send requests without pause, each on its own connections.

    At the end each client has received its last response. Then no label was wrong, no response was late, and every refusal
    matched the pattern `refusal`.
    """

    def __init__(
        self, url: str, certs: Path, pictures: Pictures, *, clients: int = 6, most: int = 3, refusal: str = ""
    ) -> None:
        self.url, self.certs, self.pictures = url, certs, pictures
        self.clients, self.most, self.refusal = clients, most, refusal
        self.answers: list[Answered] = []
        self.refusals: list[tuple[int, str]] = []  # client and error
        self.wrong = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)
        self._faults: list[BaseException] = []

    def __enter__(self) -> Load:
        self._thread.start()
        try:
            self.everyone(time.monotonic())
        except BaseException:
            self._stop.set()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * DEADLINE_S)
        if kind is not None:
            return
        assert not self._thread.is_alive(), "a client hangs"
        assert self._faults == []
        assert self.wrong == 0, "a label is wrong"
        assert max(answer.end - answer.start for answer in self.answers) < DEADLINE_S
        assert [words for _, words in self.refusals if not (self.refusal and re.search(self.refusal, words))] == []

    def since(self, moment: float) -> list[Answered]:
        return [answer for answer in self.answers[:] if answer.end > moment]

    def everyone(self, moment: float, patience: float = DEADLINE_S) -> None:
        until(lambda: len({answer.client for answer in self.since(moment)}) == self.clients, patience)

    def refused(self) -> None:
        first = len(self.refusals)  # earlier ones came while connections of before still answered
        until(lambda: len({client for client, _ in self.refusals[first:]}) == self.clients)
        refused, before = time.monotonic(), len(self.refusals)
        until(lambda: len(self.refusals) >= before + 2 * self.clients)
        assert self.since(refused) == []

    def recovered(self, ready: float) -> None:
        first = min(answer.end for answer in until(lambda: self.since(ready), DEADLINE_S)) - ready
        self.everyone(ready)
        each = [min(a.end for a in self.since(ready) if a.client == client) - ready for client in range(self.clients)]
        print(f"recovery: first right answer after {first:.3f} s, of the last client after {max(each):.3f} s")
        assert first < RECOVERY_S

    async def _all(self) -> None:
        done = await asyncio.gather(*(self._one(number) for number in range(self.clients)), return_exceptions=True)
        self._faults += [each for each in done if each is not None]

    async def _one(self, number: int) -> None:
        files, labels = self.pictures.files, self.pictures.labels
        async with AsyncHttpsClient(self.url, certs=self.certs, deadline_s=DEADLINE_S) as client:
            turn = number
            while not self._stop.is_set():
                turn += 1
                first, n = 7 * turn % (len(files) - self.most), 1 + turn % self.most
                start = time.monotonic()
                try:
                    answer = await client.recognise_files(files[first : first + n])
                except WorkbenchError as error:
                    self.refusals.append((number, str(error)))
                    await asyncio.sleep(0.05)
                    continue
                if answer.labels.tolist() == labels[first : first + n]:
                    self.answers.append(Answered(number, start, time.monotonic()))
                else:
                    self.wrong += 1


# --- edge and cloud --------------------------------------------------------------------------------------------------------


@dataclass
class Arranged:
    local: Local
    pictures: Pictures
    cloud: Running
    passage: Relay
    edge: Running
    door: Relay

    @property
    def certs(self) -> Path:
        return self.local.certs

    def load(self, **options: Any) -> Load:
        return Load(self.door.url, self.certs, self.pictures, **options)

    def kill(self, *services: Running) -> None:
        for service in services:
            assert service.stop(signal.SIGKILL) == -signal.SIGKILL

    def restart(self, *services: Running) -> float:
        with ThreadPoolExecutor(len(services)) as pool:
            list(pool.map(Running.restart, services))
        for service in services:
            self.local.await_ready(service)
        return time.monotonic()

    def metric(self, name: str, service: Running | None = None) -> float:
        service = service or self.edge
        context = client_context(self.certs, "edge" if service is self.cloud else "client")
        with urllib.request.urlopen(f"{service.url}/metrics", context=context, timeout=DEADLINE_S) as answer:
            (line,) = [line for line in answer.read().decode().splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])

    def put(self, folder: Path, role: Role) -> None:
        own = self.local.folder / role
        for name in (f"{role}.key", f"{role}.pem"):
            shutil.copy(folder / role / name, own / f"{name}.new")
            (own / f"{name}.new").replace(own / name)
        service = self.cloud if role == "cloud" else self.edge
        wanted = ssl.PEM_cert_to_DER_cert((folder / role / f"{role}.pem").read_text())
        until(lambda: shown(service.port) == wanted)

    def mend(self) -> None:
        for service in (self.cloud, self.edge):
            if service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
        self.passage.drop()
        self.door.drop()
        for role in ("cloud", "edge"):
            for name in (f"{role}.key", f"{role}.pem"):
                if (self.local.folder / role / name).read_bytes() != (self.certs / role / name).read_bytes():
                    shutil.copy(self.certs / role / name, self.local.folder / role / name)
        ended = [service for service in (self.cloud, self.edge) if service.process.poll() is not None]
        if ended:
            self.restart(*ended)


def shown(port: int) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.getpeercert(binary_form=True)
    return None


@pytest.fixture(scope="module")
def arranged(pictures: Pictures) -> Iterator[Arranged]:
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(Local())
        shutil.rmtree(local.certs)
        elsewhere = {"names": [*LOCAL, "elsewhere.example"], "cloud_names": [*LOCAL, "cloud.elsewhere.example"]}
        # an authority that was valid when the expired certificates were issued
        issue(local.certs, days=7, now=BEFORE, **elsewhere)
        for role in ("cloud", "edge"):
            shutil.copytree(local.certs / role, local.folder / role)
        cloud = local.start("cloud", *OPTIONS, "--certs", str(local.folder / "cloud"), ready=False)
        passage = stack.enter_context(Relay(cloud.port))
        edge = local.start("edge", *OPTIONS, "--certs", str(local.folder / "edge"), "--cloud", passage.url)
        door = stack.enter_context(Relay(edge.port))
        yield Arranged(local, pictures, cloud, passage, edge, door)


@pytest.fixture
def system(arranged: Arranged) -> Arranged:
    arranged.mend()
    return arranged


def ask_once(url: str, certs: Path, bodies: list[bytes]) -> list[HttpAnswer]:
    async def all_of_them() -> list[HttpAnswer]:
        async with Connection(url, lambda: client_context(certs, "client"), attempt_s=DEADLINE_S) as connection:
            return await asyncio.gather(*(connection.call("POST", "/recognize", body) for body in bodies))

    return asyncio.run(all_of_them())


# --- killed ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["cloud", "edge", "both"])
def test_what_was_killed_is_back_once_it_is_started_again(system: Arranged, what: str) -> None:
    services = {"cloud": [system.cloud], "edge": [system.edge], "both": [system.cloud, system.edge]}[what]
    with system.load() as load:
        system.kill(*services)
        load.recovered(system.restart(*services))


# --- hung ------------------------------------------------------------------------------------------------------------------


def test_a_cloud_that_hangs_for_a_while_loses_nothing(system: Arranged) -> None:
    with system.load(most=1) as load:
        system.cloud.process.send_signal(signal.SIGSTOP)
        until(lambda: system.metric("pmc2_waiting_images") == load.clients)
        hung = time.monotonic()
        time.sleep(HUNG_S)
        assert load.since(hung) == []
        system.cloud.process.send_signal(signal.SIGCONT)
        load.recovered(time.monotonic())


def test_a_cloud_that_hangs_for_good_is_killed_and_started_again(system: Arranged) -> None:
    with system.load(most=1) as load:
        system.cloud.process.send_signal(signal.SIGSTOP)
        until(lambda: system.metric("pmc2_waiting_images") == load.clients)
        system.kill(system.cloud)
        load.recovered(system.restart(system.cloud))


# --- cut off ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["passage", "door"])
def test_silent_connections_are_replaced_once_they_break(system: Arranged, where: str) -> None:
    relay: Relay = getattr(system, where)
    with system.load() as load:
        relay.silence()
        silent = time.monotonic()
        time.sleep(HUNG_S)
        assert load.since(silent + HUNG_S / 2) == []
        relay.drop()
        load.recovered(time.monotonic())


@pytest.mark.parametrize("where", ["passage", "door"])
def test_connections_that_stay_silent_are_found_out(system: Arranged, where: str) -> None:
    relay: Relay = getattr(system, where)
    with system.load() as load:
        relay.silence()
        silent = time.monotonic()
        time.sleep(HUNG_S / 2)
        assert load.since(silent + HUNG_S / 4) == []
        relay.heal()
        load.recovered(time.monotonic())


def test_many_idle_connections_that_are_dead_cost_one_attempt(system: Arranged) -> None:
    attempt_s, trust = 0.5, lambda: client_context(system.certs, "edge")  # the attempt ends before the connection is probed

    async def ask() -> float:
        loop = asyncio.get_running_loop()
        async with Connection(system.passage.url, trust, attempt_s=attempt_s) as connection:
            await asyncio.gather(*(metadata(connection) for _ in range(6)))
            system.passage.silence()
            system.passage.heal()
            start = loop.time()
            await metadata(connection, deadline=start + DEADLINE_S)
            return loop.time() - start

    assert attempt_s < asyncio.run(ask()) < 3 * attempt_s, "not six"


# --- shown the wrong certificate -------------------------------------------------------------------------------------------

WRONG = {  # the fault of a certificate, and the error that it causes
    "expired": "certificate has expired",
    "of another name": r"IP address mismatch, certificate is not valid for '127\.0\.0\.1'\.",
    "of another authority": "(certificate signature failure|unable to get local issuer certificate)",
}


@pytest.fixture(scope="module")
def wrong(arranged: Arranged, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp("wrong") for kind in WRONG}
    for kind in ("expired", "of another name"):
        copy_authority(arranged.certs, folders[kind])
    issue(folders["expired"], days=1, now=BEFORE)
    issue(folders["of another name"], names=["elsewhere.example"], cloud_names=["cloud.elsewhere.example"])
    issue(folders["of another authority"])
    return folders


@pytest.mark.parametrize("kind", WRONG)
def test_a_cloud_with_a_wrong_certificate_is_refused_meanwhile(system: Arranged, wrong: dict[str, Path], kind: str) -> None:
    words = f"^{system.door.url}: {system.passage.url} is not to be trusted: {WRONG[kind]}$"
    with system.load(refusal=words) as load:
        system.put(wrong[kind], "cloud")
        system.passage.drop()
        load.refused()
        system.put(system.certs, "cloud")
        load.recovered(time.monotonic())


@pytest.mark.parametrize("kind", WRONG)
def test_an_edge_with_a_wrong_certificate_is_refused_meanwhile(system: Arranged, wrong: dict[str, Path], kind: str) -> None:
    by_clients = f"^{system.door.url} is not to be trusted: {WRONG[kind]}$"
    by_cloud = rf"^{system.door.url}: {system.passage.url} does not trust this end \(\w+\)$"  # while clients retry
    with system.load(refusal=f"{by_clients}|{by_cloud}") as load:
        system.put(wrong[kind], "edge")
        system.door.drop()
        load.refused()
        assert all(re.search(by_clients, words) for _, words in load.refusals[-load.clients :])
        system.put(system.certs, "edge")
        load.recovered(time.monotonic())


def test_an_edge_with_an_expired_certificate_recovers(system: Arranged, wrong: dict[str, Path]) -> None:
    with system.load(refusal="is not to be trusted: certificate has expired$") as load:
        system.kill(system.edge)
        before = len(system.edge.log.read_text())
        for name in ("edge.key", "edge.pem"):
            shutil.copy(wrong["expired"] / "edge" / name, system.local.folder / "edge" / name)
        system.edge.restart()
        lines = until(lambda: [line for line in system.edge.log.read_text()[before:].splitlines() if "not ready" in line])
        assert re.fullmatch(rf"not ready: {system.passage.url} does not trust this end \(\w+CERTIFICATE_EXPIRED\)", lines[0])
        system.put(system.certs, "edge")
        system.local.await_ready(system.edge)
        load.recovered(time.monotonic())
    assert sum("not ready" in line for line in system.edge.log.read_text()[before:].splitlines()) == 1


# --- overrun ---------------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_with_a_time_and_serves_retries(system: Arranged) -> None:
    certs, clients = str(system.local.folder / "edge"), 12
    files, labels = system.pictures.files[:4], system.pictures.labels[:4]
    edge = system.local.start("edge", *OPTIONS, "--certs", certs, "--cloud", system.passage.url, "--queue", "4", "--batch", "4")

    def resume() -> None:
        until(lambda: system.metric('pmc2_requests_total{status="429"}', edge) >= len(files) + clients)
        time.sleep(HUNG_S)  # long enough for accepted requests to be repeated, and refused
        system.cloud.process.send_signal(signal.SIGCONT)

    try:
        system.cloud.process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(2) as pool:
            accepted = pool.submit(ask_once, edge.url, system.certs, files)
            until(lambda: system.metric("pmc2_waiting_images", edge) == len(files))
            for refused in ask_once(edge.url, system.certs, files):
                assert refused.status == 429
                assert int(refused.headers["retry-after"]) >= 1
                assert json.loads(refused.body)["error"] == "the queue is full (4 images wait)"
            resumed = pool.submit(resume)
            found = asyncio.run(ask_three_times(edge.url, system.certs, system.pictures.files, clients))
            resumed.result(DEADLINE_S)
            assert found == [system.pictures.labels[3 * number : 3 * number + 3] for number in range(clients)]
            assert [label_of(answer) for answer in accepted.result(DEADLINE_S)] == labels
    finally:
        system.cloud.process.send_signal(signal.SIGCONT)
        edge.stop()


async def ask_three_times(url: str, certs: Path, files: list[bytes], clients: int) -> list[list[int]]:
    async def one(number: int) -> list[int]:
        async with AsyncHttpsClient(url, certs=certs, deadline_s=DEADLINE_S) as client:
            return [int((await client.recognise_files([files[3 * number + turn]])).labels) for turn in range(3)]

    return await asyncio.gather(*(one(number) for number in range(clients)))


def label_of(answer: HttpAnswer) -> int:
    assert answer.status == 200
    (result,) = json.loads(answer.body)["results"]
    return int(result["class"])


# --- slow, and gone --------------------------------------------------------------------------------------------------------


def tcp(service: Running) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", service.port), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


def connected(system: Arranged) -> ssl.SSLSocket:
    return client_context(system.certs, "client").wrap_socket(tcp(system.edge), server_hostname="127.0.0.1")


def head(length: int) -> bytes:
    return f"POST /recognize HTTP/1.1\r\nHost: edge\r\nContent-Length: {length}\r\n\r\n".encode()


def test_clients_that_send_a_byte_a_second_delay_no_others(system: Arranged) -> None:
    slow, files, labels = 8, system.pictures.files, system.pictures.labels
    with system.load() as load, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connected(system)) for _ in range(slow)]
        for connection, file in zip(connections, files, strict=False):
            connection.sendall(head(len(file)) + file[:-3])
        start = time.monotonic()
        for position in (-3, -2, -1):
            time.sleep(1.0)
            for connection, file in zip(connections, files, strict=False):
                connection.sendall(file[position : position + 1 or None])
        others = load.since(start)
        for connection, label in zip(connections, labels, strict=False):
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert label_of(HttpAnswer(answer.status, {}, answer.read())) == label
    assert len(others) > 10 * load.clients
    assert max(answer.end - answer.start for answer in others) < 2.0, "nobody waited for the last byte"


def test_many_disconnects_within_a_body_leave_nothing(system: Arranged) -> None:
    file = max(system.pictures.files, key=len)
    with system.load() as load:
        start = time.monotonic()
        for number in range(200):
            connection = connected(system)
            connection.sendall(head(len(file)) + file[: len(file) // 2])
            if number % 2:
                connection.unwrap()  # closes properly; the others do not, and their data may be lost
            connection.close()
        load.everyone(start)
        load.everyone(time.monotonic())
    until(lambda: system.metric("pmc2_held_bytes") == 0)
    assert system.metric("pmc2_waiting_images") == 0
    assert system.metric('pmc2_requests_total{status="400"}') >= 100


# --- shutdown --------------------------------------------------------------------------------------------------------------


def test_an_edge_that_ends_answers_what_it_accepted(system: Arranged) -> None:
    files, labels = system.pictures.files[:8], system.pictures.labels[:8]
    with system.load(most=1) as load, ThreadPoolExecutor(1) as pool, tcp(system.edge) as plain:
        system.cloud.process.send_signal(signal.SIGSTOP)
        asked = pool.submit(ask_once, system.edge.url, system.certs, files)
        until(lambda: system.metric("pmc2_waiting_images") >= len(files) + load.clients)
        system.edge.process.send_signal(signal.SIGTERM)
        until(lambda: not listens(system.edge.port))
        assert not asked.done()
        with pytest.raises(OSError, match="EOF|reset"):  # closed, because it had not shown its certificate yet
            client_context(system.certs, "client").wrap_socket(plain, server_hostname="127.0.0.1")
        system.cloud.process.send_signal(signal.SIGCONT)
        assert [label_of(answer) for answer in asked.result(DEADLINE_S)] == labels
        assert system.edge.process.wait(10) == 0, "a connection that was made late does not keep it"
        load.recovered(system.restart(system.edge))


def test_a_cloud_that_ends_answers_what_it_accepted(system: Arranged) -> None:
    torch.manual_seed(1)
    parts = system.pictures.system
    n = 64  # images of a payload
    answered: list[Any] = []
    payloads = [parts.edge.protect(torch.rand(n, 3, 32, 32)) for _ in range(8)]

    async def ask() -> list[Any]:
        async with Connection(
            system.cloud.url, lambda: client_context(system.certs, "edge"), attempt_s=DEADLINE_S
        ) as connection:

            async def one(payload: bytes) -> Any:
                answer = await infer(connection, TARGET, [Tensor.of("payload", [payload])])
                answered.append(answer)
                return answer

            return await asyncio.gather(*map(one, payloads))

    def accepted() -> bool:
        """Return whether all payloads are accepted. The images of the load are fewer than those of one payload."""
        done = len(answered)
        return n * done + system.metric("pmc2_waiting_images", system.cloud) >= n * len(payloads)

    with system.load() as load, ThreadPoolExecutor(1) as pool:
        assert load.clients * load.most < n
        asked = pool.submit(asyncio.run, ask())
        until(accepted)
        assert not asked.done(), "the cloud still has to answer"
        system.cloud.process.send_signal(signal.SIGTERM)
        answers = asked.result(DEADLINE_S)
        assert system.cloud.process.wait(DEADLINE_S) == 0
        load.recovered(system.restart(system.cloud))
    for payload, answer in zip(payloads, answers, strict=True):
        torch.testing.assert_close(torch.from_numpy(answer.outputs["scores"].data.copy()), parts.cloud.recognise(payload))


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False
