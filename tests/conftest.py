"""Options and hooks for all tests. Their fixtures are in tests/support/fixtures.py."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

# Processes that a shell starts in the background ignore Ctrl-C, and so would their children, which tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # jsonschema would import it, which takes two seconds

gc.disable()  # until the tests are collected, because it takes a quarter of the time of the imports

PEAKS = pytest.StashKey[dict[str, int]]()  # MiB of memory, by process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--payloads", type=int, default=400, help="hostile payloads to try in each fuzzing test (default: 400)")
    parser.addoption(
        "--cycles", type=int, default=2, help="how often a deployment is launched and stopped in a row (default: 2)"
    )
    parser.addoption("--mutations", type=int, default=300, help="mutated requests for the guest's policy (default: 300)")
    parser.addoption("--regenerate", action="store_true", help="write the golden figures instead of comparing with them")


def runs_tests(config: pytest.Config) -> bool:
    """Return whether this process runs tests, rather than distributing them to others."""
    return bool(config.getoption("dist", "no") == "no")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return three processes for two cores, because tests often wait for other processes, connections and browsers."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist reads it
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(2, cores * 3 // 2)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PEAKS] = {}
    if runs_tests(config):  # the fixtures import torch, which takes seconds
        config.pluginmanager.import_plugin("tests.support.fixtures")


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay, so later collections need not look at them
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Return freed memory to the system after each module, because glibc keeps hundreds of MB of freed tensors."""
    if nextitem is None or nextitem.path != item.path:
        with contextlib.suppress(AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not runs_tests(session.config):
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak
    else:
        session.config.stash[PEAKS]["this process"] = peak


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController, error: object) -> None:
    output: dict[str, Any] = getattr(node, "workeroutput", None) or {}
    if "peak" in output:
        node.config.stash[PEAKS][node.gateway.id] = output["peak"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if peaks := config.stash[PEAKS]:
        terminalreporter.write_line("peak memory: " + ", ".join(f"{name} {peak} MiB" for name, peak in sorted(peaks.items())))
