"""Rate-distortion optimised levels, as from an encoder's trellis: least distortion + lambda x bits of CABAC (see :mod:`.cabac`).

First each level (the nearest or the next smaller one), then the end of each block (ITU-T H.264, 9.3.3.1.3: significance map, last flags, magnitudes
from the end).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...constants import number
from .cabac import Kind, adapt, after, bits_of, count, magnitude_contexts, of_places, pick


@dataclass(frozen=True)
class Trellis:
    """Weights of rate-distortion optimised quantisation.

    Attributes:
        intra, inter: factor on x264's lambda in intra and inter blocks.
        small: further factor for 4x4 blocks.
    """

    intra: float = 1.0
    inter: float = 1.0
    small: float = 1.28


LAMBDA = 0.066, 0.113  # x264's, of intra and inter blocks
FURTHER_LAMBDA = 0.75  # by which thresholds of further levels lie above 1/2, in lambdas


@torch.no_grad()
def trellis_quant(y: Tensor, intra: Tensor, weights: Trellis, kind: Kind, used: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of blocks.

    Args:
        y: magnitudes in quantiser steps ``[N, MB, blocks, n]``: macroblocks in coding order, coefficients in scan order.
        intra: ``[N, MB]`` bool.
        weights: of bits against distortion.
        kind: of the blocks.
        used: macroblocks that have such blocks ``[N, MB]``, 0 or 1 as floats: contexts see these alone.
        first: states at the start of each frame's slice ``[N, 40]``.

    Returns:
        Magnitudes of the levels, and the threshold in steps that each coefficient met, both ``[N, MB, blocks, n]``.
    """
    lam = torch.where(intra, number(LAMBDA[0] * weights.intra, y), number(LAMBDA[1] * weights.inter, y))[..., None, None]
    if kind.n < 64:
        lam = weights.small * lam
    # Masks are floats: arithmetic on them is many times as fast as selection by bools
    near = (y + 0.5).floor_()
    below = (near - 1).clamp_(min=0)
    guess = y.floor()  # levels that the trellis certainly keeps: in sparse blocks it drops levels of up to 1.4 steps
    bits = bits_of(adapt(*count(guess, kind, used), first))
    s0, s1, l0, l1 = of_places(kind, bits)
    above, more = magnitude_contexts(guess)
    one, two, longer = pick(bits[0], above), pick(bits[1], above) + pick(bits[0], more), pick(bits[1], more)
    coded = s1 + l0 + 1  # as if others followed
    distortion = y.square()

    def cost(v: Tensor) -> Tensor:
        size = torch.lerp(one, two + (v - 2).clamp_(min=0) * longer, (v - 1).clamp_(min=0, max=1))
        return (y - v).square_() + lam * torch.lerp(s0.expand_as(v), coded + size, v.clamp(max=1))

    # each level: the nearest or the next smaller one
    cost_near, cost_below = cost(near), cost(below)
    chosen = torch.lerp(below, near, (cost_below - cost_near).sign_().clamp_(min=0))
    # end of the block: levels after it cost no bits and are 0
    total = torch.minimum(cost_near, cost_below).cumsum(-1) + after(distortion) + lam * (l1 - l0)
    best, end = (total + (1 - chosen.clamp(max=1)) * 1e9).min(-1, keepdim=True)
    worth = (distortion.sum(-1, keepdim=True) - best).sign_().clamp_(min=0)
    position = torch.arange(kind.n, device=y.device)
    levels = chosen * (worth * (end + 1) - position).clamp_(0, 1)
    # thresholds: that of a first level by its bits; of further ones; above y where the end of the block decided
    first_one = (0.5 + 0.5 * lam * (coded + one - s0)).clamp_(0.5, 1.5)
    threshold = torch.lerp(first_one, 0.5 + FURTHER_LAMBDA * lam.expand_as(y), below.clamp(max=1))
    cut = (near - 2 * below).clamp_(0, 1) * (1 - levels.clamp(max=1))  # nearest is 1, chosen is 0
    return levels, threshold + cut * (y + 0.1 - threshold).clamp_(min=0)
