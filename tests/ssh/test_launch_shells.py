"""A whole launch through a login shell that is no POSIX shell: agent, uploads, both stages, and everything removed again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import AUXILIARY, TARGET
from tests.support.sshd import Ground
from workbench.__main__ import main

from .test_login_shells import SHELLS, login, shells  # noqa: F401  (a fixture)

SHELL_NAMES = list(SHELLS)

PLAN = """[pair]
dataset = "digits"
target = "{target}"
auxiliary = "{auxiliary}"
[edge]
host = "shells"
python = {python}
options = ["--device", "cpu"]
[cloud]
host = "shells"
python = {python}
options = ["--device", "cpu"]
"""


@pytest.mark.parametrize("name", ["tcsh greets"])
def test_a_deployment_is_launched_and_stopped_through_a_login_shell(
    name: str,
    shells: Ground,  # noqa: F811
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = tmp_path / "shells.toml"
    plan.write_text(PLAN.format(target=TARGET, auxiliary=AUXILIARY, python=json.dumps(sys.executable)))
    with login(shells, name) as host:
        config = str(shells.config(IdentityFile=str(shells.folder / f"key{SHELL_NAMES.index(name)}")))
        assert host.run(["true"]).status == 0
    assert main(["launch", str(plan), "--ssh-config", config]) == 0
    capsys.readouterr()
    assert main(["status", str(plan), "--ssh-config", config]) == 0
    assert capsys.readouterr().out.count("ready") == 2
    assert main(["stop", str(plan), "--ssh-config", config, "--purge"]) == 0
