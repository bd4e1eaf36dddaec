"""Print facts about this machine as one JSON object, and change nothing. The facts show whether a stage can run here.

::

    python3 -I -B - REQUEST  < this file  > JSON

Python reads the program from standard input, so no file stays on the machine. The program needs Python 3.9 and only the
standard library. REQUEST is a JSON object with the program's parameters. Its key `root` is the folder that contains the host's
root file system. This folder is not / if sshd runs in a container. The program reads /proc, /sys, /dev, /etc, /opt and
/usr/share below `root`.

A stage is the edge or the cloud. It may run in a container under Kata, which starts a virtual machine for each container. A
shim is Kata's runtime for one kind of virtual machine. A key broker gives the container its TLS key.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CALL_S, NETWORK_S = 20.0, 5.0
PYTHONS = ("python3", "python3.12", "python3.11")
ABOUT_PYTHON = (
    "import json, sys; from importlib.util import find_spec as find; "
    "print(json.dumps([list(sys.version_info[:2]), bool(find('ensurepip')), bool(find('torch'))]))"
)
OFF = ("iommu=off", "amd_iommu=off", "iommu=pt", "iommu.passthrough=1", "kvm_amd.sev_snp=0", "mem_encrypt=off")
SEV_ISSUE_CMD, SNP_PLATFORM_STATUS = 0xC0105300, 9  # linux/psp-sev.h
KATA = ("/etc/kata-containers", "/opt/kata/share/defaults/kata-containers", "/usr/share/defaults/kata-containers")
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
MOST = 4 << 20  # maximum bytes of a response, such as an image's manifest


def inventory(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the facts about this machine, as {name: value}. `asked` is the request, a dict.

    If `short` is true in the request, return only the pod annotations that Kata allows.
    """
    root = Path(asked["root"])
    allowed = {shim: allowed_annotations(root, shim) for shim in asked["shims"]}
    if asked["short"]:
        return {"annotations": allowed}
    with ThreadPoolExecutor(8) as pool:
        reach = {f"{host}:{port}": pool.submit(reached, host, port) for host, port in asked["reach"]}
        broker = pool.submit(broker_answer, asked["broker"], asked["broker_cert"]) if asked["broker"] else None
        image = pool.submit(image_answer, asked["image"]) if asked["image"] else None
        found: dict[str, Any] = {
            "folder": folder_state(asked["folder"]),
            "pythons": [about for each in _candidates(asked["python"]) if (about := about_python(each))],
            "uv": shutil.which("uv", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / ".local" / "bin")])),
            "gpus": gpus(),
            "processor": processor(root),
            "snp": snp(root),
            "iommu": iommu(root),
            "containerd": "".join(_output(["containerd", "--version"])[:1]),
            "annotations": allowed,
            "listening": sorted(listening(root)),
            "own_ports": own_ports(asked["folder"]),
        }
        found["reach"] = {name: one.result() for name, one in reach.items()}
        found["broker"] = broker.result() if broker else None
        found["image"] = image.result() if image else None
    return found


# --- the machine -----------------------------------------------------------------------------------------------------------


def folder_state(folder: str) -> dict[str, Any]:
    """Return the state of the remote agent's folder. If the folder is missing, its nearest existing parent is examined.

    Keys: `at` (the examined path), `free` (bytes), `files` (free inodes, None if unlimited), `writable`, and `environment`
    (whether `folder` already has a Python environment).
    """
    path = _absolute(folder)
    made = (path / "envs").is_dir() and any((path / "envs").glob("*/ready.json"))
    while not path.exists():
        path = path.parent
    room = os.statvfs(path)
    left = room.f_favail if room.f_files else None
    return {
        "at": str(path),
        "free": room.f_bavail * room.f_frsize,
        "files": left,
        "writable": path.is_dir() and os.access(path, os.W_OK | os.X_OK),
        "environment": made,
    }


def _absolute(folder: str) -> Path:
    path = Path(folder).expanduser()
    return path if path.is_absolute() else Path.home() / path


def _candidates(named: str) -> list[str]:
    return [named] if named else list(dict.fromkeys(filter(None, map(shutil.which, PYTHONS))))


def about_python(path: str) -> dict[str, Any] | None:
    """Return facts about the Python interpreter at `path`, or None if the interpreter does not run.

    Keys: `path`, `version` ([major, minor]), `venv` (whether the interpreter has ensurepip, which venv needs), and `torch`
    (whether it has torch).
    """
    try:
        said = _output([path, "-I", "-c", ABOUT_PYTHON])
        version, venv, torch = json.loads(said[-1])
    except (IndexError, ValueError):
        return None
    return {"path": path, "version": version, "venv": venv, "torch": torch}


def gpus() -> list[dict[str, str]]:
    """Return a dict for each GPU that the NVIDIA driver reports.

    Keys: `name`, `driver` (version), `total` and `free` (memory in MiB). All values are strings.
    """
    names = ("name", "driver", "total", "free")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits"]
    rows = [[part.strip() for part in line.split(",")] for line in _output(query)]
    return [dict(zip(names, row)) for row in rows if len(row) == len(names)]  # noqa: B905  (Python 3.9)


def processor(root: Path) -> dict[str, Any]:
    """Return facts about the processor.

    Keys: `vendor`, `family`, `model` and `name` (strings from /proc/cpuinfo), `snp` (whether the kernel reports SEV-SNP), and
    `guest` (whether this machine is a virtual machine).
    """
    block = _read(root, "/proc/cpuinfo").split("\n\n")[0]
    pairs = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
    known = {key.strip(): value.strip() for key, value in pairs.items()}
    flags = known.get("flags", "").split()
    names = {"vendor": "vendor_id", "family": "cpu family", "model": "model", "name": "model name"}
    found: dict[str, Any] = {key: known.get(name, "") for key, name in names.items()}
    return {**found, "snp": "sev_snp" in flags, "guest": "hypervisor" in flags}


def snp(root: Path) -> dict[str, Any]:
    """Return the state of SEV-SNP, by which AMD processors protect virtual machines from their host.

    Keys: `module` (whether the kernel module kvm_amd is loaded), `switch` (this module's parameter sev_snp, such as "Y"),
    `device` (whether /dev/sev exists), and `firmware` (the API version as [major, minor], or None if it is unknown).
    """
    device = _under(root, "/dev/sev")
    return {
        "switch": _read(root, "/sys/module/kvm_amd/parameters/sev_snp").strip(),
        "module": _under(root, "/sys/module/kvm_amd").is_dir(),
        "device": device.exists(),
        "firmware": _platform_status(device) or _logged_firmware(),
    }


def _platform_status(device: Path) -> list[int] | None:
    # opened read-only, so that the processor's state cannot change
    status = ctypes.create_string_buffer(32)
    command = struct.pack("=IQI", SNP_PLATFORM_STATUS, ctypes.addressof(status), 0)
    try:
        with device.open("rb", buffering=0) as file:
            fcntl.ioctl(file, SEV_ISSUE_CMD, command)
    except OSError:
        return None
    return [status.raw[0], status.raw[1]] if status.raw[0] else None


def _logged_firmware() -> list[int] | None:
    for command in (["dmesg"], ["journalctl", "--dmesg", "--boot", "--no-pager", "--output=cat"]):
        for line in _output(command):
            if found := re.search(r"SEV-SNP API:(\d+)\.(\d+)", line):
                return [int(found[1]), int(found[2])]
    return None


def iommu(root: Path) -> dict[str, Any]:
    """Return the state of the IOMMU, without which SEV-SNP does not work.

    Keys: `units` (the number of active IOMMUs) and `options` (the kernel's boot options that prevent SEV-SNP).
    """
    folder = _under(root, "/sys/class/iommu")
    options = _read(root, "/proc/cmdline").split()
    return {
        "units": len(list(folder.iterdir())) if folder.is_dir() else 0,
        "options": [each for each in options if each in OFF],
    }


def allowed_annotations(root: Path, shim: str) -> list[str] | None:
    """Return the pod annotations that Kata's settings allow for `shim`, as regular expressions.

    Return None if no readable settings file has the list enable_annotations.
    """
    name = f"configuration-{shim}.toml"
    inner = "runtime-rs" if shim.endswith("-rs") else ""
    for base in KATA:
        for folder in (f"{base}/{inner}/runtimes/{shim}", f"{base}/{inner}"):
            path = _under(root, f"{folder}/{name}")
            drops = sorted(path.parent.glob("config.d/*.toml")) if folder.endswith(shim) else []
            texts = [text for each in (path, *drops) if (text := _text(each))]
            lists = [found for text in texts if (found := _listed(text, "enable_annotations")) is not None]
            if lists:
                return lists[-1]  # a drop-in replaces earlier values
    return None


def _listed(text: str, key: str) -> list[str] | None:
    found = re.findall(rf"^[ \t]*{key}[ \t]*=[ \t]*\[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"[\"']([^\"']*)[\"']", found[-1]) if found else None


def listening(root: Path) -> set[int]:
    lines = [line.split() for name in ("tcp", "tcp6") for line in _read(root, f"/proc/net/{name}").splitlines()[1:]]
    return {int(parts[1].rsplit(":", 1)[1], 16) for parts in lines if len(parts) > 3 and parts[3] == "0A"}


def own_ports(folder: str) -> dict[str, int]:
    """Return {stage name: port} for the stages that have reported a port. `folder` is the remote agent's folder."""
    ports: dict[str, int] = {}
    for path in (_absolute(folder) / "stages").glob("*/port"):
        with contextlib.suppress(OSError, ValueError):
            ports[path.parent.name] = int(path.read_text())
    return ports


# --- the network -----------------------------------------------------------------------------------------------------------


def reached(host: str, port: int) -> str:
    """Connect to a TCP port. Return "open", "refused" (nothing listens), or the reason why the connection failed."""
    try:
        with socket.create_connection((host, port), NETWORK_S):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return _reason(error)


def broker_answer(url: str, certificate: str) -> dict[str, Any]:
    """Request the health page of the key broker at `url`. Return {"status": HTTP status} or {"error": reason}.

    Any HTTP status shows that the broker is reachable. `certificate` is the only trusted certificate (PEM), or "" to trust the
    system's certificate authorities.
    """
    try:
        trust = ssl.create_default_context(cadata=certificate) if certificate else ssl.create_default_context()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
        with opener.open(f"{url.rstrip('/')}/healthz", timeout=NETWORK_S) as answer:
            return {"status": answer.status}
    except urllib.error.HTTPError as error:
        error.close()
        return {"status": error.code}
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {"error": _reason(error)}


def image_answer(image: str) -> dict[str, Any]:
    """Request the manifest of `image` from the image's registry. `image` has the form NAME@DIGEST.

    The result has the key `registry`, the registry's host. If the registry responds, the other keys are `status` (HTTP status)
    and `same` (whether the manifest's digest is DIGEST). If the request fails, the other key is `error`, the reason.
    """
    name, _, digest = image.partition("@")
    registry, repository = _registry(name)
    scheme = "http" if re.fullmatch(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", registry) else "https"
    url = f"{scheme}://{registry}/v2/{repository}/manifests/{digest}"
    try:
        status, headers, body = _get(url, {"Accept": MANIFESTS})
        if status == 401 and (token := _anonymous(headers.get("WWW-Authenticate", ""))):
            status, headers, body = _get(url, {"Accept": MANIFESTS, "Authorization": f"Bearer {token}"})
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {"error": _reason(error), "registry": registry}
    found = "sha256:" + hashlib.sha256(body).hexdigest()
    return {"status": status, "registry": registry, "same": status == 200 and found == digest}


def _registry(name: str) -> tuple[str, str]:
    first, _, rest = name.partition("/")
    last = rest.rpartition("/")[2]
    repository = rest.rpartition(":")[0] if ":" in last else rest
    if rest and ("." in first or ":" in first or first == "localhost"):
        return ("registry-1.docker.io" if first == "docker.io" else first), repository
    return "registry-1.docker.io", name.rpartition(":")[0] if ":" in name else name if rest else f"library/{name}"


def _anonymous(challenge: str) -> str:
    parts = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not challenge.startswith("Bearer ") or not re.match("https?://", parts.get("realm", "")):
        return ""
    query = urllib.parse.urlencode({key: parts[key] for key in ("service", "scope") if key in parts})
    status, _, body = _get(f"{parts['realm']}?{query}", {})
    answer = json.loads(body) if status == 200 else {}
    return str(answer.get("token") or answer.get("access_token") or "")


def _get(url: str, headers: dict[str, str]) -> tuple[int, Any, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=NETWORK_S) as answer:
            return answer.status, answer.headers, answer.read(MOST)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, b""


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, (TimeoutError, socket.timeout)):
        return f"no answer within {NETWORK_S:g} s"
    text = getattr(inner, "verify_message", None) or getattr(inner, "strerror", None) or str(inner) or type(error).__name__
    return str(text)[:200]


# --- files and programs ----------------------------------------------------------------------------------------------------


def _under(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _read(root: Path, path: str) -> str:
    return _text(_under(root, path))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _output(command: Sequence[str]) -> list[str]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=CALL_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


if __name__ == "__main__":
    print(json.dumps(inventory(json.loads(sys.argv[1]))))
