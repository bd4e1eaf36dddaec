"""Secrets from a key broker, over a real small HTTP server as the guest's data hub: fetched completely, or not at all."""

from __future__ import annotations

import re
import socket
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.servers import Answer, answering, send
from workbench.__main__ import main
from workbench.errors import ServiceError, UsageError
from workbench.services.secrets import MOST, fetch
from workbench.services.trust import server_context

RESOURCE = "default/pmc2-edge"


def releasing(certs: Path, asked: list[str] | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if asked is not None:
            asked.append(handler.path)
        send(handler, 200, (certs / "edge" / handler.path.rpartition("/")[2]).read_bytes())

    return answer


def test_a_released_key_is_private_to_its_owner_and_serves(certs: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    folder = tmp_path / "run" / "certs"
    with answering(releasing(certs, asked)) as url:
        written = fetch(url, RESOURCE, folder)
    assert asked == [f"/cdh/resource/{RESOURCE}/{name}" for name in ("ca.pem", "edge.pem", "edge.key")]
    assert sorted(folder.iterdir()) == sorted(written)
    for path in written:
        assert path.read_bytes() == (certs / "edge" / path.name).read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server_context(folder, "edge")


def test_a_cloud_in_a_guest_asks_for_its_own_certificates(
    certs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path.rpartition("/")[2])
        send(handler, 200 if asked[-1] == "ca.pem" else 404, (certs / "ca.pem").read_bytes())

    with answering(answer) as url:
        command = ["serve", "cloud", "--certs", str(tmp_path), "--attestation-agent", url, "--secrets", RESOURCE]
        assert main(command) == 1
    assert asked == ["ca.pem", "cloud.pem"]
    assert "the guest's data hub answered HTTP 404" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_starts_late_is_waited_for(certs: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            fetch(f"http://127.0.0.1:{port}", RESOURCE, tmp_path, patience=30)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive(), "it gave up while nothing answered"
    with answering(releasing(certs), port):
        thread.join(30)
    assert not failures
    assert (tmp_path / "edge.key").is_file()


def test_what_the_broker_does_not_release_leaves_nothing_behind(certs: Path, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith(".key"):
            send(handler, 403, b"policy denies: measurement of the guest")
        else:
            releasing(certs)(handler)

    with answering(answer) as url, pytest.raises(ServiceError, match=r"no default/pmc2-edge/edge\.key: .*HTTP 403") as refusal:
        fetch(url, RESOURCE, tmp_path)
    assert "measurement" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"-----BEGIN CERTIFICATE-----" + b"A" * MOST, b"\0" * (8 * MOST)],
    ids=["empty", "another format", "too long", "much too long"],
)
def test_what_is_no_certificate_is_refused(tmp_path: Path, content: bytes) -> None:
    with (
        answering(lambda handler: send(handler, 200, content)) as url,
        pytest.raises(ServiceError, match=r"ca\.pem: what the key broker released is not PEM of at most 64 KiB"),
    ):
        fetch(url, RESOURCE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_certificate_is_refused(certs: Path, tmp_path: Path) -> None:
    content = (certs / "ca.pem").read_bytes()
    with (
        answering(lambda handler: send(handler, 200, content[:100], len(content))) as url,
        pytest.raises(ServiceError, match="does not answer \\(IncompleteRead\\)"),
    ):
        fetch(url, RESOURCE, tmp_path, patience=0.5)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_never_ends_is_given_up(tmp_path: Path) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(400):
            handler.wfile.write(b"-")
            handler.wfile.flush()
            time.sleep(0.05)

    begun = time.monotonic()
    with answering(drip) as url, pytest.raises(ServiceError, match="does not answer"):
        fetch(url, RESOURCE, tmp_path, patience=0.5)
    assert time.monotonic() - begun < 15


def test_where_nothing_answers_the_line_says_what_a_guest_needs(tmp_path: Path) -> None:
    with answering(lambda handler: None) as url:
        pass
    with pytest.raises(ServiceError, match=r"guest_components_rest_api=all") as refusal:
        fetch(url, RESOURCE, tmp_path, patience=0.5)
    assert "\n" not in str(refusal.value)


def test_only_the_guests_own_loopback_is_asked_for_one_resource(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no attestation agent of this guest"):
        fetch("http://192.0.2.1:8006", RESOURCE, tmp_path)
    for resource in ("default", "default/pmc2/edge", "../x", "default/a b", "default/x?y", ""):
        with pytest.raises(UsageError, match=f"resource '{re.escape(resource)}' must be REPOSITORY/TYPE"):
            fetch("http://127.0.0.1:8006", resource, tmp_path)


def test_no_proxy_is_asked(certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(releasing(certs)) as url:
        assert fetch(url, RESOURCE, tmp_path)
