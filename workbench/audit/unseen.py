"""Transferability of the protection: the accuracy of unseen classifiers on protected pictures.

The generator's training uses only two classifiers, the target and the auxiliary. An unseen classifier is any other classifier.
Protection must hold for unseen classifiers, too (paper PP, section 5.4).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..classifiers import CLASSIFIER_NAMES, Classifier, heads
from ..pictures import to_float
from .attempts import Attempts
from .contract import PICTURE_VIEWS, Effort
from .networks import learn, run, seeded
from .scores import across

__all__ = ["UNSEEN", "allowed_unseen", "unseen_cost", "unseen_rows"]

UNSEEN = 3  # default number of classifiers
ALLOWED_UNSEEN = 0.15  # largest share of protected pictures that an unseen classifier may recognise, with ten classes or more
ABOVE_CHANCE = 1.5  # the same as a multiple of chance, with fewer classes
WIDTH = 4  # divisor of the classifiers' channels: the architecture matters, not the best accuracy
SCHEDULE = 2  # passes of each classifier, as a multiple of an attacker's passes


def unseen_cost(effort: Effort, count: int) -> int:
    """Return how many images the training of `count` unseen classifiers processes. Each use of an image counts."""
    return count * SCHEDULE * effort.passes


def allowed_unseen(classes: int) -> float:
    """Return the largest allowed accuracy of an unseen classifier on protected pictures of `classes` classes, in [0, 1]."""
    return max(ALLOWED_UNSEEN, ABOVE_CHANCE / classes)


def unseen_rows(audit: Attempts, count: int = UNSEEN) -> list[dict[str, Any]]:
    """Train `count` unseen classifiers. Return a row for each, with its accuracy on originals and on protected pictures.

    The protected pictures are those of the views `PICTURE_VIEWS`. `allowed` is the result of `allowed_unseen`. `holds` states
    for each view whether the upper end of the accuracy's interval is at most `allowed`. The classifiers are the first `count`
    architectures that are neither the pair's target nor its auxiliary. They have a quarter of the usual channels, and learn
    from original training images.
    """
    pair, allowed = audit.pair, allowed_unseen(len(audit.dataset.classes))
    names = [name for name in CLASSIFIER_NAMES if name not in (pair.target.name, pair.auxiliary.name)][:count]
    views = {"originals": audit.images} | {view: audit.observed(view).seen for view in PICTURE_VIEWS}
    rows = []
    for seed, name in enumerate(names):
        classifier = _trained(audit, name, seed)
        right = {
            view: (run(classifier, audit.device, images).argmax(1) == audit.labels).float() for view, images in views.items()
        }
        shares = {view: across([each], share=True) for view, each in right.items()}
        holds = {view: shares[view].high <= allowed for view in PICTURE_VIEWS}
        rows.append({"classifier": name, "width": WIDTH, **shares, "allowed": allowed, "holds": holds})
    return rows


def _trained(audit: Attempts, name: str, seed: int) -> Classifier:
    with seeded(seed):
        network = Classifier(name, len(audit.dataset.classes), heads(name)[-1], WIDTH).to(audit.device)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # dropout would draw from the shared random generator
    train = audit.dataset.train

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(to_float(images)).float(), labels)

    passes = SCHEDULE * audit.effort.passes
    learn(network, loss, (train.images, train.labels), passes, seed=seed, tick=audit.tick)
    return network
