"""Levels by rate and distortion, and the contexts that bits are counted by."""

from __future__ import annotations

import pytest
import torch

from diffcodec.ops.residual import cabac, trellis
from diffcodec.ops.residual.cabac import KINDS, Kind

by_kind = pytest.mark.parametrize("kind", KINDS, ids=["luma", "dc", "eight", "chroma_dc", "chroma_ac"])
QP, INTER = torch.full((1, 1), 28.0), torch.zeros(1, 1, dtype=torch.bool)


def first(kind: Kind) -> torch.Tensor:
    return cabac.slice_states(kind.first, QP, INTER)


def fixed_bits(levels: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Bits by contexts that do not move. Shape: ``[1, MB, 1, n] -> [1, MB, 1]``."""
    return cabac.level_bits(levels, kind, cabac.bits_of(first(kind)[:, None].expand(-1, levels.shape[1], -1)))


def quantised(y: torch.Tensor, kind: Kind, **weights: float) -> tuple[torch.Tensor, torch.Tensor]:
    """With contexts that do not move: no macroblock is said to have such blocks."""
    n, m = y.shape[:2]
    return trellis.trellis_quant(y, torch.zeros(n, m, dtype=torch.bool), trellis.Trellis(**weights), kind, torch.zeros(n, m), first(kind))


@by_kind
def test_trellis_lowers_cost(kind: Kind) -> None:
    """Cheaper than rounding, than x264's dead zone, and than nothing at all."""
    n = kind.n
    y = torch.randn(1, 300, 1, n, generator=torch.Generator().manual_seed(n)).abs() * torch.linspace(2, 0.2, n)
    lam = 0.113 * (1.28 if n < 64 else 1)

    def cost(levels: torch.Tensor) -> torch.Tensor:
        return (y - levels).square().sum(-1) + lam * fixed_bits(levels, kind)

    levels, threshold = quantised(y, kind)
    assert torch.equal(levels, levels.round())
    assert (levels <= (y + 0.5).floor()).all()
    assert (levels >= ((y + 0.5).floor() - 1) * (levels > 0)).all()
    mine = cost(levels)
    for other in ((y + 0.5).floor(), (y + 11 / 64).floor(), torch.zeros_like(y)):
        assert (mine <= cost(other) + 1e-3).float().mean() > 0.85
        assert mine.sum() < cost(other).sum()
    kept = (levels == 1) & (y < 1.5)
    assert (y[kept] >= threshold[kept] - 1e-3).all()
    assert (threshold[(levels == 0) & (y >= 0.5)] > 0.5).all()
    assert (quantised(y, kind, inter=4)[0] > 0).sum() < (levels > 0).sum()


def test_trellis_against_every_choice() -> None:
    """Four coefficients, 81 choices each: mostly the best of them, never far from it."""
    kind = cabac.CHROMA_DC
    y = torch.rand(1, 400, 1, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2, 1.2, 1])
    lam = 0.113 * 1.28

    def cost(levels: torch.Tensor) -> torch.Tensor:
        return (y - levels).square().sum(-1) + lam * fixed_bits(levels, kind)

    mine = cost(quantised(y, kind)[0])
    choices = torch.cartesian_prod(*[torch.arange(3.0)] * 4)  # [81, 4]
    every = torch.stack([cost(c.expand_as(y)) for c in choices])  # [81, 1, 400, 1]
    small = (y < 2.5).all(-1)  # within the reach of the choices
    assert (mine[small] <= every.min(0).values[small] + 1e-3).float().mean() > 0.8
    assert (mine[small] - every.min(0).values[small]).max() < 4 * lam


def test_first_states_are_the_standards() -> None:
    """coded_block_pattern without coded neighbours at QP 39 of a P slice: (m, n) = (-23, 67), state 53 of the less probable 1 (9.3.1.1)."""
    state = cabac.slice_states(cabac.FLAGS[cabac.PATTERN], torch.full((1, 4), 39.2), torch.tensor([[True, True, False, True]]))
    assert state[0, 3].item() == pytest.approx(0.5 * (0.01875 / 0.5) ** (53 / 63), rel=1e-4)
    intra = cabac.slice_states(cabac.FLAGS[cabac.PATTERN], torch.full((1, 4), 39.2), torch.ones(1, 4, dtype=torch.bool))
    assert intra[0, 3] > state[0, 3]  # an I slice has tables of its own


def test_states_adapt_as_one_decision_after_the_other_would() -> None:
    """Runs of equal decisions: the closed form is the step of Table 9-44 taken so often."""
    hits, seen = torch.zeros(1, 5, 1), torch.zeros(1, 5, 1)
    hits[0, 1], seen[0, 1] = 6, 6
    seen[0, 3] = 4
    states = cabac.adapt(hits, seen, torch.full((1, 1), 0.3))[0, :, 0]
    p = 0.3
    for _ in range(6):
        p += cabac.RATE * (1 - p)
    after_ones = p
    for _ in range(4):
        p -= cabac.RATE * p
    torch.testing.assert_close(states, torch.tensor([0.3, 0.3, after_ones, after_ones, p]))


@pytest.mark.parametrize("macroblocks", [1, 2, 7, 64])
def test_states_of_many_macroblocks(macroblocks: int) -> None:
    """The parallel scan against a walk."""
    generator = torch.Generator().manual_seed(macroblocks)
    seen = torch.randint(0, 20, (2, macroblocks, 3), generator=generator).float()
    hits = (seen * torch.rand(seen.shape, generator=generator)).floor()
    start = torch.rand(2, 3, generator=generator)
    p, expected = start.clone(), []
    for i in range(macroblocks):
        expected.append(p)
        keep = (1 - cabac.RATE) ** seen[:, i]
        p = p * keep + torch.where(seen[:, i] > 0, hits[:, i] / seen[:, i].clamp(min=1), 0.0) * (1 - keep)
    torch.testing.assert_close(cabac.adapt(hits, seen, start), torch.stack(expected, 1).clamp(cabac.LEAST, 1 - cabac.LEAST))


def test_what_comes_often_gets_cheap() -> None:
    kind = cabac.LUMA
    dense, sparse = torch.ones(1, 64, 1, 16), torch.zeros(1, 64, 1, 16)
    sparse[:, ::8, 0, 5] = 1

    def bits(levels: torch.Tensor) -> torch.Tensor:
        counts = cabac.count(levels, kind, torch.ones(levels.shape[:2]))
        return cabac.level_bits(levels, kind, cabac.bits_of(cabac.adapt(*counts, first(kind))))[0, :, 0]

    a, b = bits(dense), bits(sparse)
    assert a[-1] < 16 * 1.5 < a[0]  # ones everywhere come to be expected: hardly more than their signs
    assert not b[1:8].any()
    assert (b[::8] > 1).all()
    assert bits(2 * dense).mean() > a.mean()


def test_blocks_that_are_not_coded_are_not_seen() -> None:
    levels = torch.randint(0, 3, (1, 6, 4, 64)).float()
    used = torch.tensor([[1.0, 0, 1, 0, 0, 1]])
    hits, seen = cabac.count(levels, cabac.EIGHT, used)
    assert not seen[0, [1, 3, 4]].any()
    assert (hits <= seen).all()
    assert (seen[0, [0, 2, 5]].sum(-1) > 0).all()
