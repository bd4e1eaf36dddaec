"""Make text from outside safe to print: file names, class names, output of other machines."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]


def printable(text: object, keep: str = "") -> str:
    r"""Return `str(text)` with every character escaped that could mislead a terminal or a reader.

    The escapes are those of Python's `repr` (``\x1b``, ``\u202e``). These are escaped:

    - control characters (C0, DEL, C1), which begin every escape sequence, and separators of lines and paragraphs.
    - formatting characters (bidirectional overrides, zero-width characters).
    - surrogates (undecodable bytes of file names), private and unassigned code points.

    All other characters, in any script, stay unchanged. `keep` names control characters to keep: ``"\n"`` for several lines.
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
