"""The one change to ipykernel that the stage needs: a hand does not wait for a running cell.

What a page sends is handled next to the cells that run, in the thread of a subshell (JEP 91). ipykernel 7.4 sends a widget's
messages to the thread that last spoke for the widget. That is the cells' own thread, which created it: without this change no
view comes before the cell ends.
"""

from __future__ import annotations

import ipywidgets

__all__ = ["handle_on_subshell"]


def handle_on_subshell(widget: ipywidgets.Widget) -> None:
    """Handle what the page sends to a widget on the subshell that the page names; without a kernel there is nothing to do."""
    if hasattr(widget.comm, "_reply_subshell_for"):  # ipykernel has no public way
        widget.comm._reply_subshell_for = lambda _, requested: requested
