"""The container's own command as a process: it fetches its certificates from the guest's hub, and answers a cluster's probes."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.servers import answering, send
from tests.support.waiting import until
from workbench.certs import issue
from workbench.deployment.kubernetes.guest import AGENT, CERTS, PROGRAM, Container

CONTAINER = Container(
    "registry.example/pmc2-edge@sha256:" + "a" * 64,
    "127.0.0.1:9",
    kbs_url="http://127.0.0.1:8080",
    resource="default/pmc2-edge",
    options=("--dataset", "digits", "--auxiliary", "mobilenet_v2"),
)


@pytest.mark.system
def test_the_container_fetches_its_key_and_answers_probes(tiny_data: Path, tmp_path: Path) -> None:
    released, folder, port_file = tmp_path / "released", tmp_path / "certs", tmp_path / "port"
    issue(released)

    def release(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, (released / "edge" / handler.path.removeprefix("/cdh/resource/default/pmc2-edge/")).read_bytes())

    with answering(release) as url:
        serve(url, folder, port_file, tmp_path / "log")
        assert (folder / "edge.key").read_bytes() == (released / "edge" / "edge.key").read_bytes()


def serve(url: str, folder: Path, port_file: Path, log: Path) -> None:
    """Run the container's command with the guest's API at `url`, until it was probed."""
    here = {AGENT: url, CERTS: str(folder), "0.0.0.0:8443": "127.0.0.1:0"}
    command = [here.get(each, each) for each in CONTAINER.command if each != PROGRAM]
    with log.open("wb") as errors:
        edge = subprocess.Popen([sys.executable, "-m", "workbench", *command, "--port-file", str(port_file)], stderr=errors)

    def answered() -> tuple[int, int] | None:
        assert edge.poll() is None, log.read_text()
        return probed(port_file)

    try:
        assert until(answered, 120) == (200, 401)
    finally:
        edge.terminate()
        ended = edge.wait(60)
    assert ended == 0


def probed(port_file: Path) -> tuple[int, int] | None:
    """Send probes like a kubelet's: trust any certificate and show none. Return None while nothing answers."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        port = int(port_file.read_text())
        found = []
        for path in ("/v2/health/live", "/metrics"):
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
            connection.request("GET", path)
            found.append(connection.getresponse().status)
            connection.close()
        return found[0], found[1]
    except (OSError, ValueError):
        return None
