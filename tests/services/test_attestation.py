"""Attestation on the wire: a picture leaves only on connections whose TLS key is bound to a guest's evidence.

The guest's agent is HTTP on loopback. A simulated processor signs its evidence, separately for every request.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import gc
import http.client
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.authority import copy_authority
from tests.support.guests import NONCE, OURS, POLICY, WHERE, Guest, guest_of
from tests.support.servers import accepting
from tests.support.services import Answered, Log, Served, ask, cloud_of, edge_of, occupied, serving
from tests.support.waiting import until
from workbench.__main__ import main
from workbench.attest import WARNINGS, Policy, key_of, runtime_data, verify
from workbench.certs import issue
from workbench.client import AsyncHttpsClient, HttpsClient
from workbench.codecs import Jpeg, Png
from workbench.data import Dataset
from workbench.errors import AttestationError, ServiceError, UsageError
from workbench.pictures import to_float
from workbench.services import attestation_agent as agents
from workbench.services.attestation_agent import AttestationAgent
from workbench.services.edge import EdgeService
from workbench.services.trust import client_context, server_context
from workbench.system import Edge
from workbench.weights import Pair

N = 20


@pytest.fixture(scope="module")
def shared_guest() -> Iterator[Guest]:
    with guest_of() as guest:
        yield guest


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    shared_guest.reset()
    return shared_guest


@pytest.fixture(scope="module")
def cloud(networks: Pair, digits: Dataset, certs: Path) -> Iterator[Served]:
    with serving(cloud_of(networks, Png(), digits), certs, "cloud") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def edge(networks: Pair, digits: Dataset, cloud: Served, certs: Path, shared_guest: Guest) -> Iterator[Served]:
    service = edge_of(networks, Png(), digits, cloud.url, certs, agent=AttestationAgent(shared_guest.url))
    with serving(service, certs, "edge") as edge:
        yield edge


@pytest.fixture(scope="module")
def images(digits: Dataset) -> torch.Tensor:
    return to_float(digits.test.images[:N])


def shown(certs: Path) -> bytes:
    return key_of(x509.load_pem_x509_certificate((certs / "edge" / "edge.pem").read_bytes()).public_bytes(Encoding.DER))


def refused(client: HttpsClient, images: torch.Tensor, check: str) -> str:
    start = time.monotonic()
    with pytest.raises(AttestationError, match=f"^attestation: {check}: expected .+, found ") as caught:
        client.recognise(images)
    assert time.monotonic() - start < client._inner.deadline_s / 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pictures_are_recognised_by_an_attested_edge(edge: Served, certs: Path, guest: Guest, images: torch.Tensor) -> None:
    with HttpsClient(edge.url, certs=certs) as plain, HttpsClient(edge.url, certs=certs, policy=POLICY) as client:
        expected = plain.recognise(images)
        assert not guest.asked
        assert plain.verdict is None
        assert client.verdict is None
        answer = client.recognise(images)
        assert client.verdict is not None
        assert client.verdict.proves
        assert client.verdict.product == "Milan"
        client.recognise(images)
    torch.testing.assert_close(answer.scores, expected.scores)
    assert len(guest.asked) == 1, "once a connection, and one connection is enough"


def test_the_question_is_the_hash_of_nonce_and_shown_key(edge: Served, certs: Path, guest: Guest) -> None:
    answer = ask(edge.url, WHERE, certs=certs)
    assert answer.status == 200
    assert guest.asked == [runtime_data(bytes.fromhex(NONCE), shown(certs))]
    assert set(answer.json) == {"evidence"}
    assert verify(answer.json["evidence"], POLICY, guest.asked[0]).proves
    for nonce in (NONCE, "cd" * 16, "ef" * 64):
        assert ask(edge.url, f"/attestation?nonce={nonce}", certs=certs).status == 200
    assert len(guest.asked) == 4, "nothing is cached"
    assert len(set(guest.asked)) == 3


def test_every_connection_is_attested_before_its_first_picture(
    edge: Served, certs: Path, guest: Guest, images: torch.Tensor
) -> None:
    with HttpsClient(edge.url, certs=certs, policy=POLICY, batch=1, at_once=6) as client:
        client.recognise(images)
        opened = len(guest.asked)
        assert 1 <= opened <= 6
        assert len(set(guest.asked)) == opened, "a nonce for each"
        client.close()
        client.recognise(images[:1])
        assert len(guest.asked) == opened + 1
    assert guest.most_at_once <= agents.AT_ONCE


def test_it_is_the_same_with_await_and_a_policy_from_a_file(
    edge: Served, certs: Path, guest: Guest, images: torch.Tensor, tmp_path: Path
) -> None:
    async def recognised() -> bool:
        async with AsyncHttpsClient(edge.url, certs=certs, policy=policy_file(tmp_path)) as client:
            await client.recognise(images)
            return client.verdict is not None and client.verdict.proves

    assert asyncio.run(recognised())
    assert len(guest.asked) == 1


def policy_file(folder: Path, measurement: str = POLICY.measurements[0]) -> Path:
    (folder / "ark.der").write_bytes(OURS.ark.public_bytes(Encoding.DER))
    lines = [f'initdata = "{POLICY.initdata}"', 'minimum_tcb = "any"']
    lines += [f'measurements = ["{measurement}"]', 'products = ["Milan"]', 'chain = ["ark.der"]', "at = 2026-06-01T00:00:00Z"]
    (folder / "policy.toml").write_text("\n".join([*lines, "[arks]", f'Milan = "{POLICY.pins["Milan"]}"', ""]))
    return folder / "policy.toml"


def test_a_guest_that_is_another_gets_no_picture(
    edge: Served, certs: Path, guest: Guest, images: torch.Tensor, logged: Log
) -> None:
    with HttpsClient(edge.url, certs=certs, policy=OURS.policy(measurements=("00" * 48,))) as client:
        refused(client, images, "measurement")
        assert client.verdict is None
        assert len(guest.asked) == 1, "it is not asked again"
        until(lambda: not edge.server.server_state.connections)  # while the client is still open
    assert not logged.lines(), "only evidence was requested"


def test_sample_evidence_is_taken_by_a_policy_for_it_alone(
    edge: Served, certs: Path, guest: Guest, images: torch.Tensor
) -> None:
    guest.give = lambda data: {"svn": "1", "report_data": base64.b64encode(data).decode()}
    with HttpsClient(edge.url, certs=certs, policy=POLICY) as client:
        assert "proves nothing" in refused(client, images, "kind")
    with HttpsClient(edge.url, certs=certs, policy=Policy(kind="sample")) as client:
        client.recognise(images)
        assert client.verdict is not None
        assert not client.verdict.proves


def test_a_request_survives_a_further_refused_connection(
    edge: Served, certs: Path, guest: Guest, images: torch.Tensor, logged: Log
) -> None:
    with HttpsClient(edge.url, certs=certs, policy=POLICY) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        client.recognise(images[:1])
        guest.give = lambda data: OURS.evidence(data, vmpl=1)
        assert isinstance(edge.service, EdgeService)
        with occupied(edge.service._lanes.pool):
            answer = pool.submit(client.recognise, images[:1])
            until(lambda: len(guest.asked) > 1)  # after some time without a response the client probes the connection
        assert answer.result(30).scores.shape == (1, 10)
        client.close()
        refused(client, images, "VMPL")
    gc.collect()
    assert not logged.records("asyncio")


def test_evidence_that_was_given_before_is_refused(edge: Served, certs: Path, guest: Guest, images: torch.Tensor) -> None:
    first: list[Any] = []

    def replayed(data: bytes) -> Any:
        first.append(OURS.evidence(data))
        return first[0]

    guest.give = replayed
    with HttpsClient(edge.url, certs=certs, policy=POLICY) as client:
        client.recognise(images)
        client.close()
        refused(client, images, "freshness")


@contextlib.contextmanager
def between(certs: Path, url: str) -> Iterator[str]:
    """Relay all traffic as a man in the middle with a certificate that the client trusts. Yields the URL."""
    server, client = server_context(certs, "edge"), client_context(certs, "client")

    def pump(source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(raw: socket.socket) -> None:
        parts = urlsplit(url)
        with contextlib.suppress(OSError), server.wrap_socket(raw, server_side=True) as near:
            far = client.wrap_socket(socket.create_connection((parts.hostname, parts.port)), server_hostname=parts.hostname)
            with far:
                back = threading.Thread(target=pump, args=(far, near), daemon=True)
                back.start()
                pump(near, far)
                back.join(30)

    with accepting(serve) as port:
        yield f"https://127.0.0.1:{port}"


def test_who_stands_between_with_another_key_is_found_out(
    edge: Served, certs: Path, guest: Guest, images: torch.Tensor, tmp_path: Path
) -> None:
    other = tmp_path / "certs"
    copy_authority(certs, other)
    issue(other)
    assert shown(other) != shown(certs)
    with between(other, edge.url) as url:
        with HttpsClient(url, certs=certs) as client:
            client.recognise(images)  # TLS alone detects nothing
        with HttpsClient(url, certs=certs, policy=POLICY) as client:
            refused(client, images, "freshness")
    with between(certs, edge.url) as url, HttpsClient(url, certs=certs, policy=POLICY) as client:
        client.recognise(images)  # only the key counts: its holder is the edge


def test_the_attested_key_is_the_connections_own(
    networks: Pair, digits: Dataset, cloud: Served, certs: Path, guest: Guest, images: torch.Tensor, tmp_path: Path
) -> None:
    folder = shutil.copytree(certs, tmp_path / "certs")
    service = edge_of(networks, Png(), digits, cloud.url, folder, agent=AttestationAgent(guest.url))
    with serving(service, folder, "edge") as edge, HttpsClient(edge.url, certs=folder, policy=POLICY) as client:
        before = shown(folder)
        client.recognise(images)
        context = client_context(folder, "client")
        kept = http_connection(edge.url, context)
        assert asked_on(kept, guest) == runtime_data(bytes.fromhex(NONCE), before)
        issue(folder, roles=("edge",))
        assert shown(folder) != before
        until(lambda: now_shown(edge.url, context) == shown(folder))
        asked = len(guest.asked)
        with pytest.raises(ConnectionError):  # connections with the old certificate are closed
            asked_on(kept, guest)
        assert len(guest.asked) == asked
        kept.close()
        client.recognise(images)
        assert asked_on(http_connection(edge.url, context), guest, close=True) == runtime_data(
            bytes.fromhex(NONCE), shown(folder)
        )


def http_connection(url: str, context: ssl.SSLContext) -> Any:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=context)


def asked_on(connection: Any, guest: Guest, close: bool = False) -> bytes:
    connection.request("GET", WHERE)
    assert connection.getresponse().read()
    if close:
        connection.close()
    return guest.asked[-1]


def now_shown(url: str, context: ssl.SSLContext) -> bytes:
    parts = urlsplit(url)
    with (
        contextlib.suppress(ConnectionError),  # the service rotates its certificate at this moment
        socket.create_connection((parts.hostname, parts.port), 30) as raw,
        context.wrap_socket(raw, server_hostname=parts.hostname) as tls,
    ):
        return key_of(tls.getpeercert(binary_form=True) or b"")
    return b""


def failed(answer: Answered, status: int) -> str:
    assert answer.status == status
    assert set(answer.json) == {"error"}
    text = answer.json["error"]
    assert "\n" not in text
    return str(text)


def test_an_edge_without_an_agent_says_so(
    networks: Pair, digits: Dataset, cloud: Served, certs: Path, images: torch.Tensor
) -> None:
    with serving(edge_of(networks, Png(), digits, cloud.url, certs), certs, "edge") as edge:
        assert "this edge has no attestation agent: start it with --attestation-agent" in failed(
            ask(edge.url, WHERE, certs=certs), 404
        )
        assert "/attestation" not in ask(edge.url, "/openapi.json", certs=certs).json["paths"]
        with HttpsClient(edge.url, certs=certs, policy=POLICY) as client:
            assert "found status 404: this edge has no attestation agent" in refused(client, images, "evidence")


def test_an_agent_that_sends_no_object_or_too_much_is_refused(edge: Served, certs: Path, guest: Guest) -> None:
    for content in (b"", b"{", b"[1]", b"\xff", b"[" * 50_000):
        guest.give = lambda _, content=content: content  # type: ignore[misc]
        assert "did not answer with a JSON object" in failed(ask(edge.url, WHERE, certs=certs), 502), content[:9]
    guest.give = lambda _: b'{"a": "' + b"a" * (256 << 10) + b'"}'
    assert "gives no answer (the answer is not HTTP)" in failed(ask(edge.url, WHERE, certs=certs), 503)


def test_an_agent_that_has_no_evidence_is_believed(edge: Served, certs: Path, guest: Guest, images: torch.Tensor) -> None:
    guest.status = 500
    guest.give = lambda _: b"secret words of an agent"
    assert failed(ask(edge.url, WHERE, certs=certs), 502) == "the attestation agent has no evidence (status 500)"
    with HttpsClient(edge.url, certs=certs, policy=POLICY) as client:
        refused(client, images, "evidence")


def test_an_agent_that_is_slow_is_asked_once_and_waited_for(
    networks: Pair, digits: Dataset, cloud: Served, certs: Path, guest: Guest, images: torch.Tensor
) -> None:
    gate = threading.Event()
    guest.waits = lambda: gate.wait(30)
    service = edge_of(networks, Png(), digits, cloud.url, certs, agent=AttestationAgent(guest.url))
    with (
        serving(service, certs, "edge") as edge,
        HttpsClient(edge.url, certs=certs, policy=POLICY) as client,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.recognise, images)
        until(lambda: guest.asked)
        with pytest.raises(concurrent.futures.TimeoutError):  # longer than a request waits before it is sent again
            answer.result(1.5)
        gate.set()
        answer.result(30)
        assert len(guest.asked) == 1


def test_an_agent_that_is_too_slow_is_given_up(
    networks: Pair, digits: Dataset, cloud: Served, certs: Path, guest: Guest
) -> None:
    gate = threading.Event()
    guest.waits = lambda: gate.wait(30)
    service = edge_of(networks, Png(), digits, cloud.url, certs, agent=AttestationAgent(guest.url, patience_s=0.2))
    with serving(service, certs, "edge") as edge:
        assert "did not answer in 0.2 s" in failed(ask(edge.url, WHERE, certs=certs), 504)
        gate.set()


def test_a_late_agent_is_awaited_until_the_deadline(
    networks: Pair, digits: Dataset, cloud: Served, certs: Path, images: torch.Tensor
) -> None:
    with guest_of() as gone:
        pass
    with serving(edge_of(networks, Png(), digits, cloud.url, certs, agent=AttestationAgent(gone.url)), certs, "edge") as edge:
        assert "the attestation agent gives no answer" in failed(ask(edge.url, WHERE, certs=certs), 503)
        with HttpsClient(edge.url, certs=certs, policy=POLICY, deadline_s=0.5) as client, pytest.raises(ServiceError) as caught:
            client.recognise(images)
        assert "no evidence for now: the attestation agent gives no answer" in str(caught.value)
        with guest_of() as guest, HttpsClient(edge.url, certs=certs, policy=POLICY) as client:
            assert isinstance(edge.service.agent, AttestationAgent)  # type: ignore[attr-defined]
            edge.service.agent.port = int(guest.url.rpartition(":")[2])  # type: ignore[attr-defined]
            client.recognise(images)


def test_more_questions_than_may_wait_are_refused(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "MOST_WAITING", 12)
    gate = threading.Event()
    guest.waits = lambda: gate.wait(30)

    async def asked() -> list[Any]:
        agent = AttestationAgent(guest.url)
        tasks = [asyncio.create_task(agent.evidence(b"%064x" % i)) for i in range(agents.MOST_WAITING + 1)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(until, lambda: guest.at_once >= agents.AT_ONCE)  # before the first response
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *answers, last = asyncio.run(asked())
    assert isinstance(last, ServiceError)
    assert (last.status, last.retry_after) == (429, 1)
    assert all(b"attestation_report" in answer for answer in answers)
    assert guest.most_at_once == agents.AT_ONCE


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8006", "https://127.0.0.1:8006", "http://example.org:8006", "http://10.0.0.1", "http://127.0.0.1:x",
     "http://127.0.0.1:8006/aa", "http://127.0.0.1?token=hush", "http://me:hush@127.0.0.1", "http://[::1", "http://0.0.0.0:8006",
     "http://:hush@127.0.0.1:8006", "http://127.0.0.1:8006#hush"],
)  # fmt: skip
def test_an_agent_is_on_loopback(url: str) -> None:
    with pytest.raises(UsageError, match="is no attestation agent of this guest: write http://127.0.0.1:8006") as caught:
        AttestationAgent(url)
    assert "hush" not in str(caught.value)


NO_EVIDENCE = (
    b"",
    b"{}",
    b"[]",
    b"\xff",
    b"[" * 50_000,
    b'{"evidence": null}',
    b'{"evidence": "x"}',
    b'{"evidence": {"a": "' + b"a" * (256 << 10) + b'"}}',
)


def test_an_edge_that_answers_with_no_evidence_gets_no_picture(certs: Path, images: torch.Tensor) -> None:
    left, asked = list(NO_EVIDENCE), list[str]()

    def serve(raw: socket.socket) -> None:
        with contextlib.suppress(OSError), server_context(certs, "edge").wrap_socket(raw, server_side=True) as tls:
            asked.append(tls.recv(1 << 16).split()[1].partition(b"?")[0].decode())
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(left[0]), left[0]))
            asked.extend("more" for _ in iter(lambda: tls.recv(1 << 16), b""))

    with accepting(serve) as port:
        while left:
            with HttpsClient(f"https://127.0.0.1:{port}", certs=certs, policy=POLICY) as client:
                refused(client, images, "evidence")
            del left[0]
    assert asked == ["/attestation"] * len(NO_EVIDENCE)


QUERIES = (
    "", "?", "?nonce=", "?nonce=ab", f"?nonce={'ab' * 15}", f"?nonce={'ab' * 65}", f"?nonce={'ab' * 16}a", f"?nonce={'xy' * 16}",
    f"?nonce={NONCE}&nonce={NONCE}", f"?nonce={NONCE}&more=1", f"?more=1&nonce={NONCE}", f"?Nonce={NONCE}",
    f"?nonce={'%D9%A1%D9%A1' * 16}", f"?nonce={NONCE}%0a", "?nonce=" + "ab" * 5000,
)  # fmt: skip


def test_a_question_of_another_form_is_refused(edge: Served, certs: Path, guest: Guest) -> None:
    for query in QUERIES:
        answer = ask(edge.url, f"/attestation{query}", certs=certs)
        assert "16 to 64 bytes in hexadecimal, and nothing else" in failed(answer, 400), query
    assert not guest.asked


def test_who_may_not_ask_for_pictures_may_not_ask_for_evidence(
    networks: Pair, digits: Dataset, cloud: Served, certs: Path, guest: Guest
) -> None:
    service = edge_of(networks, Png(), digits, cloud.url, certs, agent=AttestationAgent(guest.url))
    with serving(service, certs, "edge", demand=False) as edge:
        failed(ask(edge.url, WHERE, certs=certs, role="edge"), 403)
        failed(ask(edge.url, WHERE, certs=certs, role=None), 401)
        failed(ask(edge.url, WHERE, b"", certs, method="POST"), 405)
    assert not guest.asked


def test_plain_http_has_no_key_to_bind_evidence_to(networks: Pair, digits: Dataset, guest: Guest) -> None:
    with (
        serving(cloud_of(networks, Png(), digits, plain=True), None, "cloud") as cloud,
        serving(
            edge_of(networks, Png(), digits, cloud.url, None, plain=True, agent=AttestationAgent(guest.url)), None, "edge"
        ) as edge,
    ):
        assert "plain HTTP has no TLS key" in failed(ask(edge.url, WHERE), 404)
        with pytest.raises(UsageError, match="plain HTTP has no key to bind evidence to; leave it out"):
            HttpsClient(edge.url, plain=True, policy=POLICY)
    assert not guest.asked


def test_the_document_describes_the_question(edge: Served, certs: Path) -> None:
    from schemathesis.specs.openapi.definitions import OPENAPI_31  # the import takes a second

    document = ask(edge.url, "/openapi.json", certs=certs).json
    jsonschema.validators.validator_for(OPENAPI_31)(OPENAPI_31).validate(document)
    operation = document["paths"]["/attestation"]["get"]
    (nonce,) = operation["parameters"]
    assert (nonce["name"], nonce["in"], nonce["required"]) == ("nonce", "query", True)
    jsonschema.validate(NONCE, nonce["schema"])
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"]}
    for query, status in ((f"?nonce={NONCE}", 200), ("", 400)):
        answer = ask(edge.url, f"/attestation{query}", certs=certs)
        assert answer.status == status
        schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator(described | schema).validate(answer.json)


def test_a_policy_is_for_an_edge(networks: Pair, certs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a cloud has no evidence of its own; leave it out"):
        HttpsClient("https://127.0.0.1:1", certs=certs, protects=Edge(networks.generator, Png()), policy=POLICY)
    with pytest.raises(UsageError, match="policy.toml cannot be read"):
        HttpsClient("https://127.0.0.1:1", certs=certs, policy=tmp_path / "policy.toml")


@pytest.fixture
def picture(tmp_path: Path, images: torch.Tensor) -> Path:
    path = tmp_path / "three.jpg"
    path.write_bytes(Jpeg().encode_each(images[:1])[0])
    return path


def test_the_command_says_what_the_evidence_proves(
    edge: Served, certs: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["recognize", str(picture), "--edge", edge.url, "--certs", str(certs), "--policy", str(policy_file(tmp_path))]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("attested: AMD SEV-SNP on Milan, boot loader 4")]
    assert lines[at + 1] == f"WARNING: {WARNINGS['Milan']}"
    assert main([*command, "--json"]) == 0
    attestation = json.loads(capsys.readouterr().out)["attestation"]
    assert attestation["proves"] is True
    assert attestation["summary"].startswith("AMD SEV-SNP on Milan")
    assert attestation["warnings"] == [WARNINGS["Milan"]]


def test_the_command_says_in_a_line_what_is_not_proved(
    edge: Served, certs: Path, picture: Path, tmp_path: Path, logged: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = policy_file(tmp_path, "00" * 48)
    command = ["recognize", str(picture), "--edge", edge.url, "--certs", str(certs), "--policy", str(policy)]
    assert main(command) != 0
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("workbench: attestation: measurement: expected 0000")
    assert not logged.lines()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("edge", "--cloud", "https://127.0.0.1:1", "--certs", "{certs}", "--attestation-agent", "http://example.org"), "is no attestation agent"),
        (("edge", "--cloud", "http://127.0.0.1:1", "--plain-http", "--attestation-agent", "http://127.0.0.1:1"), "is for an edge with --certs"),
        (("cloud", "--certs", "{certs}", "--attestation-agent", "http://127.0.0.1:1"), "is for an edge with --certs"),
    ],
)  # fmt: skip
def test_an_impossible_agent_is_refused_first(
    certs: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], reason: str
) -> None:
    assert main(["serve", *(each.format(certs=certs) for each in options), "--listen", "127.0.0.1:0"]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
