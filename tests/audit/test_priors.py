"""Attackers with a learnt prior: it helps if the observation is ambiguous, and is not used if it does not help."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.audits import TINY
from workbench.audit import Observed, Observer, Pairs
from workbench.audit.networks import MeanPictures
from workbench.audit.priors import DiffusionPrior, LatentPrior, WithPrior
from workbench.audit.reconstruct import FEW, Inversion
from workbench.weights import Pair

PRIORS = (LatentPrior, DiffusionPrior)
EFFORT = replace(TINY, passes=1500, width=8, steps=12)


def blobs(n: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    y, x = (8 + 16 * torch.randint(2, (n, 1, 1, 1), generator=random) for _ in range(2))
    rows = torch.arange(32.0).view(1, 1, 32, 1)
    bump = torch.exp(-((rows - y).square() + (rows.transpose(2, 3) - x).square()) / 40)
    return 0.2 + 0.6 * bump * torch.rand(n, 3, 1, 1, generator=random)


def pairs_at(observer: Observer, images: Tensor) -> Pairs:
    return Pairs(observer.observe(images, "perturbed"), images, torch.zeros(len(images), dtype=torch.int64))


def at_mean(observer: Observer, images: Tensor) -> Inversion:
    base = Inversion(observer, EFFORT)
    pairs = pairs_at(observer, images)
    constant = Observed("perturbed", torch.zeros_like(images), torch.zeros(len(images), dtype=torch.int64))
    base.fit(Pairs(constant, images, None))
    base.held = pairs[torch.arange(FEW)]
    return base


@pytest.mark.system
@pytest.mark.parametrize(("kind", "passes"), [(LatentPrior, 6000), (DiffusionPrior, 1500)])
def test_a_prior_finds_pictures_by_the_weights(kind: type[WithPrior], passes: int, networks: Pair) -> None:
    observer, known = Observer(networks, "png", strength=0.2), blobs(300, 0)
    attacker = kind(observer, replace(EFFORT, passes=passes), base=at_mean(observer, known))
    attacker.fit(pairs_at(observer, known))
    fresh = blobs(8, 1)
    observed = observer.observe(fresh, "perturbed")
    assert attacker.base is not None
    before, after = (float(F.mse_loss(each.guess(observed), fresh)) for each in (attacker.base, attacker))
    assert attacker.share > 0.2
    assert after < 0.8 * before


@pytest.mark.parametrize("kind", PRIORS)
def test_a_prior_of_no_help_is_not_used(kind: type[WithPrior], networks: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    observer, images = Observer(networks, "png", strength=0.2), blobs(80, 0)
    attacker = kind(observer, replace(EFFORT, passes=64, steps=1), base=at_mean(observer, images))
    monkeypatch.setattr(attacker, "search", lambda start, *_: start - (attacker.base.held.images[: len(start)] - start))
    attacker.fit(pairs_at(observer, images))
    assert attacker.share == 0
    observed = observer.observe(images[:FEW], "perturbed")
    monkeypatch.delattr(attacker, "search")
    monkeypatch.setattr(kind, "search", lambda *_: pytest.fail("a search whose result is not used"))
    assert torch.equal(attacker.guess(observed), attacker.base.guess(observed))


def test_the_means_move_to_a_gpu_after_their_use_on_the_cpu(networks: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    observer, images = Observer(networks, "png", strength=0.2), blobs(80, 0)
    attacker = DiffusionPrior(observer, replace(EFFORT, passes=64, steps=1), base=at_mean(observer, images))
    pairs, places = pairs_at(observer, images), ["cpu"]
    attacker.means = MeanPictures.of(pairs, observer.pair.target.num_classes)
    monkeypatch.setattr(MeanPictures, "to", lambda means, _: places.append("gpu") or means)
    plain = MeanPictures.forward

    def forward(means: MeanPictures, answers: Tensor) -> Tensor:
        assert places[-1] == "cpu" or answers is not pairs.observed.answers, "images of the CPU, means of the GPU"
        return plain(means, answers)

    monkeypatch.setattr(MeanPictures, "forward", forward)
    attacker.train_prior(pairs)
    assert places[-1] == "gpu"


@pytest.mark.system
def test_the_diffusion_prior_denoises(networks: Pair) -> None:
    observer, images = Observer(networks, "png", strength=0.2), blobs(300, 0)
    attacker = DiffusionPrior(observer, replace(EFFORT, passes=4000), base=at_mean(observer, images))
    attacker.fit(pairs_at(observer, images))
    fresh, answers = blobs(32, 1), torch.zeros(32, dtype=torch.int64)
    clean = (fresh - attacker.means(answers)) / attacker.spread
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    noised, t = (clean + noise) / 2**0.5, torch.full((32, 1, 1, 1), 0.5)
    with torch.no_grad():
        velocity = attacker._velocity(noised, answers, t).float()
    estimate = (noised - velocity) / 2**0.5
    best_scaling = noised * (noised * clean).sum() / noised.square().sum()
    assert F.mse_loss(estimate, clean) < 0.9 * F.mse_loss(best_scaling, clean)
