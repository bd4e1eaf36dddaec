"""Atomic writes: the content of a file after a write that failed, was refused or was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from workbench.errors import StorageError
from workbench.storage import data_root, replacing, require_writable, write_json, write_text

MOUNT = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
FULL_DISKS = {
    "a limit on the size of files": ["sh", "-c", 'ulimit -f 64 && exec "$@"'],
    "a file system without space": ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT],
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(script: str, *arguments: str | Path, under: tuple[str, ...] = ()) -> str:
    command = [*under, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_write_makes_its_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "figures.json"
    write_json(path, {"n": 1})
    write_json(path, {"n": 2, "names": ["é"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"n": 2, "names": ["é"]}
    assert names(path.parent) == ["figures.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_old_file_stands_until_the_body_ends(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["kept.txt"]


@pytest.mark.parametrize("raised", [RuntimeError("stopped"), KeyboardInterrupt()])
def test_a_body_that_raises_leaves_the_folder_as_it_was(tmp_path: Path, raised: BaseException) -> None:
    path = tmp_path / "kept.txt"

    def body() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise raised

    with pytest.raises(type(raised)):
        body()
    assert names(tmp_path) == []
    write_text(path, "old")
    with pytest.raises(type(raised)):
        body()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["kept.txt"]


def test_an_infinite_figure_is_refused_and_the_old_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"psnr": 30.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"psnr": float("inf")})
    assert json.loads(path.read_text()) == {"psnr": 30.0}
    assert names(tmp_path) == ["figures.json"]


def test_a_path_that_cannot_be_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "kept.txt", tmp_path / "folder"):
        with pytest.raises(StorageError, match=rf"^cannot write {path}: .*choose another folder$"):
            write_text(path, "new")
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_is_tested_for_writing_without_a_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        require_writable(tmp_path / "file")


READ_ONLY = """
import os, sys
from pathlib import Path
from workbench.errors import StorageError
from workbench.storage import write_text
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
try:
    write_text(Path(sys.argv[1]), "new")
except StorageError as error:
    print(error)
"""


def test_a_read_only_folder_is_a_storage_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.txt"
        write_text(path, "old")
        path.parent.chmod(0o555)
        try:
            message = run(READ_ONLY, path)
        finally:
            path.parent.chmod(0o755)
        assert message == f"cannot write {path}: Permission denied; free space or choose another folder\n"
        assert path.read_text() == "old"
        assert names(path.parent) == ["kept.txt"]


FULL = """
import json, sys
from pathlib import Path
from workbench.errors import StorageError
from workbench.storage import write_text
path = Path(sys.argv[1]) / "kept.txt"
write_text(path, "old")
try:
    write_text(path, "new" * 100_000)
    error = None
except StorageError as raised:
    error = str(raised)
print(json.dumps([error, path.read_text(), sorted(each.name for each in path.parent.iterdir())]))
"""


@pytest.mark.parametrize("disk", FULL_DISKS)
def test_a_full_disk_is_a_storage_error_and_the_old_file_stands(tmp_path: Path, disk: str) -> None:
    under = (*FULL_DISKS[disk], str(tmp_path))
    if shutil.which(under[0]) is None or subprocess.run([*under, "true"], capture_output=True, timeout=60).returncode:
        pytest.skip(f"{disk} cannot be made here: it takes the right to mount in a namespace of one's own")
    error, text, left = json.loads(run(FULL, tmp_path, under=under))
    assert error is not None
    assert error.startswith(f"cannot write {tmp_path / 'kept.txt'}: ")
    assert text == "old"
    assert left == ["kept.txt"]


WRITER = """
import sys
from pathlib import Path
from workbench.storage import replacing
with replacing(Path(sys.argv[1])) as temporary, temporary.open("wb") as file:
    file.write(b'{"half": ')
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"n": 1})
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        writer.kill()
        assert writer.wait(timeout=60) == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"n": 1}
    assert [each.name for each in tmp_path.glob("*.json")] == ["figures.json"]
    assert len(list(tmp_path.glob(".figures.json.*.tmp"))) == 1, "what the killed writer left"
    with replacing(path) as beside:
        beside.write_text("{}")
        write_json(path, {"n": 2})
        assert beside.is_file(), "of a writer that lives"
    assert [each.name for each in tmp_path.iterdir()] == ["figures.json"], "what the dead one left is gone"


def test_the_data_folder_is_the_environments_then_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", f"{tmp_path}{os.sep}x{os.sep}..")
    assert data_root() == tmp_path.resolve()
    monkeypatch.delenv("WORKBENCH_DATA")
    assert data_root().name == "data"
    assert (data_root().parent / "pyproject.toml").is_file()
