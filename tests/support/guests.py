"""A guest whose agent gives evidence over HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.servers import answering, send
from tests.support.snp import processor

NONCE = "ab" * 32
WHERE = f"/attestation?nonce={NONCE}"
OURS = processor()
Give = Callable[[bytes], Any]


class Guest:
    def __init__(self) -> None:
        self.url, self._lock = "", threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.asked: list[bytes] = []
        self.give: Give = OURS.evidence
        self.status = 200
        self.waits: Callable[[], Any] = lambda: None
        self.at_once, self.most_at_once = 0, 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        (data,) = parse_qs(parts.query, strict_parsing=True)["runtime_data"]
        with self._lock:
            self.asked.append(data.encode())
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.waits()
            given = self.give(data.encode()) if parts.path == "/aa/evidence" else {}
            body = given if isinstance(given, bytes) else json.dumps(given).encode()
        finally:
            with self._lock:  # before the response is sent, since its receiver may trigger the next request
                self.at_once -= 1
        send(handler, self.status, body)


@contextlib.contextmanager
def guest_of() -> Iterator[Guest]:
    guest = Guest()
    with answering(guest.answer) as guest.url:
        yield guest


POLICY = OURS.policy(chain=())
