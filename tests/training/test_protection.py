"""The losses of the encoder and of the generator, computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.objectives import (
    OBJECTIVES,
    Small,
    differences,
    generator_objective,
    joint_objective,
    seeded,
    tensors,
    train_here,
)
from workbench import metrics
from workbench.data import Dataset
from workbench.models import PerturbationGenerator, parameters
from workbench.pictures import to_float
from workbench.training import GeneratorLoss
from workbench.training.protection import EncoderObjective, GeneratorObjective, learn_apart_from_encoder


class Inverter(PerturbationGenerator):
    def forward(self, images: Tensor, strength: float = 1.0) -> Tensor:
        return super().forward(images, strength).lerp(1 - images, 0.8)


@pytest.mark.parametrize("auxiliary", ["unbounded", "bounded"])
@pytest.mark.parametrize("ssim", ["signed", "absolute"])
def test_the_generators_loss_is_its_formula(auxiliary: str, ssim: str, few: Dataset) -> None:
    torch.manual_seed(2)
    loss_terms = GeneratorLoss(auxiliary, ssim, ssim_weight=0.7, cap=2.5)
    classifiers = (Small().eval(), Small("other", logits=20).eval())
    objective = GeneratorObjective(Inverter(width=2), *classifiers, loss_terms).eval()
    images, labels = to_float(few.train.images), few.train.labels
    with torch.no_grad():
        loss, figures = objective(images, labels)
        protected = objective.network(images)
        assert objective.auxiliary is not None
        ours, theirs = objective.target(protected), objective.auxiliary(protected)
        similarity = metrics.ssim(images, protected)
    entropy = -theirs.log_softmax(1)[torch.arange(48), labels]
    assert 0 < (entropy > 2.5).sum() < 48, "some images must be beyond the cap and some below"
    assert similarity.mean() < -0.1, "the sign must matter"
    term = entropy.clamp(max=2.5).mean() if auxiliary == "bounded" else entropy.mean()
    structure = similarity.abs().mean() if ssim == "absolute" else similarity.mean()
    expected = -ours.log_softmax(1)[torch.arange(48), labels].mean() - term + 0.7 * structure
    torch.testing.assert_close(loss, expected)
    assert figures["accuracy"] == (ours.argmax(1) == labels).float().mean()
    assert figures["auxiliary"] == (theirs.argmax(1) == labels).float().mean()
    torch.testing.assert_close(figures["ssim"], similarity.mean())
    torch.testing.assert_close(figures["abs_ssim"], similarity.abs().mean())


def test_a_target_as_its_own_auxiliary_drops_the_term(few: Dataset) -> None:
    objective = generator_objective(GeneratorLoss(ssim_weight=0.5), auxiliary="small").eval()
    images, labels = to_float(few.train.images), few.train.labels
    with torch.no_grad():
        loss, figures = objective(images, labels)
        protected = objective.network(images)
        expected = F.cross_entropy(objective.target(protected), labels) + 0.5 * metrics.ssim(images, protected).mean()
    torch.testing.assert_close(loss, expected)
    assert "auxiliary" not in figures


def test_beyond_the_cap_a_bounded_auxiliary_term_pulls_no_more(few: Dataset) -> None:
    torch.manual_seed(2)
    objective = generator_objective(GeneratorLoss("bounded", cap=0.0)).eval()
    without = generator_objective(GeneratorLoss(), auxiliary="small").eval()
    without.load_state_dict(objective.state_dict(), strict=False)
    gradients = []
    for each in (objective, without):
        loss, _ = each(to_float(few.train.images), few.train.labels)
        gradients.append(torch.autograd.grad(loss, each.network.unet.outc.f.weight)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", ["generator", "compressor"])
def test_frozen_networks_stay_as_they_were_in_eval_mode(kind: str, few: Dataset, tmp_path: Path) -> None:
    objective = seeded(OBJECTIVES[kind])
    frozen = {
        name: module
        for name in ("target", "auxiliary", "generator")
        if isinstance(module := getattr(objective, name, None), nn.Module)
    }
    assert len(frozen) == 2
    before = {name: {key: value.clone() for key, value in module.state_dict().items()} for name, module in frozen.items()}
    learnt = tensors(objective)
    objective.train()
    assert not any(part.training for module in frozen.values() for part in module.modules())
    assert objective.network.training
    train_here(objective, few, tmp_path)
    assert differences(learnt, tensors(objective)), "nothing was trained"
    for name, module in frozen.items():
        assert differences(before[name], module.state_dict()) == [], name
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in module.parameters()), name


def test_an_encoder_learns_in_the_contracting_half_alone(few: Dataset) -> None:
    generator = PerturbationGenerator(width=2)
    objective = EncoderObjective(generator, 10).train()
    images = to_float(few.train.images)
    assert generator.features(images).shape == (len(images), 32, 2, 2)
    loss, _ = objective(images, few.train.labels)
    loss.backward()
    learnt = {name.split(".")[0] for name, p in generator.unet.named_parameters() if p.grad is not None}
    assert learnt == {"inc", "d1", "d2", "d3", "d4"}
    assert objective.parts() == [generator]


def test_with_its_encoder_kept_only_the_expanding_half_learns(few: Dataset) -> None:
    unet = learn_apart_from_encoder(PerturbationGenerator(width=2)).unet
    learns = {name for name, part in unet.named_children() if any(p.requires_grad for p in part.parameters())}
    assert learns == {"u1", "u2", "u3", "u4", "outc"}
    joint = joint_objective(keep_encoder=True).train()
    generator = joint.generator
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    groups = joint.groups()
    assert sum(p.numel() for p in groups[1]["params"]) == parameters(generator)
    optimizer = torch.optim.SGD([p for group in groups for p in group["params"]], 0.1)
    loss, _ = joint(to_float(few.train.images), few.train.labels)
    loss.backward()
    optimizer.step()
    changed = {name.split(".")[1] for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= {"u1", "u2", "u3", "u4", "outc"}


def test_in_training_the_auxiliary_is_shown_every_second_picture(few: Dataset) -> None:
    objective = joint_objective()
    seen: list[int] = []
    objective.protection.auxiliary.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    images, labels = to_float(few.train.images[:7]), few.train.labels[:7]
    for mode in (True, False):
        objective.train(mode)(images, labels)
    assert seen == [7, 14]
