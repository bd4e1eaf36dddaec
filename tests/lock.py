"""Renew the locks: `make lock`. Needs uv, which queries the configured package index.

::

    pyproject.toml + the versions installed here
      --uv--> workbench/deployment/locks/torch.txt   torch, for every platform
              workbench/deployment/locks/cuda.txt    the dependencies of its CUDA build
              workbench/deployment/locks/base.txt    the other dependencies of the package
              workbench/deployment/locks/build.txt   the build system, which also builds the wheel in the container image
              locks/extras.txt                       what `make setup` adds to these: the extras of users
              locks/tests.txt                        what `make test` and `make check` add
              locks/versions.txt                     all of these as constraints, without hashes
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
SETUP_LOCKS = ROOT / "locks"
USER_EXTRAS = ("app", "cluster", "measure")
COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
COMPILE += ["--only-binary", ":all:", "--no-emit-index-url", "--no-emit-find-links"]
PLATFORMS = ["sys_platform == 'linux' and python_version < '3.13'", "sys_platform == 'darwin' and python_version < '3.13'"]
CUDA = ("nvidia-", "cuda-", "triton")
HEAD = (
    "# Made by tests/lock.py: `pip install --no-deps --only-binary :all: --require-hashes -r FILE` takes these and no others.\n"
)
CONSTRAINTS_HEAD = (
    "# Made by tests/lock.py: `pip install --constraint FILE` takes these versions, torch in the build that the index has.\n"
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


def without_hashes(entry: str) -> str:
    return re.sub(r"( \\)?\n +--hash=\S+", "", entry)


def added(wider: dict[str, str], narrower: dict[str, str]) -> dict[str, str]:
    """Return the entries of a resolution that a narrower one lacks; exit if both have a package at different versions."""
    versions = [{name: set(re.findall("==([^ ;]+)", entry)) for name, entry in each.items()} for each in (wider, narrower)]
    if conflicts := [name for name in narrower if versions[0].get(name) != versions[1][name]]:
        sys.exit(f"the extras need other versions than the package alone: {', '.join(conflicts)}")
    return {name: entry for name, entry in wider.items() if name not in narrower}


def with_cpu_build(entry: str) -> str:
    """Add the hashes of torch's CPU builds, which torch.txt keeps because they come from another index."""
    known = re.findall(r"^# \+cpu.*\n(?:# .*\n)*", (LOCKS / "torch.txt").read_text(encoding="utf-8"), re.MULTILINE)
    hashes = re.findall(r"sha256:[0-9a-f]{64}", "".join(known))
    lines = entry.rstrip("\n") + "".join(f" \\\n    --hash={each}" for each in hashes if each not in entry)
    return "".join(known) + lines + "\n"


def main() -> int:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, extras = declared["project"], declared["project"]["optional-dependencies"]
    installed = subprocess.run([sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True)
    versions = [line for line in installed.stdout.splitlines() if "==" in line and "+" not in line]
    python, pins = project["requires-python"], "\n".join(versions)
    of_users = project["dependencies"] + [each for extra in USER_EXTRAS for each in extras[extra]]
    of_tests = [each for each in extras["dev"] if not each.startswith(project["name"])]
    everything = entries(of_users + of_tests, python, pins)
    pins = "".join(everything.values())
    setup, locked = entries(of_users, python, pins), entries(project["dependencies"], python, pins)
    building = entries(declared["build-system"]["requires"], python, pins)
    for_tests, for_users = added(everything, setup), added(setup, locked)
    parts = {
        LOCKS / "torch.txt": with_cpu_build(locked.pop("torch")),
        LOCKS / "cuda.txt": "".join(locked.pop(name) for name in sorted(locked) if name.startswith(CUDA)),
        LOCKS / "base.txt": "".join(locked[name] for name in sorted(locked)),
        LOCKS / "build.txt": "".join(building[name] for name in sorted(building)),
        SETUP_LOCKS / "extras.txt": "".join(for_users[name] for name in sorted(for_users)),
        SETUP_LOCKS / "tests.txt": "".join(for_tests[name] for name in sorted(for_tests)),
    }
    for path, text in parts.items():
        path.write_text(HEAD + text, encoding="utf-8")
    pinned = building | everything
    constraints = "".join(without_hashes(pinned[name]) for name in sorted(pinned))
    (SETUP_LOCKS / "versions.txt").write_text(CONSTRAINTS_HEAD + constraints, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
