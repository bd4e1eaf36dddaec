"""Requests of a hostile host, one for each field and advisory: a legitimate request of a pod's life with one value changed.

Advisories: GHSA-fmg6-v47x-52wr (mount sources, fixed in kata-containers 4.1.0), CVE-2026-41326 alias GHSA-q49m-57vm-c8cc (links
by CopyFile, fixed in 3.29.0), and pull requests 277, 280, 315 and 379 of confidential-dot-ai/c8s.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .agent_requests import EDGE, EPHEMERAL, SANDBOX, SHARED, _bind, _storage


class Hostile(NamedTuple):
    """One request. `base` names the legitimate request, `gain` the host's benefit."""

    name: str
    base: str
    path: str
    value: Any
    gain: str

    def __str__(self) -> str:
        return self.name


ROOTFS = f"/run/kata-containers/{EDGE}/rootfs"
OTHER_IMAGE = "registry.example:5000/pmc2-edge@sha256:" + "b" * 64
OPTION = "storages/0/driver_options/0"


def _mounted(destination: str, source: str, *options: str, kind: str = "bind") -> dict[str, Any]:
    return _bind(destination, source, list(options)) | {"type_": kind}


def _stored(mount_point: str, **fields: Any) -> dict[str, Any]:
    return _storage("4.1.0", "ephemeral", "tmpfs", "tmpfs", mount_point) | fields


def _pulled(**metadata: str) -> str:
    named = {f"io.kubernetes.{key.replace('_', '.', 1).replace('_', '-')}": value for key, value in metadata.items()}
    return "image_guest_pull=" + json.dumps({"metadata": named}, separators=(",", ":"))


TWICE = 'image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.container-type":"container"}}'
ESCAPED = (
    'image_guest_pull={"metadata":{"io.kubernetes.cri.container-type":"sandbox",'
    '"io.kubernetes.cri.container\\u002dtype":"container"}}'
)

_ROWS = [
    # --- the root file system
    ("root-path", "edge", "OCI/Root/Path", "/", "the guest's own file system as the container's root"),
    ("root-path-shared", "edge", "OCI/Root/Path", f"{SHARED}/{EDGE}/rootfs", "a root that the host fills"),
    ("root-path-other-container", "edge", "OCI/Root/Path", f"/run/kata-containers/{SANDBOX}/rootfs", "another root"),
    ("root-path-traversal", "edge", "OCI/Root/Path", f"{ROOTFS}/../../..", "the guest's own file system as root"),
    ("root-writable", "edge", "OCI/Root/Readonly", False, "a root that the process can change"),
    ("root-extra-key", "edge", "OCI/Root/Propagation", "shared", "a field of a future agent"),
    ("pause-root-path", "pause", "OCI/Root/Path", "/", "the guest's own file system for the pause container"),
    # --- the program
    ("image-other", "edge", "storages/0/source", OTHER_IMAGE, "another image"),
    ("image-tag", "edge", "storages/0/source", "registry.example:5000/pmc2-edge:1", "any image that the registry serves"),
    ("image-pause", "edge", "storages/0/source", "pause", "an image called pause"),
    ("image-annotation", "edge", "OCI/Annotations/io.kubernetes.cri.image-name", OTHER_IMAGE, "another image's name on record"),
    ("image-driver", "edge", "storages/0/driver", "blk", "a disk of the host's"),
    ("image-none", "edge", "storages/-0", None, "Root.Path bound in place of the image"),
    ("image-twice", "edge", "storages/+", _stored(ROOTFS, driver="image_guest_pull", source=OTHER_IMAGE), "a second image"),
    ("image-metadata-sandbox", "edge", OPTION, _pulled(cri_container_type="sandbox"), "the pause image under the edge's command"),
    ("image-metadata-twice", "edge", OPTION, TWICE, "one type for the policy, one for the agent"),
    ("image-metadata-escaped", "edge", OPTION, ESCAPED, "one type for the policy, one for the agent"),
    ("image-metadata-crio", "edge", OPTION,
     _pulled(cri_container_type="container", **{"cri-o_ContainerType": "sandbox"}), "the CRI-O key makes it the sandbox"),
    ("image-options-two", "edge", "storages/0/driver_options/+", _pulled(cri_container_type="sandbox"), "a second description"),
    ("image-mount-point", "edge", "storages/0/mount_point", "/usr", "the image over the guest's programs"),
    ("image-fstype", "edge", "storages/0/fstype", "virtiofs", "a file system of the host"),
    ("image-mount-options", "edge", "storages/0/options", ["X-kata.multi-layer=1"], "the agent's block device handler"),
    ("pause-pulled", "pause", OPTION, _pulled(cri_container_type="container"), "an image called pause from the host's registry"),
    ("pause-undescribed", "pause", OPTION, 'image_guest_pull={"metadata":{}}', "an image called pause from the host's registry"),
    ("pause-no-options", "pause", "storages/0/driver_options", [], "a storage that does not name the sandbox"),
    ("pause-source", "pause", "storages/0/source", OTHER_IMAGE, "another image as pause container"),
    ("pause-args", "pause", "OCI/Process/Args", ["/bin/sh"], "another command in the pause container"),
    ("pause-storage", "pause", "storages/+", _stored(f"{EPHEMERAL}/run"), "a storage for the pause container"),
    ("args-other", "edge", "OCI/Process/Args", ["sh", "-c", "env"], "another command"),
    ("args-more", "edge", "OCI/Process/Args/+", "--plain-http", "an option of the host's"),
    ("args-order", "edge", "OCI/Process/Args/1", "cloud", "another subcommand"),
    ("cwd", "edge", "OCI/Process/Cwd", "/tmp", "programs and modules looked up elsewhere"),
    ("env-token", "edge", "OCI/Process/Env/+", "WORKBENCH_TOKEN=host", "access to the service"),
    ("env-preload", "edge", "OCI/Process/Env/+", "LD_PRELOAD=/etc/hosts", "code of the host in the process"),
    ("env-pythonpath", "edge", "OCI/Process/Env/+", "PYTHONPATH=/tmp", "code of the host in the process"),
    ("env-proxy", "edge", "OCI/Process/Env/+", "HTTPS_PROXY=http://192.0.2.1", "traffic through the host's proxy"),
    ("env-changed", "edge", "OCI/Process/Env/1", "WORKBENCH_DATA=/etc", "other weights"),
    ("env-removed", "edge", "OCI/Process/Env/-3", None, "PYTHONNOUSERSITE is gone: modules from the home folder"),
    ("env-newline", "edge", "OCI/Process/Env/+", "HOSTNAME=a\nLD_PRELOAD=/tmp/x", "a second variable in one"),
    ("env-sealed", "edge", "OCI/Process/Env/+", "HOSTNAME=sealed.fakejwsheader.e30.x", "the agent unseals a value"),
    ("env-lang", "edge", "OCI/Process/Env/+", "LANG=../../run/pmc2/certs", "a locale out of another folder"),
    ("env-cdi", "edge", "OCI/Process/Env/+", "VISIBLE_CDI_DEVICES=all", "the guest's devices"),
    ("env-kubernetes", "edge", "OCI/Process/Env/+", "KUBERNETES_TRUST_DOMAIN=host", "a variable that no kubelet sets"),
    ("hooks-prestart", "edge", "OCI/Hooks", {"Prestart": [{"Path": "/bin/sh", "Args": ["sh"]}]}, "a program as guest root"),
    ("hooks-start", "edge", "OCI/Hooks", {"StartContainer": [{"Path": "/bin/sh"}]}, "a program inside the container"),
    ("terminal", "edge", "OCI/Process/Terminal", True, "the process's terminal"),
    ("console-size", "edge", "OCI/Process/ConsoleSize", {"Height": 24, "Width": 80}, "a terminal's parameters"),
    # --- identity and rights
    ("uid-root", "edge", "OCI/Process/User/UID", 0, "root in the container"),
    ("gid-root", "edge", "OCI/Process/User/GID", 0, "files of group root"),
    ("gids-root", "edge", "OCI/Process/User/AdditionalGids/+", 0, "files of group root"),
    ("gids-disk", "edge", "OCI/Process/User/AdditionalGids", [6], "raw disks"),
    ("username", "edge", "OCI/Process/User/Username", "root", "a user by name"),
    ("string-user", "edge", "string_user", {"uid": "0", "gid": "0", "additionalGids": []}, "a user by name"),
    *((f"capability-{kind.lower()}", "edge", f"OCI/Process/Capabilities/{kind}", ["CAP_SYS_ADMIN"], "rights over the guest")
      for kind in ("Ambient", "Bounding", "Effective", "Inheritable", "Permitted")),
    ("pause-capability", "pause", "OCI/Process/Capabilities/Bounding/+", "CAP_SYS_ADMIN", "rights over the guest"),
    ("pause-uid", "pause", "OCI/Process/User/UID", 0, "root in the pause container"),
    ("pause-gid", "pause", "OCI/Process/User/GID", 0, "group root in the pause container"),
    ("new-privileges", "edge", "OCI/Process/NoNewPrivileges", False, "setuid programs gain rights"),
    ("pause-new-privileges", "pause", "OCI/Process/NoNewPrivileges", False, "setuid programs gain rights"),
    ("rlimits", "edge", "OCI/Process/Rlimits", [{"Type": "RLIMIT_CORE", "Hard": 2**63, "Soft": 2**63}], "memory in core files"),
    ("apparmor", "edge", "OCI/Process/ApparmorProfile", "unconfined", "no profile"),
    ("selinux", "edge", "OCI/Process/SelinuxLabel", "system_u:system_r:spc_t:s0", "a privileged domain"),
    ("oom-score", "edge", "OCI/Process/OOMScoreAdj", -1000, "a process that the kernel cannot end"),
    # --- namespaces and kernel
    ("namespaces-none", "edge", "OCI/Linux/Namespaces", [], "the guest's mounts, host name and IPC in the process"),
    ("namespace-mount-missing", "edge", "OCI/Linux/Namespaces", [{"Type": "ipc", "Path": ""}, {"Type": "uts", "Path": ""}],
     "mounts in the guest's own namespace"),
    ("namespace-path", "edge", "OCI/Linux/Namespaces/2/Path", "/proc/1/ns/mnt", "the guest's mount namespace"),
    ("namespace-network", "edge", "OCI/Linux/Namespaces/+", {"Type": "network", "Path": "/run/netns/podns"}, "a network of the host's"),
    ("namespace-pid", "edge", "OCI/Linux/Namespaces/+", {"Type": "pid", "Path": "/proc/1/ns/pid"}, "the guest's processes"),
    ("namespace-user", "edge", "OCI/Linux/Namespaces/+", {"Type": "user", "Path": ""}, "other user ids"),
    ("namespace-unknown", "edge", "OCI/Linux/Namespaces/0/Type", "none", "an unknown type, which agents take for mount"),
    ("sandbox-pidns", "edge", "sandbox_pidns", True, "processes shared between containers"),
    ("uid-mappings", "edge", "OCI/Linux/UIDMappings", [{"HostID": 0, "ContainerID": 65532, "Size": 1}], "the user is guest root"),
    ("gid-mappings", "edge", "OCI/Linux/GIDMappings", [{"HostID": 0, "ContainerID": 65532, "Size": 1}], "the group is guest root"),
    ("sysctl-core", "edge", "OCI/Linux/Sysctl", {"kernel.core_pattern": "|/bin/sh"}, "a program on a crash"),
    ("sysctl-route", "edge", "OCI/Linux/Sysctl", {"net.ipv4.conf.all.route_localnet": "1"}, "the loopback service from outside"),
    ("sysctl-value", "pause", "OCI/Linux/Sysctl/net.ipv4.ping_group_range", "0 0", "another value"),
    ("devices-linux", "edge", "OCI/Linux/Devices", [{"Path": "/dev/mem", "Type": "c", "Major": 1, "Minor": 1}], "the guest's memory"),
    ("devices-trusted-store", "edge", "OCI/Linux/Devices", [{"Path": "/dev/trusted_store", "Type": "b"}], "a disk for images"),
    ("devices-agent", "edge", "devices", [{"id": "0", "type_": "blk", "container_path": "/dev/vda"}], "a disk of the host's"),
    ("devices-cgroup", "edge", "OCI/Linux/Resources/Devices", [{"Allow": True, "Type": "a", "Access": "rwm"}], "all devices"),
    ("devices-annotation", "edge", "OCI/Annotations/cdi.k8s.io~1vfio0", "nvidia.com/gpu=0", "a device by annotation"),
    ("cgroup-path", "edge", "OCI/Linux/CgroupsPath", "/../../system.slice", "another cgroup"),
    ("seccomp", "edge", "OCI/Linux/Seccomp", {"DefaultAction": "SCMP_ACT_NOTIFY"}, "system calls decided by a listener"),
    ("rootfs-propagation", "edge", "OCI/Linux/RootfsPropagation", "shared", "the container's mounts seen in the guest"),
    ("masked-none", "edge", "OCI/Linux/MaskedPaths", [], "the kernel's memory and keys"),
    ("masked-image", "edge", "OCI/Linux/MaskedPaths/+", "/opt/pmc2/lib", "files of the image hidden"),
    ("readonly-none", "edge", "OCI/Linux/ReadonlyPaths", [], "kernel settings in /proc"),
    ("readonly-tmp", "edge", "OCI/Linux/ReadonlyPaths/+", "/tmp", "a folder that the edge cannot write"),
    ("mount-label", "edge", "OCI/Linux/MountLabel", "system_u:object_r:container_file_t:s0", "another label"),
    ("intel-rdt", "edge", "OCI/Linux/IntelRdt", {"L3CacheSchema": "L3:0=1"}, "cache partitions that show accesses"),
    ("block-io", "edge", "OCI/Linux/Resources/BlockIO", {"Weight": 1}, "control that the pod does not need"),
    ("network-class", "edge", "OCI/Linux/Resources/Network", {"ClassID": 1}, "marked packets"),
    ("pids-limit", "edge", "OCI/Linux/Resources/Pids", {"Limit": 1}, "a limit that the pod does not set"),
    ("oom-killer", "edge", "OCI/Linux/Resources/Memory/DisableOOMKiller", True, "a process stuck for lack of memory"),
    ("hugepages", "edge", "OCI/Linux/Resources/HugepageLimits/0/Limit", 1, "huge pages that the pod does not need"),
    ("unknown-spec-key", "edge", "OCI/VM", {"Hypervisor": {"Path": "/bin/sh"}}, "a field of a future agent"),
    ("unknown-process-key", "edge", "OCI/Process/ExecCPUAffinity", {"Initial": "0"}, "a field of a future agent"),
    ("unknown-linux-key", "edge", "OCI/Linux/Personality", {"Domain": "LINUX32"}, "a field of a future agent"),
    ("unknown-request-key", "edge", "pass_fds", [3], "a field of a future agent"),
    ("solaris", "edge", "OCI/Solaris", {"dummy": "x"}, "a field that no Linux container has"),
    ("windows", "edge", "OCI/Windows", {"dummy": "x"}, "a field that no Linux container has"),
    ("version", "edge", "OCI/Version", "2.0.0", "other meanings of the fields"),
    ("spec-hostname", "edge", "OCI/Hostname", "a.example/../x", "text in place of a host name"),
    # --- names and annotations
    ("id-shared", "edge", "container_id", "shared", "a bundle in a folder of the agent's"),
    ("id-traversal", "edge", "container_id", "../../tmp", "a bundle anywhere"),
    ("exec-id", "edge", "exec_id", "other", "a process under another name"),
    ("type-sandbox", "edge", "OCI/Annotations/io.kubernetes.cri.container-type", "sandbox", "the edge as the sandbox"),
    ("type-none", "edge", "OCI/Annotations", {}, "neither sandbox nor container"),
    ("type-kata", "edge", "OCI/Annotations/io.katacontainers.pkg.oci.container_type", "pod_sandbox", "two types at once"),
    ("type-crio", "edge", "OCI/Annotations/io.kubernetes.cri-o.ContainerType", "sandbox", "the pause process with the edge's image"),
    ("termination-path", "edge", "OCI/Annotations/io.kubernetes.container.terminationMessagePath", "/run/pmc2/certs/edge.key",
     "GetDiagnosticData reads the key"),
    # --- mounts
    ("mount-over-opt", "edge", "OCI/Mounts/+", _mounted("/opt/pmc2", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts"), "the host's program"),
    ("mount-over-usr", "edge", "OCI/Mounts/+", _mounted("/usr", f"{EPHEMERAL}/tmp"), "other libraries"),
    ("mount-over-passwd", "edge", "OCI/Mounts/+", _mounted("/etc/passwd", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts"), "other users"),
    ("mount-over-root", "edge", "OCI/Mounts/+", _mounted("/", f"{EPHEMERAL}/tmp"), "another root"),
    ("mount-relative-bind", "edge", "OCI/Mounts/0",
     _mounted("/proc", "../..", "bind", kind="proc"), "c8s 280: /run in place of /proc"),
    ("mount-type-bind-relative", "edge", "OCI/Mounts/0", _mounted("/proc", "../../..", "bind"), "c8s 280: / in place of /proc"),
    ("mount-proc-bind", "edge", "OCI/Mounts/0/options/+", "bind", "c8s 280: the source is bound whatever the type"),
    ("mount-proc-rbind", "edge", "OCI/Mounts/0/options/+", "rbind", "c8s 280: the source is bound whatever the type"),
    ("mount-proc-suid", "edge", "OCI/Mounts/0/options", ["suid", "exec", "dev"], "programs and devices in /proc"),
    ("mount-proc-no-options", "edge", "OCI/Mounts/0/options", [], "programs and devices in /proc"),
    ("mount-proc-source", "edge", "OCI/Mounts/0/source", "/proc", "the guest's processes"),
    ("mount-proc-type", "edge", "OCI/Mounts/0/type_", "bind", "the guest's processes"),
    ("mount-dev-type", "edge", "OCI/Mounts/1/type_", "devtmpfs", "the guest's devices"),
    ("mount-dev-overlay", "edge", "OCI/Mounts/1/options/+", "lowerdir=/", "another file system's parameters"),
    ("mount-sys-writable", "edge", "OCI/Mounts/4/options", ["nosuid", "noexec", "nodev", "rw"], "kernel settings"),
    ("mount-shm-source", "edge", "OCI/Mounts/5/source", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts", "shared memory of the host's"),
    ("mount-shm-shared", "edge", "OCI/Mounts/5/options", ["rbind", "rshared"], "mounts seen in the guest"),
    ("mount-cgroup-writable", "edge", "OCI/Mounts/6/options", ["nosuid", "noexec", "nodev", "relatime", "rw"], "cgroup control"),
    ("mount-hosts-other", "edge", "OCI/Mounts/7/source", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-../../../etc/shadow", "a guest's file"),
    ("mount-hosts-key", "edge", "OCI/Mounts/7/source", "/run/pmc2/certs/edge.key", "the key under another name"),
    ("mount-hosts-foreign", "edge", "OCI/Mounts/7/source", f"{SHARED}/{SANDBOX}-ce23cfeb91e75aaa-hosts", "another container's file"),
    ("mount-hosts-type", "edge", "OCI/Mounts/7/type_", "ext4", "the file as a disk image"),
    ("mount-hosts-suid", "edge", "OCI/Mounts/7/options", ["rbind", "rprivate", "rw", "suid", "exec"], "a setuid program"),
    ("mount-volume-source", "edge", "OCI/Mounts/11/source", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts", "a folder that the host fills"),
    ("mount-volume-storage", "edge", "OCI/Mounts/11/source", ROOTFS, "GHSA-fmg6-v47x-52wr: an image storage's mount point as the source"),
    ("mount-volume-traversal", "edge", "OCI/Mounts/11/source", f"{EPHEMERAL}/../../shared/containers", "a folder that the host fills"),
    ("mount-volume-relative", "edge", "OCI/Mounts/11/source", "../..", "GHSA-fmg6-v47x-52wr: /run as the edge's folder"),
    ("mount-volume-swapped", "edge", "OCI/Mounts/11/source", f"{EPHEMERAL}/tmp", "one folder for keys and temporary files"),
    ("mount-volume-shared", "edge", "OCI/Mounts/11/options", ["rbind", "rshared", "rw"], "the key's folder seen in the guest"),
    ("mount-certs", "edge", "OCI/Mounts/+", _mounted("/run/pmc2/certs", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-certs", "ro"),
     "a TLS key of the host's"),
    ("mount-token", "edge", "OCI/Mounts/+",
     _mounted("/var/run/secrets/kubernetes.io/serviceaccount", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-serviceaccount", "ro"),
     "files that the pod does not ask for"),
    ("mount-twice", "edge", "OCI/Mounts/+", _mounted("/etc/hosts", f"{SHARED}/{EDGE}-0123456789abcdef-hosts"), "two files for one path"),
    ("mount-extra-key", "edge", "OCI/Mounts/0/uid_mappings", [{"HostID": 0}], "a field of a future agent"),
    ("mount-destination-traversal", "edge", "OCI/Mounts/12/destination", "/tmp/../opt/pmc2", "a folder over the program"),
    ("pause-mount-volume", "pause", "OCI/Mounts/+", _mounted("/run/pmc2", f"{EPHEMERAL}/run", "rw"), "the edge's key in pause"),
    # --- storages
    ("storage-over-root", "edge", "storages/1/mount_point", "/", "an empty file system over the guest's"),
    ("storage-over-usr", "edge", "storages/1/mount_point", "/usr", "other programs in the guest"),
    ("storage-over-rootfs", "edge", "storages/1/mount_point", ROOTFS, "c8s 315: another root file system"),
    ("storage-under-rootfs", "edge", "storages/1/mount_point", f"{ROOTFS}/opt/pmc2", "another program in the image"),
    ("storage-over-shm", "edge", "storages/1/mount_point", "/run/kata-containers/sandbox/shm", "shared memory of another kind"),
    ("storage-source", "edge", "storages/1/source", "/run", "c8s 280: the source is mounted as it is"),
    ("storage-source-device", "edge", "storages/1/source", "/dev/vda", "a disk of the host's"),
    ("storage-fstype", "edge", "storages/1/fstype", "virtiofs", "a file system of the host"),
    ("storage-fstype-huge", "edge", "storages/1/fstype", "hugetlbfs", "kernel settings written by the agent"),
    ("storage-options-bind", "edge", "storages/1/options", ["bind"], "the source bound"),
    ("storage-options-gid", "edge", "storages/1/options", ["fsgid=0"], "files of group root"),
    ("storage-options-layer", "edge", "storages/1/options", ["X-kata.overlay-lower"], "the agent's block device handler"),
    ("storage-driver-options", "edge", "storages/1/driver_options", ["encryption_key=ephemeral"], "a disk formatted by the agent"),
    ("storage-fs-group", "edge", "storages/1/fs_group", {"group_id": 0, "group_change_policy": 0}, "owners of files changed"),
    ("storage-shared", "edge", "storages/1/shared", True, "a storage that outlives the container"),
    ("storage-twice", "edge", "storages/+", _stored(f"{EPHEMERAL}/run"), "a second file system over the first"),
    ("storage-extra-key", "edge", "storages/1/verity", "x", "a field of a future agent"),
    *((f"storage-{driver}", "edge", "storages/+", _stored("/run/pmc2", driver=driver, source="x"), gain) for driver, gain in (
        ("local", "a folder of the guest's at any place"), ("bind", "any folder"), ("virtio-fs", "a folder of the host's"),
        ("9p", "a folder of the host's"), ("blk", "a disk of the host's"), ("scsi", "a disk of the host's"),
        ("nvdimm", "memory of the host's"), ("watchable-bind", "files that follow the host's"), ("overlayfs", "a mixed root"),
        ("erofs.multi-layer", "layers of the host's"), ("virtual-volume", "any volume"))),
    ("shared-mounts", "edge", "shared_mounts",
     [{"name": "x", "src_ctr": SANDBOX, "src_path": "/", "dst_ctr": EDGE, "dst_path": "/opt"}], "another container's files"),
    ("stdin-port", "edge", "stdin_port", 1, "input of the host's"),
    ("stdout-port", "edge", "stdout_port", 1, "the edge's output"),
    ("stderr-port", "edge", "stderr_port", 1, "the edge's output"),
    # --- the sandbox
    ("sandbox-hooks", "sandbox", "guest_hook_path", "/run/kata-containers/shared", "a program with each container"),
    ("sandbox-modules", "sandbox", "kernel_modules", [{"name": "dummy", "parameters": []}], "a kernel module"),
    ("sandbox-pidns-all", "sandbox", "sandbox_pidns", True, "processes shared between containers"),
    ("sandbox-hostname", "sandbox", "hostname", "x\n127.0.0.1 y", "text in place of a host name"),
    ("sandbox-dns", "sandbox", "dns/+", "nameserver 10.0.0.1\nroot::0:0::/:/bin/sh", "several lines in one"),
    ("sandbox-id", "sandbox", "sandbox_id", "../x", "a path in place of an id"),
    ("sandbox-storage-virtiofs", "sandbox", "storages/+", _stored(f"{SHARED}/", driver="virtio-fs", source="kataShared"),
     "a folder of the host's below every copied file"),
    ("sandbox-storage-over-rootfs", "sandbox", "storages/0/mount_point", ROOTFS, "c8s 315: the image is not pulled"),
    ("sandbox-storage-over-usr", "sandbox", "storages/0/mount_point", "/usr", "other programs in the guest"),
    ("sandbox-storage-source", "sandbox", "storages/0/source", "/run", "c8s 280: the source is mounted as it is"),
    ("sandbox-storage-driver", "sandbox", "storages/0/driver", "blk", "a disk of the host's"),
    ("sandbox-storage-fstype", "sandbox", "storages/0/fstype", "ext4", "a disk of the host's"),
    ("sandbox-storage-options", "sandbox", "storages/0/options/+", "bind", "the source bound"),
    ("sandbox-storage-fs-group", "sandbox", "storages/0/fs_group", {"group_id": 0}, "owners of files changed"),
    ("sandbox-extra-key", "sandbox", "swap", True, "a field of a future agent"),
    # --- files
    ("copy-symlink", "copy", "file_type", "Symlink", "CVE-2026-41326: a link to any file of the guest's"),
    ("copy-symlink-mode", "copy-3.21", "file_mode", 0o120777, "CVE-2026-41326: a link to any file of the guest's"),
    ("copy-symlink-target", "copy", "symlink_target", "/etc/shadow", "CVE-2026-41326: a link to any file of the guest's"),
    ("copy-directory", "copy", "file_type", "Directory", "a folder in place of a file"),
    ("copy-directory-mode", "copy-3.21", "file_mode", 0o040755, "a folder in place of a file"),
    ("copy-device-mode", "copy-3.21", "file_mode", 0o060644, "a mode with the folder's bit"),
    ("copy-unknown", "copy", "file_type", "Unknown", "a socket or device"),
    ("copy-setuid", "copy", "file_mode", 0o104755, "a setuid program"),
    ("copy-setgid", "copy", "file_mode", 0o102755, "a setgid program"),
    ("copy-executable", "copy", "file_mode", 0o100755, "a program"),
    ("copy-rootfs", "copy", "path", f"{ROOTFS}/opt/pmc2/bin/workbench", "another program in the image"),
    ("copy-shared-rootfs", "copy", "path", f"{SHARED}/{EDGE}/rootfs/opt/pmc2/bin/workbench", "another program in the image"),
    ("copy-etc", "copy", "path", "/etc/hosts", "a file of the guest's"),
    ("copy-traversal", "copy", "path", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts/../../../../etc/passwd", "a file of the guest's"),
    ("copy-name-traversal", "copy", "path", f"{SHARED}/../../{EDGE}-ce23cfeb91e75aaa-hosts", "a file outside the folder"),
    ("copy-certs", "copy", "path", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-certs/edge.key", "a TLS key of the host's"),
    ("copy-token", "copy", "path", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-serviceaccount/token", "a file that the pod does not ask for"),
    ("copy-below-file", "copy", "path", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts/x", "a folder in place of a file"),
    ("copy-newline", "copy", "path", f"{SHARED}/{EDGE}-ce23cfeb91e75aaa-hosts\n", "a name that ends elsewhere"),
    ("copy-offset", "copy", "offset", 4096, "a file changed in its middle"),
    ("copy-size", "copy", "file_size", 2**40, "the guest's memory filled"),
    ("copy-uid", "copy", "uid", 65532, "a file that the edge can change"),
    ("copy-gid", "copy", "gid", 6, "a file of another group"),
    ("copy-dir-mode", "copy", "dir_mode", 0o4777, "a folder that everyone can change"),
    ("copy-extra-key", "copy", "xattrs", {"security.capability": "x"}, "a field of a future agent"),
    # --- the network
    ("interface-loopback", "interface", "interface/name", "lo", "the service that hands out keys"),
    ("interface-device", "interface", "interface/device", "lo", "the service that hands out keys"),
    ("interface-other", "interface", "interface/name", "docker0", "an interface that the pod does not have"),
    ("interface-hardware", "interface", "interface/hwAddr", "00:00:00:00:00:00", "the loopback interface by its address"),
    ("interface-address", "interface", "interface/IPAddresses/0/address", "127.0.0.1", "the loopback address outside"),
    ("interface-address-6", "interface", "interface/IPAddresses/1/address", "0:0::0:1", "the loopback address outside"),
    ("interface-flags", "interface", "interface/raw_flags", 256, "an interface that takes all packets"),
    ("interface-path", "interface", "interface/devicePath", "../x y", "text in place of a path"),
    ("route-loopback", "routes", "routes/Routes/0/dest", "127.0.0.1/32", "the service that hands out keys"),
    ("route-loopback-6", "routes", "routes/Routes/0/dest", "::1/128", "the service that hands out keys"),
    ("route-device", "routes", "routes/Routes/0/device", "lo", "the service that hands out keys"),
    ("route-source", "routes", "routes/Routes/0/source", "127.0.0.1", "packets from the loopback address"),
    ("route-source-6", "routes", "routes/Routes/0/source", "::1", "packets from the loopback address"),
    ("route-gateway", "routes", "routes/Routes/0/gateway", "127.0.0.1", "packets to the loopback address"),
    ("route-scope", "routes", "routes/Routes/0/scope", 254, "a route to the guest itself"),
    ("route-extra-key", "routes", "routes/Routes/0/table", 255, "the table of local addresses"),
    ("neighbour-device", "neighbours", "neighbors/ARPNeighbors/0/device", "lo", "the service that hands out keys"),
    ("neighbour-address", "neighbours", "neighbors/ARPNeighbors/0/toIPAddress/address", "127.0.0.1", "the loopback address outside"),
    ("neighbour-state", "neighbours", "neighbors/ARPNeighbors/0/state", 64, "an entry without lookups"),
    ("neighbour-flags", "neighbours", "neighbors/ARPNeighbors/0/flags", 5, "an entry of another kind"),
    # --- the life of a container
    ("signal-stop", "signal", "signal", 19, "a process halted and kept"),
    ("signal-user", "signal", "signal", 10, "a program's debugging path"),
    ("signal-exec", "signal", "exec_id", "other", "another process"),
    ("wait-exec", "wait", "exec_id", "other", "another process"),
    ("start-traversal", "start", "container_id", "../x", "a path in place of an id"),
    ("start-extra-key", "start", "checkpoint", "/tmp/x", "a field of a future agent"),
    ("remove-extra-key", "remove", "keep", True, "a field of a future agent"),
    ("stats-extra-key", "stats", "path", "/", "a field of a future agent"),
]  # fmt: skip

HOSTILE = [Hostile(name, base, path, value, gain) for name, base, path, value, gain in _ROWS]
