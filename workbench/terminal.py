"""Make text from outside safe to print: file names, class names, output of other machines."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]


def printable(text: object, keep: str = "") -> str:
    r"""Return `str(text)`, but escape every character that could mislead a terminal or a reader, as in ``\x1b``.

    These characters do not print: control and formatting characters, separators of lines and paragraphs, surrogates, private
    and unassigned code points. `keep` names characters to keep: ``"\n"`` for a text of several lines.
    """
    whole = str(text)
    if whole.isascii() and whole.isprintable():
        return whole
    return "".join(
        each
        if each in keep or each.isprintable() or unicodedata.category(each) == "Zs"  # isprintable() accepts no wide spaces
        else each.encode("unicode_escape").decode("ascii")
        for each in whole
    )
