"""The devices and the precision of a training, and agreement between its processes (one for each device)."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import UsageError, unknown
from ..inference import computes_in_16_bits

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["DEVICES", "agreed", "launch", "on_gpu", "own_rows", "precision_of", "rank", "wait_for_all"]

DEVICES = ("auto", "cpu", "cuda")


def on_gpu(device: str) -> bool:
    """Return whether a training on `device` runs on a CUDA GPU.

    Raises UsageError for an unknown device, and if `cuda` is requested but there is no GPU.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was requested, but torch sees no CUDA GPU; use 'cpu' or 'auto'")
    return torch.cuda.is_available() and device != "cpu"


def launch(device: str, devices: int, half: bool, adversarial: bool = False) -> Fabric:
    """Start Fabric (of PyTorch Lightning) for a training with one process on each of `devices` devices.

    `device` is the kind of the devices. `half` requests 16 bits (see `precision_of`). `adversarial` declares that a step may
    leave parameters unchanged. Raises UsageError if there are fewer GPUs than `devices`.
    """
    cuda = on_gpu(device)
    if cuda and devices > torch.cuda.device_count():
        raise UsageError(f"torch sees {torch.cuda.device_count()} CUDA GPUs, fewer than the {devices} devices of the training")
    from lightning_fabric import Fabric  # imports torch's compiler, which takes seconds

    if cuda:
        torch.backends.cudnn.benchmark = True  # all batches have one shape, so searching for the fastest algorithm pays
    strategy = ("ddp_find_unused_parameters_true" if adversarial else "ddp") if devices > 1 else "auto"
    accelerator = "cuda" if cuda else "cpu"  # Fabric's own choice would be MPS on a Mac, which lacks float64
    fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=devices, precision=precision_of(device, half))
    if devices > 1:
        fabric.launch()
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    if torch.distributed.is_initialized():  # gloo's threads abort the process if they outlive the interpreter
        torch.distributed.destroy_process_group()


def precision_of(device: str, half: bool) -> Literal["bf16-mixed", "32-true"]:
    """Return the precision of forward passes, bfloat16 or 32 bits.

    CUDA GPUs always use bfloat16. With `half`, CPUs that support bfloat16 use it, too.
    """
    return "bf16-mixed" if on_gpu(device) or (half and computes_in_16_bits()) else "32-true"


def agreed(fabric: Fabric, *wishes: bool) -> list[bool]:
    """Return for each flag in `wishes` whether any process has set this flag. All processes get the same result."""
    if fabric.world_size == 1:
        return list(wishes)
    sums = fabric.all_reduce(torch.tensor([float(wish) for wish in wishes], device=fabric.device), reduce_op="sum")
    assert isinstance(sums, Tensor)
    return [bool(value > 0) for value in sums]


def own_rows(rows: Tensor, fabric: Fabric) -> Tensor:
    """Return the rows of a batch that this process trains on, at least one.

    If a batch has fewer rows than there are processes, several processes train on the same row.
    """
    return rows[fabric.global_rank % len(rows) :: fabric.world_size]


def rank() -> int:
    """Return this process's number in the training. Only process 0 writes files and messages."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return int(os.environ.get("LOCAL_RANK", "0"))  # Fabric sets it for further processes before the group exists


def wait_for_all() -> None:
    """Wait until every process of the training has called this."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
