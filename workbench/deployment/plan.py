"""Read the plan of a deployment from a TOML file.

A plan has the machine, the settings and the address of each stage. The stages are two services, the edge and the cloud.
`TEMPLATE` is the text of an example plan. Its comments explain all keys.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UsageError, unknown
from ..storage import data_root
from .kubernetes.gpu import CloudContainer
from .kubernetes.guest import Container, Shim

__all__ = ["TEMPLATE", "ContainerSettings", "Deployment", "Runtime", "StagePlan", "Which", "local_plan"]

Runtime = Literal["process", "confidential", "development"]
Which: TypeAlias = Literal["edge", "cloud"]
Made = TypeVar("Made")

TEMPLATE = """# A deployment: the edge stage and the cloud stage, each on a machine of its own.
#   workbench launch deployment.toml         workbench status | logs edge | recognize cat.png | stop
# Lines that are commented out show the defaults.

[pair]
# dataset = "cifar10"          # the weights: shipped ones, or those trained here
# target = "resnet18"
# auxiliary = "vgg13_bn"
# codec = "neural"             # neural, compressai, png, jpeg or webp

[edge]
host = "local"                 # an alias of ~/.ssh/config, USER@HOST:PORT, or "local": this machine, without SSH
runtime = "process"            # "process": on the host itself
                               # "confidential": Kubernetes with kata-qemu-snp, an AMD SEV-SNP guest
                               # "development": Kubernetes with kata-qemu-coco-dev, the same without a TEE: it protects nothing
# image = "registry.example/pmc2-edge@sha256:..."   # of a container, by digest; see deployment/kubernetes/Containerfile
# device = "auto"              # cpu, cuda (refused without a GPU) or auto
# listen = "127.0.0.1:0"       # the address on which it listens; port 0: any free one
# address = "edge.example:8443"  # its address from here, for TLS; without it, through SSH
# python = "/opt/py/bin/python"  # an interpreter there with the packages installed; without it, an environment is made
# pip = []                     # more arguments of pip for the environment, such as an index of your own
# folder = ".pmc2"             # the folder of its files there, relative to the home folder
# options = []                 # more of `workbench serve edge --help`, such as ["--precision", "bfloat16"]

[cloud]
host = "local"
# runtime = "process"
# device = "auto"
# address = "10.0.0.7:8444"    # its address from the edge; without it, through SSH and this machine. A container needs it

# [edge.container]             # for an edge in a container
# namespace = "default"
# memory = "6Gi"               # image and models are in the guest's memory
# cpu = "4"
# replicas = [1, 4]            # the least and the most, scaled by CPU load
# node_port = 30443            # on the host; without it, the pod is reached through SSH
# kbs = "http://10.0.0.9:8080" # key broker: releases the edge's TLS key only to an attested guest
# kbs_cert = "kbs.pem"         # the certificate (PEM, relative to this file) of an https broker with a certificate of its own
# secrets = "default/pmc2-edge"  # its resources there: .../ca.pem, .../edge.pem, .../edge.key
# egress = []                  # other addresses that the guest must reach, IP:PORT or NETWORK/BITS:PORT: its image's registry
# logs = false                 # let the host read the edge's log (always allowed for development)
# create_namespace = false
# shim = "go"                  # the nodes' Kata runtime, "go" or "rust": each has runtime classes of its own
# kubectl = "kubectl"          # on the host, with context and kubeconfig, if its defaults do not fit
# context = ""
# kubeconfig = ""

# [cloud.container]            # for a "confidential" cloud with an image: `workbench manifests` prints its objects
# gpu = "nvidia.com/pgpu"      # the nodes' resource for a confidential GPU: never run, cannot be launched
#                              # kbs, secrets, egress, memory, cpu and shim as for the edge

# [client]
# policy = "policy.toml"       # what the edge's evidence must prove before a picture leaves this machine; a confidential
                               # edge needs one
"""


def local_plan(dataset: str, target: str, auxiliary: str, folder: Path) -> str:
    """Return the text of a plan that runs both stages on this machine, with the current Python interpreter.

    The stages keep their files in `folder`. The other arguments become keys of the plan's table [pair].
    """
    pair = f"dataset = {json.dumps(dataset)}\ntarget = {json.dumps(target)}\nauxiliary = {json.dumps(auxiliary)}\n"
    stage = f'host = "local"\npython = {json.dumps(sys.executable)}\nfolder = {json.dumps(str(folder.resolve()))}\n'
    return f"[pair]\n{pair}\n[edge]\n{stage}\n[cloud]\n{stage}"


@dataclass(frozen=True)
class PairPlan:
    """The table [pair] of a plan. The table selects the weights of the stages.

    `target` is the classifier in the cloud, which recognizes protected pictures. `auxiliary` is another classifier, which must
    not recognize protected pictures.
    """

    dataset: str = "cifar10"
    target: str = "resnet18"
    auxiliary: str = "vgg13_bn"
    codec: str = "neural"


@dataclass(frozen=True)
class ContainerSettings:
    """The table [edge.container] or [cloud.container] of a plan. `TEMPLATE` explains the keys."""

    namespace: str = "default"
    memory: str = "6Gi"
    cpu: str = "4"
    replicas: tuple[int, ...] = (1, 1)
    node_port: int = 0
    kbs: str = ""
    kbs_cert: str = ""
    secrets: str = ""
    egress: tuple[str, ...] = ()
    logs: bool = False
    create_namespace: bool = False
    kubectl: str = "kubectl"
    context: str = ""
    kubeconfig: str = ""
    shim: Shim = "go"
    gpu: str = ""


@dataclass(frozen=True)
class StagePlan:
    """The table [edge] or [cloud] of a plan: the machine and the settings of a stage. `TEMPLATE` explains the keys."""

    host: str
    runtime: Runtime = "process"
    image: str = ""
    device: str = "auto"
    listen: str = "127.0.0.1:0"
    address: str = ""
    python: str = ""
    pip: tuple[str, ...] = ()
    folder: str = ".pmc2"
    options: tuple[str, ...] = ()
    container: ContainerSettings = ContainerSettings()

    @property
    def local(self) -> bool:
        return self.host == "local"


@dataclass(frozen=True)
class ClientPlan:
    """The table [client] of a plan. `policy` is the path of the client's attestation policy, or "" for no policy."""

    policy: str = ""


@dataclass(frozen=True)
class Deployment:
    """The plan of a deployment. `name` is the name of the plan's file without .toml, and `path` is the file's absolute path."""

    name: str
    path: Path
    pair: PairPlan
    edge: StagePlan
    cloud: StagePlan
    client: ClientPlan

    @classmethod
    def read(cls, path: str | Path) -> Deployment:
        """Read a plan from a TOML file.

        Raises UsageError if the file is unreadable. For a missing, unknown or invalid value, the error names the key.
        """
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise UsageError(f"there is no {path}: make one with `workbench init-deployment {path}`") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        name = path.stem
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
            raise UsageError(f"{path.name}: a deployment's file has up to 40 small letters, digits and '-' before .toml")
        try:
            made = _made(_Plan, content, "")
            plan = cls(name, path.resolve(), made.pair, made.edge, made.cloud, made.client)
            plan._check()
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        return plan

    @property
    def folder(self) -> Path:
        """The local folder of the deployment's certificates, ports and logs."""
        return data_root() / "runs" / "deployments" / self.name

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    @property
    def policy(self) -> Path | None:
        """The path of the client's attestation policy, or None. A path in the plan may be relative to the plan's folder."""
        return self.path.parent / self.client.policy if self.client.policy else None

    def stage(self, which: Which) -> StagePlan:
        return self.edge if which == "edge" else self.cloud

    def _beside(self, name: str) -> str:
        try:
            return (self.path.parent / name).read_text(encoding="ascii") if name else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name} cannot be read ({type(error).__name__}): it is to be a certificate in PEM") from None

    def container(self) -> Container:
        """Return the settings of the edge's container.

        Raises UsageError if the edge runs as a process, or a setting is invalid.
        """
        settings = self._container_settings("edge", self.edge.options) | {"runtime": self.edge.runtime}
        least, most = self.edge.container.replicas
        return Container(cloud=self.cloud.address, replicas_min=least, replicas_max=most, **settings)

    def cloud_container(self) -> CloudContainer:
        """Return the settings of the cloud's container, which has a GPU.

        Raises UsageError if the cloud runs as a process, or a setting is invalid.
        """
        options = ("--device", "cuda", *self.cloud.options)
        return CloudContainer(gpu=self.cloud.container.gpu, **self._container_settings("cloud", options))

    def _container_settings(self, which: Which, options: tuple[str, ...]) -> dict[str, Any]:
        stage, settings, pair = self.stage(which), self.stage(which).container, self.pair
        if stage.runtime == "process":
            raise UsageError(f"[{which}] runtime is 'process', which is no container")
        names = ("--dataset", pair.dataset, "--target", pair.target, "--auxiliary", pair.auxiliary, "--codec", pair.codec)
        same = ("namespace", "node_port", "memory", "cpu", "egress", "logs", "create_namespace", "shim")
        return {
            **{name: getattr(settings, name) for name in same},
            "image": stage.image,
            "name": f"{self.name}-{which}",
            "kbs_url": settings.kbs,
            "kbs_cert": self._beside(settings.kbs_cert),
            "resource": settings.secrets,
            "options": (*names, *options),
        }

    def _check(self) -> None:
        for which in get_args(Which):
            stage = self.stage(which)
            for key, text in (("listen", stage.listen), ("address", stage.address)):
                if (key == "listen" or text) and not re.fullmatch(r"\S+:\d{1,5}", text):
                    raise UsageError(f"[{which}] {key} = {text!r} is no HOST:PORT, such as 127.0.0.1:8443")
            if stage.device not in ("auto", "cpu", "cuda"):
                raise unknown(f"device of [{which}]", stage.device, ("auto", "cpu", "cuda"))
            if not stage.host or not stage.folder:
                raise UsageError(f"[{which}] host and folder must not be empty")
        if self.cloud.runtime != "process":
            self._check_cloud_container()
        if self.edge.runtime != "process":
            self._check_container()

    def _check_cloud_container(self) -> None:
        if self.cloud.runtime != "confidential" or not self.cloud.container.gpu:
            raise UsageError(
                "[cloud] runtime must be 'process', or 'confidential' with [cloud.container] gpu, such as \"nvidia.com/pgpu\""
            )
        if not (self.cloud.container.kbs and self.cloud.container.secrets):
            raise UsageError("[cloud.container] kbs and secrets are needed: else the host would see the cloud's TLS key")
        self.cloud_container()  # checks the other settings

    def _check_container(self) -> None:
        if not re.fullmatch(r"[^\s@]+@sha256:[0-9a-f]{64}", self.edge.image):
            raise UsageError(f"[edge] image = {self.edge.image!r} must name a digest: registry.example/pmc2-edge@sha256:...")
        host = self.cloud.address.rpartition(":")[0]
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            raise UsageError(
                f"[cloud] address = {self.cloud.address!r} must be IP:PORT: a container may reach that and nothing else"
            ) from None
        if self.edge.container.gpu:
            raise UsageError("[edge.container] gpu is a key of [cloud.container]: the edge computes on its processor")
        replicas = self.edge.container.replicas
        if len(replicas) != 2 or not 1 <= replicas[0] <= replicas[1]:
            raise UsageError(f"[edge.container] replicas = {list(replicas)} must be [least, most], from 1 up")
        if self.edge.runtime == "confidential" and not (self.edge.container.kbs and self.edge.container.secrets):
            raise UsageError("[edge.container] kbs and secrets are needed: else the host would see the edge's TLS key")
        self.container()  # checks the other settings


@dataclass(frozen=True)
class _Plan:
    edge: StagePlan
    cloud: StagePlan
    pair: PairPlan = PairPlan()
    client: ClientPlan = ClientPlan()


def _made(kind: type[Made], content: Mapping[str, Any], where: str) -> Made:
    hints = get_type_hints(kind)
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if wrong := [key for key in content if key not in fields]:
        raise unknown(f"key in {where or 'the plan'}", wrong[0], fields)
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key in content:
            values[key] = _value(content[key], hints[key], f"{where} {key}".strip() if where else f"[{key}]")
        elif field.default is dataclasses.MISSING:
            raise UsageError(f"{where} {key} is missing".strip() if where else f"the table [{key}] is missing")
    return kind(**values)


def _value(value: Any, kind: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{where} must be a table")
        assert isinstance(kind, type)
        table = where if where.startswith("[") and " " not in where else f"[{where.replace('[', '').replace('] ', '.')}]"
        return _made(kind, value, table)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown(where, value, get_args(kind))
        return value
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if not isinstance(value, list) or not all(type(each) is inner for each in value):
            raise UsageError(f"{where} must be a list of {'text' if inner is str else 'whole numbers'}, got {value!r}")
        return tuple(value)
    if type(value) is not kind:
        wanted = {str: "text", int: "a whole number", bool: "true or false"}[kind]
        raise UsageError(f"{where} must be {wanted}, got {value!r}")
    return value
