"""Interpolation against the standard, sample by sample."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcodec.blocks import from_flat_blocks
from diffcodec.ops.interpolate import reference as interpolate


def plane(seed: int, h: int = 48, w: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, h, w))).float()


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
    ours = from_flat_blocks(interpolate.fetch_luma(interpolate.quarter_pel(p), torch.zeros(1, 1, 1, dtype=torch.long), vectors, 8), 8)[0]
    by_hand = np.array([[luma_sample(p[0].numpy().astype(int), 4 * y + vy, 4 * x + vx) for x in range(16)] for y in range(16)])
    assert np.array_equal(ours.numpy(), by_hand)


@settings(max_examples=25, deadline=None)
@given(st.integers(-60, 60), st.integers(-60, 60))
def test_chroma_interpolation(vy: int, vx: int) -> None:
    p = torch.stack([plane(1, 8, 8)[0], plane(2, 8, 8)[0]])[None]
    vectors = torch.tensor([vy, vx]).expand(1, 2, 2, 2)
    ours = interpolate.predict_chroma(p, torch.zeros(1, 1, 1, dtype=torch.long), vectors, 4)[0]  # [2, 2, 2, 16]
    for plane_index in (0, 1):
        q = p[0, plane_index].numpy().astype(int)
        at = lambda j, i, q=q: q[np.clip(j, 0, 7), np.clip(i, 0, 7)]  # noqa: E731
        for y in range(8):
            for x in range(8):
                j, i, fy, fx = y + (vy >> 3), x + (vx >> 3), vy & 7, vx & 7
                v = (8 - fx) * (8 - fy) * at(j, i) + fx * (8 - fy) * at(j, i + 1)
                v += (8 - fx) * fy * at(j + 1, i) + fx * fy * at(j + 1, i + 1)
                assert ours[y // 4, x // 4, plane_index, (y % 4) * 4 + x % 4] == (v + 32) >> 6


def test_half_resolution_sees_odd_displacements() -> None:
    """A whole odd displacement is a half-pel one at half the resolution: the phase there is the shifted picture's own."""
    x = plane(3)
    small, phases = interpolate.half_resolution(x, 16)
    m = interpolate.MARGIN
    assert torch.equal(phases[:, 0, m:-m, m:-m], small)
    moved, _ = interpolate.half_resolution(x.roll((-1, -1), (1, 2)), 16)
    assert torch.equal(phases[:, 10, m:-m, m:-m][:, :-1, :-1], moved[:, :-1, :-1])
