"""Transform, quantiser and decimation against the standard, in its own integer arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffcodec.ops.common import tables
from diffcodec.ops.residual import reference as residual


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
    position_class = np.array([[(tables._class4 if k == 4 else tables._class8)(i, j) for j in range(k)] for i in range(k)])
    scaled = levels * norm[position_class] * 16
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
    scores = residual.decimation_scores(levels)
    assert scores[:3].tolist() == [0, 3, 3]
    assert scores[3] >= 9


def test_second_transform_of_large_intra_macroblocks() -> None:
    """A ramp of block means is one level or two of the second transform, and comes back within its step."""
    qp = torch.full((1, 1, 1), 28.0)
    means = torch.linspace(-40, 40, 4).repeat_interleave(4).expand(16, 16)[None]
    yes, no = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.bool)
    numbers = residual.QuantSettings().numbers()
    decoded, four, eight, _ = residual.code_luma(128 + means, torch.full_like(means, 128), qp, yes, no, yes, numbers, True)
    without = residual.code_luma(128 + means, torch.full_like(means, 128), qp, yes, no, no, numbers, True)
    assert 0 < (four != 0).sum() <= 2
    assert (without[1] != 0).sum() == 16
    assert (decoded - 128 - means).abs().max() < residual.step(qp).item() / 4 + 1
    assert not eight.any()


def test_qps_settle() -> None:
    qp = torch.tensor([[[25.0, 24, 23], [20, 21, 19], [26, 26, 27]]])
    #  24 before: 25 -> 24, 24, 23 -> 24; 20 stays, 21 -> 20, 19 -> 20; 26 26, 27 -> 26
    assert residual.merge_qp_delta(qp, torch.tensor([24.0])).tolist() == [[[24, 24, 24], [20, 20, 20], [26, 26, 26]]]
    assert residual.merge_qp_delta(qp, torch.tensor([30.0]))[0, 0].tolist() == [25, 25, 23]
