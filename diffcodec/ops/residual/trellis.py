"""Levels chosen by rate and distortion, as an encoder's trellis chooses them: distortion + lambda x bits of CABAC.

Contexts adapt while an encoder codes a slice; here their probabilities are those of the whole frame, so that all blocks are decided at once: every
level between its two neighbours, then where each block ends (ITU-T H.264, 9.3.3.1.3: significance map, last flags, magnitudes from the end).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...constants import Constant

# Contexts of the significance map of 8x8 blocks by place in the scan (Table 9-43, frames)
_SIGNIFICANT8 = [
    0, 1, 2, 3, 4, 5, 5, 4, 4, 3, 3, 4, 4, 4, 5, 5, 4, 4, 4, 4, 3, 3, 6, 7, 7, 7, 8, 9, 10, 9, 8, 7,
    7, 6, 11, 12, 13, 11, 6, 7, 8, 9, 14, 10, 9, 8, 6, 11, 12, 13, 11, 6, 9, 14, 10, 9, 11, 12, 13, 11, 14, 10, 12,
]  # fmt: skip
_LAST8 = [0] + [1] * 15 + [2] * 16 + [3] * 8 + [4] * 8 + [5] * 4 + [6] * 4 + [7] * 4 + [8] * 3


def contexts_of_places(n: int) -> tuple[list[int], list[int]]:
    """Context of each place but the last one, of significance and of last flags."""
    if n == 64:
        return _SIGNIFICANT8, _LAST8
    places = [min(i, 2) for i in range(n - 1)] if n == 4 else list(range(n - 1))
    return places, places


def _one_hot(places: list[int]) -> list[list[float]]:
    return [[float(p == c) for c in range(max(places) + 1)] for p in places]


_AFTER = {n: Constant([[float(i > j) for j in range(n)] for i in range(n)]) for n in (4, 15, 16, 64)}  # x @ this: sum over what follows
_MAPS = {n: tuple(Constant(_one_hot(c)) for c in contexts_of_places(n)) for n in (4, 15, 16, 64)}  # [n - 1, contexts]


@dataclass(frozen=True)
class Trellis:
    """What the choice of levels is weighed by.

    Attributes:
        intra, inter: factor on x264's lambda in intra and inter blocks.
        small: further factor for 4x4 blocks.
        block: bits that a block with levels costs more than one without.
        memory: how many decisions the contexts' first state counts for.
    """

    intra: float = 1.0
    inter: float = 1.0
    small: float = 1.28
    block: float = 0.0
    memory: float = 8.0


LAMBDA = 0.066, 0.113  # x264's, of intra and inter blocks
LONGER_BITS = 0.86  # of a magnitude that goes on by one more
# First states of contexts: how probable it is that a coefficient has a level, that it is the last one, that its magnitude is above 1
P_SIGNIFICANT, P_LAST, P_MORE = 0.3, 0.15, 0.3
TWO_BITS = 1.15  # of a magnitude of 2 beyond that of being above 1
FURTHER_LAMBDA = 0.75  # by which thresholds of further levels lie above 1/2, in lambdas


@torch.no_grad()
def trellis_quant(y: Tensor, intra: Tensor, weights: Trellis) -> tuple[Tensor, Tensor]:
    """Levels of blocks.

    Args:
        y: magnitudes in quantiser steps, ``[N, M, n]``: M blocks of a frame, n coefficients in scan order (4, 15, 16 or 64).
        intra: ``[N, M]`` bool.
        weights: of bits against distortion.

    Returns:
        Magnitudes of the levels, and the threshold in steps that each coefficient met, both ``[N, M, n]``.
    """
    n = y.shape[-1]
    lam = torch.where(intra, LAMBDA[0] * weights.intra, LAMBDA[1] * weights.inter)[..., None].to(y)
    if n < 64:
        lam = weights.small * lam
    # Masks are floats: arithmetic on them is many times as fast as selection by bools
    near = (y + 0.5).floor_()
    below = (near - 1).clamp_(min=0)
    s0, s1, l0, l1, one, two, _ = _context_bits((y + 0.25).floor_(), weights.memory)
    coded = s1 + l0 + 1  # as if others followed
    distortion = y.square()
    # each level between its two neighbours
    cost_near = (y - near).square_() + lam * _bits(near, s0, coded, one, two)
    cost_below = (y - below).square_() + lam * _bits(below, s0, coded, one, two)
    chosen = torch.lerp(below, near, (cost_below - cost_near).sign_().clamp_(min=0))
    # where the block ends: nothing behind costs bits, and its distortion is that of zeros
    total = torch.minimum(cost_near, cost_below).cumsum(-1) + distortion @ _AFTER[n].like(y) + lam * (l1 - l0)
    best, end = (total + (1 - chosen.clamp(max=1)) * 1e9).min(-1, keepdim=True)
    worth = (distortion.sum(-1, keepdim=True) - best - lam * weights.block).sign_().clamp_(min=0)
    position = torch.arange(n, device=y.device)
    levels = chosen * (worth * (end + 1) - position).clamp_(0, 1)
    # thresholds: that of a first level by its bits; of further ones; above y where the end of the block decided
    first = (0.5 + 0.5 * lam * (coded + one - s0)).clamp_(0.5, 1.5)
    threshold = torch.lerp(first, 0.5 + FURTHER_LAMBDA * lam.expand_as(y), below.clamp(max=1))
    cut = (near - 2 * below).clamp_(0, 1) * (1 - levels.clamp(max=1))  # nearest is 1, chosen is 0
    return levels, threshold + cut * (y + 0.1 - threshold).clamp_(min=0)


def _bits(v: Tensor, s0: Tensor, coded: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """Bits of magnitudes; ``coded``: of being significant, ``one``, ``two``: of being 1, 2."""
    beyond = (v - 1).clamp_(min=0)
    size = torch.lerp(one, two, beyond.clamp(max=1)) + (beyond - 1).clamp_(min=0) * LONGER_BITS
    return torch.lerp(s0.expand_as(v), coded + size, v.clamp(max=1))


@torch.no_grad()
def cabac_bits(levels: Tensor, memory: float = Trellis.memory) -> Tensor:
    """Bits of given levels. Shape: ``[N, M, n] -> [N, M]``."""
    v = levels.abs()
    s0, s1, l0, l1, one, two, after = _context_bits(v, memory)
    followed = after.clamp(max=1)
    bits = _bits(v, s0 * followed, s1 + 1 + torch.lerp(l1.expand_as(v), l0.expand_as(v), followed), one, two)
    return bits.sum(-1)


def _context_bits(levels: Tensor, memory: float) -> tuple[Tensor, ...]:
    """Bits of every syntax element.

    Args:
        levels: ``[N, M, n]`` magnitudes, from which probabilities are counted frame by frame.
        memory: decisions that the first state stands for.

    Returns:
        Not significant, significant, not last, last: ``[N, 1, n]``; magnitude 1, magnitude 2: ``[N, M, n]``; and how many levels follow each.
    """
    n = levels.shape[-1]
    significant_map, last_map = (m.like(levels) for m in _MAPS[n])
    hit = levels.clamp(max=1)
    more = (levels - 1).clamp(min=0, max=1)
    hits_after, more_after = (torch.stack([hit, more]).flatten(1, 2) @ _AFTER[n].like(levels)).view(2, *levels.shape)
    coded = (hits_after + hit).clamp(max=1)  # significance is coded up to the last one
    is_last = hit * (1 - hits_after.clamp(max=1))
    seen, nonzero, last_ones = torch.stack([coded, hit, is_last]).sum(2)[..., :-1]  # [3, N, n - 1]
    p = (nonzero @ significant_map + memory * P_SIGNIFICANT) / (seen @ significant_map + memory)
    q = (last_ones @ last_map + memory * P_LAST) / (nonzero @ last_map + memory)
    s1, s0 = F.pad(-torch.log2(torch.stack([p, 1 - p])) @ significant_map.mT, (0, 1))[:, :, None]
    l1, l0 = F.pad(-torch.log2(torch.stack([q, 1 - q])) @ last_map.mT, (0, 1))[:, :, None]
    # magnitudes, from the end: the first one, those before which all were 1, those after a larger one
    large = more_after.clamp(max=1)
    masks = torch.stack([is_last, hit - is_last - hit * large, large * hit])  # [3, N, M, n]
    share = ((masks * more).sum((2, 3)) + memory * P_MORE) / (masks.sum((2, 3)) + memory)  # [3, N]
    bits = torch.stack([-torch.log2(1 - share), TWO_BITS - torch.log2(share)])[..., None, None]  # [2, 3, N, 1, 1]
    last = 1 - hits_after.clamp(max=1)
    one, two = (torch.lerp(torch.lerp(b[1], b[0], last), b[2].expand_as(large), large) for b in bits)
    return s0, s1, l0, l1, one, two, hits_after
