"""Check a machine that runs a stage (edge or cloud) as a process.

The checks have two sources. The shell script `SHELL` prints facts as NAME=VALUE lines. The inventory is the JSON that the
Python program `agent/inventory.py` prints on the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...certs import SKEW
from ..agent.machine import FREE
from ..plan import StagePlan, Which
from .findings import Finding, ok, unknown, version_of, wrong

__all__ = ["CLOCK_S", "SHELL", "facts_of", "host_findings", "shell_findings", "system_of"]

# Run as `sh -s ROOT FOLDER`. Each line of the output is one fact. If a tool is missing, its fact is omitted.
SHELL = r"""LC_ALL=C; export LC_ALL; root=${1%/}; folder=$2
say() { [ -z "$2" ] || printf '%s=%s\n' "$1" "$2"; }
first() { { read -r value <"$root$2"; } 2>/dev/null && say "$1" "$value"; }
exec 2>/dev/null
first kernel /proc/sys/kernel/osrelease
first boot /proc/sys/kernel/random/boot_id
while read -r name value _; do [ "$name" = MemAvailable: ] && say memory "$value"; done <"$root/proc/meminfo"
say system "$(uname -sr)"
say now "$(date +%s)"
say ssh "$SSH_CONNECTION"
[ -e "$root/dev/kvm" ] && say kvm yes
python=$(command -v python3) && say python "$(python3 -I -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')"
say interpreter "$python"
while [ ! -e "$folder" ]; do case $folder in /*/*|[!/]*/*) folder=${folder%/*} ;; /*) folder=/ ;; *) folder=. ;; esac; done
say disk "$(df -Pk "$folder")"
exit 0
"""
CLOCK_S = SKEW.total_seconds()  # if a clock is behind by more, new certificates are not yet valid there
OLDEST = (3, 9)  # the oldest Python for the agent
LEAST, BELOW = (3, 11), (3, 13)  # the oldest Python for the package, and the first one that is too new
ENVIRONMENT, CUDA_ENVIRONMENT = 3 << 30, 8 << 30  # bytes of a new Python environment
KEPT = 256 << 20  # bytes of the package, weights and logs
MEMORY = 1 << 30  # bytes of memory for a stage
DRIVER = 525  # the oldest NVIDIA driver for CUDA 12
GPU_MEMORY = 1024  # MiB
FILES = 20_000  # number of files in a Python environment


def facts_of(output: bytes) -> dict[str, str]:
    """Parse the output of the script `SHELL`, and return {name of a fact: value}.

    The fact `free` (bytes) is read from the output of df. Other lines are ignored, such as the output of a login shell's
    startup files.
    """
    lines = [line.partition("=") for line in output.decode("utf-8", "replace").splitlines()]
    facts = {key: value.strip() for key, sign, value in lines if sign and key.isidentifier()}
    if found := re.search(r"^\S.*?\s(\d+)\s+(\d+)\s+(-?\d+)\s+\d+%\s", output.decode("utf-8", "replace"), re.MULTILINE):
        facts["free"] = str(int(found[3]) << 10)
    return facts


def shell_findings(machine: str, facts: Mapping[str, str], stage: StagePlan, skew: float | None) -> list[Finding]:
    """Check Python, disk space and clock of a machine. `facts` are the facts that the script `SHELL` printed there.

    `skew` is the time (s) by which the machine's clock is ahead of the local clock, or None if it is unknown.
    """
    return [_python(machine, facts, stage), _room(machine, facts, stage), _clock(machine, skew)]


def system_of(facts: Mapping[str, str]) -> str:
    """Return the operating system and its version. `facts` are the facts that the script `SHELL` printed."""
    return f"Linux {facts['kernel']}" if "kernel" in facts else facts.get("system", "no /proc")


def _python(machine: str, facts: Mapping[str, str], stage: StagePlan) -> Finding:
    version = facts.get("python", "")
    contained = stage.runtime != "process"
    if not version:
        way = "install Python 3.11 there, such as by `apt install python3-venv`"
        broken = f"has a python3 at {facts['interpreter']} that does not run" if facts.get("interpreter") else "has no python3"
        if contained:
            return unknown(machine, "python", f"{broken}, by which the state of the machine would be asked", way)
        return wrong(machine, "python", broken, way, blocks=True)
    if version_of(version) < OLDEST:
        way = "install Python 3.11 or 3.12 as python3, or name another machine"
        text = f"has Python {version}, and what runs there needs {OLDEST[0]}.{OLDEST[1]}"
        return unknown(machine, "python", text, way) if contained else wrong(machine, "python", text, way, blocks=True)
    return ok(machine, "python", f"has Python {version}")


def _room(machine: str, facts: Mapping[str, str], stage: StagePlan) -> Finding:
    if "free" not in facts:
        return unknown(machine, "disk", f"does not tell how much room there is at {stage.folder}", f"`df -h {stage.folder}`")
    if stage.runtime == "process" and int(facts["free"]) < FREE:
        return _full(machine, stage.folder, int(facts["free"]), FREE, blocks=True)
    return ok(machine, "disk", f"has {_size(int(facts['free']))} free")


def _full(machine: str, folder: str, free: int, need: int, blocks: bool = False) -> Finding:
    way = f"make room (`du -xh --max-depth=1 ~ | sort -h` tells what takes it), or choose another folder than {folder}"
    return wrong(machine, "disk", f"has {_size(free)} free at {folder}, and a launch needs {_size(need)}", way, blocks)


def _clock(machine: str, skew: float | None) -> Finding:
    if skew is None:
        return unknown(machine, "clock", "does not tell its time", "`date` there")
    if abs(skew) > CLOCK_S:
        side = "ahead of" if skew > 0 else "behind"
        text = f"has a clock {abs(skew):.0f} s {side} this machine's; certificates allow {CLOCK_S:.0f} s"
        return wrong(machine, "clock", text, "`sudo timedatectl set-ntp true` there, or here if it is this one", skew < 0)
    return ok(machine, "clock", "has a clock that agrees with this machine's")


# --- the inventory ---------------------------------------------------------------------------------------------------------


def host_findings(
    machine: str, which: Which, stage: StagePlan, name: str, facts: Mapping[str, str], found: Mapping[str, Any]
) -> list[Finding]:
    """Check interpreter, disk, memory, GPU and port of a stage's machine.

    `facts` are the facts that the script `SHELL` printed there, and `found` is the inventory. `name` is the stage's name on the
    machine, such as plan-edge. A port on which this stage already listens is no fault.
    """
    findings = [
        ok(machine, "kernel", f"has {system_of(facts)}"),
        _interpreter(machine, which, stage, found),
        *_folder(machine, which, stage, found["folder"]),
        _memory(machine, facts),
        _gpu(machine, which, stage, found["gpus"]),
    ]
    port = int(stage.listen.rpartition(":")[2])
    if port:
        findings.append(_port(machine, which, port, found["own_ports"].get(name) == port, found["listening"]))
    return findings


def _interpreter(machine: str, which: Which, stage: StagePlan, found: Mapping[str, Any]) -> Finding:
    pythons: Sequence[Mapping[str, Any]] = found["pythons"]
    fit = [each for each in pythons if LEAST <= tuple(each["version"]) < BELOW]
    if stage.python:
        if not pythons:
            way = f"name one that is there by [{which}] python, or leave the key out"
            return wrong(machine, "interpreter", f"has no {stage.python} that can be run", way)
        if not fit or not fit[0]["torch"]:
            version = ".".join(map(str, pythons[0]["version"]))
            lacks = "no torch" if fit else f"Python {version}, and the package needs 3.11 or 3.12,"
            return wrong(
                machine, "interpreter", f"has {lacks} in {stage.python}", f"install it there, or leave [{which}] python out"
            )
        return ok(machine, "interpreter", f"has the packages in {stage.python}")
    if found["uv"]:
        return ok(machine, "interpreter", "has uv, which makes the environment")
    if any(each["venv"] for each in fit):
        return ok(machine, "interpreter", f"has {next(each['path'] for each in fit if each['venv'])} for an environment")
    if fit:
        version = ".".join(map(str, fit[0]["version"]))
        return wrong(
            machine,
            "interpreter",
            f"has Python {version} without its venv module",
            f"`sudo apt install python{version}-venv` there",
        )
    way = "`curl -LsSf https://astral.sh/uv/install.sh | sh` there, or install Python 3.11 or 3.12"
    return wrong(machine, "interpreter", "has neither uv nor a Python of 3.11 or 3.12 to make the environment with", way)


def _folder(machine: str, which: Which, stage: StagePlan, folder: Mapping[str, Any]) -> list[Finding]:
    new = CUDA_ENVIRONMENT if stage.device == "cuda" else ENVIRONMENT
    need = KEPT + (0 if stage.python or folder["environment"] else new)
    findings = []
    if folder["free"] < need:
        findings.append(_full(machine, stage.folder, folder["free"], need))
    elif folder["files"] is not None and folder["files"] < FILES:
        text = f"has room for {folder['files']} more files at {stage.folder}, and an environment has {FILES}"
        findings.append(wrong(machine, "disk", text, "`df -i` there tells of inodes: remove files, or choose another folder"))
    else:
        findings.append(ok(machine, "disk", f"has {_size(folder['free'])} free"))
    if not folder["writable"]:
        way = f"`sudo chown $USER {folder['at']}` there, or choose another [{which}] folder"
        findings.append(wrong(machine, "folder", f"does not let this user write in {folder['at']}", way))
    return findings


def _memory(machine: str, facts: Mapping[str, str]) -> Finding:
    if not facts.get("memory", "").isdigit():
        return unknown(machine, "memory", "does not tell how much memory is free", "`free -h` there")
    free = int(facts["memory"]) << 10
    if free < MEMORY:
        way = "`ps aux --sort=-rss | head` there tells what takes it"
        return wrong(machine, "memory", f"has {_size(free)} of memory free, and a stage takes {_size(MEMORY)}", way)
    return ok(machine, "memory", f"has {_size(free)} of memory free")


def _gpu(machine: str, which: Which, stage: StagePlan, gpus: Sequence[Mapping[str, str]]) -> Finding:
    if stage.device == "cpu":
        return ok(machine, "GPU", "computes on its processor, as planned")
    if not gpus:
        if stage.device == "auto":
            return ok(machine, "GPU", "has none, and device = 'auto' takes the processor")
        way = f'`sudo apt install nvidia-driver-580-server` there and reboot, or set [{which}] device = "auto"'
        return wrong(machine, "GPU", "has no GPU that nvidia-smi finds, and the plan needs a GPU (device = 'cuda')", way)
    best = max(gpus, key=lambda gpu: _number(gpu["free"]))
    if _number(best["driver"]) < DRIVER:
        way = "`sudo apt install nvidia-driver-580-server` there, and reboot"
        return wrong(machine, "GPU", f"has NVIDIA's driver {best['driver']}, and CUDA 12 needs {DRIVER} or later", way)
    if _number(best["free"]) < GPU_MEMORY:
        text = f"has {best['free']} MiB free on its {best['name']}, and a stage takes {GPU_MEMORY} MiB"
        return wrong(machine, "GPU", text, "`nvidia-smi` there tells which process holds it")
    return ok(machine, "GPU", f"has a {best['name']}, driver {best['driver']}, {best['free']} MiB free")


def _number(text: str) -> int:
    return next(iter(version_of(text)), 0)


def _port(machine: str, which: Which, port: int, own: bool, listening: Sequence[int]) -> Finding:
    if port in listening and not own:
        way = f"`ss -ltnp 'sport = :{port}'` there tells by whom; end it, or choose another [{which}] listen"
        return wrong(machine, "port", f"has port {port} taken", way)
    return ok(machine, "port", f"has port {port} {'with this stage on it' if own else 'free'}")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"
