"""Check the machine's resources, and end dead SSH sessions that still occupy a port.

`probe` and `free` are commands of the remote agent, the program that runs a stage here. `folder` is the agent's folder, and
`asked` are the arguments of the command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from .common import AgentError, lines
from .environments import uv_path

FREE = 64 << 20  # bytes that must stay free on a disk


def probe(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return this machine's resources.

    Keys: `python` (version), `free` (free bytes on the disk of `folder`), `gpus` (a line of text for each GPU), `uv` (the path
    of uv, or ""), and `cores`. The disk must have `FREE` free bytes, and `asked["bytes"]` free bytes if that is more. Raises
    AgentError otherwise, or if `asked["device"]` is "cuda" and no GPU is found.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(folder).free
    if free < max(FREE, asked.get("bytes", 0)):
        raise AgentError(f"the disk of {folder} is full: {free >> 20} MiB are free, make room or choose another folder")
    gpus = lines(["nvidia-smi", "-L"])
    if asked.get("device") == "cuda" and not gpus:
        raise AgentError("a GPU is requested (device = 'cuda'), and nvidia-smi finds none here; use 'cpu' or 'auto'")
    return {"python": sys.version.split()[0], "free": free, "gpus": gpus, "uv": uv_path() or "", "cores": os.cpu_count()}


def free(_: Path, asked: dict[str, Any]) -> bool:
    """Terminate the user's own sshd processes that listen on the port `asked["port"]`. Return whether one was terminated."""
    found = False
    inodes = _listening(asked["port"])
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):
            mine = process.stat().st_uid == os.getuid() and (process / "comm").read_text().startswith("sshd")
            if mine and any(str(each.readlink()) in inodes for each in (process / "fd").iterdir()):
                os.kill(int(process.name), signal.SIGTERM)
                found = True
    return found


def _listening(port: int) -> set[str]:
    inodes: set[str] = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                parts = line.split()
                if parts[3] == "0A" and int(parts[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{parts[9]}]")
    return inodes
