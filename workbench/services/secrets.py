"""Fetch the certificates and the key of a service from a key broker, when the service starts.

The broker releases these files only to an attested guest. A guest is a confidential VM. To attest the guest, the broker
verifies a report on the guest's software, which the processor has signed.

::

    edge --loopback--> Confidential Data Hub --evidence--> key broker --encrypted to the guest--> ca.pem, edge.pem, edge.key

The host, which runs the guest, sees neither the key nor the traffic that the key protects. Write the files to a folder in the
guest's memory, not on a disk.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
from pathlib import Path

from ..certs import Role
from ..errors import ServiceError, UsageError
from ..storage import replacing
from .attestation_agent import agent_at

__all__ = ["fetch"]

MOST = 64 << 10  # limit of each file, in bytes
ATTEMPT_S = 30.0  # limit of one request: the guest may have to be attested first
PAUSE_S = 0.2  # between two attempts
PEM_MARKS = {"pem": b"-----BEGIN CERTIFICATE-----", "key": b"PRIVATE KEY-----"}


def fetch(agent_url: str, resource: str, folder: Path, role: Role = "edge", patience: float = 60.0) -> list[Path]:
    """Fetch ca.pem, ROLE.pem and ROLE.key from the key broker, write them to `folder`, and return their paths.

    `resource` is the start of the files' names at the broker, REPOSITORY/TYPE. `agent_url` is the URL of the guest's own API,
    http on loopback. All three requests together get `patience` seconds. Only the owner of the written files can read them.
    If the broker does not release one of the files, no file is written.

    Raises UsageError for an invalid URL or resource, and ServiceError if a file is not released in time.
    """
    host, port = agent_at(agent_url)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", resource, re.ASCII):
        raise UsageError(f"resource {resource!r} must be REPOSITORY/TYPE, such as default/pmc2-edge")
    deadline = time.monotonic() + patience
    names = ["ca.pem", f"{role}.pem", f"{role}.key"]
    found = {name: _resource(host, port, f"{resource}/{name}", deadline) for name in names}
    for name, content in found.items():
        with replacing(folder / name, mode=0o600) as temporary:
            temporary.write_bytes(content)
    return [folder / name for name in names]


def _resource(host: str, port: int, path: str, deadline: float) -> bytes:
    # retry, because the Confidential Data Hub may start after the edge
    while True:
        limit = min(deadline, time.monotonic() + ATTEMPT_S)
        try:
            status, content = _get(host, port, f"/cdh/resource/{path}", limit)
            break
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() + PAUSE_S >= deadline:
                raise ServiceError(
                    f"no {path}: the guest's data hub at {host}:{port} does not answer ({type(error).__name__}); "
                    "is this a guest, and does it have agent.guest_components_rest_api=all?"
                ) from None
            time.sleep(PAUSE_S)
    if status != 200:
        raise ServiceError(
            f"no {path}: the guest's data hub answered HTTP {status}; is the resource at the key broker, and does its policy "
            "release it to this guest?",
            status=status,
        )
    if len(content) > MOST or PEM_MARKS[path.rpartition(".")[2]] not in content:
        raise ServiceError(f"no {path}: what the key broker released is not PEM of at most {MOST >> 10} KiB")
    return content


def _get(host: str, port: int, path: str, deadline: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=max(0.1, deadline - time.monotonic()))
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        content = b""
        while len(content) <= MOST and (part := response.read1(MOST)):
            content += part
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length and len(content) <= MOST:
            raise http.client.IncompleteRead(b"")
        return response.status, content
