"""Baseline JPEG in libjpeg's own arithmetic, bit for bit but for ties of one in a million, with a gradient.

Integers are held in float32. Every sum of the colour conversion and of the first transform passes stays below 2^24 and is exact; the second
passes round some 2^-15 of a level from where libjpeg does. The gradient is that of the real-valued operations: floors and clamps pass it
straight through, the quantiser passes it by a slope (:mod:`diffcodec.jpeg.slopes`).

What libjpeg does: the "islow" integer transform (Loeffler, Ligtenberg and Moschytz 1989, 13-bit constants, two extra bits between the
passes), 16-bit fixed-point BT.601, box-filtered chroma with an alternating bias, triangle upsampling, division that rounds half away from zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..blocks import join, pad_to, pad_to_multiple, split
from ..color import SUBSAMPLINGS, downsample, upsample
from ..constants import Constant
from ..transform import dct2, idct2
from .slopes import Slope, moments

# Lifting form of the eight-point transform, as matrices of its 13-bit constants


def _odd_part() -> np.ndarray:
    """Response of outputs 7, 5, 3, 1 to the differences d4, d5, d6, d7: one matrix serves both directions."""
    c = {k: round(v * 8192) for k, v in _CONSTANTS.items()}
    z5 = c["1.175875602"]
    z1, z2, z3, z4 = -c["0.899976223"], -c["2.562915447"], z5 - c["1.961570560"], z5 - c["0.390180644"]
    own = [c["0.298631336"], c["2.053119869"], c["3.072711026"], c["1.501321110"]]
    m = np.diag(own).astype(np.float64)
    for a, b, z in ((0, 3, z1), (1, 2, z2), (0, 2, z3), (1, 3, z4)):
        m[np.ix_([a, b], [a, b])] += z
    m[np.ix_([0, 2], [1, 3])] += z5
    m[np.ix_([1, 3], [0, 2])] += z5
    return m


_CONSTANTS = {
    k: float(k)
    for k in (
        "0.298631336", "0.390180644", "0.541196100", "0.765366865", "0.899976223", "1.175875602",
        "1.501321110", "1.847759065", "1.961570560", "2.053119869", "2.562915447", "3.072711026",
    )
}  # fmt: skip


def islow_matrix() -> np.ndarray:
    """The integer forward transform before its shifts, ``[8, 8]``: ``2^13 sqrt(8)`` times the orthonormal DCT. The inverse is its transpose."""
    c = {k: round(v * 8192) for k, v in _CONSTANTS.items()}
    m = np.zeros((8, 8))
    sums, differences = np.zeros((4, 8)), np.zeros((4, 8))
    for i in range(4):
        sums[i, [i, 7 - i]] = 1  # s_i = x_i + x_(7-i)
        differences[i, [3 - i, 4 + i]] = 1, -1  # d4 = x3 - x4 ... d7 = x0 - x7
    t10, t13, t11, t12 = sums[0] + sums[3], sums[0] - sums[3], sums[1] + sums[2], sums[1] - sums[2]
    m[0], m[4] = (t10 + t11) * 8192, (t10 - t11) * 8192
    z = (t12 + t13) * c["0.541196100"]
    m[2], m[6] = z + t13 * c["0.765366865"], z - t12 * c["1.847759065"]
    m[[7, 5, 3, 1]] = _odd_part() @ differences
    return m


# The shifts are folded into the matrices: scaling by a power of two costs no bit
_PASS1, _PASS2_FORWARD, _PASS2_INVERSE = (Constant(islow_matrix() / 2.0**bits) for bits in (11, 15, 18))
_TO_YCC = Constant(np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]]) / 65536)
_TO_YCC_BIAS = Constant(np.array([[32768], [128 * 65536 + 32767], [128 * 65536 + 32767]]) / 65536)
_TO_RGB = Constant(np.array([[0, 91881], [-22554, -46802], [116130, 0]]) / 65536)  # R, G, B from Cb - 128, Cr - 128
_HALF = Constant(0.5)


class _ToYcc(torch.autograd.Function):
    """Whole numbers from [0, 1], then ``floor(M x + bias)``; gradient of ``255 M x``."""

    @staticmethod
    def forward(ctx, x, matrix, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(matrix)
        return (matrix @ (x * 255).add_(0.5).floor_()).add_(bias).floor_()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (matrix,) = ctx.saved_tensors
        return (255 * matrix).mT @ grad, None, None


class _ToRgb(torch.autograd.Function):
    """``(y + floor(M c + 1/2)) / 255``; gradient of ``(y + M c) / 255``."""

    @staticmethod
    def forward(ctx, y, cb, cr, matrix):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(matrix)
        chroma = torch.stack([cb, cr], 1).sub_(128).flatten(-2)  # [N, 2, H*W]
        # luma is added after the floor: 65536 y would leave the whole numbers of float32
        out = (matrix @ chroma).add_(0.5).floor_().add_(y.flatten(-2)[:, None])
        return out.div_(255).view(y.shape[0], 3, *y.shape[1:])

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (matrix,) = ctx.saved_tensors
        whole = torch.cat([torch.ones_like(matrix[:, :1]), matrix], 1) / 255  # [3, 3]
        g = (whole.mT @ grad.flatten(-2)).view(grad.shape)
        return g[:, 0], g[:, 1], g[:, 2], None


class _Floor(torch.autograd.Function):
    """``floor(x + bias)``, gradient straight through."""

    @staticmethod
    def forward(ctx, x, bias):  # type: ignore[no-untyped-def]
        return (x + bias).floor_()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad, None


def to_integers(x: Tensor) -> Tensor:
    """Grey in [0, 1] to whole numbers 0..255, gradient straight through. Shape: any -> same."""
    return _Floor.apply(x * 255, _HALF.like(x))  # type: ignore[no-any-return]


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """8-bit rounding and libjpeg's 16-bit fixed-point BT.601. Shape: ``[N, 3, H, W]`` in [0, 1] -> same, whole numbers."""
    return _ToYcc.apply(rgb.flatten(-2), _TO_YCC.like(rgb), _TO_YCC_BIAS.like(rgb)).view(rgb.shape)  # type: ignore[no-any-return]


def ycbcr_to_rgb(y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    """Back to [0, 1], before the clamp. Shape: three times ``[N, H, W] -> [N, 3, H, W]``."""
    return _ToRgb.apply(y, cb, cr, _TO_RGB.like(y))  # type: ignore[no-any-return]


def chroma_down(plane: Tensor, subsampling: str) -> Tensor:
    """Box filter with the bias that alternates along a row: 1, 2 of 4 (4:2:0), 0, 1 of 2 (4:2:2).

    The last column is repeated before the filter, up to whole blocks; rows only up to whole pairs. Shape: ``[N, H, W] -> [N, ceil(H/v), w8]``.
    """
    v, h = SUBSAMPLINGS[subsampling]
    if (v, h) == (1, 1):
        return plane
    plane = pad_to(plane, -(-plane.shape[-2] // v) * v, -(-plane.shape[-1] // (8 * h)) * 8 * h)
    small = downsample(plane, subsampling)
    bias = torch.arange(small.shape[-1], device=plane.device).to(plane) % 2
    return _Floor.apply(small, (bias + v - 1) / (2 * v))  # type: ignore[no-any-return]


def chroma_up(plane: Tensor, height: int, width: int, subsampling: str) -> Tensor:
    """ "Fancy" upsampling with its biases; chroma at most two samples wide is repeated. Shape: ``[N, h, w] -> [N, height, width]``."""
    v, h = SUBSAMPLINGS[subsampling]
    if (v, h) == (1, 1):
        return plane
    if plane.shape[-1] <= 2:
        return upsample(plane, height, width, subsampling, mode="nearest")
    odd = torch.arange(width, device=plane.device).to(plane) % 2
    bias = (8 - odd) / 16 if v == 2 else (1 + odd) / 4
    return _Floor.apply(upsample(plane, height, width, subsampling), bias)  # type: ignore[no-any-return]


def _along_rows(x: Tensor, m: Tensor) -> Tensor:
    """Eight-point transform of each row, block by block. Shape: ``[N, H, W] -> [N, H, W]``."""
    return _along_columns(x.mT.contiguous(), m).mT


def _along_columns(x: Tensor, m: Tensor) -> Tensor:
    """Eight-point transform of each column: long rows make this the quick way for a product with 8 x 8."""
    n, h, w = x.shape
    return (m @ x.reshape(n, h // 8, 8, w)).view(n, h, w)


def _rounded(x: Tensor) -> Tensor:
    """libjpeg's descale, ``floor(x + 1/2)``, in place."""
    return x.add_(0.5).floor_()


class _Code(torch.autograd.Function):
    """Transform, quantise and back on whole planes; the gradient is that of the orthonormal transform with a slope for the quantiser."""

    @staticmethod
    def forward(ctx, plane, table, slope):  # type: ignore[no-untyped-def]
        n, h, w = plane.shape
        m1, m2, m3 = _PASS1.like(plane), _PASS2_FORWARD.like(plane), _PASS2_INVERSE.like(plane)
        c = _rounded(_along_columns(_rounded(_along_rows(plane - 128, m1)), m2))  # 8 times the orthonormal coefficients
        steps = table[:, None, :, None, :]  # [n or 1, 1, 8, 1, 8]
        c = c.view(n, h // 8, 8, w // 8, 8)
        eight = 8 * steps
        level = c.abs().add_(4 * steps).div_(eight).floor_().copysign_(c)  # rounds half away from zero
        ctx.slope = slope
        ctx.save_for_backward(c.div_(eight), table)  # the coefficient in steps
        ctx.set_materialize_grads(False)
        out = (level * steps).view(n, h, w)
        out = _rounded(_along_rows(_rounded(_along_columns(out, m1.mT)), m3.mT))
        return out.add_(128).clamp_(0, 255), level

    @staticmethod
    def backward(ctx, grad, grad_level):  # type: ignore[no-untyped-def]
        y, table = ctx.saved_tensors  # [N, H/8, 8, W/8, 8]
        steps = table[:, None, :, None, :]
        slope = ctx.slope(y, steps)
        g = None if grad is None else dct2(split(grad, 8)).transpose(-3, -2)  # [N, H/8, 8, W/8, 8]
        grad_table = None
        if ctx.needs_input_grad[1]:
            mean, moment = moments(ctx.slope, y, steps)
            terms = [] if g is None else [g * (mean - moment)]
            terms += [] if grad_level is None else [grad_level * -moment / steps]
            grad_table = sum(t.sum((1, 3)) for t in terms)
        if g is not None:
            g = g * slope
        if grad_level is not None:
            extra = grad_level * slope / steps
            g = extra if g is None else g + extra
        if g is None:
            return None, None, None
        if isinstance(grad_table, Tensor) and table.shape[0] != grad_table.shape[0]:
            grad_table = grad_table.sum(0, keepdim=True)
        return join(idct2(g.transpose(-3, -2))), grad_table, None


def code_plane(plane: Tensor, table: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
    """Code and decode planes.

    Args:
        plane: whole numbers 0..255, ``[N, H, W]`` of any size; the last row and column are repeated up to whole blocks.
        table: quantiser steps, whole numbers, ``[N, 8, 8]`` or ``[1, 8, 8]``.
        slope: the quantiser's slope.

    Returns:
        Decoded plane ``[N, H8, W8]``, whole numbers 0..255 and padded, and levels ``[N, H8/8, 8, W8/8, 8]``.
    """
    return _Code.apply(pad_to_multiple(plane, 8), table, slope)  # type: ignore[no-any-return]
