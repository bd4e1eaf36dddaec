"""Scores of a guess: pixel error, structure, feature distance, recognition by a judge, and identification of the picture.

A guess is a picture that an attacker has reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.special import stdtrit
from torch import Tensor
from torch.nn import functional as F

from .. import metrics
from ..data import Dataset
from ..errors import UsageError
from ..metrics import Estimate
from ..pictures import to_float
from .networks import SmallCNN, feature_distance, learn, run

__all__ = ["FIGURES", "RECOGNISABLE", "Judge", "across", "area", "identified", "score"]

# The scores of every guessed picture, and the names of all scores that are proportions.
FIGURES = ("psnr", "ssim", "abs_ssim", "distance", "judged", "identified")
SHARES = ("judged", "identified", "read")
# The thresholds from which a reconstruction counts as recognisable (He et al., ACSAC 2019, section 4).
RECOGNISABLE = {"psnr": 10.0, "ssim": 0.3}
JUDGE_SEED = 1000


class Judge:
    """A small classifier that scores guesses. It is trained on original training images only.

    Its perceptual distance is LPIPS (Zhang et al. 2018) on the judge's own features, without learnt channel weights. LPIPS's
    original weights would need a download. The distances are comparable with each other, but not with published LPIPS values.
    """

    def __init__(
        self,
        dataset: Dataset,
        passes: int,
        device: torch.device,
        tick: Callable[[int], None] = lambda _: None,
        width: int = 32,
    ) -> None:
        torch.manual_seed(JUDGE_SEED)
        self.device, self.network = device, SmallCNN(len(dataset.classes), width).to(device)
        images, labels = dataset.train.images, dataset.train.labels
        shown = torch.Generator().manual_seed(JUDGE_SEED)

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            pictures = _shifted(to_float(images), shown)
            pictures = pictures.flip(-1) if dataset.mirror and torch.rand(1, generator=shown) < 0.5 else pictures
            return F.cross_entropy(self.network(pictures).float(), labels)

        learn(self.network, loss, (images, labels), passes, seed=JUDGE_SEED, tick=tick)

    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return 1 for each picture that the judge classifies correctly, else 0 (N)."""
        return (run(self.network, self.device, images).argmax(1) == labels).float()

    def compare(self, images: Tensor, guesses: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the perceptual distance of each guess from its image (N), and `right(guesses, labels)`."""

        def both(images: Tensor, guesses: Tensor) -> Tensor:
            features, logits = self.network.features_and_logits(guesses)
            distance = feature_distance(self.network.features_and_logits(images)[0], features)
            return torch.stack([distance.float(), logits.argmax(1).float()], 1)

        distance, judged = run(both, self.device, images, guesses).T
        return distance, (judged == labels).float()


def _shifted(images: Tensor, random: torch.Generator) -> Tensor:
    top, left = (int(each) for each in torch.randint(0, 5, (2,), generator=random))
    return F.pad(images, (2, 2, 2, 2), mode="reflect")[..., top : top + images.shape[-2], left : left + images.shape[-1]]


def score(guesses: Tensor, images: Tensor, labels: Tensor, judge: Judge) -> dict[str, Tensor]:
    """Return all scores of N guesses, as {score: N values}.

    The guesses reconstruct the first N of M `images`. The score `identified` compares each guess with all M images.
    """
    likeness = -torch.cdist(guesses.flatten(1), images.flatten(1)) if len(images) > 1 else torch.zeros(1, 1)
    images, labels = images[: len(guesses)], labels[: len(guesses)]
    similarity = run(metrics.ssim, images.device, images, guesses)
    distance, judged = judge.compare(images, guesses, labels)
    return {
        "psnr": metrics.psnr(images, guesses).clamp(max=100),
        "ssim": similarity,
        "abs_ssim": similarity.abs(),
        "distance": distance,
        "judged": judged,
        "identified": identified(likeness),
    }


def identified(likeness: Tensor) -> Tensor:
    """Return the probability that each guess identifies the right one of M known pictures (N).

    A guess identifies the picture with the greatest likeness. Ties are broken at random. `likeness` is N x M, with the right
    pictures on its diagonal.
    """
    best = likeness == likeness.max(1, keepdim=True).values
    return best.diagonal().float() / best.sum(1)


def across(figures: Sequence[Tensor], share: bool = False) -> Estimate:
    """Return the mean of a score, with a 95 % interval over images and seeds.

    `figures` has a tensor for each seed, with N values (one for each image). The interval combines two half-widths in
    quadrature: one over images, and one over seeds (Student's t). For a proportion (`share`), the half-width over images is
    Wilson's, which stays valid near 0 and 1.
    """
    values = torch.stack([each.double() for each in figures])
    seeds, n = values.shape
    over_images = metrics.mean(values.mean(0))
    between = float(stdtrit(seeds - 1, 0.975) * values.mean(1).std() / math.sqrt(seeds)) if seeds > 1 else 0.0
    low, high = over_images.low, over_images.high
    if share:
        wilson = metrics.wilson(min(n, round(over_images.value * n)), n)
        low, high = over_images.value - (wilson.value - wilson.low), over_images.value + (wilson.high - wilson.value)
    below = math.hypot(over_images.value - low, between)
    above = math.hypot(high - over_images.value, between)
    low, high = over_images.value - below, over_images.value + above
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(over_images.value, low, high, n, None if share else over_images.std)


def area(positive: Tensor, negative: Tensor) -> Estimate:
    """Return the area under the ROC curve: the probability that a positive scores above a negative.

    `positive` and `negative` are scores. A tie counts half. An area of 1/2 is chance. The interval is Hanley and McNeil's
    (1982). Raises UsageError if `positive` or `negative` is empty.
    """
    if not len(positive) or not len(negative):
        raise UsageError(f"an area needs scores on both sides, got {len(positive)} and {len(negative)}")
    order = torch.sort(negative.double()).values
    below = torch.searchsorted(order, positive.double(), right=False)
    up_to = torch.searchsorted(order, positive.double(), right=True)
    value = float((below + up_to).double().mean() / 2 / len(negative))
    m, n = len(positive), len(negative)
    first, second = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (m - 1) * (first - value**2) + (n - 1) * (second - value**2)
    half = 1.96 * math.sqrt(max(0.0, spread) / (m * n))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), m + n)
