"""A client's check of an edge: verify its attestation evidence on every new connection, before a picture is sent.

Evidence is a report on the software in the edge's guest (confidential VM), signed by the processor and bound to the TLS key.

::

    client                                edge                             guest's firmware
      | <-- certificate, its key K -------- |
      | --- GET /attestation?nonce=N -----> | --- SHA-256(N, K) -----------> |
      | <-- evidence ---------------------- | <-- report with it, signed --- |        the same N and K as at the client,
      | --- pictures ---------------------> |                                         so the holder of K is that guest
"""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
from collections.abc import Callable
from typing import Any

from ..attest import MOST_EVIDENCE, Policy, Verdict, key_of, runtime_data, verify
from ..attest.report import refusal
from .connection import words_of
from .http import Admission, Ask

__all__ = ["NONCE", "PATH", "admission"]

PATH = "/attestation"
NONCE = 32  # bytes
FOR_NOW = (429, 503, 504)  # temporary: too many requests, or the agent is slow or not started yet


def admission(policy: Policy, on_verdict: Callable[[Verdict], None]) -> Admission:
    """Return a check of new connections, which passes if the edge's evidence satisfies `policy`.

    The check calls `on_verdict` with each verdict. It raises AttestationError, or ConnectionError if the edge has no evidence
    yet, so that the client retries.
    """

    async def admit(ask: Ask, connection: ssl.SSLObject | None) -> None:
        certificate = connection.getpeercert(binary_form=True) if connection is not None else None
        if not certificate:
            raise refusal("TLS certificate", "one that evidence is bound to", "none")
        nonce = secrets.token_bytes(NONCE)
        answer = await ask(f"{PATH}?nonce={nonce.hex()}")
        if answer.status in FOR_NOW:
            raise ConnectionError(f"no evidence for now: {words_of(answer)}")
        if answer.status != 200:
            raise refusal("evidence", "the edge's", f"status {answer.status}: {words_of(answer)}")
        on_verdict(verify(_evidence(answer.body), policy, runtime_data(nonce, key_of(certificate))))

    return admit


def _evidence(body: bytes) -> dict[str, Any]:
    found: Any = None
    if len(body) <= MOST_EVIDENCE:
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(body.decode("utf-8"))
    evidence = found.get("evidence") if isinstance(found, dict) else None
    if not isinstance(evidence, dict):
        wanted = f'{{"evidence": ...}} of at most {MOST_EVIDENCE} bytes'
        raise refusal("evidence", wanted, f"{len(body)} bytes of another form")
    return evidence
