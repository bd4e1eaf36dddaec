"""A hostile machine for a stage: its output, and a folder on it that other users can change."""

from __future__ import annotations

import json
import os
import stat
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pair import AUXILIARY, TARGET
from workbench.__main__ import main
from workbench.deployment.ownership import own_folder
from workbench.deployment.plan import local_plan
from workbench.deployment.stages import RemoteAgent
from workbench.errors import RemoteError
from workbench.panels.deploy import DeployPanel
from workbench.remote import host_of

WORDS = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eready\u2028\r\b"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\x9b31m\u202eready\u2028\r\x08"
PROGRESS = "report"  # the key of a line of progress
HOSTILE = f"""\
    #!{sys.executable}
    import json, sys
    verb, words = sys.argv[3], {WORDS!r}
    state = {{"running": False, "ended": words, "status": words, "last": [words], "known": True}}
    if verb == "status":
        print(json.dumps({{"done": state}}))
    elif verb == "logs":
        print(json.dumps({{"line": words}}))
    elif verb == "probe":
        print(json.dumps({{{PROGRESS!r}: words}}))
        print(json.dumps({{"error": words}}))
    else:
        print(json.dumps({{"error": words}}))
"""


@pytest.fixture
def plan(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path, bin = tmp_path / "here.toml", tmp_path / "bin"
    path.write_text(local_plan("digits", TARGET, AUXILIARY, tmp_path / "far"))
    bin.mkdir()
    (bin / "python3").write_text(textwrap.dedent(HOSTILE))
    (bin / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}{os.pathsep}{os.environ['PATH']}")
    for which in ("edge", "cloud"):  # as left by an earlier launch
        (tmp_path / "far" / "stages" / f"here-{which}").mkdir(parents=True)
    (tmp_path / "far").chmod(0o700)
    return path


@pytest.mark.parametrize("command", [["status"], ["logs", "edge"], ["launch"], ["stop"], ["status", "--json"]])
def test_what_a_hostile_host_says_reaches_no_terminal_raw(
    plan: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    main([command[0], *command[1:2], str(plan)] if command[0] == "logs" else [command[0], str(plan), *command[1:]])
    out, err = capsys.readouterr()
    shown = out + err
    ways = (SHOWN, SHOWN.replace("\\", "\\\\"), json.dumps(WORDS)[1:-1])  # the last in the host's own JSON, which launch quotes
    assert any(each in shown for each in ways)
    assert not [each for each in shown if not each.isprintable() and each != "\n"]


def test_nor_does_it_reach_a_notebook(plan: Path) -> None:
    panel = DeployPanel(plan)
    try:
        panel.look()
        panel.launch()
        with pytest.raises(RemoteError) as caught:
            panel.wait(60)
        boxes = (panel.table, panel.steps, panel.message, *panel.log.values())
        texts = [box.value for box in boxes] + [str(caught.value)]
    finally:
        panel.close()
    assert sum(r"\u202eready" in text for text in texts) >= 4
    assert not [each for text in texts for each in text if not each.isprintable() and each != "\n"]


def test_an_enabled_button_is_never_ignored(plan: Path) -> None:
    panel, enabled = DeployPanel(plan), threading.Event()
    try:
        panel.launch_button.observe(lambda change: change["new"] or enabled.set(), "disabled")
        panel.launch()
        assert enabled.wait(60)
        panel.launch_button.click()
        assert panel.launch_button.disabled
        with pytest.raises(RemoteError):
            panel.wait(60)
    finally:
        panel.close()


# --- the folder ------------------------------------------------------------------------------------------------------------

OTHER = 12345  # a user's id


def make(path: Path, mode: int = 0o700, owner: int | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner, owner)
    return path


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
Case = tuple[Callable[[Path], Path], str]
CASES: dict[str, Case] = {
    "readable by others": (lambda top: make(top / "far", 0o755), "is open to other users (drwxr-xr-x): remove it, or close it"),
    "open to its group": (lambda top: make(top / "far", 0o770), "is open to other users (drwxrwx---)"),
    "searchable by others": (lambda top: make(top / "far", 0o711), "is open to other users (drwx--x--x)"),
    "sticky and writable": (lambda top: make(top / "far", 0o1777), "is open to other users (drwxrwxrwt)"),
    "a link": (lambda top: linked(top / "far", make(top / "real")), "is a symbolic link: name the folder itself"),
    "a link with a slash": (lambda top: linked(top / "far", make(top / "real")) / "", "is a symbolic link"),
    "a link to nothing": (lambda top: linked(top / "far", top / "none"), "cannot be made or looked at"),
    "its store is a link": (lambda top: linked(make(top / "far") / "store", make(top / "real")).parent, "store is a symbolic link"),
    "its environments are a link": (lambda top: linked(make(top / "far") / "envs", make(top / "x")).parent, "envs is a symbolic"),
    "below a group's folder": (lambda top: make(make(top / "a", 0o770) / "b") / "far", "can be written by other users (drwxrwx---)"),
    "below everybody's folder": (lambda top: make(top / "a", 0o777) / "far", "who could replace it: chmod go-w"),
    "a file": (lambda top: ((top / "far").write_text("") and top / "far") or top / "far", "cannot be made or looked at"),
}  # fmt: skip
OWNED: dict[str, Case] = {
    "another user's": (lambda top: make(top / "far", owner=OTHER), f"belongs to another user (id {OTHER}): name a folder of"),
    "another user's, in a sticky one": (lambda top: make(make(top / "tmp", 0o1777) / "far", owner=OTHER), "another user"),
    "below another user's folder": (
        lambda top: make(top / "a", 0o755, OTHER) / "far",
        "who could replace it: name a folder else",
    ),
    "another user's store": (
        lambda top: make(make(top / "far") / "store", owner=OTHER).parent,
        "/store belongs to another user",
    ),
}


@pytest.mark.parametrize("kind", [*CASES, *(pytest.param(kind, marks=root) for kind in OWNED)])
def test_a_folder_that_others_can_change_is_refused_first(tmp_path: Path, kind: str) -> None:
    build, reason = (CASES | OWNED)[kind]
    folder = build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    far = RemoteAgent(host_of("local"), str(folder) + ("/" if kind.endswith("slash") else ""))
    for ask in (lambda: far("status", name="x"), lambda: far.send([b"content"]), lambda: list(far.lines("logs", name="x"))):
        with pytest.raises(RemoteError) as caught:
            ask()
        assert reason in str(caught.value)
        assert str(caught.value).startswith("local: ")
    made = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert [path for path in made if path.is_file()] == []


def test_ones_own_folder_is_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "tmp", 0o1777)
    # common on clusters: the path is resolved once, and the resolved path is used
    linked(tmp_path / "scratch", tmp_path / "tmp")
    host, before = host_of("local"), os.umask(0)
    try:
        place = own_folder(host, str(tmp_path / "scratch" / "mine" / "far"))
    finally:
        os.umask(before)
    assert place == str(tmp_path / "tmp" / "mine" / "far")
    assert stat.S_IMODE(Path(place).stat().st_mode) == stat.S_IMODE(Path(place).parent.stat().st_mode) == 0o700
    assert own_folder(host, place) == place
    (sha,) = RemoteAgent(host, place).send([b"content"])
    assert (Path(place) / "store" / sha).read_bytes() == b"content"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_folder(host, "~/.pmc2") == own_folder(host, ".pmc2") == str(tmp_path / ".pmc2")
