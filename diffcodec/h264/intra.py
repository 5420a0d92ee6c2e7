"""Intra prediction (ITU-T H.264, 8.3): every mode a matrix on a block's neighbours, all blocks at once.

The standard predicts block after block from what it has just reconstructed. Here the neighbours come from a plane that is already there: the source
for decisions, a first-pass reconstruction for the prediction itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..blocks import spread
from ..checks import half_up
from ..constants import Constant
from .tables import HADAMARD4, HADAMARD4_OF_8, HADAMARD8

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
def places(k: int, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the neighbours of every k x k block lie in a plane with one sample of border on top and left, and which there are.

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
    there = np.concatenate([by > 0, bx > 0, (by > 0) & (bx > 0)], 1)
    return torch.from_numpy(ys * (w + 1) + xs).to(device), torch.from_numpy(there).to(device)


def neighbours(plane: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Neighbours of every block. Shape: ``[N, H, W] -> [N, H/k * W/k, 3k+1]``, and which there are ``[H/k * W/k, 3]``."""
    _n, h, w = plane.shape
    where, there = places(k, h, w, plane.device)
    padded = torch.nn.functional.pad(plane, (1, 0, 1, 0), value=128.0)
    return padded.flatten(1)[:, where.flatten()].view(plane.shape[0], *where.shape), there


def _dc(v: Tensor, there: Tensor, k: int) -> Tensor:
    """Mean of the neighbours that there are, 128 where there is none. Shape: ``[N, B, 3k+1] -> [N, B]``."""
    top, left = there[:, 0].to(v), there[:, 1].to(v)
    total = v[..., 1 : k + 1].sum(-1) * top + v[..., 2 * k + 1 :].sum(-1) * left
    count = k * (top + left)
    return half_up(torch.where(count > 0, total / count.clamp(min=1), 128.0))


def predict_all(plane: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All nine predictions of 4x4 or 8x8 blocks from the samples around them.

    Args:
        plane: ``[N, H, W]``.
        k: 4 or 8.

    Returns:
        ``[N, H/k * W/k, 9, k*k]``, and which modes may be used ``[H/k * W/k, 9]``.
    """
    v, there = neighbours(plane, k)
    if k == 8:
        kind = (there * torch.tensor([1, 2, 4], device=v.device)).sum(1)  # [B]
        filters = SMOOTH.like(v)
        border = (kind != 7).nonzero()[:, 0]  # few blocks: the others have all their neighbours and share a filter
        special = (filters[kind[border]] @ v[:, border, :, None])[..., 0]
        v = half_up((v @ filters[7].mT).index_copy(1, border, special))
    p = half_up((v @ MODES[k].like(v).flatten(0, 1).mT).unflatten(-1, (9, k * k)))
    dc = _dc(v, there, k)[..., None, None].expand(*p.shape[:2], 1, k * k)
    return torch.cat([p[..., :2, :], dc, p[..., 3:, :]], -2), (there[:, None] | ~torch.from_numpy(NEEDS).to(v.device)).all(-1)


def predict_large(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Intra 16x16: vertical, horizontal, DC, plane. Shape: ``[N, H, W] -> [N, B, 4, 256]``, ``[B, 4]``: which may be used."""
    v, there = neighbours(plane, 16)
    n, b = v.shape[:2]
    vertical = v[..., None, 1:17].expand(n, b, 16, 16)
    horizontal = v[..., 33:, None].expand(n, b, 16, 16)
    dc = _dc(v, there, 16)[..., None, None].expand(n, b, 16, 16)
    slant = half_up(v @ PLANE[16].like(v).mT).clamp(0, 255).view(n, b, 16, 16)
    usable = torch.stack([there[:, 0], there[:, 1], torch.ones_like(there[:, 0]), there.all(1)], 1)
    return torch.stack([vertical, horizontal, dc, slant], 2).flatten(-2), usable


def predict_chroma(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Chroma 8x8: DC by quadrant, horizontal, vertical, plane (8.3.4). Shape: ``[N, h, w] -> [N, B, 4, 64]``, ``[B, 4]``."""
    v, there = neighbours(plane, 8)
    n, b = v.shape[:2]
    top, left = v[..., 1:9], v[..., 17:]
    has_top, has_left = there[:, 0], there[:, 1]
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
    usable = torch.stack([torch.ones_like(has_top), has_left, has_top, there.all(1)], 1)
    return torch.stack([dc, horizontal, vertical, slant], 2).flatten(-2), usable


def satd(difference: Tensor, k: int) -> Tensor:
    """Sum of absolute 4x4 Hadamard coefficients, halved. Shape: ``[..., k*k] -> [...]``, k 4, 8 or 16."""
    if k == 16:
        eights = difference.unflatten(-1, (2, 8, 2, 8)).transpose(-3, -2).flatten(-2).flatten(-3, -2)  # [..., 4, 64]
        return satd(eights, 8).sum(-1)
    matrix = HADAMARD4 if k == 4 else HADAMARD4_OF_8
    return (difference @ matrix.like(difference)).abs_().sum(-1)


def sa8d(difference: Tensor) -> Tensor:
    """Sum of absolute 8x8 Hadamard coefficients, divided by four. Shape: ``[..., 64] -> [...]``."""
    return (difference @ HADAMARD8.like(difference)).abs_().sum(-1)


def predicted_modes(kind: Tensor, modes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The mode that costs nothing to name: the lower one of the left and the upper block's, DC where one of them has none (8.3.1.1, 8.3.2.1).

    Args:
        kind: of macroblocks ``[N, H/16, W/16]``: 1 for 8x8, 2 for 4x4, anything else has no small modes.
        modes: of 8x8 and of 4x4 blocks, ``[N, H/k * W/k]``, as if all were of that kind.

    Returns:
        For blocks of 8x8 and of 4x4, shape of ``modes``.
    """
    n, bh, bw = kind.shape
    eight = spread(modes[0].view(n, bh * 2, bw * 2), 2)  # [N, H/4, W/4]
    four = modes[1].view(n, bh * 4, bw * 4)
    wide = spread(kind, 4)
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
