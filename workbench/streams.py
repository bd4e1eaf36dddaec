r"""Make a command's standard streams usable if they are closed, full, or of an encoding with few characters.

==================  ================================================================================
closed              replaced by /dev/null, so that no other file gets the stream's descriptor
encoding too small  missing characters are written as escapes (`PMC\xb2`)
control characters  written as escapes on standard output, because file names may contain some
standard output     a full disk or a broken pipe is an error of the command: `flushed` returns False
standard error      write errors are ignored, and do not change the exit status
==================  ================================================================================
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO

from .terminal import printable

__all__ = ["complain", "flushed", "prepare"]

KEPT = "\n\t"
_WRAPPED: list[io.TextIOWrapper] = []  # keeps wrappers alive: a collected one would close the buffer of sys.__stdout__


class _Output(io.TextIOWrapper):
    def write(self, text: str) -> int:
        super().write(printable(text, KEPT))
        return len(text)


class _Diagnostics(io.TextIOWrapper):
    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare() -> None:
    """Make the standard streams of this process usable, as the module's table describes.

    Streams that a caller has replaced stay unchanged.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_null(descriptor)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _wrapped(_Output, sys.stdout, 1)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _wrapped(_Diagnostics, sys.stderr, 2)


def _wrapped(kind: type[io.TextIOWrapper], stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None and not isinstance(stream, io.TextIOWrapper):
        return stream
    buffer: Any = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)) if stream is None else stream.buffer
    encoding = "utf-8" if stream is None else stream.encoding
    lines = descriptor == 2 or (stream is not None and stream.line_buffering)
    wrapped = kind(buffer, encoding=encoding, errors="backslashreplace", line_buffering=lines)
    _WRAPPED.append(wrapped)
    return wrapped


def _to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    else:
        os.set_inheritable(descriptor, True)


def complain(text: object) -> None:
    """Print one line to standard error, with control characters escaped. Write errors are ignored."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(printable(text), file=sys.stderr, flush=True)


def flushed() -> bool:
    """Flush standard output, and return True. If the write fails, discard the rest and return False.

    The failure is reported on standard error. A broken pipe is not reported.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            complain(f"workbench: cannot write to standard output: {error.strerror or error}")
        with contextlib.suppress(OSError, ValueError):
            _to_null(sys.stdout.fileno())
            sys.stdout.flush()
        return False
    return True
