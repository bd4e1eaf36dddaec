"""Impersonation: every pair of a connection and a certificate's role, on real TLS."""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import logging
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
import torch

from tests.support.authority import sign
from tests.support.servers import accepting
from tests.support.services import SECRET, Served, cloud_of, edge_of, serving
from workbench import certs as certificates
from workbench.certs import ROLES, Role
from workbench.client import HttpsClient
from workbench.codecs import Png
from workbench.commands.serve import _warn_of_other_keys
from workbench.data import Dataset
from workbench.errors import ServiceError, UsageError
from workbench.services.connection import Connection
from workbench.services.trust import Token, client_context, server_context
from workbench.system import Edge
from workbench.weights import Pair

FORGED = {  # by the same authority, without a role of a service
    "no role": {"uris": ()},
    "two roles": {"uris": ("urn:pmc2:edge", "urn:pmc2:cloud")},
    "another word": {"uris": ("urn:pmc2:Edge", "urn:pmc2:edge2", "pmc2:edge")},
    "edge without a use": {"uris": ("urn:pmc2:edge",), "uses": None},
    "cloud without a use": {"uris": ("urn:pmc2:cloud",), "uses": None},
}


REFUSALS = ("for the edge alone", "for the cloud alone", "unsuitable certificate purpose")


@pytest.fixture(scope="module")
def shown(certs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    root = tmp_path_factory.mktemp("shown")
    kinds = {str(role): (certs / role, str(role)) for role in ROLES}
    for kind, options in FORGED.items():
        kinds[kind] = sign(certs, root / kind, "own", **options), "own"  # type: ignore[arg-type]
    kinds["client with a server's names"] = sign(certs, root / "client", "own", uris=["urn:pmc2:client"]), "own"
    return kinds


@contextlib.contextmanager
def impostor(folder: Path, name: str) -> Iterator[tuple[str, Queue[bytes]]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    received: Queue[bytes] = Queue()

    def serve(plain: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
            data = connection.recv(1 << 16)
        received.put(data)

    with accepting(serve) as port:
        yield f"https://127.0.0.1:{port}", received


KINDS = [*ROLES, *FORGED, "client with a server's names"]
CONNECTIONS = ("client", "client with a token", "phone that protects", "edge", "readiness")


@pytest.mark.parametrize(
    ("connection", "kind"),
    [*((connection, role) for connection in CONNECTIONS for role in ROLES), *(("edge", kind) for kind in KINDS[len(ROLES) :])],
)
def test_a_connection_sends_a_service_of_another_role_nothing(
    networks: Pair,
    digits: Dataset,
    certs: Path,
    files: list[bytes],
    shown: dict[str, tuple[Path, str]],
    connection: str,
    kind: str,
) -> None:
    wanted: Role = "edge" if connection.startswith("client") or connection == "readiness" else "cloud"
    codec = Png()

    def connect(url: str) -> None:
        if connection == "edge":
            asyncio.run(asked(edge_of(networks, codec, digits, url, certs).cloud))
        elif connection == "phone that protects":
            with HttpsClient(url, certs=certs, protects=Edge(networks.generator, codec), deadline_s=1.0) as client:
                client.recognise(torch.rand(1, 3, 32, 32))
        elif connection == "readiness":
            urllib.request.urlopen(f"{url}/v2/health/ready", context=client_context(certs, "client", "edge"), timeout=5)
        else:
            token = Token(SECRET.encode()) if "token" in connection else None
            with HttpsClient(url, certs=certs, token=token, deadline_s=1.0) as client:
                client.recognise_files(files[:1])

    with impostor(*shown[kind]) as (url, received):
        with pytest.raises((ServiceError, OSError)) as caught:
            connect(url)
        refused = any(words in str(caught.value) for words in REFUSALS)
        assert refused == (kind != wanted), str(caught.value)
        assert bool(received.get(timeout=10)) == (kind == wanted)


async def asked(connection: Connection) -> None:
    async with connection:
        await connection.call("GET", "/v2")


@pytest.fixture(scope="module")
def services(networks: Pair, digits: Dataset, certs: Path) -> Iterator[dict[str, Served]]:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(serving(cloud_of(networks, Png(), digits, roles=("edge",)), certs, "cloud"))
        phones = stack.enter_context(serving(cloud_of(networks, Png(), digits, roles=("client",)), certs, "cloud"))
        inner = edge_of(networks, Png(), digits, cloud.url, certs, token=Token(SECRET.encode()))
        edge = stack.enter_context(serving(inner, certs, "edge", demand=False))
        yield {"edge": edge, "cloud": cloud, "cloud of phones": phones}


CLIENTS = {"edge": "client", "cloud": "edge", "cloud of phones": "client"}


@pytest.mark.parametrize(
    ("service", "kind"),
    [
        *((service, role) for service in CLIENTS for role in ROLES),
        *(("cloud", kind) for kind in FORGED),
        *(("edge", kind) for kind in ("no role", "two roles", "edge without a use")),
        *((service, KINDS[-1]) for service in CLIENTS),
    ],
)
def test_a_service_answers_the_role_of_its_clients_alone(
    services: dict[str, Served], certs: Path, shown: dict[str, tuple[Path, str]], service: str, kind: str
) -> None:
    folder, name = shown[kind]
    context = client_context(certs, None)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    status = 0  # refused in the handshake
    try:
        with urllib.request.urlopen(f"{services[service].url}/v2/models/resnet18", context=context, timeout=10) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except OSError:
        pass
    welcome = kind.partition(" ")[0] == CLIENTS[service] and kind in (CLIENTS[service], "client with a server's names")
    assert status in ((200,) if welcome else (0, 401, 403))


def test_every_client_context_of_the_workbench_demands_a_role() -> None:
    calls = 0
    texts = {path: path.read_text(encoding="utf-8") for path in Path(certificates.__file__).parent.rglob("*.py")}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)) if "client_context" in text else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "client_context":
                calls += 1
                shares_a_folder = path.name == "trust.py"  # `rotate` only loads it
                assert shares_a_folder or len(node.args) == 3, f"{path}:{node.lineno}"
    assert calls >= 7


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_folder_alone_is_enough_for_its_host(certs: Path, tmp_path: Path, role: Role) -> None:
    own = tmp_path / "certs"
    shutil.copytree(certs / role, own)
    client_context(own, role, "cloud" if role == "edge" else "edge")
    if role != "client":
        server_context(own, role)
    other: Role = "edge" if role != "edge" else "cloud"
    with pytest.raises(UsageError, match=f"is the folder of the {role} and has no {other}.pem"):
        server_context(own, other)


@pytest.mark.parametrize(
    ("part", "listen", "warned"),
    [("", "0.0.0.0:8443", True), ("", "127.0.0.1:0", False), ("", None, False), ("cloud", "0.0.0.0:8443", False)],
)
def test_a_public_service_warns_of_the_keys_of_other_roles(
    certs: Path, caplog: pytest.LogCaptureFixture, part: str, listen: str | None, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING, "workbench.services"):
        _warn_of_other_keys(argparse.Namespace(what="cloud", certs=certs / part, listen=listen))
    assert (f"copy and name {certs / 'cloud'} alone" in caplog.text) == warned
