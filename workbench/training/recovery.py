"""How much of the pictures a batch's protected pictures give away: an attacker in closed form, new at every step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["recovered"]

FILTERS, MIXED = 32, 64  # random filters of the first and of the second layer
RIDGE = 1e-2  # of the mean of the features' variances


def recovered(protected: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the share of what distinguishes pictures of a class that a ridge regression on local features explains.

    ::

        protected -> 5 x 5 random filters, stride 2 -> value, magnitude ----------------> ridge -> residual
                                                        `-> 3 x 3 random filters -> ReLU --^

    `protected` and `images` are N x 3 x H x W in [0, 1]. The residual is each picture less the batch's mean picture of its
    class, so that the attacker knows the label. One regression serves all places of all pictures, at half the resolution. The
    filters are drawn again at each call: a generator cannot learn to deceive one attacker. Differentiable; from 0 to 1.
    """
    with torch.autocast(protected.device.type, enabled=False):
        features = _features(protected.float())
        target = F.avg_pool2d(_residual(images.float(), labels), 2)
        rows = features.movedim(1, -1).flatten(0, 2)[::2]
        values = target.movedim(1, -1).flatten(0, 2)[::2]
        rows = rows - rows.mean(0)
        rows = rows / rows.std(0).clamp_min(1e-4)
        values = values - values.mean(0)
        gram = rows.mT @ rows / len(rows)
        moment = rows.mT @ values / len(rows)
        weights = torch.linalg.solve(gram + RIDGE * torch.eye(len(gram), device=gram.device), moment)
        explained: Tensor = (weights * moment).sum() / values.square().mean(0).sum().clamp_min(1e-8)
        return explained


def _features(protected: Tensor) -> Tensor:
    centred = (protected - 0.5) * 4
    first = torch.randn(FILTERS, 3, 5, 5, device=protected.device) / 75**0.5
    values = F.conv2d(centred, first, padding=2, stride=2)
    energy = values.abs()
    second = torch.randn(MIXED, FILTERS, 3, 3, device=protected.device) / (9 * FILTERS) ** 0.5
    mixed = F.relu(F.conv2d(energy - energy.mean((0, 2, 3), keepdim=True), second, padding=1))
    return torch.cat([values, energy, mixed], 1)


def _residual(images: Tensor, labels: Tensor) -> Tensor:
    member = F.one_hot(labels).to(images)
    means = member.mT @ images.flatten(1) / member.sum(0).clamp_min(1)[:, None]
    return images - means[labels].view_as(images)
