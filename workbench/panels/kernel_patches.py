"""The only change to ipykernel that the stage needs: controls do not wait for a running cell.

The page's messages are handled next to running cells, in the thread of a subshell (JEP 91). ipykernel 7.4 sends a widget's
messages to the thread that last sent a message for the widget. That is the cells' own thread, which created it. Without this
change no view would appear before the cell ends.
"""

from __future__ import annotations

import ipywidgets

__all__ = ["handle_on_subshell"]


def handle_on_subshell(widget: ipywidgets.Widget) -> None:
    """Handle the page's messages to a widget on the subshell that the page names. Does nothing without a kernel."""
    if hasattr(widget.comm, "_reply_subshell_for"):  # ipykernel has no public interface for this
        widget.comm._reply_subshell_for = lambda _, requested: requested
