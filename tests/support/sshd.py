"""Machines for tests: real OpenSSH servers on loopback, and a separate home folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from workbench.remote import SshHost

from . import netns
from .waiting import until

LOOPBACK = "127.0.0.1"


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate home folder, so that the developer's ~/.ssh and agent take no part."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("SSH_AUTH_SOCK", "SSH_AGENT_PID", "SSH_ASKPASS"):
        monkeypatch.delenv(name, raising=False)
    return home


def missing(variable: str, reason: str) -> None:
    """Skip with a reason, or fail if the environment variable forbids it."""
    if os.environ.get(variable):
        pytest.fail(f"{variable} is set, and {reason}")
    pytest.skip(reason)


def free_port() -> int:
    """Return a loopback port on which nothing listens."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def keygen(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """Make a key pair with OpenSSH's ssh-keygen."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path), "-C", path.name, "-a", "1"]
    subprocess.run([*command, *(["-b", "2048"] if kind == "rsa" else [])], check=True, capture_output=True, timeout=30)
    return path


def public(path: Path) -> str:
    """Return the public half of a key."""
    return Path(f"{path}.pub").read_text().strip()


@dataclass
class Machine:
    """A machine: an sshd with its own host key, home folder and processes."""

    name: str
    folder: Path
    key: Path  # the user's key
    port: int = 0
    address: str = LOOPBACK
    prefix: Sequence[str] = ()  # such as ip netns exec
    options: dict[str, str] = field(default_factory=dict)
    host_key: str = "ed25519"
    process: subprocess.Popen[bytes] | None = None
    network: netns.Network | None = None

    @property
    def home(self) -> Path:
        """The folder in which commands start."""
        return self.folder / "home"

    @property
    def known(self) -> str:
        """The machine's line of known_hosts."""
        where = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        return f"{where} {public(self.folder / 'host_key')}\n"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> Machine:
        """Start its sshd on the same port as before, and wait until it listens."""
        self.home.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "host_key").exists():
            keygen(self.folder / "host_key", kind=self.host_key)
        self.port = self.port or free_port()
        (self.folder / "authorized_keys").write_text(public(self.key) + "\n")
        config = self.folder / "sshd_config"
        config.write_text(self._config() + "PerSourcePenalties no\n")
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        if subprocess.run([sshd, "-t", "-f", str(config)], capture_output=True, timeout=30).returncode:
            config.write_text(self._config())  # before 9.8
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sshd, "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL
            )
        until(lambda: self.log.count("Server listening on") > self.log.count("=== stopped"))
        return self

    def _config(self) -> str:
        inside = f'export HOME={shlex.quote(str(self.home))}; cd; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
        options = {
            "ListenAddress": f"{self.address}:{self.port}",
            "HostKey": str(self.folder / "host_key"),
            "PidFile": str(self.folder / "pid"),
            "AuthorizedKeysFile": str(self.folder / "authorized_keys"),
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "MaxStartups": "100",
            "LogLevel": "VERBOSE",
            "Subsystem": "sftp internal-sftp",
            "SetEnv": f"HOME={self.home}",  # the login shell reads this folder's startup files
            "ForceCommand": inside,
            **self.options,
        }
        return "".join(f"{name} {value}\n" for name, value in options.items())

    def stop(self) -> None:
        """Stop its sshd and all of its connections."""
        if self.process is None:
            return
        pids = [*offspring(self.process.pid), self.process.pid]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self.process = None
        with (self.folder / "log").open("a") as log:
            log.write("=== stopped\n")

    def block(self, **options: str) -> str:
        """Return the machine's block of an SSH configuration."""
        given = {
            "HostName": self.address,
            "Port": str(self.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "ConnectTimeout": "5",
            **options,
        }
        return "".join([f"Host {self.name}\n", *(f"    {name} {value}\n" for name, value in given.items())])

    def processes(self, word: str) -> list[int]:
        """Return the processes below its sshd, and those left behind, whose command line contains `word`."""
        return [pid for pid in numbers() if word in command_of(pid) and pid != os.getpid()]


def numbers() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_of(pid: int) -> str:
    """Return the command line of a process, or "" after its end."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def parent(pid: int) -> int:
    """Return the parent of a process, or 0 after its end."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def offspring(pid: int) -> list[int]:
    """Return the sshd processes below a process."""
    children = [each for each in numbers() if parent(each) == pid and "sshd" in command_of(each)]
    return [found for child in children for found in (*offspring(child), child)]


@dataclass(frozen=True)
class Ground:
    """Machines, and a configuration for connecting to them."""

    folder: Path
    machines: dict[str, Machine]

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def config(self, known: str | None = None, more: str = "", **options: str) -> Path:
        """Write a configuration of all machines, and return its path. Their keys are known unless `known` is given."""
        folder = Path(os.environ["HOME"])
        hosts = folder / "known_hosts"
        hosts.write_text("".join(each.known for each in self.machines.values()) if known is None else known)
        files = f"UserKnownHostsFile {hosts}\nGlobalKnownHostsFile none\n"
        path = folder / "ssh_config"
        path.write_text(files + more + "".join(each.block(**options) for each in self.machines.values()))
        return path

    def host(self, name: str, **options: Any) -> SshHost:
        """Return one of the machines, over SSH."""
        return SshHost(name, config=self.config(), **options)


def need_sshd() -> None:
    """Skip without an OpenSSH server, or fail if one is required."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()) or not shutil.which("ssh-keygen"):
        missing("WORKBENCH_REQUIRE_SSHD", "there is no sshd: install Debian's openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Two machines, edge and cloud, each with a home folder of its own."""
    need_sshd()
    folder = tmp_path_factory.mktemp("machines")
    key = keygen(folder / "id_ed25519")
    ground = Ground(folder, {name: Machine(name, folder / name, key) for name in ("edge", "cloud")})
    try:
        for machine in ground.machines.values():
            machine.start()
        yield ground
    finally:
        for machine in ground.machines.values():
            machine.stop()


@pytest.fixture
def sshd(machines: Ground, tmp_path: Path) -> Iterator[Callable[..., Ground]]:
    """Makes machines for one test, which may restart or configure them. All end with the test."""
    made: list[Machine] = []

    def make(name: str = "own", host_key: str = "ed25519", **options: str) -> Ground:
        machine = Machine(name, tmp_path / name, machines["edge"].key, options=options, host_key=host_key)
        made.append(machine.start())
        return Ground(tmp_path, {name: machine})

    try:
        yield make
    finally:
        for machine in made:
            machine.stop()


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[Ground]:
    """Two machines, edge and cloud, in networks that can reach this one but not each other."""
    need_sshd()
    key = keygen(tmp_path / "id_ed25519")
    with netns.networks(("edge", "cloud")) as found:
        machines = {
            name: Machine(name, tmp_path / name, key, 22, network.address, network.inside, network=network)
            for name, network in found.items()
        }
        try:
            for machine in machines.values():
                machine.start()
            yield Ground(tmp_path, machines)
        finally:
            for machine in machines.values():
                machine.stop()
