"""One contract for every machine, local and over SSH: commands, streams, files and ports, with real shells and a real sshd."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.sshd import LOOPBACK, Ground, command_of, free_port, numbers
from tests.support.waiting import until
from workbench.errors import RemoteError, StorageError, UsageError
from workbench.remote import Here, Host, SshHost, host_of
from workbench.ssh import relays
from workbench.ssh.remote_process import RemoteProcess
from workbench.ssh.uploads import TAKE, Item, _UploadBatch

Make = Callable[..., relays.Forward]


class Kind(NamedTuple):
    host: Host
    home: Path


@pytest.fixture(scope="module")
def edge(machines: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("first")))
        host = machines.host("edge")
    with host:
        yield host


@pytest.fixture(params=["here", "ssh"])
def kind(request: pytest.FixtureRequest, own_home: Path) -> Iterator[Kind]:
    if request.param == "here":
        with Here() as here:
            yield Kind(here, own_home)
    else:
        yield Kind(request.getfixturevalue("edge"), request.getfixturevalue("machines")["edge"].home)


@pytest.fixture
def host(kind: Kind) -> Host:
    return kind.host


@pytest.fixture
def mark() -> str:
    return f"4{os.getpid()}{time.monotonic_ns() % 10**6}"


def running(mark: str) -> list[int]:
    return [pid for pid in numbers() if command_of(pid).startswith(f"sleep {mark}")]


def await_end(mark: str) -> None:
    until(lambda: not running(mark), pause=0.05)


def test_a_command_gives_its_status_and_both_outputs(host: Host) -> None:
    result = host.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.status, result.out, result.err) == (3, b"out\n", b"err\n")


def test_arguments_arrive_as_they_are(host: Host) -> None:
    words = ["a b", "'", '"', "$HOME", "`id`", "*", "\\", "a\nb", "", "!", "ä€", "-n", "~"]
    assert host.run(["printf", r"%s\0", *words, "x"]).out.decode().split("\0") == [*words, "x", ""]


def test_a_command_starts_in_the_home_folder(kind: Kind) -> None:
    assert Path(kind.host.run(["pwd"]).out.decode().strip()).samefile(kind.home)


def test_the_status_tells_an_absent_program_and_a_signal(host: Host) -> None:
    result = host.run(["no-such-program", "x"])
    assert result.status == 127
    assert b"no-such-program" in result.err
    assert host.run(["sh", "-c", "kill -KILL $$"]).status == 128 + 9


def test_input_arrives_whole_and_ends(host: Host) -> None:
    data = os.urandom(3 << 20)
    assert host.run(["cat"], input=data).out == data
    assert host.run(["cat"]).out == b"", "without input it ends at once"


def test_output_beyond_any_buffer_blocks_nothing(host: Host) -> None:
    both = "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"
    result = host.run(["sh", "-c", both], input=b"x" * 300_000)
    assert (len(result.out), len(result.err)) == (3_000_000, 6_000_000)


def test_input_that_nobody_reads_does_not_keep_a_command(host: Host) -> None:
    assert host.run(["echo", "done"], input=b"x" * (4 << 20)).out == b"done\n"


def test_a_command_that_takes_too_long_is_killed_in_one_line(host: Host, mark: str) -> None:
    with pytest.raises(RemoteError, match=r"sh did not end within 0\.5 s and was ended"):
        host.run(["sh", "-c", f"trap '' TERM; sleep {mark}; sleep {mark}"], timeout=0.5)
    await_end(mark)


def test_one_that_closes_its_input_early_goes_on(host: Host) -> None:
    result = host.run(["sh", "-c", "exec <&-; sleep 0.3; echo on"], input=b"a line\n" * 200_000)
    assert (result.status, result.out) == (0, b"on\n")


def test_what_a_command_leaves_in_the_background_lives_on(host: Host, mark: str) -> None:
    host.run(["sh", "-c", f"nohup sleep {mark} >/dev/null 2>&1 </dev/null &"])
    until(lambda: running(mark), pause=0.05)  # the process may still be a shell
    host.run(["true"])
    (pid,) = running(mark)
    os.kill(pid, 9)


def test_output_without_bound_is_not_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.remote.MOST_OUTPUT", 1 << 20)
    with pytest.raises(RemoteError, match="said more than 1 MiB and was ended"):
        host.run(["cat", "/dev/zero"])


def test_lines_come_as_they_are_said(host: Host, kind: Kind) -> None:
    gate = kind.home / "gate"
    gate.unlink(missing_ok=True)
    script = "echo one; until [ -e gate ]; do sleep 0.05; done; echo; cat; printf two"
    lines = host.stream(["sh", "-c", script], input=b"a\nb\n")
    assert next(lines) == b"one"
    gate.touch()
    assert list(lines) == [b"", b"a", b"b", b"two"]


def test_who_closes_a_stream_ends_its_silent_command(host: Host, mark: str) -> None:
    lines = host.stream(["sh", "-c", f"echo up; sleep {mark}"])
    assert next(lines) == b"up"
    until(lambda: running(mark), pause=0.05)
    lines.close()  # type: ignore[attr-defined]
    await_end(mark)


def test_a_stream_of_a_command_that_fails_ends_in_its_last_words(host: Host) -> None:
    lines = host.stream(["sh", "-c", "echo one; echo first >&2; echo the reason >&2; exit 4"])
    assert next(lines) == b"one"
    with pytest.raises(RemoteError, match=r"sh failed with status 4: the reason$"):
        next(lines)


def test_a_stream_has_a_time_limit_where_it_is_given_one(host: Host, mark: str) -> None:
    lines = host.stream(["sh", "-c", f"echo up; sleep {mark}"], timeout=1.0)
    with pytest.raises(RemoteError, match="did not end within 1 s"):
        list(lines)
    await_end(mark)


def test_closing_a_machine_ends_what_is_at_work_there(kind: Kind, mark: str) -> None:
    lines = kind.host.stream(["sh", "-c", f"echo up; sleep {mark}"])
    assert next(lines) == b"up"
    kind.host.close()
    with pytest.raises(RemoteError, match="sh was ended, as the connection was closed"):
        next(lines)
    await_end(mark)


def test_many_commands_at_once_keep_apart(host: Host) -> None:
    with ThreadPoolExecutor(8) as pool:
        outputs = pool.map(lambda n: host.run(["echo", str(n)]).out, range(8))
    assert [int(each) for each in outputs] == list(range(8))


# Files


def test_files_arrive_under_their_digests_with_their_modes(kind: Kind, tmp_path: Path) -> None:
    weights, key = tmp_path / "weights", b"a key" + os.urandom(16)
    weights.write_bytes(os.urandom(300_001))
    (tmp_path / "empty").touch()
    paths = kind.host.put([weights, key, tmp_path / "empty", weights], "a folder/store")
    for path, content in zip(paths, [weights.read_bytes(), key, b"", weights.read_bytes()], strict=True):
        assert path == str(kind.home / "a folder/store" / hashlib.sha256(content).hexdigest())
        assert Path(path).read_bytes() == content
    assert [stat.S_IMODE(Path(path).stat().st_mode) for path in paths] == [0o644, 0o600, 0o644, 0o644]
    assert stat.S_IMODE((kind.home / "a folder/store").stat().st_mode) == 0o700
    assert len(list((kind.home / "a folder/store").iterdir())) == 3, "nothing else is left"


def test_only_what_is_absent_or_altered_is_sent(kind: Kind) -> None:
    assert kind.host.put([], "nowhere") == []
    assert not (kind.home / "nowhere").exists()
    files = [b"one", b"two"]
    same, altered = kind.host.put(files, "once")
    before = Path(same).stat().st_ino
    Path(altered).write_bytes(b"wrong")
    assert kind.host.put(files, "once") == [same, altered]
    assert Path(same).stat().st_ino == before
    assert Path(altered).read_bytes() == b"two"


@pytest.mark.parametrize("same", [True, False])
def test_a_part_is_continued_only_if_it_is_the_same(kind: Kind, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    block = 65536
    blocks_kept = {0: 0, 1000: 0, 200_000: 3, 400_000: 6} if same else {100: 0, 70_000: 0, 500_000: 0}
    expected: dict[str, int] = {}
    contents = [os.urandom(400_000) for _ in blocks_kept]
    (kind.home / "parts").mkdir(exist_ok=True)
    for data, (length, kept) in zip(contents, blocks_kept.items(), strict=True):
        path = kind.home / "parts" / hashlib.sha256(data).hexdigest()
        path.with_name(f"{path.name}.part").write_bytes(data[:length] if same else bytes(length))
        expected[str(path)] = len(data) - kept * block
    sent = _bytes_sent(monkeypatch)
    assert kind.host.put(contents, "parts") == list(expected)
    for data, path in zip(contents, expected, strict=True):
        assert Path(path).read_bytes() == data
        assert not Path(f"{path}.part").exists()
    assert sent == {Path(path).name: size for path, size in expected.items()}


def _bytes_sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    sent: dict[str, int] = {}
    write = _UploadBatch._write

    def counting(self: _UploadBatch, work: RemoteProcess, item: Item, *rest: Any) -> None:
        def count(data: bytes, write: Callable[[bytes], None] = work.write) -> None:
            sent[item.digest] = sent.get(item.digest, 0) + len(data)
            write(data)

        work.write = count  # type: ignore[method-assign]
        write(self, work, item, *rest)

    monkeypatch.setattr(_UploadBatch, "_write", counting)
    return sent


def test_two_who_send_the_same_at_once_do_not_spoil_each_other(kind: Kind, machines: Ground, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(os.urandom(2 << 20))
    others: list[Host] = [Here() if isinstance(kind.host, Here) else machines.host("edge") for _ in range(4)]

    def send(host: Host) -> list[str]:
        with host:
            return host.put([content], "rivals")

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(send, others))
    assert paths == [[str(kind.home / "rivals" / hashlib.sha256(content.read_bytes()).hexdigest())]] * 4
    (stored,) = (kind.home / "rivals").iterdir()
    assert stored.read_bytes() == content.read_bytes()


def test_a_rival_upload_during_a_check_does_not_replace_it(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    digest = hashlib.sha256(content).hexdigest()
    store, tools = tmp_path / "store", tmp_path / "tools"
    store.mkdir()
    tools.mkdir()
    slow = tools / "sha256sum"  # prints its result when the test allows it
    slow.write_text(
        f"#!/bin/sh\nfound=$({shutil.which('sha256sum')})\ntouch '{tools}/found'\n"
        f"while [ ! -e '{tools}/go' ]; do sleep 0.01; done\necho \"$found\"\n"
    )
    slow.chmod(0o755)
    command = ["sh", "-c", TAKE, "put", str(store), digest, "0", str(len(content)), "644", "", "mine"]
    paths = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=paths) as sender:
        assert sender.stdin is not None
        sender.stdin.write(content)
        sender.stdin.close()
        until(lambda: (tools / "found").exists())
        part, whole = store / f"{digest}.part", store / digest
        part.rename(whole)  # one sender has just finished, while another, which knew the part, continues after its end
        part.touch()
        (tools / "go").touch()
        assert sender.wait(30) == 0
    assert whole.read_bytes() == content
    assert [each.name for each in store.iterdir()] == [digest]


@pytest.mark.system
def test_many_small_files_that_two_send_at_once_arrive_each_time(tmp_path: Path, own_home: Path) -> None:
    def send(number: int) -> list[str]:
        with Here() as here:
            return here.put([b"%d %d" % (number, each) for each in range(6)], "small")

    with ThreadPoolExecutor(2) as pool:
        for number in range(25):
            first, second = pool.map(send, (number, number))
            assert first == second
            assert [Path(each).read_bytes() for each in first] == [b"%d %d" % (number, each) for each in range(6)]
    assert list((own_home / "small").glob("*.part")) == []


def test_bytes_that_became_others_on_the_way_are_removed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, data = Item.blocks, os.urandom(200_000)

    def flipped(self: Item, first: int = 0) -> Iterator[bytes]:
        for part in blocks(self, first):
            yield bytes([part[0] ^ 1]) + part[1:]

    monkeypatch.setattr(Item, "blocks", flipped)
    with pytest.raises(RemoteError, match=r"arrived as other bytes than those of its SHA-256 and was removed"):
        kind.host.put([data], "tampered")
    assert list((kind.home / "tampered").iterdir()) == []


def test_a_file_that_shrinks_while_it_is_sent_is_no_endless_task(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content"
    content.write_bytes(bytes(200_000))
    known = Item.of(content)
    content.write_bytes(bytes(100_000))
    monkeypatch.setattr(Item, "of", classmethod(lambda *_: known))
    with pytest.raises(RemoteError, match="again and again"):
        kind.host.put([content], "shrinks")


def test_a_folder_that_cannot_be_made_is_one_line(kind: Kind) -> None:
    (kind.home / "taken").touch()
    with pytest.raises(RemoteError, match=r"^[^\n]*taken[^\n]*$"):
        kind.host.put([b"x"], "taken/store")


def test_a_disk_that_is_full_is_one_line(kind: Kind, small_disk: Path) -> None:
    with pytest.raises(RemoteError, match=r"cannot take \w{12}\.\.\. in .*No space left on device.*: free space there"):
        kind.host.put([bytes(2 << 20)], str(small_disk))
    part = next(small_disk.glob("*.part"))
    part.unlink()
    assert kind.host.put([b"small"], str(small_disk)), "the connection is as good as before"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True, capture_output=True, timeout=10
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no small disk can be mounted here: that needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True, timeout=10)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with Here() as here, pytest.raises(UsageError, match=r"nothing cannot be read \(No such file"):
        here.put([tmp_path / "nothing"], "store")
    assert "secret" not in repr(Item.of(b"secret"))


def test_paths_are_the_homes_unless_they_are_whole(kind: Kind, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    assert kind.host.put([b"x"], "~/tilde") == [str(kind.home / "tilde" / digest)]
    assert kind.host.put([b"x"], str(tmp_path / "whole")) == [str(tmp_path / "whole" / digest)]
    with pytest.raises(RemoteError, match="another user's home"):
        kind.host.put([b"x"], "~nobody/x")


def test_a_file_is_fetched_whole_or_not_at_all(kind: Kind, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (kind.home / "-a file").write_bytes(data)
    kind.host.get("-a file", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == data
    with pytest.raises(RemoteError, match=r"cat failed with status 1: cat: .*no-file"):
        kind.host.get("~/no-file", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == data
    with pytest.raises(StorageError, match="cannot write"):
        kind.host.get("/etc/hostname", tmp_path / "fetched" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["fetched"]


# Ports


class Service:
    def __init__(self) -> None:
        self.listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self.listener.getsockname()[1])
        self.accepted = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                self.accepted += 1
                threading.Thread(target=self._answer, args=(near,), daemon=True).start()

    def _answer(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            data = b"".join(iter(lambda: near.recv(65536), b""))
            near.sendall(data.upper())

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


def shout(port: int, data: bytes) -> bytes:
    with socket.create_connection((LOOPBACK, port), timeout=30) as near:

        def send() -> None:
            with contextlib.suppress(OSError):  # the assertion below checks it
                near.sendall(data)
                near.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        answer = b"".join(iter(lambda: near.recv(65536), b""))
        sender.join(30)
        return answer


@pytest.fixture(params=["forward", "reverse"])
def make(request: pytest.FixtureRequest, host: Host) -> Make:
    if request.param == "forward":
        return host.forward
    return lambda port, **options: host.reverse((LOOPBACK, port), **options)


def test_a_port_leads_there_and_ends_one_way_at_a_time(make: Make, service: Service) -> None:
    data = os.urandom(3 << 20).lower()
    with make(service.port) as made:
        assert made.port != service.port
        assert shout(made.port, b"a") == b"A"
        assert shout(made.port, data) == data.upper()
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(lambda n: shout(made.port, b"%d" % n), range(12))) == [b"%d" % n for n in range(12)]
    with pytest.raises(ConnectionRefusedError):
        shout(made.port, b"a")


def test_closing_a_port_ends_what_goes_through_it(make: Make, service: Service) -> None:
    made = make(service.port)
    with socket.create_connection((LOOPBACK, made.port), timeout=30) as near:
        near.sendall(b"begun")
        until(lambda: service.accepted)
        made.close()
        made.close()
        with contextlib.suppress(ConnectionResetError):
            assert near.recv(10) == b""


def test_a_chosen_port_is_used_and_a_taken_one_is_one_line(make: Make, service: Service) -> None:
    wanted = free_port()
    with make(service.port, listen=wanted) as made:
        assert made.port == wanted
        assert shout(wanted, b"b") == b"B"
        with pytest.raises(RemoteError, match=rf"port {wanted}.* taken"):
            make(service.port, listen=wanted)
    with make(service.port, listen=wanted):
        assert shout(wanted, b"c") == b"C"


def test_where_nothing_answers_the_client_is_hung_up_on(make: Make) -> None:
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))  # reserves a port without listening
        with make(held.getsockname()[1]) as made, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            assert shout(made.port, b"x") == b""


def test_a_reader_that_is_slow_holds_its_writer_back(host: Host) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener, host.forward(listener.getsockname()[1]) as made:
        near = socket.create_connection((LOOPBACK, made.port), timeout=1.0)
        far, _ = listener.accept()
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 256 << 20:
                sent += near.send(bytes(1 << 20))
        assert sent < 64 << 20, "what nobody reads is not kept"
        near.close()
        far.close()


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_any_shell_with_posix_programs_and_python_suffices(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, own_home: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = ["cat", "chmod", "cut", "dd", "head", "ln", "mkdir", "mv", "python3", "rm", "sleep", "wc"]
    for name, program in [("sh", shell), *((each, each) for each in programs)]:
        found = shutil.which(program)
        if found is None:
            pytest.skip(f"there is no {program}")
        (folder / name).symlink_to(sys.executable if program == "python3" else found)
    monkeypatch.setenv("PATH", str(folder))
    with Here() as here:
        assert here.run(["cat"], input=b"in").out == b"in"
        lines = here.stream(["sh", "-c", f"echo up; sleep {mark}"])
        assert next(lines) == b"up"
        here.close()
        await_end(mark)
        data = os.urandom(200_000)
        part = own_home / "store" / f"{hashlib.sha256(data).hexdigest()}.part"
        part.parent.mkdir()
        part.write_bytes(data[:100_000])
        assert here.put([data], "store") == [str(part.with_suffix(""))]
        assert part.with_suffix("").read_bytes() == data


def test_a_command_ends_with_the_process_that_started_it(mark: str) -> None:
    script = f"from workbench.remote import Here\nfor line in Here().stream(['sh', '-c', 'echo up; sleep {mark}']): print(line, flush=True)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert b"up" in process.stdout.readline()
            until(lambda: running(mark), pause=0.05)  # the shell prints "up" before it starts the command
        finally:
            process.kill()
    await_end(mark)


def test_local_is_this_machine_and_other_names_go_over_ssh() -> None:
    assert isinstance(host_of("local"), Here)
    assert isinstance(host_of("gpu-box"), SshHost)
