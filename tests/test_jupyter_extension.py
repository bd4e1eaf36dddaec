"""The workbench's additions to a Jupyter server, in a real one with a real kernel behind a real WebSocket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from workbench.panels.app import config
from workbench.panels.jupyter_extension import COMPUTING, at_once

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
# A server with the environment's own configuration. It prints whether TCP_NODELAY is set on the connection to the page.
SERVER = """
import asyncio, json, socket, sys
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection as Connection
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

async def main():
    app = ServerApp()
    app.initialize(["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=t", *sys.argv[1:]])
    address = f"127.0.0.1:{app.port}/api/kernels"
    made = await AsyncHTTPClient().fetch(f"http://{address}?token=t", method="POST", body="{}", request_timeout=60)
    page = await websocket_connect(f"ws://{address}/{json.loads(made.body)['id']}/channels?token=t&session_id=s")
    try:
        assert await asyncio.wait_for(page.read_message(), 60)
        (connection,) = Connection._open_sockets
        stream = connection.websocket_handler.ws_connection.stream
        print(json.dumps(bool(stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))))
    finally:
        page.close()
        await app._cleanup()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], True),
        pytest.param(
            ["--ServerApp.jpserver_extensions={'workbench.panels.jupyter_extension': False}"], False, marks=pytest.mark.system
        ),
    ],
)
def test_a_kernels_messages_go_out_at_once(more: list[str], expected: bool, tmp_path: Path) -> None:
    places = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    done = subprocess.run(
        [sys.executable, "-c", SERVER, f"--ServerApp.root_dir={tmp_path}", *more],
        env={**os.environ, **places, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is expected


class Handler:
    delayed = True

    def set_nodelay(self, value: bool) -> None:
        self.delayed = not value


def test_a_servers_own_class_of_connections_stays_what_it_is() -> None:
    class Own:
        def __init__(self) -> None:
            self.websocket_handler = Handler()

        def connect(self) -> str:
            return f"connected, delayed: {self.websocket_handler.delayed}"

    made: Any = at_once(Own)()
    assert isinstance(made, Own)
    assert made.connect() == "connected, delayed: False"


def test_the_page_without_code_says_at_once_what_a_kernel_says() -> None:
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

    connection = config(NOTEBOOKS / "explore.ipynb", {})["Voila"]["kernel_websocket_connection_class"]
    assert issubclass(connection, ZMQChannelsWebsocketConnection)
    assert connection.connect is not ZMQChannelsWebsocketConnection.connect


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", False),
        *(
            pytest.param(name, False, marks=pytest.mark.system)
            for name in ("no such.ipynb", ".", f"{NOTEBOOKS}/bandwidth.ipynb")
        ),
        pytest.param(f"{NOTEBOOKS}/explore.ipynb", True, marks=pytest.mark.system),
    ],
)
def test_a_kernel_preloads_what_its_notebooks_panel_needs(name: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", name)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    code = "import sys, threading; from workbench.panels import jupyter_extension"
    waited = f"[each.join() for each in threading.enumerate() if each.name == {COMPUTING!r}]"
    manager, client = start_new_kernel()
    try:
        said = f"{COMPUTING!r} in sys.modules"
        reply = client.execute_interactive(code, user_expressions={"w": waited, "said": said}, timeout=120)
        assert reply["content"]["user_expressions"]["said"]["data"]["text/plain"] == str(expected)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
