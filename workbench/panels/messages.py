"""What passes between page and kernel besides what is shown: as little as will do, for each message costs the page a frame.

::

    page --a slider's value--> kernel --"busy"--> page      redraws its toolbars: not said for what returns soon
                                      --a view--> page
                                      --"idle"--> page      may send the next value: said once the view is out
                                      --"echo"--> page      for other pages of the notebook: said once the hand rests

One value is under way at a time: a second one on its way made views that the page could not paint in time, each later than the
one before.

What a page sends is handled beside the cells that run, in a thread for the page's widgets ("subshell", JEP 91): a hand need not
wait for a notebook.

A late echo says which message it answers, as an early one does: a page that has sent another since leaves it aside, so that
no slider jumps back under a hand that moves on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets
import traitlets

__all__ = ["FloatSlider", "IntSlider", "beside_cells", "not_busy_for"]

_quiet: set[str] = set()  # widgets, by their comm


class _Unechoed:
    """A slider of which the pages hear by `tell` what was moved in one of them; a move is handled once `settle` returns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.settle: Callable[[], object] = lambda: None
        self._heard: dict[str, dict[str, Any]] = {}  # the header of each page's last message that is not answered yet
        self._hearing = threading.Lock()
        super().__init__(*args, **options)

    def _handle_msg(self, message: dict[str, Any]) -> None:
        header, data = message["header"], message["content"]["data"]
        moved = "value" in data.get("state", ())
        with self._hearing:  # no answer between a message and its value
            if moved:
                self._heard[header["session"]] = header
            super()._handle_msg(message)  # type: ignore[misc]
        if moved:
            self.settle()

    def tell(self) -> None:
        """Let all pages show the value, where one of them has moved it since the last time."""
        with self._hearing:
            for header in self._heard.values():
                _echo(self, header)
            self._heard.clear()


class FloatSlider(_Unechoed, widgets.FloatSlider):  # type: ignore[misc]
    """ipywidgets' own, whose value is not said back at each move."""

    value = traitlets.CFloat(0.0).tag(sync=True, echo_update=False)


class IntSlider(_Unechoed, widgets.IntSlider):  # type: ignore[misc]
    """The same with whole numbers."""

    value = traitlets.CInt(0).tag(sync=True, echo_update=False)


def not_busy_for(quiet: Iterable[widgets.Widget]) -> None:
    """Let this kernel not call itself busy for what these widgets send; outside a kernel there is nothing to do.

    For widgets whose handlers return soon. An "idle" that follows no "busy" changes nothing on the page, but lets it go on.
    """
    kernel = _kernel()
    publish = getattr(kernel, "_publish_status", None)  # ipykernel has no public way
    if kernel is None or publish is None:
        return
    if not _quiet:
        kernel._publish_status = lambda status, channel, *parent: _said(kernel, publish, status, channel, *parent)
    _quiet.update(widget.comm.comm_id for widget in quiet)


def beside_cells(root: widgets.Widget) -> None:
    """Let what this widget and those in it send be handled while cells run, where the page asks for that.

    ipykernel (7.4) would hand it to the thread that spoke last for the widget: that of the cells, which made it.
    """
    if hasattr(root.comm, "_reply_subshell_for"):  # ipykernel has no public way
        root.comm._reply_subshell_for = lambda _, asked: asked
    for each in getattr(root, "children", ()):
        beside_cells(each)


def _kernel() -> Any:
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None)


def _echo(slider: Any, header: dict[str, Any]) -> None:
    """Say a slider's value in answer to a page's message; outside a kernel nobody hears."""
    if (kernel := _kernel()) is None or slider.comm is None:
        return
    data = {"method": "echo_update", "state": {"value": slider.value}, "buffer_paths": []}
    content = {"comm_id": slider.comm.comm_id, "data": data}
    kernel.session.send(kernel.iopub_socket, "comm_msg", content, parent=header, ident=slider.comm.topic)


def _said(kernel: Any, publish: Any, status: str, channel: str, *parent: Any) -> None:
    if status == "busy":
        message = next(iter(parent), None) or kernel.get_parent(channel)
        if message.get("content", {}).get("comm_id") in _quiet:
            return
    publish(status, channel, *parent)
