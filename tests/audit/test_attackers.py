"""The attackers: each succeeds in a case constructed for it, and all satisfy one contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.audits import TINY, noisy
from workbench import metrics
from workbench.audit import ATTACKERS, VIEWS, Attacker, Effort, Observed, Observer, Pairs
from workbench.audit.attackers import Read, Replay, Retrain
from workbench.audit.networks import MeanPictures, learn
from workbench.audit.reconstruct import FEW, Inversion, Optimise, Prior, Undo, observation_error
from workbench.audit.scores import identified
from workbench.audit.views import pairs_of
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.pictures import to_float
from workbench.training.adversary import class_means
from workbench.weights import Pair


def colours(n: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=32, mode="bilinear", align_corners=True)


def seen_as(view: str, seen: Tensor, answers: Tensor | None = None) -> Observed:
    return Observed(view, seen, torch.zeros(len(seen), dtype=torch.int64) if answers is None else answers)


def made(name: str, observer: Observer, seed: int = 0, effort: Effort = TINY) -> Attacker:
    return ATTACKERS[name](observer, effort, seed)


def as_trained(attacker: Attacker) -> None:
    if isinstance(attacker, Prior | Inversion) and attacker.network is not None:
        attacker.network.share = 1.0


def decibels(guess: Tensor, images: Tensor) -> float:
    return float(metrics.psnr(images, guess).clamp(max=100).mean())


# --- the contract ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lively_observer(lively: Pair) -> Observer:
    return Observer(lively)


@pytest.fixture(scope="module")
def learnt(lively_observer: Observer, digits: Dataset, images: Tensor) -> dict[str, tuple[Pairs, Observed]]:
    return {view: (pairs_of(lively_observer, digits, view, 24), lively_observer.observe(images[:6], view)) for view in VIEWS}


@pytest.mark.parametrize(("name", "view"), [(name, view) for name, kind in ATTACKERS.items() for view in kind.views])
def test_every_attacker_guesses_what_it_declares_on_every_view(
    name: str, view: str, lively: Pair, lively_observer: Observer, learnt: dict[str, tuple[Pairs, Observed]]
) -> None:
    pairs, observed = learnt[view]
    effort = replace(TINY, pairs=24, passes=48)
    before = {key: value.clone() for key, value in lively.auxiliary.state_dict().items()}
    guesses = []
    for _ in range(2):
        passed: list[int] = []
        attacker = ATTACKERS[name](lively_observer, effort, 0, passed.append)
        cost = attacker.cost(6)
        attacker.fit(pairs)
        guesses.append(attacker.guess(observed))
        assert sum(passed) == cost, "the progress bar knows"
    shape = {"picture": (6, 3, 32, 32), "class": (6, 10), "which": (6, 24)}[attacker.guesses]
    assert guesses[0].shape == shape
    assert guesses[0].device.type == "cpu"
    assert guesses[0].isfinite().all()
    assert not guesses[0].requires_grad
    assert torch.equal(*guesses), "the same seed, the same guess"
    if attacker.guesses == "picture":
        assert guesses[0].min() >= 0
        assert guesses[0].max() <= 1
    assert attacker.knows
    after = lively.auxiliary.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items()), "the pair stays as it was"


@pytest.mark.parametrize("name", ["invert", "prior", "optimise", "read", "retrain"])
def test_another_seed_is_another_attacker(name: str, open_observer: Observer, digits: Dataset, images: Tensor) -> None:
    pairs, observed = pairs_of(open_observer, digits, "perturbed", 24), open_observer.observe(images[:4], "perturbed")
    guesses = []
    for seed in (0, 1):
        attacker = made(name, open_observer, seed, replace(TINY, passes=48))
        attacker.fit(pairs)
        as_trained(attacker)
        guesses.append(attacker.guess(observed))
    assert not torch.equal(*guesses)


def test_a_training_tells_how_many_of_its_passes_are_done() -> None:
    for passes, n in ((64, 64), (65, 64), (70, 30), (5, 30), (1, 3)):
        network, ticks = torch.nn.Linear(2, 1), list[int]()
        learn(network, lambda x, network=network: network(x).square().mean(), [torch.ones(n, 2)], passes, tick=ticks.append)
        assert sum(ticks) == passes, n
        assert not network.training


def test_a_training_looks_at_every_row_before_it_looks_again() -> None:
    network, seen = torch.nn.Linear(1, 1), list[Tensor]()

    def loss(x: Tensor) -> Tensor:
        seen.append(x)
        value: Tensor = network(x).mean()
        return value

    learn(network, loss, [torch.arange(30.0)[:, None]], 60, batch=10)
    first, second = (torch.cat(seen[start : start + 3]).flatten() for start in (0, 3))
    for epoch in (first, second):
        assert torch.equal(epoch.sort().values, torch.arange(30.0))
    assert not torch.equal(first, second)


# --- pictures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hide",
    [lambda x: 1 - x[:, [2, 0, 1]], lambda x: 0.3 + 0.2 * x, lambda x: torch.stack([x[:, 1], 1 - x.mean(1), 0.5 * x[:, 0]], 1)],
    ids=["inverted, channels exchanged", "little contrast", "mixed"],
)
def test_undo_sets_polarity_colours_and_contrast_right(hide: object, observer: Observer) -> None:
    assert callable(hide)
    attacker = Undo(observer, TINY)
    attacker.fit(Pairs(seen_as("perturbed", hide(colours(30))), colours(30), None))
    unseen = colours(10, seed=1)
    assert decibels(attacker.guess(seen_as("perturbed", hide(unseen))), unseen) > 40
    assert decibels(hide(unseen).clamp(0, 1), unseen) < 20


def test_equal_views_are_undone_like_single_ones(observer: Observer, digits: Dataset, images: Tensor) -> None:
    attacker = Undo(observer, TINY)
    attacker.fit(pairs_of(observer, digits, "decoded", 64))
    observed = observer.observe(images, "decoded")
    assert len(observed.distinct[0]) < len(observed), "views must repeat for this test to say anything"
    single = torch.cat([attacker.guess(observed[row : row + 1]) for row in range(len(observed))])
    torch.testing.assert_close(attacker.guess(observed), single, rtol=0, atol=1e-6)


def photographs(n: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    light = F.interpolate(torch.rand(n, 1, 8, 8, generator=random), size=32, mode="bilinear", align_corners=True)
    colour = F.interpolate(torch.rand(n, 3, 5, 5, generator=random), size=32, mode="bilinear", align_corners=True)
    return 0.05 + 0.8 * light + 0.1 * colour


def test_undo_keeps_the_colours_of_many_pictures(observer: Observer) -> None:
    """float32's default cut-off would drop every direction below a quarter of the largest, and with them the colours."""
    images, unseen = photographs(Undo.learns_from), photographs(20, seed=1)
    attacker = Undo(observer, TINY)
    attacker.fit(Pairs(seen_as("perturbed", images), images, None))
    assert decibels(attacker.guess(seen_as("perturbed", unseen)), unseen) > 60


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.system] if name == "diffusion" else [])  # takes as long as all others
        for name, kind in ATTACKERS.items()
        if kind.guesses == "picture"
    ],
)
def test_at_strength_0_no_attacker_is_below_the_identity(name: str, open_observer: Observer) -> None:
    learnt, unseen = photographs(120), photographs(16, seed=1)
    pairs = Pairs(open_observer.observe(learnt, "perturbed"), learnt, None)
    observed = open_observer.observe(unseen, "perturbed")
    attacker = made(name, open_observer, effort=replace(TINY, passes=240, steps=8))
    attacker.fit(pairs)
    assert decibels(attacker.guess(observed), unseen) >= decibels(observed.seen, unseen) - 0.05


@pytest.mark.parametrize("view", [pytest.param("perturbed", marks=pytest.mark.system), "payload"])
def test_from_noise_alone_attackers_reach_the_class_mean(
    view: str, observer: Observer, digits: Dataset, images: Tensor
) -> None:
    """A network's memory of 120 pairs of noise is not used, because it would cost decibels on other pictures."""
    shape = {"perturbed": (3, 32, 32), "payload": (12, 2, 2)}[view]
    random = torch.Generator().manual_seed(0)
    train, labels = to_float(digits.train.images[:120]), digits.train.labels[:120]
    pairs = Pairs(seen_as(view, torch.rand(120, *shape, generator=random), labels), train, labels)
    observed = seen_as(view, torch.rand(40, *shape, generator=random), digits.test.labels[:40])
    means = MeanPictures.of(pairs, 10)(observed.answers)
    attacker = Inversion(observer, replace(TINY, passes=2400))
    attacker.fit(pairs)
    assert decibels(attacker.guess(observed), images) > decibels(means, images) - 0.25


def test_undo_smooths_what_is_noisy_and_evens_what_is_bent(observer: Observer) -> None:
    images, unseen = colours(30), colours(10, seed=1)
    noise = [0.2 * torch.randn(each.shape, generator=torch.Generator().manual_seed(7)) for each in (images, unseen)]
    attacker = Undo(observer, TINY)
    attacker.fit(Pairs(seen_as("perturbed", images + noise[0]), images, None))
    assert attacker.width > 0
    assert decibels(attacker.guess(seen_as("perturbed", unseen + noise[1])), unseen) > decibels(unseen + noise[1], unseen) + 5
    flat = torch.zeros(2, 3, 32, 32)
    flat[:, :, 16:] = 0.001
    even = Undo._pixels(flat, 0.0)[:, 3:6]
    assert sorted(set(even.flatten().tolist())) == [0.25, 0.75], "equal pixels are equal, wherever they are"


def test_with_few_observations_inversion_is_their_exact_mean(observer: Observer) -> None:
    images = colours(3 * FEW + 3)
    kinds = torch.arange(len(images)) % 3
    codes = torch.tensor([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0]])[kinds][:, :, None, None]
    attacker = Inversion(observer, TINY)
    attacker.fit(Pairs(seen_as("payload", codes), images, None))
    assert attacker.network is None
    guess = attacker.guess(seen_as("payload", torch.tensor([[5.0, 5.0], [0.0, 1.0], [4.0, 4.5]])[:, :, None, None]))
    for row, kind in enumerate((2, 0, 2)):  # the last is unknown, so the nearest known one counts
        torch.testing.assert_close(guess[row], images[kinds == kind].mean(0))


def test_with_one_pair_a_kind_inversion_learns_a_network(observer: Observer) -> None:
    images = colours(2 * FEW - 1)
    codes = (torch.arange(len(images)) % 2).float()[:, None, None, None].expand(-1, 4, 1, 1)
    attacker = Inversion(observer, replace(TINY, passes=64))
    attacker.fit(Pairs(seen_as("payload", codes), images, None))
    assert attacker.network is not None


@pytest.mark.system
def test_inversion_of_unprotected_pictures_beats_the_class_mean(
    open_observer: Observer, digits: Dataset, images: Tensor
) -> None:
    attacker = Inversion(open_observer, Effort(pairs=400, passes=2400, width=8))
    attacker.fit(pairs_of(open_observer, digits, "perturbed", 400))
    guess = attacker.guess(open_observer.observe(images, "perturbed"))
    means = class_means(digits.train, 10)[digits.test.labels[:40]]
    assert decibels(guess, images) > decibels(means, images) + 0.5


def test_inversion_listens_to_the_label(observer: Observer) -> None:
    """If the view is only noise, the label is all the information there is."""
    labels = torch.arange(60) % 2
    images = torch.stack([torch.full((3, 32, 32), 0.2), torch.full((3, 32, 32), 0.8)])[labels]
    noise = torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    attacker = Inversion(observer, replace(TINY, passes=600))
    attacker.fit(Pairs(seen_as("perturbed", noise, labels), images, None))
    fresh = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    dark, light = attacker.guess(seen_as("perturbed", fresh, torch.tensor([0, 1]))).mean((1, 2, 3)).tolist()
    assert light - dark > 0.05


@pytest.mark.system
def test_a_prior_starts_from_an_inversion_and_does_not_change_it(networks: Pair, digits: Dataset, images: Tensor) -> None:
    observer = Observer(noisy(networks, 0.5), "png")  # noise leaves the inversion something to guess
    pairs, observed = pairs_of(observer, digits, "perturbed", 60), observer.observe(images[:8], "perturbed")
    base = Inversion(observer, TINY)
    base.fit(pairs)
    before = base.guess(observed)
    prior = Prior(observer, replace(TINY, passes=1920), base=base)
    prior.fit(pairs)
    assert torch.equal(base.guess(observed), before)
    as_trained(prior)
    assert 0.005 < (prior.guess(observed) - before).abs().mean() < 0.5


@pytest.mark.system
def test_a_prior_draws_from_codes_that_an_inversion_looked_up(observer: Observer, digits: Dataset, images: Tensor) -> None:
    pairs = pairs_of(observer, digits, "label", 12 * FEW)
    base = Inversion(observer, TINY)
    base.fit(pairs)
    assert base.network is None
    prior = Prior(observer, replace(TINY, passes=1920), base=base)
    prior.fit(pairs)
    as_trained(prior)
    guess = prior.guess(observer.observe(images[:8], "label"))
    assert guess.shape == (8, 3, 32, 32)
    assert (guess - base.guess(observer.observe(images[:8], "label"))).abs().mean() > 0.01


# --- white box -------------------------------------------------------------------------------------------------------------


def from_grey(observer: Observer, view: str, steps: int) -> Optimise:
    base = Inversion(observer, TINY)
    shape = {"perturbed": (3, 32, 32), "payload": (12, 2, 2)}[view]
    base.fit(Pairs(seen_as(view, torch.zeros(2 * FEW, *shape)), torch.full((2 * FEW, 3, 32, 32), 0.5), None))
    return Optimise(observer, replace(TINY, steps=steps), base=base)


def errors(attacker: Optimise, observed: Observed) -> list[float]:
    assert attacker.base is not None
    guesses = (attacker.base.guess(observed), attacker.guess(observed))
    with torch.no_grad():
        return [float(observation_error(attacker.observer, each, observed.seen, observed.view)) for each in guesses]


@pytest.mark.parametrize(("view", "codec"), [("perturbed", "png"), ("payload", "compressai"), ("payload", "neural")])
def test_a_white_box_lowers_its_own_error(view: str, codec: str, lively: Pair, images: Tensor) -> None:
    observer = Observer(lively, codec)
    start, end = errors(from_grey(observer, view, 30), observer.observe(images[:3], view))
    assert end < 0.9 * start


def test_equal_observations_are_searched_for_once(lively: Pair, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload of 1,000 pictures may have ten codes. Then ten searches find all that there is to find."""
    passed: list[int] = []
    observer = Observer(lively)
    attacker = from_grey(observer, "payload", 3)
    attacker.tick = passed.append
    seen = observer.observe(images[:2], "payload").seen
    searched: list[int] = []
    descend = attacker._descend
    monkeypatch.setattr(attacker, "_descend", lambda start, *rest: searched.append(len(start)) or descend(start, *rest))
    guess = attacker.guess(seen_as("payload", seen[torch.tensor([0, 1, 0, 1, 1])]))
    assert searched == [2]
    assert torch.equal(guess[0], guess[2])
    assert torch.equal(guess[1], guess[4])
    assert not torch.equal(guess[0], guess[1])
    assert sum(passed) == 5 * 3, "the progress bar counts every observation"


def test_a_white_box_finds_a_picture_among_known_patterns(lively: Pair, images: Tensor) -> None:
    observer = Observer(lively)
    compressor = observer.compressor
    assert compressor is not None
    torch.manual_seed(0)
    symbols = compressor.symbols(observer.protect(images[:3]))
    compressor.patterns, compressor.pattern_counts = symbols.to(torch.int8), torch.tensor([1, 1, 1, 1])
    compressor.reader, compressor.answers = 0.05 * torch.randn(3, 49), torch.eye(3)
    start, end = errors(from_grey(observer, "payload", 40), seen_as("payload", symbols.float()))
    assert end < 0.95 * start


def test_a_white_box_recovers_a_picture_through_the_generator(networks: Pair, images: Tensor) -> None:
    observer = Observer(networks, "png", strength=0.3)
    attacker, observed = from_grey(observer, "perturbed", 60), observer.observe(images[:3], "perturbed")
    assert attacker.base is not None
    found = decibels(attacker.guess(observed), images[:3])
    assert found > decibels(attacker.base.guess(observed), images[:3]) + 6
    assert found > 25


# --- classes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_what_is_not_protected_is_read(open_observer: Observer, digits: Dataset) -> None:
    attacker = Read(open_observer, Effort(pairs=500, passes=2000))
    attacker.fit(pairs_of(open_observer, digits, "perturbed", 500))
    few = digits.test.head(100)
    read = attacker.guess(open_observer.observe(to_float(few.images), "perturbed")).argmax(1) == few.labels
    assert read.float().mean() > 0.5


def test_the_auxiliary_learns_on_and_the_pairs_own_does_not(open_observer: Observer, digits: Dataset, images: Tensor) -> None:
    pairs = pairs_of(open_observer, digits, "perturbed", 64)
    attacker = Retrain(open_observer, replace(TINY, passes=512))
    attacker.fit(pairs)
    ours, theirs = attacker.network.state_dict(), open_observer.pair.auxiliary.state_dict()
    assert ours.keys() == theirs.keys()
    assert not torch.equal(ours["network.classifier.1.weight"], theirs["network.classifier.1.weight"])
    assert not any(each.requires_grad for each in open_observer.pair.auxiliary.parameters())
    assert attacker.cost(5) == 128


@pytest.mark.parametrize("name", ["read", "retrain"])
def test_classes_are_not_read_from_pairs_without_any(name: str, open_observer: Observer, digits: Dataset) -> None:
    with pytest.raises(UsageError, match=f"attacker '{name}' needs pairs whose classes are known: source 'same'"):
        made(name, open_observer).fit(pairs_of(open_observer, digits, "perturbed", 8, "noise"))


# --- identification --------------------------------------------------------------------------------------------------------


def named(observer: Observer, images: Tensor, view: str) -> Tensor:
    attacker = Replay(observer, replace(TINY, sends=1))
    attacker.fit(Pairs(observer.observe(images, view), images, None))
    return identified(attacker.guess(observer.observe(images, view)))


def test_a_replay_names_every_picture_that_looks_different(lively: Pair, images: Tensor) -> None:
    observer = Observer(lively)
    assert torch.equal(named(observer, images, "perturbed"), torch.ones(40))
    first, which = observer.observe(images, "payload").distinct
    assert len(first) > 20
    torch.testing.assert_close(named(observer, images, "payload"), 1 / torch.bincount(which)[which])


def test_a_replay_names_no_more_pictures_than_there_are_codes(observer: Observer, images: Tensor) -> None:
    first, which = observer.observe(images, "payload").distinct
    assert 1 <= len(first) < 20
    for view in ("payload", "decoded"):
        found = named(observer, images, view)
        torch.testing.assert_close(found, 1 / torch.bincount(which)[which])
        assert float(found.sum()) == pytest.approx(len(first))


def test_a_replay_compares_by_distance_and_breaks_no_tie(observer: Observer, images: Tensor) -> None:
    seen = observer.observe(images, "perturbed").seen
    known, nearly = torch.cat([seen, seen[:7]]), (seen + torch.randn(seen.shape) * 1e-3).clamp(0, 1)
    attacker = Replay(observer, replace(TINY, sends=1))
    attacker.fit(Pairs(Observed("perturbed", known, torch.zeros(47, dtype=torch.int64)), known, None))
    scores = attacker.guess(Observed("perturbed", nearly, torch.zeros(40, dtype=torch.int64)))
    exact = -torch.cdist(nearly.flatten(1).double(), known.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(scores, exact, rtol=0, atol=1e-6, check_dtype=False)
    assert torch.equal(scores[:, :7], scores[:, 40:]), "equal views are equally likely"


def test_several_sends_average_the_random_component_away(networks: Pair, images: Tensor) -> None:
    alike = 0.5 + 0.15 * (images - 0.5)
    observer = Observer(noisy(networks, 0.3), "png")
    observed = observer.observe(alike, "perturbed")
    shares = []
    for sends in (1, 16):
        attacker = Replay(observer, replace(TINY, sends=sends))
        attacker.fit(Pairs(observer.observe(alike, "perturbed"), alike, None))
        assert attacker.sends == sends
        shares.append(float(identified(attacker.guess(observed)).mean()))
    assert shares[1] > shares[0] + 0.2, "noise hides nothing from this attacker"
    assert Replay(Observer(networks, "png"), replace(TINY, sends=16)).sends == 1, "without noise one send tells all"


def test_a_random_component_hides_similar_pictures_from_one_send(networks: Pair, images: Tensor) -> None:
    steps = torch.arange(40)[:, None, None, None] / 400
    alike = (0.6 * images[:1] + 0.1 + steps).clamp(0, 1)
    without, drawn = (named(Observer(noisy(networks, noise), "png"), alike, "perturbed").mean() for noise in (0.0, 1.0))
    assert without == 1
    assert drawn < 0.7
