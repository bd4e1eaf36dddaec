"""Every login shell runs the same commands: sshd passes a command to the user's own shell, whatever that prints."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sshd import Ground, Machine, keygen, missing, public
from workbench.deployment.stages import RemoteAgent
from workbench.errors import RemoteError
from workbench.remote import SshHost
from workbench.ssh.login_shell import MarkedOutput, command_line

WORDS = [
    "a b",
    "'",
    '"',
    "$HOME",
    "`id`",
    "*",
    "\\",
    "a\nb\n",
    "",
    "!",
    "!!",
    "ä€",
    "-n",
    "~",
    "%s",
    "#",
    "=",
    "_",
    "{1,2}",
    "\t",
]
SHOW = "import os, sys; sys.stdout.buffer.write(b'|'.join(map(os.fsencode, sys.argv[1:])))"
STAGE = """
import pathlib, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
pathlib.Path(sys.argv[2]).write_text(str(listener.getsockname()[1]))
time.sleep(600)
"""
GREETING = "echo 'Welcome to the machine!'; echo 'stty: not a terminal' >&2"


class Shell(NamedTuple):
    words: str
    startup: str = ""
    text: str = GREETING


SHELLS = {
    **{name: Shell(name) for name in ("sh", "bash", "dash", "zsh", "fish", "tcsh", "csh")},
    "busybox": Shell("busybox sh"),
    "bash greets": Shell("bash", ".bashrc"),  # by BASH_ENV, like a bash that is built to read it under sshd
    "zsh greets": Shell("zsh", ".zshenv"),
    "fish greets": Shell("fish", ".config/fish/config.fish"),
    "tcsh greets": Shell("tcsh", ".tcshrc", "echo 'Welcome to the machine!'; printf 'no line end'"),
    "zsh ends": Shell("zsh", ".zshenv", "echo moved; exit 0"),
    "zsh fails": Shell("zsh", ".zshenv", "echo 'no more room' >&2; exit 7"),
}
QUICK = ("bash", "dash", "fish", "tcsh greets", "zsh greets")  # one of each family
AGREEING = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.system)
    for name in SHELLS
    if name.split()[-1] not in ("ends", "fails")
]


@pytest.fixture(scope="module")
def shells(machines: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("shells")
    machine = Machine("shells", folder / "sshd", machines["edge"].key, options={"ForceCommand": "none"})
    machine.start()
    lines = []
    for number, (name, shell) in enumerate(SHELLS.items()):
        program, *more = shell.words.split()
        if (path := shutil.which(program)) is None:
            continue
        home = folder / name
        home.mkdir()
        if shell.startup:
            (home / shell.startup).parent.mkdir(parents=True, exist_ok=True)
            (home / shell.startup).write_text(shell.text + "\n")
        start = f"export HOME={shlex.quote(str(home))} BASH_ENV={shlex.quote(str(home / '.bashrc'))}; cd; exec {path} "
        start += " ".join([*more, '-c \\"$SSH_ORIGINAL_COMMAND\\"'])
        lines.append(f'command="{start}" {public(keygen(folder / f"key{number}"))}\n')
    (machine.folder / "authorized_keys").write_text("".join(lines))
    try:
        yield Ground(folder, {"shells": machine})
    finally:
        machine.stop()


@contextlib.contextmanager
def login(shells: Ground, name: str) -> Iterator[SshHost]:
    if shutil.which(SHELLS[name].words.split()[0]) is None:
        missing("WORKBENCH_REQUIRE_SSHD", f"there is no {SHELLS[name].words.split()[0]}: install Debian's package of that name")
    key = shells.folder / f"key{list(SHELLS).index(name)}"
    with SshHost("shells", config=shells.config(IdentityFile=str(key))) as host:
        yield host


@pytest.mark.parametrize("name", AGREEING)
def test_all_operations_agree_in_every_login_shell(name: str, shells: Ground, tmp_path: Path) -> None:
    with login(shells, name) as host:
        result = host.run([sys.executable, "-c", f"{SHOW}; print('err', file=sys.stderr); sys.exit(3)", *WORDS])
        assert (result.status, result.out.decode(), result.err) == (3, "|".join(WORDS), b"err\n")
        assert list(host.stream(["sed", "s/^/> /"], input=b"a\nb")) == [b"> a", b"> b"]
        content = os.urandom(100_000)
        (path,) = host.put([content], "a store")
        assert Path(path).is_relative_to(shells.folder / name)
        host.get("~/" + os.path.relpath(path, shells.folder / name), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content
        far = RemoteAgent(host, "pmc2")
        asked = {"command": ["-c", STAGE, "{port}", "{home}/port"], "environ": {}, "files": {}, "texts": {"note": "a\nb!"}}
        state = far("start", name="stage", port=0, environment={"python": sys.executable, "path": ""}, **asked)
        assert state["running"]
        assert far("stop", name="stage") is True


def test_a_login_shell_that_runs_nothing_is_one_line(shells: Ground) -> None:
    with (
        login(shells, "zsh ends") as host,
        pytest.raises(RemoteError, match=r"ended without running true \(it printed 'moved'\)"),
    ):
        host.run(["true"])
    with login(shells, "zsh fails") as host, pytest.raises(RemoteError, match="cat failed with status 7: no more room"):
        host.get("x", shells.folder / "x")


POSIX = [name for name in ("sh", "bash", "dash", "zsh --emulate sh", "busybox sh") if shutil.which(name.split()[0])]


@pytest.mark.parametrize("shell", POSIX)
def test_every_posix_shell_decodes_the_words(shell: str, tmp_path: Path) -> None:
    words = [*WORDS, "x" * 20_000, os.fsdecode(bytes(range(1, 256)))]
    line = command_line([sys.executable, "-c", SHOW, *words], "mark").replace("exec /bin/sh", f"exec {shell}", 1)
    out = subprocess.run(["sh", "-c", line], capture_output=True, check=True, timeout=30).stdout
    assert out == b"mark" + b"|".join(map(os.fsencode, words))


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=8), st.binary(max_size=12))
def test_output_begins_after_the_mark_however_it_is_cut(parts: list[bytes], greeting: bytes) -> None:
    mark, whole = b"\x00mark\x00", b"".join(parts)
    output, stream = MarkedOutput(mark), greeting + mark + whole
    size = len(parts) + 1
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    if mark not in greeting + mark[:-1]:
        assert b"".join(output.feed(piece) for piece in pieces) == whole
