"""The rates of a variable-rate compressor, with the quantisation step and the integer tables of each rate.

::

    rate 0 ... 1 -> nearest of S stops -> step 1 / gain[stop] -> tables of that step, all from one density

A rate is a number from 0 (the fewest bits) to 1 (the most bits). A compressor has S rates, and a stop is the index of one of
them. Each stop has a quantisation step. The compressor rounds the latents of an image to multiples of this step. A gain is the
inverse of a step.

The integer tables are the symbol frequencies for the entropy coder. Encoder and decoder need equal tables, so these ship with
the weights. Gains and density have the same roles as in CompressAI's variable-rate models (`models.vbr`; Kamisli et al. 2024,
arXiv 2402.18930).
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
    """Return the gain of each stop of a new compressor, from the coarsest step to the finest. Stops 0 and 1 have equal gains.

    Raises UsageError for fewer than 3 `stops`.
    """
    if stops < 3:
        raise UsageError(f"a variable-rate compressor has at least 3 stops, got {stops}")
    steps = torch.logspace(torch.tensor(COARSE).log2(), torch.tensor(FINE).log2(), stops - 1, base=2)
    return 1 / torch.cat([steps[:1], steps])


def rates_of(stops: int) -> tuple[float, ...]:
    """Return the rates of a compressor with `stops` stops, evenly spread from 0 to 1. For `stops` 0, the only rate is 0."""
    return tuple(round(stop / (stops - 1), 6) for stop in range(stops)) if stops else (0.0,)


def check_rate(rate: float | None) -> None:
    if rate is not None and not 0.0 <= rate <= 1.0:
        raise UsageError(f"rate must be between 0 (the fewest bits) and 1 (the most), got {rate!r}")


def stop_of(rate: float, stops: int) -> int:
    """Return the stop nearest to `rate`, for a compressor with `stops` stops.

    Raises UsageError for a rate outside [0, 1], and for a rate above 0 if `stops` is 0.
    """
    check_rate(rate)
    if not stops and rate:
        raise UsageError(
            f"this compressor has one rate, 0, got rate {rate:g}: train a variable-rate one with `workbench train compressor`"
        )
    return int(rate * (stops - 1) + 0.5) if stops else 0


def stop_tables(bottleneck: Any, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the integer tables of every stop. Return those of stops 1 to S - 1, and store those of stop 0 in `bottleneck`.

    `bottleneck` is CompressAI's `EntropyBottleneckVbr` for M channels. `gain` has the gain of each of the S stops. The result
    has three tensors: cumulative frequencies, offsets (S - 1 x M) and lengths (S - 1 x M). The frequencies of a stop are M x L,
    with L the length of the longest row. These matrices are flattened and joined.

    The first `LABEL_CHANNELS` channels have the tables of stop 0 at every stop. At stop 0 the other channels have the symbol
    zero only.
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
