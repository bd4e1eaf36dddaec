"""Equal rows are found bit by bit, whatever their hashes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.rows import distinct


def kinds(rows: torch.Tensor) -> list[list[int]]:
    """Return the groups of equal rows, by Python's comparison of their bytes."""
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.numpy().tobytes(), []).append(number)
    return sorted(groups.values())


def grouped(rows: torch.Tensor) -> list[list[int]]:
    first, which = distinct(rows)
    assert torch.equal(rows[first[which]], rows)
    assert len(set(which.tolist())) == len(first)
    return sorted([number for number, kind in enumerate(which.tolist()) if kind == each] for each in range(len(first)))


@pytest.mark.parametrize("n", [1, 511, 1300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32], ids=str)
def test_groups_are_those_of_the_bytes(n: int, dtype: torch.dtype) -> None:
    rows = torch.randint(0, 3, (n, 2, 2), generator=torch.Generator().manual_seed(n)).to(dtype)
    assert grouped(rows) == kinds(rows)


def test_rows_that_share_a_hash_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def integers(self, low: int, high: int, size: int, dtype: type) -> np.ndarray:
            return np.zeros(size, dtype)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Zeros())
    rows = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [0.0, 0.0]])
    assert grouped(rows) == kinds(rows)
