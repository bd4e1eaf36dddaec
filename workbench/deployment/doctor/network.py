"""Check the connections of a machine: to the cloud, the key broker and the image registry, and port forwarding over SSH.

A key broker gives a container its TLS key.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ...errors import RemoteError
from ...remote import Host
from ..kubernetes.guest import Container
from ..plan import Which
from .findings import Finding, ok, unknown, wrong

__all__ = ["forwarding_finding", "network_findings", "reachable_from_here"]

ANSWER_S = 5.0


def network_findings(machine: str, which: Which, container: Container | None, found: Mapping[str, Any]) -> list[Finding]:
    """Check the connections from a machine to the cloud, to the key broker and to the image registry.

    `found` is the output of `agent/inventory.py` on the machine. It has the result of each connection attempt. `which` is the
    stage (edge or cloud) on the machine.
    """
    findings = [_reached(machine, place, answer) for place, answer in found["reach"].items()]
    if container is not None:
        if found["broker"]:
            findings.append(_broker(machine, which, container.kbs_url, found["broker"]))
        if found["image"]:
            findings.append(_image(machine, which, container, found["image"]))
    return findings


def _reached(machine: str, place: str, answer: str) -> Finding:
    if answer in ("open", "refused"):
        return ok(machine, "cloud", f"reaches {place}{', but nothing listens yet' if answer == 'refused' else ''}")
    way = "open that port in the firewall between them, or correct [cloud] address"
    return wrong(machine, "cloud", f"does not reach the cloud at {place} ({answer})", way)


def _broker(machine: str, which: Which, url: str, answer: Mapping[str, Any]) -> Finding:
    if "status" in answer:
        return ok(machine, "key broker", f"reaches the key broker at {url}")
    way = f"`curl -v {url}/healthz` there; start the broker, open its port, or correct [{which}.container] kbs and kbs_cert"
    return wrong(machine, "key broker", f"does not reach the key broker at {url} ({answer['error']})", way)


def _image(machine: str, which: Which, container: Container, answer: Mapping[str, Any]) -> Finding:
    image, registry = container.image, answer["registry"]
    short = image[: image.index("@sha256:") + 20] + "..."
    if "error" in answer:
        way = f"`curl -v https://{registry}/v2/` there; let it and the guest (egress) reach the registry"
        return wrong(machine, "image", f"does not reach the registry {registry} ({answer['error']})", way)
    if answer["status"] == 200 and answer["same"]:
        return ok(machine, "image", f"reaches {short} by its digest")
    if answer["status"] == 200:
        way = "take another registry: this one answers with something else than was requested"
        return wrong(machine, "image", f"is given another image than {short}", way)
    if answer["status"] == 404:
        way = f"`podman push --digestfile digest ...`, and write that digest into [{which}] image"
        return wrong(machine, "image", f"finds no {short} in its registry", way)
    if answer["status"] in (401, 403):
        way = "make it public, or release the registry's credentials to the guest through its key broker"
        return wrong(machine, "image", f"may not read {short} without credentials (HTTP {answer['status']})", way)
    return unknown(machine, "image", f"is answered HTTP {answer['status']} by the registry for {short}", "try again later")


def forwarding_finding(host: Host, connection: str, back: bool = False) -> Finding:
    """Check whether the sshd of `host` forwards ports.

    The check forwards a local port to the sshd itself, and expects an SSH greeting. `connection` is the value of SSH_CONNECTION
    on the host, which has the sshd's address. With `back`, the check also forwards a port of the host to this machine.
    """
    way = "set AllowTcpForwarding yes in its sshd_config, then `sudo systemctl reload ssh` there"
    parts = connection.split()
    if len(parts) != 4 or not parts[3].isdigit():
        return unknown(host.name, "forwarding", "does not tell where its sshd listens", way)
    try:
        forward = host.forward(int(parts[3]), parts[2])
        with socket.create_connection(("127.0.0.1", forward.port), ANSWER_S) as link:
            greeting = link.recv(4)
        if back:
            host.reverse(("127.0.0.1", 9)).close()
    except (OSError, RemoteError):
        greeting = b""
    if not greeting:
        return wrong(host.name, "forwarding", "does not forward ports over SSH, by which the stages are reached", way)
    return ok(host.name, "forwarding", "forwards ports over SSH")


def reachable_from_here(machine: str, which: Which, address: str) -> Finding:
    """Check whether this machine can connect to a stage (edge or cloud). `address` is the stage's HOST:PORT in the plan."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except ConnectionRefusedError:
        return ok(machine, "address", f"is reached at {address}, but nothing listens yet")
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        way = f"open that port, correct [{which}] address, or leave it out: then it is reached through SSH"
        return wrong(machine, "address", f"is not reached at {address} from here ({reason})", way)
    return ok(machine, "address", f"is reached at {address}")
