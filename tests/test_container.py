"""The image of the workbench and the devcontainer: read here, as there may be no engine that builds them."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTIONS = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "COPY", "ENV", "EXPOSE", "CMD"}


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, " ".join(rest.split())) for name, rest in (line.split(maxsplit=1) for line in lines)]


def devcontainer() -> dict[str, object]:
    loaded = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def pythons(image: str) -> str:
    (version,) = re.findall(r"python:(\d\.\d+)", image)
    return str(version)


def test_the_image_installs_locks_and_runs_jupyterlab() -> None:
    parts = instructions()
    assert {name for name, _ in parts} <= INSTRUCTIONS
    names = [name for name, _ in parts]
    assert ("USER", "1000") in parts
    set_up = next(index for index, (name, rest) in enumerate(parts) if name == "RUN" and "make setup" in rest)
    assert names.index("USER") < set_up, "nothing of the workbench belongs to root"
    assert not any("pip install" in rest for _, rest in parts), "packages come from `make setup`, which has the locks"
    (command,) = [json.loads(rest) for name, rest in parts if name == "CMD"]
    (port,) = [rest for name, rest in parts if name == "EXPOSE"]
    assert f"--port={port}" in command
    assert (ROOT / command[-1]).is_file()
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    assert not re.search(r"token\s*=|password|disable", text, re.IGNORECASE), "JupyterLab draws a token of its own"


def test_no_key_no_data_set_and_no_run_gets_into_an_image() -> None:
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for path in (
        "data/certs/edge.key",
        "data/runs/latest",
        "data/datasets/cifar10",
        ".venv/bin/python",
        ".git/config",
        "a/b.key",
    ):
        parents = [path, *map(str, Path(path).parents)]
        assert any(fnmatch.fnmatch(each, pattern) for each in parents for pattern in patterns), path
    tracked = subprocess.run(["git", "ls-files", "-ci", "-X", ".dockerignore"], cwd=ROOT, capture_output=True, text=True).stdout
    assert tracked == "", "what is part of the repository is part of the image"


def test_the_devcontainer_sets_up_and_forwards_a_port() -> None:
    container = devcontainer()
    assert container["postCreateCommand"] == "make setup"
    (port,) = container["forwardPorts"] if isinstance(container["forwardPorts"], list) else ()
    assert f"--port={port}" in str(container["postAttachCommand"])
    assert str(port) in dict(container["portsAttributes"])  # type: ignore[call-overload]
    arguments = re.findall("ARGS='(.+)'", str(container["postAttachCommand"]))
    command = ["make", "--no-print-directory", "-nB", "lab", f"ARGS={arguments[0]}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip().splitlines()[-1].endswith(f"jupyter lab notebooks/explore.ipynb {arguments[0]}")


def test_both_have_a_python_that_is_supported() -> None:
    supported = SpecifierSet(re.findall(r'requires-python = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[0])
    (base,) = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("BASE=")]
    assert pythons(base) in supported
    assert pythons(str(devcontainer()["image"])) in supported
