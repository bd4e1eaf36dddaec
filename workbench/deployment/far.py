"""What runs on a stage's machine: makes an environment, and starts, watches and stops the stage. Standard library alone.

::

    python3 far.py FOLDER VERB    < what to do, as JSON    > lines of JSON: {"told": ...}*, then {"done": ...} or {"error": ...}

    FOLDER/store/<sha256>        what was sent: the package, weights, certificates, this file
    FOLDER/envs/<key>/           an environment, made once for a package
    FOLDER/stages/<name>/        one stage: lock, spec.json, state.json, log, port, and what it was given

A stage runs under a supervisor in a session of its own, which outlives the connection that started it. The supervisor holds the
stage's lock for as long as it lives: whoever finds it free knows that nothing runs, whatever a file says.
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
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

START_S = 120.0  # until a stage has its port
INSTALL_S = 3000.0  # for an environment
DRAIN_S = 45.0  # that a stage has to finish what it accepted
LOG_BYTES, LOGS = 4 << 20, 3
LINE = 64 << 10
LAST = 20  # lines of a log that are told of a stage that ended
FREE = 64 << 20  # bytes that must be left on a disk


class FarError(Exception):
    """Raised for what the one who asked can act on; a line."""


def main(arguments: Sequence[str]) -> int:
    """Do one thing and say how it went."""
    folder, verb = Path(arguments[0]).expanduser(), arguments[1]
    if not folder.is_absolute():
        folder = Path.home() / folder
    if verb == "supervise":
        return supervise(Path(arguments[2]))
    try:
        asked = json.loads(sys.stdin.read() or "{}")
        _say(done=VERBS[verb](folder, asked))
    except FarError as error:
        _say(error=str(error))
    except OSError as error:
        _say(error=f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    return 0


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


# --- the machine -----------------------------------------------------------------------------------------------------------


def probe(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Say what the machine has: room, an interpreter, a GPU; refuse one that has not what is needed."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(folder).free
    if free < max(FREE, asked.get("bytes", 0)):
        raise FarError(f"the disk of {folder} is full: {free >> 20} MiB are free, make room or choose another folder")
    gpus = _lines(["nvidia-smi", "-L"])
    if asked.get("device") == "cuda" and not gpus:
        raise FarError("a GPU is asked for (device = 'cuda'), and nvidia-smi finds none here; use 'cpu' or 'auto'")
    return {"python": sys.version.split()[0], "free": free, "gpus": gpus, "uv": _uv() or "", "cores": os.cpu_count()}


def _lines(command: Sequence[str]) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def _uv() -> str | None:
    return shutil.which("uv", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / ".local" / "bin")]))


def free(_: Path, asked: dict[str, Any]) -> bool:
    """End an SSH session of one's own that still holds a port though its other end is gone; say whether there was one."""
    found = False
    inodes = _listening(asked["port"])
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):
            mine = process.stat().st_uid == os.getuid() and (process / "comm").read_text().startswith("sshd")
            if mine and any(str(each.readlink()) in inodes for each in (process / "fd").iterdir()):
                os.kill(int(process.name), signal.SIGTERM)
                found = True
    return found


def _listening(port: int) -> set[str]:
    inodes: set[str] = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                parts = line.split()
                if parts[3] == "0A" and int(parts[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{parts[9]}]")
    return inodes


# --- environments ----------------------------------------------------------------------------------------------------------


def environment(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Make, unless it is there, the environment of a package; say with which interpreter and paths it runs."""
    key = hashlib.sha256(json.dumps([asked["wheel"], asked["python"], asked["pip"]]).encode()).hexdigest()[:16]
    home = folder / "envs" / key
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "envs" / f"{key}.lock", "another launch makes the same environment", patience=INSTALL_S):
        if not (home / "ready.json").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            try:
                made = _unpacked(home, folder, asked) if asked["python"] else _installed(home, folder, asked)
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)
                raise
            _write(home / "ready.json", made)
        made = json.loads((home / "ready.json").read_text())
    _has_gpu(made, asked["device"])
    return dict(made)


def _unpacked(home: Path, folder: Path, asked: dict[str, Any]) -> dict[str, str]:
    """Lay the package beside an interpreter that has what it needs."""
    made = {"python": asked["python"], "path": str(home / "site")}
    with zipfile.ZipFile(_stored(folder, asked["wheel"])) as wheel:
        wheel.extractall(home / "site")
    _checked(made, "import workbench.services.server")
    return made


def _installed(home: Path, folder: Path, asked: dict[str, Any]) -> dict[str, str]:
    """Install the package and what it needs into an environment of its own, by uv where there is one."""
    wheel = home / asked["file"]
    shutil.copyfile(_stored(folder, asked["wheel"]), wheel)
    made = {"python": str(home / "env" / "bin" / "python"), "path": ""}
    first = [asked["torch"]] if asked["torch"] else []  # alone and exactly: a looser range pulls another build
    if uv := _uv():
        _told([uv, "venv", "--quiet", "--python", asked["least"], str(home / "env")])
        install = [uv, "pip", "install", "--quiet", "--python", made["python"], *asked["pip"]]
    else:
        least = tuple(map(int, asked["least"].split(".")))
        base = next((each for each in (sys.executable, *map(shutil.which, PYTHONS)) if each and _version(each) >= least), None)
        if base is None:
            raise FarError(f"no Python of {asked['least']} or newer, and no uv, is here: install one, or name one by python = ")
        _told([base, "-m", "venv", str(home / "env")])
        install = [made["python"], "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *asked["pip"]]
    for what in ([first] if first else []) + [[str(wheel)]]:
        _say(told=f"installing {' '.join(Path(each).name for each in what)}")
        _told([*install, *what])
    _checked(made, "import workbench")
    return made


PYTHONS = ("python3.12", "python3.11")


def _version(python: str) -> tuple[int, ...]:
    found = _lines([python, "-c", "import sys; print(*sys.version_info[:2])"])
    version = tuple(map(int, found[0].split())) if found else (0,)
    return version if version < (3, 13) else (0,)


def _told(command: Sequence[str]) -> None:
    """Run what installs; FarError with its last line where it fails."""
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise FarError(f"{command[0]} cannot be run: {error.strerror}") from None
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip() or "it said nothing").splitlines()[-1]
        raise FarError(f"{Path(command[0]).name} {command[1]} failed with status {ended.returncode}: {last}")


def _checked(made: dict[str, str], program: str) -> str:
    """Run a program in an environment; return what it prints."""
    try:
        ended = subprocess.run(
            [made["python"], "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_environ(made),
            cwd="/",  # Python looks for packages in the folder that it is started in, too
            timeout=120,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise FarError(f"python = {made['python']!r} cannot be run ({type(error).__name__})") from None
    if ended.returncode:
        last = (ended.stderr.strip() or "it said nothing").splitlines()[-1]
        raise FarError(f"{made['python']} does not run the package: {last}")
    return ended.stdout.strip()


def _has_gpu(made: dict[str, str], device: str) -> None:
    if device == "cuda" and _checked(made, "import torch; print(torch.cuda.is_available())") != "True":
        raise FarError("a GPU is asked for (device = 'cuda'), and the torch of the environment sees none: check its driver")


def _environ(made: dict[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, **({"PYTHONPATH": made["path"]} if made["path"] else {})}


def _stored(folder: Path, sha: str) -> Path:
    """Return a file of the store; FarError where it is not there, or is not what its name says."""
    path = folder / "store" / sha
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except FileNotFoundError:
        raise FarError(f"{path} is missing: launch again") from None
    if digest.hexdigest() != sha:
        path.unlink(missing_ok=True)
        raise FarError(f"{path} was tampered with: its SHA-256 is {digest.hexdigest()[:16]}...; it was removed, launch again")
    return path


# --- a stage ---------------------------------------------------------------------------------------------------------------


def start(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Start a stage, or leave it as it is where it runs as asked; return its state once it has a port."""
    home = _home(folder, asked)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(home / "starting", "another launch starts this stage"):
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if _runs(home):
            if _state(home).get("spec") == digest:
                _forget_keys(folder, asked["files"])
                return _ported(home)
            _say(told="stopping what ran with other settings")
            _end(home, DRAIN_S)
        _fill(home, folder, asked["files"])
        _forget_keys(folder, asked["files"])
        port_file = home / "port"
        port_file.unlink(missing_ok=True)
        command = [each.replace("{home}", str(home)).replace("{port}", str(_port(home, asked))) for each in asked["command"]]
        environ = _environ(asked["environment"])
        environ.update({key: value.replace("{home}", str(home)) for key, value in asked["environ"].items()})
        _write(home / "spec.json", {"command": [asked["environment"]["python"], *command], "environ": environ, "spec": digest})
        (home / "state.json").unlink(missing_ok=True)
        _launch(folder, home, asked["name"])
        return _ported(home)


def _home(folder: Path, asked: dict[str, Any]) -> Path:
    return folder / "stages" / str(asked["name"])


def _port(home: Path, asked: dict[str, Any]) -> int:
    """Return the port that is asked for; for 0 the one it had before, if that is still free."""
    wanted = int(asked["port"])
    with contextlib.suppress(OSError, ValueError):
        before = int((home / "port.before").read_text())
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("127.0.0.1", before))
        wanted = wanted or before
    return wanted


def _fill(home: Path, folder: Path, files: dict[str, str]) -> None:
    """Lay what the stage was given into its folder, each file checked; what it was given before goes."""
    given = home / "given"
    shutil.rmtree(given, ignore_errors=True)
    for name, sha in files.items():
        path = given / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(_stored(folder, sha), path)
        path.chmod(0o600)


def _forget_keys(folder: Path, files: dict[str, str]) -> None:
    """Keep no key in the store: it goes with the stage that was given it."""
    for name, sha in files.items():
        if name.endswith(".key"):
            (folder / "store" / sha).unlink(missing_ok=True)


def _launch(folder: Path, home: Path, name: str) -> None:
    """Start the supervisor in a session of its own; as systemd's unit where there is one, to outlive a log-out."""
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), "supervise", str(home)]
    if _lines(["systemctl", "--user", "show", "--property=Version"]):
        unit = ["systemd-run", "--user", "--quiet", "--collect", f"--unit=pmc2-{name}", "--property=KillMode=mixed"]
        if subprocess.run([*unit, *command], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
            return
    with (home / "supervisor.log").open("wb") as errors:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, close_fds=True
        )


def _ported(home: Path) -> dict[str, Any]:
    """Wait for the port of a stage; FarError with its last lines where it ends before."""
    deadline = time.monotonic() + START_S
    seen = False
    while time.monotonic() < deadline:
        state = _state(home)
        with contextlib.suppress(OSError, ValueError):
            port = int((home / "port").read_text())
            _write(home / "port.before", port)
            return {**state, "port": port, "running": True}
        seen = seen or _runs(home)
        with contextlib.suppress(OSError):
            if not seen and (failed := (home / "supervisor.log").read_text(errors="replace").strip()):
                raise FarError(f"the stage's supervisor did not start: {failed.splitlines()[-1]}")
        if "ended" in state or (seen and not _runs(home)):
            raise FarError(f"the stage ended with status {state.get('status')}: {_last(state)}")
        time.sleep(0.05)
    raise FarError(f"the stage had no port after {START_S:.0f} s: {_last(_state(home))}")


def _last(state: dict[str, Any]) -> str:
    return str((state.get("last") or ["it said nothing"])[-1])


def status(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Say whether a stage runs, since when and where, or how it ended."""
    home = _home(folder, asked)
    state = _state(home)
    running = _runs(home)
    if not running and state and "ended" not in state:
        state |= {"ended": None, "status": None, "last": _tail(home, LAST)}  # the supervisor was killed, too
    with contextlib.suppress(OSError, ValueError):
        state["port"] = int((home / "port").read_text()) if running else None
    return {**state, "running": running, "known": home.exists()}


def logs(folder: Path, asked: dict[str, Any]) -> None:
    """Say the last lines of a stage's log; with `follow` also those to come, until it ends."""
    path = _home(folder, asked) / "log"
    if not path.parent.exists():
        raise FarError(f"there is no stage {asked['name']} here: launch it first")
    _wait_for(lambda: path.exists() or not asked["follow"] or not _runs(path.parent))
    if not path.exists():
        return
    before = path.with_name("log.1").read_bytes() if path.with_name("log.1").exists() else b""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        for line in (before + file.read()).splitlines()[-asked["lines"] :] if asked["lines"] else ():
            _say(line=line.decode(errors="replace"))
        while asked["follow"]:
            alive = _runs(path.parent)
            while line := file.readline():
                _say(line=line.decode(errors="replace").rstrip("\n"))
            if (newer := _newer(path, file.fileno())) is not None:  # it was put aside, and is read to its end by now
                file = stack.enter_context(newer.open("rb"))
            elif not alive:
                return
            else:
                time.sleep(0.1)


def _newer(path: Path, handle: int) -> Path | None:
    """Return the log that came after an open one; None where that is the newest."""
    mine = os.fstat(handle).st_ino
    there: dict[int, Path] = {}
    for _ in range(5):  # what is looked at while it is put aside may be seen twice, or not at all
        there = {}
        for each in (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, LOGS + 1))):
            with contextlib.suppress(OSError):
                there[each.stat().st_ino] = each
        if mine in there:
            break
        time.sleep(0.01)
    newer = list(there)[: list(there).index(mine)] if mine in there else list(there)
    return there[newer[-1]] if newer else None


def _wait_for(condition: Callable[[], bool], patience: float = 10.0) -> bool:
    """Return whether a condition comes to hold within so many seconds."""
    deadline = time.monotonic() + patience
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds


def _tail(home: Path, lines: int) -> list[str]:
    found: list[str] = []
    for name in ("log.1", "log"):
        with contextlib.suppress(OSError):
            found += (home / name).read_bytes().decode(errors="replace").splitlines()
    return found[-lines:] if lines else []


def stop(folder: Path, asked: dict[str, Any]) -> bool:
    """End a stage, and remove all that it was given; say whether it ran."""
    home = _home(folder, asked)
    if not home.exists():
        return False
    with _locked(home / "starting", "another launch starts this stage"):
        ran = _end(home, float(asked.get("patience", DRAIN_S)))
        shutil.rmtree(home)
    with contextlib.suppress(OSError):
        home.parent.rmdir()
    return ran


def purge(folder: Path, asked: dict[str, Any]) -> bool:
    """Remove environments and everything that was sent, unless a stage runs here."""
    if any(_runs(home) for home in (folder / "stages").glob("*")):
        raise FarError(f"a stage still runs in {folder}: stop it first")
    there = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return there


def _end(home: Path, patience: float) -> bool:
    """End what runs: asked first, killed later; return once its lock is free."""
    if not _runs(home):
        return False
    group = int(_state(home).get("pid", 0))
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(OSError):
            if group and number == signal.SIGKILL:
                os.killpg(group, number)
            elif group:
                os.kill(group, number)  # the supervisor, which asks the stage
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if not _runs(home):
                return True
            time.sleep(0.02)
    raise FarError(f"the stage in {home} does not end")


def _runs(home: Path) -> bool:
    """Return whether a supervisor lives: it holds the lock."""
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


@contextlib.contextmanager
def _locked(path: Path, reason: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock; FarError where another holds it, and goes on to for `patience` seconds."""
    with path.open("ab") as file:
        if not _wait_for(lambda: _lock(file.fileno()), patience):
            raise FarError(f"{reason}: wait for it, or end it")
        yield


def _lock(handle: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _write(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file)
    temporary.replace(path)


# --- the supervisor --------------------------------------------------------------------------------------------------------


def supervise(home: Path) -> int:
    """Run the stage, keep its log, and write down how it ends."""
    lock = (home / "lock").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spec = json.loads((home / "spec.json").read_text())
    state = {"pid": os.getpid(), "started": time.time(), "spec": spec["spec"]}
    process = subprocess.Popen(
        spec["command"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=spec["environ"],
        cwd=home,
        preexec_fn=_die_with_parent,
    )
    asked: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _write(home / "state.json", {**state, "child": process.pid})
    assert process.stdout is not None
    with contextlib.closing(_Log(home / "log")) as log:
        while line := process.stdout.readline(LINE):
            log.write(line)
    code = process.wait()
    ended = {**state, "ended": time.time(), "status": code, "asked": bool(asked), "last": _tail(home, LAST)}
    (home / "port").unlink(missing_ok=True)
    _write(home / "state.json", ended)
    return 0


def _die_with_parent() -> None:
    """A stage without its supervisor would be one that nobody can find."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class _Log:
    """A file that is put aside when it is large."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        if self._file.tell() + len(line) > LOG_BYTES:
            self._file.close()
            for number in range(LOGS, 0, -1):
                older = self.path.with_name(f"{self.path.name}.{number}")
                if older.exists():
                    older.replace(self.path.with_name(f"{self.path.name}.{number + 1}")) if number < LOGS else older.unlink()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._file = self.path.open("ab", buffering=0)
        with contextlib.suppress(OSError):  # a full disk ends no stage
            self._file.write(line)

    def close(self) -> None:
        self._file.close()


VERBS = {
    "probe": probe,
    "free": free,
    "environment": environment,
    "start": start,
    "status": status,
    "logs": logs,
    "stop": stop,
    "purge": purge,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
