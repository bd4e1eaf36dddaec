"""Additions to Jupyter: a server sends each message of a kernel at once, a kernel imports torch beforehand.

::

    page --value--> kernel --view---> server -+-> page
                           --"idle"-> server -'           kept back by Nagle's algorithm until the view is acknowledged

A server leaves its WebSockets as TCP makes them. A small message waits until the message before it is acknowledged (RFC 896).
The other end takes up to 40 ms for that if it has nothing to send (RFC 1122, 4.2.3.2). So much later the page gets a view that
follows another message.

    kernel  started ------------- "Run All Cells" -- controls -- view
                    importing torch takes seconds, in which a person reads

`pmc2-workbench.json` and `ipython_kernel_config.json` have every Jupyter server and every kernel of the environment load this
module. `overrides.json` has JupyterLab ask for no news. On the page nothing is added.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

from . import threads

__all__ = ["COMPUTING", "at_once", "load_ipython_extension"]

COMPUTING = "workbench.panels.pipeline"
_CONNECTION = "kernel_websocket_connection_class"


def at_once(connection: type[Any]) -> type[Any]:
    """Return a server's connection class with TCP_NODELAY on the page's side."""

    class AtOnce(connection):  # type: ignore[misc]
        def connect(self) -> Any:
            self.websocket_handler.set_nodelay(True)
            return super().connect()

    return AtOnce


def load_ipython_extension(shell: object) -> None:
    """Import in a thread what panels compute with, in the kernel of a notebook that has a panel."""
    notebook = Path(os.environ.get("JPY_SESSION_NAME", ""))  # a Jupyter server says it, papermill does not
    with contextlib.suppress(OSError, UnicodeError):
        if "workbench.panels" in notebook.read_text("utf-8"):
            threads.start(lambda: importlib.import_module(COMPUTING), COMPUTING)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    settings = server.web_app.settings
    settings[_CONNECTION] = at_once(settings[_CONNECTION])
