"""Foreign text, made safe to print: file names, class names, and the words of other machines."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

SPACES = {"Zs"}  # Unicode's space separators print as spaces, though str.isprintable() refuses all but the ASCII one


def printable(text: object, keep: str = "") -> str:
    r"""Return `str(text)` with every character that a terminal or a reader could be misled by written as an escape.

    Escaped, as Python's `repr` writes them (``\x1b``, ``\u202e``): control characters (C0, DEL, C1) and so every escape
    sequence, line and paragraph separators, formatting characters (bidirectional overrides, zero-width characters), surrogates
    (undecodable bytes of file names), private and unassigned code points. Everything else, in any script, stays as it is.
    `keep` names control characters to let through: ``"\n"`` for text of several lines.
    """
    whole = str(text)
    if whole.isascii() and whole.isprintable():
        return whole
    return "".join(each if each in keep or _is_plain(each) else _escaped(each) for each in whole)


def _is_plain(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) in SPACES


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
