"""A local process that keeps tunnels open. A tunnel is a port that is forwarded over SSH.

Tunnels connect machines in separate networks:

::

    client --127.0.0.1:a--> [this machine] ==SSH==> edge          "forward": a local port leads to a remote one
                            [this machine] ==SSH==> cloud
    edge --its 127.0.0.1:b--> [edge] ==SSH==> [this machine] ==SSH==> cloud        "reverse": a remote port leads to a local one

The file wanted.json lists the tunnels that the deployment needs. The process reads this file repeatedly, and writes the ports
of the open tunnels to ports.json. A lost connection is reopened, with the same ports if they are free. Clients of the services
retry requests that were lost with the connection.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import RemoteError, WorkbenchError
from ..remote import Forward, Host, host_of
from ..storage import write_json, write_text
from .stages import RemoteAgent

__all__ = ["Tunnel", "main", "ports", "want"]

log = logging.getLogger("workbench.tunnels")

TUNNEL_POLL_S = 0.1
CHECK_S, ANSWER_S = 5.0, 10.0
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0


@dataclass(frozen=True)
class Tunnel:
    """A wanted tunnel between this machine and `host`.

    A `forward` tunnel leads from a port of this machine to `port` of `target`. `target` is an address as seen from the host. A
    `reverse` tunnel leads from a port of the host to `port` of this machine.
    """

    name: str
    kind: Literal["forward", "reverse"]
    host: str
    port: int
    folder: str  # the remote agent's folder on that host
    target: str = "127.0.0.1"  # of a `forward`, as seen from the host
    config: str | None = None  # replaces ~/.ssh/config


def want(folder: Path, tunnels: Sequence[Tunnel]) -> None:
    write_json(folder / "wanted.json", [asdict(each) for each in tunnels])


def ports(folder: Path) -> dict[str, Any]:
    """Return {tunnel name: port} for the open tunnels. The key `errors` has {host: reason} for each host with a failed tunnel.

    `folder` is the deployment's folder, which contains ports.json. The port is on this machine for a `forward` tunnel, and on
    the host for a `reverse` tunnel.
    """
    try:
        return dict(json.loads((folder / "ports.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def main(arguments: Sequence[str]) -> int:
    """Keep the tunnels in FOLDER/wanted.json open until SIGTERM. Return 0.

    `arguments` are FOLDER and the path of a file. The process creates this file to show that it has started.
    """
    folder, port_file = Path(arguments[0]), Path(arguments[1])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    keeper = _Keeper(folder)
    write_text(port_file, "0\n")
    seen: list[dict[str, Any]] = []
    while not ending.wait(TUNNEL_POLL_S):
        with contextlib.suppress(OSError, ValueError):
            now = json.loads((folder / "wanted.json").read_text(encoding="utf-8"))
            if now != seen:
                seen = now
                keeper.keep([Tunnel(**each) for each in now])
    keeper.close()
    return 0


class _Keeper:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._before = {key: value for key, value in ports(folder).items() if key != "errors"}
        self._ports: dict[str, int] = {}
        self._errors: dict[str, str] = {}
        self._hosts: dict[str, _TunnelHost] = {}
        self._write()

    def keep(self, wanted: Sequence[Tunnel]) -> None:
        for name in {each.host for each in wanted} | set(self._hosts):
            mine = [each for each in wanted if each.host == name]
            if name not in self._hosts:
                self._hosts[name] = _TunnelHost(self, mine[0])
            self._hosts[name].wanted = mine
            self._hosts[name].changed.set()

    def before(self, tunnel: Tunnel) -> int:
        return int(self._before.get(tunnel.name, 0))

    def up(self, tunnel: Tunnel, port: int) -> None:
        with self._lock:
            self._ports[tunnel.name] = self._before[tunnel.name] = port
            self._errors.pop(tunnel.host, None)
            self._write()
        log.info("%s: %s %s: port %d for %d", tunnel.host, tunnel.kind, tunnel.name, port, tunnel.port)

    def down(self, host: str, names: Sequence[str], reason: str = "") -> None:
        with self._lock:
            for name in names:
                self._ports.pop(name, None)
            if reason and self._errors.get(host) != reason:
                self._errors[host] = reason
                log.info("%s", reason)
            self._write()

    def close(self) -> None:
        for each in self._hosts.values():
            each.end()
        for each in self._hosts.values():
            each.thread.join(ANSWER_S)

    def _write(self) -> None:
        write_json(self.folder / "ports.json", {**self._ports, "errors": self._errors})


class _TunnelHost:
    def __init__(self, keeper: _Keeper, first: Tunnel) -> None:
        self.keeper, self.first = keeper, first
        self.wanted: list[Tunnel] = []
        self.changed = threading.Event()
        self._ending = False
        self._open: dict[Tunnel, Forward] = {}
        self.thread = threading.Thread(target=self._run, name=first.host, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self._ending = True
        self.changed.set()

    def _run(self) -> None:
        pause = PAUSE_S
        while not self._ending:
            host = host_of(self.first.host, config=Path(self.first.config) if self.first.config else None)
            began = time.monotonic()
            reason = ""
            try:
                with host:
                    self._keep(host)
            except WorkbenchError as error:
                reason = str(error)
            except Exception as error:  # if the thread ended, the ports would stay closed
                log.exception("unexpected")
                reason = f"{self.first.host}: {type(error).__name__}"
            names = [each.name for each in self._open]
            self._open.clear()
            self.keeper.down(self.first.host, names, reason)
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause = PAUSE_S
            if not self._ending:
                time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _keep(self, host: Host) -> None:
        try:
            while not self._ending:
                self.changed.clear()
                for tunnel in [each for each in self._open if each not in self.wanted]:
                    self._open.pop(tunnel).close()
                    self.keeper.down(host.name, [tunnel.name])
                for tunnel in self.wanted:
                    if tunnel not in self._open:
                        self._open[tunnel] = opened = self._opened(host, tunnel)
                        self.keeper.up(tunnel, opened.port)
                if not self.changed.wait(CHECK_S) and host.run(["true"], timeout=ANSWER_S).status:
                    raise RemoteError(f"{host.name}: its shell runs no command any more")
        finally:
            for each in self._open.values():
                each.close()

    def _opened(self, host: Host, tunnel: Tunnel) -> Forward:
        before = self.keeper.before(tunnel)
        if tunnel.kind == "forward":
            with contextlib.suppress(RemoteError):
                if before:
                    return host.forward(tunnel.port, tunnel.target, listen=before)
            return host.forward(tunnel.port, tunnel.target)
        if not before:
            return host.reverse(("127.0.0.1", tunnel.port))
        try:
            return host.reverse(("127.0.0.1", tunnel.port), listen=before)
        except RemoteError:
            # an old SSH session from this machine may still hold the port
            if not RemoteAgent(host, tunnel.folder)("free", port=before):
                raise
            return host.reverse(("127.0.0.1", tunnel.port), listen=before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
