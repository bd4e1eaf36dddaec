"""The cloud in a guest whose GPU is confidential, too: its objects for Kubernetes. Rendered, valid under schema, and never run.

NVIDIA's reference runs it as the runtime class kata-qemu-nvidia-gpu-snp, on a Hopper or Blackwell GPU in its confidential mode.
The guest's policy is the one of the edge, which admits no device: what the GPU adds to the agent's requests is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from .guest import AGENT, CERTS, PROGRAM, Container

__all__ = ["CloudContainer"]


@dataclass(frozen=True)
class CloudContainer(Container):
    """A cloud in a container. It reaches its key broker and what `egress` names; it is reached by edges, at `port`."""

    cloud: str = ""
    port: int = 8444

    @property
    def role(self) -> str:
        """The service that runs in the container."""
        return "cloud"

    @property
    def peers(self) -> tuple[str, ...]:
        """Return the addresses that the pod may reach, next to its key broker."""
        return self.egress

    @property
    def command(self) -> tuple[str, ...]:
        """What runs in the container, and all that may."""
        secrets = ("--attestation-agent", AGENT, "--secrets", self.resource)
        return (PROGRAM, "serve", "cloud", "--listen", f"0.0.0.0:{self.port}", "--certs", CERTS, *secrets, *self.options)
