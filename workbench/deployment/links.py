"""Open the tunnels that the stages of a deployment need.

The stages are the edge and the cloud. A tunnel is a port that is forwarded over SSH. The module `tunnels` is the local process
that keeps the tunnels open.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RemoteError
from ..remote import Host
from . import tunnels
from .agent.stage import DRAIN_S
from .plan import Deployment, StagePlan
from .stages import RemoteAgent
from .tunnels import Tunnel

__all__ = ["Links", "on_this_machine"]

JOINED_S = 60.0  # limit until all tunnels are open


def on_this_machine(plan: StagePlan) -> bool:
    return plan.local and plan.runtime == "process"


class Links:
    """Opens and closes the tunnels of a plan. `host()` returns the `Host` of the local machine.

    `config` is a configuration file that replaces ~/.ssh/config. The methods have a parameter `state`, which maps the name of
    each started stage to [host, port] of the stage. Host and port are as seen from the stage's machine.
    """

    def __init__(self, plan: Deployment, config: Path | None, host: Callable[[], Host]) -> None:
        self.plan, self.config, self.folder, self._host = plan, config, plan.folder, host

    def _tunnels(self, state: dict[str, Any]) -> list[Tunnel]:
        edge, cloud = self.plan.edge, self.plan.cloud
        config = str(self.config) if self.config else None
        wanted: list[Tunnel] = []
        if "cloud" in state and not cloud.local and not cloud.address:
            wanted.append(Tunnel("cloud", "forward", cloud.host, state["cloud"][1], cloud.folder, config=config))
        if "cloud" in state and self._through_here():
            near = state["cloud"][1] if cloud.local else tunnels.ports(self.folder).get("cloud", 0)
            if near:
                wanted.append(Tunnel("cloud-at-edge", "reverse", edge.host, near, edge.folder, config=config))
        if "edge" in state and not edge.address and not on_this_machine(edge):
            target, port = state["edge"]
            wanted.append(Tunnel("edge", "forward", edge.host, port, edge.folder, target, config))
        return wanted

    def _through_here(self) -> bool:
        edge, cloud = self.plan.edge, self.plan.cloud
        return not cloud.address and not edge.local and edge.host != cloud.host

    def join(self, state: dict[str, Any]) -> None:
        """Open the tunnels of the stages in `state`, and wait until they are open.

        Raises RemoteError if a tunnel is not open after `JOINED_S` seconds.
        """
        deadline, asked = time.monotonic() + JOINED_S, list[Tunnel]()
        while wanted := self._tunnels(state):
            if wanted != asked:  # an open tunnel may be the target of a further one
                tunnels.want(self.folder, wanted)
                self._agent()("start", JOINED_S, **self._keeper())
                asked = wanted
            there = tunnels.ports(self.folder)
            missing = [each for each in wanted if each.name not in there]
            if not missing and self._tunnels(state) == wanted:
                return
            if time.monotonic() > deadline:
                reasons = there.get("errors", {})
                reason = next((reasons[each.host] for each in missing if each.host in reasons), f"none in {JOINED_S:.0f} s")
                raise RemoteError(f"no tunnel to {missing[0].host}: {reason}")
            time.sleep(0.05)

    def _keeper(self) -> dict[str, Any]:
        package = Path(__file__).resolve().parents[2]
        return {
            "name": f"{self.plan.name}-tunnels",
            "port": 0,
            "command": ["-m", f"{__package__}.tunnels", str(self.folder), "{home}/port"],
            "environ": {},
            "environment": {"python": sys.executable, "path": str(package)},
            "files": {},
            "texts": {},
        }

    def stop(self) -> bool:
        (self.folder / "wanted.json").unlink(missing_ok=True)
        (self.folder / "ports.json").unlink(missing_ok=True)
        here, name = self._agent(), self._keeper()["name"]
        return here.knows(name) and bool(here("stop", DRAIN_S, name=name))

    def _agent(self) -> RemoteAgent:
        return RemoteAgent(self._host(), str(self.folder / "here"))

    def cloud_seen_by_edge(self, state: dict[str, Any]) -> str:
        """Return the cloud's HOST:PORT, as seen from the edge's machine."""
        if self.plan.cloud.address:
            return self.plan.cloud.address
        if self.plan.edge.host == self.plan.cloud.host:
            return f"127.0.0.1:{state['cloud'][1]}"
        return f"127.0.0.1:{tunnels.ports(self.folder)['cloud-at-edge' if self._through_here() else 'cloud']}"
