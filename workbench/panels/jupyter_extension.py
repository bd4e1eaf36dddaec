"""Two Jupyter extensions for lower latency: the server sends kernel messages without delay, and kernels import torch early.

::

    page --value--> kernel --view---> server -+-> page
                           --"idle"-> server -'           kept back by Nagle's algorithm until the view is acknowledged

By default a server's WebSockets use Nagle's algorithm: a small message waits until the previous message is acknowledged (RFC
896). A receiver may delay that acknowledgement (RFC 1122, 4.2.3.2), on Linux by about 40 ms. Without this extension, a view
that follows another message would arrive that much later.

    kernel  started ------------- "Run All Cells" -- controls -- view
                    importing torch takes seconds, while the user still reads

Two configuration files load this module into the Python environment's Jupyter servers (`pmc2-workbench.json`) and kernels
(`ipython_kernel_config.json`). A third file, `overrides.json`, disables JupyterLab's news and update checks.
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
    """Return a subclass of `connection` whose WebSocket sends each message without delay (TCP_NODELAY).

    `connection` is the server's class for a WebSocket between a page and a kernel.
    """

    class AtOnce(connection):  # type: ignore[misc]
        def connect(self) -> Any:
            self.websocket_handler.set_nodelay(True)
            return super().connect()

    return AtOnce


def load_ipython_extension(shell: object) -> None:
    """Import torch in a background thread if the kernel's notebook uses `workbench.panels`.

    IPython calls this function when a kernel starts.
    """
    notebook = Path(os.environ.get("JPY_SESSION_NAME", ""))  # set by a Jupyter server, not by papermill
    with contextlib.suppress(OSError, UnicodeError):
        if "workbench.panels" in notebook.read_text("utf-8"):
            threads.start(lambda: importlib.import_module(COMPUTING), COMPUTING)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    settings = server.web_app.settings
    settings[_CONNECTION] = at_once(settings[_CONNECTION])
