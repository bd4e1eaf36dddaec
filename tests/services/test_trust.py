"""Trust: roles, tokens, invalid certificates, and certificates that rotate under a running service."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.services import SECRET, Both, Log, Served, ask, both_of, cloud_of, edge_of, serving
from tests.support.waiting import until
from workbench.__main__ import main
from workbench.certs import ROLES, Role, issue
from workbench.client import HttpsClient
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.errors import ServiceError, UsageError
from workbench.services.connection import Connection
from workbench.services.server import Listener, Tls, server_of
from workbench.services.trust import Token, client_context, is_loopback, server_context
from workbench.weights import Pair

NOWHERE = "https://127.0.0.1:1"  # nothing listens there
PATIENCE_S = 60.0
CODEC = Png()


@pytest.fixture(scope="module")
def both(networks: Pair, digits: Dataset, folders: dict[str, Path]) -> Iterator[Both]:
    with both_of(networks, CODEC, digits, folders["good"]) as both:
        yield both


@pytest.fixture(scope="module")
def open_edge(networks: Pair, digits: Dataset, both: Both, folders: dict[str, Path]) -> Iterator[Served]:
    edge = edge_of(networks, CODEC, digits, both.cloud.url, folders["good"], token=Token(SECRET.encode()))
    with serving(edge, folders["good"], "edge", demand=False) as served:
        yield served


def refusal(url: str, certs: Path, token: Token | None = None) -> ServiceError:
    start = time.monotonic()
    with HttpsClient(url, certs=certs, token=token, deadline_s=PATIENCE_S) as client, pytest.raises(ServiceError) as caught:
        client.classes  # noqa: B018
    assert time.monotonic() - start < PATIENCE_S / 2
    assert "\n" not in str(caught.value)
    return caught.value


def test_edge_and_cloud_know_each_other_by_their_certificates(both: Both, files: list[bytes], logged: Log) -> None:
    assert ask(both.edge.url, "/recognize", files[0], both.certs).status == 200
    until(lambda: logged.lines("pmc2-cloud") and logged.lines("pmc2-edge"))
    assert logged.lines("pmc2-cloud")[0]["by"] == f"edge {fingerprint(both.certs, 'edge')}"
    assert logged.lines("pmc2-edge")[0]["by"] == f"client {fingerprint(both.certs, 'client')}"


def fingerprint(certs: Path, role: Role) -> str:
    certificate = x509.load_pem_x509_certificate((certs / role / f"{role}.pem").read_bytes())
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()[:16]


@pytest.mark.parametrize("path", ["/v2/models/resnet18", "/metrics", "/v2/models/resnet18/infer"])
def test_only_an_edge_may_ask_the_cloud(both: Both, path: str) -> None:
    body = b"{}" if path.endswith("infer") else None
    answer = ask(both.cloud.url, path, body, both.certs, "client")
    assert (answer.status, answer.json) == (403, {"error": "a certificate of role 'client' may not ask this service"})
    with pytest.raises((ssl.SSLError, ConnectionError)):  # a cloud's certificate is for servers only, so TLS refuses it
        ask(both.cloud.url, path, body, both.certs, "cloud")


def test_a_phone_at_the_cloud_is_refused_at_once(both: Both) -> None:
    error = refusal(both.cloud.url, both.certs)
    assert error.status == 502
    assert "is not to be trusted: its certificate is of the role 'cloud' and the connection is for the edge alone" in str(error)


@pytest.mark.parametrize("path", ["/v2/models/resnet18/infer", "/recognize"])
def test_an_edge_may_not_ask_an_edge(both: Both, files: list[bytes], path: str) -> None:
    assert ask(both.edge.url, path, files[0], both.certs, "edge").status == 403


def test_who_shows_nothing_does_not_get_past_tls(both: Both) -> None:
    for served in (both.edge, both.cloud):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(served.url, "/v2/health/live", certs=both.certs, role=None)
    token = Token(SECRET.encode())  # with one, a client shows no certificate
    error = refusal(both.edge.url, both.certs, token)
    assert error.status == 502
    assert "does not trust this end (TLSV13_ALERT_CERTIFICATE_REQUIRED)" in str(error)


def test_probes_without_a_certificate_learn_only_of_health(
    networks: Pair, digits: Dataset, both: Both, folders: dict[str, Path], files: list[bytes]
) -> None:
    edge, certs = edge_of(networks, CODEC, digits, both.cloud.url, both.certs), both.certs
    with serving(edge, certs, "edge", demand=False) as served:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert ask(served.url, path, certs=certs, role=None).status == 200, path
        for path in ("/recognize", "/v2/models/resnet18/infer"):
            answer = ask(served.url, path, files[0], certs, role=None)
            assert (answer.status, answer.json) == (401, {"error": "show a certificate"}), path
        for path in ("/metrics", "/v2/models/resnet18"):
            assert ask(served.url, path, certs=certs, role=None).status == 401, path
        assert ask(served.url, "/recognize", files[0], certs).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):  # a certificate that is shown must hold
            ask(served.url, "/v2/health/live", certs=folders["stranger"])


def test_a_token_stands_for_a_certificate(open_edge: Served, both: Both, files: list[bytes]) -> None:
    for header in (f"Bearer {SECRET}", f"bearer {SECRET}", f"Bearer  {SECRET} "):
        answer = ask(open_edge.url, "/recognize", files[0], both.certs, None, {"Authorization": header})
        assert answer.status == 200, header


def test_a_wrong_token_is_none(open_edge: Served, both: Both, files: list[bytes]) -> None:
    wrong = ("", "Bearer", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x", f"Basic {SECRET}", SECRET, "Bearer \xff\xfe")
    for headers in ({}, *({"Authorization": header} for header in wrong)):
        answer = ask(open_edge.url, "/recognize", files[0], both.certs, None, headers)
        assert (answer.status, answer.json) == (401, {"error": "show a certificate or a bearer token"}), headers


def test_beside_a_token_certificates_still_hold(open_edge: Served, both: Both, files: list[bytes]) -> None:
    assert ask(open_edge.url, "/recognize", files[0], both.certs).status == 200
    assert ask(open_edge.url, "/recognize", files[0], both.certs, "edge").status == 403


def test_a_client_shows_its_token(open_edge: Served, both: Both, files: list[bytes]) -> None:
    with HttpsClient(open_edge.url, certs=both.certs, token=Token(SECRET.encode())) as client:
        assert client.recognise_files(files[:2]).scores.shape == (2, 10)
    error = refusal(open_edge.url, both.certs, Token(b"another-token-altogether"))
    assert error.status == 401


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    monkeypatch.delenv("WORKBENCH_TOKEN", raising=False)
    assert Token.read() is None
    monkeypatch.setenv("WORKBENCH_TOKEN", "from-the-environment")
    assert Token.read() == Token(b"from-the-environment")
    assert Token.read(path) == Token(SECRET.encode())


def test_what_can_be_no_token_is_refused_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in ("", "short", "with a space in between", "a-letter-that-is-no-äscii", "tab\tin-between-it"):
        path.write_text(content)
        with pytest.raises(UsageError) as caught:
            Token.read(path)
        assert str(path) in str(caught.value)
        assert not content or content not in str(caught.value)
    with pytest.raises(UsageError, match=r"no token can be read from .*nowhere \(FileNotFoundError\)"):
        Token.read(tmp_path / "nowhere")


def test_no_repr_error_or_log_shows_a_token(open_edge: Served, both: Both, files: list[bytes], logged: Log) -> None:
    token, wrong = Token(SECRET.encode()), Token(b"another-token-altogether")
    with HttpsClient(open_edge.url, certs=both.certs, token=token) as client:
        client.recognise_files(files[:1])
        shown = [repr(token), str(token), repr(client), repr(vars(client)), repr(vars(client._inner))]
    error = refusal(open_edge.url, both.certs, wrong)
    shown += [str(error), repr(error), repr(open_edge.service.token)]
    until(lambda: {200} <= {line["status"] for line in logged.lines()})
    for text in (*shown, logged.text):
        assert SECRET not in text
        assert "another-token-altogether" not in text


WHY = {
    "expired": "certificate has expired",
    "elsewhere": "IP address mismatch, certificate is not valid for '127.0.0.1'",
    "foreign": "self-signed certificate in certificate chain",
}
ALERTS = {"expired": "CERTIFICATE_EXPIRED", "stranger": "UNKNOWN_CA"}


@pytest.mark.parametrize("kind", WHY)
def test_a_client_refuses_an_edge_with_a_bad_certificate(
    networks: Pair, digits: Dataset, folders: dict[str, Path], kind: str
) -> None:
    edge = edge_of(networks, CODEC, digits, NOWHERE, folders["good"])
    with serving(edge, folders[kind], "edge", ready=False) as served:
        error = refusal(served.url, folders["good"])
    assert error.status == 502
    assert WHY[kind] in str(error)
    assert f"{served.url} is not to be trusted: " in str(error)


@pytest.mark.parametrize("kind", ALERTS)
def test_an_edge_refuses_a_client_with_a_bad_certificate(both: Both, folders: dict[str, Path], kind: str) -> None:
    error = refusal(both.edge.url, folders[kind])
    assert error.status == 502
    assert f"{both.edge.url} does not trust this end (" in str(error)
    assert ALERTS[kind] in str(error)


def test_an_edge_refuses_a_cloud_whose_certificate_does_not_hold(
    networks: Pair, digits: Dataset, folders: dict[str, Path], files: list[bytes], logged: Log
) -> None:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(serving(cloud_of(networks, CODEC, digits), folders["elsewhere"], "cloud"))
        edge = edge_of(networks, CODEC, digits, cloud.url, folders["good"], deadline_s=PATIENCE_S)
        served = stack.enter_context(serving(edge, folders["good"], "edge", ready=False))
        start = time.monotonic()
        answer = ask(served.url, "/recognize", files[0], folders["good"])
        assert time.monotonic() - start < PATIENCE_S / 2
        assert answer.status == 502
        assert f"{cloud.url} is not to be trusted: " in answer.json["error"]
        assert ask(served.url, "/v2/health/ready", certs=folders["good"]).status == 503
        until(lambda: f"not ready: {cloud.url} is not to be trusted" in logged.text)
        assert not logged.lines("pmc2-cloud")


def test_a_cloud_refuses_an_edge_whose_certificate_does_not_hold(
    networks: Pair, digits: Dataset, both: Both, folders: dict[str, Path], files: list[bytes]
) -> None:
    edge = edge_of(networks, CODEC, digits, both.cloud.url, folders["stranger"], deadline_s=PATIENCE_S)
    with serving(edge, folders["good"], "edge", ready=False) as served:
        start = time.monotonic()
        answer = ask(served.url, "/recognize", files[0], folders["good"])
        assert time.monotonic() - start < PATIENCE_S / 2
        assert answer.status == 502
        assert "does not trust this end" in answer.json["error"]
        assert not served.service.ready


@pytest.mark.parametrize("what", ["edge", "cloud"])
def test_tls_below_1_3_is_refused(both: Both, what: str) -> None:
    context = client_context(both.certs, "client")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = int((both.edge if what == "edge" else both.cloud).url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 30) as plain, pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_every_connection_shows_its_certificate_anew(both: Both) -> None:
    context, session = client_context(both.certs, "client"), None
    port = int(both.edge.url.rpartition(":")[2])
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", port), 30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection,
        ):
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: edge\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            session = connection.session
            assert not connection.session_reused


@pytest.mark.parametrize("missing", ["ca.pem", "edge.pem", "edge.key"])
def test_missing_certificates_are_named(certs: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "certs"
    shutil.copytree(certs, folder)
    (folder / "edge" / missing).unlink()
    with pytest.raises(UsageError, match=f"there is no {missing} in .*: make certificates with `workbench certs"):
        server_context(folder, "edge")


def test_a_key_that_does_not_fit_is_refused_without_showing_it(certs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    shutil.copytree(certs, folder)
    shutil.copy(folder / "cloud" / "cloud.key", folder / "edge" / "edge.key")
    with pytest.raises(UsageError, match="cannot be used") as caught:
        server_context(folder, "edge")
    assert "PRIVATE" not in str(caught.value)


def as_trusted(path: Path) -> None:
    # the output of `openssl x509 -trustout`, which OpenSSL loads and `cryptography` refuses
    path.write_text(path.read_text().replace(" CERTIFICATE", " TRUSTED CERTIFICATE"))


def test_a_certificate_that_only_openssl_reads_is_named(certs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    shutil.copytree(certs, folder)
    as_trusted(folder / "edge" / "edge.pem")
    client_context(folder, "edge")  # OpenSSL loads it
    with pytest.raises(UsageError, match=r"the certificate .*edge\.pem cannot be used \(") as caught:
        server_context(folder, "edge")
    assert "\n" not in str(caught.value)


def gets_in(url: str, certs: Path, role: Role) -> bool:
    try:
        return ask(url, "/v2/models/resnet18", certs=certs, role=role).status == 200
    except (ssl.SSLError, ConnectionError):
        return False


def test_certificates_rotate_under_a_running_service(
    tmp_path: Path, networks: Pair, digits: Dataset, files: list[bytes], logged: Log
) -> None:
    folder, before = tmp_path / "certs", tmp_path / "before"
    issue(folder)
    shutil.copytree(folder, before)
    with both_of(networks, CODEC, digits, folder) as both:
        assert ask(both.edge.url, "/v2/health/ready", certs=before).status == 200
        for name in ("ca.pem", "authority/ca.key"):
            (folder / name).unlink()
        issue(folder)
        until(lambda: gets_in(both.edge.url, folder, "client") and gets_in(both.cloud.url, folder, "edge"))
        assert ask(both.edge.url, "/recognize", files[0], folder).status == 200
        until(lambda: f"edge {fingerprint(folder, 'edge')}" in [line["by"] for line in logged.lines("pmc2-cloud")])
        assert fingerprint(folder, "edge") != fingerprint(before, "edge")
        for served in (both.edge, both.cloud):
            with pytest.raises(ssl.SSLCertVerificationError):  # the old authority has not signed the new certificate
                ask(served.url, "/v2/health/live", certs=before)
        for role in ROLES:
            shutil.copy(folder / "ca.pem", before / role)  # trusts the new authority, and shows a certificate of the old one
        assert not gets_in(both.edge.url, before, "client")
        assert not gets_in(both.cloud.url, before, "edge")


def shown_by(served: Served) -> str:
    with contextlib.suppress(OSError):  # a renewal closes new connections, too
        return ssl.get_server_certificate(("127.0.0.1", int(served.url.rpartition(":")[2])), timeout=30)
    return ""


def test_certificates_replaced_during_the_start_are_shown(tmp_path: Path, networks: Pair, digits: Dataset) -> None:
    folder = tmp_path / "certs"
    issue(folder)
    tls = Tls(server_context(folder, "cloud"), folder, "cloud")
    issue(folder)  # while the networks are loaded
    with serving(cloud_of(networks, CODEC, digits), folder, "cloud", tls=tls) as served:
        until(lambda: shown_by(served) == (folder / "cloud" / "cloud.pem").read_text(), patience=5)


def test_files_in_the_midst_of_a_renewal_are_looked_at_again(
    tmp_path: Path, networks: Pair, digits: Dataset, files: list[bytes], logged: Log
) -> None:
    folder, later = tmp_path / "certs", tmp_path / "later"
    issue(folder)
    shutil.copytree(folder, later)
    issue(later)
    with both_of(networks, CODEC, digits, folder) as both:
        shutil.copy(later / "cloud" / "cloud.key", folder / "cloud")  # does not match the certificate that is still there
        until(lambda: "the certificate of cloud was not renewed" in logged.text)
        assert gets_in(both.cloud.url, folder, "edge")
        shutil.copy(later / "cloud" / "cloud.pem", folder / "cloud")
        until(lambda: "the certificate of cloud was renewed" in logged.text)
        assert ask(both.edge.url, "/recognize", files[0], folder).status == 200


def test_a_certificate_that_only_openssl_reads_is_not_served(
    tmp_path: Path, networks: Pair, digits: Dataset, logged: Log
) -> None:
    folder = tmp_path / "certs"
    issue(folder)
    first = (folder / "cloud" / "cloud.pem").read_text()
    with serving(cloud_of(networks, CODEC, digits), folder, "cloud") as served:
        as_trusted(folder / "cloud" / "cloud.pem")
        until(lambda: "the certificate of cloud was not renewed: the certificate " in logged.text)
        assert shown_by(served) == first
        issue(folder)
        until(lambda: shown_by(served) == (folder / "cloud" / "cloud.pem").read_text(), patience=10)


def test_plain_http_is_served_on_loopback_alone(networks: Pair, digits: Dataset) -> None:
    service = cloud_of(networks, CODEC, digits, plain=True)
    with Listener.open("127.0.0.1:0").socket as taken:
        for host in ("0.0.0.0", "::", "192.0.2.1", "edge.example", ""):
            with pytest.raises(UsageError, match="plain HTTP is served on loopback alone"):
                server_of(service, Listener(taken, host, 1), None)
    assert all(map(is_loopback, ("127.0.0.1", "127.5.5.5", "::1", "[::1]", "localhost")))


def test_plain_http_must_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("edge", "cloud"):
        assert main(["serve", what, "--listen", "127.0.0.1:0"]) != 0
        assert "give --certs DIR (made by `workbench certs DIR`), or --plain-http on loopback" in capsys.readouterr().err


def test_a_service_that_ends_leaves_signals_as_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["serve", "cloud", "--certs", str(tmp_path), "--listen", "127.0.0.1:0"]) != 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("url", "plain"), [("http://127.0.0.1:1", False), ("http://192.0.2.1:1", True), ("http://edge", True)])
def test_plain_http_is_spoken_on_loopback_and_on_request_alone(certs: Path, url: str, plain: bool) -> None:
    with pytest.raises(UsageError, match="is plain HTTP, which is only used on this machine"):
        HttpsClient(url, certs=certs, plain=plain)
    with pytest.raises(UsageError, match="is plain HTTP"):
        Connection(url, None, plain=plain)


def test_plain_http_works_where_it_is_asked_for(networks: Pair, digits: Dataset, files: list[bytes]) -> None:
    with (
        serving(cloud_of(networks, CODEC, digits, plain=True), None, "cloud") as cloud,
        serving(edge_of(networks, CODEC, digits, cloud.url, None, plain=True), None, "edge") as edge,
        HttpsClient(edge.url, plain=True) as client,
    ):
        assert client.recognise_files(files[:3]).scores.shape == (3, 10)


def test_a_plain_service_with_a_token_asks_for_it(networks: Pair, digits: Dataset) -> None:
    cloud = cloud_of(networks, CODEC, digits, plain=True, token=Token(SECRET.encode()))
    with serving(cloud, None, "cloud") as served:
        assert ask(served.url, "/metrics").status == 401
        assert ask(served.url, "/metrics", headers={"Authorization": f"Bearer {SECRET}"}).status == 200
