"""The relay's bandwidth compared with the kernel's: a token bucket (tc tbf) between two network namespaces."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from workbench.bench.link import Kind, Link

pytestmark = pytest.mark.system

RATE = 2_000_000  # bits a second
SENT = 100_000  # bytes
SINK = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        near, _ = listener.accept()
        with near:
            left = int(sys.argv[2])
            while left and (part := near.recv(1 << 16)):
                left -= len(part)
            near.sendall(b"!")
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)


@pytest.fixture
def far_away() -> Iterator[tuple[str, str]]:
    """A namespace behind a link that the kernel limits to `RATE`: its name and its address. Skips without namespaces."""
    if not (shutil.which("ip") and shutil.which("tc")):
        if os.environ.get("WORKBENCH_REQUIRE_TC"):
            pytest.fail("WORKBENCH_REQUIRE_TC is set, and there is no ip or no tc")
        pytest.skip("there is no ip or no tc: install Debian's iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    name, net = f"pmc2-{os.getpid()}", f"10.213.{os.getpid() % 250}"
    near, far = f"n{os.getpid()}", f"f{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        run("ip", "addr", "add", f"{net}.1/30", "dev", near)
        run("ip", "link", "set", near, "up")
        run("ip", "netns", "exec", name, "ip", "addr", "add", f"{net}.2/30", "dev", far)
        run("ip", "netns", "exec", name, "ip", "link", "set", far, "up")
        run("tc", "qdisc", "add", "dev", near, "root", "tbf", "rate", f"{RATE}bit", "burst", "1600", "limit", "200000")
        yield name, f"{net}.2"
    finally:
        run("ip", "netns", "del", name)


def seconds_to(address: tuple[str, int]) -> float:
    """Return the seconds until the peer has received all data."""
    with socket.create_connection(address, timeout=20) as near:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        near.sendall(bytes(SENT))
        assert near.recv(1) == b"!"
        return time.perf_counter() - start


def least_to(address: tuple[str, int]) -> float:
    """Return the least of three times, because other load only adds to each."""
    return min(seconds_to(address) for _ in range(3))


def test_the_relay_takes_as_long_as_the_kernels_token_bucket(far_away: tuple[str, str]) -> None:
    name, address = far_away
    sink = [sys.executable, "-c", SINK]
    with (
        subprocess.Popen(["ip", "netns", "exec", name, *sink, address, str(SENT)], stdout=subprocess.PIPE, text=True) as remote,
        subprocess.Popen([*sink, "127.0.0.1", str(SENT)], stdout=subprocess.PIPE, text=True) as local,
    ):
        try:
            assert remote.stdout is not None
            assert local.stdout is not None
            kernel = least_to((address, int(remote.stdout.readline())))
            with Link(f"https://127.0.0.1:{int(local.stdout.readline())}", Kind("as the kernel's", RATE, 0.0)) as link:
                relay = least_to(("127.0.0.1", int(link.url.rpartition(":")[2])))
        finally:
            remote.kill()
            local.kill()
    least = 8 * SENT / RATE
    assert least <= relay
    assert relay == pytest.approx(kernel, rel=0.15), "the kernel counts the headers of TCP and IP, too"
