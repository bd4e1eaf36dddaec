"""White-box attackers with a learnt image prior. They search for a likely picture whose view is the observation.

::

    latents    search in the latents of a generative prior, as GLASS does (Li et al., NeurIPS 2023); the prior is a conditional
               variational autoencoder (Kingma and Welling 2014) in place of GLASS's StyleGAN
    diffusion  sampling from a diffusion prior, guided by the observation, as DRAG does (Lei et al., ICML 2025; Chung et al.,
               ICLR 2023); the prior is small and trained here, in place of DRAG's Stable Diffusion

White box means that the attacker knows the weights of generator and encoder. A view is the data that an attacker observes at
one point of the system. A pair is one of the attacker's own pictures, together with the observation of this picture. Both
attackers train their prior on the pictures of their pairs.

The search starts from the inversion network's guess of the picture. The correction is the difference between the found picture
and this guess. The result is the guess plus a share of the correction. The share is chosen on held-out pairs, and is 0 if the
prior does not help. The search has one parameter, `setting`, which is also chosen on held-out pairs.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..training.adversary import labelled_unet, with_labels
from .networks import MeanPictures, learn, narrow, seeded
from .reconstruct import HELD, MOST_HELD, Search, held_out, observation_error
from .views import Observed, Pairs

__all__ = ["DiffusionPrior", "LatentPrior", "WithPrior"]


class WithPrior(Search):
    """An attacker that corrects the inversion network's guess by a search with an image prior."""

    settings: ClassVar[tuple[float, ...]]
    tuned_on = 16  # held-out pairs

    def further(self, n: int) -> int:
        held = min(MOST_HELD, max(1, round(HELD * self.effort.pairs)))
        return self.effort.passes + self.effort.steps * (n + len(self.settings) * min(self.tuned_on, held))

    def fit(self, pairs: Pairs) -> None:
        """Fit the inversion network and the prior. Choose the search's setting and the correction's share on held-out pairs."""
        base = self.based(pairs)
        learnt, _ = held_out(pairs)
        self.means = MeanPictures.of(learnt, self.observer.pair.target.num_classes)
        self.train_prior(learnt)
        few = base.held[torch.arange(min(self.tuned_on, len(base.held)))]
        start, best = base.guess(few.observed), math.inf
        for setting in self.settings:
            correction = self.search(start, few.observed, setting) - start
            energy = float(correction.square().sum())
            gain = float((correction * (few.images - start)).sum())
            share = min(1.0, max(0.0, gain / energy)) if energy else 0.0
            error = float(F.mse_loss(start + share * correction, few.images))
            if error < best:
                best, self.setting, self.share = error, setting, share

    def guess(self, observed: Observed) -> Tensor:
        def corrected(start: Tensor, part: Observed) -> Tensor:
            return (start + self.share * (self.search(start, part, self.setting) - start)).clamp(0, 1)

        return self.searched(observed, corrected if self.share else None)

    @abstractmethod
    def train_prior(self, pairs: Pairs) -> None:
        """Train the prior on the pictures of `pairs`, and on the labels that the cloud returned for these pictures."""

    @abstractmethod
    def search(self, start: Tensor, observed: Observed, setting: float) -> Tensor:
        """Search for likely pictures whose views are the observations. Return N x 3 x H x W in [0, 1], on the CPU.

        The search starts from the pictures `start`. `setting` is one of `self.settings`. Each subclass defines its meaning.
        """

    def mismatch(self, pictures: Tensor, seen: Tensor, view: str) -> Tensor:
        """Return the distance (a scalar) between the observations `seen` and the views of `pictures`."""
        with narrow(self.device):
            return observation_error(self.observer, pictures, seen, view)


class ConditionalVAE(nn.Module):
    """A convolutional variational autoencoder of pictures, conditioned on the label. A picture has `LATENTS` latents.

    The network encodes and decodes the difference between a picture and the label's mean picture.
    """

    LATENTS = 64
    SIGMA = 0.03  # standard deviation of the pixels' Gaussian likelihood

    def __init__(self, size: int, width: int, means: MeanPictures) -> None:
        super().__init__()
        self.means, self.size, self.side = means, size, -(-size // 8)
        self.classes, w = len(means.means), 4 * width
        layers: list[nn.Module] = []
        for into, out in ((3 + self.classes, w // 2), (w // 2, w), (w, w)):
            layers += [nn.Conv2d(into, out, 4, 2, 1), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
        self.down = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2 * self.LATENTS))
        self.first = nn.Linear(self.LATENTS + self.classes, w * self.side**2)
        layers = []
        for into, out in ((w, w), (w, w // 2), (w // 2, w // 2)):
            layers += [nn.ConvTranspose2d(into, out, 4, 2, 1), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
        self.up = nn.Sequential(*layers, nn.Conv2d(w // 2, 3, 3, padding=1))

    def encode(self, images: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the logarithm of the variance of the latents, N x `LATENTS` each. `answers` are the labels."""
        padding = 8 * self.side - self.size
        inputs = F.pad(4 * (images - self.means(answers)), (0, padding, 0, padding))
        mean, log_variance = self.down(with_labels(inputs, answers, self.classes)).chunk(2, 1)
        return mean, log_variance.clamp(-12, 4)

    def decode(self, latents: Tensor, answers: Tensor) -> Tensor:
        """Return the pictures (N x 3 x H x W, not clamped) for latents and labels."""
        label = F.one_hot(answers, self.classes).to(latents)
        grid = self.first(torch.cat([latents, label], 1)).view(len(latents), -1, self.side, self.side)
        pictures: Tensor = self.means(answers) + self.up(grid)[..., : self.size, : self.size]
        return pictures

    def loss(self, images: Tensor, answers: Tensor, noise: Tensor) -> Tensor:
        """Return the negative evidence lower bound (nats) up to a constant, averaged over pictures and over pixel values.

        `noise` (N x `LATENTS`, standard normal) serves to sample the latents.
        """
        mean, log_variance = (each.float() for each in self.encode(images, answers))
        pictures = self.decode(mean + noise * (log_variance / 2).exp(), answers).float()
        reconstruction = (pictures - images).square().flatten(1).sum(1) / (2 * self.SIGMA**2)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
        return (reconstruction + divergence).mean() / images[0].numel()


class LatentPrior(WithPrior):
    """Searches by gradient descent in the latents of a conditional autoencoder.

    The search starts from the latents of the inversion network's guess. The loss is the mismatch with the observation, plus
    the weighted mean square of the latents. `settings` are candidates for this weight.
    """

    name = "latents"
    settings = (0.0, 0.001, 0.01)

    def train_prior(self, pairs: Pairs) -> None:
        random = torch.Generator().manual_seed(self.seed)
        with seeded(self.seed):
            self.prior = ConditionalVAE(pairs.images.shape[-1], self.effort.width, self.means)
            self.prior.encode(pairs.images[:2], pairs.observed.answers[:2])  # gives the lazy layer its shape
        self.prior.to(self.device)

        def loss(images: Tensor, answers: Tensor) -> Tensor:
            noise = torch.randn(len(images), ConditionalVAE.LATENTS, generator=random).to(images)
            return self.prior.loss(images, answers, noise)

        data = (pairs.images, pairs.observed.answers)
        learn(self.prior, loss, data, self.effort.passes, batch=32, rate=6e-3, seed=self.seed, tick=self.tick)
        self.prior.requires_grad_(False)

    def search(self, start: Tensor, observed: Observed, setting: float) -> Tensor:
        """Search from the pictures `start`, and return the pictures found.

        The search minimises a sum of two terms: the mismatch with the observation, and the mean square of the latents with
        weight `setting`.
        """
        seen, answers = observed.seen.to(self.device), observed.answers.to(self.device)
        with torch.no_grad():
            latents = self.prior.encode(start.to(self.device), answers)[0].float()
        latents.requires_grad_(True)
        optimizer = torch.optim.Adam([latents], 0.2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.effort.steps, 0.02)
        for _ in range(self.effort.steps):
            optimizer.zero_grad(set_to_none=True)
            pictures = self.prior.decode(latents, answers).clamp(0, 1)
            error = self.mismatch(pictures, seen, observed.view) + setting * latents.square().mean()
            error.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            self.tick(len(latents))
        with torch.no_grad():
            return self.prior.decode(latents, answers).clamp(0, 1).cpu()


class DiffusionPrior(WithPrior):
    """Samples from a conditional diffusion model, and corrects the sample towards the observation at each step.

    Let u = (x - the label's mean picture) / spread for a picture x. `spread` is the standard deviation of these differences.
    The model predicts v = alpha * noise - sigma * u, with alpha = cos(pi t / 2) and sigma = sin(pi t / 2) (Salimans and Ho
    2022).

    The sampler is deterministic (Song et al. 2021). Sampling starts at t = `START` from the inversion network's guess, to which
    the noise of this t is added. The length of each step's correction is `setting` / `effort.steps` times the expected norm of
    the noise at this step. `settings` are the candidates for `setting`, and 0 means no correction.
    """

    name = "diffusion"
    settings = (0.0, 0.5, 2.0)
    START = 0.7

    def train_prior(self, pairs: Pairs) -> None:
        """Train the diffusion model. Its inputs are the noisy picture, the label, and t as a constant channel."""
        random = torch.Generator().manual_seed(self.seed)
        self.classes = len(self.means.means)
        with seeded(self.seed):
            self.prior = labelled_unet(self.effort.width, self.classes + 1).to(self.device)
        self.spread = float((pairs.images - self.means(pairs.observed.answers)).std().clamp_min(1e-3))
        means = self.means.to(self.device)  # in place, and the pairs are in the CPU's memory

        def loss(images: Tensor, answers: Tensor) -> Tensor:
            clean = (images - means(answers)) / self.spread
            t = torch.rand(len(images), 1, 1, 1, generator=random).to(images)
            noise = torch.randn(images.shape, generator=random).to(images)
            alpha, sigma = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
            wanted = alpha * noise - sigma * clean
            return F.mse_loss(self._velocity(alpha * clean + sigma * noise, answers, t).float(), wanted)

        data = (pairs.images, pairs.observed.answers)
        learn(self.prior, loss, data, self.effort.passes, rate=2e-3, seed=self.seed, tick=self.tick)
        self.prior.requires_grad_(False)

    def _velocity(self, noised: Tensor, answers: Tensor, t: Tensor) -> Tensor:
        level = t.expand(-1, 1, *noised.shape[-2:]).to(noised)
        velocity: Tensor = self.prior(torch.cat([with_labels(noised, answers, self.classes), level], 1))
        return velocity

    def search(self, start: Tensor, observed: Observed, setting: float) -> Tensor:
        """Sample pictures in `effort.steps` steps. `setting` determines the length of the corrections (see the class).

        The noise depends only on the attacker's seed.
        """
        seen, answers = observed.seen.to(self.device), observed.answers.to(self.device)
        middle = self.means(answers)
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(self.seed)).to(self.device)
        times = torch.linspace(self.START, 0.0, self.effort.steps + 1).tolist()
        clean = (start.to(self.device) - middle) / self.spread
        u = math.cos(math.pi / 2 * times[0]) * clean + math.sin(math.pi / 2 * times[0]) * noise
        for now, then in itertools.pairwise(times):
            u = self._step(u, middle, answers, (now, then), setting, seen, observed.view)
            self.tick(len(u))
        pictures: Tensor = (u * self.spread + middle).clamp(0, 1).cpu()
        return pictures

    def _step(
        self, u: Tensor, middle: Tensor, answers: Tensor, times: tuple[float, float], setting: float, seen: Tensor, view: str
    ) -> Tensor:
        now, then = times
        alpha, sigma = math.cos(math.pi / 2 * now), math.sin(math.pi / 2 * now)
        u = u.detach().requires_grad_(True)
        with narrow(self.device):
            velocity = self._velocity(u, answers, torch.full((len(u), 1, 1, 1), now, device=u.device)).float()
        clean, noise = alpha * u - sigma * velocity, sigma * u + alpha * velocity
        moved = math.cos(math.pi / 2 * then) * clean + math.sin(math.pi / 2 * then) * noise
        if not setting:
            return moved.detach()
        error = self.mismatch((clean * self.spread + middle).clamp(0, 1), seen, view)
        (gradient,) = torch.autograd.grad(error, u)
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        length = setting * sigma * math.sqrt(u[0].numel()) / self.effort.steps
        corrected: Tensor = (moved - length * gradient / norm).detach()
        return corrected
