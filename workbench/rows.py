"""Find equal rows of a tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["distinct"]

PART = 512  # number of rows that are hashed at a time


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Find the distinct rows among the N rows of a tensor of 32-bit numbers. Return two tensors of indices.

    The first tensor (U) has one entry for each of the U distinct rows: the index of the row's first occurrence. Its order
    follows a hash of the rows. The second tensor (N) has one entry for each row of `rows`: the position of an equal row in the
    first tensor. Rows are compared bit by bit, so 0.0 and -0.0 differ.
    """
    bits = rows.flatten(1).contiguous().view(torch.int32).numpy()
    mix = np.random.default_rng(0).integers(1, 1 << 62, bits.shape[1], np.int64)
    hashes = np.concatenate([part.astype(np.int64) @ mix for part in np.array_split(bits, max(1, -(-len(bits) // PART)))])
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    if not np.array_equal(bits[first[which]], bits):  # two rows share a hash
        whole = bits.view(np.dtype((np.void, bits.dtype.itemsize * bits.shape[1])))[:, 0]
        _, first, which = np.unique(whole, return_index=True, return_inverse=True)
    return torch.from_numpy(first), torch.from_numpy(which)
