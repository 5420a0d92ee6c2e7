"""H.264's residual coding in Triton: transform, levels by dead zone or by rate and distortion, decimation, and back.

Four macroblocks a program, their blocks as rows of a tile, coefficients in scan order as its columns: transforms are products with matrices.
Without trellis one pass does it all; with it a pass before counts what the contexts of each frame see. Backward codes the residual again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...constants import Constant
from ...implement import backward_of, implements
from ..common.tables import FLAT, HADAMARD2, STEPS, WALSH4
from ..common.triton import SEARCH_ROWS, SEARCH_WARPS, TRANSFORMS, block_rows, hadamard_matrix, samples, satd, sum_rows
from . import reference
from .trellis import FURTHER_LAMBDA, LAMBDA, LONGER_BITS, P_LAST, P_MORE, P_SIGNIFICANT, TWO_BITS, Trellis, contexts_of_places

_P = 4  # macroblocks in a program
_LONGER_BITS, _TWO_BITS, _FURTHER_LAMBDA = (tl.constexpr(v) for v in (LONGER_BITS, TWO_BITS, FURTHER_LAMBDA))
_P_SIGNIFICANT, _P_LAST, _P_MORE = (tl.constexpr(v) for v in (P_SIGNIFICANT, P_LAST, P_MORE))
_REGION, _LUMA, _CHROMA_SCORE, _BIG = (
    tl.constexpr(v) for v in (reference.MIN_SCORE_REGION, reference.MIN_SCORE_LUMA, reference.MIN_SCORE_CHROMA, float(reference.BIG_SCORE))
)
_TIE = tl.constexpr(reference.TIE)
_RATE, _HALF_LN2, _LN2_OF_SIX = (tl.constexpr(v) for v in (-math.log2(math.e) * math.sqrt(2), -math.log(2) / 2, math.log(2) / 6))
EIGHT, FOUR, CHROMA = (tl.constexpr(i) for i in range(3))  # what is coded: luma by 8x8, by 4x4, chroma
WARPS = (8, 4, 4)  # of their programs: matrices of 64 x 64 take many registers
_SIZES = ((64,), (16, 16), (15, 4))  # coefficients of blocks, and of their DCs


def _places(n: int) -> list[list[int]]:
    """Contexts of the significance map and of last flags of each place, -1 where nothing is coded. ``[2, 64]``."""
    return [[*c, *[-1] * (64 - len(c))] for c in contexts_of_places(n)]


_CONTEXTS = [Constant([_places(n) for n in sizes]) for sizes in _SIZES]  # [kinds, 2, 64]


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
def _flags(levels):
    """Which coefficients have levels, which more than 1, how many and whether larger ones follow."""
    hit, more = tl.minimum(levels, 1.0), _clamped(levels - 1, 0.0, 1.0)
    return hit, more, _after(hit), tl.minimum(_after(more), 1.0)


@triton.jit
def _tally(y, mask, stats, position, FIRST: tl.constexpr):
    """Add what the contexts see in blocks of magnitudes y to ``stats`` [4, 64]: seen, found, ended; and of magnitudes."""
    hit, more, after, larger = _flags(tl.floor(y + 0.25))
    valid = tl.where(mask, 1.0, 0.0)[:, None]
    is_last = hit * (1 - tl.minimum(after, 1.0)) * valid
    offset = stats + position - FIRST
    inside = position >= FIRST
    tl.atomic_add(offset, tl.sum(tl.minimum(after + hit, 1.0) * valid, 0), inside)
    tl.atomic_add(offset + 64, tl.sum(hit * valid, 0), inside)
    tl.atomic_add(offset + 128, tl.sum(is_last, 0), inside)
    after_large = larger * hit * valid
    after_one = hit * valid - is_last - after_large
    tl.atomic_add(stats + 192, tl.sum(tl.sum(is_last, 1), 0))
    tl.atomic_add(stats + 193, tl.sum(tl.sum(after_one, 1), 0))
    tl.atomic_add(stats + 194, tl.sum(tl.sum(after_large, 1), 0))
    tl.atomic_add(stats + 195, tl.sum(tl.sum(is_last * more, 1), 0))
    tl.atomic_add(stats + 196, tl.sum(tl.sum(after_one * more, 1), 0))
    tl.atomic_add(stats + 197, tl.sum(tl.sum(after_large * more, 1), 0))


@triton.jit
def _of_contexts(counts, same):
    return tl.sum(counts[None, :] * same, 1)


@triton.jit
def _bits_of_contexts(stats, contexts, tables, memory, KINDS: tl.constexpr):
    """From counts to bits, for one kind of block of one frame: ``[4, 64]`` -> not significant, significant, not last, last by place;
    magnitudes: of 1 and of 2 where it is the last, after ones, after larger ones."""
    i = tl.program_id(0).to(tl.int64)
    stats += i * 256
    tables += i * 256
    position = tl.arange(0, 64)
    map_ = tl.load(contexts + i % KINDS * 128 + position)
    end_ = tl.load(contexts + i % KINDS * 128 + 64 + position)
    coded = map_ >= 0
    seen, found = tl.load(stats + position, coded, 0.0), tl.load(stats + 64 + position, coded, 0.0)
    ended = tl.load(stats + 128 + position, coded, 0.0)
    same = tl.where(coded[None, :] & (map_[:, None] == map_[None, :]), 1.0, 0.0)
    p = (_of_contexts(found, same) + memory * _P_SIGNIFICANT) / (_of_contexts(seen, same) + memory)
    tl.store(tables + position, tl.where(coded, -tl.log2(1 - p), 0.0))
    tl.store(tables + 64 + position, tl.where(coded, -tl.log2(p), 0.0))
    same = tl.where(coded[None, :] & (end_[:, None] == end_[None, :]), 1.0, 0.0)
    q = (_of_contexts(ended, same) + memory * _P_LAST) / (_of_contexts(found, same) + memory)
    # the last place's bits are none; what follows them in memory are the magnitudes'
    tl.store(tables + 128 + position, tl.where(coded, -tl.log2(1 - q), 0.0))
    tl.store(tables + 192 + position, tl.where(coded, -tl.log2(q), 0.0))
    three = tl.arange(0, 4)  # and one that nobody reads
    share = (tl.load(stats + 195 + three) + memory * _P_MORE) / (tl.load(stats + 192 + three) + memory)
    out = tables + tl.num_programs(0) * 256 - i * 256 + i * 8
    tl.store(out + three, -tl.log2(1 - share))
    tl.store(out + 4 + three, -tl.log2(share) + _TWO_BITS)


@triton.jit
def _magnitude_bits(v, s0, coded, one, two):
    beyond = tl.maximum(v - 1, 0.0)
    size = _blend(one, two, tl.minimum(beyond, 1.0)) + tl.maximum(beyond - 1, 0.0) * _LONGER_BITS
    return _blend(s0 + tl.zeros_like(v), coded + size, tl.minimum(v, 1.0))


@triton.jit
def _of_magnitudes(bits, last, larger):
    """Bits of a magnitude where it is the last one, where ones follow and where a larger one does."""
    return _blend(_blend(tl.load(bits + 1), tl.load(bits), last), tl.load(bits + 2), larger)


@triton.jit
def _levels(y, lam, dead, tables, magnitudes, position, block_bits, TRELLIS: tl.constexpr, FIRST: tl.constexpr):
    """Levels of magnitudes y, and the threshold that each met. Shape: ``[R, n]``; lam, dead ``[R, 1]``."""
    if TRELLIS:
        inside = position >= FIRST
        s0 = tl.load(tables + position - FIRST, inside, 0.0)[None, :]
        s1 = tl.load(tables + 64 + position - FIRST, inside, 0.0)[None, :]
        l0 = tl.load(tables + 128 + position - FIRST, inside, 0.0)[None, :]
        l1 = tl.load(tables + 192 + position - FIRST, inside, 0.0)[None, :]
        _hit, _more, after, larger = _flags(tl.floor(y + 0.25))
        last = 1 - tl.minimum(after, 1.0)
        one, two = _of_magnitudes(magnitudes, last, larger), _of_magnitudes(magnitudes + 4, last, larger)
        coded = s1 + l0 + 1
        near = tl.floor(y + 0.5)
        below = tl.maximum(near - 1, 0.0)
        distortion = y * y
        cost_near = (y - near) * (y - near) + lam * _magnitude_bits(near, s0, coded, one, two)
        cost_below = (y - below) * (y - below) + lam * _magnitude_bits(below, s0, coded, one, two)
        chosen = tl.where(cost_below > cost_near, near, below)
        total = tl.cumsum(tl.minimum(cost_near, cost_below), 1) + _after(distortion) + lam * (l1 - l0)
        total += (1 - tl.minimum(chosen, 1.0)) * 1e9
        best = tl.min(total, 1)[:, None]
        end = tl.min(tl.where(total == best, position[None, :], 64), 1)[:, None]
        worth = tl.sum(distortion, 1)[:, None] > best + lam * block_bits
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
def _second_of(c, position, second, qp, intra, steps, mb, lam_intra, lam_inter, dead_intra, dead_inter, P: tl.constexpr, D: tl.constexpr):
    """Coefficients of the second transform in steps ``[P, D]``; the steps, lambdas and dead zones that they meet ``[P, 1]``."""
    q0 = _steps_of(tl.load(qp + mb), steps, tl.zeros([1], tl.int32), 16)
    dc = _second(_dcs(c, position, P, D), second, D, False) / q0
    own = tl.load(intra + mb) != 0
    return dc, q0, _lambdas(own, lam_intra, lam_inter), _lambdas(own, dead_intra, dead_inter)


@triton.jit
def _count(
    source, predicted, qp, stats, flat, steps, second, MBS, BW, W, TILES, KIND: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """What the contexts of each frame see: ``stats`` ``[N, kinds, 4, 64]``, added to."""
    n: tl.constexpr = 64 if KIND == EIGHT else 16
    kinds: tl.constexpr = 1 if KIND == EIGHT else 2
    frame = (tl.program_id(0) // TILES).to(tl.int64)
    size = MBS * (128 if KIND == CHROMA else 256)
    mb, mask, of_row, row_mask, offset, position = _blocks(tl.program_id(0) % TILES * P, MBS, BW, W, KIND, P)
    x = tl.load(source + frame * size + offset) - tl.load(predicted + frame * size + offset)
    c = _product(x, flat, n, True)
    q = _steps_of(tl.load(qp + frame * MBS + of_row % MBS), steps, position, n)
    y = tl.abs(c / q)
    stats += frame * kinds * 256
    if KIND == CHROMA:
        _tally(tl.where(position[None, :] > 0, y, 0.0), row_mask, stats, position, 1)
    else:
        _tally(y, row_mask, stats, position, 0)
    if KIND != EIGHT:
        d: tl.constexpr = 16 if KIND == FOUR else 4
        dc = _second(_dcs(c, position, P, d), second, d, False)
        q0 = _steps_of(tl.load(qp + frame * MBS + mb % MBS), steps, tl.zeros([1], tl.int32), n)
        _tally(tl.abs(dc / q0), mask, stats + 256, tl.arange(0, d), 0)


@triton.jit
def _code(
    source, predicted, qp, intra, transform_8x8, intra16x16, out, levels_out, coded_out, flat, steps, second, tables, MBS, BW, W, TILES,
    lam_intra, lam_inter, dead_intra, dead_inter, block_bits,
    TRELLIS: tl.constexpr, DECIMATE: tl.constexpr, LEVELS: tl.constexpr, KIND: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Decoded samples, levels and which 4x4 blocks have any, of the macroblocks that are coded this way."""
    n: tl.constexpr = 64 if KIND == EIGHT else 16
    kinds: tl.constexpr = 1 if KIND == EIGHT else 2
    frame = (tl.program_id(0) // TILES).to(tl.int64)
    size = MBS * (128 if KIND == CHROMA else 256)
    mb, _there, of_row, row_mask, offset, position = _blocks(tl.program_id(0) % TILES * P, MBS, BW, W, KIND, P)
    p = tl.load(predicted + frame * size + offset)
    c = _product(tl.load(source + frame * size + offset) - p, flat, n, True)
    info = frame * MBS + of_row % MBS
    q = _steps_of(tl.load(qp + info), steps, position, n)
    is_intra = tl.load(intra + info) != 0
    magnitudes = tables + (tl.num_programs(0) // TILES) * kinds * 256 + frame * kinds * 8
    mine = tables + frame * kinds * 256
    first: tl.constexpr = 1 if KIND == CHROMA else 0
    y = tl.where(position[None, :] >= first, c / q, 0.0)
    lam, dead = _lambdas(is_intra, lam_intra, lam_inter), _lambdas(is_intra, dead_intra, dead_inter)
    levels, _threshold = _levels(tl.abs(y), lam, dead, mine, magnitudes, position, block_bits, TRELLIS, first)
    if DECIMATE and not (KIND == EIGHT and TRELLIS):
        levels *= _kept(levels, position, is_intra, KIND, TRELLIS, P)[:, None]
    levels = tl.where(y < 0, -levels, levels)
    used = row_mask
    if KIND != CHROMA:
        used &= (tl.load(transform_8x8 + info) != 0) == (KIND == EIGHT)
    back = levels * q
    if KIND != EIGHT:
        d: tl.constexpr = 16 if KIND == FOUR else 4
        dc, q0, lam, dead = _second_of(
            c, position, second, qp, intra, steps, frame * MBS + mb % MBS, lam_intra, lam_inter, dead_intra, dead_inter, P, d
        )
        dc_levels, _threshold = _levels(tl.abs(dc), lam, dead, mine + 256, magnitudes + 8, tl.arange(0, d), block_bits, TRELLIS, 0)
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
    grad, of_levels, source, predicted, qp, intra, transform_8x8, intra16x16, by_source, by_predicted, by_qp, flat, steps, second, tables,
    MBS, BW, W, TILES, lam_intra, lam_inter, dead_intra, dead_inter, block_bits, noise_width,
    TRELLIS: tl.constexpr, DECIMATE: tl.constexpr, LEVELS: tl.constexpr, KIND: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Gradient by source, prediction and QP; what rounds and clips passes it, the quantiser has the slope of its mean."""
    n: tl.constexpr = 64 if KIND == EIGHT else 16
    kinds: tl.constexpr = 1 if KIND == EIGHT else 2
    per: tl.constexpr = 16 if KIND == FOUR else 4
    first: tl.constexpr = 1 if KIND == CHROMA else 0
    frame = (tl.program_id(0) // TILES).to(tl.int64)
    size = MBS * (128 if KIND == CHROMA else 256)
    mb, mask, of_row, row_mask, offset, position = _blocks(tl.program_id(0) % TILES * P, MBS, BW, W, KIND, P)
    c = _product(tl.load(source + frame * size + offset) - tl.load(predicted + frame * size + offset), flat, n, True)
    g = tl.load(grad + frame * size + offset)
    info = frame * MBS + of_row % MBS
    q = _steps_of(tl.load(qp + info), steps, position, n)
    is_intra = tl.load(intra + info) != 0
    magnitudes = tables + (tl.num_programs(0) // TILES) * kinds * 256 + frame * kinds * 8
    mine = tables + frame * kinds * 256
    used = row_mask
    if KIND != CHROMA:
        used &= (tl.load(transform_8x8 + info) != 0) == (KIND == EIGHT)
    y = tl.where(position[None, :] >= first, c / q, 0.0)
    lam, dead = _lambdas(is_intra, lam_intra, lam_inter), _lambdas(is_intra, dead_intra, dead_inter)
    levels, threshold = _levels(tl.abs(y), lam, dead, mine, magnitudes, position, block_bits, TRELLIS, first)
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
        dc, q0, lam, dead = _second_of(
            c, position, second, qp, intra, steps, frame * MBS + mb % MBS, lam_intra, lam_inter, dead_intra, dead_inter, P, d
        )
        dc_levels, threshold = _levels(tl.abs(dc), lam, dead, mine + 256, magnitudes + 8, tl.arange(0, d), block_bits, TRELLIS, 0)
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


# Bits of given levels


@triton.jit
def _given(levels, MBS, TILES, n: tl.constexpr, P: tl.constexpr):
    """Frame; macroblocks and which there are ``[P]``; magnitudes of their blocks ``[P 256/n, n]`` and which blocks there are."""
    per: tl.constexpr = 256 // n
    frame = (tl.program_id(0) // TILES).to(tl.int64)
    first = tl.program_id(0) % TILES * P
    mb, r, position = first + tl.arange(0, P), tl.arange(0, P * per), tl.arange(0, n)
    mask = first + r // per < MBS
    v = tl.load(levels + ((frame * MBS + first) * per + r)[:, None] * n + position, mask[:, None], 0.0)
    return frame, mb, mb < MBS, tl.abs(v), mask, position


@triton.jit
def _count_levels(levels, stats, MBS, TILES, n: tl.constexpr, P: tl.constexpr):
    frame, _mb, _inside, v, mask, position = _given(levels, MBS, TILES, n, P)
    _tally(v, mask, stats + frame * 256, position, 0)


@triton.jit
def _bits_of_levels(levels, tables, out, MBS, TILES, n: tl.constexpr, P: tl.constexpr):
    """Bits of each macroblock's levels, added to ``out`` ``[N, MBS]``."""
    frame, mb, inside, v, _there, position = _given(levels, MBS, TILES, n, P)
    magnitudes = tables + (tl.num_programs(0) // TILES) * 256 + frame * 8
    tables += frame * 256
    s0, s1 = tl.load(tables + position)[None, :], tl.load(tables + 64 + position)[None, :]
    l0, l1 = tl.load(tables + 128 + position)[None, :], tl.load(tables + 192 + position)[None, :]
    _hit, _more, after, larger = _flags(v)
    followed = tl.minimum(after, 1.0)
    one, two = _of_magnitudes(magnitudes, 1 - followed, larger), _of_magnitudes(magnitudes + 4, 1 - followed, larger)
    bits = tl.sum(_magnitude_bits(v, s0 * followed, s1 + 1 + _blend(l1, l0, followed), one, two), 1)
    bits = tl.sum(tl.reshape(bits, (P, 256 // n)), 1)
    tl.store(out + frame * MBS + mb, tl.load(out + frame * MBS + mb, inside, 0.0) + bits, inside)


def add_bits(levels: Tensor, kind: int, out: Tensor) -> None:
    """Add bits of levels of intra luma ``[N, H/16, W/16, 256]`` to ``out`` ``[N, H/16, W/16]``."""
    frames, macroblocks, n = len(levels), levels[0].numel() // 256, _SIZES[kind][0]
    tiles = -(-macroblocks // _P)
    stats, tables = levels.new_zeros(frames, 4, 64), levels.new_empty(frames * (256 + 8))
    _count_levels[(frames * tiles,)](levels, stats, macroblocks, tiles, n, _P)
    _bits_of_contexts[(frames,)](stats, _CONTEXTS[kind].like(levels), tables, Trellis.memory, 1)
    _bits_of_levels[(frames * tiles,)](levels, tables, out, macroblocks, tiles, n, _P)


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
        self.of_intra, self.of_inter, self.small, self.block, self.memory = weights
        self.kind, self.n = kind, len(x)
        k = 8 if kind == EIGHT.value else 4
        second = x if kind == EIGHT.value else (WALSH4 if kind == FOUR.value else HADAMARD2).like(x)
        self.constants = (FLAT[k].like(x), STEPS[k].like(x), second)
        self.tiles = -(-macroblocks * (2 if kind == CHROMA.value else 1) // _P)
        self.sizes = (macroblocks, wide, wide * (8 if kind == CHROMA.value else 16), self.tiles)

    def count(self, source: Tensor, predicted: Tensor, qp: Tensor, context_bits: Tensor) -> None:
        """Bits of what the contexts of each frame code; nothing where no trellis asks for them."""
        if not self.trellis:
            return
        kinds = len(_SIZES[self.kind])
        stats = source.new_zeros(self.n, kinds, 4, 64)
        _count[(self.n * self.tiles,)](
            source, predicted, qp, stats, *self.constants, *self.sizes, self.kind, _P, num_warps=WARPS[self.kind]
        )
        _bits_of_contexts[(self.n * kinds,)](stats, _CONTEXTS[self.kind].like(source), context_bits, self.memory, kinds)

    def weights(self) -> tuple[float, ...]:
        small = 1.0 if self.kind == EIGHT.value else self.small
        lam = (LAMBDA[0] * self.of_intra * small, LAMBDA[1] * self.of_inter * small)
        return (*lam, 1 - self.intra, 1 - self.inter, self.block)

    def flags(self, levels: bool) -> dict[str, Any]:
        what = {"TRELLIS": self.trellis, "DECIMATE": self.decimate, "LEVELS": levels}
        return {**what, "KIND": self.kind, "P": _P, "num_warps": WARPS[self.kind]}


def _bytes(*masks: Tensor) -> list[Tensor]:
    return [m.contiguous().view(torch.uint8) for m in masks]


def context_bits_of(qp: Tensor, quant: list[float], kinds: int) -> Tensor:
    """Memory for bits of contexts: of significance, last flags and magnitudes of some kinds of blocks of each frame."""
    return qp.new_empty(len(qp) * kinds * (256 + 8) if quant[4] else 0)


def _context_bits_of_luma(source: Tensor, predicted: Tensor, qp: Tensor, *more: Any) -> Tensor:
    return context_bits_of(qp, more[3], 3)


def _context_bits_of_chroma(source: Tensor, predicted: Tensor, qpc: Tensor, *more: Any) -> Tensor:
    return context_bits_of(qpc, more[1], 2)


def _by_transform(context_bits: Tensor) -> list[tuple[int, Tensor]]:
    """The two transforms of luma and their parts of the bits."""
    most = context_bits.numel() // 3 * 2
    return [(FOUR.value, context_bits[:most]), (EIGHT.value, context_bits[most:])]


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
    context_bits = context_bits_of(qp, quant, 3)
    for (kind, bits), of_levels in zip(_by_transform(context_bits), (four, eight)):
        code_kind(kind, source, predicted, qp, masks, out, of_levels, coded, bits, quant, levels)
    return out, four, eight, coded, context_bits


def code_kind(
    kind: int, source: Tensor, predicted: Tensor, qp: Tensor, masks: list[Tensor], out: Tensor, of_levels: Tensor, coded: Tensor,
    context_bits: Tensor, quant: list[float], levels: bool,
) -> None:  # fmt: skip
    """Code macroblocks of one transform into ``out``, ``of_levels``, ``coded`` and ``context_bits``."""
    plan = _Plan(kind, source, qp[0].numel(), qp.shape[2], quant)
    plan.count(source, predicted, qp, context_bits)
    _code[(plan.n * plan.tiles,)](
        source, predicted, qp, *masks, out, of_levels, coded.view(torch.uint8), *plan.constants, context_bits, *plan.sizes,
        *plan.weights(), **plan.flags(levels),
    )  # fmt: skip


@backward_of(reference.code_luma, of=["source", "predicted", "qp"])
def code_luma_backward(
    grad: Tensor, grad_four: Tensor | None, grad_eight: Tensor | None, source: Tensor, predicted: Tensor, qp: Tensor, intra: Tensor,
    transform_8x8: Tensor, intra16x16: Tensor, quant: list[float], kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad, source, predicted, qp = grad.contiguous(), source.contiguous(), predicted.contiguous(), qp.contiguous()
    masks = _bytes(intra, transform_8x8, intra16x16)
    out = [x.new_empty(x.shape) for x in (source, predicted, qp)]
    for (kind, bits), of_levels in zip(_by_transform(kept), (grad_four, grad_eight)):
        plan = _Plan(kind, source, qp[0].numel(), qp.shape[2], quant)
        further = of_levels is not None and of_levels.numel() > 0
        _code_backward[(plan.n * plan.tiles,)](
            grad, of_levels.contiguous() if further else grad, source, predicted, qp, *masks, *out, *plan.constants, bits, *plan.sizes,
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
    context_bits = context_bits_of(qpc, quant, 2)
    plan = _Plan(CHROMA.value, source, qpc[0].numel(), qpc.shape[2], quant)
    plan.count(source, predicted, qpc, context_bits)
    _code[(plan.n * plan.tiles,)](
        source, predicted, qpc, mask, mask, mask, out, of_levels, mask, *plan.constants, context_bits, *plan.sizes, *plan.weights(),
        **plan.flags(levels),
    )  # fmt: skip
    return out, of_levels, context_bits


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
