"""Intra modes against the formulas of the standard."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffcodec.ops.intra import reference as intra


def plane(seed: int, h: int = 48, w: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, h, w))).float()


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
    ours, usable = intra.predict_small_modes(p, k)
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
    of8, of4 = (v.view(side, side) for v, side in zip(intra.predicted_modes(kind, eight, four), (4, 8)))
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
    ours, _ = intra.predict_16x16_modes(p)
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
    mine = intra.predict_chroma_modes(q)[0][0, 1 * 4 + 1].view(4, 8, 8).numpy()
    a, b, c, d = (int(v.sum()) for v in (t[:4], t[4:], left[:4], left[4:]))
    dc = np.array([[(a + c + 4) >> 3, (b + 2) >> 2], [(d + 2) >> 2, (b + d + 4) >> 3]])
    assert np.array_equal(mine[0], dc.repeat(4, 0).repeat(4, 1))
    assert np.array_equal(mine[1], np.broadcast_to(left[:, None], (8, 8)))
    assert np.array_equal(mine[2], np.broadcast_to(t, (8, 8)))
    assert np.abs(mine[3] - slant(t, left, corner, 8)).max() <= 1
