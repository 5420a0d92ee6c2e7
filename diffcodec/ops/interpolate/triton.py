"""Inter prediction in Triton: quarter-pel planes, blocks that vectors point at, and their gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...blocks import flat_blocks
from ...implement import backward_of, implements
from ..common.triton import average, half_up, sample_at, window
from . import reference
from .reference import MARGIN, SHARES

_SIZE = 256  # samples of a plane in a program
_ROWS = 32  # blocks of 8 x 8 in a program
_MARGIN = tl.constexpr(MARGIN)


# Quarter-pel planes


@triton.jit
def _clip_sample(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _tap(i: tl.constexpr):
    """Of the six-tap filter (1, -5, 20, 20, -5, 1)."""
    return (1 if i == 0 or i == 5 else -5) if i < 2 or i > 3 else 20


@triton.jit
def _quarter_pel(luma, out, H, W, SPANS, SIZE: tl.constexpr):
    """``[N, H, W] -> [N, 16, H + 2 MARGIN, W + 2 MARGIN]`` bytes (8.4.2.2.1, whose names these are)."""
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    wide, high = W + 2 * _MARGIN, H + 2 * _MARGIN
    position = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    mask = position < wide * high
    y, x = position // wide - _MARGIN, position % wide - _MARGIN
    plane = luma + n * H * W
    raw_h, raw_m, raw_j = tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32)
    g, right, below, b, s = raw_h, raw_h, raw_h, raw_h, raw_h
    for i in tl.static_range(6):
        raw_b = tl.zeros([SIZE], tl.float32)
        for k in tl.static_range(6):
            v = sample_at(plane, y + (i - 2), x + (k - 2), H, W)
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
            b = _clip_sample(half_up(raw_b * 0.03125))
        if i == 3:
            s = _clip_sample(half_up(raw_b * 0.03125))
    h, m = _clip_sample(half_up(raw_h * 0.03125)), _clip_sample(half_up(raw_m * 0.03125))
    j = _clip_sample(half_up(raw_j * 0.0009765625))
    _put_phases(out + n * 16 * wide * high + position, wide * high, g, b, h, j, right, below, s, m, mask)


@triton.jit
def _put_phases(out, size, g, b, h, j, right, below, s, m, mask):
    """The sixteen phases from whole and half samples (8.4.2.2.1)."""
    phases = (
        g, average(g, b), b, average(b, right),
        average(g, h), average(b, h), average(b, j), average(b, m),
        h, average(h, j), j, average(j, m),
        average(h, below), average(h, s), average(j, s), average(m, s),
    )  # fmt: skip
    for i in tl.static_range(16):
        tl.store(out + i * size, phases[i].to(tl.uint8), mask)


@triton.jit
def _box(luma, y, x, part_y: tl.constexpr, part_x: tl.constexpr, H, W):
    """The mean of 2 x 2 samples from places (2 y + part_y, 2 x + part_x); edges of these planes are repeated."""
    y = 2 * tl.minimum(tl.maximum(y, 0), H // 2 - 1) + part_y
    x = 2 * tl.minimum(tl.maximum(x, 0), W // 2 - 1) + part_x
    total = (
        sample_at(luma, y, x, H, W)
        + sample_at(luma, y, x + 1, H, W)
        + sample_at(luma, y + 1, x, H, W)
        + sample_at(luma, y + 1, x + 1, H, W)
    )
    return half_up(total * 0.25)


@triton.jit
def _half_resolution(luma, half, out, H, W, SPANS, SIZE: tl.constexpr):
    """``[N, H, W] -> [N, H/2, W/2], [N, 16, H/2 + 2 MARGIN, W/2 + 2 MARGIN]`` bytes."""
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    wide, high = W // 2 + 2 * _MARGIN, H // 2 + 2 * _MARGIN
    position = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    mask = position < wide * high
    y, x = position // wide - _MARGIN, position % wide - _MARGIN
    plane = luma + n * H * W
    g, b = _box(plane, y, x, 0, 0, H, W), _box(plane, y, x, 0, 1, H, W)
    h, j = _box(plane, y, x, 1, 0, H, W), _box(plane, y, x, 1, 1, H, W)
    right, below = _box(plane, y, x + 1, 0, 0, H, W), _box(plane, y + 1, x, 0, 0, H, W)
    s, m = _box(plane, y + 1, x, 0, 1, H, W), _box(plane, y, x + 1, 1, 0, H, W)
    _put_phases(out + n * 16 * wide * high + position, wide * high, g, b, h, j, right, below, s, m, mask)
    inside = mask & (y >= 0) & (y < H // 2) & (x >= 0) & (x < W // 2)
    tl.store(half + (n * (H // 2) + y) * (W // 2) + x, g, inside)


# Blocks that vectors point at


@triton.jit
def _fetch(phases, slot, vectors, out, BLOCKS, BH, BW, HP, WP, K: tl.constexpr, R: tl.constexpr):
    """``[M, bh, bw, 2] -> [M, bh, bw, K*K]``."""
    b = tl.program_id(0) * R + tl.arange(0, R)
    mask = b < BLOCKS
    by, bx = b // BW % BH, b % BW
    vy, vx = tl.load(vectors + 2 * b, mask, 0).to(tl.int32), tl.load(vectors + 2 * b + 1, mask, 0).to(tl.int32)
    s = tl.arange(0, K * K)[None, :]
    v = window(phases, tl.load(slot + b, mask, 0), by * K, bx * K, vy, vx, s // K, s % K, HP, WP, K)
    tl.store(out + b.to(tl.int64)[:, None] * (K * K) + s, v, mask[:, None])


@triton.jit
def _add_at(out, y, x, value, H, W):
    tl.atomic_add(out + tl.minimum(tl.maximum(y, 0), H - 1) * W + tl.minimum(tl.maximum(x, 0), W - 1), value)


@triton.jit
def _in_range(raw, scale):
    """Where the clip of a filtered sample passes the gradient."""
    v = half_up(raw * scale)
    return tl.where((v >= 0) & (v <= 255), scale, 0.0)


@triton.jit
def _predict_backward(grad, planes, ref_idx, vectors, shares, out, BH, BW, H, W, K: tl.constexpr):
    """A block of K x K samples a program: its gradient, spread over the samples that its phase is made of."""
    b = tl.program_id(0).to(tl.int64)
    by, bx = (b // BW % BH).to(tl.int32), (b % BW).to(tl.int32)
    vy, vx = tl.load(vectors + 2 * b).to(tl.int32), tl.load(vectors + 2 * b + 1).to(tl.int32)
    phase = 4 * (vy & 3) + (vx & 3)
    s = tl.arange(0, K * K)
    y = tl.minimum(tl.maximum(by * K + (vy >> 2), -_MARGIN), H + _MARGIN - K) + s // K
    x = tl.minimum(tl.maximum(bx * K + (vx >> 2), -_MARGIN), W + _MARGIN - K) + s % K
    offset = tl.load(ref_idx + b).to(tl.int64) * H * W
    plane, target = planes + offset, out + offset
    g = tl.load(grad + b * (K * K) + s)
    for kind in tl.static_range(8):  # G b h j, right, below, s m
        share = tl.load(shares + kind * 16 + phase)
        if share > 0:
            mine = g * (0.5 * share)  # shares are in halves
            if kind == 0:
                _add_at(target, y, x, mine, H, W)
            elif kind == 4:
                _add_at(target, y, x + 1, mine, H, W)
            elif kind == 5:
                _add_at(target, y + 1, x, mine, H, W)
            elif kind == 3:
                raw = tl.zeros([K * K], tl.float32)
                for i in range(36):
                    raw += _tap_at(i // 6) * _tap_at(i % 6) * sample_at(plane, y + i // 6 - 2, x + i % 6 - 2, H, W)
                mine *= _in_range(raw, 0.0009765625)
                for i in range(36):
                    _add_at(target, y + i // 6 - 2, x + i % 6 - 2, mine * (_tap_at(i // 6) * _tap_at(i % 6)), H, W)
            elif kind == 1:
                _half_sample_backward(plane, target, mine, y, x, H, W, False)
            elif kind == 2:
                _half_sample_backward(plane, target, mine, y, x, H, W, True)
            elif kind == 6:  # b one row below
                _half_sample_backward(plane, target, mine, y + 1, x, H, W, False)
            else:  # h one column to the right
                _half_sample_backward(plane, target, mine, y, x + 1, H, W, True)


@triton.jit
def _half_sample_backward(plane, target, g, y, x, H, W, UPRIGHT: tl.constexpr):
    """Gradient of the half samples to the right of samples or below them."""
    raw = tl.zeros(g.shape, tl.float32)
    for i in tl.static_range(6):
        if UPRIGHT:
            raw += _tap(i) * sample_at(plane, y + (i - 2), x, H, W)
        else:
            raw += _tap(i) * sample_at(plane, y, x + (i - 2), H, W)
    g *= _in_range(raw, 0.03125)
    for i in tl.static_range(6):
        if UPRIGHT:
            _add_at(target, y + (i - 2), x, g * _tap(i), H, W)
        else:
            _add_at(target, y, x + (i - 2), g * _tap(i), H, W)


@triton.jit
def _tap_at(i):
    """:func:`_tap` of a number known at run time."""
    return tl.where((i == 0) | (i == 5), 1.0, tl.where((i == 1) | (i == 4), -5.0, 20.0))


@triton.jit
def _chroma_position(ref_idx, vectors, b, mask, BH, BW, H, W, K: tl.constexpr):
    """Where the samples of chroma blocks lie, and their fractions. Shape: blocks ``[R] -> [R, 2 K K]``: plane, y, x; ``[R, 1]``."""
    by, bx = b // BW % BH, b % BW
    vy, vx = tl.load(vectors + 2 * b, mask, 0).to(tl.int32), tl.load(vectors + 2 * b + 1, mask, 0).to(tl.int32)
    s = tl.arange(0, 2 * K * K)[None, :]
    plane = tl.load(ref_idx + b, mask, 0).to(tl.int64)[:, None] * 2 + s // (K * K)
    top = tl.minimum(tl.maximum(by * K + (vy >> 3), -_MARGIN), H + _MARGIN - K - 1)
    left = tl.minimum(tl.maximum(bx * K + (vx >> 3), -_MARGIN), W + _MARGIN - K - 1)
    fy, fx = (vy & 7).to(tl.float32) * 0.125, (vx & 7).to(tl.float32) * 0.125
    return plane * H * W, top[:, None] + s // K % K, left[:, None] + s % K, fy[:, None], fx[:, None], s


@triton.jit
def _predict_chroma(planes, ref_idx, vectors, out, BLOCKS, BH, BW, H, W, K: tl.constexpr, R: tl.constexpr):
    """``[M, bh, bw, 2] -> [M, bh, bw, 2, K*K]`` (8.4.2.2.2)."""
    b = tl.program_id(0) * R + tl.arange(0, R)
    mask = b < BLOCKS
    plane, y, x, fy, fx, s = _chroma_position(ref_idx, vectors, b, mask, BH, BW, H, W, K)
    left = sample_at(planes + plane, y, x, H, W) * (1 - fy) + sample_at(planes + plane, y + 1, x, H, W) * fy
    right = sample_at(planes + plane, y, x + 1, H, W) * (1 - fy) + sample_at(planes + plane, y + 1, x + 1, H, W) * fy
    tl.store(out + b.to(tl.int64)[:, None] * (2 * K * K) + s, half_up(left * (1 - fx) + right * fx), mask[:, None])


@triton.jit
def _predict_chroma_backward(grad, ref_idx, vectors, out, BLOCKS, BH, BW, H, W, K: tl.constexpr, R: tl.constexpr):
    b = tl.program_id(0) * R + tl.arange(0, R)
    mask = b < BLOCKS
    plane, y, x, fy, fx, s = _chroma_position(ref_idx, vectors, b, mask, BH, BW, H, W, K)
    g = tl.load(grad + b.to(tl.int64)[:, None] * (2 * K * K) + s, mask[:, None], 0.0)
    _add_at(out + plane, y, x, g * (1 - fy) * (1 - fx), H, W)
    _add_at(out + plane, y, x + 1, g * (1 - fy) * fx, H, W)
    _add_at(out + plane, y + 1, x, g * fy * (1 - fx), H, W)
    _add_at(out + plane, y + 1, x + 1, g * fy * fx, H, W)


# B frames


@triton.jit
def _bipred(past, future, direction, out, TOTAL, S, SIZE: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = offset < TOTAL
    w = tl.load(direction + offset // S, mask, 0)
    a, b = tl.load(past + offset, mask & (w != 1), 0.0), tl.load(future + offset, mask & (w != 0), 0.0)
    tl.store(out + offset, tl.where(w == 2, average(a, b), a + b), mask)


@triton.jit
def _bipred_backward(grad, direction, past, future, TOTAL, S, SIZE: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = offset < TOTAL
    w, g = tl.load(direction + offset // S, mask, 0), tl.load(grad + offset, mask, 0.0)
    g = tl.where(w == 2, 0.5 * g, g)
    tl.store(past + offset, tl.where(w == 1, 0.0, g), mask)
    tl.store(future + offset, tl.where(w == 0, 0.0, g), mask)


def _contiguous(index: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the shape of the blocks, and vectors, one after the other in memory."""
    return index.expand(vectors.shape[:-1]).contiguous(), vectors.contiguous()


SIXTEEN = "kernels read sixteen phases of a reference"


@implements(reference.interpolate_planes, lacks=lambda phases, *_: None if phases.shape[1] == 16 else SIXTEEN)
def interpolate_planes(phases: Tensor, slots: Tensor, luma: Tensor) -> None:
    n, h, w = luma.shape
    out = reference.allocate_phases(luma)
    spans = -(-out[0, 0].numel() // _SIZE)
    _quarter_pel[(n * spans,)](luma.contiguous(), out, h, w, spans, _SIZE)
    phases.index_copy_(0, slots, out)


@implements(reference.half_resolution, lacks=lambda luma, phases: None if phases == 16 else SIXTEEN)
def half_resolution(luma: Tensor, phases: int) -> tuple[Tensor, Tensor]:
    n, h, w = luma.shape
    half, planes = reference.half_resolution.allocate(luma, phases)
    spans = -(-planes[0, 0].numel() // _SIZE)
    _half_resolution[(n * spans,)](luma.contiguous(), half, planes, h, w, spans, _SIZE)
    return half, planes


@implements(reference.fetch_luma, lacks=lambda phases, *_: None if phases.shape[1] == 16 else SIXTEEN)
def fetch_luma(phases: Tensor, slot: Tensor, vectors: Tensor, k: int) -> Tensor:
    slot, vectors = _contiguous(slot, vectors)
    bh, bw = vectors.shape[-3:-1]
    out = reference.fetch_luma.allocate(phases, slot, vectors, k)
    n, r = slot.numel(), _ROWS * 64 // (k * k)
    _fetch[(-(-n // r),)](phases, slot, vectors, out, n, bh, bw, phases.shape[-2], phases.shape[-1], k, r)
    return out


def predict_luma_backward(grad: Tensor, planes: Tensor, ref_idx: Tensor, vectors: Tensor, k: int) -> Tensor:
    ref_idx, vectors = _contiguous(ref_idx, vectors)
    planes = planes.contiguous()
    out = torch.zeros_like(planes)
    bh, bw = vectors.shape[-3:-1]
    _predict_backward[(ref_idx.numel(),)](
        grad.contiguous(), planes, ref_idx, vectors, SHARES.like(planes), out, bh, bw, *planes.shape[1:], k, num_warps=2
    )
    return out


def predict_chroma(planes: Tensor, ref_idx: Tensor, vectors: Tensor, k: int) -> Tensor:
    ref_idx, vectors = _contiguous(ref_idx, vectors)
    bh, bw = vectors.shape[-3:-1]
    out = planes.new_empty(*vectors.shape[:-1], 2, k * k)
    n, r = ref_idx.numel(), _ROWS * 32 // (k * k)
    _predict_chroma[(-(-n // r),)](planes.contiguous(), ref_idx, vectors, out, n, bh, bw, *planes.shape[-2:], k, r)
    return out


def predict_chroma_backward(grad: Tensor, ref_idx: Tensor, vectors: Tensor, k: int, planes_shape: list[int]) -> Tensor:
    ref_idx, vectors = _contiguous(ref_idx, vectors)
    out = grad.new_zeros(planes_shape)
    n, r = ref_idx.numel(), _ROWS * 32 // (k * k)
    bh, bw = vectors.shape[-3:-1]
    _predict_chroma_backward[(-(-n // r),)](grad.contiguous(), ref_idx, vectors, out, n, bh, bw, *out.shape[-2:], k, r)
    return out


def bipred(past: Tensor, future: Tensor, direction: Tensor) -> Tensor:
    past, future, out = past.contiguous(), future.contiguous(), past.new_empty(past.shape)
    n = out.numel()
    _bipred[(-(-n // (4 * _SIZE)),)](past, future, direction.contiguous(), out, n, n // direction.numel(), 4 * _SIZE)
    return out


def bipred_backward(grad: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    grad = grad.contiguous()
    past, future = grad.new_empty(grad.shape), grad.new_empty(grad.shape)
    n = grad.numel()
    _bipred_backward[(-(-n // (4 * _SIZE)),)](grad, direction.contiguous(), past, future, n, n // direction.numel(), 4 * _SIZE)
    return past, future


@implements(reference.compensate_motion, lacks=lambda luma, chroma, phases, *_: None if phases.shape[1] == 16 else SIXTEEN)
def compensate_motion(
    luma: Tensor,
    chroma: Tensor,
    phases: Tensor,
    slots: list[Tensor],
    ref_idx: list[Tensor],
    vectors: list[Tensor],
    direction: Tensor | None,
) -> tuple[Tensor, Tensor]:
    y = [fetch_luma(phases, slot, v, 8) for slot, v in zip(slots, vectors)]
    c = [predict_chroma(chroma, r, v, 4) for r, v in zip(ref_idx, vectors)]
    if direction is None:
        return reference.planes_of(y[0], c[0])
    return reference.planes_of(bipred(*y, direction), bipred(*c, direction))


@backward_of(reference.compensate_motion, of=["luma", "chroma"])
def compensate_motion_backward(
    grad: Tensor,
    grad_chroma: Tensor,
    luma: Tensor,
    ref_idx: list[Tensor],
    vectors: list[Tensor],
    direction: Tensor | None,
    chroma_shape: list[int],
) -> tuple[Tensor, Tensor]:
    y = flat_blocks(grad, 8)
    c = flat_blocks(grad_chroma.flatten(0, 1), 4).unflatten(0, (-1, 2)).movedim(1, 3).contiguous()
    of_y, of_c = ([y], [c]) if direction is None else (bipred_backward(y, direction), bipred_backward(c, direction))
    out = [predict_luma_backward(g, luma, r, v, 8) for g, r, v in zip(of_y, ref_idx, vectors)]
    out_chroma = [predict_chroma_backward(g, r, v, 4, chroma_shape) for g, r, v in zip(of_c, ref_idx, vectors)]
    return (out[0], out_chroma[0]) if direction is None else (out[0] + out[1], out_chroma[0] + out_chroma[1])
