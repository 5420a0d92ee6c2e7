"""RGB to the planes of video codecs and back, in Triton; the twins are :func:`diffcodec.color.rgb_to_yuv420` and
:func:`~diffcodec.color.yuv420_to_rgb`.

Whole numbers throughout, exact in float32; the gradient is that of the real-valued filters.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import differentiates, implements, ops

_SIZE = 256  # samples in a program
_NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and taking it away rounds to the nearest whole number, ties to even
_GAIN = tl.constexpr(8 / 65536)


@triton.jit
def _whole(x):
    return (x + _NEAREST) - _NEAREST


@triton.jit
def _code(rgb, at):
    """A sample of RGB as eight bits."""
    return tl.minimum(tl.maximum(_whole(tl.load(rgb + at) * 255), 0.0), 255.0)


@triton.jit
def _place(W, PLANE, SIZE: tl.constexpr):
    """Frame; row, column and number of this program's samples of a plane, and which there are."""
    spans = tl.cdiv(PLANE, SIZE)
    i = tl.program_id(0) % spans * SIZE + tl.arange(0, SIZE)
    there = i < PLANE
    i = tl.minimum(i, PLANE - 1)
    return (tl.program_id(0) // spans).to(tl.int64), i // W, i % W, i, there


@triton.jit
def _luma(rgb, out, H, W, SIZE: tl.constexpr):
    n, _y, _x, i, there = _place(W, H * W, SIZE)
    at = n * 3 * H * W + i
    total = 8414 * _code(rgb, at) + 16519 * _code(rgb, at + H * W) + 3208 * _code(rgb, at + 2 * H * W)
    tl.store(out + n * H * W + i, tl.floor((2 * tl.floor((total + 524544.0) * 0.001953125) + 64) * 0.0078125), there)


@triton.jit
def _tap(i: tl.constexpr):
    """Of the vertical filter of chroma."""
    return 3.0 if i == 1 or i == 2 else 1.0


@triton.jit
def _chroma(rgb, out, H, W, SIZE: tl.constexpr):
    """Cb and Cr, ``[N, 2, H/2, W/2]``."""
    n, y, x, i, there = _place(W // 2, (H // 2) * (W // 2), SIZE)
    cb, cr = tl.full([SIZE], 5.0, tl.float32), tl.full([SIZE], 5.0, tl.float32)
    for t in tl.static_range(4):
        at = n * 3 * H * W + tl.minimum(tl.maximum(2 * y + t - 1, 0), H - 1) * W + 2 * x
        r = _code(rgb, at) + _code(rgb, at + 1)
        g = _code(rgb, at + H * W) + _code(rgb, at + H * W + 1)
        b = _code(rgb, at + 2 * H * W) + _code(rgb, at + 2 * H * W + 1)
        of_cb = 2 * tl.floor((-4865 * r - 9528 * g + 14392 * b + 8389120.0) * 0.0009765625)
        of_cr = 2 * tl.floor((14392 * r - 12061 * g - 2332 * b + 8389120.0) * 0.0009765625)
        cb += tl.floor(of_cb * (_tap(t) * 0.0078125))
        cr += tl.floor(of_cr * (_tap(t) * 0.0078125))
    to = out + n * 2 * (H // 2) * (W // 2) + i
    tl.store(to, tl.floor(cb * 0.125), there)
    tl.store(to + (H // 2) * (W // 2), tl.floor(cr * 0.125), there)


@triton.jit
def _to_yuv_backward(of_luma, of_chroma, out, H, W, SIZE: tl.constexpr):
    n, y, x, i, there = _place(W, H * W, SIZE)
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
    to = out + n * 3 * H * W + i
    tl.store(to, 8414 * luma - 4865 * cb + 14392 * cr, there)
    tl.store(to + H * W, 16519 * luma - 9528 * cb - 12061 * cr, there)
    tl.store(to + 2 * H * W, 3208 * luma + 14392 * cb - 2332 * cr, there)


@triton.jit
def _product(x, k: tl.constexpr):
    return tl.floor(_whole(x) * (k * _GAIN))


@triton.jit
def _sample(x):
    return tl.div_rn(tl.minimum(tl.maximum(x, 0.0), 255.0), tl.full(x.shape, 255.0, tl.float32))


@triton.jit
def _to_rgb(luma, chroma, out, H, W, SIZE: tl.constexpr):
    n, y, x, i, there = _place(W, H * W, SIZE)
    high, wide = H // 2, W // 2
    at = chroma + n * 2 * high * wide + y // 2 * wide + x // 2
    base = _product(tl.load(luma + n * H * W + i) - 16, 9539)
    u, v = tl.load(at) - 128, tl.load(at + high * wide) - 128
    to = out + n * 3 * H * W + i
    tl.store(to, _sample(base + _product(v, 13075)), there)
    tl.store(to + H * W, _sample(base + _product(u, -3209) + _product(v, -6660)), there)
    tl.store(to + 2 * H * W, _sample(base + _product(u, 16525)), there)


@triton.jit
def _to_rgb_backward(grad, of_luma, of_chroma, H, W, SIZE: tl.constexpr):
    """A sample of chroma and its four of luma."""
    n, y, x, i, there = _place(W // 2, (H // 2) * (W // 2), SIZE)
    red, green, blue = tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32), tl.zeros([SIZE], tl.float32)
    for q in tl.static_range(4):
        p = (2 * y + q // 2) * W + 2 * x + q % 2
        at = grad + n * 3 * H * W + p
        r, g, b = tl.load(at) / 255, tl.load(at + H * W) / 255, tl.load(at + 2 * H * W) / 255
        tl.store(of_luma + n * H * W + p, (r + g + b) * (9539 * _GAIN), there)
        red += r
        green += g
        blue += b
    to = of_chroma + n * 2 * (H // 2) * (W // 2) + i
    tl.store(to, green * (-3209 * _GAIN) + blue * (16525 * _GAIN), there)
    tl.store(to + (H // 2) * (W // 2), red * (13075 * _GAIN) + green * (-6660 * _GAIN), there)


_LIBRARY = torch.library.Library("diffcodec", "FRAGMENT")
_LIBRARY.define("rgb_to_yuv420(Tensor rgb) -> (Tensor, Tensor)")
_LIBRARY.define("rgb_to_yuv420_backward(Tensor of_luma, Tensor of_chroma) -> Tensor")
_LIBRARY.define("yuv420_to_rgb(Tensor luma, Tensor chroma) -> Tensor")
_LIBRARY.define("yuv420_to_rgb_backward(Tensor grad) -> (Tensor, Tensor)")


def _run(kernel, tensors: list[Tensor], x: Tensor, halved: bool) -> None:  # type: ignore[no-untyped-def]
    """Launch for all samples of a plane of frames ``[N, ..., H, W]``, or one for every 2 x 2 of them."""
    h, w = x.shape[-2:]
    samples = h * w // 4 if halved else h * w
    kernel[(len(x) * -(-samples // _SIZE),)](*tensors, h, w, _SIZE)


@implements(_LIBRARY, "rgb_to_yuv420")
def _to_yuv(rgb: Tensor) -> tuple[Tensor, Tensor]:
    rgb = rgb.contiguous()
    luma, chroma = _to_yuv_shape(rgb)
    _run(_luma, [rgb, luma], rgb, False)
    _run(_chroma, [rgb, chroma], rgb, True)
    return luma, chroma


@torch.library.register_fake("diffcodec::rgb_to_yuv420", lib=_LIBRARY)
def _to_yuv_shape(rgb: Tensor) -> tuple[Tensor, Tensor]:
    n, _, h, w = rgb.shape
    return rgb.new_empty(n, h, w), rgb.new_empty(n, 2, h // 2, w // 2)


@implements(_LIBRARY, "rgb_to_yuv420_backward")
def _of_yuv(of_luma: Tensor, of_chroma: Tensor) -> Tensor:
    out = _of_yuv_shape(of_luma, of_chroma)
    _run(_to_yuv_backward, [of_luma.contiguous(), of_chroma.contiguous(), out], out, False)
    return out


@torch.library.register_fake("diffcodec::rgb_to_yuv420_backward", lib=_LIBRARY)
def _of_yuv_shape(of_luma: Tensor, of_chroma: Tensor) -> Tensor:
    n, h, w = of_luma.shape
    return of_luma.new_empty(n, 3, h, w)


@implements(_LIBRARY, "yuv420_to_rgb")
def _rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    out = _rgb_shape(luma, chroma)
    _run(_to_rgb, [luma.contiguous(), chroma.contiguous(), out], out, False)
    return out


@torch.library.register_fake("diffcodec::yuv420_to_rgb", lib=_LIBRARY)
def _rgb_shape(luma: Tensor, chroma: Tensor) -> Tensor:
    n, h, w = luma.shape
    return luma.new_empty(n, 3, h, w)


@implements(_LIBRARY, "yuv420_to_rgb_backward")
def _of_rgb(grad: Tensor) -> tuple[Tensor, Tensor]:
    luma, chroma = _to_yuv_shape(grad)
    _run(_to_rgb_backward, [grad.contiguous(), luma, chroma], grad, True)
    return luma, chroma


torch.library.register_fake("diffcodec::yuv420_to_rgb_backward", _to_yuv_shape, lib=_LIBRARY)


def _nothing(ctx, inputs, output):  # type: ignore[no-untyped-def]
    pass


def _yuv_gradients(ctx, of_luma, of_chroma):  # type: ignore[no-untyped-def]
    return ops.rgb_to_yuv420_backward(of_luma, of_chroma)


def _rgb_gradients(ctx, grad):  # type: ignore[no-untyped-def]
    return ops.yuv420_to_rgb_backward(grad)


differentiates(_LIBRARY, "rgb_to_yuv420", _nothing, _yuv_gradients)
differentiates(_LIBRARY, "yuv420_to_rgb", _nothing, _rgb_gradients)
