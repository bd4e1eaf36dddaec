"""The attackers: each learns from pairs and guesses; a new one is a class with `fit` and `guess` and a line in `ATTACKERS`.

::

    pictures   undo      polarity, colours and histogram set right, noise smoothed: what needs no network
               invert    an inversion network (He et al. 2019, 2020); where few things are ever seen, the mean of each
               prior     the same with a learnt image prior: adversarial and feature loss, told the label
               optimise  white box: the picture whose protected form, by the generator's own weights, is what was seen
    classes    read      a classifier of the attacker's own, on protected pictures
               retrain   the auxiliary model, trained on
    which      replay    which of the pictures that he knows was it? He sends each through the edge and compares
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..models import AT_ONCE, channels_last
from .networks import RATE, Critic, SmallCNN, inverter, learn, narrow, run, seeded
from .views import VIEWS, Observed, Observer, Pairs

__all__ = ["ATTACKERS", "Attacker", "Effort", "FromInversion", "Inversion"]

FEW = 32  # pairs for each thing seen, from which on their mean is a better guess than any network's
PICTURES = ("perturbed", "decoded")


@dataclass(frozen=True)
class Effort:
    """How hard the attackers try: pairs, images that pass through a training, the networks' width, steps of an optimisation."""

    pairs: int
    passes: int
    width: int = 16
    steps: int = 40

    def of(self, pairs: int) -> Effort:
        """Return the same effort with another number of pairs, each of which is learnt from at least once."""
        if pairs < 1:
            raise UsageError(f"an attacker needs at least 1 pair to learn from, got {pairs}")
        return replace(self, pairs=pairs, passes=max(self.passes, pairs))


class Attacker(ABC):
    """Learns from pairs, then guesses from what was seen.

    `guesses` says what: `picture` (N x 3 x H x W in [0, 1]), `class` (logits N x K) or `which` (likeness N x M to the M
    pictures of the pairs). `knows` is what it takes. `tick` is told how many images have passed through a training.
    """

    name: ClassVar[str]
    guesses: ClassVar[str] = "picture"
    knows: ClassVar[str]
    views: ClassVar[tuple[str, ...]] = VIEWS

    def __init__(self, observer: Observer, effort: Effort, seed: int = 0, tick: Callable[[int], None] = lambda _: None) -> None:
        self.observer, self.effort, self.seed, self.tick = observer, effort, seed, tick
        self.device = observer.device

    @abstractmethod
    def fit(self, pairs: Pairs) -> None:
        """Learn."""

    @abstractmethod
    def guess(self, observed: Observed) -> Tensor:
        """Return the guesses."""

    def cost(self, n: int) -> int:
        """Return how many images will have passed when it has learnt and guessed `n`: the length of its progress bar."""
        return self.effort.passes


# --- pictures --------------------------------------------------------------------------------------------------------------


class Undo(Attacker):
    """Least squares on pixels: of the view smoothed by each of some widths, with and without its histogram made even.

    A channel's polarity, mixed colours and stretched contrast are all undone by the 7 x 3 matrix that fits best.
    """

    name, knows, views = "undo", "some pairs", PICTURES
    widths = (0.0, 0.6, 1.0, 1.6)

    def fit(self, pairs: Pairs) -> None:
        """Choose the width and the matrix of least error."""
        few = slice(0, 2000)
        wanted = pairs.images[few].permute(0, 2, 3, 1).reshape(-1, 3)
        fitted = []
        for width in self.widths:
            x = self._features(pairs.observed.seen[few], width)
            solution = torch.linalg.lstsq(x, wanted, driver="gelsd").solution
            fitted.append((float((x @ solution - wanted).square().mean()), width, solution))
        _, self.width, self.matrix = min(fitted, key=lambda each: each[0])

    def guess(self, observed: Observed) -> Tensor:
        """Return the pictures set right."""
        n, _, height, width = observed.seen.shape
        x = self._features(observed.seen, self.width) @ self.matrix
        made: Tensor = x.view(n, height, width, 3).permute(0, 3, 1, 2).clamp(0, 1)
        return made

    def cost(self, n: int) -> int:
        """No training."""
        return 0

    @staticmethod
    def _features(seen: Tensor, width: float) -> Tensor:
        if width:
            reach = torch.arange(-3, 4, dtype=torch.float32)
            kernel = torch.exp(-(reach**2) / (2 * width**2))
            kernel = (kernel / kernel.sum()).expand(3, 1, -1)
            seen = F.conv2d(F.pad(seen, (3, 3, 3, 3), mode="reflect"), kernel[:, :, None], groups=3)
            seen = F.conv2d(seen, kernel[..., None], groups=3)
        flat = seen.flatten(2).contiguous()
        ordered = flat.sort(-1).values.contiguous()
        darker, no_lighter = (torch.searchsorted(ordered, flat, right=right) for right in (False, True))
        even = (darker + no_lighter).float() / (2 * flat.shape[-1])  # the share of darker pixels, of equals half
        pixels = torch.cat([flat, even, torch.ones_like(flat[:, :1])], 1)
        return pixels.transpose(1, 2).reshape(-1, pixels.shape[1])


class Inversion(Attacker):
    """An inversion network, mean squared error (He et al. 2019). Where few things are ever seen: the mean picture of each.

    The mean of all pictures that look the same to him is what nobody can better in mean squared error.
    """

    name, knows = "invert", "pairs"

    def fit(self, pairs: Pairs) -> None:
        """Learn, or look up."""
        first, which = pairs.observed.distinct
        self.network: nn.Module | None = None
        if len(first) * FEW <= len(pairs):
            self._tabulate(pairs, first, which)
            self.tick(self.effort.passes)
            return
        classes, size = self.observer.pair.target.num_classes, pairs.images.shape[-1]
        with seeded(self.seed):
            network = inverter(pairs.observed.seen[:4096], self.effort.width, classes, size).to(self.device)
        self.network = network

        def loss(seen: Tensor, answers: Tensor, images: Tensor) -> Tensor:
            return F.mse_loss(network(seen, answers).float(), images)

        data = (pairs.observed.seen, pairs.observed.answers, pairs.images)
        learn(network, loss, data, self.effort.passes, seed=self.seed, tick=self.tick)

    def _tabulate(self, pairs: Pairs, first: Tensor, which: Tensor) -> None:
        counts = torch.bincount(which, minlength=len(first))
        sums = torch.zeros(len(first), *pairs.images.shape[1:]).index_add_(0, which, pairs.images)
        self.means = sums / counts[:, None, None, None]
        self.known = pairs.observed.seen[first].flatten(1)

    def guess(self, observed: Observed) -> Tensor:
        """Return what the network draws, or the mean picture of what is nearest to what was seen."""
        if self.network is None:
            nearest = torch.cdist(observed.seen.flatten(1), self.known).argmin(1)
            means: Tensor = self.means[nearest]
            return means
        return run(self.network, self.device, observed.seen, observed.answers).clamp(0, 1)


class FromInversion(Attacker):
    """An attacker that goes on from where an inversion network ended: `base`, or one of his own where none is given."""

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
        """What comes after the inversion, and that too where it is his own."""
        return self.further(n) + (self.effort.passes if self.base is None else 0)

    @abstractmethod
    def further(self, n: int) -> int:
        """Return how many images pass after the inversion."""

    def based(self, pairs: Pairs) -> Inversion:
        """Return the inversion, fitted."""
        if self.base is None:
            self.base = Inversion(self.observer, self.effort, self.seed, self.tick)
            self.base.fit(pairs)
        return self.base


class Prior(FromInversion):
    """An inversion network with a learnt prior: told the label, it must also pass for an original before a critic.

    Starts where `Inversion` ended and learns on: absolute error + the critic's features + its judgement (Isola et al. 2017;
    Wang et al. 2018). Its guesses are sharper and, by mean squared error, mostly worse.
    """

    name, knows = "prior", "pairs"

    def further(self, n: int) -> int:
        """Half the inversion's training."""
        return self.effort.passes // 2

    def fit(self, pairs: Pairs) -> None:
        """Learn against a critic that learns."""
        classes, size = self.observer.pair.target.num_classes, pairs.images.shape[-1]
        network, rate = copy.deepcopy(self.based(pairs).network), RATE / 4
        with seeded(self.seed):
            if network is None:  # the base only looked it up: learn from the start
                network, rate = inverter(pairs.observed.seen[:4096], self.effort.width, classes, size), RATE
            self.network, critic = network.to(self.device), channels_last(Critic(), self.device)
        against = torch.optim.AdamW(critic.parameters(), RATE / 4, betas=(0.5, 0.99))

        def loss(seen: Tensor, answers: Tensor, images: Tensor) -> Tensor:
            guess = network(seen, answers)
            judged = F.relu(1 - critic(images)).mean() + F.relu(1 + critic(guess.detach())).mean()
            against.zero_grad(set_to_none=True)
            judged.backward()  # type: ignore[no-untyped-call]
            against.step()
            critic.requires_grad_(False)
            with torch.no_grad():
                real = critic.layers[:4](4 * (images - 0.5))
            made = critic.layers[:4](4 * (guess - 0.5))
            passing = -critic.layers[4:](made).mean()
            critic.requires_grad_(True)
            total: Tensor = F.l1_loss(guess, images) + 0.1 * F.l1_loss(made, real) + 0.02 * passing
            return total

        data = (pairs.observed.seen, pairs.observed.answers, pairs.images)
        learn(network, loss, data, self.effort.passes // 2, rate=rate, seed=self.seed, tick=self.tick)

    def guess(self, observed: Observed) -> Tensor:
        """Return what the network draws."""
        return run(self.network, self.device, observed.seen, observed.answers).clamp(0, 1)


class Optimise(FromInversion):
    """White box: gradient descent from the inversion's guess to a picture whose protected form is what was seen.

    On `perturbed` || G(x) - seen ||^2, on `payload` the distance of the latents, or what keeps the edge from choosing the
    pattern that was seen; and a little total variation. Who holds the decoded image holds the payload.
    """

    name, knows, views = "optimise", "pairs, the weights of generator and encoder", ("perturbed", "payload")
    smooth = 0.02

    def further(self, n: int) -> int:
        """Every step counts as an image."""
        return self.effort.steps * n

    def fit(self, pairs: Pairs) -> None:
        """Learn where to start."""
        self.based(pairs)

    def guess(self, observed: Observed) -> Tensor:
        """Descend, some pictures at a time."""
        assert self.base is not None
        starts = self.base.guess(observed)
        at_once = AT_ONCE.get(self.device.type, 64)
        return torch.cat(
            [
                self._descend(start, observed[rows : rows + at_once])
                for rows, start in zip(range(0, len(observed), at_once), torch.split(starts, at_once), strict=True)
            ]
        )

    def _descend(self, start: Tensor, observed: Observed) -> Tensor:
        seen = observed.seen.to(self.device)
        noise = 0.01 * torch.randn(start.shape, generator=torch.Generator().manual_seed(self.seed))
        x = (start + noise).clamp(0, 1).to(self.device).requires_grad_(True)
        optimizer = torch.optim.Adam([x], 0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.effort.steps, 0.002)
        for _ in range(self.effort.steps):
            optimizer.zero_grad(set_to_none=True)
            inside = x.clamp(0, 1)
            with narrow(self.device):
                error = self._error(inside, seen, observed.view)
            variation = (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
            (error + self.smooth * variation).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            self.tick(len(x))
        return x.detach().clamp(0, 1).cpu()

    def _error(self, x: Tensor, seen: Tensor, view: str) -> Tensor:
        protected = self.observer.generator(x, self.observer.strength)
        compressor = self.observer.compressor
        if view == "perturbed" or compressor is None:
            return F.mse_loss(protected.float(), seen)
        y = compressor.latents(protected.float()).float()
        if not len(compressor.reader) or y.shape[1:] != compressor.patterns.shape[1:]:
            return F.mse_loss(y, seen)
        wanted = torch.cdist(seen.flatten(1), compressor.patterns.flatten(1).float()).argmin(1)
        return F.cross_entropy(-20 * compressor.costs(y), wanted)


# --- classes ---------------------------------------------------------------------------------------------------------------


class Read(Attacker):
    """A small classifier, trained on what was seen."""

    name, knows, guesses, views = "read", "pairs and their classes", "class", PICTURES

    def make(self) -> nn.Module:
        """Return the network to train."""
        return SmallCNN(self.observer.pair.target.num_classes)

    def fit(self, pairs: Pairs) -> None:
        """Learn the classes. Raises UsageError where the pairs have none."""
        if pairs.labels is None:
            raise UsageError(f"attacker {self.name!r} needs pairs whose classes are known: source 'same'")
        with seeded(self.seed):
            self.network = self.make().to(self.device)

        def loss(seen: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.network(seen).float(), labels)

        passes, rate = self._schedule()
        learn(self.network, loss, (pairs.observed.seen, pairs.labels), passes, rate=rate, seed=self.seed, tick=self.tick)

    def _schedule(self) -> tuple[int, float]:
        return self.effort.passes, RATE

    def guess(self, observed: Observed) -> Tensor:
        """Return the logits."""
        return run(self.network, self.device, observed.seen)


class Retrain(Read):
    """The auxiliary model, which the perturbation was made against, trained on with protected pictures."""

    name, knows = "retrain", "pairs and their classes, the auxiliary model"

    def make(self) -> nn.Module:
        """Return the auxiliary, to be trained whole; without dropout, which would draw from what others draw from."""
        made = copy.deepcopy(self.observer.pair.auxiliary).requires_grad_(True)
        for layer in made.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        return made

    def _schedule(self) -> tuple[int, float]:
        return self.effort.passes // 4, RATE / 8

    def cost(self, n: int) -> int:
        """A quarter: each pass costs four times as much."""
        return self.effort.passes // 4


# --- which of those he knows -----------------------------------------------------------------------------------------------


class Replay(Attacker):
    """Sends every picture that he knows through the edge, as any client may, and looks for what was seen among the views."""

    name, knows, guesses = "replay", "the pictures among which the one must be", "which"

    def cost(self, n: int) -> int:
        """No training."""
        return 0

    def fit(self, pairs: Pairs) -> None:
        """Keep what the edge made of the known pictures."""
        self.known = pairs.observed.seen.flatten(1)

    def guess(self, observed: Observed) -> Tensor:
        """Return minus the distances."""
        return -torch.cdist(observed.seen.flatten(1), self.known, compute_mode="donot_use_mm_for_euclid_dist")


ATTACKERS: dict[str, type[Attacker]] = {each.name: each for each in (Undo, Inversion, Prior, Optimise, Read, Retrain, Replay)}
