"""A differentiable bound, valid for every attacker, on the information in protected pictures beyond the class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["leakage"]


def leakage(noiseless: Tensor, labels: Tensor, noise: float) -> Tensor:
    """Return an upper bound on the information that a protected picture carries beyond its class: a scalar, in nats.

    ::

        x' = clamp(z + noise * n)      I(x; x' | y) <= I(z; z + noise * n | y) <= sum over values of log(1 + V / noise^2) / 2

    x is the original, x' its protected form, y its class. `labels` (N) are the classes. `noiseless` are the pictures z
    (N x 3 x H x W) to which the generator adds the random component `noise` * n. n is standard normal. V is the variance of
    each of the 3 H W values within a class, pooled over the classes in the batch.

    At a given variance, Gaussian values carry the most information. Independent values carry at least as much as dependent
    ones (Cover and Thomas 2006, chapter 9). Clamping and rounding can only remove information. The bound is 0 if the class
    alone determines z.
    """
    member = F.one_hot(labels).to(noiseless)
    member = member[:, member.sum(0) > 0]
    flat = noiseless.float().flatten(1)
    means = member.mT @ flat / member.sum(0)[:, None]
    variance = (flat - member @ means).square().sum(0) / max(1, len(labels) - member.shape[1])
    return torch.log1p(variance / noise**2).sum() / 2
