"""What the workbench adds to a Jupyter server: each message of a kernel goes out at once.

::

    page --value--> kernel --view---> server -+-> page
                           --"idle"-> server -'           kept back by Nagle's algorithm until the view is acknowledged

A server leaves its WebSockets as TCP makes them: a small message waits until what went before it is acknowledged (RFC 896), and
the other end takes up to 40 ms to do that where it has nothing to say itself (RFC 1122, 4.2.3.2). So much later a page may send
the next value, or sees a view that follows another message. `pmc2-workbench.json`, which is installed along, lets every Jupyter
server of the environment load this; on the page nothing is added.
"""

from __future__ import annotations

from typing import Any

__all__ = ["at_once"]

_CONNECTION = "kernel_websocket_connection_class"


def at_once(connection: type[Any]) -> type[Any]:
    """Return a server's class of connections between a page and a kernel, with TCP_NODELAY on the page's side."""

    class AtOnce(connection):  # type: ignore[misc]
        def connect(self) -> Any:
            self.websocket_handler.set_nodelay(True)
            return super().connect()

    return AtOnce


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    settings = server.web_app.settings
    settings[_CONNECTION] = at_once(settings[_CONNECTION])
