"""The rooms of DiffH264's x264 model against the standard, in its own integer arithmetic."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from conftest import natural
from hypothesis import given, settings
from hypothesis import strategies as st

import diffcodec as dc
from diffcodec.h264 import deblock, inter, intra, rate_control, residual, tables, trellis
from diffcodec.h264.gop import Gop, group, middle, pattern
from diffcodec.h264.habits import FAMILIES, Constants, calibration
from diffcodec.h264.lookahead import Lookahead, undecided


def plane(seed: int, h: int = 48, w: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, h, w))).float()


# Transform and steps


def inverse4(d: np.ndarray) -> np.ndarray:
    """8.5.12.2 on a scaled 4x4 block."""

    def one(a: np.ndarray) -> np.ndarray:
        e, f = a[0] + a[2], a[0] - a[2]
        g, h = (a[1] >> 1) - a[3], a[1] + (a[3] >> 1)
        return np.stack([e + h, f + g, f - g, e - h])

    return (one(one(d.T).T) + 32) >> 6


def inverse8(d: np.ndarray) -> np.ndarray:
    """8.5.13."""

    def one(s: np.ndarray) -> np.ndarray:
        a = np.empty_like(s)
        a[0], a[2], a[4], a[6] = s[0] + s[4], s[0] - s[4], (s[2] >> 1) - s[6], s[2] + (s[6] >> 1)
        a[1] = -s[3] + s[5] - s[7] - (s[7] >> 1)
        a[3] = s[1] + s[7] - s[3] - (s[3] >> 1)
        a[5] = -s[1] + s[7] + s[5] + (s[5] >> 1)
        a[7] = s[3] + s[5] + s[1] + (s[1] >> 1)
        b = np.empty_like(s)
        b[0], b[2], b[4], b[6] = a[0] + a[6], a[2] + a[4], a[2] - a[4], a[0] - a[6]
        b[1], b[3], b[5], b[7] = a[1] + (a[7] >> 2), a[3] + (a[5] >> 2), (a[3] >> 2) - a[5], a[7] - (a[1] >> 2)
        return np.stack([b[0] + b[7], b[2] + b[5], b[4] + b[3], b[6] + b[1], b[6] - b[1], b[4] - b[3], b[2] - b[5], b[0] - b[7]])

    return (one(one(d.T).T) + 32) >> 6


@pytest.mark.parametrize("k", [4, 8])
@pytest.mark.parametrize("qp", [4, 17, 28, 39, 51])
def test_levels_decode_as_the_standard_says(k: int, qp: int) -> None:
    rng = np.random.default_rng(qp)
    levels = rng.integers(-2, 3, (200, k, k)) * (rng.random((200, k, k)) < 0.3)
    norm = (tables._NORM4 if k == 4 else tables._NORM8)[qp % 6]
    place = np.array([[(tables._class4 if k == 4 else tables._class8)(i, j) for j in range(k)] for i in range(k)])
    scaled = levels * norm[place] * 16
    shift = 4 if k == 4 else 6
    up = qp // 6 - shift
    d = scaled << up if up >= 0 else (scaled + (1 << (-up - 1))) >> -up
    theirs = np.stack([(inverse4 if k == 4 else inverse8)(b) for b in d])
    steps = residual.steps(torch.full((200,), float(qp)), k)
    ours = (torch.from_numpy(levels).float().flatten(1)[:, tables.zigzag(k)] * steps) @ tables.FLAT[k].like(steps)
    apart = (torch.floor(ours + 0.5) - torch.from_numpy(theirs).flatten(1)).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.12  # halves that integer arithmetic rounds its own way


def test_steps_double_every_six() -> None:
    qp = torch.arange(0, 52).float()
    for k in (4, 8):
        ratio = residual.steps(qp, k) / residual.step(qp)[:, None]
        assert 0.93 < ratio.min() < ratio.max() < 1.06
    q = torch.tensor([22.0], requires_grad=True)
    (g,) = torch.autograd.grad(residual.steps(q, 4).sum(), q)
    s = residual.steps(q, 4).sum()
    torch.testing.assert_close(g[0], s * np.log(2) / 6)


def test_chroma_qp() -> None:
    assert residual.chroma_qp(torch.tensor([10.0, 29, 30, 40, 51])).tolist() == [10, 29, 29, 36, 39]
    assert residual.chroma_qp(torch.tensor([30.0, 51]), -2).tolist() == [28, 39]


@pytest.mark.parametrize(("threshold", "width"), [(0.5, 0.4), (0.7, 0.8), (1.2, 0.3), (0.83, 3.0)])
def test_slope_of_the_dead_zone_quantiser(threshold: float, width: float) -> None:
    y = torch.linspace(-3.2, 3.2, 41, dtype=torch.float64) + 0.011
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    n = -torch.sign(u - 0.5) * torch.log1p(-2 * (u - 0.5).abs()) / np.sqrt(2) * width

    def mean(v: torch.Tensor) -> torch.Tensor:
        z = v[:, None] + n
        return (torch.floor(z.abs() + 1 - threshold).clamp(min=0) * z.sign()).mean(1)

    h = 0.01
    numeric = (mean(y + h) - mean(y - h)) / (2 * h)
    ours = residual.mean_slope(y, torch.tensor(threshold, dtype=torch.float64), torch.tensor(width, dtype=torch.float64))
    torch.testing.assert_close(ours, numeric, atol=0.03, rtol=0.03)


def test_decimation_scores() -> None:
    order = tables.zigzag(4)
    assert order.tolist() == [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15]
    levels = torch.zeros(4, 16)
    levels[1, 0] = 1  # run 0: 3
    levels[2, 3] = -1  # run 3: 1
    levels[2, 5] = 1  # run 1: 2
    levels[3, 7] = 2
    scores = residual.scores(levels)
    assert scores[:3].tolist() == [0, 3, 3]
    assert scores[3] >= 9


def test_second_transform_of_large_intra_macroblocks() -> None:
    """A ramp of block means is one level or two of the second transform, and comes back within its step."""
    qp = torch.full((1, 1, 1), 28.0)
    means = torch.linspace(-40, 40, 4).repeat_interleave(4).expand(16, 16)[None]
    yes, no = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.bool)
    with_it = residual.code_luma(128 + means, torch.full_like(means, 128), qp, yes, no, yes, residual.Preference())
    without = residual.code_luma(128 + means, torch.full_like(means, 128), qp, yes, no, no, residual.Preference())
    assert 0 < (with_it.four != 0).sum() <= 2
    assert (without.four != 0).sum() == 16
    assert (with_it.decoded - 128 - means).abs().max() < residual.step(qp).item() / 4 + 1
    assert not with_it.eight.any()


# Trellis


def cost_of(y: torch.Tensor, levels: torch.Tensor, lam: float) -> torch.Tensor:
    return (y - levels).square().sum(-1) + lam * trellis.count(levels, memory=1e9)


@pytest.mark.parametrize("n", [4, 15, 16, 64])
def test_trellis_lowers_cost(n: int) -> None:
    """With contexts that do not move: cheaper than rounding, than x264's dead zone, and than nothing at all."""
    generator = torch.Generator().manual_seed(n)
    y = torch.randn(1, 300, n, generator=generator).abs() * torch.linspace(2, 0.2, n)
    lam = 0.113 * (1.28 if n < 64 else 1)
    inter_blocks = torch.zeros(1, 300, dtype=torch.bool)
    levels, threshold = trellis.choose(y, inter_blocks, trellis.Trellis(memory=1e9))
    assert torch.equal(levels, levels.round())
    assert (levels <= (y + 0.5).floor()).all()
    assert (levels >= ((y + 0.5).floor() - 1) * (levels > 0)).all()
    mine = cost_of(y, levels, lam)
    for other in ((y + 0.5).floor(), (y + 11 / 64).floor(), torch.zeros_like(y)):
        assert (mine <= cost_of(y, other, lam) + 1e-3).float().mean() > 0.9
        assert mine.sum() < cost_of(y, other, lam).sum()
    kept = (levels == 1) & (y < 1.5)
    assert (y[kept] >= threshold[kept] - 1e-3).all()
    assert (threshold[(levels == 0) & (y >= 0.5)] > 0.5).all()
    more, _ = trellis.choose(y, inter_blocks, trellis.Trellis(inter=4, memory=1e9))
    assert (more > 0).sum() < (levels > 0).sum()


def test_trellis_against_every_choice() -> None:
    """Four coefficients, 81 choices each: nearly always the best of them."""
    y = torch.rand(1, 400, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2, 1.2, 1])
    lam = 0.113 * 1.28
    levels, _ = trellis.choose(y, torch.zeros(1, 400, dtype=torch.bool), trellis.Trellis(memory=1e9))
    choices = torch.cartesian_prod(*[torch.arange(3.0)] * 4)  # [81, 4]
    every = torch.stack([cost_of(y, c.expand_as(y), lam) for c in choices])  # [81, 1, 400]
    mine = cost_of(y, levels, lam)
    small = (y < 2.5).all(-1)  # within the reach of the choices
    assert (mine[small] <= every.min(0).values[small] + 1e-3).float().mean() > 0.85
    assert (mine[small] - every.min(0).values[small]).max() < 4 * lam


def test_contexts_learn_from_the_frame() -> None:
    dense, sparse = torch.ones(1, 64, 16), torch.zeros(1, 64, 16)
    sparse[:, ::8, 5] = 1
    a, b = (trellis.count(v)[0] for v in (dense, sparse))
    assert a.mean() < 16 * 2.2  # ones everywhere are expected: hardly more than their signs
    assert 1 < b[::8].min() < trellis.count(sparse, memory=1e9)[0, 0]
    assert not b[1:8].any()
    assert trellis.count(2 * dense)[0].mean() > a.mean()


# Interpolation


def luma_sample(p: np.ndarray, y: int, x: int) -> int:
    """8.4.2.2.1 at quarter-pel position (y, x), by definition."""
    h, w = p.shape
    at = lambda j, i: int(p[np.clip(j, 0, h - 1), np.clip(i, 0, w - 1)])  # noqa: E731
    tap = (1, -5, 20, 20, -5, 1)
    b1 = lambda j, i: sum(t * at(j, i + n - 2) for n, t in enumerate(tap))  # noqa: E731
    h1 = lambda j, i: sum(t * at(j + n - 2, i) for n, t in enumerate(tap))  # noqa: E731
    clip = lambda v: int(np.clip(v, 0, 255))  # noqa: E731
    j, i, fy, fx = y >> 2, x >> 2, y & 3, x & 3
    g, right, below = at(j, i), at(j, i + 1), at(j + 1, i)
    b, s = clip((b1(j, i) + 16) >> 5), clip((b1(j + 1, i) + 16) >> 5)
    hh, m = clip((h1(j, i) + 16) >> 5), clip((h1(j, i + 1) + 16) >> 5)
    jj = clip((sum(t * b1(j + n - 2, i) for n, t in enumerate(tap)) + 512) >> 10)
    avg = lambda a, c: (a + c + 1) >> 1  # noqa: E731
    table = [
        [g, avg(g, b), b, avg(b, right)],
        [avg(g, hh), avg(b, hh), avg(b, jj), avg(b, m)],
        [hh, avg(hh, jj), jj, avg(jj, m)],
        [avg(hh, below), avg(hh, s), avg(jj, s), avg(m, s)],
    ]
    return table[fy][fx]


@settings(max_examples=25, deadline=None)
@given(st.integers(-90, 90), st.integers(-90, 90), st.integers(0, 1000))
def test_luma_interpolation(vy: int, vx: int, seed: int) -> None:
    p = plane(seed, 16, 16)
    vectors = torch.tensor([vy, vx]).expand(1, 2, 2, 2)
    ours = inter.unblocks(inter.fetch_luma(inter.quarter_pel(p), torch.zeros(1, 1, 1, dtype=torch.long), vectors, 8), 8)[0]
    by_hand = np.array([[luma_sample(p[0].numpy().astype(int), 4 * y + vy, 4 * x + vx) for x in range(16)] for y in range(16)])
    assert np.array_equal(ours.numpy(), by_hand)


@settings(max_examples=25, deadline=None)
@given(st.integers(-60, 60), st.integers(-60, 60))
def test_chroma_interpolation(vy: int, vx: int) -> None:
    p = torch.stack([plane(1, 8, 8)[0], plane(2, 8, 8)[0]])[None]
    vectors = torch.tensor([vy, vx]).expand(1, 2, 2, 2)
    ours = inter.fetch_chroma(p, torch.zeros(1, 1, 1, dtype=torch.long), vectors, 4)[0]  # [2, 2, 2, 16]
    for plane_index in (0, 1):
        q = p[0, plane_index].numpy().astype(int)
        at = lambda j, i, q=q: q[np.clip(j, 0, 7), np.clip(i, 0, 7)]  # noqa: E731
        for y in range(8):
            for x in range(8):
                j, i, fy, fx = y + (vy >> 3), x + (vx >> 3), vy & 7, vx & 7
                v = (8 - fx) * (8 - fy) * at(j, i) + fx * (8 - fy) * at(j, i + 1)
                v += (8 - fx) * fy * at(j + 1, i) + fx * fy * at(j + 1, i + 1)
                assert ours[y // 4, x // 4, plane_index, (y % 4) * 4 + x % 4] == (v + 32) >> 6


def test_motion_is_found() -> None:
    big = natural(1, 1, 96, 112)[0, 0].mean(0) * 255
    big = big.round()
    reference, current = big[None, 16:80, 16:96], big[None, 19:83, 11:91]  # moved by (3, -5)
    phases = inter.quarter_pel(reference)
    target = inter.blocks(current, 16)
    lam = torch.ones(1, 4, 5)
    zero = torch.zeros(1, 4, 5, 2, dtype=torch.long)
    coarse = inter.whole_search(current, reference, 16, 16)
    assert coarse.shape == zero.shape
    v, cost = inter.refine(phases, torch.zeros(1, 1, 1, dtype=torch.long), current, [zero, coarse], zero, lam, 16, 4, True)
    assert (v[:, 1:-1, 1:-1] == torch.tensor([12, -20])).all(-1).float().mean() > 0.8
    again = inter.costs(phases, torch.zeros(1, 1, 1, dtype=torch.long), target, v[None], 16, True)[0] + inter.vector_bits(v, zero)
    torch.testing.assert_close(cost, again)


def test_half_resolution_sees_odd_displacements() -> None:
    """A whole odd displacement is a half-pel one at half the resolution: the phase there is the shifted picture's own."""
    x = plane(3)
    small, phases = inter.half_resolution(x)
    m = inter.MARGIN
    assert torch.equal(phases[:, 0, m:-m, m:-m], small)
    moved, _ = inter.half_resolution(x.roll((-1, -1), (1, 2)))
    assert torch.equal(phases[:, 10, m:-m, m:-m][:, :-1, :-1], moved[:, :-1, :-1])


# Intra


def modes_by_hand(k: int, t: np.ndarray, left: np.ndarray, corner: int) -> list[np.ndarray]:
    """8.3.1.2.x for k = 4, 8.3.2.2.x for k = 8 (after its filter), from the formulas of the standard; DC left out."""
    p = lambda x, y: corner if x == y == -1 else int(t[x]) if y == -1 else int(left[y])  # noqa: E731
    out = [np.zeros((k, k), int) for _ in range(9)]
    for y in range(k):
        for x in range(k):
            out[0][y, x], out[1][y, x] = p(x, -1), p(-1, y)
            if x == y == k - 1:
                out[3][y, x] = (p(2 * k - 2, -1) + 3 * p(2 * k - 1, -1) + 2) >> 2
            else:
                out[3][y, x] = (p(x + y, -1) + 2 * p(x + y + 1, -1) + p(x + y + 2, -1) + 2) >> 2
            if x > y:
                out[4][y, x] = (p(x - y - 2, -1) + 2 * p(x - y - 1, -1) + p(x - y, -1) + 2) >> 2
            elif x < y:
                out[4][y, x] = (p(-1, y - x - 2) + 2 * p(-1, y - x - 1) + p(-1, y - x) + 2) >> 2
            else:
                out[4][y, x] = (p(0, -1) + 2 * p(-1, -1) + p(-1, 0) + 2) >> 2
            z = 2 * x - y
            if z >= 0 and z % 2 == 0:
                out[5][y, x] = (p(x - (y >> 1) - 1, -1) + p(x - (y >> 1), -1) + 1) >> 1
            elif z >= 0:
                out[5][y, x] = (p(x - (y >> 1) - 2, -1) + 2 * p(x - (y >> 1) - 1, -1) + p(x - (y >> 1), -1) + 2) >> 2
            elif z == -1:
                out[5][y, x] = (p(-1, 0) + 2 * p(-1, -1) + p(0, -1) + 2) >> 2
            else:
                out[5][y, x] = (p(-1, y - 2 * x - 1) + 2 * p(-1, y - 2 * x - 2) + p(-1, y - 2 * x - 3) + 2) >> 2
            z = 2 * y - x
            if z >= 0 and z % 2 == 0:
                out[6][y, x] = (p(-1, y - (x >> 1) - 1) + p(-1, y - (x >> 1)) + 1) >> 1
            elif z >= 0:
                out[6][y, x] = (p(-1, y - (x >> 1) - 2) + 2 * p(-1, y - (x >> 1) - 1) + p(-1, y - (x >> 1)) + 2) >> 2
            elif z == -1:
                out[6][y, x] = (p(-1, 0) + 2 * p(-1, -1) + p(0, -1) + 2) >> 2
            else:
                out[6][y, x] = (p(x - 2 * y - 1, -1) + 2 * p(x - 2 * y - 2, -1) + p(x - 2 * y - 3, -1) + 2) >> 2
            i = x + (y >> 1)
            out[7][y, x] = (p(i, -1) + p(i + 1, -1) + 1) >> 1 if y % 2 == 0 else (p(i, -1) + 2 * p(i + 1, -1) + p(i + 2, -1) + 2) >> 2
            z, i, last = x + 2 * y, y + (x >> 1), 2 * k - 3
            if z > last:
                out[8][y, x] = p(-1, k - 1)
            elif z == last:
                out[8][y, x] = (p(-1, k - 2) + 3 * p(-1, k - 1) + 2) >> 2
            elif z % 2 == 0:
                out[8][y, x] = (p(-1, i) + p(-1, i + 1) + 1) >> 1
            else:
                out[8][y, x] = (p(-1, i) + 2 * p(-1, i + 1) + p(-1, i + 2) + 2) >> 2
    return out


def filtered(t: np.ndarray, left: np.ndarray, corner: int) -> tuple[np.ndarray, np.ndarray, int]:
    """8.3.2.2.1 with all neighbours there."""
    tt = np.concatenate([[corner], t, t[-1:]]).astype(int)
    ll = np.concatenate([[corner], left, left[-1:]]).astype(int)
    new_t = (tt[:-2] + 2 * tt[1:-1] + tt[2:] + 2) >> 2
    new_l = (ll[:-2] + 2 * ll[1:-1] + ll[2:] + 2) >> 2
    return new_t, new_l, (int(t[0]) + 2 * corner + int(left[0]) + 2) >> 2


@pytest.mark.parametrize("k", [4, 8])
def test_directional_modes(k: int) -> None:
    p = plane(5)
    x = p[0].numpy().astype(int)
    ours, usable = intra.predict_all(p, k)
    bw = 64 // k
    for by, bx in ((16 // k, 16 // k), (32 // k, 32 // k)):  # first block of a macroblock: all neighbours are there
        y0, x0 = by * k, bx * k
        t, left, corner = x[y0 - 1, x0 : x0 + 2 * k], x[y0 : y0 + k, x0 - 1], int(x[y0 - 1, x0 - 1])
        if k == 8:
            t, left, corner = filtered(t, left, corner)
        by_hand = modes_by_hand(k, t, left, corner)
        mine = ours[0, by * bw + bx].view(9, k, k)
        for mode in range(9):
            if mode == 2:
                assert mine[2, 0, 0] == (t[:k].sum() + left.sum() + k) // (2 * k)
            else:
                assert np.array_equal(mine[mode].numpy(), by_hand[mode]), mode
    assert usable[0].tolist() == [False, False, True] + [False] * 6  # the first block has nothing but DC
    assert (ours[0, 0, 2] == 128).all()


def test_modes_that_neighbours_predict() -> None:
    kind = torch.tensor([[[2, 1], [0, 2]]])
    eight = torch.arange(16).view(1, 16) % 9
    four = torch.arange(64).view(1, 64) % 9
    of8, of4 = (v.view(side, side) for v, side in zip(intra.predicted_modes(kind, (eight, four)), (4, 8)))
    four, eight = four.view(8, 8), eight.view(4, 4)
    assert (of4[0] == 2).all()  # nothing above
    assert of4[1, 1] == min(four[1, 0], four[0, 1])
    assert of4[1, 4] == min(four[1, 3], four[0, 4])  # left is a 4x4 macroblock
    assert of4[5, 4] == min(2, four[4, 4])  # left is 16x16: DC
    assert of4[4, 5] == min(four[4, 4], eight[1, 2])  # above is an 8x8 one
    assert of8[1, 2] == min(four[2, 3], eight[0, 2])


def test_large_and_chroma_modes() -> None:
    p = plane(6)
    x = p[0].numpy().astype(int)
    ours, _ = intra.predict_large(p)
    t, left, corner = x[15, 16:32], x[16:32, 15], x[15, 15]
    mine = ours[0, 1 * 4 + 1].view(4, 16, 16).numpy()
    assert np.array_equal(mine[0], np.broadcast_to(t, (16, 16)))
    assert np.array_equal(mine[1], np.broadcast_to(left[:, None], (16, 16)))
    assert mine[2][0, 0] == (t.sum() + left.sum() + 16) >> 5

    def slant(t: np.ndarray, left: np.ndarray, corner: int, k: int) -> np.ndarray:
        tt, ll = np.concatenate([[corner], t]), np.concatenate([[corner], left])
        half = k // 2
        h = sum((i + 1) * (tt[half + i + 1] - tt[half - 1 - i]) for i in range(half))
        v = sum((i + 1) * (ll[half + i + 1] - ll[half - 1 - i]) for i in range(half))
        m = 5 if k == 16 else 34
        b, c, a = (m * h + 32) >> 6, (m * v + 32) >> 6, 16 * (t[-1] + left[-1])
        grid = np.arange(k) - half + 1
        return np.clip((a + b * grid[None] + c * grid[:, None] + 16) >> 5, 0, 255)

    # b and c are rounded in the standard: half a step of 1/32 times up to 8 columns and rows
    assert np.abs(mine[3] - slant(t, left, corner, 16)).max() <= 1
    q = p[:, :24, :32]
    x = q[0].numpy().astype(int)
    t, left, corner = x[7, 8:16], x[8:16, 7], x[7, 7]
    mine = intra.predict_chroma(q)[0][0, 1 * 4 + 1].view(4, 8, 8).numpy()
    a, b, c, d = (int(v.sum()) for v in (t[:4], t[4:], left[:4], left[4:]))
    dc = np.array([[(a + c + 4) >> 3, (b + 2) >> 2], [(d + 2) >> 2, (b + d + 4) >> 3]])
    assert np.array_equal(mine[0], dc.repeat(4, 0).repeat(4, 1))
    assert np.array_equal(mine[1], np.broadcast_to(left[:, None], (8, 8)))
    assert np.array_equal(mine[2], np.broadcast_to(t, (8, 8)))
    assert np.abs(mine[3] - slant(t, left, corner, 8)).max() <= 1


# Deblocking


def filter_line(p: list[int], q: list[int], bs: int, qp: int, chroma: bool) -> tuple[list[int], list[int]]:
    """8.7.2.3 and 8.7.2.4 on one line of samples p3..p0 | q0..q3 (p[0] next to the edge)."""
    alpha, beta = int(tables.ALPHA.value[qp]), int(tables.BETA.value[qp])
    if not bs or abs(p[0] - q[0]) >= alpha or abs(p[1] - p[0]) >= beta or abs(q[1] - q[0]) >= beta:
        return p, q
    new_p, new_q = list(p), list(q)
    near_p = not chroma and abs(p[2] - p[0]) < beta
    near_q = not chroma and abs(q[2] - q[0]) < beta
    if bs < 4:
        tc0 = int(tables.TC0.value[bs - 1, qp])
        tc = tc0 + 1 if chroma else tc0 + near_p + near_q
        delta = int(np.clip((((q[0] - p[0]) << 2) + (p[1] - q[1]) + 4) >> 3, -tc, tc))
        new_p[0], new_q[0] = int(np.clip(p[0] + delta, 0, 255)), int(np.clip(q[0] - delta, 0, 255))
        if near_p:
            new_p[1] = p[1] + int(np.clip((p[2] + ((p[0] + q[0] + 1) >> 1) - (p[1] << 1)) >> 1, -tc0, tc0))
        if near_q:
            new_q[1] = q[1] + int(np.clip((q[2] + ((p[0] + q[0] + 1) >> 1) - (q[1] << 1)) >> 1, -tc0, tc0))
        return new_p, new_q
    small = abs(p[0] - q[0]) < (alpha >> 2) + 2
    for a, b, near, new in ((p, q, near_p, new_p), (q, p, near_q, new_q)):
        if near and small:
            new[0] = (a[2] + 2 * a[1] + 2 * a[0] + 2 * b[0] + b[1] + 4) >> 3
            new[1] = (a[2] + a[1] + a[0] + b[0] + 2) >> 2
            new[2] = (2 * a[3] + 3 * a[2] + a[1] + a[0] + b[0] + 4) >> 3
        else:
            new[0] = (2 * a[1] + a[0] + b[1] + 2) >> 2
    return new_p, new_q


@pytest.mark.parametrize("bs", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("qp", [20, 30, 40, 51])
def test_one_luma_edge(bs: int, qp: int) -> None:
    rng = np.random.default_rng(bs * 100 + qp)
    smooth = 100 + rng.integers(-6, 7, (16, 32)).cumsum(1) // 3 + (np.arange(32) >= 16) * rng.integers(0, 12, (16, 1))
    x = torch.from_numpy(np.clip(smooth, 0, 255)).float()[None]
    left = torch.zeros(1, 4, 8)
    left[:, :, 4] = bs
    chroma = torch.full((1, 2, 8, 16), 90.0)
    q = torch.full((1, 1, 2), float(qp))
    out, out_c = deblock.deblock(x, chroma, (left, torch.zeros(1, 4, 8)), q, q)
    expected = x[0].numpy().astype(int).copy()
    for row in expected:
        p, r = filter_line(list(row[12:16][::-1]), list(row[16:20]), bs, qp, False)
        row[12:16], row[16:20] = p[::-1], r
    assert np.array_equal(out[0].numpy(), expected)
    assert torch.equal(out_c, chroma)


@pytest.mark.parametrize("bs", [1, 3, 4])
def test_one_chroma_edge_lying_down(bs: int) -> None:
    rng = np.random.default_rng(bs)
    x = torch.from_numpy(100 + rng.integers(-3, 4, (16, 16)) + 6 * (np.arange(16) >= 8)[:, None]).float()
    upper = torch.zeros(1, 8, 8)
    upper[:, 4] = bs
    q = torch.full((1, 2, 2), 40.0)
    luma = torch.full((1, 32, 32), 50.0)
    _, out = deblock.deblock(luma, torch.stack([x, x])[None], (torch.zeros(1, 8, 8), upper), q, q)
    expected = x.numpy().astype(int).copy()
    for column in range(16):
        v = expected[:, column]
        p, r = filter_line([v[7], v[6]], [v[8], v[9]], bs, 40, True)
        expected[7, column], expected[6, column], expected[8, column], expected[9, column] = p[0], p[1], r[0], r[1]
    assert np.array_equal(out[0, 0].numpy(), expected)
    assert torch.equal(out[0, 0], out[0, 1])


def test_strengths() -> None:
    intra_mb = torch.zeros(1, 1, 2, dtype=torch.bool)
    coded = torch.zeros(1, 4, 8, dtype=torch.bool)
    motion = torch.zeros(1, 2, 4, 6)
    use8 = torch.zeros(1, 1, 2, dtype=torch.bool)
    assert not any(b.any() for b in deblock.strengths(intra_mb, coded, motion, use8))
    motion[:, :, 2:, 1] = 4  # the right macroblock moves a pixel more
    left, upper = deblock.strengths(intra_mb, coded, motion, use8)
    assert left[0, :, 4].eq(1).all()
    assert left.sum() == 4
    assert not upper.any()
    coded[0, 0, 5] = True
    left, upper = deblock.strengths(intra_mb, coded, motion, use8)
    assert left[0, 0, 5] == 2 == left[0, 0, 6] == upper[0, 1, 5]
    intra_mb[0, 0, 1] = True
    left, upper = deblock.strengths(intra_mb, coded, motion, use8)
    assert left[0, :, 4].eq(4).all()
    assert left[0, :, 5].eq(3).all()
    use8[0, 0, 1] = True
    left, _ = deblock.strengths(intra_mb, coded, motion, use8)
    assert not left[0, :, 5].any()


# Frames and quantisers


def test_patterns() -> None:
    assert pattern(8, 3) == "IbBbPBbP"
    assert pattern(1, 3) == "I"
    assert pattern(4, 0) == "IPPP"
    assert group(1) == "b"
    gop = Gop("IbBbPBbP")
    assert list(gop.steps()) == [[0], [4], [2, 7], [1, 3, 5], [6]]
    assert gop.past(3) == (2,)
    assert gop.future(3) == (4,)
    assert Gop("IPPPP", references=3).past(4) == (3, 2, 1)
    assert middle(8, 3, 3) == ("IbBbPbBbP", 1, 0)
    assert middle(8, 3, 1) == ("IbBbPbBbPbBbP", 3, 2)
    assert middle(3, 0, 0) == ("IPPP", 1, 0)
    inside = Gop(*middle(8, 3, 1))
    assert len(inside) == 8
    assert inside.letters == "bPbBbPbB"
    coded = {i for step in inside.steps() for i in step}
    assert 1 not in coded  # a B frame before the window that nothing needs
    assert {0, 2, 12} <= coded
    for wrong, words in (("", "string"), ("PI", "first"), ("IPx", "IPx"), ("Ib", "last")):
        with pytest.raises(ValueError, match=words):
            Gop(wrong)
    with pytest.raises(ValueError, match="leave nothing"):
        Gop("IP", before=1, after=1)


def moving(speed: int, frames: int = 8) -> torch.Tensor:
    """Luma ``[frames, 64, 96]`` of a picture that moves."""
    big = (natural(1, 1, 64, 96 + speed * frames)[0, 0].mean(0) * 255).round()
    return torch.stack([big[:, speed * i : speed * i + 96] for i in range(frames)])


def test_types_follow_content() -> None:
    still = moving(0)
    assert Lookahead(still).types([range(8)], 3) == ["IbBbPBbP"]
    assert Lookahead(still).types([range(8), [0, 1], [0]], 3)[1:] == ["IP", "I"]
    assert Lookahead(still).types([range(5)], 0) == ["IPPPP"]
    noise = torch.rand(8, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    assert set(Lookahead(noise).types([range(8)], 3)[0]) == {"I"}  # every frame a scene of its own
    cut = torch.cat([still[:4], 255 - moving(1).roll(30, 1)[:4].flip(2)])
    letters = Lookahead(cut).types([range(8)], 3)[0]
    assert letters[3:5] == "PI"
    jump = moving(0).clone()
    jump[1::2] = (255 - still[1::2]).flip(1)  # two scenes in turns: only frames two apart are alike
    assert "P" not in Lookahead(jump, quick=True).types([range(8)], 3)[0][1::2].replace("P", "", 1)


def test_undecided_gops() -> None:
    gop = undecided(8, 2, 3, references=3)
    assert (len(gop), gop.before, gop.after, gop.references) == (8, 2, 3, 3)
    assert gop.letters == "?" * 8
    for wrong in ("I?P", "?", "I??P"):
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            Gop(wrong)


def test_qps_settle() -> None:
    qp = torch.tensor([[[25.0, 24, 23], [20, 21, 19], [26, 26, 27]]])
    #  24 before: 25 -> 24, 24, 23 -> 24; 20 stays, 21 -> 20, 19 -> 20; 26 26, 27 -> 26
    assert rate_control.settled(qp, torch.tensor([24.0])).tolist() == [[[24, 24, 24], [20, 20, 20], [26, 26, 26]]]
    assert rate_control.settled(qp, torch.tensor([30.0]))[0, 0].tolist() == [25, 25, 23]


def test_constants_are_stored() -> None:
    for family in FAMILIES:
        stored = calibration(family)
        constants = Constants.from_dict(stored["constants"])
        assert json.loads(json.dumps(constants.to_dict())) == stored["constants"]
        assert (constants.prefer.trellis is None) == (family in ("ultrafast", "veryfast"))
    with pytest.raises(ValueError, match="fastest"):
        calibration("fastest")
    with pytest.raises(TypeError, match="colour"):
        Constants.from_dict(Constants().to_dict() | {"colour": 1})


def test_adaptive_offset_is_neutral_at_its_energy() -> None:
    x = torch.full((1, 16, 16), 100.0)
    x[:, ::2] += 2 * np.sqrt(22_000 / 256)
    chroma = torch.full((1, 2, 8, 8), 128.0)
    assert rate_control.adaptive_offset(x, chroma).item() == pytest.approx(0, abs=0.01)
    flat = torch.full((1, 16, 16), 100.0)
    assert rate_control.adaptive_offset(flat, chroma).item() == pytest.approx(-15.0, abs=0.01)


def test_crf_to_qp() -> None:
    crf = torch.tensor([22.0])
    assert rate_control.with_tree(crf, 25).item() == pytest.approx(27.4)
    for fps, more in ((15, 3.6), (24, 5.3), (30, 6.0), (60, 8.4), (120, 10.2)):
        assert rate_control.with_tree(crf, fps).item() - 22 == pytest.approx(more, abs=0.05)


# Colour


@pytest.mark.parametrize("size", [(16, 24), (48, 64)])
def test_colour_is_ffmpegs(size: tuple[int, int]) -> None:
    av = pytest.importorskip("av")
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8))
    frame = av.VideoFrame.from_ndarray(x.permute(1, 2, 0).contiguous().numpy(), format="rgb24").reformat(format="yuv420p")
    theirs = frame.to_ndarray()
    h, w = size
    luma, chroma = dc.color.rgb_to_yuv420(x[None].float() / 255)
    assert np.array_equal(luma[0].numpy(), theirs[:h])
    planes = theirs[h:].reshape(2, h // 2, w // 2).astype(float)
    apart = np.abs(chroma[0].numpy() - planes)
    assert apart.max() <= 1
    assert not apart[:, 1:-1].any()
    back = dc.color.yuv420_to_rgb(torch.from_numpy(theirs[:h])[None].float(), torch.from_numpy(planes)[None].float())
    assert np.array_equal((back[0] * 255).round().permute(1, 2, 0).numpy(), frame.to_ndarray(format="rgb24"))
