"""The rates of a variable-rate compressor: its stops, and each stop's quantisation step and integer tables.

::

    rate 0 ... 1 -> nearest of S stops -> step 1 / gain[stop] -> tables of that step, all from one density

A stop is one of the S rates that a compressor has, from 0, the fewest bits. Its gain is the inverse of the step to whose
multiples latents are rounded. Gains and density are those of CompressAI's variable-rate models (`models.vbr`; Kamisli et al.
2024, arXiv 2402.18930). Encoder and decoder need equal integer tables, so these ship with the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import UsageError

__all__ = ["LABEL_CHANNELS", "STOPS", "check_rate", "gains", "rates_of", "stop_of", "stop_tables"]

STOPS = 11  # stops of a new compressor: rates 0, 0.1, ... 1
LABEL_CHANNELS = 4  # channels for the label: more channels would cost more bits
COARSE, FINE = 4.0, 0.125  # quantisation steps of stops 1 and S - 1; the label's channels always have the coarse one


def gains(stops: int) -> Tensor:
    """Return the gain of each stop of a new compressor with `stops` stops, coarse to fine (S)."""
    if stops < 3:
        raise UsageError(f"a variable-rate compressor has at least 3 stops, got {stops}")
    steps = torch.logspace(torch.tensor(COARSE).log2(), torch.tensor(FINE).log2(), stops - 1, base=2)
    return 1 / torch.cat([steps[:1], steps])


def rates_of(stops: int) -> tuple[float, ...]:
    """Return the rate of each of a compressor's stops, evenly spread from 0 to 1. Without stops (0) it has only rate 0."""
    return tuple(round(stop / (stops - 1), 6) for stop in range(stops)) if stops else (0.0,)


def check_rate(rate: float | None) -> None:
    if rate is not None and not 0.0 <= rate <= 1.0:
        raise UsageError(f"rate must be between 0 (the fewest bits) and 1 (the most), got {rate!r}")


def stop_of(rate: float, stops: int) -> int:
    """Return the stop nearest to a rate. Raises UsageError for a rate outside [0, 1], and above 0 without stops."""
    check_rate(rate)
    if not stops and rate:
        raise UsageError(
            f"this compressor has one rate, 0, got rate {rate:g}: train a variable-rate one with `workbench train compressor`"
        )
    return int(rate * (stops - 1) + 0.5) if stops else 0


def stop_tables(bottleneck: Any, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the integer tables of stops 1 to S - 1, and write those of stop 0 into CompressAI's `EntropyBottleneckVbr`.

    `gain` has the gain of each stop (S). The tables have M channels: cumulative frequencies (M x L for each stop, flattened and
    joined, with L that stop's longest row), offsets and lengths (each S - 1 x M). The first `LABEL_CHANNELS` channels have stop
    0's tables at every stop. At stop 0 the other channels have the symbol zero only.
    """
    made = []
    for value in gain:
        bottleneck.update_variable(force=True, qs=1 / value)
        made.append((bottleneck._quantized_cdf, bottleneck._offset, bottleneck._cdf_length))
    first, label, cdfs = made[0], slice(LABEL_CHANNELS), []
    for cdf, offset, length in made[1:]:
        offset[label], length[label] = first[1][label], first[2][label]
        width = int(length.max())
        rows = [F.pad(each, (0, max(0, width - each.shape[1])))[:, :width] for each in (first[0], cdf)]
        cdfs.append(torch.cat([rows[0][label], rows[1][label.stop :]]))
    silent = slice(LABEL_CHANNELS, None)
    first[0][silent], first[1][silent], first[2][silent] = 0, 0, 3
    first[0][silent, 1:3] = first[0].new_tensor([(1 << 16) - 1, 1 << 16])
    bottleneck._quantized_cdf, bottleneck._offset, bottleneck._cdf_length = first
    _, offsets, lengths = zip(*made[1:], strict=True)
    return torch.cat([cdf.flatten() for cdf in cdfs]), torch.stack(offsets), torch.stack(lengths)
