"""The interface of an objective (a loss with the networks that it trains), and the classifiers' objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..classifiers import Classifier

__all__ = ["ClassifierObjective", "Objective", "clamp_inwards", "decayed_apart", "share"]


class Objective(nn.Module):
    """The interface of a loss: forward(images, labels) -> (loss, {name: figure}). The loss trains `network`.

    A figure is a scalar to report, such as an accuracy. To add a loss, write a subclass.

    `adversarial` means that two networks learn in turns, one against the other, so that a step leaves some parameters
    unchanged. The last state of such a training is kept, even if an earlier state had a lower loss. A low loss may only mean a
    weak adversary.
    """

    network: nn.Module
    adversarial = False
    turn = ""  # the kind of the present step, if steps differ in cost

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode. Frozen networks stay in evaluation mode, and so keep their batch-norm statistics."""
        super().train(mode)
        if mode:
            for child in self.children():
                _settle(child)
        return self

    def parts(self) -> list[nn.Module]:
        """Return the networks to save, each under its own name."""
        return [self.network]

    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups. The key `scale` of a group multiplies its learning rate."""
        return [{"params": [p for p in self.network.parameters() if p.requires_grad], "scale": 1.0}]

    def at(self, step: int, total: int) -> None:
        """Prepare for training step `step` of `total`. The loop calls this method before each step."""

    def before_validation(self, images: Tensor) -> None:
        """Update the tables that a codec needs for inference. `images` are images of the training split."""

    def finish(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Fit the tables of a trained codec to `images`. Return figures on these images, named `..._in_sample`.

        An example is the table of frequent patterns. By default there are no tables and no figures.
        """
        return {}


class ClassifierObjective(Objective):
    """The loss of a classifier: cross-entropy, in training with label smoothing (Szegedy et al. 2016).

    Norms and biases have no weight decay. Decay of a batch norm's scale regularises nothing, because the next layer's scale
    compensates for it (He et al. 2019, Bag of Tricks, section 3.1).

    With `unpadded`, training images smaller than the classifier's input (progressive sizes) are not padded. Then 2 x 2 pooling
    rounds up: a VGG halves 24 pixels to 12, 6, 3, 2, 1. For multiples of 32, rounding changes nothing.
    """

    def __init__(self, classifier: Classifier, smoothing: float = 0.0, unpadded: bool = False) -> None:
        super().__init__()
        self.network, self.smoothing, self.unpadded = classifier, smoothing, unpadded
        for pool in classifier.modules() if unpadded else ():
            if isinstance(pool, nn.MaxPool2d) and pool.kernel_size == 2:
                pool.ceil_mode = True

    def groups(self) -> list[dict[str, Any]]:
        return decayed_apart(self.network)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        read: Callable[[Tensor], Tensor] = self.network
        if self.unpadded and self.training and isinstance(self.network, Classifier):
            read = self.network.read_unpadded
        logits = read(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing if self.training else 0.0)
        return loss, {"accuracy": share(logits, labels)}


def _settle(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(each.requires_grad for each in parameters):
        module.eval()
    else:
        for child in module.children():
            _settle(child)


def decayed_apart(network: nn.Module) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices and kernels with weight decay, and vectors (norms, biases) without."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "scale": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "scale": 1.0, "weight_decay": 0.0},
    ]


def share(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the accuracy: the share of rows of logits (N x K) whose largest entry is at `labels` (N)."""
    return (logits.argmax(1) == labels).float().mean()


class _Inwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return gradient.masked_fill((x < 0) & (gradient > 0) | (x > 1) & (gradient < 0), 0)


def clamp_inwards(x: Tensor) -> Tensor:
    """Clamp to [0, 1], with a gradient that can still move clamped values back.

    Outside [0, 1], a gradient only passes if gradient descent moves the value towards the interval.
    """
    clamped: Tensor = _Inwards.apply(x)  # type: ignore[no-untyped-call]
    return clamped
