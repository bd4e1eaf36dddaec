"""The attacker's views: each shows what its name says and nothing else. The attacker's pairs are its own pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.audits import noisy
from workbench.audit import SOURCES, VIEWS, Observed, Observer, Pairs
from workbench.audit.views import KEPT, pairs_of
from workbench.codecs import Png
from workbench.data import Dataset
from workbench.errors import DataError, UsageError, WeightsError
from workbench.pictures import to_float
from workbench.system import Client, System
from workbench.weights import Pair

# --- the views -------------------------------------------------------------------------------------------------------------


def test_the_perturbed_view_is_what_a_png_carries(observer: Observer, images: Tensor) -> None:
    png = Png()
    carried = png.decode(png.encode(observer.protect(images)))
    assert torch.equal(observer.observe(images, "perturbed").seen, carried)
    assert torch.equal(observer.observe(images, "perturbed").answers, observer.cloud.classifier(carried).argmax(1))


def test_at_strength_0_it_is_the_picture_as_the_phone_sent_it(open_observer: Observer, images: Tensor) -> None:
    jpeg = Client().jpeg
    seen = open_observer.observe(images, "perturbed").seen
    assert torch.equal(seen, jpeg.decode(jpeg.encode(images)))
    assert 0 < (seen - images).abs().max() < 0.2


@pytest.mark.parametrize("codec", ["neural", "compressai"])
def test_the_payload_decodes_to_what_the_cloud_looks_at(codec: str, lively: Pair, images: Tensor) -> None:
    observer = Observer(lively, codec)
    payload, decoded = observer.observe(images, "payload"), observer.observe(images, "decoded")
    assert payload.seen.shape == (40, 12, 2, 2)
    assert torch.equal(payload.seen, payload.seen.round())
    assert len(payload.distinct[0]) > 20, "many codes must cross for this test to say anything"
    assert lively.compressor is not None
    with torch.inference_mode():
        made = lively.compressor.reconstruct(payload.seen.to(torch.int32), (32, 32)).clamp(0, 1)
    torch.testing.assert_close(decoded.seen, made, rtol=0, atol=2e-4)
    assert torch.equal(payload.answers, decoded.answers)


@pytest.mark.parametrize(("codec", "options"), [("png", {}), ("jpeg", {"quality": 10})])
def test_a_picture_codecs_payload_is_seen_as_its_decoded_image(
    codec: str, options: dict[str, Any], networks: Pair, images: Tensor
) -> None:
    observer = Observer(networks, codec, **options)
    decoded = observer.codec.decode(observer.codec.encode(observer.protect(images)))
    assert torch.equal(observer.observe(images, "payload").seen, decoded)
    assert torch.equal(observer.observe(images, "decoded").seen, decoded)


def test_the_label_view_is_the_clouds_answer_and_nothing_else(lively: Pair, images: Tensor) -> None:
    observer = Observer(lively)
    label = observer.observe(images, "label")
    assert label.seen.shape == (40, 10, 1, 1)
    assert torch.equal(label.seen.sum((1, 2, 3)), torch.ones(40))
    assert torch.equal(label.seen.argmax(1).flatten(), label.answers)
    system = System(Client(), observer.edge, observer.cloud)
    assert torch.equal(label.answers, system.recognise(images).labels)
    assert len(set(label.answers.tolist())) > 1, "one answer to all would say nothing here"


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_seen_is_a_row_for_each_picture_in_their_order(view: str, lively: Pair, images: Tensor) -> None:
    observer = Observer(lively)
    all_of_them, last = observer.observe(images, view), observer.observe(images[30:], view)
    assert len(all_of_them) == len(all_of_them.seen) == 40
    assert all_of_them.view == view
    assert all_of_them.pictures == (view in ("perturbed", "decoded"))
    torch.testing.assert_close(all_of_them[30:].seen, last.seen, rtol=0, atol=1 / 255 + 1e-6)
    assert torch.equal(all_of_them[torch.tensor([31, 30])].answers, last.answers[:2].flip(0))


def test_views_change_between_sends_only_with_random_component(networks: Pair, images: Tensor) -> None:
    for noise, same in ((0.0, True), (0.3, False)):
        observer = Observer(noisy(networks, noise), "png")
        first, second = (observer.observe(images[:4], "perturbed").seen for _ in range(2))
        assert [torch.equal(*each) for each in zip(first, second, strict=True)] == [same] * 4


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_repeated_send_computes_only_the_random_component(strength: float, networks: Pair, images: Tensor) -> None:
    observer = Observer(noisy(networks, 0.1), "png", strength=strength)
    passes: list[int] = []
    observer.edge.generator.unet.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    sends = torch.stack([observer.protect(images) for _ in range(16)])
    assert sum(passes) == len(images), "the U-Net runs once"
    whole, without = (Observer(networks, "png", strength=each).protect(images) for each in (1.0, strength))
    inside = (whole - 0.5).abs() < 0.1  # five standard deviations from being clamped
    assert inside.sum() > 1000
    noise = strength * 0.1
    torch.testing.assert_close(sends.mean(0)[inside], without[inside], rtol=0, atol=6 * noise / 4)
    assert float(sends.std(0)[inside].mean()) == pytest.approx(noise, rel=0.05)
    observer.protect(images[:8])
    assert sum(passes) == len(images) + 8, "other pictures are computed"
    observer.protect(images)
    assert sum(passes) == 2 * len(images) + 8, "only the last pictures are stored"


def test_the_white_box_has_weights_but_no_random_numbers(networks: Pair, images: Tensor) -> None:
    pair = noisy(networks, 0.3)
    observer = Observer(pair, "png")
    with torch.inference_mode():
        made = observer.generator(images)
        torch.testing.assert_close(made, networks.generator(images), rtol=0, atol=1e-5)
    assert pair.generator.noise == 0.3, "the edge goes on drawing them"
    assert observer.edge.generator.noise == 0.3


def test_bits_are_those_of_the_payload(networks: Pair, lively: Pair, images: Tensor) -> None:
    png = Observer(networks, "png")
    files = png.codec.unpack(png.codec.encode(png.protect(images)))[0]
    assert png.bits(png.protect(images)).tolist() == [8 * len(file) for file in files]
    neural = Observer(lively)
    payload = neural.codec.encode(neural.protect(images))
    assert abs(float(neural.bits(neural.protect(images)).sum()) - 8 * len(payload)) < 8 * 60, "but for the header"
    assert (neural.bits(neural.protect(images)) > 0).all()


def test_what_there_is_not_is_refused(networks: Pair, observer: Observer, images: Tensor) -> None:
    with pytest.raises(UsageError, match="unknown view 'pertubed': did you mean 'perturbed'"):
        observer.observe(images, "pertubed")
    with pytest.raises(UsageError, match=r"strength must be between 0 .* got 1\.5"):
        Observer(networks, strength=1.5)
    with pytest.raises(UsageError, match="unknown codec 'pnk': did you mean 'png'"):
        Observer(networks, "pnk")
    with pytest.raises(WeightsError, match="was loaded without its compressor: load it with compressor=True"):
        Observer(replace(networks, compressor=None))
    assert Observer(replace(networks, compressor=None), "png").compressor is None


# --- kinds -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-30]), min_size=2, max_size=12), st.integers(1, 2))
def test_kinds_are_what_is_equal(values: list[float], columns: int) -> None:
    rows = torch.tensor(values[: len(values) // columns * columns]).view(-1, columns, 1, 1)
    first, which = Observed("payload", rows, torch.zeros(len(rows), dtype=torch.int64)).distinct
    equal = (rows[:, None] == rows[None]).flatten(2).all(2)
    assert torch.equal(which[:, None] == which[None], equal)
    assert len(first) == int(which.max()) + 1
    for kind, row in enumerate(first.tolist()):
        assert row == int((which == kind).nonzero()[0]), "the first of its kind"


def test_as_many_kinds_are_seen_as_codes_cross(lively: Pair, images: Tensor) -> None:
    observer = Observer(lively)
    twice = torch.cat([images, images])
    coded, _ = observer.codec.unpack(observer.codec.encode(observer.protect(twice)))
    assert len(observer.observe(twice, "payload").distinct[0]) == len(set(coded)) <= 40


# --- pairs -----------------------------------------------------------------------------------------------------------------


def rows_in(images: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(images.flatten(1), others.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").min(1).values == 0


def test_pairs_of_the_same_data_are_never_test_images(open_observer: Observer, digits: Dataset) -> None:
    pairs = pairs_of(open_observer, digits, "perturbed", 60)
    train = to_float(digits.train.images)
    assert rows_in(pairs.images, train).all()
    assert not rows_in(pairs.images, to_float(digits.test.images)).any()
    assert len({each.numpy().tobytes() for each in pairs.images}) == 60, "none twice"
    assert pairs.labels is not None
    found = torch.cdist(pairs.images.flatten(1), train.flatten(1)).argmin(1)
    assert torch.equal(digits.train.labels[found], pairs.labels)
    assert (pairs.observed.seen - pairs.images).abs().mean() < 0.02, "what was seen is of the very picture"


@pytest.mark.parametrize("source", SOURCES)
def test_pairs_follow_from_their_seed(source: str, open_observer: Observer, digits: Dataset) -> None:
    made = []
    for seed in (3, 3, 4):
        open_observer.quick.kept._made.clear()
        made.append(pairs_of(open_observer, digits, "perturbed", 10, source, seed))
    assert torch.equal(made[0].images, made[1].images)
    assert torch.equal(made[0].observed.seen, made[1].observed.seen)
    assert not torch.equal(made[0].images, made[2].images)
    assert made[0].images.shape == (10, 3, 32, 32)
    assert made[0].images.min() >= 0
    assert made[0].images.max() <= 1
    assert (made[0].images.flatten(1).std(1) > 0.01).all(), "no picture of nothing"
    assert (made[0].labels is None) == (source != "same")


@pytest.mark.parametrize("source", ["other", "noise"])
def test_pairs_of_other_data_are_none_of_the_data_sets(source: str, open_observer: Observer, digits: Dataset) -> None:
    images = pairs_of(open_observer, digits, "perturbed", 30, source).images
    for split in (digits.train, digits.test):
        assert not rows_in(images, to_float(split.images)).any()


def test_other_photographs_are_cut_anew_for_each_pair(open_observer: Observer, digits: Dataset) -> None:
    photographs = replace(digits, name="photographs", family="cifar10")
    images = pairs_of(open_observer, photographs, "perturbed", 12, "other").images
    assert images.shape == (12, 3, 32, 32)
    assert len({each.numpy().tobytes() for each in images}) == 12
    assert (images[:, 0] != images[:, 1]).any(), "in colour"


def test_the_views_of_an_observer_share_the_pictures(networks: Pair, digits: Dataset) -> None:
    observer = Observer(noisy(networks, 0.3))
    perturbed, again = (pairs_of(observer, digits, "perturbed", 8) for _ in range(2))
    assert torch.equal(perturbed.observed.seen, again.observed.seen), "one picture passes the edge once for all observers"
    for seed in range(KEPT + 2):
        pairs_of(observer, digits, "label", 4, seed=seed)
    assert len(observer.quick.kept._made) == KEPT


def test_pairs_that_there_are_not_are_refused(observer: Observer, digits: Dataset) -> None:
    with pytest.raises(DataError, match=f"698 pairs were requested, the training split of {digits.title} has 697"):
        pairs_of(observer, digits, "perturbed", 698)
    with pytest.raises(UsageError, match="unknown source of pairs 'nois': did you mean 'noise'"):
        pairs_of(observer, digits, "perturbed", 4, "nois")
    with pytest.raises(UsageError, match="unknown view 'decode'"):
        pairs_of(observer, digits, "decode", 4)


def test_no_pixel_is_shown_where_they_are_printed(observer: Observer, digits: Dataset) -> None:
    pairs = pairs_of(observer, digits, "perturbed", 4)
    observed = "Observed('perturbed', (4, 3, 32, 32))"
    assert repr(pairs.observed) == observed
    assert repr(pairs) == f"Pairs({observed}, (4, 3, 32, 32), classes known)"
    assert repr(Pairs(pairs.observed, pairs.images, None)) == f"Pairs({observed}, (4, 3, 32, 32), classes unknown)"
