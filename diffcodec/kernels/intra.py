"""H.264's intra prediction in Triton: the cheapest mode of every block, prediction by given modes and its gradient; the twins are in
:mod:`diffcodec.h264.intra` and :mod:`diffcodec.h264.decide`.

Every mode is a matrix on a block's neighbours, which stand as rows of a tile with 128 behind them, for blocks that have none. Only DC depends on
which neighbours there are: it has four matrices. Macroblocks are predicted as four blocks of 8 x 8. All of it is whole numbers and their binary
fractions, exact in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..constants import Constant
from ..h264 import decide, intra
from ..h264.tables import HADAMARD4_OF_8, HADAMARD8
from . import differentiates, implements, ops, residual
from .inter import block_rows, of_macroblock, samples

_R = 16  # blocks in a program
_SIZE = 128  # blocks in a program that adds up
_PRICED = 4  # macroblocks in a program that prices them
_UNKNOWN, _NAMED, _UNNAMED = (tl.constexpr(v) for v in (decide.UNKNOWN, decide.NAMED, decide.UNNAMED))
_LARGE, _SMALL, _EIGHT_COST, _FOUR_COST = (tl.constexpr(v) for v in (decide.LARGE, decide.SMALL, *decide.SMALL_COST))
_TEXTURE, _RATE = tl.constexpr(decide.TEXTURE), tl.constexpr(decide.RATE)


def _raster(k: int, s: int) -> np.ndarray:
    """Samples of a k x k block as its blocks of s x s have them."""
    return np.arange(k * k).reshape(k // s, s, k // s, s).transpose(0, 2, 1, 3).reshape(-1)


def _mean(k: int, top: bool, left: bool, weight: float) -> np.ndarray:
    """A sample as the mean of neighbours: ``[wide]``."""
    row = np.zeros(_wide(k))
    row[1 : k + 1], row[2 * k + 1 : 3 * k + 1] = top * weight, left * weight
    return row if top or left else _nothing(k)


def _nothing(k: int) -> np.ndarray:
    return np.eye(_wide(k))[3 * k + 1]


def _wide(k: int) -> int:
    """Neighbours and the 128 behind them, filled up to a power of two."""
    return {4: 16, 8: 32, 16: 64}[k]


def _dc(k: int) -> np.ndarray:
    """By whether there are neighbours above (1) and to the left (2): ``[4, k*k, wide]``."""
    out = [_mean(k, bool(i & 1), bool(i & 2), 1 / k / max(1, (i & 1) + (i >> 1))) for i in range(4)]
    return np.stack([np.tile(row, (k * k, 1)) for row in out])


def _dc_chroma() -> np.ndarray:
    """By quadrant (8.3.4.1)."""
    out = np.zeros((4, 8, 8, 32))
    for i in range(4):
        has_top, has_left = bool(i & 1), bool(i & 2)
        for y in (0, 1):
            for x in (0, 1):
                top, left = has_top, has_left
                if has_top and has_left and x != y:  # one side alone: above at the right, left at the bottom
                    top, left = x == 1, y == 1
                row = np.zeros(32)
                weight = 1 / 4 / max(1, top + left)
                row[1 + 4 * x : 5 + 4 * x], row[17 + 4 * y : 21 + 4 * y] = top * weight, left * weight
                out[i, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = row if top or left else _nothing(8)
    return out.reshape(4, 64, 32)


def _widened(m: np.ndarray, k: int) -> np.ndarray:
    return np.pad(m, [(0, 0)] * (m.ndim - 1) + [(0, _wide(k) - m.shape[-1])])


def _flat(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertical and horizontal prediction: ``[k*k, wide]``."""
    unit = np.eye(_wide(k))
    vertical = np.stack([unit[1 + x] for _ in range(k) for x in range(k)])
    return vertical, np.stack([unit[2 * k + 1 + y] for y in range(k) for _ in range(k)])


@dataclass(frozen=True)
class _Kind:
    """Prediction of blocks of one size.

    Attributes:
        k: their side. modes: how many. dc, plane: which modes those are (plane -1: none).
        needs: bits of what each mode needs: 1 above, 2 left, 4 corner.
        matrices: of all modes, then DC's without neighbours, with those above and with those to the left, ``[modes + 3, subs, s*s, wide]``.
    """

    k: int
    modes: int
    dc: int
    plane: int
    needs: Constant
    matrices: Constant

    @staticmethod
    def of(k: int, modes: list[np.ndarray], dc: int, plane: int, needs: list[int], means: np.ndarray) -> _Kind:
        every = [*modes[:dc], means[3], *modes[dc:], means[0], means[1], means[2]]
        s = min(k, 8)
        m = np.stack(every)[:, _raster(k, s)].reshape(len(every), (k // s) ** 2, s * s, _wide(k))
        return _Kind(k, len(modes) + 1, dc, plane, Constant(needs), Constant(m))


def _small(k: int) -> _Kind:
    m = _widened(intra.MODES[k].value.numpy(), k)
    needs = [int(n @ [1, 2, 4]) for n in intra.NEEDS.astype(int)]
    return _Kind.of(k, [m[i] for i in range(9) if i != 2], 2, -1, needs, _dc(k))


_LUMA, _CHROMA = 16, 0
_KINDS = {
    4: _small(4),
    8: _small(8),
    _LUMA: _Kind.of(16, [*_flat(16), _widened(intra.PLANE[16].value.numpy(), 16)], 2, 3, [1, 2, 0, 7], _dc(16)),
    _CHROMA: _Kind.of(8, [*_flat(8)[::-1], _widened(intra.PLANE[8].value.numpy(), 8)], 0, 3, [0, 2, 1, 7], _dc_chroma()),
}
# Hadamard transforms without DCs, the columns without a sign: [2, 64, 64]
_TEXTURES = Constant(np.stack([m * (m < 0).any(0) for m in (HADAMARD4_OF_8.value.numpy(), HADAMARD8.value.numpy())]))
_SMOOTH = Constant(
    np.stack([np.pad(intra.SMOOTH.value.numpy()[i], (0, 7)) + np.diag([0.0] * 25 + [1.0] + [0.0] * 6) for i in (0, 1, 2, 7)])
)


@triton.jit
def _half_up(x):
    return tl.floor(x + 0.5)


@triton.jit
def _neighbours(plane, places, b, H, W, COUNT: tl.constexpr, WIDE: tl.constexpr):
    """Neighbours of blocks, 128 where there are none and behind them; where they lie, and which are samples. Shape: ``[R] -> [R, WIDE]``."""
    j = tl.arange(0, WIDE)[None, :]
    at = tl.load(places + b[:, None] * COUNT + j, j < COUNT, 0).to(tl.int32)  # in a plane with a row above and a column to the left
    y, x = at // (W + 1) - 1, at % (W + 1) - 1
    real = (j < COUNT) & (y >= 0) & (x >= 0)
    v = tl.load(plane + y * W + x, real, 128.0)
    return tl.where(j <= COUNT, v, 0.0), y * W + x, real


@triton.jit
def _matrix(pointer, rows: tl.constexpr, columns: tl.constexpr, TURNED: tl.constexpr):
    i, j = tl.arange(0, rows), tl.arange(0, columns)
    if TURNED:
        m = tl.load(pointer + i[None, :] * columns + j[:, None])
    else:
        m = tl.load(pointer + i[:, None] * columns + j[None, :])
    return m


@triton.jit
def _times(x, matrix):
    return tl.dot(x, matrix, input_precision="tf32x3")


@triton.jit
def _smoothed(v, there, smooth, BACK: tl.constexpr):
    """The filter of the neighbours of 8 x 8 blocks (8.3.2.2.1), or its adjoint."""
    out = v
    for i in tl.static_range(4):
        kind = 7 if i == 3 else i
        out = tl.where((there == kind)[:, None], _times(v, _matrix(smooth + i * 1024, 32, 32, not BACK)), out)
    return out


@triton.jit
def _mode(v, there, matrices, m, sub, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr):
    """Predicted samples, neither rounded nor clipped. Shape: ``[R, WIDE] -> [R, S]``."""
    p = _times(v, _matrix(matrices + (m * SUBS + sub) * (S * WIDE), S, WIDE, True))
    if m == DC:
        for i in tl.static_range(3):
            one = _times(v, _matrix(matrices + ((MODES + i) * SUBS + sub) * (S * WIDE), S, WIDE, True))
            p = tl.where((there == i)[:, None], one, p)
    return p


@triton.jit
def _sides(there_of, b):
    """Bits of what neighbours there are: 1 above, 2 left, 4 corner."""
    return tl.load(there_of + 3 * b) + 2 * tl.load(there_of + 3 * b + 1) + 4 * tl.load(there_of + 3 * b + 2)


@triton.jit
def _samples(b, sub, W, ACROSS, K: tl.constexpr, S: tl.constexpr):
    """Where samples of part ``sub`` of blocks lie in their plane. Shape: ``[R] -> [R, S]``."""
    side: tl.constexpr = 4 if S == 16 else 8
    s = tl.arange(0, S)[None, :]
    y = (b // ACROSS * K)[:, None] + sub // 2 * side + s // side
    return y * W + (b % ACROSS * K)[:, None] + sub % 2 * side + s % side


@triton.jit
def _blocks(BLOCKS, TILES, R: tl.constexpr):
    """Plane (or frame), blocks of this program, and which there are."""
    b = tl.program_id(0) % TILES * R + tl.arange(0, R)
    return (tl.program_id(0) // TILES).to(tl.int64), tl.minimum(b, BLOCKS - 1), b < BLOCKS


@triton.jit
def _macroblock(n, b, BLOCKS, ACROSS, K: tl.constexpr, PLANES: tl.constexpr):
    """Number of the macroblock that each block lies in, of all frames."""
    side: tl.constexpr = 1 if PLANES == 2 else 16 // K
    return n * (BLOCKS // (side * side)) + b // ACROSS // side * (ACROSS // side) + b % ACROSS // side


@triton.jit
def _choose(
    source, around, places, there_of, lam, needs, bits, expected, matrices, smooth, hadamard, costs, found, BLOCKS, H, W, TILES,
    K: tl.constexpr, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr, PLANES: tl.constexpr,
    SMOOTH: tl.constexpr, EXPECTED: tl.constexpr, SATD: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The mode of least distance + lambda bits of each block, Cb and Cr together."""
    n, b, inside = _blocks(BLOCKS, TILES, R)
    count: tl.constexpr = 3 * K + 1
    across = W // K
    there = _sides(there_of, b)
    weight = tl.load(lam + _macroblock(n, b, BLOCKS, across, K, PLANES))
    best = tl.full([R], float("inf"), tl.float32)
    which = tl.zeros([R], tl.int32)
    if SATD:
        transform = _matrix(hadamard, S, S, False)
    for m in range(MODES):
        cost = tl.zeros([R], tl.float32)
        for i in tl.static_range(PLANES):
            plane = (n * PLANES + i) * H * W
            v, _at, _real = _neighbours(around + plane, places, b, H, W, count, WIDE)
            if SMOOTH:
                v = _half_up(_smoothed(v, there, smooth, False))
            for sub in range(SUBS):
                p = _mode(v, there, matrices, m, sub, MODES, SUBS, DC, S, WIDE)
                p = tl.minimum(tl.maximum(_half_up(p), 0.0), 255.0)
                difference = tl.load(source + plane + _samples(b, sub, W, across, K, S)) - p
                if SATD:
                    difference = tl.dot(difference, transform, input_precision="tf32")
                cost += tl.sum(tl.abs(difference), 1)
        need = tl.load(needs + m).to(tl.int32)
        cost += tl.where((there & need) == need, 0.0, 1e9)
        if EXPECTED:
            cost += 3 * weight * tl.where(tl.load(expected + n * BLOCKS + b) == m, 0.0, 1.0)
        else:
            cost += weight * tl.load(bits + m)
        which = tl.where(cost < best, m, which)
        best = tl.minimum(cost, best)
    tl.store(costs + n * BLOCKS + b, best, inside)
    tl.store(found + n * BLOCKS + b, which.to(tl.int64), inside)


@triton.jit
def _predict(
    around, places, there_of, modes, kind, matrices, smooth, out, BLOCKS, H, W, TILES,
    WANT: tl.constexpr, K: tl.constexpr, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr,
    PLANES: tl.constexpr, SMOOTH: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Prediction by modes, of macroblocks of the kind wanted (-1: all)."""
    n, b, inside = _blocks(BLOCKS, TILES, R)
    count: tl.constexpr = 3 * K + 1
    across = W // K
    if WANT >= 0:
        inside &= tl.load(kind + _macroblock(n, b, BLOCKS, across, K, PLANES)) == WANT
    there = _sides(there_of, b)
    mode = tl.load(modes + n // PLANES * BLOCKS + b)
    v, _at, _real = _neighbours(around + n * H * W, places, b, H, W, count, WIDE)
    if SMOOTH:
        v = _half_up(_smoothed(v, there, smooth, False))
    for sub in range(SUBS):
        p = tl.zeros([R, S], tl.float32)
        for m in range(MODES):
            one = _mode(v, there, matrices, m, sub, MODES, SUBS, DC, S, WIDE)
            p = tl.where((mode == m)[:, None], one, p)
        p = tl.minimum(tl.maximum(_half_up(p), 0.0), 255.0)
        tl.store(out + n * H * W + _samples(b, sub, W, across, K, S), p, inside[:, None])


@triton.jit
def _predict_backward(
    grad, around, places, there_of, modes, kind, matrices, smooth, out, BLOCKS, H, W, TILES,
    WANT: tl.constexpr, K: tl.constexpr, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, PLANE: tl.constexpr, S: tl.constexpr,
    WIDE: tl.constexpr, PLANES: tl.constexpr, SMOOTH: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Gradient of the samples around, added to ``out``."""
    n, b, inside = _blocks(BLOCKS, TILES, R)
    count: tl.constexpr = 3 * K + 1
    across = W // K
    if WANT >= 0:
        inside &= tl.load(kind + _macroblock(n, b, BLOCKS, across, K, PLANES)) == WANT
    there = _sides(there_of, b)
    mode = tl.load(modes + n // PLANES * BLOCKS + b)
    v, at, real = _neighbours(around + n * H * W, places, b, H, W, count, WIDE)
    of_v = tl.zeros([R, WIDE], tl.float32)
    for sub in range(SUBS):
        g = tl.load(grad + n * H * W + _samples(b, sub, W, across, K, S), inside[:, None], 0.0)
        if PLANE >= 0:  # the clip passes the gradient where it does not act
            p = _half_up(_mode(v, there, matrices, PLANE, sub, MODES, SUBS, -1, S, WIDE))
            g = tl.where((mode == PLANE)[:, None] & ((p < 0) | (p > 255)), 0.0, g)
        for m in range(MODES):
            mine = (mode == m)[:, None]
            if m == DC:
                for i in tl.static_range(3):
                    one = tl.where(mine & (there == i)[:, None], g, 0.0)
                    of_v += _times(one, _matrix(matrices + ((MODES + i) * SUBS + sub) * (S * WIDE), S, WIDE, False))
                mine = mine & (there >= 3)[:, None]
            of_v += _times(tl.where(mine, g, 0.0), _matrix(matrices + (m * SUBS + sub) * (S * WIDE), S, WIDE, False))
    if SMOOTH:
        of_v = _smoothed(of_v, there, smooth, True)
    tl.atomic_add(out + n * H * W + at, of_v, real & inside[:, None])


# Macroblocks: which modes neighbours predict, which kind is cheapest


@triton.jit
def _likely(kind, eight, four, likely8, likely4, BLOCKS, BH, BW, SIZE: tl.constexpr):
    """:func:`diffcodec.h264.intra.predicted_modes`; blocks are those of 4 x 4, BH and BW count macroblocks."""
    b = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = b < BLOCKS
    y, x, n = b // (4 * BW) % (4 * BH), b % (4 * BW), b // (16 * BH * BW)
    best8, best4 = tl.full([SIZE], 9, tl.int64), tl.full([SIZE], 9, tl.int64)
    for side in tl.static_range(2):
        at, oy, ox = (x, y, x - 1) if side == 0 else (y, y - 1, x)
        inside = there & (at > 0)
        of = tl.load(kind + (n * BH + oy // 4) * BW + ox // 4, inside, 0)
        own8 = tl.load(eight + (n * 2 * BH + oy // 2) * 2 * BW + ox // 2, inside, 2)
        own4 = tl.load(four + (n * 4 * BH + oy) * 4 * BW + ox, inside, 2)
        actual = tl.where(of == 2, own4, tl.where(of == 1, own8, 2))
        own_macroblock = at % 4 != 0
        best8 = tl.minimum(best8, tl.where(own_macroblock, own8, actual))
        best4 = tl.minimum(best4, tl.where(own_macroblock, own4, actual))
    edge = (y == 0) | (x == 0)
    tl.store(likely4 + b, tl.where(edge, 2, best4), there)
    first = there & (y % 2 == 0) & (x % 2 == 0)
    tl.store(likely8 + (n * 2 * BH + y // 2) * 2 * BW + x // 2, tl.where(edge, 2, best8), first)


@triton.jit
def _sum_of_blocks(costs, modes, likely, mb, y, x, n, BH, BW, there, K: tl.constexpr, KNOWN: tl.constexpr):
    """Cost of the blocks of macroblocks, and bits of their modes."""
    side: tl.constexpr = 16 // K
    total, bits = tl.zeros(mb.shape, tl.float32), tl.zeros(mb.shape, tl.float32)
    for i in tl.static_range(side * side):
        b = (n * BH * side + y * side + i // side) * BW * side + x * side + i % side
        total += tl.load(costs + b, there, 0.0)
        if KNOWN:
            bits += tl.where(tl.load(modes + b, there, 0) == tl.load(likely + b, there, 0), _NAMED, _UNNAMED)
        else:
            bits += _UNKNOWN
    return total, bits


@triton.jit
def _weigh(
    costs16, costs8, costs4, modes16, modes8, modes4, likely8, likely4, lam, large_bits, kind, cost, bits, of_kinds, BLOCKS, BH, BW,
    KNOWN: tl.constexpr, SMALL: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The kind of each macroblock by distance + lambda bits."""
    mb = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = mb < BLOCKS
    y, x, n = mb // BW % BH, mb % BW, mb // (BH * BW)
    best = tl.load(costs16 + mb, there, 0.0)
    which = tl.zeros([SIZE], tl.int64)
    named = tl.load(large_bits + tl.load(modes16 + mb, there, 0)) + _LARGE
    tl.store(of_kinds + mb, named, there)
    if SMALL:
        weight = tl.load(lam + mb, there, 0.0)
        for i in tl.static_range(1, 3):
            if i == 1:
                total, mine = _sum_of_blocks(costs8, modes8, likely8, mb, y, x, n, BH, BW, there, 8, KNOWN)
                total += _EIGHT_COST * weight
            else:
                total, mine = _sum_of_blocks(costs4, modes4, likely4, mb, y, x, n, BH, BW, there, 4, KNOWN)
                total += _FOUR_COST * weight
            mine += _SMALL
            tl.store(of_kinds + i * BLOCKS + mb, mine, there)
            which = tl.where(total < best, i, which)
            named = tl.where(total < best, mine, named)
            best = tl.minimum(total, best)
    tl.store(kind + mb, which, there)
    tl.store(cost + mb, best, there)
    tl.store(bits + mb, named, there)


@triton.jit
def _lost(x, y, matrix):
    """How much texture two sets of 8 x 8 samples differ by, of four a macroblock. Shape: ``[4 P, 64] -> [4 P]``."""
    m = _matrix(matrix, 64, 64, False)
    a = tl.sum(tl.abs(tl.dot(x, m, input_precision="tf32")), 1)
    return a - tl.sum(tl.abs(tl.dot(y, m, input_precision="tf32")), 1)


@triton.jit
def _price(source, done, lam, bits, textures, out, BLOCKS, BH, BW, P: tl.constexpr):
    """:func:`diffcodec.h264.decide.price` of P macroblocks, whose bits are known."""
    b, there, rb, top, left, i, k = block_rows(tl.program_id(0) * P, BLOCKS, BH, BW, 16, P)
    mine, other = samples(source, rb, top, left, i, k, BH, BW, 16), samples(done, rb, top, left, i, k, BH, BW, 16)
    error = of_macroblock(tl.sum((mine - other) * (mine - other), 1), P)
    lost = tl.abs(of_macroblock(_lost(mine, other, textures), P)) + tl.abs(of_macroblock(_lost(mine, other, textures + 4096), P))
    weight = tl.load(lam + b)
    cost = error + _TEXTURE * weight * lost + _RATE * weight * weight * tl.load(bits + b)
    tl.store(out + b, cost, there)


def warps(kind: int) -> int:
    """Of a program: matrices of 64 x 64 take many registers."""
    return 8 if kind == _LUMA else 4


def _shape(kind: int) -> dict[str, int]:
    """What kernels are specialised by."""
    of = _KINDS[kind]
    _, subs, s, wide = of.matrices.value.shape
    flags = {"SMOOTH": kind == 8, "PLANES": 2 if kind == _CHROMA else 1, "R": _R}
    return {"K": of.k, "MODES": of.modes, "SUBS": subs, "DC": of.dc, "S": s, "WIDE": wide, **flags}


def _around(kind: int, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int, int, int]]:
    """Where neighbours lie and which there are; blocks, height, width and programs of a plane."""
    h, w = x.shape[-2:]
    k = _KINDS[kind].k
    places, there = intra.places(k, h, w, x.device)
    return (places, there.view(torch.uint8)), (len(places), h, w, -(-len(places) // _R))


_LIBRARY = torch.library.Library("diffcodec", "FRAGMENT")
_LIBRARY.define(
    "cheapest_intra(Tensor source, Tensor around, Tensor lam, Tensor bits, Tensor? expected, Tensor? transform, int kind) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "choose_intra(Tensor source, Tensor around, Tensor lam, Tensor large_bits, Tensor small_bits, Tensor[] known, Tensor[] transforms,"
    " bool small) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "price_intra(Tensor source, Tensor around, Tensor[] modes, Tensor qp, Tensor lam, Tensor bits, float[] prefer) -> (Tensor, Tensor)"
)
_LIBRARY.define("predict_intra(Tensor around, Tensor[] modes, Tensor? kind) -> Tensor")
_LIBRARY.define("predict_intra_backward(Tensor grad, Tensor around, Tensor[] modes, Tensor? kind) -> Tensor")


@implements(_LIBRARY, "cheapest_intra")
def _chosen(
    source: Tensor, around: Tensor, lam: Tensor, bits: Tensor, expected: Tensor | None, transform: Tensor | None, kind: int
) -> tuple[Tensor, Tensor]:
    source, around = source.contiguous(), around.contiguous()
    costs, modes = _chosen_shape(source, around, lam, bits, expected, transform, kind)
    of = _KINDS[kind]
    where, sizes = _around(kind, source)
    given = (
        lam.contiguous(),
        of.needs.like(source),
        bits.contiguous(),
        modes if expected is None else expected.contiguous(),
        of.matrices.like(source),
    )
    _choose[(len(source) * sizes[3],)](
        source, around, *where, *given, _SMOOTH.like(source), bits if transform is None else transform, costs, modes, *sizes,
        **_shape(kind), EXPECTED=expected is not None, SATD=transform is not None, num_warps=warps(kind),
    )  # fmt: skip
    return costs, modes


@torch.library.register_fake("diffcodec::cheapest_intra", lib=_LIBRARY)
def _chosen_shape(
    source: Tensor, around: Tensor, lam: Tensor, bits: Tensor, expected: Tensor | None, transform: Tensor | None, kind: int
) -> tuple[Tensor, Tensor]:
    k = _KINDS[kind].k
    blocks = source.shape[-2] // k * (source.shape[-1] // k)
    return source.new_empty(len(source), blocks), source.new_empty(len(source), blocks, dtype=torch.int64)


@implements(_LIBRARY, "choose_intra")
def _kinds_chosen(
    source: Tensor, around: Tensor, lam: Tensor, large_bits: Tensor, small_bits: Tensor, known: list[Tensor], transforms: list[Tensor],
    small: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    source, around, lam = source.contiguous(), around.contiguous(), lam.contiguous()
    kind, cost, bits, of_kinds, *_ = _kinds_chosen_shape(source, around, lam, large_bits, small_bits, known, transforms, small)
    _, bh, bw = lam.shape
    t16, t8, t4 = transforms if transforms else (None, None, None)
    found = [_chosen(source, around, lam, large_bits, None, t16, _LUMA)] * 3
    likely = found[0][1], found[0][1]
    if small:
        if known:
            of, eight, four = (x.contiguous() for x in known)
            likely = torch.empty_like(eight), torch.empty_like(four)
            _likely[(-(-four.numel() // _SIZE),)](of, eight, four, *likely, four.numel(), bh, bw, _SIZE)
        for i, (k, transform, expected) in enumerate(zip((8, 4), (t8, t4), likely)):
            found[1 + i] = _chosen(source, around, lam, small_bits, expected if known else None, transform, k)
    costs, modes = zip(*found)
    sizes = (lam.numel(), bh, bw, bool(known), small, _SIZE)
    _weigh[(-(-lam.numel() // _SIZE),)](*costs, *modes, *likely, lam, large_bits, kind, cost, bits, of_kinds, *sizes)
    return kind, cost, bits, of_kinds, *(modes if small else (modes[0], modes[0].new_empty(0), modes[0].new_empty(0)))


@torch.library.register_fake("diffcodec::choose_intra", lib=_LIBRARY)
def _kinds_chosen_shape(
    source: Tensor, around: Tensor, lam: Tensor, large_bits: Tensor, small_bits: Tensor, known: list[Tensor], transforms: list[Tensor],
    small: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, bh, bw = lam.shape
    of_kinds = source.new_empty(3 if small else 1, n, bh, bw)
    shapes = [(n, bh * bw * m) for m in (1, 4, 16)] if small else [(n, bh * bw), (0,), (0,)]
    kind, *modes = (source.new_empty(s, dtype=torch.int64) for s in [lam.shape, *shapes])
    return kind, source.new_empty(lam.shape), source.new_empty(lam.shape), of_kinds, *modes


@implements(_LIBRARY, "price_intra")
def _priced(
    source: Tensor, around: Tensor, modes: list[Tensor], qp: Tensor, lam: Tensor, bits: Tensor, prefer: list[float]
) -> tuple[Tensor, Tensor]:
    source, around, qp, lam = source.contiguous(), around.contiguous(), qp.contiguous(), lam.contiguous()
    side, costs = bits.clone(memory_format=torch.contiguous_format), bits.new_empty(bits.shape)
    yes, no = (torch.full(qp.shape, v, dtype=torch.uint8, device=qp.device) for v in (1, 0))
    levels, coded = source.new_empty(*qp.shape, 256), yes.new_empty(source.shape[0], source.shape[1] // 4, source.shape[2] // 4)
    sizes = (lam.numel(), *lam.shape[1:])
    for i, ((k, _, mode), transform) in enumerate(zip(_order(modes, around), (residual.FOUR, residual.EIGHT, residual.FOUR))):
        predicted, done = torch.empty_like(around), torch.empty_like(source)
        _predict_kind(k, -1, around, mode, mode, predicted)
        masks = [yes, yes if k == 8 else no, yes if k == _LUMA else no]
        residual.code_kind(transform.value, source, predicted, qp, masks, done, levels, coded, prefer, True)
        residual.add_bits(levels, transform.value, side[i])
        _price[(-(-lam.numel() // _PRICED),)](source, done, lam, side[i], _TEXTURES.like(source), costs[i], *sizes, _PRICED)
    kind = costs.argmin(0)
    return kind, bits.gather(0, kind[None])[0]


@torch.library.register_fake("diffcodec::price_intra", lib=_LIBRARY)
def _priced_shape(
    source: Tensor, around: Tensor, modes: list[Tensor], qp: Tensor, lam: Tensor, bits: Tensor, prefer: list[float]
) -> tuple[Tensor, Tensor]:
    return modes[0].new_empty(lam.shape), lam.new_empty(lam.shape)


def _order(modes: list[Tensor], x: Tensor) -> list[tuple[int, int, Tensor]]:
    """Kind, number among kinds of macroblocks (-1: all are of it) and modes."""
    if x.dim() == 4:
        return [(_CHROMA, -1, modes[0])]
    return [(k, i if len(modes) > 1 else -1, m) for i, (k, m) in enumerate(zip((_LUMA, 8, 4), modes))]


def _predict_kind(which: int, want: int, around: Tensor, mode: Tensor, kind: Tensor, out: Tensor) -> None:
    """Predict blocks of one size, of the macroblocks of the kind wanted (-1: all), into ``out``."""
    where, sizes = _around(which, around)
    given = (*where, mode.contiguous(), kind, _KINDS[which].matrices.like(around), _SMOOTH.like(around))
    planes = around.numel() // (sizes[1] * sizes[2])
    _predict[(planes * sizes[3],)](around, *given, out, *sizes, WANT=want, **_shape(which), num_warps=warps(which))


@implements(_LIBRARY, "predict_intra")
def _predicted(around: Tensor, modes: list[Tensor], kind: Tensor | None) -> Tensor:
    around = around.contiguous()
    out = around.new_empty(around.shape)
    for which, want, mode in _order(modes, around):
        _predict_kind(which, want, around, mode, mode if kind is None else kind.contiguous(), out)
    return out


@torch.library.register_fake("diffcodec::predict_intra", lib=_LIBRARY)
def _predicted_shape(around: Tensor, modes: list[Tensor], kind: Tensor | None) -> Tensor:
    return around.new_empty(around.shape)


@implements(_LIBRARY, "predict_intra_backward")
def _predicted_backward(grad: Tensor, around: Tensor, modes: list[Tensor], kind: Tensor | None) -> Tensor:
    grad, around = grad.contiguous(), around.contiguous()
    out = around.new_zeros(around.shape)
    planes = around.numel() // around[0, 0].numel() if around.dim() == 4 else len(around)
    for which, want, mode in _order(modes, around):
        where, sizes = _around(which, around)
        of = mode if kind is None else kind.contiguous()
        given = (*where, mode.contiguous(), of, _KINDS[which].matrices.like(around), _SMOOTH.like(around))
        _predict_backward[(planes * sizes[3],)](grad, around, *given, out, *sizes, WANT=want, PLANE=_KINDS[which].plane, **_shape(which))
    return out


@torch.library.register_fake("diffcodec::predict_intra_backward", lib=_LIBRARY)
def _predicted_backward_shape(grad: Tensor, around: Tensor, modes: list[Tensor], kind: Tensor | None) -> Tensor:
    return around.new_empty(around.shape)


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    around, modes, kind = inputs
    ctx.save_for_backward(around, kind, *modes)


def _gradients(ctx, grad):  # type: ignore[no-untyped-def]
    around, kind, *modes = ctx.saved_tensors
    return ops.predict_intra_backward(grad, around, modes, kind), [None] * len(modes), None


differentiates(_LIBRARY, "predict_intra", _keep, _gradients)
