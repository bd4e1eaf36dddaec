"""Run a batch of jobs and their child processes, handle Ctrl-C, and configure memory and threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from .errors import RunError

__all__ = [
    "Children",
    "allowed_cores",
    "as_done",
    "cores",
    "interrupts",
    "keep_memory",
    "processor_name",
    "run_jobs",
    "spin_briefly",
]

Result = TypeVar("Result")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8  # malloc.h
MALLOC = {M_TRIM_THRESHOLD: (1 << 31) - 1, M_TOP_PAD: 64 << 20, M_MMAP_THRESHOLD: 1 << 30, M_ARENA_MAX: 1}


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """A context that yields an event. The first Ctrl-C sets the event instead of raising, and a second Ctrl-C raises.

    The caller checks the event between two steps of its work, because an interrupted step would leave a half-done update. In
    other threads than the main thread, the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)


def allowed_cores() -> list[int]:
    """Return the processor cores that this process may use, by number.

    The list is empty on systems that cannot restrict a process to some cores (macOS, Windows).
    """
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(allowed_cores()) or os.cpu_count() or 1


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name, or its architecture if the system reports no name.

    `cpuinfo` is the file in which Linux describes the processor.
    """
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def keep_memory() -> None:
    """Make the C library keep freed memory for reuse by all threads. Call this before any thread starts.

    By default, freed memory returns to the operating system, which clears it before the next batch of images can use it. Only
    glibc is configured. With any other C library this function does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in MALLOC.items():
        mallopt(option, value)


def spin_briefly() -> None:
    """Limit how long torch's idle threads poll for work, to 10,000 iterations. Call this before torch is loaded.

    With the default of 300,000 iterations, idle threads occupy cores that other threads need. The environment variables
    OMP_WAIT_POLICY and GOMP_SPINCOUNT take precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


class Children:
    """The child processes of a batch of jobs. After `stop` no further process starts until `restart`."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def restart(self) -> None:
        with self._lock:
            self._stopped = False

    @contextlib.contextmanager
    def start(self, command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """A context that starts and yields a child process. The process has its own session, and its output is piped.

        `options` are those of `subprocess.Popen`. Raises RunError after `stop`.
        """
        with self._lock:
            if self._stopped:
                raise RunError(f"{command[0]} was not started: the batch is being stopped")
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self, number: int, patience: float = 0.0) -> None:
        """Send the signal `number` to the process group of each child, and refuse to start more children.

        If `patience` is above 0, wait up to that many seconds, then kill the children that still run.
        """
        with self._lock:
            self._stopped, running = True, list(self._running)
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + patience
        for process in running if patience else ():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def as_done(futures: Iterable[Future[Result]], interrupted: threading.Event | None = None) -> Iterator[Future[Result]]:
    """Yield futures as they complete. Raise KeyboardInterrupt soon after the event `interrupted` is set."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)  # a longer wait would delay Ctrl-C
        if interrupted is not None and interrupted.is_set():
            raise KeyboardInterrupt
        yield from done


def run_jobs(
    function: Callable[..., Result],
    jobs: Mapping[str, tuple[Any, ...]],
    executor: Executor | None,
    done: Callable[[str, Result | Exception], None],
    *,
    children: Children,
    number: int = signal.SIGTERM,
    patience: float = 0.0,
) -> None:
    """Call `function` with the arguments of each of `jobs`. The calls run in parallel.

    `jobs` maps the name of each job to its arguments. `executor` makes the calls (None: one thread for each core). When a job
    ends, `done` is called with the job's name and its result or error. `children` are the processes that `function` starts.

    Ctrl-C, or an error in `done`, cancels the waiting jobs, sends the signal `number` to `children`, and is raised again.
    Children that still run after `patience` seconds are killed (0: never).
    """
    pool = executor or ThreadPoolExecutor(max(1, min(len(jobs), cores())))
    futures: dict[Future[Result], str] = {}
    children.restart()
    try:
        with interrupts() as interrupted:
            futures = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
            for future in as_done(futures, interrupted):
                try:
                    outcome: Result | Exception = future.result()
                except Exception as error:
                    outcome = error
                done(futures[future], outcome)
    except BaseException:
        for future in futures:
            future.cancel()
        children.stop(number, patience)
        raise
    finally:
        if executor is None:
            pool.shutdown()
