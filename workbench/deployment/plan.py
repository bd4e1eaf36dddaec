"""The plan of a deployment, read from a TOML file: which stage runs where, of which weights, and how it is reached."""

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
# What is commented out is the default.

[pair]
# dataset = "cifar10"          # whose weights: those that ship, or what was trained here
# target = "resnet18"
# auxiliary = "vgg13_bn"
# codec = "neural"             # neural, compressai, png, jpeg or webp

[edge]
host = "local"                 # an alias of ~/.ssh/config, USER@HOST:PORT, or "local": this machine, without SSH
runtime = "process"            # "process": on the host itself
                               # "confidential": Kubernetes with kata-qemu-snp, an AMD SEV-SNP guest
                               # "development": Kubernetes with kata-qemu-coco-dev, the same without a TEE: it protects nothing
# image = "registry.example/pmc2-edge@sha256:..."   # of a container, by digest; see deployment/kubernetes/Containerfile
# device = "auto"              # cpu, cuda (refused where there is no GPU) or auto
# listen = "127.0.0.1:0"       # where it listens there; port 0: any free one
# address = "edge.example:8443"  # where one reaches it from here by TLS; without it, through SSH
# python = "/opt/py/bin/python"  # an interpreter there that has the packages already; without it, an environment is made
# pip = []                     # more arguments of pip where an environment is made, such as an index of your own
# folder = ".pmc2"             # what is kept there, relative to the home folder
# options = []                 # more of `workbench serve edge --help`, such as ["--precision", "bfloat16"]

[cloud]
host = "local"
# runtime = "process"
# device = "auto"
# address = "10.0.0.7:8444"    # where the edge reaches it; without it, through SSH and this machine. A container needs it

# [edge.container]             # of an edge in a container
# namespace = "default"
# memory = "6Gi"               # image and models lie in the guest's memory
# cpu = "4"
# replicas = [1, 4]            # scaled out by its CPU between these
# node_port = 30443            # on the host; without it, its pod is reached through SSH
# kbs = "http://10.0.0.9:8080" # key broker: releases the edge's TLS key to an attested guest alone
# kbs_cert = "kbs.pem"         # of a broker by https with a certificate of its own: that, in PEM, relative to this file
# secrets = "default/pmc2-edge"  # its resources there: .../ca.pem, .../edge.pem, .../edge.key
# egress = []                  # what else the guest must reach, IP:PORT or NETWORK/BITS:PORT: the registry of its image
# logs = false                 # let the host read what the edge says (development: it may)
# create_namespace = false
# shim = "go"                  # the nodes' Kata runtime, "go" or "rust": each has runtime classes of its own
# kubectl = "kubectl"          # on the host, with its context and kubeconfig, where others than its defaults are meant
# context = ""
# kubeconfig = ""

# [cloud.container]            # of a cloud with runtime = "confidential" and an image: `workbench manifests` prints its objects
# gpu = "nvidia.com/pgpu"      # the nodes' resource of a GPU in its confidential mode. This has never run, and is not launched
#                              # kbs, secrets, egress, memory, cpu and shim are as those of the edge

# [client]
# policy = "policy.toml"       # what the edge's evidence must prove before a picture leaves this machine; a confidential
                               # edge needs one
"""


def local_plan(dataset: str, target: str, auxiliary: str, folder: Path) -> str:
    """Return the text of a plan with both stages on this machine, by the interpreter that runs here; `folder` is theirs."""
    pair = f"dataset = {json.dumps(dataset)}\ntarget = {json.dumps(target)}\nauxiliary = {json.dumps(auxiliary)}\n"
    stage = f'host = "local"\npython = {json.dumps(sys.executable)}\nfolder = {json.dumps(str(folder.resolve()))}\n'
    return f"[pair]\n{pair}\n[edge]\n{stage}\n[cloud]\n{stage}"


@dataclass(frozen=True)
class PairPlan:
    """Of which weights both stages are."""

    dataset: str = "cifar10"
    target: str = "resnet18"
    auxiliary: str = "vgg13_bn"
    codec: str = "neural"


@dataclass(frozen=True)
class ContainerSettings:
    """Of a stage in a container."""

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
    """Where a stage runs, and how it is reached there."""

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
        """Whether it runs on this machine."""
        return self.host == "local"


@dataclass(frozen=True)
class ClientPlan:
    """What this machine asks before it sends."""

    policy: str = ""


@dataclass(frozen=True)
class Deployment:
    """A deployment, by the name of its file; what is known of it here lies in `folder`."""

    name: str
    path: Path
    pair: PairPlan
    edge: StagePlan
    cloud: StagePlan
    client: ClientPlan

    @classmethod
    def read(cls, path: str | Path) -> Deployment:
        """Read a plan. Raises UsageError, with the key, for what is missing, unknown or cannot be."""
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
        """Where certificates, ports and logs of this machine's side are kept."""
        return data_root() / "runs" / "deployments" / self.name

    @property
    def certs(self) -> Path:
        """The certificates of this deployment alone."""
        return self.folder / "certs"

    @property
    def policy(self) -> Path | None:
        """The attestation policy's file, relative to the plan's own."""
        return self.path.parent / self.client.policy if self.client.policy else None

    def stage(self, which: Which) -> StagePlan:
        """Return the plan of the edge or the cloud."""
        return self.edge if which == "edge" else self.cloud

    def _beside(self, name: str) -> str:
        """Return the text of a file beside the plan; nothing for no name."""
        try:
            return (self.path.parent / name).read_text(encoding="ascii") if name else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name} cannot be read ({type(error).__name__}): it is to be a certificate in PEM") from None

    def container(self) -> Container:
        """Return the container of an edge that is to run in one; UsageError where it cannot be."""
        edge, settings = self.edge, self.edge.container
        if edge.runtime == "process":
            raise UsageError("[edge] runtime is 'process', which is no container")
        return Container(
            image=edge.image,
            cloud=self.cloud.address,
            name=f"{self.name}-edge",
            namespace=settings.namespace,
            runtime=edge.runtime,
            node_port=settings.node_port,
            memory=settings.memory,
            cpu=settings.cpu,
            replicas_min=settings.replicas[0],
            replicas_max=settings.replicas[1],
            kbs_url=settings.kbs,
            kbs_cert=self._beside(settings.kbs_cert),
            resource=settings.secrets,
            egress=settings.egress,
            logs=settings.logs,
            options=(*self._pair_options(), *edge.options),
            create_namespace=settings.create_namespace,
            shim=settings.shim,
        )

    def cloud_container(self) -> CloudContainer:
        """Return the container of a cloud that is planned in a guest with a GPU; UsageError for one that cannot be."""
        cloud, settings = self.cloud, self.cloud.container
        if cloud.runtime == "process":
            raise UsageError("[cloud] runtime is 'process', which is no container")
        return CloudContainer(
            image=cloud.image,
            name=f"{self.name}-cloud",
            namespace=settings.namespace,
            node_port=settings.node_port,
            memory=settings.memory,
            cpu=settings.cpu,
            kbs_url=settings.kbs,
            kbs_cert=self._beside(settings.kbs_cert),
            resource=settings.secrets,
            egress=settings.egress,
            logs=settings.logs,
            options=(*self._pair_options(), "--device", "cuda", *cloud.options),
            create_namespace=settings.create_namespace,
            shim=settings.shim,
            gpu=settings.gpu,
        )

    def _pair_options(self) -> tuple[str, ...]:
        pair = self.pair
        return ("--dataset", pair.dataset, "--target", pair.target, "--auxiliary", pair.auxiliary, "--codec", pair.codec)

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
        self.cloud_container()  # refuses the rest

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
        self.container()  # says the rest


@dataclass(frozen=True)
class _Plan:
    """A plan's file."""

    edge: StagePlan
    cloud: StagePlan
    pair: PairPlan = PairPlan()
    client: ClientPlan = ClientPlan()


def _made(kind: type[Made], content: Mapping[str, Any], where: str) -> Made:
    """Make a dataclass of a table; UsageError for a key that is unknown or missing, or a value of another kind."""
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
