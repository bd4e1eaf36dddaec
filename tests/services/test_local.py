"""Edge and cloud as processes: the real commands, from certificates to labels, and their end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.support.pair import AUXILIARY, TARGET
from tests.support.services import interrupt, leaving_no_process
from tests.support.waiting import until
from workbench.__main__ import main
from workbench.client import HttpsClient
from workbench.codecs import Jpeg, Png
from workbench.data import Dataset
from workbench.errors import ServiceError
from workbench.pictures import to_float
from workbench.services.loading import StageConfig, edge_stage
from workbench.services.local import Local, Running
from workbench.system import System
from workbench.weights import load_pair

PAIR = ("--dataset", "digits", "--target", TARGET, "--auxiliary", AUXILIARY)
ONE = ("--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def local(tiny_root: Path) -> Iterator[Local]:
    with pytest.MonkeyPatch.context() as patch, Local() as local:
        patch.setenv("WORKBENCH_DATA", str(tiny_root))
        patch.delenv("WORKBENCH_TOKEN", raising=False)
        yield local


@pytest.fixture(scope="module")
def edge(local: Local) -> Running:
    cloud = local.start("cloud", *PAIR, *ONE, ready=False)
    edge = local.start("edge", *PAIR, *ONE, "--cloud", cloud.url, ready=False)
    local.await_ready(edge)
    return edge


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> list[Path]:
    folder, images = tmp_path_factory.mktemp("pictures"), to_float(digits.test.images[:2])
    paths = [folder / "three.jpg", folder / "five.png"]
    for path, files in zip(paths, (Jpeg().encode_each(images[:1]), Png().encode_each(images[1:])), strict=True):
        path.write_bytes(files[0])
    return paths


def port_file(service: Running) -> Path:
    return service.folder / f"{service.log.stem}.port"


def test_labels_are_those_of_the_weights_in_this_process(local: Local, edge: Running, digits: Dataset) -> None:
    images = to_float(digits.test.images[:20])
    expected = System.load("digits", TARGET, AUXILIARY).recognise(images)
    with HttpsClient(edge.url, certs=local.certs, batch=8) as client:
        answer = client.recognise(images)
        assert client.classes == tuple(digits.classes)
    torch.testing.assert_close(answer.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert answer.s1_bytes == expected.s1_bytes


@pytest.mark.system
def test_edge_and_cloud_may_differ_in_precision(local: Local, digits: Dataset) -> None:
    images = to_float(digits.test.images[:32])
    narrow, wide = (System.load("digits", TARGET, AUXILIARY, precision=each) for each in ("bfloat16", "float32"))
    files = narrow.client.capture(images) if narrow.client is not None else []
    payload = narrow.edge.protect(narrow.edge.receive(files, 32))
    assert not torch.equal(narrow.edge.perturb(images), wide.edge.perturb(images))
    cloud = local.start("cloud", *PAIR, *ONE, ready=False)
    edge = local.start("edge", *PAIR, *ONE, "--cloud", cloud.url, "--precision", "bfloat16", ready=False)
    local.await_ready(edge)
    for batch in (1, 7, 32):
        with HttpsClient(edge.url, certs=local.certs, batch=batch) as client:
            torch.testing.assert_close(client.recognise(images).scores, wide.cloud.recognise(payload), rtol=1e-4, atol=1e-5)


def test_a_service_says_its_port_and_logs_a_line_a_request(local: Local, edge: Running, digits: Dataset) -> None:
    assert port_file(edge).read_text() == f"{edge.port}\n"
    with HttpsClient(edge.url, certs=local.certs) as client:
        client.recognise(to_float(digits.test.images[:2]))

    def last() -> int:
        lines = [line for line in edge.log.read_text().rpartition("\n")[0].splitlines() if line.startswith("{")]
        return int(json.loads(lines[-1]).get("images", 0))

    until(lambda: last() == 2)  # the line is written once the answer is out
    assert f"pmc2-edge listens on {edge.url}" in edge.log.read_text()


def test_the_command_prints_one_object(
    local: Local, edge: Running, pictures: list[Path], digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recognize", *map(str, pictures), "--edge", edge.url, "--certs", str(local.certs), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    printed = json.loads(out)
    assert [each["file"] for each in printed["results"]] == list(map(str, pictures))
    assert (printed["n"], printed["arrangement"], printed["strength"]) == (2, "pmc2", 1.0)
    assert printed["s1_bytes"] == sum(path.stat().st_size for path in pictures)
    assert printed["s2_bytes"] > 0
    for each in printed["results"]:
        assert tuple(each["scores"]) == tuple(digits.classes)
        assert each["label"] == max(each["scores"], key=each["scores"].get)


def test_the_command_prints_a_table(
    local: Local, edge: Running, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recognize", *map(str, pictures), "--edge", edge.url, "--certs", str(local.certs)]) == 0
    shown = capsys.readouterr().out
    assert all(str(path) in shown for path in pictures)
    assert "network_edge_cloud" in shown
    assert "bytes on to the cloud" in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--certs", "{certs}", "{missing}"), "does not exist"),
        (("--certs", "{folder}", "{picture}"), "there is no ca.pem in"),
        (("{picture}",), "give --certs DIR"),
        (("--certs", "{certs}", "--edge", "http://127.0.0.1:1", "{picture}"), "is plain HTTP"),
        (("--certs", "{certs}", "--edge", "https://127.0.0.1:1", "--deadline", "0.2", "{picture}"), "cannot be reached"),
        (("--certs", "{certs}", "--deadline", "inf", "{picture}"), "a finite deadline_s must be above 0"),
        (("--certs", "{certs}", "--strength", "2", "{picture}"), "strength must be between 0"),
        (("--certs", "{certs}", "--token-file", "{missing}", "{picture}"), "no token can be read from"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    local: Local, pictures: list[Path], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    named = {"certs": local.certs, "folder": local.folder, "picture": pictures[0], "missing": local.folder / "missing"}
    assert main(["recognize", *(each.format(**named) for each in arguments)]) != 0
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("workbench: ")
    assert reason in line


@pytest.mark.system
def test_a_phone_that_protects_asks_the_cloud_itself(
    local: Local, pictures: list[Path], digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = local.start("cloud", *PAIR, *ONE, "--arrangement", "pp")
    where = ["--cloud", cloud.url, "--certs", str(local.certs), *PAIR]
    assert main(["recognize", *map(str, pictures), "--arrangement", "pp", *where, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["n"], printed["arrangement"], printed["s1_bytes"]) == (2, "pp", None)

    images = to_float(digits.test.images[:4])
    phone, _, _ = edge_stage(StageConfig("digits", digits.classes, TARGET, AUXILIARY, "png"))
    with HttpsClient(cloud.url, certs=local.certs, protects=phone) as client:
        answer = client.recognise(images)
    pair = load_pair("digits", TARGET, AUXILIARY)
    expected = System.baseline(pair.generator, pair.target).recognise(images)
    torch.testing.assert_close(answer.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert cloud.stop() == 0
    assert not port_file(cloud).exists()


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_that_still_loads(local: Local, number: signal.Signals) -> None:
    cloud = local.start("cloud", *PAIR, *ONE, ready=False)
    status = cloud.stop(number)
    assert status == (0 if number == signal.SIGTERM else 130)
    assert not port_file(cloud).exists()
    assert "Traceback" not in cloud.log.read_text()


@pytest.mark.system
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--certs", "nowhere"), "there is no ca.pem in nowhere: make certificates with `workbench certs nowhere`"),
        (("--target", "vgg13_bn"), "vgg13_bn"),
    ],
    ids=["certs", "weights"],
)
def test_a_service_that_cannot_start_says_why(local: Local, options: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ServiceError, match=r"the cloud did not (start|become ready): workbench: ") as caught:
        local.start("cloud", *PAIR, *ONE, *options)
    assert reason in str(caught.value)
    until(lambda: local.services[-1].process.poll() is not None)
    assert not list(local.folder.glob(f"cloud-{len(local.services) - 1}.port"))


@pytest.mark.system
def test_what_was_started_ends_with_its_folder(tiny_data: Path) -> None:
    with Local() as local:
        cloud = local.start("cloud", *PAIR, *ONE, ready=False)
        assert cloud.process.poll() is None
    assert cloud.process.returncode == 0
    assert not local.folder.exists()


def test_ctrl_c_during_a_start_leaves_no_process(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with leaving_no_process(), Local() as local:
        monkeypatch.setattr("workbench.services.local.time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupt))
        with pytest.raises(KeyboardInterrupt):
            local.start("cloud", *PAIR, *ONE)
        assert not local.services


@pytest.mark.system
def test_ctrl_c_during_a_stop_leaves_no_process(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, interrupts = subprocess.Popen.wait, iter([KeyboardInterrupt])

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        for error in interrupts:  # the first call alone
            raise error
        return wait(process, timeout)

    with leaving_no_process():
        local = Local().__enter__()
        first = local.start("cloud", *PAIR, *ONE, ready=False)
        local.start("cloud", *PAIR, *ONE, ready=False)  # stops first, and is interrupted
        monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            local.__exit__()
    assert first.process.returncode is not None
