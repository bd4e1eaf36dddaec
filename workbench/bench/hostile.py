"""Measure whether hostile connections to the services slow down honest clients and health checks, or exhaust memory.

::

    attacker process (low priority, many addresses of loopback)         this process
       trailers   a chunked body, then trailers without end               honest clients (closed loop), alone and under attack
       pipeline   requests without waiting for responses                  probes (health checks), each on a new connection
       newlines   after a response, an empty line every second            the edge's memory
       unread     requests whose responses are never read

Attackers have no credential. The edge of this benchmark accepts tokens in addition to certificates. So it lets a connection
without a certificate send HTTP. If a connection of an attacker is closed, the attacker reconnects after a pause, so the number
of attackers stays the same.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..errors import UsageError

__all__ = ["Attack", "Probes", "main"]

ADDRESSES = 40
PAUSE_S = (30.0, 90.0)  # seconds, range of the pause before an attacker reconnects
STEP_S = 0.25  # seconds between two writes of an attacker
GET = b"GET /openapi.json HTTP/1.1\r\nHost: edge\r\n\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: edge\r\n\r\n"
CHUNKED = b"POST /recognize HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
TRAILERS = b"".join(b"x-%d: %d\r\n" % (number, number) for number in range(400))
NICE = 10
AUTOGROUP = Path("/proc/self/autogroup")
FILES_APART = 500  # file descriptors that are not available for connections


Write = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _repeating(first: bytes, repeated: bytes, pause_s: float = STEP_S) -> Write:
    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not reader.at_eof():
            await writer.drain()
            await asyncio.sleep(pause_s)
            writer.write(repeated)
        raise ConnectionResetError  # the service has closed the connection

    return write


async def _unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while not writer.transport.is_closing():
        writer.write(GET)
        await writer.drain()
        await asyncio.sleep(STEP_S)


ATTACKS: dict[str, Write] = {
    "trailers": _repeating(CHUNKED + TRAILERS, TRAILERS),
    "pipeline": _repeating(LIVE * 100, LIVE * 100),
    "newlines": _repeating(LIVE, b"\r\n", 1.0),
    "unread": _unread,
}


async def _attack(url: str, authority: Path, connections: int, pause_s: Sequence[float]) -> None:
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=str(authority))
    context.check_hostname = False
    counts: Counter[str] = Counter()
    opening = asyncio.Semaphore(64)

    async def attacker(number: int) -> None:
        attack = list(ATTACKS.values())[number % len(ATTACKS)]
        await asyncio.sleep(random.uniform(0.0, pause_s[0] / 2))  # spread the first connections over time
        local = (f"127.0.1.{1 + number % ADDRESSES}", 0) if sys.platform == "linux" else None
        while True:
            writer = None
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with opening, asyncio.timeout(10):
                    counts["attempts"] += 1
                    reader, writer = await asyncio.open_connection(
                        parts.hostname, parts.port, ssl=context, local_addr=local, limit=1 << 12
                    )
                counts["established"] += 1
                counts["open"] += 1
                try:
                    await attack(reader, writer)
                finally:
                    counts["open"] -= 1
            if writer is not None:
                writer.transport.abort()
            await asyncio.sleep(random.uniform(*pause_s))

    tasks = [asyncio.create_task(attacker(number)) for number in range(connections)]
    try:
        while True:
            print(json.dumps(counts), flush=True)
            await asyncio.sleep(1.0)
    finally:
        for task in tasks:
            task.cancel()


@dataclass
class Attack:
    """The result of an attack: the counts of its connections. `counts` is empty until the attack has ended.

    `attempts` counts the attempts to connect, `established` the successful ones. `open` counts the connections that were open
    at the end. `most_open` is the largest number of connections that were open at once.
    """

    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class Probes:
    """Sends health checks as a cluster does: one a second, each on a new connection without a credential.

    `authority` is the file of the CA certificate. `milliseconds` has the latency of each successful check. A check that fails,
    or has no response after `patience_s` seconds, counts in `failed`.
    """

    url: str
    authority: Path
    patience_s: float = 5.0
    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0

    async def run(self) -> None:
        """Send probes until cancelled."""
        context = ssl.create_default_context(cafile=str(self.authority))
        for path in itertools.cycle((b"live", b"ready")):
            start = time.perf_counter()
            try:
                async with asyncio.timeout(self.patience_s):
                    await self._probe(context, path)
                self.milliseconds.append(1e3 * (time.perf_counter() - start))
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.failed += 1
            await asyncio.sleep(max(0.0, start + 1.0 - time.perf_counter()))

    async def _probe(self, context: ssl.SSLContext, path: bytes) -> None:
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        try:
            writer.write(b"GET /v2/health/" + path + b" HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")
            if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
                raise ConnectionResetError
        finally:
            writer.transport.abort()

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers of probes sent and failed, and the 95th percentile of their latency (ms), as plain JSON values."""
        answered = {"ms_p95": float(np.percentile(self.milliseconds, 95))} if self.milliseconds else {}
        return {"sent": len(self.milliseconds) + self.failed, "failed": self.failed, **answered}


@contextlib.contextmanager
def attacked(url: str, authority: Path, connections: int, pause_s: tuple[float, float] = PAUSE_S) -> Iterator[Attack]:
    """A context in which another process attacks the service at `url` over many connections.

    `connections` is the number of attackers, each with one connection at a time. `authority` is the file of the CA certificate.
    `pause_s` has the shortest and the longest pause (s) before an attacker reconnects. Raises UsageError if the limit of open
    files is too low.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections + FILES_APART > most:
        raise UsageError(f"{connections} hostile connections need {connections + FILES_APART} open files, the limit is {most}")
    command = [sys.executable, "-m", __name__, url, str(authority), str(connections), *map(str, pause_s)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    attack = Attack()
    try:
        process.stdout.readline()  # the first line of counts: the attack has begun
        yield attack
    finally:
        process.terminate()
        counts = [json.loads(line) for line in process.communicate()[0].splitlines() if line.endswith("}")]
        attack.counts = {
            **(counts[-1] if counts else {}),
            "most_open": max((each.get("open", 0) for each in counts), default=0),
        }


def _yield_cores() -> None:
    # Real attackers would not use the service's cores.
    os.nice(NICE)
    with contextlib.suppress(OSError):  # Linux's autogroups apply `nice` only within a session, so lower the session's priority
        AUTOGROUP.write_text(str(NICE))


def main(arguments: Sequence[str] | None = None) -> None:
    """Attack a service until this process is terminated.

    `arguments` are the service's URL, the file of the CA certificate, the number of connections, and the shortest and the
    longest pause (s) before an attacker reconnects.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("authority", type=Path)
    parser.add_argument("connections", type=int)
    parser.add_argument("pause_s", type=float, nargs=2)
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    _yield_cores()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_attack(options.url, options.authority, options.connections, options.pause_s))


if __name__ == "__main__":
    main()
