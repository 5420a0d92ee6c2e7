"""Deblocking (ITU-T H.264, 8.7; x264's deblock.c): the edges at one position in all macroblocks at once, vertical ones first.

The standard filters macroblock by macroblock; here the first edge of all macroblocks is filtered, then the second one, and so on. Samples
within three of two edges are filtered in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backend import operation
from ...blocks import repeat_blocks
from ...checks import first_order
from ...constants import Constant, number
from ..common.tables import ALPHA, BETA, TC0


@operation
def motion_info(vectors: list[Tensor], uses_list: list[Tensor], ref_id: list[Tensor]) -> Tensor:
    """Motion of each block as the loop filter compares it: vector and reference of both lists, 0 and -1 for a list that is not used.

    Args:
        vectors: of one or two lists ``[N, bh, bw, 2]``.
        uses_list: blocks that use it, bool ``[N, bh, bw]``.
        ref_id: which frame the reference is, same shape.

    Returns:
        ``[N, bh, bw, 6]``.
    """
    out = vectors[0].new_zeros(*vectors[0].shape[:3], 6, dtype=torch.float32)
    out[..., 2::3] = -1
    for j, (mv, used, frame) in enumerate(zip(vectors, uses_list, ref_id)):
        out[..., 3 * j : 3 * j + 2] = mv * used[..., None]
        out[..., 3 * j + 2] = torch.where(used, frame, -1)
    return out


@motion_info.outputs
def _(vectors: list[Tensor], uses_list: list[Tensor], ref_id: list[Tensor]) -> Tensor:
    return vectors[0].new_empty(*uses_list[0].shape, 6, dtype=torch.float32)


@operation
def boundary_strengths(intra: Tensor, coded: Tensor, motion: Tensor, transform_8x8: Tensor) -> tuple[Tensor, Tensor]:
    """Boundary strength of every 4x4 block's left and upper edge (8.7.2.1).

    Args:
        intra: macroblocks ``[N, H/16, W/16]`` bool.
        coded: 4x4 blocks with coefficients ``[N, H/4, W/4]`` bool.
        motion: what predicts each 8x8 block, ``[N, H/8, W/8, 6]``: :func:`motion_info`; unused lists all equal.
        transform_8x8: macroblocks with the 8x8 transform, bool.

    Returns:
        bS of left and of upper edges, ``[N, H/4, W/4]`` whole numbers 0..4; 0 at the picture's edge.
    """
    mb = repeat_blocks(intra, 4)
    eight = repeat_blocks(transform_8x8, 4)
    moves = repeat_blocks(motion, 2)
    out = []
    for dim in (2, 1):
        n = mb.shape[dim]
        index = torch.arange(n, device=mb.device)
        index = index if dim == 2 else index[:, None]

        def before(x: Tensor, dim: int = dim) -> Tensor:
            return x.roll(1, dim)

        neighbour = before(moves)
        far = ((moves[..., [0, 1, 3, 4]] - neighbour[..., [0, 1, 3, 4]]).abs() >= 4).any(-1) | (
            moves[..., [2, 5]] != neighbour[..., [2, 5]]
        ).any(-1)
        # bi-predicted blocks may name their references in the other order
        crossed = moves[..., [3, 4, 5, 0, 1, 2]]
        far_crossed = ((crossed[..., [0, 1, 3, 4]] - neighbour[..., [0, 1, 3, 4]]).abs() >= 4).any(-1) | (
            crossed[..., [2, 5]] != neighbour[..., [2, 5]]
        ).any(-1)
        bs = (far & far_crossed).to(torch.float32)
        bs = torch.where(coded | before(coded), 2.0, bs)
        either = mb | before(mb)
        bs = torch.where(either, torch.where(index % 4 == 0, number(4, bs), number(3, bs)), bs)
        bs = torch.where(eight & (index % 2 == 1), 0.0, bs)
        out.append(torch.where(index == 0, 0.0, bs))
    return out[0], out[1]


@boundary_strengths.outputs
def _(intra: Tensor, coded: Tensor, motion: Tensor, transform_8x8: Tensor) -> tuple[Tensor, Tensor]:
    return motion.new_empty(coded.shape), motion.new_empty(coded.shape)


# Strong filter of luma, in eighths: p2 p1 p0 q0 q1 q2 where a side is smooth, p0 q0 where it is not, of p3 p2 p1 p0 q0 q1 q2 q3
_STRONG = Constant(
    [
        [2, 3, 1, 1, 1, 0, 0, 0], [0, 2, 2, 2, 2, 0, 0, 0], [0, 1, 2, 2, 2, 1, 0, 0],
        [0, 0, 1, 2, 2, 2, 1, 0], [0, 0, 0, 2, 2, 2, 2, 0], [0, 0, 0, 1, 1, 1, 3, 2],
        [0, 0, 4, 2, 0, 2, 0, 0], [0, 0, 2, 0, 2, 4, 0, 0],
    ]
)  # fmt: skip
_Rows = Sequence[Tensor]


def _across(x: Tensor, edge: int, period: int, reach: int) -> list[Tensor]:
    """Rows of samples on both sides of the edges above rows ``edge`` of every ``period``, views. Shape: ``[N, H, W] -> 2 reach x [N, E, W]``."""
    rows = x.view(len(x), -1, period, x.shape[2])  # [N, macroblocks, period, W]
    if edge:
        return list(rows[:, :, edge - reach : edge + reach].unbind(2))
    return [*rows[:, :-1, period - reach :].unbind(2), *rows[:, 1:, :reach].unbind(2)]


def _acts(p1: Tensor, p0: Tensor, q0: Tensor, q1: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step at the edge, its size, and where a filter acts, as numbers."""
    step = q0 - p0
    gap = step.abs()
    return step, gap, ((gap < alpha) & ((p1 - p0).abs() < beta) & ((q1 - q0).abs() < beta)).to(p0)


def _luma(s: _Rows, alpha: Tensor, beta: Tensor, tc0: Tensor, strong: Tensor | None) -> list[Tensor]:
    """Filter rows across edges in place (8.7.2.3, 8.7.2.4). No ``strong``: bS < 4 everywhere.

    Returns:
        Masks of the gradient: where the changes of both sides, of p1 and of q1 are not clipped; with ``strong`` also where the strong filter
        acts, and where it has all taps on either side.
    """
    _p3, p2, p1, p0, q0, q1, q2, _q3 = s
    step, gap, on = _acts(p1, p0, q0, q1, alpha, beta)
    ap, aq = ((p2 - p0).abs() < beta).to(p0), ((q2 - q0).abs() < beta).to(p0)
    normal = on if strong is None else on * (1 - strong)
    raw = (step * 4).add_(p1 - q1).add_(4).mul_(0.125).floor_()
    tc = tc0 + ap + aq
    delta = torch.clamp(raw, -tc, tc)
    average = (p0 + q0).add_(1).mul_(0.5).floor_()
    raw_p, raw_q = ((a2 + average).sub_(a1, alpha=2).mul_(0.5).floor_() for a2, a1 in ((p2, p1), (q2, q1)))
    delta_p, delta_q = (torch.clamp(r, -tc0, tc0) for r in (raw_p, raw_q))
    np, nq = normal * ap, normal * aq
    masks = [m * (r == d) for m, r, d in ((normal, raw, delta), (np, raw_p, delta_p), (nq, raw_q, delta_q))]
    change_p, change_q = ((v.clamp_(0, 255) - old).mul_(normal) for v, old in ((p0 + delta, p0), (q0 - delta, q0)))
    if strong is not None:
        hard = on * strong
        much = hard * (gap < torch.floor(alpha / 4) + 2)
        mp, mq = much * ap, much * aq
        f = torch.floor((_STRONG.like(p0) @ torch.stack(list(s), -2)).add_(4).mul_(0.125)).unbind(-2)
        change_p += mp * (f[2] - p0) + (hard - mp) * (f[6] - p0)
        change_q += mq * (f[3] - q0) + (hard - mq) * (f[7] - q0)
        more = [mp * (f[1] - p1), mq * (f[4] - q1)]
        p2 += mp * (f[0] - p2)
        q2 += mq * (f[5] - q2)
        p1 += more[0]
        q1 += more[1]
        masks += [hard, mp, mq]
    p1 += delta_p.mul_(np)
    q1 += delta_q.mul_(nq)
    p0 += change_p
    q0 += change_q
    return masks


def _luma_gradient(g: _Rows, masks: _Rows) -> None:
    """Adjoint of :func:`_luma` in place; the floors of the standard's arithmetic pass the gradient."""
    _p3, p2, p1, p0, q0, q1, q2, _q3 = g
    free, free_p, free_q, *strong = masks
    d, dp, dq = free * (p0 - q0), free_p * p1, free_q * q1
    if strong:
        hard, mp, mq = strong
        lost = torch.stack([mp * p2, mp * p1, mp * p0, mq * q0, mq * q1, mq * q2, (hard - mp) * p0, (hard - mq) * q0], -2)
        back = ((_STRONG.like(p0) / 8).mT @ lost).unbind(-2)
        for v, kept in ((p2, mp), (p1, mp), (p0, hard), (q0, hard), (q1, mq), (q2, mq)):
            v -= kept * v
        for v, more in zip(g, back):
            v += more
    side = (dp + dq).mul_(0.25)
    p2.add_(dp, alpha=0.5)
    q2.add_(dq, alpha=0.5)
    p1.add_(d, alpha=0.125).sub_(dp)
    q1.sub_(d, alpha=0.125).sub_(dq)
    p0.add_(side).sub_(d, alpha=0.5)
    q0.add_(side).add_(d, alpha=0.5)


def _chroma(s: _Rows, alpha: Tensor, beta: Tensor, tc0: Tensor, strong: Tensor | None) -> list[Tensor]:
    """The same for chroma, rows p1 p0 q0 q1."""
    p1, p0, q0, q1 = s
    step, _, on = _acts(p1, p0, q0, q1, alpha, beta)
    normal = on if strong is None else on * (1 - strong)
    raw = (step * 4).add_(p1 - q1).add_(4).mul_(0.125).floor_()
    delta = torch.clamp(raw, -tc0 - 1, tc0 + 1)
    masks = [normal * (raw == delta)]
    change_p, change_q = ((v.clamp_(0, 255) - old).mul_(normal) for v, old in ((p0 + delta, p0), (q0 - delta, q0)))
    if strong is not None:
        hard = on * strong
        change_p += hard * ((2 * p1 + p0 + q1).add_(2).mul_(0.25).floor_() - p0)
        change_q += hard * ((2 * q1 + q0 + p1).add_(2).mul_(0.25).floor_() - q0)
        masks.append(hard)
    p0 += change_p
    q0 += change_q
    return masks


def _chroma_gradient(g: _Rows, masks: _Rows) -> None:
    p1, p0, q0, q1 = g
    free, *strong = masks
    d = free * (p0 - q0)
    if strong:
        hp, hq = strong[0] * p0, strong[0] * q0
        p1.add_(hp, alpha=0.5).add_(hq, alpha=0.25)
        q1.add_(hq, alpha=0.5).add_(hp, alpha=0.25)
        p0.sub_(hp, alpha=0.75)
        q0.sub_(hq, alpha=0.75)
    p1.add_(d, alpha=0.125)
    q1.sub_(d, alpha=0.125)
    p0.sub_(d, alpha=0.5)
    q0.add_(d, alpha=0.5)


class _Horizontal(torch.autograd.Function):
    """All horizontal edges of planes ``[N, H, W]``, samples of a row side by side; parameters of :func:`_parameters`."""

    @staticmethod
    def forward(ctx, x, of_blocks, chroma):  # type: ignore[no-untyped-def]
        ctx.chroma = chroma
        out = x.clone()
        of_columns = of_blocks.repeat_interleave(2 if chroma else 4, 3)
        kept: list[Tensor] = []
        for i, edge, period, reach in _edges(chroma):
            alpha, beta, tc0, strong = of_columns[:, :, i::4].unbind(0)
            if i == 0:  # not the picture's own edge; 4 is for macroblocks' edges
                alpha, beta, tc0, strong = alpha[:, 1:], beta[:, 1:], tc0[:, 1:], strong[:, 1:]
            kept += (_chroma if chroma else _luma)(_across(out, edge, period, reach), alpha, beta, tc0, None if i else strong)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(*kept)
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        out, kept = grad.clone(memory_format=torch.contiguous_format), list(ctx.saved_tensors)
        for i, edge, period, reach in reversed(_edges(ctx.chroma)):
            count = (1 if i else 2) if ctx.chroma else (3 if i else 6)
            kept, masks = kept[:-count], kept[-count:]
            (_chroma_gradient if ctx.chroma else _luma_gradient)(_across(out, edge, period, reach), masks)
        return out, None, None


def _edges(chroma: bool) -> list[tuple[int, int, int, int]]:
    """Edges of a macroblock in their order: number among 4x4 luma blocks, row, period of macroblocks, samples that are looked at on either side."""
    return [(0, 0, 8, 2), (2, 4, 8, 2)] if chroma else [(i, 4 * i, 16, 4) for i in range(4)]


def _parameters(bs: Tensor, qp: Tensor) -> Tensor:
    """Alpha (0 where nothing is filtered), beta, tc0 and whether bS is 4, of the upper edges of all 4x4 blocks.

    Shape: ``[N, H/4, W/4], [N, H/16, W/16] -> [4, N, H/4, W/4]``.
    """
    qp = repeat_blocks(qp, 4)
    index = torch.floor((qp + qp.roll(1, 1) + 1) / 2).clamp_(0, 51).long()  # mean of both sides
    tc0 = TC0.like(qp)[(bs.long() - 1).clamp_(0, 2), index]
    return torch.stack([ALPHA.like(qp)[index] * (bs > 0), BETA.like(qp)[index], tc0, (bs == 4).to(qp)])


@operation
def deblock(luma: Tensor, chroma: Tensor, left: Tensor, upper: Tensor, qp: Tensor, qpc: Tensor) -> tuple[Tensor, Tensor]:
    """Filter reconstructed frames.

    Args:
        luma: ``[N, H, W]`` 0..255.
        chroma: ``[N, 2, H/2, W/2]``.
        left, upper: from :func:`boundary_strengths`: 4 at edges of macroblocks only.
        qp, qpc: luma and chroma QP ``[N, H/16, W/16]``.

    Returns:
        Filtered luma and chroma.
    """
    run = _Horizontal.apply
    luma = run(luma.mT.contiguous(), _parameters(left.mT, qp.mT), False).mT.contiguous()
    luma = run(luma, _parameters(upper, qp), False)
    flat = chroma.flatten(0, 1)  # Cb and Cr of each frame
    left_c, upper_c = (p.repeat_interleave(2, 1) for p in (_parameters(left.mT, qpc.mT), _parameters(upper, qpc)))
    flat = run(flat.mT.contiguous(), left_c, True).mT.contiguous()
    return luma, run(flat, upper_c, True).view(chroma.shape)


@deblock.outputs
def _(luma: Tensor, chroma: Tensor, left: Tensor, upper: Tensor, qp: Tensor, qpc: Tensor) -> tuple[Tensor, Tensor]:
    return luma.new_empty(luma.shape), chroma.new_empty(chroma.shape)
