"""The doctor, over a real sshd and with the real kubectl on the tests' API server: one machine for each possible fault.

/proc, /sys, /dev and /opt of a machine are in a folder of its home, which the probe gets as its root. Programs that are missing
on these machines (dmesg of a SEV host, nvidia-smi) are small scripts on sshd's PATH. A full disk is a real one.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import CLOUD, CONFIDENTIAL, DEVELOPMENT
from tests.support.servers import answering, send
from tests.support.sshd import Ground, missing
from workbench.__main__ import main
from workbench.deployment.agent import inventory as probe
from workbench.deployment.deployed import Deployed
from workbench.deployment.doctor import Doctor, Finding, clusters, guests, hosts, network
from workbench.deployment.doctor.charts import annotation_findings
from workbench.deployment.kubernetes.containers import Containers
from workbench.deployment.kubernetes.guest import Container
from workbench.deployment.kubernetes.pods import Pod, warned
from workbench.deployment.plan import Deployment, StagePlan
from workbench.remote import Here, SshHost

from .api_server import kubeconfig, serving
from .cluster import Cluster, Object, equip

Capture = pytest.CaptureFixture[str]
BOOT = "5f3c1a52-0000-4000-8000-000000000001"
KATA = "opt/kata/share/defaults/kata-containers"
CONFIG = (
    '[hypervisor.qemu]\n# enable_annotations = []\nenable_annotations = ["enable_iommu", "kernel_params",\n  "cc_init_data"]\n'
)
CPU = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: AMD EPYC 9354P\nflags\t\t: {}\n\n"
SNP_HOST = {
    "proc/sys/kernel/osrelease": "6.17.0-8-generic\n",
    "proc/sys/kernel/random/boot_id": f"{BOOT}\n",
    "proc/meminfo": "MemTotal: 263000000 kB\nMemAvailable: 250000000 kB\n",
    "proc/cpuinfo": CPU.format(25, 17, "svm sev sev_es sev_snp"),
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz ro quiet\n",
    "proc/net/tcp": "  sl  local_address rem_address   st\n   0: 00000000:20FB 00000000:0000 0A 0 0 0 0 0 0 1\n",
    "sys/module/kvm_amd/parameters/sev_snp": "Y\n",
    "sys/class/iommu/ivhd0/name": "",
    "dev/kvm": "",
    "dev/sev": "",
    f"{KATA}/runtimes/qemu-snp/configuration-qemu-snp.toml": CONFIG,
}
FIRMWARE = "ccp 0000:01:00.5: SEV-SNP API:{} build:22"


def lay(root: Path, files: dict[str, str], *without: str) -> Path:
    for name, text in files.items():
        if not any(name.startswith(each) for each in without):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


def tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(f"{text}\n")
    (folder / name).write_text(f"#!/bin/sh\nexec cat {folder}/{name}.txt\n")
    (folder / name).chmod(0o755)


def inventory(root: Path, tools: Path, **asked: Any) -> dict[str, Any]:
    request = {"root": str(root), "folder": ".pmc2", "python": "/nowhere/python", "reach": [], "broker": "", "broker_cert": ""}
    request |= {"image": "", "short": False, "shims": ["qemu-snp", "qemu-snp-runtime-rs"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        found: dict[str, Any] = json.loads(json.dumps(probe.inventory(request | asked)))
    return found


def one(findings: list[Finding], check: str) -> Finding:
    (found,) = (each for each in findings if each.check == check)
    return found


# --- all checks, over SSH ----------------------------------------------------------------------------------------------------


@dataclass
class Site:
    machine: Path  # the machine's home folder
    cluster: Cluster
    plan: Path
    config: Path
    port: int

    @property
    def root(self) -> Path:
        return self.machine / "rootfs"

    def examine(self, capsys: Capture, *more: str) -> tuple[int, dict[str, str]]:
        status = main(["doctor", str(self.plan), "--root", "rootfs", "--ssh-config", str(self.config), *more])
        lines = [line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()]
        words = ("ok", "WRONG", "unknown", "UNREACHABLE")
        parted = [next(line.partition(f" {word} ") for word in words if f" {word} " in line) for line in lines]
        return status, {name.strip(): f"{word.strip()} {text.strip()}" for name, word, text in parted}


PLAN = """[edge]
host = "edge"
runtime = "confidential"
image = "{image}"
[edge.container]
kbs = "{url}"
secrets = "default/pmc2-edge"
kubectl = {kubectl}
kubeconfig = {kubeconfig}
[cloud]
host = "edge"
device = "cuda"
python = {python}
listen = "127.0.0.1:8444"
address = "127.0.0.1:{port}"
[client]
policy = "policy.toml"
"""
POLICY = f'measurements = ["{"a" * 96}"]\ninitdata = "any"\nminimum_tcb = "any"\n'


def answer(handler: BaseHTTPRequestHandler) -> None:
    if handler.path.startswith("/v2/pmc2-edge/manifests/") and not handler.headers.get("Authorization"):
        url = f"http://{handler.headers['Host']}/token"
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", f'Bearer realm="{url}",service="x",scope="repository:pmc2-edge:pull"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
    elif handler.path.startswith("/token"):
        send(handler, 200, b'{"token": "anyone"}')
    elif handler.path == f"/v2/pmc2-edge/manifests/{DIGEST}":
        send(handler, 200, MANIFEST)
    else:
        send(handler, 200 if handler.path == "/healthz" else 404, b"")


MANIFEST = b'{"schemaVersion": 2}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


@pytest.fixture
def site(
    sshd: Callable[..., Ground],
    kubectl: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    tools, home = tmp_path / "tools", tmp_path / "edge" / "home"
    tool(tools, "dmesg", FIRMWARE.format("1.57"))
    tool(tools, "nvidia-smi", "NVIDIA H100 PCIe, 580.95.05, 81559, 80900")
    ground = sshd("edge", SetEnv=f"HOME={home} PATH={tools}:{os.environ['PATH']}")
    cluster = Cluster()
    equip(cluster, BOOT)
    lay(home / "rootfs", SNP_HOST)
    with serving(cluster) as api, answering(answer) as url:
        path = tmp_path / "site.toml"
        image = f"{url.removeprefix('http://')}/pmc2-edge@{DIGEST}"
        config = json.dumps(str(kubeconfig(tmp_path / "kubeconfig", api)))
        values = {"image": image, "url": url, "kubectl": json.dumps(kubectl), "kubeconfig": config}
        path.write_text(PLAN.format(**values, python=json.dumps(sys.executable), port=url.rpartition(":")[2]))
        path.with_name("policy.toml").write_text(POLICY)
        yield Site(home, cluster, path, ground.config(), ground["edge"].port)


def everything(folder: Path) -> dict[str, tuple[float, int]]:
    return {str(path): (path.lstat().st_mtime, path.lstat().st_size) for path in folder.rglob("*")}


def test_a_complete_machine_is_ok_and_stays_unchanged(site: Site, capsys: Capture) -> None:
    before, version = everything(site.machine), site.cluster.version
    status, said = site.examine(capsys)
    assert {name: text for name, text in said.items() if not text.startswith("ok ")} == {}
    assert status == 0
    assert set(said) >= {
        "reach", "python", "disk", "clock", "kernel", "processor", "KVM", "SEV-SNP", "/dev/sev", "firmware", "IOMMU",
        "Kubernetes", "runtime class", "nodes", "room", "containerd", "node kernel", "chart", "namespace", "annotations",
        "cloud", "key broker", "image", "forwarding", "interpreter", "memory", "GPU", "port",
    }  # fmt: skip
    assert said["firmware"] == "ok has SEV firmware 1.57"
    assert said["GPU"] == "ok has a NVIDIA H100 PCIe, driver 580.95.05, 80900 MiB free"
    assert everything(site.machine) == before
    assert site.cluster.version == version
    assert {verb for verb, _ in site.cluster.requests} == {"get"}


def test_each_fault_is_a_line_with_its_remedy(site: Site, capsys: Capture) -> None:
    """Without KVM, with an old kernel, in a cluster without the class, and with broker and registry at other addresses."""
    (site.root / "dev" / "kvm").unlink()
    (site.root / "proc/sys/kernel/osrelease").write_text("6.8.0-45-generic\n")
    site.cluster.remove("runtimeclasses", "", "kata-qemu-snp")
    site.plan.write_text(site.plan.read_text().replace(DIGEST, f"sha256:{'0' * 64}"))
    status, said = site.examine(capsys)
    assert status == 1
    wrong = {name: text for name, text in said.items() if not text.startswith("ok ")}
    assert set(wrong) == {"KVM", "kernel", "runtime class", "image"}
    assert wrong["KVM"].startswith("WRONG has no /dev/kvm, and a guest is a virtual machine: `sudo modprobe kvm_amd`")
    assert "has Linux 6.8.0-45-generic, and SEV-SNP guests need 6.16.1 or later: install" in wrong["kernel"]
    assert "has no runtime class kata-qemu-snp: `helm upgrade coco oci://" in wrong["runtime class"]
    assert "in its registry: `podman push --digestfile" in wrong["image"]
    main(["doctor", str(site.plan), "--root", "rootfs", "--ssh-config", str(site.config), "--json"])
    found = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["state"] == "wrong"]
    assert {each["check"] for each in found if each["mend"]} == set(wrong)
    site.config.write_text(site.config.read_text().replace(f"Port {site.port}", "Port 1"))
    assert main(["doctor", str(site.plan), "--ssh-config", str(site.config), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    (finding,) = (each for each in report["findings"] if each["check"] == "reach")
    assert finding["state"] == "unreachable"
    assert finding["text"].startswith("is not reached: 127.0.0.1 port 1 refuses connections: does sshd run there")
    status, said = site.examine(capsys)
    assert (status, said["reach"].split()[0]) == (2, "UNREACHABLE")


def test_a_launch_reports_faults_and_stops_at_one_that_blocks(site: Site, capsys: Capture) -> None:
    """A pod that fits no node waits until one does. The node's own files on annotations take precedence, drop-ins included."""
    of_node(lambda node: node["metadata"].update(labels={}))(site.cluster)
    steps: list[str] = []
    with Deployed(Deployment.read(site.plan), site.config, steps.append) as made:
        made._examine()
    assert [line.partition(": `")[0] for line in steps] == [
        "doctor: edge has no node with the label katacontainers.io/kata-runtime=true of the runtime class"
    ]
    lay(site.root, {f"{KATA}/runtimes/qemu-snp/config.d/50-user.toml": 'enable_annotations = ["cc_init_data"]\n'})
    with SshHost("edge", config=site.config) as host:
        findings = Doctor(Deployment.read(site.plan), lambda _: host, host.close, "rootfs").quick()
    (finding,) = (each for each in findings if each.blocks)
    assert finding.sentence.startswith("edge does not let pods of qemu-snp set kernel_params: the Go runtime refuses such pods")
    site.cluster.remove("runtimeclasses", "", "kata-qemu-snp")
    before = everything(site.machine)
    assert main(["launch", str(site.plan), "--ssh-config", str(site.config)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("workbench: edge has no runtime class kata-qemu-snp: `helm upgrade coco oci://")
    assert error.endswith("`workbench doctor site.toml` tells more")
    assert {verb for verb, _ in site.cluster.requests} == {"get"}
    assert everything(site.machine) == before


PROCESS = """[edge]
host = "edge"
[cloud]
host = "edge"
"""


def test_a_machine_without_python_gets_its_lines_all_the_same(
    sshd: Callable[..., Ground], tmp_path: Path, capsys: Capture
) -> None:
    tools, home = tmp_path / "tools", tmp_path / "edge" / "home"
    tools.mkdir()
    for name in ("sh", "head", "setsid", "kill", "sleep", "cat", "uname", "date", "df"):
        (tools / name).symlink_to(shutil.which(name) or "/bin/false")
    inside = f'export HOME={home} PATH={tools}; cd; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    ground = sshd("edge", ForceCommand=inside)
    plan = tmp_path / "plain.toml"
    plan.write_text(PROCESS)
    assert main(["doctor", str(plan), "--ssh-config", str(ground.config())]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("python" in line and "WRONG" in line and "has no python3: install Python 3.11 there" in line for line in lines)
    assert any("kernel" in line and f"has Linux {os.uname().release}" in line for line in lines)
    assert any("inventory" in line and "unknown" in line for line in lines)
    assert list(home.iterdir()) == []


def test_a_full_disk_is_reported_by_doctor_and_launch(
    sshd: Callable[..., Ground], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is a file system of 4 MiB, mounted only for this machine's commands."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, timeout=30).returncode:
        missing("WORKBENCH_REQUIRE_SSHD", "no mount namespace can be made here")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    home = tmp_path / "edge" / "home"
    (home / ".pmc2").mkdir(parents=True)
    mounted = f'mount -t tmpfs -o size=4m none {home}/.pmc2 && exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    ground = sshd("edge", ForceCommand=f"export HOME={home}; cd; exec unshare -rm /bin/sh -c '{mounted}'")
    plan = tmp_path / "full.toml"
    plan.write_text(PROCESS)
    assert main(["doctor", str(plan), "--ssh-config", str(ground.config())]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " disk " in line)
    assert "WRONG" in line
    assert "has 4 MiB free at .pmc2, and a launch needs 3.2 GiB: make room (`du " in line
    assert main(["launch", str(plan), "--ssh-config", str(ground.config())]) == 1
    assert "edge has 4 MiB free at .pmc2, and a launch needs 64 MiB" in capsys.readouterr().err


def test_output_of_another_form_is_escaped_and_no_traceback(
    sshd: Callable[..., Ground], tmp_path: Path, capsys: Capture
) -> None:
    tools, home = tmp_path / "tools", tmp_path / "edge" / "home"
    tool(tools, "nvidia-smi", "\x1b]0;owned\x07H100, 580, 9, 8000\u202e")
    ground = sshd("edge", SetEnv=f"HOME={home} PATH={tools}:{os.environ['PATH']}")
    lay(home / "rootfs", SNP_HOST | {"proc/sys/kernel/osrelease": "6.17.0\x1b[2J\n"})
    plan = tmp_path / "hostile.toml"
    plan.write_text(PROCESS)
    main(["doctor", str(plan), "--root", "rootfs", "--ssh-config", str(ground.config())])
    said = capsys.readouterr().out
    assert "has Linux 6.17.0\\x1b[2J" in said
    assert "has a \\x1b]0;owned\\x07H100" in said
    assert all(each.isprintable() or each == "\n" for each in said)
    for noise in ("", "[]", '"text"', '{"folder": 7}', '{"folder": {}, "pythons": 3}', "\xff\x00"):
        tool(tools, "python3", noise)
        (tools / "python3").write_text(
            f'#!/bin/sh\n[ "$2" = -c ] && exec echo 3.11.7\ncat >/dev/null; exec cat {tools}/python3.txt\n'
        )
        assert main(["doctor", str(plan), "--ssh-config", str(ground.config())]) == 1, noise
        out, err = capsys.readouterr()
        assert "unknown" in out, noise
        assert "Traceback" not in out + err, noise


def test_the_plan_s_own_mistakes_are_status_2(tmp_path: Path, capsys: Capture) -> None:
    assert main(["doctor", str(tmp_path / "none.toml")]) == 2
    assert "workbench init-deployment" in capsys.readouterr().err


# --- faults of a node --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "without", "check", "text"),
    [
        ({"proc/sys/kernel/osrelease": "6.16.0\n"}, "", "kernel", "has Linux 6.16.0, and SEV-SNP guests need 6.16.1"),
        ({"proc/sys/kernel/osrelease": "5.15.0-1\n"}, "", "kernel", "has Linux 5.15.0-1, and"),
        ({}, "proc/sys/kernel/osrelease", "kernel", "does not tell its kernel"),
        ({}, "dev/kvm", "KVM", "has no /dev/kvm"),
        ({}, "dev/sev", "/dev/sev", "has no /dev/sev"),
        ({"sys/module/kvm_amd/parameters/sev_snp": "N\n"}, "", "SEV-SNP", "runs KVM without SEV-SNP (kvm_amd's sev_snp is N)"),
        ({"sys/module/kvm_amd/x": ""}, "sys/module/kvm_amd/parameters", "SEV-SNP", "(kvm_amd's sev_snp is not there)"),
        ({}, "sys/module", "SEV-SNP", "has not loaded the module kvm_amd"),
        ({}, "sys/class/iommu", "IOMMU", "has no IOMMU at work"),
        ({"proc/cmdline": "ro iommu=pt amd_iommu=off\n"}, "", "IOMMU", "was booted with iommu=pt amd_iommu=off"),
        ({"proc/cpuinfo": CPU.format(25, 17, "svm sev sev_es")}, "", "processor", "(Genoa) with SEV-SNP switched off"),
        ({"proc/cpuinfo": CPU.format(23, 49, "svm sev")}, "", "processor", "which is no EPYC of 7003 or later"),
        ({"proc/cpuinfo": CPU.format(6, 143, "vmx").replace("AuthenticAMD", "GenuineIntel")}, "", "processor", "no EPYC"),
        ({"proc/cpuinfo": CPU.format(25, 17, "sev_snp hypervisor")}, "", "processor", "is a virtual machine"),
        ({}, "proc/cpuinfo", "processor", "an unknown processor"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:24],
)
def test_each_thing_that_a_node_lacks_is_reported(
    tmp_path: Path, files: dict[str, str], without: str, check: str, text: str
) -> None:
    tool(tmp_path / "tools", "dmesg", FIRMWARE.format("1.57"))
    root = lay(tmp_path / "root", SNP_HOST | files, *([without] if without else []))
    (root / "sys/class").mkdir(exist_ok=True)
    findings = examined(root, inventory(root, tmp_path / "tools"))
    finding = one(findings, check)
    assert finding.state in ("wrong", "unknown")
    assert text in finding.text
    assert finding.mend
    assert [each.check for each in findings if each.state != "ok"] == [check]


def examined(root: Path, found: dict[str, Any], container: Container = CONFIDENTIAL) -> list[Finding]:
    return guests.node_findings("edge", container, node_facts(root), found)


def node_facts(root: Path) -> dict[str, str]:
    return facts(root, "/bin/sh", PATH="/nowhere")


def facts(root: Path, *shell: str, folder: str = ".", **environ: str) -> dict[str, str]:
    command, script = [*shell, "-s", str(root), folder], hosts.SHELL.encode()
    ended = subprocess.run(command, input=script, env=os.environ | environ, capture_output=True, timeout=30, check=True)
    return hosts.facts_of(ended.stdout)


@pytest.mark.parametrize(
    ("log", "state", "text"),
    [
        ("1.57", "ok", "has SEV firmware 1.57"),
        ("1.55", "ok", "has SEV firmware 1.55"),
        ("1.54", "wrong", "has SEV firmware 1.54, and reports of version 3 need 1.55"),
        ("0.24", "wrong", "0.24"),
        ("", "unknown", "does not tell this user"),
    ],
)
def test_the_firmware_is_read_from_the_kernel_s_log(tmp_path: Path, log: str, state: str, text: str) -> None:
    tool(tmp_path / "tools", "dmesg", FIRMWARE.format(log) if log else "nothing of it")
    tool(tmp_path / "tools", "journalctl", "")
    root = lay(tmp_path / "root", SNP_HOST)
    finding = one(examined(root, inventory(root, tmp_path / "tools")), "firmware")
    assert (finding.state, text in finding.text) == (state, True)


@pytest.mark.parametrize(("family", "model", "word"), [(25, 1, "a Milan, which a policy must name"), (26, 2, "(Turin)")])
def test_the_processor_s_product_is_named(tmp_path: Path, family: int, model: int, word: str) -> None:
    root = lay(tmp_path / "root", SNP_HOST | {"proc/cpuinfo": CPU.format(family, model, "sev_snp")})
    finding = one(examined(root, inventory(root, tmp_path)), "processor")
    assert finding.state == "ok"
    assert word in finding.text


def test_a_node_without_python_is_judged_by_what_its_shell_tells(tmp_path: Path) -> None:
    root = lay(tmp_path / "root", SNP_HOST | {"proc/sys/kernel/osrelease": "6.8.0\n"}, "dev/kvm")
    found = guests.node_findings("edge", CONFIDENTIAL, node_facts(root), None)
    assert [(each.check, each.state) for each in found] == [("kernel", "wrong"), ("KVM", "wrong")]


def test_the_development_runtime_needs_kvm_and_no_sev(tmp_path: Path) -> None:
    root = lay(tmp_path / "root", SNP_HOST, "sys", "dev/sev")
    assert {each.state for each in examined(root, inventory(root, tmp_path), DEVELOPMENT)} == {"ok"}
    (root / "dev/kvm").unlink()
    assert one(examined(root, inventory(root, tmp_path), DEVELOPMENT), "KVM").state == "wrong"


def test_the_agent_is_python_3_9_with_the_standard_library() -> None:
    tree = ast.parse(Path(probe.__file__).read_text(), feature_version=hosts.OLDEST)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


# --- a machine for a process -------------------------------------------------------------------------------------------------


def judged(found: dict[str, Any], facts: dict[str, str] | None = None, **stage: Any) -> list[Finding]:
    plan = StagePlan("edge", **stage)
    return hosts.host_findings("edge", "edge", plan, "x-edge", {"memory": "9000000", **(facts or {})}, found)


@pytest.mark.parametrize(
    ("smi", "device", "state", "text"),
    [
        ("NVIDIA L4, 580.1, 23034, 22000", "cuda", "ok", "has a NVIDIA L4, driver 580.1, 22000 MiB free"),
        ("NVIDIA L4, 470.1, 23034, 22000", "cuda", "wrong", "has NVIDIA's driver 470.1, and CUDA 12 needs 525"),
        ("NVIDIA L4, 580.1, 23034, 12\nNVIDIA L4, 580.1, 23034, 90", "auto", "wrong", "has 90 MiB free on its NVIDIA L4"),
        ("", "cuda", "wrong", "has no GPU that nvidia-smi finds"),
        ("NVIDIA-SMI has failed because it could not communicate with the driver", "cuda", "wrong", "has no GPU that"),
        ("", "auto", "ok", "has none, and device = 'auto'"),
    ],
)
def test_gpus_are_judged_by_driver_and_free_memory(tmp_path: Path, smi: str, device: str, state: str, text: str) -> None:
    tool(tmp_path / "tools", "nvidia-smi", smi)
    finding = one(judged(inventory(tmp_path, tmp_path / "tools"), device=device), "GPU")
    assert (finding.state, text in finding.text) == (state, True)


def test_interpreters_folders_memory_and_ports_are_judged(tmp_path: Path, own_home: Path) -> None:
    root = lay(tmp_path / "root", SNP_HOST)
    found = inventory(root, tmp_path, python="")
    assert one(judged(found), "interpreter").state == "ok"
    assert one(judged(found, listen="127.0.0.1:8443"), "port").text == "has port 8443 taken"
    assert one(judged(found, listen="127.0.0.1:8444"), "port").state == "ok"
    stage = own_home / ".pmc2" / "stages" / "x-edge"
    stage.mkdir(parents=True)
    (stage / "port").write_text("8443\n")
    assert "with this stage on it" in one(judged(inventory(root, tmp_path), listen="127.0.0.1:8443"), "port").text
    assert one(judged(found, {"memory": "400000"}), "memory").text == "has 390 MiB of memory free, and a stage takes 1.0 GiB"
    assert one(judged(found | {"folder": found["folder"] | {"files": 12}}), "disk").text.startswith(
        "has room for 12 more files"
    )
    assert one(judged(found | {"folder": found["folder"] | {"writable": False}}), "folder").state == "wrong"
    assert one(judged(inventory(root, tmp_path, python="/nowhere/python"), python="/nowhere/python"), "interpreter").text == (
        "has no /nowhere/python that can be run"
    )
    bare = {"path": "/usr/bin/python3", "version": [3, 11], "venv": False, "torch": False}
    for pythons, uv, text in (
        ([bare], None, "has Python 3.11 without its venv module"),
        ([bare | {"version": [3, 9]}], None, "has neither uv nor a Python of 3.11 or 3.12"),
        ([], None, "has neither uv"),
        ([], "/usr/bin/uv", "has uv"),
    ):
        assert one(judged(found | {"pythons": pythons, "uv": uv}), "interpreter").text.startswith(text)
    assert (
        "has no torch in /usr/bin/python3"
        in one(judged(found | {"pythons": [bare]}, python="/usr/bin/python3"), "interpreter").text
    )


@pytest.mark.parametrize(
    ("skew", "state", "blocks"), [(0.0, "ok", False), (-200, "ok", False), (-3600, "wrong", True), (900, "wrong", False)]
)
def test_a_slow_clock_stops_a_launch_and_a_fast_one_warns(skew: float, state: str, blocks: bool) -> None:
    finding = one(hosts.shell_findings("edge", {"python": "3.11.2", "free": str(1 << 40)}, StagePlan("edge"), skew), "clock")
    assert (finding.state, finding.blocks) == (state, blocks)


@pytest.mark.parametrize(
    ("facts", "runtime", "state", "text"),
    [
        ({"python": "3.6.8"}, "process", "wrong", "has Python 3.6.8, and what runs there needs 3.9"),
        ({"python": "3.6.8"}, "confidential", "unknown", "has Python 3.6.8"),
        ({"interpreter": "/usr/bin/python3"}, "process", "wrong", "has a python3 at /usr/bin/python3 that does not run"),
        ({}, "confidential", "unknown", "has no python3"),
    ],
)
def test_an_old_or_broken_python_is_reported(facts: dict[str, str], runtime: Any, state: str, text: str) -> None:
    finding = one(hosts.shell_findings("edge", facts, StagePlan("edge", runtime), 0.0), "python")
    assert (finding.state, text in finding.text) == (state, True)


def test_the_python_that_is_asked_for_is_the_package_s_own() -> None:
    declared = tomllib.loads(Path("pyproject.toml").read_text())["project"]["requires-python"]
    least, below = (".".join(map(str, version)) for version in (hosts.LEAST, hosts.BELOW))
    assert declared.replace(" ", "") == f">={least},<{below}"


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_every_shell_tells_the_same_facts(shell: str, tmp_path: Path) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} here")
    reported = facts(lay(tmp_path, SNP_HOST), path, *(["sh"] if shell == "busybox" else []), folder="a/b/c")
    assert reported["kernel"] == "6.17.0-8-generic"
    assert (reported["boot"], reported["memory"], reported["kvm"]) == (BOOT, "250000000", "yes")
    assert int(reported["free"]) > 1 << 20
    assert reported["python"].startswith("3.")


# --- the cluster -------------------------------------------------------------------------------------------------------------


def edited(plural: str, name: str, edit: Callable[[Object], object], namespace: str = "") -> Callable[[Cluster], object]:
    def act(cluster: Cluster) -> None:
        made = cluster.objects[plural, namespace, name]
        edit(made)
        cluster.put(plural, made)

    return act


def of_node(edit: Callable[[Object], object]) -> Callable[[Cluster], object]:
    return edited("nodes", "node-a", edit)


def of_chart(name: str, value: str) -> Callable[[Cluster], object]:
    def edit(made: Object) -> None:
        env = made["spec"]["template"]["spec"]["containers"][0]["env"]
        env[:] = [each for each in env if each["name"] != name] + [{"name": name, "value": value}]

    return edited("daemonsets", "kata-as-coco-runtime", edit, "coco-system")


def taken(cluster: Cluster) -> None:
    spec = {"ports": [{"port": 443, "nodePort": 30443}]}
    cluster.put(
        "services", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}
    )


WRONG_CLUSTERS: list[tuple[Callable[[Cluster], object], dict[str, Any], str, str]] = [
    (lambda c: setattr(c, "release", "v1.27.9"), {}, "Kubernetes", "has Kubernetes v1.27.9, and the objects are of 1.28"),
    (lambda c: c.remove("runtimeclasses", "", "kata-qemu-snp"), {}, "runtime class", "has no runtime class kata-qemu-snp"),
    (lambda c: None, {"shim": "rust"}, "runtime class", "has no runtime class kata-qemu-snp-runtime-rs, but kata-qemu-snp"),
    (lambda c: c.remove("nodes", "", "node-a"), {}, "nodes", "has no node that is ready"),
    (of_node(lambda n: n["status"]["conditions"].clear()), {}, "nodes", "has no node that is ready"),
    (of_node(lambda n: n["spec"].update(unschedulable=True)), {}, "nodes", "has no node that is ready"),
    (of_node(lambda n: n["metadata"].update(labels={})), {}, "nodes", "with the label katacontainers.io/kata-runtime=true"),
    (of_node(lambda n: n["status"]["allocatable"].update(memory="4Gi")), {}, "room", "node-a has 4Gi memory, needed are 6Gi"),
    (
        of_node(lambda n: n["status"]["allocatable"].update(cpu="4500m")),
        {},
        "room",
        "node-a has 4500m cpu, needed are 4 and 1.0",
    ),
    (
        of_node(lambda n: n["status"]["nodeInfo"].update(containerRuntimeVersion="containerd://1.6.9")),
        {},
        "containerd",
        "1.6.9",
    ),
    (
        of_node(lambda n: n["status"]["nodeInfo"].update(containerRuntimeVersion="cri-o://1.34")),
        {},
        "containerd",
        "has cri-o on",
    ),
    (of_node(lambda n: n["status"]["nodeInfo"].update(kernelVersion="6.8.0")), {}, "node kernel", "6.16.1 or later on node-a"),
    (of_chart("SHIMS_X86_64", "qemu qemu-snp-runtime-rs"), {}, "chart", "leaves qemu-snp out"),
    (of_chart("SNAPSHOTTER_HANDLER_MAPPING_X86_64", "qemu-snp-runtime-rs:nydus"), {}, "chart", "the host pulls images"),
    (lambda c: c.remove("daemonsets", "coco-system", "kata-as-coco-runtime"), {}, "chart", "has no DaemonSet of Kata's chart"),
    (lambda c: None, {"namespace": "absent"}, "namespace", "has no namespace absent"),
    (taken, {"node_port": 30443}, "node port", "has node port 30443 taken by the service shop/web"),
]


def seen(cluster: Cluster, namespace: str = "default") -> clusters.ClusterFacts:
    def of(plural: str, name: str = "") -> list[Object]:
        return [each for key, each in cluster.objects.items() if key[0] == plural and name in ("", key[2])]

    answers: dict[str, list[Object]] = {"version": [{"serverVersion": {"gitVersion": cluster.release}}]}
    answers |= {"classes": of("runtimeclasses"), "nodes": of("nodes"), "daemons": of("daemonsets"), "services": of("services")}
    return clusters.ClusterFacts(answers | {"namespaces": of("namespaces", namespace)})


@pytest.mark.parametrize(
    ("spoil", "container", "check", "text"), WRONG_CLUSTERS, ids=[f"{row[2]}-{row[3][:20]}" for row in WRONG_CLUSTERS]
)
def test_each_thing_that_a_cluster_lacks_is_reported(
    spoil: Callable[[Cluster], object], container: dict[str, Any], check: str, text: str
) -> None:
    cluster = Cluster()
    equip(cluster, BOOT)
    spoil(cluster)
    wanted = replace(CONFIDENTIAL, **container)
    findings = clusters.cluster_findings("edge", wanted, seen(cluster, wanted.namespace), False)
    assert text in one(findings, check).text
    assert {each.check for each in findings if each.state != "ok"} == {check}


def test_what_the_cluster_forbids_kubectl_to_see_is_unknown(kubectl: str, tmp_path: Path) -> None:
    cluster = Cluster()
    equip(cluster, BOOT)
    taken(cluster)
    cluster.forbidden = {("get", "nodes")}
    wanted = replace(CONFIDENTIAL, node_port=30443)
    with serving(cluster) as url, Here() as host:
        config = str(kubeconfig(tmp_path / "config", url))
        facts = clusters.facts_of_cluster(Containers(host, wanted, kubectl, kubeconfig=config))
    expected = {name: found for name, found in seen(cluster).answers.items() if name not in ("nodes", "version")}
    assert {name: facts.answers[name] for name in expected} == expected
    finding = one(clusters.cluster_findings("edge", wanted, facts, False), "nodes")
    assert finding.state == "unknown"
    assert 'User "someone" cannot get resource "nodes"' in finding.text


def test_a_user_without_the_right_to_look_may_launch() -> None:
    error = 'kubectl on edge: nodes is forbidden: User "someone" cannot list resource "nodes"; have that right granted'
    facts = clusters.ClusterFacts({}, {"classes": error, "nodes": error, "daemons": error})
    findings = clusters.cluster_findings("edge", CONFIDENTIAL, facts, False)
    assert {(each.state, each.blocks) for each in findings} == {("unknown", False)}
    assert len(findings) == 3


def test_a_cluster_that_is_gone_is_one_line(kubectl: str, tmp_path: Path) -> None:
    with serving(Cluster()) as url:
        path = kubeconfig(tmp_path / "gone", url)
    with Here() as host:
        facts = clusters.facts_of_cluster(Containers(host, CONFIDENTIAL, kubectl, kubeconfig=str(path)), short=True)
        (finding,) = clusters.cluster_findings("edge", CONFIDENTIAL, facts, False)
        assert "has no cluster that answers" in finding.text
        assert "is the cluster up" in finding.text
        facts = clusters.facts_of_cluster(Containers(host, CONFIDENTIAL, "no-such-kubectl"), short=True)
        (finding,) = clusters.cluster_findings("edge", CONFIDENTIAL, facts, False)
        assert "there is no 'no-such-kubectl' to run" in finding.text


# --- annotations -------------------------------------------------------------------------------------------------------------


def chart(value: str = "", name: str = "kata-as-coco-runtime") -> list[Object]:
    env = [{"name": "SHIMS_X86_64", "value": "qemu-snp"}, {"name": "ALLOWED_HYPERVISOR_ANNOTATIONS_X86_64", "value": value}]
    spec = {"template": {"spec": {"containers": [{"name": "kube-kata", "env": env}]}}}
    return [{"metadata": {"name": name, "namespace": "coco-system"}, "spec": spec}]


GPU_RUST = "qemu-nvidia-gpu-snp-runtime-rs"


@pytest.mark.parametrize(
    ("container", "daemons", "configured", "state", "words"),
    [
        (CONFIDENTIAL, chart(), {}, "ok", ""),
        (CONFIDENTIAL, [], {}, "unknown", "enable_annotations in /opt/kata/share/defaults/kata-containers/runtimes/qemu-snp"),
        (CONFIDENTIAL, chart(), {"qemu-snp": ["cc_init_data"]}, "wrong", "set kernel_params: the Go runtime refuses such pods"),
        (CONFIDENTIAL, chart(), {"qemu-snp": ["kernel_params"]}, "wrong", "no policy and no broker"),
        (CONFIDENTIAL, chart(), {"qemu-snp": []}, "wrong", "set cc_init_data and kernel_params"),
        (CONFIDENTIAL, chart(), {"qemu-snp": [".*"]}, "ok", ""),
        (CONFIDENTIAL, chart(), {"qemu-snp": ["(kernel_params"]}, "wrong", "cc_init_data and kernel_params"),
        (CLOUD, chart(), {}, "ok", ""),
        ("rust gpu", chart(), {}, "wrong", "the Rust runtime drops them without an error, then /aa/evidence answers nothing"),
        ("rust gpu", chart(f"other:kernel_params {GPU_RUST}:kernel_params,x"), {}, "ok", ""),
        (
            "rust gpu",
            chart("other:kernel_params"),
            {},
            "wrong",
            f"shims.{GPU_RUST}.allowedHypervisorAnnotations={{cc_init_data,",
        ),
        ("rust gpu", chart("kernel_params"), {}, "ok", ""),
    ],
)
def test_annotations_are_allowed_by_the_node_or_the_chart(
    container: Container | str, daemons: list[Object], configured: dict[str, Any], state: str, words: str
) -> None:
    made = replace(CLOUD, shim="rust") if isinstance(container, str) else container
    (finding,) = annotation_findings("edge", made, daemons, configured)
    assert finding.state == state
    assert words in finding.advice
    assert finding.blocks == (state == "wrong")


def test_the_mending_is_of_the_chart_that_is_installed() -> None:
    (finding,) = annotation_findings("edge", CONFIDENTIAL, chart(), {"qemu-snp": []})
    assert finding.mend == (
        "`helm upgrade coco oci://ghcr.io/confidential-containers/charts/confidential-containers --version VERSION "
        "--namespace coco-system --reuse-values "
        "--set 'kata-as-coco-runtime.shims.qemu-snp.allowedHypervisorAnnotations={cc_init_data,kernel_params}'`, "
        "with the VERSION that `helm list -A` shows"
    )
    (finding,) = annotation_findings("edge", CONFIDENTIAL, chart(name="kata-deploy"), {"qemu-snp": []})
    assert (
        "kata-deploy-charts/kata-deploy --version VERSION --namespace coco-system --reuse-values --set 'shims.qemu-snp."
        in finding.mend
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, ["enable_iommu", "kernel_params", "cc_init_data"]),
        ({f"{KATA}/runtimes/qemu-snp/config.d/50-user.toml": 'enable_annotations = ["x"]\n'}, ["x"]),
        (
            {f"{KATA}/runtimes/qemu-snp/config.d/10-debug.toml": "debug = true\n"},
            ["enable_iommu", "kernel_params", "cc_init_data"],
        ),
        ({"etc/kata-containers/configuration-qemu-snp.toml": "enable_annotations = []\n"}, []),
    ],
)
def test_the_node_s_allow_list_is_read_with_its_drop_ins(tmp_path: Path, files: dict[str, str], found: list[str]) -> None:
    lists = inventory(lay(tmp_path, SNP_HOST | files), tmp_path)["annotations"]
    assert lists == {"qemu-snp": found, "qemu-snp-runtime-rs": None}
    lay(tmp_path, {f"{KATA}/runtime-rs/runtimes/qemu-snp-runtime-rs/configuration-qemu-snp-runtime-rs.toml": CONFIG})
    assert inventory(tmp_path, tmp_path)["annotations"]["qemu-snp-runtime-rs"] == [
        "enable_iommu",
        "kernel_params",
        "cc_init_data",
    ]


def test_an_annotation_that_kata_refuses_names_the_charts_key() -> None:
    message = "failed to create shim task: annotation io.katacontainers.config.hypervisor.kernel_params is not enabled"
    event: Object = {"metadata": {}, "involvedObject": {"name": "a"}, "reason": "FailedCreatePodSandBox", "message": message}
    (trouble,) = warned([event], [Pod("a", False, False, "", "")])
    assert message in trouble.line
    assert "shims.<shim>.allowedHypervisorAnnotations" in trouble.line


# --- the ways ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "check", "state", "text"),
    [
        ({"reach": {"10.0.0.7:8444": "no answer within 5 s"}}, "cloud", "wrong", "does not reach the cloud at 10.0.0.7:8444"),
        ({"reach": {"10.0.0.7:8444": "refused"}}, "cloud", "ok", "but nothing listens yet"),
        ({"broker": {"error": "Connection refused"}}, "key broker", "wrong", "(Connection refused)"),
        ({"broker": {"status": 404}}, "key broker", "ok", "reaches the key broker"),
        ({"image": {"registry": "r", "error": "no answer"}}, "image", "wrong", "does not reach the registry r"),
        ({"image": {"registry": "r", "status": 401, "same": False}}, "image", "wrong", "without credentials (HTTP 401)"),
        ({"image": {"registry": "r", "status": 200, "same": False}}, "image", "wrong", "is given another image"),
        ({"image": {"registry": "r", "status": 503, "same": False}}, "image", "unknown", "HTTP 503"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:16],
)
def test_unreachable_services_are_reported(found: dict[str, Any], check: str, state: str, text: str) -> None:
    empty: dict[str, Any] = {"reach": {}, "broker": None, "image": None}
    finding = one(network.network_findings("edge", "edge", CONFIDENTIAL, empty | found), check)
    assert (finding.state, text in finding.text) == (state, True)


@pytest.mark.parametrize(
    ("image", "registry", "repository"),
    [
        ("registry.example:5000/a/b", "registry.example:5000", "a/b"),
        ("registry.example/a:1", "registry.example", "a"),
        ("localhost/a", "localhost", "a"),
        ("docker.io/library/python", "registry-1.docker.io", "library/python"),
        ("someone/python:3", "registry-1.docker.io", "someone/python"),
        ("python", "registry-1.docker.io", "library/python"),
    ],
)
def test_an_image_s_name_leads_to_its_registry(image: str, registry: str, repository: str) -> None:
    assert probe._registry(image) == (registry, repository)


def test_an_sshd_without_forwarding_is_reported(sshd: Callable[..., Ground]) -> None:
    ground = sshd("closed", AllowTcpForwarding="no")
    machine = ground["closed"]
    with ground.host("closed") as host:
        finding = network.forwarding_finding(host, f"127.0.0.1 1 127.0.0.1 {machine.port}")
    assert finding.state == "wrong"
    assert "AllowTcpForwarding yes" in finding.mend
    ground = sshd("half", AllowTcpForwarding="local")
    with ground.host("half") as host:
        states = [
            network.forwarding_finding(host, f"127.0.0.1 1 127.0.0.1 {ground['half'].port}", back).state
            for back in (False, True)
        ]
    assert states == ["ok", "wrong"]
