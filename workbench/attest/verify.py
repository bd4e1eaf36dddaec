"""Verify attestation evidence under a policy. The verdict lists each check with its expected and its actual value.

::

    agent's JSON or 1184 bytes -> report -> chain to a pinned ARK -> fields of the VCEK or VLEK -> signature -> guest
    {svn, report_data}         -> report_data

The second line is sample evidence. It comes from a development runtime and proves nothing. Only its report_data is checked.

The agent is the guest's attestation agent. The VCEK is a processor's key, the VLEK a cloud provider's key, and the ARK is AMD's
root certificate.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ..errors import UsageError
from .certificates import common_name, extension, fingerprint, is_valid_at, readable, signed_by
from .chain import Chain, find_chain
from .checks import Checks, Verdict
from .endorsement import IDENTITIES, SigningKey, chip_of, name_of, provider_of, public_key, tcb_of
from .policy import ANY, Policy
from .products import product_of
from .report import LENGTH, SIGNED, Report, refusal

__all__ = ["MOST_EVIDENCE", "runtime_data", "verify"]

MOST_EVIDENCE = 256 << 10  # bytes of JSON; evidence with all certificates has about 30,000
MOST_CERTIFICATES = 16
DATA = 64  # bytes of report_data

SINGLE_REQUIRED, MIGRATION, DEBUG, KNOWN_POLICY = 1 << 17, 1 << 18, 1 << 19, (1 << 26) - 1
AUTHOR_KEY, MASK_CHIP_KEY = 1 << 0, 1 << 1  # bits of key_info; bits 2 to 4 are the signing key
SIGNING_KEYS: Mapping[int, SigningKey] = {0: "VCEK", 1: "VLEK"}


def runtime_data(nonce: bytes, key: bytes) -> bytes:
    """Return the data that binds evidence to a TLS key (DER) and to a nonce, a random value of the client.

    The data is the SHA-256 of `nonce` followed by `key`, as 64 hex digits in ASCII. The evidence must contain this data in its
    field report_data.
    """
    return hashlib.sha256(nonce + key).hexdigest().encode("ascii")


def verify(evidence: bytes | Mapping[str, Any], policy: Policy, runtime_data: bytes) -> Verdict:
    """Verify attestation evidence under a policy, and return the verdict.

    `evidence` is a report of 1184 bytes, or the attestation agent's JSON, as bytes or parsed. `runtime_data` is the data that
    the client sent with its request for evidence. Raises UsageError if `runtime_data` is longer than 64 bytes. Raises
    AttestationError for the first failed check, with the check's name, the expected and the actual value.
    """
    if len(runtime_data) > DATA:
        raise UsageError(f"runtime_data has at most {DATA} bytes, got {len(runtime_data)}")
    if isinstance(evidence, bytes | bytearray | memoryview):
        raw = bytes(evidence)
        if len(raw) == LENGTH and raw[:1] != b"{":
            return _snp(Report.read(raw), (), policy, runtime_data)
        payload = _parse(raw)
    else:
        payload = evidence
    if policy.kind == "sample":
        return _sample(payload, runtime_data)
    if "svn" in payload and "attestation_report" not in payload:
        raise refusal("kind", "SEV-SNP evidence", "sample evidence, which proves nothing (a policy of kind 'sample' takes it)")
    report = payload.get("attestation_report")
    if not isinstance(report, Mapping):
        raise refusal("evidence", "an object `attestation_report`", type(report).__name__)
    return _snp(Report.of_fields(report), _certificates(payload.get("cert_chain")), policy, runtime_data)


def _parse(text: bytes) -> Mapping[str, Any]:
    if len(text) > MOST_EVIDENCE:
        raise refusal("evidence", f"at most {MOST_EVIDENCE} bytes", len(text))
    try:
        payload = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise refusal("evidence", f"a JSON object, or a report of {LENGTH} bytes", f"{len(text)} bytes of neither") from None
    if not isinstance(payload, dict):
        raise refusal("evidence", "a JSON object", type(payload).__name__)
    return payload


def _certificates(cert_chain: Any) -> tuple[bytes, ...]:
    entries = [] if cert_chain is None else cert_chain
    if not isinstance(entries, list) or len(entries) > MOST_CERTIFICATES:
        raise refusal("evidence", f"a list `cert_chain` of at most {MOST_CERTIFICATES}", type(entries).__name__)
    certificates = []
    for entry in entries:
        data = entry.get("data") if isinstance(entry, Mapping) else None
        if not isinstance(data, list) or any(type(byte) is not int or not 0 <= byte < 256 for byte in data):
            raise refusal("evidence", "certificates as lists of bytes, `data`", type(data).__name__)
        certificates.append(bytes(data))
    return tuple(certificates)


def _sample(payload: Mapping[str, Any], expected: bytes) -> Verdict:
    checks = Checks()
    if "svn" not in payload or not isinstance(payload.get("report_data"), str):
        raise refusal("kind", "sample evidence, {svn, report_data}", "other evidence: give a policy of its kind")
    try:
        found = base64.b64decode(payload["report_data"], validate=True)
    except (binascii.Error, ValueError):
        raise refusal("freshness", "report_data in base 64", "another text") from None
    checks.that(found.rstrip(b"\0") == expected.rstrip(b"\0"), "freshness", _hex(expected), _hex(found))
    return Verdict("sample", tuple(checks.passed))


def _snp(report: Report, given: tuple[bytes, ...], policy: Policy, expected: bytes) -> Verdict:
    if policy.kind != "snp":
        raise refusal("kind", "sample evidence", "an SEV-SNP report: give a policy of kind 'snp'")
    checks = Checks()
    checks.that(report.algorithm == 1, "signature algorithm", "1 (ECDSA P-384, SHA-384)", report.algorithm)
    _check_signing_key(report, policy, checks)
    chain = find_chain(policy, given, report, SIGNING_KEYS[report.key_info >> 2 & 7])
    _check_chain(chain, policy, checks)
    _check_platform(chain, report, policy, checks)
    if chain.key == "VCEK":
        _check_processor(chain, report, policy, checks)
    else:
        provider = provider_of(chain.leaf)
        checks.that(provider == policy.provider, "provider", policy.provider, provider)
    _check_signature(chain, report, checks)
    _check_guest(report, policy, checks)
    padded = expected.ljust(DATA, b"\0")
    checks.that(report.report_data == padded, "freshness", _hex(padded), _hex(report.report_data))
    chip = report.chip.hex()[:16] if any(report.chip) else "masked"
    provider = policy.provider if chain.key == "VLEK" else ""
    return Verdict("snp", tuple(checks.passed), chain.product, report.reported, chip, provider)


def _check_signing_key(report: Report, policy: Policy, checks: Checks) -> None:
    number, rest = report.key_info >> 2 & 7, report.key_info & ~(7 << 2 | AUTHOR_KEY)
    name = SIGNING_KEYS.get(number, "none" if number == 7 else "unknown")
    if rest & MASK_CHIP_KEY:
        shown = f"{name}, and MASK_CHIP_KEY, under which firmware signs no report"
    elif rest:
        shown = f"{name}, and reserved bits in key_info {report.key_info:#x}"
    elif name == "VLEK" != policy.signing_key:
        shown = 'VLEK, which a policy accepts with signing_key = "VLEK" and the provider'
    else:
        shown = name
    checks.that(name == policy.signing_key and not rest, "signing key", policy.signing_key, shown)


def _check_chain(chain: Chain, policy: Policy, checks: Checks) -> None:
    checks.that(True, "ARK pin", policy.pins[chain.product], fingerprint(chain.ark))
    for name, certificate, issuer_name, issuer in chain:
        signed = signed_by(certificate, issuer, name)
        expected = f"by the {issuer_name}, RSA-PSS SHA-384"
        checks.that(signed, f"signature of the {name}", expected, "valid" if signed else "not valid")
    for name, certificate, *_ in chain:
        valid = is_valid_at(certificate, policy.time)
        period = f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
        expected = f"{policy.time:%Y-%m-%d}" + (" (or not: allow_expired)" if policy.allow_expired else "")
        checks.that(valid or policy.allow_expired, f"validity of the {name}", expected, period)


def _check_platform(chain: Chain, report: Report, policy: Policy, checks: Checks) -> None:
    key = chain.key
    with readable(key):
        issuer = common_name(chain.leaf.issuer)
        others = [other for other, oid in IDENTITIES.items() if other != key and extension(chain.leaf, oid) is not None]
    prefix = "SEV-" if key == "VCEK" else "SEV-VLEK-"
    checks.that(issuer == prefix + chain.product, f"issuer of the {key}", prefix + chain.product, issuer)
    checks.that(not others, f"kind of the {key}", key, " and ".join([key, *others]))
    name = name_of(chain.leaf, key)
    checks.that(name.split("-")[0] == chain.product, f"product of the {key}", chain.product, name)
    if report.cpuid is not None:
        cpuid = product_of(report.cpuid) or "family {:#x}, model {:#x}".format(*report.cpuid)
        checks.that(cpuid == chain.product, "product of the report", chain.product, cpuid)
    turin = chain.product == "Turin"
    layout = "Turin's, with an fmc, as reports have it from version 3 on" if turin else f"{chain.product}'s, without an fmc"
    checks.that(turin == (report.reported.fmc is not None), "layout of the TCB", layout, report.reported)
    versions = tcb_of(chain.leaf, turin, key)
    checks.that(versions == report.reported, f"TCB of the {key}", report.reported, versions)
    checks.that(report.reported.reaches(policy.oldest_tcb), "minimum TCB", policy.oldest_tcb, report.reported)


def _check_processor(chain: Chain, report: Report, policy: Policy, checks: Checks) -> None:
    masked = policy.masked_chip_id and not any(report.chip)
    chip = chip_of(chain.leaf, chain.product)
    checks.that(masked or chip == report.chip, "chip id", _hex(chip, 16), "masked" if masked else _hex(report.chip, 16))


def _check_signature(chain: Chain, report: Report, checks: Checks) -> None:
    valid = True
    try:
        signature = encode_dss_signature(report.r, report.s)
        public_key(chain.leaf, chain.key).verify(signature, report.raw[:SIGNED], ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        valid = False
    checks.that(valid, "signature of the report", f"by the {chain.key}", "valid" if valid else "not valid")


def _check_guest(report: Report, policy: Policy, checks: Checks) -> None:
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
    checks.that(asked in (ANY, found), "initdata", asked, found)


def _hex(data: bytes, digits: int = 128) -> str:
    text = data.rstrip(b"\0")
    return text.decode() if text and text.isalnum() else data.hex()[:digits]
