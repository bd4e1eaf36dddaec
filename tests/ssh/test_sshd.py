"""SSH with a real OpenSSH server: host keys, user keys, the error line of a refusal, and broken networks."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import io
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ssh_faults import Link, serving, silent
from tests.support.sshd import LOOPBACK, Ground, command_of, free_port, keygen, offspring, public
from tests.support.waiting import until
from workbench.errors import RemoteError
from workbench.remote import Host, LostError, SshHost
from workbench.ssh.addresses import Address, route
from workbench.ssh.host_keys import check_host_key
from workbench.ssh.remote_process import ChannelProcess
from workbench.ssh.uploads import Item

Make = Callable[..., Ground]
KEY = paramiko.ECDSAKey.generate()
KINDS = ("ed25519", "rsa", "ecdsa")


def refused(host: Host, message: str) -> str:
    with host, pytest.raises(RemoteError, match=message) as caught:
        host.run(["true"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one(config: Path, name: str = "edge", **options: object) -> SshHost:
    return SshHost(name, config=config, **options)  # type: ignore[arg-type]


# Host keys


def test_an_unknown_host_key_is_refused_with_its_fingerprint(machines: Ground, own_home: Path) -> None:
    edge = machines["edge"]
    said = refused(one(machines.config(known="")), "is unknown")
    shown = subprocess.run(["ssh-keygen", "-lf", str(edge.folder / "host_key.pub")], check=True, capture_output=True, text=True)
    assert shown.stdout.split()[1] in said
    command = said.rpartition("accept it by `")[2].rstrip("`")
    assert command == f"ssh-keyscan -p {edge.port} -t ed25519 {LOOPBACK} >> {own_home / 'known_hosts'}"
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=30)
    with one(own_home / "ssh_config") as host:
        assert host.run(["echo", "accepted"]).out == b"accepted\n"


def test_a_changed_host_key_is_refused_with_its_line(machines: Ground, own_home: Path) -> None:
    edge, cloud = machines["edge"], machines["cloud"]
    other = edge.known.split()[0] + " " + public(cloud.folder / "host_key")
    config = machines.config(known=f"# a comment\n{other}\n")
    said = refused(one(config), "has changed")
    assert f"{own_home / 'known_hosts'}:2 says another" in said
    command = said.rpartition("what is known by `")[2].rstrip("`")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=30)
    refused(one(config), "is unknown")


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_of_keys_are_known_too(sshd: Make, kind: str, tmp_path: Path) -> None:
    ground = sshd(host_key=kind)
    with ground.host("own") as host:
        assert host.run(["echo", "x"]).out == b"x\n"


def test_an_unknown_alias_is_accepted_by_ssh_itself(machines: Ground, own_home: Path) -> None:
    said = refused(one(machines.config(known="", HostKeyAlias="the-edge")), "is unknown")
    assert f"accept it by `ssh -F {own_home / 'ssh_config'} edge`" in said, "a scan would note another name"


@pytest.fixture(scope="module")
def loopback() -> Address:
    return route(f"{LOOPBACK}:22", None)[0]


@given(
    text=st.text(st.characters(codec="utf-8"), max_size=200)
    | st.from_regex(r"(\|1\|[a-zA-Z0-9=|]{0,9}|\[?\*\]?:2,!a) ssh-rsa [A-Za-z0-9=]{0,9}")
)
def test_no_line_of_known_hosts_is_more_than_ignored(
    text: str, loopback: Address, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any_known_hosts"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RemoteError, match="is unknown|has changed"):
        check_host_key(replace(loopback, known_files=(file,)), KEY)


# User keys


def test_a_key_that_is_refused_is_one_line(machines: Ground, tmp_path: Path, own_home: Path) -> None:
    other, user = keygen(tmp_path / "other"), getpass.getuser()
    for options, message in (
        ({"User": "nobody-of-that-name"}, r"does not let nobody-of-that-name in with .*id_ed25519: is the user"),
        (
            {"IdentityFile": str(other)},
            rf"does not let .* with {other}: is the user right \(User\), and the public key in ~{user}/.ssh/authorized_keys there\?",
        ),
        ({"IdentityFile": str(own_home / "none")}, "there is no key to show: make one by `ssh-keygen`"),
    ):
        refused(one(machines.config(**options)), message)


def test_a_server_that_takes_no_keys_is_one_line(sshd: Make) -> None:
    ground = sshd(PubkeyAuthentication="no", PasswordAuthentication="yes")
    refused(one(ground.config(), "own"), r"lets nobody in by a key \(but by .*password")


@pytest.fixture(scope="module")
def sealed(machines: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder, authorized = tmp_path_factory.mktemp("sealed"), machines["edge"].folder / "authorized_keys"
    before, keys = authorized.read_text(), {kind: keygen(folder / kind, "open sesame", kind) for kind in KINDS}
    authorized.write_text("".join([before, *(f"{public(key)}\n" for key in keys.values())]))
    form, private = serialization, serialization.load_ssh_private_key(machines["edge"].key.read_bytes(), None)
    seal, keys["pkcs8"] = form.BestAvailableEncryption(b"open sesame"), folder / "pkcs8"
    keys["pkcs8"].touch(0o600)
    keys["pkcs8"].write_bytes(private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, seal))
    yield keys
    authorized.write_text(before)


@pytest.mark.parametrize("kind", [*KINDS, "pkcs8"])
def test_an_encrypted_key_is_asked_for_once(kind: str, sealed: dict[str, Path], machines: Ground) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "wrong" if len(asked) == 1 else "open sesame"

    with one(machines.config(IdentityFile=str(sealed[kind])), ask=ask) as host:
        assert host.run(["true"]).status == 0
        assert [str(sealed[kind]) in prompt for prompt in asked] == [True, True]
        host.close()
        assert host.run(["true"]).status == 0
    assert len(asked) == 2, "the next connection asks for nothing"
    assert "sesame" not in repr(vars(host)), "and nothing shows it"


def test_a_key_that_stays_encrypted_is_one_line(
    sealed: dict[str, Path], machines: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = sealed["ed25519"]
    config, asked = machines.config(IdentityFile=str(key)), list[str]()
    said = refused(one(config, ask=lambda prompt: asked.append(prompt) or "a wrong one"), "3 passphrases did not open the key")
    assert len(asked) == 3
    assert str(key) in said
    assert "a wrong one" not in said
    monkeypatch.setattr("sys.stdin", io.StringIO("open sesame\n"))
    refused(one(config), rf"the key {key} is encrypted .*: `ssh-add {key}` first")


def test_a_banner_is_passed_over(sshd: Make, tmp_path: Path) -> None:
    (tmp_path / "banner").write_text("Only for \x1b[1mmembers\x1b[0m.\n" * 100)
    ground = sshd(Banner=str(tmp_path / "banner"))
    with ground.host("own") as host:
        assert (host.run(["echo", "x"]).out, host.run(["true"]).err) == (b"x\n", b"")


# Addresses


def test_the_configuration_is_followed(machines: Ground, own_home: Path) -> None:
    edge = machines["edge"]
    config = machines.config()
    by_name = SshHost(f"{getpass.getuser()}@{LOOPBACK}:{edge.port}", config=config)
    refused(by_name, "there is no key to show")
    (own_home / ".ssh").mkdir()
    (own_home / ".ssh" / "extra").write_text(f"Host 127.*\n IdentityFile {edge.key}\n")
    config.write_text(f"Include extra\n{config.read_text()}")
    with by_name:
        assert by_name.run(["true"]).status == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Host x\n  Port many\n", "cannot be followed for x .*many"),
        ("Host x\n  ConnectTimeout 0\n", "ConnectTimeout 0 cannot be"),
        ("Host x\n  ProxyCommand nc %h %p\n", "ProxyCommand is not followed: write ProxyJump"),
        ("Host x\n  ProxyJump x\n", "does it lead back to itself"),
        ("Include ~/ssh_config\n", "does it lead back to itself"),
        ("nonsense\n", "cannot be read .*nonsense"),
        (None, "cannot be read .*No such file"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(text: str | None, message: str, own_home: Path) -> None:
    path = own_home / "ssh_config"
    if text is not None:
        path.write_text(text)
    assert str(path) in refused(SshHost("x", config=path), message) or text == "Host x\n  ProxyJump x\n"


INVALID = ("", "a b", "user@", "host:port", "host:99999999", "-oProxyCommand=x y")
NAMES = dict.fromkeys(INVALID, "names no machine: give user@host:port")
NAMES["no-such-machine.invalid"] = "the name no-such-machine.invalid does not resolve"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_nowhere_is_one_line(name: str) -> None:
    refused(SshHost(name), NAMES[name])


@pytest.fixture
def full_port() -> Iterator[int]:
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        for near in (first, second):  # these fill the queue, so further connections are dropped like at a firewall
            near.setblocking(False)
            near.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_port_that_refuses_or_does_not_answer_is_one_line(full_port: int, own_home: Path) -> None:
    (own_home / "c").write_text("ConnectTimeout 1\n")
    began = time.monotonic()
    for port, message in ((free_port(), "refuses connections: does sshd run there"), (full_port, "did not answer within 1 s")):
        refused(SshHost(f"{LOOPBACK}:{port}", config=own_home / "c"), f"{LOOPBACK} port {port} {message}")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("says", [b"", b"SSH-2.0-silent\r\n", b"220 mail ESMTP\r\n" * 3, b"SSH-1.5-\x1b[31mold\x07\r\n"])
def test_what_does_not_greet_is_given_up_within_its_time(says: bytes, own_home: Path) -> None:
    (own_home / "c").write_text("ConnectTimeout 1\n")
    with silent(says) as port:
        began = time.monotonic()
        said = refused(SshHost(f"{LOOPBACK}:{port}", config=own_home / "c"), "did not greet as an SSH server within 1 s")
        assert said.isprintable(), "nor does it write to the terminal"
        assert time.monotonic() - began < 10


# Hops


def test_several_hops_are_gone_and_one_that_fails_is_named(sshd: Make, machines: Ground, own_home: Path) -> None:
    ground = Ground(machines.folder, {**machines.machines, **sshd().machines})
    config = ground.config(more="Host own\n ProxyJump edge,cloud\n")
    with one(config, "own") as host:
        assert Path(host.run(["pwd"]).out.decode().strip()).samefile(ground["own"].home)
        assert host.put([b"x"], "hop") == [str(ground["own"].home / "hop" / hashlib.sha256(b"x").hexdigest())]
    assert len(ground["own"].log.split("Accepted publickey")) == 2
    (own_home / "known_hosts").write_text(ground["edge"].known + ground["own"].known)
    refused(one(config, "own"), r"own: its ProxyJump fails: cloud: the host key of .* is unknown")
    ground.config(more="Host own\n ProxyJump edge,cloud\n")
    port = free_port()
    config.write_text(config.read_text().replace(f"Port {ground['own'].port}", f"Port {port}"))
    refused(one(config, "own"), rf"cloud does not reach {LOOPBACK} port {port} from there")


# What sshd forbids


def test_forwarding_that_is_forbidden_is_one_line(sshd: Make) -> None:
    ground = sshd(AllowTcpForwarding="no")
    with ground.host("own") as host:
        with pytest.raises(RemoteError, match=r"own does not listen on its port 0: .*AllowTcpForwarding"):
            host.reverse((LOOPBACK, 1))
        assert host.run(["true"]).status == 0


def test_more_sessions_than_sshd_gives_are_one_line(sshd: Make) -> None:
    ground = sshd(MaxSessions="1")
    with ground.host("own") as host:
        lines = host.stream(["sh", "-c", "echo up; sleep 60"])
        assert next(lines) == b"up"
        with pytest.raises(RemoteError, match="own refuses another session: raise MaxSessions"):
            host.run(["true"])
        assert not ground["own"].log.count("Accepted publickey") > 1, "and the connection is kept"
        lines.close()
        assert [host.run(["true"]).status for _ in range(8)] == [0] * 8, "a session that has ended makes room for the next"


def test_a_user_who_may_run_nothing_is_one_line_and_not_a_hang(sshd: Make) -> None:
    ground = sshd(ForceCommand="/bin/false")
    with ground.host("own") as host:
        assert host.run(["true"]).status == 1
        with pytest.raises(RemoteError, match="sh failed with status 1: it says nothing of why"):
            host.put([b"x"], "store")


# A connection that breaks


def test_a_call_after_a_restart_of_sshd_restores_its_ports(sshd: Make) -> None:
    ground = sshd()
    own = ground["own"]
    with ground.host("own") as host, host.forward(own.port) as there, host.reverse((LOOPBACK, own.port)) as back:
        assert host.run(["echo", "one"]).out == b"one\n"
        own.stop()
        own.start()
        assert host.run(["echo", "two"]).out == b"two\n"
        for port in (there.port, back.port):
            with socket.create_connection((LOOPBACK, port), 10) as near:
                assert near.recv(4) == b"SSH-"


def test_a_command_or_stream_under_way_is_not_repeated(sshd: Make) -> None:
    ground = sshd()
    count = ground["own"].home / "count"
    with ground.host("own") as host, ThreadPoolExecutor(1) as pool:
        lines = host.stream(["sh", "-c", "echo up; sleep 60"])
        assert next(lines) == b"up"
        running = pool.submit(host.run, ["sh", "-c", "echo once >> count; sleep 60"])
        until(count.exists)
        ground["own"].stop()
        for wait in (lambda: running.result(30), lambda: next(lines)):
            with pytest.raises(LostError, match="^own: the connection was lost while sh was at work; it may have gone on$"):
                wait()
        ground["own"].start()
        assert host.run(["cat", "count"]).out == b"once\n"


def test_a_machine_that_is_frozen_is_given_up_by_its_silence(sshd: Make) -> None:
    ground = sshd()
    with ground.host("own", keepalive=1.5) as host:
        lines = host.stream(["sh", "-c", "echo up; sleep 60"])
        assert next(lines) == b"up"
        session = next(_sessions(ground))
        os.kill(session, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(LostError):
                next(lines)
            assert time.monotonic() - began < 10
        finally:
            os.kill(session, signal.SIGCONT)


def test_a_machine_that_is_merely_quiet_is_not_given_up(sshd: Make) -> None:
    ground = sshd()
    with ground.host("own", keepalive=0.6) as host:
        assert host.run(["sh", "-c", "sleep 2; echo late"]).out == b"late\n"
        assert ground["own"].log.count("Accepted publickey") == 1


def _sessions(ground: Ground) -> Iterator[int]:
    process = ground["own"].process
    assert process is not None
    yield from (pid for pid in offspring(process.pid) if "notty" in command_of(pid) or "@" in command_of(pid))


def test_an_upload_whose_server_restarts_is_gone_on_with(sshd: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = sshd()
    content = tmp_path / "content"
    content.write_bytes(os.urandom(3 << 20))
    part = ground["own"].home / "store" / f"{hashlib.sha256(content.read_bytes()).hexdigest()}.part"
    restarted, blocks = threading.Event(), Item.blocks

    def halting(self: Item, first: int = 0) -> Iterator[bytes]:
        for number, block in enumerate(blocks(self, first), first):
            if number == 24:
                assert restarted.wait(60)
            yield block

    monkeypatch.setattr(Item, "blocks", halting)
    with ground.host("own") as host, ThreadPoolExecutor(1) as pool:
        upload = pool.submit(host.put, [content], "store")
        until(lambda: part.exists() and part.stat().st_size > 1 << 20)
        ground["own"].stop()
        ground["own"].start()
        restarted.set()
        assert upload.result(60) == [str(part.with_suffix(""))]
    assert part.with_suffix("").read_bytes() == content.read_bytes()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_connection_alone(machines: Ground) -> None:
    with machines.host("edge") as host:
        assert host.run(["true"]).status == 0
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = 0 if host.run(["echo", "child"]).out == b"child\n" else 2
                host.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert host.run(["echo", "parent"]).out == b"parent\n"


# Faults that OpenSSH does not show


Faulty = Callable[..., contextlib.AbstractContextManager[tuple[Link, SshHost]]]


@pytest.fixture
def faulty(machines: Ground, tmp_path: Path, own_home: Path) -> Faulty:
    key, known = machines["edge"].key, own_home / "known_hosts"

    @contextlib.contextmanager
    def make(**faults: Any) -> Iterator[tuple[Link, SshHost]]:
        with serving(key, tmp_path, **faults) as link:
            known.write_text(f"[{LOOPBACK}]:{link.port} {public(key)}\n")
            path = own_home / "ssh_config"
            path.write_text(f"UserKnownHostsFile {known}\nIdentityFile {key}\nIdentitiesOnly yes\nConnectTimeout 5\n")
            with SshHost(f"{LOOPBACK}:{link.port}", config=path) as host:
                yield link, host

    return make


def test_a_server_without_sftp_and_spare_sessions_suffices(tmp_path: Path, faulty: Faulty) -> None:
    with faulty() as (_, host):
        assert host.run(["cat"], input=b"in").out == b"in"
        (path,) = host.put([b"x" * 100_000], "store")
        assert Path(path).read_bytes() == b"x" * 100_000
        host.get(path, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"x" * 100_000


def test_a_server_that_runs_a_command_silently_times_out(faulty: Faulty) -> None:
    with faulty(stalls=True) as (_, host), pytest.raises(RemoteError, match=r"true did not end within 0\.5 s"):
        host.run(["true"], timeout=0.5)


def test_an_upload_that_is_cut_again_and_again_arrives(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts, written, write = [3, 30], [0], ChannelProcess.write

    def cutting(self: ChannelProcess, data: bytes) -> None:
        written[0] += 1
        if cuts and written[0] > cuts[0]:
            cuts.pop(0)
            link.cut()
        write(self, data)

    monkeypatch.setattr(ChannelProcess, "write", cutting)
    data = os.urandom(3 << 20)
    with faulty() as (link, host):
        (path,) = host.put([data], "store")
    assert not cuts
    assert Path(path).read_bytes() == data


@pytest.mark.parametrize("between", [False, True])
def test_ctrl_c_ends_an_upload_that_nobody_takes(between: bool, faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C arrives while the uploads wait or, with `between`, before the second one starts."""
    stuck, gate = threading.Event(), threading.Event()
    submit = ThreadPoolExecutor.submit

    def spoil(data: bytes) -> bytes:
        if len(data) > 1000:
            stuck.set()
            gate.wait(60)
        return data

    def interrupted(pool: ThreadPoolExecutor, *arguments: Any) -> Any:
        if stuck.is_set():
            raise KeyboardInterrupt
        future = submit(pool, *arguments)
        assert stuck.wait(30)
        return future

    def interrupt() -> None:
        assert stuck.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    if between:
        monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    else:
        thread = threading.Thread(target=interrupt)
        thread.start()
    with faulty(spoil=spoil) as (_, host):
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            host.put([os.urandom(4 << 20), os.urandom(4 << 20)], "store")
        assert time.monotonic() - began < 30
        gate.set()
    if not between:
        thread.join(10)


def test_a_remote_port_that_is_silent_leaves_the_connection(
    machines: Ground, full_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.ssh.connections.CHANNEL_S", 0.5)
    with machines.host("edge") as host, host.forward(full_port) as made:
        assert host.run(["true"]).status == 0
        connection = host._open
        with socket.create_connection((LOOPBACK, made.port), 10) as client, pytest.raises(ConnectionResetError):
            client.recv(1)
        assert host.run(["true"]).status == 0
        assert host._open is connection


# Separate networks


def test_machines_in_separate_networks_do_not_reach_each_other(namespaces: Ground) -> None:
    edge, cloud = namespaces["edge"], namespaces["cloud"]
    reach = "import socket, sys; socket.create_connection((sys.argv[1], 22), 2)"
    with namespaces.host("edge") as here, namespaces.host("cloud") as there:
        assert Path(here.run(["pwd"]).out.decode().strip()).samefile(edge.home)
        assert Path(there.run(["pwd"]).out.decode().strip()).samefile(cloud.home)
        assert here.run(["python3", "-c", reach, edge.address]).status == 0
        assert here.run(["python3", "-c", reach, cloud.address]).status == 1
        assert there.run(["python3", "-c", reach, edge.address]).status == 1
        with there.forward(22, cloud.address) as near, here.reverse((LOOPBACK, near.port)) as far:
            script = f"import socket; print(socket.create_connection(('{LOOPBACK}', {far.port}), 5).recv(4))"
            assert here.run(["python3", "-c", script]).out == b"b'SSH-'\n", "through this machine they do"
    assert edge.network is not None
    edge.network.cut()
    began = time.monotonic()
    said = refused(one(namespaces.config(ConnectTimeout="1")), "edge: ")
    assert "did not answer within 1 s" in said or "cannot be reached" in said
    assert time.monotonic() - began < 10


@pytest.mark.system
def test_an_upload_over_a_returning_network_sends_the_rest(namespaces: Ground, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(os.urandom(12 << 20))
    size, digest = content.stat().st_size, hashlib.sha256(content.read_bytes()).hexdigest()
    part = namespaces["edge"].home / "store" / f"{digest}.part"
    link = namespaces["edge"].network
    assert link is not None
    link.slow(40_000_000)
    with namespaces.host("edge", keepalive=1.5) as host, ThreadPoolExecutor(1) as pool:
        assert host.run(["true"]).status == 0
        transport = host._open.transport  # type: ignore[union-attr]
        before = link.sent
        upload = pool.submit(host.put, [content], "store")
        until(lambda: part.exists() and part.stat().st_size > 5 << 20)
        link.cut()
        until(lambda: not transport.is_active())
        link.mend()
        assert upload.result(60) == [str(part.with_suffix(""))]
        assert part.with_suffix("").read_bytes() == content.read_bytes()
        assert size <= link.sent - before < size + (5 << 20), "what had arrived is not sent again"
