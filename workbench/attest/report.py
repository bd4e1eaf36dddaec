"""A strict parser of SEV-SNP attestation reports: 1184 bytes, or the attestation agent's JSON with the same fields.

The report has these fields. Each offset is in hexadecimal, and (n) stands for n consecutive values:

::

    000 version  004 guest_svn  008 policy  010 family_id  020 image_id  030 vmpl  034 sig_algo  038 current_tcb
    040 plat_info  048 key_info  050 report_data  090 measurement  0C0 host_data  0E0 id_key_digest  110 author_key_digest
    140 report_id  160 report_id_ma  180 reported_tcb  188 cpuid (3)  1A0 chip_id  1E0 committed_tcb  1E8 versions (2)
    1F0 launch_tcb  1F8 mitigation vectors (2)  2A0 signature (2: R and S)

Numbers are little-endian. All bytes outside the fields must be zero.

Source: AMD 56860, SEV Secure Nested Paging Firmware ABI Specification, attestation report structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import AttestationError

__all__ = ["LENGTH", "SIGNED", "Report", "Tcb", "refusal"]

LENGTH, SIGNED = 0x4A0, 0x2A0  # bytes of a report, and of the part that its signature covers
VERSIONS = (2, 3, 4, 5)
TURIN_FAMILY = 0x1A
COORDINATE = 72  # bytes for R, and for S

# name in the agent's JSON, offset, bytes, kind
_FIELDS: tuple[tuple[str, int, int, str], ...] = (
    ("version", 0x000, 4, "number"),
    ("guest_svn", 0x004, 4, "number"),
    ("policy", 0x008, 8, "number"),
    ("family_id", 0x010, 16, "bytes"),
    ("image_id", 0x020, 16, "bytes"),
    ("vmpl", 0x030, 4, "number"),
    ("sig_algo", 0x034, 4, "number"),
    ("current_tcb", 0x038, 8, "tcb"),
    ("plat_info", 0x040, 8, "number"),
    ("key_info", 0x048, 4, "number"),
    ("report_data", 0x050, 64, "bytes"),
    ("measurement", 0x090, 48, "bytes"),
    ("host_data", 0x0C0, 32, "bytes"),
    ("id_key_digest", 0x0E0, 48, "bytes"),
    ("author_key_digest", 0x110, 48, "bytes"),
    ("report_id", 0x140, 32, "bytes"),
    ("report_id_ma", 0x160, 32, "bytes"),
    ("reported_tcb", 0x180, 8, "tcb"),
    ("cpuid_fam_id", 0x188, 1, "number or null"),
    ("cpuid_mod_id", 0x189, 1, "number or null"),
    ("cpuid_step", 0x18A, 1, "number or null"),
    ("chip_id", 0x1A0, 64, "bytes"),
    ("committed_tcb", 0x1E0, 8, "tcb"),
    ("current", 0x1E8, 3, "version"),
    ("committed", 0x1EC, 3, "version"),
    ("launch_tcb", 0x1F0, 8, "tcb"),
    ("launch_mit_vector", 0x1F8, 8, "number or null"),
    ("current_mit_vector", 0x200, 8, "number or null"),
    ("signature", 0x2A0, 2 * COORDINATE, "signature"),
)
_OPTIONAL = {"launch_mit_vector", "current_mit_vector"}  # missing in the JSON of agents older than report version 5
_RESERVED = ((0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0), (0x330, LENGTH))
_NOT_YET = {3: (0x188, 0x18B), 4: (0x1F8, 0x208)}  # {report version: bytes that are reserved in earlier versions}

_TCB = {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN_TCB = {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7}


def refusal(check: str, expected: object, found: object) -> AttestationError:
    """Return the AttestationError of the failed check `check`.

    Its message has one line, with the expected and the actual value (`found`). Both values are shortened.
    """
    wanted, shown = (" ".join(str(each).split()) for each in (expected, found))
    return AttestationError(f"attestation: {check}: expected {wanted[:320]}, found {shown[:160] or 'nothing'}")


@dataclass(frozen=True)
class Tcb:
    """The firmware versions (TCB) of a processor. `fmc` is None for products before Turin."""

    boot_loader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0
    fmc: int | None = None

    @classmethod
    def read(cls, raw: bytes, turin: bool) -> Tcb:
        """Parse the eight bytes of a TCB. With `turin`, use the layout of Turin processors.

        Raises AttestationError if reserved bytes are not zero.
        """
        layout = _TURIN_TCB if turin else _TCB
        if any(byte for index, byte in enumerate(raw) if index not in layout.values()):
            raise refusal("report format", "reserved bytes of a TCB version that are zero", raw.hex())
        return cls(**{name: raw[index] for name, index in layout.items()})

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        return f"{fmc}boot loader {self.boot_loader}, tee {self.tee}, snp {self.snp}, microcode {self.microcode}"

    def reaches(self, least: Tcb) -> bool:
        """Return whether every version is at least as high as the version in `least`."""
        parts = ("boot_loader", "tee", "snp", "microcode")
        return (self.fmc or 0) >= (least.fmc or 0) and all(getattr(self, part) >= getattr(least, part) for part in parts)


@dataclass(frozen=True)
class Report:
    """A parsed report. `reported` are the processor's firmware versions, and `chip` is the processor's number.

    `r` and `s` are the ECDSA signature of the first `SIGNED` bytes of `raw`. The signature is not verified here.
    """

    raw: bytes = field(repr=False)
    version: int
    policy: int
    vmpl: int
    algorithm: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    reported: Tcb
    cpuid: tuple[int, int, int] | None
    chip: bytes
    r: int = field(repr=False)
    s: int = field(repr=False)

    @classmethod
    def read(cls, raw: bytes) -> Report:
        """Parse the bytes of a report. Raises AttestationError for a wrong length or version, or nonzero reserved bytes."""
        if len(raw) != LENGTH:
            raise refusal("report format", f"{LENGTH} bytes", f"{len(raw)} bytes")
        version = _number(raw, "version")
        if version not in VERSIONS:
            raise refusal("report format", f"a version from {VERSIONS[0]} to {VERSIONS[-1]}", version)
        _check_reserved(raw, version)
        cpuid = (raw[0x188], raw[0x189], raw[0x18A]) if version >= 3 else None
        coordinates = [int.from_bytes(raw[start : start + COORDINATE], "little") for start in (SIGNED, SIGNED + COORDINATE)]
        return cls(
            raw=raw,
            version=version,
            policy=_number(raw, "policy"),
            vmpl=_number(raw, "vmpl"),
            algorithm=_number(raw, "sig_algo"),
            key_info=_number(raw, "key_info"),
            report_data=_bytes(raw, "report_data"),
            measurement=_bytes(raw, "measurement"),
            host_data=_bytes(raw, "host_data"),
            reported=Tcb.read(_bytes(raw, "reported_tcb"), cpuid is not None and cpuid[0] >= TURIN_FAMILY),
            cpuid=cpuid,
            chip=_bytes(raw, "chip_id"),
            r=coordinates[0],
            s=coordinates[1],
        )

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Report:
        """Parse a report from `fields`, the JSON object of the attestation agent.

        The fields are first encoded as a report's bytes, so that the checks of `read` apply. Raises AttestationError for
        unknown, missing or invalid fields.
        """
        known = {name for name, *_ in _FIELDS}
        if unknown := sorted(map(str, set(fields) - known)):
            raise refusal("report format", "the fields of a report", f"a field {unknown[0]!r:.60}")
        raw = bytearray(LENGTH)
        for name, offset, size, kind in _FIELDS:
            if name not in fields and name not in _OPTIONAL:
                raise refusal("report format", f"a field {name!r}", "none")
            try:
                raw[offset : offset + size] = _WRITERS[kind](fields.get(name), size)
            except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
                raise refusal("report format", f"{name} as a {kind} of {size} bytes", "something else") from None
        return cls.read(bytes(raw))


def _check_reserved(raw: bytes, version: int) -> None:
    # no signature covers the bytes from `SIGNED` on
    ranges = [*_RESERVED, *(where for since, where in _NOT_YET.items() if version < since)]
    coordinates = [(start + 48, start + COORDINATE) for start in (SIGNED, SIGNED + COORDINATE)]  # P-384 has 48 bytes
    for start, end in (*ranges, *coordinates):
        if any(raw[start:end]):
            raise refusal("report format", f"zeros at {start:#x} to {end - 1:#x}, which are reserved", raw[start:end].hex())


_PLACES = {name: (offset, size) for name, offset, size, _ in _FIELDS}


def _bytes(raw: bytes, name: str) -> bytes:
    offset, size = _PLACES[name]
    return raw[offset : offset + size]


def _number(raw: bytes, name: str) -> int:
    return int.from_bytes(_bytes(raw, name), "little")


# --- the agent's JSON ------------------------------------------------------------------------------------------------------


def _write_number(value: Any, size: int) -> bytes:
    if type(value) is not int:
        raise TypeError
    return value.to_bytes(size, "little")


def _write_bytes(value: Any, size: int) -> bytes:
    if not isinstance(value, list) or len(value) != size or any(type(byte) is not int for byte in value):
        raise TypeError
    return bytes(value)


def _write_tcb(value: Any, size: int) -> bytes:
    layout = _TCB if value.get("fmc") is None else _TURIN_TCB
    if set(value) - {"fmc"} != {"bootloader", "tee", "snp", "microcode"}:
        raise TypeError
    raw = bytearray(size)
    for name, index in layout.items():
        raw[index : index + 1] = _write_number(value[name.replace("_", "")], 1)
    return bytes(raw)


def _write_version(value: Any, size: int) -> bytes:
    if set(value) != {"build", "minor", "major"}:
        raise TypeError
    return b"".join(_write_number(value[name], 1) for name in ("build", "minor", "major"))


def _write_signature(value: Any, size: int) -> bytes:
    if set(value) != {"r", "s"}:
        raise TypeError
    return _write_bytes(value["r"], size // 2) + _write_bytes(value["s"], size // 2)


_WRITERS = {
    "number": _write_number,
    "number or null": lambda value, size: bytes(size) if value is None else _write_number(value, size),
    "bytes": _write_bytes,
    "tcb": _write_tcb,
    "version": _write_version,
    "signature": _write_signature,
}
