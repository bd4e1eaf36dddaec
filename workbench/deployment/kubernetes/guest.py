"""The settings of the edge's container, and the configuration (initdata) of its guest.

The guest is the virtual machine around the container. In the guest, the Kata agent starts the container.

::

    Container --initdata--> TOML: the agent's policy, the key broker --sha256--> HOST_DATA in the guest's evidence

The guest's attestation evidence contains the digest of the initdata. So the evidence proves the image, the command, and the
permissions of the host. The agent refuses all requests of the host that the policy does not allow.

The host is not trusted. It sees only encrypted memory and TLS traffic, and the edge's log if the settings allow the host to
read it. The key broker gives the TLS key only to an attested guest.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from ...errors import UsageError, unknown
from ...services.attestation_agent import AGENT

__all__ = [
    "AGENT",
    "CERTS",
    "FILES",
    "USER",
    "VOLUMES",
    "Container",
    "GuestRuntime",
    "Shim",
    "initdata",
    "initdata_digest",
    "is_address",
    "peer_of",
    "port_of",
]

GuestRuntime = Literal["confidential", "development"]
Shim = Literal["go", "rust"]
PROGRAM = "/opt/pmc2/bin/workbench"
CERTS = "/run/pmc2/certs"
FILES = ("ca.pem", "edge.pem", "edge.key")
VOLUMES = {"/run/pmc2": "run", "/tmp": "tmp"}  # mount path -> name of a volume in the guest's memory
USER = 65532
ENVIRONMENT = (  # equal to the environment variables of the image
    "PATH=/opt/pmc2/bin:/usr/local/bin:/usr/bin:/bin",
    "WORKBENCH_DATA=/opt/pmc2/data",
    "HOME=/tmp",
    "PYTHONNOUSERSITE=1",
    "PYTHONUNBUFFERED=1",
)
PEM = r"(-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+"


@dataclass(frozen=True)
class Container:
    """The settings of an edge in a container. Raises UsageError for settings that cannot run, or that disclose too much.

    image: the image's name, with a digest.
    cloud: the cloud's IP:PORT. A host name is not allowed, because network policies support no names.
    runtime: "confidential", or "development", which needs no special hardware and protects nothing.
    options: further arguments of `workbench serve edge`.
    node_port: the port on each cluster node, or 0 for none.
    kbs_url, kbs_cert: the key broker's URL, and its certificate (PEM) if no public authority signed it.
    egress: other addresses that the guest must reach, each IP:PORT or NETWORK/BITS:PORT. Add the image's registry, because a
        guest pulls its own image. Add the key broker if its URL has a host name.
    resource: the path of ca.pem, edge.pem and edge.key on the key broker. If it is empty, the host provides these files and can
        read them. Only the development runtime allows this.
    logs: whether the host may read the edge's log.
    policy: a policy (Rego) for the Kata agent, in place of the workbench's own.
    shim: the language of the nodes' Kata runtime. The implementations in Go and in Rust have different runtime classes.
    gpu: the Kubernetes resource of the guest's GPU, such as nvidia.com/pgpu.
    """

    image: str
    cloud: str
    name: str = "pmc2-edge"
    namespace: str = "default"
    runtime: GuestRuntime = "confidential"
    port: int = 8443
    node_port: int = 0
    memory: str = "6Gi"
    cpu: str = "4"
    replicas_min: int = 1
    replicas_max: int = 1
    kbs_url: str = ""
    kbs_cert: str = field(default="", repr=False)
    resource: str = ""
    egress: tuple[str, ...] = ()
    logs: bool = False
    options: tuple[str, ...] = ()
    create_namespace: bool = False
    policy: str | None = field(default=None, repr=False)
    shim: Shim = "go"
    gpu: str = ""

    def __post_init__(self) -> None:
        if self.runtime not in get_args(GuestRuntime):
            raise unknown("runtime", self.runtime, get_args(GuestRuntime))
        if self.shim not in get_args(Shim):
            raise unknown("shim", self.shim, get_args(Shim))
        self._check_names()
        self._check_numbers()
        for peer in self.peers:
            peer_of(peer)
        if "/" in self.cloud:
            raise UsageError(f"cloud {self.cloud!r} must be one IP:PORT, not a network")
        self._check_broker()
        initdata(self)

    @property
    def readable(self) -> bool:
        """Whether the host may read the edge's log."""
        return self.logs or self.runtime == "development"

    @property
    def selector(self) -> dict[str, str]:
        return {"app.kubernetes.io/instance": self.name, "app.kubernetes.io/managed-by": "pmc2-workbench"}

    @property
    def role(self) -> str:
        """The stage that runs in the container: "edge", or "cloud" in the subclass `CloudContainer`."""
        return "edge"

    @property
    def peers(self) -> tuple[str, ...]:
        """The addresses, IP:PORT or NETWORK/BITS:PORT, that the pod may reach in addition to its key broker."""
        return (self.cloud, *self.egress)

    @property
    def command(self) -> tuple[str, ...]:
        """The container's command, the only one that the guest's policy allows."""
        secrets = ("--secrets", self.resource) if self.resource else ()
        served = ("--listen", f"0.0.0.0:{self.port}", "--certs", CERTS, "--cloud", f"https://{self.cloud}", "--probes")
        return (PROGRAM, "serve", "edge", *served, "--attestation-agent", AGENT, *secrets, *self.options)

    def _check_names(self) -> None:
        if not re.fullmatch(r"[^\s@\"'\\]+@sha256:[0-9a-f]{64}", self.image):
            raise UsageError(f"image {self.image!r} must name a digest, registry.example/pmc2-edge@sha256:...: a tag can move")
        for what, name, most in (("name", self.name, 50), ("namespace", self.namespace, 63)):
            if len(name) > most or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
                raise UsageError(f"{what} {name!r} must be small letters, digits and '-', from a letter on, {most} at most")
        if self.resource and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", self.resource, re.ASCII):
            raise UsageError(f"resource {self.resource!r} must be REPOSITORY/TYPE, such as default/pmc2-edge")

    def _check_numbers(self) -> None:
        if not re.fullmatch(r"[1-9]\d*(Mi|Gi)", self.memory, re.ASCII):
            raise UsageError(f"memory {self.memory!r} must be in Mi or Gi, such as 6Gi")
        if not re.fullmatch(r"[1-9]\d*m?", self.cpu, re.ASCII):
            raise UsageError(f"cpu {self.cpu!r} must be cores or thousandths of one, such as 4 or 500m")
        if not 1024 <= self.port <= 65535:
            raise UsageError(f"port {self.port} must be from 1024 to 65535: the edge is not root")
        if self.gpu and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*/[A-Za-z0-9][\w.-]*", self.gpu, re.ASCII):
            raise UsageError(f"gpu {self.gpu!r} must be a resource of the cluster's nodes, such as nvidia.com/pgpu")
        if self.node_port and not 1024 <= self.node_port <= 65535:
            raise UsageError(f"node_port {self.node_port} must be of the cluster's range, by default 30000 to 32767 (0: none)")
        if not 1 <= self.replicas_min <= self.replicas_max:
            raise UsageError(f"replicas from {self.replicas_min} to {self.replicas_max}: must be from 1 up, the most not below")

    def _check_broker(self) -> None:
        confidential = self.runtime == "confidential"
        if confidential and not (self.kbs_url and self.resource):
            raise UsageError("a confidential edge needs kbs_url and resource: else the host would see its TLS key")
        if self.resource and not self.kbs_url:
            raise UsageError(f"resource {self.resource!r} is of a key broker: give its kbs_url")
        if not self.kbs_url:
            return
        if not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./-]*)?", self.kbs_url, re.ASCII) or not port_of(self.kbs_url):
            raise UsageError(f"kbs_url {self.kbs_url!r} must be http(s)://HOST[:PORT]")
        if _is_named(self.kbs_url) and not self.egress:
            raise UsageError(f"kbs_url {self.kbs_url!r} has a name, which no network policy knows: give egress its IP:PORT")
        if self.kbs_cert and not re.fullmatch(PEM, self.kbs_cert.strip()):
            raise UsageError("kbs_cert must be a certificate in PEM")


# --- the guest's configuration ---------------------------------------------------------------------------------------------


def initdata(container: Container) -> str:
    """Return the guest's configuration (initdata) as TOML. Equal settings give equal text."""
    parts = {"policy.rego": _policy(container)}
    if container.kbs_url:
        certificate = f'\ncert = """\n{container.kbs_cert.strip()}\n"""' if container.kbs_cert else ""
        broker = f'url = "{container.kbs_url}"{certificate}'
        parts["aa.toml"] = f"[token_configs.kbs]\n{broker}\n"
        hub = broker.replace("\ncert =", "\nkbs_cert =")
        parts["cdh.toml"] = f'socket = "unix:///run/confidential-containers/cdh.sock"\n\n[kbc]\nname = "cc_kbc"\n{hub}\n'
    if any("'''" in text for text in parts.values()):
        raise UsageError("neither a policy nor an option can have ''' in it: the guest's configuration would end there")
    texts = "\n".join(f"\"{name}\" = '''\n{text}'''\n" for name, text in parts.items())
    return f'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n{texts}'


def initdata_digest(container: Container) -> str:
    """Return the SHA-256 (hex) of the guest's initdata.

    An attestation policy requires this digest as HOST_DATA in the evidence.
    """
    return hashlib.sha256(initdata(container).encode()).hexdigest()


def _policy(container: Container) -> str:
    if container.policy is not None:
        return container.policy if container.policy.endswith("\n") else container.policy + "\n"
    about = {
        "image": container.image,
        "command": container.command,
        "user": USER,
        "environment": ENVIRONMENT,
        "from_host": not container.resource,
        "logs": container.readable,
        "volumes": VOLUMES,
        "certificate_links": {name: _link(f"..data/{name}") for name in FILES},
    }
    rules = Path(__file__).with_name("policy.rego").read_text(encoding="utf-8")
    return rules + "\n" + "".join(f"{name} := {json.dumps(value, indent=1)}\n" for name, value in about.items())


def _link(target: str) -> dict[str, object]:
    # the policy's input has text since Kata 3.29.0, and a list of bytes in older versions
    return {"text": target, "bytes": list(target.encode())}


# --- addresses -------------------------------------------------------------------------------------------------------------


def peer_of(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int]:
    """Parse IP:PORT or NETWORK/BITS:PORT. Return the network and the port. Raises UsageError for a host name or other text."""
    host, _, port = text.rpartition(":")
    try:
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(port)
        return ipaddress.ip_network(host.replace("[", "").replace("]", "")), int(port)
    except ValueError:
        raise UsageError(f"{text!r} must be IP:PORT, such as 10.0.0.7:8444: a network policy knows no names") from None


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_named(url: str) -> bool:
    return not is_address(urlsplit(url).hostname or "")


def port_of(url: str) -> int | None:
    """Return the port of a URL, by default 80 for http and 443 for https.

    Return None if the URL is invalid, or if it has another scheme and no port.
    """
    try:
        parts = urlsplit(url)
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
