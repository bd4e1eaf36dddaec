"""One contract for every machine, local and over SSH: commands, streams, files and ports, with real shells and a real sshd."""

from __future__ import annotations

import concurrent.futures
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
from pathlib import Path

import pytest

from tests.support.sshd import LOOPBACK, Ground, command_of, free_port, numbers
from tests.support.waiting import until
from workbench.errors import RemoteError, StorageError, UsageError
from workbench.remote import Here, Host, SshHost, host_of
from workbench.ssh import relays
from workbench.ssh.uploads import TAKE


class Kind:
    """A machine under test, and its home folder as seen from this process."""

    def __init__(self, host: Host, home: Path) -> None:
        self.host, self.home = host, home


@pytest.fixture(scope="module")
def edge(machines: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    """A machine over SSH, on one connection for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("first")))
        host = machines.host("edge")
    with host:
        yield host


@pytest.fixture(params=["here", "ssh"])
def kind(request: pytest.FixtureRequest, own_home: Path) -> Iterator[Kind]:
    """This machine, and one over SSH."""
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
    """A unique word in the command line of a test's processes."""
    return f"4{os.getpid()}{time.monotonic_ns() % 10**6}"


def running(mark: str) -> list[int]:
    """Return the sleeping processes with that word, without the shells that started them."""
    return [pid for pid in numbers() if command_of(pid).startswith(f"sleep {mark}")]


def test_a_command_gives_its_status_and_both_outputs(host: Host) -> None:
    result = host.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.status, result.out, result.err) == (3, b"out\n", b"err\n")


@pytest.mark.parametrize("word", ["a b", "'", '"', "$HOME", "`id`", "*", "\\", "a\nb", "", "!", "ä€", "-n", "~"])
def test_arguments_arrive_as_they_are(host: Host, word: str) -> None:
    assert host.run(["printf", "%s.", word, "x"]).out.decode() == f"{word}.x."


def test_a_command_starts_in_the_home_folder(kind: Kind) -> None:
    assert Path(kind.host.run(["pwd"]).out.decode().strip()).samefile(kind.home)


def test_a_command_that_is_not_there_says_so(host: Host) -> None:
    result = host.run(["no-such-program", "x"])
    assert result.status == 127
    assert b"no-such-program" in result.err


def test_a_command_that_a_signal_ended_tells_which(host: Host) -> None:
    assert host.run(["sh", "-c", "kill -KILL $$"]).status == 128 + 9


def test_input_arrives_whole_and_ends(host: Host) -> None:
    data = os.urandom(3 << 20)
    result = host.run(["cat"], input=data)
    assert hashlib.sha256(result.out).digest() == hashlib.sha256(data).digest()
    assert host.run(["cat"]).out == b"", "without input it ends at once"


def test_output_beyond_any_buffer_blocks_nothing(host: Host) -> None:
    both = "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"
    result = host.run(["sh", "-c", both], input=b"x" * 300_000)
    assert (len(result.out), len(result.err)) == (3_000_000, 6_000_000)


def test_input_that_nobody_reads_does_not_keep_a_command(host: Host) -> None:
    assert host.run(["echo", "done"], input=b"x" * (4 << 20)).out == b"done\n"


def test_a_command_that_takes_too_long_is_ended_in_one_line(host: Host, mark: str) -> None:
    with pytest.raises(RemoteError, match=r"sleep did not end within 0\.5 s and was ended"):
        host.run(["sleep", mark], timeout=0.5)
    until(lambda: not running(mark))


def test_one_that_will_not_end_is_killed(host: Host, mark: str) -> None:
    with pytest.raises(RemoteError, match="did not end within"):
        host.run(["sh", "-c", f"trap '' TERM; sleep {mark}; sleep {mark}"], timeout=0.5)
    until(lambda: not running(mark))


def test_one_that_closes_its_input_early_goes_on(host: Host) -> None:
    result = host.run(["sh", "-c", "exec <&-; sleep 0.3; echo on"], input=b"a line\n" * 200_000)
    assert (result.status, result.out) == (0, b"on\n")


def test_what_a_command_leaves_in_the_background_lives_on(host: Host, mark: str) -> None:
    host.run(["sh", "-c", f"nohup sleep {mark} >/dev/null 2>&1 </dev/null &"])
    until(lambda: running(mark))  # the process may still be a shell
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
    lines = host.stream(["sh", "-c", "echo one; until [ -e gate ]; do sleep 0.02; done; echo; printf two"])
    assert next(lines) == b"one"
    gate.touch()
    assert list(lines) == [b"", b"two"]


def test_a_stream_takes_input(host: Host) -> None:
    assert list(host.stream(["sed", "s/^/> /"], input=b"a\nb\n")) == [b"> a", b"> b"]


def test_who_closes_a_stream_ends_its_silent_command(host: Host, mark: str) -> None:
    lines = host.stream(["sh", "-c", f"echo up; sleep {mark}"])
    assert next(lines) == b"up"
    until(lambda: running(mark))
    lines.close()  # type: ignore[attr-defined]
    until(lambda: not running(mark))


def test_a_stream_of_a_command_that_fails_ends_in_its_last_words(host: Host) -> None:
    lines = host.stream(["sh", "-c", "echo one; echo first >&2; echo the reason >&2; exit 4"])
    assert next(lines) == b"one"
    with pytest.raises(RemoteError, match=r"sh failed with status 4: the reason$"):
        next(lines)


def test_a_stream_has_a_time_limit_where_it_is_given_one(host: Host, mark: str) -> None:
    lines = host.stream(["sh", "-c", f"echo up; sleep {mark}"], timeout=1.0)
    with pytest.raises(RemoteError, match="did not end within 1 s"):
        list(lines)
    until(lambda: not running(mark))


def test_closing_a_machine_ends_what_is_at_work_there(kind: Kind, mark: str) -> None:
    lines = kind.host.stream(["sh", "-c", f"echo up; sleep {mark}"])
    assert next(lines) == b"up"
    kind.host.close()
    with pytest.raises(RemoteError, match="sh was ended, as the connection was closed"):
        next(lines)
    until(lambda: not running(mark))


def test_many_commands_at_once_keep_apart(host: Host) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda n=n: found.append(host.run(["echo", str(n)]).out)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(int(each) for each in found) == list(range(8))


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


def test_nothing_is_sent_where_there_is_nothing_to_send(host: Host, kind: Kind) -> None:
    assert host.put([], "nowhere") == []
    assert not (kind.home / "nowhere").exists()


def test_what_is_there_is_not_sent_again(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [b"one", b"two"]
    first = kind.host.put(files, "once")
    before = {path: Path(path).stat().st_ino for path in first}
    with monkeypatch.context() as patch:
        patch.setattr("workbench.ssh.uploads._UploadBatch._attempt", lambda *_: pytest.fail("it was sent again"))
        assert kind.host.put(files, "once") == first
    assert {path: Path(path).stat().st_ino for path in first} == before


def test_what_became_something_else_over_there_is_sent_again(kind: Kind) -> None:
    (path,) = kind.host.put([b"right"], "again")
    Path(path).write_bytes(b"wrong")
    assert kind.host.put([b"right"], "again") == [path]
    assert Path(path).read_bytes() == b"right"


@pytest.mark.parametrize(
    ("kept", "sent"), [(0, 400_000), (1000, 400_000), (200_000, 400_000 - 3 * 65536), (400_000, 400_000 - 6 * 65536)]
)
def test_a_part_is_gone_on_with(kind: Kind, kept: int, sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(400_000)
    path = _part(kind, data, data[:kept])
    counted = _counting(monkeypatch)
    assert kind.host.put([data], "parts") == [str(path)]
    assert path.read_bytes() == data
    assert sum(counted) == sent
    assert not path.with_name(f"{path.name}.part").exists()


@pytest.mark.parametrize("length", [100, 70_000, 500_000])
def test_a_part_of_something_else_is_not(kind: Kind, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(400_000)
    path = _part(kind, data, bytes(length))
    counted = _counting(monkeypatch)
    kind.host.put([data], "parts")
    assert path.read_bytes() == data
    assert sum(counted) == len(data)


def _part(kind: Kind, data: bytes, there: bytes) -> Path:
    path = kind.home / "parts" / hashlib.sha256(data).hexdigest()
    path.parent.mkdir(exist_ok=True)
    path.with_name(f"{path.name}.part").write_bytes(there)
    return path


def _counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the bytes that are written to the remote shell."""
    from workbench.ssh.remote_process import ChannelProcess, LocalProcess

    counted: list[int] = []
    for each in (ChannelProcess, LocalProcess):
        write = each.write

        def counting(self: object, data: bytes, write: Callable[..., None] = write) -> None:
            if len(data) > 65:  # not the list of digests
                counted.append(len(data))
            write(self, data)

        monkeypatch.setattr(each, "write", counting)
    return counted


def test_two_who_send_the_same_at_once_do_not_spoil_each_other(kind: Kind, machines: Ground, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(os.urandom(6 << 20))
    failed: list[BaseException] = []
    others: list[Host] = [Here() if isinstance(kind.host, Here) else machines.host("edge") for _ in range(4)]

    def send() -> None:
        try:
            with others.pop() as other:
                assert other.put([content], "rivals") == [
                    str(kind.home / "rivals" / hashlib.sha256(content.read_bytes()).hexdigest())
                ]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    (found,) = (kind.home / "rivals").iterdir()
    assert found.read_bytes() == content.read_bytes()


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


def test_many_small_files_that_two_send_at_once_arrive_each_time(tmp_path: Path, own_home: Path) -> None:
    def send(number: int) -> list[str]:
        with Here() as here:
            return here.put([b"%d %d" % (number, each) for each in range(6)], "small")

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(25):
            first, second = pool.map(send, (number, number))
            assert first == second
            assert [Path(each).read_bytes() for each in first] == [b"%d %d" % (number, each) for each in range(6)]
    assert list((own_home / "small").glob("*.part")) == []


def test_bytes_that_became_others_on_the_way_are_removed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.ssh.uploads import Item

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
    from workbench.ssh.uploads import Item

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
    """A file system of 1 MiB."""
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


def test_a_file_that_cannot_be_read_is_one_line(host: Host, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing cannot be read \(No such file"):
        host.put([tmp_path / "nothing"], "store")


def test_no_content_is_shown(host: Host) -> None:
    from workbench.ssh.uploads import Item

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
    assert [path.name for path in tmp_path.iterdir()] == ["fetched"]


def test_a_local_file_that_cannot_be_written_is_a_local_error(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        host.get("/etc/hostname", tmp_path / "file" / "below")


# Ports


class Service:
    """A service that returns the received text in capitals, once the sender has ended."""

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
    """Send, shut down the sending direction, and return the whole response."""
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


@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_a_port_leads_there_and_ends_one_way_at_a_time(host: Host, service: Service, way: str) -> None:
    data = os.urandom(3 << 20).lower()
    with host.forward(service.port) if way == "forward" else host.reverse((LOOPBACK, service.port)) as made:
        assert made.port != service.port
        assert shout(made.port, b"a") == b"A"
        assert shout(made.port, data) == data.upper()
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda n=n: found.append(shout(made.port, b"%d" % n))) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(map(int, found)) == list(range(12))
    with pytest.raises(ConnectionRefusedError):
        shout(made.port, b"a")


@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_closing_a_port_ends_what_goes_through_it(host: Host, service: Service, way: str) -> None:
    made = host.forward(service.port) if way == "forward" else host.reverse((LOOPBACK, service.port))
    with socket.create_connection((LOOPBACK, made.port), timeout=30) as near:
        near.sendall(b"begun")
        until(lambda: service.accepted)
        made.close()
        made.close()
        with contextlib.suppress(ConnectionResetError):
            assert near.recv(10) == b""


@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_a_chosen_port_is_used_and_a_taken_one_is_one_line(host: Host, service: Service, way: str) -> None:
    def make(port: int) -> relays.Forward:
        return (
            host.forward(service.port, listen=port) if way == "forward" else host.reverse((LOOPBACK, service.port), listen=port)
        )

    wanted = free_port()
    with make(wanted) as made:
        assert made.port == wanted
        assert shout(wanted, b"b") == b"B"
        with pytest.raises(RemoteError, match=rf"port {wanted}.* taken"):
            make(wanted)
    with make(wanted):
        assert shout(wanted, b"c") == b"C"


@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_where_nothing_answers_the_client_is_hung_up_on(host: Host, service: Service, way: str) -> None:
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))  # reserves a port without listening
        nothing = held.getsockname()[1]
        made = host.forward(nothing) if way == "forward" else host.reverse((LOOPBACK, nothing))
        with made, contextlib.suppress(ConnectionResetError, BrokenPipeError):
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
        until(lambda: not running(mark))
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
            until(lambda: bool(running(mark)))  # the shell prints "up" before it starts the command
        finally:
            process.kill()
    until(lambda: not running(mark))


def test_local_is_this_machine_and_other_names_go_over_ssh() -> None:
    assert isinstance(host_of("local"), Here)
    assert isinstance(host_of("gpu-box"), SshHost)
