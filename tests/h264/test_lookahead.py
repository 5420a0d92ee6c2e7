"""The lookahead: costs by kernels as by the reference, and what a plan is told of them."""

from __future__ import annotations

import pytest
import torch
from helpers import natural
from torch import Tensor

from diffcodec import backend
from diffcodec.h264.gop import Gop
from diffcodec.h264.lookahead import CostEstimator, look_ahead
from diffcodec.h264.presets import PRESETS

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def luma(n: int, h: int, w: int) -> Tensor:
    """Moving, whole numbers."""
    return (natural(1, n, h, w)[0].mean(1) * 255).round().to(DEVICE)


@pytest.mark.parametrize("use_satd", [True, False], ids=["SATD", "SAD"])
def test_lookahead(use_satd: bool) -> None:
    frames, pairs = luma(3, 48, 32), [(1, 0), (2, 0), (1, 2)]
    found = []
    for name in ("reference", "triton"):
        with backend.using(name):
            estimator = CostEstimator(frames, use_satd)
            estimator.estimate_b([(1, 0, 2)])
            estimator.estimate_p(pairs)
            cost, vectors = estimator.p_costs.get(pairs)
            b_cost, share = estimator.b_costs.get([(1, 0, 2)])
        costs = ((16 * c).round() for c in (estimator.intra, cost, b_cost))
        phases = estimator.phases if use_satd or name == "reference" else estimator.phases[:, [0, 2, 8, 10]]  # kernels have all sixteen
        found.append([estimator.half, phases, vectors, share, *costs])
    for a, b in zip(*found):
        assert (a != b).float().mean() <= (0 if DEVICE == "cpu" else 5e-3)


def test_frame_types() -> None:
    frames, types = luma(4, 32, 32), []
    for name in ("reference", "triton"):
        with backend.using(name):
            types.append(CostEstimator(frames).frame_types([range(4)], 3))
    assert types[0] == types[1]


def test_costs_of_a_plan() -> None:
    frames = luma(5, 64, 64)
    plan, costs = look_ahead(frames, [Gop("IbBbP")], 5, PRESETS["medium"])
    assert plan.types == list("IbBbP")
    assert (costs.inter <= costs.intra).all()
    assert torch.equal(costs.inter[0], costs.intra[0])
    assert costs.frame == [4, 1, 2, 3, 1, 2, 3]
    assert costs.reference == [0, 0, 0, 2, 2, 4, 4]
    torch.testing.assert_close(costs.share[1:4] + costs.share[4:7], torch.ones_like(costs.share[1:4]))
    best, vectors = costs.cheapest([4], [0])
    assert not best.any()
    assert vectors.shape == (1, 4, 4, 2)
