"""Renew workbench/deployment/locks: `make lock`. Needs uv, which queries the configured package index.

::

    pyproject.toml + the versions installed here --uv--> torch.txt   torch, for every platform
                                                         cuda.txt    the dependencies of its CUDA build
                                                         base.txt    everything else
                                                         build.txt   the tools that build the wheel in the container image
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "workbench" / "deployment" / "locks"
COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
COMPILE += ["--only-binary", ":all:", "--no-emit-index-url", "--no-emit-find-links"]
PLATFORMS = ["sys_platform == 'linux' and python_version < '3.13'", "sys_platform == 'darwin' and python_version < '3.13'"]
CUDA = ("nvidia-", "cuda-", "triton")
HEAD = (
    "# Made by tests/lock.py: `pip install --no-deps --only-binary :all: --require-hashes -r FILE` takes these and no others.\n"
)


def entries(requirements: list[str], python: str, versions: str) -> dict[str, str]:
    """Return the pinned requirements by name, each with its marker and hashes. Several entries of one name are joined."""
    with tempfile.TemporaryDirectory() as folder:
        project, lock = Path(folder) / "pyproject.toml", Path(folder) / "lock.txt"
        project.write_text(
            f'[project]\nname = "lock"\nversion = "0"\nrequires-python = {json.dumps(python)}\n'
            f"dependencies = {json.dumps(requirements)}\n[tool.uv]\nenvironments = {json.dumps(PLATFORMS)}\n"
        )
        lock.write_text(versions)  # uv prefers these versions if they fit
        subprocess.run([*COMPILE, "--output-file", str(lock), str(project)], check=True, cwd=folder)
        text = lock.read_text()
    found: dict[str, str] = {}
    for entry in re.findall(r"^[a-z0-9].*(?:\n .*)*\n", text, re.MULTILINE):
        name = re.split("[=<> ;]", entry)[0]
        found[name] = found.get(name, "") + entry
    return found


def with_cpu_build(entry: str) -> str:
    """Add the hashes of torch's CPU builds, which torch.txt keeps because they come from another index."""
    known = re.findall(r"^# \+cpu.*\n(?:# .*\n)*", (LOCKS / "torch.txt").read_text(encoding="utf-8"), re.MULTILINE)
    hashes = re.findall(r"sha256:[0-9a-f]{64}", "".join(known))
    lines = entry.rstrip("\n") + "".join(f" \\\n    --hash={each}" for each in hashes if each not in entry)
    return "".join(known) + lines + "\n"


def main() -> int:
    """Compile the requirements and split them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = subprocess.run([sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True)
    versions = [line for line in installed.stdout.splitlines() if "==" in line and "+" not in line]
    python, pins = project["project"]["requires-python"], "\n".join(versions)
    locked = entries(project["project"]["dependencies"], python, pins)
    building = entries(project["build-system"]["requires"], python, pins)
    parts = {
        "torch": with_cpu_build(locked.pop("torch")),
        "cuda": "".join(locked.pop(name) for name in sorted(locked) if name.startswith(CUDA)),
        "base": "".join(locked[name] for name in sorted(locked)),
        "build": "".join(building[name] for name in sorted(building)),
    }
    for name, text in parts.items():
        (LOCKS / f"{name}.txt").write_text(HEAD + text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
