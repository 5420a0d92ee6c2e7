"""Attacks that are one pass over the video: a choice of frames, the mean of neighbouring frames, 3-D blur, noise.

Videos ``[B, T, ...]`` of any floating type are read once, clamped to [0, 1] with the gradient passed through, and written once; sums are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...implement import backward_of, implements, passes_gradient
from . import reference

_SIZE = 1024


@triton.jit
def _unit(x):
    return tl.minimum(tl.maximum(x.to(tl.float32), 0.0), 1.0)


@triton.jit
def _take(x, index, out, T, U, S, SPANS, SIZE: tl.constexpr):
    """``out[b, u] = x[b, index[b, u]]``: [B, T, S] -> [B, U, S]."""
    bu = (tl.program_id(0) // SPANS).to(tl.int64)
    i = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    frame = bu // U * T + tl.load(index + bu)
    tl.store(out + bu * S + i, _unit(tl.load(x + frame * S + i, i < S, 0)).to(out.dtype.element_ty), i < S)


@triton.jit
def _take_backward(grad, index, out, T, U, S, SPANS, SIZE: tl.constexpr):
    """A frame's gradient is the sum of those of its copies."""
    bt = (tl.program_id(0) // SPANS).to(tl.int64)
    i = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    first = bt // T * U
    total = tl.zeros([SIZE], tl.float32)
    for u in range(U):
        if tl.load(index + first + u) == bt % T:
            total += tl.load(grad + (first + u) * S + i, i < S, 0).to(tl.float32)
    tl.store(out + bt * S + i, total.to(out.dtype.element_ty), i < S)


@triton.jit
def _average(x, window, out, T, S, BACKWARD: tl.constexpr, SIZE: tl.constexpr):
    """Mean over a window of frames that is cut off at the ends, or its adjoint. Neighbouring programs work on one place of neighbouring frames."""
    t = tl.program_id(0) % T
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) // T * SIZE + tl.arange(0, SIZE)
    n = tl.load(window + b)
    before, after = n // 2, (n - 1) // 2
    if BACKWARD:
        before, after = after, before
    total = tl.zeros([SIZE], tl.float32)
    for s in range(tl.maximum(t - before, 0), tl.minimum(t + after, T - 1) + 1):
        v = tl.load(x + (b * T + s) * S + i, i < S, 0).to(tl.float32)
        if BACKWARD:  # divided by what that frame's window held
            total += v / (tl.minimum(s + before, T - 1) - tl.maximum(s - after, 0) + 1)
        else:
            total += _unit(v)
    if not BACKWARD:
        total = total / (tl.minimum(t + after, T - 1) - tl.maximum(t - before, 0) + 1)
    tl.store(out + (b * T + t) * S + i, total.to(out.dtype.element_ty), i < S)


@triton.jit
def _tap(j, i, n, weights, RADIUS: tl.constexpr):
    """Adjoint of a filter with repeated edges: weight of output i's gradient in sample j; the end samples collect the taps beyond the edge."""
    w = tl.load(weights + tl.minimum(tl.maximum(j - i, -RADIUS), RADIUS) + RADIUS)
    for k in tl.static_range(1, RADIUS + 1):
        tail = tl.load(weights + RADIUS + k)
        w += tl.where((j == 0) & (k > i), tail, 0.0) + tl.where((j == n - 1) & (k > n - 1 - i), tail, 0.0)
    return w


@triton.jit
def _blur(x, weights, out, T, PLANES, H, W, SPANS, RT: tl.constexpr, R: tl.constexpr, BACKWARD: tl.constexpr, SIZE: tl.constexpr):
    """Separable filter over frames (radius RT), rows and columns (R), edges repeated, in one go; or its adjoint.

    Shape: ``[B, T, PLANES, H, W]``; weights ``[B, 2 R + 1]``.
    """
    plane = tl.program_id(0) // SPANS  # one of B T PLANES
    at = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    mask = at < H * W
    row, column = at // W, at % W
    t = plane // PLANES % T
    weights += plane // (PLANES * T) * (2 * R + 1)
    plane = plane.to(tl.int64)
    total = tl.zeros([SIZE], tl.float32)
    for dt in range(2 * RT + 1):
        s = t + dt - RT
        frame = tl.minimum(tl.maximum(s, 0), T - 1)
        weight_t = 1.0
        if RT > 0:
            if BACKWARD:
                weight_t = tl.where((s >= 0) & (s < T), _tap(t, s, T, weights, R), 0.0)
            else:
                weight_t = tl.load(weights + dt)
        source = x + (plane + (frame - t).to(tl.int64) * PLANES) * H * W
        for dy in range(2 * R + 1):
            y = row + dy - R
            y_in = tl.minimum(tl.maximum(y, 0), H - 1)
            if BACKWARD:
                weight_y = tl.where((y >= 0) & (y < H), _tap(row, y, H, weights, R), 0.0)
            else:
                weight_y = tl.load(weights + dy)
            line = tl.zeros([SIZE], tl.float32)
            for dx in tl.static_range(2 * R + 1):
                c = column + dx - R
                c_in = tl.minimum(tl.maximum(c, 0), W - 1)
                v = tl.load(source + y_in * W + c_in, mask, 0).to(tl.float32)
                if BACKWARD:
                    line += tl.where((c >= 0) & (c < W), _tap(column, c, W, weights, R), 0.0) * v
                else:
                    line += tl.load(weights + dx) * _unit(v)
            total += weight_t * weight_y * line
    tl.store(out + plane * H * W + at, total.to(out.dtype.element_ty), mask)


@triton.jit
def _noise(x, noise, sigma, out, S, SPANS, SIZE: tl.constexpr):
    b = (tl.program_id(0) // SPANS).to(tl.int64)
    i = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    v = _unit(tl.load(x + b * S + i, i < S, 0)) + tl.load(sigma + b) * tl.load(noise + b * S + i, i < S, 0).to(tl.float32)
    tl.store(out + b * S + i, _unit(v).to(out.dtype.element_ty), i < S)


def _spans(size: int) -> int:
    return -(-size // _SIZE)


@implements(reference.take_frames)
def take_frames(video: Tensor, index: Tensor) -> Tensor:
    video, index = video.contiguous(), index.contiguous()
    b, t = video.shape[:2]
    out = reference.take_frames.allocate(video, index)
    u, s = index.shape[1], video[0, 0].numel()
    _take[(b * u * _spans(s),)](video, index, out, t, u, s, _spans(s), _SIZE)
    return out


@backward_of(reference.take_frames, of=["video"])
def take_frames_backward(grad: Tensor, index: Tensor, video_shape: list[int]) -> Tensor:
    grad, index = grad.contiguous(), index.contiguous()
    b, u = grad.shape[:2]
    out = grad.new_empty(video_shape)
    frames, s = video_shape[1], grad[0, 0].numel()
    _take_backward[(b * frames * _spans(s),)](grad, index, out, frames, u, s, _spans(s), _SIZE)
    return out


def _averaged(x: Tensor, window: Tensor, backward: bool) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    b, t = x.shape[:2]
    s = x[0, 0].numel()
    _average[(_spans(s) * t, b)](x, window.to(torch.int32).contiguous(), out, t, s, backward, _SIZE)
    return out


@implements(reference.average_frames)
def average_frames(video: Tensor, window: Tensor) -> Tensor:
    return _averaged(video, window, False)


@backward_of(reference.average_frames, of=["video"])
def average_frames_backward(grad: Tensor, window: Tensor) -> Tensor:
    return _averaged(grad, window, True)


def _blurred(x: Tensor, weights: Tensor, backward: bool) -> Tensor:
    x, weights = x.contiguous(), weights.float().contiguous()
    out = torch.empty_like(x)
    h, w = x.shape[-2:]
    t = x.shape[1] if x.dim() == 5 else 1
    radius = weights.shape[1] // 2
    spans = _spans(h * w)
    _blur[(x.numel() // (h * w) * spans,)](
        x, weights, out, t, x.shape[-3], h, w, spans, radius if x.dim() == 5 else 0, radius, backward, _SIZE
    )
    return out


def _too_wide(video: Tensor, weights: Tensor) -> str | None:
    return None if weights.shape[1] <= 5 else f"blur has kernels for windows up to 5, not {weights.shape[1]}"


@implements(reference.blur, lacks=_too_wide)
def blur(video: Tensor, weights: Tensor) -> Tensor:
    return _blurred(video, weights, False)


@backward_of(reference.blur, of=["video"])
def blur_backward(grad: Tensor, weights: Tensor) -> Tensor:
    return _blurred(grad, weights, True)


@implements(reference.add_noise)
def add_noise(video: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    video = video.contiguous()
    out = torch.empty_like(video)
    s = video[0].numel()
    _noise[(len(video) * _spans(s),)](video, noise.contiguous(), sigma.float().contiguous(), out, s, _spans(s), _SIZE)
    return out


passes_gradient(reference.add_noise, __name__, of="video")
