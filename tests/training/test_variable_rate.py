"""A variable-rate compressor learns every rate and strength in one network; its tables fit what it learnt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.support.objectives import variable_objective
from workbench import training
from workbench.codecs import Neural
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.pictures import to_float
from workbench.rates import LABEL_CHANNELS
from workbench.training import CompressorLoss
from workbench.training.protection import CAP
from workbench.training.variable_rate import VariableRateObjective


def test_strengths_and_stops_are_drawn_for_each_image() -> None:
    objective = variable_objective().train()
    torch.manual_seed(0)
    strengths, stops = objective._draw(400, torch.device("cpu"))
    assert strengths.min() == 0
    assert strengths.max() == 1
    assert 0.4 < ((strengths > 0) & (strengths < 1)).float().mean() < 0.9
    assert set(stops.tolist()) == set(range(objective.compressor.stops))
    assert not torch.equal(strengths, objective._draw(400, torch.device("cpu"))[0])


def validation_of(objective: VariableRateObjective, *batches: int) -> tuple[Tensor, Tensor]:
    objective.before_validation(torch.empty(0))
    drawn = [objective._draw(batch, torch.device("cpu")) for batch in batches]
    return torch.cat([each[0] for each in drawn]), torch.cat([each[1] for each in drawn])


def test_small_batches_validate_every_stop() -> None:
    objective = variable_objective().eval()
    whole, parts = validation_of(objective, 100), validation_of(objective, *[16] * 6, 4)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_validation_sees_the_same_strengths_and_stops_each_time() -> None:
    objective = variable_objective().eval()
    first, second = (validation_of(objective, 100) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({(a, s) for a, s in zip(*(each.tolist() for each in first), strict=True)}) == 5 * objective.compressor.stops


def test_a_compressor_for_one_rate_sees_its_stop_alone() -> None:
    objective = variable_objective(only=2, auxiliary="small")
    assert objective.auxiliary is None, "the target is not its own auxiliary"
    for mode in (True, False):
        assert objective.train(mode)._draw(50, torch.device("cpu"))[1].unique().tolist() == [2]


def test_errors_leave_out_the_generators_noise(few: Dataset) -> None:
    objective = variable_objective()
    objective.generator.noise = 0.1
    images, strengths = to_float(few.train.images), torch.full((len(few.train), 1, 1, 1), 0.5)
    with torch.no_grad():
        seen, wanted = objective._seen(images, strengths)
        torch.testing.assert_close(wanted, torch.lerp(images, objective.generator.noiseless(images), 0.5))
    assert 0.03 < float((seen - wanted).std()) < 0.06  # half of the noise, a part of it clamped


def test_the_loss_is_its_formula(few: Dataset) -> None:
    objective = variable_objective().eval()
    images, labels = to_float(few.train.images[:20]), few.train.labels[:20]  # each stop with each strength
    compressor, gain = objective.compressor, objective.compressor.Gain
    with torch.no_grad():
        loss, figures = objective(images, labels)
        strengths, stops = objective._draw(len(images), images.device)
        shown = torch.lerp(images, objective.generator(images), strengths[:, None, None, None])
        rows = []
        for image, stop in zip(shown, stops.tolist(), strict=True):
            y = compressor.latents(image[None])
            symbols = compressor.quantise(y, stop)
            steps = compressor.steps(stop)
            bottleneck = compressor.entropy_bottleneck
            likely = bottleneck._likelihood_variable(
                (symbols * steps).transpose(0, 1).flatten(1)[:, None], qs=steps.reshape(-1, 1, 1)
            )[0].clamp(min=1e-9)
            sent = LABEL_CHANNELS if stop == 0 else compressor.M
            rows.append((-likely[:sent].log2().sum(), compressor.reconstruct(symbols, (32, 32), stop)[0]))
        bits, x_hat = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        logits, other = objective.target(x_hat.clamp(0, 1)), objective.auxiliary(x_hat.clamp(0, 1))  # type: ignore[misc]
        entropy = F.cross_entropy(logits, labels, reduction="none")
        entropy -= strengths * F.cross_entropy(other, labels, reduction="none").clamp(max=CAP)
        picture = objective.picture_weights[stops] * 255**2 * (x_hat - shown).square().mean((1, 2, 3))
        read = F.cross_entropy(objective.labelled.read(compressor.latents(shown)), labels)
    torch.testing.assert_close(figures["bits"], bits.mean(), rtol=1e-3, atol=1e-2)
    recognised = 0.4 * torch.where(stops > 0, 4.0, 1.0) * entropy
    torch.testing.assert_close(loss, (bits / 1024 + recognised + picture).mean() + 0.5 * read, rtol=1e-3, atol=1e-3)
    weights = objective.picture_weights
    assert weights[0] == 0
    torch.testing.assert_close(weights[2:] / weights[1], (gain[2:] / gain[1]).square())


def test_the_loss_reaches_every_part_that_learns(few: Dataset) -> None:
    objective = variable_objective().train()
    torch.manual_seed(0)
    loss, _ = objective(to_float(few.train.images[:16]), few.train.labels[:16])
    loss.backward()  # type: ignore[no-untyped-call]
    for part in (
        objective.compressor.g_a,
        objective.compressor.g_s,
        objective.compressor.entropy_bottleneck,
        objective.labelled.reader,
    ):
        gradients = [p.grad for p in part.parameters() if p.requires_grad]
        assert gradients
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert objective.compressor.Gain.grad is None, "the gains are fixed, as in CompressAI"
    assert all(p.grad is None for frozen in (objective.generator, objective.target) for p in frozen.parameters())


def test_the_tables_code_near_the_bits_that_were_learnt(few: Dataset) -> None:
    objective = variable_objective().eval()
    images, labels = to_float(few.train.images[:16]), few.train.labels[:16]
    figures = objective.finish(images, labels)
    compressor = objective.compressor
    codec = Neural(compressor, "learnt")
    assert 0 <= figures["bits_in_sample"] <= 10
    assert not (compressor.patterns[:, LABEL_CHANNELS:] != 0).any()
    with torch.no_grad():
        for rate in codec.rates:
            at = codec.at(rate)
            symbols = compressor.symbols(images, stop=at.stop)
            assert torch.allclose(
                codec.decode(at.encode(images)), compressor.reconstruct(symbols, (32, 32), at.stop).clamp(0, 1), atol=1e-5
            )
            if at.stop:
                steps, free = compressor.steps(at.stop), slice(LABEL_CHANNELS, None)
                likely = compressor.entropy_bottleneck._likelihood_variable(
                    (symbols * steps).transpose(0, 1).flatten(1)[:, None], qs=steps.reshape(-1, 1, 1)
                )[0]
                learnt = -likely[free].clamp(min=1e-9).log2().sum()
                assert float(at.bits(symbols).sum()) == pytest.approx(float(learnt), rel=0.1, abs=8 * len(images))


def test_a_seed_gives_the_same_compressor_in_spite_of_noise(few: Dataset) -> None:
    objective = variable_objective(noise=0.1).train()
    images, labels = to_float(few.train.images[:8]), few.train.labels[:8]
    losses = []
    for _ in range(2):
        torch.manual_seed(5)
        with torch.no_grad():
            losses.append(objective(images, labels)[0])
    assert torch.equal(*losses)


def test_a_compressor_of_rate_and_distortion_has_one_rate(few: Dataset, empty_data: object) -> None:
    with pytest.raises(UsageError, match=r"one rate, set by the weight of its loss, got rate 0\.5"):
        training.train_compressor(few, "resnet18", "vgg13_bn", loss=CompressorLoss("rate-distortion"), rate=0.5)
