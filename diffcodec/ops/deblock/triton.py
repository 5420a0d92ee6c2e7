"""H.264's loop filter in Triton: all edges of one direction in a pass, the order of edges as the reference has it.

A thread holds a line of samples across the edges of one macroblock, with the neighbours' samples that they reach: luma 4 + 16 + 4, chroma
2 + 8 + 2. Edges of macroblocks come first, the inner ones after. The backward pass recomputes intermediate samples; only the input is kept.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...constants import Constant
from ...implement import backward_of, implements
from ..common.tables import ALPHA, BETA, TC0
from ..common.triton import blocks_here
from . import reference

_LINES = 128
_TABLES = Constant(torch.cat([ALPHA.value[None], BETA.value[None], TC0.value]).numpy())  # [5, 52]: alpha, beta, tc0 for bS 1, 2, 3


@triton.jit
def _edge(bs, qp, tables, n, mb, line, edge, mask, MBS, LINES, ACROSS, ALONG, SIDE: tl.constexpr, PLANES: tl.constexpr):
    """Parameters of the edge before 4x4 block ``edge`` of macroblock ``mb`` on each line: alpha (0 where nothing is filtered), beta, tc0, bS.

    ACROSS, ALONG: strides of ``bs`` from macroblock to macroblock's quarter across and along the edges; those of ``qp`` follow from them.
    """
    blocks = 4 * MBS  # across; 4x4 blocks along: LINES // (SIDE // 4)
    unit: tl.constexpr = SIDE // 4
    lines = LINES // unit
    i = 4 * mb + edge
    inside = mask & (i > 0) & (i < blocks)
    s = tl.load(bs + n // PLANES * blocks * lines + i * ACROSS + line // unit * ALONG, inside, 0.0)
    # qp[n, y, x]: where edges are vertical, x counts across
    rows = lines // 4
    across = tl.where(ACROSS == 1, 1, ACROSS // 4)
    along = tl.where(ACROSS == 1, ALONG // 4, 1)
    offset = qp + n // PLANES * MBS * rows + line // SIDE * along
    inner = tl.load(offset + mb * across, inside, 0.0)
    outer = tl.load(offset + (i - 1) // 4 * across, inside, 0.0)
    index = tl.minimum(tl.maximum(tl.floor((inner + outer + 1) * 0.5), 0.0), 51.0).to(tl.int32)
    alpha = tl.where(s > 0, tl.load(tables + index), 0.0)
    beta = tl.load(tables + 52 + index)
    tc0 = tl.load(tables + (2 + tl.minimum(tl.maximum(s.to(tl.int32) - 1, 0), 2)) * 52 + index)
    return alpha, beta, tc0, s


@triton.jit
def _clip(x, most):
    return tl.minimum(tl.maximum(x, -most), most)


@triton.jit
def _sample(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _luma(p3, p2, p1, p0, q0, q1, q2, q3, edge, STRONG: tl.constexpr):
    """Eight samples across an edge, filtered (8.7.2.3, 8.7.2.4)."""
    alpha, beta, tc0, bs = edge
    step = q0 - p0
    on = (tl.abs(step) < alpha) & (tl.abs(p1 - p0) < beta) & (tl.abs(q1 - q0) < beta)
    ap, aq = tl.abs(p2 - p0) < beta, tl.abs(q2 - q0) < beta
    delta = _clip(tl.floor((step * 4 + (p1 - q1) + 4) * 0.125), tc0 + tl.where(ap, 1.0, 0.0) + tl.where(aq, 1.0, 0.0))
    average = tl.floor((p0 + q0 + 1) * 0.5)
    r2, l2 = p2, q2
    r1 = tl.where(on & ap, p1 + _clip(tl.floor((p2 + average - 2 * p1) * 0.5), tc0), p1)
    l1 = tl.where(on & aq, q1 + _clip(tl.floor((q2 + average - 2 * q1) * 0.5), tc0), q1)
    r0, l0 = tl.where(on, _sample(p0 + delta), p0), tl.where(on, _sample(q0 - delta), q0)
    if STRONG:
        hard = on & (bs == 4)
        much = tl.abs(step) < tl.floor(alpha * 0.25) + 2
        mp, mq = hard & much & ap, hard & much & aq
        r0 = tl.where(hard, tl.floor((2 * p1 + p0 + q1 + 2) * 0.25), r0)
        l0 = tl.where(hard, tl.floor((2 * q1 + q0 + p1 + 2) * 0.25), l0)
        r1, l1 = tl.where(hard, p1, r1), tl.where(hard, q1, l1)
        r0 = tl.where(mp, tl.floor((p2 + 2 * p1 + 2 * p0 + 2 * q0 + q1 + 4) * 0.125), r0)
        l0 = tl.where(mq, tl.floor((p1 + 2 * p0 + 2 * q0 + 2 * q1 + q2 + 4) * 0.125), l0)
        r1 = tl.where(mp, tl.floor((p2 + p1 + p0 + q0 + 2) * 0.25), r1)
        l1 = tl.where(mq, tl.floor((p0 + q0 + q1 + q2 + 2) * 0.25), l1)
        r2 = tl.where(mp, tl.floor((2 * p3 + 3 * p2 + p1 + p0 + q0 + 4) * 0.125), p2)
        l2 = tl.where(mq, tl.floor((p0 + q0 + q1 + 3 * q2 + 2 * q3 + 4) * 0.125), q2)
    return r2, r1, r0, l0, l1, l2


@triton.jit
def _luma_gradient(s, g, edge, STRONG: tl.constexpr):
    """Adjoint of :func:`_luma` at eight samples; the floors pass the gradient, the clips pass it where they do not act."""
    _p3, p2, p1, p0, q0, q1, q2, _q3 = s
    gp3, gp2, gp1, gp0, gq0, gq1, gq2, gq3 = g
    alpha, beta, tc0, bs = edge
    step = q0 - p0
    on = (tl.abs(step) < alpha) & (tl.abs(p1 - p0) < beta) & (tl.abs(q1 - q0) < beta)
    ap, aq = tl.abs(p2 - p0) < beta, tl.abs(q2 - q0) < beta
    normal = on
    if STRONG:
        normal = on & (bs < 4)
    most = tc0 + tl.where(ap, 1.0, 0.0) + tl.where(aq, 1.0, 0.0)
    d = tl.where(normal & (tl.abs(tl.floor((step * 4 + (p1 - q1) + 4) * 0.125)) <= most), gp0 - gq0, 0.0)
    average = tl.floor((p0 + q0 + 1) * 0.5)
    dp = tl.where(normal & ap & (tl.abs(tl.floor((p2 + average - 2 * p1) * 0.5)) <= tc0), gp1, 0.0)
    dq = tl.where(normal & aq & (tl.abs(tl.floor((q2 + average - 2 * q1) * 0.5)) <= tc0), gq1, 0.0)
    o3, i3 = gp3, gq3
    o2, i2 = gp2 + 0.5 * dp, gq2 + 0.5 * dq
    o1, i1 = gp1 + 0.125 * d - dp, gq1 - 0.125 * d - dq
    o0, i0 = gp0 - 0.5 * d + 0.25 * (dp + dq), gq0 + 0.5 * d + 0.25 * (dp + dq)
    if STRONG:
        hard = on & (bs == 4)
        much = tl.abs(step) < tl.floor(alpha * 0.25) + 2
        mp, mq = hard & much & ap, hard & much & aq
        # what a sample was is lost where it is replaced ...
        hp, hq = tl.where(hard & ~mp, gp0, 0.0), tl.where(hard & ~mq, gq0, 0.0)
        sp0, sp1, sp2 = tl.where(mp, gp0, 0.0), tl.where(mp, gp1, 0.0), tl.where(mp, gp2, 0.0)
        sq0, sq1, sq2 = tl.where(mq, gq0, 0.0), tl.where(mq, gq1, 0.0), tl.where(mq, gq2, 0.0)
        o0, i0 = o0 - hp - sp0, i0 - hq - sq0
        o1, i1 = o1 - sp1, i1 - sq1
        o2, i2 = o2 - sp2, i2 - sq2
        # ... and comes back by the weights of the filters
        o3 += 0.25 * sp2
        i3 += 0.25 * sq2
        o2 += 0.375 * sp2 + 0.25 * sp1 + 0.125 * sp0
        i2 += 0.375 * sq2 + 0.25 * sq1 + 0.125 * sq0
        o1 += 0.125 * sp2 + 0.25 * sp1 + 0.25 * sp0 + 0.5 * hp + 0.125 * sq0 + 0.25 * hq
        i1 += 0.125 * sq2 + 0.25 * sq1 + 0.25 * sq0 + 0.5 * hq + 0.125 * sp0 + 0.25 * hp
        o0 += 0.125 * sp2 + 0.25 * sp1 + 0.25 * sp0 + 0.25 * hp + 0.25 * sq0 + 0.25 * sq1 + 0.125 * sq2
        i0 += 0.125 * sq2 + 0.25 * sq1 + 0.25 * sq0 + 0.25 * hq + 0.25 * sp0 + 0.25 * sp1 + 0.125 * sp2
    return o3, o2, o1, o0, i0, i1, i2, i3


@triton.jit
def _chroma(p1, p0, q0, q1, edge):
    """The two samples at an edge of chroma, filtered."""
    alpha, beta, tc0, bs = edge
    step = q0 - p0
    on = (tl.abs(step) < alpha) & (tl.abs(p1 - p0) < beta) & (tl.abs(q1 - q0) < beta)
    hard = on & (bs == 4)
    delta = _clip(tl.floor((step * 4 + (p1 - q1) + 4) * 0.125), tc0 + 1)
    r0, l0 = tl.where(on, _sample(p0 + delta), p0), tl.where(on, _sample(q0 - delta), q0)
    return tl.where(hard, tl.floor((2 * p1 + p0 + q1 + 2) * 0.25), r0), tl.where(hard, tl.floor((2 * q1 + q0 + p1 + 2) * 0.25), l0)


@triton.jit
def _chroma_gradient(p1, p0, q0, q1, gp1, gp0, gq0, gq1, edge):
    alpha, beta, tc0, bs = edge
    step = q0 - p0
    on = (tl.abs(step) < alpha) & (tl.abs(p1 - p0) < beta) & (tl.abs(q1 - q0) < beta)
    hard = on & (bs == 4)
    free = on & (bs < 4) & (tl.abs(tl.floor((step * 4 + (p1 - q1) + 4) * 0.125)) <= tc0 + 1)
    d = tl.where(free, gp0 - gq0, 0.0)
    hp, hq = tl.where(hard, gp0, 0.0), tl.where(hard, gq0, 0.0)
    return (
        gp1 + 0.125 * d + 0.5 * hp + 0.25 * hq,
        gp0 - 0.5 * d - 0.75 * hp,
        gq0 + 0.5 * d - 0.75 * hq,
        gq1 - 0.125 * d + 0.5 * hq + 0.25 * hp,
    )


@triton.jit
def _place(MBS, LINES, STEP, NEXT, TILES, SIDE: tl.constexpr, SIZE: tl.constexpr):
    """Frame, macroblock (at each line), lines, where each line's first sample of the macroblock lies, and which lines there are."""
    tile = tl.program_id(0) % TILES
    mb = tl.program_id(0) // TILES % MBS + tl.zeros([SIZE], tl.int32)
    n = (tl.program_id(0) // (TILES * MBS)).to(tl.int64)
    line = tile * SIZE + tl.arange(0, SIZE)
    mask = line < LINES
    return n, mb, line, n * MBS * SIDE * LINES + line * NEXT + mb * SIDE * STEP, mask


@triton.jit
def _line(x, offset, first: tl.constexpr, count: tl.constexpr, STEP, mb, MBS, mask, SIDE: tl.constexpr):
    """``count`` samples from ``first`` on, relative to a macroblock; 0 beyond the picture."""
    out = ()
    for i in tl.static_range(count):
        inside = mask & (mb * SIDE + first + i >= 0) & (mb * SIDE + first + i < MBS * SIDE)
        out = out + (tl.load(x + offset + (first + i) * STEP, inside, 0.0),)
    return out


@triton.jit
def _after_outer(v, bs, qp, tables, n, mb, line, mask, MBS, LINES, ACROSS, ALONG):
    """A macroblock's 16 samples once the edges at both its ends are filtered, from the 24 around."""
    e = _edge(bs, qp, tables, n, mb, line, 0, mask, MBS, LINES, ACROSS, ALONG, 16, 1)
    _, _, _, a0, a1, a2 = _luma(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], e, True)
    e = _edge(bs, qp, tables, n, mb + 1, line, 0, mask, MBS, LINES, ACROSS, ALONG, 16, 1)
    b2, b1, b0, _, _, _ = _luma(v[16], v[17], v[18], v[19], v[20], v[21], v[22], v[23], e, True)
    return a0, a1, a2, v[7], v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15], v[16], b2, b1, b0


@triton.jit
def _inner(s, e, FIRST: tl.constexpr):
    """An inner edge of a line of 16 samples, its eight samples from FIRST on."""
    f = _luma(s[FIRST], s[FIRST + 1], s[FIRST + 2], s[FIRST + 3], s[FIRST + 4], s[FIRST + 5], s[FIRST + 6], s[FIRST + 7], e, False)
    out = ()
    for i in tl.static_range(16):
        if i > FIRST and i < FIRST + 7:
            out = out + (f[i - FIRST - 1],)
        else:
            out = out + (s[i],)
    return out


@triton.jit
def _inner_gradient(s, g, e, FIRST: tl.constexpr):
    f = _luma_gradient(
        (s[FIRST], s[FIRST + 1], s[FIRST + 2], s[FIRST + 3], s[FIRST + 4], s[FIRST + 5], s[FIRST + 6], s[FIRST + 7]),
        (g[FIRST], g[FIRST + 1], g[FIRST + 2], g[FIRST + 3], g[FIRST + 4], g[FIRST + 5], g[FIRST + 6], g[FIRST + 7]),
        e,
        False,
    )
    out = ()
    for i in tl.static_range(16):
        if i >= FIRST and i < FIRST + 8:
            out = out + (f[i - FIRST],)
        else:
            out = out + (g[i],)
    return out


@triton.jit
def _filter_luma(x, bs, qp, tables, out, MBS, LINES, STEP, NEXT, ACROSS, ALONG, TILES, SIZE: tl.constexpr):
    n, mb, line, offset, mask = _place(MBS, LINES, STEP, NEXT, TILES, 16, SIZE)
    v = _line(x, offset, -4, 24, STEP, mb, MBS, mask, 16)
    s = _after_outer(v, bs, qp, tables, n, mb, line, mask, MBS, LINES, ACROSS, ALONG)
    for i in tl.static_range(1, 4):
        e = _edge(bs, qp, tables, n, mb, line, i, mask, MBS, LINES, ACROSS, ALONG, 16, 1)
        s = _inner(s, e, 4 * i - 4)
    for i in tl.static_range(16):
        tl.store(out + offset + i * STEP, s[i], mask)


@triton.jit
def _luma_inner_backward(grad, x, bs, qp, tables, out, MBS, LINES, STEP, NEXT, ACROSS, ALONG, TILES, SIZE: tl.constexpr):
    """Gradient of the samples after the edges of macroblocks."""
    n, mb, line, offset, mask = _place(MBS, LINES, STEP, NEXT, TILES, 16, SIZE)
    v = _line(x, offset, -4, 24, STEP, mb, MBS, mask, 16)
    s0 = _after_outer(v, bs, qp, tables, n, mb, line, mask, MBS, LINES, ACROSS, ALONG)
    e1 = _edge(bs, qp, tables, n, mb, line, 1, mask, MBS, LINES, ACROSS, ALONG, 16, 1)
    e2 = _edge(bs, qp, tables, n, mb, line, 2, mask, MBS, LINES, ACROSS, ALONG, 16, 1)
    e3 = _edge(bs, qp, tables, n, mb, line, 3, mask, MBS, LINES, ACROSS, ALONG, 16, 1)
    s1 = _inner(s0, e1, 0)
    s2 = _inner(s1, e2, 4)
    g = _line(grad, offset, 0, 16, STEP, mb, MBS, mask, 16)
    g = _inner_gradient(s2, g, e3, 8)
    g = _inner_gradient(s1, g, e2, 4)
    g = _inner_gradient(s0, g, e1, 0)
    for i in tl.static_range(16):
        tl.store(out + offset + i * STEP, g[i], mask)


@triton.jit
def _luma_outer_backward(grad, x, bs, qp, tables, out, MBS, LINES, STEP, NEXT, ACROSS, ALONG, TILES, SIZE: tl.constexpr):
    """Gradient of the input from that after the edges of macroblocks: each program writes what lies 4 before to 12 after one."""
    n, mb, line, offset, mask = _place(MBS, LINES, STEP, NEXT, TILES, 16, SIZE)
    s = _line(x, offset, -4, 8, STEP, mb, MBS, mask, 16)
    g = _line(grad, offset, -4, 20, STEP, mb, MBS, mask, 16)
    e = _edge(bs, qp, tables, n, mb, line, 0, mask, MBS, LINES, ACROSS, ALONG, 16, 1)
    f = _luma_gradient(s, (g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]), e, True)
    for i in tl.static_range(20):
        inside = mask & ((i < 16) | (mb == MBS - 1)) & (mb * 16 - 4 + i >= 0)
        if i < 8:
            tl.store(out + offset + (i - 4) * STEP, f[i], inside)
        else:
            tl.store(out + offset + (i - 4) * STEP, g[i], inside)


@triton.jit
def _filter_chroma(x, bs, qp, tables, out, MBS, LINES, STEP, NEXT, ACROSS, ALONG, TILES, SIZE: tl.constexpr):
    n, mb, line, offset, mask = _place(MBS, LINES, STEP, NEXT, TILES, 8, SIZE)
    v = _line(x, offset, -2, 12, STEP, mb, MBS, mask, 8)
    a = _edge(bs, qp, tables, n, mb, line, 0, mask, MBS, LINES, ACROSS, ALONG, 8, 2)
    b = _edge(bs, qp, tables, n, mb, line, 2, mask, MBS, LINES, ACROSS, ALONG, 8, 2)
    c = _edge(bs, qp, tables, n, mb + 1, line, 0, mask, MBS, LINES, ACROSS, ALONG, 8, 2)
    _, a0 = _chroma(v[0], v[1], v[2], v[3], a)
    b0, b1 = _chroma(v[4], v[5], v[6], v[7], b)
    c0, _ = _chroma(v[8], v[9], v[10], v[11], c)
    s = (a0, v[3], v[4], b0, b1, v[7], v[8], c0)
    for i in tl.static_range(8):
        tl.store(out + offset + i * STEP, s[i], mask)


@triton.jit
def _chroma_backward(grad, x, bs, qp, tables, out, MBS, LINES, STEP, NEXT, ACROSS, ALONG, TILES, SIZE: tl.constexpr):
    n, mb, line, offset, mask = _place(MBS, LINES, STEP, NEXT, TILES, 8, SIZE)
    v = _line(x, offset, -2, 12, STEP, mb, MBS, mask, 8)
    g = _line(grad, offset, -2, 12, STEP, mb, MBS, mask, 8)
    a = _edge(bs, qp, tables, n, mb, line, 0, mask, MBS, LINES, ACROSS, ALONG, 8, 2)
    b = _edge(bs, qp, tables, n, mb, line, 2, mask, MBS, LINES, ACROSS, ALONG, 8, 2)
    c = _edge(bs, qp, tables, n, mb + 1, line, 0, mask, MBS, LINES, ACROSS, ALONG, 8, 2)
    _, _, a2, a3 = _chroma_gradient(v[0], v[1], v[2], v[3], g[0], g[1], g[2], g[3], a)
    b0, b1, b2, b3 = _chroma_gradient(v[4], v[5], v[6], v[7], g[4], g[5], g[6], g[7], b)
    c0, c1, _, _ = _chroma_gradient(v[8], v[9], v[10], v[11], g[8], g[9], g[10], g[11], c)
    s = (a2, a3, b0, b1, b2, b3, c0, c1)
    for i in tl.static_range(8):
        tl.store(out + offset + i * STEP, s[i], mask)


@triton.jit
def _differ(motion, a, b, CROSSED: tl.constexpr):
    """Whether blocks a and b are predicted from vectors a pixel apart or from other references; lists of a crossed."""
    out = a < 0
    for i in tl.static_range(6):
        v = tl.load(motion + 6 * a + ((i + 3) % 6 if CROSSED else i))
        w = tl.load(motion + 6 * b + i)
        if i % 3 == 2:
            out |= v != w
        else:
            out |= tl.abs(v - w) >= 4
    return out


@triton.jit
def _bs(intra, coded, motion, transform_8x8, n, y, x, BH, BW, UPPER: tl.constexpr):
    """Strength of the left or upper edge of 4x4 blocks (8.7.2.1)."""
    place = y if UPPER else x
    oy, ox = (tl.maximum(y - 1, 0), x) if UPPER else (y, tl.maximum(x - 1, 0))
    mb, other_mb = (n * BH + y // 4) * BW + x // 4, (n * BH + oy // 4) * BW + ox // 4
    b, other = (n * BH * 2 + y // 2) * BW * 2 + x // 2, (n * BH * 2 + oy // 2) * BW * 2 + ox // 2
    offset, other_at = (n * BH * 4 + y) * BW * 4 + x, (n * BH * 4 + oy) * BW * 4 + ox
    bs = tl.where(_differ(motion, b, other, False) & _differ(motion, b, other, True), 1.0, 0.0)
    bs = tl.where((tl.load(coded + offset) != 0) | (tl.load(coded + other_at) != 0), 2.0, bs)
    either = (tl.load(intra + mb) != 0) | (tl.load(intra + other_mb) != 0)
    bs = tl.where(either, tl.where(place % 4 == 0, 4.0, 3.0), bs)
    bs = tl.where((tl.load(transform_8x8 + mb) != 0) & (place % 2 == 1), 0.0, bs)
    return tl.where(place == 0, 0.0, bs)


@triton.jit
def _strengths(intra, coded, motion, transform_8x8, left, upper, BLOCKS, BH, BW, SIZE: tl.constexpr):
    offset = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    mask = offset < BLOCKS
    i = tl.minimum(offset, BLOCKS - 1)
    x, y, n = i % (4 * BW), i // (4 * BW) % (4 * BH), i // (16 * BH * BW)
    tl.store(left + i, _bs(intra, coded, motion, transform_8x8, n, y, x, BH, BW, False), mask)
    tl.store(upper + i, _bs(intra, coded, motion, transform_8x8, n, y, x, BH, BW, True), mask)


def _launch(kernel, tensors: list[Tensor], out: Tensor, vertical: bool, side: int) -> Tensor:  # type: ignore[no-untyped-def]
    h, w = out.shape[-2:]
    n = out.numel() // (h * w)
    mbs, lines = (w // side, h) if vertical else (h // side, w)
    step, along = (1, w) if vertical else (w, 1)
    across, beside = (1, w // side * 4) if vertical else (w // side * 4, 1)
    tiles = -(-lines // _LINES)
    kernel[(n * mbs * tiles,)](*tensors, _TABLES.like(out), out, mbs, lines, step, along, across, beside, tiles, _LINES)
    return out


@triton.jit
def _motion(mv0, mv1, used0, used1, ref0, ref1, out, BLOCKS, TWO: tl.constexpr, SIZE: tl.constexpr):
    """Of 8x8 blocks: ``[N, bh, bw, 6]``."""
    b, mask = blocks_here(BLOCKS, SIZE)
    for j in tl.static_range(2):
        mv, used, ref_id = (mv0, used0, ref0) if j == 0 else (mv1, used1, ref1)
        on = tl.load(used + b) != 0
        if j == 1 and not TWO:
            on = b < 0
        for i in tl.static_range(2):
            tl.store(out + 6 * b + 3 * j + i, tl.where(on, tl.load(mv + 2 * b + i), 0).to(tl.float32), mask)
        tl.store(out + 6 * b + 3 * j + 2, tl.where(on, tl.load(ref_id + b), -1).to(tl.float32), mask)


@implements(reference.motion_info)
def motion_info(vectors: list[Tensor], uses_list: list[Tensor], ref_id: list[Tensor]) -> Tensor:
    out = reference.motion_info.allocate(vectors, uses_list, ref_id)
    given = [[x.contiguous() for x in xs] for xs in (vectors, [u.contiguous().view(torch.uint8) for u in uses_list], ref_id)]
    pairs = [x for xs in given for x in (xs[0], xs[-1])]
    n = uses_list[0].numel()
    _motion[(-(-n // _LINES),)](*pairs, out, n, len(vectors) > 1, _LINES)
    return out


@implements(reference.boundary_strengths)
def boundary_strengths(intra: Tensor, coded: Tensor, motion: Tensor, transform_8x8: Tensor) -> tuple[Tensor, Tensor]:
    left, upper = reference.boundary_strengths.allocate(intra, coded, motion, transform_8x8)
    masks = [m.contiguous().view(torch.uint8) for m in (intra, coded, transform_8x8)]
    size = (left.numel(), *intra.shape[1:])
    _strengths[(-(-left.numel() // _LINES),)](masks[0], masks[1], motion.contiguous(), masks[2], left, upper, *size, _LINES)
    return left, upper


def _filter(x: Tensor, bs: Tensor, qp: Tensor, vertical: bool) -> Tensor:
    """Edges of one direction. Shape: luma ``[N, H, W]`` or chroma ``[N, 2, H/2, W/2]`` -> same."""
    kernel, side = (_filter_chroma, 8) if x.dim() == 4 else (_filter_luma, 16)
    return _launch(kernel, [x, bs, qp], torch.empty_like(x), vertical, side)


def _unfilter(grad: Tensor, x: Tensor, bs: Tensor, qp: Tensor, vertical: bool) -> Tensor:
    """Gradient of what :func:`_filter` got."""
    if x.dim() == 4:
        return _launch(_chroma_backward, [grad, x, bs, qp], torch.empty_like(x), vertical, 8)
    between = _launch(_luma_inner_backward, [grad, x, bs, qp], torch.empty_like(x), vertical, 16)
    return _launch(_luma_outer_backward, [between, x, bs, qp], torch.empty_like(x), vertical, 16)


@implements(reference.deblock)
def deblock(luma: Tensor, chroma: Tensor, left: Tensor, upper: Tensor, qp: Tensor, qpc: Tensor) -> tuple[Tensor, Tensor]:
    luma, chroma, left, upper, qp, qpc = (x.contiguous() for x in (luma, chroma, left, upper, qp, qpc))
    return _filter(_filter(luma, left, qp, True), upper, qp, False), _filter(_filter(chroma, left, qpc, True), upper, qpc, False)


@backward_of(reference.deblock, of=["luma", "chroma"])
def deblock_backward(
    grad_luma: Tensor, grad_chroma: Tensor, luma: Tensor, chroma: Tensor, left: Tensor, upper: Tensor, qp: Tensor, qpc: Tensor
) -> tuple[Tensor, Tensor]:
    left, upper = left.contiguous(), upper.contiguous()
    out = []
    for grad, x, quantiser in ((grad_luma, luma, qp), (grad_chroma, chroma, qpc)):
        x, quantiser = x.contiguous(), quantiser.contiguous()
        between = _unfilter(grad.contiguous(), _filter(x, left, quantiser, True), upper, quantiser, False)
        out.append(_unfilter(between, x, left, quantiser, True))
    return out[0], out[1]
