"""The attackers that reconstruct pictures.

::

    undo      linear regression on pixels, which corrects polarity, colours and contrast, and smooths the noise
    invert    an inversion network, which predicts the picture from the observation (He et al. 2019, 2020)
    prior     the same network, further trained with an adversarial and a feature loss
    optimise  gradient descent to a picture whose view is the observation, with the weights of generator and encoder (white box)

A view is the data that an attacker observes at one point of the system. A pair is one of the attacker's own pictures, together
with the observation of this picture. If there are only few distinct observations, `invert` trains no network. Its guess is then
the mean of the pictures with the same observation.

An inversion network's guess is a base plus a trained residual. The base is fitted in closed form. By default the base is the
mean picture of the label that the cloud returned. If the observation is a picture, the base is a linear regression on that
mean and on the observed pixels. The residual is used only if it lowers the error on held-out pairs.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import AT_ONCE, channels_last
from .contract import PICTURE_VIEWS, Attacker, Effort
from .networks import RATE, Critic, Inverter, MeanPictures, inverter, learn, narrow, run, seeded, solve
from .views import Observed, Observer, Pairs

__all__ = ["FEW", "FromInversion", "Inversion", "Optimise", "Prior", "Search", "Undo", "held_out", "observation_error"]

FEW = 32  # with at least this many pairs for each distinct observation, the guess is their mean picture
HELD = 0.1  # share of the pairs that are held out for validation
MOST_HELD = 500  # held-out pairs at most


def held_out(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Split pairs into a training part and a held-out part. A single pair is in both."""
    held = min(MOST_HELD, max(1, round(HELD * len(pairs))))
    cut = max(1, len(pairs) - held)
    rows = torch.arange(len(pairs))
    return pairs[rows[:cut]], pairs[rows[-held:]]


class Undo(Attacker):
    """Predicts each pixel of the original by linear regression.

    The inputs are the smoothed observation, the rank of each pixel among all pixels (histogram equalisation), and the label's
    mean picture. One 10 x 3 matrix corrects polarity, mixed colours and contrast. `fit` tries several smoothing widths
    (pixels).
    """

    name, knows, views = "undo", "some pairs", PICTURE_VIEWS
    widths = (0.0, 0.6, 1.0, 1.6)
    learns_from = 500  # limit of pairs: 500,000 pixels suffice for 30 coefficients

    def fit(self, pairs: Pairs) -> None:
        """Fit the matrix at each smoothing width. Keep the width with the least squared error, and its matrix."""
        self.means = MeanPictures.of(pairs, self.observer.pair.target.num_classes)
        few = pairs[torch.arange(min(self.learns_from, len(pairs)))]
        wanted = few.images.permute(0, 2, 3, 1).reshape(-1, 3)
        fitted = []
        for width in self.widths:
            x = self._features(few.observed, width)
            solution = solve(x, wanted)
            fitted.append((float((x @ solution - wanted).square().mean()), width, solution))
        _, self.width, self.matrix = min(fitted, key=lambda each: each[0])

    def guess(self, observed: Observed) -> Tensor:
        n, _, height, width = observed.seen.shape
        x = self._features(observed, self.width) @ self.matrix
        pictures: Tensor = x.view(n, height, width, 3).permute(0, 3, 1, 2).clamp(0, 1)
        return pictures

    def cost(self, n: int) -> int:
        return 0

    def _features(self, observed: Observed, width: float) -> Tensor:
        first, which = observed.distinct  # sort equal pictures once: a codec may have few codes
        x = torch.cat([self._pixels(observed.seen[first], width)[which], self.means(observed.answers).flatten(2)], 1)
        return x.transpose(1, 2).reshape(-1, x.shape[1])

    @staticmethod
    def _pixels(seen: Tensor, width: float) -> Tensor:
        if width:
            reach = torch.arange(-3, 4, dtype=torch.float32)
            kernel = torch.exp(-(reach**2) / (2 * width**2))
            kernel = (kernel / kernel.sum()).expand(3, 1, -1)
            seen = F.conv2d(F.pad(seen, (3, 3, 3, 3), mode="reflect"), kernel[:, :, None], groups=3)
            seen = F.conv2d(seen, kernel[..., None], groups=3)
        flat = seen.flatten(2).contiguous()
        ordered = flat.sort(-1).values.contiguous()
        darker, no_lighter = (torch.searchsorted(ordered, flat, right=right) for right in (False, True))
        even = (darker + no_lighter).float() / (2 * flat.shape[-1])  # share of darker pixels; equal pixels count half
        return torch.cat([flat, even, torch.ones_like(flat[:, :1])], 1)


class Inversion(Attacker):
    """An attacker with an inversion network that minimises the mean squared error (He et al. 2019).

    No network is trained if there are at least `FEW` times as many pairs as distinct observations. The guess is then the mean
    of all pictures with the same observation. This mean has the least mean squared error.
    """

    name, knows = "invert", "pairs"

    def fit(self, pairs: Pairs) -> None:
        """Train the network. If few distinct observations occur, store the mean picture of each observation instead."""
        first, which = pairs.observed.distinct
        self.network: Inverter | None = None
        self.means = MeanPictures.of(pairs, self.observer.pair.target.num_classes)
        learnt, self.held = held_out(pairs)
        if len(first) * FEW <= len(pairs):
            self._tabulate(pairs, first, which)
            self.tick(self.effort.passes)
            return
        self.network = network = self.untrained(learnt)

        def loss(seen: Tensor, answers: Tensor, images: Tensor) -> Tensor:
            return F.mse_loss(network(seen, answers).float(), images)

        data = (learnt.observed.seen, learnt.observed.answers, learnt.images)
        learn(network, loss, data, self.effort.passes, seed=self.seed, tick=self.tick)
        network.share = self._share(network)

    def untrained(self, pairs: Pairs) -> Inverter:
        """Return an inverter whose base is fitted to `pairs`. Its trainable residual is still zero."""
        with seeded(self.seed):
            network = inverter(pairs.observed.seen[:4096], self.effort.width, self.means, pairs.images.shape[-1])
        network.fit_base(pairs.observed.seen[:2000], pairs.observed.answers[:2000], pairs.images[:2000])
        return network.to(self.device)

    def _share(self, network: Inverter) -> float:
        seen, answers, images = self.held.observed.seen, self.held.observed.answers, self.held.images
        base = run(network.base, self.device, seen, answers)
        residual = run(network, self.device, seen, answers) - base
        energy = float(residual.square().sum())
        return min(1.0, max(0.0, float((residual * (images - base)).sum()) / energy)) if energy else 0.0

    def _tabulate(self, pairs: Pairs, first: Tensor, which: Tensor) -> None:
        counts = torch.bincount(which, minlength=len(first))
        sums = torch.zeros(len(first), *pairs.images.shape[1:]).index_add_(0, which, pairs.images)
        self.table = sums / counts[:, None, None, None]
        self.known = pairs.observed.seen[first].flatten(1)

    def guess(self, observed: Observed) -> Tensor:
        if self.network is None:
            nearest = torch.cdist(observed.seen.flatten(1), self.known).argmin(1)
            pictures: Tensor = self.table[nearest]
            return pictures
        return run(self.network, self.device, observed.seen, observed.answers).clamp(0, 1)


class FromInversion(Attacker):
    """An attacker that starts from `base`, a fitted `Inversion`. If `base` is None, the attacker fits an `Inversion` first."""

    def __init__(
        self,
        observer: Observer,
        effort: Effort,
        seed: int = 0,
        tick: Callable[[int], None] = lambda _: None,
        base: Inversion | None = None,
    ) -> None:
        super().__init__(observer, effort, seed, tick)
        self.base = base

    def cost(self, n: int) -> int:
        """Return the number of images that `fit` and `guess` process for `n` observations.

        The training of a given `base` is not included.
        """
        return self.further(n) + (self.effort.passes if self.base is None else 0)

    @abstractmethod
    def further(self, n: int) -> int:
        """Return the number of images that are processed for `n` observations after the training of `base`."""

    def based(self, pairs: Pairs) -> Inversion:
        """Return `base`. If none was given, first fit an `Inversion` to the pairs."""
        if self.base is None:
            self.base = Inversion(self.observer, self.effort, self.seed, self.tick)
            self.base.fit(pairs)
        return self.base


class Prior(FromInversion):
    """An inversion network with further training against a critic, which separates guesses from originals.

    The further training starts from the network of a fitted `Inversion`, or from a new network if the `Inversion` has none. It
    uses `effort.passes` images. The loss is a weighted sum of the absolute error, the distance of the critic's features, and
    the critic's judgement (Isola et al. 2017; Wang et al. 2018). The guesses are sharper than the guesses of `Inversion`, but
    mostly have a larger squared error. The trained residual (see `Inverter`) is dropped if it increases the sum of the other
    two terms on held-out pairs.
    """

    name, knows = "prior", "pairs"

    def further(self, n: int) -> int:
        return self.effort.passes

    def fit(self, pairs: Pairs) -> None:
        base = self.based(pairs)
        learnt, held = held_out(pairs)
        network, rate = copy.deepcopy(base.network), RATE / 4
        with seeded(self.seed):
            critic = channels_last(Critic(), self.device)
        if network is None:  # the base is a table and has no network
            network, rate = base.untrained(learnt), RATE
        network.share = 1.0
        self.network = network
        against = torch.optim.AdamW(critic.parameters(), RATE / 4, betas=(0.5, 0.99))

        def distance(guess: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                real = critic.layers[:4](4 * (images - 0.5))
            features = critic.layers[:4](4 * (guess - 0.5))
            return F.l1_loss(guess, images) + 0.1 * F.l1_loss(features, real), features

        def loss(seen: Tensor, answers: Tensor, images: Tensor) -> Tensor:
            guess = network(seen, answers)
            judged = F.relu(1 - critic(images)).mean() + F.relu(1 + critic(guess.detach())).mean()
            against.zero_grad(set_to_none=True)
            judged.backward()  # type: ignore[no-untyped-call]
            against.step()
            critic.requires_grad_(False)
            near, features = distance(guess, images)
            passing = -critic.layers[4:](features).mean()
            critic.requires_grad_(True)
            total: Tensor = near + 0.02 * passing
            return total

        data = (learnt.observed.seen, learnt.observed.answers, learnt.images)
        learn(network, loss, data, self.effort.passes, rate=rate, seed=self.seed, tick=self.tick)
        critic.eval()

        def error(guess: Callable[..., Tensor]) -> float:
            pictures = run(guess, self.device, held.observed.seen, held.observed.answers).clamp(0, 1)
            near = run(lambda *both: distance(*both)[0].expand(len(both[0])), self.device, pictures, held.images)
            return float(near.mean())

        network.share = 1.0 if error(network) <= error(network.base) else 0.0

    def guess(self, observed: Observed) -> Tensor:
        return run(self.network, self.device, observed.seen, observed.answers).clamp(0, 1)


class Search(FromInversion):
    """A white-box attacker that searches for a picture whose view is the observation.

    The search starts from the inversion network's guess.
    """

    knows, views = "pairs, the weights of generator and encoder", ("perturbed", "payload")
    most = 1000

    def searched(self, observed: Observed, search: Callable[[Tensor, Observed], Tensor] | None) -> Tensor:
        """Run `search(guesses, observations)` in batches, and return the pictures that the search finds.

        The guesses are those of the inversion network. If `search` is None, these guesses are returned. If several
        observations are equal, the search runs once for all of them.
        """
        assert self.base is not None
        first, which = observed.distinct
        few = observed[first]
        starts, at_once = self.base.guess(few), AT_ONCE.get(self.device.type, 64)
        self.tick(self.effort.steps * (len(observed) - (len(few) if search else 0)))
        if search is None:
            return starts[which]
        rows = zip(range(0, len(few), at_once), torch.split(starts, at_once), strict=True)
        return torch.cat([search(start, few[row : row + at_once]) for row, start in rows])[which]


class Optimise(Search):
    """Searches by gradient descent for a picture whose view is the observation.

    The search starts from the inversion network's guess. The loss is `observation_error` plus weighted total variation.
    Held-out pairs select the weight. If no weight improves the guesses for these pairs, `guess` returns the inversion network's
    guesses. The view `decoded` needs no attack of its own, because the payload determines the decoded image.
    """

    name = "optimise"
    weights = (0.0, 0.002, 0.02)  # candidates for the weight of total variation
    tuned_on = 16  # held-out pairs
    smooth: float | None = 0.02  # the chosen weight; None: no descent

    def further(self, n: int) -> int:
        held = min(MOST_HELD, max(1, round(HELD * self.effort.pairs)))
        return self.effort.steps * (n + len(self.weights) * min(self.tuned_on, held))

    def fit(self, pairs: Pairs) -> None:
        """Fit the inversion network, and select the weight of total variation on held-out pairs."""
        base = self.based(pairs)
        few = base.held[torch.arange(min(self.tuned_on, len(base.held)))]
        start = base.guess(few.observed)
        errors: dict[float | None, float] = {None: float(F.mse_loss(start, few.images))}
        for weight in self.weights:
            errors[weight] = float(F.mse_loss(self._descend(start, few.observed, weight), few.images))
        self.smooth = min(errors, key=lambda weight: errors[weight])

    def guess(self, observed: Observed) -> Tensor:
        smooth = self.smooth
        return self.searched(observed, None if smooth is None else lambda start, part: self._descend(start, part, smooth))

    def _descend(self, start: Tensor, observed: Observed, smooth: float) -> Tensor:
        seen = observed.seen.to(self.device)
        noise = 0.01 * torch.randn(start.shape, generator=torch.Generator().manual_seed(self.seed))
        x = (start + noise).clamp(0, 1).to(self.device).requires_grad_(True)
        optimizer = torch.optim.Adam([x], 0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.effort.steps, 0.002)
        for _ in range(self.effort.steps):
            optimizer.zero_grad(set_to_none=True)
            inside = x.clamp(0, 1)
            with narrow(self.device):
                error = observation_error(self.observer, inside, seen, observed.view)
            variation = (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
            (error + smooth * variation).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            self.tick(len(x))
        return x.detach().clamp(0, 1).cpu()


def observation_error(observer: Observer, x: Tensor, seen: Tensor, view: str) -> Tensor:
    """Return a differentiable distance (a scalar) between the views of the pictures `x` and the observations `seen`.

    For the view `perturbed`, and for a codec without a compressor, the distance is the mean squared error between protected
    images and `seen`. For the `payload` of a neural codec, it is the mean squared error of the latents. If the encoder chooses
    one of several stored patterns of latents (`NeuralCompressor.choose`), the distance is the cross-entropy of this choice.
    """
    protected = observer.generator(x, observer.strength)
    compressor = observer.compressor
    if view == "perturbed" or compressor is None:
        return F.mse_loss(protected.float(), seen)
    y, stop = compressor.latents(protected.float()).float(), getattr(observer.codec, "stop", 0)
    if stop or not len(compressor.reader) or y.shape[1:] != compressor.patterns.shape[1:]:
        return F.mse_loss(compressor.sent(y, stop) / compressor.steps(stop), seen)
    wanted = torch.cdist(seen.flatten(1), compressor.patterns.flatten(1).float()).argmin(1)
    return F.cross_entropy(-20 * compressor.costs(y), wanted)
