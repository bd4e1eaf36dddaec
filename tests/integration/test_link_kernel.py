"""The relay's bandwidth compared with the kernel's: a token bucket (tc tbf) between two network namespaces."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.netns import Network, networks, unavailable
from workbench.bench.link import Kind, Link

pytestmark = [pytest.mark.system, pytest.mark.timing]

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


@pytest.fixture
def far_away() -> Iterator[Network]:
    if not shutil.which("tc"):
        unavailable("there is no tc: install Debian's iproute2")
    with networks(("far",)) as made:
        made["far"].slow(RATE, burst="1600")
        yield made["far"]


def seconds_to(address: tuple[str, int]) -> float:
    with socket.create_connection(address, timeout=20) as near:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        near.sendall(bytes(SENT))
        assert near.recv(1) == b"!"
        return time.perf_counter() - start


def least_to(address: tuple[str, int]) -> float:
    return min(seconds_to(address) for _ in range(3))


def test_the_relay_takes_as_long_as_the_kernels_token_bucket(far_away: Network) -> None:
    sink = [sys.executable, "-c", SINK]
    with (
        subprocess.Popen([*far_away.inside, *sink, far_away.address, str(SENT)], stdout=subprocess.PIPE, text=True) as remote,
        subprocess.Popen([*sink, "127.0.0.1", str(SENT)], stdout=subprocess.PIPE, text=True) as local,
    ):
        try:
            assert remote.stdout is not None
            assert local.stdout is not None
            kernel = least_to((far_away.address, int(remote.stdout.readline())))
            with Link(f"https://127.0.0.1:{int(local.stdout.readline())}", Kind("as the kernel's", RATE, 0.0)) as link:
                relay = least_to(("127.0.0.1", int(link.url.rpartition(":")[2])))
        finally:
            remote.kill()
            local.kill()
    least = 8 * SENT / RATE
    assert least <= relay
    assert relay == pytest.approx(kernel, rel=0.15), "the kernel counts the headers of TCP and IP, too"
