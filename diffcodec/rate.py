"""A rough, differentiable count of bits from quantised levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Least squares over photographs x qualities against libjpeg's entropy-coded segments: benchmarks/rate.py, results/rate.json.
PER_OCTAVE, PER_NONZERO = 0.4945, 6.0362


def terms(levels: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of the count, ``[N]`` each: octaves, log2(1 + |l|), and nonzero levels, 1 - exp(-l^2) (soft at 0)."""
    x = levels.flatten(1).float()
    return torch.log1p(x.abs()).sum(1) / math.log(2), -torch.expm1(-x.square()).sum(1)


def level_bits(levels: Tensor) -> Tensor:
    """Estimated bits of quantised transform levels: a cost per nonzero level and one per doubling of its magnitude.

    ``a * log2(1 + |l|) + b * (1 - exp(-l^2))`` summed over the levels l, with a = 0.4945 and b = 6.0362 fitted to libjpeg: the first term is the
    magnitude category of JPEG's Huffman code made continuous, the second the run-length symbol of a nonzero level.

    Args:
        levels: quantised levels ``[N, ...]``, whole or soft.

    Returns:
        ``[N]`` float32.
    """
    octaves, nonzero = terms(levels)
    return PER_OCTAVE * octaves + PER_NONZERO * nonzero
