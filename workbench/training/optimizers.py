"""The optimizers of the trainings: AdamW and SGD from PyTorch, and Muon for networks of convolutions and batch norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, unknown

__all__ = ["OPTIMIZERS", "Muon", "optimizer_of"]

OPTIMIZERS = ("adamw", "sgd", "muon")
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the iteration (Jordan et al. 2024, Muon)
ITERATIONS = 3  # as in Jordan et al. for CIFAR-10: most singular values are then between 0.3 and 1.4
MOMENTUM = {"kernel": 0.6, "rest": 0.85}  # as in Jordan et al. for CIFAR-10


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): convolution kernels move by the orthogonal matrix that is nearest to their momentum.

    A kernel counts as a matrix with one row for each output channel. Before each step, the kernel is scaled to the norm
    sqrt(output channels). An orthogonal matrix with at least as many columns as rows has the same norm. So the learning rate is
    the length of a step relative to the kernel, and kernels need no weight decay. A normalisation layer must follow each
    convolution, so that the scale has no effect. All other parameters, and kernels of one input channel (depthwise), learn by
    SGD with Nesterov momentum.

    PyTorch's own Muon takes matrices only. It orthogonalises them in bfloat16, which is slow on CPUs without such instructions.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Raises UsageError for a `closure`: Muon computes no loss itself."""
        if closure is not None:
            raise UsageError("Muon takes no closure: compute the loss and its gradients before the step")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        kernel = parameter.ndim == 4 and parameter.shape[1] > 1
        if not kernel:
            gradient = gradient.add(parameter, alpha=decay)
        momentum, state = MOMENTUM["kernel" if kernel else "rest"], self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        moving: Tensor = state["momentum_buffer"].mul_(momentum).add_(gradient)
        update = gradient.add(moving, alpha=momentum)
        if kernel:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp_min(1e-7))
            rows = update.permute(0, 2, 3, 1)  # copies nothing for kernels in channels_last order
            update = orthogonalised(rows.reshape(len(rows), -1)).view(rows.shape).permute(0, 3, 1, 2)
        parameter.add_(update, alpha=-rate)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return an approximation of the orthogonal matrix nearest to `matrix`: same singular vectors, singular values near 1.

    Each iteration replaces X by p(X X') X, with a polynomial p. All these factors of X are polynomials in the initial X X'. So
    the loop only multiplies small square matrices, and X is multiplied once, at the end.
    """
    wide: Tensor = matrix.T if len(matrix) > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    gram, factor = wide @ wide.T, None
    for _ in range(ITERATIONS):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal().add_(a)
        gram = polynomial @ gram @ polynomial
        factor = polynomial if factor is None else polynomial @ factor
    assert factor is not None
    wide = factor @ wide
    return wide.T if len(matrix) > matrix.shape[1] else wide


def optimizer_of(
    kind: str, groups: Sequence[dict[str, Any]], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return the optimizer `kind` of `OPTIMIZERS` over parameter groups. Raises UsageError for another kind."""
    if kind == "adamw":
        return torch.optim.AdamW(groups, learning_rate, weight_decay=weight_decay, fused=True)
    if kind == "sgd":
        return torch.optim.SGD(groups, learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)
    if kind == "muon":
        return Muon(groups, learning_rate, weight_decay)
    raise unknown("optimizer", kind, OPTIMIZERS)
