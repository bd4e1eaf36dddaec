"""A finding is the result of one check of a machine. For a fault, the finding has the command that fixes the fault."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "FindingState", "ok", "unknown", "version_of", "wrong"]

FindingState = Literal["ok", "wrong", "unknown", "unreachable"]


@dataclass(frozen=True)
class Finding:
    """The result of one check of one machine.

    `check` is the check's name. `text` is a predicate whose subject is the machine, such as "has no GPU". `mend` is the command
    or the instruction that removes the fault. If `blocks` is true, no launch can succeed until the fault is removed.
    """

    machine: str
    check: str
    state: FindingState
    text: str
    mend: str = ""
    blocks: bool = False

    @property
    def sentence(self) -> str:
        return f"{self.machine} {self.advice}"

    @property
    def advice(self) -> str:
        """`text` and `mend` as one line, without the machine's name."""
        return f"{self.text}: {self.mend}" if self.mend else self.text


def ok(machine: str, check: str, text: str) -> Finding:
    return Finding(machine, check, "ok", text)


def wrong(machine: str, check: str, text: str, mend: str, blocks: bool = False) -> Finding:
    return Finding(machine, check, "wrong", text, mend, blocks)


def unknown(machine: str, check: str, text: str, mend: str = "") -> Finding:
    return Finding(machine, check, "unknown", text, mend)


def version_of(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, such as (6, 16, 1) for 6.16.1-generic or v6.16.1.

    Return () if the text does not begin with a version.
    """
    found = re.match(r"v?(\d+(?:\.\d+)*)", text.strip())
    return tuple(map(int, found[1].split("."))) if found else ()
