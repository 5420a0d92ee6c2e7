"""H.264's residual coding in Triton: transform, levels by dead zone or by rate and distortion, decimation, and back.

Four macroblocks a program, their blocks as rows of a tile, coefficients in scan order as its columns: transforms are products with matrices, that of
the source with whole numbers, so that coefficients are those of the reference to the last bit.
Without trellis one pass suffices; with it, a first pass counts the decisions of each context per macroblock, from which torch computes their bits
(see :mod:`.cabac`). The backward pass codes the residual again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...constants import Constant
from ...implement import backward_of, implements
from ..common.tables import CORE, CORE_NORM, FLAT, HADAMARD2, STEPS, WALSH4
from ..common.triton import SEARCH_ROWS, SEARCH_WARPS, TRANSFORMS, block_rows, hadamard_matrix, samples, satd, sum_rows
from . import cabac, reference
from .trellis import FURTHER_LAMBDA, LAMBDA

_P = 4  # macroblocks in a program
_FURTHER_LAMBDA = tl.constexpr(FURTHER_LAMBDA)
_ABOVE, _MORE, _CONTEXTS = (tl.constexpr(v) for v in (cabac.ABOVE, cabac.MORE, cabac.CONTEXTS))
_REGION, _LUMA, _CHROMA_SCORE, _BIG = (
    tl.constexpr(v) for v in (reference.MIN_SCORE_REGION, reference.MIN_SCORE_LUMA, reference.MIN_SCORE_CHROMA, float(reference.BIG_SCORE))
)
_TIE = tl.constexpr(reference.TIE)
_RATE, _HALF_LN2, _LN2_OF_SIX = (tl.constexpr(v) for v in (-math.log2(math.e) * math.sqrt(2), -math.log(2) / 2, math.log(2) / 6))
EIGHT, FOUR, CHROMA = (tl.constexpr(i) for i in range(3))  # what is coded: luma by 8x8, by 4x4, chroma
WARPS = (8, 4, 4)  # of their programs: matrices of 64 x 64 take many registers
# By QP and place, what a whole coefficient is multiplied by to be in steps (of the second transform: as at place 0), [52, n]
_INVERSE = {
    k: Constant(torch.cat([1 / (CORE_NORM[k].value * STEPS[k].value.float().double() * 2**octave) for octave in range(9)])[:52].numpy())
    for k in (4, 8)
}
# Kinds of blocks, in the order that their bits have
_OF_LUMA, _OF_CHROMA = (cabac.LUMA, cabac.DC, cabac.EIGHT), (cabac.CHROMA_AC, cabac.CHROMA_DC)


def _places(kind: cabac.Kind) -> list[list[int]]:
    """Contexts of significance and of last flags of each place, -1 where nothing is coded. ``[2, 64]``."""
    return [[*own, *[-1] * (64 - len(own))] for own in (kind.significant, kind.last)]


_PLACES = [Constant([_places(kind) for kind in kinds]) for kinds in (_OF_LUMA[2:], _OF_LUMA[:2], _OF_CHROMA)]  # [kinds, 2, 64], as coded


@triton.jit
def _after(x):
    """Sum over what follows in the scan."""
    return tl.cumsum(x, 1, reverse=True) - x


@triton.jit
def _clamped(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def _blend(a, b, weight):
    """``a`` where the weight is 0, ``b`` where it is 1."""
    return a + weight * (b - a)


# Levels by rate and distortion


@triton.jit
def _classes(v):
    """Which magnitudes are levels, which more than 1, how many levels follow; by the ones and larger ones that follow, contexts 0..4 of being above 1
    and of going on."""
    hit, larger = tl.minimum(v, 1.0), _clamped(v - 1, 0.0, 1.0)
    after, larger_after = _after(hit), _after(larger)
    return hit, larger, after, tl.where(larger_after > 0, 0.0, tl.minimum(1 + after, 4.0)), tl.minimum(larger_after, 4.0)


@triton.jit
def _by_macroblock(x, P: tl.constexpr):
    """Sum over the blocks of each. Shape: ``[R, n] -> [P, n]``."""
    return tl.sum(tl.reshape(x, (P, x.shape[0] // P, x.shape[1])), 1)


@triton.jit
def _tally(y, used, mask, stats, position, FIRST: tl.constexpr, WIDE: tl.constexpr, P: tl.constexpr):
    """Store what the contexts see in the blocks of P macroblocks.

    Args:
        y: magnitudes in steps ``[R, n]``. used: which blocks count ``[R]``. mask: macroblocks ``[P]``.
        stats: of each macroblock ``[P, 1]``, at 5 x WIDE numbers: levels found, significance coded, last ones by place; of the contexts of magnitudes
            decisions that were 1, and all.
    """
    v = tl.where(used[:, None], tl.floor(y), 0.0)
    hit, larger, after, above, more = _classes(v)
    behind = tl.minimum(after, 1.0)
    at = stats + (position - FIRST)[None, :]
    inside = mask[:, None] & (position >= FIRST)[None, :]
    tl.store(at, _by_macroblock(hit, P), inside)
    tl.store(at + WIDE, _by_macroblock(hit + (1 - hit) * behind, P), inside)
    tl.store(at + 2 * WIDE, _by_macroblock(hit * (1 - behind), P), inside)
    for i in tl.static_range(5):
        of_above, of_more = tl.where(above == i, 1.0, 0.0), tl.where(more == i, 1.0, 0.0)
        out = stats + 3 * WIDE + i
        tl.store(out, tl.sum(_by_macroblock(larger * of_above, P), 1)[:, None], mask[:, None])
        tl.store(out + 5, tl.sum(_by_macroblock(tl.maximum(v - 2, 0.0) * of_more, P), 1)[:, None], mask[:, None])
        tl.store(out + WIDE, tl.sum(_by_macroblock(hit * of_above, P), 1)[:, None], mask[:, None])
        tl.store(out + WIDE + 5, tl.sum(_by_macroblock(tl.maximum(v - 1, 0.0) * of_more, P), 1)[:, None], mask[:, None])


@triton.jit
def _cost(y, v, lam, s0, coded, one, two, longer):
    size = _blend(one, two + tl.maximum(v - 2, 0.0) * longer, _clamped(v - 1, 0.0, 1.0))
    return (y - v) * (y - v) + lam * _blend(s0, coded + size, tl.minimum(v, 1.0))


@triton.jit
def _levels(y, lam, dead, zeros, ones, places, position, TRELLIS: tl.constexpr, FIRST: tl.constexpr):
    """Levels of magnitudes y, and the threshold that each met. Shape: ``[R, n]``; lam, dead ``[R, 1]``.

    ``zeros`` and ``ones`` are where the bits of decisions that are 0, and 1, lie for each row ``[R, 1]``; ``places`` are the contexts of places.
    """
    if TRELLIS:
        inside = position >= FIRST
        map_ = tl.load(places + position - FIRST, inside, -1.0).to(tl.int32)[None, :]
        end_ = tl.load(places + 64 + position - FIRST, inside, -1.0).to(tl.int32)[None, :]
        s0, s1 = tl.load(zeros + map_, map_ >= 0, 0.0), tl.load(ones + map_, map_ >= 0, 0.0)
        l0, l1 = tl.load(zeros + end_, end_ >= 0, 0.0), tl.load(ones + end_, end_ >= 0, 0.0)
        _hit, _larger, _follow, above, more = _classes(tl.floor(y))
        above, more = _ABOVE + above.to(tl.int32), _MORE + more.to(tl.int32)
        one, two, longer = tl.load(zeros + above), tl.load(ones + above) + tl.load(zeros + more), tl.load(ones + more)
        coded = s1 + l0 + 1
        near = tl.floor(y + 0.5)
        below = tl.maximum(near - 1, 0.0)
        distortion = y * y
        cost_near = _cost(y, near, lam, s0, coded, one, two, longer)
        cost_below = _cost(y, below, lam, s0, coded, one, two, longer)
        chosen = tl.where(cost_below > cost_near, near, below)
        total = tl.cumsum(tl.minimum(cost_near, cost_below), 1) + _after(distortion) + lam * (l1 - l0)
        total += (1 - tl.minimum(chosen, 1.0)) * 1e9
        best = tl.min(total, 1)[:, None]
        end = tl.min(tl.where(total == best, position[None, :], 64), 1)[:, None]
        worth = tl.sum(distortion, 1)[:, None] > best
        levels = tl.where(worth & (position[None, :] <= end), chosen, 0.0)
        first = _clamped(0.5 + 0.5 * lam * (coded + one - s0), 0.5, 1.5)
        threshold = _blend(first, 0.5 + _FURTHER_LAMBDA * lam + tl.zeros_like(y), tl.minimum(below, 1.0))
        cut = _clamped(near - 2 * below, 0.0, 1.0) * (1 - tl.minimum(levels, 1.0))
        threshold += cut * tl.maximum(y + 0.1 - threshold, 0.0)
    else:
        threshold = dead + tl.zeros_like(y)
        levels = tl.floor(y + (1 - threshold))
    return levels, threshold


@triton.jit
def _slope(y, threshold, step, noise_width):
    """The slope of the mean quantiser (``mean_slope`` of the reference) at magnitudes y."""
    rate = _RATE * step / noise_width
    q = tl.exp2(rate)
    over = y - threshold
    m = tl.maximum(tl.floor(over), -1.0)
    near = tl.maximum(tl.exp2(rate * (over - m)), 1e-30)
    below = near * (1 - tl.exp2(rate * (m + 1)))
    other_side = tl.exp2(rate * (over + 2 * threshold))
    return (q / near + below + other_side) * (rate * _HALF_LN2) / (1 - q)


# Blocks of macroblocks


@triton.jit
def _blocks(first, MBS, BW, W, KIND: tl.constexpr, P: tl.constexpr):
    """P macroblocks from one on, and their blocks; of chroma, those of Cb and then those of Cr.

    Returns:
        Macroblock, which there are ``[P]``; the same of the blocks ``[R]``; where their samples lie ``[R, n]``; scan places ``[n]``.
    """
    k: tl.constexpr = 8 if KIND == EIGHT else 4
    per: tl.constexpr = 16 if KIND == FOUR else 4
    across: tl.constexpr = 4 if KIND == FOUR else 2
    side: tl.constexpr = 8 if KIND == CHROMA else 16
    total = 2 * MBS if KIND == CHROMA else MBS
    mb = first + tl.arange(0, P)
    r = tl.arange(0, P * per)
    of_row = first + r // per
    mask, row_mask = mb < total, of_row < total
    mb, of_row = tl.minimum(mb, total - 1), tl.minimum(of_row, total - 1)
    plane = of_row // MBS * (MBS * side * side)
    y0 = of_row % MBS // BW * side + r % per // across * k
    x0 = of_row % MBS % BW * side + r % across * k
    s = tl.arange(0, k * k)
    offset = (plane + y0 * W + x0)[:, None] + (s // k * W + s % k)[None, :]
    return mb, mask, of_row, row_mask, offset, s


@triton.jit
def _product(x, matrix, n: tl.constexpr, TURNED: tl.constexpr):
    """Shape: ``[R, n], [n, n] -> [R, n]``."""
    i = tl.arange(0, n)
    if TURNED:
        m = tl.load(matrix + i[None, :] * n + i[:, None])
    else:
        m = tl.load(matrix + i[:, None] * n + i[None, :])
    return tl.dot(x, m, input_precision="tf32x3")  # as exact as float32


@triton.jit
def _steps_of(qp, steps, position, n: tl.constexpr):
    """Quantiser steps. Shape: ``[R], [n] -> [R, n]``."""
    whole = _clamped(qp, 0.0, 51.0).to(tl.int32)
    return tl.load(steps + (whole % 6)[:, None] * n + position) * (1 << (whole // 6)).to(tl.float32)[:, None]


@triton.jit
def _inverse_of(qp, inverse, position, n: tl.constexpr):
    """What whole coefficients are multiplied by to be in steps. Shape: ``[R], [n] -> [R, n]``."""
    return tl.load(inverse + _clamped(qp, 0.0, 51.0).to(tl.int32)[:, None] * n + position)


@triton.jit
def _second(x, matrix, D: tl.constexpr, BACK: tl.constexpr):
    """The second transform, of the DCs of each macroblock. Shape: ``[P, D], [D, D] -> [P, D]``."""
    i = tl.arange(0, D)
    if BACK:
        m = tl.load(matrix + i[None, :] * D + i[:, None])  # [coefficients, places], its adjoint
    else:
        m = tl.load(matrix + i[:, None] * D + i[None, :])
    return tl.sum(x[:, None, :] * m[None, :, :], 2)


@triton.jit
def _dcs(c, position, P: tl.constexpr, D: tl.constexpr):
    """First coefficient of the blocks of each macroblock. Shape: ``[P D, n] -> [P, D]``."""
    return tl.reshape(tl.sum(tl.where(position[None, :] == 0, c, 0.0), 1), (P, D))


@triton.jit
def _rows_of(x, P: tl.constexpr, D: tl.constexpr):
    """Shape: ``[P, D] -> [P D, 1]``."""
    return tl.reshape(x, (P * D,))[:, None]


@triton.jit
def _score(levels, position, reach: tl.constexpr, n: tl.constexpr, FIRST: tl.constexpr):
    """1 for each level with fewer than ``reach`` zeros before it."""
    i = tl.arange(0, n)
    band = ((i[:, None] < i[None, :]) & (i[:, None] >= i[None, :] - reach)).to(tl.float16)
    hit = tl.minimum(levels, 1.0)
    near = (tl.dot(hit.to(tl.float16), band) > 0.5) | (position[None, :] - FIRST < reach)
    return tl.sum(tl.where(near, hit, 0.0), 1)


@triton.jit
def _kept(levels, position, intra, KIND: tl.constexpr, TRELLIS: tl.constexpr, P: tl.constexpr):
    """Which blocks decimation keeps, as 0 and 1. Shape: ``[R, n], [R] -> [R]``."""
    n: tl.constexpr = 64 if KIND == EIGHT else 16
    if KIND == EIGHT:
        s = _score(levels, position, 4, n, 0) + _score(levels, position, 12, n, 0) + _score(levels, position, 24, n, 0)
    else:
        first: tl.constexpr = 1 if KIND == CHROMA else 0
        s = _score(levels, position, 1, n, first) + _score(levels, position, 3, n, first) + _score(levels, position, 6, n, first)
    s += tl.where(tl.max(levels, 1) > 1, _BIG, 0.0)
    if KIND == FOUR:  # regions of four blocks
        regions = tl.sum(tl.sum(tl.reshape(s, (P, 2, 2, 2, 2)), 4), 2)  # [P, 2, 2]
        all_ = tl.sum(tl.sum(regions, 2), 1)
        keep = (regions >= _REGION) & (all_ >= _LUMA)[:, None, None]
        keep = tl.reshape(tl.broadcast_to(keep[:, :, None, :, None], (P, 2, 2, 2, 2)), (16 * P,))
    else:
        four = tl.reshape(s, (P, 4))
        if KIND == EIGHT:
            four = tl.where(four >= _REGION, four, 0.0)
            keep = (four >= _REGION) & (tl.sum(four, 1) >= _LUMA)[:, None]
        else:
            keep = tl.broadcast_to((tl.sum(four, 1) >= _CHROMA_SCORE)[:, None], (P, 4))
        keep = tl.reshape(keep, (4 * P,))
    return tl.where(keep | intra, 1.0, 0.0)


@triton.jit
def _lambdas(intra, lam_intra, lam_inter):
    return tl.where(intra, lam_intra, lam_inter)[:, None]


@triton.jit
def _second_of(
    c, position, second, qp, intra, steps, inverse, mb, lam_intra, lam_inter, dead_intra, dead_inter, P: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """Coefficients of the second transform in steps ``[P, D]``; the steps, lambdas and dead zones that they meet ``[P, 1]``."""
    own_qp, place = tl.load(qp + mb), tl.zeros([1], tl.int32)
    dc = _second(_dcs(c, position, P, D), second, D, False) * _inverse_of(own_qp, inverse, place, 16)
    own = tl.load(intra + mb) != 0
    return dc, _steps_of(own_qp, steps, place, 16), _lambdas(own, lam_intra, lam_inter), _lambdas(own, dead_intra, dead_inter)


@triton.jit
def _bits_of(tables, macroblock, MBS, TILES, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Where bits of macroblocks lie, of decisions that are 0 and of those that are 1, in ``[2, N, MBS, kinds, 40]``. Shape: ``[R] -> 2 x [R, 1]``."""
    kinds: tl.constexpr = 2 if KIND == CHROMA else 3
    zeros = tables + (macroblock * kinds + BLOCK)[:, None] * _CONTEXTS
    return zeros, zeros + (tl.num_programs(0) // TILES).to(tl.int64) * (MBS * kinds * _CONTEXTS)


@triton.jit
def _count(
    source, predicted, qp, transform_8x8, intra16x16, stats, core, inverse, second, MBS, BW, W, TILES, KIND: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """What the contexts see in each macroblock: ``stats`` ``[N, MBS, kinds, 5, n]``, of chroma twice as many."""
    n: tl.constexpr = 64 if KIND == EIGHT else 16
    kinds: tl.constexpr = 1 if KIND == EIGHT else 2
    first: tl.constexpr = 1 if KIND == CHROMA else 0
    frame = (tl.program_id(0) // TILES).to(tl.int64)
    size = MBS * (128 if KIND == CHROMA else 256)
    mb, mask, of_row, row_mask, offset, position = _blocks(tl.program_id(0) % TILES * P, MBS, BW, W, KIND, P)
    x = tl.load(source + frame * size + offset) - tl.load(predicted + frame * size + offset)
    c = _product(x, core, n, True)
    info = frame * MBS + of_row % MBS
    y = tl.where(position[None, :] >= first, tl.abs(c * _inverse_of(tl.load(qp + info), inverse, position, n)), 0.0)
    total = MBS * (2 if KIND == CHROMA else 1)
    stats += ((frame * total + mb) * (kinds * 5 * n))[:, None]
    used = row_mask
    if KIND != CHROMA:
        used &= (tl.load(transform_8x8 + info) != 0) == (KIND == EIGHT)
    _tally(y, used, mask, stats, position, first, n, P)
    if KIND != EIGHT:
        d: tl.constexpr = 16 if KIND == FOUR else 4
        own = frame * MBS + mb % MBS
        dc = _second(_dcs(c, position, P, d), second, d, False)
        dc = tl.abs(dc * _inverse_of(tl.load(qp + own), inverse, tl.zeros([1], tl.int32), n))
        used = mask
        if KIND == FOUR:
            used &= tl.load(intra16x16 + own) != 0
        _tally(dc, used, mask, stats + 5 * n, tl.arange(0, d), 0, n, P)


@triton.jit
def _code(
    source, predicted, qp, intra, transform_8x8, intra16x16, out, levels_out, coded_out, core, inverse, second, flat, steps, places, tables,
    MBS, BW, W, TILES, lam_intra, lam_inter, dead_intra, dead_inter,
    TRELLIS: tl.constexpr, DECIMATE: tl.constexpr, LEVELS: tl.constexpr, KIND: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Decoded samples, levels and which 4x4 blocks have any, of the macroblocks that are coded this way."""
    n: tl.constexpr = 64 if KIND == EIGHT else 16
    frame = (tl.program_id(0) // TILES).to(tl.int64)
    size = MBS * (128 if KIND == CHROMA else 256)
    mb, _there, of_row, row_mask, offset, position = _blocks(tl.program_id(0) % TILES * P, MBS, BW, W, KIND, P)
    p = tl.load(predicted + frame * size + offset)
    c = _product(tl.load(source + frame * size + offset) - p, core, n, True)
    info = frame * MBS + of_row % MBS
    own_qp = tl.load(qp + info)
    q = _steps_of(own_qp, steps, position, n)
    is_intra = tl.load(intra + info) != 0
    first: tl.constexpr = 1 if KIND == CHROMA else 0
    y = tl.where(position[None, :] >= first, c * _inverse_of(own_qp, inverse, position, n), 0.0)
    lam, dead = _lambdas(is_intra, lam_intra, lam_inter), _lambdas(is_intra, dead_intra, dead_inter)
    zeros, ones = _bits_of(tables, info, MBS, TILES, KIND, 2 if KIND == EIGHT else 0)
    levels, _threshold = _levels(tl.abs(y), lam, dead, zeros, ones, places, position, TRELLIS, first)
    if DECIMATE and not (KIND == EIGHT and TRELLIS):
        levels *= _kept(levels, position, is_intra, KIND, TRELLIS, P)[:, None]
    levels = tl.where(y < 0, -levels, levels)
    used = row_mask
    if KIND != CHROMA:
        used &= (tl.load(transform_8x8 + info) != 0) == (KIND == EIGHT)
    back = levels * q
    if KIND != EIGHT:
        d: tl.constexpr = 16 if KIND == FOUR else 4
        own = frame * MBS + mb % MBS
        dc, q0, lam, dead = _second_of(
            c, position, second, qp, intra, steps, inverse, own, lam_intra, lam_inter, dead_intra, dead_inter, P, d
        )
        zeros, ones = _bits_of(tables, own, MBS, TILES, KIND, 1)
        dc_levels, _threshold = _levels(tl.abs(dc), lam, dead, zeros, ones, places + 128, tl.arange(0, d), TRELLIS, 0)
        dc_levels = tl.where(dc < 0, -dc_levels, dc_levels)
        replaced = position[None, :] == 0
        if KIND == FOUR:
            replaced &= (tl.load(intra16x16 + info) != 0)[:, None]
        levels = tl.where(replaced, _rows_of(dc_levels, P, d), levels)
        back = tl.where(replaced, _rows_of(_second(dc_levels * q0, second, d, True), P, d), back)
    decoded = _product(back, flat, n, False)
    tl.store(out + frame * size + offset, _clamped(p + tl.floor(decoded + _TIE + 0.5), 0.0, 255.0), used[:, None])
    per: tl.constexpr = 16 if KIND == FOUR else 4
    r = tl.arange(0, P * per) % per
    if LEVELS:
        total = MBS * (2 if KIND == CHROMA else 1)
        row = (frame * total + of_row) * per + r
        tl.store(levels_out + row[:, None] * n + position, tl.where(used[:, None], levels, 0.0), row_mask[:, None])
    if KIND != CHROMA:
        some = tl.max(tl.abs(levels), 1) > 0
        wide = 4 * BW
        corner = coded_out + frame * MBS * 16 + of_row // BW * 4 * wide + of_row % BW * 4
        if KIND == FOUR:
            tl.store(corner + r // 4 * wide + r % 4, some.to(tl.uint8), used)
        else:
            for i in tl.static_range(4):
                tl.store(corner + (r // 2 * 2 + i // 2) * wide + r % 2 * 2 + i % 2, some.to(tl.uint8), used)


@triton.jit
def _code_backward(
    grad, of_levels, source, predicted, qp, intra, transform_8x8, intra16x16, by_source, by_predicted, by_qp, core, inverse, second,
    flat, steps, places, tables, MBS, BW, W, TILES, lam_intra, lam_inter, dead_intra, dead_inter, noise_width,
    TRELLIS: tl.constexpr, DECIMATE: tl.constexpr, LEVELS: tl.constexpr, KIND: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Gradient by source, prediction and QP; rounding and clipping pass it, the quantiser has its expected slope."""
    n: tl.constexpr = 64 if KIND == EIGHT else 16
    per: tl.constexpr = 16 if KIND == FOUR else 4
    first: tl.constexpr = 1 if KIND == CHROMA else 0
    frame = (tl.program_id(0) // TILES).to(tl.int64)
    size = MBS * (128 if KIND == CHROMA else 256)
    mb, mask, of_row, row_mask, offset, position = _blocks(tl.program_id(0) % TILES * P, MBS, BW, W, KIND, P)
    c = _product(tl.load(source + frame * size + offset) - tl.load(predicted + frame * size + offset), core, n, True)
    g = tl.load(grad + frame * size + offset)
    info = frame * MBS + of_row % MBS
    own_qp = tl.load(qp + info)
    q = _steps_of(own_qp, steps, position, n)
    is_intra = tl.load(intra + info) != 0
    used = row_mask
    if KIND != CHROMA:
        used &= (tl.load(transform_8x8 + info) != 0) == (KIND == EIGHT)
    y = tl.where(position[None, :] >= first, c * _inverse_of(own_qp, inverse, position, n), 0.0)
    lam, dead = _lambdas(is_intra, lam_intra, lam_inter), _lambdas(is_intra, dead_intra, dead_inter)
    zeros, ones = _bits_of(tables, info, MBS, TILES, KIND, 2 if KIND == EIGHT else 0)
    levels, threshold = _levels(tl.abs(y), lam, dead, zeros, ones, places, position, TRELLIS, first)
    slope = _slope(tl.abs(y), threshold, q, noise_width)
    if DECIMATE and not (KIND == EIGHT and TRELLIS):
        kept = _kept(levels, position, is_intra, KIND, TRELLIS, P)[:, None]
        levels *= kept
        slope *= kept
    levels = tl.where(y < 0, -levels, levels)
    of_c = _product(g, flat, n, True)
    by_level = of_c * q
    r = tl.arange(0, P * per) % per
    more = tl.zeros_like(y)
    if LEVELS:
        total = MBS * (2 if KIND == CHROMA else 1)
        row = (frame * total + of_row) * per + r
        more = tl.load(of_levels + row[:, None] * n + position, row_mask[:, None], 0.0)
    by_y = (by_level + more) * slope
    of_qp = by_level * levels - by_y * y
    by_c = by_y / q
    if KIND != EIGHT:
        d: tl.constexpr = 16 if KIND == FOUR else 4
        own = frame * MBS + mb % MBS
        dc, q0, lam, dead = _second_of(
            c, position, second, qp, intra, steps, inverse, own, lam_intra, lam_inter, dead_intra, dead_inter, P, d
        )
        zeros, ones = _bits_of(tables, own, MBS, TILES, KIND, 1)
        dc_levels, threshold = _levels(tl.abs(dc), lam, dead, zeros, ones, places + 128, tl.arange(0, d), TRELLIS, 0)
        slope = _slope(tl.abs(dc), threshold, q0 + tl.zeros_like(dc), noise_width)
        dc_levels = tl.where(dc < 0, -dc_levels, dc_levels)
        by_level = _second(_dcs(of_c, position, P, d), second, d, False) * q0
        by_y = (by_level + _dcs(more, position, P, d)) * slope
        replaced = position[None, :] == 0
        if KIND == FOUR:
            replaced &= (tl.load(intra16x16 + info) != 0)[:, None]
        of_qp = tl.where(replaced, _rows_of(by_level * dc_levels - by_y * dc, P, d), of_qp)
        by_c = tl.where(replaced, _rows_of(_second(by_y / q0, second, d, True), P, d), by_c)
    mine_ = _product(by_c, flat, n, False)
    tl.store(by_source + frame * size + offset, mine_, used[:, None])
    tl.store(by_predicted + frame * size + offset, g - mine_, used[:, None])
    of_qp = tl.sum(tl.reshape(tl.sum(of_qp, 1), (P, per)), 1) * _LN2_OF_SIX
    if KIND == CHROMA:
        tl.store(by_qp + frame * 2 * MBS + mb, of_qp, mask)
    else:
        mask &= (tl.load(transform_8x8 + frame * MBS + mb) != 0) == (KIND == EIGHT)
        tl.store(by_qp + frame * MBS + mb, of_qp, mask)


# Quantisers


@triton.jit
def _merge_qp_delta(qp, frame, out, MBS):
    """A walk through the macroblocks of one frame."""
    n = tl.program_id(0).to(tl.int64)
    before = tl.load(frame + n)
    for i in range(MBS):
        own = tl.load(qp + n * MBS + i)
        before = tl.where(tl.abs(own - before) == 1, before, own)
        tl.store(out + n * MBS + i, before)


@triton.jit
def _residual_costs(source, predicted, hadamard, sad, by_four, by_eight, BLOCKS, BH, BW, P: tl.constexpr):
    """SAD, SATD and SA8D of macroblocks, ``[N, bh, bw]`` each."""
    b, mask, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 16, P)
    difference = samples(source, rb, top, left, i, k, BH, BW, 16) - samples(predicted, rb, top, left, i, k, BH, BW, 16)
    tl.store(sad + b, sum_rows(tl.sum(tl.abs(difference), 1), P), mask)
    tl.store(by_four + b, sum_rows(satd(difference, hadamard_matrix(hadamard)), P), mask)
    tl.store(by_eight + b, sum_rows(satd(difference, hadamard_matrix(hadamard + 4096)), P), mask)


class _Plan:
    """Constants and launches for residuals of one kind."""

    def __init__(self, kind: int, x: Tensor, macroblocks: int, wide: int, quant: list[float]) -> None:
        self.intra, self.inter, self.noise_width, decimate, trellis, *weights = quant
        self.decimate, self.trellis = bool(decimate), bool(trellis)
        self.of_intra, self.of_inter, self.small = weights
        self.kind, self.n = kind, len(x)
        k = 8 if kind == EIGHT.value else 4
        second = x if kind == EIGHT.value else (WALSH4 if kind == FOUR.value else HADAMARD2).like(x)
        self.transform = (CORE[k].like(x), _INVERSE[k].like(x), second)
        self.constants = (*self.transform, FLAT[k].like(x), STEPS[k].like(x), _PLACES[kind].like(x))
        self.tiles = -(-macroblocks * (2 if kind == CHROMA.value else 1) // _P)
        self.sizes = (macroblocks, wide, wide * (8 if kind == CHROMA.value else 16), self.tiles)

    def count(self, source: Tensor, predicted: Tensor, qp: Tensor, masks: list[Tensor]) -> tuple[Tensor, ...]:
        """What the contexts see in each macroblock ``[N, MB, 5, n]``, of each kind of block."""
        planes, kinds, n = (1, 1, 64) if self.kind == EIGHT.value else (1, 2, 16) if self.kind == FOUR.value else (2, 2, 16)
        stats = source.new_empty(self.n, planes, self.sizes[0], kinds, 5, n)
        _count[(self.n * self.tiles,)](
            source, predicted, qp, *masks, stats, *self.transform, *self.sizes, self.kind, _P, num_warps=WARPS[self.kind]
        )
        return (stats[:, 0] if planes == 1 else stats.sum(1)).unbind(2)

    def weights(self) -> tuple[float, ...]:
        small = 1.0 if self.kind == EIGHT.value else self.small
        lam = (LAMBDA[0] * self.of_intra * small, LAMBDA[1] * self.of_inter * small)
        return (*lam, 1 - self.intra, 1 - self.inter)

    def flags(self, levels: bool) -> dict[str, Any]:
        what = {"TRELLIS": self.trellis, "DECIMATE": self.decimate, "LEVELS": levels}
        return {**what, "KIND": self.kind, "P": _P, "num_warps": WARPS[self.kind]}


def _bytes(*masks: Tensor) -> list[Tensor]:
    return [m.contiguous().view(torch.uint8) for m in masks]


def _context_bits_of_luma(source: Tensor, predicted: Tensor, qp: Tensor, *more: Any) -> Tensor:
    return _context_bits(qp, more[3], len(_OF_LUMA))


def _context_bits_of_chroma(source: Tensor, predicted: Tensor, qpc: Tensor, *more: Any) -> Tensor:
    return _context_bits(qpc, more[1], len(_OF_CHROMA))


def _context_bits(qp: Tensor, quant: list[float], kinds: int) -> Tensor:
    """Memory for the bits of contexts ``[2, N, MB, kinds * 40]``; nothing where no trellis asks for them."""
    return qp.new_empty((2, len(qp), qp[0].numel(), kinds * cabac.CONTEXTS) if quant[4] else 0)


def _adapted(stats: Sequence[Tensor], kinds: Sequence[cabac.Kind], qp: Tensor, intra: Tensor) -> Tensor:
    """Bits of the contexts of kinds of blocks before each macroblock, by what they see in each. Shape: ``[N, MB, 5, n]`` each ->
    ``[2, N, MB, kinds * 40]``."""
    hits, seen = [], []
    for x, kind in zip(stats, kinds):
        found, coded, ended = x[:, :, :3, : kind.n - 1].unbind(2)
        significant, last = kind.maps.like(x)
        of_magnitudes = x[:, :, 3:, : cabac.CONTEXTS - cabac.ABOVE]
        hits += [found @ significant, ended @ last, of_magnitudes[:, :, 0]]
        seen += [coded @ significant, found @ last, of_magnitudes[:, :, 1]]
    first = torch.cat([cabac.slice_states(kind.first, qp, intra) for kind in kinds], -1)
    return cabac.bits_of(cabac.adapt(torch.cat(hits, -1), torch.cat(seen, -1), first))


@implements(reference.code_luma, kept=_context_bits_of_luma)
def code_luma(
    source: Tensor,
    predicted: Tensor,
    qp: Tensor,
    intra: Tensor,
    transform_8x8: Tensor,
    intra16x16: Tensor,
    quant: list[float],
    levels: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    source, predicted, qp = source.contiguous(), predicted.contiguous(), qp.contiguous()
    masks = _bytes(intra, transform_8x8, intra16x16)
    out, four, eight, coded = reference.code_luma.allocate(source, predicted, qp, intra, transform_8x8, intra16x16, quant, levels)
    plans = _plans_of_luma(source, qp, quant)
    bits = qp.new_empty(0)
    if plans[0].trellis:
        bits = _adapted([x for plan in plans for x in plan.count(source, predicted, qp, masks[1:])], _OF_LUMA, qp, intra)
    for plan, of_levels in zip(plans, (four, eight)):
        _code[(plan.n * plan.tiles,)](
            source, predicted, qp, *masks, out, of_levels, coded.view(torch.uint8), *plan.constants, bits, *plan.sizes, *plan.weights(),
            **plan.flags(levels),
        )  # fmt: skip
    return out, four, eight, coded, bits


def _plans_of_luma(source: Tensor, qp: Tensor, quant: list[float]) -> list[_Plan]:
    return [_Plan(kind.value, source, qp[0].numel(), qp.shape[2], quant) for kind in (FOUR, EIGHT)]


@backward_of(reference.code_luma, of=["source", "predicted", "qp"])
def code_luma_backward(
    grad: Tensor, grad_four: Tensor | None, grad_eight: Tensor | None, source: Tensor, predicted: Tensor, qp: Tensor, intra: Tensor,
    transform_8x8: Tensor, intra16x16: Tensor, quant: list[float], kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad, source, predicted, qp = grad.contiguous(), source.contiguous(), predicted.contiguous(), qp.contiguous()
    masks = _bytes(intra, transform_8x8, intra16x16)
    out = [x.new_empty(x.shape) for x in (source, predicted, qp)]
    for plan, of_levels in zip(_plans_of_luma(source, qp, quant), (grad_four, grad_eight)):
        further = of_levels is not None and of_levels.numel() > 0
        _code_backward[(plan.n * plan.tiles,)](
            grad, of_levels.contiguous() if further else grad, source, predicted, qp, *masks, *out, *plan.constants, kept, *plan.sizes,
            *plan.weights(), plan.noise_width, **plan.flags(further),
        )  # fmt: skip
    return out[0], out[1], out[2]


@implements(reference.code_chroma, kept=_context_bits_of_chroma)
def code_chroma(
    source: Tensor, predicted: Tensor, qpc: Tensor, intra: Tensor, quant: list[float], levels: bool
) -> tuple[Tensor, Tensor, Tensor]:
    source, predicted, qpc = source.contiguous(), predicted.contiguous(), qpc.contiguous()
    (mask,) = _bytes(intra)
    out, of_levels = reference.code_chroma.allocate(source, predicted, qpc, intra, quant, levels)
    plan = _Plan(CHROMA.value, source, qpc[0].numel(), qpc.shape[2], quant)
    bits = qpc.new_empty(0)
    if plan.trellis:
        bits = _adapted(plan.count(source, predicted, qpc, [mask, mask]), _OF_CHROMA, qpc, intra)
    _code[(plan.n * plan.tiles,)](
        source, predicted, qpc, mask, mask, mask, out, of_levels, mask, *plan.constants, bits, *plan.sizes, *plan.weights(),
        **plan.flags(levels),
    )  # fmt: skip
    return out, of_levels, bits


@backward_of(reference.code_chroma, of=["source", "predicted", "qpc"])
def code_chroma_backward(
    grad: Tensor,
    grad_levels: Tensor | None,
    source: Tensor,
    predicted: Tensor,
    qpc: Tensor,
    intra: Tensor,
    quant: list[float],
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, source, predicted, qpc = grad.contiguous(), source.contiguous(), predicted.contiguous(), qpc.contiguous()
    (mask,) = _bytes(intra)
    n, bh, bw = qpc.shape
    out = [source.new_empty(source.shape), source.new_empty(source.shape), qpc.new_empty(n, 2, bh, bw)]
    plan = _Plan(CHROMA.value, source, bh * bw, bw, quant)
    further = grad_levels is not None and grad_levels.numel() > 0
    _code_backward[(plan.n * plan.tiles,)](
        grad, grad_levels.contiguous() if further else grad, source, predicted, qpc, mask, mask, mask, *out, *plan.constants, kept, *plan.sizes,
        *plan.weights(), plan.noise_width, **plan.flags(further),
    )  # fmt: skip
    return out[0], out[1], out[2].sum(1)


@implements(reference.merge_qp_delta)
def merge_qp_delta(qp: Tensor, frame_qp: Tensor) -> Tensor:
    qp = qp.contiguous()
    out = torch.empty_like(qp)
    _merge_qp_delta[(len(qp),)](qp, frame_qp.contiguous(), out, qp[0].numel(), num_warps=1)
    return out


@implements(reference.choose_transform_8x8)
def choose_transform_8x8(source: Tensor, predicted: Tensor, use_satd: bool, allowed: bool) -> tuple[Tensor, Tensor]:
    _, h, w = source.shape
    cost, _ = reference.choose_transform_8x8.allocate(source, predicted, use_satd, allowed)
    sads, satds, sa8ds = cost, torch.empty_like(cost), torch.empty_like(cost)
    p, n = SEARCH_ROWS // 4, cost.numel()
    planes = source.contiguous(), predicted.contiguous(), TRANSFORMS.like(source)
    _residual_costs[(-(-n // p),)](*planes, sads, satds, sa8ds, n, h // 16, w // 16, p, num_warps=SEARCH_WARPS)
    return satds if use_satd else sads, sa8ds < satds if allowed else torch.zeros_like(sads, dtype=torch.bool)


@implements(reference.choose_coding)
def choose_coding(
    source: Tensor,
    chroma: Tensor,
    predicted: list[Tensor],
    predicted_chroma: list[Tensor],
    side_bits: list[Tensor],
    may_skip: Tensor | None,
    qp: Tensor,
    qpc: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.best_coding(
        code_luma, code_chroma, source, chroma, predicted, predicted_chroma, side_bits, may_skip, qp, qpc, lam, quant, psy, transform_8x8
    )
