"""Intra prediction (ITU-T H.264, 8.3; x264's predict.c) and its mode decisions: each mode is a matrix on a block's neighbours, all blocks at once.

The standard predicts each block from blocks that were just reconstructed. Here the neighbours come from an existing plane: the source for decisions,
the reconstruction of an earlier pass for the prediction itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...backend import operation
from ...blocks import flat_blocks, from_flat_blocks, repeat_blocks
from ...checks import half_up
from ...constants import Constant, number
from ..common.distortion import distortion
from ..residual import cabac, rate
from ..residual.cabac import EIGHT, LUMA
from ..residual.reference import code_luma

# Neighbours of a k x k block as one vector: corner M, top row (2k samples, the second half above and to the right), left column (k)


def _directional(k: int) -> np.ndarray:
    """The nine modes of 4x4 (8.3.1.2) and 8x8 (8.3.2.2) blocks, rounding left to the caller; DC is left zero: ``[9, k*k, 3k+1]``."""
    n = 3 * k + 1
    m = np.zeros((9, k, k, n))
    unit = np.eye(n)

    def top(i: int) -> np.ndarray:  # i = -1 is the corner
        return unit[min(i, 2 * k - 1) + 1]

    def left(i: int) -> np.ndarray:
        return unit[0] if i < 0 else unit[2 * k + 1 + min(i, k - 1)]

    def edge(i: int) -> np.ndarray:
        """The border as one line, from the bottom of the left column over the corner to the top row: 0 is the corner."""
        return unit[0] if i == 0 else top(i - 1) if i > 0 else left(-i - 1)

    def three(f, i: int) -> np.ndarray:  # type: ignore[no-untyped-def]
        return (f(i - 1) + 2 * f(i) + f(i + 1)) / 4

    for y in range(k):
        for x in range(k):
            m[0, y, x] = top(x)
            m[1, y, x] = left(y)
            # 3 diagonal down left
            i = x + y + 1
            m[3, y, x] = three(top, i) if i < 2 * k - 1 else (top(2 * k - 2) + 3 * top(2 * k - 1)) / 4
            # 4 diagonal down right
            m[4, y, x] = three(edge, x - y)
            # 5 vertical right
            z = 2 * x - y
            if z >= 0:
                i = x - (y >> 1)
                m[5, y, x] = (edge(i) + edge(i + 1)) / 2 if z % 2 == 0 else three(edge, i)
            else:
                m[5, y, x] = three(edge, 0) if z == -1 else three(edge, -(y - 2 * x - 1))
            # 6 horizontal down
            z = 2 * y - x
            if z >= 0:
                i = y - (x >> 1)
                m[6, y, x] = (edge(-i) + edge(-i - 1)) / 2 if z % 2 == 0 else three(edge, -i)
            else:
                m[6, y, x] = three(edge, 0) if z == -1 else three(edge, x - 2 * y - 1)
            # 7 vertical left
            i = x + (y >> 1)
            m[7, y, x] = (top(i) + top(i + 1)) / 2 if y % 2 == 0 else three(top, i + 1)
            # 8 horizontal up
            z, i = x + 2 * y, y + (x >> 1)
            last = 2 * k - 3
            if z > last:
                m[8, y, x] = left(k - 1)
            elif z == last:
                m[8, y, x] = (left(k - 2) + 3 * left(k - 1)) / 4
            else:
                m[8, y, x] = (left(i) + left(i + 1)) / 2 if z % 2 == 0 else three(left, i + 1)
    return m.reshape(9, k * k, n)


def _smooth() -> dict[tuple[bool, bool, bool], np.ndarray]:
    """The reference filter of 8x8 blocks (8.3.2.2.1), by which of top, left and corner there are: ``[25, 25]``."""
    out = {}
    for top in (False, True):
        for left in (False, True):
            for corner in (False, True):
                f = np.eye(25)
                if top:
                    for i in range(16):
                        row = np.zeros(25)
                        row[i + 1] += 2
                        row[i if i else (0 if corner else 1)] += 1
                        row[i + 2 if i < 15 else 16] += 1
                        f[i + 1] = row / 4
                if left:
                    for i in range(8):
                        row = np.zeros(25)
                        row[17 + i] += 2
                        row[16 + i if i else (0 if corner else 17)] += 1
                        row[18 + i if i < 7 else 24] += 1
                        f[17 + i] = row / 4
                if corner:
                    row = np.zeros(25)
                    row[0] += 2
                    row[1 if top else 0] += 1
                    row[17 if left else 0] += 1
                    f[0] = row / 4
                out[top, left, corner] = f
    return out


# Bits of modes and macroblock types under adapted contexts, and further costs in lambdas
BITS_16X16 = Constant([1.0, 3.0, 3.0, 5.0])  # of the mode of an intra 16x16 macroblock, and of chroma's
BITS_UNKNOWN = 2.5  # of a mode of a small block whose neighbours' modes are not known
BITS_PREDICTED, BITS_OTHER = 0.7, 4.1  # of one that its neighbours predict, and of another one
MB_BITS_16X16, MB_BITS_SMALL = 3.0, 4.0  # further bits of a 16x16 macroblock, and of one of small blocks
MB_COST_SMALL = 4.0, 40.0  # what the choice adds to macroblocks of 8x8 and of 4x4 blocks
BITS_SMALL = Constant([BITS_UNKNOWN] * 9)
NOT_PREDICTED = 3  # lambdas that the choice adds to a mode that is not the predicted one
FORBIDDEN = 1e9  # cost of a mode whose neighbours do not exist
TYPE_ROUNDS = 2  # of choosing types, each with the contexts that the one before leaves

MODES = {k: Constant(_directional(k)) for k in (4, 8)}
SMOOTH = Constant(np.stack([_smooth()[bool(i & 1), bool(i & 2), bool(i & 4)] for i in range(8)]))  # [8, 25, 25]
# what each mode needs: top, left, corner
NEEDS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 1, 0]], dtype=bool)


def _plane(k: int, slope: float, shift: float) -> np.ndarray:
    """Plane prediction (8.3.3.4 with k = 16, 8.3.4.4 with k = 8) without its roundings: ``[k*k, 3k+1]``."""
    n = 3 * k + 1
    unit = np.eye(n)
    half = k // 2
    top = lambda i: unit[i + 1]  # noqa: E731  (-1 is the corner)
    left = lambda i: unit[0] if i < 0 else unit[2 * k + 1 + i]  # noqa: E731
    h = sum((i + 1) * (top(half + i) - top(half - 2 - i)) for i in range(half))
    v = sum((i + 1) * (left(half + i) - left(half - 2 - i)) for i in range(half))
    a = top(k - 1) + left(k - 1)  # 16 (a) / 32
    b, c = slope * h / shift, slope * v / shift
    return np.stack([a / 2 + (b * (x - half + 1) + c * (y - half + 1)) / 32 for y in range(k) for x in range(k)])


PLANE = {16: Constant(_plane(16, 5, 64)), 8: Constant(_plane(8, 34, 64))}


@lru_cache(maxsize=32)
def neighbour_positions(k: int, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the neighbours of every k x k block lie in a plane with one sample of border on top and left, and which are available.

    Returns:
        Flat places ``[h/k * w/k, 3k+1]`` into ``[h+1, w+1]``, and ``[h/k * w/k, 3]``: top, left, corner.
    """
    by, bx = np.mgrid[: h // k, : w // k]
    by, bx = by.reshape(-1, 1), bx.reshape(-1, 1)
    y, x = by * k + 1, bx * k + 1  # first sample of the block
    inside = np.arange(k)
    # above and to the right: there only if it is coded earlier; else the last sample above is repeated
    m = 16 // k
    iy, ix = by % m, bx % m
    if k == 16:
        right = np.zeros_like(by, dtype=bool)
    elif k == 8:
        right = ((iy == 0) & (ix == 0)) | ((iy == 0) & (ix == 1)) | ((iy == 1) & (ix == 0))
    else:
        order = np.array([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
        own = order[iy, ix]
        beside = np.where(iy > 0, order[np.maximum(iy - 1, 0), np.minimum(ix + 1, 3)], -1)
        right = np.where(iy == 0, True, (ix < 3) & (beside < own))
    right = right & (x + k <= w) & (by > 0)
    more = np.where(right, x + k + inside, x + k - 1)
    ys = np.concatenate([y - 1, np.repeat(y - 1, 2 * k, 1), y + inside], 1)
    xs = np.concatenate([x - 1, x + inside, more, np.repeat(x - 1, k, 1)], 1)
    available = np.concatenate([by > 0, bx > 0, (by > 0) & (bx > 0)], 1)
    return torch.from_numpy(ys * (w + 1) + xs).to(device), torch.from_numpy(available).to(device)


def neighbour_samples(plane: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Neighbours of every block. Shape: ``[N, H, W] -> [N, H/k * W/k, 3k+1]``, and which there are ``[H/k * W/k, 3]``."""
    _n, h, w = plane.shape
    positions, available = neighbour_positions(k, h, w, plane.device)
    padded = F.pad(plane, (1, 0, 1, 0), value=128.0)
    return padded.flatten(1)[:, positions.flatten()].view(plane.shape[0], *positions.shape), available


def _dc(v: Tensor, available: Tensor, k: int) -> Tensor:
    """Mean of the neighbours that there are, 128 where there is none. Shape: ``[N, B, 3k+1] -> [N, B]``."""
    top, left = available[:, 0].to(v), available[:, 1].to(v)
    total = v[..., 1 : k + 1].sum(-1) * top + v[..., 2 * k + 1 :].sum(-1) * left
    count = k * (top + left)
    return half_up(torch.where(count > 0, total / count.clamp(min=1), 128.0))


def predict_small_modes(plane: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All nine predictions of 4x4 or 8x8 blocks from the samples around them.

    Args:
        plane: ``[N, H, W]``.
        k: 4 or 8.

    Returns:
        ``[N, H/k * W/k, 9, k*k]``, and which modes may be used ``[H/k * W/k, 9]``.
    """
    v, available = neighbour_samples(plane, k)
    if k == 8:
        kind = (available * torch.tensor([1, 2, 4], dtype=torch.int64, device=v.device)).sum(1)  # [B]
        filters = SMOOTH.like(v)
        border = (kind != 7).nonzero()[:, 0]  # few blocks: the others have all their neighbours and share a filter
        special = (filters[kind[border]] @ v[:, border, :, None])[..., 0]
        v = half_up((v @ filters[7].mT).index_copy(1, border, special))
    p = half_up((v @ MODES[k].like(v).flatten(0, 1).mT).unflatten(-1, (9, k * k)))
    dc = _dc(v, available, k)[..., None, None].expand(*p.shape[:2], 1, k * k)
    return torch.cat([p[..., :2, :], dc, p[..., 3:, :]], -2), (available[:, None] | ~torch.from_numpy(NEEDS).to(v.device)).all(-1)


def predict_16x16_modes(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Intra 16x16: vertical, horizontal, DC, plane. Shape: ``[N, H, W] -> [N, B, 4, 256]``, ``[B, 4]``: which may be used."""
    v, available = neighbour_samples(plane, 16)
    n, b = v.shape[:2]
    vertical = v[..., None, 1:17].expand(n, b, 16, 16)
    horizontal = v[..., 33:, None].expand(n, b, 16, 16)
    dc = _dc(v, available, 16)[..., None, None].expand(n, b, 16, 16)
    slant = half_up(v @ PLANE[16].like(v).mT).clamp(0, 255).view(n, b, 16, 16)
    allowed = torch.stack([available[:, 0], available[:, 1], torch.ones_like(available[:, 0]), available.all(1)], 1)
    return torch.stack([vertical, horizontal, dc, slant], 2).flatten(-2), allowed


def predict_chroma_modes(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Chroma 8x8: DC by quadrant, horizontal, vertical, plane (8.3.4). Shape: ``[N, h, w] -> [N, B, 4, 64]``, ``[B, 4]``."""
    v, available = neighbour_samples(plane, 8)
    n, b = v.shape[:2]
    top, left = v[..., 1:9], v[..., 17:]
    has_top, has_left = available[:, 0], available[:, 1]
    t, s = top.unflatten(-1, (2, 4)).mean(-1), left.unflatten(-1, (2, 4)).mean(-1)  # [N, B, 2]
    both = has_top & has_left
    quadrants = []
    for y in (0, 1):
        for x in (0, 1):
            if x == y:  # both sides where there are both
                q = torch.where(both, (t[..., x] + s[..., y]) / 2, torch.where(has_top, t[..., x], torch.where(has_left, s[..., y], 128.0)))
            elif x:  # top right: the row above first
                q = torch.where(has_top, t[..., x], torch.where(has_left, s[..., y], 128.0))
            else:
                q = torch.where(has_left, s[..., y], torch.where(has_top, t[..., x], 128.0))
            quadrants.append(half_up(q))
    dc = torch.stack(quadrants, -1).view(n, b, 2, 1, 2, 1).expand(n, b, 2, 4, 2, 4).reshape(n, b, 8, 8)
    horizontal, vertical = left[..., None].expand(n, b, 8, 8), top[..., None, :].expand(n, b, 8, 8)
    slant = half_up(v @ PLANE[8].like(v).mT).clamp(0, 255).view(n, b, 8, 8)
    allowed = torch.stack([torch.ones_like(has_top), has_left, has_top, available.all(1)], 1)
    return torch.stack([dc, horizontal, vertical, slant], 2).flatten(-2), allowed


@operation
@torch.no_grad()
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
    """Cost and number of the mode of least distortion + lambda bits, for all blocks of k x k samples (of chroma: Cb and Cr together).

    Args:
        source: ``[N, H, W]``, or chroma ``[N, 2, H/2, W/2]``.
        constructed: the plane that blocks are predicted from, same shape.
        lam: of each block ``[N, M]``.
        mode_bits: bits of the modes that are looked at, the first ones ``[modes]``.
        predicted: predicted modes, which cost no bits ``[N, M]``; all others then cost the same.
        k: block side, 16, 8 or 4; of chroma 8.
        use_satd, transform_8x8: what is compared, see :func:`~diffcodec.ops.common.distortion.distortion`.

    Returns:
        Both ``[N, M]``.
    """
    chroma = source.dim() == 4
    planes, around = (x.flatten(0, 1) if chroma else x for x in (source, constructed))
    p, allowed = predict_chroma_modes(around) if chroma else predict_16x16_modes(around) if k == 16 else predict_small_modes(around, k)
    modes = mode_bits.shape[0]
    p, allowed = p[:, :, :modes], allowed[:, :modes]
    cost = distortion(flat_blocks(planes, k).flatten(1, 2)[:, :, None] - p, k, use_satd, transform_8x8)
    if chroma:
        cost = cost.unflatten(0, (-1, 2)).sum(1)
    cost = cost + FORBIDDEN * (~allowed).float()
    lam = lam[..., None]
    cost = cost + lam * mode_bits if predicted is None else cost + NOT_PREDICTED * lam * (1 - F.one_hot(predicted, modes))
    best, mode = cost.min(-1)
    return best, mode


@cheapest_mode.outputs
def _(
    source: Tensor,
    constructed: Tensor,
    lam: Tensor,
    mode_bits: Tensor,
    predicted: Tensor | None,
    k: int,
    use_satd: bool,
    transform_8x8: bool,
) -> tuple[Tensor, Tensor]:
    blocks = source.shape[-2] // k * (source.shape[-1] // k)
    return source.new_empty(len(source), blocks), source.new_empty(len(source), blocks, dtype=torch.int64)


@operation
@torch.no_grad()
def choose_modes(
    source: Tensor, constructed: Tensor, lam: Tensor, known: list[Tensor], use_satd: bool, transform_8x8: bool, small: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Modes of luma, and the type of each macroblock by the same costs.

    Args:
        source, constructed, use_satd, transform_8x8: as for :func:`cheapest_mode`.
        lam: ``[N, H/16, W/16]``.
        known: macroblock types, and modes of 8x8 and 4x4 blocks, of the previous pass, from which modes are predicted. Empty for none.
        small: whether macroblocks of 8x8 and 4x4 blocks are considered. Those of 8x8 blocks need the 8x8 transform: without it their cost is set so
            high that they are not chosen.

    Returns:
        Type (0: 16x16, 1: 8x8, 2: 4x4), cost and bits of the type chosen ``[N, H/16, W/16]``; bits of the modes of each type
        ``[types, N, H/16, W/16]``; modes of 16x16, 8x8 and 4x4 blocks as if all macroblocks were of that type, ``[N, H/k * W/k]`` or empty.
    """
    n, h, w = source.shape
    bh, bw = h // 16, w // 16
    best, mode = cheapest_mode.reference(source, constructed, lam.flatten(1), BITS_16X16.like(lam), None, 16, use_satd, transform_8x8)
    costs, modes = [best.view(n, bh, bw)], [mode]
    type_bits = [BITS_16X16.like(lam)[mode].view(n, bh, bw) + MB_BITS_16X16]
    if small:
        predicted = predicted_modes(known[0], known[1], known[2]) if known else (None, None)
        for k, extra, expected in zip((8, 4), MB_COST_SMALL, predicted):
            m = 16 // k
            of_blocks = repeat_blocks(lam, m).flatten(1)
            best, mode = cheapest_mode.reference(source, constructed, of_blocks, BITS_SMALL.like(lam), expected, k, use_satd, transform_8x8)
            bits = (
                torch.full_like(best, BITS_UNKNOWN)
                if expected is None
                else torch.where(mode == expected, number(BITS_PREDICTED, best), number(BITS_OTHER, best))
            )
            forbidden = FORBIDDEN if k == 8 and not transform_8x8 else 0.0
            costs.append(best.view(n, bh, m, bw, m).sum((2, 4)) + extra * lam + forbidden)
            modes.append(mode)
            type_bits.append(bits.view(n, bh, m, bw, m).sum((2, 4)) + MB_BITS_SMALL + forbidden)
    cost, mb_type = torch.stack(costs).min(0)
    of_types = torch.stack(type_bits)
    modes += [mode.new_empty(0)] * (3 - len(modes))
    return mb_type, cost, of_types.gather(0, mb_type[None])[0], of_types, modes[0], modes[1], modes[2]


@choose_modes.outputs
def _(
    source: Tensor, constructed: Tensor, lam: Tensor, known: list[Tensor], use_satd: bool, transform_8x8: bool, small: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, bh, bw = lam.shape
    of_types = source.new_empty(3 if small else 1, n, bh, bw)
    shapes = [(n, bh * bw * m) for m in (1, 4, 16)] if small else [(n, bh * bw), (0,), (0,)]
    mb_type, *modes = (source.new_empty(s, dtype=torch.int64) for s in [lam.shape, *shapes])
    return mb_type, source.new_empty(lam.shape), source.new_empty(lam.shape), of_types, modes[0], modes[1], modes[2]


@operation
@torch.no_grad()
def choose_mb_type(
    source: Tensor, constructed: Tensor, modes: list[Tensor], qp: Tensor, lam: Tensor, type_bits: Tensor, quant: list[float], psy: float
) -> tuple[Tensor, Tensor]:
    """Types of intra macroblocks by rate and distortion: squared error, lost texture (psy-RD) and bits.

    Args:
        source, constructed: ``[N, H, W]``.
        modes: of 16x16, 8x8 and 4x4 blocks ``[N, H/k * W/k]``.
        qp, lam: ``[N, H/16, W/16]``.
        type_bits: bits beside the levels, of each type ``[3, N, H/16, W/16]``.
        quant: how residuals are coded: :meth:`~diffcodec.ops.residual.reference.QuantSettings.numbers`.
        psy: strength of psy-RD.

    Returns:
        Type, as for :func:`choose_modes`, and its bits ``[N, H/16, W/16]``.
    """
    every = torch.ones_like(qp, dtype=torch.bool)
    of_source, ways, costs = rate.texture(source), [], []
    for i in range(3):
        predicted = predict_intra.reference(constructed, modes, torch.full(qp.shape, i, dtype=torch.int64, device=qp.device))
        of_type = (every & (i == 1), every & (i == 0))
        decoded, four, eight, flags = code_luma.reference(source, predicted, qp, every, *of_type, quant, True)
        levels = (eight if i == 1 else four).abs().unflatten(-1, (-1, 64 if i == 1 else 16)).flatten(1, 2)
        ways.append(rate.Coded(levels, flags, i))
        costs.append(rate.distortion(source, decoded, lam, psy, of_source) + rate.RATE_WEIGHT * lam.square() * type_bits[i])
    mb_type = torch.ones_like(modes[0]).view(qp.shape)
    for _ in range(TYPE_ROUNDS):
        states = rate.States(ways, mb_type, qp, every)
        mb_type = torch.stack([c + rate.RATE_WEIGHT * lam.square() * states.bits(w) for c, w in zip(costs, ways)]).argmin(0)
    return mb_type, type_bits.gather(0, mb_type[None])[0]


@choose_mb_type.outputs
def _(
    source: Tensor, constructed: Tensor, modes: list[Tensor], qp: Tensor, lam: Tensor, type_bits: Tensor, quant: list[float], psy: float
) -> tuple[Tensor, Tensor]:
    return modes[0].new_empty(lam.shape), lam.new_empty(lam.shape)


@operation
@torch.no_grad()
def refine_modes(
    source: Tensor,
    constructed: Tensor,
    modes: list[Tensor],
    mb_type: Tensor,
    known: list[Tensor],
    qp: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
) -> tuple[Tensor, Tensor]:
    """Modes of 8x8 and 4x4 blocks by rate and distortion in place of SATD (x264's intra_rd_refine).

    Args:
        source, constructed, modes, qp, lam, quant, psy: as for :func:`choose_mb_type`.
        mb_type: of macroblocks, as it returned them.
        known: as for :func:`choose_modes`.

    Returns:
        Modes of 8x8 and of 4x4 blocks as if all macroblocks were of that type, ``[N, H/k * W/k]``.
    """
    n, h, w = source.shape
    every = torch.ones_like(qp, dtype=torch.bool)
    expected = predicted_modes(known[0], known[1], known[2]) if known else (None, None)
    out = []
    for i, k, predicted in ((1, 8, expected[0]), (2, 4, expected[1])):
        p, allowed = predict_small_modes(constructed, k)  # [N, blocks, 9, k*k], [blocks, 9]
        m, kind = 16 // k, EIGHT if k == 8 else LUMA

        def of_blocks(x: Tensor, m: int = m) -> Tensor:
            """Of macroblocks' blocks in one line: [N, MB, m*m] -> [N, H/k, W/k]."""
            return x.view(n, h // 16, w // 16, m, m).transpose(2, 3).reshape(n, h // 16 * m, w // 16 * m)

        own = flat_blocks(source, k)
        of_source, lam_k = rate.block_texture(own, k), repeat_blocks(lam, m)
        levels, costs = [], []
        for mode in range(9):
            plane = from_flat_blocks(p[:, :, mode].unflatten(1, (h // k, w // k)), k)
            decoded, four, eight, _ = code_luma.reference(source, plane, qp, every, every & (k == 8), ~every, quant, True)
            levels.append((eight if k == 8 else four).abs().unflatten(-1, (-1, k * k)).flatten(1, 2))
            blocks = flat_blocks(decoded, k)
            cost = (own - blocks).square().sum(-1) + psy * rate.TEXTURE_WEIGHT * lam_k * (
                of_source - rate.block_texture(blocks, k)
            ).abs().sum(0)
            mode_bits = (
                BITS_UNKNOWN
                if predicted is None
                else torch.where(predicted.view(cost.shape) == mode, number(BITS_PREDICTED, cost), number(BITS_OTHER, cost))
            )
            costs.append(cost + rate.RATE_WEIGHT * lam_k.square() * mode_bits)
        before = modes[i].view(n, h // 16, m, w // 16, m).transpose(2, 3).reshape(n, -1, m * m)
        of_before = torch.stack(levels, 3).gather(3, before[..., None, None].expand(*before.shape, 1, k * k))[..., 0, :]
        counts = cabac.count(of_before, kind, (mb_type == i).flatten(1).to(lam))
        bits = cabac.bits_of(cabac.adapt(*counts, cabac.slice_states(kind.first, qp, every)))
        costs = [c + rate.RATE_WEIGHT * lam_k.square() * of_blocks(cabac.level_bits(v, kind, bits)) for c, v in zip(costs, levels)]
        out.append((torch.stack(costs, -1).flatten(1, 2) + FORBIDDEN * (~allowed).to(cost)).argmin(-1))
    return out[0], out[1]


@refine_modes.outputs
def _(
    source: Tensor,
    constructed: Tensor,
    modes: list[Tensor],
    mb_type: Tensor,
    known: list[Tensor],
    qp: Tensor,
    lam: Tensor,
    quant: list[float],
    psy: float,
) -> tuple[Tensor, Tensor]:
    return modes[1].new_empty(modes[1].shape), modes[2].new_empty(modes[2].shape)


@operation
def predict_intra(constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None) -> Tensor:
    """Prediction as decided; differentiable in the samples that blocks are predicted from.

    Args:
        constructed: luma ``[N, H, W]`` or chroma ``[N, 2, H/2, W/2]``.
        modes: of 16x16 blocks and, where there are such, of 8x8 and 4x4 ones ``[N, H/k * W/k]``; of chroma, one set for Cb and Cr.
        mb_type: of macroblocks, as for :func:`choose_modes`; None where one set of modes leaves no choice.

    Returns:
        As ``constructed``.
    """
    if constructed.dim() == 4:
        n, _, h, w = constructed.shape
        p, _ = predict_chroma_modes(constructed.flatten(0, 1))
        chosen = _pick(p.unflatten(0, (n, 2)), modes[0][:, None].expand(-1, 2, -1))
        return from_flat_blocks(chosen.flatten(0, 1).unflatten(1, (h // 8, w // 8)), 8).view(constructed.shape)
    _n, h, w = constructed.shape
    p, _ = predict_16x16_modes(constructed)
    out = from_flat_blocks(_pick(p, modes[0]).unflatten(1, (h // 16, w // 16)), 16)
    if len(modes) > 1:
        assert mb_type is not None
        of_samples = repeat_blocks(mb_type, 16)
        for i, k in ((1, 8), (2, 4)):
            p, _ = predict_small_modes(constructed, k)
            out = torch.where(of_samples == i, from_flat_blocks(_pick(p, modes[i]).unflatten(1, (h // k, w // k)), k), out)
    return out


@predict_intra.outputs
def _(constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None) -> Tensor:
    return constructed.new_empty(constructed.shape)


@operation
def merge_intra(inter: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None, is_intra: Tensor) -> Tensor:
    """Prediction of P and B frames: from references, and of intra macroblocks from their neighbours; differentiable in both.

    Args:
        inter: luma ``[N, H, W]`` or chroma ``[N, 2, H/2, W/2]`` as references predict it.
        constructed, modes, mb_type: as for :func:`predict_intra`.
        is_intra: macroblocks, bool ``[N, H/16, W/16]``.

    Returns:
        As ``inter``.
    """
    return torch.where(samples_of(is_intra, inter), predict_intra.reference(constructed, modes, mb_type), inter)


@merge_intra.outputs
def _(inter: Tensor, constructed: Tensor, modes: list[Tensor], mb_type: Tensor | None, is_intra: Tensor) -> Tensor:
    return inter.new_empty(inter.shape)


def samples_of(macroblocks: Tensor, like: Tensor) -> Tensor:
    """A mask of macroblocks ``[N, H/16, W/16]``, broadcastable to the samples of luma or chroma."""
    return repeat_blocks(macroblocks, 8)[:, None] if like.dim() == 4 else repeat_blocks(macroblocks, 16)


def _pick(options: Tensor, index: Tensor) -> Tensor:
    """One row of each set. Shape: ``[..., options, n], [...] -> [..., n]``."""
    n, most = options.shape[-1], options.shape[-2]
    rows = index.flatten() + most * torch.arange(index.numel(), device=index.device)
    return options.reshape(-1, n).index_select(0, rows).view(*index.shape, n)


def predicted_modes(mb_type: Tensor, modes8: Tensor, modes4: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted mode, which costs no bits: the lower one of the left and the upper block's, DC if one of them has none (8.3.1.1, 8.3.2.1).

    Args:
        mb_type: of macroblocks ``[N, H/16, W/16]``: 1 for 8x8, 2 for 4x4, anything else has no small modes.
        modes8, modes4: of 8x8 and of 4x4 blocks, ``[N, H/k * W/k]``, as if all were of that type.

    Returns:
        For blocks of 8x8 and of 4x4, shapes as those.
    """
    n, bh, bw = mb_type.shape
    eight = repeat_blocks(modes8.view(n, bh * 2, bw * 2), 2)  # [N, H/4, W/4]
    four = modes4.view(n, bh * 4, bw * 4)
    wide = repeat_blocks(mb_type, 4)
    actual = torch.where(wide == 2, four, torch.where(wide == 1, eight, 2))
    out = []
    for own, stride in ((eight, 2), (four, 1)):
        found = []
        for dim in (1, 2):
            place = torch.arange(own.shape[dim], device=own.device)
            inside = (place % 4 != 0).view(-1, 1) if dim == 1 else place % 4 != 0
            found.append(torch.where(inside, own.roll(1, dim), actual.roll(1, dim)))
        best = torch.minimum(*found)
        best[:, 0], best[:, :, 0] = 2, 2
        out.append(best[:, ::stride, ::stride].flatten(1))
    return out[0], out[1]
