"""A rough, differentiable count of bits from quantised levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Least squares over photographs x qualities against libjpeg's entropy-coded segments: benchmarks/rate.py, results/rate.json.
PER_OCTAVE, PER_NONZERO = 0.4945, 6.0362
# Of the noise over which the count is averaged for its gradient by coefficients, in steps: python -m benchmarks.bits_gradient --parts pixels
WIDTH = 0.18


def terms(levels: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of the count, ``[N]`` each: octaves, log2(1 + |l|), and nonzero levels, 1 - exp(-l^2) (soft at 0)."""
    x = levels.flatten(1).float()
    return torch.log1p(x.abs()).sum(1) / math.log(2), -torch.expm1(-x.square()).sum(1)


def crossings(size: Tensor, over: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the two terms, and of the number of nonzero levels, by the magnitude of a coefficient, as means under a little Laplacian noise.

    A level is a step function of its coefficient, and the terms are 0 with all their slopes at level 0: differentiating them by the level leaves
    out what a coefficient costs that becomes a level. The mean under noise n has the slope d/dy E[f(level(y + n))]: the sum over the thresholds,
    which stand one step apart, of the density of n at their distance times what f gains there.

    Args:
        size: magnitudes in quantiser steps, any shape.
        over: by how much they exceed the first threshold, same shape.
        width: mean absolute deviation of the noise in steps; thresholds further away than the nearest two are left out, so it should be below 0.25.

    Returns:
        Slopes of octaves, of nonzero levels (soft, as in :func:`terms`), and of hard nonzero levels; at magnitude 0 they are 0 by symmetry.
    """
    passed = over.floor().clamp_(min=-1)  # thresholds passed, less one
    last, in_dead_zone = passed.clamp(min=0), passed < 0
    above = torch.exp((over - passed - 1) / width)  # at the next threshold
    above.sub_(torch.exp((over - 2 * size) / width) * in_dead_zone)  # at the one of the other sign
    below = torch.exp((passed - over).clamp_(max=0) / width).mul_(~in_dead_zone)
    octaves = above * torch.log2((passed + 3) / (passed + 2)) + below * torch.log2((last + 2) / (last + 1))
    nonzero = above * (_fall(passed + 1) - _fall(passed + 2)) + below * (_fall(last) - _fall(last + 1))
    scale = 0.5 / width
    return octaves.mul_(scale), nonzero.mul_(scale), (above * in_dead_zone).add_(below * (passed == 0)).mul_(scale)


def _fall(level: Tensor) -> Tensor:
    return torch.exp(-level.square())


def level_bits_slope(y: Tensor) -> Tensor:
    """d/dy of the mean of :func:`level_bits`, for levels rounded from coefficients y in steps. Shape: any -> same."""
    size = y.abs()
    octaves, nonzero, _ = crossings(size, size - 0.5, WIDTH)
    return octaves.mul_(PER_OCTAVE).add_(nonzero, alpha=PER_NONZERO).mul_(y.sign())


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
