"""Attackers at work side by side: the networks of one are too small to keep two cores busy, two attackers do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["seeded", "side_by_side"]

Result = TypeVar("Result")
MOST = 4  # at once: each also needs the interpreter, which is one's at a time
_drawing = threading.Lock()


def side_by_side(jobs: Sequence[Callable[[], Result]], device: torch.device, stop: threading.Event) -> list[Result]:
    """Do all jobs and return what they return, in their order: on a CPU as many at once as it has cores, which they share.

    Where one raises, or Ctrl-C is pressed, `stop` is set, on which a job at work raises CancelledError as soon as it can; no
    other starts, and what came is raised once all have ended.
    """
    cores = torch.get_num_threads()
    at_once = min(len(jobs), cores, MOST) if device.type == "cpu" else 1
    stop.clear()
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
        torch.set_num_threads(cores)  # part of it is the whole process's


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw what is enclosed, such as a network's first weights, from this seed, and let nobody else draw meanwhile."""
    with _drawing:
        torch.manual_seed(seed)
        yield
