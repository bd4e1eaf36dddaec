"""Run attackers in parallel threads. One attacker's networks are too small to keep several cores busy.

A view is the data that an attacker observes at one point of the system, such as the payload.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from ..errors import UsageError, unknown
from ..models import repeatable_noise
from .attackers import ATTACKERS
from .views import Observer

__all__ = ["Attempt", "run_parallel"]

Result = TypeVar("Result")
MOST = 4  # parallel jobs: more would wait for the interpreter lock


@dataclass(frozen=True)
class Attempt:
    """The attackers to run on one view, and the settings of their runs.

    Several attackers start from an inversion network, which predicts the original picture from an observation. For each seed
    one such network is trained, and all these attackers use it. `pairs` is the number of pictures that the attackers learn
    from, and `source` the origin of these pictures. `seeds` is the number of seeds. Unset fields (empty or None) default to
    the audit's settings.
    """

    view: str
    attackers: Sequence[str] = ("undo", "invert")
    source: str = ""
    pairs: int | None = None
    observer: Observer | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        for name in self.attackers:
            if name not in ATTACKERS:
                raise unknown("attacker", name, ATTACKERS)
            if self.view not in ATTACKERS[name].views:
                raise UsageError(
                    f"attacker {name!r} does not work on view {self.view!r}: on {', '.join(ATTACKERS[name].views)}"
                )


def run_parallel(jobs: Sequence[Callable[[], Result]], device: torch.device, stop: threading.Event) -> list[Result]:
    """Run all jobs, and return their results in the order of `jobs`.

    On a CPU up to `MOST` jobs run at once and share the cores. On other devices, jobs run one after another. The noise
    that the perturbation generator draws in a job depends only on the job's index.

    If a parallel job raises, or on Ctrl-C, `stop` is set and no further job starts. Running jobs must check `stop` when they
    report progress, and raise CancelledError. When all jobs have ended, `stop` is cleared and the first exception is raised.
    """
    jobs = [partial(_numbered, job, number) for number, job in enumerate(jobs)]
    cores = torch.get_num_threads()
    at_once = min(len(jobs), cores, MOST) if device.type == "cpu" else 1
    if at_once <= 1:
        return [job() for job in jobs]
    try:
        with ThreadPoolExecutor(at_once, "attacker", torch.set_num_threads, (cores // at_once,)) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for done in wait(futures, return_when=FIRST_EXCEPTION).done:
                    done.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [each.result() for each in futures]
    finally:
        stop.clear()
        torch.set_num_threads(cores)  # this setting is partly process-wide: restore it


def _numbered(job: Callable[[], Result], number: int) -> Result:
    with repeatable_noise(number):
        return job()
