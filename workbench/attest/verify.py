"""Whether evidence proves what a policy asks: every check by its name, and a verdict that lists what each has found.

::

    agent's JSON or 1184 bytes -> report ----> chain to a pinned ARK -> VCEK's own words -> signature -> what the guest is
    {svn, report_data}         -> report_data alone, and the verdict says that this proves nothing
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ..errors import UsageError
from .certificates import Chain, chip_of, find_chain, fingerprint, holds, key_of_vcek, name_of, product_of, signed_by, tcb_of
from .policy import Policy
from .report import LENGTH, SIGNED, Report, Tcb, refusal

__all__ = ["MOST_EVIDENCE", "Check", "Verdict", "runtime_data", "verify"]

MOST_EVIDENCE = 256 << 10  # bytes of JSON; with the whole chain it has 30 thousand
MOST_CERTIFICATES = 16
DATA = 64  # bytes of report_data

SINGLE_REQUIRED, MIGRATION, DEBUG, KNOWN_POLICY = 1 << 17, 1 << 18, 1 << 19, (1 << 26) - 1
SIGNING_KEYS = {0: "VCEK", 1: "VLEK", 7: "none"}


def runtime_data(nonce: bytes, key: bytes) -> bytes:
    """Return what evidence must carry: 64 hexadecimal digits of the SHA-256 of a nonce and a TLS key (as `key_of` has it)."""
    return hashlib.sha256(nonce + key).hexdigest().encode("ascii")


@dataclass(frozen=True)
class Check:
    """A check that was passed: its name, what was expected, what was found."""

    name: str
    expected: str
    found: str


@dataclass(frozen=True)
class Verdict:
    """What evidence has proved: nothing, where its kind is "sample"; else all of the checks. Printed it is a table."""

    kind: str
    checks: tuple[Check, ...]
    product: str = ""
    tcb: Tcb | None = None
    chip: str = ""  # its number's first digits

    @property
    def proves(self) -> bool:
        """Whether this is a proof at all."""
        return self.kind != "sample"

    @property
    def summary(self) -> str:
        """The platform in a line."""
        if not self.proves:
            return "sample evidence of a runtime for development: IT PROVES NOTHING"
        return f"AMD SEV-SNP on {self.product}, {self.tcb}; processor {self.chip}"

    def __str__(self) -> str:
        rows = [
            ("check", "expected", "found"),
            *((each.name, _short(each.expected), _short(each.found)) for each in self.checks),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.summary, "", lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass
class _Checks:
    """Those passed so far."""

    passed: list[Check] = field(default_factory=list)

    def that(self, holds: bool, name: str, expected: object, found: object) -> None:
        """Pass a check, or raise its AttestationError."""
        if not holds:
            raise refusal(name, expected, found)
        self.passed.append(Check(name, str(expected), str(found)))


def verify(evidence: bytes | Mapping[str, Any], policy: Policy, runtime_data: bytes) -> Verdict:
    """Check evidence against a policy: a report's bytes, or the agent's JSON as text or read.

    `runtime_data`, at most 64 bytes, is what the evidence was asked for with. Raises AttestationError, which names the check,
    what was expected and what was found, for evidence that does not prove all of it.
    """
    if len(runtime_data) > DATA:
        raise UsageError(f"runtime_data has at most {DATA} bytes, got {len(runtime_data)}")
    if isinstance(evidence, bytes | bytearray | memoryview):
        raw = bytes(evidence)
        told = None if len(raw) == LENGTH and raw[:1] != b"{" else _read(raw)
        if told is None:
            return _snp(Report.read(raw), (), policy, runtime_data)
    else:
        told = evidence
    if policy.kind == "sample":
        return _sample(told, runtime_data)
    if "svn" in told and "attestation_report" not in told:
        raise refusal("kind", "SEV-SNP evidence", "sample evidence, which proves nothing (a policy of kind 'sample' takes it)")
    report = told.get("attestation_report")
    if not isinstance(report, Mapping):
        raise refusal("evidence", "an object `attestation_report`", type(report).__name__)
    return _snp(Report.of_fields(report), _certificates(told.get("cert_chain")), policy, runtime_data)


def _read(text: bytes) -> Mapping[str, Any]:
    if len(text) > MOST_EVIDENCE:
        raise refusal("evidence", f"at most {MOST_EVIDENCE} bytes", len(text))
    try:
        told = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise refusal("evidence", f"a JSON object, or a report of {LENGTH} bytes", f"{len(text)} bytes of neither") from None
    if not isinstance(told, dict):
        raise refusal("evidence", "a JSON object", type(told).__name__)
    return told


def _certificates(told: Any) -> tuple[bytes, ...]:
    """Return the certificates (DER) of the agent's JSON."""
    entries = [] if told is None else told
    if not isinstance(entries, list) or len(entries) > MOST_CERTIFICATES:
        raise refusal("evidence", f"a list `cert_chain` of at most {MOST_CERTIFICATES}", type(entries).__name__)
    found = []
    for entry in entries:
        data = entry.get("data") if isinstance(entry, Mapping) else None
        if not isinstance(data, list) or any(type(byte) is not int or not 0 <= byte < 256 for byte in data):
            raise refusal("evidence", "certificates as lists of bytes, `data`", type(data).__name__)
        found.append(bytes(data))
    return tuple(found)


def _sample(told: Mapping[str, Any], expected: bytes) -> Verdict:
    """Sample evidence says what it was asked for with, and nothing that was signed."""
    checks = _Checks()
    if "svn" not in told or not isinstance(told.get("report_data"), str):
        raise refusal("kind", "sample evidence, {svn, report_data}", "other evidence: give a policy of its kind")
    try:
        found = base64.b64decode(told["report_data"], validate=True)
    except (binascii.Error, ValueError):
        raise refusal("freshness", "report_data in base 64", "another text") from None
    checks.that(found.rstrip(b"\0") == expected.rstrip(b"\0"), "freshness", _hex(expected), _hex(found))
    return Verdict("sample", tuple(checks.passed))


def _snp(report: Report, given: tuple[bytes, ...], policy: Policy, expected: bytes) -> Verdict:
    if policy.kind != "snp":
        raise refusal("kind", "sample evidence", "an SEV-SNP report: give a policy of kind 'snp'")
    checks = _Checks()
    signing = SIGNING_KEYS.get(report.key_info >> 2 & 7, "unknown")
    checks.that(report.algorithm == 1, "signature algorithm", "1 (ECDSA P-384, SHA-384)", report.algorithm)
    checks.that(signing == "VCEK" and report.key_info < 32, "signing key", "VCEK", signing)
    chain = find_chain(policy.chain, given, report, policy.pins)
    _check_chain(chain, policy, checks)
    _check_platform(chain, report, policy, checks)
    _check_signature(chain, report, checks)
    _check_guest(report, policy, checks)
    padded = expected.ljust(DATA, b"\0")
    checks.that(report.report_data == padded, "freshness", _hex(padded), _hex(report.report_data))
    chip = report.chip.hex()[:16] if any(report.chip) else "masked"
    return Verdict("snp", tuple(checks.passed), chain.product, report.reported, chip)


def _check_chain(chain: Chain, policy: Policy, checks: _Checks) -> None:
    """The ARK is the pinned one and signs itself, each signs the next, and all hold now."""
    checks.that(True, "ARK pin", policy.pins[chain.product], fingerprint(chain.ark))
    for certificate, issuer, by in (("ARK", chain.ark, "ARK"), ("ASK", chain.ark, "ARK"), ("VCEK", chain.ask, "ASK")):
        signed = signed_by(dict(chain)[certificate], issuer, certificate)
        checks.that(
            signed, f"signature of the {certificate}", f"by the {by}, RSA-PSS SHA-384", "valid" if signed else "not valid"
        )
    for name, each in chain:
        valid = holds(each, policy.time)
        until = f"{each.not_valid_before_utc:%Y-%m-%d} to {each.not_valid_after_utc:%Y-%m-%d}"
        expected = f"{policy.time:%Y-%m-%d}" + (" (or not: allow_expired)" if policy.allow_expired else "")
        checks.that(valid or policy.allow_expired, f"validity of the {name}", expected, until)


def _check_platform(chain: Chain, report: Report, policy: Policy, checks: _Checks) -> None:
    """The report is of the processor and the firmware that its VCEK was made for."""
    name = name_of(chain.vcek)
    checks.that(name.split("-")[0] == chain.product, "product of the VCEK", chain.product, name)
    if report.cpuid is not None:
        cpuid = product_of(report.cpuid) or "family {:#x}, model {:#x}".format(*report.cpuid)
        checks.that(cpuid == chain.product, "product of the report", chain.product, cpuid)
    turin = chain.product == "Turin"
    checks.that(turin == (report.reported.fmc is not None), "layout of the TCB", chain.product, report.reported)
    versions = tcb_of(chain.vcek, turin)
    checks.that(versions == report.reported, "TCB of the VCEK", report.reported, versions)
    checks.that(report.reported.reaches(policy.minimum_tcb), "minimum TCB", policy.minimum_tcb, report.reported)
    masked = policy.masked_chip_id and not any(report.chip)
    number = chip_of(chain.vcek, chain.product)
    checks.that(masked or number == report.chip, "chip id", _hex(number, 16), "masked" if masked else _hex(report.chip, 16))


def _check_signature(chain: Chain, report: Report, checks: _Checks) -> None:
    valid = True
    try:
        signature = encode_dss_signature(report.r, report.s)
        key_of_vcek(chain.vcek).verify(signature, report.raw[:SIGNED], ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        valid = False
    checks.that(valid, "signature of the report", "by the VCEK", "valid" if valid else "not valid")


def _check_guest(report: Report, policy: Policy, checks: _Checks) -> None:
    """The guest is the one that is asked for, and nobody may look into it or take it elsewhere."""
    flags = report.policy
    checks.that(flags & SINGLE_REQUIRED != 0 and flags <= KNOWN_POLICY, "guest policy", "flags that are known", f"{flags:#x}")
    debug = bool(flags & DEBUG)
    checks.that(policy.debug or not debug, "debug", "off, or on" if policy.debug else "off", "on" if debug else "off")
    migrates = bool(flags & MIGRATION)
    checks.that(not migrates, "migration agent", "none allowed", "allowed" if migrates else "none allowed")
    checks.that(report.vmpl == policy.vmpl, "VMPL", policy.vmpl, report.vmpl)
    wanted = [each.lower() for each in policy.measurements]
    checks.that(report.measurement.hex() in wanted, "measurement", " or ".join(wanted), report.measurement.hex())
    found, asked = report.host_data.hex(), policy.initdata.lower()
    checks.that(asked in ("", found), "initdata", asked or "any (the policy asks for none)", found)


def _hex(data: bytes, digits: int = 128) -> str:
    """Return bytes as text where they are one, as the agent's runtime_data is, else in hexadecimal."""
    text = data.rstrip(b"\0")
    return text.decode() if text and text.isalnum() else data.hex()[:digits]
