"""Baseline JPEG in libjpeg's own arithmetic, bit-exact except for one tie in a million, with a gradient.

Integers are held in float32. Every sum of the colour conversion and of the first transform passes stays below 2^24 and is exact; in the second
passes the rounding thresholds differ from libjpeg's by about 2^-15 of a level. The gradient is that of the real-valued operations: floors and
clamps pass it straight through, the quantiser passes it by a slope (:mod:`diffcodec.slopes`).

What libjpeg does: the "islow" integer transform (Loeffler, Ligtenberg and Moschytz 1989, 13-bit constants, two extra bits between the
passes), 16-bit fixed-point BT.601, box-filtered chroma with an alternating bias, triangle upsampling, division that rounds half away from zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...blocks import pad_to, pad_to_multiple, split
from ...checks import first_order, traced
from ...color import SUBSAMPLINGS
from ...constants import Constant
from ...rate import level_bits, level_bits_slope
from ...slopes import Slope, moments
from ...transform import dct_matrix

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


def _pair(m: np.ndarray) -> np.ndarray:
    return np.kron(np.eye(2), m)


# The shifts are folded into the matrices: scaling by a power of two costs no bit
_PASS1, _PASS2_FORWARD = Constant(_pair(islow_matrix() / 2.0**11)), Constant(islow_matrix() / 2.0**15)
_PASS1_INVERSE, _PASS2_INVERSE = Constant(islow_matrix().T / 2.0**11), Constant(_pair(islow_matrix().T / 2.0**18))
_DCT, _DCT_PAIR, _IDCT, _IDCT_PAIR = (Constant(v) for m in (dct_matrix(8), dct_matrix(8).T) for v in (m, _pair(m)))
# Samples are level-shifted everywhere: 128 less
_TO_YCC = Constant(np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]]) / 65536)
_TO_YCC_BIAS = Constant(np.array([[32768 - 128 * 65536], [32767], [32767]]) / 65536)
_TO_RGB = Constant(np.array([[0, 91881], [-22554, -46802], [116130, 0]]) / 65536)  # R, G, B from Cb - 128, Cr - 128

_FROM_RGB = Constant(np.array([[1, 1, 1], [0, -22554 / 65536, 116130 / 65536], [91881 / 65536, -46802 / 65536, 0]]) / 255)  # adjoint

_BAND = 2**18  # samples of a plane: such float32 buffers stay in the last cache, and the allocator serves them without fresh pages


def _bands(n: int, rows: int, row: int, unit: int, like: Tensor) -> list[tuple[slice, slice]]:
    """Cut ``n`` pictures of ``rows`` rows of ``row`` samples into (pictures, rows) that fit the cache; one band on a GPU and for a compiler.

    A band lies in one picture, with a multiple of ``unit`` rows, or covers whole pictures.
    """
    if like.device.type != "cpu" or traced(like):
        return [(slice(0, n), slice(0, rows))]
    pictures, height = max(1, _BAND // (rows * row)), max(1, _BAND // (row * unit)) * unit
    return [
        (slice(i, min(i + pictures, n)), slice(j, min(j + height, rows))) for i in range(0, n, pictures) for j in range(0, rows, height)
    ]


def _rounded(x: Tensor) -> Tensor:
    """libjpeg's descale, ``floor(x + 1/2)``, in place."""
    return x.add_(0.5).floor_()


# Blocks: planes stay planes. A transform's vertical pass is a product with rows of blocks, its horizontal one with pairs of blocks side by side.


def _vertical(m: Tensor, x: Tensor) -> Tensor:
    """A product with columns of eight. Shape: ``[8, 8], [N, H, W] -> [N, H, W]``."""
    rows = x.reshape(-1, 8, x.shape[2])
    return torch.bmm(m.expand(len(rows), 8, 8), rows).view(x.shape)


def _horizontal(m2: Tensor, x: Tensor) -> Tensor:
    """A product with rows of eight, two at a time: products with 8 x 8 are too small to be fast. Shape: ``[16, 16], [N, H, W] -> [N, H, W]``."""
    return (x.reshape(-1, 16) @ m2.mT).view(x.shape)


def _tiled(steps: Tensor, planes: Tensor) -> Tensor:
    """Steps at every coefficient of a row of blocks. Shape: ``[N or 1, 8, 8] -> [N or 1, 1, 8, W]``."""
    return steps.repeat(1, 1, planes.shape[2] // 8)[:, None]


def _code(planes: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Transform, quantise, and back.

    Args:
        planes: whole numbers -128..127 ``[N, H, W]``, multiples of 8.
        steps: ``[N or 1, 8 v, 8 u]``.

    Returns:
        Decoded planes around 0, the coefficients in steps, the levels, coefficient (v, u) of a block in its row v and column u; all ``[N, H, W]``.
    """
    like = planes
    x = _rounded(_horizontal(_PASS1.like(like), planes))
    x = _rounded(_vertical(_PASS2_FORWARD.like(like), x))  # 8 times the orthonormal transform
    step = _tiled(steps, planes)
    rows = x.view(len(x), -1, 8, x.shape[2])  # [N, H/8, 8, W]
    y = rows.div_(8 * step)
    level = y.mul(1 + 2**-22).round_()  # ratios of whole numbers: the factor makes halves round away from zero, and changes nothing else
    x = _rounded(_vertical(_PASS1_INVERSE.like(like), (level * step).view(x.shape)))
    x = _rounded(_horizontal(_PASS2_INVERSE.like(like), x))
    return x.clamp_(-128, 127), y.view(x.shape), level.view(x.shape)


def _code_backward(
    grad: Tensor | None, of_bits: Tensor | None, y: Tensor, steps: Tensor, slope: Slope, wrt_steps: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of :func:`_code`: of the orthonormal transform, with a slope for the quantiser.

    Args:
        grad: of the decoded planes ``[N, H, W]``.
        of_bits: gradient of the bits of each plane ``[N]``.
        y, steps, slope: as in the forward pass.
        wrt_steps: whether the gradient of the steps is wanted.

    Returns:
        Gradient of the planes, and of the steps ``[N, 8 v, 8 u]`` or None.
    """
    shape = y.shape
    step = _tiled(steps, y)
    y = y.view(len(y), -1, 8, y.shape[2])  # [N, H/8, 8, W]
    g: Any = None if grad is None else _vertical(_DCT.like(y), _horizontal(_DCT_PAIR.like(y), grad)).view(y.shape)
    extra: Any = None
    if of_bits is not None:
        extra = level_bits_slope(y).mul_(of_bits[:, None, None, None]) / step
    grad_steps = None
    if wrt_steps:
        mean, moment = moments(slope, y, step)
        terms = [] if g is None else [g * (mean - moment)]
        terms += [] if extra is None else [extra * -y]
        grad_steps = sum(t.unflatten(3, (-1, 8)).sum((1, 3)) for t in terms)
    if g is not None:
        g = g * slope(y, step)
    g = extra if g is None else g if extra is None else g + extra
    g = g.view(shape)
    return _horizontal(_IDCT_PAIR.like(y), _vertical(_IDCT.like(y), g)), grad_steps


# Colour and chroma, and the adjoints of their real-valued parts


def _to_ycc(rgb: Tensor) -> Tensor:
    """8-bit rounding and 16-bit fixed-point BT.601. Shape: ``[N, 3, h, w]`` in [0, 1] -> same, whole numbers around 0."""
    x = _rounded(rgb * 255).clamp_(0, 255).flatten(2)
    return (_TO_YCC.like(x) @ x).add_(_TO_YCC_BIAS.like(x)).floor_().view(rgb.shape)


def _to_rgb(y: Tensor, chroma: Tensor, out: Tensor) -> None:
    """Into ``out``, in [0, 1]. Shape: ``[N, h, w], [N, 2, h, w] -> [N, 3, h, w]``."""
    rgb = (_TO_RGB.like(y) @ chroma.flatten(2)).add_(128.5).floor_().view(out.shape)
    # luma is added after the floor: 65536 y would leave the whole numbers of float32
    rgb.add_(y[:, None]).div_(255)
    if torch.compiler.is_compiling():
        out.copy_(rgb.clamp(0, 1))
    else:
        torch.clamp(rgb, 0, 1, out=out)


def _box(chroma: Tensor, v: int, u: int) -> Tensor:
    """Box filter with the bias that alternates along a row: 1, 2 of 4 (4:2:0), 0, 1 of 2 (4:2:2). Shape: ``[N, h, w] -> [N, h/v, w/u]``."""
    if u == 1:
        return chroma
    x = chroma if v == 1 else chroma[:, ::2] + chroma[:, 1::2]
    x = x[..., ::2] + x[..., 1::2]
    x[..., ::2] += v - 1
    x[..., 1::2] += v
    return x.div_(u * v).floor_()


def _weights(width: int) -> tuple[float, float]:
    """Of the nearest and the next sample in "fancy" upsampling; chroma at most two samples wide is repeated."""
    return (0.75, 0.25) if width > 2 else (1.0, 0.0)


def _spread_rows(x: Tensor, near: float, far: float) -> Tensor:
    """Twice as many rows, of planes that carry one more at each end. Shape: ``[..., n + 2, w] -> [..., 2 n, w]``."""
    n = x.shape[-2] - 2
    middle = near * x.narrow(-2, 1, n)
    return torch.stack([torch.add(middle, x.narrow(-2, i, n), alpha=far) for i in (0, 2)], -2).flatten(-3, -2)


def _spread_columns(x: Tensor, near: float, far: float, biases: tuple[float, float]) -> Tensor:
    """Twice as many columns, the ends repeated, and a bias for even and odd ones. Shape: ``[..., n] -> [..., 2 n]``."""
    middle = near * x
    even, odd = middle + biases[0], middle + biases[1]
    even[..., 1:].add_(x[..., :-1], alpha=far)
    even[..., :1].add_(x[..., :1], alpha=far)
    odd[..., :-1].add_(x[..., 1:], alpha=far)
    odd[..., -1:].add_(x[..., -1:], alpha=far)
    return _interleaved(even, odd)


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    """Columns of two planes in turn. Shape: ``[..., n] x 2 -> [..., 2 n]``."""
    if torch.compiler.is_compiling() or even.dtype not in (torch.float32, torch.float64):
        return torch.stack([even, odd], -1).flatten(-2)
    return torch.view_as_real(torch.complex(even, odd)).flatten(-2)  # eight times as fast on a CPU


def _unspread(even: Tensor, odd: Tensor, dim: int, near: float, far: float, first: bool = True, last: bool = True) -> Tensor:
    """Adjoint of spreading along an axis, from every other sample.

    Args:
        even, odd: ``n`` each; ``odd`` with one more before where there is more of the plane before this band, ``even`` with one more after.
        first, last: whether the plane ends there: then the end is repeated.
    """
    n = even.shape[dim] - (not last)
    before = 0 if first else 1
    out = (even.narrow(dim, 0, n) + odd.narrow(dim, before, n)).mul_(near)
    if first:
        out.narrow(dim, 1, n - 1).add_(odd.narrow(dim, 0, n - 1), alpha=far)
        out.narrow(dim, 0, 1).add_(even.narrow(dim, 0, 1), alpha=far)
    else:
        out.add_(odd.narrow(dim, 0, n), alpha=far)
    if last:
        out.narrow(dim, 0, n - 1).add_(even.narrow(dim, 1, n - 1), alpha=far)
        out.narrow(dim, n - 1, 1).add_(odd.narrow(dim, before + n - 1, 1), alpha=far)
    else:
        out.add_(even.narrow(dim, 1, n), alpha=far)
    return out


def _ends(x: Tensor, first: bool = True, last: bool = True) -> Tensor:
    """Repeat the first and the last row. Shape: ``[..., n, w] -> [..., n + 2, w]``."""
    return torch.cat([x[..., :1, :]] * first + [x] + [x[..., -1:, :]] * last, -2)


def _up(chroma: Tensor, v: int, u: int, near: float, far: float) -> Tensor:
    """ "Fancy" upsampling with its biases; with 4:2:0 there is one more row at each end. Shape: ``[N, 2, h (+ 2), w] -> [N, 2, v h, u w]``."""
    if u == 1:
        return chroma.clone()
    if v == 1:
        return _spread_columns(chroma, near, far, (1 / 4, 1 / 2)).floor_()
    return _spread_columns(_spread_rows(chroma, near, far), near, far, (1 / 2, 7 / 16)).floor_()


def _zeros(x: Tensor, height: int, width: int) -> Tensor:
    """Adjoint of a crop: zeros below and on the right."""
    down, right = height - x.shape[-2], width - x.shape[-1]
    return F.pad(x, (0, right, 0, down)) if down or right else x


def _fold(g: Tensor, height: int, width: int) -> Tensor:
    """Adjoint of repeating the last row and column: gradients of the copies are summed."""
    if g.shape[-2] > height:
        g = torch.cat([g[..., : height - 1, :], g[..., height - 1 :, :].sum(-2, keepdim=True)], -2)
    if g.shape[-1] > width:
        g = torch.cat([g[..., : width - 1], g[..., width - 1 :].sum(-1, keepdim=True)], -1)
    return g


def _steps(tables: Tensor, pictures: slice, kind: int) -> Tensor:
    """Luma (0) or chroma (1: Cb and Cr of each picture) steps. Shape: ``[N or 1, 2, 8 v, 8 u] -> [planes or 1, 8 v, 8 u]``."""
    table = tables[:, kind] if len(tables) == 1 else tables[pictures, kind]
    if kind and len(table) > 1:
        table = table.repeat_interleave(2, 0)
    return table


class _Exact(torch.autograd.Function):
    """The codec, band by band: what is between input and output stays in the cache, and only the coefficients are kept for the gradient."""

    @staticmethod
    def forward(ctx, x, tables, subsampling, slope, rate):  # type: ignore[no-untyped-def]
        n, c, h, w = x.shape
        v, u = SUBSAMPLINGS[subsampling]
        hc, wc, wide = -(-h // v), -(-w // u), -(-w // (8 * u)) * 8 * u
        bands = [(slice(0, n), slice(0, h))] if rate else _bands(n, h, w, 8 * v, x)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        small = x.new_empty(n, 2, hc, wc) if c == 3 else None
        kept, levels = [], [x.new_empty(0)] * 2
        for i, rows in bands:
            height = rows.stop - rows.start
            ycc = _to_ycc(x[i, :, rows]) if c == 3 else _rounded(x[i, :, rows] * 255).clamp_(0, 255).sub_(128)
            decoded, y, levels[0] = _code(pad_to_multiple(ycc[:, 0], 8), _steps(tables, i, 0))
            kept.append(y)
            decoded = decoded[:, :height, :w]
            if small is None:
                out[i, 0, rows] = (decoded + 128) / 255
                continue
            out[i, 0, rows] = decoded  # kept here until the colour conversion
            chroma = pad_to(ycc[:, 1:].flatten(0, 1), -(-height // v) * v, wide)  # [2 N, h, w]: columns up to blocks, rows up to pairs
            decoded, y, levels[1] = _code(pad_to_multiple(_box(chroma, v, u), 8), _steps(tables, i, 1))
            kept.append(y)
            small[i, :, _shrunk(rows, v)] = decoded[:, : -(-height // v), :wc].unflatten(0, (-1, 2))
        if small is not None:
            near, far = _weights(wc)
            for i, rows in bands:
                first, last = rows.start == 0, rows.stop == h
                r = _shrunk(rows, v)
                part = small[i, :, r] if v == 1 else _ends(small[i, :, r.start - (not first) : r.stop + (not last)], first, last)
                up = _up(part, v, u, near, far)[..., : rows.stop - rows.start, :w]
                _to_rgb(out[i, 0, rows], up, out[i, :, rows])
        ctx.slope, ctx.bands, ctx.subsampling, ctx.shape = slope, bands, subsampling, x.shape
        ctx.save_for_backward(tables, *kept)
        ctx.set_materialize_grads(False)
        if not rate:
            return out, *(x.new_empty(0) for _ in range(3))
        luma, chroma = (split(v, 8).flatten(1, 2) if v.numel() else v for v in levels)
        ctx.mark_non_differentiable(luma, chroma)
        bits = level_bits(luma)
        return out, luma, chroma, bits if small is None else bits + level_bits(chroma.unflatten(0, (n, 2)))

    @staticmethod
    @first_order
    def backward(ctx, grad, _luma, _chroma, of_bits):  # type: ignore[no-untyped-def]
        tables, *kept = ctx.saved_tensors
        n, c, h, w = ctx.shape
        v, u = SUBSAMPLINGS[ctx.subsampling]
        wc, wide = -(-w // u), -(-w // (8 * u)) * 8 * u
        near, far = _weights(wc)
        wrt_steps = ctx.needs_input_grad[1]
        of_bits = None if of_bits is None or not of_bits.numel() else of_bits.to(kept[0])
        out = kept[0].new_empty(ctx.shape)
        grad_tables: Any = torch.zeros_like(tables).expand(n, 2, 8, 8).clone() if wrt_steps else None
        to_ycc = _FROM_RGB.like(out)  # [3, 3]
        to_rgb = 255 * _TO_YCC.like(out).mT  # [3, 3]
        parts = iter(kept)
        for i, rows in ctx.bands:
            height = rows.stop - rows.start
            hb, h8, w8 = -(-height // v), -(-height // 8) * 8, -(-w // 8) * 8
            first, last = rows.start == 0 or v == 1, rows.stop == h or v == 1
            g_luma = g_chroma = None
            if grad is not None and c == 1:
                g_luma = grad[i, 0, rows] / 255
            elif grad is not None:  # with a row more above and below where the triangle filter reaches there
                halo = grad[i, :, rows.start - (not first) : rows.stop + (not last)]
                g = (to_ycc @ halo.flatten(2)).unflatten(2, halo.shape[2:])  # [k, 3, height (+ halo), w]
                g_luma, g_chroma = g[:, 0, int(not first) : int(not first) + height], g[:, 1:]
                if u == 2:
                    g_chroma = _zeros(g_chroma, g_chroma.shape[2], 2 * wc)
                    g_chroma = _unspread(g_chroma[..., ::2], g_chroma[..., 1::2], -1, near, far)
                if v == 2:
                    g_chroma = _zeros(g_chroma, g_chroma.shape[2] + height % 2, wc)
                    even, odd = (g_chroma[:, :, (k + (not first)) % 2 :: 2] for k in (0, 1))
                    g_chroma = _unspread(even, odd, -2, near, far, first, last)
                g_chroma = _zeros(g_chroma.flatten(0, 1), -(-hb // 8) * 8, wide // u)
            luma, g_steps = _code_backward(
                None if g_luma is None else _zeros(g_luma, h8, w8), of_bits, next(parts), _steps(tables, i, 0), ctx.slope, wrt_steps
            )
            if g_steps is not None:
                grad_tables[i, 0] += g_steps
            luma = _fold(luma, height, w)
            if c == 1:
                out[i, 0, rows] = luma * 255
                continue
            of_both = None if of_bits is None else of_bits.repeat_interleave(2)  # Cb and Cr
            g, g_steps = _code_backward(g_chroma, of_both, next(parts), _steps(tables, i, 1), ctx.slope, wrt_steps)
            if g_steps is not None:
                grad_tables[i, 1] += g_steps.unflatten(0, (-1, 2)).sum(1)
            g = _fold(g, hb, wide // u)
            if u == 2:  # adjoint of the box
                g = g / (u * v)
                g = _interleaved(g, g)[:, :, None].expand(-1, -1, v, -1).reshape(len(g), v * hb, wide)
            chroma = _fold(g, height, w).unflatten(0, (-1, 2))
            ycc = torch.cat([luma[:, None], chroma], 1).flatten(2)
            if height == h and not torch.compiler.is_compiling():
                torch.matmul(to_rgb, ycc, out=out[i].flatten(2))  # a view: whole pictures
            else:
                out[i, :, rows] = (to_rgb @ ycc).view(-1, 3, height, w)
        if wrt_steps and len(tables) == 1:
            grad_tables = grad_tables.sum(0, keepdim=True)
        return out, grad_tables, None, None, None


def _shrunk(rows: slice, v: int) -> slice:
    """Chroma rows of luma rows."""
    return slice(rows.start // v, -(-rows.stop // v))


def code_exact(x: Tensor, tables: Tensor, subsampling: str, slope: Slope, rate: bool = False) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Code and decode pictures. Values outside [0, 1] are clamped; the gradient passes the clamp, as it passes the floors.

    Args:
        x: ``[N, 3, H, W]``, RGB in [0, 1], or ``[N, 1, H, W]`` (grey).
        tables: quantiser steps, whole numbers, ``[N or 1, 2, 8, 8]`` (luma, chroma).
        subsampling: "4:2:0", "4:2:2" or "4:4:4".
        slope: the quantiser's.
        rate: whether levels and bits are wanted; they cost memory.

    Returns:
        Decoded pictures in [0, 1]; levels of luma ``[N, blocks, 8, 8]``, and of Cb and Cr where there is colour (without a gradient; an empty list if
        not wanted); estimated bits ``[N]`` (:mod:`diffcodec.rate`) with the gradient of their mean, or None.
    """
    out, luma, chroma, bits = _Exact.apply(x, tables, subsampling, slope, rate)
    if not rate:
        return out, [], None
    return out, [luma] if x.shape[1] == 1 else [luma, chroma.unflatten(0, (-1, 2)).flatten(1, 2)], bits
