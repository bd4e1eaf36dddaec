"""Random changes of legitimate requests, and the effect of a request: an accepted change must have the original's effect.

`unlike` is written from the agent's code (kata-containers 4.1.0, src/agent), independently of the policy. It compares the
program, its user, its files and devices, and what the host can read. It ignores everything that a host may choose.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Any

from .agent_requests import EDGE, EPHEMERAL, SANDBOX, SHARED, Request

# --- changes ---------------------------------------------------------------------------------------------------------------

TEXTS = [
    "", "/", "/usr", "..", "../..", "/run", "/etc/shadow", "/proc/1/ns/mnt", "/dev/vda", "root", "0", "lo", "eth1", "127.0.0.1", "::1",
    "bind", "rbind", "rshared", "exec", "suid", "dev", "rw", "ro", "lowerdir=/", "pause", "sandbox", "container", "shared", "tmpfs",
    "virtiofs", "ext4", "overlay", "blk", "virtio-fs", "local", "ephemeral", "image_guest_pull", "CAP_SYS_ADMIN", "LD_PRELOAD=/tmp/x",
    "PATH=/tmp", "HOSTNAME=x\nPYTHONPATH=/tmp", "sealed.a.b.c", "Symlink", "Directory", "mount", "network", "pid", "user", "kataShared",
    f"/run/kata-containers/{EDGE}/rootfs", f"/run/kata-containers/{SANDBOX}/rootfs", f"{EPHEMERAL}/run", f"{EPHEMERAL}/tmp",
    f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-certs", SANDBOX, EDGE, "x", "é", "a b",
]  # fmt: skip
NUMBERS = [
    -1, 0, 1, 2, 6, 10, 15, 19, 64, 254, 493, 2048, 4095, 33261, 35309, 40960, 41471, 65531, 65532, 65533, 65535, 2**31, 2**32 - 1,
]  # fmt: skip
KEYS = ["path", "Path", "shared", "options", "source", "Type", "cdi.k8s.io/vfio0", "io.kubernetes.cri-o.ContainerType", "x"]
KEYS += ["LD_PRELOAD"]


def mutated(request: Request, chance: random.Random) -> Request:
    mutant = copy.deepcopy(request)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if places := list(_places(mutant)):
            _change(*chance.choice(places), chance)
    return _completed(mutant, request)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(child, dict | list):
            yield from _places(child)


def _change(parent: Any, key: Any, chance: random.Random) -> None:
    value = parent[key]
    kind = chance.random()
    if kind < 0.15:
        del parent[key]
    elif kind < 0.25:
        _add(parent, value, chance)
    elif kind < 0.32 and isinstance(value, str) and value:
        place = chance.randrange(len(value) + 1)
        parent[key] = value[:place] + chance.choice(("/../", "\n", "x", "/", " ", "..")) + value[place:]
    elif isinstance(value, list | dict) and kind < 0.8:
        _add(value, chance.choice([*(value.values() if isinstance(value, dict) else value), ""]), chance)
    else:
        parent[key] = _other(value, chance)


def _add(parent: Any, value: Any, chance: random.Random) -> None:
    added = copy.deepcopy(value) if chance.random() < 0.5 else _other(value, chance)
    if isinstance(parent, dict):
        parent[chance.choice(KEYS)] = added
    else:
        parent.insert(chance.randrange(len(parent) + 1), added)


def _other(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice(NUMBERS)
    if isinstance(value, str):
        return chance.choice(TEXTS)
    return chance.choice([None, [], {}, [chance.choice(TEXTS)], {chance.choice(KEYS): chance.choice(TEXTS)}])


def _completed(value: Any, original: Any) -> Any:
    if isinstance(value, dict) and isinstance(original, dict) and "io.kubernetes.cri.container-type" not in original:
        for name, field in original.items():
            default = type(field)() if isinstance(field, bool | int | str | list) else None
            value[name] = _completed(value[name], field) if name in value else default
    elif isinstance(value, list) and isinstance(original, list) and original and isinstance(original[0], dict):
        return [_completed(item, original[0]) for item in value]
    return value


# --- effects ---------------------------------------------------------------------------------------------------------------

ADDRESS = r"(?!127\.|[0:]*:0*1(/|$))[0-9A-Fa-f.:]*(/\d+)?"
FREE = [  # path=value pairs that a host may add, remove or change
    r"(OCI/Hostname|hostname)=[a-z0-9-]*",
    r"OCI/Version=1\.\d+\.\d+",
    r"OCI/Process/OOMScoreAdj=(-?\d{1,3}|1000)",
    r"OCI/Process/ApparmorProfile=cri-containerd\.apparmor\.d",
    r"OCI/Linux/Resources/(CPU|Memory)/(Shares|Quota|Period|Limit|Reservation|Swap)=-?\d+",
    r"OCI/Linux/Resources/CPU/(Cpus|Mems)=[\d,-]*",
    r"OCI/Linux/Resources/HugepageLimits/\d+(/Pagesize)?=[ -~]*",
    r"OCI/Linux/CgroupsPath=kubepods-pod[\w-]+\.slice:cri-containerd:[0-9a-f]+",
    r"OCI/Linux/MaskedPaths=(/proc/(asound|interrupts)|/sys/devices/virtual/powercap)",
    r"OCI/Linux/Namespaces/cgroup(/Type)?=(object|cgroup)",
    r"OCI/Annotations/io\.katacontainers\.config\.\w+\.\w+=[ -~]*",
    r"OCI/Annotations/(nerdctl~network-namespace|io\.katacontainers\.pkg\.oci\.bundle_path)=[\w@:/.-]*",
    r"OCI/Annotations/io\.kubernetes\.cri\.(sandbox-[\w-]+|container-name|podsandbox\.image-name)=[\w@:/.-]*",
    r"OCI/Annotations/io\.kubernetes\.container\.terminationMessagePolicy=[\w@:/.-]*",
    r"OCI/Process/Env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",  # of the pause container
    r"OCI/Process/Env=(HOSTNAME=[a-z0-9-]*|TERM=xterm|LANG=[\w.-]*|GPG_KEY=\w*|PYTHON_\w*=[\w.:/-]*)",
    r"OCI/Process/Env=KUBERNETES_(SERVICE_(HOST|PORT)|PORT)\w*=[\w.:/]*",
    r"dns=(#[ -~]*|[A-Za-z0-9.:_ -]*)",
    r"(sandbox_id|container_id|exec_id)=[0-9a-f]*",
    r"(timeout|len|nb_cpus|wait|cpu_only|mem_\w+)=(\d+|True)",
    r"file_size=\d{1,7}",
    r"gid=65532",
    r"data\b.*",  # the host chooses the content of a network file
    r"file_mode=3(3024|3056|3060|3152|3184|3188|3200|3204|3206)",
    r"path=/run/kata-containers/shared/containers/[0-9a-f]+-(hosts|hostname|resolv\.conf|termination-log)",
    r"(interface|routes/Routes/\d+|neighbors/ARPNeighbors/\d+)/(name|device)=eth\d+",
    rf"(interface/IPAddresses|routes/Routes|neighbors/ARPNeighbors)/\d+/(toIPAddress/)?(address|dest|gateway|source)={ADDRESS}",
    r"(interface|routes|neighbors)/.*(mtu|mask|family)=\d*",
    r"(interface/hwAddr|neighbors/ARPNeighbors/\d+/lladdr)=(?!00(:00)*$)[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}",
    r"interface/(raw_flags=128|type_=[a-z]*|devicePath=[0-9a-f:./]*)",
    r"routes/Routes/\d+/(flags=4|scope=253)",
    r"neighbors/ARPNeighbors/\d+/(state=(2|128)|flags=(8|128|136))",
    r"(interface/IPAddresses|routes/Routes|neighbors/ARPNeighbors)/\d+(/toIPAddress)?=object",
]
REMOVABLE = [  # without these a request fails or has fewer rights, and the host gains nothing
    r"OCI/Mounts/[^=]*=.*",
    r"storages/(?!image_guest_pull)[^=]*=.*",
    r"OCI/Process/User/(UID|GID|AdditionalGids)=65532",
    r"OCI/(Linux/Sysctl|Linux/Resources|Process/Capabilities)\b.*",
    r"OCI/Annotations/(?!io\.kubernetes\.cri\.container-type)[^=]*=.*",
    r"(neighbors|routes|interface|symlink_target|log_type|signal|dir_mode|file_mode)\b.*",
]
ADDED = [  # restrictions, and values of the pause container
    r"OCI/Linux/Sysctl/net\.ipv4\.(ip_unprivileged_port_start=0|ping_group_range=0 2147483647)",
    r"OCI/Process/User/\w+=(65532|65535)",
    r"OCI/Process/Capabilities/(Bounding|Effective|Permitted)=(?!.*SYS_ADMIN)[A-Z_]+",
    r"(dir_mode|signal)=(9|15|448|488|493|16832|16872|16877|2147484096|2147484136|2147484141)",
]
FILE_OPTIONS = {"ro", "rw", "rprivate", "nosuid", "nodev", "noexec"}
MOUNT_OPTIONS = {  # by destination: options without effect on the process
    "/etc/hosts": FILE_OPTIONS,
    "/etc/hostname": FILE_OPTIONS,
    "/etc/resolv.conf": FILE_OPTIONS,
    "/dev/termination-log": FILE_OPTIONS,
    "/run/pmc2": {"rw", "rprivate"},
    "/tmp": {"rw", "rprivate"},
    "/sys/fs/cgroup": {"nsdelegate", "memory_recursiveprot"},
}
SHM_OPTIONS = re.compile(r"noexec|nosuid|nodev|mode=1777|size=\d+")  # the agent mounts it without options
RANDOM_NAME = re.compile(r"-[0-9a-f]{1,16}-(?=(hosts|hostname|resolv\.conf|termination-log)$)")


def unlike(mutant: Request, original: Request) -> set[str]:
    """Return the effects that a mutant has or lacks, compared with its original, as path=value pairs."""
    before, after = set(_pairs("", original)), set(_pairs("", mutant))
    gained = {pair for pair in after - before if not _matches(pair, FREE + ADDED)}
    return gained | {pair for pair in before - after if not _matches(pair, FREE + REMOVABLE)}


def _matches(pair: str, patterns: list[str]) -> bool:
    return any(re.fullmatch(pattern, pair, re.DOTALL) for pattern in patterns)


def _pairs(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if path:
            yield f"{path}=object"
        for key, child in value.items():
            yield from _pairs(f"{path}/{str(key).replace('/', '~')}".lstrip("/"), child)
    elif path in ("OCI/Mounts", "storages") and isinstance(value, list):
        leaf = _mount if path == "OCI/Mounts" else _storage
        leaves = [leaf(child) if isinstance(child, dict) else str(child) for child in value]
        yield from (f"{path}/{leaf}{' again' * leaves[:index].count(leaf)}" for index, leaf in enumerate(leaves))
        places = [leaf.partition("=")[0] for leaf in leaves]
        yield from (f"{path} twice at {place}" for place in set(places) if places.count(place) > 1)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _pairs(f"{path}/{_step(child, index)}" if _ordered(path, child) else path, child)
    elif value not in (None, False, 0, "") or ("/User/" in path and value == 0):  # 0 is root
        text = "mount" if value == "mnt" and path.endswith("/Type") else str(value)  # two names of one namespace
        yield f"{path}={RANDOM_NAME.sub('-', text)}"


def _ordered(path: str, child: Any) -> bool:
    return path.endswith("Args") or isinstance(child, dict | list)


def _step(child: Any, index: int) -> str:
    kind = child.get("Type") if isinstance(child, dict) else None
    return kind.replace("mnt", "mount") if isinstance(kind, str) else str(index)


def _mount(mount: Request) -> str:
    fields = dict(mount)
    destination, options = str(fields.pop("destination", "")), fields.pop("options", None) or []
    counted = sorted({str(option) for option in options} - MOUNT_OPTIONS.get(destination, set()))
    return f"{destination}={RANDOM_NAME.sub('-', str(fields.pop('source', '')))} {counted} {sorted(fields.items())}"


def _storage(storage: Request) -> str:
    fields = {key: value for key, value in storage.items() if value not in (None, False, "", [])}
    described = sorted({kind for option in fields.pop("driver_options", []) for kind in _described(option)})
    options = [str(option) for option in fields.pop("options", [])]
    if fields.get("source") == "shm":
        options = [option for option in options if not SHM_OPTIONS.fullmatch(option)]
    name = f"{fields.get('driver')} {fields.get('mount_point')}"
    return f"{name}={described} {sorted({*options} - {'fsgid=65532'})} {sorted(map(str, fields.items()))}"


def _described(option: Any) -> list[str]:
    """Return every container type that a parser could read in an image's description, or the option itself."""
    read: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> None:
        read.extend(f"{key}={value}" for key, value in items if key.lower().endswith(("cri.container-type", "containertype")))

    try:
        json.loads(option.removeprefix("image_guest_pull="), object_pairs_hook=pairs)
    except (ValueError, AttributeError):
        return [str(option)]
    return read
