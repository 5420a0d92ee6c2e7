"""Levels by rate and distortion."""

from __future__ import annotations

import pytest
import torch

from diffcodec.ops.residual import trellis


def cost_of(y: torch.Tensor, levels: torch.Tensor, lam: float) -> torch.Tensor:
    return (y - levels).square().sum(-1) + lam * trellis.cabac_bits(levels, memory=1e9)


@pytest.mark.parametrize("n", [4, 15, 16, 64])
def test_trellis_lowers_cost(n: int) -> None:
    """With contexts that do not move: cheaper than rounding, than x264's dead zone, and than nothing at all."""
    generator = torch.Generator().manual_seed(n)
    y = torch.randn(1, 300, n, generator=generator).abs() * torch.linspace(2, 0.2, n)
    lam = 0.113 * (1.28 if n < 64 else 1)
    inter_blocks = torch.zeros(1, 300, dtype=torch.bool)
    levels, threshold = trellis.trellis_quant(y, inter_blocks, trellis.Trellis(memory=1e9))
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
    more, _ = trellis.trellis_quant(y, inter_blocks, trellis.Trellis(inter=4, memory=1e9))
    assert (more > 0).sum() < (levels > 0).sum()


def test_trellis_against_every_choice() -> None:
    """Four coefficients, 81 choices each: nearly always the best of them."""
    y = torch.rand(1, 400, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2, 1.2, 1])
    lam = 0.113 * 1.28
    levels, _ = trellis.trellis_quant(y, torch.zeros(1, 400, dtype=torch.bool), trellis.Trellis(memory=1e9))
    choices = torch.cartesian_prod(*[torch.arange(3.0)] * 4)  # [81, 4]
    every = torch.stack([cost_of(y, c.expand_as(y), lam) for c in choices])  # [81, 1, 400]
    mine = cost_of(y, levels, lam)
    small = (y < 2.5).all(-1)  # within the reach of the choices
    assert (mine[small] <= every.min(0).values[small] + 1e-3).float().mean() > 0.85
    assert (mine[small] - every.min(0).values[small]).max() < 4 * lam


def test_contexts_learn_from_the_frame() -> None:
    dense, sparse = torch.ones(1, 64, 16), torch.zeros(1, 64, 16)
    sparse[:, ::8, 5] = 1
    a, b = (trellis.cabac_bits(v)[0] for v in (dense, sparse))
    assert a.mean() < 16 * 2.2  # ones everywhere are expected: hardly more than their signs
    assert 1 < b[::8].min() < trellis.cabac_bits(sparse, memory=1e9)[0, 0]
    assert not b[1:8].any()
    assert trellis.cabac_bits(2 * dense)[0].mean() > a.mean()
