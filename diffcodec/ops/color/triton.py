"""RGB to the planes of video codecs and back, in Triton.

Whole numbers throughout, exact in float32; the gradient is that of the real-valued filters.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...implement import backward_of, implements
from . import reference

_SIZE = 256  # samples in a program
_NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and taking it away rounds to the nearest whole number, ties to even
_GAIN = tl.constexpr(8 / 65536)


@triton.jit
def _whole(x):
    return (x + _NEAREST) - _NEAREST


@triton.jit
def _code(rgb, offset):
    """A sample of RGB as eight bits."""
    return tl.minimum(tl.maximum(_whole(tl.load(rgb + offset) * 255), 0.0), 255.0)


@triton.jit
def _place(W, PLANE, SIZE: tl.constexpr):
    """Frame; row, column and number of this program's samples of a plane, and which there are."""
    spans = tl.cdiv(PLANE, SIZE)
    i = tl.program_id(0) % spans * SIZE + tl.arange(0, SIZE)
    mask = i < PLANE
    i = tl.minimum(i, PLANE - 1)
    return (tl.program_id(0) // spans).to(tl.int64), i // W, i % W, i, mask


@triton.jit
def _luma(rgb, out, H, W, SIZE: tl.constexpr):
    n, _y, _x, i, mask = _place(W, H * W, SIZE)
    offset = n * 3 * H * W + i
    total = 8414 * _code(rgb, offset) + 16519 * _code(rgb, offset + H * W) + 3208 * _code(rgb, offset + 2 * H * W)
    tl.store(out + n * H * W + i, tl.floor((2 * tl.floor((total + 524544.0) * 0.001953125) + 64) * 0.0078125), mask)


@triton.jit
def _tap(i: tl.constexpr):
    """Of the vertical filter of chroma."""
    return 3.0 if i == 1 or i == 2 else 1.0


@triton.jit
def _chroma(rgb, out, H, W, SIZE: tl.constexpr):
    """Cb and Cr, ``[N, 2, H/2, W/2]``."""
    n, y, x, i, mask = _place(W // 2, (H // 2) * (W // 2), SIZE)
    cb, cr = tl.full([SIZE], 5.0, tl.float32), tl.full([SIZE], 5.0, tl.float32)
    for t in tl.static_range(4):
        offset = n * 3 * H * W + tl.minimum(tl.maximum(2 * y + t - 1, 0), H - 1) * W + 2 * x
        r = _code(rgb, offset) + _code(rgb, offset + 1)
        g = _code(rgb, offset + H * W) + _code(rgb, offset + H * W + 1)
        b = _code(rgb, offset + 2 * H * W) + _code(rgb, offset + 2 * H * W + 1)
        of_cb = 2 * tl.floor((-4865 * r - 9528 * g + 14392 * b + 8389120.0) * 0.0009765625)
        of_cr = 2 * tl.floor((14392 * r - 12061 * g - 2332 * b + 8389120.0) * 0.0009765625)
        cb += tl.floor(of_cb * (_tap(t) * 0.0078125))
        cr += tl.floor(of_cr * (_tap(t) * 0.0078125))
    target = out + n * 2 * (H // 2) * (W // 2) + i
    tl.store(target, tl.floor(cb * 0.125), mask)
    tl.store(target + (H // 2) * (W // 2), tl.floor(cr * 0.125), mask)


@triton.jit
def _to_yuv_backward(of_luma, of_chroma, out, H, W, SIZE: tl.constexpr):
    n, y, x, i, mask = _place(W, H * W, SIZE)
    high, wide = H // 2, W // 2
    colour = of_chroma + n * 2 * high * wide + x // 2
    cb, cr = tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32)
    for side in tl.static_range(3):  # rows at the edges stand for those beyond them
        row = (y + 1) if side == 0 else (tl.zeros_like(y) if side == 1 else tl.zeros_like(y) + H + 1)
        counts = (y >= 0) if side == 0 else ((y == 0) if side == 1 else (y == H - 1))
        for t in tl.static_range(4):
            of = (row - t) // 2
            inside = counts & (row >= t) & ((row - t) % 2 == 0) & (of < high)
            of = tl.minimum(tl.maximum(of, 0), high - 1)
            cb += _tap(t) * tl.load(colour + of * wide, inside, 0.0)
            cr += _tap(t) * tl.load(colour + (high + of) * wide, inside, 0.0)
    cb, cr = cb * (255 / 524288), cr * (255 / 524288)
    luma = tl.load(of_luma + n * H * W + i) * (255 / 32768)
    target = out + n * 3 * H * W + i
    tl.store(target, 8414 * luma - 4865 * cb + 14392 * cr, mask)
    tl.store(target + H * W, 16519 * luma - 9528 * cb - 12061 * cr, mask)
    tl.store(target + 2 * H * W, 3208 * luma + 14392 * cb - 2332 * cr, mask)


@triton.jit
def _product(x, k: tl.constexpr):
    return tl.floor(_whole(x) * (k * _GAIN))


@triton.jit
def _sample(x):
    return tl.div_rn(tl.minimum(tl.maximum(x, 0.0), 255.0), tl.full(x.shape, 255.0, tl.float32))


@triton.jit
def _to_rgb(luma, chroma, out, H, W, SIZE: tl.constexpr):
    n, y, x, i, mask = _place(W, H * W, SIZE)
    high, wide = H // 2, W // 2
    offset = chroma + n * 2 * high * wide + y // 2 * wide + x // 2
    base = _product(tl.load(luma + n * H * W + i) - 16, 9539)
    u, v = tl.load(offset) - 128, tl.load(offset + high * wide) - 128
    target = out + n * 3 * H * W + i
    tl.store(target, _sample(base + _product(v, 13075)), mask)
    tl.store(target + H * W, _sample(base + _product(u, -3209) + _product(v, -6660)), mask)
    tl.store(target + 2 * H * W, _sample(base + _product(u, 16525)), mask)


@triton.jit
def _to_rgb_backward(grad, of_luma, of_chroma, H, W, SIZE: tl.constexpr):
    """A sample of chroma and its four of luma."""
    n, y, x, i, mask = _place(W // 2, (H // 2) * (W // 2), SIZE)
    red, green, blue = tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32)
    for q in tl.static_range(4):
        p = (2 * y + q // 2) * W + 2 * x + q % 2
        offset = grad + n * 3 * H * W + p
        r, g, b = tl.load(offset) / 255, tl.load(offset + H * W) / 255, tl.load(offset + 2 * H * W) / 255
        tl.store(of_luma + n * H * W + p, (r + g + b) * (9539 * _GAIN), mask)
        red += r
        green += g
        blue += b
    target = of_chroma + n * 2 * (H // 2) * (W // 2) + i
    tl.store(target, green * (-3209 * _GAIN) + blue * (16525 * _GAIN), mask)
    tl.store(target + (H // 2) * (W // 2), red * (13075 * _GAIN) + green * (-6660 * _GAIN), mask)


def _launch(kernel, tensors: list[Tensor], x: Tensor, halved: bool) -> None:  # type: ignore[no-untyped-def]
    """For all samples of a plane of frames ``[N, ..., H, W]``, or one for every 2 x 2 of them."""
    h, w = x.shape[-2:]
    samples = h * w // 4 if halved else h * w
    kernel[(len(x) * -(-samples // _SIZE),)](*tensors, h, w, _SIZE)


@implements(reference.rgb_to_yuv420)
def rgb_to_yuv420(rgb: Tensor) -> tuple[Tensor, Tensor]:
    rgb = rgb.contiguous()
    luma, chroma = reference.rgb_to_yuv420.allocate(rgb)
    _launch(_luma, [rgb, luma], rgb, False)
    _launch(_chroma, [rgb, chroma], rgb, True)
    return luma, chroma


@backward_of(reference.rgb_to_yuv420, of=["rgb"])
def rgb_to_yuv420_backward(grad_luma: Tensor, grad_chroma: Tensor, rgb_shape: list[int]) -> Tensor:
    out = grad_luma.new_empty(rgb_shape)
    _launch(_to_yuv_backward, [grad_luma.contiguous(), grad_chroma.contiguous(), out], out, False)
    return out


@implements(reference.yuv420_to_rgb)
def yuv420_to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    out = reference.yuv420_to_rgb.allocate(luma, chroma)
    _launch(_to_rgb, [luma.contiguous(), chroma.contiguous(), out], out, False)
    return out


@backward_of(reference.yuv420_to_rgb, of=["luma", "chroma"])
def yuv420_to_rgb_backward(grad: Tensor, luma_shape: list[int], chroma_shape: list[int]) -> tuple[Tensor, Tensor]:
    luma, chroma = grad.new_empty(luma_shape), grad.new_empty(chroma_shape)
    _launch(_to_rgb_backward, [grad.contiguous(), luma, chroma], grad, True)
    return luma, chroma
