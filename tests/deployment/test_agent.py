"""The program on a stage's machine, called in its real form: JSON in, lines of JSON out, real processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until
from workbench.deployment.agent import log as logs
from workbench.deployment.agent.common import locked
from workbench.deployment.shipment import program

STAGE = """
import signal, socket, sys, time, pathlib
def end(*_):
    print("draining", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("listening", flush=True)
pathlib.Path(sys.argv[2]).write_text(str(listener.getsockname()[1]))
time.sleep(600)
"""


class Far:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "store").mkdir(parents=True)
        self.program = folder / "store" / self.keep(program())

    def ask(self, verb: str, **asked: Any) -> dict[str, Any]:
        command = [sys.executable, str(self.program), str(self.folder), verb]
        ended = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout.splitlines()[-1]))

    def keep(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        (self.folder / "store" / sha).write_bytes(content)
        return sha

    def start(self, program: str = STAGE, name: str = "pair-edge", **more: Any) -> dict[str, Any]:
        environment = {"python": sys.executable, "path": ""}
        asked = {
            "name": name,
            "port": 0,
            "command": ["-c", program, "{port}", "{home}/port"],
            "environ": {},
            "files": {},
            "texts": {},
        }
        return self.ask("start", **{**asked, "environment": environment, **more})

    def home(self, name: str = "pair-edge") -> Path:
        return self.folder / "stages" / name


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Far]:
    made = Far(tmp_path / "far")
    yield made
    for home in (made.folder / "stages").glob("*"):
        made.ask("stop", name=home.name, patience=0.1)


def listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


def test_a_stage_outlives_its_starter_and_ends_without_a_trace(there: Far) -> None:
    state = there.start()["done"]
    assert listens(state["port"])
    assert there.ask("status", name="pair-edge")["done"]["running"]
    assert os.getpgid(state["child"]) == state["pid"] == os.getsid(state["child"])
    assert there.start()["done"]["child"] == state["child"], "starting twice is starting once"
    other = there.start(environ={"MORE": "1"})["done"]  # other settings
    assert gone(state["child"])
    assert (other["child"] != state["child"], other["port"]) == (True, state["port"])
    assert "a stage still runs" in there.ask("purge")["error"]
    assert there.ask("stop", name="pair-edge")["done"] is True
    assert not listens(other["port"])
    assert gone(other["child"])
    assert not (there.folder / "stages").exists()
    assert there.ask("stop", name="pair-edge")["done"] is False
    assert there.ask("purge")["done"] is True
    assert not there.folder.exists()


def test_a_killed_stage_is_reported_and_restarts_on_its_port(there: Far) -> None:
    state = there.start()["done"]
    os.kill(state["child"], signal.SIGKILL)
    until(lambda: not there.ask("status", name="pair-edge")["done"]["running"])
    found = there.ask("status", name="pair-edge")["done"]
    assert (found["status"], found["asked"], found["last"]) == (-signal.SIGKILL, False, ["listening"])
    assert there.start()["done"]["port"] == state["port"]


def test_a_supervisor_that_was_killed_takes_its_stage_with_it(there: Far) -> None:
    state = there.start()["done"]
    os.kill(state["pid"], signal.SIGKILL)
    until(lambda: gone(state["child"]))
    found = there.ask("status", name="pair-edge")["done"]
    assert not found["running"]
    assert found["ended"] is None
    assert found["last"][0] == "listening"


def test_a_stage_that_ends_without_a_port_shows_its_last_line(there: Far) -> None:
    error = there.start("import sys; print('first'); print('the port is taken'); sys.exit(2)")["error"]
    assert error == "the stage ended with status 2: the port is taken"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = there.start(port=taken.getsockname()[1])["error"]
    assert "Address already in use" in error


def test_a_stage_that_does_not_listen_to_reason_is_killed(there: Far) -> None:
    state = there.start(STAGE.replace('print("draining", flush=True)\n    sys.exit(0)', "pass"))["done"]
    assert there.ask("stop", name="pair-edge", patience=0.2)["done"] is True
    assert gone(state["child"])


def test_a_stages_files_and_key_are_readable_by_it_alone(there: Far) -> None:
    there.start(files={"data/weights/x": there.keep(b"weights")}, texts={"certs/edge.key": "a key"})
    given = there.home() / "given"
    assert (given / "data" / "weights" / "x").read_bytes() == b"weights"
    assert (given / "certs" / "edge.key").read_text() == "a key"
    assert (given / "certs" / "edge.key").stat().st_mode & 0o777 == 0o600
    assert there.home().stat().st_mode & 0o777 == 0o700

    def holders() -> list[Path]:
        return [path for path in there.folder.rglob("*") if path.is_file() and b"a key" in path.read_bytes()]

    assert holders() == [given / "certs" / "edge.key"]
    there.ask("stop", name="pair-edge")
    assert holders() == []


def test_a_stage_with_missing_or_altered_files_is_not_started(there: Far) -> None:
    sha = there.keep(b"weights")
    (there.folder / "store" / sha).write_bytes(b"weighty")
    assert "was tampered with" in there.start(files={"data/x": sha})["error"]
    assert not (there.folder / "store" / sha).exists()
    assert "is missing: launch again" in there.start(files={"data/x": sha}, texts={"certs/edge.key": "a key"})["error"]
    assert there.ask("stop", name="pair-edge")["done"] is False
    assert not there.home().exists()


def test_a_log_is_followed_through_rotation_to_the_end(there: Far) -> None:
    gate = there.folder / "followed"
    lines = f"while not pathlib.Path({str(gate)!r}).exists():\n    time.sleep(0.01)\n"
    lines += "for number in range(12000):\n    print(f'line {number:05} ' + 'x' * 700)\nprint('end', flush=True)\n"
    there.start(STAGE.replace("time.sleep(600)", lines + "time.sleep(600)"))
    command = [sys.executable, str(there.program), str(there.folder), "logs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdin is not None
        assert following.stdout is not None
        following.stdin.write(json.dumps({"name": "pair-edge", "lines": 1, "follow": True}))
        following.stdin.close()
        found: list[str] = []
        for line in following.stdout:
            found.append(json.loads(line).get("line", ""))
            gate.touch()  # of earlier output only the last line is reported
            if found[-1] == "end":
                there.ask("stop", name="pair-edge", patience=5)
        assert following.wait(30) == 0
    numbers = [int(each.split()[1]) for each in found if each.startswith("line")]
    assert numbers == list(range(12000))
    assert found[-2:] == ["draining", ""]


def test_logs_are_put_aside_and_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 1000)
    log = logs.Log(tmp_path / "log")
    for number in range(200):
        log.write(b"%099d\n" % number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2", "log.3"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert (tmp_path / "log").read_bytes().splitlines()[-1] == b"%099d" % 199


def test_only_one_launch_at_a_time_starts_a_stage(there: Far) -> None:
    there.home().mkdir(parents=True)
    with locked(there.home() / "starting", "x"):
        assert "another launch starts this stage" in there.start()["error"]
    assert "done" in there.start()


def test_a_probe_says_what_is_there_and_refuses_what_is_not(there: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(there.folder))  # hides nvidia-smi, if this machine has it
    found = there.ask("probe", device="auto")["done"]
    assert found["cores"] == os.cpu_count()
    assert found["gpus"] == []
    assert "a GPU is requested" in there.ask("probe", device="cuda")["error"]
    assert "is full" in there.ask("probe", bytes=1 << 60)["error"]


def wheel_of(path: Path, name: str, files: dict[str, str], needs: str = "") -> Path:
    about = f"{name}-1.0.dist-info"
    files = files | {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(zipfile.ZipInfo(file), text)
    return Path(str(wheel.filename))


def package(there: Far, content: str = "") -> dict[str, Any]:
    files = {"workbench/__init__.py": content, "workbench/services/__init__.py": "", "workbench/services/server.py": ""}
    path = wheel_of(there.folder, "workbench", files)
    sha = there.keep(path.read_bytes())
    return {"wheel": sha, "file": path.name, "locks": {}, "least": "3.11", "pip": ["--no-index"], "device": "cpu"}


@pytest.mark.system
def test_an_environment_is_made_once_by_pip_and_runs_the_package(there: Far) -> None:
    asked = package(there)
    made = there.ask("environment", **asked, python="")["done"]
    found = subprocess.run(
        [made["python"], "-c", "import workbench; print(workbench.__file__)"], capture_output=True, text=True, cwd="/"
    )
    assert str(there.folder / "envs") in found.stdout
    mark = next((there.folder / "envs").glob("*/ready.json"))
    before = mark.stat().st_mtime_ns
    assert there.ask("environment", **asked, python="")["done"] == made
    assert mark.stat().st_mtime_ns == before


def test_a_complete_interpreter_needs_no_installation(there: Far) -> None:
    made = there.ask("environment", **package(there), python=sys.executable)["done"]
    assert made["python"] == sys.executable
    assert Path(made["path"], "workbench", "__init__.py").exists()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("raise ImportError('no libcudart')", {}, "does not run the package: ImportError: no libcudart"),
        ("", {"python": "/nowhere/python"}, "cannot be run"),
        pytest.param("", {"python": "", "locks": {"base": "0" * 64}}, "is missing: launch again", marks=pytest.mark.system),
        pytest.param("", {"device": "cuda"}, "GPU", marks=pytest.mark.system),
    ],
)
def test_an_environment_that_cannot_be_made_is_not_kept(there: Far, content: str, options: dict[str, str], words: str) -> None:
    asked = {**package(there, content), "python": sys.executable, **options}
    error = there.ask("environment", **asked)["error"]
    assert words in error
    if options.get("device") != "cuda":
        assert [path for path in (there.folder / "envs").iterdir() if path.is_dir()] == []


INSTALLERS = ["pip", pytest.param("uv", marks=pytest.mark.skipif(shutil.which("uv") is None, reason="no uv here"))]


@pytest.mark.system
@pytest.mark.parametrize("installer", INSTALLERS)
def test_packages_come_from_the_lock_whatever_the_index_has(
    there: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: str
) -> None:
    if installer == "pip":
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
    index = tmp_path / "index"
    index.mkdir()
    good = wheel_of(index, "locked", {"locked.py": ""}, "Requires-Dist: uninvited\n")
    wheel_of(index, "uninvited", {"uninvited.py": ""})
    digest = hashlib.sha256(good.read_bytes()).hexdigest()
    lock = f"locked==1.0 --hash=sha256:{digest}\n"
    asked = package(there) | {"python": "", "pip": ["--no-index", "--find-links", str(index)]}

    def ask(text: str) -> dict[str, Any]:
        return there.ask("environment", **asked | {"locks": {"base": there.keep(text.encode())}})

    made = ask(lock)["done"]
    found = subprocess.run(
        [made["python"], "-c", "import locked, workbench; import uninvited"], capture_output=True, text=True, cwd="/"
    )
    assert found.stderr.strip().endswith("No module named 'uninvited'")
    for text in (
        "locked==1.0\n",  # a line without a hash
        lock + "uninvited==1.0\n",  # an additional line without a hash
        lock + f"uninvited==1.0 --hash=sha256:{digest}\n",  # the hash of a file that the index does not have
    ):
        assert "failed with status" in ask(text)["error"]
    swapped = wheel_of(index, "swapped", {"swapped.py": ""})
    line = f"swapped==1.0 --hash=sha256:{hashlib.sha256(swapped.read_bytes()).hexdigest()}\n"
    swapped.write_bytes(swapped.read_bytes() + b"\0")  # the index has a different file of that name
    assert "failed with status" in ask(lock + line)["error"]
