"""JPEG in Triton: colour, chroma filters, transform, quantiser and back, without anything of the size of the video between.

A thread holds a block of 8 x 8 samples in registers (half of one where they do not suffice), R blocks a program, as eight rows ``[R, 8]``:
transforms need no shared memory. Samples are loaded two rows at a time as ``[4, R, 4]``, halves of rows of 16 bytes: in that order the compiler gives
each thread the whole of its block. With 4:4:4 one kernel reads RGB and writes RGB. With subsampling, decoded planes lie between two kernels, as
bytes where they are exact: an eighth of a float32 video. The backward pass computes coefficients again.

Whole numbers are int32 here, float32 in the reference.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...implement import backward_of, implements
from . import reference

# how the quantiser's gradient, and without exact arithmetic its value, are made
MODES = {"cubic": 0, "straight_through": 1, "soft": 2, "laplacian": 3, "gaussian": 4, "uniform": 5, "paper": 6, "identity": 7}
CUBIC, STRAIGHT, SOFT, LAPLACIAN, GAUSSIAN, UNIFORM, PAPER, IDENTITY = (tl.constexpr(i) for i in range(8))
_SHARPNESS = tl.constexpr(5.0)
_SOFT_SCALE = tl.constexpr(0.5 / math.tanh(2.5))
_KR, _KG, _KB = (tl.constexpr(v) for v in (0.299, 0.587, 0.114))  # BT.601
_NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and taking it away rounds a float32 to the nearest whole number, ties to even


# Blocks: eight rows [R, 8]


@triton.jit
def _two(x, R: tl.constexpr):
    """Two rows of blocks from four halves. Shape: ``[4, R, 4] -> [R, 8], [R, 8]``."""
    return tl.split(tl.permute(tl.reshape(tl.permute(x, (1, 0, 2)), (R, 2, 8)), (0, 2, 1)))


@triton.jit
def _halves(a, b, R: tl.constexpr):
    """Inverse of :func:`_two`."""
    return tl.permute(tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (R, 4, 4)), (1, 0, 2))


@triton.jit
def _turned(x0, x1, x2, x3, x4, x5, x6, x7, R: tl.constexpr):
    """Transpose blocks: registers change names, no data moves."""
    x = tl.join(tl.join(tl.join(x0, x4), tl.join(x2, x6)), tl.join(tl.join(x1, x5), tl.join(x3, x7)))
    x = tl.permute(tl.reshape(x, (R, 8, 8)), (0, 2, 1))  # [R, row, column]
    a, b = tl.split(tl.reshape(x, (R, 8, 4, 2)))  # columns 0 2 4 6, 1 3 5 7
    a, c = tl.split(tl.reshape(a, (R, 8, 2, 2)))  # 0 4, 2 6
    b, d = tl.split(tl.reshape(b, (R, 8, 2, 2)))  # 1 5, 3 7
    y0, y4 = tl.split(a)
    y2, y6 = tl.split(c)
    y1, y5 = tl.split(b)
    y3, y7 = tl.split(d)
    return y0, y1, y2, y3, y4, y5, y6, y7


# The eight-point transform of Loeffler, Ligtenberg and Moschytz as libjpeg's "islow" has it, sqrt(8) times the orthonormal one: on int32 with
# 13-bit constants and a rounding shift, or on float32. Constants: 0.298631336 0.390180644 0.541196100 ... times 2^13.


@triton.jit
def _odd(x0, x1, x2, x3, WHOLE: tl.constexpr):
    """The odd part of both directions: four differences to outputs 7, 5, 3, 1, or the other way round."""
    z1, z2, z3, z4 = x0 + x3, x1 + x2, x0 + x2, x1 + x3
    if WHOLE:
        z5 = (z3 + z4) * 9633
        z1, z2, z3, z4 = z1 * -7373, z2 * -20995, z3 * -16069 + z5, z4 * -3196 + z5
        return x0 * 2446 + z1 + z3, x1 * 16819 + z2 + z4, x2 * 25172 + z2 + z3, x3 * 12299 + z1 + z4
    else:
        z5 = (z3 + z4) * 1.175875602
        z1, z2, z3, z4 = z1 * -0.899976223, z2 * -2.562915447, z3 * -1.961570560 + z5, z4 * -0.390180644 + z5
        return x0 * 0.298631336 + z1 + z3, x1 * 2.053119869 + z2 + z4, x2 * 3.072711026 + z2 + z3, x3 * 1.501321110 + z1 + z4


@triton.jit
def _shifted(x0, x1, x2, x3, x4, x5, x6, x7, WHOLE: tl.constexpr, SHIFT: tl.constexpr):
    if WHOLE:
        half: tl.constexpr = 1 << (SHIFT - 1)
        x0, x1, x2, x3 = (x0 + half) >> SHIFT, (x1 + half) >> SHIFT, (x2 + half) >> SHIFT, (x3 + half) >> SHIFT
        x4, x5, x6, x7 = (x4 + half) >> SHIFT, (x5 + half) >> SHIFT, (x6 + half) >> SHIFT, (x7 + half) >> SHIFT
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _forward(x0, x1, x2, x3, x4, x5, x6, x7, WHOLE: tl.constexpr, SHIFT: tl.constexpr):
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    a, d, b, c = s0 + s3, s0 - s3, s1 + s2, s1 - s2
    y0, y4 = a + b, a - b
    if WHOLE:
        y0, y4 = y0 << 13, y4 << 13
        z = (c + d) * 4433
        y2, y6 = z + d * 6270, z - c * 15137
    else:
        z = (c + d) * 0.541196100
        y2, y6 = z + d * 0.765366865, z - c * 1.847759065
    y7, y5, y3, y1 = _odd(x3 - x4, x2 - x5, x1 - x6, x0 - x7, WHOLE)
    return _shifted(y0, y1, y2, y3, y4, y5, y6, y7, WHOLE, SHIFT)


@triton.jit
def _inverse(y0, y1, y2, y3, y4, y5, y6, y7, WHOLE: tl.constexpr, SHIFT: tl.constexpr):
    a, b = y0 + y4, y0 - y4
    if WHOLE:
        a, b = a << 13, b << 13
        z = (y2 + y6) * 4433
        c, d = z - y6 * 15137, z + y2 * 6270
    else:
        z = (y2 + y6) * 0.541196100
        c, d = z - y6 * 1.847759065, z + y2 * 0.765366865
    t0, t1, t2, t3 = a + d, b + c, b - c, a - d
    o0, o1, o2, o3 = _odd(y7, y5, y3, y1, WHOLE)
    return _shifted(t0 + o3, t1 + o2, t2 + o1, t3 + o0, t3 - o0, t2 - o1, t1 - o2, t0 - o3, WHOLE, SHIFT)


@triton.jit
def _coefficients(x, WHOLE: tl.constexpr, R: tl.constexpr):
    """8 times the orthonormal transform: rows of the result are vertical frequencies."""
    return _forward(*_turned(*_forward(*_turned(*x, R), WHOLE, 11), R), WHOLE, 15)


@triton.jit
def _samples(y, WHOLE: tl.constexpr, R: tl.constexpr):
    """The inverse, 8 times the orthonormal one (whole numbers: divided)."""
    return _turned(*_inverse(*_turned(*_inverse(*y, WHOLE, 11), R), WHOLE, 18), R)


# The quantiser


@triton.jit
def _away(y):
    """Whole numbers, halves away from zero."""
    level = tl.floor(tl.abs(y) + 0.5)
    return tl.where(y < 0, -level, level)


@triton.jit
def _tanh(x):
    e = tl.exp(-2 * tl.abs(x))
    t = (1 - e) / (1 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def _value(y, MODE: tl.constexpr):
    """The surrogate's value (:mod:`diffcodec.rounding`)."""
    if MODE == CUBIC:
        r = (y + _NEAREST) - _NEAREST
        out = r + (y - r) * (y - r) * (y - r)
    elif MODE == STRAIGHT:
        out = (y + _NEAREST) - _NEAREST
    elif MODE == SOFT:
        base = tl.floor(y) + 0.5
        out = base + _tanh((y - base) * _SHARPNESS) * _SOFT_SCALE
    elif MODE == PAPER:
        out = tl.where(tl.abs(y) < 0.5, y * y * y, y)
    else:
        out = y
    return out


@triton.jit
def _slope(y, step, width, MODE: tl.constexpr):
    """Its slope, or the one chosen for an exact forward (:mod:`diffcodec.slopes`)."""
    if MODE == CUBIC:
        r = y - ((y + _NEAREST) - _NEAREST)
        out = 3 * r * r
    elif MODE == SOFT:
        t = _tanh((y - tl.floor(y) - 0.5) * _SHARPNESS)
        out = (1 - t * t) * (_SHARPNESS * _SOFT_SCALE)
    elif MODE == LAPLACIAN:
        b = width * 0.7071067811865476 / step
        r = tl.abs(y - tl.floor(y) - 0.5)
        out = (tl.exp(-r / b) + tl.exp((r - 1) / b)) / (2 * b * (1 - tl.exp(-1 / b)))
    elif MODE == GAUSSIAN:
        sigma = width / step
        r = y - tl.floor(y) - 0.5
        narrow = _normal(r + 1, sigma) + _normal(r, sigma) + _normal(r - 1, sigma)
        wide = 1 + 2 * tl.exp(-2 * (3.141592653589793 * sigma) * (3.141592653589793 * sigma)) * tl.cos(6.283185307179586 * r)
        out = tl.where(sigma > 0.45, wide, narrow)
    elif MODE == UNIFORM:
        half = width * 1.7320508075688772 / step
        r = tl.abs(y - tl.floor(y) - 0.5)
        out = (tl.floor(half - r) + tl.floor(half + r) + 1) / (2 * half)
    elif MODE == PAPER:
        out = tl.where(tl.abs(y) < 0.5, 3 * y * y, 1.0)
    else:
        out = tl.full(y.shape, 1.0, tl.float32)
    return out


@triton.jit
def _normal(x, sigma):
    return tl.exp(-0.5 * (x / sigma) * (x / sigma)) / (sigma * 2.5066282746310002)


@triton.jit
def _by_step(y, slope, step, width, WHOLE: tl.constexpr, MODE: tl.constexpr):
    """d (level step) / d step, of the value that the slope stands for (:meth:`diffcodec.slopes.Expected.moments`)."""
    if MODE == LAPLACIAN:
        b = width * 0.7071067811865476 / step
        near = tl.floor(y) + 0.5
        r = y - near
        rest = 1 - tl.exp(-1 / b)
        sinh = (tl.exp((r - 1) / b) - tl.exp((-r - 1) / b)) / 2
        side = 0.5 * (1 - tl.exp(-tl.abs(r) / b))
        mean = near + tl.where(r < 0, -side, side) + sinh / rest
        out = mean - (near * slope + sinh / (b * rest * rest))
    elif MODE == GAUSSIAN:
        sigma = width / step
        near = tl.floor(y) + 0.5
        r = y - near
        narrow = near - 1.5 + _below((r + 1) / sigma) + _below(r / sigma) + _below((r - 1) / sigma)
        moment = (near - 1) * _normal(r + 1, sigma) + near * _normal(r, sigma) + (near + 1) * _normal(r - 1, sigma)
        turn = 3.141592653589793 * sigma
        sine = tl.exp(-2 * turn * turn) * tl.sin(6.283185307179586 * r) * 0.3183098861837907
        wide = y + sine - (y * slope - 4 * turn * turn * sine)
        out = tl.where(sigma > 0.45, wide, narrow - moment)
    elif MODE == UNIFORM:
        half = width * 1.7320508075688772 / step
        low, high = (y - half + _NEAREST) - _NEAREST, (y + half + _NEAREST) - _NEAREST
        moment = (high * high - low * low) / 2
        out = (high * (y + half) - low * (y - half) - 2 * moment) / (2 * half)
    elif WHOLE:
        out = ((y + _NEAREST) - _NEAREST) - slope * y
    else:
        out = _value(y, MODE) - slope * y
    return out


@triton.jit
def _below(x):
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit
def _steps(table, i: tl.constexpr):
    """Of a row of coefficients. Shape: ``[1, 8]``."""
    return tl.load(table + i * 8 + tl.arange(0, 8))[None, :]


@triton.jit
def _coded(x, table, WHOLE: tl.constexpr, MODE: tl.constexpr, R: tl.constexpr):
    """Transform, quantise and back: rows of samples around 0 to rows of decoded ones, 0..255."""
    c = _coefficients(x, WHOLE, R)
    y = ()
    for i in tl.static_range(8):
        step = _steps(table, i)
        if WHOLE:
            level = _away(tl.div_rn(c[i].to(tl.float32), tl.broadcast_to(8 * step, (R, 8))))
            y = y + ((level * step).to(tl.int32),)
        else:
            y = y + (_value(c[i] / (8 * step), MODE) * step,)
    s = _samples(y, WHOLE, R)
    out = ()
    for i in tl.static_range(8):
        if WHOLE:
            out = out + (tl.minimum(tl.maximum(s[i] + 128, 0), 255),)
        else:
            out = out + (s[i] * 0.125 + 128,)
    return out


@triton.jit
def _coded_backward(x, grad, table, by_table, width, valid, WHOLE: tl.constexpr, MODE: tl.constexpr, TABLES: tl.constexpr, R: tl.constexpr):
    """Gradient of :func:`_coded`, of the real-valued transform, from rows to rows. That of the steps, summed over blocks, goes to ``by_table``."""
    c = _coefficients(x, WHOLE, R)
    g = _coefficients(grad, False, R)
    out = ()
    for i in tl.static_range(8):
        step = _steps(table, i)
        y = c[i].to(tl.float32) / (8 * step)
        slope = _slope(y, step, width, MODE)
        if TABLES:
            mine = tl.where(valid[:, None], g[i] * 0.125 * _by_step(y, slope, step, width, WHOLE, MODE), 0.0)
            tl.store(by_table + i * 8 + tl.arange(0, 8), tl.sum(mine, 0))
        out = out + (g[i] * slope * 0.015625,)
    return _samples(out, False, R)


# Samples


@triton.jit
def _ycc(r, g, b, C, WHOLE: tl.constexpr):
    """Y', Cb or Cr (C = 0, 1, 2) of RGB in [0, 1]. Whole: 0..255 on int32. Else Y' - 128, and chroma around 0."""
    if WHOLE:  # 8 bits, 16-bit fixed point
        r = tl.minimum(tl.maximum(tl.floor(r * 255 + 0.5), 0.0), 255.0).to(tl.int32)
        g = tl.minimum(tl.maximum(tl.floor(g * 255 + 0.5), 0.0), 255.0).to(tl.int32)
        b = tl.minimum(tl.maximum(tl.floor(b * 255 + 0.5), 0.0), 255.0).to(tl.int32)
        if C == 0:
            out = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
        elif C == 1:
            out = (-11059 * r - 21709 * g + 32768 * b + 8421375) >> 16
        else:
            out = (32768 * r - 27439 * g - 5329 * b + 8421375) >> 16
    else:
        r = 255 * tl.minimum(tl.maximum(r, 0.0), 1.0)
        g = 255 * tl.minimum(tl.maximum(g, 0.0), 1.0)
        b = 255 * tl.minimum(tl.maximum(b, 0.0), 1.0)
        out = r * _KR + g * _KG + b * _KB
        if C == 0:
            out = out - 128
        elif C == 1:
            out = (b - out) * (0.5 / (1 - _KB))
        else:
            out = (r - out) * (0.5 / (1 - _KR))
    return out


@triton.jit
def _grey(x, WHOLE: tl.constexpr):
    """Luma of a grey picture, as :func:`_ycc`."""
    if WHOLE:
        out = tl.minimum(tl.maximum(tl.floor(x * 255 + 0.5), 0.0), 255.0).to(tl.int32)
    else:
        out = 255 * tl.minimum(tl.maximum(x, 0.0), 1.0) - 128
    return out


@triton.jit
def _rgb(y, cb, cr, C: tl.constexpr, WHOLE: tl.constexpr):
    """R, G or B (C = 0, 1, 2) in [0, 1] of decoded Y', Cb and Cr, 0..255."""
    cb, cr = cb - 128, cr - 128
    if WHOLE:  # floors, as >> does
        if C == 0:
            out = y + ((91881 * cr + 32768) >> 16)
        elif C == 1:
            out = y + ((-22554 * cb - 46802 * cr + 32768) >> 16)
        else:
            out = y + ((116130 * cb + 32768) >> 16)
        out = tl.minimum(tl.maximum(out, 0), 255).to(tl.float32)
        out = tl.div_rn(out, tl.full(out.shape, 255.0, tl.float32))
    else:
        if C == 0:
            out = y + cr * (2 * (1 - _KR))
        elif C == 1:
            out = y - cb * (2 * _KB * (1 - _KB) / _KG) - cr * (2 * _KR * (1 - _KR) / _KG)
        else:
            out = y + cb * (2 * (1 - _KB))
        out = tl.minimum(tl.maximum(out * (1 / 255), 0.0), 1.0)
    return out


@triton.jit
def _rgb_gradient(r, g, b, C, WHOLE: tl.constexpr):
    """Adjoint of :func:`_rgb` without its floors and clamps: gradient of Y', Cb or Cr."""
    if C == 0:
        out = r + g + b
    elif WHOLE:
        if C == 1:
            out = (-22554 / 65536) * g + (116130 / 65536) * b
        else:
            out = (91881 / 65536) * r + (-46802 / 65536) * g
    else:
        if C == 1:
            out = b * (2 * (1 - _KB)) - g * (2 * _KB * (1 - _KB) / _KG)
        else:
            out = r * (2 * (1 - _KR)) - g * (2 * _KR * (1 - _KR) / _KG)
    return out * (1 / 255)


@triton.jit
def _ycc_gradient(y, cb, cr, C: tl.constexpr, WHOLE: tl.constexpr):
    """Adjoint of :func:`_ycc`: gradient of R, G or B."""
    if WHOLE:
        if C == 0:
            out = (19595 / 65536) * y + (-11059 / 65536) * cb + 0.5 * cr
        elif C == 1:
            out = (38470 / 65536) * y + (-21709 / 65536) * cb + (-27439 / 65536) * cr
        else:
            out = (7471 / 65536) * y + 0.5 * cb + (-5329 / 65536) * cr
    else:
        if C == 0:
            out = y * _KR - cb * (0.5 * _KR / (1 - _KB)) + 0.5 * cr
        elif C == 1:
            out = y * _KG - cb * (0.5 * _KG / (1 - _KB)) - cr * (0.5 * _KG / (1 - _KR))
        else:
            out = y * _KB + 0.5 * cb - cr * (0.5 * _KB / (1 - _KR))
    return out * 255


# Blocks from planes and back, two rows (number k of four) at a time: [4, R, 4], halves of rows


@triton.jit
def _place(tile, BLOCKS, BLOCKS_X, R: tl.constexpr):
    """First row and column of each block, and which blocks there are. Shape: ``[1, R, 1]`` each."""
    b = tile * R + tl.arange(0, R)[None, :, None]
    valid = b < BLOCKS
    b = tl.minimum(b, BLOCKS - 1)
    return b // BLOCKS_X * 8, b % BLOCKS_X * 8, valid


@triton.jit
def _rows(y0, k):
    return y0 + (2 * k + tl.arange(0, 4)[:, None, None] // 2)


@triton.jit
def _columns(x0):
    return x0 + tl.arange(0, 4)[:, None, None] % 2 * 4 + tl.arange(0, 4)[None, None, :]


@triton.jit
def _at(y0, x0, k, H, W, EVEN: tl.constexpr):
    """Offsets in a plane, edges repeated."""
    y, x = _rows(y0, k), _columns(x0)
    if not EVEN:
        y, x = tl.minimum(y, H - 1), tl.minimum(x, W - 1)
    return y * W + x


@triton.jit
def _inside(y0, x0, k, valid, H, W, EVEN: tl.constexpr):
    """Which samples there are."""
    if EVEN:
        return valid
    else:
        return valid & (_rows(y0, k) < H) & (_columns(x0) < W)


@triton.jit
def _component(x, at, plane, C, COLOR: tl.constexpr, WHOLE: tl.constexpr):
    if COLOR:
        out = _ycc(tl.load(x + at), tl.load(x + plane + at), tl.load(x + 2 * plane + at), C, WHOLE)
    else:
        out = _grey(tl.load(x + at), WHOLE)
    return out


@triton.jit
def _source(x, y0, x0, H, W, C, COLOR: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr):
    """Component C of blocks of a picture, around 0."""
    out = ()
    for k in tl.static_range(4):
        a, b = _two(_component(x, _at(y0, x0, k, H, W, EVEN), H * W, C, COLOR, WHOLE), R)
        if WHOLE:
            out = out + (a - 128, b - 128)
        else:
            out = out + (a, b)
    return out


@triton.jit
def _decoded_gradient(g, y0, x0, H, W, C, COLOR: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr):
    """Gradient of decoded component C from that of RGB, 0 beyond the edges."""
    out = ()
    for k in tl.static_range(4):
        at = _at(y0, x0, k, H, W, EVEN)
        if COLOR:
            now = _rgb_gradient(tl.load(g + at), tl.load(g + H * W + at), tl.load(g + 2 * H * W + at), C, WHOLE)
        else:
            now = tl.load(g + at) * (1 / 255)
        if not EVEN:
            now = tl.where((_rows(y0, k) < H) & (_columns(x0) < W), now, 0.0)
        out = out + _two(now, R)
    return out


@triton.jit
def _folded(g, y0, x0, H, W, EVEN: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr):
    """Adjoint of repeating the last row and column: gradients beyond are added to it, or those of columns (without COLUMNS) to the next one."""
    if EVEN:
        return g
    else:
        y0, x = tl.reshape(y0, (R, 1)), tl.reshape(x0, (R, 1)) + tl.arange(0, 8)[None, :]
        out = ()
        carried = tl.zeros_like(g[0])
        for i in tl.static_range(8):  # from the last row up
            now = g[7 - i] + carried
            carried = tl.where(y0 + (7 - i) >= H, now, 0.0)
            beyond = tl.sum(tl.where(x >= W, now, 0.0), 1)[:, None]
            if COLUMNS:
                now = tl.where(x < W, tl.where(x == W - 1, now + beyond, now), 0.0)
            else:
                now = tl.where(x < W, now, tl.where(x == W, beyond, 0.0))
            out = (now,) + out
        return out


# Kernels. Arguments: pictures [N, 3 or 1, H, W]; tables [N or 1, 2, 64], STRIDE apart; BLOCKS blocks of a picture, BLOCKS_X in a row, in TILES
# programs of R blocks each. Components take turns in a loop that is not unrolled: unrolled, it would exceed the instruction cache and take three
# times as long to compile. ZERO is 0, unknown to the compiler: y0 + ZERO keeps it from sharing addresses and samples between components, for which
# there are not enough registers.


@triton.jit
def _code(
    x, out, tables, STRIDE, H, W, BLOCKS, BLOCKS_X, TILES, ZERO,
    COLOR: tl.constexpr, WHOLE: tl.constexpr, MODE: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Pictures without subsampling, from RGB to RGB."""
    n = (tl.program_id(0) // TILES).to(tl.int64)
    y0, x0, valid = _place(tl.program_id(0) % TILES, BLOCKS, BLOCKS_X, R)
    channels: tl.constexpr = 3 if COLOR else 1
    x += n * channels * H * W
    out += n * channels * H * W
    tables += n * STRIDE
    if COLOR:
        for i in range(3 + ZERO):  # Cb, Cr, Y' wait in the output: registers hold one component at a time
            c = (i + 1) % 3
            s = _coded(_source(x, y0, x0, H, W, c, COLOR, WHOLE, EVEN, R), tables + _second_table(c), WHOLE, MODE, R)
            _put(out + i * H * W, s, y0, x0, valid, H, W, EVEN, R)
            y0 += ZERO
        tl.debug_barrier()  # another thread may have written what this one reads
        for k in range(4 + ZERO):
            at, mask = _at(y0, x0, k, H, W, EVEN), _inside(y0, x0, k, valid, H, W, EVEN)
            cb, cr, y = tl.load(out + at, mask, 0.0), tl.load(out + H * W + at, mask, 0.0), tl.load(out + 2 * H * W + at, mask, 0.0)
            if WHOLE:
                cb, cr, y = cb.to(tl.int32), cr.to(tl.int32), y.to(tl.int32)
            for c in tl.static_range(3):
                tl.store(out + c * H * W + at, _rgb(y, cb, cr, c, WHOLE), mask)
    else:
        s = _coded(_source(x, y0, x0, H, W, 0, COLOR, WHOLE, EVEN, R), tables, WHOLE, MODE, R)
        for k in tl.static_range(4):
            at, mask = _at(y0, x0, k, H, W, EVEN), _inside(y0, x0, k, valid, H, W, EVEN)
            tl.store(out + at, _grey_out(_halves(s[2 * k], s[2 * k + 1], R), WHOLE), mask)


@triton.jit
def _second_table(c):
    """Where the table of component c begins: chroma has the second."""
    return tl.where(c > 0, 64, 0)


@triton.jit
def _grey_out(y, WHOLE: tl.constexpr):
    if WHOLE:
        y = y.to(tl.float32)
        out = tl.div_rn(y, tl.full(y.shape, 255.0, tl.float32))
    else:
        out = tl.minimum(tl.maximum(y * (1 / 255), 0.0), 1.0)
    return out


@triton.jit
def _code_luma(
    x, luma, chroma, tables, STRIDE, H, W, HC, WIDE, BLOCKS, BLOCKS_X, TILES,
    V: tl.constexpr, WHOLE: tl.constexpr, MODE: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Decoded luma ``[N, H, W]`` and chroma that is yet to be coded, box-filtered, ``[N, 2, HC, WIDE]``; bytes where whole."""
    n = (tl.program_id(0) // TILES).to(tl.int64)
    y0, x0, valid = _place(tl.program_id(0) % TILES, BLOCKS, BLOCKS_X, R)
    x += n * 3 * H * W
    chroma += n * 2 * HC * WIDE
    s = ()
    for k in tl.static_range(4):
        at = _at(y0, x0, k, H, W, EVEN)
        r, g, b = tl.load(x + at), tl.load(x + H * W + at), tl.load(x + 2 * H * W + at)
        upper, lower = _two(_ycc(r, g, b, 0, WHOLE), R)
        if WHOLE:
            upper, lower = upper - 128, lower - 128
        s = s + (upper, lower)
        for c in tl.static_range(2):
            upper, lower = _two(_ycc(r, g, b, c + 1, WHOLE), R)
            if V == 2:
                _put_boxed(chroma + c * HC * WIDE, upper + lower, y0 // 2 + k, x0 // 2, valid, HC, WIDE, V, WHOLE, EVEN, R)
            else:
                _put_boxed(chroma + c * HC * WIDE, upper, y0 + 2 * k, x0 // 2, valid, HC, WIDE, V, WHOLE, EVEN, R)
                _put_boxed(chroma + c * HC * WIDE, lower, y0 + (2 * k + 1), x0 // 2, valid, HC, WIDE, V, WHOLE, EVEN, R)
    s = _coded(s, tables + n * STRIDE, WHOLE, MODE, R)
    _put(luma + n * H * W, s, y0, x0, valid, H, W, EVEN, R)


@triton.jit
def _put_boxed(plane, row, y, x0, valid, HC, WIDE, V: tl.constexpr, WHOLE: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr):
    """Pairs of samples of a row (or of the sum of two) become a row of chroma. Shape: ``[R, 8] -> [R, 4]``."""
    a, b = tl.split(tl.reshape(row, (R, 4, 2)))
    now = _box(a + b, tl.arange(0, 4)[None, :], V, WHOLE)
    y, x0, mask = tl.reshape(y, (R, 1)), tl.reshape(x0, (R, 1)), tl.reshape(valid, (R, 1))
    if not EVEN:
        mask = mask & (y < HC)
    tl.store(plane + y * WIDE + x0 + tl.arange(0, 4)[None, :], now.to(plane.dtype.element_ty), mask)


@triton.jit
def _box(total, column, V: tl.constexpr, WHOLE: tl.constexpr):
    """Mean of 2 V samples from their sum. libjpeg's bias alternates: 1, 2 of 4, or 0, 1 of 2."""
    if WHOLE:
        return (total + (V - 1) + column % 2) >> V
    else:
        return total * (0.5 / V)


@triton.jit
def _code_chroma(
    x, out, tables, STRIDE, HC, WC, WIDE, BLOCKS, BLOCKS_X, TILES,
    WHOLE: tl.constexpr, MODE: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Decoded chroma, ``[N, 2, HC, WIDE] -> [N, 2, HC, WC]``; one of the 2 N planes to each run of TILES programs."""
    n = (tl.program_id(0) // TILES).to(tl.int64)
    y0, x0, valid = _place(tl.program_id(0) % TILES, BLOCKS, BLOCKS_X, R)
    s = _chroma(x + n * HC * WIDE, y0, x0, HC, WC, WIDE, WHOLE, EVEN, R)
    s = _coded(s, tables + n // 2 * STRIDE + 64, WHOLE, MODE, R)
    _put(out + n * HC * WC, s, y0, x0, valid, HC, WC, EVEN, R)


@triton.jit
def _chroma(plane, y0, x0, HC, WC, WIDE, WHOLE: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr):
    """Blocks of chroma that is yet to be coded, around 0."""
    out = ()
    for k in tl.static_range(4):
        y, x = _rows(y0, k), _columns(x0)
        if not EVEN:
            y = tl.minimum(y, HC - 1)
            if not WHOLE:  # the last sample is repeated; libjpeg repeats the picture's last column instead, which lies in the plane
                x = tl.minimum(x, WC - 1)
        now = tl.load(plane + y * WIDE + x)
        if WHOLE:
            now = now.to(tl.int32) - 128
        out = out + _two(now, R)
    return out


@triton.jit
def _put(plane, s, y0, x0, valid, H, W, EVEN: tl.constexpr, R: tl.constexpr):
    for k in tl.static_range(4):
        now = _halves(s[2 * k], s[2 * k + 1], R).to(plane.dtype.element_ty)
        tl.store(plane + _at(y0, x0, k, H, W, EVEN), now, _inside(y0, x0, k, valid, H, W, EVEN))


@triton.jit
def _to_rgb(luma, chroma, out, H, W, HC, WC, NEAR, TILES, V: tl.constexpr, WHOLE: tl.constexpr, SIZE: tl.constexpr):
    """Chroma by triangle filter to full size, and RGB, sample by sample."""
    n = (tl.program_id(0) // TILES).to(tl.int64)
    at = tl.program_id(0) % TILES * SIZE + tl.arange(0, SIZE)
    mask = at < H * W
    y, x = at // W, at % W
    luma += n * H * W
    chroma += n * 2 * HC * WC
    out += n * 3 * H * W
    column = x // 2
    beside = tl.minimum(tl.maximum(column + x % 2 * 2 - 1, 0), WC - 1)
    row, below = y, y
    if V == 2:
        row = y // 2
        below = tl.minimum(tl.maximum(row + y % 2 * 2 - 1, 0), HC - 1)
    blue = _spread(chroma, row, below, column, beside, x, WC, NEAR, mask, V, WHOLE)
    red = _spread(chroma + HC * WC, row, below, column, beside, x, WC, NEAR, mask, V, WHOLE)
    s = tl.load(luma + at, mask, 0)
    if WHOLE:
        s = s.to(tl.int32)
    for c in tl.static_range(3):
        tl.store(out + c * H * W + at, _rgb(s, blue, red, c, WHOLE), mask)


@triton.jit
def _spread(plane, row, below, column, beside, x, WC, NEAR, mask, V: tl.constexpr, WHOLE: tl.constexpr):
    far = 1 - NEAR
    near = tl.load(plane + row * WC + column, mask, 0).to(tl.float32)
    side = tl.load(plane + row * WC + beside, mask, 0).to(tl.float32)
    if V == 2:
        near = NEAR * near + far * tl.load(plane + below * WC + column, mask, 0).to(tl.float32)
        side = NEAR * side + far * tl.load(plane + below * WC + beside, mask, 0).to(tl.float32)
    out = NEAR * near + far * side
    if WHOLE:  # sixteenths are exact
        if V == 2:
            out = tl.floor(out + tl.where(x % 2 == 0, 0.5, 0.4375)).to(tl.int32)
        else:
            out = tl.floor(out + tl.where(x % 2 == 0, 0.25, 0.5)).to(tl.int32)
    return out


@triton.jit
def _chroma_gradient(
    x, grad, boxed, out, H, W, HC, WC, WIDE, NEAR, TILES, V: tl.constexpr, WHOLE: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """Chroma that is yet to be coded, again, and the gradient of decoded chroma from that of RGB: adjoint of :func:`_to_rgb`.

    Shape: ``[N, 2, HC, WIDE]`` each.
    """
    n = (tl.program_id(0) // TILES).to(tl.int64)
    at = tl.program_id(0) % TILES * SIZE + tl.arange(0, SIZE)
    mask = at < HC * WIDE
    i, j = at // WIDE, at % WIDE
    x += n * 3 * H * W
    grad += n * 3 * H * W
    boxed += n * 2 * HC * WIDE
    out += n * 2 * HC * WIDE
    for c in tl.static_range(2):
        total = tl.zeros([SIZE], tl.int32 if WHOLE else tl.float32)
        for a in tl.static_range(V):
            row = tl.minimum(V * i + a, H - 1) * W
            for b in tl.static_range(2):
                p = x + row + tl.minimum(2 * j + b, W - 1)
                total += _ycc(tl.load(p, mask, 0.0), tl.load(p + H * W, mask, 0.0), tl.load(p + 2 * H * W, mask, 0.0), c + 1, WHOLE)
        tl.store(boxed + c * HC * WIDE + at, _box(total, j, V, WHOLE).to(boxed.dtype.element_ty), mask)
    mask_c = mask & (j < WC)
    blue = tl.zeros([SIZE], tl.float32)
    red = tl.zeros([SIZE], tl.float32)
    rows: tl.constexpr = 4 if V == 2 else 1
    for a in tl.static_range(rows):
        if V == 2:  # samples 2 i - 1 .. 2 i + 2; what would lie beyond the ends is the end itself
            y = tl.minimum(tl.maximum(2 * i + a - 1, 0), 2 * HC - 1)
            weigh_y = NEAR if (a == 1 or a == 2) else 1 - NEAR
        else:
            y = i
            weigh_y = 1.0
        for b in tl.static_range(4):
            column = tl.minimum(tl.maximum(2 * j + b - 1, 0), 2 * WC - 1)
            weight = weigh_y * (NEAR if (b == 1 or b == 2) else 1 - NEAR)
            here = mask_c & (y < H) & (column < W)
            p = grad + y * W + column
            r, g, bl = tl.load(p, here, 0.0), tl.load(p + H * W, here, 0.0), tl.load(p + 2 * H * W, here, 0.0)
            blue += weight * _rgb_gradient(r, g, bl, 1, WHOLE)
            red += weight * _rgb_gradient(r, g, bl, 2, WHOLE)
    tl.store(out + at, blue, mask)
    tl.store(out + HC * WIDE + at, red, mask)


@triton.jit
def _chroma_backward(
    x, grad, tables, by_tables, STRIDE, WIDTH, HC, WC, WIDE, BLOCKS, BLOCKS_X, TILES,
    WHOLE: tl.constexpr, MODE: tl.constexpr, TABLES: tl.constexpr, EVEN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Gradient of box-filtered chroma from that of decoded chroma, in its place, ``grad [N, 2, HC, WIDE]``; planes as in :func:`_code_chroma`."""
    n = (tl.program_id(0) // TILES).to(tl.int64)
    y0, x0, valid = _place(tl.program_id(0) % TILES, BLOCKS, BLOCKS_X, R)
    grad += n * HC * WIDE
    g = ()
    for k in tl.static_range(4):
        g = g + _two(tl.load(grad + _rows(y0, k) * WIDE + _columns(x0), valid & (_rows(y0, k) < HC), 0.0), R)
    g = _coded_backward(
        _chroma(x + n * HC * WIDE, y0, x0, HC, WC, WIDE, WHOLE, EVEN, R), g, tables + n // 2 * STRIDE + 64,
        by_tables + tl.program_id(0) * 64, WIDTH, tl.reshape(valid, (R,)), WHOLE, MODE, TABLES, R,
    )  # fmt: skip
    g = _folded(g, y0, x0, HC, WC, EVEN, not WHOLE, R)
    for k in tl.static_range(4):  # all columns: the first beyond the last sample may hold a gradient too
        tl.store(grad + _rows(y0, k) * WIDE + _columns(x0), _halves(g[2 * k], g[2 * k + 1], R), valid & (_rows(y0, k) < HC))


@triton.jit
def _backward(
    x, grad, chroma, out, tables, by_tables, STRIDE, WIDTH, H, W, HC, WIDE, BLOCKS, BLOCKS_X, TILES, ZERO,
    COLOR: tl.constexpr, V: tl.constexpr, U: tl.constexpr, WHOLE: tl.constexpr, MODE: tl.constexpr, TABLES: tl.constexpr,
    EVEN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Gradient of the picture from that of RGB; with subsampling also from that of box-filtered chroma, ``chroma [N, 2, HC, WIDE]``."""
    n = (tl.program_id(0) // TILES).to(tl.int64)
    y0, x0, valid = _place(tl.program_id(0) % TILES, BLOCKS, BLOCKS_X, R)
    channels: tl.constexpr = 3 if COLOR else 1
    x += n * channels * H * W
    grad += n * channels * H * W
    out += n * channels * H * W
    tables += n * STRIDE
    by_tables += tl.program_id(0) * 192
    mask_r = tl.reshape(valid, (R,))
    if COLOR and U == 1:
        for i in range(3 + ZERO):  # as above
            c = (i + 1) % 3
            g = _coded_backward(
                _source(x, y0, x0, H, W, c, COLOR, WHOLE, EVEN, R), _decoded_gradient(grad, y0 + ZERO, x0, H, W, c, COLOR, WHOLE, EVEN, R),
                tables + _second_table(c), by_tables + 64 * c, WIDTH, mask_r, WHOLE, MODE, TABLES, R,
            )  # fmt: skip
            y0 += 2 * ZERO
            _put(out + i * H * W, _folded(g, y0, x0, H, W, EVEN, True, R), y0, x0, valid, H, W, EVEN, R)
            y0 += ZERO
        tl.debug_barrier()
        for k in range(4 + ZERO):
            at, mask = _at(y0, x0, k, H, W, EVEN), _inside(y0, x0, k, valid, H, W, EVEN)
            blue, red, luma = tl.load(out + at, mask, 0.0), tl.load(out + H * W + at, mask, 0.0), tl.load(out + 2 * H * W + at, mask, 0.0)
            for c in tl.static_range(3):
                tl.store(out + c * H * W + at, _ycc_gradient(luma, blue, red, c, WHOLE), mask)
    else:
        g = _coded_backward(
            _source(x, y0, x0, H, W, 0, COLOR, WHOLE, EVEN, R), _decoded_gradient(grad, y0 + ZERO, x0, H, W, 0, COLOR, WHOLE, EVEN, R),
            tables, by_tables, WIDTH, mask_r, WHOLE, MODE, TABLES, R,
        )  # fmt: skip
        y0 += 2 * ZERO
        g = _folded(g, y0, x0, H, W, EVEN, True, R)
        if COLOR:
            chroma += n * 2 * HC * WIDE
        for k in tl.static_range(4):
            if not EVEN:
                x0 += ZERO
            at, mask = _at(y0, x0, k, H, W, EVEN), _inside(y0, x0, k, valid, H, W, EVEN)
            luma = _halves(g[2 * k], g[2 * k + 1], R)
            if not COLOR:
                tl.store(out + at, luma * 255, mask)
            else:
                blue, red = _unboxed(chroma, _rows(y0, k), _columns(x0), mask, H, W, WIDE, HC * WIDE, V, EVEN)
                for c in tl.static_range(3):
                    tl.store(out + c * H * W + at, _ycc_gradient(luma, blue, red, c, WHOLE), mask)


@triton.jit
def _unboxed(chroma, y, x, mask, H, W, WIDE, plane, V: tl.constexpr, EVEN: tl.constexpr):
    """Adjoint of the box filter at samples (y, x), and of repeating the last column and row. Shape: ``[4, R, 4]`` for Cb and for Cr."""
    row = chroma + y // V * WIDE
    blue, red = tl.load(row + x // 2, mask, 0.0), tl.load(row + plane + x // 2, mask, 0.0)
    weight = 0.5 / V
    if not EVEN:  # the last column is counted again for each that is missing: of its own pair, and of those beyond, summed up after it
        last = mask & (x == W - 1)
        beyond = last & (x // 2 + 1 < WIDE)
        times = tl.where(last & (W % 2 == 1), 2.0, 1.0)
        blue = blue * times + 2 * tl.load(row + x // 2 + 1, beyond, 0.0)
        red = red * times + 2 * tl.load(row + plane + x // 2 + 1, beyond, 0.0)
        if V == 2:
            weight = tl.where((y == H - 1) & (y % 2 == 0), 0.5, 0.25)
    return blue * weight, red * weight


# Operations


def _tiles(blocks: int, most: int = 128) -> tuple[int, int]:
    """Number of programs for a number of blocks, and blocks per program."""
    r = min(most, 128 if blocks >= 128 else 64 if blocks >= 64 else 32)
    return -(-blocks // r), r


_MOST_CHROMA = 64  # blocks of a program for chroma's gradient by the tables: with more its threads get fewer registers than they need


def _warps(r: int, lean: bool) -> int:
    """Warps of a program of R blocks: a thread a block, or two where registers do not suffice for one."""
    return r // 32 if lean else r // 16


def _lean(even: bool, whole: bool, tables: bool, u: int = 2) -> bool:
    """Whether a thread has registers for a block in the backward pass."""
    return even and whole + tables + (u == 1) < 2


def _even(h: int, w: int, v: int, u: int) -> bool:
    return h % (8 * v) == 0 and w % (8 * u) == 0


@implements(reference.code_jpeg)
def code_jpeg(x: Tensor, tables: Tensor, v: int, u: int, exact: bool, mode: str, width: float) -> Tensor:
    mode = MODES[mode]
    x, tables = x.contiguous(), tables.contiguous()
    n, c, h, w = x.shape
    out = torch.empty_like(x)
    bx, by = -(-w // 8), -(-h // 8)
    tiles, r = _tiles(bx * by)
    stride = 128 if len(tables) > 1 else 0
    even = _even(h, w, v, u)
    if c == 1 or u == 1:
        _code[(n * tiles,)](x, out, tables, stride, h, w, bx * by, bx, tiles, 0, c == 3, exact, mode, even, r, num_warps=_warps(r, even))
        return out
    hc, wc = -(-h // v), -(-w // u)
    bxc, byc = -(-wc // 8), -(-hc // 8)
    kind = torch.uint8 if exact else torch.float32
    luma, boxed = x.new_empty(n, h, w, dtype=kind), x.new_empty(n, 2, hc, 8 * bxc, dtype=kind)
    chroma = x.new_empty(n, 2, hc, wc, dtype=kind)
    tiles, r = _tiles(2 * bxc * by)
    _code_luma[(n * tiles,)](
        x, luma, boxed, tables, stride, h, w, hc, 8 * bxc, 2 * bxc * by, 2 * bxc, tiles, v, exact, mode, even, r, num_warps=_warps(r, even)
    )
    tiles, r = _tiles(bxc * byc)
    _code_chroma[(2 * n * tiles,)](
        boxed, chroma, tables, stride, hc, wc, 8 * bxc, bxc * byc, bxc, tiles, exact, mode, even, r, num_warps=_warps(r, even)
    )
    size = 1024
    spans = -(-h * w // size)
    _to_rgb[(n * spans,)](luma, chroma, out, h, w, hc, wc, _near(wc, exact), spans, v, exact, size)
    return out


def _near(wc: int, exact: bool) -> float:
    """Weight of the nearest sample in the triangle filter; libjpeg repeats chroma at most two samples wide."""
    return 0.75 if wc > 2 or not exact else 1.0


@backward_of(reference.code_jpeg, of=["x", "tables"])
def code_jpeg_backward(
    grad: Tensor, x: Tensor, tables: Tensor, v: int, u: int, exact: bool, mode: str, width: float, needs_tables: bool
) -> tuple[Tensor, Tensor]:
    mode = MODES[mode]
    grad, x, tables = grad.contiguous(), x.contiguous(), tables.contiguous()
    n, c, h, w = x.shape
    out = torch.empty_like(x)
    bx, by = -(-w // 8), -(-h // 8)
    tiles, r = _tiles(bx * by)
    stride = 128 if len(tables) > 1 else 0
    even = _even(h, w, v, u)
    hc, wide, chroma, of_chroma = h, 0, x, None
    if c == 3 and u == 2:
        hc, wc = -(-h // v), -(-w // u)
        bxc, byc = -(-wc // 8), -(-hc // 8)
        wide = 8 * bxc
        boxed = x.new_empty(n, 2, hc, wide, dtype=torch.uint8 if exact else torch.float32)
        chroma = x.new_empty(n, 2, hc, wide)
        size = 512
        spans = -(-hc * wide // size)
        _chroma_gradient[(n * spans,)](x, grad, boxed, chroma, h, w, hc, wc, wide, _near(wc, exact), spans, v, exact, size)
        tiles_c, rc = _tiles(bxc * byc, _MOST_CHROMA if needs_tables else 128)
        of_chroma = x.new_empty((n, 2, tiles_c, 64) if needs_tables else (1,))
        _chroma_backward[(2 * n * tiles_c,)](
            boxed, chroma, tables, of_chroma, stride, width, hc, wc, wide, bxc * byc, bxc, tiles_c,
            exact, mode, needs_tables, even, rc, num_warps=_warps(rc, _lean(even, exact, needs_tables)),
        )  # fmt: skip
    of_tables = x.new_zeros(n, tiles, 3, 64) if needs_tables else x.new_empty(1)
    _backward[(n * tiles,)](
        x, grad, chroma, out, tables, of_tables, stride, width, h, w, hc, wide, bx * by, bx, tiles, 0,
        c == 3, v, u, exact, mode, needs_tables, even, r, num_warps=_warps(r, _lean(even, exact, needs_tables, u)),
    )  # fmt: skip
    if not needs_tables:
        return out, x.new_empty(0)
    parts = of_tables.sum(1)
    of_both = parts[:, 1:].sum(1) if of_chroma is None else of_chroma.sum((1, 2))
    total = torch.stack([parts[:, 0], of_both], 1)  # [N, 2, 64]
    return out, (total if len(tables) > 1 else total.sum(0, keepdim=True)).view(tables.shape)
