"""A deployment on this machine, by the code for remote ones: launched, used, killed, launched again, and removed completely."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.support.pair import AUXILIARY, TARGET
from tests.support.ssh_faults import serving
from tests.support.sshd import LOOPBACK, keygen, public
from tests.support.waiting import until
from workbench.attest import WARNINGS
from workbench.data import Dataset
from workbench.deployment.deployed import Deployed, StageRow
from workbench.deployment.plan import Deployment, local_plan
from workbench.errors import RemoteError, UsageError
from workbench.pictures import to_float
from workbench.system import System

Planned = Callable[..., Path]


@pytest.fixture
def planned(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(edge: str = "", cloud: str = "", name: str = "here") -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(
            local_plan("digits", TARGET, AUXILIARY, tmp_path / "far").replace("[cloud]", f"{edge}\n[cloud]") + cloud
        )
        return path

    return write


@contextlib.contextmanager
def at(path: Path, steps: list[str] | None = None) -> Iterator[Deployed]:
    with Deployed(Deployment.read(path), report=(steps if steps is not None else []).append) as made:
        try:
            yield made
        finally:
            made.stop(purge=True)


def states(made: Deployed) -> list[str]:
    return [row.state for row in made.status()]


def row_of(made: Deployed, which: str) -> StageRow:
    return next(row for row in made.status() if row.stage == which)


def await_line(made: Deployed, which: str) -> None:
    """Wait until a stage has logged a request, because it does so once the answer is out."""

    def logged() -> bool:
        return any(f'"service": "pmc2-{which}"' in line for line in made.logs(which, 20))  # type: ignore[arg-type]

    until(logged, what=f"the {which} logged no request")


def child(made: Deployed, which: str) -> int:
    status = made.stage(which).status()  # type: ignore[arg-type]
    return int(status["child"])


@pytest.mark.system
def test_a_deployment_survives_kills_and_leaves_nothing(planned: Planned, digits: Dataset, tmp_path: Path) -> None:
    images = to_float(digits.test.images[:100])
    with at(planned(), steps := []) as made:
        assert states(made) == ["absent", "absent"]
        with pytest.raises(RemoteError, match="is not launched"):
            made.url("edge")
        urls = made.launch()
        assert states(made) == ["ready", "ready"]
        assert any("ready at" in line for line in steps)
        children = child(made, "edge"), child(made, "cloud")
        assert made.launch() == urls
        assert (child(made, "edge"), child(made, "cloud")) == children

        inside = System.load("digits", TARGET, AUXILIARY).recognise(images)
        with made.client() as client:
            assert torch.equal(client.recognise(images).labels, inside.labels)
            await_line(made, "cloud")
            os.kill(children[1], signal.SIGKILL)
            until(lambda: row_of(made, "cloud").state == "crashed")
            assert any('"service": "pmc2-cloud"' in line for line in row_of(made, "cloud").last)
            assert made.launch() == urls  # the edge kept running, and found the cloud at the same address
            assert child(made, "edge") == children[0]
            assert torch.equal(client.recognise(images).labels, inside.labels)
            os.kill(children[0], signal.SIGKILL)
            until(lambda: row_of(made, "edge").state == "crashed")
            assert made.launch() == urls
            assert torch.equal(client.recognise(images).labels, inside.labels)
        await_line(made, "edge")
        assert made.stop() == ["edge", "cloud"]
        assert states(made) == ["absent", "absent"]
        assert not (tmp_path / "far" / "stages").exists()
        assert list((tmp_path / "far").rglob("*.key")) == []
    assert not (tmp_path / "far").exists()
    assert not made.folder.exists()
    assert [path for path in made.folder.parent.iterdir() if "here" in path.name] == []


@pytest.mark.system
def test_a_taken_port_ends_the_launch_in_one_line(planned: Planned) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with at(planned(edge=f'listen = "127.0.0.1:{port}"')) as made:
            with pytest.raises(RemoteError) as caught:
                made.launch()
            assert "Address already in use" in str(caught.value)
            assert "\n" not in str(caught.value)
            assert states(made) == ["absent", "absent"]


@pytest.mark.system
def test_an_option_that_a_stage_refuses_keeps_its_error(planned: Planned) -> None:
    with at(planned(cloud='options = ["--remember", "-1"]\n')) as made, pytest.raises(RemoteError, match="from 0 up"):
        made.launch()


@pytest.mark.system
def test_a_policy_for_milan_is_warned_of_a_missing_one_is_fatal(planned: Planned, tmp_path: Path) -> None:
    path = planned(cloud='options = ["--remember", "-1"]\n\n[client]\npolicy = "policy.toml"\n')
    with at(path, steps := []) as made:
        with pytest.raises(UsageError, match=r"policy\.toml cannot be read"):
            made.launch()
        assert steps == [], "before anything is sent"
        (tmp_path / "policy.toml").write_text(
            f'measurements = ["{"00" * 48}"]\ninitdata = "{"00" * 32}"\nproducts = ["Genoa", "Milan"]\nminimum_tcb = "any"\n'
        )
        with pytest.raises(RemoteError, match="from 0 up"):
            made.launch()
        assert [line for line in steps if "arXiv" in line] == [f"WARNING: {WARNINGS['Milan']}"]
        assert steps[0].startswith("WARNING")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_refused_before_anything_is_sent(planned: Planned) -> None:
    with at(planned(cloud='device = "cuda"\n')) as made, pytest.raises(RemoteError, match="a GPU is requested"):
        made.launch()


def test_an_interpreter_without_the_packages_is_named(planned: Planned, tmp_path: Path) -> None:
    path = planned()
    path.write_text(path.read_text().replace(json.dumps(sys.executable), json.dumps(sys._base_executable), 1))
    with at(path) as made, pytest.raises(RemoteError, match="does not run the package"):
        made.launch()


def test_two_launches_at_once_are_one_and_a_line(planned: Planned) -> None:
    path = planned()
    with at(path) as made, Deployed(Deployment.read(path)) as other:
        inside, out = threading.Event(), threading.Event()

        def hold() -> None:
            with made._alone():
                inside.set()
                out.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        inside.wait(60)
        with pytest.raises(RemoteError, match="another launch or stop of here.toml is under way"):
            other.launch()
        out.set()
        holder.join()


def test_certificates_are_kept_unless_a_name_changes(planned: Planned) -> None:
    with at(planned()) as made:
        made._certificates()
        before = (made.plan.certs / "edge" / "edge.pem").read_bytes()
        made._certificates()
        assert (made.plan.certs / "edge" / "edge.pem").read_bytes() == before
    with at(planned(cloud='address = "cloud.example:8444"\n')) as made:
        made._certificates()
        assert (made.plan.certs / "edge" / "edge.pem").read_bytes() != before


def test_ctrl_c_while_files_are_sent_ends_the_launch_at_once(planned: Planned, own_home: Path, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    stuck, gate, stopped = threading.Event(), threading.Event(), threading.Event()
    pressed: list[float] = []

    def spoil(data: bytes) -> bytes:
        if len(data) > 1000 and not stopped.is_set():
            stuck.set()
            gate.wait(60)
        return data

    def interrupt() -> None:
        assert stuck.wait(60)
        pressed.append(time.monotonic())
        stopped.set()  # the cleanup succeeds
        os.kill(os.getpid(), signal.SIGINT)

    with serving(key, own_home, spoil) as link:
        name = f"{LOOPBACK}:{link.port}"
        (own_home / "known_hosts").write_text(f"[{LOOPBACK}]:{link.port} {public(key)}\n")
        config = own_home / "config"
        config.write_text(f"UserKnownHostsFile {own_home / 'known_hosts'}\nIdentityFile {key}\nIdentitiesOnly yes\n")
        path = planned()
        path.write_text(path.read_text().replace('host = "local"', f'host = "{name}"', 1))
        thread = threading.Thread(target=interrupt)
        thread.start()
        with Deployed(Deployment.read(path), config) as made:
            with pytest.raises(KeyboardInterrupt):
                made.launch()
            took = time.monotonic() - pressed[0]
            gate.set()
            thread.join(10)
            made.stop(purge=True)
    assert took < 30
