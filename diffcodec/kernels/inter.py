"""H.264's inter prediction in Triton: quarter-pel planes, the search for vectors and partitions, prediction and its gradient.

Twins of the same names lie in :mod:`diffcodec.h264.inter` and :mod:`diffcodec.h264.decide`. Costs are sums of whole numbers (and halves), exact
in any order, so that vectors are those of the twin but where bits of vectors decide in the last place. A block of 8 x 8 samples is a row of a
tile: its Hadamard transforms are one product with a matrix of 64 x 64, exact in tf32.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..blocks import spread
from ..constants import Constant
from ..h264.inter import MARGIN, SHARES
from ..h264.lookahead import INTER, MOVING
from ..h264.tables import HADAMARD4_OF_8, HADAMARD8
from . import differentiates, implements, ops

_SIZE = 256  # places of a plane in a program
_ROWS = 32  # blocks of 8 x 8 in a program
SEARCH_ROWS, SEARCH_WARPS = 16, 8  # of programs that search: windows and a matrix of 64 x 64 take many registers
_MARGIN, _INTER, _MOVING = tl.constexpr(MARGIN), tl.constexpr(INTER), tl.constexpr(float(MOVING))


# Quarter-pel planes


@triton.jit
def _half_up(x):
    return tl.floor(x + 0.5)


@triton.jit
def _sample(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _tap(i: tl.constexpr):
    """Of the six-tap filter (1, -5, 20, 20, -5, 1)."""
    return (1 if i == 0 or i == 5 else -5) if i < 2 or i > 3 else 20


@triton.jit
def _at(plane, y, x, H, W):
    """A sample; edges are repeated."""
    return tl.load(plane + tl.minimum(tl.maximum(y, 0), H - 1) * W + tl.minimum(tl.maximum(x, 0), W - 1))


@triton.jit
def _quarter_pel(luma, out, H, W, SPANS, SIZE: tl.constexpr):
    """``[N, H, W] -> [N, 16, H + 2 MARGIN, W + 2 MARGIN]`` bytes (8.4.2.2.1, whose names these are)."""
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    wide, high = W + 2 * _MARGIN, H + 2 * _MARGIN
    place = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    there = place < wide * high
    y, x = place // wide - _MARGIN, place % wide - _MARGIN
    plane = luma + n * H * W
    raw_h, raw_m, raw_j = tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32)
    g, right, below, b, s = raw_h, raw_h, raw_h, raw_h, raw_h
    for i in tl.static_range(6):
        raw_b = tl.zeros([SIZE], tl.float32)
        for k in tl.static_range(6):
            v = _at(plane, y + (i - 2), x + (k - 2), H, W)
            raw_b += _tap(k) * v
            if k == 2:
                raw_h += _tap(i) * v
                if i == 2:
                    g = v
                if i == 3:
                    below = v
            if k == 3:
                raw_m += _tap(i) * v
                if i == 2:
                    right = v
        raw_j += _tap(i) * raw_b
        if i == 2:
            b = _sample(_half_up(raw_b * 0.03125))
        if i == 3:
            s = _sample(_half_up(raw_b * 0.03125))
    h, m = _sample(_half_up(raw_h * 0.03125)), _sample(_half_up(raw_m * 0.03125))
    j = _sample(_half_up(raw_j * 0.0009765625))
    _put_phases(out + n * 16 * wide * high + place, wide * high, g, b, h, j, right, below, s, m, there)


@triton.jit
def _put_phases(out, size, g, b, h, j, right, below, s, m, there):
    """The sixteen phases from whole and half samples (8.4.2.2.1)."""
    phases = (
        g, _mean(g, b), b, _mean(b, right),
        _mean(g, h), _mean(b, h), _mean(b, j), _mean(b, m),
        h, _mean(h, j), j, _mean(j, m),
        _mean(h, below), _mean(h, s), _mean(j, s), _mean(m, s),
    )  # fmt: skip
    for i in tl.static_range(16):
        tl.store(out + i * size, phases[i].to(tl.uint8), there)


@triton.jit
def _box(luma, y, x, part_y: tl.constexpr, part_x: tl.constexpr, H, W):
    """The mean of 2 x 2 samples from places (2 y + part_y, 2 x + part_x); edges of these planes are repeated."""
    y = 2 * tl.minimum(tl.maximum(y, 0), H // 2 - 1) + part_y
    x = 2 * tl.minimum(tl.maximum(x, 0), W // 2 - 1) + part_x
    total = _at(luma, y, x, H, W) + _at(luma, y, x + 1, H, W) + _at(luma, y + 1, x, H, W) + _at(luma, y + 1, x + 1, H, W)
    return _half_up(total * 0.25)


@triton.jit
def _half_resolution(luma, small, out, H, W, SPANS, SIZE: tl.constexpr):
    """``[N, H, W] -> [N, H/2, W/2], [N, 16, H/2 + 2 MARGIN, W/2 + 2 MARGIN]`` bytes."""
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    wide, high = W // 2 + 2 * _MARGIN, H // 2 + 2 * _MARGIN
    place = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    there = place < wide * high
    y, x = place // wide - _MARGIN, place % wide - _MARGIN
    plane = luma + n * H * W
    g, b = _box(plane, y, x, 0, 0, H, W), _box(plane, y, x, 0, 1, H, W)
    h, j = _box(plane, y, x, 1, 0, H, W), _box(plane, y, x, 1, 1, H, W)
    right, below = _box(plane, y, x + 1, 0, 0, H, W), _box(plane, y + 1, x, 0, 0, H, W)
    s, m = _box(plane, y + 1, x, 0, 1, H, W), _box(plane, y, x + 1, 1, 0, H, W)
    _put_phases(out + n * 16 * wide * high + place, wide * high, g, b, h, j, right, below, s, m, there)
    inside = there & (y >= 0) & (y < H // 2) & (x >= 0) & (x < W // 2)
    tl.store(small + (n * (H // 2) + y) * (W // 2) + x, g, inside)


@triton.jit
def _mean(a, b):
    return _half_up((a + b) * 0.5)


# Blocks that vectors point at


@triton.jit
def _window(phases, reference, top, left, vy, vx, i, k, HP, WP, SIDE: tl.constexpr):
    """Samples (i, k) of windows that vectors move from (top, left). Shape: rows ``[R]``, (i, k) ``[1, S] -> [R, S]``."""
    plane = reference.to(tl.int64) * 16 + 4 * (vy & 3) + (vx & 3)
    y = tl.minimum(tl.maximum(top + _MARGIN + (vy >> 2), 0), HP - SIDE)
    x = tl.minimum(tl.maximum(left + _MARGIN + (vx >> 2), 0), WP - SIDE)
    return tl.load(phases + ((plane * HP + y) * WP + x)[:, None] + i * WP + k).to(tl.float32)


@triton.jit
def _fetch(phases, reference, vectors, out, BLOCKS, BH, BW, HP, WP, K: tl.constexpr, R: tl.constexpr):
    """``[M, bh, bw, 2] -> [M, bh, bw, K*K]``."""
    b = tl.program_id(0) * R + tl.arange(0, R)
    there = b < BLOCKS
    by, bx = b // BW % BH, b % BW
    vy, vx = tl.load(vectors + 2 * b, there, 0).to(tl.int32), tl.load(vectors + 2 * b + 1, there, 0).to(tl.int32)
    s = tl.arange(0, K * K)[None, :]
    v = _window(phases, tl.load(reference + b, there, 0), by * K, bx * K, vy, vx, s // K, s % K, HP, WP, K)
    tl.store(out + b.to(tl.int64)[:, None] * (K * K) + s, v, there[:, None])


@triton.jit
def _put(out, y, x, value, H, W):
    tl.atomic_add(out + tl.minimum(tl.maximum(y, 0), H - 1) * W + tl.minimum(tl.maximum(x, 0), W - 1), value)


@triton.jit
def _in_range(raw, scale):
    """Where the clip of a filtered sample passes the gradient."""
    v = _half_up(raw * scale)
    return tl.where((v >= 0) & (v <= 255), scale, 0.0)


@triton.jit
def _predict_backward(grad, planes, which, vectors, shares, out, BH, BW, H, W, K: tl.constexpr):
    """A block of K x K samples a program: its gradient, spread over the samples that its phase is made of."""
    b = tl.program_id(0).to(tl.int64)
    by, bx = (b // BW % BH).to(tl.int32), (b % BW).to(tl.int32)
    vy, vx = tl.load(vectors + 2 * b).to(tl.int32), tl.load(vectors + 2 * b + 1).to(tl.int32)
    phase = 4 * (vy & 3) + (vx & 3)
    s = tl.arange(0, K * K)
    y = tl.minimum(tl.maximum(by * K + (vy >> 2), -_MARGIN), H + _MARGIN - K) + s // K
    x = tl.minimum(tl.maximum(bx * K + (vx >> 2), -_MARGIN), W + _MARGIN - K) + s % K
    at = tl.load(which + b).to(tl.int64) * H * W
    plane, to = planes + at, out + at
    g = tl.load(grad + b * (K * K) + s)
    for kind in tl.static_range(8):  # G b h j, right, below, s m
        share = tl.load(shares + kind * 16 + phase)
        if share > 0:
            mine = g * (0.5 * share)  # shares are in halves
            if kind == 0:
                _put(to, y, x, mine, H, W)
            elif kind == 4:
                _put(to, y, x + 1, mine, H, W)
            elif kind == 5:
                _put(to, y + 1, x, mine, H, W)
            elif kind == 3:
                raw = tl.zeros([K * K], tl.float32)
                for i in range(36):
                    raw += _weight(i // 6) * _weight(i % 6) * _at(plane, y + i // 6 - 2, x + i % 6 - 2, H, W)
                mine *= _in_range(raw, 0.0009765625)
                for i in range(36):
                    _put(to, y + i // 6 - 2, x + i % 6 - 2, mine * (_weight(i // 6) * _weight(i % 6)), H, W)
            elif kind == 1:
                _spread(plane, to, mine, y, x, H, W, False)
            elif kind == 2:
                _spread(plane, to, mine, y, x, H, W, True)
            elif kind == 6:  # b one row below
                _spread(plane, to, mine, y + 1, x, H, W, False)
            else:  # h one column to the right
                _spread(plane, to, mine, y, x + 1, H, W, True)


@triton.jit
def _spread(plane, to, g, y, x, H, W, UPRIGHT: tl.constexpr):
    """Gradient of the half samples to the right of samples or below them."""
    raw = tl.zeros(g.shape, tl.float32)
    for i in tl.static_range(6):
        if UPRIGHT:
            raw += _tap(i) * _at(plane, y + (i - 2), x, H, W)
        else:
            raw += _tap(i) * _at(plane, y, x + (i - 2), H, W)
    g *= _in_range(raw, 0.03125)
    for i in tl.static_range(6):
        if UPRIGHT:
            _put(to, y + (i - 2), x, g * _tap(i), H, W)
        else:
            _put(to, y, x + (i - 2), g * _tap(i), H, W)


@triton.jit
def _weight(i):
    """:func:`_tap` of a number known at run time."""
    return tl.where((i == 0) | (i == 5), 1.0, tl.where((i == 1) | (i == 4), -5.0, 20.0))


@triton.jit
def _chroma_place(reference, vectors, b, there, BH, BW, H, W, K: tl.constexpr):
    """Where the samples of chroma blocks lie, and their fractions. Shape: blocks ``[R] -> [R, 2 K K]``: plane, y, x; ``[R, 1]``."""
    by, bx = b // BW % BH, b % BW
    vy, vx = tl.load(vectors + 2 * b, there, 0).to(tl.int32), tl.load(vectors + 2 * b + 1, there, 0).to(tl.int32)
    s = tl.arange(0, 2 * K * K)[None, :]
    plane = tl.load(reference + b, there, 0).to(tl.int64)[:, None] * 2 + s // (K * K)
    top = tl.minimum(tl.maximum(by * K + (vy >> 3), -_MARGIN), H + _MARGIN - K - 1)
    left = tl.minimum(tl.maximum(bx * K + (vx >> 3), -_MARGIN), W + _MARGIN - K - 1)
    fy, fx = (vy & 7).to(tl.float32) * 0.125, (vx & 7).to(tl.float32) * 0.125
    return plane * H * W, top[:, None] + s // K % K, left[:, None] + s % K, fy[:, None], fx[:, None], s


@triton.jit
def _fetch_chroma(planes, reference, vectors, out, BLOCKS, BH, BW, H, W, K: tl.constexpr, R: tl.constexpr):
    """``[M, bh, bw, 2] -> [M, bh, bw, 2, K*K]`` (8.4.2.2.2)."""
    b = tl.program_id(0) * R + tl.arange(0, R)
    there = b < BLOCKS
    plane, y, x, fy, fx, s = _chroma_place(reference, vectors, b, there, BH, BW, H, W, K)
    left = _at(planes + plane, y, x, H, W) * (1 - fy) + _at(planes + plane, y + 1, x, H, W) * fy
    right = _at(planes + plane, y, x + 1, H, W) * (1 - fy) + _at(planes + plane, y + 1, x + 1, H, W) * fy
    tl.store(out + b.to(tl.int64)[:, None] * (2 * K * K) + s, _half_up(left * (1 - fx) + right * fx), there[:, None])


@triton.jit
def _fetch_chroma_backward(grad, reference, vectors, out, BLOCKS, BH, BW, H, W, K: tl.constexpr, R: tl.constexpr):
    b = tl.program_id(0) * R + tl.arange(0, R)
    there = b < BLOCKS
    plane, y, x, fy, fx, s = _chroma_place(reference, vectors, b, there, BH, BW, H, W, K)
    g = tl.load(grad + b.to(tl.int64)[:, None] * (2 * K * K) + s, there[:, None], 0.0)
    _put(out + plane, y, x, g * (1 - fy) * (1 - fx), H, W)
    _put(out + plane, y, x + 1, g * (1 - fy) * fx, H, W)
    _put(out + plane, y + 1, x, g * fy * (1 - fx), H, W)
    _put(out + plane, y + 1, x + 1, g * fy * fx, H, W)


# The search for vectors


@triton.jit
def _whole(current, reference, out, BLOCKS, BH, BW, H, W, REACH, K: tl.constexpr, R: tl.constexpr):
    """Full search: the best whole displacement of blocks of K x K samples. Shape: ``[N, H, W] -> [N, bh, bw, 2]``, in eighths."""
    b = tl.program_id(0) * R + tl.arange(0, R)
    there = b < BLOCKS
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
        cost = tl.sum(tl.abs(_at(reference + plane, y + dy, x + dx, H, W) - mine), 1) / (K * K)
        cost += 0.1 * tl.log2(1 + 2 * (tl.abs(dy) + tl.abs(dx)).to(tl.float32))
        by, bx = tl.where(cost < best, dy, by), tl.where(cost < best, dx, bx)
        best = tl.minimum(cost, best)
    _put_vector(out, b, 8 * by, 8 * bx, there)


@triton.jit
def _vector(field, b):
    return tl.load(field + 2 * b).to(tl.int32), tl.load(field + 2 * b + 1).to(tl.int32)


@triton.jit
def _put_vector(out, b, vy, vx, there):
    tl.store(out + 2 * b, vy.to(tl.int64), there)
    tl.store(out + 2 * b + 1, vx.to(tl.int64), there)


@triton.jit
def _component_bits(d):
    """Bits of a component of a vector difference (:func:`diffcodec.h264.inter.vector_bits`)."""
    return tl.where(d == 0, 0.72, 1.72 + 2 * tl.log2(tl.abs(d).to(tl.float32) + 1))


@triton.jit
def _of_rows(x, P: tl.constexpr, N: tl.constexpr):
    """Each value N times. Shape: ``[P] -> [P N]``."""
    return tl.reshape(tl.broadcast_to(x[:, None], (P, N)), (P * N,))


@triton.jit
def _satd(difference, hadamard):
    """Shape: ``[R, 64], [64, 64] -> [R]``."""
    return tl.sum(tl.abs(tl.dot(difference, hadamard, input_precision="tf32")), 1)


@triton.jit
def _distance(difference, hadamard, FINE: tl.constexpr):
    """SATD or SAD. Shape: ``[R, 64] -> [R]``."""
    if FINE:
        cost = _satd(difference, hadamard)
    else:
        cost = tl.sum(tl.abs(difference), 1)
    return cost


@triton.jit
def _hadamard(matrix):
    i = tl.arange(0, 64)
    return tl.load(matrix + i[:, None] * 64 + i[None, :])


@triton.jit
def of_macroblock(costs, P: tl.constexpr):
    """Sum over the four rows of each macroblock. Shape: ``[4 P] -> [P]``."""
    return tl.sum(tl.reshape(costs, (P, 4)), 1)


@triton.jit
def _price(
    phases, reference, target, hadamard, top, left, i, k, vy, vx, py, px, lam, HP, WP,
    FINE: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Cost of a vector for each of P blocks of K x K samples: distortion + lambda bits.

    Rows are blocks of 8 x 8: their place (top, left) ``[R]``, samples ``[R, 64]``; vectors ``[P]``.
    """
    n: tl.constexpr = K * K // 64
    wy, wx = _of_rows(vy, P, n), _of_rows(vx, P, n)
    if FINE or K == 8:
        moved = _window(phases, reference, top, left, wy, wx, i, k, HP, WP, 8)
    else:  # the window of 16 x 16 stays whole at the end of the plane
        inner_y, inner_x = top % 16, left % 16
        moved = _window(phases, reference, top - inner_y, left - inner_x, wy, wx, i + inner_y[:, None], k + inner_x[:, None], HP, WP, 16)
    cost = _distance(moved - target, hadamard, FINE)
    if K == 16:
        cost = of_macroblock(cost, P)
    return cost + lam * (_component_bits(vy - py) + _component_bits(vx - px))


@triton.jit
def _ring(
    phases, reference, target, hadamard, top, left, i, k, by, bx, best, py, px, lam, HP, WP,
    STRIDE: tl.constexpr, FINE: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The best vectors so far, or those of the eight around them that cost less."""
    cy, cx = by, bx
    for c in range(8):
        place = c + c // 4  # row by row, without the middle
        vy, vx = cy + STRIDE * (place // 3 - 1), cx + STRIDE * (place % 3 - 1)
        cost = _price(phases, reference, target, hadamard, top, left, i, k, vy, vx, py, px, lam, HP, WP, FINE, K, P)
        by, bx = tl.where(cost < best, vy, by), tl.where(cost < best, vx, bx)
        best = tl.minimum(cost, best)
    return by, bx, best


@triton.jit
def block_rows(first, BLOCKS, BH, BW, K: tl.constexpr, P: tl.constexpr):
    """P blocks from one on, and the blocks of 8 x 8 that they are made of.

    Returns:
        Number, which there are ``[P]``; number, place, sample numbers of the rows ``[R], [R], [1, 64]``.
    """
    n: tl.constexpr = K * K // 64
    side: tl.constexpr = K // 8
    b = first + tl.arange(0, P)
    there = b < BLOCKS
    b = tl.minimum(b, BLOCKS - 1)
    r = tl.arange(0, P * n)
    rb = tl.minimum(first + r // n, BLOCKS - 1)
    top, left = rb // BW % BH * K + r % n // side * 8, rb % BW * K + r % side * 8
    s = tl.arange(0, 64)[None, :]
    return b, there, rb, top, left, s // 8, s % 8


@triton.jit
def _neighbour(field, b, y, x, dy: tl.constexpr, dx: tl.constexpr, BW):
    """Vectors of the blocks beside; zero where there is none to the left, above, to the right."""
    there = (y + dy >= 0) & (x + dx >= 0) & (x + dx < BW)
    at = field + 2 * (b + dy * BW + dx)
    return tl.load(at, there, 0).to(tl.int32), tl.load(at + 1, there, 0).to(tl.int32)


@triton.jit
def _median(a, b, c):
    return tl.maximum(tl.minimum(a, b), tl.minimum(tl.maximum(a, b), c))


@triton.jit
def _predictor(field, b, BH, BW):
    """:func:`diffcodec.h264.inter.median_predictor` of blocks b."""
    y, x = b // BW % BH, b % BW
    left = _neighbour(field, b, y, x, 0, -1, BW)
    up = _neighbour(field, b, y, x, -1, 0, BW)
    corner = _neighbour(field, b, y, x, -1, 1, BW)
    return _median(left[0], up[0], corner[0]), _median(left[1], up[1], corner[1])


@triton.jit
def _some(BLOCKS, SIZE: tl.constexpr):
    """Blocks of this program, and which there are."""
    b = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    return tl.minimum(b, BLOCKS - 1), b < BLOCKS


@triton.jit
def _begin(field, start, predictor, BLOCKS, BH, BW, STILL_FIRST: tl.constexpr, SIZE: tl.constexpr):
    """Where a search begins that knows of every block's coarse vector: the neighbours' median, zero (the other way round if
    STILL_FIRST), that vector. Shape: ``[N, bh, bw, 2] -> [3, N, bh, bw, 2]``, and the median again."""
    b, there = _some(BLOCKS, SIZE)
    y, x = _predictor(field, b, BH, BW)
    _put_vector(predictor, b, y, x, there)
    _put_vector(start + STILL_FIRST * 2 * BLOCKS, b, y, x, there)
    _put_vector(start + (1 - STILL_FIRST) * 2 * BLOCKS, b, tl.zeros_like(y), tl.zeros_like(x), there)
    y, x = _vector(field, b)
    _put_vector(start + 4 * BLOCKS, b, y, x, there)


@triton.jit
def _medians(vectors, out, BLOCKS, BH, BW, SIZE: tl.constexpr):
    b, there = _some(BLOCKS, SIZE)
    y, x = _predictor(vectors, b, BH, BW)
    _put_vector(out, b, y, x, there)


@triton.jit
def _divide(whole, start, predictor, BLOCKS, BH, BW, SIZE: tl.constexpr):
    """The same for the four blocks of each macroblock: its own vector and those to the left, to the right, above and below (edges are
    repeated). Shape: ``[N, bh, bw, 2] -> [5, N, 2 bh, 2 bw, 2]``, and the median of the macroblock's neighbours as it is."""
    b, there = _some(BLOCKS, SIZE)
    y, x = _predictor(whole, b, BH, BW)
    _put_vector(predictor, b, y, x, there)
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
            _put_vector(start + i * 8 * BLOCKS, corner + q // 2 * 2 * BW + q % 2, vy, vx, there)


@triton.jit
def _eight(rb, top, left, BH, BW):
    """Number of the block of 8 x 8 that a row of a macroblock is."""
    return (rb // (BH * BW) * (2 * BH) + top // 8) * (2 * BW) + left // 8


@triton.jit
def samples(source, rb, top, left, i, k, BH, BW, K: tl.constexpr):
    """Samples of rows of blocks, of planes ``[N, K BH, K BW]``."""
    plane = (rb // (BH * BW)).to(tl.int64) * (BH * K * BW * K)
    return tl.load(source + (plane + top * (BW * K) + left)[:, None] + i * (BW * K) + k)


@triton.jit
def _refine(
    phases, reference, target, start, predictor, lam, hadamard, vectors, costs, BLOCKS, BH, BW, HP, WP, STARTS,
    ROUNDS: tl.constexpr, SUBPEL: tl.constexpr, FINE: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """:func:`diffcodec.h264.inter.refine` for P blocks."""
    b, there, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, K, P)
    mine = samples(target, rb, top, left, i, k, BH, BW, K)
    ref, weight = tl.load(reference + rb), tl.load(lam + b)
    py, px = _vector(predictor, b)
    matrix = _hadamard(hadamard)
    by, bx = py, px
    best = tl.full([P], float("inf"), tl.float32)
    for c in range(STARTS):
        vy, vx = _vector(start, c * BLOCKS + b)
        cost = _price(phases, ref, mine, matrix, top, left, i, k, vy, vx, py, px, weight, HP, WP, False, K, P)
        by, bx = tl.where(cost < best, vy, by), tl.where(cost < best, vx, bx)
        best = tl.minimum(cost, best)
    for _ in tl.static_range(ROUNDS):
        by, bx, best = _ring(phases, ref, mine, matrix, top, left, i, k, by, bx, best, py, px, weight, HP, WP, 4, False, K, P)
    if SUBPEL > 1:
        if FINE:
            best = _price(phases, ref, mine, matrix, top, left, i, k, by, bx, py, px, weight, HP, WP, True, K, P)
        by, bx, best = _ring(phases, ref, mine, matrix, top, left, i, k, by, bx, best, py, px, weight, HP, WP, 2, FINE, K, P)
    if SUBPEL > 2:
        by, bx, best = _ring(phases, ref, mine, matrix, top, left, i, k, by, bx, best, py, px, weight, HP, WP, 1, FINE, K, P)
    _put_vector(vectors, b, by, bx, there)
    tl.store(costs + b, best, there)


@triton.jit
def _four(x, P: tl.constexpr):
    """Of the four blocks of each macroblock. Shape: ``[4 P] -> 4 x [P]``."""
    a, b = tl.split(tl.reshape(x, (P, 2, 2)))  # left, right: [P, 2]
    upper_left, lower_left = tl.split(a)
    upper_right, lower_right = tl.split(b)
    return upper_left, upper_right, lower_left, lower_right


@triton.jit
def _cheapest(costs, bits, ONE: tl.constexpr, TWO: tl.constexpr, FOUR: tl.constexpr, P: tl.constexpr):
    """The best of five vectors for a partition of one, two (ONE, TWO) or four blocks: cost and number."""
    best = tl.full([P], float("inf"), tl.float32)
    which = tl.zeros([P], tl.int32)
    for v in tl.static_range(5):
        c = costs[v]
        if FOUR:
            cost = c[0] + c[1] + c[2] + c[3]
        elif ONE == TWO:
            cost = c[ONE]
        else:
            cost = c[ONE] + c[TWO]
        cost += bits[v]
        which = tl.where(cost < best, v, which)
        best = tl.minimum(cost, best)
    return best, which


@triton.jit
def _partition(
    phases, reference, target, whole, four, predictor, lam, hadamard, out, BLOCKS, BH, BW, HP, WP, FINE: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """Of P macroblocks: 16x16, 16x8, 8x16 or 8x8, each part with the best of the vectors found for the whole and the four blocks.

    ``target``: ``[N, H, W]``; ``whole``: ``[N, bh, bw, 2]``; ``four``, ``out``: ``[N, 2 bh, 2 bw, 2]``.
    """
    b, there, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 16, P)
    row = _eight(rb, top, left, BH, BW)
    mine = samples(target, rb, top, left, i, k, BH, BW, 16)
    ref, weight = tl.load(reference + rb), tl.load(lam + b)
    py, px = _vector(predictor, b)
    matrix = _hadamard(hadamard)
    ry, rx = _vector(four, row)
    fy, fx = _four(ry, P), _four(rx, P)
    wy, wx = _vector(whole, b)
    ys = (wy, fy[0], fy[1], fy[2], fy[3])
    xs = (wx, fx[0], fx[1], fx[2], fx[3])
    costs, bits = (), ()
    for v in tl.static_range(5):
        moved = _window(phases, ref, top, left, _of_rows(ys[v], P, 4), _of_rows(xs[v], P, 4), i, k, HP, WP, 8)
        costs = costs + (_four(_distance(moved - mine, matrix, FINE), P),)
        bits = bits + ((_component_bits(ys[v] - py) + _component_bits(xs[v] - px)) * weight,)
    best, w = _cheapest(costs, bits, 0, 0, True, P)
    best += weight
    w0, w1, w2, w3 = w, w, w, w
    a, wa = _cheapest(costs, bits, 0, 1, False, P)
    c, wc = _cheapest(costs, bits, 2, 3, False, P)
    total = 3.0 * weight + a + c
    w0, w1, w2, w3 = (
        tl.where(total < best, wa, w0), tl.where(total < best, wa, w1), tl.where(total < best, wc, w2), tl.where(total < best, wc, w3),
    )  # fmt: skip
    best = tl.minimum(best, total)
    a, wa = _cheapest(costs, bits, 0, 2, False, P)
    c, wc = _cheapest(costs, bits, 1, 3, False, P)
    total = 3.0 * weight + a + c
    w0, w1, w2, w3 = (
        tl.where(total < best, wa, w0), tl.where(total < best, wc, w1), tl.where(total < best, wa, w2), tl.where(total < best, wc, w3),
    )  # fmt: skip
    best = tl.minimum(best, total)
    a, wa = _cheapest(costs, bits, 0, 0, False, P)
    c, wc = _cheapest(costs, bits, 1, 1, False, P)
    d, wd = _cheapest(costs, bits, 2, 2, False, P)
    e, we = _cheapest(costs, bits, 3, 3, False, P)
    total = 6.0 * weight + a + c + d + e
    picked = (
        tl.where(total < best, wa, w0), tl.where(total < best, wc, w1), tl.where(total < best, wd, w2), tl.where(total < best, we, w3),
    )  # fmt: skip
    corner = (b // (BH * BW) * (2 * BH) + b // BW % BH * 2) * (2 * BW) + b % BW * 2
    for q in tl.static_range(4):
        vy, vx = ys[0], xs[0]
        for v in tl.static_range(1, 5):
            vy, vx = tl.where(picked[q] == v, ys[v], vy), tl.where(picked[q] == v, xs[v], vx)
        _put_vector(out, corner + q // 2 * 2 * BW + q % 2, vy, vx, there)


@triton.jit
def _look(phases, reference, source, vectors, hadamard, costs, BLOCKS, BH, BW, HP, WP, FINE: tl.constexpr, P: tl.constexpr):
    """What the lookahead makes vectors cost: ``Lookahead._found`` in :mod:`diffcodec.h264.lookahead`."""
    b, there, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 8, P)
    mine = samples(source, rb, top, left, i, k, BH, BW, 8)
    vy, vx = _vector(vectors, b)
    py, px = _predictor(vectors, b, BH, BW)
    matrix = _hadamard(hadamard)
    cost = _price(phases, tl.load(reference + rb), mine, matrix, top, left, i, k, vy, vx, py, px, 1.0, HP, WP, FINE, 8, P)
    tl.store(costs + b, cost + _INTER + tl.where((vy != 0) | (vx != 0), _MOVING, 0.0), there)


# Residuals, before they are coded


@triton.jit
def _weigh(source, predicted, hadamard, sad, by_four, by_eight, BLOCKS, BH, BW, P: tl.constexpr):
    """SAD, SATD and SA8D of macroblocks, ``[N, bh, bw]`` each."""
    b, there, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 16, P)
    difference = samples(source, rb, top, left, i, k, BH, BW, 16) - samples(predicted, rb, top, left, i, k, BH, BW, 16)
    tl.store(sad + b, of_macroblock(tl.sum(tl.abs(difference), 1), P), there)
    tl.store(by_four + b, of_macroblock(_satd(difference, _hadamard(hadamard)), P), there)
    tl.store(by_eight + b, of_macroblock(_satd(difference, _hadamard(hadamard + 4096)), P), there)


@triton.jit
def _motion(field0, field1, used0, used1, name0, name1, out, BLOCKS, TWO: tl.constexpr, SIZE: tl.constexpr):
    """:func:`diffcodec.h264.inter.motion`."""
    b, there = _some(BLOCKS, SIZE)
    for j in tl.static_range(2):
        field, used, name = (field0, used0, name0) if j == 0 else (field1, used1, name1)
        on = tl.load(used + b) != 0
        if j == 1 and not TWO:
            on = b < 0
        for i in tl.static_range(2):
            tl.store(out + 6 * b + 3 * j + i, tl.where(on, tl.load(field + 2 * b + i), 0).to(tl.float32), there)
        tl.store(out + 6 * b + 3 * j + 2, tl.where(on, tl.load(name + b), -1).to(tl.float32), there)


# B frames


@triton.jit
def _bits_of_block(field, b, BH, BW):
    """Bits of the vectors of blocks against their neighbours' median."""
    py, px = _predictor(field, b, BH, BW)
    vy, vx = _vector(field, b)
    return _component_bits(vy - py) + _component_bits(vx - px)


@triton.jit
def _direction(
    source, past, future, field0, field1, lam, hadamard, out, BLOCKS, BH, BW, FINE: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """:func:`diffcodec.h264.decide.direction` of P macroblocks."""
    b, there, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 16, P)
    row = _eight(rb, top, left, BH, BW)
    at = row.to(tl.int64)[:, None] * 64 + i * 8 + k
    mine = samples(source, rb, top, left, i, k, BH, BW, 16)
    matrix = _hadamard(hadamard)
    bits0, bits1 = _bits_of_block(field0, row, 2 * BH, 2 * BW), _bits_of_block(field1, row, 2 * BH, 2 * BW)
    weight = tl.load(lam + rb) / 4
    best, which = tl.full([4 * P], float("inf"), tl.float32), tl.zeros([4 * P], tl.int32)
    whole, of_whole = tl.full([P], float("inf"), tl.float32), tl.zeros([P], tl.int32)
    for way in tl.static_range(3):
        if way == 0:
            difference, bits = mine - tl.load(past + at), bits0 + 2
        elif way == 1:
            difference, bits = mine - tl.load(future + at), bits1 + 2
        else:
            difference, bits = mine - _mean(tl.load(past + at), tl.load(future + at)), bits0 + bits1 + 3
        cost = _distance(difference, matrix, FINE) + weight * bits
        which = tl.where(cost < best, way, which)
        best = tl.minimum(cost, best)
        together = of_macroblock(cost, P)
        of_whole = tl.where(together < whole, way, of_whole)
        whole = tl.minimum(together, whole)
    split = of_macroblock(best, P) + 6 * tl.load(lam + b) < whole
    found = tl.where(_of_rows(split, P, 4), which, _of_rows(of_whole, P, 4))
    tl.store(out + row, found.to(tl.int64), _of_rows(there, P, 4))


@triton.jit
def _mix(past, future, which, out, TOTAL, S, SIZE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    there = at < TOTAL
    w = tl.load(which + at // S, there, 0)
    a, b = tl.load(past + at, there & (w != 1), 0.0), tl.load(future + at, there & (w != 0), 0.0)
    tl.store(out + at, tl.where(w == 2, _mean(a, b), a + b), there)


@triton.jit
def _mix_backward(grad, which, past, future, TOTAL, S, SIZE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    there = at < TOTAL
    w, g = tl.load(which + at // S, there, 0), tl.load(grad + at, there, 0.0)
    g = tl.where(w == 2, 0.5 * g, g)
    tl.store(past + at, tl.where(w == 1, 0.0, g), there)
    tl.store(future + at, tl.where(w == 0, 0.0, g), there)


_LIBRARY = torch.library.Library("diffcodec", "FRAGMENT")
_LIBRARY.define("quarter_pel(Tensor luma) -> Tensor")
_LIBRARY.define("half_resolution(Tensor luma) -> (Tensor, Tensor)")
_LIBRARY.define("weigh_residual(Tensor source, Tensor predicted) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define("motion(Tensor[] fields, Tensor[] uses, Tensor[] names) -> Tensor")
_LIBRARY.define("fetch_luma(Tensor phases, Tensor reference, Tensor vectors, int k) -> Tensor")
_LIBRARY.define("predict_luma(Tensor planes, Tensor phases, Tensor place, Tensor which, Tensor vectors, int k) -> Tensor")
_LIBRARY.define("predict_luma_backward(Tensor grad, Tensor planes, Tensor which, Tensor vectors, int k) -> Tensor")
_LIBRARY.define("fetch_chroma(Tensor planes, Tensor reference, Tensor vectors, int k) -> Tensor")
_LIBRARY.define("fetch_chroma_backward(Tensor grad, Tensor planes, Tensor reference, Tensor vectors, int k) -> Tensor")
_LIBRARY.define("whole_search(Tensor current, Tensor reference, int reach, int k) -> Tensor")
_LIBRARY.define(
    "refine(Tensor phases, Tensor reference, Tensor source, Tensor start, Tensor predictor, Tensor lam,"
    " int k, int subpel, bool fine, int rounds) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "vectors(Tensor source, Tensor phases, Tensor reference, Tensor coarse, Tensor lam, int subpel, bool fine, bool partitions) -> Tensor"
)
_LIBRARY.define("look(Tensor small, Tensor other, Tensor phases, Tensor reference, int reach, int subpel, bool fine) -> (Tensor, Tensor)")
_LIBRARY.define("median_predictor(Tensor vectors) -> Tensor")
_LIBRARY.define("direction(Tensor source, Tensor past, Tensor future, Tensor field0, Tensor field1, Tensor lam, bool fine) -> Tensor")
_LIBRARY.define("mix(Tensor past, Tensor future, Tensor which) -> Tensor")
_LIBRARY.define("mix_backward(Tensor grad, Tensor which) -> (Tensor, Tensor)")


@implements(_LIBRARY, "quarter_pel")
def _phases(luma: Tensor) -> Tensor:
    n, h, w = luma.shape
    out = _phases_shape(luma)
    spans = -(-out[0, 0].numel() // _SIZE)
    _quarter_pel[(n * spans,)](luma.contiguous(), out, h, w, spans, _SIZE)
    return out


@torch.library.register_fake("diffcodec::quarter_pel", lib=_LIBRARY)
def _phases_shape(luma: Tensor) -> Tensor:
    n, h, w = luma.shape
    return luma.new_empty(n, 16, h + 2 * MARGIN, w + 2 * MARGIN, dtype=torch.uint8)


@implements(_LIBRARY, "half_resolution")
def _halved(luma: Tensor) -> tuple[Tensor, Tensor]:
    n, h, w = luma.shape
    small, phases = _halved_shape(luma)
    spans = -(-phases[0, 0].numel() // _SIZE)
    _half_resolution[(n * spans,)](luma.contiguous(), small, phases, h, w, spans, _SIZE)
    return small, phases


@torch.library.register_fake("diffcodec::half_resolution", lib=_LIBRARY)
def _halved_shape(luma: Tensor) -> tuple[Tensor, Tensor]:
    small = luma.new_empty(len(luma), luma.shape[1] // 2, luma.shape[2] // 2)
    return small, _phases_shape(small)


# SATD and SA8D of 8 x 8 samples: [2, 64, 64]
_TRANSFORMS = Constant(np.stack([HADAMARD4_OF_8.value.numpy(), HADAMARD8.value.numpy()]))


@implements(_LIBRARY, "weigh_residual")
def _weighed(source: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, h, w = source.shape
    out = _weighed_shape(source, predicted)
    given, p = (source.contiguous(), predicted.contiguous(), _TRANSFORMS.like(source)), SEARCH_ROWS // 4
    macroblocks = out[0].numel()
    _weigh[(-(-macroblocks // p),)](*given, *out, macroblocks, h // 16, w // 16, p, num_warps=SEARCH_WARPS)
    return out


@torch.library.register_fake("diffcodec::weigh_residual", lib=_LIBRARY)
def _weighed_shape(source: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, h, w = source.shape
    costs = [source.new_empty(n, h // 16, w // 16) for _ in range(3)]
    return costs[0], costs[1], costs[2]


@implements(_LIBRARY, "motion")
def _moved(fields: list[Tensor], uses: list[Tensor], names: list[Tensor]) -> Tensor:
    out = _moved_shape(fields, uses, names)
    given = [[x.contiguous() for x in xs] for xs in (fields, [u.contiguous().view(torch.uint8) for u in uses], names)]
    pairs = [x for xs in given for x in (xs[0], xs[-1])]
    n = uses[0].numel()
    _motion[(-(-n // _SIZE),)](*pairs, out, n, len(fields) > 1, _SIZE)
    return out


@torch.library.register_fake("diffcodec::motion", lib=_LIBRARY)
def _moved_shape(fields: list[Tensor], uses: list[Tensor], names: list[Tensor]) -> Tensor:
    return fields[0].new_empty(*uses[0].shape, 6, dtype=torch.float32)


def _laid_out(index: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the shape of the blocks, and vectors, one after the other in memory."""
    return index.expand(vectors.shape[:-1]).contiguous(), vectors.contiguous()


@implements(_LIBRARY, "fetch_luma")
def _fetched(phases: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    reference, vectors = _laid_out(reference, vectors)
    bh, bw = vectors.shape[-3:-1]
    out = _fetched_shape(phases, reference, vectors, k)
    n, r = reference.numel(), _ROWS * 64 // (k * k)
    _fetch[(-(-n // r),)](phases, reference, vectors, out, n, bh, bw, phases.shape[-2], phases.shape[-1], k, r)
    return out


@torch.library.register_fake("diffcodec::fetch_luma", lib=_LIBRARY)
def _fetched_shape(phases: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    return vectors.new_empty(*vectors.shape[:-1], k * k, dtype=torch.float32)


@implements(_LIBRARY, "predict_luma")
def _predicted(planes: Tensor, phases: Tensor, place: Tensor, which: Tensor, vectors: Tensor, k: int) -> Tensor:
    return _fetched(phases, place, vectors, k)


@torch.library.register_fake("diffcodec::predict_luma", lib=_LIBRARY)
def _predicted_shape(planes: Tensor, phases: Tensor, place: Tensor, which: Tensor, vectors: Tensor, k: int) -> Tensor:
    return vectors.new_empty(*vectors.shape[:-1], k * k, dtype=torch.float32)


@implements(_LIBRARY, "predict_luma_backward")
def _predicted_backward(grad: Tensor, planes: Tensor, which: Tensor, vectors: Tensor, k: int) -> Tensor:
    which, vectors = _laid_out(which, vectors)
    planes = planes.contiguous()
    out = torch.zeros_like(planes)
    bh, bw = vectors.shape[-3:-1]
    _predict_backward[(which.numel(),)](
        grad.contiguous(), planes, which, vectors, SHARES.like(planes), out, bh, bw, *planes.shape[1:], k, num_warps=2
    )
    return out


@torch.library.register_fake("diffcodec::predict_luma_backward", lib=_LIBRARY)
def _predicted_backward_shape(grad: Tensor, planes: Tensor, which: Tensor, vectors: Tensor, k: int) -> Tensor:
    return torch.empty_like(planes, memory_format=torch.contiguous_format)


def _keep_planes(ctx, inputs, output):  # type: ignore[no-untyped-def]
    planes, _, _, which, vectors, ctx.k = inputs
    ctx.save_for_backward(planes, which, vectors)


def _of_planes(ctx, grad):  # type: ignore[no-untyped-def]
    return ops.predict_luma_backward(grad, *ctx.saved_tensors, ctx.k), None, None, None, None, None


differentiates(_LIBRARY, "predict_luma", _keep_planes, _of_planes)


@implements(_LIBRARY, "fetch_chroma")
def _fetched_chroma(planes: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    reference, vectors = _laid_out(reference, vectors)
    bh, bw = vectors.shape[-3:-1]
    out = _fetched_chroma_shape(planes, reference, vectors, k)
    n, r = reference.numel(), _ROWS * 32 // (k * k)
    _fetch_chroma[(-(-n // r),)](planes.contiguous(), reference, vectors, out, n, bh, bw, *planes.shape[-2:], k, r)
    return out


@torch.library.register_fake("diffcodec::fetch_chroma", lib=_LIBRARY)
def _fetched_chroma_shape(planes: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    return planes.new_empty(*vectors.shape[:-1], 2, k * k)


@implements(_LIBRARY, "fetch_chroma_backward")
def _fetched_chroma_backward(grad: Tensor, planes: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    reference, vectors = _laid_out(reference, vectors)
    out = planes.new_zeros(planes.shape)
    n, r = reference.numel(), _ROWS * 32 // (k * k)
    bh, bw = vectors.shape[-3:-1]
    _fetch_chroma_backward[(-(-n // r),)](grad.contiguous(), reference, vectors, out, n, bh, bw, *planes.shape[-2:], k, r)
    return out


@torch.library.register_fake("diffcodec::fetch_chroma_backward", lib=_LIBRARY)
def _fetched_chroma_backward_shape(grad: Tensor, planes: Tensor, reference: Tensor, vectors: Tensor, k: int) -> Tensor:
    return planes.new_empty(planes.shape)


def _keep_chroma(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.k = inputs
    ctx.save_for_backward(*tensors)


def _of_chroma(ctx, grad):  # type: ignore[no-untyped-def]
    return ops.fetch_chroma_backward(grad, *ctx.saved_tensors, ctx.k), None, None, None


differentiates(_LIBRARY, "fetch_chroma", _keep_chroma, _of_chroma)


@implements(_LIBRARY, "whole_search")
def _found(current: Tensor, reference: Tensor, reach: int, k: int) -> Tensor:
    small, small_ref = (F.avg_pool2d(p[:, None], 2)[:, 0].contiguous() for p in (current, reference))
    out = _found_shape(current, reference, reach, k)
    _, bh, bw, _ = out.shape
    blocks, half = out.numel() // 2, k // 2
    r = _ROWS * 64 // (half * half)
    _whole[(-(-blocks // r),)](small, small_ref, out, blocks, bh, bw, *small.shape[1:], -(-reach // 2), half, r)
    return out


@torch.library.register_fake("diffcodec::whole_search", lib=_LIBRARY)
def _found_shape(current: Tensor, reference: Tensor, reach: int, k: int) -> Tensor:
    n, h, w = current.shape
    return current.new_empty(n, h // k, w // k, 2, dtype=torch.int64)


@implements(_LIBRARY, "refine")
def _refined(
    phases: Tensor, reference: Tensor, source: Tensor, start: Tensor, predictor: Tensor, lam: Tensor, k: int, subpel: int, fine: bool,
    rounds: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    reference, predictor = _laid_out(reference, predictor)
    bh, bw = predictor.shape[-3:-1]
    vectors, costs = _refined_shape(phases, reference, source, start, predictor, lam, k, subpel, fine, rounds)
    n, p = reference.numel(), SEARCH_ROWS * 64 // (k * k)
    given = (phases, reference, source.contiguous(), start.contiguous(), predictor, lam.contiguous(), HADAMARD4_OF_8.like(source))
    _refine[(-(-n // p),)](
        *given, vectors, costs, n, bh, bw, *phases.shape[-2:], len(start), rounds, subpel, fine, k, p, num_warps=SEARCH_WARPS
    )
    return vectors, costs


@torch.library.register_fake("diffcodec::refine", lib=_LIBRARY)
def _refined_shape(
    phases: Tensor, reference: Tensor, source: Tensor, start: Tensor, predictor: Tensor, lam: Tensor, k: int, subpel: int, fine: bool,
    rounds: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return predictor.new_empty(predictor.shape), source.new_empty(predictor.shape[:-1])


def begin(coarse: Tensor, still_first: bool) -> tuple[Tensor, Tensor]:
    """Where a search from coarse vectors begins, and their predictor: ``[N, bh, bw, 2] -> [3, N, bh, bw, 2]``, ``[N, bh, bw, 2]``."""
    start, predictor = coarse.new_empty(3, *coarse.shape), torch.empty_like(coarse)
    n = coarse.numel() // 2
    _begin[(-(-n // _SIZE),)](coarse, start, predictor, n, *coarse.shape[1:3], still_first, _SIZE)
    return start, predictor


@implements(_LIBRARY, "vectors")
def _vectors(
    source: Tensor, phases: Tensor, reference: Tensor, coarse: Tensor, lam: Tensor, subpel: int, fine: bool, partitions: bool
) -> Tensor:
    source, reference, coarse, lam = source.contiguous(), reference.contiguous(), coarse.contiguous(), lam.contiguous()
    start, predictor = begin(coarse, False)
    whole, _ = _refined(phases, reference, source, start, predictor, lam, 16, subpel, fine, 1)
    if not partitions:
        return spread(whole, 2)
    n, bh, bw = lam.shape
    blocks, p = lam.numel(), SEARCH_ROWS // 4
    start = whole.new_empty(5, n, 2 * bh, 2 * bw, 2)
    _divide[(-(-blocks // _SIZE),)](whole, start, predictor, blocks, bh, bw, _SIZE)
    four, _ = _refined(phases, spread(reference, 2), source, start, start[0], spread(lam, 2), 8, subpel, fine, 0)
    out, given = torch.empty_like(four), (phases, reference, source, whole, four, predictor, lam, HADAMARD4_OF_8.like(source))
    _partition[(-(-blocks // p),)](*given, out, blocks, bh, bw, *phases.shape[-2:], fine, p, num_warps=SEARCH_WARPS)
    return out


@torch.library.register_fake("diffcodec::vectors", lib=_LIBRARY)
def _vectors_shape(
    source: Tensor, phases: Tensor, reference: Tensor, coarse: Tensor, lam: Tensor, subpel: int, fine: bool, partitions: bool
) -> Tensor:
    n, bh, bw = lam.shape
    return coarse.new_empty(n, 2 * bh, 2 * bw, 2)


@implements(_LIBRARY, "look")
def _looked(small: Tensor, other: Tensor, phases: Tensor, reference: Tensor, reach: int, subpel: int, fine: bool) -> tuple[Tensor, Tensor]:
    small = small.contiguous()
    start, predictor = begin(_found(small, other, reach, 8), True)
    reference = reference.expand(predictor.shape[:3]).contiguous()
    vectors, costs = _refined(phases, reference, small, start, predictor, small.new_ones(predictor.shape[:3]), 8, subpel, fine, 2)
    given, n = (phases, reference, small, vectors, HADAMARD4_OF_8.like(small), costs), costs.numel()
    sizes = (n, *costs.shape[1:], *phases.shape[-2:])
    _look[(-(-n // SEARCH_ROWS),)](*given, *sizes, fine, SEARCH_ROWS, num_warps=SEARCH_WARPS)
    return vectors, costs


@torch.library.register_fake("diffcodec::look", lib=_LIBRARY)
def _looked_shape(
    small: Tensor, other: Tensor, phases: Tensor, reference: Tensor, reach: int, subpel: int, fine: bool
) -> tuple[Tensor, Tensor]:
    vectors = _found_shape(small, other, reach, 8)
    return vectors, small.new_empty(vectors.shape[:3])


@implements(_LIBRARY, "median_predictor")
def _predicted_vectors(vectors: Tensor) -> Tensor:
    vectors = vectors.contiguous()
    out, n = torch.empty_like(vectors), vectors.numel() // 2
    _medians[(-(-n // _SIZE),)](vectors, out, n, *vectors.shape[1:3], _SIZE)
    return out


@torch.library.register_fake("diffcodec::median_predictor", lib=_LIBRARY)
def _predicted_vectors_shape(vectors: Tensor) -> Tensor:
    return torch.empty_like(vectors, memory_format=torch.contiguous_format)


@implements(_LIBRARY, "direction")
def _directed(source: Tensor, past: Tensor, future: Tensor, field0: Tensor, field1: Tensor, lam: Tensor, fine: bool) -> Tensor:
    out = _directed_shape(source, past, future, field0, field1, lam, fine)
    given = [x.contiguous() for x in (source, past, future, field0, field1, lam)]
    n, p = lam.numel(), SEARCH_ROWS // 4
    _direction[(-(-n // p),)](*given, HADAMARD4_OF_8.like(source), out, n, *lam.shape[1:], fine, p, num_warps=SEARCH_WARPS)
    return out


@torch.library.register_fake("diffcodec::direction", lib=_LIBRARY)
def _directed_shape(source: Tensor, past: Tensor, future: Tensor, field0: Tensor, field1: Tensor, lam: Tensor, fine: bool) -> Tensor:
    return field0.new_empty(field0.shape[:-1])


@implements(_LIBRARY, "mix")
def _mixed(past: Tensor, future: Tensor, which: Tensor) -> Tensor:
    past, future, out = past.contiguous(), future.contiguous(), _mixed_shape(past, future, which)
    n = out.numel()
    _mix[(-(-n // (4 * _SIZE)),)](past, future, which.contiguous(), out, n, n // which.numel(), 4 * _SIZE)
    return out


@torch.library.register_fake("diffcodec::mix", lib=_LIBRARY)
def _mixed_shape(past: Tensor, future: Tensor, which: Tensor) -> Tensor:
    return past.new_empty(past.shape)


@implements(_LIBRARY, "mix_backward")
def _mixed_backward(grad: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    grad, (past, future) = grad.contiguous(), _mixed_backward_shape(grad, which)
    n = grad.numel()
    _mix_backward[(-(-n // (4 * _SIZE)),)](grad, which.contiguous(), past, future, n, n // which.numel(), 4 * _SIZE)
    return past, future


@torch.library.register_fake("diffcodec::mix_backward", lib=_LIBRARY)
def _mixed_backward_shape(grad: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    return grad.new_empty(grad.shape), grad.new_empty(grad.shape)


def _keep_which(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[2])


def _of_mixed(ctx, grad):  # type: ignore[no-untyped-def]
    return *ops.mix_backward(grad, *ctx.saved_tensors), None


differentiates(_LIBRARY, "mix", _keep_which, _of_mixed)
