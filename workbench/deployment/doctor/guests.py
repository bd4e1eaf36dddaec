"""Check a cluster node that starts guests: kernel, processor, KVM, SEV-SNP and its firmware, IOMMU.

A guest is the virtual machine around a container. SEV-SNP is AMD's protection of guests from their host.

Source of the minimum versions: confidentialcontainers.org at f8b9b0f (2026-08-07), "SEV-SNP Host Setup".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kubernetes.guest import Container
from .findings import Finding, ok, unknown, version_of, wrong
from .hosts import system_of

__all__ = ["KERNEL", "kernel_finding", "node_findings"]

KERNEL = (6, 16, 1)
FIRMWARE = (1, 55)  # the first version with attestation reports of version 3
PRODUCTS = {  # {(processor's family, model // 16): product}
    (25, 0): "Milan",
    (25, 1): "Genoa",
    (25, 10): "Genoa",
    (26, 0): "Turin",
    (26, 1): "Turin",
}
LOGGED = "`sudo dmesg | grep -i -e sev -e rmp` there tells why"


def node_findings(
    machine: str, container: Container, facts: Mapping[str, str], found: Mapping[str, Any] | None
) -> list[Finding]:
    """Check a cluster node on which the container's guest is to start.

    `facts` are the facts that the shell script `hosts.SHELL` printed on the node. `found` is the output of
    `agent/inventory.py`, or None if this program cannot run on the node.
    """
    kvm = _kvm(machine, facts)
    if container.runtime == "development":
        return [ok(machine, "kernel", f"has {system_of(facts)}"), kvm]
    kernel = kernel_finding(machine, facts.get("kernel", ""))
    if found is None:
        return [kernel, kvm]
    return [
        kernel,
        _processor(machine, found["processor"]),
        kvm,
        _switch(machine, found["snp"]),
        _device(machine, found["snp"]),
        _firmware(machine, found["snp"]["firmware"]),
        _iommu(machine, found["iommu"]),
    ]


def kernel_finding(machine: str, kernel: str) -> Finding:
    """Check whether a Linux kernel is new enough for SEV-SNP guests. `kernel` is its version, such as 6.17.0-8-generic."""
    least = ".".join(map(str, KERNEL))
    way = "install one (Ubuntu 26.04 has it; on 24.04 `sudo apt install linux-generic-hwe-24.04`), and reboot"
    if not version_of(kernel):
        return unknown(machine, "kernel", "does not tell its kernel", "`uname -r` there")
    if version_of(kernel) < KERNEL:
        return wrong(machine, "kernel", f"has Linux {kernel}, and SEV-SNP guests need {least} or later", way)
    return ok(machine, "kernel", f"has Linux {kernel}")


def _processor(machine: str, processor: Mapping[str, Any]) -> Finding:
    name = processor["name"] or "an unknown processor"
    if processor["guest"]:
        return wrong(machine, "processor", "is a virtual machine, in which no SEV-SNP guest starts", "use a bare-metal host")
    family, model = (int(processor[key]) if processor[key].isdigit() else -1 for key in ("family", "model"))
    product = PRODUCTS.get((family, model >> 4)) if processor["vendor"] == "AuthenticAMD" else None
    if product is None:
        return wrong(machine, "processor", f"has {name}, which is no EPYC of 7003 or later", "use a host with such a processor")
    if not processor["snp"]:
        way = "switch SMEE, SEV-SNP (with its RMP table) and the IOMMU on in its firmware's setup, and SEV's ASID limit above 1"
        return wrong(machine, "processor", f"has {name} ({product}) with SEV-SNP switched off", way)
    if product == "Milan":
        return ok(machine, "processor", f"has {name}: a Milan, which a policy must name to trust (arXiv 2605.12990)")
    return ok(machine, "processor", f"has {name} ({product}) with SEV-SNP")


def _kvm(machine: str, facts: Mapping[str, str]) -> Finding:
    if facts.get("kvm") != "yes":
        way = "`sudo modprobe kvm_amd` (or kvm_intel) there; if that fails, switch SVM on in its firmware's setup"
        return wrong(machine, "KVM", "has no /dev/kvm, and a guest is a virtual machine", way)
    return ok(machine, "KVM", "has /dev/kvm")


def _switch(machine: str, snp: Mapping[str, Any]) -> Finding:
    if not snp["module"]:
        return wrong(machine, "SEV-SNP", "has not loaded the module kvm_amd", "`sudo modprobe kvm_amd` there")
    if snp["switch"] not in ("Y", "1"):
        way = f"`sudo modprobe -r kvm_amd && sudo modprobe kvm_amd sev_snp=1` there; if it stays off, {LOGGED}"
        return wrong(
            machine, "SEV-SNP", f"runs KVM without SEV-SNP (kvm_amd's sev_snp is {snp['switch'] or 'not there'!s})", way
        )
    return ok(machine, "SEV-SNP", "runs KVM with SEV-SNP")


def _device(machine: str, snp: Mapping[str, Any]) -> Finding:
    if not snp["device"]:
        return wrong(
            machine, "/dev/sev", "has no /dev/sev, the way to its secure processor", f"`sudo modprobe ccp` there; {LOGGED}"
        )
    return ok(machine, "/dev/sev", "has /dev/sev")


def _firmware(machine: str, version: list[int] | None) -> Finding:
    least = ".".join(map(str, FIRMWARE))
    if version is None:
        text = "does not tell this user the version of its SEV firmware"
        return unknown(machine, "firmware", text, f"`sudo snphost show version` there must say {least} or later")
    shown = ".".join(map(str, version))
    if tuple(version) < FIRMWARE:
        way = "copy AMD's newest (developer.amd.com/sev) to /lib/firmware/amd there and reboot, or update its BIOS"
        return wrong(machine, "firmware", f"has SEV firmware {shown}, and reports of version 3 need {least} or later", way)
    return ok(machine, "firmware", f"has SEV firmware {shown}")


def _iommu(machine: str, iommu: Mapping[str, Any]) -> Finding:
    if iommu["options"]:
        way = "take it out of GRUB_CMDLINE_LINUX in /etc/default/grub there, `sudo update-grub`, and reboot"
        return wrong(machine, "IOMMU", f"was booted with {' '.join(iommu['options'])}, which SEV-SNP does not work with", way)
    if not iommu["units"]:
        return wrong(machine, "IOMMU", "has no IOMMU at work", "switch it on in its firmware's setup, and reboot")
    return ok(machine, "IOMMU", f"has its IOMMU at work ({iommu['units']} units)")
