"""Functions of Triton kernels that several families share. Blocks of 8 x 8 samples are rows of a tile; macroblocks are four rows."""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

from ...constants import Constant
from ..interpolate.reference import MARGIN
from .tables import HADAMARD4_OF_8, HADAMARD8

SEARCH_ROWS, SEARCH_WARPS = 16, 8  # of programs that search: windows and a matrix of 64 x 64 take many registers
TRANSFORMS = Constant(np.stack([HADAMARD4_OF_8.value.numpy(), HADAMARD8.value.numpy()]))  # of SATD and SA8D, [2, 64, 64]
_MARGIN = tl.constexpr(MARGIN)


@triton.jit
def half_up(x):
    return tl.floor(x + 0.5)


@triton.jit
def average(a, b):
    return half_up((a + b) * 0.5)


@triton.jit
def sample_at(plane, y, x, H, W):
    """A sample; edges are repeated."""
    return tl.load(plane + tl.minimum(tl.maximum(y, 0), H - 1) * W + tl.minimum(tl.maximum(x, 0), W - 1))


@triton.jit
def window(phases, slot, top, left, vy, vx, i, k, HP, WP, SIDE: tl.constexpr):
    """Samples (i, k) of windows that vectors move from (top, left). Shape: rows ``[R]``, (i, k) ``[1, S] -> [R, S]``."""
    plane = slot.to(tl.int64) * 16 + 4 * (vy & 3) + (vx & 3)
    y = tl.minimum(tl.maximum(top + _MARGIN + (vy >> 2), 0), HP - SIDE)
    x = tl.minimum(tl.maximum(left + _MARGIN + (vx >> 2), 0), WP - SIDE)
    return tl.load(phases + ((plane * HP + y) * WP + x)[:, None] + i * WP + k).to(tl.float32)


@triton.jit
def repeat_rows(x, P: tl.constexpr, N: tl.constexpr):
    """Each value N times. Shape: ``[P] -> [P N]``."""
    return tl.reshape(tl.broadcast_to(x[:, None], (P, N)), (P * N,))


@triton.jit
def satd(difference, hadamard):
    """Shape: ``[R, 64], [64, 64] -> [R]``."""
    return tl.sum(tl.abs(tl.dot(difference, hadamard, input_precision="tf32")), 1)


@triton.jit
def distortion(difference, hadamard, USE_SATD: tl.constexpr):
    """SATD or SAD. Shape: ``[R, 64] -> [R]``."""
    if USE_SATD:
        cost = satd(difference, hadamard)
    else:
        cost = tl.sum(tl.abs(difference), 1)
    return cost


@triton.jit
def hadamard_matrix(matrix):
    i = tl.arange(0, 64)
    return tl.load(matrix + i[:, None] * 64 + i[None, :])


@triton.jit
def sum_rows(costs, P: tl.constexpr):
    """Sum over the four rows of each macroblock. Shape: ``[4 P] -> [P]``."""
    return tl.sum(tl.reshape(costs, (P, 4)), 1)


@triton.jit
def block_rows(first, BLOCKS, BH, BW, K: tl.constexpr, P: tl.constexpr):
    """P blocks from one on, and the blocks of 8 x 8 that they are made of.

    Returns:
        Number, which there are ``[P]``; number, place, sample numbers of the rows ``[R], [R], [1, 64]``.
    """
    n: tl.constexpr = K * K // 64
    side: tl.constexpr = K // 8
    b = first + tl.arange(0, P)
    mask = b < BLOCKS
    b = tl.minimum(b, BLOCKS - 1)
    r = tl.arange(0, P * n)
    rb = tl.minimum(first + r // n, BLOCKS - 1)
    top, left = rb // BW % BH * K + r % n // side * 8, rb % BW * K + r % side * 8
    s = tl.arange(0, 64)[None, :]
    return b, mask, rb, top, left, s // 8, s % 8


@triton.jit
def samples(source, rb, top, left, i, k, BH, BW, K: tl.constexpr):
    """Samples of rows of blocks, of planes ``[N, K BH, K BW]``."""
    plane = (rb // (BH * BW)).to(tl.int64) * (BH * K * BW * K)
    return tl.load(source + (plane + top * (BW * K) + left)[:, None] + i * (BW * K) + k)


@triton.jit
def blocks_here(BLOCKS, SIZE: tl.constexpr):
    """Blocks of this program, and which there are."""
    b = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    return tl.minimum(b, BLOCKS - 1), b < BLOCKS
