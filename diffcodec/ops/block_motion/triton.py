"""Block motion search in Triton: the steps of the reference without cost volumes in memory.

Vectors are (y, x). Sums of absolute differences are added up in another order than the reference's, so where two vectors cost the same to the
last bit the other one may be found.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ...blocks import pad_to_multiple
from ...implement import implements
from . import reference

_SAMPLES = 1024  # of a program of the refinement


@triton.jit
def _bias(y, x, smoothness):
    """Cost of a vector in pixels, whole or not."""
    return tl.log2(1 + tl.abs(y).to(tl.float32) + tl.abs(x).to(tl.float32)) * (smoothness / 255)


@triton.jit
def _coarse(current, reference, out, BH, BW, GROUPS_X, GROUPS, REACH, smoothness, K: tl.constexpr):
    """Full search at half resolution, for a square of 4 x 4 blocks of K x K samples: the best shifts of each block, of 2 x 2 and of 4 x 4 blocks.

    Shape: planes ``[N, BH K, BW K]`` -> ``[N, 3, BH, BW, 2]``, in pixels of the full resolution.
    """
    n = (tl.program_id(0) // GROUPS).to(tl.int64)
    group = tl.program_id(0) % GROUPS
    by, bx = group // GROUPS_X * 4, group % GROUPS_X * 4
    h, w = BH * K, BW * K
    side: tl.constexpr = 4 * K
    y, x = by * K + tl.arange(0, side), bx * K + tl.arange(0, side)
    current += n * h * w
    reference += n * h * w
    mask = (y < h)[:, None] & (x < w)[None, :]
    target = tl.load(current + y[:, None] * w + x[None, :], mask, 0.0)
    counted = tl.where(mask, 1.0, 0.0)
    blocks = tl.sum(tl.sum(tl.reshape(counted, (4, K, 4, K)), 3), 1) / (K * K)  # [4, 4], 1 for those there are
    pairs = tl.sum(tl.sum(tl.reshape(blocks, (2, 2, 2, 2)), 3), 1)  # [2, 2]
    all_ = tl.sum(tl.sum(pairs, 1), 0)
    best1 = tl.full([4, 4], float("inf"), tl.float32)
    best2 = tl.full([2, 2], float("inf"), tl.float32)
    best4 = float("inf")
    at1 = tl.zeros([4, 4], tl.int32)
    at2 = tl.zeros([2, 2], tl.int32)
    at4 = 0
    span = 2 * REACH + 1
    for s in range(span * span):
        dy, dx = s // span - REACH, s % span - REACH
        ys = tl.minimum(tl.maximum(y + dy, 0), h - 1)
        xs = tl.minimum(tl.maximum(x + dx, 0), w - 1)
        moved = tl.load(reference + ys[:, None] * w + xs[None, :])
        sad = tl.where(mask, tl.abs(moved - target), 0.0)
        cost1 = tl.sum(tl.sum(tl.reshape(sad, (4, K, 4, K)), 3), 1) / (K * K)
        cost2 = tl.sum(tl.sum(tl.reshape(cost1, (2, 2, 2, 2)), 3), 1)
        bias = _bias(2 * dy, 2 * dx, smoothness)
        cost4 = tl.sum(tl.sum(cost2, 1), 0) / all_ + bias
        cost2 = cost2 / tl.maximum(pairs, 1.0) + bias
        cost1 += bias
        at1, best1 = tl.where(cost1 < best1, s, at1), tl.minimum(cost1, best1)
        at2, best2 = tl.where(cost2 < best2, s, at2), tl.minimum(cost2, best2)
        at4, best4 = tl.where(cost4 < best4, s, at4), tl.minimum(cost4, best4)
    rows, columns = by + tl.arange(0, 4), bx + tl.arange(0, 4)
    place = rows[:, None] * BW + columns[None, :]
    mask = (rows < BH)[:, None] & (columns < BW)[None, :]
    out += n * 6 * BH * BW
    at2 = tl.reshape(tl.broadcast_to(at2[:, None, :, None], (2, 2, 2, 2)), (4, 4))
    _put_shifts(out, at1, place, mask, span, REACH)
    _put_shifts(out + 2 * BH * BW, at2, place, mask, span, REACH)
    _put_shifts(out + 4 * BH * BW, tl.zeros([4, 4], tl.int32) + at4, place, mask, span, REACH)


@triton.jit
def _put_shifts(out, s, place, mask, span, REACH):
    tl.store(out + 2 * place, 2 * (s // span - REACH), mask)
    tl.store(out + 2 * place + 1, 2 * (s % span - REACH), mask)


@triton.jit
def _cost(reference, target, y, x, vy, vx, H, W, K: tl.constexpr):
    """Mean absolute difference of blocks from where whole-pel vectors point. Shape: ``[P, K, K]``, rows ``[P, K]``, vectors ``[P] -> [P]``."""
    moved = _window(reference, y, x, vy, vx, H, W)
    return tl.sum(tl.sum(tl.abs(moved - target), 2), 1) / (K * K)


@triton.jit
def _window(reference, y, x, vy, vx, H, W):
    rows = tl.minimum(tl.maximum(y + vy[:, None], 0), H - 1)  # [P, K]
    columns = tl.minimum(tl.maximum(x + vx[:, None], 0), W - 1)
    return tl.load(reference + rows[:, :, None] * W + columns[:, None, :])


@triton.jit
def _between(before, at, after, f):
    """Sample a fraction -1 < f < 1 away. Shape: ``[P, K, K]``, ``[P, 1, 1]``."""
    return at + tl.maximum(f, 0.0) * (after - at) + tl.maximum(-f, 0.0) * (before - at)


@triton.jit
def _refine(
    current, reference, vectors, out, H, W, BH, BW, TILES, smoothness,
    NEIGHBOURS: tl.constexpr, MOVE: tl.constexpr, SUBPEL: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """P blocks: the best of some vectors; with MOVE to the best whole place within 2 pixels; with SUBPEL on by halves and quarters.

    ``vectors``: three candidates beside zero ``[N, 3, BH, BW, 2]``, or with NEIGHBOURS those of the step before ``[N, BH, BW, 2]``.
    ``out``: ``[N, BH, BW, 2]``, whole, (y, x); with SUBPEL float, (x, y).
    """
    n = (tl.program_id(0) // TILES).to(tl.int64)
    b = tl.program_id(0) % TILES * P + tl.arange(0, P)
    mask = b < BH * BW
    b = tl.minimum(b, BH * BW - 1)
    by, bx = b // BW, b % BW
    y, x = by[:, None] * K + tl.arange(0, K)[None, :], bx[:, None] * K + tl.arange(0, K)[None, :]  # [P, K]
    current += n * H * W
    reference += n * H * W
    target = tl.load(current + y[:, :, None] * W + x[:, None, :])
    if NEIGHBOURS:
        vectors += n * 2 * BH * BW
        vy, vx = tl.load(vectors + 2 * b), tl.load(vectors + 2 * b + 1)
    else:
        vectors += n * 6 * BH * BW
        vy, vx = tl.zeros([P], tl.int32), tl.zeros([P], tl.int32)
    cost = _cost(reference, target, y, x, vy, vx, H, W, K) + _bias(vy, vx, smoothness)
    for i in tl.static_range(4 if NEIGHBOURS else 3):
        if NEIGHBOURS:  # above, below, left, right; the picture's ends meet
            if i < 2:
                place = (by + (BH - 1 if i == 0 else 1)) % BH * BW + bx
            else:
                place = by * BW + (bx + (BW - 1 if i == 2 else 1)) % BW
        else:
            place = i * BH * BW + b
        ty, tx = tl.load(vectors + 2 * place), tl.load(vectors + 2 * place + 1)
        c = _cost(reference, target, y, x, ty, tx, H, W, K) + _bias(ty, tx, smoothness)
        vy, vx = tl.where(c < cost, ty, vy), tl.where(c < cost, tx, vx)
        cost = tl.minimum(c, cost)
    if MOVE:
        my, mx = vy, vx
        for i in range(1, 25):  # the place itself came first; then those nearer the middle of the row, of the column
            dy, dx = (i // 5 + 1) // 2, (i % 5 + 1) // 2
            dy, dx = tl.where(i // 5 % 2 == 1, -dy, dy), tl.where(i % 5 % 2 == 1, -dx, dx)
            c = _cost(reference, target, y, x, vy + dy, vx + dx, H, W, K) + _bias(vy + dy, vx + dx, smoothness)
            my, mx = tl.where(c < cost, vy + dy, my), tl.where(c < cost, vx + dx, mx)
            cost = tl.minimum(c, cost)
        vy, vx = my, mx
    if SUBPEL == 0:
        tl.store(out + (n * BH * BW + b) * 2, vy, mask)
        tl.store(out + (n * BH * BW + b) * 2 + 1, vx, mask)
    else:
        sy, sx = tl.zeros([P], tl.float32), tl.zeros([P], tl.float32)
        step = 0.5
        for _ in tl.static_range(SUBPEL // 2):
            best_y, best_x = sy, sx
            cost = tl.full([P], float("inf"), tl.float32)
            for i in tl.static_range(9):
                fy = sy + step * (-1 if i // 3 == 1 else i // 3 // 2)
                fx = sx + step * (-1 if i % 3 == 1 else i % 3 // 2)
                wide_y, wide_x = fy[:, None, None], fx[:, None, None]
                left = _column(reference, y, x, vy, vx - 1, wide_y, H, W)
                middle = _column(reference, y, x, vy, vx, wide_y, H, W)
                right = _column(reference, y, x, vy, vx + 1, wide_y, H, W)
                c = tl.sum(tl.sum(tl.abs(_between(left, middle, right, wide_x) - target), 2), 1) / (K * K)
                c += _bias(vy + fy, vx + fx, smoothness)
                best_y, best_x = tl.where(c < cost, fy, best_y), tl.where(c < cost, fx, best_x)
                cost = tl.minimum(c, cost)
            sy, sx = best_y, best_x
            step = step * 0.5
        tl.store(out + (n * BH * BW + b) * 2, vx + sx, mask)
        tl.store(out + (n * BH * BW + b) * 2 + 1, vy + sy, mask)


@triton.jit
def _column(reference, y, x, vy, vx, fy, H, W):
    """Windows moved by a fraction along the columns."""
    before, after = _window(reference, y, x, vy - 1, vx, H, W), _window(reference, y, x, vy + 1, vx, H, W)
    return _between(before, _window(reference, y, x, vy, vx, H, W), after, fy)


@implements(reference.block_motion)
def block_motion(current: Tensor, reference: Tensor, block: int, search: int, subpel: int, smoothness: float) -> Tensor:
    cur, ref = (pad_to_multiple(p, 2 * block).contiguous() for p in (current, reference))
    small, small_ref = (F.avg_pool2d(p[:, None], 2)[:, 0].contiguous() for p in (cur, ref))
    n, h, w = cur.shape
    bh, bw = h // block, w // block
    gy, gx = -(-bh // 4), -(-bw // 4)
    found = torch.empty(n, 3, bh, bw, 2, dtype=torch.int32, device=cur.device)
    _coarse[(n * gy * gx,)](
        small, small_ref, found, bh, bw, gx, gy * gx, -(-search // 2), smoothness, block // 2, num_warps=1 if block < 16 else 4
    )
    p = _SAMPLES // block**2
    tiles = -(-bh * bw // p)
    for i in range(3):
        last = i == 2
        out = torch.empty(n, bh, bw, 2, dtype=torch.float32 if last and subpel > 1 else torch.int32, device=cur.device)
        _refine[(n * tiles,)](
            cur, ref, found, out, h, w, bh, bw, tiles, smoothness, i > 0, not last, subpel if last and subpel > 1 else 0, block, p
        )
        found = out
    return found if subpel > 1 else found.flip(-1).float()
