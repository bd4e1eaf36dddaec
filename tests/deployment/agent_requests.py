"""The requests of a Kata runtime to the guest's agent during the life of one edge pod, and the engines that decide them.

The formats are those of kata-containers: the test data of genpolicy, runtime (Go) and runtime-rs, at 3.21.0 and 4.1.0.
Differences:

============== ====================================== ==============================================================
field          3.21.0, Go runtime                     4.1.0, Rust runtime
============== ====================================== ==============================================================
storages       no `shared`                            `shared`
CopyFile       `data` as a list of bytes              `file_type` and `symlink_target` instead of `data`
namespaces     ipc, uts, mount                        ipc, uts, mnt, cgroup
annotations    cc_init_data                           path and policy of the termination message
capabilities   CAP_KILL                               KILL
exec_id        the container's id                     empty
diagnostics    none                                   GetDiagnosticDataRequest
============== ====================================== ==============================================================
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from functools import cache
from typing import Any, Literal

import pytest

from workbench.deployment.kubernetes import guest
from workbench.deployment.kubernetes.manifests import Container, initdata

Request = dict[str, Any]
Version = Literal["3.21.0", "4.1.0"]
VERSIONS: tuple[Version, ...] = ("3.21.0", "4.1.0")
ENGINES = ("regopy", "regorus")
SANDBOX, EDGE = "5e" * 32, "ed9e" * 16
SHARED = "/run/kata-containers/shared/containers"
EPHEMERAL = "/run/kata-containers/sandbox/ephemeral"
BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
DEFAULT_CAPABILITIES = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
]  # fmt: skip
MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
]  # fmt: skip
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
SYSTEM_MOUNTS = [
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
    ("/dev/shm", "bind", "/run/kata-containers/sandbox/shm", ["rbind"]),
]
CGROUP_MOUNT = ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"])


# --- engines ---------------------------------------------------------------------------------------------------------------


@cache
def policy_of(container: Container) -> str:
    return str(tomllib.loads(initdata(container))["data"]["policy.rego"])


def decide(policy: str, name: str, request: Request, engine: str = "regopy") -> bool:
    """Return whether an agent with this policy grants a request. An undefined rule is a refusal, as in the agent."""
    return {"regopy": _by_regopy, "regorus": _by_regorus}[engine](policy, name, request)


def _by_regopy(policy: str, name: str, request: Request) -> bool:
    interpreter, bundle = _regopy_bundle(policy)
    interpreter.set_input(request)
    answer = str(interpreter.query_bundle_entrypoint(bundle, f"agent_policy/{name}"))
    if answer == "undefined":
        return False
    (allowed,) = json.loads(answer)["expressions"]
    assert isinstance(allowed, bool)
    return allowed


@cache
def _regopy_bundle(policy: str) -> tuple[Any, Any]:
    regopy = pytest.importorskip("regopy", reason="the Rego engine regopy is not installed")
    interpreter = regopy.Interpreter()
    interpreter.add_module("policy.rego", policy)
    rules = re.findall(r"^default (\w+) :=", policy, re.MULTILINE)
    return interpreter, interpreter.build(None, [f"agent_policy/{rule}" for rule in rules])


def _by_regorus(policy: str, name: str, request: Request) -> bool:
    engine = _regorus_engine(policy)
    engine.set_input_json(json.dumps(request))
    try:
        results = engine.eval_query(f"data.agent_policy.{name}")["result"]
    except RuntimeError:  # the agent responds to a failed evaluation with an error
        return False
    if len(results) != 1:
        return False
    allowed = results[0]["expressions"][0]["value"]
    assert isinstance(allowed, bool)
    return allowed


@cache
def _regorus_engine(policy: str) -> Any:
    regorus = pytest.importorskip("regorus", reason="the agent's own Rego engine, regorus, is not installed")
    engine = regorus.Engine()
    engine.add_policy("policy.rego", policy)
    return engine


# --- the life of a pod -----------------------------------------------------------------------------------------------------


def life(container: Container, version: Version) -> list[tuple[str, Request]]:
    """Return the requests of a pod's life in order, each with the name of its message."""
    requests: list[tuple[str, Request]] = [
        ("GuestDetailsRequest", {"mem_block_size": True, "mem_hotplug_probe": True}),
        ("UpdateInterfaceRequest", interface()),
        ("UpdateRoutesRequest", routes()),
        ("AddARPNeighborsRequest", neighbours()),
        ("CreateSandboxRequest", sandbox(version)),
        ("CopyFileRequest", copied_file(version, SANDBOX, "resolv.conf")),
        ("CreateContainerRequest", pause(version)),
        ("StartContainerRequest", {"container_id": SANDBOX}),
        ("GetOOMEventRequest", {}),
        *(("CopyFileRequest", copied_file(version, EDGE, name)) for name in ("hosts", "termination-log", "hostname", "resolv.conf")),
        *(("CopyFileRequest", request) for request in (() if container.resource else certificates(version))),
        ("CreateContainerRequest", edge(container, version)),
        ("OnlineCPUMemRequest", {"wait": False, "nb_cpus": 4, "cpu_only": False}),
        ("StartContainerRequest", {"container_id": EDGE}),
        ("StatsContainerRequest", {"container_id": EDGE}),
        ("SignalProcessRequest", {"container_id": EDGE, "exec_id": EDGE, "signal": 15}),
        ("WaitProcessRequest", {"container_id": EDGE, "exec_id": EDGE}),
        ("SignalProcessRequest", {"container_id": EDGE, "exec_id": "", "signal": 9}),
        ("RemoveContainerRequest", {"container_id": EDGE, "timeout": 0}),
        ("RemoveStaleVirtiofsShareMountsRequest", {}),
        ("WaitProcessRequest", {"container_id": SANDBOX, "exec_id": ""}),
        ("RemoveContainerRequest", {"container_id": SANDBOX, "timeout": 10}),
        ("DestroySandboxRequest", {}),
    ]  # fmt: skip
    return requests + (outputs(version) if container.readable else [])


def outputs(version: Version) -> list[tuple[str, Request]]:
    read: list[tuple[str, Request]] = [("ReadStreamRequest", {"container_id": EDGE, "exec_id": EDGE, "len": 32768})]
    if version == "4.1.0":
        read.append(("GetDiagnosticDataRequest", {"log_type": "termination_log", "container_id": EDGE}))
    return read


def sandbox(version: Version) -> Request:
    shm = _storage(version, "ephemeral", "shm", "tmpfs", "/run/kata-containers/sandbox/shm")
    return {
        "hostname": "pmc2-edge-7d4b9c6f5-x2v9k",
        "dns": ["search default.svc.cluster.local svc.cluster.local", "nameserver 10.96.0.10", "options ndots:5"],
        "storages": [shm | {"options": ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"]}],
        "sandbox_pidns": False,
        "sandbox_id": SANDBOX,
        "guest_hook_path": "",
        "kernel_modules": [],
    }


def interface() -> Request:
    addresses = [
        {"family": 0, "address": "10.244.0.14", "mask": "24"},
        {"family": 1, "address": "fe80::6474:9fff:fe6a:9601", "mask": "64"},
    ]
    card = {"device": "eth0", "name": "eth0", "hwAddr": "66:74:9f:6a:96:01", "mtu": 1500, "raw_flags": 0}
    return {"interface": card | {"IPAddresses": addresses, "devicePath": "", "type_": ""}}


def routes() -> Request:
    route = {"device": "eth0", "source": "", "scope": 0, "family": 0, "flags": 0, "mtu": 0}
    local = {"dest": "10.244.0.0/24", "gateway": "", "source": "10.244.0.14", "scope": 253}
    return {"routes": {"Routes": [route | {"dest": "", "gateway": "10.244.0.1"}, route | local]}}


def neighbours() -> Request:
    address = {"family": 0, "address": "10.244.0.1", "mask": ""}
    neighbour = {"toIPAddress": address, "device": "eth0", "lladdr": "00:00:5e:00:53:01", "state": 128, "flags": 0}
    return {"neighbors": {"ARPNeighbors": [neighbour]}}


def copied_file(version: Version, container: str, name: str) -> Request:
    return _copy(version, f"{SHARED}/{container}-ce23cfeb91e75aaa-{name}", 0o100644, b"10.244.0.14 edge\n")


def certificates(version: Version) -> list[Request]:
    folder, generation = f"{SHARED}/{EDGE}-0123456789abcdef-certs", "..2026_11_30_01_37_03.1234567890"
    return [
        _copy(version, folder, 0o43777),
        _copy(version, f"{folder}/{generation}", 0o42755),
        *(_copy(version, f"{folder}/{generation}/{name}", 0o100440, b"PEM") | {"gid": guest.USER} for name in guest.FILES),
        _copy(version, f"{folder}/..data", 0o120777, generation.encode()),
        *(_copy(version, f"{folder}/{name}", 0o120777, f"..data/{name}".encode()) for name in guest.FILES),
    ]


def _copy(version: Version, path: str, mode: int, data: bytes = b"") -> Request:
    kind = {0o040000: "Directory", 0o100000: "Regular", 0o120000: "Symlink"}[mode & 0o170000]
    request: Request = {"path": path, "file_mode": mode, "uid": 0, "gid": 0, "offset": 0}
    request["file_size"] = len(data) if kind == "Regular" else 0
    if version == "4.1.0":
        link = data.decode() if kind == "Symlink" else None
        return request | {"file_type": kind, "symlink_target": link, "dir_mode": 0}
    return request | {"data": list(data), "dir_mode": 0x80000000 | 0o750}


# --- containers ------------------------------------------------------------------------------------------------------------


def pause(version: Version) -> Request:
    annotations = {
        "io.katacontainers.config.hypervisor.kernel_params": "agent.guest_components_rest_api=all",
        "io.katacontainers.pkg.oci.bundle_path": f"{BUNDLES}/{SANDBOX}",
        "io.katacontainers.pkg.oci.container_type": "pod_sandbox",
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.podsandbox.image-name": "registry.k8s.io/pause:3.10",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-cpu-quota": "400000",
        "io.kubernetes.cri.sandbox-cpu-shares": "4096",
        "io.kubernetes.cri.sandbox-log-directory": "/var/log/pods/default_pmc2-edge-x2v9k_9c64c5bf-298f-46c4-ad63-e2270a2ff44c",
        "io.kubernetes.cri.sandbox-memory": "6442450944",
        **_sandbox_annotations(),
        "nerdctl/network-namespace": "/var/run/netns/cni-22190131-6f68-2878-6d7b-418baf176cdf",
    }
    if version == "3.21.0":
        annotations["io.katacontainers.config.hypervisor.cc_init_data"] = "H4sIAAAAAAAA/6vmAgA="
    prefix = "CAP_" if version == "3.21.0" else ""
    capabilities = [prefix + name for name in DEFAULT_CAPABILITIES]
    process = _process(["/pause"], ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], capabilities)
    resolver = _bind(
        "/etc/resolv.conf", f"{SHARED}/{SANDBOX}-ce23cfeb91e75aaa-resolv.conf", ["ro", "nosuid", "nodev", "noexec"]
    )
    oci = _specification(version, SANDBOX, annotations, process, [*map(_mount, SYSTEM_MOUNTS), resolver])
    oci["Hostname"] = "pmc2-edge-7d4b9c6f5-x2v9k"
    oci["Linux"]["Sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
    return _creation(version, SANDBOX, oci, [_image(version, SANDBOX, "pause", annotations)])


def edge(container: Container, version: Version) -> Request:
    annotations = {
        "io.katacontainers.pkg.oci.bundle_path": f"{BUNDLES}/{EDGE}",
        "io.katacontainers.pkg.oci.container_type": "pod_container",
        "io.kubernetes.cri.container-name": "edge",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": container.image,
        **_sandbox_annotations(),
    }
    if version == "4.1.0":
        annotations["io.kubernetes.container.terminationMessagePath"] = "/dev/termination-log"
        annotations["io.kubernetes.container.terminationMessagePolicy"] = "File"
    process = _process(list(container.command), _environment(), [])
    volumes = [_bind(path, f"{EPHEMERAL}/{name}", ["rprivate", "rw"]) for path, name in guest.VOLUMES.items()]
    mounts = [*map(_mount, [*SYSTEM_MOUNTS, CGROUP_MOUNT]), *_network_files(), *volumes]
    if not container.resource:
        mounts.append(_bind(guest.CERTS, f"{SHARED}/{EDGE}-0123456789abcdef-certs", ["rprivate", "ro"]))
    oci = _specification(version, EDGE, annotations, process, mounts)
    storages = [_image(version, EDGE, container.image, annotations)]
    for name in guest.VOLUMES.values():
        storage = _storage(version, "ephemeral", "tmpfs", "tmpfs", f"{EPHEMERAL}/{name}")
        storages.append(storage | {"options": [f"fsgid={guest.USER}"]})
    return _creation(version, EDGE, oci, storages)


def _creation(version: Version, identifier: str, oci: Request, storages: list[Request]) -> Request:
    return {
        "container_id": identifier, "exec_id": identifier if version == "3.21.0" else "", "string_user": None,
        "devices": [], "storages": storages, "OCI": oci,
        "sandbox_pidns": False, "shared_mounts": [], "stdin_port": 0, "stdout_port": 0, "stderr_port": 0,
    }  # fmt: skip


def _sandbox_annotations() -> dict[str, str]:
    return {
        "io.kubernetes.cri.sandbox-id": SANDBOX,
        "io.kubernetes.cri.sandbox-name": "pmc2-edge-7d4b9c6f5-x2v9k",
        "io.kubernetes.cri.sandbox-namespace": "default",
        "io.kubernetes.cri.sandbox-uid": "9c64c5bf-298f-46c4-ad63-e2270a2ff44c",
    }


def _environment() -> list[str]:
    return [
        *guest.ENVIRONMENT, "LANG=C.UTF-8", "GPG_KEY=A035C8C19219BA821ECEA86B64E628F8D684696D", "PYTHON_VERSION=3.11.9",
        "PYTHON_SHA256=9b1e896523fc510691126c864406d9360a3d1e986acbda59cda57b5abda45b87",
        "HOSTNAME=pmc2-edge-7d4b9c6f5-x2v9k", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443", "KUBERNETES_PORT=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
    ]  # fmt: skip


def _process(args: list[str], environment: list[str], capabilities: list[str]) -> Request:
    sets = {name: list(capabilities) for name in ("Bounding", "Effective", "Permitted")}
    return {
        "Terminal": False, "ConsoleSize": None, "Args": args, "Env": environment, "Cwd": "/", "Rlimits": [],
        "User": {"UID": guest.USER, "GID": guest.USER, "AdditionalGids": [guest.USER], "Username": ""},
        "Capabilities": {"Ambient": [], "Inheritable": [], **sets}, "NoNewPrivileges": True,
        "ApparmorProfile": "", "OOMScoreAdj": -997, "SelinuxLabel": "",
    }  # fmt: skip


def _mount(mount: tuple[str, str, str, list[str]]) -> Request:
    destination, kind, source, options = mount
    return {"destination": destination, "source": source, "type_": kind, "options": list(options)}


def _bind(destination: str, source: str, options: list[str]) -> Request:
    return _mount((destination, "bind", source, ["rbind", *options]))


def _network_files() -> list[Request]:
    files = {"/etc/hosts": "rw", "/dev/termination-log": "rw", "/etc/hostname": "ro", "/etc/resolv.conf": "ro"}
    return [
        _bind(path, f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-{path.rpartition('/')[2]}", ["rprivate", option])
        for path, option in files.items()
    ]


def _storage(version: Version, driver: str, source: str, kind: str, mount_point: str) -> Request:
    storage = {"driver": driver, "driver_options": [], "source": source, "fstype": kind, "options": []}
    storage |= {"mount_point": mount_point, "fs_group": None}
    return storage | ({"shared": False} if version == "4.1.0" else {})


def _image(version: Version, identifier: str, source: str, annotations: dict[str, str]) -> Request:
    storage = _storage(version, "image_guest_pull", source, "overlay", f"/run/kata-containers/{identifier}/rootfs")
    metadata = json.dumps({"metadata": annotations}, separators=(",", ":"))
    return storage | {"driver_options": [f"image_guest_pull={metadata}"]}


def _specification(
    version: Version, identifier: str, annotations: dict[str, str], process: Request, mounts: list[Request]
) -> Request:
    new = version == "4.1.0"
    memory = {"Limit": 6442450944, "Reservation": 0, "Swap": 0, "Kernel": 0, "KernelTCP": 0, "Swappiness": 0}
    cpu = {"Shares": 4096, "Quota": 400000, "Period": 100000, "RealtimeRuntime": 0, "RealtimePeriod": 0, "Cpus": "", "Mems": ""}
    linux = {
        "UIDMappings": [], "GIDMappings": [], "Sysctl": {}, "Devices": [], "Seccomp": None, "RootfsPropagation": "",
        "Resources": {
            "Devices": [], "Memory": memory | {"DisableOOMKiller": False}, "CPU": cpu, "Pids": None, "BlockIO": None,
            "HugepageLimits": [{"Pagesize": "2MB", "Limit": 0}], "Network": None,
        },
        "CgroupsPath": f"kubepods-pod9c64c5bf_298f_46c4_ad63_e2270a2ff44c.slice:cri-containerd:{identifier}",
        "Namespaces": [{"Type": kind, "Path": ""} for kind in (("ipc", "uts", "mnt", "cgroup") if new else ("ipc", "uts", "mount"))],
        "MaskedPaths": list(MASKED), "ReadonlyPaths": list(READONLY), "MountLabel": "", "IntelRdt": None,
    }  # fmt: skip
    return {
        "Version": "1.3.0" if new else "1.1.0", "Process": process, "Hostname": "", "Mounts": mounts, "Hooks": None,
        "Root": {"Path": f"/run/kata-containers/{identifier}/rootfs", "Readonly": True},
        "Annotations": annotations, "Linux": linux, "Solaris": None, "Windows": None,
    }  # fmt: skip


# --- changed requests ------------------------------------------------------------------------------------------------------


def with_change(request: Request, path: str, value: Any) -> Request:
    """Return a copy with one value changed.

    A step of `path`, split at "/", is a key ("~1" for "/") or an index. "+" appends, and "-" in front of the last step removes
    it.
    """
    request = copy.copy(request)
    *steps, last = path.split("/")
    last = last.replace("~1", "/")
    parent: Any = request
    for step in steps:  # copies what the path leads through, and shares the rest
        key = int(step) if isinstance(parent, list) else step
        parent[key] = parent = copy.copy(parent[key])
    if last == "+":
        parent.append(value)
    elif last.startswith("-"):
        del parent[int(last[1:]) if isinstance(parent, list) else last[1:]]
    else:
        parent[int(last) if isinstance(parent, list) else last] = value
    return request
