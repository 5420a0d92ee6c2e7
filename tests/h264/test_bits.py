"""Bits of frames from what they are counted from."""

from __future__ import annotations

import torch

from diffcodec import rate
from diffcodec.h264 import bits


def test_features_by_hand() -> None:
    levels = torch.zeros(1, 1, 2, 256)
    levels[0, 0, 0, 0] = 3.0
    coded = torch.zeros(1, 4, 8, dtype=torch.bool)
    coded[0, 0, 0] = True
    side, busy = torch.full((1, 1, 2), 5.0), torch.zeros(1, 1, 2, dtype=torch.bool)
    octaves, nonzero = rate.terms(levels)
    sums = torch.stack([octaves, nonzero, coded.flatten(1).sum(1)], 1)
    found = bits.features(sums, coded, side, busy)
    torch.testing.assert_close(found[0], torch.tensor([2.0, 1 - torch.exp(torch.tensor(-9.0)), 1, 5, 1, 1]), atol=1e-4, rtol=0)
    busy[0, 0, 1] = True  # a macroblock that is not skipped, without residual
    assert bits.features(sums, coded, side, busy)[0, 3:5].tolist() == [10, 2]
    weights = bits.Weights(1, 2, 3, 4, 5, 6)
    torch.testing.assert_close(bits.count(torch.eye(6), weights), torch.arange(1.0, 7))
