"""The attestation agent of the guest that an edge runs in: asked on loopback for evidence, a few at a time, bounded.

::

    client --nonce--> edge --SHA-256 of nonce and TLS key--> agent --report_data--> firmware        one question a nonce
"""

from __future__ import annotations

import asyncio
import json
import re
from urllib.parse import urlsplit

from ..attest import MOST_EVIDENCE
from ..errors import ServiceError, UsageError
from .http import get_once
from .trust import is_loopback

__all__ = ["AGENT", "Agent"]

AGENT = "http://127.0.0.1:8006"  # where a confidential container has it
AROUND = 64  # bytes that the edge puts around evidence
AT_ONCE, MOST_WAITING = 4, 256  # the firmware answers one at a time
PATIENCE_S = 8.0  # for one answer; less than a client has for an attempt


class Agent:
    """At `url`, plain HTTP on loopback: what is beyond the guest's own memory could answer for another guest (UsageError)."""

    def __init__(self, url: str = AGENT, patience_s: float = PATIENCE_S) -> None:
        try:
            parts = urlsplit(url)
            self.host, self.port = parts.hostname or "", parts.port or 80
            valid = parts.scheme == "http" and parts.path in ("", "/") and not (parts.query or parts.username or parts.fragment)
        except ValueError:
            valid, self.host = False, ""
        if not valid or not is_loopback(self.host):
            shown = re.sub("//.*@", "//...@", url).partition("?")[0]  # what stands there may be a secret
            raise UsageError(f"{shown!r:.100} is no attestation agent of this guest: write {AGENT}")
        self.patience_s = patience_s
        self._free, self._waiting = asyncio.Semaphore(AT_ONCE), 0

    async def evidence(self, runtime_data: bytes) -> bytes:
        """Return the agent's evidence, a JSON object, that carries 64 hexadecimal digits; ServiceError where it gives none."""
        if self._waiting >= MOST_WAITING:
            raise ServiceError("too many ask for evidence", status=429, retry_after=1)
        self._waiting += 1
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
        if answer.status != 200:
            raise ServiceError(f"the attestation agent has no evidence (status {answer.status})", status=502)
        if not _is_object(answer.body):
            raise ServiceError("the attestation agent did not answer with a JSON object", status=502)
        return answer.body


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body.decode("utf-8")), dict)
    except (ValueError, RecursionError):
        return False
