"""Commands for any login shell: sshd hands them to the user's own, be it bash, fish, tcsh or zsh.

::

    words -> letters, digits and =ooo for every other byte -> login shell, which has nothing to interpret
          -> /bin/sh decodes them, prints a mark on both outputs, and becomes the command

Whatever the shell's startup files print comes before the mark, and is dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = ["MarkedOutput", "command_line"]

MOST_GREETING = 1 << 20  # bytes before the mark
PLAIN = re.compile(rb"[^A-Za-z0-9_/.:,-]")

# Within single quotes no shell interprets anything but ' and \, and csh also ! and the end of a line: none of them is in here.
# An unquoted pair of backslashes is one backslash in every shell: $1, from which the octal escapes are made. $2 is the mark.
# A word is its letters between two _, so that it is never empty, no option, and keeps the line ends at its end.
DECODER = (
    "b=$1; m=$2; shift 2; set -f; IFS==; for w do shift; case $w in *=*) x=; for p in $w; do x=${x:+$x$b}$p; done; "
    'w=$(printf "$x");; esac; w=${w#_}; set -- "$@" "${w%_}"; done; unset IFS x p w b; set +f; '
    'printf %s "$m"; printf %s "$m" >&2; unset m; exec "$@"'
)


def command_line(command: Sequence[str], mark: str) -> str:
    """Return a command as any login shell passes it on; its output begins after the mark. `exec` spares a process."""
    return " ".join(["exec /bin/sh -c", f"'{DECODER}'", "sh", r"\\", mark, *map(_encoded, command)])


def _encoded(word: str) -> str:
    return "_" + PLAIN.sub(lambda byte: b"=%03o" % byte[0][0], os.fsencode(word)).decode() + "_"


class MarkedOutput:
    """Drops what comes before the mark. Output without a mark is kept: then something else than the command printed it."""

    def __init__(self, mark: bytes) -> None:
        self._mark, self._before = mark, bytearray()
        self.begun, self.greeting = False, b""

    def feed(self, data: bytes) -> bytes:
        """Return what of some bytes belongs to the command."""
        if self.begun:
            return data
        self._before += data
        _, mark, rest = self._before.partition(self._mark)
        if mark:
            self.begun = True
            self._before.clear()
            return bytes(rest)
        del self._before[:-MOST_GREETING]
        return b""

    def take(self) -> bytes:
        """Return what came without a mark, once."""
        taken, self._before = bytes(self._before), bytearray()
        self.greeting = self.greeting or taken
        return taken
