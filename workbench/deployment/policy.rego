# What the guest's agent does for its host (Kata Containers' agent policy), which may be anyone: it starts one container, from
# one image, pulled inside the guest, with one command, and gives out nothing of it. What is not named here is refused.
#
# What image, command, user, environment, from_host and logs are, the workbench writes below all this.

package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

# The machine of the guest, and the life of its containers.
default CreateSandboxRequest := false
default DestroySandboxRequest := true
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default ListInterfacesRequest := true
default ListRoutesRequest := true
default OnlineCPUMemRequest := true
default RemoveContainerRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default ReseedRandomDevRequest := true
default SetGuestDateTimeRequest := true
default SignalProcessRequest := true
default StartContainerRequest := true
default StatsContainerRequest := true
default TtyWinResizeRequest := true
default WaitProcessRequest := true
default GetMetricsRequest := false
default MemHotplugByProbeRequest := false
default AddSwapRequest := false
default PauseContainerRequest := false
default ResumeContainerRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false

# What would put something into the container, take something out, or put another policy in this one's place.
default CreateContainerRequest := false
default CopyFileRequest := false
default PullImageRequest := false
default ExecProcessRequest := false
default ReadStreamRequest := false
default ReadContainerTerminationMessage := false
default WriteStreamRequest := false
default CloseStdinRequest := false
default SetPolicyRequest := false
default StartTracingRequest := false
default StopTracingRequest := false

# The network is the host's; the guest's own loopback, on which keys are handed out, is not.
default AddARPNeighborsRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false

ReadStreamRequest if logs

ReadContainerTerminationMessage if logs

CreateSandboxRequest if {
    input.guest_hook_path == ""
    count(input.kernel_modules) == 0
}

UpdateInterfaceRequest if {
    input.interface.name != "lo"
    input.interface.hwAddr != "00:00:00:00:00:00"
}

UpdateRoutesRequest if {
    every route in input.routes.Routes {
        route.device != "lo"
        outside(route.source)
        outside(route.dest)
    }
}

AddARPNeighborsRequest if {
    every neighbour in input.neighbors.ARPNeighbors {
        neighbour.device != "lo"
        outside(neighbour.toIPAddress.address)
    }
}

# A function of its own: not every engine negates within `every`.
outside(address) if not regex.match(`^(127\.|[0:]*:0*1(/|$))`, address)

# The sandbox's own container: its image and its process are of the guest's measured file system.
CreateContainerRequest if {
    input.OCI.Annotations["io.kubernetes.cri.container-type"] == "sandbox"
    input.OCI.Process.Args == ["/pause"]
    pulled == ["pause"]
    plain
}

CreateContainerRequest if {
    input.OCI.Annotations["io.kubernetes.cri.container-type"] == "container"
    pulled == [image]
    plain
    process := input.OCI.Process
    process.Args == command
    process.User.UID == user
    process.NoNewPrivileges
    not process.Terminal
    every variable in process.Env {
        harmless(variable)
    }
}

pulled := [storage.source | some storage in input.storages; storage.driver == "image_guest_pull"]

# Nothing runs before the container's process, and no storage is the host's.
plain if {
    object.get(input.OCI, "Hooks", null) == null
    every storage in input.storages {
        storage.driver in {"image_guest_pull", "ephemeral"}
    }
    every mount in input.OCI.Mounts {
        allowed(mount)
    }
}

allowed(mount) if {
    mount.destination in {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys", "/sys/fs/cgroup"}
    mount.source in {"proc", "tmpfs", "devpts", "mqueue", "shm", "sysfs", "cgroup", "cgroup2", "/run/kata-containers/sandbox/shm"}
}

allowed(mount) if {
    mount.destination in {"/run/pmc2", "/tmp"}
    regex.match(`^/run/kata-containers/sandbox/ephemeral/[^/.][^/]*$`, mount.source)
}

allowed(mount) if {
    mount.destination in {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"}
    copied(mount.source)
}

allowed(mount) if {
    from_host
    mount.destination == "/run/pmc2/certs"
    given(mount.source)
}

CopyFileRequest if copied(input.path)

CopyFileRequest if {
    from_host
    given(input.path)
}

copied(path) if regex.match(`^/run/kata-containers/shared/containers/[^/]+-(hosts|hostname|resolv\.conf|termination-log)$`, path)

given(path) if {
    regex.match(`^/run/kata-containers/shared/containers/[^/]+-certs(/|$)`, path)
    not regex.match(`(^|/)\.\.(/|$)`, path)
}

# A variable can do as much as an argument: PYTHONPATH and LD_PRELOAD run code, WORKBENCH_TOKEN opens the door, proxies listen.
harmless(variable) if {
    split(variable, "=")[0] in {
        "GPG_KEY", "HOSTNAME", "LANG", "PYTHON_GET_PIP_SHA256", "PYTHON_GET_PIP_URL", "PYTHON_PIP_VERSION",
        "PYTHON_SETUPTOOLS_VERSION", "PYTHON_SHA256", "PYTHON_VERSION", "TERM",
    }
}

harmless(variable) if startswith(variable, "KUBERNETES_")

harmless(variable) if variable in environment
