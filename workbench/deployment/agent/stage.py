"""Start a stage (edge or cloud) on this machine, query it, read its log, and stop it.

Each public function is a command of the remote agent. `folder` is the agent's folder. `asked` are the arguments of the command,
such as `name`, the stage's name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .common import AgentError, lines, locked, say, stored, wait_for, write
from .environments import environ_of
from .log import newer, tail

START_S = 120.0  # time limit for a stage to report its port
DRAIN_S = 45.0  # time limit for a stage to finish accepted requests
LAST = 20  # number of log lines in the report of a stage's end


def start(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Start a stage with the settings `asked`, and wait until the stage reports its port.

    If the stage already runs with equal settings, it is kept. If it runs with other settings, it is stopped first. Return the
    stage's state, with the key `port`. Raises AgentError if the stage ends before it reports a port, or reports none within
    `START_S` seconds.
    """
    home = _home(folder, asked)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(home / "starting", "another launch starts this stage"):
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if _runs(home):
            if _state(home).get("spec") == digest:
                return _ported(home)
            say(report="stopping what ran with other settings")
            _end(home, DRAIN_S)
        _fill(home, folder, asked["files"], asked["texts"])
        port_file = home / "port"
        port_file.unlink(missing_ok=True)
        command = [each.replace("{home}", str(home)).replace("{port}", str(_port(home, asked))) for each in asked["command"]]
        environ = environ_of(asked["environment"])
        environ.update({key: value.replace("{home}", str(home)) for key, value in asked["environ"].items()})
        write(home / "spec.json", {"command": [asked["environment"]["python"], *command], "environ": environ, "spec": digest})
        (home / "state.json").unlink(missing_ok=True)
        _launch(folder, home, asked["name"])
        return _ported(home)


def _home(folder: Path, asked: dict[str, Any]) -> Path:
    return folder / "stages" / str(asked["name"])


def _port(home: Path, asked: dict[str, Any]) -> int:
    wanted = int(asked["port"])
    with contextlib.suppress(OSError, ValueError):
        before = int((home / "port.before").read_text())
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("127.0.0.1", before))
        wanted = wanted or before
    return wanted


def _fill(home: Path, folder: Path, files: dict[str, str], texts: dict[str, str]) -> None:
    # `texts` may contain private keys, so they are stored nowhere but in `home`
    shutil.rmtree(home / "given", ignore_errors=True)
    for name in (*files, *texts):
        path = home / "given" / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        if name in files:
            shutil.copyfile(stored(folder, files[name]), path)
        else:
            path.write_text(texts[name])


def _launch(folder: Path, home: Path, name: str) -> None:
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), str(folder), "supervise", str(home)]
    if lines(["systemctl", "--user", "show", "--property=Version"]):
        unit = ["systemd-run", "--user", "--quiet", "--collect", f"--unit=pmc2-{name}", "--property=KillMode=mixed"]
        if subprocess.run([*unit, *command], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
            return
    with (home / "supervisor.log").open("wb") as errors:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, close_fds=True
        )


def _ported(home: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    seen = False
    while time.monotonic() < deadline:
        running = _runs(home)
        state = _state(home)  # after `_runs`: the supervisor records the stage's end before it releases the lock
        with contextlib.suppress(OSError, ValueError):
            port = int((home / "port").read_text())
            write(home / "port.before", port)
            return {**state, "port": port, "running": True}
        seen = seen or running
        with contextlib.suppress(OSError):
            if not seen and (failed := (home / "supervisor.log").read_text(errors="replace").strip()):
                raise AgentError(f"the stage's supervisor did not start: {failed.splitlines()[-1]}")
        if "ended" in state or (seen and not running):
            raise AgentError(f"the stage ended with status {state.get('status')}: {_last(state)}")
        time.sleep(0.05)
    raise AgentError(f"the stage had no port after {START_S:.0f} s: {_last(_state(home))}")


def _last(state: dict[str, Any]) -> str:
    return str((state.get("last") or ["it said nothing"])[-1])


def status(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's state. `running` tells whether the stage runs, and `known` whether the stage has files here.

    Other keys: `started` (s since the epoch) and `port`. After the stage's end, also `ended` (s since the epoch), `status` (the
    exit status) and `last` (the last log lines). If the supervisor was killed, `ended` and `status` are None.
    """
    home = _home(folder, asked)
    state = _state(home)
    running = _runs(home)
    if not running and state and "ended" not in state:
        state |= {"ended": None, "status": None, "last": tail(home, LAST)}  # the supervisor was killed
    with contextlib.suppress(OSError, ValueError):
        state["port"] = int((home / "port").read_text()) if running else None
    return {**state, "running": running, "known": home.exists()}


def logs(folder: Path, asked: dict[str, Any]) -> None:
    """Print the last `asked["lines"]` lines of a stage's log.

    With `asked["follow"]`, also print new lines until the stage ends. Raises AgentError if the stage is unknown here.
    """
    path = _home(folder, asked) / "log"
    if not path.parent.exists():
        raise AgentError(f"there is no stage {asked['name']} here: launch it first")
    wait_for(lambda: path.exists() or not asked["follow"] or not _runs(path.parent))
    if not path.exists():
        return
    before = path.with_name("log.1").read_bytes() if path.with_name("log.1").exists() else b""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        for line in (before + file.read()).splitlines()[-asked["lines"] :] if asked["lines"] else ():
            say(line=line.decode(errors="replace"))
        while asked["follow"]:
            alive = _runs(path.parent)
            while line := file.readline():
                say(line=line.decode(errors="replace").rstrip("\n"))
            if (after := newer(path, file.fileno())) is not None:  # the log was rotated after its last line was read
                file = stack.enter_context(after.open("rb"))
            elif not alive:
                return
            else:
                time.sleep(0.1)


def stop(folder: Path, asked: dict[str, Any]) -> bool:
    """End a stage and remove its files. Return whether the stage ran.

    The stage is killed if it does not end within `asked["patience"]` seconds (default `DRAIN_S`).
    """
    home = _home(folder, asked)
    if not home.exists():
        return False
    with locked(home / "starting", "another launch starts this stage"):
        ran = _end(home, float(asked.get("patience", DRAIN_S)))
        shutil.rmtree(home)
    with contextlib.suppress(OSError):
        home.parent.rmdir()
    return ran


def purge(folder: Path, asked: dict[str, Any]) -> bool:
    """Remove the agent's folder, with all Python environments and sent files. Return whether the folder existed.

    Raises AgentError if a stage of this folder still runs.
    """
    if any(_runs(home) for home in (folder / "stages").glob("*")):
        raise AgentError(f"a stage still runs in {folder}: stop it first")
    there = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return there


def _end(home: Path, patience: float) -> bool:
    if not _runs(home):
        return False
    group = int(_state(home).get("pid", 0))
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(OSError):
            if group and number == signal.SIGKILL:
                os.killpg(group, number)
            elif group:
                os.kill(group, number)  # the supervisor, which terminates the stage
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if not _runs(home):
                return True
            time.sleep(0.02)
    raise AgentError(f"the stage in {home} does not end")


def _runs(home: Path) -> bool:
    try:
        with (home / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def _state(home: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((home / "state.json").read_text()))
    except (OSError, ValueError):
        return {}
