"""The result of a verification of evidence: the passed checks, the processor, and warnings about published attacks.

A VLEK is a key that AMD issues to a cloud provider for signing evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .products import WARNINGS
from .report import Tcb, refusal

__all__ = ["Check", "Checks", "Verdict"]


@dataclass(frozen=True)
class Check:
    """A passed check. `expected` and `found` are the expected and the actual value, as text."""

    name: str
    expected: str
    found: str


@dataclass(frozen=True)
class Verdict:
    """The result of a verification. A verdict of kind "sample" proves nothing. `str()` returns a table of the checks.

    product: the processor's generation, such as "Genoa".  tcb: the processor's firmware versions.
    chip: the first 16 hex digits of the processor's number, or "masked" if the host hides it.
    provider: the cloud provider (csp_id) if a VLEK signed the evidence, else empty.
    """

    kind: str
    checks: tuple[Check, ...]
    product: str = ""
    tcb: Tcb | None = None
    chip: str = ""
    provider: str = ""

    @property
    def proves(self) -> bool:
        return self.kind != "sample"

    @property
    def summary(self) -> str:
        """One line with the product, the firmware versions, the processor's number and, for a VLEK, the provider."""
        if not self.proves:
            return "sample evidence of a runtime for development: IT PROVES NOTHING"
        signer = f"; VLEK of {self.provider}" if self.provider else ""
        return f"AMD SEV-SNP on {self.product}, {self.tcb}; processor {self.chip}{signer}"

    @property
    def warnings(self) -> tuple[str, ...]:
        return (WARNINGS[self.product],) if self.product in WARNINGS else ()

    def __str__(self) -> str:
        rows = [
            ("check", "expected", "found"),
            *((each.name, _short(each.expected), _short(each.found)) for each in self.checks),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        warnings = [f"WARNING: {warning}" for warning in self.warnings]
        return "\n".join([self.summary, *warnings, "", lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass
class Checks:
    """Collects the passed checks of a verification, in order."""

    passed: list[Check] = field(default_factory=list)

    def that(self, holds: bool, name: str, expected: object, found: object) -> None:
        """Record the check `name` if `holds` is true. Otherwise raise AttestationError.

        The error has the check's name, the expected and the actual value (`found`).
        """
        if not holds:
            raise refusal(name, expected, found)
        self.passed.append(Check(name, str(expected), str(found)))
