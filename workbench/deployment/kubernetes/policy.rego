# The Kata Containers agent policy of one edge pod. The agent evaluates one rule, named after the request's message, per request
# of the host. The host is the attacker: every rule is an allow list, and every other request is refused.
#
# The host may start two containers: the sandbox's own (`pause`, from the measured guest image) and the edge (one image by
# digest, one command). The host may stop them and read their resource usage. The host reads no output unless `logs` is set.
#
# Shape of the input: the JSON form of src/libs/protocols/protos/{agent,oci,types}.proto, kata-containers 3.21.0 to 4.1.0.
# A key that is not listed here belongs to a newer agent: the request is refused. A key that is missing belongs to a newer agent
# than the one that runs, which cannot act on it: an agent writes out every field of its own version, defaults included.
#
# guest.py appends the constants: image, command, user, environment, volumes, from_host, logs, certificate_links.

package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default AddARPNeighborsRequest := false
default AddSwapPathRequest := false
default AddSwapRequest := false
default AllowRequestsFailingPolicy := false
default CloseStdinRequest := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default DestroySandboxRequest := true
default ExecProcessRequest := false
default GetDiagnosticDataRequest := false
default GetIPTablesRequest := false
default GetMetricsRequest := false
default GetOOMEventRequest := false
default GuestDetailsRequest := false
default ListInterfacesRequest := false
default ListRoutesRequest := false
default MemAgentCompactConfig := false
default MemAgentMemcgConfig := false
default MemHotplugByProbeRequest := false
default OnlineCPUMemRequest := false
default PauseContainerRequest := false
default PullImageRequest := false
default ReadStreamRequest := false
default RemoveContainerRequest := false
default RemoveStaleVirtiofsShareMountsRequest := false
default ReseedRandomDevRequest := false
default ResizeVolumeRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetIPTablesRequest := false
default SetPolicyRequest := false
default SignalProcessRequest := false
default StartContainerRequest := false
default StartTracingRequest := false
default StatsContainerRequest := false
default StopTracingRequest := false
default TtyWinResizeRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false
default VolumeStatsRequest := false
default WaitProcessRequest := false
default WriteStreamRequest := false

# --- life of the sandbox and its containers ------------------------------------------------------------------------------

# DestroySandboxRequest is always granted: the host can switch the machine off.

GetOOMEventRequest if only(input, set())

RemoveStaleVirtiofsShareMountsRequest if only(input, set())

GuestDetailsRequest if {
    only(input, {"mem_block_size", "mem_hotplug_probe"})
    flags(input, ["mem_block_size", "mem_hotplug_probe"])
}

OnlineCPUMemRequest if {
    only(input, {"wait", "nb_cpus", "cpu_only"})
    flags(input, ["wait", "cpu_only"])
    counts(input, ["nb_cpus"])
}

StartContainerRequest if {
    only(input, {"container_id"})
    own(input)
}

StatsContainerRequest if {
    only(input, {"container_id"})
    own(input)
}

RemoveContainerRequest if {
    only(input, {"container_id", "timeout"})
    own(input)
    counts(input, ["timeout"])
}

WaitProcessRequest if {
    only(input, {"container_id", "exec_id"})
    own(input)
}

# SIGKILL and SIGTERM. Other signals select a program's debugging or reload paths.
SignalProcessRequest if {
    only(input, {"container_id", "exec_id", "signal"})
    own(input)
    object.get(input, "signal", 15) in {9, 15}
}

ReadStreamRequest if {
    logs
    only(input, {"container_id", "exec_id", "len"})
    own(input)
    counts(input, ["len"])
}

# Reads the file that an annotation names: `annotations` below admits no path but the termination log.
GetDiagnosticDataRequest if {
    logs
    only(input, {"container_id", "log_type"})
    own(input)
    input.log_type == "termination_log"
}

# The container's first process is the only process. Its id is the container's.
own(request) if {
    container := object.get(request, "container_id", "0")
    identifier(container)
    object.get(request, "exec_id", container) in {"", container}
}

# --- sandbox -------------------------------------------------------------------------------------------------------------

CreateSandboxRequest if {
    message(input, {
        "hostname", "dns", "storages", "sandbox_pidns", "sandbox_id", "guest_hook_path", "kernel_modules",
    }, set(), "sandbox_id")
    unset(input, ["sandbox_pidns", "guest_hook_path", "kernel_modules"])
    hostname(object.get(input, "hostname", ""))
    identifier(object.get(input, "sandbox_id", "0"))
    every line in items(input, "dns") {
        regex.match(`^(#[ -~]*|((nameserver|search|domain|options) )?[A-Za-z0-9.:_ -]*)$`, line)
    }
    storages := items(input, "storages")
    count(storages) <= 1
    every storage in storages {
        shared_memory(storage)
    }
}

# A sandbox storage at any other mount point hides the guest's files, or suppresses a later container's own storage.
shared_memory(storage) if {
    message(storage, storage_fields, {"shared"}, "fs_group")
    storage.driver == "ephemeral"
    storage.source == "shm"
    object.get(storage, "fstype", "tmpfs") == "tmpfs"
    object.get(storage, "mount_point", shm) == shm
    unset(storage, ["driver_options", "fs_group", "shared"])
    every option in items(storage, "options") {
        regex.match(`^(noexec|nosuid|nodev|mode=1777|size=[0-9]+)$`, option)
    }
}

# --- containers ----------------------------------------------------------------------------------------------------------

CreateContainerRequest if {
    input.OCI.Annotations["io.kubernetes.cri.container-type"] == "sandbox"
    container("sandbox")
    pull("sandbox", "pause")
    count(input.storages) == 1
    process := input.OCI.Process
    process.Args == ["/pause"]
    unprivileged(process, {user, 65535}, pause_capabilities)
    pause_variables := items(process, "Env")
    harmless([variable | some variable in pause_variables; variable != pause_path])
    every mount in input.OCI.Mounts {
        system_mount(mount)
    }
}

CreateContainerRequest if {
    input.OCI.Annotations["io.kubernetes.cri.container-type"] == "container"
    container("container")
    pull("container", image)
    object.get(input.OCI.Annotations, "io.kubernetes.cri.image-name", image) == image
    every storage in input.storages {
        edge_storage(storage)
    }
    process := input.OCI.Process
    process.Args == command
    unprivileged(process, {user}, set())
    every variable in environment {
        variable in process.Env
    }
    harmless(process.Env)
    every mount in input.OCI.Mounts {
        edge_mount(mount)
    }
}

container(kind) if {
    message(input, {
        "container_id", "exec_id", "string_user", "devices", "storages", "OCI", "sandbox_pidns", "shared_mounts",
        "stdin_port", "stdout_port", "stderr_port",
    }, set(), "string_user")
    own(input)
    unset(input, ["string_user", "devices", "sandbox_pidns", "shared_mounts", "stdin_port", "stdout_port", "stderr_port"])
    is_array(input.storages)
    uniform(input.storages)
    once(input.storages, "mount_point")
    specification(input.OCI, kind)
}

specification(oci, kind) if {
    message(oci, {
        "Version", "Process", "Root", "Hostname", "Mounts", "Hooks", "Annotations", "Linux", "Solaris", "Windows",
    }, set(), "Solaris")
    unset(oci, ["Hooks", "Solaris", "Windows"])
    regex.match(`^1\.[0-9]+\.[0-9]+(-[0-9a-z.-]+)?$`, object.get(oci, "Version", "1.0.0"))
    hostname(object.get(oci, "Hostname", ""))
    annotated(oci.Annotations, kind)
    root(object.get(oci, "Root", {"Path": rootfs, "Readonly": true}))
    is_array(oci.Mounts)
    uniform(oci.Mounts)
    once(oci.Mounts, "destination")
    linux(object.get(oci, "Linux", {}))
}

# An agent that finds no file system at `rootfs` binds Path there.
root(value) if {
    only(value, {"Path", "Readonly"})
    value.Path == rootfs
    value.Readonly == true
}

rootfs := concat("/", ["/run/kata-containers", input.container_id, "rootfs"])

# The agent takes the kind of container from io.kubernetes.cri.container-type or the CRI-O key, and devices from cdi.k8s.io keys.
annotated(values, kind) if {
    object.get(values, "io.katacontainers.pkg.oci.container_type", concat("", ["pod_", kind])) == concat("", ["pod_", kind])
    every key, value in values {
        annotation(key, value)
    }
}

annotation(key, value) if regex.match(annotations[key], value)

annotation(key, value) if {
    regex.match(`^io\.katacontainers\.config\.(hypervisor|runtime|agent)\.[a-z0-9_]+$`, key)
    regex.match(`^[ -~]*$`, value)
}

plain_text := `^[A-Za-z0-9@:/._-]*$`

annotations := {
    "io.katacontainers.pkg.oci.bundle_path": plain_text,
    "io.katacontainers.pkg.oci.container_type": plain_text,
    "io.kubernetes.container.terminationMessagePath": `^/dev/termination-log$`,
    "io.kubernetes.container.terminationMessagePolicy": plain_text,
    "io.kubernetes.cri.container-name": plain_text,
    "io.kubernetes.cri.container-type": plain_text,
    "io.kubernetes.cri.image-name": plain_text,
    "io.kubernetes.cri.podsandbox.image-name": plain_text,
    "io.kubernetes.cri.sandbox-cpu-period": plain_text,
    "io.kubernetes.cri.sandbox-cpu-quota": plain_text,
    "io.kubernetes.cri.sandbox-cpu-shares": plain_text,
    "io.kubernetes.cri.sandbox-id": plain_text,
    "io.kubernetes.cri.sandbox-log-directory": plain_text,
    "io.kubernetes.cri.sandbox-memory": plain_text,
    "io.kubernetes.cri.sandbox-name": plain_text,
    "io.kubernetes.cri.sandbox-namespace": plain_text,
    "io.kubernetes.cri.sandbox-uid": plain_text,
    "nerdctl/network-namespace": plain_text,
}

# --- storages ------------------------------------------------------------------------------------------------------------

storage_fields := {"driver", "driver_options", "source", "fstype", "options", "mount_point", "fs_group"}

shm := "/run/kata-containers/sandbox/shm"

# Exactly one image, pulled inside the guest, is the root file system.
pull(kind, source) if {
    pulls := [storage | some storage in input.storages; storage.driver == "image_guest_pull"]
    count(pulls) == 1
    storage := pulls[0]
    message(storage, storage_fields, {"shared"}, "fs_group")
    storage.source == source
    object.get(storage, "fstype", "overlay") == "overlay"
    object.get(storage, "mount_point", rootfs) == rootfs
    unset(storage, ["options", "fs_group", "shared"])
    named(storage, kind)
}

named(storage, _) if not has(storage, "driver_options")

named(storage, kind) if {
    is_array(storage.driver_options)
    count(storage.driver_options) == 1
    described(storage.driver_options[0], kind)
}

# The agent unpacks its own pause image if the metadata says "sandbox"; else it pulls `source`, even if that is "pause".
# No backslash: a JSON escape could hide a second container-type, and parsers differ on duplicate keys.
described(option, kind) if {
    regex.match(`^image_guest_pull=\{"metadata":\{[^\\]*\}\}$`, option)
    count(split(option, "io.kubernetes.cri.container-type")) <= 2
    pulled := json.unmarshal(trim_prefix(option, "image_guest_pull="))
    only(pulled, {"metadata"})
    object.get(pulled.metadata, "io.kubernetes.cri.container-type", "container") == kind
    every key, value in pulled.metadata {
        metadata(key, value)
    }
}

metadata(key, value) if annotation(key, value)

metadata(key, value) if {
    regex.match(`^containerd\.io/snapshot[a-z0-9./-]*$`, key)
    regex.match(`^[ -~]*$`, value)
}

edge_storage(storage) if storage.driver == "image_guest_pull"

edge_storage(storage) if {
    message(storage, storage_fields, {"shared"}, "fs_group")
    storage.driver == "ephemeral"
    storage.source == "tmpfs"
    object.get(storage, "fstype", "tmpfs") == "tmpfs"
    unset(storage, ["driver_options", "fs_group", "shared"])
    object.get(storage, "mount_point", ephemeral("run")) in {ephemeral(name) | some name in volumes}
    object.get(storage, "options", []) in [[], [sprintf("fsgid=%d", [user])]]
}

ephemeral(name) := concat("/", ["/run/kata-containers/sandbox/ephemeral", name])

# --- mounts --------------------------------------------------------------------------------------------------------------

edge_mount(mount) if system_mount(mount)

edge_mount(mount) if {
    mount.source == ephemeral(volumes[mount.destination])
    bind_mount(mount, {"rbind"}, {"rprivate", "rw"})
}

edge_mount(mount) if {
    from_host
    mount.destination == "/run/pmc2/certs"
    copied(mount.source, "certs")
    bind_mount(mount, {"rbind", "ro"}, {"rprivate"})
}

system_mount(mount) if {
    some filesystem in filesystems[mount.destination]
    mount.type_ == filesystem.type
    mount.source == filesystem.source
    only(mount, mount_fields)
    with_options(mount, filesystem.options, object.get(more_options, mount.destination, set()))
}

system_mount(mount) if {
    mount.destination == "/dev/shm"
    mount.source == shm
    bind_mount(mount, {"rbind"}, set())
}

system_mount(mount) if {
    copied(mount.source, network_files[mount.destination])
    bind_mount(mount, {"rbind"}, {"rprivate", "rw", "ro", "nosuid", "nodev", "noexec"})
}

mount_fields := {"destination", "source", "type_", "options"}

bind_mount(mount, options, more) if {
    only(mount, mount_fields)
    mount.type_ == "bind"
    with_options(mount, options, more)
}

with_options(mount, options, more) if {
    given := {option | some option in object.get(mount, "options", options)}
    count(options - given) == 0
    count(given - (options | more)) == 0
}

# The file's name starts with the container's id, of which one of the runtimes keeps ten characters.
copied(source, name) if {
    shared := "/run/kata-containers/shared/containers/"
    startswith(source, shared)
    parts := split(trim_prefix(source, shared), "-")
    parts[0] != ""
    startswith(input.container_id, parts[0])
    regex.match(`^[0-9a-f]+$`, parts[1])
    concat("-", array.slice(parts, 2, count(parts))) == name
}

network_files := {
    "/dev/termination-log": "termination-log",
    "/etc/hostname": "hostname",
    "/etc/hosts": "hosts",
    "/etc/resolv.conf": "resolv.conf",
}

filesystems := {
    "/proc": {{"type": "proc", "source": "proc", "options": {"nosuid", "noexec", "nodev"}}},
    "/dev": {{"type": "tmpfs", "source": "tmpfs", "options": {"nosuid", "strictatime", "mode=755", "size=65536k"}}},
    "/dev/pts": {{
        "type": "devpts", "source": "devpts",
        "options": {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
    }},
    "/dev/mqueue": {{"type": "mqueue", "source": "mqueue", "options": {"nosuid", "noexec", "nodev"}}},
    "/sys": {{"type": "sysfs", "source": "sysfs", "options": {"nosuid", "noexec", "nodev", "ro"}}},
    "/sys/fs/cgroup": {
        {"type": "cgroup", "source": "cgroup", "options": {"nosuid", "noexec", "nodev", "relatime", "ro"}},
        {"type": "cgroup2", "source": "cgroup2", "options": {"nosuid", "noexec", "nodev", "relatime", "ro"}},
    },
}

# Flags of newer kernels' cgroup file system.
more_options := {"/sys/fs/cgroup": {"nsdelegate", "memory_recursiveprot"}}

# --- processes -----------------------------------------------------------------------------------------------------------

unprivileged(process, ids, capabilities) if {
    message(process, {
        "Terminal", "ConsoleSize", "User", "Args", "Env", "Cwd", "Capabilities", "Rlimits", "NoNewPrivileges",
        "ApparmorProfile", "OOMScoreAdj", "SelinuxLabel",
    }, set(), "OOMScoreAdj")
    unset(process, ["Terminal", "ConsoleSize", "Rlimits", "SelinuxLabel"])
    process.NoNewPrivileges == true
    object.get(process, "Cwd", "/") == "/"
    object.get(process, "ApparmorProfile", "") in {"", "cri-containerd.apparmor.d"}
    object.get(process, "OOMScoreAdj", 0) >= -999
    object.get(process, "OOMScoreAdj", 0) <= 1000
    member(process.User, ids)
    confined(object.get(process, "Capabilities", {}), capabilities)
}

member(user_, ids) if {
    message(user_, {"UID", "GID", "AdditionalGids", "Username"}, set(), "Username")
    unset(user_, ["Username"])
    user_.UID in ids
    user_.GID in ids
    every group in items(user_, "AdditionalGids") {
        group in ids
    }
}

confined(sets, most) if {
    only(sets, {"Ambient", "Bounding", "Effective", "Inheritable", "Permitted"})
    unset(sets, ["Ambient", "Inheritable"])
    every name in ["Bounding", "Effective", "Permitted"] {
        every capability in items(sets, name) {
            trim_prefix(capability, "CAP_") in most
        }
    }
}

# containerd's default set. The agent runs the process of its own pause image instead of the requested one.
pause_capabilities := {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

pause_path := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A variable can do as much as an argument: PYTHONPATH and LD_PRELOAD run code, WORKBENCH_TOKEN opens the service, proxies
# listen, and the agent replaces values that start with "sealed.".
harmless(values) if {
    every variable in {value | some value in values} - {value | some value in environment} {
        regex.match(concat("|", variables), variable)
    }
}

variables := [
    `^GPG_KEY=[0-9A-F]*$`,
    `^HOSTNAME=[a-z0-9-]*$`,
    `^KUBERNETES_(PORT|PORT_[0-9]+_TCP)=tcp://[0-9A-Fa-f.:]*$`,
    `^KUBERNETES_(SERVICE_HOST|PORT_[0-9]+_TCP_ADDR)=[0-9A-Fa-f.:]*$`,
    `^KUBERNETES_(SERVICE_PORT|SERVICE_PORT_HTTPS|PORT_[0-9]+_TCP_PORT)=[0-9]*$`,
    `^KUBERNETES_PORT_[0-9]+_TCP_PROTO=tcp$`,
    `^LANG=(C|C\.UTF-8|en_US\.UTF-8)$`,
    `^PYTHON_GET_PIP_URL=https://github\.com/pypa/get-pip/[A-Za-z0-9./_-]*$`,
    `^PYTHON_(GET_PIP_)?SHA256=[0-9a-f]*$`,
    `^PYTHON_(PIP_|SETUPTOOLS_)?VERSION=[0-9][0-9a-z.]*$`,
    `^TERM=xterm$`,
]

# --- kernel --------------------------------------------------------------------------------------------------------------

linux(value) if {
    message(value, {
        "UIDMappings", "GIDMappings", "Sysctl", "Resources", "CgroupsPath", "Namespaces", "Devices", "Seccomp",
        "RootfsPropagation", "MaskedPaths", "ReadonlyPaths", "MountLabel", "IntelRdt",
    }, set(), "IntelRdt")
    unset(value, ["UIDMappings", "GIDMappings", "Devices", "Seccomp", "RootfsPropagation", "MountLabel", "IntelRdt"])
    every name, setting in object.get(value, "Sysctl", {}) {
        sysctls[name] == setting
    }
    cgroup(object.get(value, "CgroupsPath", ""))
    resources(object.get(value, "Resources", null))
    isolated(object.get(value, "Namespaces", default_namespaces))
    masked(object.get(value, "MaskedPaths", masked_paths))
    {path | some path in object.get(value, "ReadonlyPaths", readonly_paths)} == readonly_paths
}

sysctls := {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

default_namespaces := [{"Type": "ipc", "Path": ""}, {"Type": "mount", "Path": ""}, {"Type": "uts", "Path": ""}]

# Without a mount namespace the process would see the guest's own file system. The agent adds the pid namespace.
isolated(namespaces) if {
    every namespace in namespaces {
        only(namespace, {"Type", "Path"})
        unset(namespace, ["Path"])
    }
    types := [kind | some namespace in namespaces; kind := replace(namespace.Type, "mnt", "mount")]
    count(types) == count({kind | some kind in types})
    {kind | some kind in types; kind != "cgroup"} == {"ipc", "mount", "uts"}
}

cgroup(path) if path == ""

cgroup(path) if regex.match(`^(/kubelet)?/kubepods(/burstable|/besteffort)?/pod[0-9a-z_-]+/[0-9a-z-]+$`, path)

cgroup(path) if {
    regex.match(`^(kubelet-)?kubepods(-burstable|-besteffort)?-pod[0-9a-z_]+\.slice:cri-containerd:[0-9a-z]+$`, path)
}

resources(value) if value == null

resources(value) if {
    only(value, {"Devices", "Memory", "CPU", "Pids", "BlockIO", "HugepageLimits", "Network"})
    unset(value, ["Devices", "Pids", "BlockIO", "Network"])
    memory(object.get(value, "Memory", null))
    cpu(object.get(value, "CPU", null))
    every limit in items(value, "HugepageLimits") {
        only(limit, {"Pagesize", "Limit"})
        unset(limit, ["Limit"])
        regex.match(`^[0-9]*[A-Za-z]*$`, object.get(limit, "Pagesize", ""))
    }
}

memory(value) if value == null

memory(value) if {
    only(value, {"Limit", "Reservation", "Swap", "Kernel", "KernelTCP", "Swappiness", "DisableOOMKiller"})
    unset(value, ["Kernel", "KernelTCP", "Swappiness", "DisableOOMKiller"])
    counts(value, ["Limit", "Reservation"])
    is_number(object.get(value, "Swap", 0))
}

cpu(value) if value == null

cpu(value) if {
    only(value, {"Shares", "Quota", "Period", "RealtimeRuntime", "RealtimePeriod", "Cpus", "Mems"})
    unset(value, ["RealtimeRuntime", "RealtimePeriod"])
    regex.match(`^[0-9,-]*$`, object.get(value, "Cpus", ""))
    regex.match(`^[0-9,-]*$`, object.get(value, "Mems", ""))
    counts(value, ["Shares", "Period"])
    is_number(object.get(value, "Quota", 0))
}

# All of the usual paths, and none of the image's: a masked path hides a file.
masked(paths) if {
    given := {path | some path in paths}
    count(masked_paths - given) == 0
    every path in given - masked_paths {
        regex.match(`^/(proc/(asound|interrupts)|sys/devices/(virtual/powercap|system/cpu/cpu[0-9]+/thermal_throttle))$`, path)
    }
}

masked_paths := {
    "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/firmware",
}

readonly_paths := {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

# --- files ---------------------------------------------------------------------------------------------------------------

CopyFileRequest if {
    copy
    regular_file
    shared_file(`(hosts|hostname|resolv\.conf|termination-log)`)
}

CopyFileRequest if {
    from_host
    copy
    regular_file
    shared_file(`certs(/\.\.data|/\.\.[0-9_]+\.[0-9]+)?/(ca\.pem|edge\.pem|edge\.key)`)
}

CopyFileRequest if {
    from_host
    copy
    directory
    shared_file(`certs(/\.\.[0-9_]+\.[0-9]+)?`)
}

CopyFileRequest if {
    from_host
    copy
    symbolic_link
    shared_file(`certs/\.\.data`)
    generation_target
}

CopyFileRequest if {
    from_host
    copy
    symbolic_link
    some name, link in certificate_links
    shared_file(concat("", [`certs/`, replace(name, ".", `\.`)]))
    target(link)
}

# Agents of 3.29.0 and newer send file_type and symlink_target instead of data. Files up to 1 MiB travel in one piece.
copy if {
    message(input, {"path", "file_size", "file_mode", "dir_mode", "uid", "gid", "offset"},
        {"file_type", "symlink_target", "data"}, "dir_mode")
    unset(input, ["offset"])
    counts(input, ["file_size"])
    object.get(input, "file_size", 0) <= 1048576
    object.get(input, "uid", 0) == 0
    object.get(input, "gid", 0) in {0, user}
    object.get(input, "dir_mode", 0) in directory_modes
}

# 0700, 0750 and 0755, alone, with S_IFDIR, and with Go's ModeDir.
directory_modes := {0, 448, 488, 493, 16832, 16872, 16877, 2147484096, 2147484136, 2147484141}

shared_file(name) if {
    regex.match(concat("", [`^/run/kata-containers/shared/containers/[0-9a-f]+-[0-9a-f]+-`, name, `$`]), input.path)
}

# 0400, 0440, 0444, 0600, 0640, 0644, 0660, 0664, 0666, with and without S_IFREG: nothing executable, no setuid or setgid.
regular_file if {
    object.get(input, "file_type", "Regular") == "Regular"
    object.get(input, "file_mode", 420) in {
        256, 288, 292, 384, 416, 420, 432, 436, 438, 33024, 33056, 33060, 33152, 33184, 33188, 33200, 33204, 33206,
    }
    unset(input, ["symlink_target"])
}

# S_IFDIR with permissions, setgid and sticky (fsGroup sets both), never setuid.
directory if {
    object.get(input, "file_type", "Directory") == "Directory"
    input.file_mode >= 16384
    input.file_mode <= 18431
    unset(input, ["symlink_target", "file_size", "data"])
}

symbolic_link if {
    object.get(input, "file_type", "Symlink") == "Symlink"
    input.file_mode in {40960, 41471}
}

target(link) if input.symlink_target == link.text

target(link) if {
    not has(input, "symlink_target")
    input.data == link.bytes
}

generation_target if regex.match(`^\.\.[0-9_]+\.[0-9]+$`, input.symlink_target)

generation_target if {
    not has(input, "symlink_target")
    array.slice(input.data, 0, 2) == [46, 46]
    every byte in array.slice(input.data, 2, count(input.data)) {
        byte in {46, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 95}
    }
    input.data[2] != 46
}

# --- network -------------------------------------------------------------------------------------------------------------

# The guest's loopback interface hands out evidence and keys: no address, route or neighbour may reach into it.
UpdateInterfaceRequest if {
    only(input, {"interface"})
    only(input.interface, {
        "device", "name", "IPAddresses", "mtu", "hwAddr", "devicePath", "pciPath", "type_", "raw_flags",
    })
    ethernet(input.interface.name)
    ethernet(object.get(input.interface, "device", "eth0"))
    hardware(input.interface.hwAddr)
    every address in items(input.interface, "IPAddresses") {
        interface_address(address)
        regex.match(`^[0-9]{0,3}$`, object.get(address, "mask", ""))
    }
    counts(input.interface, ["mtu"])
    object.get(input.interface, "raw_flags", 0) in {0, 128}
    regex.match(`^[0-9a-f:./]*$`, object.get(input.interface, "devicePath", ""))
    unset(input.interface, ["pciPath"])
    regex.match(`^[a-z]*$`, object.get(input.interface, "type_", ""))
}

UpdateRoutesRequest if {
    only(input, {"routes"})
    only(input.routes, {"Routes"})
    every route in items(input.routes, "Routes") {
        only(route, {"dest", "gateway", "device", "source", "scope", "family", "flags", "mtu"})
        ethernet(route.device)
        network(object.get(route, "dest", ""))
        network(object.get(route, "gateway", ""))
        network(object.get(route, "source", ""))
        object.get(route, "scope", 0) in {0, 253}
        object.get(route, "family", 0) in {0, 1}
        object.get(route, "flags", 0) in {0, 4}
        counts(route, ["mtu"])
    }
}

AddARPNeighborsRequest if {
    only(input, {"neighbors"})
    only(input.neighbors, {"ARPNeighbors"})
    every neighbour in items(input.neighbors, "ARPNeighbors") {
        only(neighbour, {"toIPAddress", "device", "lladdr", "state", "flags"})
        ethernet(neighbour.device)
        interface_address(neighbour.toIPAddress)
        unset(neighbour.toIPAddress, ["mask"])
        hardware(object.get(neighbour, "lladdr", "02:00:00:00:00:01"))
        object.get(neighbour, "state", 128) in {2, 128}
        object.get(neighbour, "flags", 0) in {0, 8, 128, 136}
    }
}

interface_address(value) if {
    only(value, {"family", "address", "mask"})
    object.get(value, "family", 0) in {0, 1}
    value.address != ""
    network(value.address)
    not contains(value.address, "/")
}

ethernet(name) if regex.match(`^eth[0-9]{1,3}$`, name)

hardware(address) if {
    regex.match(`^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$`, address)
    address != "00:00:00:00:00:00"
}

network(text) if {
    regex.match(`^(|[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7})(/[0-9]{1,3})?$`, text)
    outside(text)
}

# A function of its own: not every engine negates within `every`.
outside(address) if not regex.match(`^(127\.|[0:]*:0*1(/|$))`, address)

# --- values --------------------------------------------------------------------------------------------------------------

# An agent writes out every field of a message: with `marker`, the other fields are there, too.
message(value, names, optional, marker) if {
    only(value, names | optional)
    not has(value, marker)
}

message(value, names, optional, marker) if {
    only(value, names | optional)
    count(names - object.keys(value)) == 0
}

# All messages of a list have the same fields.
uniform(values) if {
    fields := {object.keys(value) | some value in values}
    count(fields) <= 1
}

only(value, names) if {
    is_object(value)
    every name, _ in value {
        name in names
    }
}

unset(value, names) if {
    every name in names {
        object.get(value, name, null) in [null, false, 0, "", []]
    }
}

flags(value, names) if {
    every name in names {
        is_boolean(object.get(value, name, false))
    }
}

counts(value, names) if {
    every name in names {
        is_number(object.get(value, name, 0))
        object.get(value, name, 0) >= 0
    }
}

once(values, name) if {
    found := [value[name] | some value in values; has(value, name)]
    count(found) == count({item | some item in found})
}

# An object in place of a list would be empty for `every`.
items(value, name) := list if {
    list := object.get(value, name, [])
    is_array(list)
}

has(value, name) if {
    some key, _ in value
    key == name
}

identifier(text) if {
    regex.match(`^[0-9a-f]+$`, text)
    count(text) <= 64
}

hostname(text) if regex.match(`^[a-z0-9-]*$`, text)
