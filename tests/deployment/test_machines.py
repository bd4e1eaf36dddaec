"""Both stages on separate machines, over real sshd: their networks meet only on this side, and are cut, restored, restarted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.pair import AUXILIARY, TARGET
from tests.support.servers import reserved_port
from tests.support.sshd import Ground, command_of, numbers
from tests.support.waiting import until
from workbench.data import Dataset
from workbench.deployment import tunnels
from workbench.deployment.deployed import Deployed
from workbench.deployment.plan import Deployment
from workbench.deployment.stages import RemoteAgent
from workbench.errors import RemoteError
from workbench.pictures import to_float
from workbench.system import System

PLAN = f"""[pair]
dataset = "digits"
target = "{TARGET}"
auxiliary = "{AUXILIARY}"
[edge]
host = "edge"
python = {json.dumps(sys.executable)}
[cloud]
host = "cloud"
python = {json.dumps(sys.executable)}
"""


def plan(folder: Path) -> Deployment:
    path = folder / "deployment.toml"
    path.write_text(PLAN)
    return Deployment.read(path)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def images(digits: Dataset) -> torch.Tensor:
    return to_float(digits.test.images[:100])


@pytest.fixture
def deployed(namespaces: Ground, tmp_path: Path, tiny_data: Path) -> Iterator[Deployed]:
    with Deployed(plan(tmp_path), namespaces.config()) as made:
        yield made
        made.stop(purge=True)


def left(*places: Path) -> list[str]:
    words = [str(each) for each in places]
    found = [command_of(pid) for pid in numbers() if pid != os.getpid()]
    return [line for line in found if any(word in line for word in words) and "sshd" not in line.split(" ")[0]]


@pytest.mark.system
def test_separate_machines_serve_together_through_faults(deployed: Deployed, namespaces: Ground, images: torch.Tensor) -> None:
    inside = System.load("digits", TARGET, AUXILIARY).recognise(images)
    edge, cloud = namespaces["edge"], namespaces["cloud"]
    reach = [*edge.prefix, sys.executable, "-c", f"import socket; socket.create_connection(('{cloud.address}', 22), 2)"]
    assert subprocess.run(reach, capture_output=True, timeout=30).returncode == 1
    urls = deployed.launch()
    assert [row.state for row in deployed.status()] == ["ready", "ready"]

    with deployed.client(deadline_s=90) as client:

        def same() -> bool:
            return torch.equal(client.recognise(images).labels, inside.labels)

        assert same()
        for which in ("cloud", "edge"):
            os.kill(int(deployed.stage(which).status()["child"]), signal.SIGKILL)  # type: ignore[arg-type]
            until(lambda which=which: not deployed.stage(which).status()["running"])  # type: ignore[misc]
            assert deployed.launch() == urls
            assert same()

        assert cloud.network is not None
        cloud.network.cut()
        asked: list[bool] = []
        asking = threading.Thread(target=lambda: asked.append(same()))
        asking.start()
        asking.join(2)
        assert asking.is_alive()  # the edge cannot reach the cloud, and retries
        cloud.network.mend()
        asking.join(90)
        assert asked == [True]

        edge.stop()
        edge.start()
        assert same()  # over a new connection, on the same ports

    assert sorted(deployed.stop()) == ["cloud", "edge", "tunnels"]
    until(lambda: left(edge.home, cloud.home, deployed.folder) == [])
    for machine in (edge, cloud):
        assert list(machine.home.rglob("*.key")) == []
        assert not (machine.home / ".pmc2" / "stages").exists()
    deployed.stop(purge=True)
    assert not (edge.home / ".pmc2").exists()
    assert not (cloud.home / ".pmc2").exists()
    assert not deployed.folder.exists()


@pytest.mark.system
def test_launched_and_stopped_again_and_again_nothing_piles_up(
    machines: Ground, tmp_path: Path, tiny_data: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycles = request.config.getoption("--cycles")
    seen: list[object] = []
    homes = [machine.home for machine in machines.machines.values()]
    monkeypatch.chdir(tmp_path)
    config = Path(os.path.relpath(machines.config()))  # relative to the user's working directory, which is not the tunnels'
    with Deployed(plan(tmp_path), config) as made:
        for _ in range(cycles):
            urls = made.launch()
            made.stop()
            for url in urls.values():
                with socket.socket() as trial:
                    assert trial.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
            until(lambda: left(*homes, made.folder) == [])  # the last shell ends after its response
            kept = [sorted(str(path) for path in (home / ".pmc2").rglob("*")) for home in homes]
            seen.append((kept, sorted(str(path) for path in made.folder.rglob("*"))))
        made.stop(purge=True)
    assert all(each == seen[0] for each in seen)
    assert not any((home / ".pmc2").exists() for home in homes)
    assert not made.folder.exists()


@pytest.mark.system
def test_a_launch_resumes_an_upload_that_the_network_dropped(deployed: Deployed, namespaces: Ground) -> None:
    network = namespaces["edge"].network
    assert network is not None
    network.slow(2_000_000)
    launched: list[object] = []

    def launch() -> None:
        try:
            launched.append(deployed.launch())
        except RemoteError as error:
            launched.append(error)

    launching = threading.Thread(target=launch)
    before = network.sent
    launching.start()
    try:
        until(lambda: network.sent - before > 250_000, 60)
        namespaces["edge"].stop()  # and every connection to it
        network.cut()
        launching.join(2)
        assert launching.is_alive()
        network.mend()
        network.slow(1_000_000_000)
        namespaces["edge"].start()
    finally:
        launching.join(120)
    assert isinstance(launched[0], dict), launched
    assert [row.state for row in deployed.status()] == ["ready", "ready"]


@pytest.mark.system
def test_stages_that_name_an_address_are_reached_by_tls_alone(machines: Ground, tmp_path: Path, tiny_data: Path) -> None:
    path = tmp_path / "direct.toml"
    text = PLAN
    with reserved_port() as edge, reserved_port() as cloud:
        ports = {"edge": edge, "cloud": cloud}
        for which, port in ports.items():
            own = f'listen = "127.0.0.1:{port}"\naddress = "localhost:{port}"\n'
            text = text.replace(f'host = "{which}"\n', f'host = "{which}"\n{own}')
        path.write_text(text)
        with Deployed(Deployment.read(path), machines.config()) as made:
            try:
                assert made.launch() == {which: f"https://localhost:{port}" for which, port in ports.items()}
                assert tunnels.ports(made.folder) == {}
                assert made.stop() == ["edge", "cloud"]
            finally:
                made.stop(purge=True)


def test_a_port_that_a_dead_session_holds_is_freed(machines: Ground) -> None:
    with machines.host("edge") as host, machines.host("edge") as other:
        port = host.reverse(("127.0.0.1", 1)).port
        side = RemoteAgent(other, ".pmc2")
        assert side("free", port=port) is True
        until(lambda: side("free", port=port) is False)
        with socket.socket() as trial:
            assert trial.connect_ex(("127.0.0.1", port)) != 0
        assert other.run(["true"]).status == 0
        side("purge")


def test_a_machine_without_python_is_named_with_the_way_out(
    sshd: Callable[..., Ground], tmp_path: Path, tiny_data: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "head", "setsid", "kill", "sleep", "cat", "mkdir"):
        (tools / name).symlink_to(shutil.which(name) or "/bin/false")
    home = tmp_path / "edge" / "home"
    inside = f'export HOME={home} PATH={tools}; cd; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    ground = sshd("edge", ForceCommand=inside)
    path = tmp_path / "deployment.toml"
    path.write_text(PLAN.replace('host = "cloud"', 'host = "local"'))
    with Deployed(Deployment.read(path), ground.config()) as made:
        with pytest.raises(RemoteError, match="edge has no python3: install"):
            made.launch()
        assert list(home.iterdir()) == []
        made.plan.folder.rename(tmp_path / "kept")


@pytest.mark.system
@pytest.mark.parametrize("fault", ["no interpreter", "taken port", "unknown host", "no gpu"])
def test_what_a_machine_lacks_is_one_line_with_its_name(
    machines: Ground, tmp_path: Path, tiny_data: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = machines.config()
    text, words = PLAN, ""
    if fault == "taken port":
        taken = socket.create_server(("127.0.0.1", 0))
        text = text.replace('host = "edge"', f'host = "edge"\nlisten = "127.0.0.1:{taken.getsockname()[1]}"')
        words = "Address already in use"
    elif fault == "unknown host":
        config = machines.config(known="")
        words = "SHA256:"
    elif fault == "no gpu":
        if torch.cuda.is_available():
            pytest.skip("there is a GPU here")
        text, words = text.replace('host = "cloud"', 'host = "cloud"\ndevice = "cuda"'), "a GPU is requested"
    else:
        text, words = text.replace(json.dumps(sys.executable), '"/nowhere/python"', 1), "cannot be run"
    path = tmp_path / "deployment.toml"
    path.write_text(text)
    with Deployed(Deployment.read(path), config) as made:
        with pytest.raises(RemoteError) as caught:
            made.launch()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert ("cloud" if fault == "no gpu" else "edge") in str(caught.value) or fault == "unknown host"
        until(lambda: left(machines["edge"].home, machines["cloud"].home, made.folder) == [])
        if fault != "unknown host":
            made.stop(purge=True)
    if fault == "taken port":
        taken.close()
