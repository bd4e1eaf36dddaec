"""Findings: what a machine needs, what it has, and the command that mends it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "FindingState", "ok", "unknown", "version_of", "wrong"]

FindingState = Literal["ok", "wrong", "unknown", "unreachable"]


@dataclass(frozen=True)
class Finding:
    """One check of one machine.

    `text` completes a sentence whose subject is the machine. `mend` is a command, or what else to do. `blocks`: no launch can
    succeed like this.
    """

    machine: str
    check: str
    state: FindingState
    text: str
    mend: str = ""
    blocks: bool = False

    @property
    def sentence(self) -> str:
        """The finding as one line, with the machine as its subject."""
        return f"{self.machine} {self.advice}"

    @property
    def advice(self) -> str:
        """What was found, and what mends it."""
        return f"{self.text}: {self.mend}" if self.mend else self.text


def ok(machine: str, check: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(machine, check, "ok", text)


def wrong(machine: str, check: str, text: str, mend: str, blocks: bool = False) -> Finding:
    """Return a finding that has to be mended."""
    return Finding(machine, check, "wrong", text, mend, blocks)


def unknown(machine: str, check: str, text: str, mend: str = "") -> Finding:
    """Return a finding that could not be made."""
    return Finding(machine, check, "unknown", text, mend)


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version, such as (6, 16, 1) of 6.16.1-generic; () if there are none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", text.strip())
    return tuple(map(int, found[1].split("."))) if found else ()
