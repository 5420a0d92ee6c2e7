"""Motion compensation by bilinear interpolation in Triton; the twin is :func:`diffcodec.motion.warp`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import differentiates, implements, ops

_SIZE = 512


@triton.jit
def _places(flow, at, there, H, W):
    """Offsets of the four neighbours of where samples come from, their fractions, and where the position is free to move."""
    x = tl.load(flow + at, there, 0.0) + (at % W).to(tl.float32)
    y = tl.load(flow + H * W + at, there, 0.0) + (at // W).to(tl.float32)
    free_x, free_y = (x >= 0) & (x <= W - 1), (y >= 0) & (y <= H - 1)
    x = tl.minimum(tl.maximum(x, 0.0), (W - 1).to(tl.float32))
    y = tl.minimum(tl.maximum(y, 0.0), (H - 1).to(tl.float32))
    left, top = tl.floor(x).to(tl.int32), tl.floor(y).to(tl.int32)
    right, bottom = tl.minimum(left + 1, W - 1), tl.minimum(top + 1, H - 1)
    fx, fy = x - left.to(tl.float32), y - top.to(tl.float32)
    return top * W + left, top * W + right, bottom * W + left, bottom * W + right, fx, fy, free_x, free_y


@triton.jit
def _warp(reference, flow, out, C, H, W, SPANS, SIZE: tl.constexpr):
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    at = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    there = at < H * W
    a, b, d, e, fx, fy, _free_x, _free_y = _places(flow + n * 2 * H * W, at, there, H, W)
    for c in range(C):
        plane = reference + (n * C + c) * H * W
        va, vb = tl.load(plane + a, there, 0).to(tl.float32), tl.load(plane + b, there, 0).to(tl.float32)
        vd, ve = tl.load(plane + d, there, 0).to(tl.float32), tl.load(plane + e, there, 0).to(tl.float32)
        upper, lower = va + fx * (vb - va), vd + fx * (ve - vd)
        tl.store(out + (n * C + c) * H * W + at, (upper + fy * (lower - upper)).to(out.dtype.element_ty), there)


@triton.jit
def _warp_backward(
    grad, reference, flow, of_reference, of_flow, C, H, W, SPANS, WRT_REFERENCE: tl.constexpr, WRT_FLOW: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """Gradients of both; that of the reference is added up by atomics, so its last bits depend on the order."""
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    at = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    there = at < H * W
    a, b, d, e, fx, fy, free_x, free_y = _places(flow + n * 2 * H * W, at, there, H, W)
    by_x = tl.zeros([SIZE], tl.float32)
    by_y = tl.zeros([SIZE], tl.float32)
    for c in range(C):
        plane = (n * C + c) * H * W
        g = tl.load(grad + plane + at, there, 0).to(tl.float32)
        if WRT_REFERENCE:
            tl.atomic_add(of_reference + plane + a, g * (1 - fx) * (1 - fy), there)
            tl.atomic_add(of_reference + plane + b, g * fx * (1 - fy), there)
            tl.atomic_add(of_reference + plane + d, g * (1 - fx) * fy, there)
            tl.atomic_add(of_reference + plane + e, g * fx * fy, there)
        if WRT_FLOW:
            p = reference + plane
            va, vb = tl.load(p + a, there, 0).to(tl.float32), tl.load(p + b, there, 0).to(tl.float32)
            vd, ve = tl.load(p + d, there, 0).to(tl.float32), tl.load(p + e, there, 0).to(tl.float32)
            by_x += g * ((vb - va) * (1 - fy) + (ve - vd) * fy)
            by_y += g * ((vd - va) * (1 - fx) + (ve - vb) * fx)
    if WRT_FLOW:
        tl.store(of_flow + n * 2 * H * W + at, tl.where(free_x, by_x, 0.0), there)
        tl.store(of_flow + (n * 2 + 1) * H * W + at, tl.where(free_y, by_y, 0.0), there)


_LIBRARY = torch.library.Library("diffcodec", "FRAGMENT")
_LIBRARY.define("warp(Tensor reference, Tensor flow) -> Tensor")
_LIBRARY.define("warp_backward(Tensor grad, Tensor reference, Tensor flow, bool wrt_reference, bool wrt_flow) -> (Tensor, Tensor)")


@implements(_LIBRARY, "warp")
def _warped(reference: Tensor, flow: Tensor) -> Tensor:
    reference, flow = reference.contiguous(), flow.float().contiguous()
    n, c, h, w = reference.shape
    out = torch.empty_like(reference)
    spans = -(-h * w // _SIZE)
    _warp[(n * spans,)](reference, flow, out, c, h, w, spans, _SIZE)
    return out


@implements(_LIBRARY, "warp_backward")
def _warped_backward(grad: Tensor, reference: Tensor, flow: Tensor, wrt_reference: bool, wrt_flow: bool) -> tuple[Tensor, Tensor]:
    grad, reference, motion = grad.contiguous(), reference.contiguous(), flow.float().contiguous()
    n, c, h, w = reference.shape
    of_reference = reference.new_zeros(reference.shape if wrt_reference else (0,), dtype=torch.float32)
    of_flow = motion.new_empty(flow.shape if wrt_flow else (0,))
    spans = -(-h * w // _SIZE)
    _warp_backward[(n * spans,)](grad, reference, motion, of_reference, of_flow, c, h, w, spans, wrt_reference, wrt_flow, _SIZE)
    return of_reference.to(reference.dtype), of_flow.to(flow.dtype)


@torch.library.register_fake("diffcodec::warp", lib=_LIBRARY)
def _warp_shape(reference: Tensor, flow: Tensor) -> Tensor:
    return reference.new_empty(reference.shape)


@torch.library.register_fake("diffcodec::warp_backward", lib=_LIBRARY)
def _warp_backward_shape(grad: Tensor, reference: Tensor, flow: Tensor, wrt_reference: bool, wrt_flow: bool) -> tuple[Tensor, Tensor]:
    return reference.new_empty(reference.shape if wrt_reference else (0,)), flow.new_empty(flow.shape if wrt_flow else (0,))


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad):  # type: ignore[no-untyped-def]
    need = ctx.needs_input_grad
    found = ops.warp_backward(grad, *ctx.saved_tensors, need[0], need[1])
    return tuple(g if wanted else None for g, wanted in zip(found, need))


differentiates(_LIBRARY, "warp", _keep, _gradients)


def warp(reference: Tensor, flow: Tensor) -> Tensor:
    """``[N, C, H, W], [N, 2, H, W] -> [N, C, H, W]``."""
    return ops.warp(reference, flow)  # type: ignore[no-any-return]
