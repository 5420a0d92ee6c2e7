"""Motion compensation by bilinear interpolation in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...implement import backward_of, implements
from . import reference

_SIZE = 512


@triton.jit
def _places(flow, at, mask, H, W):
    """Offsets of the four neighbours of where samples come from, their fractions, and where the position is free to move."""
    x = tl.load(flow + at, mask, 0.0) + (at % W).to(tl.float32)
    y = tl.load(flow + H * W + at, mask, 0.0) + (at // W).to(tl.float32)
    free_x, free_y = (x >= 0) & (x <= W - 1), (y >= 0) & (y <= H - 1)
    x = tl.minimum(tl.maximum(x, 0.0), W - 1.0)
    y = tl.minimum(tl.maximum(y, 0.0), H - 1.0)
    left, top = tl.floor(x).to(tl.int32), tl.floor(y).to(tl.int32)
    right, bottom = tl.minimum(left + 1, W - 1), tl.minimum(top + 1, H - 1)
    fx, fy = x - left.to(tl.float32), y - top.to(tl.float32)
    return top * W + left, top * W + right, bottom * W + left, bottom * W + right, fx, fy, free_x, free_y


@triton.jit
def _warp(image, flow, out, C, H, W, SPANS, SIZE: tl.constexpr):
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    at = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    mask = at < H * W
    a, b, d, e, fx, fy, _free_x, _free_y = _places(flow + n * 2 * H * W, at, mask, H, W)
    for c in range(C):
        plane = image + (n * C + c) * H * W
        va, vb = tl.load(plane + a, mask, 0).to(tl.float32), tl.load(plane + b, mask, 0).to(tl.float32)
        vd, ve = tl.load(plane + d, mask, 0).to(tl.float32), tl.load(plane + e, mask, 0).to(tl.float32)
        upper, lower = va + fx * (vb - va), vd + fx * (ve - vd)
        tl.store(out + (n * C + c) * H * W + at, (upper + fy * (lower - upper)).to(out.dtype.element_ty), mask)


@triton.jit
def _warp_backward(
    grad, image, flow, of_image, of_flow, C, H, W, SPANS, WRT_IMAGE: tl.constexpr, WRT_FLOW: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """Gradients of both; that of the image is added up by atomics, so its last bits depend on the order."""
    n = (tl.program_id(0) // SPANS).to(tl.int64)
    at = tl.program_id(0) % SPANS * SIZE + tl.arange(0, SIZE)
    mask = at < H * W
    a, b, d, e, fx, fy, free_x, free_y = _places(flow + n * 2 * H * W, at, mask, H, W)
    by_x = tl.zeros([SIZE], tl.float32)
    by_y = tl.zeros([SIZE], tl.float32)
    for c in range(C):
        plane = (n * C + c) * H * W
        g = tl.load(grad + plane + at, mask, 0).to(tl.float32)
        if WRT_IMAGE:
            tl.atomic_add(of_image + plane + a, g * (1 - fx) * (1 - fy), mask)
            tl.atomic_add(of_image + plane + b, g * fx * (1 - fy), mask)
            tl.atomic_add(of_image + plane + d, g * (1 - fx) * fy, mask)
            tl.atomic_add(of_image + plane + e, g * fx * fy, mask)
        if WRT_FLOW:
            p = image + plane
            va, vb = tl.load(p + a, mask, 0).to(tl.float32), tl.load(p + b, mask, 0).to(tl.float32)
            vd, ve = tl.load(p + d, mask, 0).to(tl.float32), tl.load(p + e, mask, 0).to(tl.float32)
            by_x += g * ((vb - va) * (1 - fy) + (ve - vd) * fy)
            by_y += g * ((vd - va) * (1 - fx) + (ve - vb) * fx)
    if WRT_FLOW:
        tl.store(of_flow + n * 2 * H * W + at, tl.where(free_x, by_x, 0.0), mask)
        tl.store(of_flow + (n * 2 + 1) * H * W + at, tl.where(free_y, by_y, 0.0), mask)


@implements(reference.warp)
def warp(image: Tensor, flow: Tensor) -> Tensor:
    image, flow = image.contiguous(), flow.float().contiguous()
    n, c, h, w = image.shape
    out = torch.empty_like(image)
    spans = -(-h * w // _SIZE)
    _warp[(n * spans,)](image, flow, out, c, h, w, spans, _SIZE)
    return out


@backward_of(reference.warp, of=["image", "flow"])
def warp_backward(grad: Tensor, image: Tensor, flow: Tensor, needs_image: bool, needs_flow: bool) -> tuple[Tensor, Tensor]:
    grad, image, motion = grad.contiguous(), image.contiguous(), flow.float().contiguous()
    n, c, h, w = image.shape
    of_image = image.new_zeros(image.shape if needs_image else (0,), dtype=torch.float32)
    of_flow = motion.new_empty(flow.shape if needs_flow else (0,))
    spans = -(-h * w // _SIZE)
    _warp_backward[(n * spans,)](grad, image, motion, of_image, of_flow, c, h, w, spans, needs_image, needs_flow, _SIZE)
    return of_image.to(image.dtype), of_flow.to(flow.dtype)
