"""Make Python environments for the workbench's package, with uv if it is available, else with venv and pip.

Dependencies are installed from lock files that were sent with the package. So a package index, even a malicious one, can only
provide files whose SHA-256 is in the lock files. No package is built from source, and no dependency is resolved.

If the user names a Python interpreter, the package is only unpacked, and no dependency is installed. The interpreter must
already have all dependencies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .common import AgentError, lines, locked, say, stored, write

INSTALL_S = 3000.0  # how long a launch waits for another launch that installs the same environment
PYTHONS = ("python3.12", "python3.11")
LOCKED = ("--require-hashes", "--only-binary", ":all:")  # building a source package would resolve its build dependencies


def environment(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Make a Python environment in `folder`/envs, unless one for the same package, locks and options exists there.

    `folder` is the agent's folder. The keys of `asked` are `wheel` (SHA-256), `file` (name of the wheel), `locks` ({name:
    SHA-256}), `least` (minimum Python version), `pip` (options of pip), `python` (the user's interpreter, or "") and `device`.

    Return {"python": path of the interpreter, "path": PYTHONPATH, or "" if none is needed}. Raises AgentError if the
    installation fails, or if `device` is "cuda" and torch finds no GPU.
    """
    key = hashlib.sha256(json.dumps([asked["wheel"], asked["python"], asked["pip"], asked["locks"]]).encode()).hexdigest()[:16]
    home = folder / "envs" / key
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder / "envs" / f"{key}.lock", "another launch makes the same environment", patience=INSTALL_S):
        if not (home / "ready.json").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            try:
                made = _unpacked(home, folder, asked) if asked["python"] else _installed(home, folder, asked)
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)
                raise
            write(home / "ready.json", made)
        made = json.loads((home / "ready.json").read_text())
    _has_gpu(made, asked["device"])
    return dict(made)


def _unpacked(home: Path, folder: Path, asked: dict[str, Any]) -> dict[str, str]:
    made = {"python": asked["python"], "path": str(home / "site")}
    with zipfile.ZipFile(stored(folder, asked["wheel"])) as wheel:
        wheel.extractall(home / "site")
    _checked(made, "import workbench.services.server")
    return made


def _installed(home: Path, folder: Path, asked: dict[str, Any]) -> dict[str, str]:
    wheel = home / asked["file"]
    shutil.copyfile(stored(folder, asked["wheel"]), wheel)
    made = {"python": str(home / "env" / "bin" / "python"), "path": ""}
    if uv := uv_path():
        _run_step([uv, "venv", "--quiet", "--python", asked["least"], str(home / "env")])
        install = [uv, "pip", "install", "--quiet", "--python", made["python"], *asked["pip"]]
    else:
        least = tuple(map(int, asked["least"].split(".")))
        base = next((each for each in (sys.executable, *map(shutil.which, PYTHONS)) if each and _version(each) >= least), None)
        if base is None:
            raise AgentError(
                f"no Python of {asked['least']} or newer, and no uv, is here: install one, or name one by python = "
            )
        _run_step([base, "-m", "venv", str(home / "env")])
        install = [made["python"], "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *asked["pip"]]
    install.append("--no-deps")
    for part, sha in asked["locks"].items():
        if part != "cuda" or _needs_cuda(made):
            say(report=f"installing the packages of {part}.txt")
            _run_step([*install, *LOCKED, "-r", str(stored(folder, sha))])
    say(report=f"installing {wheel.name}")
    _run_step([*install, str(wheel)])
    _checked(made, "import workbench")
    return made


def _needs_cuda(made: dict[str, str]) -> bool:
    # torch has a version such as 2.9.0 or 2.9.0+cu128 in CUDA builds, and 2.9.0+cpu in other builds
    version = _checked(made, "import importlib.metadata; print(importlib.metadata.version('torch'))")
    return "+" not in version or "+cu" in version


def uv_path() -> str | None:
    return shutil.which("uv", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / ".local" / "bin")]))


def _version(python: str) -> tuple[int, ...]:
    found = lines([python, "-c", "import sys; print(*sys.version_info[:2])"])
    version = tuple(map(int, found[0].split())) if found else (0,)
    return version if version < (3, 13) else (0,)


def _run_step(command: Sequence[str]) -> None:
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise AgentError(f"{command[0]} cannot be run: {error.strerror}") from None
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip() or "it said nothing").splitlines()[-1]
        raise AgentError(f"{Path(command[0]).name} {command[1]} failed with status {ended.returncode}: {last}")


def _checked(made: dict[str, str], program: str) -> str:
    try:
        ended = subprocess.run(
            [made["python"], "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environ_of(made),
            cwd="/",  # Python also imports from its working directory
            timeout=120,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise AgentError(f"python = {made['python']!r} cannot be run ({type(error).__name__})") from None
    if ended.returncode:
        last = (ended.stderr.strip() or "it said nothing").splitlines()[-1]
        raise AgentError(f"{made['python']} does not run the package: {last}")
    return ended.stdout.strip()


def _has_gpu(made: dict[str, str], device: str) -> None:
    if device == "cuda" and _checked(made, "import torch; print(torch.cuda.is_available())") != "True":
        raise AgentError("a GPU is requested (device = 'cuda'), and the torch of the environment sees none: check its driver")


def environ_of(made: dict[str, str]) -> dict[str, str]:
    """Return the environment variables for a process in a Python environment. `made` is the result of `environment`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, **({"PYTHONPATH": made["path"]} if made["path"] else {})}
