"""The loop filter against the standard, line by line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffcodec.ops.common import tables
from diffcodec.ops.deblock import reference as deblock


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
    out, out_c = deblock.deblock(x, chroma, left, torch.zeros(1, 4, 8), q, q)
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
    _, out = deblock.deblock(luma, torch.stack([x, x])[None], torch.zeros(1, 8, 8), upper, q, q)
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
    transform_8x8 = torch.zeros(1, 1, 2, dtype=torch.bool)
    assert not any(b.any() for b in deblock.boundary_strengths(intra_mb, coded, motion, transform_8x8))
    motion[:, :, 2:, 1] = 4  # the right macroblock moves a pixel more
    left, upper = deblock.boundary_strengths(intra_mb, coded, motion, transform_8x8)
    assert left[0, :, 4].eq(1).all()
    assert left.sum() == 4
    assert not upper.any()
    coded[0, 0, 5] = True
    left, upper = deblock.boundary_strengths(intra_mb, coded, motion, transform_8x8)
    assert left[0, 0, 5] == 2 == left[0, 0, 6] == upper[0, 1, 5]
    intra_mb[0, 0, 1] = True
    left, upper = deblock.boundary_strengths(intra_mb, coded, motion, transform_8x8)
    assert left[0, :, 4].eq(4).all()
    assert left[0, :, 5].eq(3).all()
    transform_8x8[0, 0, 1] = True
    left, _ = deblock.boundary_strengths(intra_mb, coded, motion, transform_8x8)
    assert not left[0, :, 5].any()
