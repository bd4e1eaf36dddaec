"""Compute the launch measurement of a guest from the files with which QEMU starts the guest.

A guest is a virtual machine under SEV-SNP. The guest's attestation report must contain this measurement.

::

    OVMF's pages -> sections of OVMF's metadata (with hashes of kernel, initrd, command line) -> state of each vCPU -> SHA-384

The package sev-snp-measure (virtee, 0.0.13) does the computation. Kata's own tests use this package for the same purpose (kata
4.1.0, `tests/integration/kubernetes/k8s-confidential-attestation.bats`).
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..errors import UsageError, unknown

__all__ = ["EXTRA", "GUEST_FEATURES", "VCPU_TYPE", "Boot", "measure"]

EXTRA = "pip install -e '.[measure]' in the checkout"
VCPU_TYPE = "EPYC-v4"  # of SEV-SNP guests of kata 4.1.0
GUEST_FEATURES = 0x1  # SNPActive alone, the default of hosts with Linux 6.10 or later
MOST_VCPUS = 4096  # QEMU's limit
MOST_OVMF = 64 << 20  # bytes
PAGE = 4096


@dataclass(frozen=True)
class Boot:
    """The files and options with which QEMU starts a guest.

    ovmf: the firmware, in whole pages of 4096 bytes.
    kernel, initrd, append: QEMU's options of these names. initrd and append require a kernel.
    guest_features: SEV_FEATURES in the guest's saved CPU state (VMSA).
    ovmf_hash: a SHA-384 in hexadecimal, used in place of the digest of the pages of `ovmf`. The metadata is still read from
        `ovmf`.
    """

    ovmf: Path
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    vcpus: int = 1
    vcpu_type: str = VCPU_TYPE
    guest_features: int = GUEST_FEATURES
    ovmf_hash: str = ""


def measure(boot: Boot) -> bytes:
    """Return the SEV-SNP launch measurement of a guest, 48 bytes.

    Raises UsageError if files or options are invalid, if a file is unreadable, or if sev-snp-measure is not installed.
    """
    guest, types = _package()
    _check(boot, list(types.CPU_SIGS))
    try:
        digest = guest.snp_calc_launch_digest(
            boot.vcpus,
            types.CPU_SIGS[boot.vcpu_type],
            str(boot.ovmf),
            str(boot.kernel) if boot.kernel else "",
            str(boot.initrd) if boot.initrd else "",
            boot.append,
            boot.guest_features,
            boot.ovmf_hash,
        )
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (RuntimeError, ValueError, AssertionError, KeyError, IndexError, struct.error) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UsageError(
            f"{boot.ovmf} is no OVMF that SEV-SNP can start this way ({reason}): use a build of AmdSevX64"
        ) from None
    return bytes(digest)


def _package() -> tuple[ModuleType, ModuleType]:
    try:
        from sevsnpmeasure import guest, vcpu_types
    except ImportError:
        raise UsageError(f"measurements need the package sev-snp-measure: {EXTRA}") from None
    return guest, vcpu_types


def _check(boot: Boot, types: list[str]) -> None:
    if boot.vcpu_type not in types:
        raise unknown("vCPU type", boot.vcpu_type, types)
    if not 1 <= boot.vcpus <= MOST_VCPUS:
        raise UsageError(f"vcpus is from 1 to {MOST_VCPUS}, got {boot.vcpus}")
    if not 1 <= boot.guest_features < 1 << 64:
        raise UsageError(f"guest features are 64 bits, of which SNPActive (1) is set, got {boot.guest_features:#x}")
    if boot.kernel is None and (boot.initrd is not None or boot.append):
        raise UsageError("an initrd and a kernel command line are measured with a kernel only: give the kernel, too")
    if boot.ovmf_hash and not re.fullmatch("[0-9a-fA-F]{96}", boot.ovmf_hash):
        raise UsageError(f"the OVMF's hash is 48 bytes in hexadecimal, got {boot.ovmf_hash[:24]!r}")
    if "\0" in boot.append:
        raise UsageError("a kernel command line ends at its first zero byte: remove it")
    for path in (boot.ovmf, boot.kernel, boot.initrd):
        if path is not None:
            _check_file(path)
    size = boot.ovmf.stat().st_size
    if size == 0 or size % PAGE or size > MOST_OVMF:
        raise UsageError(f"{boot.ovmf} has {size} bytes: an OVMF has whole pages of {PAGE}, up to {MOST_OVMF}")


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
