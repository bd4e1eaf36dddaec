"""KeyUpdate floods (TLS 1.3): each record makes a service derive keys and maybe respond, so their number is limited."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.support.services import Served, ask, edge_of, is_cut, serving
from tests.support.waiting import until
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.services.accepted import MOST_CONTROL
from workbench.services.trust import Token, client_context
from workbench.weights import Pair

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: edge\r\n\r\n"
HANDSHAKE, APPLICATION_DATA = 0x16, 0x17
KEY_UPDATE_RECORD = 5 + 5 + 1 + 16  # bytes: header, message, content type, tag


class Writer:
    """The client's sending half of an established connection. It writes records that OpenSSL has no call for (RFC 8446)."""

    def __init__(self, connection: socket.socket, secret: bytes) -> None:
        self.connection, self.algorithm = connection, hashes.SHA384() if len(secret) == 48 else hashes.SHA256()
        self.secret = secret
        self._rekey()

    def _expand(self, label: bytes, length: int) -> bytes:
        name = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(self.algorithm, length, info).derive(self.secret)

    def _rekey(self) -> None:
        self.cipher = AESGCM(self._expand(b"key", 32 if self.algorithm.digest_size == 48 else 16))
        self.iv, self.sequence = self._expand(b"iv", 12), 0

    def record(self, kind: int, content: bytes) -> bytes:
        nonce = (int.from_bytes(self.iv, "big") ^ self.sequence).to_bytes(12, "big")
        self.sequence += 1
        head = bytes([APPLICATION_DATA, 3, 3]) + (len(content) + 17).to_bytes(2, "big")
        return head + self.cipher.encrypt(nonce, content + bytes([kind]), head)

    def key_update(self, answer: bool) -> bytes:
        record = self.record(HANDSHAKE, bytes([24, 0, 0, 1, answer]))
        self.secret = self._expand(b"traffic upd", len(self.secret))
        self._rekey()
        return record


@contextlib.contextmanager
def writer_to(url: str, certs: Path, role: str | None, log: Path) -> Iterator[Writer]:
    parts = urlsplit(url)
    context = client_context(certs, role)  # type: ignore[arg-type]
    context.keylog_filename = str(log)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=parts.hostname)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(1 << 16))
            else:
                connection.sendall(outgoing.read())
                break
        lines = dict(line.split(" ", 1) for line in log.read_text().splitlines() if not line.startswith("#"))
        yield Writer(connection, bytes.fromhex(lines["CLIENT_TRAFFIC_SECRET_0"].split()[1]))


@pytest.fixture(scope="module")
def edge(networks: Pair, digits: Dataset, certs: Path) -> Iterator[Served]:
    service = edge_of(networks, Png(), digits, "https://127.0.0.1:9", certs, token=Token(b"a-token-of-the-tests"))
    with serving(service, certs, "edge", demand=False, ready=False) as served:
        yield served


@pytest.mark.parametrize("role", [None, "client"])
def test_a_few_key_updates_are_followed(edge: Served, certs: Path, tmp_path: Path, role: str | None) -> None:
    with writer_to(edge.url, certs, role, tmp_path / "log") as writer:
        for answer in (False, True, False):
            writer.connection.sendall(writer.key_update(answer))
        writer.connection.sendall(writer.record(APPLICATION_DATA, LIVE))
        until(lambda: edge.server.server_state.total_requests)
        edge.server.server_state.total_requests = 0


@pytest.mark.parametrize(
    ("role", "answer", "between"), [(None, False, b""), (None, True, b"y"), ("client", False, b"y"), ("client", True, b"")]
)
def test_a_flood_of_key_updates_is_cut_off(
    edge: Served, certs: Path, tmp_path: Path, role: str | None, answer: bool, between: bytes
) -> None:
    sent, deadline = 0, time.monotonic() + 8
    with writer_to(edge.url, certs, role, tmp_path / "log") as writer:
        writer.connection.sendall(writer.record(APPLICATION_DATA, b"GET / HTTP/1.1\r\nHost: edge\r\nx: "))
        with contextlib.suppress(OSError):
            while len(edge.quota):  # bytes in the sockets' buffers count as sent
                assert time.monotonic() < deadline
                burst = b""
                for _ in range(100):
                    burst += writer.key_update(answer)
                    burst += writer.record(APPLICATION_DATA, between) if between else b""
                writer.connection.sendall(burst)
                sent += 100
        is_cut(writer.connection, 5.0)
    assert sent > MOST_CONTROL // KEY_UPDATE_RECORD // 2
    until(lambda: len(edge.quota) == 0)
    assert ask(edge.url, "/v2/health/live", certs=certs).status == 200


def test_key_updates_while_a_service_works_are_cut_off(edge: Served, certs: Path, tmp_path: Path) -> None:
    head = b"POST /recognize HTTP/1.1\r\nHost: edge\r\nContent-Length: 9\r\n\r\n"
    with writer_to(edge.url, certs, "client", tmp_path / "log") as writer:
        writer.connection.sendall(writer.record(APPLICATION_DATA, head))
        with contextlib.suppress(OSError):
            for _ in range(8 * MOST_CONTROL // KEY_UPDATE_RECORD):
                writer.connection.sendall(writer.key_update(False))
        is_cut(writer.connection, 5.0)
    until(lambda: len(edge.quota) == 0)
