"""The settings of the cloud's container, in a guest (virtual machine) with a confidential GPU.

The container's Kubernetes objects match their schemas, but have never run. NVIDIA's reference uses the runtime class
kata-qemu-nvidia-gpu-snp, on a Hopper or Blackwell GPU in its confidential mode.

In the guest, the Kata agent starts the container. A policy states which requests of the host this agent accepts. The cloud uses
the edge's policy, which accepts no device. It is unknown which additional requests a GPU needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .guest import AGENT, CERTS, PROGRAM, Container

__all__ = ["CloudContainer"]


@dataclass(frozen=True)
class CloudContainer(Container):
    """The settings of the cloud's container. The field `cloud` stays empty, because only an edge needs the cloud's address."""

    cloud: str = ""
    port: int = 8444

    @property
    def role(self) -> str:
        return "cloud"

    @property
    def peers(self) -> tuple[str, ...]:
        return self.egress

    @property
    def command(self) -> tuple[str, ...]:
        secrets = ("--attestation-agent", AGENT, "--secrets", self.resource)
        return (PROGRAM, "serve", "cloud", "--listen", f"0.0.0.0:{self.port}", "--certs", CERTS, *secrets, *self.options)
