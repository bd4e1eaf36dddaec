"""The one patch of ipykernel that `explore` needs: messages to its widget are handled while a cell runs.

The page sends messages on a subshell (JEP 91), whose thread handles them next to running cells. ipykernel 7.4 instead uses the
thread that last sent a message for the widget. At first that is the cells' thread, which created the widget. Without the patch
no view would appear before the cell ends.
"""

from __future__ import annotations

import ipywidgets

__all__ = ["handle_on_subshell"]


def handle_on_subshell(widget: ipywidgets.Widget) -> None:
    """Handle a widget's messages on the subshell that the page requests, even while a cell runs."""
    if hasattr(widget.comm, "_reply_subshell_for"):  # ipykernel has no public interface for this
        widget.comm._reply_subshell_for = lambda _, requested: requested
