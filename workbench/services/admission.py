"""Check an edge before a client sends pictures: verify the edge's attestation evidence on every new connection.

A guest is the confidential VM in which the edge runs. Evidence is a report on the guest's software. The report contains a hash
of the client's nonce N and the edge's TLS key K, and is signed by the processor.

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
    """Return a function that checks a new connection: the edge's evidence must satisfy `policy`.

    The function calls `on_verdict` with the verdict on valid evidence, and raises AttestationError for other evidence. If the
    edge has no evidence yet, the function raises ConnectionError, so that the client retries.
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
