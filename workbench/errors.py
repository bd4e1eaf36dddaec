"""The error hierarchy: every exception that the workbench raises deliberately.

A message contains no pixel, key or token. It may quote a file's name or another machine's output, so control characters are
escaped (`terminal.printable`). The `workbench` command prints the message without a traceback.
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
    """The base of all errors of the workbench. The message states a cause that the user can remove."""

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class UsageError(WorkbenchError, ValueError):
    """Raised when an argument is not valid for the called function."""


class DataError(WorkbenchError):
    """Raised when a picture or a data set is unreadable."""


class WeightsError(WorkbenchError):
    """Raised when weights are missing, corrupted, or made for another network or data set."""


class PayloadError(WorkbenchError):
    """Raised when a codec cannot decode a payload, because it is damaged or comes from another codec."""


class ProtocolError(WorkbenchError):
    """Raised when a request or a response violates the protocol."""


class ServiceError(WorkbenchError):
    """Raised when a service is unreachable, untrusted or refuses a request.

    `status` is an HTTP status. `retry_after` is the number of seconds after which a retry makes sense (None: unknown).
    """

    def __init__(self, message: str, status: int = 503, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class RemoteError(WorkbenchError):
    """Raised when a remote machine is unreachable, untrusted or unusable, or when a service does not run there."""


class AttestationError(WorkbenchError):
    """Raised when a service's evidence of its software does not satisfy the client's policy (see `attest`).

    The message names the check, the expected and the actual value.
    """


class StorageError(WorkbenchError):
    """Raised when a file cannot be written. An older file with that name is left unchanged."""


class RunError(WorkbenchError):
    """Raised when a long run, such as a training or a batch of jobs, failed or has no result yet."""


def unknown(kind: str, value: object, choices: Iterable[str]) -> UsageError:
    """Return an error for a `value` that is not among `choices`. The message suggests the most similar choice.

    `kind` is the noun for the value in the message, such as "codec".
    """
    names = sorted(choices)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {value!r}: {hint}choose one of {', '.join(names)}")
