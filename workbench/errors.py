"""The error tree: everything the workbench raises on purpose.

::

    WorkbenchError            one line for a user: the offending value, and the way out
    ├── UsageError            an unknown name, a value out of range, a wrong shape
    ├── DataError             a picture or a data set that cannot be read
    ├── WeightsError          weights that are missing, corrupted or made for something else
    ├── PayloadError          bytes that are not a payload of this codec
    ├── ProtocolError         a request or a response that is not of the protocol
    ├── ServiceError          a service that cannot be reached or trusted, or that refuses
    ├── RemoteError           a machine that cannot be reached, trusted or used, or a stage there that does not run
    ├── AttestationError      evidence that does not prove what was asked of it
    ├── StorageError          a disk that is full, a folder that cannot be written
    └── RunError              a notebook or a batch that failed

A message names no pixel, key or token. It often quotes a file's name or another machine, so that its text escapes control
characters (`terminal.printable`), wherever it is shown. The command prints it in one line, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .terminal import printable

__all__ = [
    "AttestationError",
    "DataError",
    "PayloadError",
    "ProtocolError",
    "RemoteError",
    "RunError",
    "ServiceError",
    "StorageError",
    "UsageError",
    "WeightsError",
    "WorkbenchError",
    "unknown",
]


class WorkbenchError(Exception):
    """Raised when the workbench cannot go on, for a reason its user can act on."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class UsageError(WorkbenchError, ValueError):
    """Raised when an argument is not one the called function takes."""


class DataError(WorkbenchError):
    """Raised when a picture or a data set cannot be read."""


class WeightsError(WorkbenchError):
    """Raised when weights are missing, corrupted or made for something else."""


class PayloadError(WorkbenchError):
    """Raised when bytes are not a payload of the codec that was asked to decode them."""


class ProtocolError(WorkbenchError):
    """Raised when a request or a response is not of the protocol."""


class ServiceError(WorkbenchError):
    """Raised when a service cannot be reached or trusted, or refuses; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 503, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class RemoteError(WorkbenchError):
    """Raised when a machine cannot be reached, trusted or used, or a stage there does not run."""


class AttestationError(WorkbenchError):
    """Raised when evidence does not prove what was asked of it: names the check, what was expected and what was found."""


class StorageError(WorkbenchError):
    """Raised when a result cannot be written; what stood there before still does."""


class RunError(WorkbenchError):
    """Raised when a notebook or a batch of notebooks failed."""


def unknown(kind: str, value: object, choices: Iterable[str]) -> UsageError:
    """Return the error for a name that is not among `choices`, with the nearest one suggested."""
    names = sorted(choices)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {value!r}: {hint}choose one of {', '.join(names)}")
