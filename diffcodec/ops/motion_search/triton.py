"""Motion search in Triton: full search, refinement, partitions, the lookahead's costs, the directions of B frames.

Costs are sums of whole numbers (and halves), exact in any order, so that vectors are those of the reference unless bits of vectors decide in the last
place. A block of 8 x 8 samples is a row of a tile: its Hadamard transforms are one product with a matrix of 64 x 64, exact in tf32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ...blocks import repeat_blocks
from ...implement import implements
from ..common.tables import HADAMARD4_OF_8
from ..common.triton import (
    SEARCH_ROWS,
    SEARCH_WARPS,
    average,
    block_rows,
    blocks_here,
    distortion,
    hadamard_matrix,
    repeat_rows,
    sample_at,
    samples,
    sum_rows,
    window,
)
from ..interpolate.triton import SIXTEEN, fetch_luma
from . import reference as _reference

_SIZE = 256  # blocks in a program
_ROWS = 32  # blocks of 8 x 8 in a program
_MVD_EQUAL, _MVD_OTHER, _MVD_OCTAVE = (tl.constexpr(v) for v in (_reference.MVD_EQUAL, _reference.MVD_OTHER, _reference.MVD_OCTAVE))
_INTER_COST, _MOTION_COST = tl.constexpr(_reference.INTER_COST), tl.constexpr(float(_reference.MOTION_COST))
_DISTANCE_COST, _SPLIT_BITS = tl.constexpr(_reference.DISTANCE_COST), tl.constexpr(_reference.SPLIT_BITS)
_BITS0, _BITS1, _BITS2 = (tl.constexpr(v) for v in _reference.DIRECTION_BITS)
_BITS_16X16, _BITS_16X8, _BITS_8X16, _BITS_8X8 = (tl.constexpr(v) for v in _reference.PARTITION_BITS)


@triton.jit
def _full_search(current, reference, out, BLOCKS, BH, BW, H, W, REACH, K: tl.constexpr, R: tl.constexpr):
    """Full search: the best whole displacement of blocks of K x K samples. Shape: ``[N, H, W] -> [N, bh, bw, 2]``, in eighths."""
    b = tl.program_id(0) * R + tl.arange(0, R)
    mask = b < BLOCKS
    b = tl.minimum(b, BLOCKS - 1)
    s = tl.arange(0, K * K)[None, :]
    plane = (b // (BH * BW)).to(tl.int64)[:, None] * (H * W)
    y, x = (b // BW % BH * K)[:, None] + s // K, (b % BW * K)[:, None] + s % K
    mine = tl.load(current + plane + y * W + x)
    best = tl.full([R], float("inf"), tl.float32)
    by, bx = tl.zeros([R], tl.int32), tl.zeros([R], tl.int32)
    span = 2 * REACH + 1
    for i in range(span * span):
        dy, dx = i // span - REACH, i % span - REACH
        cost = tl.sum(tl.abs(sample_at(reference + plane, y + dy, x + dx, H, W) - mine), 1) / (K * K)
        cost += _DISTANCE_COST * tl.log2(1 + 2 * (tl.abs(dy) + tl.abs(dx)).to(tl.float32))
        by, bx = tl.where(cost < best, dy, by), tl.where(cost < best, dx, bx)
        best = tl.minimum(cost, best)
    _put_vector(out, b, 8 * by, 8 * bx, mask)


@triton.jit
def _vector(field, b):
    return tl.load(field + 2 * b).to(tl.int32), tl.load(field + 2 * b + 1).to(tl.int32)


@triton.jit
def _put_vector(out, b, vy, vx, mask):
    tl.store(out + 2 * b, vy.to(tl.int64), mask)
    tl.store(out + 2 * b + 1, vx.to(tl.int64), mask)


@triton.jit
def _mvd_bits(d):
    """Bits of a component of a vector difference."""
    return tl.where(d == 0, _MVD_EQUAL, _MVD_OTHER + _MVD_OCTAVE * tl.log2(tl.abs(d).to(tl.float32) + 1))


@triton.jit
def _rd_cost(
    phases, slot, target, hadamard, top, left, i, k, vy, vx, py, px, lam, HP, WP,
    USE_SATD: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Cost of a vector for each of P blocks of K x K samples: distortion + lambda bits.

    Rows are blocks of 8 x 8: their place (top, left) ``[R]``, samples ``[R, 64]``; vectors ``[P]``.
    """
    n: tl.constexpr = K * K // 64
    wy, wx = repeat_rows(vy, P, n), repeat_rows(vx, P, n)
    if USE_SATD or K == 8:
        moved = window(phases, slot, top, left, wy, wx, i, k, HP, WP, 8)
    else:  # the window of 16 x 16 stays whole at the end of the plane
        inner_y, inner_x = top % 16, left % 16
        moved = window(phases, slot, top - inner_y, left - inner_x, wy, wx, i + inner_y[:, None], k + inner_x[:, None], HP, WP, 16)
    cost = distortion(moved - target, hadamard, USE_SATD)
    if K == 16:
        cost = sum_rows(cost, P)
    return cost + lam * (_mvd_bits(vy - py) + _mvd_bits(vx - px))


@triton.jit
def _ring(
    phases, slot, target, hadamard, top, left, i, k, by, bx, best, py, px, lam, HP, WP,
    STRIDE: tl.constexpr, USE_SATD: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The best vectors so far, or those of the eight around them that cost less."""
    cy, cx = by, bx
    for c in range(8):
        index = c + c // 4  # row by row, without the middle
        vy, vx = cy + STRIDE * (index // 3 - 1), cx + STRIDE * (index % 3 - 1)
        cost = _rd_cost(phases, slot, target, hadamard, top, left, i, k, vy, vx, py, px, lam, HP, WP, USE_SATD, K, P)
        by, bx = tl.where(cost < best, vy, by), tl.where(cost < best, vx, bx)
        best = tl.minimum(cost, best)
    return by, bx, best


@triton.jit
def _neighbour(field, b, y, x, dy: tl.constexpr, dx: tl.constexpr, BW):
    """Vectors of the blocks beside; zero where there is none to the left, above, to the right."""
    mask = (y + dy >= 0) & (x + dx >= 0) & (x + dx < BW)
    offset = field + 2 * (b + dy * BW + dx)
    return tl.load(offset, mask, 0).to(tl.int32), tl.load(offset + 1, mask, 0).to(tl.int32)


@triton.jit
def _median(a, b, c):
    return tl.maximum(tl.minimum(a, b), tl.minimum(tl.maximum(a, b), c))


@triton.jit
def _predictor(field, b, BH, BW):
    """The median predictor of blocks b."""
    y, x = b // BW % BH, b % BW
    left = _neighbour(field, b, y, x, 0, -1, BW)
    up = _neighbour(field, b, y, x, -1, 0, BW)
    corner = _neighbour(field, b, y, x, -1, 1, BW)
    return _median(left[0], up[0], corner[0]), _median(left[1], up[1], corner[1])


@triton.jit
def _begin(field, start, predictor, BLOCKS, BH, BW, STILL_FIRST: tl.constexpr, SIZE: tl.constexpr):
    """Where a search begins that knows of every block's coarse vector: the neighbours' median, zero (the other way round if
    STILL_FIRST), that vector. Shape: ``[N, bh, bw, 2] -> [3, N, bh, bw, 2]``, and the median again."""
    b, mask = blocks_here(BLOCKS, SIZE)
    y, x = _predictor(field, b, BH, BW)
    _put_vector(predictor, b, y, x, mask)
    _put_vector(start + STILL_FIRST * 2 * BLOCKS, b, y, x, mask)
    _put_vector(start + (1 - STILL_FIRST) * 2 * BLOCKS, b, tl.zeros_like(y), tl.zeros_like(x), mask)
    y, x = _vector(field, b)
    _put_vector(start + 4 * BLOCKS, b, y, x, mask)


@triton.jit
def _medians(vectors, out, BLOCKS, BH, BW, SIZE: tl.constexpr):
    b, mask = blocks_here(BLOCKS, SIZE)
    y, x = _predictor(vectors, b, BH, BW)
    _put_vector(out, b, y, x, mask)


@triton.jit
def _divide(whole, start, predictor, BLOCKS, BH, BW, SIZE: tl.constexpr):
    """The same for the four blocks of each macroblock: its own vector and those to the left, to the right, above and below (edges are
    repeated). Shape: ``[N, bh, bw, 2] -> [5, N, 2 bh, 2 bw, 2]``, and the median of the macroblock's neighbours as it is."""
    b, mask = blocks_here(BLOCKS, SIZE)
    y, x = _predictor(whole, b, BH, BW)
    _put_vector(predictor, b, y, x, mask)
    y, x = b // BW % BH, b % BW
    corner = 4 * BW * (b // BW) + 2 * x
    for i in tl.static_range(5):
        if i == 0:
            near = b
        elif i < 3:
            near = b - x + tl.minimum(tl.maximum(x + 2 * i - 3, 0), BW - 1)
        else:
            near = b + (tl.minimum(tl.maximum(y + 2 * i - 7, 0), BH - 1) - y) * BW
        vy, vx = _vector(whole, near)
        for q in tl.static_range(4):
            _put_vector(start + i * 8 * BLOCKS, corner + q // 2 * 2 * BW + q % 2, vy, vx, mask)


@triton.jit
def _block8(rb, top, left, BH, BW):
    """Number of the block of 8 x 8 that a row of a macroblock is."""
    return (rb // (BH * BW) * (2 * BH) + top // 8) * (2 * BW) + left // 8


@triton.jit
def _refine(
    phases, slot, target, start, predictor, lam, hadamard, vectors, costs, BLOCKS, BH, BW, HP, WP, STARTS,
    ROUNDS: tl.constexpr, SUBPEL: tl.constexpr, USE_SATD: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The search of the reference, for P blocks."""
    b, mask, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, K, P)
    mine = samples(target, rb, top, left, i, k, BH, BW, K)
    ref, weight = tl.load(slot + rb), tl.load(lam + b)
    py, px = _vector(predictor, b)
    matrix = hadamard_matrix(hadamard)
    by, bx = py, px
    best = tl.full([P], float("inf"), tl.float32)
    for c in range(STARTS):
        vy, vx = _vector(start, c * BLOCKS + b)
        cost = _rd_cost(phases, ref, mine, matrix, top, left, i, k, vy, vx, py, px, weight, HP, WP, False, K, P)
        by, bx = tl.where(cost < best, vy, by), tl.where(cost < best, vx, bx)
        best = tl.minimum(cost, best)
    for _ in tl.static_range(ROUNDS):
        by, bx, best = _ring(phases, ref, mine, matrix, top, left, i, k, by, bx, best, py, px, weight, HP, WP, 4, False, K, P)
    if SUBPEL > 1:
        if USE_SATD:
            best = _rd_cost(phases, ref, mine, matrix, top, left, i, k, by, bx, py, px, weight, HP, WP, True, K, P)
        by, bx, best = _ring(phases, ref, mine, matrix, top, left, i, k, by, bx, best, py, px, weight, HP, WP, 2, USE_SATD, K, P)
    if SUBPEL > 2:
        by, bx, best = _ring(phases, ref, mine, matrix, top, left, i, k, by, bx, best, py, px, weight, HP, WP, 1, USE_SATD, K, P)
    _put_vector(vectors, b, by, bx, mask)
    tl.store(costs + b, best, mask)


@triton.jit
def _four(x, P: tl.constexpr):
    """Of the four blocks of each macroblock. Shape: ``[4 P] -> 4 x [P]``."""
    a, b = tl.split(tl.reshape(x, (P, 2, 2)))  # left, right: [P, 2]
    upper_left, lower_left = tl.split(a)
    upper_right, lower_right = tl.split(b)
    return upper_left, upper_right, lower_left, lower_right


@triton.jit
def _best_vectors(costs, bits, ONE: tl.constexpr, TWO: tl.constexpr, FOUR: tl.constexpr, P: tl.constexpr):
    """The best of five vectors for a partition of one, two (ONE, TWO) or four blocks: cost and number."""
    best = tl.full([P], float("inf"), tl.float32)
    best_index = tl.zeros([P], tl.int32)
    for v in tl.static_range(5):
        c = costs[v]
        if FOUR:
            cost = c[0] + c[1] + c[2] + c[3]
        elif ONE == TWO:
            cost = c[ONE]
        else:
            cost = c[ONE] + c[TWO]
        cost += bits[v]
        best_index = tl.where(cost < best, v, best_index)
        best = tl.minimum(cost, best)
    return best, best_index


@triton.jit
def _partition(
    phases, slot, target, whole, four, predictor, lam, hadamard, out, BLOCKS, BH, BW, HP, WP, USE_SATD: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """Of P macroblocks: 16x16, 16x8, 8x16 or 8x8, each part with the best of the vectors found for the whole and the four blocks.

    ``target``: ``[N, H, W]``; ``whole``: ``[N, bh, bw, 2]``; ``four``, ``out``: ``[N, 2 bh, 2 bw, 2]``.
    """
    b, mask, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 16, P)
    row = _block8(rb, top, left, BH, BW)
    mine = samples(target, rb, top, left, i, k, BH, BW, 16)
    ref, weight = tl.load(slot + rb), tl.load(lam + b)
    py, px = _vector(predictor, b)
    matrix = hadamard_matrix(hadamard)
    ry, rx = _vector(four, row)
    fy, fx = _four(ry, P), _four(rx, P)
    wy, wx = _vector(whole, b)
    ys = (wy, fy[0], fy[1], fy[2], fy[3])
    xs = (wx, fx[0], fx[1], fx[2], fx[3])
    costs, bits = (), ()
    for v in tl.static_range(5):
        moved = window(phases, ref, top, left, repeat_rows(ys[v], P, 4), repeat_rows(xs[v], P, 4), i, k, HP, WP, 8)
        costs = costs + (_four(distortion(moved - mine, matrix, USE_SATD), P),)
        bits = bits + ((_mvd_bits(ys[v] - py) + _mvd_bits(xs[v] - px)) * weight,)
    best, w = _best_vectors(costs, bits, 0, 0, True, P)
    best += _BITS_16X16 * weight
    w0, w1, w2, w3 = w, w, w, w
    a, wa = _best_vectors(costs, bits, 0, 1, False, P)
    c, wc = _best_vectors(costs, bits, 2, 3, False, P)
    total = _BITS_16X8 * weight + a + c
    w0, w1, w2, w3 = (
        tl.where(total < best, wa, w0), tl.where(total < best, wa, w1), tl.where(total < best, wc, w2), tl.where(total < best, wc, w3),
    )  # fmt: skip
    best = tl.minimum(best, total)
    a, wa = _best_vectors(costs, bits, 0, 2, False, P)
    c, wc = _best_vectors(costs, bits, 1, 3, False, P)
    total = _BITS_8X16 * weight + a + c
    w0, w1, w2, w3 = (
        tl.where(total < best, wa, w0), tl.where(total < best, wc, w1), tl.where(total < best, wa, w2), tl.where(total < best, wc, w3),
    )  # fmt: skip
    best = tl.minimum(best, total)
    a, wa = _best_vectors(costs, bits, 0, 0, False, P)
    c, wc = _best_vectors(costs, bits, 1, 1, False, P)
    d, wd = _best_vectors(costs, bits, 2, 2, False, P)
    e, we = _best_vectors(costs, bits, 3, 3, False, P)
    total = _BITS_8X8 * weight + a + c + d + e
    picked = (
        tl.where(total < best, wa, w0), tl.where(total < best, wc, w1), tl.where(total < best, wd, w2), tl.where(total < best, we, w3),
    )  # fmt: skip
    corner = (b // (BH * BW) * (2 * BH) + b // BW % BH * 2) * (2 * BW) + b % BW * 2
    for q in tl.static_range(4):
        vy, vx = ys[0], xs[0]
        for v in tl.static_range(1, 5):
            vy, vx = tl.where(picked[q] == v, ys[v], vy), tl.where(picked[q] == v, xs[v], vx)
        _put_vector(out, corner + q // 2 * 2 * BW + q % 2, vy, vx, mask)


@triton.jit
def _lookahead_cost(phases, slot, source, vectors, hadamard, costs, BLOCKS, BH, BW, HP, WP, USE_SATD: tl.constexpr, P: tl.constexpr):
    """The lookahead's cost of vectors."""
    b, mask, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 8, P)
    mine = samples(source, rb, top, left, i, k, BH, BW, 8)
    vy, vx = _vector(vectors, b)
    py, px = _predictor(vectors, b, BH, BW)
    matrix = hadamard_matrix(hadamard)
    cost = _rd_cost(phases, tl.load(slot + rb), mine, matrix, top, left, i, k, vy, vx, py, px, 1.0, HP, WP, USE_SATD, 8, P)
    tl.store(costs + b, cost + _INTER_COST + tl.where((vy != 0) | (vx != 0), _MOTION_COST, 0.0), mask)


# B frames


@triton.jit
def _bits_of_block(field, b, BH, BW):
    """Bits of the vectors of blocks against their neighbours' median."""
    py, px = _predictor(field, b, BH, BW)
    vy, vx = _vector(field, b)
    return _mvd_bits(vy - py) + _mvd_bits(vx - px)


@triton.jit
def _choose_bipred(
    source, past, future, mv0, mv1, lam, hadamard, out, BLOCKS, BH, BW, USE_SATD: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """Directions of P macroblocks."""
    b, mask, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 16, P)
    row = _block8(rb, top, left, BH, BW)
    offset = row.to(tl.int64)[:, None] * 64 + i * 8 + k
    mine = samples(source, rb, top, left, i, k, BH, BW, 16)
    matrix = hadamard_matrix(hadamard)
    bits0, bits1 = _bits_of_block(mv0, row, 2 * BH, 2 * BW), _bits_of_block(mv1, row, 2 * BH, 2 * BW)
    weight = tl.load(lam + rb) / 4
    best, best_index = tl.full([4 * P], float("inf"), tl.float32), tl.zeros([4 * P], tl.int32)
    whole, of_whole = tl.full([P], float("inf"), tl.float32), tl.zeros([P], tl.int32)
    for way in tl.static_range(3):
        if way == 0:
            difference, bits = mine - tl.load(past + offset), bits0 + _BITS0
        elif way == 1:
            difference, bits = mine - tl.load(future + offset), bits1 + _BITS1
        else:
            difference, bits = mine - average(tl.load(past + offset), tl.load(future + offset)), bits0 + bits1 + _BITS2
        cost = distortion(difference, matrix, USE_SATD) + weight * bits
        best_index = tl.where(cost < best, way, best_index)
        best = tl.minimum(cost, best)
        together = sum_rows(cost, P)
        of_whole = tl.where(together < whole, way, of_whole)
        whole = tl.minimum(together, whole)
    split = sum_rows(best, P) + _SPLIT_BITS * tl.load(lam + b) < whole
    found = tl.where(repeat_rows(split, P, 4), best_index, repeat_rows(of_whole, P, 4))
    tl.store(out + row, found.to(tl.int64), repeat_rows(mask, P, 4))


def _start(coarse: Tensor, still_first: bool) -> tuple[Tensor, Tensor]:
    """Where a search from coarse vectors begins, and their predictor: ``[N, bh, bw, 2] -> [3, N, bh, bw, 2]``, ``[N, bh, bw, 2]``."""
    start, predictor = coarse.new_empty(3, *coarse.shape), torch.empty_like(coarse)
    n = coarse.numel() // 2
    _begin[(-(-n // _SIZE),)](coarse, start, predictor, n, *coarse.shape[1:3], still_first, _SIZE)
    return start, predictor


@implements(_reference.median_predictor)
def median_predictor(vectors: Tensor) -> Tensor:
    vectors = vectors.contiguous()
    out, n = torch.empty_like(vectors), vectors.numel() // 2
    _medians[(-(-n // _SIZE),)](vectors, out, n, *vectors.shape[1:3], _SIZE)
    return out


@implements(_reference.full_search)
def full_search(current: Tensor, reference: Tensor, reach: int, k: int) -> Tensor:
    small, small_ref = (F.avg_pool2d(p[:, None], 2)[:, 0].contiguous() for p in (current, reference))
    out = _reference.full_search.allocate(current, reference, reach, k)
    _, bh, bw, _ = out.shape
    blocks, half = out.numel() // 2, k // 2
    r = _ROWS * 64 // (half * half)
    _full_search[(-(-blocks // r),)](small, small_ref, out, blocks, bh, bw, *small.shape[1:], -(-reach // 2), half, r)
    return out


@implements(_reference.refine_vectors)
def refine_vectors(
    phases: Tensor,
    slot: Tensor,
    source: Tensor,
    start: Tensor,
    predictor: Tensor,
    lam: Tensor,
    k: int,
    subpel: int,
    use_satd: bool,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    slot, predictor = slot.expand(predictor.shape[:-1]).contiguous(), predictor.contiguous()
    bh, bw = predictor.shape[-3:-1]
    vectors, costs = _reference.refine_vectors.allocate(phases, slot, source, start, predictor, lam, k, subpel, use_satd, rounds)
    n, p = slot.numel(), SEARCH_ROWS * 64 // (k * k)
    given = (phases, slot, source.contiguous(), start.contiguous(), predictor, lam.contiguous(), HADAMARD4_OF_8.like(source))
    _refine[(-(-n // p),)](
        *given, vectors, costs, n, bh, bw, *phases.shape[-2:], len(start), rounds, subpel, use_satd, k, p, num_warps=SEARCH_WARPS
    )
    return vectors, costs


@implements(_reference.search_partitions)
def search_partitions(
    source: Tensor, phases: Tensor, slot: Tensor, coarse: Tensor, lam: Tensor, subpel: int, use_satd: bool, partitions: bool
) -> Tensor:
    source, slot, coarse, lam = source.contiguous(), slot.contiguous(), coarse.contiguous(), lam.contiguous()
    start, predictor = _start(coarse, False)
    whole, _ = refine_vectors(phases, slot, source, start, predictor, lam, 16, subpel, use_satd, 1)
    if not partitions:
        return repeat_blocks(whole, 2)
    n, bh, bw = lam.shape
    blocks, p = lam.numel(), SEARCH_ROWS // 4
    start = whole.new_empty(5, n, 2 * bh, 2 * bw, 2)
    _divide[(-(-blocks // _SIZE),)](whole, start, predictor, blocks, bh, bw, _SIZE)
    four, _ = refine_vectors(phases, repeat_blocks(slot, 2), source, start, start[0], repeat_blocks(lam, 2), 8, subpel, use_satd, 0)
    out, given = torch.empty_like(four), (phases, slot, source, whole, four, predictor, lam, HADAMARD4_OF_8.like(source))
    _partition[(-(-blocks // p),)](*given, out, blocks, bh, bw, *phases.shape[-2:], use_satd, p, num_warps=SEARCH_WARPS)
    return out


@implements(_reference.estimate_motion, lacks=lambda current, reference, phases, *_: None if phases.shape[1] == 16 else SIXTEEN)
def estimate_motion(
    current: Tensor, reference: Tensor, phases: Tensor, slot: Tensor, reach: int, subpel: int, use_satd: bool
) -> tuple[Tensor, Tensor]:
    current = current.contiguous()
    start, predictor = _start(full_search(current, reference, reach, 8), True)
    slot = slot.expand(predictor.shape[:3]).contiguous()
    lam = current.new_ones(predictor.shape[:3])
    vectors, costs = refine_vectors(phases, slot, current, start, predictor, lam, 8, subpel, use_satd, 2)
    given, n = (phases, slot, current, vectors, HADAMARD4_OF_8.like(current), costs), costs.numel()
    sizes = (n, *costs.shape[1:], *phases.shape[-2:])
    _lookahead_cost[(-(-n // SEARCH_ROWS),)](*given, *sizes, use_satd, SEARCH_ROWS, num_warps=SEARCH_WARPS)
    return vectors, costs


@implements(_reference.estimate_bipred)
def estimate_bipred(
    half: Tensor,
    phases: Tensor,
    frames: Tensor,
    mv0: Tensor,
    mv1: Tensor,
    cost0: Tensor,
    cost1: Tensor,
    use_satd: bool,
) -> tuple[Tensor, Tensor]:
    blocks = [fetch_luma(phases, frames[:, k, None, None], v, 8) for k, v in ((1, mv0), (2, mv1))]
    return _reference.bipred_cost(half, blocks, frames, cost0, cost1, use_satd)


@implements(_reference.choose_bipred)
def choose_bipred(source: Tensor, phases: Tensor, slots: list[Tensor], vectors: list[Tensor], lam: Tensor, use_satd: bool) -> Tensor:
    out = _reference.choose_bipred.allocate(source, phases, slots, vectors, lam, use_satd)
    predictions = [fetch_luma(phases, slot, v, 8) for slot, v in zip(slots, vectors)]
    given = [x.contiguous() for x in (source, *predictions, *vectors, lam)]
    n, p = lam.numel(), SEARCH_ROWS // 4
    _choose_bipred[(-(-n // p),)](*given, HADAMARD4_OF_8.like(source), out, n, *lam.shape[1:], use_satd, p, num_warps=SEARCH_WARPS)
    return out


@implements(_reference.choose_reference)
def choose_reference(source: Tensor, phases: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
    of_blocks = repeat_blocks(slots.flatten(0, 1), 2).unflatten(0, slots.shape[:2])
    blocks = fetch_luma(phases, of_blocks, vectors.expand(len(slots), *vectors.shape), 8)
    return _reference.best_reference(source, blocks)
