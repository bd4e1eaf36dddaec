"""The optimizers: Muon orthogonalises kernels, treats all else as PyTorch's SGD does, and resumes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench.errors import UsageError
from workbench.training.optimizers import MOMENTUM, optimizer_of, orthogonalised


def network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def optimizer(net: nn.Module, kind: str = "muon") -> torch.optim.Optimizer:
    return optimizer_of(kind, [{"params": [*net.parameters()], "scale": 1.0}], 0.1, 5e-4)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), torch.arange(16) % 5).backward()
        optimizer.step()


def values(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24), (1, 27)])
def test_orthogonalising_keeps_vectors_and_levels_values(shape: tuple[int, int]) -> None:
    left, values, right = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(5)), full_matrices=False)
    values = values.clamp_min(0.1 * values.max())  # three iterations do not lift smaller ones
    for size in (1e-4, 1.0, 1e4):
        inner = left.T @ orthogonalised(size * left @ values.diag() @ right) @ right.T
        assert (inner.diag() > 0.3).all()
        assert (inner.diag() < 1.4).all()
        assert (inner - inner.diag().diag()).abs().max() < 1e-4


def test_kernels_keep_their_norm_whatever_the_size_of_gradients() -> None:
    left = []
    for size in (1.0, 1e3):
        net = network()
        kernel, muon = net[0].weight, optimizer(net)
        before = kernel.detach() * 8**0.5 / kernel.detach().norm()
        kernel.grad = size * torch.randn(kernel.shape, generator=torch.Generator().manual_seed(1))
        muon.step()
        left.append(kernel.detach().clone())
        assert 0.5 < (kernel.detach() - before).norm() / (0.1 * before.norm()) < 1.3
    torch.testing.assert_close(*left)


def test_the_memory_format_changes_no_update() -> None:
    left = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = network().to(memory_format=layout)  # type: ignore[call-overload]
        train(net, optimizer(net), range(3))
        left.append(values(net))
    for key in left[0]:
        torch.testing.assert_close(left[0][key], left[1][key], rtol=1e-3, atol=1e-4)


def test_all_but_kernels_learns_as_by_sgd() -> None:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 20), nn.BatchNorm1d(20), nn.Linear(20, 5))
    other: Any = copy.deepcopy(net)
    train(net, optimizer(net), range(5))
    sgd = torch.optim.SGD(other.parameters(), 0.1, momentum=MOMENTUM["rest"], nesterov=True, weight_decay=5e-4)
    train(other, sgd, range(5))
    for key, value in values(net).items():
        torch.testing.assert_close(value, other.state_dict()[key])


def test_kernels_do_not_decay_and_depthwise_ones_are_no_matrices() -> None:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False))
    left = []
    for decay in (0.0, 0.5):
        copied = copy.deepcopy(net)
        muon = optimizer_of("muon", [{"params": [*copied.parameters()], "scale": 1.0}], 0.1, decay)
        for each in copied.parameters():
            each.grad = torch.ones_like(each)
        muon.step()
        left.append([each.detach() for each in copied.parameters()])
    assert torch.equal(left[0][0], left[1][0])
    depthwise = net[1].weight.detach()
    torch.testing.assert_close(left[0][1], depthwise - 0.1 * (1 + MOMENTUM["rest"]))
    torch.testing.assert_close(left[1][1], depthwise - 0.1 * (1 + MOMENTUM["rest"]) * (1 + 0.5 * depthwise))


def test_a_kernel_of_zeros_stays_finite() -> None:
    kernel = nn.Parameter(torch.zeros(4, 2, 3, 3))
    muon = optimizer_of("muon", [{"params": [kernel]}], 0.1, 0.0)
    kernel.grad = torch.zeros_like(kernel)
    muon.step()
    assert kernel.isfinite().all()


def test_muon_continues_from_its_saved_state() -> None:
    net = network()
    whole = copy.deepcopy(net)
    train(whole, optimizer(whole), range(6))
    first = optimizer(net)
    train(net, first, range(3))
    second = optimizer(net)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(net, second, range(3, 6))
    for key, value in values(net).items():
        assert torch.equal(value, whole.state_dict()[key])


def test_an_unknown_optimizer_and_a_closure_are_refused() -> None:
    with pytest.raises(UsageError, match="takes no closure"):
        optimizer(network()).step(lambda: 0.0)
    with pytest.raises(UsageError, match="'lion': choose one of adamw, muon, sgd"):
        optimizer(network(), "lion")
