"""`workbench measure`: compute the launch measurement of a SEV-SNP guest from the guest's boot files.

A guest is a confidential VM. The measurement is a hash, by which an attestation policy recognises the guest's software.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .options import Commands, add_command, positive

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "measure",
        _measure,
        "compute the measurement of a SEV-SNP guest, for an attestation policy",
        """  workbench measure --ovmf AMDSEV.fd --kernel vmlinuz --append "$APPEND" --vcpus 2
  workbench measure --ovmf AMDSEV.fd --kernel vmlinuz --initrd initrd.img --append "console=ttyS0" --vcpus 4 --json
  workbench measure --ovmf AMDSEV.fd --vcpus 1 --vcpu-type EPYC-Genoa        no kernel: OVMF boots a disk, which is not measured
  workbench measure --ovmf AMDSEV.fd --vcpus 1 --guest-features 0x21         a host whose KVM has DebugSwap on""",
    )
    made.add_argument("--ovmf", type=Path, required=True, metavar="FILE", help="firmware: QEMU's -bios")
    made.add_argument("--kernel", type=Path, metavar="FILE", help="QEMU's -kernel")
    made.add_argument("--initrd", type=Path, metavar="FILE", help="QEMU's -initrd")
    made.add_argument("--append", default="", metavar="TEXT", help="the kernel's command line, exactly: QEMU's -append")
    made.add_argument("--vcpus", type=positive, required=True, metavar="N", help="virtual CPUs: the number in QEMU's -smp")
    made.add_argument(
        "--vcpu-type", default="EPYC-v4", metavar="NAME", help="QEMU's -cpu (default: EPYC-v4, as Kata starts guests)"
    )
    made.add_argument(
        "--guest-features",
        type=_integer,
        default=0x1,
        metavar="BITS",
        help="SEV_FEATURES of the guest (default: 0x1, SNPActive)",
    )
    made.add_argument(
        "--ovmf-hash", default="", metavar="HEX", help="digest over the OVMF's pages, in place of the file's own pages"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number such as 0x1, got {text!r}") from None


def _measure(options: argparse.Namespace) -> int:
    from ..attest.measurement import Boot, measure

    boot = Boot(
        options.ovmf,
        options.kernel,
        options.initrd,
        options.append,
        options.vcpus,
        options.vcpu_type,
        options.guest_features,
        options.ovmf_hash,
    )
    measurement = measure(boot).hex()
    if options.json:
        files = {name: str(path) for name in ("ovmf", "kernel", "initrd") if (path := getattr(boot, name)) is not None}
        parts = {"append": boot.append, "vcpus": boot.vcpus, "vcpu_type": boot.vcpu_type}
        print(
            json.dumps({"measurement": measurement, **files, **parts, "guest_features": f"{boot.guest_features:#x}"}, indent=1)
        )
    else:
        print(measurement)
    return 0
