"""Deblocking (ITU-T H.264, 8.7): all edges of one place in the macroblock at once, vertical ones first.

The standard filters macroblock after macroblock; here every first column of edges is filtered, then every second one, and so on. Samples
within three of two edges see another order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from ..blocks import spread
from ..constants import Constant
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
    if kernels.here(motion):
        return kernels.ops().deblock_strengths(intra, coded, motion, use8)  # type: ignore[no-any-return]
    mb = spread(intra, 4)
    eight = spread(use8, 4)
    move = spread(motion, 2)
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


# Samples across an edge are p3 p2 p1 p0 q0 q1 q2 q3 (luma), p1 p0 q0 q1 (chroma)

# Strong filter of luma, in eighths: p2 p1 p0 q0 q1 q2 where a side is smooth, p0 q0 where it is not
_STRONG = Constant(
    [
        [2, 3, 1, 1, 1, 0, 0, 0], [0, 2, 2, 2, 2, 0, 0, 0], [0, 1, 2, 2, 2, 1, 0, 0],
        [0, 0, 1, 2, 2, 2, 1, 0], [0, 0, 0, 2, 2, 2, 2, 0], [0, 0, 0, 1, 1, 1, 3, 2],
        [0, 0, 4, 2, 0, 2, 0, 0], [0, 0, 2, 0, 2, 4, 0, 0],
    ]
)  # fmt: skip
# Normal filter: what the change of p0 (and, negative, of q0) and those of p1 and q1 depend on
_CHANGES = Constant([[0, 0, 0.125, -0.5, 0.5, -0.125, 0, 0], [0, 0.5, -1, 0.25, 0.25, 0, 0, 0], [0, 0, 0, 0.25, 0.25, -1, 0.5, 0]])
_STRONG_CHROMA = Constant([[0.5, 0.25, 0, 0.25], [0.25, 0, 0.25, 0.5]])
_CHANGE_CHROMA = Constant([[0.125, -0.5, 0.5, -0.125]])


class _Luma(torch.autograd.Function):
    """Samples across edges ``[..., 8, W]``, filtered; the floors of the standard's arithmetic pass the gradient. No ``strong``: bS < 4 everywhere."""

    @staticmethod
    def forward(ctx, s, alpha, beta, tc0, strong):  # type: ignore[no-untyped-def]
        p3, p2, p1, p0, q0, q1, q2, q3 = s.unbind(-2)
        step, gap, on = _acts(p1, p0, q0, q1, alpha, beta)
        ap, aq = ((p2 - p0).abs() < beta).to(s), ((q2 - q0).abs() < beta).to(s)
        normal = on if strong is None else on * (1 - strong)
        raw = torch.floor((step * 4 + (p1 - q1) + 4) / 8)
        tc = tc0 + ap + aq
        delta = torch.clamp(raw, -tc, tc)
        average = torch.floor((p0 + q0 + 1) / 2)
        raw_p, raw_q = (torch.floor((a2 + average - 2 * a1) / 2) for a2, a1 in ((p2, p1), (q2, q1)))
        delta_p, delta_q = (torch.clamp(r, -tc0, tc0) for r in (raw_p, raw_q))
        np, nq = normal * ap, normal * aq
        free = [m * (r == d) for m, r, d in ((normal, raw, delta), (np, raw_p, delta_p), (nq, raw_q, delta_q))]
        o1, o0 = p1 + np * delta_p, p0 + normal * ((p0 + delta).clamp_(0, 255) - p0)
        i0, i1 = q0 + normal * ((q0 - delta).clamp_(0, 255) - q0), q1 + nq * delta_q
        if strong is None:
            ctx.save_for_backward(*free)
            return torch.stack([p3, p2, o1, o0, i0, i1, q2, q3], -2)
        hard = on * strong
        much = hard * (gap < torch.floor(alpha / 4) + 2)
        mp, mq = much * ap, much * aq
        f = torch.floor((_STRONG.like(s) @ s + 4) / 8).unbind(-2)
        ctx.save_for_backward(*free, hard, mp, mq)
        return torch.stack(
            [
                p3,
                p2 + mp * (f[0] - p2),
                o1 + mp * (f[1] - p1),
                o0 + mp * (f[2] - p0) + (hard - mp) * (f[6] - p0),
                i0 + mq * (f[3] - q0) + (hard - mq) * (f[7] - q0),
                i1 + mq * (f[4] - q1),
                q2 + mq * (f[5] - q2),
                q3,
            ],
            -2,
        )

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        free, free_p, free_q, *strong = ctx.saved_tensors
        _3, p2, p1, p0, q0, q1, q2, _3 = grad.unbind(-2)
        of_changes = _CHANGES.like(grad).mT @ torch.stack([free * (p0 - q0), free_p * p1, free_q * q1], -2)
        if not strong:
            return grad + of_changes, None, None, None, None
        hard, mp, mq = strong
        of_strong = torch.stack([mp * p2, mp * p1, mp * p0, mq * q0, mq * q1, mq * q2, (hard - mp) * p0, (hard - mq) * q0], -2)
        one = torch.ones_like(mp)
        kept = torch.stack([one, 1 - mp, 1 - mp, 1 - hard, 1 - hard, 1 - mq, 1 - mq, one], -2)
        return grad * kept + (_STRONG.like(grad) / 8).mT @ of_strong + of_changes, None, None, None, None


class _Chroma(torch.autograd.Function):
    """The same for chroma ``[..., 4, W]``."""

    @staticmethod
    def forward(ctx, s, alpha, beta, tc0, strong):  # type: ignore[no-untyped-def]
        p1, p0, q0, q1 = s.unbind(-2)
        step, _, on = _acts(p1, p0, q0, q1, alpha, beta)
        normal = on if strong is None else on * (1 - strong)
        raw = torch.floor((step * 4 + (p1 - q1) + 4) / 8)
        delta = torch.clamp(raw, -tc0 - 1, tc0 + 1)
        free = normal * (raw == delta)
        p, q = p0 + normal * ((p0 + delta).clamp_(0, 255) - p0), q0 + normal * ((q0 - delta).clamp_(0, 255) - q0)
        if strong is None:
            ctx.save_for_backward(free)
            return torch.stack([p1, p, q, q1], -2)
        hard = on * strong
        f = torch.floor(_STRONG_CHROMA.like(s) @ s + 0.5).unbind(-2)
        ctx.save_for_backward(free, hard)
        return torch.stack([p1, p + hard * (f[0] - p0), q + hard * (f[1] - q0), q1], -2)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        free, *strong = ctx.saved_tensors
        inner = grad[..., 1:3, :]
        out = grad + _CHANGE_CHROMA.like(grad).mT @ (free * (inner[..., 0, :] - inner[..., 1, :]))[..., None, :]
        if strong:
            lost = strong[0][..., None, :] * inner
            out[..., 1:3, :] -= lost
            out = out + _STRONG_CHROMA.like(grad).mT @ lost
        return out, None, None, None, None


def _acts(p1: Tensor, p0: Tensor, q0: Tensor, q1: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step at the edge, its size, and where a filter acts, as numbers."""
    step = q0 - p0
    gap = step.abs()
    return step, gap, ((gap < alpha) & ((p1 - p0).abs() < beta) & ((q1 - q0).abs() < beta)).to(p0)


def _parameters(bs: Tensor, qp: Tensor) -> Tensor:
    """Alpha (0 where nothing is filtered), beta, tc0 and whether bS is 4, of the upper edges of all 4x4 blocks.

    Shape: ``[N, H/4, W/4], [N, H/16, W/16] -> [4, N, H/4, W/4]``.
    """
    qp = spread(qp, 4)
    index = torch.floor((qp + qp.roll(1, 1) + 1) / 2).clamp_(0, 51).long()  # mean of both sides
    tc0 = TC0.like(qp)[(bs.long() - 1).clamp_(0, 2), index]
    return torch.stack([ALPHA.like(qp)[index] * (bs > 0), BETA.like(qp)[index], tc0, (bs == 4).to(qp)])


def _rows(x: Tensor, of_edges: Tensor, edge: int, period: int, chroma: bool) -> Tensor:
    """Filter the horizontal edges above rows ``edge`` of every ``period``.

    Args:
        x: ``[N, H, W]``.
        of_edges: their parameters at each column ``[4, N, E, W]``.
    """
    n, h, w = x.shape
    reach = 2 if chroma else 4
    count = of_edges.shape[2]
    first = (edge if edge else period) - reach
    cells = x[:, first : first + period * count]
    if cells.shape[1] < period * count:
        cells = torch.nn.functional.pad(cells, (0, 0, 0, period * count - cells.shape[1]))
    cells = cells.reshape(n, count, period, w)
    alpha, beta, tc0, strong = of_edges.unbind(0)
    inner = cells[:, :, : 2 * reach]
    filtered = (_Chroma if chroma else _Luma).apply(inner, alpha, beta, tc0, None if edge else strong)  # 4 is for macroblocks' edges
    done = torch.cat([filtered, cells[:, :, 2 * reach :]], 2).reshape(n, count * period, w)
    keep = min(period * count, h - first)
    return torch.cat([x[:, :first], done[:, :keep], x[:, first + keep :]], 1)


def _horizontal(x: Tensor, of_blocks: Tensor, chroma: bool) -> Tensor:
    """All horizontal edges of planes ``[N, H, W]``, samples of a row side by side; parameters per 4x4 luma block."""
    columns = 2 if chroma else 4  # samples of the plane that a 4x4 luma block is wide
    period = 8 if chroma else 16
    of_columns = of_blocks.repeat_interleave(columns, 3)
    for i in range(0, 4, 2 if chroma else 1):
        of_edges = of_columns[:, :, i::4]
        if i == 0:
            of_edges = of_edges[:, :, 1:]  # not the picture's own edge
        if of_edges.shape[2]:
            x = _rows(x, of_edges, i * (period // 4), period, chroma)
    return x


def deblock(luma: Tensor, chroma: Tensor, bs: tuple[Tensor, Tensor], qp: Tensor, qpc: Tensor) -> tuple[Tensor, Tensor]:
    """Filter reconstructed frames.

    Args:
        luma: ``[N, H, W]`` 0..255.
        chroma: ``[N, 2, H/2, W/2]``.
        bs: from :func:`strengths`: 4 at edges of macroblocks only.
        qp, qpc: luma and chroma QP ``[N, H/16, W/16]``.

    Returns:
        Filtered luma and chroma.
    """
    if kernels.here(luma):
        flat = chroma.flatten(0, 1)
        for edges, vertical in zip(bs, (True, False)):
            luma = kernels.ops().deblock(luma, edges, qp, vertical, False)
            flat = kernels.ops().deblock(flat, edges, qpc, vertical, True)
        return luma, flat.view(chroma.shape)
    left, upper = bs
    luma = _horizontal(luma.mT.contiguous(), _parameters(left.mT, qp.mT), False).mT.contiguous()
    luma = _horizontal(luma, _parameters(upper, qp), False)
    flat = chroma.flatten(0, 1)  # Cb and Cr of each frame
    left_c, upper_c = (p.repeat_interleave(2, 1) for p in (_parameters(left.mT, qpc.mT), _parameters(upper, qpc)))
    flat = _horizontal(flat.mT.contiguous(), left_c, True).mT.contiguous()
    return luma, _horizontal(flat, upper_c, True).view(chroma.shape)
