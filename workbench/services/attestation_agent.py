"""Get evidence from the attestation agent, a process in the edge's guest. A queue limits the agent's concurrent requests.

A guest is a confidential VM. Evidence is a report on the guest's software, which the processor signs. A nonce is random bytes
from a client. The report contains a hash of the nonce and of the edge's TLS key.

::

    client --nonce--> edge --SHA-256 of nonce and TLS key--> agent --report_data--> firmware        (for each nonce)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter

from starlette.requests import Request
from starlette.responses import Response

from ..attest import MOST_EVIDENCE, runtime_data
from ..errors import ProtocolError, ServiceError, UsageError
from .admission import PATH
from .http import get_once, split_url, without_secrets
from .quota import address_key
from .trust import Peer, is_loopback

__all__ = ["AGENT", "AttestationAgent", "agent_at", "evidence_of"]

AGENT = "http://127.0.0.1:8006"  # its URL in a confidential container
AROUND = 64  # bytes that the edge's response adds to the evidence
AT_ONCE, MOST_WAITING = 4, 256  # requests that the agent has, and requests in all: the firmware processes one at a time
MOST_STRANGERS, MOST_OF_ADDRESS = 64, 4  # waiting requests of clients without a credential, in all and of one address
NONCES = re.compile("(?:[0-9a-fA-F]{2}){16,64}")
PATIENCE_S = 8.0  # for one response; shorter than a client's attempt


class AttestationAgent:
    """The attestation agent at `url`, which must be on loopback. Raises UsageError for any other URL.

    An agent on another machine could return evidence of another guest. A request fails after `patience_s` seconds.
    """

    def __init__(self, url: str = AGENT, patience_s: float = PATIENCE_S) -> None:
        self.host, self.port = agent_at(url)
        self.patience_s = patience_s
        self._free, self._waiting = asyncio.Semaphore(AT_ONCE), 0
        self._strangers: Counter[str] = Counter()  # waiting requests, by address

    async def evidence(self, runtime_data: bytes, stranger: str | None = None) -> bytes:
        """Return the agent's evidence (JSON) for `runtime_data`. Raises ServiceError if there is no evidence.

        `runtime_data` is the hash of nonce and TLS key (64 hex digits), which the report contains. `stranger` is the address of
        a client that has shown no credential, else None. The queue for the agent has only a limited number of places for
        strangers.
        """
        crowded = stranger is not None and (
            self._strangers[stranger] >= MOST_OF_ADDRESS or self._strangers.total() >= MOST_STRANGERS
        )
        if crowded or self._waiting >= MOST_WAITING:
            raise ServiceError("too many ask for evidence", status=429, retry_after=1)
        self._waiting += 1
        if stranger is not None:
            self._strangers[stranger] += 1
        try:
            async with asyncio.timeout(self.patience_s), self._free:
                path = f"/aa/evidence?runtime_data={runtime_data.decode('ascii')}"
                answer = await get_once(self.host, self.port, path, MOST_EVIDENCE - AROUND)
        except TimeoutError:
            raise ServiceError(f"the attestation agent did not answer in {self.patience_s:g} s", status=504) from None
        except OSError as error:
            raise ServiceError(f"the attestation agent gives no answer ({error.strerror or error})", status=503) from None
        finally:
            self._waiting -= 1
            if stranger is not None:
                self._strangers[stranger] -= 1
                self._strangers += Counter()  # drops addresses without waiting requests
        if answer.status != 200:
            raise ServiceError(f"the attestation agent has no evidence (status {answer.status})", status=502)
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(json.loads(answer.body.decode("utf-8")), dict):
                return answer.body
        raise ServiceError("the attestation agent did not answer with a JSON object", status=502)


async def evidence_of(agent: AttestationAgent | None, http: Request, admitted: bool = True) -> Response:
    """Return the response to `http`, a client's request for evidence.

    The evidence contains a hash of the nonce in the request and of the TLS key of the connection. `admitted` means that the
    client has shown a credential. Raises ProtocolError for an invalid nonce, and ServiceError 404 if there is no agent or no
    TLS.
    """
    nonce = _nonce(http)
    peer: Peer = http.scope.get("peer", Peer())
    if agent is None:
        raise ServiceError("this edge has no attestation agent: start it with --attestation-agent in a guest", status=404)
    if not peer.shown:
        raise ServiceError("plain HTTP has no TLS key that evidence could be bound to: start the edge with --certs", status=404)
    stranger = None if admitted else address_key(http.scope.get("client"))
    evidence = await agent.evidence(runtime_data(nonce, peer.shown), stranger)
    return Response(b'{"evidence":' + evidence + b"}", media_type="application/json")


def agent_at(url: str) -> tuple[str, int]:
    """Return the host and the port of an agent's URL. Raises UsageError for any URL except http://HOST:PORT on loopback."""
    parts = split_url(url)
    if parts is None or not parts[0].startswith("http:") or not is_loopback(parts[1]):
        raise UsageError(f"{without_secrets(url)!r:.100} is no attestation agent of this guest: write {AGENT}")
    return parts[1:]


def _nonce(http: Request) -> bytes:
    (name, text), *more = http.query_params.multi_items() or [("", "")]
    if name != "nonce" or more or not NONCES.fullmatch(text):
        raise ProtocolError(f"ask for {PATH}?nonce=, 16 to 64 bytes in hexadecimal, and nothing else")
    return bytes.fromhex(text)
