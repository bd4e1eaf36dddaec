"""A patch of ipykernel for `explore`: the kernel handles messages to the widget even while a cell runs.

The page requests that its messages are handled on a subshell (JEP 91). A subshell is a thread of the kernel that works while a
cell runs. But ipykernel 7.4 uses the thread that last sent a message for the widget. At first, this is the cell's thread, which
created the widget. Without the patch, no view would appear before the cell ends.
"""

from __future__ import annotations

import ipywidgets

__all__ = ["handle_on_subshell"]


def handle_on_subshell(widget: ipywidgets.Widget) -> None:
    """Make the kernel handle messages to `widget` on the subshell that the page requests, even while a cell runs."""
    if hasattr(widget.comm, "_reply_subshell_for"):  # ipykernel has no public interface for this
        widget.comm._reply_subshell_for = lambda _, requested: requested
