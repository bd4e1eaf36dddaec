"""Network namespaces that can reach this one but not each other: machines in different networks for a test."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

COUNT = itertools.count()


@dataclass(frozen=True)
class Network:
    """A namespace, its address, and both ends of the link to it."""

    name: str
    address: str
    near: str

    @property
    def far(self) -> str:
        """The name of the link's end inside the namespace."""
        return f"{self.near}f"

    @property
    def inside(self) -> list[str]:
        """The prefix of a command line that runs inside."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        """Take the link down. Packets are then lost silently."""
        ip("-n", self.name, "link", "set", self.far, "down")

    def mend(self) -> None:
        """Bring the link up."""
        ip("-n", self.name, "link", "set", self.far, "up")

    @property
    def sent(self) -> int:
        """The number of bytes sent into the namespace, headers included."""
        return int(Path(f"/sys/class/net/{self.near}/statistics/tx_bytes").read_text())

    def slow(self, bits_per_s: int, burst: str = "16kb") -> None:
        """Limit the rate of traffic into the namespace."""
        limit = ["tbf", "rate", f"{bits_per_s}bit", "burst", burst, "limit", "200000"]
        subprocess.run(
            ["tc", "qdisc", "replace", "dev", self.near, "root", *limit], check=True, capture_output=True, timeout=10
        )


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, timeout=10)


def unavailable(reason: str) -> None:
    """Skip without namespaces, or fail if they are required."""
    if os.environ.get("WORKBENCH_REQUIRE_NETNS"):
        pytest.fail(f"WORKBENCH_REQUIRE_NETNS is set, and {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def networks(names: Sequence[str]) -> Iterator[dict[str, Network]]:
    """Yield a namespace for each name, with a link to this one and no route to any other. All are removed at the end."""
    if not shutil.which("ip"):
        unavailable("there is no ip: install Debian's iproute2")
    if os.geteuid() != 0:
        unavailable("network namespaces need root")
    made: dict[str, Network] = {}
    try:
        for index, name in enumerate(names):
            made[name] = _network(index, name)
        yield made
    finally:
        for network in made.values():
            ip("netns", "del", network.name)  # removes the link, too


def _network(index: int, name: str) -> Network:
    count = next(COUNT)  # the kernel removes a link some time after its namespace, so names and addresses are never reused
    mark = (os.getpid() + 97 * count) % 16384
    block = f"10.{214 + index}.{mark // 64}"
    gate, address = (f"{block}.{mark % 64 * 4 + host}" for host in (1, 2))
    network = Network(f"pmc2-{name}-{os.getpid()}-{count}", address, f"{name[:2]}{os.getpid()}n{count}")
    try:
        ip("netns", "add", network.name)
    except subprocess.CalledProcessError as error:
        unavailable(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    ip("link", "add", network.near, "type", "veth", "peer", "name", network.far, "netns", network.name)
    ip("addr", "add", f"{gate}/30", "dev", network.near)
    ip("link", "set", network.near, "up")
    for command in (
        ("addr", "add", f"{address}/30", "dev", network.far),
        ("link", "set", network.far, "up"),
        ("link", "set", "lo", "up"),
    ):
        ip("-n", network.name, *command)
    return network
