"""H.264's intra prediction in Triton: the cheapest mode of every block, prediction by given modes and its gradient.

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

from ...blocks import repeat_blocks
from ...constants import Constant
from ...implement import backward_of, implements
from ..common.distortion import transform_of
from ..common.triton import half_up
from ..residual import rate
from ..residual.triton import code_luma
from . import reference

_R = 16  # blocks in a program
_SIZE = 128  # blocks in a program that adds up
_BITS_UNKNOWN, _BITS_PREDICTED, _BITS_OTHER, _MB_BITS_16X16, _MB_BITS_SMALL, _MB_COST_8X8, _MB_COST_4X4 = (
    tl.constexpr(v)
    for v in (
        reference.BITS_UNKNOWN,
        reference.BITS_PREDICTED,
        reference.BITS_OTHER,
        reference.MB_BITS_16X16,
        reference.MB_BITS_SMALL,
        *reference.MB_COST_SMALL,
    )
)
_NOT_PREDICTED, _FORBIDDEN = tl.constexpr(reference.NOT_PREDICTED), tl.constexpr(reference.FORBIDDEN)


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
    m = _widened(reference.MODES[k].value.numpy(), k)
    needs = [int(n @ [1, 2, 4]) for n in reference.NEEDS.astype(int)]
    return _Kind.of(k, [m[i] for i in range(9) if i != 2], 2, -1, needs, _dc(k))


_LUMA, _CHROMA = 16, 0
_KINDS = {
    4: _small(4),
    8: _small(8),
    _LUMA: _Kind.of(16, [*_flat(16), _widened(reference.PLANE[16].value.numpy(), 16)], 2, 3, [1, 2, 0, 7], _dc(16)),
    _CHROMA: _Kind.of(8, [*_flat(8)[::-1], _widened(reference.PLANE[8].value.numpy(), 8)], 0, 3, [0, 2, 1, 7], _dc_chroma()),
}
_SMOOTH = Constant(
    np.stack([np.pad(reference.SMOOTH.value.numpy()[i], (0, 7)) + np.diag([0.0] * 25 + [1.0] + [0.0] * 6) for i in (0, 1, 2, 7)])
)


@triton.jit
def _neighbours(plane, positions, b, H, W, COUNT: tl.constexpr, WIDE: tl.constexpr):
    """Neighbours of blocks, 128 where there are none and behind them; where they lie, and which are samples. Shape: ``[R] -> [R, WIDE]``."""
    j = tl.arange(0, WIDE)[None, :]
    offset = tl.load(positions + b[:, None] * COUNT + j, j < COUNT, 0).to(tl.int32)  # in a plane with a row above and a column to the left
    y, x = offset // (W + 1) - 1, offset % (W + 1) - 1
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
def _smoothed(v, available, smooth, BACK: tl.constexpr):
    """The filter of the neighbours of 8 x 8 blocks (8.3.2.2.1), or its adjoint."""
    out = v
    for i in tl.static_range(4):
        sides = 7 if i == 3 else i
        out = tl.where((available == sides)[:, None], _times(v, _matrix(smooth + i * 1024, 32, 32, not BACK)), out)
    return out


@triton.jit
def _mode(v, available, matrices, m, sub, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr):
    """Predicted samples, neither rounded nor clipped. Shape: ``[R, WIDE] -> [R, S]``."""
    p = _times(v, _matrix(matrices + (m * SUBS + sub) * (S * WIDE), S, WIDE, True))
    if m == DC:
        for i in tl.static_range(3):
            one = _times(v, _matrix(matrices + ((MODES + i) * SUBS + sub) * (S * WIDE), S, WIDE, True))
            p = tl.where((available == i)[:, None], one, p)
    return p


@triton.jit
def _sides(available_of, b):
    """Bits of what neighbours there are: 1 above, 2 left, 4 corner."""
    return tl.load(available_of + 3 * b) + 2 * tl.load(available_of + 3 * b + 1) + 4 * tl.load(available_of + 3 * b + 2)


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
    source, constructed, positions, available_of, lam, needs, bits, expected, matrices, smooth, hadamard, costs, modes_out, BLOCKS,
    H, W, TILES, COUNT,
    K: tl.constexpr, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr, PLANES: tl.constexpr,
    SMOOTH: tl.constexpr, PREDICTED: tl.constexpr, USE_SATD: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The mode of least distance + lambda bits of each block, Cb and Cr together."""
    n, b, inside = _blocks(BLOCKS, TILES, R)
    count: tl.constexpr = 3 * K + 1
    across = W // K
    available = _sides(available_of, b)
    weight = tl.load(lam + n * BLOCKS + b)
    best = tl.full([R], float("inf"), tl.float32)
    best_mode = tl.zeros([R], tl.int32)
    if USE_SATD:
        transform = _matrix(hadamard, S, S, False)
    for m in range(COUNT):
        cost = tl.zeros([R], tl.float32)
        for i in tl.static_range(PLANES):
            plane = (n * PLANES + i) * H * W
            v, _at, _real = _neighbours(constructed + plane, positions, b, H, W, count, WIDE)
            if SMOOTH:
                v = half_up(_smoothed(v, available, smooth, False))
            for sub in range(SUBS):
                p = _mode(v, available, matrices, m, sub, MODES, SUBS, DC, S, WIDE)
                p = tl.minimum(tl.maximum(half_up(p), 0.0), 255.0)
                difference = tl.load(source + plane + _samples(b, sub, W, across, K, S)) - p
                if USE_SATD:
                    difference = tl.dot(difference, transform, input_precision="tf32")
                cost += tl.sum(tl.abs(difference), 1)
        need = tl.load(needs + m).to(tl.int32)
        cost += tl.where((available & need) == need, 0.0, _FORBIDDEN)
        if PREDICTED:
            cost += _NOT_PREDICTED * weight * tl.where(tl.load(expected + n * BLOCKS + b) == m, 0.0, 1.0)
        else:
            cost += weight * tl.load(bits + m)
        best_mode = tl.where(cost < best, m, best_mode)
        best = tl.minimum(cost, best)
    tl.store(costs + n * BLOCKS + b, best, inside)
    tl.store(modes_out + n * BLOCKS + b, best_mode.to(tl.int64), inside)


@triton.jit
def _predict(
    constructed, positions, available_of, modes, mb_type, matrices, smooth, out, BLOCKS, H, W, TILES,
    WANTED: tl.constexpr, K: tl.constexpr, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, S: tl.constexpr, WIDE: tl.constexpr,
    PLANES: tl.constexpr, SMOOTH: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Prediction by modes, of macroblocks of the kind wanted (-1: all)."""
    n, b, inside = _blocks(BLOCKS, TILES, R)
    count: tl.constexpr = 3 * K + 1
    across = W // K
    if WANTED >= 0:
        inside &= tl.load(mb_type + _macroblock(n, b, BLOCKS, across, K, PLANES)) == WANTED
    available = _sides(available_of, b)
    mode = tl.load(modes + n // PLANES * BLOCKS + b)
    v, _at, _real = _neighbours(constructed + n * H * W, positions, b, H, W, count, WIDE)
    if SMOOTH:
        v = half_up(_smoothed(v, available, smooth, False))
    for sub in range(SUBS):
        p = tl.zeros([R, S], tl.float32)
        for m in range(MODES):
            one = _mode(v, available, matrices, m, sub, MODES, SUBS, DC, S, WIDE)
            p = tl.where((mode == m)[:, None], one, p)
        p = tl.minimum(tl.maximum(half_up(p), 0.0), 255.0)
        tl.store(out + n * H * W + _samples(b, sub, W, across, K, S), p, inside[:, None])


@triton.jit
def _predict_backward(
    grad, constructed, positions, available_of, modes, mb_type, matrices, smooth, out, BLOCKS, H, W, TILES,
    WANTED: tl.constexpr, K: tl.constexpr, MODES: tl.constexpr, SUBS: tl.constexpr, DC: tl.constexpr, PLANE: tl.constexpr, S: tl.constexpr,
    WIDE: tl.constexpr, PLANES: tl.constexpr, SMOOTH: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Gradient of the samples around, added to ``out``."""
    n, b, inside = _blocks(BLOCKS, TILES, R)
    count: tl.constexpr = 3 * K + 1
    across = W // K
    if WANTED >= 0:
        inside &= tl.load(mb_type + _macroblock(n, b, BLOCKS, across, K, PLANES)) == WANTED
    available = _sides(available_of, b)
    mode = tl.load(modes + n // PLANES * BLOCKS + b)
    v, offset, real = _neighbours(constructed + n * H * W, positions, b, H, W, count, WIDE)
    of_v = tl.zeros([R, WIDE], tl.float32)
    for sub in range(SUBS):
        g = tl.load(grad + n * H * W + _samples(b, sub, W, across, K, S), inside[:, None], 0.0)
        if PLANE >= 0:  # the clip passes the gradient where it does not act
            p = half_up(_mode(v, available, matrices, PLANE, sub, MODES, SUBS, -1, S, WIDE))
            g = tl.where((mode == PLANE)[:, None] & ((p < 0) | (p > 255)), 0.0, g)
        for m in range(MODES):
            mine = (mode == m)[:, None]
            if m == DC:
                for i in tl.static_range(3):
                    one = tl.where(mine & (available == i)[:, None], g, 0.0)
                    of_v += _times(one, _matrix(matrices + ((MODES + i) * SUBS + sub) * (S * WIDE), S, WIDE, False))
                mine = mine & (available >= 3)[:, None]
            of_v += _times(tl.where(mine, g, 0.0), _matrix(matrices + (m * SUBS + sub) * (S * WIDE), S, WIDE, False))
    if SMOOTH:
        of_v = _smoothed(of_v, available, smooth, True)
    tl.atomic_add(out + n * H * W + offset, of_v, real & inside[:, None])


# Macroblocks: which modes neighbours predict, which kind is cheapest


@triton.jit
def _predicted_modes(mb_type, eight, four, predicted8, predicted4, BLOCKS, BH, BW, SIZE: tl.constexpr):
    """Modes that neighbours predict; blocks are those of 4 x 4, BH and BW count macroblocks."""
    b = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    mask = b < BLOCKS
    y, x, n = b // (4 * BW) % (4 * BH), b % (4 * BW), b // (16 * BH * BW)
    best8, best4 = tl.full([SIZE], 9, tl.int64), tl.full([SIZE], 9, tl.int64)
    for side in tl.static_range(2):
        offset, oy, ox = (x, y, x - 1) if side == 0 else (y, y - 1, x)
        inside = mask & (offset > 0)
        of = tl.load(mb_type + (n * BH + oy // 4) * BW + ox // 4, inside, 0)
        own8 = tl.load(eight + (n * 2 * BH + oy // 2) * 2 * BW + ox // 2, inside, 2)
        own4 = tl.load(four + (n * 4 * BH + oy) * 4 * BW + ox, inside, 2)
        actual = tl.where(of == 2, own4, tl.where(of == 1, own8, 2))
        own_macroblock = offset % 4 != 0
        best8 = tl.minimum(best8, tl.where(own_macroblock, own8, actual))
        best4 = tl.minimum(best4, tl.where(own_macroblock, own4, actual))
    edge = (y == 0) | (x == 0)
    tl.store(predicted4 + b, tl.where(edge, 2, best4), mask)
    first = mask & (y % 2 == 0) & (x % 2 == 0)
    tl.store(predicted8 + (n * 2 * BH + y // 2) * 2 * BW + x // 2, tl.where(edge, 2, best8), first)


@triton.jit
def _sum_of_blocks(costs, modes, likely, mb, y, x, n, BH, BW, mask, K: tl.constexpr, KNOWN: tl.constexpr):
    """Cost of the blocks of macroblocks, and bits of their modes."""
    side: tl.constexpr = 16 // K
    total, bits = tl.zeros(mb.shape, tl.float32), tl.zeros(mb.shape, tl.float32)
    for i in tl.static_range(side * side):
        b = (n * BH * side + y * side + i // side) * BW * side + x * side + i % side
        total += tl.load(costs + b, mask, 0.0)
        if KNOWN:
            bits += tl.where(tl.load(modes + b, mask, 0) == tl.load(likely + b, mask, 0), _BITS_PREDICTED, _BITS_OTHER)
        else:
            bits += _BITS_UNKNOWN
    return total, bits


@triton.jit
def _choose_type(
    costs16, costs8, costs4, modes16, modes8, modes4, predicted8, predicted4, lam, bits_16x16, mb_type, cost, bits, of_types, BLOCKS, BH, BW,
    KNOWN: tl.constexpr, SMALL: tl.constexpr, EIGHT: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The type of each macroblock by distortion + lambda bits."""
    mb = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    mask = mb < BLOCKS
    y, x, n = mb // BW % BH, mb % BW, mb // (BH * BW)
    best = tl.load(costs16 + mb, mask, 0.0)
    best_type = tl.zeros([SIZE], tl.int64)
    type_bits = tl.load(bits_16x16 + tl.load(modes16 + mb, mask, 0)) + _MB_BITS_16X16
    tl.store(of_types + mb, type_bits, mask)
    if SMALL:
        weight = tl.load(lam + mb, mask, 0.0)
        for i in tl.static_range(1, 3):
            if i == 1:
                total, mine = _sum_of_blocks(costs8, modes8, predicted8, mb, y, x, n, BH, BW, mask, 8, KNOWN)
                total += _MB_COST_8X8 * weight
                if not EIGHT:
                    total += _FORBIDDEN
                    mine += _FORBIDDEN
            else:
                total, mine = _sum_of_blocks(costs4, modes4, predicted4, mb, y, x, n, BH, BW, mask, 4, KNOWN)
                total += _MB_COST_4X4 * weight
            mine += _MB_BITS_SMALL
            tl.store(of_types + i * BLOCKS + mb, mine, mask)
            best_type = tl.where(total < best, i, best_type)
            type_bits = tl.where(total < best, mine, type_bits)
            best = tl.minimum(total, best)
    tl.store(mb_type + mb, best_type, mask)
    tl.store(cost + mb, best, mask)
    tl.store(bits + mb, type_bits, mask)


def warps(kind: int) -> int:
    """Of a program: matrices of 64 x 64 take many registers."""
    return 8 if kind == _LUMA else 4


def _shape(kind: int) -> dict[str, int]:
    """What kernels are specialised by."""
    of = _KINDS[kind]
    _, subs, s, wide = of.matrices.value.shape
    flags = {"SMOOTH": kind == 8, "PLANES": 2 if kind == _CHROMA else 1, "R": _R}
    return {"K": of.k, "MODES": of.modes, "SUBS": subs, "DC": of.dc, "S": s, "WIDE": wide, **flags}


def _neighbourhood(kind: int, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int, int, int]]:
    """Where neighbours lie and which there are; blocks, height, width and programs of a plane."""
    h, w = x.shape[-2:]
    k = _KINDS[kind].k
    positions, available = reference.neighbour_positions(k, h, w, x.device)
    return (positions, available.view(torch.uint8)), (len(positions), h, w, -(-len(positions) // _R))


@implements(reference.cheapest_mode)
def cheapest_mode(
    source: Tensor,
    constructed: Tensor,
    lam: Tensor,
    mode_bits: Tensor,
    predicted: Tensor | None,
    k: int,
    use_satd: bool,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor]:
    source, constructed = source.contiguous(), constructed.contiguous()
    costs, modes = reference.cheapest_mode.allocate(source, constructed, lam, mode_bits, predicted, k, use_satd, transform_8x8)
    kind = _kind_of(source, k)
    of = _KINDS[kind]
    where, sizes = _neighbourhood(kind, source)
    given = (
        lam.contiguous(),
        of.needs.like(source),
        mode_bits.contiguous(),
        modes if predicted is None else predicted.contiguous(),
        of.matrices.like(source),
    )
    transform = transform_of(k, use_satd, transform_8x8)
    _choose[(len(source) * sizes[3],)](
        source, constructed, *where, *given, _SMOOTH.like(source), mode_bits if transform is None else transform.like(source), costs, modes,
        *sizes, len(mode_bits), **_shape(kind), PREDICTED=predicted is not None, USE_SATD=use_satd, num_warps=warps(kind),
    )  # fmt: skip
    return costs, modes


@implements(reference.choose_modes)
def choose_modes(
    source: Tensor, constructed: Tensor, lam: Tensor, known: list[Tensor], use_satd: bool, transform_8x8: bool, small: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    source, constructed, lam = source.contiguous(), constructed.contiguous(), lam.contiguous()
    mb_type, cost, bits, of_types, *_ = reference.choose_modes.allocate(source, constructed, lam, known, use_satd, transform_8x8, small)
    _, bh, bw = lam.shape
    bits16, bits_small = reference.BITS_16X16.like(lam), reference.BITS_SMALL.like(lam)
    chosen = [cheapest_mode(source, constructed, lam.flatten(1), bits16, None, 16, use_satd, transform_8x8)] * 3
    predicted = chosen[0][1], chosen[0][1]
    if small:
        if known:
            of, eight, four = (x.contiguous() for x in known)
            predicted = torch.empty_like(eight), torch.empty_like(four)
            _predicted_modes[(-(-four.numel() // _SIZE),)](of, eight, four, *predicted, four.numel(), bh, bw, _SIZE)
        for i, (k, expected) in enumerate(zip((8, 4), predicted)):
            of_blocks = repeat_blocks(lam, 16 // k).flatten(1)
            chosen[1 + i] = cheapest_mode(
                source, constructed, of_blocks, bits_small, expected if known else None, k, use_satd, transform_8x8
            )
    costs, modes = zip(*chosen)
    sizes = (lam.numel(), bh, bw, bool(known), small, transform_8x8, _SIZE)
    _choose_type[(-(-lam.numel() // _SIZE),)](*costs, *modes, *predicted, lam, bits16, mb_type, cost, bits, of_types, *sizes)
    return mb_type, cost, bits, of_types, *(modes if small else (modes[0], modes[0].new_empty(0), modes[0].new_empty(0)))


@implements(reference.choose_mb_type)
@torch.no_grad()
def choose_mb_type(
    source: Tensor, constructed: Tensor, modes: list[Tensor], qp: Tensor, lam: Tensor, type_bits: Tensor, quant: list[float], psy: float
) -> tuple[Tensor, Tensor]:
    constructed = constructed.contiguous()
    every = torch.ones_like(qp, dtype=torch.bool)
    of_source, ways, costs = rate.texture(source), [], []
    for i, (kind, _, mode) in enumerate(_order(modes, constructed)):
        predicted = torch.empty_like(constructed)
        _predict_kind(kind, -1, constructed, mode, mode, predicted)
        decoded, four, eight, flags, _ = code_luma(source, predicted, qp, every, every & (i == 1), every & (i == 0), quant, True)
        levels = (eight if i == 1 else four).abs().unflatten(-1, (-1, 64 if i == 1 else 16)).flatten(1, 2)
        ways.append(rate.Coded(levels, flags, i))
        costs.append(rate.distortion(source, decoded, lam, psy, of_source) + rate.RATE_WEIGHT * lam.square() * type_bits[i])
    mb_type = torch.ones_like(modes[0]).view(qp.shape)
    for _ in range(reference.TYPE_ROUNDS):
        states = rate.States(ways, mb_type, qp, every)
        mb_type = torch.stack([c + rate.RATE_WEIGHT * lam.square() * states.bits(w) for c, w in zip(costs, ways)]).argmin(0)
    return mb_type, type_bits.gather(0, mb_type[None])[0]


def _kind_of(x: Tensor, k: int) -> int:
    return _CHROMA if x.dim() == 4 else k


def _order(modes: list[Tensor], x: Tensor) -> list[tuple[int, int, Tensor]]:
    """Kind, type of macroblock (-1: all are of it) and modes."""
    if x.dim() == 4:
        return [(_CHROMA, -1, modes[0])]
    return [(k, i if len(modes) > 1 else -1, m) for i, (k, m) in enumerate(zip((_LUMA, 8, 4), modes))]


def _predict_kind(kind: int, wanted: int, constructed: Tensor, mode: Tensor, mb_type: Tensor, out: Tensor) -> None:
    """Predict blocks of one size, of the macroblocks of the type wanted (-1: all), into ``out``."""
    where, sizes = _neighbourhood(kind, constructed)
    given = (*where, mode.contiguous(), mb_type, _KINDS[kind].matrices.like(constructed), _SMOOTH.like(constructed))
    planes = constructed.numel() // (sizes[1] * sizes[2])
    _predict[(planes * sizes[3],)](constructed, *given, out, *sizes, WANTED=wanted, **_shape(kind), num_warps=warps(kind))


@implements(reference.predict_intra)
def predict_intra(constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None) -> Tensor:
    constructed = constructed.contiguous()
    out = constructed.new_empty(constructed.shape)
    for kind, wanted, mode in _order(modes, constructed):
        _predict_kind(kind, wanted, constructed, mode, mode if mb_type is None else mb_type.contiguous(), out)
    return out


@backward_of(reference.predict_intra, of=["constructed"])
def predict_intra_backward(grad: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None) -> Tensor:
    grad, constructed = grad.contiguous(), constructed.contiguous()
    out = constructed.new_zeros(constructed.shape)
    planes = constructed.numel() // constructed[0, 0].numel() if constructed.dim() == 4 else len(constructed)
    for kind, wanted, mode in _order(modes, constructed):
        where, sizes = _neighbourhood(kind, constructed)
        of = mode if mb_type is None else mb_type.contiguous()
        given = (*where, mode.contiguous(), of, _KINDS[kind].matrices.like(constructed), _SMOOTH.like(constructed))
        _predict_backward[(planes * sizes[3],)](
            grad, constructed, *given, out, *sizes, WANTED=wanted, PLANE=_KINDS[kind].plane, **_shape(kind), num_warps=warps(kind)
        )
    return out


@implements(reference.merge_intra)
def merge_intra(inter: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None, is_intra: Tensor) -> Tensor:
    return torch.where(reference.samples_of(is_intra, inter), predict_intra(constructed, modes, mb_type), inter)


@backward_of(reference.merge_intra, of=["inter", "constructed"])
def merge_intra_backward(
    grad: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None, is_intra: Tensor
) -> tuple[Tensor, Tensor]:
    intra = reference.samples_of(is_intra, grad)
    return grad.masked_fill(intra, 0), predict_intra_backward(grad.masked_fill(~intra, 0), constructed, modes, mb_type)
