"""The search finds motion that is there."""

from __future__ import annotations

import torch
from helpers import natural

from diffcodec.blocks import flat_blocks
from diffcodec.ops.interpolate.reference import quarter_pel
from diffcodec.ops.motion_search import reference as search


def test_motion_is_found() -> None:
    big = natural(1, 1, 96, 112)[0, 0].mean(0) * 255
    big = big.round()
    reference, current = big[None, 16:80, 16:96], big[None, 19:83, 11:91]  # moved by (3, -5)
    phases = quarter_pel(reference)
    target = flat_blocks(current, 16)
    lam = torch.ones(1, 4, 5)
    zero = torch.zeros(1, 4, 5, 2, dtype=torch.long)
    coarse = search.full_search(current, reference, 16, 16)
    assert coarse.shape == zero.shape
    v, cost = search.refine_vectors(
        phases, torch.zeros(1, 1, 1, dtype=torch.long), current, torch.stack([zero, coarse]), zero, lam, 16, 4, True, 2
    )
    assert (v[:, 1:-1, 1:-1] == torch.tensor([12, -20])).all(-1).float().mean() > 0.8
    again = search.inter_costs(phases, torch.zeros(1, 1, 1, dtype=torch.long), target, v[None], 16, True)[0] + search.mvd_bits(v, zero)
    torch.testing.assert_close(cost, again)
