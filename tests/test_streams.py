"""Standard streams in every state that shells cause: closed, full, with a narrow encoding. Also a pipe in place of a file."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.support.datasets import NOISE, encode
from tests.support.networks import classifier
from workbench.__main__ import main
from workbench.attest import Policy
from workbench.checkpoints import import_checkpoint
from workbench.deployment.plan import Deployment
from workbench.errors import DataError, WorkbenchError
from workbench.pictures import Limits, load_pictures, open_picture, read_picture
from workbench.storage import data_root

# One interpreter forks a child for each row, and sets up its streams like a shell: by descriptors and PYTHONIOENCODING.
ROWS = """
import io, os, sys
import workbench.__main__ as entry
import workbench.weights  # torch, once for all children

def stream(descriptor, mode, encoding):
    if mode == "closed":
        os.close(descriptor)
        return None
    if mode == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
    name, _, errors = encoding.partition(":")
    raw = io.FileIO(descriptor, "w", closefd=False)
    errors = errors or ("backslashreplace" if descriptor == 2 else "strict")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=name, errors=errors, line_buffering=descriptor == 2)

def row(number, out, err, stdin, encoding, arguments):
    for descriptor, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{sys.argv[1]}/{number}.{kind}", os.O_WRONLY | os.O_CREAT), descriptor)
    if stdin == "closed":
        os.close(0)
        sys.stdin = sys.__stdin__ = None
    sys.stdout = sys.__stdout__ = stream(1, out, encoding)
    sys.stderr = sys.__stderr__ = stream(2, err, encoding)
    try:
        status = entry.main(arguments)
    except SystemExit as ended:
        status = ended.code or 0
    for each in (0, 1, 2):
        os.fstat(each)  # no file that is opened later may get one of these
    try:
        sys.stdout.flush()  # as Python does at its end: a failure there would make the status 120
        sys.stderr.flush()
    except OSError:
        status = 120
    return status

for number, line in enumerate(sys.stdin.read().splitlines()):
    child = os.fork()
    if not child:
        try:
            os._exit(row(number, *eval(line)))
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(99)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

HELP, MODELS, WRONG = ["--help"], ["models"], ["train", "nothing"]
ODD = ["import-weights", "no\x1b[31m such\udcff\u202e file.pt"]
CASES = [  # stdout, stderr, stdin, encoding, arguments, exit status
    *(
        ("open", "open", "open", encoding, HELP, 0)
        for encoding in ("ascii", "latin-1", "cp1252", "utf-8:strict", "ascii:strict")
    ),
    *(("open", "open", "open", encoding, ODD, 1) for encoding in ("ascii", "utf-8:strict")),
    ("closed", "open", "open", "utf-8", HELP, 0),
    ("closed", "open", "open", "utf-8", MODELS, 0),
    ("closed", "closed", "closed", "utf-8", MODELS, 0),
    ("closed", "closed", "closed", "utf-8", ODD, 1),
    ("open", "closed", "open", "utf-8", MODELS, 0),
    ("open", "closed", "open", "utf-8", ODD, 1),
    ("open", "closed", "open", "utf-8", WRONG, 2),
    ("open", "open", "closed", "utf-8", MODELS, 0),
    ("full", "open", "open", "utf-8", MODELS, 1),
    ("full", "open", "open", "utf-8", HELP, 1),
    ("full", "full", "open", "utf-8", MODELS, 1),
    ("open", "full", "open", "utf-8", MODELS, 0),
    ("open", "full", "open", "utf-8", ODD, 1),
    ("open", "full", "open", "utf-8", WRONG, 2),
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("streams")
    lines = "\n".join(repr(case[:5]) for case in CASES)
    environment = {**os.environ, "WORKBENCH_DATA": str(folder / "data")}
    done = subprocess.run(
        [sys.executable, "-c", ROWS, str(folder)], input=lines, env=environment, capture_output=True, text=True, timeout=120
    )
    assert not done.stderr
    statuses = map(int, done.stdout.split())
    texts = ((folder / f"{n}.{kind}" for kind in ("out", "err")) for n in itertools.count())
    return {
        str(case): (status, *(path.read_bytes().decode("latin-1") for path in paths))  # type: ignore[misc]
        for case, status, paths in zip(CASES, statuses, texts, strict=False)
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case[:5])))
def test_the_exit_status_does_not_depend_on_the_streams(
    case: tuple[str, str, str, str, list[str], int], ran: dict[str, tuple[int, str, str]]
) -> None:
    out, err, _, encoding, arguments, expected = case
    status, output, errors = ran[str(case)]
    assert status == expected, errors
    assert "Traceback" not in errors
    assert (output == "") == (out != "open" or expected > 0)
    if out == "full" and err == "open":
        assert errors == "workbench: cannot write to standard output: No space left on device\n"
    if arguments == HELP and out == "open":
        mark = {"latin-1": "\xb2", "cp1252": "\xb2", "utf-8:strict": "\xc2\xb2"}.get(encoding, r"\xb2")
        assert f"PMC{mark} Workbench" in output
    if arguments == ODD and err == "open":
        (line,) = errors.splitlines()
        assert r"no\x1b[31m such\udcff\u202e file.pt" in line


def test_command_line_words_are_quoted_without_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "\x1b[2J\x07"])
    errors = capsys.readouterr().err
    assert r"\x1b[2J\x07" in errors
    assert "\x1b" not in errors


# --- a pipe as a file ------------------------------------------------------------------------------------------------------


def pipe_with(content: bytes, folder: Path) -> Path:
    """Return a named pipe that delivers `content` once, like `<(cat FILE)`."""
    path = folder / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    return path


def test_pictures_may_come_through_pipes(tmp_path: Path) -> None:
    content = encode(NOISE)
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(pipe_with(content, tmp_path / name))
    assert torch.equal(load_pictures(paths), load_pictures([content, content]))


def test_recognize_reads_a_pipe_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from workbench.commands.recognize import _read

    content = encode(NOISE)
    assert _read(pipe_with(content, tmp_path)) == content
    (tmp_path / "x.jpg").write_bytes(content[:300])
    with pytest.raises(DataError, match=r"picture '.*x\.jpg' cannot be read"):
        _read(tmp_path / "x.jpg")


def test_a_file_without_end_is_read_up_to_the_limit() -> None:
    with pytest.raises(DataError, match=r"picture '/dev/zero' is larger than 0\.0625 MiB"):
        open_picture("/dev/zero", limits=Limits(file_bytes=1 << 16))


def test_a_checkpoint_may_come_through_a_pipe(empty_data: Path, tmp_path: Path) -> None:
    torch.save(classifier(width=1).network.state_dict(), tmp_path / "x.pt")  # as public checkpoints
    (imported,) = import_checkpoint(tmp_path / "x.pt")
    (again,) = import_checkpoint(pipe_with((tmp_path / "x.pt").read_bytes(), tmp_path))
    assert again.training["imported_sha256"] == imported.training["imported_sha256"]


# --- other assumptions about the environment ---------------------------------------------------------------------------------


def test_a_missing_home_directory_is_a_missing_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--dataset", "folder", "--data-dir", "~no-such-user/x"]) == 1
    assert "data folder '~no-such-user/x' does not exist" in capsys.readouterr().err
    monkeypatch.setenv("WORKBENCH_DATA", "~no-such-user/x")
    assert data_root() == Path.cwd() / "~no-such-user" / "x"


def test_a_working_directory_that_was_deleted_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["models"]) == 2
    assert capsys.readouterr().err == "workbench: the working directory no longer exists: change to one that does\n"


def test_a_folder_and_a_name_with_a_null_byte_are_one_line(tmp_path: Path) -> None:
    for name, reason in ((tmp_path, "Is a directory"), ("a\0b.jpg", "embedded null byte")):
        with pytest.raises(DataError, match=f"cannot be read: {reason}"):
            read_picture(name)


def test_a_plan_and_a_policy_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for read in (Deployment.read, Policy.read):
        path = tmp_path / "x.toml"
        path.write_bytes(b"unknown = 1\n")
        with pytest.raises(WorkbenchError) as plain:
            read(path)
        path.write_bytes(b"\xef\xbb\xbfunknown = 1\n")
        with pytest.raises(WorkbenchError) as marked:
            read(path)
        assert str(marked.value) == str(plain.value)
