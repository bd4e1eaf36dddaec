"""Encode commands so that any login shell passes them on unchanged: bash, fish, tcsh or zsh.

::

    words -> plain characters, and =ooo (octal) for every other byte -> login shell, which has nothing to interpret
          -> /bin/sh decodes the words, prints the mark on standard output and standard error, and executes the command

The mark is a random text. All output before the mark comes from the login shell's startup files, and is dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = ["MarkedOutput", "command_line"]

MOST_GREETING = 1 << 20  # maximum bytes that are kept before the mark
PLAIN = re.compile(rb"[^A-Za-z0-9_/.:,-]")

# Inside single quotes, shells interpret at most ' and \, and csh also ! and line ends. DECODER contains none of these.
# $1 is a backslash for the octal escapes: every shell reads the argument \\ as one backslash. $2 is the mark.
# Each word begins and ends with a _. So it is never empty and never an option, and its trailing line ends are kept.
DECODER = (
    "b=$1; m=$2; shift 2; set -f; IFS==; for w do shift; case $w in *=*) x=; for p in $w; do x=${x:+$x$b}$p; done; "
    'w=$(printf "$x");; esac; w=${w#_}; set -- "$@" "${w%_}"; done; unset IFS x p w b; set +f; '
    'printf %s "$m"; printf %s "$m" >&2; unset m; exec "$@"'
)


def command_line(command: Sequence[str], mark: str) -> str:
    """Return a shell command line that prints `mark` on standard output and standard error, and then runs `command`."""
    words = ("_" + PLAIN.sub(lambda byte: b"=%03o" % byte[0][0], os.fsencode(word)).decode() + "_" for word in command)
    return " ".join(["exec /bin/sh -c", f"'{DECODER}'", "sh", r"\\", mark, *words])


class MarkedOutput:
    """A filter for the output of a login shell. It drops all output up to `mark`, which precedes the command's output.

    If no mark arrives, the output is kept for error messages.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark, self._before = mark, bytearray()
        self.begun, self.greeting = False, b""

    def feed(self, data: bytes) -> bytes:
        """Return the part of `data` that follows the mark. `data` is the next part of the output."""
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
        """Remove and return the kept output, at most its last `MOST_GREETING` bytes."""
        taken, self._before = bytes(self._before), bytearray()
        self.greeting = self.greeting or taken
        return taken
