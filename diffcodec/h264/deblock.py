"""Deblocking (ITU-T H.264, 8.7): all edges of one place in the macroblock at once, vertical ones first.

The standard filters macroblock after macroblock; here every first column of edges is filtered, then every second one, and so on. Samples
within three of two edges see another order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import floor_through as floor
from .tables import ALPHA, BETA, TC0


def strengths(intra: Tensor, coded: Tensor, motion: Tensor, use8: Tensor) -> tuple[Tensor, Tensor]:
    """Boundary strength of every 4x4 block's left and upper edge.

    Args:
        intra: macroblocks ``[N, H/16, W/16]`` bool.
        coded: 4x4 blocks with coefficients ``[N, H/4, W/4]`` bool.
        motion: what predicts each 8x8 block, ``[N, H/8, W/8, 6]``: (y, x) and the reference for both lists; unused lists all equal.
        use8: macroblocks with the 8x8 transform, bool.

    Returns:
        bS of left and of upper edges, ``[N, H/4, W/4]`` whole numbers 0..4; 0 at the picture's edge.
    """
    mb = intra.repeat_interleave(4, 1).repeat_interleave(4, 2)
    eight = use8.repeat_interleave(4, 1).repeat_interleave(4, 2)
    move = motion.repeat_interleave(2, 1).repeat_interleave(2, 2)
    out = []
    for dim in (2, 1):
        n = mb.shape[dim]
        place = torch.arange(n, device=mb.device)
        place = place if dim == 2 else place[:, None]

        def before(x: Tensor, dim: int = dim) -> Tensor:
            return x.roll(1, dim)

        other = before(move)
        far = ((move[..., [0, 1, 3, 4]] - other[..., [0, 1, 3, 4]]).abs() >= 4).any(-1) | (move[..., [2, 5]] != other[..., [2, 5]]).any(-1)
        # bi-predicted blocks may name their references in the other order
        crossed = move[..., [3, 4, 5, 0, 1, 2]]
        far_crossed = ((crossed[..., [0, 1, 3, 4]] - other[..., [0, 1, 3, 4]]).abs() >= 4).any(-1) | (
            crossed[..., [2, 5]] != other[..., [2, 5]]
        ).any(-1)
        bs = (far & far_crossed).to(torch.float32)
        bs = torch.where(coded | before(coded), 2.0, bs)
        either = mb | before(mb)
        bs = torch.where(either, torch.where(place % 4 == 0, 4.0, 3.0), bs)
        bs = torch.where(eight & (place % 2 == 1), 0.0, bs)
        out.append(torch.where(place == 0, 0.0, bs))
    return out[0], out[1]


def _columns(x: Tensor, bs: Tensor, qp: Tensor, edge: int, period: int, chroma: bool) -> Tensor:
    """Filter the vertical edges at columns ``edge`` of every ``period``.

    Args:
        x: ``[N, H, W]``.
        bs: strength of each row of each of these edges ``[N, H, E]``.
        qp: mean QP of both sides, same shape.
    """
    n, h, w = x.shape
    reach = 2 if chroma else 4
    count = bs.shape[-1]
    start = edge if edge else period
    first = start - reach
    cells = x[..., first : first + period * count]
    if cells.shape[-1] < period * count:
        cells = torch.nn.functional.pad(cells, (0, period * count - cells.shape[-1]))
    s = cells.reshape(n, h, count, period)[..., : 2 * reach]
    p = [s[..., reach - 1 - i] for i in range(reach)]
    q = [s[..., reach + i] for i in range(reach)]
    index = qp.detach().clamp(0, 51).long()
    alpha, beta = ALPHA.like(x)[index], BETA.like(x)[index]
    with torch.no_grad():
        on = (bs > 0) & ((p[0] - q[0]).abs() < alpha) & ((p[1] - p[0]).abs() < beta) & ((q[1] - q[0]).abs() < beta)
        strong = on & (bs == 4)
        normal = on & (bs < 4)
        tc0 = TC0.like(x)[(bs.long() - 1).clamp(0, 2), index]
    # normal
    if chroma:
        tc = tc0 + 1
    else:
        with torch.no_grad():
            ap, aq = (p[2] - p[0]).abs() < beta, (q[2] - q[0]).abs() < beta
            tc = tc0 + ap.to(x) + aq.to(x)
    delta = floor((((q[0] - p[0]) * 4 + (p[1] - q[1])) + 4) / 8)
    delta = torch.minimum(torch.maximum(delta, -tc), tc)
    new_p, new_q = list(p), list(q)
    new_p[0] = torch.where(normal, (p[0] + delta).clamp(0, 255), p[0])
    new_q[0] = torch.where(normal, (q[0] - delta).clamp(0, 255), q[0])
    if chroma:
        new_p[0] = torch.where(strong, floor((2 * p[1] + p[0] + q[1] + 2) / 4), new_p[0])
        new_q[0] = torch.where(strong, floor((2 * q[1] + q[0] + p[1] + 2) / 4), new_q[0])
    else:
        average = floor((p[0] + q[0] + 1) / 2)

        def side(a: list[Tensor], near: Tensor) -> Tensor:
            d = floor((a[2] + average - 2 * a[1]) / 2)
            return torch.where(normal & near, a[1] + torch.minimum(torch.maximum(d, -tc0), tc0), a[1])

        new_p[1], new_q[1] = side(p, ap), side(q, aq)
        small = strong & ((p[0] - q[0]).abs() < torch.floor(alpha / 4) + 2)

        def flat(a: list[Tensor], b: list[Tensor], near: Tensor, new: list[Tensor]) -> None:
            much = small & near
            new[0] = torch.where(
                strong,
                torch.where(
                    much,
                    floor((a[2] + 2 * a[1] + 2 * a[0] + 2 * b[0] + b[1] + 4) / 8),
                    floor((2 * a[1] + a[0] + b[1] + 2) / 4),
                ),
                new[0],
            )
            new[1] = torch.where(much, floor((a[2] + a[1] + a[0] + b[0] + 2) / 4), new[1])
            new[2] = torch.where(much, floor((2 * a[3] + 3 * a[2] + a[1] + a[0] + b[0] + 4) / 8), new[2])

        flat(p, q, ap, new_p)
        flat(q, p, aq, new_q)
    filtered = torch.stack([*reversed(new_p), *new_q], -1)  # [N, H, E, 2 reach]
    rest = cells.reshape(n, h, count, period)[..., 2 * reach :]
    done = torch.cat([filtered, rest], -1).reshape(n, h, count * period)
    keep = min(period * count, w - first)
    return torch.cat([x[..., :first], done[..., :keep], x[..., first + keep :]], -1)


def _vertical(x: Tensor, bs: Tensor, qp: Tensor, chroma: bool) -> Tensor:
    """All vertical edges of planes ``[N, H, W]``; bs per 4x4 luma block, qp per macroblock."""
    rows = 2 if chroma else 4  # samples of the plane that a 4x4 luma block is high
    period = 8 if chroma else 16
    left = qp.roll(1, 2)
    for i in range(0, 4, 2 if chroma else 1):
        b = bs[..., i::4]
        mean = torch.floor((qp + left + 1) / 2) if i == 0 else qp
        if i == 0:
            b, mean = b[..., 1:], mean[..., 1:]
            if not b.shape[-1]:
                continue
        mean = mean.repeat_interleave(4, 1)
        x = _columns(x, b.repeat_interleave(rows, 1), mean.repeat_interleave(rows, 1), i * (period // 4), period, chroma)
    return x


def deblock(luma: Tensor, chroma: Tensor, bs: tuple[Tensor, Tensor], qp: Tensor, qpc: Tensor) -> tuple[Tensor, Tensor]:
    """Filter reconstructed frames.

    Args:
        luma: ``[N, H, W]`` 0..255.
        chroma: ``[N, 2, H/2, W/2]``.
        bs: from :func:`strengths`.
        qp, qpc: luma and chroma QP ``[N, H/16, W/16]``.

    Returns:
        Filtered luma and chroma.
    """
    left, upper = bs
    luma = _vertical(luma, left, qp, False)
    luma = _vertical(luma.mT, upper.mT, qp.mT, False).mT
    flat = chroma.flatten(0, 1)

    def twice(v: Tensor) -> Tensor:
        return v.repeat_interleave(2, 0)

    flat = _vertical(flat, twice(left), twice(qpc), True)
    flat = _vertical(flat.mT, twice(upper).mT, twice(qpc).mT, True).mT
    return luma, flat.view(chroma.shape)
