"""The commands of a deployment from a user's view: a template, a status before anything runs, errors of one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.pair import AUXILIARY, TARGET
from tests.support.waiting import until
from workbench.__main__ import main
from workbench.attest import Policy
from workbench.deployment.plan import TEMPLATE, local_plan
from workbench.errors import UsageError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def plan(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "deployment.toml"
    path.write_text(local_plan("digits", TARGET, AUXILIARY, tmp_path / "far"))
    return path


def test_a_template_is_written_once_and_never_over_what_is_there(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.toml"
    assert main(["init-deployment", str(path)]) == 0
    assert path.read_text() == TEMPLATE
    path.write_text("mine")
    assert main(["init-deployment", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["init-deployment", str(tmp_path / "two.toml"), "--policy", str(tmp_path / "policy.toml")]) == 0
    assert (tmp_path / "policy.toml").read_text() == Policy.template()
    out = capsys.readouterr().out
    assert "name the measurement, the initdata and the oldest firmware, then" in out
    assert "policy = " in out
    with pytest.raises(UsageError, match="policy.toml: initdata must be"):  # an unfilled template accepts nothing
        Policy.read(tmp_path / "policy.toml")


def test_the_status_of_an_unlaunched_plan_is_no_success(plan: Path, capsys: Capture) -> None:
    assert main(["status", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(row["stage"], row["state"], row["host"]) for row in rows] == [
        ("edge", "absent", "local"),
        ("cloud", "absent", "local"),
    ]
    assert main(["status"]) == 1
    assert capsys.readouterr().out.splitlines()[0].split() == ["stage", "host", "runtime", "state", "since", "URL"]


def test_stopping_what_does_not_run_is_no_error(plan: Path, capsys: Capture) -> None:
    assert main(["stop", "--purge"]) == 0
    assert capsys.readouterr().out == "stopped: nothing ran\n"
    assert not (plan.parent / "far").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["logs", "edge"], "there is no stage deployment-edge here: launch it first"),
        (["logs", "edge", "--lines", "-1"], "--lines is from 0 up"),
        (["status", "other.toml"], "workbench init-deployment other.toml"),
        (["launch", "--ssh-config", "nowhere"], "there is no nowhere"),
    ],
)
def test_a_mistake_is_one_line(plan: Path, capsys: Capture, arguments: list[str], words: str) -> None:
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said


@pytest.mark.system
def test_a_picture_goes_to_the_edge_of_the_plan(plan: Path, capsys: Capture, tmp_path: Path) -> None:
    picture = tmp_path / "digit.png"
    Image.new("RGB", (32, 32)).save(picture)
    assert main(["recognize", str(picture)]) == 1
    assert "the edge of deployment.toml is not launched" in capsys.readouterr().err
    assert main(["recognize", str(picture), "--deployment", "deployment.toml", "--edge", "https://127.0.0.1:1"]) == 2
    assert "leave out --edge" in capsys.readouterr().err
    assert main(["launch", "--json"]) == 0

    def logged() -> bool:
        assert main(["logs", "edge", "--lines", "1"]) == 0
        return '"images": 1' in capsys.readouterr().out

    try:
        urls = json.loads(capsys.readouterr().out)
        assert main(["recognize", str(picture), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["n"] == 1
        assert main(["recognize", str(picture), "--edge", urls["edge"], "--certs", urls["certs"]]) == 0
        assert main(["status"]) == 0
        until(logged, what="the picture was not logged")  # the line is written once the answer is out
    finally:
        assert main(["stop", "--purge"]) == 0
    assert "stopped: edge, cloud" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["init-deployment", "launch", "status", "logs", "stop", "doctor", "manifests"])
def test_every_command_has_help_with_an_example(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"workbench {command}" in capsys.readouterr().out.partition("examples:")[2]


@pytest.mark.system
def test_ctrl_c_in_a_launch_stops_what_it_started(plan: Path) -> None:
    command = [sys.executable, "-m", "workbench", "launch", str(plan)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as launching:
        assert launching.stderr is not None
        for line in launching.stderr:
            if "cloud: loading" in line:
                launching.send_signal(signal.SIGINT)
                break
        said = launching.stderr.read()
        assert launching.wait(60) == 130
    assert "edge: stopped again" in said
    assert "cloud: stopped again" in said
    assert "Traceback" not in said
    assert not (plan.parent / "far" / "stages").exists()
    assert main(["stop", "--purge"]) == 0
